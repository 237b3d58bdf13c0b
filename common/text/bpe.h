// SPDX-License-Identifier: Apache-2.0
// Owns: BPE over bytes, or over characters with bytes for those that have no token: the merges, the words
// that are one token, and the merging of one word. Refuses: ids of 2^22 and above, and a vocabulary in which
// one of the 256 bytes has no token (the loader checks).
#pragma once

#include "common/text/tokenizer.h"
#include <string.h>

enum {
    TC_ID_MAX = (1 << 22) - 1,
    TC_WORD_TABLE_BYTES_MAX =
        32, // longer words are merged, not looked up (unless the file says ignore_merges)
};

#define TC_ID_NONE UINT32_MAX

enum {
    TC_TOKEN_PRESENT = 1,
    TC_TOKEN_SPECIAL = 2,
    TC_TOKEN_ADDED = 4,
    TC_TOKEN_VOCAB = 8,
    TC_TOKEN_MAPPED = 16
};

typedef struct tc_token {
    uint32_t offset; // into tc_bpe.blob: the bytes that the token decodes to
    uint16_t bytes;
    uint8_t flags;
} tc_token;

typedef struct tc_merge {
    uint32_t left, right, rank, id; // id == TC_ID_NONE: empty place
} tc_merge;

typedef struct tc_pair {
    uint32_t rank, id; // rank == TC_ID_NONE: no such merge
} tc_pair;

typedef struct tc_word {
    uint32_t hash, id; // id == TC_ID_NONE: empty place
} tc_word;

typedef struct tc_char_token {
    uint32_t c, id; // id == TC_ID_NONE: empty place
} tc_char_token;

typedef struct tc_bpe {
    tc_token *tokens; // by id
    uint32_t token_count;
    uint8_t *blob;
    uint64_t seed; // hash seed, so that no file can be made to collide
    uint32_t byte_id[256];
    tc_pair *bytes; // 256 * 256: merges of two single bytes, where most look-ups happen
    tc_merge *merges;
    uint32_t merge_mask;
    tc_word *words;
    uint32_t word_mask, word_bytes_max;
    bool ignore_merges;
    // Characters with a token, by code point (open addressing); NULL: the units are bytes.
    tc_char_token *chars;
    uint32_t char_mask;
    bool special_inside; // some special token can come out of plain text through merges
} tc_bpe;

// Room for merging long words, kept between the words of one text.
typedef struct tc_bpe_scratch {
    uint32_t *links;
    uint64_t *heap;
    size_t links_capacity, heap_capacity, heap_count;
} tc_bpe_scratch;

void tc_bpe_scratch_free(tc_bpe_scratch *scratch);
void tc_bpe_free(tc_bpe *bpe);

// Makes room for `count` merges; then one tc_bpe_add_merge for each, in order. FORMAT: this pair was there
// before.
tc_status tc_bpe_reserve_merges(tc_bpe *bpe, size_t count);
tc_status tc_bpe_add_merge(tc_bpe *bpe, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);
// Characters instead of bytes: room for `count` of them; then one tc_bpe_add_char each.
tc_status tc_bpe_reserve_chars(tc_bpe *bpe, size_t count);
void tc_bpe_add_char(tc_bpe *bpe, uint32_t c, uint32_t id);
// After the last merge: finds the words that end up as one token anyway.
tc_status tc_bpe_build_words(tc_bpe *bpe);

// Appends the tokens of one word. With `as_text` no special token comes out.
tc_status tc_bpe_word(const tc_bpe *bpe, const uint8_t *word, size_t bytes, bool as_text,
                      tc_bpe_scratch *scratch, tc_ids *ids);
