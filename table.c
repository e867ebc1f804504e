/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * table.c -- parts of the page table and the unit table.
 *
 * T1  A leaf holds one entry for each page whose state is stored or ancestor,
 *     in the order of the pages; rank[] counts them so that an entry is found
 *     by adding up the states of less than LEAF_RANK pages.
 * T2  State bits: absent 0, zero 1, stored 2, ancestor 3.  The upper bit says
 *     that there is an entry.
 */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

enum { ENTRY_STEP = 256 };	/* entries a leaf grows by */

void
part_seal(uint8_t *buf, const struct part *p)
{
	put_le32(buf + 4, p->kind);
	put_le64(buf + 8, p->tag);
	put_le64(buf + 16, p->index);
	put_le32(buf + 24, p->len);
	put_le32(buf + 28, p->count);
	put_le32(buf, crc32c(0, buf + 4, p->len - 4));
}

const char *
part_check(const uint8_t *buf, size_t len, struct part *want)
{
	if (len < PART_HEADER)
		return "impossible length of a table part";
	if (crc32c(0, buf + 4, len - 4) != get_le32(buf))
		return "table part fails its checksum";
	if (get_le32(buf + 24) != len || get_le32(buf + 4) != want->kind ||
	    get_le64(buf + 16) != want->index)
		return "table part is not the one that belongs here";
	if (get_le64(buf + 8) != want->tag)
		return "table part belongs to another image";
	want->count = get_le32(buf + 28);
	return NULL;
}

static unsigned
state_of(const struct page_leaf *l, unsigned i)
{
	return l->state[i / 4] >> 2 * (i % 4) & 3;
}

static unsigned
ones(unsigned byte)
{
	byte = (byte & 0x55) + (byte >> 1 & 0x55);
	byte = (byte & 0x33) + (byte >> 2 & 0x33);
	return (byte & 15) + (byte >> 4);
}

/* Upper bits set in eight bytes of states, in which byte ever they are. */
static unsigned
entries_of_8(const uint8_t *p)
{
	static const uint64_t each = UINT64_C(0x0101010101010101);
	uint64_t v;

	memcpy(&v, p, sizeof v);	/* the order of bytes does not matter here */
	v = v >> 1 & each * 0x55;
	v = (v & each * 0x33) + (v >> 2 & each * 0x33);
	v = (v & each * 15) + (v >> 4 & each * 15);
	return (unsigned)(v * each >> 56);	/* the sum of all bytes: at most 32 */
}

/* Entries of pages before page i. */
static unsigned
rank(const struct page_leaf *l, unsigned i)
{
	unsigned n = l->rank[i / LEAF_RANK], b = i / LEAF_RANK * LEAF_RANK / 4;

	for (; b + 8 <= i / 4; b += 8)
		n += entries_of_8(l->state + b);
	for (; b < i / 4; b++)
		n += ones(l->state[b] & 0xaa);
	return n + ones(l->state[b] & 0xaa & ((1u << 2 * (i % 4)) - 1));
}

enum page_state
leaf_get(const struct page_leaf *l, unsigned i, uint64_t *entry)
{
	enum page_state st = (enum page_state)state_of(l, i);

	if (st >= PAGE_STORED)
		*entry = get_le40(l->ent + (size_t)rank(l, i) * ENTRY_SIZE);
	return st;
}

unsigned
leaf_next(const struct page_leaf *l, unsigned i)
{
	while (i < LEAF_PAGES && state_of(l, i) < PAGE_STORED)
		i = l->state[i / 4] & 0xaa ? i + 1 : (i / 4 + 1) * 4;
	return i;
}

int
leaf_set(struct page_leaf *l, unsigned i, enum page_state st, uint64_t entry)
{
	int had = state_of(l, i) >= PAGE_STORED, has = st >= PAGE_STORED;
	unsigned n = 0, k;
	uint8_t *p;

	if (has && !had && l->nent == l->cap) {
		p = realloc(l->ent, (size_t)(l->cap + ENTRY_STEP) * ENTRY_SIZE);
		if (p == NULL)
			return -1;
		l->ent = p;
		l->cap += ENTRY_STEP;
	}
	if (has || had)
		n = rank(l, i);
	p = l->ent == NULL ? NULL : l->ent + (size_t)n * ENTRY_SIZE;
	if (has != had) {
		if (has)
			memmove(p + ENTRY_SIZE, p, (size_t)(l->nent - n) * ENTRY_SIZE);
		else
			memmove(p, p + ENTRY_SIZE, (size_t)(l->nent - n - 1) * ENTRY_SIZE);
		l->nent += has ? 1u : ~0u;
		for (k = i / LEAF_RANK + 1; k < LEAF_PAGES / LEAF_RANK; k++)
			l->rank[k] = (uint16_t)(l->rank[k] + (has ? 1u : 0xffffu));
	}
	if (has)
		put_le40(p, entry);
	l->state[i / 4] = (uint8_t)((l->state[i / 4] & ~(3u << 2 * (i % 4))) |
	    (unsigned)st << 2 * (i % 4));
	return 0;
}

void
leaf_count(const struct page_leaf *l, unsigned from, unsigned to, uint64_t count[4])
{
	unsigned lower, upper;

	while (from < to) {
		if (from % 4 != 0 || to - from < 4) {
			count[state_of(l, from++)]++;
			continue;
		}
		lower = l->state[from / 4] & 0x55u;	/* a byte is four pages */
		upper = l->state[from / 4] >> 1 & 0x55u;
		count[PAGE_ZERO] += ones(lower & ~upper);
		count[PAGE_STORED] += ones(upper & ~lower);
		count[PAGE_ANCESTOR] += ones(lower & upper);
		count[PAGE_ABSENT] += 4 - ones(lower | upper);
		from += 4;
	}
}

size_t
leaf_size(const struct page_leaf *l)
{
	size_t n = PART_HEADER + LEAF_STATES + (size_t)l->nent * ENTRY_SIZE;

	return (n + GRANULE - 1) / GRANULE * GRANULE;
}

void
leaf_encode(const struct page_leaf *l, uint8_t *buf, uint64_t tag, uint64_t index)
{
	struct part p;
	size_t n = leaf_size(l), ent = (size_t)l->nent * ENTRY_SIZE;
	uint8_t *q = buf + PART_HEADER + LEAF_STATES;

	memcpy(buf + PART_HEADER, l->state, LEAF_STATES);
	if (ent > 0)
		memcpy(q, l->ent, ent);
	memset(q + ent, 0, n - PART_HEADER - LEAF_STATES - ent);
	p.kind = PART_LEAF;
	p.tag = tag;
	p.index = index;
	p.len = (uint32_t)n;
	p.count = l->nent;
	part_seal(buf, &p);
}

struct page_leaf *
leaf_decode(const uint8_t *buf, size_t len, unsigned npages, const char **why)
{
	struct page_leaf *l;
	unsigned i, n = 0;
	size_t at;

	*why = NULL;
	if (len < PART_HEADER + LEAF_STATES) {
		*why = "page leaf is too short";
		return NULL;
	}
	if ((l = calloc(1, sizeof *l)) == NULL)
		return NULL;
	memcpy(l->state, buf + PART_HEADER, LEAF_STATES);
	for (i = 0; i < LEAF_STATES; i++) {
		if (i % (LEAF_RANK / 4) == 0)
			l->rank[i / (LEAF_RANK / 4)] = (uint16_t)n;
		n += ones(l->state[i] & 0xaa);
	}
	for (i = npages; i < LEAF_PAGES; i++)
		if (state_of(l, i) != PAGE_ABSENT)
			*why = "page leaf describes pages the guest does not have";
	l->nent = l->cap = n;
	if (get_le32(buf + 28) != n || leaf_size(l) != len)
		*why = "page leaf has entries too many or too few";
	if (*why != NULL)
		goto bad;
	for (at = PART_HEADER + LEAF_STATES + (size_t)n * ENTRY_SIZE; at < len; at++)
		if (buf[at] != 0) {
			*why = "padding of a page leaf is not zero";
			goto bad;
		}
	if ((l->ent = malloc((size_t)n * ENTRY_SIZE + 1)) == NULL)
		goto bad;
	memcpy(l->ent, buf + PART_HEADER + LEAF_STATES, (size_t)n * ENTRY_SIZE);
	return l;
bad:
	leaf_free(l);
	return NULL;
}

void
leaf_free(struct page_leaf *l)
{
	if (l != NULL)
		free(l->ent);
	free(l);
}

void
unit_shape(struct unit_shape *s, unsigned pages)
{
	s->pages = pages;
	s->size = UNIT_RECORD + SLOT_SIZE * pages;
	s->per_leaf = (PART_MAX - PART_HEADER) / s->size;
	s->slots = s->per_leaf * pages;
	s->leaf_size = (PART_HEADER + s->per_leaf * s->size);
}

static size_t
slot_at(const struct unit_shape *s, unsigned i)
{
	return PART_HEADER + (size_t)(i / s->pages) * s->size + UNIT_RECORD +
	    (size_t)(i % s->pages) * SLOT_SIZE;
}

void
slot_get(const struct unit_shape *s, const uint8_t *buf, unsigned i, uint64_t *page, uint32_t *crc)
{
	const uint8_t *p = buf + slot_at(s, i);

	*page = get_le40(p);
	*crc = get_le32(p + 5);
}

void
slot_put(const struct unit_shape *s, uint8_t *buf, unsigned i, uint64_t page, uint32_t crc)
{
	uint8_t *p = buf + slot_at(s, i);

	put_le40(p, page);
	put_le32(p + 5, crc);
}

void
unit_get(const struct unit_shape *s, const uint8_t *buf, unsigned u, struct unit_record *r)
{
	const uint8_t *p = buf + PART_HEADER + (size_t)u * s->size;

	r->off = get_le48(p);
	r->codec = p[6];
	r->count = p[7];
	r->len = get_le32(p + 8);
	r->crc = get_le32(p + 12);
}

void
unit_put(const struct unit_shape *s, uint8_t *buf, unsigned u, const struct unit_record *r)
{
	uint8_t *p = buf + PART_HEADER + (size_t)u * s->size;

	put_le48(p, r->off);
	p[6] = r->codec;
	p[7] = r->count;
	put_le32(p + 8, r->len);
	put_le32(p + 12, r->crc);
}
