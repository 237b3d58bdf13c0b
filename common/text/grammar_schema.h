// SPDX-License-Identifier: Apache-2.0
// Owns: what the files that compile JSON Schema share. A place of the answer is described by a conjunction: a
// few raw schemas that all hold there. $ref, allOf, anyOf and oneOf are resolved into conjunctions, which
// then are folded into facts, which are emitted. Internal to common/text.
#pragma once

#include "common/base/json.h"
#include "common/text/grammar_json.h"

// Keywords of a part that have been resolved.
enum { TC_DONE_REF = 1, TC_DONE_ALL_OF = 2, TC_DONE_ANY_OF = 4, TC_DONE_ONE_OF = 8 };

typedef struct tc_schema_part {
    yyjson_val *schema; // an object
    uint8_t done;
} tc_schema_part;

typedef struct tc_conjunction {
    uint32_t count;
    bool never; // one of them is `false`
    tc_schema_part parts[TC_GRAMMAR_CONJUNCTION_MAX];
} tc_conjunction;

enum {
    TC_TYPE_NULL = 1,
    TC_TYPE_BOOL = 2,
    TC_TYPE_OBJECT = 4,
    TC_TYPE_ARRAY = 8,
    TC_TYPE_NUMBER = 16, // numbers that are no integers
    TC_TYPE_INTEGER = 32,
    TC_TYPE_STRING = 64,
    TC_TYPE_ALL = 127,
};

typedef struct tc_schema_rule {
    tc_conjunction *of; // owned
    uint32_t rule;
} tc_schema_rule;

typedef struct tc_schema {
    tc_json j;
    tc_builder *b;
    yyjson_val *root;
    yyjson_val **places; // every schema of the document: a set by address
    uint16_t *marks;     // beside them, of the search for references without end
    uint32_t place_count, place_capacity;
    tc_schema_rule rules[TC_GRAMMAR_RULES_MAX];
    uint32_t rule_count, compiled;
    uint32_t branches;
} tc_schema;

// Everything of one place but $ref, allOf, anyOf, oneOf.
typedef struct tc_schema_facts {
    uint32_t types;
    bool typed; // `type` or values were given
    bool has_values;
    yyjson_val **values; // malloc'ed
    uint32_t value_count;
    yyjson_val *minimum, *maximum, *multiple_of, *pattern, *format;
    bool minimum_open, maximum_open;
    uint32_t min_length, max_length, min_items, max_items, min_properties, max_properties;
    const tc_conjunction *of;
} tc_schema_facts;

// grammar_schema_check.c: the document's keywords, their types, its places.
bool tc_schema_check(tc_schema *s);
bool tc_schema_is_place(const tc_schema *s, yyjson_val *value);
yyjson_val *tc_schema_resolve(tc_schema *s, yyjson_val *schema, yyjson_val *ref); // NULL: failed
uint32_t tc_schema_fail(tc_schema *s, tc_status status, yyjson_val *place, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// The place as a JSON pointer.
void tc_schema_path(const tc_schema *s, yyjson_val *place, char *ret, size_t capacity);

// grammar_schema.c
void tc_conjunction_add(tc_schema *s, tc_conjunction *c, yyjson_val *schema);
uint32_t tc_schema_emit(tc_schema *s, const tc_conjunction *c, uint32_t next);
// Resolves $ref and allOf, drops what says nothing.
bool tc_conjunction_resolve(tc_schema *s, tc_conjunction *c);

// grammar_schema_facts.c
bool tc_schema_fold(tc_schema *s, const tc_conjunction *c, tc_schema_facts *ret);
bool tc_schema_disjoint(tc_schema *s, const tc_conjunction *a, const tc_conjunction *z, uint32_t depth);
// The conjunction of a property, item or further property. False: not possible (a failure, or never).
void tc_schema_property(tc_schema *s, const tc_conjunction *of, const char *name, size_t bytes,
                        tc_conjunction *ret);
bool tc_schema_required(const tc_conjunction *of, const char *name, size_t bytes);
uint32_t tc_schema_type_of(yyjson_val *value);

// grammar_schema_emit.c: a place whose facts are known.
uint32_t tc_schema_emit_facts(tc_schema *s, tc_schema_facts *f, uint32_t next);

// grammar_format.c: the regular expression of a "format"; NULL: not known.
const char *tc_format_regex(const char *format);

// One schema inside a bigger grammar (tool arguments), restricted to objects.
uint32_t tc_schema_emit_arguments(tc_builder *b, const char *what, yyjson_val *schema, uint32_t next);
