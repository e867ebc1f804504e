/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * verbs.h -- what the verbs need of files that the fuzzers leave out: signals.c, options.c.
 */
#ifndef VERBS_H
#define VERBS_H

#include "../../options.h"
#include "../../signals.h"

void
on_signals_to_end(void (*fn)(int))
{
	(void)fn;
}

void
note_signals(void)
{
}

int
got_signal(void)
{
	return 0;
}

int
check_signals(const char *path)
{
	(void)path;
	return 0;
}

unsigned
options_threads(const struct options *o, int owner_works)
{
	(void)owner_works;
	return o->threads;
}

const char *
options_verb(const struct options *o)
{
	(void)o;
	return "verb";
}

#endif
