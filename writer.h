/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * writer.h -- an image being written, shared by image.c (from the temporary file to the name),
 * pipeline.c (pages on their way, slots), units.c (coded units), index.c (what follows the
 * data) and identity.c, and by nobody else.
 */
#ifndef WRITER_H
#define WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "codec.h"
#include "image.h"

enum {
	BATCHES = 24,		/* enough for disk and CRC to overlap */
	BATCHES_SIZE = 24 << 20,	/* bytes of their buffers; fewer batches if need be */
	ITEMS_MAX = 16384,	/* a batch; no fewer than the pages of a cluster */
	APPEND_SIZE = 256 << 10
};

#define NO_ENTRY	UINT64_MAX

/* What becomes of the requests of a batch when they are back. */
enum batch_kind {
	BATCH_FILL,		/* new pages: CRCs are there */
	BATCH_PREPARED,		/* new pages: compared with the base, encoded */
	BATCH_MOVE,		/* pages that go to another slot: read */
	BATCH_COLLECT		/* coded units that close ranks: read, without dead pages */
};

/* Some pages on their way; see pipeline.c. */
struct batch {
	struct aio_req req;
	enum batch_kind kind;
	uint32_t page_size;
	uint8_t *buf;
	unsigned npage, nitem;
	uint64_t *item;		/* fill: see item_of(); move: slot to; collect:
				 * page number of each slot */
	uint32_t *crc;		/* fill: computed; move, collect: expected */
	struct aio_run *run;
	int bad;		/* move, collect: a page was not what was written */

	uint64_t *entry;	/* fill: of a page that is equal to the base's, else NO_ENTRY */
	unsigned nkept;		/* fill: the others; once prepared, buf has only these */

	/* With a base. */
	struct image_fetch old;	/* pages of the base */
	unsigned *old_of;	/* the new page that each may be equal to */

	/* With a codec. */
	const struct codec *codec;
	uint32_t unit_pages;
	void *encoder, *decoder;
	uint8_t *coded, *scratch;	/* units back to back */
	size_t coded_len;
	struct unit_record *unit;	/* offsets unset */
	unsigned nunit;
};

struct freed {			/* slots freed while one batch was placed */
	unsigned n;
	uint64_t *slot;
};

struct image_writer {
	char *path, *tmp;
	char *older;		/* second name of the image that was there before, or NULL */
	int older_fd;		/* keeps it locked */
	uint64_t older_size;
	int dir_fd;		/* of the directory, to sync it */
	struct image_options opt;
	const struct ram_map *ram;
	struct ancestor *anc;
	unsigned nanc;
	int fd, data_fd;	/* the same file; data_fd may be for direct I/O */
	int named;		/* the image is there under its name */
	int failed;		/* the error that was returned first */
	struct image_header head;
	struct image_footer foot;

	struct aio *ring;
	struct batch batch[BATCHES], *open, *idle[BATCHES];
	unsigned nbatch, nidle, per_batch;	/* pages in one, at most */
	uint64_t sent, placed;	/* batches so far */
	struct freed freed[BATCHES];

	struct unit_shape shape;
	uint64_t nslots;	/* given out so far, free and dead ones included */
	uint8_t **unit_leaf;
	size_t nunit_leaf, unit_leaf_cap;
	uint8_t *free_map;	/* a bit a slot: may be given out */
	size_t free_map_size;
	uint64_t nfree, free_low;	/* bits set; no bit is set below free_low */
	struct page_leaf ***node;	/* ROOT_NODES, then NODE_LEAVES pointers */

	uint64_t data_end;	/* coded: where the next unit goes */
	uint64_t ndead;		/* coded: slots whose page was superseded */
	uint64_t to_unit;	/* coded, while units close ranks: the next one's number */

	uint8_t *append_buf;	/* bytes from append_off on, not yet written */
	size_t append_len;
	uint64_t append_off;
	uint64_t written_end;	/* the file is this long now, at least */
	uint32_t append_crc;	/* of the section being appended */
	unsigned holds;		/* calls of image_hold() that took room */
};

/* ---- image.c ---- */

/* Each returns what failed first. */
int writer_fail(struct image_writer *w, int code);
int writer_fail_sys(struct image_writer *w, int err, const char *what);
int writer_fail_write(struct image_writer *w, int err, uint64_t off);
/* The file is about to reach end: does --image-size allow it? */
int writer_check_size(struct image_writer *w, uint64_t end);

/* ---- pipeline.c ---- */

/* What pages need on their way; header and options are known. */
int pipeline_init(struct image_writer *w);
/* No page comes any more: have all of them where they stay. */
int pipeline_finish(struct image_writer *w);
/* Free what only pages need, as soon as none comes any more: ending threads takes time, and at
 * the end of a save there is none. */
void pipeline_free(struct image_writer *w);
void writer_get_slot(const struct image_writer *w, uint64_t slot, uint64_t *page,
    uint32_t *crc);
void writer_put_slot(struct image_writer *w, uint64_t slot, uint64_t page, uint32_t crc);
/* The leaf that describes page, made if there is none; NULL: out of memory. */
struct page_leaf *writer_leaf_for(struct image_writer *w, uint64_t page);
uint64_t writer_slot_off(const struct image_writer *w, uint64_t slot);
/* An empty batch. */
struct batch *writer_take_batch(struct image_writer *w);
void writer_submit(struct image_writer *w, struct batch *b, enum aio_op op,
    void (*work)(struct aio_req *));
void writer_give_back(struct image_writer *w, struct batch *b);
/* Wait until nothing is in the ring. */
int writer_finish_ring(struct image_writer *w);

/* ---- units.c ---- */

/* What batch b needs for that; 0, or -1: out of memory. */
int units_init(struct image_writer *w, struct batch *b);
void units_free(struct batch *b);
/* In a worker: encode the pages left in b->buf. */
void units_encode(struct batch *b);
/* Enter the units of b, of which the first has this slot, and write them. */
int units_place(struct image_writer *w, struct batch *b, uint64_t slot);
/* Drop all superseded pages, and close ranks. */
int units_collect(struct image_writer *w);
/* A batch of that came back. */
int units_collected(struct image_writer *w, struct batch *b);

/* ---- index.c ---- */

int writer_append(struct image_writer *w, const void *buf, size_t len);
int writer_flush(struct image_writer *w);
struct section *writer_begin_section(struct image_writer *w, uint32_t type);
void writer_end_section(struct image_writer *w, struct section *s);
int writer_append_section(struct image_writer *w, uint32_t type, const void *buf,
    size_t len);
void writer_units(struct image_writer *w);
void writer_pages(struct image_writer *w);

/* ---- identity.c ---- */

/* The tag, once all slots are known; the UUID, once all else is. */
void writer_make_tag(struct image_writer *w);
void writer_make_uuid(struct image_writer *w);

#endif
