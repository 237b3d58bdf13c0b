// SPDX-License-Identifier: Apache-2.0
// Owns: packing a weight into panels (layout: matrix.h) and reading one element back.
#include "common/model/matrix.h"

#include "common/model/dtype.h"

#include <math.h>
#include <string.h>

enum { TILE_BYTES = TC_PANEL_ROWS * 4, SPAN_TILES = TC_SPAN_COLS / TC_TILE_COLS, DENSE_CHUNK = 64 };

#define F16_MAX 65504.0f

static size_t align64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

// Most nested scales that a part of this shape can touch, wherever it begins; rows of padding included.
static size_t nested_count(const tc_matrix_form *form, uint32_t rows, uint32_t cols)
{
    uint64_t last =
        (uint64_t)(tc_panels(rows) * TC_PANEL_ROWS - 1) * form->nested_stride + cols / TC_SPAN_COLS - 1;
    return (size_t)(last >> TC_NESTED_SHIFT) + 2;
}

size_t tc_matrix_codes_at(const tc_matrix_form *form, uint32_t rows, uint32_t cols)
{
    if (form->type != TC_M_Q4 || !form->nested_stride) return 0;
    return align64(sizeof(tc_nested_table) + nested_count(form, rows, cols) * sizeof(float));
}

size_t tc_matrix_tiles_at(const tc_matrix_form *form, uint32_t rows, uint32_t cols)
{
    size_t lanes = (size_t)tc_panels(rows) * (cols / TC_SPAN_COLS) * TC_PANEL_ROWS;
    if (form->type != TC_M_Q4 && form->type != TC_M_Q8) return 0;
    if (form->nested_stride) return align64(tc_matrix_codes_at(form, rows, cols) + lanes);
    return lanes * (TC_SPAN_COLS / form->group) * sizeof(float);
}

size_t tc_matrix_bytes(const tc_matrix_form *form, uint32_t rows, uint32_t cols)
{
    size_t lanes = (size_t)tc_panels(rows) * TC_PANEL_ROWS;
    switch (form->type) {
    case TC_M_Q4:
        return tc_matrix_tiles_at(form, rows, cols) + lanes * cols / 2;
    case TC_M_Q8:
        return tc_matrix_tiles_at(form, rows, cols) + lanes * cols;
    case TC_M_BF16:
        return lanes * ((cols + 1) & ~1u) * 2;
    case TC_M_F16:
        return lanes * cols * 2;
    default:
        return lanes * cols * 4;
    }
}

tc_matrix_form tc_matrix_form_for(const tc_weight *w, uint32_t col0, uint32_t cols)
{
    uint32_t group = w->block == 32 ? 32 : 64;
    if (w->quantised && cols % TC_SPAN_COLS == 0 && col0 % TC_SPAN_COLS == 0 && w->cols % group == 0 &&
        w->block % group == 0) {
        bool nested = w->scale_codes && w->block == 64 && w->nested_block == 1u << TC_NESTED_SHIFT;
        return (tc_matrix_form){TC_M_Q4, group, nested ? w->cols / TC_SPAN_COLS : 0};
    }
    if (w->eight && cols % TC_SPAN_COLS == 0) return (tc_matrix_form){TC_M_Q8, TC_SPAN_COLS, 0};
    if (w->coarse) return (tc_matrix_form){TC_M_F16, 0, 0};
    return (tc_matrix_form){w->dtype == TC_BF16 ? TC_M_BF16 : w->dtype == TC_F16 ? TC_M_F16 : TC_M_F32, 0, 0};
}

// Eight codes, high nibble first, to a lane of a tile: columns 0..3 low nibbles, 4..7 high nibbles of bytes
// 0..3.
static void interleave(const uint8_t in[4], uint8_t out[4])
{
    out[0] = (uint8_t)(in[0] >> 4 | (in[2] & 0xf0));
    out[1] = (uint8_t)((in[0] & 15) | in[2] << 4);
    out[2] = (uint8_t)(in[1] >> 4 | (in[3] & 0xf0));
    out[3] = (uint8_t)((in[1] & 15) | in[3] << 4);
}

// The code whose level is nearest to zero: what rows of padding hold.
static uint8_t padding_byte(const float levels[16])
{
    uint8_t best = 0;
    for (uint8_t i = 1; i < 16; i++)
        if (fabsf(levels[i]) < fabsf(levels[best])) best = i;
    return (uint8_t)(best << 4 | best);
}

static void pack_q4_tiles(const tc_weight *w, uint64_t first, uint32_t cols, uint32_t lane, uint8_t *tiles)
{
    const uint8_t *codes =
        (const uint8_t *)w->data + first / 2; // first is even: cols of the weight % 32 == 0
    for (uint32_t c = 0; c < cols; c += TC_TILE_COLS)
        interleave(codes + c / 2, tiles + (size_t)c / TC_TILE_COLS * TILE_BYTES + lane * 4);
}

// Scales of one row: float32, or codes.
static void pack_q4_scales(const tc_weight *w, uint64_t first, uint32_t cols, const tc_matrix_form *form,
                           uint32_t lane, uint8_t *panel)
{
    uint32_t groups = cols / form->group;
    for (uint32_t g = 0; g < groups; g++) {
        uint64_t block = (first + (uint64_t)g * form->group) / w->block;
        if (form->nested_stride)
            panel[g * TC_PANEL_ROWS + lane] = w->scale_codes[block];
        else
            ((float *)panel)[g * TC_PANEL_ROWS + lane] = w->absmax[block];
    }
}

static void pack_nested(const tc_weight *w, uint64_t first, size_t count, void *data)
{
    tc_nested_table *table = data;
    uint64_t block = first / TC_SPAN_COLS, from = block >> TC_NESTED_SHIFT;
    uint64_t there =
        ((uint64_t)w->rows * w->cols / TC_SPAN_COLS + (1u << TC_NESTED_SHIFT) - 1) >> TC_NESTED_SHIFT;
    table->offset = w->nested_offset;
    table->phase = (uint32_t)(block & ((1u << TC_NESTED_SHIFT) - 1));
    for (size_t i = 0; i < count; i++) table->nested[i] = from + i < there ? w->nested[from + i] : 0.0f;
}

static void pack_q4(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                    const tc_matrix_form *form, uint8_t *data)
{
    size_t tiles_at = tc_matrix_tiles_at(form, rows, cols), codes_at = tc_matrix_codes_at(form, rows, cols);
    size_t tile_bytes = (size_t)cols / TC_TILE_COLS * TILE_BYTES;
    size_t scale_bytes =
        (size_t)cols / form->group * TC_PANEL_ROWS * (form->nested_stride ? 1 : sizeof(float));
    memset(data, 0, tiles_at);
    memset(data + tiles_at, padding_byte(w->levels), tc_matrix_bytes(form, rows, cols) - tiles_at);
    if (form->nested_stride)
        pack_nested(w, (uint64_t)row0 * w->cols + col0, nested_count(form, rows, cols), data);
    for (uint32_t r = 0; r < rows; r++) {
        uint64_t first = (uint64_t)(row0 + r) * w->cols + col0;
        uint32_t panel = r / TC_PANEL_ROWS, lane = r % TC_PANEL_ROWS;
        pack_q4_scales(w, first, cols, form, lane, data + codes_at + panel * scale_bytes);
        pack_q4_tiles(w, first, cols, lane, data + tiles_at + panel * tile_bytes);
    }
}

// Rounds a weight to 8 bits: a scale for each row and 64 columns.
static void pack_q8(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                    const tc_matrix_form *form, uint8_t *data)
{
    uint32_t spans = cols / TC_SPAN_COLS;
    float *scales = (float *)data, values[TC_SPAN_COLS];
    int8_t *tiles = (int8_t *)data + tc_matrix_tiles_at(form, rows, cols);
    memset(data, 0, tc_matrix_bytes(form, rows, cols));
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t s = 0; s < spans; s++) {
            size_t at = (size_t)(r / TC_PANEL_ROWS) * spans + s, lane = r % TC_PANEL_ROWS;
            float top = 0;
            tc_weight_dequantise(w, (uint64_t)(row0 + r) * w->cols + col0 + s * TC_SPAN_COLS, TC_SPAN_COLS,
                                 values);
            for (int i = 0; i < TC_SPAN_COLS; i++) top = fmaxf(top, fabsf(values[i]));
            scales[at * TC_PANEL_ROWS + lane] = top / 127.0f;
            for (int i = 0; i < TC_SPAN_COLS && top >= 1e-30f; i++)
                tiles[at * TC_SPAN_COLS * TC_PANEL_ROWS + (size_t)(i / 4) * TILE_BYTES + lane * 4 +
                      (size_t)(i % 4)] = (int8_t)lrintf(values[i] * (127.0f / top));
        }
}

// Index of a dense element within its panel.
static size_t dense_at(tc_matrix_type type, uint32_t lane, uint32_t col)
{
    if (type == TC_M_BF16) return ((size_t)(col / 2) * TC_PANEL_ROWS + lane) * 2 + col % 2;
    return (size_t)col * TC_PANEL_ROWS + lane;
}

// Scales of blocks may give more than 16 bits can say.
static float cut(float value)
{
    return value > F16_MAX ? F16_MAX : value < -F16_MAX ? -F16_MAX : value;
}

// One panel, `rows` of 16 given, some columns at a time, so that both sides are touched in order.
static void pack_dense_panel(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                             tc_matrix_type type, uint8_t *panel)
{
    float values[TC_PANEL_ROWS][DENSE_CHUNK] = {{0}};
    for (uint32_t c = 0; c < cols; c += DENSE_CHUNK) {
        uint32_t count = cols - c < DENSE_CHUNK ? cols - c : DENSE_CHUNK;
        for (uint32_t r = 0; r < rows; r++)
            tc_weight_dequantise(w, (uint64_t)(row0 + r) * w->cols + col0 + c, count, values[r]);
        for (uint32_t i = 0; i < count * TC_PANEL_ROWS; i++) {
            float value = values[i % TC_PANEL_ROWS][i / TC_PANEL_ROWS];
            size_t at = dense_at(type, i % TC_PANEL_ROWS, c + i / TC_PANEL_ROWS);
            if (type == TC_M_F32)
                ((float *)panel)[at] = value;
            else
                ((uint16_t *)panel)[at] = type == TC_M_BF16 ? tc_float_to_bf16(value)
                                                            : tc_float_to_f16(w->coarse ? cut(value) : value);
        }
    }
    for (uint32_t r = 0; type == TC_M_BF16 && cols % 2 && r < TC_PANEL_ROWS; r++)
        ((uint16_t *)panel)[dense_at(type, r, cols)] = 0;
}

static void pack_dense(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                       const tc_matrix_form *form, uint8_t *data)
{
    size_t panel_bytes = tc_matrix_bytes(form, TC_PANEL_ROWS, cols);
    for (uint32_t r = 0; r < rows; r += TC_PANEL_ROWS)
        pack_dense_panel(w, row0 + r, rows - r < TC_PANEL_ROWS ? rows - r : TC_PANEL_ROWS, col0, cols,
                         form->type, data + (size_t)(r / TC_PANEL_ROWS) * panel_bytes);
}

void tc_matrix_set_fast(tc_matrix *m)
{
    float top = 0, best = INFINITY;
    for (int i = 0; i < 16; i++) top = fmaxf(top, fabsf(m->levels[i]));
    m->fast_step = top > 0 ? top / 127 : 1;
    memset(m->fast, 0, sizeof m->fast);
    for (int steps = 100; steps <= 127 && top > 0; steps++) {
        float step = top / (float)steps, error = 0;
        for (int i = 0; i < 16; i++) {
            float off = m->levels[i] - rintf(m->levels[i] / step) * step;
            error += off * off;
        }
        if (error >= best) continue;
        best = error;
        m->fast_step = step;
    }
    for (int i = 0; i < 16; i++) m->fast[i] = (int8_t)lrintf(m->levels[i] / m->fast_step);
}

void tc_matrix_pack(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                    const tc_matrix_form *form, void *data, tc_matrix *ret)
{
    if (form->type == TC_M_Q4)
        pack_q4(w, row0, rows, col0, cols, form, data);
    else if (form->type == TC_M_Q8)
        pack_q8(w, row0, rows, col0, cols, form, data);
    else
        pack_dense(w, row0, rows, col0, cols, form, data);
    *ret = (tc_matrix){.form = *form, .rows = rows, .cols = cols, .round = w->dtype, .data = data};
    if (form->type != TC_M_Q4) return;
    memcpy(ret->levels, w->levels, sizeof ret->levels);
    tc_matrix_set_fast(ret);
}

static float scale_of(const tc_matrix *m, uint32_t row, uint32_t col)
{
    const uint8_t *data = m->data;
    size_t panel = row / TC_PANEL_ROWS, lane = row % TC_PANEL_ROWS, groups = m->cols / m->form.group;
    size_t at = (panel * groups + col / m->form.group) * TC_PANEL_ROWS + lane;
    if (!m->form.nested_stride) return ((const float *)data)[at];
    const tc_nested_table *table = (const tc_nested_table *)data;
    const uint8_t *codes = data + tc_matrix_codes_at(&m->form, m->rows, m->cols);
    uint64_t block =
        (uint64_t)table->phase % 256 + (uint64_t)row * m->form.nested_stride + col / TC_SPAN_COLS;
    float scaled = tc_nested_levels()[codes[at]] * table->nested[block >> TC_NESTED_SHIFT];
    return scaled + table->offset;
}

static float q4_element(const tc_matrix *m, uint32_t row, uint32_t col)
{
    const uint8_t *tiles = (const uint8_t *)m->data + tc_matrix_tiles_at(&m->form, m->rows, m->cols);
    size_t tile = (size_t)(row / TC_PANEL_ROWS) * (m->cols / TC_TILE_COLS) + col / TC_TILE_COLS;
    uint32_t in_tile = col % TC_TILE_COLS;
    uint8_t byte = tiles[tile * TILE_BYTES + row % TC_PANEL_ROWS * 4 + in_tile % 4];
    uint8_t code = in_tile < 4 ? byte & 15 : byte >> 4;
    return tc_round_to(m->round, m->levels[code] * scale_of(m, row, col));
}

static float q8_element(const tc_matrix *m, uint32_t row, uint32_t col)
{
    const int8_t *tiles = (const int8_t *)m->data + tc_matrix_tiles_at(&m->form, m->rows, m->cols);
    size_t tile = (size_t)(row / TC_PANEL_ROWS) * (m->cols / 4) + col / 4;
    return (float)tiles[tile * TILE_BYTES + row % TC_PANEL_ROWS * 4 + col % 4] * scale_of(m, row, col);
}

float tc_matrix_element(const tc_matrix *m, uint32_t row, uint32_t col)
{
    size_t panel_bytes = tc_matrix_bytes(&m->form, TC_PANEL_ROWS, m->cols);
    const uint8_t *panel = (const uint8_t *)m->data + (size_t)(row / TC_PANEL_ROWS) * panel_bytes;
    size_t at = dense_at(m->form.type, row % TC_PANEL_ROWS, col);
    switch (m->form.type) {
    case TC_M_Q4:
        return q4_element(m, row, col);
    case TC_M_Q8:
        return q8_element(m, row, col);
    case TC_M_BF16:
        return tc_bf16_to_float(((const uint16_t *)panel)[at]);
    case TC_M_F16:
        return tc_f16_to_float(((const uint16_t *)panel)[at]);
    default:
        return ((const float *)panel)[at];
    }
}

void tc_matrix_row(const tc_matrix *m, uint32_t row, float *ret)
{
    size_t panel_bytes = tc_matrix_bytes(&m->form, TC_PANEL_ROWS, m->cols);
    const uint8_t *panel = (const uint8_t *)m->data + (size_t)(row / TC_PANEL_ROWS) * panel_bytes;
    const uint16_t *half = (const uint16_t *)panel;
    for (uint32_t c = 0; c < m->cols; c++) {
        size_t at = dense_at(m->form.type, row % TC_PANEL_ROWS, c);
        ret[c] = m->form.type == TC_M_BF16  ? tc_bf16_to_float(half[at])
                 : m->form.type == TC_M_F16 ? tc_f16_to_float(half[at])
                 : m->form.type == TC_M_F32 ? ((const float *)panel)[at]
                                            : tc_matrix_element(m, row, c);
    }
}
