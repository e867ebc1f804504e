/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * store.h -- what comes of a stream goes into an image: what save and import share.
 */
#ifndef STORE_H
#define STORE_H

#include "image.h"
#include "options.h"
#include "status.h"
#include "stream.h"

/* All zero before store_init(). */
struct store {
	const struct options *opt;
	const char *path;		/* of the image */
	struct image_options how;	/* it is written; the caller may change it before
					 * store_create() */
	struct image *base;		/* what --base names, with its ancestors, or NULL */
	struct image_writer *image;	/* NULL: not created, or given up */
	int in_tail;			/* the RAM is through */
};

/* What the command line says of an image to be written at path, and its base, if it names one.
 * 0, or SNAP_E*, reported, as from the other functions. */
int store_init(struct store *s, const struct options *o, const char *path);
int store_create(struct store *s);
/* Tell how far the work is; for each item, before it is stored. */
void store_count(const struct store *s, struct status *st, const struct stream_in *in,
    const struct stream_item *it);
/* Store one item after the other. */
int store_item(struct store *s, const struct stream_in *in, const struct stream_item *it);
/* image_commit(), after which --cache=unsafe is owed a word. */
int store_commit(struct store *s, uint64_t split);
/* Without a commit no trace of the image stays. */
void store_free(struct store *s);

#endif
