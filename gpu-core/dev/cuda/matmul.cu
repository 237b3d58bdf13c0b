// SPDX-License-Identifier: Apache-2.0
// Owns: y = W x. 4-bit matrices: for few tokens one panel (or more) a block, the spans dealt out over its
// warps and folded in order; for many, tiles of 128 rows by 64 tokens. Both give the bits of TC_FAST on the
// CPU. Other types: float32 sums in an order that does not depend on the number of tokens.
#include "gpu-core/dev/cuda/tile.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum { WARPS = 8, AHEAD = 4, ROUND_AHEAD = 4, FEW_BYTES = 96 << 10, WIDE_FROM_BLOCKS = 256 };

// ---- few tokens ----

// Span i / N of token i % N: two columns a lane; silu(x) * up where there is an up.
template <int N>
static __device__ __forceinline__ float2 input_span(const float *x, const float *up, uint32_t ldx, uint32_t n,
                                                    uint32_t spans, uint32_t i, uint32_t lane)
{
    const uint32_t span = i / N, t = i % N;
    if (t >= n || span >= spans) return make_float2(0, 0);
    const size_t at = (size_t)t * ldx + span * 64 + 2 * lane;
    const float2 v = *(const float2 *)(x + at);
    if (!up) return v;
    const float2 u = *(const float2 *)(up + at);
    return make_float2(silu_mul(v.x, u.x), silu_mul(v.y, u.y));
}

// The products of the spans, folded in order and written. The whole block.
template <int N, int PANELS>
static __device__ __forceinline__ void few_fold(const tc_gpu_job &job, uint32_t n, uint32_t spans, const float *dots,
                                                const float *scales, const float *x_scale)
{
    const tc_gpu_q4 &m = job.q4;
    for (uint32_t i = threadIdx.x; i < PANELS * 16 * N; i += WARPS * 32) {
        uint32_t t = i % N, r = i / N % 16, p = i / N / 16;
        uint32_t row = ((blockIdx.x - job.first_block) * PANELS + p) * 16 + r;
        if (t >= n || row >= m.rows) continue;
        const float *dot = dots + ((size_t)p * spans * 16 + r) * N + t,
                    *scale = scales + (size_t)p * spans * 16 + r;
        float sum = 0;
#pragma unroll 8
        for (uint32_t s = 0; s < spans; s++)
            sum = fmaf(dot[(size_t)s * 16 * N], __fmul_rn(scale[s * 16], x_scale[s * N + t]), sum);
        sum = __fmul_rn(sum, m.step);
        if (job.bias) sum = __fadd_rn(sum, job.bias[row]);
        job.y[(size_t)t * job.ldy + row] = sum;
    }
}

// Shared memory: rounded x [spans][N][128] | x scales [spans][N] | dots [panels][spans][16][N] | scales
// [panels][spans][16].
template <int N, int PANELS>
__global__ void __launch_bounds__(WARPS * 32)
    few_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_jobs jobs, const float *x,
               const float *up, uint32_t ldx, uint32_t n)
{
    extern __shared__ __align__(16) uint8_t memory[];
    constexpr int SHARE = WARPS / PANELS; // warps of a panel
    uint32_t j = 0;
    while (j + 1 < jobs.count && blockIdx.x >= jobs.job[j + 1].first_block) j++;
    const tc_gpu_job &job = jobs.job[j];
    const tc_gpu_q4 &m = job.q4;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, spans = m.spans;
    const uint32_t of_panel = warp / SHARE, part = warp % SHARE;
    const uint32_t panel = (blockIdx.x - job.first_block) * PANELS + of_panel, panels = (m.rows + 15) / 16;
    uint8_t *rounded = memory;
    float *x_scale = (float *)(rounded + (size_t)spans * N * TC_GPU_ROW_BYTES);
    float *dots = x_scale + spans * N, *scales = dots + (size_t)PANELS * spans * 16 * N;
    const uint8_t *tiles = m.tiles + (size_t)panel * spans * SPAN_BYTES;
    const bool on = panel < panels;
    const uint32_t row = panel * 16 + (lane >> 2) + (lane & 1) * 8; // whose scale this lane looks after
    span_words ahead[AHEAD];
    raw_scale raw[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (on && part + i * SHARE < spans) {
            ahead[i] = load_span(tiles + (size_t)(part + i * SHARE) * SPAN_BYTES, lane);
            raw[i] = load_scale(m, row, part + i * SHARE);
        }
    let_next_start();
    follow_previous();
    for (uint32_t base = warp; base < spans * N; base += WARPS * ROUND_AHEAD) {
        float2 v[ROUND_AHEAD];
#pragma unroll
        for (int k = 0; k < ROUND_AHEAD; k++)
            v[k] = input_span<N>(x, up, ldx, n, spans, base + k * WARPS, lane);
#pragma unroll
        for (int k = 0; k < ROUND_AHEAD; k++) {
            const uint32_t i = base + k * WARPS;
            if (i < spans * N) round_span(v[k], lane, rounded + (size_t)i * TC_GPU_ROW_BYTES, x_scale + i);
        }
    }
    __syncthreads();
    if (on) {
        const uint32_t g = lane >> 2, t2 = (lane & 3) * 2;
        const uint32_t book[4] = {m.book[0], m.book[1], m.book[2], m.book[3]};
        for (uint32_t base = part; base < spans; base += SHARE * AHEAD)
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                uint32_t s = base + i * SHARE;
                if (s >= spans) break;
                uint32_t a[2][4];
                int d[4];
                span_levels(ahead[i], book, a);
                const float scale = scale_of(m, tables.map, raw[i]);
                uint32_t next = s + SHARE * AHEAD;
                if (next < spans) {
                    ahead[i] = load_span(tiles + (size_t)next * SPAN_BYTES, lane);
                    raw[i] = load_scale(m, row, next);
                }
                span_product(a, rounded + ((size_t)s * N + (g < N ? g : 0)) * TC_GPU_ROW_BYTES, lane, d);
                float *to = dots + ((size_t)of_panel * spans + s) * 16 * N;
#pragma unroll
                for (int c = 0; c < 2; c++)
                    if (t2 + c < N) {
                        to[g * N + t2 + c] = (float)d[c];
                        to[(g + 8) * N + t2 + c] = (float)d[2 + c];
                    }
                if ((lane & 3) < 2) scales[((size_t)of_panel * spans + s) * 16 + g + (lane & 1) * 8] = scale;
            }
    }
    __syncthreads();
    few_fold<N, PANELS>(job, n, spans, dots, scales, x_scale);
}

static size_t few_bytes(uint32_t spans, uint32_t n, uint32_t panels)
{
    return (size_t)spans * n * (TC_GPU_ROW_BYTES + 4) + (size_t)panels * spans * 16 * (n + 1) * 4;
}

template <int N, int PANELS>
static int few(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs, const float *x,
               const float *up, uint32_t ldx, uint32_t n)
{
    tc_gpu_jobs cut = *jobs;
    cut.blocks = 0;
    for (uint32_t i = 0; i < cut.count; i++) {
        cut.job[i].first_block = cut.blocks;
        cut.blocks += ((cut.job[i].q4.rows + 15) / 16 + PANELS - 1) / PANELS;
    }
    size_t bytes = few_bytes(jobs->job[0].q4.spans, N, PANELS);
    cudaError_t e = cudaSuccess;
    if (bytes > 48 << 10)
        e = cudaFuncSetAttribute(few_kernel<N, PANELS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)bytes);
    if (e != cudaSuccess) return (int)e;
    return launch_chained(few_kernel<N, PANELS>, cut.blocks, WARPS * 32, bytes, stream, *tables, cut, x, up,
                          ldx, n);
}

static int one(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs, const float *x,
               const float *up, uint32_t ldx)
{
    uint32_t panels = 0, spans = jobs->job[0].q4.spans;
    for (uint32_t i = 0; i < jobs->count; i++) panels += (jobs->job[i].q4.rows + 15) / 16;
    if (panels >= 2048 && few_bytes(spans, 1, 4) <= FEW_BYTES)
        return few<1, 4>(stream, tables, jobs, x, up, ldx, 1);
    if (panels >= 512 && few_bytes(spans, 1, 2) <= FEW_BYTES)
        return few<1, 2>(stream, tables, jobs, x, up, ldx, 1);
    return few<1, 1>(stream, tables, jobs, x, up, ldx, 1);
}

// As many tokens at once as shared memory holds.
int tc_gpu_matmul_few(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs,
                      const float *x, const float *up, uint32_t ldx, uint32_t n)
{
    const uint32_t spans = jobs->job[0].q4.spans;
    tc_gpu_jobs rest = *jobs;
    for (uint32_t t = 0, some; t < n; t += some) {
        some = n - t;
        if (some > 4 && few_bytes(spans, 8, 1) > FEW_BYTES) some = 4;
        if (some > 2 && few_bytes(spans, 4, 1) > FEW_BYTES) some = 2;
        if (some > 1 && few_bytes(spans, 2, 1) > FEW_BYTES) some = 1;
        const float *from = x + (size_t)t * ldx, *by = up ? up + (size_t)t * ldx : NULL;
        int e = some == 1   ? one(stream, tables, &rest, from, by, ldx)
                : some == 2 ? few<2, 1>(stream, tables, &rest, from, by, ldx, some)
                : some <= 4 ? few<4, 1>(stream, tables, &rest, from, by, ldx, some)
                            : few<8, 1>(stream, tables, &rest, from, by, ldx, some);
        if (e) return e;
        for (uint32_t i = 0; i < rest.count; i++) rest.job[i].y += (size_t)some * rest.job[i].ldy;
    }
    return 0;
}

// ---- many tokens ----

__global__ void round_kernel(const float *x, const float *up, uint32_t ldx, uint32_t n, uint32_t spans,
                             uint8_t *rounded, float *scale)
{
    uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) >> 5;
    uint32_t lane = threadIdx.x & 31;
    if (i >= (uint64_t)n * spans) return;
    uint32_t t = (uint32_t)(i / spans), span = (uint32_t)(i % spans);
    const size_t at = (size_t)t * ldx + span * 64 + 2 * lane;
    float2 v = *(const float2 *)(x + at);
    if (up) {
        const float2 u = *(const float2 *)(up + at);
        v = make_float2(silu_mul(v.x, u.x), silu_mul(v.y, u.y));
    }
    round_span(v, lane, rounded + i * TC_GPU_ROW_BYTES, scale + i);
}

int tc_gpu_round(tc_gpu_stream stream, const float *x, const float *up, uint32_t ldx, uint32_t n,
                 uint32_t spans, uint8_t *rounded, float *scale)
{
    uint64_t warps = (uint64_t)n * spans;
    round_kernel<<<(uint32_t)((warps + 7) / 8), 256, 0, stream>>>(x, up, ldx, n, spans, rounded, scale);
    return launched();
}

template <int T>
__global__ void __launch_bounds__(TILE_THREADS)
    many_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_job job, const uint8_t *rounded,
                const float *scale, uint32_t n)
{
    __shared__ __align__(16) tile_memory<T> memory;
    const tc_gpu_q4 &m = job.q4;
    const uint32_t first = blockIdx.y * T;
    const uint32_t panel = blockIdx.x * TILE_WARPS + (threadIdx.x >> 5);
    const uint32_t count = min(n - first, (uint32_t)T);
    tile_sums<T> sums;
    tile_clear(sums);
    tile_multiply(memory, m, tables.map, panel, rounded, scale, m.spans, first, NULL, count, sums);
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t2 = (lane & 3) * 2;
#pragma unroll
    for (int b = 0; b < T / 8; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t t = b * 8 + t2 + (i & 1), row = panel * 16 + g + (i >> 1) * 8;
            if (t >= count || row >= m.rows) continue;
            float y = __fmul_rn(sums.v[b][i], m.step);
            if (job.bias) y = __fadd_rn(y, job.bias[row]);
            job.y[(size_t)(first + t) * job.ldy + row] = y;
        }
}

int tc_gpu_matmul_many(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_job *job,
                       const uint8_t *rounded, const float *scale, uint32_t n)
{
    const uint32_t panels = (job->q4.rows + 15) / 16, columns = (panels + TILE_WARPS - 1) / TILE_WARPS;
    const uint32_t wide = (n + TILE_TOKENS_WIDE - 1) / TILE_TOKENS_WIDE,
                   narrow = (n + TILE_TOKENS - 1) / TILE_TOKENS;
    if (columns * wide >= WIDE_FROM_BLOCKS)
        many_kernel<TILE_TOKENS_WIDE>
            <<<dim3(columns, wide), TILE_THREADS, 0, stream>>>(*tables, *job, rounded, scale, n);
    else
        many_kernel<TILE_TOKENS>
            <<<dim3(columns, narrow), TILE_THREADS, 0, stream>>>(*tables, *job, rounded, scale, n);
    return launched();
}

// ---- other types ----

// One panel a block of 16 warps; a warp takes every sixteenth group of 16 columns, a few of them ahead. Lane
// l: rows 4 (l & 3) .. + 3, columns 2 (l >> 2) and + 1 of the group. A token's sums do not depend on TOKENS.
enum { FLOAT_WARPS = 16, FLOAT_AHEAD = 4 };

static __device__ __forceinline__ void two_columns(const tc_gpu_job &job, uint32_t panel, uint32_t column,
                                                   uint32_t row, float w[4][2])
{
    const bool on = column < job.cols, both = column + 1 < job.cols;
    if (job.type == TC_GPU_BF16) {
        const uint32_t pairs = (job.cols + 1) / 2;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (on)
            v = __ldg((const uint4 *)((const uint32_t *)job.data + ((size_t)panel * pairs + column / 2) * 16 +
                                      row));
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i][0] = __uint_as_float(word[i] << 16);
            w[i][1] = both ? __uint_as_float(word[i] & 0xffff0000u) : 0.0f;
        }
        return;
    }
    if (job.type == TC_GPU_Q8) {
        const uint32_t spans = job.cols / 64, span = column / 64;
        const int8_t *tiles = (const int8_t *)job.data + ((size_t)panel * spans + span) * 1024;
        const float *scale = job.scales + ((size_t)panel * spans + span) * 16;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                uint32_t k = column % 64 + c;
                w[i][c] = on ? (float)tiles[k / 4 * 64 + (row + i) * 4 + k % 4] * scale[row + i] : 0.0f;
            }
        return;
    }
#pragma unroll
    for (int c = 0; c < 2; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            size_t at = ((size_t)panel * job.cols + column + c) * 16 + row + i;
            bool there = c ? both : on;
            w[i][c] = !there                   ? 0.0f
                      : job.type == TC_GPU_F16 ? __half2float(((const __half *)job.data)[at])
                                               : ((const float *)job.data)[at];
        }
}

template <int TOKENS>
__global__ void __launch_bounds__(FLOAT_WARPS * 32)
    float_kernel(const __grid_constant__ tc_gpu_jobs jobs, const float *x, uint32_t ldx, uint32_t n)
{
    __shared__ float part[FLOAT_WARPS][16][TOKENS + 1];
    uint32_t j = 0;
    while (j + 1 < jobs.count && blockIdx.x >= jobs.job[j + 1].first_block) j++;
    const tc_gpu_job &job = jobs.job[j];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, panel = blockIdx.x - job.first_block;
    const uint32_t first = blockIdx.y * TOKENS, count = min(n - first, (uint32_t)TOKENS);
    const uint32_t row = (lane & 3) * 4, pair = lane >> 2;
    float sum[TOKENS][4] = {}, w[FLOAT_AHEAD][4][2];
    x += (size_t)first * ldx;
#pragma unroll
    for (int a = 0; a < FLOAT_AHEAD; a++)
        two_columns(job, panel, warp * 16 + a * FLOAT_WARPS * 16 + pair * 2, row, w[a]);
    let_next_start();
    follow_previous();
    for (uint32_t base = warp * 16; base < job.cols; base += FLOAT_WARPS * 16 * FLOAT_AHEAD) {
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (t >= count) break;
#pragma unroll
            for (int a = 0; a < FLOAT_AHEAD; a++) {
                const uint32_t column = base + a * FLOAT_WARPS * 16 + pair * 2;
                const float *at = x + (size_t)t * ldx + column;
                const float x0 = column < job.cols ? at[0] : 0.0f, x1 = column + 1 < job.cols ? at[1] : 0.0f;
#pragma unroll
                for (int i = 0; i < 4; i++) sum[t][i] = fmaf(w[a][i][1], x1, fmaf(w[a][i][0], x0, sum[t][i]));
            }
        }
        const uint32_t next = base + FLOAT_WARPS * 16 * FLOAT_AHEAD;
#pragma unroll
        for (int a = 0; a < FLOAT_AHEAD && next < job.cols; a++)
            two_columns(job, panel, next + a * FLOAT_WARPS * 16 + pair * 2, row, w[a]);
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float v = sum[t][i];
            v += __shfl_xor_sync(0xffffffffu, v, 4);
            v += __shfl_xor_sync(0xffffffffu, v, 8);
            v += __shfl_xor_sync(0xffffffffu, v, 16);
            if (pair == 0) part[warp][row + i][t] = v;
        }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 16 * TOKENS; i += FLOAT_WARPS * 32) {
        uint32_t t = i / 16, r = i % 16, at = panel * 16 + r;
        if (t >= count || at >= job.rows) continue;
        float v = 0;
#pragma unroll
        for (int w = 0; w < FLOAT_WARPS; w++) v += part[w][r][t];
        if (job.bias) v += job.bias[at];
        job.y[(size_t)(first + t) * job.ldy + at] = v;
    }
}

int tc_gpu_matmul_float(tc_gpu_stream stream, const tc_gpu_jobs *jobs, const float *x, uint32_t ldx,
                        uint32_t n)
{
    tc_gpu_jobs cut = *jobs;
    cut.blocks = 0;
    for (uint32_t i = 0; i < cut.count; i++) {
        cut.job[i].first_block = cut.blocks;
        cut.blocks += (cut.job[i].rows + 15) / 16;
    }
#define FLOAT(tokens)                                                                                        \
    launch_chained(float_kernel<tokens>, dim3(cut.blocks, (n + tokens - 1) / tokens), FLOAT_WARPS * 32, 0,   \
                   stream, cut, x, ldx, n)
    return n == 1 ? FLOAT(1) : n <= 4 ? FLOAT(4) : FLOAT(8);
#undef FLOAT
}
