/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * json.c -- JSON, as far as we write it.
 */
#include "json.h"

#include <stdint.h>

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

void
json_string(FILE *f, const char *str)
{
	const unsigned char *s = (const unsigned char *)str;
	int n;

	putc('"', f);
	while (*s != '\0') {
		n = utf8_length(s);
		if (n == 0 || *s < ' ' || *s == 0x7f)
			fprintf(f, "\\u%04x", *s++);
		else if (*s == '"' || *s == '\\')
			fprintf(f, "\\%c", *s++);
		else
			for (; n > 0; n--)
				putc(*s++, f);
	}
	putc('"', f);
}
