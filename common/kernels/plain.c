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

static uint32_t q4_code(const tc_quant_view *v, uint32_t panel, uint32_t column, uint32_t r)
{
    const uint32_t *tile = (const uint32_t *)(tc_q4_tiles(v, panel) + (size_t)(column / TC_TILE_COLS) * 64);
    return code_of(tile[r], column % TC_TILE_COLS);
}

static int8_t q8_code(const tc_quant_view *v, uint32_t panel, uint32_t column, uint32_t r)
{
    return tc_q8_tiles(v, panel)[(size_t)(column / 4) * 64 + r * 4 + column % 4];
}

// 16 weights of one column of a quantised panel, dequantised and rounded as they were stored.
static void exact_column(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, uint32_t column,
                         const float scale[TC_PANEL_ROWS], float out[TC_PANEL_ROWS])
{
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++)
        out[r] = w->form.type == TC_M_Q8
                     ? (float)q8_code(v, panel, column, r) * scale[r]
                     : tc_round_to(w->round, w->levels[q4_code(v, panel, column, r)] * scale[r]);
}

static void dense_column(const tc_matrix *w, const char *panel, uint32_t column, float out[TC_PANEL_ROWS])
{
    const uint16_t *halves = (const uint16_t *)panel + (size_t)column * TC_PANEL_ROWS;
    const uint16_t *pairs = (const uint16_t *)panel + (size_t)(column / 2) * 2 * TC_PANEL_ROWS + column % 2;
    const float *floats = (const float *)panel + (size_t)column * TC_PANEL_ROWS;
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++)
        out[r] = w->form.type == TC_M_F32   ? floats[r]
                 : w->form.type == TC_M_F16 ? tc_f16_to_float(halves[r])
                                            : tc_bf16_to_float(pairs[r * 2]);
}

enum { TOKENS_AT_ONCE = 8 };

static bool quantised(const tc_matrix *w)
{
    return w->form.type == TC_M_Q4 || w->form.type == TC_M_Q8;
}

// acc[t][r] for up to TOKENS_AT_ONCE tokens. Each weight is dequantised once.
static void exact_panel(const tc_matrix *w, uint32_t panel, const float *const *x, uint32_t n,
                        float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS])
{
    tc_quant_view v = {0};
    const char *data = NULL;
    if (quantised(w))
        v = tc_quant_view_of(w);
    else
        data = tc_panel_data(w, panel);
    memset(acc, 0, sizeof(float) * TOKENS_AT_ONCE * TC_PANEL_ROWS);
    for (uint32_t c = 0; c < w->cols; c++) {
        float column[TC_PANEL_ROWS], scale[TC_PANEL_ROWS];
        if (!data && c % w->form.group == 0)
            tc_scales_of(&v, panel, c / TC_SPAN_COLS, c % TC_SPAN_COLS / w->form.group, scale);
        if (data)
            dense_column(w, data, c, column);
        else
            exact_column(w, &v, panel, c, scale, column);
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) acc[t][r] += column[r] * x[t][c];
    }
}

// Levels first, a group's scale on its sum.
static void scalar_panel(const tc_matrix *w, uint32_t panel, const float *const *x, uint32_t n,
                         float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS])
{
    if (!quantised(w)) {
        exact_panel(w, panel, x, n, acc);
        return;
    }
    tc_quant_view v = tc_quant_view_of(w);
    memset(acc, 0, sizeof(float) * TOKENS_AT_ONCE * TC_PANEL_ROWS);
    for (uint32_t base = 0; base < w->cols; base += w->form.group) {
        float part[TOKENS_AT_ONCE][TC_PANEL_ROWS] = {{0}}, scale[TC_PANEL_ROWS];
        tc_scales_of(&v, panel, base / TC_SPAN_COLS, base % TC_SPAN_COLS / w->form.group, scale);
        for (uint32_t c = base; c < base + w->form.group; c++)
            for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) {
                float level =
                    w->form.type == TC_M_Q8 ? q8_code(&v, panel, c, r) : w->levels[q4_code(&v, panel, c, r)];
                for (uint32_t t = 0; t < n; t++) part[t][r] += level * x[t][c];
            }
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) acc[t][r] += scale[r] * part[t][r];
    }
}

typedef void panel_fn(const tc_matrix *w, uint32_t panel, const float *const *x, uint32_t n,
                      float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS]);

static void matmul(panel_fn *run, const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x,
                   uint32_t n, float *const *y)
{
    float acc[TOKENS_AT_ONCE][TC_PANEL_ROWS];
    for (uint32_t p = panel0; p < panel1; p++) {
        for (uint32_t t = 0; t < n; t += TOKENS_AT_ONCE) {
            uint32_t some = n - t < TOKENS_AT_ONCE ? n - t : TOKENS_AT_ONCE;
            run(w, p, x->f32 + t, some, acc);
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
                         const tc_rows *x, const float *scale, uint32_t n, int64_t *const *acc)
{
    float part[TOKENS_AT_ONCE][TC_PANEL_ROWS];
    bool fine = true;
    for (uint32_t p = panel0; p < panel1; p++) {
        for (uint32_t t = 0; t < n; t += TOKENS_AT_ONCE) {
            uint32_t some = n - t < TOKENS_AT_ONCE ? n - t : TOKENS_AT_ONCE;
            run(w, p, x->f32 + t, some, part);
            for (uint32_t i = 0; i < some; i++)
                fine &= add_fixed(part[i], scale[t + i], tc_panel_rows(w, p),
                                  acc[t + i] + (size_t)p * TC_PANEL_ROWS);
        }
    }
    return fine;
}

static void exact_matmul(const tc_matrix *w, uint32_t p0, uint32_t p1, const tc_rows *x, uint32_t n,
                         float *const *y)
{
    matmul(exact_panel, w, p0, p1, x, n, y);
}

static bool exact_fixed(const tc_matrix *w, uint32_t p0, uint32_t p1, const tc_rows *x, const float *scale,
                        uint32_t n, int64_t *const *acc)
{
    return matmul_fixed(exact_panel, w, p0, p1, x, scale, n, acc);
}

static void scalar_matmul(const tc_matrix *w, uint32_t p0, uint32_t p1, const tc_rows *x, uint32_t n,
                          float *const *y)
{
    matmul(scalar_panel, w, p0, p1, x, n, y);
}

static bool scalar_fixed(const tc_matrix *w, uint32_t p0, uint32_t p1, const tc_rows *x, const float *scale,
                         uint32_t n, int64_t *const *acc)
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
    {exact_matmul, exact_matmul, exact_matmul, exact_matmul, exact_matmul},
    {exact_fixed, exact_fixed, exact_fixed, exact_fixed, exact_fixed},
    NULL,
    false,
    silu_mul,
    dot,
    axpy,
};

const tc_kernels tc_kernels_scalar = {
    "scalar",
    {scalar_matmul, scalar_matmul, scalar_matmul, scalar_matmul, scalar_matmul},
    {scalar_fixed, scalar_fixed, scalar_fixed, scalar_fixed, scalar_fixed},
    NULL,
    false,
    silu_mul,
    dot,
    axpy,
};
