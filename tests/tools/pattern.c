/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pattern.c -- runs in a Linux guest: fills pages with a pattern, tells where they lie in
 * physical memory, and waits.
 *
 * usage: pattern PAGES
 *
 * "page N PHYSICAL" for each of them, numbers hexadecimal.  Page N holds 512 little-endian words
 * of 64 bits: N << 32 | index of the word, times a constant.
 */
#include <sys/mman.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CONSTANT	UINT64_C(0x9e3779b97f4a7c15)

enum { PAGE = 4096, WORDS = PAGE / 8 };

int
main(int argc, char **argv)
{
	uint64_t pages = argc == 2 ? strtoull(argv[1], NULL, 10) : 0, i, k, entry, *w;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	w = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || w == MAP_FAILED || mlock(w, pages * PAGE) != 0)
		return 1;
	for (i = 0; i < pages; i++)
		for (k = 0; k < WORDS; k++)
			w[i * WORDS + k] = (i << 32 | k) * CONSTANT;
	for (i = 0; i < pages; i++) {
		if (pread(fd, &entry, 8, (off_t)(((uintptr_t)w / PAGE + i) * 8)) != 8)
			return 1;
		printf("page %llx %llx\n", (unsigned long long)i,
		    (unsigned long long)(entry & ((UINT64_C(1) << 55) - 1)) * PAGE);
	}
	printf("told\n");
	fflush(stdout);
	for (;;)
		pause();
}
