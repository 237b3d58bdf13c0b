// SPDX-License-Identifier: Apache-2.0
// Owns: calling macros, binding arguments to parameters, and the global functions.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <string.h>

enum { PARAMETERS_MAX = 12, RANGE_MAX = 100000 };

// ---- binding
// -----------------------------------------------------------------------------------------------

typedef struct parameter {
    const char *name;
    size_t bytes;
    bool optional;
} parameter;

static size_t parse_parameters(const char *text, parameter *ret)
{
    size_t count = 0;
    while (*text && count < PARAMETERS_MAX) {
        const char *comma = strchr(text, ',');
        parameter *p = &ret[count++];
        *p = (parameter){text, (size_t)(comma - text), comma[-1] == '='};
        p->bytes -= p->optional;
        text = comma + 1;
    }
    return count;
}

static bool bad_call(tc_tr *r, const char *function, const char *what, const tc_ts *name)
{
    tc_tr_fail(r, "TypeError", "%s() %s%s%.*s%s", function, what, name ? " '" : "",
               name ? (int)name->bytes : 0, name ? (const char *)name->data : "", name ? "'" : "");
    return false;
}

bool tc_args_bind(tc_tr *r, const char *function, const tc_targs *args, const char *parameters, tc_tv *ret)
{
    parameter list[PARAMETERS_MAX];
    size_t count = parse_parameters(parameters, list);
    if (args->count > count) return bad_call(r, function, "takes fewer positional arguments", NULL);
    for (size_t i = 0; i < count; i++) ret[i] = i < args->count ? args->items[i] : TC_TV_OF(TC_TV_MISSING);
    for (size_t k = 0; k < args->named; k++) {
        const tc_ts *name = args->names[k];
        size_t i = 0;
        while (i < count && (list[i].bytes != name->bytes || memcmp(list[i].name, name->data, name->bytes)))
            i++;
        if (i == count) return bad_call(r, function, "got an unexpected keyword argument", name);
        if (ret[i].kind != TC_TV_MISSING)
            return bad_call(r, function, "got multiple values for argument", name);
        ret[i] = args->values[k];
    }
    for (size_t i = 0; i < count; i++)
        if (ret[i].kind == TC_TV_MISSING && !list[i].optional)
            return bad_call(r, function, "misses a required argument", NULL);
    return true;
}

// ---- macros
// ------------------------------------------------------------------------------------------------

static int find_named(const tc_targs *args, const bool *used, const tc_ts *name)
{
    for (size_t i = 0; i < args->named; i++)
        if (!used[i] && tc_ts_equal(args->names[i], name)) return (int)i;
    return -1;
}

static tc_tv leftover_named(tc_tr *r, const tc_targs *args, const bool *used)
{
    tc_td *d = tc_td_new(r, args->named);
    for (size_t i = 0; d && i < args->named; i++)
        if (!used[i] && !tc_td_set(r, d, tc_tv_of_str(args->names[i]), args->values[i]))
            return TC_TV_OF(TC_TV_ERROR);
    return d ? (tc_tv){.kind = TC_TV_DICT, .d = d} : TC_TV_OF(TC_TV_ERROR);
}

static tc_tv leftover_positional(tc_tr *r, const tc_targs *args, size_t from)
{
    tc_tlb b = {0};
    for (size_t i = from; i < args->count; i++)
        if (!tc_tlb_push(r, &b, args->items[i])) return TC_TV_OF(TC_TV_ERROR);
    return tc_tlb_take(r, &b, TC_TV_TUPLE);
}

static tc_tv undefined_caller(tc_tr *r)
{
    return tc_tv_undefined_hint(r, "No caller defined");
}

// caller, kwargs and varargs, where the macro reads them; errors for what it does not take.
static bool bind_special(tc_tr *r, tc_tframe *f, const tc_tn *n, const tc_targs *args, bool *used)
{
    static const tc_ts caller = {.data = (const uint8_t *)"caller", .bytes = 6, .chars = 6};
    int at = find_named(args, used, &caller);
    if (n->uses_caller && !n->explicit_caller) {
        tc_tv v = at >= 0 && args->values[at].kind != TC_TV_NONE ? args->values[at] : undefined_caller(r);
        if (at >= 0) used[at] = true;
        if (TC_TV_FAILED(v)) return false;
        *tc_tr_slot(f, n->ref) = v;
    }
    if (n->uses_kwargs) {
        tc_tv v = leftover_named(r, args, used);
        if (TC_TV_FAILED(v)) return false;
        *tc_tr_slot(f, n->ref2) = v;
    } else {
        for (size_t i = 0; i < args->named; i++)
            if (!used[i]) return bad_call(r, "macro", "takes no keyword argument", args->names[i]);
    }
    if (n->uses_varargs) {
        tc_tv v = leftover_positional(r, args, n->items.count);
        if (TC_TV_FAILED(v)) return false;
        *tc_tr_slot(f, n->ref3) = v;
    } else if (args->count > n->items.count) {
        return bad_call(r, "macro", "takes fewer arguments", NULL);
    }
    return true;
}

static bool bind_macro(tc_tr *r, tc_tframe *f, const tc_tn *n, const tc_targs *args)
{
    bool *used = tc_tr_alloc(r, args->named + 1);
    if (!used) return false;
    memset(used, 0, args->named + 1);
    for (uint32_t i = 0; i < n->items.count; i++) {
        const tc_tn *p = n->items.items[i];
        int at = i < args->count ? -1 : find_named(args, used, &p->id->text);
        if (i < args->count) *tc_tr_slot(f, p->ref) = args->items[i];
        if (at >= 0) {
            *tc_tr_slot(f, p->ref) = args->values[at];
            used[at] = true;
        }
    }
    if (!bind_special(r, f, n, args, used) || !tc_tr_enter(r, f, n->scope)) return false;
    for (uint32_t i = 0; i < n->items.count; i++) { // defaults see the parameters before them
        const tc_tn *p = n->items.items[i];
        tc_tv *slot = tc_tr_slot(f, p->ref);
        if (slot->kind != TC_TV_MISSING) continue;
        uint32_t without = n->items.count - n->defaults.count;
        *slot = i >= without ? tc_tr_eval(r, f, n->defaults.items[i - without])
                             : tc_tv_undefined_hint(r, "a parameter was not provided");
        if (TC_TV_FAILED(*slot)) return false;
    }
    return true;
}

tc_tv tc_macro_call(tc_tr *r, tc_tmacro *m, tc_targs *args)
{
    const tc_tn *n = m->node;
    tc_tsb text = {0}, *out = r->out;
    tc_tv result = TC_TV_OF(TC_TV_ERROR);
    if (++r->call_depth > TC_TEMPLATE_CALL_DEPTH_MAX) return tc_tr_limit(r, "call depth");
    tc_tframe *f = tc_tr_frame(r, n->function, m->outer);
    r->out = &text;
    if (f && bind_macro(r, f, n, args)) {
        tc_flow flow = tc_tr_body(r, f, &n->body);
        if (flow != TC_FLOW_FAILED) result = tc_tsb_take(r, &text);
    }
    r->out = out;
    r->call_depth--;
    return result;
}

tc_tv tc_macro_attribute(tc_tr *r, const tc_tmacro *m, const tc_ts *name)
{
    const tc_tn *n = m->node;
    if (tc_ts_is(name, "name")) return n->name ? tc_tv_of_str(n->name) : TC_TV_OF(TC_TV_NONE);
    if (tc_ts_is(name, "catch_kwargs")) return tc_tv_bool(n->uses_kwargs);
    if (tc_ts_is(name, "catch_varargs")) return tc_tv_bool(n->uses_varargs);
    if (tc_ts_is(name, "caller")) return tc_tv_bool(n->uses_caller);
    if (!tc_ts_is(name, "arguments")) return TC_TV_OF(TC_TV_MISSING);
    tc_tlb b = {0};
    for (uint32_t i = 0; i < n->items.count; i++)
        if (!tc_tlb_push(r, &b, tc_tv_of_str(&n->items.items[i]->id->text))) return TC_TV_OF(TC_TV_ERROR);
    return tc_tlb_take(r, &b, TC_TV_TUPLE);
}

// ---- global functions
// --------------------------------------------------------------------------------------

static tc_tv call_range(tc_tr *r, tc_targs *args)
{
    int64_t part[3] = {0, 0, 1};
    if (args->named || args->count < 1 || args->count > 3)
        return tc_tr_fail(r, "TypeError", "range expected 1 to 3 arguments");
    for (size_t i = 0; i < args->count; i++)
        if (!tc_tv_index(r, args->items[i], &part[i])) return TC_TV_OF(TC_TV_ERROR);
    if (args->count == 1) part[1] = part[0], part[0] = 0;
    if (part[2] == 0) return tc_tr_fail(r, "ValueError", "range() arg 3 must not be zero");
    __int128 span = part[2] > 0 ? (__int128)part[1] - part[0] : (__int128)part[0] - part[1];
    __int128 width = part[2] > 0 ? part[2] : -(__int128)part[2];
    __int128 count = span > 0 ? (span + width - 1) / width : 0;
    if (count > RANGE_MAX)
        return tc_tr_fail(r, "OverflowError",
                          "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", RANGE_MAX);
    tc_trange *range = tc_tr_alloc(r, sizeof *range);
    if (!range) return TC_TV_OF(TC_TV_ERROR);
    *range = (tc_trange){part[0], part[1], part[2], (size_t)count};
    return (tc_tv){.kind = TC_TV_RANGE, .range = range};
}

// dict(...) and namespace(...): one mapping or list of pairs, then keywords.
static tc_tv call_dict(tc_tr *r, tc_targs *args, uint8_t kind)
{
    tc_td *d = tc_td_new(r, args->named + 4);
    tc_titer it;
    tc_tv item;
    if (!d) return TC_TV_OF(TC_TV_ERROR);
    if (args->count > 1) return tc_tr_fail(r, "TypeError", "dict expected at most 1 argument");
    if (args->count == 1 && args->items[0].kind == TC_TV_DICT) {
        const tc_td *from = args->items[0].d;
        for (uint32_t i = 0; i < from->count; i++)
            if (!tc_td_set(r, d, from->entries[i].key, from->entries[i].value)) return TC_TV_OF(TC_TV_ERROR);
    } else if (args->count == 1) {
        if (!tc_titer_begin(r, args->items[0], &it)) return TC_TV_OF(TC_TV_ERROR);
        while (tc_titer_next(r, &it, &item)) {
            tc_tlb pair = {0};
            if (!tc_tv_collect(r, item, &pair)) return TC_TV_OF(TC_TV_ERROR);
            if (pair.count != 2)
                return tc_tr_fail(r, "ValueError", "dictionary update sequence elements must have 2 items");
            if (!tc_td_set(r, d, pair.items[0], pair.items[1])) return TC_TV_OF(TC_TV_ERROR);
        }
    }
    for (size_t i = 0; i < args->named; i++)
        if (!tc_td_set(r, d, tc_tv_of_str(args->names[i]), args->values[i])) return TC_TV_OF(TC_TV_ERROR);
    return r->failed ? TC_TV_OF(TC_TV_ERROR) : (tc_tv){.kind = kind, .d = d};
}

static tc_tv call_raise(tc_tr *r, tc_targs *args)
{
    tc_tv message;
    tc_tsb b = {0};
    if (!tc_args_bind(r, "raise_exception", args, "message,", &message)) return TC_TV_OF(TC_TV_ERROR);
    if (!tc_tv_print(r, &b, message)) return TC_TV_OF(TC_TV_ERROR);
    bool first = !r->failed;
    tc_tr_fail_text(r, "raise_exception", b.bytes ? (const char *)b.data : "", b.bytes);
    if (first) r->status = TC_ARGUMENT;
    return TC_TV_OF(TC_TV_ERROR);
}

static tc_tv call_strftime(tc_tr *r, tc_targs *args)
{
    tc_tv format;
    if (!tc_args_bind(r, "strftime_now", args, "format,", &format)) return TC_TV_OF(TC_TV_ERROR);
    if (format.kind != TC_TV_STR)
        return tc_tr_fail(r, "TypeError", "strftime() argument 1 must be str, not %s", tc_tv_type(format));
    return tc_strftime(r, format.s);
}

static tc_tv call_cycler(tc_tr *r, tc_targs *args)
{
    tc_tlb b = {0};
    if (args->count == 0 || args->named)
        return tc_tr_fail(r, args->named ? "TypeError" : "RuntimeError",
                          "at least one item has to be provided");
    for (size_t i = 0; i < args->count; i++)
        if (!tc_tlb_push(r, &b, args->items[i])) return TC_TV_OF(TC_TV_ERROR);
    tc_tv items = tc_tlb_take(r, &b, TC_TV_LIST);
    tc_tcycle *c = tc_tr_alloc(r, sizeof *c);
    if (TC_TV_FAILED(items) || !c) return TC_TV_OF(TC_TV_ERROR);
    *c = (tc_tcycle){.items = items.l};
    return (tc_tv){.kind = TC_TV_CYCLER, .cycle = c};
}

static tc_tv call_joiner(tc_tr *r, tc_targs *args)
{
    tc_tv between;
    tc_tcycle *c = tc_tr_alloc(r, sizeof *c);
    if (!c || !tc_args_bind(r, "joiner", args, "sep=,", &between)) return TC_TV_OF(TC_TV_ERROR);
    *c = (tc_tcycle){.text = between.kind == TC_TV_MISSING ? tc_tv_text(r, ", ") : between};
    return TC_TV_FAILED(c->text) ? c->text : (tc_tv){.kind = TC_TV_JOINER, .cycle = c};
}

static const char *const globals[] = {"range",        "dict",   "namespace", "raise_exception",
                                      "strftime_now", "cycler", "joiner",    "lipsum"};
enum { GLOBALS = sizeof globals / sizeof *globals };

tc_tv tc_global_find(tc_tr *r, const tc_ts *name)
{
    (void)r;
    for (uint8_t i = 0; i < GLOBALS; i++)
        if (tc_ts_is(name, globals[i])) return (tc_tv){.kind = TC_TV_FUNCTION, .sub = i};
    return TC_TV_OF(TC_TV_MISSING);
}

tc_tv tc_global_call(tc_tr *r, int which, tc_targs *args)
{
    switch (which) {
    case 0:
        return call_range(r, args);
    case 1:
        return call_dict(r, args, TC_TV_DICT);
    case 2:
        return call_dict(r, args, TC_TV_NAMESPACE);
    case 3:
        return call_raise(r, args);
    case 4:
        return call_strftime(r, args);
    case 5:
        return call_cycler(r, args);
    case 6:
        return call_joiner(r, args);
    default:
        return tc_tr_fail(r, "NotImplementedError", "%s is not implemented: its result is random",
                          globals[which]);
    }
}
