/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * worker.h -- a process of our own at the other end of QEMU's stream, for who talks to its monitor.
 *
 * It does what `save` or `load` does, on a leash: see struct leash.
 */
#ifndef WORKER_H
#define WORKER_H

#include <sys/types.h>

#include "options.h"

struct worker {
	const char *name;	/* set by the caller: of the image */
	pid_t pid;
	int go, told;		/* our ends of its leash */
	int ready, paged, cut, done;	/* it has told so */
	int ended, status;	/* what it returned */
};

/*
 * Start one.  1: this is the worker, which is to do its work with its leash, and to return.
 * 0, or SNAP_ESYS, reported.  MUST be called before threads are started.
 */
int worker_start(struct worker *w, struct leash *leash);
/* Wait until it is ready: 0, or what it returned instead, reported by it. */
int worker_await(struct worker *w);
/* Have it go on where it has asked, or end with nothing done. */
void worker_go(struct worker *w);
void worker_cancel(struct worker *w);
/* Its next word, or its end; w->told tells when there is one. */
void worker_listen(struct worker *w);
/* Tell it to give up, by the signal that was noted: a terminal has told it already. */
void worker_interrupt(const struct worker *w);

/* For the worker: tell, or ask: 1: go on, 0: end, and leave nothing. */
void leash_tell(const struct leash *l, char what);
int leash_ask(const struct leash *l, char what);

#endif
