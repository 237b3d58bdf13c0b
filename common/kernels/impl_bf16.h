// SPDX-License-Identifier: Apache-2.0
// Owns: what the kernels share that multiply bfloat16 by bfloat16: a call's activations rounded to bfloat16
// (to nearest, ties to even; denormals to zero), and the matrices that do not want them so. Refuses: to be
// included by code that is not built for AVX-512 with BF16.
#pragma once

#include "common/kernels/impl_avx512.h"

enum {
    TC_BF16_RUN = 32,           // rows are padded with zeros to whole runs of columns, as tiles want them
    TC_BF16_SCRATCH = 32 * 2080 // elements of a call's own rows: 32 tokens of 2048 columns
};

// Elements from one row of a call's own to the next: an odd number of cache lines, because rows a power of
// two apart would share a few places of the first cache.
INLINE size_t tc_bf16_stride(uint32_t cols)
{
    return (((size_t)cols + TC_BF16_RUN - 1) / TC_BF16_RUN | 1) * TC_BF16_RUN;
}

// Tokens whose rows the scratch holds; 0: the matrix is too wide for these kernels.
INLINE uint32_t tc_bf16_rows(uint32_t cols)
{
    return (uint32_t)(TC_BF16_SCRATCH / tc_bf16_stride(cols));
}

INLINE void tc_bf16_round(const float *x, uint32_t cols, uint16_t *to)
{
    for (uint32_t c = 0; c < cols; c += TC_BF16_RUN) {
        uint32_t mask = cols - c >= TC_BF16_RUN ? UINT32_MAX : (1u << (cols - c)) - 1;
        __m512 low = _mm512_maskz_loadu_ps((__mmask16)mask, x + c),
               high = _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), x + c + TC_BF16_RUN / 2);
        _mm512_storeu_si512(to + c, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

// As tc_kernels.round_bf16.
static void tc_bf16_round_row(const float *x, uint32_t cols, const tc_rounded_row *ret)
{
    tc_bf16_round(x, cols, (uint16_t *)ret->wide);
}

INLINE void tc_bf16_round_own(const float *const *x, uint32_t n, uint32_t cols, uint16_t *own)
{
    for (uint32_t t = 0; t < n; t++) tc_bf16_round(x[t], cols, own + t * tc_bf16_stride(cols));
}

// Some matrices, and rows that the scratch does not hold, meet activations as they are.
INLINE bool tc_bf16_takes(const tc_matrix *w)
{
    return !w->unrounded && tc_bf16_rows(w->cols) > 0;
}

static void tc_bf16_unrounded(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                              uint32_t n, tc_kernel_sink *to)
{
    const tc_kernels *k = &tc_kernels_avx512;
    if (to->y)
        k->matmul[TC_M_BF16](w, panel0, panel1, x, n, to->y);
    else
        to->fine = k->matmul_fixed[TC_M_BF16](w, panel0, panel1, x, to->scale, n, to->acc);
}
