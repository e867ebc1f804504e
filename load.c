/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * load.c -- an image becomes a migration stream again.
 *
 * All that is not RAM is checked before the first byte goes out; pages are
 * checked as they are read.  In precopy the stream is the saved one, up to the
 * order of the pages and without COMMAND elements; nothing is expected on
 * stdin.  In postcopy the page server takes over (postcopy.c).
 */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "image.h"
#include "options.h"
#include "out.h"
#include "pipe.h"
#include "postcopy.h"
#include "send.h"
#include "signals.h"
#include "snap.h"
#include "status.h"

enum { PIPE_ROOM = 1 << 20 };	/* bytes; what a pipe may have without privileges */

static int
load_precopy(struct image *im, unsigned threads, struct status *st)
{
	struct stream_out out;
	int err;

	io_pipe_size(STDOUT_FILENO, PIPE_ROOM);	/* or as it is */
	out_init(&out, STDOUT_FILENO, image_ram(im));
	if ((err = send_preamble(im, &out)) != 0)
		return err;
	return send_precopy(im, &out, threads, st);
}

/* May the image go out in the way asked for? */
static int
check_wishes(const struct image *im, const struct options *o)
{
	const struct image_header *h = image_header(im);
	char uuid[37];

	if (o->page_size != 0 && o->page_size != h->page_size) {
		snap_warnx("%s: its pages have %u bytes, not %u", image_path(im),
		    (unsigned)h->page_size, (unsigned)o->page_size);
		return SNAP_ESYS;
	}
	if (o->have_uuid && memcmp(o->uuid, image_footer(im)->uuid, 16) != 0) {
		uuid_format(uuid, image_footer(im)->uuid);
		snap_warnx("%s: another image: its UUID is %s", image_path(im), uuid);
		return SNAP_ESYS;
	}
	if ((o->percent >= 0 || o->resume) && (image_footer(im)->flags & IMAGE_IGNORE_SHARED)) {
		snap_warnx("%s: saved with x-ignore-shared, which QEMU loads in precopy only",
		    image_path(im));
		return SNAP_ESYS;
	}
	return 0;
}

static volatile sig_atomic_t resuming;

/* The destination waits for a first byte, for ever if need be: it must not be left so. */
static void
reject_and_die(int sig)
{
	pipe_reject(STDOUT_FILENO, resuming);
	signal(sig, SIG_DFL);
	raise(sig);
}

static int
load(const struct options *o, struct status *st)
{
	const int precopy = o->percent < 0 && !o->resume;
	struct image *im = NULL;
	int err = SNAP_ESYS;

	if (isatty(STDOUT_FILENO))
		snap_warnx("load: the stream goes to stdout, which is a terminal");
	else if ((im = image_open(o->file[0], o->io_flags, &err)) != NULL &&
	    (err = check_wishes(im, o)) == 0 &&
	    (err = image_open_ancestors(im)) == 0 &&
	    (err = image_check_sections(im, NULL)) == 0 &&
	    (precopy || (err = postcopy_check(im, o)) == 0) &&
	    (o->leash == NULL ||
	    (err = leash_ask(o->leash, LEASH_READY) ? 0 : SNAP_ESYS) == 0)) {
		err = precopy ? load_precopy(im, options_threads(o, 1), st) :
		    load_postcopy(im, o, st);
		image_close(im);
		return err;
	}
	on_signals_to_end(SIG_DFL);
	pipe_reject(STDOUT_FILENO, o->resume);
	image_close(im);
	return err;
}

int
run_load(const struct options *o)
{
	struct status st;
	int err;

	resuming = o->resume;
	on_signals_to_end(reject_and_die);
	status_interrupt();
	status_init(&st, o, o->file[0]);
	pipe_on_signal(status_on_signal, &st);
	err = load(o, &st);
	pipe_on_signal(NULL, NULL);
	status_end(&st, err);
	return err;
}
