/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * codec.h -- how the pages of a unit are coded in the file.
 *
 * A codec is one struct of functions, so that the files that pack and unpack units know no
 * library.  Which one an image has is told by a bit of its header: so far that is zstd alone.
 * Nothing here prints.
 */
#ifndef CODEC_H
#define CODEC_H

#include <stddef.h>
#include <stdint.h>

/* Numbers in the image, see format.md. */
enum {
	CODEC_RAW = 0,
	CODEC_ZSTD = 1
};

enum { CODED_MAX = 256 << 10 };	/* bytes of pages a coded unit may have */

struct codec {
	int number;
	int least, usual, most;	/* levels */
	/* What one thread at a time needs.  NULL: out of memory. */
	void *(*encoder)(int level);
	void (*free_encoder)(void *);
	void *(*decoder)(void);
	void (*free_decoder)(void *);
	/* Bytes written to out, at most room of them; 0: it does not fit. */
	size_t (*encode)(void *, const uint8_t *in, size_t len, uint8_t *out, size_t room);
	/* 0 if in is the code of just len bytes, which are at out then; else -1. */
	int (*decode)(void *, const uint8_t *in, size_t n, uint8_t *out, size_t len);
};

/* NULL: not built in.  Then no image with FEATURE_CODEC is opened for its pages. */
extern const struct codec *const codec_zstd;

#endif
