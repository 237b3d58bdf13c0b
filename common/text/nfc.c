// SPDX-License-Identifier: Apache-2.0
// Owns: NFC. Only the stretches around characters that may change are taken apart: from the last safe
// character before them to the next one after them. Marks are put in order by counting, because a text of a
// million marks must not cost their square.
#include "common/text/nfc.h"
#include "common/text/unicode.h"
#include "common/text/utf8.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { DECOMPOSED_MAX = 8, INSERTION_MAX = 16, BUFFER_BYTES_MIN = 256 };

tc_status tc_bytes_append(tc_bytes *to, const void *data, size_t bytes)
{
    if (bytes > to->capacity - to->count) {
        size_t capacity = to->capacity < BUFFER_BYTES_MIN ? BUFFER_BYTES_MIN : to->capacity;
        while (capacity - to->count < bytes) {
            if (capacity > SIZE_MAX / 4) return TC_LIMIT;
            capacity *= 2;
        }
        uint8_t *grown = realloc(to->data, capacity);
        if (!grown) return TC_NOMEM;
        to->data = grown;
        to->capacity = capacity;
    }
    if (bytes) memcpy(to->data + to->count, data, bytes);
    to->count += bytes;
    return TC_OK;
}

// Offset of the first unsafe character at or after `at`. Bytes below 0xcc are ASCII, continuation bytes or
// leads of characters below U+0300, all of which are safe.
static size_t find_unsafe(const uint8_t *text, size_t bytes, size_t at)
{
    while (at < bytes) {
        size_t step = 1;
        if (text[at] >= 0xcc && (tc_char_flags(tc_utf8_get(text + at, &step)) & TC_CHAR_UNSAFE)) return at;
        at += step;
    }
    return bytes;
}

static size_t previous(const uint8_t *text, size_t at)
{
    do at--;
    while (at > 0 && (text[at] & 0xc0) == 0x80);
    return at;
}

static int order(utf8proc_int32_t c)
{
    return c < 0x300 || !(tc_char_flags((uint32_t)c) & TC_CHAR_UNSAFE)
               ? 0
               : utf8proc_get_property(c)->combining_class;
}

// Stable sort of marks by combining class. `spare` has room for `count`.
static void sort_marks(utf8proc_int32_t *marks, size_t count, utf8proc_int32_t *spare)
{
    if (count <= INSERTION_MAX) {
        for (size_t i = 1; i < count; i++) {
            utf8proc_int32_t c = marks[i];
            size_t j = i;
            for (; j > 0 && order(marks[j - 1]) > order(c); j--) marks[j] = marks[j - 1];
            marks[j] = c;
        }
        return;
    }
    size_t start[257] = {0};
    for (size_t i = 0; i < count; i++) start[order(marks[i]) + 1]++;
    for (size_t k = 1; k < 257; k++) start[k] += start[k - 1];
    for (size_t i = 0; i < count; i++) spare[start[order(marks[i])]++] = marks[i];
    memcpy(marks, spare, count * sizeof *marks);
}

static void sort_all(utf8proc_int32_t *chars, size_t count, utf8proc_int32_t *spare)
{
    for (size_t i = 0; i < count;) {
        size_t end = i;
        while (end < count && order(chars[end]) != 0) end++;
        if (end - i > 1) sort_marks(chars + i, end - i, spare);
        i = end + 1;
    }
}

typedef struct points {
    utf8proc_int32_t *data; // 2 * capacity long: the upper half is the spare room of the sort
    size_t capacity;
} points;

// Normalises one stretch and appends it.
static tc_status stretch(const uint8_t *text, size_t bytes, points *work, tc_bytes *out)
{
    size_t need = bytes * 4 + DECOMPOSED_MAX,
           count = 0; // no canonical decomposition has more than 4 per character
    if (need > work->capacity) {
        free(work->data);
        work->capacity = 0;
        work->data = malloc(need * 2 * sizeof *work->data);
        if (!work->data) return TC_NOMEM;
        work->capacity = need;
    }
    for (size_t at = 0, step; at < bytes; at += step) {
        int last_boundary = 0;
        uint32_t c = tc_utf8_get(text + at, &step);
        utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, work->data + count, DECOMPOSED_MAX,
                                                     UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last_boundary);
        if (n < 0 || n > 4) return TC_INTERNAL;
        count += (size_t)n;
    }
    sort_all(work->data, count, work->data + work->capacity);
    utf8proc_ssize_t composed =
        utf8proc_normalize_utf32(work->data, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (composed < 0) return TC_INTERNAL;
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        utf8proc_uint8_t encoded[TC_UTF8_BYTES_MAX];
        TC_TRY(tc_bytes_append(out, encoded, (size_t)utf8proc_encode_char(work->data[i], encoded)));
    }
    return TC_OK;
}

tc_status tc_nfc(const uint8_t *text, size_t bytes, tc_bytes *out, const uint8_t **ret, size_t *ret_bytes)
{
    size_t unsafe = find_unsafe(text, bytes, 0);
    if (unsafe == bytes) {
        *ret = text;
        *ret_bytes = bytes;
        return TC_OK;
    }
    tc_status status = TC_OK;
    points work = {0};
    size_t done = 0;
    out->count = 0;
    while (unsafe < bytes) {
        size_t start = unsafe > done ? previous(text, unsafe) : unsafe, end = unsafe, step;
        while (end < bytes && (tc_char_flags(tc_utf8_get(text + end, &step)) & TC_CHAR_UNSAFE)) end += step;
        TC_GOTO(tc_bytes_append(out, text + done, start - done));
        TC_GOTO(stretch(text + start, end - start, &work, out));
        done = end;
        unsafe = find_unsafe(text, bytes, end);
    }
    TC_GOTO(tc_bytes_append(out, text + done, bytes - done));
    *ret = out->data;
    *ret_bytes = out->count;
out:
    free(work.data);
    return status;
}
