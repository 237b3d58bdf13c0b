// SPDX-License-Identifier: Apache-2.0
// Owns: the packed matrix every kernel reads: its layout and how a checkpoint's weight becomes one.
// Refuses: arithmetic on it (common/kernels).
//
// Layout. A panel is 16 consecutive rows (the last one padded), one row a lane. A span is 64 columns.
//   TC_M_Q4: cols % 64 == 0. Scales first, then tiles; each part begins on a multiple of 64 bytes.
//     scales, nested_stride == 0: per panel, span and `group` columns (32 or 64): 16 float32, the absmax of
//     each row. scales, nested_stride > 0 (double-quantised as bitsandbytes stores it, group 64): a table
//         { float offset; u32 phase; float nested[] }, then per panel and span 16 codes, one byte each, and
//         absmax = map[code] * nested[((phase + row * nested_stride + span) >> 8)] + offset, rounded twice.
//       map is bitsandbytes' signed dynamic map (tc_nested_levels), nested_stride the blocks of a row of the
//       whole weight, of which this matrix may be a part. So a weight costs 4.13 bits.
//     tiles: per panel and span 8 tiles of 64 bytes: a tile is 16 little-endian u32, lane r holding 8 codes
//     of row r;
//       columns c..c+3 are the low nibbles of bytes 0..3, columns c+4..c+7 the high nibbles. So one 64-byte
//       load gives 128 weights; `w >> s` for s = 0,8,16,24,4,12,20,28 brings columns c..c+7 into the low
//       nibble (float look-up), (w & 0x0f0f0f0f) and (w >> 4 & 0x0f0f0f0f) are two rows of a VNNI operand: 4
//       columns of 16 rows each.
//   TC_M_Q8: cols % 64 == 0. Scales: per panel and span 16 float32. Tiles: per panel and span 16 tiles of 64
//   bytes,
//       lane r holding int8 columns c..c+3 of row r. value = code * scale, codes in [-127, 127].
//   TC_M_BF16: per panel, per two columns, 32 elements: lane r holds columns c and c+1 (an odd last one is
//   padded with 0). TC_M_F16, TC_M_F32: per panel, per column, 16 elements, one a lane. Any cols.
#pragma once

#include "common/base/status.h"
#include "common/model/checkpoint.h"
#include <stdint.h>

enum { TC_PANEL_ROWS = 16, TC_TILE_COLS = 8, TC_SPAN_COLS = 64, TC_NESTED_SHIFT = 8 };

typedef enum tc_matrix_type { TC_M_Q4, TC_M_Q8, TC_M_BF16, TC_M_F16, TC_M_F32, TC_M_TYPES } tc_matrix_type;

// What a part of a weight is packed as.
typedef struct tc_matrix_form {
    tc_matrix_type type;
    uint32_t group;         // Q4: columns a scale covers, 32 or 64; Q8: 64; else 0
    uint32_t nested_stride; // Q4: blocks of a row of the whole weight; 0: float32 scales
} tc_matrix_form;

// A view: whoever made `data` owns it. `data` is 64-byte aligned.
typedef struct tc_matrix {
    tc_matrix_form form;
    uint32_t rows, cols;
    tc_dtype round;   // Q4: dtype that each dequantised weight is rounded to in TC_EXACT
    float levels[16]; // Q4: the code book
    int8_t
        fast[16]; // Q4: the code book of TC_FAST, each in [-127, 127]: levels[i] is about fast[i] * fast_step
    float fast_step;
    bool unrounded;      // TC_FAST leaves its activations in float32 where it would round them to bfloat16
    float nested_offset; // of the nested table and below 256 its phase, for those who cannot look into `data`
    uint32_t nested_phase; // (set where a device keeps it)
    const void *data;
} tc_matrix;

static inline uint32_t tc_panels(uint32_t rows)
{
    return (rows + TC_PANEL_ROWS - 1) / TC_PANEL_ROWS;
}
size_t tc_matrix_bytes(const tc_matrix_form *form, uint32_t rows, uint32_t cols);

// Form that columns [col0, col0+cols) of a weight can keep without losing a bit: Q4 where its blocks fall on
// whole 32- or 64-column groups of each row, else the dtype it dequantises to. A `coarse` weight is rounded
// to float16 instead, an `eight` one to Q8 where cols % 64 == 0.
tc_matrix_form tc_matrix_form_for(const tc_weight *weight, uint32_t col0, uint32_t cols);

// Packs rows [row0, row0+rows) x columns [col0, col0+cols) of a weight into `data` (tc_matrix_bytes, 64-byte
// aligned, owner stays the caller) and fills *ret. `form` must be tc_matrix_form_for's, or TC_M_F32, or
// TC_M_Q8 (rounded to 8 bits; cols % 64 == 0).
void tc_matrix_pack(const tc_weight *weight, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                    const tc_matrix_form *form, void *data, tc_matrix *ret);

// Sets fast and fast_step from levels: of the steps 1/100 .. 1/127 of the largest level the one with the
// least error.
void tc_matrix_set_fast(tc_matrix *matrix);

// Element [row, col] as TC_EXACT sees it. For tests.
float tc_matrix_element(const tc_matrix *matrix, uint32_t row, uint32_t col);
// Elements [0, cols) of one row, as TC_EXACT sees them: embedding rows.
void tc_matrix_row(const tc_matrix *matrix, uint32_t row, float *ret);

// ---- where things lie in `data` ----

typedef struct tc_nested_table {
    float offset;
    uint32_t phase; // below 256: block number of the first element, modulo 256
    float nested[];
} tc_nested_table;

// Offset of the Q4 or Q8 codes of scales, and of the tiles.
size_t tc_matrix_codes_at(const tc_matrix_form *form, uint32_t rows, uint32_t cols);
size_t tc_matrix_tiles_at(const tc_matrix_form *form, uint32_t rows, uint32_t cols);
