// SPDX-License-Identifier: Apache-2.0
// Owns: grouping, units and texts of the report's pages.
#include "cli/report_view.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- units ----

typedef struct tc_unit_step {
    double factor;
    const char *unit;
} tc_unit_step;

static const tc_unit_step bytes_steps[] = {
    {1, "bytes"}, {0x1p-10, "KiB"}, {0x1p-20, "MiB"}, {0x1p-30, "GiB"}, {0x1p-40, "TiB"}};
static const tc_unit_step rate_steps[] = {{1, "bytes/s"}, {1e-3, "kB/s"}, {1e-6, "MB/s"}, {1e-9, "GB/s"}};
static const tc_unit_step us_steps[] = {{1, "µs"}, {1e-3, "ms"}, {1e-6, "s"}};
static const tc_unit_step ms_steps[] = {{1, "ms"}, {1e-3, "s"}};
static const tc_unit_step share_steps[] = {{100, "%"}};
static const struct {
    const char *unit;
    const tc_unit_step *steps;
    uint32_t count;
    double most; // the next step from here on, in the present one
} scales[] = {
    {"bytes", bytes_steps, 5, 1024}, {"bytes/s", rate_steps, 4, 1000}, {"us", us_steps, 3, 10000},
    {"ms", ms_steps, 2, 10000},      {"share", share_steps, 1, 0},
};

// "bytes a token" is told as "MiB a token": the first word is scaled, the rest stays.
const char *tc_unit_scale(const char *unit, double size, double *ret_factor, char ret[TC_UNIT_BYTES])
{
    *ret_factor = 1;
    if (!strncmp(unit, "share of ", 9)) unit = "share";
    snprintf(ret, TC_UNIT_BYTES, "%s", unit);
    for (unsigned i = 0; i < sizeof scales / sizeof *scales; i++) {
        size_t n = strlen(scales[i].unit);
        if (strncmp(unit, scales[i].unit, n) != 0 || (unit[n] && unit[n] != ' ')) continue;
        uint32_t step = 0;
        while (step + 1 < scales[i].count && size * scales[i].steps[step].factor >= scales[i].most) step++;
        *ret_factor = scales[i].steps[step].factor;
        snprintf(ret, TC_UNIT_BYTES, "%s%s", scales[i].steps[step].unit, unit + n);
        break;
    }
    return ret;
}

const char *tc_bytes_text(uint64_t bytes, char ret[TC_NUMBER_BYTES])
{
    char number[TC_NUMBER_BYTES];
    double factor;
    char unit[TC_UNIT_BYTES];
    tc_unit_scale("bytes", (double)bytes, &factor, unit);
    snprintf(ret, TC_NUMBER_BYTES, "%.20s %.8s", tc_number((double)bytes * factor, number), unit);
    return ret;
}

// ---- groups ----

static double size_of(const tc_result *item)
{
    double size = 0;
    switch (item->kind) {
    case TC_RESULT_FIGURE:
        return fabs(item->median);
    case TC_RESULT_STACK:
        for (uint32_t i = 0; i < item->label_count; i++) size += item->labels[i].value;
        return size;
    case TC_RESULT_DISTRIBUTION: // of the middle, not of the tail
        size = tc_quantile(item, "0.5");
        return isfinite(size) ? size : item->label_count ? item->labels[0].value : 0;
    case TC_RESULT_MATRIX:
        return 1;
    case TC_RESULT_TIMELINE:
        for (uint32_t i = 0; i < item->pair_count; i++) size = fmax(size, item->pairs[i].y);
        return size;
    }
    return size;
}

static void scale(tc_group *g)
{
    double size = 0, x = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        size = fmax(size, size_of(g->items[i]));
        x = fmax(x, fabs(g->items[i]->x));
    }
    tc_unit_scale(g->items[0]->unit, size, &g->factor, g->unit);
    tc_unit_scale(g->items[0]->x_unit, x, &g->x_factor, g->x_unit);
    if (g->kind == TC_RESULT_TIMELINE) g->x_factor = 1, strcpy(g->x_unit, "s");
}

// Maps are one figure when their names differ after a comma only ("skew, code").
static size_t base_bytes(const tc_result *item)
{
    const char *comma = item->kind == TC_RESULT_MATRIX && !*item->series ? strstr(item->figure, ", ") : NULL;
    return comma ? (size_t)(comma - item->figure) : strlen(item->figure);
}

const char *tc_map_name(const tc_result *item)
{
    const char *rest = item->figure + base_bytes(item);
    return *item->series ? item->series : *rest ? rest + 2 : item->figure;
}

static bool same_figure(const tc_result *a, const tc_result *b)
{
    size_t n = base_bytes(a);
    return n == base_bytes(b) && !strncmp(a->figure, b->figure, n);
}

static tc_group *group_of(tc_groups *g, const tc_results *r, const tc_result *item)
{
    const char *section = r->parts[item->part_at].section;
    for (uint32_t i = 0; i < g->count; i++) {
        tc_group *have = &g->groups[i];
        // What is measured in two units makes two figures.
        if (have->kind == item->kind && !strcmp(have->section, section) &&
            same_figure(have->items[0], item) &&
            (item->kind == TC_RESULT_MATRIX || !strcmp(have->items[0]->unit, item->unit)))
            return have;
    }
    return NULL;
}

tc_status tc_groups_make(const tc_results *r, tc_groups *ret, tc_error *e)
{
    *ret = (tc_groups){.groups = calloc(r->count + 1, sizeof *ret->groups),
                       .items = calloc(r->count + 1, sizeof *ret->items)};
    uint32_t *group = calloc(r->count + 1, sizeof *group);
    if (!ret->groups || !ret->items || !group) {
        free(group);
        tc_groups_free(ret);
        return tc_fail(e, TC_NOMEM, "out of memory");
    }
    for (uint32_t i = 0; i < r->count; i++) {
        tc_group *g = group_of(ret, r, &r->items[i]);
        if (!g) {
            g = &ret->groups[ret->count++];
            *g = (tc_group){.kind = r->items[i].kind,
                            .section = r->parts[r->items[i].part_at].section,
                            .figure = r->items[i].figure,
                            .items = &ret->items[i]}; // only to be compared with, until all are counted
            ret->items[i] = &r->items[i];
        }
        group[i] = (uint32_t)(g - ret->groups);
        g->count++;
    }
    const tc_result **next = ret->items;
    for (uint32_t i = 0; i < ret->count; i++)
        ret->groups[i].items = next, next += ret->groups[i].count, ret->groups[i].count = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        tc_group *g = &ret->groups[group[i]];
        g->items[g->count++] = &r->items[i];
    }
    for (uint32_t i = 0; i < ret->count; i++) scale(&ret->groups[i]);
    free(group);
    return TC_OK;
}

void tc_groups_free(tc_groups *g)
{
    free(g->groups);
    free(g->items);
    *g = (tc_groups){0};
}

// ---- texts ----

void tc_title(const tc_group *g, char *ret, size_t bytes)
{
    if (*g->items[0]->title)
        snprintf(ret, bytes, "%s", g->items[0]->title);
    else
        snprintf(ret, bytes, "%.*s", (int)base_bytes(g->items[0]), g->figure);
    if (*g->items[0]->title) return;
    for (char *p = ret; *p; p++)
        if (*p == '-' || *p == '_') *p = ' ';
    ret[0] = (char)toupper((unsigned char)ret[0]);
}

void tc_x_text(const tc_group *g, const tc_result *item, char *ret, size_t bytes)
{
    char number[TC_NUMBER_BYTES];
    if (*item->x_text)
        snprintf(ret, bytes, "%s", item->x_text);
    else if (*item->x_unit)
        snprintf(ret, bytes, "%s %s", tc_axis_tick(item->x * g->x_factor, number), g->x_unit);
    else
        *ret = 0;
}

bool tc_has_x(const tc_group *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        if (*g->items[i]->x_text || *g->items[i]->x_unit) return true;
    return false;
}

bool tc_has_series(const tc_group *g)
{
    for (uint32_t i = 1; i < g->count; i++)
        if (strcmp(g->items[i]->series, g->items[0]->series) != 0) return true;
    return false;
}

bool tc_part_told(const tc_groups *all, const tc_group *g, uint32_t item)
{
    for (const tc_group *at = all->groups; at <= g; at++)
        for (uint32_t i = 0; i < (at == g ? item : at->count); i++)
            if (at->items[i]->part_at == g->items[item]->part_at) return true;
    return false;
}

double tc_of_roofline(const tc_result *item)
{
    if (!isfinite(item->roofline) || !(item->median > 0)) return NAN;
    return item->better == TC_BETTER_LOWER ? item->roofline / item->median : item->median / item->roofline;
}

bool tc_rooflines_agree(const tc_group *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        for (uint32_t j = 0; j < i; j++) {
            const tc_result *a = g->items[i], *b = g->items[j];
            if (a->x == b->x && !strcmp(a->x_text, b->x_text) && isfinite(a->roofline) &&
                isfinite(b->roofline) && fabs(a->roofline - b->roofline) > 1e-3 * a->roofline)
                return false;
        }
    return true;
}

double tc_quantile(const tc_result *distribution, const char *share)
{
    for (uint32_t i = 0; i < distribution->label_count; i++)
        if (!strcmp(distribution->labels[i].label, share)) return distribution->labels[i].value;
    return NAN;
}

static const struct {
    const char *name, *title;
} sections[] = {
    {"throughput", "Throughput"},
    {"placement", "Placement strategies"},
    {"memory", "Memory"},
    {"swap", "Swap latency"},
    {"inputs", "Input types"},
    {"load", "Load"},
    {"latency", "Latency under load"},
    {"quality", "Quality"},
    {"peers", "Peers"},
};
enum { SECTIONS = sizeof sections / sizeof *sections };

static bool known(const char *section)
{
    for (unsigned i = 0; i < SECTIONS; i++)
        if (!strcmp(sections[i].name, section)) return true;
    return false;
}

static bool seen_before(const tc_results *r, uint32_t part)
{
    for (uint32_t i = 0; i < part; i++)
        if (!strcmp(r->parts[i].section, r->parts[part].section)) return true;
    return false;
}

const char *tc_section(const tc_results *r, uint32_t at, const char **ret_title)
{
    for (unsigned s = 0; s < SECTIONS; s++)
        for (uint32_t i = 0; i < r->part_count; i++)
            if (!strcmp(r->parts[i].section, sections[s].name)) {
                *ret_title = sections[s].title;
                if (!at--) return sections[s].name;
                break;
            }
    for (uint32_t i = 0; i < r->part_count; i++)
        if (!known(r->parts[i].section) && !seen_before(r, i) && !at--)
            return *ret_title = r->parts[i].section;
    return NULL;
}

uint32_t tc_parts_in(const tc_results *r, tc_part_state state)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < r->part_count; i++) count += r->parts[i].state == state;
    return count;
}

const char *tc_part_state_text(tc_part_state state)
{
    static const char *const texts[] = {"missing", "done", "skipped", "failed"};
    return texts[state];
}
