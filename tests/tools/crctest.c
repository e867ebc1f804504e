/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crctest -- CRC-32C of pieces of every length and alignment, bit by bit and by crc32c.c.
 *
 * usage: crctest		exit status 1: they differ
 *	  crctest N		time in ns a page of 4096 bytes, over N pages
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "crc32c.h"

enum { LONGEST = 9000 };

static uint8_t buf[LONGEST + 16];

static uint32_t
one_more(uint32_t crc, uint8_t byte)
{
	int k;

	crc = ~crc ^ byte;
	for (k = 0; k < 8; k++)
		crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
	return ~crc;
}

static int
compare(size_t align, uint32_t before)
{
	uint32_t want = before;
	size_t len;

	for (len = 0; len <= LONGEST; len++) {
		if (crc32c(before, buf + align, len) != want) {
			fprintf(stderr, "crctest: wrong for %zu bytes at %zu\n", len, align);
			return 1;
		}
		want = one_more(want, buf[align + len]);
	}
	return 0;
}

static void
measure(long n)
{
	clock_t begin = clock();
	uint32_t crc = 0;
	long i;

	for (i = 0; i < n; i++)
		crc = crc32c(crc, buf, 4096);
	printf("%.1f ns (%08x)\n",
	    (double)(clock() - begin) * 1e9 / CLOCKS_PER_SEC / (double)n, (unsigned)crc);
}

int
main(int argc, char **argv)
{
	uint32_t x = 1;
	size_t i;
	int bad;

	for (i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)((x = x * 1103515245 + 12345) >> 16);
	crc32c_init();
	if (argc > 1) {
		measure(atol(argv[1]));
		return 0;
	}
	bad = crc32c(0, "123456789", 9) != 0xe3069283u;
	if (bad)
		fprintf(stderr, "crctest: not CRC-32C\n");
	for (i = 0; i < 8; i++)
		bad |= compare(i, (uint32_t)i * 0x12345678u);
	return bad;
}
