// SPDX-License-Identifier: Apache-2.0
// Owns: what a conjunction says, keyword by keyword; which constants it leaves; whether two exclude each
// other.
#include "common/text/grammar_schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DISJOINT_DEPTH_MAX = 8 };

uint32_t tc_schema_type_of(yyjson_val *v)
{
    if (yyjson_is_null(v)) return TC_TYPE_NULL;
    if (yyjson_is_bool(v)) return TC_TYPE_BOOL;
    if (yyjson_is_obj(v)) return TC_TYPE_OBJECT;
    if (yyjson_is_arr(v)) return TC_TYPE_ARRAY;
    if (yyjson_is_str(v)) return TC_TYPE_STRING;
    return floor(yyjson_get_num(v)) == yyjson_get_num(v) ? TC_TYPE_INTEGER : TC_TYPE_NUMBER;
}

static uint32_t named_type(yyjson_val *name)
{
    static const char *const names[] = {"null", "boolean", "object", "array", "number", "integer", "string"};
    for (uint32_t i = 0; i < 7; i++)
        if (yyjson_equals_str(name, names[i])) return i == 4 ? TC_TYPE_NUMBER | TC_TYPE_INTEGER : 1u << i;
    return 0;
}

static uint32_t types_of(yyjson_val *schema, yyjson_val *type)
{
    uint32_t types = 0;
    size_t i, n;
    yyjson_val *name;
    if (yyjson_is_arr(type)) {
        yyjson_arr_foreach(type, i, n, name) types |= named_type(name);
    } else {
        types = named_type(type);
    }
    return yyjson_is_true(yyjson_obj_get(schema, "nullable")) ? types | TC_TYPE_NULL : types;
}

// The types that a keyword speaks about. Without "type" it is taken to ask for one of them.
static uint32_t implied_types(yyjson_val *schema)
{
    static const struct {
        const char *keyword;
        uint32_t types;
    } table[] = {
        {"properties", TC_TYPE_OBJECT},
        {"required", TC_TYPE_OBJECT},
        {"additionalProperties", TC_TYPE_OBJECT},
        {"patternProperties", TC_TYPE_OBJECT},
        {"minProperties", TC_TYPE_OBJECT},
        {"maxProperties", TC_TYPE_OBJECT},
        {"items", TC_TYPE_ARRAY},
        {"prefixItems", TC_TYPE_ARRAY},
        {"minItems", TC_TYPE_ARRAY},
        {"maxItems", TC_TYPE_ARRAY},
        {"minLength", TC_TYPE_STRING},
        {"maxLength", TC_TYPE_STRING},
        {"pattern", TC_TYPE_STRING},
        {"format", TC_TYPE_STRING},
        {"minimum", TC_TYPE_NUMBER | TC_TYPE_INTEGER},
        {"maximum", TC_TYPE_NUMBER | TC_TYPE_INTEGER},
        {"exclusiveMinimum", TC_TYPE_NUMBER | TC_TYPE_INTEGER},
        {"exclusiveMaximum", TC_TYPE_NUMBER | TC_TYPE_INTEGER},
        {"multipleOf", TC_TYPE_NUMBER | TC_TYPE_INTEGER},
    };
    uint32_t types = 0;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (yyjson_obj_get(schema, table[i].keyword)) types |= table[i].types;
    return types;
}

// ---- constants ----

static bool equal(yyjson_val *a, yyjson_val *z)
{
    if (yyjson_is_num(a) && yyjson_is_num(z)) return yyjson_get_num(a) == yyjson_get_num(z);
    return yyjson_equals(a, z);
}

// Keeps the values that are in the list too (or in the one constant).
static bool restrict_values(tc_schema *s, tc_schema_facts *f, yyjson_val *list, yyjson_val *constant)
{
    size_t n = constant ? 1 : yyjson_arr_size(list);
    if (!f->has_values) {
        f->values = malloc(n * sizeof *f->values);
        if (!f->values) return tc_builder_fail(s->b, TC_NOMEM, "out of memory for the schema"), false;
        for (size_t i = 0; i < n; i++) f->values[i] = constant ? constant : yyjson_arr_get(list, i);
        f->value_count = (uint32_t)n;
        f->has_values = f->typed = true;
        return true;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->value_count; i++) {
        bool found = false;
        for (size_t k = 0; k < n && !found; k++)
            found = equal(f->values[i], constant ? constant : yyjson_arr_get(list, k));
        if (found) f->values[kept++] = f->values[i];
    }
    f->value_count = kept;
    return true;
}

static void keep_types(tc_schema_facts *f)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->value_count; i++)
        if (tc_schema_type_of(f->values[i]) & f->types) f->values[kept++] = f->values[i];
    f->value_count = kept;
}

// ---- folding ----

static void raise_to(yyjson_val *v, uint32_t *bound)
{
    if (v && yyjson_get_num(v) > *bound) *bound = (uint32_t)yyjson_get_num(v);
}

static void lower_to(yyjson_val *v, uint32_t *bound)
{
    // beyond what we count it is no bound that any text of ours reaches
    if (v && yyjson_get_num(v) <= TC_GRAMMAR_REPEAT_MAX && yyjson_get_num(v) < *bound)
        *bound = (uint32_t)yyjson_get_num(v);
}

static void fold_bound(yyjson_val *v, bool open, bool upper, yyjson_val **bound, bool *bound_open)
{
    if (!v) return;
    double now = *bound ? yyjson_get_num(*bound) : 0, given = yyjson_get_num(v);
    if (*bound && given == now)
        *bound_open |= open;
    else if (!*bound || (upper ? given < now : given > now))
        *bound = v, *bound_open = open;
}

// A keyword that we cannot combine with itself.
static bool fold_same(tc_schema *s, yyjson_val *schema, const char *keyword, yyjson_val **fact)
{
    yyjson_val *v = yyjson_obj_get(schema, keyword);
    if (v && *fact && !equal(v, *fact)) {
        tc_schema_fail(s, TC_UNSUPPORTED, schema, "two different \"%s\" for one value are not supported",
                       keyword);
        return false;
    }
    if (v) *fact = v;
    return true;
}

static bool fold_part(tc_schema *s, yyjson_val *o, tc_schema_facts *f, uint32_t *implied)
{
    yyjson_val *type = yyjson_obj_get(o, "type"), *list = yyjson_obj_get(o, "enum"),
               *constant = yyjson_obj_get(o, "const");
    if (type) {
        f->types &= types_of(o, type);
        f->typed = true;
    }
    *implied |= implied_types(o);
    if (list && !restrict_values(s, f, list, NULL)) return false;
    if (constant && !restrict_values(s, f, NULL, constant)) return false;
    raise_to(yyjson_obj_get(o, "minLength"), &f->min_length);
    lower_to(yyjson_obj_get(o, "maxLength"), &f->max_length);
    raise_to(yyjson_obj_get(o, "minItems"), &f->min_items);
    lower_to(yyjson_obj_get(o, "maxItems"), &f->max_items);
    raise_to(yyjson_obj_get(o, "minProperties"), &f->min_properties);
    lower_to(yyjson_obj_get(o, "maxProperties"), &f->max_properties);
    fold_bound(yyjson_obj_get(o, "minimum"), false, false, &f->minimum, &f->minimum_open);
    fold_bound(yyjson_obj_get(o, "exclusiveMinimum"), true, false, &f->minimum, &f->minimum_open);
    fold_bound(yyjson_obj_get(o, "maximum"), false, true, &f->maximum, &f->maximum_open);
    fold_bound(yyjson_obj_get(o, "exclusiveMaximum"), true, true, &f->maximum, &f->maximum_open);
    return fold_same(s, o, "multipleOf", &f->multiple_of) && fold_same(s, o, "pattern", &f->pattern) &&
           fold_same(s, o, "format", &f->format);
}

bool tc_schema_fold(tc_schema *s, const tc_conjunction *c, tc_schema_facts *ret)
{
    uint32_t implied = 0;
    *ret = (tc_schema_facts){.types = TC_TYPE_ALL,
                             .max_length = TC_REPEAT_NO_MAX,
                             .max_items = TC_REPEAT_NO_MAX,
                             .max_properties = TC_REPEAT_NO_MAX,
                             .of = c};
    for (uint32_t i = 0; i < c->count; i++)
        if (!fold_part(s, c->parts[i].schema, ret, &implied)) {
            free(ret->values);
            ret->values = NULL;
            return false;
        }
    if (!ret->typed && implied) ret->types &= implied;
    if (ret->has_values) keep_types(ret);
    return true;
}

// ---- properties ----

bool tc_schema_required(const tc_conjunction *of, const char *name, size_t bytes)
{
    size_t k, n;
    yyjson_val *v;
    for (uint32_t i = 0; i < of->count; i++) {
        yyjson_val *list = yyjson_obj_get(of->parts[i].schema, "required");
        if (list) yyjson_arr_foreach(list, k, n, v) if (yyjson_equals_strn(v, name, bytes)) return true;
    }
    return false;
}

// Where a part names the property its schema holds; else what it says about all others.
void tc_schema_property(tc_schema *s, const tc_conjunction *of, const char *name, size_t bytes,
                        tc_conjunction *ret)
{
    *ret = (tc_conjunction){0};
    for (uint32_t i = 0; i < of->count; i++) {
        yyjson_val *o = of->parts[i].schema;
        yyjson_val *named = yyjson_obj_getn(yyjson_obj_get(o, "properties"), name, bytes);
        yyjson_val *other = yyjson_obj_get(o, "additionalProperties");
        if (named)
            tc_conjunction_add(s, ret, named);
        else if (other)
            tc_conjunction_add(s, ret, other);
    }
}

// ---- exclusion ----

static bool values_differ(const tc_schema_facts *a, const tc_schema_facts *z)
{
    for (uint32_t i = 0; i < a->value_count; i++)
        for (uint32_t k = 0; k < z->value_count; k++)
            if (equal(a->values[i], z->values[k])) return false;
    return true;
}

static bool values_outside(const tc_schema_facts *values, uint32_t types)
{
    for (uint32_t i = 0; i < values->value_count; i++)
        if (tc_schema_type_of(values->values[i]) & types) return false;
    return true;
}

static bool properties_differ(tc_schema *s, const tc_conjunction *a, const tc_conjunction *z, uint32_t depth)
{
    size_t k, n;
    yyjson_val *v;
    for (uint32_t i = 0; i < a->count; i++) {
        yyjson_val *list = yyjson_obj_get(a->parts[i].schema, "required");
        if (!list) continue;
        yyjson_arr_foreach(list, k, n, v)
        {
            tc_conjunction x, y;
            const char *name = yyjson_get_str(v);
            size_t bytes = yyjson_get_len(v);
            tc_schema_property(s, a, name, bytes, &x);
            tc_schema_property(s, z, name, bytes, &y);
            if (y.never || x.never) return true; // the other must not have it
            if (tc_schema_required(z, name, bytes) && tc_schema_disjoint(s, &x, &y, depth + 1)) return true;
        }
    }
    return false;
}

static bool branches_differ(tc_schema *s, const tc_conjunction *a, const tc_conjunction *z, uint32_t depth)
{
    static const char *const names[] = {"anyOf", "oneOf"};
    size_t k, n;
    yyjson_val *v;
    for (uint32_t i = 0; i < a->count; i++)
        for (uint32_t which = 0; which < 2; which++) {
            uint8_t flag = which ? TC_DONE_ONE_OF : TC_DONE_ANY_OF;
            yyjson_val *list =
                a->parts[i].done & flag ? NULL : yyjson_obj_get(a->parts[i].schema, names[which]);
            bool all = list != NULL;
            if (list) yyjson_arr_foreach(list, k, n, v)
                {
                    tc_conjunction branch = *a;
                    branch.parts[i].done |= flag;
                    tc_conjunction_add(s, &branch, v);
                    all = all && tc_schema_disjoint(s, &branch, z, depth + 1);
                }
            if (all) return true;
        }
    return false;
}

// True only where no value can satisfy both.
bool tc_schema_disjoint(tc_schema *s, const tc_conjunction *first, const tc_conjunction *second,
                        uint32_t depth)
{
    tc_conjunction a = *first, z = *second;
    tc_schema_facts x = {0}, y = {0};
    if (depth > DISJOINT_DEPTH_MAX || ++s->branches > TC_GRAMMAR_BRANCHES_MAX) return false;
    if (!tc_conjunction_resolve(s, &a) || !tc_conjunction_resolve(s, &z)) return false;
    if (a.never || z.never) return true;
    if (!tc_schema_fold(s, &a, &x)) return false;
    bool apart = false;
    if (tc_schema_fold(s, &z, &y)) {
        // What is implied by keywords alone is no exclusion: other types satisfy them too.
        uint32_t xt = x.typed ? x.types : TC_TYPE_ALL, yt = y.typed ? y.types : TC_TYPE_ALL;
        apart = (xt & yt) == 0;
        if (x.has_values && y.has_values) apart |= values_differ(&x, &y);
        if (x.has_values) apart |= values_outside(&x, yt);
        if (y.has_values) apart |= values_outside(&y, xt);
        if (!apart && xt == TC_TYPE_OBJECT && yt == TC_TYPE_OBJECT)
            apart = properties_differ(s, &a, &z, depth) || properties_differ(s, &z, &a, depth);
        if (!apart) apart = branches_differ(s, &a, &z, depth) || branches_differ(s, &z, &a, depth);
    }
    free(x.values);
    free(y.values);
    return apart;
}
