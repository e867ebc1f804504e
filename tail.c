/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tail.c -- where the state of the devices ends.
 */
#include "tail.h"

#include "wire.h"

static const char page_size_key[] = "\"page_size\": ";

/* The next character of a description that may have begun. */
static void
match_page_size(struct tail *t, uint8_t ch)
{
	if (t->found == 2)
		return;
	if (t->found == 1) {
		if (ch >= '0' && ch <= '9' && t->page_size < 1 << 24)
			t->page_size = t->page_size * 10 + (uint32_t)(ch - '0');
		else
			t->found = 2;
		return;
	}
	if (ch == (uint8_t)page_size_key[t->matched])
		t->matched++;
	else
		t->matched = ch == (uint8_t)page_size_key[0];
	if (page_size_key[t->matched] == '\0')
		t->found = 1;
}

/* What it looks like: a footer, the end-of-file byte, a length, and {". */
size_t
tail_scan(struct tail *t, const uint8_t *p, size_t n, uint64_t *more)
{
	uint32_t len;
	size_t i;

	*more = 0;
	for (i = 0; i < n; i++) {
		match_page_size(t, p[i]);
		t->hi = t->hi << 8 | t->lo >> 56;
		t->lo = t->lo << 8 | p[i];
		t->len++;
		len = (uint32_t)(t->lo >> 16);
		if (t->lo >> 48 == VM_VMDESCRIPTION && (t->lo & 0xffff) == ('{' << 8 | '"') &&
		    t->len >= 13 && (t->hi >> 32 & 0xff) == VM_SECTION_FOOTER && len > 2) {
			t->split = t->len - 8;
			t->end = t->split + 6 + len;
			t->matched = 1;		/* its first character was a quote */
			t->page_size = 0;
			t->found = 0;
			*more = len - 2;
			return i + 1;
		}
	}
	return n;
}

int
tail_is_described(const struct tail *t)
{
	return t->end == t->len && (t->lo & 0xff) == '}';
}

int
tail_is_undescribed(const struct tail *t)
{
	return t->len > 6 && (t->lo & 0xff) == VM_EOF &&
	    (t->lo >> 40 & 0xff) == VM_SECTION_FOOTER;
}
