// SPDX-License-Identifier: Apache-2.0
// Owns: expert FFNs out of device memory, to the bits of common/kernels/ffn.h: for few tokens a block an
// (expert, unit) pair, then a block a panel of the sum; for many tokens, tiles over the pairs of each expert.
#include "gpu-core/dev/cuda/tile.cuh"

enum { UP_TOKENS = TILE_TOKENS_WIDE, UNIT_WARPS = 16, DOWN_WARPS = 16, DOWN_AHEAD = 5, AHEAD = 4 };

static __device__ __forceinline__ tc_gpu_q4 matrix_of(const tc_gpu_expert_layout &l, const uint8_t *unit,
                                                      int part)
{
    tc_gpu_q4 m;
    m.rows = part < 2 ? 64 : l.hidden;
    m.spans = part < 2 ? l.hidden / 64 : 1;
    m.tiles = unit + l.tiles_at[part];
    m.step = l.step[part];
    m.stride = l.stride[part];
    if (m.stride) {
        const uint8_t *table = unit + l.data_at[part];
        m.codes = unit + l.codes_at[part];
        m.offset = __ldg((const float *)table);
        m.phase = __ldg((const uint32_t *)table + 1) & 255;
        m.nested = (const float *)table + 2;
        m.scales = NULL;
    } else {
        m.codes = NULL;
        m.nested = NULL;
        m.offset = 0;
        m.phase = 0;
        m.scales = (const float *)(unit + l.data_at[part]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) m.book[i] = l.book[part][i];
    return m;
}

// What the gate and up products of a unit's row i become. unit: where its matrices lie.
static __device__ __forceinline__ float activation(const tc_gpu_expert_layout &l, const uint8_t *unit,
                                                   uint32_t i, float gate, float up)
{
    if (l.bias_at) {
        const float *bias = (const float *)(unit + l.bias_at);
        gate = __fadd_rn(gate, bias[i]);
        up = __fadd_rn(up, bias[64 + i]);
    }
    return l.clamped ? clamped_mul(gate, up, l.alpha, l.limit) : silu_mul(gate, up);
}

// ---- few tokens ----

// Until the expert is there, where it is still on its way. The whole block; nobody waits in a pass that
// failed, whose results are void.
static __device__ void wait_for_expert(const tc_gpu_tables &tables, const tc_gpu_hot &h,
                                       const uint8_t *expert)
{
    const uint64_t ahead = (uint64_t)(expert - h.ahead_stage), also = (uint64_t)(expert - h.also_stage);
    const uint32_t *done = ahead < TC_GPU_AHEAD_MAX * h.bytes       ? &h.ahead->done[ahead / h.bytes]
                           : also < TC_GPU_AHEAD_ALSO_MAX * h.bytes ? &h.ahead->also_done[also / h.bytes]
                                                                    : NULL;
    if (!done) return;
    if (threadIdx.x == 0) {
        while (*(const volatile uint32_t *)done != TC_GPU_AHEAD_BLOCKS &&
               !*(volatile uint32_t *)tables.failed)
            continue;
        __threadfence();
    }
    __syncthreads();
}

// Block (pair, unit): 4 panels of gate, 4 of up, two warps each; then SiLU and rounding.
__global__ void __launch_bounds__(UNIT_WARPS * 32)
    unit_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_hot h)
{
    extern __shared__ __align__(16) uint8_t memory[];
    const uint32_t pair = blockIdx.x / h.layout.units, unit = blockIdx.x % h.layout.units;
    let_next_start();
    follow_previous();
    const uint8_t *expert = h.place[h.expert[pair]];
    if (!expert) return;
    if (h.ahead) wait_for_expert(tables, h, expert);
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, spans = h.layout.hidden / 64;
    const uint32_t of = warp / 2, part = warp % 2, g = lane >> 2; // of: 0-3 gate, 4-7 up
    const tc_gpu_q4 m = matrix_of(h.layout, expert + unit * h.layout.unit_stride, of < 4 ? 0 : 1);
    const uint32_t panel = of & 3;
    const uint8_t *tiles = m.tiles + (size_t)panel * spans * SPAN_BYTES;
    uint8_t *rounded = memory;
    float *x_scale = (float *)(rounded + (size_t)spans * TC_GPU_ROW_BYTES);
    float *dots = x_scale + spans, *scales = dots + (size_t)8 * spans * 16,
          *out = scales + (size_t)8 * spans * 16;
    const uint32_t row = panel * 16 + g + (lane & 1) * 8; // whose scale this lane looks after
    span_words ahead[AHEAD];
    raw_scale raw[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
        if (part + i * 2 < spans) {
            ahead[i] = load_span(tiles + (size_t)(part + i * 2) * SPAN_BYTES, lane);
            raw[i] = load_scale(m, row, part + i * 2);
        }
    const float *x = h.x + (size_t)(pair / h.layout.top_k) * h.layout.hidden;
    for (uint32_t base = warp; base < spans; base += UNIT_WARPS * 2) { // two at once
        const uint32_t next = base + UNIT_WARPS;
        const float2 v = *(const float2 *)(x + base * 64 + 2 * lane);
        const float2 w = next < spans ? *(const float2 *)(x + next * 64 + 2 * lane) : make_float2(0, 0);
        round_span(v, lane, rounded + (size_t)base * TC_GPU_ROW_BYTES, x_scale + base);
        if (next < spans) round_span(w, lane, rounded + (size_t)next * TC_GPU_ROW_BYTES, x_scale + next);
    }
    __syncthreads();
    for (uint32_t base = part; base < spans; base += 2 * AHEAD)
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            uint32_t s = base + i * 2, a[2][4];
            int d[4];
            if (s >= spans) break;
            span_levels(ahead[i], m.book, a);
            const float scale = scale_of(m, tables.map, raw[i]);
            if (s + 2 * AHEAD < spans) {
                ahead[i] = load_span(tiles + (size_t)(s + 2 * AHEAD) * SPAN_BYTES, lane);
                raw[i] = load_scale(m, row, s + 2 * AHEAD);
            }
            span_product(a, rounded + (size_t)s * TC_GPU_ROW_BYTES, lane, d);
            if ((lane & 3) == 0) {
                dots[(of * spans + s) * 16 + g] = (float)d[0];
                dots[(of * spans + s) * 16 + g + 8] = (float)d[2];
            }
            if ((lane & 3) < 2) scales[(of * spans + s) * 16 + g + (lane & 1) * 8] = scale;
        }
    __syncthreads();
    if (threadIdx.x < 128) {
        const uint32_t p = threadIdx.x / 16, r = threadIdx.x % 16;
        float sum = 0;
#pragma unroll 8
        for (uint32_t s = 0; s < spans; s++) {
            uint32_t at = (p * spans + s) * 16 + r;
            sum = fmaf(dots[at], __fmul_rn(scales[at], x_scale[s]), sum);
        }
        out[threadIdx.x] = __fmul_rn(sum, h.layout.step[p < 4 ? 0 : 1]);
    }
    __syncthreads();
    if (warp == 0) {
        const uint8_t *at = expert + unit * h.layout.unit_stride;
        float2 v =
            make_float2(activation(h.layout, at, 2 * lane, out[2 * lane], out[64 + 2 * lane]),
                        activation(h.layout, at, 2 * lane + 1, out[2 * lane + 1], out[64 + 2 * lane + 1]));
        round_span(v, lane, h.h_rounded + (size_t)blockIdx.x * TC_GPU_ROW_BYTES, h.h_scale + blockIdx.x);
    }
}

// Block (token, panel of hidden): all units of the token's hot experts, dealt out over the warps, a few
// ahead.
__global__ void __launch_bounds__(DOWN_WARPS * 32)
    down_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_hot h)
{
    __shared__ long long sums[DOWN_WARPS][16];
    __shared__ const uint8_t *base[TC_GPU_TOP_K_MAX];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2;
    const uint32_t panel = blockIdx.x, token = blockIdx.y, units = h.layout.units,
                   items = h.layout.top_k * units;
    long long sum[2] = {0, 0};
    bool fine = true;
    let_next_start();
    follow_previous();
    if (threadIdx.x < h.layout.top_k)
        base[threadIdx.x] = h.place[h.expert[token * h.layout.top_k + threadIdx.x]];
    __syncthreads();
    if (*(volatile uint32_t *)tables.failed) return;
    for (uint32_t first = warp; first < items; first += DOWN_WARPS * DOWN_AHEAD) {
        span_words words[DOWN_AHEAD];
        raw_scale raw[DOWN_AHEAD]; // of row g, or g + 8: the first two lanes of four need them
        float offset[DOWN_AHEAD];
        bool on[DOWN_AHEAD];
#pragma unroll
        for (int k = 0; k < DOWN_AHEAD; k++) {
            const uint32_t i = first + k * DOWN_WARPS;
            const uint8_t *expert = i < items ? base[i / units] : NULL;
            on[k] = expert != NULL;
            if (!on[k]) continue;
            const tc_gpu_q4 m = matrix_of(h.layout, expert + i % units * h.layout.unit_stride, 2);
            words[k] = load_span(m.tiles + (size_t)panel * SPAN_BYTES, lane);
            raw[k] = load_scale(m, panel * 16 + g + (lane & 1) * 8, 0);
            offset[k] = m.offset;
        }
#pragma unroll
        for (int k = 0; k < DOWN_AHEAD; k++) {
            if (!on[k]) continue;
            const uint32_t i = first + k * DOWN_WARPS, pair = token * h.layout.top_k + i / units;
            const uint32_t row = pair * units + i % units;
            uint32_t a[2][4];
            int d[4];
            span_levels(words[k], h.layout.book[2], a);
            span_product(a, h.h_rounded + (size_t)row * TC_GPU_ROW_BYTES, lane, d);
            const float mine =
                h.layout.stride[2]
                    ? __fadd_rn(__fmul_rn(__ldg(tables.map + raw[k].code), raw[k].nested), offset[k])
                    : raw[k].nested;
            const float other = __shfl_down_sync(0xffffffffu, mine, 1);
            if (lane & 3) continue;
            const float x_scale = h.h_scale[row], w = h.weight[pair], scale[2] = {mine, other};
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float v = fmaf((float)d[2 * c], __fmul_rn(scale[c], x_scale), 0.0f);
                long long fixed;
                if (to_fixed(__fmul_rn(__fmul_rn(v, h.layout.step[2]), w), &fixed))
                    sum[c] += fixed;
                else
                    fine = false;
            }
        }
    }
    if (!fine) *h.broken = 1;
    if ((lane & 3) == 0) {
        sums[warp][g] = sum[0];
        sums[warp][g + 8] = sum[1];
    }
    __syncthreads();
    if (threadIdx.x < 16) {
        long long all = 0;
        for (int w = 0; w < DOWN_WARPS; w++) all += sums[w][threadIdx.x];
        uint32_t row = panel * 16 + threadIdx.x;
        if (row < h.layout.hidden) h.sum[(size_t)token * h.layout.hidden + row] = all;
    }
}

int tc_gpu_hot_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_hot *args)
{
    const tc_gpu_expert_layout *l = &args->layout;
    uint32_t spans = l->hidden / 64, pairs = args->n * l->top_k;
    size_t bytes = (size_t)spans * (TC_GPU_ROW_BYTES + 4 + 2 * 8 * 16 * 4) + 128 * 4;
    int code = launch_chained(unit_kernel, pairs * l->units, UNIT_WARPS * 32, bytes, stream, *tables, *args);
    if (code) return code;
    return launch_chained(down_kernel, dim3((l->hidden + 15) / 16, args->n), DOWN_WARPS * 32, 0, stream,
                          *tables, *args);
}

// ---- many tokens ----

static __device__ __forceinline__ const uint8_t *expert_at(const tc_gpu_grouped &a, uint32_t e)
{
    const uint8_t *placed = a.place ? a.place[e] : NULL;
    if (!a.base) return placed;
    return placed ? NULL : a.base + (size_t)(e - a.first) * a.layout.expert_stride;
}

// Work is walked, not listed: item i of (expert, tile of pairs, slice) belongs to block i % gridDim. Every
// block counts along, which costs one load an expert.
template <int T, typename BODY>
static __device__ __forceinline__ void each_item(const tc_gpu_grouped &a, uint32_t slices, BODY body)
{
    uint32_t next = blockIdx.x;
    for (uint32_t i = 0; i < a.count; i++) {
        const uint32_t e = a.first + i, begin = a.pairs.begin[e], count = a.pairs.begin[e + 1] - begin;
        const uint32_t items = (count + T - 1) / T * slices;
        if (next >= items) {
            next -= items;
            continue;
        }
        const uint8_t *expert = expert_at(a, e);
        for (; next < items; next += gridDim.x)
            if (expert) body(expert, begin, count, next / slices * T, next % slices);
        next -= items;
    }
}

// A slice is a unit: warps 0-3 take gate's panels, 4-7 up's.
__global__ void __launch_bounds__(TILE_THREADS, 2)
    grouped_up_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_grouped a)
{
    __shared__ union { // the activations come when the products are done
        __align__(16) tile_memory<UP_TOKENS> tile;
        float act[UP_TOKENS / 2][2 * 64 + 1]; // half of the tokens at a time
    } memory;
    __shared__ uint32_t rows[UP_TOKENS];
    auto &act = memory.act;
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t2 = (lane & 3) * 2;
    const uint32_t spans = a.layout.hidden / 64;
    each_item<UP_TOKENS>(
        a, a.layout.units,
        [&](const uint8_t *expert, uint32_t begin, uint32_t all, uint32_t from, uint32_t unit) {
            const uint32_t count = min(all - from, (uint32_t)UP_TOKENS);
            const tc_gpu_q4 m = matrix_of(a.layout, expert + unit * a.layout.unit_stride, warp < 4 ? 0 : 1);
            tile_sums<UP_TOKENS> sums;
            __syncthreads();
            if (threadIdx.x < count) rows[threadIdx.x] = a.pairs.token[begin + from + threadIdx.x];
            __syncthreads();
            tile_clear(sums);
            tile_multiply(memory.tile, m, tables.map, warp & 3, a.x_rounded, a.x_scale, spans, 0, rows, count,
                          sums);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                __syncthreads();
#pragma unroll
                for (int b = 0; b < UP_TOKENS / 16; b++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        act[b * 8 + t2 + (i & 1)][warp * 16 + g + (i >> 1) * 8] =
                            __fmul_rn(sums.v[half * (UP_TOKENS / 16) + b][i], m.step);
                __syncthreads();
                const uint32_t skip = half * (UP_TOKENS / 2);
                for (uint32_t t = warp; t < UP_TOKENS / 2 && skip + t < count; t += TILE_WARPS) {
                    const uint8_t *at = expert + unit * a.layout.unit_stride;
                    float2 v = make_float2(
                        activation(a.layout, at, 2 * lane, act[t][2 * lane], act[t][64 + 2 * lane]),
                        activation(a.layout, at, 2 * lane + 1, act[t][2 * lane + 1],
                                   act[t][64 + 2 * lane + 1]));
                    size_t row = (size_t)(begin + from + skip + t) * a.layout.units + unit;
                    round_span(v, lane, a.h_rounded + row * TC_GPU_ROW_BYTES, a.h_scale + row);
                }
            }
        });
}

// A slice is 8 panels of hidden. The parts of the units are added in fixed point before they leave.
__global__ void __launch_bounds__(TILE_THREADS, 2)
    grouped_down_kernel(tc_gpu_tables tables, const __grid_constant__ tc_gpu_grouped a)
{
    __shared__ __align__(16) tile_memory<TILE_TOKENS> memory;
    __shared__ uint32_t tokens[TILE_TOKENS];
    __shared__ float weights[TILE_TOKENS];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t2 = (lane & 3) * 2;
    const uint32_t units = a.layout.units,
                   slices = (a.layout.hidden + 16 * TILE_WARPS - 1) / (16 * TILE_WARPS);
    bool fine = true;
    each_item<TILE_TOKENS>(
        a, slices, [&](const uint8_t *expert, uint32_t begin, uint32_t all, uint32_t from, uint32_t slice) {
            const uint32_t count = min(all - from, (uint32_t)TILE_TOKENS), panel = slice * TILE_WARPS + warp;
            long long sum[TILE_TOKENS / 8][4];
#pragma unroll
            for (int b = 0; b < TILE_TOKENS / 8; b++)
#pragma unroll
                for (int i = 0; i < 4; i++) sum[b][i] = 0;
            __syncthreads();
            if (threadIdx.x < TILE_TOKENS) {
                tokens[threadIdx.x] = threadIdx.x < count ? a.pairs.token[begin + from + threadIdx.x] : 0;
                weights[threadIdx.x] =
                    threadIdx.x < count ? a.pairs.weight[begin + from + threadIdx.x] : 0.0f;
            }
            tile_source<TILE_TOKENS> source =
                tile_source_of<TILE_TOKENS>(a.h_rounded, a.h_scale, units, begin + from, NULL, count);
            tile_stage(memory, 0, source);
            tc_gpu_q4 m = matrix_of(a.layout, expert, 2);
            tile_panel p;
            tile_begin(p, m, panel, lane);
            for (uint32_t u = 0; u < units; u++) {
                uint32_t levels[2][4];
                span_levels(p.words, m.book, levels);
                const float s0 = scale_of(m, tables.map, p.raw[0]), s1 = scale_of(m, tables.map, p.raw[1]);
                if (u + 1 < units) {
                    m = matrix_of(a.layout, expert + (u + 1) * a.layout.unit_stride, 2);
                    tile_begin(p, m, panel, lane);
                }
                tile_wait_all();
                if (u + 1 < units) tile_stage(memory, (u + 1) & 1, source);
#pragma unroll
                for (int b = 0; b < TILE_TOKENS / 8; b++) {
                    int d[4];
                    if (b % TILE_BESIDE == 0 && b * 8 >= count) break;
                    span_product(levels, memory.x[u & 1][b * 8 + g], lane, d);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const uint32_t t = b * 8 + t2 + (i & 1);
                        float v = fmaf((float)d[i], __fmul_rn(i < 2 ? s0 : s1, memory.scale[u & 1][t]), 0.0f);
                        long long fixed = 0;
                        if (!to_fixed(__fmul_rn(__fmul_rn(v, m.step), weights[t]), &fixed))
                            fine = fine && t >= count;
                        sum[b][i] += fixed;
                    }
                }
            }
#pragma unroll
            for (int b = 0; b < TILE_TOKENS / 8; b++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const uint32_t t = b * 8 + t2 + (i & 1), r = panel * 16 + g + (i >> 1) * 8;
                    if (t < count && r < a.layout.hidden)
                        atomicAdd((unsigned long long *)&a.sum[(size_t)tokens[t] * a.layout.hidden + r],
                                  (unsigned long long)sum[b][i]);
                }
            __syncthreads();
        });
    if (!fine) *a.broken = 1;
}

int tc_gpu_grouped_run(tc_gpu_stream stream, const tc_gpu_tables *tables, const tc_gpu_grouped *args)
{
    grouped_up_kernel<<<args->blocks * 2, TILE_THREADS, 0, stream>>>(*tables, *args);
    grouped_down_kernel<<<args->blocks * 2, TILE_THREADS, 0, stream>>>(*tables, *args);
    return launched();
}
