// SPDX-License-Identifier: Apache-2.0
// Owns: the tests behind `is`.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <math.h>
#include <string.h>

static tc_tv is_defined(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind != TC_TV_UNDEFINED);
}

static tc_tv is_undefined(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_UNDEFINED);
}

static tc_tv is_none(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_NONE);
}

static tc_tv is_boolean(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_BOOL);
}

static tc_tv is_true(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_BOOL && v.b);
}

static tc_tv is_false(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_BOOL && !v.b);
}

static tc_tv is_integer(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_INT || v.kind == TC_TV_BIG);
}

static tc_tv is_float(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_FLOAT);
}

static tc_tv is_number(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(tc_tv_is_number(v) || v.kind == TC_TV_BIG);
}

static tc_tv is_string(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_STR);
}

static tc_tv is_mapping(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_DICT);
}

// What has a length and can be indexed. (The undefined value has both, in its way.)
static tc_tv is_sequence(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_STR || v.kind == TC_TV_LIST || v.kind == TC_TV_TUPLE ||
                      v.kind == TC_TV_DICT || v.kind == TC_TV_RANGE || v.kind == TC_TV_UNDEFINED);
}

static tc_tv is_iterable(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(tc_tv_iterable(v));
}

static tc_tv is_callable(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_MACRO || v.kind == TC_TV_FUNCTION || v.kind == TC_TV_METHOD ||
                      v.kind == TC_TV_LOOP || v.kind == TC_TV_JOINER || v.kind == TC_TV_UNDEFINED);
}

static tc_tv is_escaped(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_STR && v.s->markup);
}

static tc_tv remainder_is(tc_tr *r, tc_tv v, tc_tv by, int64_t wanted)
{
    tc_tv rest = tc_tv_binary(r, '%', v, by);
    return TC_TV_FAILED(rest) ? rest : tc_tv_bool(tc_tv_equal(r, rest, tc_tv_int(wanted)));
}

static tc_tv is_odd(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)a;
    return remainder_is(r, v, tc_tv_int(2), 1);
}

static tc_tv is_even(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)a;
    return remainder_is(r, v, tc_tv_int(2), 0);
}

static tc_tv is_divisible(tc_tr *r, tc_tv v, tc_targs *a)
{
    return remainder_is(r, v, a->items[0], 0);
}

static tc_tv cased(tc_tr *r, tc_tv v, int method)
{
    v = tc_tv_to_str(r, v);
    return TC_TV_FAILED(v) ? v : tc_tv_bool(tc_str_is(v.s, method));
}

static tc_tv is_lower(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)a;
    return cased(r, v, TC_METHOD_islower);
}

static tc_tv is_upper(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)a;
    return cased(r, v, TC_METHOD_isupper);
}

// The same object. Small integers, None and booleans are; strings and lists only when nothing was computed.
static tc_tv is_same(tc_tr *r, tc_tv v, tc_targs *a)
{
    tc_tv other = a->items[0];
    if (v.kind != other.kind) return tc_tv_bool(false);
    switch (v.kind) {
    case TC_TV_NONE:
    case TC_TV_BOOL:
    case TC_TV_INT:
        return tc_tv_bool(tc_tv_equal(r, v, other));
    case TC_TV_STR:
        return tc_tv_bool(v.s == other.s || (v.s->bytes < 2 && tc_ts_equal(v.s, other.s)));
    default:
        return tc_tv_bool(v.d == other.d);
    }
}

static tc_tv is_in(tc_tr *r, tc_tv v, tc_targs *a)
{
    return tc_tv_contains(r, a->items[0], v);
}

static tc_tv is_filter(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_STR && tc_filter_find(v.s) >= 0);
}

static tc_tv is_test(tc_tr *r, tc_tv v, tc_targs *a)
{
    (void)r, (void)a;
    return tc_tv_bool(v.kind == TC_TV_STR && tc_test_find(v.s) >= 0);
}

static tc_tv is_equal(tc_tr *r, tc_tv v, tc_targs *a)
{
    bool equal = tc_tv_equal(r, v, a->items[0]);
    return r->failed ? TC_TV_OF(TC_TV_ERROR) : tc_tv_bool(equal);
}

static tc_tv is_not_equal(tc_tr *r, tc_tv v, tc_targs *a)
{
    bool equal = tc_tv_equal(r, v, a->items[0]);
    return r->failed ? TC_TV_OF(TC_TV_ERROR) : tc_tv_bool(!equal);
}

static tc_tv ordered(tc_tr *r, tc_tv v, tc_targs *a, const char *op)
{
    int order;
    if (!tc_tv_compare(r, v, a->items[0], op, &order)) return TC_TV_OF(TC_TV_ERROR);
    if (order == TC_UNORDERED) return tc_tv_bool(false);
    return tc_tv_bool((op[0] == '<' ? order < 0 : order > 0) || (op[1] == '=' && order == 0));
}

static tc_tv is_less(tc_tr *r, tc_tv v, tc_targs *a)
{
    return ordered(r, v, a, "<");
}

static tc_tv is_at_most(tc_tr *r, tc_tv v, tc_targs *a)
{
    return ordered(r, v, a, "<=");
}

static tc_tv is_more(tc_tr *r, tc_tv v, tc_targs *a)
{
    return ordered(r, v, a, ">");
}

static tc_tv is_at_least(tc_tr *r, tc_tv v, tc_targs *a)
{
    return ordered(r, v, a, ">=");
}

static const struct {
    const char *name;
    tc_tv (*run)(tc_tr *r, tc_tv v, tc_targs *args);
    size_t arguments;
} tests[] = {
    {"defined", is_defined, 0},
    {"undefined", is_undefined, 0},
    {"none", is_none, 0},
    {"string", is_string, 0},
    {"mapping", is_mapping, 0},
    {"iterable", is_iterable, 0},
    {"sequence", is_sequence, 0},
    {"number", is_number, 0},
    {"integer", is_integer, 0},
    {"float", is_float, 0},
    {"boolean", is_boolean, 0},
    {"true", is_true, 0},
    {"false", is_false, 0},
    {"odd", is_odd, 0},
    {"even", is_even, 0},
    {"divisibleby", is_divisible, 1},
    {"lower", is_lower, 0},
    {"upper", is_upper, 0},
    {"callable", is_callable, 0},
    {"escaped", is_escaped, 0},
    {"sameas", is_same, 1},
    {"in", is_in, 1},
    {"filter", is_filter, 0},
    {"test", is_test, 0},
    {"eq", is_equal, 1},
    {"equalto", is_equal, 1},
    {"==", is_equal, 1},
    {"ne", is_not_equal, 1},
    {"!=", is_not_equal, 1},
    {"lt", is_less, 1},
    {"lessthan", is_less, 1},
    {"<", is_less, 1},
    {"le", is_at_most, 1},
    {"<=", is_at_most, 1},
    {"gt", is_more, 1},
    {"greaterthan", is_more, 1},
    {">", is_more, 1},
    {"ge", is_at_least, 1},
    {">=", is_at_least, 1},
};

int tc_test_find(const tc_ts *name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (tc_ts_is(name, tests[i].name)) return (int)i;
    return -1;
}

tc_tv tc_test_call(tc_tr *r, int which, tc_tv in, tc_targs *args)
{
    tc_tv one;
    if (args->named && tests[which].arguments == 1) { // `is divisibleby(num=3)`
        args->items = args->count ? args->items : &one;
        if (args->count || args->named > 1)
            return tc_tr_fail(r, "TypeError", "is %s: too many arguments", tests[which].name);
        one = args->values[0];
        args->count = 1;
    } else if (args->named) {
        return tc_tr_fail(r, "TypeError", "is %s: unexpected argument", tests[which].name);
    }
    if (args->count != tests[which].arguments)
        return tc_tr_fail(r, "TypeError", "is %s: takes %zu argument(s), %zu given", tests[which].name,
                          tests[which].arguments, args->count);
    return tests[which].run(r, in, args);
}
