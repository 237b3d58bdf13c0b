// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST of 16-bit matrices for AMX with bfloat16: 16 rows x 16 tokens x 32 columns are one tile
// product, and the packed panel is its operand as it lies. Two panels meet two groups of tokens, so that a
// tile is loaded for two products. Tiles multiply one token, too: they add in another order than
// bf16_avx512.c does, and a token's bits must not depend on how many there are; reading memory takes longer
// than a product of one token's tile. A product adds the even and the odd columns of its 32 by themselves,
// then both, then to the sum; to nearest even, denormals as zero.
#include "common/kernels/impl_amx.h"
#include "common/kernels/impl_bf16.h"

enum { GROUP = TC_TILE_ROWS, GROUPS = 2, PANELS = 2, PREFETCH_BYTES = 4096 };

// Tiles: 0 to 3 sums (panels of the first group, panels of the second), 4 and 5 activations of the groups, 6
// and 7 weights of the panels.
typedef struct scratch {
    _Alignas(64) uint8_t tail[PANELS][TC_TILE_BYTES]; // the last columns, padded with zeros
    _Alignas(64) float sums[GROUPS][PANELS][GROUP][TC_PANEL_ROWS];
} scratch;

// The two panels (or the one) and where the call's tokens lie, one row behind the other.
typedef struct work {
    const tc_matrix *w;
    const char *weights[PANELS];
    const uint16_t *x;
    size_t stride;
    scratch *own;
} work;

INLINE void configure(int first, int second)
{
    const int rows[TC_TILES] = {first, first, second, second, first, second, GROUP, GROUP};
    tc_tiles_configure(rows);
}

INLINE void prefetch_tile(const char *weights)
{
    for (int i = 0; i < TC_TILE_BYTES; i += 64) _mm_prefetch(weights + PREFETCH_BYTES + i, _MM_HINT_T0);
}

// 32 columns of everything.
INLINE void product(const char *a, const char *b, const uint16_t *x, size_t stride, const bool panels,
                    const bool groups)
{
    const size_t bytes = stride * sizeof *x;
    _tile_loadd(4, x, bytes);
    _tile_loadd(6, a, TC_TILE_ROW_BYTES);
    _tile_dpbf16ps(0, 4, 6);
    if (groups) {
        _tile_loadd(5, x + GROUP * stride, bytes);
        _tile_dpbf16ps(2, 5, 6);
    }
    if (!panels) return;
    _tile_loadd(7, b, TC_TILE_ROW_BYTES);
    _tile_dpbf16ps(1, 4, 7);
    if (groups) _tile_dpbf16ps(3, 5, 7);
}

// Sums of up to 32 tokens from `at` on. ahead: the weights come from memory.
INLINE void sums_of(const work *k, uint32_t at, const bool panels, const bool groups, const bool ahead)
{
    const uint16_t *x = k->x + at * k->stride;
    const char *a = k->weights[0], *b = k->weights[1];
    _tile_zero(0);
    if (panels) _tile_zero(1);
    if (groups) _tile_zero(2);
    if (panels && groups) _tile_zero(3);
    uint32_t c = 0;
    for (; c + TC_BF16_RUN <= k->w->cols; c += TC_BF16_RUN, a += TC_TILE_BYTES, b += TC_TILE_BYTES) {
        if (ahead) prefetch_tile(a);
        if (ahead && panels) prefetch_tile(b);
        product(a, b, x + c, k->stride, panels, groups);
    }
    if (c < k->w->cols)
        product((char *)k->own->tail[0], (char *)k->own->tail[1], x + c, k->stride, panels, groups);
    _tile_stored(0, k->own->sums[0][0], TC_TILE_ROW_BYTES);
    if (panels) _tile_stored(1, k->own->sums[0][1], TC_TILE_ROW_BYTES);
    if (groups) _tile_stored(2, k->own->sums[1][0], TC_TILE_ROW_BYTES);
    if (panels && groups) _tile_stored(3, k->own->sums[1][1], TC_TILE_ROW_BYTES);
}

// The columns behind the last whole run of a panel, so that no tile is loaded past the matrix.
INLINE void take_tail(const work *k, uint32_t which)
{
    const uint32_t rest = k->w->cols % TC_BF16_RUN;
    if (!rest) return;
    const size_t bytes = (rest + 1) / 2 * (size_t)TC_TILE_ROW_BYTES;
    const char *from = k->weights[which] + (size_t)(k->w->cols / TC_BF16_RUN) * TC_TILE_BYTES;
    memcpy(k->own->tail[which], from, bytes);
    memset(k->own->tail[which] + bytes, 0, TC_TILE_BYTES - bytes);
}

INLINE void put_group(const work *k, uint32_t panel, uint32_t panels, int group, uint32_t first, int tokens,
                      tc_kernel_sink *to)
{
    __m512 sum[GROUP];
    for (uint32_t p = 0; p < panels; p++) {
        for (int t = 0; t < tokens; t++) sum[t] = _mm512_load_ps(k->own->sums[group][p][t]);
        tc_put(to, k->w, panel + p, first, tokens, sum);
    }
}

// n tokens, the first of them token `first` of the call, of one panel or of two.
INLINE void panels_tokens(work *k, uint32_t panel, const bool two, uint32_t first, uint32_t n,
                          tc_kernel_sink *to)
{
    int configured[GROUPS] = {0, 0};
    for (uint32_t p = 0; p < (two ? 2 : 1); p++) {
        k->weights[p] = tc_panel_data(k->w, panel + p);
        take_tail(k, p);
    }
    tc_tiles_read(k->own);
    for (uint32_t t = 0; t < n; t += GROUPS * GROUP) {
        const int left = (int)(n - t), a = left < GROUP ? left : GROUP,
                  b = left - a < GROUP ? left - a : GROUP;
        if (a != configured[0] || b != configured[1]) configure(a, b);
        configured[0] = a;
        configured[1] = b;
        if (b)
            sums_of(k, t, two, true, t == 0);
        else
            sums_of(k, t, two, false, t == 0);
        put_group(k, panel, two ? 2 : 1, 0, first + t, a, to);
        if (b) put_group(k, panel, two ? 2 : 1, 1, first + t + GROUP, b, to);
    }
}

INLINE void block(work *k, uint32_t panel0, uint32_t panel1, uint32_t first, uint32_t n, tc_kernel_sink *to)
{
    uint32_t p = panel0;
    for (; p + 2 <= panel1; p += 2) panels_tokens(k, p, true, first, n, to);
    if (p < panel1) panels_tokens(k, p, false, first, n, to);
}

// Elements from one rounded row to the next; 0: they do not lie at one distance.
INLINE size_t stride_of(const tc_rounded_row *x, uint32_t n)
{
    if (n == 1) return TC_BF16_RUN; // never used
    const ptrdiff_t stride = x[1].wide - x[0].wide;
    for (uint32_t t = 2; t < n; t++)
        if (x[t].wide - x[t - 1].wide != stride) return 0;
    return stride > 0 ? (size_t)stride : 0;
}

// By itself: whoever brings rounded rows shall not pay for so large a frame.
static __attribute__((noinline)) void run_own(work *k, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                                              uint32_t n, tc_kernel_sink *to)
{
    _Alignas(64) uint16_t rounded[TC_BF16_SCRATCH];
    const uint32_t most = tc_bf16_rows(k->w->cols);
    k->x = rounded;
    k->stride = tc_bf16_stride(k->w->cols);
    for (uint32_t t = 0; t < n; t += most) {
        uint32_t count = n - t < most ? n - t : most;
        tc_bf16_round_own(x->f32 + t, count, k->w->cols, rounded);
        tc_tiles_read(rounded);
        block(k, panel0, panel1, t, count, to);
    }
}

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    (void)type;
    if (!n || !tc_bf16_takes(w)) {
        tc_bf16_unrounded(w, panel0, panel1, x, n, to);
        return;
    }
    scratch own;
    work k = {.w = w, .own = &own, .stride = x->bf16 ? stride_of(x->rounded, n) : 0};
    if (k.stride) {
        k.x = (const uint16_t *)x->rounded[0].wide;
        block(&k, panel0, panel1, 0, n, to);
    } else {
        run_own(&k, panel0, panel1, x, n, to);
    }
    _tile_release();
}

TC_KERNEL_PAIR(bf16, run, TC_M_BF16)

const tc_bf16_part tc_bf16_amx = {matmul_bf16, fixed_bf16, tc_bf16_round_row};
