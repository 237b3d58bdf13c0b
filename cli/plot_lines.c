// SPDX-License-Identifier: Apache-2.0
// Owns: pictures with two axes: measured points with their spread, curves, steps, and the lines they are held
// against.
#include "cli/plot.h"

#include <math.h>

enum { PLOT_HEIGHT = 270, ABOVE = 26, BELOW = 44, RIGHT = 14 };

static double left_margin(const tc_axis *y)
{
    char text[TC_NUMBER_BYTES];
    double widest = 0;
    for (uint32_t i = 0; i < y->tick_count; i++)
        widest = fmax(widest, tc_text_width(tc_axis_tick(y->ticks[i], text), 12));
    return ceil(widest) + 14;
}

static void tick_x(FILE *f, const tc_plot *p, double value, double *ret_free)
{
    char text[TC_NUMBER_BYTES];
    double x = tc_axis_at(&p->x, value), half = tc_text_width(tc_axis_tick(value, text), 12) / 2;
    fprintf(f, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>", x, p->y.to, p->y.from);
    if (x - half < *ret_free) return; // no room for another text
    fprintf(f, "<text class=\"tick x\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", x,
            p->y.from + 17, text);
    *ret_free = x + half + 6;
}

static void tick_y(FILE *f, const tc_plot *p, double value)
{
    char text[TC_NUMBER_BYTES];
    double y = tc_axis_at(&p->y, value);
    fprintf(f,
            "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text class=\"tick y\" x=\"%.1f\" y=\"%.1f\" "
            "text-anchor=\"end\">%s</text>\n",
            p->x.from, y, p->x.to, p->x.from - 7, y + 4, tc_axis_tick(value, text));
}

static void frame(FILE *f, const tc_plot *p)
{
    double room = 0;
    for (uint32_t i = 0; i < p->y.tick_count; i++) tick_y(f, p, p->y.ticks[i]);
    if (p->y.has_zero) {
        double y = p->y.from + (p->y.to - p->y.from) * 0.06;
        tick_y(f, p, 0);
        fprintf(f, "<path class=\"axis\" d=\"M%.1f %.1fl10 -6m-10 9l10 -6\"/>", p->x.from - 5, y + 4);
    }
    if (p->x.has_zero) tick_x(f, p, 0, &room);
    for (uint32_t i = 0; i < p->x.tick_count; i++) tick_x(f, p, p->x.ticks[i], &room);
    fprintf(f, "<path class=\"axis\" fill=\"none\" d=\"M%.1f %.1fH%.1f\"/>", p->x.from, p->y.from, p->x.to);
    if (p->x.has_zero) { // the axis is broken between 0 and its first value
        double x = p->x.from + (p->x.to - p->x.from) * 0.06;
        fprintf(f, "<path class=\"axis\" d=\"M%.1f %.1fl6 -10m3 0l-6 10\"/>", x - 4, p->y.from + 5);
    }
    fprintf(f, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
            (p->x.from + p->x.to) / 2, p->y.from + 36);
    tc_xml(f, p->x.label);
    fputs(p->x.log ? " <tspan class=\"small\">(log)</tspan></text>" : "</text>", f);
    fprintf(f, "<text class=\"label\" x=\"2\" y=\"%.1f\">", p->y.to - 12);
    tc_xml(f, p->y.label);
    fputs(p->y.log ? " <tspan class=\"small\">(log)</tspan></text>\n" : "</text>\n", f);
}

static void path(FILE *f, const tc_plot *p, const tc_plot_series *s, const char *class)
{
    fprintf(f, "<path class=\"%s\" d=\"", class);
    for (uint32_t i = 0; i < s->count; i++) {
        double x = tc_axis_at(&p->x, s->marks[i].x), y = tc_axis_at(&p->y, s->marks[i].y);
        if (i && s->kind == TC_PLOT_STEPS) fprintf(f, "H%.1f", x);
        fprintf(f, "%s%.1f %.1f", i ? "L" : "M", x, y);
    }
    fputs("\"/>\n", f);
}

static void band(FILE *f, const tc_plot *p, const tc_plot_series *s)
{
    if (s->count < 2) return;
    fputs("<path class=\"band\" d=\"", f);
    for (uint32_t i = 0; i < s->count; i++)
        fprintf(f, "%s%.1f %.1f", i ? "L" : "M", tc_axis_at(&p->x, s->marks[i].x),
                tc_axis_at(&p->y, s->marks[i].high));
    for (uint32_t i = s->count; i-- > 0;)
        fprintf(f, "L%.1f %.1f", tc_axis_at(&p->x, s->marks[i].x), tc_axis_at(&p->y, s->marks[i].low));
    fputs("z\"/>\n", f);
}

static void marks(FILE *f, const tc_plot *p, const tc_plot_series *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        const tc_plot_mark *m = &s->marks[i];
        if (!m->tip) continue;
        double x = tc_axis_at(&p->x, m->x), low = tc_axis_at(&p->y, m->low),
               high = tc_axis_at(&p->y, m->high);
        fputs("<g class=\"point\"><title>", f);
        tc_xml(f, m->tip);
        fputs("</title>", f);
        if (fabs(low - high) > 0.3)
            fprintf(f, "<path class=\"whisker\" d=\"M%.1f %.1fh6m-3 0V%.1fm-3 0h6\"/>", x - 3, low, high);
        tc_plot_marker(f, s->look, x, tc_axis_at(&p->y, m->y));
        fputs("</g>\n", f);
    }
}

// How near the points of a third of the picture come to a height, in px.
static double nearest(const tc_plot *p, double y, bool right)
{
    double near = 1e9, third = (p->x.to - p->x.from) / 3;
    for (uint32_t s = 0; s < p->count; s++)
        for (uint32_t i = 0; i < p->series[s].count; i++) {
            double x = tc_axis_at(&p->x, p->series[s].marks[i].x);
            if (right ? x < p->x.to - third : x > p->x.from + third) continue;
            near = fmin(near, fabs(tc_axis_at(&p->y, p->series[s].marks[i].y) - y));
        }
    return near;
}

// Lines across, named on the side that has more room.
static void across(FILE *f, const tc_plot *p)
{
    char value[TC_NUMBER_BYTES];
    for (uint32_t i = 0; i < p->line_count; i++) {
        double y = tc_axis_at(&p->y, p->lines[i].value);
        bool right = nearest(p, y - 8, true) >= nearest(p, y - 8, false);
        fprintf(
            f,
            "<g class=\"reference\"><path class=\"plan\" d=\"M%.1f %.1fH%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
            "text-anchor=\"%s\" class=\"inside\">",
            p->x.from, y, p->x.to, right ? p->x.to - 4 : p->x.from + 4, y - 4, right ? "end" : "start");
        tc_xml(f, p->lines[i].label);
        fprintf(f, ": %s</text></g>\n", tc_axis_tick(p->lines[i].value, value));
    }
}

static void series(FILE *f, const tc_plot *p, const tc_plot_series *s)
{
    fprintf(f, "<g class=\"series c%u\" data-series=\"", s->look % TC_PLOT_LOOKS);
    tc_xml(f, s->name);
    fputs("\">\n", f);
    if (isfinite(s->planned)) {
        double y = tc_axis_at(&p->y, s->planned);
        fprintf(f, "<path class=\"planned\" d=\"M%.1f %.1fH%.1f\"/>\n", p->x.from, y, p->x.to);
    }
    if (s->kind == TC_PLOT_MEASURED) band(f, p, s);
    path(f, p, s, s->kind == TC_PLOT_ROOF ? "roof" : "line");
    marks(f, p, s);
    fputs("</g>\n", f);
}

void tc_plot_lines(FILE *f, tc_plot *p)
{
    tc_legend_entry entries[64];
    uint32_t count = 0;
    for (uint32_t i = 0; i < p->count && count < 64; i++)
        if (*p->series[i].name)
            entries[count++] =
                (tc_legend_entry){p->series[i].name, p->series[i].look,
                                  p->series[i].kind == TC_PLOT_ROOF ? TC_LEGEND_ROOF : TC_LEGEND_LINE};
    double top = tc_plot_legend(NULL, entries, count, 0) + ABOVE;
    p->x.from = left_margin(&p->y), p->x.to = TC_PLOT_WIDTH - RIGHT;
    p->y.from = top + PLOT_HEIGHT, p->y.to = top;
    tc_plot_begin(f, top + PLOT_HEIGHT + BELOW, p->title);
    tc_plot_legend(f, entries, count, 0);
    frame(f, p);
    for (uint32_t i = 0; i < p->count; i++)
        if (p->series[i].kind == TC_PLOT_ROOF) series(f, p, &p->series[i]);
    for (uint32_t i = 0; i < p->count; i++)
        if (p->series[i].kind != TC_PLOT_ROOF) series(f, p, &p->series[i]);
    across(f, p);
    fputs("</svg>\n", f);
}
