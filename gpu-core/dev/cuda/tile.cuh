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

// Span `span` of the tokens into stage `stage`. rows NULL: tokens follow each other from `first` on; else
// token i is row rows[i] of the rounded rows. spans: of a rounded row; at: its span that meets the matrix's
// first.
template <int T>
static __device__ __forceinline__ void tile_stage(tile_memory<T> &m, uint32_t stage, const uint8_t *rounded,
                                                  const float *scale, uint32_t spans, uint32_t first,
                                                  const uint32_t *rows, uint32_t count, uint32_t span)
{
    for (uint32_t i = threadIdx.x; i < T * 8; i += TILE_THREADS) {
        uint32_t t = i / 8, piece = i % 8;
        if (t >= count) {
            *(uint4 *)(m.x[stage][t] + piece * 16) = make_uint4(0, 0, 0, 0);
            continue;
        }
        size_t row = rows ? rows[t] : first + t;
        copy_16(m.x[stage][t] + piece * 16, rounded + (row * spans + span) * TC_GPU_ROW_BYTES + piece * 16);
    }
    if (threadIdx.x < T) {
        uint32_t t = threadIdx.x;
        size_t row = t < count ? (rows ? rows[t] : first + t) : 0;
        m.scale[stage][t] = t < count ? scale[row * spans + span] : 0.0f;
    }
    asm volatile("cp.async.commit_group;");
}

static __device__ __forceinline__ void tile_wait_all(void)
{
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
}

// sums += panel of m times the tokens, all spans of the matrix.
template <int T>
static __device__ __forceinline__ void tile_multiply(tile_memory<T> &memory, const tc_gpu_q4 &m,
                                                     const float *map, uint32_t panel, const uint8_t *rounded,
                                                     const float *scale, uint32_t spans, uint32_t first,
                                                     const uint32_t *rows, uint32_t count, tile_sums<T> &sums)
{
    const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t2 = (lane & 3) * 2;
    const bool on = panel * 16 < m.rows;
    const uint8_t *tiles = m.tiles + (size_t)(on ? panel : 0) * m.spans * SPAN_BYTES;
    const uint32_t row = (on ? panel : 0) * 16 + g;
    const uint32_t book[4] = {m.book[0], m.book[1], m.book[2], m.book[3]};
    __syncthreads();
    tile_stage(memory, 0, rounded, scale, spans, first, rows, count, 0);
    span_words words = load_span(tiles, lane);
    raw_scale r0 = load_scale(m, row, 0), r1 = load_scale(m, row + 8, 0);
    for (uint32_t s = 0; s < m.spans; s++) {
        uint32_t a[2][4];
        tile_wait_all();
        span_levels(words, book, a);
        const float scale0 = scale_of(m, map, r0), scale1 = scale_of(m, map, r1);
        if (s + 1 < m.spans) {
            tile_stage(memory, (s + 1) & 1, rounded, scale, spans, first, rows, count, s + 1);
            words = load_span(tiles + (size_t)(s + 1) * SPAN_BYTES, lane);
            r0 = load_scale(m, row, s + 1);
            r1 = load_scale(m, row + 8, s + 1);
        }
#pragma unroll
        for (int b0 = 0; b0 < T / 8; b0 += TILE_BESIDE) {
            if (b0 * 8 >= count) break; // past `count` there are zeros
#pragma unroll
            for (int b = b0; b < b0 + TILE_BESIDE; b++) {
                int d[4];
                span_product(a, memory.x[s & 1][b * 8 + g], lane, d);
                const float2 x = *(const float2 *)&memory.scale[s & 1][b * 8 + t2];
                sums.v[b][0] = fmaf((float)d[0], __fmul_rn(scale0, x.x), sums.v[b][0]);
                sums.v[b][1] = fmaf((float)d[1], __fmul_rn(scale0, x.y), sums.v[b][1]);
                sums.v[b][2] = fmaf((float)d[2], __fmul_rn(scale1, x.x), sums.v[b][2]);
                sums.v[b][3] = fmaf((float)d[3], __fmul_rn(scale1, x.y), sums.v[b][3]);
            }
        }
    }
}
