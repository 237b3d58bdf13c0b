// SPDX-License-Identifier: Apache-2.0
// Owns: a full-attention layer's data flow: q, k, v projections -> attention on the device -> o projection
// into f->projected; with latent keys: q and the latent -> keys' halves of the scores into the queries ->
// attention over the latents -> values of each head -> o projection.
#include "gpu-core/forward/forward_impl.h"

static void project_out(tc_forward *f, const tc_layer_weights *layer, const float *mixed, uint32_t n)
{
    const tc_matmul_job out = {&layer->o, mixed, layer->o.cols, f->projected, f->desc->hidden, layer->o_bias};
    f->dev->ops->matmul(f->dev, &out, 1, n);
}

// A position keeps [latent | rotary key], met by each head's [key_up^T q | rotary q]: the same products as
// with keys made anew from the latents, which nobody has to make.
static void attend_latent(tc_forward *f, const tc_layer_weights *layer, uint32_t n)
{
    const tc_model_desc *d = f->desc;
    const tc_dev_ops *ops = f->dev->ops;
    const uint32_t head = d->nope_dim + d->rotary_dim, key = d->kv_rank + d->rotary_dim;
    const float *q_in = f->normed;
    uint32_t q_cols = d->hidden;
    tc_matmul_job in[] = {
        {&layer->kv_a, f->normed, d->hidden, f->k, key, layer->kv_a_bias},
        {&layer->q_a, f->normed, d->hidden, f->latent_q, d->q_rank, layer->q_a_bias},
    };
    ops->matmul(f->dev, in, d->q_rank ? 2 : 1, n);
    if (d->q_rank) {
        ops->rmsnorm(f->dev, f->latent_q, layer->q_a_norm, n, d->q_rank, f->dev->geometry.latent_eps,
                     f->latent_q);
        q_in = f->latent_q;
        q_cols = d->q_rank;
    }
    const tc_matmul_job q = {&layer->q, q_in, q_cols, f->wide, d->heads * head, NULL};
    ops->matmul(f->dev, &q, 1, n);
    const tc_heads_args up = {.w = &layer->key_up,
                              .heads = d->heads,
                              .rows = d->kv_rank,
                              .copied = d->rotary_dim,
                              .x = f->wide,
                              .ldx = d->heads * head,
                              .head_x = head,
                              .y = f->latent,
                              .ldy = d->heads * key,
                              .head_y = key};
    ops->heads(f->dev, &up, n);
    const tc_attention_args args = {.kv_layer = layer->kind_index,
                                    .q = f->latent,
                                    .k = f->k,
                                    .k_norm = layer->k_norm,
                                    .window = layer->window,
                                    .out = f->latent_out};
    ops->attention(f->dev, &args);
    const tc_heads_args values = {.w = &layer->value_up,
                                  .heads = d->heads,
                                  .rows = d->value_dim,
                                  .x = f->latent_out,
                                  .ldx = d->heads * d->kv_rank,
                                  .head_x = d->kv_rank,
                                  .y = f->mixed,
                                  .ldy = d->heads * d->value_dim,
                                  .head_y = d->value_dim};
    ops->heads(f->dev, &values, n);
    project_out(f, layer, f->mixed, n);
}

void tc_forward_attention(tc_forward *f, const tc_layer_weights *layer, uint32_t n)
{
    const tc_model_desc *d = f->desc;
    const tc_dev_ops *ops = f->dev->ops;
    if (d->kv_rank) {
        attend_latent(f, layer, n);
        return;
    }
    const tc_matmul_job in[] = {
        {&layer->q, f->normed, d->hidden, f->wide, layer->q.rows, layer->q_bias},
        {&layer->k, f->normed, d->hidden, f->k, layer->k.rows, layer->k_bias},
        {&layer->v, f->normed, d->hidden, f->v, layer->v.rows, layer->v_bias},
    };
    ops->matmul(f->dev, in, 3, n);
    const bool by_head = d->qk_norm == TC_QK_NORM_HEAD;
    if (d->qk_norm == TC_QK_NORM_ALL) {
        ops->rmsnorm(f->dev, f->wide, layer->q_norm, n, layer->q.rows, d->rms_eps, f->wide);
        ops->rmsnorm(f->dev, f->k, layer->k_norm, n, layer->k.rows, d->rms_eps, f->k);
    }
    const tc_attention_args args = {
        .kv_layer = layer->kind_index,
        .q = f->wide,
        .k = f->k,
        .v = f->v,
        .q_norm = by_head ? layer->q_norm : NULL,
        .k_norm = by_head ? layer->k_norm : NULL,
        .gated = d->attn_gate,
        .clip = d->clip_qkv,
        .window = layer->window,
        .sinks = layer->sinks,
        .out = f->mixed,
    };
    ops->attention(f->dev, &args);
    project_out(f, layer, f->mixed, n);
}
