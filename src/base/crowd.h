/*
 * Places for strangers, shared fairly by where they come from: when all are taken, a newcomer gets
 * one from the source that holds most of them, if that is more than his own source holds. So one
 * source can keep out its own kind only. Pure; a scan of the few that wait.
 */
#pragma once

#include "base/addr.h"

/* An IPv4 address, or the 64 bits of an IPv6 address that name a network. */
bool crowd_same_source(const struct addr *a, const struct addr *b);
/* waiting: the newest first. Return: the index of the one that gives way, n: the newcomer himself.
 */
size_t crowd_gives_way(const struct addr *waiting, size_t n, const struct addr *newcomer);
