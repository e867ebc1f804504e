/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * guard.h -- processes for what the saver cannot do itself.
 */
#ifndef GUARD_H
#define GUARD_H

#include <sys/types.h>

struct guard {
	int fd;		/* the guard waits at its other end; -1: there is no guard */
	pid_t pid;
};

/*
 * Start a guard over the stream that comes from fd, if that is a pipe or a
 * socket.  MUST be called before threads are started and files opened.  Returns
 * 1 in the guard, when its work is done: nothing is left to do but to end.
 * Where no process is to be had there is no guard.  name: of the image, for its
 * message.
 */
int guard_start(struct guard *g, int fd, const char *name);
/* The stream may be left now: send the guard home, and wait until it has gone. */
void guard_dismiss(struct guard *g);
/*
 * QEMU waits for our end, and its guest with it.  1: the caller is to end now, and a
 * process of its own goes on with what takes long, in which the value is 0; so it is
 * where no process is to be had.  There MUST be no threads.
 */
int guard_goes_on(void);

#endif
