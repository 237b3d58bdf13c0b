// SPDX-License-Identifier: Apache-2.0
// Owns: the description of a model as data. A family (qwen3_next, qwen3_moe) is one small file that reads
// config.json into tc_model_desc and gives the tensor name of each role; everything after that is generic.
// Equations and names: docs/MODEL.md.
// Refuses: weights (checkpoint.h), packed experts (store.h).
#pragma once

#include "common/base/status.h"
#include <stdint.h>

// Every number from config.json is checked against these before anything is multiplied or allocated.
enum {
    TC_LAYERS_MAX = 256,
    TC_HIDDEN_MAX = 16384,
    TC_VOCAB_MAX = 1 << 20,
    TC_HEADS_MAX = 512,
    TC_HEAD_DIM_MAX = 1024,
    TC_EXPERTS_MAX = 4096,
    TC_TOP_K_MAX = 64,
    TC_WIDTH_MAX = 1 << 17, // MLP and expert width
    TC_CONV_MAX = 16,
    TC_POSITIONS_MAX = 1 << 24,
    TC_EOS_MAX = 16,
    TC_TENSOR_NAME_BYTES = 192,
};

typedef enum tc_layer_kind { TC_LAYER_FULL_ATTENTION, TC_LAYER_DELTA } tc_layer_kind;

typedef struct tc_layer_desc {
    tc_layer_kind kind;
    bool moe; // else a dense MLP of desc.dense_width
} tc_layer_desc;

// Sampling defaults of the model's generation_config.json; fields absent there hold transformers' defaults.
typedef struct tc_generation_defaults {
    bool do_sample;
    float temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k; // 0 = off
    uint32_t eos[TC_EOS_MAX], eos_count;
} tc_generation_defaults;

typedef struct tc_model_desc {
    char family[32]; // config.json's model_type
    uint32_t layers, hidden, vocab, max_positions;
    float rms_eps;
    bool norm_zero_centred; // multiply by 1 + w; else by w
    bool tied_embeddings;

    // Full attention.
    uint32_t heads, kv_heads, head_dim, rotary_dim; // rotary over the first rotary_dim dimensions, half-split
    double rope_theta;
    bool attn_gate; // q_proj holds [q | gate] per head, output multiplied by sigmoid(gate)
    bool attn_bias; // q, k, v and o have biases

    // Gated DeltaNet (0 where the family has none).
    uint32_t dn_key_heads, dn_value_heads, dn_key_dim, dn_value_dim, dn_conv;

    // MLPs. shared_width 0: no shared expert.
    uint32_t experts, top_k, expert_width, shared_width, dense_width;
    bool norm_top_k; // renormalise the chosen weights to sum 1

    tc_layer_desc layer[TC_LAYERS_MAX];
    tc_generation_defaults generation;
} tc_model_desc;

typedef enum tc_role {
    TC_EMBED,
    TC_FINAL_NORM,
    TC_HEAD,
    TC_INPUT_NORM,
    TC_POST_NORM,
    TC_Q,
    TC_K,
    TC_V,
    TC_O,
    TC_Q_NORM,
    TC_K_NORM,
    TC_DN_QKVZ,
    TC_DN_BA,
    TC_DN_CONV,
    TC_DN_NORM,
    TC_DN_A_LOG,
    TC_DN_DT_BIAS,
    TC_DN_OUT,
    TC_ROUTER,
    TC_EXPERT_GATE,
    TC_EXPERT_UP,
    TC_EXPERT_DOWN,
    TC_SHARED_GATE,
    TC_SHARED_UP,
    TC_SHARED_DOWN,
    TC_SHARED_ROUTER,
    TC_MLP_GATE,
    TC_MLP_UP,
    TC_MLP_DOWN,
    TC_ROLES
} tc_role;

// Base name of the tensor with a role, without ".weight" (roles that have no ".weight", like A_log, are
// whole). layer and expert are ignored where the role has none. With tied embeddings TC_HEAD is TC_EMBED's
// tensor.
void tc_model_tensor_name(const tc_model_desc *desc, tc_role role, uint32_t layer, uint32_t expert,
                          char ret[TC_TENSOR_NAME_BYTES]);
// Rows (out) and columns (in) of the linear with that role; 1-D tensors have columns 1.
void tc_model_tensor_shape(const tc_model_desc *desc, tc_role role, uint32_t layer, uint32_t *ret_rows,
                           uint32_t *ret_cols);

// The other way: whose tensor is `name`, and what stands behind its base name ("", ".weight", ".bias"; part
// of `name`). False: no role of the family.
bool tc_model_tensor_role(const tc_model_desc *desc, const char *name, tc_role *ret, uint32_t *ret_layer,
                          uint32_t *ret_expert, const char **ret_suffix);

// Reads DIR/config.json and, where present, DIR/generation_config.json; or the same out of a GGUF file's
// metadata (source.h). Errors name file and field.
tc_status tc_model_desc_load(const char *model, tc_model_desc *ret, tc_error *e);

// Bytes of the per-session state: KV of all full-attention layers for `positions` tokens, and the
// recurrent + convolution state (float32) of all DeltaNet layers.
uint64_t tc_model_kv_bytes(const tc_model_desc *desc, uint32_t positions, uint32_t element_bytes);
uint64_t tc_model_state_bytes(const tc_model_desc *desc);
