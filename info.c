/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * info.c -- what is in an image, for people and for programs.
 *
 * All that can be told is told, even if it is less than all: a page table, a description of the
 * devices or a whole file that is damaged takes nothing from what lies beside it.  Only where the
 * system refuses something, as memory or a read, there is nothing but a message.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "describe.h"
#include "disks.h"
#include "hot.h"
#include "image.h"
#include "json.h"
#include "options.h"
#include "snap.h"

/* UTC, or "" where the image does not tell. */
static void
format_time(char *s, size_t size, uint64_t t)
{
	time_t tt = (time_t)t;
	struct tm *tm = t == 0 || tt < 0 || (uint64_t)tt != t ? NULL : gmtime(&tt);

	*s = '\0';
	if (tm != NULL)		/* strftime() would bring the time zones along */
		snprintf(s, size, "%04lld-%02d-%02dT%02d:%02d:%02dZ", tm->tm_year + 1900LL,
		    tm->tm_mon + 1, tm->tm_mday, tm->tm_hour, tm->tm_min, tm->tm_sec);
}

/* In the order in which they are told. */
static const struct { const char *key; enum page_state state; } states[4] = {
	{ "stored", PAGE_STORED }, { "ancestor", PAGE_ANCESTOR },
	{ "zero", PAGE_ZERO }, { "absent", PAGE_ABSENT }
};

struct block_pages {
	uint64_t count[4];	/* by enum page_state */
	int known;
};

struct facts {
	const char *path;
	int err;		/* 0, or what was met on the way, after a message */
	struct image_look look;
	char uuid[37], time[80], label[LABEL_MAX + 1], machine[MACHINE_MAX + 1];
	const struct ram_map *ram;
	const struct image_header *h;
	const struct image_footer *f;
	struct block_pages *block;
	uint64_t absent, guest_size, stored_size, data_size, device_state;
	const char *kind, *codec;
	const struct ancestor *anc;
	unsigned nanc;
	struct device_list dev;
	int dev_known;		/* their section is good */
	struct disks disks;
	struct hot_list hot;	/* the one that a load would use */
	int postcopy;
};

/* ---- finding out ---- */

/* Note an error.  Is it of a kind that makes it useless to go on? */
static int
met(struct facts *x, int err)
{
	if (x->err == 0 || err == SNAP_ESYS)
		x->err = err;
	return err == SNAP_ESYS;
}

/* Pages by block and state. */
static void
count_blocks(struct facts *x, struct image *im)
{
	const struct ram_block *b;
	size_t i;
	int err;

	if ((x->block = calloc(x->ram->nblk + 1, sizeof *x->block)) == NULL) {
		x->err = snap_warnx("%s: out of memory", x->path);
		return;
	}
	image_keep_little(im);
	for (i = 0; i < x->ram->nblk; i++) {
		b = &x->ram->blk[i];
		err = image_count(im, b->first, b->len / x->h->page_size, x->block[i].count);
		x->block[i].known = err == 0;
		if (met(x, err))
			return;
	}
}

static int
find_hot_list(struct facts *x, struct image *im)
{
	const struct section *s = footer_section(x->f, SEC_HOT);
	int err = s == NULL ? 0 : image_check_section(im, s);

	return err != 0 ? err : hot_find(&x->hot, im);
}

static void
collect_header(struct facts *x, const struct image *im)
{
	x->h = image_header(im);
	x->f = image_footer(im);
	x->codec = x->h->incompat & FEATURE_CODEC ? "zstd" : "none";
	if (x->look.has_footer) {
		uuid_format(x->uuid, x->f->uuid);
		format_time(x->time, sizeof x->time, x->f->time);
	}
}

static void
collect(struct facts *x, struct image *im)
{
	int err;

	x->ram = image_ram(im);
	x->absent = x->f->npages - x->f->stored - x->f->zero - x->f->ancestor;
	x->guest_size = x->f->npages * x->h->page_size;
	x->stored_size = x->f->stored * x->h->page_size;
	x->data_size = footer_section(x->f, SEC_DATA)->len;
	x->device_state = footer_section(x->f, SEC_TAIL)->extra;
	x->nanc = image_ancestors(im, &x->anc);
	x->kind = x->f->flags & IMAGE_ENDED ? "migration" : "background snapshot";
	x->postcopy = !(x->f->flags & IMAGE_IGNORE_SHARED);
	if (met(x, label_read(im, x->label)) || met(x, machine_read(im, x->machine)) ||
	    met(x, disks_read(&x->disks, im)))
		return;
	err = devices_read(im, &x->dev);
	x->dev_known = err == 0;
	if (!met(x, err) && !met(x, find_hot_list(x, im)))
		count_blocks(x, im);
}

/* What is to be said of the devices if there is no list of them; NULL: there is one. */
static const char *
no_devices(const struct facts *x)
{
	return !x->dev_known ? "damaged" : !x->dev.given ? "missing" :
	    x->dev.why != NULL ? "damaged" : NULL;
}

/* ---- for people ---- */

/* A size as people read it, with the bytes where they say more; the line stays open. */
static void
print_size(const char *name, uint64_t n)
{
	static const char units[] = "KMGTPE";
	double v = (double)n;
	int u = -1;

	for (; v >= 1024 && u < 5; u++)
		v /= 1024;
	if (u < 0)
		printf("%-14s %llu bytes", name, (ull)n);
	else
		printf("%-14s %.1f %ciB (%llu bytes)", name, v, units[u], (ull)n);
}

/* The end of such a line: how much that is of a whole, if there is one. */
static void
print_share(uint64_t n, uint64_t whole, const char *of)
{
	if (whole > 0)
		printf(", %.1f %% of %s", 100 * (double)n / (double)whole, of);
	putchar('\n');
}

static void
print_blocks(const struct facts *x)
{
	size_t i, k;

	puts("blocks               length      stored   ancestors        zero      absent  name");
	for (i = 0; i < x->ram->nblk; i++) {
		printf("%27llu", (ull)x->ram->blk[i].len);
		for (k = 0; k < 4; k++)
			if (x->block != NULL && x->block[i].known)
				printf("%12llu", (ull)x->block[i].count[states[k].state]);
			else
				printf("%12s", "?");
		print_line("  %s", x->ram->blk[i].id);
	}
}

static void
print_devices(const struct facts *x)
{
	const struct device *d;
	size_t i;

	if (no_devices(x) != NULL) {
		printf("devices        not told: %s%s\n",
		    !x->dev_known ? "their section is damaged" :
		    !x->dev.given ? "no description came with them" :
		    "their description is damaged: ", x->dev.why != NULL ? x->dev.why : "");
		return;
	}
	puts("devices       instance  version  name");
	for (i = 0; i < x->dev.n; i++) {
		d = &x->dev.dev[i];
		printf("%22lu  ", (unsigned long)d->instance);
		if (d->has_version)
			printf("%7lu  ", (unsigned long)d->version);
		else
			printf("%7s  ", "-");
		print_line("%s", d->name);
	}
}

static void
print_disks(const struct facts *x)
{
	const struct disk *d;
	unsigned i;

	for (i = 0; i < x->disks.n; i++) {
		d = &x->disks.disk[i];
		print_line("%-14s %s: as it was in %s (%s); the guest went on in %s",
		    i == 0 ? "disks" : "", d->name, d->file, d->format, d->next);
	}
}

static void
print_identity(const struct facts *x)
{
	print_line("image          %s", x->path);
	if (x->label[0] != '\0')
		print_line("label          %s", x->label);
	if (!x->look.has_footer)
		return;
	printf("UUID           %s\n", x->uuid);
	printf("taken          %s\n", x->time[0] != '\0' ? x->time : "not told");
}

static void
print_units(const struct facts *x)
{
	printf("page size      %u bytes\n", (unsigned)x->h->page_size);
	printf("units          %u pages, compression: %s; clusters of %u bytes\n",
	    (unsigned)x->h->unit_pages, x->codec, (unsigned)x->h->cluster_size);
}

static void
print_whole(const struct facts *x)
{
	char uuid[37];
	size_t i;

	print_line("machine        %s", x->machine[0] != '\0' ? x->machine : "not told");
	printf("from           %s\n", x->kind);
	printf("loads in       %s\n", x->postcopy ? "precopy and postcopy" :
	    "precopy only: saved with x-ignore-shared");
	print_size("file", x->f->file_len);
	print_share(x->f->file_len, x->guest_size, "guest RAM");
	print_size("guest RAM", x->guest_size);
	putchar('\n');
	print_size("page data", x->data_size);
	print_share(x->data_size, x->stored_size, "the pages stored");
	print_size("device state", x->device_state);
	putchar('\n');
	print_units(x);
	printf("pages          %llu: %llu stored, ", (ull)x->f->npages, (ull)x->f->stored);
	if (x->nanc > 0)
		printf("%llu in ancestors, ", (ull)x->f->ancestor);
	printf("%llu zero, %llu absent\n", (ull)x->f->zero, (ull)x->absent);
	if (x->hot.n > 0)
		printf("hot list       %llu pages, %s\n", (ull)x->hot.n,
		    x->hot.beside ? "beside the image" : "in the image");
	for (i = 0; i < x->nanc; i++) {
		uuid_format(uuid, x->anc[i].uuid);
		print_line("%-14s %s  %s", i == 0 ? "based on" : "", uuid, x->anc[i].path);
	}
	print_disks(x);
	print_blocks(x);
	print_devices(x);
}

/* Less of an image that cannot be read. */
static void
print_human(const struct facts *x)
{
	print_identity(x);
	if (x->look.whole) {
		print_whole(x);
		return;
	}
	printf("complete       %s\n", x->look.has_footer ? "yes" : "no");
	print_size("file", x->look.len);
	putchar('\n');
	if (features_unknown(x->h) == 0)
		print_units(x);
}

/* ---- for programs ---- */

/* "key": a string, or null where it is empty; and a comma. */
static void
string_or_null(const char *key, const char *s)
{
	printf("  \"%s\": ", key);
	if (*s == '\0')
		puts("null,");
	else {
		json_print("", s);
		puts(",");
	}
}

static void
ratio(const char *key, uint64_t n, uint64_t whole)
{
	if (whole > 0)
		printf("  \"%s\": %.4f,\n", key, (double)n / (double)whole);
	else
		printf("  \"%s\": null,\n", key);
}

/* What can be told of every image with a good header. */
static void
json_identity(const struct facts *x)
{
	string_or_null("image", x->path);
	string_or_null("uuid", x->uuid);
	string_or_null("time", x->time);
	printf("  \"complete\": %s,\n", x->look.has_footer ? "true" : "false");
	printf("  \"readable\": %s,\n", x->look.err == 0 ? "true" : "false");
	if (features_unknown(x->h) == 0) {
		printf("  \"page-size\": %u,\n", (unsigned)x->h->page_size);
		printf("  \"unit-pages\": %u,\n", (unsigned)x->h->unit_pages);
		printf("  \"cluster-size\": %u,\n", (unsigned)x->h->cluster_size);
		printf("  \"codec\": \"%s\",\n", x->codec);
	}
}

static void
json_pages(const struct facts *x)
{
	printf("  \"pages\": {\"total\": %llu, \"stored\": %llu, \"ancestor\": %llu, "
	    "\"zero\": %llu, \"absent\": %llu},\n", (ull)x->f->npages, (ull)x->f->stored,
	    (ull)x->f->ancestor, (ull)x->f->zero, (ull)x->absent);
}

static void
json_ancestors(const struct facts *x)
{
	char uuid[37];
	size_t i;

	fputs("  \"ancestors\": [", stdout);
	for (i = 0; i < x->nanc; i++) {
		uuid_format(uuid, x->anc[i].uuid);
		printf("%s\n    {\"uuid\": \"%s\"", i == 0 ? "" : ",", uuid);
		json_print(", \"path\": ", x->anc[i].path);
		putchar('}');
	}
	puts(x->nanc > 0 ? "\n  ]," : "],");
}

static void
json_hot(const struct facts *x, const struct image *im)
{
	printf("  \"hot-pages\": %llu,\n", (ull)hot_embedded(im));
	if (x->hot.n > 0)
		printf("  \"hot-list\": {\"where\": \"%s\", \"pages\": %llu},\n",
		    x->hot.beside ? "beside" : "embedded", (ull)x->hot.n);
	else
		puts("  \"hot-list\": null,");
}

static void
json_devices(const struct facts *x)
{
	const struct device *d;
	const char *why = no_devices(x);
	size_t i;

	printf("  \"description\": \"%s\",\n", why != NULL ? why : "good");
	if (why != NULL) {
		puts("  \"devices\": null,");
		return;
	}
	fputs("  \"devices\": [", stdout);
	for (i = 0; i < x->dev.n; i++) {
		d = &x->dev.dev[i];
		json_print(i == 0 ? "\n    {\"name\": " : ",\n    {\"name\": ", d->name);
		printf(", \"instance\": %lu, \"version\": ", (unsigned long)d->instance);
		if (d->has_version)
			printf("%lu}", (unsigned long)d->version);
		else
			fputs("null}", stdout);
	}
	puts(x->dev.n > 0 ? "\n  ]," : "],");
}

static void
json_blocks(const struct facts *x)
{
	size_t i, k;

	fputs("  \"blocks\": [", stdout);
	for (i = 0; i < x->ram->nblk; i++) {
		json_print(i == 0 ? "\n    {\"id\": " : ",\n    {\"id\": ", x->ram->blk[i].id);
		printf(", \"length\": %llu", (ull)x->ram->blk[i].len);
		for (k = 0; k < 4; k++)
			if (x->block != NULL && x->block[i].known)
				printf(", \"%s\": %llu", states[k].key,
				    (ull)x->block[i].count[states[k].state]);
			else
				printf(", \"%s\": null", states[k].key);
		putchar('}');
	}
	puts("\n  ],");
}

static void
json_disks(const struct facts *x)
{
	const struct disk *d;
	unsigned i;

	fputs("  \"disks\": [", stdout);
	for (i = 0; i < x->disks.n; i++) {
		d = &x->disks.disk[i];
		json_print(i == 0 ? "\n    {\"name\": " : ",\n    {\"name\": ", d->name);
		json_print(", \"file\": ", d->file);
		json_print(", \"format\": ", d->format);
		json_print(", \"next\": ", d->next);
		putchar('}');
	}
	puts(i == 0 ? "]," : "\n  ],");
}

static void
json_whole(const struct facts *x, const struct image *im)
{
	string_or_null("label", x->label);
	string_or_null("machine", x->machine);
	printf("  \"from\": \"%s\",\n", x->kind);
	printf("  \"postcopy\": %s,\n", x->postcopy ? "true" : "false");
	printf("  \"guest-size\": %llu,\n", (ull)x->guest_size);
	printf("  \"data-size\": %llu,\n", (ull)x->data_size);
	ratio("size-ratio", x->f->file_len, x->guest_size);
	ratio("compression-ratio", x->data_size, x->stored_size);
	json_pages(x);
	json_ancestors(x);
	json_hot(x, im);
	json_disks(x);
	printf("  \"device-state\": %llu,\n", (ull)x->device_state);
	json_devices(x);
	json_blocks(x);
}

static void
print_programs(const struct facts *x, const struct image *im)
{
	puts("{");
	json_identity(x);
	if (x->look.whole)
		json_whole(x, im);
	printf("  \"file-size\": %llu\n}\n", (ull)x->look.len);
}

int
run_info(const struct options *o)
{
	struct facts x;
	struct image *im;

	memset(&x, 0, sizeof x);
	x.path = o->file[0];
	if ((im = image_look(x.path, &x.look)) == NULL)
		return x.look.err;
	x.err = x.look.err;
	collect_header(&x, im);
	if (x.look.whole)
		collect(&x, im);
	/* What a system in need did not let us see is not told as if it were not there. */
	if (x.err != SNAP_ESYS) {
		if (o->json)
			print_programs(&x, im);
		else
			print_human(&x);
	}
	free(x.block);
	devices_free(&x.dev);
	hot_free(&x.hot);
	disks_free(&x.disks);
	image_close(im);
	return close_stdout(x.err);
}
