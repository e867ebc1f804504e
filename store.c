/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * store.c -- what comes of a stream goes into an image.
 *
 * It has what the command line says of a new image, and the order in which items become pages,
 * sections and the tail.  Who reads the stream, and why, is its callers' matter.
 */
#include "store.h"

#include <string.h>

#include "snap.h"

int
store_init(struct store *s, const struct options *o, const char *path)
{
	struct image_options *opt = &s->how;
	int err = 0;

	s->opt = o;
	s->path = path;
	if (o->base != NULL && ((s->base = image_open(o->base, 0, &err)) == NULL ||
	    (err = image_open_ancestors(s->base)) != 0))
		return err;
	opt->base = s->base;
	opt->unit_pages = o->unit_pages;
	opt->cluster_size = o->cluster_size;
	opt->threads = options_threads(o, o->codec == NULL);
	opt->io_flags = o->io_flags;
	opt->unsafe = o->unsafe;
	opt->reproducible = o->reproducible;
	opt->max_size = o->max_size;
	opt->codec = o->codec;
	opt->level = o->level;
	return 0;
}

int
store_create(struct store *s)
{
	return (s->image = image_create(s->path, &s->how)) != NULL ? 0 : SNAP_ESYS;
}

static int
put_page(struct image_writer *w, const struct stream_item *it)
{
	uint8_t *room = image_room(w);

	if (room == NULL)
		return SNAP_ESYS;
	memcpy(room, it->data, it->len);
	image_put(w, it->page);
	return 0;
}

static int
seal(struct store *s, const struct stream_in *in)
{
	const struct stream_facts *f = stream_facts(in);
	const char *label = s->opt->label != NULL ? s->opt->label : "";
	struct image_bytes b[] = {
		{ SEC_PREAMBLE, f->preamble.buf, f->preamble.len },
		{ SEC_PROLOGUE, f->prologue.buf, f->prologue.len },
		{ SEC_ITERABLES, f->iterables.buf, f->iterables.len },
		{ SEC_LABEL, (const uint8_t *)label, strlen(label) },
		{ SEC_DISKS, s->opt->disks, s->opt->disks_len }
	};

	return image_seal(s->image, b, sizeof b / sizeof b[0],
	    (f->ended ? (uint32_t)IMAGE_ENDED : 0) |
	    (f->ignores_shared ? (uint32_t)IMAGE_IGNORE_SHARED : 0));
}

static int
put_tail(struct store *s, const struct stream_in *in, const struct stream_item *it)
{
	int err = s->in_tail ? 0 : seal(s, in);

	s->in_tail = 1;
	if (err != 0 || (err = image_tail(s->image, it->data, it->len)) != 0)
		return err;
	return it->more > 0 ? image_hold(s->image, it->more) : 0;
}

int
store_item(struct store *s, const struct stream_in *in, const struct stream_item *it)
{
	switch (it->kind) {
	case ITEM_BLOCKS:
		return image_begin(s->image, &stream_facts(in)->ram);
	case ITEM_PAGE:
		return put_page(s->image, it);
	case ITEM_ZERO:
		return image_zero(s->image, it->page);
	case ITEM_TAIL:
		return put_tail(s, in, it);
	case ITEM_REFUSED:
		return stream_facts(in)->refused;
	}
	return SNAP_EBUG;
}

int
store_commit(struct store *s, uint64_t split)
{
	int err = image_commit(s->image, split);

	if (err == 0 && s->opt->unsafe)
		snap_warnx("%s: written without syncs: a crash of the host may damage it", s->path);
	return err;
}

void
store_free(struct store *s)
{
	image_free(s->image);
	image_close(s->base);
}

void
store_count(const struct store *s, struct status *st, const struct stream_in *in,
    const struct stream_item *it)
{
	const struct ram_map *ram = &stream_facts(in)->ram;

	switch (it->kind) {
	case ITEM_BLOCKS:
		status_pages(st, "memory", ram->npages, ram->page_size);
		break;
	case ITEM_PAGE:
	case ITEM_ZERO:
		status_add(st, ram->page_size);
		break;
	case ITEM_TAIL:
		if (!s->in_tail)
			status_phase(st, "devices", 0);
		status_add(st, it->len);
		break;
	case ITEM_REFUSED:
		break;
	}
}
