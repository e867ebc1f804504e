/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fuzz.c -- what the fuzzers share.
 *
 * With FUZZ_SHOW in the environment, messages are printed.
 */
#include "fuzz.h"

#include <sys/uio.h>

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct feed feed;
struct sink sink;
unsigned messages;

/* ---- files ---- */

static char directory[64];

/* Look at the files there, and remove them if they are to go: how many there were. */
static int
for_files(int remove)
{
	DIR *d = opendir(directory);
	struct dirent *e;
	char name[64 + 256];
	int n = 0;

	MUST(d != NULL);
	while ((e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		n++;
		snprintf(name, sizeof name, "%s/%s", directory, e->d_name);
		if (remove)
			unlink(name);
	}
	closedir(d);
	return n;
}

static void
clean_up(void)
{
	for_files(1);
	rmdir(directory);
}

const char *
fuzz_directory(void)
{
	snprintf(directory, sizeof directory, "%s/snap-fuzz.XXXXXX",
	    access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	MUST(mkdtemp(directory) != NULL);
	atexit(clean_up);
	return directory;
}

int
fuzz_files(void)
{
	return for_files(0);
}

/* ---- chance ---- */

uint64_t
chance_next(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

uint64_t
hash(uint64_t h, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	while (len-- > 0)
		h = (h ^ *p++) * 0x100000001b3;
	return h;
}

/* ---- input and output ---- */

ssize_t fuzz_read(int, void *, size_t);
ssize_t fuzz_writev(int, const struct iovec *, int);
int fuzz_poll(struct pollfd *, nfds_t, int);
int fuzz_fcntl(int, int, ...);

void
feed_set(const void *buf, size_t len, uint64_t chance)
{
	feed.buf = buf;
	feed.len = len;
	feed.pos = 0;
	feed.chance = chance;
	feed.silent = 0;
}

ssize_t
fuzz_read(int fd, void *buf, size_t n)
{
	uint64_t r;

	(void)fd;
	if (n > feed.len - feed.pos)
		n = feed.len - feed.pos;
	if (feed.chance != 0) {
		r = chance_next(&feed.chance);
		if (r % 16 == 0) {
			errno = r >> 8 & 1 ? EINTR : EAGAIN;
			return -1;
		}
		r = r >> 16 & 1 ? r >> 20 & 15 : r >> 20 & 4095;
		if (n > 0)
			n = r < n ? (size_t)r + 1 : n;
	}
	if (n > 0)
		memcpy(buf, feed.buf + feed.pos, n);
	feed.pos += n;
	return (ssize_t)n;
}

/* What is asked about first in each call is the feed; all else is ready at once. */
int
fuzz_poll(struct pollfd *p, nfds_t n, int ms)
{
	nfds_t i;
	int ready = 0;

	for (i = 0; i < n; i++) {
		p[i].revents = 0;
		if (p[i].fd < 0)
			continue;
		if (i == 0 && feed.pos == feed.len && feed.silent && ms >= 0)
			continue;
		p[i].revents = p[i].events & (POLLIN | POLLOUT);
		ready += p[i].revents != 0;
	}
	return ready;
}

void
sink_reset(size_t max, uint64_t chance)
{
	sink.len = 0;
	sink.total = 0;
	sink.max = max;
	sink.chance = chance;
}

static void
put(const uint8_t *p, size_t n)
{
	sink.total += n;
	if (n > sink.max - sink.len)
		n = sink.max - sink.len;
	if (sink.cap < sink.max) {
		free(sink.buf);
		sink.cap = sink.max;
		MUST((sink.buf = malloc(sink.cap)) != NULL);
	}
	if (n > 0)
		memcpy(sink.buf + sink.len, p, n);
	sink.len += n;
}

ssize_t
fuzz_writev(int fd, const struct iovec *v, int n)
{
	size_t left = SIZE_MAX, k;
	ssize_t done = 0;
	uint64_t r;
	int i;

	(void)fd;
	if (sink.chance != 0) {
		r = chance_next(&sink.chance);
		if (r % 16 == 0) {
			errno = EINTR;
			return -1;
		}
		left = 1 + (size_t)(r >> 8 & 8191);
	}
	MUST(n > 0 && n <= 1024);
	for (i = 0; i < n && left > 0; i++) {
		k = v[i].iov_len < left ? v[i].iov_len : left;
		put(v[i].iov_base, k);
		done += (ssize_t)k;
		left -= k;
	}
	return done;
}

int
fuzz_fcntl(int fd, int cmd, ...)
{
	(void)fd;
	(void)cmd;
	return 0;
}

/* ---- messages ---- */

#undef write
ssize_t write(int, const void *, size_t);
ssize_t fuzz_write(int, const void *, size_t);

ssize_t
fuzz_write(int fd, const void *p, size_t n)
{
	if (fd != STDERR_FILENO)
		return write(fd, p, n);
	messages++;
	if (getenv("FUZZ_SHOW") != NULL)
		fprintf(stderr, "%.*s", (int)n, (const char *)p);
	return (ssize_t)n;
}

/* ---- bounds ---- */

/* Of the sanitizers; not there in a build for coverage. */
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
    void (*)(const volatile void *)) __attribute__((weak));
size_t __sanitizer_get_allocated_size(const volatile void *) __attribute__((weak));

static int64_t heap, heap_max;
static struct timespec since;

static void
on_malloc(const volatile void *p, size_t n)
{
	if (p == NULL)
		return;
	heap += (int64_t)n;
	if (heap > heap_max)
		heap_max = heap;
}

static void
on_free(const volatile void *p)
{
	if (p != NULL)
		heap -= (int64_t)__sanitizer_get_allocated_size(p);
}

void
bounds_begin(void)
{
	static int hooked;

	if (!hooked && __sanitizer_install_malloc_and_free_hooks != NULL)
		__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
	hooked = 1;
	heap = heap_max = 0;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &since);
}

void
bounds_end(size_t bytes, unsigned ms)
{
	struct timespec now;
	long long took;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	took = (now.tv_sec - since.tv_sec) * 1000LL + (now.tv_nsec - since.tv_nsec) / 1000000;
	if (heap_max > (int64_t)bytes || took > (long long)ms)
		fprintf(stderr, "%lld bytes of heap, %lld ms\n", (long long)heap_max, took);
	MUST(heap_max <= (int64_t)bytes);
	MUST(took <= (long long)ms);
}
