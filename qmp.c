/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qmp.c -- a client of QEMU's machine protocol.
 *
 * QEMU writes one message a line: its greeting, then replies (with the id of their command) and
 * events.  Events are passed by, what they tell is asked for a few times a second; but those of a
 * guest that is stopped are counted.
 *
 *	closed --qmp_open--> open --qmp_run--> open
 *	   ^                  |
 *	   +-- gone, qmp_close
 *
 * Q1  Closed means: fd is -1, and there is no buffer.  Whatever fails with the connection closes it
 *     and says why (gone); after that, commands fail without a word.
 * Q2  What has come is in one buffer.  Its first len bytes are the last line while have_line is
 *     set, from next_line() until the next one is looked for; values are read out of that line.
 * Q3  One command is under way at a time.  Its reply has its id, or none; others are passed by.
 * Q4  As long as must_answer() says so, QEMU is waited for however long it takes, and whatever
 *     signals come.
 */
#include "qmp.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json.h"
#include "latency.h"
#include "signals.h"
#include "snap.h"

enum {
	GREETING_MS = 5000,
	TRY_MS = 50,
	REPLY_MS = 10000,	/* QEMU may have other things to do first */
	STEP = 64 << 10,
	WORDS = 512		/* of a command, without its arguments */
};

/* ---- a value of a message ---- */

/* Go to the element of the array or object just opened that the first n characters of step
 * name; its token. */
static enum json_token
go_into(struct json *j, enum json_token opened, const char *step, size_t n)
{
	unsigned long i, wanted = 0;
	enum json_token t;
	size_t k;

	if (opened != JSON_ARRAY && opened != JSON_OBJECT)
		return JSON_BAD;
	for (k = 0; k < n && opened == JSON_ARRAY; k++)
		wanted = wanted * 10 + (unsigned)(step[k] - '0');
	for (i = 0; (t = json_next(j)) != JSON_CLOSE && t != JSON_BAD; i++) {
		if (opened == JSON_ARRAY) {
			if (i == wanted)
				return t;
		} else {
			if (!j->cut && j->len == n && memcmp(j->text, step, n) == 0)
				return json_next(j);
			t = json_next(j);
		}
		if (json_skip(j, t) == JSON_BAD)
			break;
	}
	return JSON_BAD;
}

/* The value at path; a string goes to buf, too. */
static enum json_token
find(const struct qmp *q, const char *path, struct json *j, char *buf, size_t size)
{
	enum json_token t;
	size_t n;

	json_begin(j, q->have_line ? q->buf : "", q->have_line ? q->len : 0);
	j->copy = buf;
	j->copy_size = size;
	for (t = json_next(j); *path != '\0' && t != JSON_BAD; path += n + (path[n] == '.')) {
		n = strcspn(path, ".");
		t = go_into(j, t, path, n);
	}
	return t;
}

/* Is it one message, from its first byte to its last? */
static int
is_message(const char *line, size_t len)
{
	struct json j;
	enum json_token t;

	json_begin(&j, line, len);
	if (json_next(&j) != JSON_OBJECT)
		return 0;
	while ((t = json_next(&j)) != JSON_BAD && t != JSON_END)
		;
	return t == JSON_END;
}

int
qmp_has(const struct qmp *q, const char *path)
{
	struct json j;

	return find(q, path, &j, NULL, 0) != JSON_BAD;
}

int
qmp_string(const struct qmp *q, const char *path, char *buf, size_t size)
{
	struct json j;

	if (find(q, path, &j, buf, size) == JSON_STRING && !j.copy_cut)
		return 1;
	buf[0] = '\0';
	return 0;
}

const char *
qmp_at(char room[QMP_PATH], unsigned i, const char *field)
{
	snprintf(room, QMP_PATH, "return.%u%s%s", i, *field != '\0' ? "." : "", field);
	return room;
}

int
qmp_number(const struct qmp *q, const char *path, uint64_t *n)
{
	struct json j;

	if (find(q, path, &j, NULL, 0) != JSON_NUMBER || !j.is_whole)
		return 0;
	*n = j.number;
	return 1;
}

int
qmp_is_true(const struct qmp *q, const char *path)
{
	struct json j;

	return find(q, path, &j, NULL, 0) == JSON_WORD && j.is_true;
}

const char *
qmp_error(const struct qmp *q, char *buf, size_t size)
{
	struct json j;

	if (find(q, "error.desc", &j, buf, size) != JSON_STRING)
		snprintf(buf, size, "no reason given");
	return buf;
}

/* ---- the connection ---- */

static int
gone(struct qmp *q, const char *what)
{
	snap_warnx("%s: %s", q->path, what);
	qmp_close(q);
	return SNAP_ESYS;
}

/* Read once; wait for it up to ms milliseconds.  1: something came, 0: nothing did. */
static int
read_some(struct qmp *q, int ms)
{
	struct pollfd p;
	ssize_t n;
	char *grown;
	int r;

	if (q->size - q->n < STEP) {
		if (q->size >= QMP_LINE)
			return gone(q, "a message longer than any that QEMU sends");
		if ((grown = realloc(q->buf, q->size + STEP)) == NULL)
			return gone(q, "out of memory");
		q->buf = grown;
		q->size += STEP;
	}
	p.fd = q->fd;
	p.events = POLLIN;
	if ((r = poll(&p, 1, ms)) <= 0) {
		if (r < 0 && errno != EINTR)
			return gone(q, "poll fails");
		return 0;
	}
	n = read(q->fd, q->buf + q->n, q->size - q->n);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0)
		return gone(q, n == 0 ? "QEMU has closed its monitor" : "QEMU is gone");
	q->n += (size_t)n;
	return 1;
}

/* The last line is done with. */
static void
drop_line(struct qmp *q)
{
	if (q->have_line)
		memmove(q->buf, q->buf + q->len + 1, q->n -= q->len + 1);
	q->have_line = 0;
}

/* Have the next line, if a whole one is here: 1, or 0. */
static int
next_line(struct qmp *q)
{
	char *end, name[32];

	drop_line(q);
	if (q->n == 0 || (end = memchr(q->buf, '\n', q->n)) == NULL)
		return 0;
	q->have_line = 1;
	q->len = (size_t)(end - q->buf);
	q->is_event = qmp_has(q, "event");
	q->stops += q->is_event && qmp_string(q, "event", name, sizeof name) &&
	    strcmp(name, "STOP") == 0;
	return 1;
}

static int
must_answer(const struct qmp *q)
{
	return q->must_answer != NULL && q->must_answer(q->arg);
}

/* Wait for a line up to ms milliseconds, or for a new signal where QEMU may be left: 1, 0: in vain,
 * or < 0. */
static int
await_line(struct qmp *q, int ms)
{
	int64_t end = now_ns() + (int64_t)ms * 1000000, left;
	int r, signal = got_signal();

	while (!next_line(q)) {
		if ((left = (end - now_ns()) / 1000000) <= 0 ||
		    (got_signal() != signal && !must_answer(q)))
			return 0;
		if ((r = read_some(q, (int)left)) < 0)
			return r;
	}
	return 1;
}

int
qmp_look(struct qmp *q)
{
	int r;

	while ((r = read_some(q, 0)) == 1)
		while (next_line(q))
			;
	return r;
}

/* All of it, and fd with its first byte unless that is -1. */
static int
send_all(struct qmp *q, const char *p, size_t len, int fd)
{
	union {
		struct cmsghdr align;
		unsigned char room[128];
	} c;
	struct cmsghdr *h;
	struct msghdr m;
	struct iovec v;
	ssize_t n;

	while (len > 0) {
		memset(&m, 0, sizeof m);
		v.iov_base = (void *)(size_t)p;
		v.iov_len = len;
		m.msg_iov = &v;
		m.msg_iovlen = 1;
		if (fd >= 0) {
			memset(&c, 0, sizeof c);
			m.msg_control = &c;
			m.msg_controllen = sizeof c;
			h = CMSG_FIRSTHDR(&m);
			h->cmsg_level = SOL_SOCKET;
			h->cmsg_type = SCM_RIGHTS;
			/* CMSG_LEN(), which POSIX.1-2008 does not have */
			h->cmsg_len = (socklen_t)(CMSG_DATA(h) - (unsigned char *)h) + sizeof fd;
			memcpy(CMSG_DATA(h), &fd, sizeof fd);
			m.msg_controllen = h->cmsg_len;
		}
		n = sendmsg(q->fd, &m, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return gone(q, "QEMU is gone");
		p += n;
		len -= (size_t)n;
		fd = -1;
	}
	return 0;
}

int
qmp_run(struct qmp *q, int fd, const char *command, const char *arguments)
{
	char head[WORDS];
	uint64_t id;
	int r, told = 0;

	if (q->fd < 0)
		return SNAP_ESYS;
	snprintf(head, sizeof head, "{\"execute\": \"%s\", \"id\": %llu", command,
	    (unsigned long long)++q->id);
	if ((r = send_all(q, head, strlen(head), fd)) != 0 ||
	    (arguments != NULL && ((r = send_all(q, ", \"arguments\": ", 15, -1)) != 0 ||
	    (r = send_all(q, arguments, strlen(arguments), -1)) != 0)) ||
	    (r = send_all(q, "}\n", 2, -1)) != 0)
		return r;
	for (;;) {
		if ((r = await_line(q, REPLY_MS)) < 0)
			return r;
		if (r == 0 && must_answer(q)) {
			if (!told)
				snap_warnx("%s: QEMU does not answer yet: waiting; what ends "
				    "that is to kill it", q->path);
			told = 1;
			continue;
		}
		if (r == 0)
			return gone(q, got_signal() != 0 ? "given up" : "QEMU does not answer");
		if (!is_message(q->buf, q->len))
			return gone(q, "what comes is not QMP");
		if (q->is_event)
			continue;
		/* An error in what we sent has no id. */
		if (!qmp_number(q, "id", &id) || id == q->id)
			break;
	}
	return !qmp_has(q, "return");
}

/* Say that it has refused, in its words, and then the hint: SNAP_ESYS. */
static int
refused(const struct qmp *q, const char *command, const char *hint)
{
	char words[WORDS];

	qmp_error(q, words, sizeof words);
	/* So says QEMU of background snapshots where userfaultfd is too old, or not permitted. */
	return snap_warnx("%s: %s: QEMU says: %s%s%s", q->path, command, words,
	    strstr(words, "not supported by host kernel") != NULL ? " (or not permitted: sysctl "
	    "vm.unprivileged_userfaultfd=1 permits it)" : "", hint);
}

int
qmp_demand(struct qmp *q, const char *command, const char *arguments)
{
	int r = qmp_run(q, -1, command, arguments);

	return r <= 0 ? r : refused(q, command, "");
}

int
qmp_hand(struct qmp *q, int fd, const char *command, const char *arguments, const char *hint)
{
	static const char name[] = "{\"fdname\": \"" QMP_FD "\"}";
	int r = qmp_run(q, fd, "getfd", name);

	if (r > 0)
		return refused(q, "getfd", "");
	if (r == 0 && (r = qmp_run(q, -1, command, arguments)) > 0) {
		r = refused(q, command, hint);
		qmp_run(q, -1, "closefd", name);
	}
	return r;
}

static const char silent[] = "no greeting: somebody else has this monitor, or it is no QMP socket";

/* QEMU listens for one more than it serves.  Who is one too many would wait for ever on Linux. */
static int
connect_in_time(int fd, const struct sockaddr *a, socklen_t len)
{
	int64_t end = now_ns() + (int64_t)GREETING_MS * 1000000;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -1;
	while (connect(fd, a, len) < 0) {
		if (errno != EAGAIN || got_signal() != 0 || now_ns() > end)
			return -1;
		poll(NULL, 0, TRY_MS);
	}
	return fcntl(fd, F_SETFL, flags);
}

static int
connect_to(struct qmp *q, const char *path)
{
	struct sockaddr_un a;
	struct stat st;

	memset(&a, 0, sizeof a);
	a.sun_family = AF_UNIX;
	if (strlen(path) >= sizeof a.sun_path)
		return snap_warnx("%s: too long for the name of a socket", path);
	memcpy(a.sun_path, path, strlen(path));
	if (stat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
		return snap_warnx("%s: not a socket; QEMU's comes first, then the image", path);
	if ((q->fd = socket(AF_UNIX, SOCK_STREAM, 0)) < 0 ||
	    fcntl(q->fd, F_SETFD, FD_CLOEXEC) < 0 ||
	    connect_in_time(q->fd, (struct sockaddr *)&a, sizeof a) < 0) {
		if (errno == EAGAIN)
			snap_warnx("%s: %s", path, got_signal() != 0 ? "given up" : silent);
		else if (errno == ECONNREFUSED)
			snap_warnx("%s: no QEMU listens there any more", path);
		else
			snap_warn(errno, "%s", path);
		qmp_close(q);
		return SNAP_ESYS;
	}
	return 0;
}

static int
greet(struct qmp *q)
{
	uint64_t major, minor;
	int r;

	if ((r = await_line(q, GREETING_MS)) < 0)
		return r;
	if (r == 0)
		return gone(q, got_signal() != 0 ? "given up" : silent);
	if (q->len >= 5 && memcmp(q->buf, "QEMU ", 5) == 0)
		return gone(q, "a monitor for people (HMP): a QMP socket is needed, see -qmp "
		    "unix:...");
	if (!is_message(q->buf, q->len) || !qmp_number(q, "QMP.version.qemu.major", &major) ||
	    !qmp_number(q, "QMP.version.qemu.minor", &minor) || major > 1000 || minor > 999)
		return gone(q, "no QMP socket");
	q->version = (unsigned)(major * 1000 + minor);
	return 0;
}

int
qmp_open(struct qmp *q, const char *path)
{
	int err;

	memset(q, 0, sizeof *q);
	q->path = path;
	q->fd = -1;
	if ((err = connect_to(q, path)) != 0 || (err = greet(q)) != 0)
		return err;
	if ((err = qmp_demand(q, "qmp_capabilities", NULL)) != 0)
		qmp_close(q);
	return err;
}

void
qmp_close(struct qmp *q)
{
	if (q->fd >= 0)
		close(q->fd);
	free(q->buf);
	q->buf = NULL;
	q->n = q->size = 0;
	q->have_line = 0;
	q->fd = -1;
}

/* ---- guest and migration ---- */

int
qmp_guest(struct qmp *q, char state[GUEST_STATE], int *runs)
{
	int err = qmp_demand(q, "query-status", NULL);

	*runs = err == 0 && qmp_is_true(q, "return.running");
	if (err == 0)
		qmp_string(q, "return.status", state, GUEST_STATE);
	return err;
}

int
qmp_migration(struct qmp *q, char state[MIGRATION_STATE])
{
	int err = qmp_demand(q, "query-migrate", NULL);

	if (err == 0 && !qmp_string(q, "return.status", state, MIGRATION_STATE))
		strcpy(state, "none");
	return err;
}

void
qmp_say_reason(const struct qmp *q, const char *state)
{
	char words[WORDS];

	if (qmp_string(q, "return.error-desc", words, sizeof words))
		snap_warnx("%s: QEMU says: %s", q->path, words);
	else
		snap_warnx("%s: QEMU gives no reason; the migration is %s", q->path, state);
}

int
migration_is_over(const char *state)
{
	static const char *const words[] = { "none", "completed", "failed", "cancelled" };
	size_t i;

	for (i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strcmp(state, words[i]) == 0)
			return 1;
	return 0;
}

void
qmp_find_capability(const struct qmp *q, const char *name, int *known, int *on)
{
	char path[QMP_PATH], found[64];
	unsigned i;

	*known = *on = 0;
	for (i = 0; qmp_string(q, qmp_at(path, i, "capability"), found, sizeof found); i++)
		if (strcmp(found, name) == 0) {
			*known = 1;
			*on = qmp_is_true(q, qmp_at(path, i, "state"));
		}
}

int
qmp_capability(struct qmp *q, const char *name, int *known, int *on)
{
	int err = qmp_demand(q, "query-migrate-capabilities", NULL);

	*known = *on = 0;
	if (err == 0)
		qmp_find_capability(q, name, known, on);
	return err;
}

int
qmp_set_capability(struct qmp *q, const char *name, int on, const char *hint)
{
	char arguments[128];
	int r;

	snprintf(arguments, sizeof arguments,
	    "{\"capabilities\": [{\"capability\": \"%s\", \"state\": %s}]}", name,
	    on ? "true" : "false");
	r = qmp_run(q, -1, "migrate-set-capabilities", arguments);
	return r <= 0 ? r : refused(q, name, on ? hint : "");
}
