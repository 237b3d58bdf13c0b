// SPDX-License-Identifier: Apache-2.0
// Owns: the packed matrix every kernel reads: its layout and how a checkpoint's weight becomes one.
// Refuses: arithmetic on it (common/kernels).
//
// Layout. A panel is 16 consecutive rows (the last one padded with zero rows), one row a lane.
//   TC_M_Q4: cols % 64 == 0. Per panel, per 64 columns, one record:
//       64/group scale rows of 16 float32 (absmax of each row for `group` columns, group = 32 or 64), then
//       8 tiles of 64 bytes: a tile is 16 little-endian u32, lane r holding 8 codes of row r; columns c..c+3
//       are the low nibbles of bytes 0..3, columns c+4..c+7 the high nibbles.
//     So one 64-byte load gives 128 weights; `w >> s` for s = 0,8,16,24,4,12,20,28 brings columns c..c+7 into
//     the low nibble (float look-up), and (w & 0x0f0f0f0f), (w >> 4 & 0x0f0f0f0f) give 4 int8 codes a lane.
//   TC_M_BF16, TC_M_F16, TC_M_F32: per panel, per column, 16 elements, one a lane. Any cols.
#pragma once

#include "common/base/status.h"
#include "common/model/checkpoint.h"
#include <stdint.h>

enum { TC_PANEL_ROWS = 16, TC_TILE_COLS = 8, TC_Q4_SPAN_COLS = 64 };

typedef enum tc_matrix_type { TC_M_Q4, TC_M_BF16, TC_M_F16, TC_M_F32, TC_M_TYPES } tc_matrix_type;

// A view: whoever made `data` owns it. `data` is 64-byte aligned.
typedef struct tc_matrix {
    tc_matrix_type type;
    uint32_t rows, cols;
    uint32_t group;   // Q4: columns a scale covers, 32 or 64
    tc_dtype round;   // Q4: dtype that each dequantised weight is rounded to in TC_EXACT
    float levels[16]; // Q4: the code book
    const void *data;
} tc_matrix;

static inline uint32_t tc_panels(uint32_t rows)
{
    return (rows + TC_PANEL_ROWS - 1) / TC_PANEL_ROWS;
}
size_t tc_matrix_bytes(tc_matrix_type type, uint32_t rows, uint32_t cols, uint32_t group);

// Type that rows [row0, row0+rows) x columns [col0, col0+cols) of a weight can keep without losing a bit: Q4
// where its blocks fall on whole 32- or 64-column groups of each row, else the dtype it dequantises to.
tc_matrix_type tc_matrix_type_for(const tc_weight *weight, uint32_t col0, uint32_t cols, uint32_t *ret_group);

// Packs that part of a weight as `type` into `data` (tc_matrix_bytes, 64-byte aligned, owner stays the
// caller) and fills *ret. `type` must be tc_matrix_type_for's or TC_M_F32.
void tc_matrix_pack(const tc_weight *weight, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                    tc_matrix_type type, uint32_t group, void *data, tc_matrix *ret);

// Element [row, col] as TC_EXACT sees it.
float tc_matrix_element(const tc_matrix *matrix, uint32_t row, uint32_t col);
// Row `row`, all of it, into y [cols]: what tc_matrix_element gives for each column.
void tc_matrix_row(const tc_matrix *matrix, uint32_t row, float *y);
