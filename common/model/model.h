// SPDX-License-Identifier: Apache-2.0
// Owns: the description of a model as data. A family (qwen3_next, mixtral, ..) is one small file that reads
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
    TC_GROUPS_MAX = 64, // of experts
    TC_TENSOR_NAME_BYTES = 192,
};

typedef enum tc_layer_kind { TC_LAYER_FULL_ATTENTION, TC_LAYER_DELTA } tc_layer_kind;

typedef struct tc_layer_desc {
    tc_layer_kind kind;
    bool moe;     // else a dense MLP of desc.dense_width
    bool sliding; // full attention only: positions further back than desc.sliding_window are not seen
} tc_layer_desc;

// What the query and key norms run over: nothing (there are none), each head, or all heads of a token.
typedef enum tc_qk_norm { TC_QK_NORM_NONE, TC_QK_NORM_HEAD, TC_QK_NORM_ALL } tc_qk_norm;

// Rotation of pairs of dimensions by position * frequency: tc_rope_frequencies.
typedef struct tc_rope {
    double theta;
    bool interleaved; // pairs (2i, 2i + 1); else (i, i + half)
    // YaRN: frequencies below beta_slow turns of the original length are divided by factor, those above
    // beta_fast are kept, those between are blended. factor 0: plain.
    double factor, beta_fast, beta_slow, original_positions;
    bool truncate;   // the blend's borders are whole dimensions
    float amplitude; // cosines and sines are multiplied by this; 0 stands for 1
} tc_rope;

// How a router's logits become weights: softmax over all, or each its sigmoid, with a bias that counts in
// the choice only and a choice among groups first.
typedef enum tc_scoring { TC_SCORE_SOFTMAX, TC_SCORE_SIGMOID } tc_scoring;

// silu(gate) * up; or, both clamped first (gate from above, up from both sides):
// gate * sigmoid(alpha * gate) * (up + 1).
typedef enum tc_activation { TC_ACT_SILU, TC_ACT_CLAMPED, TC_ACTIVATIONS } tc_activation;

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

    // Full attention. Rotary over the first rotary_dim dimensions of a head; with latent keys, the last.
    uint32_t heads, kv_heads, head_dim, rotary_dim;
    tc_rope rope;
    bool attn_gate;              // q_proj holds [q | gate] per head, output multiplied by sigmoid(gate)
    bool attn_bias, attn_o_bias; // q, k, v have biases (latent: the two first projections); o has one
    tc_qk_norm qk_norm;
    bool attn_sinks;         // a logit a head that takes part in the softmax and has no value
    uint32_t sliding_window; // positions that layers with `sliding` see, their own included
    float clip_qkv;          // q, k, v are cut to +- this; 0: not
    float attn_scale;        // of the scores; 0: 1 / sqrt(head_dim)

    // Latent keys and values (kv_rank 0: the family has none): a position keeps kv_rank normed numbers and
    // the rotary_dim of its one rotary key. Keys of a head: nope_dim made of them, and the rotary ones
    // (head_dim in all); values: value_dim. q_rank 0: q is projected in one step.
    uint32_t q_rank, kv_rank, nope_dim, value_dim;

    // Gated DeltaNet (0 where the family has none).
    uint32_t dn_key_heads, dn_value_heads, dn_key_dim, dn_value_dim, dn_conv;
    bool dn_flat; // projections apart: qkv, z, b, a, each flat over heads; else qkvz and ba by key head

    // MLPs. shared_width 0: no shared expert.
    uint32_t experts, top_k, expert_width, shared_width, dense_width;
    bool shared_gate; // the shared expert is multiplied by sigmoid(shared_router . x)
    bool norm_top_k;  // renormalise the chosen weights to sum 1
    tc_scoring router_scoring;
    uint32_t router_groups, router_top_groups; // experts are chosen among the best groups; 0: no groups
    float router_scale;                        // of the weights; 0 stands for 1
    bool router_bias, router_correction;       // of the logits; of the sigmoids, in the choice only
    tc_activation expert_activation;
    float act_alpha, act_limit; // TC_ACT_CLAMPED
    bool expert_bias;           // gate, up and down of experts have biases

    uint32_t fp8_block[2]; // rows and columns that share a scale, of weights stored as 8-bit floats
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
    TC_SINKS,
    TC_ROUTER_CORRECTION,
    TC_Q_A, // latent attention
    TC_Q_A_NORM,
    TC_Q_B,
    TC_KV_A,
    TC_KV_A_NORM,
    TC_KV_B,
    TC_DN_QKV, // DeltaNet with flat projections
    TC_DN_Z,
    TC_DN_B,
    TC_DN_A,
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

// How a family's experts lie when all of a layer are one tensor: [experts, rows, cols] or, transposed,
// [experts, cols, rows], with `parts` times as many rows as the role has. Row r of the role is row
// first + r * step of an expert's, or, where step is 0, row first * rows + r.
typedef struct tc_stacked {
    const char *name; // as in family.h
    bool transposed;
    uint32_t parts, first, step;
} tc_stacked;
// False: the family never has them so. ret_name: the tensor's (with _blocks, _scales, _bias behind it).
bool tc_model_stacked(const tc_model_desc *desc, tc_role role, uint32_t layer, tc_stacked *ret,
                      char ret_name[TC_TENSOR_NAME_BYTES]);

// Frequencies of the rotary_dim / 2 pairs.
void tc_rope_frequencies(const tc_rope *rope, uint32_t rotary_dim, float *ret);
static inline float tc_rope_amplitude(const tc_rope *rope)
{
    return rope->amplitude != 0 ? rope->amplitude : 1.0f;
}

// Reads DIR/config.json and, where present, DIR/generation_config.json; or the same out of a GGUF file's
// metadata (source.h). Errors name file and field.
tc_status tc_model_desc_load(const char *model, tc_model_desc *ret, tc_error *e);

// Bytes of the per-session state: KV of all full-attention layers for `positions` tokens, and the
// recurrent + convolution state (float32) of all DeltaNet layers.
uint64_t tc_model_kv_bytes(const tc_model_desc *desc, uint32_t positions, uint32_t element_bytes);
uint64_t tc_model_state_bytes(const tc_model_desc *desc);
