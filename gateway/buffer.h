// SPDX-License-Identifier: Apache-2.0
// Owns: a growing byte buffer with a cap, and the JSON text appended to it. Failure is sticky: after the
// first append that does not fit (or for which memory is missing) `failed` stays set and later appends do
// nothing, so a composer checks once, at the end. Refuses: to write invalid UTF-8 into JSON (bad bytes become
// U+FFFD).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tc_buffer {
    char *data;             // owner: the buffer; tc_buffer_free
    size_t count, capacity; // bytes
    size_t max;             // 0: no cap
    bool failed;
} tc_buffer;

void tc_buffer_free(tc_buffer *buffer);  // leaves an empty buffer with the same cap
void tc_buffer_clear(tc_buffer *buffer); // keeps the memory
void tc_buffer_consume(tc_buffer *buffer, size_t bytes);

void tc_buffer_append(tc_buffer *buffer, const void *data, size_t bytes);
void tc_buffer_text(tc_buffer *buffer, const char *text);
void tc_buffer_format(tc_buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));

void tc_buffer_json(tc_buffer *buffer, const char *text, size_t bytes); // a quoted JSON string
void tc_buffer_json_text(tc_buffer *buffer, const char *text); // the same of a C string; NULL gives null
void tc_buffer_json_number(tc_buffer *buffer, double value);   // not finite gives null

// Bytes of the valid UTF-8 character at text, or 0.
size_t tc_utf8_valid(const char *text, size_t bytes);
