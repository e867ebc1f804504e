/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * diff.c -- what changed between two images, by block of memory.
 *
 * Both tables are gone through at once, in the order of the guest, from one page that has
 * bytes to the next; a page that has none is zero or absent, which is the same here.  Where
 * both have bytes the CRCs in the tables decide, and no page is read.
 *
 * With --paranoid, pages whose CRCs agree are read, in batches of two fetches with the same
 * pages.  What is known of other pages meanwhile waits in the batch, so that everything is
 * told in order.  A batch comes back when the ring is full, and all do at the end of a block.
 *
 * Memory does not follow the guest: ranges are printed as soon as they end, before the counts
 * of their block.  Without ranges, nothing is printed before all is known.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "json.h"
#include "options.h"
#include "snap.h"

enum kind { CHANGED, APPEARED, BECAME_ZERO, KINDS, UNREAD };

static const char *const kind_name[KINDS] = { "changed", "appeared", "became-zero" };

/* A block, in the image or the images that have it. */
struct row {
	const struct ram_block *a, *b;	/* NULL: not in this one */
	const char *left_out;	/* of "A", "B" or "both", or NULL: see image_left_out() */
	uint64_t n[KINDS];	/* pages */
};

/* One of the images, and the page of a block that it is at: the next one with bytes. */
struct side {
	struct image *im;
	uint64_t first, end;	/* the block's pages in the image */
	uint64_t page;
	int state;
	uint64_t entry;
};

enum {
	DEPTH = 8,		/* batches that are read at once */
	FETCH_SIZE = 256 << 10,	/* bytes of a fetch */
	EVENTS = 1024		/* pages of which a batch knows something */
};

struct event {
	uint64_t page;		/* of the block */
	enum kind kind;		/* UNREAD: the next page of the fetches decides */
};

struct batch {
	struct image_fetch a, b;
	struct event event[EVENTS];
	unsigned n;
};

struct diff {
	const struct options *opt;
	struct side a, b;
	uint32_t page_size;
	struct row *row;
	size_t nrow;
	uint64_t total[KINDS];

	struct row *now;	/* whose pages are gone through */
	uint64_t from, len;	/* the range that may still grow, in pages; len 0: none */
	enum kind kind;		/* of it */
	int listed;		/* ranges of the block were printed */

	struct aio *ring;	/* NULL: no page is read */
	struct batch *batch;	/* DEPTH of them, used in turn */
	unsigned filled, taken;	/* batches, ever */
	const struct image *holder_a, *holder_b;	/* asked about last, */
	int same_holder;	/* and the answer */
};

/* Is there something to compare? */
static int
is_compared(const struct row *r)
{
	return r->a != NULL && r->b != NULL && r->left_out == NULL;
}

/* ---- for people and for programs ---- */

static void
print_header(const struct diff *d)
{
	print_line("A              %s", image_path(d->a.im));
	print_line("B              %s", image_path(d->b.im));
	printf("page size      %u bytes\n\n", (unsigned)d->page_size);
	if (d->opt->list)
		printf("%16s %16s  %-11s  block\n", "offset", "length", "what");
}

static void
print_image(const char *key, const struct image *im)
{
	char uuid[37];

	uuid_format(uuid, image_footer(im)->uuid);
	printf("  \"%s\": ", key);
	json_print("{\"image\": ", image_path(im));
	printf(", \"uuid\": \"%s\"},\n", uuid);
}

static void
print_json_header(const struct diff *d)
{
	puts("{");
	print_image("a", d->a.im);
	print_image("b", d->b.im);
	printf("  \"page-size\": %u,\n", (unsigned)d->page_size);
	printf("  \"paranoid\": %s,\n", d->opt->paranoid ? "true" : "false");
	fputs("  \"blocks\": [", stdout);
}

static void
print_json_length(const char *key, const struct ram_block *b)
{
	if (b == NULL)
		printf(", \"%s\": null", key);
	else
		printf(", \"%s\": %llu", key, (ull)b->len);
}

static void
print_json_pages(const uint64_t n[KINDS])
{
	int k;

	fputs("\"pages\": {", stdout);
	for (k = 0; k < KINDS; k++)
		printf("%s\"%s\": %llu", k == 0 ? "" : ", ", kind_name[k], (ull)n[k]);
	putchar('}');
}

/* A block, up to where its ranges come. */
static void
print_json_row(const struct diff *d, const struct row *r)
{
	json_print(r == d->row ? "\n    {\"id\": " : ",\n    {\"id\": ",
	    r->a != NULL ? r->a->id : r->b->id);
	print_json_length("length-a", r->a);
	print_json_length("length-b", r->b);
	if (d->opt->list)
		fputs(", \"ranges\": [", stdout);
}

static void
print_json_row_end(const struct diff *d, const struct row *r)
{
	if (d->opt->list)
		fputs(d->listed ? "\n    ]" : "]", stdout);
	fputs(", ", stdout);
	if (is_compared(r))
		print_json_pages(r->n);
	else
		fputs("\"pages\": null", stdout);
	putchar('}');
}

static void
print_json_end(const struct diff *d)
{
	const struct row *r;

	for (r = d->row; !d->opt->list && r < d->row + d->nrow; r++) {
		print_json_row(d, r);
		print_json_row_end(d, r);
	}
	fputs("\n  ],\n  ", stdout);
	print_json_pages(d->total);
	puts("\n}");
}

static void
print_range(struct diff *d)
{
	ull off = d->from * d->page_size, len = d->len * d->page_size;

	if (d->opt->json)
		printf("%s\n      {\"offset\": %llu, \"length\": %llu, \"kind\": \"%s\"}",
		    d->listed ? "," : "", off, len, kind_name[d->kind]);
	else
		print_line("%#16llx %#16llx  %-11s  %s", off, len, kind_name[d->kind],
		    d->now->a->id);
	d->listed = 1;
}

static void
print_counts(const uint64_t n[KINDS])
{
	printf("%12llu %12llu %12llu  ", (ull)n[CHANGED], (ull)n[APPEARED], (ull)n[BECAME_ZERO]);
}

/* A block that has no counts. */
static void
print_only(const struct row *r)
{
	const struct ram_block *b = r->a != NULL ? r->a : r->b;

	printf("%12s %12s %12s  ", "-", "-", "-");
	if (r->left_out != NULL)
		print_line("%s, left out of %s by x-ignore-shared", b->id, r->left_out);
	else
		print_line("%s, only in %s: %llu bytes", b->id, r->a != NULL ? "A" : "B",
		    (ull)b->len);
}

static void
print_table(const struct diff *d)
{
	const struct row *r;

	if (d->opt->list)
		putchar('\n');
	printf("%12s %12s %12s  block\n", "changed", "appeared", "became zero");
	for (r = d->row; r < d->row + d->nrow; r++) {
		if (!is_compared(r)) {
			print_only(r);
			continue;
		}
		print_counts(r->n);
		if (r->a->len == r->b->len)
			print_line("%s", r->a->id);
		else
			print_line("%s, where both have it: %llu bytes in A, %llu in B", r->a->id,
			    (ull)r->a->len, (ull)r->b->len);
	}
	print_counts(d->total);
	puts("total");
}

/* ---- what is known of pages ---- */

static void
end_range(struct diff *d)
{
	if (d->len > 0 && d->opt->list)
		print_range(d);
	d->len = 0;
}

/* A page of the block is different; they come in order. */
static void
note(struct diff *d, uint64_t page, enum kind kind)
{
	d->now->n[kind]++;
	d->total[kind]++;
	if (d->len == 0 || kind != d->kind || page != d->from + d->len) {
		end_range(d);
		d->from = page;
		d->kind = kind;
	}
	d->len++;
}

/* Wait for the oldest batch, and tell what came of it. */
static int
take_batch(struct diff *d)
{
	struct batch *b = &d->batch[d->taken++ % DEPTH];
	unsigned i, k = 0;
	int err;

	aio_wait(d->ring);
	aio_wait(d->ring);
	if ((err = fetch_check(&b->a)) != 0 || (err = fetch_check(&b->b)) != 0)
		return err;
	for (i = 0; i < b->n; i++) {
		if (b->event[i].kind != UNREAD)
			note(d, b->event[i].page, b->event[i].kind);
		else {
			if (memcmp(fetch_data(&b->a, k), fetch_data(&b->b, k), d->page_size) != 0)
				note(d, b->event[i].page, CHANGED);
			k++;
		}
	}
	return 0;
}

/* Have the batch read, and an empty one in its place. */
static int
submit_batch(struct diff *d)
{
	struct batch *b = &d->batch[d->filled++ % DEPTH];
	int err;

	aio_submit(d->ring, &b->a.req);
	aio_submit(d->ring, &b->b.req);
	if (d->filled - d->taken == DEPTH && (err = take_batch(d)) != 0)
		return err;
	b = &d->batch[d->filled % DEPTH];
	fetch_reset(&b->a);
	fetch_reset(&b->b);
	b->n = 0;
	return 0;
}

/* All that is known has been told. */
static int
drain(struct diff *d)
{
	int err = submit_batch(d);

	while (err == 0 && d->taken < d->filled)
		err = take_batch(d);
	return err;
}

/* What is known of a page is told now, or when its turn has come. */
static int
found(struct diff *d, uint64_t page, enum kind kind)
{
	struct batch *b;

	if (d->ring == NULL) {
		note(d, page, kind);
		return 0;
	}
	b = &d->batch[d->filled % DEPTH];
	b->event[b->n].page = page;
	b->event[b->n++].kind = kind;
	return b->n == EVENTS ? submit_batch(d) : 0;
}

/* Have the bytes of the page read on both sides. */
static int
read_both(struct diff *d)
{
	struct batch *b = &d->batch[d->filled % DEPTH];
	int err;

	if (fetch_is_full(&b->a) || fetch_is_full(&b->b)) {
		if ((err = submit_batch(d)) != 0)
			return err;
		b = &d->batch[d->filled % DEPTH];
	}
	if ((err = fetch_add(&b->a, d->a.page, d->a.state, d->a.entry)) != 0 ||
	    (err = fetch_add(&b->b, d->b.page, d->b.state, d->b.entry)) != 0)
		return err;
	return found(d, d->a.page - d->a.first, UNREAD);
}

/*
 * Do both sides have the page from the same place?  An image, be it an ancestor or one of
 * the two, has one place for a page.  Files are compared: UUIDs may be derived from CRCs.
 */
static int
is_same_place(struct diff *d)
{
	const struct image *a = image_holder(d->a.im, d->a.state, d->a.entry);
	const struct image *b = image_holder(d->b.im, d->b.state, d->b.entry);

	if (a != d->holder_a || b != d->holder_b) {
		d->holder_a = a;
		d->holder_b = b;
		d->same_holder = image_is_same(a, b);
	}
	return d->same_holder && d->a.page == d->b.page;
}

/* Both sides have bytes of the page. */
static int
compare(struct diff *d)
{
	uint32_t crc_a, crc_b;
	int err;

	if ((err = image_crc(d->a.im, d->a.page, d->a.state, d->a.entry, &crc_a)) != 0 ||
	    (err = image_crc(d->b.im, d->b.page, d->b.state, d->b.entry, &crc_b)) != 0)
		return err;
	if (crc_a != crc_b)
		return found(d, d->a.page - d->a.first, CHANGED);
	return d->ring == NULL || is_same_place(d) ? 0 : read_both(d);
}

/* ---- through the blocks ---- */

/* To the next page that has bytes, from the one the side is at on. */
static int
find_next(struct side *s)
{
	s->state = image_next_bytes(s->im, &s->page, s->end, &s->entry);
	return s->state < 0 ? s->state : 0;
}

static int
begin_side(struct side *s, const struct ram_block *b, uint64_t npages)
{
	s->first = s->page = b->first;
	s->end = b->first + npages;
	return find_next(s);
}

/* The first npages of the block; a side without a further page with bytes is at its end. */
static int
compare_block(struct diff *d, uint64_t npages)
{
	uint64_t at_a, at_b;
	int err;

	if ((err = begin_side(&d->a, d->now->a, npages)) != 0 ||
	    (err = begin_side(&d->b, d->now->b, npages)) != 0)
		return err;
	for (;;) {
		at_a = d->a.page - d->a.first;
		at_b = d->b.page - d->b.first;
		if (at_a == npages && at_b == npages)
			break;
		if (at_a < at_b)
			err = found(d, at_a, BECAME_ZERO);
		else
			err = at_a > at_b ? found(d, at_b, APPEARED) : compare(d);
		if (err == 0 && at_a <= at_b) {
			d->a.page++;
			err = find_next(&d->a);
		}
		if (err == 0 && at_b <= at_a) {
			d->b.page++;
			err = find_next(&d->b);
		}
		if (err != 0)
			return err;
	}
	return d->ring != NULL ? drain(d) : 0;
}

/* Did x-ignore-shared leave a block that both have out of one?  Then all of it would seem to have
 * changed. */
static int
find_left_out(struct diff *d, struct row *r)
{
	static const char *const where[] = { NULL, "A", "B", "both" };
	int a, b;

	if (r->a == NULL || r->b == NULL)
		return 0;
	if ((a = image_left_out(d->a.im, r->a)) < 0)
		return a;
	if ((b = image_left_out(d->b.im, r->b)) < 0)
		return b;
	r->left_out = where[a + 2 * b];
	return 0;
}

static int
do_row(struct diff *d, struct row *r)
{
	uint64_t len;
	int err;

	d->now = r;
	d->listed = 0;
	if ((err = find_left_out(d, r)) != 0)
		return err;
	if (d->opt->json && d->opt->list)
		print_json_row(d, r);
	if (is_compared(r)) {
		len = r->a->len < r->b->len ? r->a->len : r->b->len;
		if ((err = compare_block(d, len / d->page_size)) != 0)
			return err;
		end_range(d);
	}
	if (d->opt->json && d->opt->list)
		print_json_row_end(d, r);
	return 0;
}

static int
do_rows(struct diff *d)
{
	void (*header)(const struct diff *) = d->opt->json ? print_json_header : print_header;
	struct row *r;
	int err;

	if (d->opt->list)
		header(d);
	for (r = d->row; r < d->row + d->nrow; r++)
		if ((err = do_row(d, r)) != 0)
			return err;
	if (!d->opt->list)
		header(d);
	if (d->opt->json)
		print_json_end(d);
	else
		print_table(d);
	return 0;
}

/* The blocks of A in their order, then those that only B has. */
static int
make_rows(struct diff *d)
{
	const struct ram_map *a = image_ram(d->a.im), *b = image_ram(d->b.im);
	size_t i;

	if ((d->row = calloc(a->nblk + b->nblk, sizeof *d->row)) == NULL)
		return snap_warn(ENOMEM, "%s", image_path(d->a.im));
	for (i = 0; i < a->nblk; i++) {
		d->row[d->nrow].a = &a->blk[i];
		d->row[d->nrow++].b = ram_map_named(b, a->blk[i].id);
	}
	for (i = 0; i < b->nblk; i++)
		if (ram_map_named(a, b->blk[i].id) == NULL)
			d->row[d->nrow++].b = &b->blk[i];
	return 0;
}

/* ---- all of it ---- */

static int
open_side(struct side *s, const char *path, const struct options *o)
{
	int err;

	if ((s->im = image_open(path, o->io_flags, &err)) == NULL)
		return err;
	image_keep_few_leaves(s->im);
	return o->paranoid ? image_open_ancestors(s->im) : 0;
}

static int
make_batches(struct diff *d)
{
	unsigned max = FETCH_SIZE / d->page_size, i;

	d->batch = calloc(DEPTH, sizeof *d->batch);
	d->ring = aio_new(options_threads(d->opt, 0), 2 * DEPTH);
	if (d->batch == NULL || d->ring == NULL)
		return snap_warn(ENOMEM, "%s", image_path(d->a.im));
	for (i = 0; i < DEPTH; i++)
		if (fetch_init(&d->batch[i].a, d->a.im, max) != 0 ||
		    fetch_init(&d->batch[i].b, d->b.im, max) != 0)
			return SNAP_ESYS;
	return 0;
}

static int
diff(struct diff *d)
{
	const struct options *o = d->opt;
	int err;

	if ((err = open_side(&d->a, o->file[0], o)) != 0 ||
	    (err = open_side(&d->b, o->file[1], o)) != 0)
		return err;
	d->page_size = image_header(d->a.im)->page_size;
	if (d->page_size != image_header(d->b.im)->page_size)
		return snap_warnx("%s: pages of %u bytes cannot be compared with those of %u in %s",
		    o->file[0], (unsigned)d->page_size,
		    (unsigned)image_header(d->b.im)->page_size, o->file[1]);
	if ((err = make_rows(d)) != 0 || (o->paranoid && (err = make_batches(d)) != 0))
		return err;
	return do_rows(d);
}

int
run_diff(const struct options *o)
{
	struct diff d;
	unsigned i;
	int err;

	memset(&d, 0, sizeof d);
	d.opt = o;
	err = diff(&d);
	aio_free(d.ring);
	for (i = 0; d.batch != NULL && i < DEPTH; i++) {
		fetch_free(&d.batch[i].a);
		fetch_free(&d.batch[i].b);
	}
	free(d.batch);
	free(d.row);
	image_close(d.a.im);
	image_close(d.b.im);
	return close_stdout(err);
}
