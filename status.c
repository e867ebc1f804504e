/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * status.c -- how far a long piece of work is.
 *
 * The handler of a signal only notes that a line was asked for; the owner prints it the next
 * time it comes by.  Where it may wait at a pipe for ever, the signal interrupts that.  It may
 * also come between the last look at the note and the read that then waits: so an alarm is
 * set, which interrupts the read once more, until the note has been seen.
 *
 * Nothing here is worth waiting for.  Each line is written in one piece, no longer than what a
 * pipe takes whole, and only when poll() says that there is room; else it is left out.
 */
#include "status.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "options.h"
#include "snap.h"

#if defined(PIPE_BUF) && PIPE_BUF < 4096
#define LINE_MAX_BYTES	PIPE_BUF
#else
#define LINE_MAX_BYTES	4096
#endif

enum {
	LOOK_BYTES = 64 << 10,	/* between two looks at the clock */
	NAME_BYTES = LINE_MAX_BYTES / 4,	/* of an image, in a line for programs */
	COLUMNS = 79,
	NAME_COLUMNS = 12,	/* of it in a line on the terminal, at least */
	NAME_PLAIN = 1800	/* of it in other lines: those of messages end at 2 KiB */
};

#define MS		INT64_C(1000000)
#define FIRST		(500 * MS)	/* work that is done by then needs no line */
#define TICK		(250 * MS)
#define PLAIN_TICK	(1000 * MS)
#define MARK		(2000 * MS)	/* the rate is that of the last two to four seconds */

/* In which form people want it. */
enum { NO_LINES, ONE_LINE, PLAIN_LINES };

static volatile sig_atomic_t asked, insisting;

static void
note_asked(int sig)
{
	if (sig != SIGALRM)
		asked = 1;
	if (asked && insisting)
		alarm(1);
}

static void
catch_with(int flags)
{
	static const int sigs[] = { SIGUSR1, SIGALRM };
	struct sigaction sa;
	size_t i;

	memset(&sa, 0, sizeof sa);
	sa.sa_handler = note_asked;
	sa.sa_flags = flags;
	sigemptyset(&sa.sa_mask);
	for (i = 0; i < sizeof sigs / sizeof sigs[0]; i++)
		sigaction(sigs[i], &sa, NULL);
}

void
status_catch_signals(void)
{
	catch_with(SA_RESTART);
}

void
status_interrupt(void)
{
	insisting = 1;
	catch_with(0);
}

/* Bytes a second lately. */
static uint64_t
rate(const struct status *st, int64_t now)
{
	int64_t ns = now - st->mark[0].at;

	if (ns < MS)
		return 0;
	return (uint64_t)((double)(st->done - st->mark[0].done) * 1e9 / (double)ns);
}

static void
move_marks(struct status *st, int64_t now)
{
	if (now - st->mark[1].at < MARK)
		return;
	st->mark[0] = st->mark[1];
	st->mark[1].at = now;
	st->mark[1].done = st->done;
}

/* ---- for people ---- */

/* A line that is being made, cut where it is full. */
struct text {
	char *s;
	size_t size, n;
};

static void add(struct text *t, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void
add(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = vsnprintf(t->s + t->n, t->size - t->n, fmt, ap);
	va_end(ap);
	if (r >= 0)
		t->n = (size_t)r < t->size - t->n ? t->n + (size_t)r : t->size - 1;
}

static void
add_size(struct text *t, uint64_t bytes)
{
	static const char units[] = "KMGTPE";
	double v = (double)bytes / 1024;
	int u = 0;

	for (; v >= 1000 && u < 5; u++)
		v /= 1024;
	add(t, v < 99.95 ? "%.1f %ciB" : "%.0f %ciB", v, units[u]);
}

static void
add_time(struct text *t, uint64_t s)
{
	if (s >= 3600)
		add(t, "%llu:%02u:%02u", (ull)s / 3600, (unsigned)(s / 60 % 60),
		    (unsigned)(s % 60));
	else
		add(t, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
}

/* "save, memory: 1.2 GiB of 4.0 GiB, 30%, 512 MiB/s, 0:06 left".  The number of its bytes. */
static size_t
describe(const struct status *st, char *buf, size_t size, int64_t now)
{
	/* An ordinary migration may send more than there is. */
	int share = st->total > 0 && st->done <= st->total;
	struct text t = { buf, size, 0 };
	uint64_t r = rate(st, now);

	add(&t, "%s, %s: ", options_verb(st->opt), st->phase);
	if (st->done == 0 && st->total == 0) {
		add(&t, "for ");
		add_time(&t, (uint64_t)(now - st->phase_began) / 1000000000);
	} else {
		add_size(&t, st->done);
		if (share) {
			add(&t, " of ");
			add_size(&t, st->total);
			add(&t, ", %u%%", (unsigned)((double)st->done * 100 / (double)st->total));
		}
		add(&t, ", ");
		add_size(&t, r);
		add(&t, "/s");
		if (share && r > 0) {
			add(&t, ", ");
			add_time(&t, (st->total - st->done + r - 1) / r);
			add(&t, " left");
		}
	}
	if (st->serves)
		add(&t, ", %llu asked for", (ull)st->served.requests);
	return t.n;
}

/* Of a name longer than room, the end, behind dots. */
static const char *
shorten(const char *name, size_t room, const char **dots)
{
	size_t len = strlen(name);

	*dots = "";
	if (len > room) {
		*dots = "...";
		name += len - (room - 3);
		while (((unsigned char)*name & 0xc0) == 0x80)	/* no half characters */
			name++;
	}
	return name;
}

static void
show_line(const struct status *st, int64_t now)
{
	char what[COLUMNS + 1], line[COLUMNS + 1];
	struct text t = { line, sizeof line, 0 };
	size_t n = describe(st, what, sizeof what, now);
	const char *dots, *name = shorten(st->path,
	    n + 2 + NAME_COLUMNS < COLUMNS ? COLUMNS - 2 - n : NAME_COLUMNS, &dots);

	add(&t, "%s%s: %s", dots, name, what);
	snap_line(line);
}

static void
print_plain(const struct status *st, int64_t now)
{
	const char *dots, *name = shorten(st->path, NAME_PLAIN, &dots);
	char what[128];

	describe(st, what, sizeof what, now);
	snap_note("%s%s: %s", dots, name, what);
}

/* Whoever works in the background of a terminal does not write on it unless told to. */
static int
is_in_front(void)
{
	pid_t front = tcgetpgrp(STDERR_FILENO);

	return front < 0 || front == getpgrp();
}

static void
show(struct status *st, int64_t now)
{
	if (st->lines == ONE_LINE && now - st->began >= FIRST &&
	    (st->opt->progress || is_in_front()))
		show_line(st, now);
	else if (st->lines == PLAIN_LINES && now >= st->next_plain) {
		st->next_plain = now + PLAIN_TICK;
		print_plain(st, now);
	}
}

/* ---- for programs ---- */

/* Nobody is there any more, or has half a line now: say nothing from now on.  Stdin, stdout and
 * stderr stay open, or a file opened later would get the messages. */
static void
stop_telling(struct status *st)
{
	if (st->fd > STDERR_FILENO)
		close(st->fd);
	st->fd = -1;
}

static void
send_line(struct status *st, const char *line, size_t n)
{
	struct pollfd p;
	ssize_t k;

	p.fd = st->fd;
	p.events = POLLOUT;
	if (poll(&p, 1, 0) <= 0)
		return;
	if (p.revents & (POLLERR | POLLHUP | POLLNVAL)) {
		stop_telling(st);
		return;
	}
	k = write(st->fd, line, n);
	if ((k < 0 && errno != EINTR && errno != EAGAIN) || (k >= 0 && (size_t)k < n))
		stop_telling(st);
}

/* "key": number, or null where it is not known. */
static void
add_number(struct text *t, const char *key, int known, uint64_t v)
{
	if (known)
		add(t, ", \"%s\": %llu", key, (ull)v);
	else
		add(t, ", \"%s\": null", key);
}

static void
add_served(struct text *t, const struct status_served *s)
{
	add_number(t, "requests", 1, s->requests);
	add_number(t, "repeats", 1, s->repeats);
	add_number(t, "answered", 1, s->answered);
	add(t, ", \"latency\": {\"p50\": %llu, \"p99\": %llu, \"max\": %llu}",
	    (ull)latency_quantile(&s->latency, 500), (ull)latency_quantile(&s->latency, 990),
	    (ull)s->latency.most_us);
}

/* One line; if the work has ended, the last one, with the exit status. */
static void
tell(struct status *st, int64_t now, int ended, int code)
{
	char line[LINE_MAX_BYTES], name[NAME_BYTES];
	struct text t = { line, sizeof line, 0 };
	uint64_t ms = (uint64_t)(now - st->began) / 1000000;

	if (st->fd < 0)
		return;
	json_put(name, sizeof name, st->path);
	add(&t, "{\"verb\": \"%s\", \"image\": %s, \"phase\": \"%s\", \"seconds\": %llu.%03u",
	    options_verb(st->opt), name, ended ? "end" : st->phase, (ull)ms / 1000,
	    (unsigned)(ms % 1000));
	if (ended)
		add(&t, ", \"outcome\": \"%s\", \"exit\": %d", code == 0 ? "done" : "failed", code);
	else {
		add_number(&t, "bytes", 1, st->done);
		add_number(&t, "total", st->total > 0, st->total);
		add_number(&t, "pages", st->page_size > 0,
		    st->page_size > 0 ? st->done / st->page_size : 0);
		add_number(&t, "rate", 1, rate(st, now));
	}
	if (st->serves)
		add_served(&t, &st->served);
	add(&t, "}\n");
	if (t.n < t.size - 1)	/* it is whole */
		send_line(st, line, t.n);
}

/* ---- what the verbs call ---- */

static void
begin_phase(struct status *st, const char *name, uint64_t total, uint32_t page_size)
{
	int64_t now = now_ns();

	st->phase = name;
	st->page_size = page_size;
	st->done = st->unlooked = 0;
	st->total = total;
	st->phase_began = now;
	st->mark[0].at = st->mark[1].at = now;
	st->mark[0].done = st->mark[1].done = 0;
	st->next = now + TICK;
	tell(st, now, 0, 0);
	show(st, now);
}

void
status_init(struct status *st, const struct options *o, const char *path)
{
	int64_t now = now_ns();

	memset(st, 0, sizeof *st);
	st->opt = o;
	st->path = path;
	st->fd = o->status_fd;
	st->lines = isatty(STDERR_FILENO) ? ONE_LINE : o->progress ? PLAIN_LINES : NO_LINES;
	st->began = now;
	st->next_plain = now + PLAIN_TICK;
	begin_phase(st, "opening", 0, 0);
}

void
status_image(struct status *st, const char *path)
{
	st->path = path;
	status_phase(st, "opening", 0);
}

void
status_phase(struct status *st, const char *name, uint64_t total)
{
	begin_phase(st, name, total, 0);
	status_answer(st);
}

void
status_pages(struct status *st, const char *name, uint64_t pages, uint32_t page_size)
{
	begin_phase(st, name, pages * page_size, page_size);
	status_answer(st);
}

static void
look(struct status *st)
{
	int64_t now = now_ns();

	st->unlooked = 0;
	if (now < st->next)
		return;
	st->next = now + TICK;
	move_marks(st, now);
	tell(st, now, 0, 0);
	show(st, now);
}

void
status_add(struct status *st, uint64_t bytes)
{
	st->done += bytes;
	st->unlooked += bytes;
	if (st->unlooked >= LOOK_BYTES)
		look(st);
	status_answer(st);
}

int
status_asked(void)
{
	int was = asked;

	asked = 0;
	return was;
}

void
status_answer(struct status *st)
{
	if (!status_asked())
		return;
	print_plain(st, now_ns());
}

void
status_on_signal(void *st)
{
	status_answer(st);
}

void
status_hide(struct status *st)
{
	if (st->lines == ONE_LINE)
		snap_line("");
}

void
status_end(struct status *st, int err)
{
	int64_t now = now_ns();
	uint64_t s = (uint64_t)(now - st->began) / 1000000000;
	const char *dots, *name = shorten(st->path, NAME_PLAIN, &dots);
	char took[32];
	struct text t = { took, sizeof took, 0 };

	status_answer(st);
	status_hide(st);
	if (st->lines == PLAIN_LINES && err == 0) {
		add_time(&t, s);
		snap_note("%s%s: %s: done in %s", dots, name, options_verb(st->opt), took);
	}
	tell(st, now, 1, -err);
	if (st->fd >= 0)
		stop_telling(st);
	st->lines = NO_LINES;
}
