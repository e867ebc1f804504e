/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * marks.c -- a bit for each of many pages.
 */
#include "marks.h"

#include <errno.h>
#include <stdlib.h>

#include "snap.h"

enum { CHUNK = 1 << 18 };	/* bits */

int
marks_init(struct marks *m, uint64_t n)
{
	m->nchunk = n / CHUNK + 1;
	m->chunk = m->nchunk > SIZE_MAX / sizeof *m->chunk ? NULL :
	    calloc((size_t)m->nchunk, sizeof *m->chunk);
	if (m->chunk != NULL)
		return 0;
	snap_warn(ENOMEM, "marks of pages");
	return SNAP_ESYS;
}

void
marks_free(struct marks *m)
{
	uint64_t i;

	for (i = 0; m->chunk != NULL && i < m->nchunk; i++)
		free(m->chunk[i]);
	free(m->chunk);
}

int
marked(const struct marks *m, uint64_t i)
{
	const uint8_t *c = m->chunk[i / CHUNK];

	return c != NULL && c[i % CHUNK / 8] >> i % 8 & 1;
}

uint64_t
next_marked(const struct marks *m, uint64_t i, uint64_t end)
{
	while (i < end && !marked(m, i))
		i = m->chunk[i / CHUNK] != NULL ? i + 1 : (i / CHUNK + 1) * CHUNK;
	return i < end ? i : end;
}

int
mark(struct marks *m, uint64_t i)
{
	uint8_t **c = &m->chunk[i / CHUNK];

	if (*c == NULL && (*c = calloc(CHUNK / 8, 1)) == NULL) {
		snap_warn(ENOMEM, "marks of pages");
		return SNAP_ESYS;
	}
	(*c)[i % CHUNK / 8] |= (uint8_t)(1u << i % 8);
	return 0;
}
