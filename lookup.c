/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lookup.c -- where a page lies: the tables of a finished image.
 *
 * Nodes, page leaves and unit leaves are read when they are first needed.
 *
 * R1  Every offset and length comes from a checked part and is compared with
 *     the section it must lie in.
 * R2  A page table entry and the slot it leads to must name each other.
 * R3  Memory follows what is touched, and the size of the file, never a number
 *     that the file merely claims.  Leaves that overlap would make it a multiple
 *     of the file: those held are never longer together than their table.
 */
#include "reader.h"

#include <stdlib.h>

#include "bytes.h"
#include "codec.h"
#include "snap.h"

/* Read and check a part of the section sec. */
static int
read_part(struct image *im, uint32_t sec, uint64_t off, uint64_t len,
    uint8_t *buf, struct part *want)
{
	const struct section *s = footer_section(&im->foot, sec);
	const char *why;
	int err;

	if (off < s->off || off > s->off + s->len || len > s->off + s->len - off ||
	    len > PART_MAX)
		return image_bad(im, off, "table part outside of its table");
	if ((err = image_read_at(im, buf, (size_t)len, off)) != 0)
		return err;
	want->tag = im->foot.tag;
	if ((why = part_check(buf, (size_t)len, want)) != NULL)
		return image_bad(im, off, why);
	return 0;
}

/* Take count lengths out of a node or the root; padding must be zero. */
static int
take_lengths(struct image *im, const uint8_t *buf, size_t size, uint64_t off,
    uint32_t count, const struct part *p, uint16_t *len)
{
	size_t end = PART_HEADER + 8 + 2 * (size_t)count, i;

	if (p->count != count || size != (end + GRANULE - 1) / GRANULE * GRANULE)
		return image_bad(im, off, "node of another length than its table needs");
	for (i = 0; i < count; i++)
		len[i] = get_le16(buf + PART_HEADER + 8 + 2 * i);
	for (i = end; i < size; i++)
		if (buf[i] != 0)
			return image_bad(im, off, "padding of a node is not zero");
	return 0;
}

uint64_t
image_part_len(uint16_t granules)
{
	return granules > 1 ? (uint64_t)granules * GRANULE : 0;
}

int
image_open_root(struct image *im)
{
	const struct section *s = footer_section(&im->foot, SEC_ROOT);
	struct part want = { PART_ROOT, 0, 0, 0, 0 };
	uint8_t *buf = malloc(PART_MAX);
	uint64_t at;
	uint32_t i;
	int err;

	im->nleaves = (im->ram.npages + LEAF_PAGES - 1) / LEAF_PAGES;
	im->nnodes = (uint32_t)((im->nleaves + NODE_LEAVES - 1) / NODE_LEAVES);
	im->node_at = calloc((size_t)im->nnodes + 1, sizeof *im->node_at);
	im->node_len = calloc((size_t)im->nnodes + 1, sizeof *im->node_len);
	im->node = calloc((size_t)im->nnodes + 1, sizeof *im->node);
	if (buf == NULL || im->node_at == NULL || im->node_len == NULL ||
	    im->node == NULL)
		err = image_no_memory(im);
	else if ((err = read_part(im, SEC_ROOT, s->off, s->len, buf, &want)) == 0)
		err = take_lengths(im, buf, (size_t)s->len, s->off, im->nnodes, &want,
		    im->node_len);
	if (err == 0) {
		at = get_le64(buf + PART_HEADER);
		for (i = 0; i < im->nnodes; i++) {
			im->node_at[i] = at;
			at += image_part_len(im->node_len[i]);
		}
	}
	free(buf);
	return err;
}

/* Node k, read if it was not yet.  Its length MUST be more than 1. */
static int
need_node(struct image *im, uint32_t k)
{
	struct part want = { PART_NODE, 0, k, 0, 0 };
	uint32_t count = share_of(im->nleaves, NODE_LEAVES, k), i;
	uint64_t len = image_part_len(im->node_len[k]), at;
	struct node *n;
	uint8_t *buf;
	int err;

	if (im->node[k] != NULL)
		return 0;
	n = calloc(1, sizeof *n);
	buf = malloc(PART_MAX);
	if (n == NULL || buf == NULL)
		err = image_no_memory(im);
	else if ((err = read_part(im, SEC_NODES, im->node_at[k], len, buf, &want)) == 0)
		err = take_lengths(im, buf, (size_t)len, im->node_at[k], count, &want,
		    n->len);
	if (err == 0) {
		at = get_le64(buf + PART_HEADER);
		for (i = 0; i < count; i++) {
			if (i % 64 == 0)
				n->at[i / 64] = at;
			at += image_part_len(n->len[i]);
		}
		im->node[k] = n;
	} else
		free(n);
	free(buf);
	return err;
}

uint64_t
image_leaf_at(const struct node *n, uint32_t i)
{
	uint64_t at = n->at[i / 64];
	uint32_t k;

	for (k = i / 64 * 64; k < i; k++)
		at += image_part_len(n->len[k]);
	return at;
}

static void
drop_leaves(struct image *im)
{
	uint32_t k;
	size_t i;

	for (k = 0; im->node != NULL && k < im->nnodes; k++)
		for (i = 0; im->node[k] != NULL && i < NODE_LEAVES; i++) {
			leaf_free(im->node[k]->leaf[i]);
			im->node[k]->leaf[i] = NULL;
		}
	im->held = 0;
}

void
image_drop_tables(struct image *im)
{
	uint32_t k;
	size_t i;

	drop_leaves(im);
	for (k = 0; im->node != NULL && k < im->nnodes; k++)
		free(im->node[k]);
	for (i = 0; i < UNIT_CACHE; i++)
		free(im->unit[i].buf);
	free(im->node);
	free(im->node_at);
	free(im->node_len);
}

void
image_keep_few_leaves(struct image *im)
{
	im->little = 1;
}

void
image_keep_little(struct image *im)
{
	image_keep_few_leaves(im);
	im->nunit = LITTLE_UNITS;
}

/* The state of all pages below something of this length, which has no part in the file. */
static int
state_of_all(uint16_t granules)
{
	return granules == ALL_ZERO ? PAGE_ZERO : PAGE_ABSENT;
}

int
image_need_leaf(struct image *im, uint64_t index, struct page_leaf **leaf)
{
	uint32_t k = (uint32_t)(index / NODE_LEAVES), i = (uint32_t)(index % NODE_LEAVES);
	struct part want = { PART_LEAF, 0, index, 0, 0 };
	struct node *n;
	const char *why;
	uint8_t *buf;
	uint64_t at, len;
	int err;

	*leaf = NULL;
	if (im->node_len[k] <= ALL_ZERO)
		return state_of_all(im->node_len[k]);
	if ((err = need_node(im, k)) != 0)
		return err;
	n = im->node[k];
	if (n->len[i] <= ALL_ZERO)
		return state_of_all(n->len[i]);
	if ((*leaf = n->leaf[i]) != NULL)
		return 0;
	if (im->little && im->held > LITTLE_LEAVES)
		drop_leaves(im);
	if ((buf = malloc(PART_MAX)) == NULL)
		return image_no_memory(im);
	at = image_leaf_at(n, i);
	len = image_part_len(n->len[i]);
	err = read_part(im, SEC_PAGES, at, len, buf, &want);
	if (err == 0 && len > footer_section(&im->foot, SEC_PAGES)->len - im->held)
		err = image_bad(im, at, "page leaves overlap");
	if (err == 0) {
		*leaf = n->leaf[i] = leaf_decode(buf, (size_t)len,
		    share_of(im->ram.npages, LEAF_PAGES, index), &why);
		if (*leaf == NULL)
			err = why == NULL ? image_no_memory(im) : image_bad(im, at, why);
		else
			im->held += len;
	}
	free(buf);
	return err;
}

uint64_t
image_units(const struct image *im)
{
	return (im->foot.slots + im->shape.pages - 1) / im->shape.pages;
}

int
image_need_units(struct image *im, uint64_t index, const uint8_t **leaf)
{
	const struct section *s = footer_section(&im->foot, SEC_UNITS);
	struct unit_leaf *c = &im->unit[index % im->nunit];
	uint64_t off = s->off + index * im->shape.leaf_size;
	struct part want = { PART_UNITS, 0, index, 0, 0 };
	uint32_t n = share_of(image_units(im), im->shape.per_leaf, index);
	int err;

	*leaf = c->buf;
	if (c->buf != NULL && c->index == index)
		return 0;
	if (c->buf == NULL && (c->buf = malloc(PART_MAX)) == NULL)
		return image_no_memory(im);
	c->index = UINT64_MAX;
	*leaf = c->buf;
	err = read_part(im, SEC_UNITS, off, PART_HEADER + (uint64_t)n * im->shape.size,
	    c->buf, &want);
	if (err == 0 && want.count != n)
		err = image_bad(im, off, "unit leaf with units too many or too few");
	if (err == 0)
		c->index = index;
	return err;
}

/* What page is, as its leaf has it. */
static int
state_in(struct image *im, const struct page_leaf *leaf, uint64_t page, uint64_t *entry)
{
	int st = (int)leaf_get(leaf, (unsigned)(page % LEAF_PAGES), entry);

	if (st == PAGE_ANCESTOR && entry_ancestor(*entry) >= im->nanc) {
		image_bad_page(im, page, "lies in an ancestor that is not named");
		return SNAP_EDATA;
	}
	if (st == PAGE_STORED && *entry >= im->foot.slots) {
		image_bad_page(im, page, "page table leads outside of the data");
		return SNAP_EDATA;
	}
	return st;
}

int
image_lookup(struct image *im, uint64_t page, uint64_t *entry)
{
	struct page_leaf *leaf;
	int st = image_need_leaf(im, page / LEAF_PAGES, &leaf);

	return leaf == NULL ? st : state_in(im, leaf, page, entry);
}

int
image_at_hand(const struct image *im, uint64_t page)
{
	uint64_t leaf = page / LEAF_PAGES;
	uint32_t k = (uint32_t)(leaf / NODE_LEAVES), i = (uint32_t)(leaf % NODE_LEAVES);
	const struct node *n = im->node[k];

	return im->node_len[k] <= ALL_ZERO ||
	    (n != NULL && (n->len[i] <= ALL_ZERO || n->leaf[i] != NULL));
}

int
image_next_present(struct image *im, uint64_t *page, uint64_t *entry)
{
	uint64_t leaf;
	uint32_t k;
	int st;

	while (*page < im->ram.npages) {
		leaf = *page / LEAF_PAGES;
		k = (uint32_t)(leaf / NODE_LEAVES);
		if (im->node_len[k] == ALL_ABSENT) {
			*page = ((uint64_t)k + 1) * NODE_LEAVES * LEAF_PAGES;
			continue;
		}
		if (im->node[k] != NULL && im->node[k]->len[leaf % NODE_LEAVES] == ALL_ABSENT) {
			*page = (leaf + 1) * LEAF_PAGES;
			continue;
		}
		if ((st = image_lookup(im, *page, entry)) != PAGE_ABSENT)
			return st;
		++*page;
	}
	return PAGE_ABSENT;
}

int
image_next_bytes(struct image *im, uint64_t *page, uint64_t end, uint64_t *entry)
{
	struct page_leaf *leaf;
	uint64_t index;
	unsigned i;
	int st;

	while (*page < end) {
		index = *page / LEAF_PAGES;
		if (im->node_len[index / NODE_LEAVES] <= ALL_ZERO) {
			*page = (index / NODE_LEAVES + 1) * NODE_LEAVES * LEAF_PAGES;
			continue;
		}
		if ((st = image_need_leaf(im, index, &leaf)) < 0)
			return st;
		i = leaf == NULL ? LEAF_PAGES : leaf_next(leaf, (unsigned)(*page % LEAF_PAGES));
		*page = index * LEAF_PAGES + i;
		if (i < LEAF_PAGES && *page < end)
			return state_in(im, leaf, *page, entry);
	}
	*page = end;
	return PAGE_ABSENT;
}

int
image_left_out(struct image *im, const struct ram_block *b)
{
	uint64_t page = b->first, entry;
	int state;

	if (!(im->foot.flags & IMAGE_IGNORE_SHARED))
		return 0;
	if ((state = image_next_present(im, &page, &entry)) < 0)
		return state;
	return state == PAGE_ABSENT || page - b->first >= b->len / im->head.page_size;
}

int
image_count(struct image *im, uint64_t from, uint64_t n, uint64_t count[4])
{
	uint64_t end = from + n, leaf, span, next;
	struct page_leaf *l;
	int st;

	for (; from < end; from = next) {
		leaf = from / LEAF_PAGES;
		span = LEAF_PAGES;
		if (im->node_len[leaf / NODE_LEAVES] <= ALL_ZERO)
			span *= NODE_LEAVES;
		next = (from / span + 1) * span;
		if (next > end)
			next = end;
		if ((st = image_need_leaf(im, leaf, &l)) < 0)
			return st;
		if (l != NULL)
			leaf_count(l, (unsigned)(from % LEAF_PAGES),
			    (unsigned)(next - leaf * LEAF_PAGES), count);
		else
			count[st] += next - from;
	}
	return 0;
}

/* The slot's entry in the unit table, and its unit's record; at->page is DEAD_PAGE if no page
 * lies there. */
static int
slot_record(struct image *im, uint64_t slot, struct place *at)
{
	unsigned i = (unsigned)(slot % im->shape.slots);
	const uint8_t *leaf;
	int err;

	if ((err = image_need_units(im, slot / im->shape.slots, &leaf)) != 0)
		return err;
	slot_get(&im->shape, leaf, i, &at->page, &at->crc);
	unit_get(&im->shape, leaf, i / im->shape.pages, &at->unit);
	at->k = i % im->shape.pages;
	if (at->page == DEAD_PAGE && image_is_coded(im))
		return 0;
	if (at->k > at->unit.count && image_is_coded(im))
		at->page = DEAD_PAGE;
	else if (at->page >= im->ram.npages)
		return image_bad(im, footer_section(&im->foot, SEC_UNITS)->off,
		    "unit table names a page the guest does not have");
	return 0;
}

int
image_slot(struct image *im, uint64_t slot, uint64_t *page, uint32_t *crc)
{
	struct place at = { DEAD_PAGE, 0, { 0, 0, 0, 0, 0 }, 0 };
	int err = slot_record(im, slot, &at);

	*page = at.page;
	*crc = at.crc;
	return err;
}

int
image_crc(struct image *im, uint64_t page, int state, uint64_t entry, uint32_t *crc)
{
	uint64_t there;
	int err;

	*crc = entry_crc(entry);
	if (state == PAGE_ANCESTOR)
		return 0;
	if ((err = image_slot(im, entry, &there, crc)) != 0 || there == page)
		return err;
	image_bad_page(im, page, "page table and unit table do not agree");
	return SNAP_EDATA;
}

const char *
image_unit_fault(const struct image *im, const struct unit_record *r)
{
	const struct section *data = footer_section(&im->foot, SEC_DATA);
	uint32_t size = im->head.page_size, whole = (r->count + 1u) * size;

	if (r->codec != CODEC_RAW && (r->codec != CODEC_ZSTD || !image_is_coded(im)))
		return "coded in a way this version does not know";
	if (r->count >= im->shape.pages || r->off < data->off ||
	    r->off - data->off > data->len || r->len > data->len - (r->off - data->off))
		return "unit table leads outside of the data";
	if (r->codec == CODEC_RAW ? r->len != whole : r->len == 0 || r->len >= whole)
		return "unit of an impossible length";
	if (!image_is_coded(im) && r->off % size != 0)
		return "unit that does not begin with a page";
	return NULL;
}

int
image_locate(struct image *im, uint64_t slot, struct place *at)
{
	const char *why;
	uint64_t back;
	int err;

	if ((err = slot_record(im, slot, at)) != 0)
		return err;
	if (at->page != DEAD_PAGE && (err = image_lookup(im, at->page, &back)) < 0)
		return err;
	if (at->page == DEAD_PAGE || err != PAGE_STORED || back != slot) {
		image_bad_page(im, at->page, "page table and unit table do not agree");
		return SNAP_EDATA;
	}
	why = image_unit_fault(im, &at->unit);
	if (why == NULL && at->k > at->unit.count)
		why = "unit table leads outside of the data";
	if (why != NULL) {
		image_bad_page(im, at->page, why);
		return SNAP_EDATA;
	}
	return 0;
}
