// SPDX-License-Identifier: Apache-2.0
// Owns: a vocabulary's bytes, laid out so that one walk tells which tokens an automaton takes: a trie in the
// order of a depth-first walk, in five parts. Part 0 holds what no general text can be trusted with (quotes,
// backslashes, controls, pieces of characters); parts 1..4 hold whole characters only, by their number, so
// that a state that takes any such text takes a part at once. Special tokens are in none: they never stand
// for text. Immutable once made; any number of threads.
#pragma once

#include "common/text/tokenizer.h"

enum {
    TC_VOCABULARY_PARTS = 5,
    // Longer tokens (runs of spaces, mostly) are not offered: their pieces are. Counted repeats so are alike
    // for a token once they are this far from their bounds.
    TC_GRAMMAR_TOKEN_BYTES_MAX = 32,
};

typedef struct tc_trie_node {
    uint32_t skip;  // the node behind this one's descendants
    uint32_t token; // first of its tokens in tc_trie.tokens
    uint16_t tokens;
    uint8_t byte, depth; // depth: bytes up to here
} tc_trie_node;

typedef struct tc_trie {
    tc_trie_node *nodes;
    uint32_t *tokens;
    uint32_t node_count, token_count;
} tc_trie;

typedef struct tc_vocabulary {
    uint32_t size, words; // ids are below size; words of 32 bits in a mask
    uint8_t *bytes;       // of all tokens
    uint32_t *offsets;    // [size + 1]; empty: not offered
    tc_trie parts[TC_VOCABULARY_PARTS];
    uint32_t *upto[TC_VOCABULARY_PARTS]; // masks: the tokens of parts 1..k; [0] is empty
} tc_vocabulary;

extern const uint32_t tc_vocabulary_part_chars[TC_VOCABULARY_PARTS]; // most characters of a token of the part

// bytes[id] of lengths[id] bytes, NULL for ids that are not text.
tc_status tc_vocabulary_create(const char *const *bytes, const uint32_t *lengths, uint32_t size,
                               tc_vocabulary **ret, tc_error *e);
// The ordinary tokens of a tokenizer; `size`: of the model's vocabulary, which may be larger or smaller.
tc_status tc_vocabulary_of(const tc_tokenizer *tokenizer, uint32_t size, tc_vocabulary **ret, tc_error *e);
void tc_vocabulary_free(tc_vocabulary *vocabulary);

static inline const uint8_t *tc_vocabulary_token(const tc_vocabulary *v, uint32_t id, uint32_t *ret_bytes)
{
    *ret_bytes = id < v->size ? v->offsets[id + 1] - v->offsets[id] : 0;
    return id < v->size ? v->bytes + v->offsets[id] : NULL;
}
