/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mkstream.c -- write a made-up QEMU migration stream to standard output.
 *
 * The same options give the same bytes.  What a page holds depends on the
 * seed, its number and the round it is sent in, so nothing is kept of pages
 * but one bit.  Half of the data pages compress well, one in sixteen is zero
 * but for one byte.
 *
 * Shape of the stream
 *	--seed=N		default 1
 *	--kind=background|ordinary
 *				ordinary: pages are sent again in an END section
 *	--machine=NAME		default pc-i440fx-7.2
 *	--page-size=N		of the target: 256 to 65536, default 4096
 *	--page-bits		say so in configuration/target-page-bits
 *	--uuid			have configuration/uuid
 *	--ignore-shared		have the capability x-ignore-shared
 *	--return-path		begin with OPEN_RETURN_PATH and PING 1
 *	--switchover		command SWITCHOVER_START when RAM is done
 *	--early			virtio-mem-device-early before the first page
 *	--iterable=dirty-bitmap|htab|stattrib
 *				one more iterable handler; repeatable
 *	--empty			nothing is in their sections
 *	--devices=N		FULL sections, default 8, at least 1
 *	--json=BYTES		description, default 100000, at least what the list
 *				of devices takes; 0: none, as suppress-vmdesc
 *	--json-page-size=N	a lie in the description
 *	--cut=BYTES		stop after so many bytes
 *	--drained=FILE		behind the RAM, wait until the pipe is empty; then make FILE
 * Pages
 *	--block=NAME:PAGES	repeatable; default nine blocks, 311 pages
 *	--absent=PCT --zero=PCT --zerodata=PCT --late-zero=PCT --late-data=PCT
 *				how many pages are never sent; are ZERO records
 *				(default 20, or what is left); data that is all
 *				zero; data first and ZERO in the last round; ZERO
 *				first and data in the last round.  The rest is data
 *	--change=SEED:PCT	so many pages are drawn anew, what they are and hold; the
 *				rest stays as it is without this.  Repeatable: the same
 *				guest once more, and later
 *	--passes=N		rounds in which every page is sent (late ones need
 *				two), with new contents each time
 *	--shuffle		pages out of turn in the scan, as guests' faults are
 *	--section=N		pages in a PART, default 1 to 50 at random
 * What must be refused
 *	--bad=KIND		one of the names in enum bad below, with - for _.
 *				Where it can be, it comes after half of the pages
 *				(at most 100), and well-formed bytes follow
 */
#include <sys/ioctl.h>

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../bytes.h"

enum {
	OUT_SIZE = 256 << 10,
	PAGE_MAX = 65536,
	BODY_MAX = 8192,
	BLOCKS_MAX = 4096,
	CHANGES_MAX = 64
};

enum { START = 1, PART, END, FULL };

enum { ZERO = 0x02, MEM_SIZE = 0x04, PAGE = 0x08, EOS = 0x10, CONTINUE = 0x20 };

enum bad {
	GOOD,
	/* before the pages */
	MAGIC, VERSION, NO_CONFIG, NO_FOOTER, MAPPED_RAM, UNKNOWN_CAP, UNKNOWN_SECTION,
	VFIO, BLOCK_MIGRATION, RAM_VERSION, RAM_TWICE, BLOCK_TWICE, BLOCK_SUM, BLOCK_ODD,
	BLOCK_EMPTY_NAME, BLOCK_NUL, ADVISE, EARLY_UNKNOWN, NO_BLOCK,
	/* a record among the pages */
	XBZRLE, COMPRESS, MULTIFD, HOOK, UNKNOWN_FLAG, FILL, UNKNOWN_BLOCK, OUTSIDE,
	/* an element between sections */
	WRONG_FOOTER, UNKNOWN_ELEMENT, PART_UNKNOWN, PACKAGED, UNKNOWN_COMMAND,
	/* after the pages */
	EOF_EARLY,
	NBAD
};

static const char *const bad_name[NBAD] = {
	"none",
	"magic", "version", "no-config", "no-footer", "mapped-ram", "unknown-cap",
	"unknown-section", "vfio", "block-migration", "ram-version", "ram-twice", "block-twice",
	"block-sum",
	"block-odd", "block-empty-name", "block-nul", "advise", "early-unknown", "no-block",
	"xbzrle", "compress", "multifd", "hook", "unknown-flag", "fill", "unknown-block",
	"outside",
	"wrong-footer", "unknown-element", "part-unknown", "packaged", "unknown-command",
	"eof-early"
};

enum class { C_ABSENT, C_ZERO, C_ZERODATA, C_LATE_ZERO, C_LATE_DATA, C_DATA };

/* What draws of mix() are for, so that they are independent. */
enum { FOR_CLASS = 1, FOR_DIRTY, FOR_BODY, FOR_SIZE, FOR_ORDER, FOR_CONTENT, FOR_CHANGE };

struct block {
	char name[256];
	uint64_t pages, first;
};

/* Iterable handlers other than RAM. */
enum iterable { BITMAP, HTAB, STATTRIB, NITERABLE };

static struct {
	uint64_t seed, page_size, passes, section, devices, json, json_page_size, cut;
	uint64_t pct[C_DATA];
	const char *machine, *drained;
	enum bad bad;
	int ordinary, shuffle, page_bits, uuid, early, return_path, switchover;
	int ignore_shared, empty, iterable[NITERABLE];
} opt = {
	.seed = 1, .page_size = 4096, .passes = 1, .devices = 8, .json = 100000,
	.cut = UINT64_MAX, .pct = { [C_ZERO] = 20 }, .machine = "pc-i440fx-7.2"
};

static const uint32_t ram_sid = 2, early_sid = 9;
static const struct { const char *name; uint32_t sid, version; } iterables[NITERABLE] = {
	{ "dirty-bitmap", 3, 1 },
	{ "spapr/htab", 0x7e, 1 },
	{ "s390-storage_attributes", 4, 0 }
};
static const char early_name[] = "0000:00:03.0/virtio-mem-device-early";
enum { EARLY_SIZE = 36 + 2 * 8 };

static struct { uint64_t seed, pct; } changes[CHANGES_MAX];
static size_t nchanges;

static struct block blocks[BLOCKS_MAX];
static size_t nblocks;
static uint64_t npages;

static uint8_t page[PAGE_MAX];

static void
die(const char *what, const char *arg)
{
	fprintf(stderr, "mkstream: %s%s\n", what, arg);
	exit(2);
}

/* ---- chance ---- */

static uint64_t
scramble(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* A number that depends on a seed, what it is for, and n. */
static uint64_t
mix_from(uint64_t seed, unsigned what, uint64_t n)
{
	return scramble(scramble(seed + what * 0x9e3779b97f4a7c15) + n * 0xd1342543de82ef95);
}

static uint64_t
mix(unsigned what, uint64_t n)
{
	return mix_from(opt.seed, what, n);
}

/* 0 to n - 1, from the upper half of a mixed number. */
static uint64_t
below(uint64_t mixed, uint64_t n)
{
	return (mixed >> 32) * n >> 32;
}

/* What page n is drawn from: the seed, or that of the last change that meets it. */
static uint64_t
seed_of(uint64_t n)
{
	size_t i;
	uint64_t seed;

	for (i = nchanges; i-- > 0;) {
		seed = scramble(~changes[i].seed);
		if (below(mix_from(seed, FOR_CHANGE, n), 100) < changes[i].pct)
			return seed;
	}
	return opt.seed;
}

/* The next number that decides about the order of things. */
static uint64_t
draw(void)
{
	static uint64_t n;

	return mix(FOR_ORDER, n++);
}

static void
fill_random(uint8_t *p, size_t len, uint64_t key, uint64_t mask)
{
	size_t i;

	for (i = 0; i < len; i += 8)
		put_le64(p + i, scramble(key += 0x9e3779b97f4a7c15) & mask);
}

/* ---- output ---- */

static uint8_t out[OUT_SIZE];
static size_t out_len;

static void
flush(void)
{
	size_t done = 0;
	ssize_t n;

	while (done < out_len) {
		n = write(STDOUT_FILENO, out + done, out_len - done);
		if (n < 0 && errno != EINTR) {
			perror("mkstream: write");
			exit(1);
		}
		if (n > 0)
			done += (size_t)n;
	}
	out_len = 0;
}

static void
put(const void *buf, size_t len)
{
	const uint8_t *p = buf;
	size_t want = len < opt.cut ? len : (size_t)opt.cut, n;

	opt.cut -= want;
	for (; want > 0; want -= n, p += n) {
		if (out_len == sizeof out)
			flush();
		n = want < sizeof out - out_len ? want : sizeof out - out_len;
		memcpy(out + out_len, p, n);
		out_len += n;
	}
	if (opt.cut == 0) {
		flush();
		exit(0);
	}
}

static void
put8(unsigned v)
{
	const uint8_t b = (uint8_t)v;

	put(&b, 1);
}

static void
put16(unsigned v)
{
	uint8_t b[2];

	put_be16(b, v);
	put(b, sizeof b);
}

static void
put32(uint32_t v)
{
	uint8_t b[4];

	put_be32(b, v);
	put(b, sizeof b);
}

static void
put64(uint64_t v)
{
	uint8_t b[8];

	put_be64(b, v);
	put(b, sizeof b);
}

static void
put_name(const char *name)
{
	put8((unsigned)strlen(name));
	put(name, strlen(name));
}

static void
put_command(unsigned cmd, const void *buf, size_t len)
{
	put8(8);
	put16(cmd);
	put16((unsigned)len);
	put(buf, len);
}

/* START or FULL. */
static void
put_full_header(unsigned type, uint32_t sid, const char *name, uint32_t instance,
    uint32_t version)
{
	put8(type);
	put32(sid);
	put_name(name);
	put32(instance);
	put32(version);
}

/* PART or END. */
static void
put_header(unsigned type, uint32_t sid)
{
	put8(type);
	put32(sid);
}

static void
put_footer(uint32_t sid)
{
	if (opt.bad == NO_FOOTER)
		return;
	put8(0x7e);
	put32(sid);
}

/* ---- before the pages ---- */

static void
put_subsection(const char *name)
{
	put8(5);
	put_name(name);
	put32(1);
}

static void
put_configuration(void)
{
	const char *cap[3];
	size_t i, n = 0;
	uint32_t bits;

	put8(7);
	put32((uint32_t)strlen(opt.machine));
	put(opt.machine, strlen(opt.machine));
	if (opt.page_bits) {
		for (bits = 0; (uint64_t)1 << bits < opt.page_size; bits++)
			;
		put_subsection("configuration/target-page-bits");
		put32(bits);
	}
	if (opt.ignore_shared)
		cap[n++] = "x-ignore-shared";
	if (opt.bad == MAPPED_RAM)
		cap[n++] = "mapped-ram";
	if (opt.bad == UNKNOWN_CAP)
		cap[n++] = "x-frobnicate";
	if (n > 0) {
		put_subsection("configuration/capabilities");
		put32((uint32_t)n);
		for (i = 0; i < n; i++)
			put_name(cap[i]);
	}
	if (opt.uuid) {
		uint8_t uuid[16];

		fill_random(uuid, sizeof uuid, opt.seed, UINT64_MAX);
		put_subsection("configuration/uuid");
		put(uuid, sizeof uuid);
	}
}

/* One entry of the list of blocks; odd is added to its length. */
static void
put_block(const struct block *b, uint64_t odd)
{
	const uint64_t len = b->pages * opt.page_size + odd;

	if (opt.bad == BLOCK_EMPTY_NAME && b == blocks)
		put8(0);
	else if (opt.bad == BLOCK_NUL && b == blocks) {
		put8(4);
		put("a\0bc", 4);
	} else
		put_name(b->name);
	put64(len);
	if (opt.ignore_shared)
		put64(0x100000 + b->first * opt.page_size);
	if (opt.bad == MAPPED_RAM) {
		put32(1);
		put64(opt.page_size);
		put64(4096);		/* of the bitmap */
		put64(1 << 20);		/* of the pages */
	}
}

static void
put_ram_start(void)
{
	uint64_t total = npages;
	size_t i;

	if (opt.bad == BLOCK_TWICE)
		total += blocks[0].pages;
	if (opt.bad == BLOCK_SUM)
		total = blocks[0].pages - 1;
	put_full_header(START, ram_sid, "ram", 0, opt.bad == RAM_VERSION ? 3 : 4);
	put64(total * opt.page_size | MEM_SIZE);
	for (i = 0; i < nblocks; i++)
		put_block(&blocks[i], opt.bad != BLOCK_ODD ? 0 :
		    i == 0 ? 512 : i == 1 ? (uint64_t)-512 : 0);
	if (opt.bad == BLOCK_TWICE)
		put_block(&blocks[0], 0);
	put64(EOS);
	put_footer(ram_sid);
}

static void
put_early(void)
{
	put_full_header(FULL, early_sid, early_name, 0, 1);
	put64(UINT64_C(0x140000000));
	put64(UINT64_C(100) << 21);	/* region: 100 blocks, two words of bitmap */
	put64(2 << 20);
	put32(0);
	put64(UINT64_C(50) << 21);
	put64(UINT64_C(0x7e00000009040000));	/* as a footer */
	put64(mix(FOR_BODY, UINT64_MAX));
	put_footer(early_sid);
}

/* ---- iterable handlers other than RAM ---- */

static void
put_bitmap(unsigned type)
{
	uint8_t bits[64];

	if (opt.empty)
		;
	else if (type == START) {
		put8(0x1c);		/* START, names of node and bitmap */
		put_name("drive0");
		put_name("bitmap0");
		put32(65536);		/* granularity */
		put8(1);
	} else if (type == PART) {
		put8(0x40);		/* BITS of the same bitmap */
		put64(0);
		put32(65536);
		put64(sizeof bits);
		fill_random(bits, sizeof bits, draw(), UINT64_MAX);
		put(bits, sizeof bits);
		put8(0x42);		/* BITS, all zero */
		put64(65536);
		put32(65536);
	} else
		put8(0x20);		/* COMPLETE */
	put8(0x01);			/* EOS */
}

static void
put_htab(unsigned type)
{
	uint8_t ptes[5 * 16];

	if (opt.empty || type == START) {
		put32(opt.empty ? UINT32_MAX : 24);	/* log2 of its size, or none */
		return;
	}
	put32(0);
	put32((uint32_t)below(draw(), 10000));
	put16(5);
	put16(7);
	fill_random(ptes, sizeof ptes, draw(), UINT64_MAX);
	put(ptes, sizeof ptes);
	put64(0);
}

static void
put_stattrib(unsigned type)
{
	uint8_t attributes[40];

	if (type != START && !opt.empty) {
		put64(0x10000 | 0x02);	/* MORE */
		put64(sizeof attributes);
		fill_random(attributes, sizeof attributes, draw(), UINT64_MAX);
		put(attributes, sizeof attributes);
	}
	if (type == END)
		put64(0x08);		/* DONE */
	put64(0x01);			/* EOS */
}

/* A section of every other iterable handler. */
static void
put_iterables(unsigned type)
{
	static void (*const body[NITERABLE])(unsigned) = { put_bitmap, put_htab, put_stattrib };
	int i;

	for (i = 0; i < NITERABLE; i++) {
		if (!opt.iterable[i])
			continue;
		if (type == START)
			put_full_header(START, iterables[i].sid, iterables[i].name, 0,
			    iterables[i].version);
		else
			put_header(type, iterables[i].sid);
		body[i](type);
		put_footer(iterables[i].sid);
	}
}

/* Wait until the reader has all that was written; false: it never had. */
static int
is_drained(void)
{
	int i, left;

	for (i = 0; i < 10000; i++) {
		if (ioctl(STDOUT_FILENO, FIONREAD, &left) != 0)
			die("--drained: not a pipe", "");
		if (left == 0)
			return 1;
		poll(NULL, 0, 1);
	}
	return 0;
}

static void
put_prologue(void)
{
	const int others_first = opt.seed % 2 == 0;
	uint8_t b[16];

	put(opt.bad == MAGIC ? "QEVN" : "QEVM", 4);
	put32(opt.bad == VERSION ? 2 : 3);
	if (opt.bad != NO_CONFIG)
		put_configuration();
	if (opt.return_path) {
		put_command(1, "", 0);
		put_command(2, "\0\0\0\1", 4);
	}
	if (opt.bad == ADVISE) {
		put_be64(b, 4096);
		put_be64(b + 8, opt.page_size);
		put_command(3, b, 16);
	}
	if (others_first)
		put_iterables(START);
	put_ram_start();
	if (opt.bad == RAM_TWICE)
		put_ram_start();
	if (!others_first)
		put_iterables(START);
	if (opt.bad >= UNKNOWN_SECTION && opt.bad <= BLOCK_MIGRATION) {
		put_full_header(START, 77, opt.bad == VFIO ? "0000:00:05.0/vfio" :
		    opt.bad == BLOCK_MIGRATION ? "block" : "foo", 0, 1);
		put64(UINT64_C(0xffffffffef100001));
		put_footer(77);
	}
	if (opt.early)
		put_early();
	if (opt.bad == EARLY_UNKNOWN) {
		put_full_header(FULL, 78, "foo/early", 0, 1);
		put64(42);
		put_footer(78);
	}
}

/* ---- pages ---- */

static uint64_t rounds;		/* in which all pages are sent */
static uint64_t records, left;	/* sent so far; to come in this section */
static int in_section;
static const struct block *last_block;
static uint64_t bad_at;		/* records before what is bad; UINT64_MAX: it is done */

static enum class
class_of(uint64_t n)
{
	static const enum class order[] =
	    { C_ABSENT, C_ZERO, C_ZERODATA, C_LATE_ZERO, C_LATE_DATA };
	uint64_t r = below(mix_from(seed_of(n), FOR_CLASS, n), 100);
	size_t i;

	for (i = 0; i < sizeof order / sizeof order[0]; i++) {
		if (r < opt.pct[order[i]])
			return order[i];
		r -= opt.pct[order[i]];
	}
	return C_DATA;
}

static void
make_page(uint64_t n, uint64_t round)
{
	const uint64_t h = mix_from(seed_of(n), FOR_CONTENT, n * 64 + round);

	if (h % 16 == 0) {
		memset(page, 0, (size_t)opt.page_size);
		page[h % 32 == 0 ? opt.page_size - 1 : below(h, opt.page_size)] = 1;
	} else
		fill_random(page, (size_t)opt.page_size, h,
		    h & 1 ? UINT64_MAX : UINT64_C(0x0f00000f000000ff));
}

/* The head of a record, up to its payload. */
static void
put_record(const struct block *b, uint64_t offset, unsigned flags)
{
	/* Naming a block again is allowed; the first record does not only if bad. */
	if (b == last_block && (records == 0 || draw() % 64 != 0))
		put64(offset | flags | CONTINUE);
	else {
		put64(offset | flags);
		put_name(b->name);
	}
	last_block = b;
}

static void
put_bad_record(const struct block *b)
{
	const uint64_t offset = (b->pages - 1) * opt.page_size;
	static const struct block nowhere = { "nowhere", 1, 0 };

	switch (opt.bad) {
	case XBZRLE:
		put_record(b, offset, 0x40);
		put8(1);
		put16(7);
		put("\x05\x02" "ab" "\x03\x01" "c", 7);
		break;
	case COMPRESS:
		put_record(b, offset, 0x100);
		put32(19);
		put("not really deflated", 19);
		break;
	case MULTIFD:
		put64(0x200);
		break;
	case HOOK:
		put64(0x80);
		break;
	case UNKNOWN_FLAG:
		/* 0x001 was once a page of which nothing is known today. */
		put_record(b, offset, (opt.page_size > 2048 ? 0x800 : 0x001) | PAGE);
		put(page, (size_t)opt.page_size);
		break;
	case FILL:
		put_record(b, offset, ZERO);
		put8(0x5a);
		break;
	case UNKNOWN_BLOCK:
		put_record(&nowhere, 0, PAGE);
		put(page, (size_t)opt.page_size);
		break;
	case OUTSIDE:
		put_record(b, offset + opt.page_size, PAGE);
		put(page, (size_t)opt.page_size);
		break;
	default:
		break;
	}
}

static void
put_bad_element(void)
{
	static const uint8_t listen[] = { 8, 0, 4, 0, 0, 8, 0, 5, 0, 0 };

	switch (opt.bad) {
	case UNKNOWN_ELEMENT:
		put8(0x55);
		break;
	case PART_UNKNOWN:
		put_header(PART, 555);
		put64(EOS);
		put_footer(555);
		break;
	case PACKAGED:
		put_command(7, "\0\0\0\x0a", 4);
		put(listen, sizeof listen);
		break;
	case UNKNOWN_COMMAND:
		put_command(99, "abc", 3);
		break;
	default:
		break;
	}
}

/* Is it time for what is bad?  Says so once. */
static int
bad_now(void)
{
	if (records < bad_at)
		return 0;
	bad_at = UINT64_MAX;
	return 1;
}

static void
begin_section(unsigned type)
{
	put_header(type, ram_sid);
	in_section = 1;
	left = opt.section != 0 ? opt.section : 1 + below(draw(), 50);
}

static void
end_section(void)
{
	put64(EOS);
	if (opt.bad == WRONG_FOOTER && bad_now())
		put_footer(ram_sid + 1);
	else
		put_footer(ram_sid);
	in_section = 0;
	if (opt.bad >= WRONG_FOOTER && opt.bad < EOF_EARLY && bad_now())
		put_bad_element();
}

/* Send page n of block b if its class says so in this round. */
static void
send_page(const struct block *b, uint64_t n, uint64_t round)
{
	const enum class c = class_of(n);
	int zero = c == C_ZERO;

	if (c == C_ABSENT)
		return;
	if (c == C_LATE_ZERO)
		zero = round + 1 >= rounds;
	else if (c == C_LATE_DATA)
		zero = round + 1 < rounds;
	else if (round >= opt.passes && round < rounds)
		return;		/* a round for late ones only */
	if (round == rounds && mix(FOR_DIRTY, n) % 8 != 0)
		return;
	if (!in_section) {
		begin_section(PART);
		if (draw() % 4 == 0) {
			end_section();
			put_iterables(PART);
			begin_section(PART);
		}
	}
	if (opt.bad == NO_BLOCK && records == 0)
		last_block = b;
	put_record(b, (n - b->first) * opt.page_size, zero ? ZERO : PAGE);
	if (zero)
		put8(0);
	else {
		if (c == C_ZERODATA)
			memset(page, 0, (size_t)opt.page_size);
		else
			make_page(n, round);
		put(page, (size_t)opt.page_size);
	}
	records++;
	if (opt.bad >= XBZRLE && opt.bad < WRONG_FOOTER && bad_now())
		put_bad_record(b);
	if (--left == 0 && round < rounds)
		end_section();
}

/* Send every page once, in order or nearly so. */
static void
send_round(uint64_t round)
{
	static uint8_t *sent;
	const struct block *b, *o;
	uint64_t n, other;

	if (opt.shuffle) {
		if (sent == NULL && (sent = malloc((size_t)npages / 8 + 1)) == NULL)
			die("out of memory", "");
		memset(sent, 0, (size_t)npages / 8 + 1);
	}
	b = blocks;
	for (n = 0; n < npages; n++) {
		while (n - b->first >= b->pages)
			b++;
		if (!opt.shuffle) {
			send_page(b, n, round);
			continue;
		}
		while (draw() % 8 == 0) {
			other = below(draw(), npages);
			if (sent[other / 8] & 1 << other % 8)
				continue;
			sent[other / 8] |= (uint8_t)(1 << other % 8);
			for (o = b; other < o->first; o--)
				;
			while (other - o->first >= o->pages)
				o++;
			send_page(o, other, round);
		}
		if (!(sent[n / 8] & 1 << n % 8))
			send_page(b, n, round);
		sent[n / 8] |= (uint8_t)(1 << n % 8);
	}
}

static void
put_ram(void)
{
	uint64_t round;

	rounds = opt.passes;
	if (rounds < 2 && opt.pct[C_LATE_ZERO] + opt.pct[C_LATE_DATA] > 0)
		rounds = 2;
	bad_at = npages / 2 < 100 ? npages / 2 : 100;
	for (round = 0; round < rounds; round++)
		send_round(round);
	if (!in_section)
		begin_section(PART);
	if (opt.bad >= XBZRLE && opt.bad < WRONG_FOOTER && bad_at != UINT64_MAX)
		put_bad_record(&blocks[0]);	/* hardly any page was sent */
	if (bad_at != UINT64_MAX)
		bad_at = 0;
	end_section();
	put_iterables(PART);
	if (opt.switchover)
		put_command(11, "", 0);
	if (opt.ordinary) {
		begin_section(END);
		send_round(rounds);
		end_section();
		put_iterables(END);
	}
}

/* ---- devices and their description ---- */

static const char *const device_names[] = {
	"timer", "slirp", "cpu_common", "cpu", "kvm-tpr-opt", "apic", "fw_cfg", "PCIBUS",
	"0000:00:00.0/I440FX", "0000:00:02.0/vga", "ps2kbd", "globalstate"
};
enum { NDEVICE_NAMES = sizeof device_names / sizeof device_names[0] };

static uint32_t
device_sid(uint64_t i)
{
	return (uint32_t)(10 + (i ^ 5));	/* they do not ascend */
}

static size_t
device_size(uint64_t i)
{
	return (size_t)(4 + below(mix(FOR_SIZE, i), BODY_MAX - 4));
}

/* A section with bytes in it that look like the end of one, or of them all. */
static void
put_device(uint64_t i)
{
	static const struct { const char *bytes; size_t len; } traps[] = {
		{ "\x7e", 1 },
		{ "\0\x06", 2 },
		{ "{\"", 2 },
		{ "\x7e\0\0\0\x0a\x04\0\0\0\x0b\x03", 11 },
		{ "\0\x06\0\0\x10\0{\"page_size\": 512, \"devices\": [", 33 },
		{ "QEVM\0\0\0\3", 8 },
		{ "]}", 2 }
	};
	/* Such a one may fool a reader that does not look at its length. */
	static const char fake[] = "\x7e\0\0\0\x02\0\x06\0\0\x01\0{\"page_size\": 512, \"dev";
	static uint8_t body[BODY_MAX + 8];
	const size_t size = device_size(i);
	uint64_t key = mix(FOR_BODY, i);
	size_t k, t;

	fill_random(body, size, key, UINT64_MAX);
	for (k = 0; k < 10; k++) {
		key = scramble(key + 1);
		t = (size_t)(key % (sizeof traps / sizeof traps[0]));
		if (traps[t].len <= size)
			memcpy(body + below(key, size - traps[t].len + 1), traps[t].bytes,
			    traps[t].len);
	}
	if (i < 3 && size > sizeof fake)
		memcpy(body + below(scramble(key), size - sizeof fake), fake, sizeof fake - 1);
	put_full_header(FULL, device_sid(i), device_names[i % NDEVICE_NAMES],
	    (uint32_t)(i / NDEVICE_NAMES), 1 + (uint32_t)(i % 3));
	put(body, size);
	put_footer(device_sid(i));
}

/* Append the description of one device, of which only the size is known. */
static size_t
describe(char *s, size_t size, const char *name, uint64_t instance, size_t bytes)
{
	return (size_t)snprintf(s, size, "%s{\"name\": \"%s\", \"instance_id\": %" PRIu64
	    ", \"fields\": [{\"name\": \"buffer\", \"type\": \"buffer\", \"size\": %zu}]"
	    ", \"size\": %zu}", s[-1] == '[' ? "" : ", ", name, instance, bytes, bytes);
}

static void
put_json(void)
{
	static const char pad_key[] = "], \"padding\": \"";
	const size_t cap = 1024 + 256 * (size_t)opt.devices + (size_t)opt.json;
	char *s = malloc(cap);
	size_t n;
	uint64_t i;

	if (s == NULL)
		die("out of memory", "");
	n = (size_t)snprintf(s, cap, "{\"page_size\": %" PRIu64 ", \"devices\": [",
	    opt.json_page_size != 0 ? opt.json_page_size : opt.page_size);
	if (opt.early)
		n += describe(s + n, cap - n, early_name, 0, EARLY_SIZE);
	for (i = 0; i < opt.devices; i++)
		n += describe(s + n, cap - n, device_names[i % NDEVICE_NAMES],
		    i / NDEVICE_NAMES, device_size(i));
	if (n + sizeof pad_key - 1 + 2 <= opt.json) {
		memcpy(s + n, pad_key, sizeof pad_key - 1);
		for (n += sizeof pad_key - 1; n + 2 < opt.json; n++)
			s[n] = (char)('a' + scramble(n) % 23);
		s[n++] = '"';
	} else
		for (s[n++] = ']'; n + 1 < opt.json; n++)
			s[n] = ' ';
	s[n++] = '}';
	put8(6);
	put32((uint32_t)n);
	put(s, n);
	free(s);
}

/* ---- command line ---- */

static void
add_block(const char *name, size_t len, uint64_t pages)
{
	struct block *b = &blocks[nblocks];

	if (len == 0 || len > 255 || pages == 0 || pages > (uint64_t)1 << 40)
		die("bad --block: ", name);
	if (nblocks++ == BLOCKS_MAX)
		die("too many blocks", "");
	memcpy(b->name, name, len);
	b->pages = pages;
	b->first = npages;
	npages += pages;
}

static uint64_t
number(const char *s, uint64_t min, uint64_t max)
{
	char *end;
	unsigned long long v;

	errno = 0;
	v = strtoull(s, &end, 0);
	if (*s < '0' || *s > '9' || *end != '\0' || errno != 0 || v < min || v > max)
		die("bad number: ", s);
	return v;
}

/* SEED:PCT. */
static void
add_change(const char *v)
{
	char *end;

	if (nchanges == CHANGES_MAX)
		die("too many changes", "");
	errno = 0;
	changes[nchanges].seed = strtoull(v, &end, 0);
	if (*v < '0' || *v > '9' || *end != ':' || errno != 0)
		die("bad --change: ", v);
	changes[nchanges++].pct = number(end + 1, 0, 100);
}

static void
default_blocks(void)
{
	static const struct { const char *name; uint64_t pages; } d[] = {
		{ "pc.ram", 200 },
		{ "0000:00:02.0/vga.vram", 37 },
		{ "/rom@etc/acpi/tables", 32 },
		{ "pc.bios", 16 },
		{ "0000:00:02.0/vga.rom", 7 },
		{ "pc.rom", 16 },
		{ "/rom@etc/table-loader", 1 },
		{ "/rom@etc/acpi/rsdp", 1 },
		{ "m", 1 }
	};
	size_t i;

	for (i = 0; i < sizeof d / sizeof d[0]; i++)
		add_block(d[i].name, strlen(d[i].name), d[i].pages);
}

/* The value of option name if arg is that option, else NULL. */
static const char *
value_of(const char *arg, const char *name)
{
	const size_t n = strlen(name);

	return strncmp(arg, name, n) == 0 && arg[n] == '=' ? arg + n + 1 : NULL;
}

static void
parse_option(const char *arg)
{
	static const struct { const char *name; int *flag; } flags[] = {
		{ "--shuffle", &opt.shuffle }, { "--page-bits", &opt.page_bits },
		{ "--uuid", &opt.uuid }, { "--early", &opt.early }, { "--empty", &opt.empty },
		{ "--return-path", &opt.return_path }, { "--switchover", &opt.switchover },
		{ "--ignore-shared", &opt.ignore_shared }
	};
	static const struct { const char *name; uint64_t *to, min, max; } numbers[] = {
		{ "--seed", &opt.seed, 0, UINT64_MAX },
		{ "--page-size", &opt.page_size, 256, PAGE_MAX },
		{ "--passes", &opt.passes, 1, 60 },
		{ "--section", &opt.section, 1, UINT64_MAX },
		{ "--devices", &opt.devices, 1, 1000000 },
		{ "--json", &opt.json, 0, 1 << 30 },
		{ "--json-page-size", &opt.json_page_size, 1, UINT64_MAX },
		{ "--cut", &opt.cut, 0, UINT64_MAX },
		{ "--absent", &opt.pct[C_ABSENT], 0, 100 },
		{ "--zero", &opt.pct[C_ZERO], 0, 100 },
		{ "--zerodata", &opt.pct[C_ZERODATA], 0, 100 },
		{ "--late-zero", &opt.pct[C_LATE_ZERO], 0, 100 },
		{ "--late-data", &opt.pct[C_LATE_DATA], 0, 100 }
	};
	const char *v, *colon;
	size_t i;

	for (i = 0; i < sizeof flags / sizeof flags[0]; i++)
		if (strcmp(arg, flags[i].name) == 0) {
			*flags[i].flag = 1;
			return;
		}
	for (i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		if ((v = value_of(arg, numbers[i].name)) != NULL) {
			*numbers[i].to = number(v, numbers[i].min, numbers[i].max);
			return;
		}
	if ((v = value_of(arg, "--machine")) != NULL)
		opt.machine = v;
	else if ((v = value_of(arg, "--drained")) != NULL)
		opt.drained = v;
	else if ((v = value_of(arg, "--block")) != NULL) {
		if ((colon = strrchr(v, ':')) == NULL)
			die("no number of pages: ", v);
		add_block(v, (size_t)(colon - v), number(colon + 1, 1, UINT64_MAX));
	} else if ((v = value_of(arg, "--change")) != NULL) {
		add_change(v);
	} else if ((v = value_of(arg, "--kind")) != NULL) {
		opt.ordinary = strcmp(v, "ordinary") == 0;
		if (!opt.ordinary && strcmp(v, "background") != 0)
			die("unknown kind: ", v);
	} else if ((v = value_of(arg, "--iterable")) != NULL) {
		static const char *const names[NITERABLE] =
		    { "dirty-bitmap", "htab", "stattrib" };

		for (i = 0; i < NITERABLE && strcmp(v, names[i]) != 0; i++)
			;
		if (i == NITERABLE)
			die("unknown iterable: ", v);
		opt.iterable[i] = 1;
	} else if ((v = value_of(arg, "--bad")) != NULL) {
		for (i = 1; i < NBAD && strcmp(v, bad_name[i]) != 0; i++)
			;
		if (i == NBAD)
			die("unknown --bad: ", v);
		opt.bad = (enum bad)i;
	} else
		die("unknown option: ", arg);
}

int
main(int argc, char **argv)
{
	uint64_t i, others;
	FILE *f;
	int k, zero_set = 0;

	for (k = 1; k < argc; k++) {
		parse_option(argv[k]);
		zero_set |= value_of(argv[k], "--zero") != NULL;
	}
	if (opt.page_size & (opt.page_size - 1))
		die("page size is not a power of two", "");
	others = opt.pct[C_ABSENT] + opt.pct[C_ZERODATA] + opt.pct[C_LATE_ZERO] +
	    opt.pct[C_LATE_DATA];
	if (!zero_set && others > 80)
		opt.pct[C_ZERO] = others < 100 ? 100 - others : 0;
	if (others + opt.pct[C_ZERO] > 100)
		die("more than 100 percent of pages", "");
	if (nblocks == 0)
		default_blocks();
	if (opt.cut == 0)
		return 0;
	put_prologue();
	put_ram();
	flush();
	if (opt.drained != NULL && is_drained() && (f = fopen(opt.drained, "w")) != NULL)
		fclose(f);
	if (opt.bad != EOF_EARLY)
		for (i = 0; i < opt.devices; i++)
			put_device(i);
	put8(0);
	if (opt.json != 0)
		put_json();
	flush();
	return 0;
}
