/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disks.h -- the disks that were snapshotted along with a guest's memory: section 11 of format.md.
 */
#ifndef DISKS_H
#define DISKS_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"

enum {
	DISKS_MAX = 256,
	DISK_NAME = 256,	/* bytes of strings, their NUL included */
	DISK_FILE = 4096,
	DISK_FORMAT = 32
};

struct disk {
	char name[DISK_NAME];		/* QEMU's */
	char file[DISK_FILE];		/* which has it as it was then, */
	char format[DISK_FORMAT];	/* in this format */
	char next[DISK_FILE];		/* qcow2 file in which the guest went on */
};

struct disks {
	int ran;		/* the guest did, until it was stopped for this */
	unsigned n;
	struct disk *disk;	/* NULL: nobody said whether there were any */
};

/* What d says as the bytes of a section, to be freed by the caller; NULL: out of memory. */
uint8_t *disks_pack(const struct disks *d, size_t *len);
/* The disks of an image; none if it has no such section, or something else in it.  0, or SNAP_E*,
 * reported. */
int disks_read(struct disks *d, struct image *im);
void disks_free(struct disks *d);

#endif
