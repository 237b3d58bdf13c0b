// SPDX-License-Identifier: Apache-2.0
// Owns: the table of matrix kernels. Plain C fills it (the oracle); per-ISA files overwrite entries when the
// CPU has the instructions. A token's result never depends on the other tokens of the call (same additions in
// the same order for any n), nor on how panels are split over threads.
#pragma once

#include "common/model/matrix.h"

// EXACT: every weight is dequantised and rounded as bitsandbytes does, plain C, float32 sums: the oracle.
// DEFAULT: levels are multiplied first and a block's scale is applied to its sum; per-ISA.
typedef enum tc_precision { TC_EXACT, TC_DEFAULT } tc_precision;

// Sums that must not depend on grouping or arrival order are kept in 64-bit fixed point: value * 2^32,
// rounded to nearest-even once per canonical part; integer addition is associative. A part must be below 2^29
// in magnitude.
enum { TC_FIXED_BITS = 32 };
#define TC_FIXED_ONE 4294967296.0f
#define TC_FIXED_PART_MAX 536870912.0f
static inline float tc_fixed_to_float(int64_t v)
{
    return (float)((double)v * (1.0 / 4294967296.0));
}

// Sums are added with this. Parts in range can still add up to more than 64 bits (a peer may send any
// numbers): the sum then wraps, which keeps it defined and still independent of the order.
static inline int64_t tc_fixed_add(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

// Kernels. x[t] and y[t] are rows of float32 (cols and rows long, 64-byte aligned by preference, not need).
// Panels [panel0, panel1) are computed.
typedef void tc_matmul_fn(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const float *const *x,
                          uint32_t n, float *const *y);
// acc[t][r] += fixed(scale[t] * (W x[t])[r]). Returns false when a part was not finite or out of range (acc
// is then meaningless).
typedef bool tc_matmul_fixed_fn(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const float *const *x,
                                const float *scale, uint32_t n, int64_t *const *acc);

typedef struct tc_kernels {
    const char *name; // "exact", "scalar", "avx2", "avx512"
    tc_matmul_fn *matmul[TC_M_TYPES];
    tc_matmul_fixed_fn *matmul_fixed[TC_M_TYPES];
    // out[i] = silu(gate[i]) * up[i]; out may be gate. The same bits wherever an element stands.
    void (*silu_mul)(const float *gate, const float *up, float *out, uint32_t n);
    float (*dot)(const float *a, const float *b, uint32_t n);
    void (*axpy)(float alpha, const float *x, float *y, uint32_t n); // y += alpha * x
} tc_kernels;

// ISA names in rising order: "scalar", "avx2", "avx512". isa NULL: the best this CPU has. A named ISA that
// the CPU lacks is TC_UNSUPPORTED. TC_EXACT ignores isa. The table is static.
tc_status tc_kernels_get(tc_precision precision, const char *isa, const tc_kernels **ret, tc_error *e);

static inline void tc_matmul(const tc_kernels *k, const tc_matrix *w, uint32_t p0, uint32_t p1,
                             const float *const *x, uint32_t n, float *const *y)
{
    k->matmul[w->type](w, p0, p1, x, n, y);
}
