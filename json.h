/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * json.h -- JSON: strings written, and a text of a stranger's read piece by piece.
 */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdint.h>

/* Print before to stdout, and behind it a string with its quotes.  Bytes that are not UTF-8 become
 * the code point of that number. */
void json_print(const char *before, const char *str);
/* Is str UTF-8, so that a reader finds in its string what it is? */
int json_is_text(const char *str);
/* The string into buf, which has size bytes, at least 3.  What has no room is left out. */
void json_put(char *buf, size_t size, const char *str);

/*
 * A reader that hands out one token after the other.  It is as strict as RFC 8259, and has all
 * its memory in itself: nothing is allocated, nothing calls itself, whatever the text says.
 * Beyond that RFC it refuses zero bytes in strings, which have no end in C then.
 */
enum {
	JSON_DEPTH = 768,	/* of objects and arrays in one another; refused beyond */
	JSON_TEXT = 256		/* bytes of a string that are kept, its NUL included */
};

enum json_token {
	JSON_BAD,		/* json.why tells; there is nothing after this */
	JSON_END,		/* of the text, and rightly so */
	JSON_OBJECT, JSON_ARRAY,	/* its beginning */
	JSON_CLOSE,		/* its end */
	JSON_KEY, JSON_STRING,	/* json.text */
	JSON_NUMBER,		/* json.number */
	JSON_WORD		/* true, false, null */
};

struct json {
	/* Set by the caller for a text that comes in pieces, the rest zero: have *piece be the next
	 * one, and say how long it is.  0: there is none any more, or it cannot be read. */
	size_t (*more)(void *arg, const uint8_t **piece);
	void *arg;

	const char *why;
	char text[JSON_TEXT];	/* of the last key or string */
	int cut;		/* it was longer */
	char *copy;		/* set by the caller, or NULL: the same with more room, copy_size */
	size_t copy_size, copy_len;
	int copy_cut;
	uint64_t number;
	int is_true;		/* the last word was that one */
	int is_whole;		/* number is what was written: no sign, no fraction, no overflow */
	size_t len;		/* of text */
	unsigned depth;		/* of what is open */

	uint8_t open[JSON_DEPTH / 8];	/* private: for each depth, is it an object? */
	int state;		/* what may come next */
	const uint8_t *at, *end;	/* of the text, what is here and was not read */
};

/* Read the n bytes at text, which must stay. */
void json_begin(struct json *j, const void *text, size_t n);
enum json_token json_next(struct json *j);
/* Pass by the value that began with token t.  The last token of it, or JSON_BAD. */
enum json_token json_skip(struct json *j, enum json_token t);

#endif
