// SPDX-License-Identifier: Apache-2.0
// Owns: the table of filters, and those about numbers, defaults and JSON.
#include "common/text/template_filter.h"
#include "common/text/template_method.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_TEXT_MAX = 400 };

static tc_tv failed(void)
{
    return TC_TV_OF(TC_TV_ERROR);
}

static bool given(tc_tv v)
{
    return v.kind != TC_TV_MISSING && v.kind != TC_TV_NONE;
}

static tc_tv filter_abs(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    if (!tc_tv_is_number(v) && v.kind != TC_TV_UNDEFINED)
        return tc_tr_fail(r, "TypeError", "bad operand type for abs(): '%s'", tc_tv_type(v));
    if (v.kind == TC_TV_UNDEFINED)
        return tc_tr_fail(r, "TypeError", "bad operand type for abs(): 'Undefined'");
    if (v.kind == TC_TV_FLOAT) return tc_tv_float(fabs(v.f));
    return tc_tv_negate(r, v, v.kind == TC_TV_INT && v.i < 0);
}

static tc_tv filter_attr(tc_tr *r, tc_tv v, tc_tv *p)
{
    if (p[0].kind != TC_TV_STR) return tc_tr_fail(r, "TypeError", "attribute name must be string");
    if (v.kind == TC_TV_DICT &&
        tc_method_find(v, tc_method_of_name(p[0].s->data, p[0].s->bytes)) == TC_METHOD_NO)
        return tc_tv_undefined_of(r, v, p[0]); // never an item
    return tc_tv_getattr(r, v, p[0].s, tc_method_of_name(p[0].s->data, p[0].s->bytes));
}

static tc_tv filter_default(tc_tr *r, tc_tv v, tc_tv *p)
{
    if (v.kind != TC_TV_UNDEFINED && !(tc_tv_truth(p[1]) && !tc_tv_truth(v))) return v;
    return p[0].kind == TC_TV_MISSING ? tc_tv_text(r, "") : p[0];
}

// ---- numbers
// -----------------------------------------------------------------------------------------------

// The text without blanks around it and without the underscores Python allows between digits; false when it
// is not ASCII or too long.
static bool number_text(const tc_ts *s, char ret[NUMBER_TEXT_MAX])
{
    size_t from = 0, to = s->bytes, n = 0;
    while (from < to && tc_py_space(s->data[from])) from++;
    while (to > from && tc_py_space(s->data[to - 1])) to--;
    if (to - from >= NUMBER_TEXT_MAX) return false;
    for (size_t i = from; i < to; i++) {
        uint8_t c = s->data[i];
        if (c >= 0x80 || c == 0) return false;
        if (c == '_') {
            if (i == from || i + 1 == to || s->data[i - 1] == '_' || s->data[i + 1] == '_') return false;
            continue;
        }
        ret[n++] = (char)c;
    }
    ret[n] = '\0';
    return n > 0;
}

static bool parse_int(const tc_ts *s, int64_t base, int64_t *ret, bool *over)
{
    char text[NUMBER_TEXT_MAX], *p = text, *end, letter = 0;
    *over = false;
    if (!number_text(s, text)) return false;
    bool negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    if (p[0] == '0' && p[1]) letter = (char)(p[1] | 0x20);
    int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix && (base == prefix || base == 0)) p += 2, base = prefix;
    if (base == 0) base = 10;
    if (!*p || *p == '-' || *p == '+' || (base == 16 && p[0] == '0' && (p[1] | 0x20) == 'x') ||
        tc_py_space((uint8_t)*p))
        return false;
    errno = 0;
    unsigned long long n = strtoull(p, &end, (int)base);
    if (*end || end == p) return false;
    if (errno == ERANGE || n > (unsigned long long)INT64_MAX) {
        *over = true;
        return false;
    }
    *ret = negative ? -(int64_t)n : (int64_t)n;
    return true;
}

static bool parse_float(const tc_ts *s, double *ret)
{
    char text[NUMBER_TEXT_MAX], *end;
    if (!number_text(s, text)) return false;
    const char *digits = text + (*text == '-' || *text == '+');
    static const char *const words[] = {"inf", "infinity", "nan", NULL};
    bool word = false;
    for (size_t i = 0; words[i]; i++) word |= !strcasecmp(digits, words[i]);
    if (!word && strspn(digits, "0123456789.eE+-") != strlen(digits)) return false;
    *ret = strtod(text, &end);
    return !*end && end != text;
}

static tc_tv truncated(tc_tr *r, double f, tc_tv otherwise)
{
    if (isnan(f) || isinf(f)) return otherwise;
    if (fabs(f) < 9.2e18) return tc_tv_int((int64_t)f);
    char digits[NUMBER_TEXT_MAX];
    snprintf(digits, sizeof digits, "%.0f", f);
    tc_tv big = tc_tv_text(r, digits);
    if (!TC_TV_FAILED(big)) big.kind = TC_TV_BIG;
    return big;
}

static tc_tv filter_int(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t base = 10, n;
    double f;
    bool over;
    tc_tv otherwise = p[0].kind == TC_TV_MISSING ? tc_tv_int(0) : p[0];
    if (p[1].kind != TC_TV_MISSING && !tc_tv_index(r, p[1], &base)) return failed();
    if (v.kind == TC_TV_BOOL) return tc_tv_int(v.b);
    if (v.kind == TC_TV_INT || v.kind == TC_TV_BIG) return v;
    if (v.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, v);
    if (v.kind == TC_TV_FLOAT) {
        if (isinf(v.f)) return tc_tr_fail(r, "OverflowError", "cannot convert float infinity to integer");
        return truncated(r, v.f, otherwise);
    }
    if (v.kind != TC_TV_STR) return otherwise;
    if (base != 0 && (base < 2 || base > 36)) base = 10;
    if (parse_int(v.s, base, &n, &over)) return tc_tv_int(n);
    if (over) return tc_tr_fail(r, "OverflowError", "integers beyond 64 bits are not implemented");
    return parse_float(v.s, &f) ? truncated(r, f, otherwise) : otherwise;
}

static tc_tv filter_float(tc_tr *r, tc_tv v, tc_tv *p)
{
    double f;
    tc_tv otherwise = p[0].kind == TC_TV_MISSING ? tc_tv_float(0) : p[0];
    if (v.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, v);
    if (tc_tv_is_number(v)) return tc_tv_float(tc_tv_number(v));
    if ((v.kind == TC_TV_STR || v.kind == TC_TV_BIG) && parse_float(v.s, &f)) return tc_tv_float(f);
    return otherwise;
}

// Half to even, on the number's exact value: what printf does.
static double round_to(double f, int64_t digits)
{
    char text[512];
    if (!isfinite(f) || digits > 300) return f;
    if (digits >= 0) {
        snprintf(text, sizeof text, "%.*f", (int)digits, f);
        return strtod(text, NULL);
    }
    if (digits < -300) return copysign(0, f);
    double scale = pow(10, (double)-digits);
    return nearbyint(f / scale) * scale;
}

static tc_tv round_int(tc_tr *r, int64_t n, int64_t digits)
{
    if (digits >= 0) return tc_tv_int(n);
    if (digits < -18) return tc_tv_int(0);
    int64_t scale = 1;
    for (; digits < 0; digits++) scale *= 10;
    int64_t rest = n % scale, down = n - rest, half = scale / 2;
    if (rest < 0) {
        rest += scale;
        if (__builtin_sub_overflow(down, scale, &down))
            return tc_tr_fail(r, "OverflowError", "integers beyond 64 bits are not implemented");
    }
    if (rest > half || (rest == half && (down / scale) % 2))
        return tc_tv_binary(r, '+', tc_tv_int(down), tc_tv_int(scale));
    return tc_tv_int(down);
}

static tc_tv filter_round(tc_tr *r, tc_tv v, tc_tv *p)
{
    int64_t digits = 0;
    bool ceil_it = p[1].kind == TC_TV_STR && tc_ts_is(p[1].s, "ceil");
    bool floor_it = p[1].kind == TC_TV_STR && tc_ts_is(p[1].s, "floor");
    if (p[1].kind != TC_TV_MISSING && !ceil_it && !floor_it &&
        !(p[1].kind == TC_TV_STR && tc_ts_is(p[1].s, "common")))
        return tc_tr_fail(r, "FilterArgumentError", "method must be common, ceil or floor");
    if (v.kind == TC_TV_UNDEFINED && !(ceil_it || floor_it))
        return tc_tr_fail(r, "TypeError", "type Undefined doesn't define __round__ method");
    if (p[0].kind == TC_TV_NONE && !ceil_it && !floor_it) // round(x, None) gives an integer
        return tc_tv_is_number(v) ? truncated(r, nearbyint(tc_tv_number(v)), failed())
                                  : tc_tr_fail(r, "TypeError", "cannot round %s", tc_tv_type(v));
    if (p[0].kind != TC_TV_MISSING && !tc_tv_index(r, p[0], &digits)) return failed();
    if (!tc_tv_is_number(v))
        return tc_tr_fail(r, "TypeError", "type %s doesn't define __round__ method", tc_tv_type(v));
    if (ceil_it || floor_it) {
        double scale = pow(10, (double)digits), f = tc_tv_number(v) * scale;
        return tc_tv_float((ceil_it ? ceil(f) : floor(f)) / scale);
    }
    if (v.kind != TC_TV_FLOAT) return round_int(r, v.kind == TC_TV_BOOL ? v.b : v.i, digits);
    return tc_tv_float(round_to(v.f, digits));
}

// ---- JSON
// --------------------------------------------------------------------------------------------------

static bool json_separators(tc_tr *r, tc_tv v, tc_tjson *how)
{
    tc_tlb pair = {0};
    if (!given(v)) return true;
    if (!tc_tv_collect(r, v, &pair)) return false;
    if (pair.count == 2 && pair.items[0].kind == TC_TV_STR && pair.items[1].kind == TC_TV_STR) {
        how->item = pair.items[0].s;
        how->key = pair.items[1].s;
        return true;
    }
    tc_tr_fail(r, "TypeError", "separators must be two strings");
    return false;
}

static tc_tv filter_tojson(tc_tr *r, tc_tv v, tc_tv *p)
{
    static const tc_ts comma = {.data = (const uint8_t *)",", .bytes = 1, .chars = 1},
                       comma_blank = {.data = (const uint8_t *)", ", .bytes = 2, .chars = 2},
                       colon_blank = {.data = (const uint8_t *)": ", .bytes = 2, .chars = 2};
    tc_tjson how = {.ascii = tc_tv_truth(p[0]), .sort_keys = tc_tv_truth(p[3]), .lines = given(p[1])};
    tc_tsb b = {0};
    how.item = how.lines ? &comma : &comma_blank;
    how.key = &colon_blank;
    if (how.lines) {
        int64_t width;
        how.indent = p[1];
        if (p[1].kind != TC_TV_STR) {
            if (!tc_tv_index(r, p[1], &width)) return failed();
            how.indent = tc_tv_binary(r, '*', tc_tv_of_str(&r->ascii[' ']), tc_tv_int(width));
            if (TC_TV_FAILED(how.indent)) return failed();
        }
    }
    if (!json_separators(r, p[2], &how) || !tc_tv_json(r, &b, v, &how, 0)) return failed();
    return tc_tsb_take(r, &b);
}

static tc_tv filter_length(tc_tr *r, tc_tv v, tc_tv *p)
{
    (void)p;
    return tc_tv_length(r, v);
}

static tc_tv filter_pprint(tc_tr *r, tc_tv v, tc_tv *p)
{
    tc_tsb b = {0};
    (void)p;
    return tc_tv_repr(r, &b, v) ? tc_tsb_take(r, &b) : failed();
}

static tc_tv filter_format(tc_tr *r, tc_tv v, tc_targs *args)
{
    tc_tlb items = {0};
    tc_tv values;
    if (args->count && args->named)
        return tc_tr_fail(r, "FilterArgumentError",
                          "can't handle positional and keyword arguments at the same time");
    v = tc_tv_to_str(r, v);
    if (TC_TV_FAILED(v)) return v;
    if (args->named) {
        tc_td *d = tc_td_new(r, args->named);
        for (size_t i = 0; d && i < args->named; i++)
            if (!tc_td_set(r, d, tc_tv_of_str(args->names[i]), args->values[i])) return failed();
        values = (tc_tv){.kind = TC_TV_DICT, .d = d};
        return d ? tc_percent_format(r, v, values) : failed();
    }
    for (size_t i = 0; i < args->count; i++)
        if (!tc_tlb_push(r, &items, args->items[i])) return failed();
    values = tc_tlb_take(r, &items, TC_TV_TUPLE);
    return TC_TV_FAILED(values) ? values : tc_percent_format(r, v, values);
}

// ---- the table
// ---------------------------------------------------------------------------------------------

enum { PARAMETERS_MAX = 6 };

static const struct {
    const char *name, *parameters; // parameters: see tc_args_bind; NULL for the ones handled by name below
    tc_filter_fn *run;
} filters[] = {
    {"tojson", "ensure_ascii=,indent=,separators=,sort_keys=,", filter_tojson},
    {"trim", "chars=,", tc_filter_trim},
    {"length", "", filter_length},
    {"count", "", filter_length},
    {"default", "default_value=,boolean=,", filter_default},
    {"d", "default_value=,boolean=,", filter_default},
    {"join", "d=,attribute=,", tc_filter_join},
    {"string", "", tc_filter_string},
    {"list", "", tc_filter_list},
    {"items", "", tc_filter_items},
    {"safe", "", tc_filter_safe},
    {"upper", "", tc_filter_upper},
    {"lower", "", tc_filter_lower},
    {"replace", "old,new,count=,", tc_filter_replace},
    {"first", "", tc_filter_first},
    {"last", "", tc_filter_last},
    {"int", "default=,base=,", filter_int},
    {"float", "default=,", filter_float},
    {"round", "precision=,method=,", filter_round},
    {"abs", "", filter_abs},
    {"attr", "name,", filter_attr},
    {"batch", "linecount,fill_with=,", tc_filter_batch},
    {"capitalize", "", tc_filter_capitalize},
    {"center", "width=,", tc_filter_center},
    {"dictsort", "case_sensitive=,by=,reverse=,", tc_filter_dictsort},
    {"e", "", tc_filter_escape},
    {"escape", "", tc_filter_escape},
    {"filesizeformat", "binary=,", tc_filter_filesizeformat},
    {"forceescape", "", tc_filter_forceescape},
    {"groupby", "attribute,default=,case_sensitive=,", tc_filter_groupby},
    {"indent", "width=,first=,blank=,", tc_filter_indent},
    {"max", "case_sensitive=,attribute=,", tc_filter_max},
    {"min", "case_sensitive=,attribute=,", tc_filter_min},
    {"pprint", "", filter_pprint},
    {"reverse", "", tc_filter_reverse},
    {"slice", "slices,fill_with=,", tc_filter_slice},
    {"sort", "reverse=,case_sensitive=,attribute=,", tc_filter_sort},
    {"striptags", "", tc_filter_striptags},
    {"sum", "attribute=,start=,", tc_filter_sum},
    {"title", "", tc_filter_title},
    {"truncate", "length=,killwords=,end=,leeway=,", tc_filter_truncate},
    {"unique", "case_sensitive=,attribute=,", tc_filter_unique},
    {"urlencode", "", tc_filter_urlencode},
    {"wordcount", "", tc_filter_wordcount},
    {"wordwrap", "width=,break_long_words=,wrapstring=,break_on_hyphens=,", tc_filter_wordwrap},
    {"xmlattr", "autospace=,", tc_filter_xmlattr},
    {"map", NULL, NULL},
    {"select", NULL, NULL},
    {"reject", NULL, NULL},
    {"selectattr", NULL, NULL},
    {"rejectattr", NULL, NULL},
    {"format", NULL, NULL},
    {"random", NULL, NULL},
    {"urlize", NULL, NULL},
};

int tc_filter_find(const tc_ts *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (tc_ts_is(name, filters[i].name)) return (int)i;
    return -1;
}

tc_tv tc_filter_call(tc_tr *r, int which, tc_tv in, tc_targs *args)
{
    tc_tv p[PARAMETERS_MAX];
    const char *name = filters[which].name;
    if (filters[which].run)
        return tc_args_bind(r, name, args, filters[which].parameters, p) ? filters[which].run(r, in, p)
                                                                         : failed();
    if (!strcmp(name, "map")) return tc_filter_map(r, in, args);
    if (!strcmp(name, "select")) return tc_filter_select(r, in, args, false, true);
    if (!strcmp(name, "reject")) return tc_filter_select(r, in, args, false, false);
    if (!strcmp(name, "selectattr")) return tc_filter_select(r, in, args, true, true);
    if (!strcmp(name, "rejectattr")) return tc_filter_select(r, in, args, true, false);
    if (!strcmp(name, "format")) return filter_format(r, in, args);
    return tc_tr_fail(r, "NotImplementedError", "the filter %s is not implemented", name);
}
