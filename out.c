/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * out.c -- writing a migration stream: small things are gathered, pages referred to, and all of
 * it goes out in few system calls.
 */
#include "out.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "pipe.h"
#include "snap.h"

void
out_init(struct stream_out *o, int fd, const struct ram_map *ram)
{
	long max = sysconf(_SC_IOV_MAX);

	o->fd = fd;
	o->name = NULL;
	o->ram = ram;
	o->cur = NULL;
	o->in_section = 0;
	o->records = 0;
	o->first = o->niov = 0;
	o->max_iov = max > 0 && max < OUT_IOV ? (int)max : OUT_IOV;
	o->nsmall = 0;
	o->returns = 0;
}

int
out_pending(const struct stream_out *o)
{
	return o->first < o->niov;
}

/* Why the last write failed. */
static int
fail(struct stream_out *o)
{
	if (o->name != NULL)
		snap_warn(errno, "%s: write", o->name);
	else if (errno == EPIPE)
		snap_warnx("the destination closed the stream");
	else
		snap_warn(errno, "writing the stream");
	o->first = o->niov = 0;
	return SNAP_ESYS;
}

int
out_flush(struct stream_out *o)
{
	struct iovec *v;
	ssize_t n;
	size_t k;

	while (o->first < o->niov) {
		n = writev(o->fd, o->iov + o->first, o->niov - o->first);
		if (n < 0 && o->returns && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 1;
		if (n < 0 && !pipe_try_again(o->fd, POLLOUT))
			return fail(o);
		while (n > 0) {
			v = &o->iov[o->first];
			k = (size_t)n < v->iov_len ? (size_t)n : v->iov_len;
			v->iov_base = (uint8_t *)v->iov_base + k;
			v->iov_len -= k;
			n -= (ssize_t)k;
			if (v->iov_len == 0)
				o->first++;
		}
	}
	o->first = o->niov = 0;
	o->nsmall = 0;
	return 0;
}

/* At most OUT_SMALL bytes. */
static int
out_piece(struct stream_out *o, const void *buf, size_t len)
{
	struct iovec *v;
	uint8_t *at;

	if (len > OUT_SMALL - o->nsmall || o->niov == o->max_iov)
		if (out_flush(o) != 0)
			return SNAP_ESYS;
	at = o->small + o->nsmall;
	memcpy(at, buf, len);
	o->nsmall += len;
	v = &o->iov[o->niov];
	if (o->niov > o->first && (uint8_t *)v[-1].iov_base + v[-1].iov_len == at) {
		v[-1].iov_len += len;
		return 0;
	}
	v->iov_base = at;
	v->iov_len = len;
	o->niov++;
	return 0;
}

int
out_copy(struct stream_out *o, const void *buf, size_t len)
{
	const uint8_t *p = buf;
	size_t n;
	int err = 0;

	for (; len > 0 && err == 0; p += n, len -= n) {
		n = len < OUT_SMALL ? len : OUT_SMALL;
		err = out_piece(o, p, n);
	}
	return err;
}

static int
out_refer(struct stream_out *o, const void *buf, size_t len)
{
	union {
		const void *in;
		void *out;
	} p;

	if (o->niov == o->max_iov && out_flush(o) != 0)
		return SNAP_ESYS;
	p.in = buf;	/* writev() only reads, but struct iovec cannot say so */
	o->iov[o->niov].iov_base = p.out;
	o->iov[o->niov].iov_len = len;
	o->niov++;
	return 0;
}

int
out_command(struct stream_out *o, unsigned cmd, const void *buf, size_t len)
{
	uint8_t head[COMMAND_SIZE];

	head[0] = VM_COMMAND;
	put_be16(head + 1, cmd);
	put_be16(head + 3, (uint32_t)len);
	if (out_copy(o, head, sizeof head) != 0)
		return SNAP_ESYS;
	return len > 0 ? out_copy(o, buf, len) : 0;
}

int
out_begin(struct stream_out *o, unsigned type)
{
	uint8_t head[SECTION_HEAD];

	head[0] = (uint8_t)type;
	put_be32(head + 1, o->ram->sid);
	o->in_section = 1;
	o->records = 0;
	return out_copy(o, head, sizeof head);
}

int
out_end(struct stream_out *o)
{
	uint8_t end[8 + SECTION_FOOT];

	if (!o->in_section)
		return 0;
	put_be64(end, RAM_EOS);
	end[8] = VM_SECTION_FOOTER;
	put_be32(end + 9, o->ram->sid);
	o->in_section = 0;
	return out_copy(o, end, sizeof end);
}

int
out_page(struct stream_out *o, uint64_t page, const uint8_t *data)
{
	const struct ram_block *b = o->cur;
	uint8_t head[8 + 1 + ID_MAX + 1];
	uint64_t word;
	size_t n = 8, len;

	if (b == NULL || page < b->first ||
	    page - b->first >= b->len / o->ram->page_size)
		b = ram_map_find(o->ram, page);
	word = (page - b->first) * o->ram->page_size | (data != NULL ? RAM_PAGE : RAM_ZERO);
	if (b == o->cur && o->records > 0)
		word |= RAM_CONTINUE;
	else {
		len = strlen(b->id);
		head[n++] = (uint8_t)len;
		memcpy(head + n, b->id, len);
		n += len;
	}
	put_be64(head, word);
	if (data == NULL)
		head[n++] = 0;
	o->cur = b;
	o->records++;
	if (out_copy(o, head, n) != 0)
		return SNAP_ESYS;
	return data != NULL ? out_refer(o, data, o->ram->page_size) : 0;
}
