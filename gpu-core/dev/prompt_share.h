// SPDX-License-Identifier: Apache-2.0
// Owns: which of a layer's cold experts workers compute for a prompt while the others are streamed, so that
// link and workers end together, and learning the rates that this follows from, layer by layer. Numbers only.
// Refuses: to stream, to ask (cuda/prompt.c); clocks.
//
// What a layer takes, link and workers working at once:
//
//   link     max(lead_us, link_us * ahead) + link_us * (others that cross it) + join_us
//                                                                     join: the workers' sums cross it too
//   workers  lead_us + ASK_US + unit_us * (units of the box with most of them)
//
// A unit of work is a token of an expert; reading the expert's weights counts as WEIGHTS_UNITS more. The link
// streams whole experts, so those with the fewest tokens are the ones that a CPU takes over most cheaply.
// lead_us passes between a layer's sums and the next layer's routes: the link has the experts that run ahead
// to carry then, the workers have nothing to do.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { TC_PROMPT_BOXES_MAX = 8, TC_PROMPT_NOBODY = 0xff };

typedef struct tc_prompt_rates {
    double link_us; // of an expert over the link
    double unit_us; // of a unit of work
    double lead_us;
    bool seen; // workers have answered: unit_us is theirs, not a guess
} tc_prompt_rates;

typedef struct tc_prompt_layer {
    uint32_t experts, boxes;
    const uint32_t *tokens; // [experts] that chose it
    const uint8_t *box; // [experts] whose worker may compute it; TC_PROMPT_NOBODY: it is hot, or on its way
    uint32_t streamed;  // experts that cross the link whatever is chosen here
    uint32_t ahead;     // of them, those that do before the layer's routes are known
    double join_us;
} tc_prompt_layer;

typedef struct tc_prompt_seen {
    uint32_t copied; // experts over the link, one after the other, and how long that took
    double copied_us;
    double lead_us;    // 0: not seen
    double units;      // of the box with most of them; 0: nobody was asked
    double compute_us; // what the slowest worker said it took
} tc_prompt_seen;

// A first guess, for experts of so many bytes.
tc_prompt_rates tc_prompt_guess(uint64_t expert_bytes);
void tc_prompt_learn(tc_prompt_rates *rates, const tc_prompt_seen *seen);
// given [experts]: whether workers compute it, never one that nobody chose. order [experts]: scratch. Returns
// how many they are: 0 where sharing does not pay; ret_units: of the box with most.
uint32_t tc_prompt_choose(const tc_prompt_rates *rates, const tc_prompt_layer *layer, uint16_t *order,
                          uint8_t *given, double *ret_units);
// The same with this part of those that may be given, whatever the rates are.
uint32_t tc_prompt_choose_part(uint32_t percent, const tc_prompt_layer *layer, uint16_t *order,
                               uint8_t *given, double *ret_units);
// What the layer takes with so many experts streamed in all and such a box.
double tc_prompt_layer_us(const tc_prompt_rates *rates, const tc_prompt_layer *layer, uint32_t streamed,
                          double units);
