// SPDX-License-Identifier: Apache-2.0
// Owns: pictures as inline SVG on a stream: lines with their spread, bars, stacked bars, grids of cells.
// Series are told apart by colour, dash, marker and hatching, so that paper without colours is enough;
// colours are classes (c0, c1, ... and h0, h1, ... for cells) that cli/report.css defines for light, dark and
// print. Every text is escaped. Values come scaled to the unit that the axis names. Refuses: choosing what to
// show.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum {
    TC_PLOT_LOOKS = 8, // after which they repeat
    TC_PLOT_TICKS_MAX = 24,
    TC_PLOT_LINES_MAX = 8,
    TC_PLOT_WIDTH = 660,
    TC_NUMBER_BYTES = 32,
};

void tc_plot_patterns(FILE *f);         // an <svg> of the hatchings, once in a page that has bars
void tc_xml(FILE *f, const char *text); // escaped for content and for attributes in double quotes
// Four significant digits, never an exponent within 1e-6..1e9. ret is returned.
const char *tc_number(double value, char ret[TC_NUMBER_BYTES]);
double tc_text_width(const char *text, double size); // an estimate, in px

// ---- axes ----
typedef struct tc_axis {
    const char *label;
    double min, max, from, to; // values, and the px they lie at
    bool log, has_zero;        // has_zero: of a log axis: 0 has a place of its own before `min`
    double ticks[TC_PLOT_TICKS_MAX];
    uint32_t tick_count;
} tc_axis;

// Round bounds around min..max, and ticks. A log axis needs min > 0.
void tc_axis_fit(tc_axis *a, double min, double max, bool log);
double tc_axis_at(const tc_axis *a, double value);
const char *tc_axis_tick(double value, char ret[TC_NUMBER_BYTES]); // 20000 is "20k"

// ---- what is drawn ----
typedef struct tc_plot_mark {
    double x, y, low, high; // low = high = y: no spread
    const char *tip;        // may be NULL
} tc_plot_mark;

typedef enum tc_plot_kind {
    TC_PLOT_MEASURED, // line, markers, spread
    TC_PLOT_ROOF,     // what could be had at most: thin, no markers
    TC_PLOT_CURVE,    // a line of many points; marks with a tip get a marker
    TC_PLOT_STEPS,    // the same, each value held until the next
} tc_plot_kind;

typedef struct tc_plot_series {
    const char *name;
    const tc_plot_mark *marks; // x rises
    uint32_t count, look;
    tc_plot_kind kind;
    double planned; // NAN: none. A dashed line of its own across the plot
} tc_plot_series;

typedef struct tc_plot_line {
    const char *label;
    double value;
} tc_plot_line; // from the original plan, for example

typedef struct tc_plot {
    const char *title;
    tc_axis x, y; // fitted
    const tc_plot_series *series;
    uint32_t count;
    const tc_plot_line *lines; // across, at a value of y
    uint32_t line_count;
} tc_plot;
void tc_plot_lines(FILE *f, tc_plot *p);

// Bars lie: categories down, values across. A log axis has dots instead of bars.
typedef struct tc_plot_cell {
    double value, low, high, roof; // NAN: nothing
    const char *tip;
} tc_plot_cell;
typedef struct tc_plot_bars {
    const char *title;
    const char *const *categories, *const *series;
    uint32_t category_count, series_count;
    const tc_plot_cell *cells; // [category][series]
    tc_axis x;                 // fitted
    bool dots;
    const tc_plot_line *lines;
    uint32_t line_count;
} tc_plot_bars;
void tc_plot_bars_draw(FILE *f, tc_plot_bars *p);

// Each bar is a sum of shares; values [category][share], NAN: nothing.
typedef struct tc_plot_stack {
    const char *title;
    const char *const *categories, *const *shares;
    uint32_t category_count, share_count;
    const double *values;
    tc_axis x;
} tc_plot_stack;
void tc_plot_stack_draw(FILE *f, tc_plot_stack *p);

typedef struct tc_plot_heat {
    const char *title, *rows_name, *columns_name, *unit;
    uint32_t rows, columns;
    const float *cells;
    double factor; // of a cell, to be told in `unit`
} tc_plot_heat;
void tc_plot_heat_draw(FILE *f, const tc_plot_heat *p);

// ---- between the files plot*.c ----
typedef struct tc_legend_entry {
    const char *name;
    uint32_t look;
    enum { TC_LEGEND_LINE, TC_LEGEND_ROOF, TC_LEGEND_BAR, TC_LEGEND_ROOF_TICK, TC_LEGEND_PLAIN } kind;
} tc_legend_entry;
// Draws (f) or only measures (f NULL) rows of entries from `y` on; returns the y below them.
double tc_plot_legend(FILE *f, const tc_legend_entry *entries, uint32_t count, double y);
void tc_plot_begin(FILE *f, double height, const char *title);
void tc_plot_marker(FILE *f, uint32_t look, double x, double y);
