// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX2: four tokens and more in products of 16 bits, fewer in planes
// (fast_avx2_planes.h), and rounding. Bits as in fast_plain.c.
#include "common/kernels/fast_avx2_planes.h"

enum { TOKENS_MAX = 4 };

// ---- four tokens and more: products of 16 bits ----
//
// Weights and activations as whole 16-bit numbers take two multiplications of 32 products instead of three,
// no bias, and both halves at once. Weights take three instructions more to unpack, which four tokens pay
// for and one does not. The sums are the same whole numbers, so the bits are too.

enum {
    WIDE_COLS_MAX = 8192,             // wider matrices keep to the planes: the copies below lie on the stack
    WIDE_STRIDE = WIDE_COLS_MAX + 32, // rows of a power of two would share cache lines
    WIDE_PANELS = 8,                  // that stay in the second cache while tokens pass
    WIDE_SCALES = 512,                // of their groups: worked out once for all tokens
};

// q of a row, each four columns in the order 0 2 1 3, as the weights come out of their bytes.
INLINE void widen(const tc_rounded_row *x, uint32_t cols, int16_t *ret)
{
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    for (uint32_t c = 0; c < cols; c += 16) {
        __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(x->high + c)));
        __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(x->low + c)));
        __m256i q = _mm256_add_epi16(_mm256_slli_epi16(high, 4), low);
        _mm256_store_si256((__m256i *)(ret + c), _mm256_shuffle_epi8(q, order));
    }
}

// Four columns of both halves (bytes: code by code) for four tokens: columns 0 and 2, then 1 and 3, so that
// sums and weights fit into the registers.
INLINE void wide4(const __m256i bytes[2], const int16_t (*x)[WIDE_STRIDE], const uint32_t at,
                  __m256i acc[TOKENS_MAX][2])
{
    for (uint32_t odd = 0; odd < 2; odd++) {
        __m256i u[2];
        for (int h = 0; h < 2; h++)
            u[h] = _mm256_srai_epi16(odd ? bytes[h] : _mm256_slli_epi16(bytes[h], 8), 8);
        for (int t = 0; t < TOKENS_MAX; t++) {
            const __m256i q = _mm256_broadcastd_epi32(_mm_loadu_si32(x[t] + at + 2 * odd));
            for (int h = 0; h < 2; h++) acc[t][h] = _mm256_add_epi32(acc[t][h], _mm256_madd_epi16(u[h], q));
        }
    }
}

// `cols` columns from `at`, of tiles of 64 bytes.
INLINE void wide_dot(const uint8_t *tiles, const int16_t (*x)[WIDE_STRIDE], uint32_t at, const uint32_t cols,
                     const bool is_q4, const __m256i codes, __m256i acc[TOKENS_MAX][2])
{
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 1
    for (const uint32_t end = at + cols; at < end; tiles += 64, at += is_q4 ? 8 : 4) {
        __m256i data[2], first[2], second[2];
        for (int h = 0; h < 2; h++) {
            data[h] = _mm256_load_si256((const __m256i *)(tiles + 32 * (size_t)h));
            first[h] = _mm256_shuffle_epi8(codes, _mm256_and_si256(data[h], low));
            second[h] = _mm256_shuffle_epi8(codes, _mm256_and_si256(_mm256_srli_epi16(data[h], 4), low));
        }
        wide4(is_q4 ? first : data, x, at, acc);
        if (is_q4) wide4(second, x, at + 4, acc);
    }
}

INLINE void wide_scales(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const uint32_t group,
                        rows16 *ret)
{
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    for (uint32_t c = 0; c < w->cols; c += group)
        tc_panel_scales_at(v, &ps, c / TC_SPAN_COLS, c % TC_SPAN_COLS / group, ret++->half);
}

// A panel for four tokens. scales: of its groups.
INLINE void wide_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *rows,
                       const int16_t (*x)[WIDE_STRIDE], const rows16 *scales, const bool is_q4,
                       const uint32_t group, rows16 *sum)
{
    const __m256i codes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)w->fast));
    const uint32_t bytes = group * (is_q4 ? 8 : 16);
    const uint8_t *tiles = is_q4 ? tc_q4_tiles(v, panel) : (const uint8_t *)tc_q8_tiles(v, panel);
    for (int t = 0; t < TOKENS_MAX; t++) sum[t].half[0] = sum[t].half[1] = _mm256_setzero_ps();
    for (uint32_t c = 0; c < w->cols; c += group, tiles += bytes, scales++) {
        __m256i acc[TOKENS_MAX][2];
        for (int t = 0; t < TOKENS_MAX; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
        for (uint32_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)tiles + i + PREFETCH_BYTES, _MM_HINT_T0);
        wide_dot(tiles, x, c, group, is_q4, codes, acc);
        for (int t = 0; t < TOKENS_MAX; t++) {
            __m256 factor = _mm256_broadcast_ss(&rows[t].scale[c / TC_SPAN_COLS]);
            for (int h = 0; h < 2; h++)
                sum[t].half[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[t][h]),
                                                 _mm256_mul_ps(scales->half[h], factor), sum[t].half[h]);
        }
    }
    for (int t = 0; t < TOKENS_MAX && is_q4; t++)
        for (int h = 0; h < 2; h++)
            sum[t].half[h] = _mm256_mul_ps(sum[t].half[h], _mm256_set1_ps(w->fast_step));
}

// As many tokens as make whole fours. Returns how many that are.
INLINE uint32_t run_wide(const tc_matrix *w, const tc_quant_view *v, uint32_t panel0, uint32_t panel1,
                         const tc_rounded_row *rows, uint32_t n, const tc_matrix_type type,
                         tc_kernel_sink *to)
{
    _Alignas(32) int16_t x[TOKENS_MAX][WIDE_STRIDE];
    rows16 sum[TOKENS_MAX], scales[WIDE_SCALES];
    const uint32_t group = w->form.group, groups = w->cols / group,
                   step = WIDE_SCALES / groups < WIDE_PANELS ? WIDE_SCALES / groups : WIDE_PANELS;
    if (w->cols > WIDE_COLS_MAX || n < TOKENS_MAX) return 0;
    for (uint32_t first = panel0, last; first < panel1; first = last) {
        last = first + step < panel1 ? first + step : panel1;
        for (uint32_t p = first; p < last; p++) wide_scales(w, v, p, group, scales + (p - first) * groups);
        for (uint32_t t = 0; t + TOKENS_MAX <= n; t += TOKENS_MAX) {
            for (int i = 0; i < TOKENS_MAX; i++) widen(&rows[t + (uint32_t)i], w->cols, x[i]);
            for (uint32_t p = first; p < last; p++) {
                const rows16 *of = scales + (p - first) * groups;
                if (group == 64)
                    wide_panel(w, v, p, rows + t, x, of, type == TC_M_Q4, 64, sum);
                else
                    wide_panel(w, v, p, rows + t, x, of, true, 32, sum);
                tc_put(to, w, p, t, TOKENS_MAX, sum);
            }
        }
    }
    return n / TOKENS_MAX * TOKENS_MAX;
}

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    const tc_quant_view v = tc_quant_view_of(w);
    const uint32_t done = run_wide(w, &v, panel0, panel1, x->rounded, n, type, to);
    rows16 sum[PLANE_TOKENS_MAX];
    for (uint32_t p = panel0; done < n && p < panel1; p++) {
        uint32_t t = done;
        for (; t + 2 <= n; t += 2) { // once, but for matrices that are too wide
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

static void round_row(const float *x, uint32_t cols, const tc_rounded_row *ret)
{
    for (uint32_t s = 0; s < cols / TC_SPAN_COLS; s++, x += TC_SPAN_COLS) {
        float inverse;
        ret->scale[s] = tc_rounded_scale(top_bits(x), &inverse);
        const __m256 factor = _mm256_set1_ps(inverse);
        const __m256i keep = _mm256_set1_epi32(inverse > 0 ? -1 : 0); // NaN times 0 is not 0
        for (uint32_t h = 0; h < 2; h++) {
            __m256i high[4], low[4], sum = _mm256_setzero_si256();
            for (int i = 0; i < 4; i++) {
                __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 32 * h + 8 * i), factor));
                q = _mm256_and_si256(q, keep);
                high[i] = _mm256_srai_epi32(_mm256_add_epi32(q, _mm256_set1_epi32(8)), 4);
                low[i] = _mm256_sub_epi32(q, _mm256_slli_epi32(high[i], 4));
                sum = _mm256_add_epi32(sum, q);
            }
            size_t at = (size_t)s * TC_SPAN_COLS + 32 * h;
            _mm256_storeu_si256((__m256i *)(ret->high + at), pack32(high));
            _mm256_storeu_si256((__m256i *)(ret->low + at), pack32(low));
            ret->bias[2 * s + h] = -128 * sum8(sum);
        }
    }
}

const tc_fast_part tc_fast_avx2 = {{matmul_q4, matmul_q8}, {fixed_q4, fixed_q8}, round_row, false};
