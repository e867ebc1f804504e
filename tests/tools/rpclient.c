/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * rpclient.c -- a strict destination for a postcopy page server.
 *
 *	rpclient [options] COMMAND [ARG...]
 *
 * Runs COMMAND as QEMU's exec: does, its output being the stream and its input
 * the return path, and behaves as QEMU does: reads the stream in pieces of 32
 * KiB, asks for pages once LISTEN has come, says SHUT 0 after the end, closes,
 * and waits for the command.  Whatever QEMU would stumble over is an error, and
 * so are things that it lets pass but that a page server has no reason to do.
 *
 * The last line of output is
 *	pages N zero N requests N repeats N discards N linger MS exit N
 * pages that are there at the end, zero ones among them; commands DISCARD;
 * milliseconds from closing to the exit of COMMAND; its exit status, or 128 and
 * the signal.  Exit status: 0 all rules were kept and COMMAND ended as
 * expected, 1 not, 2 usage.
 *
 * The guest
 *	--page-size=N		of the target, where the stream does not tell it
 *	--host-page=[BLOCK=]N	page size of the destination's RAM, of one block or
 *				of all others (default: the system's, but not below
 *				the target's); repeatable.  Blocks with another than
 *				the default need it in the block list
 * Requests
 *	--requests=N		so many in all, each for another page (default 100)
 *	--all			for every page that has not come yet
 *	--pages=random|sequential
 *	--seed=N
 *	--burst=N		so many are open at a time (default 1)
 *	--repeat		also ask again, for pages that have come or will come,
 *				and once after the end of the stream
 *	--before-run[=N]	while the device state is being loaded, ask for N pages
 *				(default 4), and for no other before these have come
 * Behaviour
 *	--read-delay=US		after every 32 KiB
 *	--hangup=PAGES		close both pipes after so many pages
 *	--resume=COMMAND	of the shell; after --hangup, it takes up the guest.  From
 *				there on it is the command that is judged
 *	--stop-reading=PAGES	read no more after so many pages, close a second later
 *	--no-shut		close without SHUT
 *	--shut=N		say SHUT N
 *	--garbage		send a malformed message when LISTEN has come
 *	--pieces		write three bytes of the return path at a time
 *	--switchover		say SWITCHOVER_ACK, as QEMU does where that capability is set
 *	--odd=KIND		or a hostile request: outside, overflow, too-long,
 *				astride, zero-length, unknown-block, no-block, short-id;
 *				another message: long-pong, long-switchover, short-request,
 *				shorter-request, nul, unknown; or to RECV_BITMAP, of
 *				--resume: unasked, nowhere, name, length, cut, end, shut
 *	--timeout=S		then COMMAND is killed, and that is an error (default 20)
 *	--expect-exit=N		what COMMAND should end with (default 0).  If not 0, or
 *				after --garbage or --odd, its output may end early, but
 *				never without a single byte
 *	--max-ahead=BYTES	how much page data that nobody asked for may come between
 *				a request and its page.  What is on its way counts: up to
 *				64 KiB in the pipe, 32 KiB here, and a host page
 * Output
 *	--dump			final pages, as readstream.py prints them
 *	--latency		from requests to their pages, in microseconds, and how many
 *				bytes that nobody asked for came in between
 *	--rest=FILE		bytes that are not commands or RAM sections after START,
 *				as readstream.py --rest (postcopy has no EOF and JSON)
 */
#include <sys/types.h>
#include <sys/wait.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../bytes.h"

enum {
	READ_SIZE = 32 << 10,
	BUF_SIZE = 256 << 10,	/* holds the largest page and what is read on top */
	RP_SIZE = 64 << 10,
	BLOCKS_MAX = 4096,
	HOST_PAGES_MAX = 64,	/* options --host-page=BLOCK=N */
	PAGE_MAX = 65536,
	SLACK = 256 << 10,	/* bytes that may be on their way */
	LOAD_TIME = 50000,	/* of the device state, in microseconds */
	END_TIME = 100		/* from the end of the stream to SHUT, in milliseconds */
};

enum { VM_EOF, START, PART, END, FULL, SUBSECTION, DESCRIPTION, CONFIGURATION, COMMAND,
    FOOTER = 0x7e };

enum { OPEN_RETURN_PATH = 1, PING, ADVISE, LISTEN, RUN, DISCARD, PACKAGED, RESUME = 9,
    RECV_BITMAP };

enum { ZERO = 0x02, MEM_SIZE = 0x04, PAGE = 0x08, EOS = 0x10, CONTINUE = 0x20 };

enum { SHUT = 1, PONG, REQ_PAGES_ID, REQ_PAGES, BITMAP, RESUME_ACK,
    SWITCHOVER_ACK };

/* What the stream has come to. */
enum state { NONE, ADVISED, DISCARDING, RUNNING, PAUSED, ENDED };

/* Of a page of the target. */
enum { ABSENT, IS_ZERO, IS_DATA };

/* Of a page of the host. */
enum { DISCARDED = 1, PLACED = 2 };

struct block {
	char name[256];
	uint64_t len, host;	/* bytes; of a host page */
	uint64_t first, nhost;	/* host pages before it; in it */
	uint8_t *state;		/* of each target page */
	uint32_t *crc;
	uint8_t *hstate;	/* of each host page */
	uint32_t *asked;	/* number of its request, from 1; 0: none */
};

struct request {
	struct block *b;
	uint64_t h;		/* number of the host page in b */
	int64_t sent, took;	/* microseconds; took < 0: no page yet */
	uint64_t offset, pushed;	/* of stream, when it was sent */
	int64_t ahead;		/* bytes nobody asked for that came before the page */
};

static struct {
	uint64_t page_size, host_page, base_page, requests, seed, burst, before_run;
	uint64_t read_delay, hangup, stop_reading, shut, timeout, expect_exit, max_ahead;
	int all, sequential, repeat, no_shut, garbage, pieces, switchover, dump, latency;
	const char *odd, *resume;
	struct { const char *name; size_t len; uint64_t size; } host[HOST_PAGES_MAX];
	size_t nhost;
} opt = {
	.page_size = 4096, .requests = 100, .seed = 1, .burst = 1, .timeout = 20,
	.hangup = UINT64_MAX, .stop_reading = UINT64_MAX, .max_ahead = UINT64_MAX
};

static struct block blocks[BLOCKS_MAX];
static size_t nblocks;
static uint64_t nhost;		/* host pages of all blocks */

static struct request *requests;
static size_t nrequests, requests_cap;
static uint64_t nopen, nrepeats, ndiscards, npages;
static uint64_t pushed;		/* bytes of page data that nobody had asked for */
static size_t held;		/* requests of --before-run without their page */
static uint32_t pongs[8];	/* values of PINGs behind the device state */
static size_t npongs;

static pid_t child;
static int in_fd = -1, rp_fd = -1;
static int64_t deadline;
static FILE *rest;

static void finish(int) __attribute__((noreturn));
static void resume(void) __attribute__((noreturn));
static void take_elements(void) __attribute__((noreturn));
static void fail(const char *, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- time and chance ---- */

static int64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void
pause_for(uint64_t us)
{
	struct timespec t;

	t.tv_sec = (time_t)(us / 1000000);
	t.tv_nsec = (long)(us % 1000000) * 1000;
	while (nanosleep(&t, &t) != 0)
		;
}

static uint64_t
below(uint64_t n)
{
	static uint64_t x;

	if (x == 0)
		x = opt.seed * 2 + 0x9e3779b97f4a7c15;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x % n;
}

static uint32_t
crc32(const uint8_t *p, size_t len)
{
	static uint32_t table[256];
	uint32_t c, i, k;

	if (table[1] == 0)
		for (i = 0; i < 256; i++) {
			for (c = i, k = 0; k < 8; k++)
				c = c & 1 ? c >> 1 ^ 0xedb88320 : c >> 1;
			table[i] = c;
		}
	for (c = 0xffffffff; len > 0; len--)
		c = table[(c ^ *p++) & 0xff] ^ c >> 8;
	return c ^ 0xffffffff;
}

static void *
allocate(size_t n, size_t size)
{
	void *p = calloc(n, size);

	if (p == NULL) {
		perror("rpclient");
		exit(2);
	}
	return p;
}

/* ---- the end ---- */

static int
compare_times(const void *a, const void *b)
{
	const int64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void
print_quantiles(const char *what, int64_t *x, size_t n)
{
	qsort(x, n, sizeof *x, compare_times);
	printf("%s min %" PRId64 " p50 %" PRId64 " p90 %" PRId64 " p99 %" PRId64 " max %" PRId64
	    " of %zu\n", what, x[0], x[n / 2], x[n * 9 / 10], x[n * 99 / 100], x[n - 1], n);
}

static void
print_latency(void)
{
	int64_t *us = allocate(nrequests + 1, sizeof *us);
	int64_t *ahead = allocate(nrequests + 1, sizeof *ahead);
	size_t i, n = 0;

	for (i = 0; i < nrequests; i++)
		if (requests[i].took >= 0) {
			us[n] = requests[i].took;
			ahead[n++] = requests[i].ahead;
		}
	if (n > 0) {
		print_quantiles("latency us", us, n);
		print_quantiles("ahead bytes", ahead, n);
	}
	free(us);
	free(ahead);
}

/* Close the pipes, wait for the command, print the summary, exit. */
static void
finish(int failed)
{
	const int64_t closed = now();
	uint64_t pages = 0, zero = 0, k;
	const struct block *b;
	int status, code;

	if (in_fd >= 0)
		close(in_fd);
	if (rp_fd >= 0)
		close(rp_fd);
	if (failed && deadline > closed + 1000000)
		deadline = closed + 1000000;
	while (waitpid(child, &status, WNOHANG) == 0) {
		if (now() >= deadline) {
			if (!failed)
				fprintf(stderr, "rpclient: the command does not exit\n");
			failed = 1;
			kill(child, SIGKILL);
			waitpid(child, &status, 0);
			break;
		}
		pause_for(500);
	}
	code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (!failed && code != (int)opt.expect_exit) {
		fprintf(stderr, "rpclient: the command's exit status is %d\n", code);
		failed = 1;
	}
	for (b = blocks; b < blocks + nblocks; b++)
		for (k = 0; k < b->len / opt.page_size; k++) {
			pages += b->state[k] != ABSENT;
			zero += b->state[k] == IS_ZERO;
			if (opt.dump && !failed && b->state[k] == IS_ZERO)
				printf("%s %" PRIx64 " zero\n", b->name, k * opt.page_size);
			else if (opt.dump && !failed && b->state[k] == IS_DATA)
				printf("%s %" PRIx64 " %08" PRIx32 "\n", b->name,
				    k * opt.page_size, b->crc[k]);
		}
	if (opt.latency)
		print_latency();
	if (rest != NULL && fclose(rest) != 0) {
		perror("rpclient: --rest");
		failed = 1;
	}
	printf("pages %" PRIu64 " zero %" PRIu64 " requests %zu repeats %" PRIu64
	    " discards %" PRIu64 " linger %" PRId64 " exit %d\n", pages, zero, nrequests,
	    nrepeats, ndiscards, (now() - closed) / 1000, code);
	if (fflush(stdout) != 0)
		failed = 1;
	exit(failed);
}

/* ---- the stream, byte by byte ---- */

static uint8_t buf[BUF_SIZE];
static size_t buf_pos, buf_len;
static uint64_t offset;		/* in the stream, of buf[buf_pos] */
static int keeping;		/* what is taken goes to --rest */

static uint8_t rp_buf[RP_SIZE];
static size_t rp_len;
static int rp_open, rp_broken;

static void pump(void);

static void
fail(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "rpclient: stream offset %" PRIu64 ": ", offset);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	putc('\n', stderr);
	finish(1);
}

/* The output of the command is at its end, but the stream is not. */
static void
ended_early(void)
{
	if (offset + buf_len - buf_pos == 0)
		fail("the command ended without a single byte: QEMU would wait for ever");
	if (opt.expect_exit != 0 || opt.garbage || opt.odd != NULL)
		finish(0);
	fail("the command died or closed its output early");
}

/* Write what waits for the return path, as far as the pipe takes it. */
static void
rp_write(void)
{
	ssize_t n;

	if (rp_len == 0 || rp_broken)
		return;
	n = write(rp_fd, rp_buf, opt.pieces && rp_len > 3 ? 3 : rp_len);
	if (opt.pieces)
		pause_for(100);
	if (n > 0) {
		rp_len -= (size_t)n;
		memmove(rp_buf, rp_buf + n, rp_len);
	} else if (n < 0 && errno == EPIPE)
		rp_broken = 1;
}

/*
 * Wait until there is something to read, or with want_read == 0 until everything is
 * written; 0 after at most ms milliseconds (-1: no limit).
 */
static int
wait_for(int want_read, int ms)
{
	struct pollfd p[2];
	int64_t left;

	for (;;) {
		rp_write();
		if (!want_read && (rp_len == 0 || rp_broken))
			return 1;
		left = (deadline - now()) / 1000;
		if (left <= 0)
			fail("timeout");
		p[0].fd = want_read ? in_fd : -1;
		p[0].events = POLLIN;
		p[1].fd = rp_len > 0 && !rp_broken ? rp_fd : -1;
		p[1].events = POLLOUT;
		p[0].revents = p[1].revents = 0;
		if (poll(p, 2, ms >= 0 && ms < left ? ms : (int)left) == 0 && ms >= 0)
			return 0;
		if (p[0].revents != 0)
			return 1;
	}
}

/* Read once: 0 at the end of the command's output. */
static int
fill(void)
{
	static uint64_t since_delay;
	ssize_t n;

	memmove(buf, buf + buf_pos, buf_len - buf_pos);
	buf_len -= buf_pos;
	buf_pos = 0;
	pump();
	wait_for(1, -1);
	if ((n = read(in_fd, buf + buf_len, READ_SIZE)) < 0) {
		if (errno == EINTR)
			return 1;
		fail("read: %s", strerror(errno));
	}
	buf_len += (size_t)n;
	since_delay += (uint64_t)n;
	if (opt.read_delay > 0 && since_delay >= READ_SIZE) {
		pause_for(opt.read_delay);
		since_delay -= READ_SIZE;
	}
	return n > 0;
}

static unsigned
peek(void)
{
	while (buf_pos == buf_len)
		if (!fill())
			ended_early();
	return buf[buf_pos];
}

/* The next n bytes, at most PAGE_MAX; valid until the next call. */
static const uint8_t *
take(size_t n)
{
	const uint8_t *p;

	while (buf_len - buf_pos < n)
		if (!fill())
			ended_early();
	p = buf + buf_pos;
	buf_pos += n;
	offset += n;
	if (keeping && rest != NULL)
		fwrite(p, 1, n, rest);
	return p;
}

static unsigned
take8(void)
{
	return *take(1);
}

static unsigned
take16(void)
{
	return get_be16(take(2));
}

static uint32_t
take32(void)
{
	return get_be32(take(4));
}

static uint64_t
take64(void)
{
	return get_be64(take(8));
}

static void
skip(uint64_t n)
{
	size_t piece;

	for (; n > 0; n -= piece) {
		piece = n < PAGE_MAX ? (size_t)n : PAGE_MAX;
		take(piece);
	}
}

static void
take_name(char name[256])
{
	const size_t n = take8();

	if (n == 0)
		fail("empty name");
	memcpy(name, take(n), n);
	name[n] = '\0';
	if (strlen(name) != n)
		fail("name with a NUL byte");
}

static void
take_footer(uint32_t sid)
{
	const unsigned type = take8();

	if (type != FOOTER)
		fail("no footer but byte 0x%02x", type);
	if (take32() != sid)
		fail("footer of another section");
}

/* ---- the return path ---- */

static void
rp_raw(const void *p, size_t len)
{
	if (rp_len + len > sizeof rp_buf)
		wait_for(0, -1);
	if (rp_broken)
		return;
	memcpy(rp_buf + rp_len, p, len);
	rp_len += len;
}

static void
rp_raw64(uint64_t v)
{
	uint8_t word[8];

	put_be64(word, v);
	rp_raw(word, sizeof word);
}

static void
rp_put(unsigned type, const void *msg, size_t len)
{
	uint8_t head[4];

	put_be16(head, type);
	put_be16(head + 2, (uint32_t)len);
	rp_raw(head, sizeof head);
	rp_raw(msg, len);
}

static void
rp_put32(unsigned type, uint32_t v)
{
	uint8_t msg[4];

	put_be32(msg, v);
	rp_put(type, msg, sizeof msg);
}

/* Ask for len bytes of a block; last: the one asked for before. */
static void
rp_request(const char *name, const char *last, uint64_t start, uint32_t len)
{
	uint8_t msg[13 + 255];
	const size_t n = strlen(name);

	put_be64(msg, start);
	put_be32(msg + 8, len);
	msg[12] = (uint8_t)n;
	memcpy(msg + 13, name, n);
	if (last != NULL && strcmp(name, last) == 0)
		rp_put(REQ_PAGES, msg, 12);
	else
		rp_put(REQ_PAGES_ID, msg, 13 + n);
}

static struct block *
block_of(uint64_t host_page)
{
	struct block *b = blocks;

	while (host_page - b->first >= b->nhost)
		b++;
	return b;
}

static const struct block *last_asked;	/* on this return path */

static void
ask(struct block *b, uint64_t h)
{
	rp_request(b->name, last_asked != NULL ? last_asked->name : NULL, h * b->host,
	    (uint32_t)b->host);
	last_asked = b;
}

/* Ask for a host page that was not asked for and has not come: 0 none is left. */
static int
ask_next(void)
{
	static uint64_t cursor;
	struct request *r;
	struct block *b;
	uint64_t n, h;

	if (!opt.sequential)
		cursor = below(nhost);
	for (n = 0; n < nhost; n++, cursor++) {
		cursor %= nhost;
		b = block_of(cursor);
		h = cursor - b->first;
		if (b->asked[h] == 0 && !(b->hstate[h] & PLACED))
			break;
	}
	if (n == nhost)
		return 0;
	if (nrequests == requests_cap) {
		requests_cap = 2 * requests_cap + 256;
		requests = realloc(requests, requests_cap * sizeof *requests);
		if (requests == NULL)
			fail("out of memory");
	}
	r = &requests[nrequests++];
	r->b = b;
	r->h = h;
	r->took = -1;
	r->sent = now();
	r->offset = offset;
	r->pushed = pushed;
	b->asked[h] = (uint32_t)nrequests;
	nopen++;
	ask(b, h);
	return 1;
}

/* Ask again, as several processors do that stumble over the same page. */
static void
ask_again(void)
{
	const struct request *r = &requests[below(nrequests)];
	const uint64_t page = below(nhost);
	struct block *b = block_of(page);

	if (below(2) == 0)
		ask(r->b, r->h);
	else if (b->hstate[page - b->first] & PLACED)
		ask(b, page - b->first);
	else
		return;
	nrepeats++;
}

/* ---- pages ---- */

static enum state state;
static uint32_t tps_mask;
static uint32_t ram_sid;
static struct block *current;	/* that CONTINUE refers to */
static struct block *place_block;	/* host page that is not complete */
static uint64_t place_page, place_left;

/* Send requests, if it is time for some. */
static void
pump(void)
{
	static int exhausted;
	size_t i;

	if (state != RUNNING)
		return;
	if (held == 0) {
		for (i = 0; i < npongs; i++)
			rp_put32(PONG, pongs[i]);
		npongs = 0;
	}
	while (held == 0 && !exhausted && nopen < opt.burst &&
	    (opt.all || nrequests < opt.requests) && rp_len < sizeof rp_buf - 1024) {
		if (!ask_next()) {
			exhausted = 1;
			break;
		}
		if (opt.repeat && below(2) == 0)
			ask_again();
	}
	rp_write();
}

/* Host page h of block b is complete. */
static void
page_came(struct block *b, uint64_t h)
{
	struct request *r;

	b->hstate[h] |= PLACED;
	if (b->asked[h] == 0)
		return;
	r = &requests[b->asked[h] - 1];
	r->took = now() - r->sent;
	nopen--;
	if (held > 0)
		held--;
	r->ahead = (int64_t)(pushed - r->pushed);
	if ((uint64_t)r->ahead > opt.max_ahead)
		fail("%" PRId64 " bytes that nobody asked for came before %s %" PRIx64,
		    r->ahead, b->name, h * b->host);
	pump();
}

/* A page in postcopy: each host page comes once, and in one piece. */
static void
check_place(struct block *b, uint64_t off)
{
	const uint64_t h = off / b->host;

	if (place_left == 0) {
		if (b->hstate[h] & PLACED)
			fail("%s %" PRIx64 ": %s", b->name, off, b->hstate[h] & DISCARDED ?
			    "placed twice" : "sent in precopy, not discarded, sent again");
		place_block = b;
		place_page = h;
		place_left = b->host / opt.page_size;
	} else if (b != place_block || h != place_page)
		fail("%s %" PRIx64 ": host page %s %" PRIx64 " is not complete", b->name, off,
		    place_block->name, place_page * place_block->host);
	if (b->state[off / opt.page_size] != ABSENT)
		fail("%s %" PRIx64 ": placed twice", b->name, off);
}

static void
take_page(struct block *b, uint64_t off, unsigned flags)
{
	static const uint8_t zeros[PAGE_MAX];
	const uint64_t k = off / opt.page_size;
	const size_t size = (size_t)opt.page_size;
	const uint8_t *p;

	if (state == RUNNING)
		check_place(b, off);
	if (flags == ZERO) {
		if (take8() != 0)
			fail("%s %" PRIx64 ": filled with something else than zero", b->name, off);
		b->state[k] = IS_ZERO;
	} else {
		p = take(size);
		b->state[k] = memcmp(p, zeros, size) == 0 ? IS_ZERO : IS_DATA;
		if (opt.dump)
			b->crc[k] = crc32(p, size);
		if (state == RUNNING && b->asked[off / b->host] == 0)
			pushed += opt.page_size;
	}
	npages++;
	if (npages == opt.stop_reading)
		pause_for(1000000);
	if (npages == opt.stop_reading || (npages == opt.hangup && opt.resume == NULL))
		finish(0);
	if (state == RUNNING && --place_left == 0)
		page_came(b, off / b->host);
	if (npages == opt.hangup)
		resume();
}

/* The block of a name; what: where it stands, for the message. */
static struct block *
find_block(const char *name, const char *what)
{
	size_t i;

	for (i = 0; i < nblocks && strcmp(blocks[i].name, name) != 0; i++)
		;
	if (i == nblocks)
		fail("%s of unknown block %s", what, name);
	return &blocks[i];
}

/* The records of a RAM section after START. */
static void
take_records(void)
{
	char name[256];
	uint64_t word, off;
	unsigned flags;

	while ((word = take64()) != EOS) {
		flags = (unsigned)word & tps_mask;
		off = word - flags;
		if ((flags & ~(unsigned)CONTINUE) != PAGE && (flags & ~(unsigned)CONTINUE) != ZERO)
			fail("record with flags 0x%x", flags);
		if (!(flags & CONTINUE)) {
			take_name(name);
			current = find_block(name, "page");
		}
		if (current == NULL)
			fail("the first page names no block");
		if (off >= current->len)
			fail("%s %" PRIx64 ": outside of the block", current->name, off);
		take_page(current, off, flags & ~(unsigned)CONTINUE);
	}
	if (place_left != 0)
		fail("section ends inside of host page %s %" PRIx64, place_block->name,
		    place_page * place_block->host);
}

/* ---- before the pages ---- */

/* A command that fails before it has begun says so in its own way. */
static void
take_refusal(void)
{
	do {
		offset += buf_len - buf_pos;
		buf_pos = buf_len;
	} while (fill());
	ended_early();
}

static int has_addr;		/* x-ignore-shared */
static uint64_t summary;	/* page sizes as ADVISE has them */

static void
take_configuration(void)
{
	char name[256];
	uint32_t n;

	keeping = 1;
	/* A failing command should write something, but not a stream. */
	if (peek() != 'Q' && opt.expect_exit != 0)
		take_refusal();
	if (memcmp(take(8), "QEVM\0\0\0\3", 8) != 0)
		fail("not a migration stream");
	if (take8() != CONFIGURATION)
		fail("no configuration section");
	if ((n = take32()) > 255)
		fail("machine name of %u bytes", (unsigned)n);
	skip(n);
	while (peek() == SUBSECTION) {
		take8();
		take_name(name);
		if (take32() != 1)
			fail("%s: unknown version", name);
		if (strcmp(name, "configuration/target-page-bits") == 0)
			opt.page_size = (uint64_t)1 << (take32() & 31);
		else if (strcmp(name, "configuration/capabilities") == 0) {
			for (n = take32(); n > 0; n--) {
				take_name(name);
				if (strcmp(name, "x-ignore-shared") != 0)
					fail("capability %s", name);
				has_addr = 1;
			}
		} else if (strcmp(name, "configuration/uuid") == 0)
			take(16);
		else
			fail("unknown subsection %s", name);
	}
	if (opt.page_size < 1024 || opt.page_size > PAGE_MAX ||
	    (opt.page_size & (opt.page_size - 1)) != 0)
		fail("target pages of %" PRIu64 " bytes", opt.page_size);
	tps_mask = (uint32_t)opt.page_size - 1;
	if (opt.base_page < opt.page_size)
		opt.base_page = opt.page_size;
}

static void
take_block(uint64_t *left)
{
	struct block *b = &blocks[nblocks];
	size_t i;

	if (nblocks == BLOCKS_MAX)
		fail("too many blocks");
	take_name(b->name);
	b->len = take64();
	for (i = 0; i < nblocks; i++)
		if (strcmp(blocks[i].name, b->name) == 0)
			fail("block %s twice", b->name);
	if (b->len == 0 || b->len % opt.page_size != 0 || b->len > *left)
		fail("block %s: bad length %" PRIu64, b->name, b->len);
	*left -= b->len;
	b->host = opt.host_page != 0 ? opt.host_page : opt.base_page;
	for (i = 0; i < opt.nhost; i++)
		if (strlen(b->name) == opt.host[i].len &&
		    memcmp(b->name, opt.host[i].name, opt.host[i].len) == 0)
			b->host = opt.host[i].size;
	if (b->host % opt.page_size != 0 || b->len % b->host != 0)
		fail("block %s: %" PRIu64 " bytes are not whole host pages of %" PRIu64,
		    b->name, b->len, b->host);
	if (state == ADVISED && b->host != opt.base_page && take64() != b->host)
		fail("block %s: wrong or missing page size", b->name);
	if (has_addr)
		take64();
	b->first = nhost;
	b->nhost = b->len / b->host;
	nhost += b->nhost;
	b->state = allocate((size_t)(b->len / opt.page_size), 1);
	b->hstate = allocate((size_t)b->nhost, 1);
	b->asked = allocate((size_t)b->nhost, sizeof *b->asked);
	if (opt.dump)
		b->crc = allocate((size_t)(b->len / opt.page_size), sizeof *b->crc);
	nblocks++;
}

static void
take_blocks(void)
{
	uint64_t word = take64(), left = word & ~(uint64_t)tps_mask, sizes = 0;
	size_t i;

	if ((word & tps_mask) != MEM_SIZE)
		fail("ram: no list of blocks");
	while (left > 0)
		take_block(&left);
	if (take64() != EOS)
		fail("ram: the list of blocks does not end");
	for (i = 0; i < nblocks; i++)
		sizes |= blocks[i].host;
	if (state == ADVISED && sizes != summary)
		fail("ADVISE says page sizes 0x%" PRIx64 ", they are 0x%" PRIx64, summary, sizes);
}

/* ---- other sections ---- */

static struct { char name[256]; uint32_t sid; } handlers[8];
static size_t nhandlers;

/* The state of an iterable handler other than RAM. */
static void
take_iterable(const char *name)
{
	const uint8_t *p;
	char string[256];
	uint64_t v;
	unsigned flags;

	if (strcmp(name, "dirty-bitmap") == 0) {
		do {
			flags = take8();
			if (flags & 0x08)
				take_name(string);
			if (flags & 0x04)
				take_name(string);
			if (flags & 0x10)
				take(5);
			else if (flags & 0x40) {
				take(12);
				if (!(flags & 0x02))
					skip(take64());
			} else if (flags & 0x80 || !(flags & 0x21))
				fail("dirty-bitmap: flags 0x%x", flags);
		} while (!(flags & 0x01));
	} else if (strcmp(name, "spapr/htab") == 0) {
		if (take32() == 0)
			while (p = take(8), get_be64(p) != 0)
				skip((uint64_t)get_be16(p + 4) * 16);
	} else if (strcmp(name, "s390-storage_attributes") == 0) {
		while (v = take64() & 0xfff, v != 0x01)
			if (v == 0x02)
				skip(take64());
			else if (v != 0x08)
				fail("%s: flags 0x%x", name, (unsigned)v);
	} else
		fail("section %s is not known", name);
}

static void
take_start(void)
{
	char name[256];
	uint32_t sid, version;
	size_t i;

	take8();
	sid = take32();
	take_name(name);
	take32();
	version = take32();
	if (sid == 0 || nhandlers == sizeof handlers / sizeof handlers[0])
		fail("section %s: bad section id, or too many", name);
	for (i = 0; i < nhandlers; i++)
		if (handlers[i].sid == sid || strcmp(handlers[i].name, name) == 0)
			fail("section %s begins twice", name);
	strcpy(handlers[nhandlers].name, name);
	handlers[nhandlers++].sid = sid;
	if (strcmp(name, "ram") == 0) {
		if (version != 4)
			fail("ram: version %u", (unsigned)version);
		if (state == NONE)
			fail("ram begins without ADVISE before it");
		ram_sid = sid;
		take_blocks();
	} else
		take_iterable(name);
	take_footer(sid);
}

static void
take_early(void)
{
	static const char suffix[] = "/virtio-mem-device-early";
	const uint8_t *p;
	char name[256];
	uint32_t sid;
	size_t n;

	take8();
	sid = take32();
	take_name(name);
	n = strlen(name);
	if (n < sizeof suffix || strcmp(name + n - (sizeof suffix - 1), suffix) != 0)
		fail("section %s: outside of PACKAGED", name);
	take(8);
	p = take(36);
	if (get_be64(p + 16) == 0)
		fail("section %s: damaged", name);
	skip((get_be64(p + 8) / get_be64(p + 16) + 63) / 64 * 8);
	take_footer(sid);
}

/* PART or END. */
static void
take_section(unsigned type)
{
	static int ended;
	uint8_t head[5];
	uint32_t sid;
	size_t i;

	if (state == DISCARDING)
		fail("section between DISCARD and LISTEN");
	keeping = 0;
	memcpy(head, take(5), 5);
	sid = get_be32(head + 1);
	for (i = 0; i < nhandlers && handlers[i].sid != sid; i++)
		;
	if (i == nhandlers)
		fail("section %u never began", (unsigned)sid);
	if (sid == ram_sid) {
		if (ended)
			fail("RAM goes on after its END");
		ended = type == END;
		take_records();
	} else {
		if (state == RUNNING)
			fail("section %s in postcopy", handlers[i].name);
		keeping = 1;
		if (rest != NULL)
			fwrite(head, 1, sizeof head, rest);
		take_iterable(handlers[i].name);
	}
	take_footer(sid);
}

/* ---- commands ---- */

static void
take_discard(size_t len)
{
	const uint8_t *p, *q;
	char name[256];
	struct block *b;
	uint64_t start, n, k;
	size_t used;

	if (state != ADVISED && state != DISCARDING)
		fail("DISCARD out of place");
	state = DISCARDING;
	ndiscards++;
	p = take(len);
	if (len < 20 || p[0] != 0 || p[1] == 0 || len < 3 + (size_t)p[1] + 16 ||
	    (len - 3 - p[1]) % 16 != 0 || p[2 + p[1]] != 0)
		fail("malformed DISCARD");
	memcpy(name, p + 2, p[1]);
	name[p[1]] = '\0';
	used = 3 + (size_t)p[1];
	b = find_block(name, "DISCARD");
	for (q = p + used; q < p + len; q += 16) {
		start = get_be64(q);
		n = get_be64(q + 8);
		if (n == 0 || start >= b->len || n > b->len - start ||
		    start % b->host != 0 || n % b->host != 0)
			fail("DISCARD of %" PRIu64 " bytes at %s %" PRIx64, n, name, start);
		memset(b->state + start / opt.page_size, ABSENT, (size_t)(n / opt.page_size));
		for (k = start / b->host; k < (start + n) / b->host; k++)
			b->hstate[k] |= DISCARDED;
	}
}

/* LISTEN: every host page must have been sent or discarded as a whole. */
static void
check_listen(void)
{
	struct block *b;
	uint64_t h, k, per;

	for (b = blocks; b < blocks + nblocks; b++) {
		per = b->host / opt.page_size;
		for (h = 0; h < b->nhost; h++) {
			if (b->hstate[h] & DISCARDED)
				continue;
			for (k = h * per; k < (h + 1) * per; k++)
				if (b->state[k] == ABSENT)
					fail("LISTEN, but %s %" PRIx64
					    " was neither sent nor discarded", b->name,
					    h * b->host);
			b->hstate[h] |= PLACED;
		}
	}
}

static void
send_odd(void)
{
	static const uint8_t short_id[14] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 200, 'p' };
	const struct block *b = &blocks[0];
	static const uint8_t nul[15] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 2, 'p', 0 };
	const uint32_t host = (uint32_t)b->host;
	uint8_t junk[60];

	if (opt.garbage) {
		memset(junk, 0x77, sizeof junk);
		rp_put(0x7777, junk, sizeof junk);
		put_be16(rp_buf + rp_len - sizeof junk - 2, 0xfff0);
	}
	if (opt.switchover)
		rp_put(SWITCHOVER_ACK, NULL, 0);
	if (opt.odd == NULL)
		return;
	if (strcmp(opt.odd, "outside") == 0)
		rp_request(b->name, NULL, b->len, host);
	else if (strcmp(opt.odd, "overflow") == 0)
		rp_request(b->name, NULL, 0 - (uint64_t)host, 2 * host);
	else if (strcmp(opt.odd, "too-long") == 0)
		rp_request(b->name, NULL, b->len - host, 2 * host);
	else if (strcmp(opt.odd, "astride") == 0)
		rp_request(b->name, NULL, host / 2, host);
	else if (strcmp(opt.odd, "zero-length") == 0)
		rp_request(b->name, NULL, 0, 0);
	else if (strcmp(opt.odd, "unknown-block") == 0)
		rp_request("nowhere", NULL, 0, host);
	else if (strcmp(opt.odd, "no-block") == 0)
		rp_request(b->name, b->name, 0, host);
	else if (strcmp(opt.odd, "short-id") == 0)
		rp_put(REQ_PAGES_ID, short_id, sizeof short_id);
	else if (strcmp(opt.odd, "long-pong") == 0)
		rp_put(PONG, short_id, 5);
	else if (strcmp(opt.odd, "long-switchover") == 0)
		rp_put(SWITCHOVER_ACK, short_id, 1);
	else if (strcmp(opt.odd, "short-request") == 0)
		rp_put(REQ_PAGES, short_id, 11);
	else if (strcmp(opt.odd, "shorter-request") == 0)
		rp_put(REQ_PAGES_ID, short_id, 11);
	else if (strcmp(opt.odd, "nul") == 0)
		rp_put(REQ_PAGES_ID, nul, sizeof nul);
	else if (strcmp(opt.odd, "unknown") == 0)
		rp_put(0, NULL, 0);
}

/* Is the answer to RECV_BITMAP to be odd in this way? */
static int
is_odd(const char *kind)
{
	return opt.odd != NULL && strcmp(opt.odd, kind) == 0;
}

static int
is_ping(const uint8_t *p)
{
	return memcmp(p, "\x08\0\x02\0\x04", 5) == 0;
}

/* LISTEN, device state, RUN. */
static void
take_packaged(uint32_t len)
{
	uint8_t *blob = allocate((size_t)len + 1, 1), *p = blob;
	size_t n = len, done, piece;
	uint64_t i;

	if (state != DISCARDING)
		fail("PACKAGED, but no DISCARD before it: the guest would hang");
	if (!rp_open)
		fail("PACKAGED, but no OPEN_RETURN_PATH before it");
	for (done = 0; done < n; done += piece) {
		piece = n - done < READ_SIZE ? n - done : READ_SIZE;
		memcpy(blob + done, take(piece), piece);
	}
	if (n < 10 || memcmp(p, "\x08\0\x04\0\0", 5) != 0)
		fail("PACKAGED does not begin with LISTEN");
	if (memcmp(p + n - 5, "\x08\0\x05\0\0", 5) != 0)
		fail("PACKAGED does not end with RUN");
	p += 5;
	n -= 10;
	for (; n >= 9 && is_ping(p); p += 9, n -= 9)
		rp_put32(PONG, get_be32(p + 5));
	/* Those behind the devices are answered when the devices are loaded. */
	for (; n >= 9 && is_ping(p + n - 9) && npongs < 8; n -= 9)
		pongs[npongs++] = get_be32(p + n - 4);
	if (n < 16 || p[0] != FULL)
		fail("PACKAGED: no device section after LISTEN");
	if (p[n - 5] != FOOTER)
		fail("PACKAGED: %s", p[n - 1] == VM_EOF && p[n - 6] == FOOTER ?
		    "EOF inside: RUN would not be reached" :
		    "something else than devices before RUN");
	if (rest != NULL)
		fwrite(p, 1, n, rest);
	free(blob);
	check_listen();
	state = RUNNING;
	send_odd();
	if (opt.before_run > 0) {
		pause_for(LOAD_TIME);
		for (i = 0; i < opt.before_run && ask_next(); i++)
			held++;
	}
	pump();
	wait_for(0, -1);
}

static void
take_command(void)
{
	const uint8_t *p;
	unsigned cmd, len;
	uint64_t size;
	static const unsigned fixed[] = { 0, 0, 4, 16, 0, 0, 0, 4 };

	keeping = 0;
	take8();
	cmd = take16();
	len = take16();
	if (cmd != DISCARD && (cmd == 0 || cmd > PACKAGED || len != fixed[cmd]))
		fail("command %u of %u bytes", cmd, len);
	switch (cmd) {
	case OPEN_RETURN_PATH:
		if (rp_open++)
			fail("OPEN_RETURN_PATH twice");
		break;
	case PING:
		if (!rp_open)
			fail("PING without return path");
		rp_put32(PONG, take32());
		break;
	case ADVISE:
		if (state != NONE || ram_sid != 0 || has_addr)
			fail("ADVISE out of place");
		p = take(16);
		summary = get_be64(p);
		if ((size = get_be64(p + 8)) != opt.page_size)
			fail("ADVISE says target pages of %" PRIu64 " bytes, not %" PRIu64, size,
			    opt.page_size);
		state = ADVISED;
		break;
	case DISCARD:
		take_discard(len);
		break;
	case PACKAGED:
		take_packaged(take32());
		break;
	default:
		fail("command %u outside of PACKAGED", cmd);
	}
}

/* ---- the end of the stream ---- */

static void
say_shut(void)
{
	if (opt.no_shut || !rp_open)
		return;
	rp_put32(SHUT, (uint32_t)opt.shut);
	wait_for(0, -1);
	if (rp_broken)
		fail("the command closed its input before SHUT");
}

/* The end of a postcopy stream. */
static void
end_postcopy(void)
{
	const struct request *r;
	struct pollfd p;

	take8();
	state = ENDED;
	if (buf_pos < buf_len || (wait_for(1, END_TIME) && fill()))
		fail("bytes after the end of the stream");
	pause_for(5000);
	p.fd = rp_fd;
	p.events = 0;
	if (poll(&p, 1, 0) > 0)
		fail("the command closed its input before SHUT");
	for (r = requests; r < requests + nrequests; r++)
		if (r->took < 0 && (held > 0 || offset - r->offset > SLACK + 2 * r->b->host))
			fail("request for %s %" PRIx64 " was not answered", r->b->name,
			    r->h * r->b->host);
	if (opt.repeat && nrequests > 0) {
		ask(requests[0].b, requests[0].h);
		nrepeats++;
		wait_for(0, -1);
		pause_for(1000);
	}
	say_shut();
	finish(0);
}

static void
take_elements(void)
{
	static int have_part;
	unsigned type;

	for (;;) {
		keeping = 1;
		type = peek();
		if (state == RUNNING && type != PART && type != END && type != COMMAND &&
		    type != VM_EOF)
			fail("element 0x%02x in postcopy", type);
		if (type == START && !have_part)
			take_start();
		else if ((type == PART || type == END) && ram_sid != 0) {
			have_part = 1;
			take_section(type);
		} else if (type == COMMAND)
			take_command();
		else if (type == FULL && !have_part)
			take_early();
		else if (type == VM_EOF && state == RUNNING)
			end_postcopy();
		else
			fail("element 0x%02x out of place", type);
	}
}

/* ---- taken up by another command ---- */

static void spawn(char **);

/* The answer to RESUME; what the last server still owed is asked for again. */
static void
take_resume(void)
{
	uint8_t ack[4];
	struct request *r;

	put_be32(ack, 1);
	rp_put(RESUME_ACK, ack, sizeof ack);
	for (r = requests; r < requests + nrequests; r++)
		if (r->took < 0)
			ask(r->b, r->h);
}

/* The bitmap of the pages that have come, in little-endian words of 64 bits. */
static void
take_recv_bitmap(size_t len)
{
	uint8_t word[8], reply[256];
	uint64_t k, bits;
	struct block *b;
	char name[256];
	size_t i;

	take_name(name);
	if (len != 1 + strlen(name))
		fail("malformed RECV_BITMAP");
	b = find_block(name, "RECV_BITMAP");
	reply[0] = (uint8_t)(len - 1);
	memcpy(reply + 1, name, len - 1);
	if (is_odd("nowhere"))
		reply[1] ^= 1;
	if (is_odd("shut"))
		rp_put32(SHUT, 7);
	rp_put(BITMAP, reply, is_odd("name") ? len - 1 : len);
	bits = (b->len / opt.page_size + 63) / 64 * 64;
	rp_raw64(bits / 8 + (is_odd("length") ? 8 : 0));
	for (k = 0; k < bits; k += 64) {
		memset(word, 0, sizeof word);
		for (i = 0; i < 64 && k + i < b->len / opt.page_size; i++)
			if (b->hstate[(k + i) * opt.page_size / b->host] & PLACED)
				word[i / 8] |= (uint8_t)(1 << i % 8);
		rp_raw(word, sizeof word);
		if (is_odd("cut")) {
			wait_for(0, -1);
			close(rp_fd);
			rp_fd = -1;
			rp_broken = 1;
		}
	}
	rp_raw64(UINT64_C(0x0123456789abcdef) - (is_odd("end") ? 1 : 0));
	if (is_odd("unasked") && b == &blocks[nblocks - 1])
		rp_put(BITMAP, reply, len);
	wait_for(0, -1);
}

/* The command is gone, as far as the guest can tell: another one begins. */
static void
resume(void)
{
	char shell[] = "sh", c[] = "-c", *argv[4] = { shell, c, NULL, NULL };
	char command[4096];
	unsigned cmd, len;

	if (state != RUNNING)
		fail("--resume before the guest runs");
	kill(child, SIGKILL);	/* before it sees that the pipes are closed, and says so */
	waitpid(child, NULL, 0);
	close(in_fd);
	close(rp_fd);
	if (place_left > 0)	/* a part of a host page is nothing */
		memset(place_block->state + place_page * place_block->host / opt.page_size,
		    ABSENT, (size_t)(place_block->host / opt.page_size));
	place_left = 0;
	buf_pos = buf_len = rp_len = 0;
	offset = 0;
	rp_broken = 0;
	current = NULL;
	last_asked = NULL;
	state = PAUSED;
	if (strlen(opt.resume) >= sizeof command)
		fail("--resume: too long");
	strcpy(command, opt.resume);
	argv[2] = command;
	spawn(argv);
	while (state == PAUSED) {
		if (peek() != COMMAND)
			fail("element 0x%02x before RESUME", peek());
		take8();
		cmd = take16();
		len = take16();
		if (cmd == RECV_BITMAP)
			take_recv_bitmap(len);
		else if (cmd == RESUME && len == 0)
			state = RUNNING;
		else
			fail("command %u of %u bytes before RESUME", cmd, len);
	}
	take_resume();
	pump();
	if (peek() == 0xff && opt.expect_exit == 0)
		fail("refused");
	if (peek() == 0xff)
		take_refusal();
	take_elements();
}

/* ---- command line ---- */

static void
usage(const char *what, const char *arg)
{
	fprintf(stderr, "rpclient: %s%s\n", what, arg);
	exit(2);
}

static uint64_t
number(const char *s)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(s, &end, 0);
	if (*s < '0' || *s > '9' || *end != '\0' || errno != 0)
		usage("bad number: ", s);
	return v;
}

static const char *
value_of(const char *arg, const char *name)
{
	const size_t n = strlen(name);

	return strncmp(arg, name, n) == 0 && arg[n] == '=' ? arg + n + 1 : NULL;
}

static uint64_t
host_page_size(const char *s)
{
	const uint64_t n = number(s);

	if (n < 1024 || n > 1 << 30 || (n & (n - 1)) != 0)
		usage("bad page size: ", s);
	return n;
}

static void
parse_odd(const char *v)
{
	static const char *const kinds[] = { "outside", "overflow", "too-long", "astride",
	    "zero-length", "unknown-block", "no-block", "short-id", "long-pong", "long-switchover",
	    "short-request", "shorter-request", "nul", "unknown", "unasked", "nowhere", "name",
	    "length", "cut", "end", "shut" };
	size_t i;

	for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (strcmp(v, kinds[i]) == 0)
			opt.odd = v;
	if (opt.odd == NULL)
		usage("unknown --odd: ", v);
}

static void
parse_option(const char *arg)
{
	static const struct { const char *name; int *flag; } flags[] = {
		{ "--all", &opt.all }, { "--repeat", &opt.repeat },
		{ "--no-shut", &opt.no_shut },
		{ "--garbage", &opt.garbage }, { "--pieces", &opt.pieces },
		{ "--switchover", &opt.switchover }, { "--dump", &opt.dump },
		{ "--latency", &opt.latency }
	};
	static const struct { const char *name; uint64_t *to; } numbers[] = {
		{ "--page-size", &opt.page_size },
		{ "--requests", &opt.requests }, { "--seed", &opt.seed },
		{ "--burst", &opt.burst }, { "--before-run", &opt.before_run },
		{ "--read-delay", &opt.read_delay }, { "--hangup", &opt.hangup },
		{ "--stop-reading", &opt.stop_reading }, { "--shut", &opt.shut },
		{ "--timeout", &opt.timeout }, { "--expect-exit", &opt.expect_exit },
		{ "--max-ahead", &opt.max_ahead }
	};
	const char *v, *eq;
	size_t i;

	for (i = 0; i < sizeof flags / sizeof flags[0]; i++)
		if (strcmp(arg, flags[i].name) == 0) {
			*flags[i].flag = 1;
			return;
		}
	for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		if ((v = value_of(arg, numbers[i].name)) != NULL) {
			*numbers[i].to = number(v);
			return;
		}
	if (strcmp(arg, "--before-run") == 0)
		opt.before_run = 4;
	else if ((v = value_of(arg, "--pages")) != NULL) {
		opt.sequential = strcmp(v, "sequential") == 0;
		if (!opt.sequential && strcmp(v, "random") != 0)
			usage("unknown --pages: ", v);
	} else if ((v = value_of(arg, "--host-page")) != NULL) {
		if ((eq = strrchr(v, '=')) == NULL)
			opt.host_page = host_page_size(v);
		else {
			if (opt.nhost == HOST_PAGES_MAX)
				usage("too many --host-page", "");
			opt.host[opt.nhost].name = v;
			opt.host[opt.nhost].len = (size_t)(eq - v);
			opt.host[opt.nhost++].size = host_page_size(eq + 1);
		}
	} else if ((v = value_of(arg, "--resume")) != NULL)
		opt.resume = v;
	else if ((v = value_of(arg, "--odd")) != NULL)
		parse_odd(v);
	else if ((v = value_of(arg, "--rest")) != NULL) {
		if ((rest = fopen(v, "wb")) == NULL) {
			perror(v);
			exit(2);
		}
	} else
		usage("unknown option: ", arg);
}

static void
spawn(char **argv)
{
	int out[2], in[2];

	if (pipe(out) != 0 || pipe(in) != 0 || (child = fork()) < 0) {
		perror("rpclient");
		exit(2);
	}
	if (child == 0) {
		if (rest != NULL)
			close(fileno(rest));
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		close(in[0]);
		close(in[1]);
		close(out[0]);
		close(out[1]);
		signal(SIGPIPE, SIG_DFL);
		execvp(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	in_fd = out[0];
	rp_fd = in[1];
	fcntl(rp_fd, F_SETFL, O_NONBLOCK);
}

int
main(int argc, char **argv)
{
	int k;

	opt.base_page = (uint64_t)sysconf(_SC_PAGESIZE);
	for (k = 1; k < argc && argv[k][0] == '-'; k++)
		parse_option(argv[k]);
	if (k == argc)
		usage("no command", "");
	signal(SIGPIPE, SIG_IGN);
	spawn(argv + k);
	deadline = now() + (int64_t)opt.timeout * 1000000;
	take_configuration();
	take_elements();
}
