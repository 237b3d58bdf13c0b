// SPDX-License-Identifier: Apache-2.0
// Owns: what the AVX-512 files share: the scales of a span, and putting a panel's sums where they go. One
// register holds the 16 rows. Refuses: to be included by code that is not built for AVX-512 F+BW+DQ+VL.
#pragma once

#include "common/kernels/impl.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

// Loops over tokens are unrolled wholly, so that their arrays become registers: a third of the speed
// otherwise. Each compiler has its own word for it, and passes over the other's.
#ifdef __clang__
#define UNROLL(n) _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(n) PRAGMA(GCC unroll n)
#define ROLLED PRAGMA(GCC unroll 1)
#endif

// Kernels that have a function for each number of tokens they take at once.
enum { TC_TOKENS_AT_ONCE = 8 };
#define EACH_T(DO, kind)                                                                                     \
    DO(kind, 1) DO(kind, 2) DO(kind, 3) DO(kind, 4) DO(kind, 5) DO(kind, 6) DO(kind, 7) DO(kind, 8)
#define NAMES(of, kind)                                                                                      \
    {                                                                                                        \
        of##_##kind##_1, of##_##kind##_2, of##_##kind##_3, of##_##kind##_4, of##_##kind##_5,                 \
            of##_##kind##_6, of##_##kind##_7, of##_##kind##_8                                                \
    }

// Tokens taken together next, of n.
INLINE uint32_t tc_tokens_of(uint32_t n)
{
    return n < TC_TOKENS_AT_ONCE ? n : TC_TOKENS_AT_ONCE;
}

// The scales of one panel, span after span.
typedef struct tc_panel_scales {
    uint32_t panel;
    bool steady; // nested scales are the same in all spans
    __m512 nested, offset;
} tc_panel_scales;

// Sixteen rows meet few nested scales: those that follow the first one are read at once and dealt out.
INLINE __m512 tc_load_nested(const tc_quant_view *v, uint32_t panel, uint32_t span)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint32_t first = v->phase + panel * TC_PANEL_ROWS * v->stride + span, // fits: a weight has below
                                                                                // 2^32 blocks
        at = first >> TC_NESTED_SHIFT;
    __m512i block = _mm512_add_epi32(_mm512_set1_epi32((int)first),
                                     _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)v->stride)));
    block = _mm512_srli_epi32(block, TC_NESTED_SHIFT);
    if (v->stride > 1u << TC_NESTED_SHIFT) return _mm512_i32gather_ps(block, v->table->nested, 4);
    // What is read past the table is the codes behind it and never dealt out.
    return _mm512_permutexvar_ps(_mm512_sub_epi32(block, _mm512_set1_epi32((int)at)),
                                 _mm512_loadu_ps(v->table->nested + at));
}

// The same of panels [panel, panel + 4) of a matrix of one span.
INLINE void tc_load_nested_four(const tc_quant_view *v, uint32_t panel, __m512 ret[4])
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint32_t first = v->phase + panel * TC_PANEL_ROWS * v->stride, at = first >> TC_NESTED_SHIFT,
                   from = first & ((1u << TC_NESTED_SHIFT) - 1),
                   last = from + (4 * TC_PANEL_ROWS - 1) * v->stride;
    const __m512i step = _mm512_set1_epi32((int)(TC_PANEL_ROWS * v->stride));
    __m512i block = _mm512_add_epi32(_mm512_set1_epi32((int)from),
                                     _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)v->stride)));
    if (last >> TC_NESTED_SHIFT >= 16) { // more than a register holds
        for (uint32_t i = 0; i < 4; i++) ret[i] = tc_load_nested(v, panel + i, 0);
        return;
    }
    const __m512 nested = _mm512_loadu_ps(v->table->nested + at);
    UNROLL(4)
    for (uint32_t i = 0; i < 4; i++, block = _mm512_add_epi32(block, step))
        ret[i] = _mm512_permutexvar_ps(_mm512_srli_epi32(block, TC_NESTED_SHIFT), nested);
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

#ifdef __AVX512VBMI__
// One byte of the numbers that 64 codes stand for; above: codes of the map's upper half.
INLINE __m512i tc_nested_plane(int byte, __m512i codes, __mmask64 above)
{
    const uint8_t *plane = tc_nested_planes[byte];
    __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(plane), codes, _mm512_load_si512(plane + 64));
    __m512i high =
        _mm512_permutex2var_epi8(_mm512_load_si512(plane + 128), codes, _mm512_load_si512(plane + 192));
    return _mm512_mask_mov_epi8(low, above, high);
}

// What 64 codes, 16 rows of four spans, stand for: byte by byte. Codes are dealt out first so that putting
// the bytes together leaves the rows of a span in one register, in order. A gather takes as long as four of
// these.
INLINE void tc_nested_four(const uint8_t *codes, __m512 ret[4])
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i c = _mm512_permutexvar_epi32(order, _mm512_load_si512(codes));
    const __mmask64 above = _mm512_movepi8_mask(c);
    const __m512i b0 = tc_nested_plane(0, c, above), b1 = tc_nested_plane(1, c, above),
                  b2 = tc_nested_plane(2, c, above), b3 = tc_nested_plane(3, c, above);
    const __m512i low01 = _mm512_unpacklo_epi8(b0, b1), low23 = _mm512_unpacklo_epi8(b2, b3),
                  high01 = _mm512_unpackhi_epi8(b0, b1), high23 = _mm512_unpackhi_epi8(b2, b3);
    ret[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low01, low23));
    ret[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low01, low23));
    ret[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(high01, high23));
    ret[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(high01, high23));
}

enum { TC_CODES_AHEAD_BYTES = 256 }; // of 16 spans, whose tiles are 8 KiB

#endif

// As tc_scales_of: the same two roundings.
INLINE __m512 tc_panel_scales_at(const tc_quant_view *v, tc_panel_scales *ps, uint32_t span, uint32_t g)
{
    if (!v->stride) return _mm512_load_ps(tc_span_scales(v, ps->panel, span) + (size_t)g * TC_PANEL_ROWS);
    if (!ps->steady) ps->nested = tc_load_nested(v, ps->panel, span);
    const __m128i codes = _mm_load_si128((const __m128i *)tc_span_codes(v, ps->panel, span));
    const __m512 levels = _mm512_i32gather_ps(_mm512_cvtepu8_epi32(codes), v->map, 4);
    return _mm512_add_ps(_mm512_mul_ps(levels, ps->nested), ps->offset);
}

// Nested scales of the next spans of a panel, at most four: those whose codes lie in one line. Returns how
// many.
INLINE uint32_t tc_panel_scales_next(const tc_quant_view *v, tc_panel_scales *ps, uint32_t span,
                                     __m512 ret[4])
{
    const size_t at = (size_t)ps->panel * v->spans + span;
    const uint32_t first = at % 4, left = v->spans - span, some = 4 - first < left ? 4 - first : left;
#ifdef __AVX512VBMI__
    __m512 four[4];
    _mm_prefetch((const char *)v->codes + at / 4 * 64 + TC_CODES_AHEAD_BYTES, _MM_HINT_T0);
    tc_nested_four(v->codes + at / 4 * 64, four);
    if (some == 4 && ps->steady) {
        UNROLL(4)
        for (uint32_t i = 0; i < 4; i++)
            ret[i] = _mm512_add_ps(_mm512_mul_ps(four[i], ps->nested), ps->offset);
        return 4;
    }
    for (uint32_t i = 0; i < some; i++) {
        if (!ps->steady) ps->nested = tc_load_nested(v, ps->panel, span + i);
        ret[i] = _mm512_add_ps(_mm512_mul_ps(four[first + i], ps->nested), ps->offset);
    }
#else
    for (uint32_t i = 0; i < some; i++) ret[i] = tc_panel_scales_at(v, ps, span + i, 0);
#endif
    return some;
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
