/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crc32c.h -- CRC-32C (Castagnoli), as iSCSI, ext4 and btrfs use it:
 * reflected, polynomial 0x1EDC6F41, start and final value inverted.
 */
#ifndef CRC32C_H
#define CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Build the tables.  Call once, before any thread is started. */
void crc32c_init(void);
/* CRC of len bytes at buf that follow bytes whose CRC is crc (0: none). */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

/* Does the processor do it, at a small part of what it costs to move the bytes? */
int crc32c_is_quick(void);

/* Joins the CRCs of neighbouring pieces without looking at their bytes. */
struct crc32c_join {
	uint32_t t[4][256];
};
/* Prepare j for second pieces of len bytes. */
void crc32c_join_init(struct crc32c_join *j, uint64_t len);
/* CRC of A followed by B, B being of the length given to crc32c_join_init. */
uint32_t crc32c_join(const struct crc32c_join *j, uint32_t a, uint32_t b);

#endif
