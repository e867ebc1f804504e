/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fetch.c -- stored pages: read, decoded, verified.
 *
 * Raw pages are read one by one to where they are wanted; of coded ones the whole unit
 * is.  A page that lies in an ancestor is read from there.
 */
#include "reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "codec.h"
#include "crc32c.h"
#include "snap.h"

/* A coded unit of which pages are wanted. */
struct fetch_unit {
	const struct image *im;
	struct unit_record r;
	size_t at;		/* in f->stored */
};

enum { RAW_PAGE = UINT16_MAX };	/* fetch_from.unit: the page is not coded */

struct fetch_from {
	struct image *im;
	uint16_t unit, k;	/* page k of that unit */
	uint64_t off;		/* of its bytes in the file, or of that unit's */
};

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
	f->from = calloc(max, sizeof *f->from);
	f->unit = calloc(max, sizeof *f->unit);
	f->req.run = calloc(max, sizeof *f->req.run);
	f->req.arg = f;
	if (f->buf == NULL || f->page == NULL || f->crc == NULL || f->good == NULL ||
	    f->from == NULL || f->unit == NULL || f->req.run == NULL) {
		fetch_free(f);
		return image_no_memory(im);
	}
	fetch_reset(f);
	return 0;
}

void
fetch_free(struct image_fetch *f)
{
	if (f->decoder != NULL)
		codec_zstd->free_decoder(f->decoder);
	free(f->stored);
	free(f->plain);
	free(f->buf);
	free(f->page);
	free(f->crc);
	free(f->good);
	free(f->from);
	free(f->unit);
	free(f->req.run);
	memset(f, 0, sizeof *f);
}

void
fetch_reset(struct image_fetch *f)
{
	f->n = f->bad = 0;
	f->nunit = 0;
	f->used = 0;
	f->req.op = AIO_NONE;
	f->req.nrun = 0;
	f->req.error = 0;
	f->req.work = fetch_verify;
}

uint8_t *
fetch_data(const struct image_fetch *f, unsigned i)
{
	return f->buf + (size_t)i * f->im->head.page_size;
}

/* ---- what to read ---- */

int
fetch_is_full(const struct image_fetch *f)
{
	return f->n == f->max ||
	    (!f->serial && f->used > (size_t)f->max * f->im->head.page_size);
}

static void
add_run(struct image_fetch *f, int fd, uint8_t *buf, size_t len, uint64_t off)
{
	struct aio_run *run = f->req.run + f->req.nrun;

	if (f->req.nrun > 0 && run[-1].fd == fd && run[-1].off + run[-1].len == off &&
	    run[-1].buf + run[-1].len == buf) {
		run[-1].len += len;
		return;
	}
	run->fd = fd;
	run->buf = buf;
	run->len = len;
	run->off = off;
	f->req.nrun++;
}

/* What only coded units need. */
static int
make_room(struct image_fetch *f)
{
	if (f->decoder != NULL)
		return 0;
	free(f->stored);	/* of a first try that failed */
	free(f->plain);
	f->stored = malloc(CODED_MAX +
	    (f->serial ? 0 : (size_t)f->max * f->im->head.page_size));
	f->plain = malloc(CODED_MAX);
	f->decoder = codec_zstd->decoder();
	if (f->stored == NULL || f->plain == NULL || f->decoder == NULL)
		return image_no_memory(f->im);
	return 0;
}

static int
add_coded(struct image_fetch *f, struct image *im, const struct unit_record *r)
{
	struct fetch_unit *u = &f->unit[f->nunit];
	int err;

	if (f->nunit > 0 && u[-1].im == im && u[-1].r.off == r->off && u[-1].r.len == r->len &&
	    u[-1].r.count == r->count && u[-1].r.crc == r->crc)
		return 0;
	if ((err = make_room(f)) != 0)
		return err;
	u->im = im;
	u->r = *r;
	u->at = f->serial ? 0 : f->used;
	f->used += r->len;
	f->nunit++;
	if (!f->serial)
		add_run(f, im->fd, f->stored + u->at, r->len, r->off);
	return 0;
}

/* The slot of a page in an ancestor, which must hold what it held once. */
static int
find_in_ancestor(struct image *im, uint64_t page, uint64_t entry, struct image **from,
    uint64_t *slot)
{
	int st;

	if ((*from = im->anc_image[entry_ancestor(entry)]) == NULL)
		return SNAP_EBUG;
	if ((st = image_lookup(*from, page, slot)) < 0)
		return st;
	if (st == PAGE_STORED)
		return 0;
	image_bad_page(*from, page, "is not stored here, as another image says");
	return SNAP_EDATA;
}

int
fetch_locate(struct image *im, uint64_t page, int state, uint64_t entry, struct image **from,
    struct place *at)
{
	uint64_t slot = entry;
	int err;

	*from = im;
	if (state == PAGE_ANCESTOR &&
	    (err = find_in_ancestor(im, page, entry, from, &slot)) != 0)
		return err;
	if ((err = image_locate(*from, slot, at)) != 0)
		return err;
	if (at->page != page || (state == PAGE_ANCESTOR && at->crc != entry_crc(entry))) {
		image_bad_page(*from, page, at->page != page ?
		    "page table and unit table do not agree" :
		    "is not what it was when another image was based on it");
		return SNAP_EDATA;
	}
	return 0;
}

int
fetch_add(struct image_fetch *f, uint64_t page, int state, uint64_t entry)
{
	size_t size = f->im->head.page_size;
	struct image *im;
	struct place at;
	int err;

	if ((err = fetch_locate(f->im, page, state, entry, &im, &at)) != 0)
		return err;
	f->from[f->n].unit = RAW_PAGE;
	if (at.unit.codec == CODEC_RAW)
		add_run(f, im->data_fd, fetch_data(f, f->n), size, at.unit.off + at.k * size);
	else if ((err = add_coded(f, im, &at.unit)) == 0)
		f->from[f->n].unit = (uint16_t)(f->nunit - 1);
	else
		return err;
	f->req.op = AIO_READ;
	f->from[f->n].im = im;
	f->from[f->n].k = (uint16_t)at.k;
	f->from[f->n].off = at.unit.off + (at.unit.codec == CODEC_RAW ? at.k * size : 0);
	f->page[f->n] = page;
	f->crc[f->n++] = at.crc;
	return 0;
}

/* ---- in the worker ---- */

/* The pages of u, to out.  0, or -1: it is not what was saved, or cannot be read. */
static int
decode(struct image_fetch *f, const struct fetch_unit *u, uint8_t *out)
{
	uint8_t *in = f->stored + u->at;
	int err;

	if (f->serial && (err = io_pread(u->im->fd, in, u->r.len, u->r.off)) != 0) {
		f->req.error = err;
		f->req.error_fd = u->im->fd;
		f->req.error_off = u->r.off;
		return -1;
	}
	if (crc32c(0, in, u->r.len) != u->r.crc)
		return -1;
	return codec_zstd->decode(f->decoder, in, u->r.len, out,
	    (u->r.count + 1u) * (size_t)f->im->head.page_size);
}

/* Are the pages from i on all of their unit, in order? */
static int
is_whole(const struct image_fetch *f, unsigned i, const struct fetch_unit *u)
{
	unsigned k, n = u->r.count + 1u;

	if (f->from[i].k != 0 || f->n - i < n)
		return 0;
	for (k = 0; k < n; k++)
		if (f->from[i + k].unit != f->from[i].unit || f->from[i + k].k != k)
			return 0;
	return 1;
}

/* Put the coded pages where they are wanted; what cannot be decoded is not good. */
static void
decode_all(struct image_fetch *f)
{
	size_t size = f->im->head.page_size;
	unsigned i = 0, now = RAW_PAGE, n;
	const struct fetch_unit *u;
	int r, plain = 0;	/* what came of the unit in f->plain */

	while (i < f->n) {
		if (f->from[i].unit == RAW_PAGE) {
			f->good[i++] = 1;
			continue;
		}
		u = &f->unit[f->from[i].unit];
		n = is_whole(f, i, u) ? u->r.count + 1u : 1;
		if (n > 1 || u->r.count == 0) {
			r = decode(f, u, fetch_data(f, i));
		} else {
			if (now != f->from[i].unit)
				plain = decode(f, u, f->plain);
			r = plain;
			now = f->from[i].unit;
			memcpy(fetch_data(f, i), f->plain + f->from[i].k * size, size);
		}
		while (n-- > 0)
			f->good[i++] = r == 0;
	}
}

void
fetch_verify(struct aio_req *r)
{
	struct image_fetch *f = r->arg;
	size_t size = f->im->head.page_size;
	unsigned i;

	f->bad = f->n;
	decode_all(f);
	for (i = f->n; i-- > 0;) {
		if (f->good[i] && crc32c(0, f->buf + i * size, size) != f->crc[i])
			f->good[i] = 0;
		if (!f->good[i])
			f->bad = i;
	}
}

/* ---- what came of it ---- */

void
fetch_bad_page(const struct image_fetch *f, unsigned i)
{
	image_bad_bytes(f->from[i].im, f->page[i], f->from[i].off, "page fails its checksum");
}

/* The file in which a read failed. */
static const char *
failed_in(const struct image_fetch *f)
{
	const struct image *im = f->im;
	unsigned i;

	for (i = 0; i < f->n; i++)
		if (f->from[i].im->fd == f->req.error_fd ||
		    f->from[i].im->data_fd == f->req.error_fd)
			im = f->from[i].im;
	return im->path;
}

int
fetch_check(const struct image_fetch *f)
{
	if (f->req.error != 0) {
		snap_warn(f->req.error, "%s: read at offset %llu", failed_in(f),
		    (unsigned long long)f->req.error_off);
		return SNAP_ESYS;
	}
	if (f->bad < f->n) {
		fetch_bad_page(f, f->bad);
		return SNAP_EDATA;
	}
	return 0;
}
