/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * index.c -- what follows the data of a new image: tables and sections; and its identity.
 */
#include "writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bytes.h"
#include "crc32c.h"

int
writer_flush(struct image_writer *w)
{
	uint64_t end = w->append_off + w->append_len;
	int err;

	if (w->failed != 0 || writer_check_size(w, end) != 0)
		return w->failed;
	err = io_pwrite(w->fd, w->append_buf, w->append_len, w->append_off);
	if (err != 0)
		return writer_fail_write(w, err, w->append_off);
	w->append_off = end;
	w->append_len = 0;
	if (end > w->written_end)
		w->written_end = end;
	return 0;
}

int
writer_append(struct image_writer *w, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	size_t n;

	w->append_crc = crc32c(w->append_crc, p, len);
	while (len > 0 && w->failed == 0) {
		n = APPEND_SIZE - w->append_len;
		if (n > len)
			n = len;
		memcpy(w->append_buf + w->append_len, p, n);
		w->append_len += n;
		p += n;
		len -= n;
		if (w->append_len == APPEND_SIZE)
			writer_flush(w);
	}
	return w->failed;
}

struct section *
writer_begin_section(struct image_writer *w, uint32_t type)
{
	struct section *s = &w->foot.sec[w->foot.nsec++];

	s->type = type;
	s->off = w->append_off + w->append_len;
	w->append_crc = 0;
	return s;
}

void
writer_end_section(struct image_writer *w, struct section *s)
{
	s->len = w->append_off + w->append_len - s->off;
	if (s->type >= SEC_WHOLE)
		s->crc = w->append_crc;
}

int
writer_append_section(struct image_writer *w, uint32_t type, const void *buf, size_t len)
{
	struct section *s = writer_begin_section(w, type);

	writer_append(w, buf, len);
	writer_end_section(w, s);
	return w->failed;
}

/* The records of raw units follow from the slots: they lie back to back. */
static void
make_record(struct image_writer *w, const struct crc32c_join *join, uint64_t slot,
    struct unit_record *r)
{
	uint64_t page;
	uint32_t n = share_of(w->nslots, w->shape.pages, slot / w->shape.pages), i, crc;

	r->off = writer_slot_off(w, slot);
	r->codec = CODEC_RAW;
	r->count = (uint8_t)(n - 1);
	r->len = n * w->head.page_size;
	for (i = 0; i < n; i++) {
		writer_get_slot(w, slot + i, &page, &crc);
		r->crc = i == 0 ? crc : crc32c_join(join, r->crc, crc);
	}
	for (; i < w->shape.pages; i++)
		writer_put_slot(w, slot + i, 0, 0);
}

void
writer_units(struct image_writer *w)
{
	const struct unit_shape *us = &w->shape;
	struct section *sec = writer_begin_section(w, SEC_UNITS);
	uint64_t units = (w->nslots + us->pages - 1) / us->pages, first;
	struct crc32c_join join;
	struct unit_record r;
	struct part part;
	uint8_t *leaf;
	uint32_t u;

	crc32c_join_init(&join, w->head.page_size);
	part.kind = PART_UNITS;
	part.tag = w->foot.tag;
	for (part.index = 0; part.index * us->per_leaf < units; part.index++) {
		leaf = w->unit_leaf[part.index];
		first = part.index * us->per_leaf;
		part.count = share_of(units, us->per_leaf, part.index);
		part.len = PART_HEADER + part.count * us->size;
		for (u = 0; u < part.count && w->opt.codec == NULL; u++) {
			make_record(w, &join, (first + u) * us->pages, &r);
			unit_put(us, leaf, u, &r);
		}
		part_seal(leaf, &part);
		writer_append(w, leaf, part.len);
	}
	writer_end_section(w, sec);
}

/* Write a node or the root: where its first child lies, and their lengths. */
static size_t
write_node(struct image_writer *w, uint32_t kind, uint64_t index, uint64_t first,
    const uint16_t *len, uint32_t n)
{
	size_t size = (PART_HEADER + 8 + 2 * (size_t)n + GRANULE - 1) / GRANULE * GRANULE;
	uint8_t buf[PART_HEADER + 8 + 2 * NODE_LEAVES + GRANULE];
	struct part part;
	uint32_t i;

	memset(buf, 0, size);
	put_le64(buf + PART_HEADER, first);
	for (i = 0; i < n; i++)
		put_le16(buf + PART_HEADER + 8 + 2 * (size_t)i, len[i]);
	part.kind = kind;
	part.tag = w->foot.tag;
	part.index = index;
	part.len = (uint32_t)size;
	part.count = n;
	part_seal(buf, &part);
	writer_append(w, buf, size);
	return size;
}

/* Write one leaf, if it needs to be; what its node says of it. */
static uint16_t
write_leaf(struct image_writer *w, const struct page_leaf *l, uint64_t index)
{
	uint32_t n = share_of(w->ram->npages, LEAF_PAGES, index);
	uint64_t count[4] = { 0, 0, 0, 0 };
	uint8_t buf[PART_MAX];
	size_t len;

	if (l == NULL)
		return ALL_ABSENT;
	leaf_count(l, 0, n, count);
	w->foot.zero += count[PAGE_ZERO];
	w->foot.stored += count[PAGE_STORED];
	w->foot.ancestor += count[PAGE_ANCESTOR];
	if (count[PAGE_ABSENT] == n)
		return ALL_ABSENT;
	if (count[PAGE_ZERO] == n)
		return ALL_ZERO;
	len = leaf_size(l);
	leaf_encode(l, buf, w->foot.tag, index);
	writer_append(w, buf, len);
	return (uint16_t)(len / GRANULE);
}

struct node_lengths {
	uint64_t first;
	uint16_t len[NODE_LEAVES];
};

static int
same_lengths(const uint16_t *len, uint32_t n, uint16_t v)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		if (len[i] != v)
			return 0;
	return 1;
}

void
writer_pages(struct image_writer *w)
{
	uint64_t leaves = (w->ram->npages + LEAF_PAGES - 1) / LEAF_PAGES;
	uint32_t nodes = (uint32_t)((leaves + NODE_LEAVES - 1) / NODE_LEAVES), n, k, i;
	struct node_lengths **nl = calloc((size_t)nodes + 1, sizeof *nl);
	uint16_t *root = calloc((size_t)nodes + 1, sizeof *root);
	struct section *sec;
	uint64_t first;

	sec = writer_begin_section(w, SEC_PAGES);
	for (k = 0; k < nodes && nl != NULL && root != NULL && w->failed == 0; k++) {
		if (w->node[k] == NULL)
			continue;
		if ((nl[k] = calloc(1, sizeof **nl)) == NULL)
			break;
		nl[k]->first = w->append_off + w->append_len;
		n = share_of(leaves, NODE_LEAVES, k);
		for (i = 0; i < n; i++)
			nl[k]->len[i] = write_leaf(w, w->node[k][i],
			    (uint64_t)k * NODE_LEAVES + i);
	}
	if (nl == NULL || root == NULL || (k < nodes && w->failed == 0)) {
		writer_fail_sys(w, ENOMEM, "page table");
		goto out;
	}
	writer_end_section(w, sec);

	sec = writer_begin_section(w, SEC_NODES);
	first = sec->off;
	for (k = 0; k < nodes; k++) {
		n = share_of(leaves, NODE_LEAVES, k);
		if (nl[k] == NULL || same_lengths(nl[k]->len, n, ALL_ABSENT))
			root[k] = ALL_ABSENT;
		else if (same_lengths(nl[k]->len, n, ALL_ZERO))
			root[k] = ALL_ZERO;
		else
			root[k] = (uint16_t)(write_node(w, PART_NODE, k, nl[k]->first,
			    nl[k]->len, n) / GRANULE);
	}
	writer_end_section(w, sec);

	sec = writer_begin_section(w, SEC_ROOT);
	write_node(w, PART_ROOT, 0, first, root, nodes);
	writer_end_section(w, sec);
out:
	for (k = 0; nl != NULL && k < nodes; k++)
		free(nl[k]);
	free(nl);
	free(root);
}

/* ---- identity ---- */

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
	uint8_t r[8];
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
