/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * layout.c -- header, footer, RAM map and list of ancestors of an image, from bytes and to bytes.
 *
 * Each pair of functions has the section of format.md in which the offsets are told.  None of
 * them reads a file, or trusts a byte.
 */
#include "layout.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "codec.h"
#include "crc32c.h"
#include "snap.h"
#include "table.h"

static const char header_magic[] = "qemu-snap image\n";
static const char footer_magic[] = "qemu-snap footer";

enum { CRC_AT = 4092 };	/* the last word of header and footer */

/* Offsets in the header, behind its magic. */
enum {
	H_INCOMPAT = 16,
	H_COMPAT = 24,
	H_PAGE_SIZE = 32,
	H_UNIT_PAGES = 36,
	H_CLUSTER_SIZE = 40,
	H_DATA_OFF = 44,
	H_RESERVED = 48
};

/* In the footer, likewise, */
enum {
	F_FILE_LEN = 16,
	F_TAG = 24,
	F_UUID = 32,
	F_TIME = 48,
	F_NPAGES = 56,
	F_STORED = 64,
	F_ZERO = 72,
	F_ANCESTOR = 80,
	F_SLOTS = 88,
	F_FLAGS = 96,
	F_HEADER_CRC = 100,
	F_NSEC = 104,
	F_RESERVED = 108,
	F_SECTIONS = 112
};

/* and in each of its sections. */
enum {
	S_TYPE = 0,
	S_CRC = 4,
	S_OFF = 8,
	S_LEN = 16,
	S_EXTRA = 24,
	SECTION_SIZE = 32
};

static int
all_zero(const uint8_t *p, const uint8_t *end)
{
	while (p < end)
		if (*p++ != 0)
			return 0;
	return 1;
}

/* ---- header: section 3 ---- */

void
header_encode(uint8_t *buf, struct image_header *h)
{
	memset(buf, 0, HEADER_SIZE);
	memcpy(buf, header_magic, HEADER_MAGIC);
	put_le64(buf + H_INCOMPAT, h->incompat);
	put_le64(buf + H_COMPAT, h->compat);
	put_le32(buf + H_PAGE_SIZE, h->page_size);
	put_le32(buf + H_UNIT_PAGES, h->unit_pages);
	put_le32(buf + H_CLUSTER_SIZE, h->cluster_size);
	put_le32(buf + H_DATA_OFF, h->data_off);
	h->crc = crc32c(0, buf, CRC_AT);
	put_le32(buf + CRC_AT, h->crc);
}

static int
power_between(uint32_t v, uint32_t min, uint32_t max)
{
	return v >= min && v <= max && (v & (v - 1)) == 0;
}

uint64_t
features_unknown(const struct image_header *h)
{
	return h->incompat & ~(uint64_t)FEATURES_KNOWN;
}

int
header_is_image(const uint8_t *buf)
{
	return memcmp(buf, header_magic, HEADER_MAGIC) == 0;
}

const char *
header_decode(const uint8_t *buf, struct image_header *h)
{
	if (!header_is_image(buf))
		return "not a qemu-snap image";
	h->crc = get_le32(buf + CRC_AT);
	if (h->crc != crc32c(0, buf, CRC_AT))
		return "header fails its checksum";
	h->incompat = get_le64(buf + H_INCOMPAT);
	h->compat = get_le64(buf + H_COMPAT);
	if (features_unknown(h) != 0)
		return NULL;	/* the rest may mean something else */
	h->page_size = get_le32(buf + H_PAGE_SIZE);
	h->unit_pages = get_le32(buf + H_UNIT_PAGES);
	h->cluster_size = get_le32(buf + H_CLUSTER_SIZE);
	h->data_off = get_le32(buf + H_DATA_OFF);
	if (!power_between(h->page_size, PAGE_SIZE_MIN, PAGE_SIZE_MAX))
		return "impossible page size in the header";
	if (!power_between(h->unit_pages, 1, UNIT_PAGES_MAX) ||
	    ((h->incompat & FEATURE_CODEC) && h->unit_pages * h->page_size > CODED_MAX))
		return "impossible unit size in the header";
	if (!power_between(h->cluster_size, CLUSTER_MIN, CLUSTER_MAX))
		return "impossible cluster size in the header";
	if (h->data_off != (h->page_size > HEADER_SIZE ? h->page_size : HEADER_SIZE))
		return "impossible start of the data in the header";
	if (!all_zero(buf + H_RESERVED, buf + CRC_AT))
		return "reserved bytes of the header are not zero";
	return NULL;
}

/* ---- footer: sections 4 and 5 ---- */

void
footer_encode(uint8_t *buf, const struct image_footer *f)
{
	uint8_t *p = buf + F_SECTIONS;
	uint32_t i;

	memset(buf, 0, FOOTER_SIZE);
	memcpy(buf, footer_magic, HEADER_MAGIC);
	put_le64(buf + F_FILE_LEN, f->file_len);
	put_le64(buf + F_TAG, f->tag);
	memcpy(buf + F_UUID, f->uuid, 16);
	put_le64(buf + F_TIME, f->time);
	put_le64(buf + F_NPAGES, f->npages);
	put_le64(buf + F_STORED, f->stored);
	put_le64(buf + F_ZERO, f->zero);
	put_le64(buf + F_ANCESTOR, f->ancestor);
	put_le64(buf + F_SLOTS, f->slots);
	put_le32(buf + F_FLAGS, f->flags);
	put_le32(buf + F_HEADER_CRC, f->header_crc);
	put_le32(buf + F_NSEC, f->nsec);
	for (i = 0; i < f->nsec; i++, p += SECTION_SIZE) {
		put_le32(p + S_TYPE, f->sec[i].type);
		put_le32(p + S_CRC, f->sec[i].crc);
		put_le64(p + S_OFF, f->sec[i].off);
		put_le64(p + S_LEN, f->sec[i].len);
		put_le64(p + S_EXTRA, f->sec[i].extra);
	}
	put_le32(buf + CRC_AT, crc32c(0, buf, CRC_AT));
}

const struct section *
footer_section(const struct image_footer *f, uint32_t type)
{
	uint32_t i;

	for (i = 0; i < f->nsec; i++)
		if (f->sec[i].type == type)
			return &f->sec[i];
	return NULL;
}

/* Sections follow one another from the data to the footer, without a gap. */
static const char *
check_sections(const struct image_footer *f, const struct image_header *h)
{
	uint64_t at = h->data_off, end = f->file_len - FOOTER_SIZE;
	static const uint32_t needed[] = {
		SEC_PREAMBLE, SEC_PROLOGUE, SEC_RAM_MAP, SEC_TAIL
	};
	const struct section *s = NULL;
	uint32_t i;

	if (end < at)
		return "file is too short for its header";
	for (i = 0; i < f->nsec; i++) {
		s = &f->sec[i];
		if (s->off != at || s->len > end - at)
			return "sections do not fill the file";
		if (footer_section(f, s->type) != s)
			return "a section is there twice";
		if (s->type < SEC_DATA || (s->type < SEC_WHOLE && s->type > SEC_ROOT))
			return "unknown kind of table";
		if ((s->type < SEC_WHOLE && s->crc != 0) ||
		    (s->extra != 0 && s->type <= SEC_LABEL && s->type != SEC_TAIL))
			return "reserved field of a section is not zero";
		at += s->len;
	}
	if (at != end)
		return "sections do not fill the file";
	if ((footer_section(f, SEC_ANCESTORS) == NULL) != !(h->incompat & FEATURE_ANCESTORS))
		return "header and sections do not agree on ancestors";
	for (i = SEC_DATA; i <= SEC_ROOT; i++)
		if (footer_section(f, i) == NULL)
			return "a table is missing";
	for (i = 0; i < sizeof needed / sizeof needed[0]; i++)
		if ((s = footer_section(f, needed[i])) == NULL || s->len == 0)
			return "a section is missing";
	if (s->extra == 0 || s->extra >= s->len)
		return "impossible length of the device state";
	return NULL;
}

const char *
footer_identify(const uint8_t *buf, uint64_t file_len,
    const struct image_header *h, struct image_footer *f)
{
	if (memcmp(buf, footer_magic, HEADER_MAGIC) != 0)
		return "no footer: an interrupted save or a cut copy";
	if (get_le32(buf + CRC_AT) != crc32c(0, buf, CRC_AT))
		return "footer fails its checksum";
	f->file_len = get_le64(buf + F_FILE_LEN);
	f->tag = get_le64(buf + F_TAG);
	memcpy(f->uuid, buf + F_UUID, 16);
	f->time = get_le64(buf + F_TIME);
	f->header_crc = get_le32(buf + F_HEADER_CRC);
	if (f->file_len != file_len)
		return "file is not as long as its footer says";
	if (f->header_crc != h->crc)
		return "header and footer are not of one image";
	return NULL;
}

const char *
footer_decode(const uint8_t *buf, uint64_t file_len,
    const struct image_header *h, struct image_footer *f)
{
	const uint8_t *p = buf + F_SECTIONS;
	const char *why;
	uint32_t i;

	if ((why = footer_identify(buf, file_len, h, f)) != NULL)
		return why;
	f->npages = get_le64(buf + F_NPAGES);
	f->stored = get_le64(buf + F_STORED);
	f->zero = get_le64(buf + F_ZERO);
	f->ancestor = get_le64(buf + F_ANCESTOR);
	f->slots = get_le64(buf + F_SLOTS);
	f->flags = get_le32(buf + F_FLAGS);
	f->nsec = get_le32(buf + F_NSEC);
	if ((f->flags & ~(uint32_t)IMAGE_FLAGS) != 0 || get_le32(buf + F_RESERVED) != 0)
		return "reserved bits of the footer are not zero";
	if (f->npages > PAGES_MAX || f->stored > f->npages ||
	    f->zero > f->npages - f->stored ||
	    f->ancestor > f->npages - f->stored - f->zero)
		return "impossible number of pages in the footer";
	if (h->incompat & FEATURE_CODEC ? f->slots < f->stored || f->slots > PAGES_MAX ||
	    f->slots % h->unit_pages != 0 : f->slots != f->stored)
		return "impossible number of slots in the footer";
	if (f->ancestor != 0 && !(h->incompat & FEATURE_ANCESTORS))
		return "pages lie in another image, and none is named";
	if (f->nsec > SECTIONS_MAX)
		return "impossible number of sections in the footer";
	for (i = 0; i < f->nsec; i++, p += SECTION_SIZE) {
		f->sec[i].type = get_le32(p + S_TYPE);
		f->sec[i].crc = get_le32(p + S_CRC);
		f->sec[i].off = get_le64(p + S_OFF);
		f->sec[i].len = get_le64(p + S_LEN);
		f->sec[i].extra = get_le64(p + S_EXTRA);
	}
	if (!all_zero(p, buf + CRC_AT))
		return "reserved bytes of the footer are not zero";
	return check_sections(f, h);
}

/* ---- UUIDs ---- */

static int
is_dash(int i)
{
	return i == 8 || i == 13 || i == 18 || i == 23;
}

void
uuid_format(char s[37], const uint8_t uuid[16])
{
	static const char hex[] = "0123456789abcdef";
	int i, n = 0;

	for (i = 0; i < 36; i++) {
		if (is_dash(i)) {
			s[i] = '-';
			continue;
		}
		s[i] = hex[n % 2 == 0 ? uuid[n / 2] >> 4 : uuid[n / 2] & 15];
		n++;
	}
	s[36] = '\0';
}

int
uuid_parse(const char *s, uint8_t uuid[16])
{
	static const char hex[] = "0123456789abcdef0123456789ABCDEF";
	const char *h;
	int i, n = 0;

	memset(uuid, 0, 16);
	for (i = 0; i < 36; i++) {
		if (is_dash(i)) {
			if (s[i] != '-')
				return -1;
			continue;
		}
		if (s[i] == '\0' || (h = strchr(hex, s[i])) == NULL)
			return -1;
		uuid[n / 2] = (uint8_t)(uuid[n / 2] << 4 | ((h - hex) & 15));
		n++;
	}
	return s[36] == '\0' ? 0 : -1;
}

/* ---- RAM map: section 6 ---- */

size_t
ram_map_encode(uint8_t *buf, const struct ram_map *ram)
{
	uint8_t *p = buf + 16;
	size_t i, n;

	put_le32(buf, (uint32_t)ram->nblk);
	put_le32(buf + 4, ram->sid);
	put_le64(buf + 8, ram->npages);
	for (i = 0; i < ram->nblk; i++) {
		n = strlen(ram->blk[i].id);
		if ((size_t)(buf + RAM_MAP_MAX - p) < n + 17)
			return 0;
		*p++ = (uint8_t)n;
		memcpy(p, ram->blk[i].id, n);
		p += n;
		put_le64(p, ram->blk[i].len);
		put_le64(p + 8, ram->has_addr ? ram->blk[i].addr : UINT64_MAX);
		p += 16;
	}
	return (size_t)(p - buf);
}

const char *
ram_map_decode(const uint8_t *buf, size_t len, uint32_t page_size, struct ram_map *ram)
{
	static const char bad[] = "RAM map is damaged";
	const uint8_t *p = buf + 16, *end = buf + len;
	size_t i, n;

	memset(ram, 0, sizeof *ram);
	if (len < 16)
		return bad;
	ram->nblk = get_le32(buf);
	ram->sid = get_le32(buf + 4);
	ram->page_size = page_size;
	if (ram->nblk == 0 || ram->nblk > len / 18)
		return bad;
	if ((ram->blk = calloc(ram->nblk + 1, sizeof *ram->blk)) == NULL)
		return NULL;
	for (i = 0; i < ram->nblk; i++) {
		struct ram_block *b = &ram->blk[i];

		if (p == end || (n = *p++) == 0 || (size_t)(end - p) < n + 16 ||
		    memchr(p, 0, n) != NULL)
			return bad;
		memcpy(b->id, p, n);
		p += n;
		b->len = get_le64(p);
		b->addr = get_le64(p + 8);
		p += 16;
		b->first = ram->npages;
		if (b->len == 0 || b->len % page_size != 0 ||
		    b->len / page_size > PAGES_MAX - ram->npages)
			return bad;
		ram->npages += b->len / page_size;
		if (i == 0)
			ram->has_addr = b->addr != UINT64_MAX;
		if (ram->has_addr != (b->addr != UINT64_MAX) ||
		    ram_map_named(ram, b->id) != b)
			return bad;
	}
	return p != end || get_le64(buf + 8) != ram->npages ? bad : NULL;
}

/* ---- ancestors: section 11 ---- */

uint8_t *
ancestors_encode(const struct ancestor *a, unsigned n, size_t *len)
{
	uint8_t *buf, *p;
	unsigned i;
	size_t k;

	for (*len = 4, i = 0; i < n; i++)
		*len += 18 + strlen(a[i].path);
	if ((buf = malloc(*len)) == NULL)
		return NULL;
	put_le32(buf, n);
	for (p = buf + 4, i = 0; i < n; i++, p += 18 + k) {
		k = strlen(a[i].path);
		memcpy(p, a[i].uuid, 16);
		put_le16(p + 16, (uint32_t)k);
		memcpy(p + 18, a[i].path, k);
	}
	return buf;
}

const char *
ancestors_decode(const uint8_t *buf, size_t len, struct ancestor **a, unsigned *n)
{
	static const char bad[] = "list of ancestors is damaged";
	const uint8_t *p = buf + 4, *end = buf + len;
	uint32_t count, i;
	int same = 0;
	size_t k;

	*a = NULL;
	*n = 0;
	if (len < 4 || (count = get_le32(buf)) == 0 || count > ANCESTORS_MAX)
		return bad;
	if ((*a = calloc(count, sizeof **a)) == NULL)
		return NULL;
	for (; *n < count; p += k) {
		if (end - p < 18 || (k = get_le16(p + 16)) == 0 || k > ANCESTOR_PATH_MAX ||
		    (size_t)(end - p) - 18 < k || memchr(p + 18, 0, k) != NULL)
			return bad;
		if (((*a)[*n].path = malloc(k + 1)) == NULL) {
			ancestors_free(*a, *n);
			*a = NULL;
			return NULL;
		}
		for (i = 0; i < *n; i++)	/* lest memory be a multiple of the files */
			if (memcmp((*a)[i].uuid, p, 16) == 0)
				same = 1;
		memcpy((*a)[*n].uuid, p, 16);
		p += 18;
		memcpy((*a)[*n].path, p, k);
		(*a)[(*n)++].path[k] = '\0';
	}
	return p != end || same ? bad : NULL;
}

void
ancestors_free(struct ancestor *a, unsigned n)
{
	while (a != NULL && n > 0)
		free(a[--n].path);
	free(a);
}

int
no_direct_io(const char *path, int coded, uint32_t page_size)
{
	if (coded)
		snap_warnx("%s: no direct I/O with compressed pages", path);
	else if (page_size % 4096 != 0)
		snap_warnx("%s: no direct I/O with pages of %u bytes", path, (unsigned)page_size);
	else
		return 0;
	return 1;
}
