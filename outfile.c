/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * outfile.c -- a file that is no image, written in one step: a temporary file beside it, a sync, a
 * rename, and a sync of the directory.  One at a time, for the sake of signals.
 */
#include "outfile.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "aio.h"
#include "signals.h"
#include "snap.h"

static char *volatile doomed;	/* the temporary file that a signal removes */

static void
remove_and_die(int sig)
{
	if (doomed != NULL)
		io_unlink(doomed);
	signal(sig, SIG_DFL);
	raise(sig);
}

static int
fail(const struct outfile *f, int err, const char *what)
{
	if (f->kind != NULL)
		return snap_warn(err, "%s: %s cannot be written", f->path, f->kind);
	return snap_warn(err, "%s: %s", f->path, what);
}

/* May something be put at path? */
static int
check_room(const struct outfile *f)
{
	uint64_t len;
	int fd, err;

	if (f->kind != NULL)
		return 0;
	err = io_open(f->path, 0, 0, &fd);
	if (err == ENOENT || err == ENOTDIR || err == ENAMETOOLONG)
		return 0;	/* it cannot be created either, and that is said */
	if (err != 0 && err != EINVAL && err != EISDIR)
		return fail(f, err, "is there, cannot be read, and is not replaced");
	if (err == 0) {
		err = io_size(fd, &len);
		io_close(fd);
		if (err == 0 && len == 0)
			return 0;
	}
	return snap_warnx("%s: is there and is not replaced", f->path);
}

int
outfile_create(struct outfile *f, const char *path, const char *verb, const char *kind)
{
	int err;

	f->path = path;
	f->kind = kind;
	f->tmp = NULL;
	f->fd = f->dir_fd = -1;
	if (*path == '\0')
		return fail(f, ENOENT, "cannot be created");
	if (check_room(f) != 0)
		return SNAP_ESYS;
	io_sweep_parts(path, verb, say_stale);
	on_signals_to_end(remove_and_die);
	if ((err = io_create_part(path, &f->tmp, &f->fd)) != 0) {
		f->fd = -1;
		return fail(f, err, "cannot be created");
	}
	doomed = f->tmp;
	if ((err = io_open_dir(path, &f->dir_fd)) != 0) {
		f->dir_fd = -1;
		return fail(f, err, "its directory cannot be opened");
	}
	return 0;
}

int
outfile_write(struct outfile *f, const void *buf, size_t len, uint64_t off)
{
	int err = io_pwrite(f->fd, buf, len, off);

	if (err == 0)
		return 0;
	if (f->kind != NULL)
		return fail(f, err, NULL);
	return snap_warn(err, "%s: write at offset %llu", f->path, (ull)off);
}

int
outfile_commit(struct outfile *f, uint64_t len, int unsafe)
{
	int err;

	if (len != UINT64_MAX && (err = io_truncate(f->fd, len)) != 0)
		return fail(f, err, "cannot be made so long");
	if (!unsafe && (err = io_sync(f->fd)) != 0)
		return fail(f, err, "sync");
	/* Much time has gone by. */
	if (check_room(f) != 0)
		return SNAP_ESYS;
	if ((err = io_rename(f->tmp, f->path)) != 0)
		return fail(f, err, "cannot take its name");
	doomed = NULL;
	free(f->tmp);
	f->tmp = NULL;
	if (!unsafe && (err = io_sync_dir(f->dir_fd)) != 0)
		return snap_warn(err, "%s: is in place, but its directory cannot be synced",
		    f->path);
	return 0;
}

void
outfile_free(struct outfile *f)
{
	if (f->tmp != NULL && f->fd >= 0)
		io_unlink(f->tmp);
	doomed = NULL;
	free(f->tmp);
	if (f->fd >= 0)
		io_close(f->fd);
	if (f->dir_fd >= 0)
		io_close(f->dir_fd);
}
