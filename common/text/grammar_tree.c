// SPDX-License-Identifier: Apache-2.0
// Owns: trees of characters, sequences, alternatives and repeats, and turning them into nodes, as they stand
// or spelled inside a JSON string. Depth is bounded by the parsers (TC_GRAMMAR_NEST_MAX).
#include "common/text/grammar_program.h"
#include "common/text/utf8.h"

#include <stdlib.h>
#include <string.h>

enum {
    INLINE_COPIES_MAX = 16, // a repeat of one character up to so often is written out: no frames
};

uint32_t tc_tree_add(tc_builder *b, tc_tree_kind kind)
{
    if (b->tree_count >= TC_GRAMMAR_NODES_MAX) {
        tc_builder_fail(b, TC_LIMIT, "the constraint has more than %d parts", TC_GRAMMAR_NODES_MAX);
        return 0;
    }
    if (!tc_builder_grow(b, (void **)&b->trees, b->tree_count, &b->tree_capacity, sizeof *b->trees)) return 0;
    b->trees[b->tree_count] = (tc_tree){.kind = (uint8_t)kind};
    return b->tree_count++;
}

void tc_tree_append(tc_builder *b, uint32_t parent, uint32_t child)
{
    if (b->status != TC_OK || !parent || !child) return;
    tc_tree *p = &b->trees[parent];
    if (p->last)
        b->trees[p->last].sibling = child;
    else
        p->first = child;
    p->last = child;
}

uint32_t tc_tree_repeat(tc_builder *b, uint32_t child, uint32_t min, uint32_t max)
{
    uint32_t t = tc_tree_add(b, TC_TREE_REPEAT);
    if (!t) return 0;
    b->trees[t].min = min;
    b->trees[t].max = max;
    tc_tree_append(b, t, child);
    return t;
}

static bool add_range(tc_builder *b, uint32_t low, uint32_t high)
{
    if (b->range_count >= TC_GRAMMAR_RANGES_MAX)
        return tc_builder_fail(b, TC_LIMIT, "the constraint has more than %d character ranges",
                               TC_GRAMMAR_RANGES_MAX),
               false;
    if (!tc_builder_grow(b, (void **)&b->ranges, b->range_count, &b->range_capacity, sizeof *b->ranges))
        return false;
    b->ranges[b->range_count++] = (tc_char_range){low, high};
    return true;
}

static int by_low(const void *a, const void *z)
{
    const tc_char_range *x = a, *y = z;
    return x->low < y->low ? -1 : x->low > y->low;
}

// Sorts and joins n ranges in place; returns how many are left.
static uint32_t join_ranges(tc_char_range *r, uint32_t n)
{
    uint32_t kept = 0;
    qsort(r, n, sizeof *r, by_low);
    for (uint32_t i = 0; i < n; i++) {
        if (kept && r[i].low <= r[kept - 1].high + 1) {
            if (r[i].high > r[kept - 1].high) r[kept - 1].high = r[i].high;
        } else {
            r[kept++] = r[i];
        }
    }
    return kept;
}

uint32_t tc_tree_chars(tc_builder *b, const tc_char_range *ranges, uint32_t n, bool negated)
{
    uint32_t t = tc_tree_add(b, TC_TREE_CHARS), first = b->range_count, next = 0;
    tc_char_range *copy = malloc((n ? n : 1) * sizeof *copy);
    if (!t || !copy) {
        free(copy);
        tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
        return 0;
    }
    if (n) memcpy(copy, ranges, n * sizeof *copy);
    n = join_ranges(copy, n);
    for (uint32_t i = 0; i < n && b->status == TC_OK; i++) {
        if (!negated)
            add_range(b, copy[i].low, copy[i].high);
        else if (copy[i].low > next)
            add_range(b, next, copy[i].low - 1);
        next = copy[i].high + 1;
    }
    if (negated && next <= 0x10ffff) add_range(b, next, 0x10ffff);
    free(copy);
    b->trees[t].first_range = first;
    b->trees[t].range_count = b->range_count - first;
    return b->status == TC_OK ? t : 0;
}

uint32_t tc_tree_text(tc_builder *b, const char *utf8, size_t bytes)
{
    uint32_t seq = tc_tree_add(b, TC_TREE_SEQ);
    for (size_t i = 0, n; i < bytes; i += n) {
        if (tc_utf8_step((const uint8_t *)utf8 + i, bytes - i, &n) != TC_UTF8_CHAR) {
            tc_builder_fail(b, TC_ARGUMENT, "the constraint is not well-formed UTF-8");
            return 0;
        }
        uint32_t c = tc_utf8_get((const uint8_t *)utf8 + i, &n);
        tc_tree_append(b, seq, tc_tree_chars(b, &(tc_char_range){c, c}, 1, false));
    }
    return seq;
}

// ---- emission ----

// Of the ranges, what stands for itself in a JSON string; the others are added to *ret_escaped.
static uint32_t plain_in_json(const tc_char_range *ranges, uint32_t n, tc_char_range *out,
                              tc_byte_set *ret_escaped)
{
    static const tc_char_range plain[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x10ffff}};
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < 3; k++) {
            uint32_t low = ranges[i].low > plain[k].low ? ranges[i].low : plain[k].low;
            uint32_t high = ranges[i].high < plain[k].high ? ranges[i].high : plain[k].high;
            if (low <= high) out[count++] = (tc_char_range){low, high};
        }
        for (uint32_t c = ranges[i].low; c <= ranges[i].high && c < 0x80; c++)
            if (c < 0x20 || c == '"' || c == '\\') ret_escaped->bits[c >> 6] |= 1ull << (c & 63);
    }
    return count;
}

static uint32_t emit_escapes(tc_builder *b, const tc_byte_set *chars, uint32_t next)
{
    static const char codes[] = "\"\"\\\\\bb\ff\nn\rr\tt"; // character, letter of its escape
    tc_byte_set letters = {0};
    uint32_t hex = TC_NODE_NEVER;
    for (uint32_t c = 0; c < 0x80; c++) {
        if (!tc_byte_set_has(chars, (uint8_t)c)) continue;
        char letter = 0;
        for (size_t i = 0; i + 1 < sizeof codes - 1; i += 2)
            if (codes[i] == (char)c) letter = codes[i + 1];
        if (letter)
            letters.bits[letter >> 6] |= 1ull << (letter & 63);
        else
            hex = tc_emit_split(b,
                                tc_emit_byte(b, (uint8_t)('0' + (c >> 4)),
                                             tc_emit_byte(b, (uint8_t) "0123456789abcdef"[c & 15], next)),
                                hex);
    }
    uint32_t node = tc_emit_split(b, tc_emit_set(b, &letters, next), tc_emit_text(b, "u00", hex));
    return tc_emit_byte(b, '\\', node);
}

static uint32_t emit_chars(tc_builder *b, const tc_tree *t, tc_spelling spelling, uint32_t next)
{
    if (t->range_count == 0)
        return TC_NODE_NEVER; // an empty class; a grammar of none but these has no ranges at all
    if (spelling == TC_SPELL_PLAIN) return tc_emit_chars(b, b->ranges + t->first_range, t->range_count, next);
    tc_byte_set escaped = {0};
    tc_char_range *plain = calloc(3 * (size_t)t->range_count + 1, sizeof *plain);
    if (!plain) return tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
    uint32_t n = plain_in_json(b->ranges + t->first_range, t->range_count, plain, &escaped);
    uint32_t node = tc_emit_chars(b, plain, n, next);
    if (escaped.bits[0] | escaped.bits[1]) node = tc_emit_split(b, node, emit_escapes(b, &escaped, next));
    free(plain);
    return node;
}

static uint32_t emit_repeat(tc_builder *b, const tc_tree *t, tc_spelling spelling, uint32_t next)
{
    uint32_t min = t->min, max = t->max, child = t->first;
    if (max == 0 || child == 0) return next;
    if (max == TC_REPEAT_NO_MAX && min <= 1) {
        uint32_t head = tc_emit_open(b);
        uint32_t body = tc_emit_tree(b, child, spelling, head);
        tc_patch(b, head, body, next);
        return min ? body : head;
    }
    if (max == 1) {
        uint32_t once = tc_emit_tree(b, child, spelling, next);
        return min ? once : tc_emit_split(b, once, next);
    }
    if (b->trees[child].kind == TC_TREE_CHARS && max <= INLINE_COPIES_MAX) {
        uint32_t node = next;
        for (uint32_t i = max; i-- > 0 && b->status == TC_OK;) {
            node = tc_emit_tree(b, child, spelling, node);
            if (i >= min) node = tc_emit_split(b, node, next);
        }
        return node;
    }
    return tc_emit_loop(b, min, max, tc_emit_tree(b, child, spelling, TC_NODE_RETURN), next);
}

// Children are linked forwards and emitted backwards.
static uint32_t emit_sequence(tc_builder *b, uint32_t child, tc_spelling spelling, uint32_t next)
{
    uint32_t n = 0;
    for (uint32_t c = child; c; c = b->trees[c].sibling) n++;
    uint32_t *order = malloc((n ? n : 1) * sizeof *order);
    if (!order) return tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
    for (uint32_t i = 0; i < n; i++, child = b->trees[child].sibling) order[i] = child;
    while (n > 0 && b->status == TC_OK) next = tc_emit_tree(b, order[--n], spelling, next);
    free(order);
    return next;
}

uint32_t tc_emit_tree(tc_builder *b, uint32_t tree, tc_spelling spelling, uint32_t next)
{
    if (b->status != TC_OK) return TC_NODE_NEVER;
    const tc_tree t = b->trees[tree];
    uint32_t node = TC_NODE_NEVER;
    switch ((tc_tree_kind)t.kind) {
    case TC_TREE_EMPTY:
        return next;
    case TC_TREE_CHARS:
        return emit_chars(b, &t, spelling, next);
    case TC_TREE_SEQ:
        return emit_sequence(b, t.first, spelling, next);
    case TC_TREE_ALT:
        for (uint32_t c = t.first; c; c = b->trees[c].sibling)
            node = tc_emit_split(b, tc_emit_tree(b, c, spelling, next), node);
        return node;
    case TC_TREE_REPEAT:
        return emit_repeat(b, &t, spelling, next);
    case TC_TREE_RULE:
        return tc_emit_call(b, t.rule, next);
    case TC_TREE_BEGIN:
    case TC_TREE_END:
        break;
    }
    return tc_builder_fail(b, TC_UNSUPPORTED, "an anchor (^ or $) that is not at the beginning or the end");
}

static uint32_t plus(uint32_t a, uint32_t c)
{
    return a > UINT32_MAX - c ? UINT32_MAX : a + c;
}

static uint32_t times(uint32_t a, uint32_t c)
{
    return a && c > UINT32_MAX / a ? UINT32_MAX : a * c;
}

void tc_tree_lengths(const tc_builder *b, uint32_t tree, uint32_t *ret_min, uint32_t *ret_max)
{
    const tc_tree *t = &b->trees[tree];
    uint32_t min = 0, max = 0, low, high;
    switch ((tc_tree_kind)t->kind) {
    case TC_TREE_CHARS:
        min = max = 1;
        break;
    case TC_TREE_SEQ:
        for (uint32_t c = t->first; c; c = b->trees[c].sibling) {
            tc_tree_lengths(b, c, &low, &high);
            min = plus(min, low), max = plus(max, high);
        }
        break;
    case TC_TREE_ALT:
        min = UINT32_MAX;
        for (uint32_t c = t->first; c; c = b->trees[c].sibling) {
            tc_tree_lengths(b, c, &low, &high);
            if (low < min) min = low;
            if (high > max) max = high;
        }
        break;
    case TC_TREE_REPEAT:
        tc_tree_lengths(b, t->first, &low, &high);
        min = times(low, t->min), max = times(high, t->max);
        break;
    default:
        break;
    }
    *ret_min = min;
    *ret_max = max;
}
