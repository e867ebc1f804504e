/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * preamble.h -- how a file begins that is no image: a migration stream up to its first page
 * (vmstate_configuration in migration/savevm.c, ram_save_setup in migration/ram.c), and others.
 *
 * Nothing in the bytes is believed.
 */
#ifndef PREAMBLE_H
#define PREAMBLE_H

#include <stddef.h>
#include <stdint.h>

struct ram_map;
struct ram_block;

/* What a stream tells of the machine before its first section. */
struct preamble {
	const uint8_t *buf;
	size_t len;
	const uint8_t *machine;	/* its type, machine_len bytes; NULL: not told */
	size_t machine_len;
	size_t caps, caps_len;	/* the subsection of capabilities; or where it belongs, 0 */
};

/* Of len bytes at buf, which must stay.  0, or -1: not understood beyond what is in p. */
int preamble_parse(struct preamble *p, const uint8_t *buf, size_t len);
/* The same bytes with one more capability, in memory that the caller frees.  NULL: none is left. */
uint8_t *preamble_with(const struct preamble *p, const char *capability, size_t *len);

enum { RAM_START_HEAD = 25 };	/* bytes of RAM's section before its first block */

/*
 * Where in n bytes of the prologue of the image at path, which has a section START of each iterable
 * handler, RAM's is, and how long.  0, or SNAP_EDATA, reported: there is none with these blocks.
 */
int prologue_find_ram(const struct ram_map *ram, const char *path, const uint8_t *prologue,
    size_t n, size_t *at, size_t *len);
/* Bytes of a block's entry in it. */
size_t prologue_entry(const struct ram_map *ram, const struct ram_block *b);

enum { FOREIGN_HEAD = 4096 };	/* bytes of a file that are worth looking at */

/* What a file is of which the first n bytes are at buf, all of it if they are fewer than
 * FOREIGN_HEAD; NULL: it is not known. */
const char *foreign_kind(const uint8_t *buf, size_t n);

#endif
