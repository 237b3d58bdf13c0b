// SPDX-License-Identifier: Apache-2.0
// Owns: the family glm4_moe: attention with biases on q, k and v and rotary over half of a head, sigmoid
// routing with a correction, a shared expert without a gate, dense layers first. Defaults are those of
// transformers' Glm4MoeConfig.
#include "common/model/family.h"

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 46,
        .hidden = 4096,
        .vocab = 151552,
        .max_positions = 131072,
        .dense_width = 10944,
        .rms_eps = 1e-5f,
        .heads = 96,
        .kv_heads = 8,
        .experts = 128,
        .top_k = 8,
        .expert_width = 1408,
        .norm_top_k = true,
    };
    double factor = 0.5;
    bool qk_norm = false;
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    TC_TRY(tc_json_bool(config, "use_qk_norm", &qk_norm));
    desc->qk_norm = qk_norm ? TC_QK_NORM_HEAD : TC_QK_NORM_NONE;
    TC_TRY(tc_config_experts(config, desc));
    TC_TRY(tc_config_sigmoid_router(config, desc, 1, 1, 1.0, 1));
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->rotary_dim = (uint32_t)(desc->head_dim * factor);
    return TC_OK;
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,
    TC_NAMES_ATTENTION,
    TC_NAMES_QK_NORMS,
    [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    TC_NAMES_EXPERTS,
    [TC_ROUTER_CORRECTION] = "model.layers.{L}.mlp.gate.e_score_correction_bias",
    TC_NAMES_SHARED("shared_experts"),
    TC_NAMES_MLP,
};

const tc_family tc_family_glm4_moe = {.model_type = "glm4_moe", .read = read_config, .names = names};
