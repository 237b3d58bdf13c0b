// SPDX-License-Identifier: Apache-2.0
// Owns: carrying out statements: output, branches, assignments, captured bodies. Loops are in
// template_loop.c, macros in template_call.c.
#include "common/text/template_run.h"
#include <string.h>

tc_tframe *tc_tr_frame(tc_tr *r, const tc_tfunction *function, tc_tframe *outer)
{
    tc_tframe *f = tc_tr_alloc(r, sizeof *f + function->slots * sizeof f->slots[0]);
    if (!f) return NULL;
    f->outer = outer;
    for (uint32_t i = 0; i < function->slots; i++) f->slots[i] = TC_TV_OF(TC_TV_MISSING);
    return f;
}

static tc_tv resolve(tc_tr *r, const tc_ts *name)
{
    const tc_tv *v = tc_td_get_str(r->globals, name);
    return v ? *v : tc_global_find(r, name);
}

bool tc_tr_enter(tc_tr *r, tc_tframe *f, const tc_tscope *scope)
{
    for (uint32_t i = 0; i < scope->entering_count; i++) {
        const tc_tentering *e = &scope->entering[i];
        if (!tc_tr_work(r, 1)) return false;
        f->slots[e->slot] = e->load == TC_LOAD_ALIAS     ? *tc_tr_slot(f, e->source)
                            : e->load == TC_LOAD_RESOLVE ? resolve(r, e->name)
                                                         : TC_TV_OF(TC_TV_MISSING);
    }
    return true;
}

static bool unpack(tc_tr *r, tc_tframe *f, const tc_tn *target, tc_tv value)
{
    tc_titer it;
    tc_tv item;
    uint32_t want = target->items.count, got = 0;
    if (!tc_tv_iterable(value)) {
        tc_tr_fail(r, "TypeError", "cannot unpack non-iterable %s object", tc_tv_type(value));
        return false;
    }
    tc_tv *items = tc_tr_alloc(r, (want + 1) * sizeof *items);
    if (!items || !tc_titer_begin(r, value, &it)) return false;
    while (got <= want && tc_titer_next(r, &it, &item))
        if (got++ < want) items[got - 1] = item;
    if (r->failed) return false;
    if (got != want) {
        if (got > want)
            tc_tr_fail(r, "ValueError", "too many values to unpack (expected %u)", want);
        else
            tc_tr_fail(r, "ValueError", "not enough values to unpack (expected %u, got %u)", want, got);
        return false;
    }
    for (uint32_t i = 0; i < want; i++)
        if (!tc_tr_assign(r, f, target->items.items[i], items[i])) return false;
    return true;
}

bool tc_tr_assign(tc_tr *r, tc_tframe *f, const tc_tn *target, tc_tv value)
{
    if (target->kind == TC_N_TUPLE) return unpack(r, f, target, value);
    tc_tv *slot = tc_tr_slot(f, target->ref);
    if (target->kind != TC_N_NSREF) {
        *slot = value;
        return true;
    }
    if (slot->kind == TC_TV_NAMESPACE) return tc_td_set(r, slot->d, tc_tv_of_str(target->name), value);
    tc_tr_fail(r, "TemplateRuntimeError", "cannot assign attribute on non-namespace object");
    return false;
}

// A namespace among the targets is checked before the value is computed.
static bool check_namespaces(tc_tr *r, tc_tframe *f, const tc_tn *target)
{
    if (target->kind == TC_N_NSREF && tc_tr_slot(f, target->ref)->kind != TC_TV_NAMESPACE) {
        tc_tr_fail(r, "TemplateRuntimeError", "cannot assign attribute on non-namespace object");
        return false;
    }
    for (uint32_t i = 0; target->kind == TC_N_TUPLE && i < target->items.count; i++)
        if (!check_namespaces(r, f, target->items.items[i])) return false;
    return true;
}

// Runs a body and gives back what it wrote.
static tc_flow capture(tc_tr *r, tc_tframe *f, const tc_tn *n, tc_tv *ret)
{
    tc_tsb text = {0}, *out = r->out;
    if (!tc_tr_enter(r, f, n->scope)) return TC_FLOW_FAILED;
    r->out = &text;
    tc_flow flow = tc_tr_body(r, f, &n->body);
    r->out = out;
    if (flow != TC_FLOW_NEXT) return flow;
    *ret = tc_tsb_take(r, &text);
    return TC_TV_FAILED(*ret) ? TC_FLOW_FAILED : TC_FLOW_NEXT;
}

static bool print_expression(tc_tr *r, tc_tframe *f, const tc_tn *n);

static bool plain_string(tc_tv v)
{
    return v.kind == TC_TV_STR && !v.s->markup;
}

// `a + b + c`: strings go out one by one, without a copy that joins them. Whatever else is met is added as
// ever.
static bool print_sum(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    enum { TERMS = 32 };
    const tc_tn *terms[TERMS];
    uint32_t count = 0, strings = 0;
    tc_tv values[TERMS], sum;
    for (; n->kind == TC_N_BINARY && n->op == '+' && count < TERMS - 1; n = n->a) terms[count++] = n->b;
    sum = tc_tr_eval(r, f, n);
    bool plain = plain_string(sum);
    if (plain) values[strings++] = sum;
    while (count > 0 && !TC_TV_FAILED(sum)) {
        tc_tv v = tc_tr_eval(r, f, terms[--count]);
        if (TC_TV_FAILED(v)) return false;
        if (plain && plain_string(v)) {
            values[strings++] = v;
            continue;
        }
        for (uint32_t i = 1; plain && i < strings; i++)
            if (TC_TV_FAILED(sum = tc_tv_concat(r, sum.s, values[i].s))) return false;
        plain = false;
        sum = tc_tv_binary(r, '+', sum, v);
    }
    if (TC_TV_FAILED(sum)) return false;
    if (!plain) return tc_tv_print(r, r->out, sum);
    for (uint32_t i = 0; i < strings; i++)
        if (!tc_tsb_str(r, r->out, values[i].s)) return false;
    return true;
}

static bool print_condition(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv test = tc_tr_eval(r, f, n->b);
    if (TC_TV_FAILED(test)) return false;
    if (tc_tv_truth(test)) return print_expression(r, f, n->a);
    return !n->c || print_expression(r, f, n->c); // without `else` it is undefined: nothing
}

static bool print_concat(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    for (uint32_t i = 0; i < n->items.count; i++) {
        tc_tv v = tc_tr_eval(r, f, n->items.items[i]);
        if (TC_TV_FAILED(v) || !tc_tv_print(r, r->out, v)) return false;
    }
    return true;
}

// What the expression is as text, written out. An error discards all that was written, so parts may go first.
static bool print_expression(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    bool ok;
    if (n->kind != TC_N_CONCAT && n->kind != TC_N_COND && (n->kind != TC_N_BINARY || n->op != '+')) {
        tc_tv v = tc_tr_eval(r, f, n);
        return !TC_TV_FAILED(v) && tc_tv_print(r, r->out, v);
    }
    ok = tc_tr_deeper(r) && tc_tr_work(r, 1) &&
         (n->kind == TC_N_CONCAT ? print_concat(r, f, n)
          : n->kind == TC_N_COND ? print_condition(r, f, n)
                                 : print_sum(r, f, n));
    r->depth--;
    return ok;
}

static tc_flow exec_output(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    for (uint32_t i = 0; i < n->items.count; i++)
        if (!print_expression(r, f, n->items.items[i])) return TC_FLOW_FAILED;
    return TC_FLOW_NEXT;
}

static tc_flow exec_if(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    for (uint32_t i = 0; i < n->items.count; i++) {
        tc_tv test = tc_tr_eval(r, f, n->items.items[i]);
        if (TC_TV_FAILED(test)) return TC_FLOW_FAILED;
        if (tc_tv_truth(test)) return tc_tr_body(r, f, &n->bodies[i]);
    }
    return tc_tr_body(r, f, &n->else_body);
}

static tc_flow exec_set(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    if (!check_namespaces(r, f, n->a)) return TC_FLOW_FAILED;
    tc_tv v = tc_tr_eval(r, f, n->b);
    return !TC_TV_FAILED(v) && tc_tr_assign(r, f, n->a, v) ? TC_FLOW_NEXT : TC_FLOW_FAILED;
}

static tc_flow exec_set_block(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv v;
    tc_flow flow = capture(r, f, n, &v);
    if (flow != TC_FLOW_NEXT) return flow;
    if (n->b) v = tc_tr_filter(r, f, n->b, v);
    return !TC_TV_FAILED(v) && tc_tr_assign(r, f, n->a, v) ? TC_FLOW_NEXT : TC_FLOW_FAILED;
}

// What a filter block or a call block gives goes out as it is: only a string can.
static tc_flow write_string(tc_tr *r, tc_tv v)
{
    if (TC_TV_FAILED(v)) return TC_FLOW_FAILED;
    if (v.kind == TC_TV_STR) return tc_tsb_str(r, r->out, v.s) ? TC_FLOW_NEXT : TC_FLOW_FAILED;
    tc_tr_fail(r, "TypeError", "sequence item 0: expected str instance, %s found", tc_tv_type(v));
    return TC_FLOW_FAILED;
}

static tc_flow exec_filter_block(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv v;
    tc_flow flow = capture(r, f, n, &v);
    if (flow != TC_FLOW_NEXT) return flow;
    return write_string(r, tc_tr_filter(r, f, n->a, v));
}

static tc_flow exec_with(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    if (!tc_tr_enter(r, f, n->scope)) return TC_FLOW_FAILED;
    for (uint32_t i = 0; i < n->items.count; i++) {
        tc_tv v = tc_tr_eval(r, f, n->defaults.items[i]);
        if (TC_TV_FAILED(v) || !tc_tr_assign(r, f, n->items.items[i], v)) return TC_FLOW_FAILED;
    }
    return tc_tr_body(r, f, &n->body);
}

static tc_tv new_macro(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tmacro *m = tc_tr_alloc(r, sizeof *m);
    if (!m) return TC_TV_OF(TC_TV_ERROR);
    *m = (tc_tmacro){n, f};
    return (tc_tv){.kind = TC_TV_MACRO, .macro = m};
}

static tc_flow exec_call_block(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    static const tc_ts caller = {.data = (const uint8_t *)"caller", .bytes = 6, .chars = 6};
    tc_targs args, with;
    tc_tv macro = new_macro(r, f, n);
    tc_tv callee = TC_TV_FAILED(macro) ? macro : tc_tr_eval(r, f, n->a->a);
    if (TC_TV_FAILED(callee) || !tc_tr_args(r, f, n->a->args, &args)) return TC_FLOW_FAILED;
    with = args;
    with.names = tc_tr_alloc(r, (args.named + 1) * sizeof *with.names);
    with.values = tc_tr_alloc(r, (args.named + 1) * sizeof *with.values);
    if (!with.names || !with.values) return TC_FLOW_FAILED;
    if (args.named) {
        memcpy(with.names, args.names, args.named * sizeof *with.names);
        memcpy(with.values, args.values, args.named * sizeof *with.values);
    }
    with.names[args.named] = &caller;
    with.values[with.named++] = macro;
    return write_string(r, tc_tr_call(r, callee, &with));
}

static tc_flow exec(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv v;
    switch ((tc_tn_kind)n->kind) {
    case TC_N_DATA:
        return tc_tsb_str(r, r->out, n->value.s) ? TC_FLOW_NEXT : TC_FLOW_FAILED;
    case TC_N_OUTPUT:
        return exec_output(r, f, n);
    case TC_N_IF:
        return exec_if(r, f, n);
    case TC_N_FOR:
        return tc_tr_for(r, f, n);
    case TC_N_SET:
        return exec_set(r, f, n);
    case TC_N_SET_BLOCK:
        return exec_set_block(r, f, n);
    case TC_N_MACRO:
        v = new_macro(r, f, n);
        return !TC_TV_FAILED(v) && tc_tr_assign(r, f, n->c, v) ? TC_FLOW_NEXT : TC_FLOW_FAILED;
    case TC_N_CALL_BLOCK:
        return exec_call_block(r, f, n);
    case TC_N_FILTER_BLOCK:
        return exec_filter_block(r, f, n);
    case TC_N_WITH:
        return exec_with(r, f, n);
    case TC_N_SCOPE:
        return tc_tr_enter(r, f, n->scope) ? tc_tr_body(r, f, &n->body) : TC_FLOW_FAILED;
    case TC_N_BREAK:
        return TC_FLOW_BREAK;
    case TC_N_CONTINUE:
        return TC_FLOW_CONTINUE;
    case TC_N_NO_LOADER:
    default:
        tc_tr_fail(r, "TypeError", "no loader for this environment specified");
        return TC_FLOW_FAILED;
    }
}

tc_flow tc_tr_body(tc_tr *r, tc_tframe *f, const tc_tnodes *body)
{
    tc_flow flow = TC_FLOW_NEXT;
    if (body->count == 0) return flow;
    if (!tc_tr_deeper(r)) flow = TC_FLOW_FAILED;
    for (uint32_t i = 0; i < body->count && flow == TC_FLOW_NEXT; i++)
        flow = tc_tr_work(r, 1) ? exec(r, f, body->items[i]) : TC_FLOW_FAILED;
    r->depth--;
    return flow;
}
