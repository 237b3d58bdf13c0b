// SPDX-License-Identifier: Apache-2.0
// Owns: growth of the buffer, and JSON escaping.
#include "gateway/buffer.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tc_buffer_free(tc_buffer *buffer)
{
    free(buffer->data);
    *buffer = (tc_buffer){.max = buffer->max};
}

void tc_buffer_clear(tc_buffer *buffer)
{
    buffer->count = 0;
    buffer->failed = false;
}

void tc_buffer_consume(tc_buffer *buffer, size_t bytes)
{
    if (bytes > buffer->count) bytes = buffer->count;
    if (bytes == 0) return;
    memmove(buffer->data, buffer->data + bytes, buffer->count - bytes);
    buffer->count -= bytes;
}

static bool reserve(tc_buffer *buffer, size_t bytes)
{
    if (buffer->failed) return false;
    size_t need;
    if (__builtin_add_overflow(buffer->count, bytes, &need) || (buffer->max && need > buffer->max)) {
        buffer->failed = true;
        return false;
    }
    if (need <= buffer->capacity) return true;
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < need) capacity = capacity > need / 2 ? need : capacity * 2;
    if (capacity < buffer->capacity + buffer->capacity / 2)
        capacity = buffer->capacity + buffer->capacity / 2;
    char *data = realloc(buffer->data, capacity);
    if (!data) {
        buffer->failed = true;
        return false;
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void tc_buffer_append(tc_buffer *buffer, const void *data, size_t bytes)
{
    if (bytes == 0 || !reserve(buffer, bytes)) return;
    memcpy(buffer->data + buffer->count, data, bytes);
    buffer->count += bytes;
}

void tc_buffer_text(tc_buffer *buffer, const char *text)
{
    tc_buffer_append(buffer, text, strlen(text));
}

void tc_buffer_format(tc_buffer *buffer, const char *format, ...)
{
    char text[1024]; // every use is short; what is longer is a failure, not a cut
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text)
        buffer->failed = true;
    else
        tc_buffer_append(buffer, text, (size_t)n);
}

size_t tc_utf8_valid(const char *text, size_t bytes)
{
    const unsigned char *s = (const unsigned char *)text;
    if (bytes == 0) return 0;
    if (s[0] < 0x80) return 1;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || bytes < n) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (s[0] == 0xe0 && s[1] < 0xa0) return 0; // overlong
    if (s[0] == 0xed && s[1] > 0x9f) return 0; // surrogate
    if (s[0] == 0xf0 && s[1] < 0x90) return 0;
    if (s[0] == 0xf4 && s[1] > 0x8f) return 0; // above U+10FFFF
    return n;
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

static void json_escape(tc_buffer *buffer, unsigned char c)
{
    switch (c) {
    case '"':
        tc_buffer_append(buffer, "\\\"", 2);
        break;
    case '\\':
        tc_buffer_append(buffer, "\\\\", 2);
        break;
    case '\n':
        tc_buffer_append(buffer, "\\n", 2);
        break;
    case '\r':
        tc_buffer_append(buffer, "\\r", 2);
        break;
    case '\t':
        tc_buffer_append(buffer, "\\t", 2);
        break;
    default:
        tc_buffer_format(buffer, "\\u%04x", c);
        break;
    }
}

void tc_buffer_json(tc_buffer *buffer, const char *text, size_t bytes)
{
    tc_buffer_append(buffer, "\"", 1);
    for (size_t i = 0; i < bytes;) {
        size_t run = i;
        while (run < bytes && is_plain((unsigned char)text[run])) run++;
        tc_buffer_append(buffer, text + i, run - i);
        i = run;
        if (i == bytes) break;
        unsigned char c = (unsigned char)text[i];
        size_t n = tc_utf8_valid(text + i, bytes - i);
        if (n == 1)
            json_escape(buffer, c);
        else if (n > 1)
            tc_buffer_append(buffer, text + i, n);
        else
            tc_buffer_append(buffer, "\xef\xbf\xbd", 3);
        i += n ? n : 1;
    }
    tc_buffer_append(buffer, "\"", 1);
}

void tc_buffer_json_text(tc_buffer *buffer, const char *text)
{
    if (text)
        tc_buffer_json(buffer, text, strlen(text));
    else
        tc_buffer_append(buffer, "null", 4);
}

void tc_buffer_json_number(tc_buffer *buffer, double value)
{
    if (!isfinite(value))
        tc_buffer_append(buffer, "null", 4);
    else
        tc_buffer_format(buffer, "%.7g", value);
}
