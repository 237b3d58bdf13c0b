// SPDX-License-Identifier: Apache-2.0
// Owns: counting a model's bytes: what is dense, what are experts, what a token has to read, what a session
// holds.
#pragma once

#include "common/model/checkpoint.h"
#include "common/model/dense.h"

typedef enum tc_part {
    TC_PART_EMBEDDING,
    TC_PART_HEAD,
    TC_PART_ATTENTION,
    TC_PART_DELTA,
    TC_PART_ROUTER,
    TC_PART_SHARED,
    TC_PART_MLP,
    TC_PART_EXPERTS,
    TC_PART_NORMS,
    TC_PART_OTHER, // ignored when serving (multi-token prediction heads, for example)
    TC_PARTS
} tc_part;

typedef struct tc_footprint {
    uint64_t tensors[TC_PARTS], bytes[TC_PARTS]; // as stored in the checkpoint
    uint64_t quantised_tensors;                  // linears with a 4-bit state
    uint32_t moe_layers;
    tc_dense_bytes dense;         // as a core holds them
    uint64_t dense_bytes;         // together
    uint64_t expert_bytes;        // one packed expert (of the first layer that has experts)
    uint64_t experts_bytes;       // all of them, packed
    uint32_t unit;                // of width, in which they are cut
    bool expert_on_gpu;           // a GPU can hold them: 4 bits, a scale for 64 columns
    uint64_t token_dense_bytes;   // dense bytes a decoded token reads: no embedding table but its one row
    uint64_t token_experts_bytes; // top_k experts in each MoE layer
    uint64_t kv_position_bytes, state_bytes;
    uint64_t token_multiply_adds; // of a token's linears: attention, routers, its experts; no head
    uint64_t head_multiply_adds, expert_multiply_adds; // of the head; of one expert
    tc_matrix_type expert_matrix;                      // of its gate
    const char *expert_type;                           // how packed experts are held: "nf4", "bf16", ...
} tc_footprint;

extern const char *const tc_part_names[TC_PARTS];

// A token's dense bytes when the head becomes `head` ("nf4", "int8", "bf16"; NULL or "keep": as it is).
void tc_footprint_head(tc_footprint *footprint, const tc_model_desc *desc, const char *head);

// `quantise`: as packing with that option would make the experts.
tc_status tc_footprint_of(const tc_checkpoint *checkpoint, tc_quantise quantise, tc_footprint *ret,
                          tc_error *e);
