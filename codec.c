/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * codec.c -- zstd: one frame a unit, without zstd's own checksum, as units and pages have theirs.
 */
#include "codec.h"

#ifdef HAVE_ZSTD
#include <stdlib.h>
#include <zstd.h>

#include "bytes.h"

struct encoder {
	ZSTD_CCtx *ctx;
	int level;
};

static void *
new_encoder(int level)
{
	struct encoder *e = malloc(sizeof *e);

	if (e == NULL)
		return NULL;
	e->level = level;
	if ((e->ctx = ZSTD_createCCtx()) == NULL) {
		free(e);
		return NULL;
	}
	return e;
}

static void
free_encoder(void *encoder)
{
	struct encoder *e = encoder;

	if (e != NULL)
		ZSTD_freeCCtx(e->ctx);
	free(e);
}

static void *
new_decoder(void)
{
	return ZSTD_createDCtx();
}

static void
free_decoder(void *decoder)
{
	ZSTD_freeDCtx(decoder);
}

static size_t
encode(void *encoder, const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	struct encoder *e = encoder;
	size_t n = ZSTD_compressCCtx(e->ctx, out, room, in, len, e->level);

	return ZSTD_isError(n) ? 0 : n;
}

/* Just one frame, and of this format: the library may know older ones. */
static int
decode(void *decoder, const uint8_t *in, size_t n, uint8_t *out, size_t len)
{
	if (n < 4 || get_le32(in) != ZSTD_MAGICNUMBER ||
	    ZSTD_findFrameCompressedSize(in, n) != n)
		return -1;
	return ZSTD_decompressDCtx(decoder, out, len, in, n) == len ? 0 : -1;
}

static const struct codec zstd = {
	CODEC_ZSTD, 1, 1, 19,
	new_encoder, free_encoder, new_decoder, free_decoder, encode, decode
};

const struct codec *const codec_zstd = &zstd;
#else
const struct codec *const codec_zstd = NULL;
#endif
