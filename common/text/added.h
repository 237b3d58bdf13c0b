// SPDX-License-Identifier: Apache-2.0
// Owns: finding added tokens in a text: leftmost match, longest at its place, then the token's own conditions
// (single_word, lstrip, rstrip), in the order and with the corner cases of the `tokenizers` library.
#pragma once

#include "common/text/tokenizer.h"

enum { TC_ADDED_TOKENS_MAX = 1 << 16 };

typedef struct tc_added {
    const uint8_t *content, *pattern; // pattern: the content, or its NFC when `normalized`
    uint32_t content_bytes, pattern_bytes, id;
    bool special, single_word, lstrip, rstrip, normalized;
    uint8_t *owned; // both texts
} tc_added;

// Tokens of one kind (normalized or not), sorted by pattern.
typedef struct tc_added_set {
    const tc_added **items;
    uint32_t count, first[257]; // items whose pattern begins with byte b: first[b] .. first[b+1]
} tc_added_set;

// items: the tokens for this set, sorted by pattern here. FORMAT when two have the same pattern.
tc_status tc_added_set_build(tc_added_set *set, const tc_added **items, uint32_t count);

typedef struct tc_added_scan {
    const tc_added_set *set;
    const uint8_t *text;
    size_t bytes, at, done;      // search goes on at `at`; text before `done` has been given out
    size_t space_from, space_to; // white space measured by the last rstrip
    bool as_text;
    // Ranges of the text in which no special token may have a byte (as_text then only bars those).
    const tc_text_span *data;
    size_t data_count, data_at; // data_at: the first range that ends behind `at`
} tc_added_scan;

// Next added token of the text. [*ret_begin, *ret_end) is the plain text before it (may be empty). At the end
// of the text *ret is NULL and the range is what is left.
void tc_added_next(tc_added_scan *scan, size_t *ret_begin, size_t *ret_end, const tc_added **ret);
