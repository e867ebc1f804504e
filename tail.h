/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tail.h -- the tail of a stream: the state of the devices, whose length nobody tells, an
 * end-of-file byte, and a JSON description of the devices.
 */
#ifndef TAIL_H
#define TAIL_H

#include <stddef.h>
#include <stdint.h>

/* Begins as zeros. */
struct tail {
	uint64_t len;		/* bytes looked at */
	uint64_t hi, lo;	/* the last 16 of them */

	/*
	 * The last place that looks like the end-of-file byte and the head of a description.
	 * Device state may hold such bytes, too, but what follows the right place is text, in
	 * which they cannot occur: the last one is right.
	 */
	uint64_t split;		/* bytes before the end-of-file byte */
	uint64_t end;		/* where the description ends; 0: no such place yet */
	unsigned matched;	/* characters of page_size_key met in a row */
	uint32_t page_size;	/* what the description says ... */
	int found;		/* ... if it does: 1: its digits are being read, 2: they are read */
};

/*
 * Look at n bytes for such a place.  Stops behind one, and *more is the number of bytes of the
 * description that are to come; else it is 0.  Returns the number of bytes looked at.
 */
size_t tail_scan(struct tail *t, const uint8_t *p, size_t n, uint64_t *more);
/* Is this the end of a description? */
int tail_is_described(const struct tail *t);
/* Or of a tail without one, as with suppress-vmdesc=on? */
int tail_is_undescribed(const struct tail *t);

#endif
