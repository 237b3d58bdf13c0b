// SPDX-License-Identifier: Apache-2.0
// Owns: from a schema to conjunctions: $ref, allOf, anyOf, oneOf. What $ref points to and what several
// schemas describe together becomes a rule, compiled once and later, so neither recursion nor sharing costs
// anything. oneOf is taken as anyOf where its branches exclude each other for certain, else it is refused.
#include "common/text/grammar_schema.h"

#include <stdlib.h>
#include <string.h>

enum { PLACES_MIN = 1 << 10, PLACES_MAX = 1 << 18 };

// ---- conjunctions ----

void tc_conjunction_add(tc_schema *s, tc_conjunction *c, yyjson_val *schema)
{
    if (yyjson_is_true(schema)) return;
    if (yyjson_is_false(schema)) {
        c->never = true;
        return;
    }
    for (uint32_t i = 0; i < c->count; i++)
        if (c->parts[i].schema == schema) return; // it holds already, whichever of its branches was taken
    if (c->count == TC_GRAMMAR_CONJUNCTION_MAX) {
        tc_schema_fail(s, TC_LIMIT, schema, "more than %d schemas describe one value",
                       TC_GRAMMAR_CONJUNCTION_MAX);
        return;
    }
    c->parts[c->count++] = (tc_schema_part){schema, 0};
}

static yyjson_val *undone(const tc_schema_part *p, const char *keyword, uint8_t flag)
{
    return p->done & flag ? NULL : yyjson_obj_get(p->schema, keyword);
}

// Whether a part still says anything.
static bool speaks(const tc_schema_part *p)
{
    static const struct {
        const char *name;
        uint8_t flag;
    } resolved[] = {{"$ref", TC_DONE_REF},
                    {"allOf", TC_DONE_ALL_OF},
                    {"anyOf", TC_DONE_ANY_OF},
                    {"oneOf", TC_DONE_ONE_OF}};
    static const char *const silent[] = {"$comment",    "$schema",     "$id",       "title",
                                         "description", "default",     "example",   "examples",
                                         "deprecated",  "readOnly",    "writeOnly", "discriminator",
                                         "$defs",       "definitions", "nullable",  "uniqueItems"};
    size_t i, n;
    yyjson_val *key, *value;
    yyjson_obj_foreach(p->schema, i, n, key, value)
    {
        bool quiet = false;
        for (size_t k = 0; k < sizeof silent / sizeof *silent && !quiet; k++)
            quiet = yyjson_equals_str(key, silent[k]);
        for (size_t k = 0; k < sizeof resolved / sizeof *resolved && !quiet; k++)
            quiet = (p->done & resolved[k].flag) && yyjson_equals_str(key, resolved[k].name);
        if (!quiet) return true;
    }
    return false;
}

static void drop_silent(tc_conjunction *c)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->count; i++)
        if (speaks(&c->parts[i])) c->parts[kept++] = c->parts[i];
    c->count = kept;
}

// ---- rules ----

static bool same(const tc_conjunction *a, const tc_conjunction *z)
{
    if (a->count != z->count) return false;
    for (uint32_t i = 0; i < a->count; i++)
        if (a->parts[i].schema != z->parts[i].schema || a->parts[i].done != z->parts[i].done) return false;
    return true;
}

static uint32_t emit_rule(tc_schema *s, const tc_conjunction *c, uint32_t next)
{
    uint32_t i = 0;
    while (i < s->rule_count && !same(s->rules[i].of, c)) i++;
    if (i == s->rule_count) {
        if (i == TC_GRAMMAR_RULES_MAX)
            return tc_schema_fail(s, TC_LIMIT, c->parts[0].schema, "more than %d schemas are referred to",
                                  TC_GRAMMAR_RULES_MAX);
        size_t bytes = offsetof(tc_conjunction, parts) + c->count * sizeof c->parts[0];
        s->rules[i].of = malloc(bytes);
        if (!s->rules[i].of) return tc_builder_fail(s->b, TC_NOMEM, "out of memory for the schema");
        memcpy(s->rules[i].of, c, bytes);
        s->rules[i].rule = tc_rule_add(s->b, NULL, 0);
        s->rule_count++;
    }
    return s->b->status == TC_OK ? tc_emit_call(s->b, s->rules[i].rule, next) : TC_NODE_NEVER;
}

// ---- resolving ----

bool tc_conjunction_resolve(tc_schema *s, tc_conjunction *c)
{
    for (uint32_t i = 0; i < c->count && s->b->status == TC_OK; i++) {
        yyjson_val *schema = c->parts[i].schema, *child, *ref = undone(&c->parts[i], "$ref", TC_DONE_REF);
        yyjson_val *all = undone(&c->parts[i], "allOf", TC_DONE_ALL_OF);
        size_t k, n;
        c->parts[i].done |= TC_DONE_REF | TC_DONE_ALL_OF;
        yyjson_val *target = ref ? tc_schema_resolve(s, schema, ref) : NULL;
        if (target) tc_conjunction_add(s, c, target);
        if (all) yyjson_arr_foreach(all, k, n, child) tc_conjunction_add(s, c, child);
    }
    drop_silent(c);
    return s->b->status == TC_OK;
}

// The schema is nothing but a $ref.
static yyjson_val *only_ref(tc_schema *s, const tc_conjunction *c)
{
    if (c->count != 1) return NULL;
    tc_schema_part part = c->parts[0];
    yyjson_val *ref = undone(&part, "$ref", TC_DONE_REF);
    part.done |= TC_DONE_REF;
    return ref && !speaks(&part) ? tc_schema_resolve(s, part.schema, ref) : NULL;
}

static void check_exclusive(tc_schema *s, yyjson_val *schema, const tc_conjunction *c, yyjson_val *list)
{
    size_t i, k, n = yyjson_arr_size(list);
    for (i = 0; i < n; i++)
        for (k = i + 1; k < n && s->b->status == TC_OK; k++) {
            tc_conjunction a = *c, z = *c;
            tc_conjunction_add(s, &a, yyjson_arr_get(list, i));
            tc_conjunction_add(s, &z, yyjson_arr_get(list, k));
            if (!tc_schema_disjoint(s, &a, &z, 0))
                tc_schema_fail(
                    s, TC_UNSUPPORTED, schema,
                    "oneOf: branches %zu and %zu do not exclude each other by type, enum, or a required "
                    "property of different constants (use anyOf)",
                    i, k);
        }
}

static uint32_t emit_resolved(tc_schema *s, tc_conjunction *c, uint32_t next);

static uint32_t emit_branches(tc_schema *s, tc_conjunction *c, yyjson_val *list, uint32_t next)
{
    uint32_t node = TC_NODE_NEVER;
    size_t n = yyjson_arr_size(list);
    drop_silent(c);
    while (n-- > 0 && s->b->status == TC_OK) {
        if (++s->branches > TC_GRAMMAR_BRANCHES_MAX)
            return tc_schema_fail(s, TC_LIMIT, NULL, "anyOf, oneOf and allOf combine in more than %d ways",
                                  TC_GRAMMAR_BRANCHES_MAX);
        tc_conjunction branch = *c;
        tc_conjunction_add(s, &branch, yyjson_arr_get(list, n));
        uint32_t one = branch.count > 1 || branch.never ? emit_resolved(s, &branch, next)
                                                        : tc_schema_emit(s, &branch, next);
        node = tc_emit_split(s->b, one, node);
    }
    return node;
}

// Not as a rule: here and now.
static uint32_t emit_resolved(tc_schema *s, tc_conjunction *c, uint32_t next)
{
    tc_schema_facts facts;
    if (!tc_conjunction_resolve(s, c) || c->never) return TC_NODE_NEVER;
    if (c->count == 0) return tc_emit_json_any(&s->j, next);
    for (uint32_t i = 0; i < c->count; i++) {
        yyjson_val *any = undone(&c->parts[i], "anyOf", TC_DONE_ANY_OF);
        yyjson_val *one = undone(&c->parts[i], "oneOf", TC_DONE_ONE_OF);
        yyjson_val *schema = c->parts[i].schema;
        if (any) {
            c->parts[i].done |= TC_DONE_ANY_OF;
            return emit_branches(s, c, any, next);
        }
        if (one) {
            c->parts[i].done |= TC_DONE_ONE_OF;
            check_exclusive(s, schema, c, one);
            return emit_branches(s, c, one, next);
        }
    }
    if (!tc_schema_fold(s, c, &facts)) return TC_NODE_NEVER;
    uint32_t node = tc_schema_emit_facts(s, &facts, next);
    free(facts.values);
    return node;
}

uint32_t tc_schema_emit(tc_schema *s, const tc_conjunction *c, uint32_t next)
{
    tc_conjunction copy = *c;
    if (s->b->status != TC_OK || c->never) return TC_NODE_NEVER;
    drop_silent(&copy);
    yyjson_val *target = only_ref(s, &copy);
    if (target) {
        tc_conjunction to = {0};
        tc_conjunction_add(s, &to, target);
        if (to.never) return TC_NODE_NEVER;
        return to.count ? emit_rule(s, &to, next) : tc_emit_json_any(&s->j, next);
    }
    return copy.count > 1 ? emit_rule(s, &copy, next) : emit_resolved(s, &copy, next);
}

// ---- a whole document ----

static bool begin(tc_schema *s, tc_builder *b, yyjson_val *root, size_t bytes)
{
    *s = (tc_schema){.j = {.b = b}, .b = b, .root = root, .place_capacity = PLACES_MIN};
    while (s->place_capacity < bytes && s->place_capacity < PLACES_MAX) s->place_capacity *= 2;
    s->places = calloc(s->place_capacity, sizeof *s->places);
    s->marks = calloc(s->place_capacity, sizeof *s->marks);
    if (!s->places || !s->marks) return tc_builder_fail(b, TC_NOMEM, "out of memory for the schema"), false;
    return tc_schema_check(s);
}

// The root, then what was referred to, until nothing new is.
static uint32_t emit_document(tc_schema *s, const tc_conjunction *root, uint32_t next)
{
    uint32_t node = tc_schema_emit(s, root, next);
    for (uint32_t i = 0; i < s->rule_count && s->b->status == TC_OK; i++) {
        tc_conjunction c = {0};
        memcpy(&c, s->rules[i].of,
               offsetof(tc_conjunction, parts) + s->rules[i].of->count * sizeof c.parts[0]);
        uint32_t start = emit_resolved(s, &c, TC_NODE_RETURN);
        if (s->b->status == TC_OK) s->b->rules[s->rules[i].rule].start = start;
    }
    return s->b->status == TC_OK ? node : TC_NODE_NEVER;
}

static void end(tc_schema *s)
{
    for (uint32_t i = 0; i < s->rule_count; i++) free(s->rules[i].of);
    free(s->places);
    free(s->marks);
    free(s);
}

uint32_t tc_schema_compile(tc_builder *b, const char *text, size_t bytes)
{
    yyjson_doc *doc = NULL;
    tc_error error;
    uint32_t node = TC_NODE_NEVER;
    tc_status status = tc_json_parse("schema", text, bytes, TC_GRAMMAR_JSON_DEPTH_MAX, &doc, &error);
    if (status != TC_OK)
        return tc_builder_fail(b, status == TC_FORMAT ? TC_ARGUMENT : status, "%s", error.text);
    tc_schema *s = malloc(sizeof *s);
    if (!s) {
        tc_builder_fail(b, TC_NOMEM, "out of memory for the schema");
    } else {
        tc_conjunction root = {0};
        if (begin(s, b, yyjson_doc_get_root(doc), bytes)) {
            tc_conjunction_add(s, &root, s->root);
            node = emit_document(s, &root, TC_NODE_RETURN);
        }
        end(s);
    }
    yyjson_doc_free(doc);
    return node;
}

uint32_t tc_schema_emit_arguments(tc_builder *b, const char *what, yyjson_val *schema, uint32_t next)
{
    uint32_t node = TC_NODE_NEVER;
    tc_schema *s = malloc(sizeof *s);
    yyjson_doc *object = yyjson_read("{\"type\":\"object\"}", 17, 0);
    if (s && object) {
        tc_conjunction root = {0};
        if (begin(s, b, schema, TC_CONSTRAINT_TEXT_BYTES_MAX)) {
            tc_conjunction_add(s, &root, yyjson_doc_get_root(object));
            tc_conjunction_add(s, &root, schema);
            node = emit_document(s, &root, next);
        } else if (b->e) {
            tc_error_prefix(b->e, "%s", what);
        }
        end(s);
    } else {
        free(s);
        tc_builder_fail(b, TC_NOMEM, "out of memory for the schema");
    }
    yyjson_doc_free(object);
    return node;
}
