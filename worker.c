/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * worker.c -- a process of our own at one end of QEMU's stream.  It owns the process and its leash:
 * a pipe for what the worker tells, one byte a word, and one for the bytes that let it go on.
 */
#include "worker.h"

#include <sys/wait.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "qmp.h"
#include "signals.h"
#include "snap.h"

static void
note_end(struct worker *w)
{
	int status;

	w->ended = 1;
	w->status = SNAP_ESYS;
	while (waitpid(w->pid, &status, 0) < 0)
		if (errno != EINTR)
			return;
	if (WIFEXITED(status))
		w->status = -WEXITSTATUS(status);
	else if (check_signals(w->name) == 0)
		snap_warnx("process %ld was killed by signal %d", (long)w->pid, WTERMSIG(status));
}

/* A byte, however many signals come; -1: none will. */
static int
read_byte(int fd)
{
	unsigned char c;
	ssize_t n;

	while ((n = read(fd, &c, 1)) < 0 && errno == EINTR)
		;
	return n == 1 ? c : -1;
}

static void
write_byte(int fd, char c)
{
	while (write(fd, &c, 1) < 0 && errno == EINTR)
		;
}

/* The worker's next word, or its end. */
static void
listen_to(struct worker *w)
{
	int word = read_byte(w->told);

	if (word >= 0)
		w->said |= (unsigned)word;
	else
		note_end(w);
}

int
worker_start(struct worker *w, const int end[2], const struct options *o,
    int (*verb)(const struct options *))
{
	struct options own = *o;
	struct leash leash;
	int go[2], told[2];

	if (pipe(go) != 0 || pipe(told) != 0 || (w->pid = fork()) < 0)
		return snap_warn(errno, "starting a process");
	if (w->pid == 0) {
		on_signals_to_end(SIG_DFL);
		dup2(end[0], STDIN_FILENO);
		close(end[0]);
		close(end[1]);
		close(go[1]);
		close(told[0]);
		close(w->q->fd);
		leash.go = go[0];
		leash.tell = told[1];
		own.leash = &leash;
		own.file++;
		own.nfile--;
		w->status = verb(&own);
		return 1;
	}
	close(end[0]);
	close(go[0]);
	close(told[1]);
	w->stream = end[1];
	w->go = go[1];
	w->told = told[0];
	while (!(w->said & LEASH_READY) && !w->ended)
		listen_to(w);
	return !w->ended ? 0 : w->status != 0 ? w->status : SNAP_EBUG;
}

int
worker_begin(struct worker *w, int err)
{
	close(w->stream);
	if (err == 0)
		worker_go(w);
	else
		worker_cancel(w);
	return err;
}

void
worker_go(struct worker *w)
{
	write_byte(w->go, 1);
}

void
worker_cancel(struct worker *w)
{
	close(w->go);
	worker_join(w);
}

void
worker_join(struct worker *w)
{
	while (!w->ended)
		listen_to(w);
}

int
worker_wait(struct worker *w, int ms)
{
	struct pollfd p[2];

	p[0].fd = w->q->fd;
	p[1].fd = w->ended ? -1 : w->told;
	p[0].events = p[1].events = POLLIN;
	if (poll(p, 2, ms) > 0 && (p[1].revents & (POLLIN | POLLHUP)))
		listen_to(w);
	if (w->interrupted || got_signal() == 0)
		return 0;
	w->interrupted = 1;
	if (!w->ended)
		kill(w->pid, got_signal());	/* a terminal has told it already */
	return 1;
}

void
leash_tell(const struct leash *l, char what)
{
	write_byte(l->tell, what);
}

int
leash_ask(const struct leash *l, char what)
{
	leash_tell(l, what);
	return read_byte(l->go) >= 0;
}
