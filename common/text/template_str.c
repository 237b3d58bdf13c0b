// SPDX-License-Identifier: Apache-2.0
// Owns: Python's str methods. Positions are code points outside and bytes inside; every piece keeps knowing
// which of its bytes are data.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include "common/text/utf8.h"
#include <string.h>

static tc_tv failed(void)
{
    return TC_TV_OF(TC_TV_ERROR);
}

static bool want_str(tc_tr *r, tc_tv v, const char *what)
{
    if (v.kind == TC_TV_STR) return true;
    tc_tr_fail(r, "TypeError", "%s must be str, not %s", what, tc_tv_type(v));
    return false;
}

static size_t before(const tc_ts *s, size_t at)
{
    do at--;
    while (at > 0 && (s->data[at] & 0xc0) == 0x80);
    return at;
}

// ---- strip
// -------------------------------------------------------------------------------------------------

static bool in_chars(const tc_ts *chars, uint32_t c)
{
    if (!chars) return tc_py_space(c);
    for (size_t at = 0, step; at < chars->bytes; at += step)
        if (tc_utf8_get(chars->data + at, &step) == c) return true;
    return false;
}

tc_tv tc_str_strip(tc_tr *r, const tc_ts *s, const tc_ts *chars, bool left, bool right)
{
    size_t from = 0, to = s->bytes, step;
    size_t each = chars ? chars->bytes / 8 + 1 : 1;
    while (left && from < to && in_chars(chars, tc_utf8_get(s->data + from, &step)) && tc_tr_work(r, each))
        from += step;
    while (right && to > from && in_chars(chars, tc_utf8_get(s->data + before(s, to), &step)) &&
           tc_tr_work(r, each))
        to = before(s, to);
    return r->failed ? failed() : tc_tv_substr(r, s, from, to);
}

static tc_tv strip(tc_tr *r, const tc_ts *s, tc_targs *args, bool left, bool right)
{
    tc_tv chars;
    if (!tc_args_bind(r, "strip", args, "chars=,", &chars)) return failed();
    bool given = chars.kind != TC_TV_MISSING && chars.kind != TC_TV_NONE;
    if (given && !want_str(r, chars, "strip arg")) return failed();
    return tc_str_strip(r, s, given ? chars.s : NULL, left, right);
}

// ---- split and join
// ----------------------------------------------------------------------------------------

static bool push_part(tc_tr *r, tc_tlb *b, const tc_ts *s, size_t from, size_t to)
{
    tc_tv v = tc_tv_substr(r, s, from, to);
    return !TC_TV_FAILED(v) && tc_tlb_push(r, b, v);
}

static bool split_space(tc_tr *r, const tc_ts *s, int64_t max, tc_tlb *b)
{
    size_t at = 0, step;
    for (;;) {
        while (at < s->bytes && tc_py_space(tc_utf8_get(s->data + at, &step))) at += step;
        if (at == s->bytes) return true;
        size_t from = at;
        if (max-- == 0) return push_part(r, b, s, from, s->bytes);
        while (at < s->bytes && !tc_py_space(tc_utf8_get(s->data + at, &step))) at += step;
        if (!push_part(r, b, s, from, at)) return false;
    }
}

static void turn_around(tc_tlb *b)
{
    for (size_t i = 0; i + 1 < b->count - i; i++) {
        tc_tv v = b->items[i];
        b->items[i] = b->items[b->count - 1 - i];
        b->items[b->count - 1 - i] = v;
    }
}

static bool rsplit_space(tc_tr *r, const tc_ts *s, int64_t max, tc_tlb *b)
{
    size_t at = s->bytes, step;
    for (;;) {
        while (at > 0 && tc_py_space(tc_utf8_get(s->data + before(s, at), &step))) at = before(s, at);
        if (at == 0) return true;
        size_t to = at;
        if (max-- == 0) return push_part(r, b, s, 0, to);
        while (at > 0 && !tc_py_space(tc_utf8_get(s->data + before(s, at), &step))) at = before(s, at);
        if (!push_part(r, b, s, at, to)) return false;
    }
}

static int64_t find_last(const tc_ts *s, size_t from, size_t to, const tc_ts *what)
{
    if (from > to || what->bytes > to - from) return -1;
    for (size_t at = to - what->bytes + 1; at-- > from;)
        if (!memcmp(s->data + at, what->data, what->bytes)) return (int64_t)at;
    return -1;
}

static bool split_by(tc_tr *r, const tc_ts *s, const tc_ts *by, int64_t max, bool last, tc_tlb *b)
{
    size_t from = 0, to = s->bytes;
    while (max-- != 0) {
        int64_t at = last ? find_last(s, 0, to, by) : tc_ts_find(s, from, to, by);
        if (at < 0) break;
        if (last ? !push_part(r, b, s, (size_t)at + by->bytes, to) : !push_part(r, b, s, from, (size_t)at))
            return false;
        *(last ? &to : &from) = (size_t)at + (last ? 0 : by->bytes);
    }
    return push_part(r, b, s, from, to);
}

static tc_tv split(tc_tr *r, const tc_ts *s, tc_targs *args, bool last)
{
    tc_tv p[2];
    int64_t max = -1;
    tc_tlb b = {0};
    if (!tc_args_bind(r, "split", args, "sep=,maxsplit=,", p)) return failed();
    if (p[1].kind != TC_TV_MISSING && !tc_tv_index(r, p[1], &max)) return failed();
    bool by_space = p[0].kind == TC_TV_MISSING || p[0].kind == TC_TV_NONE, ok;
    if (max < 0) max = -1;
    if (!tc_tr_work(r, s->bytes / 16)) return failed();
    if (by_space) {
        ok = last ? rsplit_space(r, s, max, &b) : split_space(r, s, max, &b);
    } else {
        if (!want_str(r, p[0], "separator")) return failed();
        if (p[0].s->bytes == 0) return tc_tr_fail(r, "ValueError", "empty separator");
        ok = split_by(r, s, p[0].s, max, last, &b);
    }
    if (!ok) return failed();
    if (last && b.count) turn_around(&b);
    return tc_tlb_take(r, &b, TC_TV_LIST);
}

static bool line_break(uint32_t c)
{
    return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

tc_tv tc_str_splitlines(tc_tr *r, const tc_ts *s, bool keep)
{
    tc_tlb b = {0};
    size_t from = 0;
    for (size_t at = 0, step; at < s->bytes; at += step) {
        uint32_t c = tc_utf8_get(s->data + at, &step);
        if (!line_break(c)) continue;
        if (c == '\r' && at + 1 < s->bytes && s->data[at + 1] == '\n') step = 2;
        if (!push_part(r, &b, s, from, keep ? at + step : at)) return failed();
        from = at + step;
    }
    if (from < s->bytes && !push_part(r, &b, s, from, s->bytes)) return failed();
    return tc_tlb_take(r, &b, TC_TV_LIST);
}

static tc_tv partition(tc_tr *r, const tc_ts *s, tc_targs *args, bool last)
{
    tc_tv by;
    tc_tlb b = {0};
    if (!tc_args_bind(r, "partition", args, "sep,", &by) || !want_str(r, by, "separator")) return failed();
    if (by.s->bytes == 0) return tc_tr_fail(r, "ValueError", "empty separator");
    int64_t found = last ? find_last(s, 0, s->bytes, by.s) : tc_ts_find(s, 0, s->bytes, by.s);
    size_t at = found < 0 ? (last ? 0 : s->bytes) : (size_t)found, end = found < 0 ? at : at + by.s->bytes;
    if (!push_part(r, &b, s, 0, at) || !push_part(r, &b, s, at, end) || !push_part(r, &b, s, end, s->bytes))
        return failed();
    return tc_tlb_take(r, &b, TC_TV_TUPLE);
}

tc_tv tc_str_join(tc_tr *r, const tc_ts *between, tc_tv items, bool convert)
{
    tc_titer it;
    tc_tv item;
    tc_tsb b = {0};
    if (!tc_titer_begin(r, items, &it)) return failed();
    for (size_t i = 0; tc_titer_next(r, &it, &item); i++) {
        if (!convert && item.kind != TC_TV_STR)
            return tc_tr_fail(r, "TypeError", "sequence item %zu: expected str instance, %s found", i,
                              tc_tv_type(item));
        if ((i && !tc_tsb_str(r, &b, between)) || !tc_tv_print(r, &b, item)) return failed();
    }
    return r->failed ? failed() : tc_tsb_take(r, &b);
}

// ---- search
// ------------------------------------------------------------------------------------------------

// The range of bytes that start and end (may be missing) name, as slices do. False: nothing can be there.
static bool window(tc_tr *r, const tc_ts *s, tc_tv start, tc_tv end, size_t *from, size_t *to)
{
    int64_t count = (int64_t)tc_ts_chars(s), a = 0, b = count;
    if (start.kind != TC_TV_MISSING && start.kind != TC_TV_NONE && !tc_tv_index(r, start, &a)) return false;
    if (end.kind != TC_TV_MISSING && end.kind != TC_TV_NONE && !tc_tv_index(r, end, &b)) return false;
    if (a < 0) a = a + count < 0 ? 0 : a + count;
    if (b < 0) b = b + count < 0 ? 0 : b + count;
    if (b > count) b = count;
    if (a > b) return false;
    *from = tc_ts_offset(s, (size_t)a);
    *to = tc_ts_offset(s, (size_t)b);
    return true;
}

static tc_tv find(tc_tr *r, const tc_ts *s, tc_targs *args, bool last, bool must)
{
    tc_tv p[3];
    size_t from, to;
    int64_t at = -1;
    if (!tc_args_bind(r, "find", args, "sub,start=,end=,", p) || !want_str(r, p[0], "argument 1"))
        return failed();
    if (!tc_tr_work(r, s->bytes / 16)) return failed();
    if (window(r, s, p[1], p[2], &from, &to))
        at = last ? find_last(s, from, to, p[0].s) : tc_ts_find(s, from, to, p[0].s);
    if (r->failed) return failed();
    if (at < 0 && must) return tc_tr_fail(r, "ValueError", "substring not found");
    for (int64_t i = at; i-- > 0;) at -= (s->data[i] & 0xc0) == 0x80; // bytes to characters
    return tc_tv_int(at);
}

static tc_tv count(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    tc_tv p[3];
    size_t from, to;
    int64_t n = 0;
    if (!tc_args_bind(r, "count", args, "sub,start=,end=,", p) || !want_str(r, p[0], "argument 1"))
        return failed();
    if (!tc_tr_work(r, s->bytes / 16)) return failed();
    if (!window(r, s, p[1], p[2], &from, &to)) return r->failed ? failed() : tc_tv_int(0);
    if (p[0].s->bytes == 0) {
        for (n = 1; from < to; from++) n += (s->data[from] & 0xc0) != 0x80;
        return tc_tv_int(n);
    }
    for (int64_t at; (at = tc_ts_find(s, from, to, p[0].s)) >= 0; n++) from = (size_t)at + p[0].s->bytes;
    return tc_tv_int(n);
}

static bool has_affix(const tc_ts *s, size_t from, size_t to, const tc_ts *affix, bool end)
{
    if (to - from < affix->bytes) return false;
    return !memcmp(s->data + (end ? to - affix->bytes : from), affix->data, affix->bytes);
}

static tc_tv affix(tc_tr *r, const tc_ts *s, tc_targs *args, bool end)
{
    tc_tv p[3];
    size_t from = 0, to = 0;
    const char *name = end ? "endswith" : "startswith";
    if (!tc_args_bind(r, name, args, "prefix,start=,end=,", p)) return failed();
    bool many = p[0].kind == TC_TV_TUPLE;
    size_t n = many ? p[0].l->count : 1;
    bool possible = window(r, s, p[1], p[2], &from, &to);
    if (r->failed) return failed();
    for (size_t i = 0; i < n; i++) {
        tc_tv each = many ? p[0].l->items[i] : p[0];
        if (each.kind != TC_TV_STR)
            return tc_tr_fail(r, "TypeError", "%s first arg must be str or a tuple of str, not %s", name,
                              tc_tv_type(each));
        if (possible && has_affix(s, from, to, each.s, end)) return tc_tv_bool(true);
    }
    return tc_tv_bool(false);
}

static tc_tv remove_affix(tc_tr *r, const tc_ts *s, tc_targs *args, bool end)
{
    tc_tv p;
    if (!tc_args_bind(r, "removeprefix", args, "prefix,", &p) || !want_str(r, p, "argument")) return failed();
    if (!has_affix(s, 0, s->bytes, p.s, end)) return tc_tv_of_str(s);
    return end ? tc_tv_substr(r, s, 0, s->bytes - p.s->bytes) : tc_tv_substr(r, s, p.s->bytes, s->bytes);
}

// ---- changes
// -----------------------------------------------------------------------------------------------

// Python puts the new text between all characters when the old one is empty.
static tc_tv insert_everywhere(tc_tr *r, const tc_ts *s, const tc_ts *to, int64_t max)
{
    tc_tsb b = {0};
    size_t at = 0, step;
    for (; max != 0; max--) {
        if (!tc_tsb_str(r, &b, to)) return failed();
        if (at == s->bytes) break;
        tc_utf8_get(s->data + at, &step);
        if (!tc_tsb_substr(r, &b, s, at, at + step)) return failed();
        at += step;
    }
    return tc_tsb_substr(r, &b, s, at, s->bytes) ? tc_tsb_take(r, &b) : failed();
}

tc_tv tc_str_replace(tc_tr *r, const tc_ts *s, const tc_ts *from, const tc_ts *to, int64_t max)
{
    tc_tsb b = {0};
    size_t run = 0;
    if (max < 0) max = -1;
    if (!tc_tr_work(r, s->bytes / 16)) return failed();
    if (from->bytes == 0) return insert_everywhere(r, s, to, max);
    for (int64_t at; max != 0 && (at = tc_ts_find(s, run, s->bytes, from)) >= 0; max--) {
        if (!tc_tr_work(r, 1) || !tc_tsb_substr(r, &b, s, run, (size_t)at) || !tc_tsb_str(r, &b, to))
            return failed();
        run = (size_t)at + from->bytes;
    }
    if (run == 0) return tc_tv_of_str(s);
    return tc_tsb_substr(r, &b, s, run, s->bytes) ? tc_tsb_take(r, &b) : failed();
}

static tc_tv replace(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    tc_tv p[3];
    int64_t max = -1;
    if (!tc_args_bind(r, "replace", args, "old,new,count=,", p) || !want_str(r, p[0], "argument 1") ||
        !want_str(r, p[1], "argument 2"))
        return failed();
    if (p[2].kind != TC_TV_MISSING && !tc_tv_index(r, p[2], &max)) return failed();
    if (s->markup) {
        p[0] = tc_tv_escape(r, p[0]), p[1] = tc_tv_escape(r, p[1]);
        if (r->failed) return failed();
    }
    return tc_tv_as_markup(r, tc_str_replace(r, s, p[0].s, p[1].s, max), s->markup);
}

static bool fill_in(tc_tr *r, tc_tsb *b, const tc_ts *fill, int64_t times)
{
    for (; times > 0; times--)
        if (!tc_tr_work(r, 1) || !tc_tsb_str(r, b, fill)) return false;
    return true;
}

tc_tv tc_str_pad(tc_tr *r, const tc_ts *s, int64_t width, const tc_ts *fill, char where)
{
    tc_tsb b = {0};
    int64_t have = (int64_t)tc_ts_chars(s);
    if (width <= have) return tc_tv_of_str(s);
    int64_t more = width - have;
    int64_t left = where == '<' ? 0 : where == '>' ? more : more / 2 + (more & width & 1);
    if (!fill_in(r, &b, fill, left) || !tc_tsb_str(r, &b, s) || !fill_in(r, &b, fill, more - left))
        return failed();
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), s->markup);
}

static tc_tv pad(tc_tr *r, const tc_ts *s, tc_targs *args, char where)
{
    tc_tv p[2];
    int64_t width;
    if (!tc_args_bind(r, "center", args, "width,fillchar=,", p) || !tc_tv_index(r, p[0], &width))
        return failed();
    const tc_ts *fill = &r->ascii[' '];
    if (p[1].kind != TC_TV_MISSING) {
        if (!want_str(r, p[1], "the fill character")) return failed();
        if (tc_ts_chars(p[1].s) != 1)
            return tc_tr_fail(r, "TypeError", "The fill character must be exactly one character long");
        fill = p[1].s;
    }
    return tc_str_pad(r, s, width, fill, where);
}

static tc_tv zfill(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    tc_tv p;
    int64_t width;
    tc_tsb b = {0};
    if (!tc_args_bind(r, "zfill", args, "width,", &p) || !tc_tv_index(r, p, &width)) return failed();
    if (width < 0) width = 0;
    size_t sign = s->bytes && (s->data[0] == '+' || s->data[0] == '-');
    if (!tc_tsb_substr(r, &b, s, 0, sign) ||
        !fill_in(r, &b, &r->ascii['0'], width - (int64_t)tc_ts_chars(s)) ||
        !tc_tsb_substr(r, &b, s, sign, s->bytes))
        return failed();
    return tc_tsb_take(r, &b);
}

static tc_tv expandtabs(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    tc_tv p;
    int64_t width = 8, column = 0;
    tc_tsb b = {0};
    if (!tc_args_bind(r, "expandtabs", args, "tabsize=,", &p)) return failed();
    if (p.kind != TC_TV_MISSING && !tc_tv_index(r, p, &width)) return failed();
    for (size_t at = 0, step; at < s->bytes; at += step) {
        uint32_t c = tc_utf8_get(s->data + at, &step);
        bool ok = true;
        if (c == '\t') {
            int64_t blanks = width > 0 ? width - column % width : 0;
            ok = fill_in(r, &b, &r->ascii[' '], blanks);
            column += blanks;
        } else {
            ok = tc_tsb_substr(r, &b, s, at, at + step);
            column = c == '\n' || c == '\r' ? 0 : column + 1;
        }
        if (!ok) return failed();
    }
    return tc_tsb_take(r, &b);
}

static tc_tv case_of(tc_tr *r, const tc_ts *s, tc_targs *args, tc_case how)
{
    return tc_args_bind(r, "str method", args, "", NULL) ? tc_str_case(r, s, how) : failed();
}

static tc_tv join(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    tc_tv items;
    return tc_args_bind(r, "join", args, "iterable,", &items) ? tc_str_join(r, s, items, false) : failed();
}

static tc_tv splitlines(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    tc_tv keep;
    if (!tc_args_bind(r, "splitlines", args, "keepends=,", &keep)) return failed();
    return tc_str_splitlines(r, s, tc_tv_truth(keep));
}

static tc_tv format_map(tc_tr *r, const tc_ts *s, tc_targs *args)
{
    if (args->count != 1 || args->named || args->items[0].kind != TC_TV_DICT)
        return tc_tr_fail(r, "TypeError", "format_map() takes exactly one argument, a mapping");
    const tc_td *d = args->items[0].d;
    tc_targs named = {.names = tc_tr_alloc(r, (d->count + 1) * sizeof *named.names),
                      .values = tc_tr_alloc(r, (d->count + 1) * sizeof *named.values)};
    if (!named.names || !named.values) return failed();
    for (uint32_t i = 0; i < d->count; i++) {
        if (d->entries[i].key.kind != TC_TV_STR) continue;
        named.names[named.named] = d->entries[i].key.s;
        named.values[named.named++] = d->entries[i].value;
    }
    return tc_str_format(r, tc_tv_of_str(s), &named);
}

tc_tv tc_str_method(tc_tr *r, const tc_ts *s, int method, tc_targs *args)
{
    switch (method) {
    case TC_METHOD_strip:
        return strip(r, s, args, true, true);
    case TC_METHOD_lstrip:
        return strip(r, s, args, true, false);
    case TC_METHOD_rstrip:
        return strip(r, s, args, false, true);
    case TC_METHOD_split:
        return split(r, s, args, false);
    case TC_METHOD_rsplit:
        return split(r, s, args, true);
    case TC_METHOD_splitlines:
        return splitlines(r, s, args);
    case TC_METHOD_partition:
        return partition(r, s, args, false);
    case TC_METHOD_rpartition:
        return partition(r, s, args, true);
    case TC_METHOD_join:
        return join(r, s, args);
    case TC_METHOD_find:
        return find(r, s, args, false, false);
    case TC_METHOD_rfind:
        return find(r, s, args, true, false);
    case TC_METHOD_index:
        return find(r, s, args, false, true);
    case TC_METHOD_rindex:
        return find(r, s, args, true, true);
    case TC_METHOD_count:
        return count(r, s, args);
    case TC_METHOD_startswith:
        return affix(r, s, args, false);
    case TC_METHOD_endswith:
        return affix(r, s, args, true);
    case TC_METHOD_removeprefix:
        return remove_affix(r, s, args, false);
    case TC_METHOD_removesuffix:
        return remove_affix(r, s, args, true);
    case TC_METHOD_replace:
        return replace(r, s, args);
    case TC_METHOD_center:
        return pad(r, s, args, '^');
    case TC_METHOD_ljust:
        return pad(r, s, args, '<');
    case TC_METHOD_rjust:
        return pad(r, s, args, '>');
    case TC_METHOD_zfill:
        return zfill(r, s, args);
    case TC_METHOD_expandtabs:
        return expandtabs(r, s, args);
    case TC_METHOD_lower:
        return case_of(r, s, args, TC_CASE_LOWER);
    case TC_METHOD_upper:
        return case_of(r, s, args, TC_CASE_UPPER);
    case TC_METHOD_title:
        return case_of(r, s, args, TC_CASE_TITLE);
    case TC_METHOD_capitalize:
        return case_of(r, s, args, TC_CASE_CAPITALIZE);
    case TC_METHOD_swapcase:
        return case_of(r, s, args, TC_CASE_SWAP);
    case TC_METHOD_casefold:
        return case_of(r, s, args, TC_CASE_FOLD);
    case TC_METHOD_format:
        return tc_str_format(r, tc_tv_of_str(s), args);
    case TC_METHOD_format_map:
        return format_map(r, s, args);
    case TC_METHOD_encode:
    case TC_METHOD_translate:
    case TC_METHOD_maketrans:
        return tc_tr_fail(r, "NotImplementedError",
                          "str.encode, translate and maketrans are not implemented");
    default:
        return tc_args_bind(r, "str method", args, "", NULL) ? tc_tv_bool(tc_str_is(s, method)) : failed();
    }
}
