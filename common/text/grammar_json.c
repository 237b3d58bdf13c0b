// SPDX-License-Identifier: Apache-2.0
// Owns: JSON's own syntax as nodes. Where a member or item would be emitted twice it becomes a rule, so that
// nested values do not multiply.
#include "common/text/grammar_json.h"
#include "common/text/utf8.h"

#include <stdlib.h>
#include <string.h>

uint32_t tc_emit_json_space(tc_json *j, uint32_t next)
{
    tc_builder *b = j->b;
    tc_byte_set blank = {{1ull << ' ' | 1ull << '\t'}};
    uint32_t indent = tc_emit_loop(b, 0, TC_JSON_INDENT_MAX, tc_emit_set(b, &blank, TC_NODE_RETURN), next);
    return tc_emit_split(b, next,
                         tc_emit_split(b, tc_emit_byte(b, ' ', next), tc_emit_byte(b, '\n', indent)));
}

uint32_t tc_emit_json_colon(tc_json *j, uint32_t next)
{
    return tc_emit_byte(j->b, ':', tc_emit_split(j->b, next, tc_emit_byte(j->b, ' ', next)));
}

// ---- strings ----

static uint32_t char_tree(tc_json *j)
{
    static const char one[] =
        "[^\\x00-\\x1f\"\\\\]|\\\\[\"\\\\/bfnrt]|\\\\u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-"
        "fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2})";
    if (!j->char_tree) j->char_tree = tc_regex_parse(j->b, "JSON string", one, sizeof one - 1, false);
    return j->char_tree;
}

uint32_t tc_emit_json_string(tc_json *j, uint32_t min, uint32_t max, uint32_t next)
{
    tc_builder *b = j->b;
    uint32_t tree = tc_tree_repeat(b, char_tree(j), min, max);
    return tc_emit_byte(b, '"', tc_emit_tree(b, tree, TC_SPELL_PLAIN, tc_emit_byte(b, '"', next)));
}

uint32_t tc_emit_json_tree_string(tc_json *j, uint32_t tree, uint32_t next)
{
    return tc_emit_byte(j->b, '"', tc_emit_tree(j->b, tree, TC_SPELL_JSON, tc_emit_byte(j->b, '"', next)));
}

uint32_t tc_emit_json_literal(tc_json *j, const char *utf8, size_t bytes, uint32_t next)
{
    return tc_emit_json_tree_string(j, tc_tree_text(j->b, utf8, bytes), next);
}

// ---- keys that are none of a set ----

typedef struct names {
    tc_json *j;
    const char **texts;
    size_t *lengths;
    uint32_t any, end; // any rest of a key; the end of the key
} names;

static uint32_t key_char_tree(tc_json *j)
{
    static const tc_char_range control[] = {{0, 0x1f}};
    return tc_tree_chars(j->b, control, 1, true);
}

// Texts first..last share their first `at` bytes (whole characters); sorted.
static uint32_t differ(names *n, uint32_t first, uint32_t last, size_t at)
{
    tc_builder *b = n->j->b;
    tc_char_range *taken = malloc((last - first + 2) * sizeof *taken);
    uint32_t node = n->end, count = 0;
    if (!taken) return tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
    taken[count++] = (tc_char_range){0, 0x1f};
    if (first < last && n->lengths[first] == at)
        node = TC_NODE_NEVER, first++; // this is one of them: no end here
    for (uint32_t i = first, k; i < last && b->status == TC_OK; i = k) {
        size_t bytes, same;
        uint32_t c = tc_utf8_get((const uint8_t *)n->texts[i] + at, &bytes);
        for (k = i + 1; k < last && n->lengths[k] >= at + bytes; k++)
            if (tc_utf8_get((const uint8_t *)n->texts[k] + at, &same) != c) break;
        uint32_t one = tc_tree_chars(b, &(tc_char_range){c, c}, 1, false);
        node = tc_emit_split(b, tc_emit_tree(b, one, TC_SPELL_JSON, differ(n, i, k, at + bytes)), node);
        taken[count++] = (tc_char_range){c, c};
    }
    uint32_t other = tc_tree_chars(b, taken, count, true);
    node = tc_emit_split(b, tc_emit_tree(b, other, TC_SPELL_JSON, n->any), node);
    free(taken);
    return node;
}

static int by_name(const void *a, const void *z)
{
    const char *const *x = a, *const *y = z;
    return strcmp(*x, *y);
}

uint32_t tc_emit_json_other_key(tc_json *j, const char *const *texts, const size_t *lengths, uint32_t count,
                                uint32_t next)
{
    tc_builder *b = j->b;
    names n = {.j = j,
               .texts = malloc((count + 1) * sizeof *n.texts),
               .lengths = malloc((count + 1) * sizeof *n.lengths)};
    uint32_t node = TC_NODE_NEVER, kept = 0;
    if (n.texts && n.lengths) {
        for (uint32_t i = 0; i < count; i++)
            if (strlen(texts[i]) == lengths[i])
                n.texts[kept++] = texts[i]; // a NUL cannot be in a key of ours
        qsort(n.texts, kept, sizeof *n.texts, by_name);
        for (uint32_t i = 0; i < kept; i++) n.lengths[i] = strlen(n.texts[i]);
        n.end = tc_emit_byte(b, '"', next);
        n.any =
            tc_emit_tree(b, tc_tree_repeat(b, key_char_tree(j), 0, TC_REPEAT_NO_MAX), TC_SPELL_JSON, n.end);
        node = tc_emit_byte(b, '"', differ(&n, 0, kept, 0));
    } else {
        tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
    }
    free(n.texts);
    free(n.lengths);
    return node;
}

// ---- objects ----

static uint32_t extra_rule(tc_json *j, const tc_json_members *m)
{
    uint32_t rule = tc_rule_add(j->b, NULL, 0);
    uint32_t start = m->extra(m->arg, TC_NODE_RETURN);
    if (j->b->status == TC_OK) j->b->rules[rule].start = start;
    return rule;
}

// An object of min..max members, all alike.
static uint32_t counted_map(tc_json *j, const tc_json_members *m, uint32_t next)
{
    tc_builder *b = j->b;
    uint32_t close = tc_emit_byte(b, '}', next), spaced = tc_emit_json_space(j, close);
    if (m->extra_max == 0) return tc_emit_byte(b, '{', spaced);
    uint32_t rule = extra_rule(j, m), least = m->extra_min ? m->extra_min - 1 : 0;
    uint32_t most = m->extra_max == TC_REPEAT_NO_MAX ? TC_REPEAT_NO_MAX : m->extra_max - 1;
    uint32_t body = tc_emit_byte(b, ',', tc_emit_json_space(j, tc_emit_call(b, rule, TC_NODE_RETURN)));
    uint32_t first = tc_emit_call(b, rule, tc_emit_loop(b, least, most, body, spaced));
    if (m->extra_min == 0) first = tc_emit_split(b, first, close);
    return tc_emit_byte(b, '{', tc_emit_json_space(j, first));
}

uint32_t tc_emit_json_object(tc_json *j, const tc_json_members *m, uint32_t next)
{
    tc_builder *b = j->b;
    if (m->count == 0 && m->extra && (m->extra_min > 1 || m->extra_max != TC_REPEAT_NO_MAX))
        return counted_map(j, m, next);
    uint32_t close = tc_emit_byte(b, '}', next), empty = close; // behind "{" and its space
    uint32_t after = tc_emit_json_space(j, close);              // behind a member
    if (m->extra) {
        uint32_t open = tc_emit_open(b), pair = m->extra(m->arg, open);
        tc_patch(b, open, tc_emit_byte(b, ',', tc_emit_json_space(j, pair)), after);
        after = open;
        empty = m->count == 0 && m->extra_min ? pair : tc_emit_split(b, pair, empty);
    }
    for (uint32_t i = m->count; i-- > 0 && b->status == TC_OK;) {
        uint32_t value = m->value(m->arg, i, after);
        uint32_t pair = tc_emit_json_literal(j, m->names[i], m->lengths[i], tc_emit_json_colon(j, value));
        uint32_t with = tc_emit_byte(b, ',', tc_emit_json_space(j, pair));
        after = m->required[i] ? with : tc_emit_split(b, with, after);
        empty = m->required[i] ? pair : tc_emit_split(b, pair, empty);
    }
    return tc_emit_byte(b, '{', tc_emit_json_space(j, empty));
}

// ---- arrays ----

static uint32_t item_rule(tc_json *j, const tc_json_items *items)
{
    uint32_t rule = tc_rule_add(j->b, NULL, 0);
    uint32_t start = items->item(items->arg, items->prefix, TC_NODE_RETURN);
    if (j->b->status == TC_OK) j->b->rules[rule].start = start;
    return rule;
}

// Behind the prefix, of which `done` items are there (0: there is none, and the first item has no comma).
static uint32_t emit_rest(tc_json *j, const tc_json_items *items, uint32_t done, uint32_t close,
                          uint32_t spaced)
{
    tc_builder *b = j->b;
    uint32_t min = items->min > done ? items->min - done : 0;
    uint32_t max = items->max == TC_REPEAT_NO_MAX ? items->max : items->max - done;
    if (!items->rest || max == 0) return min ? TC_NODE_NEVER : done ? spaced : close;
    if (max == TC_REPEAT_NO_MAX && min <= 1) { // one copy, in a cycle
        uint32_t open = tc_emit_open(b), item = items->item(items->arg, items->prefix, open);
        uint32_t with = tc_emit_byte(b, ',', tc_emit_json_space(j, item));
        tc_patch(b, open, with, spaced);
        if (done) return min ? with : open;
        return min ? item : tc_emit_split(b, item, close);
    }
    uint32_t rule = item_rule(j, items);
    uint32_t body = tc_emit_byte(b, ',', tc_emit_json_space(j, tc_emit_call(b, rule, TC_NODE_RETURN)));
    if (done) return tc_emit_loop(b, min, max, body, spaced);
    uint32_t more = max == TC_REPEAT_NO_MAX ? max : max - 1;
    uint32_t first = tc_emit_call(b, rule, tc_emit_loop(b, min ? min - 1 : 0, more, body, spaced));
    return min ? first : tc_emit_split(b, first, close);
}

uint32_t tc_emit_json_array(tc_json *j, const tc_json_items *items, uint32_t next)
{
    tc_builder *b = j->b;
    uint32_t close = tc_emit_byte(b, ']', next), spaced = tc_emit_json_space(j, close);
    uint32_t prefix = items->prefix < items->max ? items->prefix : items->max;
    if (items->max < items->min) return TC_NODE_NEVER;
    uint32_t node = prefix < items->prefix ? spaced : emit_rest(j, items, prefix, close, spaced);
    if (prefix == 0) return tc_emit_byte(b, '[', tc_emit_json_space(j, items->prefix ? close : node));
    for (uint32_t i = prefix; i-- > 0 && b->status == TC_OK;) {
        // node: what follows item i
        node = items->item(items->arg, i, node);
        if (i == 0) break;
        node = tc_emit_byte(b, ',', tc_emit_json_space(j, node));
        if (i >= items->min) node = tc_emit_split(b, node, spaced);
    }
    if (items->min == 0) node = tc_emit_split(b, node, close);
    return tc_emit_byte(b, '[', tc_emit_json_space(j, node));
}

// ---- any value ----

static uint32_t any_extra(void *arg, uint32_t next)
{
    tc_json *j = arg;
    return tc_emit_json_string(j, 0, TC_REPEAT_NO_MAX, tc_emit_json_colon(j, tc_emit_json_any(j, next)));
}

static uint32_t any_item(void *arg, uint32_t i, uint32_t next)
{
    (void)i;
    return tc_emit_json_any(arg, next);
}

static uint32_t emit_any_object(tc_json *j, uint32_t next)
{
    const tc_json_members members = {.extra = any_extra, .extra_max = TC_REPEAT_NO_MAX, .arg = j};
    return tc_emit_json_object(j, &members, next);
}

uint32_t tc_emit_json_any_object(tc_json *j, uint32_t next)
{
    if (!j->any_object_rule) {
        uint32_t rule = tc_rule_add(j->b, NULL, 0);
        j->any_object_rule = rule + 1;
        uint32_t start = emit_any_object(j, TC_NODE_RETURN);
        if (j->b->status == TC_OK) j->b->rules[rule].start = start;
    }
    return tc_emit_call(j->b, j->any_object_rule - 1, next);
}

uint32_t tc_emit_json_any(tc_json *j, uint32_t next)
{
    tc_builder *b = j->b;
    if (!j->any_rule) {
        const tc_json_items items = {.max = TC_REPEAT_NO_MAX, .rest = true, .item = any_item, .arg = j};
        const tc_json_range range = {0};
        uint32_t rule = tc_rule_add(b, NULL, 0);
        j->any_rule = rule + 1;
        uint32_t node = tc_emit_text(b, "true", TC_NODE_RETURN);
        node = tc_emit_split(b, node, tc_emit_text(b, "false", TC_NODE_RETURN));
        node = tc_emit_split(b, node, tc_emit_text(b, "null", TC_NODE_RETURN));
        node = tc_emit_split(b, node, tc_emit_json_number(j, "number", false, &range, TC_NODE_RETURN));
        node = tc_emit_split(b, node, tc_emit_json_string(j, 0, TC_REPEAT_NO_MAX, TC_NODE_RETURN));
        node = tc_emit_split(b, node, tc_emit_json_array(j, &items, TC_NODE_RETURN));
        node = tc_emit_split(b, node, emit_any_object(j, TC_NODE_RETURN));
        if (b->status == TC_OK) b->rules[rule].start = node;
    }
    return tc_emit_call(b, j->any_rule - 1, next);
}

uint32_t tc_json_object_compile(tc_builder *b)
{
    tc_json j = {.b = b};
    return tc_emit_json_any_object(&j, TC_NODE_RETURN);
}
