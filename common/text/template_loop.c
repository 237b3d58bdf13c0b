// SPDX-License-Identifier: Apache-2.0
// Owns: `for`: the walk (one item ahead where `loop.last` asks), its filter, recursion, and `loop`.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <inttypes.h>
#include <string.h>

// The next item that the loop's test lets through; false at the end or on an error, and *ret is as it was.
static bool pull(tc_tr *r, tc_tloop *loop, tc_tv *ret)
{
    const tc_tn *n = loop->node;
    tc_tv item, test = tc_tv_bool(true);
    while (tc_titer_next(r, &loop->it, &item)) {
        if (loop->test_frame) {
            if (!tc_tr_assign(r, loop->test_frame, n->items.items[0], item)) return false;
            test = tc_tr_eval(r, loop->test_frame, n->c);
            if (TC_TV_FAILED(test)) return false;
        }
        if (!tc_tv_truth(test)) continue;
        *ret = item;
        return true;
    }
    return false;
}

static bool peek(tc_tr *r, tc_tloop *loop)
{
    if (loop->after.kind != TC_TV_MISSING) return true;
    return pull(r, loop, &loop->after);
}

static bool advance(tc_tr *r, tc_tloop *loop)
{
    tc_tv item;
    if (loop->after.kind != TC_TV_MISSING) {
        item = loop->after;
        loop->after = TC_TV_OF(TC_TV_MISSING);
    } else if (!pull(r, loop, &item)) {
        return false;
    }
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return true;
}

tc_tv tc_loop_length(tc_tr *r, tc_tloop *loop)
{
    if (loop->length >= 0) return tc_tv_int(loop->length);
    uint8_t kind = loop->iterable.kind;
    if (!loop->filtered && kind != TC_TV_GENERATOR && kind != TC_TV_LOOP) {
        tc_tv length = tc_tv_length(r, loop->iterable);
        if (!TC_TV_FAILED(length)) loop->length = length.i;
        return length;
    }
    tc_tlb rest = {0}; // what has no length is walked to its end now
    tc_tv item;
    while (pull(r, loop, &item))
        if (!tc_tlb_push(r, &rest, item)) return TC_TV_OF(TC_TV_ERROR);
    if (r->failed) return TC_TV_OF(TC_TV_ERROR);
    loop->length = (int64_t)rest.count + loop->index0 + 1 + (loop->after.kind != TC_TV_MISSING);
    loop->test_frame = NULL;
    loop->it = (tc_titer){.of = tc_tlb_take(r, &rest, TC_TV_LIST)};
    return TC_TV_FAILED(loop->it.of) ? loop->it.of : tc_tv_int(loop->length);
}

static tc_tv loop_method(tc_tr *r, tc_tloop *loop, int method)
{
    tc_tmethod *m = tc_tr_alloc(r, sizeof *m);
    if (!m) return TC_TV_OF(TC_TV_ERROR);
    *m = (tc_tmethod){{.kind = TC_TV_LOOP, .loop = loop}, method};
    return (tc_tv){.kind = TC_TV_METHOD, .method = m};
}

tc_tv tc_loop_attribute(tc_tr *r, tc_tloop *loop, const tc_ts *name)
{
    bool more;
    if (tc_ts_is(name, "index")) return tc_tv_int(loop->index0 + 1);
    if (tc_ts_is(name, "index0")) return tc_tv_int(loop->index0);
    if (tc_ts_is(name, "first")) return tc_tv_bool(loop->index0 == 0);
    if (tc_ts_is(name, "depth")) return tc_tv_int(loop->depth0 + 1);
    if (tc_ts_is(name, "depth0")) return tc_tv_int(loop->depth0);
    if (tc_ts_is(name, "last") || tc_ts_is(name, "nextitem")) {
        more = peek(r, loop);
        if (r->failed) return TC_TV_OF(TC_TV_ERROR);
        if (tc_ts_is(name, "last")) return tc_tv_bool(!more);
        return more ? loop->after : tc_tv_undefined_hint(r, "there is no next item");
    }
    if (tc_ts_is(name, "previtem"))
        return loop->index0 == 0 ? tc_tv_undefined_hint(r, "there is no previous item") : loop->before;
    if (tc_ts_is(name, "length") || tc_ts_is(name, "revindex") || tc_ts_is(name, "revindex0")) {
        tc_tv length = tc_loop_length(r, loop);
        if (TC_TV_FAILED(length) || tc_ts_is(name, "length")) return length;
        return tc_tv_int(length.i - loop->index0 - tc_ts_is(name, "revindex0"));
    }
    if (tc_ts_is(name, "cycle")) return loop_method(r, loop, TC_METHOD_cycle);
    if (tc_ts_is(name, "changed")) return loop_method(r, loop, TC_METHOD_changed);
    return TC_TV_OF(TC_TV_MISSING);
}

tc_tv tc_loop_method(tc_tr *r, tc_tloop *loop, int method, tc_targs *args)
{
    if (method == TC_METHOD_cycle) {
        if (args->count == 0) return tc_tr_fail(r, "TypeError", "no items for cycling given");
        return args->items[loop->index0 % (int64_t)args->count];
    }
    tc_tlb b = {0};
    for (size_t i = 0; i < args->count; i++)
        if (!tc_tlb_push(r, &b, args->items[i])) return TC_TV_OF(TC_TV_ERROR);
    tc_tv now = tc_tlb_take(r, &b, TC_TV_TUPLE);
    if (TC_TV_FAILED(now)) return now;
    bool changed = loop->changed.kind == TC_TV_MISSING || !tc_tv_equal(r, loop->changed, now);
    loop->changed = now;
    return r->failed ? TC_TV_OF(TC_TV_ERROR) : tc_tv_bool(changed);
}

bool tc_loop_repr(tc_tr *r, tc_tsb *b, tc_tloop *loop)
{
    tc_tv length = tc_loop_length(r, loop);
    if (TC_TV_FAILED(length)) return false;
    return tc_tsb_format(r, b, "<LoopContext %" PRId64 "/%" PRId64 ">", loop->index0 + 1, length.i);
}

// Walks `iterable`; f is the frame of the loop's body.
static tc_flow run(tc_tr *r, tc_tframe *f, const tc_tn *n, tc_tloop *loop)
{
    tc_flow flow = TC_FLOW_NEXT;
    bool any = false;
    while (flow != TC_FLOW_BREAK && advance(r, loop)) {
        if (n->uses_loop) *tc_tr_slot(f, n->ref) = (tc_tv){.kind = TC_TV_LOOP, .loop = loop};
        if (!tc_tr_assign(r, f, n->a, loop->current) || !tc_tr_enter(r, f, n->scope)) return TC_FLOW_FAILED;
        flow = tc_tr_body(r, f, &n->body);
        if (flow == TC_FLOW_FAILED) return flow;
        // Jinja notes at the end of a body that there was one; `break` and `continue` pass that by.
        if (flow == TC_FLOW_NEXT) any = true;
    }
    if (r->failed) return TC_FLOW_FAILED;
    if (any || n->else_body.count == 0) return TC_FLOW_NEXT;
    return tc_tr_enter(r, f, n->scope3) ? tc_tr_body(r, f, &n->else_body) : TC_FLOW_FAILED;
}

static bool begin(tc_tr *r, tc_tframe *outer, const tc_tn *n, tc_tv iterable, tc_tloop *ret)
{
    tc_tv missing = TC_TV_OF(TC_TV_MISSING);
    *ret = (tc_tloop){.node = n,
                      .outer = outer,
                      .iterable = iterable,
                      .before = missing,
                      .current = missing,
                      .after = missing,
                      .changed = missing,
                      .index0 = -1,
                      .length = -1};
    if (!tc_titer_begin(r, iterable, &ret->it)) return false;
    if (!n->c) return true;
    ret->filtered = true;
    ret->test_frame = tc_tr_frame(r, n->scope2->function, outer);
    return ret->test_frame && tc_tr_enter(r, ret->test_frame, n->scope2);
}

// One level of a recursive loop: a frame of its own, its text as the result.
static tc_tv recursive(tc_tr *r, tc_tframe *outer, const tc_tn *n, tc_tv iterable, int64_t depth0)
{
    tc_tsb text = {0}, *out = r->out;
    tc_tloop *loop = tc_tr_alloc(r, sizeof *loop);
    tc_tframe *f = tc_tr_frame(r, n->function, outer);
    if (!loop || !f || !begin(r, outer, n, iterable, loop)) return TC_TV_OF(TC_TV_ERROR);
    loop->depth0 = depth0;
    if (++r->call_depth > TC_TEMPLATE_CALL_DEPTH_MAX) return tc_tr_limit(r, "call depth");
    r->out = &text;
    tc_flow flow = run(r, f, n, loop);
    r->out = out;
    r->call_depth--;
    return flow == TC_FLOW_FAILED ? TC_TV_OF(TC_TV_ERROR) : tc_tsb_take(r, &text);
}

tc_tv tc_loop_call(tc_tr *r, tc_tloop *loop, tc_targs *args)
{
    tc_tv iterable;
    if (!tc_args_bind(r, "loop", args, "iterable,", &iterable)) return TC_TV_OF(TC_TV_ERROR);
    if (!loop->node->flag)
        return tc_tr_fail(r, "TypeError",
                          "The loop must have the 'recursive' marker to be called recursively.");
    return recursive(r, loop->outer, loop->node, iterable, loop->depth0 + 1);
}

tc_flow tc_tr_for(tc_tr *r, tc_tframe *f, const tc_tn *n)
{
    tc_tv iterable = tc_tr_eval(r, f, n->b);
    if (TC_TV_FAILED(iterable)) return TC_FLOW_FAILED;
    if (n->flag) {
        tc_tv text = recursive(r, f, n, iterable, 0);
        return !TC_TV_FAILED(text) && tc_tv_print(r, r->out, text) ? TC_FLOW_NEXT : TC_FLOW_FAILED;
    }
    tc_tloop here, *loop = n->uses_loop ? tc_tr_alloc(r, sizeof *loop) : &here; // `loop` may outlive the loop
    if (!loop || !begin(r, f, n, iterable, loop)) return TC_FLOW_FAILED;
    return run(r, f, n, loop);
}
