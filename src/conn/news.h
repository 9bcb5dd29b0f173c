/*
 * What the guard is told of channels under a lease: nobody waits for it, so it is told together, a
 * few milliseconds late. At 3,000 connections a second the guard wakes some hundred times for it.
 */
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "conn.pb-c.h"
#include "conn/engine.h"

#define NEWS_MAX 64 /* of each kind in one message */
#define NEWS_MS 5   /* how long the first one waits */

struct news_used {
	uint8_t id[FRAME_CHANNEL_LEN];
	struct addr local;
};

struct news_closed {
	uint8_t id[FRAME_CHANNEL_LEN];
	char reason[64];
	struct engine_result result;
};

struct news {
	uv_timer_t timer;
	void (*tell)(void *data, Belay__ConnNews *m);
	void *data;
	size_t n_used, n_closed;
	struct news_used used[NEWS_MAX];
	struct news_closed closed[NEWS_MAX];
};

int news_init(struct news *n, uv_loop_t *loop, void (*tell)(void *data, Belay__ConnNews *m),
	void *data) _must_check_;
void news_used(struct news *n, const uint8_t id[FRAME_CHANNEL_LEN], const struct addr *local);
/* False: it is to be told at once. That a channel was tampered with never waits. */
bool news_closed(
	struct news *n, const uint8_t id[FRAME_CHANNEL_LEN], const struct engine_result *r);
/* Tells what waits, now. */
void news_flush(struct news *n);
/* There is nobody any more whom it would concern. */
void news_drop(struct news *n);
