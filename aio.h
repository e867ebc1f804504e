/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * aio.h -- reads, writes and work in the background, finished in order;
 * and every system call that touches an image file.
 *
 * Nothing here prints or exits.  Functions that return int return 0 or an
 * errno value, unless they say otherwise.
 */
#ifndef AIO_H
#define AIO_H

#include <stddef.h>
#include <stdint.h>

enum aio_op {
	AIO_NONE,	/* done at once: keeps its place in the order */
	AIO_WORK,	/* call work() */
	AIO_READ,	/* read all runs, then call work(), if there is one */
	AIO_WRITE	/* write all runs */
};

/* Bytes that lie together in a file. */
struct aio_run {
	int fd;
	uint8_t *buf;
	size_t len;
	uint64_t off;
};

/*
 * A request.  The caller's, except between aio_submit() and the aio_wait() or
 * aio_try() that returns it: then it and all it points to is a worker's.
 */
struct aio_req {
	enum aio_op op;
	struct aio_run *run;
	size_t nrun;
	void (*work)(struct aio_req *);
	int begin;		/* AIO_WRITE: have the device begin at once */
	int quick;		/* AIO_READ: what is in the page cache needs no worker */
	void *arg;		/* the caller's; never looked at */
	int error;		/* when it is back: 0 or an errno value */
	int error_fd;		/* in which file the error was met, */
	uint64_t error_off;	/* and where there */
	int done;		/* private */
};

struct aio;

/* How many threads are worth having here, at most most: one for each processor, less one
 * if the owner has work, too. */
unsigned aio_workers(unsigned most, int owner_works);

/*
 * A ring for at most depth requests, served by nworkers threads of its own.
 * With nworkers 0, or where not one thread can be started, aio_submit() does
 * the work itself.  NULL: out of memory.
 */
struct aio *aio_new(unsigned nworkers, unsigned depth);
/* Hand r to the workers; there MUST be fewer than depth requests in the ring. */
void aio_submit(struct aio *a, struct aio_req *r);
/* The oldest request once it is done; NULL: the ring is empty. */
struct aio_req *aio_wait(struct aio *a);
/* The same, but NULL also while it is not done. */
struct aio_req *aio_try(struct aio *a);
/* Descriptor for poll(): readable when a worker has let aio_try() succeed.  What aio_submit()
 * did itself wakes nobody: between that and poll() there MUST be an aio_try().  -1: none to
 * be had. */
int aio_pollfd(struct aio *a);
/* Finish what is in the ring, stop the workers, free everything.  NULL is fine. */
void aio_free(struct aio *a);

/* How a file is opened: the --cache modes. */
enum {
	IO_DIRECT = 1,		/* past the page cache */
	IO_DSYNC = 2		/* each write is durable when it returns */
};

/* Memory for direct I/O, or NULL; to be freed with free(). */
void *io_alloc(size_t len);
/*
 * Create a temporary file for path beside it, locked; *tmp is its name, to be
 * freed by the caller.  EEXIST: path is there and is not a regular file.
 */
int io_create_part(const char *path, char **tmp, int *fd);
/*
 * Give the file at path a second name, like that of a temporary file, by which it
 * stays when another takes its first one.  *kept is that name, to be freed by the
 * caller; *fd locks the file as long as it is open.  ENOENT: there is none; other
 * errors where it cannot be locked, or where a file system knows no links.
 */
int io_keep(const char *path, char **kept, int *fd);
/* Is the file at path that of fd; are a and b of the same file? */
int io_is(const char *path, int fd);
int io_same(int a, int b);
/*
 * Remove temporary files for path that dead processes left.  said() is called with
 * the name of each one removed, and the verb, which is what they did.
 */
void io_sweep_parts(const char *path, const char *verb,
    void (*said)(const char *name, const char *verb));
/* Open an existing regular file, for writing if wr; flags are IO_*.  EISDIR: it
 * is a directory; EINVAL: of another kind. */
int io_open(const char *path, int wr, int flags, int *fd);
/* The same to read what bears a name that a new file is to get.  ENOENT: nothing does; EEXIST:
 * what is no regular file, a link for one. */
int io_open_named(const char *path, int *fd);
/* The file will be read from its beginning to its end: a hint, no more. */
void io_will_read_all(int fd);
/* Move exactly len bytes at off; a read past the end is EIO. */
int io_pread(int fd, void *buf, size_t len, uint64_t off);
int io_pwrite(int fd, const void *buf, size_t len, uint64_t off);
int io_size(int fd, uint64_t *len);
int io_truncate(int fd, uint64_t len);
/* Push data to the device. */
int io_sync(int fd);
/* The directory that path lies in; push the names in it to the device. */
int io_open_dir(const char *path, int *fd);
int io_sync_dir(int fd);
/* The true name of that directory, to be freed by the caller; NULL: not to be had. */
char *io_real_directory(const char *path);
/* That of the file itself, which need not be called what path calls it. */
char *io_real_path(const char *path);
int io_rename(const char *from, const char *to);
int io_unlink(const char *path);
int io_close(int fd);
/* Have the pipe fd hold len bytes.  EBUSY: there is more in it; otherwise it cannot be had. */
int io_pipe_size(int fd, size_t len);
/* Bytes free to us where the file lies. */
int io_room(int fd, uint64_t *avail);

#endif
