/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stream.h -- QEMU's migration stream and return path, both directions, and
 * all reads and writes on pipes.
 *
 * The facts are those of QEMU 6.0 to 10.x: migration/savevm.c (sections,
 * commands), migration/ram.c (records), migration/migration.c (return path).
 */
#ifndef STREAM_H
#define STREAM_H

#include <stddef.h>
#include <stdint.h>

#include <sys/uio.h>

#include "snap.h"

/* Is fd a pipe or a socket: may QEMU be at its other end? */
int stream_is_pipe(int fd);
/* Is there something to read on fd, or its end, within ms milliseconds?  No signal makes it
 * so, unless ms is -1. */
int stream_waits(int fd, int ms);
/* Read and forget everything up to the end of input. */
void stream_drain(int fd);
/*
 * Tell a waiting destination that no stream will come: QEMU waits for the four
 * bytes of a magic for ever.  What it gets is not one, and does not begin with
 * the type of an element either; above all not with that of the end, with which
 * a destination that waits for the rest of its pages would go on without them.
 * paused: it is known to wait for that; then RESUME comes first, as QEMU up to
 * 8.1 crashes if a recovery fails before it.  Does nothing if fd is no pipe.
 */
void stream_reject(int fd, int paused);

/* ---- reading a stream ---- */

struct stream_in;

enum item_kind {
	ITEM_BLOCKS,		/* the RAM map is now known */
	ITEM_PAGE,		/* data: one page */
	ITEM_ZERO,		/* a page that is all zero */
	ITEM_TAIL,		/* bytes after the last RAM section, verbatim */
	ITEM_REFUSED		/* see stream_refused(); comes once */
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

/*
 * Read the stream that comes from fd.  page_size: 0, or what the user says.
 * NULL: out of memory.
 */
struct stream_in *stream_open(int fd, uint32_t page_size);
void stream_close(struct stream_in *s);
/* Call fn(arg) whenever a signal interrupts a read, or waiting for one. */
void stream_on_signal(struct stream_in *s, void (*fn)(void *), void *arg);
/* As stream_waits() for the first bytes. */
int stream_begins(struct stream_in *s, int ms);
/* As stream_drain() for what comes. */
void stream_drain_rest(struct stream_in *s);
/* Whatever is wrong with the stream from now on is not worth a message. */
void stream_quiet(struct stream_in *s);
/* Who gives the stream tells why it ends too early: then nothing is said of that here.  Did it? */
void stream_end_is_told(struct stream_in *s);
int stream_is_cut(const struct stream_in *s);
/*
 * Fetch the next item: 1 it is in *it; 0 the end of a complete stream; < 0
 * framing is lost and was reported, or reading failed.
 */
int stream_next(struct stream_in *s, struct stream_item *it);
/*
 * 0, or SNAP_EDATA: the stream has something that cannot be stored.  It was
 * reported; stream_next() goes on, so that the rest can be drained.
 */
int stream_refused(const struct stream_in *s);
/*
 * fd is a file, called name in messages.  In such a one the pages may lie at places of their
 * own, as the capability mapped-ram has it.  Then stream_mapped() is known with ITEM_BLOCKS, one
 * for each block; else it is NULL.  All that is kept is as it were without the capability.
 */
struct mapped_block {
	uint64_t bitmap;	/* file offset: a bit for each page, the lowest first; zero and
				 * absent pages have none */
	uint64_t pages;		/* file offset of the first page */
};
void stream_is_file(struct stream_in *s, const char *name);
const struct mapped_block *stream_mapped(const struct stream_in *s);
/* The RAM map, after ITEM_BLOCKS.  Owned by s. */
const struct ram_map *stream_ram(const struct stream_in *s);
/* The bytes before the RAM sections: up to START of RAM, and from there. */
const struct kept *stream_preamble(const struct stream_in *s);
const struct kept *stream_prologue(const struct stream_in *s);
/* Sections of other iterable handlers. */
const struct kept *stream_iterables(const struct stream_in *s);
/* RAM was ended by a section of type END: an ordinary migration. */
int stream_ended(const struct stream_in *s);
int stream_ignores_shared(const struct stream_in *s);
/* Page records so far. */
uint64_t stream_records(const struct stream_in *s);
/* The source waits for a SHUT message on our stdout. */
int stream_wants_shut(const struct stream_in *s);
/* After the end: bytes of the tail before its end-of-file byte. */
uint64_t stream_split(const struct stream_in *s);

/* Tell the source that the migration is stored (0) or not.  Does nothing if fd is
 * no pipe. */
int stream_send_shut(int fd, uint32_t status);

/* ---- writing a stream ---- */

enum {
	SECTION_PART = 2,
	SECTION_END = 3
};

enum {
	CMD_OPEN_RETURN_PATH = 1,
	CMD_PING = 2,
	CMD_POSTCOPY_ADVISE = 3,
	CMD_POSTCOPY_LISTEN = 4,
	CMD_POSTCOPY_RUN = 5,
	CMD_POSTCOPY_RAM_DISCARD = 6,
	CMD_PACKAGED = 7,
	CMD_POSTCOPY_RESUME = 9,
	CMD_RECV_BITMAP = 10
};

enum {
	OUT_IOV = 256,
	OUT_SMALL = 65536,
	COMMAND_SIZE = 5,	/* of a command without payload */
	CMD_MAX = 65535
};

/*
 * What is to be written next: small things are copied, pages are referred to
 * and must stay until the flush that writes them.
 */
struct stream_out {
	int fd;
	const char *name;		/* of a file, for messages; NULL: it is a stream */
	const struct ram_map *ram;
	const struct ram_block *cur;	/* block of the last record written */
	int in_section;
	uint64_t records;		/* in this section */
	int first, niov, max_iov;
	struct iovec iov[OUT_IOV];
	size_t nsmall;
	uint8_t small[OUT_SMALL];
	int returns;			/* out_flush() does not wait where fd would block */
	void (*on_signal)(void *);	/* or NULL */
	void *on_signal_arg;
};

void out_init(struct stream_out *o, int fd, const struct ram_map *ram);
/* Call fn(arg) whenever a signal interrupts a write that waits. */
void out_on_signal(struct stream_out *o, void (*fn)(void *), void *arg);
/* Write all that waits.  0, 1: fd would block, if o->returns is set, or SNAP_ESYS, reported. */
int out_flush(struct stream_out *o);
/* Is anything waiting? */
int out_pending(const struct stream_out *o);
/* Functions below flush when there is no more room; with o->returns set the
 * caller sees to it that there is.  0 or SNAP_ESYS. */
int out_copy(struct stream_out *o, const void *buf, size_t len);
/* A command with len bytes of payload. */
int out_command(struct stream_out *o, unsigned cmd, const void *buf, size_t len);
/* Begin a section of RAM records, end the one that is open, if one is. */
int out_begin(struct stream_out *o, unsigned type);
int out_end(struct stream_out *o);
/* A page record in the open section; data NULL: a zero page. */
int out_page(struct stream_out *o, uint64_t page, const uint8_t *data);

/* ---- reading the return path ---- */

enum rp_type {
	RP_SHUT = 1,
	RP_PONG = 2,
	RP_REQ_PAGES_ID = 3,
	RP_REQ_PAGES = 4,
	RP_RECV_BITMAP = 5,	/* raw bytes follow it: rp_take() */
	RP_RESUME_ACK = 6,
	RP_SWITCHOVER_ACK = 7
};

struct rp_msg {
	enum rp_type type;
	uint32_t value;			/* SHUT, PONG, RESUME_ACK */
	const struct ram_block *blk;	/* REQ_PAGES, REQ_PAGES_ID, RECV_BITMAP */
	uint64_t start, len;		/* bytes in the block; within it */
};

struct rp_in {
	int fd;
	const struct ram_map *ram;
	const struct ram_block *cur;
	int eof;
	size_t pos, len;
	uint8_t buf[4096];
	void (*on_signal)(void *);	/* or NULL */
	void *on_signal_arg;
};

void rp_init(struct rp_in *r, int fd, const struct ram_map *ram);
/* Call fn(arg) whenever a signal interrupts a read. */
void rp_on_signal(struct rp_in *r, void (*fn)(void *), void *arg);
/* Read what is there, waiting if there is nothing.  0 or SNAP_ESYS; end of
 * input sets r->eof. */
int rp_read(struct rp_in *r);
/* n bytes that are no message, waiting for them.  0, or SNAP_ESYS, reported. */
int rp_take(struct rp_in *r, void *buf, size_t n);
/* 1 a message is in *m, 0 none complete yet, SNAP_EDATA a bad one, reported. */
int rp_next(struct rp_in *r, struct rp_msg *m);

#endif
