// SPDX-License-Identifier: Apache-2.0
// Owns: what the kernel files share: where packed data lies, and the tables each ISA file offers.
// Refuses: to be included outside common/kernels.
#pragma once

#include "common/kernels/kernels.h"
#include "common/model/dtype.h"

enum { TC_SPAN_TILE_BYTES = 512, TC_SPAN_TILE8_BYTES = 1024 }; // tiles of a panel and span: Q4, Q8

// The parts of a Q4 or Q8 matrix.
typedef struct tc_quant_view {
    const uint8_t *tiles, *codes;
    const float *scales; // nested_stride == 0
    const float *map;    // of the codes
    const tc_nested_table *table;
    uint32_t phase, stride, spans, groups; // groups: scales of a row and span
} tc_quant_view;

static inline tc_quant_view tc_quant_view_of(const tc_matrix *w)
{
    const uint8_t *data = w->data;
    tc_quant_view v = {.tiles = data + tc_matrix_tiles_at(&w->form, w->rows, w->cols),
                       .scales = (const float *)data,
                       .stride = w->form.nested_stride,
                       .spans = w->cols / TC_SPAN_COLS,
                       .groups = TC_SPAN_COLS / w->form.group};
    if (!v.stride) return v;
    v.codes = data + tc_matrix_codes_at(&w->form, w->rows, w->cols);
    v.table = (const tc_nested_table *)data;
    v.phase = v.table->phase % (1u << TC_NESTED_SHIFT);
    v.map = tc_nested_levels();
    return v;
}

static inline const uint8_t *tc_q4_tiles(const tc_quant_view *v, uint32_t panel)
{
    return v->tiles + (size_t)panel * v->spans * TC_SPAN_TILE_BYTES;
}

static inline const int8_t *tc_q8_tiles(const tc_quant_view *v, uint32_t panel)
{
    return (const int8_t *)v->tiles + (size_t)panel * v->spans * TC_SPAN_TILE8_BYTES;
}

// Of either type.
static inline const uint8_t *tc_quant_tiles(const tc_matrix *w, const tc_quant_view *v, uint32_t panel)
{
    return w->form.type == TC_M_Q4 ? tc_q4_tiles(v, panel) : (const uint8_t *)tc_q8_tiles(v, panel);
}

static inline const float *tc_span_scales(const tc_quant_view *v, uint32_t panel, uint32_t span)
{
    return v->scales + ((size_t)panel * v->spans + span) * v->groups * TC_PANEL_ROWS;
}

static inline const uint8_t *tc_span_codes(const tc_quant_view *v, uint32_t panel, uint32_t span)
{
    return v->codes + ((size_t)panel * v->spans + span) * TC_PANEL_ROWS;
}

// The nested scales of a panel's rows in one span.
static inline void tc_nested_rows(const tc_quant_view *v, uint32_t panel, uint32_t span,
                                  float ret[TC_PANEL_ROWS])
{
    uint64_t block = v->phase + (uint64_t)panel * TC_PANEL_ROWS * v->stride + span;
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++, block += v->stride)
        ret[r] = v->table->nested[block >> TC_NESTED_SHIFT];
}

// Whether those are the same in all spans of the panel.
static inline bool tc_nested_steady(const tc_quant_view *v, uint32_t panel)
{
    uint64_t block = v->phase + (uint64_t)panel * TC_PANEL_ROWS * v->stride;
    if (v->spans == 1) return true;
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++, block += v->stride)
        if (block >> TC_NESTED_SHIFT != (block + v->spans - 1) >> TC_NESTED_SHIFT) return false;
    return true;
}

// Scale of each row for group `g` of a span, as bitsandbytes computes it.
static inline void tc_scales_of(const tc_quant_view *v, uint32_t panel, uint32_t span, uint32_t g,
                                float ret[TC_PANEL_ROWS])
{
    if (!v->stride) {
        memcpy(ret, tc_span_scales(v, panel, span) + (size_t)g * TC_PANEL_ROWS,
               TC_PANEL_ROWS * sizeof(float));
        return;
    }
    const uint8_t *codes = tc_span_codes(v, panel, span);
    float nested[TC_PANEL_ROWS];
    tc_nested_rows(v, panel, span, nested);
    for (uint32_t r = 0; r < TC_PANEL_ROWS; r++) {
        float scaled = v->map[codes[r]] * nested[r];
        ret[r] = scaled + v->table->offset;
    }
}

// A panel of a dense matrix.
static inline const char *tc_panel_data(const tc_matrix *w, uint32_t panel)
{
    uint32_t cols = w->form.type == TC_M_BF16 ? (w->cols + 1) & ~1u : w->cols;
    return (const char *)w->data + (size_t)panel * cols * TC_PANEL_ROWS * (w->form.type == TC_M_F32 ? 4 : 2);
}

// At the beginning of a run of panels whose loop asks `lead` bytes ahead: asks for what nobody has. Where the
// matrix before it ended right ahead of it, that is as much as its scales take, for they lie between the
// tiles of both: an expert's matrices would each wait for 33 lines, one after the other.
static inline void tc_ask_first(const tc_matrix *w, const void *tiles, size_t lead)
{
    const size_t ahead = (size_t)((const char *)tiles - (const char *)w->data);
    for (size_t i = ahead < lead ? lead - ahead : 0; i < lead; i += 64)
        __builtin_prefetch((const char *)tiles + i, 0, 2);
}

// Rows of a panel that exist (the last panel may be short).
static inline uint32_t tc_panel_rows(const tc_matrix *w, uint32_t panel)
{
    uint32_t left = w->rows - panel * TC_PANEL_ROWS;
    return left < TC_PANEL_ROWS ? left : TC_PANEL_ROWS;
}

// ---- tables: call only where the CPU has the instructions ----

extern const tc_kernels tc_kernels_exact, tc_kernels_scalar;
extern const tc_kernels tc_kernels_avx2, tc_kernels_avx512; // x86-64 only, as all that follow

// What a TC_FAST table has of its own; the rest it takes from a TC_FLOAT table. [0] is Q4, [1] is Q8.
typedef struct tc_fast_part {
    tc_matmul_fn *matmul[2];
    tc_matmul_fixed_fn *matmul_fixed[2];
    tc_matmul_fixed_sum_fn *matmul_fixed_sum[2];
    void (*round)(const float *x, uint32_t cols, const tc_rounded_row *ret);
    bool tiles;
} tc_fast_part;

// What a TC_FAST table has for BF16 matrices where the CPU multiplies bfloat16.
typedef struct tc_bf16_part {
    tc_matmul_fn *matmul;
    tc_matmul_fixed_fn *matmul_fixed;
    void (*round)(const float *x, uint32_t cols, const tc_rounded_row *ret);
} tc_bf16_part;

extern const tc_bf16_part tc_bf16_avx512, tc_bf16_amx;
extern const tc_fast_part tc_fast_scalar;
extern const tc_fast_part tc_fast_avx2, tc_fast_avx512, tc_fast_avx512vnni, tc_fast_avx512vbmi,
    tc_fast_avx512pairs, tc_fast_amx;
extern uint8_t tc_nested_planes[4][256]; // tc_nested_levels byte by byte; filled before a table is handed out
void tc_silu_mul_plain(const float *gate, const float *up, float *out, uint32_t n); // the vectors' bits

// Scale of a span whose largest magnitude has these bits, and what to multiply by before rounding.
static inline float tc_rounded_scale(uint32_t top_bits, float *ret_inverse)
{
    float top;
    memcpy(&top, &top_bits, sizeof top);
    *ret_inverse = 0;
    if (top_bits >= 0x7f800000u) return __builtin_nanf(""); // not finite: the product must say so
    if (top < 1e-30f) return 0;
    *ret_inverse = TC_ROUNDED_MAX / top;
    return top / TC_ROUNDED_MAX;
}

// Where an ISA file's sums of one panel go: float rows (y), or fixed-point sums (acc, scale, fine).
typedef struct tc_kernel_sink {
    float *const *y;
    int64_t *const *acc;
    const float *scale;
    bool fine;
} tc_kernel_sink;

// The two kernels of one matrix type, over an ISA file's own run(w, panel0, panel1, x, n, type, sink).
#define TC_KERNEL_PAIR(name, run, type)                                                                      \
    static void matmul_##name(const tc_matrix *w, uint32_t p0, uint32_t p1, const tc_rows *x, uint32_t n,    \
                              float *const *y)                                                               \
    {                                                                                                        \
        tc_kernel_sink to = {.y = y, .fine = true};                                                          \
        run(w, p0, p1, x, n, type, &to);                                                                     \
    }                                                                                                        \
    static bool fixed_##name(const tc_matrix *w, uint32_t p0, uint32_t p1, const tc_rows *x,                 \
                             const float *scale, uint32_t n, int64_t *const *acc)                            \
    {                                                                                                        \
        tc_kernel_sink to = {.acc = acc, .scale = scale, .fine = true};                                      \
        run(w, p0, p1, x, n, type, &to);                                                                     \
        return to.fine;                                                                                      \
    }

// The kernel of several matrices of one type, over an ISA file's own run_sum.
#define TC_KERNEL_SUM(name, run_sum, type)                                                                   \
    static bool fixed_sum_##name(const tc_matrix *w, uint32_t count, uint32_t p0, uint32_t p1,               \
                                 const tc_rows *x, const float *scale, uint32_t n, int64_t *const *acc)      \
    {                                                                                                        \
        return run_sum(w, count, p0, p1, x, scale, n, type, acc);                                            \
    }
