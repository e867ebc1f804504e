/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image.c -- writing an image: the cluster pipeline, the allocator of slots,
 * tables, footer, commit.
 *
 * The pipeline.  The owner gathers pages, and the news that a page is zero, in
 * order of arrival in a *batch*: one cluster of page bytes and a list of items.
 * A full batch makes two passes through the ring.  First as work: a worker
 * computes the CRC of each page (and will encode units, once there is a codec).
 * When it is back, which is in the order of arrival, the owner gives each page
 * its slot and enters it in the tables; then the batch goes through the ring
 * again as a write, and when that is back its buffer is free.  Where a CRC is
 * quick, the owner computes it with the page still in the processor's cache, and
 * there is no first pass: each costs two wake-ups.  There are
 * nbatch buffers, so that many clusters are in flight at most; the owner waits
 * for the oldest one when it needs another.
 *
 * I1  The header is the first HEADER_SIZE bytes and never changes.
 * I2  Slot s lies at data_off + s * page_size.
 * I3  Items take effect in order of arrival: of two copies of a page the later
 *     one wins, a zero included.
 * I4  Where a page lands depends on the stream alone.  A slot freed when batch
 *     b was placed may be given out from batch b + nbatch on; whatever was
 *     written to it has been reaped by then, as batch b + nbatch needed a
 *     buffer that all batches up to b had given back.  (nbatch follows from the
 *     size of a cluster.)
 * I5  Before the commit the last slots are moved into free ones and the file is
 *     cut: no slot is free in a finished image.
 * I6  The footer is written when every byte it leads to is on stable storage,
 *     save the rest of the tail that image_hold() took room for; it and that
 *     rest are synced before the file gets its name.
 * I7  After a first failure nothing is written any more.
 */
#include "image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bytes.h"
#include "crc32c.h"

enum {
	BATCHES = 24,		/* enough for disk and CRC to overlap */
	BATCHES_SIZE = 24 << 20,	/* bytes of their buffers; fewer batches if need be */
	ITEMS_MAX = 16384,	/* a batch; no fewer than the pages of a cluster */
	HOLD_MAX = 16 << 20,	/* bytes; no description of devices is so long */
	HOLDS = 8,
	REMOVE_SLOW = 64 << 20,	/* bytes; to remove a file as long as this may take a while */
	APPEND_SIZE = 256 << 10
};

enum batch_kind { BATCH_FILL, BATCH_MOVE };

struct batch {
	struct aio_req req;
	enum batch_kind kind;
	uint32_t page_size;
	uint8_t *buf;
	unsigned npage, nitem;
	uint64_t *item;		/* fill: page number * 2 + 1 if zero; move: slot to */
	uint32_t *crc;		/* fill: computed; move: expected */
	struct aio_run *run;
	int bad;		/* move: a page was not what was written */
};

struct freed {			/* slots freed while one batch was placed */
	unsigned n;
	uint64_t *slot;
};

struct image_writer {
	char *path, *tmp;
	char *older;		/* second name of the image that was there before, or NULL */
	int older_fd;		/* keeps it locked */
	uint64_t older_size;
	int dir_fd;		/* of the directory, to sync it */
	struct image_options opt;
	const struct ram_map *ram;
	int fd, data_fd;	/* the same file; data_fd may be for direct I/O */
	int failed;		/* the error that was returned first */
	struct image_header head;
	struct image_footer foot;

	struct aio *ring;
	struct batch batch[BATCHES], *open, *idle[BATCHES];
	unsigned nbatch, nidle, per_batch;	/* pages a cluster */
	uint64_t placed;	/* batches placed so far */
	struct freed freed[BATCHES];

	struct unit_shape shape;
	uint64_t nslots;	/* given out so far, free ones included */
	uint8_t **unit_leaf;
	size_t nunit_leaf, unit_leaf_cap;
	uint8_t *free_map;	/* a bit a slot: may be given out */
	size_t free_map_size;
	uint64_t nfree, free_low;	/* bits set; no bit is set below free_low */
	struct page_leaf ***node;	/* ROOT_NODES, then NODE_LEAVES pointers */

	uint8_t *append_buf;	/* bytes from append_off on, not yet written */
	size_t append_len;
	uint64_t append_off;
	uint64_t written_end;	/* the file is this long now, at least */
	uint32_t append_crc;	/* of the section being appended */
	unsigned holds;		/* calls of image_hold() that took room */
};

static int
fail(struct image_writer *w, int code)
{
	if (w->failed == 0)
		w->failed = code;
	return w->failed;
}

static int
fail_sys(struct image_writer *w, int err, const char *what)
{
	if (w->failed == 0)
		snap_warn(err, "%s: %s", w->path, what);
	return fail(w, SNAP_ESYS);
}

static int
fail_write(struct image_writer *w, int err, uint64_t off)
{
	if (w->failed == 0)
		snap_warn(err, "%s: write at offset %llu", w->path,
		    (unsigned long long)off);
	return fail(w, SNAP_ESYS);
}

/* The file is about to reach end: does --image-size allow it? */
static int
check_size(struct image_writer *w, uint64_t end)
{
	if (end <= w->opt.max_size && end <= FILE_MAX)
		return 0;
	if (w->failed == 0 && end > FILE_MAX)
		snap_warnx("%s: image would grow past the 256 TiB of its format", w->path);
	else if (w->failed == 0)
		snap_warnx("%s: image would grow past the --image-size of %llu bytes",
		    w->path, (unsigned long long)w->opt.max_size);
	return fail(w, SNAP_ESYS);
}

static uint64_t
slot_off(const struct image_writer *w, uint64_t slot)
{
	return w->head.data_off + slot * w->head.page_size;
}

/* ---- tables ---- */

static void
get_slot(const struct image_writer *w, uint64_t slot, uint64_t *page, uint32_t *crc)
{
	slot_get(&w->shape, w->unit_leaf[slot / w->shape.slots],
	    (unsigned)(slot % w->shape.slots), page, crc);
}

static void
put_slot(struct image_writer *w, uint64_t slot, uint64_t page, uint32_t crc)
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
				return fail_sys(w, ENOMEM, "unit table");
			w->unit_leaf = p;
			w->unit_leaf_cap = cap;
		}
		p = calloc(1, w->shape.leaf_size);
		if (p == NULL)
			return fail_sys(w, ENOMEM, "unit table");
		w->unit_leaf[w->nunit_leaf++] = p;
	}
	if (bytes > w->free_map_size) {
		cap = bytes + bytes / 4 + 4096;
		if ((p = realloc(w->free_map, cap)) == NULL)
			return fail_sys(w, ENOMEM, "free map");
		w->free_map = p;
		memset(w->free_map + w->free_map_size, 0, cap - w->free_map_size);
		w->free_map_size = cap;
	}
	return 0;
}

/* The leaf that describes page, made if there is none; NULL: out of memory. */
static struct page_leaf *
leaf_for(struct image_writer *w, uint64_t page)
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
set_page(struct image_writer *w, uint64_t page, enum page_state st, uint64_t slot)
{
	struct freed *fr = &w->freed[w->placed % w->nbatch];
	struct page_leaf *l = leaf_for(w, page);
	unsigned i = (unsigned)(page % LEAF_PAGES);
	enum page_state old;
	uint64_t was;

	if (l == NULL)
		return fail_sys(w, ENOMEM, "page table");
	old = leaf_get(l, i, &was);
	if (leaf_set(l, i, st, slot) != 0)
		return fail_sys(w, ENOMEM, "page table");
	if (old == PAGE_STORED) {
		put_slot(w, was, DEAD_PAGE, 0);
		fr->slot[fr->n++] = was;
	}
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
	uint64_t off = slot_off(w, slot);

	if (b->req.nrun > 0 && run[-1].off + run[-1].len == off) {
		run[-1].len += b->page_size;
		return;
	}
	run->buf = b->buf + (size_t)i * b->page_size;
	run->len = b->page_size;
	run->off = off;
	b->req.nrun++;
}

static void
submit(struct image_writer *w, struct batch *b, enum aio_op op,
    void (*work)(struct aio_req *))
{
	b->req.op = op;
	b->req.work = work;
	b->req.fd = w->data_fd;
	b->req.begin = w->opt.io_flags == 0 && !w->opt.unsafe;
	aio_submit(w->ring, &b->req);
}

static void
give_back(struct image_writer *w, struct batch *b)
{
	b->kind = BATCH_FILL;
	b->npage = b->nitem = 0;
	b->bad = 0;
	b->req.nrun = 0;
	w->idle[w->nidle++] = b;
}

/* All CRCs are there: give every page of b its slot, then write. */
static int
place(struct image_writer *w, struct batch *b)
{
	unsigned i, n = 0;
	int reuse, err = 0;
	uint64_t slot;

	release_freed(w, &w->freed[w->placed % w->nbatch]);
	reuse = w->nfree >= b->npage;
	if (!reuse) {
		err = grow_slots(w, b->npage);
		if (err == 0)
			err = check_size(w, slot_off(w, w->nslots + b->npage));
	}
	for (i = 0; i < b->nitem && err == 0; i++) {
		if (b->item[i] & 1) {
			err = set_page(w, b->item[i] / 2, PAGE_ZERO, 0);
			continue;
		}
		slot = reuse ? take_free(w) : w->nslots++;
		put_slot(w, slot, b->item[i] / 2, b->crc[n]);
		add_run(w, b, n++, slot);
		err = set_page(w, b->item[i] / 2, PAGE_STORED, slot);
	}
	w->placed++;
	if (err != 0) {
		give_back(w, b);
		return err;
	}
	/* Even without a page: its buffer MUST NOT be free before those ahead of it (I4). */
	submit(w, b, AIO_WRITE, NULL);
	return 0;
}

/* Pages for a move have been read: write them where they go. */
static int
move(struct image_writer *w, struct batch *b)
{
	unsigned i;

	if (b->bad) {
		if (w->failed == 0)
			snap_warnx("%s: a page reads back differently from what was written",
			    w->path);
		give_back(w, b);
		return fail(w, SNAP_ESYS);
	}
	b->req.nrun = 0;
	for (i = 0; i < b->npage; i++)
		add_run(w, b, i, b->item[i]);
	submit(w, b, AIO_WRITE, NULL);
	return 0;
}

/* A batch came back from the ring. */
static int
reaped(struct image_writer *w, struct aio_req *r)
{
	struct batch *b = r->arg;

	if (r->error != 0)
		fail_write(w, r->error, r->error_off);
	if (w->failed != 0 || r->op == AIO_WRITE) {
		give_back(w, b);
		return w->failed;
	}
	return b->kind == BATCH_MOVE ? move(w, b) : place(w, b);
}

/* Wait until nothing is in the ring. */
static int
finish_ring(struct image_writer *w)
{
	struct aio_req *r;

	while ((r = aio_wait(w->ring)) != NULL)
		reaped(w, r);
	return w->failed;
}

/* An empty batch. */
static struct batch *
take_batch(struct image_writer *w)
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
	if (!crc32c_is_quick())
		submit(w, b, AIO_WORK, checksum_batch);
	else if (w->failed == 0)
		place(w, b);
	else
		give_back(w, b);
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
		w->open = take_batch(w);
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
	struct batch *b = w->open;
	const uint8_t *p = b->buf + (size_t)b->npage * b->page_size;
	int zero = is_zero(p, b->page_size);

	b->item[b->nitem++] = page * 2 + (zero ? 1 : 0);
	if (zero)
		return;
	if (crc32c_is_quick())
		b->crc[b->npage] = crc32c(0, p, b->page_size);
	b->npage++;
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
	if (w->nfree == 0)
		return 0;
	live = w->nslots - w->nfree;
	for (from = live; from < w->nslots && w->failed == 0; from++) {
		if (is_free(w, from))
			continue;
		to = take_free(w);
		if (b == NULL) {
			b = take_batch(w);
			b->kind = BATCH_MOVE;
		}
		get_slot(w, from, &page, &b->crc[b->npage]);
		put_slot(w, to, page, b->crc[b->npage]);
		l = leaf_for(w, page);
		leaf_set(l, (unsigned)(page % LEAF_PAGES), PAGE_STORED, to);
		add_run(w, b, b->npage, from);
		b->item[b->npage++] = to;
		if (b->npage == w->per_batch) {
			submit(w, b, AIO_READ, verify_batch);
			b = NULL;
		}
	}
	if (b != NULL)
		submit(w, b, AIO_READ, verify_batch);
	if (finish_ring(w) != 0)
		return w->failed;
	w->nslots = live;
	if ((err = io_truncate(w->fd, slot_off(w, live))) != 0)
		return fail_write(w, err, slot_off(w, live));
	return 0;
}

/* ---- what follows the data ---- */

static int
flush_append(struct image_writer *w)
{
	uint64_t end = w->append_off + w->append_len;
	int err;

	if (w->failed != 0 || check_size(w, end) != 0)
		return w->failed;
	err = io_pwrite(w->fd, w->append_buf, w->append_len, w->append_off);
	if (err != 0)
		return fail_write(w, err, w->append_off);
	w->append_off = end;
	w->append_len = 0;
	if (end > w->written_end)
		w->written_end = end;
	return 0;
}

static int
append(struct image_writer *w, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	size_t n;

	w->append_crc = crc32c(w->append_crc, p, len);
	while (len > 0 && w->failed == 0) {
		n = APPEND_SIZE - w->append_len;
		if (n > len)
			n = len;
		memcpy(w->append_buf + w->append_len, p, n);
		w->append_len += n;
		p += n;
		len -= n;
		if (w->append_len == APPEND_SIZE)
			flush_append(w);
	}
	return w->failed;
}

static struct section *
begin_section(struct image_writer *w, uint32_t type)
{
	struct section *s = &w->foot.sec[w->foot.nsec++];

	s->type = type;
	s->off = w->append_off + w->append_len;
	w->append_crc = 0;
	return s;
}

static void
end_section(struct image_writer *w, struct section *s)
{
	s->len = w->append_off + w->append_len - s->off;
	if (s->type >= SEC_WHOLE)
		s->crc = w->append_crc;
}

static int
append_section(struct image_writer *w, uint32_t type, const void *buf, size_t len)
{
	struct section *s = begin_section(w, type);

	append(w, buf, len);
	end_section(w, s);
	return w->failed;
}

/* Unit records follow from the slots: raw units, back to back. */
static void
write_units(struct image_writer *w)
{
	const struct unit_shape *us = &w->shape;
	struct section *sec = begin_section(w, SEC_UNITS);
	uint64_t slot = 0, page, units = (w->nslots + us->pages - 1) / us->pages;
	struct crc32c_join join;
	struct unit_record r;
	struct part part;
	unsigned u, i;
	uint32_t crc;
	uint8_t *leaf;

	crc32c_join_init(&join, w->head.page_size);
	part.kind = PART_UNITS;
	part.tag = w->foot.tag;
	for (part.index = 0; slot < w->nslots; part.index++) {
		leaf = w->unit_leaf[part.index];
		part.count = us->per_leaf;
		if (units - part.index * us->per_leaf < us->per_leaf)
			part.count = (uint32_t)(units - part.index * us->per_leaf);
		part.len = PART_HEADER + part.count * us->size;
		for (u = 0; u < part.count; u++) {
			r.off = slot_off(w, slot);
			r.crc = 0;
			for (i = 0; i < us->pages && slot < w->nslots; i++, slot++) {
				get_slot(w, slot, &page, &crc);
				r.crc = i == 0 ? crc : crc32c_join(&join, r.crc, crc);
			}
			r.codec = 0;
			r.count = (uint8_t)(i - 1);
			r.len = i * w->head.page_size;
			unit_put(us, leaf, u, &r);
			for (; i < us->pages; i++)
				slot_put(us, leaf, u * us->pages + i, 0, 0);
		}
		part_seal(leaf, &part);
		append(w, leaf, part.len);
	}
	end_section(w, sec);
}

/* What a node says of a leaf or the root of a node, when it is not a length. */
enum { ALL_ABSENT = 0, ALL_ZERO = 1 };

/* Write a node or the root: where its first child lies, and their lengths. */
static size_t
write_node(struct image_writer *w, uint32_t kind, uint64_t index, uint64_t first,
    const uint16_t *len, uint32_t n)
{
	size_t size = (PART_HEADER + 8 + 2 * (size_t)n + GRANULE - 1) / GRANULE * GRANULE;
	uint8_t buf[PART_HEADER + 8 + 2 * NODE_LEAVES + GRANULE];
	struct part part;
	uint32_t i;

	memset(buf, 0, size);
	put_le64(buf + PART_HEADER, first);
	for (i = 0; i < n; i++)
		put_le16(buf + PART_HEADER + 8 + 2 * i, len[i]);
	part.kind = kind;
	part.tag = w->foot.tag;
	part.index = index;
	part.len = (uint32_t)size;
	part.count = n;
	part_seal(buf, &part);
	append(w, buf, size);
	return size;
}

/* Write one leaf, if it needs to be; what its node says of it. */
static uint16_t
write_leaf(struct image_writer *w, const struct page_leaf *l, uint64_t index)
{
	uint32_t n = share_of(w->ram->npages, LEAF_PAGES, index);
	uint64_t count[4] = { 0, 0, 0, 0 };
	uint8_t buf[PART_MAX];
	size_t len;

	if (l == NULL)
		return ALL_ABSENT;
	leaf_count(l, n, count);
	w->foot.zero += count[PAGE_ZERO];
	w->foot.stored += count[PAGE_STORED];
	if (count[PAGE_ABSENT] == n)
		return ALL_ABSENT;
	if (count[PAGE_ZERO] == n)
		return ALL_ZERO;
	len = leaf_size(l);
	leaf_encode(l, buf, w->foot.tag, index);
	append(w, buf, len);
	return (uint16_t)(len / GRANULE);
}

struct node_lengths {
	uint64_t first;
	uint16_t len[NODE_LEAVES];
};

static int
same_lengths(const uint16_t *len, uint32_t n, uint16_t v)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		if (len[i] != v)
			return 0;
	return 1;
}

static void
write_pages(struct image_writer *w)
{
	uint64_t leaves = (w->ram->npages + LEAF_PAGES - 1) / LEAF_PAGES;
	uint32_t nodes = (uint32_t)((leaves + NODE_LEAVES - 1) / NODE_LEAVES), n, k, i;
	struct node_lengths **nl = calloc((size_t)nodes + 1, sizeof *nl);
	uint16_t *root = calloc((size_t)nodes + 1, sizeof *root);
	struct section *sec;
	uint64_t first;

	sec = begin_section(w, SEC_PAGES);
	for (k = 0; k < nodes && nl != NULL && root != NULL && w->failed == 0; k++) {
		if (w->node[k] == NULL)
			continue;
		if ((nl[k] = calloc(1, sizeof **nl)) == NULL)
			break;
		nl[k]->first = w->append_off + w->append_len;
		n = share_of(leaves, NODE_LEAVES, k);
		for (i = 0; i < n; i++)
			nl[k]->len[i] = write_leaf(w, w->node[k][i],
			    (uint64_t)k * NODE_LEAVES + i);
	}
	if (nl == NULL || root == NULL || (k < nodes && w->failed == 0)) {
		fail_sys(w, ENOMEM, "page table");
		goto out;
	}
	end_section(w, sec);

	sec = begin_section(w, SEC_NODES);
	first = sec->off;
	for (k = 0; k < nodes; k++) {
		n = share_of(leaves, NODE_LEAVES, k);
		if (nl[k] == NULL || same_lengths(nl[k]->len, n, ALL_ABSENT))
			root[k] = ALL_ABSENT;
		else if (same_lengths(nl[k]->len, n, ALL_ZERO))
			root[k] = ALL_ZERO;
		else
			root[k] = (uint16_t)(write_node(w, PART_NODE, k, nl[k]->first,
			    nl[k]->len, n) / GRANULE);
	}
	end_section(w, sec);

	sec = begin_section(w, SEC_ROOT);
	write_node(w, PART_ROOT, 0, first, root, nodes);
	end_section(w, sec);
out:
	for (k = 0; nl != NULL && k < nodes; k++)
		free(nl[k]);
	free(nl);
	free(root);
}

/* ---- identity ---- */

/*
 * A name for content, 128 bits: not a proof against forgery, as nothing in an
 * image is, but two different guests will not meet in it by chance.
 */
struct digest {
	uint64_t a, b;
};

static void
digest_add(struct digest *d, uint64_t v)
{
	d->a = (d->a ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	d->a ^= d->a >> 29;
	d->b = (d->b + v) * UINT64_C(0xc2b2ae3d27d4eb4f) ^ d->a;
	d->b ^= d->b >> 31;
}

/* Of RAM: which page lies in which slot with which CRC, and what is zero. */
static void
digest_ram(const struct image_writer *w, struct digest *d)
{
	uint64_t leaves = (w->ram->npages + LEAF_PAGES - 1) / LEAF_PAGES, i, page;
	const struct page_leaf *l;
	uint32_t crc;
	size_t k;

	digest_add(d, w->ram->npages);
	for (i = 0; i < w->nslots; i++) {
		get_slot(w, i, &page, &crc);
		digest_add(d, page);
		digest_add(d, crc);
	}
	for (i = 0; i < leaves; i++) {
		if (w->node[i / NODE_LEAVES] == NULL ||
		    (l = w->node[i / NODE_LEAVES][i % NODE_LEAVES]) == NULL)
			continue;
		digest_add(d, i);
		for (k = 0; k < LEAF_STATES; k += 8)
			digest_add(d, get_le64(l->state + k));
	}
}

static void
random_bytes(uint8_t *p, size_t n)
{
	FILE *f = fopen("/dev/urandom", "rb");
	struct digest d = { 1, 2 };
	struct timespec ts;
	size_t got = 0;

	if (f != NULL) {
		got = fread(p, 1, n, f);
		fclose(f);
	}
	/* Without a source of randomness: the time, and where the kernel put us. */
	clock_gettime(CLOCK_REALTIME, &ts);
	digest_add(&d, (uint64_t)ts.tv_sec);
	digest_add(&d, (uint64_t)ts.tv_nsec);
	digest_add(&d, (uint64_t)(uintptr_t)&d);
	for (; got < n; got++) {
		digest_add(&d, got);
		p[got] = (uint8_t)(d.b >> 24);
	}
}

/* The table tag, which the parts carry; known once all slots are. */
static void
make_tag(struct image_writer *w)
{
	uint8_t r[8];
	struct digest d = { 3, 4 };

	if (w->opt.reproducible) {
		digest_ram(w, &d);
		w->foot.tag = d.a ^ d.b;
	} else {
		random_bytes(r, sizeof r);
		w->foot.tag = get_le64(r);
	}
}

/* UUID of version 4 (random) or 8 (from the content), and the time. */
static void
make_uuid(struct image_writer *w)
{
	struct digest d = { 5, 6 };
	uint32_t i;

	if (w->opt.reproducible) {
		digest_add(&d, w->foot.tag);
		digest_add(&d, w->head.crc);
		digest_add(&d, w->foot.flags);
		for (i = 0; i < w->foot.nsec; i++) {
			digest_add(&d, w->foot.sec[i].len);
			digest_add(&d, w->foot.sec[i].crc);
			digest_add(&d, w->foot.sec[i].extra);
		}
		put_le64(w->foot.uuid, d.a);
		put_le64(w->foot.uuid + 8, d.b);
	} else {
		random_bytes(w->foot.uuid, sizeof w->foot.uuid);
	}
	w->foot.uuid[6] = (uint8_t)((w->foot.uuid[6] & 15) |
	    (w->opt.reproducible ? 0x80 : 0x40));
	w->foot.uuid[8] = (uint8_t)((w->foot.uuid[8] & 0x3f) | 0x80);
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
	w->fd = w->data_fd = w->older_fd = w->dir_fd = -1;
	if (!may_replace(path, &w->older_size)) {
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

	if ((flags & IO_DIRECT) && w->head.page_size % 4096 != 0) {
		snap_warnx("%s: no direct I/O with pages of %u bytes", w->path,
		    (unsigned)w->head.page_size);
		flags &= ~IO_DIRECT;
	}
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

	if (io_room(w->fd, &avail) == 0 && avail < ram + ram / 100)
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
		if (b->buf == NULL || b->item == NULL || b->crc == NULL ||
		    b->run == NULL || w->freed[i].slot == NULL)
			return -1;
		b->req.arg = b;
		b->req.run = b->run;
		give_back(w, b);
	}
	return 0;
}

int
image_begin(struct image_writer *w, const struct ram_map *ram)
{
	uint8_t head[HEADER_SIZE];
	int err;

	w->ram = ram;
	w->head.page_size = ram->page_size;
	w->head.unit_pages = w->opt.unit_pages;
	w->head.cluster_size = w->opt.cluster_size;
	w->head.data_off = ram->page_size > HEADER_SIZE ? ram->page_size : HEADER_SIZE;
	header_encode(head, &w->head);
	w->foot.header_crc = w->head.crc;
	w->foot.npages = ram->npages;
	/* The moment that a background snapshot shows is just over. */
	w->foot.time = w->opt.reproducible ? 0 : (uint64_t)time(NULL);
	w->per_batch = w->opt.cluster_size / ram->page_size;
	if (w->per_batch > ITEMS_MAX)
		w->per_batch = ITEMS_MAX;
	unit_shape(&w->shape, w->opt.unit_pages);
	w->node = calloc(ROOT_NODES, sizeof *w->node);
	w->append_buf = malloc(APPEND_SIZE);
	w->nbatch = BATCHES_SIZE / w->opt.cluster_size;
	w->nbatch = w->nbatch < 2 ? 2 : w->nbatch > BATCHES ? BATCHES : w->nbatch;
	w->ring = aio_new(w->opt.threads, w->nbatch + 1);
	if (w->node == NULL || w->append_buf == NULL || w->ring == NULL ||
	    make_batches(w) != 0)
		return fail_sys(w, ENOMEM, "buffers");
	open_data(w);
	warn_of_room(w);
	if ((err = io_pwrite(w->fd, head, sizeof head, 0)) != 0)
		return fail_write(w, err, 0);
	/* What lies between header and data is zero, and there. */
	memset(head, 0, sizeof head);
	for (w->written_end = HEADER_SIZE; w->written_end < w->head.data_off;
	    w->written_end += sizeof head)
		if ((err = io_pwrite(w->fd, head, sizeof head, w->written_end)) != 0)
			return fail_write(w, err, w->written_end);
	return 0;
}

static int
sync_file(struct image_writer *w)
{
	int err;

	if (w->failed != 0 || w->opt.unsafe)
		return w->failed;
	if ((err = io_sync(w->fd)) != 0)
		return fail_sys(w, err, "sync");
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
		free(w->freed[i].slot);
		memset(&w->batch[i], 0, sizeof w->batch[i]);
		memset(&w->freed[i], 0, sizeof w->freed[i]);
	}
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
	if (finish_ring(w) != 0 || compact(w) != 0)
		return w->failed;
	free_batches(w);
	if (len == 0) {
		snap_warnx("%s: more RAM blocks than an image can describe", w->path);
		return fail(w, SNAP_EDATA);
	}
	w->foot.flags = flags;
	w->foot.slots = w->nslots;
	make_tag(w);
	w->append_off = w->head.data_off;
	s = begin_section(w, SEC_DATA);
	w->append_off = slot_off(w, w->nslots);
	end_section(w, s);
	write_units(w);
	write_pages(w);
	append_section(w, SEC_RAM_MAP, map, len);
	for (i = 0; i < nb; i++)
		if (b[i].len > 0)
			append_section(w, b[i].type, b[i].buf, b[i].len);
	if (w->failed != 0 || flush_append(w) != 0)
		return w->failed;
	begin_section(w, SEC_TAIL);
	return sync_file(w);
}

int
image_tail(struct image_writer *w, const void *buf, size_t len)
{
	return append(w, buf, len);
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
	if (flush_append(w) != 0)
		return w->failed;
	end = w->append_off + more + FOOTER_SIZE;
	if (check_size(w, end) != 0)
		return w->failed;
	memset(zero, 0, sizeof zero);
	while (w->written_end < end) {
		n = end - w->written_end < sizeof zero ?
		    (size_t)(end - w->written_end) : sizeof zero;
		if ((err = io_pwrite(w->fd, zero, n, w->written_end)) != 0)
			return fail_write(w, err, w->written_end);
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
	return fail_sys(w, err, what);
}

static int
take_name(struct image_writer *w)
{
	int err = w->opt.unsafe ? 0 : io_keep(w->path, &w->older, &w->older_fd);

	/* A file system that knows no second names is no reason to fail. */
	if (err != ENOMEM)
		err = io_rename(w->tmp, w->path);
	if (err != 0)
		return fail_sys(w, err, "cannot take its name, whatever QEMU says");
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

	end_section(w, tail);
	tail->extra = split;
	make_uuid(w);
	w->foot.file_len = tail->off + tail->len + FOOTER_SIZE;
	footer_encode(foot, &w->foot);
	append(w, foot, sizeof foot);
	if (w->failed != 0 || flush_append(w) != 0)
		return w->failed;
	if (w->written_end > w->foot.file_len &&
	    (err = io_truncate(w->fd, w->foot.file_len)) != 0)
		return fail_write(w, err, w->foot.file_len);
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
	free(w->unit_leaf);
	free(w->free_map);
	free(w->append_buf);
	free(w->tmp);
	free(w->path);
	free(w);
}
