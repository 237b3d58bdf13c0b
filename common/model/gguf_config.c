// SPDX-License-Identifier: Apache-2.0
// Owns: config.json and generation_config.json made out of a GGUF file's metadata, so that a family is read
// by one piece of code wherever it comes from. Numbers are copied, not judged: the family's reader does that,
// and tc_gguf_config_blame says which key a number came from. Refuses: architectures of which no family is
// known, and what config.json has no word for.
#include "common/base/json.h"
#include "common/model/gguf_model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARCHITECTURE_BYTES = 64, KEY_BYTES = 128 };

static const struct {
    const char *architecture, *family;
} families[] = {
    {"qwen3moe", "qwen3_moe"}, {"qwen3next", "qwen3_next"}, {"llama", "mixtral"}, {"gpt-oss", "gpt_oss"}};
enum { FAMILIES = sizeof families / sizeof *families };

// Keys behind "<architecture>.", and the field of config.json that each becomes.
static const struct {
    const char *key, *field;
    bool real;
} fields[] = {
    {"context_length", "max_position_embeddings", false},
    {"embedding_length", "hidden_size", false},
    {"feed_forward_length", "intermediate_size", false},
    {"attention.head_count", "num_attention_heads", false},
    {"attention.head_count_kv", "num_key_value_heads", false},
    {"attention.key_length", "head_dim", false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", true},
    {"rope.freq_base", "rope_theta", true},
    {"expert_count", "num_experts", false},
    {"expert_used_count", "num_experts_per_tok", false},
    {"expert_feed_forward_length", "moe_intermediate_size", false},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", false},
    {"full_attention_interval", "full_attention_interval", false},
    {"attention.sliding_window", "sliding_window", false},
    {"ssm.conv_kernel", "linear_conv_kernel_dim", false},
    {"ssm.state_size", "linear_key_head_dim", false},
    {"ssm.group_count", "linear_num_key_heads", false},
    {"ssm.time_step_rank", "linear_num_value_heads", false},
    // More than a copy; here for tc_gguf_config_blame.
    {"block_count", "num_hidden_layers", false},
    {"ssm.inner_size", "linear_value_head_dim", false},
    {"rope.dimension_count", "partial_rotary_factor", true},
    {"attention.recurrent_layers", "layer_types", false},
};
enum { FIELDS = sizeof fields / sizeof *fields, COPIED = FIELDS - 4 };

typedef struct maker {
    const char *what;
    const tc_gguf *g;
    const tc_tensor_table *table;
    char architecture[ARCHITECTURE_BYTES];
    char key[KEY_BYTES];
    yyjson_mut_doc *doc;
    yyjson_mut_val *root;
    tc_error *e;
} maker;

const char *tc_gguf_family(const char *architecture)
{
    for (int i = 0; i < FAMILIES; i++)
        if (strcmp(families[i].architecture, architecture) == 0) return families[i].family;
    return NULL;
}

static const char *key(maker *m, const char *rest)
{
    snprintf(m->key, sizeof m->key, "%s.%s", m->architecture, rest);
    return m->key;
}

static tc_status unsigned_of(maker *m, const char *rest, uint64_t *ret)
{
    return tc_gguf_u64(m->g, m->what, key(m, rest), 0, UINT32_MAX, ret, m->e);
}

static tc_status required(maker *m, const char *rest, uint64_t min, uint64_t *ret)
{
    if (!tc_gguf_find(m->g, key(m, rest)))
        return tc_fail(m->e, TC_FORMAT, "%s: %s is missing", m->what, m->key);
    return tc_gguf_u64(m->g, m->what, m->key, min, UINT32_MAX, ret, m->e);
}

static tc_status real_of(maker *m, const char *name, double *ret)
{
    TC_TRY(tc_gguf_double(m->g, m->what, name, ret, m->e));
    return isfinite(*ret) ? TC_OK : tc_fail(m->e, TC_FORMAT, "%s: %s is not finite", m->what, name);
}

static tc_status copy_field(maker *m, int i)
{
    if (!tc_gguf_find(m->g, key(m, fields[i].key))) return TC_OK;
    if (fields[i].real) {
        double value = 0;
        TC_TRY(real_of(m, m->key, &value));
        yyjson_mut_obj_add_real(m->doc, m->root, fields[i].field, value);
    } else {
        uint64_t value = 0;
        TC_TRY(unsigned_of(m, fields[i].key, &value));
        yyjson_mut_obj_add_uint(m->doc, m->root, fields[i].field, value);
    }
    return TC_OK;
}

static bool has_tensor(const maker *m, const char *name)
{
    return tc_names_find(&m->table->names, name, strlen(name)) != TC_NAME_NONE;
}

// Rows of the embedding: the vocabulary, whatever the tokenizer holds.
static tc_status vocabulary(maker *m)
{
    static const char name[] = "token_embd.weight";
    uint32_t id = tc_names_find(&m->table->names, name, strlen(name));
    if (id == TC_NAME_NONE) return tc_fail(m->e, TC_FORMAT, "%s: tensor %s is missing", m->what, name);
    const tc_tensor_entry *t = &m->table->entries[id];
    if (t->dims != 2)
        return tc_fail(m->e, TC_FORMAT, "%s: tensor %s has %u dimensions, must have 2", m->what, name,
                       t->dims);
    yyjson_mut_obj_add_uint(m->doc, m->root, "vocab_size", m->table->shapes[t->shape_at]);
    return TC_OK;
}

static tc_status layers(maker *m, uint64_t *ret)
{
    uint64_t blocks = 0, predictors = 0;
    TC_TRY(required(m, "block_count", 1, &blocks));
    TC_TRY(unsigned_of(m, "nextn_predict_layers", &predictors));
    if (predictors >= blocks)
        return tc_fail(m->e, TC_FORMAT, "%s: %s is %" PRIu64 ", block_count is %" PRIu64, m->what, m->key,
                       predictors, blocks);
    *ret = blocks - predictors; // those that predict further tokens come last and are not computed
    yyjson_mut_obj_add_uint(m->doc, m->root, "num_hidden_layers", *ret);
    return TC_OK;
}

static bool any_layer_has(const maker *m, uint64_t layer_count, const char *name)
{
    char full[64];
    for (uint64_t l = 0; l < layer_count && l < TC_LAYERS_MAX; l++) {
        snprintf(full, sizeof full, "blk.%" PRIu64 ".%s", l, name);
        if (has_tensor(m, full)) return true;
    }
    return false;
}

// Layers without experts are known by their tensors only.
static void dense_layers(maker *m, uint64_t layer_count)
{
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(m->doc, m->root, "mlp_only_layers");
    for (uint64_t l = 0; l < layer_count && l < TC_LAYERS_MAX; l++) {
        char name[48];
        snprintf(name, sizeof name, "blk.%" PRIu64 ".ffn_gate_inp.weight", l);
        if (!has_tensor(m, name)) yyjson_mut_arr_add_uint(m->doc, list, l);
    }
}

// YaRN is what config.json has words for; other ways to stretch positions are refused.
static tc_status rope_scaling(maker *m)
{
    static const char *const reals[][2] = {{"rope.scaling.factor", "factor"},
                                           {"rope.scaling.yarn_beta_fast", "beta_fast"},
                                           {"rope.scaling.yarn_beta_slow", "beta_slow"},
                                           {"rope.scaling.yarn_attn_factor", "attention_factor"}};
    const char *type = "none";
    uint64_t bytes = 4, positions = 0;
    TC_TRY(tc_gguf_string(m->g, m->what, key(m, "rope.scaling.type"), &type, &bytes, m->e));
    if (bytes != 4 || (memcmp(type, "none", 4) != 0 && memcmp(type, "yarn", 4) != 0))
        return tc_fail(m->e, TC_UNSUPPORTED, "%s: %s \"%.*s\" is not supported, only \"none\" and \"yarn\"",
                       m->what, m->key, bytes < 32 ? (int)bytes : 32, type);
    if (type[0] == 'n') return TC_OK;
    yyjson_mut_val *rope = yyjson_mut_obj_add_obj(m->doc, m->root, "rope_scaling");
    yyjson_mut_obj_add_str(m->doc, rope, "rope_type", "yarn");
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        double value = 0;
        if (!tc_gguf_find(m->g, key(m, reals[i][0]))) continue;
        TC_TRY(real_of(m, m->key, &value));
        yyjson_mut_obj_add_real(m->doc, rope, reals[i][1], value);
    }
    TC_TRY(unsigned_of(m, "rope.scaling.original_context_length", &positions));
    if (positions) yyjson_mut_obj_add_uint(m->doc, rope, "original_max_position_embeddings", positions);
    if (strcmp(m->architecture, "gpt-oss") == 0) yyjson_mut_obj_add_bool(m->doc, rope, "truncate", false);
    return TC_OK;
}

// What would change the arithmetic and has no field of its own.
static tc_status refuse_others(maker *m)
{
    uint64_t head = 0, value = 0;
    double factor = 1;
    TC_TRY(unsigned_of(m, "attention.key_length", &head));
    value = head;
    TC_TRY(unsigned_of(m, "attention.value_length", &value));
    if (value != head)
        return tc_fail(m->e, TC_UNSUPPORTED,
                       "%s: %s is %" PRIu64 ", only attention.key_length (%" PRIu64 ") is supported", m->what,
                       m->key, value, head);
    value = 1;
    TC_TRY(unsigned_of(m, "expert_gating_func", &value)); // absent or 1: softmax
    if (value > 1)
        return tc_fail(m->e, TC_UNSUPPORTED, "%s: %s %" PRIu64 " is not supported, only 1 (softmax)", m->what,
                       m->key, value);
    TC_TRY(tc_gguf_double(m->g, m->what, key(m, "expert_weights_scale"), &factor, m->e));
    if (factor != 1 && factor != 0)
        return tc_fail(m->e, TC_UNSUPPORTED, "%s: %s %g is not supported, only 1", m->what, m->key, factor);
    return TC_OK;
}

static tc_status delta_layers(maker *m, uint64_t layer_count)
{
    uint64_t inner = 0, heads = 0, head = 0, rotated = 0;
    const tc_gguf_value *recurrent;
    TC_TRY(required(m, "ssm.time_step_rank", 1, &heads));
    TC_TRY(required(m, "ssm.inner_size", 1, &inner));
    if (inner % heads)
        return tc_fail(m->e, TC_FORMAT, "%s: %s %" PRIu64 " is no multiple of ssm.time_step_rank %" PRIu64,
                       m->what, m->key, inner, heads);
    yyjson_mut_obj_add_uint(m->doc, m->root, "linear_value_head_dim", inner / heads);
    TC_TRY(required(m, "attention.key_length", 1, &head));
    TC_TRY(required(m, "rope.dimension_count", 1, &rotated));
    yyjson_mut_obj_add_real(m->doc, m->root, "partial_rotary_factor", (double)rotated / (double)head);
    TC_TRY(
        tc_gguf_array(m->g, m->what, key(m, "attention.recurrent_layers"), TC_GGUF_BOOL, &recurrent, m->e));
    if (!recurrent) return TC_OK;
    if (recurrent->count < layer_count)
        return tc_fail(m->e, TC_FORMAT, "%s: %s has %" PRIu64 " entries for %" PRIu64 " layers", m->what,
                       m->key, recurrent->count, layer_count);
    yyjson_mut_val *types = yyjson_mut_obj_add_arr(m->doc, m->root, "layer_types");
    for (uint64_t l = 0; l < layer_count; l++)
        yyjson_mut_arr_add_str(m->doc, types,
                               m->g->data[recurrent->at + l] ? "linear_attention" : "full_attention");
    return TC_OK;
}

static tc_status fill(maker *m)
{
    const char *text = NULL;
    uint64_t bytes = 0, layer_count = 0;
    bool norm = true;
    TC_TRY(tc_gguf_string(m->g, m->what, "general.architecture", &text, &bytes, m->e));
    if (!text) return tc_fail(m->e, TC_FORMAT, "%s: general.architecture is missing", m->what);
    snprintf(m->architecture, sizeof m->architecture, "%.*s", bytes < sizeof m->architecture ? (int)bytes : 0,
             text);
    const char *family = tc_gguf_family(m->architecture);
    if (strcmp(m->architecture, "llama") == 0 && !tc_gguf_find(m->g, "llama.expert_count"))
        return tc_fail(m->e, TC_UNSUPPORTED,
                       "%s: llama.expert_count is missing: only models of experts are supported", m->what);
    if (!family) {
        char list[128];
        size_t n = 0;
        for (int i = 0; i < FAMILIES && n < sizeof list; i++)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", families[i].architecture);
        return tc_fail(m->e, TC_UNSUPPORTED, "%s: general.architecture \"%.*s\" is not supported, only: %s",
                       m->what, bytes < 64 ? (int)bytes : 64, text, list);
    }
    yyjson_mut_obj_add_str(m->doc, m->root, "model_type", family);
    for (int i = 0; i < COPIED; i++) TC_TRY(copy_field(m, i));
    TC_TRY(vocabulary(m));
    TC_TRY(layers(m, &layer_count));
    TC_TRY(rope_scaling(m));
    TC_TRY(refuse_others(m));
    dense_layers(m, layer_count);
    yyjson_mut_obj_add_bool(m->doc, m->root, "tie_word_embeddings", !has_tensor(m, "output.weight"));
    yyjson_mut_obj_add_bool(m->doc, m->root, "attention_bias", any_layer_has(m, layer_count, "attn_q.bias"));
    TC_TRY(tc_gguf_bool(m->g, m->what, key(m, "expert_weights_norm"), &norm, m->e));
    yyjson_mut_obj_add_bool(m->doc, m->root, "norm_topk_prob", norm);
    return strcmp(family, "qwen3_next") == 0 ? delta_layers(m, layer_count) : TC_OK;
}

static tc_status write_out(maker *m, char **ret, size_t *ret_bytes)
{
    *ret = yyjson_mut_write(m->doc, YYJSON_WRITE_NOFLAG, ret_bytes);
    return *ret ? TC_OK : tc_fail(m->e, TC_NOMEM, "%s: no memory for its configuration", m->what);
}

static tc_status begin(maker *m)
{
    m->doc = yyjson_mut_doc_new(NULL);
    m->root = m->doc ? yyjson_mut_obj(m->doc) : NULL;
    if (!m->root) return tc_fail(m->e, TC_NOMEM, "%s: no memory for its configuration", m->what);
    yyjson_mut_doc_set_root(m->doc, m->root);
    return TC_OK;
}

tc_status tc_gguf_config(const char *what, const tc_gguf *g, const tc_tensor_table *table, char **ret,
                         size_t *ret_bytes, tc_error *e)
{
    maker m = {.what = what, .g = g, .table = table, .e = e};
    tc_status status;
    TC_GOTO(begin(&m));
    TC_GOTO(fill(&m));
    TC_GOTO(write_out(&m, ret, ret_bytes));
out:
    yyjson_mut_doc_free(m.doc);
    return status;
}

void tc_gguf_config_blame(tc_error *e)
{
    static const char before[] = ".gguf: config.json: ";
    const char *text = strstr(e->text, before);
    for (int i = 0; text && i < FIELDS; i++) {
        size_t n = strlen(e->text), length = strlen(fields[i].field);
        const char *at = text + strlen(before);
        if (strncmp(at, fields[i].field, length) != 0 || at[length] == '_') continue;
        snprintf(e->text + n, sizeof e->text - n, " (key <architecture>.%s)", fields[i].key);
        return;
    }
}

// ---- generation_config.json ----

// Tokens that end a turn by their name, where they are control tokens: files name one end of sequence only.
static const char *const ends[] = {"<|endoftext|>",   "<|im_end|>", "<|eot_id|>",
                                   "<|end_of_text|>", "<|return|>", "<|call|>"};

static bool is_end(const char *text, uint64_t bytes)
{
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (strlen(ends[i]) == bytes && memcmp(ends[i], text, bytes) == 0) return true;
    return false;
}

static tc_status token_ends(maker *m, yyjson_mut_val *list, uint64_t *named, uint32_t count)
{
    enum { CONTROL = 3 };
    const tc_gguf_value *tokens, *types;
    TC_TRY(tc_gguf_array(m->g, m->what, "tokenizer.ggml.tokens", TC_GGUF_STRING, &tokens, m->e));
    TC_TRY(tc_gguf_array(m->g, m->what, "tokenizer.ggml.token_type", TC_GGUF_I32, &types, m->e));
    if (!tokens || !types) return TC_OK;
    uint64_t at = tokens->at, bytes;
    for (uint64_t i = 0; i < tokens->count && i < types->count; i++) {
        const char *text = tc_gguf_next_string(m->g, &at, &bytes);
        bool known = false;
        for (uint32_t k = 0; k < count; k++) known |= named[k] == i;
        if (known || tc_gguf_i32_at(m->g, types, i) != CONTROL || !is_end(text, bytes)) continue;
        if (yyjson_mut_arr_size(list) < TC_EOS_MAX) yyjson_mut_arr_add_uint(m->doc, list, i);
    }
    return TC_OK;
}

static tc_status fill_generation(maker *m)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    static const char *const reals[][2] = {{"general.sampling.temp", "temperature"},
                                           {"general.sampling.top_p", "top_p"},
                                           {"general.sampling.min_p", "min_p"},
                                           {"general.sampling.penalty_repeat", "repetition_penalty"}};
    uint64_t id[3], top_k = 0;
    uint32_t count = 0;
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(m->doc, m->root, "eos_token_id");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!tc_gguf_find(m->g, keys[i])) continue;
        TC_TRY(tc_gguf_u64(m->g, m->what, keys[i], 0, UINT32_MAX, &id[count], m->e));
        yyjson_mut_arr_add_uint(m->doc, list, id[count++]);
    }
    TC_TRY(token_ends(m, list, id, count));
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        double value = 0;
        if (!tc_gguf_find(m->g, reals[i][0])) continue;
        TC_TRY(real_of(m, reals[i][0], &value));
        yyjson_mut_obj_add_real(m->doc, m->root, reals[i][1], value);
    }
    if (tc_gguf_find(m->g, "general.sampling.top_k")) {
        TC_TRY(tc_gguf_u64(m->g, m->what, "general.sampling.top_k", 0, INT32_MAX, &top_k, m->e));
        yyjson_mut_obj_add_uint(m->doc, m->root, "top_k", top_k);
    }
    yyjson_mut_obj_add_bool(m->doc, m->root, "do_sample",
                            tc_gguf_find(m->g, "general.sampling.temp") != NULL);
    return TC_OK;
}

tc_status tc_gguf_generation(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes, tc_error *e)
{
    maker m = {.what = what, .g = g, .e = e};
    tc_status status;
    TC_GOTO(begin(&m));
    TC_GOTO(fill_generation(&m));
    TC_GOTO(write_out(&m, ret, ret_bytes));
out:
    yyjson_mut_doc_free(m.doc);
    return status;
}
