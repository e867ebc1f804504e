/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * signals.c -- what happens when we are told to end.
 */
#include "signals.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>

#include "snap.h"

void
on_signals_to_end(void (*fn)(int))
{
	static const int sigs[] = { SIGHUP, SIGINT, SIGTERM };
	struct sigaction sa, old;
	size_t i;

	memset(&sa, 0, sizeof sa);
	sa.sa_handler = fn;
	sigemptyset(&sa.sa_mask);
	for (i = 0; i < sizeof sigs / sizeof sigs[0]; i++)
		if (sigaction(sigs[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(sigs[i], &sa, NULL);
}

static volatile sig_atomic_t noted;

static void
note_signal(int sig)
{
	noted = sig;
}

void
note_signals(void)
{
	on_signals_to_end(note_signal);
}

int
got_signal(void)
{
	return (int)noted;
}

int
check_signals(const char *path)
{
	if (noted == 0)
		return 0;
	snap_warnx("%s: signal %d: given up", path, (int)noted);
	return SNAP_ESYS;
}
