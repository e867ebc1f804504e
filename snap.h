/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * snap.h -- the words every module shares.  No module's state is here.
 */
#ifndef SNAP_H
#define SNAP_H

#include <stddef.h>
#include <stdint.h>

#define SNAP_VERSION	"1.0"

/* What a failing function returns; a reason has been printed by then, save for
 * SNAP_EBUG, which main() reports. */
enum {
	SNAP_ESYS = -1,		/* the system refused: I/O, memory, closed peer: exit 1 */
	SNAP_EDATA = -2,	/* stream or image is damaged or unknown: exit 2 */
	SNAP_EBUG = -3		/* a check on ourselves failed: exit 3 */
};

enum {
	PAGE_SIZE_MIN = 1024,	/* bits below the offset must hold all flags */
	PAGE_SIZE_MAX = 65536,
	RAM_MAP_MAX = 32768	/* bytes an image has for the list of blocks */
};

#define PAGES_MAX	((UINT64_C(1) << 40) - 1)	/* of a guest */

/* One RAM block, as QEMU names it. */
struct ram_block {
	char id[256];		/* NUL-terminated; 1 to 255 bytes on the wire */
	uint64_t len;		/* bytes; a multiple of the page size, never 0 */
	uint64_t addr;		/* guest physical, where ram_map.has_addr is set */
	uint64_t first;		/* number of its first page in the whole guest */
};

/* All RAM blocks in QEMU's order; pages are numbered through them. */
struct ram_map {
	struct ram_block *blk;
	size_t nblk;
	uint64_t npages;	/* of all blocks */
	uint32_t page_size;	/* bytes: the target's page */
	uint32_t sid;		/* section id of "ram" in the saved stream */
	int has_addr;		/* x-ignore-shared was on */
};

/* The block that holds page number page, which must be < npages. */
const struct ram_block *ram_map_find(const struct ram_map *ram, uint64_t page);
/* The block called id, or NULL. */
const struct ram_block *ram_map_named(const struct ram_map *ram, const char *id);

#ifdef __GNUC__
#define PRINTF_LIKE(f, a)	__attribute__((format(printf, f, a)))
#else
#define PRINTF_LIKE(f, a)
#endif

/* Print "qemu-snap: message" to stderr.  SNAP_ESYS, for who has failed by it to return. */
int snap_warnx(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* The same with ": <text of err, an errno value>" behind it. */
int snap_warn(int err, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The same as snap_warnx() for what may be left out: whoever reads stderr is not waited for. */
void snap_note(const char *fmt, ...) PRINTF_LIKE(1, 2);
/*
 * Have this line, without a newline, stand on the terminal that is stderr, in place of the one
 * before, up to the next message.  It is cut at 79 columns.  "": none any more.
 */
void snap_line(const char *text);

/* Say that a temporary file was removed, see io_sweep_parts(). */
void say_stale(const char *name, const char *verb);
/* Say so, and 1, if the data of such an image is not aligned as direct I/O needs it. */
int no_direct_io(const char *path, int coded, uint32_t page_size);

/*
 * What SIGHUP, SIGINT and SIGTERM do from now on: a handler, SIG_IGN or SIG_DFL.  No
 * read is restarted.  What whoever started us ignores (nohup) stays ignored.
 */
void on_signals_to_end(void (*fn)(int));
/* They are noted from now on; and were there any?  0, or SNAP_ESYS after a message that path
 * is given up. */
void note_signals(void);
int check_signals(const char *path);
int got_signal(void);		/* its number, or 0 */

/* Print a line to stdout, without its newline here, and with '?' for control characters: the names
 * in it come from strangers. */
void print_line(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* Write out what was printed to stdout: status, or SNAP_ESYS if that fails. */
int close_stdout(int status);

#endif
