// SPDX-License-Identifier: Apache-2.0
// Owns: what a model family is: tensor names by role, and how its config.json becomes a tc_model_desc.
// A new family is one file that defines a tc_family, and one line in the table of model.c.
#pragma once

#include "common/base/json.h"
#include "common/model/model.h"

typedef struct tc_family {
    const char *model_type;
    // [TC_ROLES]. {L} stands for the layer, {E} for the expert. NULL: the family has no such tensor.
    const char *const *names;
    // [3]: gate, up, down of experts where all of a layer are one tensor; NULL: never.
    const tc_stacked *stacked;
    // The text part of a model of more: takes the place of "model." in names, and is read from this object
    // of config.json. NULL: neither.
    const char *prefix, *config;
    // Fills the fields that differ between families. *desc holds zeros.
    tc_status (*read)(const tc_json_object *config, tc_model_desc *desc);
} tc_family;

// Names that most families share, for their tables: initialisers by role, to which the rest is added.
#define TC_NAMES_BODY                                                                                        \
    [TC_EMBED] = "model.embed_tokens", [TC_FINAL_NORM] = "model.norm", [TC_HEAD] = "lm_head",                \
    [TC_INPUT_NORM] = "model.layers.{L}.input_layernorm",                                                    \
    [TC_POST_NORM] = "model.layers.{L}.post_attention_layernorm"
#define TC_NAMES_ATTENTION                                                                                   \
    [TC_Q] = "model.layers.{L}.self_attn.q_proj", [TC_K] = "model.layers.{L}.self_attn.k_proj",              \
    [TC_V] = "model.layers.{L}.self_attn.v_proj", [TC_O] = "model.layers.{L}.self_attn.o_proj"
#define TC_NAMES_QK_NORMS                                                                                    \
    [TC_Q_NORM] = "model.layers.{L}.self_attn.q_norm", [TC_K_NORM] = "model.layers.{L}.self_attn.k_norm"
#define TC_NAMES_DELTA                                                                                       \
    [TC_DN_CONV] = "model.layers.{L}.linear_attn.conv1d",                                                    \
    [TC_DN_NORM] = "model.layers.{L}.linear_attn.norm",                                                      \
    [TC_DN_A_LOG] = "model.layers.{L}.linear_attn.A_log",                                                    \
    [TC_DN_DT_BIAS] = "model.layers.{L}.linear_attn.dt_bias",                                                \
    [TC_DN_OUT] = "model.layers.{L}.linear_attn.out_proj"
#define TC_NAMES_EXPERTS                                                                                     \
    [TC_EXPERT_GATE] = "model.layers.{L}.mlp.experts.{E}.gate_proj",                                         \
    [TC_EXPERT_UP] = "model.layers.{L}.mlp.experts.{E}.up_proj",                                             \
    [TC_EXPERT_DOWN] = "model.layers.{L}.mlp.experts.{E}.down_proj"
#define TC_NAMES_MLP                                                                                         \
    [TC_MLP_GATE] = "model.layers.{L}.mlp.gate_proj", [TC_MLP_UP] = "model.layers.{L}.mlp.up_proj",          \
    [TC_MLP_DOWN] = "model.layers.{L}.mlp.down_proj"
// of: what the family calls its shared expert
#define TC_NAMES_SHARED(of)                                                                                  \
    [TC_SHARED_GATE] = "model.layers.{L}.mlp." of ".gate_proj",                                              \
    [TC_SHARED_UP] = "model.layers.{L}.mlp." of ".up_proj",                                                  \
    [TC_SHARED_DOWN] = "model.layers.{L}.mlp." of ".down_proj"

extern const tc_family tc_family_qwen3_next, tc_family_qwen3_moe, tc_family_qwen3_5_moe,
    tc_family_qwen3_5_moe_text, tc_family_mixtral, tc_family_olmoe, tc_family_glm4_moe, tc_family_gpt_oss,
    tc_family_deepseek_v3;

// Pieces that families share (config.c). All leave absent fields at the value that *desc holds.
tc_status tc_config_common(const tc_json_object *config, tc_model_desc *desc);
tc_status tc_config_attention(const tc_json_object *config, tc_model_desc *desc);
// Experts, and which layers have them: mlp_only_layers, decoder_sparse_step.
tc_status tc_config_experts(const tc_json_object *config, tc_model_desc *desc);
// Experts whose width is intermediate_size, in all layers: there is no dense MLP.
tc_status tc_config_experts_only(const tc_json_object *config, tc_model_desc *desc);
// Sizes of the DeltaNet, and which layers are one: layer_types, or every full_attention_interval-th is not.
tc_status tc_config_delta(const tc_json_object *config, tc_model_desc *desc);
// Routers of sigmoids, shared experts and dense layers first; the family's defaults. After tc_config_experts.
tc_status tc_config_sigmoid_router(const tc_json_object *config, tc_model_desc *desc, uint32_t groups,
                                   uint32_t top_groups, double scale, uint32_t dense);
// Which layers see all positions and which a window: layer_types, where given.
tc_status tc_config_layer_types(const tc_json_object *config, tc_model_desc *desc);
// theta, YaRN, and the fraction of a head that is rotated, from rope_scaling, rope_parameters or the top
// level. Called after max_positions is read.
tc_status tc_config_rope(const tc_json_object *config, tc_model_desc *desc, double *ret_factor);
// The ids of `field` (one or a list), each below desc->vocab. Absent: nothing changes.
tc_status tc_config_token_ids(const tc_json_object *o, const char *field, uint32_t vocab,
                              uint32_t ids[TC_EOS_MAX], uint32_t *count);
