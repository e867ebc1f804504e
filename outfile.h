/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * outfile.h -- a file that is no image, written in one step.
 */
#ifndef OUTFILE_H
#define OUTFILE_H

#include <stddef.h>
#include <stdint.h>

struct outfile {
	const char *path, *kind;	/* the caller's */
	char *tmp;
	int fd, dir_fd;
};

/*
 * A temporary file for path; those that a dead verb left are swept.  Where kind is NULL there MUST
 * be nothing at path, or an empty file: what is there is not known to be replaceable.  Else what is
 * there is replaced, and kind is what messages call the file.  From now on signals to end remove
 * the temporary one.  0, or SNAP_ESYS, reported, as with the other functions.
 */
int outfile_create(struct outfile *f, const char *path, const char *verb, const char *kind);
/* What is never written reads as zero. */
int outfile_write(struct outfile *f, const void *buf, size_t len, uint64_t off);
/* Make it len bytes long (UINT64_MAX: as it is), durable unless unsafe, and known by its name. */
int outfile_commit(struct outfile *f, uint64_t len, int unsafe);
/* Without a commit no trace stays.  Fine after a failed outfile_create(), too. */
void outfile_free(struct outfile *f);

#endif
