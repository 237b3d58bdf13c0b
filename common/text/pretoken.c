// SPDX-License-Identifier: Apache-2.0
// Owns: the published splitting expressions written out by hand: one step over code points per word, no
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

static const char o200k_regex[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'"
    "ve|'m|'ll|'d)?|"
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'"
    "ve|'m|'ll|'d)?|"
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
static const char *const deepseek_regexes[] = {
    "\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
     " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")};

enum {
    LETTER = TC_CHAR_LETTER,
    NUMBER = TC_CHAR_NUMBER,
    SPACE = TC_CHAR_SPACE,
    NEWLINE = TC_CHAR_NEWLINE,
    UPPER = TC_CHAR_UPPER,
    LOWER = TC_CHAR_LOWER,
    MARK = UPPER | LOWER
};

// Files write line ends in a class as escapes or as they are.
static int same_regex(const char *regex, size_t bytes, const char *known)
{
    size_t k = 0;
    for (size_t i = 0; i < bytes; i++) {
        char escaped = regex[i] == '\r' ? 'r' : regex[i] == '\n' ? 'n' : 0;
        if (escaped ? known[k] != '\\' || known[k + 1] != escaped : !known[k] || known[k] != regex[i])
            return 0;
        k += escaped ? 2 : 1;
    }
    return known[k] == 0;
}

int tc_pretoken_recognise(const char *regex, size_t bytes, tc_pretoken *ret)
{
    static const struct {
        const char *regex;
        tc_pretoken kind;
    } known[] = {
        {qwen2_regex, TC_PRETOKEN_QWEN2},
        {llama3_regex, TC_PRETOKEN_LLAMA3},
        {gpt2_regex, TC_PRETOKEN_GPT2},
        {o200k_regex, TC_PRETOKEN_O200K},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (same_regex(regex, bytes, known[i].regex)) {
            *ret = known[i].kind;
            return 1;
        }
    return 0;
}

int tc_pretoken_recognise_sequence(const char *const *regexes, const size_t *bytes, size_t count,
                                   tc_pretoken *ret)
{
    if (count == 1) return tc_pretoken_recognise(regexes[0], bytes[0], ret);
    if (count != sizeof deepseek_regexes / sizeof *deepseek_regexes) return 0;
    for (size_t i = 0; i < count; i++)
        if (!same_regex(regexes[i], bytes[i], deepseek_regexes[i])) return 0;
    *ret = TC_PRETOKEN_DEEPSEEK;
    return 1;
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

// ---- o200k
// -------------------------------------------------------------------------------------------------

static inline int is_upper(uint8_t flags) // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
{
    return (flags & UPPER) && ((flags & LETTER) || (flags & MARK) == MARK);
}

static inline int is_lower(uint8_t flags) // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
{
    return (flags & LOWER) != 0; // without LETTER only marks have it
}

// `upper* lower+` at q, or NULL: where no lower follows, the run of uppers gives back down to its last
// character that is both.
static const uint8_t *upper_lower(const uint8_t *q, const uint8_t *end, const uint8_t **ret_upper_end)
{
    const uint8_t *both_end = NULL;
    size_t step;
    uint8_t flags = 0;
    for (; q < end && is_upper(flags = flags_at(q, &step)); q += step)
        if (is_lower(flags)) both_end = q + step;
    *ret_upper_end = q;
    if (q == end || !is_lower(flags)) return both_end;
    while (q < end && is_lower(flags_at(q, &step))) q += step;
    return q;
}

static const uint8_t *with_contraction(const uint8_t *q, const uint8_t *end)
{
    return q < end && *q == '\'' ? q + contraction(q, end, 1) : q;
}

static size_t next_o200k(const uint8_t *p, const uint8_t *end)
{
    size_t step;
    uint8_t first = flags_at(p, &step);
    int prefix = !(first & (NEWLINE | LETTER | NUMBER));
    const uint8_t *upper_end[2] = {p, p}, *found = NULL, *begin[2] = {p + step, p};
    for (int i = prefix ? 0 : 1; i < 2 && !found; i++) found = upper_lower(begin[i], end, &upper_end[i]);
    for (int i = prefix ? 0 : 1; i < 2 && !found; i++)
        if (upper_end[i] > begin[i]) found = upper_end[i]; // upper+, and no lower behind it
    if (found) return (size_t)(with_contraction(found, end) - p);
    const uint8_t *q = p + step;
    if (first & NUMBER) {
        for (unsigned n = 1; n < 3 && q < end && (flags_at(q, &step) & NUMBER); n++) q += step;
        return (size_t)(q - p);
    }
    uint8_t second = q < end ? flags_at(q, &step) : SPACE;
    if (!(first & SPACE) || (*p == ' ' && !(second & (LETTER | NUMBER | SPACE)))) {
        q = skip(q, end, LETTER | NUMBER | SPACE, 0);
        while (q < end && (*q == '\r' || *q == '\n' || *q == '/')) q++;
        return (size_t)(q - p);
    }
    return (size_t)(white(p, end, 1) - p);
}

// ---- DeepSeek
// ----------------------------------------------------------------------------------------------

static int han_or_kana(const uint8_t *p)
{
    size_t step;
    uint32_t c = tc_utf8_get(p, &step);
    return (c >= 0x4e00 && c <= 0x9fa5) || (c >= 0x3040 && c <= 0x30ff);
}

static int ascii_punctuation(uint8_t c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
}

static int ascii_letter(uint8_t c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

static inline int letter_or_mark(uint8_t flags)
{
    return (flags & LETTER) || (flags & MARK) == MARK;
}

static inline int punctuation(uint8_t flags)
{
    return !(flags & LETTER) && (flags & MARK) == UPPER;
}

size_t tc_pretoken_piece(tc_pretoken kind, const uint8_t *text, const uint8_t *end)
{
    size_t step;
    const uint8_t *q = text;
    if (kind != TC_PRETOKEN_DEEPSEEK) return (size_t)(end - text);
    if (flags_at(text, &step) & NUMBER) {
        for (unsigned n = 0; n < 3 && q < end && (flags_at(q, &step) & NUMBER); n++) q += step;
        return (size_t)(q - text);
    }
    int han = han_or_kana(text);
    while (q < end && !(flags_at(q, &step) & NUMBER) && han_or_kana(q) == han) q += step;
    return (size_t)(q - text);
}

// End of what the expression matches at p, or NULL: some control characters match nothing.
static const uint8_t *match_deepseek(const uint8_t *p, const uint8_t *end)
{
    size_t step, second_step = 0;
    uint8_t first = flags_at(p, &step);
    const uint8_t *q = p + step;
    if (ascii_punctuation(*p) && q < end && ascii_letter(*q)) {
        while (q < end && ascii_letter(*q)) q++;
        return q;
    }
    uint8_t second = q < end ? flags_at(q, &second_step) : 0;
    int prefix = !(first & (NEWLINE | LETTER)) && !punctuation(first) && q < end && letter_or_mark(second);
    if (prefix || letter_or_mark(first)) {
        while (q < end && letter_or_mark(flags_at(q, &step))) q += step;
        return q;
    }
    if (punctuation(first) || (*p == ' ' && q < end && punctuation(second))) {
        while (q < end && punctuation(flags_at(q, &step))) q += step;
        while (q < end && (*q == '\r' || *q == '\n')) q++;
        return q;
    }
    return first & SPACE ? white(p, end, 1) : NULL;
}

static size_t next_deepseek(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = match_deepseek(p, end);
    if (q) return (size_t)(q - p);
    for (q = p; q < end && !match_deepseek(q, end);) {
        size_t step;
        tc_utf8_get(q, &step);
        q += step;
    }
    return (size_t)(q - p);
}

// ---- Metaspace
// ---------------------------------------------------------------------------------------------

static size_t next_metaspace(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = p < end ? memmem(p + 1, (size_t)(end - p - 1), "\xe2\x96\x81", 3) : NULL;
    return (size_t)((q ? q : end) - p);
}

size_t tc_pretoken_next(tc_pretoken kind, const uint8_t *text, const uint8_t *end)
{
    switch (kind) {
    case TC_PRETOKEN_GPT2:
        return next_gpt2(text, end);
    case TC_PRETOKEN_O200K:
        return next_o200k(text, end);
    case TC_PRETOKEN_DEEPSEEK:
        return next_deepseek(text, end);
    case TC_PRETOKEN_METASPACE:
        return next_metaspace(text, end);
    case TC_PRETOKEN_NONE:
        return (size_t)(end - text);
    default:
        break;
    }
    return next_qwen2(text, end, kind == TC_PRETOKEN_QWEN2 ? 1 : 3);
}
