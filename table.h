/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * table.h -- page leaves and unit leaves: the encoding of format.md, in
 * memory as in the file.  No I/O here.
 *
 * A page leaf tells for LEAF_PAGES consecutive pages of the guest what each is
 * and where.  A unit leaf tells for consecutive slots (places of pages in the
 * file, numbered in file order) which page lies there and its CRC.
 */
#ifndef TABLE_H
#define TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "ram.h"

enum page_state {
	PAGE_ABSENT,		/* the stream never had it */
	PAGE_ZERO,
	PAGE_STORED,		/* entry: slot number, 40 bits */
	PAGE_ANCESTOR		/* entry: CRC, 32 bits, and ancestor, 8 bits */
};

#define DEAD_PAGE	PAGES_MAX	/* page number of a slot in which no page lies (any more) */

/* The entry of a page that lies in an ancestor. */
static inline uint64_t
entry_make(unsigned ancestor, uint32_t crc)
{
	return (uint64_t)ancestor << 32 | crc;
}

static inline uint32_t
entry_crc(uint64_t entry)
{
	return (uint32_t)entry;
}

static inline unsigned
entry_ancestor(uint64_t entry)
{
	return (unsigned)(entry >> 32) & 0xff;
}

enum {
	LEAF_PAGES = 8192,
	LEAF_RANK = 256,	/* pages between two entry counts */
	LEAF_STATES = LEAF_PAGES / 4,
	NODE_LEAVES = 16384,
	ROOT_NODES = 8192,
	ENTRY_SIZE = 5,
	GRANULE = 16,		/* unit of lengths in nodes */
	PART_HEADER = 32,
	PART_MAX = 65536,	/* no part of a table is longer */
	UNIT_RECORD = 16,
	SLOT_SIZE = 9		/* page number, 40 bits; CRC, 32 bits */
};

/* What a node says of a leaf, or the root of a node, that has no part in the file; else its
 * length in granules. */
enum {
	ALL_ABSENT = 0,
	ALL_ZERO = 1
};

/* How many of whole things are in a piece, if pieces of piece things follow one
 * another: the last one may have fewer. */
static inline uint32_t
share_of(uint64_t whole, uint64_t piece, uint64_t index)
{
	uint64_t left = whole - index * piece;

	return (uint32_t)(left < piece ? left : piece);
}

/* Kinds of parts. */
enum {
	PART_LEAF = 1,
	PART_NODE = 2,
	PART_ROOT = 3,
	PART_UNITS = 4
};

/* What a part header says, its CRC apart. */
struct part {
	uint32_t kind;
	uint64_t tag;		/* the same in all parts of one image */
	uint64_t index;		/* which part of its kind */
	uint32_t len;		/* bytes, header and padding included */
	uint32_t count;		/* entries */
};

/* Write the header of a part into the first bytes of buf; p->len bytes of it
 * must be complete. */
void part_seal(uint8_t *buf, const struct part *p);
/* Check what the len bytes at buf, PART_MAX at most, are: NULL, or what is wrong. */
const char *part_check(const uint8_t *buf, size_t len, struct part *want);

/* A page leaf.  All zero bytes: every page absent. */
struct page_leaf {
	uint32_t nent, cap;
	uint16_t rank[LEAF_PAGES / LEAF_RANK];	/* entries before each 256th page */
	uint8_t state[LEAF_STATES];
	uint8_t *ent;
};

/* What page i of the leaf is; *entry is its entry, if it has one. */
enum page_state leaf_get(const struct page_leaf *l, unsigned i, uint64_t *entry);
/* The first page from page i on that has an entry, or LEAF_PAGES. */
unsigned leaf_next(const struct page_leaf *l, unsigned i);
/* Have page i be in state st, with this entry if such a page has one.  0, or -1: out of memory, and
 * nothing has changed. */
int leaf_set(struct page_leaf *l, unsigned i, enum page_state st, uint64_t entry);
/* Count pages from ... to - 1 by their states. */
void leaf_count(const struct page_leaf *l, unsigned from, unsigned to, uint64_t count[4]);
/* Bytes of the part that leaf_encode() makes; at most PART_MAX. */
size_t leaf_size(const struct page_leaf *l);
void leaf_encode(const struct page_leaf *l, uint8_t *buf, uint64_t tag, uint64_t index);
/*
 * Make a leaf of the first npages of a checked part of len bytes; on failure
 * NULL, and *why is what is wrong or NULL: out of memory.
 */
struct page_leaf *leaf_decode(const uint8_t *buf, size_t len, unsigned npages, const char **why);
void leaf_free(struct page_leaf *l);

/* Sizes of unit leaves, which follow from the unit's number of pages. */
struct unit_shape {
	unsigned pages;		/* a unit */
	unsigned size;		/* bytes a unit takes in a leaf */
	unsigned per_leaf;	/* units */
	unsigned slots;		/* slots a leaf */
	unsigned leaf_size;	/* bytes of a full leaf */
};

void unit_shape(struct unit_shape *s, unsigned pages);

struct unit_record {
	uint64_t off;		/* in the file */
	uint8_t codec;
	uint8_t count;		/* slots in use, less 1 */
	uint32_t len;		/* bytes stored */
	uint32_t crc;		/* of these */
};

/* Read and write slot i of the leaf at buf. */
void slot_get(const struct unit_shape *s, const uint8_t *buf, unsigned i,
    uint64_t *page, uint32_t *crc);
void slot_put(const struct unit_shape *s, uint8_t *buf, unsigned i, uint64_t page, uint32_t crc);
/* Read and write the record of unit u of the leaf at buf. */
void unit_get(const struct unit_shape *s, const uint8_t *buf, unsigned u, struct unit_record *r);
void unit_put(const struct unit_shape *s, uint8_t *buf, unsigned u, const struct unit_record *r);

#endif
