/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * server.h -- the page server, shared by postcopy.c (the talk around it) and serve.c (its pages),
 * and by nobody else.
 */
#ifndef SERVER_H
#define SERVER_H

#include <stdint.h>

#include "hot.h"
#include "hostpage.h"
#include "image.h"
#include "lane.h"
#include "marks.h"
#include "options.h"
#include "out.h"
#include "returnpath.h"
#include "status.h"

enum {
	NEAR_MAX = 8,		/* batches of neighbours */
	ROWS = 8,		/* places where a guest may be going through its memory */
	QUEUE = 1024,		/* requests that wait; then stdin does */
	BURST = 8,		/* records a write, between two looks at stdin */
	LOADED = 0x51534e50	/* value of the PING behind the devices */
};

/* See postcopy.c. */
enum phase { PRECOPY, LOADING, RUNNING, ENDING };

struct server {
	struct image *im;
	const struct options *opt;
	struct status *st;
	const struct ram_map *ram;
	unsigned threads;	/* of the push */
	struct stream_out out;
	struct rp_in rp;
	enum phase phase;

	struct host_pages host;
	struct marks sent;	/* gone out, or going */
	struct marks asked;	/* in the queue of requests, or further */
	struct marks pushed;	/* queued for the push, or further */
	struct marks had;	/* there before a resume */
	uint64_t nsent;		/* host pages */
	uint64_t goal;		/* stored pages to go before the switch-over */

	struct lane urgent, near, push;
	struct lane_batch *stack[NEAR_MAX];	/* of the near lane: what has been read */
	unsigned nstack;
	struct { uint64_t page, entry; int state; } lately[NEAR_MAX];	/* pages asked for whose
				 * neighbours are to be read */
	unsigned nlately;
	struct lane *begun;	/* whose host page is under way */
	struct lane_batch *spent;	/* to be given back after the flush */
	struct lane *spent_lane;
	struct image_walk walk;	/* the push on its way through all pages */
	struct image_walk behind;	/* and behind a row of pages asked for */
	unsigned passed;	/* steps there since it last found something; LOOK: no row */
	uint64_t row[ROWS];	/* pages asked for, the last one of each row */
	unsigned nrow;
	unsigned scattered;	/* requests lately out of any row, less those in one */
	size_t pipe_size;
	struct { uint64_t host; int64_t since; } queue[QUEUE];
	unsigned qhead, qlen;

	struct hot_list hot;
	uint64_t hot_at;	/* queued so far */
	uint64_t early;		/* as many before the switch-over */
	uint64_t early_bytes;	/* queued until then, with the host pages around them */
	int hot_gone;		/* they have been sent */
	int held;		/* ms, see hold_ms(): one for all decisions of one round */
	struct hot_list asked_first;	/* what is recorded */
	int64_t run_since, asked_last;	/* ns */

	uint64_t ahead;		/* bytes, see is_ahead() */
	int64_t allowed;	/* ns: when --rate lets the next push go */
	uint64_t stored_sent;
	struct status_served *served;
	int64_t waiting[BURST];	/* ns: since when the pages asked for in p->out wait */
	unsigned nwaiting;
};

/* im, opt, st, ram, threads, served and hot are set, all else is zeros.  0, or SNAP_E*, reported.
 * server_free() is right for what has begun as zeros. */
int server_init(struct server *p);
void server_free(struct server *p);
/*
 * Serve until everything has gone out or, in PRECOPY, enough has.  The last host page never goes
 * before the switch-over: without a page to discard, QEMU does not let its guest run.
 */
int server_run(struct server *p);
/* Take all messages that are here, as long as there is room for requests. */
int server_take_messages(struct server *p);
/* See what has come, and unless there is work at once, wait until there is. */
int server_wait(struct server *p, int at_once);

#endif
