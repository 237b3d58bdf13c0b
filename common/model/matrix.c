// SPDX-License-Identifier: Apache-2.0
// Owns: packing a weight into panels (layout: matrix.h) and reading one element back.
#include "common/model/matrix.h"

#include "common/model/dtype.h"

enum { TILE_BYTES = TC_PANEL_ROWS * 4, SPAN_TILES = TC_Q4_SPAN_COLS / TC_TILE_COLS, DENSE_CHUNK = 64 };

static size_t element_bytes(tc_matrix_type type)
{
    return type == TC_M_F32 ? 4 : 2;
}

static size_t record_bytes(uint32_t group)
{
    return (size_t)(TC_Q4_SPAN_COLS / group) * TC_PANEL_ROWS * sizeof(float) + SPAN_TILES * TILE_BYTES;
}

size_t tc_matrix_bytes(tc_matrix_type type, uint32_t rows, uint32_t cols, uint32_t group)
{
    if (type == TC_M_Q4) return (size_t)tc_panels(rows) * (cols / TC_Q4_SPAN_COLS) * record_bytes(group);
    return (size_t)tc_panels(rows) * cols * TC_PANEL_ROWS * element_bytes(type);
}

tc_matrix_type tc_matrix_type_for(const tc_weight *w, uint32_t col0, uint32_t cols, uint32_t *ret_group)
{
    uint32_t group = w->block == 32 ? 32 : 64;
    *ret_group = 0;
    if (w->quantised && cols % TC_Q4_SPAN_COLS == 0 && col0 % TC_Q4_SPAN_COLS == 0 && w->cols % group == 0 &&
        w->block % group == 0) {
        *ret_group = group;
        return TC_M_Q4;
    }
    return w->dtype == TC_BF16 ? TC_M_BF16 : w->dtype == TC_F16 ? TC_M_F16 : TC_M_F32;
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

// One row's part of a panel; `lane` is its place. Rows of padding stay zero: scale 0.
static void pack_q4_row(const tc_weight *w, uint64_t first, uint32_t cols, uint32_t group, uint32_t lane,
                        uint8_t *panel)
{
    const uint8_t *codes =
        (const uint8_t *)w->data + first / 2; // first is even: cols of the weight % 32 == 0
    uint32_t groups = TC_Q4_SPAN_COLS / group;
    for (uint32_t c = 0; c < cols; c += TC_Q4_SPAN_COLS) {
        float *scales = (float *)panel;
        uint8_t *tiles = panel + (size_t)groups * TC_PANEL_ROWS * sizeof(float);
        for (uint32_t g = 0; g < groups; g++)
            scales[g * TC_PANEL_ROWS + lane] = w->absmax[(first + c + g * group) / w->block];
        for (uint32_t t = 0; t < SPAN_TILES; t++)
            interleave(codes + (c + t * TC_TILE_COLS) / 2, tiles + t * TILE_BYTES + lane * 4);
        panel += record_bytes(group);
    }
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
            size_t at = (size_t)c * TC_PANEL_ROWS + i;
            if (type == TC_M_F32)
                ((float *)panel)[at] = value;
            else
                ((uint16_t *)panel)[at] =
                    type == TC_M_BF16 ? tc_float_to_bf16(value) : tc_float_to_f16(value);
        }
    }
}

void tc_matrix_pack(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                    tc_matrix_type type, uint32_t group, void *data, tc_matrix *ret)
{
    size_t panel_bytes = tc_matrix_bytes(type, TC_PANEL_ROWS, cols, group);
    if (type == TC_M_Q4) memset(data, 0, tc_matrix_bytes(type, rows, cols, group)); // rows of padding
    for (uint32_t r = 0; r < rows; r += TC_PANEL_ROWS) {
        uint32_t count = rows - r < TC_PANEL_ROWS ? rows - r : TC_PANEL_ROWS;
        uint8_t *panel = (uint8_t *)data + (size_t)(r / TC_PANEL_ROWS) * panel_bytes;
        if (type != TC_M_Q4) pack_dense_panel(w, row0 + r, count, col0, cols, type, panel);
        for (uint32_t lane = 0; type == TC_M_Q4 && lane < count; lane++)
            pack_q4_row(w, (uint64_t)(row0 + r + lane) * w->cols + col0, cols, group, lane, panel);
    }
    *ret = (tc_matrix){
        .type = type, .rows = rows, .cols = cols, .group = group, .round = w->dtype, .data = data};
    if (type == TC_M_Q4) memcpy(ret->levels, w->levels, sizeof ret->levels);
}

static float q4_element(const tc_matrix *m, const uint8_t *panel, uint32_t lane, uint32_t col)
{
    const uint8_t *record = panel + (size_t)(col / TC_Q4_SPAN_COLS) * record_bytes(m->group);
    uint32_t in_span = col % TC_Q4_SPAN_COLS, in_tile = col % TC_TILE_COLS;
    const float *scales = (const float *)record;
    const uint8_t *tiles = record + (size_t)(TC_Q4_SPAN_COLS / m->group) * TC_PANEL_ROWS * sizeof(float);
    uint8_t byte = tiles[in_span / TC_TILE_COLS * TILE_BYTES + lane * 4 + in_tile % 4];
    uint8_t code = in_tile < 4 ? byte & 15 : byte >> 4;
    return tc_round_to(m->round, m->levels[code] * scales[in_span / m->group * TC_PANEL_ROWS + lane]);
}

float tc_matrix_element(const tc_matrix *m, uint32_t row, uint32_t col)
{
    size_t panel_bytes = tc_matrix_bytes(m->type, TC_PANEL_ROWS, m->cols, m->group);
    const uint8_t *panel = (const uint8_t *)m->data + (size_t)(row / TC_PANEL_ROWS) * panel_bytes;
    uint32_t lane = row % TC_PANEL_ROWS;
    size_t at = (size_t)col * TC_PANEL_ROWS + lane;
    switch (m->type) {
    case TC_M_Q4:
        return q4_element(m, panel, lane, col);
    case TC_M_BF16:
        return tc_bf16_to_float(((const uint16_t *)panel)[at]);
    case TC_M_F16:
        return tc_f16_to_float(((const uint16_t *)panel)[at]);
    default:
        return ((const float *)panel)[at];
    }
}

void tc_matrix_row(const tc_matrix *m, uint32_t row, float *y)
{
    size_t panel_bytes = tc_matrix_bytes(m->type, TC_PANEL_ROWS, m->cols, m->group);
    const void *panel = (const uint8_t *)m->data + (size_t)(row / TC_PANEL_ROWS) * panel_bytes;
    const uint16_t *half = (const uint16_t *)panel + row % TC_PANEL_ROWS;
    const float *whole = (const float *)panel + row % TC_PANEL_ROWS;
    for (uint32_t c = 0; c < m->cols; c++) {
        size_t at = (size_t)c * TC_PANEL_ROWS;
        y[c] = m->type == TC_M_BF16  ? tc_bf16_to_float(half[at])
               : m->type == TC_M_F16 ? tc_f16_to_float(half[at])
               : m->type == TC_M_F32 ? whole[at]
                                     : tc_matrix_element(m, row, c);
    }
}
