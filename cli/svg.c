// SPDX-License-Identifier: Apache-2.0
// Owns: writing the pictures.
#include "cli/svg.h"

enum { WIDTH = 760, HEIGHT = 460, LEFT = 60, RIGHT = 150, TOP = 40, BOTTOM = 50 };

static const char *const colours[TC_SVG_LINES_MAX] = {"#1b6ca8", "#d1495b", "#edae49", "#00798c",
                                                      "#66418f", "#30638e", "#7f5539", "#2a9d8f",
                                                      "#9a031e", "#5f0f40", "#588157", "#343a40"};

static FILE *begin(const char *path, int width, int height, const char *title, tc_error *e)
{
    FILE *f = fopen(path, "we");
    if (!f) {
        tc_fail_errno(e, TC_IO, "%s", path);
        return NULL;
    }
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
            "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
            "<text x=\"%d\" y=\"22\" font-size=\"15\">%s</text>\n",
            width, height, LEFT, title);
    return f;
}

static tc_status end(FILE *f, const char *path, tc_error *e)
{
    fprintf(f, "</svg>\n");
    bool bad = ferror(f);
    if (fclose(f) != 0 || bad) return tc_fail_errno(e, TC_IO, "%s", path);
    return TC_OK;
}

static void axes(FILE *f, const char *x_name, const double *x, uint32_t points)
{
    const double w = WIDTH - LEFT - RIGHT, h = HEIGHT - TOP - BOTTOM, span = x[points - 1] - x[0];
    for (int i = 0; i <= 10; i++)
        fprintf(
            f,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">%d %%</text>\n",
            LEFT, WIDTH - RIGHT, TOP + h * (10 - i) / 10, TOP + h * (10 - i) / 10, LEFT - 6,
            TOP + h * (10 - i) / 10 + 4, i * 10);
    for (uint32_t i = 0; i < points; i++)
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>\n",
                LEFT + (span > 0 ? (x[i] - x[0]) / span : 0) * w, HEIGHT - BOTTOM + 18, x[i]);
    fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", LEFT + w / 2, HEIGHT - 10,
            x_name);
}

tc_status tc_svg_lines(const char *path, const char *title, const char *x_name, const double *x,
                       uint32_t points, const tc_svg_line *lines, uint32_t count, tc_error *e)
{
    const double w = WIDTH - LEFT - RIGHT, h = HEIGHT - TOP - BOTTOM, span = x[points - 1] - x[0];
    FILE *f = begin(path, WIDTH, HEIGHT, title, e);
    if (!f) return e->status;
    axes(f, x_name, x, points);
    for (uint32_t l = 0; l < count; l++) {
        fprintf(f, "<polyline fill=\"none\" stroke-width=\"2\" stroke=\"%s\" points=\"",
                colours[l % TC_SVG_LINES_MAX]);
        for (uint32_t i = 0; i < points; i++)
            fprintf(f, "%.1f,%.1f ", LEFT + (span > 0 ? (x[i] - x[0]) / span : 0) * w,
                    TOP + h * (1 - lines[l].y[i]));
        fprintf(f, "\"/>\n<text x=\"%d\" y=\"%u\" fill=\"%s\">%s</text>\n", WIDTH - RIGHT + 12,
                TOP + 16 + 18 * l, colours[l % TC_SVG_LINES_MAX], lines[l].name);
    }
    return end(f, path, e);
}

tc_status tc_svg_heat(const char *path, const char *title, const char *row_name, const char *column_name,
                      uint32_t rows, uint32_t columns, const float *cells, tc_error *e)
{
    uint32_t cell = columns > 1024 ? 1 : columns > 256 ? 2 : columns > 64 ? 5 : 14;
    uint32_t high = rows > 128 ? 5 : rows > 32 ? 9 : 18;
    FILE *f = begin(path, (int)(LEFT + columns * cell + 20), (int)(TOP + rows * high + BOTTOM), title, e);
    if (!f) return e->status;
    for (uint32_t r = 0; r < rows; r++) {
        fprintf(f, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\" font-size=\"%u\">%u</text>\n", LEFT - 4,
                TOP + (r + 1) * high - 2, high > 10 ? 11 : high, r);
        for (uint32_t c = 0; c < columns; c++) {
            float v = cells[(size_t)r * columns + c];
            int shade = (int)(v <= 0 ? 0 : v >= 1 ? 255 : 255 * v);
            if (!shade) continue;
            fprintf(f, "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" fill=\"rgb(%d,%d,%d)\"/>\n",
                    LEFT + c * cell, TOP + r * high, cell, high, 255 - shade, 255 - shade * 3 / 4,
                    255 - shade / 3);
        }
    }
    fprintf(f, "<text x=\"%d\" y=\"%u\">%s across, %s down; the darker, the more used</text>\n", LEFT,
            TOP + rows * high + 24, column_name, row_name);
    return end(f, path, e);
}
