// SPDX-License-Identifier: Apache-2.0
// Owns: how the core's options become a hot tier and a placement, and which parts of both there are. Refuses:
// what they do (experts/placement.h, experts/source_hot.h).
#pragma once

#include "common/base/team.h"
#include "gpu-core/experts/gpu_tier.h"
#include "gpu-core/experts/source.h"
#include "gpu-core/options.h"

typedef struct tc_placed {
    tc_hot_cache *cache; // NULL: no hot tier
    bool borrowed;       // the cache is the GPU tier's
    tc_placement *placement;
    uint64_t hot_bytes; // of the tier at its largest
} tc_placed;

// Puts a hot tier before *source where the options want one, or takes the GPU's (NULL: none), and makes the
// placement. tokens_max: of a batch.
tc_status tc_placed_open(const tc_core_options *options, const tc_model_desc *desc, const char *model_hash,
                         const tc_store *store, tc_team *team, uint32_t tokens_max, tc_expert_source **source,
                         tc_gpu_tier *gpu, tc_placed *ret, tc_error *e);
// The placement, which orders from the tier: before the source is freed. Then the cache, after it.
void tc_placed_stop(tc_placed *placed);
void tc_placed_close(tc_placed *placed);
