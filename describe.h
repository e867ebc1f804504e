/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * describe.h -- what an image says of its guest besides the memory: label, machine, devices.
 *
 * All of it comes from a stranger.  Functions return 0, or SNAP_ESYS or SNAP_EDATA after a
 * message: the section cannot be had, or fails its checksum.
 */
#ifndef DESCRIBE_H
#define DESCRIBE_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"
#include "json.h"

enum {
	MACHINE_MAX = 255,	/* bytes of the name of a machine type */
	DESCRIPTION_MAX = 16 << 20,	/* bytes of a JSON description that are looked at */
	DEVICES_MAX = 65536	/* so a list of them has 18 MiB at most */
};

struct device {
	char name[JSON_TEXT];
	uint32_t instance, version;
	int has_version;	/* old ones have none in the description */
};

struct device_list {
	struct device *dev;
	size_t n, cap;
	int given;		/* there is a description */
	const char *why;	/* NULL, or what is wrong with it: then the list is empty */
};

/* The label; "" if there is none. */
int label_read(struct image *im, char text[LABEL_MAX + 1]);
/* The machine type, as QEMU names it; "" if the stream did not tell. */
int machine_read(struct image *im, char name[MACHINE_MAX + 1]);
/* The devices, in the order of the stream.  l is to be freed, whatever is returned. */
int devices_read(struct image *im, struct device_list *l);
void devices_free(struct device_list *l);

#endif
