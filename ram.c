/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ram.c -- RAM blocks, found.
 */
#include "ram.h"

#include <string.h>

const struct ram_block *
ram_map_find(const struct ram_map *ram, uint64_t page)
{
	size_t lo = 0, hi = ram->nblk, mid;

	while (hi - lo > 1) {
		mid = lo + (hi - lo) / 2;
		if (ram->blk[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return &ram->blk[lo];
}

const struct ram_block *
ram_map_named(const struct ram_map *ram, const char *id)
{
	size_t i;

	for (i = 0; i < ram->nblk; i++)
		if (strcmp(ram->blk[i].id, id) == 0)
			return &ram->blk[i];
	return NULL;
}

int
ram_map_same(const struct ram_map *a, const struct ram_map *b)
{
	size_t i;

	if (a->nblk != b->nblk || a->page_size != b->page_size)
		return 0;
	for (i = 0; i < a->nblk; i++)
		if (a->blk[i].len != b->blk[i].len || strcmp(a->blk[i].id, b->blk[i].id) != 0)
			return 0;
	return 1;
}
