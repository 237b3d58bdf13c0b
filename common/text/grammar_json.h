// SPDX-License-Identifier: Apache-2.0
// Owns: JSON texts as nodes: white space, strings, numbers in a range, objects and arrays of given members,
// any value. Internal to common/text. How they may be spaced: docs/API.md.
#pragma once

#include "common/text/grammar_program.h"

enum {
    TC_JSON_INDENT_MAX = 40,     // spaces and tabs behind a line break
    TC_JSON_INT_DIGITS_MAX = 18, // of a number's integer part
    TC_JSON_FRACTION_DIGITS_MAX = 16,
    TC_JSON_MULTIPLES_MAX = 1024, // multipleOf: so many values in a range are written out
    TC_JSON_DIVISOR_MAX = 100,    // ... else divisors up to this
};

typedef struct tc_json {
    tc_builder *b;
    uint32_t any_rule, any_object_rule; // + 1; 0: not made yet
    uint32_t char_tree, number_tree;
} tc_json;

uint32_t tc_emit_json_space(tc_json *j, uint32_t next); // none, one space, or a line break and indentation
uint32_t tc_emit_json_any(tc_json *j, uint32_t next);
uint32_t tc_emit_json_any_object(tc_json *j, uint32_t next);
// Any string of min..max characters.
uint32_t tc_emit_json_string(tc_json *j, uint32_t min, uint32_t max, uint32_t next);
// A string whose content is a text of the tree, spelled for JSON.
uint32_t tc_emit_json_tree_string(tc_json *j, uint32_t tree, uint32_t next);
// The text as a string: '"', the text with escapes, '"'.
uint32_t tc_emit_json_literal(tc_json *j, const char *utf8, size_t bytes, uint32_t next);
// A key that is none of the n names: plain characters, \" and \\ only, so that no escape spells one of them.
uint32_t tc_emit_json_other_key(tc_json *j, const char *const *names, const size_t *lengths, uint32_t n,
                                uint32_t next);

// A number between bounds; texts of JSON numbers, or NULL: no bound.
typedef struct tc_json_range {
    const char *min, *max;
    bool min_open, max_open; // the bound itself is excluded
    const char *multiple_of; // NULL: none
} tc_json_range;
uint32_t tc_emit_json_number(tc_json *j, const char *what, bool integer, const tc_json_range *range,
                             uint32_t next);

// Members in the order given; those not required may be left out. `value` emits the value of member i,
// `extra` the key, colon and value of one more (NULL: none), any number of them after the others.
typedef struct tc_json_members {
    uint32_t count;
    const char *const *names;
    const size_t *lengths;
    const bool *required;
    uint32_t (*value)(void *arg, uint32_t i, uint32_t next);
    uint32_t (*extra)(void *arg, uint32_t next);
    uint32_t extra_min, extra_max; // of objects without other members
    void *arg;
} tc_json_members;
uint32_t tc_emit_json_object(tc_json *j, const tc_json_members *m, uint32_t next);
uint32_t tc_emit_json_colon(tc_json *j, uint32_t next); // and perhaps a space

// min..max items; the first `prefix` are each of their own kind, `rest`: whether others may follow.
typedef struct tc_json_items {
    uint32_t prefix, min, max;
    bool rest;
    uint32_t (*item)(void *arg, uint32_t i, uint32_t next); // i == prefix: one of the rest
    void *arg;
} tc_json_items;
uint32_t tc_emit_json_array(tc_json *j, const tc_json_items *items, uint32_t next);
