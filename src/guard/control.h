/* Control connections: control.c has the essay; a file for each family of requests. */
#pragma once

#include "component.pb-c.h"
#include "control.pb-c.h"
#include "guard/guard.h"

#define CONTROL_CLIENTS_MAX 128
#define CONTROL_CLIENTS_PER_UID_MAX 32
#define CONTROL_TIMEOUT_MS 60000
#define CONTROL_FDS_MAX 2

struct client {
	LIST_ENTRY(client) link;
	struct guard *guard;
	struct ipc_chan chan;
	uv_timer_t *timer;
	uint64_t id;
	uint32_t pid, uid;
	int pidfd;
	bool admin, busy;
	Belay__ControlRequest *request; /* while busy */
	int fds[CONTROL_FDS_MAX];
	size_t n_fds;
	struct process_wait *wait;
	struct subject *subject; /* the client's own program */
	struct enrolling *enrolling;
};

int controls_init(struct guard *g) _must_check_;
void controls_deinit(struct guard *g);
void control_connection(struct guard *g, const Belay__Connection *m, int *fds, size_t n_fds);
struct client *control_client(struct guard *g, uint64_t id);
/* One request as bytes, for the fuzzer: fields are checked before anything acts. */
int control_check(const Belay__ControlRequest *m, size_t n_fds);
/* A reply that is only text for people. */
void control_text(struct guard *g, uint64_t client, const char *text);

/* control_registry.c */
void control_enroll(struct client *c, const Belay__EnrollRequest *m);
void control_programs(struct client *c);
void control_unenroll(struct client *c, const Belay__UnenrollRequest *m);
void control_revoke(struct client *c, const Belay__RevokeRequest *m);
void enrolling_free(struct enrolling *e);
/* control_policy.c */
void control_policy_load(struct client *c, const Belay__PolicyLoadRequest *m);
void control_policy_show(struct client *c);
void control_explain(struct client *c, const Belay__ExplainRequest *m);
/* control_view.c */
void control_status(struct client *c);
void control_channels(struct client *c, const Belay__ChannelsRequest *m);
void control_why(struct client *c, const Belay__WhyRequest *m);
void control_whoami(struct client *c, const Belay__WhoamiRequest *m);
void control_audit(struct client *c);
void control_sealed(struct guard *g, uint64_t client); /* the log is sealed for this client */
void control_run(struct client *c, const Belay__RunRequest *m);
