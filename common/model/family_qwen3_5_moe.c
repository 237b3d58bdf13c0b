// SPDX-License-Identifier: Apache-2.0
// Owns: the family qwen3_5_moe, its text part: qwen3_next with the DeltaNet's projections apart, and experts
// that may be one tensor a layer; and the text model alone, qwen3_5_moe_text. Defaults are those of
// transformers' Qwen3_5MoeTextConfig.
#include "common/model/family.h"

static const tc_stacked stacked[3] = {
    {"model.layers.{L}.mlp.experts.gate_up_proj", false, 2, 0, 0},
    {"model.layers.{L}.mlp.experts.gate_up_proj", false, 2, 1, 0},
    {"model.layers.{L}.mlp.experts.down_proj", false, 1, 0, 0},
};

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 40,
        .hidden = 2048,
        .vocab = 248320,
        .max_positions = 32768,
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
        .dn_flat = true,
        .experts = 256,
        .top_k = 8,
        .expert_width = 512,
        .shared_width = 512,
        .shared_gate = true,
        .norm_top_k = true,
    };
    double factor = 0.25;
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    desc->attn_o_bias = desc->attn_bias;
    TC_TRY(tc_config_delta(config, desc));
    TC_TRY(tc_config_experts(config, desc));
    desc->norm_top_k = true; // always
    TC_TRY(tc_json_u32(config, "shared_expert_intermediate_size", 1, TC_WIDTH_MAX, &desc->shared_width));
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->rotary_dim = (uint32_t)(desc->head_dim * factor);
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,
    TC_NAMES_ATTENTION,
    TC_NAMES_QK_NORMS,
    [TC_DN_QKV] = "model.layers.{L}.linear_attn.in_proj_qkv",
    [TC_DN_Z] = "model.layers.{L}.linear_attn.in_proj_z",
    [TC_DN_B] = "model.layers.{L}.linear_attn.in_proj_b",
    [TC_DN_A] = "model.layers.{L}.linear_attn.in_proj_a",
    TC_NAMES_DELTA,
    [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    TC_NAMES_EXPERTS,
    TC_NAMES_SHARED("shared_expert"),
    [TC_SHARED_ROUTER] = "model.layers.{L}.mlp.shared_expert_gate",
};

const tc_family tc_family_qwen3_5_moe = {.model_type = "qwen3_5_moe",
                                         .read = read_config,
                                         .names = names,
                                         .stacked = stacked,
                                         .prefix = "model.language_model.",
                                         .config = "text_config"};

const tc_family tc_family_qwen3_5_moe_text = {
    .model_type = "qwen3_5_moe_text", .read = read_config, .names = names, .stacked = stacked};
