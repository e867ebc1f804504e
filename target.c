/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * target.c -- a file that is no image, written in one step.
 */
#include "target.h"

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
fail(const struct target *t, int err, const char *what)
{
	return snap_warn(err, "%s: %s", t->path, what);
}

/* May something be put at path? */
static int
check_room(const struct target *t)
{
	uint64_t len;
	int fd, err = io_open(t->path, 0, 0, &fd);

	if (err == ENOENT || err == ENOTDIR || err == ENAMETOOLONG)
		return 0;	/* it cannot be created either, and that is said */
	if (err != 0 && err != EINVAL && err != EISDIR)
		return fail(t, err, "is there, cannot be read, and is not replaced");
	if (err == 0) {
		err = io_size(fd, &len);
		io_close(fd);
		if (err == 0 && len == 0)
			return 0;
	}
	return snap_warnx("%s: is there and is not replaced", t->path);
}

int
target_create(struct target *t, const char *path)
{
	int err;

	t->path = path;
	t->tmp = NULL;
	t->fd = t->dir_fd = -1;
	if (*path == '\0')
		return fail(t, ENOENT, "cannot be created");
	if (check_room(t) != 0)
		return SNAP_ESYS;
	io_sweep_parts(path, "export", say_stale);
	on_signals_to_end(remove_and_die);
	if ((err = io_create_part(path, &t->tmp, &t->fd)) != 0) {
		t->fd = -1;
		return fail(t, err, "cannot be created");
	}
	doomed = t->tmp;
	if ((err = io_open_dir(path, &t->dir_fd)) != 0) {
		t->dir_fd = -1;
		return fail(t, err, "its directory cannot be opened");
	}
	return 0;
}

int
target_write(struct target *t, const void *buf, size_t len, uint64_t off)
{
	int err = io_pwrite(t->fd, buf, len, off);

	if (err == 0)
		return 0;
	return snap_warn(err, "%s: write at offset %llu", t->path, (unsigned long long)off);
}

int
target_commit(struct target *t, uint64_t len, int unsafe)
{
	int err;

	if (len != UINT64_MAX && (err = io_truncate(t->fd, len)) != 0)
		return fail(t, err, "cannot be made so long");
	if (!unsafe && (err = io_sync(t->fd)) != 0)
		return fail(t, err, "sync");
	/* Much time has gone by. */
	if (check_room(t) != 0)
		return SNAP_ESYS;
	if ((err = io_rename(t->tmp, t->path)) != 0)
		return fail(t, err, "cannot take its name");
	doomed = NULL;
	free(t->tmp);
	t->tmp = NULL;
	if (!unsafe && (err = io_sync_dir(t->dir_fd)) != 0)
		return fail(t, err, "is in place, but its directory cannot be synced");
	return 0;
}

void
target_free(struct target *t)
{
	if (t->tmp != NULL && t->fd >= 0)
		io_unlink(t->tmp);
	doomed = NULL;
	free(t->tmp);
	if (t->fd >= 0)
		io_close(t->fd);
	if (t->dir_fd >= 0)
		io_close(t->dir_fd);
}
