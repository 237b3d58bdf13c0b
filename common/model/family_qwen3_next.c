// SPDX-License-Identifier: Apache-2.0
// Owns: the family qwen3_next: Gated DeltaNet layers with gated full attention between them, zero-centred
// norms, many experts and one gated shared expert. Defaults are those of transformers' Qwen3NextConfig.
#include "common/model/family.h"

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 48,
        .hidden = 2048,
        .vocab = 151936,
        .max_positions = 32768,
        .dense_width = 5632,
        .norm_zero_centred = true,
        .heads = 16,
        .kv_heads = 2,
        .head_dim = 256,
        .attn_gate = true,
        .qk_norm = TC_QK_NORM_HEAD,
        .dn_key_heads = 16,
        .dn_value_heads = 32,
        .dn_key_dim = 128,
        .dn_value_dim = 128,
        .dn_conv = 4,
        .experts = 512,
        .top_k = 10,
        .expert_width = 512,
        .shared_width = 512,
        .shared_gate = true,
        .norm_top_k = true,
    };
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    desc->attn_o_bias = desc->attn_bias;
    TC_TRY(tc_config_delta(config, desc));
    TC_TRY(tc_config_experts(config, desc));
    TC_TRY(tc_json_u32(config, "shared_expert_intermediate_size", 1, TC_WIDTH_MAX, &desc->shared_width));
    double factor = 0.25;
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->rotary_dim = (uint32_t)(desc->head_dim * factor);
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    [TC_EMBED] = "model.embed_tokens",
    [TC_FINAL_NORM] = "model.norm",
    [TC_HEAD] = "lm_head",
    [TC_INPUT_NORM] = "model.layers.{L}.input_layernorm",
    [TC_POST_NORM] = "model.layers.{L}.post_attention_layernorm",
    [TC_Q] = "model.layers.{L}.self_attn.q_proj",
    [TC_K] = "model.layers.{L}.self_attn.k_proj",
    [TC_V] = "model.layers.{L}.self_attn.v_proj",
    [TC_O] = "model.layers.{L}.self_attn.o_proj",
    [TC_Q_NORM] = "model.layers.{L}.self_attn.q_norm",
    [TC_K_NORM] = "model.layers.{L}.self_attn.k_norm",
    [TC_DN_QKVZ] = "model.layers.{L}.linear_attn.in_proj_qkvz",
    [TC_DN_BA] = "model.layers.{L}.linear_attn.in_proj_ba",
    [TC_DN_CONV] = "model.layers.{L}.linear_attn.conv1d",
    [TC_DN_NORM] = "model.layers.{L}.linear_attn.norm",
    [TC_DN_A_LOG] = "model.layers.{L}.linear_attn.A_log",
    [TC_DN_DT_BIAS] = "model.layers.{L}.linear_attn.dt_bias",
    [TC_DN_OUT] = "model.layers.{L}.linear_attn.out_proj",
    [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    [TC_EXPERT_GATE] = "model.layers.{L}.mlp.experts.{E}.gate_proj",
    [TC_EXPERT_UP] = "model.layers.{L}.mlp.experts.{E}.up_proj",
    [TC_EXPERT_DOWN] = "model.layers.{L}.mlp.experts.{E}.down_proj",
    [TC_SHARED_GATE] = "model.layers.{L}.mlp.shared_expert.gate_proj",
    [TC_SHARED_UP] = "model.layers.{L}.mlp.shared_expert.up_proj",
    [TC_SHARED_DOWN] = "model.layers.{L}.mlp.shared_expert.down_proj",
    [TC_SHARED_ROUTER] = "model.layers.{L}.mlp.shared_expert_gate",
    [TC_MLP_GATE] = "model.layers.{L}.mlp.gate_proj",
    [TC_MLP_UP] = "model.layers.{L}.mlp.up_proj",
    [TC_MLP_DOWN] = "model.layers.{L}.mlp.down_proj",
};

const tc_family tc_family_qwen3_next = {.model_type = "qwen3_next", .read = read_config, .names = names};
