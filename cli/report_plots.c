// SPDX-License-Identifier: Apache-2.0
// Owns: which picture shows a group of records, and the values handed to it.
#include "cli/report_view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TIP_BYTES = 320, SERIES_MAX = 24, CATEGORIES_MAX = 128 };

// What one picture needs until it is drawn.
typedef struct canvas {
    const char *names[SERIES_MAX], *categories[CATEGORIES_MAX];
    char category_texts[CATEGORIES_MAX][TC_RESULTS_NAME_BYTES_MAX + 32];
    char roof_names[SERIES_MAX][TC_RESULTS_NAME_BYTES_MAX + 16];
    uint32_t name_count, category_count;
    tc_plot_series series[2 * SERIES_MAX];
    tc_plot_line lines[TC_PLOT_LINES_MAX];
    uint32_t line_count, series_count;
    tc_plot_mark *marks;
    char (*tips)[TIP_BYTES];
    uint32_t mark_count;
    char label[TC_RESULTS_NAME_BYTES_MAX + 32];
    double low, high, least; // of all values; the least that is above zero
    bool zero;
} canvas;

static void seen(canvas *c, double value)
{
    if (!isfinite(value)) return;
    c->low = fmin(c->low, value), c->high = fmax(c->high, value);
    if (value > 0)
        c->least = fmin(c->least, value);
    else
        c->zero = true;
}

static canvas *canvas_make(uint32_t marks)
{
    canvas *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->marks = calloc(2 * marks + 1, sizeof *c->marks);
    c->tips = calloc(marks + 1, sizeof *c->tips);
    c->low = c->least = INFINITY, c->high = -INFINITY;
    if (c->marks && c->tips) return c;
    free(c->marks), free(c->tips), free(c);
    return NULL;
}

static void canvas_free(canvas *c)
{
    free(c->marks), free(c->tips), free(c);
}

static uint32_t index_of(const char **list, uint32_t *count, uint32_t max, const char *name)
{
    uint32_t i = 0;
    while (i < *count && strcmp(list[i], name) != 0) i++;
    if (i == *count && i < max) list[(*count)++] = name;
    return i; // max: no room
}

// Reaches over the range that a linear axis can show.
static bool wants_log(const canvas *c)
{
    return !c->zero && c->least > 0 && isfinite(c->high) && c->high / c->least > 40;
}

static void fit_values(canvas *c, tc_axis *a, bool zoomed, bool zero_place)
{
    // Where an axis can have a place for 0, a few zeros do not keep it from being logarithmic.
    bool zeros = zero_place && c->zero && c->low == 0 && isfinite(c->least) && c->high / c->least > 100;
    bool log = wants_log(c) || zeros;
    a->has_zero = zeros;
    double room = zoomed ? (c->high - c->low) * 0.1 : 0;
    tc_axis_fit(a, log ? c->least : zoomed ? c->low - room : fmin(0, c->low), c->high + room, log);
}

static void add_lines(canvas *c, const tc_group *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        for (uint32_t l = 0; l < g->items[i]->label_count; l++) {
            tc_plot_line line = {g->items[i]->labels[l].label, g->items[i]->labels[l].value * g->factor};
            uint32_t at = 0;
            while (at < c->line_count &&
                   (c->lines[at].value != line.value || strcmp(c->lines[at].label, line.label) != 0))
                at++;
            if (at < c->line_count || at == TC_PLOT_LINES_MAX) continue;
            c->lines[c->line_count++] = line;
            seen(c, line.value);
        }
}

static const char *tip_of(canvas *c, const tc_group *g, const tc_result *item)
{
    char x[TC_RESULTS_NAME_BYTES_MAX + 32], median[TC_NUMBER_BYTES], low[TC_NUMBER_BYTES],
        high[TC_NUMBER_BYTES];
    char *tip = c->tips[c->mark_count];
    tc_x_text(g, item, x, sizeof x);
    int n = snprintf(tip, TIP_BYTES, "%.120s%s%.80s: %s %.40s", item->series, *item->series && *x ? ", " : "",
                     x, tc_number(item->median * g->factor, median), g->unit);
    if (item->value_count > 1 && n > 0 && n < TIP_BYTES)
        snprintf(tip + n, TIP_BYTES - (size_t)n, " (%s to %s in %u runs)",
                 tc_number(item->low * g->factor, low), tc_number(item->high * g->factor, high),
                 item->value_count);
    return tip;
}

// ---- points over a number ----

static int by_x(const void *a, const void *b)
{
    const tc_plot_mark *x = a, *y = b;
    return (x->x > y->x) - (x->x < y->x);
}

static tc_plot_series *add_series(canvas *c, const char *name, uint32_t look, tc_plot_kind kind)
{
    tc_plot_series *s = &c->series[c->series_count++];
    *s = (tc_plot_series){
        .name = name, .look = look, .kind = kind, .planned = NAN, .marks = &c->marks[c->mark_count]};
    return s;
}

static void measured(canvas *c, const tc_group *g, uint32_t look)
{
    tc_plot_series *s = add_series(c, *c->names[look] ? c->names[look] : "measured", look, TC_PLOT_MEASURED);
    uint32_t first = c->mark_count;
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        if (strcmp(item->series, c->names[look]) != 0) continue;
        const char *tip = tip_of(c, g, item);
        c->marks[c->mark_count++] = (tc_plot_mark){item->x * g->x_factor, item->median * g->factor,
                                                   item->low * g->factor, item->high * g->factor, tip};
        seen(c, item->low * g->factor), seen(c, item->high * g->factor);
        s->count++;
    }
    qsort(&c->marks[first], s->count, sizeof *c->marks, by_x);
}

static void roofs(canvas *c, const tc_group *g, uint32_t look, bool one)
{
    tc_plot_series *s = add_series(c, c->roof_names[look], one ? TC_PLOT_LOOKS - 1 : look, TC_PLOT_ROOF);
    uint32_t first = c->mark_count;
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        if (!isfinite(item->roofline) || (!one && strcmp(item->series, c->names[look]) != 0)) continue;
        double x = item->x * g->x_factor, y = item->roofline * g->factor;
        uint32_t had = first;
        while (had < c->mark_count && c->marks[had].x != x) had++;
        if (had < c->mark_count) continue;
        c->marks[c->mark_count++] = (tc_plot_mark){x, y, y, y, NULL};
        seen(c, y);
        s->count++;
    }
    snprintf(c->roof_names[look], sizeof c->roof_names[look],
             one || !*c->names[look] ? "roofline" : "roofline, %s", c->names[look]);
    if (s->count)
        qsort(&c->marks[first], s->count, sizeof *c->marks, by_x);
    else
        c->series_count--;
}

static uint32_t distinct_x(const tc_group *g, double x[TC_PLOT_TICKS_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        double v = g->items[i]->x * g->x_factor;
        uint32_t at = 0;
        while (at < count && x[at] != v) at++;
        if (at < count) continue;
        if (count == TC_PLOT_TICKS_MAX) return count + 1;
        x[count++] = v;
    }
    return count;
}

static int by_number(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Lengths and numbers of users double from one to the next: each stands at its own tick.
static void fit_x(tc_axis *a, const tc_group *g)
{
    double x[TC_PLOT_TICKS_MAX], min = INFINITY, max = 0, least = INFINITY;
    for (uint32_t i = 0; i < g->count; i++) {
        double v = g->items[i]->x * g->x_factor;
        min = fmin(min, v), max = fmax(max, v);
        if (v > 0) least = fmin(least, v);
    }
    uint32_t count = distinct_x(g, x);
    bool log = min >= 0 && least < max && max / least >= 8;
    tc_axis_fit(a, log ? least : fmin(min, 0), max, log);
    if (count > TC_PLOT_TICKS_MAX || (!log && count > 8)) return;
    qsort(x, count, sizeof *x, by_number);
    a->tick_count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (!log || x[i] > 0) a->ticks[a->tick_count++] = x[i];
    if (!log) return;
    a->has_zero = min == 0;
    double room = pow(max / least, 0.03); // the outermost points stand free of the frame
    a->min = a->has_zero ? least : least / room, a->max = max * room;
}

static void draw_points(FILE *f, canvas *c, const tc_group *g, const char *title)
{
    bool one = tc_rooflines_agree(g);
    tc_plot p = {.title = title, .series = c->series, .lines = c->lines};
    for (uint32_t i = 0; i < c->name_count; i++) measured(c, g, i);
    for (uint32_t i = 0; i < (one ? 1 : c->name_count); i++) roofs(c, g, i, one);
    add_lines(c, g);
    fit_x(&p.x, g);
    fit_values(c, &p.y, false, true);
    p.x.label = *g->x_unit ? g->x_unit : " ";
    p.y.label = g->unit;
    p.count = c->series_count, p.line_count = c->line_count;
    tc_plot_lines(f, &p);
}

// ---- bars ----

// Categories are the texts of x; without any, the series' names.
static void draw_bars(FILE *f, canvas *c, const tc_group *g, const char *title)
{
    bool by_x_text = tc_has_x(g);
    tc_plot_cell *cells = calloc(CATEGORIES_MAX * SERIES_MAX, sizeof *cells);
    if (!cells) return;
    tc_plot_bars p = {
        .title = title, .categories = c->categories, .series = c->names, .cells = cells, .lines = c->lines};
    p.series_count = by_x_text ? c->name_count : 1;
    for (uint32_t i = 0; i < CATEGORIES_MAX * SERIES_MAX; i++)
        cells[i] = (tc_plot_cell){NAN, NAN, NAN, NAN, NULL};
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char *text =
            c->category_texts[c->category_count < CATEGORIES_MAX ? c->category_count : CATEGORIES_MAX - 1];
        if (by_x_text)
            tc_x_text(g, item, text, sizeof *c->category_texts);
        else
            snprintf(text, sizeof *c->category_texts, "%s", *item->series ? item->series : g->figure);
        uint32_t at = index_of(c->categories, &c->category_count, CATEGORIES_MAX - 1, text), s = 0;
        if (by_x_text) s = index_of(c->names, &c->name_count, SERIES_MAX, item->series);
        if (at >= CATEGORIES_MAX - 1 || s >= p.series_count) continue;
        cells[at * p.series_count + s] =
            (tc_plot_cell){item->median * g->factor, item->low * g->factor, item->high * g->factor,
                           item->roofline * g->factor, tip_of(c, g, item)};
        c->mark_count++;
        seen(c, item->low * g->factor), seen(c, item->high * g->factor), seen(c, item->roofline * g->factor);
    }
    add_lines(c, g);
    bool zoomed = !strcmp(g->unit, "perplexity");
    fit_values(c, &p.x, zoomed, false);
    p.dots = p.x.log || zoomed;
    p.x.label = zoomed ? "perplexity (the axis does not begin at 0)" : g->unit;
    p.category_count = c->category_count, p.line_count = c->line_count;
    tc_plot_bars_draw(f, &p);
    free(cells);
}

static void draw_figure(FILE *f, canvas *c, const tc_group *g, const char *title)
{
    double x[TC_PLOT_TICKS_MAX];
    bool texts = !tc_has_x(g);
    for (uint32_t i = 0; i < g->count; i++) {
        texts = texts || *g->items[i]->x_text;
        index_of(c->names, &c->name_count, SERIES_MAX, g->items[i]->series);
    }
    if (texts || distinct_x(g, x) < 2)
        draw_bars(f, c, g, title);
    else
        draw_points(f, c, g, title);
}

// ---- the other kinds ----

static void draw_stack(FILE *f, canvas *c, const tc_group *g, const char *title)
{
    double *values = calloc(CATEGORIES_MAX * SERIES_MAX, sizeof *values);
    if (!values) return;
    for (uint32_t i = 0; i < g->count; i++)
        for (uint32_t l = 0; l < g->items[i]->label_count; l++)
            index_of(c->names, &c->name_count, SERIES_MAX, g->items[i]->labels[l].label);
    for (uint32_t i = 0; i < g->count && i < CATEGORIES_MAX; i++) {
        char x[TC_RESULTS_NAME_BYTES_MAX + 32];
        const tc_result *item = g->items[i];
        double sum = 0;
        tc_x_text(g, item, x, sizeof x);
        snprintf(c->category_texts[i], sizeof c->category_texts[i], "%.120s%s%.120s", item->series,
                 *item->series && *x ? ", " : "", x);
        c->categories[i] = c->category_texts[i];
        c->category_count++;
        for (uint32_t l = 0; l < item->label_count; l++) {
            uint32_t at = index_of(c->names, &c->name_count, SERIES_MAX, item->labels[l].label);
            if (at < SERIES_MAX) values[i * c->name_count + at] += item->labels[l].value * g->factor;
            sum += item->labels[l].value * g->factor;
        }
        seen(c, sum);
    }
    tc_plot_stack p = {.title = title,
                       .categories = c->categories,
                       .shares = c->names,
                       .category_count = c->category_count,
                       .share_count = c->name_count,
                       .values = values};
    tc_axis_fit(&p.x, 0, c->high, false);
    p.x.label = g->unit;
    tc_plot_stack_draw(f, &p);
    free(values);
}

static void distribution(canvas *c, const tc_group *g, const tc_result *item, uint32_t look)
{
    tc_plot_series *s = add_series(c, item->series, look, TC_PLOT_CURVE);
    uint32_t first = c->mark_count;
    double all = 0, sum = 0;
    for (uint32_t i = 0; i < item->pair_count; i++) all += item->pairs[i].y;
    for (uint32_t i = 0; i < item->pair_count && all > 0; i++) {
        sum += item->pairs[i].y;
        double x = item->pairs[i].x * g->factor, y = 100 * sum / all;
        if (x > 0) c->marks[c->mark_count++] = (tc_plot_mark){x, y, y, y, NULL};
    }
    for (uint32_t i = 0; i < item->label_count; i++) {
        double x = item->labels[i].value * g->factor, y = 100 * atof(item->labels[i].label);
        char value[TC_NUMBER_BYTES];
        char *tip = c->tips[c->mark_count];
        snprintf(tip, TIP_BYTES, "%.120s P%g: %s %.40s", item->series, y, tc_number(x, value), g->unit);
        if (x > 0) c->marks[c->mark_count++] = (tc_plot_mark){x, y, y, y, tip};
    }
    s->count = c->mark_count - first;
    qsort(&c->marks[first], s->count, sizeof *c->marks, by_x);
    for (uint32_t i = first; i < c->mark_count; i++) seen(c, c->marks[i].x);
}

static void draw_distribution(FILE *f, canvas *c, const tc_group *g, const char *title)
{
    tc_plot p = {.title = title, .series = c->series};
    for (uint32_t i = 0; i < g->count && i < SERIES_MAX; i++) distribution(c, g, g->items[i], i);
    if (!(c->high > 0)) return;
    tc_axis_fit(&p.x, c->least, c->high, c->high / c->least > 8);
    if (!p.x.log) tc_axis_fit(&p.x, 0, c->high, false);
    tc_axis_fit(&p.y, 0, 100, false);
    p.x.label = g->unit;
    p.y.label = "% at or below";
    p.count = c->series_count;
    tc_plot_lines(f, &p);
}

static void timeline(canvas *c, const tc_group *g, const tc_result *item, uint32_t look)
{
    char value[TC_NUMBER_BYTES];
    tc_plot_series *s = add_series(c, item->series, look, TC_PLOT_CURVE);
    uint32_t every = item->pair_count / 6 + 1;
    for (uint32_t i = 0; i < item->pair_count; i++) {
        double y = item->pairs[i].y * g->factor;
        char *tip = c->tips[c->mark_count];
        bool marked = (i + look * every / 5) % every == 0;
        snprintf(tip, TIP_BYTES, "%.120s, %.4g s: %s %.40s", item->series, item->pairs[i].x,
                 tc_number(y, value), g->unit);
        c->marks[c->mark_count++] = (tc_plot_mark){item->pairs[i].x, y, y, y, marked ? tip : NULL};
        seen(c, y);
        s->count++;
    }
    s->planned = item->planned * g->factor;
    seen(c, s->planned);
}

static void draw_timeline(FILE *f, canvas *c, const tc_group *g, const char *title)
{
    double until = 0;
    tc_plot p = {.title = title, .series = c->series};
    for (uint32_t i = 0; i < g->count && i < SERIES_MAX; i++) {
        timeline(c, g, g->items[i], i);
        until = fmax(until, g->items[i]->pairs[g->items[i]->pair_count - 1].x);
    }
    tc_axis_fit(&p.x, 0, until, false);
    fit_values(c, &p.y, false, true);
    p.x.label = "s";
    p.y.label = g->unit;
    p.count = c->series_count;
    tc_plot_lines(f, &p);
}

static void draw_matrix(FILE *f, const tc_group *g, const char *title)
{
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char name[TC_RESULTS_NAME_BYTES_MAX * 2 + 2], unit[TC_UNIT_BYTES];
        double factor;
        tc_unit_scale(item->unit, 1, &factor, unit);
        snprintf(name, sizeof name, "%s: %s", title, tc_map_name(item));
        fputs("<div class=\"map\"><p>", f), tc_xml(f, tc_map_name(item)), fputs("</p>\n", f);
        tc_plot_heat p = {name,       item->rows_name, item->columns_name, unit,
                          item->rows, item->columns,   item->cells,        factor};
        tc_plot_heat_draw(f, &p);
        fputs("</div>\n", f);
    }
}

bool tc_group_draw(FILE *f, const tc_group *g)
{
    char title[TC_RESULTS_NAME_BYTES_MAX + 1];
    uint32_t marks = 0;
    tc_title(g, title, sizeof title);
    if (g->kind == TC_RESULT_MATRIX) {
        draw_matrix(f, g, title);
        return true;
    }
    for (uint32_t i = 0; i < g->count; i++)
        marks +=
            1 + g->items[i]->pair_count + (g->kind == TC_RESULT_DISTRIBUTION ? g->items[i]->label_count : 0);
    canvas *c = canvas_make(marks);
    if (!c) return false;
    if (g->kind == TC_RESULT_FIGURE)
        draw_figure(f, c, g, title);
    else if (g->kind == TC_RESULT_STACK)
        draw_stack(f, c, g, title);
    else if (g->kind == TC_RESULT_DISTRIBUTION)
        draw_distribution(f, c, g, title);
    else
        draw_timeline(f, c, g, title);
    canvas_free(c);
    return true;
}
