// SPDX-License-Identifier: Apache-2.0
// Owns: the compiled form of every constraint, a nondeterministic pushdown automaton over bytes, and the
// builder that the compilers of the source languages share. Internal to common/text.
//
// A node is emitted with the node that follows it, so programs grow from their end to their start. Open rules
// and counted repeats are frames on a stack; a RETURN pops one. A stack that is empty at a RETURN is a match.
// The builder's error is sticky: after the first one every emitter returns NODE_NEVER.
#pragma once

#include "common/text/grammar.h"

enum { TC_NODE_NEVER, TC_NODE_RETURN, TC_NODE_FIRST }; // fixed indices

typedef enum tc_node_kind {
    TC_NODE_KIND_NEVER,  // matches nothing
    TC_NODE_KIND_RETURN, // end of a rule or of a repeat's body
    TC_NODE_KIND_SET,    // one byte of sets[arg], then next
    TC_NODE_KIND_SPLIT,  // next or arg, without a byte
    TC_NODE_KIND_CALL,   // rules[arg], then next
    TC_NODE_KIND_TAIL,   // rules[arg] in the place of this rule: needs no frame
    TC_NODE_KIND_LOOP,   // loops[arg], then next
} tc_node_kind;

typedef struct tc_node {
    uint8_t kind;
    uint32_t next, arg;
} tc_node;

typedef struct tc_byte_set {
    uint64_t bits[4];
} tc_byte_set;

#define TC_REPEAT_NO_MAX UINT32_MAX

typedef struct tc_loop {
    uint32_t min, max, body; // the body ends in TC_NODE_RETURN
    bool nullable;           // the body may match nothing: then min counts for nothing
} tc_loop;

typedef struct tc_rule {
    uint32_t start;
    const char *name; // of GBNF, borrowed while compiling; else NULL
    uint32_t name_bytes;
} tc_rule;

#define TC_HEIGHT_NEVER (1u << 30)

struct tc_grammar {
    tc_node *nodes;
    tc_byte_set *sets;
    tc_loop *loops;
    uint32_t *rules; // their starts
    uint32_t
        *heights; // frames that the shortest way from a node to a match needs; >= TC_HEIGHT_NEVER: no way
    uint32_t node_count, set_count, loop_count, rule_count, root;
    // Bytes that no set tells apart are one class.
    uint8_t class_of[256], class_byte[256];
    uint32_t class_count;
};

static inline bool tc_byte_set_has(const tc_byte_set *set, uint8_t byte)
{
    return set->bits[byte >> 6] >> (byte & 63) & 1;
}

// ---- trees of regular expressions and rules, before they become nodes ----
typedef enum tc_tree_kind {
    TC_TREE_EMPTY,
    TC_TREE_CHARS,  // one character of ranges[first_range .. + range_count)
    TC_TREE_SEQ,    // children in order
    TC_TREE_ALT,    // one of the children
    TC_TREE_REPEAT, // the child, min..max times
    TC_TREE_RULE,   // rules[rule]
    TC_TREE_BEGIN,  // ^
    TC_TREE_END,    // $
} tc_tree_kind;

typedef struct tc_tree {
    uint8_t kind;
    uint32_t first, last, sibling; // trees; 0: none
    uint32_t min, max;
    uint32_t first_range, range_count, rule;
} tc_tree;

typedef struct tc_char_range {
    uint32_t low, high; // code points, inclusive
} tc_char_range;

typedef struct tc_builder {
    tc_node *nodes;
    tc_byte_set *sets;
    tc_loop *loops;
    tc_rule *rules;
    tc_tree *trees;
    tc_char_range *ranges;
    uint32_t node_count, node_capacity, set_count, set_capacity, loop_count, loop_capacity;
    uint32_t rule_count, rule_capacity, tree_count, tree_capacity, range_count, range_capacity;
    uint32_t *set_table; // hash -> set + 1
    tc_status status;
    tc_error *e;
} tc_builder;

tc_status tc_builder_init(tc_builder *b, tc_error *e);
void tc_builder_free(tc_builder *b);
// Checks the program (can it end? left recursion?) and gives it away. b keeps nothing of it.
tc_status tc_builder_finish(tc_builder *b, uint32_t root, tc_grammar **ret);
// First failure wins. Returns TC_NODE_NEVER.
uint32_t tc_builder_fail(tc_builder *b, tc_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Room for one more element in a growing array of the builder.
bool tc_builder_grow(tc_builder *b, void **array, uint32_t count, uint32_t *capacity, size_t size);

uint32_t tc_emit_set(tc_builder *b, const tc_byte_set *set, uint32_t next);
uint32_t tc_emit_byte(tc_builder *b, uint8_t byte, uint32_t next);
uint32_t tc_emit_bytes(tc_builder *b, const char *bytes, size_t count, uint32_t next);
uint32_t tc_emit_text(tc_builder *b, const char *text, uint32_t next);
uint32_t tc_emit_split(tc_builder *b, uint32_t one, uint32_t other);
// A split whose two sides are filled in later with tc_patch: for cycles.
uint32_t tc_emit_open(tc_builder *b);
void tc_patch(tc_builder *b, uint32_t open, uint32_t one, uint32_t other);
// `body` ends in TC_NODE_RETURN.
uint32_t tc_emit_loop(tc_builder *b, uint32_t min, uint32_t max, uint32_t body, uint32_t next);
uint32_t tc_rule_add(tc_builder *b, const char *name, uint32_t name_bytes);
uint32_t tc_emit_call(tc_builder *b, uint32_t rule, uint32_t next);

// One character out of n sorted, disjoint ranges. Surrogates are left out.
uint32_t tc_emit_chars(tc_builder *b, const tc_char_range *ranges, uint32_t n, uint32_t next);

// ---- trees ----
typedef enum tc_spelling {
    TC_SPELL_PLAIN,
    TC_SPELL_JSON, // as inside a JSON string: quotes, backslashes and controls escaped, each in one way
} tc_spelling;

uint32_t tc_tree_add(tc_builder *b, tc_tree_kind kind); // 0 after a failure: a tree that is EMPTY
void tc_tree_append(tc_builder *b, uint32_t parent, uint32_t child);
uint32_t tc_tree_repeat(tc_builder *b, uint32_t child, uint32_t min, uint32_t max);
uint32_t tc_tree_chars(tc_builder *b, const tc_char_range *ranges, uint32_t n, bool negated); // sorts a copy
uint32_t tc_tree_text(tc_builder *b, const char *utf8, size_t bytes);
uint32_t tc_emit_tree(tc_builder *b, uint32_t tree, tc_spelling spelling, uint32_t next);
// Fewest and most characters of a text of the tree (UINT32_MAX: no bound).
void tc_tree_lengths(const tc_builder *b, uint32_t tree, uint32_t *ret_min, uint32_t *ret_max);

// Parses a regular expression. `anywhere`: as JSON Schema's "pattern", it may match a part of the text,
// unless anchored. `what` starts errors.
uint32_t tc_regex_parse(tc_builder *b, const char *what, const char *text, size_t bytes, bool anywhere);

// Of one source language each: return the root node.
uint32_t tc_regex_compile(tc_builder *b, const char *text, size_t bytes);
uint32_t tc_gbnf_compile(tc_builder *b, const char *text, size_t bytes);
uint32_t tc_schema_compile(tc_builder *b, const char *text, size_t bytes);
uint32_t tc_tools_compile(tc_builder *b, const char *text, size_t bytes);
uint32_t tc_json_object_compile(tc_builder *b);
