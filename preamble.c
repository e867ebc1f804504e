/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * preamble.c -- how a file begins that is no image.
 */
#include "preamble.h"

#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "ram.h"
#include "snap.h"
#include "wire.h"

enum {
	HEAD = 8,		/* magic, version */
	INSTANCE = 9,		/* where it is in a section */
	ENTRY_MAX = 1 + ID_MAX + 16
};

static const char caps_name[] = "configuration/capabilities";
enum { CAPS_NAME = sizeof caps_name - 1, CAPS_HEAD = 2 + CAPS_NAME + 4 };

/* Bytes that the list of capabilities at p takes, of at most len; 0: not understood. */
static size_t
caps_size(const uint8_t *p, size_t len)
{
	size_t at = 4;
	uint32_t n;

	if (len < at)
		return 0;
	for (n = get_be32(p); n > 0; n--) {
		if (at >= len || p[at] + 1u > len - at)
			return 0;
		at += p[at] + 1u;
	}
	return at;
}

/* The same of the subsection at p. */
static size_t
subsection_size(const uint8_t *p, size_t len, int *is_caps)
{
	static const struct { const char *name; size_t size; } known[] = {
		{ "configuration/target-page-bits", 4 },
		{ "configuration/uuid", 16 }
	};
	size_t n = len < 2 ? 0 : p[1], head = 2 + n + 4, size, i;

	*is_caps = 0;
	if (n == 0 || head > len)
		return 0;
	if (n == CAPS_NAME && memcmp(p + 2, caps_name, n) == 0) {
		*is_caps = 1;
		size = caps_size(p + head, len - head);
		return size == 0 ? 0 : head + size;
	}
	for (i = 0; i < sizeof known / sizeof known[0]; i++)
		if (n == strlen(known[i].name) && memcmp(p + 2, known[i].name, n) == 0)
			return known[i].size > len - head ? 0 : head + known[i].size;
	return 0;
}

int
preamble_parse(struct preamble *p, const uint8_t *buf, size_t len)
{
	size_t at = HEAD + 5, name, size;
	int is_caps;

	memset(p, 0, sizeof *p);
	p->buf = buf;
	p->len = len;
	if (len < at || memcmp(buf, "QEVM\0\0\0\3", HEAD) != 0 || buf[HEAD] != VM_CONFIGURATION)
		return -1;
	name = get_be32(buf + HEAD + 1);	/* of the machine type */
	if (name > len - at)
		return -1;
	p->machine = buf + at;
	p->machine_len = name;
	at += name;
	for (p->caps = at; at < len && buf[at] == VM_SUBSECTION; at += size) {
		if ((size = subsection_size(buf + at, len - at, &is_caps)) == 0)
			return -1;
		if (is_caps) {
			p->caps = at;
			p->caps_len = size;
		} else if (p->caps_len == 0 && buf[at + 1] != sizeof "configuration/uuid" - 1)
			p->caps = at + size;	/* behind the page bits, before the UUID */
	}
	return 0;
}

/* Is the capability on? */
static int
has_capability(const struct preamble *p, const char *capability)
{
	size_t n = strlen(capability), at, end = p->caps + p->caps_len;

	for (at = p->caps + CAPS_HEAD + 4; at < end; at += p->buf[at] + 1u)
		if (p->buf[at] == n && memcmp(p->buf + at + 1, capability, n) == 0)
			return 1;
	return 0;
}

uint8_t *
preamble_with(const struct preamble *p, const char *capability, size_t *len)
{
	size_t n = strlen(capability), at = p->caps;
	uint8_t *out = malloc(p->len + CAPS_HEAD + 4 + 1 + n), *q = out;

	if (out == NULL)
		return NULL;
	memcpy(q, p->buf, at);
	q += at;
	if (p->caps_len > 0) {
		memcpy(q, p->buf + at, p->caps_len);
		put_be32(q + CAPS_HEAD, get_be32(q + CAPS_HEAD) + 1);
		q += p->caps_len;
	} else {
		*q++ = VM_SUBSECTION;
		*q++ = CAPS_NAME;
		memcpy(q, caps_name, CAPS_NAME);
		put_be32(q + CAPS_NAME, 1);	/* version */
		put_be32(q + CAPS_NAME + 4, 1);	/* capabilities */
		q += CAPS_NAME + 8;
	}
	*q++ = (uint8_t)n;
	memcpy(q, capability, n);
	q += n;
	at += p->caps_len;
	memcpy(q, p->buf + at, p->len - at);
	q += p->len - at;
	*len = (size_t)(q - out);
	return out;
}

/* ---- RAM's section START ---- */

size_t
prologue_entry(const struct ram_map *ram, const struct ram_block *b)
{
	return 1 + strlen(b->id) + 8 + (ram->has_addr ? 8 : 0);
}

/* The blocks at p, of which there are enough bytes, and what ends the section. */
static int
are_blocks(const struct ram_map *ram, const uint8_t *p)
{
	uint8_t entry[ENTRY_MAX], end[8 + 1 + 4];
	const struct ram_block *b;
	size_t name, n;

	for (b = ram->blk; b < ram->blk + ram->nblk; b++, p += n) {
		n = prologue_entry(ram, b);
		name = strlen(b->id);
		entry[0] = (uint8_t)name;
		memcpy(entry + 1, b->id, name);
		put_be64(entry + 1 + name, b->len);
		if (ram->has_addr)
			put_be64(entry + 1 + name + 8, b->addr);
		if (memcmp(p, entry, n) != 0)
			return 0;
	}
	put_be64(end, RAM_EOS);
	end[8] = VM_SECTION_FOOTER;
	put_be32(end + 9, ram->sid);
	return memcmp(p, end, sizeof end) == 0;
}

int
prologue_find_ram(const struct ram_map *ram, const char *path, const uint8_t *prologue,
    size_t n, size_t *at, size_t *len)
{
	uint8_t head[RAM_START_HEAD] = { VM_SECTION_START };
	size_t i, size = sizeof head + 8 + 5;

	put_be32(head + 1, ram->sid);
	memcpy(head + 5, "\003ram", 4);
	head[16] = 4;		/* the version */
	put_be64(head + 17, ram->npages * ram->page_size | RAM_MEM_SIZE);
	for (i = 0; i < ram->nblk; i++)
		size += prologue_entry(ram, &ram->blk[i]);
	*len = size;
	/* But for the number of the instance, which nobody looked at. */
	for (*at = 0; size <= n && *at <= n - size; ++*at, prologue++)
		if (memcmp(prologue, head, INSTANCE) == 0 &&
		    memcmp(prologue + INSTANCE + 4, head + INSTANCE + 4,
		    sizeof head - INSTANCE - 4) == 0 &&
		    are_blocks(ram, prologue + sizeof head))
			return 0;
	snap_warnx("%s: the list of its blocks is not that of its stream", path);
	return SNAP_EDATA;
}

/* ---- other files ---- */

static const struct kind {
	const char *magic;
	size_t len;
	const char *name;
} kinds[] = {
	{ "QFI\xfb", 4, "a qcow2 disk image" },
	{ "\x1f\x8b", 2, "a file compressed with gzip" },
	{ "\x28\xb5\x2f\xfd", 4, "a file compressed with zstd" },
	{ "\xfd" "7zXZ\0", 6, "a file compressed with xz" },
	{ "qemu-snap hot 1\n", 16, "a hot list" },
	{ "EMiL", 4, "a LiME memory dump" },
	{ "LibvirtQemudSave", 16, "a file that libvirt saved" },
	{ "LibvirtQemudPart", 16, "a file that libvirt did not save to its end" },
	{ "\x7f" "ELF", 4, "an ELF file" }
};

const char *
foreign_kind(const uint8_t *buf, size_t n)
{
	struct preamble p;
	size_t i;

	if (n == 0)
		return "an empty file";
	if (n >= 4 && memcmp(buf, "QEVM", 4) == 0) {
		preamble_parse(&p, buf, n);
		return has_capability(&p, "mapped-ram") ?
		    "a QEMU migration stream of the form mapped-ram" :
		    "a QEMU migration stream as it is";
	}
	for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (n >= kinds[i].len && memcmp(buf, kinds[i].magic, kinds[i].len) == 0)
			return kinds[i].name;
	return NULL;
}
