/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * child.h -- a process of our own at one end of a stream whose other end is QEMU's, for who talks
 * to its monitor.
 *
 * It does what `save` or `load` does, on a leash:
 *
 *	starts --READY--> waits --child_go--> works --DONE--> waits --child_go--> ends
 *			   |		PAGE, CUT, FAILED	|    NAMED
 *			   +--child_cancel-----> ends <--------+
 *
 * It tells LEASH_READY when nothing has happened yet, and nothing will if it is cancelled.  `load`
 * tells no more.  `save` tells LEASH_PAGE at the first page: from then on the snapshot's moment is
 * over; LEASH_CUT when the stream ends too early, which is for the other side to report; LEASH_DONE
 * when all is read; cancelled then, no image comes of it.  LEASH_FAILED: none will, whatever is
 * still read; LEASH_NAMED: one is there, also if the sync of its directory then failed.
 */
#ifndef CHILD_H
#define CHILD_H

#include <sys/types.h>

#include "options.h"

struct qmp;

enum {
	LEASH_READY = 1, LEASH_PAGE = 2, LEASH_CUT = 4, LEASH_DONE = 8, LEASH_FAILED = 16,
	LEASH_NAMED = 32
};

struct leash {
	int tell, go;		/* descriptors */
};

struct child {
	const char *name;	/* set by the caller: of the image */
	const struct qmp *q;	/* and the monitor */
	int stream;		/* QEMU's end of it */
	unsigned said;		/* LEASH_*: all that it has told */
	int ended, status;	/* what it returned */

	pid_t pid;		/* private, */
	int go, told;		/* as are our ends of its leash */
	int interrupted;
};

/*
 * Have verb done in a process whose stdin is end[0], with the options but for the first argument,
 * and wait until it is ready.  0; SNAP_E*, reported; or 1: this is the child, and it has done it,
 * with c->status.  MUST be called before threads are started.
 */
int child_start(struct child *c, const int end[2], const struct options *o,
    int (*verb)(const struct options *));
/* QEMU has its end, or err: it could not be had.  Have the child go on, or not.  err. */
int child_begin(struct child *c, int err);
/* Have it go on where it waits, or end. */
void child_go(struct child *c);
void child_cancel(struct child *c);
/* Wait until it has ended. */
void child_join(struct child *c);
/* Wait up to ms milliseconds until the child or QEMU has something to say.  1: a signal has come,
 * and the child was told to give up by the same one; this happens once. */
int child_wait(struct child *c, int ms);

/* For the child: tell, or ask: 1: go on, 0: end, and leave nothing. */
void leash_tell(const struct leash *l, char what);
int leash_ask(const struct leash *l, char what);
/* Nothing more is told: what this process leaves behind when it ends is not waited for. */
void leash_drop(const struct leash *l);

#endif
