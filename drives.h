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
 * Those that can be written to, or of these the ones in names, a list with commas, unless that is
 * "": with names for their new files beside image, which are not there yet.
 * 0, or SNAP_E*, reported.
 */
int drives_find(struct drives *d, struct qmp *q, const char *names, const char *image);
/* All of them in one moment, or none.  The guest MUST stand still.  0, or SNAP_E*, reported. */
int drives_take(struct drives *d, struct qmp *q);
/* Have the disks go on in the files they had, with all that was written since, and remove the new
 * ones.  0, or SNAP_E*, reported. */
int drives_undo(struct drives *d, struct qmp *q);
void drives_free(struct drives *d);

#endif
