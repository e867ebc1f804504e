/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * child.c -- a process of our own at one end of QEMU's stream.  It owns the process and its leash:
 * a pipe for what the child tells, one byte a word, and one for the bytes that let it go on.
 */
#include "child.h"

#include <sys/wait.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "qmp.h"
#include "signals.h"
#include "snap.h"
#include "status.h"

static void
note_end(struct child *c)
{
	int status;

	c->ended = 1;
	c->status = SNAP_ESYS;
	while (waitpid(c->pid, &status, 0) < 0)
		if (errno != EINTR) {
			snap_warn(errno, "process %ld: how it ended is not known", (long)c->pid);
			return;
		}
	if (WIFEXITED(status))
		c->status = -WEXITSTATUS(status);
	else if (check_signals(c->name) == 0)
		snap_warnx("process %ld was killed by signal %d", (long)c->pid, WTERMSIG(status));
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

/* The child's next word, or its end. */
static void
listen_to(struct child *c)
{
	int word = read_byte(c->told);

	if (word >= 0)
		c->said |= (unsigned)word;
	else
		note_end(c);
}

int
child_start(struct child *c, const int end[2], const struct options *o,
    int (*verb)(const struct options *))
{
	struct options own = *o;
	struct leash leash;
	int go[2], told[2];

	if (pipe(go) != 0 || pipe(told) != 0 || (c->pid = fork()) < 0)
		return snap_warn(errno, "starting a process");
	if (c->pid == 0) {
		on_signals_to_end(SIG_DFL);
		dup2(end[0], STDIN_FILENO);
		close(end[0]);
		close(end[1]);
		close(go[1]);
		close(told[0]);
		close(c->q->fd);
		leash.go = go[0];
		leash.tell = told[1];
		own.leash = &leash;
		own.file++;
		own.nfile--;
		c->status = verb(&own);
		return 1;
	}
	close(end[0]);
	close(go[0]);
	close(told[1]);
	c->stream = end[1];
	c->go = go[1];
	c->told = told[0];
	while (!(c->said & LEASH_READY) && !c->ended)
		listen_to(c);
	return !c->ended ? 0 : c->status != 0 ? c->status : SNAP_EBUG;
}

int
child_begin(struct child *c, int err)
{
	close(c->stream);
	if (err == 0)
		child_go(c);
	else
		child_cancel(c);
	return err;
}

void
child_go(struct child *c)
{
	write_byte(c->go, 1);
}

void
child_cancel(struct child *c)
{
	close(c->go);
	child_join(c);
}

void
child_join(struct child *c)
{
	while (!c->ended)
		listen_to(c);
}

int
child_wait(struct child *c, int ms)
{
	struct pollfd p[2];

	p[0].fd = c->q->fd;
	p[1].fd = c->ended ? -1 : c->told;
	p[0].events = p[1].events = POLLIN;
	if (poll(p, 2, ms) > 0 && (p[1].revents & (POLLIN | POLLHUP)))
		listen_to(c);
	if (status_asked() && !c->ended)	/* it knows how far it is */
		kill(c->pid, SIGUSR1);
	if (c->interrupted || got_signal() == 0)
		return 0;
	c->interrupted = 1;
	if (!c->ended)
		kill(c->pid, got_signal());	/* a terminal has told it already */
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

void
leash_drop(const struct leash *l)
{
	close(l->tell);
	close(l->go);
}
