// SPDX-License-Identifier: Apache-2.0
// Owns: the family deepseek_v3: latent attention, sigmoid routing with a correction and groups, shared
// experts without a gate, dense layers first. Defaults are those of transformers' DeepseekV3Config.
#include "common/model/family.h"

#include <math.h>

enum { HEAD_ROWS = 16 }; // rows of a head's matrices are a multiple of this (tc_heads_args)

static tc_status multiple(const tc_json_object *config, const char *field, uint32_t value)
{
    if (value % HEAD_ROWS == 0) return TC_OK;
    return tc_fail(config->e, TC_UNSUPPORTED, "%s: %s %u is not supported, only multiples of %d",
                   config->what, field, value, HEAD_ROWS);
}

static tc_status latent(const tc_json_object *config, tc_model_desc *desc)
{
    const bool named = tc_json_field(config, "q_lora_rank") != NULL;
    const yyjson_val *given = yyjson_obj_get(config->value, "q_lora_rank");
    if (!given) desc->q_rank = 1536; // null: none
    if (named) TC_TRY(tc_json_u32(config, "q_lora_rank", 1, TC_HIDDEN_MAX, &desc->q_rank));
    TC_TRY(tc_json_u32(config, "num_attention_heads", 1, TC_HEADS_MAX, &desc->heads));
    TC_TRY(tc_json_u32(config, "kv_lora_rank", 1, TC_HEAD_DIM_MAX, &desc->kv_rank));
    TC_TRY(tc_json_u32(config, "qk_nope_head_dim", 1, TC_HEAD_DIM_MAX, &desc->nope_dim));
    TC_TRY(tc_json_u32(config, "qk_rope_head_dim", 1, TC_HEAD_DIM_MAX, &desc->rotary_dim));
    TC_TRY(tc_json_u32(config, "v_head_dim", 1, TC_HEAD_DIM_MAX, &desc->value_dim));
    TC_TRY(tc_json_bool(config, "attention_bias", &desc->attn_bias));
    TC_TRY(tc_json_bool(config, "rope_interleave", &desc->rope.interleaved));
    desc->attn_o_bias = desc->attn_bias;
    desc->head_dim = desc->nope_dim + desc->rotary_dim;
    if (desc->head_dim > TC_HEAD_DIM_MAX || desc->kv_rank + desc->rotary_dim > TC_HEAD_DIM_MAX)
        return tc_fail(config->e, TC_UNSUPPORTED,
                       "%s: kv_lora_rank or qk_nope_head_dim and qk_rope_head_dim together are above %d",
                       config->what, TC_HEAD_DIM_MAX);
    TC_TRY(multiple(config, "kv_lora_rank", desc->kv_rank));
    return multiple(config, "v_head_dim", desc->value_dim);
}

// YaRN's mscale_all_dim: scores are scaled by its square.
static tc_status scores(const tc_json_object *config, tc_model_desc *desc)
{
    double all = 0, scale = 1.0 / sqrt(desc->head_dim);
    tc_json_object rope = {0};
    TC_TRY(tc_json_get_object(config, "rope_scaling", &rope));
    if (!rope.value) TC_TRY(tc_json_get_object(config, "rope_parameters", &rope));
    if (rope.value) TC_TRY(tc_json_double(&rope, "mscale_all_dim", 0, 100, &all));
    if (desc->rope.factor > 1 && all != 0) {
        double m = 0.1 * all * log(desc->rope.factor) + 1;
        scale *= m * m;
    }
    desc->attn_scale = (float)scale;
    return TC_OK;
}

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    *desc = (tc_model_desc){
        .layers = 61,
        .hidden = 7168,
        .vocab = 129280,
        .max_positions = 4096,
        .dense_width = 18432,
        .heads = 128,
        .kv_heads = 1,
        .rotary_dim = 64,
        .rope = {.interleaved = true},
        .kv_rank = 512,
        .nope_dim = 128,
        .value_dim = 128,
        .experts = 256,
        .top_k = 8,
        .expert_width = 2048,
        .norm_top_k = true,
    };
    double factor = 1.0;
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(latent(config, desc));
    TC_TRY(tc_config_experts(config, desc));
    TC_TRY(tc_config_sigmoid_router(config, desc, 8, 4, 2.5, 3));
    TC_TRY(tc_config_rope(config, desc, &factor));
    return scores(config, desc);
}

static const char *const names[TC_ROLES] = {
    TC_NAMES_BODY,
    [TC_Q] = "model.layers.{L}.self_attn.q_proj",
    [TC_Q_A] = "model.layers.{L}.self_attn.q_a_proj",
    [TC_Q_A_NORM] = "model.layers.{L}.self_attn.q_a_layernorm",
    [TC_Q_B] = "model.layers.{L}.self_attn.q_b_proj",
    [TC_KV_A] = "model.layers.{L}.self_attn.kv_a_proj_with_mqa",
    [TC_KV_A_NORM] = "model.layers.{L}.self_attn.kv_a_layernorm",
    [TC_KV_B] = "model.layers.{L}.self_attn.kv_b_proj",
    [TC_O] = "model.layers.{L}.self_attn.o_proj",
    [TC_ROUTER] = "model.layers.{L}.mlp.gate",
    TC_NAMES_EXPERTS,
    [TC_ROUTER_CORRECTION] = "model.layers.{L}.mlp.gate.e_score_correction_bias",
    TC_NAMES_SHARED("shared_experts"),
    TC_NAMES_MLP,
};

const tc_family tc_family_deepseek_v3 = {.model_type = "deepseek_v3", .read = read_config, .names = names};
