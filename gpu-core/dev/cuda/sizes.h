// SPDX-License-Identifier: Apache-2.0
// Owns: what the cuda device takes of VRAM beside weights, forward scratch and hot experts. Refuses: the
// driver, so that programs without it can sum up, too.
#pragma once

#include "gpu-core/dev/cuda/cuda.h"
#include "gpu-core/dev/cuda/gpu.h"

enum {
    TC_CUDA_STAGES = 8,         // buffers through which cold experts are streamed
    TC_CUDA_STAGE_EXPERTS = 32, // experts of a buffer
    TC_CUDA_STAGED = TC_CUDA_STAGES * TC_CUDA_STAGE_EXPERTS,
    TC_CUDA_RESERVE_BYTES = 384 << 20,                   // graphs, the driver's own growth
    TC_CUDA_RESULT_BYTES = 8 + (int)sizeof(tc_gpu_sums), // failed, broken, sums
};

typedef enum tc_cuda_start_block {
    TC_CUDA_MAP,
    TC_CUDA_FAILED,
    TC_CUDA_POSTED,
    TC_CUDA_BATCH,
    TC_CUDA_KV,
    TC_CUDA_STATES,
    TC_CUDA_INVERSE_FREQUENCY,
    TC_CUDA_Q_HALF,
    TC_CUDA_PARTIAL,
    TC_CUDA_PARTIAL_STATE,
    TC_CUDA_DELTA_Q,
    TC_CUDA_DELTA_K,
    TC_CUDA_DELTA_V,
    TC_CUDA_DELTA_SCALARS,
    TC_CUDA_X_ROUNDED,
    TC_CUDA_X_SCALE,
    TC_CUDA_RESIDUAL,
    TC_CUDA_FEW_TEMPERATURE,
    TC_CUDA_FEW_TOP2,
    TC_CUDA_FEW_SUMS,
    TC_CUDA_FEW_BUCKETS,
    TC_CUDA_FEW,
    TC_CUDA_BLOCKS
} tc_cuda_start_block;

// What the batch upload holds, at fixed places of one block in host and device memory.
typedef struct tc_cuda_batch_layout {
    size_t sequence, segments, segment, position, block_segment, block_row, pages, bytes;
    uint32_t blocks_max, pages_max;
} tc_cuda_batch_layout;

// Buffers through which cold experts of prompts come, and of pairs sorted by expert.
typedef struct tc_cuda_staging {
    uint64_t stage, pair_begin, pair_fill, pair_token, pair_weight, h_rounded, h_scale;
} tc_cuda_staging;

static inline uint32_t tc_cuda_group_of(const tc_dev_geometry *g)
{
    return g->kv_heads ? g->heads / g->kv_heads : 1;
}

// Heads that attention takes without tensor cores.
static inline bool tc_cuda_is_wide(const tc_dev_geometry *g)
{
    return g->head_dim > 256 || tc_cuda_group_of(g) > TC_GPU_ATTENTION_ROWS;
}

// The KV pool when it is whole.
uint64_t tc_cuda_kv_bytes(const tc_cuda_options *options);
tc_cuda_batch_layout tc_cuda_lay_out(const tc_cuda_options *options);
// Every block that is taken at the start, by tc_cuda_start_block. Of batches of options->tokens_max.
void tc_cuda_block_bytes(const tc_cuda_options *options, uint64_t ret[TC_CUDA_BLOCKS]);
tc_cuda_staging tc_cuda_staging_of(uint32_t experts, uint32_t top_k, uint32_t units, uint64_t slot_bytes,
                                   uint32_t tokens);
// All of them but KV and states, with what routed experts (NULL: none) need beside their slots.
uint64_t tc_cuda_scratch_bytes(const tc_cuda_options *options, const tc_store_info *experts);
// Tokens of a batch under this budget: options->tokens_max, or fewer where options->tokens_by_budget.
uint32_t tc_cuda_tokens(const tc_cuda_options *options, uint64_t budget_bytes);
