// SPDX-License-Identifier: Apache-2.0
// Owns: where the tokens of a figure were routed: how many distinct experts they touched, how popularity
// falls, what a token shares with the one before it, what a hot tier of a quarter of all experts would have
// hit; and the verdict whether routing had collapsed. Refuses: to change a route.
#include "cli/bench.h"
#include "common/placement/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ZIPF_RANKS_MIN = 8 };

// Measured on a random model of 512 experts: spread routing touches 0.9 to 1.0 of what even routing would,
// popularity by 1/rank 0.6, by rank^-1.5 0.35; hidden states that are all alike 0.02 to 0.1.
#define COLLAPSED_SHARE 0.25

double tc_even_experts(uint32_t experts, uint32_t top_k, uint64_t tokens)
{
    return experts ? experts * (1 - pow(1 - (double)top_k / experts, (double)tokens)) : 0;
}

tc_status tc_seen_open(tc_seen *s, const tc_model_desc *desc, tc_error *e)
{
    *s = (tc_seen){.desc = desc};
    size_t rows = (size_t)desc->layers * desc->experts;
    tc_routing_info info = {.layers = desc->layers, .experts = desc->experts, .top_k = desc->top_k};
    if (!rows || !desc->top_k) return TC_OK; // no experts: nothing will be seen
    for (uint32_t l = 0; l < desc->layers; l++)
        if (desc->layer[l].moe) info.moe[l / 8] |= (uint8_t)(1 << l % 8);
    s->used = calloc(rows, sizeof *s->used);
    s->last = calloc((size_t)desc->layers * desc->top_k, sizeof *s->last);
    s->routes = calloc(1, sizeof *s->routes);
    if (!s->used || !s->last || !s->routes || tc_routes_begin(&info, s->routes, e) != TC_OK) {
        tc_seen_free(s);
        return tc_fail(e, TC_NOMEM, "out of memory for the experts seen");
    }
    return TC_OK;
}

void tc_seen_free(tc_seen *s)
{
    free(s->used);
    free(s->last);
    if (s->routes) tc_routes_free(s->routes);
    free(s->routes);
    *s = (tc_seen){0};
}

static bool has(const int32_t *list, uint32_t count, int32_t value)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == value) return true;
    return false;
}

static void note_layer(tc_seen *s, uint32_t layer, const int32_t *experts, bool follows)
{
    const uint32_t k = s->desc->top_k;
    int32_t *last = s->last + (size_t)layer * k;
    for (uint32_t i = 0; i < k; i++) {
        if (experts[i] < 0 || (uint32_t)experts[i] >= s->desc->experts) continue;
        s->used[(size_t)layer * s->desc->experts + (uint32_t)experts[i]]++;
        if (!follows) continue;
        s->compared++;
        s->repeated += has(last, k, experts[i]);
    }
    memcpy(last, experts, k * sizeof *last);
}

tc_status tc_seen_note(tc_seen *s, bool first_stream, uint32_t positions, const int32_t *experts, tc_error *e)
{
    if (!s->used) return TC_OK;
    const size_t stride = (size_t)s->desc->layers * s->desc->top_k;
    for (uint32_t p = 0; p < positions; p++, experts += stride) {
        const bool follows = first_stream && s->followed;
        for (uint32_t l = 0; l < s->desc->layers; l++)
            if (s->desc->layer[l].moe) note_layer(s, l, experts + (size_t)l * s->desc->top_k, follows);
        s->tokens++;
        s->followed |= first_stream;
        if (first_stream) TC_TRY(tc_routes_add(s->routes, 0, TC_ROUTING_STEP, 1, experts, NULL, e));
    }
    return TC_OK;
}

// ---- what was seen ----

static int falling(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x < y) - (x > y);
}

// Slope of log(use) over log(rank), of the mean over layers, where a rank was used once a layer at least.
static double exponent_of(const double *use, uint32_t experts, uint32_t layers)
{
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (uint32_t r = 0; r < experts && use[r] >= layers; r++) {
        double lx = log(r + 1.0), ly = log(use[r]);
        n++, x += lx, y += ly, xx += lx * lx, xy += lx * ly;
    }
    return n < ZIPF_RANKS_MIN ? NAN : -(n * xy - x * y) / (n * xx - x * x);
}

static void count_layers(const tc_seen *s, double *use, tc_touched *t)
{
    const uint32_t n = s->desc->experts;
    for (uint32_t l = 0; l < s->desc->layers; l++) {
        uint32_t *used = s->used + (size_t)l * n, distinct = 0;
        if (!s->desc->layer[l].moe) continue;
        qsort(used, n, sizeof *used, falling);
        for (uint32_t x = 0; x < n; x++) {
            distinct += used[x] > 0;
            use[x] += used[x];
        }
        if (!t->layers++ || distinct < t->fewest) t->fewest = distinct;
        t->experts += distinct;
    }
}

// Of the second half of the tokens, once the policy has seen the first.
static double quarter_hits(const tc_seen *s)
{
    tc_replay_result result;
    tc_error ignored;
    uint32_t layers = 0;
    for (uint32_t l = 0; l < s->desc->layers; l++) layers += s->desc->layer[l].moe;
    tc_replay_options o = {.skip_steps = s->routes->step_count / 2};
    o.cache.slots = o.cache.slots_max = layers * s->desc->experts / 4;
    o.cache.policy = TC_POLICY_DECAYED;
    o.cache.second_miss = true;
    if (s->routes->step_count < 2 || tc_replay_run(s->routes, &o, &result, &ignored) != TC_OK) return NAN;
    return result.hit_rate;
}

tc_status tc_seen_touched(tc_seen *s, tc_touched *ret, tc_error *e)
{
    *ret = (tc_touched){.tokens = s->tokens, .repeated = NAN, .quarter_hits = NAN, .zipf = NAN};
    if (!s->used) return TC_OK;
    double *use = calloc(s->desc->experts, sizeof *use);
    if (!use) return tc_fail(e, TC_NOMEM, "out of memory for the experts seen");
    count_layers(s, use, ret);
    ret->of = (uint64_t)ret->layers * s->desc->experts;
    ret->a_layer = ret->layers ? (double)ret->experts / ret->layers : 0;
    ret->even = tc_even_experts(s->desc->experts, s->desc->top_k, s->tokens);
    ret->zipf = exponent_of(use, s->desc->experts, ret->layers);
    if (s->compared) ret->repeated = (double)s->repeated / (double)s->compared;
    ret->quarter_hits = quarter_hits(s);
    ret->collapsed = ret->a_layer < COLLAPSED_SHARE * ret->even;
    free(use);
    return TC_OK;
}

void tc_bench_routing(tc_bench *b, tc_report *r, const tc_touched *t)
{
    char text[160];
    if (!t->layers) return;
    tc_report_count(r, "experts_touched", "distinct experts touched", t->experts, "");
    tc_report_count(r, "experts_in_all", "  of", t->of, "");
    tc_report_number(r, "experts_touched_a_layer", "  a layer, mean", t->a_layer, "");
    tc_report_count(r, "experts_touched_fewest", "  the layer with fewest", t->fewest, "");
    tc_report_number(r, "experts_touched_even", "  even routing would touch", t->even, "");
    tc_report_count(r, "tokens_looked_at", "  tokens looked at", t->tokens, "");
    if (!isnan(t->zipf)) tc_report_number(r, "zipf_exponent", "popularity falls by rank^-", t->zipf, "");
    if (!isnan(t->repeated))
        tc_report_number(r, "repeat_fraction", "shared with the token before", t->repeated, "of the experts");
    if (!isnan(t->quarter_hits))
        tc_report_number(r, "quarter_hit_rate", "a hot quarter would have hit", t->quarter_hits, "of them");
    tc_report_flag(r, "valid", !t->collapsed);
    if (!t->collapsed) return;
    snprintf(text, sizeof text,
             "NOT VALID: routing has collapsed: %.0f experts a layer, even routing would touch %.0f",
             t->a_layer, t->even);
    tc_report_note(r, text);
    b->collapsed++;
}
