/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * check.c -- read every byte of an image, verify everything.
 */
#include <stdio.h>

#include "image.h"
#include "options.h"
#include "snap.h"
#include "status.h"

/* Every page, in file order.  0, or SNAP_ESYS. */
static int
check_stored(struct image *im, unsigned threads, unsigned *faults, struct status *st)
{
	uint32_t size = image_ram(im)->page_size;
	const struct image_footer *foot = image_footer(im);
	struct image_scan *scan = scan_new(im, threads, faults);
	struct image_fetch *f;
	uint64_t seen = 0;
	unsigned i;
	int r = SNAP_ESYS, err = 0;

	status_pages(st, "memory", foot->stored + foot->ancestor, size);
	while (scan != NULL && err == 0 && (r = scan_next(scan, &f)) == 1) {
		if (f->req.error != 0)
			err = fetch_check(f);
		for (i = 0; i < f->n && err == 0; i++)
			if (!f->good[i]) {
				fetch_bad_page(f, i);
				++*faults;
			}
		seen += f->n;
		status_add(st, (uint64_t)f->n * size);
	}
	scan_free(scan);
	if (err != 0 || r != 0)
		return SNAP_ESYS;
	if (*faults == 0 && seen != foot->stored + foot->ancestor) {
		snap_warnx("%s: footer and unit table do not agree on the number of pages",
		    image_path(im));
		++*faults;
	}
	return 0;
}

static void
count_read(void *st, size_t len)
{
	status_add(st, len);
}

/* All that is not memory. */
static int
check_tables(struct image *im, unsigned *faults, struct status *st)
{
	const struct image_footer *foot = image_footer(im);
	int err;

	status_phase(st, "tables", foot->file_len - footer_section(foot, SEC_DATA)->len);
	image_on_read(im, count_read, st);
	err = image_check_tables(im, 1, faults);
	image_on_read(im, NULL, NULL);
	return err;
}

static int
check_one(const char *path, const struct options *o, struct status *st)
{
	const struct image_footer *foot;
	struct image *im;
	unsigned faults = 0;
	int err;

	if ((im = image_open(path, o->io_flags, &err)) == NULL)
		return err;
	foot = image_footer(im);
	if ((err = check_tables(im, &faults, st)) == 0 &&
	    (err = image_open_ancestors(im)) == 0)
		err = check_stored(im, options_threads(o, 0), &faults, st);
	if (faults > 0) {
		snap_warnx("%s: damaged: %u fault%s", path, faults, faults == 1 ? "" : "s");
		err = SNAP_EDATA;
	}
	if (err == 0) {
		status_hide(st);
		print_name(path);
		printf(": good, %llu page%s stored", (unsigned long long)foot->stored,
		    foot->stored == 1 ? "" : "s");
		if (foot->ancestor > 0)
			printf(", %llu in ancestors", (unsigned long long)foot->ancestor);
		putchar('\n');
	}
	image_close(im);
	return err;
}

int
run_check(const struct options *o)
{
	struct status st;
	int i, err, worst = 0;

	status_init(&st, o, o->file[0]);
	for (i = 0; i < o->nfile; i++) {
		if (i > 0)
			status_image(&st, o->file[i]);
		if ((err = check_one(o->file[i], o, &st)) < worst)
			worst = err;
	}
	worst = close_stdout(worst);
	status_end(&st, worst);
	return worst;
}
