// SPDX-License-Identifier: Apache-2.0
// Owns: the tile of a 4-bit matrix product for many tokens: 8 warps, a panel of 16 rows each, by 64 or 128
// tokens (T). Rounded activations of a span are staged in shared memory twice over (cp.async), weights come
// straight from device memory one span ahead.
#pragma once

#include "gpu-core/dev/cuda/q4.cuh"

enum {
    TILE_WARPS = 8,
    TILE_THREADS = TILE_WARPS * 32,
    TILE_TOKENS = 64,
    TILE_TOKENS_WIDE = 128,
    TILE_BESIDE = 4, // runs of 8 tokens whose products are under way together
    TILE_ROW_BYTES = 160
};

// A row of 160 bytes: the eight rows that a warp reads at once lie in different banks.
template <int T> struct tile_memory {
    uint8_t x[2][T][TILE_ROW_BYTES];
    float scale[2][T];
};

template <int T> struct tile_sums {
    float v[T / 8][4];
};

template <int T> static __device__ __forceinline__ void tile_clear(tile_sums<T> &s)
{
#pragma unroll
    for (int b = 0; b < T / 8; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) s.v[b][i] = 0;
}

static __device__ __forceinline__ void copy_16(void *to, const void *from)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from));
}

static __device__ __forceinline__ void copy_4(void *to, const void *from)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from));
}

// Where a thread's share of the staged rows comes from, from span to span.
template <int T> struct tile_source {
    const uint8_t *from[T * 8 / TILE_THREADS];
    const float *scale;
};

// rows NULL: tokens follow each other from `first` on; else token i is row rows[i] of the rounded rows.
// Tokens past `count` are the first once more: nobody looks at their products. spans: of a rounded row.
template <int T>
static __device__ __forceinline__ tile_source<T> tile_source_of(const uint8_t *rounded, const float *scale,
                                                                uint32_t spans, uint32_t first,
                                                                const uint32_t *rows, uint32_t count)
{
    tile_source<T> s;
#pragma unroll
    for (int k = 0; k < T * 8 / TILE_THREADS; k++) {
        const uint32_t i = threadIdx.x + k * TILE_THREADS, t = i / 8 < count ? i / 8 : 0;
        const size_t row = rows ? rows[t] : first + t;
        s.from[k] = rounded + row * spans * TC_GPU_ROW_BYTES + i % 8 * 16;
    }
    const uint32_t t = threadIdx.x < count ? threadIdx.x : 0;
    s.scale = scale + (size_t)(rows ? rows[t] : first + t) * spans;
    return s;
}

// The next span of the tokens into stage `stage`.
template <int T>
static __device__ __forceinline__ void tile_stage(tile_memory<T> &m, uint32_t stage, tile_source<T> &s)
{
#pragma unroll
    for (int k = 0; k < T * 8 / TILE_THREADS; k++) {
        const uint32_t i = threadIdx.x + k * TILE_THREADS;
        copy_16(m.x[stage][i / 8] + i % 8 * 16, s.from[k]);
        s.from[k] += TC_GPU_ROW_BYTES;
    }
    if (threadIdx.x < T) copy_4(&m.scale[stage][threadIdx.x], s.scale);
    s.scale++;
    asm volatile("cp.async.commit_group;");
}

static __device__ __forceinline__ void tile_wait_all(void)
{
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
}

// A panel under way: the next span's words, and its scales as they lie in memory, of this lane's rows g and
// g + 8.
struct tile_panel {
    const uint8_t *tiles, *codes;
    const float *scales; // NULL: codes
    uint32_t nested[2];  // where the rows' nested scales begin, in spans
    span_words words;
    raw_scale raw[2];
};

static __device__ __forceinline__ void tile_fetch(tile_panel &p, const tc_gpu_q4 &m, uint32_t span,
                                                  uint32_t lane)
{
    p.words = load_span(p.tiles, lane);
    p.tiles += SPAN_BYTES;
    if (m.codes) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            p.raw[k].code = __ldg(p.codes + 8 * k);
            p.raw[k].nested = __ldg(m.nested + ((p.nested[k] + span) >> 8));
        }
        p.codes += 16;
    } else {
        p.raw[0].nested = __ldg(p.scales);
        p.raw[1].nested = __ldg(p.scales + 8);
        p.scales += 16;
    }
}

static __device__ __forceinline__ void tile_begin(tile_panel &p, const tc_gpu_q4 &m, uint32_t panel,
                                                  uint32_t lane)
{
    if (panel * 16 >= m.rows) panel = 0; // computed for nothing
    const uint32_t g = lane >> 2, row = panel * 16 + g;
    p.tiles = m.tiles + (size_t)panel * m.spans * SPAN_BYTES;
    p.codes = m.codes + (size_t)panel * m.spans * 16 + g;
    p.scales = m.scales + (size_t)panel * m.spans * 16 + g;
    p.nested[0] = m.phase + row * m.stride;
    p.nested[1] = p.nested[0] + 8 * m.stride;
    tile_fetch(p, m, 0, lane);
}

// sums += panel of m times the tokens, all spans.
template <int T>
static __device__ __forceinline__ void tile_multiply(tile_memory<T> &memory, const tc_gpu_q4 &m,
                                                     const float *map, uint32_t panel, const uint8_t *rounded,
                                                     const float *scale, uint32_t spans, uint32_t first,
                                                     const uint32_t *rows, uint32_t count, tile_sums<T> &sums)
{
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t2 = (lane & 3) * 2;
    const uint32_t book[4] = {m.book[0], m.book[1], m.book[2], m.book[3]};
    tile_source<T> source = tile_source_of<T>(rounded, scale, spans, first, rows, count);
    tile_panel p;
    __syncthreads();
    tile_stage(memory, 0, source);
    tile_begin(p, m, panel, lane);
    for (uint32_t s = 0; s < spans; s++) {
        uint32_t a[2][4];
        tile_wait_all();
        span_levels(p.words, book, a);
        const float scale0 = scale_of(m, map, p.raw[0]), scale1 = scale_of(m, map, p.raw[1]);
        if (s + 1 < spans) {
            tile_stage(memory, (s + 1) & 1, source);
            tile_fetch(p, m, s + 1, lane);
        }
#pragma unroll
        for (int b = 0; b < T / 8; b++) {
            int d[4];
            if (b % TILE_BESIDE == 0 && b * 8 >= count) break;
            span_product(a, memory.x[s & 1][b * 8 + g], lane, d);
            const float2 x = *(const float2 *)&memory.scale[s & 1][b * 8 + t2];
            sums.v[b][0] = fmaf((float)d[0], __fmul_rn(scale0, x.x), sums.v[b][0]);
            sums.v[b][1] = fmaf((float)d[1], __fmul_rn(scale0, x.y), sums.v[b][1]);
            sums.v[b][2] = fmaf((float)d[2], __fmul_rn(scale1, x.x), sums.v[b][2]);
            sums.v[b][3] = fmaf((float)d[3], __fmul_rn(scale1, x.y), sums.v[b][3]);
        }
    }
}
