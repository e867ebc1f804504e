/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * peer.c -- what stands at the other ends of the pipes that are measured, with as little
 * work of its own as can be.
 *
 * usage: peer feed FILE	FILE, from memory, to stdout in QEMU's pieces of 32 KiB
 *	  peer sink		read all of stdin, in pieces of as many bytes
 *	  peer push FILE	FILE is what `qemu-snap --postcopy load` wrote to a destination that
 *				asked for nothing: the same again, from memory, but for zero
 *				pages, which are sent when asked for.  Prints to stderr how long
 *				it took from the first page to the destination's last word.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bytes.h"

enum {
	PIECE = 32 << 10,	/* what QEMU writes and reads at a time */
	PAGE = 4096,
	ZERO_RECORD = 2, PAGE_RECORD = 8, EOS = 16, CONTINUE = 32,
	COMMAND = 8,
	SHUT = 1, REQ_PAGES_ID = 3, REQ_PAGES = 4,
	BATCH = 16,		/* records a writev() */
	BLOCKS = 64
};

struct block {
	uint8_t name[256];	/* its length first */
	uint8_t *have;		/* a byte a page: in the stream, or answered */
	size_t pages;
};

static struct block block[BLOCKS];
static size_t nblock;

static void
die(const char *what)
{
	fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint8_t *
map(const char *path, size_t *len)
{
	int fd = open(path, O_RDONLY);
	struct stat st;
	uint8_t *p;
	size_t i;
	volatile uint8_t sum = 0;

	if (fd < 0 || fstat(fd, &st) != 0)
		die(path);
	*len = (size_t)st.st_size;
	if ((p = mmap(NULL, *len, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
		die(path);
	for (i = 0; i < *len; i += PAGE)
		sum = (uint8_t)(sum + p[i]);
	return p;
}

static void
put(const uint8_t *p, size_t len)
{
	ssize_t n;

	for (; len > 0; p += n, len -= (size_t)n)
		if ((n = write(1, p, len < PIECE ? len : PIECE)) < 0)
			die("write");
}

static void
sink(void)
{
	static uint8_t buf[PIECE];
	ssize_t n;

	while ((n = read(0, buf, sizeof buf)) > 0)
		;
	if (n < 0)
		die("read");
}

/* ---- push ---- */

static int
block_named(const uint8_t *name)
{
	size_t i;

	for (i = 0; i < nblock; i++)
		if (memcmp(block[i].name, name, (size_t)name[0] + 1) == 0)
			return (int)i;
	if (nblock == BLOCKS)
		die("too many blocks");
	memcpy(block[nblock].name, name, (size_t)name[0] + 1);
	return (int)nblock++;
}

/* Is this page new? */
static int
have(int b, uint64_t page)
{
	struct block *k = &block[b];
	size_t grown = (size_t)page + (1 << 20);

	if (page >= k->pages) {
		if ((k->have = realloc(k->have, grown)) == NULL)
			die("memory");
		memset(k->have + k->pages, 0, grown - k->pages);
		k->pages = grown;
	}
	if (k->have[page])
		return 0;
	k->have[page] = 1;
	return 1;
}

struct record {
	const uint8_t *data;
	uint64_t off;
	int block;
};

/* The records from p on; returns how many, *end is what follows them. */
static size_t
index_records(const uint8_t *p, const uint8_t *last, struct record **list, const uint8_t **end)
{
	size_t n = 0, cap = 0;
	int cur = -1;
	uint64_t word;

	*list = NULL;
	p += 5;
	while (last - p > 8) {
		word = get_be64(p);
		p += 8;
		if (word & EOS) {
			p -= 8;
			break;
		}
		if (!(word & CONTINUE)) {
			cur = block_named(p);
			p += p[0] + 1;
		}
		if (n == cap) {
			cap = cap * 2 + 1024;
			if ((*list = realloc(*list, cap * sizeof **list)) == NULL)
				die("memory");
		}
		(*list)[n].block = cur;
		(*list)[n].off = word & ~(uint64_t)(PAGE - 1);
		(*list)[n].data = word & PAGE_RECORD ? p : NULL;
		have(cur, (*list)[n].off / PAGE);
		p += word & PAGE_RECORD ? PAGE : 1;
		n++;
	}
	*end = p;
	return n;
}

static int cur = -1;
static int closed, ended;

static size_t
head(uint8_t *buf, int b, uint64_t word)
{
	size_t n = 8;

	if (b == cur)
		word |= CONTINUE;
	else {
		memcpy(buf + 8, block[b].name, (size_t)block[b].name[0] + 1);
		n += (size_t)block[b].name[0] + 1;
	}
	put_be64(buf, word);
	cur = b;
	return n;
}

static void
put_all(struct iovec *v, int n)
{
	ssize_t done;

	while (n > 0) {
		if ((done = writev(1, v, n)) < 0)
			die("writev");
		for (; n > 0 && (size_t)done >= v->iov_len; v++, n--)
			done -= (ssize_t)v->iov_len;
		if (n > 0) {
			v->iov_base = (uint8_t *)v->iov_base + done;
			v->iov_len -= (size_t)done;
		}
	}
}

static uint8_t in[4096];
static size_t nin;

/* Take messages; answer those for pages that are zero. */
static void
listen_to(void)
{
	static int asked = -1;
	uint8_t rec[300], *p = in;
	ssize_t got = read(0, in + nin, sizeof in - nin);
	size_t len, n;
	uint64_t page, last;

	if (got < 0)
		die("read");
	ended |= got == 0;
	nin += (size_t)got;
	for (; nin >= 4 && nin >= (len = 4 + get_be16(p + 2)); p += len, nin -= len) {
		ended |= get_be16(p) == SHUT;
		if (get_be16(p) != REQ_PAGES && get_be16(p) != REQ_PAGES_ID)
			continue;
		if (get_be16(p) == REQ_PAGES_ID)
			asked = block_named(p + 16);
		page = get_be64(p + 4) / PAGE;
		for (last = page + get_be32(p + 12) / PAGE; page < last; page++)
			if (!closed && have(asked, page)) {
				n = head(rec, asked, page * PAGE | ZERO_RECORD);
				rec[n++] = 0;
				put(rec, n);
			}
	}
	memmove(in, p, nin);
}

static int
asks(int wait)
{
	struct pollfd fd = { 0, POLLIN, 0 };

	return poll(&fd, 1, wait) > 0;
}

static void
push(const char *path)
{
	static const uint8_t ping[] = { 8, 0, 2, 0, 4, 0x51, 0x53, 0x4e, 0x50 };
	static uint8_t heads[BATCH][300];
	const uint8_t *p, *pages, *rest;
	struct iovec v[2 * BATCH];
	struct timespec a, b;
	struct record *r;
	size_t len, n, i, k;
	char c;
	union { const uint8_t *in; void *out; } u;

	p = map(path, &len);
	for (pages = p; memcmp(pages, ping, sizeof ping) != 0; pages++)
		if (pages == p + len - sizeof ping)
			die("no end of devices");
	for (pages += sizeof ping; pages[0] == COMMAND; )
		pages += 5 + get_be16(pages + 3);
	n = index_records(pages, p + len, &r, &rest);
	put(p, (size_t)(pages - p) + 5);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (i = 0; i < n; i += k) {
		for (k = 0; k < BATCH && i + k < n; k++) {
			v[2 * k].iov_base = heads[k];
			v[2 * k].iov_len = head(heads[k], r[i + k].block, r[i + k].off |
			    (r[i + k].data != NULL ? PAGE_RECORD : ZERO_RECORD));
			u.in = r[i + k].data != NULL ? r[i + k].data : (const uint8_t *)"";
			v[2 * k + 1].iov_base = u.out;
			v[2 * k + 1].iov_len = r[i + k].data != NULL ? PAGE : 1;
		}
		put_all(v, (int)(2 * k));
		if (asks(0))
			listen_to();
	}
	put(rest, (size_t)(p + len - rest));
	close(1);
	closed = 1;		/* pages without a copy are zero from here on */
	while (!ended)
		listen_to();
	clock_gettime(CLOCK_MONOTONIC, &b);
	fprintf(stderr, "peer: %zu pages in %.3f s\n", n, (double)(b.tv_sec - a.tv_sec) +
	    (double)(b.tv_nsec - a.tv_nsec) / 1e9);
	while (read(0, &c, 1) > 0)
		;
}

int
main(int argc, char **argv)
{
	const uint8_t *p;
	size_t len;

	if (argc == 3 && strcmp(argv[1], "feed") == 0) {
		p = map(argv[2], &len);
		put(p, len);
	} else if (argc == 2 && strcmp(argv[1], "sink") == 0)
		sink();
	else if (argc == 3 && strcmp(argv[1], "push") == 0)
		push(argv[2]);
	else {
		fprintf(stderr, "usage: peer feed FILE | sink | push FILE\n");
		return 2;
	}
	return 0;
}
