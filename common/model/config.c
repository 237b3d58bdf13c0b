// SPDX-License-Identifier: Apache-2.0
// Owns: reading the parts of config.json that all families have in common, each number against its limit in
// model.h. Forms: as published (rope_theta at the top, full_attention_interval) and as transformers 5 saves
// (rope_parameters, layer_types). Refuses: variants that change the arithmetic and that we do not compute, by
// name.
#include "common/model/family.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ROPE_THETA_MAX 1e12
#define ROPE_FACTOR_MAX 1e6

static tc_status only_text(const tc_json_object *o, const char *field, const char *wanted)
{
    const char *text = wanted;
    TC_TRY(tc_json_string(o, field, &text));
    if (strcmp(text, wanted) == 0) return TC_OK;
    return tc_fail(o->e, TC_UNSUPPORTED, "%s: %s \"%.64s\" is not supported, only \"%s\"", o->what, field,
                   text, wanted);
}

// What the tensors hold decides how a weight is read; here only what nobody reads is refused, by name.
static tc_status quantisation(const tc_json_object *config, tc_model_desc *desc)
{
    tc_json_object q = {0};
    yyjson_val *block = NULL, *item;
    const char *method = "bitsandbytes", *format = "e4m3";
    bool eight = false;
    desc->fp8_block[0] = desc->fp8_block[1] = 128;
    TC_TRY(tc_json_get_object(config, "quantization_config", &q));
    if (!q.value) return TC_OK;
    TC_TRY(tc_json_string(&q, "quant_method", &method));
    if (strcmp(method, "bitsandbytes") != 0 && strcmp(method, "fp8") != 0 && strcmp(method, "mxfp4") != 0)
        return tc_fail(
            q.e, TC_UNSUPPORTED,
            "%s: quantization_config.quant_method \"%.64s\" is not supported, only \"bitsandbytes\", "
            "\"fp8\" and \"mxfp4\"",
            q.what, method);
    TC_TRY(tc_json_bool(&q, "load_in_8bit", &eight));
    if (eight)
        return tc_fail(q.e, TC_UNSUPPORTED,
                       "%s: quantization_config.load_in_8bit is not supported, only 4 bit", q.what);
    TC_TRY(tc_json_string(&q, "fmt", &format));
    if (strcmp(format, "e4m3") != 0)
        return tc_fail(q.e, TC_UNSUPPORTED,
                       "%s: quantization_config.fmt \"%.64s\" is not supported, only \"e4m3\"", q.what,
                       format);
    TC_TRY(tc_json_get_array(&q, "weight_block_size", &block));
    if (!block) return TC_OK;
    if (yyjson_arr_size(block) != 2)
        return tc_fail(q.e, TC_FORMAT, "%s: quantization_config.weight_block_size must have two numbers",
                       q.what);
    size_t i, n;
    yyjson_arr_foreach(block, i, n, item)
    {
        uint64_t size;
        TC_TRY(tc_json_value_u64(item, q.what, "quantization_config.weight_block_size", 1, TC_WIDTH_MAX,
                                 &size, q.e));
        desc->fp8_block[i] = (uint32_t)size;
    }
    return TC_OK;
}

tc_status tc_config_common(const tc_json_object *config, tc_model_desc *desc)
{
    TC_TRY(quantisation(config, desc));
    TC_TRY(only_text(config, "hidden_act", "silu"));
    TC_TRY(tc_json_u32(config, "num_hidden_layers", 1, TC_LAYERS_MAX, &desc->layers));
    TC_TRY(tc_json_u32(config, "hidden_size", 1, TC_HIDDEN_MAX, &desc->hidden));
    TC_TRY(tc_json_u32(config, "vocab_size", 1, TC_VOCAB_MAX, &desc->vocab));
    TC_TRY(tc_json_u32(config, "max_position_embeddings", 1, TC_POSITIONS_MAX, &desc->max_positions));
    TC_TRY(tc_json_u32(config, "intermediate_size", 1, TC_WIDTH_MAX, &desc->dense_width));
    TC_TRY(tc_json_bool(config, "tie_word_embeddings", &desc->tied_embeddings));
    double eps = desc->rms_eps != 0 ? (double)desc->rms_eps : 1e-6;
    TC_TRY(tc_json_double(config, "rms_norm_eps", 1e-12, 0.1, &eps));
    desc->rms_eps = (float)eps;
    return TC_OK;
}

tc_status tc_config_attention(const tc_json_object *config, tc_model_desc *desc)
{
    TC_TRY(tc_json_u32(config, "num_attention_heads", 1, TC_HEADS_MAX, &desc->heads));
    if (desc->kv_heads == 0) desc->kv_heads = desc->heads;
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
        return tc_fail(config->e, TC_UNSUPPORTED, "%s: use_sliding_window true is not supported, only false",
                       config->what);
    return TC_OK;
}

// transformers 5 writes qwen3_moe's count as num_local_experts; the DeepSeek line has n_routed_experts.
static tc_status expert_count(const tc_json_object *config, uint32_t *ret)
{
    uint32_t local = 0;
    TC_TRY(tc_json_u32(config, "n_routed_experts", 1, TC_EXPERTS_MAX, ret));
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

tc_status tc_config_experts_only(const tc_json_object *config, tc_model_desc *desc)
{
    TC_TRY(expert_count(config, &desc->experts));
    TC_TRY(tc_json_u32(config, "num_experts_per_tok", 1, TC_TOP_K_MAX, &desc->top_k));
    if (desc->top_k > desc->experts)
        return tc_fail(config->e, TC_FORMAT, "%s: num_experts_per_tok %u is above the %u experts",
                       config->what, desc->top_k, desc->experts);
    desc->expert_width = desc->dense_width;
    desc->dense_width = 0;
    for (uint32_t l = 0; l < desc->layers; l++) desc->layer[l].moe = true;
    return TC_OK;
}

tc_status tc_config_layer_types(const tc_json_object *config, tc_model_desc *desc)
{
    yyjson_val *types = NULL, *item;
    TC_TRY(tc_json_get_array(config, "layer_types", &types));
    if (!types) return TC_OK;
    if (yyjson_arr_size(types) != desc->layers)
        return tc_fail(config->e, TC_FORMAT, "%s: layer_types has %zu entries, num_hidden_layers is %u",
                       config->what, yyjson_arr_size(types), desc->layers);
    size_t i, n;
    yyjson_arr_foreach(types, i, n, item)
    {
        desc->layer[i].sliding = yyjson_equals_str(item, "sliding_attention");
        if (!desc->layer[i].sliding && !yyjson_equals_str(item, "full_attention"))
            return tc_fail(config->e, TC_UNSUPPORTED,
                           "%s: layer_types[%zu] must be \"full_attention\" or \"sliding_attention\"",
                           config->what, i);
    }
    return TC_OK;
}

static tc_status delta_layers(const tc_json_object *config, tc_model_desc *desc)
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

tc_status tc_config_delta(const tc_json_object *config, tc_model_desc *desc)
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
    return delta_layers(config, desc);
}

tc_status tc_config_sigmoid_router(const tc_json_object *config, tc_model_desc *desc, uint32_t groups,
                                   uint32_t top_groups, double scale, uint32_t dense)
{
    uint32_t shared = 1;
    desc->router_scoring = TC_SCORE_SIGMOID;
    desc->router_correction = true;
    TC_TRY(only_text(config, "scoring_func", "sigmoid"));
    TC_TRY(only_text(config, "topk_method", "noaux_tc"));
    TC_TRY(tc_json_u32(config, "n_group", 1, TC_GROUPS_MAX, &groups));
    TC_TRY(tc_json_u32(config, "topk_group", 1, TC_GROUPS_MAX, &top_groups));
    TC_TRY(tc_json_double(config, "routed_scaling_factor", 1e-6, 1e6, &scale));
    TC_TRY(tc_json_u32(config, "n_shared_experts", 1, TC_EXPERTS_MAX, &shared));
    TC_TRY(tc_json_u32(config, "first_k_dense_replace", 0, TC_LAYERS_MAX, &dense));
    if (desc->experts % groups || desc->experts / groups < 2 || top_groups > groups ||
        desc->experts / groups * top_groups < desc->top_k)
        return tc_fail(config->e, TC_FORMAT,
                       "%s: n_group %u and topk_group %u do not fit %u experts of which %u are chosen",
                       config->what, groups, top_groups, desc->experts, desc->top_k);
    if (shared > TC_WIDTH_MAX / desc->expert_width)
        return tc_fail(config->e, TC_FORMAT, "%s: n_shared_experts %u of width %u are together above %d",
                       config->what, shared, desc->expert_width, TC_WIDTH_MAX);
    if (dense >= desc->layers)
        return tc_fail(config->e, TC_UNSUPPORTED, "%s: first_k_dense_replace %u leaves no layer with experts",
                       config->what, dense);
    desc->shared_width = shared * desc->expert_width;
    desc->router_scale = (float)scale;
    if (top_groups < groups) {
        desc->router_groups = groups;
        desc->router_top_groups = top_groups;
    }
    for (uint32_t l = 0; l < dense; l++) desc->layer[l].moe = false;
    return TC_OK;
}

static double yarn_scale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

// Absent fields are those of transformers; `mscale_all_dim` also scales the scores (its users say how).
static tc_status read_yarn(const tc_json_object *rope, tc_model_desc *desc)
{
    tc_rope *r = &desc->rope;
    double scale = 0, all = 0, amplitude = 0;
    r->original_positions = desc->max_positions;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    TC_TRY(tc_json_double(rope, "original_max_position_embeddings", 1, TC_POSITIONS_MAX,
                          &r->original_positions));
    r->factor = desc->max_positions / r->original_positions;
    TC_TRY(tc_json_double(rope, "factor", 1, ROPE_FACTOR_MAX, &r->factor));
    TC_TRY(tc_json_double(rope, "beta_fast", 1e-3, ROPE_FACTOR_MAX, &r->beta_fast));
    TC_TRY(tc_json_double(rope, "beta_slow", 1e-3, ROPE_FACTOR_MAX, &r->beta_slow));
    TC_TRY(tc_json_bool(rope, "truncate", &r->truncate));
    TC_TRY(tc_json_double(rope, "mscale", 0, 100, &scale));
    TC_TRY(tc_json_double(rope, "mscale_all_dim", 0, 100, &all));
    amplitude = scale != 0 && all != 0 ? yarn_scale(r->factor, scale) / yarn_scale(r->factor, all)
                                       : yarn_scale(r->factor, 1);
    TC_TRY(tc_json_double(rope, "attention_factor", 1e-3, 1e3, &amplitude));
    r->amplitude = (float)amplitude;
    return TC_OK;
}

static tc_status rope_type(const tc_json_object *rope, const char *field, tc_model_desc *desc)
{
    const char *type = "default";
    TC_TRY(tc_json_string(rope, "type", &type)); // the older name; rope_type wins
    TC_TRY(tc_json_string(rope, "rope_type", &type));
    if (strcmp(type, "default") == 0) return TC_OK;
    if (strcmp(type, "yarn") == 0) return read_yarn(rope, desc);
    return tc_fail(rope->e, TC_UNSUPPORTED,
                   "%s: %s of type \"%.64s\" is not supported, only \"default\" and \"yarn\"", rope->what,
                   field, type);
}

tc_status tc_config_rope(const tc_json_object *config, tc_model_desc *desc, double *ret_factor)
{
    const char *field = "rope_scaling"; // takes the place of rope_parameters where both are given
    tc_json_object rope = {0};
    TC_TRY(tc_json_get_object(config, field, &rope));
    if (!rope.value) TC_TRY(tc_json_get_object(config, field = "rope_parameters", &rope));
    if (desc->rope.theta == 0) desc->rope.theta = 10000.0;
    TC_TRY(tc_json_double(config, "rope_theta", 1.0, ROPE_THETA_MAX, &desc->rope.theta));
    TC_TRY(tc_json_double(config, "partial_rotary_factor", 0.0, 1.0, ret_factor));
    if (!rope.value) return TC_OK;
    TC_TRY(rope_type(&rope, field, desc));
    TC_TRY(tc_json_double(&rope, "rope_theta", 1.0, ROPE_THETA_MAX, &desc->rope.theta));
    TC_TRY(tc_json_double(&rope, "partial_rotary_factor", 0.0, 1.0, ret_factor));
    if (desc->rope.factor != 0 && desc->rope.theta <= 1.0)
        return tc_fail(config->e, TC_FORMAT, "%s: rope_theta must be above 1 with YaRN", config->what);
    return TC_OK;
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
