/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * units.c -- the units of a compressed image, as they are written.
 *
 * The pages of a batch are cut into units, the last of which may be short.  A unit that
 * does not get smaller is stored as it is.  Slots are given out once: the pages of unit u
 * have those from u * unit pages on.
 *
 * Closing ranks.  A stream that repeats pages leaves dead ones in the units.  From
 * time to time, and at the end, the units behind the first dead page are read, encoded
 * anew without dead pages, and written further to the front.  Each unit becomes at most as
 * long as it was (else it stays as it is, dead pages and all), so nothing is ever written
 * over what has not been read.
 */
#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"

int
units_init(struct image_writer *w, struct batch *b)
{
	b->codec = w->opt.codec;
	b->unit_pages = w->opt.unit_pages;
	b->coded = malloc(w->head.cluster_size);
	b->scratch = malloc(w->head.cluster_size);
	b->unit = calloc(w->per_batch, sizeof *b->unit);
	b->encoder = b->codec->encoder(w->opt.level);
	return b->coded == NULL || b->scratch == NULL || b->unit == NULL ||
	    b->encoder == NULL ? -1 : 0;
}

void
units_free(struct batch *b)
{
	if (b->encoder != NULL)
		b->codec->free_encoder(b->encoder);
	if (b->decoder != NULL)
		b->codec->free_decoder(b->decoder);
	free(b->coded);
	free(b->scratch);
	free(b->unit);
}

/* Encode n pages to out, where room for them as they are is. */
static void
encode(struct batch *b, const uint8_t *pages, unsigned n, uint8_t *out, struct unit_record *r)
{
	size_t len = n * (size_t)b->page_size, k;

	r->codec = (uint8_t)b->codec->number;
	r->count = (uint8_t)(n - 1);
	if ((k = b->codec->encode(b->encoder, pages, len, out, len - 1)) == 0) {
		r->codec = CODEC_RAW;
		memcpy(out, pages, k = len);
	}
	r->len = (uint32_t)k;
	r->crc = crc32c(0, out, k);
}

void
units_encode(struct batch *b)
{
	unsigned i, n;

	b->nunit = 0;
	b->coded_len = 0;
	for (i = 0; i < b->nkept; i += n) {
		n = share_of(b->nkept, b->unit_pages, b->nunit);
		encode(b, b->buf + i * (size_t)b->page_size, n, b->coded + b->coded_len,
		    &b->unit[b->nunit]);
		b->coded_len += b->unit[b->nunit++].len;
	}
}

/* One run with all units of b, to be written at off. */
static void
set_run(struct image_writer *w, struct batch *b, uint64_t off)
{
	b->run->fd = w->data_fd;
	b->run->buf = b->coded;
	b->run->len = b->coded_len;
	b->run->off = off;
	b->req.run = b->run;
	b->req.nrun = b->coded_len > 0;
}

/* Enter a unit, all slots unused, and give its offset. */
static void
enter(struct image_writer *w, uint64_t unit, struct unit_record *r)
{
	uint8_t *leaf = w->unit_leaf[unit / w->shape.per_leaf];
	unsigned u = (unsigned)(unit % w->shape.per_leaf);

	memset(leaf + PART_HEADER + (size_t)u * w->shape.size, 0, w->shape.size);
	r->off = w->data_end;
	w->data_end += r->len;
	unit_put(&w->shape, leaf, u, r);
}

int
units_place(struct image_writer *w, struct batch *b, uint64_t slot)
{
	unsigned i;
	int err;

	if ((err = writer_check_size(w, w->data_end + b->coded_len)) != 0)
		return err;
	set_run(w, b, w->data_end);
	for (i = 0; i < b->nunit; i++)
		enter(w, slot / w->shape.pages + i, &b->unit[i]);
	w->nslots = slot + (uint64_t)b->nunit * w->shape.pages;
	return 0;
}

/* ---- closing ranks ---- */

/* The live pages of a unit that was decoded to b->buf, all together: how many; < 0: bad. */
static int
live_pages(struct batch *b, unsigned first, unsigned n)
{
	size_t size = b->page_size;
	unsigned i;
	int live = 0;

	for (i = 0; i < n; i++) {
		if (b->item[first + i] == DEAD_PAGE)
			continue;
		if (crc32c(0, b->buf + i * size, size) != b->crc[first + i])
			return -1;
		memmove(b->buf + (size_t)live++ * size, b->buf + i * size, size);
	}
	return live;
}

/*
 * Unit r at `in`, whose n slots are b's from first on, becomes what is left of it, at out,
 * which may be `in`.  0: nothing; 1: something; -1: it is not what was written.
 */
static int
shrink(struct batch *b, struct unit_record *r, unsigned first, const uint8_t *in, uint8_t *out)
{
	unsigned n = r->count + 1u, i, dead = 0;
	struct unit_record s;
	int live;

	for (i = 0; i < n; i++)
		dead += b->item[first + i] == DEAD_PAGE;
	if (crc32c(0, in, r->len) != r->crc)
		return -1;
	if (dead == n)
		return 0;
	if (dead > 0) {
		if (r->codec == CODEC_RAW)
			memcpy(b->buf, in, r->len);
		else if (b->codec->decode(b->decoder, in, r->len, b->buf,
		    n * (size_t)b->page_size) != 0)
			return -1;
		if ((live = live_pages(b, first, n)) < 0)
			return -1;
		encode(b, b->buf, (unsigned)live, b->scratch, &s);
		if (s.len <= r->len) {
			*r = s;
			memcpy(out, b->scratch, s.len);
			return 1;
		}
	}
	memmove(out, in, r->len);
	return 1;
}

static void
collect_batch(struct aio_req *req)
{
	struct batch *b = req->arg;
	unsigned u, i, n, first = 0, kept = 0, npage = 0;
	size_t in = 0, out = 0, len;
	struct unit_record r;
	int left, all;

	for (u = 0; u < b->nunit; u++, first += n, in += len) {
		r = b->unit[u];
		n = r.count + 1u;
		len = r.len;
		if ((left = shrink(b, &r, first, b->coded + in, b->coded + out)) < 0) {
			b->bad = 1;
			return;
		}
		if (left == 0)
			continue;
		out += r.len;
		all = r.count + 1u == n;	/* it stays, whatever is dead in it */
		b->unit[kept++] = r;
		for (i = 0; i < n; i++)
			if (all || b->item[first + i] != DEAD_PAGE) {
				b->item[npage] = b->item[first + i];
				b->crc[npage++] = b->crc[first + i];
			}
	}
	b->nunit = kept;
	b->coded_len = out;
}

int
units_collected(struct image_writer *w, struct batch *b)
{
	unsigned u, i, n = 0;
	uint64_t slot;

	set_run(w, b, w->data_end);
	for (u = 0; u < b->nunit; u++) {
		slot = w->to_unit * w->shape.pages;
		enter(w, w->to_unit++, &b->unit[u]);
		for (i = 0; i <= b->unit[u].count; i++, n++, slot++) {
			writer_put_slot(w, slot, b->item[n], b->crc[n]);
			if (b->item[n] == DEAD_PAGE)
				w->ndead++;
			else	/* it has an entry: this needs no memory */
				leaf_set(writer_leaf_for(w, b->item[n]),
				    (unsigned)(b->item[n] % LEAF_PAGES), PAGE_STORED, slot);
		}
	}
	writer_submit(w, b, AIO_WRITE, NULL);
	return 0;
}

/* Unit number unit, and how many of its slots are dead. */
static unsigned
look_at(const struct image_writer *w, uint64_t unit, struct unit_record *r)
{
	unsigned i, dead = 0;
	uint64_t page;
	uint32_t crc;

	unit_get(&w->shape, w->unit_leaf[unit / w->shape.per_leaf],
	    (unsigned)(unit % w->shape.per_leaf), r);
	for (i = 0; i <= r->count; i++) {
		writer_get_slot(w, unit * w->shape.pages + i, &page, &crc);
		dead += page == DEAD_PAGE;
	}
	return dead;
}

/* Units from *unit on, as many as fit, into b. */
static void
gather(struct image_writer *w, struct batch *b, uint64_t *unit, uint64_t units)
{
	struct unit_record r;
	unsigned n = 0, i;
	uint64_t off = 0;

	b->coded_len = 0;
	for (; *unit < units; ++*unit) {
		look_at(w, *unit, &r);
		if (n + r.count + 1u > w->per_batch)
			break;
		if (b->nunit == 0)
			off = r.off;
		b->unit[b->nunit++] = r;
		b->coded_len += r.len;
		for (i = 0; i <= r.count; i++, n++)
			writer_get_slot(w, *unit * w->shape.pages + i, &b->item[n], &b->crc[n]);
	}
	set_run(w, b, off);
}

int
units_collect(struct image_writer *w)
{
	struct unit_record r;
	struct batch *b;
	uint64_t units, unit = 0;
	int err;

	if (writer_finish_ring(w) != 0)
		return w->failed;
	units = w->nslots / w->shape.pages;
	while (unit < units && look_at(w, unit, &r) == 0)
		unit++;
	if (unit == units)
		return 0;
	w->to_unit = unit;
	w->data_end = r.off;
	w->ndead = 0;
	while (unit < units && w->failed == 0) {
		b = writer_take_batch(w);
		if (b->decoder == NULL && (b->decoder = b->codec->decoder()) == NULL) {
			writer_give_back(w, b);
			return writer_fail_sys(w, ENOMEM, "buffers");
		}
		b->kind = BATCH_COLLECT;
		gather(w, b, &unit, units);
		writer_submit(w, b, AIO_READ, collect_batch);
	}
	if (writer_finish_ring(w) != 0)
		return w->failed;
	w->nslots = w->to_unit * w->shape.pages;
	if ((err = io_truncate(w->fd, w->data_end)) != 0)
		return writer_fail_write(w, err, w->data_end);
	return 0;
}
