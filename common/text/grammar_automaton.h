// SPDX-License-Identifier: Apache-2.0
// Owns: running a program: sets of (node, stack) pairs as states of a deterministic automaton that is made as
// far as it is walked. Stacks, states and transitions are each kept once, in memory reserved at creation;
// when it is full everything but the states in use is dropped and made again. Internal to common/text.
//
//   step: state x byte class -> state, from the table, or by following every pair and closing over the nodes
//   that take no byte
//
// Refuses: constraints that can be read in too many ways at once (LIMIT, while running). One thread at a
// time.
#pragma once

#include "common/text/grammar_program.h"

enum {
    TC_STATE_UNKNOWN, // in a transition: not made yet; as a result: no room or too many ways
    TC_STATE_DEAD,
    TC_STATE_FIRST,
};

// Limits of one automaton, each named once.
enum {
    TC_STATES_MAX = 1 << 14,
    TC_STATE_ITEMS_MAX = 1 << 12,     // pairs of one state: ways to read the text so far
    TC_AUTOMATON_ITEMS_MAX = 1 << 19, // of all states
    TC_AUTOMATON_FRAMES_MAX = 1 << 18,
};

typedef struct tc_item {
    uint32_t node, stack; // a SET node, and the frames below it
} tc_item;

typedef struct tc_state {
    uint32_t first, count; // items
    uint32_t hash;
    uint32_t safe_next; // see grammar_mask.c; 0: not known
    uint32_t mask_twin; // the state whose mask this state's is; 0: not known
    uint32_t mask_slot; // + 1; 0: none
    bool final;         // the text may end here
} tc_state;

typedef struct tc_frame {
    uint32_t node, count, parent; // a CALL or LOOP node; iterations begun
    uint16_t depth;
} tc_frame;

typedef struct tc_space {
    tc_frame *frames;
    tc_item *items;
    tc_state *states;
    uint32_t *steps; // [states][classes]
    uint32_t *frame_table, *state_table;
    uint32_t frame_count, item_count, state_count;
    size_t touched_bytes; // most that was ever in use
} tc_space;

typedef struct tc_walker tc_walker; // scratch of one closure

typedef struct tc_automaton {
    const tc_grammar *grammar;
    tc_space spaces[2];
    uint32_t now; // the space in use
    bool full;    // the last UNKNOWN came from want of room: tc_automaton_collect helps
    tc_walker *walker;
    uint64_t generation; // grows when states are renumbered
} tc_automaton;

tc_status tc_automaton_create(const tc_grammar *grammar, tc_automaton **ret, tc_error *e);
void tc_automaton_free(tc_automaton *a);
size_t tc_automaton_bytes(tc_automaton *a);   // memory written to so far
uint32_t tc_automaton_start(tc_automaton *a); // UNKNOWN: see below
// UNKNOWN: no room (a->full), or too many ways to read the text (not full).
uint32_t tc_automaton_step_slow(tc_automaton *a, uint32_t state, uint32_t class);
// Keeps the n states named and renumbers them in place; everything else is dropped.
bool tc_automaton_collect(tc_automaton *a, uint32_t **states, uint32_t n);
// The state with its counters moved to where they act alike for `bytes` more bytes. UNKNOWN as above.
uint32_t tc_automaton_twin(tc_automaton *a, uint32_t state, uint32_t bytes);

static inline const tc_state *tc_automaton_state(const tc_automaton *a, uint32_t state)
{
    return &a->spaces[a->now].states[state];
}

static inline uint32_t tc_automaton_step(tc_automaton *a, uint32_t state, uint32_t class)
{
    uint32_t next = a->spaces[a->now].steps[(size_t)state * a->grammar->class_count + class];
    return __builtin_expect(next != TC_STATE_UNKNOWN, 1) ? next : tc_automaton_step_slow(a, state, class);
}
