// SPDX-License-Identifier: Apache-2.0
// Owns: constraints on an answer's text: JSON objects, JSON by a schema, a regular expression, a GBNF
// grammar, tool calls. Each is compiled into one form, a pushdown automaton over bytes; well-formed UTF-8
// only. Pure: no vocabulary here (grammar_vocabulary.h), no sampling. What each source language means, which
// keywords it knows and how JSON is spaced: docs/API.md. Refuses: anything that it does not implement, with
// an error that names it: nothing is ever left out silently.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

typedef enum tc_constraint_kind {
    TC_CONSTRAINT_NONE,
    TC_CONSTRAINT_JSON_OBJECT, // text: empty
    TC_CONSTRAINT_JSON_SCHEMA, // text: the schema itself, as JSON
    TC_CONSTRAINT_REGEX,       // text: a regular expression that the whole answer matches
    TC_CONSTRAINT_GRAMMAR,     // text: GBNF, start rule "root"
    // text: {"tools": [{"type": "function", "function": {"name", "parameters"}}...] as OpenAI has them,
    // "name": the one that must be called (absent: any), "parallel": several calls (absent: true)}. The
    // answer is one or more of <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>, a line break
    // between.
    TC_CONSTRAINT_TOOL_CALLS,
    TC_CONSTRAINT_KINDS
} tc_constraint_kind;

// Limits, each tested at N and N + 1.
enum {
    TC_CONSTRAINT_TEXT_BYTES_MAX = 128 << 10,
    TC_GRAMMAR_JSON_DEPTH_MAX = 64,       // nesting of the text of a schema
    TC_GRAMMAR_NEST_MAX = 100,            // nesting of groups in a regular expression or rule
    TC_GRAMMAR_NODES_MAX = 1 << 18,       // of the compiled automaton: bounds the time of compilation too
    TC_GRAMMAR_RULES_MAX = 1 << 12,       // GBNF rules; places that $ref points to
    TC_GRAMMAR_REPEAT_MAX = 1000000,      // {m,n}, minLength, maxLength, minItems, maxItems
    TC_GRAMMAR_BRANCHES_MAX = 1 << 10,    // ways in which anyOf, oneOf and allOf of one place combine
    TC_GRAMMAR_CONSTANT_BYTES_MAX = 4096, // a string of enum or const, a name of a property
    TC_GRAMMAR_CLASS_RANGES_MAX = 4096,   // of one character class
    TC_GRAMMAR_RANGES_MAX = 1 << 16,      // of all classes
    TC_GRAMMAR_CONJUNCTION_MAX = 32,      // schemas that describe one value
    TC_GRAMMAR_REFERENCES_MAX = 256,      // $ref, allOf, anyOf, oneOf from one to the next
    TC_GRAMMAR_TOOLS_MAX = 128,
    TC_GRAMMAR_CALLS_MAX = 32, // tool calls of one answer
    TC_GRAMMAR_STACK_MAX =
        256, // open rules and counted repeats of a text: deeper alternatives are not offered
};

typedef struct tc_constraint {
    tc_constraint_kind kind;
    const char *text; // borrowed
    size_t bytes;
} tc_constraint;

typedef struct tc_grammar tc_grammar; // immutable, any number of threads

// ARGUMENT: the text is malformed, contradicts itself or matches nothing; UNSUPPORTED: it asks for something
// not implemented; LIMIT: too large. The error names the place and is fit to be shown to whoever sent it.
tc_status tc_grammar_compile(const tc_constraint *constraint, tc_grammar **ret, tc_error *e);
void tc_grammar_free(tc_grammar *grammar); // NULL is legal

// Whether the whole text belongs to the language: the plain way (no tables kept), for tests and for checking
// constants. LIMIT: too many ways to read it at once.
tc_status tc_grammar_match(const tc_grammar *grammar, const char *text, size_t bytes, bool *ret, tc_error *e);
