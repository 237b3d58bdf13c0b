// SPDX-License-Identifier: Apache-2.0
// Owns: one step of UTF-8 decoding, shared by encoder, decoder and stream, so that all three agree on what is
// malformed and on how much of it one U+FFFD replaces (the longest prefix of some well-formed sequence).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TC_UTF8_BYTES_MAX = 4 };
#define TC_UTF8_REPLACEMENT "\xef\xbf\xbd"

typedef enum tc_utf8_kind { TC_UTF8_CHAR, TC_UTF8_BAD, TC_UTF8_SHORT } tc_utf8_kind;

// Looks at text[0..bytes), bytes > 0. CHAR: *ret_bytes is the character's length. BAD: that many bytes are
// one malformed piece. SHORT: all *ret_bytes bytes are the beginning of a character whose rest is missing.
static inline tc_utf8_kind tc_utf8_step(const uint8_t *text, size_t bytes, size_t *ret_bytes)
{
    uint8_t lead = text[0];
    *ret_bytes = 1;
    if (lead < 0x80) return TC_UTF8_CHAR;
    if (lead < 0xc2 || lead > 0xf4) return TC_UTF8_BAD;
    size_t need = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < need; i++) {
        *ret_bytes = i;
        if (i == bytes) return TC_UTF8_SHORT;
        if (text[i] < low || text[i] > high) return TC_UTF8_BAD;
        low = 0x80, high = 0xbf;
    }
    *ret_bytes = need;
    return TC_UTF8_CHAR;
}

// The code point at `text`, which must be well-formed.
static inline uint32_t tc_utf8_get(const uint8_t *text, size_t *ret_bytes)
{
    uint32_t lead = text[0];
    if (lead < 0x80) {
        *ret_bytes = 1;
        return lead;
    }
    if (lead < 0xe0) {
        *ret_bytes = 2;
        return (lead & 0x1f) << 6 | (text[1] & 0x3f);
    }
    if (lead < 0xf0) {
        *ret_bytes = 3;
        return (lead & 0x0f) << 12 | (uint32_t)(text[1] & 0x3f) << 6 | (text[2] & 0x3f);
    }
    *ret_bytes = 4;
    return (lead & 0x07) << 18 | (uint32_t)(text[1] & 0x3f) << 12 | (uint32_t)(text[2] & 0x3f) << 6 |
           (text[3] & 0x3f);
}

// Offset of the first byte that is not part of a well-formed character; `bytes` when there is none.
size_t tc_utf8_valid_bytes(const char *text, size_t bytes);
