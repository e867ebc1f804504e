/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stream_fuzz.c -- the parser of migration streams.
 *
 * The first byte of an input says how the rest is read: bits 0 to 2 --page-size, bit 3 again in
 * small pieces, with the same result; the upper bits are the seed for those.  A stream that is
 * taken must be one that can be stored, and written again, and then be the same.
 */
#include <limits.h>
#include <string.h>

#include "../../layout.h"
#include "../../out.h"
#include "../../snap.h"
#include "../../stream.h"
#include "fuzz.h"

enum {
	KEPT = 16 << 20,
	/* Of the parser: its buffer; what is kept, grown by a quarter, twice while it is moved;
	 * the RAM map. */
	HEAP = (256 << 10) + 2 * (KEPT + KEPT / 4) + 2 * (RAM_MAP_MAX / 18) * 320 + (1 << 20),
	PAGES = 4096		/* records compared */
};

/* What came of a stream. */
struct outcome {
	int r, refused, blocks, refusals, ended, shared;
	unsigned messages;
	uint64_t pages, tail, split, more;
	uint64_t h;			/* of all that came, in order */
	uint64_t tail_h;
	uint64_t kept_h[3];
	int at_split;			/* the byte there; -1: not seen */
};

static uint8_t *tail_buf;
static size_t tail_len, tail_cap;

static uint8_t page_copy[PAGES][PAGE_SIZE_MIN];	/* the beginnings are enough */
static struct { uint64_t page; int data; } record[PAGES];
static size_t nrecord;

static uint64_t
hash_kept(const struct kept *k)
{
	MUST(k->len <= k->cap && (k->len == 0 || k->buf != NULL));
	return hash(k->len, k->buf, k->len);
}

static void
check_ram(const struct ram_map *ram)
{
	static uint8_t buf[RAM_MAP_MAX];
	struct ram_map back;
	uint64_t first = 0;
	size_t n, i;

	MUST(ram->page_size >= PAGE_SIZE_MIN && ram->page_size <= PAGE_SIZE_MAX &&
	    (ram->page_size & (ram->page_size - 1)) == 0);
	MUST(ram->nblk > 0 && ram->npages > 0 && ram->npages <= PAGES_MAX);
	for (i = 0; i < ram->nblk; i++) {
		MUST(ram->blk[i].first == first && ram->blk[i].len > 0);
		MUST(ram->blk[i].len % ram->page_size == 0);
		first += ram->blk[i].len / ram->page_size;
		MUST(ram_map_find(ram, first - 1) == &ram->blk[i]);
		MUST(ram_map_named(ram, ram->blk[i].id) == &ram->blk[i]);
	}
	MUST(first == ram->npages);
	/* An image must be able to hold it. */
	MUST((n = ram_map_encode(buf, ram)) > 0 && n <= sizeof buf);
	MUST(ram_map_decode(buf, n, ram->page_size, &back) == NULL);
	MUST(back.nblk == ram->nblk && back.npages == ram->npages && back.sid == ram->sid &&
	    !back.has_addr == !ram->has_addr);
	for (i = 0; i < ram->nblk; i++)
		MUST(strcmp(back.blk[i].id, ram->blk[i].id) == 0 &&
		    back.blk[i].len == ram->blk[i].len &&
		    (!ram->has_addr || back.blk[i].addr == ram->blk[i].addr));
	free(back.blk);
}

static void
take_item(struct outcome *o, const struct stream_in *s, const struct stream_item *it, int keep)
{
	const struct stream_facts *f = stream_facts(s);
	const struct ram_map *ram = &f->ram;

	switch (it->kind) {
	case ITEM_BLOCKS:
		MUST(!o->blocks && o->pages == 0 && o->tail == 0);
		o->blocks = 1;
		check_ram(ram);
		return;
	case ITEM_PAGE:
	case ITEM_ZERO:
		MUST(o->blocks && o->tail == 0 && f->refused == 0);
		MUST(it->page < ram->npages);
		o->h = hash(o->h, &it->page, sizeof it->page);
		o->h = hash(o->h, &it->kind, sizeof it->kind);
		if (it->kind == ITEM_PAGE) {
			MUST(it->len == ram->page_size);
			o->h = hash(o->h, it->data, it->len);
		}
		if (keep && nrecord < PAGES) {
			record[nrecord].page = it->page;
			record[nrecord].data = it->kind == ITEM_PAGE;
			if (record[nrecord].data)
				memcpy(page_copy[nrecord], it->data, PAGE_SIZE_MIN);
			nrecord++;
		}
		o->pages++;
		MUST(f->records >= o->pages);
		return;
	case ITEM_TAIL:
		MUST(o->blocks && it->len > 0);
		MUST(it->more <= UINT32_MAX);
		if (it->more > 0)
			o->more = hash(o->more, &it->more, sizeof it->more);
		o->tail_h = hash(o->tail_h, it->data, it->len);
		o->tail += it->len;
		if (keep) {
			MUST(it->len <= tail_cap - tail_len);
			memcpy(tail_buf + tail_len, it->data, it->len);
			tail_len += it->len;
		}
		return;
	case ITEM_REFUSED:
		MUST(o->refusals == 0 && f->refused == SNAP_EDATA);
		o->refusals = 1;
		return;
	}
	MUST(0);	/* a kind of item */
}

static void
parse(struct outcome *o, struct stream_in *s, int keep)
{
	const struct stream_facts *f = stream_facts(s);
	struct stream_item it;

	memset(o, 0, sizeof *o);
	messages = 0;
	if (keep)
		tail_len = nrecord = 0;
	while ((o->r = stream_next(s, &it)) == 1)
		take_item(o, s, &it, keep);
	o->refused = f->refused;
	o->ended = f->ended;
	o->shared = f->ignores_shared;
	o->split = f->split;
	o->messages = messages;
	MUST(o->r == 0 || o->r == SNAP_EDATA);
	MUST(o->refused == 0 || o->refused == SNAP_EDATA);
	/* One message, and only where something is wrong. */
	MUST(o->messages == (o->r != 0 || o->refused != 0));
	MUST(f->preamble.len + f->prologue.len + f->iterables.len <= KEPT);
	o->kept_h[0] = hash_kept(&f->preamble);
	o->kept_h[1] = hash_kept(&f->prologue);
	o->kept_h[2] = hash_kept(&f->iterables);
	if (o->r == 0) {
		MUST(o->blocks && o->tail > 0);
		MUST(f->preamble.len > 0 && f->prologue.len > 0);
		MUST(stream_next(s, &it) == 0);
	}
}

/* Whatever the pieces it came in. */
static void
check_pieces(const uint8_t *data, size_t size, uint32_t page_size, uint64_t seed,
    const struct outcome *want)
{
	struct stream_in *s;
	struct outcome got;

	feed_set(data, size, seed);
	feed.silent = 1;
	MUST((s = stream_open(0, page_size)) != NULL);
	parse(&got, s, 0);
	stream_close(s);
	/* The head of a description is only told of where it comes first. */
	MUST(memcmp(&got, want, sizeof got) == 0);
}

/* As load does it. */
static void
check_again(struct stream_in *s, uint32_t page_size, uint64_t seed, const struct outcome *want)
{
	const struct stream_facts *f = stream_facts(s);
	static struct stream_out out;
	static uint8_t page[PAGE_SIZE_MAX];
	struct outcome got;
	struct stream_in *t;
	size_t i;

	sink_reset(8 << 20, seed);
	out_init(&out, 1, &f->ram);
	if (f->preamble.len > OUT_SMALL || f->prologue.len > OUT_SMALL ||
	    f->iterables.len > OUT_SMALL || tail_len > (1 << 20))
		return;
	MUST(out_copy(&out, f->preamble.buf, f->preamble.len) == 0);
	MUST(out_copy(&out, f->prologue.buf, f->prologue.len) == 0);
	if (f->iterables.len > 0)
		MUST(out_copy(&out, f->iterables.buf, f->iterables.len) == 0);
	MUST(out_begin(&out, VM_SECTION_PART) == 0);
	for (i = 0; i < nrecord; i++) {
		if (record[i].data)
			memcpy(page, page_copy[i], PAGE_SIZE_MIN);
		MUST(out_page(&out, record[i].page, record[i].data ? page : NULL) == 0);
		MUST(out_flush(&out) == 0 && !out_pending(&out));
	}
	MUST(out_end(&out) == 0);
	if (want->ended)
		MUST(out_begin(&out, VM_SECTION_END) == 0 && out_end(&out) == 0);
	for (i = 0; i < tail_len; i += OUT_SMALL)
		MUST(out_copy(&out, tail_buf + i,
		    tail_len - i < OUT_SMALL ? tail_len - i : OUT_SMALL) == 0);
	MUST(out_flush(&out) == 0);
	if (sink.total > sink.len)
		return;
	feed_set(sink.buf, sink.len, 0);
	MUST((t = stream_open(0, page_size)) != NULL);
	parse(&got, t, 0);
	stream_close(t);
	MUST(got.r == 0 && got.refused == 0);
	MUST(got.pages == nrecord && got.ended == want->ended && got.shared == want->shared);
	MUST(got.tail == want->tail && got.tail_h == want->tail_h && got.split == want->split);
	MUST(memcmp(got.kept_h, want->kept_h, sizeof got.kept_h) == 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t sizes[8] = { 0, 1024, 4096, 8192, 16384, 65536, 2048, 0 };
	struct stream_in *s;
	struct outcome o;
	uint32_t page_size;
	uint64_t seed;

	if (size < 1)
		return 0;
	page_size = sizes[data[0] & 7];
	seed = hash(data[0] >> 4, data, size < 64 ? size : 64) | 1;
	if (size > tail_cap) {
		free(tail_buf);
		MUST((tail_buf = malloc(tail_cap = size)) != NULL);
	}
	feed_set(data + 1, size - 1, 0);
	feed.silent = 1;
	bounds_begin();
	MUST((s = stream_open(0, page_size)) != NULL);
	parse(&o, s, 1);
	bounds_end(HEAP, 1000);
	/* What is kept of the head is the head. */
	MUST(stream_facts(s)->preamble.len < size &&
	    (stream_facts(s)->preamble.len == 0 ||
	    memcmp(stream_facts(s)->preamble.buf, data + 1, stream_facts(s)->preamble.len) == 0));
	if (o.r == 0) {
		MUST(o.tail == tail_len);
		MUST(o.refused != 0 || (o.split > 0 && o.split < o.tail && tail_buf[o.split] == 0));
	}
	if (data[0] & 8)
		check_pieces(data + 1, size - 1, page_size, seed, &o);
	if (o.r == 0 && o.refused == 0 && o.pages == nrecord)
		check_again(s, page_size, data[0] & 8 ? seed : 0, &o);
	stream_close(s);
	return 0;
}
