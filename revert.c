/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * revert.c -- an image goes into a QEMU that waits for a guest, asked of that QEMU.
 *
 * QEMU gets one end of a pair of sockets over its monitor; at the other end a process of our
 * own does what `load` does.  What in a stream nobody tells, QEMU tells here: which memory lies
 * in huge pages.
 *
 *	look		QEMU waits for a guest or, with --resume, for memory
 *	look_at_image	its disks are where it can go on; huge pages
 *	  | start_loader	the loader is ready, and waits
 *	begin		the capability for postcopy, and QEMU reads
 *	  | child_begin	the loader goes on
 *	follow		until both have ended, or the guest waits for memory
 *	  |
 *	judge
 *
 * R1  Until begin() nothing is changed.
 * R2  The capability is switched off again when the migration is over, not when it can be resumed.
 * R3  A guest that was stopped for its disks is so in the image, and is let run once, unless it is
 *     there for postcopy, which starts it whatever it was.
 */
#include <sys/socket.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "disks.h"
#include "latency.h"
#include "options.h"
#include "qmp.h"
#include "signals.h"
#include "snap.h"

enum {
	LOOK_MS = 20,
	AHEAD = 64 << 10,	/* bytes in the socket: they come before a page asked for */
	STAYS = 9001,		/* QEMU 9.1 can stay when a load fails */
	BLOCKS_TEXT = 256 << 10
};

static const char capability[] = "postcopy-ram";

struct revert {
	const struct options *opt;
	struct options own;		/* the loader's */
	const char *image;
	struct qmp q;
	int postcopy, had_capability, changed;
	char uuid[37];			/* of the image, when it has been looked at */
	int ran;			/* the guest did when it was stopped for its disks */
	int cont;			/* it has been told to */
	struct child loader;
	char migration[MIGRATION_STATE], guest[GUEST_STATE];
	char *blocks;			/* text of x-query-ramblock */
	int64_t since, runs;		/* ns: when it began, and when the guest ran; 0: not yet */
};

static int
look_at_guest(struct revert *r)
{
	int runs, err = qmp_guest(&r->q, r->guest, &runs);

	if (runs && r->runs == 0)
		r->runs = now_ns();
	return err;
}

/* Does the guest wait for a postcopy to be taken up again? */
static int
is_paused(const struct revert *r)
{
	return strcmp(r->migration, "postcopy-paused") == 0;
}

/* The image is named if it is the one that the guest came from; whoever resumes has not shown
 * that. */
static void
say_paused(const struct revert *r)
{
	if (r->uuid[0] == '\0' || (r->opt->resume && !r->opt->have_uuid))
		snap_warnx("%s: the guest waits for memory: revert --resume brings it, from the "
		    "very image it was reverted to, with the --uuid= told then", r->q.path);
	else
		snap_warnx("%s: the guest waits for memory; to go on: revert --resume --uuid=%s %s "
		    "%s%s", r->q.path, r->uuid, r->q.path, r->image,
		    r->loader.status == SNAP_EDATA ? ", but a good copy of it" : "");
}

static int
look(struct revert *r)
{
	int err, known;

	if ((err = look_at_guest(r)) != 0 || (err = qmp_migration(&r->q, r->migration)) != 0)
		return err;
	if (r->opt->resume && !is_paused(r))
		return snap_warnx("%s: nothing is to be resumed here: the guest is %s, the "
		    "migration %s", r->q.path, r->guest, r->migration);
	if (!r->opt->resume && is_paused(r)) {
		say_paused(r);
		return SNAP_ESYS;
	}
	if (!r->opt->resume && (strcmp(r->guest, "inmigrate") != 0 ||
	    !migration_is_over(r->migration)))
		return snap_warnx("%s: this QEMU does not wait for a guest: it is %s; start one "
		    "with -incoming defer", r->q.path, r->guest);
	r->runs = 0;
	return qmp_capability(&r->q, capability, &known, &r->had_capability);
}

/* ---- huge pages ---- */

/* A line of "info ramblock" (ram_block_format in softmmu/physmem.c): a name, the size of its
 * pages in two words, and numbers. */
static void
take_block(struct revert *r, const struct ram_map *ram, const char *line)
{
	struct host_page *h = &r->own.host_page[r->own.nhost_page];
	const char *end = strstr(line, "  0x"), *unit, *number, *at;
	char name[sizeof ram->blk->id];
	uint64_t n = 0;
	size_t len;

	if (end == NULL || r->own.nhost_page == HOST_PAGES_MAX)
		return;
	for (unit = end; unit > line && unit[-1] != ' '; unit--)
		;
	for (number = unit > line ? unit - 1 : line; number > line && number[-1] != ' '; number--)
		;
	for (at = number; *at >= '0' && *at <= '9' && n < 10000; at++)
		n = n * 10 + (unsigned)(*at - '0');
	n <<= *unit == 'G' ? 30 : *unit == 'M' ? 20 : 10;
	line += strspn(line, " ");
	for (len = (size_t)(number - line); number > line && len > 0 && line[len - 1] == ' '; len--)
		;
	if (number <= line || len == 0 || len >= sizeof name || n > UINT32_MAX)
		return;
	memcpy(name, line, len);
	name[len] = '\0';
	if (ram_map_named(ram, name) == NULL || n <= (uint64_t)sysconf(_SC_PAGESIZE))
		return;
	h->block = line;
	h->len = len;
	h->size = (uint32_t)n;
	r->own.nhost_page++;
}

/* Which blocks have them?  What the user says of one counts more.  QEMU 6.2 tells. */
static int
find_huge_pages(struct revert *r, const struct ram_map *ram)
{
	char *line, *next;
	unsigned i;
	int err;

	if ((r->blocks = malloc(BLOCKS_TEXT)) == NULL)
		return snap_warn(ENOMEM, "%s", r->image);
	r->own.nhost_page = 0;
	if ((err = qmp_run(&r->q, -1, "x-query-ramblock", NULL)) < 0)
		return err;
	if (err == 0 && qmp_string(&r->q, "return.human-readable-text", r->blocks, BLOCKS_TEXT))
		for (line = r->blocks; line != NULL && *line != '\0'; line = next) {
			if ((next = strchr(line, '\n')) != NULL)
				*next++ = '\0';
			take_block(r, ram, line);
		}
	for (i = 0; i < r->opt->nhost_page && r->own.nhost_page < HOST_PAGES_MAX; i++)
		r->own.host_page[r->own.nhost_page++] = r->opt->host_page[i];
	return 0;
}

/* A guest whose memory is taken back must not find a disk that has moved on, nor write to what is
 * below one. */
static int
check_disks(struct revert *r, const struct disks *d)
{
	char path[QMP_PATH], file[DISK_FILE];
	const struct disk *k;
	unsigned i, n;
	int err = d->n == 0 ? 0 : qmp_demand(&r->q, "query-block", NULL);

	for (i = 0; err == 0 && d->n > 0 && qmp_has(&r->q, qmp_at(path, i, "")); i++) {
		if (!qmp_string(&r->q, qmp_at(path, i, "inserted.file"), file, sizeof file))
			continue;
		for (n = 0; n < d->n; n++) {
			k = &d->disk[n];
			if (strcmp(file, k->next) == 0)
				snap_warnx("%s: disk %s: the guest went on in %s; put a new file "
				    "on top of %s", r->q.path, k->name, file, k->file);
			else if (strcmp(file, k->file) == 0 && access(k->next, F_OK) == 0)
				snap_warnx("%s: disk %s: %s lies below %s, and must not be "
				    "written to; put a new file on top of it", r->q.path,
				    k->name, file, k->next);
			else
				continue;
			err = SNAP_ESYS;
		}
	}
	return err;
}

/* What the image tells, before anything is done. */
static int
look_at_image(struct revert *r)
{
	struct disks d;
	struct image *im;
	int err;

	if ((im = image_open(r->image, 0, &err)) == NULL)
		return err;
	uuid_format(r->uuid, image_footer(im)->uuid);
	if ((err = disks_read(&d, im)) == 0 && !r->opt->resume)
		err = check_disks(r, &d);
	if (err == 0 && r->postcopy)
		err = find_huge_pages(r, image_ram(im));
	r->ran = d.ran && !r->postcopy;
	disks_free(&d);
	image_close(im);
	return err;
}

/* ---- the stream ---- */

/* The loader's stream goes both ways. */
static int
run_loader(const struct options *o)
{
	dup2(STDIN_FILENO, STDOUT_FILENO);
	return run_load(o);
}

static int
start_loader(struct revert *r)
{
	int p[2], ahead = AHEAD;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, p) != 0)
		return snap_warn(errno, "socketpair");
	setsockopt(p[0], SOL_SOCKET, SO_SNDBUF, &ahead, sizeof ahead);	/* or as it is */
	return child_start(&r->loader, p, &r->own, run_loader);
}

/* QEMU needs us as long as there is one who brings it memory.  A QEMU 7.2 that waits for some that
 * nobody brings any more never answers again. */
static int
loader_works(void *arg)
{
	struct revert *r = arg;

	child_wait(&r->loader, 0);
	return !r->loader.ended;
}

static int
begin(struct revert *r)
{
	const char *arguments = "{\"uri\": \"fd:" QMP_FD "\"}", *command = "migrate-incoming";
	int e;

	if (got_signal() != 0)
		return check_signals(r->image);
	r->q.must_answer = loader_works;
	r->q.arg = r;
	if (r->opt->resume) {
		command = "migrate-recover";
		r->changed = 1;		/* by the one that was interrupted */
	} else if (r->q.version >= STAYS)
		arguments = "{\"uri\": \"fd:" QMP_FD "\", \"exit-on-error\": false}";
	if (r->postcopy && !r->had_capability && !r->opt->resume) {
		if ((e = qmp_set_capability(&r->q, capability, 1, "; without --postcopy, all is "
		    "loaded first")) != 0)
			return e;
		r->changed = 1;
	}
	r->since = now_ns();
	return qmp_hand(&r->q, r->loader.stream, command, arguments, "");
}

/* Until the loader and the migration have ended; a QEMU that is gone has. */
static int
follow(struct revert *r)
{
	int err = 0;

	while (err == 0 && (!r->loader.ended ||
	    (!migration_is_over(r->migration) && !is_paused(r)))) {
		child_wait(&r->loader, LOOK_MS);
		/* In this order: what the guest is when the migration has ended, it stays. */
		if ((err = qmp_look(&r->q)) == 0 && (err = qmp_migration(&r->q, r->migration)) == 0)
			err = look_at_guest(r);
		/* It was stopped for its disks, and is so in the image. */
		if (err == 0 && r->ran && !r->cont && strcmp(r->guest, "paused") == 0) {
			r->cont = 1;
			if ((err = qmp_demand(&r->q, "cont", NULL)) == 0)
				err = look_at_guest(r);
		}
	}
	child_join(&r->loader);
	return err;
}

static int
judge(struct revert *r, int err)
{
	int64_t now = now_ns();
	int has_reason;

	if (r->loader.status != 0)
		err = r->loader.status;
	if (r->q.fd < 0)
		return err != 0 ? err : SNAP_ESYS;
	if (strcmp(r->migration, "completed") != 0) {
		has_reason = r->loader.status == 0 && qmp_migration(&r->q, r->migration) == 0 &&
		    qmp_has(&r->q, "return.error-desc");
		if (has_reason || (err == 0 && !is_paused(r)))
			qmp_say_reason(&r->q, r->migration);
		if (is_paused(r))
			say_paused(r);
		return err != 0 ? err : SNAP_ESYS;
	}
	if (err == 0 && r->runs != 0)
		snap_warnx("%s: the guest ran after %lld ms, all is loaded after %lld", r->image,
		    (long long)((r->runs - r->since) / 1000000),
		    (long long)((now - r->since) / 1000000));
	else if (err == 0)
		snap_warnx("%s: all is loaded after %lld ms; the guest is %s", r->image,
		    (long long)((now - r->since) / 1000000), r->guest);
	return err;
}

/* All of it.  1: this is the loader, which has ended. */
static int
revert(struct revert *r)
{
	int err;

	if ((err = look(r)) != 0 || (err = look_at_image(r)) != 0 ||
	    (err = start_loader(r)) != 0 || (err = child_begin(&r->loader, begin(r))) != 0)
		return err;
	return judge(r, follow(r));
}

int
run_revert(const struct options *o)
{
	struct revert r;
	int err, e;

	memset(&r, 0, sizeof r);
	r.opt = o;
	r.own = *o;
	r.loader.q = &r.q;
	r.loader.name = r.image = o->file[1];
	r.postcopy = o->percent >= 0 || o->resume;
	note_signals();
	if ((err = qmp_open(&r.q, o->file[0])) == 0 && (err = revert(&r)) != 1 &&
	    r.changed && r.q.fd >= 0 && migration_is_over(r.migration) &&
	    (e = qmp_set_capability(&r.q, capability, 0, "")) != 0 && err == 0)
		err = e;
	qmp_close(&r.q);
	free(r.blocks);
	return err == 1 ? r.loader.status : err;
}
