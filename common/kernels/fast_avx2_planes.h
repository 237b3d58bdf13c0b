// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX2, one and two tokens: nibbles become bytes by one shuffle and meet the two planes of
// the activations in pmaddubsw. The look-up gives code + 128, because pmaddubsw wants one side unsigned; the
// bias of the activations takes the 128 back. The high plane is summed in 32 bits (pmaddwd by 16), the low
// one in 16 bits, which hold 8 products: 8 * 2 * 255 * 8 < 2^15. All sums of both halves stay in registers.
// Refuses: to be included by anything but fast_avx2.c.
#pragma once

#include "common/kernels/impl_avx2.h"

enum { PLANE_TOKENS_MAX = 2, PREFETCH_BYTES = 2048 };

typedef struct plane_sums {
    __m256i high[PLANE_TOKENS_MAX][2], low[PLANE_TOKENS_MAX][2]; // of each token, both halves of the panel
} plane_sums;

INLINE __m256i broadcast4(const int8_t *q)
{
    return _mm256_broadcastd_epi32(_mm_loadu_si32(q));
}

// Additions in place. Written in C they come out as one with another register and a move for every second of
// them, or put off to where the sum is used.
INLINE void add32(__m256i *sum, __m256i p)
{
    __asm__("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(p));
}

INLINE void add16(__m256i *sum, __m256i p)
{
    __asm__("vpaddw %1, %0, %0" : "+x"(*sum) : "x"(p));
}

// Four columns from `at` of unsigned weights for T tokens. first: of the low plane's sums.
INLINE void dot4(const __m256i u[2], const tc_rounded_row *x, const uint32_t at, const int T,
                 const bool first, plane_sums *sum)
{
    const __m256i sixteen = _mm256_set1_epi16(16);
#pragma GCC unroll 2
    for (int t = 0; t < T; t++) {
        const __m256i high = broadcast4(x[t].high + at), low = broadcast4(x[t].low + at);
        for (int h = 0; h < 2; h++)
            add32(&sum->high[t][h], _mm256_madd_epi16(_mm256_maddubs_epi16(u[h], high), sixteen));
        for (int h = 0; h < 2; h++) {
            const __m256i p = _mm256_maddubs_epi16(u[h], low);
            if (first)
                sum->low[t][h] = p;
            else
                add16(&sum->low[t][h], p);
        }
    }
}

INLINE __m256i half_of(const uint8_t *tile, int h)
{
    return _mm256_load_si256((const __m256i *)(tile + 32 * (size_t)h));
}

// One tile: 8 columns of 4-bit weights, or 4 of 8-bit ones.
INLINE void tile_dot(const uint8_t *tile, const tc_rounded_row *x, const uint32_t at, const int T,
                     const bool is_q4, const __m256i codes, const bool first, plane_sums *sum)
{
    const __m256i low = _mm256_set1_epi8(15), top = _mm256_set1_epi8((char)0x80);
    __m256i u[2];
    for (int h = 0; h < 2; h++)
        u[h] = is_q4 ? _mm256_shuffle_epi8(codes, _mm256_and_si256(half_of(tile, h), low))
                     : _mm256_xor_si256(half_of(tile, h), top);
    dot4(u, x, at, T, first, sum);
    if (!is_q4) return;
    for (int h = 0; h < 2; h++)
        u[h] = _mm256_shuffle_epi8(codes, _mm256_and_si256(_mm256_srli_epi16(half_of(tile, h), 4), low));
    dot4(u, x, at + 4, T, false, sum);
}

// 32 columns from `at`: what the low plane's 16 bits hold.
INLINE void dot32(const uint8_t *tiles, const tc_rounded_row *x, const uint32_t at, const int T,
                  const bool is_q4, const __m256i codes, plane_sums *sum)
{
    const __m256i ones = _mm256_set1_epi16(1);
    const uint32_t step = is_q4 ? 8 : 4;
#pragma GCC unroll 8
    for (uint32_t c = 0; c < 32; c += step)
        tile_dot(tiles + c / step * 64, x, at + c, T, is_q4, codes, c == 0, sum);
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++) add32(&sum->high[t][h], _mm256_madd_epi16(sum->low[t][h], ones));
}

// A panel for T tokens.
INLINE void plane_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                        const int T, const bool is_q4, const uint32_t group, rows16 *sum)
{
    const __m128i codes = _mm_xor_si128(_mm_loadu_si128((const __m128i *)w->fast), _mm_set1_epi8((char)0x80));
    const __m256i twice = _mm256_broadcastsi128_si256(codes);
    const uint32_t tile_bytes = is_q4 ? 256 : 512; // of 32 columns
    const uint8_t *tiles = tc_quant_tiles(w, v, panel);
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    __m256 total[PLANE_TOKENS_MAX][2];
    for (int t = 0; t < T; t++) total[t][0] = total[t][1] = _mm256_setzero_ps();
    for (uint32_t c = 0; c < w->cols; c += group) {
        plane_sums sums;
        __m256 scale[2];
        for (int t = 0; t < T; t++) {
            int32_t bias = x[t].bias[c / 32] + (group == 64 ? x[t].bias[c / 32 + 1] : 0);
            sums.high[t][0] = sums.high[t][1] = _mm256_set1_epi32(bias);
        }
#pragma GCC unroll 1
        for (uint32_t at = c; at < c + group; at += 32, tiles += tile_bytes) {
            for (uint32_t i = 0; i < tile_bytes; i += 64)
                _mm_prefetch((const char *)tiles + i + PREFETCH_BYTES, _MM_HINT_T0);
            dot32(tiles, x, at, T, is_q4, twice, &sums);
        }
        tc_panel_scales_at(v, &ps, c / TC_SPAN_COLS, c % TC_SPAN_COLS / group, scale);
        for (int t = 0; t < T; t++) {
            __m256 factor = _mm256_broadcast_ss(&x[t].scale[c / TC_SPAN_COLS]);
            for (int h = 0; h < 2; h++)
                total[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.high[t][h]),
                                              _mm256_mul_ps(scale[h], factor), total[t][h]);
        }
    }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++)
            sum[t].half[h] = is_q4 ? _mm256_mul_ps(total[t][h], _mm256_set1_ps(w->fast_step)) : total[t][h];
}

INLINE void panel_any(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                      const int T, const tc_matrix_type type, rows16 *sum)
{
    if (w->form.group == 64)
        plane_panel(w, v, panel, x, T, type == TC_M_Q4, 64, sum);
    else
        plane_panel(w, v, panel, x, T, true, 32, sum);
}
