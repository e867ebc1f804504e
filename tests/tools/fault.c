/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fault.c -- system calls and allocations that fail when told to.
 *
 * SNAP_FAULT is a list of rules, with commas between:
 *
 *	CALL:N:WHAT	the N-th CALL
 *	CALL:N+:WHAT	that one and all that follow
 *	CALL:N@K:WHAT	the N-th one after the K-th fsync
 *	CALL:*:WHAT	every one
 *	cut:N:SEED	a power cut at the N-th sync
 *
 * CALL is one of the names in fault.h.  WHAT is an error (ENOSPC, ...); for pread
 * and pwrite, "short": half of the bytes are moved, and "none": not one; "flip": a
 * bit of what pread brings is turned; or "delay:US".
 *
 * They are for the process itself, or, with SNAP_FAULT_CHILD, for each that it forks.
 *
 * SNAP_FAULT_COUNT names a file that is written at exit: a line "fired N", the
 * number of rules applied, delays aside, "syncs N", one for each call, "exit N",
 * the exit status, and for each fsync "fsynced N", the number of pwrites before it.
 * A loop over N is past the end when nothing fired.
 *
 * The power cut.  Of the file that was created last, the content is known that
 * is on stable storage: what it was after its last fsync.  All writes since then
 * are in a list.  At the cut some random subset of these takes effect, in sectors
 * of 512 bytes: a sector is then as it was after some write to it, or as it was
 * before all of them; a change of the file's length takes effect or does not.
 * A name given by rename(), too, is there or is not, as long as the directory
 * was not synced.  Each fsync of the file or of a directory, and each rename, is
 * a sync; the cut comes before or after it.  Then the process ends by _exit(99).
 * A process that ends before the N-th sync suffers the cut at its exit: what it
 * promised must then be there.
 */
#include "fault.h"

#include <sys/stat.h>

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#undef pread
#undef pwrite
#undef fsync
#undef rename
#undef link
#undef unlink
#undef ftruncate
#undef open
#undef malloc
#undef calloc
#undef realloc
#undef posix_memalign
#undef pthread_create
#undef fork
#undef pipe
#undef main

enum { HALF = 1, NONE, FLIP };

enum {
	RULES = 8,
	FSYNCS = 32,		/* of which the pwrites before them are remembered */
	SECTOR = 512,
	EXIT_CUT = 99,		/* the power was cut */
	EXIT_USAGE = 98		/* SNAP_FAULT is wrong, or we have no memory */
};

enum call {
	PREAD, PWRITE, FSYNC, RENAME, LINK, UNLINK, FTRUNCATE, OPEN, MALLOC, CALLOC, REALLOC,
	POSIX_MEMALIGN, PTHREAD_CREATE, FORK, PIPE, CALLS
};

static const char *const call_name[CALLS] = {
	"pread", "pwrite", "fsync", "rename", "link", "unlink", "ftruncate", "open", "malloc",
	"calloc", "realloc", "posix_memalign", "pthread_create", "fork", "pipe"
};

static const struct {
	const char *name;
	int value;
} errors[] = {
	{ "EACCES", EACCES }, { "EAGAIN", EAGAIN }, { "EDQUOT", EDQUOT }, { "EFBIG", EFBIG },
	{ "EINTR", EINTR }, { "EINVAL", EINVAL }, { "EIO", EIO }, { "EMFILE", EMFILE },
	{ "ENOLCK", ENOLCK }, { "ENOMEM", ENOMEM }, { "ENOSPC", ENOSPC }, { "EROFS", EROFS }
};

static struct rule {
	enum call call;
	unsigned long from, to;	/* the calls it is for, counted from 1 */
	unsigned long after;	/* this fsync, which is still to come; 0: there is none */
	int error, half;	/* HALF, NONE, or FLIP */
	unsigned long delay;	/* microseconds */
} rules[RULES];
static unsigned nrules;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;	/* for all below */
static unsigned long count[CALLS], fired, fsynced[FSYNCS];
static pid_t owner;		/* of the calls that are meant; 0: nobody yet */

struct bytes {
	uint8_t *p;
	size_t len;
};

/* Since the last fsync. */
struct change {
	struct change *next;
	int truncate;
	size_t off;		/* or the new length */
	struct bytes data;
};

static struct {
	int on, happened;
	unsigned long syncs, at;
	uint64_t random;
	int after;		/* the cut comes after the sync */
	int fd;			/* our own, of the file */
	char *name;
	struct stat st;
	struct bytes stable;
	struct change *first, **last;
	char *from, *to, *old;	/* the rename that is not yet stable, or NULL */
} cut = { .fd = -1, .last = &cut.first };

static void
die(const char *what)
{
	fprintf(stderr, "fault.c: %s\n", what);
	_exit(EXIT_USAGE);
}

static void *
room(size_t n)
{
	void *p = calloc(1, n + 1);

	if (p == NULL)
		die("out of memory");
	return p;
}

static char *
copy(const char *s)
{
	return strcpy(room(strlen(s)), s);
}

/* ---- the power cut; all with the lock held ---- */

/* A number below n (splitmix64). */
static unsigned
draw(unsigned n)
{
	uint64_t z = cut.random += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (unsigned)((z ^ z >> 31) % n);
}

static int
is_ours(int fd)
{
	struct stat st;

	return cut.on && cut.fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == cut.st.st_ino &&
	    st.st_dev == cut.st.st_dev;
}

static void
forget_changes(void)
{
	struct change *c;

	while ((c = cut.first) != NULL) {
		cut.first = c->next;
		free(c->data.p);
		free(c);
	}
	cut.last = &cut.first;
}

static void
note_change(int truncate, off_t off, const void *buf, size_t len)
{
	struct change *c = room(sizeof *c);

	c->truncate = truncate;
	c->off = (size_t)off;
	c->data.len = len;
	c->data.p = room(len);
	if (len > 0)
		memcpy(c->data.p, buf, len);
	*cut.last = c;
	cut.last = &c->next;
}

/* A file was made: from now on it is the one. */
static void
adopt(const char *name)
{
	forget_changes();
	if (cut.fd >= 0)
		close(cut.fd);
	free(cut.name);
	free(cut.stable.p);
	cut.stable.p = NULL;
	cut.stable.len = 0;
	cut.name = copy(name);
	cut.fd = open(name, O_RDWR);
	if (cut.fd < 0 || fstat(cut.fd, &cut.st) != 0)
		die("cannot open the file a second time");
}

/* Its content now is stable. */
static void
stabilize(void)
{
	struct stat st;
	size_t done;
	ssize_t n;

	forget_changes();
	if (fstat(cut.fd, &st) != 0)
		die("fstat");
	free(cut.stable.p);
	cut.stable.len = (size_t)st.st_size;
	cut.stable.p = room(cut.stable.len);
	for (done = 0; done < cut.stable.len; done += (size_t)n)
		if ((n = pread(cut.fd, cut.stable.p + done, cut.stable.len - done,
		    (off_t)done)) <= 0)
			die("pread");
}

/* In one of 16 for each change: how probable it is that a sector takes effect. */
static int
takes_effect(unsigned chance)
{
	return draw(16) < chance;
}

/*
 * In now, with room for all, a change is done; where it takes effect, the same
 * is done in left, which is what will be found.
 */
static void
apply(const struct change *c, struct bytes *now, struct bytes *left, unsigned chance)
{
	size_t at, n;

	if (c->truncate) {
		if (c->off < now->len)
			memset(now->p + c->off, 0, now->len - c->off);
		now->len = c->off;
		if (takes_effect(chance)) {
			if (c->off < left->len)
				memset(left->p + c->off, 0, left->len - c->off);
			left->len = c->off;
		}
		return;
	}
	memcpy(now->p + c->off, c->data.p, c->data.len);
	if (now->len < c->off + c->data.len)
		now->len = c->off + c->data.len;
	for (at = c->off / SECTOR * SECTOR; at < c->off + c->data.len; at += SECTOR)
		if (takes_effect(chance)) {
			n = now->len - at < SECTOR ? now->len - at : SECTOR;
			memcpy(left->p + at, now->p + at, n);
			if (left->len < at + n)
				left->len = at + n;
		}
}

/* What a rename not yet stable leaves. */
static void
lose_name(void)
{
	if (cut.from == NULL)
		return;
	if (draw(2) == 0) {
		rename(cut.to, cut.from);
		if (cut.old != NULL)
			rename(cut.old, cut.to);
	} else if (cut.old != NULL)
		unlink(cut.old);
}

static void
lose(void)
{
	/* Often all or nothing, as short lists are in fact. */
	static const unsigned chances[] = { 0, 1, 8, 8, 15, 16 };
	unsigned chance = chances[draw(sizeof chances / sizeof chances[0])];
	struct bytes now, left;
	size_t size = cut.stable.len, n = 0, whole, i = 0;
	struct change *c;

	cut.happened = 1;
	if (cut.fd < 0)
		return;
	for (c = cut.first; c != NULL; c = c->next, n++)
		if (size < c->off + c->data.len)
			size = c->off + c->data.len;
	/* Half of the time, the first of them are there: there was time enough. */
	whole = n > 0 && draw(2) == 0 ? draw((unsigned)n) : 0;
	now.p = room(size + SECTOR);
	left.p = room(size + SECTOR);
	now.len = left.len = cut.stable.len;
	if (cut.stable.len > 0) {
		memcpy(now.p, cut.stable.p, cut.stable.len);
		memcpy(left.p, cut.stable.p, cut.stable.len);
	}
	for (c = cut.first; c != NULL; c = c->next)
		apply(c, &now, &left, i++ < whole ? 16 : chance);
	if (ftruncate(cut.fd, 0) != 0 || ftruncate(cut.fd, (off_t)left.len) != 0 ||
	    (left.len > 0 && pwrite(cut.fd, left.p, left.len, 0) != (ssize_t)left.len))
		die("cannot write what is left");
	free(now.p);
	free(left.p);
	lose_name();
	if (draw(2) == 0)
		unlink(cut.name);	/* where it still has this name */
}

/* To be called before and after each sync. */
static void
sync_step(int after)
{
	if (!cut.on)
		return;
	cut.syncs += !after;
	if (cut.syncs == cut.at && after == cut.after) {
		lose();
		_exit(EXIT_CUT);
	}
}

static void
name_is_stable(void)
{
	if (cut.old != NULL)
		unlink(cut.old);
	free(cut.from);
	free(cut.to);
	free(cut.old);
	cut.from = cut.to = cut.old = NULL;
}

/* Keep what the rename would do away with. */
static void
prepare_rename(const char *from, const char *to)
{
	name_is_stable();
	cut.from = copy(from);
	cut.to = copy(to);
	cut.old = room(strlen(to) + 8);
	sprintf(cut.old, "%s.before", to);
	if (link(to, cut.old) != 0) {
		free(cut.old);
		cut.old = NULL;
	}
}

/* ---- rules ---- */

static unsigned long
number(char **p)
{
	char *end;
	unsigned long n = strtoul(*p, &end, 10);

	if (end == *p)
		die("SNAP_FAULT: a number is missing");
	*p = end;
	return n;
}

static int
take(char **p, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(*p, word, n) != 0)
		return 0;
	*p += n;
	return 1;
}

static void
parse_cut(char **p)
{
	cut.on = 1;
	cut.at = number(p);
	if (take(p, ":"))
		cut.random = number(p);
	cut.after = (int)draw(2);
}

static void
parse_what(struct rule *r, char **p)
{
	size_t n = strcspn(*p, ","), i;

	if (take(p, "delay:"))
		r->delay = number(p);
	else if (take(p, "short"))
		r->half = HALF;
	else if (take(p, "none"))
		r->half = NONE;
	else if (take(p, "flip"))
		r->half = FLIP;
	else {
		for (i = 0; i < sizeof errors / sizeof errors[0]; i++)
			if (strlen(errors[i].name) == n && strncmp(*p, errors[i].name, n) == 0)
				r->error = errors[i].value;
		*p += n;
		if (r->error == 0)
			die("SNAP_FAULT: unknown error");
	}
}

static void
parse_rule(char **p)
{
	struct rule *r = &rules[nrules];
	unsigned i;

	if (take(p, "cut:")) {
		parse_cut(p);
		return;
	}
	if (nrules++ == RULES)
		die("SNAP_FAULT: too many rules");
	for (i = 0; i < CALLS; i++)
		if (strncmp(*p, call_name[i], strlen(call_name[i])) == 0 &&
		    (*p)[strlen(call_name[i])] == ':')
			break;
	if (i == CALLS)
		die("SNAP_FAULT: unknown call");
	r->call = (enum call)i;
	*p += strlen(call_name[i]) + 1;
	if (take(p, "*")) {
		r->from = 1;
		r->to = (unsigned long)-1;
	} else {
		r->from = number(p);
		r->to = take(p, "+") ? (unsigned long)-1 : r->from;
		r->after = take(p, "@") ? number(p) : 0;
	}
	if (!take(p, ":"))
		die("SNAP_FAULT: nothing to do");
	parse_what(r, p);
}

/* The program is about to end with this exit status. */
static void
at_exit(int status)
{
	const char *name = getenv("SNAP_FAULT_COUNT");
	FILE *f;
	unsigned i;

	if (getpid() != owner)
		return;
	pthread_mutex_lock(&lock);
	if (cut.on && !cut.happened)
		lose();
	if (name != NULL) {
		if ((f = fopen(name, "w")) == NULL)
			die("SNAP_FAULT_COUNT: cannot be written");
		fprintf(f, "fired %lu\nsyncs %lu\n", fired, cut.syncs);
		for (i = 0; i < CALLS; i++)
			fprintf(f, "%s %lu\n", call_name[i], count[i]);
		fprintf(f, "exit %d\n", status);
		for (i = 0; i < FSYNCS && i < count[FSYNC]; i++)
			fprintf(f, "fsynced %lu\n", fsynced[i]);
		fclose(f);
	}
	name_is_stable();
	forget_changes();
	free(cut.stable.p);
	free(cut.name);
	cut.stable.p = NULL;
	cut.name = NULL;
	pthread_mutex_unlock(&lock);
}

static void
init(void)
{
	const char *env = getenv("SNAP_FAULT");
	char *text, *p;

	owner = getenv("SNAP_FAULT_CHILD") == NULL ? getpid() : 0;
	if (env == NULL || *env == '\0')
		return;
	p = text = copy(env);
	do
		parse_rule(&p);
	while (take(&p, ","));
	if (*p != '\0')
		die("SNAP_FAULT: cannot be understood");
	free(text);
}

/* One more call: 0, or the error it shall have; *half: HALF, NONE, FLIP, or 0. */
static int
meet(enum call c, int *half)
{
	unsigned long n, delay = 0;
	struct rule *r;
	struct timespec ts;
	int error = 0;

	if (half != NULL)
		*half = 0;
	if (getpid() != owner)
		return 0;
	pthread_mutex_lock(&lock);
	n = ++count[c];
	if (c == FSYNC && n <= FSYNCS)
		fsynced[n - 1] = count[PWRITE];
	for (r = rules; r < rules + nrules; r++) {
		if (c == FSYNC && r->after == n) {
			r->from += count[r->call];
			r->to += count[r->call];
			r->after = 0;
		}
		if (r->call != c || r->after > 0 || n < r->from || n > r->to)
			continue;
		delay += r->delay;
		if (r->error != 0)
			error = r->error;
		if (r->half != 0 && half != NULL)
			*half = r->half;
		fired += r->delay == 0;
	}
	pthread_mutex_unlock(&lock);
	if (delay > 0) {
		ts.tv_sec = (time_t)(delay / 1000000);
		ts.tv_nsec = (long)(delay % 1000000 * 1000);
		nanosleep(&ts, NULL);
	}
	return error;
}

/* The same, for calls that tell of an error in errno: -1 with errno set, or 0. */
static int
meet_errno(enum call c, int *half)
{
	int error = meet(c, half);

	if (error == 0)
		return 0;
	errno = error;
	return -1;
}

/* ---- the calls ---- */

ssize_t
fault_pread(int fd, void *buf, size_t len, off_t off)
{
	int half;
	ssize_t n;

	if (meet_errno(PREAD, &half) != 0)
		return -1;
	if (half == NONE)
		return 0;
	n = pread(fd, buf, half == HALF && len > 1 ? len / 2 : len, off);
	if (half == FLIP && n > 0)
		((uint8_t *)buf)[n / 2] ^= 16;
	return n;
}

ssize_t
fault_pwrite(int fd, const void *buf, size_t len, off_t off)
{
	int half;
	ssize_t n;

	if (meet_errno(PWRITE, &half) != 0)
		return -1;
	if (half == NONE)
		return 0;
	if (half == HALF && len > 1)
		len /= 2;
	if (!cut.on)
		return pwrite(fd, buf, len, off);
	pthread_mutex_lock(&lock);
	n = pwrite(fd, buf, len, off);
	if (n > 0 && is_ours(fd))
		note_change(0, off, buf, (size_t)n);
	pthread_mutex_unlock(&lock);
	return n;
}

int
fault_fsync(int fd)
{
	struct stat st;

	if (meet_errno(FSYNC, NULL) != 0)
		return -1;
	if (!cut.on)
		return fsync(fd);
	pthread_mutex_lock(&lock);
	sync_step(0);
	if (is_ours(fd))
		stabilize();
	else if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		name_is_stable();
	sync_step(1);
	pthread_mutex_unlock(&lock);
	return 0;
}

int
fault_rename(const char *from, const char *to)
{
	int r;

	if (meet_errno(RENAME, NULL) != 0)
		return -1;
	if (!cut.on)
		return rename(from, to);
	pthread_mutex_lock(&lock);
	sync_step(0);
	prepare_rename(from, to);
	r = rename(from, to);
	sync_step(1);
	pthread_mutex_unlock(&lock);
	return r;
}

int
fault_link(const char *from, const char *to)
{
	return meet_errno(LINK, NULL) != 0 ? -1 : link(from, to);
}

int
fault_unlink(const char *path)
{
	return meet_errno(UNLINK, NULL) != 0 ? -1 : unlink(path);
}

int
fault_ftruncate(int fd, off_t len)
{
	int r;

	if (meet_errno(FTRUNCATE, NULL) != 0)
		return -1;
	if (!cut.on)
		return ftruncate(fd, len);
	pthread_mutex_lock(&lock);
	r = ftruncate(fd, len);
	if (r == 0 && is_ours(fd))
		note_change(1, len, NULL, 0);
	pthread_mutex_unlock(&lock);
	return r;
}

int
fault_open(const char *path, int flags, ...)
{
	unsigned mode = 0;
	va_list ap;
	int fd;

	if (flags & O_CREAT) {
		va_start(ap, flags);
		mode = va_arg(ap, unsigned);
		va_end(ap);
	}
	if (meet_errno(OPEN, NULL) != 0)
		return -1;
	fd = open(path, flags, (mode_t)mode);
	if (fd >= 0 && cut.on && (flags & O_CREAT)) {
		pthread_mutex_lock(&lock);
		adopt(path);
		pthread_mutex_unlock(&lock);
	}
	return fd;
}

void *
fault_malloc(size_t len)
{
	return meet_errno(MALLOC, NULL) != 0 ? NULL : malloc(len);
}

void *
fault_calloc(size_t n, size_t len)
{
	return meet_errno(CALLOC, NULL) != 0 ? NULL : calloc(n, len);
}

void *
fault_realloc(void *p, size_t len)
{
	return meet_errno(REALLOC, NULL) != 0 ? NULL : realloc(p, len);
}

int
fault_posix_memalign(void **p, size_t align, size_t len)
{
	int error = meet(POSIX_MEMALIGN, NULL);

	return error != 0 ? error : posix_memalign(p, align, len);
}

int
fault_pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*fn)(void *),
    void *arg)
{
	int error = meet(PTHREAD_CREATE, NULL);

	return error != 0 ? error : pthread_create(t, attr, fn, arg);
}

pid_t
fault_fork(void)
{
	pid_t pid = meet_errno(FORK, NULL) != 0 ? -1 : fork();

	if (pid == 0 && getenv("SNAP_FAULT_CHILD") != NULL)
		owner = getpid();
	return pid;
}

int
fault_pipe(int p[2])
{
	return meet_errno(PIPE, NULL) != 0 ? -1 : pipe(p);
}

/* ---- the program ---- */

int
main(int argc, char **argv)
{
	int status;

	init();
	status = program_main(argc, argv);
	at_exit(status);
	return status;
}
