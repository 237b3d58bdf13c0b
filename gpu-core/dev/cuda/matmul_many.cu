// SPDX-License-Identifier: Apache-2.0
// Owns: y = W x of 4-bit matrices for more than a few tokens, to the bits of TC_FAST on the CPU: their
// rounding, tiles of 128 rows by 64 or 128 tokens, and for some dozens of tokens, of which tiles would leave
// most of the card idle, one panel by 16 tokens a block.
#include "gpu-core/dev/cuda/tile.cuh"

enum {
    SOME = 16,
    SOME_WARPS = 8,
    SOME_AHEAD = 4,
    SOME_STRIDE = SOME + 4,
    SOME_MOST = 64,
    SOME_SPANS_MAX = 160,
    SOME_BLOCKS = 96,
    WIDE_FROM_BLOCKS = 256
};

__global__ void round_kernel(const float *x, const float *up, uint32_t ldx, uint32_t n, uint32_t spans,
                             uint8_t *rounded, float *scale)
{
    uint64_t i = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) >> 5;
    uint32_t lane = threadIdx.x & 31;
    let_next_start();
    follow_previous();
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
    return launch_chained(round_kernel, (uint32_t)((warps + 7) / 8), 256, 0, stream, x, up, ldx, n, spans,
                          rounded, scale);
}

// ---- some tokens ----

// The products of all spans, folded in order and written. The whole block: a thread a row and token.
static __device__ __forceinline__ void some_fold(const tc_gpu_job &job, uint32_t panel, uint32_t first,
                                                 uint32_t count, const float *dots, const float *scales,
                                                 const float *x_scale)
{
    const uint32_t t = threadIdx.x % SOME, r = threadIdx.x / SOME, row = panel * 16 + r, spans = job.q4.spans;
    if (t >= count || row >= job.q4.rows) return;
    float sum = 0;
#pragma unroll 8
    for (uint32_t s = 0; s < spans; s++)
        sum = fmaf(dots[(s * 16 + r) * SOME_STRIDE + t], __fmul_rn(scales[s * 16 + r], x_scale[s * SOME + t]),
                   sum);
    float y = __fmul_rn(sum, job.q4.step);
    if (job.bias) y = __fadd_rn(y, job.bias[row]);
    job.y[(size_t)(first + t) * job.ldy + row] = y;
}

// Shared memory: dots [spans][16][SOME_STRIDE] | scales [spans][16] | x scales [spans][SOME].
__global__ void __launch_bounds__(SOME_WARPS * 32)
    some_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_jobs jobs, const uint8_t *rounded,
                const float *scale, uint32_t n)
{
    extern __shared__ __align__(16) float some_memory[];
    uint32_t j = 0;
    while (j + 1 < jobs.count && blockIdx.x >= jobs.job[j + 1].first_block) j++;
    const tc_gpu_job &job = jobs.job[j];
    const tc_gpu_q4 &m = job.q4;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t2 = (lane & 3) * 2;
    const uint32_t spans = m.spans, panel = blockIdx.x - job.first_block, first = blockIdx.y * SOME;
    const uint32_t count = min(n - first, (uint32_t)SOME), row = panel * 16 + g + (lane & 1) * 8;
    float *dots = some_memory, *scales = dots + (size_t)spans * 16 * SOME_STRIDE,
          *x_scale = scales + spans * 16;
    const uint8_t *tiles = m.tiles + (size_t)panel * spans * SPAN_BYTES;
    span_words ahead[SOME_AHEAD];
    raw_scale raw[SOME_AHEAD];
#pragma unroll
    for (int i = 0; i < SOME_AHEAD; i++)
        if (warp + i * SOME_WARPS < spans) {
            ahead[i] = load_span(tiles + (size_t)(warp + i * SOME_WARPS) * SPAN_BYTES, lane);
            raw[i] = load_scale(m, row, warp + i * SOME_WARPS);
        }
    let_next_start();
    follow_previous();
    for (uint32_t i = threadIdx.x; i < spans * SOME; i += SOME_WARPS * 32)
        x_scale[i] = i % SOME < count ? scale[(size_t)(first + i % SOME) * spans + i / SOME] : 0.0f;
    for (uint32_t base = warp; base < spans; base += SOME_WARPS * SOME_AHEAD)
#pragma unroll
        for (int i = 0; i < SOME_AHEAD; i++) {
            const uint32_t s = base + i * SOME_WARPS, next = s + SOME_WARPS * SOME_AHEAD;
            uint32_t a[2][4];
            if (s >= spans) break;
            span_levels(ahead[i], m.book, a);
            if ((lane & 3) < 2) scales[s * 16 + g + (lane & 1) * 8] = scale_of(m, tables.map, raw[i]);
            if (next < spans) {
                ahead[i] = load_span(tiles + (size_t)next * SPAN_BYTES, lane);
                raw[i] = load_scale(m, row, next);
            }
#pragma unroll
            for (int b = 0; b < SOME / 8; b++) {
                const uint32_t t = min(b * 8 + g, count - 1); // others' products are not used
                int d[4];
                token_product(
                    a, load_tokens(rounded + ((size_t)(first + t) * spans + s) * TC_GPU_ROW_BYTES, lane), d);
                float *to = dots + (s * 16 + g) * SOME_STRIDE + b * 8 + t2;
                *(float2 *)to = make_float2((float)d[0], (float)d[1]);
                *(float2 *)(to + 8 * SOME_STRIDE) = make_float2((float)d[2], (float)d[3]);
            }
        }
    __syncthreads();
    some_fold(job, panel, first, count, dots, scales, x_scale);
}

static int some(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs,
                const uint8_t *rounded, const float *scale, uint32_t n)
{
    const uint32_t spans = jobs->job[0].q4.spans;
    const size_t bytes = (size_t)spans * (16 * SOME_STRIDE + 16 + SOME) * sizeof(float);
    const tc_gpu_jobs dealt = deal_panels(jobs, 1);
    return launch_chained(some_kernel, dim3(dealt.blocks, (n + SOME - 1) / SOME), SOME_WARPS * 32, bytes,
                          stream, *tables, dealt, rounded, scale, n);
}

// ---- many tokens ----

template <int T>
__global__ void __launch_bounds__(TILE_THREADS, 2)
    many_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_job job, const uint8_t *rounded,
                const float *scale, uint32_t n)
{
    __shared__ __align__(16) tile_memory<T> memory;
    const tc_gpu_q4 &m = job.q4;
    const uint32_t first = blockIdx.y * T, count = min(n - first, (uint32_t)T);
    const uint32_t panel = blockIdx.x * TILE_WARPS + (threadIdx.x >> 5);
    tile_sums<T> sums;
    tile_clear(sums);
    tile_multiply(memory, m, tables.map, panel, rounded, scale, m.spans, first, NULL, count, sums);
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t2 = (lane & 3) * 2;
#pragma unroll
    for (int b = 0; b < T / 8; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t t = b * 8 + t2 + (i & 1), row = panel * 16 + g + (i >> 1) * 8;
            if (t >= count || row >= m.rows) continue;
            float y = __fmul_rn(sums.v[b][i], m.step);
            if (job.bias) y = __fadd_rn(y, job.bias[row]);
            job.y[(size_t)(first + t) * job.ldy + row] = y;
        }
}

static int many(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_job *job,
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

// Whether a job's tiles would keep most of the card busy.
static bool fills_card(const tc_gpu_job *job, uint32_t n)
{
    return (job->q4.rows + 16 * TILE_WARPS - 1) / (16 * TILE_WARPS) * ((n + TILE_TOKENS - 1) / TILE_TOKENS) >=
           SOME_BLOCKS;
}

int tc_gpu_matmul_many(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_jobs *jobs,
                       const uint8_t *rounded, const float *scale, uint32_t n)
{
    const tc_gpu_job *first = &jobs->job[0];
    if (first->q4.spans <= SOME_SPANS_MAX && (n <= SOME || (n <= SOME_MOST && !fills_card(first, n))))
        return some(stream, tables, jobs, rounded, scale, n);
    for (uint32_t i = 0; i < jobs->count; i++) {
        int e = many(stream, tables, &jobs->job[i], rounded, scale, n);
        if (e) return e;
    }
    return 0;
}
