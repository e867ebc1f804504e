/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * serve.c -- the page server: which page goes out next.
 *
 * Three queues, served in this order:
 *
 *	asked	 pages the guest waits for: a ring of small reads
 *	near	 their neighbours, those of the last page asked for first: a ring of its
 *		 own, as no page asked for is to wait for a larger read
 *	pushed	 the rest: a ring of reads, too.  First the hot list, as far as it did not
 *		 go before the guest ran; then file order.  Where a guest asks
 *		 for one page after the other, it goes on from there, to be ahead of
 *		 it, and comes back when it finds nothing more to do there
 *
 * While a hot list is recorded, only what is asked for goes out, as long as the guest goes
 * on asking: else it would not ask for what it needs.
 *
 * P1  The unit of asking, sending and marking is the host page of a block.  It
 *     goes out once (placed twice it is an error), whole, and in one piece: once
 *     begun, nothing else goes out before it is complete.
 * P2  A host page is marked sent when its first record goes out, not when it
 *     is queued: a page asked for overtakes its own copy in the push queue.
 * P3  Records go out a few at a time, the next when the pipe took all of them:
 *     before a page asked for stands what the pipe holds, BURST records, and the
 *     rest of the host page begun.
 * P4  A page that cannot be read, or is not what was saved, ends the service;
 *     QEMU then pauses the guest.  No page goes out unverified.
 * P5  The ring buffer of a record is given back when the pipe took the record.
 * P6  Tables are read by the owner, who serves nobody meanwhile: for a batch of pages that
 *     nobody asked for, at most one page leaf of the image (with what leads to it) and, for
 *     each of its pages, what the next table has of it: a leaf of units, or one in an
 *     ancestor.  Of slots whose pages are on their way it passes by at most LOOK.
 */
#include "server.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "snap.h"
#include "table.h"

enum {
	ASKED_DEPTH = 16,
	ASKED_THREADS = 4,	/* they only wait for the disk */
	PUSH_DEPTH = 16,
	HOT_THREADS = 8,	/* pages of a hot list lie here and there in the file */
	EARLY_SIZE = 64 << 20,	/* bytes of pages in a hot list that the guest waits for */
	LOOK = 4096,		/* slots that the push passes by at a time */
	ROW_STEP = 64,		/* pages from one of a row to the next, at most */
	WIDE = 64 << 10,	/* bytes that the pipe holds, see pipe_fits() */
	NARROW = 16 << 10,
	SCATTERED = 16,		/* requests that make it narrow, or wide again */
	QUIET_MS = 1000,	/* so long it must have asked for nothing while it is recorded, */
	RECORD_MS = 10000,	/* or run at most, until it is pushed to */
	RATE_SLACK_MS = 10	/* what --rate may make up for */
};

static struct job
job_of(const struct server *p, uint64_t h)
{
	struct job j;

	host_range(&p->host, h, &j.next, &j.end);
	j.since = 0;
	return j;
}

/* Does the destination get this host page anyway: sent, or asked for? */
static int
is_coming(const struct server *p, uint64_t h)
{
	return marked(&p->sent, h) || marked(&p->asked, h);
}

/* ---- what is asked for ---- */

static int
add_request(struct server *p, const struct rp_msg *m)
{
	size_t k = (size_t)(m->blk - p->ram->blk);
	uint64_t size = host_size(&p->host, k);
	uint64_t h = p->host.first[k] + m->start / size;
	struct job j;
	unsigned at;

	/* migrate_send_rp_req_pages() in migration/migration.c asks for one host page. */
	if (m->len != size || m->start % size != 0) {
		snap_warnx("return path: request for %u bytes of block %s at 0x%llx, where pages "
		    "of %llu are known: see --host-page-size", (unsigned)m->len, m->blk->id,
		    (unsigned long long)m->start, (unsigned long long)size);
		return SNAP_EDATA;
	}
	p->served->requests++;
	if (is_coming(p, h)) {
		p->served->repeats++;
		return 0;
	}
	if (p->opt->record != NULL)
		for (j = job_of(p, h); j.next < j.end; j.next++)
			hot_add(&p->asked_first, j.next);
	p->asked_last = now_ns();
	at = (p->qhead + p->qlen++) % QUEUE;
	p->queue[at].host = h;
	p->queue[at].since = p->asked_last;
	return mark(&p->asked, h);
}

int
server_take_messages(struct server *p)
{
	struct rp_msg m;
	int r = 0;

	while (p->qlen < QUEUE && (r = rp_next(&p->rp, &m)) == 1)
		switch (m.type) {
		case RP_REQ_PAGES:
		case RP_REQ_PAGES_ID:
			if ((r = add_request(p, &m)) != 0)
				return r;
			break;
		case RP_PONG:
			if (m.value == LOADED && p->phase == LOADING) {
				p->phase = RUNNING;
				p->run_since = now_ns();
			}
			break;
		case RP_SHUT:
			snap_warnx("the destination gave up (%u)", (unsigned)m.value);
			return SNAP_ESYS;
		default:
			break;
		}
	return r < 0 ? r : 0;
}

/* The next host page asked for that has not gone out: 1, or 0. */
static int
next_asked(struct server *p, struct job *j)
{
	uint64_t h;
	int64_t since;

	while (p->qlen > 0) {
		h = p->queue[p->qhead].host;
		since = p->queue[p->qhead].since;
		p->qhead = (p->qhead + 1) % QUEUE;
		p->qlen--;
		if (!marked(&p->sent, h)) {
			*j = job_of(p, h);
			j->since = since;
			return 1;
		}
	}
	return 0;
}

/* Does this page, which was asked for, follow another one? */
static int
in_a_row(struct server *p, uint64_t page)
{
	unsigned i;

	for (i = 0; i < ROWS; i++)
		if (page - p->row[i] - 1 < ROW_STEP) {
			p->row[i] = page;
			return 1;
		}
	p->row[p->nrow++ % ROWS] = page;
	return 0;
}

/* A page was asked for by itself: what does that tell of the next ones?  Its neighbours
 * are read when it has gone out. */
static int
learn(struct server *p, uint64_t page)
{
	uint64_t at = 0;
	int st = image_lookup(p->im, page, &at);

	if (st < 0)
		return st;
	if (p->nlately == NEAR_MAX)
		memmove(p->lately, p->lately + 1, --p->nlately * sizeof p->lately[0]);
	p->lately[p->nlately].page = page;
	p->lately[p->nlately].entry = at;
	p->lately[p->nlately++].state = st;
	if (!in_a_row(p, page)) {
		p->scattered += p->scattered < SCATTERED;
		return 0;
	}
	p->scattered -= p->scattered > 0;
	p->behind.slot = st == PAGE_STORED ? at + 1 : UINT64_MAX;
	p->behind.page = st == PAGE_STORED ? UINT64_MAX : page + 1;
	p->passed = st >= PAGE_STORED ? 0 : LOOK;
	return 0;
}

/* May the page in slot, one of n from first on, go along with one asked for: 1, 0 or < 0. */
static int
goes_along(struct server *p, uint64_t slot, uint64_t first, uint64_t n, uint64_t *page)
{
	uint32_t crc;
	int err;

	if (slot >= image_footer(p->im)->slots)
		return 0;
	if ((err = image_slot(p->im, slot, page, &crc)) != 0)
		return err;
	return *page - first < n && image_at_hand(p->im, *page) &&
	    !is_coming(p, host_of(&p->host, *page));
}

/* Those of the n pages from first on that lie in a row with slot `at` in the file, behind
 * it and before it: the read stays one of few pieces. */
static int
add_stored(struct server *p, struct lane_batch *b, uint64_t at, uint64_t first, uint64_t n)
{
	uint64_t page, slot = at;
	int r = 0, err;

	while (!batch_is_full(b) && (r = goes_along(p, slot + 1, first, n, &page)) == 1)
		if ((err = batch_add(b, page, PAGE_STORED, ++slot)) != 0)
			return err;
	for (slot = at; r == 0 && (r = goes_along(p, slot - 1, first, n, &page)) == 1; slot--)
		r = 0;
	for (; r == 0 && slot < at && !batch_is_full(b); slot++)
		if ((r = goes_along(p, slot, first, n, &page)) < 0 ||
		    (r = batch_add(b, page, PAGE_STORED, slot)) != 0)
			return r;
	return r;
}

/* Those that are zero, and those in ancestors if the one asked for is. */
static int
add_others(struct server *p, struct lane_batch *b, uint64_t asked, int state, uint64_t first,
    uint64_t n)
{
	uint64_t page, entry, i;
	int st, err;

	for (i = 1; i < n && !batch_is_full(b); i++) {
		page = first + (asked - first + i) % n;
		if (!image_at_hand(p->im, page) || is_coming(p, host_of(&p->host, page)))
			continue;
		if ((st = image_lookup(p->im, page, &entry)) < 0)
			return st;
		if ((st == PAGE_ZERO || (st == PAGE_ANCESTOR && st == state)) &&
		    (err = batch_add(b, page, st, entry)) != 0)
			return err;
	}
	return 0;
}

/* Add the neighbours in the guest of a page asked for, which is in slot `at` if it is
 * stored.  A page that is zero waits for no read. */
static int
add_neighbours(struct server *p, struct lane_batch *b, uint64_t asked, int st, uint64_t at)
{
	const struct ram_block *k = ram_map_find(p->ram, asked);
	uint64_t max = b->f.max, n, first;
	int err;

	first = asked - (asked - k->first) % max;
	n = k->first + k->len / p->ram->page_size - first;
	n = n < max ? n : max;
	if (st == PAGE_STORED && (err = add_stored(p, b, at, first, n)) != 0)
		return err;
	return add_others(p, b, asked, st, first, n);
}

/* The oldest neighbours can wait for the push. */
static void
drop_near(struct server *p)
{
	p->near.idle[p->near.nidle++] = p->stack[0];
	memmove(p->stack, p->stack + 1, --p->nstack * sizeof p->stack[0]);
}

/* Read those of the pages asked for lately.  1: so it was done; 0: nothing was to do. */
static int
fill_near(struct server *p)
{
	struct lane *l = &p->near;
	struct lane_batch *b;
	int err, done = 0;
	unsigned i;

	for (i = 0; i < p->nlately; i++) {
		/* What is in p->out refers to one of them (P5). */
		if (l->nidle == 0 && p->nstack > 0 && !out_pending(&p->out))
			drop_near(p);
		if (l->nidle == 0)
			break;
		b = l->idle[--l->nidle];
		batch_reset(b);
		if ((err = add_neighbours(p, b, p->lately[i].page, p->lately[i].state,
		    p->lately[i].entry)) != 0)
			return err;
		if (b->n > 0) {
			lane_submit(l, b);
			done = 1;
		} else
			l->idle[l->nidle++] = b;
	}
	p->nlately = 0;
	return done;
}

static int
fill_urgent(struct server *p)
{
	struct lane *l = &p->urgent;
	struct lane_batch *b;
	uint64_t page;
	int err, whole;

	while (l->nidle > 0 && (l->job.next < l->job.end || next_asked(p, &l->job))) {
		b = l->idle[--l->nidle];
		batch_reset(b);
		page = l->job.next;
		whole = host_bytes(&p->host, host_of(&p->host, page)) == p->ram->page_size;
		if ((err = batch_add_job(b, &l->job)) != 0)
			return err;
		b->since = l->job.since;
		lane_submit(l, b);
		if (whole && p->opt->record == NULL && (err = learn(p, page)) != 0)
			return err;
	}
	return 0;
}

/* Put on the stack what has been read of neighbours. */
static int
take_near(struct server *p)
{
	int err;

	while ((err = lane_take(&p->near)) == 0 && p->near.cur != NULL) {
		p->stack[p->nstack++] = p->near.cur;
		p->near.cur = NULL;
	}
	return err;
}

/* ---- the push ---- */

/* Milliseconds until anything is pushed to a guest that is recorded. */
static int
hold_ms(const struct server *p)
{
	int64_t now, since, quiet, whole;

	if (p->opt->record == NULL || p->phase == PRECOPY)
		return 0;
	if (p->phase < RUNNING)
		return QUIET_MS;
	now = now_ns();
	since = p->asked_last > p->run_since ? p->asked_last : p->run_since;
	quiet = QUIET_MS - (now - since) / 1000000;
	whole = RECORD_MS - (now - p->run_since) / 1000000;
	quiet = quiet < whole ? quiet : whole;
	return quiet > 0 ? (int)quiet : 0;
}

/* Where the push goes on behind the hot list: behind a row of pages asked for, as long as it
 * finds something there, else with its way through all pages.  NULL: it is done. */
static struct image_walk *
cursor(struct server *p)
{
	if (p->phase == PRECOPY && (p->goal == 0 || !p->hot_gone))
		return NULL;
	if (p->passed < LOOK && !image_walk_ended(p->im, &p->behind))
		return &p->behind;
	return image_walk_ended(p->im, &p->walk) ? NULL : &p->walk;
}

/* Queue page, which has not been yet, with its host page h. */
static int
push_page(struct server *p, struct lane_batch *b, uint64_t page, uint64_t h, int st, uint64_t entry)
{
	struct lane *l = &p->push;
	int err;

	if ((err = mark(&p->pushed, h)) != 0)
		return err;
	l->job = job_of(p, h);
	if (l->job.end - l->job.next > 1)
		return 0;
	l->job.next = l->job.end;
	return batch_add(b, page, st, entry);
}

/* Has a part of the hot list still to go: before the switch-over, or at all? */
static int
is_hot(const struct server *p)
{
	return p->hot_at < (p->phase != PRECOPY ? p->hot.n : p->early);
}

/* Queue the next page of the hot list: 1, or 0: that is all for now. */
static int
push_hot(struct server *p, struct lane_batch *b, unsigned *looked)
{
	uint64_t page, h, entry = 0;
	int st, err;

	while (is_hot(p) && (*looked)++ < LOOK) {
		page = hot_page(&p->hot, p->hot_at);
		if (b->n > 0 && p->phase != PRECOPY && !image_at_hand(p->im, page))
			return 0;	/* P6 */
		p->hot_at++;
		h = host_of(&p->host, page);
		if (is_coming(p, h) || marked(&p->pushed, h))
			continue;
		if ((st = image_lookup(p->im, page, &entry)) < 0)
			return st;
		if (st == PAGE_ABSENT)
			continue;
		if (p->phase == PRECOPY &&
		    (p->early_bytes += host_bytes(&p->host, h)) >= EARLY_SIZE)
			p->early = p->hot_at;
		return (err = push_page(p, b, page, h, st, entry)) != 0 ? err : 1;
	}
	return 0;
}

/* After a resume: a stored page of host page h need not be sent if that was there. */
static void
count_had(struct server *p, uint64_t h)
{
	if (marked(&p->had, h)) {
		p->stored_sent++;
		status_add(p->st, p->ram->page_size);
	}
}

/* Queue the next stored page: 1, or 0: that is all for now. */
static int
push_next(struct server *p, struct lane_batch *b, unsigned *looked)
{
	struct image_walk *at, before;
	uint64_t page, h, entry;
	int st, err;

	while ((at = cursor(p)) != NULL && (*looked)++ < LOOK) {
		before = *at;
		if ((st = image_step(p->im, at, &page, &entry)) < 0)
			return st;
		if (st == PAGE_ABSENT) {
			p->passed += at == &p->behind;
			continue;
		}
		if (b->n > 0 && !image_at_hand(p->im, page)) {
			*at = before;
			return 0;	/* P6 */
		}
		h = host_of(&p->host, page);
		if (at == &p->walk)	/* it comes by every page once */
			count_had(p, h);
		if (is_coming(p, h) || marked(&p->pushed, h)) {
			p->passed += at == &p->behind;
			continue;
		}
		if (at == &p->behind)
			p->passed = 0;
		return (err = push_page(p, b, page, h, st, entry)) != 0 ? err : 1;
	}
	return 0;
}

/* Is there room for one more batch?  The threads that a hot list needs would take the
 * processors from the guest if they all worked at the rest. */
static int
has_room(const struct server *p)
{
	const struct lane *l = &p->push;

	return l->nidle > 0 && (p->hot.n == 0 || is_hot(p) || l->busy <= p->threads);
}

/* May fill_push() find something? */
static int
can_push(struct server *p)
{
	return (is_hot(p) || cursor(p) != NULL) && has_room(p) && p->qlen == 0 &&
	    p->held == 0;
}

/* One batch a call, and none while requests wait (P6) or a guest is recorded, unless for the
 * rest of a host page: behind its beginning all others wait (P1).  1: it is being read, or has
 * been; 0: nothing was to do. */
static int
fill_push(struct server *p)
{
	struct lane *l = &p->push;
	struct lane_batch *b;
	unsigned looked = 0;
	const int only_rest = p->qlen > 0 || p->held > 0;
	int r;

	if (!has_room(p) || (only_rest && l->job.next == l->job.end))
		return 0;
	b = l->idle[--l->nidle];
	batch_reset(b);
	do {
		r = batch_add_job(b, &l->job);
		if (r == 0 && !batch_is_full(b) && !only_rest)
			r = is_hot(p) ? push_hot(p, b, &looked) : push_next(p, b, &looked);
	} while (r == 1 && !batch_is_full(b));
	if (r < 0)
		return r;
	if (b->n > 0)
		lane_submit(l, b);
	else
		l->idle[l->nidle++] = b;
	return b->n > 0;
}

/* ---- sending ---- */

/* Does --rate count now?  Not for a hot list that goes before the guest runs. */
static int
is_rated(const struct server *p)
{
	return p->opt->rate != 0 && (p->phase != PRECOPY || p->goal > 0);
}

/* Milliseconds until --rate lets a page go that nobody asked for. */
static int
rate_wait(const struct server *p)
{
	int64_t left;

	if (!is_rated(p) || (left = p->allowed - now_ns()) <= 0)
		return 0;
	return left > 1000000000 ? 1000 : (int)(left / 1000000) + 1;
}

static void
rate_spend(struct server *p, uint64_t bytes)
{
	int64_t slack = now_ns() - (int64_t)RATE_SLACK_MS * 1000000;

	if (p->allowed < slack)
		p->allowed = slack;
	p->allowed += (int64_t)((double)bytes * 1e9 / (double)p->opt->rate);
}

/*
 * What is in the pipe comes before any page asked for.  A guest that goes through its
 * memory wants just that next, and what fills the pipe seldom keeps QEMU waiting; one that
 * asks for pages here and there only waits for it.  So for that one the pipe is made short.
 * 0: it is still too full for this.
 */
static int
pipe_fits(struct server *p)
{
	size_t want = p->scattered == SCATTERED ? NARROW :
	    p->scattered == 0 ? WIDE : p->pipe_size;

	if (want != p->pipe_size && io_pipe_size(p->out.fd, want) == EBUSY)
		return 0;
	p->pipe_size = want;	/* where it cannot be had, it stays as it is */
	return 1;
}

/* Milliseconds until a page may go that nobody asked for. */
static int
push_wait(struct server *p)
{
	return pipe_fits(p) ? rate_wait(p) : 1;
}

/* Record i of b, which belongs to lane l; was it asked for?  P1 and P2 live here. */
static int
send_record(struct server *p, struct lane *l, struct lane_batch *b, unsigned i, int wanted)
{
	uint64_t page = b->page[i], h = host_of(&p->host, page);
	struct job whole = job_of(p, h);
	int err;

	if (page == whole.next) {
		l->skip = marked(&p->sent, h);
		if (!l->skip) {
			if ((err = mark(&p->sent, h)) != 0)
				return err;
			p->nsent++;
		}
	}
	p->begun = l->skip || page == whole.end - 1 ? NULL : l;
	if (l->skip)
		return 0;
	if (!wanted && b->data[i] != NULL) {
		p->ahead += p->ram->page_size;
		if (is_rated(p))
			rate_spend(p, p->ram->page_size);
	}
	if (wanted && page == whole.end - 1)
		p->waiting[p->nwaiting++] = b->since;
	if (b->data[i] != NULL) {
		p->stored_sent++;
		status_add(p->st, p->ram->page_size);
	}
	return out_page(&p->out, page, b->data[i]);
}

/* Give b back when the pipe has taken what was sent from it (P5). */
static void
spend(struct server *p, struct lane *l, struct lane_batch *b)
{
	p->spent = b;
	p->spent_lane = l;
}

static int
send_from_lane(struct server *p, struct lane *l)
{
	struct lane_batch *b = l->cur;
	int err = send_record(p, l, b, b->next++, l == &p->urgent);

	p->served->answered += l == &p->urgent && !l->skip;
	if (b->next == b->n) {
		l->cur = NULL;
		spend(p, l, b);
	}
	return err;
}

static int
send_near(struct server *p)
{
	struct lane_batch *b = p->stack[p->nstack - 1];
	int err = send_record(p, &p->near, b, b->next++, 0);

	if (b->next == b->n) {
		p->nstack--;
		spend(p, &p->near, b);
	}
	return err;
}

/* While a page asked for is being read, a pipe-full goes out that nobody asked for: QEMU has
 * work, and a storm of requests does not starve the push. */
static int
is_ahead(const struct server *p)
{
	return p->urgent.busy > 0 && p->ahead >= p->pipe_size;
}

/* Put the next record into p->out: 1, 0: there is none ready, or < 0. */
static int
send_next(struct server *p)
{
	struct lane *l = p->begun;
	int err;

	if ((err = lane_take(&p->urgent)) != 0 || (err = take_near(p)) != 0 ||
	    (err = lane_take(&p->push)) != 0)
		return err;
	if (l != NULL) {
		if (l->cur == NULL)
			return 0;	/* its next piece is still being read */
		err = send_from_lane(p, l);
	} else if (p->urgent.cur != NULL) {
		p->ahead = 0;
		err = send_from_lane(p, &p->urgent);
	} else {
		if ((p->nstack == 0 && p->push.cur == NULL) || is_ahead(p))
			return 0;
		if (push_wait(p) > 0)
			return 0;
		err = p->nstack > 0 ? send_near(p) : send_from_lane(p, &p->push);
	}
	return err != 0 ? err : 1;
}

/* Write what waits; 1: the pipe is full. */
static int
flush(struct server *p)
{
	int r = out_flush(&p->out);

	if (r == 0 && p->nwaiting > 0) {
		int64_t now = now_ns();

		while (p->nwaiting > 0)
			latency_add(&p->served->latency, now - p->waiting[--p->nwaiting]);
	}
	if (r == 0 && p->spent != NULL) {
		p->spent_lane->idle[p->spent_lane->nidle++] = p->spent;
		p->spent = NULL;
	}
	return r;
}

/* Is nothing on its way that nobody asked for? */
static int
push_is_idle(const struct server *p)
{
	return p->push.busy == 0 && p->push.cur == NULL && p->spent == NULL &&
	    p->push.job.next == p->push.job.end;
}

/* Has enough gone out before the switch-over?  See server_run(). */
static int
precopy_done(struct server *p)
{
	if (!is_hot(p) && push_is_idle(p))
		p->hot_gone = 1;
	return p->begun == NULL && (p->nsent + 1 >= p->host.n ||
	    (p->hot_gone && p->stored_sent >= p->goal));
}

/*
 * Put records together and write them: BURST of them (one if the pipe is to be short);
 * before the switch-over, when nobody asks, as many as there are.  1: more may be
 * ready; 0: nothing is, or the pipe is full; or < 0.
 */
static int
send_some(struct server *p)
{
	int n = 0, most = p->pipe_size == NARROW ? 1 : BURST, r = 1, err;

	if (!out_pending(&p->out))
		do
			r = send_next(p);
		while (r == 1 && p->spent == NULL &&
		    (p->phase != PRECOPY ? ++n < most : !precopy_done(p)));
	if (r < 0 || (err = flush(p)) == 0)
		return r;
	return err < 0 ? err : 0;
}

/* ---- the loop ---- */

static int
all_sent(const struct server *p)
{
	return p->qlen == 0 && p->urgent.busy == 0 && p->urgent.cur == NULL &&
	    p->urgent.job.next == p->urgent.job.end &&
	    p->near.busy == 0 && p->nstack == 0 && push_is_idle(p) && !is_hot(p) &&
	    image_walk_ended(p->im, &p->walk);
}

/* The descriptor that tells of l's next batch, if it could be sent; or -1. */
static int
awaited(const struct server *p, const struct lane *l)
{
	return l->busy > 0 && l->cur == NULL && !out_pending(&p->out) ?
	    aio_pollfd(l->ring) : -1;
}

int
server_wait(struct server *p, int at_once)
{
	struct pollfd fd[5];
	int wait = at_once ? 0 : -1;

	memset(fd, 0, sizeof fd);
	fd[0].fd = p->phase != PRECOPY && p->qlen < QUEUE ? p->rp.fd : -1;
	fd[0].events = POLLIN;
	fd[1].fd = p->out.fd;
	fd[1].events = out_pending(&p->out) ? POLLOUT : 0;
	fd[2].fd = awaited(p, &p->urgent);
	fd[2].events = POLLIN;
	fd[3].fd = awaited(p, &p->near);
	fd[3].events = POLLIN;
	fd[4].fd = awaited(p, &p->push);
	fd[4].events = POLLIN;
	if (!at_once && !out_pending(&p->out) && (p->nstack > 0 || p->push.cur != NULL) &&
	    p->begun == NULL && !is_ahead(p))
		wait = push_wait(p);
	else if (!at_once && p->held > 0)
		wait = p->held;
	if (poll(fd, 5, wait) < 0 && errno != EINTR) {
		snap_warn(errno, "poll");
		return SNAP_ESYS;
	}
	if (fd[1].revents & (POLLERR | POLLHUP)) {
		snap_warnx("the destination closed the stream");
		return SNAP_ESYS;
	}
	if (fd[0].revents == 0)
		return 0;
	if (rp_read(&p->rp) != 0)
		return SNAP_ESYS;
	if (p->rp.eof) {
		snap_warnx("the destination closed the return path");
		return SNAP_ESYS;
	}
	return 0;
}

int
server_run(struct server *p)
{
	int r, near, pushed, err;

	for (;;) {
		status_answer(p->st);
		if (p->phase == PRECOPY && precopy_done(p))
			return 0;
		p->held = hold_ms(p);
		if ((err = server_take_messages(p)) != 0 || (err = fill_urgent(p)) != 0 ||
		    (err = r = send_some(p)) < 0 ||
		    (err = near = fill_near(p)) < 0 || (err = pushed = fill_push(p)) < 0)
			return err;
		if (all_sent(p) && !out_pending(&p->out) && p->phase != LOADING)
			return 0;
		if (p->phase == PRECOPY && precopy_done(p))
			return 0;	/* what is not on its way wakes nobody */
		/* What aio_submit() did itself wakes nobody. */
		if ((err = server_wait(p, r == 1 || near || pushed || can_push(p))) != 0)
			return err;
	}
}

/* ---- beginning and end ---- */

struct early_page {
	uint64_t page, entry;
	int state;
};

/* File after file, each in its order. */
static int
by_place(const void *a, const void *b)
{
	const struct early_page *x = a, *y = b;

	if (x->state != y->state)
		return x->state < y->state ? -1 : 1;
	return x->entry < y->entry ? -1 : x->entry > y->entry;
}

/* The order of the pages that go before the guest runs is the disk's, not the guest's. */
static int
sort_early(struct server *p)
{
	struct early_page *e;
	uint64_t i;
	int err = 0;

	p->early = EARLY_SIZE / p->ram->page_size;
	if (p->early > p->hot.n)
		p->early = p->hot.n;
	if ((e = calloc((size_t)p->early + 1, sizeof *e)) == NULL)
		return 0;
	for (i = 0; i < p->early; i++) {
		e[i].page = hot_page(&p->hot, i);
		if ((e[i].state = image_lookup(p->im, e[i].page, &e[i].entry)) < 0) {
			err = e[i].state;
			break;
		}
		if (e[i].state != PAGE_STORED)	/* an ancestor is best read in the guest's order */
			e[i].entry = e[i].page;
	}
	if (err == 0) {
		qsort(e, (size_t)p->early, sizeof *e, by_place);
		for (i = 0; i < p->early; i++)
			hot_set(&p->hot, i, e[i].page);
	}
	free(e);
	return err;
}

int
server_init(struct server *p)
{
	unsigned i, n = p->threads;
	int quick, err;

	out_init(&p->out, STDOUT_FILENO, p->ram);
	rp_init(&p->rp, STDIN_FILENO, p->ram);
	p->passed = LOOK;
	io_pipe_size(STDOUT_FILENO, p->pipe_size = WIDE);	/* or as it is */
	for (i = 0; i < ROWS; i++)
		p->row[i] = UINT64_MAX - ROW_STEP;
	if ((err = host_init(&p->host, p->im, p->opt)) != 0)
		return err;
	if (marks_init(&p->sent, p->host.n) != 0 || marks_init(&p->asked, p->host.n) != 0 ||
	    marks_init(&p->pushed, p->host.n) != 0 || marks_init(&p->had, p->host.n) != 0)
		return SNAP_ESYS;
	/* Direct reads wait for the disk, and the owner must not. */
	quick = !(p->opt->io_flags & IO_DIRECT);
	p->urgent.decodes = 1;
	if ((err = lane_init(&p->urgent, p->im, n > 0 ? ASKED_THREADS : 0, ASKED_DEPTH,
	    quick)) != 0 ||
	    (err = lane_init(&p->near, p->im, n, NEAR_MAX, quick)) != 0)
		return err;
	if (n > 0 && n < HOT_THREADS && p->hot.n > 0)
		n = HOT_THREADS;
	if ((err = lane_init(&p->push, p->im, n, PUSH_DEPTH, quick)) != 0)
		return err;
	return sort_early(p);
}

void
server_free(struct server *p)
{
	hot_free(&p->hot);
	hot_free(&p->asked_first);
	lane_free(&p->urgent);
	lane_free(&p->near);
	lane_free(&p->push);
	marks_free(&p->sent);
	marks_free(&p->asked);
	marks_free(&p->pushed);
	marks_free(&p->had);
	host_free(&p->host);
}
