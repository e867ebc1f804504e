/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * store.c -- what comes of a stream goes into an image.
 */
#include "store.h"

#include <string.h>

#include "snap.h"

void
store_options(const struct options *o, struct image_options *opt)
{
	memset(opt, 0, sizeof *opt);
	opt->unit_pages = o->unit_pages;
	opt->cluster_size = o->cluster_size;
	opt->threads = options_threads(o, o->codec == NULL);
	opt->io_flags = o->io_flags;
	opt->unsafe = o->unsafe;
	opt->reproducible = o->reproducible;
	opt->max_size = o->max_size;
	opt->codec = o->codec;
	opt->level = o->level;
}

int
store_open_base(const struct options *o, struct image **base)
{
	int err;

	if (o->base == NULL)
		return 0;
	if ((*base = image_open(o->base, 0, &err)) == NULL)
		return err;
	return image_open_ancestors(*base);
}

struct image_writer *
store_create(const struct options *o, const char *path, struct image **base, int *err)
{
	struct image_options opt;
	struct image_writer *w;

	if ((*err = store_open_base(o, base)) != 0)
		return NULL;
	store_options(o, &opt);
	opt.base = *base;
	if ((w = image_create(path, &opt)) == NULL)
		*err = SNAP_ESYS;
	return w;
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
seal(struct image_writer *w, const struct options *o, const struct stream_in *in)
{
	const struct kept *k[3];
	struct image_bytes b[5] = {
		{ SEC_PREAMBLE, NULL, 0 },
		{ SEC_PROLOGUE, NULL, 0 },
		{ SEC_ITERABLES, NULL, 0 },
		{ SEC_LABEL, NULL, 0 },
		{ SEC_DISKS, o->disks, o->disks_len }
	};
	uint32_t flags = 0;
	int i;

	k[0] = &stream_facts(in)->preamble;
	k[1] = &stream_facts(in)->prologue;
	k[2] = &stream_facts(in)->iterables;
	for (i = 0; i < 3; i++) {
		b[i].buf = k[i]->buf;
		b[i].len = k[i]->len;
	}
	if (o->label != NULL) {
		b[3].buf = (const uint8_t *)o->label;
		b[3].len = strlen(o->label);
	}
	if (stream_facts(in)->ended)
		flags |= IMAGE_ENDED;
	if (stream_facts(in)->ignores_shared)
		flags |= IMAGE_IGNORE_SHARED;
	return image_seal(w, b, 5, flags);
}

static int
put_tail(struct image_writer *w, const struct options *o, const struct stream_in *in,
    const struct stream_item *it, int *sealed)
{
	int err = *sealed ? 0 : seal(w, o, in);

	*sealed = 1;
	if (err != 0 || (err = image_tail(w, it->data, it->len)) != 0)
		return err;
	return it->more > 0 ? image_hold(w, it->more) : 0;
}

int
store_item(struct image_writer *w, const struct options *o, const struct stream_in *in,
    const struct stream_item *it, int *sealed)
{
	switch (it->kind) {
	case ITEM_BLOCKS:
		return image_begin(w, &stream_facts(in)->ram);
	case ITEM_PAGE:
		return put_page(w, it);
	case ITEM_ZERO:
		return image_zero(w, it->page);
	case ITEM_TAIL:
		return put_tail(w, o, in, it, sealed);
	case ITEM_REFUSED:
		return stream_facts(in)->refused;
	}
	return SNAP_EBUG;
}

int
store_commit(struct image_writer *w, const struct options *o, const char *path, uint64_t split)
{
	int err = image_commit(w, split);

	if (err == 0 && o->unsafe)
		snap_warnx("%s: written without syncs: a crash of the host may damage it", path);
	return err;
}

void
store_count(struct status *st, const struct stream_in *in, const struct stream_item *it,
    int *in_tail)
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
		if (!*in_tail)
			status_phase(st, "devices", 0);
		*in_tail = 1;
		status_add(st, it->len);
		break;
	case ITEM_REFUSED:
		break;
	}
}
