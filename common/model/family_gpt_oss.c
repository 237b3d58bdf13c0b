// SPDX-License-Identifier: Apache-2.0
// Owns: the family gpt_oss: biases everywhere, attention with sinks and a sliding window in every other
// layer, experts of one tensor a layer (MXFP4 or dense) with their own activation. Defaults are those of
// transformers' GptOssConfig.
#include "common/model/family.h"

#include <math.h>

static void default_rope(tc_model_desc *desc)
{
    desc->rope.factor = 32;
    desc->rope.beta_fast = 32;
    desc->rope.beta_slow = 1;
    desc->rope.original_positions = 4096;
    desc->rope.amplitude = (float)(0.1 * log(32) + 1);
}

// Rows of gate and up take turns in one tensor.
static const tc_stacked stacked[3] = {
    {"model.layers.{L}.mlp.experts.gate_up_proj", true, 2, 0, 2},
    {"model.layers.{L}.mlp.experts.gate_up_proj", true, 2, 1, 2},
    {"model.layers.{L}.mlp.experts.down_proj", true, 1, 0, 0},
};

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 36,
        .hidden = 2880,
        .vocab = 201088,
        .max_positions = 131072,
        .dense_width = 2880,
        .rms_eps = 1e-5f,
        .heads = 64,
        .kv_heads = 8,
        .head_dim = 64,
        .rope = {.theta = 150000},
        .attn_bias = true,
        .attn_sinks = true,
        .sliding_window = 128,
        .experts = 128,
        .top_k = 4,
        .norm_top_k = true, // the chosen logits' softmax is that of all, renormalised
        .router_bias = true,
        .expert_activation = TC_ACT_CLAMPED,
        .expert_bias = true,
    };
    double factor = 1.0, alpha = 1.702, limit = 7.0;
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    desc->attn_o_bias = desc->attn_bias;
    TC_TRY(tc_config_experts_only(config, desc));
    for (uint32_t l = 0; l < desc->layers; l++) desc->layer[l].sliding = l % 2 == 0;
    TC_TRY(tc_json_u32(config, "sliding_window", 1, TC_POSITIONS_MAX, &desc->sliding_window));
    TC_TRY(tc_config_layer_types(config, desc));
    TC_TRY(tc_json_double(config, "swiglu_alpha", 0.0, 1e3, &alpha));
    TC_TRY(tc_json_double(config, "swiglu_limit", 1e-3, 1e6, &limit));
    desc->act_alpha = (float)alpha;
    desc->act_limit = (float)limit;
    if (!tc_json_field(config, "rope_scaling") && !tc_json_field(config, "rope_parameters"))
        default_rope(desc);
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->rotary_dim = desc->head_dim;
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,
    TC_NAMES_ATTENTION,
    [TC_SINKS] = "model.layers.{L}.self_attn.sinks",
    [TC_ROUTER] = "model.layers.{L}.mlp.router",
    TC_NAMES_EXPERTS, // where each is by itself
};

const tc_family tc_family_gpt_oss = {
    .model_type = "gpt_oss", .read = read_config, .names = names, .stacked = stacked};
