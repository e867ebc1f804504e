/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * describe.c -- label, machine type and devices, out of the sections that hold them.
 *
 * The devices are in the JSON text that QEMU puts behind the state of the devices:
 *
 *	{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "version": 2,
 *	    "fields": [...]}, ...]}
 *
 * Its length is known and bounded before anything of it is read; it is read piece by piece,
 * and what is kept of it is the list.
 */
#include "describe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "preamble.h"
#include "snap.h"

enum { HEAD = 5, DEVICES_STEP = 64 };

int
label_read(struct image *im, char text[LABEL_MAX + 1])
{
	const struct section *s = footer_section(image_footer(im), SEC_LABEL);
	uint8_t *buf;
	size_t len;
	int err;

	*text = '\0';
	/* What is no label of ours is as if it were not there. */
	if (s == NULL || s->len > LABEL_MAX)
		return 0;
	err = image_section(im, SEC_LABEL, &buf, &len);
	if (buf != NULL && memchr(buf, '\0', len) == NULL) {
		memcpy(text, buf, len);
		text[len] = '\0';
	}
	free(buf);
	return err;
}

int
machine_read(struct image *im, char name[MACHINE_MAX + 1])
{
	const struct section *s = footer_section(image_footer(im), SEC_PREAMBLE);
	struct preamble p;
	uint8_t *buf;
	size_t len;
	int err;

	*name = '\0';
	if (s->len > SECTION_KEPT)
		return 0;
	err = image_section(im, SEC_PREAMBLE, &buf, &len);
	if (buf != NULL) {
		preamble_parse(&p, buf, len);
		if (p.machine != NULL && p.machine_len <= MACHINE_MAX) {
			memcpy(name, p.machine, p.machine_len);
			name[p.machine_len] = '\0';
		}
	}
	free(buf);
	return err;
}

/* ---- devices ---- */

struct description {
	struct json json;
	struct image *im;
	const struct section *tail;
	uint64_t at, end;	/* what is still to be read of the tail */
	int err;		/* of a read */
	struct device_list *list;
	uint8_t buf[4096];
};

static size_t
more(void *arg, const uint8_t **piece)
{
	struct description *d = arg;
	uint64_t left = d->end - d->at;
	size_t n = left < sizeof d->buf ? (size_t)left : sizeof d->buf;

	if (n > 0 && (d->err = image_read(d->im, d->tail, d->at, d->buf, n)) != 0)
		n = 0;
	d->at += n;
	*piece = d->buf;
	return n;
}

/* The first reason counts.  -1. */
static int
bad(struct description *d, const char *why)
{
	if (d->list->why == NULL)
		d->list->why = d->json.why != NULL ? d->json.why : why;
	return -1;
}

/* A whole value, whatever it is. */
static int
skip(struct description *d)
{
	enum json_token t = json_next(&d->json);

	return json_skip(&d->json, t) != JSON_BAD ? 0 : bad(d, NULL);
}

static int
name_of_device(struct description *d, struct device *dev)
{
	if (json_next(&d->json) != JSON_STRING || d->json.text[0] == '\0')
		return bad(d, "device without a name");
	if (d->json.cut)
		return bad(d, "device with a name that is too long");
	strcpy(dev->name, d->json.text);
	return 0;
}

static int
small_number(struct description *d, uint32_t *v)
{
	if (json_next(&d->json) != JSON_NUMBER)
		return bad(d, "instance or version that is no number");
	if (!d->json.is_whole || d->json.number > UINT32_MAX)
		return bad(d, "instance or version out of range");
	*v = (uint32_t)d->json.number;
	return 0;
}

/* The members of an object that is open.  0, or -1. */
static int
take_device(struct description *d, struct device *dev)
{
	enum { NAME = 1, INSTANCE = 2, VERSION = 4 };
	enum json_token t;
	unsigned seen = 0, is;
	int r;

	memset(dev, 0, sizeof *dev);
	while ((t = json_next(&d->json)) == JSON_KEY) {
		is = strcmp(d->json.text, "name") == 0 ? NAME :
		    strcmp(d->json.text, "instance_id") == 0 ? INSTANCE :
		    strcmp(d->json.text, "version") == 0 ? VERSION : 0;
		if (seen & is)
			return bad(d, "device that says something twice");
		seen |= is;
		r = is == NAME ? name_of_device(d, dev) : is == INSTANCE ?
		    small_number(d, &dev->instance) : is == VERSION ?
		    small_number(d, &dev->version) : skip(d);
		if (r != 0)
			return r;
	}
	if (t != JSON_CLOSE)
		return bad(d, NULL);
	if (!(seen & NAME) || !(seen & INSTANCE))
		return bad(d, "device without name or instance");
	dev->has_version = (seen & VERSION) != 0;
	return 0;
}

/* Room for one more; NULL: none. */
static struct device *
room(struct description *d)
{
	struct device_list *l = d->list;
	struct device *p;

	if (l->n == l->cap) {
		if (l->n >= DEVICES_MAX)
			return NULL;
		if ((p = realloc(l->dev, (l->cap + DEVICES_STEP) * sizeof *p)) == NULL) {
			d->err = snap_warn(ENOMEM, "%s", image_path(d->im));
			return NULL;
		}
		l->dev = p;
		l->cap += DEVICES_STEP;
	}
	return &l->dev[l->n];
}

static int
take_devices(struct description *d)
{
	struct device_list *l = d->list;
	enum json_token t;
	struct device *dev;

	if (json_next(&d->json) != JSON_ARRAY)
		return bad(d, "list of devices that is none");
	while ((t = json_next(&d->json)) == JSON_OBJECT) {
		if ((dev = room(d)) == NULL)
			return bad(d, "more devices than there is room for");
		if (take_device(d, dev) != 0)
			return -1;
		l->n++;
	}
	return t == JSON_CLOSE ? 0 : bad(d, "device that is no object");
}

static int
take_description(struct description *d)
{
	enum json_token t;
	int seen = 0;

	if (json_next(&d->json) != JSON_OBJECT)
		return bad(d, "is no object");
	while ((t = json_next(&d->json)) == JSON_KEY) {
		if (strcmp(d->json.text, "devices") != 0) {
			if (skip(d) != 0)
				return -1;
			continue;
		}
		if (seen++)
			return bad(d, "two lists of devices");
		if (take_devices(d) != 0)
			return -1;
	}
	if (t != JSON_CLOSE || json_next(&d->json) != JSON_END)
		return bad(d, NULL);
	return seen ? 0 : bad(d, "has no list of devices");
}

/* How long is it?  0: there is none, or l->why tells what is wrong. */
static uint32_t
description_length(const struct section *tail, const uint8_t *head, struct device_list *l)
{
	enum { DESCRIPTION = 6 };
	uint64_t left = tail->len - tail->extra - 1;
	uint32_t len = 0;

	l->given = left > 0;
	if (left == 0)
		return 0;
	if (left < HEAD || head[0] != DESCRIPTION)
		l->why = "is none";
	else if ((len = get_be32(head + 1)) > DESCRIPTION_MAX)
		l->why = "longer than 16 MiB";
	else if (len > left - HEAD)
		l->why = "is cut";
	else if (len == 0)
		l->why = "is empty";
	return l->why == NULL ? len : 0;
}

int
devices_read(struct image *im, struct device_list *l)
{
	struct description d;
	uint8_t head[HEAD] = { 0, 0, 0, 0, 0 };
	uint32_t len;
	int err;

	memset(l, 0, sizeof *l);
	memset(&d, 0, sizeof d);
	d.json.more = more;
	d.json.arg = &d;
	d.im = im;
	d.list = l;
	d.tail = footer_section(image_footer(im), SEC_TAIL);
	d.at = d.tail->extra + 1;
	if (d.tail->len - d.at >= HEAD &&
	    (err = image_read(im, d.tail, d.at, head, HEAD)) != 0)
		return err;
	if ((err = image_check_section(im, d.tail)) != 0)
		return err;
	if ((len = description_length(d.tail, head, l)) == 0)
		return 0;
	d.at += HEAD;
	d.end = d.at + len;
	if (take_description(&d) != 0 || d.err != 0)
		l->n = 0;
	return d.err;
}

void
devices_free(struct device_list *l)
{
	free(l->dev);
	memset(l, 0, sizeof *l);
}
