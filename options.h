/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * options.h -- what the command line says, and the verbs that carry it out.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stddef.h>
#include <stdint.h>

enum verb {
	VERB_NONE,	/* none was given */
	VERB_UNKNOWN,	/* one that is not ours */
	VERB_SAVE,
	VERB_LOAD,
	VERB_INFO,
	VERB_CHECK,
	VERB_OPTIMIZE,
	VERB_EXPORT,
	VERB_IMPORT,
	VERB_DIFF,
	VERB_TAKE,
	VERB_REVERT,
	VERB_STATUS
};

struct leash;

enum { HOST_PAGES_MAX = 64 };

/* What an image is made to, or of. */
enum form { FORM_ANY, FORM_STREAM, FORM_MAPPED, FORM_RAW, FORM_LIME };

struct options {
	enum verb verb;
	char **file;		/* the arguments of the verb; parts of argv */
	int nfile;
	int help, version;	/* asked for: nothing else is to be done */

	uint64_t max_size;	/* --image-size, bytes */
	int io_flags;		/* IO_*, from --cache */
	int unsafe;
	unsigned threads;	/* --aio; see options_threads() */
	uint32_t page_size;	/* 0: the stream's */
	uint32_t cluster_size;	/* bytes */
	uint32_t unit_pages;
	int reproducible;
	int have_codec;		/* --compress */
	const struct codec *codec;	/* NULL: none */
	int level;
	const char *base;	/* --base, or NULL */
	int percent;		/* --postcopy; -1: precopy */
	int resume;
	int have_uuid;		/* --uuid */
	uint8_t uuid[16];
	const char *record;	/* a file; "": beside the image; NULL: not asked for */
	int no_hot;
	uint64_t rate;		/* bytes a second; 0: no limit */
	struct host_page {
		const char *block;	/* part of argv, not ended; NULL: the largest blocks */
		size_t len;		/* of the name */
		uint32_t size;		/* bytes */
	} host_page[HOST_PAGES_MAX];	/* --host-page-size; the last one of a block counts */
	unsigned nhost_page;
	enum form form;		/* --to, --from; FORM_ANY: not told */
	const char *block;	/* --block, or NULL */
	const char *label;	/* NULL: not given */
	int quick, json, trace;
	int list, paranoid;
	int progress;
	int status_fd;		/* --status-fd; -1: none */
	int stop;
	const char *disk_names;	/* --disks, with commas between; "": all; NULL: not asked for */
	const uint8_t *disks;	/* a section for the image, see disks.h; or NULL */
	size_t disks_len;
	const struct leash *leash;	/* see child.h; or NULL */
};

/*
 * Read the command line; argv is reordered: the verb's arguments come last.
 * 0, or SNAP_ESYS after a message; o->verb is right even then.
 */
int options_parse(struct options *o, int argc, char **argv);

/* What o's verb is called. */
const char *options_verb(const struct options *o);

/* Workers of a pool, as --aio says, or as suits the processors.  owner_works: while pages are
 * encoded or checked, the owner has nothing to do; while they are copied, it has. */
unsigned options_threads(const struct options *o, int owner_works);

/*
 * Read the stream on stdin up to where it may be left, and store nothing: what a
 * source is owed, whatever was wrong with the command line.  A source that waits
 * for an answer is told of a failure.
 */
void refuse_stream(void);

/* What a verb returns: 0, or SNAP_E* after a message. */
int run_save(const struct options *o);
int run_load(const struct options *o);
int run_info(const struct options *o);
int run_check(const struct options *o);
int run_optimize(const struct options *o);
int run_export(const struct options *o);
int run_import(const struct options *o);
int run_diff(const struct options *o);
int run_take(const struct options *o);
int run_revert(const struct options *o);
int run_status(const struct options *o);

#endif
