// SPDX-License-Identifier: Apache-2.0
// Owns: how values look as text: Python's str() and repr(), json.dumps, and HTML escaping.
#include "common/text/template_run.h"
#include "common/text/utf8.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { PRINT_DEPTH_MAX = 2 * TC_TEMPLATE_DATA_DEPTH_MAX };

bool tc_py_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

bool tc_py_printable(uint32_t c)
{
    if (c < 0x7f) return c >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

// The shortest digits that read back as the same number, laid out as Python lays them out.
void tc_float_repr(double f, char ret[TC_FLOAT_TEXT])
{
    char digits[26];
    if (isnan(f) || isinf(f)) {
        snprintf(ret, TC_FLOAT_TEXT, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (precision++ < 17 && strtod(digits, NULL) != f);
    char *mark = strchr(digits, 'e');
    int exponent = atoi(mark + 1);
    *mark = '\0';
    if (exponent < -4 || exponent >= 16) {
        snprintf(ret, TC_FLOAT_TEXT, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent) % 1000);
        return;
    }
    const char *first = digits + (*digits == '-');
    int count = (int)strlen(first) - (strchr(first, '.') != NULL);
    int after = count - 1 - exponent;
    snprintf(ret, TC_FLOAT_TEXT, "%.*f", after > 1 ? after : 1, f);
}

bool tc_str_repr(tc_tr *r, tc_tsb *b, const tc_ts *s)
{
    bool single = memchr(s->data, '\'', s->bytes), both = single && memchr(s->data, '"', s->bytes);
    char quote = single && !both ? '"' : '\'';
    bool ok = tc_tsb_put(r, b, &quote, 1, TC_ORIGIN_TEMPLATE);
    for (size_t at = 0, step = 0, run = 0; ok && at <= s->bytes; at += step) {
        uint32_t c = at < s->bytes ? tc_utf8_get(s->data + at, &step) : 0;
        bool plain = at < s->bytes && c != (uint32_t)quote && c != '\\' && tc_py_printable(c);
        if (plain) continue;
        ok = tc_tsb_substr(r, b, s, run, at);
        if (at == s->bytes || !ok) break;
        run = at + step;
        if (c == (uint32_t)quote || c == '\\')
            ok = tc_tsb_format(r, b, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            ok = tc_tsb_text(r, b, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else
            ok = tc_tsb_format(r, b, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    }
    return ok && tc_tsb_put(r, b, &quote, 1, TC_ORIGIN_TEMPLATE);
}

static bool deeper(tc_tr *r)
{
    if (++r->depth <= PRINT_DEPTH_MAX + TC_TEMPLATE_EVAL_DEPTH_MAX) return true;
    tc_tr_limit(r, "depth");
    return false;
}

static bool items_repr(tc_tr *r, tc_tsb *b, const tc_tl *l, const char *open, const char *close)
{
    bool ok = deeper(r) && tc_tsb_text(r, b, open);
    for (size_t i = 0; ok && i < l->count; i++)
        ok = (i == 0 || tc_tsb_text(r, b, ", ")) && tc_tv_repr(r, b, l->items[i]);
    r->depth--;
    return ok && tc_tsb_text(r, b, close);
}

static bool dict_repr(tc_tr *r, tc_tsb *b, const tc_td *d)
{
    bool ok = deeper(r) && tc_tsb_text(r, b, "{");
    for (size_t i = 0; ok && i < d->count; i++)
        ok = (i == 0 || tc_tsb_text(r, b, ", ")) && tc_tv_repr(r, b, d->entries[i].key) &&
             tc_tsb_text(r, b, ": ") && tc_tv_repr(r, b, d->entries[i].value);
    r->depth--;
    return ok && tc_tsb_text(r, b, "}");
}

static bool view_repr(tc_tr *r, tc_tsb *b, tc_tv v)
{
    tc_tlb items = {0};
    if (!tc_tv_collect(r, v, &items)) return false;
    tc_tl list = {.items = items.items, .count = items.count};
    return tc_tsb_format(r, b, "%s(", tc_tv_type(v)) && items_repr(r, b, &list, "[", "])");
}

static bool macro_repr(tc_tr *r, tc_tsb *b, const tc_tmacro *m)
{
    if (!m->node->name) return tc_tsb_text(r, b, "<Macro anonymous>");
    return tc_tsb_text(r, b, "<Macro ") && tc_str_repr(r, b, m->node->name) && tc_tsb_text(r, b, ">");
}

static bool range_repr(tc_tr *r, tc_tsb *b, const tc_trange *range)
{
    if (range->step == 1)
        return tc_tsb_format(r, b, "range(%" PRId64 ", %" PRId64 ")", range->start, range->stop);
    return tc_tsb_format(r, b, "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")", range->start, range->stop,
                         range->step);
}

bool tc_tv_repr(tc_tr *r, tc_tsb *b, tc_tv v)
{
    char number[TC_FLOAT_TEXT];
    switch ((tc_tv_kind)v.kind) {
    case TC_TV_ERROR:
    case TC_TV_MISSING:
        return false;
    case TC_TV_UNDEFINED:
        return tc_tsb_text(r, b, "Undefined");
    case TC_TV_NONE:
        return tc_tsb_text(r, b, "None");
    case TC_TV_BOOL:
        return tc_tsb_text(r, b, v.b ? "True" : "False");
    case TC_TV_INT:
        return tc_tsb_format(r, b, "%" PRId64, v.i);
    case TC_TV_FLOAT:
        tc_float_repr(v.f, number);
        return tc_tsb_text(r, b, number);
    case TC_TV_BIG:
        return tc_tsb_str(r, b, v.s);
    case TC_TV_STR:
        if (v.s->markup)
            return tc_tsb_text(r, b, "Markup(") && tc_str_repr(r, b, v.s) && tc_tsb_text(r, b, ")");
        return tc_str_repr(r, b, v.s);
    case TC_TV_LIST:
        return items_repr(r, b, v.l, "[", "]");
    case TC_TV_TUPLE:
        return items_repr(r, b, v.l, "(", v.l->count == 1 ? ",)" : ")");
    case TC_TV_DICT:
        return dict_repr(r, b, v.d);
    case TC_TV_RANGE:
        return range_repr(r, b, v.range);
    case TC_TV_VIEW:
        return view_repr(r, b, v);
    case TC_TV_NAMESPACE:
        return tc_tsb_text(r, b, "<Namespace ") && dict_repr(r, b, v.d) && tc_tsb_text(r, b, ">");
    case TC_TV_MACRO:
        return macro_repr(r, b, v.macro);
    case TC_TV_LOOP:
        return tc_loop_repr(r, b, v.loop);
    case TC_TV_GENERATOR:
    case TC_TV_FUNCTION:
    case TC_TV_METHOD:
    case TC_TV_CYCLER:
    case TC_TV_JOINER:
        break;
    }
    return tc_tsb_format(r, b, "<%s object>", tc_tv_type(v)); // Python shows an address here
}

bool tc_tv_print(tc_tr *r, tc_tsb *b, tc_tv v)
{
    if (v.kind == TC_TV_STR) return tc_tsb_str(r, b, v.s);
    if (v.kind == TC_TV_UNDEFINED) return true;
    return tc_tv_repr(r, b, v);
}

tc_tv tc_tv_to_str(tc_tr *r, tc_tv v)
{
    tc_tsb b = {0};
    if (v.kind == TC_TV_STR) return v;
    if (!tc_tv_print(r, &b, v)) return TC_TV_OF(TC_TV_ERROR);
    return tc_tsb_take(r, &b);
}

// ---- JSON
// --------------------------------------------------------------------------------------------------

static bool json_escape(tc_tr *r, tc_tsb *b, uint32_t c)
{
    const char *names = "\"\"\\\\\nn\rr\tt\bb\ff", *found = NULL;
    for (const char *p = names; *p; p += 2)
        if ((uint32_t)*p == c) found = p;
    if (found) return tc_tsb_format(r, b, "\\%c", found[1]);
    if (c < 0x10000) return tc_tsb_format(r, b, "\\u%04x", c);
    c -= 0x10000;
    return tc_tsb_format(r, b, "\\u%04x\\u%04x", 0xd800 + (c >> 10), 0xdc00 + (c & 0x3ff));
}

// Bytes from `at` on that JSON takes as they are.
static size_t json_plain(const tc_ts *s, size_t at, bool ascii)
{
    size_t from = at;
    for (; at < s->bytes; at++) {
        uint8_t c = s->data[at];
        if (c < 0x20 || c == '"' || c == '\\' || (ascii && c >= 0x7f)) break;
    }
    return at - from;
}

// A whole string without escapes, in one piece.
static bool json_simple(tc_tr *r, tc_tsb *b, const tc_ts *s)
{
    if (!tc_tsb_mixed_room(r, b, (size_t)s->bytes + 2)) return false;
    uint8_t *text = b->data + b->bytes, *marks = b->marks + b->bytes;
    text[0] = text[s->bytes + 1] = '"';
    marks[0] = marks[s->bytes + 1] = false;
    memcpy(text + 1, s->data, s->bytes);
    memset(marks + 1, s->origin == TC_ORIGIN_DATA, s->bytes);
    b->bytes += (size_t)s->bytes + 2;
    return true;
}

static bool json_string(tc_tr *r, tc_tsb *b, const tc_ts *s, bool ascii)
{
    size_t at = json_plain(s, 0, ascii), run = 0, step = 0;
    if (at == s->bytes && s->origin == TC_ORIGIN_DATA) return json_simple(r, b, s);
    bool ok = tc_tsb_text(r, b, "\"");
    while (ok && at < s->bytes) {
        ok = tc_tsb_substr(r, b, s, run, at) && json_escape(r, b, tc_utf8_get(s->data + at, &step));
        run = at += step;
        at += json_plain(s, at, ascii);
    }
    return ok && tc_tsb_substr(r, b, s, run, at) && tc_tsb_text(r, b, "\"");
}

static bool json_float(tc_tr *r, tc_tsb *b, double f)
{
    char number[TC_FLOAT_TEXT];
    if (isnan(f)) return tc_tsb_text(r, b, "NaN");
    if (isinf(f)) return tc_tsb_text(r, b, f < 0 ? "-Infinity" : "Infinity");
    tc_float_repr(f, number);
    return tc_tsb_text(r, b, number);
}

static bool json_key(tc_tr *r, tc_tsb *b, tc_tv key, const tc_tjson *how)
{
    if (key.kind == TC_TV_STR) return json_string(r, b, key.s, how->ascii);
    if (key.kind != TC_TV_NONE && key.kind != TC_TV_BIG && !tc_tv_is_number(key)) {
        tc_tr_fail(r, "TypeError", "keys must be str, int, float, bool or None, not %s", tc_tv_type(key));
        return false;
    }
    return tc_tsb_text(r, b, "\"") && tc_tv_json(r, b, key, how, 0) && tc_tsb_text(r, b, "\"");
}

static bool json_line(tc_tr *r, tc_tsb *b, const tc_tjson *how, uint32_t depth)
{
    if (!how->lines) return true;
    bool ok = tc_tsb_text(r, b, "\n");
    for (uint32_t i = 0; ok && i < depth; i++) ok = tc_tsb_str(r, b, how->indent.s);
    return ok;
}

static bool json_between(tc_tr *r, tc_tsb *b, const tc_tjson *how, size_t i, uint32_t depth)
{
    return (i == 0 || tc_tsb_str(r, b, how->item)) && json_line(r, b, how, depth + 1);
}

static bool json_list(tc_tr *r, tc_tsb *b, const tc_tl *l, const tc_tjson *how, uint32_t depth)
{
    bool ok = tc_tsb_text(r, b, "[");
    for (size_t i = 0; ok && i < l->count; i++)
        ok = json_between(r, b, how, i, depth) && tc_tv_json(r, b, l->items[i], how, depth + 1);
    return ok && (l->count == 0 || json_line(r, b, how, depth)) && tc_tsb_text(r, b, "]");
}

static bool json_dict(tc_tr *r, tc_tsb *b, tc_tv v, const tc_tjson *how, uint32_t depth)
{
    tc_td *d = v.d;
    if (how->sort_keys && d->count > 1) {
        tc_tlb keys = {0}, pairs = {0};
        v.kind = TC_TV_VIEW, v.sub = 'k';
        if (!tc_tv_collect(r, v, &keys)) return false;
        v.sub = 'v';
        if (!tc_tv_collect(r, v, &pairs) || !tc_tv_sort(r, keys.items, pairs.items, keys.count, false))
            return false;
        d = tc_td_new(r, keys.count);
        for (size_t i = 0; d && i < keys.count; i++)
            if (!tc_td_set(r, d, keys.items[i], pairs.items[i])) return false;
        if (!d) return false;
    }
    bool ok = tc_tsb_text(r, b, "{");
    for (uint32_t i = 0; ok && i < d->count; i++)
        ok = json_between(r, b, how, i, depth) && json_key(r, b, d->entries[i].key, how) &&
             tc_tsb_str(r, b, how->key) && tc_tv_json(r, b, d->entries[i].value, how, depth + 1);
    return ok && (d->count == 0 || json_line(r, b, how, depth)) && tc_tsb_text(r, b, "}");
}

bool tc_tv_json(tc_tr *r, tc_tsb *b, tc_tv v, const tc_tjson *how, uint32_t depth)
{
    if (depth > PRINT_DEPTH_MAX) {
        tc_tr_limit(r, "depth");
        return false;
    }
    switch (v.kind) {
    case TC_TV_NONE:
        return tc_tsb_text(r, b, "null");
    case TC_TV_BOOL:
        return tc_tsb_text(r, b, v.b ? "true" : "false");
    case TC_TV_INT:
        return tc_tsb_format(r, b, "%" PRId64, v.i);
    case TC_TV_BIG:
        return tc_tsb_str(r, b, v.s);
    case TC_TV_FLOAT:
        return json_float(r, b, v.f);
    case TC_TV_STR:
        return json_string(r, b, v.s, how->ascii);
    case TC_TV_LIST:
    case TC_TV_TUPLE:
        return json_list(r, b, v.l, how, depth);
    case TC_TV_DICT:
        return json_dict(r, b, v, how, depth);
    default:
        tc_tr_fail(r, "TypeError", "Object of type %s is not JSON serializable", tc_tv_type(v));
        return false;
    }
}

// ---- HTML
// --------------------------------------------------------------------------------------------------

tc_tv tc_tv_escape(tc_tr *r, tc_tv v)
{
    tc_tsb b = {0};
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v) || v.s->markup) return v;
    size_t run = 0;
    for (size_t i = 0; i < v.s->bytes; i++) {
        uint8_t c = v.s->data[i];
        const char *entity = c == '&'    ? "&amp;"
                             : c == '<'  ? "&lt;"
                             : c == '>'  ? "&gt;"
                             : c == '\'' ? "&#39;"
                             : c == '"'  ? "&#34;"
                                         : NULL;
        if (!entity) continue;
        if (!tc_tsb_substr(r, &b, v.s, run, i) ||
            !tc_tsb_put(r, &b, entity, strlen(entity), TC_ORIGIN_TEMPLATE))
            return TC_TV_OF(TC_TV_ERROR);
        run = i + 1;
    }
    if (!tc_tsb_substr(r, &b, v.s, run, v.s->bytes)) return TC_TV_OF(TC_TV_ERROR);
    return tc_tv_as_markup(r, tc_tsb_take(r, &b), true);
}
