// SPDX-License-Identifier: Apache-2.0
// Owns: how large pages and state slots are, which is the same on every device: so that what was kept of a
// session is a run of bytes whose length nobody has to ask the device for.
#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/dev.h"

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    uint64_t row_bytes = tc_dense_padded(g->head_dim) * (g->kv_type == TC_KV_F16 ? 2u : 4u);
    return (uint64_t)g->kv_layers * (g->value_dim ? 1 : 2) * g->kv_heads * TC_KV_PAGE_POSITIONS * row_bytes;
}

uint32_t tc_dev_value_dim(const tc_dev_geometry *g)
{
    return g->value_dim ? g->value_dim : g->head_dim;
}

// States with both dimensions padded, and the convolution's last inputs.
size_t tc_dev_state_floats(const tc_dev_geometry *g)
{
    if (g->dn_layers == 0) return 0;
    size_t channels =
        2 * (size_t)g->dn_key_heads * g->dn_key_dim + (size_t)g->dn_value_heads * g->dn_value_dim;
    size_t head = (size_t)tc_dense_padded(g->dn_value_dim) * tc_dense_padded(g->dn_key_dim);
    return g->dn_value_heads * head + ((g->dn_conv * channels + 15) & ~(size_t)15);
}

uint64_t tc_dev_slot_bytes(const tc_dev_geometry *g)
{
    return (uint64_t)g->dn_layers * tc_dev_state_floats(g) * sizeof(float);
}

void tc_delta_spans(const tc_dev_geometry *g, bool flat, tc_delta_args *ret)
{
    const uint32_t r = g->dn_value_heads / g->dn_key_heads, dk = g->dn_key_dim, dv = r * g->dn_value_dim;
    const uint32_t heads = flat ? g->dn_key_heads : 1, step = 2 * dk + 2 * dv;
    ret->q = (tc_span_at){0, flat ? dk : step};
    ret->k = (tc_span_at){heads * dk, flat ? dk : step};
    ret->v = (tc_span_at){2 * heads * dk, flat ? dv : step};
    ret->z = (tc_span_at){heads * (2 * dk + dv), flat ? dv : step};
    ret->b = (tc_span_at){0, flat ? r : 2 * r};
    ret->a = (tc_span_at){heads * r, flat ? r : 2 * r};
}
