// SPDX-License-Identifier: Apache-2.0
// Owns: writing one picture of cli/plot.h as a file of its own: the report's style goes into it.
#include "cli/svg.h"
#include "cli/plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern const unsigned char tc_embedded_report_css[]; // cli/report.css, by the build
extern const unsigned long tc_embedded_report_css_bytes;

// `picture` is one <svg> element; the style stands inside it.
static tc_status put(const char *path, const char *picture, size_t bytes, tc_error *e)
{
    const char *inside = strchr(picture, '>');
    size_t head = inside ? (size_t)(inside - picture) + 1 : 0;
    FILE *f = fopen(path, "we");
    if (!f) return tc_fail_errno(e, TC_IO, "%s", path);
    fwrite(picture, 1, head, f);
    fputs("\n<style>\n", f);
    fwrite(tc_embedded_report_css, 1, tc_embedded_report_css_bytes, f);
    fprintf(f, "svg { background: var(--ground); font-family: sans-serif; max-width: %dpx }\n</style>\n",
            2 * TC_PLOT_WIDTH);
    fwrite(picture + head, 1, bytes - head, f);
    bool bad = ferror(f);
    if (fclose(f) != 0 || bad) return tc_fail_errno(e, TC_IO, "%s", path);
    return TC_OK;
}

static tc_status drawn(const char *path, FILE *f, char **picture, size_t *bytes, tc_error *e)
{
    tc_status status =
        fclose(f) == 0 ? put(path, *picture, *bytes, e) : tc_fail(e, TC_NOMEM, "%s: out of memory", path);
    free(*picture);
    return status;
}

tc_status tc_svg_lines(const char *path, const char *title, const char *x_name, const double *x,
                       uint32_t points, const tc_svg_line *lines, uint32_t count, tc_error *e)
{
    char *picture = NULL;
    size_t bytes;
    tc_plot_mark *marks = calloc((size_t)count * points + 1, sizeof *marks);
    tc_plot_series series[TC_SVG_LINES_MAX];
    tc_plot p = {
        .title = title, .series = series, .count = count < TC_SVG_LINES_MAX ? count : TC_SVG_LINES_MAX};
    FILE *f = marks ? open_memstream(&picture, &bytes) : NULL;
    if (!f) {
        free(marks);
        return tc_fail(e, TC_NOMEM, "%s: out of memory", path);
    }
    for (uint32_t l = 0; l < p.count; l++) {
        tc_plot_mark *of = marks + (size_t)l * points;
        for (uint32_t i = 0; i < points; i++) {
            double y = 100 * lines[l].y[i];
            of[i] = (tc_plot_mark){x[i], y, y, y, lines[l].name};
        }
        series[l] = (tc_plot_series){lines[l].name, of, points, l, TC_PLOT_CURVE, NAN};
    }
    tc_axis_fit(&p.x, 0, x[points - 1], false);
    tc_axis_fit(&p.y, 0, 100, false);
    p.x.label = x_name, p.y.label = "%";
    tc_plot_lines(f, &p);
    free(marks);
    return drawn(path, f, &picture, &bytes, e);
}

tc_status tc_svg_heat(const char *path, const char *title, const char *row_name, const char *column_name,
                      uint32_t rows, uint32_t columns, const float *cells, tc_error *e)
{
    char *picture = NULL;
    size_t bytes;
    const tc_plot_heat p = {title, row_name, column_name, "", rows, columns, cells, 1};
    FILE *f = open_memstream(&picture, &bytes);
    if (!f) return tc_fail(e, TC_NOMEM, "%s: out of memory", path);
    tc_plot_heat_draw(f, &p);
    return drawn(path, f, &picture, &bytes, e);
}
