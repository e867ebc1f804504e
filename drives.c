/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * drives.c -- the disks of a running guest, snapshotted over its QEMU's monitor.
 */
#include "drives.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "aio.h"
#include "json.h"
#include "snap.h"

enum { JOB_MS = 50 };

/* Is name in a list with commas? */
static int
is_in(const char *list, const char *name)
{
	size_t n;

	for (; *name != '\0' && list != NULL; list = list[n] == ',' ? list + n + 1 : NULL) {
		n = strcspn(list, ",");
		if (strlen(name) == n && memcmp(list, name, n) == 0)
			return 1;
	}
	return 0;
}

/* IMAGE.DISK.qcow2, as it is called from any directory. */
static int
name_next(struct disk *d, const char *image)
{
	char name[DISK_NAME], here[DISK_FILE], *s;
	int n;

	strcpy(name, d->name);
	for (s = name; *s != '\0'; s++)
		if (strchr("/\\: \t\n'\"", *s) != NULL)
			*s = '_';
	here[0] = '\0';
	if (image[0] != '/' && getcwd(here, sizeof here) == NULL)
		return snap_warn(errno, "%s", image);
	n = snprintf(d->next, sizeof d->next, "%s%s%s.%s.qcow2", here, image[0] == '/' ? "" : "/",
	    image, name);
	if (n < 0 || (size_t)n >= sizeof d->next)
		return snap_warnx("%s: name too long", image);
	if (!json_is_text(d->next))
		return snap_warnx("%s: QEMU takes only names that are UTF-8", d->next);
	if (access(d->next, F_OK) == 0)
		return snap_warnx("%s: is there already, and would be the new file of disk %s",
		    d->next, d->name);
	return 0;
}

/* One of -blockdev has no name; what it is plugged into may have, at /machine/peripheral/NAME. */
static void
name_disk(struct disk *d, const char *qdev, const char *node)
{
	static const char place[] = "/machine/peripheral/";
	size_t n = sizeof place - 1;

	if (strncmp(qdev, place, n) == 0)
		snprintf(d->name, sizeof d->name, "%.*s", (int)strcspn(qdev + n, "/"), qdev + n);
	else
		snprintf(d->name, sizeof d->name, "%s", node);
}

/* Why the disk cannot be told by its file's name, or taken; NULL: it can. */
static const char *
what_is_wrong(const struct drives *d, const struct disk *k)
{
	const char *colon = strchr(k->file, ':'), *slash = strchr(k->file, '/');
	unsigned i;

	if (strncmp(k->file, "json:", 5) == 0)
		return "no file that can be named (a throttled disk, or the like)";
	if (k->file[0] == '/' && access(k->file, F_OK) != 0)
		return "is not there: a temporary file (snapshot=on), or one that only QEMU sees";
	/* What QEMU finds from its directory, nobody finds from the new file's. */
	if (k->file[0] != '/' && (colon == NULL || (slash != NULL && slash < colon)))
		return "QEMU must be given a name that begins with /";
	for (i = 0; i < d->disks.n; i++)
		if (strcmp(d->drive[i].node, d->drive[d->disks.n].node) == 0)
			return "is the disk of two devices";
	return NULL;
}

/* Element i of query-block, if it is a disk that can be written to and is wished for: 1, 0, or
 * < 0. */
static int
find_one(struct drives *d, struct qmp *q, unsigned i, const char *names, const char *image)
{
	struct disk *k = &d->disks.disk[d->disks.n];
	struct drive *v = &d->drive[d->disks.n];
	char path[QMP_PATH], qdev[DISK_NAME];
	const char *why;
	int err;

	if (!qmp_has(q, qmp_at(path, i, "inserted.drv")) ||
	    qmp_is_true(q, qmp_at(path, i, "inserted.ro")))
		return 0;
	qmp_string(q, qmp_at(path, i, "qdev"), qdev, sizeof qdev);
	qmp_string(q, qmp_at(path, i, "inserted.node-name"), v->node, sizeof v->node);
	if (!qmp_string(q, qmp_at(path, i, "device"), k->name, sizeof k->name) ||
	    k->name[0] == '\0')
		name_disk(k, qdev, v->node);
	if (*names != '\0' && !is_in(names, k->name) && !is_in(names, v->node))
		return 0;
	if (v->node[0] == '\0' ||
	    !qmp_string(q, qmp_at(path, i, "inserted.file"), k->file, sizeof k->file) ||
	    !qmp_string(q, qmp_at(path, i, "inserted.drv"), k->format, sizeof k->format))
		return snap_warnx("%s: disk %s: QEMU tells too little of it, or too much", q->path,
		    k->name);
	why = qmp_is_true(q, qmp_at(path, i, "inserted.encrypted")) ?
	    "is encrypted, and its new file would not be" : what_is_wrong(d, k);
	if (why != NULL)
		return snap_warnx("%s: disk %s: %s: %s", q->path, k->name, k->file, why);
	snprintf(v->next, sizeof v->next, "qemu-snap-%08lx-%lx-%u",
	    (unsigned long)time(NULL) & 0xffffffff, (unsigned long)getpid() & 0xffffff, d->disks.n);
	if ((err = name_next(k, image)) != 0)
		return err;
	return 1;
}

int
drives_find(struct drives *d, struct qmp *q, const char *names, const char *image)
{
	unsigned i, wished = *names != '\0';
	const char *s;
	char path[QMP_PATH];
	int err;

	memset(d, 0, sizeof *d);
	if ((d->disks.disk = calloc(DISKS_MAX, sizeof *d->disks.disk)) == NULL ||
	    (d->drive = calloc(DISKS_MAX, sizeof *d->drive)) == NULL)
		return snap_warn(ENOMEM, "disks");
	if ((err = qmp_demand(q, "query-block", NULL)) != 0)
		return err;
	for (i = 0; qmp_has(q, qmp_at(path, i, "")); i++) {
		if (d->disks.n == DISKS_MAX)
			return snap_warnx("%s: more than %d disks", q->path, (int)DISKS_MAX);
		if ((err = find_one(d, q, i, names, image)) < 0)
			return err;
		d->disks.n += (unsigned)err;
	}
	for (s = names; (s = strchr(s, ',')) != NULL; s++)
		wished++;
	if (d->disks.n < wished)
		return snap_warnx("%s: not all of these are disks that can be written to: %s",
		    q->path, names);
	return 0;
}

/* The arguments of the transaction, to be freed by the caller; NULL: out of memory. */
static char *
actions_of(const struct drives *d)
{
	static const char action[] = "%s{\"type\": \"blockdev-snapshot-sync\", \"data\": {"
	    "\"node-name\": %s, \"snapshot-file\": %s, \"snapshot-node-name\": \"%s\", "
	    "\"format\": \"qcow2\"}}";
	char node[6 * sizeof d->drive->node + 3], next[6 * DISK_FILE + 3];
	size_t each = sizeof action + sizeof node + sizeof next + sizeof d->drive->next;
	char *text = malloc(d->disks.n * each + 32), *end;
	unsigned i;

	if (text == NULL)
		return NULL;
	end = text + sprintf(text, "{\"actions\": [");
	for (i = 0; i < d->disks.n; i++) {
		json_put(node, sizeof node, d->drive[i].node);
		json_put(next, sizeof next, d->disks.disk[i].next);
		end += snprintf(end, each, action, i > 0 ? ", " : "", node, next, d->drive[i].next);
	}
	strcpy(end, "]}");
	return text;
}

/* Does another QEMU use this file?  They lock their images. */
static int
is_used(const char *path)
{
	struct flock l;
	int fd = open(path, O_RDWR), used;

	if (fd < 0)
		return errno != ENOENT;
	memset(&l, 0, sizeof l);
	l.l_type = F_WRLCK;
	l.l_whence = SEEK_SET;
	used = fcntl(fd, F_GETLK, &l) != 0 || l.l_type != F_UNLCK;
	close(fd);
	return used;
}

int
drives_take(struct drives *d, struct qmp *q)
{
	char *actions;
	unsigned i;
	int err;

	if (d->disks.n == 0)
		return 0;
	if ((actions = actions_of(d)) == NULL)
		return snap_warn(ENOMEM, "disks");
	err = qmp_demand(q, "transaction", actions);
	free(actions);
	for (i = 0; i < d->disks.n; i++) {
		/* Without an answer they may be in use. */
		d->drive[i].taken = err == 0 || q->fd < 0;
		/* QEMU makes the files first, and leaves them if it then takes none. */
		if (!d->drive[i].taken && !is_used(d->disks.disk[i].next))
			io_unlink(d->disks.disk[i].next);
	}
	return err;
}

/* Wait for a job that merges a file into the one below it, and is not dismissed by itself: where it
 * is seen no more, it may have failed. */
static int
finish_job(struct qmp *q, const char *job)
{
	char path[QMP_PATH], name[64], state[32], words[512], arguments[96];
	unsigned i;
	int err, completing = 0;

	snprintf(arguments, sizeof arguments, "{\"id\": \"%s\"}", job);
	for (;;) {
		if ((err = qmp_demand(q, "query-jobs", NULL)) != 0)
			return err;
		for (i = 0; !qmp_string(q, qmp_at(path, i, "id"), name, sizeof name) ||
		    strcmp(name, job) != 0; i++)
			if (!qmp_has(q, path))
				return snap_warnx("%s: job %s is gone", q->path, job);
		qmp_string(q, qmp_at(path, i, "status"), state, sizeof state);
		if (strcmp(state, "concluded") == 0)
			break;
		if (strcmp(state, "ready") == 0 && !completing) {
			completing = 1;
			if ((err = qmp_demand(q, "job-complete", arguments)) != 0)
				return err;
		}
		poll(NULL, 0, JOB_MS);
	}
	if (qmp_string(q, qmp_at(path, i, "error"), words, sizeof words))
		err = snap_warnx("%s: QEMU says: %s", q->path, words);
	qmp_run(q, -1, "job-dismiss", arguments);
	return err;
}

static int
undo_one(struct drive *v, struct disk *k, struct qmp *q)
{
	char base[6 * sizeof v->node + 3], arguments[sizeof base + 256];
	int err;

	json_put(base, sizeof base, v->node);
	snprintf(arguments, sizeof arguments, "{\"job-id\": \"%s\", \"device\": \"%s\", "
	    "\"base-node\": %s, \"auto-dismiss\": false}", v->next, v->next, base);
	if ((err = qmp_demand(q, "block-commit", arguments)) == 0 &&
	    (err = finish_job(q, v->next)) == 0) {
		v->taken = 0;
		if ((err = io_unlink(k->next)) == 0)
			return 0;
		return snap_warn(err, "%s", k->next);
	}
	snap_warnx("%s: disk %s could not be given back: it goes on in %s, on top of %s", q->path,
	    k->name, k->next, k->file);
	return err;
}

int
drives_undo(struct drives *d, struct qmp *q)
{
	unsigned i;
	int err = 0, e;

	for (i = 0; i < d->disks.n; i++)
		if (d->drive[i].taken && (e = undo_one(&d->drive[i], &d->disks.disk[i], q)) != 0)
			err = e;
	return err;
}

void
drives_free(struct drives *d)
{
	disks_free(&d->disks);
	free(d->drive);
	d->drive = NULL;
}
