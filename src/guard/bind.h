/* The table of bound addresses: bind_table.c has the rules, bind.c the questions. */
#pragma once

#include "guard/guard.h"

int binds_init(struct guard *g) _must_check_;
void binds_deinit(struct guard *g);
/* Every entry: fn may remove the one it is given. */
void bind_each(
	struct guard *g, void (*fn)(struct guard *g, struct bind *b, const void *x), const void *x);
/* Whether two bound addresses of one transport meet: a connection to the one could land at the
 * other. */
bool bind_overlap(const struct addr *a, bool a_v6only, const struct addr *b, bool b_v6only);
/* An entry of another principal that overlaps, or NULL. Port 0 overlaps nothing. */
struct bind *bind_conflict(struct guard *g, Belay__Transport transport, const struct addr *a,
	bool v6only, uint64_t principal);
/* Copies the template into the table; its subject is borrowed. */
struct bind *bind_insert(struct guard *g, const struct bind *template);
/* Moves an entry whose address became known. */
void bind_rename(struct guard *g, struct bind *b, const struct addr *addr);
void bind_remove(struct guard *g, struct bind *b);
struct bind *bind_by_inode(struct guard *g, uint64_t inode);
struct bind *bind_unseen_at(struct guard *g, Belay__Transport transport, const struct addr *a);
struct bind *bind_at(
	struct guard *g, Belay__Transport transport, const struct addr *a, bool listening);
/* The socket at that name is gone from the kernel. */
void bind_socket_gone(struct guard *g, Belay__Transport transport, const struct addr *a,
	uint64_t inode, bool listener);
/* What is asked of the policy for it: its address, with port 0 where the kernel chose the port. */
struct addr bind_asked(const struct bind *b);
void bind_judge(struct guard *g, const char *reason);
/* Orders the end of the socket and removes the entry; channels to it end too. */
void bind_end(struct guard *g, struct bind *b, const char *reason);
/* Mirrors a changed entry into the state table. */
/* Its socket is gone, and with it the entry, its record, its grants and its published port. */
void bind_drop(struct guard *g, struct bind *b);
int bind_record(struct guard *g, struct bind *b) _must_check_;
