/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stream.h -- reading QEMU's migration stream.
 *
 * The facts are those of QEMU 6.0 to 10.x: migration/savevm.c (sections, commands),
 * migration/ram.c (records).
 */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "ram.h"

struct stream_in;

enum item_kind {
	ITEM_BLOCKS,		/* the RAM map is now known */
	ITEM_PAGE,		/* data: one page */
	ITEM_ZERO,		/* a page that is all zero */
	ITEM_TAIL,		/* bytes after the last RAM section, verbatim */
	ITEM_REFUSED		/* see stream_facts.refused; comes once */
};

struct stream_item {
	enum item_kind kind;
	uint64_t page;		/* ITEM_PAGE, ITEM_ZERO: page number */
	const uint8_t *data;	/* valid until the next stream_next() */
	size_t len;
	uint64_t more;		/* ITEM_TAIL: it ends in the head of a JSON
				 * description with so many bytes to come; else 0 */
};

/* Bytes kept of a stream. */
struct kept {
	uint8_t *buf;
	size_t len, cap;
};

struct mapped_block {
	uint64_t bitmap;	/* file offset: a bit for each page, the lowest first; zero and
				 * absent pages have none */
	uint64_t pages;		/* file offset of the first page */
};

/* What is known of a stream by now; the stream's. */
struct stream_facts {
	struct ram_map ram;	/* from ITEM_BLOCKS on */
	struct mapped_block *mapped;	/* the same, for each block, or NULL */
	struct kept preamble;	/* the bytes up to START of RAM ... */
	struct kept prologue;	/* ... and from there to the first section of pages */
	struct kept iterables;	/* sections of other iterable handlers */
	int ignores_shared;	/* x-ignore-shared is on */
	int ended;		/* RAM was ended by a section of type END: an ordinary migration */
	int wants_shut;		/* the source waits for a SHUT message: see returnpath.h */
	int cut;		/* it ended before its RAM did */
	int refused;		/* 0, or SNAP_EDATA: it has something that cannot be stored, which
				 * was reported; stream_next() goes on, so that it can be drained */
	uint64_t records;	/* of pages */
	uint64_t split;		/* after the end: bytes of the tail before its end-of-file byte */
};

/*
 * Read the stream that comes from fd.  page_size: 0, or what the user says.
 * NULL: out of memory.
 */
struct stream_in *stream_open(int fd, uint32_t page_size);
void stream_close(struct stream_in *s);
/* Whatever is wrong with the stream from now on is not worth a message. */
void stream_quiet(struct stream_in *s);
/* Who gives the stream tells why it ends too early: then nothing is said of that here. */
void stream_end_is_told(struct stream_in *s);
/*
 * Fetch the next item: 1 it is in *it; 0 the end of a complete stream; < 0
 * framing is lost and was reported, or reading failed.
 */
int stream_next(struct stream_in *s, struct stream_item *it);
/*
 * The stream comes from a file, called name in messages.  In such a one the pages may lie at
 * places of their own, as the capability mapped-ram has it.  All that is kept is as it were
 * without the capability.
 */
void stream_is_file(struct stream_in *s, const char *name);
const struct stream_facts *stream_facts(const struct stream_in *s);

#endif
