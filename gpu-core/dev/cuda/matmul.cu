// SPDX-License-Identifier: Apache-2.0
// Owns: y = W x for one token of 4-bit matrices: one panel (or more) a block, the spans dealt out over its
// warps and folded in order, to the bits of TC_FAST on the CPU (more tokens: matmul_many.cu). Other types,
// any number: float32 sums in an order that does not depend on the number of tokens.
#include "gpu-core/dev/cuda/q4.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum { WARPS_FEW = 8, WARPS_MANY = 16, PANELS_FEW = 256, AHEAD = 4, ROUND_AHEAD = 4, ONE_BYTES = 96 << 10 };

// ---- one token ----

// Two columns of a span for each lane; silu(x) * up where there is an up.
static __device__ __forceinline__ float2 input_span(const float *x, const float *up, uint32_t spans,
                                                    uint32_t span, uint32_t lane)
{
    if (span >= spans) return make_float2(0, 0);
    const float2 v = *(const float2 *)(x + span * 64 + 2 * lane);
    if (!up) return v;
    const float2 u = *(const float2 *)(up + span * 64 + 2 * lane);
    return make_float2(silu_mul(v.x, u.x), silu_mul(v.y, u.y));
}

// The products of the spans, folded in order and written. The whole block.
template <int PANELS>
static __device__ __forceinline__ void one_fold(const tc_gpu_job &job, const float *dots, const float *scales,
                                                const float *x_scale)
{
    const uint32_t p = threadIdx.x / 16, r = threadIdx.x % 16, spans = job.q4.spans;
    const uint32_t row = ((blockIdx.x - job.first_block) * PANELS + p) * 16 + r;
    if (p >= PANELS || row >= job.q4.rows) return;
    const float *dot = dots + (size_t)p * spans * 16 + r, *scale = scales + (size_t)p * spans * 16 + r;
    float sum = 0;
#pragma unroll 8
    for (uint32_t s = 0; s < spans; s++) sum = fmaf(dot[s * 16], __fmul_rn(scale[s * 16], x_scale[s]), sum);
    sum = __fmul_rn(sum, job.q4.step);
    if (job.bias) sum = __fadd_rn(sum, job.bias[row]);
    job.y[row] = sum;
}

// Shared memory: rounded x [spans][128] | x scales [spans] | dots [panels][spans][16] | scales
// [panels][spans][16].
template <int PANELS, int WARPS>
__global__ void __launch_bounds__(WARPS * 32)
    one_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_jobs jobs, const float *x,
               const float *up)
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
    float *x_scale = (float *)(rounded + (size_t)spans * TC_GPU_ROW_BYTES);
    float *dots = x_scale + spans, *scales = dots + (size_t)PANELS * spans * 16;
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
    for (uint32_t base = warp; base < spans; base += WARPS * ROUND_AHEAD) {
        float2 v[ROUND_AHEAD];
#pragma unroll
        for (int k = 0; k < ROUND_AHEAD; k++) v[k] = input_span(x, up, spans, base + k * WARPS, lane);
#pragma unroll
        for (int k = 0; k < ROUND_AHEAD; k++) {
            const uint32_t i = base + k * WARPS;
            if (i < spans) round_span(v[k], lane, rounded + (size_t)i * TC_GPU_ROW_BYTES, x_scale + i);
        }
    }
    __syncthreads();
    const uint32_t g = lane >> 2, book[4] = {m.book[0], m.book[1], m.book[2], m.book[3]};
    for (uint32_t base = part; on && base < spans; base += SHARE * AHEAD)
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const uint32_t s = base + i * SHARE, next = s + SHARE * AHEAD;
            uint32_t a[2][4];
            int d[4];
            if (s >= spans) break;
            span_levels(ahead[i], book, a);
            const float scale = scale_of(m, tables.map, raw[i]);
            if (next < spans) {
                ahead[i] = load_span(tiles + (size_t)next * SPAN_BYTES, lane);
                raw[i] = load_scale(m, row, next);
            }
            span_product(a, rounded + (size_t)s * TC_GPU_ROW_BYTES, lane, d);
            const size_t at = ((size_t)of_panel * spans + s) * 16 + g;
            if ((lane & 3) == 0) {
                dots[at] = (float)d[0];
                dots[at + 8] = (float)d[2];
            }
            if ((lane & 3) < 2) scales[at + (lane & 1) * 8] = scale;
        }
    __syncthreads();
    one_fold<PANELS>(job, dots, scales, x_scale);
}

static size_t one_bytes(uint32_t spans, uint32_t panels)
{
    return (size_t)spans * (TC_GPU_ROW_BYTES + 4 + panels * 16 * 2 * 4);
}

template <int PANELS, int WARPS>
static int one(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs, const float *x,
               const float *up)
{
    const tc_gpu_jobs dealt = deal_panels(jobs, PANELS);
    const size_t bytes = one_bytes(jobs->job[0].q4.spans, PANELS);
    return launch_chained(one_kernel<PANELS, WARPS>, dealt.blocks, WARPS * 32, bytes, stream, *tables, dealt,
                          x, up);
}

int tc_gpu_matmul_one(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs,
                      const float *x, const float *up)
{
    const uint32_t spans = jobs->job[0].q4.spans;
    uint32_t panels = 0;
    for (uint32_t i = 0; i < jobs->count; i++) panels += (jobs->job[i].q4.rows + 15) / 16;
    if (panels >= 2048 && one_bytes(spans, 4) <= ONE_BYTES)
        return one<4, WARPS_FEW>(stream, tables, jobs, x, up);
    if (panels >= 512 && one_bytes(spans, 2) <= ONE_BYTES)
        return one<2, WARPS_FEW>(stream, tables, jobs, x, up);
    if (panels <= PANELS_FEW && spans >= WARPS_MANY) return one<1, WARPS_MANY>(stream, tables, jobs, x, up);
    return one<1, WARPS_FEW>(stream, tables, jobs, x, up);
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
    if (job.x) x = job.x;
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
    const tc_gpu_jobs dealt = deal_panels(jobs, 1);
#define FLOAT(tokens)                                                                                        \
    launch_chained(float_kernel<tokens>, dim3(dealt.blocks, (n + tokens - 1) / tokens), FLOAT_WARPS * 32, 0, \
                   stream, dealt, x, ldx, n)
    return n == 1 ? FLOAT(1) : n <= 4 ? FLOAT(4) : FLOAT(8);
#undef FLOAT
}
