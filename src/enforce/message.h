/*
 * What a thread wants to send, by sendto(2), sendmsg(2) or the first of sendmmsg(2), on a Unix
 * datagram socket. Good only when call_valid() holds afterwards.
 */
#pragma once

#include <sys/uio.h>

#include "enforce/enforce.h"
#include "enforce/parse.h"

#define PARTS_MAX 64

struct message {
	struct sockaddr_un to;
	socklen_t to_len; /* 0: where it is connected to */
	struct iovec part[PARTS_MAX];
	size_t n_parts;
	uint64_t control, control_len;
	int flags;
};

int message_read(const struct request *r, struct message *m) _must_check_;
/* Where it goes, when it does not say. */
int message_peer(const struct request *r, struct message *m) _must_check_;
int message_data(pid_t tid, const struct message *m, uint8_t data[DATAGRAM_MAX],
	size_t *ret_len) _must_check_;
/*
 * Descriptors that go with it, as duplicates for fds_discard(), also when it fails. What else it
 * says of itself the kernel would check: nothing here is taken from it.
 */
int message_rights(
	pid_t tid, const struct message *m, int fds[RIGHTS_MAX], size_t *ret_n) _must_check_;
