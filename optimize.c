/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * optimize.c -- an image is written anew: hot pages first and together, the rest in the
 * order of the guest; with the codec and on the base that are asked for.
 *
 * Zero pages are entered in passing, while the scan looks for pages to read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "describe.h"
#include "disks.h"
#include "hot.h"
#include "image.h"
#include "marks.h"
#include "options.h"
#include "signals.h"
#include "snap.h"
#include "status.h"
#include "store.h"

struct optimize {
	const struct options *opt;
	struct image *im;
	struct store to;
	struct hot_list hot;
	uint64_t hot_at, page;	/* the next to be looked at */
	struct marks done;	/* pages of the hot list */
	struct status st;
};

/* The next page that has bytes: 1, 0 or < 0. */
static int
next_page(void *arg, uint64_t *page, int *state, uint64_t *entry)
{
	struct optimize *z = arg;
	int err;

	while (z->hot_at < z->hot.n) {
		*page = hot_page(&z->hot, z->hot_at++);
		if (marked(&z->done, *page))
			continue;
		if ((*state = image_lookup(z->im, *page, entry)) < 0)
			return *state;
		if (*state < PAGE_STORED)
			continue;
		return (err = mark(&z->done, *page)) != 0 ? err : 1;
	}
	while ((*state = image_next_present(z->im, &z->page, entry)) != PAGE_ABSENT) {
		if (*state < 0)
			return *state;
		if (z->page % 4096 == 0 && (err = check_signals(z->opt->file[1])) != 0)
			return err;
		*page = z->page++;
		if (*state == PAGE_ZERO) {
			if ((err = image_zero(z->to.image, *page)) != 0)
				return err;
		} else if (!marked(&z->done, *page))
			return 1;
	}
	return 0;
}

static int
copy_pages(struct optimize *z)
{
	struct image_scan *scan = scan_new(z->im, z->to.how.threads, NULL);
	uint32_t size = image_ram(z->im)->page_size;
	struct image_fetch *f;
	uint64_t n = 0;
	unsigned i;
	uint8_t *room;
	int r = 0, err = 0;

	status_pages(&z->st, "memory", image_with_bytes(z->im), size);
	scan_order(scan, next_page, z);
	while (err == 0 && (r = scan_next(scan, &f)) == 1) {
		for (i = 0; i < f->n && err == 0; i++, n++) {
			if ((room = image_room(z->to.image)) == NULL) {
				err = SNAP_ESYS;
				break;
			}
			memcpy(room, fetch_data(f, i), size);
			image_put_known(z->to.image, f->page[i], f->crc[i]);
		}
		status_add(&z->st, (uint64_t)f->n * size);
		if (err == 0)
			err = check_signals(z->opt->file[1]);
	}
	scan_free(scan);
	if (err == 0 && r == 0 && n != image_with_bytes(z->im)) {
		snap_warnx("%s: page table and footer do not agree", image_path(z->im));
		return SNAP_EDATA;
	}
	return err != 0 ? err : r;
}

/* What was asked for, or else what there was; b->buf is text then. */
static int
take_label(struct optimize *z, char text[LABEL_MAX + 1], struct image_bytes *b)
{
	const char *label = z->opt->label;
	int err = 0;

	if (label == NULL) {
		err = label_read(z->im, text);
		label = text;
	}
	b->buf = (const uint8_t *)label;
	b->len = strlen(label);
	return err;
}

/* Those there were, if anybody said so; buf is to be freed by the caller. */
static int
take_disks(struct image *im, uint8_t **buf, size_t *len)
{
	struct disks d;
	int err = disks_read(&d, im);

	if (err == 0 && d.disk != NULL && (*buf = disks_pack(&d, len)) == NULL)
		err = snap_warn(ENOMEM, "%s", image_path(im));
	disks_free(&d);
	return err;
}

/*
 * A section that is not known may tell of places in the file, or of its UUID, which are others
 * in the new one: it would be a lie there, and is left out.
 */
static void
say_left_out(const struct image *im)
{
	const struct image_footer *f = image_footer(im);
	uint32_t i;

	for (i = 0; i < f->nsec; i++)
		if (f->sec[i].type > SEC_DISKS)
			snap_warnx("%s: section of type %lu: not known, and left out",
			    image_path(im), (unsigned long)f->sec[i].type);
}

/* What is not RAM, as it is; label and hot list. */
static int
copy_rest(struct optimize *z)
{
	const struct image_footer *f = image_footer(z->im);
	const struct section *tail = footer_section(f, SEC_TAIL);
	struct image_bytes b[] = {
		{ SEC_PREAMBLE, NULL, 0 },
		{ SEC_PROLOGUE, NULL, 0 },
		{ SEC_ITERABLES, NULL, 0 },
		{ SEC_LABEL, NULL, 0 },
		{ SEC_HOT, NULL, 0 },
		{ SEC_DISKS, NULL, 0 }
	};
	uint8_t *buf[4] = { NULL, NULL, NULL, NULL }, piece[16384];
	char label[LABEL_MAX + 1];
	uint64_t done;
	size_t n, i;
	int err = 0;

	status_phase(&z->st, "devices", 0);
	say_left_out(z->im);
	for (i = 0; i < 3 && err == 0; i++) {
		err = image_section(z->im, b[i].type, &buf[i], &b[i].len);
		b[i].buf = buf[i];
	}
	b[4].buf = hot_bytes(&z->hot, &b[4].len);
	if (err == 0 && (err = take_label(z, label, &b[3])) == 0 &&
	    (err = take_disks(z->im, &buf[3], &b[5].len)) == 0) {
		b[5].buf = buf[3];
		err = image_seal(z->to.image, b, sizeof b / sizeof b[0], f->flags);
	}
	for (i = 0; i < 4; i++)
		free(buf[i]);
	for (done = 0; done < tail->len && err == 0; done += n) {
		n = tail->len - done < sizeof piece ? (size_t)(tail->len - done) : sizeof piece;
		if ((err = image_read(z->im, tail, done, piece, n)) == 0)
			err = image_tail(z->to.image, piece, n);
		status_add(&z->st, n);
	}
	if (err == 0)
		err = check_signals(z->opt->file[1]);
	status_phase(&z->st, "commit", 0);
	return err != 0 ? err : store_commit(&z->to, tail->extra);
}

static int
optimize(struct optimize *z)
{
	const struct options *o = z->opt;
	struct image_options *how = &z->to.how;
	int coded;
	int err;

	if ((z->im = image_open(o->file[0], o->io_flags, &err)) == NULL ||
	    (err = image_open_ancestors(z->im)) != 0 ||
	    (err = image_check_sections(z->im, NULL)) != 0)
		return err;
	if (image_is_in_chain(z->im, o->file[1]))
		return snap_warnx("%s: is the image itself, or an ancestor of it, and is not "
		    "replaced", o->file[1]);
	if ((err = store_init(&z->to, o, o->file[1])) != 0)
		return err;
	if (!o->no_hot && (err = hot_find(&z->hot, z->im)) != 0)
		return err;
	if ((err = marks_init(&z->done, image_ram(z->im)->npages)) != 0)
		return err;
	how->have_time = 1;
	how->time = image_footer(z->im)->time;
	coded = (image_header(z->im)->incompat & FEATURE_CODEC) != 0;
	if (!o->have_codec && coded) {
		how->codec = codec_zstd;
		how->level = codec_zstd->usual;
	}
	how->threads = options_threads(o, how->codec == NULL && !coded);
	if ((err = store_create(&z->to)) != 0 ||
	    (err = image_begin(z->to.image, image_ram(z->im))) != 0 || (err = copy_pages(z)) != 0)
		return err;
	return copy_rest(z);
}

int
run_optimize(const struct options *o)
{
	struct optimize z;
	int err;

	memset(&z, 0, sizeof z);
	z.opt = o;
	note_signals();
	status_init(&z.st, o, o->file[1]);
	err = optimize(&z);
	store_free(&z.to);
	image_close(z.im);
	hot_free(&z.hot);
	marks_free(&z.done);
	status_end(&z.st, err);
	return err;
}
