/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * postcopy.c -- the switch-over, and the page server behind it.
 *
 * The destination is told everything first: RAM blocks, which of their pages
 * it has not got (DISCARD), and in one PACKAGED piece LISTEN, the state of the
 * devices, and RUN.  From LISTEN on it asks for pages over the return path;
 * meanwhile all stored pages are pushed to it.  Pages that are zero or were
 * never saved are sent only when they, or neighbours of zero ones, are asked
 * for: what QEMU never got reads as zero.
 *
 *	PRECOPY --switch_over--> LOADING --PONG--> RUNNING --finish--> ENDING
 *
 *	PRECOPY	 the first pages go out; skipped with --postcopy=0
 *	LOADING	 the destination loads its devices; that alone may need pages.
 *		 The stream must not end here: QEMU would wait for the devices,
 *		 and these for pages that nobody brings any more.  A PING behind
 *		 the devices tells when they are through
 *	RUNNING	 the guest runs
 *	ENDING	 the stream has ended, the destination has the last word: SHUT
 *
 * When the server dies while RUNNING, the destination pauses, and another one can
 * take it up (--resume): it asks for the bitmap of the pages that are there,
 * block by block, says RESUME, and is RUNNING at once.
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
 * P6  Tables are read by the owner, who serves nobody meanwhile: at most one leaf of an
 *     image (with what leads to it) at a time for pages that nobody asked for, and of
 *     slots whose pages are on their way at most LOOK.
 */
#include "postcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "hot.h"
#include "marks.h"
#include "pipe.h"
#include "prologue.h"
#include "returnpath.h"
#include "table.h"

enum {
	ASKED_DEPTH = 16,
	ASKED_THREADS = 4,	/* they only wait for the disk */
	FETCH_SIZE = 64 << 10,	/* the owner may copy so much without anybody noticing */
	PUSH_DEPTH = 16,
	LOOK = 4096,		/* slots that the push passes by at a time */
	NEAR_MAX = 8,		/* batches of neighbours */
	ROWS = 8,		/* places where a guest may be going through its memory */
	ROW_STEP = 64,		/* pages from one of a row to the next, at most */
	QUEUE = 1024,		/* requests that wait; then stdin does */
	BURST = 8,		/* records a write, between two looks at stdin */
	RANGES = 512,		/* of a DISCARD command */
	WIDE = 64 << 10,	/* bytes that the pipe holds, see pipe_fits() */
	NARROW = 16 << 10,
	SCATTERED = 16,		/* requests that make it narrow, or wide again */
	HOT_THREADS = 8,	/* pages of a hot list lie here and there in the file */
	EARLY_SIZE = 64 << 20,	/* bytes of pages in a hot list that the guest waits for */
	QUIET_MS = 1000,	/* so long it must have asked for nothing while it is recorded, */
	RECORD_MS = 10000,	/* or run at most, until it is pushed to */
	RATE_SLACK_MS = 10,	/* what --rate may make up for */
	LOADED = 0x51534e50	/* value of the PING behind the devices */
};

/* Behind a bitmap on the return path: RAMBLOCK_RECV_BITMAP_ENDING in migration/ram.c. */
#define BITMAP_END	UINT64_C(0x0123456789abcdef)

/* Records to be sent, in this order. */
struct batch {
	struct image_fetch f;
	unsigned n, next;
	uint64_t *page;		/* target pages */
	uint8_t **data;		/* NULL: zero */
	int64_t since;		/* ns: when they were asked for */
};

/* A host page, and how far it is queued. */
struct job {
	uint64_t next, end;	/* target pages; next == end: no job */
	int64_t since;		/* ns: when it was asked for; 0: nobody did */
};

/* A ring of batches, and what of it goes out now. */
struct lane {
	struct aio *ring;
	unsigned depth, busy;	/* batches in all; in the ring */
	struct batch *batch, **idle, *cur;
	unsigned nidle;
	int quick;		/* what the page cache has is read by the owner */
	int decodes;		/* and decoded */
	struct job job;
	int skip;		/* the host page under way went out already */
};

struct server {
	struct image *im;
	const struct options *opt;
	struct status *st;
	const struct ram_map *ram;
	unsigned threads;	/* of the push */
	struct stream_out out;
	struct rp_in rp;
	int serving;		/* LOADING or later: requests may come */
	int running;		/* RUNNING or later */

	uint32_t small;		/* bytes of a host page where --host-page-size tells no other */
	uint32_t *host;		/* target pages a host page, by block */
	uint64_t *host_first;	/* number of its first host page, by block */
	uint64_t nhost;		/* host pages in all */
	struct marks sent;	/* gone out, or going */
	struct marks asked;	/* in the queue of requests, or further */
	struct marks pushed;	/* queued for the push, or further */
	struct marks had;	/* there before a resume */
	uint64_t nsent;		/* host pages */
	uint64_t goal;		/* stored pages to go before the switch-over */

	struct lane urgent, near, push;
	struct batch *stack[NEAR_MAX];	/* of the near lane: what has been read */
	unsigned nstack;
	struct { uint64_t page, entry; int state; } lately[NEAR_MAX];	/* pages asked for whose
				 * neighbours are to be read */
	unsigned nlately;
	struct lane *begun;	/* whose host page is under way */
	struct batch *spent;	/* to be given back after the flush */
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

int
send_bytes(struct image *im, struct stream_out *out, uint32_t type, uint64_t len)
{
	const struct section *s = footer_section(image_footer(im), type);
	uint8_t buf[16384];
	uint64_t done;
	size_t n;
	int err;

	if (s == NULL)
		return 0;
	if (len > s->len)
		len = s->len;
	for (done = 0; done < len; done += n) {
		n = len - done < sizeof buf ? (size_t)(len - done) : sizeof buf;
		if ((err = image_read(im, s, done, buf, n)) != 0 ||
		    (err = out_copy(out, buf, n)) != 0)
			return err;
	}
	return 0;
}

int
send_preamble(struct image *im, struct stream_out *out)
{
	int err = send_bytes(im, out, SEC_PREAMBLE, UINT64_MAX);

	if (err != 0) {
		pipe_reject(out->fd, 0);
		return err;
	}
	err = out_flush(out);
	/* In a stream that has begun, the end is word enough. */
	on_signals_to_end(SIG_DFL);
	return err;
}

/* ---- host pages ---- */

static size_t
block_index(const struct server *p, const struct ram_block *b)
{
	return (size_t)(b - p->ram->blk);
}

static uint64_t
host_of(const struct server *p, uint64_t page)
{
	const struct ram_block *b = ram_map_find(p->ram, page);
	size_t k = block_index(p, b);

	return p->host_first[k] + (page - b->first) / p->host[k];
}

/* The block of a host page. */
static size_t
block_of_host(const struct server *p, uint64_t host)
{
	size_t lo = 0, hi = p->ram->nblk, mid;

	while (hi - lo > 1) {
		mid = lo + (hi - lo) / 2;
		if (p->host_first[mid] <= host)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static uint64_t
host_bytes(const struct server *p, uint64_t host)
{
	return (uint64_t)p->host[block_of_host(p, host)] * p->ram->page_size;
}

static struct job
job_of_host(const struct server *p, uint64_t host)
{
	size_t k = block_of_host(p, host);
	struct job j;

	j.next = p->ram->blk[k].first + (host - p->host_first[k]) * p->host[k];
	j.end = j.next + p->host[k];
	j.since = 0;
	return j;
}

static int
is_named(const struct host_page *h, const struct ram_block *b)
{
	return h->block != NULL && strlen(b->id) == h->len &&
	    memcmp(b->id, h->block, h->len) == 0;
}

/* Does the guest have the blocks that --host-page-size names? */
static int
check_host_pages(const struct server *p)
{
	const struct host_page *h;
	unsigned i;
	size_t k;

	for (i = 0; i < p->opt->nhost_page; i++) {
		h = &p->opt->host_page[i];
		for (k = 0; k < p->ram->nblk && !is_named(h, &p->ram->blk[k]); k++)
			;
		if (h->block != NULL && k == p->ram->nblk) {
			snap_warnx("%s: has no block %.*s; info tells those it has",
			    image_path(p->im), (int)h->len, h->block);
			return SNAP_ESYS;
		}
		if (h->size < p->small) {
			snap_warnx("--host-page-size: %u is less than this system's %u",
			    (unsigned)h->size, (unsigned)p->small);
			return SNAP_ESYS;
		}
	}
	return 0;
}

/* The page size of a block at the destination, which runs on this machine. */
static uint32_t
host_page_size(const struct server *p, const struct ram_block *b)
{
	const struct host_page *named = NULL, *large = NULL, *h;
	uint64_t most = 0;
	unsigned i;
	size_t k;

	for (k = 0; k < p->ram->nblk; k++)
		if (p->ram->blk[k].len > most)
			most = p->ram->blk[k].len;
	for (i = 0; i < p->opt->nhost_page; i++) {
		h = &p->opt->host_page[i];
		if (is_named(h, b))
			named = h;
		else if (h->block == NULL && b->len == most)
			large = h;
	}
	return named != NULL ? named->size : large != NULL ? large->size : p->small;
}

static int
find_host_pages(struct server *p)
{
	const struct ram_block *b;
	uint32_t size;
	size_t k;
	int err;

	p->small = (uint32_t)sysconf(_SC_PAGESIZE);
	if (p->small < p->ram->page_size) {
		snap_warnx("%s: pages of %u bytes on a host with pages of %u: "
		    "QEMU loads this in precopy only", image_path(p->im),
		    (unsigned)p->ram->page_size, (unsigned)p->small);
		return SNAP_ESYS;
	}
	if ((err = check_host_pages(p)) != 0)
		return err;
	p->host = calloc(p->ram->nblk + 1, sizeof *p->host);
	p->host_first = calloc(p->ram->nblk + 1, sizeof *p->host_first);
	if (p->host == NULL || p->host_first == NULL) {
		snap_warn(ENOMEM, "postcopy");
		return SNAP_ESYS;
	}
	for (k = 0; k < p->ram->nblk; k++) {
		b = &p->ram->blk[k];
		size = host_page_size(p, b);
		if (b->len % size != 0) {
			snap_warnx("%s: block %s is not whole pages of %u bytes: "
			    "QEMU loads this in precopy only", image_path(p->im), b->id,
			    (unsigned)size);
			return SNAP_ESYS;
		}
		p->host[k] = size / p->ram->page_size;
		p->host_first[k] = p->nhost;
		p->nhost += b->len / size;
	}
	return 0;
}

/* ---- batches ---- */

static void
batch_reset(struct batch *b)
{
	fetch_reset(&b->f);
	b->n = b->next = 0;
}

static int
batch_is_full(const struct batch *b)
{
	return b->n == b->f.max || fetch_is_full(&b->f);
}

/* Add a target page, with what image_lookup() told of it. */
static int
batch_add(struct batch *b, uint64_t page, int state, uint64_t entry)
{
	int err;

	b->data[b->n] = NULL;
	if (state >= PAGE_STORED) {
		b->data[b->n] = fetch_data(&b->f, b->f.n);
		if ((err = fetch_add(&b->f, page, state, entry)) != 0)
			return err;
	}
	b->page[b->n++] = page;
	return 0;
}

/* Add pages of the job until it or the room ends. */
static int
batch_add_job(struct server *p, struct batch *b, struct job *j)
{
	uint64_t entry = 0;
	int st, err;

	for (; j->next < j->end && !batch_is_full(b); j->next++)
		if ((st = image_lookup(p->im, j->next, &entry)) < 0 ||
		    (err = st, st = batch_add(b, j->next, err, entry)) != 0)
			return st;
	return 0;
}

static int
lane_init(struct lane *l, struct image *im, unsigned threads, unsigned depth, int quick)
{
	uint32_t page_size = image_header(im)->page_size;
	unsigned max = FETCH_SIZE > page_size ? FETCH_SIZE / page_size : 1;
	struct batch *b;

	l->ring = aio_new(threads, depth);
	l->batch = calloc(depth, sizeof *l->batch);
	l->idle = calloc(depth, sizeof *l->idle);
	if (l->ring == NULL || l->batch == NULL || l->idle == NULL)
		goto bad;
	if (threads > 0 && aio_pollfd(l->ring) < 0)
		goto bad;
	for (; l->depth < depth; l->depth++) {
		b = &l->batch[l->depth];
		b->page = calloc(max, sizeof *b->page);
		b->data = calloc(max, sizeof *b->data);
		l->idle[l->nidle++] = b;
		if (fetch_init(&b->f, im, max) != 0)
			return SNAP_ESYS;
		if (b->page == NULL || b->data == NULL)
			goto bad;
		b->f.arg = b;
	}
	l->quick = quick;
	return 0;
bad:
	snap_warnx("postcopy: no memory, threads or descriptors left");
	return SNAP_ESYS;
}

static void
lane_free(struct lane *l, unsigned depth)
{
	unsigned i;

	aio_free(l->ring);
	for (i = 0; l->batch != NULL && i < depth; i++) {
		fetch_free(&l->batch[i].f);
		free(l->batch[i].page);
		free(l->batch[i].data);
	}
	free(l->batch);
	free(l->idle);
}

static void
lane_submit(struct lane *l, struct batch *b)
{
	l->busy++;
	/* To decode is work; the owner does it only where somebody waits. */
	b->f.req.quick = l->quick && (b->f.nunit == 0 || l->decodes);
	aio_submit(l->ring, &b->f.req);
}

/* Have the lane's next batch in l->cur, if it is read. */
static int
lane_take(struct lane *l)
{
	struct aio_req *r;
	struct image_fetch *f;

	if (l->cur != NULL || (r = aio_try(l->ring)) == NULL)
		return 0;
	l->busy--;
	f = r->arg;
	l->cur = f->arg;
	return fetch_check(f);
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
	size_t k = block_index(p, m->blk);
	uint64_t size = (uint64_t)p->host[k] * p->ram->page_size;
	uint64_t h = p->host_first[k] + m->start / size;
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
	if (p->opt->record)
		for (j = job_of_host(p, h); j.next < j.end; j.next++)
			hot_add(&p->asked_first, j.next);
	p->asked_last = now_ns();
	at = (p->qhead + p->qlen++) % QUEUE;
	p->queue[at].host = h;
	p->queue[at].since = p->asked_last;
	return mark(&p->asked, h);
}

/* Take all messages that are here, as long as there is room for requests. */
static int
take_messages(struct server *p)
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
			if (m.value == LOADED && !p->running) {
				p->running = 1;
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
			*j = job_of_host(p, h);
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
	    !is_coming(p, host_of(p, *page));
}

/* Those of the n pages from first on that lie in a row with slot `at` in the file, behind
 * it and before it: the read stays one of few pieces. */
static int
add_stored(struct server *p, struct batch *b, uint64_t at, uint64_t first, uint64_t n)
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
add_others(struct server *p, struct batch *b, uint64_t asked, int state, uint64_t first,
    uint64_t n)
{
	uint64_t page, entry, i;
	int st, err;

	for (i = 1; i < n && !batch_is_full(b); i++) {
		page = first + (asked - first + i) % n;
		if (!image_at_hand(p->im, page) || is_coming(p, host_of(p, page)))
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
add_neighbours(struct server *p, struct batch *b, uint64_t asked, int st, uint64_t at)
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
	struct batch *b;
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
	struct batch *b;
	uint64_t page;
	int err, whole;

	while (l->nidle > 0 && (l->job.next < l->job.end || next_asked(p, &l->job))) {
		b = l->idle[--l->nidle];
		batch_reset(b);
		page = l->job.next;
		whole = l->job.end - page == 1;
		if ((err = batch_add_job(p, b, &l->job)) != 0)
			return err;
		b->since = l->job.since;
		lane_submit(l, b);
		if (whole && !p->opt->record && (err = learn(p, page)) != 0)
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

	if (!p->opt->record || !p->serving)
		return 0;
	if (!p->running)
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
	if (!p->serving && (p->goal == 0 || !p->hot_gone))
		return NULL;
	if (p->passed < LOOK && !image_walk_ended(p->im, &p->behind))
		return &p->behind;
	return image_walk_ended(p->im, &p->walk) ? NULL : &p->walk;
}

/* Queue page, which has not been yet, with its host page h. */
static int
push_page(struct server *p, struct batch *b, uint64_t page, uint64_t h, int st, uint64_t entry)
{
	struct lane *l = &p->push;
	int err;

	if ((err = mark(&p->pushed, h)) != 0)
		return err;
	l->job = job_of_host(p, h);
	if (l->job.end - l->job.next > 1)
		return 0;
	l->job.next = l->job.end;
	return batch_add(b, page, st, entry);
}

/* Has a part of the hot list still to go: before the switch-over, or at all? */
static int
is_hot(const struct server *p)
{
	return p->hot_at < (p->serving ? p->hot.n : p->early);
}

/* Queue the next page of the hot list: 1, or 0: that is all for now. */
static int
push_hot(struct server *p, struct batch *b, unsigned *looked)
{
	uint64_t page, h, entry = 0;
	int st, err;

	while (is_hot(p) && (*looked)++ < LOOK) {
		page = hot_page(&p->hot, p->hot_at);
		if (b->n > 0 && p->serving && !image_at_hand(p->im, page))
			return 0;	/* P6 */
		p->hot_at++;
		h = host_of(p, page);
		if (is_coming(p, h) || marked(&p->pushed, h))
			continue;
		if ((st = image_lookup(p->im, page, &entry)) < 0)
			return st;
		if (st == PAGE_ABSENT)
			continue;
		if (!p->serving && (p->early_bytes += host_bytes(p, h)) >= EARLY_SIZE)
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
push_next(struct server *p, struct batch *b, unsigned *looked)
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
		h = host_of(p, page);
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

/* One batch a call, and none while requests wait (P6), unless for the rest of a
 * host page: behind its beginning all others wait (P1).  1: it is being read, or has
 * been; 0: nothing was to do. */
static int
fill_push(struct server *p)
{
	struct lane *l = &p->push;
	struct batch *b;
	unsigned looked = 0;
	int r;

	if (!has_room(p) || (p->qlen > 0 && l->job.next == l->job.end) || p->held > 0)
		return 0;
	b = l->idle[--l->nidle];
	batch_reset(b);
	do {
		r = batch_add_job(p, b, &l->job);
		if (r == 0 && !batch_is_full(b))
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
	return p->opt->rate != 0 && (p->serving || p->goal > 0);
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
send_record(struct server *p, struct lane *l, struct batch *b, unsigned i, int wanted)
{
	uint64_t page = b->page[i], h = host_of(p, page);
	struct job whole = job_of_host(p, h);
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
spend(struct server *p, struct lane *l, struct batch *b)
{
	p->spent = b;
	p->spent_lane = l;
}

static int
send_from_lane(struct server *p, struct lane *l)
{
	struct batch *b = l->cur;
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
	struct batch *b = p->stack[p->nstack - 1];
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

/* Has enough gone out before the switch-over?  See pump(). */
static int
precopy_done(struct server *p)
{
	if (!is_hot(p) && push_is_idle(p))
		p->hot_gone = 1;
	return p->begun == NULL && (p->nsent + 1 >= p->nhost ||
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
		    (p->serving ? ++n < most : !precopy_done(p)));
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

/* See what has come, and unless there is work at once, wait until there is. */
static int
look_around(struct server *p, int at_once)
{
	struct pollfd fd[5];
	int wait = at_once ? 0 : -1;

	memset(fd, 0, sizeof fd);
	fd[0].fd = p->serving && p->qlen < QUEUE ? p->rp.fd : -1;
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

/*
 * Serve until everything has gone out or, before the switch-over, enough has.  The last host
 * page never goes before the switch-over: without a page to discard, QEMU does not let its
 * guest run.
 */
static int
pump(struct server *p)
{
	int r, near, pushed, err;

	for (;;) {
		status_answer(p->st);
		if (!p->serving && precopy_done(p))
			return 0;
		p->held = hold_ms(p);
		if ((err = take_messages(p)) != 0 || (err = fill_urgent(p)) != 0 ||
		    (err = r = send_some(p)) < 0 ||
		    (err = near = fill_near(p)) < 0 || (err = pushed = fill_push(p)) < 0)
			return err;
		if (all_sent(p) && !out_pending(&p->out) && (!p->serving || p->running))
			return 0;
		if (!p->serving && precopy_done(p))
			return 0;	/* what is not on its way wakes nobody */
		/* What aio_submit() did itself wakes nobody. */
		if ((err = look_around(p, r == 1 || near || pushed || can_push(p))) != 0)
			return err;
	}
}

/* ---- the way there and the end ---- */

/* Tell what was not sent.  p->out.fd blocks. */
static int
discard_block(struct server *p, size_t k)
{
	const struct ram_block *b = &p->ram->blk[k];
	uint64_t size = (uint64_t)p->host[k] * p->ram->page_size;
	uint64_t h = p->host_first[k], end = h + b->len / size, from;
	uint8_t cmd[3 + 255 + 16 * RANGES];
	size_t n = strlen(b->id), head = n + 3, len = head;
	int err;

	cmd[0] = 0;
	cmd[1] = (uint8_t)n;
	memcpy(cmd + 2, b->id, n);
	cmd[2 + n] = 0;
	while (h < end) {
		while (h < end && marked(&p->sent, h))
			h++;
		from = h;
		h = next_marked(&p->sent, h, end);
		if (h > from) {
			put_be64(cmd + len, (from - p->host_first[k]) * size);
			put_be64(cmd + len + 8, (h - from) * size);
			len += 16;
		}
		if (len > head && (h == end || len + 16 > sizeof cmd)) {
			err = out_command(&p->out, CMD_POSTCOPY_RAM_DISCARD, cmd, len);
			if (err != 0)
				return err;
			len = head;
		}
	}
	return 0;
}

/* What was not sent, and the package that ends in RUN. */
static int
switch_over(struct server *p)
{
	uint64_t state = footer_section(image_footer(p->im), SEC_TAIL)->extra;
	uint64_t size = state + 2 * COMMAND_SIZE + COMMAND_SIZE + 4;
	uint8_t word[4];
	size_t k;
	int err;

	for (k = 0; k < p->ram->nblk; k++)
		if ((err = discard_block(p, k)) != 0)
			return err;
	if (size > UINT32_MAX) {
		snap_warnx("%s: more device state than QEMU takes in postcopy",
		    image_path(p->im));
		return SNAP_EDATA;
	}
	put_be32(word, (uint32_t)size);
	if ((err = out_command(&p->out, CMD_PACKAGED, word, sizeof word)) != 0 ||
	    (err = out_command(&p->out, CMD_POSTCOPY_LISTEN, NULL, 0)) != 0 ||
	    (err = send_bytes(p->im, &p->out, SEC_TAIL, state)) != 0)
		return err;
	put_be32(word, LOADED);
	if ((err = out_command(&p->out, CMD_PING, word, sizeof word)) != 0 ||
	    (err = out_command(&p->out, CMD_POSTCOPY_RUN, NULL, 0)) != 0)
		return err;
	return out_flush(&p->out);
}

/* The sections START.  QEMU wants to read of the page size where it is not what other memory of
 * the host has (ram_load_setup_postcopy in migration/ram.c). */
static int
send_prologue(struct server *p)
{
	uint8_t *buf, *at, size[8];
	size_t len, start = 0, ram_len, n, k;
	uint64_t bytes;
	int err;

	if ((err = image_section(p->im, SEC_PROLOGUE, &buf, &len)) != 0)
		return err;
	err = prologue_find_ram(p->im, buf, len, &start, &ram_len);
	at = buf;
	n = start + RAM_START_HEAD;
	for (k = 0; k < p->ram->nblk && err == 0; k++) {
		n += prologue_entry(p->ram, &p->ram->blk[k]);
		bytes = (uint64_t)p->host[k] * p->ram->page_size;
		if (bytes == p->small)
			continue;
		put_be64(size, bytes);
		if ((err = out_copy(&p->out, at, n)) == 0)
			err = out_copy(&p->out, size, sizeof size);
		at += n;
		n = 0;
	}
	if (err == 0)
		err = out_copy(&p->out, at, len - (size_t)(at - buf));
	free(buf);
	return err;
}

/* Everything up to the first page. */
static int
begin(struct server *p)
{
	uint8_t advise[16];
	uint64_t sizes = 0;
	size_t k;
	int err;

	for (k = 0; k < p->ram->nblk; k++)
		sizes |= (uint64_t)p->host[k] * p->ram->page_size;
	put_be64(advise, sizes);
	put_be64(advise + 8, p->ram->page_size);
	if ((err = send_preamble(p->im, &p->out)) != 0 ||
	    (err = out_command(&p->out, CMD_OPEN_RETURN_PATH, NULL, 0)) != 0 ||
	    (err = out_command(&p->out, CMD_POSTCOPY_ADVISE, advise, sizeof advise)) != 0 ||
	    (err = send_prologue(p)) != 0)
		return err;
	return send_bytes(p->im, &p->out, SEC_ITERABLES, UINT64_MAX);
}

/* Wait for a message of a type; others are of no interest. */
static int
await(struct server *p, enum rp_type type, struct rp_msg *m)
{
	int r;

	for (;;) {
		while ((r = rp_next(&p->rp, m)) == 1) {
			if (m->type == type)
				return 0;
			if (m->type == RP_SHUT) {
				snap_warnx("the destination gave up (%u)",
				    (unsigned)m->value);
				return SNAP_ESYS;
			}
			if (m->type == RP_RECV_BITMAP)
				break;
		}
		if (r == 1) {
			snap_warnx("return path: bitmap that was not asked for");
			return SNAP_EDATA;
		}
		if (r < 0)
			return r;
		if (p->rp.eof) {
			snap_warnx("the destination closed the return path");
			return SNAP_ESYS;
		}
		if ((r = rp_read(&p->rp)) != 0)
			return r;
	}
}

/* n bytes of the bitmap of block k, for pages from first on: mark what is there.  A large page is
 * there as a whole or not at all: else --host-page-size is wrong, and what is missing would never
 * be sent. */
static int
take_bits(struct server *p, size_t k, const uint8_t *bits, size_t n, uint64_t first)
{
	const struct ram_block *b = &p->ram->blk[k];
	uint64_t pages = b->len / p->ram->page_size, i, h;
	int err, bit;

	for (i = first; i < first + n * 8 && i < pages; i++) {
		bit = bits[(i - first) / 8] >> i % 8 & 1;
		h = p->host_first[k] + i / p->host[k];
		if (i % p->host[k] != 0 && bit != marked(&p->had, h)) {
			snap_warnx("return path: parts of pages of %lu bytes are there of block "
			    "%s: see --host-page-size",
			    (unsigned long)p->host[k] * p->ram->page_size, b->id);
			return SNAP_EDATA;
		}
		if (i % p->host[k] != 0 || !bit)
			continue;
		if ((err = mark(&p->sent, h)) != 0 || (err = mark(&p->had, h)) != 0)
			return err;
		p->nsent++;
	}
	return 0;
}

/* Ask what there is of block k.  One at a time, lest both sides wait to write. */
static int
ask_bitmap(struct server *p, size_t k)
{
	const struct ram_block *b = &p->ram->blk[k];
	uint64_t pages = b->len / p->ram->page_size, size = (pages + 63) / 64 * 8, done;
	uint8_t buf[4096], name[256];
	struct rp_msg m;
	size_t n = strlen(b->id);
	int err;

	name[0] = (uint8_t)n;
	memcpy(name + 1, b->id, n);
	if ((err = out_command(&p->out, CMD_RECV_BITMAP, name, n + 1)) != 0 ||
	    (err = out_flush(&p->out)) != 0)
		return err;
	on_signals_to_end(SIG_DFL);	/* the stream has begun */
	if ((err = await(p, RP_RECV_BITMAP, &m)) != 0 ||
	    (err = rp_take(&p->rp, buf, 8)) != 0)
		return err;
	if (m.blk != b || get_be64(buf) != size) {
		snap_warnx("return path: block %s is not the one of this image", b->id);
		return SNAP_EDATA;
	}
	for (done = 0; done < size; done += n) {
		n = size - done < sizeof buf ? (size_t)(size - done) : sizeof buf;
		if ((err = rp_take(&p->rp, buf, n)) != 0 ||
		    (err = take_bits(p, k, buf, n, done * 8)) != 0)
			return err;
	}
	if ((err = rp_take(&p->rp, buf, 8)) != 0)
		return err;
	if (get_be64(buf) != BITMAP_END) {
		snap_warnx("return path: bitmap does not end where it should");
		return SNAP_EDATA;
	}
	return 0;
}

/* Take up a paused destination. */
static int
resume(struct server *p)
{
	struct rp_msg m;
	size_t k;
	int err;

	status_phase(p->st, "resuming", 0);
	for (k = 0; k < p->ram->nblk; k++)
		if ((err = ask_bitmap(p, k)) != 0) {
			pipe_reject(STDOUT_FILENO, 1);
			return err;
		}
	if ((err = out_command(&p->out, CMD_POSTCOPY_RESUME, NULL, 0)) != 0 ||
	    (err = out_flush(&p->out)) != 0)
		return err;
	p->running = 1;
	return await(p, RP_RESUME_ACK, &m);
}

/* The end of the section and of the stream, when all has been sent. */
static int
finish(struct server *p)
{
	static const uint8_t end_of_file = 0;
	struct rp_msg m;
	int err;

	/* What was forgotten would be zero in the guest, and nobody would notice. */
	if (p->stored_sent != image_with_bytes(p->im)) {
		snap_warnx("%s: page table and unit table do not agree",
		    image_path(p->im));
		return SNAP_EDATA;
	}
	status_phase(p->st, "ending", 0);
	if ((err = out_end(&p->out)) != 0 ||
	    (err = out_copy(&p->out, &end_of_file, 1)) != 0)
		return err;
	while ((err = out_flush(&p->out)) == 1)
		if ((err = look_around(p, 0)) != 0 || (err = take_messages(p)) != 0)
			return err;
	if (err != 0 || (err = await(p, RP_SHUT, &m)) != 0)
		return err;
	/* The stream has ended; only the destination knows whether all is well. */
	if (m.value != 0) {
		snap_warnx("the destination reports a failure (%u)", (unsigned)m.value);
		return SNAP_ESYS;
	}
	return 0;
}

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

/* Up to RUN, with the first pages if --postcopy=PERCENT or a hot list wants them. */
static int
start(struct server *p)
{
	uint64_t stored = image_with_bytes(p->im);
	int err;

	p->goal = stored / 100 * (unsigned)p->opt->percent +
	    stored % 100 * (unsigned)p->opt->percent / 100;
	if ((err = sort_early(p)) != 0) {
		pipe_reject(STDOUT_FILENO, 0);
		return err;
	}
	if ((err = begin(p)) != 0)
		return err;
	if (p->goal > 0 || p->early > 0)
		status_pages(p->st, "memory", p->goal > p->early ? p->goal : p->early,
		    p->ram->page_size);
	if ((p->goal > 0 || p->early > 0) && ((err = out_begin(&p->out, VM_SECTION_PART)) != 0 ||
	    (err = pump(p)) != 0 || (err = out_end(&p->out)) != 0))
		return err;
	status_phase(p->st, "starting", 0);
	return switch_over(p);
}

static int
serve(struct server *p)
{
	int flags = fcntl(STDOUT_FILENO, F_GETFL), err;

	if ((err = p->opt->resume ? resume(p) : start(p)) != 0)
		return err;
	p->serving = 1;
	status_pages(p->st, "serving", image_with_bytes(p->im) - p->stored_sent, p->ram->page_size);
	if ((err = out_begin(&p->out, VM_SECTION_PART)) != 0)
		return err;
	if (flags < 0 || fcntl(STDOUT_FILENO, F_SETFL, flags | O_NONBLOCK) < 0) {
		snap_warn(errno, "stdout");
		return SNAP_ESYS;
	}
	p->out.returns = 1;
	if ((err = pump(p)) == 0)
		err = finish(p);
	/* The description may be shared with others, who do not expect this. */
	fcntl(STDOUT_FILENO, F_SETFL, flags);
	return err;
}

static int
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
	if ((err = find_host_pages(p)) != 0)
		return err;
	if (marks_init(&p->sent, p->nhost) != 0 || marks_init(&p->asked, p->nhost) != 0 ||
	    marks_init(&p->pushed, p->nhost) != 0 || marks_init(&p->had, p->nhost) != 0)
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
	return lane_init(&p->push, p->im, n, PUSH_DEPTH, quick);
}

static void
trace(const struct server *p)
{
	const char *path = image_path(p->im);
	char histogram[512];

	if (p->hot.n > 0)
		snap_warnx("%s: a hot list of %llu pages, %llu of them before the guest ran", path,
		    (unsigned long long)p->hot.n, (unsigned long long)p->early);
	snap_warnx("%s: %llu stored pages sent; %llu requests, %llu of them repeated; %llu "
	    "answered first", path, (unsigned long long)p->stored_sent,
	    (unsigned long long)p->served->requests, (unsigned long long)p->served->repeats,
	    (unsigned long long)p->served->answered);
	if (p->served->latency.n == 0)
		return;
	latency_print(&p->served->latency, histogram, sizeof histogram);
	snap_warnx("%s: from a request to its page in the pipe: p50 %llu us, p99 %llu us, most "
	    "%llu us: %s", path, (unsigned long long)latency_quantile(&p->served->latency, 500),
	    (unsigned long long)latency_quantile(&p->served->latency, 990),
	    (unsigned long long)p->served->latency.most_us, histogram);
}

int
load_postcopy(struct image *im, const struct options *o, struct status *st)
{
	struct server *p = calloc(1, sizeof *p);
	char uuid[37], *beside = hot_beside(image_path(im));
	const char *name = o->record_to != NULL ? o->record_to : beside;
	int r, err;

	if (p == NULL || beside == NULL || (o->record && hot_may_write(name) != 0)) {
		if (p == NULL)
			snap_warn(ENOMEM, "postcopy");
		pipe_reject(STDOUT_FILENO, o->resume);
		free(beside);
		free(p);
		return SNAP_ESYS;
	}
	p->im = im;
	p->opt = o;
	p->st = st;
	p->served = &st->served;
	st->serves = 1;
	p->ram = image_ram(im);
	p->threads = options_threads(o, 1);
	/* QEMU cannot tell: who has to resume this will want to know. */
	uuid_format(uuid, image_footer(im)->uuid);
	err = o->no_hot || o->record || o->resume ? 0 : hot_find(&p->hot, im);
	snap_warnx("%s: %s in postcopy, %sUUID %s", image_path(im),
	    o->resume ? "resumed" : "served", p->hot.n > 0 ? "hot pages first, " : "", uuid);
	if (err != 0 || (err = server_init(p)) != 0)
		pipe_reject(STDOUT_FILENO, o->resume);
	else
		err = serve(p);
	if (o->record && err == 0 && p->asked_first.n == 0)
		snap_warnx("%s: not written: the guest asked for nothing", name);
	else if (o->record && err == 0) {
		if ((r = hot_write(&p->asked_first, name, im)) == 0)
			snap_warnx("%s: %llu pages noted", name,
			    (unsigned long long)p->asked_first.n);
		err = r;
	}
	if (o->trace)
		trace(p);
	hot_free(&p->hot);
	hot_free(&p->asked_first);
	free(beside);
	lane_free(&p->urgent, ASKED_DEPTH);
	lane_free(&p->near, NEAR_MAX);
	lane_free(&p->push, PUSH_DEPTH);
	marks_free(&p->sent);
	marks_free(&p->asked);
	marks_free(&p->pushed);
	marks_free(&p->had);
	free(p->host);
	free(p->host_first);
	free(p);
	return err;
}
