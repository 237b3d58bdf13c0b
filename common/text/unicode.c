// SPDX-License-Identifier: Apache-2.0
// Owns: the table of code point properties. utf8proc gives most of it; two lists bring it to the versions the
// `tokenizers` library uses, because a letter it does not know, or a mark it does not reorder, moves token
// borders.
#include "common/text/unicode.h"
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <utf8proc.h>

uint8_t tc_char_table[TC_CHAR_TABLE_SIZE];

typedef struct range {
    uint32_t first, last;
    uint8_t flags;
} range;

enum { L = TC_CHAR_LETTER | TC_CHAR_WORD, N = TC_CHAR_NUMBER | TC_CHAR_WORD, M = TC_CHAR_WORD };

// Letters, numbers and marks of Unicode 15.1 and 16, which utf8proc before 2.10 does not have.
static const range late_classes[] = {
    {0x897, 0x897, M},     {0x1c89, 0x1c8a, L},   {0xa7cb, 0xa7cd, L},   {0xa7da, 0xa7dc, L},
    {0x105c0, 0x105f3, L}, {0x10d40, 0x10d49, N}, {0x10d4a, 0x10d65, L}, {0x10d69, 0x10d6d, M},
    {0x10d6f, 0x10d85, L}, {0x10ec2, 0x10ec4, L}, {0x10efc, 0x10efc, M}, {0x11380, 0x11389, L},
    {0x1138b, 0x1138b, L}, {0x1138e, 0x1138e, L}, {0x11390, 0x113b5, L}, {0x113b7, 0x113b7, L},
    {0x113b8, 0x113c0, M}, {0x113c2, 0x113c2, M}, {0x113c5, 0x113c5, M}, {0x113c7, 0x113ca, M},
    {0x113cc, 0x113d0, M}, {0x113d1, 0x113d1, L}, {0x113d2, 0x113d2, M}, {0x113d3, 0x113d3, L},
    {0x113e1, 0x113e2, M}, {0x116d0, 0x116e3, N}, {0x11bc0, 0x11be0, L}, {0x11bf0, 0x11bf9, N},
    {0x11f5a, 0x11f5a, M}, {0x13460, 0x143fa, L}, {0x16100, 0x1611d, L}, {0x1611e, 0x1612f, M},
    {0x16130, 0x16139, N}, {0x16d40, 0x16d6c, L}, {0x16d70, 0x16d79, N}, {0x18cff, 0x18cff, L},
    {0x1ccf0, 0x1ccf9, N}, {0x1e5d0, 0x1e5ed, L}, {0x1e5ee, 0x1e5ef, M}, {0x1e5f0, 0x1e5f0, L},
    {0x1e5f1, 0x1e5fa, N}, {0x2ebf0, 0x2ee5d, L},
};

// Marks and compositions younger than Unicode 9: the library's normaliser leaves them where they are.
static const range late_marks[] = {
    {0x7fd, 0x7fd},     {0x897, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
    {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
    {0xa82c, 0xa82c},   {0x10d24, 0x10d27}, {0x10d69, 0x10d6d}, {0x10eab, 0x10eac}, {0x10efc, 0x10eff},
    {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x11380, 0x113e2},
    {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16100, 0x16139}, {0x16d40, 0x16d79}, {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
    {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1e5ee, 0x1e5ef},
};

static const range *find(const range *list, size_t count, uint32_t c)
{
    for (size_t i = 0; i < count; i++)
        if (c >= list[i].first && c <= list[i].last) return &list[i];
    return NULL;
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

// Letters of Unicode 16 that have a case; the others in late_classes have none.
static uint8_t late_case(uint32_t c)
{
    if (c == 0x1c89 || c == 0xa7cb || c == 0xa7cc || c == 0xa7da || c == 0xa7dc ||
        (c >= 0x10d50 && c <= 0x10d65))
        return TC_CHAR_UPPER;
    if (c == 0x1c8a || c == 0xa7cd || c == 0xa7db || (c >= 0x10d70 && c <= 0x10d85)) return TC_CHAR_LOWER;
    return TC_CHAR_UPPER | TC_CHAR_LOWER;
}

static uint8_t case_flags(uint32_t c, uint8_t known)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO:
        return TC_CHAR_UPPER;
    case UTF8PROC_CATEGORY_LL:
        return TC_CHAR_LOWER;
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
        return TC_CHAR_UPPER | TC_CHAR_LOWER;
    case UTF8PROC_CATEGORY_CN: // perhaps one of the late letters or marks
        return known & (TC_CHAR_LETTER | TC_CHAR_WORD) && !(known & TC_CHAR_NUMBER) ? late_case(c) : 0;
    default:
        return 0;
    }
}

static uint8_t class_flags(uint32_t c)
{
    if (is_space(c)) return TC_CHAR_SPACE | (c == '\n' || c == '\r' ? TC_CHAR_NEWLINE : 0);
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return L;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
        return N;
    case UTF8PROC_CATEGORY_NO:
        return TC_CHAR_NUMBER;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_PC:
        return M;
    default:
        break;
    }
    // \w also holds the joiners and the symbols that are Alphabetic: circled and squared Latin letters.
    if (c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
        (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189))
        return M;
    const range *late = find(late_classes, sizeof late_classes / sizeof *late_classes, c);
    return late ? late->flags : 0;
}

// Canonical decomposition of c into out; false when c is its own and stays itself.
static bool decomposes(uint32_t c, utf8proc_int32_t out[static 8], utf8proc_ssize_t *ret_count,
                       bool *ret_stable)
{
    int last_boundary = 0;
    utf8proc_int32_t again[8];
    utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)c, out, 8,
                                                     UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last_boundary);
    if (count < 1 || count > 8 || (count == 1 && out[0] == (utf8proc_int32_t)c)) return false;
    for (utf8proc_ssize_t i = 0; i < count; i++) again[i] = out[i];
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(again, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    *ret_count = count;
    *ret_stable = composed == 1 && again[0] == (utf8proc_int32_t)c;
    return true;
}

static bool is_late_mark(uint32_t c)
{
    return find(late_marks, sizeof late_marks / sizeof *late_marks, c);
}

uint8_t tc_char_flags_compute(uint32_t c)
{
    utf8proc_int32_t parts[8];
    utf8proc_ssize_t count;
    bool stable;
    uint8_t flags = class_flags(c);
    flags |= case_flags(c, flags);
    if ((c >= 0x3400 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3))
        return flags; // ideographs, Hangul syllables
    bool unsafe = utf8proc_get_property((utf8proc_int32_t)c)->combining_class != 0 ||
                  (decomposes(c, parts, &count, &stable) && !stable);
    return unsafe && !is_late_mark(c) ? flags | TC_CHAR_UNSAFE : flags;
}

static void mark_unsafe(uint32_t first, uint32_t last)
{
    for (uint32_t c = first; c <= last; c++)
        if (!is_late_mark(c)) tc_char_table[c] |= TC_CHAR_UNSAFE;
}

// Whatever stands second or later in a decomposition may join the character before it. No such code point,
// and no composition, exists beyond the table.
static void fill(void)
{
    for (uint32_t c = 0; c < TC_CHAR_TABLE_SIZE; c++) tc_char_table[c] = tc_char_flags_compute(c);
    for (uint32_t c = 0xc0; c < TC_CHAR_TABLE_SIZE; c++) {
        utf8proc_int32_t parts[8];
        utf8proc_ssize_t count;
        bool stable;
        if ((c >= 0x3400 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3)) continue;
        if (!decomposes(c, parts, &count, &stable)) continue;
        for (utf8proc_ssize_t i = 1; i < count; i++)
            if (parts[i] < TC_CHAR_TABLE_SIZE) mark_unsafe((uint32_t)parts[i], (uint32_t)parts[i]);
    }
    mark_unsafe(0x1161, 0x1175); // Hangul vowels and final consonants join the syllable before them
    mark_unsafe(0x11a8, 0x11c2);
}

void tc_unicode_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
}
