/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * hot.h -- the hot list: which pages a guest first asked for after a revert, in that order.
 *
 * It lies in a file beside the image, or in a section of the image itself.
 */
#ifndef HOT_H
#define HOT_H

#include <stdint.h>

#include "image.h"

struct hot_list {
	uint8_t *page;		/* page numbers, 40 bits each */
	uint64_t n, cap;
	int beside;		/* it is from the file beside the image */
};

/* The name of the list beside an image, to be freed by the caller; NULL: out of memory. */
char *hot_beside(const char *image);
/*
 * The list beside the image, or where there is none, in it; an empty one if there is neither.
 * One that is damaged, or another image's, is named and not used.  0, or SNAP_ESYS.
 */
int hot_find(struct hot_list *l, struct image *im);
/* How many pages the list in the image itself has. */
uint64_t hot_embedded(const struct image *im);
/* The list as the bytes of a section, which stay the list's; *len is 0 if it is empty. */
const uint8_t *hot_bytes(const struct hot_list *l, size_t *len);
/* Get and set page number i of the list. */
uint64_t hot_page(const struct hot_list *l, uint64_t i);
void hot_set(struct hot_list *l, uint64_t i, uint64_t page);
/* Add a page; when there is no memory, or the list is long enough, it stays as it is. */
void hot_add(struct hot_list *l, uint64_t page);
/* May a list be written to the file name: is there another list, or only the directory?  0, or
 * SNAP_ESYS, with a message.  Whether it can be is another matter. */
int hot_may_write(const char *name);
/* Put the list of im at the file name, durably and in one step: whatever happens, either the old
 * list is there or the new one.  0, or SNAP_ESYS, reported. */
int hot_write(const struct hot_list *l, const char *name, const struct image *im);
void hot_free(struct hot_list *l);

#endif
