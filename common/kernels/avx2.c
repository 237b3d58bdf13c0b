// SPDX-License-Identifier: Apache-2.0
// Owns: the kernels for AVX2 + FMA + F16C. Two registers hold the 16 rows of a panel. A look-up in 16 levels
// is two permutes of eight and a blend on the code's top bit. Sums run in two interleaved parts (column mod
// 2), added in one fixed order, the same for any number of tokens.
#include "common/kernels/impl_avx2.h"

#include <math.h>

enum { TOKENS_MAX = 2, PREFETCH_BYTES = 2048 };

typedef struct sums {
    rows16 part[2];
} sums;

INLINE rows16 close_sums(const sums *s)
{
    rows16 r;
    for (int h = 0; h < 2; h++) r.half[h] = _mm256_add_ps(s->part[0].half[h], s->part[1].half[h]);
    return r;
}

INLINE void clear(sums *s, const int T)
{
    for (int t = 0; t < T; t++)
        for (int i = 0; i < 4; i++) s[t].part[i >> 1].half[i & 1] = _mm256_setzero_ps();
}

INLINE __m256 look_up(__m256i codes, const int shift, __m256 low, __m256 high)
{
    __m256i at = _mm256_srli_epi32(codes, shift);
    __m256 top = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28)); // bit 3 to the sign
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, at), _mm256_permutevar8x32_ps(high, at), top);
}

INLINE void add_column(sums *s, const int part, rows16 w, const float *const *x, uint32_t column, const int T)
{
    for (int t = 0; t < T; t++) {
        __m256 v = _mm256_broadcast_ss(&x[t][column]);
        for (int h = 0; h < 2; h++)
            s[t].part[part].half[h] = _mm256_fmadd_ps(w.half[h], v, s[t].part[part].half[h]);
    }
}

INLINE void tile(const char *data, __m256 low, __m256 high, const float *const *x, uint32_t column,
                 const int T, sums *s)
{
    static const int shifts[8] = {0, 8, 16, 24, 4, 12, 20, 28};
    __m256i codes[2] = {_mm256_load_si256((const __m256i *)data),
                        _mm256_load_si256((const __m256i *)(data + 32))};
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        rows16 w;
        for (int h = 0; h < 2; h++) w.half[h] = look_up(codes[h], shifts[j], low, high);
        add_column(s, j & 1, w, x, column + (uint32_t)j, T);
    }
}

INLINE void panel_q4(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const float *const *x,
                     const int T, rows16 *out)
{
    const __m256 low = _mm256_loadu_ps(w->levels), high = _mm256_loadu_ps(w->levels + 8);
    const char *tiles = (const char *)tc_q4_tiles(v, panel);
    const uint32_t group = w->form.group;
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    for (int t = 0; t < T; t++) out[t].half[0] = out[t].half[1] = _mm256_setzero_ps();
    for (uint32_t base = 0; base < w->cols; base += group) {
        sums s[TOKENS_MAX];
        __m256 scale[2];
        clear(s, T);
        for (uint32_t i = 0; i < group / 8; i++, tiles += 64) {
            _mm_prefetch(tiles + PREFETCH_BYTES, _MM_HINT_T0);
            tile(tiles, low, high, x, base + i * 8, T, s);
        }
        tc_panel_scales_at(v, &ps, base / TC_SPAN_COLS, base % TC_SPAN_COLS / group, scale);
        for (int t = 0; t < T; t++) {
            rows16 sum = close_sums(&s[t]);
            for (int h = 0; h < 2; h++)
                out[t].half[h] = _mm256_fmadd_ps(scale[h], sum.half[h], out[t].half[h]);
        }
    }
}

// Eight bits a weight: widened, else as above. Only precision FLOAT comes here.
INLINE void panel_q8(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const float *const *x,
                     const int T, rows16 *out)
{
    const int8_t *tiles = tc_q8_tiles(v, panel);
    for (int t = 0; t < T; t++) out[t].half[0] = out[t].half[1] = _mm256_setzero_ps();
    for (uint32_t span = 0; span < v->spans; span++) {
        sums s[TOKENS_MAX];
        clear(s, T);
        for (uint32_t c = 0; c < TC_SPAN_COLS; c += 4, tiles += 64)
            for (int j = 0; j < 4; j++) {
                rows16 column;
                for (int h = 0; h < 2; h++) {
                    __m256i four = _mm256_load_si256((const __m256i *)(tiles + 32 * h));
                    column.half[h] =
                        _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(four, 24 - 8 * j), 24));
                }
                add_column(s, j & 1, column, x, span * TC_SPAN_COLS + c + (uint32_t)j, T);
            }
        const float *scale = tc_span_scales(v, panel, span);
        for (int t = 0; t < T; t++) {
            rows16 sum = close_sums(&s[t]);
            for (int h = 0; h < 2; h++)
                out[t].half[h] = _mm256_fmadd_ps(_mm256_load_ps(scale + 8 * h), sum.half[h], out[t].half[h]);
        }
    }
}

// 16 rows of one column of F16 or F32.
INLINE rows16 dense_column(const char *data, tc_matrix_type type, uint32_t c)
{
    rows16 r;
    for (int h = 0; h < 2; h++)
        r.half[h] = type == TC_M_F32
                        ? _mm256_load_ps((const float *)data + (size_t)c * 16 + 8 * h)
                        : _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(data + (size_t)c * 32 + 16 * h)));
    return r;
}

// Two columns of BF16, c even: a lane holds both.
INLINE void bf16_columns(const char *data, uint32_t c, rows16 out[2])
{
    const __m256i top = _mm256_set1_epi32((int)0xffff0000u);
    for (int h = 0; h < 2; h++) {
        __m256i pair = _mm256_load_si256((const __m256i *)(data + (size_t)c * 32 + 32 * h));
        out[0].half[h] = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
        out[1].half[h] = _mm256_castsi256_ps(_mm256_and_si256(pair, top));
    }
}

INLINE void panel_dense(const tc_matrix *w, uint32_t panel, const float *const *x, const int T,
                        const tc_matrix_type type, rows16 *out)
{
    const char *data = tc_panel_data(w, panel);
    sums s[TOKENS_MAX];
    uint32_t c = 0;
    clear(s, T);
    for (; c + 2 <= w->cols; c += 2) {
        rows16 two[2];
        if (type == TC_M_BF16)
            bf16_columns(data, c, two);
        else
            for (uint32_t j = 0; j < 2; j++) two[j] = dense_column(data, type, c + j);
        for (uint32_t j = 0; j < 2; j++) add_column(s, (int)j, two[j], x, c + j, T);
    }
    if (c < w->cols) {
        rows16 two[2];
        if (type == TC_M_BF16)
            bf16_columns(data, c, two);
        else
            two[0] = dense_column(data, type, c);
        add_column(s, 0, two[0], x, c, T);
    }
    for (int t = 0; t < T; t++) out[t] = close_sums(&s[t]);
}

INLINE void panel_any(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const float *const *x,
                      const int T, const tc_matrix_type type, rows16 *out)
{
    if (type == TC_M_Q4)
        panel_q4(w, v, panel, x, T, out);
    else if (type == TC_M_Q8)
        panel_q8(w, v, panel, x, T, out);
    else
        panel_dense(w, panel, x, T, type, out);
}

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    rows16 sum[TOKENS_MAX];
    tc_quant_view v = {0};
    if (type == TC_M_Q4 || type == TC_M_Q8) v = tc_quant_view_of(w);
    for (uint32_t p = panel0; p < panel1; p++) {
        uint32_t t = 0;
        for (; t + 2 <= n; t += 2) {
            panel_any(w, &v, p, x->f32 + t, 2, type, sum);
            tc_put(to, w, p, t, 2, sum);
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

// e^x as in avx512.c, with the exponent put together by an integer shift; infinity from e^88 on.
INLINE __m256 exponential(__m256 x)
{
    static const float c[6] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
    const __m256 most = _mm256_set1_ps(88.0f);
    __m256 too_large = _mm256_cmp_ps(x, most, _CMP_GT_OQ);
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.0f)), most);
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(c[0]);
    for (int i = 1; i < 6; i++) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c[i]));
    p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_blendv_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), _mm256_set1_ps(INFINITY),
                            too_large);
}

INLINE __m256 silu_mul8(__m256 g, __m256 u)
{
    __m256 e = exponential(_mm256_sub_ps(_mm256_setzero_ps(), g));
    return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), u);
}

static void silu_mul(const float *gate, const float *up, float *out, uint32_t n)
{
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, silu_mul8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i == n) return;
    float g[8] = {0}, u[8] = {0}; // the tail goes through the same lanes
    memcpy(g, gate + i, (n - i) * sizeof *g);
    memcpy(u, up + i, (n - i) * sizeof *u);
    _mm256_storeu_ps(g, silu_mul8(_mm256_loadu_ps(g), _mm256_loadu_ps(u)));
    memcpy(out + i, g, (n - i) * sizeof *g);
}

static float dot(const float *a, const float *b, uint32_t n)
{
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (uint32_t j = 0; j < 4; j++)
            s[j] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8 * j), _mm256_loadu_ps(b + i + 8 * j), s[j]);
    for (; i + 8 <= n; i += 8) s[0] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s[0]);
    float lanes[8], sum = 0;
    _mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
    for (int j = 0; j < 8; j++) sum += lanes[j];
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void axpy(float alpha, const float *x, float *y, uint32_t n)
{
    __m256 factor = _mm256_set1_ps(alpha);
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(factor, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; i++) y[i] = fmaf(alpha, x[i], y[i]);
}

const tc_kernels tc_kernels_avx2 = {
    "avx2",
    {matmul_q4, matmul_q8, matmul_bf16, matmul_f16, matmul_f32},
    {fixed_q4, fixed_q8, fixed_bf16, fixed_f16, fixed_f32},
    NULL,
    false,
    silu_mul,
    dot,
    axpy,
};
