/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * message.c -- what is said to people, on stderr and stdout.
 *
 * One write for one line, so that the lines of several processes do not mix.
 * Names come from strangers (files, RAM blocks, sections): control characters
 * in them are shown as '?', lest they steer the reader's terminal.
 */
#include "snap.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { LINE = 2048 };

/*
 * c, or '?' for a control character: one of ASCII, or one of the second set,
 * alone or, behind byte 0xc2, in UTF-8.
 */
static char
shown(char before, char c)
{
	unsigned b = (unsigned char)before, u = (unsigned char)c;

	return u < ' ' || u == 0x7f || (u >= 0x80 && u < 0xa0 && (b < 0x80 || b == 0xc2)) ?
	    '?' : c;
}

static void
say(int err, const char *fmt, va_list ap)
{
	char line[LINE];
	size_t n, i;

	strcpy(line, "qemu-snap: ");
	n = strlen(line);
	vsnprintf(line + n, sizeof line - 2 - n, fmt, ap);
	n = strlen(line);
	if (err != 0) {
		snprintf(line + n, sizeof line - 1 - n, ": %s", strerror(err));
		n = strlen(line);
	}
	for (i = 1; i < n; i++)
		line[i] = shown(line[i - 1], line[i]);
	line[n++] = '\n';
	fwrite(line, 1, n, stderr);
}

void
snap_warnx(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(0, fmt, ap);
	va_end(ap);
}

void
snap_warn(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(err, fmt, ap);
	va_end(ap);
}

int
no_direct_io(const char *path, int coded, uint32_t page_size)
{
	if (coded)
		snap_warnx("%s: no direct I/O with compressed pages", path);
	else if (page_size % 4096 != 0)
		snap_warnx("%s: no direct I/O with pages of %u bytes", path,
		    (unsigned)page_size);
	else
		return 0;
	return 1;
}

void
print_name(const char *name)
{
	char before = 0;

	for (; *name != '\0'; before = *name++)
		putchar(shown(before, *name));
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
