// SPDX-License-Identifier: Apache-2.0
// Owns: which variable each name means, decided once before rendering, by Jinja's rules: a body of a loop,
// macro, call, filter, set or with block is a scope; `if` is not; what a scope assigns starts as a copy of
// the variable around it; a macro sees the variables around its definition as they are when it is called.
#include "common/text/template_ast.h"
#include <string.h>

typedef struct resolver {
    tc_tparser *p;
    tc_tscope *scope;
    tc_tsymbol **stored; // names first stored in the current scope, in order, for `if`
    size_t stored_count, stored_capacity;
} resolver;

static tc_tsymbol *define(resolver *s, tc_tname *name, tc_tload load)
{
    tc_tsymbol *y = tc_tp_alloc(s->p, sizeof *y);
    if (!y) return NULL;
    *y = (tc_tsymbol){.next = s->scope->symbols,
                      .shadowed = name->symbol,
                      .source = name->symbol,
                      .scope = s->scope,
                      .name = name,
                      .slot = s->scope->function->slots++,
                      .load = (uint8_t)load};
    s->scope->symbols = y;
    name->symbol = y;
    return y;
}

static tc_tsymbol *here(const resolver *s, const tc_tname *name)
{
    return name->symbol && name->symbol->scope == s->scope ? name->symbol : NULL;
}

static void note_stored(resolver *s, tc_tsymbol *y)
{
    if (!y || y->stored) return;
    y->stored = true;
    if (s->stored_count == s->stored_capacity) {
        size_t capacity = s->stored_capacity ? s->stored_capacity * 2 : 64;
        tc_tsymbol **grown = tc_tp_alloc(s->p, capacity * sizeof *grown);
        if (!grown) return;
        if (s->stored_count) memcpy(grown, s->stored, s->stored_count * sizeof *grown);
        s->stored = grown, s->stored_capacity = capacity;
    }
    s->stored[s->stored_count++] = y;
}

static void store(resolver *s, tc_tname *name)
{
    tc_tsymbol *y = here(s, name);
    if (!y) y = define(s, name, name->symbol ? TC_LOAD_ALIAS : TC_LOAD_MISSING);
    note_stored(s, y);
}

static void parameter(resolver *s, tc_tname *name)
{
    tc_tsymbol *y = here(s, name);
    if (!y) y = define(s, name, TC_LOAD_PARAMETER);
    if (y) y->load = TC_LOAD_PARAMETER;
    note_stored(s, y);
}

static void load(resolver *s, tc_tname *name)
{
    if (!name->symbol) define(s, name, TC_LOAD_RESOLVE);
}

// ---- first pass over a scope: which names it has
// -----------------------------------------------------------

static void analyze(resolver *s, const tc_tn *n);

static void analyze_list(resolver *s, const tc_tnodes *list)
{
    for (uint32_t i = 0; i < list->count; i++) analyze(s, list->items[i]);
}

static void analyze_target(resolver *s, const tc_tn *n, bool as_parameter)
{
    if (n->kind == TC_N_NAME)
        (as_parameter ? parameter : store)(s, n->id);
    else if (n->kind == TC_N_NSREF)
        load(s, n->id);
    for (uint32_t i = 0; n->kind == TC_N_TUPLE && i < n->items.count; i++)
        analyze_target(s, n->items.items[i], as_parameter);
}

static void analyze_args(resolver *s, const tc_targs_node *args)
{
    if (!args) return;
    analyze_list(s, &args->positional);
    analyze_list(s, &args->keyword_values);
    if (args->star) analyze(s, args->star);
    if (args->star_star) analyze(s, args->star_star);
}

// A name that a branch stores keeps its value from before where the branch is not taken.
static void analyze_if(resolver *s, const tc_tn *n)
{
    size_t mark = s->stored_count;
    for (uint32_t i = 0; i < n->items.count; i++) {
        analyze(s, n->items.items[i]);
        if (i == 0) mark = s->stored_count;
        analyze_list(s, &n->bodies[i]);
    }
    analyze_list(s, &n->else_body);
    for (size_t i = mark; i < s->stored_count; i++)
        s->stored[i]->load = s->stored[i]->shadowed ? TC_LOAD_ALIAS : TC_LOAD_RESOLVE;
}

static void analyze(resolver *s, const tc_tn *n)
{
    switch ((tc_tn_kind)n->kind) {
    case TC_N_NAME:
        load(s, n->id);
        return;
    case TC_N_IF:
        analyze_if(s, n);
        return;
    case TC_N_FOR:
        analyze(s, n->b);
        return;
    case TC_N_SET:
        analyze(s, n->b);
        analyze_target(s, n->a, false);
        return;
    case TC_N_SET_BLOCK:
        analyze_target(s, n->a, false);
        return;
    case TC_N_MACRO:
        store(s, n->id);
        return;
    case TC_N_CALL_BLOCK:
    case TC_N_FILTER_BLOCK:
        analyze(s, n->a);
        return;
    case TC_N_WITH:
        analyze_list(s, &n->defaults);
        return;
    case TC_N_SCOPE:
        return;
    default:
        break;
    }
    if (n->a) analyze(s, n->a);
    if (n->b) analyze(s, n->b);
    if (n->c) analyze(s, n->c);
    analyze_list(s, &n->items);
    analyze_args(s, n->args);
}

// ---- second pass: what each name refers to
// -----------------------------------------------------------------

static void resolve(resolver *s, tc_tn *n);

static void resolve_list(resolver *s, const tc_tnodes *list)
{
    for (uint32_t i = 0; i < list->count && !s->p->failed; i++) resolve(s, list->items[i]);
}

static tc_tref reference(const resolver *s, const tc_tsymbol *y)
{
    if (!y) return (tc_tref){0};
    return (tc_tref){s->scope->function_level - y->scope->function_level, y->slot};
}

static tc_tscope *enter(resolver *s, tc_tfunction *function, size_t *ret_stored)
{
    tc_tscope *scope = tc_tp_alloc(s->p, sizeof *scope);
    if (!scope) return NULL;
    scope->parent = s->scope;
    scope->function = function ? function : s->scope->function;
    if (s->scope) scope->function_level = s->scope->function_level + (function != NULL);
    s->scope = scope;
    *ret_stored = s->stored_count;
    return scope;
}

static void leave(resolver *s, tc_tscope *scope, size_t stored)
{
    uint32_t count = 0;
    for (tc_tsymbol *y = scope->symbols; y; y = y->next) {
        y->name->symbol = y->shadowed;
        count += y->load != TC_LOAD_PARAMETER;
    }
    scope->entering = tc_tp_alloc(s->p, (count + 1) * sizeof *scope->entering);
    for (tc_tsymbol *y = scope->symbols; scope->entering && y; y = y->next) {
        if (y->load == TC_LOAD_PARAMETER) continue;
        tc_tentering *e = &scope->entering[scope->entering_count++];
        *e = (tc_tentering){.load = y->load, .slot = y->slot, .name = &y->name->text};
        if (y->load == TC_LOAD_ALIAS) e->source = reference(s, y->source);
    }
    s->scope = scope->parent;
    s->stored_count = stored;
}

// Whether `name` is read in the nodes before it is written there: then a loop or macro has to offer it.
typedef struct search {
    const char *name;
    bool found, written;
} search;

static void look(search *q, const tc_tn *n, bool target);

static void look_list(search *q, const tc_tnodes *list, bool target)
{
    for (uint32_t i = 0; i < list->count; i++) look(q, list->items[i], target);
}

static void look(search *q, const tc_tn *n, bool target)
{
    if (!n || q->found || q->written) return;
    if (n->kind == TC_N_NAME) {
        if (tc_ts_is(&n->id->text, q->name)) *(target ? &q->written : &q->found) = true;
        return;
    }
    bool binds = n->kind == TC_N_FOR || n->kind == TC_N_SET || n->kind == TC_N_SET_BLOCK;
    look(q, n->a, target || binds);
    look(q, n->b, false);
    look(q, n->c, false);
    look_list(q, &n->items,
              target || n->kind == TC_N_MACRO || n->kind == TC_N_CALL_BLOCK || n->kind == TC_N_WITH);
    look_list(q, &n->defaults, false);
    for (uint32_t i = 0; n->bodies && i < n->items.count; i++) look_list(q, &n->bodies[i], false);
    look_list(q, &n->body, false);
    look_list(q, &n->else_body, false);
    if (n->args) {
        look_list(q, &n->args->positional, false);
        look_list(q, &n->args->keyword_values, false);
        look(q, n->args->star, false);
        look(q, n->args->star_star, false);
    }
}

static bool reads(const tc_tnodes *body, const char *name)
{
    search q = {.name = name};
    look_list(&q, body, false);
    return q.found;
}

static tc_tref own_parameter(resolver *s, const char *name)
{
    tc_tname *n = tc_tp_name(s->p, (const uint8_t *)name, strlen(name));
    if (!n) return (tc_tref){0};
    parameter(s, n);
    return reference(s, n->symbol);
}

static void resolve_target(resolver *s, tc_tn *n)
{
    if (n->kind == TC_N_TUPLE)
        for (uint32_t i = 0; i < n->items.count; i++) resolve_target(s, n->items.items[i]);
    else
        n->ref = reference(s, n->id->symbol);
}

static tc_tn *copy_target(resolver *s, const tc_tn *n)
{
    tc_tn *copy = tc_tp_alloc(s->p, sizeof *copy);
    if (!copy) return NULL;
    *copy = *n;
    if (n->kind != TC_N_TUPLE) return copy;
    copy->items = (tc_tnodes){0};
    for (uint32_t i = 0; i < n->items.count; i++)
        if (!tc_tp_push(s->p, &copy->items, copy_target(s, n->items.items[i]))) return NULL;
    return copy;
}

static void resolve_for(resolver *s, tc_tn *n)
{
    size_t stored;
    if (n->flag) n->function = tc_tp_alloc(s->p, sizeof *n->function);
    resolve(s, n->b);
    if (n->c) { // the test has a frame of its own: function, so that filtering can go on while the body runs
        tc_tfunction *function = tc_tp_alloc(s->p, sizeof *function);
        tc_tscope *scope = function ? enter(s, function, &stored) : NULL;
        if (!scope) return;
        analyze_target(s, n->a, true);
        analyze(s, n->c);
        resolve_target(s, n->a);
        n->scope2 = scope;
        resolve(s, n->c);
        leave(s, scope, stored);
    }
    // The same target in two frames: the test's references are in a copy, items[0].
    if (n->c && !tc_tp_push(s->p, &n->items, copy_target(s, n->a))) return;
    tc_tscope *scope = enter(s, n->function, &stored);
    if (!scope) return;
    n->scope = scope;
    n->uses_loop = n->flag || reads(&n->body, "loop");
    if (n->uses_loop) n->ref = own_parameter(s, "loop");
    analyze_target(s, n->a, true);
    analyze_list(s, &n->body);
    resolve_target(s, n->a);
    resolve_list(s, &n->body);
    leave(s, scope, stored);
    if (n->else_body.count) {
        // In a recursive loop the else part belongs to the loop's function, beside its body.
        tc_tscope *other = tc_tp_alloc(s->p, sizeof *other);
        if (!other) return;
        *other = (tc_tscope){s->scope, scope->function, scope->function_level, NULL, NULL, 0};
        s->scope = other;
        stored = s->stored_count;
        n->scope3 = other;
        analyze_list(s, &n->else_body);
        resolve_list(s, &n->else_body);
        leave(s, other, stored);
    }
}

// A macro, or the body of a call block.
static void resolve_macro(resolver *s, tc_tn *n)
{
    size_t stored;
    n->function = tc_tp_alloc(s->p, sizeof *n->function);
    tc_tscope *scope = n->function ? enter(s, n->function, &stored) : NULL;
    if (!scope) return;
    n->scope = scope;
    bool kwargs_given = false, varargs_given = false;
    for (uint32_t i = 0; i < n->items.count; i++) {
        const tc_ts *name = &n->items.items[i]->id->text;
        parameter(s, n->items.items[i]->id);
        if (tc_ts_is(name, "caller")) n->explicit_caller = true;
        if (tc_ts_is(name, "kwargs")) kwargs_given = true;
        if (tc_ts_is(name, "varargs")) varargs_given = true;
    }
    n->uses_caller = reads(&n->body, "caller");
    n->uses_kwargs = reads(&n->body, "kwargs") && !kwargs_given;
    n->uses_varargs = reads(&n->body, "varargs") && !varargs_given;
    if (n->uses_caller && !n->explicit_caller) n->ref = own_parameter(s, "caller");
    if (n->uses_kwargs) n->ref2 = own_parameter(s, "kwargs");
    if (n->uses_varargs) n->ref3 = own_parameter(s, "varargs");
    analyze_list(s, &n->defaults);
    analyze_list(s, &n->body);
    for (uint32_t i = 0; i < n->items.count; i++) resolve_target(s, n->items.items[i]);
    resolve_list(s, &n->defaults);
    resolve_list(s, &n->body);
    leave(s, scope, stored);
}

// A body that is a scope in the same frame; `first` (may be NULL) is a filter that belongs to it.
static void resolve_block(resolver *s, tc_tn *n, tc_tn *filter)
{
    size_t stored;
    tc_tscope *scope = enter(s, NULL, &stored);
    if (!scope) return;
    n->scope = scope;
    if (n->kind == TC_N_WITH)
        for (uint32_t i = 0; i < n->items.count; i++) analyze_target(s, n->items.items[i], true);
    analyze_list(s, &n->body);
    if (filter) analyze(s, filter);
    if (n->kind == TC_N_WITH)
        for (uint32_t i = 0; i < n->items.count; i++) resolve_target(s, n->items.items[i]);
    resolve_list(s, &n->body);
    if (filter) resolve(s, filter);
    leave(s, scope, stored);
}

static void resolve(resolver *s, tc_tn *n)
{
    if (s->p->failed) return;
    switch ((tc_tn_kind)n->kind) {
    case TC_N_NAME:
        n->ref = reference(s, n->id->symbol);
        return;
    case TC_N_IF:
        resolve_list(s, &n->items);
        for (uint32_t i = 0; i < n->items.count; i++) resolve_list(s, &n->bodies[i]);
        resolve_list(s, &n->else_body);
        return;
    case TC_N_FOR:
        resolve_for(s, n);
        return;
    case TC_N_SET:
        resolve(s, n->b);
        resolve_target(s, n->a);
        return;
    case TC_N_SET_BLOCK:
        resolve_block(s, n, n->b);
        resolve_target(s, n->a);
        return;
    case TC_N_MACRO:
        resolve_macro(s, n);
        // Where the macro itself is kept: in `c`, as a name.
        n->c = tc_tp_node(s->p, TC_N_NAME, n->line);
        if (n->c) n->c->id = n->id, n->c->ref = reference(s, n->id->symbol);
        return;
    case TC_N_CALL_BLOCK:
        resolve_macro(s, n);
        resolve(s, n->a);
        return;
    case TC_N_FILTER_BLOCK:
        resolve_block(s, n, n->a);
        return;
    case TC_N_WITH:
        resolve_list(s, &n->defaults);
        resolve_block(s, n, NULL);
        return;
    case TC_N_SCOPE:
        resolve_block(s, n, NULL);
        return;
    default:
        break;
    }
    if (n->a) resolve(s, n->a);
    if (n->b) resolve(s, n->b);
    if (n->c) resolve(s, n->c);
    resolve_list(s, &n->items);
    if (n->args) {
        resolve_list(s, &n->args->positional);
        resolve_list(s, &n->args->keyword_values);
        if (n->args->star) resolve(s, n->args->star);
        if (n->args->star_star) resolve(s, n->args->star_star);
    }
}

void tc_tp_resolve(tc_tparser *p)
{
    resolver s = {.p = p};
    size_t stored;
    p->t->function = tc_tp_alloc(p, sizeof *p->t->function);
    tc_tscope *scope = p->t->function ? enter(&s, p->t->function, &stored) : NULL;
    if (!scope) return;
    scope->function_level = 0;
    p->t->scope = scope;
    analyze_list(&s, &p->t->body);
    resolve_list(&s, &p->t->body);
    leave(&s, scope, stored);
}
