/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * postcopy.h -- start a guest first, bring its pages when it asks for them.
 */
#ifndef POSTCOPY_H
#define POSTCOPY_H

#include "image.h"
#include "options.h"
#include "status.h"

/* Can im be served as the options say?  0, or SNAP_ESYS, reported. */
int postcopy_check(const struct image *im, const struct options *o);
/*
 * Send im to the destination on stdout, with its return path on stdin, until it
 * says that it has everything.  The image's sections and the options MUST have been checked.
 * 0 or SNAP_E*, reported; as long as nothing was written, the destination is
 * told so.
 */
int load_postcopy(struct image *im, const struct options *o, struct status *st);

#endif
