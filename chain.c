/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * chain.c -- the images that hold pages of another one: how they are named in it,
 * and how they are found again.
 *
 * An image lists its whole chain, so a page is never looked for in more than one
 * other file.  Each ancestor is known by its UUID.  It is looked for where the image
 * says, and beside the image, so that files which were moved together are found.
 */
#include "reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "snap.h"

/* Both in one string to be freed by the caller, or NULL. */
static char *
join(const char *a, const char *b)
{
	size_t n = strlen(a);
	char *s = malloc(n + strlen(b) + 1);

	if (s != NULL) {
		strcpy(s, a);
		strcpy(s + n, b);
	}
	return s;
}

static char *
copy(const char *s)
{
	return join(s, "");
}

/* The part of path behind its last slash. */
static const char *
last_word(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash == NULL ? path : slash + 1;
}

/* name, if it is not absolute from the directory that path lies in; to be freed by the caller. */
static char *
beside(const char *path, const char *name)
{
	char *dir, *s;

	if (name[0] == '/')
		return copy(name);
	if ((dir = copy(path)) == NULL)
		return NULL;
	dir[last_word(path) - path] = '\0';
	s = join(dir, name);
	free(dir);
	return s;
}

/* 0: path leads to the image with this UUID; -1: to something else; or an errno value. */
static int
leads_to(const char *path, const uint8_t uuid[16])
{
	struct image_footer *foot = malloc(sizeof *foot);
	struct image_header head;
	uint8_t buf[FOOTER_SIZE];
	uint64_t len;
	int fd, r = -1, err;

	if (foot == NULL)
		return ENOMEM;
	if ((err = io_open(path, 0, 0, &fd)) == 0) {
		if (io_size(fd, &len) == 0 && len >= HEADER_SIZE + FOOTER_SIZE &&
		    io_pread(fd, buf, HEADER_SIZE, 0) == 0 &&
		    header_decode(buf, &head) == NULL &&
		    features_unknown(&head) == 0 &&
		    io_pread(fd, buf, FOOTER_SIZE, len - FOOTER_SIZE) == 0 &&
		    footer_decode(buf, len, &head, foot) == NULL &&
		    memcmp(foot->uuid, uuid, 16) == 0)
			r = 0;
		io_close(fd);
	}
	free(foot);
	return err != 0 ? err : r;
}

/* path, or whatever bears its last word beside the image at from, if that is the one: *found, to
 * be freed by the caller.  What leads_to() says of the first one tried. */
static int
look_from(const char *from, const struct ancestor *a, char **found)
{
	const char *names[2];
	int i, r, first = 0;

	names[0] = a->path;
	names[1] = last_word(a->path);
	for (i = 0; i < 2; i++) {
		if ((*found = beside(from, names[i])) == NULL)
			return ENOMEM;
		if ((r = leads_to(*found, a->uuid)) == 0)
			return 0;
		first = i == 0 ? r : first;
		free(*found);
		*found = NULL;
	}
	return first;
}

/* Where ancestor k is, in *found, to be freed by the caller. */
static int
find_ancestor(const struct image *im, unsigned k, char **found)
{
	const struct ancestor *a = &im->anc[k];
	int err = look_from(im->path, a, found);
	char uuid[37], *real, *there;

	/* A link may have led to the image. */
	if (*found == NULL && (real = io_real_path(im->path)) != NULL) {
		look_from(real, a, found);
		free(real);
	}
	if (*found != NULL)
		return 0;
	if ((there = beside(im->path, a->path)) == NULL)
		return image_no_memory(im);
	uuid_format(uuid, a->uuid);
	if (err < 0)
		snap_warnx("%s: needs the image with UUID %s; %s is not that", im->path, uuid,
		    there);
	else
		snap_warn(err, "%s: needs the image with UUID %s, which is not beside it: %s",
		    im->path, uuid, there);
	free(there);
	return SNAP_ESYS;
}

int
image_open_ancestors(struct image *im)
{
	char *path;
	unsigned k;
	int err;

	for (k = 0; k < im->nanc; k++) {
		if ((err = find_ancestor(im, k, &path)) != 0)
			return err;
		im->anc_image[k] = image_open(path, im->io_flags, &err);
		free(path);
		if (im->anc_image[k] == NULL)
			return err;
		image_keep_little(im->anc_image[k]);
		if (memcmp(im->anc_image[k]->foot.uuid, im->anc[k].uuid, 16) != 0) {
			snap_warnx("%s: was replaced just now", im->anc_image[k]->path);
			return SNAP_ESYS;
		}
		if (!ram_map_same(&im->ram, &im->anc_image[k]->ram)) {
			snap_warnx("%s: is of another guest than %s", im->anc_image[k]->path,
			    im->path);
			return SNAP_EDATA;
		}
	}
	return 0;
}

/* ---- what a new image says ---- */

/* Does path lie in the directory dir, or below it?  Then where, else NULL. */
static const char *
below(const char *dir, const char *path)
{
	size_t n = strlen(dir);

	if (n > 0 && dir[n - 1] == '/')
		n--;
	return strncmp(path, dir, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

/* path from the directory dir, in which it does not lie; both are absolute. */
static char *
relative(const char *dir, const char *path)
{
	size_t i, common = 0;
	char *s, *up, *more;

	for (i = 0; dir[i] != '\0' && dir[i] == path[i]; i++)
		if (dir[i] == '/')
			common = i + 1;
	if ((s = copy("")) == NULL)
		return NULL;
	for (i = common; i < strlen(dir); i += strcspn(dir + i, "/") + 1) {
		up = join("../", s);
		free(s);
		if ((s = up) == NULL)
			return NULL;
	}
	more = join(s, path + common);
	free(s);
	return more;
}

/*
 * What an image at path calls another one, which a stranger called name: by its true name, as a
 * link may lead to another image tomorrow.
 */
static char *
name_for(const char *path, const char *other, const char *name)
{
	char *dir = io_real_directory(path), *whole = io_real_path(other), *s = NULL;
	const char *near;

	if (dir != NULL && whole != NULL) {
		if ((near = below(dir, whole)) != NULL)
			s = copy(near);
		else
			s = name[0] == '/' ? copy(whole) : relative(dir, whole);
	}
	free(dir);
	free(whole);
	return s;
}

int
image_ancestry(const struct image *base, const char *path, struct ancestor **list, unsigned *n)
{
	struct ancestor *a;
	const struct image *im;
	unsigned k;

	*list = NULL;
	*n = 0;
	if (base->nanc == ANCESTORS_MAX) {
		snap_warnx("%s: has %u ancestors, and an image can have no more", base->path,
		    (unsigned)base->nanc);
		return SNAP_ESYS;
	}
	if ((*list = a = calloc(base->nanc + 1u, sizeof *a)) == NULL)
		return image_no_memory(base);
	for (k = 0; k <= base->nanc; k++) {
		im = k == 0 ? base : base->anc_image[k - 1];
		memcpy(a[k].uuid, im->foot.uuid, 16);
		a[k].path = name_for(path, im->path, k == 0 ? base->path : base->anc[k - 1].path);
		if (a[k].path == NULL || strlen(a[k].path) > ANCESTOR_PATH_MAX) {
			free(a[k].path);
			snap_warnx("%s: its name is too long, or its directory cannot be read",
			    im->path);
			return SNAP_ESYS;
		}
		++*n;
	}
	return 0;
}

int
image_check_ancestry(const struct image *base, const char *path, const struct ancestor *list)
{
	const struct image *im;
	char *name;
	unsigned k;
	int same;

	for (k = 0; k <= base->nanc; k++) {
		im = k == 0 ? base : base->anc_image[k - 1];
		name = beside(path, list[k].path);
		same = name != NULL && io_is(name, im->fd);
		free(name);
		if (!same) {
			snap_warnx("%s: was replaced or moved meanwhile: nothing can be "
			    "based on it", im->path);
			return SNAP_ESYS;
		}
	}
	return 0;
}

int
image_is_in_chain(const struct image *im, const char *path)
{
	unsigned k;

	for (k = 0; k < im->nanc; k++)
		if (io_is(path, im->anc_image[k]->fd))
			return 1;
	return io_is(path, im->fd);
}
