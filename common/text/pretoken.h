// SPDX-License-Identifier: Apache-2.0
// Owns: cutting normalised text into the words that are tokenized one by one.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef enum tc_pretoken {
    TC_PRETOKEN_GPT2,  // ByteLevel with its own expression
    TC_PRETOKEN_QWEN2, // every digit alone
    TC_PRETOKEN_LLAMA3 // as Qwen2, but up to three digits together
} tc_pretoken;

// True when the regular expression is one that is implemented here.
int tc_pretoken_recognise(const char *regex, size_t bytes, tc_pretoken *ret);

// Length of the word at `text`, which is well-formed UTF-8 and not empty (text < end).
size_t tc_pretoken_next(tc_pretoken kind, const uint8_t *text, const uint8_t *end);
