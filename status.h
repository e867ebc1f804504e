/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * status.h -- how far a long piece of work is: a line on the terminal (or --progress), lines
 * for programs (--status-fd), and an answer to SIGUSR1.
 *
 *	struct status st;
 *
 *	status_init(&st, o, o->file[0]);
 *	status_phase(&st, "memory", total);
 *	for each piece of some KiB:
 *		status_add(&st, bytes);
 *	err = ...;
 *	status_end(&st, err);
 *	return err;
 *
 * One struct for the whole of a verb, which owns it.  Only the owner thread calls these
 * functions.  None of them fails, prints to stdout, or waits for whoever reads what they write:
 * what cannot be written at once is left out.  Between status_init() and status_end() there
 * MUST be no fork() whose child calls them, too.
 */
#ifndef STATUS_H
#define STATUS_H

#include <stdint.h>

#include "latency.h"

struct options;

/* What a page server has done. */
struct status_served {
	uint64_t requests, repeats, answered;
	struct latency latency;		/* from a request to its page in the pipe */
};

struct status {
	const struct options *opt;
	const char *path, *phase;
	uint64_t done, total;		/* bytes of this phase; total 0: not known */
	uint32_t page_size;		/* 0: they are no pages */
	int serves;			/* there is a page server, which counts here: */
	struct status_served served;

	/* Private. */
	int fd;				/* for programs; -1: nobody wants them */
	int lines;			/* in which form people want it: enum in status.c */
	uint64_t unlooked;		/* bytes since the last look at the clock */
	int64_t began, phase_began;	/* ns */
	int64_t next, next_plain;	/* when the next lines are due */
	struct { int64_t at; uint64_t done; } mark[2];	/* for the rate */
};

/* Catch what asks for a line, so that it ends nobody.  What it interrupts goes on by itself.
 * main() does this at first. */
void status_catch_signals(void);
/* From now on it interrupts reads and writes that wait: their callers answer, and go on.  For
 * verbs whose owner waits at a pipe. */
void status_interrupt(void);

/* Begin; path, which must stay, is the image that the user would name. */
void status_init(struct status *st, const struct options *o, const char *path);
/* Another image is being worked at. */
void status_image(struct status *st, const char *path);
/* A phase of the work begins, in which total bytes are to be done; 0: nobody knows.  Its name,
 * which must stay, is one word that programs get to see: the manual lists them. */
void status_phase(struct status *st, const char *name, uint64_t total);
/* Such a phase, in which so many pages of the guest are to be done. */
void status_pages(struct status *st, const char *name, uint64_t pages, uint32_t page_size);
/* So many more bytes are done.  To be called for each page, if need be: only once in 64 KiB
 * does it look at the clock, and a few times a second write something. */
void status_add(struct status *st, uint64_t bytes);
/* Was a line asked for?  This is the answer to the question, too: none is printed then. */
int status_asked(void);
/* Was a line asked for?  Then print it.  To be called where something waited. */
void status_answer(struct status *st);
/* status_answer() as pipe_on_signal() wants it: st is a struct status. */
void status_on_signal(void *st);
/* Something is going to be printed on stdout: take the line on the terminal away. */
void status_hide(struct status *st);
/* The work has ended; err is what the verb returns.  Messages may still follow. */
void status_end(struct status *st, int err);

#endif
