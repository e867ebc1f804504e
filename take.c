/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * take.c -- a snapshot of a running guest, asked of its QEMU.
 *
 * QEMU gets one end of a pipe over its monitor, and streams into it; at the other end a process
 * of our own does what `save` does.  So no shell is in between, QEMU need not be allowed to start
 * commands, and both ends tell how it went: QEMU over the monitor, the saver as it exits.
 *
 *	look		what cannot be is refused
 *	  | start_saver		the saver is ready, and waits
 *	begin		set(), stop_guest(), drives_take(), and QEMU streams
 *	  | child_begin	the saver goes on
 *	follow		the first page has come: the_moment_is_over()
 *	  |			all has come, and QEMU says how it went: the saver goes on, or ends
 *	judge
 *	  |
 *	put_back	from wherever it failed, too
 *
 * T1  Until begin() nothing is changed.  What set() changed is put back however it ends, and so is
 *     whether the guest runs; but see wake_guest().
 * T2  The disks are those of the moment at which the memory is: the guest stands still from before
 *     they are snapshotted until its memory is write-protected, which the first page tells.
 * T3  An image comes of it if QEMU says `completed`, nothing failed here and nobody interrupted.
 *     The disks are given back if there is no image, and only then.
 *
 * Whoever interrupts has the saver give up, as it does when it fails: it reads on as far as it
 * must, since a QEMU up to 8.0 hangs its guest for ever when its reader goes away, or is told to
 * cancel, while the RAM of a background snapshot is on its way.  All others are told to cancel,
 * too, which is over sooner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "drives.h"
#include "latency.h"
#include "options.h"
#include "qmp.h"
#include "signals.h"
#include "snap.h"

enum {
	LOOK_MS = 100,
	BEARS_CANCEL = 8001	/* QEMU 8.1; before, background snapshots hang their guest */
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
	struct child saver;
	char migration[MIGRATION_STATE];	/* what query-migrate says */
};

/* ---- look ---- */

static int
look_at_guest(struct take *t)
{
	char state[GUEST_STATE];
	int err = qmp_guest(&t->q, state, &t->was_running);

	if (err != 0)
		return err;
	if (strcmp(state, "inmigrate") == 0)
		return snap_warnx("%s: this QEMU waits for a guest: revert is what brings it one",
		    t->q.path);
	if (t->was_running || strcmp(state, "paused") == 0)
		return 0;
	return snap_warnx("%s: the guest is neither running nor paused, but %s%s", t->q.path, state,
	    strcmp(state, "prelaunch") == 0 || strcmp(state, "postmigrate") == 0 ?
	    ": let it run first (cont)" : "");
}

/* With an ordinary migration these bring what cannot be stored, or wait for an answer.  What does
 * not go along with a background snapshot, QEMU refuses itself.  Its capabilities are the last
 * reply. */
static int
refuse_settings(struct take *t)
{
	static const char *const names[] = { "postcopy-ram", "return-path", "multifd",
	    "mapped-ram", "compress", "pause-before-switchover" };
	int known, on;
	size_t i;

	for (i = 0; i < sizeof names / sizeof names[0]; i++) {
		qmp_find_capability(&t->q, names[i], &known, &on);
		if (on)
			return snap_warnx("%s: this QEMU has %s on: switch it off to save",
			    t->q.path, names[i]);
	}
	return 0;
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
	if (t->opt->stop && (err = refuse_settings(t)) != 0)
		return err;
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
	if ((err = look_at_settings(t)) != 0 || t->opt->disk_names == NULL)
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

/* A guest that ran is to run again; if there is an image, and we did not stop it, somebody else
 * did.  Then its disks can be written to, too, which the undo needs: for that alone, one that was
 * paused and has migrated runs for a moment. */
static int
wake_guest(struct take *t, int none)
{
	char state[GUEST_STATE];
	int err, runs;

	if (t->was_running ? t->stopped == 0 && !none : !none || t->drives.disks.n == 0)
		return 0;
	if ((err = qmp_guest(&t->q, state, &runs)) != 0 || runs ||
	    (!t->was_running && strcmp(state, "postmigrate") != 0))
		return err;
	if ((err = let_run(t)) == 0 && !t->was_running)
		err = qmp_demand(&t->q, "stop", NULL);
	return err;
}

/* As it was before: whether the guest runs, the disks if there is no image, capability and
 * limit. */
static int
put_back(struct take *t, int none)
{
	char state[GUEST_STATE];
	int err = 0, e, runs;

	if (t->q.fd >= 0 && t->changed)
		err = wake_guest(t, none);
	if (none && (e = drives_undo(&t->drives, &t->q)) != 0)
		err = e;
	if (t->q.fd < 0 || !t->changed)
		return err;
	/* QEMU 7.2 may also have it run only after the_moment_is_over(). */
	if (!t->was_running) {
		if ((e = qmp_guest(&t->q, state, &runs)) == 0 && runs)
			e = qmp_demand(&t->q, "stop", NULL);
		if (e != 0)
			err = e;
	}
	if (t->had_capability == t->opt->stop &&
	    (e = qmp_set_capability(&t->q, capability, t->had_capability, "")) != 0)
		err = e;
	if (t->has_bandwidth && (e = set_bandwidth(t, t->bandwidth)) != 0)
		err = e;
	return err;
}

/* ---- stream ---- */

static int
start_saver(struct take *t)
{
	struct options own = *t->opt;
	int p[2];

	if (pipe(p) != 0)
		return snap_warn(errno, "pipe");
	own.disks = t->disks;
	own.disks_len = t->disks_len;
	return child_start(&t->saver, p, &own, run_save);
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
		if (t->q.stops - t->stops > 1)
			return snap_warnx("%s: somebody let the guest run meanwhile: its disks are "
			    "older than its memory", t->image);
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
	const int bears_cancel = t->opt->stop || t->q.version >= BEARS_CANCEL;
	int cancelled = 0, decided = 0, err = 0;

	while (!t->saver.ended || (t->q.fd >= 0 && !migration_is_over(t->migration))) {
		if ((child_wait(&t->saver, LOOK_MS) || (t->saver.said & LEASH_FAILED)) &&
		    bears_cancel && !cancelled && t->q.fd >= 0) {
			cancelled = 1;
			qmp_run(&t->q, -1, "migrate_cancel", NULL);
		}
		if ((t->saver.said & LEASH_PAGE) && !t->passed && !t->opt->stop && t->q.fd >= 0 &&
		    the_moment_is_over(t) != 0)
			err = SNAP_ESYS;
		if (t->q.fd >= 0 && (qmp_look(&t->q) != 0 ||
		    qmp_migration(&t->q, t->migration) != 0))
			err = SNAP_ESYS;
		/* Of what is all read an image comes only if all agree. */
		if ((t->saver.said & LEASH_DONE) && !decided && (t->q.fd < 0 ||
		    migration_is_over(t->migration))) {
			decided = 1;
			if (err == 0 && strcmp(t->migration, "completed") == 0 &&
			    (err = check_signals(t->image)) == 0)
				child_go(&t->saver);
			else
				child_cancel(&t->saver);
		}
	}
	return err;
}

/* What came of it; what the saver has not told is told here. */
static int
judge(struct take *t, int err)
{
	int untold = t->saver.status == 0 || (t->saver.said & (LEASH_CUT | LEASH_DONE));

	if (t->saver.status != 0)
		err = t->saver.said & LEASH_CUT ? SNAP_ESYS : t->saver.status;
	if (t->q.fd < 0 || (!(t->saver.said & LEASH_CUT) && strcmp(t->migration, "completed") == 0))
		return err;
	if (untold && check_signals(t->image) == 0)
		qmp_say_reason(&t->q, t->migration);
	return err != 0 ? err : SNAP_ESYS;
}

/* Until all is put back. */
static int
always(void *arg)
{
	(void)arg;
	return 1;
}

/* The moment: disks, and the start of the stream. */
static int
begin(struct take *t)
{
	int err;

	if (got_signal() != 0)
		return check_signals(t->image);
	t->q.must_answer = always;
	if ((err = set(t)) != 0)
		return err;
	if (t->was_running && (t->opt->stop || t->drives.disks.n > 0) &&
	    (err = stop_guest(t)) != 0)
		return err;
	if ((err = drives_take(&t->drives, &t->q)) != 0)
		return err;
	return qmp_hand(&t->q, t->saver.stream, "migrate", "{\"uri\": \"fd:" QMP_FD "\"}",
	    t->opt->stop ? "" : hint);
}

/* All of it.  1: this is the saver, which has ended. */
static int
take(struct take *t)
{
	int err;

	if ((err = look(t)) != 0)
		return err;
	t->drives.disks.ran = t->was_running;
	/* Stopped for this, it is so in the image, and revert must know. */
	if ((t->drives.disks.n > 0 || t->opt->stop) &&
	    (t->disks = disks_pack(&t->drives.disks, &t->disks_len)) == NULL)
		return snap_warn(ENOMEM, "disks");
	if ((err = start_saver(t)) != 0 || (err = child_begin(&t->saver, begin(t))) != 0)
		return err;
	return judge(t, follow(t));
}

int
run_take(const struct options *o)
{
	struct take t;
	int err, e, none;

	memset(&t, 0, sizeof t);
	t.opt = o;
	t.saver.q = &t.q;
	t.saver.name = t.image = o->file[1];
	note_signals();
	if ((err = qmp_open(&t.q, o->file[0])) == 0 && (err = take(&t)) != 1) {
		none = err != 0 && !(t.saver.said & LEASH_NAMED);
		if ((e = put_back(&t, none)) != 0 && err == 0)
			err = e;
		if (err == 0 && t.pause > 0)
			snap_warnx("%s: the guest stood still for %lld ms", t.image,
			    (long long)(t.pause / 1000000));
	}
	qmp_close(&t.q);
	drives_free(&t.drives);
	free(t.disks);
	return err == 1 ? t.saver.status : err;
}
