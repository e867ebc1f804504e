/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * out.h -- writing a migration stream.
 */
#ifndef OUT_H
#define OUT_H

#include <stddef.h>
#include <stdint.h>

#include <sys/uio.h>

#include "ram.h"
#include "wire.h"

enum {
	OUT_IOV = 256,
	OUT_SMALL = 65536
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
};

void out_init(struct stream_out *o, int fd, const struct ram_map *ram);
/* Write all that waits.  0, 1: fd would block, if o->returns is set, or SNAP_ESYS, reported. */
int out_flush(struct stream_out *o);
/* Is anything waiting? */
int out_pending(const struct stream_out *o);
/* Functions below flush when there is no more room; with o->returns set the
 * caller sees to it that there is.  0 or SNAP_ESYS. */
int out_copy(struct stream_out *o, const void *buf, size_t len);
/* A command with len bytes of payload. */
int out_command(struct stream_out *o, unsigned cmd, const void *buf, size_t len);
/* Begin a section of RAM records, VM_SECTION_PART or VM_SECTION_END; end the one that is open,
 * if one is. */
int out_begin(struct stream_out *o, unsigned type);
int out_end(struct stream_out *o);
/* A page record in the open section; data NULL: a zero page. */
int out_page(struct stream_out *o, uint64_t page, const uint8_t *data);

#endif
