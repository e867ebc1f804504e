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

/* What the command line says of an image to be written. */
void store_options(const struct options *o, struct image_options *opt);
/* What --base names, with its ancestors, if it is given; the caller closes it, whatever is
 * returned. */
int store_open_base(const struct options *o, struct image **base);
/*
 * A new image at path, and what it is to be based on, which the caller closes after it.  NULL:
 * failed and reported, *err tells how.
 */
struct image_writer *store_create(const struct options *o, const char *path,
    struct image **base, int *err);
/* One item after the other; *sealed is 0 at first.  0, or SNAP_E*, reported. */
int store_item(struct image_writer *w, const struct options *o, const struct stream_in *in,
    const struct stream_item *it, int *sealed);
/* Tell of each item how far the work is; *in_tail is 0 at first. */
void store_count(struct status *st, const struct stream_in *in, const struct stream_item *it,
    int *in_tail);
/* image_commit(), after which --cache=unsafe is owed a word. */
int store_commit(struct image_writer *w, const struct options *o, const char *path,
    uint64_t split);

#endif
