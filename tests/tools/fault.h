/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fault.h -- the seam for faults.
 *
 * Put before every source by -include, it leads the calls below to fault.c,
 * which does as SNAP_FAULT says.  What is not called by its name followed by a
 * parenthesis is not touched.
 */
#ifndef FAULT_H
#define FAULT_H

/* Just as in aio_pthreads.c, which comes too late to say so. */
#ifdef __linux__
#define _GNU_SOURCE
#endif
#include <sys/types.h>
#include <sys/uio.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

ssize_t fault_pread(int fd, void *buf, size_t len, off_t off);
ssize_t fault_pwrite(int fd, const void *buf, size_t len, off_t off);
int fault_fsync(int fd);
int fault_rename(const char *from, const char *to);
int fault_link(const char *from, const char *to);
int fault_unlink(const char *path);
int fault_ftruncate(int fd, off_t len);
int fault_open(const char *path, int flags, ...);
void *fault_malloc(size_t len);
void *fault_calloc(size_t n, size_t len);
void *fault_realloc(void *p, size_t len);
int fault_posix_memalign(void **p, size_t align, size_t len);
int fault_pthread_create(pthread_t *t, const pthread_attr_t *attr,
    void *(*fn)(void *), void *arg);
pid_t fault_fork(void);
int fault_pipe(int p[2]);
int program_main(int argc, char **argv);

#undef RWF_NOWAIT	/* every read is a pread() */
#define pread(fd, buf, len, off)	fault_pread(fd, buf, len, off)
#define pwrite(fd, buf, len, off)	fault_pwrite(fd, buf, len, off)
#define fsync(fd)			fault_fsync(fd)
#define rename(from, to)		fault_rename(from, to)
#define link(from, to)			fault_link(from, to)
#define unlink(path)			fault_unlink(path)
#define ftruncate(fd, len)		fault_ftruncate(fd, len)
#define open(...)			fault_open(__VA_ARGS__)
#define malloc(len)			fault_malloc(len)
#define calloc(n, len)			fault_calloc(n, len)
#define realloc(p, len)			fault_realloc(p, len)
#define posix_memalign(p, align, len)	fault_posix_memalign(p, align, len)
#define pthread_create(t, attr, fn, arg)	fault_pthread_create(t, attr, fn, arg)
#define fork()				fault_fork()
#define pipe(p)				fault_pipe(p)
#define main				program_main

#endif
