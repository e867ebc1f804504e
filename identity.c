/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * identity.c -- by what an image is known: the tag in all of its tables, and its UUID; random, or
 * from the content.
 */
#include "writer.h"

#include <stdio.h>
#include <time.h>

#include "bytes.h"

/*
 * A name for content, 128 bits: not a proof against forgery, as nothing in an
 * image is, but two different guests will not meet in it by chance.
 */
struct digest {
	uint64_t a, b;
};

static void
digest_add(struct digest *d, uint64_t v)
{
	d->a = (d->a ^ v) * UINT64_C(0x9e3779b97f4a7c15);
	d->a ^= d->a >> 29;
	d->b = (d->b + v) * UINT64_C(0xc2b2ae3d27d4eb4f) ^ d->a;
	d->b ^= d->b >> 31;
}

/* Of RAM: which page lies in which slot with which CRC, what is zero, what is in ancestors. */
static void
digest_ram(const struct image_writer *w, struct digest *d)
{
	uint64_t leaves = (w->ram->npages + LEAF_PAGES - 1) / LEAF_PAGES, i, page;
	const struct page_leaf *l;
	uint32_t crc;
	size_t k;

	digest_add(d, w->ram->npages);
	for (i = 0; i < w->nslots; i++) {
		writer_get_slot(w, i, &page, &crc);
		digest_add(d, page);
		digest_add(d, crc);
	}
	for (i = 0; i < leaves; i++) {
		if (w->node[i / NODE_LEAVES] == NULL ||
		    (l = w->node[i / NODE_LEAVES][i % NODE_LEAVES]) == NULL)
			continue;
		digest_add(d, i);
		for (k = 0; k < LEAF_STATES; k += 8)
			digest_add(d, get_le64(l->state + k));
		for (k = 0; k < l->nent && w->nanc > 0; k++)
			digest_add(d, get_le40(l->ent + k * ENTRY_SIZE));
	}
}

static void
random_bytes(uint8_t *p, size_t n)
{
	FILE *f = fopen("/dev/urandom", "rb");
	struct digest d = { 1, 2 };
	struct timespec ts;
	size_t got = 0;

	if (f != NULL) {
		got = fread(p, 1, n, f);
		fclose(f);
	}
	/* Without a source of randomness: the time, and where the kernel put us. */
	clock_gettime(CLOCK_REALTIME, &ts);
	digest_add(&d, (uint64_t)ts.tv_sec);
	digest_add(&d, (uint64_t)ts.tv_nsec);
	digest_add(&d, (uint64_t)(uintptr_t)&d);
	for (; got < n; got++) {
		digest_add(&d, got);
		p[got] = (uint8_t)(d.b >> 24);
	}
}

void
writer_make_tag(struct image_writer *w)
{
	uint8_t r[8] = { 0 };
	struct digest d = { 3, 4 };

	if (w->opt.reproducible) {
		digest_ram(w, &d);
		w->foot.tag = d.a ^ d.b;
	} else {
		random_bytes(r, sizeof r);
		w->foot.tag = get_le64(r);
	}
}

/* UUID of version 4 (random) or 8 (from the content). */
void
writer_make_uuid(struct image_writer *w)
{
	struct digest d = { 5, 6 };
	uint32_t i;

	if (w->opt.reproducible) {
		digest_add(&d, w->foot.tag);
		digest_add(&d, w->head.crc);
		digest_add(&d, w->foot.flags);
		for (i = 0; i < w->foot.nsec; i++) {
			digest_add(&d, w->foot.sec[i].len);
			digest_add(&d, w->foot.sec[i].crc);
			digest_add(&d, w->foot.sec[i].extra);
		}
		put_le64(w->foot.uuid, d.a);
		put_le64(w->foot.uuid + 8, d.b);
	} else {
		random_bytes(w->foot.uuid, sizeof w->foot.uuid);
	}
	w->foot.uuid[6] = (uint8_t)((w->foot.uuid[6] & 15) |
	    (w->opt.reproducible ? 0x80 : 0x40));
	w->foot.uuid[8] = (uint8_t)((w->foot.uuid[8] & 0x3f) | 0x80);
}
