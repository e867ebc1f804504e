/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * return_fuzz.c -- the reader of the return path.
 *
 * The first byte of an input is the seed of the pieces in which the rest comes.
 */
#include <string.h>

#include "../../bytes.h"
#include "../../returnpath.h"
#include "../../snap.h"
#include "fuzz.h"

enum { PAGE = 4096, LONG_NAME = 255 };

static struct ram_block blocks[] = {
	{ "pc.ram", 32 * PAGE, 0, 0 },
	{ "m", PAGE, 0, 32 },
	{ "0000:00:02.0/vga.vram", UINT64_C(1) << 40, 0, 33 },
	{ "", 3 * PAGE, 0, 33 + (UINT64_C(1) << 28) }	/* of 255 characters */
};

static const struct ram_map ram = {
	blocks, 4, 36 + (UINT64_C(1) << 28), PAGE, 2, 0
};

/* A bitmap, as it comes when a postcopy is taken up: length, bits, end. */
static int
take_bitmap(struct rp_in *r, const struct rp_msg *m, uint64_t *h)
{
	uint64_t size = (m->blk->len / PAGE + 63) / 64 * 8, done;
	uint8_t buf[4096];
	size_t n;
	int err;

	if ((err = rp_take(r, buf, 8)) != 0)
		return err;
	if (get_be64(buf) != size)
		return SNAP_EDATA;
	for (done = 0; done < size; done += n) {
		n = size - done < sizeof buf ? (size_t)(size - done) : sizeof buf;
		if ((err = rp_take(r, buf, n)) != 0)
			return err;
		*h = hash(*h, buf, n);
	}
	if ((err = rp_take(r, buf, 8)) != 0)
		return err;
	*h = hash(*h, buf, 8);
	return 0;
}

static int
is_block(const struct ram_block *b)
{
	size_t i;

	for (i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
		if (b == &blocks[i])
			return 1;
	return 0;
}

/* 1, or what is wrong with the message's bitmap. */
static int
take_message(struct rp_in *r, const struct rp_msg *m, uint64_t *h)
{
	*h = hash(*h, &m->type, sizeof m->type);
	switch (m->type) {
	case RP_SHUT:
	case RP_PONG:
	case RP_RESUME_ACK:
		*h = hash(*h, &m->value, sizeof m->value);
		return 1;
	case RP_SWITCHOVER_ACK:
		return 1;
	case RP_REQ_PAGES_ID:
	case RP_REQ_PAGES:
		MUST(is_block(m->blk));
		MUST(m->len > 0 && m->start < m->blk->len && m->len <= m->blk->len - m->start);
		*h = hash(*h, &m->blk, sizeof m->blk);
		*h = hash(*h, &m->start, sizeof m->start);
		*h = hash(*h, &m->len, sizeof m->len);
		return 1;
	case RP_RECV_BITMAP:
		MUST(is_block(m->blk));
		*h = hash(*h, &m->blk, sizeof m->blk);
		return take_bitmap(r, m, h) == 0 ? 1 : SNAP_ESYS;
	}
	MUST(0);	/* a type of message */
	return SNAP_EBUG;
}

/* All messages: how it ended, and in *h what came. */
static int
read_all(uint64_t *h)
{
	static struct rp_in r;
	struct rp_msg m;
	unsigned turns = 0;
	int got;

	*h = messages = 0;
	rp_init(&r, 0, &ram);
	for (;;) {
		while ((got = rp_next(&r, &m)) == 1)
			if ((got = take_message(&r, &m, h)) != 1)
				return got;
		MUST(r.pos <= r.len && r.len <= sizeof r.buf);
		if (got < 0) {
			MUST(got == SNAP_EDATA && messages == 1);
			return got;
		}
		MUST(messages == 0);
		if (r.eof)
			return 0;
		MUST(rp_read(&r) == 0);
		/* The end of input is the end, not a buffer that is full. */
		MUST(!r.eof || feed.pos == feed.len);
		MUST(turns++ < 4 * feed.len + 4096);
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t a, b;
	int ra, rb;

	if (size < 1)
		return 0;
	memset(blocks[3].id, 'n', LONG_NAME);
	feed_set(data + 1, size - 1, 0);
	bounds_begin();
	ra = read_all(&a);
	bounds_end(1 << 16, 1000);
	feed_set(data + 1, size - 1, 1 + (uint64_t)data[0]);
	rb = read_all(&b);
	MUST(ra == rb && a == b);
	return 0;
}
