/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hostpage.h -- the host pages of a destination: in them it asks for memory, and places it.
 *
 * They are numbered through all blocks, as pages are.
 */
#ifndef HOSTPAGE_H
#define HOSTPAGE_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "options.h"
#include "ram.h"

struct host_pages {
	const struct ram_map *ram;
	uint32_t small;		/* bytes of one where --host-page-size tells no other */
	uint32_t *pages;	/* pages in one, by block */
	uint64_t *first;	/* number of the first one, by block */
	uint64_t n;		/* in all */
};

/* Those of im at a destination on this machine; *h is zeros.  0, or SNAP_ESYS, reported. */
int host_init(struct host_pages *h, const struct image *im, const struct options *o);
void host_free(struct host_pages *h);
/* Bytes of a host page of block k. */
uint64_t host_size(const struct host_pages *h, size_t k);
/* The same for this host page. */
uint64_t host_bytes(const struct host_pages *h, uint64_t host);
/* The host page that page is in. */
uint64_t host_of(const struct host_pages *h, uint64_t page);
/* The pages *from to *end - 1 are this host page. */
void host_range(const struct host_pages *h, uint64_t host, uint64_t *from, uint64_t *end);

#endif
