/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * verify.c -- is an image whole?  Every byte of it that reading its pages does not
 * reach, and whether all its parts agree.
 */
#include "reader.h"

#include <stdlib.h>

#include "codec.h"
#include "crc32c.h"
#include "snap.h"

/* Report a fault, and count 1. */
static unsigned
fault(struct image *im, uint64_t off, const char *what)
{
	image_bad(im, off, what);
	return 1;
}

int
image_check_section(struct image *im, const struct section *s)
{
	uint8_t buf[16384];
	uint64_t done;
	uint32_t crc = 0;
	size_t n;
	int err;

	for (done = 0; done < s->len; done += n) {
		n = s->len - done < sizeof buf ? (size_t)(s->len - done) : sizeof buf;
		if ((err = image_read_at(im, buf, n, s->off + done)) != 0)
			return err;
		crc = crc32c(crc, buf, n);
	}
	return crc == s->crc ? 0 : image_bad(im, s->off, "section fails its checksum");
}

int
image_check_sections(struct image *im, unsigned *faults)
{
	uint32_t i;
	int err;

	for (i = 0; i < im->foot.nsec; i++) {
		if (im->foot.sec[i].type < SEC_WHOLE)
			continue;
		err = image_check_section(im, &im->foot.sec[i]);
		if (err == SNAP_EDATA && faults != NULL)
			++*faults;
		else if (err != 0)
			return err;
	}
	return 0;
}

/* The gap between header and data must be zero. */
static int
check_gap(struct image *im)
{
	uint8_t buf[4096];
	uint64_t off;
	size_t i;
	int err;

	for (off = HEADER_SIZE; off < im->head.data_off; off += sizeof buf) {
		if ((err = image_read_at(im, buf, sizeof buf, off)) != 0)
			return err;
		for (i = 0; i < sizeof buf; i++)
			if (buf[i] != 0)
				return image_bad(im, off + i, "padding is not zero");
	}
	return 0;
}

/* Are its stored bytes what they were?  For what no page is read of. */
static int
check_stored(struct image *im, const struct unit_record *r)
{
	uint8_t *buf = malloc(CODED_MAX);
	int err;

	if (buf == NULL)
		return image_no_memory(im);
	if ((err = image_read_at(im, buf, r->len, r->off)) == 0 &&
	    crc32c(0, buf, r->len) != r->crc)
		err = image_bad(im, r->off, "unit fails its checksum");
	free(buf);
	return err;
}

/*
 * Every unit record must be what the slots in it say, and units must follow one another;
 * *end is where the last one ended.  Pages are verified when they are read; what dead slots
 * hold, here.
 */
static int
check_unit(struct image *im, const uint8_t *leaf, uint64_t index, int data,
    const struct crc32c_join *join, uint64_t *end)
{
	const struct unit_shape *us = &im->shape;
	unsigned u = (unsigned)(index % us->per_leaf), i, n, dead = 0;
	uint64_t at = footer_section(&im->foot, SEC_UNITS)->off +
	    index / us->per_leaf * us->leaf_size + PART_HEADER + (uint64_t)u * us->size;
	struct unit_record r;
	const char *why;
	uint32_t crc, all = 0;
	uint64_t page;

	unit_get(us, leaf, u, &r);
	n = image_is_coded(im) ? r.count + 1u :
	    share_of(im->foot.slots, us->pages, index);
	for (i = 0; i < us->pages; i++) {
		slot_get(us, leaf, u * us->pages + i, &page, &crc);
		if (i >= n && (page != 0 || crc != 0))
			return image_bad(im, at, "unused slot of a unit is not zero");
		if (i < n)
			all = i == 0 ? crc : crc32c_join(join, all, crc);
		dead += i < n && page == DEAD_PAGE;
	}
	if ((why = image_unit_fault(im, &r)) != NULL)
		return image_bad(im, at, why);
	if (r.off != *end || r.count != n - 1 || (r.codec == CODEC_RAW && r.crc != all))
		return image_bad(im, at, "unit record and its slots do not agree");
	*end += r.len;
	return data && dead > 0 && image_is_coded(im) ? check_stored(im, &r) : 0;
}

static uint64_t
unit_off(const struct image *im, const uint8_t *leaf, uint64_t index)
{
	struct unit_record r;

	unit_get(&im->shape, leaf, (unsigned)(index % im->shape.per_leaf), &r);
	return r.off;
}

static int
check_units(struct image *im, int pages, unsigned *faults)
{
	const struct section *data = footer_section(&im->foot, SEC_DATA);
	const struct unit_shape *us = &im->shape;
	uint64_t units = image_units(im), i, end = data->off;
	struct crc32c_join join;
	const uint8_t *leaf;
	int err;

	crc32c_join_init(&join, im->head.page_size);
	for (i = 0; i < units; i++) {
		err = image_need_units(im, i / us->per_leaf, &leaf);
		if (err == SNAP_EDATA) {	/* one fault, the whole leaf */
			++*faults;
			i = (i / us->per_leaf + 1) * us->per_leaf - 1;
			end = UINT64_MAX;
			continue;
		}
		if (err != 0)
			return err;
		if (end == UINT64_MAX)	/* behind damage: begin anew */
			end = unit_off(im, leaf, i);
		if ((err = check_unit(im, leaf, i, pages, &join, &end)) == SNAP_ESYS)
			return err;
		if (err != 0) {
			++*faults;
			end = UINT64_MAX;
		}
	}
	if (*faults == 0 && end != data->off + data->len)
		*faults += fault(im, end, "data is longer than its units");
	return 0;
}

/* The nodes must follow one another; *len is how long they are together. */
static void
check_nodes(struct image *im, unsigned *faults, uint64_t *len)
{
	const struct section *s = footer_section(&im->foot, SEC_NODES);
	uint32_t k;

	*len = 0;
	for (k = 0; k < im->nnodes; k++) {
		if (im->node_len[k] > ALL_ZERO && im->node_at[k] != s->off + *len)
			*faults += fault(im, s->off, "nodes do not follow one another");
		*len += image_part_len(im->node_len[k]);
	}
}

/* Count the pages of leaf number index, which must lie at *at: that is then where it ends. */
static int
check_leaf(struct image *im, uint64_t index, uint64_t count[4], unsigned *faults, uint64_t *at)
{
	uint32_t n = share_of(im->ram.npages, LEAF_PAGES, index);
	uint32_t i = (uint32_t)(index % NODE_LEAVES);
	struct page_leaf *leaf;
	struct node *node;
	uint64_t len;
	int st = image_need_leaf(im, index, &leaf);

	if (leaf == NULL) {
		if (st >= 0)
			count[st] += n;
		return st < 0 ? st : 0;
	}
	node = im->node[index / NODE_LEAVES];
	if (image_leaf_at(node, i) != *at)
		*faults += fault(im, footer_section(&im->foot, SEC_PAGES)->off,
		    "page leaves do not follow one another");
	len = image_part_len(node->len[i]);
	*at += len;
	leaf_count(leaf, 0, n, count);
	/* It is not kept: memory stays small. */
	leaf_free(leaf);
	node->leaf[i] = NULL;
	im->held -= len;
	return 0;
}

/* Count the pages of every leaf; a table must be just as long as its parts. */
static int
check_pages(struct image *im, unsigned *faults)
{
	const struct section *leaves = footer_section(&im->foot, SEC_PAGES);
	uint64_t count[4] = { 0, 0, 0, 0 }, i, at = leaves->off, nodes_len;
	uint32_t k;
	int err;

	check_nodes(im, faults, &nodes_len);
	for (i = 0; i < im->nleaves; i++) {
		k = (uint32_t)(i / NODE_LEAVES);
		if (im->node_len[k] <= ALL_ZERO) {	/* there may be thousands of these */
			count[im->node_len[k] == ALL_ZERO ? PAGE_ZERO : PAGE_ABSENT] +=
			    share_of(im->ram.npages, (uint64_t)NODE_LEAVES * LEAF_PAGES, k);
			i += NODE_LEAVES - 1;
			continue;
		}
		if ((err = check_leaf(im, i, count, faults, &at)) == SNAP_ESYS)
			return err;
		if (err == 0)
			continue;
		++*faults;
		if (im->node[k] == NULL)	/* a node: skip all of it */
			i = (k + UINT64_C(1)) * NODE_LEAVES - 1;
	}
	if (*faults > 0)
		return 0;	/* what follows from them is no news */
	if (count[PAGE_STORED] != im->foot.stored || count[PAGE_ZERO] != im->foot.zero ||
	    count[PAGE_ANCESTOR] != im->foot.ancestor)
		*faults += fault(im, im->foot.file_len - FOOTER_SIZE,
		    "footer and page table do not agree on the number of pages");
	else if (at != leaves->off + leaves->len ||
	    nodes_len != footer_section(&im->foot, SEC_NODES)->len)
		*faults += fault(im, leaves->off, "page table is longer than its leaves");
	return 0;
}

int
image_check_references(struct image *im, uint64_t *seen, unsigned *faults)
{
	struct image_walk w = { 0, 0 };
	uint64_t page, entry;
	struct image *from;
	struct place at;
	int st;

	while (!image_walk_ended(im, &w)) {
		if (w.slot == im->foot.slots)	/* in the guest's order from here on */
			image_keep_few_leaves(im);
		if ((st = image_step(im, &w, &page, &entry)) > PAGE_ABSENT &&
		    (st = fetch_locate(im, page, st, entry, &from, &at)) == 0)
			++*seen;
		if (st == SNAP_EDATA)
			++*faults;
		else if (st < 0)
			return st;
	}
	return 0;
}

void
image_on_read(struct image *im, void (*fn)(void *arg, size_t len), void *arg)
{
	im->on_read = fn;
	im->on_read_arg = arg;
}

int
image_check_tables(struct image *im, int pages, unsigned *faults)
{
	int err;

	if ((err = check_gap(im)) != 0 && err != SNAP_EDATA)
		return err;
	*faults += err != 0;
	if ((err = image_check_sections(im, faults)) == 0 &&
	    (err = check_units(im, pages, faults)) == 0)
		err = check_pages(im, faults);
	return err;
}
