/*
 * The book of leases: memory that guard and enforce share.
 *
 * A lease is the guard's word that one process may connect to one address until a stated time
 * without being asked about again. The guard writes which leases hold; enforce looks here before
 * each use, so cutting one short takes a store and not a message. enforce writes down each
 * connection it made, before its program hears of it; the guard makes a channel of it before it
 * looks at anything else. The memory outlives both (belayd keeps it): what one had written when it
 * was killed, the other or its successor finds.
 *
 * Each side trusts the book only as far as the other: the guard copies an entry and then checks it
 * like a message, and what a lease reaches is fixed by its mark in the kernel, not here.
 */
#pragma once

#include <stdatomic.h>

#include "base/addr.h"

#define LEASE_BOOK_MAX 1024
#define LEASE_USES_MAX 4096u /* not yet read; a power of two. When full, the guard is asked */

struct lease_use {
	uint32_t lease, generation;
	struct addr a, b;
};

struct lease_book {
	uint64_t magic;
	_Atomic uint32_t
		holds[LEASE_BOOK_MAX]; /* the generation that holds; 0: none. The guard's */
	_Atomic uint32_t head;         /* enforce's: uses written so far */
	_Atomic uint32_t tail;         /* the guard's: uses read so far */
	struct lease_use use[LEASE_USES_MAX];
};

/* A fresh one, of a fixed size. Return: its descriptor. */
int lease_book_make(void) _must_check_;
/* Maps it for good. -EBADMSG: not a book, or not of a fixed size. */
int lease_book_map(int fd, struct lease_book **ret) _must_check_;
void lease_book_unmap(struct lease_book *b);

bool lease_holds(const struct lease_book *b, uint32_t lease, uint32_t generation);
/* Room for one more use? */
bool lease_use_room(const struct lease_book *b);
/* Only when there was room. */
void lease_use_put(struct lease_book *b, const struct lease_use *u);
/* How many are unread. More than LEASE_USES_MAX: the writer is none of ours. */
uint32_t lease_uses(const struct lease_book *b);
/* The oldest unread use, until lease_use_done(). */
void lease_use_get(const struct lease_book *b, struct lease_use *ret);
void lease_use_done(struct lease_book *b, uint32_t n);
