// SPDX-License-Identifier: Apache-2.0
// Owns: what must hold for a program before it runs, and what the automaton wants to know about each node:
// whether it can match nothing, how many frames its shortest way to a match needs, which bytes are alike.
// Refuses: programs that can never end, and left recursion, with the rule's name.
#include "common/text/grammar_program.h"

#include <stdlib.h>
#include <string.h>

// Node visits of all passes: what bounds the time of a compilation, on any machine alike.
enum { STEPS_MAX = 1 << 26 };

typedef struct checker {
    tc_builder *b;
    uint8_t *empty; // can reach the end of its rule without a byte
    uint32_t *heights;
    uint32_t steps;
} checker;

static bool spend(checker *c)
{
    c->steps += c->b->node_count;
    if (c->steps <= STEPS_MAX) return true;
    tc_builder_fail(c->b, TC_LIMIT, "the constraint takes too long to compile");
    return false;
}

static bool can_be_empty(const checker *c, const tc_node *n)
{
    const tc_builder *b = c->b;
    switch ((tc_node_kind)n->kind) {
    case TC_NODE_KIND_RETURN:
        return true;
    case TC_NODE_KIND_SPLIT:
        return c->empty[n->next] || c->empty[n->arg];
    case TC_NODE_KIND_CALL:
        return c->empty[b->rules[n->arg].start] && c->empty[n->next];
    case TC_NODE_KIND_TAIL:
        return c->empty[b->rules[n->arg].start];
    case TC_NODE_KIND_LOOP:
        return (b->loops[n->arg].min == 0 || c->empty[b->loops[n->arg].body]) && c->empty[n->next];
    default:
        return false;
    }
}

static uint32_t max_of(uint32_t a, uint32_t c)
{
    return a > c ? a : c;
}

static uint32_t height_of(const checker *c, const tc_node *n)
{
    const tc_builder *b = c->b;
    const uint32_t *h = c->heights;
    switch ((tc_node_kind)n->kind) {
    case TC_NODE_KIND_RETURN:
        return 0;
    case TC_NODE_KIND_SET:
        return h[n->next];
    case TC_NODE_KIND_SPLIT:
        return h[n->next] < h[n->arg] ? h[n->next] : h[n->arg];
    case TC_NODE_KIND_CALL:
        return max_of(1 + h[b->rules[n->arg].start], h[n->next]);
    case TC_NODE_KIND_TAIL:
        return h[b->rules[n->arg].start];
    case TC_NODE_KIND_LOOP:
        return b->loops[n->arg].min == 0 ? h[n->next] : max_of(1 + h[b->loops[n->arg].body], h[n->next]);
    default:
        return TC_HEIGHT_NEVER;
    }
}

static void find_empty(checker *c)
{
    const tc_builder *b = c->b;
    for (bool again = true; again && spend(c);) {
        again = false;
        for (uint32_t i = 0; i < b->node_count; i++)
            if (!c->empty[i] && can_be_empty(c, &b->nodes[i])) c->empty[i] = 1, again = true;
    }
    for (uint32_t i = 0; i < b->loop_count; i++) b->loops[i].nullable = c->empty[b->loops[i].body];
}

static void find_heights(checker *c)
{
    for (uint32_t i = 0; i < c->b->node_count; i++) c->heights[i] = TC_HEIGHT_NEVER;
    for (bool again = true; again && spend(c);) {
        again = false;
        for (uint32_t i = 0; i < c->b->node_count; i++) {
            uint32_t h = height_of(c, &c->b->nodes[i]);
            if (h < c->heights[i]) c->heights[i] = h, again = true;
        }
    }
}

// ---- left recursion: a cycle that takes no byte and opens a frame (Tarjan's components, without recursion)
// ----

typedef struct components {
    uint32_t *order, *low, *component, *stack, *path;
    uint8_t *edge; // next edge of a node on the path
    uint32_t count, stack_count, path_count, component_count;
} components;

// Edges of a node that take no byte: *ret the target, *ret_frame whether a frame is opened. False: no such
// edge.
static bool edge_of(const checker *c, uint32_t node, uint32_t i, uint32_t *ret, bool *ret_frame)
{
    const tc_builder *b = c->b;
    const tc_node *n = &b->nodes[node];
    *ret_frame = false;
    *ret = n->next;
    switch ((tc_node_kind)n->kind) {
    case TC_NODE_KIND_SPLIT:
        *ret = i == 0 ? n->next : n->arg;
        return i < 2;
    case TC_NODE_KIND_TAIL:
        *ret = b->rules[n->arg].start;
        return i == 0;
    case TC_NODE_KIND_CALL:
        if (i == 0) *ret = b->rules[n->arg].start, *ret_frame = true;
        return i == 0 || (i == 1 && c->empty[b->rules[n->arg].start]);
    case TC_NODE_KIND_LOOP:
        if (i == 0) *ret = b->loops[n->arg].body, *ret_frame = true;
        return i == 0 || (i == 1 && (b->loops[n->arg].min == 0 || c->empty[b->loops[n->arg].body]));
    default:
        return false;
    }
}

static void enter(components *t, uint32_t node)
{
    t->order[node] = t->low[node] = ++t->count;
    t->stack[t->stack_count++] = node;
    t->edge[node] = 0;
    t->path[t->path_count++] = node;
}

static void leave(components *t, uint32_t node)
{
    if (t->low[node] == t->order[node]) {
        uint32_t member;
        t->component_count++;
        do {
            member = t->stack[--t->stack_count];
            t->component[member] = t->component_count;
        } while (member != node);
    }
    t->path_count--;
    if (t->path_count && t->low[node] < t->low[t->path[t->path_count - 1]])
        t->low[t->path[t->path_count - 1]] = t->low[node];
}

static void find_components(const checker *c, components *t)
{
    for (uint32_t root = 0; root < c->b->node_count; root++) {
        if (t->order[root]) continue;
        enter(t, root);
        while (t->path_count) {
            uint32_t node = t->path[t->path_count - 1], to;
            bool frame;
            if (!edge_of(c, node, t->edge[node], &to, &frame)) {
                leave(t, node);
                continue;
            }
            t->edge[node]++;
            if (!t->order[to])
                enter(t, to);
            else if (!t->component[to] && t->order[to] < t->low[node])
                t->low[node] = t->order[to];
        }
    }
}

static void name_left_recursion(const checker *c, const components *t, uint32_t component)
{
    tc_builder *b = c->b;
    for (uint32_t i = 0; i < b->rule_count; i++)
        if (t->component[b->rules[i].start] == component && b->rules[i].name) {
            tc_builder_fail(b, TC_UNSUPPORTED,
                            "grammar: rule %.*s is left-recursive (it can begin with itself)",
                            (int)b->rules[i].name_bytes, b->rules[i].name);
            return;
        }
    tc_builder_fail(b, TC_UNSUPPORTED, "the constraint can begin with itself, without end");
}

static void refuse_left_recursion(const checker *c)
{
    tc_builder *b = c->b;
    uint32_t n = b->node_count, to;
    uint32_t *words = calloc(5 * (size_t)n, sizeof *words);
    uint8_t *edges = calloc(n, 1);
    components t = {words, words + n, words + 2 * n, words + 3 * n, words + 4 * n, edges, 0, 0, 0, 0};
    bool frame;
    if (words && edges) {
        find_components(c, &t);
        for (uint32_t i = 0; i < n && b->status == TC_OK; i++)
            if ((b->nodes[i].kind == TC_NODE_KIND_CALL || b->nodes[i].kind == TC_NODE_KIND_LOOP) &&
                edge_of(c, i, 0, &to, &frame) && t.component[to] == t.component[i])
                name_left_recursion(c, &t, t.component[i]);
    } else {
        tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
    }
    free(words);
    free(edges);
}

// ---- bytes that are alike ----

static void find_classes(const tc_builder *b, tc_grammar *g)
{
    uint16_t of[256] = {0}, count = 1;
    for (uint32_t s = 0; s < b->set_count && count < 256; s++) {
        uint16_t split[256] = {0}; // class -> the class of its members in this set, + 1
        uint16_t sizes[256] = {0}, inside[256] = {0};
        for (uint32_t c = 0; c < 256; c++) {
            sizes[of[c]]++;
            inside[of[c]] = (uint16_t)(inside[of[c]] + tc_byte_set_has(&b->sets[s], (uint8_t)c));
        }
        for (uint32_t c = 0; c < 256; c++) {
            uint16_t k = of[c];
            if (!tc_byte_set_has(&b->sets[s], (uint8_t)c) || inside[k] == 0 ||
                (inside[k] == sizes[k] && !split[k]))
                continue;
            if (!split[k]) split[k] = (uint16_t)(++count);
            of[c] = (uint16_t)(split[k] - 1);
        }
    }
    for (uint32_t c = 256; c-- > 0;) {
        g->class_of[c] = (uint8_t)of[c];
        g->class_byte[of[c]] = (uint8_t)c;
    }
    g->class_count = count;
}

static tc_grammar *give(tc_builder *b, checker *c, uint32_t root)
{
    tc_grammar *g = calloc(1, sizeof *g);
    uint32_t *rules = calloc(b->rule_count ? b->rule_count : 1, sizeof *rules);
    if (!g || !rules) {
        free(g);
        free(rules);
        tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
        return NULL;
    }
    find_classes(b, g);
    for (uint32_t i = 0; i < b->rule_count; i++) rules[i] = b->rules[i].start;
    g->nodes = b->nodes, g->node_count = b->node_count;
    g->sets = b->sets, g->set_count = b->set_count;
    g->loops = b->loops, g->loop_count = b->loop_count;
    g->rules = rules, g->rule_count = b->rule_count;
    g->heights = c->heights;
    g->root = root;
    b->nodes = NULL, b->sets = NULL, b->loops = NULL, c->heights = NULL;
    return g;
}

tc_status tc_builder_finish(tc_builder *b, uint32_t root, tc_grammar **ret)
{
    checker c = {.b = b, .empty = calloc(b->node_count + 1, 1), .heights = calloc(b->node_count + 1, 4)};
    if (!c.empty || !c.heights) tc_builder_fail(b, TC_NOMEM, "out of memory for the grammar");
    if (b->status == TC_OK) find_empty(&c);
    if (b->status == TC_OK) find_heights(&c);
    if (b->status == TC_OK) refuse_left_recursion(&c);
    if (b->status == TC_OK && c.heights[root] >= TC_HEIGHT_NEVER)
        tc_builder_fail(b, TC_ARGUMENT, "no text can ever match the constraint");
    if (b->status == TC_OK && c.heights[root] > TC_GRAMMAR_STACK_MAX)
        tc_builder_fail(b, TC_LIMIT, "the shortest text that matches opens more than %d rules at once",
                        TC_GRAMMAR_STACK_MAX);
    if (b->status == TC_OK) *ret = give(b, &c, root);
    free(c.empty);
    free(c.heights);
    return b->status;
}

void tc_grammar_free(tc_grammar *g)
{
    if (!g) return;
    free(g->nodes);
    free(g->sets);
    free(g->loops);
    free(g->rules);
    free(g->heights);
    free(g);
}
