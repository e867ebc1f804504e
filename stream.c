/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * stream.c -- QEMU's migration stream and return path.
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
 */
#include "stream.h"

#include <sys/stat.h>

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "latency.h"

/* Types of top-level elements: QEMU_VM_* in migration/savevm.c. */
enum {
	VM_EOF = 0x00,
	VM_SECTION_START = 0x01,
	VM_SECTION_PART = 0x02,
	VM_SECTION_END = 0x03,
	VM_SECTION_FULL = 0x04,
	VM_SUBSECTION = 0x05,
	VM_VMDESCRIPTION = 0x06,
	VM_CONFIGURATION = 0x07,
	VM_COMMAND = 0x08,
	VM_SECTION_FOOTER = 0x7e
};

/* A command that only a reader meets: enum qemu_vm_cmd in migration/savevm.c. */
enum { CMD_SWITCHOVER_START = 11 };

/* Flags of RAM records: RAM_SAVE_FLAG_* in migration/ram.c. */
enum {
	RAM_ZERO = 0x002,
	RAM_MEM_SIZE = 0x004,
	RAM_PAGE = 0x008,
	RAM_EOS = 0x010,
	RAM_CONTINUE = 0x020,
	RAM_XBZRLE = 0x040,
	RAM_HOOK = 0x080,
	RAM_COMPRESS_PAGE = 0x100,
	RAM_MULTIFD_FLUSH = 0x200
};

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
	SECTIONS = 16,		/* iterable handlers */
	NAME_MAX_WIRE = 255
};

enum state { HEAD, ELEMENT, RAM, TAIL, DONE };

/* Iterable handlers whose sections can be measured. */
enum handler { H_RAM, H_BITMAP, H_HTAB, H_ATTRIBUTES, NHANDLERS };

static const char *const handler_name[NHANDLERS] = {
	"ram", "dirty-bitmap", "spapr/htab", "s390-storage_attributes"
};

/*
 * The last place in the tail that looks like its end-of-file byte and the head
 * of its description.  Device state may hold such bytes, too, but what follows
 * the right place is text, in which they cannot occur: the last one is right.
 */
struct candidate {
	uint64_t split;		/* bytes before the end-of-file byte */
	uint64_t end;		/* where the description ends */
	unsigned matched;	/* characters of page_size_key met in a row */
	uint32_t page_size;	/* what the description says, 0: not found yet */
	int found;		/* 1: its digits are being read, 2: they are read */
};

struct stream_in {
	int fd;
	const char *name;	/* in messages: "stream", or "FILE:" */
	enum state state;
	int refused, refusal_told, quiet;
	int end_told, cut;
	void (*on_signal)(void *);
	void *on_signal_arg;

	uint8_t *buf;
	size_t pos, len;	/* unread bytes are buf[pos..len) */
	uint64_t base;		/* stream offset of buf[0] */
	struct kept *keep;	/* where consumed bytes go, or NULL */
	struct kept preamble, prologue, iterables;

	uint32_t user_page_size;
	int page_size_told;	/* by the stream */
	int ignore_shared;
	int may_be_mapped, is_mapped;
	struct mapped_block *mapped;	/* as many as blocks */
	struct ram_map ram;
	size_t ram_map_bytes;	/* as encoded in an image */
	const struct ram_block *cur;
	uint64_t records;	/* page records so far */
	int sparse;		/* some pages never come */
	int have_part, ended, wants_shut;
	struct { uint32_t sid; enum handler h; } section[SECTIONS];
	unsigned nsection;
	int failed;		/* SNAP_E*, reported, when the page size was looked for */
	int has_content[NHANDLERS];	/* their sections are not empty */
	unsigned type;		/* of the section being read */

	uint64_t tail;		/* bytes of the tail handed over */
	uint64_t win_hi, win_lo;	/* its last 16 bytes */
	struct candidate cand;	/* end 0: none yet */
	uint64_t split;
};

static int complain(struct stream_in *s, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Report what is wrong at the place where the stream is being read. */
static int
complain(struct stream_in *s, const char *fmt, ...)
{
	char msg[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof msg, fmt, ap);
	va_end(ap);
	if (s->refused == 0 && !s->quiet)
		snap_warnx("%s offset %llu: %s", s->name,
		    (unsigned long long)(s->base + s->pos), msg);
	s->refused = SNAP_EDATA;
	return SNAP_EDATA;
}

static void
no_memory(const struct stream_in *s)
{
	if (!s->quiet)
		snap_warn(ENOMEM, "stream");
}

/* ---- bytes ---- */

static int
would_block(int err)
{
	return err == EAGAIN || err == EWOULDBLOCK;
}

/*
 * As stream_waits(); fn(arg) is called for each signal.  However many of them come, silence for
 * so long is silence: what is sent to us must not make a source look as if it had sent something.
 */
static int
waits(int fd, int ms, void (*fn)(void *), void *arg)
{
	int64_t end = now_ns() + (int64_t)ms * 1000000, left = ms;
	struct pollfd p;
	int r;

	p.fd = fd;
	p.events = POLLIN;
	while ((r = poll(&p, 1, (int)left)) < 0 && errno == EINTR) {
		if (fn != NULL)
			fn(arg);
		if (ms < 0)
			return 1;
		left = (end - now_ns()) / 1000000;
		if (left < 0)
			left = 0;
	}
	return r != 0;
}

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
	while ((n = read(s->fd, s->buf + s->len, max)) < 0) {
		/* QEMU never makes ours so, others may. */
		if (would_block(errno)) {
			waits(s->fd, -1, s->on_signal, s->on_signal_arg);
			continue;
		}
		if (errno != EINTR) {
			if (!s->quiet)
				snap_warn(errno, "%s offset %llu: read", s->name,
				    (unsigned long long)(s->base + s->len));
			return SNAP_ESYS;
		}
		if (s->on_signal != NULL)
			s->on_signal(s->on_signal_arg);
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
	uint64_t left = s->ram.npages - s->records;

	if (s->ram.npages == 0 || s->records > s->ram.npages)
		return READ_SIZE;
	if (left < READ_SIZE / RECORD_MIN)
		return READ_TAIL;
	return left > READ_LARGE / RECORD_MIN && !s->sparse && s->refused == 0 ?
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
			s->cut = 1;
			s->quiet |= s->end_told;
			return complain(s, s->base + s->len == 0 ?
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
		if (s->failed != 0 || (s->wants_shut && !waits(s->fd, LONG_SILENCE_MS,
		    s->on_signal, s->on_signal_arg)))
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
	if (n > KEPT_MAX - s->preamble.len - s->prologue.len - s->iterables.len)
		return complain(s, "more than %d bytes besides RAM pages and devices",
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
take_name(struct stream_in *s, char name[NAME_MAX_WIRE + 1])
{
	const uint8_t *p;
	unsigned n;

	if (take_u8(s, &n) != 0)
		return -1;
	if (n == 0)
		return complain(s, "empty name");
	if ((p = take(s, n)) == NULL)
		return -1;
	if (memchr(p, 0, n) != NULL)
		return complain(s, "name with a NUL byte in it");
	memcpy(name, p, n);
	name[n] = '\0';
	return 0;
}

/* ---- before the RAM ---- */

static int
read_capabilities(struct stream_in *s)
{
	char name[NAME_MAX_WIRE + 1];
	uint32_t n;

	if (take_u32(s, &n) != 0)
		return -1;
	for (; n > 0; n--) {
		if (take_name(s, name) != 0)
			return -1;
		if (strcmp(name, "x-ignore-shared") == 0)
			s->ignore_shared = 1;
		else if (strcmp(name, "mapped-ram") == 0 && s->may_be_mapped)
			s->is_mapped = 1;
		else if (strcmp(name, "mapped-ram") == 0)
			return complain(s, "capability mapped-ram is on: "
			    "switch it off, its pages do not go through a pipe");
		else
			complain(s, "capability %s is on, which is not known here", name);
	}
	return 0;
}

/* Behind at, the capabilities have been kept: leave mapped-ram out of them. */
static int
keep_unmapped(struct stream_in *s, size_t at)
{
	static const char shared[] = "\005\032configuration/capabilities\0\0\0\001"
	    "\0\0\0\001\017x-ignore-shared";

	s->preamble.len = at;
	return s->ignore_shared ? keep(s, (const uint8_t *)shared, sizeof shared - 1) : 0;
}

static int
read_config_subsection(struct stream_in *s)
{
	char name[NAME_MAX_WIRE + 1];
	uint32_t version, bits;
	size_t at = s->preamble.len;

	if (take(s, 1) == NULL || take_name(s, name) != 0 || take_u32(s, &version) != 0)
		return -1;
	if (version != 1)
		return complain(s, "section %s: unknown version %u", name,
		    (unsigned)version);
	if (strcmp(name, "configuration/target-page-bits") == 0) {
		if (take_u32(s, &bits) != 0)
			return -1;
		if (bits < 10 || bits > 16)
			return complain(s, "target pages of 2^%u bytes", (unsigned)bits);
		s->ram.page_size = (uint32_t)1 << bits;
		s->page_size_told = 1;
		return 0;
	}
	if (strcmp(name, "configuration/capabilities") == 0)
		return read_capabilities(s) != 0 ? -1 : s->is_mapped ? keep_unmapped(s, at) : 0;
	if (strcmp(name, "configuration/uuid") == 0)
		return skip(s, 16);
	return complain(s, "section %s: not known", name);
}

static int
read_head(struct stream_in *s)
{
	const uint8_t *p;
	uint32_t n;

	s->keep = &s->preamble;
	if ((p = take(s, 8)) == NULL)
		return -1;
	if (memcmp(p, "QEVM", 4) != 0)
		return complain(s, "not a migration stream");
	if (get_be32(p + 4) != 3)
		return complain(s, "stream of version %u, not 3",
		    (unsigned)get_be32(p + 4));
	if (need(s, 1) != 0)
		return -1;
	if (s->buf[s->pos] != VM_CONFIGURATION)
		return complain(s, "no configuration section: "
		    "send-configuration=off cannot be stored");
	if (take(s, 1) == NULL || take_u32(s, &n) != 0)
		return -1;
	if (n > 255)
		return complain(s, "machine name of %u bytes", (unsigned)n);
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
	    s->user_page_size != s->ram.page_size)
		return complain(s, "--page-size is %u, but the stream says %u",
		    (unsigned)s->user_page_size, (unsigned)s->ram.page_size);
	if (!s->page_size_told)
		s->ram.page_size = s->user_page_size != 0 ? s->user_page_size : 4096;
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
		return complain(s, "no section footer: "
		    "send-section-footer=off cannot be stored");
	default:
		return complain(s, "section footer expected, found byte 0x%02x",
		    s->buf[s->pos]);
	}
	if (take(s, 1) == NULL || take_u32(s, &got) != 0)
		return -1;
	if (got != sid)
		return complain(s, "footer of section %u in section %u",
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
	uint64_t bytes = (b->len / s->ram.page_size + 63) / 64 * 8, end;
	struct kept *k = s->keep;
	struct mapped_block *m;
	const uint8_t *p;

	s->keep = NULL;
	p = take(s, 28);
	s->keep = k;
	if (p == NULL)
		return -1;
	m = realloc(s->mapped, (s->ram.nblk + 1) * sizeof *m);
	if (m == NULL) {
		no_memory(s);
		return -1;
	}
	s->mapped = m;
	m += s->ram.nblk;
	m->bitmap = get_be64(p + 12);
	m->pages = get_be64(p + 20);
	if (get_be32(p) != 1)
		return complain(s, "mapped-ram of version %u, not 1", (unsigned)get_be32(p));
	if (get_be64(p + 4) != s->ram.page_size)
		return complain(s, "mapped-ram: pages have %llu bytes, not %u; see --page-size",
		    (unsigned long long)get_be64(p + 4), (unsigned)s->ram.page_size);
	if (m->bitmap < s->base + s->pos || m->pages < m->bitmap ||
	    m->pages - m->bitmap < bytes || m->pages > INT64_MAX - b->len)
		return complain(s, "RAM block %s: lies at no possible place", b->id);
	end = m->pages + b->len;
	if (lseek(s->fd, (off_t)end, SEEK_SET) < 0)	/* no file here can be so long */
		return complain(s, "RAM block %s: lies at no possible place", b->id);
	s->base = end;
	s->pos = s->len = 0;
	return 0;
}

/* One block of the list in START of RAM. */
static int
read_block(struct stream_in *s, uint64_t *left)
{
	struct ram_map *ram = &s->ram;
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
		return complain(s, "RAM block %s: at no possible address", b->id);
	if (ram_map_named(ram, b->id) != NULL)
		return complain(s, "RAM block %s is there twice", b->id);
	if (b->len == 0 || b->len > *left)
		return complain(s, "RAM blocks do not add up to the total");
	s->ram_map_bytes += strlen(b->id) + 17;
	if (s->ram_map_bytes > RAM_MAP_MAX - 16)
		return complain(s, "more RAM blocks than an image can describe");
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
	struct ram_map *ram = &s->ram;
	struct ram_block *b;

	for (b = ram->blk; b < ram->blk + ram->nblk; b++) {
		if (b->len % ram->page_size != 0)
			return complain(s, "RAM block %s: its length is not whole pages of %u "
			    "bytes; see --page-size", b->id, (unsigned)ram->page_size);
		if (b->len / ram->page_size > PAGES_MAX - ram->npages)
			return complain(s, "more RAM than an image can hold");
		b->first = ram->npages;
		ram->npages += b->len / ram->page_size;
	}
	return 0;
}

static int
read_blocks(struct stream_in *s)
{
	uint64_t word, left, mask = PAGE_SIZE_MIN - 1;

	s->ram.has_addr = s->ignore_shared;
	s->sparse |= s->ignore_shared;
	if (take_u64(s, &word) != 0)
		return -1;
	if ((word & mask) != RAM_MEM_SIZE)
		return complain(s, "section ram: no list of blocks");
	for (left = word & ~mask; left > 0;)
		if (read_block(s, &left) != 0)
			return -1;
	if (s->ram.nblk == 0)
		return complain(s, "section ram: no blocks");
	if (take_u64(s, &word) != 0)
		return -1;
	if (word != RAM_EOS)
		return complain(s, "section ram: list of blocks does not end");
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
	char name[NAME_MAX_WIRE + 1];
	unsigned flags, n, k;
	const uint8_t *p;
	uint64_t word, off, next = 0;
	int shows = 0, steps = 0;
	size_t at = 5;

	if (!have(s, at) || s->buf[s->pos] != VM_SECTION_PART ||
	    get_be32(s->buf + s->pos + 1) != s->ram.sid)
		return 0;
	for (n = 0; n < GUESS_RECORDS && at < PAGE_SIZE_MAX && have(s, at + 9); n++) {
		p = s->buf + s->pos + at;
		if ((word = get_be64(p)) == RAM_EOS) {	/* footer, and another section */
			at += 18;
			if (!have(s, at) || s->buf[s->pos + at - 5] != VM_SECTION_PART)
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
			b = ram_map_named(&s->ram, name);
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
			s->ram.page_size = size[i];
			break;
		}
	if (s->ram.page_size < PAGE_SIZE_MIN)	/* AVR; it can be read, and drained */
		complain(s, "target pages of %u bytes, less than %d: cannot be stored",
		    (unsigned)s->ram.page_size, (int)PAGE_SIZE_MIN);
	return s->failed;
}

/* ---- iterable handlers other than RAM ---- */

/* migration/block-dirty-bitmap.c */
static int
read_bitmap(struct stream_in *s)
{
	char name[NAME_MAX_WIRE + 1];
	unsigned flags;
	uint64_t n;

	for (;;) {
		if (take_u8(s, &flags) != 0)
			return -1;
		if (flags & 0x80)
			return complain(s, "section dirty-bitmap: unknown flags");
		if ((flags & 0x08 && take_name(s, name) != 0) ||
		    (flags & 0x04 && take_name(s, name) != 0))
			return -1;
		if (flags & 0x01)
			return 0;
		s->has_content[H_BITMAP] = 1;
		if (flags & 0x10) {
			if (skip(s, 5) != 0)	/* granularity, flags */
				return -1;
		} else if (flags & 0x40) {
			if (skip(s, 12) != 0)	/* first sector, their number */
				return -1;
			if (!(flags & 0x02) && (take_u64(s, &n) != 0 || skip(s, n) != 0))
				return -1;
		} else if (!(flags & 0x20))
			return complain(s, "section dirty-bitmap: unknown chunk");
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

/* hw/s390x/s390-stattrib.c */
static int
read_attributes(struct stream_in *s)
{
	uint64_t word, n;

	for (;;) {
		if (take_u64(s, &word) != 0)
			return -1;
		switch (word & 0xfff) {
		case 0x01:
			return 0;
		case 0x02:
			s->has_content[H_ATTRIBUTES] = 1;
			if (take_u64(s, &n) != 0 || skip(s, n) != 0)
				return -1;
			break;
		case 0x08:
			break;
		default:
			return complain(s, "section s390-storage_attributes: unknown record");
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
	char name[NAME_MAX_WIRE + 1];
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

	return complain(s, "section %s: cannot be stored%s", name,
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

	s->keep = &s->prologue;
	if (read_full_header(s, &h) != 0)
		return -1;
	for (i = 0; i < NHANDLERS; i++)
		if (strcmp(h.name, handler_name[i]) == 0)
			break;
	if (i == NHANDLERS)
		return refuse_section(s, h.name);
	if (s->nsection == SECTIONS)
		return complain(s, "more iterable sections than known here");
	s->section[s->nsection].sid = h.sid;
	s->section[s->nsection++].h = (enum handler)i;
	if (i != H_RAM)
		return read_other(s, (enum handler)i) == 0 ? read_footer(s, h.sid) : -1;
	if (h.version != RAM_VERSION)
		return complain(s, "section ram: version %u, not %d",
		    (unsigned)h.version, (int)RAM_VERSION);
	if (s->ram.npages > 0 || s->ram.blk != NULL)
		return complain(s, "section ram: begins twice");
	s->ram.sid = h.sid;
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
	if (need(s, 5) != 0)
		return -1;
	s->type = s->buf[s->pos];
	sid = get_be32(s->buf + s->pos + 1);
	for (i = 0; i < s->nsection; i++)
		if (s->section[i].sid == sid)
			break;
	if (i == s->nsection)
		return complain(s, "section %u goes on, but never began", (unsigned)sid);
	if (s->section[i].h != H_RAM)
		s->keep = &s->iterables;
	if (take(s, 5) == NULL)
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

	s->keep = &s->prologue;
	if (read_full_header(s, &h) != 0)
		return -1;
	n = strlen(h.name);
	if (n < sizeof suffix - 1 || h.version != 1 ||
	    strcmp(h.name + n - (sizeof suffix - 1), suffix) != 0)
		return complain(s, "section %s: a device before the RAM, not known here",
		    h.name);
	s->sparse = 1;
	if ((p = take(s, 36)) == NULL)
		return -1;
	if (get_be64(p + 16) == 0)
		return complain(s, "section %s: damaged", h.name);
	blocks = get_be64(p + 8) / get_be64(p + 16);
	if (blocks / 8 > KEPT_MAX)
		return complain(s, "section %s: damaged", h.name);
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
	if ((p = take(s, 5)) == NULL)
		return -1;
	cmd = get_be16(p + 1);
	len = get_be16(p + 3);
	if (skip(s, len) != 0)
		return -1;
	switch (cmd) {
	case CMD_OPEN_RETURN_PATH:
		s->wants_shut = 1;
		return 0;
	case CMD_PING:
	case CMD_SWITCHOVER_START:
		return 0;
	case CMD_POSTCOPY_ADVISE:
		if (len == 0)		/* dirty bitmaps only */
			return 0;
		return complain(s, "the source has postcopy-ram on: switch it off to save");
	case CMD_PACKAGED:
		return complain(s, "the source went into postcopy, which cannot be stored");
	default:
		complain(s, "unknown command %u", cmd);
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

	for (i = 0; i < s->nsection && !s->ended; i++)
		if (s->has_content[s->section[i].h])
			complain(s, "section %s: not complete in a background snapshot: "
			    "use an ordinary migration", handler_name[s->section[i].h]);
	if (s->ignore_shared && !s->ended)
		complain(s, "background snapshot with x-ignore-shared: "
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
			return complain(s, "a section begins after the first pages");
		return read_start(s);
	case VM_SECTION_PART:
	case VM_SECTION_END:
		return read_part(s);
	case VM_SECTION_FULL:
		return s->have_part ? begin_tail(s) : read_early(s);
	case VM_COMMAND:
		return read_command(s);
	case VM_EOF:
		return complain(s, "stream ends without devices");
	default:
		return complain(s, "unknown element 0x%02x", s->buf[s->pos]);
	}
}

/* ---- RAM records ---- */

/* This is no record where one is expected. */
static int
lost(struct stream_in *s, unsigned flags)
{
	return complain(s, "section ram: record with unknown flags 0x%x%s", flags,
	    s->page_size_told || s->user_page_size != 0 ? "" : "; see --page-size");
}

/* Name what cannot be stored, and take its payload. */
static int
refuse_record(struct stream_in *s, unsigned flags)
{
	const uint8_t *p;
	uint32_t n;

	if (flags & RAM_XBZRLE) {
		complain(s, "section ram: XBZRLE page: switch the capability xbzrle off");
		return (p = take(s, 3)) == NULL ? -1 : skip(s, get_be16(p + 1));
	}
	if (flags & RAM_COMPRESS_PAGE) {
		complain(s, "section ram: COMPRESS_PAGE: switch the capability compress off");
		if (take_u32(s, &n) != 0)
			return -1;
		return n > 2 * s->ram.page_size ?
		    complain(s, "section ram: damaged") : skip(s, n);
	}
	return lost(s, flags);
}

/* Which block a record is of, and that its page is in there. */
static int
read_record_block(struct stream_in *s, unsigned flags, uint64_t off)
{
	char name[NAME_MAX_WIRE + 1];

	if (!(flags & RAM_CONTINUE)) {
		if (take_name(s, name) != 0)
			return -1;
		s->cur = ram_map_named(&s->ram, name);
		if (s->cur == NULL)
			complain(s, "section ram: page of unknown block %s", name);
	} else if (s->cur == NULL)
		complain(s, "section ram: first page does not name its block");
	if (s->cur != NULL && off >= s->cur->len)
		complain(s, "section ram: page outside of block %s", s->cur->id);
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
	flags = (unsigned)(word & (s->ram.page_size - 1));
	off = word - flags;
	if (word == RAM_EOS) {
		s->state = ELEMENT;
		s->ended = s->type == VM_SECTION_END;
		return read_footer(s, s->ram.sid);
	}
	if (flags & RAM_HOOK)
		return complain(s, "section ram: HOOK: RDMA cannot be stored");
	if (s->is_mapped && (flags & (RAM_PAGE | RAM_ZERO)))
		return complain(s, "section ram: a page that is not in its place");
	if (flags == RAM_MULTIFD_FLUSH && s->is_mapped)
		return 0;
	if (flags == RAM_MULTIFD_FLUSH) {
		complain(s, "section ram: MULTIFD_FLUSH: switch the capability multifd off");
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
		it->len = s->ram.page_size;
		if ((it->data = take(s, it->len)) == NULL)
			return -1;
		break;
	case RAM_ZERO:
		it->kind = ITEM_ZERO;
		if (take_u8(s, &fill_byte) != 0)
			return -1;
		if (fill_byte != 0)
			complain(s, "section ram: page filled with 0x%02x", fill_byte);
		break;
	default:
		return refuse_record(s, flags);
	}
	s->records++;
	if (s->refused != 0)
		return 0;	/* draining: nobody wants it */
	it->page = s->cur->first + off / s->ram.page_size;
	return 1;
}

/* ---- the tail ---- */

static const char page_size_key[] = "\"page_size\": ";

/* The next character of a description that c may have begun. */
static void
match_page_size(struct candidate *c, uint8_t ch)
{
	if (c->found == 2)
		return;
	if (c->found == 1) {
		if (ch >= '0' && ch <= '9' && c->page_size < 1 << 24)
			c->page_size = c->page_size * 10 + (uint32_t)(ch - '0');
		else
			c->found = 2;
		return;
	}
	if (ch == (uint8_t)page_size_key[c->matched])
		c->matched++;
	else
		c->matched = ch == (uint8_t)page_size_key[0];
	if (page_size_key[c->matched] == '\0')
		c->found = 1;
}

/*
 * Look at n bytes of the tail for the end of the device state: a footer, the
 * end-of-file byte, and the head of a description that begins with {".  Stops
 * behind one; returns the number of bytes looked at.
 */
static size_t
scan_tail(struct stream_in *s, const uint8_t *p, size_t n, uint64_t *more)
{
	struct candidate *c = &s->cand;
	uint32_t len;
	size_t i;

	*more = 0;
	for (i = 0; i < n; i++) {
		match_page_size(c, p[i]);
		s->win_hi = s->win_hi << 8 | s->win_lo >> 56;
		s->win_lo = s->win_lo << 8 | p[i];
		s->tail++;
		len = (uint32_t)(s->win_lo >> 16);
		if (s->win_lo >> 48 == VM_VMDESCRIPTION &&
		    (s->win_lo & 0xffff) == ('{' << 8 | '"') && s->tail >= 13 &&
		    (s->win_hi >> 32 & 0xff) == VM_SECTION_FOOTER && len > 2) {
			memset(c, 0, sizeof *c);
			c->split = s->tail - 8;
			c->end = c->split + 6 + len;
			c->matched = 1;		/* its first character was a quote */
			*more = len - 2;
			return i + 1;
		}
	}
	return n;
}

/* Is this the end of a description? */
static int
described(const struct stream_in *s)
{
	return s->cand.end == s->tail && (s->win_lo & 0xff) == '}';
}

/* Or of a tail without one, as with suppress-vmdesc=on? */
static int
undescribed(const struct stream_in *s)
{
	return s->tail > 6 && (s->win_lo & 0xff) == VM_EOF &&
	    (s->win_lo >> 40 & 0xff) == VM_SECTION_FOOTER;
}

/* At the end of the stream: is the tail complete? */
static int
check_tail(struct stream_in *s)
{
	const struct candidate *c = &s->cand;

	if (described(s)) {
		s->split = c->split;
		if (c->found != 0 && c->page_size != s->ram.page_size)
			return complain(s, "target pages have %u bytes, not %u: "
			    "use --page-size", (unsigned)c->page_size,
			    (unsigned)s->ram.page_size);
		return 0;
	}
	if (undescribed(s)) {
		s->split = s->tail - 1;
		return 0;
	}
	return complain(s, "stream ends inside the device state: cut, failed or cancelled");
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

	if (!s->wants_shut)
		return 0;
	if (described(s) && s->cand.found == 2 && s->cand.page_size == s->ram.page_size)
		wait = SILENCE_MS;
	else if (undescribed(s))
		wait = LONG_SILENCE_MS;
	else
		return 0;
	return !waits(s->fd, wait, s->on_signal, s->on_signal_arg);
}

static int
read_tail(struct stream_in *s, struct stream_item *it)
{
	int got;

	if (s->pos == s->len) {
		/* A source that waits for SHUT sends no end of input before it. */
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
	it->len = scan_tail(s, it->data, s->len - s->pos, &it->more);
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
		if (r >= 0 && s->refused != 0 && !s->refusal_told) {
			s->refusal_told = 1;
			it->kind = ITEM_REFUSED;
			return 1;
		}
		if (r == 1)
			return 1;
		/* Helpers say -1 for what need() and take() have reported. */
		if (r < 0)
			return s->refused != 0 ? s->refused : SNAP_ESYS;
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
	free(s->preamble.buf);
	free(s->prologue.buf);
	free(s->iterables.buf);
	free(s->ram.blk);
	free(s->mapped);
	free(s->buf);
	free(s);
}

void
stream_on_signal(struct stream_in *s, void (*fn)(void *), void *arg)
{
	s->on_signal = fn;
	s->on_signal_arg = arg;
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

int
stream_is_cut(const struct stream_in *s)
{
	return s->cut;
}

int
stream_refused(const struct stream_in *s)
{
	return s->refused;
}

int
stream_is_pipe(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
}

int
stream_waits(int fd, int ms)
{
	return waits(fd, ms, NULL, NULL);
}

int
stream_begins(struct stream_in *s, int ms)
{
	return waits(s->fd, ms, s->on_signal, s->on_signal_arg);
}

static void
drain(int fd, void (*fn)(void *), void *arg)
{
	uint8_t buf[16384];
	ssize_t n;

	for (;;) {
		n = read(fd, buf, sizeof buf);
		if (n == 0 || (n < 0 && errno != EINTR && !would_block(errno)))
			return;
		if (n < 0 && errno != EINTR)
			waits(fd, -1, fn, arg);
		else if (n < 0 && fn != NULL)
			fn(arg);
	}
}

void
stream_drain(int fd)
{
	drain(fd, NULL, NULL);
}

void
stream_drain_rest(struct stream_in *s)
{
	drain(s->fd, s->on_signal, s->on_signal_arg);
}

void
stream_reject(int fd, int paused)
{
	static const uint8_t msg[COMMAND_SIZE + 4] = {
		VM_COMMAND, 0, CMD_POSTCOPY_RESUME, 0, 0, 0xff, 0xff, 0xff, 0xff
	};
	size_t skipped = paused ? 0 : COMMAND_SIZE;

	if (!stream_is_pipe(fd))
		return;
	/* Any other error: nobody is there to be told. */
	while (write(fd, msg + skipped, sizeof msg - skipped) < 0 && errno == EINTR)
		;
}

const struct ram_map *
stream_ram(const struct stream_in *s)
{
	return &s->ram;
}

const struct kept *
stream_preamble(const struct stream_in *s)
{
	return &s->preamble;
}

const struct kept *
stream_prologue(const struct stream_in *s)
{
	return &s->prologue;
}

const struct kept *
stream_iterables(const struct stream_in *s)
{
	return &s->iterables;
}

int
stream_ended(const struct stream_in *s)
{
	return s->ended;
}

int
stream_ignores_shared(const struct stream_in *s)
{
	return s->ignore_shared;
}

void
stream_is_file(struct stream_in *s, const char *name)
{
	s->may_be_mapped = 1;
	s->name = name;
}

const struct mapped_block *
stream_mapped(const struct stream_in *s)
{
	return s->is_mapped ? s->mapped : NULL;
}

uint64_t
stream_records(const struct stream_in *s)
{
	return s->records;
}

int
stream_wants_shut(const struct stream_in *s)
{
	return s->wants_shut;
}

uint64_t
stream_split(const struct stream_in *s)
{
	return s->split;
}

int
stream_send_shut(int fd, uint32_t status)
{
	struct stream_out o;
	uint8_t msg[8];

	if (!stream_is_pipe(fd))
		return 0;
	put_be16(msg, RP_SHUT);
	put_be16(msg + 2, 4);
	put_be32(msg + 4, status);
	out_init(&o, fd, NULL);
	out_copy(&o, msg, sizeof msg);
	return out_flush(&o);
}

/* ---- writing ---- */

void
out_init(struct stream_out *o, int fd, const struct ram_map *ram)
{
	long max = sysconf(_SC_IOV_MAX);

	o->fd = fd;
	o->name = NULL;
	o->ram = ram;
	o->cur = NULL;
	o->in_section = 0;
	o->records = 0;
	o->first = o->niov = 0;
	o->max_iov = max > 0 && max < OUT_IOV ? (int)max : OUT_IOV;
	o->nsmall = 0;
	o->returns = 0;
	o->on_signal = NULL;
	o->on_signal_arg = NULL;
}

void
out_on_signal(struct stream_out *o, void (*fn)(void *), void *arg)
{
	o->on_signal = fn;
	o->on_signal_arg = arg;
}

int
out_pending(const struct stream_out *o)
{
	return o->first < o->niov;
}

/* Others may have made ours such that it does not block. */
static void
wait_for_room(const struct stream_out *o)
{
	struct pollfd p;

	p.fd = o->fd;
	p.events = POLLOUT;
	if (poll(&p, 1, -1) < 0 && errno == EINTR && o->on_signal != NULL)
		o->on_signal(o->on_signal_arg);
}

int
out_flush(struct stream_out *o)
{
	ssize_t n;

	while (o->first < o->niov) {
		n = writev(o->fd, o->iov + o->first, o->niov - o->first);
		if (n < 0) {
			if (errno == EINTR) {
				if (o->on_signal != NULL)
					o->on_signal(o->on_signal_arg);
				continue;
			}
			if (would_block(errno)) {
				if (o->returns)
					return 1;
				wait_for_room(o);
				continue;
			}
			if (o->name != NULL)
				snap_warn(errno, "%s: write", o->name);
			else if (errno == EPIPE)
				snap_warnx("the destination closed the stream");
			else
				snap_warn(errno, "writing the stream");
			o->first = o->niov = 0;
			return SNAP_ESYS;
		}
		while (n > 0) {
			struct iovec *v = &o->iov[o->first];
			size_t k = (size_t)n < v->iov_len ? (size_t)n : v->iov_len;

			v->iov_base = (uint8_t *)v->iov_base + k;
			v->iov_len -= k;
			n -= (ssize_t)k;
			if (v->iov_len == 0)
				o->first++;
		}
	}
	o->first = o->niov = 0;
	o->nsmall = 0;
	return 0;
}

/* At most OUT_SMALL bytes. */
static int
out_piece(struct stream_out *o, const void *buf, size_t len)
{
	struct iovec *v;
	uint8_t *at;

	if (len > OUT_SMALL - o->nsmall || o->niov == o->max_iov)
		if (out_flush(o) != 0)
			return SNAP_ESYS;
	at = o->small + o->nsmall;
	memcpy(at, buf, len);
	o->nsmall += len;
	v = &o->iov[o->niov];
	if (o->niov > o->first && (uint8_t *)v[-1].iov_base + v[-1].iov_len == at) {
		v[-1].iov_len += len;
		return 0;
	}
	v->iov_base = at;
	v->iov_len = len;
	o->niov++;
	return 0;
}

int
out_copy(struct stream_out *o, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	size_t n;
	int err = 0;

	for (; len > 0 && err == 0; p += n, len -= n) {
		n = len < OUT_SMALL ? len : OUT_SMALL;
		err = out_piece(o, p, n);
	}
	return err;
}

static int
out_refer(struct stream_out *o, const void *buf, size_t len)
{
	union {
		const void *in;
		void *out;
	} p;

	if (o->niov == o->max_iov && out_flush(o) != 0)
		return SNAP_ESYS;
	p.in = buf;	/* writev() only reads, but struct iovec cannot say so */
	o->iov[o->niov].iov_base = p.out;
	o->iov[o->niov].iov_len = len;
	o->niov++;
	return 0;
}

int
out_command(struct stream_out *o, unsigned cmd, const void *buf, size_t len)
{
	uint8_t head[5];

	head[0] = VM_COMMAND;
	put_be16(head + 1, cmd);
	put_be16(head + 3, (uint32_t)len);
	if (out_copy(o, head, sizeof head) != 0)
		return SNAP_ESYS;
	return len > 0 ? out_copy(o, buf, len) : 0;
}

int
out_begin(struct stream_out *o, unsigned type)
{
	uint8_t head[5];

	head[0] = (uint8_t)type;
	put_be32(head + 1, o->ram->sid);
	o->in_section = 1;
	o->records = 0;
	return out_copy(o, head, sizeof head);
}

int
out_end(struct stream_out *o)
{
	uint8_t end[13];

	if (!o->in_section)
		return 0;
	put_be64(end, RAM_EOS);
	end[8] = VM_SECTION_FOOTER;
	put_be32(end + 9, o->ram->sid);
	o->in_section = 0;
	return out_copy(o, end, sizeof end);
}

int
out_page(struct stream_out *o, uint64_t page, const uint8_t *data)
{
	const struct ram_block *b = o->cur;
	uint8_t head[8 + 1 + NAME_MAX_WIRE + 1];
	uint64_t word;
	size_t n = 8, len;

	if (b == NULL || page < b->first ||
	    page - b->first >= b->len / o->ram->page_size)
		b = ram_map_find(o->ram, page);
	word = (page - b->first) * o->ram->page_size | (data != NULL ? RAM_PAGE : RAM_ZERO);
	if (b == o->cur && o->records > 0)
		word |= RAM_CONTINUE;
	else {
		len = strlen(b->id);
		head[n++] = (uint8_t)len;
		memcpy(head + n, b->id, len);
		n += len;
	}
	put_be64(head, word);
	if (data == NULL)
		head[n++] = 0;
	o->cur = b;
	o->records++;
	if (out_copy(o, head, n) != 0)
		return SNAP_ESYS;
	return data != NULL ? out_refer(o, data, o->ram->page_size) : 0;
}

/* ---- the return path ---- */

void
rp_init(struct rp_in *r, int fd, const struct ram_map *ram)
{
	memset(r, 0, sizeof *r);
	r->fd = fd;
	r->ram = ram;
}

void
rp_on_signal(struct rp_in *r, void (*fn)(void *), void *arg)
{
	r->on_signal = fn;
	r->on_signal_arg = arg;
}

int
rp_read(struct rp_in *r)
{
	ssize_t n;

	memmove(r->buf, r->buf + r->pos, r->len - r->pos);
	r->len -= r->pos;
	r->pos = 0;
	while ((n = read(r->fd, r->buf + r->len, sizeof r->buf - r->len)) < 0) {
		if (would_block(errno))
			return 0;
		if (errno != EINTR) {
			snap_warn(errno, "return path: read");
			return SNAP_ESYS;
		}
		if (r->on_signal != NULL)
			r->on_signal(r->on_signal_arg);
	}
	if (n == 0)
		r->eof = 1;
	r->len += (size_t)n;
	return 0;
}

int
rp_take(struct rp_in *r, void *buf, size_t n)
{
	uint8_t *p = buf;
	size_t k;

	while (n > 0) {
		if (r->pos == r->len) {
			waits(r->fd, -1, r->on_signal, r->on_signal_arg);
			if (rp_read(r) != 0)
				return SNAP_ESYS;
			if (r->eof) {
				snap_warnx("return path: ends too early");
				return SNAP_ESYS;
			}
		}
		k = r->len - r->pos < n ? r->len - r->pos : n;
		memcpy(p, r->buf + r->pos, k);
		r->pos += k;
		p += k;
		n -= k;
	}
	return 0;
}

static int
bad_message(const char *what)
{
	snap_warnx("return path: %s", what);
	return SNAP_EDATA;
}

/* The pages asked for; name NULL: of the block asked for last. */
static int
take_request(struct rp_in *r, struct rp_msg *m, const uint8_t *p, const char *name)
{
	m->start = get_be64(p);
	m->len = get_be32(p + 8);
	if (name != NULL)
		r->cur = ram_map_named(r->ram, name);
	m->blk = r->cur;
	if (m->blk == NULL)
		return bad_message("request for a page of an unknown block");
	if (m->len == 0 || m->start >= m->blk->len || m->len > m->blk->len - m->start)
		return bad_message("request for pages outside of their block");
	return 1;
}

/* The name that the last len bytes of a message are: a length and so many characters. */
static int
message_name(char name[NAME_MAX_WIRE + 1], const uint8_t *p, size_t len)
{
	if (len < 2 || len != 1 + (size_t)p[0])
		return bad_message("message of wrong length");
	if (memchr(p + 1, 0, p[0]) != NULL)
		return bad_message("name with a NUL byte in it");
	memcpy(name, p + 1, p[0]);
	name[p[0]] = '\0';
	return 0;
}

int
rp_next(struct rp_in *r, struct rp_msg *m)
{
	const uint8_t *p = r->buf + r->pos;
	char name[NAME_MAX_WIRE + 1];
	size_t len;
	int err;

	if (r->len - r->pos < 4)
		return 0;
	m->type = (enum rp_type)get_be16(p);
	len = get_be16(p + 2);
	if (len > 12 + 1 + NAME_MAX_WIRE)
		return bad_message("message of impossible length");
	if (r->len - r->pos < 4 + len)
		return 0;
	r->pos += 4 + len;
	p += 4;
	switch (m->type) {
	case RP_SHUT:
	case RP_PONG:
	case RP_RESUME_ACK:
		if (len != 4)
			return bad_message("message of wrong length");
		m->value = get_be32(p);
		return 1;
	case RP_SWITCHOVER_ACK:
		return len == 0 ? 1 : bad_message("message of wrong length");
	case RP_RECV_BITMAP:
		if ((err = message_name(name, p, len)) != 0)
			return err;
		m->blk = ram_map_named(r->ram, name);
		return m->blk != NULL ? 1 : bad_message("bitmap of an unknown block");
	case RP_REQ_PAGES:
		if (len != 12)
			return bad_message("message of wrong length");
		return take_request(r, m, p, NULL);
	case RP_REQ_PAGES_ID:
		if (len < 12)
			return bad_message("message of wrong length");
		if ((err = message_name(name, p + 12, len - 12)) != 0)
			return err;
		return take_request(r, m, p, name);
	default:
		return bad_message("unknown message");
	}
}
