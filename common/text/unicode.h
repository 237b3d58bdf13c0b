// SPDX-License-Identifier: Apache-2.0
// Owns: what the tokenizer must know about a code point, as the `tokenizers` library knows it (Unicode 16
// classes, Unicode 9 normalisation), whatever version utf8proc has.
#pragma once

#include <stdint.h>

enum {
    TC_CHAR_LETTER = 1,  // \p{L}
    TC_CHAR_NUMBER = 2,  // \p{N}
    TC_CHAR_SPACE = 4,   // \s (White_Space)
    TC_CHAR_NEWLINE = 8, // \r or \n
    TC_CHAR_WORD = 16,   // \w, for the single_word flag of added tokens
    TC_CHAR_UNSAFE = 32, // NFC may change it, reorder it, or join it to the character before it
    // With LETTER, its case: UPPER \p{Lu} \p{Lt}, LOWER \p{Ll}, both \p{Lm} \p{Lo}. Without: both are a mark
    // (\p{M}), UPPER alone is punctuation or a symbol (\p{P} \p{S}).
    TC_CHAR_UPPER = 64,
    TC_CHAR_LOWER = 128,
};

enum { TC_CHAR_TABLE_SIZE = 0x20000 };
extern uint8_t tc_char_table[TC_CHAR_TABLE_SIZE];

void tc_unicode_init(void); // fills the table once per process; thread-safe
uint8_t tc_char_flags_compute(uint32_t c);

// tc_unicode_init must have run.
static inline uint8_t tc_char_flags(uint32_t c)
{
    return __builtin_expect(c < TC_CHAR_TABLE_SIZE, 1) ? tc_char_table[c] : tc_char_flags_compute(c);
}
