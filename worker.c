/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * worker.c -- a process of our own at the other end of QEMU's stream.
 */
#include "worker.h"

#include <sys/wait.h>

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "snap.h"

int
worker_start(struct worker *w, struct leash *leash)
{
	int go[2], told[2];

	if (pipe(go) != 0 || pipe(told) != 0 || (w->pid = fork()) < 0)
		return snap_warn(errno, "starting a process");
	if (w->pid == 0) {
		on_signals_to_end(SIG_DFL);
		close(go[1]);
		close(told[0]);
		leash->go = go[0];
		leash->tell = told[1];
		return 1;
	}
	close(go[0]);
	close(told[1]);
	w->go = go[1];
	w->told = told[0];
	return 0;
}

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

void
worker_listen(struct worker *w)
{
	ssize_t n;
	char c;

	while ((n = read(w->told, &c, 1)) < 0 && errno == EINTR)
		;
	if (n == 1 && c == LEASH_READY)
		w->ready = 1;
	else if (n == 1 && c == LEASH_CUT)
		w->cut = 1;
	else if (n == 1 && c == LEASH_DONE)
		w->done = 1;
	else if (n == 1)
		w->paged = 1;
	else
		note_end(w);
}

int
worker_await(struct worker *w)
{
	while (!w->ready && !w->ended)
		worker_listen(w);
	return !w->ended ? 0 : w->status != 0 ? w->status : SNAP_EBUG;
}

void
worker_go(struct worker *w)
{
	while (write(w->go, "", 1) < 0 && errno == EINTR)
		;
}

void
worker_cancel(struct worker *w)
{
	close(w->go);
	while (!w->ended)
		worker_listen(w);
}

void
worker_interrupt(const struct worker *w)
{
	if (!w->ended)
		kill(w->pid, got_signal());
}

void
leash_tell(const struct leash *l, char what)
{
	while (write(l->tell, &what, 1) < 0 && errno == EINTR)
		;
}

int
leash_ask(const struct leash *l, char what)
{
	ssize_t n;
	char c;

	leash_tell(l, what);
	while ((n = read(l->go, &c, 1)) < 0 && errno == EINTR)
		;
	return n == 1;
}
