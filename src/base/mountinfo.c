/*
 * See mountinfo.h. Input: text the kernel writes, with names in it that anybody may have chosen; it
 * is changed in place. Pure. Cost: one pass over the line.
 */
#include "base/mountinfo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Space, tab, newline and backslash are written as \ooo. */
static void unescape(char *s)
{
	char *w = s;
	for (; *s; s++) {
		if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' &&
			s[3] >= '0' && s[3] <= '7') {
			*w++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*w++ = *s;
		}
	}
	*w = '\0';
}

/* `ID PARENT DEV ROOT POINT OPTIONS … - TYPE SOURCE OPTIONS`. */
int mountinfo_next(char **text, struct mount_line *ret)
{
	char *line = *text, *end = line + strcspn(line, "\n");
	if (!*line)
		return 0;
	*text = *end ? end + 1 : end;
	*end = '\0';
	char *type = strstr(line, " - "), *point = line;
	for (int i = 0; i < 4 && point; i++)
		point = strchr(point + 1, ' ');
	if (!type || !point || point > type)
		return -EINVAL;
	type += 3;
	type[strcspn(type, " ")] = '\0';
	point++;
	point[strcspn(point, " ")] = '\0';
	unescape(point);
	*ret = (struct mount_line){.point = point, .type = type};
	(void)sscanf(line, "%d %*d %u:%u", &ret->id, &ret->major, &ret->minor);
	return 1;
}
