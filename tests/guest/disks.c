/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disks.c -- the first and only process of a Linux that finds out if its disks fit its memory.
 *
 * Write number n goes to slot n % SLOTS of every disk, /dev/vda and so on, and to a page of memory.
 * Before it, the slot must hold what memory says, so that a disk newer than the memory is found; behind
 * it, that and the write before must be there, so that an older one is.  All past the caches of the
 * guest.  Environment (QEMU's -append): disks=N, modules=NAME,NAME...
 */
#define _GNU_SOURCE
#include <sys/mount.h>
#include <sys/syscall.h>

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	SLOTS = 256,
	SLOT = 4096,		/* bytes */
	PAGES = 4096,		/* of memory */
	WORDS = SLOT / 8,
	DISKS = 8,
	EACH = 16		/* a line for so many writes */
};

static int out, disk[DISKS], ndisks;
static uint64_t last[SLOTS];	/* number of the last write */
static uint64_t buf[WORDS] __attribute__((aligned(SLOT)));
static uint64_t memory[PAGES][WORDS] __attribute__((aligned(SLOT)));

static void
say(const char *what, int where, uint64_t n, uint64_t m)
{
	char line[128];
	int len = snprintf(line, sizeof line, "%s %d %llu %llu\n", what, where,
	    (unsigned long long)n, (unsigned long long)m);

	if (write(out, line, (size_t)len) != len)
		_exit(1);
}

/* Of write n; there is nothing before the first. */
static uint64_t
word(uint64_t n, int i)
{
	return n == 0 ? 0 : i == 0 ? n : n * 0x9e3779b97f4a7c15 + (uint64_t)i;
}

static void
check(const uint64_t *p, int where, uint64_t n)
{
	int i;

	for (i = 0; i < WORDS; i++)
		if (p[i] != word(n, i)) {
			say("BAD: place, what is there, what is to be there:", where, p[0], n);
			for (;;)
				pause();
		}
}

static void
check_disk(int d, uint64_t n, int slot)
{
	memset(buf, 0xa5, SLOT);
	if (pread(disk[d], buf, SLOT, (off_t)slot * SLOT) != SLOT)
		say("BAD read", d, n, 0);
	check(buf, d, n);
}

static void
step(uint64_t n)
{
	int slot = (int)(n % SLOTS), before = (int)((n - 1) % SLOTS), i, d;

	for (d = 0; d < ndisks; d++)
		check_disk(d, last[slot], slot);
	check(memory[n % PAGES], DISKS, n > PAGES ? n - PAGES : 0);
	for (i = 0; i < WORDS; i++)
		memory[n % PAGES][i] = word(n, i);
	for (d = 0; d < ndisks; d++) {
		memcpy(buf, memory[n % PAGES], SLOT);
		if (pwrite(disk[d], buf, SLOT, (off_t)slot * SLOT) != SLOT)
			say("BAD write", d, n, 0);
	}
	last[slot] = n;
	for (d = 0; d < ndisks; d++) {
		check_disk(d, last[before], before);
		check_disk(d, n, slot);
	}
}

static void
load_modules(char *names)
{
	char path[128], *name;
	int fd;

	for (name = strtok(names, ","); name != NULL; name = strtok(NULL, ",")) {
		snprintf(path, sizeof path, "/%s.ko", name);
		if ((fd = open(path, O_RDONLY)) < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
			say("BAD module", 0, 0, 0);
		close(fd);
	}
}

int
main(void)
{
	char path[] = "/dev/vda";
	const char *n = getenv("disks");
	char *modules = getenv("modules");
	uint64_t i;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	out = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
	if (modules != NULL)
		load_modules(modules);
	for (ndisks = 0; n != NULL && ndisks < atoi(n) && ndisks < DISKS; ndisks++, path[7]++)
		while ((disk[ndisks] = open(path, O_RDWR | O_DIRECT)) < 0)
			usleep(10000);
	for (i = 1;; i++) {
		step(i);
		if (i % EACH == 0)
			say("tick", ndisks, i / EACH, 0);
	}
}
