// SPDX-License-Identifier: Apache-2.0
// Owns: the grammar of expressions, with Jinja's own order of binding: `x if y`, or, and, not, comparisons,
// + -, ~, * / // %, **, signs, then filters and tests.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include <stdlib.h>
#include <string.h>

static tc_tn *conditional(tc_tparser *p);
static tc_tn *either(tc_tparser *p);

static tc_tn *binary(tc_tparser *p, tc_tn_kind kind, int op, tc_tn *a, tc_tn *b, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, kind, line);
    if (!n || !a || !b) return NULL;
    n->op = (uint8_t)op;
    n->a = a, n->b = b;
    return tc_tp_done(p, n);
}

// ---- calls
// -------------------------------------------------------------------------------------------------

static bool call_argument(tc_tparser *p, tc_targs_node *args)
{
    uint32_t line = tc_tp_now(p)->line;
    bool star = tc_tp_is_op(p, '*'), stars = tc_tp_is_op(p, TC_OP_POW);
    if (star || stars) {
        if (args->star_star || (star && args->star)) goto malformed;
        tc_tp_take(p);
        tc_tn *n = conditional(p);
        *(star ? &args->star : &args->star_star) = n;
        return n != NULL;
    }
    const tc_ttoken *now = tc_tp_now(p), *after = tc_tp_after(p);
    if (now->kind == TC_TK_NAME && after->kind == TC_TK_OPERATOR && after->op == '=') {
        if (args->star_star) goto malformed;
        tc_tname *name = tc_tp_name(p, now->data, now->bytes);
        tc_tp_take(p), tc_tp_take(p);
        for (uint32_t i = 0; name && i < args->keyword_values.count; i++)
            if (args->keywords[i] == &name->text) goto malformed;
        if (!name || !tc_tp_push(p, &args->keyword_values, conditional(p))) return false;
        const tc_ts **keywords = tc_tp_alloc(p, args->keyword_values.count * sizeof *keywords);
        if (!keywords) return false;
        if (args->keyword_values.count > 1)
            memcpy(keywords, args->keywords, (args->keyword_values.count - 1) * sizeof *keywords);
        keywords[args->keyword_values.count - 1] = &name->text;
        args->keywords = keywords;
        return true;
    }
    if (args->star || args->star_star || args->keyword_values.count) goto malformed;
    return tc_tp_push(p, &args->positional, conditional(p));
malformed:
    tc_tp_fail(p, TC_FORMAT, line, "invalid syntax for function call expression");
    return false;
}

enum { CALL_ARGUMENTS_MAX = 256 };

static tc_targs_node *call_args(tc_tparser *p)
{
    tc_targs_node *args = tc_tp_alloc(p, sizeof *args);
    if (!args || !tc_tp_expect_op(p, '(')) return NULL;
    for (int n = 0; !tc_tp_is_op(p, ')'); n++) {
        if (n && !tc_tp_expect_op(p, ',')) return NULL;
        if (n && tc_tp_is_op(p, ')')) break;
        if (n == CALL_ARGUMENTS_MAX)
            tc_tp_fail(p, TC_LIMIT, tc_tp_now(p)->line, "more than %d arguments", CALL_ARGUMENTS_MAX);
        if (p->failed || !call_argument(p, args)) return NULL;
    }
    tc_tp_take(p);
    return args;
}

static tc_tn *call(tc_tparser *p, tc_tn *callee)
{
    tc_tn *n = tc_tp_node(p, TC_N_CALL, tc_tp_now(p)->line);
    if (!n) return NULL;
    n->a = callee;
    n->args = call_args(p);
    return n->args ? tc_tp_done(p, n) : NULL;
}

// ---- literals
// ----------------------------------------------------------------------------------------------

static tc_tn *constant(tc_tparser *p, tc_tv value, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_CONST, line);
    if (n) n->value = value;
    return n;
}

static tc_tn *string_literal(tc_tparser *p)
{
    const tc_ttoken *first = tc_tp_take(p);
    size_t bytes = first->bytes;
    const uint8_t *data = first->data;
    while (tc_tp_now(p)->kind == TC_TK_STRING) { // "a" "b" is "ab"
        const tc_ttoken *next = tc_tp_take(p);
        uint8_t *joined = tc_tp_alloc(p, bytes + next->bytes + 1);
        if (!joined) return NULL;
        memcpy(joined, data, bytes);
        memcpy(joined + bytes, next->data, next->bytes);
        data = joined;
        bytes += next->bytes;
    }
    const tc_ts *s = tc_tp_string(p, data, bytes);
    return s ? constant(p, tc_tv_of_str(s), first->line) : NULL;
}

static tc_tn *name_or_word(tc_tparser *p, bool namespaces)
{
    const tc_ttoken *t = tc_tp_take(p);
    if (tc_ttoken_is(t, "true") || tc_ttoken_is(t, "True")) return constant(p, tc_tv_bool(true), t->line);
    if (tc_ttoken_is(t, "false") || tc_ttoken_is(t, "False")) return constant(p, tc_tv_bool(false), t->line);
    if (tc_ttoken_is(t, "none") || tc_ttoken_is(t, "None")) return constant(p, TC_TV_OF(TC_TV_NONE), t->line);
    bool reference = namespaces && tc_tp_is_op(p, '.');
    tc_tn *n = tc_tp_node(p, reference ? TC_N_NSREF : TC_N_NAME, t->line);
    if (!n) return NULL;
    n->id = tc_tp_name(p, t->data, t->bytes);
    if (reference) {
        tc_tp_take(p);
        const tc_ttoken *attribute = tc_tp_expect_name(p);
        tc_tname *name = attribute ? tc_tp_name(p, attribute->data, attribute->bytes) : NULL;
        if (!name) return NULL;
        n->name = &name->text;
    }
    return n->id ? n : NULL;
}

static tc_tn *list_literal(tc_tparser *p)
{
    tc_tn *n = tc_tp_node(p, TC_N_LIST, tc_tp_take(p)->line);
    while (n && !tc_tp_is_op(p, ']')) {
        if (n->items.count && !tc_tp_expect_op(p, ',')) return NULL;
        if (tc_tp_is_op(p, ']')) break;
        if (!tc_tp_push(p, &n->items, conditional(p))) return NULL;
    }
    if (n) tc_tp_take(p);
    return n ? tc_tp_done(p, n) : NULL;
}

static tc_tn *dict_literal(tc_tparser *p)
{
    tc_tn *n = tc_tp_node(p, TC_N_DICT, tc_tp_take(p)->line);
    while (n && !tc_tp_is_op(p, '}')) {
        if (n->items.count && !tc_tp_expect_op(p, ',')) return NULL;
        if (tc_tp_is_op(p, '}')) break;
        if (!tc_tp_push(p, &n->items, conditional(p)) || !tc_tp_expect_op(p, ':') ||
            !tc_tp_push(p, &n->items, conditional(p)))
            return NULL;
    }
    if (n) tc_tp_take(p);
    return n ? tc_tp_done(p, n) : NULL;
}

tc_tn *tc_tp_primary(tc_tparser *p, bool namespaces)
{
    const tc_ttoken *t = tc_tp_now(p);
    tc_tn *n = NULL;
    if (!tc_tp_deeper(p)) return NULL;
    switch (t->kind) {
    case TC_TK_NAME:
        n = name_or_word(p, namespaces);
        break;
    case TC_TK_STRING:
        n = string_literal(p);
        break;
    case TC_TK_INTEGER:
        n = constant(p, tc_tv_int(tc_tp_take(p)->integer), t->line);
        break;
    case TC_TK_FLOAT:
        n = constant(p, tc_tv_float(tc_tp_take(p)->number), t->line);
        break;
    default:
        if (tc_tp_skip_op(p, '(')) {
            n = tc_tp_tuple(p, true, true, NULL);
            if (!tc_tp_expect_op(p, ')')) n = NULL;
        } else if (tc_tp_is_op(p, '[')) {
            n = list_literal(p);
        } else if (tc_tp_is_op(p, '{')) {
            n = dict_literal(p);
        } else {
            tc_tp_unexpected(p, "an expression");
        }
    }
    p->nesting--;
    return n;
}

// ---- what follows a value
// ----------------------------------------------------------------------------------

// One part of a subscript: an index, or `a:b:c`.
static tc_tn *subscribed(tc_tparser *p)
{
    tc_tn *part[3] = {NULL, NULL, NULL};
    uint32_t line = tc_tp_now(p)->line;
    if (!tc_tp_is_op(p, ':')) {
        part[0] = conditional(p);
        if (!part[0] || !tc_tp_is_op(p, ':')) return part[0];
    }
    for (int i = 1; i < 3 && tc_tp_skip_op(p, ':'); i++)
        if (!tc_tp_is_op(p, ':') && !tc_tp_is_op(p, ']') && !tc_tp_is_op(p, ',')) {
            part[i] = conditional(p);
            if (!part[i]) return NULL;
        }
    tc_tn *n = tc_tp_node(p, TC_N_SLICE, line);
    if (!n) return NULL;
    n->a = part[0], n->b = part[1], n->c = part[2];
    return tc_tp_done(p, n);
}

static tc_tn *attribute(tc_tparser *p, tc_tn *object)
{
    const tc_ttoken *t = tc_tp_take(p);
    bool named = t->kind == TC_TK_NAME;
    tc_tn *n = tc_tp_node(p, named ? TC_N_GETATTR : TC_N_GETITEM, t->line);
    if (!n) return NULL;
    n->a = object;
    if (named) {
        tc_tname *name = tc_tp_name(p, t->data, t->bytes);
        if (!name) return NULL;
        n->name = &name->text;
        n->which = name->method;
    } else if (t->kind == TC_TK_INTEGER) {
        n->b = constant(p, tc_tv_int(t->integer), t->line);
        if (!n->b) return NULL;
    } else {
        tc_tp_fail(p, TC_FORMAT, t->line, "expected name or number");
        return NULL;
    }
    return tc_tp_done(p, n);
}

static tc_tn *subscript(tc_tparser *p, tc_tn *object)
{
    uint32_t line = tc_tp_now(p)->line;
    if (tc_tp_skip_op(p, '.')) return attribute(p, object);
    tc_tp_take(p);
    tc_tn *n = tc_tp_node(p, TC_N_GETITEM, line), *tuple = tc_tp_node(p, TC_N_TUPLE, line);
    if (!n || !tuple) return NULL;
    while (!tc_tp_is_op(p, ']')) {
        if (tuple->items.count && !tc_tp_expect_op(p, ',')) return NULL;
        if (!tc_tp_push(p, &tuple->items, subscribed(p))) return NULL;
    }
    tc_tp_take(p);
    n->a = object;
    n->b = tuple->items.count == 1 ? tuple->items.items[0] : tc_tp_done(p, tuple);
    return tc_tp_done(p, n);
}

static tc_tn *postfix(tc_tparser *p, tc_tn *n)
{
    while (n) {
        if (tc_tp_is_op(p, '.') || tc_tp_is_op(p, '['))
            n = subscript(p, n);
        else if (tc_tp_is_op(p, '('))
            n = call(p, n);
        else
            break;
    }
    return n;
}

// A dotted name, such as filters may have.
static const tc_ts *dotted_name(tc_tparser *p)
{
    const tc_ttoken *t = tc_tp_expect_name(p);
    tc_tname *name = t ? tc_tp_name(p, t->data, t->bytes) : NULL;
    while (name && tc_tp_skip_op(p, '.')) {
        const tc_ttoken *more = tc_tp_expect_name(p);
        uint8_t *joined = more ? tc_tp_alloc(p, name->text.bytes + more->bytes + 1) : NULL;
        if (!joined) return NULL;
        memcpy(joined, name->text.data, name->text.bytes);
        joined[name->text.bytes] = '.';
        memcpy(joined + name->text.bytes + 1, more->data, more->bytes);
        name = tc_tp_name(p, joined, name->text.bytes + more->bytes + 1);
    }
    return name ? &name->text : NULL;
}

// An unknown filter or test is an error at once, but not inside of `if` and `x if y`: there only when used.
static void known(tc_tparser *p, tc_tn *n, int which)
{
    n->which = which;
    if (which < 0 && !p->unknown) p->unknown = n;
}

tc_tn *tc_tp_filters(tc_tparser *p, tc_tn *node, bool inline_start)
{
    while (!p->failed && (inline_start || tc_tp_skip_op(p, '|'))) {
        inline_start = false;
        tc_tn *n = tc_tp_node(p, TC_N_FILTER, tc_tp_now(p)->line);
        if (!n) return NULL;
        n->a = node;
        n->name = dotted_name(p);
        if (!n->name) return NULL;
        known(p, n, tc_filter_find(n->name));
        if (tc_tp_is_op(p, '(')) {
            n->args = call_args(p);
            if (!n->args) return NULL;
        }
        node = tc_tp_done(p, n);
        if (!node) return NULL;
    }
    return p->failed ? NULL : node;
}

// Whether a test's argument without parentheses begins here.
static bool argument_begins(const tc_tparser *p)
{
    const tc_ttoken *t = tc_tp_now(p);
    if (t->kind == TC_TK_NAME)
        return !tc_ttoken_is(t, "else") && !tc_ttoken_is(t, "or") && !tc_ttoken_is(t, "and");
    return t->kind == TC_TK_STRING || t->kind == TC_TK_INTEGER || t->kind == TC_TK_FLOAT ||
           tc_tp_is_op(p, '[') || tc_tp_is_op(p, '{');
}

static tc_tn *test(tc_tparser *p, tc_tn *node)
{
    uint32_t line = tc_tp_take(p)->line;
    bool negated = tc_tp_skip_name(p, "not");
    tc_tn *n = tc_tp_node(p, TC_N_TEST, line);
    if (!n) return NULL;
    n->a = node;
    n->name = dotted_name(p);
    if (!n->name) return NULL;
    known(p, n, tc_test_find(n->name));
    if (tc_tp_is_op(p, '(')) {
        n->args = call_args(p);
        if (!n->args) return NULL;
    } else if (argument_begins(p)) {
        if (tc_tp_is_name(p, "is")) {
            tc_tp_fail(p, TC_FORMAT, line, "You cannot chain multiple tests with is");
            return NULL;
        }
        n->args = tc_tp_alloc(p, sizeof *n->args);
        tc_tn *argument = tc_tp_primary(p, false);
        if (!n->args || !tc_tp_push(p, &n->args->positional, postfix(p, argument))) return NULL;
    }
    n = tc_tp_done(p, n);
    if (!negated || !n) return n;
    tc_tn *not = tc_tp_node(p, TC_N_NOT, line);
    if (!not ) return NULL;
    not ->a = n;
    return tc_tp_done(p, not );
}

static tc_tn *filter_expression(tc_tparser *p, tc_tn *n)
{
    while (n) {
        if (tc_tp_is_op(p, '|'))
            n = tc_tp_filters(p, n, false);
        else if (tc_tp_is_name(p, "is"))
            n = test(p, n);
        else if (tc_tp_is_op(p, '('))
            n = call(p, n);
        else
            break;
    }
    return n;
}

// ---- operators, tightest first
// -----------------------------------------------------------------------------

static tc_tn *unary(tc_tparser *p, bool filters)
{
    tc_tn *n;
    if (tc_tp_is_op(p, '-') || tc_tp_is_op(p, '+')) {
        const tc_ttoken *sign = tc_tp_take(p);
        n = tc_tp_node(p, TC_N_NEGATE, sign->line);
        if (!n || !tc_tp_deeper(p)) return NULL;
        n->op = sign->op;
        n->a = unary(p, false);
        p->nesting--;
        n = n->a ? tc_tp_done(p, n) : NULL;
    } else {
        n = tc_tp_primary(p, false);
    }
    n = postfix(p, n);
    return filters ? filter_expression(p, n) : n;
}

static tc_tn *power(tc_tparser *p)
{
    tc_tn *n = unary(p, true);
    while (n && tc_tp_is_op(p, TC_OP_POW)) {
        uint32_t line = tc_tp_take(p)->line;
        n = binary(p, TC_N_BINARY, 'p', n, unary(p, true), line);
    }
    return n;
}

static tc_tn *product(tc_tparser *p)
{
    tc_tn *n = power(p);
    while (n && (tc_tp_is_op(p, '*') || tc_tp_is_op(p, '/') || tc_tp_is_op(p, TC_OP_FLOORDIV) ||
                 tc_tp_is_op(p, '%'))) {
        const tc_ttoken *t = tc_tp_take(p);
        n = binary(p, TC_N_BINARY, t->op, n, power(p), t->line);
    }
    return n;
}

static tc_tn *concatenation(tc_tparser *p)
{
    tc_tn *first = product(p);
    if (!first || !tc_tp_is_op(p, '~')) return first;
    tc_tn *n = tc_tp_node(p, TC_N_CONCAT, tc_tp_now(p)->line);
    if (!n || !tc_tp_push(p, &n->items, first)) return NULL;
    while (tc_tp_skip_op(p, '~'))
        if (!tc_tp_push(p, &n->items, product(p))) return NULL;
    return tc_tp_done(p, n);
}

static tc_tn *sum(tc_tparser *p)
{
    tc_tn *n = concatenation(p);
    while (n && (tc_tp_is_op(p, '+') || tc_tp_is_op(p, '-'))) {
        const tc_ttoken *t = tc_tp_take(p);
        n = binary(p, TC_N_BINARY, t->op, n, concatenation(p), t->line);
    }
    return n;
}

// The operator of a comparison that stands here, taken; 0 when there is none.
static int comparison(tc_tparser *p)
{
    const tc_ttoken *t = tc_tp_now(p);
    if (t->kind == TC_TK_OPERATOR && (t->op == TC_OP_EQ || t->op == TC_OP_NE || t->op == TC_OP_LE ||
                                      t->op == TC_OP_GE || t->op == '<' || t->op == '>'))
        return tc_tp_take(p)->op;
    if (tc_tp_skip_name(p, "in")) return TC_OP_IN;
    if (tc_tp_is_name(p, "not") && tc_ttoken_is(tc_tp_after(p), "in")) {
        tc_tp_take(p), tc_tp_take(p);
        return TC_OP_NOT_IN;
    }
    return 0;
}

static tc_tn *compare(tc_tparser *p)
{
    tc_tn *first = sum(p), *n = NULL;
    for (int op; first && (op = comparison(p));) {
        if (!n) n = tc_tp_node(p, TC_N_COMPARE, tc_tp_now(p)->line);
        tc_tn *operand = tc_tp_node(p, TC_N_NOT, tc_tp_now(p)->line); // only a box for operator and operand
        if (!n || !operand) return NULL;
        operand->op = (uint8_t)op;
        operand->a = sum(p);
        if (!operand->a || !tc_tp_push(p, &n->items, tc_tp_done(p, operand))) return NULL;
    }
    if (!first || !n) return first;
    n->a = first;
    return tc_tp_done(p, n);
}

static tc_tn *negation(tc_tparser *p)
{
    if (!tc_tp_is_name(p, "not")) return compare(p);
    tc_tn *n = tc_tp_node(p, TC_N_NOT, tc_tp_take(p)->line);
    if (!n || !tc_tp_deeper(p)) return NULL;
    n->a = negation(p);
    p->nesting--;
    return n->a ? tc_tp_done(p, n) : NULL;
}

static tc_tn *both(tc_tparser *p)
{
    tc_tn *n = negation(p);
    while (n && tc_tp_is_name(p, "and")) {
        uint32_t line = tc_tp_take(p)->line;
        n = binary(p, TC_N_AND, 0, n, negation(p), line);
    }
    return n;
}

static tc_tn *either(tc_tparser *p)
{
    tc_tn *n = both(p);
    while (n && tc_tp_is_name(p, "or")) {
        uint32_t line = tc_tp_take(p)->line;
        n = binary(p, TC_N_OR, 0, n, both(p), line);
    }
    return n;
}

static tc_tn *conditional(tc_tparser *p)
{
    if (!tc_tp_deeper(p)) return NULL;
    tc_tn *unknown = p->unknown, *n = either(p);
    bool soft = n && tc_tp_is_name(p, "if");
    while (n && tc_tp_skip_name(p, "if")) {
        tc_tn *c = tc_tp_node(p, TC_N_COND, tc_tp_now(p)->line);
        if (!c) return NULL;
        c->a = n;
        c->b = either(p);
        if (c->b && tc_tp_skip_name(p, "else")) {
            c->c = conditional(p);
            if (!c->c) c->b = NULL;
        }
        n = c->b ? tc_tp_done(p, c) : NULL;
    }
    if (soft) p->unknown = unknown;
    p->nesting--;
    return n;
}

tc_tn *tc_tp_expression(tc_tparser *p)
{
    return conditional(p);
}

static bool tuple_ends(const tc_tparser *p, const char *end)
{
    const tc_ttoken *t = tc_tp_now(p);
    return t->kind == TC_TK_VARIABLE_END || t->kind == TC_TK_BLOCK_END || tc_tp_is_op(p, ')') ||
           (end && tc_ttoken_is(t, end));
}

static tc_tn *tuple_of(tc_tparser *p, tc_tn *(*part)(tc_tparser *), bool parenthesised, const char *end)
{
    tc_tn *n = tc_tp_node(p, TC_N_TUPLE, tc_tp_now(p)->line);
    bool is_tuple = false;
    while (n) {
        if (n->items.count && !tc_tp_expect_op(p, ',')) return NULL;
        if (tuple_ends(p, end)) break;
        if (!tc_tp_push(p, &n->items, part(p))) return NULL;
        if (!tc_tp_is_op(p, ',')) break;
        is_tuple = true;
    }
    if (!n) return NULL;
    if (!is_tuple && n->items.count) return n->items.items[0];
    if (!is_tuple && !parenthesised) {
        tc_tp_unexpected(p, "an expression");
        return NULL;
    }
    return tc_tp_done(p, n);
}

tc_tn *tc_tp_tuple(tc_tparser *p, bool with_condition, bool parenthesised, const char *end)
{
    return tuple_of(p, with_condition ? conditional : either, parenthesised, end);
}

static tc_tn *target_part(tc_tparser *p)
{
    return tc_tp_primary(p, false);
}

static tc_tn *namespace_target_part(tc_tparser *p)
{
    return tc_tp_primary(p, true);
}

static bool assignable(const tc_tn *n)
{
    if (n->kind == TC_N_NAME || n->kind == TC_N_NSREF) return true;
    if (n->kind != TC_N_TUPLE) return false;
    for (uint32_t i = 0; i < n->items.count; i++)
        if (!assignable(n->items.items[i])) return false;
    return true;
}

tc_tn *tc_tp_target(tc_tparser *p, bool namespaces, const char *end)
{
    tc_tn *n = tuple_of(p, namespaces ? namespace_target_part : target_part, false, end);
    if (n && !assignable(n)) {
        tc_tp_fail(p, TC_FORMAT, n->line, "can't assign to this expression");
        return NULL;
    }
    return n;
}
