// SPDX-License-Identifier: Apache-2.0
// Owns: evaluating expressions. Every evaluation counts as one step, and all but leaves as one level of
// depth.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <string.h>

static tc_tv eval_name(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv v = *tc_tr_slot(f, n->ref);
    return v.kind == TC_TV_MISSING ? tc_tv_undefined_name(r, &n->id->text) : v;
}

static tc_tv eval_items(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tlb b = {0};
    for (uint32_t i = 0; i < n->items.count; i++) {
        tc_tv v = tc_tr_eval(r, f, n->items.items[i]);
        if (TC_TV_FAILED(v) || !tc_tlb_push(r, &b, v)) return TC_TV_OF(TC_TV_ERROR);
    }
    return tc_tlb_take(r, &b, n->kind == TC_N_LIST ? TC_TV_LIST : TC_TV_TUPLE);
}

static tc_tv eval_dict(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_td *d = tc_td_new(r, n->items.count / 2);
    if (!d) return TC_TV_OF(TC_TV_ERROR);
    for (uint32_t i = 0; i + 1 < n->items.count; i += 2) {
        tc_tv key = tc_tr_eval(r, f, n->items.items[i]);
        if (TC_TV_FAILED(key)) return key;
        tc_tv value = tc_tr_eval(r, f, n->items.items[i + 1]);
        if (TC_TV_FAILED(value) || !tc_td_set(r, d, key, value)) return TC_TV_OF(TC_TV_ERROR);
    }
    return (tc_tv){.kind = TC_TV_DICT, .d = d};
}

static tc_tv compare_one(tc_tr *r, int op, tc_tv a, tc_tv b)
{
    int order;
    if (op == TC_OP_EQ || op == TC_OP_NE) {
        if (a.kind == TC_TV_STR && b.kind == TC_TV_STR)
            return tc_tv_bool(tc_ts_equal(a.s, b.s) == (op == TC_OP_EQ));
        bool equal = tc_tv_equal(r, a, b);
        return r->failed ? TC_TV_OF(TC_TV_ERROR) : tc_tv_bool(equal == (op == TC_OP_EQ));
    }
    if (op == TC_OP_IN || op == TC_OP_NOT_IN) {
        tc_tv v = tc_tv_contains(r, b, a);
        return TC_TV_FAILED(v) ? v : tc_tv_bool(v.b == (op == TC_OP_IN));
    }
    const char *text = op == '<' ? "<" : op == '>' ? ">" : op == TC_OP_LE ? "<=" : ">=";
    if (!tc_tv_compare(r, a, b, text, &order)) return TC_TV_OF(TC_TV_ERROR);
    if (order == TC_UNORDERED) return tc_tv_bool(false);
    return tc_tv_bool(op == '<'        ? order < 0
                      : op == '>'      ? order > 0
                      : op == TC_OP_LE ? order <= 0
                                       : order >= 0);
}

static tc_tv eval_compare(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv left = tc_tr_eval(r, f, n->a), result = tc_tv_bool(true);
    for (uint32_t i = 0; i < n->items.count && !TC_TV_FAILED(left); i++) {
        const tc_tn *operand = n->items.items[i];
        tc_tv right = tc_tr_eval(r, f, operand->a);
        if (TC_TV_FAILED(right)) return right;
        result = compare_one(r, operand->op, left, right);
        if (TC_TV_FAILED(result) || !result.b) return result;
        left = right;
    }
    return TC_TV_FAILED(left) ? left : result;
}

static tc_tv eval_concat(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv left = tc_tr_eval(r, f, n->items.items[0]);
    left = TC_TV_FAILED(left) ? left : tc_tv_to_str(r, left);
    for (uint32_t i = 1; i < n->items.count && !TC_TV_FAILED(left); i++) {
        tc_tv right = tc_tr_eval(r, f, n->items.items[i]);
        right = TC_TV_FAILED(right) ? right : tc_tv_to_str(r, right);
        left = TC_TV_FAILED(right) ? right : tc_tv_concat(r, left.s, right.s);
    }
    return tc_tv_as_markup(r, left, false);
}

static tc_tv eval_condition(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv test = tc_tr_eval(r, f, n->b);
    if (TC_TV_FAILED(test)) return test;
    if (tc_tv_truth(test)) return tc_tr_eval(r, f, n->a);
    if (n->c) return tc_tr_eval(r, f, n->c);
    return tc_tv_undefined_hint(
        r, "the inline if-expression evaluated to false and no else section was defined.");
}

static tc_tv eval_part(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    return n ? tc_tr_eval(r, f, n) : TC_TV_OF(TC_TV_NONE);
}

static tc_tv eval_getitem(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv object = tc_tr_eval(r, f, n->a);
    if (TC_TV_FAILED(object)) return object;
    if (n->b->kind != TC_N_SLICE) {
        tc_tv key = tc_tr_eval(r, f, n->b);
        return TC_TV_FAILED(key) ? key : tc_tv_getitem(r, object, key);
    }
    tc_tv start = eval_part(r, f, n->b->a), stop = eval_part(r, f, n->b->b), step = eval_part(r, f, n->b->c);
    if (r->failed) return TC_TV_OF(TC_TV_ERROR);
    return tc_tv_slice(r, object, start, stop, step);
}

// ---- calls
// -------------------------------------------------------------------------------------------------

static bool add_named(tc_tr *r, tc_targs *args, const tc_ts *name, tc_tv value, size_t room)
{
    for (size_t i = 0; i < args->named; i++)
        if (tc_ts_equal(args->names[i], name)) {
            tc_tr_fail(r, "TypeError", "got multiple values for keyword argument '%.*s'", (int)name->bytes,
                       (const char *)name->data);
            return false;
        }
    if (args->named == room) {
        tc_tr_limit(r, "arguments");
        return false;
    }
    args->names[args->named] = name;
    args->values[args->named++] = value;
    return true;
}

static bool star_star(tc_tr *r, tc_tframe *f, const tc_tn *n, tc_targs *ret, size_t room, tc_tv *ret_dict)
{
    *ret_dict = n ? tc_tr_eval(r, f, n) : TC_TV_OF(TC_TV_NONE);
    if (!n) return true;
    if (TC_TV_FAILED(*ret_dict)) return false;
    if (ret_dict->kind == TC_TV_DICT) return true;
    tc_tr_fail(r, "TypeError", "argument after ** must be a mapping, not %s", tc_tv_type(*ret_dict));
    return false;
}

bool tc_tr_args(tc_tr *r, tc_tframe *f, const tc_targs_node *n, tc_targs *ret)
{
    tc_tlb items = {0};
    tc_tv dict;
    *ret = (tc_targs){0};
    if (!n) return true;
    for (uint32_t i = 0; i < n->positional.count; i++) {
        tc_tv v = tc_tr_eval(r, f, n->positional.items[i]);
        if (TC_TV_FAILED(v) || !tc_tlb_push(r, &items, v)) return false;
    }
    if (n->star) {
        tc_tv v = tc_tr_eval(r, f, n->star);
        if (TC_TV_FAILED(v) || !tc_tv_collect(r, v, &items)) return false;
    }
    ret->items = items.items, ret->count = items.count;
    if (!n->keyword_values.count && !n->star_star) return true;
    if (!star_star(r, f, n->star_star, ret, 0, &dict)) return false;
    // One more than needed: `call` blocks add their caller.
    size_t room = n->keyword_values.count + (dict.kind == TC_TV_DICT ? dict.d->count : 0) + 1;
    ret->names = tc_tr_alloc(r, room * sizeof *ret->names);
    ret->values = tc_tr_alloc(r, room * sizeof *ret->values);
    if (!ret->names || !ret->values) return false;
    for (uint32_t i = 0; i < n->keyword_values.count; i++) {
        tc_tv v = tc_tr_eval(r, f, n->keyword_values.items[i]);
        if (TC_TV_FAILED(v) || !add_named(r, ret, n->keywords[i], v, room)) return false;
    }
    for (uint32_t i = 0; dict.kind == TC_TV_DICT && i < dict.d->count; i++) {
        if (dict.d->entries[i].key.kind != TC_TV_STR) {
            tc_tr_fail(r, "TypeError", "keywords must be strings");
            return false;
        }
        if (!add_named(r, ret, dict.d->entries[i].key.s, dict.d->entries[i].value, room)) return false;
    }
    return true;
}

tc_tv tc_tr_call(tc_tr *r, tc_tv callee, tc_targs *args)
{
    switch (callee.kind) {
    case TC_TV_MACRO:
        return tc_macro_call(r, callee.macro, args);
    case TC_TV_METHOD:
        return tc_method_call(r, callee.method, args);
    case TC_TV_FUNCTION:
        return tc_global_call(r, callee.sub, args);
    case TC_TV_LOOP:
        return tc_loop_call(r, callee.loop, args);
    case TC_TV_JOINER:
        if (callee.cycle->at++) return callee.cycle->text;
        return tc_tv_text(r, "");
    case TC_TV_UNDEFINED:
        return tc_tv_undefined_error(r, callee);
    default:
        return tc_tr_fail(r, "TypeError", "'%s' object is not callable", tc_tv_type(callee));
    }
}

static tc_tv eval_call(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_targs args;
    tc_tv callee = tc_tr_eval(r, f, n->a);
    if (TC_TV_FAILED(callee) || !tc_tr_args(r, f, n->args, &args)) return TC_TV_OF(TC_TV_ERROR);
    return tc_tr_call(r, callee, &args);
}

tc_tv tc_tr_filter(tc_tr *r, tc_tframe *f, const tc_tn *n, tc_tv in)
{
    tc_targs args;
    if (n->a) { // `x|first|second`: the one before
        in = n->a->kind == TC_N_FILTER ? tc_tr_filter(r, f, n->a, in) : tc_tr_eval(r, f, n->a);
        if (TC_TV_FAILED(in)) return in;
    }
    if (!tc_tr_args(r, f, n->args, &args)) return TC_TV_OF(TC_TV_ERROR);
    if (n->which < 0)
        return tc_tr_fail(r, "TemplateRuntimeError", "No filter named '%.*s' found.", (int)n->name->bytes,
                          (const char *)n->name->data);
    return tc_filter_call(r, n->which, in, &args);
}

static tc_tv eval_test(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_targs args;
    tc_tv in = tc_tr_eval(r, f, n->a);
    if (TC_TV_FAILED(in) || !tc_tr_args(r, f, n->args, &args)) return TC_TV_OF(TC_TV_ERROR);
    if (n->which < 0)
        return tc_tr_fail(r, "TemplateRuntimeError", "No test named '%.*s' found.", (int)n->name->bytes,
                          (const char *)n->name->data);
    return tc_test_call(r, n->which, in, &args);
}

static tc_tv eval_binary(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv a = tc_tr_eval(r, f, n->a);
    if (TC_TV_FAILED(a)) return a;
    tc_tv b = tc_tr_eval(r, f, n->b);
    return TC_TV_FAILED(b) ? b : tc_tv_binary(r, (char)n->op, a, b);
}

static tc_tv eval_logic(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv a = tc_tr_eval(r, f, n->a);
    if (n->kind == TC_N_NOT) return TC_TV_FAILED(a) ? a : tc_tv_bool(!tc_tv_truth(a));
    if (TC_TV_FAILED(a) || tc_tv_truth(a) == (n->kind == TC_N_OR)) return a;
    return tc_tr_eval(r, f, n->b);
}

static tc_tv eval(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv v;
    switch ((tc_tn_kind)n->kind) {
    case TC_N_TUPLE:
    case TC_N_LIST:
        return eval_items(r, f, n);
    case TC_N_DICT:
        return eval_dict(r, f, n);
    case TC_N_NOT:
    case TC_N_AND:
    case TC_N_OR:
        return eval_logic(r, f, n);
    case TC_N_NEGATE:
        v = tc_tr_eval(r, f, n->a);
        return TC_TV_FAILED(v) ? v : tc_tv_negate(r, v, n->op == '-');
    case TC_N_BINARY:
        return eval_binary(r, f, n);
    case TC_N_COMPARE:
        return eval_compare(r, f, n);
    case TC_N_CONCAT:
        return eval_concat(r, f, n);
    case TC_N_COND:
        return eval_condition(r, f, n);
    case TC_N_GETATTR:
        v = tc_tr_eval(r, f, n->a);
        return TC_TV_FAILED(v) ? v : tc_tv_getattr(r, v, n->name, n->which);
    case TC_N_GETITEM:
        return eval_getitem(r, f, n);
    case TC_N_CALL:
        return eval_call(r, f, n);
    case TC_N_FILTER:
        return tc_tr_filter(r, f, n, TC_TV_OF(TC_TV_NONE));
    case TC_N_TEST:
        return eval_test(r, f, n);
    default:
        return tc_tr_fail(r, "TypeError", "not an expression"); // a slice among several indices
    }
}

tc_tv tc_tr_eval(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv v = TC_TV_OF(TC_TV_ERROR);
    if (!tc_tr_work(r, 1)) return v;
    if (n->kind == TC_N_CONST) return n->value; // most are leaves
    if (n->kind == TC_N_NAME) return eval_name(r, f, n);
    if (tc_tr_deeper(r)) v = eval(r, f, n);
    r->depth--;
    return v;
}
