/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * marks.h -- a bit for each of many pages; memory follows what is set.
 */
#ifndef MARKS_H
#define MARKS_H

#include <stdint.h>

struct marks {
	uint8_t **chunk;
	uint64_t nchunk;
};

/* For numbers below n.  0, or SNAP_ESYS: out of memory, and reported. */
int marks_init(struct marks *m, uint64_t n);
void marks_free(struct marks *m);
int marked(const struct marks *m, uint64_t i);
/* The first number from i on, below end, that is marked; or end.  Quick where nothing is. */
uint64_t next_marked(const struct marks *m, uint64_t i, uint64_t end);
/* 0, or SNAP_ESYS: out of memory, and reported. */
int mark(struct marks *m, uint64_t i);

#endif
