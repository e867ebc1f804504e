/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ringtest.c -- the ring of aio.h, without the rest of the program.
 *
 *	ringtest WORKERS DEPTH SEED FILE
 *
 * Submits many requests of all kinds, of random length and with random delays,
 * taken back by aio_wait, by aio_try, or by poll and aio_try.  Demands that each
 * comes back once and in order, that reads bring what writes put there, that an
 * error is told in the request that met it and nowhere else, and that a ring may
 * be freed with requests in it.  Exit status: 0 all was so; 1 with a message.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../aio.h"

enum { ROUNDS = 4000, DEPTH_MAX = 64, PIECE = 512 };

struct item {
	struct aio_req req;
	struct aio_run run[2];
	uint8_t buf[2 * PIECE];
	unsigned number;	/* of the request; decides all about it */
	unsigned worked;	/* calls of work() */
};

static uint64_t state;

static unsigned
draw(unsigned n)
{
	state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (unsigned)(state >> 33) % n;
}

static void
fail(const char *what, unsigned number)
{
	fprintf(stderr, "ringtest: request %u: %s\n", number, what);
	exit(1);
}

static void
work(struct aio_req *r)
{
	struct item *it = r->arg;
	struct timespec ts = { 0, (long)(it->number * 7919 % 200) * 1000 };

	it->worked++;
	if (it->number % 5 == 0)
		nanosleep(&ts, NULL);
}

/* Where in the file the number's bytes lie, and what they are. */
static uint64_t
place(unsigned number)
{
	return (uint64_t)(number / 4) * 2 * PIECE;
}

static void
submit(struct aio *a, struct item *it, unsigned number, int fd)
{
	struct aio_req *r = &it->req;

	memset(r, 0, sizeof *r);
	it->number = number;
	it->worked = 0;
	r->arg = it;
	r->work = work;
	r->run = it->run;
	/* Four requests belong together: write, work, read what was written, none. */
	switch (number % 4) {
	case 0:
		r->op = AIO_WRITE;
		memset(it->buf, (int)(number / 4 % 251 + 1), sizeof it->buf);
		break;
	case 1:
		r->op = AIO_WORK;
		break;
	case 2:
		r->op = AIO_READ;
		memset(it->buf, 0, sizeof it->buf);
		break;
	default:
		r->op = AIO_NONE;
		break;
	}
	r->nrun = 2;
	it->run[0].fd = it->run[1].fd = fd;
	it->run[0].buf = it->buf;
	it->run[1].buf = it->buf + PIECE;
	it->run[0].len = it->run[1].len = PIECE;
	it->run[0].off = place(number);
	/* Every 16th read has its second half where no file is. */
	it->run[1].off = number % 64 == 62 ? UINT64_C(1) << 40 : place(number) + PIECE;
	aio_submit(a, r);
}

static void
judge(const struct item *it, unsigned number, int written)
{
	const struct aio_req *r = &it->req;
	int bad_read = number % 64 == 62;
	size_t i, n = bad_read ? PIECE : 2 * PIECE;

	if (it->number != number)
		fail("out of order", number);
	if (r->op == AIO_READ && !written)
		return;		/* it may have come before its write */
	if (r->error != (bad_read ? EIO : 0))
		fail("wrong error", number);
	if (bad_read && r->error_off != UINT64_C(1) << 40)
		fail("wrong place of the error", number);
	if (it->worked != (r->op == AIO_WORK || (r->op == AIO_READ && !bad_read)))
		fail("work was not done once", number);
	for (i = 0; r->op == AIO_READ && i < n; i++)
		if (it->buf[i] != number / 4 % 251 + 1)
			fail("read something else than was written", number);
}

static struct aio_req *
take(struct aio *a)
{
	struct pollfd p;
	struct aio_req *r;

	switch (draw(3)) {
	case 0:
		return aio_wait(a);
	case 1:
		return (r = aio_try(a)) != NULL ? r : aio_wait(a);
	default:
		p.fd = aio_pollfd(a);
		p.events = POLLIN;
		while ((r = aio_try(a)) == NULL)
			if (poll(&p, 1, 5000) == 0) {
				fprintf(stderr, "ringtest: nobody woke us\n");
				exit(1);
			}
		return r;
	}
}

int
main(int argc, char **argv)
{
	static struct item item[DEPTH_MAX];
	unsigned workers, depth, in = 0, out = 0;
	struct aio *a;
	int fd;

	if (argc != 5)
		return 2;
	workers = (unsigned)atoi(argv[1]);
	depth = (unsigned)atoi(argv[2]);
	state = (uint64_t)atoi(argv[3]);
	if (depth == 0 || depth > DEPTH_MAX || io_open(argv[4], 1, 0, &fd) != 0)
		return 2;
	if ((a = aio_new(workers, depth)) == NULL)
		return 1;
	if (aio_wait(a) != NULL || aio_try(a) != NULL)
		fail("came out of an empty ring", 0);
	while (out < ROUNDS) {
		/* A read is submitted when its write is back: there is no order among workers. */
		if (in < ROUNDS && in - out < depth && (in % 4 != 2 || in - out < 2) &&
		    draw(3) > 0) {
			submit(a, &item[in % depth], in, fd);
			in++;
		} else if (in > out) {
			judge(take(a)->arg, out, 1);
			out++;
		}
	}
	while (in - out < depth)
		submit(a, &item[in % depth], in, fd), in++;
	aio_free(a);
	for (; out < in; out++)
		judge(&item[out % depth], out, 0);
	return io_close(fd);
}
