/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * reader.c -- a finished image: opened, its sections, what is said of its faults.
 *
 * Header, footer, RAM map and the root of the page table are read when the
 * image is opened; the other tables when they are first needed (lookup.c).
 * Each is checked before anything in it is used.
 */
#include "reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "crc32c.h"
#include "preamble.h"
#include "snap.h"

enum { TOLD_MAX = 100 };	/* faults of which the place is printed */

/* Is this fault to be printed?  A rotten disk must not fill another one with logs. */
static int
tell(struct image *im)
{
	im->faults++;
	if (im->told > TOLD_MAX)
		return 0;
	if (im->told++ < TOLD_MAX)
		return 1;
	snap_warnx("%s: more faults: from here on they are only counted", im->path);
	return 0;
}

int
image_bad(struct image *im, uint64_t off, const char *what)
{
	unsigned i;

	/* A damaged part of a table is met for each page that it should tell of. */
	for (i = 0; i < BAD_OFFSETS && i < im->nbad_off; i++)
		if (im->bad_off[i] == off) {
			im->faults++;
			return SNAP_EDATA;
		}
	im->bad_off[im->nbad_off++ % BAD_OFFSETS] = off;
	if (tell(im))
		snap_warnx("%s: offset %llu: %s", im->path, (unsigned long long)off, what);
	return SNAP_EDATA;
}

int
image_read_at(const struct image *im, void *buf, size_t len, uint64_t off)
{
	int err = io_pread(im->fd, buf, len, off);

	if (err == 0) {
		if (im->on_read != NULL)
			im->on_read(im->on_read_arg, len);
		return 0;
	}
	snap_warn(err, "%s: read at offset %llu", im->path, (unsigned long long)off);
	return SNAP_ESYS;
}

int
image_no_memory(const struct image *im)
{
	snap_warn(ENOMEM, "%s", im->path);
	return SNAP_ESYS;
}

void
image_bad_page(struct image *im, uint64_t page, const char *what)
{
	const struct ram_block *b = ram_map_find(&im->ram, page);

	if (page >= im->ram.npages)
		image_bad(im, footer_section(&im->foot, SEC_UNITS)->off, what);
	else if (tell(im))
		snap_warnx("%s: block %s offset 0x%llx: %s", im->path, b->id,
		    (unsigned long long)((page - b->first) * im->head.page_size), what);
}

void
image_bad_bytes(struct image *im, uint64_t page, uint64_t off, const char *what)
{
	const struct ram_block *b = ram_map_find(&im->ram, page);

	if (tell(im))
		snap_warnx("%s: block %s offset 0x%llx: %s (file offset %llu)", im->path, b->id,
		    (unsigned long long)((page - b->first) * im->head.page_size), what,
		    (unsigned long long)off);
}

uint64_t
image_ancestor_faults(const struct image *im)
{
	uint64_t n = 0;
	unsigned i;

	for (i = 0; i < im->nanc; i++)
		if (im->anc_image[i] != NULL)
			n += im->anc_image[i]->faults;
	return n;
}

/* ---- sections ---- */

/* All of a section, in memory to be freed by the caller. */
static int
take_section(struct image *im, uint32_t type, size_t max, uint8_t **buf, size_t *len)
{
	const struct section *s = footer_section(&im->foot, type);
	int err;

	*buf = NULL;
	if (s->len > max)
		return image_bad(im, s->off, "section is longer than it can be");
	if ((*buf = malloc((size_t)s->len + 1)) == NULL)
		return image_no_memory(im);
	*len = (size_t)s->len;
	if ((err = image_read_at(im, *buf, *len, s->off)) == 0 &&
	    crc32c(0, *buf, *len) != s->crc)
		err = image_bad(im, s->off, "section fails its checksum");
	if (err != 0) {
		free(*buf);
		*buf = NULL;
	}
	return err;
}

int
image_read(struct image *im, const struct section *s, uint64_t off, void *buf, size_t len)
{
	return image_read_at(im, buf, len, s->off + off);
}

int
image_section(struct image *im, uint32_t type, uint8_t **buf, size_t *len)
{
	*buf = NULL;
	*len = 0;
	if (footer_section(&im->foot, type) == NULL)
		return 0;
	return take_section(im, type, SECTION_KEPT, buf, len);
}

/* ---- open and close ---- */

/* The lengths of the sections must follow from the numbers in the footer. */
static int
check_numbers(struct image *im)
{
	const struct image_footer *f = &im->foot;
	const struct section *data = footer_section(f, SEC_DATA);
	const struct section *units = footer_section(f, SEC_UNITS);
	uint64_t n = image_units(im);
	uint64_t leaves = (n + im->shape.per_leaf - 1) / im->shape.per_leaf;
	uint64_t at = f->file_len - FOOTER_SIZE;

	if (units->len != leaves * PART_HEADER + n * im->shape.size)
		return image_bad(im, at, "unit table is not as long as it should be");
	if (!image_is_coded(im) && (data->len / im->head.page_size != f->slots ||
	    data->len % im->head.page_size != 0))
		return image_bad(im, at, "data is not as long as it should be");
	if (im->ram.npages != f->npages ||
	    !im->ram.has_addr != !(f->flags & IMAGE_IGNORE_SHARED))
		return image_bad(im, at, "RAM map and footer do not agree");
	return 0;
}

/* The tail must have its end-of-file byte where the footer says. */
static int
check_split(struct image *im)
{
	const struct section *s = footer_section(&im->foot, SEC_TAIL);
	uint8_t byte;
	int err;

	if ((err = image_read_at(im, &byte, 1, s->off + s->extra)) != 0)
		return err;
	return byte == 0 ? 0 : image_bad(im, s->off + s->extra,
	    "device state does not end where it should");
}

/* Who they are; they are opened when pages of theirs may be needed. */
static int
take_ancestors(struct image *im)
{
	const struct section *s = footer_section(&im->foot, SEC_ANCESTORS);
	const char *why;
	uint8_t *buf;
	size_t n;
	int err;

	if (s == NULL)
		return 0;
	if ((err = take_section(im, SEC_ANCESTORS, ANCESTORS_SIZE_MAX, &buf, &n)) != 0)
		return err;
	why = ancestors_decode(buf, n, &im->anc, &im->nanc);
	free(buf);
	if (why != NULL)
		return image_bad(im, s->off, why);
	im->anc_image = calloc(im->nanc + 1u, sizeof *im->anc_image);
	return im->anc == NULL || im->anc_image == NULL ? image_no_memory(im) : 0;
}

/* A second descriptor, for direct I/O, if that is wanted and can be had. */
static void
open_direct(struct image *im)
{
	int err;

	if (!(im->io_flags & IO_DIRECT) ||
	    no_direct_io(im->path, image_is_coded(im), im->head.page_size))
		return;
	if ((err = io_open(im->path, 0, IO_DIRECT, &im->data_fd)) != 0) {
		snap_warn(err, "%s: no direct I/O here", im->path);
		im->data_fd = im->fd;
	} else if (!io_same(im->data_fd, im->fd)) {	/* a save has just replaced it */
		io_close(im->data_fd);
		im->data_fd = im->fd;
	}
}

/* The file is none of ours: say what it is, if that can be told.  buf: its first bytes. */
static int
say_foreign(const struct image *im, const uint8_t *buf, size_t n, uint64_t len)
{
	const char *kind = foreign_kind(buf, n);

	if (kind != NULL)
		snap_warnx("%s: not a qemu-snap image: %s", im->path, kind);
	else if (len < HEADER_SIZE + FOOTER_SIZE)
		snap_warnx("%s: too short for a qemu-snap image", im->path);
	else
		snap_warnx("%s: offset 0: not a qemu-snap image", im->path);
	return SNAP_EDATA;
}

static int
open_header(struct image *im, uint64_t *len)
{
	uint8_t buf[HEADER_SIZE];
	const char *why;
	size_t n;
	int err;

	if ((err = io_size(im->fd, len)) != 0) {
		snap_warn(err, "%s", im->path);
		return SNAP_ESYS;
	}
	n = *len < sizeof buf ? (size_t)*len : sizeof buf;
	if ((err = image_read_at(im, buf, n, 0)) != 0)
		return err;
	if (n < HEADER_MAGIC || !header_is_image(buf))
		return say_foreign(im, buf, n, *len);
	if (n < sizeof buf) {
		snap_warnx("%s: shorter than a header: an interrupted save or a cut copy",
		    im->path);
		return SNAP_EDATA;
	}
	if ((why = header_decode(buf, &im->head)) != NULL)
		return image_bad(im, 0, why);
	return 0;
}

/* Can this qemu-snap read an image with such a header? */
static int
check_features(const struct image *im)
{
	if (features_unknown(&im->head) != 0)
		snap_warnx("%s: needs features this version does not know: 0x%llx", im->path,
		    (unsigned long long)features_unknown(&im->head));
	else if (image_is_coded(im) && codec_zstd == NULL)
		snap_warnx("%s: compressed with zstd, which this qemu-snap was built without",
		    im->path);
	else
		return 0;
	return SNAP_EDATA;
}

/* The footer; with features that are not known, no more of it than every footer has. */
static int
open_footer(struct image *im, uint64_t len)
{
	const char *(*decode)(const uint8_t *, uint64_t, const struct image_header *,
	    struct image_footer *) = features_unknown(&im->head) != 0 ? footer_identify :
	    footer_decode;
	uint8_t buf[FOOTER_SIZE];
	uint64_t at = len - FOOTER_SIZE;
	const char *why;
	int err;

	if (len < HEADER_SIZE + FOOTER_SIZE) {
		snap_warnx("%s: no footer: an interrupted save or a cut copy", im->path);
		return SNAP_EDATA;
	}
	if ((err = image_read_at(im, buf, FOOTER_SIZE, at)) != 0)
		return err;
	why = decode(buf, len, &im->head, &im->foot);
	return why != NULL ? image_bad(im, at, why) : 0;
}

static int
open_tables(struct image *im)
{
	const char *why;
	uint8_t *map;
	size_t n = 0;
	int err;

	if ((err = take_section(im, SEC_RAM_MAP, RAM_MAP_MAX, &map, &n)) != 0)
		return err;
	why = ram_map_decode(map, n, im->head.page_size, &im->ram);
	free(map);
	if (why != NULL)
		return image_bad(im, footer_section(&im->foot, SEC_RAM_MAP)->off, why);
	if (im->ram.blk == NULL)
		return image_no_memory(im);
	unit_shape(&im->shape, im->head.unit_pages);
	if ((err = check_numbers(im)) != 0 || (err = image_open_root(im)) != 0 ||
	    (err = check_split(im)) != 0)
		return err;
	return take_ancestors(im);
}

/* An image of which nothing has been read but what kind of file it is. */
static struct image *
open_file(const char *path, int io_flags)
{
	struct image *im = calloc(1, sizeof *im);
	int err;

	if (im == NULL || (im->path = malloc(strlen(path) + 1)) == NULL) {
		free(im);
		snap_warn(ENOMEM, "%s", path);
		return NULL;
	}
	strcpy(im->path, path);
	im->io_flags = io_flags;
	im->nunit = UNIT_CACHE;
	if ((err = io_open(path, 0, 0, &im->fd)) == 0) {
		im->data_fd = im->fd;
		return im;
	}
	if (err == EINVAL)
		snap_warnx("%s: not a regular file", path);
	else
		snap_warn(err, "%s", path);
	im->fd = im->data_fd = -1;
	image_close(im);
	return NULL;
}

struct image *
image_open(const char *path, int io_flags, int *err)
{
	struct image *im = open_file(path, io_flags);
	uint64_t len;

	*err = SNAP_ESYS;
	if (im == NULL)
		return NULL;
	if ((*err = open_header(im, &len)) == 0 && (*err = check_features(im)) == 0 &&
	    (*err = open_footer(im, len)) == 0 && (*err = open_tables(im)) == 0) {
		open_direct(im);
		return im;
	}
	image_close(im);
	return NULL;
}

struct image *
image_look(const char *path, struct image_look *how)
{
	struct image *im = open_file(path, 0);
	int err;

	memset(how, 0, sizeof *how);
	how->err = SNAP_ESYS;
	if (im == NULL)
		return NULL;
	if ((how->err = open_header(im, &how->len)) != 0) {
		image_close(im);
		return NULL;
	}
	how->err = check_features(im);
	if ((err = open_footer(im, how->len)) == 0) {
		how->has_footer = 1;
		if (features_unknown(&im->head) == 0 && (err = open_tables(im)) == 0)
			how->whole = 1;
	}
	if (err != 0)
		how->err = err;
	return im;
}

void
image_close(struct image *im)
{
	unsigned i;

	if (im == NULL)
		return;
	image_drop_tables(im);
	for (i = 0; im->anc_image != NULL && i < im->nanc; i++)
		image_close(im->anc_image[i]);
	free(im->anc_image);
	ancestors_free(im->anc, im->nanc);
	if (im->data_fd >= 0 && im->data_fd != im->fd)
		io_close(im->data_fd);
	if (im->fd >= 0)
		io_close(im->fd);
	free(im->ram.blk);
	free(im->path);
	free(im);
}

const char *
image_path(const struct image *im)
{
	return im->path;
}

unsigned
image_ancestors(const struct image *im, const struct ancestor **list)
{
	*list = im->anc;
	return im->nanc;
}

const struct ram_map *
image_ram(const struct image *im)
{
	return &im->ram;
}

const struct image_header *
image_header(const struct image *im)
{
	return &im->head;
}

const struct image_footer *
image_footer(const struct image *im)
{
	return &im->foot;
}

uint64_t
image_with_bytes(const struct image *im)
{
	return im->foot.stored + im->foot.ancestor;
}

int
image_is_coded(const struct image *im)
{
	return (im->head.incompat & FEATURE_CODEC) != 0;
}

int
image_is_same(const struct image *a, const struct image *b)
{
	return a == b || io_same(a->fd, b->fd);
}

const struct image *
image_holder(const struct image *im, int state, uint64_t entry)
{
	return state == PAGE_ANCESTOR ? im->anc_image[entry_ancestor(entry)] : im;
}
