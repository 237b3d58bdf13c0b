// SPDX-License-Identifier: Apache-2.0
// Owns: the table of vector routines below the cpu device's operators (attention, DeltaNet, norms, routing).
// Plain C fills one table and is the oracle; dense_simd.c fills one an ISA. An element's result never depends
// on which others are computed beside it: every sum has one order, whatever the tile. Refuses: threads,
// pages.
//
// Rows of floats that are called padded are a multiple of TC_DENSE_PAD long, zero behind their end, and
// 64-byte aligned. Everything else may have any length and alignment.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TC_DENSE_PAD = 16,
    TC_DENSE_STRIP = 16,   // columns of a DeltaNet state that lie together
    TC_DENSE_ROW_STEP = 4, // rows of a strip are padded to this
    TC_DENSE_TAPS_MAX = 16,
};

static inline uint32_t tc_dense_padded(uint32_t n)
{
    return (n + TC_DENSE_PAD - 1) / TC_DENSE_PAD * TC_DENSE_PAD;
}

// One strip of one value head over some tokens. state [dk][16], dk padded to TC_DENSE_ROW_STEP; k and q rows
// are dk floats long. For each token: S *= decay; d = beta (v - S^T k); S += k d^T; o = S^T q.
typedef struct tc_dense_strip {
    float *state;
    const float *k, *q, *kq; // [tokens][dk], [tokens][dk], [tokens] k . q
    const float *v;          // [tokens][ld]
    const float *decay, *beta;
    float *o; // [tokens][ld]
    uint32_t tokens, dk, ld;
} tc_dense_strip;

typedef struct tc_dense_ahead {
    const void *data; // NULL: nothing
    uint32_t bytes;
} tc_dense_ahead;

typedef struct tc_dense {
    const char *name; // "plain", "avx2", "avx512"

    // score[r * ld + j] = q_r . k_j. q [rows][dim], k [count][dim], padded rows. `ahead` (of scores and
    // values): memory that the caller reads next, which is asked for in between.
    void (*scores)(const float *q, uint32_t rows, const float *k, uint32_t count, uint32_t dim, float *score,
                   uint32_t ld, tc_dense_ahead ahead);
    // s[0..n) becomes e^(s - max); returns their sum. s has room for n rounded up to TC_DENSE_PAD.
    float (*softmax)(float *s, uint32_t n, float *ret_max);
    // acc_r += sum over j of p[r * ld + j] v_j, j rising. acc [rows][dim], v [count][dim], padded rows.
    void (*values)(const float *p, uint32_t rows, uint32_t ld, const float *v, uint32_t count, uint32_t dim,
                   float *acc, tc_dense_ahead ahead);
    // a = a * x + b * y over n padded floats
    void (*blend)(float *a, float x, const float *b, float y, uint32_t n);
    // 16-bit floats of padded rows; those beyond the range saturate
    void (*to_half)(const float *x, uint32_t n, uint16_t *y);
    void (*from_half)(const uint16_t *x, uint32_t n, float *y);
    // y = x * scale * (gate ? sigmoid(gate) : 1)
    void (*scale_gate)(const float *x, float scale, const float *gate, uint32_t n, float *y);

    float (*squares)(const float *x, uint32_t n);
    // y = x * scale * (w ? w : 1); y may be x
    void (*scale)(const float *x, float scale, const float *w, uint32_t n, float *y);
    // Half-split rotation: x[i] is paired with x[i + half].
    void (*rotate)(float *x, const float *cosine, const float *sine, uint32_t half);
    void (*add)(float *x, const float *y, uint32_t n); // x += y
    // x += sum / 2^32 (NULL: none) + gate * shared (NULL: none)
    void (*combine)(float *x, const int64_t *sum, const float *shared, float gate, uint32_t n);
    // Lowest index i >= from with x[i] > than, or n.
    uint32_t (*first_above)(const float *x, uint32_t from, uint32_t n, float than);
    // sum of e^((x - max) * factor)
    float (*sum_exp)(const float *x, float max, float factor, uint32_t n);

    // y = silu(sum over j of tap[j] * in[j]), taps <= TC_DENSE_TAPS_MAX
    void (*convolve)(const float *const *in, const float *const *tap, uint32_t taps, uint32_t n, float *y);
    // decay = exp(neg_exp_a * softplus(a + dt_bias)), beta = sigmoid(b)
    void (*gates)(const float *a, const float *b, float neg_exp_a, float dt_bias, uint32_t n, float *decay,
                  float *beta);
    float (*dot)(const float *x, const float *y, uint32_t n); // padded
    void (*strip)(const tc_dense_strip *s);
    // y = w * x * scale * silu(z)
    void (*gated_norm)(const float *x, float scale, const float *w, const float *z, uint32_t n, float *y);
} tc_dense;

// The table that goes with a table of matrix kernels of this name (common/kernels): plain C for names that
// are no ISA. The caller has made sure that the CPU has it.
const tc_dense *tc_dense_for(const char *kernels);

extern const tc_dense tc_dense_plain;
extern const tc_dense tc_dense_avx2, tc_dense_avx512; // x86-64 only
