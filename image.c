/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * image.c -- an image being written, from its temporary file to its name.
 *
 *	image_create --> image_begin --> image_put, image_zero ... --> image_seal
 *	--> image_tail, image_hold ... --> image_commit --> image_free
 *
 * Pages go through the pipeline (pipeline.c) until the image is sealed; behind them come the tables
 * (index.c), what else is kept, the tail, and the footer.
 *
 * I1  The header is the first HEADER_SIZE bytes and never changes.
 * I6  The footer is written when every byte it leads to is on stable storage,
 *     save what of the tail has come since image_hold() last took room for it, or
 *     all of it if it never did; footer and tail are synced before the file gets its
 *     name.
 * I7  After a first failure nothing is written any more.  (I2 to I5: pipeline.c)
 */
#include "writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "snap.h"

enum {
	HOLD_MAX = 16 << 20,	/* bytes; no description of devices is so long */
	HOLDS = 8,
	REMOVE_SLOW = 64 << 20	/* bytes; to remove a file as long as this may take a while */
};

int
writer_fail(struct image_writer *w, int code)
{
	if (w->failed == 0)
		w->failed = code;
	return w->failed;
}

int
writer_fail_sys(struct image_writer *w, int err, const char *what)
{
	if (w->failed == 0)
		snap_warn(err, "%s: %s", w->path, what);
	return writer_fail(w, SNAP_ESYS);
}

int
writer_fail_write(struct image_writer *w, int err, uint64_t off)
{
	if (w->failed == 0)
		snap_warn(err, "%s: write at offset %llu", w->path,
		    (unsigned long long)off);
	return writer_fail(w, SNAP_ESYS);
}

int
writer_check_size(struct image_writer *w, uint64_t end)
{
	if (end <= w->opt.max_size && end <= FILE_MAX)
		return 0;
	if (w->failed == 0 && end > FILE_MAX)
		snap_warnx("%s: image would grow past the 256 TiB of its format", w->path);
	else if (w->failed == 0)
		snap_warnx("%s: image would grow past the --image-size of %llu bytes",
		    w->path, (unsigned long long)w->opt.max_size);
	return writer_fail(w, SNAP_ESYS);
}

/* ---- the image from birth to commit ---- */

/* Not what is not ours: a slip of the hand must not cost a disk. */
static int
may_replace(const char *path, uint64_t *len)
{
	uint8_t buf[HEADER_MAGIC];
	int fd, ok, err = io_open_named(path, &fd);

	*len = 0;
	if (err == EEXIST) {
		snap_warnx("%s: is there and is not a regular file", path);
		return 0;
	}
	if (err == ENOENT || err == ENOTDIR || err == ENAMETOOLONG)
		return 1;	/* nothing is there; io_create_part() tells why it cannot be */
	if (err != 0) {
		snap_warn(err, "%s: cannot be read, and is not replaced", path);
		return 0;
	}
	ok = io_size(fd, len) == 0 && (*len == 0 || (*len >= sizeof buf &&
	    io_pread(fd, buf, sizeof buf, 0) == 0 && header_is_image(buf)));
	io_close(fd);
	if (!ok)
		snap_warnx("%s: is there and is not a qemu-snap image: not replaced", path);
	return ok;
}

static int
name_ancestors(struct image_writer *w)
{
	if (w->opt.base == NULL)
		return 0;
	if (image_is_in_chain(w->opt.base, w->path)) {
		snap_warnx("%s: is its own base, or an ancestor of it, and is not replaced",
		    w->path);
		return SNAP_ESYS;
	}
	return image_ancestry(w->opt.base, w->path, &w->anc, &w->nanc);
}

struct image_writer *
image_create(const char *path, const struct image_options *opt)
{
	struct image_writer *w;
	int err;

	if (*path == '\0') {
		snap_warnx("the name of the new image is empty");
		return NULL;
	}
	if ((w = calloc(1, sizeof *w)) == NULL ||
	    (w->path = malloc(strlen(path) + 1)) == NULL) {
		free(w);
		snap_warn(ENOMEM, "%s", path);
		return NULL;
	}
	strcpy(w->path, path);
	w->opt = *opt;
	if (opt->base != NULL)
		image_keep_little(opt->base);
	w->fd = w->data_fd = w->older_fd = w->dir_fd = -1;
	if (!may_replace(path, &w->older_size) || name_ancestors(w) != 0) {
		image_free(w);
		return NULL;
	}
	io_sweep_parts(path, "save", say_stale);
	if ((err = io_create_part(path, &w->tmp, &w->fd)) != 0) {
		snap_warn(err, "%s: cannot be created", path);
		w->fd = -1;
		image_free(w);
		return NULL;
	}
	w->data_fd = w->fd;
	if (!opt->unsafe && (err = io_open_dir(path, &w->dir_fd)) != 0) {
		snap_warn(err, "%s: its directory cannot be opened", path);
		image_free(w);
		return NULL;
	}
	return w;
}

/* A descriptor for the data as --cache wants it. */
static void
open_data(struct image_writer *w)
{
	int flags = w->opt.io_flags, err;

	if ((flags & IO_DIRECT) &&
	    no_direct_io(w->path, w->opt.codec != NULL, w->head.page_size))
		flags &= ~IO_DIRECT;
	if ((flags & IO_DIRECT) &&
	    (err = io_open(w->tmp, 1, flags, &w->data_fd)) != 0) {
		snap_warn(err, "%s: no direct I/O here", w->path);
		flags &= ~IO_DIRECT;
		w->data_fd = w->fd;
	}
	if (w->data_fd == w->fd && flags != 0 &&
	    (err = io_open(w->tmp, 1, flags, &w->data_fd)) != 0) {
		snap_warn(err, "%s: no synchronous writes here", w->path);
		w->data_fd = w->fd;
	}
}

/* Zero pages take no room, so there is no telling whether it will do. */
static void
warn_of_room(const struct image_writer *w)
{
	uint64_t ram = w->ram->npages * w->ram->page_size, avail;

	if (w->opt.base == NULL && w->opt.codec == NULL &&
	    io_room(w->fd, &avail) == 0 && avail < ram + ram / 100)
		snap_warnx("%s: %llu MiB are free, and the guest has %llu MiB: "
		    "room only if enough of it is zero", w->path,
		    (unsigned long long)(avail >> 20), (unsigned long long)(ram >> 20));
}

int
image_begin(struct image_writer *w, const struct ram_map *ram)
{
	uint8_t head[HEADER_SIZE];
	int err;

	w->ram = ram;
	if (w->opt.base != NULL && !ram_map_same(ram, image_ram(w->opt.base))) {
		snap_warnx("%s: is of a guest with other RAM blocks or pages, and no base",
		    image_path(w->opt.base));
		return writer_fail(w, SNAP_EDATA);
	}
	if (w->opt.codec != NULL && w->opt.unit_pages * ram->page_size > CODED_MAX) {
		snap_warnx("%s: units of %u pages of %u bytes are too large to be compressed",
		    w->path, (unsigned)w->opt.unit_pages, (unsigned)ram->page_size);
		return writer_fail(w, SNAP_ESYS);
	}
	w->head.incompat = (w->opt.base != NULL ? FEATURE_ANCESTORS : 0u) |
	    (w->opt.codec != NULL ? FEATURE_CODEC : 0u);
	w->head.page_size = ram->page_size;
	w->head.unit_pages = w->opt.unit_pages;
	w->head.cluster_size = w->opt.cluster_size;
	w->head.data_off = ram->page_size > HEADER_SIZE ? ram->page_size : HEADER_SIZE;
	header_encode(head, &w->head);
	w->foot.header_crc = w->head.crc;
	w->foot.npages = ram->npages;
	/* The moment that a background snapshot shows is just over. */
	w->foot.time = w->opt.reproducible ? 0 :
	    w->opt.have_time ? w->opt.time : (uint64_t)time(NULL);
	if ((w->append_buf = malloc(APPEND_SIZE)) == NULL)
		return writer_fail_sys(w, ENOMEM, "buffers");
	if (pipeline_init(w) != 0)
		return w->failed;
	open_data(w);
	warn_of_room(w);
	if ((err = io_pwrite(w->fd, head, sizeof head, 0)) != 0)
		return writer_fail_write(w, err, 0);
	/* What lies between header and data is zero, and there. */
	memset(head, 0, sizeof head);
	for (w->written_end = HEADER_SIZE; w->written_end < w->head.data_off;
	    w->written_end += sizeof head)
		if ((err = io_pwrite(w->fd, head, sizeof head, w->written_end)) != 0)
			return writer_fail_write(w, err, w->written_end);
	return 0;
}

static int
sync_file(struct image_writer *w)
{
	int err;

	if (w->failed != 0 || w->opt.unsafe)
		return w->failed;
	if ((err = io_sync(w->fd)) != 0)
		return writer_fail_sys(w, err, "sync");
	return 0;
}

static void
append_ancestors(struct image_writer *w)
{
	size_t len;
	uint8_t *buf = ancestors_encode(w->anc, w->nanc, &len);

	if (buf == NULL)
		writer_fail_sys(w, ENOMEM, "ancestors");
	else
		writer_append_section(w, SEC_ANCESTORS, buf, len);
	free(buf);
}

int
image_seal(struct image_writer *w, const struct image_bytes *b, size_t nb,
    uint32_t flags)
{
	uint8_t map[RAM_MAP_MAX];
	size_t len = ram_map_encode(map, w->ram), i;
	struct section *s;

	if (pipeline_finish(w) != 0)
		return w->failed;
	if (w->nanc > 0 && image_check_ancestry(w->opt.base, w->path, w->anc) != 0)
		return writer_fail(w, SNAP_ESYS);
	pipeline_free(w);
	if (len == 0) {
		snap_warnx("%s: more RAM blocks than an image can describe", w->path);
		return writer_fail(w, SNAP_EDATA);
	}
	w->foot.flags = flags;
	w->foot.slots = w->nslots;
	writer_make_tag(w);
	w->append_off = w->head.data_off;
	s = writer_begin_section(w, SEC_DATA);
	w->append_off = w->opt.codec != NULL ? w->data_end : writer_slot_off(w, w->nslots);
	writer_end_section(w, s);
	writer_units(w);
	writer_pages(w);
	writer_append_section(w, SEC_RAM_MAP, map, len);
	if (w->nanc > 0)
		append_ancestors(w);
	for (i = 0; i < nb; i++)
		if (b[i].len > 0)
			writer_append_section(w, b[i].type, b[i].buf, b[i].len);
	if (w->failed != 0 || writer_flush(w) != 0)
		return w->failed;
	writer_begin_section(w, SEC_TAIL);
	return sync_file(w);
}

int
image_tail(struct image_writer *w, const void *buf, size_t len)
{
	return writer_append(w, buf, len);
}

int
image_hold(struct image_writer *w, uint64_t more)
{
	uint8_t zero[4096];
	uint64_t end;
	size_t n;
	int err;

	if (w->failed != 0)
		return w->failed;
	/* Device state may have what looks like the head of a description. */
	if (more > HOLD_MAX || w->holds == HOLDS)
		return 0;
	w->holds++;
	if (writer_flush(w) != 0)
		return w->failed;
	end = w->append_off + more + FOOTER_SIZE;
	if (writer_check_size(w, end) != 0)
		return w->failed;
	memset(zero, 0, sizeof zero);
	while (w->written_end < end) {
		n = end - w->written_end < sizeof zero ?
		    (size_t)(end - w->written_end) : sizeof zero;
		if ((err = io_pwrite(w->fd, zero, n, w->written_end)) != 0)
			return writer_fail_write(w, err, w->written_end);
		w->written_end += n;
	}
	return sync_file(w);
}

/*
 * The directory could not be synced.  The older image takes its name back, unless
 * yet another one is there by now.
 */
static int
give_name_back(struct image_writer *w, int err)
{
	const char *what = "is in place, but its name may be lost with the power";

	w->named = io_is(w->path, w->fd);
	if (w->older != NULL && w->named) {
		if (io_rename(w->older, w->path) == 0) {
			what = "its name cannot be made durable; the older image stays";
			w->named = 0;
		} else
			snap_warnx("%s: is the older image now", w->older);
		free(w->older);
		w->older = NULL;
	}
	return writer_fail_sys(w, err, what);
}

static int
take_name(struct image_writer *w)
{
	int err;

	/* Much time has gone by. */
	if (!may_replace(w->path, &w->older_size))
		return writer_fail(w, SNAP_ESYS);
	err = w->opt.unsafe ? 0 : io_keep(w->path, &w->older, &w->older_fd);
	/* A file system that knows no second names is no reason to fail. */
	if (err != ENOMEM)
		err = io_rename(w->tmp, w->path);
	if (err != 0)
		return writer_fail_sys(w, err, "cannot take its name, whatever QEMU says");
	w->named = 1;
	free(w->tmp);
	w->tmp = NULL;
	if (!w->opt.unsafe && (err = io_sync_dir(w->dir_fd)) != 0)
		return give_name_back(w, err);
	return 0;
}

int
image_commit(struct image_writer *w, uint64_t split)
{
	struct section *tail = &w->foot.sec[w->foot.nsec - 1];
	uint8_t foot[FOOTER_SIZE];
	int err;

	writer_end_section(w, tail);
	tail->extra = split;
	writer_make_uuid(w);
	w->foot.file_len = tail->off + tail->len + FOOTER_SIZE;
	footer_encode(foot, &w->foot);
	writer_append(w, foot, sizeof foot);
	if (w->failed != 0 || writer_flush(w) != 0)
		return w->failed;
	if (w->written_end > w->foot.file_len &&
	    (err = io_truncate(w->fd, w->foot.file_len)) != 0)
		return writer_fail_write(w, err, w->foot.file_len);
	if (sync_file(w) != 0)
		return w->failed;
	return take_name(w);
}

int
image_is_named(const struct image_writer *w)
{
	return w->named;
}

char *
image_take_older(struct image_writer *w)
{
	char *name = w->older;

	if (w->older_size < REMOVE_SLOW)
		return NULL;
	w->older = NULL;
	return name;
}

void
image_free(struct image_writer *w)
{
	size_t i, k;

	if (w == NULL)
		return;
	pipeline_free(w);
	if (w->tmp != NULL && w->fd >= 0)
		io_unlink(w->tmp);
	if (w->data_fd >= 0 && w->data_fd != w->fd)
		io_close(w->data_fd);
	if (w->fd >= 0)
		io_close(w->fd);
	if (w->older != NULL)
		io_unlink(w->older);
	free(w->older);
	if (w->older_fd >= 0)
		io_close(w->older_fd);
	if (w->dir_fd >= 0)
		io_close(w->dir_fd);
	for (i = 0; i < w->nunit_leaf; i++)
		free(w->unit_leaf[i]);
	for (i = 0; w->node != NULL && i < ROOT_NODES; i++) {
		for (k = 0; w->node[i] != NULL && k < NODE_LEAVES; k++)
			leaf_free(w->node[i][k]);
		free(w->node[i]);
	}
	free(w->node);
	ancestors_free(w->anc, w->nanc);
	free(w->unit_leaf);
	free(w->free_map);
	free(w->append_buf);
	free(w->tmp);
	free(w->path);
	free(w);
}
