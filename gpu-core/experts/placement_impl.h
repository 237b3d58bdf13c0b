// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of placement share. Refuses: to be included elsewhere.
#pragma once

#include "gpu-core/experts/placement.h"
#include <pthread.h>

enum { LEARNED, SEEN }; // uses that the cache learns from, and those it only counts

struct tc_placement {
    tc_placement_options o;
    uint32_t n; // layers * experts
    uint32_t moe_layers;
    tc_profile *profile;
    tc_footprints *footprints;
    tc_routing_writer *trace;
    uint32_t *counts[2], *touched[2], touched_count[2]; // by index, of the step being noted
    uint32_t tokens, segments;                          // of the step being noted
    tc_expert_use *uses;                                // [n]
    tc_cache_fill *fills;                               // [TC_FILLS_MAX]
    float *rates;                                       // [n]
    uint32_t *order;                                    // [n] by rate
    uint16_t *pin_users;                                // [n] requests that pin it
    bool *operator_pins;                                // [n]
    bool enabled, trim_due;
    uint32_t wished_slots;  // what the operator set; 0: all
    uint32_t sampling_left; // tokens until the profile is given to the cache again
    // looking ahead (placement_ahead.c): what layers to come are expected to choose in the pass under way
    int32_t *expected; // [tokens_max][layers][top_k], -1: nothing was said; NULL: nobody can look ahead
    tc_expert_use *ahead;
    uint32_t *ahead_counts;           // [experts]
    bool step_learns, looks, fetches; // in this pass
    bool reaches; // in this pass: fills that are done come into the table when their layer is looked up
    uint64_t expected_pairs, expected_true; // (token, layer, choice) that something was expected of
    uint64_t ns, sheds;
    uint64_t pairs, reads_shared; // pairs of the step being noted; reads that segments of a step shared
    tc_layer_lookups lookups[TC_DETAIL_LAYERS_MAX]; // pairs, by where the expert was
    // saving: `packed` is the thread's while packed_full
    void *packed;
    uint64_t packed_bytes, saved_us;
    bool packed_full, ends, has_thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
};

// placement_ahead.c
tc_status tc_placement_ahead_create(tc_placement *placement, tc_error *e);
void tc_placement_ahead_free(tc_placement *placement);
const int32_t *tc_placement_expected_of(const tc_placement *placement, uint32_t first); // NULL: nothing
void tc_placement_count_true(tc_placement *placement, uint32_t tokens, const int32_t *chosen,
                             const int32_t *expected);

void tc_placement_tell_changes(tc_placement *placement);
// Gives the profile to the cache, and announces the hottest.
void tc_placement_prime(tc_placement *placement);
