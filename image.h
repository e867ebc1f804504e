/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image.h -- the snapshot file: writing one (image.c, pipeline.c, units.c, index.c, identity.c),
 * reading one (reader.c, lookup.c, fetch.c, scan.c, verify.c), finding those it is based on
 * (chain.c).
 *
 * Functions returning int return 0, or SNAP_ESYS or SNAP_EDATA after the
 * reason was printed.  Only the owner thread calls them.
 */
#ifndef IMAGE_H
#define IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "aio.h"
#include "codec.h"
#include "layout.h"
#include "ram.h"
#include "table.h"

struct image;

/* Bytes of a section in memory; a save takes no more either. */
enum { SECTION_KEPT = 16 << 20 };

/* ---- writing: image.c, pages: pipeline.c ---- */

struct image_options {
	uint32_t unit_pages;	/* powers of two within layout.h's bounds */
	uint32_t cluster_size;
	unsigned threads;	/* 0: no threads at all */
	int io_flags;		/* IO_DIRECT, IO_DSYNC */
	int unsafe;		/* no syncs */
	int reproducible;	/* UUID from the content, no time */
	uint64_t max_size;	/* of the file, in bytes */
	const struct codec *codec;	/* NULL: raw */
	int level;
	int have_time;
	uint64_t time;		/* of creation, instead of now */
	struct image *base;	/* only what differs is stored; NULL: everything.  With its
				 * ancestors open; it MUST outlive the writer */
};

struct image_writer;

/* Make a temporary file for path.  NULL: failed and reported. */
struct image_writer *image_create(const char *path, const struct image_options *opt);
/* Now the guest is known.  ram stays the caller's and must outlive w. */
int image_begin(struct image_writer *w, const struct ram_map *ram);
/* Where the next page's bytes go; NULL: failed and reported. */
uint8_t *image_room(struct image_writer *w);
/* The bytes of page are where image_room() said.  The last call for a page wins. */
void image_put(struct image_writer *w, uint64_t page);
/* The same for one whose CRC has been verified. */
void image_put_known(struct image_writer *w, uint64_t page, uint32_t crc);
/* The page is zero. */
int image_zero(struct image_writer *w, uint64_t page);
/*
 * All of RAM has been put: write what is left of it, the tables and these
 * sections (len 0: none), and make all that durable.
 */
struct image_bytes {
	uint32_t type;		/* SEC_PREAMBLE, SEC_PROLOGUE, SEC_ITERABLES, SEC_LABEL,
				 * SEC_HOT, SEC_DISKS */
	const uint8_t *buf;
	size_t len;
};
int image_seal(struct image_writer *w, const struct image_bytes *b, size_t nb,
    uint32_t flags);
/* Bytes after RAM, in order. */
int image_tail(struct image_writer *w, const void *buf, size_t len);
/* Make the tail so far durable, and take the room for more bytes of it; nothing, if that is more
 * than any description of devices takes, or if it has been done several times. */
int image_hold(struct image_writer *w, uint64_t more);
/*
 * Make the image complete, durable and known by its name.  split: bytes of the
 * tail before its end-of-file byte.
 */
int image_commit(struct image_writer *w, uint64_t split);
/* Is the image there under its name?  So it is, too, when only that cannot be made durable. */
int image_is_named(const struct image_writer *w);
/*
 * After a commit: a second name of the older image, if that is so large that
 * removing it may take a second; the caller removes and frees it.  Else NULL, and
 * image_free() sees to it.
 */
char *image_take_older(struct image_writer *w);
/* Free w.  Without a commit, no trace stays.  NULL is fine. */
void image_free(struct image_writer *w);

/* ---- reading: reader.c, tables: lookup.c, walks: scan.c ---- */

/* Open a finished image.  NULL: failed and reported, *err tells how. */
struct image *image_open(const char *path, int io_flags, int *err);
/*
 * The same to tell what is in it, of one as well that cannot be read: *how tells how far that
 * went, and why it went no further was printed.  NULL: it has not even a good header.
 */
struct image_look {
	int err;		/* 0, or SNAP_*: no page can be had */
	int whole;		/* all but pages can be had; else only header and ... */
	int has_footer;		/* ... length, UUID and time in the footer */
	uint64_t len;		/* of the file */
};
struct image *image_look(const char *path, struct image_look *how);
void image_close(struct image *im);
/* One of many that are open: few of its tables are to stay in memory. */
void image_keep_little(struct image *im);
/* It is gone through in the guest's order, once: few of its page leaves are to stay. */
void image_keep_few_leaves(struct image *im);
const char *image_path(const struct image *im);
const struct ram_map *image_ram(const struct image *im);
const struct image_header *image_header(const struct image *im);
const struct image_footer *image_footer(const struct image *im);
/* Pages that are neither zero nor absent, as the footer tells. */
uint64_t image_with_bytes(const struct image *im);
/* The ancestors it names. */
unsigned image_ancestors(const struct image *im, const struct ancestor **list);
/*
 * What page is, an enum page_state, or < 0.  *entry is its slot if it is stored, and
 * what entry_crc() and entry_ancestor() (table.h) tell if it lies in an ancestor.
 */
int image_lookup(struct image *im, uint64_t page, uint64_t *entry);
/* Can page be looked up without reading from the file? */
int image_at_hand(const struct image *im, uint64_t page);
/* The same as image_lookup() for the first page from *page on that is not absent, which *page is
 * then; PAGE_ABSENT: there is none. */
int image_next_present(struct image *im, uint64_t *page, uint64_t *entry);
/* The same for the first page from *page on, before end, that has bytes; PAGE_ABSENT, and *page
 * is end: there is none.  Quick where whole leaves have none. */
int image_next_bytes(struct image *im, uint64_t *page, uint64_t end, uint64_t *entry);
/* The CRC of a page that image_lookup() tells this of, stored or in an ancestor. */
int image_crc(struct image *im, uint64_t page, int state, uint64_t entry, uint32_t *crc);
/* The image in which the bytes of such a page lie.  The ancestors MUST be open. */
const struct image *image_holder(const struct image *im, int state, uint64_t entry);
/* Are both the same file? */
int image_is_same(const struct image *a, const struct image *b);
/* Did x-ignore-shared leave the block out?  Then it has no page, and nobody knows what was in it.
 * 1, 0 or < 0. */
int image_left_out(struct image *im, const struct ram_block *b);
/* Count pages from ... from + n - 1 by their states.  Nothing is read for those of which a
 * node, or the root, tells. */
int image_count(struct image *im, uint64_t from, uint64_t n, uint64_t count[4]);
/* Which page lies in slot, or DEAD_PAGE, and its CRC. */
int image_slot(struct image *im, uint64_t slot, uint64_t *page, uint32_t *crc);
/*
 * A way through all pages that have bytes, in the order in which they are best read: first
 * those in this file, in its order, then those in ancestors, in the guest's.  It begins with
 * zeros.  A step finds PAGE_STORED or PAGE_ANCESTOR, or nothing: PAGE_ABSENT; after an error,
 * the next step goes on behind it.  When it has ended there MUST be no further step.
 */
struct image_walk {
	uint64_t slot, page;	/* the next to be looked at */
};
int image_walk_ended(const struct image *im, const struct image_walk *w);
int image_step(struct image *im, struct image_walk *w, uint64_t *page, uint64_t *entry);
/* len bytes at off of a section; unchecked, see image_check_sections(). */
int image_read(struct image *im, const struct section *s, uint64_t off, void *buf,
    size_t len);
/* All of a section that is not RAM and not the tail, verified, in memory that the caller frees;
 * NULL and 0: there is none. */
int image_section(struct image *im, uint32_t type, uint8_t **buf, size_t *len);
/* Print "FILE: block B offset N: what" for a page; of many faults, only the first ones. */
void image_bad_page(struct image *im, uint64_t page, const char *what);
/* Faults that were found in its ancestors since they were opened. */
uint64_t image_ancestor_faults(const struct image *im);

/* ---- reading: verify.c ---- */

/* Verify a section that has a checksum of its own, without holding it. */
int image_check_section(struct image *im, const struct section *s);
/* Verify all sections that have a checksum of their own.  faults: as in a scan. */
int image_check_sections(struct image *im, unsigned *faults);
/* Verify every byte that a scan does not reach, and that all parts agree; *faults
 * grows by the faults found and printed.  Without pages, nothing of the data is read.  0, or
 * SNAP_ESYS. */
int image_check_tables(struct image *im, int pages, unsigned *faults);
/* Verify that page and slot name each other, and that the ancestors, which MUST be open, have the
 * pages that the image says lie there, as far as tables tell: no page is read.  *seen grows by
 * the pages of which that is so, *faults by the others.  0, or SNAP_ESYS. */
int image_check_references(struct image *im, uint64_t *seen, unsigned *faults);
/* Call fn(arg, len) for each len bytes that are read besides pages; NULL: no more. */
void image_on_read(struct image *im, void (*fn)(void *arg, size_t len), void *arg);

/* ---- ancestors: chain.c ---- */

/*
 * Are they still under the names that an image at path gives them?  0, or SNAP_ESYS: one
 * was replaced meanwhile, which is said.
 */
int image_check_ancestry(const struct image *base, const char *path,
    const struct ancestor *list);
/* Find and open all ancestors; before that, no page in them can be fetched. */
int image_open_ancestors(struct image *im);
/*
 * The ancestors of an image at path that is based on base, whose own are open: *n of them, to
 * be freed with ancestors_free(), whatever is returned.
 */
int image_ancestry(const struct image *base, const char *path, struct ancestor **list,
    unsigned *n);
/* Is path im, or one of its ancestors? */
int image_is_in_chain(const struct image *im, const char *path);

/* ---- reading pages: fetch.c, scans: scan.c ---- */

/*
 * A fetch reads stored pages through a ring and verifies them in the worker.
 * Free: fetch_reset(), then fetch_add() until full or done, aio_submit(&f->req)
 * on the image's behalf; when it is back, fetch_check().
 */
struct image_fetch {
	struct aio_req req;
	struct image *im;
	uint8_t *buf;		/* room for max pages */
	unsigned max, n;
	uint64_t *page;		/* n page numbers */
	uint32_t *crc;
	uint8_t *good;		/* set by the worker: the CRC is right */
	unsigned bad;		/* set by the worker: the first bad page, or n */
	void *arg;		/* the caller's */
	int serial;		/* set by the caller before the first page: coded units are read
				 * by the worker, one after the other.  This needs little memory */

	struct fetch_from *from;	/* private: where each page comes from */
	struct fetch_unit *unit;
	unsigned nunit;
	uint8_t *stored, *plain;	/* of coded units */
	size_t used;		/* bytes of stored */
	void *decoder;
};

/* 0, or SNAP_ESYS: out of memory. */
int fetch_init(struct image_fetch *f, struct image *im, unsigned max);
void fetch_free(struct image_fetch *f);
void fetch_reset(struct image_fetch *f);
/* Is there no room for one more page? */
int fetch_is_full(const struct image_fetch *f);
/* Add a page that image_lookup() tells this of, stored or in an ancestor; its bytes will be at
 * fetch_data(f, i), i counting up from 0.  There MUST be room. */
int fetch_add(struct image_fetch *f, uint64_t page, int state, uint64_t entry);
uint8_t *fetch_data(const struct image_fetch *f, unsigned i);
/* What the worker does: for requests that are made of a fetch's. */
void fetch_verify(struct aio_req *r);
/* Was it read, and right?  Reports what was not: the read, or the first bad page. */
int fetch_check(const struct image_fetch *f);
void fetch_bad_page(const struct image_fetch *f, unsigned i);

/*
 * A scan fetches all stored pages, in the order of a walk if no other is set, several
 * fetches ahead.
 * faults: NULL, or damaged tables are counted there and passed by.
 */
struct image_scan;
/* NULL: failed and reported. */
struct image_scan *scan_new(struct image *im, unsigned threads, unsigned *faults);
/* Have the pages come in another order: next() gives the next one that has bytes, with its
 * state and entry: 1; 0: that was all; or < 0.  s NULL is fine here and below: it was reported. */
void scan_order(struct image_scan *s, int (*next)(void *arg, uint64_t *page, int *state,
    uint64_t *entry), void *arg);
/* 1: *f is the next fetch, valid until the next call.  All of it is right; or damage is counted,
 * and its pages are to be judged by the caller.  0: that was all; or < 0, SNAP_EDATA for a bad
 * page. */
int scan_next(struct image_scan *s, struct image_fetch **f);
void scan_free(struct image_scan *s);

#endif
