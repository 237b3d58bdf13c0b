// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512, compiled three times: fast_avx512.c without VNNI, fast_avx512vnni.c and
// fast_amx.c with it. They define dot4(acc, u, q): acc[lane] += four products of unsigned bytes u and signed
// bytes q. Bits as in fast_plain.c.
#include "common/kernels/impl_avx512.h"

enum { TOKENS_MAX = 8, PREFETCH_BYTES = 4096 };

INLINE __m512i broadcast4(const int8_t *q)
{
    return _mm512_broadcastd_epi32(_mm_loadu_si32(q));
}

// Sums of the two planes. One token takes two of each: one chain of dot products would wait for its own
// latency.
typedef struct planes {
    __m512i high[2], low[2];
} planes;

INLINE void dot4_planes(__m512i u, const tc_rounded_row *x, uint32_t at, const int T, const int part,
                        planes *sum)
{
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        sum[t].high[part] = dot4(sum[t].high[part], u, broadcast4(x[t].high + at));
        sum[t].low[part] = dot4(sum[t].low[part], u, broadcast4(x[t].low + at));
    }
}

// One tile: 8 columns of 4-bit weights, or 4 columns of 8-bit ones.
INLINE void tile_dot(const uint8_t *tile, const tc_rounded_row *x, uint32_t at, const int T, const bool is_q4,
                     __m512i codes128, planes *sum)
{
    const __m512i low = _mm512_set1_epi8(15);
    const int second = T == 1; // of the two sums
    __m512i codes = _mm512_load_si512(tile);
    if (!is_q4) {
        __m512i u = _mm512_xor_si512(codes, _mm512_set1_epi8((char)0x80));
        dot4_planes(u, x, at, T, second && at % 8 ? 1 : 0, sum);
        return;
    }
    __m512i a = _mm512_shuffle_epi8(codes128, _mm512_and_si512(codes, low));
    __m512i b = _mm512_shuffle_epi8(codes128, _mm512_and_si512(_mm512_srli_epi16(codes, 4), low));
    dot4_planes(a, x, at, T, 0, sum);
    dot4_planes(b, x, at + 4, T, second, sum);
}

// Columns [c, c + group).
INLINE void group_dot(const uint8_t *tiles, const tc_rounded_row *x, uint32_t c, const uint32_t group,
                      const int T, const bool is_q4, __m512i codes128, __m512i *acc)
{
    const uint32_t step = is_q4 ? 8 : 4, count = group / step;
    planes sum[TOKENS_MAX];
    for (int t = 0; t < T; t++) {
        int32_t bias = x[t].bias[c / 32] + (group == 64 ? x[t].bias[c / 32 + 1] : 0);
        sum[t].low[0] = _mm512_set1_epi32(bias);
        sum[t].high[0] = sum[t].high[1] = sum[t].low[1] = _mm512_setzero_si512();
    }
    if (T == 1) {
#pragma GCC unroll 8
        for (uint32_t i = 0; i < count; i++)
            tile_dot(tiles + i * 64, x, c + i * step, T, is_q4, codes128, sum);
    } else {
#pragma GCC unroll 1
        for (uint32_t i = 0; i < count; i++)
            tile_dot(tiles + i * 64, x, c + i * step, T, is_q4, codes128, sum);
    }
    for (int t = 0; t < T; t++) {
        __m512i high = sum[t].high[0], low = sum[t].low[0];
        if (T == 1) {
            high = _mm512_add_epi32(high, sum[t].high[1]);
            low = _mm512_add_epi32(low, sum[t].low[1]);
        }
        acc[t] = _mm512_add_epi32(_mm512_slli_epi32(high, 4), low);
    }
}

INLINE void panel_rows(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                       const int T, const bool is_q4, const uint32_t group, __m512 *sum)
{
    const __m128i codes = _mm_xor_si128(_mm_loadu_si128((const __m128i *)w->fast), _mm_set1_epi8((char)0x80));
    const __m512i codes128 = _mm512_broadcast_i32x4(codes);
    const uint8_t *tiles = is_q4 ? tc_q4_tiles(v, panel) : (const uint8_t *)tc_q8_tiles(v, panel);
    const uint32_t bytes = group * (is_q4 ? 8 : 16);
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    for (int t = 0; t < T; t++) sum[t] = _mm512_setzero_ps();
    for (uint32_t c = 0; c < w->cols; c += group, tiles += bytes) {
        __m512i acc[TOKENS_MAX];
        for (uint32_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)tiles + i + PREFETCH_BYTES, _MM_HINT_T0);
        group_dot(tiles, x, c, group, T, is_q4, codes128, acc);
        __m512 scale = tc_panel_scales_at(v, &ps, c / TC_SPAN_COLS, c % TC_SPAN_COLS / group);
        for (int t = 0; t < T; t++) {
            __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x[t].scale[c / TC_SPAN_COLS]));
            sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t]), both, sum[t]);
        }
    }
    for (int t = 0; t < T && is_q4; t++) sum[t] = _mm512_mul_ps(sum[t], _mm512_set1_ps(w->fast_step));
}

INLINE void panel_any(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                      const int T, const tc_matrix_type type, __m512 *sum)
{
    if (w->form.group == 64)
        panel_rows(w, v, panel, x, T, type == TC_M_Q4, 64, sum);
    else
        panel_rows(w, v, panel, x, T, true, 32, sum);
}

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    const tc_quant_view v = tc_quant_view_of(w);
    __m512 sum[TOKENS_MAX];
    for (uint32_t p = panel0; p < panel1; p++) {
        uint32_t t = 0;
        for (; t + 8 <= n; t += 8) {
            panel_any(w, &v, p, x->rounded + t, 8, type, sum);
            tc_put(to, w, p, t, 8, sum);
        }
        if (t + 4 <= n) {
            panel_any(w, &v, p, x->rounded + t, 4, type, sum);
            tc_put(to, w, p, t, 4, sum);
            t += 4;
        }
        if (t + 2 <= n) {
            panel_any(w, &v, p, x->rounded + t, 2, type, sum);
            tc_put(to, w, p, t, 2, sum);
            t += 2;
        }
        if (t < n) {
            panel_any(w, &v, p, x->rounded + t, 1, type, sum);
            tc_put(to, w, p, t, 1, sum);
        }
    }
}

static void round_row(const float *x, uint32_t cols, const tc_rounded_row *ret)
{
    const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
    for (uint32_t s = 0; s < cols / TC_SPAN_COLS; s++, x += TC_SPAN_COLS) {
        __m512i top = _mm512_setzero_si512();
        for (int i = 0; i < TC_SPAN_COLS; i += 16)
            top = _mm512_max_epu32(top,
                                   _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x + i)), magnitude));
        float inverse;
        ret->scale[s] = tc_rounded_scale(_mm512_reduce_max_epu32(top), &inverse);
        const __mmask16 keep = inverse > 0 ? 0xffff : 0; // NaN times 0 is not 0
        for (uint32_t h = 0; h < 2; h++) {
            __m512i sum = _mm512_setzero_si512();
            for (uint32_t i = 32 * h; i < 32 * h + 32; i += 16) {
                __m512i q = _mm512_maskz_cvtps_epi32(
                    keep, _mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse)));
                __m512i high = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(8)), 4);
                __m512i low = _mm512_sub_epi32(q, _mm512_slli_epi32(high, 4));
                size_t at = (size_t)s * TC_SPAN_COLS + i;
                _mm_storeu_si128((__m128i *)(ret->high + at), _mm512_cvtepi32_epi8(high));
                _mm_storeu_si128((__m128i *)(ret->low + at), _mm512_cvtepi32_epi8(low));
                sum = _mm512_add_epi32(sum, q);
            }
            ret->bias[2 * s + h] = -128 * _mm512_reduce_add_epi32(sum);
        }
    }
}
