/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * foreign.h -- files that are no images, known by how they begin.
 */
#ifndef FOREIGN_H
#define FOREIGN_H

#include <stddef.h>
#include <stdint.h>

enum { FOREIGN_HEAD = 4096 };	/* bytes of a file that are worth looking at */

/* What a file is of which the first n bytes are at buf, all of it if they are fewer than
 * FOREIGN_HEAD; NULL: it is not known. */
const char *foreign_kind(const uint8_t *buf, size_t n);

#endif
