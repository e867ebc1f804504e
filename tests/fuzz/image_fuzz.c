/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image_fuzz.c -- the reader of images, the tables behind it, and the writer.
 *
 * An input is an image.  Nearly all bytes of one are under some checksum, so the mutator repairs
 * these after it has changed something, most of the time; and it knows where the sections lie, so
 * that it can make one longer, shorter, or another one's, with all places still right.
 *
 * Checked: what check finds good can be loaded, with every stored page once and its checksum
 * right; no page that is not right is called so; whatever a small file claims, time and memory
 * are bounded; and a good image, written again with its pages in any order, some of them more
 * than once, gives a good image of the same guest.
 */
#define _GNU_SOURCE
#include <sys/mman.h>

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "../../bytes.h"
#include "../../crc32c.h"
#include "../../image.h"
#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *, size_t, size_t);
size_t LLVMFuzzerCustomMutator(uint8_t *, size_t, size_t, unsigned);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *, size_t, const uint8_t *, size_t, uint8_t *,
    size_t, unsigned);
int LLVMFuzzerInitialize(int *, char ***);

enum {
	HEAP = 64 << 20,	/* for images of at most 1 MiB */
	TIME_MS = 3000,		/* under sanitizers, on a machine that does other things, too */
	LOOKUPS = 20000,
	CRC_AT = 4092,
	SECTION_AT = 112,
	SECTION_SIZE = 32
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

static void
right_unit(struct sketch *k, uint8_t *u, size_t size)
{
	uint64_t off = get_le48(u), len = get_le32(u + 8), page = get_le32(k->buf + 32);
	size_t i, slots = (size - UNIT_RECORD) / SLOT_SIZE;

	if (off > k->len || len > k->len - off || page == 0)
		return;
	for (i = 0; i < slots && (i + 1) * page <= len; i++)
		put_le32(u + UNIT_RECORD + i * SLOT_SIZE + 5,
		    crc32c(0, k->buf + off + i * page, (size_t)page));
	put_le32(u + 12, crc32c(0, k->buf + off, (size_t)len));
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

	switch (below(16)) {
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

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	struct sketch k;
	uint64_t times;

	luck = seed + 1;
	memset(&k, 0, sizeof k);
	k.buf = data;
	k.len = size;
	k.max = max;
	if (one_in(64) || !look(&k))
		return LLVMFuzzerMutate(data, size, max);
	for (times = 1 + below(one_in(2) ? 1 : 5); times > 0; times--) {
		mutate_once(&k);
		look(&k);
	}
	if (!one_in(32))
		repair(&k);
	return k.len;
}

/* A section of the other image in the place of ours. */
size_t
LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen,
    uint8_t *out, size_t max, unsigned seed)
{
	static uint8_t other[1 << 20];
	struct sketch k, m;
	int i, j;

	luck = seed + 1;
	if (alen > max || blen > sizeof other)
		return 0;
	memset(&k, 0, sizeof k);
	memset(&m, 0, sizeof m);
	memcpy(out, a, alen);
	memcpy(other, b, blen);
	k.buf = out;
	k.len = alen;
	k.max = max;
	m.buf = other;
	m.len = m.max = blen;
	if (!look(&k) || !look(&m) || k.nsec == 0)
		return 0;
	i = (int)below(k.nsec);
	if ((j = find(&m, k.sec[i].type)) < 0)
		return 0;
	resize(&k, (uint32_t)i, 0, m.sec[j].len);
	if (k.sec[i].len == m.sec[j].len)
		memcpy(k.buf + k.sec[i].off, m.buf + m.sec[j].off, m.sec[j].len);
	repair(&k);
	return k.len;
}

/* ---- the target ---- */

static int memory_file = -1;
static char path[64], again[64];

static void
clean_up(void)
{
	char *slash = strrchr(again, '/');

	unlink(again);
	if (slash != NULL) {
		*slash = '\0';
		rmdir(again);
	}
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	crc32c_init();
	memory_file = memfd_create("image", 0);
	MUST(memory_file >= 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", memory_file);
	snprintf(again, sizeof again, "%s/snap-fuzz.XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	MUST(mkdtemp(again) != NULL);
	strcat(again, "/i");
	atexit(clean_up);
	return 0;
}

static void
store(const uint8_t *data, size_t size)
{
	ssize_t n;
	size_t done;

	MUST(ftruncate(memory_file, (off_t)size) == 0);
	for (done = 0; done < size; done += (size_t)n)
		MUST((n = pwrite(memory_file, data + done, size - done, (off_t)done)) > 0);
}

static int
fails(int err)
{
	MUST(err == SNAP_ESYS || err == SNAP_EDATA);
	MUST(messages > 0);
	return -1;
}

/* Where the bytes of a good page are in the file. */
static void
check_page(const uint8_t *data, size_t size, uint32_t page_size, const uint8_t *got)
{
	MUST(size > page_size && got != NULL);
	MUST(memmem(data, size, got, page_size) != NULL);
}

/* The pages of a fetch. */
static void
check_fetch(struct image *im, struct image_fetch *f, const uint8_t *data, size_t size,
    uint64_t *sum)
{
	uint32_t page_size = image_header(im)->page_size;
	unsigned i, bad = f->n;

	MUST(f->n <= f->max);
	MUST(f->req.error == 0);	/* nothing leads outside of the file */
	for (i = f->n; i-- > 0;) {
		MUST(f->page[i] < image_ram(im)->npages);
		if (!f->good[i])
			bad = i;
		MUST(!f->good[i] == (crc32c(0, fetch_data(f, i), page_size) != f->crc[i]));
		if (i < 2)
			check_page(data, size, page_size, fetch_data(f, i));
		*sum += chance_next(&(uint64_t){ f->page[i] });
	}
	MUST(f->bad == bad);
	MUST(fetch_check(f) == (bad < f->n ? SNAP_EDATA : 0));
}

/* As send_stored() in load.c, or with faults as check.c: pages seen, or -1: damage. */
static int64_t
scan(struct image *im, unsigned *faults, const uint8_t *data, size_t size, uint64_t *sum)
{
	struct image_scan *s = scan_new(im, 0, faults);
	struct image_fetch *f;
	int64_t seen = 0;
	int r, bad = 0;

	MUST(s != NULL);
	while ((r = scan_next(s, &f)) == 1) {
		check_fetch(im, f, data, size, sum);
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
fetch_all(struct image *im, const uint8_t *data, size_t size, uint64_t *sum)
{
	uint64_t slots = image_footer(im)->slots, slot = 0;
	struct aio *ring = aio_new(0, 1);
	struct image_fetch f;
	int err = 0, bad = 0;

	MUST(ring != NULL && fetch_init(&f, im, 3) == 0);
	while (slot < slots && !bad && err == 0) {
		fetch_reset(&f);
		while (f.n < f.max && slot < slots && err == 0)
			err = fetch_add(&f, slot++);
		aio_submit(ring, &f.req);
		MUST(aio_wait(ring) == &f.req);
		check_fetch(im, &f, data, size, sum);
		bad = f.bad < f.n;
	}
	aio_free(ring);
	fetch_free(&f);
	if (err != 0)
		return fails(err);
	return bad ? -1 : (int64_t)slots;
}

/* All pages that are there, as send_zero() in load.c does: stored ones, or -1. */
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
		MUST(image_lookup(im, page, &back) == st && (st != PAGE_STORED || back == slot));
		MUST(st == PAGE_ZERO || st == PAGE_STORED);
		if (st == PAGE_STORED) {
			stored++;
			MUST(slot < image_footer(im)->slots);
			if (n < 64 && (st = image_slot(im, slot, &other, &crc)) < 0)
				fails(st);
			*sum += chance_next(&(uint64_t){ page });
		}
		if (++n > LOOKUPS) {
			*whole = 0;
			break;
		}
	}
	return stored;
}

/* Pages that a postcopy destination may ask for. */
static void
look_up(struct image *im)
{
	const struct ram_map *ram = image_ram(im);
	uint64_t slot, page, i;
	int st;

	for (i = 0; i < 64; i++) {
		page = i < 32 ? i : ram->npages - (i - 31);
		if (page >= ram->npages)
			page = i * 0x9e3779b97f4a7c15 % ram->npages;
		image_at_hand(im, page);
		st = image_lookup(im, page, &slot);
		MUST(st >= 0 || st == SNAP_EDATA);
		MUST(st != PAGE_STORED || slot < image_footer(im)->slots);
		MUST(ram_map_find(ram, page)->first <= page);
	}
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
	uint64_t page[AGAIN_MAX], slot[AGAIN_MAX];
	int stored[AGAIN_MAX];
};

/* 0: it has more pages than that. */
static int
collect(struct image *im, struct guest *g)
{
	uint64_t page, slot = 0;
	int st;

	g->n = 0;
	for (page = 0; (st = image_next_present(im, &page, &slot)) != PAGE_ABSENT; page++) {
		MUST(st > 0);
		if (g->n == AGAIN_MAX)
			return 0;
		g->page[g->n] = page;
		g->slot[g->n] = slot;
		g->stored[g->n++] = st == PAGE_STORED;
	}
	return 1;
}

/* The bytes in a slot, until the next call. */
static const uint8_t *
page_bytes(struct image_fetch *f, uint64_t slot)
{
	static struct aio *ring;

	if (ring == NULL)
		MUST((ring = aio_new(0, 1)) != NULL);
	fetch_reset(f);
	MUST(fetch_add(f, slot) == 0);
	aio_submit(ring, &f->req);
	MUST(aio_wait(ring) == &f->req && fetch_check(f) == 0);
	return fetch_data(f, 0);
}

/* Put page i of g as it is; or, at first, as something else. */
static void
put_one(struct image_writer *w, struct image_fetch *f, const struct guest *g, unsigned i,
    int truly)
{
	uint32_t size = image_header(f->im)->page_size;
	uint8_t *room;

	if (truly ? !g->stored[i] : one_in(2)) {
		MUST(image_zero(w, g->page[i]) == 0);
		return;
	}
	MUST((room = image_room(w)) != NULL);
	if (truly)
		memcpy(room, page_bytes(f, g->slot[i]), size);
	else
		memset(room, (int)below(3), size);
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
	uint64_t slot;
	unsigned faults = 0, i;
	struct image_fetch f2;
	struct image *im2;
	int err, st;

	MUST((im2 = image_open(again, 0, &err)) != NULL);
	MUST(image_check_tables(im2, &faults) == 0 && faults == 0);
	MUST(image_footer(im2)->stored == image_footer(im)->stored);
	MUST(image_footer(im2)->zero == image_footer(im)->zero);
	MUST(image_footer(im2)->slots == image_footer(im)->stored);
	MUST(fetch_init(&f2, im2, 1) == 0);
	for (i = 0; i < g->n; i++) {
		MUST((st = image_lookup(im2, g->page[i], &slot)) >= 0);
		MUST((st == PAGE_STORED) == g->stored[i]);
		if (g->stored[i])
			MUST(memcmp(page_bytes(&f2, slot), page_bytes(f, g->slot[i]), size) == 0);
	}
	fetch_free(&f2);
	image_close(im2);
}

static void
write_again(struct image *im, uint64_t seed)
{
	static struct guest g;
	struct image_options opt;
	struct image_writer *w;
	struct image_fetch f;

	luck = seed;
	if (!collect(im, &g))
		return;
	memset(&opt, 0, sizeof opt);
	opt.unit_pages = (uint32_t)1 << below(9);
	opt.cluster_size = CLUSTER_MIN;
	opt.unsafe = !one_in(4);
	opt.reproducible = one_in(2);
	opt.max_size = FILE_MAX;
	MUST(fetch_init(&f, im, 1) == 0);
	MUST((w = image_create(again, &opt)) != NULL);
	MUST(image_begin(w, image_ram(im)) == 0);
	put_pages(w, &f, &g);
	put_rest(im, w);
	image_free(w);
	compare(im, &g, &f);
	fetch_free(&f);
}

static void
use(struct image *im, const uint8_t *data, size_t size, int thorough)
{
	uint64_t scanned = 0, walked = 0, checked = 0, seed;
	unsigned faults = 0;
	int64_t stored, present;
	int whole, err, fine;

	MUST(im != NULL && messages == 0);
	encode_again(im, data, size);
	read_sections(im);
	look_up(im);
	messages = 0;
	fine = image_check_sections(im, NULL) == 0;
	MUST(fine || messages == 1);
	stored = thorough ? scan(im, NULL, data, size, &scanned) :
	    fetch_all(im, data, size, &scanned);
	present = walk(im, &walked, &whole);
	messages = 0;
	err = image_check_tables(im, &faults);
	MUST(err == 0);			/* the file can be read */
	MUST(faults == 0 || messages > 0);
	if (thorough)
		MUST(scan(im, &faults, data, size, &checked) >= 0 || faults > 0);
	else if (stored < 0)
		faults++;
	if (faults > 0)
		return;
	/* Nothing wrong with it: then it loads. */
	MUST(fine && stored >= 0 && present >= 0);
	MUST((uint64_t)stored == image_footer(im)->stored);
	if (whole) {
		MUST(present == stored);
		MUST(walked == scanned);
	}
	MUST(!thorough || checked == scanned);
	/* Not all: writing takes most of the time. */
	seed = hash(1, data + size - 64, 64);
	if (whole && (seed >> 8) % 4 == 0)
		write_again(im, seed);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image *im;
	int err = 1;

	store(data, size);
	messages = 0;
	bounds_begin();
	if ((im = image_open(path, 0, &err)) != NULL) {
		MUST(err == 0);
		use(im, data, size, hash(0, data + size - 8, 8) % 16 == 0);
	} else {
		fails(err);
		MUST(err == SNAP_EDATA && messages == 1);
	}
	image_close(im);
	bounds_end(HEAP, TIME_MS);
	return 0;
}
