/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * returnpath.c -- the messages that a destination sends back to the source.
 */
#include "returnpath.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "pipe.h"
#include "snap.h"
#include "wire.h"

void
rp_init(struct rp_in *r, int fd, const struct ram_map *ram)
{
	memset(r, 0, sizeof *r);
	r->fd = fd;
	r->ram = ram;
}

int
rp_read(struct rp_in *r)
{
	ssize_t n;

	memmove(r->buf, r->buf + r->pos, r->len - r->pos);
	r->len -= r->pos;
	r->pos = 0;
	if ((n = pipe_read(r->fd, r->buf + r->len, sizeof r->buf - r->len)) < 0) {
		snap_warn(errno, "return path: read");
		return SNAP_ESYS;
	}
	r->eof = n == 0;
	r->len += (size_t)n;
	return 0;
}

int
rp_take(struct rp_in *r, void *buf, size_t n)
{
	uint8_t *p = buf;
	size_t k;

	while (n > 0) {
		if (r->pos == r->len) {
			if (rp_read(r) != 0)
				return SNAP_ESYS;
			if (r->eof) {
				snap_warnx("return path: ends too early");
				return SNAP_ESYS;
			}
		}
		k = r->len - r->pos < n ? r->len - r->pos : n;
		memcpy(p, r->buf + r->pos, k);
		r->pos += k;
		p += k;
		n -= k;
	}
	return 0;
}

static int
bad_message(const char *what)
{
	snap_warnx("return path: %s", what);
	return SNAP_EDATA;
}

/* The pages asked for; name NULL: of the block asked for last. */
static int
take_request(struct rp_in *r, struct rp_msg *m, const uint8_t *p, const char *name)
{
	m->start = get_be64(p);
	m->len = get_be32(p + 8);
	if (name != NULL)
		r->cur = ram_map_named(r->ram, name);
	m->blk = r->cur;
	if (m->blk == NULL)
		return bad_message("request for a page of an unknown block");
	if (m->len == 0 || m->start >= m->blk->len || m->len > m->blk->len - m->start)
		return bad_message("request for pages outside of their block");
	return 1;
}

/* The name that the last len bytes of a message are: a length and so many characters. */
static int
message_name(char name[ID_MAX + 1], const uint8_t *p, size_t len)
{
	if (len < 2 || len != 1 + (size_t)p[0])
		return bad_message("message of wrong length");
	if (memchr(p + 1, 0, p[0]) != NULL)
		return bad_message("name with a NUL byte in it");
	memcpy(name, p + 1, p[0]);
	name[p[0]] = '\0';
	return 0;
}

int
rp_next(struct rp_in *r, struct rp_msg *m)
{
	const uint8_t *p = r->buf + r->pos;
	char name[ID_MAX + 1];
	size_t len;
	int err;

	if (r->len - r->pos < 4)
		return 0;
	m->type = (enum rp_type)get_be16(p);
	len = get_be16(p + 2);
	if (len > 12 + 1 + ID_MAX)
		return bad_message("message of impossible length");
	if (r->len - r->pos < 4 + len)
		return 0;
	r->pos += 4 + len;
	p += 4;
	switch (m->type) {
	case RP_SHUT:
	case RP_PONG:
	case RP_RESUME_ACK:
		if (len != 4)
			return bad_message("message of wrong length");
		m->value = get_be32(p);
		return 1;
	case RP_SWITCHOVER_ACK:
		return len == 0 ? 1 : bad_message("message of wrong length");
	case RP_RECV_BITMAP:
		if ((err = message_name(name, p, len)) != 0)
			return err;
		m->blk = ram_map_named(r->ram, name);
		return m->blk != NULL ? 1 : bad_message("bitmap of an unknown block");
	case RP_REQ_PAGES:
		if (len != 12)
			return bad_message("request of wrong length");
		return take_request(r, m, p, NULL);
	case RP_REQ_PAGES_ID:
		if (len < 12)
			return bad_message("request of wrong length");
		if ((err = message_name(name, p + 12, len - 12)) != 0)
			return err;
		return take_request(r, m, p, name);
	default:
		return bad_message("unknown message");
	}
}

void
rp_send_shut(int fd, uint32_t status)
{
	uint8_t msg[8];

	put_be16(msg, RP_SHUT);
	put_be16(msg + 2, 4);
	put_be32(msg + 4, status);
	pipe_tell(fd, msg, sizeof msg);
}
