/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * prologue.h -- what stands in a stream before its first page: a section START of each
 * iterable handler, RAM's among them.
 */
#ifndef PROLOGUE_H
#define PROLOGUE_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"

enum { RAM_START_HEAD = 25 };	/* bytes of RAM's section before its first block */

/*
 * Where in the n bytes of im's prologue the section START of RAM is, and how long.
 * 0, or SNAP_E*, reported: the list of blocks in it is not im's.
 */
int prologue_find_ram(const struct image *im, const uint8_t *prologue, size_t n, size_t *at,
    size_t *len);
/* Bytes of a block's entry in it. */
size_t prologue_entry(const struct ram_map *ram, const struct ram_block *b);

#endif
