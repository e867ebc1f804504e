/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * foreign.c -- what people take for an image: the streams and files that QEMU, libvirt and
 * compressors write.
 */
#include "foreign.h"

#include <string.h>

#include "bytes.h"

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

/* A place in bytes of which there are n, none of them believed. */
struct cursor {
	const uint8_t *p;
	size_t n;
};

/* Go on by n bytes; those passed, or NULL: there are fewer. */
static const uint8_t *
pass(struct cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->n < n)
		return NULL;
	c->p += n;
	c->n -= n;
	return p;
}

/* A name behind its length of one byte: is it this one?  -1: there is none. */
static int
is_named(struct cursor *c, const char *name)
{
	const uint8_t *len = pass(c, 1), *p = len == NULL ? NULL : pass(c, *len);

	return p == NULL ? -1 : *len == strlen(name) && memcmp(p, name, *len) == 0;
}

/* Do the capabilities that a stream lists in its configuration have mapped-ram? */
static int
is_mapped(const uint8_t *buf, size_t n)
{
	enum { CONFIGURATION = 7, SUBSECTION = 5 };
	struct cursor c = { buf, n };
	const uint8_t *p;
	uint32_t count;
	int is;

	if (pass(&c, 8) == NULL || (p = pass(&c, 5)) == NULL || p[0] != CONFIGURATION ||
	    pass(&c, get_be32(p + 1)) == NULL)
		return 0;
	while ((p = pass(&c, 1)) != NULL && *p == SUBSECTION) {
		is = is_named(&c, "configuration/capabilities");
		if (is < 0 || (p = pass(&c, 8)) == NULL)	/* version; bits, or a number */
			return 0;
		count = get_be32(p + 4);
		while (is && count-- > 0) {
			if ((is = is_named(&c, "mapped-ram")) != 0)
				return is > 0;
			is = 1;
		}
	}
	return 0;
}

const char *
foreign_kind(const uint8_t *buf, size_t n)
{
	size_t i;

	if (n == 0)
		return "an empty file";
	if (n >= 4 && memcmp(buf, "QEVM", 4) == 0)
		return is_mapped(buf, n) ? "a QEMU migration stream of the form mapped-ram" :
		    "a QEMU migration stream as it is";
	for (i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (n >= kinds[i].len && memcmp(buf, kinds[i].magic, kinds[i].len) == 0)
			return kinds[i].name;
	return NULL;
}
