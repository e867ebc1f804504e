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
#include "image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"

enum {
	UNIT_CACHE = 64,	/* unit leaves kept: 4 MiB */
	TOLD_MAX = 100		/* faults of which the place is printed */
};

/* A node in memory: where each of its leaves lies, and those that were read. */
struct node {
	uint64_t at[NODE_LEAVES / 64];	/* offset of each 64th leaf */
	uint16_t len[NODE_LEAVES];
	struct page_leaf *leaf[NODE_LEAVES];
};

struct unit_leaf {
	uint64_t index;
	uint8_t *buf;		/* NULL: nothing cached here */
};

struct image {
	char *path;
	int fd, data_fd;
	struct image_header head;
	struct image_footer foot;
	struct ram_map ram;
	struct unit_shape shape;
	uint64_t nleaves;
	uint32_t nnodes;
	uint64_t *node_at;	/* offset of each node, 0: see node_len */
	uint16_t *node_len;
	struct node **node;
	uint64_t held;		/* bytes in the file of the page leaves in memory */
	struct unit_leaf unit[UNIT_CACHE];
	unsigned told;		/* faults of which the place was printed */
};

/* Is this fault to be printed?  A rotten disk must not fill another one with logs. */
static int
tell(struct image *im)
{
	if (im->told > TOLD_MAX)
		return 0;
	if (im->told++ < TOLD_MAX)
		return 1;
	snap_warnx("%s: more faults: from here on they are only counted", im->path);
	return 0;
}

static int
bad(struct image *im, uint64_t off, const char *what)
{
	if (tell(im))
		snap_warnx("%s: offset %llu: %s", im->path, (unsigned long long)off, what);
	return SNAP_EDATA;
}

static int
read_at(const struct image *im, void *buf, size_t len, uint64_t off)
{
	int err = io_pread(im->fd, buf, len, off);

	if (err == 0)
		return 0;
	snap_warn(err, "%s: read at offset %llu", im->path, (unsigned long long)off);
	return SNAP_ESYS;
}

static int
no_memory(const struct image *im)
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
		return bad(im, off, "table part outside of its table");
	if ((err = read_at(im, buf, (size_t)len, off)) != 0)
		return err;
	want->tag = im->foot.tag;
	if ((why = part_check(buf, (size_t)len, want)) != NULL)
		return bad(im, off, why);
	return 0;
}

/* Take count lengths out of a node or the root; padding must be zero. */
static int
take_lengths(struct image *im, const uint8_t *buf, size_t size, uint64_t off,
    uint32_t count, const struct part *p, uint16_t *len)
{
	size_t end = PART_HEADER + 8 + 2 * (size_t)count, i;

	if (p->count != count || size != (end + GRANULE - 1) / GRANULE * GRANULE)
		return bad(im, off, "node of another length than its table needs");
	for (i = 0; i < count; i++)
		len[i] = get_le16(buf + PART_HEADER + 8 + 2 * i);
	for (i = end; i < size; i++)
		if (buf[i] != 0)
			return bad(im, off, "padding of a node is not zero");
	return 0;
}

static uint64_t
part_len(uint16_t granules)
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
		err = no_memory(im);
	else if ((err = read_part(im, SEC_ROOT, s->off, s->len, buf, &want)) == 0)
		err = take_lengths(im, buf, (size_t)s->len, s->off, im->nnodes, &want,
		    im->node_len);
	if (err == 0) {
		at = get_le64(buf + PART_HEADER);
		for (i = 0; i < im->nnodes; i++) {
			im->node_at[i] = at;
			at += part_len(im->node_len[i]);
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
	uint64_t len = part_len(im->node_len[k]), at;
	struct node *n;
	uint8_t *buf;
	int err;

	if (im->node[k] != NULL)
		return 0;
	n = calloc(1, sizeof *n);
	buf = malloc(PART_MAX);
	if (n == NULL || buf == NULL)
		err = no_memory(im);
	else if ((err = read_part(im, SEC_NODES, im->node_at[k], len, buf, &want)) == 0)
		err = take_lengths(im, buf, (size_t)len, im->node_at[k], count, &want,
		    n->len);
	if (err == 0) {
		at = get_le64(buf + PART_HEADER);
		for (i = 0; i < count; i++) {
			if (i % 64 == 0)
				n->at[i / 64] = at;
			at += part_len(n->len[i]);
		}
		im->node[k] = n;
	} else
		free(n);
	free(buf);
	return err;
}

/* Where leaf i of n lies. */
static uint64_t
leaf_at(const struct node *n, uint32_t i)
{
	uint64_t at = n->at[i / 64];
	uint32_t k;

	for (k = i / 64 * 64; k < i; k++)
		at += part_len(n->len[k]);
	return at;
}

/* Leaf number index, read if it was not yet; granules: what its node says. */
static int
need_leaf(struct image *im, uint64_t index, uint16_t *granules, struct page_leaf **leaf)
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
	if ((buf = malloc(PART_MAX)) == NULL)
		return no_memory(im);
	at = leaf_at(n, i);
	len = part_len(n->len[i]);
	err = read_part(im, SEC_PAGES, at, len, buf, &want);
	if (err == 0 && len > footer_section(&im->foot, SEC_PAGES)->len - im->held)
		err = bad(im, at, "page leaves overlap");
	if (err == 0) {
		*leaf = n->leaf[i] = leaf_decode(buf, (size_t)len,
		    share_of(im->ram.npages, LEAF_PAGES, index), &why);
		if (*leaf == NULL)
			err = why == NULL ? no_memory(im) : bad(im, at, why);
		else
			im->held += len;
	}
	free(buf);
	return err;
}

/* Unit leaf number index, through the cache. */
static int
need_units(struct image *im, uint64_t index, const uint8_t **leaf)
{
	const struct section *s = footer_section(&im->foot, SEC_UNITS);
	struct unit_leaf *c = &im->unit[index % UNIT_CACHE];
	uint64_t off = s->off + index * im->shape.leaf_size;
	uint64_t units = (im->foot.slots + im->shape.pages - 1) / im->shape.pages;
	struct part want = { PART_UNITS, 0, index, 0, 0 };
	uint32_t n = share_of(units, im->shape.per_leaf, index);
	int err;

	*leaf = c->buf;
	if (c->buf != NULL && c->index == index)
		return 0;
	if (c->buf == NULL && (c->buf = malloc(PART_MAX)) == NULL)
		return no_memory(im);
	c->index = UINT64_MAX;
	*leaf = c->buf;
	err = read_part(im, SEC_UNITS, off, PART_HEADER + (uint64_t)n * im->shape.size,
	    c->buf, &want);
	if (err == 0 && want.count != n)
		err = bad(im, off, "unit leaf with units too many or too few");
	if (err == 0)
		c->index = index;
	return err;
}

int
image_lookup(struct image *im, uint64_t page, uint64_t *slot)
{
	struct page_leaf *leaf = NULL;
	uint16_t granules;
	enum page_state st;
	int err = need_leaf(im, page / LEAF_PAGES, &granules, &leaf);

	if (err != 0)
		return err;
	if (granules <= 1)
		return granules == 1 ? PAGE_ZERO : PAGE_ABSENT;
	st = leaf_get(leaf, (unsigned)(page % LEAF_PAGES), slot);
	if (st == PAGE_ANCESTOR) {
		image_bad_page(im, page, "lies in another image, which this version cannot follow");
		return SNAP_EDATA;
	}
	if (st == PAGE_STORED && *slot >= im->foot.slots) {
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
image_next_present(struct image *im, uint64_t *page, uint64_t *slot)
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
		if ((st = image_lookup(im, *page, slot)) != PAGE_ABSENT)
			return st;
		++*page;
	}
	return PAGE_ABSENT;
}

int
image_slot(struct image *im, uint64_t slot, uint64_t *page, uint32_t *crc)
{
	const uint8_t *leaf;
	int err;

	if ((err = need_units(im, slot / im->shape.slots, &leaf)) != 0)
		return err;
	slot_get(&im->shape, leaf, (unsigned)(slot % im->shape.slots), page, crc);
	if (*page >= im->ram.npages)
		return bad(im, footer_section(&im->foot, SEC_UNITS)->off,
		    "unit table names a page the guest does not have");
	return 0;
}

/* Where the page in slot lies, its CRC; checked against the page's own entry. */
static int
locate(struct image *im, uint64_t slot, uint64_t *page, uint32_t *crc, uint64_t *off)
{
	const struct section *data = footer_section(&im->foot, SEC_DATA);
	uint64_t back, index = slot / im->shape.slots;
	unsigned i = (unsigned)(slot % im->shape.slots);
	struct unit_record r;
	const uint8_t *leaf;
	int err;

	if ((err = image_slot(im, slot, page, crc)) != 0)
		return err;
	if ((err = image_lookup(im, *page, &back)) < 0)
		return err;
	if (err != PAGE_STORED || back != slot) {
		image_bad_page(im, *page, "page table and unit table do not agree");
		return SNAP_EDATA;
	}
	if ((err = need_units(im, index, &leaf)) != 0)
		return err;
	unit_get(&im->shape, leaf, i / im->shape.pages, &r);
	if (r.codec != 0) {
		image_bad_page(im, *page, "coded in a way this version does not know");
		return SNAP_EDATA;
	}
	if (i % im->shape.pages > r.count || r.count >= im->shape.pages ||
	    r.len != (r.count + 1u) * im->head.page_size ||
	    r.off < data->off || r.off % im->head.page_size != 0 ||
	    r.off - data->off > data->len || r.len > data->len - (r.off - data->off)) {
		image_bad_page(im, *page, "unit table leads outside of the data");
		return SNAP_EDATA;
	}
	*off = r.off + (uint64_t)(i % im->shape.pages) * im->head.page_size;
	return 0;
}

/* ---- fetches ---- */

static void
verify_fetch(struct aio_req *r)
{
	struct image_fetch *f = r->arg;
	size_t size = f->im->head.page_size;
	unsigned i;

	f->bad = f->n;
	for (i = f->n; i-- > 0;) {
		f->good[i] = crc32c(0, f->buf + i * size, size) == f->crc[i];
		if (!f->good[i])
			f->bad = i;
	}
}

int
fetch_init(struct image_fetch *f, struct image *im, unsigned max)
{
	memset(f, 0, sizeof *f);
	f->im = im;
	f->max = max;
	f->buf = io_alloc((size_t)max * im->head.page_size);
	f->page = calloc(max, sizeof *f->page);
	f->crc = calloc(max, sizeof *f->crc);
	f->good = calloc(max, sizeof *f->good);
	f->req.run = calloc(max, sizeof *f->req.run);
	f->req.arg = f;
	if (f->buf == NULL || f->page == NULL || f->crc == NULL || f->good == NULL ||
	    f->req.run == NULL) {
		fetch_free(f);
		return no_memory(im);
	}
	fetch_reset(f);
	return 0;
}

void
fetch_free(struct image_fetch *f)
{
	free(f->buf);
	free(f->page);
	free(f->crc);
	free(f->good);
	free(f->req.run);
	memset(f, 0, sizeof *f);
}

void
fetch_reset(struct image_fetch *f)
{
	f->n = f->bad = 0;
	f->req.op = AIO_NONE;
	f->req.nrun = 0;
	f->req.error = 0;
	f->req.work = verify_fetch;
}

uint8_t *
fetch_data(const struct image_fetch *f, unsigned i)
{
	return f->buf + (size_t)i * f->im->head.page_size;
}

int
fetch_add(struct image_fetch *f, uint64_t slot)
{
	size_t size = f->im->head.page_size;
	struct aio_run *run = f->req.run + f->req.nrun;
	uint64_t off;
	int err;

	if ((err = locate(f->im, slot, &f->page[f->n], &f->crc[f->n], &off)) != 0)
		return err;
	f->req.op = AIO_READ;
	f->req.fd = f->im->data_fd;
	if (f->req.nrun > 0 && run[-1].off + run[-1].len == off)
		run[-1].len += size;
	else {
		run->buf = fetch_data(f, f->n);
		run->len = size;
		run->off = off;
		f->req.nrun++;
	}
	f->n++;
	return 0;
}

int
fetch_check(const struct image_fetch *f)
{
	if (f->req.error != 0) {
		snap_warn(f->req.error, "%s: read at offset %llu", f->im->path,
		    (unsigned long long)f->req.error_off);
		return SNAP_ESYS;
	}
	if (f->bad < f->n) {
		image_bad_page(f->im, f->page[f->bad], "page fails its checksum");
		return SNAP_EDATA;
	}
	return 0;
}

/* ---- scans ---- */

enum {
	SCAN_DEPTH = 8,		/* fetches: the disk has work while the owner sends */
	SCAN_SIZE = 256 << 10	/* bytes of a fetch: all together stay in the cache */
};

struct image_scan {
	struct image *im;
	struct aio *ring;
	uint64_t next;		/* slot */
	unsigned *faults;	/* go on after damage, and count it; or NULL */
	struct image_fetch fetch[SCAN_DEPTH], *out, *idle[SCAN_DEPTH];
	unsigned nidle;
};

struct image_scan *
scan_new(struct image *im, unsigned threads, unsigned *faults)
{
	struct image_scan *s = calloc(1, sizeof *s);
	unsigned max = SCAN_SIZE / im->head.page_size, i;

	if (s == NULL) {
		no_memory(im);
		return NULL;
	}
	s->im = im;
	s->faults = faults;
	if ((s->ring = aio_new(threads, SCAN_DEPTH)) == NULL) {
		no_memory(im);
		goto bad;
	}
	for (i = 0; i < SCAN_DEPTH; i++) {
		if (fetch_init(&s->fetch[i], im, max) != 0)
			goto bad;
		s->idle[s->nidle++] = &s->fetch[i];
	}
	return s;
bad:
	scan_free(s);
	return NULL;
}

/* Submit as many fetches as there are buffers. */
static int
fill_scan(struct image_scan *s)
{
	struct image_fetch *f;
	int err;

	while (s->nidle > 0 && s->next < s->im->foot.slots) {
		f = s->idle[--s->nidle];
		fetch_reset(f);
		while (f->n < f->max && s->next < s->im->foot.slots) {
			err = fetch_add(f, s->next++);
			if (err == SNAP_EDATA && s->faults != NULL)
				++*s->faults;
			else if (err != 0) {
				s->idle[s->nidle++] = f;
				return err;
			}
		}
		aio_submit(s->ring, &f->req);
	}
	return 0;
}

int
scan_next(struct image_scan *s, struct image_fetch **f)
{
	struct aio_req *r;
	int err;

	if (s->out != NULL)
		s->idle[s->nidle++] = s->out;
	s->out = NULL;
	if ((err = fill_scan(s)) != 0)
		return err;
	if ((r = aio_wait(s->ring)) == NULL)
		return 0;
	*f = s->out = r->arg;
	return 1;
}

void
scan_free(struct image_scan *s)
{
	unsigned i;

	if (s == NULL)
		return;
	aio_free(s->ring);
	for (i = 0; i < SCAN_DEPTH; i++)
		fetch_free(&s->fetch[i]);
	free(s);
}

void
image_bad_page(struct image *im, uint64_t page, const char *what)
{
	const struct ram_block *b = ram_map_find(&im->ram, page);

	if (tell(im))
		snap_warnx("%s: block %s offset 0x%llx: %s", im->path, b->id,
		    (unsigned long long)((page - b->first) * im->head.page_size), what);
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
		return bad(im, s->off, "section is longer than it can be");
	if ((*buf = malloc((size_t)s->len + 1)) == NULL)
		return no_memory(im);
	*len = (size_t)s->len;
	if ((err = read_at(im, *buf, *len, s->off)) == 0 &&
	    crc32c(0, *buf, *len) != s->crc)
		err = bad(im, s->off, "section fails its checksum");
	if (err != 0) {
		free(*buf);
		*buf = NULL;
	}
	return err;
}

int
image_read(struct image *im, const struct section *s, uint64_t off, void *buf, size_t len)
{
	return read_at(im, buf, len, s->off + off);
}

/* Check a section that has a checksum as a whole, without holding it. */
static int
check_section(struct image *im, const struct section *s)
{
	uint8_t buf[16384];
	uint64_t done;
	uint32_t crc = 0;
	size_t n;
	int err;

	for (done = 0; done < s->len; done += n) {
		n = s->len - done < sizeof buf ? (size_t)(s->len - done) : sizeof buf;
		if ((err = read_at(im, buf, n, s->off + done)) != 0)
			return err;
		crc = crc32c(crc, buf, n);
	}
	return crc == s->crc ? 0 : bad(im, s->off, "section fails its checksum");
}

int
image_check_sections(struct image *im, unsigned *faults)
{
	uint32_t i;
	int err;

	for (i = 0; i < im->foot.nsec; i++) {
		if (im->foot.sec[i].type < SEC_WHOLE)
			continue;
		err = check_section(im, &im->foot.sec[i]);
		if (err == SNAP_EDATA && faults != NULL)
			++*faults;
		else if (err != 0)
			return err;
	}
	return 0;
}

/* ---- checking it all ---- */

/* The gap between header and data must be zero. */
static int
check_gap(struct image *im)
{
	uint8_t buf[4096];
	uint64_t off;
	size_t i;
	int err;

	for (off = HEADER_SIZE; off < im->head.data_off; off += sizeof buf) {
		if ((err = read_at(im, buf, sizeof buf, off)) != 0)
			return err;
		for (i = 0; i < sizeof buf; i++)
			if (buf[i] != 0)
				return bad(im, off + i, "padding is not zero");
	}
	return 0;
}

/* Every unit record must be what the slots in it say. */
static int
check_unit(struct image *im, const uint8_t *leaf, uint64_t index,
    const struct crc32c_join *join)
{
	const struct unit_shape *us = &im->shape;
	uint64_t slot = index * us->pages;
	unsigned u = (unsigned)(index % us->per_leaf);
	uint64_t at = footer_section(&im->foot, SEC_UNITS)->off +
	    index / us->per_leaf * us->leaf_size + PART_HEADER + (uint64_t)u * us->size;
	const struct section *data = footer_section(&im->foot, SEC_DATA);
	uint32_t n = share_of(im->foot.slots, us->pages, slot / us->pages), i, crc, all = 0;
	struct unit_record r;
	uint64_t page;

	unit_get(us, leaf, u, &r);
	for (i = 0; i < us->pages; i++) {
		slot_get(us, leaf, u * us->pages + i, &page, &crc);
		if (i >= n && (page != 0 || crc != 0))
			return bad(im, at, "unused slot of a unit is not zero");
		if (i < n)
			all = i == 0 ? crc : crc32c_join(join, all, crc);
	}
	if (r.codec != 0)
		return bad(im, at, "unit coded in a way this version does not know");
	if (r.off != data->off + slot * im->head.page_size ||
	    r.count != n - 1 || r.len != n * im->head.page_size || r.crc != all)
		return bad(im, at, "unit record and its slots do not agree");
	return 0;
}

static int
check_units(struct image *im, unsigned *faults)
{
	const struct unit_shape *us = &im->shape;
	uint64_t units = (im->foot.slots + us->pages - 1) / us->pages, i;
	struct crc32c_join join;
	const uint8_t *leaf;
	int err;

	crc32c_join_init(&join, im->head.page_size);
	for (i = 0; i < units; i++) {
		err = need_units(im, i / us->per_leaf, &leaf);
		if (err == SNAP_EDATA) {	/* one fault, the whole leaf */
			++*faults;
			i = (i / us->per_leaf + 1) * us->per_leaf - 1;
			continue;
		}
		if (err == 0)
			err = check_unit(im, leaf, i, &join);
		if (err == SNAP_ESYS)
			return err;
		*faults += err != 0;
	}
	return 0;
}

/* Count the pages of every leaf; a table must be just as long as its parts. */
static int
check_pages(struct image *im, unsigned *faults)
{
	const struct section *leaves = footer_section(&im->foot, SEC_PAGES);
	const struct section *nodes = footer_section(&im->foot, SEC_NODES);
	uint64_t count[4] = { 0, 0, 0, 0 }, i, leaves_len = 0, nodes_len = 0;
	struct page_leaf *leaf;
	uint16_t granules;
	uint32_t n, k;
	int err;

	for (k = 0; k < im->nnodes; k++) {
		if (part_len(im->node_len[k]) > 0 && im->node_at[k] != nodes->off + nodes_len)
			*faults += bad(im, nodes->off, "nodes do not follow one another") != 0;
		nodes_len += part_len(im->node_len[k]);
	}
	for (i = 0; i < im->nleaves; i++) {
		k = (uint32_t)(i / NODE_LEAVES);
		if (im->node_len[k] <= 1) {	/* there may be thousands of these */
			count[im->node_len[k] == 1 ? PAGE_ZERO : PAGE_ABSENT] +=
			    share_of(im->ram.npages, (uint64_t)NODE_LEAVES * LEAF_PAGES, k);
			i += NODE_LEAVES - 1;
			continue;
		}
		n = share_of(im->ram.npages, LEAF_PAGES, i);
		leaf = NULL;
		err = need_leaf(im, i, &granules, &leaf);
		if (err == SNAP_ESYS)
			return err;
		if (err != 0) {
			++*faults;
			if (im->node[i / NODE_LEAVES] == NULL)	/* a node: skip all of it */
				i = (i / NODE_LEAVES + 1) * NODE_LEAVES - 1;
			continue;
		}
		if (granules > 1 && leaf_at(im->node[i / NODE_LEAVES],
		    (uint32_t)(i % NODE_LEAVES)) != leaves->off + leaves_len)
			*faults += bad(im, leaves->off,
			    "page leaves do not follow one another") != 0;
		leaves_len += part_len(granules);
		if (granules > 1)
			leaf_count(leaf, n, count);
		else
			count[granules == 1 ? PAGE_ZERO : PAGE_ABSENT] += n;
		if (granules > 1) {	/* do not keep it: memory stays small */
			leaf_free(leaf);
			im->node[i / NODE_LEAVES]->leaf[i % NODE_LEAVES] = NULL;
			im->held -= part_len(granules);
		}
	}
	if (*faults == 0 && (count[PAGE_STORED] != im->foot.stored ||
	    count[PAGE_ZERO] != im->foot.zero ||
	    count[PAGE_ANCESTOR] != im->foot.ancestor)) {
		bad(im, im->foot.file_len - FOOTER_SIZE,
		    "footer and page table do not agree on the number of pages");
		++*faults;
	}
	if (*faults == 0 && (leaves_len != leaves->len || nodes_len != nodes->len)) {
		bad(im, leaves->off,
		    "page table is longer than its leaves");
		++*faults;
	}
	return 0;
}

int
image_check_tables(struct image *im, unsigned *faults)
{
	int err;

	if ((err = check_gap(im)) != 0 && err != SNAP_EDATA)
		return err;
	*faults += err != 0;
	if ((err = image_check_sections(im, faults)) == 0 &&
	    (err = check_units(im, faults)) == 0)
		err = check_pages(im, faults);
	return err;
}

/* ---- open and close ---- */

/* The lengths of the sections must follow from the numbers in the footer. */
static int
check_numbers(struct image *im)
{
	const struct image_footer *f = &im->foot;
	const struct section *data = footer_section(f, SEC_DATA);
	const struct section *units = footer_section(f, SEC_UNITS);
	uint64_t n = (f->slots + im->shape.pages - 1) / im->shape.pages;
	uint64_t leaves = (n + im->shape.per_leaf - 1) / im->shape.per_leaf;
	uint64_t at = f->file_len - FOOTER_SIZE;

	if (units->len != leaves * PART_HEADER + n * im->shape.size)
		return bad(im, at, "unit table is not as long as it should be");
	if (data->len / im->head.page_size != f->slots ||
	    data->len % im->head.page_size != 0)
		return bad(im, at, "data is not as long as it should be");
	if (im->ram.npages != f->npages ||
	    !im->ram.has_addr != !(f->flags & IMAGE_IGNORE_SHARED))
		return bad(im, at, "RAM map and footer do not agree");
	return 0;
}

/* The tail must have its end-of-file byte where the footer says. */
static int
check_split(struct image *im)
{
	const struct section *s = footer_section(&im->foot, SEC_TAIL);
	uint8_t byte;
	int err;

	if ((err = read_at(im, &byte, 1, s->off + s->extra)) != 0)
		return err;
	return byte == 0 ? 0 : bad(im, s->off + s->extra,
	    "device state does not end where it should");
}

static int
open_parts(struct image *im, int io_flags)
{
	uint8_t buf[FOOTER_SIZE], *map;
	const char *why;
	uint64_t len;
	size_t n = 0;
	int err;

	if ((err = io_size(im->fd, &len)) != 0) {
		snap_warn(err, "%s", im->path);
		return SNAP_ESYS;
	}
	if (len < HEADER_SIZE + FOOTER_SIZE) {
		snap_warnx("%s: too short for a qemu-snap image", im->path);
		return SNAP_EDATA;
	}
	if ((err = read_at(im, buf, HEADER_SIZE, 0)) != 0)
		return err;
	if ((why = header_decode(buf, &im->head)) != NULL)
		return bad(im, 0, why);
	if (im->head.incompat != 0) {
		snap_warnx("%s: needs features this version does not know: 0x%llx%s%s",
		    im->path, (unsigned long long)im->head.incompat,
		    im->head.incompat & FEATURE_ANCESTORS ? " (a base image)" : "",
		    im->head.incompat & FEATURE_CODEC ? " (compression)" : "");
		return SNAP_EDATA;
	}
	if ((err = read_at(im, buf, FOOTER_SIZE, len - FOOTER_SIZE)) != 0)
		return err;
	if ((why = footer_decode(buf, len, &im->head, &im->foot)) != NULL)
		return bad(im, len - FOOTER_SIZE, why);
	if ((err = take_section(im, SEC_RAM_MAP, RAM_MAP_MAX, &map, &n)) != 0)
		return err;
	why = ram_map_decode(map, n, im->head.page_size, &im->ram);
	free(map);
	if (why != NULL)
		return bad(im, footer_section(&im->foot, SEC_RAM_MAP)->off, why);
	if (im->ram.blk == NULL)
		return no_memory(im);
	unit_shape(&im->shape, im->head.unit_pages);
	if ((err = check_numbers(im)) != 0 || (err = open_root(im)) != 0 ||
	    (err = check_split(im)) != 0)
		return err;
	if ((io_flags & IO_DIRECT) && im->head.page_size % 4096 != 0)
		snap_warnx("%s: no direct I/O with pages of %u bytes", im->path,
		    (unsigned)im->head.page_size);
	else if ((io_flags & IO_DIRECT) &&
	    (err = io_open(im->path, 0, IO_DIRECT, &im->data_fd)) != 0) {
		snap_warn(err, "%s: no direct I/O here", im->path);
		im->data_fd = im->fd;
	} else if (im->data_fd != im->fd && !io_same(im->data_fd, im->fd)) {
		/* A save has just replaced it. */
		io_close(im->data_fd);
		im->data_fd = im->fd;
	}
	return 0;
}

struct image *
image_open(const char *path, int io_flags, int *err)
{
	struct image *im = calloc(1, sizeof *im);
	int e;

	*err = SNAP_ESYS;
	if (im == NULL || (im->path = malloc(strlen(path) + 1)) == NULL) {
		free(im);
		snap_warn(ENOMEM, "%s", path);
		return NULL;
	}
	strcpy(im->path, path);
	if ((e = io_open(path, 0, 0, &im->fd)) != 0) {
		if (e == EINVAL)
			snap_warnx("%s: not a regular file", path);
		else
			snap_warn(e, "%s", path);
		im->fd = im->data_fd = -1;
	} else {
		im->data_fd = im->fd;
		if ((*err = open_parts(im, io_flags)) == 0)
			return im;
	}
	image_close(im);
	return NULL;
}

void
image_close(struct image *im)
{
	uint32_t k;
	size_t i;

	if (im == NULL)
		return;
	for (k = 0; im->node != NULL && k < im->nnodes; k++) {
		for (i = 0; im->node[k] != NULL && i < NODE_LEAVES; i++)
			leaf_free(im->node[k]->leaf[i]);
		free(im->node[k]);
	}
	for (i = 0; i < UNIT_CACHE; i++)
		free(im->unit[i].buf);
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
