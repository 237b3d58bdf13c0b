// SPDX-License-Identifier: Apache-2.0
// Owns: what a model asks of a device: its geometry, and the scratch of a pass. Arithmetic only: `plan` sums
// it up where no device is. Refuses: to take any of it (forward.c, queued.c).
#include "gpu-core/forward/forward_impl.h"

#include <string.h>

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

uint32_t tc_forward_list_scratch(const tc_model_desc *d, size_t n, tc_scratch_size ret[TC_SCRATCH_BUFFERS])
{
    const size_t f = sizeof(float);
    uint32_t attn_q = d->heads * d->head_dim * (d->attn_gate ? 2 : 1), kv = d->kv_heads * d->head_dim;
    uint32_t latent = d->kv_rank ? d->kv_rank + d->rotary_dim : 0;
    uint32_t dn_v = d->dn_value_heads * d->dn_value_dim, dn_in = 2 * (d->dn_key_heads * d->dn_key_dim + dn_v);
    uint32_t width = max_u32(d->dense_width, d->shared_width);
    const tc_scratch_size all[] = {
        {offsetof(tc_forward, x), n * d->hidden * f},
        {offsetof(tc_forward, normed), n * d->hidden * f},
        {offsetof(tc_forward, wide), n * max_u32(attn_q, dn_in) * f},
        {offsetof(tc_forward, k), n * max_u32(kv, latent) * f},
        {offsetof(tc_forward, v), latent ? 0 : n * kv * f},
        {offsetof(tc_forward, latent_q), n * d->q_rank * f},
        {offsetof(tc_forward, latent), n * d->heads * latent * f},
        {offsetof(tc_forward, latent_out), n * d->heads * d->kv_rank * f},
        {offsetof(tc_forward, ba), n * 2 * d->dn_value_heads * f},
        {offsetof(tc_forward, mixed), n * max_u32(d->heads * max_u32(d->head_dim, d->value_dim), dn_v) * f},
        {offsetof(tc_forward, projected), n * d->hidden * f},
        {offsetof(tc_forward, router), n * d->experts * f},
        {offsetof(tc_forward, shared_gate), n * f},
        {offsetof(tc_forward, expert), n * d->layers * d->top_k * sizeof(uint32_t)},
        {offsetof(tc_forward, weight), n * d->top_k * f},
        {offsetof(tc_forward, expected), (n + TC_AHEAD_TOKENS_MAX) * d->top_k * sizeof(uint32_t)},
        {offsetof(tc_forward, next_router), TC_AHEAD_TOKENS_MAX * d->experts * f},
        {offsetof(tc_forward, expected_weight), n * d->top_k * f},
        {offsetof(tc_forward, counts), (d->experts + 1) * sizeof(uint32_t)},
        {offsetof(tc_forward, pairs), n * d->top_k * sizeof(tc_expert_pair)},
        {offsetof(tc_forward, sum), n * d->hidden * sizeof(int64_t)},
        {offsetof(tc_forward, gate), n * width * f},
        {offsetof(tc_forward, up), n * width * f},
        {offsetof(tc_forward, shared), n * d->hidden * f},
        {offsetof(tc_forward, logits_in), (size_t)TC_LOGIT_ROWS_MAX * d->hidden * f},
        {offsetof(tc_forward, logits), (size_t)TC_LOGIT_ROWS_MAX * d->vocab * f},
    };
    _Static_assert(sizeof all / sizeof *all == TC_SCRATCH_BUFFERS, "scratch list");
    memcpy(ret, all, sizeof all);
    return TC_SCRATCH_BUFFERS;
}

uint64_t tc_forward_scratch_bytes(const tc_model_desc *desc, uint32_t tokens)
{
    tc_scratch_size sizes[TC_SCRATCH_BUFFERS];
    uint64_t sum = 0;
    for (uint32_t i = 0, n = tc_forward_list_scratch(desc, tokens, sizes); i < n; i++) sum += sizes[i].bytes;
    return sum;
}

// The host's part of a pass on a device that only queues (queued.c).
uint64_t tc_forward_host_bytes(const tc_model_desc *d, uint32_t tokens)
{
    const uint64_t n = tokens, k = d->top_k ? d->top_k : 1;
    return n * d->hidden * (sizeof(float) + sizeof(int64_t)) +
           n * k * (d->layers * sizeof(uint32_t) + sizeof(float)) +
           (uint64_t)TC_LOGIT_ROWS_MAX * d->vocab * sizeof(float) + (d->experts + 1) * sizeof(uint32_t) +
           TC_QUEUED_TOKENS_MAX * k * sizeof(tc_expert_pair);
}

void tc_weights_geometry(const tc_model_desc *desc, tc_dev_geometry *ret)
{
    uint32_t keys = desc->kv_rank ? desc->kv_rank + desc->rotary_dim : desc->head_dim;
    uint32_t values = desc->kv_rank ? desc->value_dim : desc->head_dim;
    tc_dev_geometry g = {
        .heads = desc->heads,
        .kv_heads = desc->kv_heads,
        .head_dim = keys,
        .rotary_dim = desc->rotary_dim,
        .rotary_at = desc->kv_rank,
        .rope = desc->rope,
        .attn_scale = desc->attn_scale,
        .value_dim = desc->kv_rank,
        .latent_eps = 1e-6f, // transformers' default, whatever rms_norm_eps says
        .dn_key_heads = desc->dn_key_heads,
        .dn_value_heads = desc->dn_value_heads,
        .dn_key_dim = desc->dn_key_dim,
        .dn_value_dim = desc->dn_value_dim,
        .dn_conv = desc->dn_conv,
        .rms_eps = desc->rms_eps,
    };
    const uint32_t inputs[] = {desc->hidden,       desc->heads * values,
                               desc->q_rank,       desc->dn_value_heads * desc->dn_value_dim,
                               desc->shared_width, desc->dense_width};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (inputs[i] > g.matmul_cols_max) g.matmul_cols_max = inputs[i];
    for (uint32_t n = 0; n < desc->layers; n++) {
        if (desc->layer[n].kind == TC_LAYER_DELTA)
            g.dn_layers++;
        else
            g.kv_layers++;
    }
    *ret = g;
}
