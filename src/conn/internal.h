/* What the files of the engine share. Lifetimes: peer owns carriers, carrier's list holds its
 * channels; everything an event may still point to is freed at the end of the turn (engine_bury).
 */
#pragma once

#include <sys/queue.h>
#include <sys/socket.h>

#include "conn/engine.h"
#include "conn/seal.h"

#define READ_SMALL (32u * 1024) /* first read of a channel; filling it makes the channel bulk */
#define OUT_BULK \
	(256u * 1024) /* no bulk is read while more than this waits for a data connection */
#define OUT_DATA (768u * 1024) /* no data at all */
#define OUT_KEEP (512u * 1024) /* a larger buffer is given back once it is empty */
#define IN_CAPACITY (4u * FRAME_MAX)
#define EVENTS_MAX 256
#define ROUNDS_MAX 16 /* turns before libuv gets its chance */
#define TABLE_MIN 64
#define RELAY_BUFFER (64u * 1024)
#define CARRIER_DEAD_MS 8000 /* unacknowledged for so long: the network is gone */
#define DIAL_FIRST_MS 20
#define DIAL_LAST_MS 2000

enum watch_kind { WATCH_CHANNEL, WATCH_CARRIER, WATCH_PROOF, WATCH_RELAY };
/* First member of whatever has a descriptor in the epoll set. */
struct watch {
	enum watch_kind kind;
	bool dead; /* buried: events already fetched are ignored */
	STAILQ_ENTRY(watch) grave;
};

struct entry { /* of the table by id: a channel or a relay */
	LIST_ENTRY(entry) hash;
	uint8_t id[FRAME_CHANNEL_LEN];
	bool relay;
};

enum queue_kind { QUEUE_NONE, QUEUE_SMALL, QUEUE_BULK };

struct channel {
	struct watch watch;
	struct entry entry;
	struct carrier *carrier;
	LIST_ENTRY(channel) of_carrier;
	TAILQ_ENTRY(channel) ready;
	enum queue_kind queued;
	int fd;
	bool initiator, started; /* started: the data connection is up (initiator), OPEN was seen
				    (responder) */
	bool readable, hup, bulk;
	bool datagram;           /* datagrams, and nothing of flow control or of an end */
	bool eof;                /* the program has sent its last byte; FIN is out */
	bool fin;                /* the peer's FIN is in */
	bool shut;               /* and passed on to the program */
	bool leased;             /* opened from a reserve */
	struct reserve *reserve; /* not open yet: reserve.c */
	bool silent;             /* second half of a local pair: its end is not reported */
	uint32_t credit;         /* what we may still send */
	uint32_t granted;        /* what the peer may still send */
	uint32_t due;            /* consumed here, not yet granted again */
	uint8_t *pend;           /* what the program's socket did not take */
	uint32_t pend_at, pend_len, pend_cap;
	struct sockaddr_storage *far; /* datagrams: whom the socket is connected to */
	struct seal send, receive;
	uint64_t bytes_sent, bytes_received, last_ms, idle_ms;
};

TAILQ_HEAD(channel_queue, channel);

struct carrier {
	struct watch watch;
	struct engine *engine;
	struct peer *peer;
	uint8_t index;
	int fd;                     /* -1: down, or local */
	struct carrier *other;      /* local: where our frames go */
	bool up, readable, blocked; /* blocked: the socket is full */
	struct proof *proof;        /* dialing */
	uint64_t redial_at, backoff_ms;
	uint8_t *in;
	size_t in_len;
	uint8_t *out;
	size_t out_at, out_len, out_cap;
	LIST_HEAD(, channel) channels;
	struct channel_queue small, bulk;
	struct channel *last; /* of the frame before this one: saves the look-up */
};

struct peer {
	struct watch grave; /* for the grave only */
	LIST_ENTRY(peer) link;
	char node[PREAMBLE_NAME_MAX + 1], self[PREAMBLE_NAME_MAX + 1];
	uint8_t dialer_key[32], acceptor_key[32];
	bool we_dial, retired;
	struct addr data;
	struct carrier carriers[ENGINE_CARRIERS];
};

LIST_HEAD(entry_list, entry);
LIST_HEAD(peer_list, peer);
LIST_HEAD(proof_list, proof);
STAILQ_HEAD(watch_list, watch);

struct engine {
	uv_loop_t *loop;
	uv_poll_t *poll;
	uv_idle_t *idle; /* runs while a turn left work behind */
	uv_timer_t *timer;
	uint64_t timer_at; /* 0: not armed */
	int epoll;
	struct engine_ops ops;
	void *data;
	struct engine_limits limits;
	struct seal_limits seal_limits;
	uint64_t now; /* ms, once a turn */
	uint8_t table_key[16];
	struct entry_list *table;
	size_t table_size, n_entries, n_proofs, n_peers;
	uint64_t pending, unknown_frames, rekeys;
	struct peer_list peers;
	struct peer *local;
	struct proof_list proofs;
	struct watch_list graves;
	uint8_t *relay_buffer;
	bool quiet; /* being freed: nothing is reported */
};

/* engine.c */
int engine_watch(struct engine *e, int fd, struct watch *w, enum watch_kind kind) _must_check_;
void engine_unwatch(struct engine *e, int fd);
void engine_bury(struct engine *e, struct watch *w);
void engine_schedule(struct engine *e, uint64_t at_ms);
void engine_wake(struct engine *e);
struct entry *table_find(struct engine *e, const uint8_t *id);
struct channel *table_find_channel(struct engine *e, const uint8_t *id, const struct carrier *c);
int table_add(struct engine *e, struct entry *en) _must_check_;
void table_remove(struct engine *e, struct entry *en);
struct channel *entry_channel(struct entry *en); /* NULL: none, or a relay */
/* Takes *fd when it succeeds; with `reserve` there may be none yet, and it is not watched. */
int channel_new(struct engine *e, const struct engine_channel *in, struct carrier *c,
	bool initiator, int *fd, struct reserve *reserve) _must_check_;
void fd_reset(int fd); /* closes with a TCP reset */
void fd_tune(int fd);

/* peer.c */
struct peer *peer_find(struct engine *e, const char *node);
/* NULL: too many, or a name too long. */
struct peer *peer_new(struct engine *e, const char *node, const char *self);
bool peer_used(const struct peer *p);
void peer_free(struct engine *e, struct peer *p);

/* channel.c */
void channel_start(struct engine *e, struct channel *ch);
void channel_pump(struct engine *e, struct channel *ch, uint32_t max);
void channel_event(struct engine *e, struct channel *ch, uint32_t events);
void channel_frame(
	struct engine *e, struct channel *ch, const struct frame_header *h, uint8_t *frame);
/* reset: what the other side is told, FRAME_RESET_NONE: nothing. */
void channel_close(
	struct engine *e, struct channel *ch, enum frame_reset reset, const char *reason);

/* datagram.c */
#define DATAGRAMS_MAX 32 /* of one channel in one turn */
/* Whom fd is connected to; the caller frees. */
int datagram_far(int fd, struct sockaddr_storage **ret) _must_check_;
/* One datagram, but none of anybody else: -EAGAIN when there is none, -EXDEV for a stranger's. */
ssize_t datagram_receive(int fd, const struct sockaddr_storage *far, void *buf, size_t len);
/* 0: sent, or dropped because there is no room. Negative: nobody is there any more. */
int datagram_send(int fd, const void *buf, size_t len) _must_check_;
void datagram_pump(struct engine *e, struct channel *ch, uint32_t max);
void datagram_frame(struct engine *e, struct channel *ch, const uint8_t *body, uint32_t len);

/* carrier.c */
void carrier_init(struct carrier *c, struct engine *e, struct peer *p, uint8_t index);
void carrier_up(struct carrier *c, int fd);
void carrier_down(struct carrier *c, const char *why, bool tampered);
void carrier_event(struct carrier *c, uint32_t events);
/* Room for a frame of len bytes of body at the end of the output; NULL: out of memory. */
uint8_t *carrier_reserve(struct carrier *c, uint32_t len);
void carrier_ready(struct carrier *c, struct channel *ch);
void carrier_unready(struct carrier *c, struct channel *ch);
/* Reads, relays what is ready, sends. Return: whether it could go on at once. */
bool carrier_turn(struct carrier *c);
void carrier_release(struct carrier *c);

/* proof.c */
void proof_accept(struct engine *e, int fd);
void proof_dial(struct carrier *c);
void proof_event(struct engine *e, struct proof *p, uint32_t events);
void proof_free(struct engine *e, struct proof *p);
uint64_t proofs_tick(struct engine *e, uint64_t next);
void proofs_forget(struct engine *e, const struct peer *q);
void proofs_drop(struct engine *e);

/* reserve.c */
/* OPEN has come for a reserved channel. Return: false when it was closed. */
bool reserve_open(struct engine *e, struct channel *ch);
void reserve_free(struct channel *ch);

/* relay.c */
struct relay;
void relay_event(struct engine *e, struct watch *w, uint32_t events);
void relay_close(struct engine *e, struct entry *en, const char *reason);
/* Does what is due; when something is next. */
uint64_t relay_tick(struct engine *e, struct entry *en);
void relay_flow(struct engine *e, struct entry *en, struct engine_flow *f);
