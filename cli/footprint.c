// SPDX-License-Identifier: Apache-2.0
// Owns: the walk over the tensors and the size of one packed expert.
#include "cli/footprint.h"
#include "common/model/matrix.h"
#include "common/model/store.h"

#include <string.h>

enum { KV_BYTES = 2 };   // the core's default element
enum { UNIT_COLS = 64 }; // store.h: a unit is 64 columns of width where 64 divides it

const char *const tc_part_names[TC_PARTS] = {
    "embedding",      "head",       "full attention", "Gated DeltaNet", "routers",
    "shared experts", "dense MLPs", "routed experts", "norms",          "ignored",
};

// The first name part that occurs decides; the order matters (".mlp.experts." before ".mlp.").
static const struct {
    const char *text;
    tc_part part;
} rules[] = {
    {"mtp.", TC_PART_OTHER},
    {"_exps.", TC_PART_EXPERTS}, // from here on names of GGUF files
    {"_shexp.", TC_PART_SHARED},
    {".ffn_gate_inp.", TC_PART_ROUTER},
    {".ffn_norm.", TC_PART_NORMS},
    {".ffn_", TC_PART_MLP},
    {".ssm_", TC_PART_DELTA},
    {".attn_gate.", TC_PART_DELTA},
    {".attn_qkv.", TC_PART_DELTA},
    {"attn_norm.", TC_PART_NORMS},
    {"attention_norm.", TC_PART_NORMS},
    {".attn_q_norm.", TC_PART_NORMS},
    {".attn_k_norm.", TC_PART_NORMS},
    {".attn_", TC_PART_ATTENTION},
    {"token_embd", TC_PART_EMBEDDING},
    {"output.weight", TC_PART_HEAD}, // and from here on Hugging Face's
    {".experts.", TC_PART_EXPERTS},
    {".shared_expert", TC_PART_SHARED},
    {"layernorm", TC_PART_NORMS},
    {".mlp.gate.", TC_PART_ROUTER},
    {".mlp.router.", TC_PART_ROUTER},
    {".block_sparse_moe.gate.", TC_PART_ROUTER},
    {"model.visual.", TC_PART_OTHER},
    {".mlp.", TC_PART_MLP},
    {".linear_attn.", TC_PART_DELTA},
    {".self_attn.", TC_PART_ATTENTION},
    {"embed_tokens", TC_PART_EMBEDDING},
    {"lm_head", TC_PART_HEAD},
    {"norm", TC_PART_NORMS},
};

static tc_part part_of(const char *name)
{
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strstr(name, rules[i].text)) return rules[i].part;
    return TC_PART_OTHER;
}

static bool count(void *arg, const tc_tensor_info *info)
{
    tc_footprint *f = arg;
    tc_part part = part_of(info->name);
    f->tensors[part]++;
    f->bytes[part] += info->bytes;
    if (strstr(info->name, ".quant_state.bitsandbytes__")) f->quantised_tensors++;
    return true;
}

// Packed bytes of one linear of an expert, cut into units along its rows (gate, up) or columns (down).
static tc_status linear_bytes(const tc_checkpoint *c, tc_role role, uint32_t layer, tc_quantise quantise,
                              uint32_t unit, tc_footprint *f, tc_error *e)
{
    const tc_model_desc *desc = tc_checkpoint_desc(c);
    static const char *const types[TC_M_TYPES] = {[TC_M_Q4] = "4-bit",
                                                  [TC_M_Q8] = "8-bit",
                                                  [TC_M_BF16] = "bf16",
                                                  [TC_M_F16] = "f16",
                                                  [TC_M_F32] = "f32"};
    uint32_t rows, cols;
    tc_weight weight = {0};
    bool down = role == TC_EXPERT_DOWN;
    tc_model_tensor_shape(desc, role, layer, &rows, &cols);
    TC_TRY(tc_checkpoint_expert(c, role, layer, 0, &weight, e));
    if (quantise == TC_QUANTISE_KEEP) weight.coarse = false;
    weight.eight = quantise == TC_QUANTISE_INT8 && !weight.quantised;
    tc_status status =
        quantise == TC_QUANTISE_NF4 && !weight.quantised ? tc_weight_quantise_nf4(&weight, e) : TC_OK;
    if (status == TC_OK) {
        uint32_t unit_rows = down ? rows : unit, unit_cols = down ? unit : cols;
        tc_matrix_form form = tc_matrix_form_for(&weight, 0, unit_cols);
        f->expert_bytes +=
            (uint64_t)tc_matrix_bytes(&form, unit_rows, unit_cols) * (desc->expert_width / unit);
        f->expert_type = types[form.type];
        f->expert_matrix = form.type;
        f->expert_on_gpu &= form.type == TC_M_Q4 && form.group == TC_SPAN_COLS;
    }
    tc_weight_free(&weight);
    return status;
}

static uint64_t linear_multiply_adds(const tc_model_desc *desc, tc_role role, uint32_t layer)
{
    uint32_t rows, cols;
    tc_model_tensor_shape(desc, role, layer, &rows, &cols);
    return (uint64_t)rows * cols;
}

static void count_multiply_adds(const tc_model_desc *desc, tc_footprint *f)
{
    static const tc_role attention[] = {TC_Q, TC_K, TC_V, TC_O},
                         latent[] = {TC_Q_A, TC_Q_B, TC_KV_A, TC_KV_B, TC_O},
                         delta[] = {TC_DN_QKVZ, TC_DN_BA, TC_DN_OUT}, // flat ones are as large together
        expert[] = {TC_EXPERT_GATE, TC_EXPERT_UP, TC_EXPERT_DOWN},
                         shared[] = {TC_SHARED_GATE, TC_SHARED_UP, TC_SHARED_DOWN, TC_SHARED_ROUTER},
                         dense[] = {TC_MLP_GATE, TC_MLP_UP, TC_MLP_DOWN};
    f->head_multiply_adds = linear_multiply_adds(desc, TC_HEAD, 0);
    for (uint32_t l = 0; l < desc->layers; l++) {
        uint64_t sum = 0, one = 0;
        if (desc->layer[l].kind == TC_LAYER_DELTA)
            for (int i = 0; i < 3; i++) sum += linear_multiply_adds(desc, delta[i], l);
        else if (desc->kv_rank)
            for (int i = 0; i < 5; i++) sum += linear_multiply_adds(desc, latent[i], l);
        else
            for (int i = 0; i < 4; i++) sum += linear_multiply_adds(desc, attention[i], l);
        if (desc->layer[l].moe) {
            for (int i = 0; i < 3; i++) one += linear_multiply_adds(desc, expert[i], l);
            for (int i = 0; i < 4 && desc->shared_width; i++) sum += linear_multiply_adds(desc, shared[i], l);
            sum += linear_multiply_adds(desc, TC_ROUTER, l) + desc->top_k * one;
            f->expert_multiply_adds = one;
        } else {
            for (int i = 0; i < 3; i++) sum += linear_multiply_adds(desc, dense[i], l);
        }
        f->token_multiply_adds += sum;
    }
}

tc_status tc_footprint_of(const tc_checkpoint *c, tc_quantise quantise, tc_footprint *ret, tc_error *e)
{
    const tc_model_desc *desc = tc_checkpoint_desc(c);
    tc_footprint f = {.expert_type = "none"};
    uint32_t first = 0, unit = desc->expert_width % UNIT_COLS ? desc->expert_width : UNIT_COLS;
    tc_checkpoint_walk(c, count, &f);
    for (uint32_t i = desc->layers; i-- > 0;)
        if (desc->layer[i].moe) f.moe_layers++, first = i;
    const tc_dense_options dense = {.keep = quantise == TC_QUANTISE_KEEP};
    TC_TRY(tc_dense_bytes_of(c, &dense, &f.dense, e));
    f.dense_bytes = f.dense.embedding + f.dense.head + f.dense.rest;
    f.expert_on_gpu = f.moe_layers && unit == UNIT_COLS && desc->hidden % TC_SPAN_COLS == 0;
    if (f.moe_layers)
        for (tc_role role = TC_EXPERT_GATE; role <= TC_EXPERT_DOWN; role++)
            TC_TRY(linear_bytes(c, role, first, quantise, unit, &f, e));
    f.unit = unit;
    f.experts_bytes = f.expert_bytes * desc->experts * f.moe_layers;
    f.token_experts_bytes = f.expert_bytes * desc->top_k * f.moe_layers;
    f.token_dense_bytes = f.dense_bytes - (desc->tied_embeddings ? 0 : f.dense.embedding);
    f.kv_position_bytes = tc_model_kv_bytes(desc, 1, KV_BYTES);
    f.state_bytes = tc_model_state_bytes(desc);
    count_multiply_adds(desc, &f);
    *ret = f;
    return TC_OK;
}

void tc_footprint_head(tc_footprint *f, const tc_model_desc *desc, const char *head)
{
    uint64_t old = desc->tied_embeddings ? f->dense.embedding : f->dense.head;
    uint64_t now = tc_dense_head_bytes(desc, &f->dense, head);
    if (now) f->token_dense_bytes = f->token_dense_bytes - old + now;
}
