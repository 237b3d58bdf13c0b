// SPDX-License-Identifier: Apache-2.0
// Owns: the figures of a group as rows of text, the same for both pages.
#include "cli/report_view.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CELL_BYTES = TC_RESULTS_NAME_BYTES_MAX + 48,
    PIVOT_ROWS_MAX = 32,
    PIVOT_COLUMNS_MAX = 6,
    STACK_COLUMNS = 6
};

typedef struct row {
    char text[TC_TABLE_COLUMNS_MAX][CELL_BYTES];
    uint32_t count, texts;
} row;

static void put(row *r, const char *text)
{
    if (r->count < TC_TABLE_COLUMNS_MAX) snprintf(r->text[r->count++], CELL_BYTES, "%s", text);
}

static void put_name(row *r, const char *text)
{
    put(r, text);
    r->texts = r->count;
}

static void put_number(row *r, double value)
{
    char text[TC_NUMBER_BYTES];
    put(r, isfinite(value) ? tc_number(value, text) : "");
}

static void put_percent(row *r, double share)
{
    char text[TC_NUMBER_BYTES];
    snprintf(text, sizeof text, share < 0.0995 ? "%.1f %%" : "%.0f %%", 100 * share);
    put(r, isfinite(share) ? text : "");
}

static void put_unit(row *r, const char *what, const char *unit)
{
    char text[CELL_BYTES];
    snprintf(text, sizeof text, *unit ? "%s, %s" : "%s", what, unit);
    put(r, text);
}

static void flush(row *r, const tc_table_writer *w, bool head)
{
    const char *cells[TC_TABLE_COLUMNS_MAX];
    for (uint32_t i = 0; i < r->count; i++) cells[i] = r->text[i];
    w->row(w, cells, r->count, r->texts, head);
    *r = (row){0};
}

// Which columns of names a group has: its series, its x, and the commit where runs of several are mixed.
typedef struct columns {
    bool series, x, commit, roofline;
} columns;

static const char *commit_of(const tc_results *r, const tc_result *item)
{
    return r->runs[item->run].commit;
}

static columns columns_of(const tc_results *r, const tc_group *g)
{
    columns c = {.x = tc_has_x(g)};
    for (uint32_t i = 0; i < g->count; i++) {
        c.series = c.series || strcmp(g->items[i]->series, g->items[0]->series) != 0;
        c.roofline = c.roofline || isfinite(g->items[i]->roofline);
        c.commit = c.commit || strcmp(commit_of(r, g->items[i]), r->runs[r->run_count - 1].commit) != 0;
    }
    if (!c.x || g->kind == TC_RESULT_MATRIX) c.series = true;
    return c;
}

static void names_head(row *to, const tc_group *g, columns c)
{
    if (c.series) put_name(to, "series");
    if (c.x) put_name(to, *g->items[0]->x_unit && !*g->items[0]->x_text ? g->x_unit : "case");
    if (c.commit) put_name(to, "commit");
}

static void names(row *to, const tc_results *r, const tc_group *g, const tc_result *item, columns c)
{
    char x[CELL_BYTES], number[TC_NUMBER_BYTES];
    bool number_only = *g->items[0]->x_unit && !*g->items[0]->x_text && !*item->x_text;
    tc_x_text(g, item, x, sizeof x);
    if (c.series) put_name(to, *item->series || c.x ? item->series : tc_map_name(item));
    if (c.x) put_name(to, number_only ? tc_axis_tick(item->x * g->x_factor, number) : x);
    if (c.commit) put_name(to, commit_of(r, item));
}

// ---- figures ----

static void spread_text(const tc_group *g, const tc_result *item, char ret[CELL_BYTES])
{
    char low[TC_NUMBER_BYTES], high[TC_NUMBER_BYTES];
    *ret = 0;
    if (item->value_count > 1)
        snprintf(ret, CELL_BYTES, "%s – %s", tc_number(item->low * g->factor, low),
                 tc_number(item->high * g->factor, high));
}

// One row a figure, series by series.
static void figure_rows(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    bool once = true;
    for (uint32_t i = 0; i < g->count; i++) once = once && g->items[i]->value_count == 1;
    if (once) w->caption(w, "one run each");
    names_head(&to, g, c);
    put_unit(&to, once ? "value" : "median", g->unit);
    if (!once) put(&to, "least – most"), put(&to, "runs");
    if (c.roofline) put(&to, "roofline"), put(&to, "of it");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char text[CELL_BYTES];
        names(&to, r, g, item, c);
        put_number(&to, item->median * g->factor);
        spread_text(g, item, text);
        if (!once) put(&to, text);
        snprintf(text, sizeof text, "%" PRIu32, item->value_count);
        if (!once) put(&to, text);
        if (c.roofline) put_number(&to, item->roofline * g->factor), put_percent(&to, tc_of_roofline(item));
        flush(&to, w, false);
    }
}

// What stands down the side and along the top of a table with a figure in each cell.
typedef struct pivot {
    uint32_t rows, columns;
    uint32_t row_first[PIVOT_ROWS_MAX], column_first[PIVOT_COLUMNS_MAX]; // items that have the name
    bool series_down;
    uint32_t runs; // of all figures, or 0
} pivot;

static bool same_x(const tc_result *a, const tc_result *b)
{
    return a->x == b->x && !strcmp(a->x_text, b->x_text);
}

static bool same_series(const tc_result *a, const tc_result *b)
{
    return !strcmp(a->series, b->series);
}

static uint32_t distinct(const tc_group *g, bool (*same)(const tc_result *, const tc_result *), uint32_t *ret,
                         uint32_t max)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        uint32_t at = 0;
        while (at < count && !same(g->items[ret[at]], g->items[i])) at++;
        if (at < count) continue;
        if (count == max) return max + 1;
        ret[count++] = i;
    }
    return count;
}

static const tc_result *cell_of(const tc_group *g, const pivot *p, uint32_t down_at, uint32_t along_at)
{
    const tc_result *down = g->items[p->row_first[down_at]], *along = g->items[p->column_first[along_at]];
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        if (p->series_down ? same_series(item, down) && same_x(item, along)
                           : same_x(item, down) && same_series(item, along))
            return item;
    }
    return NULL;
}

// False: a row a figure reads better, or is the only way.
static bool pivot_of(const tc_group *g, columns c, pivot *ret)
{
    uint32_t at[PIVOT_ROWS_MAX];
    uint32_t series = distinct(g, same_series, at, PIVOT_ROWS_MAX),
             x = distinct(g, same_x, at, PIVOT_ROWS_MAX);
    if (c.commit || !c.x || series < 2 || x < 2 || series > PIVOT_ROWS_MAX || x > PIVOT_ROWS_MAX)
        return false;
    *ret = (pivot){.series_down = series > x, .runs = g->items[0]->value_count};
    if ((series < x ? series : x) > PIVOT_COLUMNS_MAX || g->count > series * x || !tc_rooflines_agree(g))
        return false;
    ret->rows = distinct(g, ret->series_down ? same_series : same_x, ret->row_first, PIVOT_ROWS_MAX);
    ret->columns = distinct(g, ret->series_down ? same_x : same_series, ret->column_first, PIVOT_COLUMNS_MAX);
    for (uint32_t i = 0; i < g->count; i++)
        if (g->items[i]->value_count != ret->runs) ret->runs = 0;
    return true;
}

static void put_figure(row *to, const tc_group *g, const tc_result *item, const pivot *p)
{
    char text[CELL_BYTES], spread[CELL_BYTES], number[TC_NUMBER_BYTES];
    double part = tc_of_roofline(item);
    spread_text(g, item, spread);
    size_t n =
        (size_t)snprintf(text, sizeof text, "%s\n%.60s", tc_number(item->median * g->factor, number), spread);
    if (!p->runs && n < sizeof text)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%u runs", *spread ? " in " : "",
                              item->value_count);
    if (isfinite(part) && n < sizeof text)
        snprintf(text + n, sizeof text - n, "%s%.0f %%", text[n - 1] == '\n' ? "" : ", ", 100 * part);
    if (text[strlen(text) - 1] == '\n') text[strlen(text) - 1] = 0;
    put(to, text);
}

static double roofline_at(const tc_group *g, const tc_result *at)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (same_x(g->items[i], at) && isfinite(g->items[i]->roofline)) return g->items[i]->roofline;
    return NAN;
}

static void figure_cells(const tc_group *g, const tc_table_writer *w, columns c, const pivot *p)
{
    row to = {0};
    char text[CELL_BYTES];
    bool numbers = *g->items[0]->x_unit && !*g->items[0]->x_text;
    char number[TC_NUMBER_BYTES];
    put_name(&to, numbers ? g->x_unit : "");
    for (uint32_t i = 0; i < p->columns; i++) {
        const tc_result *item = g->items[p->column_first[i]];
        tc_x_text(g, item, text, sizeof text);
        if (numbers) tc_axis_tick(item->x * g->x_factor, number);
        put(&to, !p->series_down ? item->series : numbers ? number : text);
    }
    if (c.roofline && !p->series_down) put(&to, "roofline");
    flush(&to, w, true);
    for (uint32_t i = 0; i < p->rows; i++) {
        const tc_result *item = g->items[p->row_first[i]];
        tc_x_text(g, item, text, sizeof text);
        put_name(&to, p->series_down ? item->series
                      : numbers      ? tc_axis_tick(item->x * g->x_factor, number)
                                     : text);
        for (uint32_t j = 0; j < p->columns; j++) {
            const tc_result *cell = cell_of(g, p, i, j);
            if (cell)
                put_figure(&to, g, cell, p);
            else
                put(&to, "");
        }
        if (c.roofline && !p->series_down) put_number(&to, roofline_at(g, item) * g->factor);
        flush(&to, w, false);
    }
    if (!c.roofline || !p->series_down) return;
    put_name(&to, "roofline");
    for (uint32_t j = 0; j < p->columns; j++)
        put_number(&to, roofline_at(g, g->items[p->column_first[j]]) * g->factor);
    flush(&to, w, false);
}

static void figures(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    char text[512], runs[48] = "";
    pivot p;
    if (!pivot_of(g, c, &p)) {
        figure_rows(r, g, w, c);
        return;
    }
    if (p.runs) snprintf(runs, sizeof runs, p.runs == 1 ? " (one run)" : " of %u runs", p.runs);
    snprintf(text, sizeof text, "%.100s: median%s%s%s", *g->unit ? g->unit : "value", runs,
             p.runs == 1 ? "" : ", the least and the most of them",
             c.roofline ? ", part of the roofline" : "");
    w->caption(w, text);
    figure_cells(g, w, c, &p);
}

// ---- the other kinds ----

static double sum_of(const tc_result *stack)
{
    double sum = 0;
    for (uint32_t l = 0; l < stack->label_count; l++) sum += stack->labels[l].value;
    return sum;
}

static void stack_name(const tc_group *g, const tc_result *item, char *ret, size_t bytes)
{
    char x[CELL_BYTES];
    tc_x_text(g, item, x, sizeof x);
    snprintf(ret, bytes, "%.120s%s%.120s", item->series, *item->series && *x ? ", " : "", x);
}

static void stack_share(row *to, const tc_group *g, const tc_result *item, const char *label)
{
    char text[CELL_BYTES], number[TC_NUMBER_BYTES];
    double value = tc_quantile(item, label), sum = sum_of(item);
    snprintf(text, sizeof text, "%s\n%.1f %%", tc_number(value * g->factor, number),
             sum > 0 ? 100 * value / sum : 0);
    put(to, isfinite(value) ? text : "");
}

// Shares down the side, sums along the top; the sums themselves last. At most a table's width of them.
static void stacks(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    (void)r, (void)c;
    for (uint32_t from = 0; from < g->count; from += STACK_COLUMNS) {
        uint32_t to_item = from + STACK_COLUMNS < g->count ? from + STACK_COLUMNS : g->count;
        row to = {0};
        const char *labels[TC_RESULTS_LABELS_MAX];
        char text[CELL_BYTES];
        uint32_t count = 0;
        put_name(&to, *g->unit ? g->unit : "share");
        for (uint32_t i = from; i < to_item; i++) {
            stack_name(g, g->items[i], text, sizeof text);
            put(&to, text);
            for (uint32_t l = 0; l < g->items[i]->label_count; l++) {
                uint32_t at = 0;
                while (at < count && strcmp(labels[at], g->items[i]->labels[l].label) != 0) at++;
                if (at == count && count < TC_RESULTS_LABELS_MAX)
                    labels[count++] = g->items[i]->labels[l].label;
            }
        }
        flush(&to, w, true);
        for (uint32_t l = 0; l <= count; l++) {
            put_name(&to, l < count ? labels[l] : "sum");
            for (uint32_t i = from; i < to_item; i++)
                if (l < count)
                    stack_share(&to, g, g->items[i], labels[l]);
                else
                    put_number(&to, sum_of(g->items[i]) * g->factor);
            flush(&to, w, false);
        }
    }
}

static void distributions(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    const char *shares[TC_TABLE_COLUMNS_MAX];
    uint32_t count = 0;
    if (*g->unit) w->caption(w, g->unit);
    names_head(&to, g, c);
    put(&to, "count");
    for (uint32_t i = 0; i < g->count; i++)
        for (uint32_t l = 0; l < g->items[i]->label_count; l++) {
            uint32_t at = 0;
            while (at < count && strcmp(shares[at], g->items[i]->labels[l].label) != 0) at++;
            if (at == count && to.count < TC_TABLE_COLUMNS_MAX) {
                char text[CELL_BYTES];
                shares[count++] = g->items[i]->labels[l].label;
                snprintf(text, sizeof text, "P%.6g", 100 * atof(shares[at]));
                put(&to, text);
            }
        }
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        char text[TC_NUMBER_BYTES];
        names(&to, r, g, g->items[i], c);
        snprintf(text, sizeof text, "%.0f", g->items[i]->count);
        put(&to, isfinite(g->items[i]->count) ? text : "");
        for (uint32_t s = 0; s < count; s++) put_number(&to, tc_quantile(g->items[i], shares[s]) * g->factor);
        flush(&to, w, false);
    }
}

static void timelines(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    if (*g->unit) w->caption(w, g->unit);
    names_head(&to, g, c);
    bool planned = false;
    for (uint32_t i = 0; i < g->count; i++) planned = planned || isfinite(g->items[i]->planned);
    if (planned) put(&to, "planned");
    put(&to, "most");
    put(&to, "at the end");
    if (planned) put(&to, "of planned");
    put(&to, "points");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char text[TC_NUMBER_BYTES];
        double most = 0;
        for (uint32_t p = 0; p < item->pair_count; p++) most = fmax(most, item->pairs[p].y);
        names(&to, r, g, item, c);
        if (planned) put_number(&to, item->planned * g->factor);
        put_number(&to, most * g->factor);
        put_number(&to, item->pairs[item->pair_count - 1].y * g->factor);
        if (planned) put_percent(&to, item->planned > 0 ? most / item->planned : NAN);
        snprintf(text, sizeof text, "%" PRIu32, item->pair_count);
        put(&to, text);
        flush(&to, w, false);
    }
}

static int falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

// Of all that the cells hold, what the largest tenth of them holds; *ret_unused: share of cells that are 0.
static double tenth(const tc_result *item, double *ret_unused)
{
    size_t cells = (size_t)item->rows * item->columns, unused = 0;
    float *sorted = malloc(cells * sizeof *sorted);
    double all = 0, top = 0;
    *ret_unused = NAN;
    if (!sorted) return NAN;
    memcpy(sorted, item->cells, cells * sizeof *sorted);
    qsort(sorted, cells, sizeof *sorted, falling);
    for (size_t i = 0; i < cells; i++) {
        all += sorted[i];
        if (i < (cells + 9) / 10) top += sorted[i];
        unused += sorted[i] == 0;
    }
    free(sorted);
    *ret_unused = (double)unused / (double)cells;
    return all > 0 ? top / all : NAN;
}

static void matrices(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    names_head(&to, g, c);
    put(&to, "rows × columns");
    put(&to, "largest cell");
    put(&to, "top tenth holds");
    put(&to, "never used");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char text[CELL_BYTES], number[TC_NUMBER_BYTES];
        double factor, unused, top = tenth(item, &unused);
        char unit[TC_UNIT_BYTES];
        tc_unit_scale(item->unit, 1, &factor, unit);
        float most = 0;
        for (size_t j = 0; j < (size_t)item->rows * item->columns; j++) most = fmaxf(most, item->cells[j]);
        names(&to, r, g, item, c);
        snprintf(text, sizeof text, "%" PRIu32 " × %" PRIu32, item->rows, item->columns);
        put(&to, text);
        snprintf(text, sizeof text, "%s %.40s", tc_number(most * factor, number), unit);
        put(&to, text);
        put_percent(&to, top);
        put_percent(&to, unused);
        flush(&to, w, false);
    }
}

void tc_group_table(const tc_results *r, const tc_group *g, const tc_table_writer *w)
{
    static void (*const kinds[])(const tc_results *, const tc_group *, const tc_table_writer *,
                                 columns) = {[TC_RESULT_FIGURE] = figures,
                                             [TC_RESULT_STACK] = stacks,
                                             [TC_RESULT_DISTRIBUTION] = distributions,
                                             [TC_RESULT_MATRIX] = matrices,
                                             [TC_RESULT_TIMELINE] = timelines};
    kinds[g->kind](r, g, w, columns_of(r, g));
}
