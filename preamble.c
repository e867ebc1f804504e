/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * preamble.c -- what a migration stream tells of the machine before its first section.
 */
#include "preamble.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"

enum {
	HEAD = 8,		/* magic, version */
	CONFIGURATION = 7,
	SUBSECTION = 5
};

static const char caps_name[] = "configuration/capabilities";
enum { CAPS_NAME = sizeof caps_name - 1, CAPS_HEAD = 2 + CAPS_NAME + 4 };

/* Bytes that the list of capabilities at p takes, of at most len; 0: not understood. */
static size_t
caps_size(const uint8_t *p, size_t len)
{
	size_t at = 4;
	uint32_t n;

	if (len < at)
		return 0;
	for (n = get_be32(p); n > 0; n--) {
		if (at >= len || p[at] + 1u > len - at)
			return 0;
		at += p[at] + 1u;
	}
	return at;
}

/* The same of the subsection at p. */
static size_t
subsection_size(const uint8_t *p, size_t len, int *is_caps)
{
	static const struct { const char *name; size_t size; } known[] = {
		{ "configuration/target-page-bits", 4 },
		{ "configuration/uuid", 16 }
	};
	size_t n = len < 2 ? 0 : p[1], head = 2 + n + 4, size, i;

	*is_caps = 0;
	if (n == 0 || head > len)
		return 0;
	if (n == CAPS_NAME && memcmp(p + 2, caps_name, n) == 0) {
		*is_caps = 1;
		size = caps_size(p + head, len - head);
		return size == 0 ? 0 : head + size;
	}
	for (i = 0; i < sizeof known / sizeof known[0]; i++)
		if (n == strlen(known[i].name) && memcmp(p + 2, known[i].name, n) == 0)
			return known[i].size > len - head ? 0 : head + known[i].size;
	return 0;
}

int
preamble_parse(struct preamble *p, const uint8_t *buf, size_t len)
{
	size_t at = HEAD + 5, name, size;
	int is_caps;

	memset(p, 0, sizeof *p);
	p->buf = buf;
	p->len = len;
	if (len < at || memcmp(buf, "QEVM\0\0\0\3", HEAD) != 0 || buf[HEAD] != CONFIGURATION)
		return -1;
	name = get_be32(buf + HEAD + 1);	/* of the machine type */
	if (name > len - at)
		return -1;
	at += name;
	for (p->caps = at; at < len && buf[at] == SUBSECTION; at += size) {
		if ((size = subsection_size(buf + at, len - at, &is_caps)) == 0)
			return -1;
		if (is_caps) {
			p->caps = at;
			p->caps_len = size;
		} else if (p->caps_len == 0 && buf[at + 1] != sizeof "configuration/uuid" - 1)
			p->caps = at + size;	/* behind the page bits, before the UUID */
	}
	return 0;
}

uint8_t *
preamble_with(const struct preamble *p, const char *capability, size_t *len)
{
	size_t n = strlen(capability), at = p->caps;
	uint8_t *out = malloc(p->len + CAPS_HEAD + 4 + 1 + n), *q = out;

	if (out == NULL)
		return NULL;
	memcpy(q, p->buf, at);
	q += at;
	if (p->caps_len > 0) {
		memcpy(q, p->buf + at, p->caps_len);
		put_be32(q + CAPS_HEAD, get_be32(q + CAPS_HEAD) + 1);
		q += p->caps_len;
	} else {
		*q++ = SUBSECTION;
		*q++ = CAPS_NAME;
		memcpy(q, caps_name, CAPS_NAME);
		put_be32(q + CAPS_NAME, 1);	/* version */
		put_be32(q + CAPS_NAME + 4, 1);	/* capabilities */
		q += CAPS_NAME + 8;
	}
	*q++ = (uint8_t)n;
	memcpy(q, capability, n);
	q += n;
	at += p->caps_len;
	memcpy(q, p->buf + at, p->len - at);
	q += p->len - at;
	*len = (size_t)(q - out);
	return out;
}
