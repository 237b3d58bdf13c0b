// SPDX-License-Identifier: Apache-2.0
// Owns: the table of matrix kernels. Plain C fills it (the oracle); per-ISA files overwrite entries when the
// CPU has the instructions. A token's result never depends on the other tokens of the call (same additions in
// the same order for any n), nor on how panels are split over threads.
#pragma once

#include "common/model/matrix.h"

// EXACT: every weight is dequantised and rounded as bitsandbytes does, plain C, float32 sums: the oracle.
// FLOAT: levels are multiplied first and a block's scale is applied to its sum; float32 throughout; per-ISA.
// FAST:  4- and 8-bit matrices meet activations rounded to 11 bits (a scale for each 64 columns) in integer
// dot
//        products, code books in 127 steps a side. Every ISA gives the same bits for 4- and 8-bit matrices:
//          y[r] = step * sum over the groups g of a row, in order, of fma((float) dot_g(code, q), scale[r][g]
//          * x_scale, .)
//        Eight bits would halve the products and cost three times the divergence (docs/PERFORMANCE.md).
//        Other matrices as in FLOAT, but where the CPU multiplies bfloat16 (avx512bf16 and later) BF16 ones
//        meet activations rounded to bfloat16, as the reference implementations have them. Not those that say
//        `unrounded`.
typedef enum tc_precision { TC_EXACT, TC_FLOAT, TC_FAST } tc_precision;
const char *tc_precision_name(tc_precision precision); // "exact", "float", "fast"

// Sums that must not depend on grouping or arrival order are kept in 64-bit fixed point: value * 2^32,
// rounded to nearest-even once per canonical part; integer addition is associative. A part must be below 2^19
// in magnitude. That a part times 2^32 stays below 2^51 lets AVX2 round it with one addition.
enum { TC_FIXED_BITS = 32 };
#define TC_FIXED_ONE 4294967296.0f
#define TC_FIXED_PART_MAX 524288.0f
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

// One token's activations rounded for TC_FAST: q = 16 * high + low, in [-1015, 1015]. Two planes, so that
// products with unsigned weight bytes never leave what pmaddubsw holds: 2 * 255 * 63 < 2^15. Whoever made the
// memory owns it. The parts lie as tc_rounded_at has them for the columns of the matrix: loops keep one
// pointer a row.
enum { TC_ROUNDED_MAX = 1015 };
typedef struct tc_rounded_row {
    int8_t *high;  // [cols] in [-63, 63]
    int8_t *low;   // [cols] in [-8, 7]
    float *scale;  // [cols / 64]; NaN where the span holds a number that is not finite
    int32_t *bias; // [cols / 32] -128 * the sum of 32 q: weights are kept as code + 128 where they meet them
    // [cols] AVX2: q itself, each four columns in the order 0 2 1 3. Where bfloat16 is multiplied: the row in
    // it (round_bf16), and none of the rest need be set.
    int16_t *wide;
    // The first four columns of each eight once more, where kernels multiply pairs (fast_avx512_body.c), and
    // the bias that they want then.
    int32_t *pairs;     // [cols / 4] q0 + 65536 * q2, q1 + 65536 * q3 of each eight columns
    int32_t *pair_bias; // [cols / 32]
} tc_rounded_row;

static inline size_t tc_rounded_bytes(uint32_t cols) // a multiple of 64
{
    return ((size_t)cols * 5 + cols / TC_SPAN_COLS * 20u + 63) & ~(size_t)63;
}
static inline tc_rounded_row tc_rounded_at(void *memory, uint32_t cols)
{
    int8_t *high = memory;
    float *scale = (float *)(high + (size_t)cols * 2);
    int32_t *bias = (int32_t *)scale + cols / TC_SPAN_COLS;
    int32_t *pair_bias = bias + cols / TC_SPAN_COLS * 2, *pairs = pair_bias + cols / TC_SPAN_COLS * 2;
    return (tc_rounded_row){high, high + cols, scale, bias, (int16_t *)(pairs + cols / 4), pairs, pair_bias};
}

// A batch's activations: float32 rows, and the same rounded where the kernels want them so
// (tc_wants_rounded).
typedef struct tc_rows {
    const float *const *f32;
    const tc_rounded_row *rounded;
    bool bf16; // `wide` of the rounded rows holds bfloat16. Not needed: a kernel that wants it makes its own
} tc_rows;

// Kernels. x and y[t] have rows of cols and rows numbers (64-byte aligned by preference, not need).
// Panels [panel0, panel1) are computed.
typedef void tc_matmul_fn(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                          float *const *y);
// acc[t][r] += fixed(scale[t] * (W x[t])[r]). Returns false when a part was not finite or out of range (acc
// is then meaningless).
typedef bool tc_matmul_fixed_fn(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                                const float *scale, uint32_t n, int64_t *const *acc);

// The same for `count` matrices of one form and shape, each with rows of its own: as matmul_fixed of one
// after the other, but what they add up to goes to acc once.
typedef bool tc_matmul_fixed_sum_fn(const tc_matrix *w, uint32_t count, uint32_t panel0, uint32_t panel1,
                                    const tc_rows *x, const float *scale, uint32_t n, int64_t *const *acc);

typedef struct tc_kernels {
    const char *name; // "exact", "scalar", "avx2", "avx512", "avx512vbmi", "avx512pairs", "amx" ..
    tc_matmul_fn *matmul[TC_M_TYPES];
    tc_matmul_fixed_fn *matmul_fixed[TC_M_TYPES];
    // Rounds `cols` (a multiple of 64) activations. NULL: these kernels do not want them so.
    void (*round)(const float *x, uint32_t cols, const tc_rounded_row *ret);
    bool tiles; // rounded rows that lie at one distance from each other are multiplied faster
    // out[i] = silu(gate[i]) * up[i]; out may be gate. The same bits wherever an element stands.
    void (*silu_mul)(const float *gate, const float *up, float *out, uint32_t n);
    float (*dot)(const float *a, const float *b, uint32_t n);
    void (*axpy)(float alpha, const float *x, float *y, uint32_t n); // y += alpha * x
    tc_matmul_fixed_sum_fn *matmul_fixed_sum[TC_M_TYPES];            // NULL: one after the other is as good
    // Rounds activations of BF16 matrices (ret->wide; cols a multiple of 64). NULL: they are not rounded.
    void (*round_bf16)(const float *x, uint32_t cols, const tc_rounded_row *ret);
} tc_kernels;

// out[i] = g * sigmoid(alpha * g) * (u + 1), g = min(gate[i], limit), u = up[i] cut to +- limit; out may be
// gate. Plain C for every precision and ISA: the same bits everywhere.
void tc_clamped_mul(const float *gate, const float *up, float alpha, float limit, float *out, uint32_t n);

// ISA names in rising order: "scalar", "avx2", "avx512", "avx512vnni", "avx512vbmi", "avx512bf16",
// "avx512pairs", "amx". isa NULL: the best for this CPU. A named ISA that the CPU lacks is TC_UNSUPPORTED.
// TC_EXACT ignores isa. The table is static.
tc_status tc_kernels_get(tc_precision precision, const char *isa, const tc_kernels **ret, tc_error *e);

static inline bool tc_wants_rounded(const tc_kernels *k, tc_matrix_type type)
{
    return k->round && (type == TC_M_Q4 || type == TC_M_Q8);
}

static inline bool tc_wants_bf16(const tc_kernels *k, const tc_matrix *w)
{
    return k->round_bf16 && w->form.type == TC_M_BF16 && !w->unrounded && w->cols % TC_SPAN_COLS == 0;
}

static inline void tc_matmul(const tc_kernels *k, const tc_matrix *w, uint32_t p0, uint32_t p1,
                             const tc_rows *x, uint32_t n, float *const *y)
{
    k->matmul[w->form.type](w, p0, p1, x, n, y);
}

static inline bool tc_matmul_fixed_sum(const tc_kernels *k, const tc_matrix *w, uint32_t count, uint32_t p0,
                                       uint32_t p1, const tc_rows *x, const float *scale, uint32_t n,
                                       int64_t *const *acc)
{
    bool fine = true;
    if (k->matmul_fixed_sum[w->form.type])
        return k->matmul_fixed_sum[w->form.type](w, count, p0, p1, x, scale, n, acc);
    for (uint32_t i = 0; i < count; i++)
        fine &= k->matmul_fixed[w->form.type](&w[i], p0, p1, &x[i], scale, n, acc);
    return fine;
}
