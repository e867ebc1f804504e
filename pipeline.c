/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pipeline.c -- pages on their way into an image, and the allocator of their slots.
 *
 * The pipeline.  The owner gathers pages, and the news that a page is zero, in
 * order of arrival in a *batch*: one cluster of page bytes and a list of items.
 * A full batch makes up to three passes through the ring, and is the owner's in
 * between; batches come back in the order they were sent, so what the owner does to
 * them follows the order of arrival.
 *
 *	CRCs	 Where a CRC is quick, the owner computes it with the page still in the
 *		 processor's cache, and there is no such pass: each costs two wake-ups
 *	prepare	 With a base or a codec only.  The owner has looked up which pages the
 *		 base may have, by their CRCs; the worker reads these, compares, drops
 *		 those that are equal, and encodes the rest in units
 *	write	 Each page has got its slot and is entered in the tables.  When this is
 *		 back, the buffer is free
 *
 * There are nbatch buffers, so that many clusters are in flight at most; the owner
 * waits for the oldest one when it needs another.
 *
 * I2  Slot s of a raw image lies at data_off + s * page_size; coded units lie back to
 *     back in the order of their slots.
 * I3  Items take effect in order of arrival: of two copies of a page the later
 *     one wins, a zero included.
 * I4  Where a page lands depends on the stream alone.  A slot freed when batch
 *     b was placed may be given out from batch b + nbatch on; whatever was
 *     written to it has been reaped by then, as batch b + nbatch needed a
 *     buffer that all batches up to b had given back.  (nbatch follows from the
 *     options.)  Slots of coded units are given out once; their room is won
 *     back by units_collect(), after fixed numbers of batches.
 * I5  Before the commit the last slots are moved into free ones and the file is
 *     cut, or units close ranks if many slots are dead: none is free in a finished image,
 *     and of coded slots few are dead.
 * (I1, I6, I7: image.c)
 */
#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "crc32c.h"
#include "snap.h"

enum {
	COLLECT_EACH = 256,	/* batches between two looks at superseded pages */
	COLLECT_LEAST = 16384,	/* of these */
	FEW_DEAD = 10		/* a part of all slots that may stay: all that follows the first
				 * one would be written anew, and the guest wait for it */
};

uint64_t
writer_slot_off(const struct image_writer *w, uint64_t slot)
{
	return w->head.data_off + slot * w->head.page_size;
}

/* ---- tables ---- */

void
writer_get_slot(const struct image_writer *w, uint64_t slot, uint64_t *page, uint32_t *crc)
{
	slot_get(&w->shape, w->unit_leaf[slot / w->shape.slots],
	    (unsigned)(slot % w->shape.slots), page, crc);
}

void
writer_put_slot(struct image_writer *w, uint64_t slot, uint64_t page, uint32_t crc)
{
	slot_put(&w->shape, w->unit_leaf[slot / w->shape.slots],
	    (unsigned)(slot % w->shape.slots), page, crc);
}

/* Make room in the tables for n more slots. */
static int
grow_slots(struct image_writer *w, uint64_t n)
{
	uint64_t leaves = (w->nslots + n + w->shape.slots - 1) / w->shape.slots;
	size_t bytes = (size_t)((w->nslots + n) / 8 + 1), cap;
	void *p;

	while (w->nunit_leaf < leaves) {
		if (w->nunit_leaf == w->unit_leaf_cap) {
			cap = w->unit_leaf_cap * 2 + 64;
			p = realloc(w->unit_leaf, cap * sizeof *w->unit_leaf);
			if (p == NULL)
				return writer_fail_sys(w, ENOMEM, "unit table");
			w->unit_leaf = p;
			w->unit_leaf_cap = cap;
		}
		p = calloc(1, w->shape.leaf_size);
		if (p == NULL)
			return writer_fail_sys(w, ENOMEM, "unit table");
		w->unit_leaf[w->nunit_leaf++] = p;
	}
	if (bytes > w->free_map_size) {
		cap = bytes + bytes / 4 + 4096;
		if ((p = realloc(w->free_map, cap)) == NULL)
			return writer_fail_sys(w, ENOMEM, "free map");
		w->free_map = p;
		memset(w->free_map + w->free_map_size, 0, cap - w->free_map_size);
		w->free_map_size = cap;
	}
	return 0;
}

struct page_leaf *
writer_leaf_for(struct image_writer *w, uint64_t page)
{
	uint64_t leaf = page / LEAF_PAGES;
	struct page_leaf ***node = &w->node[leaf / NODE_LEAVES], **at;

	if (*node == NULL &&
	    (*node = calloc(NODE_LEAVES, sizeof **node)) == NULL)
		return NULL;
	at = &(*node)[leaf % NODE_LEAVES];
	if (*at == NULL)
		*at = calloc(1, sizeof **at);
	return *at;
}

/* Enter what page is now; the slot it had goes to the freed list of this batch. */
static int
set_page(struct image_writer *w, uint64_t page, enum page_state st, uint64_t entry)
{
	struct freed *fr = &w->freed[w->placed % w->nbatch];
	struct page_leaf *l = writer_leaf_for(w, page);
	unsigned i = (unsigned)(page % LEAF_PAGES);
	enum page_state old;
	uint64_t was, page_was;
	uint32_t crc;

	if (l == NULL)
		return writer_fail_sys(w, ENOMEM, "page table");
	old = leaf_get(l, i, &was);
	if (leaf_set(l, i, st, entry) != 0)
		return writer_fail_sys(w, ENOMEM, "page table");
	if (old != PAGE_STORED)
		return 0;
	writer_get_slot(w, was, &page_was, &crc);
	writer_put_slot(w, was, DEAD_PAGE, crc);
	if (w->opt.codec != NULL)
		w->ndead++;
	else
		fr->slot[fr->n++] = was;
	return 0;
}

/* ---- allocator ---- */

static void
release_freed(struct image_writer *w, struct freed *fr)
{
	uint64_t s;

	while (fr->n > 0) {
		s = fr->slot[--fr->n];
		w->free_map[s / 8] |= (uint8_t)(1u << s % 8);
		w->nfree++;
		if (s < w->free_low)
			w->free_low = s;
	}
}

static int
is_free(const struct image_writer *w, uint64_t s)
{
	return w->free_map[s / 8] >> s % 8 & 1;
}

/* The lowest free slot, which is then not free any more.  There MUST be one. */
static uint64_t
take_free(struct image_writer *w)
{
	uint64_t s = w->free_low;

	while (!is_free(w, s))
		s = s % 8 == 0 && w->free_map[s / 8] == 0 ? s + 8 : s + 1;
	w->free_map[s / 8] &= (uint8_t)~(1u << s % 8);
	w->nfree--;
	w->free_low = s + 1;
	return s;
}

/* ---- items of a batch that is filled ---- */

static uint64_t
item_of(uint64_t page, int zero)
{
	return page * 2 + (zero ? 1 : 0);
}

static uint64_t
item_page(uint64_t item)
{
	return item / 2;
}

static int
item_is_zero(uint64_t item)
{
	return item & 1;
}

/* ---- the pipeline ---- */

static void
checksum_batch(struct aio_req *r)
{
	struct batch *b = r->arg;
	unsigned i;

	for (i = 0; i < b->npage; i++)
		b->crc[i] = crc32c(0, b->buf + (size_t)i * b->page_size, b->page_size);
}

static void
verify_batch(struct aio_req *r)
{
	struct batch *b = r->arg;
	unsigned i;

	for (i = 0; i < b->npage; i++)
		if (b->crc[i] != crc32c(0, b->buf + (size_t)i * b->page_size, b->page_size))
			b->bad = 1;
}

/* Page i of b lies, or is to lie, in slot: lengthen the last run or begin one. */
static void
add_run(struct image_writer *w, struct batch *b, unsigned i, uint64_t slot)
{
	struct aio_run *run = b->req.run + b->req.nrun;
	uint64_t off = writer_slot_off(w, slot);

	if (b->req.nrun > 0 && run[-1].off + run[-1].len == off) {
		run[-1].len += b->page_size;
		return;
	}
	run->fd = w->data_fd;
	run->buf = b->buf + (size_t)i * b->page_size;
	run->len = b->page_size;
	run->off = off;
	b->req.nrun++;
}

void
writer_submit(struct image_writer *w, struct batch *b, enum aio_op op,
    void (*work)(struct aio_req *))
{
	b->req.op = op;
	b->req.work = work;
	b->req.begin = w->opt.io_flags == 0 && !w->opt.unsafe;
	aio_submit(w->ring, &b->req);
}

void
writer_give_back(struct image_writer *w, struct batch *b)
{
	b->kind = BATCH_FILL;
	b->npage = b->nitem = b->nunit = 0;
	b->bad = 0;
	b->req.run = b->run;
	b->req.nrun = 0;
	w->idle[w->nidle++] = b;
}

/* What b becomes is known: give every page that is left its slot, then write. */
static int
place(struct image_writer *w, struct batch *b)
{
	uint64_t first = w->nslots, slot, page;
	unsigned i, n = 0, kept = 0;
	int reuse, err = 0;

	b->req.run = b->run;
	b->req.nrun = 0;
	release_freed(w, &w->freed[w->placed % w->nbatch]);
	reuse = w->nfree >= b->nkept;
	if (!reuse || w->opt.codec != NULL)
		err = grow_slots(w, b->nkept + w->shape.pages);
	if (err == 0 && w->opt.codec != NULL)
		err = units_place(w, b, first);
	else if (err == 0 && !reuse)
		err = writer_check_size(w, writer_slot_off(w, w->nslots + b->nkept));
	for (i = 0; i < b->nitem && err == 0; i++) {
		page = item_page(b->item[i]);
		if (item_is_zero(b->item[i])) {
			err = set_page(w, page, PAGE_ZERO, 0);
			continue;
		}
		if (b->entry[n] != NO_ENTRY) {
			err = set_page(w, page, PAGE_ANCESTOR, b->entry[n++]);
			continue;
		}
		if (w->opt.codec != NULL)
			slot = first + kept++;
		else {
			slot = reuse ? take_free(w) : w->nslots++;
			add_run(w, b, kept++, slot);
		}
		writer_put_slot(w, slot, page, b->crc[n++]);
		err = set_page(w, page, PAGE_STORED, slot);
	}
	w->placed++;
	if (err != 0) {
		writer_give_back(w, b);
		return err;
	}
	/* Even without a page: its buffer MUST NOT be free before those ahead of it (I4). */
	writer_submit(w, b, AIO_WRITE, NULL);
	return 0;
}

/* ---- the base ---- */

/* Page i may be equal to one of the base, which is to be read then. */
static int
find_in_base(struct image_writer *w, struct batch *b, unsigned i, uint64_t page)
{
	uint64_t entry;
	uint32_t crc;
	int st = image_lookup(w->opt.base, page, &entry), err;

	if (st < PAGE_STORED)
		return st < 0 ? st : 0;
	if ((err = image_crc(w->opt.base, page, st, entry, &crc)) != 0)
		return err;
	/* The base is to be ancestor 0; its own come behind it. */
	b->entry[i] = entry_make(st == PAGE_ANCESTOR ? entry_ancestor(entry) + 1 : 0, crc);
	if (crc == b->crc[i]) {
		b->old_of[b->old.n] = i;
		if ((err = fetch_add(&b->old, page, st, entry)) == 0)
			return 0;
	}
	b->entry[i] = NO_ENTRY;
	return err;
}

/* Which of b's pages may be equal to what the base has?  Where it is damaged, none. */
static int
find_equals(struct image_writer *w, struct batch *b)
{
	unsigned i, n = 0;
	int err;

	fetch_reset(&b->old);
	for (i = 0; i < b->nitem; i++) {
		if (item_is_zero(b->item[i]))
			continue;
		err = find_in_base(w, b, n++, item_page(b->item[i]));
		if (err != 0 && err != SNAP_EDATA)
			return writer_fail(w, err);
	}
	b->req.run = b->old.req.run;
	b->req.nrun = b->old.req.nrun;
	return 0;
}

/* Drop pages that are equal to the base's. */
static void
drop_equals(struct batch *b)
{
	size_t size = b->page_size;
	unsigned i;

	fetch_verify(&b->old.req);
	for (i = 0; i < b->old.n; i++)
		if (!b->old.good[i] || memcmp(fetch_data(&b->old, i),
		    b->buf + b->old_of[i] * size, size) != 0)
			b->entry[b->old_of[i]] = NO_ENTRY;
	for (b->nkept = 0, i = 0; i < b->npage; i++)
		if (b->entry[i] == NO_ENTRY)
			memmove(b->buf + b->nkept++ * size, b->buf + i * size, size);
}

static void
prepare_batch(struct aio_req *r)
{
	struct batch *b = r->arg;

	if (b->old.n > 0) {
		drop_equals(b);
		if (b->old.req.error != 0) {
			r->error = b->old.req.error;
			r->error_fd = b->old.req.error_fd;
			r->error_off = b->old.req.error_off;
			return;
		}
	}
	if (b->codec != NULL)
		units_encode(b);
}

/* All CRCs are there. */
static int
prepare(struct image_writer *w, struct batch *b)
{
	unsigned i;
	int err;

	b->nkept = b->npage;
	for (i = 0; i < b->npage; i++)
		b->entry[i] = NO_ENTRY;
	if (w->opt.base == NULL && w->opt.codec == NULL)
		return place(w, b);
	if (w->opt.base != NULL && (err = find_equals(w, b)) != 0) {
		writer_give_back(w, b);
		return err;
	}
	b->kind = BATCH_PREPARED;
	writer_submit(w, b, b->old.n > 0 ? AIO_READ : AIO_WORK, prepare_batch);
	return 0;
}

/* ---- the ring ---- */

static int
fail_read(struct image_writer *w, int err, uint64_t off)
{
	if (w->failed == 0)
		snap_warn(err, "%s: read at offset %llu", w->path, (unsigned long long)off);
	return writer_fail(w, SNAP_ESYS);
}

/* Pages for a move have been read: write them where they go. */
static int
move(struct image_writer *w, struct batch *b)
{
	unsigned i;

	b->req.nrun = 0;
	for (i = 0; i < b->npage; i++)
		add_run(w, b, i, b->item[i]);
	writer_submit(w, b, AIO_WRITE, NULL);
	return 0;
}

/* A batch came back from the ring. */
static int
reaped(struct image_writer *w, struct aio_req *r)
{
	struct batch *b = r->arg;

	if (r->error != 0 && b->kind == BATCH_PREPARED && r->op == AIO_READ) {
		b->old.req.error = r->error;
		b->old.req.error_fd = r->error_fd;
		b->old.req.error_off = r->error_off;
		if (w->failed == 0)
			writer_fail(w, fetch_check(&b->old));
	} else if (r->error != 0 && r->op == AIO_READ)
		fail_read(w, r->error, r->error_off);
	else if (r->error != 0)
		writer_fail_write(w, r->error, r->error_off);
	else if (b->bad && w->failed == 0)
		writer_fail(w, snap_warnx("%s: a %s reads back differently from what was written",
		    w->path, b->kind == BATCH_MOVE ? "page" : "unit"));
	if (w->failed != 0 || r->op == AIO_WRITE) {
		writer_give_back(w, b);
		return w->failed;
	}
	switch (b->kind) {
	case BATCH_FILL:
		return prepare(w, b);
	case BATCH_PREPARED:
		return place(w, b);
	case BATCH_MOVE:
		return move(w, b);
	case BATCH_COLLECT:
		return units_collected(w, b);
	}
	return writer_fail(w, SNAP_EBUG);
}

int
writer_finish_ring(struct image_writer *w)
{
	struct aio_req *r;

	while ((r = aio_wait(w->ring)) != NULL)
		reaped(w, r);
	return w->failed;
}

struct batch *
writer_take_batch(struct image_writer *w)
{
	while (w->nidle == 0)
		reaped(w, aio_wait(w->ring));
	return w->idle[--w->nidle];
}

/* The open batch is full: on its way with it.  Then see what is done already. */
static int
send_batch(struct image_writer *w)
{
	struct batch *b = w->open;
	struct aio_req *r;

	w->open = NULL;
	w->sent++;
	if (!crc32c_is_quick())
		writer_submit(w, b, AIO_WORK, checksum_batch);
	else if (w->failed == 0)
		prepare(w, b);
	else
		writer_give_back(w, b);
	/* At fixed places, for the sake of I4. */
	if (w->opt.codec != NULL && w->sent % COLLECT_EACH == 0 &&
	    writer_finish_ring(w) == 0 && w->ndead > w->nslots / 2 + COLLECT_LEAST)
		units_collect(w);
	while ((r = aio_try(w->ring)) != NULL)
		reaped(w, r);
	return w->failed;
}

uint8_t *
image_room(struct image_writer *w)
{
	struct batch *b = w->open;

	if (b != NULL && (b->npage == w->per_batch || b->nitem == ITEMS_MAX))
		if (send_batch(w) != 0)
			return NULL;
	if (w->open == NULL)
		w->open = writer_take_batch(w);
	if (w->failed != 0)
		return NULL;
	return w->open->buf + (size_t)w->open->npage * w->head.page_size;
}

/* A page that is zero: its first byte is, and each equals the one before. */
static int
is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

void
image_put(struct image_writer *w, uint64_t page)
{
	const struct batch *b = w->open;
	const uint8_t *p = b->buf + (size_t)b->npage * b->page_size;

	/* Elsewhere the worker does it. */
	image_put_known(w, page, crc32c_is_quick() ? crc32c(0, p, b->page_size) : 0);
}

void
image_put_known(struct image_writer *w, uint64_t page, uint32_t crc)
{
	struct batch *b = w->open;
	int zero = is_zero(b->buf + (size_t)b->npage * b->page_size, b->page_size);

	b->item[b->nitem++] = item_of(page, zero);
	if (!zero)
		b->crc[b->npage++] = crc;
}

int
image_zero(struct image_writer *w, uint64_t page)
{
	if (image_room(w) == NULL)
		return w->failed;
	w->open->item[w->open->nitem++] = item_of(page, 1);
	return 0;
}

/* ---- making the data dense ---- */

/* Move the last slots into free ones and cut the file (I5). */
static int
compact(struct image_writer *w)
{
	uint64_t live, from, to, page;
	struct page_leaf *l;
	struct batch *b = NULL;
	unsigned i;
	int err;

	for (i = 0; i < w->nbatch; i++)
		release_freed(w, &w->freed[i]);
	if (w->opt.codec != NULL)
		return w->ndead > w->nslots / FEW_DEAD ? units_collect(w) : 0;
	if (w->nfree == 0)
		return 0;
	live = w->nslots - w->nfree;
	for (from = live; from < w->nslots && w->failed == 0; from++) {
		if (is_free(w, from))
			continue;
		to = take_free(w);
		if (b == NULL) {
			b = writer_take_batch(w);
			b->kind = BATCH_MOVE;
		}
		writer_get_slot(w, from, &page, &b->crc[b->npage]);
		writer_put_slot(w, to, page, b->crc[b->npage]);
		l = writer_leaf_for(w, page);
		leaf_set(l, (unsigned)(page % LEAF_PAGES), PAGE_STORED, to);
		add_run(w, b, b->npage, from);
		b->item[b->npage++] = to;
		if (b->npage == w->per_batch) {
			writer_submit(w, b, AIO_READ, verify_batch);
			b = NULL;
		}
	}
	if (b != NULL)
		writer_submit(w, b, AIO_READ, verify_batch);
	if (writer_finish_ring(w) != 0)
		return w->failed;
	w->nslots = live;
	if ((err = io_truncate(w->fd, writer_slot_off(w, live))) != 0)
		return writer_fail_write(w, err, writer_slot_off(w, live));
	return 0;
}

int
pipeline_finish(struct image_writer *w)
{
	if (w->open != NULL)
		send_batch(w);
	return writer_finish_ring(w) != 0 ? w->failed : compact(w);
}

/* ---- its beginning and end ---- */

static int
make_batches(struct image_writer *w)
{
	struct batch *b;
	unsigned i;

	for (i = 0; i < w->nbatch; i++) {
		b = &w->batch[i];
		b->page_size = w->head.page_size;
		b->buf = io_alloc(w->head.cluster_size);
		b->item = malloc(ITEMS_MAX * sizeof *b->item);
		b->crc = malloc(w->per_batch * sizeof *b->crc);
		b->run = malloc(w->per_batch * sizeof *b->run);
		w->freed[i].slot = malloc(ITEMS_MAX * sizeof *w->freed[i].slot);
		b->entry = malloc(w->per_batch * sizeof *b->entry);
		if (w->opt.base != NULL) {
			b->old_of = malloc(w->per_batch * sizeof *b->old_of);
			if (fetch_init(&b->old, w->opt.base, w->per_batch) != 0)
				return writer_fail(w, SNAP_ESYS);
			b->old.serial = 1;
		}
		if (b->buf == NULL || b->item == NULL || b->crc == NULL ||
		    b->run == NULL || b->entry == NULL || w->freed[i].slot == NULL ||
		    (w->opt.base != NULL && b->old_of == NULL) ||
		    (w->opt.codec != NULL && units_init(w, b) != 0))
			return writer_fail_sys(w, ENOMEM, "buffers");
		b->req.arg = b;
		b->req.run = b->run;
		writer_give_back(w, b);
	}
	return 0;
}

int
pipeline_init(struct image_writer *w)
{
	w->per_batch = w->opt.cluster_size / w->head.page_size;
	if (w->per_batch > ITEMS_MAX)
		w->per_batch = ITEMS_MAX;
	unit_shape(&w->shape, w->opt.unit_pages);
	w->node = calloc(ROOT_NODES, sizeof *w->node);
	w->data_end = w->head.data_off;
	w->nbatch = BATCHES_SIZE / w->opt.cluster_size;
	w->nbatch = w->nbatch > BATCHES ? BATCHES : w->nbatch;
	if (w->head.incompat != 0)
		w->nbatch /= 2;	/* each takes several times the memory */
	w->nbatch = w->nbatch < 2 ? 2 : w->nbatch;
	w->ring = aio_new(w->opt.threads, w->nbatch + 1);
	if (w->node == NULL || w->ring == NULL)
		return writer_fail_sys(w, ENOMEM, "buffers");
	return make_batches(w);
}

void
pipeline_free(struct image_writer *w)
{
	size_t i;

	aio_free(w->ring);
	w->ring = NULL;
	for (i = 0; i < BATCHES; i++) {
		free(w->batch[i].buf);
		free(w->batch[i].item);
		free(w->batch[i].crc);
		free(w->batch[i].run);
		free(w->batch[i].entry);
		free(w->batch[i].old_of);
		fetch_free(&w->batch[i].old);
		units_free(&w->batch[i]);
		free(w->freed[i].slot);
		memset(&w->batch[i], 0, sizeof w->batch[i]);
		memset(&w->freed[i], 0, sizeof w->freed[i]);
	}
}
