// SPDX-License-Identifier: Apache-2.0
// Owns: cutting normalised text into the words that are tokenized one by one.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef enum tc_pretoken {
    TC_PRETOKEN_GPT2,     // ByteLevel with its own expression
    TC_PRETOKEN_QWEN2,    // every digit alone
    TC_PRETOKEN_LLAMA3,   // as Qwen2, but up to three digits together
    TC_PRETOKEN_O200K,    // GPT-4o, gpt-oss, Llama 4: words also end where the case turns
    TC_PRETOKEN_DEEPSEEK, // DeepSeek V3: digits, then Han and Kana, then the rest, each split by itself
    TC_PRETOKEN_NONE,     // the text is one word
    TC_PRETOKEN_METASPACE // words begin at each U+2581
} tc_pretoken;

// True when the regular expression is one that is implemented here.
int tc_pretoken_recognise(const char *regex, size_t bytes, tc_pretoken *ret);

// True when the list of expressions, one Split each, is one that is implemented here.
int tc_pretoken_recognise_sequence(const char *const *regexes, const size_t *bytes, size_t count,
                                   tc_pretoken *ret);

// Length of the piece at `text`, which is well-formed UTF-8 and not empty: words never cross its end, and
// what follows it cannot be seen from inside. Everything, but for DEEPSEEK.
size_t tc_pretoken_piece(tc_pretoken kind, const uint8_t *text, const uint8_t *end);
// Length of the word at `text`, which is well-formed UTF-8 and not empty (text < end).
size_t tc_pretoken_next(tc_pretoken kind, const uint8_t *text, const uint8_t *end);
