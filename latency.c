/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * latency.c -- a histogram of times.
 *
 * Octave k holds from 2^k to 2^(k+1) microseconds (octave 0: everything below 2),
 * in LATENCY_STEPS equal steps.
 */
#include "latency.h"

#include <stdio.h>
#include <time.h>

/* Where the step ends, in microseconds. */
static uint64_t
end_of(unsigned i)
{
	uint64_t octave = UINT64_C(1) << i / LATENCY_STEPS, step = i % LATENCY_STEPS + 1;

	return octave + (octave * step + LATENCY_STEPS - 1) / LATENCY_STEPS;
}

int64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

void
latency_add(struct latency *l, int64_t ns)
{
	uint64_t us = ns < 0 ? 0 : (uint64_t)ns / 1000;
	unsigned i = 0;

	while (i < LATENCY_OCTAVES * LATENCY_STEPS - 1 && us >= end_of(i))
		i++;
	l->count[i]++;
	l->n++;
	if (us > l->most_us)
		l->most_us = us;
}

uint64_t
latency_quantile(const struct latency *l, unsigned per_thousand)
{
	uint64_t seen = 0;
	unsigned i;

	for (i = 0; i < LATENCY_OCTAVES * LATENCY_STEPS; i++) {
		seen += l->count[i];
		if (seen > 0 && seen >= l->n / 1000 * per_thousand +
		    l->n % 1000 * per_thousand / 1000)
			return end_of(i) < l->most_us ? end_of(i) : l->most_us;
	}
	return 0;
}

void
latency_print(const struct latency *l, char *buf, size_t size)
{
	size_t len = 0;
	unsigned k, i;
	uint64_t n;
	int r;

	buf[0] = '\0';
	for (k = 0; k < LATENCY_OCTAVES; k++) {
		for (n = 0, i = 0; i < LATENCY_STEPS; i++)
			n += l->count[k * LATENCY_STEPS + i];
		if (n == 0)
			continue;
		r = snprintf(buf + len, size - len, "%s<%luus %llu", len > 0 ? ", " : "",
		    2ul << k, (unsigned long long)n);
		if (r < 0 || (size_t)r >= size - len)
			return;
		len += (size_t)r;
	}
}
