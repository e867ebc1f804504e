/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * write_fuzz.c -- the writer of images, with a codec, with a base, with pages that come again.
 *
 * An input is a guest and up to three images of it, each based on the one before, or not: a few
 * bytes of options, then what is put, a few bytes each.  It is built with units that close ranks
 * every few batches (see run), not only at the end.
 *
 * Checked: each image is good, and every page of it, by its number and in a scan, is what was put
 * last; one that equals the base's is not stored again, if that is raw.
 */
#define _GNU_SOURCE
#include <string.h>
#include <unistd.h>

#include "../../bytes.h"
#include "../../codec.h"
#include "../../crc32c.h"
#include "../../image.h"
#include "fuzz.h"
#include "page.h"

int LLVMFuzzerInitialize(int *, char ***);

enum {
	HEAP = 256 << 20,
	TIME_MS = 10000,
	IMAGES = 3,
	PAGES = 700,		/* of a guest, which may have a hole of absent ones */
	PUTS_MAX = 6000,	/* pages put for an image */
	HOLE = 3 * LEAF_PAGES,	/* pages */
	PAGE_MAX = 4096		/* bytes */
};

/* What a page holds. */
struct content {
	uint8_t kind, seed;
};

enum {
	ABSENT,
	ZERO,
	FILLED,			/* with one byte */
	NOISE,
	HALF,			/* of it noise */
	TWIN			/* noise with another's CRC */
};

static const char *dir;
static uint8_t noise[256][PAGE_MAX];

static void
image_name(char s[96], unsigned i)
{
	snprintf(s, 96, "%s/%u", dir, i);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	uint64_t x = 1;
	size_t i;

	(void)argc;
	(void)argv;
	crc32c_init();
	for (i = 0; i < sizeof noise; i += 8)
		put_le64(&noise[0][0] + i, chance_next(&x));
	dir = fuzz_directory();
	return 0;
}

/* ---- the input ---- */

static const uint8_t *next, *end;

static unsigned
byte(void)
{
	return next < end ? *next++ : 0;
}

/* ---- pages ---- */

static void
fill(uint8_t *p, size_t size, struct content c)
{
	size_t n = c.kind == HALF ? size / 2 : c.kind == NOISE || c.kind == TWIN ? size : 0;

	memset(p, c.kind == FILLED || c.kind == HALF ? c.seed : 0, size);
	memcpy(p, noise[c.seed], n);
	if (c.kind == TWIN)	/* the polynomial, to which all CRCs are blind */
		put_le64(p, get_le64(p) ^ (1 | UINT64_C(0x82f63b78) << 1));
}

static int
is_zero(struct content c)
{
	return c.kind == ZERO || (c.kind == FILLED && c.seed == 0);
}

static struct content
content(unsigned kind, unsigned seed)
{
	struct content c;

	c.kind = (uint8_t)(ZERO + kind % 5);
	c.seed = (uint8_t)seed;
	return c;
}

/* ---- the guest ---- */

struct guest {
	struct ram_map ram;
	struct ram_block blk[2];
	unsigned n;		/* pages with numbers below PAGES */
	struct content is[PAGES];
};

/* The number of the i-th of n pages: behind the first 400 is a hole. */
static uint64_t
number(unsigned i)
{
	return i < 400 ? i : i + (uint64_t)HOLE;
}

static void
make_guest(struct guest *g)
{
	memset(g, 0, sizeof *g);
	g->n = 1 + (byte() | byte() << 8) % PAGES;
	g->ram.page_size = 1024u << byte() % 3;
	g->ram.blk = g->blk;
	g->ram.nblk = g->n > 1 ? 2 : 1;
	g->ram.sid = 1;
	g->ram.npages = number(g->n - 1) + 1;
	strcpy(g->blk[0].id, "a");
	strcpy(g->blk[1].id, "b");
	g->blk[0].len = (g->ram.npages - (g->ram.nblk - 1)) * g->ram.page_size;
	g->blk[1].first = g->ram.npages - 1;
	g->blk[1].len = g->ram.page_size;
	g->blk[0].addr = g->blk[1].addr = UINT64_MAX;
}

/* ---- writing ---- */

static void
put(struct image_writer *w, struct guest *g, unsigned i, struct content c)
{
	uint8_t *to;

	g->is[i] = c;
	if (c.kind == ZERO) {
		MUST(image_zero(w, number(i)) == 0);
		return;
	}
	MUST((to = image_room(w)) != NULL);
	fill(to, g->ram.page_size, c);
	image_put(w, number(i));
}

/* A row of pages, as the input says; how many. */
static unsigned
put_row(struct image_writer *w, struct guest *g, unsigned left)
{
	unsigned how = byte(), first = (byte() | byte() << 8) % g->n, kind = byte(), seed = byte();
	unsigned n = how & 1 ? 1 + byte() : 1, step = how & 2 ? 1 + byte() % 8 : 1, i;

	if (how & 4)
		n *= 8;
	if (n > left)
		n = left;
	for (i = 0; i < n; i++)
		put(w, g, (first + i * step) % g->n,
		    content(kind + (how & 8 ? i : 0), seed + (how & 16 ? i : 0)));
	return n;
}

static void
make_options(struct image_options *o, const struct guest *g, struct image *base)
{
	unsigned how = byte();

	memset(o, 0, sizeof *o);
	o->unit_pages = 1u << byte() % 9;
	o->cluster_size = (uint32_t)CLUSTER_MIN << (how >> 4 & 1);
	o->threads = how >> 5 & 1;
	o->unsafe = 1;
	o->reproducible = how & 1;
	o->max_size = FILE_MAX;
	o->level = how & 8 ? 1 + (int)(byte() % 4) : 1;
	if (!(how & 2) && o->unit_pages * g->ram.page_size <= CODED_MAX)
		o->codec = codec_zstd;
	o->base = how & 4 ? NULL : base;
}

/* A new image number k of g: the pages it held before, or none, then what the input puts. */
static void
write_image(struct guest *g, unsigned k, struct image *base, struct image_options *o)
{
	static const uint8_t tail[] = { 1, 2, 3, 0 };
	struct image_bytes b = { SEC_PREAMBLE, tail, 2 }, b2[2];
	unsigned rows = byte(), left = PUTS_MAX, i, keep;
	struct image_writer *w;
	char name[96];

	make_options(o, g, base);
	image_name(name, k);
	MUST((w = image_create(name, o)) != NULL);
	MUST(image_begin(w, &g->ram) == 0);
	keep = byte() & 1;
	for (i = 0; i < g->n; i++)
		if (!keep)
			g->is[i].kind = ABSENT;
		else if (g->is[i].kind != ABSENT)
			put(w, g, i, g->is[i]);
	while (rows-- > 0 && next < end && left > 0)
		left -= put_row(w, g, left);
	b2[0] = b;
	b2[1] = b;
	b2[1].type = SEC_PROLOGUE;
	MUST(image_seal(w, b2, 2, 0) == 0);
	MUST(image_tail(w, tail, sizeof tail) == 0);
	MUST(image_commit(w, sizeof tail - 1) == 0);
	image_free(w);
}

/* ---- reading ---- */

/* Page i of g is in im what it should be; count[] grows. */
static void
check_page(struct image_fetch *f, const struct guest *g, unsigned i, uint64_t count[4])
{
	static uint8_t want[PAGE_MAX];
	uint64_t entry;
	int st = image_lookup(f->im, number(i), &entry);

	MUST(st >= 0);
	count[st]++;
	if (g->is[i].kind == ABSENT)
		MUST(st == PAGE_ABSENT);
	else if (is_zero(g->is[i]))
		MUST(st == PAGE_ZERO);
	else {
		MUST(st >= PAGE_STORED);
		fill(want, g->ram.page_size, g->is[i]);
		MUST(memcmp(page_bytes(f, number(i), st, entry), want, g->ram.page_size) == 0);
	}
}

static void
scan(struct image *im, const struct guest *g)
{
	const struct image_footer *foot = image_footer(im);
	struct image_scan *s = scan_new(im, 0, NULL);
	static uint8_t want[PAGE_MAX];
	struct image_fetch *f;
	uint64_t seen = 0, page;
	unsigned i;
	int r;

	MUST(s != NULL);
	for (; (r = scan_next(s, &f)) == 1; seen += f->n) {
		MUST(fetch_check(f) == 0);
		for (i = 0; i < f->n; i++) {
			page = f->page[i] < 400 ? f->page[i] : f->page[i] - HOLE;
			MUST(page < g->n && number((unsigned)page) == f->page[i]);
			fill(want, g->ram.page_size, g->is[page]);
			MUST(memcmp(fetch_data(f, i), want, g->ram.page_size) == 0);
		}
	}
	MUST(r == 0 && seen == foot->stored + foot->ancestor);
	scan_free(s);
}

static void
check_image(struct image *im, const struct guest *g, const struct image_options *o)
{
	const struct image_footer *foot = image_footer(im);
	uint64_t count[4] = { 0, 0, 0, 0 };
	struct image_fetch f;
	unsigned faults = 0, i;

	MUST(image_check_tables(im, 1, &faults) == 0 && faults == 0);
	MUST(fetch_init(&f, im, 1) == 0);
	for (i = 0; i < g->n; i++)
		check_page(&f, g, i, count);
	fetch_free(&f);
	MUST(foot->stored == count[PAGE_STORED] && foot->ancestor == count[PAGE_ANCESTOR]);
	MUST(foot->zero == count[PAGE_ZERO]);
	MUST(o->codec != NULL || foot->slots == foot->stored);
	MUST(o->base != NULL || foot->ancestor == 0);
	scan(im, g);
}

/*
 * No page is stored that the base has as it is; was is what it had.  Of coded bases only so much
 * is read at a time.
 */
static void
check_base(struct image *im, const struct guest *g, const struct guest *was)
{
	uint64_t entry;
	unsigned i;

	for (i = 0; i < g->n; i++)
		if (!is_zero(g->is[i]) && g->is[i].kind != ABSENT &&
		    g->is[i].kind == was->is[i].kind && g->is[i].seed == was->is[i].seed)
			MUST(image_lookup(im, number(i), &entry) == PAGE_ANCESTOR);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct guest g, was;
	struct image *im[IMAGES + 1] = { NULL };
	struct image_options o;
	char name[96];
	int err, coded = 0;
	unsigned k;

	next = data;
	end = data + size;
	messages = 0;
	bounds_begin();
	make_guest(&g);
	for (k = 0; k < IMAGES && (k == 0 || next < end); k++) {
		was = g;
		write_image(&g, k, k == 0 ? NULL : im[k - 1], &o);
		image_name(name, k);
		MUST((im[k] = image_open(name, 0, &err)) != NULL);
		MUST(image_open_ancestors(im[k]) == 0);
		check_image(im[k], &g, &o);
		coded |= (image_header(im[k])->incompat & FEATURE_CODEC) != 0;
		if (o.base != NULL && !coded)
			check_base(im[k], &g, &was);
	}
	while (k-- > 0)
		image_close(im[k]);
	MUST(messages == 0);
	bounds_end(HEAP, TIME_MS);
	return 0;
}
