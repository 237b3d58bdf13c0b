// SPDX-License-Identifier: Apache-2.0
// Owns: the experts in VRAM: what the placement orders becomes copies and table entries of the cuda device,
// between batches. Refuses: to decide (common/placement, placement.h), to copy (gpu-core/dev/cuda).
#pragma once

#include "gpu-core/dev/cuda/cuda.h"
#include "gpu-core/experts/placement.h"

typedef struct tc_gpu_tier tc_gpu_tier;

typedef struct tc_gpu_tier_options {
    const tc_cuda_library *cuda;
    tc_dev *dev;
    const tc_store *store;
    uint32_t wanted; // slots at most; the device's budget may leave fewer
    tc_cache_policy policy;
    bool per_layer;
    double link_share;
} tc_gpu_tier_options;

// Takes what the device's budget leaves. *ret NULL: no slot fits, or the experts' form is not the device's.
// All is borrowed and outlives the tier.
tc_status tc_gpu_tier_create(const tc_gpu_tier_options *options, tc_gpu_tier **ret, tc_error *e);
void tc_gpu_tier_free(tc_gpu_tier *tier); // NULL is legal
tc_hot_cache *tc_gpu_tier_cache(tc_gpu_tier *tier);
uint64_t tc_gpu_tier_bytes(const tc_gpu_tier *tier);
// For the placement: orders and changes go to the device.
tc_hot_tier tc_gpu_tier_orders(tc_gpu_tier *tier);
// Before a step: orders that had to wait are given, copies that are done are told to the cache.
void tc_gpu_tier_poll(tc_gpu_tier *tier);
// Between steps, after slots were given up: nothing is on its way there any more. Waits for copies under way.
void tc_gpu_tier_settle(tc_gpu_tier *tier);
// When nothing else is to be done: fills free slots with experts that nobody asked for yet, the same number
// of each layer, so that prompts have less to stream. True: it did something.
bool tc_gpu_tier_idle(tc_gpu_tier *tier);

// Benchmarks: fills the slots with experts [0, slots / layers) of each layer, waits, and lets nothing change
// from then on. Returns how many of each layer are hot.
uint32_t tc_gpu_tier_fill_evenly(tc_gpu_tier *tier);
// A tc_forward_force_fn for benchmarks: after that, `percent` of the routes go to hot experts and the rest to
// cold ones, all alike likely. Of what is said to be expected of a layer, `recall` percent come true; what
// does not is drawn as the routes are.
typedef struct tc_dialled_routes {
    uint32_t layers, experts, top_k, hot, percent, recall;
    uint64_t state; // of the random numbers; not 0
} tc_dialled_routes;
void tc_dialled_routes_fill(void *routes, uint32_t *experts, uint32_t tokens);
