// SPDX-License-Identifier: Apache-2.0
// Owns: the memory plan: what of a model goes where under one budget for VRAM and one for RAM, what is left,
// how fast a token should be, or why it cannot fit and the nearest setting that does. Arithmetic only.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum { TC_PLAN_TEXT_BYTES = 400 };

// What goes by context and users, and by how large the batches are that so much memory allows: the core's own
// sums (gpu-core/budget.h).
typedef struct tc_plan_needs {
    uint64_t kv_bytes, state_bytes, scratch_bytes; // where the dense weights are
    uint64_t driver_bytes;                         // of VRAM: the driver's own, and what stays free for it
    uint64_t host_scratch_bytes;                   // of RAM beside a GPU
    uint64_t constraints_bytes;                    // of RAM
    uint32_t batch_tokens;
} tc_plan_needs;
typedef void tc_plan_needs_fn(const void *arg, uint32_t context, uint32_t users, uint64_t vram_bytes,
                              uint64_t ram_bytes, tc_plan_needs *ret);

typedef struct tc_plan_input {
    // the model
    uint64_t dense_bytes, expert_bytes, experts;
    tc_plan_needs_fn *needs;
    const void *arg;
    uint64_t embedding_bytes; // in RAM beside a GPU, and no part of dense_bytes then; else 0
    bool cold_only;           // a GPU cannot hold these experts
    uint64_t token_dense_bytes, token_expert_bytes; // what a decoded token reads
    uint32_t max_positions;
    // the wish
    uint64_t vram_bytes, ram_bytes; // vram 0: no GPU
    uint32_t context, users;
    // what the machine can, bytes a microsecond; and what a step costs beside reading
    double vram_speed, ram_speed, step_us;
} tc_plan_input;

typedef struct tc_memory_plan {
    bool fits;
    // VRAM, with a GPU; else all of it in RAM
    uint64_t dense_bytes, hot_bytes, vram_left_bytes;
    uint64_t hot_experts;
    tc_plan_needs needs;
    // RAM
    uint64_t experts_bytes, programs_bytes, prefix_bytes, ram_left_bytes;
    double hit_rate, token_us;        // expected, of one user
    char reason[TC_PLAN_TEXT_BYTES];  // why not; empty: it fits
    char nearest[TC_PLAN_TEXT_BYTES]; // a setting that does
    // of the nearest setting; what was wished where it fits
    uint32_t context, users;
    uint64_t vram_bytes, ram_bytes;
} tc_memory_plan;

// Share of routed experts found hot when `share` of them is: as measured on generated routes
// (docs/PERFORMANCE.md).
double tc_plan_hit_rate(double share);
// TC_ARGUMENT: a number that makes no sense.
tc_status tc_plan_memory(const tc_plan_input *input, tc_memory_plan *ret, tc_error *e);
