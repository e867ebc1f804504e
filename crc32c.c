/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * crc32c.c -- CRC-32C, by the instruction for it where the compiler knows one and
 * the processor has it, else by eight tables, eight bytes a step.
 */
#include "crc32c.h"

#include "bytes.h"

#define POLY	0x82f63b78u	/* 0x1EDC6F41, bits reversed */

/* table[k][b]: the CRC register after byte b and k zero bytes. */
static uint32_t table[8][256];

/* The register crc after len more bytes at p. */
static uint32_t
by_tables(uint32_t crc, const uint8_t *p, size_t len)
{
	for (; len >= 8; p += 8, len -= 8) {
		uint32_t lo = crc ^ get_le32(p), hi = get_le32(p + 4);

		crc = table[7][lo & 0xff] ^ table[6][lo >> 8 & 0xff] ^
		    table[5][lo >> 16 & 0xff] ^ table[4][lo >> 24] ^
		    table[3][hi & 0xff] ^ table[2][hi >> 8 & 0xff] ^
		    table[1][hi >> 16 & 0xff] ^ table[0][hi >> 24];
	}
	for (; len > 0; p++, len--)
		crc = crc >> 8 ^ table[0][(crc ^ *p) & 0xff];
	return crc;
}

static uint32_t (*update)(uint32_t, const uint8_t *, size_t) = by_tables;

/*
 * NO_CRC_INSTRUCTION: tables only.  INSTRUCTION marks the function for which the
 * compiler may use what not every processor has.
 */
#if defined(NO_CRC_INSTRUCTION) || defined(__TINYC__) || !defined(__GNUC__)
#elif defined(__x86_64__)
#include <cpuid.h>

#define INSTRUCTION	__attribute__((target("sse4.2")))
#define CRC8(crc, v)	__builtin_ia32_crc32di(crc, v)
#define CRC1(crc, v)	__builtin_ia32_crc32qi((uint32_t)(crc), v)

static int
have_instruction(void)
{
	unsigned a, b, c = 0, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2);
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>

#define INSTRUCTION	/* the whole program is for processors that have it */
#define CRC8(crc, v)	__crc32cd((uint32_t)(crc), v)
#define CRC1(crc, v)	__crc32cb((uint32_t)(crc), v)

static int
have_instruction(void)
{
	return 1;
}
#endif

#ifdef INSTRUCTION

enum { LANE = 1360 };	/* bytes; three of these are a page of 4096 but for 16 */

static struct crc32c_join lane_join;

/*
 * The instruction takes eight bytes a clock, but its result needs three: so there
 * are three lanes, joined at their end.
 */
INSTRUCTION static uint32_t
by_instruction(uint32_t crc, const uint8_t *p, size_t len)
{
	uint64_t a = crc, b, c;
	size_t i;

	for (; len >= 3 * LANE; p += 3 * LANE, len -= 3 * LANE) {
		b = c = 0;
		for (i = 0; i < LANE; i += 8) {
			a = CRC8(a, get_le64(p + i));
			b = CRC8(b, get_le64(p + LANE + i));
			c = CRC8(c, get_le64(p + 2 * LANE + i));
		}
		a = crc32c_join(&lane_join, (uint32_t)a, (uint32_t)b);
		a = crc32c_join(&lane_join, (uint32_t)a, (uint32_t)c);
	}
	for (; len >= 8; p += 8, len -= 8)
		a = CRC8(a, get_le64(p));
	for (; len > 0; p++, len--)
		a = CRC1(a, *p);
	return (uint32_t)a;
}

#endif

void
crc32c_init(void)
{
	unsigned b, k;

	for (b = 0; b < 256; b++) {
		uint32_t c = b;

		for (k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ POLY : c >> 1;
		table[0][b] = c;
	}
	for (b = 0; b < 256; b++)
		for (k = 1; k < 8; k++)
			table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 0xff];
#ifdef INSTRUCTION
	if (have_instruction()) {
		crc32c_join_init(&lane_join, LANE);
		update = by_instruction;
	}
#endif
}

int
crc32c_is_quick(void)
{
	return update != by_tables;
}

uint32_t
crc32c(uint32_t crc, const void *buf, size_t len)
{
	return ~update(~crc, buf, len);
}

/* Product of a and b as polynomials modulo POLY, bits reversed. */
static uint32_t
multiply(uint32_t a, uint32_t b)
{
	uint32_t m = 0;

	for (; a != 0; a <<= 1) {
		if (a & 0x80000000u)
			m ^= b;
		b = b & 1 ? b >> 1 ^ POLY : b >> 1;
	}
	return m;
}

void
crc32c_join_init(struct crc32c_join *j, uint64_t len)
{
	uint32_t shift = 0x80000000u;	/* x^0 */
	uint32_t square = 0x00800000u;	/* x^8: one zero byte */
	unsigned b, k;

	for (; len != 0; len >>= 1) {
		if (len & 1)
			shift = multiply(square, shift);
		square = multiply(square, square);
	}
	for (k = 0; k < 4; k++)
		for (b = 0; b < 256; b++)
			j->t[k][b] = multiply((uint32_t)b << 8 * k, shift);
}

uint32_t
crc32c_join(const struct crc32c_join *j, uint32_t a, uint32_t b)
{
	return j->t[0][a & 0xff] ^ j->t[1][a >> 8 & 0xff] ^
	    j->t[2][a >> 16 & 0xff] ^ j->t[3][a >> 24] ^ b;
}
