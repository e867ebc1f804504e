/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * codec.c -- the codecs there are.
 */
#include "codec.h"

#include <string.h>

static const struct codec *const codecs[] = {
#ifdef HAVE_ZSTD
	&codec_zstd,
#endif
	NULL
};

const struct codec *
codec_numbered(int number)
{
	size_t i;

	for (i = 0; codecs[i] != NULL; i++)
		if (codecs[i]->number == number)
			break;
	return codecs[i];
}

const struct codec *
codec_named(const char *name, size_t len)
{
	size_t i;

	for (i = 0; codecs[i] != NULL; i++)
		if (strlen(codecs[i]->name) == len && strncmp(codecs[i]->name, name, len) == 0)
			break;
	return codecs[i];
}

const char *
codec_name(int number)
{
	return number == CODEC_RAW ? "none" : number == CODEC_ZSTD ? "zstd" : NULL;
}
