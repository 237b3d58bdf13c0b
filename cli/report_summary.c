// SPDX-License-Identifier: Apache-2.0
// Owns: the few lines at the top: which of the figures answer what a reader asks first.
#include "cli/report_view.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum pick {
    PICK_LEAST_X, // the figure of the smallest x, of the first series
    PICK_MOST_X,
    PICK_BEST,
    PICK_ALL, // every figure, by name
} pick;

// A question is answered by the first group of its section whose unit is `unit` ("" any) and whose name has
// one of the words.
static const struct question {
    const char *what, *section, *unit, *words;
    pick pick;
} questions[] = {
    {"Decode, one user", "throughput", "tokens/s", "decode", PICK_LEAST_X},
    {"Prompt", "throughput", "tokens/s", "prompt prefill", PICK_BEST},
    {"Most users at once", "throughput", "tokens/s", "users streams", PICK_MOST_X},
    {"Placement, best tokens/s", "placement", "tokens/s", "", PICK_BEST},
    {"Placement, best hit rate", "placement", "", "hit", PICK_BEST},
    {"Time to ready", "load", "", "", PICK_ALL},
    {"First token under load", "latency", "", "first ttft", PICK_LEAST_X},
    {"Perplexity", "quality", "", "perplexity", PICK_ALL},
    {"Against peers", "peers", "", "ratio", PICK_ALL},
};

static bool has_word(const char *text, const char *words)
{
    char word[32];
    if (!*words) return true;
    while (sscanf(words, "%31s", word) == 1) {
        if (strstr(text, word)) return true;
        words += strspn(words, " ");
        words += strcspn(words, " ");
        if (!*words) break;
    }
    return false;
}

static const tc_group *answer(const tc_groups *g, const struct question *q)
{
    for (uint32_t i = 0; i < g->count; i++) {
        const tc_group *group = &g->groups[i];
        if (group->kind == TC_RESULT_FIGURE && !strcmp(group->section, q->section) &&
            (!*q->unit || !strcmp(group->items[0]->unit, q->unit)) && has_word(group->figure, q->words))
            return group;
    }
    return NULL;
}

// "all-hot", "all cold": no strategy, but what strategies lie between.
static bool is_bound(const tc_result *item)
{
    return !strncmp(item->series, "all", 3) && (item->series[3] == '-' || item->series[3] == ' ');
}

static const tc_result *picked(const tc_group *g, pick which)
{
    const tc_result *best = g->items[0];
    for (uint32_t i = 1; i < g->count; i++) {
        const tc_result *item = g->items[i];
        if (which == PICK_BEST && is_bound(item)) continue; // bounds, no strategies
        if (which == PICK_BEST && is_bound(best)) best = item;
        bool same = !strcmp(item->series, g->items[0]->series);
        if (which == PICK_LEAST_X             ? same && item->x < best->x
            : which == PICK_MOST_X            ? same && item->x > best->x
            : item->better == TC_BETTER_LOWER ? item->median < best->median
                                              : item->median > best->median)
            best = item;
    }
    return best;
}

static void tell_one(tc_summary_line *line, const tc_group *g, const tc_result *item)
{
    char value[TC_NUMBER_BYTES], low[TC_NUMBER_BYTES], high[TC_NUMBER_BYTES],
        x[TC_RESULTS_NAME_BYTES_MAX + 32];
    double share = tc_of_roofline(item);
    size_t n = (size_t)snprintf(line->value, sizeof line->value, "%s %.40s",
                                tc_number(item->median * g->factor, value), g->unit);
    if (isfinite(share) && n < sizeof line->value)
        snprintf(line->value + n, sizeof line->value - n, ", %.0f %% of the roofline", 100 * share);
    tc_x_text(g, item, x, sizeof x);
    n = (size_t)snprintf(line->detail, sizeof line->detail, "%.100s%s%.100s", item->series,
                         *item->series && *x ? ", " : "", x);
    if (n < sizeof line->detail && item->value_count > 1)
        snprintf(line->detail + n, sizeof line->detail - n, "%s%s – %s in %u runs", n ? "; " : "",
                 tc_number(item->low * g->factor, low), tc_number(item->high * g->factor, high),
                 item->value_count);
    else if (n < sizeof line->detail)
        snprintf(line->detail + n, sizeof line->detail - n, "%sone run", n ? "; " : "");
}

static void tell_all(tc_summary_line *line, const tc_group *g)
{
    size_t n = 0, runs = 0;
    bool many = tc_has_series(g) || !tc_has_x(g);
    for (uint32_t i = 0; i < g->count && n + 1 < sizeof line->value; i++) {
        char value[TC_NUMBER_BYTES], x[TC_RESULTS_NAME_BYTES_MAX + 32];
        const tc_result *item = g->items[i];
        tc_x_text(g, item, x, sizeof x);
        if (i == 4) {
            snprintf(line->value + n, sizeof line->value - n, "; …");
            break;
        }
        n += (size_t)snprintf(line->value + n, sizeof line->value - n, "%s%.20s%s%.20s %s%s%.10s",
                              i ? "; " : "", many ? item->series : "", many && *item->series && *x ? " " : "",
                              x, tc_number(item->median * g->factor, value),
                              strcmp(g->unit, "perplexity") != 0 && *g->unit ? " " : "",
                              strcmp(g->unit, "perplexity") != 0 ? g->unit : "");
        runs = item->value_count > runs ? item->value_count : runs;
    }
    snprintf(line->detail, sizeof line->detail, runs > 1 ? "medians of up to %zu runs" : "one run each",
             runs);
}

// Why there is no figure: what the section's parts say.
static void tell_missing(tc_summary_line *line, const tc_results *r, const char *section)
{
    snprintf(line->value, sizeof line->value, "not measured");
    for (uint32_t i = 0; i < r->part_count; i++) {
        const tc_result_part *p = &r->parts[i];
        if (strcmp(p->section, section) != 0 || p->state == TC_PART_DONE) continue;
        snprintf(line->detail, sizeof line->detail, "%.100s %s%s%.180s", p->id, tc_part_state_text(p->state),
                 *p->reason ? ": " : "", p->reason);
        return;
    }
}

uint32_t tc_summary(const tc_results *r, const tc_groups *g, tc_summary_line ret[TC_SUMMARY_MAX])
{
    uint32_t count = 0;
    for (unsigned i = 0; i < sizeof questions / sizeof *questions && count < TC_SUMMARY_MAX; i++) {
        const tc_group *group = answer(g, &questions[i]);
        bool planned = false;
        for (uint32_t p = 0; p < r->part_count; p++)
            planned = planned || !strcmp(r->parts[p].section, questions[i].section);
        if (!planned) continue;
        tc_summary_line *line = &ret[count++];
        *line = (tc_summary_line){.what = questions[i].what, .section = questions[i].section};
        if (!group)
            tell_missing(line, r, questions[i].section);
        else if (questions[i].pick == PICK_ALL)
            tell_all(line, group);
        else
            tell_one(line, group, picked(group, questions[i].pick));
    }
    return count;
}
