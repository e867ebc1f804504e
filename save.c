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
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guard.h"
#include "image.h"
#include "options.h"
#include "snap.h"
#include "stream.h"

enum { FIRST_BYTES_MS = 10000 };	/* a large guest may need some seconds to begin */

struct save {
	const struct options *opt;
	struct stream_in *in;
	struct image *base;		/* or NULL */
	struct image_writer *image;	/* NULL: given up */
	int status;			/* 0, or why it was given up */
	int sealed, answered;
	struct guard guard;
};

static volatile sig_atomic_t got_signal;

static void
note_signal(int sig)
{
	got_signal = sig;
}

/* The reason has been printed: no image will come of this. */
static void
give_up(struct save *s, int status)
{
	if (s->status == 0)
		s->status = status;
	image_free(s->image);
	s->image = NULL;
	if (s->in != NULL)
		stream_quiet(s->in);	/* one message for one cause */
}

static void
check_signal(void *arg)
{
	struct save *s = arg;

	if (got_signal == 0 || s->image == NULL)
		return;
	snap_warnx("%s: signal %d: given up", s->opt->file[0], (int)got_signal);
	give_up(s, SNAP_ESYS);
}

static int
put_page(struct image_writer *w, const struct stream_item *it)
{
	uint8_t *room = image_room(w);

	if (room == NULL)
		return SNAP_ESYS;
	memcpy(room, it->data, it->len);
	image_put(w, it->page);
	return 0;
}

static int
seal(struct save *s)
{
	const struct kept *k[3];
	struct image_bytes b[3] = {
		{ SEC_PREAMBLE, NULL, 0 },
		{ SEC_PROLOGUE, NULL, 0 },
		{ SEC_ITERABLES, NULL, 0 }
	};
	uint32_t flags = 0;
	int i;

	k[0] = stream_preamble(s->in);
	k[1] = stream_prologue(s->in);
	k[2] = stream_iterables(s->in);
	for (i = 0; i < 3; i++) {
		b[i].buf = k[i]->buf;
		b[i].len = k[i]->len;
	}
	if (stream_ended(s->in))
		flags |= IMAGE_ENDED;
	if (stream_ignores_shared(s->in))
		flags |= IMAGE_IGNORE_SHARED;
	s->sealed = 1;
	return image_seal(s->image, b, 3, flags);
}

static int
put_tail(struct save *s, const struct stream_item *it)
{
	int err;

	if (!s->sealed && (err = seal(s)) != 0)
		return err;
	if ((err = image_tail(s->image, it->data, it->len)) != 0)
		return err;
	return it->more > 0 ? image_hold(s->image, it->more) : 0;
}

static int
put_item(struct save *s, const struct stream_item *it)
{
	switch (it->kind) {
	case ITEM_BLOCKS:
		return image_begin(s->image, stream_ram(s->in));
	case ITEM_PAGE:
		return put_page(s->image, it);
	case ITEM_ZERO:
		return image_zero(s->image, it->page);
	case ITEM_TAIL:
		return put_tail(s, it);
	case ITEM_REFUSED:
		return stream_refused(s->in);
	}
	return SNAP_EBUG;
}

/* The one answer QEMU listens to, where it asked for one. */
static void
answer(struct save *s)
{
	if (stream_wants_shut(s->in) && !s->answered)
		stream_send_shut(STDOUT_FILENO, s->status == 0 ? 0 : 1);
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
		/* Behind the RAM, QEMU of all versions bears to lose its reader. */
		if (it.kind == ITEM_TAIL)
			guard_dismiss(&s->guard);
		if (s->image != NULL && (err = put_item(s, &it)) != 0)
			give_up(s, err);
		if (s->image == NULL && it.kind == ITEM_TAIL)
			return;		/* the RAM is through: leaving is safe */
	}
	if (r < 0) {
		give_up(s, r);
		/* A source that waits for SHUT comes to no end before it. */
		answer(s);
		stream_drain(STDIN_FILENO);
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
		stream_drain(STDIN_FILENO);
		return;
	}
	stream_quiet(s.in);
	store(&s);
	answer(&s);
	stream_close(s.in);
}

void
options_for_image(const struct options *o, struct image_options *opt)
{
	memset(opt, 0, sizeof *opt);
	opt->unit_pages = o->unit_pages;
	opt->cluster_size = o->cluster_size;
	opt->threads = options_threads(o, o->codec == NULL);
	opt->io_flags = o->io_flags;
	opt->unsafe = o->unsafe;
	opt->reproducible = o->reproducible;
	opt->max_size = o->max_size;
	opt->codec = o->codec;
	opt->level = o->level;
}

/* The image to be written, and what it is based on.  NULL: failed and reported, s->status. */
static struct image_writer *
create(struct save *s)
{
	const struct options *o = s->opt;
	struct image_options opt;
	struct image_writer *w;

	if (o->base != NULL) {
		if ((s->base = image_open(o->base, 0, &s->status)) == NULL ||
		    (s->status = image_open_ancestors(s->base)) != 0)
			return NULL;
	}
	options_for_image(o, &opt);
	opt.base = s->base;
	if ((w = image_create(o->file[0], &opt)) == NULL)
		s->status = SNAP_ESYS;
	return w;
}

int
run_save(const struct options *o)
{
	char *older = NULL;
	struct save s;

	memset(&s, 0, sizeof s);
	s.guard.fd = -1;
	s.opt = o;
	if (isatty(STDIN_FILENO)) {
		snap_warnx("save: the stream comes on stdin, which is a terminal");
		return SNAP_ESYS;
	}
	if (guard_start(&s.guard, STDIN_FILENO, o->file[0]))
		return 0;
	/* Not restarting: a read that waits for the source must come back. */
	on_signals_to_end(note_signal);
	s.image = create(&s);
	if ((s.in = stream_open(STDIN_FILENO, o->page_size)) == NULL) {
		if (s.status == 0)
			snap_warnx("stream: out of memory");
		give_up(&s, SNAP_ESYS);
		stream_drain(STDIN_FILENO);
		guard_dismiss(&s.guard);
		image_close(s.base);
		return s.status;
	}
	if (s.image == NULL)
		stream_quiet(s.in);
	stream_on_signal(s.in, check_signal, &s);
	if (!stream_waits(STDIN_FILENO, FIRST_BYTES_MS))
		snap_warnx("save: nothing has come yet; in migrate_incoming the verb is load");
	check_signal(&s);
	store(&s);
	if (s.image != NULL &&
	    (s.status = image_commit(s.image, stream_split(s.in))) == 0 && o->unsafe)
		snap_warnx("%s: written without syncs: a crash of the host may damage it",
		    o->file[0]);
	if (o->trace)
		snap_warnx("%s: %llu page records came", o->file[0],
		    (unsigned long long)stream_records(s.in));
	answer(&s);
	guard_dismiss(&s.guard);
	if (s.image != NULL)
		older = image_take_older(s.image);
	image_free(s.image);
	image_close(s.base);
	stream_close(s.in);
	if (older != NULL && !guard_goes_on())
		io_unlink(older);
	free(older);
	return s.status;
}
