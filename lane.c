/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lane.c -- pages on their way from the image to the stream.
 */
#include "lane.h"

#include <stdlib.h>

#include "snap.h"

enum { FETCH_SIZE = 64 << 10 };	/* the owner may copy so much without anybody noticing */

void
batch_reset(struct lane_batch *b)
{
	fetch_reset(&b->f);
	b->n = b->next = 0;
}

int
batch_is_full(const struct lane_batch *b)
{
	return b->n == b->f.max || fetch_is_full(&b->f);
}

int
batch_add(struct lane_batch *b, uint64_t page, int state, uint64_t entry)
{
	int err;

	b->data[b->n] = NULL;
	if (state >= PAGE_STORED) {
		b->data[b->n] = fetch_data(&b->f, b->f.n);
		if ((err = fetch_add(&b->f, page, state, entry)) != 0)
			return err;
	}
	b->page[b->n++] = page;
	return 0;
}

int
batch_add_job(struct lane_batch *b, struct job *j)
{
	uint64_t entry = 0;
	int st, err;

	for (; j->next < j->end && !batch_is_full(b); j->next++) {
		if ((st = image_lookup(b->f.im, j->next, &entry)) < 0)
			return st;
		if ((err = batch_add(b, j->next, st, entry)) != 0)
			return err;
	}
	return 0;
}

int
lane_init(struct lane *l, struct image *im, unsigned threads, unsigned depth, int quick)
{
	uint32_t page_size = image_header(im)->page_size;
	unsigned max = FETCH_SIZE > page_size ? FETCH_SIZE / page_size : 1;
	struct lane_batch *b;

	l->ring = aio_new(threads, depth);
	l->batch = calloc(depth, sizeof *l->batch);
	l->idle = calloc(depth, sizeof *l->idle);
	if (l->ring == NULL || l->batch == NULL || l->idle == NULL)
		goto bad;
	if (threads > 0 && aio_pollfd(l->ring) < 0)
		goto bad;
	while (l->depth < depth) {
		b = &l->batch[l->depth++];
		b->page = calloc(max, sizeof *b->page);
		b->data = calloc(max, sizeof *b->data);
		l->idle[l->nidle++] = b;
		if (fetch_init(&b->f, im, max) != 0)
			return SNAP_ESYS;
		if (b->page == NULL || b->data == NULL)
			goto bad;
		b->f.arg = b;
	}
	l->quick = quick;
	return 0;
bad:
	snap_warnx("postcopy: no memory, threads or descriptors left");
	return SNAP_ESYS;
}

void
lane_free(struct lane *l)
{
	unsigned i;

	aio_free(l->ring);
	for (i = 0; i < l->depth; i++) {
		fetch_free(&l->batch[i].f);
		free(l->batch[i].page);
		free(l->batch[i].data);
	}
	free(l->batch);
	free(l->idle);
}

void
lane_submit(struct lane *l, struct lane_batch *b)
{
	l->busy++;
	/* To decode is work; the owner does it only where somebody waits. */
	b->f.req.quick = l->quick && (b->f.nunit == 0 || l->decodes);
	aio_submit(l->ring, &b->f.req);
}

int
lane_take(struct lane *l)
{
	struct aio_req *r;
	struct image_fetch *f;

	if (l->cur != NULL || (r = aio_try(l->ring)) == NULL)
		return 0;
	l->busy--;
	f = r->arg;
	l->cur = f->arg;
	return fetch_check(f);
}
