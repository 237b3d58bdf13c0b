// SPDX-License-Identifier: Apache-2.0
// Owns: upper and lower case as Python's str has them (full mappings: one letter may become several, and a
// sigma at the end of a word is another one), and the classes of characters behind str.isalpha() and friends.
#include "common/text/template_method.h"
#include "common/text/utf8.h"
#include <string.h>
#include <utf8proc.h>

enum { CASE_CHARS_MAX = 3 };

// Mappings of one character to several, which utf8proc's simple tables do not have.
static const struct {
    uint32_t c, upper[CASE_CHARS_MAX], title[CASE_CHARS_MAX];
} special[] = {
    {0xdf, {0x53, 0x53}, {0x53, 0x73}},
    {0x149, {0x2bc, 0x4e}, {0x2bc, 0x4e}},
    {0x1f0, {0x4a, 0x30c}, {0x4a, 0x30c}},
    {0x390, {0x399, 0x308, 0x301}, {0x399, 0x308, 0x301}},
    {0x3b0, {0x3a5, 0x308, 0x301}, {0x3a5, 0x308, 0x301}},
    {0x587, {0x535, 0x552}, {0x535, 0x582}},
    {0x1e96, {0x48, 0x331}, {0x48, 0x331}},
    {0x1e97, {0x54, 0x308}, {0x54, 0x308}},
    {0x1e98, {0x57, 0x30a}, {0x57, 0x30a}},
    {0x1e99, {0x59, 0x30a}, {0x59, 0x30a}},
    {0x1e9a, {0x41, 0x2be}, {0x41, 0x2be}},
    {0xfb00, {0x46, 0x46}, {0x46, 0x66}},
    {0xfb01, {0x46, 0x49}, {0x46, 0x69}},
    {0xfb02, {0x46, 0x4c}, {0x46, 0x6c}},
    {0xfb03, {0x46, 0x46, 0x49}, {0x46, 0x66, 0x69}},
    {0xfb04, {0x46, 0x46, 0x4c}, {0x46, 0x66, 0x6c}},
    {0xfb05, {0x53, 0x54}, {0x53, 0x74}},
    {0xfb06, {0x53, 0x54}, {0x53, 0x74}},
};

static int upper_of(uint32_t c, bool title, uint32_t out[CASE_CHARS_MAX])
{
    for (size_t i = 0; c >= 0xdf && i < sizeof special / sizeof *special; i++) {
        if (special[i].c != c) continue;
        const uint32_t *to = title ? special[i].title : special[i].upper;
        int n = 0;
        while (n < CASE_CHARS_MAX && to[n]) out[n] = to[n], n++;
        return n;
    }
    out[0] =
        (uint32_t)(title ? utf8proc_totitle((utf8proc_int32_t)c) : utf8proc_toupper((utf8proc_int32_t)c));
    return 1;
}

static bool cased(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           (c >= 0x2160 && c <= 0x217f) || (c >= 0x24b6 && c <= 0x24e9) || c == 0xaa || c == 0xba;
}

static bool case_ignorable(uint32_t c)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' ||
           c == 0xb7 || c == 0x2019 || c == 0x2018 || c == 0x2024 || c == 0x2027;
}

// A capital sigma with a letter before it and none behind it is a final one.
static bool final_sigma(const tc_ts *s, size_t at)
{
    size_t step;
    bool before = false;
    for (size_t i = at; i > 0;) {
        do i--;
        while (i > 0 && (s->data[i] & 0xc0) == 0x80);
        uint32_t c = tc_utf8_get(s->data + i, &step);
        if (case_ignorable(c)) continue;
        before = cased(c);
        break;
    }
    for (size_t i = at + 2; before && i < s->bytes; i += step) {
        uint32_t c = tc_utf8_get(s->data + i, &step);
        if (!case_ignorable(c)) return !cased(c);
    }
    return before;
}

static int lower_of(const tc_ts *s, size_t at, uint32_t c, uint32_t out[CASE_CHARS_MAX])
{
    out[0] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    if (c == 0x3a3) out[0] = final_sigma(s, at) ? 0x3c2 : 0x3c3;
    if (c != 0x130) return 1;
    out[0] = 'i', out[1] = 0x307;
    return 2;
}

static int fold_of(uint32_t c, uint32_t out[CASE_CHARS_MAX])
{
    utf8proc_int32_t folded[8];
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)c, folded, 8, UTF8PROC_CASEFOLD, &boundary);
    if (n < 1 || n > CASE_CHARS_MAX) {
        out[0] = c;
        return 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) out[i] = (uint32_t)folded[i];
    return (int)n;
}

static int map(const tc_ts *s, size_t at, uint32_t c, tc_case how, bool first, uint32_t out[CASE_CHARS_MAX])
{
    switch (how) {
    case TC_CASE_UPPER:
        return upper_of(c, false, out);
    case TC_CASE_FOLD:
        return fold_of(c, out);
    case TC_CASE_TITLE:
    case TC_CASE_CAPITALIZE:
        return first ? upper_of(c, true, out) : lower_of(s, at, c, out);
    case TC_CASE_SWAP:
        if (utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU) return lower_of(s, at, c, out);
        if (utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LL) return upper_of(c, false, out);
        out[0] = c;
        return 1;
    case TC_CASE_LOWER:
    default:
        return lower_of(s, at, c, out);
    }
}

tc_tv tc_str_case(tc_tr *r, const tc_ts *s, tc_case how)
{
    tc_tsb b = {0};
    bool after_letter = false;
    if (!tc_tsb_reserve(r, &b, s->bytes) || !tc_tr_work(r, s->bytes / 8)) return TC_TV_OF(TC_TV_ERROR);
    for (size_t at = 0, step; at < s->bytes; at += step) {
        uint32_t c = tc_utf8_get(s->data + at, &step), out[CASE_CHARS_MAX];
        uint8_t origin = s->origin == TC_ORIGIN_MIXED ? s->marks[at] : s->origin;
        bool first = how == TC_CASE_TITLE ? !after_letter : at == 0;
        int n = map(s, at, c, how, first, out);
        for (int i = 0; i < n; i++)
            if (!tc_tsb_char(r, &b, out[i], origin ? TC_ORIGIN_DATA : TC_ORIGIN_TEMPLATE))
                return TC_TV_OF(TC_TV_ERROR);
        if (how == TC_CASE_TITLE) after_letter = cased(c);
    }
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), s->markup);
}

// ---- classes
// -----------------------------------------------------------------------------------------------

static bool is_letter(utf8proc_category_t k)
{
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO;
}

// Characters that are digits to Python without being decimal: superscripts, circled digits and their like.
static bool other_digit(uint32_t c)
{
    return c == 0xb2 || c == 0xb3 || c == 0xb9 || (c >= 0x1369 && c <= 0x1371) || c == 0x19da ||
           c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
           (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247c) || (c >= 0x2488 && c <= 0x2490) ||
           c == 0x24ea || (c >= 0x24f5 && c <= 0x24fd) || c == 0x24ff || (c >= 0x2776 && c <= 0x277e) ||
           (c >= 0x2780 && c <= 0x2788) || (c >= 0x278a && c <= 0x2792);
}

static bool char_is(uint32_t c, int method, bool first)
{
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    bool decimal = k == UTF8PROC_CATEGORY_ND, digit = decimal || other_digit(c);
    bool numeric = digit || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
    switch (method) {
    case TC_METHOD_isalpha:
        return is_letter(k);
    case TC_METHOD_isdecimal:
        return decimal;
    case TC_METHOD_isdigit:
        return digit;
    case TC_METHOD_isnumeric:
        return numeric;
    case TC_METHOD_isalnum:
        return is_letter(k) || numeric;
    case TC_METHOD_isspace:
        return tc_py_space(c);
    case TC_METHOD_isprintable:
        return tc_py_printable(c);
    case TC_METHOD_isascii:
        return c < 0x80;
    case TC_METHOD_isidentifier:
    default:
        return c == '_' || is_letter(k) || k == UTF8PROC_CATEGORY_NL ||
               (!first && (decimal || k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC ||
                           k == UTF8PROC_CATEGORY_PC));
    }
}

// islower, isupper, istitle: about the letters that have a case; at least one is needed.
static bool case_is(const tc_ts *s, int method)
{
    bool any = false, after = false;
    for (size_t at = 0, step; at < s->bytes; at += step) {
        uint32_t c = tc_utf8_get(s->data + at, &step);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        bool upper = k == UTF8PROC_CATEGORY_LU, title = k == UTF8PROC_CATEGORY_LT;
        bool lower = k == UTF8PROC_CATEGORY_LL || c == 0xaa || c == 0xba;
        if (method == TC_METHOD_islower && (upper || title)) return false;
        if (method == TC_METHOD_isupper && (lower || title)) return false;
        if (method == TC_METHOD_istitle && ((upper || title) ? after : lower && !after)) return false;
        if (upper || title || lower) any = true;
        after = upper || title || lower;
    }
    return any;
}

bool tc_str_is(const tc_ts *s, int method)
{
    if (method == TC_METHOD_islower || method == TC_METHOD_isupper || method == TC_METHOD_istitle)
        return case_is(s, method);
    if (s->bytes == 0) return method == TC_METHOD_isascii || method == TC_METHOD_isprintable;
    for (size_t at = 0, step; at < s->bytes; at += step)
        if (!char_is(tc_utf8_get(s->data + at, &step), method, at == 0)) return false;
    return true;
}
