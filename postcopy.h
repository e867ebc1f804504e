/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * postcopy.h -- start a guest first, bring its pages when it asks for them.
 */
#ifndef POSTCOPY_H
#define POSTCOPY_H

#include "image.h"
#include "options.h"
#include "out.h"
#include "status.h"

/*
 * Send im to the destination on stdout, with its return path on stdin, until it
 * says that it has everything.  The image's sections MUST have been checked.
 * 0 or SNAP_E*, reported; as long as nothing was written, the destination is
 * told so.
 */
int load_postcopy(struct image *im, const struct options *o, struct status *st);

/* Write the first len bytes of a section, if there is one; any more than it has
 * stands for all of it. */
int send_bytes(struct image *im, struct stream_out *out, uint32_t type, uint64_t len);

/* Write the preamble at once: QEMU waits for a first byte for ever, so whatever
 * comes, it gets some.  From here on signals just end the program. */
int send_preamble(struct image *im, struct stream_out *out);

/* Write all that follows the preamble in precopy; load.c. */
int send_precopy(struct image *im, struct stream_out *out, unsigned threads, struct status *st);

#endif
