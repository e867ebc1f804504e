/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz.h -- what the fuzzers share: input that comes as if from a pipe, output that stays in
 * memory, messages that nobody sees, and bounds of time and memory.
 *
 * The program's sources are compiled with read, poll, writev, fcntl and write renamed to functions
 * of fuzz.c, so that no descriptor is needed and the pieces in which things come can be chosen.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A finding. */
#define MUST(c) do {								\
	if (!(c)) {								\
		fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #c);	\
		abort();							\
	}									\
} while (0)

/* ---- files ---- */

/* Make a directory, which goes at the end with all in it; and how many files are there? */
const char *fuzz_directory(void);
int fuzz_files(void);

/* ---- what read() brings ---- */

struct feed {
	const uint8_t *buf;
	size_t len, pos;
	uint64_t chance;	/* 0: as much at once as is wanted; else a seed for pieces,
				 * interrupts and reads that would block */
	int silent;		/* at the end poll() sees silence, not the end of input */
};
extern struct feed feed;

void feed_set(const void *buf, size_t len, uint64_t chance);

/* ---- where writev() goes ---- */

struct sink {
	uint8_t *buf;
	size_t len, cap;
	size_t max;		/* bytes; more are counted, not kept */
	uint64_t total;
	uint64_t chance;	/* as in a feed */
};
extern struct sink sink;

void sink_reset(size_t max, uint64_t chance);

/* ---- bounds ---- */

/* From here on, memory and CPU time count. */
void bounds_begin(void);
/* No more than so many bytes of heap at a time, and milliseconds, have been taken. */
void bounds_end(size_t bytes, unsigned ms);

/* ---- chance ---- */

/* The next number after *state, which must not be 0. */
uint64_t chance_next(uint64_t *state);
uint64_t hash(uint64_t h, const void *buf, size_t len);

/* Messages printed since this was set to 0. */
extern unsigned messages;

#endif
