// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX2, four tokens and more: weights and activations as whole 16-bit numbers, which take
// two multiplications of 32 products instead of the planes' three, no bias, and both halves of a panel at
// once. A piece of a panel is unpacked into the first cache and meets all tokens there; what a token has
// summed up waits beside it. The sums are the same whole numbers, so the bits are too. Refuses: to be
// included anywhere but in fast_avx2.c.
#pragma once

#include "common/kernels/impl_avx2.h"

enum {
    WIDE_TOKENS = 4,       // at once: their sums and the weights fit into the registers
    WIDE_COLS = 512,       // of a panel, unpacked: 16 KiB
    WIDE_BLOCK = 64,       // tokens that pass meanwhile: their activations stay in the second cache
    WIDE_AHEAD = 2048,     // bytes asked for ahead
    WIDE_NEAR_COLS = 1024, // of matrices that are added up: a token's activations, brought near
    WIDE_STEP_BYTES = 64,  // of unpacked weights: two columns of 16 rows
};

// A token's activations, as they are read here.
typedef struct wide_row {
    const int16_t *x;
    const float *scale; // of each span
} wide_row;

typedef struct wide_scratch {
    _Alignas(64) uint8_t weights[WIDE_COLS / 2 * WIDE_STEP_BYTES];
    rows16 scales[WIDE_COLS / 32];
    rows16 sums[WIDE_BLOCK];
} wide_scratch;

// Four columns of both halves (bytes: code by code): columns 0 and 2, then 1 and 3.
INLINE uint8_t *unpack4(const __m256i bytes[2], uint8_t *to)
{
    for (int odd = 0; odd < 2; odd++)
        for (int h = 0; h < 2; h++, to += 32)
            _mm256_store_si256((__m256i *)to,
                               _mm256_srai_epi16(odd ? bytes[h] : _mm256_slli_epi16(bytes[h], 8), 8));
    return to;
}

// Columns [begin, end) of a panel.
INLINE void unpack(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t begin, uint32_t end,
                   const bool is_q4, uint8_t *to)
{
    const __m256i codes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)w->fast)),
                  low = _mm256_set1_epi8(15);
    const uint8_t *tiles = tc_quant_tiles(w, v, panel);
    const uint32_t cols = is_q4 ? 8 : 4; // of a tile of 64 bytes
    tiles += (size_t)begin / cols * 64;
    for (uint32_t c = begin; c < end; c += cols, tiles += 64) {
        __m256i data[2], first[2], second[2];
        _mm_prefetch((const char *)tiles + WIDE_AHEAD, _MM_HINT_T0);
        for (int h = 0; h < 2; h++) {
            data[h] = _mm256_load_si256((const __m256i *)(tiles + 32 * (size_t)h));
            first[h] = _mm256_shuffle_epi8(codes, _mm256_and_si256(data[h], low));
            second[h] = _mm256_shuffle_epi8(codes, _mm256_and_si256(_mm256_srli_epi16(data[h], 4), low));
        }
        to = unpack4(is_q4 ? first : data, to);
        if (is_q4) to = unpack4(second, to);
    }
}

// The sum stays where it is: left to itself the compiler multiplies for all tokens first, runs out of
// registers and keeps sums in memory, which takes twice as long.
INLINE void add_product(__m256i *sum, __m256i u, __m256i q)
{
    const __m256i product = _mm256_madd_epi16(u, q);
    __asm__("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(product));
}

// One group of T tokens: their sums in it, as floats.
INLINE void wide_dot(const uint8_t *weights, const int16_t *const *x, const uint32_t at, const uint32_t group,
                     const int T, __m256 dot[WIDE_TOKENS][2])
{
    __m256i acc[WIDE_TOKENS][2];
    for (int t = 0; t < T; t++) acc[t][0] = acc[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (uint32_t c = at; c < at + group; c += 4, weights += 2 * WIDE_STEP_BYTES) {
#pragma GCC unroll 2
        for (uint32_t odd = 0; odd < 2; odd++) {
            const __m256i *u = (const __m256i *)(weights + odd * WIDE_STEP_BYTES);
            const __m256i u0 = _mm256_load_si256(u), u1 = _mm256_load_si256(u + 1);
#pragma GCC unroll 4
            for (int t = 0; t < T; t++) {
                const __m256i q = _mm256_broadcastd_epi32(_mm_loadu_si32(x[t] + c + 2 * odd));
                add_product(&acc[t][0], u0, q);
                add_product(&acc[t][1], u1, q);
            }
        }
    }
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++) dot[t][h] = _mm256_cvtepi32_ps(acc[t][h]);
}

// Columns [begin, end), which are unpacked, of T tokens: added to their sums, or where those begin.
INLINE void wide_cols(const wide_scratch *s, const wide_row *rows, const int T, const uint32_t begin,
                      const uint32_t end, const uint32_t group, rows16 *sum)
{
    const int16_t *x[WIDE_TOKENS];
    const uint8_t *weights = s->weights;
    const rows16 *scale = s->scales;
    for (int t = 0; t < T; t++) {
        x[t] = rows[t].x;
        if (begin == 0) sum[t].half[0] = sum[t].half[1] = _mm256_setzero_ps();
    }
    for (uint32_t c = begin; c < end; c += group, weights += group / 2 * WIDE_STEP_BYTES, scale++) {
        __m256 dot[WIDE_TOKENS][2];
        wide_dot(weights, x, c, group, T, dot);
        for (int t = 0; t < T; t++) {
            const __m256 factor = _mm256_broadcast_ss(&rows[t].scale[c / TC_SPAN_COLS]);
            for (int h = 0; h < 2; h++)
                sum[t].half[h] =
                    _mm256_fmadd_ps(dot[t][h], _mm256_mul_ps(scale->half[h], factor), sum[t].half[h]);
        }
    }
}

INLINE void wide_any(const wide_scratch *s, const wide_row *rows, const int T, const uint32_t begin,
                     const uint32_t end, const uint32_t group, rows16 *sum)
{
    if (group == 64)
        wide_cols(s, rows, T, begin, end, 64, sum);
    else
        wide_cols(s, rows, T, begin, end, 32, sum);
}

// Sums of a panel for a block of tokens, into s->sums; the step is left to the caller.
INLINE void wide_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const wide_row *rows,
                       uint32_t n, const bool is_q4, wide_scratch *s)
{
    const uint32_t group = is_q4 ? w->form.group : 64;
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    for (uint32_t begin = 0, end; begin < w->cols; begin = end) {
        end = begin + WIDE_COLS < w->cols ? begin + WIDE_COLS : w->cols;
        unpack(w, v, panel, begin, end, is_q4, s->weights);
        for (uint32_t c = begin, i = 0; c < end; c += group, i++)
            tc_panel_scales_at(v, &ps, c / TC_SPAN_COLS, c % TC_SPAN_COLS / group, s->scales[i].half);
        uint32_t t = 0;
        for (; t + 4 <= n; t += 4) wide_any(s, rows + t, 4, begin, end, group, s->sums + t);
        if (n - t == 3) wide_any(s, rows + t, 3, begin, end, group, s->sums + t);
        if (n - t == 2) wide_any(s, rows + t, 2, begin, end, group, s->sums + t);
        if (n - t == 1) wide_any(s, rows + t, 1, begin, end, group, s->sums + t);
    }
}

INLINE void wide_step(const tc_matrix *w, wide_scratch *s, uint32_t n, const bool is_q4)
{
    for (uint32_t t = 0; t < n && is_q4; t++)
        for (int h = 0; h < 2; h++)
            s->sums[t].half[h] = _mm256_mul_ps(s->sums[t].half[h], _mm256_set1_ps(w->fast_step));
}

// Tokens of the next block of n: blocks are of about the same size.
INLINE uint32_t wide_block(uint32_t n)
{
    const uint32_t blocks = (n + WIDE_BLOCK - 1) / WIDE_BLOCK, count = (n / blocks + 3) / 4 * 4;
    return count < n ? count : n;
}

INLINE void run_wide(const tc_matrix *w, const tc_quant_view *v, uint32_t panel0, uint32_t panel1,
                     const tc_rounded_row *rows, uint32_t n, const tc_matrix_type type, tc_kernel_sink *to)
{
    wide_scratch s;
    for (uint32_t first = 0, count; first < n; first += count) {
        wide_row block[WIDE_BLOCK];
        count = wide_block(n - first);
        for (uint32_t t = 0; t < count; t++)
            block[t] = (wide_row){rows[first + t].wide, rows[first + t].scale};
        for (uint32_t p = panel0; p < panel1; p++) {
            wide_panel(w, v, p, block, count, type == TC_M_Q4, &s);
            wide_step(w, &s, count, type == TC_M_Q4);
            tc_put(to, w, p, first, (int)count, s.sums);
        }
    }
}

// ---- sums of several matrices ----
//
// What a token gets of one panel is added up in the first cache, matrix after matrix, and goes to its sum
// once. Numbers in fixed point are added as they lie in the doubles that round them (tc_add_fixed4): what
// those have too much is the same each time and comes off at the end.

typedef struct wide_totals {
    __m256i quarter[4];
} wide_totals;

// Adds s->sums, times the step and the tokens' scales, in fixed point. Returns the largest magnitudes, as
// bits.
INLINE __m256i wide_collect(const wide_scratch *s, uint32_t n, const float *scale, const float step,
                            wide_totals *totals, __m256i top)
{
    const __m256d magic = _mm256_set1_pd(0x1.8p52), one = _mm256_set1_pd(0x1p32);
    const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
    for (uint32_t t = 0; t < n; t++) {
        const __m256 factor = _mm256_broadcast_ss(scale + t);
        for (int h = 0; h < 2; h++) {
            const __m256 part =
                _mm256_mul_ps(_mm256_mul_ps(s->sums[t].half[h], _mm256_set1_ps(step)), factor);
            top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(part), magnitude));
            __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(part)),
                    high = _mm256_cvtps_pd(_mm256_extractf128_ps(part, 1));
            __m256i *to = totals[t].quarter + 2 * h;
            to[0] = _mm256_add_epi64(to[0], _mm256_castpd_si256(_mm256_fmadd_pd(low, one, magic)));
            to[1] = _mm256_add_epi64(to[1], _mm256_castpd_si256(_mm256_fmadd_pd(high, one, magic)));
        }
    }
    return top;
}

// Activations of a block of tokens for some matrices, one row after another: as they come, rows of a token
// lie at distances that neither caches nor prefetchers like, and each panel reads them all again.
typedef struct wide_near {
    _Alignas(64) int16_t x[WIDE_NEAR_COLS * WIDE_BLOCK];
    float scale[WIDE_NEAR_COLS / TC_SPAN_COLS * WIDE_BLOCK];
    wide_row rows[WIDE_NEAR_COLS / TC_SPAN_COLS * WIDE_BLOCK]; // [matrices][WIDE_BLOCK]
} wide_near;

INLINE void bring_near(const tc_rows *from, uint32_t count, uint32_t cols, uint32_t first, uint32_t tokens,
                       wide_near *to)
{
    int16_t *x = to->x;
    float *scale = to->scale;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t t = 0; t < tokens; t++, x += cols, scale += cols / TC_SPAN_COLS) {
            const tc_rounded_row *row = &from[i].rounded[first + t];
            memcpy(x, row->wide, cols * sizeof *x);
            memcpy(scale, row->scale, cols / TC_SPAN_COLS * sizeof *scale);
            to->rows[i * WIDE_BLOCK + t] = (wide_row){x, scale};
        }
}

// One panel, which has all its rows, of `count` matrices for a block of tokens, from `first` on.
INLINE __m256i wide_sum_panel(const tc_matrix *w, uint32_t count, uint32_t panel, const wide_near *near,
                              uint32_t first, uint32_t tokens, const bool is_q4, const tc_kernel_sink *to,
                              wide_scratch *s, __m256i top)
{
    wide_totals totals[WIDE_BLOCK];
    const __m256i magic = _mm256_castpd_si256(_mm256_set1_pd(0x1.8p52));
    const uint64_t excess = (uint64_t)_mm256_extract_epi64(magic, 0) * count;
    const size_t at = (size_t)panel * TC_PANEL_ROWS;
    for (uint32_t t = 0; t < tokens; t++) {
        _mm_prefetch((const char *)(to->acc[first + t] + at), _MM_HINT_T0);
        _mm_prefetch((const char *)(to->acc[first + t] + at + 8), _MM_HINT_T0);
        for (int i = 0; i < 4; i++) totals[t].quarter[i] = _mm256_set1_epi64x(-(int64_t)excess);
    }
    for (uint32_t i = 0; i < count; i++) {
        const tc_quant_view v = tc_quant_view_of(&w[i]);
        wide_panel(&w[i], &v, panel, near->rows + (size_t)i * WIDE_BLOCK, tokens, is_q4, s);
        top = wide_collect(s, tokens, to->scale + first, is_q4 ? w[i].fast_step : 1.0f, totals, top);
    }
    for (uint32_t t = 0; t < tokens; t++) {
        __m256i *sum = (__m256i *)(to->acc[first + t] + at);
        for (int i = 0; i < 4; i++)
            _mm256_storeu_si256(sum + i, _mm256_add_epi64(_mm256_loadu_si256(sum + i), totals[t].quarter[i]));
    }
    return top;
}

// Panels [panel0, panel1) have all their rows; cols are WIDE_COLS at most.
INLINE void run_wide_sum(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1,
                         const tc_rows *x, uint32_t n, const tc_matrix_type type, tc_kernel_sink *to)
{
    wide_scratch s;
    wide_near near;
    const uint32_t at_once = WIDE_NEAR_COLS / w->cols;
    __m256i top = _mm256_setzero_si256();
    for (uint32_t first = 0, tokens; first < n; first += tokens) {
        tokens = wide_block(n - first);
        for (uint32_t i = 0; i < count; i += at_once) {
            const uint32_t some = count - i < at_once ? count - i : at_once;
            bring_near(x + i, some, w->cols, first, tokens, &near);
            for (uint32_t p = panel0; p < panel1; p++)
                top = wide_sum_panel(w + i, some, p, &near, first, tokens, type == TC_M_Q4, to, &s, top);
        }
    }
    uint32_t bits[8], most;
    const float part_max = TC_FIXED_PART_MAX;
    _mm256_storeu_si256((__m256i *)bits, top);
    memcpy(&most, &part_max, sizeof most);
    for (int i = 0; i < 8; i++) to->fine &= bits[i] < most; // of magnitudes, NaN is the largest
}
