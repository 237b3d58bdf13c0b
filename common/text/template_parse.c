// SPDX-License-Identifier: Apache-2.0
// Owns: statements, and what all of the parser shares: names, nodes, errors with their line. A tree is at
// most TC_TEMPLATE_NESTING_MAX high, so that whatever walks it may recurse.
#include "common/text/template_method.h"
#include "common/text/template_run.h"
#include "common/text/utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PARSED_BYTES_MAX = 256 << 20 };

// ---- what the parser shares
// --------------------------------------------------------------------------------

void tc_tp_fail(tc_tparser *p, tc_status status, uint32_t line, const char *format, ...)
{
    char text[256];
    if (p->failed) return;
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    p->failed = true;
    p->status = tc_fail(p->e, status, "%s: line %u: %s", p->t->name, line, text);
}

void *tc_tp_alloc(tc_tparser *p, size_t bytes)
{
    if (p->failed) return NULL;
    void *block = tc_arena_alloc(&p->t->arena, bytes);
    if (block) return memset(block, 0, bytes);
    if (p->t->arena.over_limit)
        tc_tp_fail(p, TC_LIMIT, tc_tp_now(p)->line, "the parsed template is larger than %d bytes",
                   PARSED_BYTES_MAX);
    else
        tc_tp_fail(p, TC_NOMEM, 0, "out of memory");
    return NULL;
}

static tc_ts make_text(const uint8_t *text, size_t bytes)
{
    tc_ts s = {.data = text, .bytes = (uint32_t)bytes, .chars = TC_CHARS_UNKNOWN};
    s.hash = tc_ts_hash(text, bytes);
    tc_ts_chars(&s); // now, because many threads will share it
    return s;
}

const tc_ts *tc_tp_string(tc_tparser *p, const uint8_t *text, size_t bytes)
{
    tc_ts *s = tc_tp_alloc(p, sizeof *s);
    if (s) *s = make_text(text, bytes);
    return s;
}

static bool grow_names(tc_tparser *p)
{
    size_t size = p->names ? (p->name_mask + 1) * 2 : TC_NAME_TABLE_MIN;
    if (p->names && p->name_count * 2 < p->name_mask) return true;
    tc_tname **names = tc_tp_alloc(p, size * sizeof *names);
    if (!names) return false;
    for (size_t i = 0; p->names && i <= p->name_mask; i++) {
        if (!p->names[i]) continue;
        size_t at = p->names[i]->text.hash & (size - 1);
        while (names[at]) at = (at + 1) & (size - 1);
        names[at] = p->names[i];
    }
    p->names = names;
    p->name_mask = size - 1;
    return true;
}

tc_tname *tc_tp_name(tc_tparser *p, const uint8_t *text, size_t bytes)
{
    if (!grow_names(p)) return NULL;
    uint32_t hash = tc_ts_hash(text, bytes);
    size_t at = hash & p->name_mask;
    for (; p->names[at]; at = (at + 1) & p->name_mask) {
        const tc_ts *s = &p->names[at]->text;
        if (s->hash == hash && s->bytes == bytes && !memcmp(s->data, text, bytes)) return p->names[at];
    }
    tc_tname *name = tc_tp_alloc(p, sizeof *name);
    if (!name) return NULL;
    name->text = make_text(text, bytes);
    name->method = (int16_t)tc_method_of_name(text, bytes);
    p->names[at] = name;
    p->name_count++;
    return name;
}

tc_tn *tc_tp_node(tc_tparser *p, tc_tn_kind kind, uint32_t line)
{
    tc_tn *n = tc_tp_alloc(p, sizeof *n);
    if (!n) return NULL;
    n->kind = (uint8_t)kind;
    n->line = line;
    return n;
}

bool tc_tp_push(tc_tparser *p, tc_tnodes *list, tc_tn *n)
{
    if (!n) return false;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 4;
        tc_tn **items = tc_tp_alloc(p, capacity * sizeof *items);
        if (!items) return false;
        if (list->count) memcpy(items, list->items, list->count * sizeof *items);
        list->items = items, list->capacity = capacity;
    }
    list->items[list->count++] = n;
    return true;
}

static void raise_height(uint16_t *height, const tc_tn *child)
{
    if (child && child->height >= *height) *height = (uint16_t)(child->height + 1);
}

static void raise_heights(uint16_t *height, const tc_tnodes *list)
{
    for (uint32_t i = 0; i < list->count; i++) raise_height(height, list->items[i]);
}

tc_tn *tc_tp_done(tc_tparser *p, tc_tn *n)
{
    uint16_t h = 0;
    if (!n) return NULL;
    raise_height(&h, n->a);
    raise_height(&h, n->b);
    raise_height(&h, n->c);
    raise_heights(&h, &n->items);
    if (n->args) {
        raise_heights(&h, &n->args->positional);
        raise_heights(&h, &n->args->keyword_values);
        raise_height(&h, n->args->star);
        raise_height(&h, n->args->star_star);
    }
    n->height = h;
    if (h <= TC_TEMPLATE_NESTING_MAX) return n;
    tc_tp_fail(p, TC_LIMIT, n->line, "an expression nested deeper than %d", TC_TEMPLATE_NESTING_MAX);
    return NULL;
}

bool tc_tp_deeper(tc_tparser *p)
{
    if (p->failed) return false;
    if (++p->nesting <= TC_TEMPLATE_NESTING_MAX) return true;
    tc_tp_fail(p, TC_LIMIT, tc_tp_now(p)->line, "nested deeper than %d", TC_TEMPLATE_NESTING_MAX);
    return false;
}

const tc_ttoken *tc_tp_take(tc_tparser *p)
{
    const tc_ttoken *t = tc_tp_now(p);
    if (t->kind != TC_TK_EOF) p->at++;
    return t;
}

bool tc_tp_is_op(const tc_tparser *p, int op)
{
    const tc_ttoken *t = tc_tp_now(p);
    return t->kind == TC_TK_OPERATOR && t->op == op;
}

bool tc_ttoken_is(const tc_ttoken *t, const char *name)
{
    return t->kind == TC_TK_NAME && t->bytes == strlen(name) && !memcmp(t->data, name, t->bytes);
}

bool tc_tp_is_name(const tc_tparser *p, const char *name)
{
    return tc_ttoken_is(tc_tp_now(p), name);
}

bool tc_tp_skip_op(tc_tparser *p, int op)
{
    bool is = tc_tp_is_op(p, op);
    if (is) tc_tp_take(p);
    return is;
}

bool tc_tp_skip_name(tc_tparser *p, const char *name)
{
    bool is = tc_tp_is_name(p, name);
    if (is) tc_tp_take(p);
    return is;
}

void tc_tp_unexpected(tc_tparser *p, const char *wanted)
{
    const tc_ttoken *t = tc_tp_now(p);
    if (t->kind == TC_TK_EOF)
        tc_tp_fail(p, TC_FORMAT, t->line, "unexpected end of template, expected %s", wanted);
    else if (t->kind == TC_TK_NAME)
        tc_tp_fail(p, TC_FORMAT, t->line, "expected %s, got '%.*s'", wanted,
                   (int)(t->bytes < 80 ? t->bytes : 80), (const char *)t->data);
    else
        tc_tp_fail(p, TC_FORMAT, t->line, "expected %s", wanted);
}

bool tc_tp_expect_op(tc_tparser *p, int op)
{
    char wanted[4] = {'\'', (char)op, '\'', 0};
    if (tc_tp_skip_op(p, op)) return true;
    tc_tp_unexpected(p, wanted);
    return false;
}

const tc_ttoken *tc_tp_expect_name(tc_tparser *p)
{
    if (tc_tp_now(p)->kind == TC_TK_NAME) return tc_tp_take(p);
    tc_tp_unexpected(p, "a name");
    return NULL;
}

// ---- statements
// --------------------------------------------------------------------------------------------

static bool block_end(tc_tparser *p)
{
    if (tc_tp_now(p)->kind == TC_TK_BLOCK_END) {
        tc_tp_take(p);
        return true;
    }
    tc_tp_unexpected(p, "the end of the tag");
    return false;
}

// The body of a statement up to one of the words in `ends`, which stays to be read.
static bool statements(tc_tparser *p, tc_tnodes *body, const char *const *ends)
{
    tc_tp_skip_op(p, ':');
    if (!block_end(p) || !tc_tp_deeper(p)) return false;
    tc_tp_body(p, body, ends);
    p->nesting--;
    if (tc_tp_now(p)->kind == TC_TK_EOF) tc_tp_unexpected(p, ends[0]);
    return !p->failed;
}

static bool closed_by(tc_tparser *p, tc_tnodes *body, const char *end)
{
    const char *const ends[] = {end, NULL};
    return statements(p, body, ends) && tc_tp_take(p);
}

static tc_tn *parse_set(tc_tparser *p, uint32_t line)
{
    tc_tn *target = tc_tp_target(p, true, NULL);
    if (!target) return NULL;
    bool simple = tc_tp_skip_op(p, '=');
    tc_tn *n = tc_tp_node(p, simple ? TC_N_SET : TC_N_SET_BLOCK, line);
    if (!n) return NULL;
    n->a = target;
    if (simple) {
        n->b = tc_tp_tuple(p, true, false, NULL);
        return n->b ? n : NULL;
    }
    if (tc_tp_is_op(p, '|')) n->b = tc_tp_filters(p, NULL, false);
    return closed_by(p, &n->body, "endset") ? n : NULL;
}

static tc_tn *parse_for(tc_tparser *p, uint32_t line)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    tc_tn *n = tc_tp_node(p, TC_N_FOR, line);
    if (!n || !(n->a = tc_tp_target(p, false, "in"))) return NULL;
    if (!tc_tp_skip_name(p, "in")) {
        tc_tp_unexpected(p, "'in'");
        return NULL;
    }
    n->b = tc_tp_tuple(p, false, false, "recursive");
    if (!n->b) return NULL;
    if (tc_tp_skip_name(p, "if") && !(n->c = tc_tp_expression(p))) return NULL;
    n->flag = tc_tp_skip_name(p, "recursive");
    if (!statements(p, &n->body, ends)) return NULL;
    if (tc_ttoken_is(tc_tp_take(p), "endfor")) return n;
    return closed_by(p, &n->else_body, "endfor") ? n : NULL;
}

static tc_tn *parse_if(tc_tparser *p, uint32_t line)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    tc_tn *n = tc_tp_node(p, TC_N_IF, line);
    uint32_t capacity = 0;
    p->soft++;
    while (n) {
        if (!tc_tp_push(p, &n->items, tc_tp_tuple(p, false, false, NULL))) return NULL;
        uint32_t branch = n->items.count - 1;
        if (branch == capacity) {
            tc_tnodes *bodies = tc_tp_alloc(p, (capacity = capacity ? capacity * 2 : 2) * sizeof *bodies);
            if (!bodies) return NULL;
            if (branch) memcpy(bodies, n->bodies, branch * sizeof *bodies);
            n->bodies = bodies;
        }
        if (!statements(p, &n->bodies[branch], ends)) return NULL;
        const tc_ttoken *word = tc_tp_take(p);
        if (tc_ttoken_is(word, "elif")) continue;
        if (tc_ttoken_is(word, "else") && !closed_by(p, &n->else_body, "endif")) return NULL;
        break;
    }
    p->soft--;
    return n;
}

static tc_tn *parse_with(tc_tparser *p, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_WITH, line);
    while (n && tc_tp_now(p)->kind != TC_TK_BLOCK_END) { // items: targets, defaults: values
        if (n->items.count && !tc_tp_expect_op(p, ',')) return NULL;
        if (!tc_tp_push(p, &n->items, tc_tp_target(p, false, NULL)) || !tc_tp_expect_op(p, '=') ||
            !tc_tp_push(p, &n->defaults, tc_tp_expression(p)))
            return NULL;
    }
    return n && closed_by(p, &n->body, "endwith") ? n : NULL;
}

// The parameters of a macro or a call block.
static bool signature(tc_tparser *p, tc_tn *n)
{
    if (!tc_tp_expect_op(p, '(')) return false;
    while (!tc_tp_is_op(p, ')')) {
        if (n->items.count && !tc_tp_expect_op(p, ',')) return false;
        const tc_ttoken *t = tc_tp_expect_name(p);
        tc_tn *name = t ? tc_tp_node(p, TC_N_NAME, t->line) : NULL;
        if (!name || !(name->id = tc_tp_name(p, t->data, t->bytes))) return false;
        for (uint32_t i = 0; i < n->items.count; i++)
            if (n->items.items[i]->id == name->id) {
                tc_tp_fail(p, TC_FORMAT, t->line, "a parameter that is named twice");
                return false;
            }
        if (!tc_tp_push(p, &n->items, name)) return false;
        if (tc_tp_skip_op(p, '=')) {
            if (!tc_tp_push(p, &n->defaults, tc_tp_expression(p))) return false;
        } else if (n->defaults.count) {
            tc_tp_fail(p, TC_FORMAT, t->line, "non-default argument follows default argument");
            return false;
        }
        if (n->items.count > 256) tc_tp_fail(p, TC_LIMIT, t->line, "more than 256 parameters");
        if (p->failed) return false;
    }
    tc_tp_take(p);
    return true;
}

static tc_tn *parse_macro(tc_tparser *p, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_MACRO, line);
    const tc_ttoken *t = tc_tp_expect_name(p);
    if (!n || !t || !(n->id = tc_tp_name(p, t->data, t->bytes)) || !signature(p, n)) return NULL;
    n->name = &n->id->text;
    uint32_t soft = p->soft;
    p->soft = 0; // a macro's body is a frame of its own
    bool ok = closed_by(p, &n->body, "endmacro");
    p->soft = soft;
    return ok ? n : NULL;
}

static tc_tn *parse_call(tc_tparser *p, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_CALL_BLOCK, line);
    if (!n || (tc_tp_is_op(p, '(') && !signature(p, n)) || !(n->a = tc_tp_expression(p))) return NULL;
    if (n->a->kind != TC_N_CALL) {
        tc_tp_fail(p, TC_FORMAT, line, "expected call");
        return NULL;
    }
    return closed_by(p, &n->body, "endcall") ? n : NULL;
}

static tc_tn *parse_filter_block(tc_tparser *p, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_FILTER_BLOCK, line);
    if (!n || !(n->a = tc_tp_filters(p, NULL, true))) return NULL;
    return closed_by(p, &n->body, "endfilter") ? n : NULL;
}

static tc_tn *parse_scope(tc_tparser *p, uint32_t line, const char *end)
{
    tc_tn *n = tc_tp_node(p, TC_N_SCOPE, line);
    return n && closed_by(p, &n->body, end) ? n : NULL;
}

// `block`: there is no template to inherit from, so it is rendered where it stands.
static tc_tn *parse_block(tc_tparser *p, uint32_t line)
{
    const tc_ttoken *name = tc_tp_expect_name(p);
    if (!name) return NULL;
    tc_tp_skip_name(p, "scoped");
    tc_tp_skip_name(p, "required");
    tc_tn *n = parse_scope(p, line, "endblock");
    if (n && tc_tp_now(p)->kind == TC_TK_NAME && tc_tp_now(p)->bytes == name->bytes &&
        !memcmp(tc_tp_now(p)->data, name->data, name->bytes))
        tc_tp_take(p);
    return n;
}

static tc_tn *parse_print(tc_tparser *p, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_OUTPUT, line);
    while (n && tc_tp_now(p)->kind != TC_TK_BLOCK_END) {
        if (n->items.count && !tc_tp_expect_op(p, ',')) return NULL;
        if (!tc_tp_push(p, &n->items, tc_tp_expression(p))) return NULL;
    }
    return n;
}

// include, import, from, extends: read over, and refused when they are reached.
static tc_tn *parse_no_loader(tc_tparser *p, uint32_t line)
{
    tc_tn *n = tc_tp_node(p, TC_N_NO_LOADER, line);
    while (tc_tp_now(p)->kind != TC_TK_BLOCK_END && tc_tp_now(p)->kind != TC_TK_EOF) tc_tp_take(p);
    return n;
}

static tc_tn *parse_statement(tc_tparser *p)
{
    const tc_ttoken *t = tc_tp_expect_name(p);
    if (!t) return NULL;
    uint32_t line = t->line;
    if (tc_ttoken_is(t, "set")) return parse_set(p, line);
    if (tc_ttoken_is(t, "for")) return parse_for(p, line);
    if (tc_ttoken_is(t, "if")) return parse_if(p, line);
    if (tc_ttoken_is(t, "macro")) return parse_macro(p, line);
    if (tc_ttoken_is(t, "call")) return parse_call(p, line);
    if (tc_ttoken_is(t, "filter")) return parse_filter_block(p, line);
    if (tc_ttoken_is(t, "with")) return parse_with(p, line);
    if (tc_ttoken_is(t, "generation")) return parse_scope(p, line, "endgeneration");
    if (tc_ttoken_is(t, "break")) return tc_tp_node(p, TC_N_BREAK, line);
    if (tc_ttoken_is(t, "continue")) return tc_tp_node(p, TC_N_CONTINUE, line);
    if (tc_ttoken_is(t, "print")) return parse_print(p, line);
    if (tc_ttoken_is(t, "block")) return parse_block(p, line);
    if (tc_ttoken_is(t, "autoescape"))
        return tc_tp_expression(p) ? parse_scope(p, line, "endautoescape") : NULL;
    if (tc_ttoken_is(t, "include") || tc_ttoken_is(t, "import") || tc_ttoken_is(t, "from") ||
        tc_ttoken_is(t, "extends"))
        return parse_no_loader(p, line);
    tc_tp_fail(p, TC_FORMAT, line, "Encountered unknown tag '%.*s'.", (int)(t->bytes < 80 ? t->bytes : 80),
               (const char *)t->data);
    return NULL;
}

// ---- text and tags
// -----------------------------------------------------------------------------------------

static bool is_end(const tc_tparser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (tc_tp_is_name(p, *ends)) return true;
    return false;
}

static tc_tn *data_node(tc_tparser *p)
{
    const tc_ttoken *t = tc_tp_take(p);
    tc_tn *n = tc_tp_node(p, TC_N_DATA, t->line);
    const tc_ts *s = tc_tp_string(p, t->data, t->bytes);
    if (!n || !s) return NULL;
    n->value = tc_tv_of_str(s);
    return n;
}

static tc_tn *output_node(tc_tparser *p)
{
    tc_tn *n = tc_tp_node(p, TC_N_OUTPUT, tc_tp_take(p)->line);
    if (!n || !tc_tp_push(p, &n->items, tc_tp_tuple(p, true, false, NULL))) return NULL;
    if (tc_tp_now(p)->kind != TC_TK_VARIABLE_END) {
        tc_tp_unexpected(p, "'}}'");
        return NULL;
    }
    tc_tp_take(p);
    return n;
}

static void check_unknown(tc_tparser *p)
{
    const tc_tn *n = p->unknown;
    p->unknown = NULL;
    if (n && !p->soft)
        tc_tp_fail(p, TC_FORMAT, n->line, "No %s named '%.*s'.", n->kind == TC_N_FILTER ? "filter" : "test",
                   (int)(n->name->bytes < 80 ? n->name->bytes : 80), (const char *)n->name->data);
}

void tc_tp_body(tc_tparser *p, tc_tnodes *body, const char *const *ends)
{
    while (!p->failed) {
        const tc_ttoken *t = tc_tp_now(p);
        tc_tn *n = NULL;
        check_unknown(p); // of the tag this body belongs to
        if (t->kind == TC_TK_EOF) return;
        if (t->kind == TC_TK_DATA) {
            n = data_node(p);
        } else if (t->kind == TC_TK_VARIABLE_BEGIN) {
            n = output_node(p);
        } else {
            tc_tp_take(p); // BLOCK_BEGIN: nothing else can stand outside of a tag
            if (is_end(p, ends)) return;
            n = parse_statement(p);
            if (n && !block_end(p)) return;
        }
        if (!n || !tc_tp_push(p, body, n)) return;
        check_unknown(p);
    }
}

// Python's universal newlines, and without the last one.
static const uint8_t *normalize(tc_tparser *p, const char *text, size_t bytes, size_t *ret_bytes)
{
    uint8_t *out = tc_tp_alloc(p, bytes + 1);
    size_t used = 0;
    for (size_t i = 0; out && i < bytes; i++) {
        if (text[i] != '\r') {
            out[used++] = (uint8_t)text[i];
            continue;
        }
        out[used++] = '\n';
        if (i + 1 < bytes && text[i + 1] == '\n') i++;
    }
    if (used && out[used - 1] == '\n') used--;
    *ret_bytes = used;
    return out;
}

static void parse_all(tc_tparser *p, const char *text, size_t bytes)
{
    size_t length = 0;
    const uint8_t *normal = normalize(p, text, bytes, &length);
    if (!normal) return;
    tc_tp_lex(p, normal, length);
    if (p->failed) return;
    tc_tp_body(p, &p->t->body, NULL);
    if (!p->failed) tc_tp_resolve(p);
}

tc_status tc_template_parse(const char *text, size_t bytes, const char *name, tc_template **ret, tc_error *e)
{
    static const tc_ttoken nothing;
    tc_status status = TC_OK;
    tc_template *t = calloc(1, sizeof *t);
    tc_tparser p = {.t = t, .e = e};
    p.tokens.items = (tc_ttoken *)&nothing; // so that errors before the first token have a line
    if (bytes > TC_TEMPLATE_BYTES_MAX)
        TC_GOTO(tc_fail(e, TC_LIMIT, "%s: %zu bytes, at most %d", name, bytes, TC_TEMPLATE_BYTES_MAX));
    if (tc_utf8_valid_bytes(text, bytes) != bytes) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: not UTF-8", name));
    if (!t || !(t->name = strdup(name)) || !(t->spare = calloc(1, sizeof *t->spare)))
        TC_GOTO(tc_fail(e, TC_NOMEM, "%s: out of memory", name));
    t->arena.limit_bytes = PARSED_BYTES_MAX;
    p.tokens.items = NULL;
    parse_all(&p, text, bytes);
    if (p.failed) TC_GOTO(p.status);
    *ret = t;
    t = NULL;
out:
    if (p.tokens.items != &nothing) free(p.tokens.items);
    tc_template_free(t);
    return status;
}

void tc_template_free(tc_template *t)
{
    if (!t) return;
    tc_arena_free(&t->arena);
    if (t->spare) tc_arena_spare_free(t->spare);
    free(t->spare);
    free(t->name);
    free(t);
}
