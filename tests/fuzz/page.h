/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * page.h -- a page of an image, for the fuzzers that look at pages.
 */
#ifndef PAGE_H
#define PAGE_H

#include "../../image.h"
#include "fuzz.h"

/* The bytes of a page that has some, until the next call. */
static const uint8_t *
page_bytes(struct image_fetch *f, uint64_t page, int state, uint64_t entry)
{
	static struct aio *ring;

	if (ring == NULL)
		MUST((ring = aio_new(0, 1)) != NULL);
	fetch_reset(f);
	MUST(fetch_add(f, page, state, entry) == 0);
	aio_submit(ring, &f->req);
	MUST(aio_wait(ring) == &f->req && fetch_check(f) == 0);
	return fetch_data(f, 0);
}

#endif
