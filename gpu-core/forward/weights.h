// SPDX-License-Identifier: Apache-2.0
// Owns: the dense weights of a model on a device: everything but the routed experts.
// Refuses: routed experts (experts/), sessions.
#pragma once

#include "gpu-core/dev/dev.h"

typedef struct tc_mlp {
    tc_matrix gate, up, down;
} tc_mlp;

typedef struct tc_layer_weights {
    tc_layer_kind kind;
    uint32_t kind_index; // index among the layers of this kind
    float *input_norm, *post_norm;
    // full attention
    tc_matrix q, k, v, o;
    float *q_norm, *k_norm, *q_bias, *k_bias, *v_bias, *o_bias, *sinks;
    uint32_t window; // 0: all positions
    // latent attention: q is the whole projection or, behind q_a, its second half; k_norm is of the latent
    tc_matrix q_a, kv_a, key_up,
        value_up; // kv_b as [heads * kv_rank][nope], and [heads * value_dim][kv_rank]
    float *q_a_norm, *q_a_bias, *kv_a_bias;
    // Gated DeltaNet: qkvz and ba, or qkv, z, b, a
    tc_matrix qkvz, ba, dn_z, dn_a, dn_out;
    float *conv, *neg_exp_a, *dt_bias, *dn_norm;
    // experts or dense MLP
    bool moe;
    tc_matrix router, shared_router;
    float *router_bias, *router_correction;
    float *expert_bias; // [experts][hidden], of the down projections
    tc_mlp mlp;         // shared expert, or the dense MLP
} tc_layer_weights;

typedef struct tc_weights {
    tc_dev *dev;
    tc_model_desc desc_copy;
    const tc_model_desc *desc; // = &desc_copy
    tc_matrix embed, head;     // head shares embed's data when tied
    float *final_norm;
    tc_layer_weights *layer;
    uint64_t bytes;
} tc_weights;

// What a 16- or 32-bit output head becomes when it is loaded; one that is quantised already is kept. A tied
// head becomes a matrix of its own beside the embedding.
typedef enum tc_output { TC_OUTPUT_KEEP, TC_OUTPUT_NF4, TC_OUTPUT_INT8, TC_OUTPUT_BF16 } tc_output;

// Reads, packs and places all dense weights; several at a time on the team. progress may be NULL.
tc_status tc_weights_load(const tc_checkpoint *checkpoint, tc_dev *dev, tc_team *team, tc_output head,
                          void (*progress)(void *arg, uint32_t done, uint32_t total), void *arg,
                          tc_weights **ret, tc_error *e);
void tc_weights_free(tc_weights *weights); // NULL and half-built are legal

// Geometry of the device for a model. positions_max, pages and slots are the caller's to set.
void tc_weights_geometry(const tc_model_desc *desc, tc_dev_geometry *ret);
