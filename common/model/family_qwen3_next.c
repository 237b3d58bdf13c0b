// SPDX-License-Identifier: Apache-2.0
// Owns: the family qwen3_next: Gated DeltaNet layers with gated full attention between them, zero-centred
// norms, many experts and one gated shared expert. Defaults are those of transformers' Qwen3NextConfig.
#include "common/model/family.h"

#include <stdio.h>
#include <string.h>

static tc_status layer_kinds(const tc_json_object *config, tc_model_desc *desc)
{
    uint32_t interval = 4;
    yyjson_val *types = NULL, *item;
    TC_TRY(tc_json_u32(config, "full_attention_interval", 1, TC_LAYERS_MAX, &interval));
    TC_TRY(tc_json_get_array(config, "layer_types", &types));
    for (uint32_t l = 0; l < desc->layers; l++)
        desc->layer[l].kind = (l + 1) % interval ? TC_LAYER_DELTA : TC_LAYER_FULL_ATTENTION;
    if (!types) return TC_OK;
    if (yyjson_arr_size(types) != desc->layers)
        return tc_fail(config->e, TC_FORMAT, "%s: layer_types has %zu entries, num_hidden_layers is %u",
                       config->what, yyjson_arr_size(types), desc->layers);
    size_t i, n;
    yyjson_arr_foreach(types, i, n, item)
    {
        if (yyjson_equals_str(item, "full_attention"))
            desc->layer[i].kind = TC_LAYER_FULL_ATTENTION;
        else if (yyjson_equals_str(item, "linear_attention"))
            desc->layer[i].kind = TC_LAYER_DELTA;
        else
            return tc_fail(config->e, TC_UNSUPPORTED,
                           "%s: layer_types[%zu] must be \"full_attention\" or \"linear_attention\"",
                           config->what, i);
    }
    return TC_OK;
}

static tc_status delta_net(const tc_json_object *config, tc_model_desc *desc)
{
    TC_TRY(tc_json_u32(config, "linear_num_key_heads", 1, TC_HEADS_MAX, &desc->dn_key_heads));
    TC_TRY(tc_json_u32(config, "linear_num_value_heads", 1, TC_HEADS_MAX, &desc->dn_value_heads));
    TC_TRY(tc_json_u32(config, "linear_key_head_dim", 1, TC_HEAD_DIM_MAX, &desc->dn_key_dim));
    TC_TRY(tc_json_u32(config, "linear_value_head_dim", 1, TC_HEAD_DIM_MAX, &desc->dn_value_dim));
    TC_TRY(tc_json_u32(config, "linear_conv_kernel_dim", 1, TC_CONV_MAX, &desc->dn_conv));
    if (desc->dn_value_heads % desc->dn_key_heads != 0)
        return tc_fail(config->e, TC_FORMAT,
                       "%s: linear_num_value_heads %u is no multiple of linear_num_key_heads %u",
                       config->what, desc->dn_value_heads, desc->dn_key_heads);
    return TC_OK;
}

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
        .dn_key_heads = 16,
        .dn_value_heads = 32,
        .dn_key_dim = 128,
        .dn_value_dim = 128,
        .dn_conv = 4,
        .experts = 512,
        .top_k = 10,
        .expert_width = 512,
        .shared_width = 512,
        .norm_top_k = true,
    };
    TC_TRY(tc_config_common(config, desc));
    TC_TRY(tc_config_attention(config, desc));
    TC_TRY(delta_net(config, desc));
    TC_TRY(tc_config_experts(config, desc));
    TC_TRY(tc_json_u32(config, "shared_expert_intermediate_size", 1, TC_WIDTH_MAX, &desc->shared_width));
    TC_TRY(layer_kinds(config, desc));
    double factor = 0.25;
    TC_TRY(tc_config_rope(config, desc, &factor));
    desc->rotary_dim = (uint32_t)(desc->head_dim * factor);
    return TC_OK;
}

const tc_family tc_family_qwen3_next = {
    .model_type = "qwen3_next",
    .read = read_config,
    .names =
        {
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
        },
};
