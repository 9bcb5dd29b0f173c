/* Without nodes: every address belongs to this node or to nobody. */
#include <errno.h>

#include "guard/guard.h"

int remote_init(struct guard *g, struct error *e)
{
	(void)g, (void)e;
	return 0;
}

void remote_deinit(struct guard *g)
{
	(void)g;
}

const char *remote_node_of(struct guard *g, const struct addr *a)
{
	(void)g, (void)a;
	return NULL;
}

int remote_connect(struct job *j, const char *node)
{
	(void)j, (void)node;
	return -ENETUNREACH;
}

void remote_job_gone(struct job *j)
{
	(void)j;
}

void remote_channel_ended(struct guard *g, const struct channel *c, const char *reason)
{
	(void)g, (void)c, (void)reason;
}

void remote_arrow_up(struct guard *g, enum role role)
{
	(void)g, (void)role;
}

void remote_arrow_down(struct guard *g, enum role role)
{
	(void)g, (void)role;
}

int remote_link_message(struct guard *g, const void *from_link)
{
	(void)g, (void)from_link;
	return 0;
}

int remote_conn_message(struct guard *g, const void *from_conn)
{
	(void)g, (void)from_conn;
	return 0;
}

int remote_listen_answer(struct guard *g, const void *listen)
{
	(void)g, (void)listen;
	return 0;
}

void remote_control(struct guard *g, uint64_t client, const void *node_request)
{
	(void)node_request;
	control_error(g, client, -ENOSYS, "this instance cannot join nodes");
}

void remote_status(struct guard *g, char *ret_node, size_t len)
{
	(void)g;
	if (len)
		ret_node[0] = '\0';
}
