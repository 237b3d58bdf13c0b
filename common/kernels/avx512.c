// SPDX-License-Identifier: Apache-2.0
// Owns: the kernels for AVX-512 F+BW+DQ+VL. One register holds the 16 rows of a panel. A look-up is one
// permute: it reads only the low four bits of each lane, so a tile needs a shift a column and no mask. Each
// sum runs in four interleaved parts (column mod 4), because one chain of fused multiply-adds would wait for
// its own latency; the parts are added in one fixed order, the same for any number of tokens.
#include "common/kernels/impl_avx512.h"

#include <math.h>

enum { TOKENS_MAX = 4, PREFETCH_BYTES = 4096, PREFETCH_FAR_BYTES = 8192 };

typedef struct sums {
    __m512 part[4];
} sums;

INLINE __m512 close_sums(const sums *s)
{
    return _mm512_add_ps(_mm512_add_ps(s->part[0], s->part[1]), _mm512_add_ps(s->part[2], s->part[3]));
}

// One tile: 8 columns of 16 rows, for T tokens.
INLINE void tile(__m512i codes, __m512 levels, const float *const *x, uint32_t column, const int T, sums *s)
{
    static const int shifts[8] = {0, 8, 16, 24, 4, 12, 20, 28};
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m512 w = _mm512_permutexvar_ps(_mm512_srli_epi32(codes, (unsigned)shifts[j]), levels);
#pragma GCC unroll 4
        for (int t = 0; t < T; t++)
            s[t].part[j & 3] =
                _mm512_fmadd_ps(w, _mm512_set1_ps(x[t][column + (uint32_t)j]), s[t].part[j & 3]);
    }
}

INLINE void panel_q4(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const float *const *x,
                     const int T, const uint32_t group, __m512 *out)
{
    const __m512 levels = _mm512_loadu_ps(w->levels);
    const char *tiles = (const char *)tc_q4_tiles(v, panel);
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    for (int t = 0; t < T; t++) out[t] = _mm512_setzero_ps();
    for (uint32_t base = 0; base < w->cols; base += group) {
        sums s[TOKENS_MAX];
        for (int t = 0; t < T; t++)
            for (int i = 0; i < 4; i++) s[t].part[i] = _mm512_setzero_ps();
        for (uint32_t i = 0; i < group / 8; i++, tiles += 64) {
            _mm_prefetch(tiles + PREFETCH_BYTES, _MM_HINT_T0);
            tile(_mm512_load_si512(tiles), levels, x, base + i * 8, T, s);
        }
        __m512 scale = tc_panel_scales_at(v, &ps, base / TC_SPAN_COLS, base % TC_SPAN_COLS / group);
        for (int t = 0; t < T; t++) out[t] = _mm512_fmadd_ps(scale, close_sums(&s[t]), out[t]);
    }
}

// Eight bits a weight: widened, else as above. Only precision FLOAT comes here.
INLINE void panel_q8(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const float *const *x,
                     const int T, __m512 *out)
{
    const int8_t *tiles = tc_q8_tiles(v, panel);
    for (int t = 0; t < T; t++) out[t] = _mm512_setzero_ps();
    for (uint32_t span = 0; span < v->spans; span++) {
        sums s[TOKENS_MAX];
        for (int t = 0; t < T; t++)
            for (int i = 0; i < 4; i++) s[t].part[i] = _mm512_setzero_ps();
        for (uint32_t c = 0; c < TC_SPAN_COLS; c += 4, tiles += 64) {
            __m512i four = _mm512_load_si512(tiles);
#pragma GCC unroll 4
            for (unsigned j = 0; j < 4; j++) {
                __m512 value = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(four, 24 - 8 * j), 24));
                for (int t = 0; t < T; t++)
                    s[t].part[j] = _mm512_fmadd_ps(value, _mm512_set1_ps(x[t][span * TC_SPAN_COLS + c + j]),
                                                   s[t].part[j]);
            }
        }
        __m512 scale = _mm512_load_ps(tc_span_scales(v, panel, span));
        for (int t = 0; t < T; t++) out[t] = _mm512_fmadd_ps(scale, close_sums(&s[t]), out[t]);
    }
}

// 16 rows of one column of F16 or F32.
INLINE __m512 dense_column(const char *data, tc_matrix_type type, uint32_t c)
{
    if (type == TC_M_F32) return _mm512_load_ps(data + (size_t)c * 64);
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(data + (size_t)c * 32)));
}

// Two columns of BF16, c even: a lane holds both.
INLINE void bf16_columns(const char *data, uint32_t c, __m512 out[2])
{
    __m512i pair = _mm512_load_si512(data + (size_t)c * 32);
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
    out[1] = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000u)));
}

INLINE void two_columns(const char *data, tc_matrix_type type, uint32_t c, __m512 out[2])
{
    if (type == TC_M_BF16) {
        bf16_columns(data, c, out);
        return;
    }
    out[0] = dense_column(data, type, c);
    out[1] = dense_column(data, type, c + 1);
}

// The next four columns' share of what comes later, into the second cache. One token: every other line is
// enough, and more is slower; several want each line, and farther ahead.
INLINE void prefetch_dense(const char *at, const uint32_t bytes, const int T)
{
    const uint32_t step = T > 1 ? 64 : 128, ahead = T > 1 ? PREFETCH_FAR_BYTES : PREFETCH_BYTES;
    for (uint32_t i = 0; i < bytes; i += step) _mm_prefetch(at + i + ahead, _MM_HINT_T1);
}

INLINE void panel_dense(const tc_matrix *w, uint32_t panel, const float *const *x, const int T,
                        const tc_matrix_type type, __m512 *out)
{
    const char *data = tc_panel_data(w, panel);
    const uint32_t bytes = type == TC_M_F32 ? 64 : 32; // of a column
    sums s[TOKENS_MAX];
    uint32_t c = 0;
    for (int t = 0; t < T; t++)
        for (int i = 0; i < 4; i++) s[t].part[i] = _mm512_setzero_ps();
    for (; c + 4 <= w->cols; c += 4) {
        __m512 v[4];
        prefetch_dense(data + (size_t)c * bytes, 4 * bytes, T);
        two_columns(data, type, c, v);
        two_columns(data, type, c + 2, v + 2);
#pragma GCC unroll 4
        for (uint32_t j = 0; j < 4; j++)
            for (int t = 0; t < T; t++)
                s[t].part[j] = _mm512_fmadd_ps(v[j], _mm512_set1_ps(x[t][c + j]), s[t].part[j]);
    }
    for (; c < w->cols; c++) {
        __m512 v[2];
        if (type == TC_M_BF16)
            bf16_columns(data, c & ~1u, v);
        else
            v[0] = v[1] = dense_column(data, type, c);
        for (int t = 0; t < T; t++)
            s[t].part[0] = _mm512_fmadd_ps(v[c & 1], _mm512_set1_ps(x[t][c]), s[t].part[0]);
    }
    for (int t = 0; t < T; t++) out[t] = close_sums(&s[t]);
}

INLINE void panel_any(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const float *const *x,
                      const int T, const tc_matrix_type type, __m512 *out)
{
    if (type == TC_M_Q8)
        panel_q8(w, v, panel, x, T, out);
    else if (type != TC_M_Q4)
        panel_dense(w, panel, x, T, type, out);
    else if (w->form.group == 64)
        panel_q4(w, v, panel, x, T, 64, out);
    else
        panel_q4(w, v, panel, x, T, 32, out);
}

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    __m512 sum[TOKENS_MAX];
    tc_quant_view v = {0};
    if (type == TC_M_Q4 || type == TC_M_Q8) v = tc_quant_view_of(w);
    for (uint32_t p = panel0; p < panel1; p++) {
        uint32_t t = 0;
        for (; t + 4 <= n; t += 4) {
            panel_any(w, &v, p, x->f32 + t, 4, type, sum);
            tc_put(to, w, p, t, 4, sum);
        }
        if (t + 2 <= n) {
            panel_any(w, &v, p, x->f32 + t, 2, type, sum);
            tc_put(to, w, p, t, 2, sum);
            t += 2;
        }
        if (t < n) {
            panel_any(w, &v, p, x->f32 + t, 1, type, sum);
            tc_put(to, w, p, t, 1, sum);
        }
    }
}

TC_KERNEL_PAIR(q4, run, TC_M_Q4)
TC_KERNEL_PAIR(q8, run, TC_M_Q8)
TC_KERNEL_PAIR(bf16, run, TC_M_BF16)
TC_KERNEL_PAIR(f16, run, TC_M_F16)
TC_KERNEL_PAIR(f32, run, TC_M_F32)

// e^x: x = n ln 2 + r, |r| <= ln 2 / 2; Taylor to r^7 (relative error below 2^-23); times 2^n. Clamped to the
// finite range; infinity above e^88.
INLINE __m512 exponential(__m512 x)
{
    static const float c[6] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
    const __m512 most = _mm512_set1_ps(88.0f);
    __mmask16 too_large = _mm512_cmp_ps_mask(x, most, _CMP_GT_OQ);
    x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87.0f)), most);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(c[0]);
    for (int i = 1; i < 6; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c[i]));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), too_large, _mm512_set1_ps(INFINITY));
}

static void silu_mul(const float *gate, const float *up, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - i)) - 1);
        __m512 g = _mm512_maskz_loadu_ps(mask, gate + i), u = _mm512_maskz_loadu_ps(mask, up + i);
        __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), g));
        __m512 s = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
        _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(s, u));
    }
}

static float dot(const float *a, const float *b, uint32_t n)
{
    sums s;
    uint32_t i = 0;
    for (int j = 0; j < 4; j++) s.part[j] = _mm512_setzero_ps();
    for (; i + 64 <= n; i += 64)
        for (uint32_t j = 0; j < 4; j++)
            s.part[j] =
                _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16 * j), _mm512_loadu_ps(b + i + 16 * j), s.part[j]);
    for (; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - i)) - 1);
        s.part[0] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i),
                                    s.part[0]);
    }
    return _mm512_reduce_add_ps(close_sums(&s));
}

static void axpy(float alpha, const float *x, float *y, uint32_t n)
{
    __m512 factor = _mm512_set1_ps(alpha);
    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 mask = n - i >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (n - i)) - 1);
        __m512 v =
            _mm512_fmadd_ps(factor, _mm512_maskz_loadu_ps(mask, x + i), _mm512_maskz_loadu_ps(mask, y + i));
        _mm512_mask_storeu_ps(y + i, mask, v);
    }
}

const tc_kernels tc_kernels_avx512 = {
    "avx512",
    {matmul_q4, matmul_q8, matmul_bf16, matmul_f16, matmul_f32},
    {fixed_q4, fixed_q8, fixed_bf16, fixed_f16, fixed_f32},
    NULL,
    false,
    silu_mul,
    dot,
    axpy,
};
