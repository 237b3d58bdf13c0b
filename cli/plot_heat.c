// SPDX-License-Identifier: Apache-2.0
// Owns: a grid of cells in twelve steps of lightness, with the key to them.
#include "cli/plot.h"

#include <math.h>

enum { STEPS = 12, LEFT = 46, TOP = 46, BELOW = 40, WIDTH = TC_PLOT_WIDTH - LEFT - 12 };

static int step_of(float value, float max)
{
    int step = max > 0 ? (int)(value / max * STEPS) : 0;
    return step < 0 ? 0 : step >= STEPS ? STEPS - 1 : step;
}

static void key(FILE *f, const tc_plot_heat *p, double max)
{
    char text[TC_NUMBER_BYTES];
    for (int i = 0; i < STEPS; i++)
        fprintf(f, "<rect class=\"h%d\" x=\"%d\" y=\"6\" width=\"18\" height=\"12\"/>", i,
                LEFT + 40 + i * 18);
    fprintf(f,
            "<text x=\"%d\" y=\"17\" text-anchor=\"end\">0</text><text class=\"most\" x=\"%d\" y=\"17\">%s ",
            LEFT + 34, LEFT + 46 + STEPS * 18, tc_number(max * p->factor, text));
    tc_xml(f, p->unit);
    fputs("</text>\n", f);
}

static uint32_t stride_of(uint32_t count, double each, double room)
{
    static const uint32_t strides[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384};
    for (unsigned i = 0; i < sizeof strides / sizeof *strides; i++)
        if (strides[i] * each >= room || strides[i] >= count) return strides[i];
    return count;
}

static void ticks(FILE *f, const tc_plot_heat *p, double wide, double high)
{
    uint32_t step = stride_of(p->rows, high, 13);
    for (uint32_t r = 0; r < p->rows; r += step)
        fprintf(f, "<text class=\"tick y\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%u</text>\n", LEFT - 6,
                TOP + (r + 0.5) * high + 4, r);
    step = stride_of(p->columns, wide, 34);
    for (uint32_t c = 0; c < p->columns; c += step)
        fprintf(f, "<text class=\"tick x\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%u</text>\n",
                LEFT + (c + 0.5) * wide, TOP + p->rows * high + 15, c);
    fprintf(f, "<text class=\"label\" x=\"2\" y=\"%d\">", TOP - 10);
    tc_xml(f, p->rows_name);
    fprintf(f, "</text><text class=\"label\" x=\"%d\" y=\"%.1f\" text-anchor=\"middle\">", LEFT + WIDTH / 2,
            TOP + p->rows * high + 33);
    tc_xml(f, p->columns_name);
    fputs("</text>\n", f);
}

// One path a step: runs of equal cells in a row are one rectangle.
static void cells(FILE *f, const tc_plot_heat *p, float max, double wide, double high)
{
    for (int step = 0; step < STEPS; step++) {
        fprintf(f, "<path class=\"h%d\" shape-rendering=\"crispEdges\" d=\"", step);
        for (uint32_t r = 0; r < p->rows; r++)
            for (uint32_t c = 0, n; c < p->columns; c += n ? n : 1) {
                const float *row = p->cells + (size_t)r * p->columns;
                for (n = 0; c + n < p->columns && step_of(row[c + n], max) == step;) n++;
                if (n)
                    fprintf(f, "M%.2f %.2fh%.2fv%.2fh-%.2fz", LEFT + c * wide, TOP + r * high, n * wide, high,
                            n * wide);
            }
        fputs("\"/>\n", f);
    }
}

void tc_plot_heat_draw(FILE *f, const tc_plot_heat *p)
{
    float max = 0;
    for (size_t i = 0; i < (size_t)p->rows * p->columns; i++) max = fmaxf(max, p->cells[i]);
    double wide = fmin((double)WIDTH / p->columns, 26);
    double high = p->rows > 64 ? fmax(2, 640.0 / p->rows) : p->rows > 24 ? 10 : 16;
    tc_plot_begin(f, TOP + p->rows * high + BELOW, p->title);
    key(f, p, max);
    cells(f, p, max, wide, high);
    ticks(f, p, wide, high);
    fputs("</svg>\n", f);
}
