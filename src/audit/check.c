/* Is this an entry of the schema (verify.h)? Input: bytes anybody may have written. Pure. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "audit/record.h"
#include "audit/verify.h"

/* 2026-01-02T03:04:05.678Z */
static bool time_valid(const char *t)
{
	static const char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ";
	if (strlen(t) != sizeof(shape) - 1)
		return false;
	for (size_t i = 0; shape[i]; i++)
		if (shape[i] == 'd' ? !isdigit((unsigned char)t[i]) : t[i] != shape[i])
			return false;
	return true;
}

int audit_record_check(const char *json, size_t len)
{
	const char *time = NULL, *type = NULL;
	json_t *o = json_loadb(json, len, JSON_REJECT_DUPLICATES, NULL);
	int r = -EBADMSG;
	if (o && json_unpack(o, "{s:s,s:s}", "time", &time, "type", &type) == 0 &&
		time_valid(time) && audit_type_parse(type) != AUDIT_NONE)
		r = 0;
	json_decref(o);
	return r;
}
