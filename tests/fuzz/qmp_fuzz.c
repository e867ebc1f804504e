/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qmp_fuzz.c -- what a QEMU says on its monitor.
 *
 * An input is one byte, and what the server sends.  The byte: which verb is the client in its low
 * three bits (0: none of them, commands and the values of their replies); 8: pieces, interrupts; 16:
 * all comes at once, else the next line behind each command, with the events before it; 32: silence
 * at the end, not the end; 64: the other end of the stream has failed.
 *
 * Checked: a message is taken for one if and only if it is, and its values are those that a second
 * parser finds; who fails has said so, once where nothing has to be undone; memory, time,
 * descriptors.
 */
#include <sys/socket.h>

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../aio.h"
#include "../../disks.h"
#include "../../json.h"
#include "../../latency.h"
#include "../../qmp.h"
#include "../../signals.h"
#include "../../snap.h"
#include "../../child.h"
#include "fuzz.h"

int LLVMFuzzerInitialize(int *, char ***);
int fuzz_connect(int, const struct sockaddr *, socklen_t);
ssize_t fuzz_sendmsg(int, const struct msghdr *, int);
time_t fuzz_time(time_t *);
pid_t fuzz_getpid(void);
int fuzz_access(const char *, int);

enum {
	VERB = 7, PIECES = 8, AT_ONCE = 16, SILENT = 32, FAILS = 64,	/* of an input's first byte */
	HEAP = 24 << 20,
	TIME_MS = 4000,
	VALUE = 512
};

static uint8_t mode;
static const uint8_t *input;
static size_t input_len;
static int64_t clock_ns;
static int waits;		/* of the child's, until it ends */

/* ---- the connection ---- */

/* The next line may be read, and all events before it. */
static void
release(void)
{
	static const char event[] = "{\"timestamp\"";
	const uint8_t *p, *end;

	do {
		p = input + feed.len;
		end = memchr(p, '\n', input_len - feed.len);
		feed.len = end == NULL ? input_len : (size_t)(end + 1 - input);
	} while (end != NULL && input_len - (size_t)(p - input) >= sizeof event - 1 &&
	    memcmp(p, event, sizeof event - 1) == 0);
	feed.silent = feed.len < input_len || (mode & SILENT);
}

int
fuzz_connect(int fd, const struct sockaddr *a, socklen_t n)
{
	(void)fd;
	(void)a;
	(void)n;
	return 0;
}

ssize_t
fuzz_sendmsg(int fd, const struct msghdr *m, int flags)
{
	size_t n = m->msg_iov[0].iov_len;

	(void)fd;
	(void)flags;
	MUST(n > 0);
	if (((const char *)m->msg_iov[0].iov_base)[n - 1] == '\n')
		release();
	return (ssize_t)n;
}

/* Names of nodes and jobs are made of it. */
time_t
fuzz_time(time_t *t)
{
	(void)t;
	return 0;
}

pid_t
fuzz_getpid(void)
{
	return 1;
}

/* Disks are there, and their new files, which have the image's name, are not. */
int
fuzz_access(const char *path, int how)
{
	(void)how;
	return strncmp(path, "/nonexistent/i.", 15) == 0 ? -1 : 0;
}

/* Who waits comes to the end of its time; and who waits whatever that says, to that of QEMU's. */
int64_t
now_ns(void)
{
	if (clock_ns > INT64_C(100000000000))
		feed.silent = 0;
	return clock_ns += feed.pos == feed.len ? INT64_C(1000000000) : 1000;
}

/* ---- what the verbs need, and is not looked at here ---- */

int
child_start(struct child *w, const int end[2], const struct options *o,
    int (*verb)(const struct options *))
{
	(void)o;
	(void)verb;
	close(end[0]);
	close(end[1]);
	waits = 0;
	w->said = LEASH_READY;
	return 0;
}

int
child_begin(struct child *w, int err)
{
	(void)w;
	return err;
}

int
child_wait(struct child *w, int ms)
{
	(void)ms;
	if (waits++ == 0)
		w->said |= LEASH_PAGE;
	else if (waits == 2)
		w->said |= LEASH_DONE;
	else if (waits > 3 && !w->ended) {
		w->ended = 1;
		w->status = mode & FAILS ? SNAP_EDATA : 0;
		if (w->status != 0)
			snap_warnx("the child has failed");
	}
	return 0;
}

void
child_join(struct child *w)
{
	while (!w->ended)
		child_wait(w, 0);
}

void child_go(struct child *w) { (void)w; }
void child_cancel(struct child *w) { (void)w; }
void note_signals(void) { }
int got_signal(void) { return 0; }
int check_signals(const char *path) { (void)path; return 0; }
int run_save(const struct options *o) { (void)o; return 0; }
int run_load(const struct options *o) { (void)o; return 0; }
int io_unlink(const char *path) { (void)path; return 0; }
void uuid_format(char text[37], const uint8_t uuid[16]) { (void)uuid; strcpy(text, "uuid"); }

const struct image_footer *
image_footer(const struct image *im)
{
	static const struct image_footer none;

	(void)im;
	return &none;
}

struct image *
image_open(const char *path, int flags, int *err)
{
	(void)path;
	(void)flags;
	*err = 0;
	return (struct image *)&mode;
}

void image_close(struct image *im) { (void)im; }

const char *image_path(const struct image *im) { (void)im; return "image"; }

const struct section *
footer_section(const struct image_footer *f, uint32_t type)
{
	static const struct section some;

	(void)f;
	(void)type;
	return &some;
}

int
image_section(struct image *im, uint32_t id, uint8_t **buf, size_t *len)
{
	struct disks d = { 1, 0, NULL };

	(void)im;
	(void)id;
	*buf = disks_pack(&d, len);
	return 0;
}

static struct ram_block blocks[3];
static struct ram_map ram = { .page_size = 4096, .npages = 3, .blk = blocks, .nblk = 3 };

const struct ram_map *image_ram(const struct image *im) { (void)im; return &ram; }

const struct ram_block *
ram_map_named(const struct ram_map *r, const char *id)
{
	size_t i;

	MUST(strlen(id) < sizeof blocks[0].id);
	for (i = 0; i < r->nblk; i++)
		if (strcmp(r->blk[i].id, id) == 0)
			return &r->blk[i];
	return NULL;
}

/* ---- the second parser ---- */

static const char *s, *s_end;		/* where it is, and the end */

static int value_ok(int depth);

static void
blanks(void)
{
	while (s < s_end && (*s == ' ' || *s == '\t' || *s == '\r' || *s == '\n'))
		s++;
}

static int
is(char c)
{
	return s < s_end && *s == c ? s++, 1 : 0;
}

static int
hex(long *v)
{
	char digits[5], *end;

	if (s_end - s < 4)
		return 0;
	memcpy(digits, s, 4);
	digits[4] = '\0';
	s += 4;
	*v = strtol(digits, &end, 16);
	return end == digits + 4 && strspn(digits, "0123456789abcdefABCDEF") == 4;
}

/* One code point, told in any way; -1: none. */
static long
point(void)
{
	static const long least[] = { 0, 0x80, 0x800, 0x10000 };
	unsigned char c = (unsigned char)*s++;
	long v, low;
	int n = c < 0xc0 ? -1 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : c < 0xf8 ? 3 : -1, i;

	if (c < 0x20)
		return -1;
	if (c == '\\') {
		if (s == s_end || *s == '\0')
			return -1;
		if (*s != 'u')
			return strchr("\"\\/bfnrt", *s) ? *s++ : -1;
		s++;
		if (!hex(&v) || v == 0 || v >> 10 == 0x37)
			return -1;
		if (v >> 10 != 0x36)
			return v;
		return is('\\') && is('u') && hex(&low) && low >> 10 == 0x37 ?
		    0x10000 + ((v & 0x3ff) << 10 | (low & 0x3ff)) : -1;
	}
	if (c < 0x80)
		return c;
	if (n < 0 || s_end - s < n)
		return -1;
	for (v = c & (0x3f >> n), i = 0; i < n; i++, s++) {
		if (((unsigned char)*s & 0xc0) != 0x80)
			return -1;
		v = v << 6 | (*s & 0x3f);
	}
	return v < least[n] || v > 0x10ffff || v >> 11 == 0x1b ? -1 : v;
}

static int
string_ok(void)
{
	if (!is('"'))
		return 0;
	while (s < s_end && *s != '"')
		if (point() < 0)
			return 0;
	return is('"');
}

static int
digits_ok(void)
{
	const char *from = s;

	while (s < s_end && *s >= '0' && *s <= '9')
		s++;
	return s > from;
}

static int
number_ok(void)
{
	is('-');
	if (!is('0') && !digits_ok())
		return 0;
	if (is('.') && !digits_ok())
		return 0;
	if (is('e') || is('E')) {
		if (!is('+'))
			is('-');
		return digits_ok();
	}
	return 1;
}

static int
word_ok(const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(s_end - s) < n || memcmp(s, w, n) != 0)
		return 0;
	s += n;
	return 1;
}

/* What is in brackets, of which the first is passed. */
static int
inside_ok(char close, int depth)
{
	if (depth > JSON_DEPTH)
		return 0;
	blanks();
	if (is(close))
		return 1;
	do {
		blanks();
		if (close == '}') {
			if (!string_ok())
				return 0;
			blanks();
			if (!is(':'))
				return 0;
		}
		if (!value_ok(depth))
			return 0;
		blanks();
	} while (is(','));
	return is(close);
}

static int
value_ok(int depth)
{
	blanks();
	if (is('{'))
		return inside_ok('}', depth + 1);
	if (is('['))
		return inside_ok(']', depth + 1);
	if (s < s_end && *s == '"')
		return string_ok();
	if (s < s_end && (*s == '-' || (*s >= '0' && *s <= '9')))
		return number_ok();
	return word_ok("true") || word_ok("false") || word_ok("null");
}

static int
message_ok(const char *p, size_t n)
{
	s = p;
	s_end = p + n;
	blanks();
	if (s == s_end || *s != '{' || !value_ok(0))
		return 0;
	blanks();
	return s == s_end;
}

/* Go from the value at s to the one of that name; all is well-formed.  0: there is none; -1: a key
 * on the way has escapes, and is not worth the trouble. */
static int
step_to(const char *name, size_t n)
{
	unsigned long i = 0, wanted = strtoul(name, NULL, 10);
	const char *key;
	int object;

	blanks();
	object = *s == '{';
	if (!object && (*s != '[' || strspn(name, "0123456789") != n))
		return 0;
	s++;
	for (;; i++) {
		blanks();
		if (*s == '}' || *s == ']')
			return 0;
		if (object) {
			key = s;
			string_ok();
			if (memchr(key, '\\', (size_t)(s - key)) != NULL)
				return -1;
			blanks();
			s++;
			if ((size_t)(s - key) > n + 1 && memcmp(key + 1, name, n) == 0 && key[n + 1] == '"') {
				blanks();
				return 1;
			}
		} else if (i == wanted)
			return 1;
		value_ok(0);
		blanks();
		if (!is(','))
			return 0;
	}
}

static int
find_value(const struct qmp *q, const char *path)
{
	size_t n;
	int r = 1;

	s = q->buf;
	s_end = q->buf + q->len;
	for (; *path != '\0' && r == 1; path += n + (path[n] == '.')) {
		n = strcspn(path, ".");
		r = step_to(path, n);
	}
	return r;
}

/* ---- the client without a verb ---- */

/* The string at s is buf, or too long for it. */
static void
check_string(int found, const char *buf, size_t size)
{
	const unsigned char *u = (const unsigned char *)buf;
	const char *from = s;
	size_t n = 0;
	long v, known;
	int escaped;

	MUST(string_ok());
	s_end = s - 1;
	s = from + 1;
	while (s < s_end) {
		escaped = *s == '\\' && s[1] != 'u' && s[1] != '"' && s[1] != '\\' && s[1] != '/';
		v = point();
		n += v < 0x80 ? 1 : v < 0x800 ? 2 : v < 0x10000 ? 3 : 4;
		if (!found)
			continue;
		known = *u < 0x80 ? *u : *u < 0xe0 ? (*u & 31) << 6 | (u[1] & 63) :
		    *u < 0xf0 ? (*u & 15) << 12 | (u[1] & 63) << 6 | (u[2] & 63) :
		    (*u & 7L) << 18 | (u[1] & 63) << 12 | (u[2] & 63) << 6 | (u[3] & 63);
		MUST(escaped ? known < ' ' : known == v);
		u += *u < 0x80 ? 1 : *u < 0xe0 ? 2 : *u < 0xf0 ? 3 : 4;
	}
	MUST(found == (n < size));
	MUST(!found || strlen(buf) == n);
}

static void
check_value(const struct qmp *q, const char *path)
{
	char buf[VALUE], shown[VALUE];
	uint64_t n = 0;
	size_t sizes[] = { VALUE, 16 }, i;
	int r = find_value(q, path);
	const char *at = s;

	if (r < 0)
		return;
	MUST(qmp_has(q, path) == r);
	MUST(qmp_is_true(q, path) == (r && *at == 't'));
	for (i = 0; i < 2; i++) {
		int found = qmp_string(q, path, buf, sizes[i]);

		MUST(r && *at == '"' ? 1 : !found);
		if (r && *at == '"') {
			s = at;
			s_end = q->buf + q->len;
			check_string(found, buf, sizes[i]);
		}
	}
	if (qmp_number(q, path, &n)) {
		MUST(r);
		i = (size_t)snprintf(shown, sizeof shown, "%llu", (unsigned long long)n);
		MUST(memcmp(at, shown, i) == 0 && (at[i] < '0' || at[i] > '9') && at[i] != '.');
	} else if (r && *at >= '0' && *at <= '9') {
		i = strspn(at, "0123456789");
		MUST(i > 19 || at[i] == '.' || at[i] == 'e' || at[i] == 'E');
	}
}

static int
talk(void)
{
	static const char *const paths[] = {
		"", "return", "return.status", "return.running", "return.max-bandwidth", "return.0",
		"return.1.inserted.node-name", "return.3.capability", "return.ram.transferred",
		"return.human-readable-text", "return.0.inserted.file", "error.desc", "id", "event",
		"error", "return.1.state", "a.b.c", "return.0.0.0"
	};
	char words[VALUE], state[MIGRATION_STATE];
	struct qmp q;
	size_t i;
	int r, known, on;

	if ((r = qmp_open(&q, "q")) != 0)
		return r;
	while (messages == 0 && qmp_run(&q, -1, "x", "{}") >= 0) {
		MUST(q.have_line && memchr(q.buf, '\n', q.len) == NULL);
		MUST(message_ok(q.buf, q.len));
		for (i = 0; i < sizeof paths / sizeof paths[0]; i++)
			check_value(&q, paths[i]);
		MUST(*qmp_error(&q, words, sizeof words) != '\0' || qmp_has(&q, "error.desc"));
		if (feed.pos % 3 == 0 && qmp_capability(&q, "postcopy-ram", &known, &on) == 0)
			MUST(known || !on);
		if (messages == 0 && feed.pos % 5 == 0 && qmp_migration(&q, state) == 0)
			MUST(strlen(state) < sizeof state);
	}
	if (q.fd < 0)
		MUST(q.buf == NULL);
	qmp_close(&q);
	return SNAP_ESYS;
}

/* What is one message alone, is taken as one. */
static void
check_first_line(const uint8_t *p, size_t n)
{
	static const char greeting[] = "{\"QMP\":{\"version\":{\"qemu\":{\"major\":9,\"minor\":0}}}}\n"
	    "{\"return\":{}}\n";
	static char text[sizeof greeting + 65536];
	const uint8_t *end = memchr(p, '\n', n);
	struct qmp q;
	int r;

	if (end == NULL || end - p > 65000)
		return;
	n = (size_t)(end + 1 - p);
	memcpy(text, greeting, sizeof greeting - 1);
	memcpy(text + sizeof greeting - 1, p, n);
	feed_set(text, sizeof greeting - 1 + n, 0);
	input = feed.buf;
	input_len = feed.len;
	MUST(qmp_open(&q, "q") == 0);
	messages = 0;
	r = qmp_run(&q, -1, "x", NULL);
	if (!message_ok((const char *)p, n - 1))
		MUST(r < 0 && messages == 1);
	else if (q.fd >= 0)
		MUST(r >= 0 && messages == 0);
	qmp_close(&q);
}

/* ---- the fuzzer ---- */

static int
run_verb(void)
{
	static char *file[] = { "/nonexistent/q", "/nonexistent/i" };
	struct options o;

	memset(&o, 0, sizeof o);
	o.file = file;
	o.nfile = 2;
	o.percent = -1;
	o.status_fd = -1;
	switch (mode & VERB) {
	case 1:
		return run_status(&o);
	case 2:
		o.disk_names = "";
		break;
	case 3:
		o.stop = 1;
		break;
	case 4:
		o.disk_names = "sys,data";
		break;
	case 5:
		return run_revert(&o);
	case 6:
		o.percent = 0;
		return run_revert(&o);
	case 7:
		o.resume = 1;
		return run_revert(&o);
	default:
		return talk();
	}
	return run_take(&o);
}

static int
lowest_free(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	strcpy(blocks[0].id, "ram");
	strcpy(blocks[1].id, "pc.bios");
	strcpy(blocks[2].id, "0000:00:01.0/vga.vram");
	MUST(freopen("/dev/null", "w", stdout) != NULL);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = lowest_free(), err;

	if (size == 0)
		return 0;
	mode = data[0];
	input = data + 1;
	input_len = size - 1;
	clock_ns = 0;
	messages = 0;
	bounds_begin();
	feed_set(input, mode & AT_ONCE ? input_len : 0, mode & PIECES ? size : 0);
	if (!(mode & AT_ONCE))
		release();
	feed.silent |= (mode & SILENT) != 0;
	err = run_verb();
	MUST(err == 0 || err == SNAP_ESYS || err == SNAP_EDATA);
	MUST(err == 0 || messages > 0);
	MUST((mode & VERB) > 1 || messages <= 1);
	mode = 0;
	check_first_line(input, input_len);
	bounds_end(HEAP, TIME_MS);
	MUST(lowest_free() == fd);
	return 0;
}
