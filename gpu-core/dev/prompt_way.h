// SPDX-License-Identifier: Apache-2.0
// Owns: in which of three ways a batch of a prompt's tokens gets its cold experts, by how long batches of
// such a size took in each. Numbers only. Refuses: clocks, and to know which ways there are (cuda/experts.c).
//
//   link    the decode path: link and workers share the experts that the batch chose, layer by layer
//   stream  all of them over the link, copies queued far ahead of their layers
//   share   the same, but the host waits for a layer's routes and gives workers those with the fewest tokens
//
// Whole batches are timed, because what lies between two layers decides: in the first and the last way the
// link waits for routes, in the second it never does. A way is believed by its best, a slower batch counts by
// an eighth, so that one that was held up does not condemn it; all but the fastest are tried again now and
// then.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TC_PROMPT_LINK_SURE = 64,  // tokens of a batch: up to so many go the link's way, where there is one,
    TC_PROMPT_LINK_LEAST = 64, // as who configures it may say from here on,
    TC_PROMPT_LINK_MOST = 256, // and above this none (TC_QUEUED_TOKENS_MAX)
    TC_PROMPT_SIZES = 12,      // of batches, half an octave each, from 64 tokens on
    TC_PROMPT_TRIES = 2,       // of each way, before they are compared
    TC_PROMPT_AGAIN = 64,      // every so many batches of a size another way than the fastest
};

typedef enum tc_prompt_way { TC_WAY_SHARE, TC_WAY_STREAM, TC_WAY_LINK, TC_PROMPT_WAYS } tc_prompt_way;

typedef struct tc_prompt_ways { // zeros: nothing is known
    struct {
        double us[TC_PROMPT_WAYS];
        uint32_t tries[TC_PROMPT_WAYS], batches;
        uint32_t told; // 1 + the way that was told to be the fastest
    } size[TC_PROMPT_SIZES];
} tc_prompt_ways;

// allowed: a bit a way, not 0.
tc_prompt_way tc_prompt_way_choose(tc_prompt_ways *ways, uint32_t tokens, uint32_t allowed);
// True: what is the fastest for such a size has become known, or is another one now; text then says so.
bool tc_prompt_way_learn(tc_prompt_ways *ways, uint32_t tokens, tc_prompt_way way, double us, char *text,
                         size_t bytes);
