/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qmp.h -- a client of QEMU's machine protocol (docs/interop/qmp-spec in QEMU's sources).
 *
 * One command at a time.
 */
#ifndef QMP_H
#define QMP_H

#include <stddef.h>
#include <stdint.h>

enum { QMP_LINE = 4 << 20 };	/* bytes of a message; query-block has the longest */

struct qmp {
	int fd;			/* -1: there is none (any more) */
	const char *path;
	unsigned version;	/* of QEMU: 1000 * major + minor */
	uint64_t id;		/* of the last command */
	unsigned stops;		/* events STOP so far */
	/* Set by the caller: must QEMU not be left alone now?  NULL: it may be. */
	int (*must_answer)(void *arg);
	void *arg;
	char *buf;		/* what has come: n bytes, and there is room for size */
	size_t n, size;
	int is_event;		/* the last message is */
	int have_line;		/* the first len of them, and a newline, are the last message */
	size_t len;
};

/*
 * Connect to the socket at path, which must stay, and negotiate.  0, or SNAP_E*, reported:
 * it is no QMP socket, somebody else has it, nobody listens.  On failure it is closed.
 */
int qmp_open(struct qmp *q, const char *path);
void qmp_close(struct qmp *q);

/*
 * Run a command; arguments: a JSON object, or NULL; fd: a descriptor that goes with it, or -1.
 * 0, and the reply can be read; 1: QEMU refuses, in the words of qmp_error(); SNAP_E*, reported:
 * there is nobody to talk to any more.
 */
int qmp_run(struct qmp *q, int fd, const char *command, const char *arguments);
/* The same where it must not refuse: 0, or SNAP_E*, reported. */
int qmp_demand(struct qmp *q, const char *command, const char *arguments);
/*
 * Hand QEMU fd under the name QMP_FD, and run the command that uses it up, with nothing left
 * behind if it refuses; the hint is added to its words.  0, or SNAP_E*, reported.
 */
#define QMP_FD	"qemu-snap"
int qmp_hand(struct qmp *q, int fd, const char *command, const char *arguments, const char *hint);
/* Take what has come, without waiting.  0, or SNAP_ESYS, reported. */
int qmp_look(struct qmp *q);
/* QEMU's words for why the last command failed. */
const char *qmp_error(const struct qmp *q, char *buf, size_t size);

/*
 * Values of the last reply, at "return.3.capability" for example; numbers count the elements of
 * an array.  1, or 0: there is none, or none of that type, or it is longer than buf, which is ""
 * then.
 */
int qmp_has(const struct qmp *q, const char *path);
int qmp_string(const struct qmp *q, const char *path, char *buf, size_t size);
int qmp_number(const struct qmp *q, const char *path, uint64_t *n);
int qmp_is_true(const struct qmp *q, const char *path);

/* The path to the element of a reply: "return.3", or what follows that behind a dot; in room. */
enum { QMP_PATH = 64 };
const char *qmp_at(char room[QMP_PATH], unsigned i, const char *field);

/* What query-status says of the guest.  0, or SNAP_E*, reported; so for the others below. */
enum { GUEST_STATE = 64 };
int qmp_guest(struct qmp *q, char state[GUEST_STATE], int *runs);
/* What query-migrate says of the last migration: its state, "none" without one.  Others of its
 * values can be read then. */
enum { MIGRATION_STATE = 32 };
int qmp_migration(struct qmp *q, char state[MIGRATION_STATE]);
/* Say why it is in that state, as far as was told. */
void qmp_say_reason(const struct qmp *q, const char *state);
/* Is none under way, or waiting to be taken up? */
int migration_is_over(const char *state);
/* Does QEMU know a capability, and is it on?  The other one looks for one more in the same reply.
 * hint: what is added to its refusal. */
int qmp_capability(struct qmp *q, const char *name, int *known, int *on);
void qmp_find_capability(const struct qmp *q, const char *name, int *known, int *on);
int qmp_set_capability(struct qmp *q, const char *name, int on, const char *hint);

#endif
