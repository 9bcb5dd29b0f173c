/*
 * What the verbs of `belay node` share: remote_node.c has init and the parsing,
 * remote_invite.c both sides of an invitation at the node that gives it, remote_join.c the node
 * that follows it.
 */
#pragma once

#include "control.pb-c.h"
#include "guard/remote.h"
#include "guard/token.h"

/* Another node, by the word of the one that lets us in. */
struct node_seen {
	char node[NAME_MAX_LEN];
	struct addr address, owns[NODE_ADDRESSES_MAX];
	size_t n_owns;
};

/* A verb that waits for signer or link. */
struct node_verb {
	struct guard *guard;
	uint64_t client;
	uint32_t uid;
	char name[NAME_MAX_LEN];
	struct addr addresses[NODE_ADDRESSES_MAX];
	size_t n_addresses;
	struct addr listen, data;
	struct token token;
	struct node_seen *seen; /* of the domain being joined; owned, REMOTE_NODES_MAX */
	size_t n_seen;
	uint64_t join; /* a stranger's: link's number */
};

struct node_verb *node_verb_new(struct guard *g, uint64_t client);
void node_verb_free(struct node_verb *v);
/* Tells the client and frees. */
void node_verb_fail(struct node_verb *v, int error, const char *what, const char *why);
/* Name and addresses of a node to be; they say what is wrong with them. */
int node_names_parse(struct node_verb *v, const Belay__NodeRequest *m) _must_check_;
int node_ports_parse(struct node_verb *v, const Belay__NodeRequest *m) _must_check_;
/* This instance is no node yet. */
int node_need_free(struct guard *g, uint64_t client) _must_check_;

/* They own the verb from here on. */
void node_verb_invite(struct node_verb *v, const Belay__NodeRequest *m);
void node_verb_join(struct node_verb *v, const Belay__NodeRequest *m);
void node_verb_remove(struct node_verb *v, const Belay__NodeRequest *m);
