/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image_fuzz.c -- the reader of images, the tables behind it, and the writer.
 *
 * An input is an image, or the files of a chain one after the other: the image is the last one,
 * its base (the file b0) the one before, that one's base (b1) the first.  Nearly all bytes of an
 * image are under some checksum, so the mutator repairs these after it has changed something, most
 * of the time, those of coded units and of what one image says of another included; and it knows
 * where the sections and units lie, so that it can make one longer, shorter, or another one's,
 * with all places still right.
 *
 * Checked: what check finds good can be loaded, with every stored page once and its checksum
 * right; no page that is not right is called so; whatever a small file claims, time and memory
 * are bounded; it is exported, or there is a message; and a good image, written again with its pages in any order, some of them more
 * than once, coded or not, based on the first one or not, gives a good image of the same guest.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "../../bytes.h"
#include "../../codec.h"
#include "../../crc32c.h"
#include "../../describe.h"
#include "../../hot.h"
#include "../../image.h"
#include "../../preamble.h"
#include "../../snap.h"
#include "fuzz.h"
#include "page.h"
#include "verbs.h"

size_t LLVMFuzzerMutate(uint8_t *, size_t, size_t);
size_t LLVMFuzzerCustomMutator(uint8_t *, size_t, size_t, unsigned);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *, size_t, const uint8_t *, size_t, uint8_t *,
    size_t, unsigned);
int LLVMFuzzerInitialize(int *, char ***);

enum {
	HEAP = 192 << 20,	/* for images of at most 1 MiB; writers with a codec want most */
	TIME_MS = 3000,		/* under sanitizers, on a machine that does other things, too */
	LOOKUPS = 20000,
	CRC_AT = 4092,
	SECTION_AT = 112,
	SECTION_SIZE = 32,
	FILES = 3,		/* of a chain */
	FILE_ROOM = 1 << 20
};

/* ---- the mutator ---- */

static uint64_t luck;

static uint64_t
below(uint64_t n)
{
	return n == 0 ? 0 : chance_next(&luck) % n;
}

static int
one_in(uint64_t n)
{
	return below(n) == 0;
}

/* An image in memory, believed as far as it makes sense. */
struct sketch {
	uint8_t *buf;
	size_t len, max;
	uint8_t *foot;
	uint32_t nsec;
	struct { uint32_t type; size_t off, len; } sec[SECTIONS_MAX];
};

static int
look(struct sketch *k)
{
	uint8_t *p;
	uint64_t off, len;
	uint32_t i, n;

	if (k->len < HEADER_SIZE + FOOTER_SIZE)
		return 0;
	k->foot = k->buf + k->len - FOOTER_SIZE;
	n = get_le32(k->foot + 104);
	k->nsec = 0;
	for (i = 0; i < n && i < SECTIONS_MAX; i++) {
		p = k->foot + SECTION_AT + i * SECTION_SIZE;
		off = get_le64(p + 8);
		len = get_le64(p + 16);
		if (off > k->len - FOOTER_SIZE || len > k->len - FOOTER_SIZE - off)
			off = len = 0;
		k->sec[i].type = get_le32(p);
		k->sec[i].off = (size_t)off;
		k->sec[i].len = (size_t)len;
		k->nsec++;
	}
	return 1;
}

/* Index of the section of a type, or -1. */
static int
find(const struct sketch *k, uint32_t type)
{
	uint32_t i;

	for (i = 0; i < k->nsec; i++)
		if (k->sec[i].type == type)
			return (int)i;
	return -1;
}

/* Length of the part at p, of which there are left bytes. */
static size_t
part_len(const uint8_t *p, size_t left)
{
	size_t n = get_le32(p + 24);

	return n >= PART_HEADER && n <= PART_MAX && n <= left ? n : left;
}

static void
each_part(struct sketch *k, uint32_t type, void (*fn)(struct sketch *, uint8_t *, size_t))
{
	int i = find(k, type);
	uint8_t *p, *end;
	size_t n;

	if (i < 0)
		return;
	p = k->buf + k->sec[i].off;
	end = p + k->sec[i].len;
	for (; end - p >= PART_HEADER; p += n) {
		n = part_len(p, (size_t)(end - p));
		fn(k, p, n);
	}
}

static void
each_unit(struct sketch *k, uint8_t *p, size_t n, void (*fn)(struct sketch *, uint8_t *, size_t))
{
	size_t size = UNIT_RECORD + SLOT_SIZE * (size_t)(get_le32(k->buf + 36) & 511);
	uint8_t *u;

	for (u = p + PART_HEADER; (size_t)(p + n - u) >= size; u += size)
		fn(k, u, size);
}

/* Decode the n bytes at p to just len bytes: 0, or -1. */
static int
expand(const uint8_t *p, size_t n, uint8_t *out, size_t len)
{
	const struct codec *c = codec_zstd;
	static void *decoder;

	if (c == NULL)
		return -1;
	if (decoder == NULL)
		MUST((decoder = c->decoder()) != NULL);
	return c->decode(decoder, p, n, out, len);
}

static void
right_unit(struct sketch *k, uint8_t *u, size_t size)
{
	static uint8_t plain[CODED_MAX];
	uint64_t off = get_le48(u), len = get_le32(u + 8), page = get_le32(k->buf + 32), n;
	size_t i, slots = (size - UNIT_RECORD) / SLOT_SIZE;
	const uint8_t *bytes = k->buf + off;

	if (off > k->len || len > k->len - off || page == 0)
		return;
	put_le32(u + 12, crc32c(0, bytes, (size_t)len));
	n = len;
	if (u[6] == CODEC_ZSTD) {
		n = (u[7] + UINT64_C(1)) * page;
		if (n > sizeof plain || expand(bytes, (size_t)len, plain, (size_t)n) != 0)
			return;
		bytes = plain;
	}
	for (i = 0; i < slots && (i + 1) * page <= n; i++)
		if (get_le40(u + UNIT_RECORD + i * SLOT_SIZE) != DEAD_PAGE || one_in(2))
			put_le32(u + UNIT_RECORD + i * SLOT_SIZE + 5,
			    crc32c(0, bytes + i * page, (size_t)page));
}

static void
right_units(struct sketch *k, uint8_t *p, size_t n)
{
	each_unit(k, p, n, right_unit);
}

static void
seal_part(struct sketch *k, uint8_t *p, size_t n)
{
	if (!one_in(64))
		put_le64(p + 8, get_le64(k->foot + 24));
	put_le32(p, crc32c(0, p + 4, n - 4));
}

/* The files that the one in hand is based on; NULL: there are no more. */
static struct sketch *bases[FILES];

/* The CRC that a base has for a page, if the page lies there. */
static int
crc_there(struct sketch *k, uint64_t page, uint32_t *crc)
{
	size_t size = UNIT_RECORD + SLOT_SIZE * (size_t)(get_le32(k->buf + 36) & 511), n, at;
	int i = find(k, SEC_UNITS);
	uint8_t *p, *end, *u;

	if (i < 0)
		return 0;
	p = k->buf + k->sec[i].off;
	end = p + k->sec[i].len;
	for (; end - p >= PART_HEADER; p += n) {
		n = part_len(p, (size_t)(end - p));
		for (u = p + PART_HEADER; (size_t)(p + n - u) >= size; u += size)
			for (at = UNIT_RECORD; at < size; at += SLOT_SIZE)
				if (get_le40(u + at) == page) {
					*crc = get_le32(u + at + 5);
					return 1;
				}
	}
	return 0;
}

/* What a leaf tells of pages in other images. */
static void
right_entries(struct sketch *k, uint8_t *p, size_t n)
{
	uint64_t first = get_le64(p + 16) * LEAF_PAGES;
	uint8_t *e = p + PART_HEADER + LEAF_STATES;
	unsigned i, st, some = 0;
	uint32_t crc;

	(void)k;
	if (n < PART_HEADER + LEAF_STATES)
		return;
	for (i = 0; i < LEAF_PAGES && p + n - e >= ENTRY_SIZE && some < 256; i++) {
		st = p[PART_HEADER + i / 4] >> 2 * (i % 4) & 3;
		if (st == PAGE_ANCESTOR && e[4] < FILES && bases[e[4]] != NULL && ++some > 0 &&
		    crc_there(bases[e[4]], first + i, &crc))
			put_le32(e, crc);
		e += st >= PAGE_STORED ? ENTRY_SIZE : 0;
	}
}

/* Ancestors: those called b0 and b1, wherever, have the UUIDs that those files have. */
static void
right_ancestors(struct sketch *k)
{
	int i = find(k, SEC_ANCESTORS);
	uint8_t *p, *end;
	unsigned which;
	size_t n;

	if (i < 0)
		return;
	p = k->buf + k->sec[i].off;
	end = p + k->sec[i].len;
	for (p += 4; end - p >= 20; p += 18 + n) {
		n = get_le16(p + 16);
		if (n < 2 || n > (size_t)(end - p) - 18)
			break;
		which = (unsigned)(p[18 + n - 1] - '0');
		if (p[18 + n - 2] == 'b' && which < FILES && bases[which] != NULL)
			memcpy(p, bases[which]->foot + 32, 16);
	}
}

/* Make checksums right, and what else only repeats something. */
static void
repair(struct sketch *k)
{
	uint32_t i, type;
	uint8_t *p;

	if (!look(k))
		return;
	put_le32(k->buf + CRC_AT, crc32c(0, k->buf, CRC_AT));
	if (!one_in(64))
		put_le32(k->foot + 100, get_le32(k->buf + CRC_AT));
	if (!one_in(64))
		put_le64(k->foot + 16, k->len);
	if (!one_in(8))
		each_part(k, SEC_UNITS, right_units);
	if (bases[0] != NULL && !one_in(16))
		each_part(k, SEC_PAGES, right_entries);
	if (bases[0] != NULL && !one_in(16))
		right_ancestors(k);
	for (type = SEC_UNITS; type <= SEC_ROOT; type++)
		if (!one_in(256))
			each_part(k, type, seal_part);
	for (i = 0; i < k->nsec; i++) {
		p = k->foot + SECTION_AT + i * SECTION_SIZE;
		if (k->sec[i].type >= SEC_WHOLE && !one_in(256))
			put_le32(p + 4, crc32c(0, k->buf + k->sec[i].off, k->sec[i].len));
	}
	put_le32(k->foot + CRC_AT, crc32c(0, k->foot, CRC_AT));
}

static int64_t moved;

static void
move_unit(struct sketch *k, uint8_t *u, size_t size)
{
	(void)k;
	(void)size;
	put_le48(u, get_le48(u) + (uint64_t)moved);
}

static void
move_units(struct sketch *k, uint8_t *p, size_t n)
{
	each_unit(k, p, n, move_unit);
}

static void
move_first(struct sketch *k, uint8_t *p, size_t n)
{
	(void)k;
	if (n >= PART_HEADER + 8)
		put_le64(p + PART_HEADER, get_le64(p + PART_HEADER) + (uint64_t)moved);
}

/* Make section i n bytes long, by inserting or removing at its byte at. */
static void
resize(struct sketch *k, uint32_t i, size_t at, size_t n)
{
	size_t old = k->sec[i].len, place = k->sec[i].off + at, cut, j;
	uint8_t *p;

	if (at > old || (n > old && n - old > k->max - k->len))
		return;
	cut = n < old ? old - n : 0;
	if (cut > old - at)
		return;
	memmove(k->buf + place + (n > old ? n - old : 0), k->buf + place + cut,
	    k->len - place - cut);
	if (n > old)
		for (j = 0; j < n - old; j++)
			k->buf[place + j] = one_in(2) ? 0 : (uint8_t)below(256);
	moved = (int64_t)n - (int64_t)old;
	k->len += (size_t)moved;
	k->foot += moved;
	p = k->foot + SECTION_AT + i * SECTION_SIZE;
	put_le64(p + 16, n);
	for (i++; i < k->nsec; i++) {
		if (k->sec[i].off < place + cut)
			continue;	/* entries need not be in order */
		p = k->foot + SECTION_AT + i * SECTION_SIZE;
		put_le64(p + 8, get_le64(p + 8) + (uint64_t)moved);
		k->sec[i].off += (size_t)moved;
		if (k->sec[i].type == SEC_PAGES)
			each_part(k, SEC_NODES, move_first);
		if (k->sec[i].type == SEC_NODES)
			each_part(k, SEC_ROOT, move_first);
		if (k->sec[i].type == SEC_DATA)
			each_part(k, SEC_UNITS, move_units);
	}
	look(k);
}

static uint64_t
interesting(void)
{
	static const uint64_t v[] = {
		0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 1023, 1024,
		2048, 4095, 4096, 8191, 8192, 8193, 16383, 16384, 16385, 32767, 32768, 65535, 65536,
		65537, 1 << 20, INT32_MAX, 0x80000000, UINT32_MAX, UINT64_C(1) << 32,
		(UINT64_C(1) << 40) - 1, UINT64_C(1) << 40, (UINT64_C(1) << 48) - 1,
		UINT64_C(1) << 48, UINT64_C(1) << 50, (UINT64_C(1) << 50) - 1024,
		(UINT64_C(1) << 50) - 4096, UINT64_C(1) << 52, (UINT64_C(1) << 52) - 4096,
		UINT64_C(1) << 62, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX - 4095, UINT64_MAX - 1,
		UINT64_MAX
	};

	return v[below(sizeof v / sizeof v[0])];
}

/* Change a number of 1 to 8 bytes at p, or one bit of it. */
static void
change(uint8_t *p, size_t left)
{
	size_t width, i;
	uint64_t v = 0;

	width = (size_t)1 << below(4);
	while (width > left)
		width /= 2;
	for (i = width; i-- > 0;)
		v = v << 8 | p[i];
	switch (below(6)) {
	case 0:
		v = interesting();
		break;
	case 1:
		v += 1 + below(16);
		break;
	case 2:
		v -= 1 + below(16);
		break;
	case 3:
		v ^= UINT64_C(1) << below(8 * width);
		break;
	case 4:
		v = chance_next(&luck);
		break;
	default:
		v = one_in(2) ? v * 2 : v / 2;
		break;
	}
	for (i = 0; i < width; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

/* The record of unit number which of all there are, or NULL. */
static uint8_t *
unit_number(struct sketch *k, uint64_t which, size_t *size)
{
	int i = find(k, SEC_UNITS);
	uint8_t *p, *end;
	size_t n;

	*size = UNIT_RECORD + SLOT_SIZE * (size_t)(get_le32(k->buf + 36) & 511);
	if (i < 0)
		return NULL;
	p = k->buf + k->sec[i].off;
	end = p + k->sec[i].len;
	for (; end - p >= PART_HEADER; p += n) {
		n = part_len(p, (size_t)(end - p));
		if (which < (n - PART_HEADER) / *size)
			return p + PART_HEADER + which * *size;
		which -= (n - PART_HEADER) / *size;
	}
	return NULL;
}

static uint64_t moved_from;

static void
move_behind(struct sketch *k, uint8_t *u, size_t size)
{
	(void)k;
	(void)size;
	if (get_le48(u) > moved_from)
		put_le48(u, get_le48(u) + (uint64_t)moved);
}

static void
move_units_behind(struct sketch *k, uint8_t *p, size_t n)
{
	each_unit(k, p, n, move_behind);
}

/* The code of len bytes, now and then in two frames, or followed by an odd one. */
static size_t
encode_oddly(const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	const struct codec *c = codec_zstd;
	size_t cut = one_in(8) ? (size_t)below(len) : len, n, more;
	static void *encoder;

	if (encoder == NULL)
		MUST((encoder = c->encoder(1)) != NULL);
	if ((n = c->encode(encoder, in, cut, out, room)) == 0)
		return 0;
	if (cut < len) {
		if ((more = c->encode(encoder, in + cut, len - cut, out + n, room - n)) == 0)
			return 0;
		n += more;
	}
	if (one_in(16) && room - n >= 12) {	/* a frame to be skipped */
		put_le32(out + n, 0x184d2a50 + (uint32_t)below(16));
		put_le32(out + n + 4, 4);
		put_le32(out + n + 8, 0);
		n += 12;
	}
	return n;
}

/* One unit's pages changed and coded anew, or stored as they are. */
static void
recode(struct sketch *k)
{
	static uint8_t plain[CODED_MAX], code[CODED_MAX + 64];
	uint32_t page = get_le32(k->buf + 32), count;
	size_t size, len, n, old, at;
	uint64_t off, end;
	int data = find(k, SEC_DATA);
	uint8_t *u;

	if ((u = unit_number(k, below(16), &size)) == NULL || data < 0 || page == 0 ||
	    codec_zstd == NULL)
		return;
	off = get_le48(u);
	old = get_le32(u + 8);
	count = one_in(4) ? (uint32_t)below((size - UNIT_RECORD) / SLOT_SIZE) : u[7];
	end = k->sec[data].off + k->sec[data].len;
	len = ((size_t)u[7] + 1) * page;
	if (off < k->sec[data].off || off > end || old > end - off || len > sizeof plain)
		return;
	memset(plain, (int)below(3), sizeof plain);
	if (u[6] == CODEC_RAW)
		memcpy(plain, k->buf + off, old < len ? old : len);
	else
		expand(k->buf + off, old, plain, len);
	len = ((size_t)count + 1) * page;
	if (len > sizeof plain)
		return;
	at = (size_t)below(len);
	if (!one_in(3))
		change(plain + at, len - at);
	if (one_in(4))
		memset(plain + at / page * page, (int)below(3), page);
	n = one_in(8) ? 0 : encode_oddly(plain, len, code, one_in(4) ? sizeof code : len - 1);
	u[6] = n == 0 ? CODEC_RAW : CODEC_ZSTD;
	u[7] = (uint8_t)count;
	if (n == 0)
		memcpy(code, plain, n = len);
	put_le32(u + 8, (uint32_t)n);
	resize(k, (uint32_t)data, (size_t)(off - k->sec[data].off) + (n < old ? 0 : old),
	    k->sec[data].len - old + n);
	data = find(k, SEC_DATA);
	if (data < 0 || k->sec[data].off + k->sec[data].len != end - old + n)
		return;
	memcpy(k->buf + off, code, n);
	moved_from = off;
	moved = (int64_t)n - (int64_t)old;
	each_part(k, SEC_UNITS, move_units_behind);
}

/* A page that is here, or nowhere, comes to lie in an ancestor, or the other way round. */
static void
other_state(struct sketch *k)
{
	int i = find(k, SEC_PAGES);
	uint8_t *p, *s;
	unsigned at;

	if (i < 0 || k->sec[i].len < PART_HEADER + LEAF_STATES)
		return;
	p = k->buf + k->sec[i].off;
	at = (unsigned)below(one_in(4) ? LEAF_PAGES : 64);
	s = p + PART_HEADER + at / 4;
	*s = (uint8_t)(*s ^ (one_in(2) ? 1u : (unsigned)below(4)) << 2 * (at % 4));
}

/* A place worth changing: its beginning, and in *n how much there is of it. */
static uint8_t *
region(struct sketch *k, size_t *n)
{
	uint64_t r = below(10);
	uint8_t *p = k->buf, *end;
	uint32_t i;
	size_t len;

	if (r == 0) {
		*n = 32;
		return k->buf + 16;
	}
	if (r == 1) {
		*n = SECTION_AT - 16;
		return k->foot + 16;
	}
	if (r == 3 && k->sec[0].off > HEADER_SIZE && one_in(8)) {
		*n = k->sec[0].off - HEADER_SIZE;	/* the gap before the data */
		return k->buf + HEADER_SIZE;
	}
	if (r == 2 || k->nsec == 0) {
		*n = (size_t)k->nsec * SECTION_SIZE + SECTION_SIZE;
		return k->foot + SECTION_AT;
	}
	i = (uint32_t)below(k->nsec);
	p += k->sec[i].off;
	*n = k->sec[i].len;
	if (k->sec[i].type < SEC_UNITS || k->sec[i].type > SEC_ROOT)
		return p;
	/* A part of the table. */
	for (end = p + *n; end - p >= PART_HEADER; p += len) {
		len = part_len(p, (size_t)(end - p));
		if (one_in(3) || (size_t)(end - p) - len < PART_HEADER) {
			if (one_in(4))
				return p + 4;	/* its header */
			*n = len - PART_HEADER;
			return p + PART_HEADER;
		}
	}
	*n = 0;
	return p;
}

/* Shuffle, double, drop or add an entry of the footer. */
static void
entries(struct sketch *k)
{
	uint8_t *p = k->foot + SECTION_AT, tmp[SECTION_SIZE];
	uint32_t n = k->nsec, a = (uint32_t)below(n), b = (uint32_t)below(n);

	if (n == 0 || n >= SECTIONS_MAX)
		return;
	switch (below(4)) {
	case 0:
		memcpy(tmp, p + a * SECTION_SIZE, SECTION_SIZE);
		memcpy(p + a * SECTION_SIZE, p + b * SECTION_SIZE, SECTION_SIZE);
		memcpy(p + b * SECTION_SIZE, tmp, SECTION_SIZE);
		break;
	case 1:		/* empty, of another type, at the end of a */
		memmove(p + (a + 1) * SECTION_SIZE, p + a * SECTION_SIZE, (n - a) * SECTION_SIZE);
		memset(p + a * SECTION_SIZE, 0, SECTION_SIZE);
		put_le32(p + a * SECTION_SIZE, (uint32_t)(one_in(2) ? 16 + below(12) : below(32)));
		put_le64(p + a * SECTION_SIZE + 8, get_le64(p + (a + 1) * SECTION_SIZE + 8));
		put_le32(k->foot + 104, n + 1);
		break;
	case 2:
		memmove(p + a * SECTION_SIZE, p + (a + 1) * SECTION_SIZE,
		    (n - 1 - a) * SECTION_SIZE);
		memset(p + (n - 1) * SECTION_SIZE, 0, SECTION_SIZE);
		put_le32(k->foot + 104, n - 1);
		break;
	default:
		put_le32(p + a * SECTION_SIZE, (uint32_t)below(26));
		break;
	}
	look(k);
}

/* A guest of another size, with the root it needs. */
static void
other_ram(struct sketch *k)
{
	static const uint64_t sizes[] = {
		1, 2, 8191, 8192, 8193, 16384, UINT64_C(1) << 27, (UINT64_C(1) << 27) + 1,
		UINT64_C(1) << 28, UINT64_C(3) << 27, UINT64_C(1) << 34, UINT64_C(1) << 39,
		PAGES_MAX
	};
	int map = find(k, SEC_RAM_MAP), root = find(k, SEC_ROOT), nodes = find(k, SEC_NODES);
	uint64_t pages = sizes[below(sizeof sizes / sizeof sizes[0])], n, i;
	uint32_t page_size = get_le32(k->buf + 32);
	uint64_t node0;
	uint8_t *p;
	size_t name;
	unsigned fill = (unsigned)below(4);

	if (one_in(2))
		pages = 1 + below(pages);
	if (map < 0 || root < 0 || nodes < 0 || k->sec[map].len < 34 ||
	    k->sec[root].len < PART_HEADER + 16)
		return;
	p = k->buf + k->sec[map].off;
	name = p[16];
	if (get_le32(p) != 1 || k->sec[map].len != 16 + 17 + name)
		return;
	put_le64(p + 8, pages);
	put_le64(p + 17 + name, pages * page_size);
	put_le64(k->foot + 56, pages);
	n = (pages + LEAF_PAGES - 1) / LEAF_PAGES;
	n = (n + NODE_LEAVES - 1) / NODE_LEAVES;
	p = k->buf + k->sec[root].off;
	node0 = get_le16(p + PART_HEADER + 8);
	resize(k, (uint32_t)root, PART_HEADER + 10 < k->sec[root].len ? PART_HEADER + 10 : 0,
	    (size_t)(PART_HEADER + 8 + 2 * n + GRANULE - 1) / GRANULE * GRANULE);
	root = find(k, SEC_ROOT);
	if (root < 0 || k->sec[root].len != (PART_HEADER + 8 + 2 * n + GRANULE - 1) / GRANULE * GRANULE)
		return;
	p = k->buf + k->sec[root].off;
	put_le32(p + 24, (uint32_t)k->sec[root].len);
	put_le32(p + 28, (uint32_t)n);
	memset(p + PART_HEADER + 8, 0, k->sec[root].len - PART_HEADER - 8);
	put_le16(p + PART_HEADER + 8, (uint32_t)node0);
	for (i = 1; i < n; i++)
		put_le16(p + PART_HEADER + 8 + 2 * i, fill == 0 ? 0 : fill == 1 ? 1 :
		    one_in(16) ? 2 + (uint32_t)below(3000) : (uint32_t)below(2));
}

static void
mutate_once(struct sketch *k)
{
	uint8_t *p;
	size_t n, at, to;
	uint32_t i;

	switch (below(20)) {
	case 16:
	case 17:
		if (get_le64(k->buf + 16) & FEATURE_CODEC)
			recode(k);
		return;
	case 18:
		if (get_le64(k->buf + 16) & FEATURE_ANCESTORS)
			other_state(k);
		return;
	case 0:
		if (k->nsec == 0)
			return;
		i = (uint32_t)below(k->nsec);
		at = (size_t)below(k->sec[i].len + 1);
		n = (size_t)(one_in(2) ? 16 * (1 + below(8)) : 1 + below(64));
		to = one_in(2) ? k->sec[i].len + n : k->sec[i].len > n ? k->sec[i].len - n : 0;
		resize(k, i, at, to);
		return;
	case 1:
		entries(k);
		return;
	case 2:
		other_ram(k);
		return;
	case 3:
		p = region(k, &n);
		if (n > 0 && n <= (1 << 16)) {
			at = (size_t)below(n);
			to = 1 + (size_t)below(n - at < 64 ? n - at : 64);
			LLVMFuzzerMutate(p + at, to, to);
		}
		return;
	case 4:		/* a copy of another place */
		p = region(k, &n);
		if (n > 0) {
			at = (size_t)below(n);
			to = 1 + (size_t)below(n - at < 48 ? n - at : 48);
			memmove(p + at, k->buf + below(k->len - to), to);
		}
		return;
	default:
		p = region(k, &n);
		if (n > 0) {
			at = (size_t)(one_in(2) ? below(n) : below(n < 48 ? n : 48));
			change(p + at, n - at);
		}
		return;
	}
}

/* ---- the files of an input ---- */

/* Cut it: where each begins and how long it is, the image first.  How many; 1 or more. */
static unsigned
split(const uint8_t *data, size_t size, size_t at[FILES], size_t len[FILES])
{
	size_t end = size;
	uint64_t l;
	unsigned n = 0;

	do {
		l = end < 2 * (HEADER_SIZE + FOOTER_SIZE) || n == FILES - 1 ? end :
		    get_le64(data + end - FOOTER_SIZE + 16);
		if (l < HEADER_SIZE + FOOTER_SIZE || l > end - (HEADER_SIZE + FOOTER_SIZE))
			l = end;
		at[n] = end - (size_t)l;
		len[n++] = (size_t)l;
		end -= (size_t)l;
	} while (end > 0);
	return n;
}

static uint8_t room[FILES][FILE_ROOM];

/* The files, each in memory of its own.  0: not to be done. */
static unsigned
unpack(const uint8_t *data, size_t size, size_t max, struct sketch k[FILES])
{
	size_t at[FILES], len[FILES];
	unsigned i, n;

	if (size > FILE_ROOM || max < size)
		return 0;
	n = split(data, size, at, len);
	memset(k, 0, FILES * sizeof *k);
	for (i = 0; i < n; i++) {
		k[i].buf = memcpy(room[i], data + at[i], len[i]);
		k[i].len = len[i];
		k[i].max = len[i] + (max - size);
		if (k[i].max > FILE_ROOM)
			k[i].max = FILE_ROOM;
		if (!look(&k[i]))
			return 0;
	}
	return n;
}

/* Make right what the files say of themselves and of one another, the oldest one first. */
static void
repair_all(struct sketch k[FILES], unsigned n)
{
	unsigned i, j;

	for (i = n; i-- > 0;) {
		for (j = 0; j < FILES; j++)
			bases[j] = i == 0 && j + 1 < n ? &k[j + 1] : NULL;
		if (n == 1 || !one_in(32))
			repair(&k[i]);
	}
}

static size_t
pack(uint8_t *data, const struct sketch k[FILES], unsigned n)
{
	uint8_t *p = data;

	while (n-- > 0) {
		memcpy(p, k[n].buf, k[n].len);
		p += k[n].len;
	}
	return (size_t)(p - data);
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct sketch k[FILES], *one;
	uint64_t times;
	unsigned n;

	luck = seed + 1;
	if (one_in(64) || (n = unpack(data, size, max, k)) == 0)
		return LLVMFuzzerMutate(data, size, max);
	one = &k[one_in(2) ? 0 : below(n)];
	for (times = 1 + below(one_in(2) ? 1 : 5); times > 0; times--) {
		mutate_once(one);
		look(one);
	}
	if (!one_in(32))
		repair_all(k, n);
	return pack(data, k, n);
}

/* A section of the other image in the place of ours. */
size_t
LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen,
    uint8_t *out, size_t max, unsigned seed)
{
	static uint8_t other[FILE_ROOM];
	struct sketch k[FILES], m;
	unsigned n;
	int i, j;

	luck = seed + 1;
	memset(&m, 0, sizeof m);
	if (blen > sizeof other || (n = unpack(a, alen, max, k)) == 0)
		return 0;
	m.buf = memcpy(other, b, blen);
	m.len = m.max = blen;
	if (!look(&m) || k->nsec == 0)
		return 0;
	i = (int)below(k->nsec);
	if ((j = find(&m, k->sec[i].type)) < 0)
		return 0;
	resize(k, (uint32_t)i, 0, m.sec[j].len);
	if (k->sec[i].len == m.sec[j].len)
		memcpy(k->buf + k->sec[i].off, m.buf + m.sec[j].off, m.sec[j].len);
	repair_all(k, n);
	return pack(out, k, n);
}

/* ---- the target ---- */

static int file[FILES];
static const char *dir;
static char path[96], again[96], exported[96];

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int i;

	(void)argc;
	(void)argv;
	crc32c_init();
	dir = fuzz_directory();
	for (i = 0; i < FILES; i++) {
		snprintf(path, sizeof path, i == 0 ? "%s/image" : "%s/b%d", dir, i - 1);
		MUST((file[i] = open(path, O_RDWR | O_CREAT, 0600)) >= 0);
	}
	snprintf(path, sizeof path, "%s/image", dir);
	snprintf(again, sizeof again, "%s/again", dir);
	snprintf(exported, sizeof exported, "%s/exported", dir);
	return 0;
}

static void
store(int fd, const uint8_t *data, size_t size)
{
	ssize_t n;
	size_t done;

	MUST(ftruncate(fd, (off_t)size) == 0);
	for (done = 0; done < size; done += (size_t)n)
		MUST((n = pwrite(fd, data + done, size - done, (off_t)done)) > 0);
}

/* Messages on the image before those that are counted: of a damaged place, the first time it is
 * met tells. */
static unsigned said;

static void
forget_messages(void)
{
	said += messages;
	messages = 0;
}

static int
fails(int err)
{
	MUST(err == SNAP_ESYS || err == SNAP_EDATA);
	MUST(messages + said > 0);
	return -1;
}

/* The input, and whether none of the files in it is coded. */
static const uint8_t *input;
static size_t input_size;
static int all_raw;

/* Where the bytes of a good page are in the files. */
static void
check_page(uint32_t page_size, const uint8_t *got)
{
	MUST(input_size > page_size && got != NULL);
	MUST(!all_raw || memmem(input, input_size, got, page_size) != NULL);
}

/* The pages of a fetch. */
static void
check_fetch(struct image *im, struct image_fetch *f, uint64_t *sum)
{
	uint32_t page_size = image_header(im)->page_size;
	unsigned i, bad = f->n;
	int right;

	MUST(f->n <= f->max);
	MUST(f->req.error == 0);	/* nothing leads outside of the file */
	for (i = f->n; i-- > 0;) {
		MUST(f->page[i] < image_ram(im)->npages);
		if (!f->good[i])
			bad = i;
		right = crc32c(0, fetch_data(f, i), page_size) == f->crc[i];
		MUST(right || !f->good[i]);
		MUST(!right || f->good[i] || !all_raw);
		if (i < 2)
			check_page(page_size, fetch_data(f, i));
		*sum += chance_next(&(uint64_t){ f->page[i] });
	}
	MUST(f->bad == bad);
	MUST(fetch_check(f) == (bad < f->n ? SNAP_EDATA : 0));
}

/* As send_stored() in load.c, or with faults as check.c: pages seen, or -1: damage. */
static int64_t
scan(struct image *im, unsigned *faults, uint64_t *sum)
{
	struct image_scan *s = scan_new(im, 0, faults);
	struct image_fetch *f;
	int64_t seen = 0;
	int r, bad = 0;

	MUST(s != NULL);
	while ((r = scan_next(s, &f)) == 1) {
		check_fetch(im, f, sum);
		bad |= f->bad < f->n;
		if (faults != NULL)
			*faults += f->bad < f->n;
		else if (bad)
			break;
		seen += f->n;
	}
	scan_free(s);
	if (r < 0)
		return fails(r);
	return bad ? -1 : seen;
}

/* The same with small fetches, which cost less. */
static int64_t
fetch_all(struct image *im, uint64_t *sum)
{
	struct aio *ring = aio_new(0, 1);
	struct image_walk w = { 0, 0 };
	uint64_t page, entry;
	struct image_fetch f;
	int64_t seen = 0;
	int err = 0, bad = 0;

	MUST(ring != NULL && fetch_init(&f, im, 3) == 0);
	while (!image_walk_ended(im, &w) && !bad && err >= 0) {
		fetch_reset(&f);
		while (!fetch_is_full(&f) && !image_walk_ended(im, &w) && err >= 0)
			if ((err = image_step(im, &w, &page, &entry)) > PAGE_ABSENT)
				err = fetch_add(&f, page, err, entry);
		aio_submit(ring, &f.req);
		MUST(aio_wait(ring) == &f.req);
		check_fetch(im, &f, sum);
		bad = f.bad < f.n;
		seen += f.n;
	}
	aio_free(ring);
	fetch_free(&f);
	if (err < 0)
		return fails(err);
	return bad ? -1 : seen;
}

/* All pages that are there, as send_zero() in load.c does: those with bytes, or -1. */
static int64_t
walk(struct image *im, uint64_t *sum, int *whole)
{
	uint64_t page, slot, last = 0, other, back, n = 0;
	int64_t stored = 0;
	uint32_t crc;
	int st;

	*whole = 1;
	for (page = 0;; page++) {
		if ((st = image_next_present(im, &page, &slot)) < 0)
			return fails(st);
		MUST(page >= last || page == 0);
		last = page;
		if (st == PAGE_ABSENT)
			break;
		MUST(page < image_ram(im)->npages && image_at_hand(im, page));
		MUST(image_lookup(im, page, &back) == st && (st < PAGE_STORED || back == slot));
		if (st >= PAGE_STORED) {
			stored++;
			*sum += chance_next(&(uint64_t){ page });
		}
		if (st == PAGE_STORED) {
			MUST(slot < image_footer(im)->slots);
			if (n < 64 && (st = image_slot(im, slot, &other, &crc)) < 0)
				fails(st);
		}
		if (++n > LOOKUPS) {
			*whole = 0;
			break;
		}
	}
	return stored;
}

/* Pages with bytes, as diff goes through them: as many as present, if that is not -1. */
static void
walk_bytes(struct image *im, int64_t present)
{
	uint64_t page = 0, entry, other, end = image_ram(im)->npages;
	int64_t n = 0;
	uint32_t crc, again_crc;
	int st, err;

	for (;; page++) {
		if ((st = image_next_bytes(im, &page, end, &entry)) < 0) {
			fails(st);
			return;
		}
		if (st == PAGE_ABSENT)
			break;
		MUST(st >= PAGE_STORED && page < end);
		MUST(image_lookup(im, page, &other) == st && other == entry);
		if (n < 64 && (err = image_crc(im, page, st, entry, &crc)) != 0)
			fails(err);
		else if (n < 64 && st == PAGE_STORED)
			MUST(image_slot(im, entry, &other, &again_crc) == 0 && other == page &&
			    again_crc == crc);
		if (++n > LOOKUPS)
			return;
	}
	MUST(page == end && (present < 0 || n == present));
}

/* Fetch one page by its number, as for a destination that asks for it. */
static void
fetch_one(struct image_fetch *f, struct aio *ring, uint64_t page, int st, uint64_t entry)
{
	uint64_t sum = 0;
	int err;

	fetch_reset(f);
	if ((err = fetch_add(f, page, st, entry)) != 0) {
		MUST(err == SNAP_EDATA && f->n == 0);
		fails(err);
		return;
	}
	aio_submit(ring, &f->req);
	MUST(aio_wait(ring) == &f->req && f->n == 1 && f->page[0] == page);
	check_fetch(f->im, f, &sum);
}

/* Pages that a postcopy destination may ask for. */
static void
look_up(struct image *im, int family)
{
	const struct ram_map *ram = image_ram(im);
	struct aio *ring = aio_new(0, 1);
	uint64_t entry, page, i;
	struct image_fetch f;
	int st;

	MUST(ring != NULL && fetch_init(&f, im, 1) == 0);
	for (i = 0; i < 64; i++) {
		page = i < 32 ? i : ram->npages - (i - 31);
		if (page >= ram->npages)
			page = i * 0x9e3779b97f4a7c15 % ram->npages;
		image_at_hand(im, page);
		st = image_lookup(im, page, &entry);
		MUST(st >= 0 || st == SNAP_EDATA);
		MUST(st != PAGE_STORED || entry < image_footer(im)->slots);
		MUST(ram_map_find(ram, page)->first <= page);
		/* Not each: what is wrong is told a hundred times only. */
		if (i % 8 == 0 && (st == PAGE_STORED || (st == PAGE_ANCESTOR && family)))
			fetch_one(&f, ring, page, st, entry);
	}
	fetch_free(&f);
	aio_free(ring);
}

static void
read_sections(struct image *im)
{
	const struct image_footer *f = image_footer(im);
	uint8_t buf[64];
	char text[37];
	uint8_t uuid[16];
	uint32_t i;

	MUST(f->nsec <= SECTIONS_MAX);
	for (i = 0; i < f->nsec; i++)
		MUST(image_read(im, &f->sec[i], 0, buf,
		    f->sec[i].len < sizeof buf ? (size_t)f->sec[i].len : sizeof buf) == 0);
	uuid_format(text, f->uuid);
	MUST(uuid_parse(text, uuid) == 0 && memcmp(uuid, f->uuid, 16) == 0);
}

/* What was decoded, encoded again. */
static void
encode_again(struct image *im, const uint8_t *data, size_t size)
{
	static uint8_t buf[HEADER_SIZE];
	struct image_header h = *image_header(im);

	header_encode(buf, &h);
	MUST(memcmp(buf, data, HEADER_SIZE) == 0);
	footer_encode(buf, image_footer(im));
	MUST(memcmp(buf, data + size - FOOTER_SIZE, FOOTER_SIZE) == 0);
}

/* ---- a good image, written again ---- */

enum { AGAIN_MAX = 512 };	/* pages; guests with more are not written */

struct guest {
	unsigned n;
	uint64_t page[AGAIN_MAX], entry[AGAIN_MAX];
	int state[AGAIN_MAX];
};

/* 0: it has more pages than that. */
static int
collect(struct image *im, struct guest *g)
{
	uint64_t page, entry = 0;
	int st;

	g->n = 0;
	for (page = 0; (st = image_next_present(im, &page, &entry)) != PAGE_ABSENT; page++) {
		MUST(st > 0);
		if (g->n == AGAIN_MAX)
			return 0;
		g->page[g->n] = page;
		g->entry[g->n] = entry;
		g->state[g->n++] = st;
	}
	return 1;
}

/* Page i of g, NULL where it is zero. */
static const uint8_t *
guest_bytes(struct image_fetch *f, const struct guest *g, unsigned i)
{
	uint32_t size = image_header(f->im)->page_size;
	const uint8_t *p;

	if (g->state[i] == PAGE_ZERO)
		return NULL;
	p = page_bytes(f, g->page[i], g->state[i], g->entry[i]);
	return p[0] == 0 && memcmp(p, p + 1, size - 1) == 0 ? NULL : p;
}

/* Put page i of g as it is; or, at first, as something else. */
static void
put_one(struct image_writer *w, struct image_fetch *f, const struct guest *g, unsigned i,
    int truly)
{
	uint32_t size = image_header(f->im)->page_size;
	const uint8_t *p = truly ? guest_bytes(f, g, i) : NULL;
	uint8_t *to;

	if (truly ? g->state[i] == PAGE_ZERO : one_in(2)) {
		MUST(image_zero(w, g->page[i]) == 0);
		return;
	}
	MUST((to = image_room(w)) != NULL);
	if (truly && p != NULL)
		memcpy(to, p, size);
	else
		memset(to, truly ? 0 : (int)below(3), size);
	image_put(w, g->page[i]);
}

static void
put_pages(struct image_writer *w, struct image_fetch *f, const struct guest *g)
{
	unsigned i, k, times = (unsigned)below(4 * g->n + 1);

	while (times-- > 0)
		put_one(w, f, g, (unsigned)below(g->n), 0);
	/* Beginning anywhere, in steps that meet each once. */
	k = (unsigned)below(g->n + 1);
	for (i = 0; i < g->n; i++)
		put_one(w, f, g, (i + k) % g->n, 1);
}

static uint8_t *
section_bytes(struct image *im, uint32_t type, size_t *len)
{
	const struct section *s = footer_section(image_footer(im), type);
	uint8_t *p;

	*len = s == NULL ? 0 : (size_t)s->len;
	MUST((p = malloc(*len + 1)) != NULL);
	if (*len > 0)
		MUST(image_read(im, s, 0, p, *len) == 0);
	return p;
}

static void
put_rest(struct image *im, struct image_writer *w)
{
	static const uint32_t types[] = { SEC_PREAMBLE, SEC_PROLOGUE, SEC_ITERABLES };
	const struct section *t = footer_section(image_footer(im), SEC_TAIL);
	struct image_bytes b[3];
	uint8_t *p[3], *tail;
	size_t len, cut;
	int i;

	for (i = 0; i < 3; i++) {
		b[i].type = types[i];
		b[i].buf = p[i] = section_bytes(im, types[i], &b[i].len);
	}
	MUST(image_seal(w, b, 3, image_footer(im)->flags) == 0);
	for (i = 0; i < 3; i++)
		free(p[i]);
	tail = section_bytes(im, SEC_TAIL, &len);
	cut = (size_t)below(len + 1);
	MUST(image_tail(w, tail, cut) == 0);
	if (one_in(2))
		MUST(image_hold(w, one_in(2) ? len - cut : below(70000)) == 0);
	MUST(image_tail(w, tail + cut, len - cut) == 0);
	free(tail);
	MUST(image_commit(w, t->extra) == 0);
}

/* What is in the file called again is the same guest. */
static void
compare(struct image *im, struct guest *g, struct image_fetch *f)
{
	uint32_t size = image_header(im)->page_size;
	uint64_t entry, stored = 0, zero = 0;
	unsigned faults = 0, i;
	struct image_fetch f2;
	const uint8_t *p;
	struct image *im2;
	int err, st;

	MUST((im2 = image_open(again, 0, &err)) != NULL);
	MUST(image_open_ancestors(im2) == 0);
	MUST(image_check_tables(im2, 1, &faults) == 0 && faults == 0);
	MUST(fetch_init(&f2, im2, 1) == 0);
	for (i = 0; i < g->n; i++) {
		MUST((st = image_lookup(im2, g->page[i], &entry)) >= 0);
		p = guest_bytes(f, g, i);
		MUST((st >= PAGE_STORED) == (p != NULL) && st != PAGE_ABSENT);
		if (p != NULL)
			MUST(memcmp(page_bytes(&f2, g->page[i], st, entry), p, size) == 0);
		stored += p != NULL;
		zero += p == NULL;
	}
	MUST(image_footer(im2)->stored + image_footer(im2)->ancestor == stored);
	MUST(image_footer(im2)->zero == zero);
	fetch_free(&f2);
	image_close(im2);
}

static void
write_again(struct image *im, uint64_t seed)
{
	static struct guest g;
	const struct ancestor *list;
	struct image_options opt;
	struct image_writer *w;
	struct image_fetch f;

	luck = seed;
	if (!collect(im, &g))
		return;
	memset(&opt, 0, sizeof opt);
	opt.unit_pages = (uint32_t)1 << below(9);
	opt.cluster_size = (uint32_t)CLUSTER_MIN << below(3);
	opt.unsafe = !one_in(4);
	opt.reproducible = one_in(2);
	opt.max_size = FILE_MAX;
	if (one_in(2) && opt.unit_pages * image_header(im)->page_size <= CODED_MAX)
		opt.codec = codec_zstd;
	opt.level = 1 + (int)below(3);
	if (one_in(2) && image_ancestors(im, &list) < ANCESTORS_MAX)
		opt.base = im;
	MUST(fetch_init(&f, im, 1) == 0);
	MUST((w = image_create(again, &opt)) != NULL);
	MUST(image_begin(w, image_ram(im)) == 0);
	put_pages(w, &f, &g);
	put_rest(im, w);
	image_free(w);
	compare(im, &g, &f);
	fetch_free(&f);
}

/* The hot list in it names pages of the guest. */
static void
list_hot(struct image *im)
{
	const struct section *s = footer_section(image_footer(im), SEC_HOT);
	struct hot_list l;
	uint64_t i;

	forget_messages();
	MUST(hot_find(&l, im) == 0);
	MUST(l.n == 0 || (s != NULL && l.n == s->len / 5 && messages == 0));
	for (i = 0; i < l.n; i++)
		MUST(hot_page(&l, i) < image_ram(im)->npages);
	hot_free(&l);
}

/* Anything is JSON, or is not: every token takes a byte at least. */
static void
read_as_json(const uint8_t *data, size_t size)
{
	enum json_token t;
	struct json j;
	size_t tokens = 0;

	json_begin(&j, data, size);
	do {
		t = json_next(&j);
		MUST(j.depth <= JSON_DEPTH && tokens++ <= size);
		MUST((t == JSON_BAD) == (j.why != NULL));
		if (t == JSON_KEY || t == JSON_STRING)
			MUST(strlen(j.text) < JSON_TEXT);
	} while (t != JSON_BAD && t != JSON_END);
	MUST(t != JSON_END || j.depth == 0);
	MUST(json_next(&j) == t);
}

/* What info tells; a count by blocks is that of all pages one by one. */
static void
tell(struct image *im)
{
	const struct ram_map *ram = image_ram(im);
	char label[LABEL_MAX + 1], machine[MACHINE_MAX + 1];
	uint64_t count[4] = { 0, 0, 0, 0 }, entry, page, single[4] = { 0, 0, 0, 0 };
	struct device_list l;
	size_t i;
	int err, st = 0;

	MUST((err = label_read(im, label)) == 0 || err == SNAP_EDATA);
	MUST(strlen(label) <= LABEL_MAX);
	MUST((err = machine_read(im, machine)) == 0 || err == SNAP_EDATA);
	MUST(strlen(machine) <= MACHINE_MAX);
	MUST((err = devices_read(im, &l)) == 0 || err == SNAP_EDATA);
	MUST(l.n == 0 || (l.given && l.why == NULL && err == 0));
	for (i = 0; i < l.n; i++)
		MUST(l.dev[i].name[0] != '\0' && strlen(l.dev[i].name) < JSON_TEXT);
	devices_free(&l);
	for (i = 0, err = 0; i < ram->nblk && err == 0; i++)
		err = image_count(im, ram->blk[i].first, ram->blk[i].len / ram->page_size, count);
	MUST(err == 0 || err == SNAP_EDATA);
	if (err != 0 || ram->npages > 100000)
		return;
	for (page = 0; page < ram->npages; page++) {
		if ((st = image_lookup(im, page, &entry)) < 0)
			return;		/* an entry is wrong: a count does not look at it */
		single[st]++;
	}
	MUST(memcmp(count, single, sizeof count) == 0);
}

/* Is the file exported the block?  Its first pages are looked at. */
static void
check_raw(struct image *im, const struct ram_block *b)
{
	static uint8_t buf[PAGE_SIZE_MAX];
	uint32_t size = image_header(im)->page_size;
	uint64_t page = b->first, entry;
	struct image_fetch f;
	const uint8_t *p;
	int fd = open(exported, O_RDONLY), st, n;

	MUST(fd >= 0 && lseek(fd, 0, SEEK_END) == (off_t)b->len);
	MUST(fetch_init(&f, im, 1) == 0);
	for (n = 0; n < 16; n++, page++) {
		MUST((st = image_next_present(im, &page, &entry)) >= 0);
		if (st == PAGE_ABSENT || page - b->first >= b->len / size)
			break;
		MUST(pread(fd, buf, size, (off_t)((page - b->first) * size)) == (ssize_t)size);
		p = st == PAGE_ZERO ? NULL : page_bytes(&f, page, st, entry);
		MUST(p != NULL ? memcmp(buf, p, size) == 0 :
		    buf[0] == 0 && memcmp(buf, buf + 1, size - 1) == 0);
	}
	fetch_free(&f);
	close(fd);
}

/* Exported, in one form or other, there is a file or a message. */
static int
export_one(struct image *im, uint64_t seed, enum form form)
{
	static char *name[2] = { path, exported };
	const struct ram_block *b = &image_ram(im)->blk[(seed >> 2) % image_ram(im)->nblk];
	struct options o;
	int err;

	memset(&o, 0, sizeof o);
	o.status_fd = -1;
	o.form = form;
	o.file = name;
	o.nfile = 2;
	o.unsafe = seed & 1;
	o.threads = seed >> 1 & 1;
	if (form == FORM_RAW || form == FORM_LIME)
		o.block = b->id;
	messages = 0;
	err = run_export(&o);
	if (err == 0 && form == FORM_RAW)
		check_raw(im, b);
	MUST((unlink(exported) == 0) == (err == 0));
	return err == 0 ? 0 : fails(err);
}

static void
use(struct image *im, const uint8_t *data, size_t size, int thorough)
{
	uint64_t scanned = 0, walked = 0, checked = 0, seed;
	const struct image_footer *foot = image_footer(im);
	unsigned faults = 0, quick = 0;
	int64_t stored, present;
	int whole, err, fine, family, done = 0;
	enum form form;

	MUST(im != NULL && messages == 0);
	encode_again(im, data, size);
	read_sections(im);
	forget_messages();
	if ((err = image_open_ancestors(im)) != 0)
		fails(err);
	family = err == 0;
	look_up(im, family);
	forget_messages();
	fine = image_check_sections(im, NULL) == 0;
	MUST(fine || messages == 1);
	if (fine)
		list_hot(im);
	tell(im);
	stored = !family ? -1 : thorough ? scan(im, NULL, &scanned) :
	    fetch_all(im, &scanned);
	present = walk(im, &walked, &whole);
	walk_bytes(im, whole ? present : -1);
	/* Of many faults, only the first ones are printed: some may have been above. */
	MUST(image_check_tables(im, 0, &quick) == 0);	/* the file can be read */
	err = image_check_tables(im, 1, &faults);
	MUST(err == 0 && quick <= faults);
	MUST(faults == 0 || messages + said > 0);
	seed = hash(1, data + size - 64, 64);
	form = (enum form)(FORM_STREAM + (seed >> 16) % 4);
	if (whole)
		done = export_one(im, seed >> 20, form);
	if (!family)
		return;
	if (thorough)
		MUST(scan(im, &faults, &checked) >= 0 || faults > 0);
	else if (stored < 0)
		faults++;
	if (faults > 0)
		return;
	/* Nothing wrong with it: then it loads; unless slots that are dead were too many. */
	MUST(fine && stored >= 0 && present >= 0);
	if (image_header(im)->incompat & FEATURE_CODEC &&
	    (uint64_t)stored != foot->stored + foot->ancestor)
		return;
	MUST((uint64_t)stored == foot->stored + foot->ancestor);
	if (whole) {
		MUST(present == stored);
		MUST(walked == scanned);
	}
	MUST(!thorough || checked == scanned);
	MUST(form != FORM_STREAM || !whole || done == 0);
	/* Not all: writing takes most of the time. */
	if (whole && (seed >> 8) % 4 == 0)
		write_again(im, seed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t at[FILES], len[FILES];
	unsigned i, n = split(data, size, at, len);
	struct image *im;
	int err = 1;

	input = data;
	input_size = size;
	all_raw = 1;
	for (i = 0; i < FILES; i++) {
		store(file[i], data + (i < n ? at[i] : 0), i < n ? len[i] : 0);
		if (i < n && len[i] > 32 && data[at[i] + 16] & FEATURE_CODEC)
			all_raw = 0;
	}
	messages = said = 0;
	bounds_begin();
	read_as_json(data, size);
	(void)foreign_kind(data, size < FOREIGN_HEAD ? size : FOREIGN_HEAD);
	if ((im = image_open(path, 0, &err)) != NULL) {
		MUST(err == 0);
		use(im, data + at[0], len[0], hash(0, data + size - 8, 8) % 16 == 0);
	} else {
		fails(err);
		MUST(err == SNAP_EDATA && messages == 1);
	}
	image_close(im);
	bounds_end(HEAP, TIME_MS);
	return 0;
}
