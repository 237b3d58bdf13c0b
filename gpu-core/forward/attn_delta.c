// SPDX-License-Identifier: Apache-2.0
// Owns: a Gated DeltaNet layer's data flow: qkvz and ba projections -> convolution and recurrence on the
// device -> output projection into f->projected.
#include "gpu-core/forward/forward_impl.h"

void tc_forward_delta(tc_forward *f, const tc_layer_weights *layer, uint32_t n)
{
    uint32_t hidden = f->desc->hidden;
    const tc_matmul_job in[] = {
        {&layer->qkvz, f->normed, hidden, f->wide, layer->qkvz.rows, NULL},
        {&layer->ba, f->normed, hidden, f->ba, layer->ba.rows, NULL},
    };
    f->dev->ops->matmul(f->dev, in, 2, n);
    const tc_delta_args args = {
        .dn_layer = layer->kind_index,
        .qkvz = f->wide,
        .ba = f->ba,
        .conv = layer->conv,
        .neg_exp_a = layer->neg_exp_a,
        .dt_bias = layer->dt_bias,
        .norm = layer->dn_norm,
        .out = f->mixed,
    };
    f->dev->ops->delta(f->dev, &args);
    const tc_matmul_job out = {&layer->dn_out, f->mixed, layer->dn_out.cols, f->projected, hidden, NULL};
    f->dev->ops->matmul(f->dev, &out, 1, n);
}
