/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pipe.c -- pipes that may have QEMU at their other end.
 */
#include "pipe.h"

#include <sys/stat.h>

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "latency.h"
#include "wire.h"

static void (*on_signal)(void *);
static void *on_signal_arg;

void
pipe_on_signal(void (*fn)(void *), void *arg)
{
	on_signal = fn;
	on_signal_arg = arg;
}

static void
interrupted(void)
{
	if (on_signal != NULL)
		on_signal(on_signal_arg);
}

int
pipe_is(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

/* However many signals come, silence for so long is silence: what is sent to us must not make a
 * source look as if it had sent something. */
int
pipe_waits(int fd, int ms)
{
	int64_t end = now_ns() + (int64_t)ms * 1000000, left = ms;
	struct pollfd p;
	int r;

	p.fd = fd;
	p.events = POLLIN;
	while ((r = poll(&p, 1, (int)left)) < 0 && errno == EINTR) {
		interrupted();
		if ((left = (end - now_ns()) / 1000000) < 0)
			left = 0;
	}
	return r != 0;
}

int
pipe_try_again(int fd, short events)
{
	struct pollfd p;

	if (errno == EINTR)
		interrupted();
	else if (errno != EAGAIN && errno != EWOULDBLOCK)
		return 0;
	else {
		p.fd = fd;
		p.events = events;
		if (poll(&p, 1, -1) < 0 && errno == EINTR)
			interrupted();
	}
	return 1;
}

ssize_t
pipe_read(int fd, void *buf, size_t len)
{
	ssize_t n;

	while ((n = read(fd, buf, len)) < 0 && pipe_try_again(fd, POLLIN))
		;
	return n;
}

void
pipe_drain(int fd)
{
	char buf[16384];

	while (pipe_read(fd, buf, sizeof buf) > 0)
		;
}

void
pipe_tell(int fd, const void *msg, size_t len)
{
	if (!pipe_is(fd))
		return;
	/* Any other error: nobody is there to be told. */
	while (write(fd, msg, len) < 0 && errno == EINTR)
		;
}

void
pipe_reject(int fd, int paused)
{
	static const uint8_t msg[COMMAND_SIZE + 4] = {
		VM_COMMAND, 0, CMD_POSTCOPY_RESUME, 0, 0, 0xff, 0xff, 0xff, 0xff
	};
	size_t skipped = paused ? 0 : COMMAND_SIZE;

	pipe_tell(fd, msg + skipped, sizeof msg - skipped);
}
