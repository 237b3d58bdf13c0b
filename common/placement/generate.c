// SPDX-License-Identifier: Apache-2.0
// Owns: generated routes. The random numbers are our own, so that a seed means the same everywhere.
#include "common/base/mem.h"
#include "common/placement/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct generator {
    const tc_route_spec *spec;
    uint64_t state;
    uint16_t *order; // [topics][layers][experts], the likeliest first
    int32_t *chosen; // [layers][top_k] of the token; the last one's before it is drawn
    int32_t *last;
    uint32_t *drawn; // [experts] token that chose it, + 1
} generator;

tc_route_spec tc_route_spec_default(void)
{
    return (tc_route_spec){.layers = 48,
                           .experts = 512,
                           .top_k = 10,
                           .tokens = 16384,
                           .seed = 1,
                           .topics = 8,
                           .topic_tokens = 2048,
                           .spread = 32,
                           .common = 0.5,
                           .repeat = 0.1,
                           .stray = 0.08,
                           .expert_bytes = 1622016};
}

// splitmix64
static uint64_t next_random(generator *g)
{
    uint64_t z = g->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double uniform(generator *g)
{
    return (double)(next_random(g) >> 11) * 0x1p-53;
}

static void shuffle(generator *g, uint16_t *list, uint32_t count)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t k = (uint32_t)(uniform(g) * i);
        uint16_t moved = list[i - 1];
        list[i - 1] = list[k];
        list[k] = moved;
    }
}

// The first topic's order is any; the others keep a share of its places and shuffle the rest.
static void make_orders(generator *g)
{
    const tc_route_spec *s = g->spec;
    size_t a_topic = (size_t)s->layers * s->experts;
    uint16_t moved[4096], place[4096];
    for (uint32_t layer = 0; layer < s->layers; layer++) {
        uint16_t *first = g->order + (size_t)layer * s->experts;
        for (uint32_t i = 0; i < s->experts; i++) first[i] = (uint16_t)i;
        shuffle(g, first, s->experts);
        for (uint32_t topic = 1; topic < s->topics; topic++) {
            uint16_t *order = first + topic * a_topic;
            uint32_t n = 0;
            memcpy(order, first, s->experts * sizeof *order);
            for (uint32_t i = 0; i < s->experts; i++) {
                if (uniform(g) < s->common) continue;
                place[n] = (uint16_t)i;
                moved[n++] = order[i];
            }
            shuffle(g, moved, n);
            for (uint32_t i = 0; i < n; i++) order[place[i]] = moved[i];
        }
    }
}

static uint32_t draw_expert(generator *g, const uint16_t *order, const int32_t *last, bool has_last)
{
    const tc_route_spec *s = g->spec;
    double kind = uniform(g), u = uniform(g);
    if (has_last && kind < s->repeat) return (uint32_t)last[(uint32_t)(u * s->top_k)];
    if (kind > 1 - s->stray) return (uint32_t)(u * s->experts);
    double within = 1 - exp(-(double)s->experts / s->spread);
    uint32_t rank = (uint32_t)(-s->spread * log1p(-u * within));
    return order[rank < s->experts ? rank : s->experts - 1];
}

static void draw_token(generator *g, uint32_t token)
{
    const tc_route_spec *s = g->spec;
    uint32_t topic = token / s->topic_tokens % s->topics;
    memcpy(g->last, g->chosen, (size_t)s->layers * s->top_k * sizeof *g->last);
    memset(g->drawn, 0, s->experts * sizeof *g->drawn);
    for (uint32_t layer = 0; layer < s->layers; layer++) {
        const uint16_t *order = g->order + ((size_t)topic * s->layers + layer) * s->experts;
        for (uint32_t k = 0; k < s->top_k;) {
            uint32_t expert = draw_expert(g, order, g->last + layer * s->top_k, token > 0);
            if (g->drawn[expert] == layer + 1) continue;
            g->drawn[expert] = layer + 1;
            g->chosen[layer * s->top_k + k++] = (int32_t)expert;
        }
    }
}

static tc_status check_spec(const tc_route_spec *s, tc_error *e)
{
    if (s->layers < 1 || s->layers > TC_CACHE_LAYERS_MAX || s->experts < 2 || s->experts > 4096 ||
        s->top_k < 1 || s->top_k > TC_ROUTING_TOP_K_MAX || s->top_k * 2 > s->experts)
        return tc_fail(e, TC_ARGUMENT, "generated routes: %u layers, top %u of %u experts", s->layers,
                       s->top_k, s->experts);
    if (s->tokens < 1 || s->tokens > 1 << 24 || s->topics < 1 || s->topics > 256 || s->topic_tokens < 1)
        return tc_fail(e, TC_ARGUMENT, "generated routes: %u tokens, %u topics of %u tokens", s->tokens,
                       s->topics, s->topic_tokens);
    if (!(s->spread >= s->top_k && s->spread <= 1e6) || !(s->common >= 0 && s->common <= 1) ||
        !(s->stray >= 0 && s->repeat >= 0 && s->stray + s->repeat <= 0.95))
        return tc_fail(e, TC_ARGUMENT, "generated routes: spread %g, common %g, repeat %g, stray %g",
                       s->spread, s->common, s->repeat, s->stray);
    return TC_OK;
}

tc_status tc_routes_generate(const tc_route_spec *s, tc_routes *ret, tc_error *e)
{
    TC_TRY(check_spec(s, e));
    tc_status status;
    size_t chosen = (size_t)s->layers * s->top_k;
    tc_routing_info info = {
        .layers = s->layers, .experts = s->experts, .top_k = s->top_k, .expert_bytes = s->expert_bytes};
    for (uint32_t i = 0; i < s->layers; i++) info.moe[i / 8] |= (uint8_t)(1 << i % 8);
    generator g = {.spec = s, .state = s->seed * 0x2545f4914f6cdd1du};
    *ret = (tc_routes){0};
    g.order = calloc((size_t)s->topics * s->layers * s->experts, sizeof *g.order);
    g.chosen = calloc(chosen, sizeof *g.chosen);
    g.last = calloc(chosen, sizeof *g.last);
    g.drawn = calloc(s->experts, sizeof *g.drawn);
    if (!g.order || !g.chosen || !g.last || !g.drawn)
        TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for generated routes"));
    TC_GOTO(tc_routes_begin(&info, ret, e));
    make_orders(&g);
    for (uint32_t token = 0; token < s->tokens; token++) {
        draw_token(&g, token);
        TC_GOTO(
            tc_routes_add(ret, token / s->topic_tokens % s->topics, TC_ROUTING_STEP, 1, g.chosen, NULL, e));
    }
out:
    free(g.order);
    free(g.chosen);
    free(g.last);
    free(g.drawn);
    if (status != TC_OK) tc_routes_free(ret);
    return status;
}
