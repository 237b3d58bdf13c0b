// SPDX-License-Identifier: Apache-2.0
// Owns: the experts in VRAM: what the cache decides becomes copies and table entries of the device, between
// batches. Refuses: to decide (common/placement), to copy (gpu-core/dev/cuda).
#pragma once

#include "common/placement/hot_cache.h"
#include "gpu-core/dev/cuda/cuda.h"

typedef struct tc_hot_tier tc_hot_tier;

// Takes what the device's budget leaves, at most `wanted` slots. *ret NULL: no slot fits, or the experts'
// form is not the device's. All is borrowed and outlives the tier.
tc_status tc_hot_tier_create(const tc_cuda_library *cuda, tc_dev *dev, const tc_store *store, uint32_t wanted,
                             tc_hot_tier **ret, tc_error *e);
void tc_hot_tier_free(tc_hot_tier *tier); // NULL is legal
// A tc_forward_watch_fn: after each pass.
void tc_hot_tier_step(void *tier, const tc_expert_use *uses, uint32_t count, uint32_t tokens);
// When nothing else is to be done: fills free slots with experts that nobody asked for yet, the same number
// of each layer, so that prompts have less to stream. True: it did something.
bool tc_hot_tier_idle(tc_hot_tier *tier);
tc_hot_cache *tc_hot_tier_cache(tc_hot_tier *tier);
// Fills the first slots with experts [0, slots / layers) of each layer and waits; for benchmarks. Returns how
// many of each layer are hot then.
uint32_t tc_hot_tier_fill_evenly(tc_hot_tier *tier);

// A tc_forward_force_fn for benchmarks: after fill_evenly, `percent` of the routes go to hot experts and the
// rest to cold ones, all alike likely.
typedef struct tc_dialled_routes {
    uint32_t layers, experts, top_k, hot, percent;
    uint64_t state; // of the random numbers; not 0
} tc_dialled_routes;
void tc_dialled_routes_fill(void *routes, uint32_t *experts, uint32_t tokens);
