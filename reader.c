/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * reader.c -- reading a finished image.
 *
 * Header, footer, RAM map and the root of the page table are read when the
 * image is opened; nodes, page leaves and unit leaves when they are first
 * needed.  Each is checked before anything in it is used:
 *
 * R1  Every offset and length comes from a checked part and is compared with
 *     the section it must lie in.
 * R2  A page table entry and the slot it leads to must name each other.
 * R3  Memory follows what is touched, and the size of the file, never a number
 *     that the file merely claims.  Leaves that overlap would make it a multiple
 *     of the file: those held are never longer together than their table.
 */
#include "reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "crc32c.h"
#include "foreign.h"

enum {
	TOLD_MAX = 100,		/* faults of which the place is printed */
	KEPT_MAX = 16 << 20	/* bytes of a section in memory; a save takes no more either */
};

/* Is this fault to be printed?  A rotten disk must not fill another one with logs. */
static int
tell(struct image *im)
{
	im->faults++;
	if (im->told > TOLD_MAX)
		return 0;
	if (im->told++ < TOLD_MAX)
		return 1;
	snap_warnx("%s: more faults: from here on they are only counted", im->path);
	return 0;
}

int
image_bad(struct image *im, uint64_t off, const char *what)
{
	unsigned i;

	/* A damaged part of a table is met for each page that it should tell of. */
	for (i = 0; i < BAD_OFFSETS && i < im->nbad_off; i++)
		if (im->bad_off[i] == off) {
			im->faults++;
			return SNAP_EDATA;
		}
	im->bad_off[im->nbad_off++ % BAD_OFFSETS] = off;
	if (tell(im))
		snap_warnx("%s: offset %llu: %s", im->path, (unsigned long long)off, what);
	return SNAP_EDATA;
}

int
image_read_at(const struct image *im, void *buf, size_t len, uint64_t off)
{
	int err = io_pread(im->fd, buf, len, off);

	if (err == 0) {
		if (im->on_read != NULL)
			im->on_read(im->on_read_arg, len);
		return 0;
	}
	snap_warn(err, "%s: read at offset %llu", im->path, (unsigned long long)off);
	return SNAP_ESYS;
}

int
image_no_memory(const struct image *im)
{
	snap_warn(ENOMEM, "%s", im->path);
	return SNAP_ESYS;
}

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

static int
open_root(struct image *im)
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

int
image_need_leaf(struct image *im, uint64_t index, uint16_t *granules, struct page_leaf **leaf)
{
	uint32_t k = (uint32_t)(index / NODE_LEAVES), i = (uint32_t)(index % NODE_LEAVES);
	struct part want = { PART_LEAF, 0, index, 0, 0 };
	struct node *n;
	const char *why;
	uint8_t *buf;
	uint64_t at, len;
	int err;

	if ((*granules = im->node_len[k]) <= 1)
		return 0;
	if ((err = need_node(im, k)) != 0)
		return err;
	n = im->node[k];
	if ((*granules = n->len[i]) <= 1 || (*leaf = n->leaf[i]) != NULL)
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
image_is_coded(const struct image *im)
{
	return (im->head.incompat & FEATURE_CODEC) != 0;
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

int
image_lookup(struct image *im, uint64_t page, uint64_t *entry)
{
	struct page_leaf *leaf = NULL;
	uint16_t granules;
	enum page_state st;
	int err = image_need_leaf(im, page / LEAF_PAGES, &granules, &leaf);

	if (err != 0)
		return err;
	if (granules <= 1)
		return granules == 1 ? PAGE_ZERO : PAGE_ABSENT;
	st = leaf_get(leaf, (unsigned)(page % LEAF_PAGES), entry);
	if (st == PAGE_ANCESTOR && entry_ancestor(*entry) >= im->nanc) {
		image_bad_page(im, page, "lies in an ancestor that is not named");
		return SNAP_EDATA;
	}
	if (st == PAGE_STORED && *entry >= im->foot.slots) {
		image_bad_page(im, page, "page table leads outside of the data");
		return SNAP_EDATA;
	}
	return (int)st;
}

int
image_at_hand(const struct image *im, uint64_t page)
{
	uint64_t leaf = page / LEAF_PAGES;
	uint32_t k = (uint32_t)(leaf / NODE_LEAVES), i = (uint32_t)(leaf % NODE_LEAVES);
	const struct node *n = im->node[k];

	return im->node_len[k] <= 1 ||
	    (n != NULL && (n->len[i] <= 1 || n->leaf[i] != NULL));
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
		if (im->node_len[k] == 0) {
			*page = ((uint64_t)k + 1) * NODE_LEAVES * LEAF_PAGES;
			continue;
		}
		if (im->node[k] != NULL && im->node[k]->len[leaf % NODE_LEAVES] == 0) {
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
	struct page_leaf *leaf = NULL;
	uint16_t granules;
	uint64_t index;
	unsigned i;
	int err;

	while (*page < end) {
		index = *page / LEAF_PAGES;
		if (im->node_len[index / NODE_LEAVES] <= 1) {
			*page = (index / NODE_LEAVES + 1) * NODE_LEAVES * LEAF_PAGES;
			continue;
		}
		if ((err = image_need_leaf(im, index, &granules, &leaf)) != 0)
			return err;
		i = granules <= 1 ? LEAF_PAGES : leaf_next(leaf, (unsigned)(*page % LEAF_PAGES));
		*page = index * LEAF_PAGES + i;
		if (i < LEAF_PAGES && *page < end)
			return image_lookup(im, *page, entry);
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
	uint16_t granules;
	int err;

	for (; from < end; from = next) {
		leaf = from / LEAF_PAGES;
		span = LEAF_PAGES;
		if (im->node_len[leaf / NODE_LEAVES] <= 1)
			span *= NODE_LEAVES;
		next = (from / span + 1) * span;
		if (next > end)
			next = end;
		l = NULL;
		if ((err = image_need_leaf(im, leaf, &granules, &l)) != 0)
			return err;
		if (granules > 1)
			leaf_count(l, (unsigned)(from % LEAF_PAGES),
			    (unsigned)(next - leaf * LEAF_PAGES), count);
		else
			count[granules == 1 ? PAGE_ZERO : PAGE_ABSENT] += next - from;
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

const struct image *
image_holder(const struct image *im, int state, uint64_t entry)
{
	return state == PAGE_ANCESTOR ? im->anc_image[entry_ancestor(entry)] : im;
}

int
image_is_same(const struct image *a, const struct image *b)
{
	return a == b || io_same(a->fd, b->fd);
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

/* ---- ways through all pages ---- */

int
image_walk_ended(const struct image *im, const struct image_walk *w)
{
	return w->slot >= im->foot.slots &&
	    (im->foot.ancestor == 0 || w->page >= im->ram.npages);
}

int
image_step(struct image *im, struct image_walk *w, uint64_t *page, uint64_t *entry)
{
	const uint8_t *units;
	uint32_t crc, k;
	uint64_t leaf;
	int st;

	if (w->slot < im->foot.slots) {
		*entry = w->slot++;
		k = im->shape.slots;
		if ((st = image_need_units(im, *entry / k, &units)) != 0) {
			w->slot = (*entry / k + 1) * k;	/* all of the leaf */
			return st;
		}
		if ((st = image_slot(im, *entry, page, &crc)) != 0)
			return st;
		return *page != DEAD_PAGE ? PAGE_STORED : PAGE_ABSENT;
	}
	*page = w->page;
	leaf = *page / LEAF_PAGES;
	k = (uint32_t)(leaf / NODE_LEAVES);
	if (im->node_len[k] <= 1) {
		w->page = ((uint64_t)k + 1) * NODE_LEAVES * LEAF_PAGES;
		return PAGE_ABSENT;
	}
	st = image_lookup(im, *page, entry);
	/* A leaf that cannot be read, or is not there: all of it. */
	if (st < 0 || im->node[k]->len[leaf % NODE_LEAVES] <= 1)
		w->page = (leaf + 1) * LEAF_PAGES;
	else
		w->page++;
	return st < 0 || st == PAGE_ANCESTOR ? st : PAGE_ABSENT;
}

void
image_bad_page(struct image *im, uint64_t page, const char *what)
{
	const struct ram_block *b = ram_map_find(&im->ram, page);

	if (page >= im->ram.npages)
		image_bad(im, footer_section(&im->foot, SEC_UNITS)->off, what);
	else if (tell(im))
		snap_warnx("%s: block %s offset 0x%llx: %s", im->path, b->id,
		    (unsigned long long)((page - b->first) * im->head.page_size), what);
}

void
image_bad_bytes(struct image *im, uint64_t page, uint64_t off, const char *what)
{
	const struct ram_block *b = ram_map_find(&im->ram, page);

	if (tell(im))
		snap_warnx("%s: block %s offset 0x%llx: %s (file offset %llu)", im->path, b->id,
		    (unsigned long long)((page - b->first) * im->head.page_size), what,
		    (unsigned long long)off);
}

uint64_t
image_ancestor_faults(const struct image *im)
{
	uint64_t n = 0;
	unsigned i;

	for (i = 0; i < im->nanc; i++)
		if (im->anc_image[i] != NULL)
			n += im->anc_image[i]->faults;
	return n;
}

/* ---- sections ---- */

/* All of a section, in memory to be freed by the caller. */
static int
take_section(struct image *im, uint32_t type, size_t max, uint8_t **buf, size_t *len)
{
	const struct section *s = footer_section(&im->foot, type);
	int err;

	*buf = NULL;
	if (s->len > max)
		return image_bad(im, s->off, "section is longer than it can be");
	if ((*buf = malloc((size_t)s->len + 1)) == NULL)
		return image_no_memory(im);
	*len = (size_t)s->len;
	if ((err = image_read_at(im, *buf, *len, s->off)) == 0 &&
	    crc32c(0, *buf, *len) != s->crc)
		err = image_bad(im, s->off, "section fails its checksum");
	if (err != 0) {
		free(*buf);
		*buf = NULL;
	}
	return err;
}

int
image_read(struct image *im, const struct section *s, uint64_t off, void *buf, size_t len)
{
	return image_read_at(im, buf, len, s->off + off);
}

int
image_section(struct image *im, uint32_t type, uint8_t **buf, size_t *len)
{
	*buf = NULL;
	*len = 0;
	if (footer_section(&im->foot, type) == NULL)
		return 0;
	return take_section(im, type, KEPT_MAX, buf, len);
}

/* ---- open and close ---- */

/* The lengths of the sections must follow from the numbers in the footer. */
static int
check_numbers(struct image *im)
{
	const struct image_footer *f = &im->foot;
	const struct section *data = footer_section(f, SEC_DATA);
	const struct section *units = footer_section(f, SEC_UNITS);
	uint64_t n = image_units(im);
	uint64_t leaves = (n + im->shape.per_leaf - 1) / im->shape.per_leaf;
	uint64_t at = f->file_len - FOOTER_SIZE;

	if (units->len != leaves * PART_HEADER + n * im->shape.size)
		return image_bad(im, at, "unit table is not as long as it should be");
	if (!image_is_coded(im) && (data->len / im->head.page_size != f->slots ||
	    data->len % im->head.page_size != 0))
		return image_bad(im, at, "data is not as long as it should be");
	if (im->ram.npages != f->npages ||
	    !im->ram.has_addr != !(f->flags & IMAGE_IGNORE_SHARED))
		return image_bad(im, at, "RAM map and footer do not agree");
	return 0;
}

/* The tail must have its end-of-file byte where the footer says. */
static int
check_split(struct image *im)
{
	const struct section *s = footer_section(&im->foot, SEC_TAIL);
	uint8_t byte;
	int err;

	if ((err = image_read_at(im, &byte, 1, s->off + s->extra)) != 0)
		return err;
	return byte == 0 ? 0 : image_bad(im, s->off + s->extra,
	    "device state does not end where it should");
}

/* Who they are; they are opened when pages of theirs may be needed. */
static int
take_ancestors(struct image *im)
{
	const struct section *s = footer_section(&im->foot, SEC_ANCESTORS);
	const char *why;
	uint8_t *buf;
	size_t n;
	int err;

	if (s == NULL)
		return 0;
	if ((err = take_section(im, SEC_ANCESTORS, ANCESTORS_SIZE_MAX, &buf, &n)) != 0)
		return err;
	why = ancestors_decode(buf, n, &im->anc, &im->nanc);
	free(buf);
	if (why != NULL)
		return image_bad(im, s->off, why);
	im->anc_image = calloc(im->nanc + 1u, sizeof *im->anc_image);
	return im->anc == NULL || im->anc_image == NULL ? image_no_memory(im) : 0;
}

/* A second descriptor, for direct I/O, if that is wanted and can be had. */
static void
open_direct(struct image *im)
{
	int err;

	if (!(im->io_flags & IO_DIRECT) ||
	    no_direct_io(im->path, image_is_coded(im), im->head.page_size))
		return;
	if ((err = io_open(im->path, 0, IO_DIRECT, &im->data_fd)) != 0) {
		snap_warn(err, "%s: no direct I/O here", im->path);
		im->data_fd = im->fd;
	} else if (!io_same(im->data_fd, im->fd)) {	/* a save has just replaced it */
		io_close(im->data_fd);
		im->data_fd = im->fd;
	}
}

/* The file is none of ours: say what it is, if that can be told.  buf: its first bytes. */
static int
say_foreign(const struct image *im, const uint8_t *buf, size_t n, uint64_t len)
{
	const char *kind = foreign_kind(buf, n);

	if (kind != NULL)
		snap_warnx("%s: not a qemu-snap image: %s", im->path, kind);
	else if (len < HEADER_SIZE + FOOTER_SIZE)
		snap_warnx("%s: too short for a qemu-snap image", im->path);
	else
		snap_warnx("%s: offset 0: not a qemu-snap image", im->path);
	return SNAP_EDATA;
}

static int
open_header(struct image *im, uint64_t *len)
{
	uint8_t buf[HEADER_SIZE];
	const char *why;
	size_t n;
	int err;

	if ((err = io_size(im->fd, len)) != 0) {
		snap_warn(err, "%s", im->path);
		return SNAP_ESYS;
	}
	n = *len < sizeof buf ? (size_t)*len : sizeof buf;
	if ((err = image_read_at(im, buf, n, 0)) != 0)
		return err;
	if (n < HEADER_MAGIC || !header_is_image(buf))
		return say_foreign(im, buf, n, *len);
	if (n < sizeof buf) {
		snap_warnx("%s: shorter than a header: an interrupted save or a cut copy",
		    im->path);
		return SNAP_EDATA;
	}
	if ((why = header_decode(buf, &im->head)) != NULL)
		return image_bad(im, 0, why);
	return 0;
}

/* Can this qemu-snap read an image with such a header? */
static int
check_features(const struct image *im)
{
	if (features_unknown(&im->head) != 0)
		snap_warnx("%s: needs features this version does not know: 0x%llx", im->path,
		    (unsigned long long)features_unknown(&im->head));
	else if (image_is_coded(im) && codec_numbered(CODEC_ZSTD) == NULL)
		snap_warnx("%s: compressed with zstd, which this qemu-snap was built without",
		    im->path);
	else
		return 0;
	return SNAP_EDATA;
}

/* The footer; with features that are not known, no more of it than every footer has. */
static int
open_footer(struct image *im, uint64_t len)
{
	const char *(*decode)(const uint8_t *, uint64_t, const struct image_header *,
	    struct image_footer *) = features_unknown(&im->head) != 0 ? footer_identify :
	    footer_decode;
	uint8_t buf[FOOTER_SIZE];
	uint64_t at = len - FOOTER_SIZE;
	const char *why;
	int err;

	if (len < HEADER_SIZE + FOOTER_SIZE) {
		snap_warnx("%s: no footer: an interrupted save or a cut copy", im->path);
		return SNAP_EDATA;
	}
	if ((err = image_read_at(im, buf, FOOTER_SIZE, at)) != 0)
		return err;
	why = decode(buf, len, &im->head, &im->foot);
	return why != NULL ? image_bad(im, at, why) : 0;
}

static int
open_tables(struct image *im)
{
	const char *why;
	uint8_t *map;
	size_t n = 0;
	int err;

	if ((err = take_section(im, SEC_RAM_MAP, RAM_MAP_MAX, &map, &n)) != 0)
		return err;
	why = ram_map_decode(map, n, im->head.page_size, &im->ram);
	free(map);
	if (why != NULL)
		return image_bad(im, footer_section(&im->foot, SEC_RAM_MAP)->off, why);
	if (im->ram.blk == NULL)
		return image_no_memory(im);
	unit_shape(&im->shape, im->head.unit_pages);
	if ((err = check_numbers(im)) != 0 || (err = open_root(im)) != 0 ||
	    (err = check_split(im)) != 0)
		return err;
	return take_ancestors(im);
}

/* An image of which nothing has been read but what kind of file it is. */
static struct image *
open_file(const char *path, int io_flags)
{
	struct image *im = calloc(1, sizeof *im);
	int err;

	if (im == NULL || (im->path = malloc(strlen(path) + 1)) == NULL) {
		free(im);
		snap_warn(ENOMEM, "%s", path);
		return NULL;
	}
	strcpy(im->path, path);
	im->io_flags = io_flags;
	im->nunit = UNIT_CACHE;
	if ((err = io_open(path, 0, 0, &im->fd)) == 0) {
		im->data_fd = im->fd;
		return im;
	}
	if (err == EINVAL)
		snap_warnx("%s: not a regular file", path);
	else
		snap_warn(err, "%s", path);
	im->fd = im->data_fd = -1;
	image_close(im);
	return NULL;
}

struct image *
image_open(const char *path, int io_flags, int *err)
{
	struct image *im = open_file(path, io_flags);
	uint64_t len;

	*err = SNAP_ESYS;
	if (im == NULL)
		return NULL;
	if ((*err = open_header(im, &len)) == 0 && (*err = check_features(im)) == 0 &&
	    (*err = open_footer(im, len)) == 0 && (*err = open_tables(im)) == 0) {
		open_direct(im);
		return im;
	}
	image_close(im);
	return NULL;
}

struct image *
image_look(const char *path, struct image_look *how)
{
	struct image *im = open_file(path, 0);
	int err;

	memset(how, 0, sizeof *how);
	how->err = SNAP_ESYS;
	if (im == NULL)
		return NULL;
	if ((how->err = open_header(im, &how->len)) != 0) {
		image_close(im);
		return NULL;
	}
	how->err = check_features(im);
	if ((err = open_footer(im, how->len)) == 0) {
		how->has_footer = 1;
		if (features_unknown(&im->head) == 0 && (err = open_tables(im)) == 0)
			how->whole = 1;
	}
	if (err != 0)
		how->err = err;
	return im;
}

void
image_close(struct image *im)
{
	uint32_t k;
	size_t i;

	if (im == NULL)
		return;
	drop_leaves(im);
	for (k = 0; im->node != NULL && k < im->nnodes; k++)
		free(im->node[k]);
	for (i = 0; i < UNIT_CACHE; i++)
		free(im->unit[i].buf);
	for (i = 0; im->anc_image != NULL && i < im->nanc; i++)
		image_close(im->anc_image[i]);
	free(im->anc_image);
	ancestors_free(im->anc, im->nanc);
	if (im->data_fd >= 0 && im->data_fd != im->fd)
		io_close(im->data_fd);
	if (im->fd >= 0)
		io_close(im->fd);
	free(im->node);
	free(im->node_at);
	free(im->node_len);
	free(im->ram.blk);
	free(im->path);
	free(im);
}

const char *
image_path(const struct image *im)
{
	return im->path;
}

unsigned
image_ancestors(const struct image *im, const struct ancestor **list)
{
	*list = im->anc;
	return im->nanc;
}

const struct ram_map *
image_ram(const struct image *im)
{
	return &im->ram;
}

const struct image_header *
image_header(const struct image *im)
{
	return &im->head;
}

const struct image_footer *
image_footer(const struct image *im)
{
	return &im->foot;
}

uint64_t
image_with_bytes(const struct image *im)
{
	return im->foot.stored + im->foot.ancestor;
}
