// SPDX-License-Identifier: Apache-2.0
// Owns: making states: frames, closures, interning, and dropping what is not in use.
#include "common/text/grammar_automaton.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    WORK_MAX = 1 << 14,    // nodes of one closure still to be looked at
    VISITED_MAX = 1 << 15, // nodes of one closure, slots of the table
    FRAME_TABLE = 2 * TC_AUTOMATON_FRAMES_MAX,
    STATE_TABLE = 2 * TC_STATES_MAX,
};

typedef struct work {
    uint32_t node, stack, count; // count: of a LOOP, iterations completed
} work;

typedef struct visited {
    uint32_t node, stack, count, generation;
} visited;

struct tc_walker {
    work work[WORK_MAX];
    visited seen[VISITED_MAX];
    tc_item items[TC_STATE_ITEMS_MAX], moved[TC_STATE_ITEMS_MAX];
    uint32_t work_count, seen_count, item_count, generation;
    bool final, failed, full;
};

// Zeroed memory that costs nothing until it is touched.
static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void release(void *p, size_t bytes)
{
    if (p) munmap(p, bytes);
}

static size_t steps_bytes(const tc_grammar *g)
{
    return (size_t)TC_STATES_MAX * g->class_count * sizeof(uint32_t);
}

static bool space_reserve(tc_space *s, const tc_grammar *g)
{
    s->frames = reserve(TC_AUTOMATON_FRAMES_MAX * sizeof *s->frames);
    s->items = reserve(TC_AUTOMATON_ITEMS_MAX * sizeof *s->items);
    s->states = reserve(TC_STATES_MAX * sizeof *s->states);
    s->steps = reserve(steps_bytes(g));
    s->frame_table = reserve(FRAME_TABLE * sizeof *s->frame_table);
    s->state_table = reserve(STATE_TABLE * sizeof *s->state_table);
    s->frame_count = 1; // 0 is the empty stack
    s->state_count = TC_STATE_FIRST;
    return s->frames && s->items && s->states && s->steps && s->frame_table && s->state_table;
}

static void space_release(tc_space *s, const tc_grammar *g)
{
    release(s->frames, TC_AUTOMATON_FRAMES_MAX * sizeof *s->frames);
    release(s->items, TC_AUTOMATON_ITEMS_MAX * sizeof *s->items);
    release(s->states, TC_STATES_MAX * sizeof *s->states);
    release(s->steps, steps_bytes(g));
    release(s->frame_table, FRAME_TABLE * sizeof *s->frame_table);
    release(s->state_table, STATE_TABLE * sizeof *s->state_table);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

// Memory that was written to, now or before: tables are written all over, the rest from the front.
static size_t space_bytes(tc_space *s, const tc_grammar *g)
{
    const size_t page = 4096;
    size_t bytes = s->frame_count * sizeof *s->frames + s->item_count * sizeof *s->items +
                   s->state_count * (sizeof *s->states + g->class_count * sizeof *s->steps) +
                   least(s->frame_count * page, FRAME_TABLE * sizeof *s->frame_table) +
                   least(s->state_count * page, STATE_TABLE * sizeof *s->state_table);
    if (bytes > s->touched_bytes) s->touched_bytes = bytes;
    return s->touched_bytes;
}

size_t tc_automaton_bytes(tc_automaton *a)
{
    return sizeof *a + sizeof *a->walker + space_bytes(&a->spaces[0], a->grammar) +
           space_bytes(&a->spaces[1], a->grammar);
}

static void space_clear(tc_space *s, const tc_grammar *g)
{
    space_bytes(s, g); // remembered
    memset(s->steps, 0, (size_t)s->state_count * g->class_count * sizeof *s->steps);
    memset(s->states, 0, (size_t)s->state_count * sizeof *s->states);
    memset(s->frame_table, 0, FRAME_TABLE * sizeof *s->frame_table);
    memset(s->state_table, 0, STATE_TABLE * sizeof *s->state_table);
    s->frame_count = 1;
    s->item_count = 0;
    s->state_count = TC_STATE_FIRST;
}

tc_status tc_automaton_create(const tc_grammar *grammar, tc_automaton **ret, tc_error *e)
{
    tc_automaton *a = calloc(1, sizeof *a);
    if (!a) return tc_fail(e, TC_NOMEM, "out of memory for an automaton");
    a->grammar = grammar;
    a->walker = reserve(sizeof *a->walker);
    if (!a->walker || !space_reserve(&a->spaces[0], grammar) || !space_reserve(&a->spaces[1], grammar)) {
        tc_automaton_free(a);
        return tc_fail(e, TC_NOMEM, "out of memory for an automaton");
    }
    *ret = a;
    return TC_OK;
}

void tc_automaton_free(tc_automaton *a)
{
    if (!a) return;
    for (int i = 0; i < 2; i++) space_release(&a->spaces[i], a->grammar);
    release(a->walker, sizeof *a->walker);
    free(a);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

// ---- frames ----

// The stack with one more frame; 0 when there is no room (then walker->full is set).
static uint32_t push_frame(tc_automaton *a, tc_space *s, uint32_t node, uint32_t count, uint32_t parent)
{
    uint32_t at = (uint32_t)(mix(mix(node, count), parent) & (FRAME_TABLE - 1));
    for (; s->frame_table[at]; at = (at + 1) & (FRAME_TABLE - 1)) {
        const tc_frame *f = &s->frames[s->frame_table[at]];
        if (f->node == node && f->count == count && f->parent == parent) return s->frame_table[at];
    }
    if (s->frame_count == TC_AUTOMATON_FRAMES_MAX) {
        a->walker->full = true;
        return 0;
    }
    s->frames[s->frame_count] = (tc_frame){node, count, parent, (uint16_t)(s->frames[parent].depth + 1)};
    return s->frame_table[at] = s->frame_count++;
}

// ---- closure ----

static void walker_begin(tc_walker *w)
{
    w->work_count = w->seen_count = w->item_count = 0;
    w->final = w->failed = w->full = false;
    if (++w->generation == 0) {
        memset(w->seen, 0, sizeof w->seen);
        w->generation = 1;
    }
}

static void add_work(tc_walker *w, uint32_t node, uint32_t stack, uint32_t count)
{
    if (w->work_count == WORK_MAX)
        w->failed = true;
    else
        w->work[w->work_count++] = (work){node, stack, count};
}

// Whether this has been looked at. Of a repeat whose body may be empty only the smallest count matters: it
// allows whatever a larger one does.
static bool seen_before(tc_walker *w, const work *k, bool smallest)
{
    uint64_t h = mix(k->node, k->stack);
    if (!smallest) h = mix(h, k->count);
    for (uint32_t at = (uint32_t)h & (VISITED_MAX - 1);; at = (at + 1) & (VISITED_MAX - 1)) {
        visited *v = &w->seen[at];
        if (v->generation != w->generation) {
            if (w->seen_count++ == VISITED_MAX / 2) return w->failed = true;
            *v = (visited){k->node, k->stack, k->count, w->generation};
            return false;
        }
        if (v->node != k->node || v->stack != k->stack) continue;
        if (v->count == k->count) return true;
        if (!smallest) continue;
        if (v->count < k->count) return true;
        v->count = k->count;
        return false;
    }
}

static void follow_return(tc_automaton *a, const tc_space *s, uint32_t stack)
{
    tc_walker *w = a->walker;
    if (stack == 0) {
        w->final = true;
        return;
    }
    const tc_frame *f = &s->frames[stack];
    const tc_node *n = &a->grammar->nodes[f->node];
    if (n->kind == TC_NODE_KIND_CALL)
        add_work(w, n->next, f->parent, 0);
    else
        add_work(w, f->node, f->parent, f->count);
}

static void follow_loop(tc_automaton *a, tc_space *s, const work *k)
{
    const tc_node *n = &a->grammar->nodes[k->node];
    const tc_loop *l = &a->grammar->loops[n->arg];
    uint32_t min = l->nullable ? 0 : l->min, depth = s->frames[k->stack].depth;
    if (k->count >= min) add_work(a->walker, n->next, k->stack, 0);
    if (k->count >= l->max || depth + 1 + a->grammar->heights[l->body] > TC_GRAMMAR_STACK_MAX) return;
    uint32_t count = k->count + 1;
    if (l->max == TC_REPEAT_NO_MAX && count > min) count = min; // beyond its least it counts no more
    uint32_t stack = push_frame(a, s, k->node, count, k->stack);
    if (stack) add_work(a->walker, l->body, stack, 0);
}

static void look_at(tc_automaton *a, tc_space *s, const work *k)
{
    tc_walker *w = a->walker;
    const tc_grammar *g = a->grammar;
    const tc_node *n = &g->nodes[k->node];
    uint32_t stack;
    if (s->frames[k->stack].depth + g->heights[k->node] > TC_GRAMMAR_STACK_MAX) return; // could never end
    bool smallest = n->kind == TC_NODE_KIND_LOOP && g->loops[n->arg].nullable;
    if (seen_before(w, k, smallest)) return;
    switch ((tc_node_kind)n->kind) {
    case TC_NODE_KIND_SET:
        if (w->item_count == TC_STATE_ITEMS_MAX)
            w->failed = true;
        else
            w->items[w->item_count++] = (tc_item){k->node, k->stack};
        break;
    case TC_NODE_KIND_RETURN:
        follow_return(a, s, k->stack);
        break;
    case TC_NODE_KIND_SPLIT:
        add_work(w, n->arg, k->stack, 0);
        add_work(w, n->next, k->stack, 0);
        break;
    case TC_NODE_KIND_CALL:
        stack = push_frame(a, s, k->node, 0, k->stack);
        if (stack) add_work(w, g->rules[n->arg], stack, 0);
        break;
    case TC_NODE_KIND_TAIL:
        add_work(w, g->rules[n->arg], k->stack, 0);
        break;
    case TC_NODE_KIND_LOOP:
        follow_loop(a, s, k);
        break;
    case TC_NODE_KIND_NEVER:
        break;
    }
}

static void close_over(tc_automaton *a, tc_space *s, uint32_t node, uint32_t stack)
{
    tc_walker *w = a->walker;
    add_work(w, node, stack, 0);
    while (w->work_count && !w->failed && !w->full) {
        work k = w->work[--w->work_count];
        look_at(a, s, &k);
    }
}

// ---- states ----

static int by_node(const void *a, const void *z)
{
    const tc_item *x = a, *y = z;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return x->stack < y->stack ? -1 : x->stack > y->stack;
}

static void sort_items(tc_item *items, uint32_t n)
{
    if (n > 24) {
        qsort(items, n, sizeof *items, by_node);
        return;
    }
    for (uint32_t i = 1; i < n; i++) {
        tc_item item = items[i];
        uint32_t k = i;
        for (; k > 0 && by_node(&items[k - 1], &item) > 0; k--) items[k] = items[k - 1];
        items[k] = item;
    }
}

static uint32_t intern_state(tc_automaton *a, tc_space *s, tc_item *items, uint32_t n, bool final)
{
    tc_walker *w = a->walker;
    if (n == 0 && !final) return TC_STATE_DEAD;
    sort_items(items, n);
    uint64_t h = final;
    for (uint32_t i = 0; i < n; i++) h = mix(h, (uint64_t)items[i].node << 32 | items[i].stack);
    uint32_t hash = (uint32_t)(h ^ h >> 32), at = hash & (STATE_TABLE - 1);
    for (; s->state_table[at]; at = (at + 1) & (STATE_TABLE - 1)) {
        const tc_state *t = &s->states[s->state_table[at]];
        if (t->hash == hash && t->count == n && t->final == final &&
            (n == 0 || memcmp(&s->items[t->first], items, n * sizeof *items) == 0))
            return s->state_table[at];
    }
    if (s->state_count == TC_STATES_MAX || s->item_count + n > TC_AUTOMATON_ITEMS_MAX) {
        w->full = true;
        return TC_STATE_UNKNOWN;
    }
    s->states[s->state_count] = (tc_state){.first = s->item_count, .count = n, .hash = hash, .final = final};
    if (n) memcpy(&s->items[s->item_count], items, n * sizeof *items);
    s->item_count += n;
    return s->state_table[at] = s->state_count++;
}

static uint32_t end_walk(tc_automaton *a, tc_space *s)
{
    tc_walker *w = a->walker;
    uint32_t state = TC_STATE_UNKNOWN;
    if (!w->failed && !w->full) state = intern_state(a, s, w->items, w->item_count, w->final);
    a->full = w->full && !w->failed;
    return state;
}

uint32_t tc_automaton_start(tc_automaton *a)
{
    tc_space *s = &a->spaces[a->now];
    walker_begin(a->walker);
    close_over(a, s, a->grammar->root, 0);
    return end_walk(a, s);
}

uint32_t tc_automaton_step_slow(tc_automaton *a, uint32_t state, uint32_t class)
{
    tc_space *s = &a->spaces[a->now];
    const tc_grammar *g = a->grammar;
    const tc_state *from = &s->states[state];
    uint8_t byte = g->class_byte[class];
    walker_begin(a->walker);
    for (uint32_t i = 0; i < from->count && !a->walker->failed && !a->walker->full; i++) {
        const tc_item *item = &s->items[from->first + i];
        const tc_node *n = &g->nodes[item->node];
        if (tc_byte_set_has(&g->sets[n->arg], byte)) close_over(a, s, n->next, item->stack);
    }
    uint32_t next = end_walk(a, s);
    s->steps[(size_t)state * g->class_count + class] = next;
    return next;
}

// ---- dropping what is not in use ----

static uint32_t copy_stack(tc_automaton *a, const tc_space *from, tc_space *to, uint32_t stack)
{
    uint32_t path[TC_GRAMMAR_STACK_MAX + 1], n = 0, copy = 0;
    for (; stack; stack = from->frames[stack].parent) path[n++] = stack;
    while (n > 0) {
        const tc_frame *f = &from->frames[path[--n]];
        copy = push_frame(a, to, f->node, f->count, copy);
    }
    return copy;
}

bool tc_automaton_collect(tc_automaton *a, uint32_t **states, uint32_t n)
{
    tc_space *from = &a->spaces[a->now], *to = &a->spaces[!a->now];
    tc_walker *w = a->walker;
    space_clear(to, a->grammar);
    walker_begin(w);
    for (uint32_t i = 0; i < n; i++) {
        const tc_state *t = &from->states[*states[i]];
        if (*states[i] < TC_STATE_FIRST) continue;
        for (uint32_t k = 0; k < t->count; k++) {
            const tc_item *item = &from->items[t->first + k];
            w->items[k] = (tc_item){item->node, copy_stack(a, from, to, item->stack)};
        }
        uint32_t copy = w->full ? TC_STATE_UNKNOWN : intern_state(a, to, w->items, t->count, t->final);
        if (copy == TC_STATE_UNKNOWN) return false; // the states in use fill it alone
        *states[i] = copy;
    }
    a->now = !a->now;
    a->generation++;
    return true;
}

// ---- twins ----

// A counter far from both its bounds acts, for the next `bytes` bytes, like any other that is.
static uint32_t move_count(const tc_loop *l, uint32_t count, uint32_t margin)
{
    uint32_t min = l->nullable ? 0 : l->min;
    if (count < min) return min - count > margin ? (min > margin + 1 ? min - margin - 1 : count) : count;
    if (l->max == TC_REPEAT_NO_MAX || l->max - count <= margin) return count;
    return min;
}

static uint32_t twin_stack(tc_automaton *a, tc_space *s, uint32_t stack, uint32_t margin)
{
    uint32_t path[TC_GRAMMAR_STACK_MAX + 1], n = 0, copy = 0;
    bool moved = false;
    for (uint32_t k = stack; k; k = s->frames[k].parent) path[n++] = k;
    while (n > 0) {
        tc_frame f = s->frames[path[--n]];
        const tc_node *node = &a->grammar->nodes[f.node];
        if (node->kind == TC_NODE_KIND_LOOP) {
            uint32_t count = move_count(&a->grammar->loops[node->arg], f.count, margin);
            moved |= count != f.count;
            f.count = count;
        }
        copy = moved ? push_frame(a, s, f.node, f.count, copy) : path[n];
        if (!copy) return 0;
    }
    return copy;
}

uint32_t tc_automaton_twin(tc_automaton *a, uint32_t state, uint32_t bytes)
{
    tc_space *s = &a->spaces[a->now];
    tc_walker *w = a->walker;
    uint32_t n = s->states[state].count, kept = 0;
    if (s->states[state].mask_twin) return s->states[state].mask_twin;
    walker_begin(w);
    for (uint32_t i = 0; i < n && !w->full; i++) {
        tc_item item = s->items[s->states[state].first + i];
        item.stack = twin_stack(a, s, item.stack, bytes + 2);
        w->items[i] = item;
    }
    if (w->full) return a->full = true, TC_STATE_UNKNOWN;
    sort_items(w->items, n); // pairs that now are the same are one
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || by_node(&w->items[kept - 1], &w->items[i]) != 0) w->items[kept++] = w->items[i];
    uint32_t twin = intern_state(a, s, w->items, kept, s->states[state].final);
    if (twin == TC_STATE_UNKNOWN) return a->full = true, TC_STATE_UNKNOWN;
    s->states[state].mask_twin = twin;
    s->states[twin].mask_twin = twin;
    return twin;
}

// ---- the plain way ----

tc_status tc_grammar_match(const tc_grammar *grammar, const char *text, size_t bytes, bool *ret, tc_error *e)
{
    tc_automaton *a = NULL;
    TC_TRY(tc_automaton_create(grammar, &a, e));
    uint32_t state = tc_automaton_start(a);
    for (size_t i = 0; i < bytes && state >= TC_STATE_FIRST; i++) {
        uint32_t class = grammar->class_of[(uint8_t)text[i]], *kept = &state;
        uint32_t next = tc_automaton_step(a, state, class);
        if (next == TC_STATE_UNKNOWN && a->full && tc_automaton_collect(a, &kept, 1))
            next = tc_automaton_step(a, state, class);
        state = next;
    }
    tc_status status = state == TC_STATE_UNKNOWN
                           ? tc_fail(e, TC_LIMIT, "the constraint can be read in too many ways at once")
                           : TC_OK;
    *ret = state >= TC_STATE_FIRST && tc_automaton_state(a, state)->final;
    tc_automaton_free(a);
    return status;
}
