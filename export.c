/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * export.c -- an image becomes a file that other programs read.
 *
 * A stream is what load sends in precopy.  In all other files pages lie at places of their
 * own: extents of guest pages are laid out first, then the pages that have bytes are read in
 * the order of the guest and written there.  All others stay holes, which read as zero.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "describe.h"
#include "image.h"
#include "options.h"
#include "out.h"
#include "outfile.h"
#include "preamble.h"
#include "send.h"
#include "snap.h"
#include "status.h"

/* Pages of the guest that follow one another in the file. */
struct extent {
	uint64_t page, n;
	uint64_t off;
};

struct export {
	const struct options *opt;
	struct image *im;
	const struct ram_map *ram;
	struct outfile to;
	struct stream_out out;	/* what is no page */
	struct extent *ext;	/* in the order of the guest */
	size_t next;		/* extents in all */
	size_t reading, writing;	/* the extents under way */
	uint64_t page;		/* the next to be read */
	uint64_t len;		/* of the file; UINT64_MAX: as it is written */
	uint64_t passed, told;	/* pages of extents: in those before x->writing; told to st */
	struct status st;
};

static void
add_extent(struct export *x, uint64_t page, uint64_t n, uint64_t off)
{
	struct extent *e = &x->ext[x->next++];

	e->page = page;
	e->n = n;
	e->off = off;
}

/* ---- pages in their places ---- */

/* The next page in an extent that has bytes: 1, 0 or < 0. */
static int
next_page(void *arg, uint64_t *page, int *state, uint64_t *entry)
{
	struct export *x = arg;
	const struct extent *e;

	while (x->reading < x->next) {
		e = &x->ext[x->reading];
		if (x->page < e->page)
			x->page = e->page;
		*state = image_next_bytes(x->im, &x->page, e->page + e->n, entry);
		if (*state < 0)
			return *state;
		if (*state != PAGE_ABSENT) {
			*page = x->page++;
			return 1;
		}
		x->reading++;
	}
	return 0;
}

/* The pages of a fetch come in the order of the guest; rows of them are written at once. */
static int
put_fetch(struct export *x, const struct image_fetch *f)
{
	size_t size = x->ram->page_size;
	const struct extent *e;
	unsigned i, n;
	uint64_t now;
	int err;

	for (i = 0; i < f->n; i += n) {
		while (f->page[i] - x->ext[x->writing].page >= x->ext[x->writing].n)
			x->passed += x->ext[x->writing++].n;
		e = &x->ext[x->writing];
		for (n = 1; i + n < f->n && f->page[i + n] == f->page[i] + n &&
		    f->page[i + n] - e->page < e->n; n++)
			;
		err = outfile_write(&x->to, fetch_data(f, i), n * size,
		    e->off + (f->page[i] - e->page) * size);
		if (err != 0)
			return err;
		now = x->passed + f->page[i] - e->page + n;
		status_add(&x->st, (now - x->told) * size);
		x->told = now;
	}
	return 0;
}

static int
put_pages(struct export *x)
{
	struct image_scan *scan = scan_new(x->im, options_threads(x->opt, 1), NULL);
	struct image_fetch *f;
	uint64_t pages = 0;
	size_t i;
	int r = 0, err = 0;

	for (i = 0; i < x->next; i++)
		pages += x->ext[i].n;
	status_pages(&x->st, "memory", pages, x->ram->page_size);
	scan_order(scan, next_page, x);
	while (err == 0 && (r = scan_next(scan, &f)) == 1)
		err = put_fetch(x, f);
	scan_free(scan);
	return err != 0 ? err : r;
}

/* ---- raw ---- */

/*
 * The block of --block, or the guest's main memory where that is not given.  0, or SNAP_E*,
 * reported, also if it is not in the image: without a word it would be all zero.
 */
static int
choose_block(const struct export *x, const struct ram_block **b)
{
	const char *name = x->opt->block != NULL ? x->opt->block : "pc.ram";
	int r;

	if ((*b = ram_map_named(x->ram, name)) == NULL)
		return snap_warnx("%s: has no block %s; info tells those it has, and --block "
		    "chooses", image_path(x->im), name);
	if ((r = image_left_out(x->im, *b)) <= 0)
		return r;
	return snap_warnx("%s: has no page of block %s: x-ignore-shared left it out",
	    image_path(x->im), name);
}

static int
export_raw(struct export *x)
{
	const struct ram_block *b;
	int err = choose_block(x, &b);

	if (err != 0)
		return err;
	add_extent(x, b->first, b->len / x->ram->page_size, 0);
	x->len = b->len;
	return put_pages(x);
}

/* ---- LiME ---- */

enum { LIME_HEAD = 32 };

#define GIB	(UINT64_C(1) << 30)
#define HIGH	(4 * GIB)	/* where memory goes on behind the hole */

/* What of the main memory lies below the hole under 4 GiB; 0: not known, and reported. */
static uint64_t
below_hole(const struct export *x, uint64_t ram)
{
	static const char pc[] = "pc-i440fx-", q35[] = "pc-q35-";
	char machine[MACHINE_MAX + 1];
	uint64_t low;

	if (machine_read(x->im, machine) != 0)
		return 0;
	/* pc_init1() and pc_q35_init() in hw/i386: without max-ram-below-4g.  Machines up to 2.0,
	 * which have another hole, are older than background snapshots. */
	if (strncmp(machine, pc, sizeof pc - 1) == 0)
		low = ram >= 7 * GIB / 2 ? 3 * GIB : ram;
	else if (strncmp(machine, q35, sizeof q35 - 1) == 0)
		low = ram >= 11 * GIB / 4 ? 2 * GIB : ram;
	else {
		snap_warnx("%s: where machine %s has its memory is not known: no LiME file",
		    image_path(x->im), machine);
		return 0;
	}
	/* From here on QEMU has it above 1 TiB with AMD's processors: with the 32 GiB that q35
	 * keeps for PCI behind it, it would reach what these reserve below (pc_memory_init()). */
	if (ram - low > 976 * GIB) {
		snap_warnx("%s: where so much memory lies is not known: no LiME file",
		    image_path(x->im));
		return 0;
	}
	return low;
}

/* A range of physical addresses, which holds len bytes of the block from off on. */
static int
lime_range(struct export *x, const struct ram_block *b, uint64_t off, uint64_t len, uint64_t addr)
{
	uint32_t size = x->ram->page_size;
	uint8_t h[LIME_HEAD] = { 0 };

	if (len == 0)
		return 0;
	memcpy(h, "EMiL", 4);
	put_le32(h + 4, 1);
	put_le64(h + 8, addr);
	put_le64(h + 16, addr + len - 1);
	add_extent(x, b->first + off / size, len / size, x->len + LIME_HEAD);
	x->len += LIME_HEAD + len;
	return outfile_write(&x->to, h, sizeof h, x->len - LIME_HEAD - len);
}

/*
 * Between 640 KiB and 1 MiB a PC has no memory of its own: the screen, and what its
 * chipset shows of ROMs.
 */
static int
export_lime(struct export *x)
{
	const uint64_t base = 640 << 10, ext = 1 << 20;
	const struct ram_block *b;
	uint64_t low;
	int err = choose_block(x, &b);

	if (err != 0)
		return err;
	if ((low = below_hole(x, b->len)) == 0)
		return SNAP_ESYS;
	if (low < ext)
		return snap_warnx("%s: less than 1 MiB of memory: no LiME file", image_path(x->im));
	x->len = 0;
	if ((err = lime_range(x, b, 0, base, 0)) != 0 ||
	    (err = lime_range(x, b, ext, low - ext, ext)) != 0 ||
	    (err = lime_range(x, b, low, b->len - low, HIGH)) != 0)
		return err;
	return put_pages(x);
}

/* ---- streams ---- */

static int
export_stream(struct export *x)
{
	int err = send_bytes(x->im, &x->out, SEC_PREAMBLE, UINT64_MAX);

	return err != 0 ? err : send_precopy(x->im, &x->out, options_threads(x->opt, 1), &x->st);
}

/* ---- mapped-ram (migration/ram.c) ---- */

enum {
	MAPPED_HEAD = 28,
	BITMAP_PIECE = 4096
};

#define MAPPED_ALIGN	(UINT64_C(1) << 20)

/* What follows goes to off of the file. */
static int
seek(struct export *x, uint64_t off)
{
	int err = out_flush(&x->out);

	if (err == 0 && lseek(x->to.fd, (off_t)off, SEEK_SET) < 0)
		err = snap_warn(errno, "%s", x->to.path);
	return err;
}

/* The bits of pages in the file, the lowest first, as a little-endian host has them: len bytes.
 * Where there are none stays a hole. */
static int
put_bitmap(struct export *x, const struct extent *e, uint64_t off, uint64_t len)
{
	const uint64_t bits = BITMAP_PIECE * 8;
	uint64_t page = e->page, end = page + e->n, entry, piece = 0, k;
	uint8_t buf[BITMAP_PIECE] = { 0 };
	int state, err = 0, any = 0;

	for (;; page++) {
		if ((state = image_next_bytes(x->im, &page, end, &entry)) < 0)
			return state;
		k = page - e->page;
		if (any && (state == PAGE_ABSENT || k / bits != piece)) {
			err = outfile_write(&x->to, buf, share_of(len, sizeof buf, piece),
			    off + piece * sizeof buf);
			memset(buf, 0, sizeof buf);
		}
		if (err != 0 || state == PAGE_ABSENT)
			return err;
		piece = k / bits;
		buf[k % bits / 8] |= (uint8_t)(1 << k % 8);
		any = 1;
	}
}

/* Write the section with a header behind each block; the pages' places are extents then. */
static int
put_start(struct export *x, const uint8_t *start, size_t len, uint64_t at)
{
	const struct ram_map *ram = x->ram;
	size_t n = RAM_START_HEAD, i;
	uint8_t h[MAPPED_HEAD];
	uint64_t bitmap, bytes, pages, npages;
	int err;

	if ((err = out_copy(&x->out, start, n)) != 0)
		return err;
	at += n;
	for (start += n, len -= n, i = 0; i < ram->nblk; i++, start += n, len -= n) {
		npages = ram->blk[i].len / ram->page_size;
		n = prologue_entry(ram, &ram->blk[i]);
		bitmap = at + n + sizeof h;
		bytes = (npages + 63) / 64 * 8;
		pages = (bitmap + bytes + MAPPED_ALIGN - 1) / MAPPED_ALIGN * MAPPED_ALIGN;
		put_be32(h, 1);
		put_be64(h + 4, ram->page_size);
		put_be64(h + 12, bitmap);
		put_be64(h + 20, pages);
		add_extent(x, ram->blk[i].first, npages, pages);
		at = pages + ram->blk[i].len;
		if ((err = out_copy(&x->out, start, n)) != 0 ||
		    (err = out_copy(&x->out, h, sizeof h)) != 0 ||
		    (err = put_bitmap(x, &x->ext[i], bitmap, bytes)) != 0 ||
		    (err = seek(x, at)) != 0)
			return err;
	}
	return out_copy(&x->out, start, len);
}

/* Everything but the pages.  QEMU ends the RAM after them; so does this, also where a background
 * snapshot never ended it. */
static int
put_mapped(struct export *x, const uint8_t *pre, size_t pre_len, const uint8_t *pro, size_t pro_len)
{
	size_t at, len;
	int err;

	if ((err = prologue_find_ram(x->ram, image_path(x->im), pro, pro_len, &at, &len)) == 0 &&
	    (err = out_copy(&x->out, pre, pre_len)) == 0 &&
	    (err = out_copy(&x->out, pro, at)) == 0 &&
	    (err = put_start(x, pro + at, len, pre_len + at)) == 0 &&
	    (err = out_copy(&x->out, pro + at + len, pro_len - at - len)) == 0 &&
	    (err = send_bytes(x->im, &x->out, SEC_ITERABLES, UINT64_MAX)) == 0 &&
	    (err = out_begin(&x->out, VM_SECTION_END)) == 0 &&
	    (err = out_end(&x->out)) == 0 &&
	    (err = send_bytes(x->im, &x->out, SEC_TAIL, UINT64_MAX)) == 0)
		err = out_flush(&x->out);
	return err;
}

static int
export_mapped(struct export *x)
{
	uint8_t *pre, *pro = NULL, *with = NULL;
	size_t pre_len, pro_len, with_len;
	struct preamble p;
	int err;

	if ((err = image_section(x->im, SEC_PREAMBLE, &pre, &pre_len)) == 0 &&
	    (err = image_section(x->im, SEC_PROLOGUE, &pro, &pro_len)) == 0) {
		if (preamble_parse(&p, pre, pre_len) != 0) {
			snap_warnx("%s: the head of its stream is not understood",
			    image_path(x->im));
			err = SNAP_EDATA;
		} else if ((with = preamble_with(&p, "mapped-ram", &with_len)) == NULL)
			err = snap_warn(ENOMEM, "%s", image_path(x->im));
		else
			err = put_mapped(x, with, with_len, pro, pro_len);
	}
	free(with);
	free(pro);
	free(pre);
	return err != 0 ? err : put_pages(x);
}

/* ---- the verb ---- */

static int (*const export_as[])(struct export *) = {
	[FORM_STREAM] = export_stream,
	[FORM_MAPPED] = export_mapped,
	[FORM_RAW] = export_raw,
	[FORM_LIME] = export_lime
};

static int
export(struct export *x)
{
	const struct options *o = x->opt;
	int err;

	if ((x->im = image_open(o->file[0], o->io_flags, &err)) == NULL ||
	    (err = image_open_ancestors(x->im)) != 0 ||
	    (err = image_check_sections(x->im, NULL)) != 0)
		return err;
	x->ram = image_ram(x->im);
	if ((x->ext = malloc((x->ram->nblk + 3) * sizeof *x->ext)) == NULL)
		return snap_warn(ENOMEM, "%s", o->file[0]);
	if ((err = outfile_create(&x->to, o->file[1], "export", NULL)) != 0)
		return err;
	out_init(&x->out, x->to.fd, x->ram);
	x->out.name = o->file[1];
	x->len = UINT64_MAX;
	if ((err = export_as[o->form](x)) != 0)
		return err;
	status_phase(&x->st, "commit", 0);
	return outfile_commit(&x->to, x->len, o->unsafe);
}

int
run_export(const struct options *o)
{
	struct export x;
	int err;

	memset(&x, 0, sizeof x);
	x.opt = o;
	x.to.fd = x.to.dir_fd = -1;
	status_init(&x.st, o, o->file[0]);
	err = export(&x);
	outfile_free(&x.to);
	status_end(&x.st, err);
	image_close(x.im);
	free(x.ext);
	return err;
}
