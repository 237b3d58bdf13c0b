// SPDX-License-Identifier: Apache-2.0
// Owns: computing masks by walking the vocabulary's tries beside the automaton, and keeping them.
#include "common/text/grammar_mask.h"
#include "common/text/grammar_automaton.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MASK_SLOTS = 256 };

// Byte ranges of the characters that parts 1..4 of a vocabulary consist of.
typedef struct sequence {
    uint8_t bytes, low[4], high[4];
} sequence;

static const sequence safe_chars[] = {
    {1, {0x20}, {0x21}},
    {1, {0x23}, {0x5b}},
    {1, {0x5d}, {0x7e}},
    {2, {0xc2, 0x80}, {0xdf, 0xbf}},
    {3, {0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}},
    {3, {0xe1, 0x80, 0x80}, {0xec, 0xbf, 0xbf}},
    {3, {0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}},
    {3, {0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}},
    {4, {0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}},
    {4, {0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}},
    {4, {0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}},
};
enum { SAFE_SEQUENCES = sizeof safe_chars / sizeof *safe_chars };

// The classes of a byte range, as a list.
typedef struct class_list {
    uint8_t count, classes[255];
} class_list;

struct tc_acceptor {
    tc_automaton *automaton;
    const tc_grammar *grammar;
    const tc_vocabulary *vocabulary;
    pthread_mutex_t mutex;
    tc_matcher *matchers;
    uint32_t matcher_count;
    class_list safe[SAFE_SEQUENCES][4];
    uint32_t *masks; // [MASK_SLOTS][words], reserved
    uint32_t slot_state[MASK_SLOTS], next_slot;
    uint64_t slot_generation;
    uint32_t *roots[TC_MATCHERS_MAX]; // for a collection
    tc_acceptor_stats stats;
};

static size_t masks_bytes(const tc_vocabulary *v)
{
    return (size_t)MASK_SLOTS * v->words * sizeof(uint32_t);
}

static void list_classes(const tc_grammar *g, uint8_t low, uint8_t high, class_list *ret)
{
    bool listed[256] = {false};
    for (uint32_t c = low; c <= high; c++) {
        if (listed[g->class_of[c]]) continue;
        listed[g->class_of[c]] = true;
        ret->classes[ret->count++] = g->class_of[c];
    }
}

tc_status tc_acceptor_create(const tc_grammar *grammar, const tc_vocabulary *vocabulary, tc_acceptor **ret,
                             tc_error *e)
{
    tc_acceptor *a = calloc(1, sizeof *a);
    if (!a) return tc_fail(e, TC_NOMEM, "out of memory for a constraint");
    a->grammar = grammar;
    a->vocabulary = vocabulary;
    pthread_mutex_init(&a->mutex, NULL);
    void *masks = mmap(NULL, masks_bytes(vocabulary) + 1, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    a->masks = masks == MAP_FAILED ? NULL : masks;
    tc_status status = a->masks ? tc_automaton_create(grammar, &a->automaton, e)
                                : tc_fail(e, TC_NOMEM, "out of memory for the masks of a constraint");
    if (status != TC_OK) {
        tc_acceptor_free(a);
        return status;
    }
    for (uint32_t i = 0; i < SAFE_SEQUENCES; i++)
        for (uint32_t k = 0; k < safe_chars[i].bytes; k++)
            list_classes(grammar, safe_chars[i].low[k], safe_chars[i].high[k], &a->safe[i][k]);
    *ret = a;
    return TC_OK;
}

void tc_acceptor_free(tc_acceptor *a)
{
    if (!a) return;
    tc_automaton_free(a->automaton);
    if (a->masks) munmap(a->masks, masks_bytes(a->vocabulary) + 1);
    pthread_mutex_destroy(&a->mutex);
    free(a);
}

// ---- room ----

// Drops every state but those of the matchers.
static bool collect(tc_acceptor *a)
{
    uint32_t n = 0;
    for (tc_matcher *m = a->matchers; m; m = m->next) a->roots[n++] = &m->state;
    a->stats.collections++;
    return tc_automaton_collect(a->automaton, a->roots, n);
}

static tc_status too_many(tc_error *e)
{
    return tc_fail(e, TC_LIMIT, "the constraint can be read in too many ways at once");
}

// ---- what any text does ----

// The one state that every text of the sequence leads to. DEAD: there is none; UNKNOWN: no room.
static uint32_t one_target(tc_acceptor *a, uint32_t state, uint32_t sequence_index)
{
    for (uint32_t k = 0; k < safe_chars[sequence_index].bytes; k++) {
        const class_list *list = &a->safe[sequence_index][k];
        uint32_t target = 0;
        for (uint32_t i = 0; i < list->count; i++) {
            uint32_t next = tc_automaton_step(a->automaton, state, list->classes[i]);
            if (next < TC_STATE_FIRST) return next;
            if (target && next != target) return TC_STATE_DEAD;
            target = next;
        }
        state = target;
    }
    return state;
}

// The state that any one safe character leads to. DEAD: not all of them may follow, or they differ.
static uint32_t safe_next(tc_acceptor *a, uint32_t state)
{
    tc_space *s = &a->automaton->spaces[a->automaton->now];
    if (s->states[state].safe_next) return s->states[state].safe_next;
    uint32_t target = 0;
    for (uint32_t i = 0; i < SAFE_SEQUENCES; i++) {
        uint32_t next = one_target(a, state, i);
        if (next == TC_STATE_UNKNOWN) return next;
        if (next == TC_STATE_DEAD || (target && next != target))
            return s->states[state].safe_next = TC_STATE_DEAD;
        target = next;
    }
    return s->states[state].safe_next = target;
}

// How many parts of the vocabulary (1..4) may follow as wholes. False: no room.
static bool safe_parts(tc_acceptor *a, uint32_t state, uint32_t *ret)
{
    uint32_t chars = 0, part = 0;
    while (part + 1 < TC_VOCABULARY_PARTS && chars < tc_vocabulary_part_chars[part + 1]) {
        uint32_t next = safe_next(a, state);
        if (next == TC_STATE_UNKNOWN) return false;
        if (next == TC_STATE_DEAD) break;
        if (next == state) {
            part = TC_VOCABULARY_PARTS - 1;
            break;
        }
        state = next;
        if (++chars == tc_vocabulary_part_chars[part + 1]) part++;
    }
    *ret = part;
    return true;
}

// ---- masks ----

static bool walk(tc_automaton *a, const tc_trie *trie, uint32_t state, uint32_t *mask)
{
    uint32_t path[TC_GRAMMAR_TOKEN_BYTES_MAX + 1];
    const uint8_t *class_of = a->grammar->class_of;
    path[0] = state;
    for (uint32_t i = 0; i < trie->node_count;) {
        const tc_trie_node *n = &trie->nodes[i];
        uint32_t next = tc_automaton_step(a, path[n->depth - 1], class_of[n->byte]);
        if (next == TC_STATE_DEAD) {
            i = n->skip;
            continue;
        }
        if (next == TC_STATE_UNKNOWN) return false;
        path[n->depth] = next;
        for (uint32_t k = 0; k < n->tokens; k++) {
            uint32_t id = trie->tokens[n->token + k];
            mask[id >> 5] |= 1u << (id & 31);
        }
        i++;
    }
    return true;
}

static bool compute(tc_acceptor *a, uint32_t state, uint32_t *mask)
{
    const tc_vocabulary *v = a->vocabulary;
    uint32_t parts;
    if (!safe_parts(a, state, &parts)) return false;
    memcpy(mask, v->upto[parts], v->words * sizeof *mask);
    if (!walk(a->automaton, &v->parts[0], state, mask)) return false;
    for (uint32_t k = parts + 1; k < TC_VOCABULARY_PARTS; k++)
        if (!walk(a->automaton, &v->parts[k], state, mask)) return false;
    return true;
}

// The kept mask of a state, computed when it is not there. NULL: no room in the automaton.
static const uint32_t *mask_of(tc_acceptor *a, uint32_t state)
{
    tc_automaton *auto_ = a->automaton;
    if (a->slot_generation != auto_->generation) {
        memset(a->slot_state, 0, sizeof a->slot_state);
        a->slot_generation = auto_->generation;
    }
    state = tc_automaton_twin(auto_, state, TC_GRAMMAR_TOKEN_BYTES_MAX);
    if (state == TC_STATE_UNKNOWN) return NULL;
    tc_state *states = auto_->spaces[auto_->now].states;
    if (states[state].mask_slot)
        return a->masks + (size_t)(states[state].mask_slot - 1) * a->vocabulary->words;
    uint32_t slot = a->next_slot;
    uint32_t *mask = a->masks + (size_t)slot * a->vocabulary->words;
    if (a->slot_state[slot]) states[a->slot_state[slot]].mask_slot = 0;
    a->slot_state[slot] = 0;
    a->stats.computed++;
    if (!compute(a, state, mask)) return NULL;
    a->slot_state[slot] = state;
    states[state].mask_slot = slot + 1;
    a->next_slot = (slot + 1) % MASK_SLOTS;
    return mask;
}

tc_status tc_matcher_mask(tc_matcher *m, uint32_t *mask, bool *ret_may_end, tc_error *e)
{
    tc_acceptor *a = m->acceptor;
    tc_status status = TC_OK;
    pthread_mutex_lock(&a->mutex);
    a->stats.masks++;
    const uint32_t *kept = mask_of(a, m->state);
    if (!kept && a->automaton->full && collect(a)) kept = mask_of(a, m->state);
    if (!kept) TC_GOTO(too_many(e));
    memcpy(mask, kept, a->vocabulary->words * sizeof *mask);
    *ret_may_end = tc_automaton_state(a->automaton, m->state)->final;
out:
    pthread_mutex_unlock(&a->mutex);
    return status;
}

// ---- matchers ----

tc_status tc_matcher_begin(tc_matcher *m, tc_acceptor *a, tc_error *e)
{
    tc_status status = TC_OK;
    *m = (tc_matcher){0};
    pthread_mutex_lock(&a->mutex);
    if (a->matcher_count == TC_MATCHERS_MAX)
        TC_GOTO(tc_fail(e, TC_LIMIT, "more than %d answers of one constraint", TC_MATCHERS_MAX));
    uint32_t state = tc_automaton_start(a->automaton);
    if (state == TC_STATE_UNKNOWN && a->automaton->full && collect(a))
        state = tc_automaton_start(a->automaton);
    if (state == TC_STATE_UNKNOWN) TC_GOTO(too_many(e));
    *m = (tc_matcher){.acceptor = a, .state = state, .next = a->matchers};
    if (m->next) m->next->previous = m;
    a->matchers = m;
    a->matcher_count++;
out:
    pthread_mutex_unlock(&a->mutex);
    return status;
}

void tc_matcher_end(tc_matcher *m)
{
    tc_acceptor *a = m->acceptor;
    if (!a) return;
    pthread_mutex_lock(&a->mutex);
    if (m->previous)
        m->previous->next = m->next;
    else
        a->matchers = m->next;
    if (m->next) m->next->previous = m->previous;
    a->matcher_count--;
    pthread_mutex_unlock(&a->mutex);
    *m = (tc_matcher){0};
}

static uint32_t run(tc_automaton *a, uint32_t state, const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n && state >= TC_STATE_FIRST; i++)
        state = tc_automaton_step(a, state, a->grammar->class_of[bytes[i]]);
    return state;
}

tc_status tc_matcher_take(tc_matcher *m, uint32_t token, bool *ret_must_end, tc_error *e)
{
    tc_acceptor *a = m->acceptor;
    tc_status status = TC_OK;
    uint32_t n;
    const uint8_t *bytes = tc_vocabulary_token(a->vocabulary, token, &n);
    if (n == 0) return tc_fail(e, TC_ARGUMENT, "token %u is not text", token);
    pthread_mutex_lock(&a->mutex);
    uint32_t next = run(a->automaton, m->state, bytes, n);
    if (next == TC_STATE_UNKNOWN && a->automaton->full && collect(a))
        next = run(a->automaton, m->state, bytes, n);
    if (next == TC_STATE_UNKNOWN) TC_GOTO(too_many(e));
    if (next == TC_STATE_DEAD) TC_GOTO(tc_fail(e, TC_ARGUMENT, "token %u may not follow", token));
    m->state = next;
    *ret_must_end = tc_automaton_state(a->automaton, next)->count == 0;
out:
    pthread_mutex_unlock(&a->mutex);
    return status;
}

bool tc_matcher_may_end(const tc_matcher *m)
{
    tc_acceptor *a = m->acceptor;
    pthread_mutex_lock(&a->mutex);
    bool final = tc_automaton_state(a->automaton, m->state)->final;
    pthread_mutex_unlock(&a->mutex);
    return final;
}

tc_acceptor_stats tc_acceptor_get_stats(tc_acceptor *a)
{
    pthread_mutex_lock(&a->mutex);
    tc_acceptor_stats stats = a->stats;
    stats.states = a->automaton->spaces[a->automaton->now].state_count;
    pthread_mutex_unlock(&a->mutex);
    return stats;
}

size_t tc_acceptor_bytes(tc_acceptor *a)
{
    pthread_mutex_lock(&a->mutex);
    uint64_t masks = a->stats.computed < MASK_SLOTS ? a->stats.computed : MASK_SLOTS;
    size_t bytes = sizeof *a + tc_automaton_bytes(a->automaton) +
                   (size_t)masks * a->vocabulary->words * sizeof(uint32_t);
    pthread_mutex_unlock(&a->mutex);
    return bytes;
}
