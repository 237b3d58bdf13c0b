// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AVX-512, compiled for each set of instructions: fast_avx512.c without VNNI,
// fast_avx512vnni.c with it, fast_avx512vbmi.c with VBMI, too, and fast_amx.c. Bits as in fast_plain.c.
#include "common/kernels/impl_avx512.h"

enum {
    TOKENS_MAX = 8,
    // Asked for ahead, into the second cache: it waits for more lines at once than the first. Where memory is
    // slow less would be better, where it is fast anything below is much worse.
    PREFETCH_BYTES = 6656,
    SCALE_COLS = 8192, // of a panel, whose scales are worked out together
    FEW_COLS = 512,    // the same for a run of tokens: beside its products
    SUM_UNITS = 32,    // narrow matrices that are added up together
};

// acc[lane] += four products of unsigned bytes u and the signed bytes at q, the same for all lanes.
INLINE __m512i dot4(__m512i acc, __m512i u, const int8_t *q)
{
#ifdef __AVX512VNNI__
    // Left to itself the compiler keeps what a product reads in a register of its own.
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(u), "m"(*(const int8_t(*)[4])q));
    return acc;
#else
    const __m512i four = _mm512_broadcastd_epi32(_mm_loadu_si32(q));
    return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(u, four), _mm512_set1_epi16(1)));
#endif
}

// Bytes of a table of 16 (in each quarter of `table`) by the low and the high four bits of codes. VBMI reads
// six bits of an index: the upper two choose among four tables that are alike.
INLINE __m512i look_up_low(__m512i table, __m512i codes)
{
#ifdef __AVX512VBMI__
    return _mm512_permutexvar_epi8(codes, table);
#else
    return _mm512_shuffle_epi8(table, _mm512_and_si512(codes, _mm512_set1_epi8(15)));
#endif
}

INLINE __m512i look_up_high(__m512i table, __m512i codes)
{
    return look_up_low(table, _mm512_srli_epi16(codes, 4));
}

// Sums of the two planes. One or two tokens take two of each: a chain of dot products waits for its own
// latency.
typedef struct planes {
    __m512i high[2], low[2];
} planes;

INLINE void dot4_planes(__m512i u, const tc_rounded_row *x, uint32_t at, const int T, const int part,
                        planes *sum)
{
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        sum[t].high[part] = dot4(sum[t].high[part], u, x[t].high + at);
        sum[t].low[part] = dot4(sum[t].low[part], u, x[t].low + at);
    }
}

// One tile: 8 columns of 4-bit weights, or 4 columns of 8-bit ones.
INLINE void tile_dot(const uint8_t *tile, const tc_rounded_row *x, uint32_t at, const int T, const bool is_q4,
                     __m512i codes128, planes *sum)
{
    const int second = T <= 2; // of the two sums
    __m512i codes = _mm512_load_si512(tile);
    __asm__("" : "+v"(codes)); // loaded once, not once for each half
    if (!is_q4) {
        __m512i u = _mm512_xor_si512(codes, _mm512_set1_epi8((char)0x80));
        dot4_planes(u, x, at, T, second && at % 8 ? 1 : 0, sum);
        return;
    }
    dot4_planes(look_up_low(codes128, codes), x, at, T, 0, sum);
    dot4_planes(look_up_high(codes128, codes), x, at + 4, T, second, sum);
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
    if (T <= 2) {
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
        if (T <= 2) {
            high = _mm512_add_epi32(high, sum[t].high[1]);
            low = _mm512_add_epi32(low, sum[t].low[1]);
        }
        acc[t] = _mm512_add_epi32(_mm512_slli_epi32(high, 4), low);
    }
}

// For what comes so much later.
INLINE void ask_ahead(const uint8_t *tiles, const uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)tiles + i + PREFETCH_BYTES, _MM_HINT_T1);
}

// A product's parts: columns [c, end) of some panels, whose tiles follow each other, with T tokens.
typedef struct dot_args {
    uint32_t panels, c, end;
    __m512i codes128;          // Q4: the code book + 128, in each quarter
    const uint8_t *tiles;      // of the first panel, from column c on
    const __m512 *scales;      // [panels][groups of the columns]
    const tc_rounded_row *x;   // [T]
    __m512 (*sum)[TOKENS_MAX]; // [panels][T], added to
} dot_args;

INLINE void dot_panels(const dot_args *a, const int T, const bool is_q4, const uint32_t group)
{
    const uint32_t bytes = group * (is_q4 ? 8 : 16);
    const uint8_t *tiles = a->tiles;
    const __m512 *scale = a->scales;
    const tc_rounded_row *x = a->x;
    for (uint32_t p = 0; p < a->panels; p++) {
        __m512 sum[TOKENS_MAX];
        for (int t = 0; t < T; t++) sum[t] = a->sum[p][t];
        for (uint32_t c = a->c; c < a->end; c += group, tiles += bytes, scale++) {
            __m512i acc[TOKENS_MAX];
            ask_ahead(tiles, bytes);
            group_dot(tiles, x, c, group, T, is_q4, a->codes128, acc);
            for (int t = 0; t < T; t++) {
                __m512 both = _mm512_mul_ps(*scale, _mm512_set1_ps(x[t].scale[c / TC_SPAN_COLS]));
                sum[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t]), both, sum[t]);
            }
        }
        for (int t = 0; t < T; t++) a->sum[p][t] = sum[t];
    }
}

// Functions of their own: compiled into every loop that wants them they would take minutes.
#define DOT_FN(kind, T, is_q4, group)                                                                        \
    static __attribute__((noinline)) void dot_##kind##_##T(const dot_args *a)                                \
    {                                                                                                        \
        dot_panels(a, T, is_q4, group);                                                                      \
    }
#define DOT_FNS(kind, is_q4, group)                                                                          \
    DOT_FN(kind, 1, is_q4, group)                                                                            \
    DOT_FN(kind, 2, is_q4, group)                                                                            \
    DOT_FN(kind, 4, is_q4, group)                                                                            \
    DOT_FN(kind, 8, is_q4, group)
DOT_FNS(q4, true, 64)
DOT_FNS(q4_32, true, 32)
DOT_FNS(q8, false, 64)

// Tokens taken together next, of n.
INLINE uint32_t tokens_of(uint32_t n)
{
    return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

static void dot(const tc_matrix *w, uint32_t tokens, const dot_args *a)
{
    static void (*const all[3][4])(const dot_args *) = {{dot_q4_1, dot_q4_2, dot_q4_4, dot_q4_8},
                                                        {dot_q4_32_1, dot_q4_32_2, dot_q4_32_4, dot_q4_32_8},
                                                        {dot_q8_1, dot_q8_2, dot_q8_4, dot_q8_8}};
    const int kind = w->form.type == TC_M_Q8 ? 2 : w->form.group == 32;
    all[kind][__builtin_ctz(tokens)](a);
}

// What all products of a matrix share.
INLINE dot_args dot_of(const tc_matrix *w)
{
    const __m128i codes = _mm_xor_si128(_mm_loadu_si128((const __m128i *)w->fast), _mm_set1_epi8((char)0x80));
    return (dot_args){.codes128 = _mm512_broadcast_i32x4(codes)};
}

INLINE const uint8_t *tiles_of(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t c)
{
    return w->form.type == TC_M_Q4 ? tc_q4_tiles(v, panel) + (size_t)c * 8
                                   : (const uint8_t *)tc_q8_tiles(v, panel) + (size_t)c * 16;
}

INLINE __m512 step_of(const tc_matrix *w)
{
    return _mm512_set1_ps(w->form.type == TC_M_Q4 ? w->fast_step : 1.0f);
}

static void scales_of(const tc_matrix *w, const tc_quant_view *v, tc_panel_scales *ps, uint32_t c,
                      uint32_t end, __m512 *ret)
{
    for (; c < end; c += w->form.group)
        *ret++ = tc_panel_scales_at(v, ps, c / TC_SPAN_COLS, c % TC_SPAN_COLS / w->form.group);
}

// One panel of Q4, groups of 64, for one token: its scales are worked out on the way, beside the products.
static __attribute__((noinline)) __m512 one_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel,
                                                  const tc_rounded_row *x)
{
    const __m512i codes128 = dot_of(w).codes128;
    const uint8_t *tiles = tc_q4_tiles(v, panel);
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    __m512 sum = _mm512_setzero_ps();
    for (uint32_t c = 0; c < w->cols; c += TC_SPAN_COLS, tiles += TC_SPAN_TILE_BYTES) {
        __m512i acc;
        ask_ahead(tiles, TC_SPAN_TILE_BYTES);
        group_dot(tiles, x, c, TC_SPAN_COLS, 1, true, codes128, &acc);
        const __m512 scale = tc_panel_scales_at(v, &ps, c / TC_SPAN_COLS, 0);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc),
                              _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[c / TC_SPAN_COLS])), sum);
    }
    return _mm512_mul_ps(sum, step_of(w));
}

// One panel. Its scales are worked out once for all tokens, as long as it is not too wide.
INLINE void run_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rows *x,
                      uint32_t n, tc_kernel_sink *to)
{
    __m512 scales[SCALE_COLS / 32], sum[1][TOKENS_MAX];
    if (n == 1 && w->form.type == TC_M_Q4 && w->form.group == TC_SPAN_COLS) {
        sum[0][0] = one_panel(w, v, panel, x->rounded);
        tc_put(to, w, panel, 0, 1, sum[0]);
        return;
    }
    const uint32_t block = n > TOKENS_MAX ? SCALE_COLS : FEW_COLS;
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    dot_args a = dot_of(w);
    a.panels = 1, a.scales = scales, a.sum = sum;
    for (uint32_t t = 0, some; t < n; t += some) {
        some = tokens_of(n - t);
        a.x = x->rounded + t;
        for (uint32_t i = 0; i < some; i++) sum[0][i] = _mm512_setzero_ps();
        for (a.c = 0; a.c < w->cols; a.c = a.end) {
            a.end = w->cols - a.c < block ? w->cols : a.c + block;
            if (t == 0 || w->cols > block) scales_of(w, v, &ps, a.c, a.end, scales);
            a.tiles = tiles_of(w, v, panel, a.c);
            dot(w, some, &a);
        }
        for (uint32_t i = 0; i < some; i++) sum[0][i] = _mm512_mul_ps(sum[0][i], step_of(w));
        tc_put(to, w, panel, t, (int)some, sum[0]);
    }
}

// ---- narrow matrices: down projections of an expert's units ----
//
// What a token gets of four panels is added up in registers and the first cache, matrix after matrix, and
// goes to its sum once.

enum { FOUR = 4 }; // panels taken together: their codes of scales lie in one line

// Adds parts in fixed point. scale: the tokens', times 2^32. Returns the largest magnitudes, as bits.
INLINE __m512i sum_parts(__m512 part[FOUR][TOKENS_MAX], uint32_t tokens, __m512 step, const float *scale,
                         __m512i totals[FOUR][TOKENS_MAX][2], __m512i top)
{
    const __m512i magnitude = _mm512_set1_epi32(INT32_MAX);
    for (uint32_t t = 0; t < tokens; t++) {
        const __m512 factor = _mm512_set1_ps(scale[t]);
        for (int p = 0; p < FOUR; p++) {
            const __m512 v = _mm512_mul_ps(_mm512_mul_ps(part[p][t], step), factor);
            __m512i *to = totals[p][t];
            top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(v), magnitude));
            to[0] = _mm512_add_epi64(to[0], _mm512_cvtps_epi64(_mm512_castps512_ps256(v)));
            to[1] = _mm512_add_epi64(to[1], _mm512_cvtps_epi64(_mm512_extractf32x8_ps(v, 1)));
        }
    }
    return top;
}

// Scales of panels [panel, panel + 4).
INLINE void four_scales(const tc_quant_view *v, uint32_t panel, __m512 ret[FOUR])
{
#ifdef __AVX512VBMI__
    if (v->stride) {
        tc_nested_four(v->codes + (size_t)panel * TC_PANEL_ROWS, ret);
        for (uint32_t i = 0; i < FOUR; i++)
            ret[i] = _mm512_add_ps(_mm512_mul_ps(ret[i], tc_load_nested(v, panel + i, 0)),
                                   _mm512_set1_ps(v->table->offset));
        return;
    }
#endif
    for (uint32_t i = 0; i < FOUR; i++) {
        tc_panel_scales ps = tc_panel_scales_begin(v, panel + i);
        ret[i] = tc_panel_scales_at(v, &ps, 0, 0);
    }
}

typedef struct narrow_scratch {
    tc_quant_view view[SUM_UNITS];
    dot_args dots[SUM_UNITS];
    __m512 scales[SUM_UNITS][FOUR], part[FOUR][TOKENS_MAX];
    __m512i totals[FOUR][TOKENS_MAX][2];
    float scale[TOKENS_MAX];
} narrow_scratch;

// Sums of tokens [t, t + some): loaded, or stored.
INLINE void move_totals(narrow_scratch *s, const tc_kernel_sink *to, uint32_t panel, uint32_t t,
                        uint32_t some, const bool load)
{
    for (uint32_t i = 0; i < some; i++) {
        int64_t *acc = to->acc[t + i] + (size_t)panel * TC_PANEL_ROWS;
        for (int p = 0; p < FOUR; p++, acc += TC_PANEL_ROWS)
            for (int h = 0; h < 2; h++) {
                if (load)
                    s->totals[p][i][h] = _mm512_loadu_si512(acc + 8 * h);
                else
                    _mm512_storeu_si512(acc + 8 * h, s->totals[p][i][h]);
            }
    }
}

// Panels [panel, panel + 4), which have all their rows, of `count` <= SUM_UNITS matrices.
static __m512i narrow_panels(const tc_matrix *w, uint32_t count, uint32_t panel, const tc_rows *x, uint32_t n,
                             const tc_kernel_sink *to, narrow_scratch *s, __m512i top)
{
    for (uint32_t i = 0; i < count; i++) {
        four_scales(&s->view[i], panel, s->scales[i]);
        s->dots[i].tiles = tiles_of(&w[i], &s->view[i], panel, 0);
    }
    for (uint32_t t = 0, some; t < n; t += some) {
        some = tokens_of(n - t);
        move_totals(s, to, panel, t, some, true);
        for (uint32_t i = 0; i < some; i++)
            s->scale[i] = to->scale[t + i] * TC_FIXED_ONE; // exact, and so is what it is multiplied by
        for (uint32_t i = 0; i < count; i++) {
            s->dots[i].x = x[i].rounded + t;
            for (int p = 0; p < FOUR; p++)
                for (uint32_t k = 0; k < some; k++) s->part[p][k] = _mm512_setzero_ps();
            dot(&w[i], some, &s->dots[i]);
            top = sum_parts(s->part, some, step_of(&w[i]), s->scale, s->totals, top);
        }
        move_totals(s, to, panel, t, some, false);
    }
    return top;
}

// The same of one matrix and one token, as experts come when one user waits.
static __attribute__((noinline)) __m512i narrow_one(const tc_matrix *w, const tc_quant_view *v,
                                                    uint32_t panel, const tc_rounded_row *x,
                                                    const tc_kernel_sink *to, __m512i top)
{
    const __m512i codes128 = dot_of(w).codes128, magnitude = _mm512_set1_epi32(INT32_MAX);
    const __m512 factor = _mm512_set1_ps(to->scale[0] * TC_FIXED_ONE), step = step_of(w);
    const uint8_t *tiles = tiles_of(w, v, panel, 0);
    int64_t *acc = to->acc[0] + (size_t)panel * TC_PANEL_ROWS;
    __m512 scales[FOUR];
    four_scales(v, panel, scales);
    for (int p = 0; p < FOUR; p++, tiles += TC_SPAN_TILE_BYTES, acc += TC_PANEL_ROWS) {
        __m512i whole;
        ask_ahead(tiles, TC_SPAN_TILE_BYTES);
        group_dot(tiles, x, 0, TC_SPAN_COLS, 1, true, codes128, &whole);
        __m512 part =
            _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_mul_ps(scales[p], _mm512_set1_ps(*x->scale)));
        part = _mm512_mul_ps(_mm512_mul_ps(part, step), factor);
        top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_castps_si512(part), magnitude));
        _mm512_storeu_si512(
            acc, _mm512_add_epi64(_mm512_loadu_si512(acc), _mm512_cvtps_epi64(_mm512_castps512_ps256(part))));
        _mm512_storeu_si512(acc + 8, _mm512_add_epi64(_mm512_loadu_si512(acc + 8),
                                                      _mm512_cvtps_epi64(_mm512_extractf32x8_ps(part, 1))));
    }
    return top;
}

static bool is_narrow(const tc_matrix *w)
{
    return w->cols == TC_SPAN_COLS && w->form.group == TC_SPAN_COLS;
}

// Panels [panel0, panel1) of narrow matrices: as many as can be taken in fours. Returns where it ended.
static uint32_t run_narrow(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1,
                           const tc_rows *x, uint32_t n, tc_kernel_sink *to)
{
    const float part_max = TC_FIXED_PART_MAX * TC_FIXED_ONE;
    __m512i top = _mm512_setzero_si512();
    uint32_t most, p = panel0;
    narrow_scratch s;
    if (w->rows / TC_PANEL_ROWS < panel1) panel1 = w->rows / TC_PANEL_ROWS;
    for (uint32_t first = 0, some; first < count; first += some) {
        some = count - first < SUM_UNITS ? count - first : SUM_UNITS;
        for (uint32_t i = 0; i < some; i++) {
            s.view[i] = tc_quant_view_of(&w[first + i]);
            s.dots[i] = dot_of(&w[first + i]);
            s.dots[i].panels = FOUR, s.dots[i].end = TC_SPAN_COLS;
            s.dots[i].scales = s.scales[i], s.dots[i].sum = s.part;
        }
        const bool one = some == 1 && n == 1 && w->form.type == TC_M_Q4;
        p = panel0;
        for (; p + FOUR <= panel1 && one; p += FOUR)
            top = narrow_one(w + first, s.view, p, x[first].rounded, to, top);
        for (; p + FOUR <= panel1; p += FOUR)
            top = narrow_panels(w + first, some, p, x + first, n, to, &s, top);
    }
    memcpy(&most, &part_max, sizeof most);
    to->fine &= _mm512_reduce_max_epu32(top) < most; // of magnitudes, NaN is the largest
    return p;
}

static bool run_sum(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                    const float *scale, uint32_t n, const tc_matrix_type type, int64_t *const *acc)
{
    tc_kernel_sink to = {.acc = acc, .scale = scale, .fine = true};
    if (is_narrow(w) && panel0 % FOUR == 0) panel0 = run_narrow(w, count, panel0, panel1, x, n, &to);
    for (uint32_t i = 0; i < count && panel0 < panel1; i++) {
        const tc_quant_view v = tc_quant_view_of(&w[i]);
        for (uint32_t p = panel0; p < panel1; p++) run_panel(&w[i], &v, p, &x[i], n, &to);
    }
    return to.fine;
}

static void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    if (to->acc) {
        to->fine = run_sum(w, 1, panel0, panel1, x, to->scale, n, type, to->acc);
        return;
    }
    const tc_quant_view v = tc_quant_view_of(w);
    for (uint32_t p = panel0; p < panel1; p++) run_panel(w, &v, p, x, n, to);
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

// The table of a file that has no kernels of its own.
#define TC_FAST_AVX512(name)                                                                                 \
    TC_KERNEL_PAIR(q4, run, TC_M_Q4)                                                                         \
    TC_KERNEL_PAIR(q8, run, TC_M_Q8)                                                                         \
    TC_KERNEL_SUM(q4, run_sum, TC_M_Q4)                                                                      \
    TC_KERNEL_SUM(q8, run_sum, TC_M_Q8)                                                                      \
    const tc_fast_part name = {.matmul = {matmul_q4, matmul_q8},                                             \
                               .matmul_fixed = {fixed_q4, fixed_q8},                                         \
                               .matmul_fixed_sum = {fixed_sum_q4, fixed_sum_q8},                             \
                               .round = round_row};
