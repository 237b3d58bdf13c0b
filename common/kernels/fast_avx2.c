// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX2: four tokens and more in products of 16 bits (fast_avx2_wide.h), fewer in planes
// (fast_avx2_planes.h), and rounding. Bits as in fast_plain.c.
#include "common/kernels/fast_avx2_planes.h"
#include "common/kernels/fast_avx2_wide.h"

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    const tc_quant_view v = tc_quant_view_of(w);
    rows16 sum[PLANE_TOKENS_MAX];
    if (n >= WIDE_TOKENS) {
        run_wide(w, &v, panel0, panel1, x->rounded, n, type, to);
        return;
    }
    for (uint32_t p = panel0; p < panel1; p++) {
        uint32_t t = 0;
        for (; t + 2 <= n; t += 2) {
            panel_any(w, &v, p, x->rounded + t, 2, type, sum);
            tc_put(to, w, p, t, 2, sum);
        }
        if (t < n) {
            panel_any(w, &v, p, x->rounded + t, 1, type, sum);
            tc_put(to, w, p, t, 1, sum);
        }
    }
}

TC_KERNEL_PAIR(q4, run, TC_M_Q4)
TC_KERNEL_PAIR(q8, run, TC_M_Q8)

INLINE bool run_sum(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                    const float *scale, uint32_t n, const tc_matrix_type type, int64_t *const *acc)
{
    tc_kernel_sink to = {.acc = acc, .scale = scale, .fine = true};
    uint32_t whole = panel0; // panels with all rows
    if (n >= WIDE_TOKENS && w->cols <= WIDE_COLS) {
        whole = w->rows / TC_PANEL_ROWS < panel1 ? w->rows / TC_PANEL_ROWS : panel1;
        run_wide_sum(w, count, panel0, whole, x, n, type, &to);
    }
    for (uint32_t i = 0; i < count && whole < panel1; i++) run(&w[i], whole, panel1, &x[i], n, type, &to);
    return to.fine;
}

TC_KERNEL_SUM(q4, run_sum, TC_M_Q4)
TC_KERNEL_SUM(q8, run_sum, TC_M_Q8)

// Largest magnitude of 64 floats, as bits: whole numbers order as the floats do, and NaN is above all.
INLINE uint32_t top_bits(const float *x)
{
    const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
    __m256i top = _mm256_setzero_si256();
    for (int i = 0; i < TC_SPAN_COLS; i += 8)
        top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
    __m128i t = _mm_max_epu32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epu32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epu32(t, _mm_shuffle_epi32(t, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(t);
}

INLINE int32_t sum8(__m256i q)
{
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t);
}

// 32 numbers of 32 bits to bytes, in order.
INLINE __m256i pack32(const __m256i *v)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i q = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(q, order);
}

// 16 numbers of 32 bits to 16 bits, each four in the order 0 2 1 3.
INLINE __m256i pack16(const __m256i *v)
{
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    __m256i q = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xd8);
    return _mm256_shuffle_epi8(q, order);
}

static void round_row(const float *x, uint32_t cols, const tc_rounded_row *ret)
{
    for (uint32_t s = 0; s < cols / TC_SPAN_COLS; s++, x += TC_SPAN_COLS) {
        float inverse;
        ret->scale[s] = tc_rounded_scale(top_bits(x), &inverse);
        const __m256 factor = _mm256_set1_ps(inverse);
        const __m256i keep = _mm256_set1_epi32(inverse > 0 ? -1 : 0); // NaN times 0 is not 0
        for (uint32_t h = 0; h < 2; h++) {
            __m256i high[4], low[4], all[4], sum = _mm256_setzero_si256();
            for (int i = 0; i < 4; i++) {
                __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 32 * h + 8 * i), factor));
                all[i] = q = _mm256_and_si256(q, keep);
                high[i] = _mm256_srai_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(8)), 4);
                low[i] = _mm256_sub_epi32(q, _mm256_slli_epi32(high[i], 4));
                sum = _mm256_add_epi32(sum, q);
            }
            size_t at = (size_t)s * TC_SPAN_COLS + 32 * h;
            _mm256_storeu_si256((__m256i *)(ret->high + at), pack32(high));
            _mm256_storeu_si256((__m256i *)(ret->low + at), pack32(low));
            _mm256_storeu_si256((__m256i *)(ret->wide + at), pack16(all));
            _mm256_storeu_si256((__m256i *)(ret->wide + at + 16), pack16(all + 2));
            ret->bias[2 * s + h] = -128 * sum8(sum);
        }
    }
}

const tc_fast_part tc_fast_avx2 = {.matmul = {matmul_q4, matmul_q8},
                                   .matmul_fixed = {fixed_q4, fixed_q8},
                                   .matmul_fixed_sum = {fixed_sum_q4, fixed_sum_q8},
                                   .round = round_row};
