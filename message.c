/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * message.c -- what is said to people, on stderr and stdout.
 *
 * One write for one line, so that the lines of several processes do not mix.
 * Names come from strangers (files, RAM blocks, sections): control characters
 * in them are shown as '?', lest they steer the reader's terminal.
 *
 * On a terminal, a line that tells how far we are may stand where the next message is
 * to begin: that message takes it away first, in the same write.
 */
#include "snap.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	LINE = 2048,
	STDOUT_LINE = 16 << 10,	/* the longest has three names of files */
	COLUMNS = 79		/* a terminal has 80, and the last one may wrap */
};

static size_t standing;		/* bytes of the line that stands on the terminal */

/*
 * c, or '?' for a control character: one of ASCII, or one of the second set,
 * alone or, behind byte 0xc2, in UTF-8.
 */
static char
shown(char before, char c)
{
	unsigned b = (unsigned char)before, u = (unsigned char)c;

	return u < ' ' || u == 0x7f || (u >= 0x80 && u < 0xa0 && (b < 0x80 || b == 0xc2)) ? '?' : c;
}

static void
show_all(char *s)
{
	char before = 0;

	for (; *s != '\0'; s++)
		before = *s = shown(before, *s);
}

/* A signal must not cost half a message. */
static void
put(const char *s, size_t n)
{
	ssize_t k;

	while (n > 0) {
		k = write(STDERR_FILENO, s, n);
		if (k < 0 && errno != EINTR)
			return;
		if (k > 0) {
			s += k;
			n -= (size_t)k;
		}
	}
}

/* Would a short write not have to wait for whoever reads stderr? */
static int
is_read(void)
{
	struct pollfd p;

	p.fd = STDERR_FILENO;
	p.events = POLLOUT;
	return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

/* Overwrite the line that stands; buf has room for it.  The number of bytes. */
static size_t
wipe(char *buf)
{
	size_t n = standing;

	if (n == 0)
		return 0;
	buf[0] = buf[n + 1] = '\r';
	memset(buf + 1, ' ', n);
	standing = 0;
	return n + 2;
}

static void
say(int err, const char *fmt, va_list ap)
{
	char line[LINE + COLUMNS + 2], *s;
	size_t n;

	s = line + wipe(line);
	strcpy(s, "qemu-snap: ");
	n = strlen(s);
	vsnprintf(s + n, LINE - 2 - n, fmt, ap);
	n = strlen(s);
	if (err != 0) {
		snprintf(s + n, LINE - 1 - n, ": %s", strerror(err));
		n = strlen(s);
	}
	show_all(s);
	s[n++] = '\n';
	put(line, (size_t)(s - line) + n);
}

void
snap_note(const char *fmt, ...)
{
	va_list ap;

	if (!is_read())
		return;
	va_start(ap, fmt);
	say(0, fmt, ap);
	va_end(ap);
}

void
snap_line(const char *text)
{
	char line[2 * COLUMNS + 4];
	size_t n = strlen(text), was = standing, len;

	if ((n == 0 && was == 0) || !is_read())
		return;
	if (n > COLUMNS)	/* a character is not cut in two */
		for (n = COLUMNS; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80; n--)
			;
	if (n == 0) {
		put(line, wipe(line));
		return;
	}
	line[0] = '\r';
	memcpy(line + 1, text, n);
	line[n + 1] = '\0';
	show_all(line + 1);
	len = n + 1;
	while (len < was + 1)
		line[len++] = ' ';
	standing = n;
	put(line, len);
}

int
snap_warnx(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(0, fmt, ap);
	va_end(ap);
	return SNAP_ESYS;
}

int
snap_warn(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(err, fmt, ap);
	va_end(ap);
	return SNAP_ESYS;
}

void
say_stale(const char *name, const char *verb)
{
	snap_warnx("%s: removed, a dead %s left it", name, verb);
}

void
print_line(const char *fmt, ...)
{
	char line[STDOUT_LINE];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	show_all(line);
	puts(line);
}

int
close_stdout(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (status == 0)
		snap_warnx("stdout: cannot be written");
	return status == 0 ? SNAP_ESYS : status;
}
