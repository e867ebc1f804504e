/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * send.c -- the stream that an image is in precopy.
 *
 * It is the saved one, up to the order of the pages and without COMMAND elements.
 */
#include "send.h"

#include <signal.h>

#include "pipe.h"
#include "signals.h"
#include "snap.h"

int
send_bytes(struct image *im, struct stream_out *out, uint32_t type, uint64_t len)
{
	const struct section *s = footer_section(image_footer(im), type);
	uint8_t buf[16384];
	uint64_t done;
	size_t n;
	int err;

	if (s == NULL)
		return 0;
	if (len > s->len)
		len = s->len;
	for (done = 0; done < len; done += n) {
		n = len - done < sizeof buf ? (size_t)(len - done) : sizeof buf;
		if ((err = image_read(im, s, done, buf, n)) != 0 ||
		    (err = out_copy(out, buf, n)) != 0)
			return err;
	}
	return 0;
}

int
send_preamble(struct image *im, struct stream_out *out)
{
	int err = send_bytes(im, out, SEC_PREAMBLE, UINT64_MAX);

	if (err != 0) {
		pipe_reject(out->fd, 0);
		return err;
	}
	err = out_flush(out);
	/* In a stream that has begun, the end is word enough. */
	on_signals_to_end(SIG_DFL);
	return err;
}

/* The stored pages, in file order; *sent counts them. */
static int
send_stored(struct image *im, struct stream_out *out, unsigned threads, uint64_t *sent,
    struct status *st)
{
	uint32_t size = image_ram(im)->page_size;
	struct image_scan *scan = scan_new(im, threads, NULL);
	struct image_fetch *f;
	unsigned i;
	int r = 0, err = 0;

	status_pages(st, "memory", image_with_bytes(im), size);
	while (err == 0 && (r = scan_next(scan, &f)) == 1) {
		for (i = 0; i < f->n && err == 0; i++)
			err = out_page(out, f->page[i], fetch_data(f, i));
		*sent += f->n;
		if (err == 0)
			err = out_flush(out);
		status_add(st, (uint64_t)f->n * size);
	}
	scan_free(scan);
	return err != 0 ? err : r;
}

/*
 * ROMs are not empty in a new guest, so zero pages are sent, too.  By the way
 * it shows whether all stored pages were: each was sent once at most.
 */
static int
send_zero(struct image *im, struct stream_out *out, uint64_t sent)
{
	uint64_t page, entry, stored = 0;
	int state, err = 0;

	for (page = 0; err == 0; page++) {
		if ((state = image_next_present(im, &page, &entry)) < 0)
			return state;
		if (state == PAGE_ABSENT)
			break;
		if (state == PAGE_ZERO)
			err = out_page(out, page, NULL);
		else
			stored++;
	}
	if (err == 0 && (stored != sent || sent != image_with_bytes(im))) {
		snap_warnx("%s: page table and unit table do not agree", image_path(im));
		err = SNAP_EDATA;
	}
	return err;
}

int
send_precopy(struct image *im, struct stream_out *out, unsigned threads, struct status *st)
{
	uint64_t sent = 0;
	int err;

	if ((err = send_bytes(im, out, SEC_PROLOGUE, UINT64_MAX)) != 0 ||
	    (err = send_bytes(im, out, SEC_ITERABLES, UINT64_MAX)) != 0 ||
	    (err = out_begin(out, VM_SECTION_PART)) != 0 ||
	    (err = send_stored(im, out, threads, &sent, st)) != 0 ||
	    (err = send_zero(im, out, sent)) != 0 ||
	    (err = out_end(out)) != 0)
		return err;
	if (image_footer(im)->flags & IMAGE_ENDED)
		if ((err = out_begin(out, VM_SECTION_END)) != 0 ||
		    (err = out_end(out)) != 0)
			return err;
	status_phase(st, "devices", 0);
	if ((err = send_bytes(im, out, SEC_TAIL, UINT64_MAX)) != 0)
		return err;
	return out_flush(out);
}
