// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST for AMX: 16 rows x 16 tokens x 64 columns are one tile product for each plane of the
// activations. Few tokens, odd groups and inputs that do not lie at one distance go the VNNI way; the bits
// are the same (fast_plain.c): a tile product of a span is an exact integer, and the floats that follow are
// added span by span in the same order.
#include "common/kernels/impl_avx512.h"

INLINE __m512i dot4(__m512i acc, __m512i u, __m512i q)
{
    return _mm512_dpbusd_epi32(acc, u, q);
}

#include "common/kernels/fast_avx512_body.c"

enum {
    GROUP = 16,       // tokens of a tile
    TOKENS_FROM = 6,  // fewer are not worth a tile
    SPANS_MAX = 64,   // of a panel kept decoded: 64 KiB
    TILE_BYTES = 1024 // 16 rows of 64 bytes
};

// Tiles: 0 to 3 sums (of a panel the high plane, then the low one; two panels), 4 and 5 activations, 6 and 7
// weights.
typedef struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t bytes_a_row[16];
    uint8_t rows[16];
} tile_config;

typedef struct scratch {
    // of two panels: of a span, 16 rows of 4 columns x 16 rows of W
    _Alignas(64) int8_t weights[2][SPANS_MAX][TILE_BYTES];
    _Alignas(64) float scales[2][SPANS_MAX][TC_PANEL_ROWS];
    _Alignas(64) int32_t sums[4][GROUP][TC_PANEL_ROWS];
} scratch;

static __thread scratch own;

INLINE void configure(int tokens)
{
    tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.bytes_a_row[i] = 64;
        c.rows[i] = (uint8_t)(i < 6 ? tokens : 16);
    }
    _tile_loadconfig(&c);
}

INLINE void decode_panel(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const bool is_q4,
                         int which)
{
    const __m512i codes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)w->fast));
    const __m512i low = _mm512_set1_epi8(15);
    tc_panel_scales ps = tc_panel_scales_begin(v, panel);
    const uint8_t *tiles = tc_q4_tiles(v, panel);
    for (uint32_t s = 0; s < v->spans; s++) {
        int8_t *to = own.weights[which][s];
        _mm512_store_ps(own.scales[which][s], tc_panel_scales_at(v, &ps, s, 0));
        for (int i = 0; i < 8 && is_q4; i++, tiles += 64) {
            __m512i pair = _mm512_load_si512(tiles);
            _mm_prefetch((const char *)tiles + PREFETCH_BYTES, _MM_HINT_T0);
            _mm512_store_si512(to + i * 128, _mm512_shuffle_epi8(codes, _mm512_and_si512(pair, low)));
            _mm512_store_si512(to + i * 128 + 64,
                               _mm512_shuffle_epi8(codes, _mm512_and_si512(_mm512_srli_epi16(pair, 4), low)));
        }
    }
}

// sum[t] += the span's products of one of the two panels, scaled.
INLINE void add_span(int which, uint32_t span, const tc_rounded_row *x, int tokens, __m512 *sum)
{
    const __m512 scale = _mm512_load_ps(own.scales[which][span]);
    for (int t = 0; t < tokens; t++) {
        __m512i high = _mm512_load_si512(own.sums[2 * which][t]),
                low = _mm512_load_si512(own.sums[2 * which + 1][t]);
        __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x[t].scale[span]));
        __m512 dot = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 4), low));
        sum[t] = _mm512_fmadd_ps(dot, both, sum[t]);
    }
}

// Panels of 16 tokens: the activations, which come from the second cache, are loaded once for both.
INLINE void group_sums(const tc_quant_view *v, uint32_t panel, const bool is_q4, const bool two,
                       const tc_rounded_row *x, size_t stride, const int tokens, __m512 sum[2][GROUP])
{
    const int8_t *a = is_q4 ? own.weights[0][0] : tc_q8_tiles(v, panel);
    const int8_t *b = is_q4 ? own.weights[1][0] : tc_q8_tiles(v, panel + 1);
    for (int t = 0; t < tokens; t++) sum[0][t] = sum[1][t] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < v->spans; s++, a += TILE_BYTES, b += TILE_BYTES) {
        _tile_loadd(4, x->high + (size_t)s * 64, stride);
        _tile_loadd(5, x->low + (size_t)s * 64, stride);
        _tile_loadd(6, a, 64);
        _tile_zero(0);
        _tile_zero(1);
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 5, 6);
        _tile_stored(0, own.sums[0], 64);
        _tile_stored(1, own.sums[1], 64);
        if (two) {
            _tile_loadd(7, b, 64);
            _tile_zero(2);
            _tile_zero(3);
            _tile_dpbssd(2, 4, 7);
            _tile_dpbssd(3, 5, 7);
            _tile_stored(2, own.sums[2], 64);
            _tile_stored(3, own.sums[3], 64);
        }
        add_span(0, s, x, tokens, sum[0]);
        if (two) add_span(1, s, x, tokens, sum[1]);
    }
}

// Rows that lie at one distance from each other, as a tile is loaded; 0: they do not.
static size_t stride_of(const tc_rounded_row *x, uint32_t n)
{
    size_t stride = (size_t)(x[1].high - x[0].high);
    for (uint32_t t = 1; t < n; t++)
        if ((size_t)(x[t].high - x[t - 1].high) != stride || (size_t)(x[t].low - x[t - 1].low) != stride)
            return 0;
    return stride;
}

// One panel, or two.
INLINE void panels_tiles(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const bool two,
                         const tc_rows *x, uint32_t n, const bool is_q4, size_t stride, tc_kernel_sink *to)
{
    const __m512 step = _mm512_set1_ps(is_q4 ? w->fast_step : 1.0f);
    int configured = 0;
    decode_panel(w, v, panel, is_q4, 0);
    if (two) decode_panel(w, v, panel + 1, is_q4, 1);
    for (uint32_t t = 0; t < n; t += GROUP) {
        __m512 sum[2][GROUP];
        int tokens = n - t < GROUP ? (int)(n - t) : GROUP;
        if (tokens != configured) configure(tokens);
        configured = tokens;
        if (tokens == GROUP)
            group_sums(v, panel, is_q4, two, x->rounded + t, stride, GROUP, sum);
        else
            group_sums(v, panel, is_q4, two, x->rounded + t, stride, tokens, sum);
        for (uint32_t p = 0; p < (two ? 2 : 1); p++) {
            for (int i = 0; i < tokens; i++) sum[p][i] = _mm512_mul_ps(sum[p][i], step);
            tc_put(to, w, panel + p, t, tokens, sum[p]);
        }
    }
}

INLINE void run_tiles(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                      const tc_matrix_type type, tc_kernel_sink *to)
{
    const tc_quant_view v = tc_quant_view_of(w);
    size_t stride = n < TOKENS_FROM ? 0 : stride_of(x->rounded, n);
    if (!stride || w->form.group != 64 || v.spans > SPANS_MAX) {
        run(w, panel0, panel1, x, n, type, to);
        return;
    }
    uint32_t p = panel0;
    for (; p + 2 <= panel1; p += 2) panels_tiles(w, &v, p, true, x, n, type == TC_M_Q4, stride, to);
    if (p < panel1) panels_tiles(w, &v, p, false, x, n, type == TC_M_Q4, stride, to);
    _tile_release();
}

TC_KERNEL_PAIR(q4_tiles, run_tiles, TC_M_Q4)
TC_KERNEL_PAIR(q8_tiles, run_tiles, TC_M_Q8)

const tc_fast_part tc_fast_amx = {.matmul = {matmul_q4_tiles, matmul_q8_tiles},
                                  .matmul_fixed = {fixed_q4_tiles, fixed_q8_tiles},
                                  .round = round_row,
                                  .tiles = true};
