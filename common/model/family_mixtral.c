// SPDX-License-Identifier: Apache-2.0
// Owns: the family mixtral: plain attention, optionally over a sliding window, and few wide experts whose
// chosen weights always sum to 1. Defaults are those of transformers' MixtralConfig.
#include "common/model/family.h"

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 32,
        .hidden = 4096,
        .vocab = 32000,
        .max_positions = 131072,
        .dense_width = 14336,
        .rms_eps = 1e-5f,
        .heads = 32,
        .kv_heads = 8,
        .rope = {.theta = 1e6},
        .experts = 8,
        .top_k = 2,
        .norm_top_k = true,
    };
    double factor = 1.0;
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    TC_TRY(tc_config_experts_only(config, desc));
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->attn_bias = false; // the family has none, whatever the field says
    desc->rotary_dim = desc->head_dim;
    TC_TRY(tc_json_u32(config, "sliding_window", 1, TC_POSITIONS_MAX, &desc->sliding_window));
    for (uint32_t l = 0; l < desc->layers; l++) desc->layer[l].sliding = desc->sliding_window != 0;
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,
    TC_NAMES_ATTENTION,
    [TC_ROUTER] = "model.layers.{L}.block_sparse_moe.gate",
    [TC_EXPERT_GATE] = "model.layers.{L}.block_sparse_moe.experts.{E}.w1",
    [TC_EXPERT_UP] = "model.layers.{L}.block_sparse_moe.experts.{E}.w3",
    [TC_EXPERT_DOWN] = "model.layers.{L}.block_sparse_moe.experts.{E}.w2",
};

const tc_family tc_family_mixtral = {.model_type = "mixtral", .read = read_config, .names = names};
