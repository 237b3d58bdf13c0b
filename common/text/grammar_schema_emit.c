// SPDX-License-Identifier: Apache-2.0
// Owns: a value whose facts are known, as nodes: constants, then each type that is left.
#include "common/text/grammar_schema.h"
#include "common/text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- constants ----

static uint32_t chars_of(const char *text, size_t bytes)
{
    uint32_t n = 0;
    for (size_t i = 0; i < bytes; i++) n += ((uint8_t)text[i] & 0xc0) != 0x80;
    return n;
}

// Whether a text matches a regular expression, by a program of its own.
static bool matches(tc_schema *s, const char *regex, size_t bytes, bool anywhere, yyjson_val *text)
{
    tc_builder b;
    tc_grammar *g = NULL;
    bool yes = false;
    if (tc_builder_init(&b, s->b->e) != TC_OK) return s->b->status = b.status, false;
    uint32_t tree = tc_regex_parse(&b, "pattern", regex, bytes, anywhere);
    uint32_t root = tc_emit_tree(&b, tree, TC_SPELL_PLAIN, TC_NODE_RETURN);
    tc_status status = b.status == TC_OK ? tc_builder_finish(&b, root, &g) : b.status;
    if (status == TC_OK)
        status = tc_grammar_match(g, yyjson_get_str(text), yyjson_get_len(text), &yes, s->b->e);
    if (status != TC_OK) s->b->status = status;
    tc_grammar_free(g);
    tc_builder_free(&b);
    return yes;
}

static bool string_fits(tc_schema *s, const tc_schema_facts *f, yyjson_val *v)
{
    uint32_t n = chars_of(yyjson_get_str(v), yyjson_get_len(v));
    if (n < f->min_length || n > f->max_length) return false;
    if (f->pattern && !matches(s, yyjson_get_str(f->pattern), yyjson_get_len(f->pattern), true, v))
        return false;
    if (!f->format) return true;
    const char *regex = tc_format_regex(yyjson_get_str(f->format));
    return !regex || matches(s, regex, strlen(regex), false, v);
}

static bool number_fits(const tc_schema_facts *f, yyjson_val *v)
{
    double x = yyjson_get_num(v);
    if (f->minimum &&
        (x < yyjson_get_num(f->minimum) || (f->minimum_open && x == yyjson_get_num(f->minimum))))
        return false;
    if (f->maximum &&
        (x > yyjson_get_num(f->maximum) || (f->maximum_open && x == yyjson_get_num(f->maximum))))
        return false;
    return !f->multiple_of || fmod(x, yyjson_get_num(f->multiple_of)) == 0;
}

// Constants that are objects or arrays are not looked into: their place may ask for nothing else.
static bool container_is_free(const tc_schema_facts *f)
{
    static const char *const about[] = {
        "properties", "required", "additionalProperties", "patternProperties", "items", "prefixItems",
        "minItems",   "maxItems", "minProperties",        "maxProperties"};
    for (uint32_t i = 0; i < f->of->count; i++)
        for (size_t k = 0; k < sizeof about / sizeof *about; k++)
            if (yyjson_obj_get(f->of->parts[i].schema, about[k])) return false;
    return true;
}

static uint32_t emit_value(tc_schema *s, yyjson_val *v, uint32_t next)
{
    size_t bytes = 0;
    if (yyjson_is_str(v)) return tc_emit_json_literal(&s->j, yyjson_get_str(v), yyjson_get_len(v), next);
    char *text = yyjson_val_write(v, 0, &bytes);
    if (!text)
        return tc_builder_fail(s->b, TC_ARGUMENT, "a constant of the schema cannot be written as JSON");
    uint32_t node = tc_emit_bytes(s->b, text, bytes, next);
    free(text);
    return node;
}

typedef struct word {
    const char *text;
    size_t bytes;
} word;

static int by_text(const void *a, const void *z)
{
    const word *x = a, *y = z;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

// Sorted strings as a trie of characters, so that thousands of them are few ways to go on.
static uint32_t emit_words(tc_schema *s, const word *words, uint32_t n, size_t at, uint32_t close)
{
    tc_builder *b = s->b;
    uint32_t node = TC_NODE_NEVER, i = 0;
    while (i < n && words[i].bytes == at) node = close, i++;
    if (n - i == 1 && node == TC_NODE_NEVER)
        return tc_emit_tree(b, tc_tree_text(b, words[i].text + at, words[i].bytes - at), TC_SPELL_JSON,
                            close);
    while (i < n && b->status == TC_OK) {
        size_t bytes, same;
        uint32_t c = tc_utf8_get((const uint8_t *)words[i].text + at, &bytes), k = i + 1;
        while (k < n && tc_utf8_get((const uint8_t *)words[k].text + at, &same) == c) k++;
        uint32_t one = tc_tree_chars(b, &(tc_char_range){c, c}, 1, false);
        uint32_t rest = emit_words(s, words + i, k - i, at + bytes, close);
        node = tc_emit_split(b, tc_emit_tree(b, one, TC_SPELL_JSON, rest), node);
        i = k;
    }
    return node;
}

static uint32_t emit_values(tc_schema *s, tc_schema_facts *f, uint32_t next)
{
    tc_builder *b = s->b;
    uint32_t node = TC_NODE_NEVER, n = 0;
    word *words = malloc((f->value_count + 1) * sizeof *words);
    if (!words) return tc_builder_fail(b, TC_NOMEM, "out of memory for the schema");
    for (uint32_t i = 0; i < f->value_count && b->status == TC_OK; i++) {
        yyjson_val *v = f->values[i];
        if (yyjson_is_ctn(v) && !container_is_free(f)) {
            tc_schema_fail(s, TC_UNSUPPORTED, f->of->parts[0].schema,
                           "an object or array as a constant beside other keywords is not supported");
        } else if (yyjson_is_str(v)) {
            if (yyjson_get_len(v) > TC_GRAMMAR_CONSTANT_BYTES_MAX)
                tc_schema_fail(s, TC_LIMIT, f->of->parts[0].schema, "a constant of more than %d bytes",
                               TC_GRAMMAR_CONSTANT_BYTES_MAX);
            else if (string_fits(s, f, v))
                words[n++] = (word){yyjson_get_str(v), yyjson_get_len(v)};
        } else if (!yyjson_is_num(v) || number_fits(f, v)) {
            node = tc_emit_split(b, emit_value(s, v, next), node);
        }
    }
    if (n && b->status == TC_OK) {
        qsort(words, n, sizeof *words, by_text);
        uint32_t close = tc_emit_byte(b, '"', next);
        node = tc_emit_split(b, tc_emit_byte(b, '"', emit_words(s, words, n, 0, close)), node);
    }
    free(words);
    return node;
}

// ---- strings and numbers ----

static uint32_t emit_string(tc_schema *s, const tc_schema_facts *f, uint32_t next)
{
    yyjson_val *place = f->of->parts[0].schema;
    uint32_t tree, low, high;
    if (!f->pattern && !f->format) {
        if (f->min_length > f->max_length) return TC_NODE_NEVER;
        return tc_emit_json_string(&s->j, f->min_length, f->max_length, next);
    }
    if (f->pattern && f->format)
        return tc_schema_fail(s, TC_UNSUPPORTED, place,
                              "\"pattern\" together with \"format\" is not supported");
    if (f->pattern) {
        tree = tc_regex_parse(s->b, "pattern", yyjson_get_str(f->pattern), yyjson_get_len(f->pattern), true);
        if (s->b->status != TC_OK) {
            char path[200];
            tc_schema_path(s, place, path, sizeof path);
            if (s->b->e) tc_error_prefix(s->b->e, "schema %s", path);
            return TC_NODE_NEVER;
        }
    } else {
        const char *regex = tc_format_regex(yyjson_get_str(f->format));
        if (!regex)
            return tc_schema_fail(s, TC_UNSUPPORTED, place, "format \"%.100s\" is not supported",
                                  yyjson_get_str(f->format));
        tree = tc_regex_parse(s->b, "format", regex, strlen(regex), false);
    }
    tc_tree_lengths(s->b, tree, &low, &high);
    if (low < f->min_length || high > f->max_length)
        return tc_schema_fail(
            s, TC_UNSUPPORTED, place,
            "\"%s\" together with minLength or maxLength that it does not keep by itself is not "
            "supported",
            f->pattern ? "pattern" : "format");
    return tc_emit_json_tree_string(&s->j, tree, next);
}

static uint32_t emit_number(tc_schema *s, const tc_schema_facts *f, uint32_t next)
{
    yyjson_val *bounds[] = {f->minimum, f->maximum, f->multiple_of};
    char *texts[3] = {NULL}, path[200], what[220] = "schema ";
    uint32_t node = TC_NODE_NEVER;
    for (int i = 0; i < 3; i++) {
        texts[i] = bounds[i] ? yyjson_val_write(bounds[i], 0, NULL) : NULL;
        if (bounds[i] && !texts[i]) tc_builder_fail(s->b, TC_NOMEM, "out of memory for the schema");
    }
    tc_schema_path(s, bounds[0] || bounds[1] || bounds[2] ? f->of->parts[0].schema : NULL, path, sizeof path);
    strncat(what, path, sizeof what - strlen(what) - 1);
    const tc_json_range range = {texts[0], texts[1], f->minimum_open, f->maximum_open, texts[2]};
    if (s->b->status == TC_OK)
        node = tc_emit_json_number(&s->j, what, !(f->types & TC_TYPE_NUMBER), &range, next);
    for (int i = 0; i < 3; i++) free(texts[i]);
    return node;
}

// ---- arrays ----

static uint32_t prefix_of(const tc_conjunction *of)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < of->count; i++) {
        size_t size = yyjson_arr_size(yyjson_obj_get(of->parts[i].schema, "prefixItems"));
        if (size > n) n = (uint32_t)size;
    }
    return n;
}

static void item_conjunction(tc_schema *s, const tc_conjunction *of, uint32_t i, tc_conjunction *ret)
{
    *ret = (tc_conjunction){0};
    for (uint32_t k = 0; k < of->count; k++) {
        yyjson_val *prefix = yyjson_obj_get(of->parts[k].schema, "prefixItems");
        yyjson_val *items = yyjson_obj_get(of->parts[k].schema, "items");
        if (prefix && i < yyjson_arr_size(prefix))
            tc_conjunction_add(s, ret, yyjson_arr_get(prefix, i));
        else if (items)
            tc_conjunction_add(s, ret, items);
    }
}

typedef struct holder {
    tc_schema *s;
    const tc_schema_facts *f;
    // objects
    const char **names;
    size_t *lengths;
    bool *required;
    uint32_t count, capacity;
    tc_conjunction extra;
    yyjson_val *extra_pattern;
} holder;

static uint32_t emit_item(void *arg, uint32_t i, uint32_t next)
{
    holder *h = arg;
    tc_conjunction c;
    item_conjunction(h->s, h->f->of, i, &c);
    return tc_schema_emit(h->s, &c, next);
}

static uint32_t emit_array(tc_schema *s, const tc_schema_facts *f, uint32_t next)
{
    holder h = {.s = s, .f = f};
    uint32_t prefix = prefix_of(f->of);
    tc_conjunction rest;
    item_conjunction(s, f->of, prefix, &rest);
    const tc_json_items items = {prefix, f->min_items, f->max_items, !rest.never, emit_item, &h};
    return tc_emit_json_array(&s->j, &items, next);
}

// ---- objects ----

static bool add_name(holder *h, yyjson_val *key)
{
    const char *name = yyjson_get_str(key);
    size_t bytes = yyjson_get_len(key);
    for (uint32_t i = 0; i < h->count; i++)
        if (h->lengths[i] == bytes && memcmp(h->names[i], name, bytes) == 0) return true;
    if (bytes > TC_GRAMMAR_CONSTANT_BYTES_MAX) {
        tc_schema_fail(h->s, TC_LIMIT, h->f->of->parts[0].schema, "a property's name of more than %d bytes",
                       TC_GRAMMAR_CONSTANT_BYTES_MAX);
        return false;
    }
    if (h->count == h->capacity) {
        uint32_t more = h->capacity ? 2 * h->capacity : 16;
        const char **names = realloc(h->names, more * sizeof *names);
        if (names) h->names = names;
        size_t *lengths = realloc(h->lengths, more * sizeof *lengths);
        if (lengths) h->lengths = lengths;
        bool *required = realloc(h->required, more * sizeof *required);
        if (required) h->required = required;
        if (!names || !lengths || !required)
            return tc_builder_fail(h->s->b, TC_NOMEM, "out of memory for the schema"), false;
        h->capacity = more;
    }
    h->names[h->count] = name;
    h->lengths[h->count] = bytes;
    h->required[h->count++] = tc_schema_required(h->f->of, name, bytes);
    return true;
}

// As declared; what is required without being declared comes behind.
static bool collect_names(holder *h)
{
    size_t k, n;
    yyjson_val *key, *value;
    const tc_conjunction *of = h->f->of;
    for (uint32_t i = 0; i < of->count; i++) {
        yyjson_val *properties = yyjson_obj_get(of->parts[i].schema, "properties");
        if (properties) yyjson_obj_foreach(properties, k, n, key, value) if (!add_name(h, key)) return false;
    }
    for (uint32_t i = 0; i < of->count; i++) {
        yyjson_val *required = yyjson_obj_get(of->parts[i].schema, "required");
        if (required) yyjson_arr_foreach(required, k, n, value) if (!add_name(h, value)) return false;
    }
    return true;
}

static uint32_t emit_property(void *arg, uint32_t i, uint32_t next)
{
    holder *h = arg;
    tc_conjunction c;
    tc_schema_property(h->s, h->f->of, h->names[i], h->lengths[i], &c);
    return tc_schema_emit(h->s, &c, next);
}

static uint32_t emit_extra(void *arg, uint32_t next)
{
    holder *h = arg;
    tc_schema *s = h->s;
    uint32_t value = tc_emit_json_colon(&s->j, tc_schema_emit(s, &h->extra, next));
    if (!h->extra_pattern) return tc_emit_json_other_key(&s->j, h->names, h->lengths, h->count, value);
    const char *pattern = yyjson_get_str(h->extra_pattern);
    uint32_t tree =
        tc_regex_parse(s->b, "patternProperties", pattern, yyjson_get_len(h->extra_pattern), true);
    return tc_emit_json_tree_string(&s->j, tree, value);
}

// What members beyond the declared ones there may be: by the one pattern of patternProperties, else by
// additionalProperties, else none where some are declared and any where none is. False: none.
static bool find_extra(holder *h)
{
    tc_schema *s = h->s;
    const tc_conjunction *of = h->f->of;
    yyjson_val *pattern = NULL, *key, *value;
    bool open = h->count == 0;
    size_t k, n;
    for (uint32_t i = 0; i < of->count; i++) {
        yyjson_val *map = yyjson_obj_get(of->parts[i].schema, "patternProperties");
        open |= yyjson_obj_get(of->parts[i].schema, "additionalProperties") != NULL;
        if (map) yyjson_obj_foreach(map, k, n, key, value)
            {
                if (pattern && !yyjson_equals(pattern, key)) {
                    tc_schema_fail(s, TC_UNSUPPORTED, of->parts[i].schema,
                                   "patternProperties with more than one pattern are not supported");
                    return false;
                }
                pattern = key;
            }
    }
    for (uint32_t i = 0; i < of->count; i++) {
        yyjson_val *map = yyjson_obj_get(of->parts[i].schema, "patternProperties");
        yyjson_val *own =
            pattern ? yyjson_obj_getn(map, yyjson_get_str(pattern), yyjson_get_len(pattern)) : NULL;
        yyjson_val *other = yyjson_obj_get(of->parts[i].schema, "additionalProperties");
        if (own)
            tc_conjunction_add(s, &h->extra, own);
        else if (other)
            tc_conjunction_add(s, &h->extra, other);
    }
    h->extra_pattern = pattern;
    for (uint32_t i = 0; pattern && i < h->count && s->b->status == TC_OK; i++) {
        yyjson_val name = {0};
        yyjson_set_strn(&name, h->names[i], h->lengths[i]);
        if (matches(s, yyjson_get_str(pattern), yyjson_get_len(pattern), true, &name))
            tc_schema_fail(s, TC_UNSUPPORTED, of->parts[0].schema,
                           "property \"%.100s\" also matches patternProperties: that is not supported",
                           h->names[i]);
    }
    return s->b->status == TC_OK && (open || pattern) && !h->extra.never;
}

static uint32_t emit_object(tc_schema *s, const tc_schema_facts *f, uint32_t next)
{
    holder h = {.s = s, .f = f};
    uint32_t node = TC_NODE_NEVER, required = 0;
    if (collect_names(&h)) {
        bool extra = find_extra(&h);
        for (uint32_t i = 0; i < h.count; i++) required += h.required[i];
        bool counted = f->min_properties > required || (extra && f->max_properties != TC_REPEAT_NO_MAX) ||
                       (!extra && f->max_properties < h.count);
        if (f->min_properties > 1 && f->min_properties > required)
            tc_schema_fail(
                s, TC_UNSUPPORTED, f->of->parts[0].schema,
                "minProperties above 1 and above the number of required properties is not supported");
        else if (counted && h.count)
            tc_schema_fail(s, TC_UNSUPPORTED, f->of->parts[0].schema,
                           "minProperties or maxProperties beside properties is not supported");
        const tc_json_members members = {h.count,           h.names,           h.lengths,
                                         h.required,        emit_property,     extra ? emit_extra : NULL,
                                         f->min_properties, f->max_properties, &h};
        if (s->b->status == TC_OK && (extra || h.count || f->min_properties == 0))
            node = tc_emit_json_object(&s->j, &members, next);
    }
    free(h.names);
    free(h.lengths);
    free(h.required);
    return node;
}

// ---- all of it ----

uint32_t tc_schema_emit_facts(tc_schema *s, tc_schema_facts *f, uint32_t next)
{
    tc_builder *b = s->b;
    uint32_t node = TC_NODE_NEVER;
    if (f->has_values) return emit_values(s, f, next);
    if (f->types & TC_TYPE_NULL) node = tc_emit_split(b, tc_emit_text(b, "null", next), node);
    if (f->types & TC_TYPE_BOOL) {
        node = tc_emit_split(b, tc_emit_text(b, "true", next), node);
        node = tc_emit_split(b, tc_emit_text(b, "false", next), node);
    }
    if (f->types & (TC_TYPE_NUMBER | TC_TYPE_INTEGER)) node = tc_emit_split(b, emit_number(s, f, next), node);
    if (f->types & TC_TYPE_STRING) node = tc_emit_split(b, emit_string(s, f, next), node);
    if (f->types & TC_TYPE_ARRAY) node = tc_emit_split(b, emit_array(s, f, next), node);
    if (f->types & TC_TYPE_OBJECT) node = tc_emit_split(b, emit_object(s, f, next), node);
    return node;
}
