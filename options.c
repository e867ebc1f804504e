/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * options.c -- the command line.
 *
 * Options may stand before or after the verb.  All words are read even after a
 * mistake: who calls us by mistake is still to be served (a migration stream
 * drained, a waiting destination told), and that depends on the verb.
 */
#include "options.h"

#include <sys/stat.h>

#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "aio.h"
#include "codec.h"
#include "layout.h"
#include "snap.h"

enum {
	THREADS = 4,		/* at most; more do not help a single disk or pipe */
	THREADS_MAX = 64,
	UNTOLD = THREADS_MAX + 1,
	CLUSTER_SIZE = 256 << 10,	/* as quick as larger ones, and stays in the cache */
	UNIT_PAGES = 16,
	ARGS = 2,		/* that a verb must have, at most */
	STATUS_FD_MAX = 255,	/* the guard of a save closes those */
	HOST_PAGE_MAX = 1 << 30
};

enum takes { NOTHING, VALUE, MAYBE };	/* MAYBE: --x=VALUE, or -x and a number */

enum {
	SAVE = 1 << VERB_SAVE,
	LOAD = 1 << VERB_LOAD,
	INFO = 1 << VERB_INFO,
	CHECK = 1 << VERB_CHECK,
	OPTIMIZE = 1 << VERB_OPTIMIZE,
	EXPORT = 1 << VERB_EXPORT,
	IMPORT = 1 << VERB_IMPORT,
	DIFF = 1 << VERB_DIFF,
	TAKE = 1 << VERB_TAKE,
	REVERT = 1 << VERB_REVERT,
	LOADS = LOAD | REVERT,
	WRITES = SAVE | TAKE | OPTIMIZE | IMPORT,
	USES_POOL = WRITES | LOADS | CHECK | EXPORT | DIFF,
	LONG = WRITES | LOADS | CHECK | EXPORT,	/* they take long, and tell how far they are */
	ANY = ~0
};

static const struct {
	const char *name;
	int max;		/* arguments */
	const char *arg[ARGS];	/* those that it must have */
} verbs[] = {
	[VERB_SAVE] = { "save", 1, { "image" } },
	[VERB_LOAD] = { "load", 1, { "image" } },
	[VERB_INFO] = { "info", 1, { "image" } },
	[VERB_CHECK] = { "check", INT_MAX, { "image" } },
	[VERB_OPTIMIZE] = { "optimize", 2, { "image", "new image" } },
	[VERB_EXPORT] = { "export", 2, { "image", "file to be written" } },
	[VERB_IMPORT] = { "import", 2, { "file", "new image" } },
	[VERB_DIFF] = { "diff", 2, { "image", "second image" } },
	[VERB_TAKE] = { "take", 2, { "QMP socket", "image" } },
	[VERB_REVERT] = { "revert", 2, { "QMP socket", "image" } },
	[VERB_STATUS] = { "status", 1, { "QMP socket" } }
};
enum { NVERBS = sizeof verbs / sizeof verbs[0] };

struct option {
	const char *name;
	char letter;
	enum takes takes;
	int verbs;		/* the verbs it belongs to */
	int (*set)(struct options *o, const struct option *opt, const char *value);
	size_t at;		/* of the field it sets, for those that many options share */
};

static int
wrong(const struct option *opt, const char *value, const char *what)
{
	return snap_warnx("--%s=%s: %s", opt->name, value, what);
}

/* A decimal number up to max; *end is what follows.  -1: there is none. */
static int
number(const char *s, uint64_t max, uint64_t *v, const char **end)
{
	uint64_t n = 0;

	if (*s < '0' || *s > '9')
		return -1;
	for (; *s >= '0' && *s <= '9'; s++) {
		if (n > (max - (uint64_t)(*s - '0')) / 10)
			return -1;
		n = n * 10 + (uint64_t)(*s - '0');
	}
	*v = n;
	*end = s;
	return 0;
}

static int
plain_number(const char *s, uint64_t max, uint64_t *v)
{
	const char *end;

	return number(s, max, v, &end) == 0 && *end == '\0' ? 0 : -1;
}

/* A size in bytes, with K, M, G or T behind it or not. */
static int
size(const char *s, uint64_t *v)
{
	static const char units[] = "KMGTkmgt";
	const char *end, *u;
	unsigned shift;

	if (number(s, INT64_MAX, v, &end) != 0)
		return -1;
	if (*end == '\0')
		return 0;
	if ((u = strchr(units, *end)) == NULL || end[1] != '\0')
		return -1;
	shift = 10 * ((unsigned)(u - units) % 4 + 1);
	if (*v > (uint64_t)INT64_MAX >> shift)
		return -1;
	*v <<= shift;
	return 0;
}

/* ---- what an option does ---- */

/* The field of o that the option sets. */
static void *
field(struct options *o, const struct option *opt)
{
	return (char *)o + opt->at;
}

static int
set_flag(struct options *o, const struct option *opt, const char *value)
{
	(void)value;
	*(int *)field(o, opt) = 1;
	return 0;
}

/* A name, or "" where none was given to an option that may do without. */
static int
set_name(struct options *o, const struct option *opt, const char *value)
{
	if (value != NULL && *value == '\0')
		return wrong(opt, value, "not a name");
	*(const char **)field(o, opt) = value != NULL ? value : "";
	return 0;
}

static int
set_size(struct options *o, const struct option *opt, const char *value)
{
	uint64_t *bytes = field(o, opt);

	if (size(value, bytes) == 0 && *bytes != 0)
		return 0;
	return wrong(opt, value, bytes == &o->rate ? "not a number of bytes a second" :
	    "not a size");
}

/* A size that is a power of two. */
static int
set_power(struct options *o, const struct option *opt, const char *s)
{
	uint32_t *v = field(o, opt), min = 1, max = UNIT_PAGES_MAX;
	uint64_t n;

	if (v == &o->page_size) {
		min = PAGE_SIZE_MIN;
		max = PAGE_SIZE_MAX;
	} else if (v == &o->cluster_size) {
		min = CLUSTER_MIN;
		max = CLUSTER_MAX;
	}
	if (size(s, &n) != 0 || n < min || n > max || (n & (n - 1)) != 0)
		return snap_warnx("--%s=%s: not a power of two from %u to %u", opt->name, s,
		    (unsigned)min, (unsigned)max);
	*v = (uint32_t)n;
	return 0;
}

static int
set_percent(struct options *o, const struct option *opt, const char *value)
{
	uint64_t n = 0;

	if (value != NULL && plain_number(value, 100, &n) != 0)
		return wrong(opt, value, "not a percentage from 0 to 100");
	o->percent = (int)n;
	return 0;
}

static int
set_uuid(struct options *o, const struct option *opt, const char *value)
{
	o->have_uuid = 1;
	return uuid_parse(value, o->uuid) == 0 ? 0 : wrong(opt, value, "not a UUID");
}

static int
set_label(struct options *o, const struct option *opt, const char *value)
{
	o->label = value;
	return strlen(value) <= LABEL_MAX ? 0 :
	    snap_warnx("--%s: longer than %d bytes", opt->name, (int)LABEL_MAX);
}

/* A mode; --nocache has no value and is short for one. */
static int
set_cache(struct options *o, const struct option *opt, const char *mode)
{
	static const struct { const char *name; int flags, unsafe; } modes[] = {
		{ "writeback", 0, 0 },
		{ "none", IO_DIRECT, 0 },
		{ "writethrough", IO_DSYNC, 0 },
		{ "directsync", IO_DIRECT | IO_DSYNC, 0 },
		{ "unsafe", 0, 1 }
	};
	size_t i;

	if (mode == NULL)
		mode = "none";
	for (i = 0; i < sizeof modes / sizeof modes[0]; i++)
		if (strcmp(mode, modes[i].name) == 0) {
			o->io_flags = modes[i].flags;
			o->unsafe = modes[i].unsafe;
			return 0;
		}
	return wrong(opt, mode, "not writeback, none, writethrough, directsync or unsafe");
}

static int
set_aio(struct options *o, const struct option *opt, const char *s)
{
	uint64_t n;

	if (strcmp(s, "threads") == 0 || strcmp(s, "native") == 0 ||
	    strcmp(s, "io_uring") == 0)
		return 0;
	if (strncmp(s, "threads,", 8) != 0 ||
	    plain_number(s + 8, THREADS_MAX, &n) != 0)
		return wrong(opt, s, "not threads, threads,N (0 to 64), native or io_uring");
	o->threads = (unsigned)n;
	return 0;
}

/* NAME or NAME:LEVEL. */
static int
set_codec(struct options *o, const struct option *opt, const char *s)
{
	size_t n = strcspn(s, ":");
	uint64_t level;

	o->have_codec = 1;
	o->codec = NULL;
	if (strcmp(s, "none") == 0)
		return 0;
	if (n != 4 || strncmp(s, "zstd", n) != 0)
		return wrong(opt, s, "not none or zstd, zstd:LEVEL");
	if ((o->codec = codec_zstd) == NULL)
		return wrong(opt, s, "this qemu-snap was built without zstd");
	o->level = o->codec->usual;
	if (s[n] == '\0')
		return 0;
	if (plain_number(s + n + 1, (uint64_t)o->codec->most, &level) != 0 ||
	    level < (uint64_t)o->codec->least)
		return snap_warnx("--%s=%s: not a level from %d to %d", opt->name, s,
		    o->codec->least, o->codec->most);
	o->level = (int)level;
	return 0;
}

/* [BLOCK=]SIZE; the name of a block may hold anything. */
static int
set_host_page(struct options *o, const struct option *opt, const char *s)
{
	const char *sign = strrchr(s, '=');
	struct host_page *h = &o->host_page[o->nhost_page];
	uint64_t n;

	if (o->nhost_page == HOST_PAGES_MAX)
		return wrong(opt, s, "more of them than a guest has such blocks");
	h->block = sign != NULL ? s : NULL;
	h->len = sign != NULL ? (size_t)(sign - s) : 0;
	if (size(sign != NULL ? sign + 1 : s, &n) != 0 || n < PAGE_SIZE_MIN ||
	    n > HOST_PAGE_MAX || (n & (n - 1)) != 0)
		return wrong(opt, s, "not SIZE or BLOCK=SIZE, a power of two from 1K to 1G");
	h->size = (uint32_t)n;
	o->nhost_page++;
	return 0;
}

/* One that we can write to: it was opened by whoever started us. */
static int
set_status_fd(struct options *o, const struct option *opt, const char *value)
{
	uint64_t n;
	int flags;

	if (plain_number(value, STATUS_FD_MAX, &n) != 0)
		return wrong(opt, value, "not a descriptor from 0 to 255");
	flags = fcntl((int)n, F_GETFL);
	if (flags < 0)
		return wrong(opt, value, "this descriptor is not open");
	if ((flags & O_ACCMODE) == O_RDONLY)
		return wrong(opt, value, "this descriptor is not open for writing");
	o->status_fd = (int)n;
	return 0;
}

static int
set_form(struct options *o, const struct option *opt, const char *s)
{
	static const struct { const char *name; enum form form; int verbs; } forms[] = {
		{ "stream", FORM_STREAM, EXPORT | IMPORT },
		{ "mapped-ram", FORM_MAPPED, EXPORT | IMPORT },
		{ "raw", FORM_RAW, EXPORT },
		{ "lime", FORM_LIME, EXPORT }
	};
	size_t i;

	for (i = 0; i < sizeof forms / sizeof forms[0]; i++)
		if (strcmp(s, forms[i].name) == 0 && (forms[i].verbs & opt->verbs)) {
			o->form = forms[i].form;
			return 0;
		}
	return wrong(opt, s, opt->verbs & EXPORT ? "not stream, mapped-ram, raw or lime" :
	    "not stream or mapped-ram");
}

#define AT(f)	offsetof(struct options, f)

static const struct option options[] = {
	{ "image-size", 's', VALUE, WRITES, set_size, AT(max_size) },
	{ "nocache", 'n', NOTHING, USES_POOL, set_cache, 0 },
	{ "cache", 0, VALUE, USES_POOL, set_cache, 0 },
	{ "aio", 0, VALUE, USES_POOL, set_aio, 0 },
	{ "page-size", 'S', VALUE, SAVE | TAKE | LOADS | IMPORT, set_power, AT(page_size) },
	{ "postcopy", 'p', MAYBE, LOADS, set_percent, 0 },
	{ "resume", 0, NOTHING, LOADS, set_flag, AT(resume) },
	{ "uuid", 0, VALUE, LOADS, set_uuid, 0 },
	{ "rate", 0, VALUE, LOADS, set_size, AT(rate) },
	{ "host-page-size", 0, VALUE, LOADS, set_host_page, 0 },
	{ "reproducible", 0, NOTHING, WRITES, set_flag, AT(reproducible) },
	{ "cluster-size", 0, VALUE, WRITES, set_power, AT(cluster_size) },
	{ "unit-pages", 0, VALUE, WRITES, set_power, AT(unit_pages) },
	{ "compress", 0, VALUE, WRITES, set_codec, 0 },
	{ "base", 0, VALUE, WRITES, set_name, AT(base) },
	{ "record", 0, MAYBE, LOADS, set_name, AT(record) },
	{ "no-hot", 0, NOTHING, LOADS | OPTIMIZE, set_flag, AT(no_hot) },
	{ "label", 0, VALUE, WRITES, set_label, 0 },
	{ "quick", 0, NOTHING, CHECK, set_flag, AT(quick) },
	{ "to", 0, VALUE, EXPORT, set_form, 0 },
	{ "from", 0, VALUE, IMPORT, set_form, 0 },
	{ "block", 0, VALUE, EXPORT, set_name, AT(block) },
	{ "list", 0, NOTHING, DIFF, set_flag, AT(list) },
	{ "paranoid", 0, NOTHING, DIFF, set_flag, AT(paranoid) },
	{ "json", 0, NOTHING, INFO | DIFF, set_flag, AT(json) },
	{ "trace", 't', NOTHING, SAVE | TAKE | LOADS, set_flag, AT(trace) },
	{ "progress", 0, NOTHING, LONG, set_flag, AT(progress) },
	{ "status-fd", 0, VALUE, LONG, set_status_fd, 0 },
	{ "disks", 0, MAYBE, TAKE, set_name, AT(disk_names) },
	{ "stop", 0, NOTHING, TAKE, set_flag, AT(stop) },
	{ "version", 'V', NOTHING, ANY, set_flag, AT(version) },
	{ "help", 'h', NOTHING, ANY, set_flag, AT(help) }
};
enum { NOPTIONS = sizeof options / sizeof options[0] };

/* ---- the words ---- */

static char *
next_word(char ***next)
{
	return **next != NULL ? *(*next)++ : NULL;
}

const char *
options_verb(const struct options *o)
{
	return verbs[o->verb].name;
}

/* --name, --name=value, or --name and the value in the next word. */
static int
long_option(struct options *o, const char *word, char ***next, uint64_t *seen)
{
	size_t len = strcspn(word, "=");
	const char *value = word[len] == '=' ? word + len + 1 : NULL;
	const struct option *opt = options;

	while (opt < options + NOPTIONS &&
	    (strlen(opt->name) != len || memcmp(opt->name, word, len) != 0))
		opt++;
	if (opt == options + NOPTIONS)
		return snap_warnx("--%.*s: no such option", (int)len, word);
	*seen |= UINT64_C(1) << (opt - options);
	if (opt->takes == VALUE && value == NULL && (value = next_word(next)) == NULL)
		return snap_warnx("--%s: its value is missing", word);
	if (opt->takes == NOTHING && value != NULL)
		return wrong(opt, value, "takes no value");
	return opt->set(o, opt, value);
}

/* Letters behind one dash; the last may take the rest of the word, or the next. */
static int
short_options(struct options *o, const char *word, char ***next, uint64_t *seen)
{
	const struct option *opt;
	const char *value;
	uint64_t n;
	int err = 0;

	while (*word != '\0' && err == 0) {
		for (opt = options; opt < options + NOPTIONS && opt->letter != *word; opt++)
			;
		if (opt == options + NOPTIONS)
			return snap_warnx("-%c: no such option", *word);
		*seen |= UINT64_C(1) << (opt - options);
		word++;
		value = NULL;
		if (opt->takes != NOTHING && *word != '\0') {
			value = word;
			word += strlen(word);
		} else if (opt->takes == VALUE) {
			if ((value = next_word(next)) == NULL)
				return snap_warnx("-%c: its value is missing", opt->letter);
		} else if (opt->takes == MAYBE && **next != NULL &&
		    plain_number(**next, 100, &n) == 0)
			value = next_word(next);
		err = opt->set(o, opt, value);
	}
	return err;
}

static enum verb
verb_named(const char *word)
{
	unsigned v = VERB_SAVE;

	while (v < NVERBS && strcmp(word, verbs[v].name) != 0)
		v++;
	return v < NVERBS ? (enum verb)v : VERB_UNKNOWN;
}

/* Does the descriptor lead to the same place as stdout? */
static int
is_stdout(int fd)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && fstat(STDOUT_FILENO, &b) == 0 && a.st_dev == b.st_dev &&
	    a.st_ino == b.st_ino && !S_ISCHR(b.st_mode);
}

/* Do the options belong to the verb, and to each other? */
static int
check_options(const struct options *o, uint64_t seen)
{
	unsigned i;

	for (i = 0; i < NOPTIONS; i++)
		if ((seen >> i & 1) && !(options[i].verbs >> o->verb & 1))
			return snap_warnx("--%s: not for %s", options[i].name, options_verb(o));
	if ((o->rate != 0 || o->nhost_page > 0) && o->percent < 0 && !o->resume)
		return snap_warnx("--%s: only with --postcopy or --resume",
		    o->rate != 0 ? "rate" : "host-page-size");
	if (o->record != NULL && (o->percent != 0 || o->resume))
		return snap_warnx("--record: only with --postcopy, from the first page on");
	if (o->no_hot && (LOADS >> o->verb & 1) && o->percent < 0)
		return snap_warnx("--no-hot: only with --postcopy");
	if (o->verb == VERB_EXPORT && o->form == FORM_ANY)
		return snap_warnx("export: --to=stream, mapped-ram, raw or lime is missing");
	if (o->block != NULL && (o->form == FORM_STREAM || o->form == FORM_MAPPED))
		return snap_warnx("--block: only with --to=raw or --to=lime");
	if (((SAVE | TAKE | LOADS) >> o->verb & 1) &&
	    (o->status_fd == STDIN_FILENO || o->status_fd == STDOUT_FILENO ||
	    (o->verb == VERB_LOAD && o->status_fd >= 0 && is_stdout(o->status_fd))))
		return snap_warnx("--status-fd=%d: there the stream goes, or the answer to it",
		    o->status_fd);
	return 0;
}

/* Has the verb its arguments, and no more? */
static int
check_arguments(const struct options *o)
{
	const char *verb = verbs[o->verb].name, *missing;
	uint64_t n;

	missing = o->nfile < ARGS ? verbs[o->verb].arg[o->nfile] : NULL;
	if (missing != NULL)
		return snap_warnx("%s: the name of the %s is missing", verb, missing);
	if (o->verb == VERB_LOAD && o->percent >= 0 && o->nfile > 1 &&
	    plain_number(o->file[0], UINT64_MAX, &n) == 0)
		return snap_warnx("load: %s is taken for an image: say -p N or --postcopy=N, "
		    "N from 0 to 100", o->file[0]);
	if (o->nfile > verbs[o->verb].max)
		return snap_warnx("%s: one argument too many: %s", verb,
		    o->file[verbs[o->verb].max]);
	return 0;
}

unsigned
options_threads(const struct options *o, int owner_works)
{
	return o->threads != UNTOLD ? o->threads : aio_workers(THREADS, owner_works);
}

int
options_parse(struct options *o, int argc, char **argv)
{
	char **next = argv + (argc > 0), *word, *verb = NULL;
	uint64_t seen = 0;
	int only_words = 0, err = 0, e;

	memset(o, 0, sizeof *o);
	o->max_size = INT64_MAX;
	o->threads = UNTOLD;
	o->cluster_size = CLUSTER_SIZE;
	o->unit_pages = UNIT_PAGES;
	o->percent = -1;
	o->status_fd = -1;
	o->file = next;
	while ((word = next_word(&next)) != NULL) {
		e = 0;
		if (only_words || word[0] != '-' || word[1] == '\0') {
			if (verb == NULL)
				o->verb = verb_named(verb = word);
			else
				o->file[o->nfile++] = word;
		} else if (strcmp(word, "--") == 0)
			only_words = 1;
		else if (word[1] == '-')
			e = long_option(o, word + 2, &next, &seen);
		else
			e = short_options(o, word + 1, &next, &seen);
		if (err == 0)
			err = e;
	}
	if (err != 0 || o->help || o->version)
		return err;
	if (o->verb == VERB_NONE)
		return snap_warnx("no verb; --help tells them");
	if (o->verb == VERB_UNKNOWN)
		return snap_warnx("%s: no such verb; it comes before the image, and --help tells "
		    "them", verb);
	return (err = check_options(o, seen)) != 0 ? err : check_arguments(o);
}
