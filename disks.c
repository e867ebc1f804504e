/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disks.c -- the section of an image that names the disks snapshotted along with its memory, to
 * bytes and from bytes.  The disks themselves are QEMU's, see drives.c.
 */
#include "disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "snap.h"

enum {
	HEAD = 8,
	RAN = 1,		/* flag */
	STRINGS = 4,		/* of a disk: each has a byte more than in its struct */
	SECTION_MAX = HEAD + DISKS_MAX * (int)(sizeof(struct disk) + STRINGS)
};

/* String i of a disk, and its room. */
static char *
string_of(struct disk *d, int i, size_t *size)
{
	*size = i == 0 ? DISK_NAME : i == 2 ? DISK_FORMAT : DISK_FILE;
	return i == 0 ? d->name : i == 1 ? d->file : i == 2 ? d->format : d->next;
}

uint8_t *
disks_pack(const struct disks *d, size_t *len)
{
	uint8_t *buf, *p;
	size_t n = HEAD, size;
	unsigned i;
	char *s;
	int k;

	for (i = 0; i < d->n; i++)
		for (k = 0; k < STRINGS; k++)
			n += 2 + strlen(string_of(&d->disk[i], k, &size));
	if ((p = buf = calloc(n, 1)) == NULL)
		return NULL;
	put_le32(p, d->ran ? RAN : 0);
	put_le32(p + 4, d->n);
	p += HEAD;
	for (i = 0; i < d->n; i++)
		for (k = 0; k < STRINGS; k++) {
			s = string_of(&d->disk[i], k, &size);
			size = strlen(s);
			put_le16(p, (uint16_t)size);
			memcpy(p + 2, s, size);
			p += 2 + size;
		}
	*len = n;
	return buf;
}

/* Take what is in a section, there being room for the most; 0, or -1: it is none. */
static int
unpack(struct disks *d, const uint8_t *p, size_t len)
{
	size_t n, size;
	unsigned i;
	char *s;
	int k;

	if (len < HEAD || (get_le32(p) & ~(uint32_t)RAN) != 0 || get_le32(p + 4) > DISKS_MAX)
		return -1;
	d->ran = get_le32(p) & RAN;
	d->n = get_le32(p + 4);
	p += HEAD;
	len -= HEAD;
	for (i = 0; i < d->n; i++)
		for (k = 0; k < STRINGS; k++) {
			s = string_of(&d->disk[i], k, &size);
			if (len < 2 || (n = get_le16(p)) > len - 2 || n >= size ||
			    memchr(p + 2, 0, n) != NULL)
				return -1;
			memcpy(s, p + 2, n);
			p += 2 + n;
			len -= 2 + n;
		}
	return len == 0 ? 0 : -1;
}

int
disks_read(struct disks *d, struct image *im)
{
	const struct section *s = footer_section(image_footer(im), SEC_DISKS);
	uint8_t *buf;
	size_t len;
	int err;

	memset(d, 0, sizeof *d);
	if (s == NULL || s->len > SECTION_MAX)
		return 0;
	if ((err = image_section(im, SEC_DISKS, &buf, &len)) != 0)
		return err;
	if ((d->disk = calloc(DISKS_MAX, sizeof *d->disk)) == NULL)
		err = snap_warn(ENOMEM, "%s", image_path(im));
	else if (unpack(d, buf, len) != 0)
		disks_free(d);
	free(buf);
	return err;
}

void
disks_free(struct disks *d)
{
	free(d->disk);
	memset(d, 0, sizeof *d);
}
