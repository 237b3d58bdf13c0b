// SPDX-License-Identifier: Apache-2.0
// Owns: what Python's operators do with values: truth, equality, order, containment, arithmetic; and the
// undefined value. Integers are 64 bits wide; a result beyond them is an error, never another number.
#include "common/text/template_run.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EQUAL_DEPTH_MAX = TC_TEMPLATE_DATA_DEPTH_MAX * 2 };

const char *tc_tv_type(tc_tv v)
{
    static const char *const names[] = {[TC_TV_ERROR] = "error",
                                        [TC_TV_MISSING] = "missing",
                                        [TC_TV_UNDEFINED] = "Undefined",
                                        [TC_TV_NONE] = "NoneType",
                                        [TC_TV_BOOL] = "bool",
                                        [TC_TV_INT] = "int",
                                        [TC_TV_FLOAT] = "float",
                                        [TC_TV_BIG] = "int",
                                        [TC_TV_STR] = "str",
                                        [TC_TV_LIST] = "list",
                                        [TC_TV_TUPLE] = "tuple",
                                        [TC_TV_DICT] = "dict",
                                        [TC_TV_RANGE] = "range",
                                        [TC_TV_VIEW] = "dict_items",
                                        [TC_TV_GENERATOR] = "generator",
                                        [TC_TV_NAMESPACE] = "Namespace",
                                        [TC_TV_MACRO] = "Macro",
                                        [TC_TV_FUNCTION] = "function",
                                        [TC_TV_METHOD] = "builtin_function_or_method",
                                        [TC_TV_LOOP] = "LoopContext",
                                        [TC_TV_CYCLER] = "Cycler",
                                        [TC_TV_JOINER] = "Joiner"};
    if (v.kind == TC_TV_VIEW) return v.sub == 'k' ? "dict_keys" : v.sub == 'v' ? "dict_values" : "dict_items";
    if (v.kind == TC_TV_STR && v.s->markup) return "Markup";
    if (v.kind == TC_TV_GENERATOR && v.gen->type) return v.gen->type;
    return names[v.kind];
}

bool tc_tv_is_number(tc_tv v)
{
    return v.kind == TC_TV_INT || v.kind == TC_TV_FLOAT || v.kind == TC_TV_BOOL;
}

double tc_tv_number(tc_tv v)
{
    return v.kind == TC_TV_FLOAT ? v.f : v.kind == TC_TV_BOOL ? (double)v.b : (double)v.i;
}

static int64_t integer(tc_tv v)
{
    return v.kind == TC_TV_BOOL ? v.b : v.i;
}

bool tc_tv_index(tc_tr *r, tc_tv v, int64_t *ret)
{
    if (v.kind == TC_TV_INT || v.kind == TC_TV_BOOL) {
        *ret = integer(v);
        return true;
    }
    if (v.kind == TC_TV_UNDEFINED)
        tc_tv_undefined_error(r, v);
    else
        tc_tr_fail(r, "TypeError", "'%s' object cannot be interpreted as an integer", tc_tv_type(v));
    return false;
}

bool tc_tv_truth(tc_tv v)
{
    switch (v.kind) {
    case TC_TV_UNDEFINED:
    case TC_TV_NONE:
    case TC_TV_MISSING:
    case TC_TV_ERROR:
        return false;
    case TC_TV_BOOL:
        return v.b;
    case TC_TV_INT:
        return v.i != 0;
    case TC_TV_FLOAT:
        return v.f != 0;
    case TC_TV_STR:
        return v.s->bytes != 0;
    case TC_TV_LIST:
    case TC_TV_TUPLE:
        return v.l->count != 0;
    case TC_TV_DICT:
    case TC_TV_VIEW:
        return v.d->count != 0;
    case TC_TV_RANGE:
        return v.range->count != 0;
    default:
        return true;
    }
}

// ---- the undefined value
// -----------------------------------------------------------------------------------

static tc_tv undefined(tc_tr *r, const char *hint, const char *error, tc_tv object, tc_tv name)
{
    tc_tundef *u = tc_tr_alloc(r, sizeof *u);
    if (!u) return TC_TV_OF(TC_TV_ERROR);
    *u = (tc_tundef){hint, error, object, name};
    return (tc_tv){.kind = TC_TV_UNDEFINED, .u = u};
}

tc_tv tc_tv_undefined_name(tc_tr *r, const tc_ts *name)
{
    return undefined(r, NULL, "UndefinedError", TC_TV_OF(TC_TV_MISSING), tc_tv_of_str(name));
}

tc_tv tc_tv_undefined_hint(tc_tr *r, const char *hint)
{
    return undefined(r, hint, "UndefinedError", TC_TV_OF(TC_TV_MISSING), TC_TV_OF(TC_TV_NONE));
}

tc_tv tc_tv_undefined_of(tc_tr *r, tc_tv object, tc_tv name)
{
    return undefined(r, NULL, "UndefinedError", object, name);
}

tc_tv tc_tv_unsafe(tc_tr *r, tc_tv object, const tc_ts *name)
{
    return undefined(r, NULL, "SecurityError", object, tc_tv_of_str(name));
}

tc_tv tc_tv_undefined_error(tc_tr *r, tc_tv v)
{
    const tc_tundef *u = v.u;
    tc_tsb b = {0};
    const char *type = u->object.kind == TC_TV_NAMESPACE ? "jinja2.utils.Namespace" : tc_tv_type(u->object);
    bool ok = true, none = u->object.kind == TC_TV_NONE;
    if (u->hint) return tc_tr_fail(r, u->error, "%s", u->hint);
    if (!strcmp(u->error, "SecurityError"))
        ok = tc_tsb_text(r, &b, "access to attribute ") && tc_tv_repr(r, &b, u->name) &&
             tc_tsb_format(r, &b, " of '%s' object is unsafe.", type);
    else if (u->object.kind == TC_TV_MISSING)
        ok = tc_tv_repr(r, &b, u->name) && tc_tsb_text(r, &b, " is undefined");
    else if (u->name.kind == TC_TV_STR)
        ok =
            tc_tsb_format(r, &b, none ? "'None' has no attribute " : "'%s object' has no attribute ", type) &&
            tc_tv_repr(r, &b, u->name);
    else
        ok = tc_tsb_format(r, &b, none ? "None has no element " : "%s object has no element ", type) &&
             tc_tv_repr(r, &b, u->name);
    if (!ok) return TC_TV_OF(TC_TV_ERROR);
    return tc_tr_fail_text(r, u->error, (const char *)b.data, b.bytes);
}

// ---- equality and order
// ------------------------------------------------------------------------------------

static bool equal_deep(tc_tr *r, tc_tv a, tc_tv b, int depth);

static bool equal_lists(tc_tr *r, const tc_tl *a, const tc_tl *b, int depth)
{
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++)
        if (!equal_deep(r, a->items[i], b->items[i], depth)) return false;
    return true;
}

static bool equal_dicts(tc_tr *r, const tc_td *a, const tc_td *b, int depth)
{
    if (a == b) return true;
    if (a->count != b->count) return false;
    for (uint32_t i = 0; i < a->count; i++) {
        const tc_tv *other = tc_td_get(b, a->entries[i].key);
        if (!other || !equal_deep(r, a->entries[i].value, *other, depth)) return false;
    }
    return true;
}

static bool equal_numbers(tc_tv a, tc_tv b)
{
    if (a.kind != TC_TV_FLOAT && b.kind != TC_TV_FLOAT) return integer(a) == integer(b);
    return tc_tv_number(a) == tc_tv_number(b);
}

static bool equal_deep(tc_tr *r, tc_tv a, tc_tv b, int depth)
{
    if (r && !tc_tr_work(r, 1)) return false;
    if (depth == 0) {
        if (r) tc_tr_limit(r, "depth");
        return false;
    }
    if (tc_tv_is_number(a)) return tc_tv_is_number(b) && equal_numbers(a, b);
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case TC_TV_UNDEFINED:
    case TC_TV_NONE:
        return true;
    case TC_TV_STR:
    case TC_TV_BIG:
        return tc_ts_equal(a.s, b.s);
    case TC_TV_LIST:
    case TC_TV_TUPLE:
        return a.l == b.l || equal_lists(r, a.l, b.l, depth - 1);
    case TC_TV_DICT:
        return equal_dicts(r, a.d, b.d, depth - 1);
    case TC_TV_RANGE:
        return a.range->count == b.range->count &&
               (a.range->count == 0 || (a.range->start == b.range->start &&
                                        (a.range->count == 1 || a.range->step == b.range->step)));
    case TC_TV_FUNCTION:
        return a.sub == b.sub;
    case TC_TV_VIEW:
        return a.sub == b.sub && a.sub != 'v' && equal_dicts(r, a.d, b.d, depth - 1);
    default:
        return a.d == b.d; // the same object
    }
}

bool tc_tv_equal(tc_tr *r, tc_tv a, tc_tv b)
{
    return equal_deep(r, a, b, EQUAL_DEPTH_MAX);
}

static int compare_strings(const tc_ts *a, const tc_ts *b)
{
    size_t shorter = a->bytes < b->bytes ? a->bytes : b->bytes;
    int order = memcmp(a->data, b->data, shorter); // UTF-8 sorts as its code points do
    return order ? (order > 0) - (order < 0) : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

// What is beyond 64 bits only has to be told from smaller numbers.
static tc_tv big_as_float(tc_tv v)
{
    char digits[64];
    if (v.kind != TC_TV_BIG) return v;
    snprintf(digits, sizeof digits, "%.*s", (int)(v.s->bytes < 63 ? v.s->bytes : 63),
             (const char *)v.s->data);
    return tc_tv_float(strtod(digits, NULL));
}

bool tc_tv_compare(tc_tr *r, tc_tv a, tc_tv b, const char *op, int *ret)
{
    if (a.kind != b.kind) a = big_as_float(a), b = big_as_float(b);
    if (tc_tv_is_number(a) && tc_tv_is_number(b)) {
        if (a.kind != TC_TV_FLOAT && b.kind != TC_TV_FLOAT) {
            *ret = (integer(a) > integer(b)) - (integer(a) < integer(b));
        } else {
            double x = tc_tv_number(a), y = tc_tv_number(b);
            *ret = x > y ? 1 : x < y ? -1 : x == y ? 0 : TC_UNORDERED;
        }
        return true;
    }
    if (a.kind == TC_TV_STR && b.kind == TC_TV_STR) {
        *ret = compare_strings(a.s, b.s);
        return true;
    }
    if (a.kind == b.kind && (a.kind == TC_TV_LIST || a.kind == TC_TV_TUPLE)) {
        size_t shorter = a.l->count < b.l->count ? a.l->count : b.l->count;
        for (size_t i = 0; i < shorter; i++) {
            if (tc_tv_equal(r, a.l->items[i], b.l->items[i])) continue;
            if (r->failed || ++r->depth > EQUAL_DEPTH_MAX + TC_TEMPLATE_EVAL_DEPTH_MAX) return false;
            bool ok = tc_tv_compare(r, a.l->items[i], b.l->items[i], op, ret);
            r->depth--;
            return ok;
        }
        *ret = (a.l->count > b.l->count) - (a.l->count < b.l->count);
        return !r->failed;
    }
    if (a.kind == TC_TV_UNDEFINED || b.kind == TC_TV_UNDEFINED)
        tc_tv_undefined_error(r, a.kind == TC_TV_UNDEFINED ? a : b);
    else
        tc_tr_fail(r, "TypeError", "'%s' not supported between instances of '%s' and '%s'", op, tc_tv_type(a),
                   tc_tv_type(b));
    return false;
}

tc_tv tc_tv_contains(tc_tr *r, tc_tv in, tc_tv item)
{
    tc_titer it;
    tc_tv each;
    uint32_t hash;
    if (in.kind == TC_TV_STR) {
        if (item.kind != TC_TV_STR)
            return tc_tr_fail(r, "TypeError", "'in <string>' requires string as left operand, not %s",
                              tc_tv_type(item));
        if (!tc_tr_work(r, in.s->bytes / 64)) return TC_TV_OF(TC_TV_ERROR);
        return tc_tv_bool(tc_ts_find(in.s, 0, in.s->bytes, item.s) >= 0);
    }
    if (in.kind == TC_TV_DICT || (in.kind == TC_TV_VIEW && in.sub == 'k')) {
        if (!tc_tv_hash(item, &hash))
            return tc_tr_fail(r, "TypeError", "unhashable type: '%s'", tc_tv_type(item));
        return tc_tv_bool(tc_td_get(in.d, item) != NULL);
    }
    if (!tc_tv_iterable(in))
        return tc_tr_fail(r, "TypeError", "argument of type '%s' is not iterable", tc_tv_type(in));
    if (!tc_titer_begin(r, in, &it)) return TC_TV_OF(TC_TV_ERROR);
    while (tc_titer_next(r, &it, &each))
        if (tc_tv_equal(r, each, item)) return tc_tv_bool(true);
    return r->failed ? TC_TV_OF(TC_TV_ERROR) : tc_tv_bool(false);
}

tc_tv tc_tv_length(tc_tr *r, tc_tv v)
{
    switch (v.kind) {
    case TC_TV_UNDEFINED:
        return tc_tv_int(0);
    case TC_TV_STR:
        return tc_tv_int((int64_t)tc_ts_chars(v.s));
    case TC_TV_LIST:
    case TC_TV_TUPLE:
        return tc_tv_int((int64_t)v.l->count);
    case TC_TV_DICT:
    case TC_TV_VIEW:
        return tc_tv_int(v.d->count);
    case TC_TV_RANGE:
        return tc_tv_int((int64_t)v.range->count);
    case TC_TV_LOOP:
        return tc_loop_length(r, v.loop);
    default:
        return tc_tr_fail(r, "TypeError", "object of type '%s' has no len()", tc_tv_type(v));
    }
}

// ---- arithmetic
// --------------------------------------------------------------------------------------------

static tc_tv overflow(tc_tr *r)
{
    return tc_tr_fail(r, "OverflowError", "integers beyond 64 bits are not implemented");
}

static tc_tv int_power(tc_tr *r, int64_t a, int64_t b)
{
    int64_t result = 1;
    if (b < 0) {
        if (a == 0) return tc_tr_fail(r, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
        return tc_tv_float(pow((double)a, (double)b));
    }
    if (a == 0 || a == 1) return tc_tv_int(b == 0 ? 1 : a);
    if (a == -1) return tc_tv_int(b % 2 ? -1 : 1);
    for (; b > 0; b--)
        if (__builtin_mul_overflow(result, a, &result)) return overflow(r);
    return tc_tv_int(result);
}

static tc_tv int_binary(tc_tr *r, char op, int64_t a, int64_t b)
{
    int64_t result = 0;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &result);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case 'p':
        return int_power(r, a, b);
    default:
        if (b == 0)
            return tc_tr_fail(r, "ZeroDivisionError",
                              op == '/' ? "division by zero" : "integer division or modulo by zero");
        if (op == '/') return tc_tv_float((double)a / (double)b);
        if (b == -1) return op == '%' ? tc_tv_int(0) : int_binary(r, '-', 0, a);
        result = op == '%' ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) result += op == '%' ? b : -1; // towards minus infinity
    }
    return over ? overflow(r) : tc_tv_int(result);
}

static tc_tv float_binary(tc_tr *r, char op, double a, double b)
{
    switch (op) {
    case '+':
        return tc_tv_float(a + b);
    case '-':
        return tc_tv_float(a - b);
    case '*':
        return tc_tv_float(a * b);
    case 'p':
        if (a == 0 && b < 0)
            return tc_tr_fail(r, "ZeroDivisionError", "0.0 cannot be raised to a negative power");
        if (a < 0 && floor(b) != b) return tc_tr_fail(r, "TypeError", "complex numbers are not implemented");
        return tc_tv_float(pow(a, b));
    default:
        if (b == 0)
            return tc_tr_fail(r, "ZeroDivisionError", op == '/' ? "float division by zero" : "float modulo");
        if (op == '/') return tc_tv_float(a / b);
        double rest = fmod(a, b);
        if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
        if (op == '%') return tc_tv_float(rest == 0 ? copysign(0, b) : rest);
        return tc_tv_float(floor((a - rest) / b + 0.5));
    }
}

static tc_tv repeat(tc_tr *r, tc_tv what, int64_t times)
{
    tc_tsb b = {0};
    tc_tlb l = {0};
    if (times < 0) times = 0;
    if (what.kind == TC_TV_STR) {
        if (what.s->bytes == 0) times = 0;
        for (int64_t i = 0; i < times; i++)
            if (!tc_tr_work(r, 1) || !tc_tsb_str(r, &b, what.s)) return TC_TV_OF(TC_TV_ERROR);
        return tc_tv_as_markup(r, tc_tsb_take(r, &b), what.s->markup);
    }
    if (what.l->count == 0) times = 0;
    for (int64_t i = 0; i < times; i++)
        for (size_t k = 0; k < what.l->count; k++)
            if (!tc_tlb_push(r, &l, what.l->items[k])) return TC_TV_OF(TC_TV_ERROR);
    return tc_tlb_take(r, &l, what.kind);
}

static tc_tv add_sequences(tc_tr *r, tc_tv a, tc_tv b)
{
    tc_tlb l = {0};
    for (size_t i = 0; i < a.l->count; i++)
        if (!tc_tlb_push(r, &l, a.l->items[i])) return TC_TV_OF(TC_TV_ERROR);
    for (size_t i = 0; i < b.l->count; i++)
        if (!tc_tlb_push(r, &l, b.l->items[i])) return TC_TV_OF(TC_TV_ERROR);
    return tc_tlb_take(r, &l, a.kind);
}

static tc_tv add_strings(tc_tr *r, tc_tv a, tc_tv b)
{
    if (!a.s->markup && !b.s->markup) return tc_tv_concat(r, a.s, b.s);
    a = tc_tv_escape(r, a), b = tc_tv_escape(r, b);
    if (TC_TV_FAILED(a) || TC_TV_FAILED(b)) return TC_TV_OF(TC_TV_ERROR);
    return tc_tv_as_markup(r, tc_tv_concat(r, a.s, b.s), true);
}

static bool repeatable(tc_tv v)
{
    return v.kind == TC_TV_STR || v.kind == TC_TV_LIST || v.kind == TC_TV_TUPLE;
}

static bool is_int(tc_tv v)
{
    return v.kind == TC_TV_INT || v.kind == TC_TV_BOOL;
}

static tc_tv bad_operands(tc_tr *r, char op, tc_tv a, tc_tv b)
{
    if (op == '+' && repeatable(a))
        return tc_tr_fail(r, "TypeError", "can only concatenate %s (not \"%s\") to %s", tc_tv_type(a),
                          tc_tv_type(b), tc_tv_type(a));
    if (op == '*' && (repeatable(a) || repeatable(b)))
        return tc_tr_fail(r, "TypeError", "can't multiply sequence by non-int of type '%s'",
                          tc_tv_type(repeatable(a) ? b : a));
    char text[3] = {op, 0, 0};
    if (op == 'p') memcpy(text, "**", 2);
    if (op == 'f') memcpy(text, "//", 2);
    return tc_tr_fail(r, "TypeError", "unsupported operand type(s) for %s: '%s' and '%s'", text,
                      tc_tv_type(a), tc_tv_type(b));
}

tc_tv tc_tv_binary(tc_tr *r, char op, tc_tv a, tc_tv b)
{
    if (op == '%' && a.kind == TC_TV_STR) return tc_percent_format(r, a, b);
    if (a.kind == TC_TV_UNDEFINED || b.kind == TC_TV_UNDEFINED)
        return tc_tv_undefined_error(r, a.kind == TC_TV_UNDEFINED ? a : b);
    if (op == '+' && a.kind == TC_TV_STR && b.kind == TC_TV_STR) return add_strings(r, a, b);
    if (tc_tv_is_number(a) && tc_tv_is_number(b)) {
        if (is_int(a) && is_int(b)) return int_binary(r, op, integer(a), integer(b));
        return float_binary(r, op, tc_tv_number(a), tc_tv_number(b));
    }
    if (op == '+' && a.kind == b.kind && repeatable(a)) return add_sequences(r, a, b);
    if (op == '*' && repeatable(a) && is_int(b)) return repeat(r, a, integer(b));
    if (op == '*' && repeatable(b) && is_int(a)) return repeat(r, b, integer(a));
    if (a.kind == TC_TV_BIG || b.kind == TC_TV_BIG) return overflow(r);
    return bad_operands(r, op, a, b);
}

tc_tv tc_tv_negate(tc_tr *r, tc_tv v, bool negative)
{
    if (v.kind == TC_TV_UNDEFINED) return tc_tv_undefined_error(r, v);
    if (v.kind == TC_TV_FLOAT) return tc_tv_float(negative ? -v.f : v.f);
    if (is_int(v)) return int_binary(r, negative ? '-' : '+', 0, integer(v));
    return tc_tr_fail(r, "TypeError", "bad operand type for unary %c: '%s'", negative ? '-' : '+',
                      tc_tv_type(v));
}
