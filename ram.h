/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ram.h -- a guest's memory: its RAM blocks, and the numbers of its pages.
 */
#ifndef RAM_H
#define RAM_H

#include <stddef.h>
#include <stdint.h>

enum {
	PAGE_SIZE_MIN = 1024,	/* bits below the offset must hold all flags */
	PAGE_SIZE_MAX = 65536,
	RAM_MAP_MAX = 32768	/* bytes an image has for the list of blocks */
};

#define PAGES_MAX	((UINT64_C(1) << 40) - 1)	/* of a guest */

/* One RAM block, as QEMU names it. */
struct ram_block {
	char id[256];		/* NUL-terminated; 1 to 255 bytes on the wire */
	uint64_t len;		/* bytes; a multiple of the page size, never 0 */
	uint64_t addr;		/* guest physical, where ram_map.has_addr is set */
	uint64_t first;		/* number of its first page in the whole guest */
};

/* All RAM blocks in QEMU's order; pages are numbered through them. */
struct ram_map {
	struct ram_block *blk;
	size_t nblk;
	uint64_t npages;	/* of all blocks */
	uint32_t page_size;	/* bytes: the target's page */
	uint32_t sid;		/* section id of "ram" in the saved stream */
	int has_addr;		/* x-ignore-shared was on */
};

/* The block that holds page number page, which must be < npages. */
const struct ram_block *ram_map_find(const struct ram_map *ram, uint64_t page);
/* The block called id, or NULL. */
const struct ram_block *ram_map_named(const struct ram_map *ram, const char *id);
/* Do they describe the same blocks? */
int ram_map_same(const struct ram_map *a, const struct ram_map *b);

#endif
