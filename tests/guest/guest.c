/*
 * A guest that checks its own memory, for saving and reverting under test.
 *
 * Every page behind the guest's own image has a content that follows from its page number and
 * its generation. Each CPU owns one slice of the pages: it alone writes and checks them, so that
 * no locks are needed and a snapshot taken at any instruction is consistent. CPUs sweep their
 * slices over and over, and in between rewrite pages, most of them out of a "hot" set.
 *
 * Command line, words separated by blanks:
 *   hot=N, hot=N%   size of the hot set in pages, or in percent of all pages (default 1024);
 *                   0: the guest rewrites nothing, it only reads
 *   use=N, use=N%   leave the rest of the RAM alone (default: all of it)
 *   every=N         one hot page is rewritten for every N pages checked (default 4)
 *   stalls=1        tell how long pages take to be touched
 *   rounds=N        no sweeps: fill the pages and wait; for each byte that comes on COM1, rewrite N
 *                   pages drawn at random, and tell of each page of the RAM that this wrote to
 *
 * On COM1, a line each:
 *   guest cpus C pages P first F hot H      once, before the pages are filled
 *   sweep N pages P bad B gen G             every page was checked; G: rewrites since boot
 *   stalls B N B N ...                      if asked for: of the pages that the first CPU touched in
 *                                           this sweep, N took from 2^(B-1) to 2^B cycles (rdtsc)
 *   BAD page P addr A word W want X got Y gen G      the first wrong word of a page
 *   BAD code sum ...                        the guest's own code or constants have changed
 * A bad page is counted, reported (the first MAX_REPORTS of them) and rewritten: each damage counts
 * once, and B never falls. A byte to port 0xe9 after every BEAT pages is the heartbeat.
 *
 * Sweep N begins on every CPU after line N-1 was printed. So the first line after a revert says
 * nothing about pages checked before the snapshot; the second one covers all pages.
 *
 * With rounds, instead of sweeps:
 *   round N bad B                           round N is done (0: all is filled); the guest waits,
 *                                           and writes to no page before the next one
 * and on port 0xe9 a line for each page of the RAM before it is written to in a round and after it,
 * with its number: "bz P" and "bd P" before, "az P" and "ad P" after; z: it is all zero, d: it is
 * not. What is not zero both times has changed for certain. Told are pages under test, those of the
 * table of generations, the stack, the state of the rounds, and one that a device writes (by DMA).
 * No other is written to. The heartbeat comes while the guest waits.
 *
 * Limits: RAM up to the hole below 4 GiB is covered (2 GiB and more on every machine), MAX_CPUS.
 */

#include <stdint.h>

#define PAGE 4096u
#define WORDS (PAGE / 4)
#define BEAT 4u                 /* pages between two heartbeats */
#define MAX_CPUS 32u
#define MAX_REPORTS 100u
#define BITS 33u                /* numbers of bits that a count of cycles may have */
#define REAL_PAGE 0x8000u       /* where the other CPUs start; free memory below 1 MiB */

enum {
	COM1 = 0x3f8, DEBUGCON = 0xe9, FW_CFG_SELECT = 0x510, FW_CFG_DATA = 0x511,
	FW_CFG_DMA = 0x514
};

/* What the PVH protocol passes: only the fields used here have names. */
struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct memmap_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};

enum { START_MAGIC = 0x336ec578, MEMMAP_RAM = 1 };

struct cpu {
	uint32_t first, end;    /* pages it owns: [first, end) */
	uint32_t hot, hot_step; /* its hot pages: first, first + step, ... */
	uint32_t hot_next;
	uint32_t random;
	volatile uint32_t rewrites;
};

extern char real_start[], real_end[];                   /* start.S */
extern char fixed_start[], fixed_end[], image_end[];    /* guest.ld */

void first_main(const struct start_info *info);
void other_main(uint32_t self);

char stacks[MAX_CPUS * STACK] __attribute__((aligned(STACK)));
volatile uint32_t cpus_up = 1;

static struct cpu cpus[MAX_CPUS];
static uint32_t ncpus, every = 4, tell_stalls;
static uint32_t first_page, end_page;
static uint16_t *generation;            /* by page number, from 0 */
static uint32_t code_sum;

static volatile uint32_t go;            /* the slices are set: the other CPUs may begin */
static volatile uint32_t filled;        /* CPUs that have filled their slice */
static volatile uint32_t arrived;       /* CPUs that have finished the sweep */
static volatile uint32_t sweeps;        /* sweeps finished by all */
static volatile uint32_t bad, print_lock;
static uint32_t state[WORDS] __attribute__((aligned(PAGE)));	/* of the rounds */
static uint32_t by_device[WORDS] __attribute__((aligned(PAGE)));
static uint32_t stalls[BITS];           /* touches of a page, by the bits of their cycles */

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t cycles(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return low;
}

static inline void pause(void)
{
	__asm__ volatile("pause" : : : "memory");
}

static uint32_t add(volatile uint32_t *counter)
{
	return __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

/* ---- output ---- */

static void lock(void)
{
	while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE))
		pause();
}

static void unlock(void)
{
	__atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

static void put_char(char c)
{
	while (!(inb(COM1 + 5) & 0x20))         /* the transmitter is not empty */
		pause();
	outb(COM1, (uint8_t)c);
}

static void put(const char *s)
{
	while (*s)
		put_char(*s++);
}

static void put_number(const char *name, uint32_t n, uint32_t base)
{
	char digits[11];
	int i = 10;

	digits[i] = 0;
	do
		digits[--i] = "0123456789abcdef"[n % base];
	while (n /= base);
	put(name);
	put(base == 16 ? " 0x" : " ");
	put(digits + i);
}

/* ---- the content of a page ---- */

/*
 * Page number (20 bits) and generation (12 bits) are one word, which mix() maps one to one. So no
 * two pages, and no two of 4096 successive generations of a page, have the same seed; and as every
 * step of the generator in next() is one to one too, two seeds never give the same word at the
 * same place. A page in another's place, or an older generation of it, is wrong in every word,
 * unless both are zero.
 */
static uint32_t mix(uint32_t x)
{
	x = (x ^ x >> 16) * 0x7feb352du;
	x = (x ^ x >> 15) * 0x846ca68bu;
	return x ^ x >> 16;
}

static uint32_t seed_of(uint32_t page)
{
	return mix(page << 12 | (generation[page] & 0xfffu));
}

static inline uint32_t next(uint32_t x)
{
	return x * 1664525u + 1013904223u;
}

/*
 * A quarter of all pages is zero; a quarter has two equal halves and so compresses; the rest does
 * not. The kind changes with the generation: pages become zero and come back.
 */
enum kind { ZERO, TWIN, FULL };

static enum kind kind_of(uint32_t seed)
{
	return seed >> 30 == 0 ? ZERO : seed >> 30 == 1 ? TWIN : FULL;
}

/* What belongs at word i of a page: the definition that check() and fill() follow, but slow. */
static uint32_t word_at(uint32_t seed, uint32_t i)
{
	uint32_t x = seed;

	if (kind_of(seed) == ZERO)
		return 0;
	for (i %= kind_of(seed) == TWIN ? WORDS / 2 : WORDS; i; i--)
		x = next(x);
	return x;
}

/*
 * Every word is compared, and the differences are collected instead of branched upon, four words
 * a turn: this is where all the time goes.
 */
static uint32_t differs(const uint32_t *p, uint32_t seed)
{
	uint32_t x = seed, d = 0, i;

	switch (kind_of(seed)) {
	case ZERO:
		for (i = 0; i < WORDS; i += 4)
			d |= p[i] | p[i + 1] | p[i + 2] | p[i + 3];
		break;
	case TWIN:
		for (i = 0; i < WORDS / 2; i += 2) {
			d |= (p[i] ^ x) | (p[i + WORDS / 2] ^ x);
			x = next(x);
			d |= (p[i + 1] ^ x) | (p[i + 1 + WORDS / 2] ^ x);
			x = next(x);
		}
		break;
	case FULL:
		for (i = 0; i < WORDS; i += 4) {
			d |= p[i] ^ x;
			x = next(x);
			d |= p[i + 1] ^ x;
			x = next(x);
			d |= p[i + 2] ^ x;
			x = next(x);
			d |= p[i + 3] ^ x;
			x = next(x);
		}
		break;
	}
	return d;
}

static void fill(uint32_t page)
{
	uint32_t *p = (uint32_t *)(page * PAGE), seed = seed_of(page), x = seed, i;

	switch (kind_of(seed)) {
	case ZERO:
		for (i = 0; i < WORDS; i++)
			p[i] = 0;
		break;
	case TWIN:
		for (i = 0; i < WORDS / 2; i++, x = next(x))
			p[i] = p[i + WORDS / 2] = x;
		break;
	case FULL:
		for (i = 0; i < WORDS; i++, x = next(x))
			p[i] = x;
		break;
	}
}

static void report(uint32_t page, uint32_t seed)
{
	const uint32_t *p = (const uint32_t *)(page * PAGE);
	uint32_t i;

	if (add(&bad) > MAX_REPORTS)
		return;
	for (i = 0; i < WORDS - 1 && p[i] == word_at(seed, i); i++)
		;
	lock();
	put_number("BAD page", page, 10);
	put_number(" addr", page * PAGE + 4 * i, 16);
	put_number(" word", i, 10);
	put_number(" want", word_at(seed, i), 16);
	put_number(" got", p[i], 16);
	put_number(" gen", generation[page], 10);
	put("\n");
	unlock();
}

static void check(uint32_t page)
{
	uint32_t seed = seed_of(page);

	if (differs((const uint32_t *)(page * PAGE), seed)) {
		report(page, seed);
		generation[page]++;
		fill(page);
	}
}

/* A page that is not there makes its reader wait. */
static void touch(uint32_t page)
{
	uint32_t took, bits = 0, start = cycles();

	(void)*(volatile uint32_t *)(page * PAGE);
	for (took = cycles() - start; took; took >>= 1)
		bits++;
	stalls[bits]++;
}

static void put_stalls(void)
{
	uint32_t i;

	put("stalls");
	for (i = 0; i < BITS; i++)
		if (stalls[i] > 0) {
			put_number("", i, 10);
			put_number("", stalls[i], 10);
			stalls[i] = 0;
		}
	put("\n");
}

/* ---- the work of a CPU ---- */

/* Damage must not be overwritten unseen: a page is checked before it is rewritten. */
static void rewrite(struct cpu *cpu, uint32_t page)
{
	check(page);
	generation[page]++;
	fill(page);
	cpu->rewrites++;
}

static void rewrite_hot(struct cpu *cpu)
{
	if (cpu->hot == 0)
		return;
	rewrite(cpu, cpu->first + cpu->hot_next * cpu->hot_step);
	if (++cpu->hot_next == cpu->hot)
		cpu->hot_next = 0;
}

/* Any page, hot or not. */
static void rewrite_some(struct cpu *cpu)
{
	if (cpu->hot == 0)
		return;
	cpu->random = next(cpu->random);
	rewrite(cpu, cpu->first + (cpu->random >> 4) % (cpu->end - cpu->first));
}

static uint32_t sum_code(void)
{
	const uint32_t *p;
	uint32_t sum = 0;

	for (p = (const uint32_t *)fixed_start; p < (const uint32_t *)fixed_end; p++)
		sum = next(sum ^ *p);
	return sum;
}

/* Called by the last CPU to finish a sweep, while the others wait. */
static void finish_sweep(void)
{
	uint32_t i, sum, rewrites = 0;

	sum = sum_code();
	for (i = 0; i < ncpus; i++)
		rewrites += cpus[i].rewrites;
	lock();
	if (sum != code_sum) {
		add(&bad);
		put_number("BAD code sum", sum, 16);
		put_number(" want", code_sum, 16);
		put("\n");
		code_sum = sum;
	}
	put_number("sweep", sweeps + 1, 10);
	put_number(" pages", end_page - first_page, 10);
	put_number(" bad", bad, 10);
	put_number(" gen", rewrites, 10);
	put("\n");
	if (tell_stalls)
		put_stalls();
	unlock();
	arrived = 0;
	add(&sweeps);           /* lets the others go */
}

static void work(uint32_t self)
{
	struct cpu *cpu = &cpus[self];
	uint32_t page, sweep;

	for (page = cpu->first; page < cpu->end; page++) {
		generation[page] = 0;
		fill(page);
	}
	add(&filled);
	while (filled < ncpus)
		pause();

	for (;;) {
		for (page = cpu->first; page < cpu->end; page++) {
			if (self == 0 && tell_stalls)
				touch(page);
			check(page);
			if (self == 0 && page % BEAT == 0)
				outb(DEBUGCON, '.');
			if (page % every == 0)
				rewrite_hot(cpu);
			if (page % 256 == 0)
				rewrite_some(cpu);
		}
		sweep = sweeps;
		if (add(&arrived) == ncpus)
			finish_sweep();
		while (sweeps == sweep) {
			if (self == 0)
				outb(DEBUGCON, '.');
			rewrite_hot(cpu);
			pause();
		}
	}
}

void other_main(uint32_t self)
{
	while (!go)
		pause();
	if (self < ncpus)
		work(self);
	for (;;)
		__asm__ volatile("hlt");
}

/* ---- rounds ---- */

/* What is in state[]: no other variable is written to in a round. */
enum { ROUND, RANDOM, COMMAND, LENGTH, ADDRESS_HIGH, ADDRESS_LOW };

static void tell(char when, const void *place)
{
	const uint32_t *p = (const uint32_t *)((uint32_t)place / PAGE * PAGE);
	uint32_t i, data = 0;

	for (i = 0; i < WORDS; i++)
		data |= p[i];
	outb(DEBUGCON, (uint8_t)when);
	outb(DEBUGCON, data ? 'd' : 'z');
	outb(DEBUGCON, ' ');
	for (i = 20; i; i -= 4)
		outb(DEBUGCON, (uint8_t)"0123456789abcdef"[(uint32_t)p / PAGE >> (i - 4) & 15]);
	outb(DEBUGCON, '\n');
}

/* What is not under test, and written to in every round. */
static void tell_own(char when)
{
	tell(when, state);
	tell(when, stacks);
	tell(when, by_device);
}

/* Have the device of the firmware's configuration write its name to where nothing is yet. */
static void let_device_write(void)
{
	volatile uint32_t *s = state;

	s[COMMAND] = __builtin_bswap32(0x0a);   /* select item 0, and read */
	s[LENGTH] = __builtin_bswap32(4);
	s[ADDRESS_HIGH] = 0;
	s[ADDRESS_LOW] = __builtin_bswap32((uint32_t)&by_device[s[ROUND] % WORDS]);
	outl(FW_CFG_DMA, 0);
	outl(FW_CFG_DMA + 4, __builtin_bswap32((uint32_t)&s[COMMAND]));
	while (s[COMMAND])
		pause();
}

/* The number of the round is on the stack's page as well: that it has changed is certain. */
static void do_round(uint32_t n)
{
	uint32_t page;

	tell_own('b');
	state[ROUND]++;
	*(volatile uint32_t *)stacks = state[ROUND];
	let_device_write();
	for (; n; n--) {
		state[RANDOM] = next(state[RANDOM]);
		page = first_page + (state[RANDOM] >> 4) % (end_page - first_page);
		check(page);
		tell('b', (void *)(page * PAGE));
		tell('b', &generation[page]);
		generation[page]++;
		fill(page);
		tell('a', (void *)(page * PAGE));
		tell('a', &generation[page]);
	}
	tell_own('a');
}

static void do_rounds(uint32_t n)
{
	uint32_t page;

	for (page = first_page; page < end_page; page++) {
		generation[page] = 0;
		fill(page);
	}
	for (;;) {
		put_number("round", state[ROUND], 10);
		put_number(" bad", bad, 10);
		put("\n");
		while (!(inb(COM1 + 5) & 1))    /* nothing was received */
			outb(DEBUGCON, '.');
		inb(COM1);
		do_round(n);
	}
}

/* ---- start ---- */

static void stop(const char *why)
{
	put("BAD start: ");
	put(why);
	put("\n");
	for (;;)
		__asm__ volatile("hlt");
}

/* The number of CPUs is in the firmware configuration device of all three machines. */
static uint32_t count_cpus(void)
{
	uint32_t n;

	outw(FW_CFG_SELECT, 5);
	n = inb(FW_CFG_DATA);
	n |= (uint32_t)inb(FW_CFG_DATA) << 8;
	return n < 1 ? 1 : n;
}

/* The value of NAME= on the command line, or def; a percent sign behind it is looked at too. */
static uint32_t option(const char *line, const char *name, uint32_t def, int *percent)
{
	const char *p, *n;
	uint32_t value = 0;

	for (p = line; *p; p++) {
		if (p != line && p[-1] != ' ')
			continue;
		for (n = name; *n && *p == *n; p++, n++)
			;
		if (*n == 0) {
			for (; *p >= '0' && *p <= '9'; p++)
				value = value * 10 + (uint32_t)(*p - '0');
			*percent = *p == '%';
			return value;
		}
		if (*p == 0)
			break;
	}
	*percent = 0;
	return def;
}

/*
 * Starts the other CPUs through the local APIC: INIT, then SIPI to all but this one. A CPU that
 * runs already ignores a further SIPI, so it is repeated until all have come, however slow they
 * are to take the INIT.
 */
static void start_cpus(void)
{
	volatile uint32_t *icr = (volatile uint32_t *)0xfee00300;
	volatile uint32_t *svr = (volatile uint32_t *)0xfee000f0;
	uint32_t i;

	for (i = 0; i < (uint32_t)(real_end - real_start); i++)
		((volatile char *)REAL_PAGE)[i] = real_start[i];
	*svr = *svr | 0x100;                    /* switched on */
	*icr = 0xc4500;                         /* INIT, asserted, to all but self */
	while (cpus_up < ncpus) {
		for (i = 0; i < 10000; i++)     /* a port access takes about 1 us */
			inb(0x80);
		if (cpus_up < ncpus)
			*icr = 0xc4600 | REAL_PAGE / PAGE;
	}
}

static void share_pages(uint32_t hot)
{
	uint32_t i, slice = (end_page - first_page) / ncpus, own = hot / ncpus;

	if (hot && own == 0)
		own = 1;
	if (own > slice)
		own = slice;
	for (i = 0; i < ncpus; i++) {
		cpus[i].first = first_page + i * slice;
		cpus[i].end = i + 1 == ncpus ? end_page : cpus[i].first + slice;
		cpus[i].hot = own;
		cpus[i].hot_step = own ? slice / own : 0;
		cpus[i].random = i;
	}
}

void first_main(const struct start_info *info)
{
	const struct memmap_entry *map = (const struct memmap_entry *)(uint32_t)info->memmap;
	const char *line = info->cmdline ? (const char *)(uint32_t)info->cmdline : "";
	uint32_t i, hot, pages, rounds, image = (uint32_t)image_end;
	int percent;

	if (info->magic != START_MAGIC || info->version < 1)
		stop("no PVH start info with a memory map");

	/* The RAM that holds this image, cut at 4 GiB; the map of a PC has one such entry. */
	for (i = 0; i < info->memmap_entries; i++) {
		uint64_t end = map[i].addr + map[i].size;

		if (map[i].type == MEMMAP_RAM && map[i].addr <= image && image < end)
			end_page = (uint32_t)((end < 0xfffff000u ? end : 0xfffff000u) / PAGE);
	}
	generation = (uint16_t *)image;
	pages = option(line, "use=", end_page, &percent);
	if (percent)
		pages = (pages < 100 ? pages : 100) * (end_page / 100);
	if (pages < end_page)
		end_page = pages;
	first_page = (image + end_page * 2 + PAGE - 1) / PAGE;
	ncpus = count_cpus();
	if (ncpus > MAX_CPUS)
		stop("too many CPUs");
	if (end_page < first_page + ncpus)
		stop("no RAM");
	pages = end_page - first_page;
	hot = option(line, "hot=", 1024, &percent);
	if (percent)
		hot = (hot < 100 ? hot : 100) * (pages / 100);
	every = option(line, "every=", 4, &percent);
	if (every == 0)
		every = 1;
	tell_stalls = option(line, "stalls=", 0, &percent);
	rounds = option(line, "rounds=", 0, &percent);
	if (rounds && ncpus > 1)
		stop("rounds are for one CPU");
	share_pages(hot);
	code_sum = sum_code();

	put_number("guest cpus", ncpus, 10);
	put_number(" pages", pages, 10);
	put_number(" first", first_page, 10);
	put_number(" hot", cpus[0].hot * ncpus, 10);
	put("\n");

	if (rounds)
		do_rounds(rounds);      /* does not return */
	if (ncpus > 1)
		start_cpus();
	go = 1;
	work(0);
}
