// SPDX-License-Identifier: Apache-2.0
// Owns: up to how many tokens a batch takes the decode path (link and workers share the experts that it
// chose) before streaming all cold experts is as fast, as measured rates tell. Numbers only. Refuses: to
// measure (experts/border.c, cuda/prompt.c).
#pragma once

#include <stdint.h>

enum {
    TC_PROMPT_BORDER = 192, // where nothing was measured
    TC_PROMPT_BORDER_LEAST = 64,
    TC_PROMPT_BORDER_MOST = 256, // TC_QUEUED_TOKENS_MAX
};

// Of one expert.
typedef struct tc_border_rates {
    double copy_us;    // over the link
    double product_us; // multiplied by the card with a batch of about the border's size
    double expert_us;  // at the workers, all of them together: for its weights,
    double pair_us;    // and for each of its tokens
} tc_border_rates;

// A call of the workers that was timed.
typedef struct tc_border_call {
    uint32_t experts, pairs;
    double us;
} tc_border_call;

typedef struct tc_border_shape {
    uint32_t experts, cold, top_k; // cold: of the experts, those outside VRAM
} tc_border_shape;

// The workers' two rates out of a small call and a large one; neither below 0.
void tc_border_learn(tc_border_rates *rates, const tc_border_call *small, const tc_border_call *large);
// What a layer takes for n tokens, streamed, or shared.
double tc_border_streamed_us(const tc_border_rates *rates, const tc_border_shape *shape);
double tc_border_shared_us(const tc_border_rates *rates, const tc_border_shape *shape, uint32_t tokens);
// The most tokens that are no slower shared than streamed, TC_PROMPT_BORDER_LEAST..TC_PROMPT_BORDER_MOST.
uint32_t tc_border_choose(const tc_border_rates *rates, const tc_border_shape *shape);
