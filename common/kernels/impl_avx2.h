// SPDX-License-Identifier: Apache-2.0
// Owns: what the AVX2 files share: 16 rows in two registers, the scales of a span, and putting sums where
// they go. Refuses: to be included by code that is not built for AVX2 + FMA.
#pragma once

#include "common/kernels/impl.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef struct rows16 {
    __m256 half[2];
} rows16;

// The scales of one panel, span after span.
typedef struct tc_panel_scales {
    uint32_t panel;
    bool steady; // nested scales are the same in all spans
    __m256 nested[2], offset;
} tc_panel_scales;

// Four of a table's numbers: a gather takes twice as long.
INLINE __m128 tc_look_up4(const float *table, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    __m128 ret = _mm_insert_ps(_mm_load_ss(table + a), _mm_load_ss(table + b), 0x10);
    return _mm_insert_ps(_mm_insert_ps(ret, _mm_load_ss(table + c), 0x20), _mm_load_ss(table + d), 0x30);
}

INLINE __m256 tc_look_up8(const float *table, const uint8_t *i)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(tc_look_up4(table, i[0], i[1], i[2], i[3])),
                                tc_look_up4(table, i[4], i[5], i[6], i[7]), 1);
}

// Nested scales of a panel's rows in one span. Narrow matrices, whose spans are few (down projections), have
// two of them at most, and need no gather.
INLINE void tc_load_nested(const tc_quant_view *v, uint32_t panel, uint32_t span, __m256 ret[2])
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const uint32_t stride = v->stride, reach = (TC_PANEL_ROWS - 1) * stride;
    const uint32_t first = v->phase + panel * TC_PANEL_ROWS * stride + span; // fits: a weight has below 2^32
    const uint32_t begin = first >> TC_NESTED_SHIFT, end = (first + reach) >> TC_NESTED_SHIFT;
    const __m256i from_first = _mm256_mullo_epi32(lane, _mm256_set1_epi32((int)stride));
    if (end - begin < 2) {
        const __m256 low = _mm256_broadcast_ss(v->table->nested + begin),
                     high = _mm256_broadcast_ss(v->table->nested + end);
        const uint32_t left = (1u << TC_NESTED_SHIFT) - first % (1u << TC_NESTED_SHIFT); // of the first
        for (uint32_t h = 0; h < 2; h++) {
            const __m256i border = _mm256_set1_epi32((int)left - 1 - (int)(8 * h * stride));
            ret[h] = _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_cmpgt_epi32(from_first, border)));
        }
        return;
    }
    for (uint32_t h = 0; h < 2; h++) {
        __m256i block = _mm256_add_epi32(_mm256_set1_epi32((int)(first + 8 * h * stride)), from_first);
        ret[h] = _mm256_i32gather_ps(v->table->nested, _mm256_srli_epi32(block, TC_NESTED_SHIFT), 4);
    }
}

INLINE tc_panel_scales tc_panel_scales_begin(const tc_quant_view *v, uint32_t panel)
{
    tc_panel_scales ps = {.panel = panel};
    if (!v->stride) return ps;
    ps.steady = tc_nested_steady(v, panel);
    ps.offset = _mm256_set1_ps(v->table->offset);
    if (ps.steady) tc_load_nested(v, panel, 0, ps.nested);
    return ps;
}

// As tc_scales_of: the same two roundings.
INLINE void tc_panel_scales_at(const tc_quant_view *v, tc_panel_scales *ps, uint32_t span, uint32_t g,
                               __m256 ret[2])
{
    if (!v->stride) {
        const float *scales = tc_span_scales(v, ps->panel, span) + (size_t)g * TC_PANEL_ROWS;
        ret[0] = _mm256_load_ps(scales);
        ret[1] = _mm256_load_ps(scales + 8);
        return;
    }
    const uint8_t *codes = tc_span_codes(v, ps->panel, span);
    if (!ps->steady) tc_load_nested(v, ps->panel, span, ps->nested);
    for (int h = 0; h < 2; h++)
        ret[h] = _mm256_add_ps(_mm256_mul_ps(tc_look_up8(v->map, codes + 8 * h), ps->nested[h]), ps->offset);
}

// acc += round(v * 2^32) for four parts below 2^19: added to 1.5 * 2^52 they are the low bits of a double.
INLINE void tc_add_fixed4(__m128 v, int64_t *acc)
{
    const __m256d magic = _mm256_set1_pd(0x1.8p52);
    __m256d shifted = _mm256_fmadd_pd(_mm256_cvtps_pd(v), _mm256_set1_pd(0x1p32), magic);
    __m256i part = _mm256_sub_epi64(_mm256_castpd_si256(shifted), _mm256_castpd_si256(magic));
    _mm256_storeu_si256((__m256i *)acc, _mm256_add_epi64(part, _mm256_loadu_si256((const __m256i *)acc)));
}

// Sums of one panel of T tokens, beginning with `first`, to where they go.
INLINE void tc_put(tc_kernel_sink *to, const tc_matrix *w, uint32_t panel, uint32_t first, const int T,
                   const rows16 *sum)
{
    const uint32_t rows = tc_panel_rows(w, panel);
    const size_t at = (size_t)panel * TC_PANEL_ROWS;
    const __m256 most = _mm256_set1_ps(TC_FIXED_PART_MAX),
                 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MAX));
    for (int t = 0; t < T; t++) {
        if (to->y && rows == TC_PANEL_ROWS) {
            _mm256_storeu_ps(to->y[first + (uint32_t)t] + at, sum[t].half[0]);
            _mm256_storeu_ps(to->y[first + (uint32_t)t] + at + 8, sum[t].half[1]);
            continue;
        }
        float values[TC_PANEL_ROWS];
        __m256 part[2];
        for (int h = 0; h < 2; h++) {
            part[h] = to->y ? sum[t].half[h]
                            : _mm256_mul_ps(sum[t].half[h], _mm256_set1_ps(to->scale[first + (uint32_t)t]));
            _mm256_storeu_ps(values + 8 * h, part[h]);
        }
        if (to->y) {
            memcpy(to->y[first + (uint32_t)t] + at, values, rows * sizeof *values);
            continue;
        }
        int64_t *acc = to->acc[first + (uint32_t)t] + at;
        if (rows == TC_PANEL_ROWS) {
            __m256 good = _mm256_and_ps(_mm256_cmp_ps(_mm256_and_ps(part[0], magnitude), most, _CMP_LT_OQ),
                                        _mm256_cmp_ps(_mm256_and_ps(part[1], magnitude), most, _CMP_LT_OQ));
            if (_mm256_movemask_ps(good) != 0xff) to->fine = false;
            for (int h = 0; h < 2; h++) {
                tc_add_fixed4(_mm256_castps256_ps128(part[h]), acc + 8 * h);
                tc_add_fixed4(_mm256_extractf128_ps(part[h], 1), acc + 8 * h + 4);
            }
            continue;
        }
        for (uint32_t r = 0; r < rows; r++) {
            if (!(__builtin_fabsf(values[r]) < TC_FIXED_PART_MAX))
                to->fine = false;
            else // rounds to nearest even, as the vectors do
                acc[r] = tc_fixed_add(acc[r], _mm_cvtss_si64(_mm_set_ss(values[r] * TC_FIXED_ONE)));
        }
    }
}
