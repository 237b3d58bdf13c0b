// SPDX-License-Identifier: Apache-2.0
// Owns: what the AVX-512 files share: the scales of a span, and putting a panel's sums where they go. One
// register holds the 16 rows. Refuses: to be included by code that is not built for AVX-512 F+BW+DQ+VL.
#pragma once

#include "common/kernels/impl.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

// The scales of one panel, span after span.
typedef struct tc_panel_scales {
    uint32_t panel;
    bool steady; // nested scales are the same in all spans
    __m512 nested, offset;
} tc_panel_scales;

INLINE __m512 tc_load_nested(const tc_quant_view *v, uint32_t panel, uint32_t span)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t first =
        v->phase + panel * TC_PANEL_ROWS * v->stride + span; // fits: a weight has below 2^32 blocks
    __m512i block = _mm512_add_epi32(_mm512_set1_epi32((int)first),
                                     _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)v->stride)));
    return _mm512_i32gather_ps(_mm512_srli_epi32(block, TC_NESTED_SHIFT), v->table->nested, 4);
}

INLINE tc_panel_scales tc_panel_scales_begin(const tc_quant_view *v, uint32_t panel)
{
    tc_panel_scales ps = {.panel = panel};
    if (!v->stride) return ps;
    ps.steady = tc_nested_steady(v, panel);
    ps.offset = _mm512_set1_ps(v->table->offset);
    if (ps.steady) ps.nested = tc_load_nested(v, panel, 0);
    return ps;
}

// As tc_scales_of: the same two roundings.
INLINE __m512 tc_panel_scales_at(const tc_quant_view *v, tc_panel_scales *ps, uint32_t span, uint32_t g)
{
    if (!v->stride) return _mm512_load_ps(tc_span_scales(v, ps->panel, span) + (size_t)g * TC_PANEL_ROWS);
    __m128i codes = _mm_load_si128((const __m128i *)tc_span_codes(v, ps->panel, span));
    if (!ps->steady) ps->nested = tc_load_nested(v, ps->panel, span);
    __m512 map = _mm512_i32gather_ps(_mm512_cvtepu8_epi32(codes), v->map, 4);
    return _mm512_add_ps(_mm512_mul_ps(map, ps->nested), ps->offset);
}

// Sums of one panel of T tokens, beginning with `first`, to where they go.
INLINE void tc_put(tc_kernel_sink *to, const tc_matrix *w, uint32_t panel, uint32_t first, const int T,
                   const __m512 *sum)
{
    const uint32_t rows = tc_panel_rows(w, panel);
    const __mmask16 mask = (__mmask16)((1u << rows) - 1);
    const size_t at = (size_t)panel * TC_PANEL_ROWS;
    for (int t = 0; t < T; t++) {
        if (to->y) {
            _mm512_mask_storeu_ps(to->y[first + (uint32_t)t] + at, mask, sum[t]);
            continue;
        }
        int64_t *acc = to->acc[first + (uint32_t)t] + at;
        __m512 v = _mm512_maskz_mul_ps(mask, sum[t], _mm512_set1_ps(to->scale[first + (uint32_t)t]));
        __mmask16 good = _mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(TC_FIXED_PART_MAX), _CMP_LT_OQ);
        if (good != 0xffff) to->fine = false;
        v = _mm512_mul_ps(v, _mm512_set1_ps(TC_FIXED_ONE));
        __m512i low = _mm512_cvtps_epi64(_mm512_castps512_ps256(v));
        __m512i high = _mm512_cvtps_epi64(_mm512_extractf32x8_ps(v, 1));
        __mmask8 mask_low = (__mmask8)mask, mask_high = (__mmask8)(mask >> 8);
        low = _mm512_add_epi64(low, _mm512_maskz_loadu_epi64(mask_low, acc));
        _mm512_mask_storeu_epi64(acc, mask_low, low);
        if (!mask_high) continue;
        high = _mm512_add_epi64(high, _mm512_maskz_loadu_epi64(mask_high, acc + 8));
        _mm512_mask_storeu_epi64(acc + 8, mask_high, high);
    }
}
