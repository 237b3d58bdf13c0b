// SPDX-License-Identifier: Apache-2.0
// Owns: the family qwen3_moe: plain norms, a norm per query and key head, full rotary, no shared expert.
// Defaults are those of transformers' Qwen3MoeConfig.
#include "common/model/family.h"

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 24,
        .hidden = 2048,
        .vocab = 151936,
        .max_positions = 32768,
        .dense_width = 6144,
        .heads = 32,
        .kv_heads = 4,
        .qk_norm = TC_QK_NORM_HEAD,
        .experts = 128,
        .top_k = 8,
        .expert_width = 768,
    };
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    desc->attn_o_bias = desc->attn_bias;
    TC_TRY(tc_config_experts(config, desc));
    double factor = 1.0;
    TC_TRY(tc_config_rope(config, desc, &factor));
    if (factor != 1.0)
        return tc_fail(config->e, TC_UNSUPPORTED,
                       "%s: partial_rotary_factor %g is not supported in qwen3_moe, only 1", config->what,
                       factor);
    desc->rotary_dim = desc->head_dim;
    for (uint32_t l = 0; l < desc->layers; l++) desc->layer[l].kind = TC_LAYER_FULL_ATTENTION;
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,    TC_NAMES_ATTENTION, TC_NAMES_QK_NORMS, [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    TC_NAMES_EXPERTS, TC_NAMES_MLP,
};

const tc_family tc_family_qwen3_moe = {.model_type = "qwen3_moe", .read = read_config, .names = names};
