/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * drives.h -- the disks of a running guest, snapshotted over its QEMU's monitor.
 *
 * Each disk goes on in a new qcow2 file; the one it had until then stays as it was.
 */
#ifndef DRIVES_H
#define DRIVES_H

#include "disks.h"
#include "qmp.h"

struct drive {
	char node[64];		/* QEMU's name of what the guest writes to, */
	char next[32];		/* and of what it will write to */
	int taken;
};

struct drives {
	struct disks disks;
	struct drive *drive;	/* as many */
};

/*
 * Find the guest's disks that can be written to, and give each a name for its new file, beside
 * image, where nothing is yet.  names has commas between, and leaves out all others; "" leaves out
 * none.  0, or SNAP_E*, reported.
 */
int drives_find(struct drives *d, struct qmp *q, const char *names, const char *image);
/* Have all disks go on in their new files from one moment on, or none.  The guest MUST stand still.
 * 0, or SNAP_E*, reported. */
int drives_take(struct drives *d, struct qmp *q);
/* Have the disks go on in the files they had, with all that was written since, and remove the new
 * ones.  0, or SNAP_E*, reported. */
int drives_undo(struct drives *d, struct qmp *q);
void drives_free(struct drives *d);

#endif
