/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * layout.h -- header, footer, RAM map and list of ancestors of an image, as format.md has them.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "ram.h"

enum {
	HEADER_SIZE = 4096,
	HEADER_MAGIC = 16,
	FOOTER_SIZE = 4096,
	SECTIONS_MAX = 120,
	UNIT_PAGES_MAX = 256,
	CLUSTER_MIN = 65536,
	CLUSTER_MAX = 16 << 20,
	ANCESTORS_MAX = 255,
	ANCESTOR_PATH_MAX = 4095,
	LABEL_MAX = 4096,	/* bytes */
	ANCESTORS_SIZE_MAX = 4 + ANCESTORS_MAX * (18 + ANCESTOR_PATH_MAX)
};

#define FILE_MAX	((UINT64_C(1) << 48) - 1)	/* bytes: places in it have 48 bits */

/* Section types.  Those below SEC_WHOLE are checked part by part: their CRC
 * field is 0. */
enum {
	SEC_DATA = 1,
	SEC_UNITS = 2,
	SEC_PAGES = 3,
	SEC_NODES = 4,
	SEC_ROOT = 5,
	SEC_WHOLE = 16,
	SEC_PREAMBLE = 16,
	SEC_PROLOGUE = 17,
	SEC_RAM_MAP = 18,
	SEC_ITERABLES = 19,
	SEC_TAIL = 20,
	SEC_ANCESTORS = 21,
	SEC_LABEL = 22,
	SEC_HOT = 23,
	SEC_DISKS = 24
};

/* Incompatible features. */
enum {
	FEATURE_ANCESTORS = 1,
	FEATURE_CODEC = 2,
	FEATURES_KNOWN = 3
};

/* Footer flags. */
enum {
	IMAGE_ENDED = 1,	/* the stream ended its RAM: an ordinary migration */
	IMAGE_IGNORE_SHARED = 2,	/* shared memory may be missing */
	IMAGE_FLAGS = 3
};

struct image_header {
	uint64_t incompat, compat;
	uint32_t page_size;
	uint32_t unit_pages;
	uint32_t cluster_size;
	uint32_t data_off;
	uint32_t crc;
};

struct section {
	uint32_t type;
	uint32_t crc;
	uint64_t off, len;
	uint64_t extra;		/* SEC_TAIL: bytes before its end-of-file byte */
};

struct image_footer {
	uint64_t file_len;
	uint64_t tag;
	uint8_t uuid[16];
	uint64_t time;		/* seconds since 1970, 0: not told */
	uint64_t npages, stored, zero, ancestor;
	uint64_t slots;
	uint32_t flags;
	uint32_t header_crc;
	uint32_t nsec;
	struct section sec[SECTIONS_MAX];
};

/* An image in which pages of another one lie. */
struct ancestor {
	uint8_t uuid[16];
	char *path;		/* from the directory of the image that names it */
};

/* Fill HEADER_SIZE bytes; sets h->crc. */
void header_encode(uint8_t *buf, struct image_header *h);
/* The bits of incompatible features that this version does not know. */
uint64_t features_unknown(const struct image_header *h);
/* Do the first HEADER_MAGIC bytes of a file say that it is an image? */
int header_is_image(const uint8_t *buf);
/* NULL, or what is wrong.  Where features_unknown(), nothing but these has been decoded. */
const char *header_decode(const uint8_t *buf, struct image_header *h);
/* Fill FOOTER_SIZE bytes. */
void footer_encode(uint8_t *buf, const struct image_footer *f);
/* NULL, or why the last bytes of a file of file_len bytes are not the footer that belongs to this
 * header.  It sets what every footer has, whatever the features: length, tag, UUID, time. */
const char *footer_identify(const uint8_t *buf, uint64_t file_len,
    const struct image_header *h, struct image_footer *f);
/* NULL, or what is wrong with the footer of a file of file_len bytes. */
const char *footer_decode(const uint8_t *buf, uint64_t file_len,
    const struct image_header *h, struct image_footer *f);
/* The UUID as people write it, and back: 0, or -1: it is none. */
void uuid_format(char s[37], const uint8_t uuid[16]);
int uuid_parse(const char *s, uint8_t uuid[16]);
/* The first section of a type, or NULL. */
const struct section *footer_section(const struct image_footer *f, uint32_t type);
/* Encode ram into buf of RAM_MAP_MAX bytes; its length, 0: it does not fit. */
size_t ram_map_encode(uint8_t *buf, const struct ram_map *ram);
/* NULL, or what is wrong.  ram->blk is to be freed by the caller; it is NULL where
 * there is no memory for it. */
const char *ram_map_decode(const uint8_t *buf, size_t len, uint32_t page_size, struct ram_map *ram);
/* Encode n ancestors into memory that the caller frees, *len bytes.  NULL: there is none. */
uint8_t *ancestors_encode(const struct ancestor *a, unsigned n, size_t *len);
/* NULL, or what is wrong.  *a is to be freed with ancestors_free(); it is NULL where there is
 * no memory for it. */
const char *ancestors_decode(const uint8_t *buf, size_t len, struct ancestor **a, unsigned *n);
void ancestors_free(struct ancestor *a, unsigned n);

/* Say so, and 1, if the data of such an image is not aligned as direct I/O needs it. */
int no_direct_io(const char *path, int coded, uint32_t page_size);

#endif
