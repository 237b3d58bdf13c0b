// SPDX-License-Identifier: Apache-2.0
// Owns: growing a program: nodes, byte sets (each once), repeats, rules. Refuses: meaning (grammar_check.c).
#include "common/text/grammar_program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SET_TABLE = 1 << 12 }; // open addressing; more sets than half of it share no more

bool tc_builder_grow(tc_builder *b, void **array, uint32_t count, uint32_t *capacity, size_t size)
{
    if (b->status != TC_OK) return false;
    if (count < *capacity) return true;
    uint32_t more = *capacity ? *capacity * 2 : 64;
    void *grown = realloc(*array, (size_t)more * size);
    if (!grown) return tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar"), false;
    *array = grown;
    *capacity = more;
    return true;
}

uint32_t tc_builder_fail(tc_builder *b, tc_status status, const char *format, ...)
{
    if (b->status != TC_OK) return TC_NODE_NEVER;
    char text[TC_ERROR_TEXT_BYTES];
    va_list list;
    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    b->status = tc_fail(b->e, status, "%s", text);
    return TC_NODE_NEVER;
}

static uint32_t add_node(tc_builder *b, tc_node_kind kind, uint32_t next, uint32_t arg)
{
    if (b->node_count >= TC_GRAMMAR_NODES_MAX)
        return tc_builder_fail(b, TC_LIMIT, "the constraint needs more than %d states", TC_GRAMMAR_NODES_MAX);
    if (!tc_builder_grow(b, (void **)&b->nodes, b->node_count, &b->node_capacity, sizeof *b->nodes))
        return TC_NODE_NEVER;
    b->nodes[b->node_count] = (tc_node){(uint8_t)kind, next, arg};
    return b->node_count++;
}

tc_status tc_builder_init(tc_builder *b, tc_error *e)
{
    *b = (tc_builder){.e = e};
    b->set_table = calloc(SET_TABLE, sizeof *b->set_table);
    if (!b->set_table) return tc_fail(e, TC_NOMEM, "out of memory for the grammar");
    add_node(b, TC_NODE_KIND_NEVER, 0, 0);
    add_node(b, TC_NODE_KIND_RETURN, 0, 0);
    tc_tree_add(b, TC_TREE_EMPTY);
    if (b->status != TC_OK) tc_builder_free(b);
    return b->status;
}

void tc_builder_free(tc_builder *b)
{
    free(b->nodes);
    free(b->sets);
    free(b->loops);
    free(b->rules);
    free(b->trees);
    free(b->ranges);
    free(b->set_table);
    *b = (tc_builder){.status = b->status, .e = b->e};
}

static uint32_t intern_set(tc_builder *b, const tc_byte_set *set)
{
    uint64_t h = 0;
    for (int i = 0; i < 4; i++) h = (h ^ set->bits[i]) * 0x9e3779b97f4a7c15u, h ^= h >> 32;
    uint32_t at = (uint32_t)h & (SET_TABLE - 1);
    for (; b->set_table[at]; at = (at + 1) & (SET_TABLE - 1))
        if (memcmp(&b->sets[b->set_table[at] - 1], set, sizeof *set) == 0) return b->set_table[at] - 1;
    if (!tc_builder_grow(b, (void **)&b->sets, b->set_count, &b->set_capacity, sizeof *b->sets)) return 0;
    b->sets[b->set_count++] = *set;
    if (b->set_count < SET_TABLE / 2) b->set_table[at] = b->set_count;
    return b->set_count - 1;
}

uint32_t tc_emit_set(tc_builder *b, const tc_byte_set *set, uint32_t next)
{
    if (next == TC_NODE_NEVER || !(set->bits[0] | set->bits[1] | set->bits[2] | set->bits[3]))
        return TC_NODE_NEVER;
    uint32_t index = intern_set(b, set);
    return add_node(b, TC_NODE_KIND_SET, next, index);
}

uint32_t tc_emit_byte(tc_builder *b, uint8_t byte, uint32_t next)
{
    tc_byte_set set = {0};
    set.bits[byte >> 6] = 1ull << (byte & 63);
    return tc_emit_set(b, &set, next);
}

uint32_t tc_emit_bytes(tc_builder *b, const char *bytes, size_t count, uint32_t next)
{
    while (count > 0) next = tc_emit_byte(b, (uint8_t)bytes[--count], next);
    return next;
}

uint32_t tc_emit_text(tc_builder *b, const char *text, uint32_t next)
{
    return tc_emit_bytes(b, text, strlen(text), next);
}

uint32_t tc_emit_split(tc_builder *b, uint32_t one, uint32_t other)
{
    if (one == TC_NODE_NEVER || one == other) return other;
    if (other == TC_NODE_NEVER) return one;
    return add_node(b, TC_NODE_KIND_SPLIT, one, other);
}

uint32_t tc_emit_open(tc_builder *b)
{
    return add_node(b, TC_NODE_KIND_SPLIT, TC_NODE_NEVER, TC_NODE_NEVER);
}

void tc_patch(tc_builder *b, uint32_t open, uint32_t one, uint32_t other)
{
    if (b->status != TC_OK || open == TC_NODE_NEVER) return;
    b->nodes[open].next = one;
    b->nodes[open].arg = other;
}

uint32_t tc_emit_loop(tc_builder *b, uint32_t min, uint32_t max, uint32_t body, uint32_t next)
{
    if (max == 0 || (body == TC_NODE_NEVER && min == 0)) return next;
    if (body == TC_NODE_NEVER || next == TC_NODE_NEVER) return TC_NODE_NEVER;
    if (!tc_builder_grow(b, (void **)&b->loops, b->loop_count, &b->loop_capacity, sizeof *b->loops))
        return TC_NODE_NEVER;
    b->loops[b->loop_count++] = (tc_loop){.min = min, .max = max, .body = body};
    return add_node(b, TC_NODE_KIND_LOOP, next, b->loop_count - 1);
}

uint32_t tc_rule_add(tc_builder *b, const char *name, uint32_t name_bytes)
{
    if (b->rule_count >= TC_GRAMMAR_RULES_MAX) {
        tc_builder_fail(b, TC_LIMIT, "the constraint has more than %d rules", TC_GRAMMAR_RULES_MAX);
        return 0;
    }
    if (!tc_builder_grow(b, (void **)&b->rules, b->rule_count, &b->rule_capacity, sizeof *b->rules)) return 0;
    b->rules[b->rule_count] = (tc_rule){.start = TC_NODE_NEVER, .name = name, .name_bytes = name_bytes};
    return b->rule_count++;
}

uint32_t tc_emit_call(tc_builder *b, uint32_t rule, uint32_t next)
{
    if (next == TC_NODE_NEVER) return TC_NODE_NEVER;
    return add_node(b, next == TC_NODE_RETURN ? TC_NODE_KIND_TAIL : TC_NODE_KIND_CALL, next, rule);
}
