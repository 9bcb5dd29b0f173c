/* One request, one answer on a netlink socket; the kernel answers within the send. */
#pragma once

#include <libmnl/libmnl.h>
#include <stdint.h>

#include "base/cleanup.h"

struct netlink {
	struct mnl_socket *sock; /* NULL: not open */
	uint32_t seq;
};

int netlink_open(struct netlink *n, int protocol, unsigned groups) _must_check_;
void netlink_close(struct netlink *n);
int netlink_fd(const struct netlink *n);
/* The kernel's number for the next request. */
uint32_t netlink_seq(struct netlink *n);
int netlink_send(struct netlink *n, const void *buf, size_t len) _must_check_;
/*
 * Reads answers to requests up to `seq` and hands those that are not acknowledgements to cb (may be
 * NULL: MNL_CB_OK to go on). Return: 0 after an acknowledgement, a dump's end, or `cb` returning
 * MNL_CB_STOP; the kernel's negative errno otherwise.
 */
int netlink_answer(struct netlink *n, uint32_t seq, mnl_cb_t cb, void *data) _must_check_;
/* Sends one message with NLM_F_ACK and waits for the answer. */
int netlink_talk(struct netlink *n, struct nlmsghdr *h) _must_check_;
