// SPDX-License-Identifier: Apache-2.0
// Owns: what a draw needs of a row of logits, so that the row itself stays on the card: the largest and how
// far the second is behind, the sum of all weights, and the likeliest tokens. Refuses: to draw
// (forward/sample.c does, with the same numbers as where it has the whole row), penalties and masks (those
// rows are brought whole).
#include "gpu-core/dev/cuda/q4.cuh"

#include <math_constants.h>

enum { FEW_THREADS = 256, WARPS = FEW_THREADS / 32, BUCKETS = TC_GPU_FEW_BUCKETS, BUCKETS_A_NAT = 8 };
static constexpr float WEIGHT_LEAST = -60; // e to it is lost in the rounding of the sum
static_assert(TC_GPU_FEW_BLOCKS == 64, "two partial results a lane");

// ---- the two largest ----

// Equal ones: the first.
static __device__ __forceinline__ tc_gpu_top2 merge(tc_gpu_top2 a, tc_gpu_top2 b)
{
    if (b.first > a.first || (b.first == a.first && b.id < a.id)) {
        const tc_gpu_top2 c = a;
        a = b;
        b = c;
    }
    a.second = fmaxf(a.second, b.first);
    return a;
}

static __device__ __forceinline__ tc_gpu_top2 warp_merge(tc_gpu_top2 a)
{
#pragma unroll
    for (int m = 16; m; m >>= 1) {
        tc_gpu_top2 b;
        b.first = __shfl_xor_sync(0xffffffffu, a.first, m);
        b.second = __shfl_xor_sync(0xffffffffu, a.second, m);
        b.id = __shfl_xor_sync(0xffffffffu, a.id, m);
        a = merge(a, b);
    }
    return a;
}

static constexpr uint32_t NOBODY = 0xffffffffu;

// Block (part of the vocabulary, row).
__global__ void __launch_bounds__(FEW_THREADS) top2_kernel(const __grid_constant__ tc_gpu_few a)
{
    __shared__ tc_gpu_top2 of_warp[WARPS];
    const uint32_t part = (a.vocab + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * part,
                   end = min(begin + part, a.vocab), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const float *row = a.logits + (size_t)blockIdx.y * a.vocab;
    tc_gpu_top2 mine = {-CUDART_INF_F, -CUDART_INF_F, NOBODY};
    for (uint32_t i = begin + threadIdx.x; i < end; i += FEW_THREADS) {
        const float v = row[i];
        if (v > mine.first) {
            mine.second = mine.first;
            mine.first = v;
            mine.id = i;
        } else if (v > mine.second) {
            mine.second = v;
        }
    }
    mine = warp_merge(mine);
    if (lane == 0) of_warp[warp] = mine;
    __syncthreads();
    if (threadIdx.x) return;
    for (int w = 1; w < WARPS; w++) mine = merge(mine, of_warp[w]);
    a.top2[blockIdx.y * gridDim.x + blockIdx.x] = mine;
}

// Of the whole row. The whole block.
static __device__ tc_gpu_top2 row_top2(const tc_gpu_few &a)
{
    __shared__ tc_gpu_top2 top;
    const uint32_t lane = threadIdx.x & 31;
    if (threadIdx.x < 32) {
        const tc_gpu_top2 *parts = a.top2 + blockIdx.y * TC_GPU_FEW_BLOCKS;
        const tc_gpu_top2 all = warp_merge(merge(parts[lane], parts[lane + 32]));
        if (lane == 0) top = all;
    }
    __syncthreads();
    return top;
}

// ---- weights ----

// False: it weighs nothing.
static __device__ __forceinline__ bool bucket_of(float logit, float max, float temperature, uint32_t *ret)
{
    if (!((logit - max) / temperature > WEIGHT_LEAST)) return false; // NaN too
    const float at = (max - logit) * (BUCKETS_A_NAT / temperature);
    *ret = at < BUCKETS - 1 ? (uint32_t)at : BUCKETS - 1;
    return true;
}

static __device__ double block_sum(double v)
{
    __shared__ double of_warp[WARPS];
#pragma unroll
    for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
    if ((threadIdx.x & 31) == 0) of_warp[threadIdx.x >> 5] = v;
    __syncthreads();
    v = 0;
    for (int w = 0; w < WARPS; w++) v += of_warp[w];
    return v;
}

// How many tokens lie in each bucket, and what this part of the row weighs.
__global__ void __launch_bounds__(FEW_THREADS) weigh_kernel(const __grid_constant__ tc_gpu_few a)
{
    __shared__ uint32_t count[BUCKETS];
    const float temperature = a.temperature[blockIdx.y];
    if (temperature <= 0) return;
    const uint32_t part = (a.vocab + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * part,
                   end = min(begin + part, a.vocab);
    const float *row = a.logits + (size_t)blockIdx.y * a.vocab;
    for (uint32_t b = threadIdx.x; b < BUCKETS; b += FEW_THREADS) count[b] = 0;
    const float max = row_top2(a).first;
    double sum = 0;
    for (uint32_t i = begin + threadIdx.x; i < end; i += FEW_THREADS) {
        uint32_t b;
        if (!bucket_of(row[i], max, temperature, &b)) continue;
        sum += expf((row[i] - max) / temperature);
        atomicAdd(&count[b], 1u);
    }
    sum = block_sum(sum); // and a barrier
    if (threadIdx.x == 0) a.sums[blockIdx.y * gridDim.x + blockIdx.x] = sum;
    for (uint32_t b = threadIdx.x; b < BUCKETS; b += FEW_THREADS)
        if (count[b]) atomicAdd(&a.buckets[blockIdx.y * BUCKETS + b], count[b]);
}

// ---- the likeliest ----

// The first buckets that hold at most TC_GPU_FEW_MAX tokens together. The whole block.
static __device__ uint32_t buckets_taken(const uint32_t *buckets)
{
    __shared__ uint32_t taken;
    const uint32_t lane = threadIdx.x & 31;
    if (threadIdx.x < 32) {
        uint32_t own[BUCKETS / 32], sum = 0, fit = 0;
        for (int i = 0; i < BUCKETS / 32; i++) sum += own[i] = buckets[lane * (BUCKETS / 32) + i];
        uint32_t before = sum;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const uint32_t left = __shfl_up_sync(0xffffffffu, before, d);
            if (lane >= d) before += left;
        }
        before -= sum;
        for (int i = 0; i < BUCKETS / 32; i++) fit += (before += own[i]) <= TC_GPU_FEW_MAX;
        fit = __reduce_add_sync(0xffffffffu, fit); // sums never fall: those that fit come first
        if (lane == 0) taken = fit;
    }
    __syncthreads();
    return taken;
}

__global__ void __launch_bounds__(FEW_THREADS) collect_kernel(const __grid_constant__ tc_gpu_few a)
{
    const float temperature = a.temperature[blockIdx.y];
    const tc_gpu_top2 top = row_top2(a);
    tc_gpu_few_row *to = a.out + blockIdx.y;
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        double sum = 0;
        for (uint32_t i = 0; temperature > 0 && i < TC_GPU_FEW_BLOCKS; i++)
            sum += a.sums[blockIdx.y * TC_GPU_FEW_BLOCKS + i];
        to->best = top.id == NOBODY ? 0 : top.id;
        to->gap = top.first - top.second;
        to->max = top.first;
        to->sum = sum;
    }
    if (temperature <= 0) return;
    const uint32_t taken = buckets_taken(a.buckets + blockIdx.y * BUCKETS);
    const uint32_t part = (a.vocab + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * part,
                   end = min(begin + part, a.vocab);
    const float *row = a.logits + (size_t)blockIdx.y * a.vocab;
    for (uint32_t i = begin + threadIdx.x; i < end; i += FEW_THREADS) {
        uint32_t b;
        if (!bucket_of(row[i], top.first, temperature, &b) || b >= taken) continue;
        const uint32_t at = atomicAdd(&to->count, 1u);
        to->token[at].logit = row[i];
        to->token[at].id = i;
    }
}

int tc_gpu_few_run(tc_gpu_stream stream, const tc_gpu_few *args, bool warm)
{
    const dim3 grid(TC_GPU_FEW_BLOCKS, args->rows);
    cudaError_t code = cudaMemsetAsync(args->buckets, 0, (size_t)args->rows * BUCKETS * 4, stream);
    if (code == cudaSuccess)
        code = cudaMemset2DAsync(args->out, sizeof *args->out, 0, offsetof(tc_gpu_few_row, token), args->rows,
                                 stream);
    if (code != cudaSuccess) return (int)code;
    top2_kernel<<<grid, FEW_THREADS, 0, stream>>>(*args);
    if (warm) weigh_kernel<<<grid, FEW_THREADS, 0, stream>>>(*args);
    collect_kernel<<<warm ? grid : dim3(1, args->rows), FEW_THREADS, 0, stream>>>(*args);
    return launched();
}
