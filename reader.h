/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * reader.h -- an image being read, shared by reader.c (opened, sections), lookup.c (tables),
 * fetch.c and scan.c (pages), verify.c (all of it) and chain.c (ancestors), and by nobody else.
 */
#ifndef READER_H
#define READER_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "layout.h"
#include "table.h"

enum {
	BAD_OFFSETS = 8,
	UNIT_CACHE = 64,	/* unit leaves kept: 4 MiB */
	LITTLE_UNITS = 8,	/* of an image that is to keep little */
	LITTLE_LEAVES = 1 << 20	/* bytes of page leaves of such an image */
};

/* A node in memory: where each of its leaves lies, and those that were read. */
struct node {
	uint64_t at[NODE_LEAVES / 64];	/* offset of each 64th leaf */
	uint16_t len[NODE_LEAVES];
	struct page_leaf *leaf[NODE_LEAVES];
};

struct unit_leaf {
	uint64_t index;
	uint8_t *buf;		/* NULL: nothing cached here */
};

struct image {
	char *path;
	int fd, data_fd;	/* the same file; data_fd may be for direct I/O */
	int io_flags;
	struct image_header head;
	struct image_footer foot;
	struct ram_map ram;
	struct unit_shape shape;
	uint64_t nleaves;
	uint32_t nnodes;
	uint64_t *node_at;	/* offset of each node, or where it would be: see node_len */
	uint16_t *node_len;
	struct node **node;
	uint64_t held;		/* bytes in the file of the page leaves in memory */
	struct unit_leaf unit[UNIT_CACHE];
	unsigned nunit;		/* of these in use */
	int little;		/* few leaves; see image_keep_few_leaves() */
	struct ancestor *anc;	/* what the image says of them */
	struct image **anc_image;	/* those opened */
	unsigned nanc;
	unsigned told;		/* faults of which the place was printed */
	uint64_t bad_off[BAD_OFFSETS];	/* the last of these places, in turn */
	unsigned nbad_off;
	void (*on_read)(void *arg, size_t len);	/* or NULL */
	void *on_read_arg;
	uint64_t faults;	/* all of them */
};

/* Where a stored page lies. */
struct place {
	uint64_t page;
	uint32_t crc;		/* of the page */
	struct unit_record unit;
	unsigned k;		/* which of the unit's pages */
};

/* Report that what is at off of the file is bad: SNAP_EDATA. */
int image_bad(struct image *im, uint64_t off, const char *what);
/* The same for a page, and where in the file its bytes are. */
void image_bad_bytes(struct image *im, uint64_t page, uint64_t off, const char *what);
int image_no_memory(const struct image *im);
int image_read_at(const struct image *im, void *buf, size_t len, uint64_t off);
/* The root of the page table, and what reading tables takes. */
int image_open_root(struct image *im);
void image_drop_tables(struct image *im);
/* Leaf number index, read if it was not yet: 0.  Or *leaf is NULL, and all its pages are what is
 * returned, PAGE_ABSENT or PAGE_ZERO; or < 0. */
int image_need_leaf(struct image *im, uint64_t index, struct page_leaf **leaf);
/* Unit leaf number index, through the cache. */
int image_need_units(struct image *im, uint64_t index, const uint8_t **leaf);
/* Bytes of a part, from what its node says. */
uint64_t image_part_len(uint16_t granules);
/* Where leaf i of n lies. */
uint64_t image_leaf_at(const struct node *n, uint32_t i);
uint64_t image_units(const struct image *im);
/* Where the page in slot lies; checked against the page's own entry. */
int image_locate(struct image *im, uint64_t slot, struct place *at);
/* The same for a page that image_lookup() tells this of, stored or in an ancestor, and the image
 * in which it lies.  (fetch.c) */
int fetch_locate(struct image *im, uint64_t page, int state, uint64_t entry, struct image **from,
    struct place *at);
/* NULL, or what is wrong with the record of a unit. */
const char *image_unit_fault(const struct image *im, const struct unit_record *r);
/* May pages be coded in it? */
int image_is_coded(const struct image *im);

#endif
