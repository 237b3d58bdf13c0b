// SPDX-License-Identifier: Apache-2.0
// Owns: the router's softmax and top-k, and sorting pairs by expert for many tokens.
#include "gpu-core/dev/cuda/q4.cuh"

enum { ROUTE_THREADS = 128, SCAN_THREADS = 1024, EXPERTS_MAX = 4096 };

// Larger logit first, then lower expert: one number orders both.
static __device__ __forceinline__ uint64_t order_of(float logit, uint32_t expert)
{
    uint32_t bits = __float_as_uint(logit);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (0xffffffffu - expert);
}

static __device__ __forceinline__ uint64_t warp_max(uint64_t v)
{
#pragma unroll
    for (int m = 16; m; m >>= 1) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, v, m);
        v = other > v ? other : v;
    }
    return v;
}

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int m = 16; m; m >>= 1) v += __shfl_xor_sync(0xffffffffu, v, m);
    return v;
}

static __device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

// What an expert is chosen by.
static __device__ __forceinline__ float score_of(const tc_gpu_routes &a, const float *row,
                                                 const float *correction, uint32_t e)
{
    if (!a.sigmoid) return row[e];
    return sigmoid(row[e]) + (correction ? correction[e] : 0.0f);
}

// The best groups of a token, one warp: a bit a group in keep (of its own shared memory).
static __device__ void choose_groups(const tc_gpu_routes &a, const float *row, const float *correction,
                                     float *sums, uint64_t *keep)
{
    const uint32_t lane = threadIdx.x & 31, each = a.experts / a.groups;
    for (uint32_t g = lane; g < a.groups; g += 32) {
        float first = -CUDART_INF_F, second = -CUDART_INF_F;
        for (uint32_t e = g * each; e < (g + 1) * each; e++) {
            const float s = score_of(a, row, correction, e);
            second = fmaxf(second, fminf(first, s));
            first = fmaxf(first, s);
        }
        sums[g] = first + second;
    }
    __syncwarp();
    if (lane == 0) {
        uint64_t chosen = 0;
        for (uint32_t k = 0; k < a.top_groups; k++) {
            uint32_t best = a.groups;
            for (uint32_t g = 0; g < a.groups; g++)
                if (!(chosen >> g & 1) && (best == a.groups || sums[g] > sums[best])) best = g;
            chosen |= 1ull << best;
        }
        *keep = chosen;
    }
    __syncwarp();
}

// How much of what was expected of a token came true: lane k has its k-th choice and the k-th guess. One
// warp.
static __device__ void count_guess(const tc_gpu_routes &a, uint32_t chosen, uint32_t guess, uint32_t lane)
{
    bool right = false;
    for (uint32_t j = 0; j < a.top_k; j++) right |= __shfl_sync(0xffffffffu, guess, j) == chosen;
    const uint32_t count = __popc(__ballot_sync(0xffffffffu, right && lane < a.top_k));
    if (lane) return;
    atomicAdd((unsigned long long *)&a.sums->guessed, (unsigned long long)a.top_k);
    atomicAdd((unsigned long long *)&a.sums->guessed_right, (unsigned long long)count);
}

// Nothing more is begun ahead of this layer; what lies there whole now, and what is under way, is told to
// those behind. One warp.
static __device__ void close_ahead(tc_gpu_ahead *ahead, uint32_t wanted, uint32_t lane)
{
    if (lane == 0) atomicExch(&ahead->routed, 1u);
    __syncwarp();
    const bool whole = lane < wanted && *(volatile uint32_t *)&ahead->done[lane] == TC_GPU_AHEAD_BLOCKS;
    const uint32_t there = __ballot_sync(0xffffffffu, whole), not_yet = ~there & ((1u << wanted) - 1);
    if (lane) return;
    ahead->there = there;
    ahead->pending = not_yet ? __ffs(not_yet) - 1 : TC_GPU_AHEAD_MAX;
}

// One warp a token: top_k rounds of the largest not taken yet. NaN goes last, as in the CPU's comparison.
// Behind the tokens the same tokens once more, for the next layer.
template <int EACH>
__global__ void __launch_bounds__(ROUTE_THREADS)
    route_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_routes a)
{
    __shared__ float sums[ROUTE_THREADS / 32][TC_GPU_GROUPS_MAX];
    __shared__ uint64_t keep[ROUTE_THREADS / 32];
    const uint32_t warp = threadIdx.x >> 5, t = blockIdx.x * (ROUTE_THREADS / 32) + warp,
                   lane = threadIdx.x & 31;
    let_next_start();
    follow_previous();
    const bool next = t >= a.n; // expected of the next layer
    if (t >= (a.next_logits ? 2 * a.n : a.n) || *(volatile uint32_t *)tables.failed) return;
    const float *row =
        next ? a.next_logits + (size_t)(t - a.n) * a.experts : a.logits + (size_t)t * a.experts;
    const float *correction = next ? a.next_correction : a.correction;
    const uint32_t *forced = next ? a.next_forced : a.forced;
    uint32_t *expert = next ? a.next_expert : a.expert;
    const size_t at = (size_t)(next ? t - a.n : t) * a.top_k;
    if (a.sigmoid && a.groups) choose_groups(a, row, correction, sums[warp], &keep[warp]);
    const uint32_t each = a.groups ? a.experts / a.groups : 1;
    const uint32_t guess = !next && a.guess && lane < a.top_k ? a.guess[at + lane] : 0; // top_k <= 32 then
    const uint32_t wanted = a.ahead ? a.ahead->wanted : 0;
    uint32_t chosen = 0xffffffffu;
    uint64_t key[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        uint32_t e = i * 32 + lane;
        float v = e < a.experts ? score_of(a, row, correction, e) : -CUDART_INF_F;
        if (a.sigmoid && a.groups && e < a.experts && !(keep[warp] >> e / each & 1)) v = -CUDART_INF_F;
        key[i] = e < a.experts ? order_of(v != v ? -CUDART_INF_F : v, e) : 0;
    }
    float best = 0, sum = a.sigmoid ? 1e-20f : 0.0f, mine[2] = {0, 0};
    for (uint32_t k = 0; k < a.top_k; k++) {
        uint64_t top = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) top = key[i] > top ? key[i] : top;
        top = warp_max(top);
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (key[i] == top) key[i] = 0;
        uint32_t e = 0xffffffffu - (uint32_t)top;
        if (forced) e = forced[at + k];
        float v = row[e];
        if (k == 0) best = v;
        float p = a.sigmoid ? sigmoid(v) : expf(v - best);
        sum += p;
        if (lane == (k & 31)) mine[k >> 5] = p;
        if (lane == 0) expert[at + k] = e;
        if (lane == k) chosen = e;
    }
    if (next) return;
    if (!a.renormalise && !a.sigmoid) {
        sum = 0;
        for (uint32_t e = lane; e < a.experts; e += 32) sum += expf(row[e] - best);
        sum = warp_sum(sum);
    }
    const bool divide = a.renormalise || !a.sigmoid;
    for (uint32_t k = lane; k < a.top_k; k += 32)
        a.weight[at + k] = (divide ? mine[k >> 5] / sum : mine[k >> 5]) * a.scale;
    if (a.guess) count_guess(a, chosen, guess, lane);
    if (a.ahead && t == 0) close_ahead(a.ahead, wanted, lane);
}

int tc_gpu_route(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_routes *args)
{
    const uint32_t rows = args->next_logits ? 2 * args->n : args->n, experts = args->experts;
    const uint32_t blocks = (rows + ROUTE_THREADS / 32 - 1) / (ROUTE_THREADS / 32);
#define ROUTE(each) launch_chained(route_kernel<each>, blocks, ROUTE_THREADS, 0, stream, *tables, *args)
    return experts <= 128 ? ROUTE(4) : experts <= 512 ? ROUTE(16) : experts <= 1024 ? ROUTE(32) : ROUTE(128);
#undef ROUTE
}

// ---- pairs of many tokens, sorted by expert ----

__global__ void count_kernel(const uint32_t *expert, uint32_t pairs, uint32_t *count)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs) atomicAdd(&count[expert[i] + 1], 1u);
}

// One block: begin[e + 1] becomes the number of pairs of the experts up to e; fill[e] where e's begin.
__global__ void __launch_bounds__(SCAN_THREADS) scan_kernel(uint32_t experts, uint32_t *begin, uint32_t *fill)
{
    __shared__ uint32_t sum[2][EXPERTS_MAX];
    uint32_t from = 0;
    for (uint32_t e = threadIdx.x; e < experts; e += SCAN_THREADS) sum[0][e] = begin[e + 1];
    __syncthreads();
    for (uint32_t step = 1; step < experts; step *= 2, from ^= 1) {
        for (uint32_t e = threadIdx.x; e < experts; e += SCAN_THREADS)
            sum[from ^ 1][e] = sum[from][e] + (e >= step ? sum[from][e - step] : 0);
        __syncthreads();
    }
    for (uint32_t e = threadIdx.x; e < experts; e += SCAN_THREADS) {
        begin[e + 1] = sum[from][e];
        fill[e] = e ? sum[from][e - 1] : 0;
    }
}

// The order within an expert does not matter to any sum, so it may differ from run to run.
__global__ void fill_kernel(const uint32_t *expert, const float *weight, uint32_t pairs, uint32_t top_k,
                            tc_gpu_pairs to)
{
    uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pairs) return;
    uint32_t at = atomicAdd(&to.fill[expert[i]], 1u);
    to.token[at] = i / top_k;
    to.weight[at] = weight[i];
}

int tc_gpu_sort_pairs(tc_gpu_stream stream, const uint32_t *expert, const float *weight, uint32_t n,
                      uint32_t top_k, uint32_t experts, const tc_gpu_pairs *pairs)
{
    uint32_t count = n * top_k, blocks = (count + 255) / 256;
    cudaError_t e = cudaMemsetAsync(pairs->begin, 0, (experts + 1) * sizeof(uint32_t), stream);
    if (e != cudaSuccess) return (int)e;
    count_kernel<<<blocks, 256, 0, stream>>>(expert, count, pairs->begin);
    scan_kernel<<<1, SCAN_THREADS, 0, stream>>>(experts, pairs->begin, pairs->fill);
    fill_kernel<<<blocks, 256, 0, stream>>>(expert, weight, count, top_k, *pairs);
    return launched();
}
