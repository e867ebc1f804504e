/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * info.c -- what is in an image, for people and for programs.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "codec.h"
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

	if (tm == NULL || strftime(s, size, "%Y-%m-%dT%H:%M:%SZ", tm) == 0)
		*s = '\0';
}

/* A size as people read it, with the bytes where they say more. */
static void
print_size(const char *name, uint64_t n)
{
	static const char units[] = "KMGTPE";
	double v = (double)n;
	int u = -1;

	for (; v >= 1024 && u < 5; u++)
		v /= 1024;
	if (u < 0)
		printf("%-14s %llu bytes\n", name, (unsigned long long)n);
	else
		printf("%-14s %.1f %ciB (%llu bytes)\n", name, v, units[u],
		    (unsigned long long)n);
}

struct facts {
	char uuid[37], time[32];
	const struct ram_map *ram;
	const struct image_header *h;
	const struct image_footer *f;
	uint64_t absent, device_state;
	const char *kind, *codec;
	const struct ancestor *anc;
	unsigned nanc;
	uint64_t hot;		/* pages in the hot list in the image */
	int postcopy;
};

static void
collect(struct facts *x, const struct image *im)
{
	x->ram = image_ram(im);
	x->h = image_header(im);
	x->f = image_footer(im);
	uuid_format(x->uuid, x->f->uuid);
	format_time(x->time, sizeof x->time, x->f->time);
	x->absent = x->f->npages - x->f->stored - x->f->zero - x->f->ancestor;
	x->device_state = footer_section(x->f, SEC_TAIL)->extra;
	x->codec = x->h->incompat & FEATURE_CODEC ? codec_name(CODEC_ZSTD) : "none";
	x->nanc = image_ancestors(im, &x->anc);
	x->hot = hot_embedded(im);
	x->kind = x->f->flags & IMAGE_ENDED ? "migration" : "background snapshot";
	x->postcopy = !(x->f->flags & IMAGE_IGNORE_SHARED);
}

static void
print_human(const struct facts *x, const char *path)
{
	const struct ram_block *b;
	char uuid[37];
	size_t i;

	fputs("image          ", stdout);
	print_name(path);
	printf("\nUUID           %s\n", x->uuid);
	printf("taken          %s\n", x->time[0] != '\0' ? x->time : "not told");
	printf("from           %s\n", x->kind);
	printf("loads in       %s\n", x->postcopy ? "precopy and postcopy" :
	    "precopy only: saved with x-ignore-shared");
	print_size("file", x->f->file_len);
	print_size("guest RAM", x->f->npages * x->h->page_size);
	printf("page size      %u bytes\n", (unsigned)x->h->page_size);
	printf("pages          %llu: %llu stored, ", (unsigned long long)x->f->npages,
	    (unsigned long long)x->f->stored);
	if (x->nanc > 0)
		printf("%llu in ancestors, ", (unsigned long long)x->f->ancestor);
	printf("%llu zero, %llu absent\n", (unsigned long long)x->f->zero,
	    (unsigned long long)x->absent);
	print_size("device state", x->device_state);
	printf("units          %u pages, compression: %s; clusters of %u bytes\n",
	    (unsigned)x->h->unit_pages, x->codec, (unsigned)x->h->cluster_size);
	if (x->hot > 0)
		printf("hot list       %llu pages\n", (unsigned long long)x->hot);
	for (i = 0; i < x->nanc; i++) {
		uuid_format(uuid, x->anc[i].uuid);
		printf("%s%s  ", i == 0 ? "based on       " : "               ", uuid);
		print_name(x->anc[i].path);
		putchar('\n');
	}
	for (i = 0; i < x->ram->nblk; i++) {
		b = &x->ram->blk[i];
		fputs(i == 0 ? "blocks         " : "               ", stdout);
		printf("%12llu  ", (unsigned long long)b->len);
		print_name(b->id);
		putchar('\n');
	}
}

static void
print_programs(const struct facts *x, const char *path)
{
	char uuid[37];
	size_t i;

	fputs("{\n  \"image\": ", stdout);
	json_string(stdout, path);
	printf(",\n  \"uuid\": \"%s\",\n", x->uuid);
	if (x->time[0] != '\0')
		printf("  \"time\": \"%s\",\n", x->time);
	else
		puts("  \"time\": null,");
	printf("  \"from\": \"%s\",\n", x->kind);
	printf("  \"postcopy\": %s,\n", x->postcopy ? "true" : "false");
	printf("  \"file-size\": %llu,\n", (unsigned long long)x->f->file_len);
	printf("  \"page-size\": %u,\n", (unsigned)x->h->page_size);
	printf("  \"unit-pages\": %u,\n", (unsigned)x->h->unit_pages);
	printf("  \"cluster-size\": %u,\n", (unsigned)x->h->cluster_size);
	printf("  \"codec\": \"%s\",\n", x->codec);
	printf("  \"pages\": {\"total\": %llu, \"stored\": %llu, \"ancestor\": %llu, "
	    "\"zero\": %llu, \"absent\": %llu},\n",
	    (unsigned long long)x->f->npages, (unsigned long long)x->f->stored,
	    (unsigned long long)x->f->ancestor, (unsigned long long)x->f->zero,
	    (unsigned long long)x->absent);
	fputs("  \"ancestors\": [", stdout);
	for (i = 0; i < x->nanc; i++) {
		uuid_format(uuid, x->anc[i].uuid);
		printf("%s\n    {\"uuid\": \"%s\", \"path\": ", i == 0 ? "" : ",", uuid);
		json_string(stdout, x->anc[i].path);
		putchar('}');
	}
	puts(x->nanc > 0 ? "\n  ]," : "],");
	printf("  \"hot-pages\": %llu,\n", (unsigned long long)x->hot);
	printf("  \"device-state\": %llu,\n", (unsigned long long)x->device_state);
	fputs("  \"blocks\": [", stdout);
	for (i = 0; i < x->ram->nblk; i++) {
		fputs(i == 0 ? "\n    {\"id\": " : ",\n    {\"id\": ", stdout);
		json_string(stdout, x->ram->blk[i].id);
		printf(", \"length\": %llu}", (unsigned long long)x->ram->blk[i].len);
	}
	puts("\n  ]\n}");
}

int
run_info(const struct options *o)
{
	struct image *im;
	struct facts x;
	int err;

	if ((im = image_open(o->file[0], 0, &err)) == NULL)
		return err;
	collect(&x, im);
	if (o->json)
		print_programs(&x, o->file[0]);
	else
		print_human(&x, o->file[0]);
	image_close(im);
	return close_stdout(0);
}
