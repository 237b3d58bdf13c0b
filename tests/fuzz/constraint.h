// SPDX-License-Identifier: Apache-2.0
// Owns: the fuzz target of one source of constraints, chosen by TC_FUZZ_KIND. What compiles must run: a
// random walk takes only bytes that the automaton offers, never gets stuck, and a text that ends is a member
// for the plain matcher.
#pragma once

#include "common/text/grammar_automaton.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS = 64 };

static void walk(const tc_grammar *g, uint64_t random)
{
    tc_automaton *a = NULL;
    tc_error e;
    char text[STEPS];
    uint32_t n = 0;
    if (tc_automaton_create(g, &a, &e) != TC_OK) abort();
    uint32_t state = tc_automaton_start(a);
    while (state >= TC_STATE_FIRST && n < STEPS) {
        uint32_t chosen = 256, next = TC_STATE_DEAD, offered = 0;
        for (uint32_t byte = 0; byte < 256 && chosen != 257; byte++) {
            uint32_t to = tc_automaton_step(a, state, g->class_of[byte]);
            if (to == TC_STATE_UNKNOWN) chosen = 257; // too many ways: a clean end
            if (to < TC_STATE_FIRST) continue;
            random = random * 6364136223846793005u + 1442695040888963407u;
            if ((random >> 33) % ++offered == 0) chosen = byte, next = to;
        }
        bool final = tc_automaton_state(a, state)->final, member = false;
        if (chosen == 257) break;
        if (!offered && !final) abort(); // stuck
        if (final && tc_grammar_match(g, text, n, &member, &e) == TC_OK && !member) abort();
        if (!offered) break;
        text[n++] = (char)chosen;
        state = next;
    }
    tc_automaton_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tc_grammar *g = NULL;
    tc_error e;
    char *text = malloc(size + 1); // of its exact size, for the sanitizer
    memcpy(text, data, size);
    const tc_constraint c = {TC_FUZZ_KIND, text, size};
    tc_status status = tc_grammar_compile(&c, &g, &e);
    free(text);
    if (status == TC_OK)
        walk(g, size);
    else if (status != TC_ARGUMENT && status != TC_UNSUPPORTED && status != TC_LIMIT)
        abort();
    tc_grammar_free(g);
    return 0;
}
