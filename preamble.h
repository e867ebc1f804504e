/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * preamble.h -- what a migration stream tells of the machine before its first section
 * (migration/savevm.c, vmstate_configuration).
 */
#ifndef PREAMBLE_H
#define PREAMBLE_H

#include <stddef.h>
#include <stdint.h>

#include "snap.h"

struct preamble {
	const uint8_t *buf;
	size_t len;
	size_t caps, caps_len;	/* the subsection of capabilities; or where it belongs, 0 */
};

/* Of len bytes at buf, which must stay.  0, or -1: not understood. */
int preamble_parse(struct preamble *p, const uint8_t *buf, size_t len);
/* The same bytes with one more capability, in memory that the caller frees.  NULL: none is left. */
uint8_t *preamble_with(const struct preamble *p, const char *capability, size_t *len);

#endif
