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

static int
no_memory(void)
{
	return snap_warn(ENOMEM, "disks");
}

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
	char path[64], qdev[DISK_NAME];
	const char *why;
	int err;

#define AT(field)	(snprintf(path, sizeof path, "return.%u." field, i), path)
	if (!qmp_has(q, AT("inserted.drv")) || qmp_is_true(q, AT("inserted.ro")))
		return 0;
	if (!qmp_string(q, AT("qdev"), qdev, sizeof qdev))
		qdev[0] = '\0';
	if (!qmp_string(q, AT("inserted.node-name"), v->node, sizeof v->node))
		v->node[0] = '\0';
	if (!qmp_string(q, AT("device"), k->name, sizeof k->name))
		k->name[0] = '\0';
	if (k->name[0] == '\0')
		name_disk(k, qdev, v->node);
	if (names != NULL && !is_in(names, k->name) && !is_in(names, v->node))
		return 0;
	if (v->node[0] == '\0' || !qmp_string(q, AT("inserted.file"), k->file, sizeof k->file) ||
	    !qmp_string(q, AT("inserted.drv"), k->format, sizeof k->format))
		return snap_warnx("%s: disk %s: QEMU tells too little of it, or too much", q->path,
		    k->name);
	why = qmp_is_true(q, AT("inserted.encrypted")) ? "is encrypted, and its new file would "
	    "not be" : what_is_wrong(d, k);
#undef AT
	if (why != NULL)
		return snap_warnx("%s: disk %s: %s: %s", q->path, k->name, k->file, why);
	snprintf(v->next, sizeof v->next, "qemu-snap-%08lx-%lx-%u",
	    (unsigned long)time(NULL) & 0xffffffff, (unsigned long)getpid() & 0xffffff,
	    d->disks.n);
	if ((err = name_next(k, image)) != 0)
		return err;
	return 1;
}

int
drives_find(struct drives *d, struct qmp *q, const char *names, const char *image)
{
	unsigned i, wished = names != NULL;
	const char *s;
	char path[64];
	int err;

	memset(d, 0, sizeof *d);
	if ((d->disks.disk = calloc(DISKS_MAX, sizeof *d->disks.disk)) == NULL ||
	    (d->drive = calloc(DISKS_MAX, sizeof *d->drive)) == NULL)
		return no_memory();
	if ((err = qmp_demand(q, "query-block", NULL)) != 0)
		return err;
	for (i = 0; snprintf(path, sizeof path, "return.%u", i), qmp_has(q, path); i++) {
		if (d->disks.n == DISKS_MAX)
			return snap_warnx("%s: more than %d disks", q->path, (int)DISKS_MAX);
		if ((err = find_one(d, q, i, names, image)) < 0)
			return err;
		d->disks.n += (unsigned)err;
	}
	for (s = names; s != NULL && (s = strchr(s, ',')) != NULL; s++)
		wished++;
	if (d->disks.n < wished)
		return snap_warnx("%s: not all of these are disks that can be written to: %s",
		    q->path, names);
	return 0;
}

/* A command's arguments. */
struct text {
	char *p;
	size_t n, size;
	int bad;	/* out of memory */
};

static void
add(struct text *t, const char *s)
{
	size_t n = strlen(s), size = t->size + n + 256;
	char *p = t->p;

	if (t->bad)
		return;
	if (t->n + n + 1 > t->size) {
		if ((p = realloc(t->p, size)) == NULL) {
			t->bad = 1;
			return;
		}
		t->p = p;
		t->size = size;
	}
	memcpy(t->p + t->n, s, n + 1);
	t->n += n;
}

/* A key and its value, a string. */
static void
put(struct text *t, const char *key, const char *value)
{
	char quoted[6 * DISK_FILE + 3];

	add(t, "\"");
	add(t, key);
	add(t, "\": ");
	json_put(quoted, sizeof quoted, value);
	add(t, quoted);
}

/* Run a command with the arguments in t, which are used up. */
static int
run(struct qmp *q, const char *command, struct text *t)
{
	int err = t->bad ? no_memory() : qmp_demand(q, command, t->p);

	free(t->p);
	return err;
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
	struct text t = { NULL, 0, 0, 0 };
	unsigned i;
	int err;

	if (d->disks.n == 0)
		return 0;
	add(&t, "{\"actions\": [");
	for (i = 0; i < d->disks.n; i++) {
		add(&t, i > 0 ? ", " : "");
		add(&t, "{\"type\": \"blockdev-snapshot-sync\", \"data\": {");
		put(&t, "node-name", d->drive[i].node);
		add(&t, ", ");
		put(&t, "snapshot-file", d->disks.disk[i].next);
		add(&t, ", ");
		put(&t, "snapshot-node-name", d->drive[i].next);
		add(&t, ", \"format\": \"qcow2\"}}");
	}
	add(&t, "]}");
	err = run(q, "transaction", &t);
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
	char path[64], name[64], state[32], words[512], arguments[96];
	unsigned i;
	int err, completing = 0;

	snprintf(arguments, sizeof arguments, "{\"id\": \"%s\"}", job);
	for (;;) {
		if ((err = qmp_demand(q, "query-jobs", NULL)) != 0)
			return err;
		for (i = 0; ; i++) {
			snprintf(path, sizeof path, "return.%u.id", i);
			if (!qmp_has(q, path))
				return snap_warnx("%s: job %s is gone", q->path, job);
			if (qmp_string(q, path, name, sizeof name) && strcmp(name, job) == 0)
				break;
		}
		snprintf(path, sizeof path, "return.%u.status", i);
		if (!qmp_string(q, path, state, sizeof state))
			state[0] = '\0';
		if (strcmp(state, "concluded") == 0)
			break;
		if (strcmp(state, "ready") == 0 && !completing) {
			completing = 1;
			if ((err = qmp_demand(q, "job-complete", arguments)) != 0)
				return err;
		}
		poll(NULL, 0, JOB_MS);
	}
	snprintf(path, sizeof path, "return.%u.error", i);
	if (qmp_string(q, path, words, sizeof words)) {
		snap_warnx("%s: QEMU says: %s", q->path, words);
		err = SNAP_ESYS;
	}
	qmp_run(q, -1, "job-dismiss", arguments);
	return err;
}

static int
undo_one(struct drive *v, struct disk *k, struct qmp *q)
{
	struct text t = { NULL, 0, 0, 0 };
	int err;

	add(&t, "{");
	put(&t, "job-id", v->next);
	add(&t, ", ");
	put(&t, "device", v->next);
	add(&t, ", ");
	put(&t, "base-node", v->node);
	add(&t, ", \"auto-dismiss\": false}");
	if ((err = run(q, "block-commit", &t)) == 0 &&
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
