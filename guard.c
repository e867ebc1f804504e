/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guard.c -- processes for what the saver cannot do: to read on when it is killed,
 * and to go on when it must end.
 *
 * SIGKILL and the out-of-memory killer leave no time to drain the stream, and
 * QEMU up to 8.0 hangs its guest for ever when the reader goes away while RAM
 * is on the way.  The guard holds nothing but the stream and one end of a pipe.
 * A byte from there says that all is well; an end without a byte, that the
 * saver died.  Then the guard drains the stream, so that the guest lives.
 *
 * The guard MUST be gone before the saver closes the stream on purpose: as long
 * as it holds the stream, QEMU does not notice.
 */
#include "guard.h"

#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "pipe.h"
#include "signals.h"
#include "snap.h"

enum { INHERITED_MAX = 256 };	/* descriptors that whoever started us may have left */

static void
watch(int fd, int death, const char *name)
{
	ssize_t n;
	char c;
	int i;

	setsid();	/* what is sent to the saver's group is not for us */
	on_signals_to_end(SIG_IGN);
	for (i = 0; i < INHERITED_MAX; i++)
		if (i != fd && i != death && i != STDERR_FILENO)
			close(i);
	while ((n = read(death, &c, 1)) < 0 && errno == EINTR)
		;
	if (n == 1)
		return;
	snap_warnx("%s: save killed: there is no new image, whatever QEMU says; "
	    "the stream is drained", name);
	pipe_drain(fd);
}

int
guard_start(struct guard *g, int fd, const char *name)
{
	int p[2];

	g->fd = -1;
	if (!pipe_is(fd) || pipe(p) != 0)
		return 0;
	g->pid = fork();
	if (g->pid == 0) {
		close(p[1]);
		watch(fd, p[0], name);
		return 1;
	}
	close(p[0]);
	if (g->pid < 0) {
		close(p[1]);
		return 0;
	}
	fcntl(p[1], F_SETFD, FD_CLOEXEC);
	g->fd = p[1];
	return 0;
}

void
guard_dismiss(struct guard *g)
{
	if (g->fd < 0)
		return;
	while (write(g->fd, "", 1) < 0 && errno == EINTR)
		;
	close(g->fd);
	g->fd = -1;
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int
guard_goes_on(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
	}
	return pid > 0;
}
