// SPDX-License-Identifier: Apache-2.0
// Owns: a Gated DeltaNet layer's data flow: qkvz and ba projections -> convolution and recurrence on the
// device -> output projection into f->projected.
#include "gpu-core/forward/forward_impl.h"

void tc_forward_delta(tc_forward *f, const tc_layer_weights *layer, uint32_t n)
{
    uint32_t hidden = f->desc->hidden;
    const tc_model_desc *d = f->desc;
    const uint32_t values = d->dn_value_heads, z = values * d->dn_value_dim;
    const uint32_t row = 2 * (d->dn_key_heads * d->dn_key_dim + z), qkv = row - z;
    const tc_matmul_job in[] = {
        {&layer->qkvz, f->normed, hidden, f->wide, row, NULL},
        {&layer->ba, f->normed, hidden, f->ba, 2 * values, NULL},
        {&layer->dn_z, f->normed, hidden, f->wide + qkv, row, NULL}, // these two: flat projections
        {&layer->dn_a, f->normed, hidden, f->ba + values, 2 * values, NULL},
    };
    f->dev->ops->matmul(f->dev, in, d->dn_flat ? 4 : 2, n);
    tc_delta_args args = {
        .dn_layer = layer->kind_index,
        .qkvz = f->wide,
        .ba = f->ba,
        .conv = layer->conv,
        .neg_exp_a = layer->neg_exp_a,
        .dt_bias = layer->dt_bias,
        .norm = layer->dn_norm,
        .out = f->mixed,
    };
    tc_delta_spans(&f->dev->geometry, d->dn_flat, &args);
    f->dev->ops->delta(f->dev, &args);
    const tc_matmul_job out = {&layer->dn_out, f->mixed, layer->dn_out.cols, f->projected, hidden, NULL};
    f->dev->ops->matmul(f->dev, &out, 1, n);
}
