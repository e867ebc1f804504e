/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * take.c -- a snapshot of a running guest, asked of its QEMU.
 *
 * QEMU gets one end of a pipe over its monitor, and streams into it; at the other end a process
 * of our own does what `save` does.  So no shell is in between, QEMU need not be allowed to start
 * commands, and both ends tell how it went: QEMU over the monitor, the saver as it exits.
 *
 *	look	what cannot be is refused before anything is changed
 *	set	the capability and the limit, as a snapshot needs them; both are put back at the
 *		end, however it ends
 *	stream	until QEMU and the saver have both ended
 *
 * Whoever interrupts has the saver give up: it reads on as far as it must, since a QEMU up to 8.0
 * hangs its guest for ever when its reader goes away, or is told to cancel, while RAM is on its
 * way.  Newer ones are told to cancel, too, which is over sooner.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drives.h"
#include "latency.h"
#include "options.h"
#include "qmp.h"
#include "snap.h"
#include "worker.h"

enum {
	LOOK_MS = 100,
	BEARS_CANCEL = 8001	/* QEMU 8.1 */
};

#define UNLIMITED	(UINT64_C(1) << 40)	/* bytes a second */

static const char capability[] = "background-snapshot";
static const char hint[] = "; --stop does without, while the guest stands still";

struct take {
	const struct options *opt;
	const char *image;
	struct qmp q;
	int was_running;
	int have_capability, had_capability;
	int has_bandwidth;
	uint64_t bandwidth;		/* as it was; bytes a second */
	int changed;			/* capability and limit */
	struct drives drives;
	uint8_t *disks;			/* a section of them, disks_len bytes */
	size_t disks_len;
	int64_t stopped;		/* ns: when the guest was, for the disks; 0: it runs */
	int64_t pause;			/* ns: how long it was */
	unsigned stops;			/* events STOP before that */
	int passed;			/* the moment is, see the_moment_is_over() */
	struct worker saver;
	char migration[MIGRATION_STATE];	/* what query-migrate says */
};

/* ---- look ---- */

static int
look_at_guest(struct take *t)
{
	char state[64];
	int err;

	if ((err = qmp_demand(&t->q, "query-status", NULL)) != 0)
		return err;
	t->was_running = qmp_is_true(&t->q, "return.running");
	if (!qmp_string(&t->q, "return.status", state, sizeof state))
		state[0] = '\0';
	if (strcmp(state, "inmigrate") == 0)
		return snap_warnx("%s: this QEMU waits for a guest: revert is what brings it one",
		    t->q.path);
	if (t->was_running || strcmp(state, "paused") == 0)
		return 0;
	return snap_warnx("%s: the guest is neither running nor paused, but %s%s", t->q.path, state,
	    strcmp(state, "prelaunch") == 0 || strcmp(state, "postmigrate") == 0 ?
	    ": let it run first (cont)" : "");
}

static int
look_at_settings(struct take *t)
{
	int err = qmp_capability(&t->q, capability, &t->have_capability,
	    &t->had_capability);

	if (err != 0)
		return err;
	if (!t->have_capability && !t->opt->stop)
		return snap_warnx("%s: this QEMU has no background snapshots, as QEMU 6.0 and "
		    "later do: see --stop", t->q.path);
	if ((err = qmp_demand(&t->q, "query-migrate-parameters", NULL)) != 0)
		return err;
	t->has_bandwidth = qmp_number(&t->q, "return.max-bandwidth", &t->bandwidth);
	return 0;
}

static int
look(struct take *t)
{
	int err;

	if ((err = look_at_guest(t)) != 0 || (err = qmp_migration(&t->q, t->migration)) != 0)
		return err;
	if (!migration_is_over(t->migration))
		return snap_warnx("%s: a migration is under way: %s", t->q.path, t->migration);
	if ((err = look_at_settings(t)) != 0 || !t->opt->with_disks)
		return err;
	return drives_find(&t->drives, &t->q, t->opt->disk_names, t->image);
}

/* ---- set ---- */

static int
set_bandwidth(struct take *t, uint64_t bytes)
{
	char arguments[64];

	snprintf(arguments, sizeof arguments, "{\"max-bandwidth\": %" PRIu64 "}", bytes);
	return qmp_demand(&t->q, "migrate-set-parameters", arguments);
}

static int
set(struct take *t)
{
	int err;

	if (t->had_capability == t->opt->stop &&
	    (err = qmp_set_capability(&t->q, capability, !t->opt->stop, hint)) != 0)
		return err;
	t->changed = 1;
	if ((err = set_bandwidth(t, UNLIMITED)) != 0)
		t->has_bandwidth = 0;
	return err;
}

/* ---- the guest stands still ---- */

static int
stop_guest(struct take *t)
{
	t->stopped = now_ns();
	t->stops = t->q.stops;
	return qmp_demand(&t->q, "stop", NULL);
}

static int
let_run(struct take *t)
{
	int err = qmp_demand(&t->q, "cont", NULL);

	if (err == 0 && t->stopped != 0)
		t->pause = now_ns() - t->stopped;
	t->stopped = 0;
	return err;
}

/* As it was before: whether the guest runs, the disks if nothing came of it, capability and
 * limit. */
static int
put_back(struct take *t, int failed)
{
	int err = 0, e;

	/* A guest that runs has disks that can be written to, which the undo needs.  If nothing
	 * failed, and we did not stop it, somebody else did. */
	if (t->q.fd >= 0 && t->changed && t->was_running && (t->stopped != 0 || failed) &&
	    (err = qmp_demand(&t->q, "query-status", NULL)) == 0 &&
	    !qmp_is_true(&t->q, "return.running"))
		err = let_run(t);
	if (failed && (e = drives_undo(&t->drives, &t->q)) != 0)
		err = e;
	if (t->q.fd < 0 || !t->changed)
		return err;
	/* QEMU 7.2 may also have it run only after the_moment_is_over(). */
	if (!t->was_running && (e = qmp_demand(&t->q, "query-status", NULL)) == 0 &&
	    qmp_is_true(&t->q, "return.running"))
		err = qmp_demand(&t->q, "stop", NULL);
	if (t->had_capability == t->opt->stop &&
	    (e = qmp_set_capability(&t->q, capability, t->had_capability, "")) != 0)
		err = e;
	if (t->has_bandwidth && (e = set_bandwidth(t, t->bandwidth)) != 0)
		err = e;
	return err;
}

/* ---- stream ---- */

/* Start the saver.  1: this is the saver, which has ended with *status. */
static int
start_saver(struct take *t, int *stream, int *status)
{
	struct options own = *t->opt;
	struct leash leash;
	int p[2], r;

	if (pipe(p) != 0)
		return snap_warn(errno, "pipe");
	if ((r = worker_start(&t->saver, &leash)) == 1) {
		dup2(p[0], STDIN_FILENO);
		close(p[0]);
		close(p[1]);
		close(t->q.fd);
		own.leash = &leash;
		own.disks = t->disks;
		own.disks_len = t->disks_len;
		own.file++;
		own.nfile--;
		*status = run_save(&own);
		return 1;
	}
	close(p[0]);
	*stream = p[1];
	return r != 0 ? r : worker_await(&t->saver);
}

static void
give_up(struct take *t)
{
	worker_interrupt(&t->saver);
	if (t->q.fd >= 0 && t->q.version >= BEARS_CANCEL)
		qmp_run(&t->q, -1, "migrate_cancel", NULL);
}

/*
 * The guest's memory is write-protected: what it does from here on is not in the image.  If it was
 * stopped a second time, by QEMU for the snapshot, it had run in between.
 */
static int
the_moment_is_over(struct take *t)
{
	int err = 0;

	t->passed = 1;
	if (t->stopped != 0) {
		err = let_run(t);
		if (t->q.stops - t->stops > 1) {
			snap_warnx("%s: somebody let the guest run meanwhile: its disks are older "
			    "than its memory", t->image);
			worker_interrupt(&t->saver);
			return SNAP_ESYS;
		}
	}
	/* QEMU 7.2 has a guest run after a background snapshot, whether it did before or not. */
	if (!t->was_running)
		err = qmp_demand(&t->q, "stop", NULL);
	return err;
}

/* Until both have ended; a QEMU that is gone has. */
static int
follow(struct take *t)
{
	struct pollfd p[2];
	int given_up = 0, decided = 0, err = 0;

	while (!t->saver.ended || (t->q.fd >= 0 && !migration_is_over(t->migration))) {
		p[0].fd = t->q.fd;
		p[1].fd = t->saver.ended ? -1 : t->saver.told;
		p[0].events = p[1].events = POLLIN;
		poll(p, 2, LOOK_MS);
		if (!given_up && got_signal() != 0) {
			given_up = 1;
			give_up(t);
		}
		if (!t->saver.ended && (p[1].revents & (POLLIN | POLLHUP)))
			worker_listen(&t->saver);
		if (t->saver.paged && !t->passed && !t->opt->stop && t->q.fd >= 0 &&
		    the_moment_is_over(t) != 0)
			err = SNAP_ESYS;
		if (t->q.fd >= 0 && (qmp_look(&t->q) != 0 ||
		    qmp_migration(&t->q, t->migration) != 0))
			err = SNAP_ESYS;
		/* Of what is all read an image comes only if all agree. */
		if (t->saver.done && !decided && (t->q.fd < 0 ||
		    migration_is_over(t->migration))) {
			decided = 1;
			if (err == 0 && strcmp(t->migration, "completed") == 0 &&
			    (err = check_signals(t->image)) == 0)
				worker_go(&t->saver);
			else
				worker_cancel(&t->saver);
		}
	}
	return err;
}

/* What came of it; what the saver has not told is told here. */
static int
judge(struct take *t, int err)
{
	char words[512];
	int untold = t->saver.status == 0 || t->saver.cut || t->saver.done;

	if (t->saver.status != 0)
		err = t->saver.cut ? SNAP_ESYS : t->saver.status;
	if (t->q.fd < 0 || (!t->saver.cut && strcmp(t->migration, "completed") == 0))
		return err;
	if (untold && check_signals(t->image) == 0) {
		if (qmp_string(&t->q, "return.error-desc", words, sizeof words))
			snap_warnx("%s: QEMU says: %s", t->q.path, words);
		else
			snap_warnx("%s: QEMU gives no reason; the migration is %s", t->q.path,
			    t->migration);
	}
	return err != 0 ? err : SNAP_ESYS;
}

/* The moment: disks, and the start of the stream. */
static int
begin(struct take *t, int stream)
{
	int err;

	if (got_signal() != 0)
		return check_signals(t->image);
	t->q.must_answer = 1;
	if ((err = set(t)) != 0)
		return err;
	if (t->was_running && (t->opt->stop || t->drives.disks.n > 0) &&
	    (err = stop_guest(t)) != 0)
		return err;
	if ((err = drives_take(&t->drives, &t->q)) != 0)
		return err;
	return qmp_hand(&t->q, stream, "migrate", "{\"uri\": \"fd:" QMP_FD "\"}",
	    t->opt->stop ? "" : hint);
}

/* All of it.  1: this is the saver, with *status its own. */
static int
take(struct take *t, int *status)
{
	int stream = -1, err;

	if ((err = look(t)) != 0)
		return err;
	t->drives.disks.ran = t->was_running;
	/* Stopped for this, it is so in the image, and revert must know. */
	if ((t->drives.disks.n > 0 || t->opt->stop) &&
	    (t->disks = disks_pack(&t->drives.disks, &t->disks_len)) == NULL)
		return snap_warn(ENOMEM, "disks");
	if ((err = start_saver(t, &stream, status)) != 0)
		return err;
	err = begin(t, stream);
	close(stream);
	if (err != 0) {
		worker_cancel(&t->saver);
		return err;
	}
	worker_go(&t->saver);
	return judge(t, follow(t));
}

int
run_take(const struct options *o)
{
	struct take t;
	int err, e, status = 0;

	memset(&t, 0, sizeof t);
	t.opt = o;
	t.saver.name = t.image = o->file[1];
	note_signals();
	if ((err = qmp_open(&t.q, o->file[0])) == 0 && (err = take(&t, &status)) != 1) {
		if ((e = put_back(&t, err != 0)) != 0 && err == 0)
			err = e;
		if (err == 0 && t.pause > 0)
			snap_warnx("%s: the guest stood still for %lld ms", t.image,
			    (long long)(t.pause / 1000000));
	}
	qmp_close(&t.q);
	drives_free(&t.drives);
	free(t.disks);
	return err == 1 ? status : err;
}
