/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * returnpath.h -- the messages that a destination sends back to the source: read here, and the one
 * that a source waits for when it is saved.  (migration/migration.c)
 */
#ifndef RETURNPATH_H
#define RETURNPATH_H

#include <stddef.h>
#include <stdint.h>

#include "ram.h"

enum rp_type {
	RP_SHUT = 1,
	RP_PONG = 2,
	RP_REQ_PAGES_ID = 3,
	RP_REQ_PAGES = 4,
	RP_RECV_BITMAP = 5,	/* raw bytes follow it: rp_take() */
	RP_RESUME_ACK = 6,
	RP_SWITCHOVER_ACK = 7
};

struct rp_msg {
	enum rp_type type;
	uint32_t value;			/* SHUT, PONG, RESUME_ACK */
	const struct ram_block *blk;	/* REQ_PAGES, REQ_PAGES_ID, RECV_BITMAP */
	uint64_t start, len;		/* bytes in the block; within it */
};

struct rp_in {
	int fd;
	const struct ram_map *ram;
	const struct ram_block *cur;
	int eof;
	size_t pos, len;
	uint8_t buf[4096];
};

void rp_init(struct rp_in *r, int fd, const struct ram_map *ram);
/* Read what is there, waiting if there is nothing.  0 or SNAP_ESYS; end of
 * input sets r->eof. */
int rp_read(struct rp_in *r);
/* n bytes that are no message, waiting for them.  0, or SNAP_ESYS, reported. */
int rp_take(struct rp_in *r, void *buf, size_t n);
/* 1 a message is in *m, 0 none complete yet, SNAP_EDATA a bad one, reported. */
int rp_next(struct rp_in *r, struct rp_msg *m);
/* Tell the source, if it still listens, that the migration is stored (0) or not. */
void rp_send_shut(int fd, uint32_t status);

#endif
