// SPDX-License-Identifier: Apache-2.0
// Owns: a full-attention layer's data flow: q, k, v projections -> attention on the device -> o projection
// into f->projected.
#include "gpu-core/forward/forward_impl.h"

void tc_forward_attention(tc_forward *f, const tc_layer_weights *layer, uint32_t n)
{
    uint32_t hidden = f->desc->hidden;
    const tc_matmul_job in[] = {
        {&layer->q, f->normed, hidden, f->wide, layer->q.rows, layer->q_bias},
        {&layer->k, f->normed, hidden, f->k, layer->k.rows, layer->k_bias},
        {&layer->v, f->normed, hidden, f->v, layer->v.rows, layer->v_bias},
    };
    f->dev->ops->matmul(f->dev, in, 3, n);
    const tc_attention_args args = {
        .kv_layer = layer->kind_index,
        .q = f->wide,
        .k = f->k,
        .v = f->v,
        .q_norm = layer->q_norm,
        .k_norm = layer->k_norm,
        .gated = f->desc->attn_gate,
        .out = f->mixed,
    };
    f->dev->ops->attention(f->dev, &args);
    const tc_matmul_job out = {&layer->o, f->mixed, layer->o.cols, f->projected, hidden, layer->o_bias};
    f->dev->ops->matmul(f->dev, &out, 1, n);
}
