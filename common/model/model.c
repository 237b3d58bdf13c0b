// SPDX-License-Identifier: Apache-2.0
// Owns: the table of families, tensor names and shapes by role, and loading a model directory's description.
// Refuses: model types it does not know, with the list of those it does.
#include "common/model/family.h"
#include "common/model/gguf_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 4 << 20, CONFIG_DEPTH_MAX = 16 };

static const tc_family *const families[] = {
    &tc_family_qwen3_next,       &tc_family_qwen3_moe, &tc_family_qwen3_5_moe,
    &tc_family_qwen3_5_moe_text, &tc_family_mixtral,   &tc_family_olmoe,
    &tc_family_glm4_moe,         &tc_family_gpt_oss,   &tc_family_deepseek_v3};
enum { FAMILIES = sizeof families / sizeof *families };

static const tc_family *family_named(const char *model_type)
{
    for (size_t i = 0; i < FAMILIES; i++)
        if (strcmp(families[i]->model_type, model_type) == 0) return families[i];
    return NULL;
}

static void expand(const tc_family *family, const char *format, uint32_t layer, uint32_t expert,
                   char ret[TC_TENSOR_NAME_BYTES])
{
    static const char model[] = "model.";
    size_t n = 0;
    if (format && family->prefix && strncmp(format, model, sizeof model - 1) == 0) {
        n = (size_t)snprintf(ret, TC_TENSOR_NAME_BYTES, "%s", family->prefix);
        format += sizeof model - 1;
    }
    while (format && *format && n < TC_TENSOR_NAME_BYTES - 12) {
        if (*format != '{') {
            ret[n++] = *format++;
            continue;
        }
        n += (size_t)snprintf(ret + n, TC_TENSOR_NAME_BYTES - n, "%u", format[1] == 'L' ? layer : expert);
        format += 3;
    }
    ret[n] = '\0';
}

void tc_model_tensor_name(const tc_model_desc *desc, tc_role role, uint32_t layer, uint32_t expert,
                          char ret[TC_TENSOR_NAME_BYTES])
{
    const tc_family *family = family_named(desc->family);
    if (role == TC_HEAD && desc->tied_embeddings) role = TC_EMBED;
    bool known = family && (unsigned)role < TC_ROLES;
    expand(family, known ? family->names[role] : NULL, layer, expert, ret);
}

bool tc_model_stacked(const tc_model_desc *desc, tc_role role, uint32_t layer, tc_stacked *ret,
                      char ret_name[TC_TENSOR_NAME_BYTES])
{
    const tc_family *family = family_named(desc->family);
    if (!family || !family->stacked || role < TC_EXPERT_GATE || role > TC_EXPERT_DOWN) return false;
    *ret = family->stacked[role - TC_EXPERT_GATE];
    expand(family, ret->name, layer, 0, ret_name);
    return true;
}

// Whether `name` begins with the pattern; *ret_rest is what follows.
static bool match(const char *pattern, const char *name, uint32_t *layer, uint32_t *expert,
                  const char **ret_rest)
{
    while (*pattern) {
        if (*pattern != '{') {
            if (*pattern++ != *name++) return false;
            continue;
        }
        char *end;
        if (*name < '0' || *name > '9') return false;
        unsigned long number = strtoul(name, &end, 10);
        if (number > UINT32_MAX) return false;
        *(pattern[1] == 'L' ? layer : expert) = (uint32_t)number;
        name = end;
        pattern += 3;
    }
    *ret_rest = name;
    return true;
}

bool tc_model_tensor_role(const tc_model_desc *desc, const char *name, tc_role *ret, uint32_t *ret_layer,
                          uint32_t *ret_expert, const char **ret_suffix)
{
    const tc_family *family = family_named(desc->family);
    for (int role = 0; family && role < TC_ROLES; role++) {
        const char *rest;
        *ret_layer = *ret_expert = 0;
        if (!family->names[role] || !match(family->names[role], name, ret_layer, ret_expert, &rest)) continue;
        if (*rest && strcmp(rest, ".weight") != 0 && strcmp(rest, ".bias") != 0) continue;
        *ret = (tc_role)role;
        *ret_suffix = rest;
        return true;
    }
    return false;
}

void tc_model_tensor_shape(const tc_model_desc *d, tc_role role, uint32_t layer, uint32_t *ret_rows,
                           uint32_t *ret_cols)
{
    (void)layer; // no family has layers of different size yet
    uint32_t q = d->heads * d->head_dim, kv = d->kv_heads * d->head_dim;
    uint32_t q_norm = d->qk_norm == TC_QK_NORM_ALL ? q : d->head_dim;
    uint32_t k_norm = d->qk_norm == TC_QK_NORM_ALL ? kv : d->head_dim;
    uint32_t dk = d->dn_key_heads * d->dn_key_dim, dv = d->dn_value_heads * d->dn_value_dim;
    const struct {
        uint32_t rows, cols;
    } shape[TC_ROLES] = {
        [TC_EMBED] = {d->vocab, d->hidden},
        [TC_FINAL_NORM] = {d->hidden, 1},
        [TC_HEAD] = {d->vocab, d->hidden},
        [TC_INPUT_NORM] = {d->hidden, 1},
        [TC_POST_NORM] = {d->hidden, 1},
        [TC_Q] = {d->attn_gate ? 2 * q : q, d->hidden},
        [TC_K] = {kv, d->hidden},
        [TC_V] = {kv, d->hidden},
        [TC_O] = {d->hidden, d->kv_rank ? d->heads * d->value_dim : q},
        [TC_Q_NORM] = {q_norm, 1},
        [TC_K_NORM] = {k_norm, 1},
        [TC_DN_QKVZ] = {2 * dk + 2 * dv, d->hidden},
        [TC_DN_BA] = {2 * d->dn_value_heads, d->hidden},
        [TC_DN_CONV] = {2 * dk + dv, d->dn_conv},
        [TC_DN_NORM] = {d->dn_value_dim, 1},
        [TC_DN_A_LOG] = {d->dn_value_heads, 1},
        [TC_DN_DT_BIAS] = {d->dn_value_heads, 1},
        [TC_DN_OUT] = {d->hidden, dv},
        [TC_ROUTER] = {d->experts, d->hidden},
        [TC_EXPERT_GATE] = {d->expert_width, d->hidden},
        [TC_EXPERT_UP] = {d->expert_width, d->hidden},
        [TC_EXPERT_DOWN] = {d->hidden, d->expert_width},
        [TC_SHARED_GATE] = {d->shared_width, d->hidden},
        [TC_SHARED_UP] = {d->shared_width, d->hidden},
        [TC_SHARED_DOWN] = {d->hidden, d->shared_width},
        [TC_SHARED_ROUTER] = {1, d->hidden},
        [TC_MLP_GATE] = {d->dense_width, d->hidden},
        [TC_MLP_UP] = {d->dense_width, d->hidden},
        [TC_MLP_DOWN] = {d->hidden, d->dense_width},
        [TC_SINKS] = {d->heads, 1},
        [TC_ROUTER_CORRECTION] = {d->experts, 1},
        [TC_Q_A] = {d->q_rank, d->hidden},
        [TC_Q_A_NORM] = {d->q_rank, 1},
        [TC_Q_B] = {q, d->q_rank},
        [TC_KV_A] = {d->kv_rank + d->rotary_dim, d->hidden},
        [TC_KV_A_NORM] = {d->kv_rank, 1},
        [TC_KV_B] = {d->heads * (d->nope_dim + d->value_dim), d->kv_rank},
        [TC_DN_QKV] = {2 * dk + dv, d->hidden},
        [TC_DN_Z] = {dv, d->hidden},
        [TC_DN_B] = {d->dn_value_heads, d->hidden},
        [TC_DN_A] = {d->dn_value_heads, d->hidden},
    };
    bool known = (unsigned)role < TC_ROLES;
    *ret_rows = known ? shape[role].rows : 0;
    *ret_cols = known ? shape[role].cols : 0;
}

static tc_status unknown_type(const tc_json_object *config, const char *type)
{
    char list[256];
    size_t n = 0;
    for (size_t i = 0; i < FAMILIES && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", families[i]->model_type);
    return tc_fail(config->e, TC_UNSUPPORTED, "%s: model_type \"%.64s\" is not supported, only: %s",
                   config->what, type, list);
}

static tc_status read_config(const tc_json_object *config, tc_model_desc *desc)
{
    const char *type = "";
    TC_TRY(tc_json_require(config, "model_type"));
    TC_TRY(tc_json_string(config, "model_type", &type));
    const tc_family *family = family_named(type);
    if (!family) return unknown_type(config, type);
    tc_json_object part = *config;
    if (family->config) {
        TC_TRY(tc_json_require(config, family->config));
        TC_TRY(tc_json_get_object(config, family->config, &part));
    }
    TC_TRY(family->read(&part, desc));
    snprintf(desc->family, sizeof desc->family, "%s", family->model_type);
    if (desc->rotary_dim < 2 || desc->rotary_dim > desc->head_dim || desc->rotary_dim % 2 != 0)
        return tc_fail(
            config->e, TC_FORMAT,
            "%s: head_dim %u and partial_rotary_factor give %u rotated dimensions, must be an even number",
            config->what, desc->head_dim, desc->rotary_dim);
    TC_TRY(tc_config_token_ids(&part, "eos_token_id", desc->vocab, desc->generation.eos,
                               &desc->generation.eos_count));
    return tc_config_token_ids(config, "eos_token_id", desc->vocab, desc->generation.eos,
                               &desc->generation.eos_count);
}

static tc_status read_float(const tc_json_object *o, const char *field, double min, double max, float *ret)
{
    double number = *ret;
    TC_TRY(tc_json_double(o, field, min, max, &number));
    *ret = (float)number;
    return TC_OK;
}

static tc_status read_generation(const tc_json_object *o, uint32_t vocab, tc_generation_defaults *g)
{
    TC_TRY(tc_json_bool(o, "do_sample", &g->do_sample));
    TC_TRY(read_float(o, "temperature", 0.0, 100.0, &g->temperature));
    TC_TRY(read_float(o, "top_p", 0.0, 1.0, &g->top_p));
    TC_TRY(read_float(o, "min_p", 0.0, 1.0, &g->min_p));
    TC_TRY(read_float(o, "repetition_penalty", 0.01, 100.0, &g->repetition_penalty));
    TC_TRY(tc_json_u32(o, "top_k", 0, INT32_MAX, &g->top_k));
    return tc_config_token_ids(o, "eos_token_id", vocab, g->eos, &g->eos_count);
}

static tc_status load(const char *model, tc_model_file file, char what[TC_MODEL_PATH_BYTES], yyjson_doc **ret,
                      tc_error *e)
{
    char *text;
    size_t bytes;
    TC_TRY(tc_model_text(model, file, CONFIG_BYTES_MAX, &text, &bytes, what, e));
    tc_status status = tc_json_parse(what, text, bytes, CONFIG_DEPTH_MAX, ret, e);
    free(text);
    return status;
}

static tc_status load_generation(const char *model, tc_model_desc *desc, tc_error *e)
{
    char what[TC_MODEL_PATH_BYTES];
    yyjson_doc *doc = NULL;
    tc_json_object object;
    tc_status status = load(model, TC_FILE_GENERATION, what, &doc, e);
    if (status == TC_NOT_FOUND) return TC_OK;
    if (status != TC_OK) return status;
    TC_GOTO(tc_json_object_of(yyjson_doc_get_root(doc), what, &object, e));
    TC_GOTO(read_generation(&object, desc->vocab, &desc->generation));
out:
    yyjson_doc_free(doc);
    return status;
}

tc_status tc_model_desc_load(const char *model, tc_model_desc *ret, tc_error *e)
{
    char what[TC_MODEL_PATH_BYTES];
    yyjson_doc *doc = NULL;
    tc_json_object object;
    tc_model_desc desc = {0};
    tc_status status;
    TC_GOTO(load(model, TC_FILE_CONFIG, what, &doc, e));
    TC_GOTO(tc_json_object_of(yyjson_doc_get_root(doc), what, &object, e));
    TC_GOTO(read_config(&object, &desc));
    desc.generation.temperature = desc.generation.top_p = desc.generation.repetition_penalty = 1.0f;
    desc.generation.top_k = 50; // transformers' defaults
    TC_GOTO(load_generation(model, &desc, e));
    *ret = desc;
out:
    yyjson_doc_free(doc);
    if (status != TC_OK && strstr(e->text, ".gguf: config.json: ")) tc_gguf_config_blame(e);
    return status;
}

static uint64_t layers_of_kind(const tc_model_desc *desc, tc_layer_kind kind)
{
    uint64_t n = 0;
    for (uint32_t l = 0; l < desc->layers; l++) n += desc->layer[l].kind == kind;
    return n;
}

uint64_t tc_model_kv_bytes(const tc_model_desc *d, uint32_t positions, uint32_t element_bytes)
{
    uint64_t floats = d->kv_rank ? d->kv_rank + d->rotary_dim : 2ull * d->kv_heads * d->head_dim;
    return layers_of_kind(d, TC_LAYER_FULL_ATTENTION) * positions * floats * element_bytes;
}

uint64_t tc_model_state_bytes(const tc_model_desc *d)
{
    if (d->dn_conv == 0) return 0;
    uint64_t recurrent = (uint64_t)d->dn_value_heads * d->dn_key_dim * d->dn_value_dim;
    uint64_t channels =
        2ull * d->dn_key_heads * d->dn_key_dim + (uint64_t)d->dn_value_heads * d->dn_value_dim;
    return layers_of_kind(d, TC_LAYER_DELTA) * (recurrent + channels * (d->dn_conv - 1)) * sizeof(float);
}
