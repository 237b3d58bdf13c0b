// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST of 16-bit matrices for AVX-512 with BF16. vdpbf16ps multiplies both columns that a lane
// holds: twice what a multiply-add does, and no weight is unpacked. It rounds to nearest even whatever the
// mode, takes denormals for zero, and rounds between its two additions. Each sum runs in two parts (pairs of
// columns mod 2), added at the end, the same for any number of tokens.
#include "common/kernels/impl_bf16.h"

enum {
    PARTS = 2,
    PAIRS = 4,
    PAIR_BYTES = 64,
    // Asked for ahead: into the first cache, or where products take the longer part of the time farther and
    // into the second.
    FEW = 5,
    FEW_BYTES = 4096,
    MANY_BYTES = 7168
};

INLINE void ask_ahead(const char *data, const int T)
{
    if (T <= FEW)
        _mm_prefetch(data + FEW_BYTES, _MM_HINT_T0);
    else
        _mm_prefetch(data + MANY_BYTES, _MM_HINT_T1);
}

// The rows of a call: rounded before it, or by it.
typedef struct rows {
    const tc_rounded_row *rounded; // NULL: own
    const uint16_t *own;
    size_t stride;
} rows;

INLINE __m512 dot_pair(__m512 sum, const char *w, const uint16_t *x)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_load_si512(w),
                            (__m512bh)_mm512_broadcastd_epi32(_mm_loadu_si32(x)));
}

INLINE void panel_sums(const tc_matrix *w, uint32_t panel, const uint16_t *const *x, const int T, __m512 *out)
{
    const char *data = tc_panel_data(w, panel);
    const uint32_t pairs = (w->cols + 1) / 2;
    __m512 s[TC_TOKENS_AT_ONCE][PARTS];
    uint32_t p = 0;
    for (int t = 0; t < T; t++) s[t][0] = s[t][1] = _mm512_setzero_ps();
    for (; p + PAIRS <= pairs; p += PAIRS, data += PAIRS * PAIR_BYTES) {
        UNROLL(4)
        for (uint32_t j = 0; j < PAIRS; j++) {
            ask_ahead(data + j * PAIR_BYTES, T);
            UNROLL(8)
            for (int t = 0; t < T; t++)
                s[t][j % PARTS] = dot_pair(s[t][j % PARTS], data + j * PAIR_BYTES, x[t] + 2 * (p + j));
        }
    }
    for (; p < pairs; p++, data += PAIR_BYTES)
        for (int t = 0; t < T; t++) s[t][0] = dot_pair(s[t][0], data, x[t] + 2 * p);
    for (int t = 0; t < T; t++) out[t] = _mm512_add_ps(s[t][0], s[t][1]);
}

// T tokens of one panel: of the call's rows from `at`, of its sums from `first`.
INLINE void panel_tokens(const tc_matrix *w, uint32_t panel, const rows *x, uint32_t at, uint32_t first,
                         const int T, tc_kernel_sink *to)
{
    const uint16_t *row[TC_TOKENS_AT_ONCE];
    __m512 sum[TC_TOKENS_AT_ONCE];
    for (uint32_t t = 0; t < (uint32_t)T; t++)
        row[t] =
            x->rounded ? (const uint16_t *)x->rounded[at + t].wide : x->own + (size_t)(at + t) * x->stride;
    panel_sums(w, panel, row, T, sum);
    tc_put(to, w, panel, first, T, sum);
}

// Functions of their own, one for each number of tokens: a panel is read once.
typedef void panel_tokens_fn(const tc_matrix *w, uint32_t panel, const rows *x, uint32_t at, uint32_t first,
                             tc_kernel_sink *to);
#define PANEL_TOKENS(kind, T)                                                                                \
    static __attribute__((noinline)) void panel_tokens_##kind##_##T(                                         \
        const tc_matrix *w, uint32_t panel, const rows *x, uint32_t at, uint32_t first, tc_kernel_sink *to)  \
    {                                                                                                        \
        panel_tokens(w, panel, x, at, first, T, to);                                                         \
    }
EACH_T(PANEL_TOKENS, bf16)
static panel_tokens_fn *const panel_tokens_of[TC_TOKENS_AT_ONCE] = NAMES(panel_tokens, bf16);

// n tokens, the first of them token `first` of the call.
INLINE void block(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const rows *x, uint32_t first,
                  uint32_t n, tc_kernel_sink *to)
{
    for (uint32_t p = panel0; p < panel1; p++)
        for (uint32_t t = 0, some; t < n; t += some) {
            some = tc_tokens_of(n - t);
            panel_tokens_of[some - 1](w, p, x, t, first + t, to);
        }
}

// By itself: whoever brings rounded rows shall not pay for so large a frame.
static __attribute__((noinline)) void run_own(const tc_matrix *w, uint32_t panel0, uint32_t panel1,
                                              const tc_rows *x, uint32_t n, tc_kernel_sink *to)
{
    _Alignas(64) uint16_t own[TC_BF16_SCRATCH];
    const rows made = {.own = own, .stride = tc_bf16_stride(w->cols)};
    const uint32_t most = tc_bf16_rows(w->cols);
    for (uint32_t t = 0; t < n; t += most) {
        uint32_t count = n - t < most ? n - t : most;
        tc_bf16_round_own(x->f32 + t, count, w->cols, own);
        block(w, panel0, panel1, &made, t, count, to);
    }
}

INLINE void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                const tc_matrix_type type, tc_kernel_sink *to)
{
    (void)type;
    if (!tc_bf16_takes(w)) {
        tc_bf16_unrounded(w, panel0, panel1, x, n, to);
        return;
    }
    if (x->bf16) {
        const rows given = {.rounded = x->rounded};
        block(w, panel0, panel1, &given, 0, n, to);
    } else {
        run_own(w, panel0, panel1, x, n, to);
    }
}

TC_KERNEL_PAIR(bf16, run, TC_M_BF16)

const tc_bf16_part tc_bf16_avx512 = {matmul_bf16, fixed_bf16, tc_bf16_round_row};
