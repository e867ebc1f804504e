/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * snap.h -- the words every module shares: what fails, and what is said of it.
 */
#ifndef SNAP_H
#define SNAP_H

#include <stddef.h>
#include <stdint.h>

#define SNAP_VERSION	"1.0"

/* What a failing function returns; a reason has been printed by then, save for
 * SNAP_EBUG, which main() reports. */
enum {
	SNAP_ESYS = -1,		/* the system refused: I/O, memory, closed peer: exit 1 */
	SNAP_EDATA = -2,	/* stream or image is damaged or unknown: exit 2 */
	SNAP_EBUG = -3		/* a check on ourselves failed: exit 3 */
};

typedef unsigned long long ull;	/* what %llu takes */

#ifdef __GNUC__
#define PRINTF_LIKE(f, a)	__attribute__((format(printf, f, a)))
#else
#define PRINTF_LIKE(f, a)
#endif

/* Print "qemu-snap: message" to stderr.  SNAP_ESYS, for who has failed by it to return. */
int snap_warnx(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The same with ": <text of err, an errno value>" behind it. */
int snap_warn(int err, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The same as snap_warnx() for what may be left out: whoever reads stderr is not waited for. */
void snap_note(const char *fmt, ...) PRINTF_LIKE(1, 2);
/*
 * Have this line, without a newline, stand on the terminal that is stderr, in place of the one
 * before, up to the next message.  It is cut at 79 columns.  "": none any more.
 */
void snap_line(const char *text);

/* Say that a temporary file was removed, see io_sweep_parts(). */
void say_stale(const char *name, const char *verb);
/* Print a line to stdout, without its newline here, and with '?' for control characters: the names
 * in it come from strangers. */
void print_line(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Write out what was printed to stdout: status, or SNAP_ESYS if that fails. */
int close_stdout(int status);

#endif
