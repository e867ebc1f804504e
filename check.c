/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * check.c -- every byte of an image is read and verified.
 *
 * Faults are counted and told one by one, and what can still be checked is, so that one run tells
 * all that is wrong with an image.
 */
#include <stdio.h>

#include "image.h"
#include "options.h"
#include "snap.h"
#include "status.h"

/* Every page, in file order.  0, or SNAP_ESYS. */
static int
check_stored(struct image *im, unsigned threads, uint64_t *seen, unsigned *faults,
    struct status *st)
{
	uint32_t size = image_ram(im)->page_size;
	struct image_scan *scan = scan_new(im, threads, faults);
	struct image_fetch *f;
	unsigned i;
	int r;

	status_pages(st, "memory", image_with_bytes(im), size);
	while ((r = scan_next(scan, &f)) == 1) {
		for (i = 0; i < f->n; i++)
			if (!f->good[i]) {
				fetch_bad_page(f, i);
				++*faults;
			}
		*seen += f->n;
		status_add(st, (uint64_t)f->n * size);
	}
	scan_free(scan);
	return r != 0 ? SNAP_ESYS : 0;
}

static void
say_good(const struct image *im, int quick)
{
	const struct image_footer *foot = image_footer(im);
	char theirs[48] = "";

	if (foot->ancestor > 0)
		snprintf(theirs, sizeof theirs, ", %llu in ancestors", (ull)foot->ancestor);
	print_line("%s: %sgood, %llu page%s stored%s%s", image_path(im), quick ? "tables " : "",
	    (ull)foot->stored, foot->stored == 1 ? "" : "s", theirs, quick ? ", not read" : "");
}

/* Whose are they?  An ancestor may be mended by a copy of its own. */
static void
say_damaged(const struct image *im, unsigned faults)
{
	uint64_t theirs = image_ancestor_faults(im);

	if (theirs > faults)
		theirs = faults;
	if (theirs == 0)
		snap_warnx("%s: damaged: %u fault%s", image_path(im), faults,
		    faults == 1 ? "" : "s");
	else
		snap_warnx("%s: damaged: %llu fault%s of its own, %llu in ancestors",
		    image_path(im), (ull)(faults - theirs),
		    faults - theirs == 1 ? "" : "s", (ull)theirs);
}

static void
count_read(void *st, size_t len)
{
	status_add(st, len);
}

/* All that is not memory. */
static int
check_tables(struct image *im, int pages, unsigned *faults, struct status *st)
{
	const struct image_footer *foot = image_footer(im);
	int err;

	status_phase(st, "tables", foot->file_len - footer_section(foot, SEC_DATA)->len);
	image_on_read(im, count_read, st);
	err = image_check_tables(im, pages, faults);
	image_on_read(im, NULL, NULL);
	return err;
}

static int
check_one(const char *path, const struct options *o, struct status *st)
{
	struct image *im;
	uint64_t seen = 0;
	unsigned faults = 0;
	int err;

	if ((im = image_open(path, o->io_flags, &err)) == NULL)
		return err;
	if ((err = check_tables(im, !o->quick, &faults, st)) == 0 &&
	    (err = image_open_ancestors(im)) == 0) {
		if (!o->quick)
			err = check_stored(im, options_threads(o, 0), &seen, &faults, st);
		else
			err = image_check_references(im, &seen, &faults);
		if (err == 0 && faults == 0 && seen != image_with_bytes(im)) {
			snap_warnx("%s: footer and unit table do not agree on the number of pages",
			    path);
			faults = 1;
		}
	}
	if (faults > 0) {
		say_damaged(im, faults);
		err = SNAP_EDATA;
	}
	if (err == 0) {
		status_hide(st);
		say_good(im, o->quick);
	}
	image_close(im);
	return err;
}

int
run_check(const struct options *o)
{
	struct status st;
	int i, err, worst = 0, good = 0, bad = 0;

	status_init(&st, o, o->file[0]);
	for (i = 0; i < o->nfile; i++) {
		if (i > 0)
			status_image(&st, o->file[i]);
		if ((err = check_one(o->file[i], o, &st)) < worst)
			worst = err;
		good += err == 0;
		bad += err == SNAP_EDATA;
	}
	status_hide(&st);
	if (o->nfile > 1)
		printf("%d images: %d good, %d damaged or not understood, %d not to be checked\n",
		    o->nfile, good, bad, o->nfile - good - bad);
	worst = close_stdout(worst);
	status_end(&st, worst);
	return worst;
}
