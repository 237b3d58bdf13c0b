// SPDX-License-Identifier: Apache-2.0
// Owns: TC_FAST in plain C, the oracle of every ISA's fast kernels, which must give the same bits: integer
// dot products of a span are exact in any order, and the floats that follow are added in the order written
// here.
#include "common/kernels/impl.h"

#include <math.h>

static void round_row(const float *x, uint32_t cols, const tc_rounded_row *ret)
{
    for (uint32_t s = 0; s < cols / TC_SPAN_COLS; s++, x += TC_SPAN_COLS) {
        size_t at = (size_t)s * TC_SPAN_COLS;
        uint32_t top = 0, bits;
        float inverse;
        for (int i = 0; i < TC_SPAN_COLS; i++) {
            memcpy(&bits, &x[i], sizeof bits);
            bits &= 0x7fffffffu;
            if (bits > top) top = bits;
        }
        ret->scale[s] = tc_rounded_scale(top, &inverse);
        ret->bias[2 * s] = ret->bias[2 * s + 1] = 0;
        for (int i = 0; i < TC_SPAN_COLS; i++) {
            int32_t q = inverse > 0 ? (int32_t)lrintf(x[i] * inverse) : 0, high = (q + 8) >> 4;
            ret->high[at + (size_t)i] = (int8_t)high;
            ret->low[at + (size_t)i] = (int8_t)(q - 16 * high);
            ret->bias[2 * s + (uint32_t)i / 32] -= 128 * q;
        }
    }
}

static int32_t rounded(const tc_rounded_row *x, size_t column)
{
    return 16 * x->high[column] + x->low[column];
}

// Columns [begin, end), one row of a panel.
static int32_t dot_q4(const tc_matrix *w, const uint8_t *panel, uint32_t begin, uint32_t end, uint32_t r,
                      const tc_rounded_row *x)
{
    const uint32_t *tiles = (const uint32_t *)panel;
    int32_t sum = 0;
    for (uint32_t c = begin; c < end; c++) {
        uint32_t word = tiles[c / TC_TILE_COLS * TC_PANEL_ROWS + r], k = c % TC_TILE_COLS;
        sum += w->fast[word >> (k < 4 ? 8 * k : 8 * (k - 4) + 4) & 15] * rounded(x, c);
    }
    return sum;
}

static int32_t dot_q8(const int8_t *panel, uint32_t begin, uint32_t end, uint32_t r, const tc_rounded_row *x)
{
    int32_t sum = 0;
    for (uint32_t c = begin; c < end; c++) sum += panel[(size_t)(c / 4) * 64 + r * 4 + c % 4] * rounded(x, c);
    return sum;
}

// One panel for one token.
static void panel_sums(const tc_matrix *w, const tc_quant_view *v, uint32_t panel, const tc_rounded_row *x,
                       float sum[TC_PANEL_ROWS])
{
    bool is_q4 = w->form.type == TC_M_Q4;
    uint32_t group = w->form.group;
    memset(sum, 0, TC_PANEL_ROWS * sizeof *sum);
    for (uint32_t c = 0; c < w->cols; c += group) {
        float scale[TC_PANEL_ROWS];
        tc_scales_of(v, panel, c / TC_SPAN_COLS, c % TC_SPAN_COLS / group, scale);
        for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) {
            int32_t dot = is_q4 ? dot_q4(w, tc_q4_tiles(v, panel), c, c + group, r, x)
                                : dot_q8(tc_q8_tiles(v, panel), c, c + group, r, x);
            sum[r] = fmaf((float)dot, scale[r] * x->scale[c / TC_SPAN_COLS], sum[r]);
        }
    }
    for (uint32_t r = 0; r < TC_PANEL_ROWS && is_q4; r++) sum[r] *= w->fast_step;
}

static void run(const tc_matrix *w, uint32_t panel0, uint32_t panel1, const tc_rows *x, uint32_t n,
                tc_matrix_type type, tc_kernel_sink *to)
{
    (void)type;
    tc_quant_view v = tc_quant_view_of(w);
    float sum[TC_PANEL_ROWS];
    for (uint32_t p = panel0; p < panel1; p++)
        for (uint32_t t = 0; t < n; t++) {
            size_t at = (size_t)p * TC_PANEL_ROWS;
            panel_sums(w, &v, p, &x->rounded[t], sum);
            for (uint32_t r = 0; r < tc_panel_rows(w, p); r++) {
                if (to->y) {
                    to->y[t][at + r] = sum[r];
                    continue;
                }
                float part = sum[r] * to->scale[t];
                if (!(fabsf(part) < TC_FIXED_PART_MAX))
                    to->fine = false; // NaN too
                else
                    to->acc[t][at + r] = tc_fixed_add(to->acc[t][at + r], llrintf(part * TC_FIXED_ONE));
            }
        }
}

TC_KERNEL_PAIR(q4, run, TC_M_Q4)
TC_KERNEL_PAIR(q8, run, TC_M_Q8)

const tc_fast_part tc_fast_scalar = {
    .matmul = {matmul_q4, matmul_q8}, .matmul_fixed = {fixed_q4, fixed_q8}, .round = round_row};

// e^x: x = n ln 2 + r, |r| <= ln 2 / 2; Taylor to r^7 (relative error below 2^-23); times 2^n. Infinity above
// e^88.
static float exponential(float x)
{
    static const float c[6] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f};
    if (x > 88.0f) return INFINITY;
    x = x > -87.0f ? x : -87.0f;
    float n = rintf(x * 1.44269504f), p = c[0];
    float r = fmaf(-n, -2.12194440e-4f, fmaf(-n, 0.693359375f, x));
    for (int i = 1; i < 6; i++) p = fmaf(p, r, c[i]);
    p = fmaf(p, r * r, r + 1.0f);
    uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

void tc_silu_mul_plain(const float *gate, const float *up, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + exponential(0.0f - gate[i])) * up[i];
}

// NaN stays NaN: a comparison with it takes neither limit.
void tc_clamped_mul(const float *gate, const float *up, float alpha, float limit, float *out, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        float g = gate[i] > limit ? limit : gate[i];
        float u = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
        out[i] = g / (1.0f + exponential(0.0f - g * alpha)) * (u + 1.0f);
    }
}
