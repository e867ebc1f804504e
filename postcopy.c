/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * postcopy.c -- the talk with a destination that runs before its memory is there: up to the
 * switch-over, the end, and a resume.  Pages are served by serve.c.
 *
 * The destination is told everything first: RAM blocks, which of their pages
 * it has not got (DISCARD), and in one PACKAGED piece LISTEN, the state of the
 * devices, and RUN.  From LISTEN on it asks for pages over the return path;
 * meanwhile all stored pages are pushed to it.  Pages that are zero or were
 * never saved are sent only when they, or neighbours of zero ones, are asked
 * for, or share their host page with one that is stored; zero ones also from a
 * hot list.  What QEMU never got reads as zero.
 *
 *	PRECOPY --switch_over--> LOADING --PONG--> RUNNING --finish--> ENDING
 *
 *	PRECOPY	 the first pages go out; skipped with --postcopy=0
 *	LOADING	 the destination loads its devices; that alone may need pages.
 *		 The stream must not end here: QEMU would wait for the devices,
 *		 and these for pages that nobody brings any more.  A PING behind
 *		 the devices tells when they are through
 *	RUNNING	 the guest runs
 *	ENDING	 the stream has ended, the destination has the last word: SHUT
 *
 * When the server dies while RUNNING, the destination pauses, and another one can
 * take it up (--resume): it asks for the bitmap of the pages that are there,
 * block by block, says RESUME, and is RUNNING at once.
 */
#include "postcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "pipe.h"
#include "preamble.h"
#include "send.h"
#include "server.h"
#include "signals.h"
#include "snap.h"
#include "table.h"

enum { RANGES = 512 };	/* of a DISCARD command */

/* Behind a bitmap on the return path: RAMBLOCK_RECV_BITMAP_ENDING in migration/ram.c. */
#define BITMAP_END	UINT64_C(0x0123456789abcdef)

/* Tell what was not sent.  p->out.fd blocks. */
static int
discard_block(struct server *p, size_t k)
{
	const struct ram_block *b = &p->ram->blk[k];
	uint64_t size = host_size(&p->host, k);
	uint64_t h = p->host.first[k], end = h + b->len / size, from;
	uint8_t cmd[3 + 255 + 16 * RANGES];
	size_t n = strlen(b->id), head = n + 3, len = head;
	int err;

	cmd[0] = 0;
	cmd[1] = (uint8_t)n;
	memcpy(cmd + 2, b->id, n);
	cmd[2 + n] = 0;
	while (h < end) {
		while (h < end && marked(&p->sent, h))
			h++;
		from = h;
		h = next_marked(&p->sent, h, end);
		if (h > from) {
			put_be64(cmd + len, (from - p->host.first[k]) * size);
			put_be64(cmd + len + 8, (h - from) * size);
			len += 16;
		}
		if (len > head && (h == end || len + 16 > sizeof cmd)) {
			err = out_command(&p->out, CMD_POSTCOPY_RAM_DISCARD, cmd, len);
			if (err != 0)
				return err;
			len = head;
		}
	}
	return 0;
}

/* What was not sent, and the package that ends in RUN. */
static int
switch_over(struct server *p)
{
	uint64_t state = footer_section(image_footer(p->im), SEC_TAIL)->extra;
	uint64_t size = state + 2 * COMMAND_SIZE + COMMAND_SIZE + 4;
	uint8_t word[4];
	size_t k;
	int err;

	for (k = 0; k < p->ram->nblk; k++)
		if ((err = discard_block(p, k)) != 0)
			return err;
	if (size > UINT32_MAX) {
		snap_warnx("%s: more device state than QEMU takes in postcopy",
		    image_path(p->im));
		return SNAP_EDATA;
	}
	put_be32(word, (uint32_t)size);
	if ((err = out_command(&p->out, CMD_PACKAGED, word, sizeof word)) != 0 ||
	    (err = out_command(&p->out, CMD_POSTCOPY_LISTEN, NULL, 0)) != 0 ||
	    (err = send_bytes(p->im, &p->out, SEC_TAIL, state)) != 0)
		return err;
	put_be32(word, LOADED);
	if ((err = out_command(&p->out, CMD_PING, word, sizeof word)) != 0 ||
	    (err = out_command(&p->out, CMD_POSTCOPY_RUN, NULL, 0)) != 0)
		return err;
	return out_flush(&p->out);
}

/* The sections START.  QEMU wants to read of the page size where it is not what other memory of
 * the host has (ram_load_setup_postcopy in migration/ram.c). */
static int
send_prologue(struct server *p)
{
	uint8_t *buf, *at, size[8];
	size_t len, start = 0, ram_len, n, k;
	uint64_t bytes;
	int err;

	if ((err = image_section(p->im, SEC_PROLOGUE, &buf, &len)) != 0)
		return err;
	err = prologue_find_ram(p->ram, image_path(p->im), buf, len, &start, &ram_len);
	at = buf;
	n = start + RAM_START_HEAD;
	for (k = 0; k < p->ram->nblk && err == 0; k++) {
		n += prologue_entry(p->ram, &p->ram->blk[k]);
		bytes = host_size(&p->host, k);
		if (bytes == p->host.small)
			continue;
		put_be64(size, bytes);
		if ((err = out_copy(&p->out, at, n)) == 0)
			err = out_copy(&p->out, size, sizeof size);
		at += n;
		n = 0;
	}
	if (err == 0)
		err = out_copy(&p->out, at, len - (size_t)(at - buf));
	free(buf);
	return err;
}

/* Everything up to the first page. */
static int
begin(struct server *p)
{
	uint8_t advise[16];
	uint64_t sizes = 0;
	size_t k;
	int err;

	for (k = 0; k < p->ram->nblk; k++)
		sizes |= host_size(&p->host, k);
	put_be64(advise, sizes);
	put_be64(advise + 8, p->ram->page_size);
	if ((err = send_preamble(p->im, &p->out)) != 0 ||
	    (err = out_command(&p->out, CMD_OPEN_RETURN_PATH, NULL, 0)) != 0 ||
	    (err = out_command(&p->out, CMD_POSTCOPY_ADVISE, advise, sizeof advise)) != 0 ||
	    (err = send_prologue(p)) != 0)
		return err;
	return send_bytes(p->im, &p->out, SEC_ITERABLES, UINT64_MAX);
}

/* Wait for a message of a type; others are of no interest. */
static int
await(struct server *p, enum rp_type type, struct rp_msg *m)
{
	int r;

	for (;;) {
		while ((r = rp_next(&p->rp, m)) == 1) {
			if (m->type == type)
				return 0;
			if (m->type == RP_SHUT) {
				snap_warnx("the destination gave up (%u)",
				    (unsigned)m->value);
				return SNAP_ESYS;
			}
			if (m->type == RP_RECV_BITMAP)
				break;
		}
		if (r == 1) {
			snap_warnx("return path: bitmap that was not asked for");
			return SNAP_EDATA;
		}
		if (r < 0)
			return r;
		if (p->rp.eof) {
			snap_warnx("the destination closed the return path");
			return SNAP_ESYS;
		}
		if ((r = rp_read(&p->rp)) != 0)
			return r;
	}
}

/* n bytes of the bitmap of block k, for pages from first on: mark what is there.  A large page is
 * there as a whole or not at all: else --host-page-size is wrong, and what is missing would never
 * be sent. */
static int
take_bits(struct server *p, size_t k, const uint8_t *bits, size_t n, uint64_t first)
{
	const struct ram_block *b = &p->ram->blk[k];
	uint64_t pages = b->len / p->ram->page_size, i, h;
	int err, bit;

	for (i = first; i < first + n * 8 && i < pages; i++) {
		bit = bits[(i - first) / 8] >> i % 8 & 1;
		h = p->host.first[k] + i / p->host.pages[k];
		if (i % p->host.pages[k] != 0 && bit != marked(&p->had, h)) {
			snap_warnx("return path: parts of pages of %lu bytes are there of block "
			    "%s: see --host-page-size",
			    (unsigned long)host_size(&p->host, k), b->id);
			return SNAP_EDATA;
		}
		if (i % p->host.pages[k] != 0 || !bit)
			continue;
		if ((err = mark(&p->sent, h)) != 0 || (err = mark(&p->had, h)) != 0)
			return err;
		p->nsent++;
	}
	return 0;
}

/* Ask what there is of block k.  One at a time, lest both sides wait to write. */
static int
ask_bitmap(struct server *p, size_t k)
{
	const struct ram_block *b = &p->ram->blk[k];
	uint64_t pages = b->len / p->ram->page_size, size = (pages + 63) / 64 * 8, done;
	uint8_t buf[4096], name[256];
	struct rp_msg m;
	size_t n = strlen(b->id);
	int err;

	name[0] = (uint8_t)n;
	memcpy(name + 1, b->id, n);
	if ((err = out_command(&p->out, CMD_RECV_BITMAP, name, n + 1)) != 0 ||
	    (err = out_flush(&p->out)) != 0)
		return err;
	on_signals_to_end(SIG_DFL);	/* the stream has begun */
	if ((err = await(p, RP_RECV_BITMAP, &m)) != 0 ||
	    (err = rp_take(&p->rp, buf, 8)) != 0)
		return err;
	if (m.blk != b || get_be64(buf) != size) {
		snap_warnx("return path: block %s is not the one of this image", b->id);
		return SNAP_EDATA;
	}
	for (done = 0; done < size; done += n) {
		n = size - done < sizeof buf ? (size_t)(size - done) : sizeof buf;
		if ((err = rp_take(&p->rp, buf, n)) != 0 ||
		    (err = take_bits(p, k, buf, n, done * 8)) != 0)
			return err;
	}
	if ((err = rp_take(&p->rp, buf, 8)) != 0)
		return err;
	if (get_be64(buf) != BITMAP_END) {
		snap_warnx("return path: bitmap does not end where it should");
		return SNAP_EDATA;
	}
	return 0;
}

/* Take up a paused destination. */
static int
resume(struct server *p)
{
	struct rp_msg m;
	size_t k;
	int err;

	status_phase(p->st, "resuming", 0);
	for (k = 0; k < p->ram->nblk; k++)
		if ((err = ask_bitmap(p, k)) != 0) {
			pipe_reject(STDOUT_FILENO, 1);
			return err;
		}
	if ((err = out_command(&p->out, CMD_POSTCOPY_RESUME, NULL, 0)) != 0 ||
	    (err = out_flush(&p->out)) != 0)
		return err;
	return await(p, RP_RESUME_ACK, &m);
}

/* The end of the section and of the stream, when all has been sent. */
static int
finish(struct server *p)
{
	static const uint8_t end_of_file = 0;
	struct rp_msg m;
	int err;

	/* What was forgotten would be zero in the guest, and nobody would notice. */
	if (p->stored_sent != image_with_bytes(p->im)) {
		snap_warnx("%s: page table and unit table do not agree",
		    image_path(p->im));
		return SNAP_EDATA;
	}
	p->phase = ENDING;
	status_phase(p->st, "ending", 0);
	if ((err = out_end(&p->out)) != 0 ||
	    (err = out_copy(&p->out, &end_of_file, 1)) != 0)
		return err;
	while ((err = out_flush(&p->out)) == 1)
		if ((err = server_wait(p, 0)) != 0 || (err = server_take_messages(p)) != 0)
			return err;
	if (err != 0 || (err = await(p, RP_SHUT, &m)) != 0)
		return err;
	/* The stream has ended; only the destination knows whether all is well. */
	if (m.value != 0) {
		snap_warnx("the destination reports a failure (%u)", (unsigned)m.value);
		return SNAP_ESYS;
	}
	return 0;
}

/* Up to RUN, with the first pages if --postcopy=PERCENT or a hot list wants them. */
static int
start(struct server *p)
{
	uint64_t stored = image_with_bytes(p->im);
	int err;

	p->goal = stored / 100 * (unsigned)p->opt->percent +
	    stored % 100 * (unsigned)p->opt->percent / 100;
	if ((err = begin(p)) != 0)
		return err;
	if (p->goal > 0 || p->early > 0)
		status_pages(p->st, "memory", p->goal > p->early ? p->goal : p->early,
		    p->ram->page_size);
	if ((p->goal > 0 || p->early > 0) && ((err = out_begin(&p->out, VM_SECTION_PART)) != 0 ||
	    (err = server_run(p)) != 0 || (err = out_end(&p->out)) != 0))
		return err;
	status_phase(p->st, "starting", 0);
	return switch_over(p);
}

static int
serve(struct server *p)
{
	int flags = fcntl(STDOUT_FILENO, F_GETFL), err;

	if ((err = p->opt->resume ? resume(p) : start(p)) != 0)
		return err;
	p->phase = p->opt->resume ? RUNNING : LOADING;
	status_pages(p->st, "serving", image_with_bytes(p->im) - p->stored_sent, p->ram->page_size);
	if ((err = out_begin(&p->out, VM_SECTION_PART)) != 0)
		return err;
	if (flags < 0 || fcntl(STDOUT_FILENO, F_SETFL, flags | O_NONBLOCK) < 0) {
		snap_warn(errno, "stdout");
		return SNAP_ESYS;
	}
	p->out.returns = 1;
	if ((err = server_run(p)) == 0)
		err = finish(p);
	/* The description may be shared with others, who do not expect this. */
	fcntl(STDOUT_FILENO, F_SETFL, flags);
	return err;
}

static void
trace(const struct server *p)
{
	const char *path = image_path(p->im);
	char histogram[512];

	if (p->hot.n > 0)
		snap_warnx("%s: a hot list of %llu pages, %llu of them before the guest ran", path,
		    (unsigned long long)p->hot.n, (unsigned long long)p->early);
	snap_warnx("%s: %llu stored pages sent; %llu requests, %llu of them repeated; %llu "
	    "answered first", path, (unsigned long long)p->stored_sent,
	    (unsigned long long)p->served->requests, (unsigned long long)p->served->repeats,
	    (unsigned long long)p->served->answered);
	if (p->served->latency.n == 0)
		return;
	latency_print(&p->served->latency, histogram, sizeof histogram);
	snap_warnx("%s: from a request to its page in the pipe: p50 %llu us, p99 %llu us, most "
	    "%llu us: %s", path, (unsigned long long)latency_quantile(&p->served->latency, 500),
	    (unsigned long long)latency_quantile(&p->served->latency, 990),
	    (unsigned long long)p->served->latency.most_us, histogram);
}

/* Where what is recorded goes; beside: the name of the list beside the image. */
static const char *
record_name(const struct options *o, const char *beside)
{
	return *o->record != '\0' ? o->record : beside;
}

int
postcopy_check(const struct image *im, const struct options *o)
{
	struct host_pages h;
	char *beside;
	int err;

	memset(&h, 0, sizeof h);
	err = host_init(&h, im, o);
	host_free(&h);
	if (err != 0 || o->record == NULL)
		return err;
	if ((beside = hot_beside(image_path(im))) == NULL)
		return SNAP_ESYS;
	err = hot_may_write(record_name(o, beside));
	free(beside);
	return err;
}

int
load_postcopy(struct image *im, const struct options *o, struct status *st)
{
	struct server *p = calloc(1, sizeof *p);
	char uuid[37], *beside = hot_beside(image_path(im));
	const char *name = o->record != NULL ? record_name(o, beside) : NULL;
	int r, err;

	if (p == NULL || beside == NULL) {
		if (p == NULL)
			snap_warn(ENOMEM, "postcopy");
		pipe_reject(STDOUT_FILENO, o->resume);
		free(beside);
		free(p);
		return SNAP_ESYS;
	}
	p->im = im;
	p->opt = o;
	p->st = st;
	p->served = &st->served;
	st->serves = 1;
	p->ram = image_ram(im);
	p->threads = options_threads(o, 1);
	/* QEMU cannot tell: who has to resume this will want to know. */
	uuid_format(uuid, image_footer(im)->uuid);
	err = o->no_hot || o->record != NULL || o->resume ? 0 : hot_find(&p->hot, im);
	snap_warnx("%s: %s in postcopy, %sUUID %s", image_path(im),
	    o->resume ? "resumed" : "served", p->hot.n > 0 ? "hot pages first, " : "", uuid);
	if (err != 0 || (err = server_init(p)) != 0)
		pipe_reject(STDOUT_FILENO, o->resume);
	else
		err = serve(p);
	if (o->record != NULL && err == 0 && p->asked_first.n == 0)
		snap_warnx("%s: not written: the guest asked for nothing", name);
	else if (o->record != NULL && err == 0) {
		if ((r = hot_write(&p->asked_first, name, im)) == 0)
			snap_warnx("%s: %llu pages noted", name,
			    (unsigned long long)p->asked_first.n);
		err = r;
	}
	if (o->trace)
		trace(p);
	free(beside);
	server_free(p);
	free(p);
	return err;
}
