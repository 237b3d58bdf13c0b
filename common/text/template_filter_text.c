// SPDX-License-Identifier: Apache-2.0
// Owns: the filters about text: case, trimming, indenting, cutting, wrapping, escaping.
#include "common/text/template_filter.h"
#include "common/text/template_method.h"
#include "common/text/utf8.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

static tc_tv failed(void)
{
    return TC_TV_OF(TC_TV_ERROR);
}

static bool given(tc_tv v)
{
    return v.kind != TC_TV_MISSING && v.kind != TC_TV_NONE;
}

static tc_tv cased(tc_tr *r, tc_tv v, tc_case how)
{
    v = tc_tv_to_str(r, v);
    return TC_TV_FAILED(v) ? v : tc_str_case(r, v.s, how);
}

tc_tv tc_filter_upper(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    return cased(r, v, TC_CASE_UPPER);
}

tc_tv tc_filter_lower(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    return cased(r, v, TC_CASE_LOWER);
}

tc_tv tc_filter_capitalize(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    return cased(r, v, TC_CASE_CAPITALIZE);
}

tc_tv tc_filter_string(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    return tc_tv_to_str(r, v);
}

tc_tv tc_filter_safe(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    v = tc_tv_to_str(r, v);
    return TC_TV_FAILED(v) ? v : tc_tv_as_markup(r, v, true);
}

tc_tv tc_filter_escape(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    return tc_tv_escape(r, v);
}

tc_tv tc_filter_forceescape(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    v = tc_tv_to_str(r, v);
    if (!TC_TV_FAILED(v)) v = tc_tv_as_markup(r, v, false);
    return TC_TV_FAILED(v) ? v : tc_tv_escape(r, v);
}

tc_tv tc_filter_trim(tc_tr *r, tc_tv v, tc_tv *p)
{
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v)) return v;
    if (given(p[0]) && p[0].kind != TC_TV_STR)
        return tc_tr_fail(r, "TypeError", "strip arg must be None or str");
    return tc_str_strip(r, v.s, given(p[0]) ? p[0].s : NULL, true, true);
}

tc_tv tc_filter_replace(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t count = -1;
    if (given(p[2]) && !tc_tv_index(r, p[2], &count)) return failed();
    v = tc_tv_to_str(r, v);
    p[0] = tc_tv_to_str(r, p[0]);
    p[1] = tc_tv_to_str(r, p[1]);
    if (r->failed) return failed();
    return tc_tv_as_markup(r, tc_str_replace(r, v.s, p[0].s, p[1].s, count), false);
}

tc_tv tc_filter_center(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t width = 80;
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v) || (p[0].kind != TC_TV_MISSING && !tc_tv_index(r, p[0], &width))) return failed();
    return tc_str_pad(r, v.s, width, &r->ascii[' '], '^');
}

// Words begin after blanks and ( { [ < -.
tc_tv tc_filter_title(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tsb b = {0};
    size_t from = 0, step = 0;
    (void)p;
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v)) return v;
    const tc_ts *s = v.s;
    for (size_t at = 0; at <= s->bytes; at += step) {
        uint32_t c = at < s->bytes ? tc_utf8_get(s->data + at, &step) : 0;
        if (at < s->bytes && !tc_py_space(c) && !(c && strchr("-({[<", c < 0x80 ? (int)c : 'x'))) continue;
        if (at > from) {
            tc_tv word = tc_tv_substr(r, s, from, at);
            size_t first = 0;
            if (TC_TV_FAILED(word)) return word;
            tc_utf8_get(word.s->data, &first);
            tc_tv head = tc_tv_substr(r, word.s, 0, first),
                  tail = tc_tv_substr(r, word.s, first, word.s->bytes);
            if (TC_TV_FAILED(head) || TC_TV_FAILED(tail)) return failed();
            head = tc_str_case(r, head.s, TC_CASE_UPPER);
            tail = tc_str_case(r, tail.s, TC_CASE_LOWER);
            if (TC_TV_FAILED(head) || TC_TV_FAILED(tail) || !tc_tsb_str(r, &b, head.s) ||
                !tc_tsb_str(r, &b, tail.s))
                return failed();
        }
        if (at == s->bytes) break;
        if (!tc_tsb_substr(r, &b, s, at, at + step)) return failed();
        from = at + step;
    }
    return tc_tsb_take(r, &b);
}

tc_tv tc_filter_indent(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tsb b = {0};
    tc_tv by = p[0];
    bool first = tc_tv_truth(p[1]), blank = tc_tv_truth(p[2]);
    if (by.kind != TC_TV_STR) {
        int64_t width = 4;
        if (by.kind != TC_TV_MISSING && !tc_tv_index(r, by, &width)) return failed();
        by = tc_tv_binary(r, '*', tc_tv_of_str(&r->ascii[' ']), tc_tv_int(width));
    }
    if (v.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, v);
    if (v.kind != TC_TV_STR)
        return tc_tr_fail(r, "TypeError", "indent: unsupported operand type '%s'", tc_tv_type(v));
    tc_tv with_end = TC_TV_FAILED(by) ? by : tc_tv_concat(r, v.s, &r->ascii['\n']);
    tc_tv lines = TC_TV_FAILED(with_end) ? with_end : tc_str_splitlines(r, with_end.s, false);
    if (TC_TV_FAILED(lines)) return failed();
    for (size_t i = 0; i < lines.l->count; i++) {
        const tc_ts *line = lines.l->items[i].s;
        bool indented = i == 0 ? first : blank || line->bytes;
        if ((i && !tc_tsb_text(r, &b, "\n")) || (indented && !tc_tsb_str(r, &b, by.s)) ||
            !tc_tsb_str(r, &b, line))
            return failed();
    }
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), v.s->markup);
}

static bool size_argument(tc_tr *r, tc_tv v, int64_t otherwise, int64_t *ret)
{
    *ret = otherwise;
    return !given(v) || tc_tv_index(r, v, ret);
}

tc_tv tc_filter_truncate(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t length, leeway;
    tc_tv end = p[2].kind == TC_TV_MISSING ? tc_tv_text(r, "...") : p[2];
    if (!size_argument(r, p[0], 255, &length) || !size_argument(r, p[3], 5, &leeway) || TC_TV_FAILED(end))
        return failed();
    if (end.kind != TC_TV_STR) return tc_tr_fail(r, "TypeError", "truncate: end must be str");
    int64_t keep = length - (int64_t)tc_ts_chars(end.s);
    if (keep < 0 || leeway < 0)
        return tc_tr_fail(r, "AssertionError", "truncate: length or leeway is too small");
    tc_tv size = tc_tv_length(r, v);
    if (TC_TV_FAILED(size) || size.i <= length || size.i - length <= leeway)
        return TC_TV_FAILED(size) ? size : v;
    if (v.kind != TC_TV_STR) return tc_tr_fail(r, "TypeError", "truncate: not a string");
    size_t to = tc_ts_offset(v.s, (size_t)keep);
    const uint8_t *blank = tc_tv_truth(p[1]) ? NULL : memrchr(v.s->data, ' ', to);
    if (blank) to = (size_t)(blank - v.s->data);
    tc_tv head = tc_tv_substr(r, v.s, 0, to);
    return TC_TV_FAILED(head) ? head : tc_tv_binary(r, '+', head, end);
}

static bool word_char(uint32_t c)
{
    if (c < 0x80) return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT ||
           k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_LO || k == UTF8PROC_CATEGORY_ND ||
           k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

tc_tv tc_filter_wordcount(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t words = 0;
    bool inside = false;
    (void)p;
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v)) return v;
    for (size_t at = 0, step; at < v.s->bytes; at += step) {
        bool is = word_char(tc_utf8_get(v.s->data + at, &step));
        words += is && !inside;
        inside = is;
    }
    return tc_tv_int(words);
}

// ---- wordwrap: Python's textwrap on each line
// --------------------------------------------------------------

typedef struct wrapper {
    int64_t width;
    bool break_long, break_hyphens;
    const tc_ts *text; // one line
    const tc_ts *between;
    tc_tsb *out;
    bool any; // a line has been written
} wrapper;

// End of the piece at `at`: blanks, or a word, which may end after a hyphen between letters.
static size_t piece_end(const wrapper *w, size_t at)
{
    const uint8_t *p = w->text->data;
    size_t end = w->text->bytes, from = at;
    bool blank = p[at] == ' ' || p[at] == '\t';
    while (at < end && (p[at] == ' ' || p[at] == '\t') == blank) {
        at++;
        if (blank || !w->break_hyphens || p[at - 1] != '-' || at - 1 <= from || at >= end) continue;
        bool letters = at >= from + 2 && word_char(p[at - 2]) && !(p[at - 2] >= '0' && p[at - 2] <= '9') &&
                       word_char(p[at]) && !(p[at] >= '0' && p[at] <= '9');
        bool two = at + 1 < end && word_char(p[at + 1]);
        if (letters && two && at - from >= 3) break;
    }
    return at;
}

static int64_t width_of(const wrapper *w, size_t from, size_t to)
{
    int64_t n = 0;
    for (; from < to; from++) n += (w->text->data[from] & 0xc0) != 0x80;
    return n;
}

static bool put_line(tc_tr *r, wrapper *w, size_t from, size_t to)
{
    while (to > from && (w->text->data[to - 1] == ' ' || w->text->data[to - 1] == '\t')) to--;
    if (to == from) return true;
    bool ok = (!w->any || tc_tsb_str(r, w->out, w->between)) && tc_tsb_substr(r, w->out, w->text, from, to);
    w->any = true;
    return ok;
}

static bool wrap_line(tc_tr *r, wrapper *w)
{
    size_t from = 0, at = 0, end = w->text->bytes;
    int64_t used = 0;
    while (at < end) {
        size_t to = piece_end(w, at);
        int64_t width = width_of(w, at, to);
        bool blank = w->text->data[at] == ' ' || w->text->data[at] == '\t';
        if (!tc_tr_work(r, 1)) return false;
        if (blank && at == from && w->any) { // a line does not begin with blanks
            from = at = to;
            continue;
        }
        if (used + width <= w->width) {
            used += width, at = to;
            continue;
        }
        if (width > w->width && w->break_long) {
            int64_t room = w->width - used > 0 ? w->width - used : 0;
            if (used == 0 && room == 0) room = 1;
            for (size_t step; room > 0 && at < to; room--) {
                tc_utf8_get(w->text->data + at, &step);
                at += step;
            }
        } else if (used == 0) {
            at = to; // too long, but whole
        }
        if (!put_line(r, w, from, at)) return false;
        from = at, used = 0;
    }
    return put_line(r, w, from, end);
}

tc_tv tc_filter_wordwrap(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tsb b = {0};
    int64_t width;
    tc_tv between = given(p[2]) ? p[2] : tc_tv_of_str(&r->ascii['\n']);
    if (!size_argument(r, p[0], 79, &width)) return failed();
    if (v.kind != TC_TV_STR || between.kind != TC_TV_STR)
        return tc_tr_fail(r, "TypeError", "wordwrap: not a string");
    if (width <= 0) return tc_tr_fail(r, "ValueError", "invalid width (must be > 0)");
    tc_tv lines = tc_str_splitlines(r, v.s, false);
    if (TC_TV_FAILED(lines)) return lines;
    for (size_t i = 0; i < lines.l->count; i++) {
        wrapper w = {.width = width,
                     .break_long = p[1].kind == TC_TV_MISSING || tc_tv_truth(p[1]),
                     .break_hyphens = p[3].kind == TC_TV_MISSING || tc_tv_truth(p[3]),
                     .text = lines.l->items[i].s,
                     .between = between.s,
                     .out = &b};
        if ((i && !tc_tsb_str(r, &b, between.s)) || !wrap_line(r, &w)) return failed();
    }
    return tc_tsb_take(r, &b);
}

// ---- markup
// ------------------------------------------------------------------------------------------------

// Removes comments and tags, joins what is left by single blanks, and turns entities back.
tc_tv tc_filter_striptags(tc_tr *r, tc_tv v, tc_tv *p)
{
    static const struct {
        const char *entity, *text;
    } entities[] = {{"&amp;", "&"},  {"&lt;", "<"},    {"&gt;", ">"},  {"&#39;", "'"},
                    {"&#34;", "\""}, {"&quot;", "\""}, {"&apos;", "'"}};
    tc_tsb b = {0};
    (void)p;
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v)) return v;
    const tc_ts *s = v.s;
    bool space = false;
    for (size_t at = 0, step; at < s->bytes; at += step) {
        uint32_t c = tc_utf8_get(s->data + at, &step);
        const uint8_t *end = NULL;
        if (c == '<' && s->bytes - at >= 4 && !memcmp(s->data + at, "<!--", 4)) {
            end = memmem(s->data + at, s->bytes - at, "-->", 3);
            if (end) end += 2;
        } else if (c == '<') {
            end = memchr(s->data + at, '>', s->bytes - at);
        }
        if (end) {
            step = (size_t)(end - (s->data + at)) + 1;
            continue;
        }
        if (tc_py_space(c)) {
            space = true;
            continue;
        }
        if (space && b.bytes && !tc_tsb_text(r, &b, " ")) return failed();
        space = false;
        const char *text = NULL;
        for (size_t i = 0; c == '&' && i < sizeof entities / sizeof *entities; i++)
            if (s->bytes - at >= strlen(entities[i].entity) &&
                !memcmp(s->data + at, entities[i].entity, strlen(entities[i].entity)))
                text = entities[i].text, step = strlen(entities[i].entity);
        // What was written as an entity came from where the text came from.
        if (text ? !tc_tsb_put(r, &b, text, 1,
                               s->origin == TC_ORIGIN_TEMPLATE ? TC_ORIGIN_TEMPLATE : TC_ORIGIN_DATA)
                 : !tc_tsb_substr(r, &b, s, at, at + step))
            return failed();
    }
    return tc_tsb_take(r, &b);
}

static bool url_quote(tc_tr *r, tc_tsb *b, tc_tv v, bool query)
{
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v)) return false;
    for (size_t i = 0; i < v.s->bytes; i++) {
        uint8_t c = v.s->data[i];
        bool plain = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' ||
                     c == '.' || c == '-' || c == '~' || (c == '/' && !query);
        bool ok = plain               ? tc_tsb_substr(r, b, v.s, i, i + 1)
                  : query && c == ' ' ? tc_tsb_text(r, b, "+")
                                      : tc_tsb_format(r, b, "%%%02X", c);
        if (!ok) return false;
    }
    return true;
}

tc_tv tc_filter_urlencode(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tsb b = {0};
    tc_titer it;
    tc_tv item;
    (void)p;
    if (v.kind == TC_TV_STR || !tc_tv_iterable(v))
        return url_quote(r, &b, v, false) ? tc_tsb_take(r, &b) : failed();
    if (v.kind == TC_TV_DICT) v.kind = TC_TV_VIEW, v.sub = 'i';
    if (!tc_titer_begin(r, v, &it)) return failed();
    for (size_t i = 0; tc_titer_next(r, &it, &item); i++) {
        tc_tlb pair = {0};
        if (!tc_tv_collect(r, item, &pair)) return failed();
        if (pair.count != 2) return tc_tr_fail(r, "ValueError", "urlencode needs pairs");
        if ((i && !tc_tsb_text(r, &b, "&")) || !url_quote(r, &b, pair.items[0], true) ||
            !tc_tsb_text(r, &b, "=") || !url_quote(r, &b, pair.items[1], true))
            return failed();
    }
    return r->failed ? failed() : tc_tsb_take(r, &b);
}

tc_tv tc_filter_xmlattr(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tsb b = {0};
    bool space = p[0].kind == TC_TV_MISSING || tc_tv_truth(p[0]);
    if (v.kind != TC_TV_DICT) return tc_tr_fail(r, "AttributeError", "xmlattr needs a dict");
    for (uint32_t i = 0; i < v.d->count; i++) {
        const tc_tentry *e = &v.d->entries[i];
        if (e->value.kind == TC_TV_NONE || e->value.kind == TC_TV_UNDEFINED) continue;
        if (e->key.kind != TC_TV_STR)
            return tc_tr_fail(r, "TypeError", "expected string or bytes-like object");
        for (size_t k = 0; k < e->key.s->bytes; k++)
            if (memchr(" \t\n\r\f\v/>=", e->key.s->data[k], 9))
                return tc_tr_fail(r, "ValueError", "Invalid character in attribute name");
        tc_tv key = tc_tv_escape(r, e->key), value = tc_tv_escape(r, e->value);
        if (TC_TV_FAILED(key) || TC_TV_FAILED(value)) return failed();
        if (((b.bytes || space) && !tc_tsb_text(r, &b, " ")) || !tc_tsb_str(r, &b, key.s) ||
            !tc_tsb_text(r, &b, "=\"") || !tc_tsb_str(r, &b, value.s) || !tc_tsb_text(r, &b, "\""))
            return failed();
    }
    return tc_tsb_take(r, &b);
}

tc_tv tc_filter_filesizeformat(tc_tr *r, tc_tv v, tc_tv *p)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
    bool binary = tc_tv_truth(p[0]);
    double base = binary ? 1024 : 1000, unit = base;
    char text[64];
    if (!tc_tv_is_number(v)) return tc_tr_fail(r, "TypeError", "filesizeformat: not a number");
    double bytes = tc_tv_number(v);
    if (bytes == 1) return tc_tv_text(r, "1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(bytes));
        return tc_tv_text(r, text);
    }
    size_t i = 0;
    for (unit = base * base; i + 1 < sizeof units / sizeof *units && bytes >= unit; i++) unit *= base;
    snprintf(text, sizeof text, binary ? "%.1f %ciB" : "%.1f %cB", base * bytes / unit,
             binary && units[i][0] == 'k' ? 'K' : units[i][0]);
    return tc_tv_text(r, text);
}
