/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pipe.h -- pipes and sockets that may have QEMU at their other end.
 */
#ifndef PIPE_H
#define PIPE_H

#include <stddef.h>
#include <stdint.h>

#include <sys/types.h>

/* Is fd a pipe or a socket: may QEMU be at its other end? */
int pipe_is(int fd);
/* From now on, call fn(arg) whenever a signal interrupts a read or write here, or waiting for one;
 * they go on after that. */
void pipe_on_signal(void (*fn)(void *), void *arg);
/* Is there something to read on fd, or its end, within ms milliseconds, which are not negative? */
int pipe_waits(int fd, int ms);
/* A read or write of fd has failed, as errno says: is it to be tried again, now that what it
 * waits for (POLLIN or POLLOUT) is there?  QEMU never makes ours such that they do not block;
 * others may. */
int pipe_try_again(int fd, short events);
/* As read(), but it waits, and no signal ends it. */
ssize_t pipe_read(int fd, void *buf, size_t len);
/* Read and forget everything up to the end of input. */
void pipe_drain(int fd);
/* A few bytes for the other end, if fd is a pipe; without a word if nobody is there. */
void pipe_tell(int fd, const void *msg, size_t len);
/*
 * Tell a waiting destination that no stream will come: QEMU waits for the four
 * bytes of a magic for ever.  What it gets is not one, and does not begin with
 * the type of an element either; above all not with that of the end, with which
 * a destination that waits for the rest of its pages would go on without them.
 * paused: it is known to wait for that; then RESUME comes first, as QEMU up to
 * 8.1 crashes if a recovery fails before it.  Does nothing if fd is no pipe.
 */
void pipe_reject(int fd, int paused);

#endif
