/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * signals.h -- the signals that are to end us.
 */
#ifndef SIGNALS_H
#define SIGNALS_H

/*
 * What SIGHUP, SIGINT and SIGTERM do from now on: a handler, SIG_IGN or SIG_DFL.  No
 * read is restarted.  What whoever started us ignores (nohup) stays ignored.
 */
void on_signals_to_end(void (*fn)(int));
/* They are noted from now on; and were there any?  0, or SNAP_ESYS after a message that path
 * is given up. */
void note_signals(void);
int check_signals(const char *path);
int got_signal(void);		/* its number, or 0 */

#endif
