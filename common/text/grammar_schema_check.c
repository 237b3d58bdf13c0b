// SPDX-License-Identifier: Apache-2.0
// Owns: which keywords of JSON Schema there are and what type their values have. Every schema in the document
// is looked at, used or not: a keyword that is not in the table is an error that names it and its place.
#include "common/text/grammar_schema.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum shape {
    ANNOTATION, // says nothing about values
    SCHEMA,
    SCHEMAS,    // a list, at least one
    SCHEMA_MAP, // an object of schemas
    TYPE,       // a type's name or a list of them
    ANY,
    LIST,    // not empty
    STRINGS, // a list of strings
    COUNT,
    NUMBER,
    POSITIVE,
    STRING,
    BOOL,
    FALSE_ONLY, // what it would ask for is not implemented
} shape;

static const struct {
    const char *name;
    shape kind;
} keywords[] = {
    {"$comment", ANNOTATION},
    {"$schema", ANNOTATION},
    {"$id", ANNOTATION},
    {"title", ANNOTATION},
    {"description", ANNOTATION},
    {"default", ANNOTATION},
    {"example", ANNOTATION},
    {"examples", ANNOTATION},
    {"deprecated", ANNOTATION},
    {"readOnly", ANNOTATION},
    {"writeOnly", ANNOTATION},
    {"discriminator", ANNOTATION},
    {"$defs", SCHEMA_MAP},
    {"definitions", SCHEMA_MAP},
    {"properties", SCHEMA_MAP},
    {"patternProperties", SCHEMA_MAP},
    {"additionalProperties", SCHEMA},
    {"items", SCHEMA},
    {"prefixItems", SCHEMAS},
    {"anyOf", SCHEMAS},
    {"oneOf", SCHEMAS},
    {"allOf", SCHEMAS},
    {"$ref", STRING},
    {"type", TYPE},
    {"enum", LIST},
    {"const", ANY},
    {"required", STRINGS},
    {"minItems", COUNT},
    {"maxItems", COUNT},
    {"minLength", COUNT},
    {"maxLength", COUNT},
    {"minProperties", COUNT},
    {"maxProperties", COUNT},
    {"pattern", STRING},
    {"format", STRING},
    {"minimum", NUMBER},
    {"maximum", NUMBER},
    {"exclusiveMinimum", NUMBER},
    {"exclusiveMaximum", NUMBER},
    {"multipleOf", POSITIVE},
    {"nullable", BOOL},
    {"uniqueItems", FALSE_ONLY},
};

// ---- where something is ----

static bool find_path(yyjson_val *value, yyjson_val *wanted, char *path, size_t capacity, size_t at)
{
    size_t i, n;
    yyjson_val *key, *child;
    if (value == wanted) return path[at < capacity ? at : capacity - 1] = 0, true;
    if (yyjson_is_obj(value)) {
        yyjson_obj_foreach(value, i, n, key, child)
        {
            int wrote = snprintf(path + at, capacity - at, "/%.100s", yyjson_get_str(key));
            size_t next = at + (size_t)wrote < capacity ? at + (size_t)wrote : capacity - 1;
            if (find_path(child, wanted, path, capacity, next)) return true;
        }
    } else if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, i, n, child)
        {
            int wrote = snprintf(path + at, capacity - at, "/%zu", i);
            size_t next = at + (size_t)wrote < capacity ? at + (size_t)wrote : capacity - 1;
            if (find_path(child, wanted, path, capacity, next)) return true;
        }
    }
    return false;
}

void tc_schema_path(const tc_schema *s, yyjson_val *place, char *ret, size_t capacity)
{
    ret[0] = '#';
    if (!place || !find_path(s->root, place, ret, capacity, 1)) snprintf(ret, capacity, "#");
}

uint32_t tc_schema_fail(tc_schema *s, tc_status status, yyjson_val *place, const char *format, ...)
{
    char path[200], text[300];
    va_list list;
    if (s->b->status != TC_OK) return TC_NODE_NEVER;
    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    tc_schema_path(s, place, path, sizeof path);
    return tc_builder_fail(s->b, status, "schema %s: %s", path, text);
}

// ---- the set of places ----

static size_t slot_of(const tc_schema *s, yyjson_val *value)
{
    size_t at = ((uintptr_t)value / sizeof *value * 0x9e3779b97f4a7c15u >> 20) & (s->place_capacity - 1);
    while (s->places[at] && s->places[at] != value) at = (at + 1) & (s->place_capacity - 1);
    return at;
}

bool tc_schema_is_place(const tc_schema *s, yyjson_val *value)
{
    return s->places[slot_of(s, value)] != NULL;
}

static void note_place(tc_schema *s, yyjson_val *value)
{
    if (2 * (s->place_count + 1) > s->place_capacity) {
        tc_schema_fail(s, TC_LIMIT, NULL, "more than %u schemas", s->place_count);
        return;
    }
    s->places[slot_of(s, value)] = value;
    s->place_count++;
}

// ---- keywords ----

static const char *const type_names[] = {"null", "boolean", "object", "array", "number", "integer", "string"};

static bool is_type(yyjson_val *v)
{
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (yyjson_equals_str(v, type_names[i])) return true;
    return false;
}

static bool all_are(yyjson_val *list, bool (*check)(yyjson_val *))
{
    size_t i, n;
    yyjson_val *v;
    yyjson_arr_foreach(list, i, n, v) if (!check(v)) return false;
    return true;
}

static bool is_string(yyjson_val *v)
{
    return yyjson_is_str(v);
}

static bool fits(shape kind, yyjson_val *v)
{
    switch (kind) {
    case SCHEMA:
        return yyjson_is_obj(v) || yyjson_is_bool(v);
    case SCHEMAS:
        return yyjson_is_arr(v) && yyjson_arr_size(v) > 0;
    case SCHEMA_MAP:
        return yyjson_is_obj(v);
    case TYPE:
        return is_type(v) || (yyjson_is_arr(v) && yyjson_arr_size(v) > 0 && all_are(v, is_type));
    case LIST:
        return yyjson_is_arr(v) && yyjson_arr_size(v) > 0;
    case STRINGS:
        return yyjson_is_arr(v) && all_are(v, is_string);
    case COUNT:
        return (yyjson_is_int(v) && !(yyjson_is_sint(v) && yyjson_get_sint(v) < 0)) ||
               (yyjson_is_real(v) && yyjson_get_real(v) >= 0 &&
                floor(yyjson_get_real(v)) == yyjson_get_real(v));
    case NUMBER:
        return yyjson_is_num(v);
    case POSITIVE:
        return yyjson_is_num(v) && yyjson_get_num(v) > 0;
    case STRING:
        return yyjson_is_str(v);
    case BOOL:
        return yyjson_is_bool(v);
    case FALSE_ONLY:
        return yyjson_is_false(v);
    default:
        return true;
    }
}

static void check_place(tc_schema *s, yyjson_val *schema);

static void check_children(tc_schema *s, shape kind, yyjson_val *v)
{
    size_t i, n;
    yyjson_val *key, *child;
    if (kind == SCHEMA) check_place(s, v);
    if (kind == SCHEMAS) yyjson_arr_foreach(v, i, n, child) check_place(s, child);
    if (kind == SCHEMA_MAP) yyjson_obj_foreach(v, i, n, key, child) check_place(s, child);
}

static void check_keyword(tc_schema *s, yyjson_val *schema, yyjson_val *key, yyjson_val *value)
{
    size_t k = 0, count = sizeof keywords / sizeof *keywords;
    while (k < count && !yyjson_equals_str(key, keywords[k].name)) k++;
    if (k == count) {
        tc_schema_fail(s, TC_UNSUPPORTED, schema, "keyword \"%.100s\" is not supported", yyjson_get_str(key));
        return;
    }
    if (fits(keywords[k].kind, value)) {
        if (keywords[k].kind == COUNT && yyjson_get_num(value) > TC_GRAMMAR_REPEAT_MAX &&
            strncmp(keywords[k].name, "min", 3) == 0)
            tc_schema_fail(s, TC_LIMIT, schema, "\"%s\" is larger than %d", keywords[k].name,
                           TC_GRAMMAR_REPEAT_MAX);
        check_children(s, keywords[k].kind, value);
        return;
    }
    if (keywords[k].kind == FALSE_ONLY)
        tc_schema_fail(s, TC_UNSUPPORTED, schema, "keyword \"%s\" is not supported", keywords[k].name);
    else if (keywords[k].kind == SCHEMA && yyjson_is_arr(value))
        tc_schema_fail(s, TC_UNSUPPORTED, schema, "\"%s\" as a list is not supported (use prefixItems)",
                       keywords[k].name);
    else
        tc_schema_fail(s, TC_ARGUMENT, schema, "the value of \"%s\" is not what the keyword takes",
                       keywords[k].name);
}

static void check_place(tc_schema *s, yyjson_val *schema)
{
    size_t i, n;
    yyjson_val *key, *value;
    if (s->b->status != TC_OK) return;
    if (!yyjson_is_obj(schema) && !yyjson_is_bool(schema)) {
        tc_schema_fail(s, TC_ARGUMENT, schema, "a schema is an object, true or false");
        return;
    }
    note_place(s, schema);
    if (!yyjson_is_obj(schema)) return;
    yyjson_obj_foreach(schema, i, n, key, value)
    {
        check_keyword(s, schema, key, value);
        if (s->b->status != TC_OK) return;
    }
}

// ---- $ref ----

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

// One name of a pointer: %xx, then ~0 and ~1. Returns its length, or SIZE_MAX.
static size_t take_name(const char **at, char *name, size_t capacity)
{
    size_t n = 0;
    const char *p = *at;
    while (*p && *p != '/') {
        char c = *p++;
        if (c == '%' && hex_digit(p[0]) >= 0 && hex_digit(p[1]) >= 0) {
            c = (char)(hex_digit(p[0]) << 4 | hex_digit(p[1]));
            p += 2;
        }
        if (c == '~' && (*p == '0' || *p == '1')) c = *p++ == '0' ? '~' : '/';
        if (n + 1 == capacity) return SIZE_MAX;
        name[n++] = c;
    }
    *at = p;
    return n;
}

yyjson_val *tc_schema_resolve(tc_schema *s, yyjson_val *schema, yyjson_val *ref)
{
    const char *p = yyjson_get_str(ref);
    yyjson_val *at = s->root;
    char name[1024];
    if (*p++ != '#') {
        tc_schema_fail(s, TC_UNSUPPORTED, schema, "$ref \"%.200s\" leaves the document", yyjson_get_str(ref));
        return NULL;
    }
    while (at && *p == '/') {
        p++;
        size_t n = take_name(&p, name, sizeof name);
        if (n == SIZE_MAX)
            at = NULL;
        else if (yyjson_is_arr(at))
            at = n && strspn(name, "0123456789") >= n ? yyjson_arr_get(at, strtoul(name, NULL, 10)) : NULL;
        else
            at = yyjson_obj_getn(at, name, n);
    }
    if (!at || *p || !tc_schema_is_place(s, at)) {
        tc_schema_fail(s, TC_ARGUMENT, schema, "$ref \"%.200s\" points to no schema of the document",
                       yyjson_get_str(ref));
        return NULL;
    }
    return at;
}

// ---- references that never arrive ----

// A place's mark: the references in a row behind it, and 1; or one of these.
enum { UNSEEN = 0, OPEN = UINT16_MAX };

// What holds at the same place: a schema must not come back to itself that way. Returns the mark.
static uint32_t follow(tc_schema *s, yyjson_val *schema, uint32_t depth)
{
    static const char *const lists[] = {"allOf", "anyOf", "oneOf"};
    size_t slot = slot_of(s, schema), i, n;
    uint32_t longest = 0, each;
    yyjson_val *child, *ref = yyjson_obj_get(schema, "$ref");
    if (s->b->status != TC_OK) return UNSEEN;
    if (s->marks[slot] == OPEN)
        return tc_schema_fail(s, TC_ARGUMENT, schema, "the schema refers to itself without end"), UNSEEN;
    if (s->marks[slot] != UNSEEN) return s->marks[slot];
    s->marks[slot] = OPEN;
    yyjson_val *target = ref ? tc_schema_resolve(s, schema, ref) : NULL;
    if (target && depth <= TC_GRAMMAR_REFERENCES_MAX) longest = follow(s, target, depth + 1);
    for (int k = 0; k < 3; k++) {
        yyjson_val *list = yyjson_obj_get(schema, lists[k]);
        if (!list || depth > TC_GRAMMAR_REFERENCES_MAX) continue;
        yyjson_arr_foreach(list, i, n, child) if ((each = follow(s, child, depth + 1)) > longest) longest =
            each;
    }
    s->marks[slot] = (uint16_t)(longest + 1);
    if (longest > TC_GRAMMAR_REFERENCES_MAX)
        tc_schema_fail(s, TC_LIMIT, schema, "more than %d references in a row", TC_GRAMMAR_REFERENCES_MAX);
    return longest + 1;
}

bool tc_schema_check(tc_schema *s)
{
    check_place(s, s->root);
    for (uint32_t i = 0; i < s->place_capacity && s->b->status == TC_OK; i++)
        if (s->places[i]) follow(s, s->places[i], 0);
    return s->b->status == TC_OK;
}
