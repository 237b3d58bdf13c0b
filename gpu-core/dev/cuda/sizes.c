// SPDX-License-Identifier: Apache-2.0
// Owns: what the cuda device takes of VRAM beside the weights, as sums. No driver is needed for them: the
// core's start and `plan` add them up where there is no GPU.
#include "gpu-core/dev/cuda/sizes.h"

#include "gpu-core/dev/cpu/dense.h"

#include <string.h>

enum { SPLIT_BYTES_MAX = 256 << 20 };

uint64_t tc_cuda_kv_bytes(const tc_cuda_options *o)
{
    return tc_dev_page_bytes(&o->geometry) * o->geometry.pages;
}

tc_cuda_batch_layout tc_cuda_lay_out(const tc_cuda_options *o)
{
    const tc_dev_geometry *g = &o->geometry;
    tc_cuda_batch_layout l = {0};
    uint32_t pages_a_session = g->positions_max / TC_KV_PAGE_POSITIONS + 1;
    l.blocks_max = (uint32_t)((uint64_t)o->tokens_max * tc_cuda_group_of(g) / TC_GPU_ATTENTION_ROWS) +
                   TC_BATCH_SEGMENTS_MAX;
    l.pages_max = pages_a_session * TC_BATCH_SEGMENTS_MAX;
    size_t at = 64;
    l.segments = at, at += TC_BATCH_SEGMENTS_MAX * sizeof(tc_gpu_segment);
    l.segment = at, at += (size_t)o->tokens_max * 4;
    l.position = at, at += (size_t)o->tokens_max * 4;
    l.block_segment = at, at += (size_t)l.blocks_max * 4;
    l.block_row = at, at += (size_t)l.blocks_max * 4;
    l.pages = at, at += (size_t)l.pages_max * 4;
    l.bytes = at;
    return l;
}

static uint64_t part_rows(const tc_cuda_options *o)
{
    const tc_dev_geometry *g = &o->geometry;
    uint64_t chunks = (g->positions_max + TC_GPU_CHUNK - 1) / TC_GPU_CHUNK, tokens = TC_BATCH_SEGMENTS_MAX;
    if (g->slots < tokens) tokens = g->slots;
    return tokens * g->heads * chunks;
}

void tc_cuda_block_bytes(const tc_cuda_options *o, uint64_t ret[TC_CUDA_BLOCKS])
{
    const tc_dev_geometry *g = &o->geometry;
    const uint64_t n = o->tokens_max, cols = (g->matmul_cols_max + 63) / 64 * 64, f = sizeof(float);
    const uint64_t dkp = (g->dn_key_dim + 15) & ~15u, padded = tc_dense_padded(g->head_dim);
    const uint64_t partial = part_rows(o) * padded * f;
    const bool split = partial <= SPLIT_BYTES_MAX && !tc_cuda_is_wide(g);
    const uint64_t all[TC_CUDA_BLOCKS] = {
        [TC_CUDA_MAP] = 256 * f,
        [TC_CUDA_FAILED] = TC_CUDA_RESULT_BYTES,
        [TC_CUDA_POSTED] = 8 + 4 * TC_GPU_MAILBOXES_MAX, // joined, then posted
        [TC_CUDA_BATCH] = tc_cuda_lay_out(o).bytes,
        [TC_CUDA_KV] = tc_cuda_kv_bytes(o),
        [TC_CUDA_STATES] = tc_dev_slot_bytes(g) * g->slots,
        [TC_CUDA_INVERSE_FREQUENCY] = (g->rotary_dim / 2 + 1) * f,
        [TC_CUDA_Q_HALF] = g->kv_layers ? n * g->heads * padded * 2 : 0,
        [TC_CUDA_PARTIAL] = g->kv_layers && split ? partial : 0,
        [TC_CUDA_PARTIAL_STATE] = g->kv_layers && split ? part_rows(o) * 2 * f : 0,
        [TC_CUDA_DELTA_Q] = g->dn_layers ? n * g->dn_key_heads * dkp * f : 0,
        [TC_CUDA_DELTA_K] = g->dn_layers ? n * g->dn_key_heads * dkp * f : 0,
        [TC_CUDA_DELTA_V] = g->dn_layers ? n * g->dn_value_heads * g->dn_value_dim * f : 0,
        [TC_CUDA_DELTA_SCALARS] = g->dn_layers ? n * g->dn_value_heads * 4 * f : 0,
        [TC_CUDA_X_ROUNDED] = n * cols * 2,
        [TC_CUDA_X_SCALE] = n * cols / 64 * f,
        [TC_CUDA_RESIDUAL] = n * o->hidden * f,
        [TC_CUDA_FEW_TEMPERATURE] = TC_FEW_ROWS_MAX * f,
        [TC_CUDA_FEW_TOP2] = TC_FEW_ROWS_MAX * TC_GPU_FEW_BLOCKS * sizeof(tc_gpu_top2),
        [TC_CUDA_FEW_SUMS] = TC_FEW_ROWS_MAX * TC_GPU_FEW_BLOCKS * sizeof(double),
        [TC_CUDA_FEW_BUCKETS] = TC_FEW_ROWS_MAX * TC_GPU_FEW_BUCKETS * sizeof(uint32_t),
        [TC_CUDA_FEW] = TC_FEW_ROWS_MAX * sizeof(tc_gpu_few_row),
    };
    memcpy(ret, all, sizeof all);
}

tc_cuda_staging tc_cuda_staging_of(uint32_t experts, uint32_t top_k, uint32_t units, uint64_t slot_bytes,
                                   uint32_t tokens)
{
    const uint64_t pairs = (uint64_t)tokens * top_k;
    return (tc_cuda_staging){.stage = TC_CUDA_STAGED * slot_bytes,
                             .pair_begin = (experts + 1) * 4ull,
                             .pair_fill = experts * 4ull,
                             .pair_token = pairs * 4,
                             .pair_weight = pairs * 4,
                             .h_rounded = pairs * units * TC_GPU_ROW_BYTES,
                             .h_scale = pairs * units * 4};
}

static uint64_t staging_bytes(const tc_cuda_options *o, const tc_store_info *info)
{
    const tc_cuda_staging s =
        tc_cuda_staging_of(info->experts, info->top_k, info->units, info->expert_bytes, o->tokens_max);
    return s.stage + s.pair_begin + s.pair_fill + s.pair_token + s.pair_weight + s.h_rounded + s.h_scale;
}

// Where each expert lies, in VRAM and in RAM; what is fetched of a layer, and ahead of it.
static uint64_t table_bytes(const tc_store_info *info)
{
    return (uint64_t)info->layers * info->experts * 2 * sizeof(void *) + info->experts * sizeof(void *) +
           sizeof(tc_gpu_fetch_list) + info->layers * (sizeof(tc_gpu_ahead) + sizeof(uint64_t));
}

enum { ROUNDING_BYTES = 64 * 512 }; // of all blocks

uint64_t tc_cuda_scratch_bytes(const tc_cuda_options *o, const tc_store_info *experts)
{
    uint64_t bytes[TC_CUDA_BLOCKS], sum = ROUNDING_BYTES;
    tc_cuda_block_bytes(o, bytes);
    for (uint32_t i = 0; i < TC_CUDA_BLOCKS; i++)
        if (i != TC_CUDA_KV && i != TC_CUDA_STATES) sum += bytes[i];
    return sum + (experts ? staging_bytes(o, experts) + table_bytes(experts) : 0);
}

uint32_t tc_cuda_tokens(const tc_cuda_options *o, uint64_t budget_bytes)
{
    uint32_t tokens = o->tokens_max;
    if (!o->tokens_by_budget || budget_bytes >= TC_CUDA_BUDGET_SMALL) return tokens;
    if (tokens > TC_CUDA_TOKENS_SMALL) tokens = TC_CUDA_TOKENS_SMALL;
    while (tokens > TC_CUDA_TOKENS_LEAST && tokens * o->token_bytes > budget_bytes / TC_CUDA_TOKENS_PART)
        tokens = tokens / 2 > TC_CUDA_TOKENS_LEAST ? tokens / 2 : TC_CUDA_TOKENS_LEAST;
    return tokens;
}
