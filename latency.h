/* SPDX-License-Identifier: BSD-2-Clause */
/* latency.h -- how long something took, how often: a histogram of fixed size. */
#ifndef LATENCY_H
#define LATENCY_H

#include <stddef.h>
#include <stdint.h>

/* Nanoseconds of a clock that only goes forward. */
int64_t now_ns(void);

enum {
	LATENCY_OCTAVES = 24,	/* up to 16 s; what takes longer counts as that */
	LATENCY_STEPS = 4	/* of each octave */
};

/* All zero: nothing has been counted. */
struct latency {
	uint64_t n, most_us;
	uint64_t count[LATENCY_OCTAVES * LATENCY_STEPS];
};

void latency_add(struct latency *l, int64_t ns);
/* Microseconds that so many in a thousand took at most, as exact as the steps are; 0:
 * nothing was counted. */
uint64_t latency_quantile(const struct latency *l, unsigned per_thousand);
/* The histogram as "<16us 3, <32us 1024", octaves in which nothing lies left out.  Cut
 * where buf is full. */
void latency_print(const struct latency *l, char *buf, size_t size);

#endif
