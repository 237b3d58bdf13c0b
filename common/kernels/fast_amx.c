// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AMX: 16 rows x 16 tokens x 64 columns are one tile product for each plane of the
// activations. Few tokens, odd groups and inputs that do not lie at one distance go the VNNI way; the bits
// are the same (fast_plain.c): a tile product of a span is an exact integer, and the floats that follow are
// added span by span in the same order.
#include "common/kernels/impl_amx.h"

#include "common/kernels/fast_avx512_body.c"

enum {
    GROUP = TC_TILE_ROWS, // tokens of a tile
    TOKENS_FROM = 6,      // fewer are not worth a tile
    SPANS_MAX = 128,      // of a panel kept decoded: 128 KiB
    // A single group of tokens meets spans as they are decoded, two behind: a tile does not take what a store
    // still holds. So many lie in the first cache by turns.
    RING = 4,
    BEHIND = 2,
};

// Tiles: 0 to 3 sums (of a panel the high plane, then the low one; two panels), 4 and 5 activations, 6 and 7
// weights.
typedef struct scratch {
    // of two panels: of a span, 16 rows of 4 columns x 16 rows of W
    _Alignas(64) int8_t weights[2][SPANS_MAX][TC_TILE_BYTES];
    _Alignas(64) float scales[2][SPANS_MAX][TC_PANEL_ROWS];
    _Alignas(64) int32_t sums[2][4][GROUP][TC_PANEL_ROWS]; // of two spans by turns
} scratch;

INLINE void configure(int tokens)
{
    const int rows[TC_TILES] = {tokens, tokens, tokens, tokens, tokens, tokens, 16, 16};
    tc_tiles_configure(rows);
}

// Where the decoding of a panel is.
typedef struct decoder {
    const tc_quant_view *view;
    __m512i codes;
    tc_panel_scales scales;
    uint32_t span, known; // scales are known up to there
    const uint8_t *tiles;
    bool is_q4;
} decoder;

INLINE decoder decoder_begin(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const bool is_q4)
{
    return (decoder){.view = v,
                     .codes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w->fast)),
                     .scales = tc_panel_scales_begin(v, panel),
                     .tiles = tc_quant_tiles(w, v, panel),
                     .is_q4 = is_q4};
}

// The next span: its scales, and a tile of its weights where they are not one as they lie.
INLINE void decode_span(decoder *d, float (*scales)[TC_PANEL_ROWS], int8_t *to)
{
    const uint32_t s = d->span++;
    if (!d->view->stride)
        _mm512_store_ps(scales[s], tc_panel_scales_at(d->view, &d->scales, s, 0));
    else if (s == d->known)
        d->known += tc_panel_scales_next(d->view, &d->scales, s, (__m512 *)scales[s]);
    for (int i = 0; i < (d->is_q4 ? 8 : 16); i++, d->tiles += 64) {
        _mm_prefetch((const char *)d->tiles + PREFETCH_BYTES, _MM_HINT_T1);
        if (!d->is_q4) continue;
        const __m512i pair = _mm512_load_si512(d->tiles);
        _mm512_store_si512(to + i * 128, look_up_low(d->codes, pair));
        _mm512_store_si512(to + i * 128 + 64, look_up_high(d->codes, pair));
    }
}

// Spans of one panel or two up to `end`.
INLINE void decode_to(scratch *own, decoder *next, const bool two, uint32_t end, const uint32_t ring)
{
    if (end > next->view->spans) end = next->view->spans;
    while (next->span < end) {
        const uint32_t slot = next->span % ring;
        decode_span(next, own->scales[0], own->weights[0][slot]);
        if (two) decode_span(next + 1, own->scales[1], own->weights[1][slot]);
    }
    tc_tiles_read(own);
}

// One span of both planes with one panel, or two. Panels of 16 tokens: the activations, which come from the
// second cache, are loaded once for both.
INLINE void multiply_span(const int8_t *a, const int8_t *b, const bool two, const int8_t *high,
                          const int8_t *low, size_t stride, int32_t sums[4][GROUP][TC_PANEL_ROWS])
{
    _tile_loadd(4, high, stride);
    _tile_loadd(5, low, stride);
    _tile_loadd(6, a, TC_TILE_ROW_BYTES);
    _tile_zero(0);
    _tile_zero(1);
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 5, 6);
    if (two) {
        _tile_loadd(7, b, TC_TILE_ROW_BYTES);
        _tile_zero(2);
        _tile_zero(3);
        _tile_dpbssd(2, 4, 7);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, sums[0], TC_TILE_ROW_BYTES);
    _tile_stored(1, sums[1], TC_TILE_ROW_BYTES);
    if (!two) return;
    _tile_stored(2, sums[2], TC_TILE_ROW_BYTES);
    _tile_stored(3, sums[3], TC_TILE_ROW_BYTES);
}

// sum += 16 times the high plane's products and the low one's, scaled.
INLINE __m512 add_planes(__m512 sum, const int32_t *high, const int32_t *low, __m512 scale, __m512 x_scale)
{
    __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(_mm512_load_si512(high), 4), _mm512_load_si512(low));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, x_scale), sum);
}

// x_scale: of the first token and the span; the others lie `stride` bytes apart.
INLINE void add_span(const scratch *own, uint32_t span, const bool two, const float *x_scale, size_t stride,
                     const int tokens, __m512 sum[2][GROUP])
{
    const __m512 first = _mm512_load_ps(own->scales[0][span]), second = _mm512_load_ps(own->scales[1][span]);
    const int32_t(*sums)[GROUP][TC_PANEL_ROWS] = own->sums[span % 2];
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++) {
        __m512 x = _mm512_set1_ps(*(const float *)((const char *)x_scale + (size_t)t * stride));
        sum[0][t] = add_planes(sum[0][t], sums[0][t], sums[1][t], first, x);
        if (two) sum[1][t] = add_planes(sum[1][t], sums[2][t], sums[3][t], second, x);
    }
}

// A span's tiles are multiplied before the sums of the span ahead of it are added: additions that wait for a
// product's 52 cycles and its store would keep the next products from being begun.
// next: the decoders, where this is the panels' only group.
INLINE void group_sums(const tc_quant_view *v, uint32_t panel, const bool is_q4, const bool two,
                       const tc_rounded_row *x, size_t stride, const int tokens, scratch *own, decoder *next,
                       __m512 sum[2][GROUP])
{
    const int8_t *a = is_q4 ? own->weights[0][0] : tc_q8_tiles(v, panel);
    const int8_t *b = is_q4 ? own->weights[1][0] : tc_q8_tiles(v, panel + 1);
    for (int t = 0; t < tokens; t++) sum[0][t] = sum[1][t] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < v->spans; s++) {
        const size_t at = (size_t)s * TC_SPAN_COLS,
                     tile = (size_t)(next && is_q4 ? s % RING : s) * TC_TILE_BYTES;
        if (next) decode_to(own, next, two, s + 1 + BEHIND, RING);
        multiply_span(a + tile, b + tile, two, x->high + at, x->low + at, stride, own->sums[s % 2]);
        if (s) add_span(own, s - 1, two, x->scale + s - 1, stride, tokens, sum);
    }
    add_span(own, v->spans - 1, two, x->scale + v->spans - 1, stride, tokens, sum);
}

// Rows that lie at one distance from each other, as a tile is loaded; 0: they do not.
static size_t stride_of(const tc_rounded_row *x, uint32_t n)
{
    const size_t stride = (size_t)(x[1].high - x[0].high);
    for (uint32_t t = 2; t < n; t++)
        if ((size_t)(x[t].high - x[t - 1].high) != stride) return 0;
    return stride;
}

// One panel, or two.
INLINE void panels_tiles(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const bool two,
                         const tc_rows *x, uint32_t n, const bool is_q4, size_t stride, scratch *own,
                         tc_kernel_sink *to)
{
    const __m512 step = _mm512_set1_ps(is_q4 ? w->fast_step : 1.0f);
    decoder d[2] = {decoder_begin(w, v, panel, is_q4)}, *const next = n <= GROUP ? d : NULL;
    int configured = 0;
    if (two) d[1] = decoder_begin(w, v, panel + 1, is_q4);
    if (!next) decode_to(own, d, two, v->spans, SPANS_MAX);
    for (uint32_t t = 0; t < n; t += GROUP) {
        __m512 sum[2][GROUP];
        int tokens = n - t < GROUP ? (int)(n - t) : GROUP;
        if (tokens != configured) configure(tokens);
        configured = tokens;
        if (tokens == GROUP)
            group_sums(v, panel, is_q4, two, x->rounded + t, stride, GROUP, own, next, sum);
        else
            group_sums(v, panel, is_q4, two, x->rounded + t, stride, tokens, own, next, sum);
        for (uint32_t p = 0; p < (two ? 2 : 1); p++) {
            for (int i = 0; i < tokens; i++) sum[p][i] = _mm512_mul_ps(sum[p][i], step);
            tc_put(to, w, panel + p, t, tokens, sum[p]);
        }
    }
}

INLINE void all_tiles(const tc_matrix *w, const tc_quant_view *v, uint32_t panel0, uint32_t panel1,
                      const tc_rows *x, uint32_t n, const bool is_q4, size_t stride, tc_kernel_sink *to)
{
    scratch own;
    uint32_t p = panel0;
    for (; p + 2 <= panel1; p += 2) panels_tiles(w, v, p, true, x, n, is_q4, stride, &own, to);
    if (p < panel1) panels_tiles(w, v, p, false, x, n, is_q4, stride, &own, to);
    _tile_release();
}

// By themselves: a call of few tokens shall not pay for so large a frame.
static __attribute__((noinline)) void tiles_q4(const tc_matrix *w, const tc_quant_view *v, uint32_t panel0,
                                               uint32_t panel1, const tc_rows *x, uint32_t n, size_t stride,
                                               tc_kernel_sink *to)
{
    all_tiles(w, v, panel0, panel1, x, n, true, stride, to);
}

static __attribute__((noinline)) void tiles_q8(const tc_matrix *w, const tc_quant_view *v, uint32_t panel0,
                                               uint32_t panel1, const tc_rows *x, uint32_t n, size_t stride,
                                               tc_kernel_sink *to)
{
    all_tiles(w, v, panel0, panel1, x, n, false, stride, to);
}

INLINE void run_tiles(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                      const tc_matrix_type type, tc_kernel_sink *to)
{
    const tc_quant_view v = tc_quant_view_of(w);
    size_t stride = n < TOKENS_FROM ? 0 : stride_of(x->rounded, n);
    if (!stride || w->form.group != 64 || v.spans > SPANS_MAX)
        run(w, panel0, panel1, x, n, type, to);
    else if (type == TC_M_Q4)
        tiles_q4(w, &v, panel0, panel1, x, n, stride, to);
    else
        tiles_q8(w, &v, panel0, panel1, x, n, stride, to);
}

TC_KERNEL_PAIR(q4_tiles, run_tiles, TC_M_Q4)
TC_KERNEL_PAIR(q8_tiles, run_tiles, TC_M_Q8)

const tc_fast_part tc_fast_amx = {.matmul = {matmul_q4_tiles, matmul_q8_tiles},
                                  .matmul_fixed = {fixed_q4_tiles, fixed_q8_tiles},
                                  .round = round_row,
                                  .tiles = true};
