/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * import.c -- a stream in a file becomes an image; also one with its pages in places of their
 * own, as QEMU writes it with the capability mapped-ram.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "aio.h"
#include "image.h"
#include "options.h"
#include "preamble.h"
#include "signals.h"
#include "snap.h"
#include "store.h"
#include "stream.h"

enum {
	PIECE = 256 << 10,	/* bytes of pages read at a time; at least the largest page */
	BITMAP = 65536		/* bytes of a bitmap */
};

struct import {
	const struct options *opt;
	int fd;
	char *name;		/* of the file, for messages */
	struct store to;
	struct stream_in *in;
	struct status st;
	int any;		/* has any page a bit? */
	uint8_t piece[PIECE], bitmap[BITMAP];
};

static int
read_at(const struct import *m, void *buf, size_t len, uint64_t off)
{
	int err = io_pread(m->fd, buf, len, off);

	if (err == 0)
		return 0;
	return snap_warn(err, "%s: read at offset %llu", m->opt->file[0], (ull)off);
}

/* Pages that follow one another in the guest and, from off on, in the file. */
static int
put_pages(struct import *m, uint64_t page, uint64_t n, uint64_t off)
{
	uint32_t size = stream_facts(m->in)->ram.page_size;
	uint64_t most = PIECE / size, now, i;
	uint8_t *room;
	int err;

	for (; n > 0; n -= now, off += now * size) {
		now = n < most ? n : most;
		if ((err = read_at(m, m->piece, (size_t)(now * size), off)) != 0)
			return err;
		for (i = 0; i < now; i++) {
			if ((room = image_room(m->to.image)) == NULL)
				return SNAP_ESYS;
			memcpy(room, m->piece + i * size, size);
			image_put(m->to.image, page++);
		}
		status_add(&m->st, now * size);
		if ((err = check_signals(m->opt->file[1])) != 0)
			return err;
	}
	return 0;
}

/* n pages from page on, whose bits are in m->bitmap and whose bytes are at off. */
static int
put_mapped(struct import *m, uint64_t page, uint64_t n, uint64_t off)
{
	uint32_t size = stream_facts(m->in)->ram.page_size;
	uint64_t i, from;
	int err = 0;

	for (i = 0; i < n && err == 0;) {
		for (from = i; i < n && (m->bitmap[i / 8] >> i % 8 & 1); i++)
			;
		m->any |= i > from;
		if (i > from)
			err = put_pages(m, page + from, i - from, off + from * size);
		else {
			err = image_zero(m->to.image, page + i++);
			status_add(&m->st, size);
		}
	}
	return err;
}

/* The bits of up to npages pages from number done of a block on; *n tells of how many. */
static int
read_bits(struct import *m, const struct mapped_block *at, uint64_t npages, uint64_t done,
    uint64_t *n)
{
	*n = npages - done < BITMAP * 8 ? npages - done : BITMAP * 8;
	return read_at(m, m->bitmap, (size_t)((*n + 7) / 8), at->bitmap + done / 8);
}

/* Has any page of a block a bit?  1, 0 or < 0. */
static int
any_bit(struct import *m, const struct mapped_block *at, uint64_t npages)
{
	uint64_t done, n, i;
	int err;

	for (done = 0; done < npages; done += n) {
		if ((err = read_bits(m, at, npages, done, &n)) != 0 ||
		    (err = check_signals(m->opt->file[1])) != 0)
			return err;
		for (i = 0; i < n; i++)
			if (m->bitmap[i / 8] >> i % 8 & 1)
				return 1;
	}
	return 0;
}

/* Pages without a bit are zero.  But with x-ignore-shared a block without any may be one that was
 * left out, which QEMU must not be given; so it is not given to it. */
static int
put_block(struct import *m, const struct ram_block *b, const struct mapped_block *at)
{
	uint32_t size = stream_facts(m->in)->ram.page_size;
	uint64_t npages = b->len / size, done, n;
	int err = 0, any;

	if (stream_facts(m->in)->ignores_shared && (any = any_bit(m, at, npages)) <= 0)
		return any;
	for (done = 0; done < npages && err == 0; done += n) {
		err = read_bits(m, at, npages, done, &n);
		if (err == 0)
			err = put_mapped(m, b->first + done, n, at->pages + done * size);
		if (err == 0)
			err = check_signals(m->opt->file[1]);
	}
	return err;
}

/* The pages of all blocks, if they do not come with the stream. */
static int
put_blocks(struct import *m)
{
	const struct ram_map *ram = &stream_facts(m->in)->ram;
	const struct mapped_block *at = stream_facts(m->in)->mapped;
	size_t i;
	int err = 0;

	for (i = 0; at != NULL && i < ram->nblk && err == 0; i++)
		err = put_block(m, &ram->blk[i], &at[i]);
	return err;
}

/* The kind that --from tells must be the one that is there. */
static int
check_kind(const struct import *m)
{
	int mapped = stream_facts(m->in)->mapped != NULL;

	if (m->opt->form == FORM_ANY || mapped == (m->opt->form == FORM_MAPPED))
		return 0;
	snap_warnx("%s: is %s", m->opt->file[0], mapped ? "a file with mapped-ram" :
	    "a stream without mapped-ram");
	return SNAP_EDATA;
}

static int
store(struct import *m)
{
	struct stream_item it;
	int r, err;

	while ((r = stream_next(m->in, &it)) == 1) {
		store_count(&m->to, &m->st, m->in, &it);
		if ((err = check_signals(m->opt->file[1])) != 0 ||
		    (it.kind == ITEM_BLOCKS && (err = check_kind(m)) != 0) ||
		    (err = store_item(&m->to, m->in, &it)) != 0 ||
		    (it.kind == ITEM_BLOCKS && (err = put_blocks(m)) != 0))
			return err;
	}
	if (r != 0)
		return r;
	if (stream_facts(m->in)->mapped != NULL && !m->any && !stream_facts(m->in)->ended) {
		snap_warnx("%s: has no pages: of a background snapshot QEMU writes none with "
		    "mapped-ram", m->opt->file[0]);
		return SNAP_EDATA;
	}
	status_phase(&m->st, "commit", 0);
	return store_commit(&m->to, stream_facts(m->in)->split);
}

/* Name what is no stream at all. */
static int
check_head(struct import *m)
{
	const char *kind;
	uint64_t len;
	size_t n;
	int err;

	if ((err = io_size(m->fd, &len)) != 0)
		return snap_warn(err, "%s", m->opt->file[0]);
	n = len < FOREIGN_HEAD ? (size_t)len : FOREIGN_HEAD;
	if ((err = read_at(m, m->piece, n, 0)) != 0)
		return err;
	if (n >= 4 && memcmp(m->piece, "QEVM", 4) == 0)
		return 0;
	kind = n >= HEADER_MAGIC && header_is_image(m->piece) ? "a qemu-snap image" :
	    foreign_kind(m->piece, n);
	snap_warnx("%s: not a migration stream%s%s", m->opt->file[0], kind != NULL ? ": " : "",
	    kind != NULL ? kind : "");
	return SNAP_EDATA;
}

static int
import(struct import *m)
{
	const struct options *o = m->opt;
	int err;

	if ((err = io_open(o->file[0], 0, 0, &m->fd)) != 0) {
		m->fd = -1;
		return err == EINVAL ? snap_warnx("%s: not a regular file", o->file[0]) :
		    snap_warn(err, "%s", o->file[0]);
	}
	if ((err = check_head(m)) != 0)
		return err;
	if ((m->name = malloc(strlen(o->file[0]) + 2)) != NULL)
		strcat(strcpy(m->name, o->file[0]), ":");
	if (m->name == NULL || (m->in = stream_open(m->fd, o->page_size)) == NULL)
		return snap_warn(ENOMEM, "%s", o->file[0]);
	stream_is_file(m->in, m->name);
	note_signals();
	if ((err = store_init(&m->to, o, o->file[1])) != 0 || (err = store_create(&m->to)) != 0)
		return err;
	return store(m);
}

int
run_import(const struct options *o)
{
	struct import *m = calloc(1, sizeof *m);
	int err;

	if (m == NULL)
		return snap_warn(ENOMEM, "%s", o->file[1]);
	m->opt = o;
	status_init(&m->st, o, o->file[1]);
	err = import(m);
	store_free(&m->to);
	stream_close(m->in);
	if (m->fd >= 0)
		io_close(m->fd);
	free(m->name);
	status_end(&m->st, err);
	free(m);
	return err;
}
