/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image.c -- writing an image: the pipeline, the allocator of slots, commit.
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
 * I1  The header is the first HEADER_SIZE bytes and never changes.
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
 * I6  The footer is written when every byte it leads to is on stable storage,
 *     save the rest of the tail that image_hold() took room for; it and that
 *     rest are synced before the file gets its name.
 * I7  After a first failure nothing is written any more.
 */
#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "crc32c.h"

enum {
	HOLD_MAX = 16 << 20,	/* bytes; no description of devices is so long */
	HOLDS = 8,
	REMOVE_SLOW = 64 << 20,	/* bytes; to remove a file as long as this may take a while */
	COLLECT_EACH = 256,	/* batches between two looks at superseded pages */
	COLLECT_LEAST = 16384,	/* of these */
	FEW_DEAD = 10		/* a part of all slots that may stay: all that follows the first
				 * one would be written anew, and the guest wait for it */
};

int
writer_fail(struct image_writer *w, int code)
{
	if (w->failed == 0)
		w->failed = code;
	return w->failed;
}

int
writer_fail_sys(struct image_writer *w, int err, const char *what)
{
	if (w->failed == 0)
		snap_warn(err, "%s: %s", w->path, what);
	return writer_fail(w, SNAP_ESYS);
}

int
writer_fail_write(struct image_writer *w, int err, uint64_t off)
{
	if (w->failed == 0)
		snap_warn(err, "%s: write at offset %llu", w->path,
		    (unsigned long long)off);
	return writer_fail(w, SNAP_ESYS);
}

static int
writer_fail_read(struct image_writer *w, int err, uint64_t off)
{
	if (w->failed == 0)
		snap_warn(err, "%s: read at offset %llu", w->path, (unsigned long long)off);
	return writer_fail(w, SNAP_ESYS);
}

int
writer_check_size(struct image_writer *w, uint64_t end)
{
	if (end <= w->opt.max_size && end <= FILE_MAX)
		return 0;
	if (w->failed == 0 && end > FILE_MAX)
		snap_warnx("%s: image would grow past the 256 TiB of its format", w->path);
	else if (w->failed == 0)
		snap_warnx("%s: image would grow past the --image-size of %llu bytes",
		    w->path, (unsigned long long)w->opt.max_size);
	return writer_fail(w, SNAP_ESYS);
}

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
	uint64_t first = w->nslots, slot;
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
		if (b->item[i] & 1) {
			err = set_page(w, b->item[i] / 2, PAGE_ZERO, 0);
			continue;
		}
		if (b->entry[n] != NO_ENTRY) {
			err = set_page(w, b->item[i] / 2, PAGE_ANCESTOR, b->entry[n++]);
			continue;
		}
		if (w->opt.codec != NULL)
			slot = first + kept++;
		else {
			slot = reuse ? take_free(w) : w->nslots++;
			add_run(w, b, kept++, slot);
		}
		writer_put_slot(w, slot, b->item[i] / 2, b->crc[n++]);
		err = set_page(w, b->item[i] / 2, PAGE_STORED, slot);
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
	uint64_t entry, other;
	uint32_t crc;
	int st = image_lookup(w->opt.base, page, &entry), err = 0;

	if (st < PAGE_STORED)
		return st < 0 ? st : 0;
	if (st == PAGE_ANCESTOR) {
		crc = entry_crc(entry);
		b->entry[i] = entry + (UINT64_C(1) << 32);
	} else {
		if ((err = image_slot(w->opt.base, entry, &other, &crc)) != 0)
			return err;
		b->entry[i] = crc;	/* ancestor 0 */
	}
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
		if (b->item[i] & 1)
			continue;
		err = find_in_base(w, b, n++, b->item[i] / 2);
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

/* Pages for a move have been read: write them where they go. */
static int
move(struct image_writer *w, struct batch *b)
{
	unsigned i;

	if (b->bad) {
		if (w->failed == 0)
			snap_warnx("%s: a page reads back differently from what was written",
			    w->path);
		writer_give_back(w, b);
		return writer_fail(w, SNAP_ESYS);
	}
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
		b->old.req.error_off = r->error_off;
		if (w->failed == 0)
			writer_fail(w, fetch_check(&b->old));
	} else if (r->error != 0 && r->op == AIO_READ)
		writer_fail_read(w, r->error, r->error_off);
	else if (r->error != 0)
		writer_fail_write(w, r->error, r->error_off);
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

	b->item[b->nitem++] = page * 2 + (zero ? 1 : 0);
	if (!zero)
		b->crc[b->npage++] = crc;
}

int
image_zero(struct image_writer *w, uint64_t page)
{
	if (image_room(w) == NULL)
		return w->failed;
	w->open->item[w->open->nitem++] = page * 2 + 1;
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

/* ---- the image from birth to commit ---- */

static void
said_stale(const char *name)
{
	snap_warnx("%s: removed, a dead save left it", name);
}

/* Not what is not ours: a slip of the hand must not cost a disk. */
static int
may_replace(const char *path, uint64_t *len)
{
	uint8_t buf[HEADER_MAGIC];
	int fd, ok, err = io_open(path, 0, 0, &fd);

	if (err == EACCES || err == EPERM || err == EIO || err == EMFILE || err == ENFILE ||
	    err == ENOMEM) {
		snap_warn(err, "%s: cannot be read, and is not replaced", path);
		return 0;
	}
	if (err != 0)
		return 1;	/* not there, or not a file: io_create_part() will see */
	ok = io_size(fd, len) == 0 && (*len == 0 || (*len >= sizeof buf &&
	    io_pread(fd, buf, sizeof buf, 0) == 0 && header_is_image(buf)));
	io_close(fd);
	if (!ok)
		snap_warnx("%s: is there and is not a qemu-snap image: not replaced", path);
	return ok;
}

static int
name_ancestors(struct image_writer *w)
{
	if (w->opt.base == NULL)
		return 0;
	if (image_is_in_chain(w->opt.base, w->path)) {
		snap_warnx("%s: is its own base, or an ancestor of it, and is not replaced",
		    w->path);
		return SNAP_ESYS;
	}
	return image_ancestry(w->opt.base, w->path, &w->anc, &w->nanc);
}

struct image_writer *
image_create(const char *path, const struct image_options *opt)
{
	struct image_writer *w;
	int err;

	if ((w = calloc(1, sizeof *w)) == NULL ||
	    (w->path = malloc(strlen(path) + 1)) == NULL) {
		free(w);
		snap_warn(ENOMEM, "%s", path);
		return NULL;
	}
	strcpy(w->path, path);
	w->opt = *opt;
	if (opt->base != NULL)
		image_keep_little(opt->base);
	w->fd = w->data_fd = w->older_fd = w->dir_fd = -1;
	if (!may_replace(path, &w->older_size) || name_ancestors(w) != 0) {
		image_free(w);
		return NULL;
	}
	io_sweep_parts(path, said_stale);
	err = io_create_part(path, &w->tmp, &w->fd);
	if (err == EEXIST)
		snap_warnx("%s: is there and is not a regular file", path);
	else if (err != 0)
		snap_warn(err, "%s: cannot be created", path);
	if (err != 0) {
		w->fd = -1;
		image_free(w);
		return NULL;
	}
	w->data_fd = w->fd;
	if (!opt->unsafe && (err = io_open_dir(path, &w->dir_fd)) != 0) {
		snap_warn(err, "%s: its directory cannot be opened", path);
		image_free(w);
		return NULL;
	}
	return w;
}

/* A descriptor for the data as --cache wants it. */
static void
open_data(struct image_writer *w)
{
	int flags = w->opt.io_flags, err;

	if ((flags & IO_DIRECT) &&
	    no_direct_io(w->path, w->opt.codec != NULL, w->head.page_size))
		flags &= ~IO_DIRECT;
	if ((flags & IO_DIRECT) &&
	    (err = io_open(w->tmp, 1, flags, &w->data_fd)) != 0) {
		snap_warn(err, "%s: no direct I/O here", w->path);
		flags &= ~IO_DIRECT;
		w->data_fd = w->fd;
	}
	if (w->data_fd == w->fd && flags != 0 &&
	    (err = io_open(w->tmp, 1, flags, &w->data_fd)) != 0) {
		snap_warn(err, "%s: no synchronous writes here", w->path);
		w->data_fd = w->fd;
	}
}

/* Zero pages take no room, so there is no telling whether it will do. */
static void
warn_of_room(const struct image_writer *w)
{
	uint64_t ram = w->ram->npages * w->ram->page_size, avail;

	if (w->opt.base == NULL && w->opt.codec == NULL &&
	    io_room(w->fd, &avail) == 0 && avail < ram + ram / 100)
		snap_warnx("%s: %llu MiB are free, and the guest has %llu MiB: "
		    "room only if enough of it is zero", w->path,
		    (unsigned long long)(avail >> 20), (unsigned long long)(ram >> 20));
}

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
image_begin(struct image_writer *w, const struct ram_map *ram)
{
	uint8_t head[HEADER_SIZE];
	int err;

	w->ram = ram;
	if (w->opt.base != NULL && !ram_map_same(ram, image_ram(w->opt.base))) {
		snap_warnx("%s: is of a guest with other RAM blocks or pages, and no base",
		    image_path(w->opt.base));
		return writer_fail(w, SNAP_EDATA);
	}
	if (w->opt.codec != NULL && w->opt.unit_pages * ram->page_size > CODED_MAX) {
		snap_warnx("%s: units of %u pages of %u bytes are too large to be compressed",
		    w->path, (unsigned)w->opt.unit_pages, (unsigned)ram->page_size);
		return writer_fail(w, SNAP_ESYS);
	}
	w->head.incompat = (w->opt.base != NULL ? FEATURE_ANCESTORS : 0u) |
	    (w->opt.codec != NULL ? FEATURE_CODEC : 0u);
	w->head.page_size = ram->page_size;
	w->head.unit_pages = w->opt.unit_pages;
	w->head.cluster_size = w->opt.cluster_size;
	w->head.data_off = ram->page_size > HEADER_SIZE ? ram->page_size : HEADER_SIZE;
	header_encode(head, &w->head);
	w->foot.header_crc = w->head.crc;
	w->foot.npages = ram->npages;
	/* The moment that a background snapshot shows is just over. */
	w->foot.time = w->opt.reproducible ? 0 :
	    w->opt.have_time ? w->opt.time : (uint64_t)time(NULL);
	w->per_batch = w->opt.cluster_size / ram->page_size;
	if (w->per_batch > ITEMS_MAX)
		w->per_batch = ITEMS_MAX;
	unit_shape(&w->shape, w->opt.unit_pages);
	w->node = calloc(ROOT_NODES, sizeof *w->node);
	w->append_buf = malloc(APPEND_SIZE);
	w->data_end = w->head.data_off;
	w->nbatch = BATCHES_SIZE / w->opt.cluster_size;
	w->nbatch = w->nbatch > BATCHES ? BATCHES : w->nbatch;
	if (w->head.incompat != 0)
		w->nbatch /= 2;	/* each takes several times the memory */
	w->nbatch = w->nbatch < 2 ? 2 : w->nbatch;
	w->ring = aio_new(w->opt.threads, w->nbatch + 1);
	if (w->node == NULL || w->append_buf == NULL || w->ring == NULL)
		return writer_fail_sys(w, ENOMEM, "buffers");
	if (make_batches(w) != 0)
		return w->failed;
	open_data(w);
	warn_of_room(w);
	if ((err = io_pwrite(w->fd, head, sizeof head, 0)) != 0)
		return writer_fail_write(w, err, 0);
	/* What lies between header and data is zero, and there. */
	memset(head, 0, sizeof head);
	for (w->written_end = HEADER_SIZE; w->written_end < w->head.data_off;
	    w->written_end += sizeof head)
		if ((err = io_pwrite(w->fd, head, sizeof head, w->written_end)) != 0)
			return writer_fail_write(w, err, w->written_end);
	return 0;
}

static int
sync_file(struct image_writer *w)
{
	int err;

	if (w->failed != 0 || w->opt.unsafe)
		return w->failed;
	if ((err = io_sync(w->fd)) != 0)
		return writer_fail_sys(w, err, "sync");
	return 0;
}

/* No page comes any more; ending threads takes time that there is not at the end. */
static void
free_batches(struct image_writer *w)
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

static void
append_ancestors(struct image_writer *w)
{
	size_t len;
	uint8_t *buf = ancestors_encode(w->anc, w->nanc, &len);

	if (buf == NULL)
		writer_fail_sys(w, ENOMEM, "ancestors");
	else
		writer_append_section(w, SEC_ANCESTORS, buf, len);
	free(buf);
}

int
image_seal(struct image_writer *w, const struct image_bytes *b, size_t nb,
    uint32_t flags)
{
	uint8_t map[RAM_MAP_MAX];
	size_t len = ram_map_encode(map, w->ram), i;
	struct section *s;

	if (w->open != NULL)
		send_batch(w);
	if (writer_finish_ring(w) != 0 || compact(w) != 0)
		return w->failed;
	if (w->nanc > 0 && image_check_ancestry(w->opt.base, w->path, w->anc) != 0)
		return writer_fail(w, SNAP_ESYS);
	free_batches(w);
	if (len == 0) {
		snap_warnx("%s: more RAM blocks than an image can describe", w->path);
		return writer_fail(w, SNAP_EDATA);
	}
	w->foot.flags = flags;
	w->foot.slots = w->nslots;
	writer_make_tag(w);
	w->append_off = w->head.data_off;
	s = writer_begin_section(w, SEC_DATA);
	w->append_off = w->opt.codec != NULL ? w->data_end : writer_slot_off(w, w->nslots);
	writer_end_section(w, s);
	writer_units(w);
	writer_pages(w);
	writer_append_section(w, SEC_RAM_MAP, map, len);
	if (w->nanc > 0)
		append_ancestors(w);
	for (i = 0; i < nb; i++)
		if (b[i].len > 0)
			writer_append_section(w, b[i].type, b[i].buf, b[i].len);
	if (w->failed != 0 || writer_flush(w) != 0)
		return w->failed;
	writer_begin_section(w, SEC_TAIL);
	return sync_file(w);
}

int
image_tail(struct image_writer *w, const void *buf, size_t len)
{
	return writer_append(w, buf, len);
}

int
image_hold(struct image_writer *w, uint64_t more)
{
	uint8_t zero[4096];
	uint64_t end;
	size_t n;
	int err;

	if (w->failed != 0)
		return w->failed;
	/* Device state may have what looks like the head of a description. */
	if (more > HOLD_MAX || w->holds++ == HOLDS)
		return 0;
	if (writer_flush(w) != 0)
		return w->failed;
	end = w->append_off + more + FOOTER_SIZE;
	if (writer_check_size(w, end) != 0)
		return w->failed;
	memset(zero, 0, sizeof zero);
	while (w->written_end < end) {
		n = end - w->written_end < sizeof zero ?
		    (size_t)(end - w->written_end) : sizeof zero;
		if ((err = io_pwrite(w->fd, zero, n, w->written_end)) != 0)
			return writer_fail_write(w, err, w->written_end);
		w->written_end += n;
	}
	return sync_file(w);
}

/*
 * The directory could not be synced.  The older image takes its name back, unless
 * yet another one is there by now.
 */
static int
give_name_back(struct image_writer *w, int err)
{
	const char *what = "is in place, but its name may be lost with the power";

	if (w->older != NULL && io_is(w->path, w->fd)) {
		if (io_rename(w->older, w->path) == 0)
			what = "its name cannot be made durable; the older image stays";
		else
			snap_warnx("%s: is the older image now", w->older);
		free(w->older);
		w->older = NULL;
	}
	return writer_fail_sys(w, err, what);
}

static int
take_name(struct image_writer *w)
{
	int err = w->opt.unsafe ? 0 : io_keep(w->path, &w->older, &w->older_fd);

	/* A file system that knows no second names is no reason to fail. */
	if (err != ENOMEM)
		err = io_rename(w->tmp, w->path);
	if (err != 0)
		return writer_fail_sys(w, err, "cannot take its name, whatever QEMU says");
	free(w->tmp);
	w->tmp = NULL;
	if (!w->opt.unsafe && (err = io_sync_dir(w->dir_fd)) != 0)
		return give_name_back(w, err);
	return 0;
}

int
image_commit(struct image_writer *w, uint64_t split)
{
	struct section *tail = &w->foot.sec[w->foot.nsec - 1];
	uint8_t foot[FOOTER_SIZE];
	int err;

	writer_end_section(w, tail);
	tail->extra = split;
	writer_make_uuid(w);
	w->foot.file_len = tail->off + tail->len + FOOTER_SIZE;
	footer_encode(foot, &w->foot);
	writer_append(w, foot, sizeof foot);
	if (w->failed != 0 || writer_flush(w) != 0)
		return w->failed;
	if (w->written_end > w->foot.file_len &&
	    (err = io_truncate(w->fd, w->foot.file_len)) != 0)
		return writer_fail_write(w, err, w->foot.file_len);
	if (sync_file(w) != 0)
		return w->failed;
	return take_name(w);
}

char *
image_take_older(struct image_writer *w)
{
	char *name = w->older;

	if (w->older_size < REMOVE_SLOW)
		return NULL;
	w->older = NULL;
	return name;
}

void
image_free(struct image_writer *w)
{
	size_t i, k;

	if (w == NULL)
		return;
	free_batches(w);
	if (w->tmp != NULL && w->fd >= 0)
		io_unlink(w->tmp);
	if (w->data_fd >= 0 && w->data_fd != w->fd)
		io_close(w->data_fd);
	if (w->fd >= 0)
		io_close(w->fd);
	if (w->older != NULL)
		io_unlink(w->older);
	free(w->older);
	if (w->older_fd >= 0)
		io_close(w->older_fd);
	if (w->dir_fd >= 0)
		io_close(w->dir_fd);
	for (i = 0; i < w->nunit_leaf; i++)
		free(w->unit_leaf[i]);
	for (i = 0; w->node != NULL && i < ROOT_NODES; i++) {
		for (k = 0; w->node[i] != NULL && k < NODE_LEAVES; k++)
			leaf_free(w->node[i][k]);
		free(w->node[i]);
	}
	free(w->node);
	ancestors_free(w->anc, w->nanc);
	free(w->unit_leaf);
	free(w->free_map);
	free(w->append_buf);
	free(w->tmp);
	free(w->path);
	free(w);
}
