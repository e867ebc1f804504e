/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * scan.c -- ways through all pages that have bytes: step by step (a walk), or read several
 * fetches ahead (a scan).
 */
#include "reader.h"

#include <stdlib.h>

#include "snap.h"

enum {
	SCAN_DEPTH = 8,		/* fetches: the disk has work while the owner sends */
	SCAN_SIZE = 256 << 10	/* bytes of a fetch: all together stay in the cache */
};

/* ---- walks ---- */

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
	if (im->node_len[k] <= ALL_ZERO) {
		w->page = ((uint64_t)k + 1) * NODE_LEAVES * LEAF_PAGES;
		return PAGE_ABSENT;
	}
	st = image_lookup(im, *page, entry);
	/* A leaf that cannot be read, or is not there: all of it. */
	if (st < 0 || im->node[k]->len[leaf % NODE_LEAVES] <= ALL_ZERO)
		w->page = (leaf + 1) * LEAF_PAGES;
	else
		w->page++;
	return st < 0 || st == PAGE_ANCESTOR ? st : PAGE_ABSENT;
}

/* ---- scans ---- */

struct image_scan {
	struct image *im;
	struct aio *ring;
	struct image_walk walk;
	int (*next)(void *, uint64_t *, int *, uint64_t *);	/* or NULL: the walk */
	void *next_arg;
	int begun, ended;
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
		image_no_memory(im);
		return NULL;
	}
	s->im = im;
	s->faults = faults;
	if ((s->ring = aio_new(threads, SCAN_DEPTH)) == NULL) {
		image_no_memory(im);
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

void
scan_order(struct image_scan *s, int (*next)(void *, uint64_t *, int *, uint64_t *), void *arg)
{
	if (s == NULL)
		return;
	s->next = next;
	s->next_arg = arg;
}

/* One step, and the page it finds into f: 1, 0: there is none any more, or < 0. */
static int
scan_page(struct image_scan *s, struct image_fetch *f)
{
	uint64_t page, entry;
	int st, r;

	if (s->next != NULL) {
		if ((r = s->next(s->next_arg, &page, &st, &entry)) != 1)
			return r;
	} else if (image_walk_ended(s->im, &s->walk))
		return 0;
	else
		st = image_step(s->im, &s->walk, &page, &entry);
	if (st == PAGE_ABSENT || (st > 0 && (st = fetch_add(f, page, st, entry)) == 0))
		return 1;
	if (st != SNAP_EDATA || s->faults == NULL)
		return st;
	++*s->faults;
	return 1;
}

/* Submit as many fetches as there are buffers. */
static int
fill_scan(struct image_scan *s)
{
	struct image_fetch *f;
	int r = 1;

	/* In the order of the file: then the system may read further ahead than it dares by
	 * itself, as several threads read here and there. */
	if (!s->begun && s->next == NULL)
		io_will_read_all(s->im->fd);
	s->begun = 1;
	while (s->nidle > 0 && !s->ended) {
		f = s->idle[--s->nidle];
		fetch_reset(f);
		while (!fetch_is_full(f) && (r = scan_page(s, f)) == 1)
			;
		if (r < 0) {
			s->idle[s->nidle++] = f;
			return r;
		}
		s->ended = r == 0;
		aio_submit(s->ring, &f->req);
	}
	return 0;
}

int
scan_next(struct image_scan *s, struct image_fetch **f)
{
	struct aio_req *r;
	int err;

	if (s == NULL)
		return SNAP_ESYS;
	if (s->out != NULL)
		s->idle[s->nidle++] = s->out;
	s->out = NULL;
	if ((err = fill_scan(s)) != 0)
		return err;
	if ((r = aio_wait(s->ring)) == NULL)
		return 0;
	*f = s->out = r->arg;
	if ((s->faults == NULL || r->error != 0) && (err = fetch_check(*f)) != 0)
		return err;
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
