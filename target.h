/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * target.h -- a file that is no image, written in one step.
 */
#ifndef TARGET_H
#define TARGET_H

#include <stddef.h>
#include <stdint.h>

struct target {
	const char *path;	/* the caller's */
	char *tmp;
	int fd, dir_fd;
};

/*
 * A temporary file for path, where there MUST be nothing, or an empty file: what is there is not
 * known to be replaceable.  From now on signals to end remove it.  0, or SNAP_ESYS, reported.
 */
int target_create(struct target *t, const char *path);
/* What is never written reads as zero. */
int target_write(struct target *t, const void *buf, size_t len, uint64_t off);
/* Make it len bytes long (UINT64_MAX: as it is), durable unless unsafe, and known by its name. */
int target_commit(struct target *t, uint64_t len, int unsafe);
/* Without a commit no trace stays.  Fine after a failed target_create(), too. */
void target_free(struct target *t);

#endif
