/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * index.c -- what follows the data of a new image: tables and sections.
 */
#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
