// SPDX-License-Identifier: Apache-2.0
// Owns: the list of what to load where, and loading it in parallel. The list is made first, so that every
// tensor of a model is named in one place and a failure names the tensor.
#include "gpu-core/forward/weights.h"
#include "common/base/team.h"
#include "common/model/dtype.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

typedef enum item_kind {
    ITEM_MATRIX,
    ITEM_VECTOR,      // as it is
    ITEM_NORM,        // 1 + w where the family's norms are zero-centred
    ITEM_NEG_EXP,     // -exp(w)
    ITEM_CONV,        // [channels][1][taps] -> [taps][channels]
    ITEM_KEY_UP,      // the keys' rows of kv_b, each head's transposed
    ITEM_VALUE_UP,    // its values' rows
    ITEM_EXPERT_BIAS, // of the down projections of all experts
} item_kind;

typedef struct load_item {
    item_kind kind;
    char name[TC_TENSOR_NAME_BYTES + 8];
    uint32_t layer, rows, cols;
    tc_matrix *matrix;
    float **vector;
    tc_output head; // matrices: made into this first
    bool table;     // only rows of it are read
    bool router;
} load_item;

typedef struct loader {
    const tc_checkpoint *checkpoint;
    const tc_model_desc *desc;
    tc_weights *weights;
    tc_output head;
    load_item *items;
    uint32_t count;
    void (*progress)(void *arg, uint32_t done, uint32_t total);
    void *arg;
    _Atomic uint32_t done;
    _Atomic bool failed;
    _Atomic uint64_t bytes;
    tc_error error; // of the first failure; written by the member that set `failed`
} loader;

static void add(loader *l, item_kind kind, tc_role role, uint32_t layer, const char *suffix,
                tc_matrix *matrix, float **vector)
{
    load_item *item = &l->items[l->count++];
    char base[TC_TENSOR_NAME_BYTES];
    tc_model_tensor_name(l->desc, role, layer, 0, base);
    snprintf(item->name, sizeof item->name, "%s%s", base, suffix);
    tc_model_tensor_shape(l->desc, role, layer, &item->rows, &item->cols);
    item->kind = kind;
    item->matrix = matrix;
    item->vector = vector;
}

static void add_matrix(loader *l, tc_role role, uint32_t layer, tc_matrix *matrix)
{
    add(l, ITEM_MATRIX, role, layer, "", matrix, NULL);
}

static void add_bias(loader *l, tc_role role, uint32_t layer, float **vector)
{
    add(l, ITEM_VECTOR, role, layer, ".bias", NULL, vector);
    l->items[l->count - 1].cols = 1;
}

static void add_norm(loader *l, tc_role role, uint32_t layer, float **vector)
{
    add(l, ITEM_NORM, role, layer, ".weight", NULL, vector);
}

static void list_latent(loader *l, uint32_t n, tc_layer_weights *w)
{
    const tc_model_desc *d = l->desc;
    if (d->q_rank) {
        add_matrix(l, TC_Q_A, n, &w->q_a);
        add_norm(l, TC_Q_A_NORM, n, &w->q_a_norm);
        if (d->attn_bias) add_bias(l, TC_Q_A, n, &w->q_a_bias);
    }
    add_matrix(l, d->q_rank ? TC_Q_B : TC_Q, n, &w->q);
    add_matrix(l, TC_KV_A, n, &w->kv_a);
    add_norm(l, TC_KV_A_NORM, n, &w->k_norm);
    if (d->attn_bias) add_bias(l, TC_KV_A, n, &w->kv_a_bias);
    add(l, ITEM_KEY_UP, TC_KV_B, n, "", &w->key_up, NULL);
    add(l, ITEM_VALUE_UP, TC_KV_B, n, "", &w->value_up, NULL);
    add_matrix(l, TC_O, n, &w->o);
    if (d->attn_o_bias) add_bias(l, TC_O, n, &w->o_bias);
}

static void list_attention(loader *l, uint32_t n, tc_layer_weights *w)
{
    const tc_model_desc *d = l->desc;
    if (d->kv_rank) {
        list_latent(l, n, w);
        return;
    }
    add_matrix(l, TC_Q, n, &w->q);
    add_matrix(l, TC_K, n, &w->k);
    add_matrix(l, TC_V, n, &w->v);
    add_matrix(l, TC_O, n, &w->o);
    if (d->qk_norm != TC_QK_NORM_NONE) {
        add_norm(l, TC_Q_NORM, n, &w->q_norm);
        add_norm(l, TC_K_NORM, n, &w->k_norm);
    }
    if (d->attn_sinks) add(l, ITEM_VECTOR, TC_SINKS, n, "", NULL, &w->sinks);
    if (d->attn_o_bias) add_bias(l, TC_O, n, &w->o_bias);
    if (!d->attn_bias) return;
    add_bias(l, TC_Q, n, &w->q_bias);
    add_bias(l, TC_K, n, &w->k_bias);
    add_bias(l, TC_V, n, &w->v_bias);
}

static void list_delta(loader *l, uint32_t n, tc_layer_weights *w)
{
    add_matrix(l, l->desc->dn_flat ? TC_DN_QKV : TC_DN_QKVZ, n, &w->qkvz);
    add_matrix(l, l->desc->dn_flat ? TC_DN_B : TC_DN_BA, n, &w->ba);
    if (l->desc->dn_flat) {
        add_matrix(l, TC_DN_Z, n, &w->dn_z);
        add_matrix(l, TC_DN_A, n, &w->dn_a);
    }
    add_matrix(l, TC_DN_OUT, n, &w->dn_out);
    add(l, ITEM_CONV, TC_DN_CONV, n, ".weight", NULL, &w->conv);
    add(l, ITEM_VECTOR, TC_DN_NORM, n, ".weight", NULL, &w->dn_norm);
    add(l, ITEM_NEG_EXP, TC_DN_A_LOG, n, "", NULL, &w->neg_exp_a);
    add(l, ITEM_VECTOR, TC_DN_DT_BIAS, n, "", NULL, &w->dt_bias);
}

static void list_mlp(loader *l, uint32_t n, tc_layer_weights *w)
{
    if (!w->moe) {
        add_matrix(l, TC_MLP_GATE, n, &w->mlp.gate);
        add_matrix(l, TC_MLP_UP, n, &w->mlp.up);
        add_matrix(l, TC_MLP_DOWN, n, &w->mlp.down);
        return;
    }
    add_matrix(l, TC_ROUTER, n, &w->router);
    l->items[l->count - 1].router = true;
    if (l->desc->router_bias) add_bias(l, TC_ROUTER, n, &w->router_bias);
    if (l->desc->router_correction)
        add(l, ITEM_VECTOR, TC_ROUTER_CORRECTION, n, "", NULL, &w->router_correction);
    if (l->desc->expert_bias) {
        add(l, ITEM_EXPERT_BIAS, TC_EXPERT_DOWN, n, "", NULL, &w->expert_bias);
        l->items[l->count - 1].layer = n;
    }
    if (!l->desc->shared_width) return;
    add_matrix(l, TC_SHARED_GATE, n, &w->mlp.gate);
    add_matrix(l, TC_SHARED_UP, n, &w->mlp.up);
    add_matrix(l, TC_SHARED_DOWN, n, &w->mlp.down);
    if (l->desc->shared_gate) add_matrix(l, TC_SHARED_ROUTER, n, &w->shared_router);
}

enum { ITEMS_A_LAYER_MAX = 26 };

// The largest matrices first: they take longest, and the team ends together.
static void list_all(loader *l)
{
    tc_weights *w = l->weights;
    uint32_t of_kind[2] = {0, 0};
    add_matrix(l, TC_EMBED, 0, &w->embed);
    l->items[l->count - 1].table = true;
    if (!l->desc->tied_embeddings || l->head != TC_OUTPUT_KEEP || w->dev->ops->table) {
        add_matrix(l, TC_HEAD, 0, &w->head);
        l->items[l->count - 1].head = l->head;
    }
    add(l, ITEM_NORM, TC_FINAL_NORM, 0, ".weight", NULL, &w->final_norm);
    for (uint32_t n = 0; n < l->desc->layers; n++) {
        tc_layer_weights *layer = &w->layer[n];
        layer->kind = l->desc->layer[n].kind;
        layer->moe = l->desc->layer[n].moe;
        layer->kind_index = of_kind[layer->kind]++;
        layer->window = l->desc->layer[n].sliding ? l->desc->sliding_window : 0;
        add(l, ITEM_NORM, TC_INPUT_NORM, n, ".weight", NULL, &layer->input_norm);
        add(l, ITEM_NORM, TC_POST_NORM, n, ".weight", NULL, &layer->post_norm);
        if (layer->kind == TC_LAYER_DELTA)
            list_delta(l, n, layer);
        else
            list_attention(l, n, layer);
        list_mlp(l, n, layer);
    }
}

static tc_status round_to_bf16(tc_weight *w, tc_error *e)
{
    uint64_t count = (uint64_t)w->rows * w->cols;
    uint16_t *to = w->data; // no element becomes longer: in place, in rising order
    if (w->block_type) to = tc_alloc(TC_MEM_OTHER, count, sizeof *to); // blocks are shorter
    if (!to) return tc_fail(e, TC_NOMEM, "out of memory for %llu weights", (unsigned long long)count);
    for (uint64_t i = 0; i < count;) {
        float values[256];
        uint64_t some = count - i < 256 ? count - i : 256;
        tc_weight_dequantise(w, i, some, values);
        for (uint64_t k = 0; k < some; k++) to[i++] = tc_float_to_bf16(values[k]);
    }
    if (w->block_type) tc_free(w->data);
    w->data = to;
    w->dtype = TC_BF16;
    w->block_type = 0;
    w->coarse = false;
    return TC_OK;
}

static tc_status convert_head(tc_weight *w, tc_output head, tc_error *e)
{
    if (w->quantised || head == TC_OUTPUT_KEEP || head == TC_OUTPUT_INT8) return TC_OK;
    if (head == TC_OUTPUT_NF4) return tc_weight_quantise_nf4(w, e);
    return w->dtype == TC_BF16 ? TC_OK : round_to_bf16(w, e);
}

// Half of kv_b's rows, head by head, in a weight of its own: of the stored dtype, so nothing is lost.
static tc_status take_heads(const loader *l, item_kind kind, tc_weight *w, tc_error *e)
{
    const tc_model_desc *d = l->desc;
    uint32_t nope = d->nope_dim, value = d->value_dim, rank = d->kv_rank;
    bool keys = kind == ITEM_KEY_UP;
    uint32_t rows = d->heads * (keys ? rank : value), cols = keys ? nope : rank;
    float *row = tc_alloc(TC_MEM_OTHER, rank, sizeof *row);
    float *to = tc_alloc(TC_MEM_OTHER, (size_t)rows * cols, sizeof *to);
    if (!row || !to) {
        tc_free(row);
        tc_free(to);
        return tc_fail(e, TC_NOMEM, "no memory for [%u, %u] floats", rows, cols);
    }
    for (uint32_t h = 0; h < d->heads; h++)
        for (uint32_t i = 0; i < (keys ? nope : value); i++) {
            tc_weight_dequantise(w, ((uint64_t)h * (nope + value) + (keys ? 0 : nope) + i) * rank, rank, row);
            for (uint32_t c = 0; c < rank; c++)
                to[keys ? ((size_t)h * rank + c) * nope + i : ((size_t)h * value + i) * rank + c] = row[c];
        }
    tc_free(row);
    tc_dtype dtype = w->dtype;
    tc_weight_free(w);
    *w = (tc_weight){.rows = rows, .cols = cols, .dtype = TC_F32, .data = to};
    return dtype == TC_BF16 ? round_to_bf16(w, e) : TC_OK;
}

static tc_status load_matrix(loader *l, const load_item *item, tc_error *e)
{
    tc_weight weight = {0};
    TC_TRY(tc_checkpoint_weight(l->checkpoint, item->name, item->rows, item->cols, &weight, e));
    static const tc_matrix_form eight_bits = {.type = TC_M_Q8, .group = TC_SPAN_COLS};
    bool int8 = item->head == TC_OUTPUT_INT8 && !weight.quantised && item->cols % TC_SPAN_COLS == 0;
    tc_dev *dev = l->weights->dev;
    tc_status status = convert_head(&weight, item->head, e);
    if (status == TC_OK && item->kind != ITEM_MATRIX) status = take_heads(l, item->kind, &weight, e);
    if (status == TC_OK && item->table && dev->ops->table)
        status = dev->ops->table(dev, &weight, item->matrix, e);
    else if (status == TC_OK)
        status = dev->ops->matrix(dev, &weight, int8 ? &eight_bits : NULL, item->matrix, e);
    item->matrix->unrounded = item->router; // a rounded one may choose other experts
    if (status == TC_OK)
        atomic_fetch_add(&l->bytes,
                         tc_matrix_bytes(&item->matrix->form, item->matrix->rows, item->matrix->cols));
    else
        tc_error_prefix(e, "%s", item->name);
    tc_weight_free(&weight);
    return status;
}

static tc_status read_values(const loader *l, const load_item *item, uint64_t count, float **ret, tc_error *e)
{
    if (item->kind != ITEM_EXPERT_BIAS) return tc_checkpoint_vector(l->checkpoint, item->name, count, ret, e);
    float *all = tc_alloc(TC_MEM_WEIGHTS, count, sizeof *all);
    tc_status status = all ? TC_OK : tc_fail(e, TC_NOMEM, "%s: out of memory", item->name);
    for (uint32_t x = 0; status == TC_OK && x < l->desc->experts; x++)
        status = tc_checkpoint_expert_bias(l->checkpoint, TC_EXPERT_DOWN, item->layer, x,
                                           all + (size_t)x * l->desc->hidden, e);
    if (status == TC_OK)
        *ret = all;
    else
        tc_free(all);
    return status;
}

static tc_status load_vector(loader *l, const load_item *item, tc_error *e)
{
    uint64_t count = (uint64_t)item->rows * item->cols;
    tc_dev *dev = l->weights->dev;
    float *values = NULL, *placed = NULL, *made;
    tc_status status = TC_OK;
    if (item->kind == ITEM_EXPERT_BIAS) count = (uint64_t)l->desc->experts * l->desc->hidden;
    TC_TRY(read_values(l, item, count, &values, e));
    made = tc_alloc(TC_MEM_OTHER, count, sizeof *made);
    if (made) placed = dev->ops->alloc(dev, TC_MEM_WEIGHTS, count * sizeof(float));
    if (!placed)
        TC_GOTO(
            tc_fail(e, TC_NOMEM, "%s: out of memory for %llu floats", item->name, (unsigned long long)count));
    bool ready = tc_checkpoint_ready(l->checkpoint);
    for (uint64_t i = 0; i < count; i++) {
        float v = values[i];
        uint64_t at = i;
        if (!ready && item->kind == ITEM_NORM && l->desc->norm_zero_centred) v = 1.0f + v;
        if (!ready && item->kind == ITEM_NEG_EXP) v = -expf(v);
        if (item->kind == ITEM_CONV) at = i % item->cols * item->rows + i / item->cols;
        made[at] = v;
    }
    dev->ops->upload(dev, placed, made, count * sizeof(float));
    *item->vector = placed;
    atomic_fetch_add(&l->bytes, count * sizeof(float));
out:
    tc_free(made);
    tc_free(values);
    return status;
}

static void load_one(void *arg, uint32_t i, uint32_t member)
{
    loader *l = arg;
    if (atomic_load(&l->failed)) return;
    tc_error error = {0};
    const load_item *item = &l->items[i];
    tc_status status = item->matrix ? load_matrix(l, item, &error) : load_vector(l, item, &error);
    bool expected = false;
    if (status != TC_OK && atomic_compare_exchange_strong(&l->failed, &expected, true)) l->error = error;
    uint32_t done = atomic_fetch_add(&l->done, 1) + 1;
    if (l->progress && member == 0) l->progress(l->arg, done, l->count);
}

tc_status tc_weights_load(const tc_checkpoint *checkpoint, tc_dev *dev, tc_team *team, tc_output head,
                          void (*progress)(void *arg, uint32_t done, uint32_t total), void *arg,
                          tc_weights **ret, tc_error *e)
{
    tc_status status = TC_OK;
    loader l = {.checkpoint = checkpoint, .head = head, .progress = progress, .arg = arg};
    tc_weights *w = tc_alloc(TC_MEM_OTHER, 1, sizeof *w);
    if (!w) return tc_fail(e, TC_NOMEM, "out of memory for the weights' index");
    w->dev = dev;
    w->desc_copy = *tc_checkpoint_desc(checkpoint);
    w->desc = l.desc = &w->desc_copy;
    w->layer = tc_alloc(TC_MEM_OTHER, w->desc->layers, sizeof *w->layer);
    l.weights = w;
    l.items = tc_alloc(TC_MEM_OTHER, (size_t)ITEMS_A_LAYER_MAX * w->desc->layers + 4, sizeof *l.items);
    if (!w->layer || !l.items) {
        status = tc_fail(e, TC_NOMEM, "out of memory for the weights' index");
        goto out;
    }
    list_all(&l);
    tc_team_each(team, l.count, load_one, &l);
    if (atomic_load(&l.failed)) {
        if (e) *e = l.error;
        status = l.error.status;
        goto out;
    }
    if (!w->head.data) w->head = w->embed; // tied
    w->bytes = atomic_load(&l.bytes);
    *ret = w;
    w = NULL;
out:
    tc_free(l.items);
    tc_weights_free(w);
    return status;
}

static void free_matrix(tc_dev *dev, tc_matrix *m)
{
    dev->ops->release(dev, (void *)m->data);
    m->data = NULL;
}

static void free_layer(tc_dev *dev, tc_layer_weights *l)
{
    tc_matrix *matrices[] = {&l->q,        &l->k,      &l->v,        &l->o,      &l->q_a,
                             &l->kv_a,     &l->key_up, &l->value_up, &l->qkvz,   &l->ba,
                             &l->dn_z,     &l->dn_a,   &l->dn_out,   &l->router, &l->shared_router,
                             &l->mlp.gate, &l->mlp.up, &l->mlp.down};
    float *vectors[] = {
        l->input_norm, l->post_norm, l->q_norm,  l->k_norm,   l->q_bias,      l->k_bias,
        l->v_bias,     l->o_bias,    l->sinks,   l->q_a_norm, l->q_a_bias,    l->kv_a_bias,
        l->conv,       l->neg_exp_a, l->dt_bias, l->dn_norm,  l->router_bias, l->router_correction,
        l->expert_bias};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) free_matrix(dev, matrices[i]);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) dev->ops->release(dev, vectors[i]);
}

void tc_weights_free(tc_weights *w)
{
    if (!w) return;
    if (w->head.data == w->embed.data) w->head.data = NULL;
    free_matrix(w->dev, &w->embed);
    free_matrix(w->dev, &w->head);
    w->dev->ops->release(w->dev, w->final_norm);
    for (uint32_t n = 0; w->layer && n < w->desc->layers; n++) free_layer(w->dev, &w->layer[n]);
    tc_free(w->layer);
    tc_free(w);
}
