/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * prologue.c -- what stands in a stream before its first page (ram_save_setup in
 * migration/ram.c).
 */
#include "prologue.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "snap.h"

enum {
	START = 1,
	FOOTER = 0x7e,
	RAM_MEM_SIZE = 4,
	RAM_EOS = 16,
	SECTION_ID = 1,		/* where it is in the section, */
	INSTANCE = 9,		/* and this */
	SECTION_NAME = 5
};

size_t
prologue_entry(const struct ram_map *ram, const struct ram_block *b)
{
	return 1 + strlen(b->id) + 8 + (ram->has_addr ? 8 : 0);
}

int
prologue_find_ram(const struct image *im, const uint8_t *prologue, size_t n, size_t *at,
    size_t *len)
{
	const struct ram_map *ram = image_ram(im);
	const struct ram_block *b;
	size_t size = RAM_START_HEAD + 8 + 5, i, name;
	uint8_t *p, *start;

	for (i = 0; i < ram->nblk; i++)
		size += prologue_entry(ram, &ram->blk[i]);
	*len = size;
	if ((p = start = malloc(size)) == NULL)
		return snap_warn(ENOMEM, "%s", image_path(im));
	*p = START;
	put_be32(p + SECTION_ID, ram->sid);
	memcpy(p + SECTION_NAME, "\003ram\0\0\0\0\0\0\0\004", 12);
	put_be64(p + RAM_START_HEAD - 8, ram->npages * ram->page_size | RAM_MEM_SIZE);
	p += RAM_START_HEAD;
	for (i = 0; i < ram->nblk; i++) {
		b = &ram->blk[i];
		name = strlen(b->id);
		*p = (uint8_t)name;
		memcpy(p + 1, b->id, name);
		put_be64(p + 1 + name, b->len);
		if (ram->has_addr)
			put_be64(p + 1 + name + 8, b->addr);
		p += prologue_entry(ram, b);
	}
	put_be64(p, RAM_EOS);
	p[8] = FOOTER;
	put_be32(p + 9, ram->sid);
	/* But for the number of the instance, which nobody looked at. */
	for (*at = 0; size <= n && *at <= n - size; ++*at)
		if (memcmp(prologue + *at, start, INSTANCE) == 0 &&
		    memcmp(prologue + *at + INSTANCE + 4, start + INSTANCE + 4,
		    size - INSTANCE - 4) == 0) {
			free(start);
			return 0;
		}
	free(start);
	snap_warnx("%s: the list of its blocks is not that of its stream", image_path(im));
	return SNAP_EDATA;
}
