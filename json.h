/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * json.h -- JSON, as far as we write it.
 */
#ifndef JSON_H
#define JSON_H

#include <stdio.h>

/* Write a string with its quotes.  Bytes that are not UTF-8 become the code point of that
 * number. */
void json_string(FILE *f, const char *str);
/* The same into buf, which has size bytes, at least 3.  What has no room is left out. */
void json_put(char *buf, size_t size, const char *str);

#endif
