/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * monitor.c -- what is going on in a QEMU, for people: its guest, its migration, its settings.
 *
 * It only asks, and changes nothing there.
 */
#include <stdio.h>
#include <string.h>

#include "options.h"
#include "qmp.h"
#include "snap.h"

/* A number of bytes under the last reply, if it is there. */
static void
print_bytes(const struct qmp *q, const char *what, const char *path)
{
	uint64_t n;

	if (qmp_number(q, path, &n))
		printf("%-14s %.1f MiB\n", what, (double)n / (1 << 20));
}

static int
print_guest(struct qmp *q)
{
	char state[GUEST_STATE];
	int runs, err = qmp_guest(q, state, &runs);

	if (err == 0 && state[0] != '\0')
		printf("%-14s %s%s\n", "guest", state, strcmp(state, "inmigrate") == 0 ?
		    ": waits for one, or gets it" : "");
	return err;
}

static int
print_migration(struct qmp *q)
{
	char state[MIGRATION_STATE], words[512];
	int err = qmp_migration(q, state);

	if (err != 0)
		return err;
	printf("%-14s %s\n", "migration", state);
	if (qmp_string(q, "return.error-desc", words, sizeof words))
		print_line("%-14s %s", "why", words);
	print_bytes(q, "transferred", "return.ram.transferred");
	print_bytes(q, "remaining", "return.ram.remaining");
	return 0;
}

static int
print_settings(struct qmp *q)
{
	char path[QMP_PATH], name[64], on[2048] = "";
	size_t n = 0;
	unsigned i;
	int err = qmp_demand(q, "query-migrate-capabilities", NULL);

	if (err != 0)
		return err;
	for (i = 0; qmp_string(q, qmp_at(path, i, "capability"), name, sizeof name); i++)
		if (qmp_is_true(q, qmp_at(path, i, "state"))) {
			snprintf(on + n, sizeof on - n, " %s", name);
			n = strlen(on);
		}
	print_line("%-14s%s", "capabilities", n > 0 ? on : " none");
	if ((err = qmp_demand(q, "query-migrate-parameters", NULL)) == 0)
		print_bytes(q, "bandwidth", "return.max-bandwidth");
	return err;
}

int
run_status(const struct options *o)
{
	struct qmp q;
	int err;

	if ((err = qmp_open(&q, o->file[0])) == 0) {
		printf("%-14s %u.%u\n", "QEMU", q.version / 1000, q.version % 1000);
		if ((err = print_guest(&q)) == 0 && (err = print_migration(&q)) == 0)
			err = print_settings(&q);
	}
	qmp_close(&q);
	return close_stdout(err);
}
