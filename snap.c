/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * snap.c -- main: signals, the verbs, what a caller is owed on the way out.
 *
 * All files of the program.  Each includes headers of those below it alone:
 *
 *	snap.c		main
 *	save.c		a migration stream becomes an image
 *	load.c		an image becomes a migration stream
 *	take.c		a snapshot of a running guest, asked of its QEMU
 *	revert.c	an image goes into a QEMU that waits for a guest, asked of that QEMU
 *	monitor.c	what is going on in a QEMU
 *	import.c	a stream in a file becomes an image
 *	export.c	an image becomes a file that other programs read
 *	optimize.c	an image is written anew
 *	check.c		every byte of an image is read and verified
 *	diff.c		what changed between two images
 *	info.c		what is in an image
 *	store.c		what comes of a stream goes into an image
 *	postcopy.c	the talk with a destination that runs before its memory is there
 *	serve.c		  the page server: which page goes out next
 *	server.h	  what these two share
 *	lane.c		pages on their way from an image to the stream
 *	hostpage.c	which pages lie in one page of the destination's memory
 *	send.c		what of an image goes into every stream
 *	drives.c	disks of a running guest are snapshotted
 *	child.c	a process of our own at the other end of QEMU's stream
 *	status.c	how far a long piece of work is
 *	options.c	the command line
 *	describe.c	label, machine type and devices of an image
 *	disks.c		the disks that belong to an image
 *	hot.c		the hot list
 *	image.c		writing an image: from a temporary file to its name
 *	pipeline.c	  pages on their way, the allocator of their slots
 *	units.c		  compressed units
 *	index.c		  tables and sections behind the data
 *	identity.c	  by what it is known
 *	writer.h	  what these five share
 *	verify.c	reading one: is it whole?
 *	chain.c		  the images it is based on
 *	scan.c		  ways through all its pages
 *	fetch.c		  stored pages
 *	lookup.c	  tables: where a page lies
 *	reader.c	  header, footer, sections; reader.h: what these six share
 *	image.h		what images are to all others
 *	outfile.c	a file that is no image, written in one step
 *	aio_pthreads.c	a ring of requests served by threads; system calls on image files
 *	aio.h		  what it is to all others
 *	stream.c	reading QEMU's migration stream
 *	tail.c		  where the state of the devices ends
 *	returnpath.c	what a destination sends back
 *	out.c		writing a stream
 *	guard.c		processes for what a saver cannot do
 *	pipe.c		pipes that may have QEMU at their other end
 *	preamble.c	what a stream, or another file, begins with
 *	qmp.c		a client of QEMU's machine protocol
 *	layout.c	header, footer, RAM map and ancestors of an image
 *	table.c		parts of its page table and unit table
 *	ram.c		RAM blocks, and the numbers of pages
 *	codec.c		how pages are coded: zstd
 *	crc32c.c	CRC-32C
 *	marks.c		a bit for each of many pages
 *	json.c		JSON
 *	latency.c	a histogram of times
 *	signals.c	the signals that are to end us
 *	message.c	what is said to people
 *	wire.h		the numbers of QEMU's wire format
 *	bytes.h		integers at the boundary, byte by byte
 *	snap.h		the words every file shares
 */
#include "snap.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "codec.h"
#include "crc32c.h"
#include "options.h"
#include "pipe.h"
#include "signals.h"
#include "status.h"

enum { FIRST_BYTES_MS = 500 };	/* QEMU sends its header at once */

static const char usage[] =
"usage: qemu-snap [options] take SOCKET IMAGE   snapshot of a running guest\n"
"       qemu-snap [options] revert SOCKET IMAGE back to it, in a new QEMU\n"
"       qemu-snap status SOCKET                 what goes on in a QEMU\n"
"       qemu-snap [options] save IMAGE          migration stream on stdin\n"
"       qemu-snap [options] load IMAGE          the same on stdout\n"
"       qemu-snap [options] info IMAGE          what is in it\n"
"       qemu-snap [options] check IMAGE...      read and verify everything\n"
"       qemu-snap [options] diff IMAGE IMAGE    what changed\n"
"       qemu-snap [options] optimize IMAGE NEW  write it anew\n"
"       qemu-snap [options] export IMAGE FILE   for other programs\n"
"       qemu-snap [options] import FILE IMAGE   a stream, or with mapped-ram\n"
"\n"
"take:  --disks[=NAME,...]       its disks, too   --stop  it stands still\n"
"take, save, optimize and import:\n"
"       -s, --image-size=SIZE    the image may grow to SIZE at most\n"
"       --compress=zstd[:LEVEL]  store units compressed\n"
"       --base=IMAGE             store only what differs from IMAGE\n"
"       --reproducible           UUID from the content, no time\n"
"       --label=TEXT             a name for people; optimize: --label= drops it\n"
"revert and load:\n"
"       -p, --postcopy[=PERCENT] run the guest when PERCENT (0) are loaded\n"
"       --rate=BYTES             limit of the background push, a second\n"
"       --resume [--uuid=UUID]   take up a postcopy that was paused\n"
"       --record[=FILE] --no-hot note what is asked for first; ignore that\n"
"       --host-page-size=[BLOCK=]SIZE    of the destination, with huge pages\n"
"take, save, revert and load:\n"
"       -S, --page-size=SIZE     where the stream does not tell; import, too\n"
"       -t, --trace              say what was done\n"
"info and diff:  --json          diff: --list (ranges)  --paranoid (bytes)\n"
"check: --quick                  tables only, no pages\n"
"export: --to=stream|mapped-ram|raw|lime  --block=ID    import: --from=FORM\n"
"all but info and status:\n"
"       --cache=MODE             writeback (default), none (or -n, --nocache),\n"
"                                writethrough, directsync, unsafe (no syncs)\n"
"       --aio=threads[,N]        size of the thread pool (1 to 4)\n"
"       --progress               tell how far it is without a terminal; not diff\n"
"       --status-fd=N            the same for programs, to descriptor N\n"
"all:   -V, --version   -h, --help\n"
"The socket is that of QEMU's -qmp unix:SOCKET,server=on,wait=off; to revert,\n"
"start it with -incoming defer, too.\n";

/* A file opened later must never become our stdin, stdout or stderr.  What was closed cannot be
 * read or written then either. */
static void
have_std_files(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_WRONLY);
}

static void
set_signal(int sig, void (*what)(int))
{
	struct sigaction sa;

	memset(&sa, 0, sizeof sa);
	sa.sa_handler = what;
	sigemptyset(&sa.sa_mask);
	sigaction(sig, &sa, NULL);
}

/*
 * QEMU starts its commands with signals blocked (7.2 and later), and daemons start theirs with
 * SIGCHLD ignored: then nobody learns how a child ended.  A closed pipe and a file too large are
 * errors like others here.  A message to a terminal in whose background QEMU runs, or we do who
 * hold its guest, must not stop us (stty tostop): the guest would stand still.
 */
static void
set_signals(void)
{
	sigset_t none;

	status_catch_signals();
	set_signal(SIGCHLD, SIG_DFL);
	set_signal(SIGPIPE, SIG_IGN);
	set_signal(SIGXFSZ, SIG_IGN);
	if (!isatty(STDIN_FILENO))
		set_signal(SIGTTOU, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/*
 * Before a command line that cannot be carried out is given up.  A source whose
 * reader goes away may hang its guest for ever, so its stream is read as far as
 * must be.  A destination waits for ever for a first byte.  With no verb to tell
 * them apart, a source is known by its sending something at once.
 */
static void
part_in_peace(const struct options *o)
{
	enum verb verb = o->verb;

	if (verb == VERB_LOAD)
		pipe_reject(STDOUT_FILENO, o->resume);
	if ((verb != VERB_SAVE && verb != VERB_NONE && verb != VERB_UNKNOWN) ||
	    !pipe_is(STDIN_FILENO))
		return;
	on_signals_to_end(SIG_IGN);
	if (verb != VERB_SAVE && !pipe_waits(STDIN_FILENO, FIRST_BYTES_MS))
		pipe_reject(STDOUT_FILENO, o->resume);
	refuse_stream();
}

/* For those that options_parse() lets through. */
static int (*const run[])(const struct options *) = {
	[VERB_SAVE] = run_save,
	[VERB_LOAD] = run_load,
	[VERB_INFO] = run_info,
	[VERB_CHECK] = run_check,
	[VERB_OPTIMIZE] = run_optimize,
	[VERB_EXPORT] = run_export,
	[VERB_IMPORT] = run_import,
	[VERB_DIFF] = run_diff,
	[VERB_TAKE] = run_take,
	[VERB_REVERT] = run_revert,
	[VERB_STATUS] = run_status
};

int
main(int argc, char **argv)
{
	struct options o;
	int err;

	have_std_files();
	set_signals();
	crc32c_init();
	if ((err = options_parse(&o, argc, argv)) != 0) {
		part_in_peace(&o);
		return -err;
	}
	if (o.help || o.version) {
		if (o.help)
			fputs(usage, stdout);
		else
			printf("qemu-snap %s\ncompression: %s\n", SNAP_VERSION,
			    codec_zstd != NULL ? "zstd" : "none");
		err = close_stdout(0);
		if (o.verb != VERB_NONE)
			part_in_peace(&o);
		return -err;
	}
	if (o.verb == VERB_TAKE || o.verb == VERB_REVERT)
		set_signal(SIGTTOU, SIG_IGN);
	err = run[o.verb](&o);
	if (err == SNAP_EBUG)
		snap_warnx("a check on ourselves failed: this is a bug");
	return -err;
}
