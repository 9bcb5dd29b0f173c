/*
 * The log of a Belay process: one line to standard error, `belay-guard[123]: text`. Processes log
 * once, at the edge; library rooms do not log. Lines caused by a peer go through log_peer(), which
 * drops beyond a rate, because a log a hostile peer can fill is a denial of service.
 */
#pragma once

#include "base/cleanup.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* `name` must outlive the process. Level from BELAY_LOG (error, warn, info, debug), default warn.
 */
void log_init(const char *name);
void log_line(enum log_level level, const char *fmt, ...) _printf_(2, 3);
/* At most LOG_PEER_PER_SECOND lines a second; what was dropped is counted in the next line. */
void log_peer(const char *fmt, ...) _printf_(1, 2);

#define LOG_PEER_PER_SECOND 10
#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
