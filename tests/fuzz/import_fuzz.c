/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * import_fuzz.c -- what import takes, and what export makes of that.
 *
 * The first byte of an input says how: bits 0 to 2 --page-size, bit 3 --compress, bit 4 threads;
 * the rest is the file.  The mutator has the places right where pages lie in a file with
 * mapped-ram, most of the time.
 *
 * Checked: what is imported with success is a good image; it can be exported as a stream and with
 * mapped-ram, and these be imported again, to the same pages; a failure is reported, and nothing
 * is left; time and memory are bounded.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "../../bytes.h"
#include "../../codec.h"
#include "../../crc32c.h"
#include "../../image.h"
#include "../../snap.h"
#include "fuzz.h"
#include "page.h"
#include "verbs.h"

size_t LLVMFuzzerMutate(uint8_t *, size_t, size_t);
size_t LLVMFuzzerCustomMutator(uint8_t *, size_t, size_t, unsigned);
int LLVMFuzzerInitialize(int *, char ***);

enum {
	HEAP = 128 << 20,
	TIME_MS = 3000,
	PAGES = 100000		/* of a guest; larger ones are not exported */
};

/* ---- the mutator ---- */

/* Where the pages of each block lie, made right. */
static void
repair(uint8_t *p, size_t n, uint64_t luck)
{
	static const char start[] = "\003ram\0\0\0\0\0\0\0\004";
	uint8_t *q = memmem(p, n, start, sizeof start - 1);
	int addr = memmem(p, n, "x-ignore-shared", 15) != NULL;
	uint64_t len, size, bytes;
	size_t at;

	if (q == NULL)
		return;
	for (at = (size_t)(q - p) + sizeof start - 1 + 8; at < n;) {
		at += 1 + (size_t)p[at] + (addr ? 8 : 0);
		if (at > n || n - at < 8 + 28)
			return;
		len = get_be64(p + at - (addr ? 8 : 0));
		at += 8;
		size = get_be64(p + at + 4);
		if (size < PAGE_SIZE_MIN || size > PAGE_SIZE_MAX)
			put_be64(p + at + 4, size = 4096);
		if (chance_next(&luck) % 16 == 0)
			return;
		bytes = (len / size + 63) / 64 * 8;
		put_be32(p + at, 1);
		put_be64(p + at + 12, at + 28);
		put_be64(p + at + 20, at + 28 + bytes);
		if (len > n || bytes + len > n - at - 28)
			return;
		at += 28 + (size_t)(bytes + len);
		if (n - at >= 8 && get_be64(p + at) == 0x10)
			return;
	}
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	uint64_t luck = seed + 1;

	size = LLVMFuzzerMutate(data, size, max);
	if (size > 64 && chance_next(&luck) % 8 != 0)
		repair(data + 1, size - 1, luck);
	return size;
}

/* ---- the target ---- */

static const char *dir;
static char in[96], im[3][96], out[2][96];

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int i;

	(void)argc;
	(void)argv;
	crc32c_init();
	dir = fuzz_directory();
	snprintf(in, sizeof in, "%s/in", dir);
	for (i = 0; i < 3; i++)
		snprintf(im[i], sizeof im[i], "%s/image%d", dir, i);
	for (i = 0; i < 2; i++)
		snprintf(out[i], sizeof out[i], "%s/out%d", dir, i);
	return 0;
}

static void
store_input(const uint8_t *p, size_t n)
{
	int fd = open(in, O_RDWR | O_CREAT | O_TRUNC, 0600);
	ssize_t k;

	MUST(fd >= 0);
	for (; n > 0; p += k, n -= (size_t)k)
		MUST((k = write(fd, p, n)) > 0);
	close(fd);
}

/* One verb from one file to another, in bounds; what is left, if it fails, is nothing. */
static int
bounded(int (*verb)(const struct options *), struct options *o, const char *from, const char *to)
{
	static char names[2][96];
	static char *name[2] = { names[0], names[1] };
	int before = fuzz_files(), err;

	strcpy(names[0], from);
	strcpy(names[1], to);
	o->file = name;
	o->nfile = 2;
	messages = 0;
	bounds_begin();
	err = verb(o);
	bounds_end(HEAP, TIME_MS);
	MUST(err == 0 || (err == SNAP_EDATA && messages > 0));
	MUST(fuzz_files() == before + (err == 0));
	return err;
}

/* What a guest has: of all pages, or of those that are not zero. */
struct sums {
	uint64_t npages, nblk, all, some, tail;
};

static struct sums
look(const char *path, int *large)
{
	struct sums s = { 0, 0, 0, 0, 0 };
	struct image_fetch f;
	uint64_t page, entry;
	unsigned faults = 0;
	struct image *i;
	const uint8_t *p;
	uint8_t *tail;
	size_t n;
	int err, st;

	MUST((i = image_open(path, 0, &err)) != NULL && image_open_ancestors(i) == 0);
	MUST(image_check_sections(i, NULL) == 0);
	MUST(image_check_tables(i, 1, &faults) == 0 && faults == 0);
	MUST(fetch_init(&f, i, 1) == 0);
	s.npages = image_ram(i)->npages;
	s.nblk = image_ram(i)->nblk;
	if ((*large = s.npages > PAGES) == 0)
		for (page = 0; (st = image_next_present(i, &page, &entry)) != PAGE_ABSENT; page++) {
			MUST(st > 0);
			s.all = hash(hash(s.all, &page, sizeof page), &(int){ st == PAGE_ZERO },
			    sizeof(int));
			if (st == PAGE_ZERO)
				continue;
			p = page_bytes(&f, page, st, entry);
			s.all = hash(s.all, p, image_ram(i)->page_size);
			s.some = hash(hash(s.some, &page, sizeof page), p,
			    image_ram(i)->page_size);
		}
	MUST(image_section(i, SEC_TAIL, &tail, &n) == 0);
	s.tail = hash(n, tail, n);
	free(tail);
	fetch_free(&f);
	image_close(i);
	return s;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t sizes[8] = { 0, 1024, 4096, 8192, 16384, 65536, 2048, 0 };
	struct sums s[3];
	struct options o;
	int large, k;

	if (size < 1)
		return 0;
	memset(&o, 0, sizeof o);
	o.status_fd = -1;
	o.page_size = sizes[data[0] & 7];
	o.max_size = INT64_MAX;
	o.cluster_size = CLUSTER_MIN;
	o.unit_pages = 4;
	o.reproducible = 1;
	o.unsafe = data[0] >> 5 & 1;
	o.threads = data[0] >> 4 & 1;
	if (data[0] & 8)
		o.codec = codec_zstd;
	o.level = 1;
	store_input(data + 1, size - 1);
	if (bounded(run_import, &o, in, im[0]) != 0)
		return 0;
	s[0] = look(im[0], &large);
	for (k = 0; k < 2 && !large; k++) {
		o.form = k == 0 ? FORM_STREAM : FORM_MAPPED;
		MUST(bounded(run_export, &o, im[0], out[k]) == 0);
		MUST(bounded(run_import, &o, out[k], im[1 + k]) == 0);
		s[1 + k] = look(im[1 + k], &large);
		MUST(s[1 + k].some == s[0].some && (k == 1 || s[1 + k].all == s[0].all));
		MUST(s[1 + k].npages == s[0].npages && s[1 + k].nblk == s[0].nblk);
		MUST(s[1 + k].tail == s[0].tail);
		unlink(out[k]);
		unlink(im[1 + k]);
	}
	unlink(im[0]);
	return 0;
}
