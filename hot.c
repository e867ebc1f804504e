/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hot.c -- the hot list, in memory, in its file and in a section: section 11 of format.md.
 */
#include "hot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "outfile.h"
#include "snap.h"

enum {
	MAGIC = 16,
	HEAD = 40,		/* bytes before the page numbers */
	PAGE_NUMBER = 5,	/* bytes of one */
	HOT_MAX = 4 << 20,	/* page numbers: what a guest asks for later is no news */
	HOT_STEP = 4096
};

static const char magic[MAGIC + 1] = "qemu-snap hot 1\n";

char *
hot_beside(const char *image)
{
	static const char suffix[] = ".hot";
	char *s = malloc(strlen(image) + sizeof suffix);

	if (s == NULL)
		snap_warn(ENOMEM, "%s", image);
	else {
		strcpy(s, image);
		strcat(s, suffix);
	}
	return s;
}

uint64_t
hot_page(const struct hot_list *l, uint64_t i)
{
	return get_le40(l->page + i * PAGE_NUMBER);
}

void
hot_set(struct hot_list *l, uint64_t i, uint64_t page)
{
	put_le40(l->page + i * PAGE_NUMBER, page);
}

void
hot_add(struct hot_list *l, uint64_t page)
{
	uint8_t *p;

	if (l->n == l->cap) {
		if (l->n >= HOT_MAX ||
		    (p = realloc(l->page, (size_t)(l->cap + HOT_STEP) * PAGE_NUMBER)) == NULL)
			return;
		l->page = p;
		l->cap += HOT_STEP;
	}
	hot_set(l, l->n++, page);
}

void
hot_free(struct hot_list *l)
{
	free(l->page);
	memset(l, 0, sizeof *l);
}

/* Take n numbers at buf into l; NULL, or what is wrong. */
static const char *
take(struct hot_list *l, const uint8_t *buf, uint64_t n, const struct image *im)
{
	uint64_t i;

	for (i = 0; i < n; i++)
		if (get_le40(buf + i * PAGE_NUMBER) >= image_ram(im)->npages)
			return "names a page the guest does not have";
	if (n == 0)
		return NULL;
	if ((l->page = malloc((size_t)n * PAGE_NUMBER)) == NULL)
		return "out of memory";
	memcpy(l->page, buf, (size_t)n * PAGE_NUMBER);
	l->n = l->cap = n;
	return NULL;
}

/* Read what is in the file; NULL, or what is wrong. */
static const char *
read_list(struct hot_list *l, int fd, const struct image *im)
{
	const char *why;
	uint64_t len, n;
	uint8_t *buf;

	if (io_size(fd, &len) != 0 || len < HEAD + 4 ||
	    len > HEAD + 4 + (uint64_t)HOT_MAX * PAGE_NUMBER)
		return "impossible length of a hot list";
	if ((buf = malloc((size_t)len)) == NULL)
		return "out of memory";
	n = (len - HEAD - 4) / PAGE_NUMBER;
	if (io_pread(fd, buf, (size_t)len, 0) != 0)
		why = "cannot be read";
	else if (memcmp(buf, magic, MAGIC) != 0)
		why = "not a hot list";
	else if (get_le32(buf + len - 4) != crc32c(0, buf, (size_t)len - 4) ||
	    get_le64(buf + 32) != n || HEAD + n * PAGE_NUMBER + 4 != len)
		why = "fails its checksum";
	else if (memcmp(buf + MAGIC, image_footer(im)->uuid, 16) != 0)
		why = "belongs to another image";
	else
		why = take(l, buf + HEAD, n, im);
	free(buf);
	return why;
}

static const char *
read_section(struct hot_list *l, struct image *im)
{
	const struct section *s = footer_section(image_footer(im), SEC_HOT);
	const char *why;
	uint8_t *buf;

	if (s == NULL || s->len == 0)
		return NULL;
	if (s->len % PAGE_NUMBER != 0 || s->len > (uint64_t)HOT_MAX * PAGE_NUMBER)
		return "impossible length of a hot list";
	if ((buf = malloc((size_t)s->len)) == NULL)
		return "out of memory";
	why = image_read(im, s, 0, buf, (size_t)s->len) != 0 ? "cannot be read" :
	    take(l, buf, s->len / PAGE_NUMBER, im);
	free(buf);
	return why;
}

uint64_t
hot_embedded(const struct image *im)
{
	const struct section *s = footer_section(image_footer(im), SEC_HOT);

	return s == NULL ? 0 : s->len / PAGE_NUMBER;
}

int
hot_find(struct hot_list *l, struct image *im)
{
	char *name = hot_beside(image_path(im));
	const char *why = "";
	int fd;

	if (name == NULL)
		return SNAP_ESYS;
	memset(l, 0, sizeof *l);
	if (io_open(name, 0, 0, &fd) == 0) {
		why = read_list(l, fd, im);
		io_close(fd);
		l->beside = why == NULL;
		if (why != NULL)
			snap_warnx("%s: %s: not used", name, why);
	}
	if (why != NULL && (why = read_section(l, im)) != NULL)
		snap_warnx("%s: hot list: %s: not used", image_path(im), why);
	free(name);
	return 0;
}

const uint8_t *
hot_bytes(const struct hot_list *l, size_t *len)
{
	*len = (size_t)l->n * PAGE_NUMBER;
	return l->page;
}

int
hot_may_write(const char *name)
{
	uint8_t buf[MAGIC];
	int fd, ok, err = io_open_named(name, &fd);

	if (err == ENOENT) {
		if ((err = io_open_dir(name, &fd)) != 0)
			return snap_warn(err, "%s: hot list cannot be written", name);
		io_close(fd);
		return 0;
	}
	if (err != 0 && err != EEXIST)
		return snap_warn(err, "%s: hot list cannot be written", name);
	if (err == 0) {
		ok = io_pread(fd, buf, MAGIC, 0) == 0 && memcmp(buf, magic, MAGIC) == 0;
		io_close(fd);
		if (ok)
			return 0;
	}
	return snap_warnx("%s: is there and is not a hot list: not replaced", name);
}

int
hot_write(const struct hot_list *l, const char *name, const struct image *im)
{
	size_t len = HEAD + (size_t)l->n * PAGE_NUMBER;
	struct outfile f;
	uint8_t *buf;
	int err;

	if ((err = hot_may_write(name)) != 0)	/* much time has gone by */
		return err;
	if ((buf = malloc(len + 4)) == NULL)
		return snap_warn(ENOMEM, "%s: hot list cannot be written", name);
	memcpy(buf, magic, MAGIC);
	memcpy(buf + MAGIC, image_footer(im)->uuid, 16);
	put_le64(buf + 32, l->n);
	if (l->n > 0)
		memcpy(buf + HEAD, l->page, len - HEAD);
	put_le32(buf + len, crc32c(0, buf, len));
	if ((err = outfile_create(&f, name, "load", "hot list")) == 0 &&
	    (err = outfile_write(&f, buf, len + 4, 0)) == 0)
		err = outfile_commit(&f, UINT64_MAX, 0);
	outfile_free(&f);
	free(buf);
	return err;
}
