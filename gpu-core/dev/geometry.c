// SPDX-License-Identifier: Apache-2.0
// Owns: how large pages and state slots are, which is the same on every device: so that what was kept of a
// session is a run of bytes whose length nobody has to ask the device for.
#include "gpu-core/dev/cpu/dense.h"
#include "gpu-core/dev/dev.h"

uint64_t tc_dev_page_bytes(const tc_dev_geometry *g)
{
    uint64_t row_bytes = tc_dense_padded(g->head_dim) * (g->kv_type == TC_KV_F16 ? 2u : 4u);
    return (uint64_t)g->kv_layers * 2 * g->kv_heads * TC_KV_PAGE_POSITIONS * row_bytes;
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
