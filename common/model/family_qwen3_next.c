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
    TC_NAMES_BODY,
    TC_NAMES_ATTENTION,
    TC_NAMES_QK_NORMS,
    [TC_DN_QKVZ] = "model.layers.{L}.linear_attn.in_proj_qkvz",
    [TC_DN_BA] = "model.layers.{L}.linear_attn.in_proj_ba",
    TC_NAMES_DELTA,
    [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    TC_NAMES_EXPERTS,
    TC_NAMES_SHARED("shared_expert"),
    [TC_SHARED_ROUTER] = "model.layers.{L}.mlp.shared_expert_gate",
    TC_NAMES_MLP,
};

const tc_family tc_family_qwen3_next = {.model_type = "qwen3_next", .read = read_config, .names = names};
