/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hot_fuzz.c -- the reader of hot lists.
 *
 * An input is one byte, and a hot list as a file (even) or as the section of an image (odd).  In
 * a file, UUID, number and checksum are mostly made right by the mutator.
 *
 * Checked: what is taken is what is there, all of it or nothing with a message; and written again
 * it is the same.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "../../aio.h"
#include "../../bytes.h"
#include "../../crc32c.h"
#include "../../hot.h"
#include "fuzz.h"
#include "verbs.h"

size_t LLVMFuzzerMutate(uint8_t *, size_t, size_t);
size_t LLVMFuzzerCustomMutator(uint8_t *, size_t, size_t, unsigned);
int LLVMFuzzerInitialize(int *, char ***);

enum {
	HEAP = 64 << 20,
	TIME_MS = 3000,
	PAGES = 300,		/* of the guest */
	HEAD = 40,		/* bytes before the page numbers in a file */
	NUMBER = 5		/* bytes of one */
};

static const char *dir;
static char image[96], list[96];
static uint8_t uuid[16];

/* An image without a page, with this hot list in it, if there is one. */
static void
make_image(const uint8_t *hot, size_t len)
{
	static struct ram_block blk;
	static struct ram_map ram;
	static const uint8_t tail[] = { 1, 0 };
	struct image_bytes b[3] = {
		{ SEC_PREAMBLE, tail, 1 }, { SEC_PROLOGUE, tail, 1 }, { SEC_HOT, NULL, 0 }
	};
	struct image_options opt;
	struct image_writer *w;

	strcpy(blk.id, "m");
	ram.page_size = 1024;
	blk.len = PAGES * UINT64_C(1024);
	blk.addr = UINT64_MAX;
	ram.blk = &blk;
	ram.nblk = 1;
	ram.npages = PAGES;
	b[2].buf = hot;
	b[2].len = len;
	memset(&opt, 0, sizeof opt);
	opt.unit_pages = 1;
	opt.cluster_size = CLUSTER_MAX;
	opt.unsafe = opt.reproducible = 1;
	opt.max_size = FILE_MAX;
	MUST((w = image_create(image, &opt)) != NULL && image_begin(w, &ram) == 0);
	MUST(image_seal(w, b, 3, 0) == 0 && image_tail(w, tail, 2) == 0);
	MUST(image_commit(w, 1) == 0);
	image_free(w);
}

static struct image *
open_image(void)
{
	struct image *im;
	int err;

	MUST((im = image_open(image, 0, &err)) != NULL);
	return im;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct image *im;

	(void)argc;
	(void)argv;
	crc32c_init();
	dir = fuzz_directory();
	snprintf(image, sizeof image, "%s/image", dir);
	snprintf(list, sizeof list, "%s/image.hot", dir);
	make_image(NULL, 0);
	im = open_image();
	memcpy(uuid, image_footer(im)->uuid, 16);
	image_close(im);
	return 0;
}

size_t
LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	uint64_t luck = seed + 1;
	uint8_t *p = data + 1;
	size_t n;

	size = LLVMFuzzerMutate(data, size, max);
	if (size < 1 + HEAD + 4 || data[0] & 1)
		return size;
	if (chance_next(&luck) % 4 != 0)
		size -= (size - 1 - HEAD - 4) % NUMBER;
	n = size - 1;
	if (chance_next(&luck) % 16 != 0)
		memcpy(p, "qemu-snap hot 1\n", 16);
	if (chance_next(&luck) % 16 != 0)
		memcpy(p + 16, uuid, 16);
	if (chance_next(&luck) % 16 != 0)
		put_le64(p + 32, (n - HEAD - 4) / NUMBER);
	if (chance_next(&luck) % 16 != 0)
		put_le32(p + n - 4, crc32c(0, p, n - 4));
	return size;
}

/* The page numbers at p, n bytes, are those of l; or one is none of the guest's and l is empty. */
static void
check_list(const struct hot_list *l, const uint8_t *p, size_t n)
{
	size_t i;

	MUST(n % NUMBER == 0);
	for (i = 0; i < n / NUMBER; i++)
		if (get_le40(p + i * NUMBER) >= PAGES) {
			MUST(l->n == 0 && messages == 1);
			return;
		}
	MUST(l->n == n / NUMBER && messages == 0);
	for (i = 0; i < l->n; i++)
		MUST(hot_page(l, i) == get_le40(p + i * NUMBER));
}

static void
write_file(const uint8_t *p, size_t n)
{
	int fd = open(list, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	MUST(fd >= 0 && write(fd, p, n) == (ssize_t)n);
	close(fd);
}

/* Written again, one page longer, it is read again. */
static void
write_again(const struct hot_list *l, struct image *im)
{
	struct hot_list more, back;
	uint64_t i;

	memset(&more, 0, sizeof more);
	for (i = 0; i < l->n; i++)
		hot_add(&more, hot_page(l, i));
	hot_add(&more, PAGES - 1);
	unlink(list);
	MUST(hot_write(&more, list, im) == 0 && hot_may_write(list) == 0);
	MUST(hot_find(&back, im) == 0);
	MUST(back.n == l->n + 1 && memcmp(back.page, more.page, back.n * NUMBER) == 0);
	hot_free(&more);
	hot_free(&back);
}

static void
try_file(const uint8_t *p, size_t n)
{
	struct image *im = open_image();
	struct hot_list l;

	write_file(p, n);
	MUST(hot_find(&l, im) == 0);
	if (n < HEAD + 4 || memcmp(p, "qemu-snap hot 1\n", 16) != 0 || memcmp(p + 16, uuid, 16) != 0 ||
	    (n - HEAD - 4) % NUMBER != 0 || get_le64(p + 32) != (n - HEAD - 4) / NUMBER ||
	    get_le32(p + n - 4) != crc32c(0, p, n - 4))
		MUST(l.n == 0 && messages == 1);
	else
		check_list(&l, p + HEAD, n - HEAD - 4);
	messages = 0;
	MUST((hot_may_write(list) == 0) == (n >= 16 && memcmp(p, "qemu-snap hot 1\n", 16) == 0));
	messages = 0;
	write_again(&l, im);
	MUST(messages == 0);
	hot_free(&l);
	image_close(im);
}

static void
try_section(const uint8_t *p, size_t n)
{
	struct image *im;
	struct hot_list l;

	unlink(list);
	make_image(p, n);
	im = open_image();
	MUST(hot_find(&l, im) == 0);
	if (n % NUMBER != 0)
		MUST(l.n == 0 && messages == 1);
	else
		check_list(&l, p, n);
	hot_free(&l);
	image_close(im);
	make_image(NULL, 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	messages = 0;
	bounds_begin();
	if (data[0] & 1)
		try_section(data + 1, size - 1);
	else
		try_file(data + 1, size - 1);
	bounds_end(HEAP, TIME_MS);
	return 0;
}
