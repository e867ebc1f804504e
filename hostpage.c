/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hostpage.c -- which pages of the guest lie in one page of the destination's memory.
 */
#include "hostpage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap.h"

/* ---- numbers ---- */

uint64_t
host_size(const struct host_pages *h, size_t k)
{
	return (uint64_t)h->pages[k] * h->ram->page_size;
}

uint64_t
host_of(const struct host_pages *h, uint64_t page)
{
	const struct ram_block *b = ram_map_find(h->ram, page);
	size_t k = (size_t)(b - h->ram->blk);

	return h->first[k] + (page - b->first) / h->pages[k];
}

/* The block of a host page. */
static size_t
block_of(const struct host_pages *h, uint64_t host)
{
	size_t lo = 0, hi = h->ram->nblk, mid;

	while (hi - lo > 1) {
		mid = lo + (hi - lo) / 2;
		if (h->first[mid] <= host)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

uint64_t
host_bytes(const struct host_pages *h, uint64_t host)
{
	return host_size(h, block_of(h, host));
}

void
host_range(const struct host_pages *h, uint64_t host, uint64_t *from, uint64_t *end)
{
	size_t k = block_of(h, host);

	*from = h->ram->blk[k].first + (host - h->first[k]) * h->pages[k];
	*end = *from + h->pages[k];
}

/* ---- sizes ---- */

/* Does --host-page-size name this block? */
static int
is_named(const struct host_page *p, const struct ram_block *b)
{
	return p->block != NULL && strlen(b->id) == p->len &&
	    memcmp(b->id, p->block, p->len) == 0;
}

/* Does the guest have the blocks that --host-page-size names? */
static int
check_options(const struct host_pages *h, const struct image *im, const struct options *o)
{
	const struct host_page *p;
	size_t k;

	for (p = o->host_page; p < o->host_page + o->nhost_page; p++) {
		for (k = 0; k < h->ram->nblk && !is_named(p, &h->ram->blk[k]); k++)
			;
		if (p->block != NULL && k == h->ram->nblk) {
			snap_warnx("%s: has no block %.*s; info tells those it has",
			    image_path(im), (int)p->len, p->block);
			return SNAP_ESYS;
		}
		if (p->size < h->small) {
			snap_warnx("--host-page-size: %u is less than this system's %u",
			    (unsigned)p->size, (unsigned)h->small);
			return SNAP_ESYS;
		}
	}
	return 0;
}

/* The page size of a block at the destination, which runs on this machine.  What no block is named
 * for is meant for the largest ones: others are ROMs and the like, in ordinary memory. */
static uint32_t
page_size(const struct host_pages *h, const struct options *o, const struct ram_block *b)
{
	const struct host_page *named = NULL, *large = NULL, *p;
	uint64_t most = 0;
	size_t k;

	for (k = 0; k < h->ram->nblk; k++)
		if (h->ram->blk[k].len > most)
			most = h->ram->blk[k].len;
	for (p = o->host_page; p < o->host_page + o->nhost_page; p++)
		if (is_named(p, b))
			named = p;
		else if (p->block == NULL && b->len == most)
			large = p;
	return named != NULL ? named->size : large != NULL ? large->size : h->small;
}

int
host_init(struct host_pages *h, const struct image *im, const struct options *o)
{
	const struct ram_block *b;
	uint32_t size;
	size_t k;
	int err;

	h->ram = image_ram(im);
	h->small = (uint32_t)sysconf(_SC_PAGESIZE);
	if (h->small < h->ram->page_size) {
		snap_warnx("%s: pages of %u bytes on a host with pages of %u: "
		    "QEMU loads this in precopy only", image_path(im),
		    (unsigned)h->ram->page_size, (unsigned)h->small);
		return SNAP_ESYS;
	}
	if ((err = check_options(h, im, o)) != 0)
		return err;
	h->pages = calloc(h->ram->nblk + 1, sizeof *h->pages);
	h->first = calloc(h->ram->nblk + 1, sizeof *h->first);
	if (h->pages == NULL || h->first == NULL) {
		snap_warn(ENOMEM, "postcopy");
		return SNAP_ESYS;
	}
	for (k = 0; k < h->ram->nblk; k++) {
		b = &h->ram->blk[k];
		size = page_size(h, o, b);
		if (b->len % size != 0) {
			snap_warnx("%s: block %s is not whole pages of %u bytes: "
			    "QEMU loads this in precopy only", image_path(im), b->id,
			    (unsigned)size);
			return SNAP_ESYS;
		}
		h->pages[k] = size / h->ram->page_size;
		h->first[k] = h->n;
		h->n += b->len / size;
	}
	return 0;
}

void
host_free(struct host_pages *h)
{
	free(h->pages);
	free(h->first);
}
