/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * json.c -- JSON, as far as we write it.
 */
#include "json.h"

#include <stdint.h>
#include <string.h>

enum { CHARACTER = 6 };		/* bytes that one takes at most */

/* Length of the valid UTF-8 sequence at s, or 0. */
static int
utf8_length(const unsigned char *s)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	int n = *s < 0x80 ? 1 : *s >> 5 == 6 ? 2 : *s >> 4 == 14 ? 3 : *s >> 3 == 30 ? 4 : 0;
	uint32_t c = n > 1 ? *s & (0x7fu >> n) : *s;
	int i;

	for (i = 1; i < n; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (n > 1 && (c < least[n] || c > 0x10ffff || c >> 11 == 0x1b))
		return 0;
	return n;
}

/* The character at *s, which is then behind it, as it stands in a string. */
static void
character(char out[CHARACTER + 1], const char **s)
{
	const unsigned char *u = (const unsigned char *)*s;
	int n = utf8_length(u);

	if (n == 0 || *u < ' ' || *u == 0x7f) {
		snprintf(out, CHARACTER + 1, "\\u%04x", *u);
		n = 1;
	} else if (*u == '"' || *u == '\\')
		snprintf(out, CHARACTER + 1, "\\%c", *u);
	else
		snprintf(out, CHARACTER + 1, "%.*s", n, *s);
	*s += n;
}

void
json_string(FILE *f, const char *str)
{
	char c[CHARACTER + 1];

	putc('"', f);
	while (*str != '\0') {
		character(c, &str);
		fputs(c, f);
	}
	putc('"', f);
}

void
json_put(char *buf, size_t size, const char *str)
{
	char c[CHARACTER + 1];
	size_t n = 1, len;

	buf[0] = '"';
	while (*str != '\0') {
		character(c, &str);
		len = strlen(c);
		if (n + len + 2 > size)
			break;
		memcpy(buf + n, c, len);
		n += len;
	}
	buf[n++] = '"';
	buf[n] = '\0';
}
