// SPDX-License-Identifier: Apache-2.0
// Owns: what the kernel files share: the geometry of packed data and the tables each ISA file offers.
// Refuses: to be included outside common/kernels.
#pragma once

#include "common/kernels/kernels.h"

// One panel of a Q4 matrix, and one record (64 columns) in it: scale rows, then 8 tiles of 64 bytes.
static inline size_t tc_q4_record_bytes(uint32_t group)
{
    return (size_t)(TC_Q4_SPAN_COLS / group) * TC_PANEL_ROWS * sizeof(float) + 8 * 64;
}

static inline const char *tc_panel_data(const tc_matrix *w, uint32_t panel)
{
    static const size_t element_bytes[TC_M_TYPES] = {0, 2, 2, 4};
    size_t bytes = w->type == TC_M_Q4 ? w->cols / TC_Q4_SPAN_COLS * tc_q4_record_bytes(w->group)
                                      : (size_t)w->cols * TC_PANEL_ROWS * element_bytes[w->type];
    return (const char *)w->data + panel * bytes;
}

// Rows of a panel that exist (the last panel may be short).
static inline uint32_t tc_panel_rows(const tc_matrix *w, uint32_t panel)
{
    uint32_t left = w->rows - panel * TC_PANEL_ROWS;
    return left < TC_PANEL_ROWS ? left : TC_PANEL_ROWS;
}

extern const tc_kernels tc_kernels_exact, tc_kernels_scalar;
extern const tc_kernels tc_kernels_avx2, tc_kernels_avx512; // x86-64 only; call only where the CPU has them

// Where an ISA file's sums of one panel go: float rows (y), or fixed-point sums (acc, scale, fine).
typedef struct tc_kernel_sink {
    float *const *y;
    int64_t *const *acc;
    const float *scale;
    bool fine;
} tc_kernel_sink;

// The two kernels of one matrix type, over an ISA file's own run(w, panel0, panel1, x, n, type, sink).
#define TC_KERNEL_PAIR(name, type)                                                                           \
    static void matmul_##name(const tc_matrix *w, uint32_t p0, uint32_t p1, const float *const *x,           \
                              uint32_t n, float *const *y)                                                   \
    {                                                                                                        \
        tc_kernel_sink to = {.y = y, .fine = true};                                                          \
        run(w, p0, p1, x, n, type, &to);                                                                     \
    }                                                                                                        \
    static bool fixed_##name(const tc_matrix *w, uint32_t p0, uint32_t p1, const float *const *x,            \
                             const float *scale, uint32_t n, int64_t *const *acc)                            \
    {                                                                                                        \
        tc_kernel_sink to = {.acc = acc, .scale = scale, .fine = true};                                      \
        run(w, p0, p1, x, n, type, &to);                                                                     \
        return to.fine;                                                                                      \
    }
