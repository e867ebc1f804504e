/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stream.c -- reading QEMU's migration stream.
 *
 * A stream, as far as we must know it (all numbers big-endian):
 *
 *	"QEVM", version 3, configuration section
 *	sections START, one for each iterable handler, "ram" among them
 *	sections PART (and END) of these, in any order: the pages
 *	sections FULL: the devices, whose length nobody tells
 *	end-of-file byte, and a JSON description of the devices
 *
 * The parser knows the length of everything up to the first FULL after the
 * RAM; from there on it hands over bytes.  The states of stream_next():
 *
 *	HEAD --read_head--> ELEMENT --read_element--> RAM --read_record--> ELEMENT
 *	                    ELEMENT --first FULL after RAM--> TAIL --> DONE
 *
 * What is kept verbatim goes through s->keep as it is consumed.
 *
 * Whatever cannot be stored goes to refuse().  Where the length of it is known, the caller goes on
 * behind it, so that the rest can be drained; where it is not, framing is lost, and the caller
 * returns what refuse() does.  Functions here return that, or -1 for what need() and take() have
 * reported, and stream_next() tells from s->f.refused which it is.
 */
#include "stream.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "pipe.h"
#include "snap.h"
#include "tail.h"
#include "wire.h"

enum {
	RAM_VERSION = 4,
	BUFFER = 256 << 10,	/* holds the largest page several times */
	READ_LARGE = 64 << 10,	/* see read_size() */
	READ_SIZE = 16 << 10,
	READ_TAIL = 4096,
	RECORD_MIN = 9,		/* bytes of a zero page, the shortest record */
	GUESS_RECORDS = 16,	/* see are_pages_of() */
	KEPT_MAX = 16 << 20,	/* bytes kept of what is not RAM, all together */
	SILENCE_MS = 100,	/* see tail_is_over() */
	LONG_SILENCE_MS = 1000,
	SECTIONS = 16		/* iterable handlers */
};

enum state { HEAD, ELEMENT, RAM, TAIL, DONE };

/* Iterable handlers whose sections can be measured. */
enum handler { H_RAM, H_BITMAP, H_HTAB, H_ATTRIBUTES, NHANDLERS };

static const char *const handler_name[NHANDLERS] = {
	"ram", "dirty-bitmap", "spapr/htab", "s390-storage_attributes"
};

struct stream_in {
	struct stream_facts f;	/* what callers are told */
	int fd;
	const char *name;	/* in messages: "stream", or "FILE:" */
	enum state state;
	int refusal_told, quiet, end_told;

	uint8_t *buf;
	size_t pos, len;	/* unread bytes are buf[pos..len) */
	uint64_t base;		/* stream offset of buf[0] */
	struct kept *keep;	/* where consumed bytes go, or NULL */

	uint32_t user_page_size;
	int page_size_told;	/* by the stream */
	int may_be_mapped, is_mapped;
	size_t ram_map_bytes;	/* as encoded in an image */
	const struct ram_block *cur;
	int sparse;		/* some pages never come */
	int have_part;
	struct { uint32_t sid; enum handler h; } section[SECTIONS];
	unsigned nsection;
	int failed;		/* SNAP_E*, reported, when the page size was looked for */
	int has_content[NHANDLERS];	/* their sections are not empty */
	unsigned type;		/* of the section being read */

	struct tail tail;
};

static int refuse(struct stream_in *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Report what is wrong at the place where the stream is being read: it is refused from now on. */
static int
refuse(struct stream_in *s, const char *fmt, ...)
{
	char msg[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	if (s->f.refused == 0 && !s->quiet)
		snap_warnx("%s offset %llu: %s", s->name,
		    (unsigned long long)(s->base + s->pos), msg);
	s->f.refused = SNAP_EDATA;
	return SNAP_EDATA;
}

static void
no_memory(const struct stream_in *s)
{
	if (!s->quiet)
		snap_warn(ENOMEM, "stream");
}

/* ---- bytes ---- */

/* Read once, at most max bytes: > 0, 0 at the end of input, or SNAP_ESYS. */
static int
fill(struct stream_in *s, size_t max)
{
	ssize_t n;

	if (s->pos > 0) {
		memmove(s->buf, s->buf + s->pos, s->len - s->pos);
		s->base += s->pos;
		s->len -= s->pos;
		s->pos = 0;
	}
	if (max > BUFFER - s->len)
		max = BUFFER - s->len;
	if ((n = pipe_read(s->fd, s->buf + s->len, max)) < 0) {
		if (!s->quiet)
			snap_warn(errno, "%s offset %llu: read", s->name,
			    (unsigned long long)(s->base + s->len));
		return SNAP_ESYS;
	}
	s->len += (size_t)n;
	return n > 0;
}

/*
 * What is read past the last page is no longer held back from the source (see save.c):
 * 16 KiB can be spared of what mostly follows, 64 KiB could not.  Nobody can tell where the
 * last page is; but each page comes at least once, so as many as have not come are still to
 * come.  When few are left in a background snapshot, the last one is near.
 *
 * What is unplugged of virtio-mem never comes, nor, in an ordinary migration, what a guest
 * gave as free to its balloon (free-page-hint).  Machine types up to 7.2 do not tell of the
 * one beforehand, and none of the other: if it is more than 28 MiB, a source with a small
 * tail may then end before the image is durable.
 */
static size_t
read_size(const struct stream_in *s)
{
	uint64_t left = s->f.ram.npages - s->f.records;

	if (s->f.ram.npages == 0 || s->f.records > s->f.ram.npages)
		return READ_SIZE;
	if (left < READ_SIZE / RECORD_MIN)
		return READ_TAIL;
	return left > READ_LARGE / RECORD_MIN && !s->sparse && s->f.refused == 0 ?
	    READ_LARGE : READ_SIZE;
}

/* Have n bytes, at most PAGE_SIZE_MAX, at s->buf + s->pos. */
static int
need(struct stream_in *s, size_t n)
{
	size_t size = read_size(s);
	int got;

	while (s->len - s->pos < n) {
		got = fill(s, n > size ? n : size);
		if (got < 0)
			return got;
		if (got == 0) {
			s->pos = s->len;
			s->f.cut = 1;
			s->quiet |= s->end_told;
			return refuse(s, s->base + s->len == 0 ?
			    "nothing came: no migration stream" :
			    "stream ends before its RAM does: cut, failed or cancelled");
		}
	}
	return 0;
}

/* Are n bytes here that are not to be consumed yet?  Where they would be waited for in vain: no.
 * What the system refuses is kept in s->failed. */
static int
have(struct stream_in *s, size_t n)
{
	int got;

	while (s->len - s->pos < n) {
		if (s->failed != 0 || (s->f.wants_shut && !pipe_waits(s->fd, LONG_SILENCE_MS)))
			return 0;
		if ((got = fill(s, n - (s->len - s->pos))) < 0)
			s->failed = got;
		if (got <= 0)
			return 0;
	}
	return 1;
}

/* Append to what is kept, if anything is now. */
static int
keep(struct stream_in *s, const uint8_t *p, size_t n)
{
	struct kept *k = s->keep;
	size_t cap;
	void *grown;

	if (k == NULL)
		return 0;
	if (n > KEPT_MAX - s->f.preamble.len - s->f.prologue.len - s->f.iterables.len)
		return refuse(s, "more than %d bytes besides RAM pages and devices",
		    (int)KEPT_MAX);
	if (n > k->cap - k->len) {
		cap = k->len + n + k->len / 4 + 256;
		if ((grown = realloc(k->buf, cap)) == NULL) {
			no_memory(s);
			return -1;
		}
		k->buf = grown;
		k->cap = cap;
	}
	memcpy(k->buf + k->len, p, n);
	k->len += n;
	return 0;
}

/* Consume n bytes: a pointer to them, valid until the next need(), or NULL. */
static const uint8_t *
take(struct stream_in *s, size_t n)
{
	const uint8_t *p;

	if (need(s, n) != 0)
		return NULL;
	p = s->buf + s->pos;
	if (keep(s, p, n) != 0)
		return NULL;
	s->pos += n;
	return p;
}

/* Consume n bytes that nobody looks at. */
static int
skip(struct stream_in *s, uint64_t n)
{
	size_t piece;

	for (; n > 0; n -= piece) {
		piece = n < READ_SIZE ? (size_t)n : READ_SIZE;
		if (take(s, piece) == NULL)
			return -1;
	}
	return 0;
}

static int
take_u8(struct stream_in *s, unsigned *v)
{
	const uint8_t *p = take(s, 1);

	if (p != NULL)
		*v = p[0];
	return p != NULL ? 0 : -1;
}

static int
take_u32(struct stream_in *s, uint32_t *v)
{
	const uint8_t *p = take(s, 4);

	if (p != NULL)
		*v = get_be32(p);
	return p != NULL ? 0 : -1;
}

static int
take_u64(struct stream_in *s, uint64_t *v)
{
	const uint8_t *p = take(s, 8);

	if (p != NULL)
		*v = get_be64(p);
	return p != NULL ? 0 : -1;
}

/* A name of 1 to 255 bytes after its length. */
static int
take_name(struct stream_in *s, char name[ID_MAX + 1])
{
	const uint8_t *p;
	unsigned n;

	if (take_u8(s, &n) != 0)
		return -1;
	if (n == 0)
		return refuse(s, "empty name");
	if ((p = take(s, n)) == NULL)
		return -1;
	if (memchr(p, 0, n) != NULL)
		return refuse(s, "name with a NUL byte in it");
	memcpy(name, p, n);
	name[n] = '\0';
	return 0;
}

/* ---- before the RAM ---- */

static int
read_capabilities(struct stream_in *s)
{
	char name[ID_MAX + 1];
	uint32_t n;

	if (take_u32(s, &n) != 0)
		return -1;
	for (; n > 0; n--) {
		if (take_name(s, name) != 0)
			return -1;
		if (strcmp(name, "x-ignore-shared") == 0)
			s->f.ignores_shared = 1;
		else if (strcmp(name, "mapped-ram") == 0 && s->may_be_mapped)
			s->is_mapped = 1;
		else if (strcmp(name, "mapped-ram") == 0)
			return refuse(s, "capability mapped-ram is on: "
			    "switch it off, its pages do not go through a pipe");
		else
			refuse(s, "capability %s is on, which is not known here", name);
	}
	return 0;
}

/* Behind at, the capabilities have been kept: leave mapped-ram out of them. */
static int
keep_unmapped(struct stream_in *s, size_t at)
{
	static const char shared[] = "\005\032configuration/capabilities\0\0\0\001"
	    "\0\0\0\001\017x-ignore-shared";

	s->f.preamble.len = at;
	return s->f.ignores_shared ? keep(s, (const uint8_t *)shared, sizeof shared - 1) : 0;
}

static int
read_config_subsection(struct stream_in *s)
{
	char name[ID_MAX + 1];
	uint32_t version, bits;
	size_t at = s->f.preamble.len;

	if (take(s, 1) == NULL || take_name(s, name) != 0 || take_u32(s, &version) != 0)
		return -1;
	if (version != 1)
		return refuse(s, "section %s: unknown version %u", name,
		    (unsigned)version);
	if (strcmp(name, "configuration/target-page-bits") == 0) {
		if (take_u32(s, &bits) != 0)
			return -1;
		if (bits < 10 || bits > 16)
			return refuse(s, "target pages of 2^%u bytes", (unsigned)bits);
		s->f.ram.page_size = (uint32_t)1 << bits;
		s->page_size_told = 1;
		return 0;
	}
	if (strcmp(name, "configuration/capabilities") == 0)
		return read_capabilities(s) != 0 ? -1 : s->is_mapped ? keep_unmapped(s, at) : 0;
	if (strcmp(name, "configuration/uuid") == 0)
		return skip(s, 16);
	return refuse(s, "section %s: not known", name);
}

static int
read_head(struct stream_in *s)
{
	const uint8_t *p;
	uint32_t n;

	s->keep = &s->f.preamble;
	if ((p = take(s, 8)) == NULL)
		return -1;
	if (memcmp(p, "QEVM", 4) != 0)
		return refuse(s, "not a migration stream");
	if (get_be32(p + 4) != 3)
		return refuse(s, "stream of version %u, not 3",
		    (unsigned)get_be32(p + 4));
	if (need(s, 1) != 0)
		return -1;
	if (s->buf[s->pos] != VM_CONFIGURATION)
		return refuse(s, "no configuration section: "
		    "send-configuration=off cannot be stored");
	if (take(s, 1) == NULL || take_u32(s, &n) != 0)
		return -1;
	if (n > 255)
		return refuse(s, "machine name of %u bytes", (unsigned)n);
	if (skip(s, n) != 0)
		return -1;
	for (;;) {
		if (need(s, 1) != 0)
			return -1;
		if (s->buf[s->pos] != VM_SUBSECTION)
			break;
		if (read_config_subsection(s) != 0)
			return -1;
	}
	if (s->user_page_size != 0 && s->page_size_told &&
	    s->user_page_size != s->f.ram.page_size)
		return refuse(s, "--page-size is %u, but the stream says %u",
		    (unsigned)s->user_page_size, (unsigned)s->f.ram.page_size);
	if (!s->page_size_told)
		s->f.ram.page_size = s->user_page_size != 0 ? s->user_page_size : 4096;
	s->state = ELEMENT;
	return 0;
}

static int
read_footer(struct stream_in *s, uint32_t sid)
{
	uint32_t got;

	if (need(s, 1) != 0)
		return -1;
	switch (s->buf[s->pos]) {
	case VM_SECTION_FOOTER:
		break;
	case VM_SECTION_START:
	case VM_SECTION_PART:
	case VM_SECTION_FULL:
	case VM_COMMAND:
		return refuse(s, "no section footer: "
		    "send-section-footer=off cannot be stored");
	default:
		return refuse(s, "section footer expected, found byte 0x%02x",
		    s->buf[s->pos]);
	}
	if (take(s, 1) == NULL || take_u32(s, &got) != 0)
		return -1;
	if (got != sid)
		return refuse(s, "footer of section %u in section %u",
		    (unsigned)got, (unsigned)sid);
	return 0;
}

/*
 * Behind a block's entry in a file with mapped-ram: where its pages lie.  They are passed by.
 * (struct MappedRamHeader in migration/ram.c)
 */
static int
read_mapped(struct stream_in *s, const struct ram_block *b)
{
	uint64_t bytes = (b->len / s->f.ram.page_size + 63) / 64 * 8, end;
	struct kept *k = s->keep;
	struct mapped_block *m;
	const uint8_t *p;

	s->keep = NULL;
	p = take(s, 28);
	s->keep = k;
	if (p == NULL)
		return -1;
	m = realloc(s->f.mapped, (s->f.ram.nblk + 1) * sizeof *m);
	if (m == NULL) {
		no_memory(s);
		return -1;
	}
	s->f.mapped = m;
	m += s->f.ram.nblk;
	m->bitmap = get_be64(p + 12);
	m->pages = get_be64(p + 20);
	if (get_be32(p) != 1)
		return refuse(s, "mapped-ram of version %u, not 1", (unsigned)get_be32(p));
	if (get_be64(p + 4) != s->f.ram.page_size)
		return refuse(s, "mapped-ram: pages have %llu bytes, not %u; see --page-size",
		    (unsigned long long)get_be64(p + 4), (unsigned)s->f.ram.page_size);
	if (m->bitmap < s->base + s->pos || m->pages < m->bitmap ||
	    m->pages - m->bitmap < bytes || b->len > INT64_MAX ||
	    m->pages > INT64_MAX - b->len)
		return refuse(s, "RAM block %s: lies at no possible place", b->id);
	end = m->pages + b->len;
	if (lseek(s->fd, (off_t)end, SEEK_SET) < 0)	/* no file here can be so long */
		return refuse(s, "RAM block %s: lies at no possible place", b->id);
	s->base = end;
	s->pos = s->len = 0;
	return 0;
}

/* One block of the list in START of RAM. */
static int
read_block(struct stream_in *s, uint64_t *left)
{
	struct ram_map *ram = &s->f.ram;
	struct ram_block *b;
	void *grown;

	if (ram->nblk % 64 == 0) {
		grown = realloc(ram->blk, (ram->nblk + 64) * sizeof *ram->blk);
		if (grown == NULL) {
			no_memory(s);
			return -1;
		}
		ram->blk = grown;
	}
	b = &ram->blk[ram->nblk];
	memset(b, 0, sizeof *b);
	if (take_name(s, b->id) != 0 || take_u64(s, &b->len) != 0)
		return -1;
	if (ram->has_addr && take_u64(s, &b->addr) != 0)
		return -1;
	if (ram->has_addr && b->addr == UINT64_MAX)
		return refuse(s, "RAM block %s: at no possible address", b->id);
	if (ram_map_named(ram, b->id) != NULL)
		return refuse(s, "RAM block %s is there twice", b->id);
	if (b->len == 0 || b->len > *left)
		return refuse(s, "RAM blocks do not add up to the total");
	s->ram_map_bytes += strlen(b->id) + 17;
	if (s->ram_map_bytes > RAM_MAP_MAX - 16)
		return refuse(s, "more RAM blocks than an image can describe");
	if (s->is_mapped && read_mapped(s, b) != 0)
		return -1;
	ram->nblk++;
	*left -= b->len;
	return 0;
}

/* The page size is known now. */
static int
number_pages(struct stream_in *s)
{
	struct ram_map *ram = &s->f.ram;
	struct ram_block *b;

	for (b = ram->blk; b < ram->blk + ram->nblk; b++) {
		if (b->len % ram->page_size != 0)
			return refuse(s, "RAM block %s: its length is not whole pages of %u "
			    "bytes; see --page-size", b->id, (unsigned)ram->page_size);
		if (b->len / ram->page_size > PAGES_MAX - ram->npages)
			return refuse(s, "more RAM than an image can hold");
		b->first = ram->npages;
		ram->npages += b->len / ram->page_size;
	}
	return 0;
}

static int
read_blocks(struct stream_in *s)
{
	uint64_t word, left, mask = PAGE_SIZE_MIN - 1;

	s->f.ram.has_addr = s->f.ignores_shared;
	s->sparse |= s->f.ignores_shared;
	if (take_u64(s, &word) != 0)
		return -1;
	if ((word & mask) != RAM_MEM_SIZE)
		return refuse(s, "section ram: no list of blocks");
	for (left = word & ~mask; left > 0;)
		if (read_block(s, &left) != 0)
			return -1;
	if (s->f.ram.nblk == 0)
		return refuse(s, "section ram: no blocks");
	if (take_u64(s, &word) != 0)
		return -1;
	if (word != RAM_EOS)
		return refuse(s, "section ram: list of blocks does not end");
	return 0;
}

/*
 * Are the first records of RAM, which are to come next, such of pages of this size?
 * It shows in an offset that is no multiple of twice the size; what lies behind a page of data
 * must be a record, too.  Pages are saved one after the other; but as those that a guest writes to
 * come first, the ones of an unusual size must be seen to follow one on another.
 */
static int
are_pages_of(struct stream_in *s, uint32_t size)
{
	const struct ram_block *b = NULL;
	char name[ID_MAX + 1];
	unsigned flags, n, k;
	const uint8_t *p;
	uint64_t word, off, next = 0;
	int shows = 0, steps = 0;
	size_t at = SECTION_HEAD;

	if (!have(s, at) || s->buf[s->pos] != VM_SECTION_PART ||
	    get_be32(s->buf + s->pos + 1) != s->f.ram.sid)
		return 0;
	for (n = 0; n < GUESS_RECORDS && at < PAGE_SIZE_MAX && have(s, at + 9); n++) {
		p = s->buf + s->pos + at;
		if ((word = get_be64(p)) == RAM_EOS) {	/* footer, and another section */
			at += 8 + SECTION_FOOT + SECTION_HEAD;
			if (!have(s, at) || s->buf[s->pos + at - SECTION_HEAD] != VM_SECTION_PART)
				return 0;
			continue;
		}
		flags = (unsigned)(word & (size - 1));
		off = word - flags;
		at += 8;
		if (!(flags & RAM_CONTINUE)) {
			k = p[8];
			if (!have(s, at + 1 + k))
				return 0;
			memcpy(name, s->buf + s->pos + at + 1, k);
			name[k] = '\0';
			b = ram_map_named(&s->f.ram, name);
			at += 1 + k;
		}
		flags &= ~(unsigned)RAM_CONTINUE;
		if (b == NULL || off >= b->len || (flags != RAM_PAGE && flags != RAM_ZERO))
			return 0;
		shows |= (off & size) != 0;
		steps += n > 0 && off == next;
		next = off + size;
		if (shows && n > 0 && (size == 4096 || steps >= 2))
			return 1;
		at += flags == RAM_PAGE ? size : 1;
	}
	return 0;
}

/*
 * Where nobody has told the page size, it is what the first records show: that of most targets
 * first, then those that others have.  Whether it was right is told at the end.
 */
static int
guess_page_size(struct stream_in *s)
{
	static const uint32_t size[] = { 4096, 8192, 16384, 1024, 256 };
	size_t i;

	if (s->page_size_told || s->user_page_size != 0 || s->is_mapped)
		return 0;
	for (i = 0; i < sizeof size / sizeof size[0]; i++)
		if (are_pages_of(s, size[i])) {
			s->f.ram.page_size = size[i];
			break;
		}
	if (s->f.ram.page_size < PAGE_SIZE_MIN)	/* AVR; it can be read, and drained */
		refuse(s, "target pages of %u bytes, less than %d: cannot be stored",
		    (unsigned)s->f.ram.page_size, (int)PAGE_SIZE_MIN);
	return s->failed;
}

/* ---- iterable handlers other than RAM ---- */

/* DIRTY_BITMAP_MIG_* in migration/block-dirty-bitmap.c. */
enum {
	BITMAP_EOS = 0x01,
	BITMAP_ZEROES = 0x02,
	BITMAP_NAME = 0x04,
	BITMAP_NODE = 0x08,
	BITMAP_START = 0x10,
	BITMAP_COMPLETE = 0x20,
	BITMAP_BITS = 0x40,
	BITMAP_MORE_FLAGS = 0x80
};

static int
read_bitmap(struct stream_in *s)
{
	char name[ID_MAX + 1];
	unsigned flags;
	uint64_t n;

	for (;;) {
		if (take_u8(s, &flags) != 0)
			return -1;
		if (flags & BITMAP_MORE_FLAGS)
			return refuse(s, "section dirty-bitmap: unknown flags");
		if ((flags & BITMAP_NODE && take_name(s, name) != 0) ||
		    (flags & BITMAP_NAME && take_name(s, name) != 0))
			return -1;
		if (flags & BITMAP_EOS)
			return 0;
		s->has_content[H_BITMAP] = 1;
		if (flags & BITMAP_START) {
			if (skip(s, 5) != 0)	/* granularity, flags */
				return -1;
		} else if (flags & BITMAP_BITS) {
			if (skip(s, 12) != 0)	/* first sector, their number */
				return -1;
			if (!(flags & BITMAP_ZEROES) && (take_u64(s, &n) != 0 || skip(s, n) != 0))
				return -1;
		} else if (!(flags & BITMAP_COMPLETE))
			return refuse(s, "section dirty-bitmap: unknown chunk");
	}
}

/* hw/ppc/spapr.c */
static int
read_htab(struct stream_in *s)
{
	const uint8_t *p;
	uint32_t first;

	if (take_u32(s, &first) != 0)
		return -1;
	if (first == UINT32_MAX)	/* a guest with radix page tables has none */
		return 0;
	s->has_content[H_HTAB] = 1;
	if (first != 0)		/* its size */
		return 0;
	for (;;) {
		if ((p = take(s, 8)) == NULL)
			return -1;
		if (get_be64(p) == 0)
			return 0;
		if (skip(s, (uint64_t)get_be16(p + 4) * 16) != 0)
			return -1;
	}
}

/* STATTR_FLAG_* in hw/s390x/s390-stattrib.c. */
enum {
	ATTRIBUTES_EOS = 0x01,
	ATTRIBUTES_MORE = 0x02,
	ATTRIBUTES_DONE = 0x08,
	ATTRIBUTES_FLAGS = 0xfff
};

static int
read_attributes(struct stream_in *s)
{
	uint64_t word, n;

	for (;;) {
		if (take_u64(s, &word) != 0)
			return -1;
		switch (word & ATTRIBUTES_FLAGS) {
		case ATTRIBUTES_EOS:
			return 0;
		case ATTRIBUTES_MORE:
			s->has_content[H_ATTRIBUTES] = 1;
			if (take_u64(s, &n) != 0 || skip(s, n) != 0)
				return -1;
			break;
		case ATTRIBUTES_DONE:
			break;
		default:
			return refuse(s, "section s390-storage_attributes: unknown record");
		}
	}
}

static int
read_other(struct stream_in *s, enum handler h)
{
	switch (h) {
	case H_BITMAP:
		return read_bitmap(s);
	case H_HTAB:
		return read_htab(s);
	case H_ATTRIBUTES:
		return read_attributes(s);
	case H_RAM:
	case NHANDLERS:
		break;
	}
	return SNAP_EBUG;
}

/* ---- top-level elements ---- */

struct full_header {
	char name[ID_MAX + 1];
	uint32_t sid, instance, version;
};

static int
read_full_header(struct stream_in *s, struct full_header *h)
{
	return take(s, 1) == NULL || take_u32(s, &h->sid) != 0 ||
	    take_name(s, h->name) != 0 || take_u32(s, &h->instance) != 0 ||
	    take_u32(s, &h->version) != 0 ? -1 : 0;
}

/* A section that nobody here can measure. */
static int
refuse_section(struct stream_in *s, const char *name)
{
	static const char vfio[] = "/vfio";
	size_t n = strlen(name);

	return refuse(s, "section %s: cannot be stored%s", name,
	    strcmp(name, "block") == 0 ? ": switch the capability block off" :
	    n >= sizeof vfio && strcmp(name + n - (sizeof vfio - 1), vfio) == 0 ?
	    ": take this device from the guest" : ", its length is not known");
}

/* 1: the RAM map is known now. */
static int
read_start(struct stream_in *s)
{
	struct full_header h;
	unsigned i;
	int err;

	s->keep = &s->f.prologue;
	if (read_full_header(s, &h) != 0)
		return -1;
	for (i = 0; i < NHANDLERS; i++)
		if (strcmp(h.name, handler_name[i]) == 0)
			break;
	if (i == NHANDLERS)
		return refuse_section(s, h.name);
	if (s->nsection == SECTIONS)
		return refuse(s, "more iterable sections than known here");
	s->section[s->nsection].sid = h.sid;
	s->section[s->nsection++].h = (enum handler)i;
	if (i != H_RAM)
		return read_other(s, (enum handler)i) == 0 ? read_footer(s, h.sid) : -1;
	if (h.version != RAM_VERSION)
		return refuse(s, "section ram: version %u, not %d",
		    (unsigned)h.version, (int)RAM_VERSION);
	if (s->f.ram.npages > 0 || s->f.ram.blk != NULL)
		return refuse(s, "section ram: begins twice");
	s->f.ram.sid = h.sid;
	if (read_blocks(s) != 0 || read_footer(s, h.sid) != 0)
		return -1;
	if ((err = guess_page_size(s)) != 0)
		return err;
	return number_pages(s) == 0 ? 1 : -1;
}

/* PART or END. */
static int
read_part(struct stream_in *s)
{
	uint32_t sid;
	unsigned i;

	s->keep = NULL;
	if (need(s, SECTION_HEAD) != 0)
		return -1;
	s->type = s->buf[s->pos];
	sid = get_be32(s->buf + s->pos + 1);
	for (i = 0; i < s->nsection; i++)
		if (s->section[i].sid == sid)
			break;
	if (i == s->nsection)
		return refuse(s, "section %u goes on, but never began", (unsigned)sid);
	if (s->section[i].h != H_RAM)
		s->keep = &s->f.iterables;
	if (take(s, SECTION_HEAD) == NULL)
		return -1;
	if (s->section[i].h != H_RAM)
		return read_other(s, s->section[i].h) == 0 ? read_footer(s, sid) : -1;
	s->have_part = 1;
	s->state = RAM;
	return 0;
}

/*
 * Before the RAM only one device writes its state, in QEMU 8.0 and later:
 * hw/virtio/virtio-mem.c, vmstate_virtio_mem_device_early.
 */
static int
read_early(struct stream_in *s)
{
	static const char suffix[] = "/virtio-mem-device-early";
	struct full_header h;
	const uint8_t *p;
	uint64_t blocks;
	size_t n;

	s->keep = &s->f.prologue;
	if (read_full_header(s, &h) != 0)
		return -1;
	n = strlen(h.name);
	if (n < sizeof suffix - 1 || h.version != 1 ||
	    strcmp(h.name + n - (sizeof suffix - 1), suffix) != 0)
		return refuse(s, "section %s: a device before the RAM, not known here",
		    h.name);
	s->sparse = 1;
	if ((p = take(s, 36)) == NULL)
		return -1;
	if (get_be64(p + 16) == 0)
		return refuse(s, "section %s: damaged", h.name);
	blocks = get_be64(p + 8) / get_be64(p + 16);
	if (blocks / 8 > KEPT_MAX)
		return refuse(s, "section %s: damaged", h.name);
	if (skip(s, (blocks + 63) / 64 * 8) != 0)
		return -1;
	return read_footer(s, h.sid);
}

static int
read_command(struct stream_in *s)
{
	const uint8_t *p;
	unsigned cmd, len;

	s->keep = NULL;
	if ((p = take(s, COMMAND_SIZE)) == NULL)
		return -1;
	cmd = get_be16(p + 1);
	len = get_be16(p + 3);
	if (skip(s, len) != 0)
		return -1;
	switch (cmd) {
	case CMD_OPEN_RETURN_PATH:
		s->f.wants_shut = 1;
		return 0;
	case CMD_PING:
	case CMD_SWITCHOVER_START:
		return 0;
	case CMD_POSTCOPY_ADVISE:
		if (len == 0)		/* dirty bitmaps only */
			return 0;
		return refuse(s, "the source has postcopy-ram on: switch it off to save");
	case CMD_PACKAGED:
		return refuse(s, "the source went into postcopy, which cannot be stored");
	default:
		refuse(s, "unknown command %u", cmd);
		return 0;	/* its length is known: go on, and drain */
	}
}

/*
 * The first FULL after the RAM.  A background snapshot ends no iterable section; that of RAM is
 * complete all the same, others are not, unless there is nothing in them at all: TCG keeps no
 * storage attributes of an s390x guest, and one of ppc64 may do without a hash table.
 */
static int
begin_tail(struct stream_in *s)
{
	unsigned i;

	for (i = 0; i < s->nsection && !s->f.ended; i++)
		if (s->has_content[s->section[i].h])
			refuse(s, "section %s: not complete in a background snapshot: "
			    "use an ordinary migration", handler_name[s->section[i].h]);
	if (s->f.ignores_shared && !s->f.ended)
		refuse(s, "background snapshot with x-ignore-shared: "
		    "switch it off, shared memory is missing");
	s->keep = NULL;
	s->state = TAIL;
	return 0;
}

/* 1: item ITEM_BLOCKS. */
static int
read_element(struct stream_in *s)
{
	if (need(s, 1) != 0)
		return -1;
	switch (s->buf[s->pos]) {
	case VM_SECTION_START:
		if (s->have_part)
			return refuse(s, "a section begins after the first pages");
		return read_start(s);
	case VM_SECTION_PART:
	case VM_SECTION_END:
		return read_part(s);
	case VM_SECTION_FULL:
		return s->have_part ? begin_tail(s) : read_early(s);
	case VM_COMMAND:
		return read_command(s);
	case VM_EOF:
		return refuse(s, "stream ends without devices");
	default:
		return refuse(s, "unknown element 0x%02x", s->buf[s->pos]);
	}
}

/* ---- RAM records ---- */

/* This is no record where one is expected. */
static int
lost(struct stream_in *s, unsigned flags)
{
	return refuse(s, "section ram: record with unknown flags 0x%x%s", flags,
	    s->page_size_told || s->user_page_size != 0 ? "" : "; see --page-size");
}

/* Name what cannot be stored, and take its payload. */
static int
refuse_record(struct stream_in *s, unsigned flags)
{
	const uint8_t *p;
	uint32_t n;

	if (flags & RAM_XBZRLE) {
		refuse(s, "section ram: XBZRLE page: switch the capability xbzrle off");
		return (p = take(s, 3)) == NULL ? -1 : skip(s, get_be16(p + 1));
	}
	if (flags & RAM_COMPRESS_PAGE) {
		refuse(s, "section ram: COMPRESS_PAGE: switch the capability compress off");
		if (take_u32(s, &n) != 0)
			return -1;
		return n > 2 * s->f.ram.page_size ?
		    refuse(s, "section ram: damaged") : skip(s, n);
	}
	return lost(s, flags);
}

/* Which block a record is of, and that its page is in there. */
static int
read_record_block(struct stream_in *s, unsigned flags, uint64_t off)
{
	char name[ID_MAX + 1];

	if (!(flags & RAM_CONTINUE)) {
		if (take_name(s, name) != 0)
			return -1;
		s->cur = ram_map_named(&s->f.ram, name);
		if (s->cur == NULL)
			refuse(s, "section ram: page of unknown block %s", name);
	} else if (s->cur == NULL)
		refuse(s, "section ram: first page does not name its block");
	if (s->cur != NULL && off >= s->cur->len)
		refuse(s, "section ram: page outside of block %s", s->cur->id);
	return 0;
}

/* 1: a page is in *it. */
static int
read_record(struct stream_in *s, struct stream_item *it)
{
	uint64_t word, off;
	unsigned flags, fill_byte;

	s->keep = NULL;
	if (take_u64(s, &word) != 0)
		return -1;
	flags = (unsigned)(word & (s->f.ram.page_size - 1));
	off = word - flags;
	if (word == RAM_EOS) {
		s->state = ELEMENT;
		s->f.ended = s->type == VM_SECTION_END;
		return read_footer(s, s->f.ram.sid);
	}
	if (flags & RAM_HOOK)
		return refuse(s, "section ram: HOOK: RDMA cannot be stored");
	if (s->is_mapped && (flags & (RAM_PAGE | RAM_ZERO)))
		return refuse(s, "section ram: a page that is not in its place");
	if (flags == RAM_MULTIFD_FLUSH && s->is_mapped)
		return 0;
	if (flags == RAM_MULTIFD_FLUSH) {
		refuse(s, "section ram: MULTIFD_FLUSH: switch the capability multifd off");
		return 0;
	}
	if (flags & ~(unsigned)(RAM_CONTINUE | RAM_ZERO | RAM_PAGE | RAM_XBZRLE |
	    RAM_COMPRESS_PAGE))
		return lost(s, flags);
	if (read_record_block(s, flags, off) != 0)
		return -1;
	switch (flags & ~(unsigned)RAM_CONTINUE) {
	case RAM_PAGE:
		it->kind = ITEM_PAGE;
		it->len = s->f.ram.page_size;
		if ((it->data = take(s, it->len)) == NULL)
			return -1;
		break;
	case RAM_ZERO:
		it->kind = ITEM_ZERO;
		if (take_u8(s, &fill_byte) != 0)
			return -1;
		if (fill_byte != 0)
			refuse(s, "section ram: page filled with 0x%02x", fill_byte);
		break;
	default:
		return refuse_record(s, flags);
	}
	s->f.records++;
	if (s->f.refused != 0)
		return 0;	/* draining: nobody wants it */
	it->page = s->cur->first + off / s->f.ram.page_size;
	return 1;
}

/* ---- the tail ---- */

/* At the end of the stream: is the tail complete? */
static int
check_tail(struct stream_in *s)
{
	const struct tail *t = &s->tail;

	if (tail_is_described(t)) {
		s->f.split = t->split;
		if (t->found && t->page_size != s->f.ram.page_size)
			return refuse(s, "target pages have %u bytes, not %u: "
			    "use --page-size", (unsigned)t->page_size,
			    (unsigned)s->f.ram.page_size);
		return 0;
	}
	if (tail_is_undescribed(t)) {
		s->f.split = t->len - 1;
		return 0;
	}
	return refuse(s, "stream ends inside the device state: cut, failed or cancelled");
}

/*
 * A source that waits for SHUT sends no end of input before it.  Its stream is
 * over when the tail could end here, and nothing more comes.  Device state may
 * by chance or malice look like the end, but QEMU does not pause in it.
 */
static int
tail_is_over(struct stream_in *s)
{
	int wait;

	if (!s->f.wants_shut)
		return 0;
	if (tail_is_described(&s->tail) && s->tail.page_size == s->f.ram.page_size)
		wait = SILENCE_MS;
	else if (tail_is_undescribed(&s->tail))
		wait = LONG_SILENCE_MS;
	else
		return 0;
	return !pipe_waits(s->fd, wait);
}

static int
read_tail(struct stream_in *s, struct stream_item *it)
{
	int got;

	if (s->pos == s->len) {
		got = tail_is_over(s) ? 0 : fill(s, READ_TAIL);
		if (got < 0)
			return got;
		if (got == 0) {
			s->state = DONE;
			return check_tail(s);
		}
	}
	it->kind = ITEM_TAIL;
	it->data = s->buf + s->pos;
	it->len = tail_scan(&s->tail, it->data, s->len - s->pos, &it->more);
	s->pos += it->len;
	return 1;
}

int
stream_next(struct stream_in *s, struct stream_item *it)
{
	int r = 0;

	for (;;) {
		switch (s->state) {
		case HEAD:
			r = read_head(s);
			break;
		case ELEMENT:
			if ((r = read_element(s)) == 1)
				it->kind = ITEM_BLOCKS;
			break;
		case RAM:
			r = read_record(s, it);
			break;
		case TAIL:
			r = read_tail(s, it);
			break;
		case DONE:
			return 0;
		}
		if (r >= 0 && s->f.refused != 0 && !s->refusal_told) {
			s->refusal_told = 1;
			it->kind = ITEM_REFUSED;
			return 1;
		}
		if (r == 1)
			return 1;
		if (r < 0)
			return s->f.refused != 0 ? s->f.refused : SNAP_ESYS;
	}
}

struct stream_in *
stream_open(int fd, uint32_t page_size)
{
	struct stream_in *s = calloc(1, sizeof *s);

	if (s == NULL || (s->buf = malloc(BUFFER)) == NULL) {
		free(s);
		return NULL;
	}
	s->fd = fd;
	s->name = "stream";
	s->user_page_size = page_size;
	return s;
}

void
stream_close(struct stream_in *s)
{
	if (s == NULL)
		return;
	free(s->f.preamble.buf);
	free(s->f.prologue.buf);
	free(s->f.iterables.buf);
	free(s->f.ram.blk);
	free(s->f.mapped);
	free(s->buf);
	free(s);
}

void
stream_quiet(struct stream_in *s)
{
	s->quiet = 1;
}

void
stream_end_is_told(struct stream_in *s)
{
	s->end_told = 1;
}

void
stream_is_file(struct stream_in *s, const char *name)
{
	s->may_be_mapped = 1;
	s->name = name;
}

const struct stream_facts *
stream_facts(const struct stream_in *s)
{
	return &s->f;
}
