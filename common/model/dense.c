// SPDX-License-Identifier: Apache-2.0
// Owns: the walk over the roles of a model's dense weights and what each is held as.
#include "common/model/dense.h"
#include "common/model/checkpoint_internal.h"
#include "common/model/matrix.h"

#include <stdio.h>
#include <string.h>

// Roles of a layer that the core loads, by what the layer is.
static bool is_loaded(const tc_model_desc *d, tc_role role, uint32_t layer)
{
    const tc_layer_desc *l = &d->layer[layer];
    bool delta = l->kind == TC_LAYER_DELTA;
    switch (role) {
    case TC_EXPERT_GATE:
    case TC_EXPERT_UP:
    case TC_EXPERT_DOWN:
        return false;
    case TC_INPUT_NORM:
    case TC_POST_NORM:
        return true;
    case TC_MLP_GATE:
    case TC_MLP_UP:
    case TC_MLP_DOWN:
        return !l->moe;
    case TC_ROUTER:
    case TC_ROUTER_CORRECTION:
        return l->moe;
    case TC_SHARED_GATE:
    case TC_SHARED_UP:
    case TC_SHARED_DOWN:
        return l->moe && d->shared_width;
    case TC_SHARED_ROUTER:
        return l->moe && d->shared_width && d->shared_gate;
    case TC_Q_NORM:
    case TC_K_NORM:
        return !delta && d->qk_norm != TC_QK_NORM_NONE;
    case TC_DN_QKVZ:
    case TC_DN_BA:
    case TC_DN_CONV:
    case TC_DN_NORM:
    case TC_DN_A_LOG:
    case TC_DN_DT_BIAS:
    case TC_DN_OUT:
    case TC_DN_QKV:
    case TC_DN_Z:
    case TC_DN_B:
    case TC_DN_A:
        return delta;
    default:
        return !delta;
    }
}

// Latent attention keeps keys and values of kv_b as a matrix a head each, in 16 bits where it has 16.
static uint64_t latent_bytes(const tc_model_desc *d, tc_dtype dtype)
{
    const tc_matrix_form form = {dtype == TC_BF16 ? TC_M_BF16 : TC_M_F32, 0, 0};
    return tc_matrix_bytes(&form, d->heads * d->kv_rank, d->nope_dim) +
           tc_matrix_bytes(&form, d->heads * d->value_dim, d->kv_rank);
}

// What a role's weights take, and what its matrix is.
typedef struct held {
    uint64_t bytes, multiply_adds; // no matrix: 0 of the latter
    tc_matrix_type type;
    bool four; // stored in 4 bits
} held;

static tc_status matrix_bytes(const tc_checkpoint *c, tc_role role, const char *base, uint32_t rows,
                              uint32_t cols, const tc_dense_options *o, held *ret, tc_error *e)
{
    tc_weight w;
    TC_TRY(tc_checkpoint_weight_like(c, base, rows, cols, &w, e));
    if (o->keep) w.coarse = false;
    tc_matrix_form form = tc_matrix_form_for(&w, 0, cols);
    bool latent = role == TC_KV_B;
    ret->bytes = latent ? latent_bytes(tc_checkpoint_desc(c), w.dtype) : tc_matrix_bytes(&form, rows, cols);
    ret->multiply_adds = (uint64_t)rows * cols;
    ret->type = latent ? TC_M_F32 : form.type; // its activations stay in float32 (cpu.c)
    ret->four = w.quantised;
    return TC_OK;
}

// A matrix with its bias, or a vector; nothing where the checkpoint has neither.
static tc_status role_bytes(const tc_checkpoint *c, tc_role role, uint32_t layer, const tc_dense_options *o,
                            held *ret, tc_error *e)
{
    char base[TC_TENSOR_NAME_BYTES], name[TC_TENSOR_BYTES];
    uint32_t rows, cols;
    *ret = (held){0};
    tc_model_tensor_name(tc_checkpoint_desc(c), role, layer, 0, base);
    if (!*base) return TC_OK;
    tc_model_tensor_shape(tc_checkpoint_desc(c), role, layer, &rows, &cols);
    snprintf(name, sizeof name, "%s.weight", base);
    bool there = tc_checkpoint_has(c, name), vector = cols == 1 || role == TC_DN_CONV;
    if (vector && (there || tc_checkpoint_has(c, base))) ret->bytes = (uint64_t)rows * cols * sizeof(float);
    if (!vector && there) TC_TRY(matrix_bytes(c, role, base, rows, cols, o, ret, e));
    snprintf(name, sizeof name, "%s.bias", base);
    if (!vector && tc_checkpoint_has(c, name)) ret->bytes += rows * sizeof(float);
    return TC_OK;
}

static tc_dense_kind kind_of(tc_role role)
{
    switch (role) {
    case TC_ROUTER:
        return TC_DENSE_ROUTER;
    case TC_SHARED_GATE:
    case TC_SHARED_UP:
    case TC_SHARED_DOWN:
    case TC_SHARED_ROUTER:
    case TC_MLP_GATE:
    case TC_MLP_UP:
    case TC_MLP_DOWN:
        return TC_DENSE_MLP;
    default:
        return TC_DENSE_PROJECTIONS;
    }
}

static void count_round(tc_dense_bytes *sum, tc_role role, const held *h)
{
    tc_dense_round *round = &sum->round[kind_of(role)];
    if (!h->multiply_adds) return;
    round->bytes += h->bytes;
    // A router's activations are not rounded to 16 bits.
    bool unrounded = role == TC_ROUTER && h->type == TC_M_BF16;
    round->multiply_adds[unrounded ? TC_M_F32 : h->type] += h->multiply_adds;
}

tc_status tc_dense_bytes_of(const tc_checkpoint *c, const tc_dense_options *o, tc_dense_bytes *ret,
                            tc_error *e)
{
    const tc_model_desc *d = tc_checkpoint_desc(c);
    tc_dense_bytes sum = {0};
    held h, head;
    TC_TRY(role_bytes(c, TC_EMBED, 0, o, &h, e));
    sum.embedding = h.bytes;
    head = h;
    if (!d->tied_embeddings) {
        TC_TRY(role_bytes(c, TC_HEAD, 0, o, &head, e));
        sum.head = head.bytes;
    }
    sum.head_is_4bit = head.four;
    sum.head_type = head.type;
    TC_TRY(role_bytes(c, TC_FINAL_NORM, 0, o, &h, e));
    sum.rest += h.bytes;
    for (uint32_t l = 0; l < d->layers; l++) {
        for (int role = TC_INPUT_NORM; role < TC_ROLES; role++) {
            if (!is_loaded(d, (tc_role)role, l)) continue;
            TC_TRY(role_bytes(c, (tc_role)role, l, o, &h, e));
            sum.rest += h.bytes;
            count_round(&sum, (tc_role)role, &h);
        }
        if (d->layer[l].moe && d->expert_bias) sum.rest += (uint64_t)d->experts * d->hidden * sizeof(float);
    }
    *ret = sum;
    return TC_OK;
}

tc_matrix_type tc_dense_head_type(const tc_model_desc *d, const tc_dense_bytes *b, const char *head)
{
    bool spans = d->hidden % TC_SPAN_COLS == 0;
    if (!head || strcmp(head, "keep") == 0 || b->head_is_4bit) return b->head_type;
    if (strcmp(head, "int8") == 0) return spans ? TC_M_Q8 : b->head_type;
    if (strcmp(head, "nf4") == 0 && spans) return TC_M_Q4;
    return strcmp(head, "nf4") == 0 && b->head_type == TC_M_F16 ? TC_M_F16 : TC_M_BF16;
}

uint64_t tc_dense_head_bytes(const tc_model_desc *d, const tc_dense_bytes *b, const char *head)
{
    const tc_matrix_form four = {TC_M_Q4, 64, d->hidden / TC_SPAN_COLS}, eight = {TC_M_Q8, TC_SPAN_COLS, 0},
                         half = {TC_M_BF16, 0, 0};
    bool spans = d->hidden % TC_SPAN_COLS == 0;
    if (!head || strcmp(head, "keep") == 0 || b->head_is_4bit) return b->head;
    if (strcmp(head, "int8") == 0 && !spans) return b->head ? b->head : b->embedding;
    const tc_matrix_form *form = strcmp(head, "nf4") == 0 && spans ? &four
                                 : strcmp(head, "int8") == 0       ? &eight
                                                                   : &half;
    return tc_matrix_bytes(form, d->vocab, d->hidden);
}
