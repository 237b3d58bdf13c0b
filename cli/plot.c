// SPDX-License-Identifier: Apache-2.0
// Owns: what all pictures share: colours, hatchings, markers, legends, numbers, axes.
#include "cli/plot.h"

#include <math.h>
#include <string.h>

// ---- text ----

void tc_xml(FILE *f, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        switch (*p) {
        case '&':
            fputs("&amp;", f);
            break;
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '"':
            fputs("&quot;", f);
            break;
        case '\'':
            fputs("&#39;", f);
            break;
        default: // XML has no place for control characters
            if (*p < 32 || *p == 127)
                fputc(' ', f);
            else
                fputc(*p, f);
        }
    }
}

const char *tc_number(double value, char ret[TC_NUMBER_BYTES])
{
    double size = fabs(value);
    if (size == 0) return strcpy(ret, "0");
    if (!(size >= 1e-6 && size < 1e9)) {
        snprintf(ret, TC_NUMBER_BYTES, "%.4g", value);
        return ret;
    }
    int whole = (int)floor(log10(size)) + 1; // digits before the point
    if (size * pow(10, 4 - whole) >= 9999.5) whole++;
    snprintf(ret, TC_NUMBER_BYTES, "%.*f", whole < 4 ? 4 - whole : 0, value);
    return ret;
}

double tc_text_width(const char *text, double size)
{
    double units = 0;
    for (; *text; text++)
        if (((unsigned char)*text & 0xc0) != 0x80) units += strchr("il.,:;|'!()[]jtfr ", *text) ? 0.36 : 0.63;
    return units * size;
}

// ---- looks ----

void tc_plot_patterns(FILE *f)
{
    static const char *const hatch[TC_PLOT_LOOKS] = {"",
                                                     "M-1 1L1 -1M0 8L8 0M7 9L9 7",
                                                     "M0 2H8M0 6H8",
                                                     "M-1 7L1 9M0 0L8 8M7 -1L9 1",
                                                     "M2 0V8M6 0V8",
                                                     "M0 4H8M4 0V8",
                                                     "M0 8L8 0M0 0L8 8",
                                                     "M1.5 2h1.6M5.5 6h1.6"};
    fputs("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"0\" height=\"0\" class=\"patterns\" "
          "aria-hidden=\"true\"><defs>\n",
          f);
    for (int i = 0; i < TC_PLOT_LOOKS; i++)
        fprintf(f,
                "<pattern id=\"p%d\" class=\"c%d\" width=\"8\" height=\"8\" "
                "patternUnits=\"userSpaceOnUse\"><rect "
                "width=\"8\" height=\"8\"/><path d=\"%s\"/></pattern>\n",
                i, i, hatch[i]);
    fputs("</defs></svg>\n", f);
}

void tc_plot_marker(FILE *f, uint32_t look, double x, double y)
{
    static const struct {
        const char *class, *path;
    } shapes[TC_PLOT_LOOKS] = {
        {"mark", "m-4.2 0a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z"},
        {"mark", "m-3.8 -3.8h7.6v7.6h-7.6z"},
        {"mark", "m0 -5l4.8 8.2h-9.6z"},
        {"mark", "m0 -5.2l5.2 5.2l-5.2 5.2l-5.2 -5.2z"},
        {"hollow", "m-3.8 0a3.8 3.8 0 1 0 7.6 0a3.8 3.8 0 1 0 -7.6 0z"},
        {"mark", "m0 5l4.8 -8.2h-9.6z"},
        {"cross", "m-4 -4l8 8m0 -8l-8 8"},
        {"cross", "m-4.8 0h9.6m-4.8 -4.8v9.6"},
    };
    look %= TC_PLOT_LOOKS;
    fprintf(f, "<path class=\"%s\" d=\"M%.1f %.1f%s\"/>", shapes[look].class, x, y, shapes[look].path);
}

void tc_plot_begin(FILE *f, double height, const char *title)
{
    fprintf(f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 %d %.0f\" role=\"img\" "
            "aria-label=\"",
            TC_PLOT_WIDTH, height);
    tc_xml(f, title);
    fputs("\">\n", f);
}

// ---- legends ----

static void sample(FILE *f, const tc_legend_entry *e, double x, double y)
{
    fprintf(f, "<g class=\"c%u legend\">", e->look % TC_PLOT_LOOKS);
    if (e->kind == TC_LEGEND_BAR)
        fprintf(f,
                "<rect class=\"bar\" fill=\"url(#p%u)\" x=\"%.1f\" y=\"%.1f\" width=\"22\" height=\"11\"/>",
                e->look % TC_PLOT_LOOKS, x, y - 10);
    else if (e->kind == TC_LEGEND_ROOF_TICK)
        fprintf(f, "<path class=\"rooftick\" d=\"M%.1f %.1fv12\"/>", x + 11, y - 10);
    else if (e->kind == TC_LEGEND_PLAIN)
        tc_plot_marker(f, e->look, x + 13, y - 4);
    else
        fprintf(f, "<path class=\"%s\" d=\"M%.1f %.1fh26\"/>", e->kind == TC_LEGEND_ROOF ? "roof" : "line", x,
                y - 4);
    if (e->kind == TC_LEGEND_LINE) tc_plot_marker(f, e->look, x + 13, y - 4);
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\">", x + 32, y);
    tc_xml(f, e->name);
    fputs("</text></g>\n", f);
}

double tc_plot_legend(FILE *f, const tc_legend_entry *entries, uint32_t count, double y)
{
    double x = 8;
    if (!count) return y;
    y += 14;
    for (uint32_t i = 0; i < count; i++) {
        double width = 32 + tc_text_width(entries[i].name, 12) + 18;
        if (i && x + width > TC_PLOT_WIDTH) x = 8, y += 19;
        if (f) sample(f, &entries[i], x, y);
        x += width;
    }
    return y + 8;
}

// ---- axes ----

const char *tc_axis_tick(double value, char ret[TC_NUMBER_BYTES])
{
    static const struct {
        double size;
        const char *suffix;
    } steps[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e4, "k"}};
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++)
        if (fabs(value) >= steps[i].size && fmod(value, steps[i].size / (i == 3 ? 10 : 1000)) == 0) {
            snprintf(ret, TC_NUMBER_BYTES, "%.6g%s", value / (i == 3 ? 1e3 : steps[i].size), steps[i].suffix);
            return ret;
        }
    snprintf(ret, TC_NUMBER_BYTES, value == rint(value) && fabs(value) < 1e9 ? "%.0f" : "%.4g", value);
    char *zero = strstr(ret, "e-0");
    if (zero) memmove(zero + 2, zero + 3, strlen(zero + 3) + 1); // 1e-5
    return ret;
}

static double nice_step(double rough)
{
    double size = pow(10, floor(log10(rough))), part = rough / size;
    return size * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

static void fit_linear(tc_axis *a, double min, double max)
{
    if (!(max > min)) max = min + (min != 0 ? fabs(min) : 1);
    double step = nice_step((max - min) / 5);
    double first = floor(min / step + 1e-9), last = ceil(max / step - 1e-9);
    a->min = first * step, a->max = last * step;
    for (double i = first; i <= last && a->tick_count < TC_PLOT_TICKS_MAX; i++)
        a->ticks[a->tick_count++] = i * step;
}

static void fit_log(tc_axis *a, double min, double max)
{
    static const double steps[] = {1, 2, 5};
    double lo = floor(log10(min) + 1e-9), hi = ceil(log10(max) - 1e-9);
    if (hi <= lo) hi = lo + 1;
    double stride = ceil((hi - lo) / 10);
    a->min = pow(10, lo), a->max = pow(10, hi);
    if (hi - lo <= 3) { // bounds as near as 1, 2, 5 allow
        for (int i = 1; i < 3; i++)
            if (steps[i] * pow(10, lo) <= min * 1.0001) a->min = steps[i] * pow(10, lo);
        for (int i = 2; i > 0; i--)
            if (steps[i] * pow(10, hi - 1) >= max * 0.9999) a->max = steps[i] * pow(10, hi - 1);
        if (!(a->max > a->min)) a->max = a->min * 2;
    }
    for (double d = lo; d <= hi; d += stride)
        for (int i = 0; i < (hi - lo <= 3 ? 3 : 1); i++) {
            double v = steps[i] * pow(10, d);
            if (v >= a->min * 0.9999 && v <= a->max * 1.0001 && a->tick_count < TC_PLOT_TICKS_MAX)
                a->ticks[a->tick_count++] = v;
        }
}

void tc_axis_fit(tc_axis *a, double min, double max, bool log)
{
    a->log = log;
    a->tick_count = 0;
    if (log)
        fit_log(a, min, max);
    else
        fit_linear(a, min, max);
}

double tc_axis_at(const tc_axis *a, double value)
{
    double from = a->from, share;
    if (a->has_zero) {
        from += (a->to - a->from) * 0.12;
        if (value <= 0) return a->from;
    }
    if (a->log)
        share = log(fmax(value, 1e-300) / a->min) / log(a->max / a->min);
    else
        share = (value - a->min) / (a->max - a->min);
    return from + fmin(fmax(share, -0.02), 1.02) * (a->to - from);
}
