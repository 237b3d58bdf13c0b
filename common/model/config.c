// SPDX-License-Identifier: Apache-2.0
// Owns: reading the parts of config.json that all families have in common, each number against its limit in
// model.h. Forms: as published (rope_theta at the top, full_attention_interval) and as transformers 5 saves
// (rope_parameters, layer_types). Refuses: variants that change the arithmetic and that we do not compute, by
// name.
#include "common/model/family.h"

#include <stdio.h>
#include <string.h>

#define ROPE_THETA_MAX 1e12

static tc_status only_text(const tc_json_object *o, const char *field, const char *wanted)
{
    const char *text = wanted;
    TC_TRY(tc_json_string(o, field, &text));
    if (strcmp(text, wanted) == 0) return TC_OK;
    return tc_fail(o->e, TC_UNSUPPORTED, "%s: %s \"%.64s\" is not supported, only \"%s\"", o->what, field,
                   text, wanted);
}

static tc_status only_bitsandbytes(const tc_json_object *config)
{
    tc_json_object q = {0};
    TC_TRY(tc_json_get_object(config, "quantization_config", &q));
    if (!q.value) return TC_OK;
    const char *method = "bitsandbytes";
    TC_TRY(tc_json_string(&q, "quant_method", &method));
    if (strcmp(method, "bitsandbytes") != 0)
        return tc_fail(
            q.e, TC_UNSUPPORTED,
            "%s: quantization_config.quant_method \"%.64s\" is not supported, only \"bitsandbytes\"", q.what,
            method);
    bool eight = false;
    TC_TRY(tc_json_bool(&q, "load_in_8bit", &eight));
    if (eight)
        return tc_fail(q.e, TC_UNSUPPORTED,
                       "%s: quantization_config.load_in_8bit is not supported, only 4 bit", q.what);
    return TC_OK;
}

tc_status tc_config_common(const tc_json_object *config, tc_model_desc *desc)
{
    TC_TRY(only_bitsandbytes(config));
    TC_TRY(only_text(config, "hidden_act", "silu"));
    TC_TRY(tc_json_u32(config, "num_hidden_layers", 1, TC_LAYERS_MAX, &desc->layers));
    TC_TRY(tc_json_u32(config, "hidden_size", 1, TC_HIDDEN_MAX, &desc->hidden));
    TC_TRY(tc_json_u32(config, "vocab_size", 1, TC_VOCAB_MAX, &desc->vocab));
    TC_TRY(tc_json_u32(config, "max_position_embeddings", 1, TC_POSITIONS_MAX, &desc->max_positions));
    TC_TRY(tc_json_u32(config, "intermediate_size", 1, TC_WIDTH_MAX, &desc->dense_width));
    TC_TRY(tc_json_bool(config, "tie_word_embeddings", &desc->tied_embeddings));
    double eps = 1e-6;
    TC_TRY(tc_json_double(config, "rms_norm_eps", 1e-12, 0.1, &eps));
    desc->rms_eps = (float)eps;
    return TC_OK;
}

tc_status tc_config_attention(const tc_json_object *config, tc_model_desc *desc)
{
    TC_TRY(tc_json_u32(config, "num_attention_heads", 1, TC_HEADS_MAX, &desc->heads));
    TC_TRY(tc_json_u32(config, "num_key_value_heads", 1, TC_HEADS_MAX, &desc->kv_heads));
    TC_TRY(tc_json_bool(config, "attention_bias", &desc->attn_bias));
    if (desc->heads % desc->kv_heads != 0)
        return tc_fail(config->e, TC_FORMAT,
                       "%s: num_attention_heads %u is no multiple of num_key_value_heads %u", config->what,
                       desc->heads, desc->kv_heads);
    if (desc->head_dim == 0 && !tc_json_field(config, "head_dim")) {
        if (desc->hidden % desc->heads != 0)
            return tc_fail(
                config->e, TC_FORMAT,
                "%s: head_dim is absent and hidden_size %u is no multiple of num_attention_heads %u",
                config->what, desc->hidden, desc->heads);
        desc->head_dim = desc->hidden / desc->heads;
        if (desc->head_dim > TC_HEAD_DIM_MAX)
            return tc_fail(config->e, TC_FORMAT,
                           "%s: head_dim is %u (hidden_size / num_attention_heads), must be 1..%u",
                           config->what, desc->head_dim, TC_HEAD_DIM_MAX);
    }
    TC_TRY(tc_json_u32(config, "head_dim", 1, TC_HEAD_DIM_MAX, &desc->head_dim));
    bool sliding = false;
    TC_TRY(tc_json_bool(config, "use_sliding_window", &sliding));
    if (sliding)
        return tc_fail(config->e, TC_UNSUPPORTED, "%s: use_sliding_window is not supported", config->what);
    return TC_OK;
}

// transformers 5 writes qwen3_moe's count as num_local_experts.
static tc_status expert_count(const tc_json_object *config, uint32_t *ret)
{
    uint32_t local = 0;
    TC_TRY(tc_json_u32(config, "num_local_experts", 1, TC_EXPERTS_MAX, &local));
    bool named = tc_json_field(config, "num_experts") != NULL;
    if (!named && local) *ret = local;
    TC_TRY(tc_json_u32(config, "num_experts", 1, TC_EXPERTS_MAX, ret));
    if (named && local && local != *ret)
        return tc_fail(config->e, TC_FORMAT, "%s: num_experts %u and num_local_experts %u differ",
                       config->what, *ret, local);
    return TC_OK;
}

tc_status tc_config_experts(const tc_json_object *config, tc_model_desc *desc)
{
    uint32_t step = 1;
    yyjson_val *dense = NULL, *item;
    TC_TRY(expert_count(config, &desc->experts));
    TC_TRY(tc_json_u32(config, "num_experts_per_tok", 1, TC_TOP_K_MAX, &desc->top_k));
    TC_TRY(tc_json_u32(config, "moe_intermediate_size", 1, TC_WIDTH_MAX, &desc->expert_width));
    TC_TRY(tc_json_bool(config, "norm_topk_prob", &desc->norm_top_k));
    TC_TRY(tc_json_u32(config, "decoder_sparse_step", 1, TC_LAYERS_MAX, &step));
    TC_TRY(tc_json_get_array(config, "mlp_only_layers", &dense));
    if (desc->top_k > desc->experts)
        return tc_fail(config->e, TC_FORMAT, "%s: num_experts_per_tok %u is above num_experts %u",
                       config->what, desc->top_k, desc->experts);
    for (uint32_t l = 0; l < desc->layers; l++) desc->layer[l].moe = (l + 1) % step == 0;
    size_t i, n;
    yyjson_arr_foreach(dense, i, n, item)
    {
        uint64_t l;
        char place[48];
        snprintf(place, sizeof place, "mlp_only_layers[%zu]", i);
        TC_TRY(tc_json_value_u64(item, config->what, place, 0, desc->layers - 1, &l, config->e));
        desc->layer[l].moe = false;
    }
    for (uint32_t l = 0; l < desc->layers; l++)
        if (desc->layer[l].moe) return TC_OK;
    return tc_fail(config->e, TC_UNSUPPORTED,
                   "%s: mlp_only_layers and decoder_sparse_step leave no layer with experts", config->what);
}

static tc_status rope_type_default(const tc_json_object *rope, const char *field)
{
    const char *type = "default";
    TC_TRY(tc_json_string(rope, "type", &type)); // the older name; rope_type wins
    TC_TRY(tc_json_string(rope, "rope_type", &type));
    if (strcmp(type, "default") == 0) return TC_OK;
    return tc_fail(rope->e, TC_UNSUPPORTED, "%s: %s of type \"%.64s\" is not supported, only \"default\"",
                   rope->what, field, type);
}

tc_status tc_config_rope(const tc_json_object *config, tc_model_desc *desc, double *ret_factor)
{
    const char *field = "rope_scaling"; // takes the place of rope_parameters where both are given
    tc_json_object rope = {0};
    TC_TRY(tc_json_get_object(config, field, &rope));
    if (!rope.value) TC_TRY(tc_json_get_object(config, field = "rope_parameters", &rope));
    desc->rope_theta = 10000.0;
    TC_TRY(tc_json_double(config, "rope_theta", 1.0, ROPE_THETA_MAX, &desc->rope_theta));
    TC_TRY(tc_json_double(config, "partial_rotary_factor", 0.0, 1.0, ret_factor));
    if (!rope.value) return TC_OK;
    TC_TRY(rope_type_default(&rope, field));
    TC_TRY(tc_json_double(&rope, "rope_theta", 1.0, ROPE_THETA_MAX, &desc->rope_theta));
    return tc_json_double(&rope, "partial_rotary_factor", 0.0, 1.0, ret_factor);
}

tc_status tc_config_token_ids(const tc_json_object *o, const char *field, uint32_t vocab,
                              uint32_t ids[TC_EOS_MAX], uint32_t *count)
{
    yyjson_val *value = tc_json_field(o, field), *item;
    uint64_t id;
    if (!value) return TC_OK;
    if (!yyjson_is_arr(value)) {
        TC_TRY(tc_json_value_u64(value, o->what, field, 0, vocab - 1, &id, o->e));
        ids[0] = (uint32_t)id;
        *count = 1;
        return TC_OK;
    }
    if (yyjson_arr_size(value) > TC_EOS_MAX)
        return tc_fail(o->e, TC_LIMIT, "%s: %s has %zu ids, the limit is %u", o->what, field,
                       yyjson_arr_size(value), TC_EOS_MAX);
    size_t i, n;
    yyjson_arr_foreach(value, i, n, item)
    {
        char place[64];
        snprintf(place, sizeof place, "%.40s[%zu]", field, i);
        TC_TRY(tc_json_value_u64(item, o->what, place, 0, vocab - 1, &id, o->e));
        ids[i] = (uint32_t)id;
    }
    *count = (uint32_t)yyjson_arr_size(value);
    return TC_OK;
}
