/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * save.c -- a migration stream becomes an image.
 *
 * Pages go to the image as they come.  When the first byte after the RAM is
 * here, everything so far is made durable (image_seal); when the head of the
 * JSON description is, so is the device state, and the room for the rest is
 * taken (image_hold).  All this happens with more left in the source than a
 * pipe holds, so that QEMU has not yet said "completed".  What follows is
 * small: the rest of the description, footer, sync, rename.
 *
 * The source is never left alone while its RAM is on the way: QEMU up to 8.0
 * then hangs its guest for ever.  So whatever goes wrong is said at once, the
 * temporary file is removed, and the stream is read on: as long as it parses,
 * up to the end of the RAM, where closing it makes QEMU say "failed" and the
 * guest live; where framing is lost, up to its end.  Against
 * sudden death a guard stands by (guard.c).
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "guard.h"
#include "image.h"
#include "options.h"
#include "pipe.h"
#include "returnpath.h"
#include "signals.h"
#include "snap.h"
#include "status.h"
#include "store.h"
#include "stream.h"

enum { FIRST_BYTES_MS = 10000 };	/* a large guest may need some seconds to begin */

struct save {
	const struct options *opt;
	struct stream_in *in;
	struct store to;		/* its image is NULL: given up */
	int status;			/* 0, or why it was given up */
	int paged;			/* the leash knows that pages come */
	int draining;			/* the stream is read for QEMU's sake alone */
	int answered;
	struct guard guard;
	struct status *st;		/* NULL: nobody is told */
};

/* The reason has been printed: no image will come of this. */
static void
give_up(struct save *s, int status)
{
	if (s->status == 0)
		s->status = status;
	image_free(s->to.image);
	s->to.image = NULL;
	if (s->in != NULL)
		stream_quiet(s->in);	/* one message for one cause */
	if (s->st != NULL && !s->draining) {
		status_phase(s->st, "draining", 0);
		if (s->opt->leash != NULL)
			leash_tell(s->opt->leash, LEASH_FAILED);
	}
	s->draining = s->to.in_tail = 1;	/* and nothing else any more */
}

static void
check_signal(struct save *s)
{
	if (s->to.image != NULL && check_signals(s->opt->file[0]) != 0)
		give_up(s, SNAP_ESYS);
}

/* A read was interrupted: to have us end, or tell how far we are. */
static void
on_signal(void *arg)
{
	struct save *s = arg;

	check_signal(s);
	status_answer(s->st);
}

/* The one answer QEMU listens to, where it asked for one, and is there to hear it. */
static void
answer(struct save *s)
{
	if (stream_facts(s->in)->wants_shut && !s->answered &&
	    (s->opt == NULL || s->opt->leash == NULL))
		rp_send_shut(STDOUT_FILENO, s->status == 0 ? 0 : 1);
	s->answered = 1;
}

/* Read the stream up to its end, or to where it may be left. */
static void
store(struct save *s)
{
	struct stream_item it;
	int r, err;

	while ((r = stream_next(s->in, &it)) == 1) {
		check_signal(s);
		if (s->opt != NULL && s->opt->leash != NULL && !s->paged &&
		    (it.kind == ITEM_PAGE || it.kind == ITEM_ZERO)) {
			s->paged = 1;
			leash_tell(s->opt->leash, LEASH_PAGE);
		}
		if (s->st != NULL && !(s->draining && it.kind == ITEM_BLOCKS))
			store_count(&s->to, s->st, s->in, &it);
		/* Behind the RAM, QEMU of all versions bears to lose its reader. */
		if (it.kind == ITEM_TAIL)
			guard_dismiss(&s->guard);
		if (s->to.image != NULL && (err = store_item(&s->to, s->in, &it)) != 0)
			give_up(s, err);
		if (s->to.image == NULL && it.kind == ITEM_TAIL)
			return;		/* the RAM is through: leaving is safe */
	}
	if (r < 0) {
		if (s->to.image != NULL && s->opt->leash != NULL && stream_facts(s->in)->cut)
			leash_tell(s->opt->leash, LEASH_CUT);
		give_up(s, r);
		/* A source that waits for SHUT comes to no end before it. */
		answer(s);
		pipe_drain(STDIN_FILENO);
	}
}

void
refuse_stream(void)
{
	struct save s;

	memset(&s, 0, sizeof s);
	s.guard.fd = -1;
	s.status = SNAP_ESYS;
	if ((s.in = stream_open(STDIN_FILENO, 0)) == NULL) {
		pipe_drain(STDIN_FILENO);
		return;
	}
	stream_quiet(s.in);
	store(&s);
	answer(&s);
	stream_close(s.in);
}

/* The stream, from its first byte to the answer. */
static void
save_stream(struct save *s)
{
	const struct options *o = s->opt;

	pipe_on_signal(on_signal, s);
	if (o->leash != NULL)
		stream_end_is_told(s->in);
	if (s->to.image != NULL)
		status_phase(s->st, "waiting", 0);
	else
		give_up(s, s->status);
	if (o->leash == NULL && !pipe_waits(STDIN_FILENO, FIRST_BYTES_MS) && s->to.image != NULL)
		snap_warnx("save: nothing has come yet; in migrate_incoming the verb is load");
	check_signal(s);
	store(s);
	if (s->to.image != NULL && o->leash != NULL && !leash_ask(o->leash, LEASH_DONE))
		give_up(s, SNAP_ESYS);
	if (s->to.image != NULL) {
		status_phase(s->st, "commit", 0);
		s->status = store_commit(&s->to, stream_facts(s->in)->split);
		if (o->leash != NULL && image_is_named(s->to.image))
			leash_tell(o->leash, LEASH_NAMED);
	}
	/* From here on it is too late to give up. */
	pipe_on_signal(status_on_signal, s->st);
	if (o->trace)
		snap_warnx("%s: %llu page records came", o->file[0],
		    (ull)stream_facts(s->in)->records);
	answer(s);
	pipe_on_signal(NULL, NULL);
}

int
run_save(const struct options *o)
{
	char *older = NULL;
	struct status st;
	struct save s;

	memset(&s, 0, sizeof s);
	s.guard.fd = -1;
	s.opt = o;
	if (isatty(STDIN_FILENO))
		return snap_warnx("save: the stream comes on stdin, which is a terminal");
	if (guard_start(&s.guard, STDIN_FILENO, o->file[0]))
		return 0;
	/* Not restarting: a read that waits for the source must come back. */
	note_signals();
	status_interrupt();
	status_init(s.st = &st, o, o->file[0]);
	if ((s.status = store_init(&s.to, o, o->file[0])) == 0)
		s.status = store_create(&s.to);
	if (o->leash != NULL && s.status == 0 && !leash_ask(o->leash, LEASH_READY))
		s.status = SNAP_ESYS;
	if (o->leash != NULL && s.status != 0)
		;	/* no stream is to come */
	else if ((s.in = stream_open(STDIN_FILENO, o->page_size)) != NULL)
		save_stream(&s);
	else {
		if (s.status == 0)
			snap_warnx("stream: out of memory");
		give_up(&s, SNAP_ESYS);
		pipe_drain(STDIN_FILENO);
	}
	guard_dismiss(&s.guard);
	if (s.to.image != NULL)
		older = image_take_older(s.to.image);
	store_free(&s.to);
	stream_close(s.in);
	status_end(&st, s.status);
	if (older != NULL) {
		if (o->leash != NULL)
			leash_drop(o->leash);
		if (!guard_goes_on())
			io_unlink(older);
	}
	free(older);
	return s.status;
}
