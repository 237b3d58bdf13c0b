// SPDX-License-Identifier: Apache-2.0
// Owns: what the files that render share: frames, macros, loops, calls.
#pragma once

#include "common/text/template_ast.h"

enum {
    TC_TEMPLATE_EVAL_DEPTH_MAX = 3000, // nested evaluations, macros' bodies counted in
    TC_UNORDERED = 2,                  // a NaN against anything
};

typedef struct tc_tframe {
    struct tc_tframe *outer; // of the function around this one, as it was when this one was made
    tc_tv slots[];
} tc_tframe;

typedef struct tc_tmacro {
    const tc_tn *node; // MACRO or CALL_BLOCK
    tc_tframe *outer;
} tc_tmacro;

typedef struct tc_tloop {
    const tc_tn *node;
    tc_tframe *outer; // where the loop stands
    tc_titer it;
    tc_tframe *test_frame; // `for ... if`
    tc_tv iterable, before, current, after, changed;
    int64_t index0, depth0, length;
    bool filtered;
} tc_tloop;

typedef struct tc_targs {
    tc_tv *items;
    size_t count;
    const tc_ts **names;
    tc_tv *values;
    size_t named;
} tc_targs;

typedef enum tc_flow { TC_FLOW_NEXT, TC_FLOW_BREAK, TC_FLOW_CONTINUE, TC_FLOW_FAILED } tc_flow;

tc_tv tc_tr_eval(tc_tr *r, tc_tframe *f, const tc_tn *n);
tc_flow tc_tr_body(tc_tr *r, tc_tframe *f, const tc_tnodes *body);
bool tc_tr_assign(tc_tr *r, tc_tframe *f, const tc_tn *target, tc_tv value);
bool tc_tr_enter(tc_tr *r, tc_tframe *f, const tc_tscope *scope);
tc_tframe *tc_tr_frame(tc_tr *r, const tc_tfunction *function, tc_tframe *outer);
tc_tv tc_tr_call(tc_tr *r, tc_tv callee, tc_targs *args);
bool tc_tr_args(tc_tr *r, tc_tframe *f, const tc_targs_node *n, tc_targs *ret);
tc_tv tc_tr_filter(tc_tr *r, tc_tframe *f, const tc_tn *n, tc_tv in);
static inline bool tc_tr_deeper(tc_tr *r)
{
    if (__builtin_expect(++r->depth <= TC_TEMPLATE_EVAL_DEPTH_MAX, 1)) return true;
    tc_tr_limit(r, "depth");
    return false;
}
static inline tc_tv *tc_tr_slot(tc_tframe *f, tc_tref ref)
{
    for (uint32_t i = 0; i < ref.hops; i++) f = f->outer;
    return &f->slots[ref.slot];
}

// template_loop.c
tc_flow tc_tr_for(tc_tr *r, tc_tframe *f, const tc_tn *n);
tc_tv tc_loop_attribute(tc_tr *r, tc_tloop *loop, const tc_ts *name); // MISSING: none
tc_tv tc_loop_length(tc_tr *r, tc_tloop *loop);
tc_tv tc_loop_call(tc_tr *r, tc_tloop *loop, tc_targs *args);
tc_tv tc_loop_method(tc_tr *r, tc_tloop *loop, int method, tc_targs *args);
bool tc_loop_repr(tc_tr *r, tc_tsb *b, tc_tloop *loop);

// template_call.c
tc_tv tc_macro_call(tc_tr *r, tc_tmacro *macro, tc_targs *args);
tc_tv tc_macro_attribute(tc_tr *r, const tc_tmacro *macro, const tc_ts *name);
tc_tv tc_global_find(tc_tr *r, const tc_ts *name); // MISSING: none
tc_tv tc_global_call(tc_tr *r, int which, tc_targs *args);

// Sorts arguments to parameters: "value,default=,boolean=": names in order, those with `=` may be left out
// (MISSING). False with a TypeError recorded.
bool tc_args_bind(tc_tr *r, const char *function, const tc_targs *args, const char *parameters, tc_tv *ret);

// template_filter*.c, template_test.c
int tc_filter_find(const tc_ts *name); // -1: none
tc_tv tc_filter_call(tc_tr *r, int which, tc_tv in, tc_targs *args);
int tc_test_find(const tc_ts *name);
tc_tv tc_test_call(tc_tr *r, int which, tc_tv in, tc_targs *args); // BOOL or ERROR

// template_format.c
tc_tv tc_percent_format(tc_tr *r, tc_tv format, tc_tv values);
tc_tv tc_str_format(tc_tr *r, tc_tv format, tc_targs *args);
tc_tv tc_strftime(tc_tr *r, const tc_ts *format);
