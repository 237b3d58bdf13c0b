// SPDX-License-Identifier: Apache-2.0
// Owns: the kernels in plain C: `exact`, the oracle, and `scalar`, which runs anywhere. One lane a row;
// columns in rising order; so the compiler may use vectors over the 16 rows without changing a sum.
#include "common/kernels/impl.h"
#include "common/model/dtype.h"

#include <math.h>
#include <string.h>

static inline uint32_t code_of(uint32_t word, uint32_t column)
{
    return word >> (column < 4 ? 8 * column : 8 * (column - 4) + 4) & 15;
}

// 16 weights of one column of a Q4 panel, dequantised and rounded as they were stored.
static void exact_column_q4(const tc_matrix *w, const char *panel, uint32_t column, float out[TC_PANEL_ROWS])
{
    const char *record = panel + column / TC_Q4_SPAN_COLS * tc_q4_record_bytes(w->group);
    uint32_t at = column % TC_Q4_SPAN_COLS;
    const float *scale = (const float *)record + at / w->group * TC_PANEL_ROWS;
    const uint32_t *tile = (const uint32_t *)(record + tc_q4_record_bytes(w->group) - 8 * 64) + at / 8 * 16;
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++)
        out[r] = tc_round_to(w->round, w->levels[code_of(tile[r], at % 8)] * scale[r]);
}

static void dense_column(const tc_matrix *w, const char *panel, uint32_t column, float out[TC_PANEL_ROWS])
{
    const uint16_t *halves = (const uint16_t *)panel + (size_t)column * TC_PANEL_ROWS;
    const float *floats = (const float *)panel + (size_t)column * TC_PANEL_ROWS;
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++)
        out[r] = w->type == TC_M_F32   ? floats[r]
                 : w->type == TC_M_F16 ? tc_f16_to_float(halves[r])
                                       : tc_bf16_to_float(halves[r]);
}

enum { TOKENS_AT_ONCE = 8 };

// acc[t][r] for up to TOKENS_AT_ONCE tokens. Each weight is dequantised once.
static void exact_panel(const tc_matrix *w, uint32_t panel, const float *const *x, uint32_t n,
                        float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS])
{
    const char *data = tc_panel_data(w, panel);
    memset(acc, 0, sizeof(float) * TOKENS_AT_ONCE * TC_PANEL_ROWS);
    for (uint32_t c = 0; c < w->cols; c++) {
        float column[TC_PANEL_ROWS];
        if (w->type == TC_M_Q4)
            exact_column_q4(w, data, c, column);
        else
            dense_column(w, data, c, column);
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) acc[t][r] += column[r] * x[t][c];
    }
}

// Levels first, a group's scale on its sum.
static void scalar_panel(const tc_matrix *w, uint32_t panel, const float *const *x, uint32_t n,
                         float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS])
{
    if (w->type != TC_M_Q4) {
        exact_panel(w, panel, x, n, acc);
        return;
    }
    const char *record = tc_panel_data(w, panel);
    size_t record_bytes = tc_q4_record_bytes(w->group);
    memset(acc, 0, sizeof(float) * TOKENS_AT_ONCE * TC_PANEL_ROWS);
    for (uint32_t base = 0; base < w->cols; base += TC_Q4_SPAN_COLS, record += record_bytes) {
        const uint32_t *tiles = (const uint32_t *)(record + record_bytes - 8 * 64);
        for (uint32_t g = 0; g < TC_Q4_SPAN_COLS; g += w->group) {
            const float *scale = (const float *)record + g / w->group * TC_PANEL_ROWS;
            float part[TOKENS_AT_ONCE][TC_PANEL_ROWS] = {{0}};
            for (uint32_t c = g; c < g + w->group; c++)
                for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) {
                    float level = w->levels[code_of(tiles[c / 8 * 16 + r], c % 8)];
                    for (uint32_t t = 0; t < n; t++) part[t][r] += level * x[t][base + c];
                }
            for (uint32_t t = 0; t < n; t++)
                for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) acc[t][r] += scale[r] * part[t][r];
        }
    }
}

typedef void panel_fn(const tc_matrix *w, uint32_t panel, const float *const *x, uint32_t n,
                      float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS]);

static void matmul(panel_fn *run, const tc_matrix *w, uint32_t panel0, uint32_t panel1, const float *const *x,
                   uint32_t n, float *const *y)
{
    float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS];
    for (uint32_t p = panel0; p < panel1; p++) {
        for (uint32_t t = 0; t < n; t += TOKENS_AT_ONCE) {
            uint32_t some = n - t < TOKENS_AT_ONCE ? n - t : TOKENS_AT_ONCE;
            run(w, p, x + t, some, acc);
            for (uint32_t i = 0; i < some; i++)
                memcpy(y[t + i] + (size_t)p * TC_PANEL_ROWS, acc[i], tc_panel_rows(w, p) * sizeof(float));
        }
    }
}

static bool add_fixed(const float *part, float scale, uint32_t rows, int64_t *acc)
{
    bool fine = true;
    for (uint32_t r = 0; r < rows; r++) {
        float v = part[r] * scale;
        if (!(fabsf(v) < TC_FIXED_PART_MAX))
            fine = false; // NaN too
        else
            acc[r] = tc_fixed_add(acc[r], llrintf(v * TC_FIXED_ONE));
    }
    return fine;
}

static bool matmul_fixed(panel_fn *run, const tc_matrix *w, uint32_t panel0, uint32_t panel1,
                         const float *const *x, const float *scale, uint32_t n, int64_t *const *acc)
{
    float part[TOKENS_AT_ONCE][TC_PANEL_ROWS];
    bool fine = true;
    for (uint32_t p = panel0; p < panel1; p++) {
        for (uint32_t t = 0; t < n; t += TOKENS_AT_ONCE) {
            uint32_t some = n - t < TOKENS_AT_ONCE ? n - t : TOKENS_AT_ONCE;
            run(w, p, x + t, some, part);
            for (uint32_t i = 0; i < some; i++)
                fine &= add_fixed(part[i], scale[t + i], tc_panel_rows(w, p),
                                  acc[t + i] + (size_t)p * TC_PANEL_ROWS);
        }
    }
    return fine;
}

static void exact_matmul(const tc_matrix *w, uint32_t p0, uint32_t p1, const float *const *x, uint32_t n,
                         float *const *y)
{
    matmul(exact_panel, w, p0, p1, x, n, y);
}

static bool exact_fixed(const tc_matrix *w, uint32_t p0, uint32_t p1, const float *const *x,
                        const float *scale, uint32_t n, int64_t *const *acc)
{
    return matmul_fixed(exact_panel, w, p0, p1, x, scale, n, acc);
}

static void scalar_matmul(const tc_matrix *w, uint32_t p0, uint32_t p1, const float *const *x, uint32_t n,
                          float *const *y)
{
    matmul(scalar_panel, w, p0, p1, x, n, y);
}

static bool scalar_fixed(const tc_matrix *w, uint32_t p0, uint32_t p1, const float *const *x,
                         const float *scale, uint32_t n, int64_t *const *acc)
{
    return matmul_fixed(scalar_panel, w, p0, p1, x, scale, n, acc);
}

static void silu_mul(const float *gate, const float *up, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static float dot(const float *a, const float *b, uint32_t n)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void axpy(float alpha, const float *x, float *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) y[i] += alpha * x[i];
}

const tc_kernels tc_kernels_exact = {
    "exact",
    {exact_matmul, exact_matmul, exact_matmul, exact_matmul},
    {exact_fixed, exact_fixed, exact_fixed, exact_fixed},
    silu_mul,
    dot,
    axpy,
};

const tc_kernels tc_kernels_scalar = {
    "scalar",
    {scalar_matmul, scalar_matmul, scalar_matmul, scalar_matmul},
    {scalar_fixed, scalar_fixed, scalar_fixed, scalar_fixed},
    silu_mul,
    dot,
    axpy,
};
