/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * aio_pthreads.c -- a ring of requests served by threads, and all system calls
 * on image files.  The only file that knows pthreads, and the only one with
 * calls that are not POSIX.
 *
 * The ring.  Requests stand in the order they were submitted; three positions
 * run through it and never pass one another:
 *
 *	head <= next <= tail <= head + depth
 *
 *	head..next	with a worker, or done
 *	next..tail	waiting for a worker
 *
 * The owner thread moves head (aio_wait, aio_try) and tail (aio_submit), the
 * workers move next; so does the owner where no worker is to do anything: there
 * are none, or the request at head was done when it was submitted.  A worker
 * passes by what is done.  A request leaves at head only, so results come in the
 * order of submission whatever the order of completion.  Every request that
 * was submitted comes back exactly once; a worker that meets an error stores
 * it in the request and goes on to the next one.
 *
 * One mutex guards the positions and the done marks; the request itself is
 * touched by one thread at a time and needs none.
 */
#ifndef NO_EXTENSIONS
#ifdef __linux__
#define _GNU_SOURCE
#else		/* where who asks for no standard is shown everything */
#undef _POSIX_C_SOURCE
#undef _XOPEN_SOURCE
#endif
#endif
#include "aio.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * What not every system has is used where its headers know it.  Each of these leaves out
 * one such thing; NO_EXTENSIONS, above, all that POSIX does not know.
 */
#ifdef NO_ADVICE
#undef POSIX_FADV_SEQUENTIAL
#endif
#ifdef NO_DIRECT
#undef O_DIRECT
#endif
#ifdef NO_DSYNC
#undef O_DSYNC
#endif
#ifdef NO_FULL_SYNC
#undef F_FULLFSYNC
#endif
#ifdef NO_NOWAIT
#undef RWF_NOWAIT
#endif
#ifdef NO_PIPE_SIZE
#undef F_SETPIPE_SZ
#endif
#ifdef NO_PROCESSORS
#undef _SC_NPROCESSORS_ONLN
#endif
#ifdef NO_WRITE_BACK
#undef SYNC_FILE_RANGE_WRITE
#endif

#ifndef O_DIRECT
#define O_DIRECT	0
#endif
#ifndef O_DSYNC
#define O_DSYNC		O_SYNC
#endif

/* Images pass 4 GiB: a host whose off_t cannot is refused here. */
typedef char off_t_must_have_64_bits[sizeof(off_t) >= 8 ? 1 : -1];

enum {
	IO_ALIGN = 4096,	/* of memory for direct I/O */
	PART_TRIES = 100,	/* names tried for a temporary file */
	PART_SUFFIX = 48	/* room for what is added to a name */
};

struct aio {
	pthread_mutex_t lock;
	pthread_cond_t more;	/* a request waits, or quit is set */
	pthread_cond_t done;	/* the request at head is done */
	struct aio_req **ring;
	unsigned depth;
	uint64_t head, next, tail;	/* modulo depth: places in ring */
	int quit;
	int wake[2];		/* pipe for poll(), or -1 */
	int woken;		/* a byte is in the pipe */
	unsigned nthreads;
	pthread_t *thread;
};

static struct aio_req *
at(const struct aio *a, uint64_t position)
{
	return a->ring[position % a->depth];
}

/*
 * Have the device write these bytes soon: the less there is left to do for the sync
 * at the end.  Only a hint; the sync will tell of errors.
 */
static void
begin_write_back(const struct aio_run *run)
{
#ifdef SYNC_FILE_RANGE_WRITE
	(void)sync_file_range(run->fd, (off_t)run->off, (off_t)run->len, SYNC_FILE_RANGE_WRITE);
#else
	(void)run;
#endif
}

static void
execute(struct aio_req *r)
{
	size_t i;

	r->error = 0;
	if (r->op == AIO_READ || r->op == AIO_WRITE)
		for (i = 0; i < r->nrun; i++) {
			const struct aio_run *run = &r->run[i];

			r->error = r->op == AIO_READ ?
			    io_pread(run->fd, run->buf, run->len, run->off) :
			    io_pwrite(run->fd, run->buf, run->len, run->off);
			if (r->error != 0) {
				r->error_fd = run->fd;
				r->error_off = run->off;
				return;
			}
			if (r->op == AIO_WRITE && r->begin)
				begin_write_back(run);
		}
	if (r->op != AIO_WRITE && r->op != AIO_NONE && r->work != NULL)
		r->work(r);
}

/* Is all of this read done, without waiting for a device?  If not, a worker does it. */
static int
read_from_cache(struct aio_req *r)
{
#ifdef RWF_NOWAIT
	struct iovec v;
	size_t i;

	for (i = 0; i < r->nrun; i++) {
		v.iov_base = r->run[i].buf;
		v.iov_len = r->run[i].len;
		if (preadv2(r->run[i].fd, &v, 1, (off_t)r->run[i].off, RWF_NOWAIT) !=
		    (ssize_t)v.iov_len)
			return 0;
	}
	r->error = 0;
	if (r->work != NULL)
		r->work(r);
	return 1;
#else
	(void)r;
	return 0;
#endif
}

/* Make the descriptor of aio_pollfd() readable if the head is done. */
static void
wake_locked(struct aio *a)
{
	if (a->wake[1] >= 0 && !a->woken && a->head < a->tail &&
	    at(a, a->head)->done)
		a->woken = write(a->wake[1], "", 1) == 1;
}

static void
finish_locked(struct aio *a, struct aio_req *r)
{
	r->done = 1;
	if (at(a, a->head) == r)
		pthread_cond_signal(&a->done);
	wake_locked(a);
}

static void *
worker(void *arg)
{
	struct aio *a = arg;
	struct aio_req *r;

	pthread_mutex_lock(&a->lock);
	for (;;) {
		while (a->next == a->tail && !a->quit)
			pthread_cond_wait(&a->more, &a->lock);
		if (a->next == a->tail)
			break;
		r = at(a, a->next++);
		if (!r->done) {
			pthread_mutex_unlock(&a->lock);
			execute(r);
			pthread_mutex_lock(&a->lock);
			finish_locked(a, r);
		}
	}
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

unsigned
aio_workers(unsigned most, int owner_works)
{
	long n = -1;

#ifdef _SC_NPROCESSORS_ONLN
	n = sysconf(_SC_NPROCESSORS_ONLN);
#endif
	if (n <= 0)
		return most;
	n -= owner_works && n > 1;
	return n < (long)most ? (unsigned)n : most;
}

struct aio *
aio_new(unsigned nworkers, unsigned depth)
{
	struct aio *a;
	sigset_t all, old;

	if ((a = calloc(1, sizeof *a)) == NULL)
		return NULL;
	a->depth = depth;
	a->wake[0] = a->wake[1] = -1;
	a->ring = calloc(depth, sizeof *a->ring);
	a->thread = calloc((size_t)nworkers + 1, sizeof *a->thread);
	if (a->ring == NULL || a->thread == NULL)
		goto err0;
	if (pthread_mutex_init(&a->lock, NULL) != 0)
		goto err0;
	if (pthread_cond_init(&a->more, NULL) != 0)
		goto err1;
	if (pthread_cond_init(&a->done, NULL) != 0)
		goto err2;

	/* Signals are the owner's.  Fewer threads than asked for will do. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (a->nthreads < nworkers &&
	    pthread_create(&a->thread[a->nthreads], NULL, worker, a) == 0)
		a->nthreads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return a;

err2:
	pthread_cond_destroy(&a->more);
err1:
	pthread_mutex_destroy(&a->lock);
err0:
	free(a->thread);
	free(a->ring);
	free(a);
	return NULL;
}

void
aio_submit(struct aio *a, struct aio_req *r)
{
	int now = a->nthreads == 0 || r->op == AIO_NONE;

	if (now)
		execute(r);
	else if (r->op == AIO_READ && r->quick)
		now = read_from_cache(r);
	pthread_mutex_lock(&a->lock);
	r->done = now;
	a->ring[a->tail++ % a->depth] = r;
	if (a->nthreads == 0)
		a->next = a->tail;
	pthread_mutex_unlock(&a->lock);
	/* Outside of the lock, which a worker that wakes up needs at once. */
	if (!now)
		pthread_cond_signal(&a->more);
}

/*
 * The request at head, taken out of the ring.  A request that was done when it
 * was submitted may be at head before a worker has passed it by.
 */
static struct aio_req *
take_locked(struct aio *a)
{
	struct aio_req *r = at(a, a->head++);

	if (a->next < a->head)
		a->next = a->head;
	return r;
}

struct aio_req *
aio_wait(struct aio *a)
{
	struct aio_req *r = NULL;

	pthread_mutex_lock(&a->lock);
	if (a->head < a->tail) {
		while (!at(a, a->head)->done)
			pthread_cond_wait(&a->done, &a->lock);
		r = take_locked(a);
	}
	pthread_mutex_unlock(&a->lock);
	return r;
}

struct aio_req *
aio_try(struct aio *a)
{
	struct aio_req *r = NULL;
	char c;

	pthread_mutex_lock(&a->lock);
	if (a->head < a->tail && at(a, a->head)->done)
		r = take_locked(a);
	else if (a->woken)
		a->woken = read(a->wake[0], &c, 1) != 1;
	pthread_mutex_unlock(&a->lock);
	return r;
}

int
aio_pollfd(struct aio *a)
{
	int p[2];

	if (a->wake[0] >= 0)
		return a->wake[0];
	if (pipe(p) != 0)
		return -1;
	fcntl(p[0], F_SETFD, FD_CLOEXEC);
	fcntl(p[1], F_SETFD, FD_CLOEXEC);
	pthread_mutex_lock(&a->lock);
	a->wake[0] = p[0];
	a->wake[1] = p[1];
	wake_locked(a);
	pthread_mutex_unlock(&a->lock);
	return p[0];
}

void
aio_free(struct aio *a)
{
	unsigned i;

	if (a == NULL)
		return;
	while (aio_wait(a) != NULL)
		;
	pthread_mutex_lock(&a->lock);
	a->quit = 1;
	pthread_cond_broadcast(&a->more);
	pthread_mutex_unlock(&a->lock);
	for (i = 0; i < a->nthreads; i++)
		pthread_join(a->thread[i], NULL);
	if (a->wake[0] >= 0) {
		close(a->wake[0]);
		close(a->wake[1]);
	}
	pthread_cond_destroy(&a->done);
	pthread_cond_destroy(&a->more);
	pthread_mutex_destroy(&a->lock);
	free(a->thread);
	free(a->ring);
	free(a);
}

/* ---- the file ---- */

/* What a signal may interrupt on some file systems (network, FUSE). */
static int
open_again(const char *path, int flags)
{
	int fd;

	while ((fd = open(path, flags, 0600)) < 0 && errno == EINTR)
		;
	return fd;
}

/* fsync() of macOS leaves data in the drive's cache; not all its file systems know better. */
static int
sync_again(int fd)
{
	int r;

#ifdef F_FULLFSYNC
	while ((r = fcntl(fd, F_FULLFSYNC)) != 0 && errno == EINTR)
		;
	if (r == 0 || (errno != ENOTSUP && errno != ENOTTY && errno != EINVAL))
		return r;
#endif
	while ((r = fsync(fd)) != 0 && errno == EINTR)
		;
	return r;
}

void *
io_alloc(size_t len)
{
	void *p;

	return posix_memalign(&p, IO_ALIGN, len) == 0 ? p : NULL;
}

/* Lock fd for writing as a whole, without waiting. */
static int
lock_file(int fd)
{
	struct flock fl;

	memset(&fl, 0, sizeof fl);
	fl.l_type = F_WRLCK;
	fl.l_whence = SEEK_SET;
	return fcntl(fd, F_SETLK, &fl) == 0 ? 0 : errno;
}

/* The i-th name for a temporary file of ours for path; there is room for it in tmp. */
static void
part_name(char *tmp, size_t size, const char *path, unsigned i)
{
	snprintf(tmp, size, "%s.part.%ld-%u", path, (long)getpid(), i);
}

/* May a new file get this name by a rename: is nothing there, or a regular file? */
static int
check_name(const char *path)
{
	struct stat st;

	if (lstat(path, &st) == 0)
		return S_ISREG(st.st_mode) ? 0 : EEXIST;
	return errno == ENOENT ? 0 : errno;
}

int
io_create_part(const char *path, char **tmp, int *fd)
{
	size_t size = strlen(path) + PART_SUFFIX;
	struct stat st;
	unsigned i;
	int err;

	*tmp = NULL;
	if ((err = check_name(path)) != 0)
		return err;
	if ((*tmp = malloc(size)) == NULL)
		return ENOMEM;
	for (i = 0; i < PART_TRIES; i++) {
		part_name(*tmp, size, path, i);
		*fd = open_again(*tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC);
		if (*fd < 0) {
			if (errno == EEXIST)
				continue;
			err = errno;
			break;
		}
		/*
		 * Between its creation and its lock the file may be taken for
		 * a dead saver's: then it has no name any more.  A file system
		 * without locks has nobody who could take it.
		 */
		err = lock_file(*fd);
		if ((err == 0 || (err != EAGAIN && err != EACCES)) &&
		    fstat(*fd, &st) == 0 && st.st_nlink > 0)
			return 0;
		close(*fd);
	}
	if (i == PART_TRIES)
		err = EBUSY;
	free(*tmp);
	*tmp = NULL;
	return err;
}

static int
same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

int
io_same(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && same_file(&x, &y);
}

int
io_is(const char *path, int fd)
{
	struct stat x, y;

	return lstat(path, &x) == 0 && fstat(fd, &y) == 0 && same_file(&x, &y);
}

int
io_keep(const char *path, char **kept, int *fd)
{
	size_t size = strlen(path) + PART_SUFFIX;
	unsigned i;
	int err;

	if ((*fd = open_again(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)) < 0)
		return errno;
	/* Locked, or another save would take it for a dead one's. */
	if ((err = lock_file(*fd)) == 0 && (*kept = malloc(size)) == NULL)
		err = ENOMEM;
	for (i = 0; i < PART_TRIES && err == 0; i++) {
		part_name(*kept, size, path, i);
		if (link(path, *kept) == 0) {
			if (io_is(*kept, *fd))
				return 0;
			unlink(*kept);	/* another image has just come */
			err = EBUSY;
		} else if (errno != EEXIST)
			err = errno;
	}
	close(*fd);
	free(*kept);
	*kept = NULL;
	*fd = -1;
	return err != 0 ? err : EEXIST;
}

/* Directory part of path, to be freed by the caller; *base is the rest. */
static char *
directory(const char *path, const char **base)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
	char *dir = malloc(n + 2);

	if (dir == NULL)
		return NULL;
	memcpy(dir, path, n);
	strcpy(dir + n, n == 0 ? "." : "");
	*base = slash == NULL ? path : slash + 1;
	return dir;
}

/* Is name of the form that io_create_part() gives, for base? */
static int
is_part(const char *name, const char *base)
{
	static const char digits[] = "0123456789";
	size_t n = strlen(base);

	if (strncmp(name, base, n) != 0 || strncmp(name + n, ".part.", 6) != 0)
		return 0;
	name += n + 6;
	n = strspn(name, digits);
	if (n == 0 || name[n] != '-')
		return 0;
	name += n + 1;
	n = strspn(name, digits);
	return n > 0 && name[n] == '\0';
}

void
io_sweep_parts(const char *path, const char *verb, void (*said)(const char *, const char *))
{
	const char *base;
	char *dir = directory(path, &base), *name;
	size_t size;
	struct dirent *e;
	struct stat st;
	DIR *d;
	int fd;

	if (dir == NULL)
		return;
	d = opendir(dir);
	while (d != NULL && (e = readdir(d)) != NULL) {
		if (!is_part(e->d_name, base))
			continue;
		size = (size_t)(base - path) + strlen(e->d_name) + 1;
		if ((name = malloc(size)) == NULL)
			break;
		snprintf(name, size, "%.*s%s", (int)(base - path), path, e->d_name);
		fd = open(name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0) {
			/*
			 * The lock must be on what the name leads to now.  An empty
			 * one may be a living save's that has just made it.
			 */
			if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
			    lock_file(fd) == 0 && io_is(name, fd) &&
			    unlink(name) == 0 && st.st_size > 0)
				said(name, verb);
			close(fd);
		}
		free(name);
	}
	if (d != NULL)
		closedir(d);
	free(dir);
}

static int
not_regular(const struct stat *st)
{
	return S_ISREG(st->st_mode) ? 0 : S_ISDIR(st->st_mode) ? EISDIR : EINVAL;
}

int
io_open(const char *path, int wr, int flags, int *fd)
{
	struct stat st;
	int mode = O_CLOEXEC | O_NONBLOCK | (wr ? O_RDWR : O_RDONLY);
	int err;

	if (flags & IO_DIRECT) {
		if (O_DIRECT == 0)
			return ENOTSUP;
		mode |= O_DIRECT;
	}
	if (flags & IO_DSYNC)
		mode |= O_DSYNC;
	/* Some devices do something when they are opened: look before, and after. */
	if (stat(path, &st) != 0)
		return errno;
	if ((err = not_regular(&st)) != 0)
		return err;
	if ((*fd = open_again(path, mode)) < 0)
		return errno;
	if ((err = fstat(*fd, &st) != 0 ? errno : not_regular(&st)) != 0)
		close(*fd);
	return err;
}

int
io_open_named(const char *path, int *fd)
{
	int err = check_name(path);

	return err != 0 ? err : io_open(path, 0, 0, fd);
}

void
io_will_read_all(int fd)
{
#ifdef POSIX_FADV_SEQUENTIAL
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
#else
	(void)fd;
#endif
}

int
io_pread(int fd, void *buf, size_t len, uint64_t off)
{
	uint8_t *p = buf;
	ssize_t n;

	while (len > 0) {
		n = pread(fd, p, len, (off_t)off);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return errno;
		}
		if (n == 0)
			return EIO;
		p += n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

int
io_pwrite(int fd, const void *buf, size_t len, uint64_t off)
{
	const uint8_t *p = buf;
	ssize_t n;

	while (len > 0) {
		n = pwrite(fd, p, len, (off_t)off);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return errno;
		}
		if (n == 0)
			return ENOSPC;
		p += n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

int
io_size(int fd, uint64_t *len)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return errno;
	*len = (uint64_t)st.st_size;
	return 0;
}

int
io_truncate(int fd, uint64_t len)
{
	int r;

	while ((r = ftruncate(fd, (off_t)len)) != 0 && errno == EINTR)
		;
	return r == 0 ? 0 : errno;
}

int
io_sync(int fd)
{
	return sync_again(fd) == 0 ? 0 : errno;
}

int
io_open_dir(const char *path, int *fd)
{
	const char *base;
	char *dir = directory(path, &base);
	int err;

	if (dir == NULL)
		return ENOMEM;
	*fd = open_again(dir, O_RDONLY | O_CLOEXEC);
	err = *fd < 0 ? errno : 0;
	free(dir);
	return err;
}

char *
io_real_directory(const char *path)
{
	const char *base;
	char *dir = directory(path, &base), *real = dir == NULL ? NULL : realpath(dir, NULL);

	free(dir);
	return real;
}

char *
io_real_path(const char *path)
{
	return realpath(path, NULL);
}

int
io_sync_dir(int fd)
{
	/* Some file systems have no such operation on directories. */
	return sync_again(fd) == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
}

int
io_rename(const char *from, const char *to)
{
	return rename(from, to) == 0 ? 0 : errno;
}

int
io_unlink(const char *path)
{
	return unlink(path) == 0 ? 0 : errno;
}

int
io_close(int fd)
{
	/* Interrupted, it is closed all the same. */
	return close(fd) == 0 || errno == EINTR ? 0 : errno;
}

int
io_pipe_size(int fd, size_t len)
{
#ifdef F_SETPIPE_SZ
	return fcntl(fd, F_SETPIPE_SZ, (int)len) >= 0 ? 0 : errno;
#else
	(void)fd;
	(void)len;
	return ENOTSUP;
#endif
}

int
io_room(int fd, uint64_t *avail)
{
	struct statvfs vfs;

	if (fstatvfs(fd, &vfs) != 0)
		return errno;
	*avail = (uint64_t)vfs.f_bavail * vfs.f_frsize;
	return 0;
}
