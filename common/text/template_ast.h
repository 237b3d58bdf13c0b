// SPDX-License-Identifier: Apache-2.0
// Owns: the parsed template: nodes, the scopes of its variables, and the steps between text and that:
//   template_lex.c -> tokens -> template_parse.c (statements) + template_parse_expr.c -> nodes
//   -> template_scope.c (which variable each name means) -> ready to be rendered by many threads at once.
#pragma once

#include "common/text/template_value.h"

// ---- tokens
// ------------------------------------------------------------------------------------------------

typedef enum tc_tk {
    TC_TK_EOF,
    TC_TK_DATA,
    TC_TK_VARIABLE_BEGIN,
    TC_TK_VARIABLE_END,
    TC_TK_BLOCK_BEGIN,
    TC_TK_BLOCK_END,
    TC_TK_NAME,
    TC_TK_STRING,
    TC_TK_INTEGER,
    TC_TK_FLOAT,
    TC_TK_OPERATOR, // `op` has its characters: '+', '*' ... and the doubled ones below
} tc_tk;

enum {
    TC_OP_EQ = 'e',
    TC_OP_NE = 'n',
    TC_OP_LE = 'l',
    TC_OP_GE = 'g',
    TC_OP_FLOORDIV = 'f',
    TC_OP_POW = 'p'
};
// Operators of comparisons that are words.
enum { TC_OP_IN = 'i', TC_OP_NOT_IN = 'x' };

typedef struct tc_token_t {
    uint8_t kind, op;
    uint32_t line;
    const uint8_t *data; // DATA, NAME; STRING (decoded)
    uint32_t bytes;
    union {
        int64_t integer;
        double number;
    };
} tc_ttoken;

typedef struct tc_ttokens {
    tc_ttoken *items;
    size_t count, capacity;
} tc_ttokens;

// ---- names and scopes
// --------------------------------------------------------------------------------------

// A name of the template, once for all its occurrences.
typedef struct tc_tname {
    tc_ts text;
    struct tc_tsymbol *symbol; // while scopes are resolved: what it means here
    int16_t method;            // template_method.h
} tc_tname;

typedef enum tc_tload { TC_LOAD_PARAMETER, TC_LOAD_RESOLVE, TC_LOAD_ALIAS, TC_LOAD_MISSING } tc_tload;

// Where a variable lives: in the frame `hops` functions out, at `slot`.
typedef struct tc_tref {
    uint32_t hops, slot;
} tc_tref;

typedef struct tc_tsymbol {
    struct tc_tsymbol *next;     // of this scope
    struct tc_tsymbol *shadowed; // what the name meant outside
    struct tc_tsymbol *source;   // ALIAS
    struct tc_tscope *scope;
    tc_tname *name;
    uint32_t slot;
    uint8_t load;
    bool stored;
} tc_tsymbol;

typedef struct tc_tfunction {
    uint32_t slots; // of a frame
} tc_tfunction;

// What a scope does when it is entered.
typedef struct tc_tentering {
    uint8_t load;
    uint32_t slot;
    tc_tref source;
    const tc_ts *name;
} tc_tentering;

typedef struct tc_tscope {
    struct tc_tscope *parent;
    tc_tfunction *function;
    uint32_t function_level; // of nesting, for hops
    tc_tsymbol *symbols;
    tc_tentering *entering;
    uint32_t entering_count;
} tc_tscope;

// ---- nodes
// -------------------------------------------------------------------------------------------------

typedef enum tc_tn_kind {
    // expressions
    TC_N_CONST,
    TC_N_NAME,
    TC_N_TUPLE,
    TC_N_LIST,
    TC_N_DICT, // items: key, value, key, value ...
    TC_N_NOT,
    TC_N_NEGATE, // op: '-' or '+'
    TC_N_BINARY,
    TC_N_AND,
    TC_N_OR,
    TC_N_COMPARE, // a, then items with their op
    TC_N_CONCAT,
    TC_N_COND, // a if b else c
    TC_N_GETATTR,
    TC_N_GETITEM,
    TC_N_SLICE, // a:b:c
    TC_N_CALL,
    TC_N_FILTER, // a may be NULL (filter block)
    TC_N_TEST,
    TC_N_NSREF, // target a.b
    // statements
    TC_N_OUTPUT,
    TC_N_DATA,
    TC_N_IF, // items: test, test ...; bodies in `bodies`; `else_body`
    TC_N_FOR,
    TC_N_SET,
    TC_N_SET_BLOCK,
    TC_N_MACRO,
    TC_N_CALL_BLOCK,
    TC_N_FILTER_BLOCK,
    TC_N_WITH,
    TC_N_SCOPE,
    TC_N_BREAK,
    TC_N_CONTINUE,
    TC_N_NO_LOADER,
} tc_tn_kind;

typedef struct tc_tnodes {
    struct tc_tn **items;
    uint32_t count, capacity;
} tc_tnodes;

typedef struct tc_targs_node {
    tc_tnodes positional, keyword_values;
    const tc_ts **keywords;
    struct tc_tn *star, *star_star;
} tc_targs_node;

typedef struct tc_tn {
    uint8_t kind, op;
    bool flag; // FOR: recursive; OUTPUT: -; FILTER, TEST: name unknown
    bool uses_loop, uses_caller, uses_kwargs, uses_varargs, explicit_caller;
    uint16_t height;
    uint32_t line;
    struct tc_tn *a, *b, *c;
    tc_tnodes items, body, else_body, defaults;
    tc_tnodes *bodies; // IF: one for each test
    tc_targs_node *args;
    tc_tname *id;      // NAME, NSREF
    const tc_ts *name; // GETATTR, NSREF, MACRO, FILTER, TEST
    int32_t which;     // GETATTR: method; FILTER, TEST: its place in the table
    tc_tv value;       // CONST
    tc_tref ref;       // NAME, NSREF; MACRO: itself; FOR: `loop`; CALL_BLOCK, MACRO: caller
    tc_tref ref2, ref3;
    tc_tscope *scope, *scope2, *scope3; // the node's own; FOR: of the test, of the else
    tc_tfunction *function;             // MACRO, CALL_BLOCK, recursive FOR
} tc_tn;

struct tc_template {
    tc_arena arena;
    tc_arena_spare *spare; // for renderings; the one thing that is not immutable
    char *name;
    tc_tnodes body;
    tc_tscope *scope;
    tc_tfunction *function;
};

// ---- parsing
// -----------------------------------------------------------------------------------------------

enum { TC_NAME_TABLE_MIN = 256 };

typedef struct tc_tparser {
    tc_template *t;
    tc_error *e;
    tc_ttokens tokens;
    size_t at;
    uint32_t nesting;
    tc_tname **names; // open addressing
    size_t name_count, name_mask;
    uint32_t soft;  // inside `if`: unknown filters are an error only when used
    tc_tn *unknown; // the first unknown filter or test that is not inside of one
    bool failed;
    tc_status status;
} tc_tparser;

// Records the first error with its line.
void tc_tp_fail(tc_tparser *p, tc_status status, uint32_t line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void *tc_tp_alloc(tc_tparser *p, size_t bytes); // cleared; NULL with the error recorded
tc_tname *tc_tp_name(tc_tparser *p, const uint8_t *text, size_t bytes);
const tc_ts *tc_tp_string(tc_tparser *p, const uint8_t *text, size_t bytes); // borrows text
tc_tn *tc_tp_node(tc_tparser *p, tc_tn_kind kind, uint32_t line);
bool tc_tp_push(tc_tparser *p, tc_tnodes *list, tc_tn *n);
// Sets the node's height from its children; NULL when it is too high.
tc_tn *tc_tp_done(tc_tparser *p, tc_tn *n);

void tc_tp_lex(tc_tparser *p, const uint8_t *text, size_t bytes); // `text` in the template's arena

static inline const tc_ttoken *tc_tp_now(const tc_tparser *p)
{
    return &p->tokens.items[p->at];
}
static inline const tc_ttoken *tc_tp_after(const tc_tparser *p)
{
    return &p->tokens.items[p->at + (p->at + 1 < p->tokens.count)];
}
const tc_ttoken *tc_tp_take(tc_tparser *p);
bool tc_tp_is_op(const tc_tparser *p, int op);
bool tc_tp_is_name(const tc_tparser *p, const char *name);
bool tc_tp_skip_op(tc_tparser *p, int op);
bool tc_tp_skip_name(tc_tparser *p, const char *name);
bool tc_tp_expect_op(tc_tparser *p, int op);
const tc_ttoken *tc_tp_expect_name(tc_tparser *p);
bool tc_ttoken_is(const tc_ttoken *t, const char *name);
void tc_tp_unexpected(tc_tparser *p, const char *wanted);
bool tc_tp_deeper(tc_tparser *p); // false: nested too deep

// template_parse_expr.c
tc_tn *tc_tp_expression(tc_tparser *p);
// `a, b`: also a single expression. `end` (may be NULL): a name that ends it. `conditional`: `x if y`
// allowed.
tc_tn *tc_tp_tuple(tc_tparser *p, bool conditional, bool parenthesised, const char *end);
tc_tn *tc_tp_target(tc_tparser *p, bool namespaces, const char *end);
tc_tn *tc_tp_filters(tc_tparser *p, tc_tn *node, bool inline_start);
tc_tn *tc_tp_primary(tc_tparser *p, bool namespaces);

void tc_tp_body(tc_tparser *p, tc_tnodes *body, const char *const *ends);
void tc_tp_resolve(tc_tparser *p); // template_scope.c
