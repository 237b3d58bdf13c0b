// SPDX-License-Identifier: Apache-2.0
// Owns: the figures of a group as rows of text, the same for both pages.
#include "cli/report_view.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL_BYTES = TC_RESULTS_NAME_BYTES_MAX + 48 };

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
        c.series = c.series || *g->items[i]->series;
        c.roofline = c.roofline || isfinite(g->items[i]->roofline);
        c.commit = c.commit || strcmp(commit_of(r, g->items[i]), r->runs[r->run_count - 1].commit) != 0;
    }
    if (!c.x && !c.series) c.series = true;
    return c;
}

static void names_head(row *to, const tc_group *g, columns c)
{
    if (c.series) put_name(to, "series");
    if (c.x) put_name(to, *g->items[0]->x_unit && !*g->items[0]->x_text ? g->x_unit : "of");
    if (c.commit) put_name(to, "commit");
}

static void names(row *to, const tc_results *r, const tc_group *g, const tc_result *item, columns c)
{
    char x[CELL_BYTES], number[TC_NUMBER_BYTES];
    bool number_only = *g->items[0]->x_unit && !*g->items[0]->x_text && !*item->x_text;
    tc_x_text(g, item, x, sizeof x);
    if (c.series) put_name(to, *item->series ? item->series : c.x ? "" : g->figure);
    if (c.x) put_name(to, number_only ? tc_axis_tick(item->x * g->x_factor, number) : x);
    if (c.commit) put_name(to, commit_of(r, item));
}

static void figures(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    names_head(&to, g, c);
    put_unit(&to, "median", g->unit);
    put(&to, "least – most");
    put(&to, "runs");
    if (c.roofline) put_unit(&to, "roofline", g->unit), put(&to, "of roofline");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char text[CELL_BYTES], low[TC_NUMBER_BYTES], high[TC_NUMBER_BYTES];
        names(&to, r, g, item, c);
        put_number(&to, item->median * g->factor);
        snprintf(text, sizeof text, "%s – %s", tc_number(item->low * g->factor, low),
                 tc_number(item->high * g->factor, high));
        put(&to, item->value_count > 1 ? text : "");
        snprintf(text, sizeof text, "%" PRIu32, item->value_count);
        put(&to, text);
        if (c.roofline) put_number(&to, item->roofline * g->factor), put_percent(&to, tc_of_roofline(item));
        flush(&to, w, false);
    }
}

static void stacks(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    names_head(&to, g, c);
    put_name(&to, "where");
    put(&to, *g->unit ? g->unit : "value");
    put(&to, "share");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        double sum = 0;
        for (uint32_t l = 0; l < item->label_count; l++) sum += item->labels[l].value;
        for (uint32_t l = 0; l < item->label_count; l++) {
            names(&to, r, g, item, c);
            put_name(&to, item->labels[l].label);
            put_number(&to, item->labels[l].value * g->factor);
            put_percent(&to, sum > 0 ? item->labels[l].value / sum : NAN);
            flush(&to, w, false);
        }
    }
}

static void distributions(const tc_results *r, const tc_group *g, const tc_table_writer *w, columns c)
{
    row to = {0};
    const char *shares[TC_TABLE_COLUMNS_MAX];
    uint32_t count = 0;
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
                put_unit(&to, text, g->unit);
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
    names_head(&to, g, c);
    put_unit(&to, "planned", g->unit);
    put_unit(&to, "most", g->unit);
    put_unit(&to, "at the end", g->unit);
    put(&to, "most of planned");
    put(&to, "points");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char text[TC_NUMBER_BYTES];
        double most = 0;
        for (uint32_t p = 0; p < item->pair_count; p++) most = fmax(most, item->pairs[p].y);
        names(&to, r, g, item, c);
        put_number(&to, item->planned * g->factor);
        put_number(&to, most * g->factor);
        put_number(&to, item->pairs[item->pair_count - 1].y * g->factor);
        put_percent(&to, item->planned > 0 ? most / item->planned : NAN);
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
    put(&to, "largest tenth of the cells holds");
    put(&to, "cells at 0");
    flush(&to, w, true);
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_result *item = g->items[i];
        char text[CELL_BYTES], number[TC_NUMBER_BYTES];
        double factor, unused, top = tenth(item, &unused);
        const char *unit = tc_unit_scale(item->unit, 1, &factor);
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
