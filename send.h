/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * send.h -- what of an image goes into every stream that comes of it, and the whole of one in
 * precopy.  Functions return 0 or SNAP_E*, reported.
 */
#ifndef SEND_H
#define SEND_H

#include "image.h"
#include "out.h"
#include "status.h"

/* Write the first len bytes of a section, if there is one; any more than it has
 * stands for all of it. */
int send_bytes(struct image *im, struct stream_out *out, uint32_t type, uint64_t len);

/* Write the preamble at once: QEMU waits for a first byte for ever, so whatever
 * comes, it gets some.  From here on signals just end the program. */
int send_preamble(struct image *im, struct stream_out *out);

/* Write all that follows the preamble in precopy. */
int send_precopy(struct image *im, struct stream_out *out, unsigned threads, struct status *st);

#endif
