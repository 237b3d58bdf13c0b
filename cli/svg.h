// SPDX-License-Identifier: Apache-2.0
// Owns: two kinds of pictures of cli/plot.h as files of their own: shares over a common axis, and a grid of
// cells. Plain XML that every browser shows, light and dark. Refuses: interaction, fonts of its own.
#pragma once

#include "common/base/status.h"
#include <stdint.h>
#include <stdio.h>

enum { TC_SVG_LINES_MAX = 12, TC_SVG_POINTS_MAX = 64 };

typedef struct tc_svg_line {
    const char *name;
    double y[TC_SVG_POINTS_MAX]; // 0..1
} tc_svg_line;

// Shares (0..1, told in percent) over `x`, which rises.
tc_status tc_svg_lines(const char *path, const char *title, const char *x_name, const double *x,
                       uint32_t points, const tc_svg_line *lines, uint32_t count, tc_error *e);
// rows x columns cells from 0 (light) to 1 (dark).
tc_status tc_svg_heat(const char *path, const char *title, const char *row_name, const char *column_name,
                      uint32_t rows, uint32_t columns, const float *cells, tc_error *e);
