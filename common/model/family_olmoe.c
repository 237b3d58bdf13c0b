// SPDX-License-Identifier: Apache-2.0
// Owns: the family olmoe: norms over all query and over all key heads of a token together, many small
// experts whose chosen weights are not made to sum to 1. Defaults are those of transformers' OlmoeConfig.
#include "common/model/family.h"

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 16,
        .hidden = 2048,
        .vocab = 50304,
        .max_positions = 4096,
        .dense_width = 2048,
        .rms_eps = 1e-5f,
        .heads = 16,
        .qk_norm = TC_QK_NORM_ALL,
        .experts = 64,
        .top_k = 8,
    };
    double factor = 1.0, clip = 0;
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    desc->attn_o_bias = desc->attn_bias;
    TC_TRY(tc_config_experts_only(config, desc));
    TC_TRY(tc_json_bool(config, "norm_topk_prob", &desc->norm_top_k));
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->rotary_dim = desc->head_dim;
    TC_TRY(tc_json_double(config, "clip_qkv", 1e-6, 1e6, &clip));
    desc->clip_qkv = (float)clip;
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,    TC_NAMES_ATTENTION, TC_NAMES_QK_NORMS, [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    TC_NAMES_EXPERTS,
};

const tc_family tc_family_olmoe = {.model_type = "olmoe", .read = read_config, .names = names};
