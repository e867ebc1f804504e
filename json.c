/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * json.c -- JSON, as far as we write it, and a reader of all of it.
 */
#include "json.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { CHARACTER = 6 };		/* bytes that one takes at most */

/* Length of the valid UTF-8 sequence at s, or 0. */
static int
utf8_length(const unsigned char *s)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	int n = *s < 0x80 ? 1 : *s >> 5 == 6 ? 2 : *s >> 4 == 14 ? 3 : *s >> 3 == 30 ? 4 : 0;
	uint32_t c = n > 1 ? *s & (0x7fu >> n) : *s;
	int i;

	for (i = 1; i < n; i++) {
		if (s[i] >> 6 != 2)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (n > 1 && (c < least[n] || c > 0x10ffff || c >> 11 == 0x1b))
		return 0;
	return n;
}

/* The character at *s, which is then behind it, as it stands in a string. */
static void
character(char out[CHARACTER + 1], const char **s)
{
	const unsigned char *u = (const unsigned char *)*s;
	int n = utf8_length(u);

	if (n == 0 || *u < ' ' || *u == 0x7f) {
		snprintf(out, CHARACTER + 1, "\\u%04x", *u);
		n = 1;
	} else if (*u == '"' || *u == '\\')
		snprintf(out, CHARACTER + 1, "\\%c", *u);
	else
		snprintf(out, CHARACTER + 1, "%.*s", n, *s);
	*s += n;
}

int
json_is_text(const char *str)
{
	int n;

	for (; *str != '\0'; str += n)
		if ((n = utf8_length((const unsigned char *)str)) == 0)
			return 0;
	return 1;
}

void
json_print(const char *before, const char *str)
{
	char c[CHARACTER + 1];

	printf("%s\"", before);
	while (*str != '\0') {
		character(c, &str);
		fputs(c, stdout);
	}
	putchar('"');
}

void
json_put(char *buf, size_t size, const char *str)
{
	char c[CHARACTER + 1];
	size_t n = 1, len;

	buf[0] = '"';
	while (*str != '\0') {
		character(c, &str);
		len = strlen(c);
		if (n + len + 2 > size)
			break;
		memcpy(buf + n, c, len);
		n += len;
	}
	buf[n++] = '"';
	buf[n] = '\0';
}

/* ---- reading ---- */

/* What may come next. */
enum state {
	VALUE,			/* a value: the text begins so */
	FIRST_VALUE,		/* a value, or the end of the array just opened */
	FIRST_KEY,		/* a key, or the end of the object just opened */
	KEY,
	COLON,
	AFTER,			/* a comma or an end; with nothing open, the end of the text */
	BROKEN
};

static enum json_token
bad(struct json *j, const char *why)
{
	j->why = why;
	j->state = BROKEN;
	return JSON_BAD;
}

/* The next byte, which stays, or -1. */
static int
peek(struct json *j)
{
	size_t n;

	if (j->at == j->end && j->more != NULL) {
		n = j->more(j->arg, &j->at);
		j->end = j->at + n;
	}
	return j->at < j->end ? *j->at : -1;
}

static int
take(struct json *j)
{
	int c = peek(j);

	if (c >= 0)
		j->at++;
	return c;
}

static int
skip_space(struct json *j)
{
	int c;

	while ((c = peek(j)) == ' ' || c == '\t' || c == '\n' || c == '\r')
		j->at++;
	return c;
}

static void
keep(struct json *j, uint32_t byte)
{
	if (j->len + 1 < sizeof j->text)
		j->text[j->len++] = (char)byte;
	else
		j->cut = 1;
	if (j->copy_len + 1 < j->copy_size)
		j->copy[j->copy_len++] = (char)byte;
	else
		j->copy_cut = 1;
}

static void
keep_point(struct json *j, uint32_t c)
{
	if (c < 0x80) {
		keep(j, c);
		return;
	}
	if (c < 0x800)
		keep(j, 0xc0 | c >> 6);
	else {
		if (c < 0x10000)
			keep(j, 0xe0 | c >> 12);
		else {
			keep(j, 0xf0 | c >> 18);
			keep(j, 0x80 | (c >> 12 & 0x3f));
		}
		keep(j, 0x80 | (c >> 6 & 0x3f));
	}
	keep(j, 0x80 | (c & 0x3f));
}

/* Four hexadecimal digits; -1: they are not. */
static int32_t
hex4(struct json *j)
{
	static const char hex[] = "0123456789abcdef0123456789ABCDEF";
	const char *h;
	int32_t v = 0;
	int i, c;

	for (i = 0; i < 4; i++) {
		if ((c = take(j)) <= 0 || (h = strchr(hex, c)) == NULL)
			return -1;
		v = v << 4 | (int32_t)((h - hex) & 15);
	}
	return v;
}

/* What follows a backslash; 0, or -1. */
static int
escape(struct json *j)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	int c = take(j);
	const char *p = c > 0 ? strchr(from, c) : NULL;
	int32_t v, low;

	if (p != NULL) {
		keep(j, (unsigned char)to[p - from]);
		return 0;
	}
	if (c != 'u' || (v = hex4(j)) <= 0 || (v >= 0xdc00 && v < 0xe000))
		return -1;
	if (v >= 0xd800 && v < 0xdc00) {	/* the first half of a pair */
		if (take(j) != '\\' || take(j) != 'u' || (low = hex4(j)) < 0xdc00 || low >= 0xe000)
			return -1;
		v = 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00);
	}
	keep_point(j, (uint32_t)v);
	return 0;
}

/* A sequence of UTF-8 that begins with c; 0, or -1. */
static int
sequence(struct json *j, int c)
{
	unsigned char s[5] = { 0, 0, 0, 0, 0 };
	int n = c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0, i;

	s[0] = (unsigned char)c;
	for (i = 1; i < n; i++) {
		if ((c = take(j)) <= 0)
			return -1;
		s[i] = (unsigned char)c;
	}
	if (n == 0 || utf8_length(s) != n)
		return -1;
	for (i = 0; i < n; i++)
		keep(j, s[i]);
	return 0;
}

static enum json_token
string(struct json *j, enum json_token token)
{
	int c;

	j->len = 0;
	j->cut = j->copy_cut = 0;
	j->copy_len = 0;
	j->at++;
	while ((c = take(j)) != '"') {
		if (c < 0)
			return bad(j, "ends within a string");
		if (c < ' ')
			return bad(j, "control character in a string");
		if (c < 0x80 && c != '\\')
			keep(j, (uint32_t)c);
		else if (c == '\\' ? escape(j) != 0 : sequence(j, c) != 0)
			return bad(j, c == '\\' ? "impossible escape in a string" :
			    "string that is not UTF-8");
	}
	j->text[j->len] = '\0';
	if (j->copy_size > 0)
		j->copy[j->copy_len] = '\0';
	j->state = token == JSON_KEY ? COLON : AFTER;
	return token;
}

static int
is_digit(int c)
{
	return c >= '0' && c <= '9';
}

/* One digit or more; 0, or -1. */
static int
digits(struct json *j)
{
	if (!is_digit(peek(j)))
		return -1;
	while (is_digit(peek(j)))
		j->at++;
	return 0;
}

static enum json_token
number(struct json *j)
{
	uint64_t d;
	int c;

	j->number = 0;
	j->is_whole = peek(j) != '-';
	if (!j->is_whole)
		j->at++;
	if (!is_digit(c = peek(j)))
		return bad(j, "impossible number");
	do {
		d = (uint64_t)(take(j) - '0');
		if (j->number > (UINT64_MAX - d) / 10)
			j->is_whole = 0;
		j->number = j->number * 10 + d;
	} while (is_digit(peek(j)) && c != '0');
	if (peek(j) == '.') {
		j->is_whole = 0;
		j->at++;
		if (digits(j) != 0)
			return bad(j, "impossible number");
	}
	if (peek(j) == 'e' || peek(j) == 'E') {
		j->is_whole = 0;
		j->at++;
		if (peek(j) == '+' || peek(j) == '-')
			j->at++;
		if (digits(j) != 0)
			return bad(j, "impossible number");
	}
	j->state = AFTER;
	return JSON_NUMBER;
}

static enum json_token
word(struct json *j)
{
	int c = peek(j);
	const char *s = c == 't' ? "true" : c == 'f' ? "false" : "null";

	j->is_true = c == 't';
	for (; *s != '\0'; s++)
		if (take(j) != *s)
			return bad(j, "neither a value nor an end");
	j->state = AFTER;
	return JSON_WORD;
}

/* Is the innermost of what is open an object? */
static int
in_object(const struct json *j)
{
	unsigned i = j->depth - 1;

	return j->open[i / 8] >> i % 8 & 1;
}

static enum json_token
open_one(struct json *j, int object)
{
	unsigned i = j->depth, bit = 1u << i % 8;

	if (i == JSON_DEPTH)
		return bad(j, "nested too deeply");
	j->at++;
	j->open[i / 8] = (uint8_t)(object ? j->open[i / 8] | bit : j->open[i / 8] & ~bit);
	j->depth++;
	j->state = object ? FIRST_KEY : FIRST_VALUE;
	return object ? JSON_OBJECT : JSON_ARRAY;
}

static enum json_token
close_one(struct json *j)
{
	j->at++;
	j->depth--;
	j->state = AFTER;
	return JSON_CLOSE;
}

static enum json_token
value(struct json *j, int c)
{
	if (c == '{' || c == '[')
		return open_one(j, c == '{');
	if (c == '"')
		return string(j, JSON_STRING);
	return c == '-' || is_digit(c) ? number(j) : word(j);
}

enum json_token
json_next(struct json *j)
{
	int c;

	if (j->state == BROKEN)
		return JSON_BAD;
	c = skip_space(j);
	if (j->state == AFTER && j->depth == 0)
		return c < 0 ? JSON_END : bad(j, "goes on behind its end");
	if (c < 0)
		return bad(j, "ends too early");
	if (j->state != VALUE && j->state != KEY && j->state != COLON &&
	    c == (in_object(j) ? '}' : ']'))
		return close_one(j);
	if (j->state == AFTER || j->state == COLON) {
		if (c != (j->state == COLON ? ':' : ','))
			return bad(j, j->state == COLON ? "key without a value" :
			    "neither a comma nor an end");
		j->at++;
		j->state = j->state == AFTER && in_object(j) ? KEY : VALUE;
		if ((c = skip_space(j)) < 0)
			return bad(j, "ends too early");
	}
	if (j->state == KEY || j->state == FIRST_KEY)
		return c == '"' ? string(j, JSON_KEY) : bad(j, "neither a key nor an end");
	return value(j, c);
}

void
json_begin(struct json *j, const void *text, size_t n)
{
	memset(j, 0, sizeof *j);
	j->at = text;
	j->end = j->at + n;
}

enum json_token
json_skip(struct json *j, enum json_token t)
{
	unsigned depth = j->depth;

	if (t == JSON_OBJECT || t == JSON_ARRAY)
		while (j->depth >= depth && t != JSON_BAD)
			t = json_next(j);
	return t;
}
