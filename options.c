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

enum id {
	O_IMAGE_SIZE, O_NOCACHE, O_CACHE, O_AIO, O_PAGE_SIZE, O_POSTCOPY, O_RATE, O_HOST_PAGE_SIZE,
	O_RESUME, O_UUID, O_REPRODUCIBLE, O_CLUSTER_SIZE, O_UNIT_PAGES, O_COMPRESS, O_BASE,
	O_RECORD, O_NO_HOT, O_LABEL, O_TO, O_FROM, O_BLOCK, O_LIST, O_PARANOID, O_QUICK, O_JSON,
	O_TRACE, O_PROGRESS, O_STATUS_FD, O_DISKS, O_STOP, O_VERSION, O_HELP
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

static const struct option {
	const char *name;
	char letter;
	enum id id;
	enum takes takes;
	int verbs;		/* the verbs it belongs to */
} options[] = {
	{ "image-size",		's', O_IMAGE_SIZE,	VALUE,	WRITES },
	{ "nocache",		'n', O_NOCACHE,		NOTHING, USES_POOL },
	{ "cache",		0,   O_CACHE,		VALUE,	USES_POOL },
	{ "aio",		0,   O_AIO,		VALUE,	USES_POOL },
	{ "page-size",		'S', O_PAGE_SIZE,	VALUE,	SAVE | TAKE | LOADS | IMPORT },
	{ "postcopy",		'p', O_POSTCOPY,	MAYBE,	LOADS },
	{ "resume",		0,   O_RESUME,		NOTHING, LOADS },
	{ "uuid",		0,   O_UUID,		VALUE,	LOADS },
	{ "rate",		0,   O_RATE,		VALUE,	LOADS },
	{ "host-page-size",	0,   O_HOST_PAGE_SIZE,	VALUE,	LOADS },
	{ "reproducible",	0,   O_REPRODUCIBLE,	NOTHING, WRITES },
	{ "cluster-size",	0,   O_CLUSTER_SIZE,	VALUE,	WRITES },
	{ "unit-pages",		0,   O_UNIT_PAGES,	VALUE,	WRITES },
	{ "compress",		0,   O_COMPRESS,	VALUE,	WRITES },
	{ "base",		0,   O_BASE,		VALUE,	WRITES },
	{ "record",		0,   O_RECORD,		MAYBE,	LOADS },
	{ "no-hot",		0,   O_NO_HOT,		NOTHING, LOADS | OPTIMIZE },
	{ "label",		0,   O_LABEL,		VALUE,	WRITES },
	{ "quick",		0,   O_QUICK,		NOTHING, CHECK },
	{ "to",			0,   O_TO,		VALUE,	EXPORT },
	{ "from",		0,   O_FROM,		VALUE,	IMPORT },
	{ "block",		0,   O_BLOCK,		VALUE,	EXPORT },
	{ "list",		0,   O_LIST,		NOTHING, DIFF },
	{ "paranoid",		0,   O_PARANOID,	NOTHING, DIFF },
	{ "json",		0,   O_JSON,		NOTHING, INFO | DIFF },
	{ "trace",		't', O_TRACE,		NOTHING, SAVE | TAKE | LOADS },
	{ "progress",		0,   O_PROGRESS,	NOTHING, LONG },
	{ "status-fd",		0,   O_STATUS_FD,	VALUE,	LONG },
	{ "disks",		0,   O_DISKS,		MAYBE,	TAKE },
	{ "stop",		0,   O_STOP,		NOTHING, TAKE },
	{ "version",		'V', O_VERSION,		NOTHING, ANY },
	{ "help",		'h', O_HELP,		NOTHING, ANY }
};
enum { NOPTIONS = sizeof options / sizeof options[0] };

static const struct {
	const char *name;
	enum verb verb;
	int max;		/* arguments */
	const char *arg[ARGS];	/* those that it must have */
} verbs[] = {
	{ "save", VERB_SAVE, 1, { "image" } },
	{ "load", VERB_LOAD, 1, { "image" } },
	{ "info", VERB_INFO, 1, { "image" } },
	{ "check", VERB_CHECK, INT_MAX, { "image" } },
	{ "optimize", VERB_OPTIMIZE, 2, { "image", "new image" } },
	{ "export", VERB_EXPORT, 2, { "image", "file to be written" } },
	{ "import", VERB_IMPORT, 2, { "file", "new image" } },
	{ "diff", VERB_DIFF, 2, { "image", "second image" } },
	{ "take", VERB_TAKE, 2, { "QMP socket", "image" } },
	{ "revert", VERB_REVERT, 2, { "QMP socket", "image" } },
	{ "status", VERB_STATUS, 1, { "QMP socket" } }
};
enum { NVERBS = sizeof verbs / sizeof verbs[0] };

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

/* A size that is a power of two between min and max. */
static int
size_between(const struct option *opt, const char *s, uint32_t min, uint32_t max,
    uint32_t *v)
{
	uint64_t n;

	if (size(s, &n) != 0 || n < min || n > max || (n & (n - 1)) != 0)
		return snap_warnx("--%s=%s: not a power of two from %u to %u", opt->name, s,
		    (unsigned)min, (unsigned)max);
	*v = (uint32_t)n;
	return 0;
}

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
	o->codec = codec_named(s, n);
	if (o->codec == NULL && strcmp(s, "none") == 0)
		return 0;
	if (o->codec == NULL)
		return wrong(opt, s, n == 4 && strncmp(s, "zstd", n) == 0 ?
		    "this qemu-snap was built without zstd" : "not none or zstd, zstd:LEVEL");
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
add_host_page(struct options *o, const struct option *opt, const char *s)
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

/* Does the descriptor lead to the same place as stdout? */
static int
is_stdout(int fd)
{
	struct stat a, b;

	return fstat(fd, &a) == 0 && fstat(STDOUT_FILENO, &b) == 0 && a.st_dev == b.st_dev &&
	    a.st_ino == b.st_ino && !S_ISCHR(b.st_mode);
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
	return wrong(opt, s, opt->id == O_TO ? "not stream, mapped-ram, raw or lime" :
	    "not stream or mapped-ram");
}

static int
set(struct options *o, const struct option *opt, const char *value)
{
	uint64_t n;

	switch (opt->id) {
	case O_IMAGE_SIZE:
		if (size(value, &o->max_size) != 0 || o->max_size == 0)
			return wrong(opt, value, "not a size");
		return 0;
	case O_NOCACHE:
		return set_cache(o, opt, "none");
	case O_CACHE:
		return set_cache(o, opt, value);
	case O_AIO:
		return set_aio(o, opt, value);
	case O_PAGE_SIZE:
		return size_between(opt, value, PAGE_SIZE_MIN, PAGE_SIZE_MAX,
		    &o->page_size);
	case O_POSTCOPY:
		o->percent = 0;
		if (value == NULL)
			return 0;
		if (plain_number(value, 100, &n) != 0)
			return wrong(opt, value, "not a percentage from 0 to 100");
		o->percent = (int)n;
		return 0;
	case O_RATE:
		if (size(value, &o->rate) != 0 || o->rate == 0)
			return wrong(opt, value, "not a number of bytes a second");
		return 0;
	case O_HOST_PAGE_SIZE:
		return add_host_page(o, opt, value);
	case O_RESUME:
		o->resume = 1;
		return 0;
	case O_UUID:
		o->have_uuid = 1;
		if (uuid_parse(value, o->uuid) != 0)
			return wrong(opt, value, "not a UUID");
		return 0;
	case O_REPRODUCIBLE:
		o->reproducible = 1;
		return 0;
	case O_CLUSTER_SIZE:
		return size_between(opt, value, CLUSTER_MIN, CLUSTER_MAX,
		    &o->cluster_size);
	case O_UNIT_PAGES:
		return size_between(opt, value, 1, UNIT_PAGES_MAX, &o->unit_pages);
	case O_COMPRESS:
		return set_codec(o, opt, value);
	case O_BASE:
		if (*value == '\0')
			return wrong(opt, value, "not a name");
		o->base = value;
		return 0;
	case O_RECORD:
		if (value != NULL && *value == '\0')
			return wrong(opt, value, "not a name");
		o->record = 1;
		o->record_to = value;
		return 0;
	case O_NO_HOT:
		o->no_hot = 1;
		return 0;
	case O_TO:
	case O_FROM:
		return set_form(o, opt, value);
	case O_BLOCK:
		if (*value == '\0')
			return wrong(opt, value, "not a name");
		o->block = value;
		return 0;
	case O_LIST:
		o->list = 1;
		return 0;
	case O_PARANOID:
		o->paranoid = 1;
		return 0;
	case O_LABEL:
		o->label = value;
		if (strlen(value) <= LABEL_MAX)
			return 0;
		return snap_warnx("--label: longer than %d bytes", (int)LABEL_MAX);
	case O_QUICK:
		o->quick = 1;
		return 0;
	case O_JSON:
		o->json = 1;
		return 0;
	case O_TRACE:
		o->trace = 1;
		return 0;
	case O_PROGRESS:
		o->progress = 1;
		return 0;
	case O_STATUS_FD:
		return set_status_fd(o, opt, value);
	case O_DISKS:
		if (value != NULL && *value == '\0')
			return wrong(opt, value, "not a name");
		o->with_disks = 1;
		o->disk_names = value;
		return 0;
	case O_STOP:
		o->stop = 1;
		return 0;
	case O_VERSION:
		o->version = 1;
		return 0;
	case O_HELP:
		o->help = 1;
		return 0;
	}
	return SNAP_EBUG;
}

/* --name, --name=value, or --name and the value in the next word. */
static int
long_option(struct options *o, const char *word, char ***next, uint64_t *seen)
{
	size_t len = strcspn(word, "=");
	const char *value = word[len] == '=' ? word + len + 1 : NULL;
	unsigned i;

	for (i = 0; i < NOPTIONS; i++)
		if (strlen(options[i].name) == len &&
		    strncmp(options[i].name, word, len) == 0)
			break;
	if (i == NOPTIONS)
		return snap_warnx("--%.*s: no such option", (int)len, word);
	*seen |= UINT64_C(1) << i;
	if (options[i].takes == VALUE && value == NULL) {
		if (**next == NULL)
			return snap_warnx("--%s: its value is missing", word);
		value = *(*next)++;
	}
	if (options[i].takes == NOTHING && value != NULL)
		return wrong(&options[i], value, "takes no value");
	return set(o, &options[i], value);
}

/* Letters behind one dash; the last may take the rest of the word, or the next. */
static int
short_options(struct options *o, const char *word, char ***next, uint64_t *seen)
{
	const char *value;
	uint64_t n;
	unsigned i;
	int err;

	while (*word != '\0') {
		for (i = 0; i < NOPTIONS; i++)
			if (options[i].letter == *word)
				break;
		if (i == NOPTIONS)
			return snap_warnx("-%c: no such option", *word);
		*seen |= UINT64_C(1) << i;
		word++;
		value = NULL;
		if (options[i].takes != NOTHING && *word != '\0') {
			value = word;
			word += strlen(word);
		} else if (options[i].takes == VALUE) {
			if (**next == NULL)
				return snap_warnx("-%c: its value is missing", options[i].letter);
			value = *(*next)++;
		} else if (options[i].takes == MAYBE && **next != NULL &&
		    plain_number(**next, 100, &n) == 0)
			value = *(*next)++;
		if ((err = set(o, &options[i], value)) != 0)
			return err;
	}
	return 0;
}

static enum verb
verb_named(const char *word)
{
	unsigned i;

	for (i = 0; i < NVERBS; i++)
		if (strcmp(word, verbs[i].name) == 0)
			return verbs[i].verb;
	return VERB_UNKNOWN;
}

/* Do the options belong to the verb, and has it its arguments? */
static int
check_words(const struct options *o, const char *verb, uint64_t seen)
{
	uint64_t n;
	unsigned i;

	if (o->help || o->version)
		return 0;
	if (o->verb == VERB_NONE)
		return snap_warnx("no verb; --help tells them");
	if (o->verb == VERB_UNKNOWN)
		return snap_warnx("%s: no such verb; it comes before the image, and --help tells "
		    "them", verb);
	for (i = 0; i < NOPTIONS; i++)
		if ((seen >> i & 1) && !(options[i].verbs >> o->verb & 1))
			return snap_warnx("--%s: not for %s", options[i].name, verb);
	if ((o->rate != 0 || o->nhost_page > 0) && o->percent < 0 && !o->resume)
		return snap_warnx("--%s: only with --postcopy or --resume",
		    o->rate != 0 ? "rate" : "host-page-size");
	if (o->record && (o->percent != 0 || o->resume))
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
	for (i = 0; verbs[i].verb != o->verb; i++)
		;
	if (o->nfile < ARGS && verbs[i].arg[o->nfile] != NULL)
		return snap_warnx("%s: the name of the %s is missing", verb,
		    verbs[i].arg[o->nfile]);
	if (o->verb == VERB_LOAD && o->percent >= 0 && o->nfile > 1 &&
	    plain_number(o->file[0], UINT64_MAX, &n) == 0)
		return snap_warnx("load: %s is taken for an image: say -p N or --postcopy=N, N from "
		    "0 to 100", o->file[0]);
	if (o->nfile > verbs[i].max)
		return snap_warnx("%s: one argument too many: %s", verb, o->file[verbs[i].max]);
	return 0;
}

const char *
options_verb(const struct options *o)
{
	unsigned i;

	for (i = 0; i < NVERBS; i++)
		if (verbs[i].verb == o->verb)
			return verbs[i].name;
	return "";
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
	while ((word = *next) != NULL) {
		next++;
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
	return err != 0 ? err : check_words(o, verb, seen);
}
