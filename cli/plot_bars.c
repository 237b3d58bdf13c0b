// SPDX-License-Identifier: Apache-2.0
// Owns: pictures with names down the side and one axis across: bars with their spread, dots where the axis is
// logarithmic, and sums of shares.
#include "cli/plot.h"

#include <math.h>
#include <string.h>

enum { BAR = 15, GAP = 12, BELOW = 42, NAME_WIDTH_MAX = 210, VALUE_WIDTH = 52, RIGHT = 16 };

// Names longer than the margin lose their end; the whole is in the tip of their bars and in the table.
static void name(FILE *f, const char *text, double x, double y)
{
    char cut[256];
    snprintf(cut, sizeof cut, "%s", text);
    size_t n = strlen(cut);
    bool whole = true;
    while (n > 3 && tc_text_width(cut, 12) > NAME_WIDTH_MAX) {
        do n--;
        while (n > 3 && ((unsigned char)cut[n] & 0xc0) == 0x80);
        cut[n] = 0;
        whole = false;
    }
    fprintf(f, "<text class=\"category\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", x, y);
    tc_xml(f, cut);
    fputs(whole ? "</text>\n" : "…</text>\n", f);
}

static double names_width(const char *const *names, uint32_t count)
{
    double widest = 40;
    for (uint32_t i = 0; i < count; i++) widest = fmax(widest, tc_text_width(names[i], 12));
    return ceil(fmin(widest, NAME_WIDTH_MAX + 8)) + 14;
}

static void frame(FILE *f, const tc_axis *x, double top, double bottom)
{
    char text[TC_NUMBER_BYTES];
    double room = 0;
    for (uint32_t i = 0; i < x->tick_count; i++) {
        double at = tc_axis_at(x, x->ticks[i]), half = tc_text_width(tc_axis_tick(x->ticks[i], text), 12) / 2;
        fprintf(f, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>", at, top, bottom);
        if (at - half < room) continue;
        fprintf(f, "<text class=\"tick x\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", at,
                bottom + 16, text);
        room = at + half + 6;
    }
    fprintf(f, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">", (x->from + x->to) / 2,
            bottom + 34);
    tc_xml(f, x->label);
    fputs(x->log ? " <tspan class=\"small\">(log)</tspan></text>\n" : "</text>\n", f);
}

static void bar(FILE *f, const tc_plot_bars *p, const tc_plot_cell *c, uint32_t look, double y)
{
    char text[TC_NUMBER_BYTES];
    double base = tc_axis_at(&p->x, p->dots ? p->x.min : fmax(0, p->x.min)), at = tc_axis_at(&p->x, c->value);
    double low = tc_axis_at(&p->x, c->low), high = tc_axis_at(&p->x, c->high), middle = y + BAR / 2.0;
    fprintf(f, "<g class=\"point c%u\"><title>", look % TC_PLOT_LOOKS);
    tc_xml(f, c->tip ? c->tip : "");
    fputs("</title>", f);
    if (!p->dots)
        fprintf(f,
                "<rect class=\"bar\" fill=\"url(#p%u)\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/>",
                look % TC_PLOT_LOOKS, fmin(base, at), y + 1, fmax(fabs(at - base), 0.5), BAR - 2);
    if (high - low > 0.3)
        fprintf(f, "<path class=\"range\" d=\"M%.1f %.1fv8m0 -4H%.1fm0 -4v8\"/>", low, middle - 4, high);
    if (p->dots) tc_plot_marker(f, look, at, middle);
    double end = fmax(at, high);
    if (isfinite(c->roof)) {
        double roof = tc_axis_at(&p->x, c->roof);
        fprintf(f, "<path class=\"rooftick\" d=\"M%.1f %.1fv%d\"/>", roof, y - 1, BAR + 2);
        if (roof > end - 2 && roof < end + VALUE_WIDTH) end = roof;
    }
    bool left = c->value < 0; // beside the bar's end
    fprintf(f, "<text class=\"inside value\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text></g>\n",
            left ? fmin(at, low) - 6 : end + 7, middle + 4, left ? "end" : "start",
            tc_number(c->value, text));
}

// Lines stand across all bars; their names have rows above them.
static void references(FILE *f, const tc_plot_bars *p, double top, double bottom)
{
    char value[TC_NUMBER_BYTES];
    for (uint32_t i = 0; i < p->line_count; i++) {
        double x = tc_axis_at(&p->x, p->lines[i].value), y = top - 6 - 15 * (p->line_count - 1 - i);
        bool left = x > (p->x.from + p->x.to) / 2;
        fprintf(f,
                "<g class=\"reference\"><path class=\"plan\" d=\"M%.1f %.1fV%.1f\"/><text class=\"inside\" "
                "x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
                x, y - 8, bottom, left ? x - 5 : x + 5, y, left ? "end" : "start");
        tc_xml(f, p->lines[i].label);
        fprintf(f, ": %s</text></g>\n", tc_axis_tick(p->lines[i].value, value));
    }
}

void tc_plot_bars_draw(FILE *f, tc_plot_bars *p)
{
    tc_legend_entry entries[64];
    uint32_t count = 0;
    bool roofs = false;
    if (p->series_count > 1)
        for (uint32_t i = 0; i < p->series_count && count < 63; i++)
            entries[count++] = (tc_legend_entry){p->series[i], i, p->dots ? TC_LEGEND_PLAIN : TC_LEGEND_BAR};
    for (uint32_t i = 0; i < p->category_count * p->series_count; i++)
        roofs = roofs || isfinite(p->cells[i].roof);
    if (roofs) entries[count++] = (tc_legend_entry){"roofline", 0, TC_LEGEND_ROOF_TICK};
    double top = tc_plot_legend(NULL, entries, count, 0) + 8 + 15 * p->line_count;
    double group = p->series_count * BAR + GAP, bottom = top + p->category_count * group;
    p->x.from = names_width(p->categories, p->category_count), p->x.to = TC_PLOT_WIDTH - RIGHT - VALUE_WIDTH;
    tc_plot_begin(f, bottom + BELOW, p->title);
    tc_plot_legend(f, entries, count, 0);
    frame(f, &p->x, top, bottom);
    references(f, p, top, bottom);
    for (uint32_t c = 0; c < p->category_count; c++) {
        double y = top + c * group + GAP / 2.0;
        name(f, p->categories[c], p->x.from - 8, y + p->series_count * BAR / 2.0 + 4);
        for (uint32_t s = 0; s < p->series_count; s++) {
            const tc_plot_cell *cell = &p->cells[(size_t)c * p->series_count + s];
            if (isfinite(cell->value)) bar(f, p, cell, s, y + s * BAR);
        }
    }
    if (!p->dots)
        fprintf(f, "<path class=\"axis\" d=\"M%.1f %.1fV%.1f\"/>\n", tc_axis_at(&p->x, fmax(0, p->x.min)),
                top, bottom);
    fputs("</svg>\n", f);
}

// ---- sums of shares ----

enum { STACK_BAR = 24 };

static void stack_row(FILE *f, const tc_plot_stack *p, uint32_t row, double y)
{
    char value[TC_NUMBER_BYTES], part[TC_NUMBER_BYTES];
    const double *v = p->values + (size_t)row * p->share_count;
    double sum = 0, all = 0;
    for (uint32_t i = 0; i < p->share_count; i++) all += isfinite(v[i]) ? v[i] : 0;
    for (uint32_t i = 0; i < p->share_count; i++) {
        if (!(v[i] > 0)) continue;
        double from = tc_axis_at(&p->x, sum), to = tc_axis_at(&p->x, sum + v[i]);
        fprintf(f, "<g class=\"point c%u\"><title>", i % TC_PLOT_LOOKS);
        tc_xml(f, p->categories[row]);
        fputs(", ", f);
        tc_xml(f, p->shares[i]);
        snprintf(part, sizeof part, "%.0f %%", 100 * v[i] / all);
        fprintf(f,
                ": %s (%s)</title><rect class=\"bar\" fill=\"url(#p%u)\" x=\"%.1f\" y=\"%.1f\" "
                "width=\"%.1f\" height=\"%d\"/>",
                tc_number(v[i], value), part, i % TC_PLOT_LOOKS, from, y, to - from, STACK_BAR);
        if (to - from > tc_text_width(part, 11) + 8)
            fprintf(f, "<text class=\"inside\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%s</text>",
                    (from + to) / 2, y + STACK_BAR / 2.0 + 4, part);
        fputs("</g>\n", f);
        sum += v[i];
    }
    fprintf(f, "<text class=\"inside value\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", tc_axis_at(&p->x, sum) + 7,
            y + STACK_BAR / 2.0 + 4, tc_number(sum, value));
}

void tc_plot_stack_draw(FILE *f, tc_plot_stack *p)
{
    tc_legend_entry entries[64];
    uint32_t count = 0;
    for (; count < p->share_count && count < 64; count++)
        entries[count] = (tc_legend_entry){p->shares[count], count, TC_LEGEND_BAR};
    double top = tc_plot_legend(NULL, entries, count, 0) + 8;
    double bottom = top + p->category_count * (STACK_BAR + GAP);
    p->x.from = names_width(p->categories, p->category_count), p->x.to = TC_PLOT_WIDTH - RIGHT - VALUE_WIDTH;
    tc_plot_begin(f, bottom + BELOW, p->title);
    tc_plot_legend(f, entries, count, 0);
    frame(f, &p->x, top, bottom);
    for (uint32_t i = 0; i < p->category_count; i++) {
        double y = top + i * (STACK_BAR + GAP) + GAP / 2.0;
        name(f, p->categories[i], p->x.from - 8, y + STACK_BAR / 2.0 + 4);
        stack_row(f, p, i, y);
    }
    fputs("</svg>\n", f);
}
