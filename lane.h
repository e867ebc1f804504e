/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lane.h -- a lane: pages of an image on their way to the stream, in order, read in batches by a
 * ring of its own.
 */
#ifndef LANE_H
#define LANE_H

#include <stdint.h>

#include "image.h"

/* Records to be sent, in this order. */
struct lane_batch {
	struct image_fetch f;
	unsigned n, next;
	uint64_t *page;		/* n of them; next: the first that has not gone out */
	uint8_t **data;		/* NULL: zero */
	int64_t since;		/* ns: when they were asked for */
};

/* A host page, and how far it is queued. */
struct job {
	uint64_t next, end;	/* pages; next == end: no job */
	int64_t since;		/* ns: when it was asked for; 0: nobody did */
};

/* A ring of batches, and what of it goes out now. */
struct lane {
	struct aio *ring;
	unsigned depth, busy;	/* batches in all; in the ring */
	struct lane_batch *batch, **idle, *cur;
	unsigned nidle;
	int quick;		/* what the page cache has is read by the owner */
	int decodes;		/* and decoded */
	struct job job;
	int skip;		/* the host page under way went out already */
};

/* Room for depth batches.  quick: see struct lane.  0, or SNAP_ESYS, reported; lane_free() is right
 * for what has begun as zeros. */
int lane_init(struct lane *l, struct image *im, unsigned threads, unsigned depth, int quick);
void lane_free(struct lane *l);
/* Have b read. */
void lane_submit(struct lane *l, struct lane_batch *b);
/* Have the lane's next batch in l->cur, if it is read: 0, or SNAP_E*, reported. */
int lane_take(struct lane *l);

void batch_reset(struct lane_batch *b);
int batch_is_full(const struct lane_batch *b);
/* Add a page, with what image_lookup() told of it.  There MUST be room. */
int batch_add(struct lane_batch *b, uint64_t page, int state, uint64_t entry);
/* Add pages of the job until it or the room ends. */
int batch_add_job(struct lane_batch *b, struct job *j);

#endif
