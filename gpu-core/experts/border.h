// SPDX-License-Identifier: Apache-2.0
// Owns: measuring at start what the border between the two ways of a GPU's batch follows from
// (dev/prompt_border.h): two calls of the workers, on random tokens that choose evenly, and the card's own
// two rates. Refuses: anything while a step runs.
#pragma once

#include "gpu-core/dev/cuda/cuda.h"
#include "gpu-core/experts/source.h"

typedef struct tc_border_options {
    const tc_cuda_hot_ops *ops;
    tc_dev *dev;
    tc_expert_source *source; // of workers
    const tc_store *store;
    uint32_t slots;     // hot experts, of all layers
    uint64_t budget_us; // measuring begins nothing that would end behind it; 0: 300 ms
} tc_border_options;

typedef struct tc_border_measured {
    uint32_t tokens; // the border
    double copy_us, product_us, expert_us, pair_us;
    uint64_t us; // that it took
} tc_border_measured;

// Once the experts' memory is known to the card and every worker is here: measures, sets the device's border
// and says so in one line, or why it stays as it is. False: not yet.
bool tc_border_at_rest(const tc_border_options *options,
                       void (*log)(void *arg, bool warning, const char *text), void *arg);
// TC_NOT_FOUND: the card's part is not to be had now; TC_TIMEOUT: not within the budget; or why a call
// failed.
tc_status tc_border_measure(const tc_border_options *options, tc_border_measured *ret, tc_error *e);
