// SPDX-License-Identifier: Apache-2.0
// Owns: three published splitting expressions written out by hand: one step over code points per word, no
// backtracking, so linear on any text. Each alternative of an expression is one `if`, in the expression's
// order. Refuses: every other expression (the loader shows it).
#include "common/text/pretoken.h"
#include "common/text/unicode.h"
#include "common/text/utf8.h"
#include <string.h>

static const char qwen2_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char llama3_regex[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                                   " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char gpt2_regex[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { LETTER = TC_CHAR_LETTER, NUMBER = TC_CHAR_NUMBER, SPACE = TC_CHAR_SPACE, NEWLINE = TC_CHAR_NEWLINE };

int tc_pretoken_recognise(const char *regex, size_t bytes, tc_pretoken *ret)
{
    static const struct {
        const char *regex;
        size_t bytes;
        tc_pretoken kind;
    } known[] = {
        {qwen2_regex, sizeof qwen2_regex - 1, TC_PRETOKEN_QWEN2},
        {llama3_regex, sizeof llama3_regex - 1, TC_PRETOKEN_LLAMA3},
        {gpt2_regex, sizeof gpt2_regex - 1, TC_PRETOKEN_GPT2},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (bytes == known[i].bytes && !memcmp(regex, known[i].regex, bytes)) {
            *ret = known[i].kind;
            return 1;
        }
    return 0;
}

static inline uint8_t flags_at(const uint8_t *p, size_t *ret_bytes)
{
    return tc_char_flags(tc_utf8_get(p, ret_bytes));
}

// Skips characters that have one of `any` set (want != 0) or none of them (want == 0).
static inline const uint8_t *skip(const uint8_t *p, const uint8_t *end, uint8_t any, int want)
{
    while (p < end) {
        size_t step;
        if (((flags_at(p, &step) & any) != 0) != want) break;
        p += step;
    }
    return p;
}

// Length of the English contraction at p, which holds an apostrophe; 0 when there is none.
static size_t contraction(const uint8_t *p, const uint8_t *end, int fold)
{
    size_t left = (size_t)(end - p);
    uint8_t a = left > 1 ? p[1] : 0, b = left > 2 ? p[2] : 0;
    if (fold) {
        if (a == 0xc5 && b == 0xbf) return 3; // U+017F, the long s, folds to s
        if (a >= 'A' && a <= 'Z') a |= 0x20;
        if (b >= 'A' && b <= 'Z') b |= 0x20;
    }
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return 3;
    return 0;
}

// White space from p on: `\s*[\r\n]+` where asked for, then `\s+(?!\S)`, then `\s+`.
static const uint8_t *white(const uint8_t *p, const uint8_t *end, int lines)
{
    const uint8_t *at = p, *last = p, *line_end = NULL;
    while (at < end) {
        size_t step;
        uint8_t flags = flags_at(at, &step);
        if (!(flags & SPACE)) break;
        last = at;
        at += step;
        if (flags & NEWLINE) line_end = at;
    }
    if (lines && line_end) return line_end;
    return at == end || last == p ? at : last; // the last space before a word belongs to the word
}

static size_t next_gpt2(const uint8_t *p, const uint8_t *end)
{
    size_t step;
    if (*p == '\'') {
        size_t length = contraction(p, end, 0);
        if (length) return length;
    }
    const uint8_t *word = *p == ' ' && p + 1 < end ? p + 1 : p;
    uint8_t flags = flags_at(word, &step);
    if (flags & LETTER) return (size_t)(skip(word + step, end, LETTER, 1) - p);
    if (flags & NUMBER) return (size_t)(skip(word + step, end, NUMBER, 1) - p);
    if (!(flags & SPACE)) return (size_t)(skip(word + step, end, LETTER | NUMBER | SPACE, 0) - p);
    return (size_t)(white(p, end, 0) - p);
}

static size_t next_qwen2(const uint8_t *p, const uint8_t *end, unsigned digits)
{
    size_t step, second_step = 0;
    if (*p == '\'') {
        size_t length = contraction(p, end, 1);
        if (length) return length;
    }
    uint8_t first = flags_at(p, &step);
    const uint8_t *q = p + step;
    if (first & LETTER) return (size_t)(skip(q, end, LETTER, 1) - p);
    uint8_t second = q < end ? flags_at(q, &second_step) : SPACE;
    if (!(first & (NEWLINE | NUMBER)) && (second & LETTER))
        return (size_t)(skip(q + second_step, end, LETTER, 1) - p);
    if (first & NUMBER) {
        for (unsigned n = 1; n < digits && q < end && (flags_at(q, &step) & NUMBER); n++) q += step;
        return (size_t)(q - p);
    }
    if (!(first & SPACE) || (*p == ' ' && !(second & (LETTER | NUMBER | SPACE)))) {
        q = skip(q, end, LETTER | NUMBER | SPACE, 0);
        while (q < end && (*q == '\r' || *q == '\n')) q++;
        return (size_t)(q - p);
    }
    return (size_t)(white(p, end, 1) - p);
}

size_t tc_pretoken_next(tc_pretoken kind, const uint8_t *text, const uint8_t *end)
{
    if (kind == TC_PRETOKEN_GPT2) return next_gpt2(text, end);
    return next_qwen2(text, end, kind == TC_PRETOKEN_QWEN2 ? 1 : 3);
}
