// SPDX-License-Identifier: Apache-2.0
// Owns: the calls and the clock of border.h.
#include "gpu-core/experts/border.h"

#include "common/base/clock.h"
#include "common/base/mem.h"
#include "gpu-core/dev/prompt_border.h"
#include "gpu-core/experts/plan.h"

#include <stdio.h>

enum { TOKENS_SMALL = 16, TOKENS_LARGE = TC_PROMPT_BORDER, TOKENS_LEAST = 48, BUDGET_US = 300000 };

typedef struct calls {
    const tc_border_options *o;
    const tc_store_info *info;
    uint32_t layer;
    float *x, *weight;
    uint32_t *expert, *counts;
    tc_expert_pair *pairs;
    int64_t *sum;
    uint64_t begin_us;
} calls;

static uint32_t below(uint64_t *state, uint32_t n) // xorshift*
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(((*state * 0x2545f4914f6cdd1du) >> 32) * n >> 32);
}

static tc_status open_calls(calls *c, tc_error *e)
{
    const size_t values = (size_t)TOKENS_LARGE * c->info->hidden,
                 pairs = (size_t)TOKENS_LARGE * c->info->top_k;
    uint64_t state = 7;
    c->x = tc_alloc(TC_MEM_OTHER, values, sizeof *c->x);
    c->sum = tc_alloc(TC_MEM_OTHER, values, sizeof *c->sum);
    c->expert = tc_alloc(TC_MEM_OTHER, pairs, sizeof *c->expert);
    c->weight = tc_alloc(TC_MEM_OTHER, pairs, sizeof *c->weight);
    c->pairs = tc_alloc(TC_MEM_OTHER, pairs, sizeof *c->pairs);
    c->counts = tc_alloc(TC_MEM_OTHER, c->info->experts + 1, sizeof *c->counts);
    if (!c->x || !c->sum || !c->expert || !c->weight || !c->pairs || !c->counts)
        return tc_fail(e, TC_NOMEM, "out of memory for measuring calls");
    for (size_t i = 0; i < values; i++) c->x[i] = (float)below(&state, 2001) / 1000 - 1;
    for (size_t i = 0; i < pairs; i++) {
        const uint32_t k = (uint32_t)(i % c->info->top_k);
        bool taken = true;
        while (taken) {
            c->expert[i] = below(&state, c->info->experts);
            taken = false;
            for (uint32_t j = 1; j <= k; j++) taken |= c->expert[i - j] == c->expert[i];
        }
        c->weight[i] = 1.0f / (float)c->info->top_k;
    }
    while (c->layer < c->info->layers && !tc_store_layer_has_experts(c->o->store, c->layer)) c->layer++;
    return c->layer < c->info->layers ? TC_OK : tc_fail(e, TC_NOT_FOUND, "no layer has experts");
}

static void close_calls(calls *c)
{
    void *all[] = {c->x, c->sum, c->expert, c->weight, c->pairs, c->counts};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tc_free(all[i]);
}

static tc_status time_call(calls *c, uint32_t tokens, tc_border_call *ret, tc_error *e)
{
    tc_expert_source *s = c->o->source;
    ret->experts =
        tc_plan_pairs(c->expert, c->weight, tokens, c->info->top_k, c->info->experts, c->counts, c->pairs);
    ret->pairs = tokens * c->info->top_k;
    const tc_expert_call call = {.layer = c->layer,
                                 .unit_end = c->info->units,
                                 .precision = TC_FAST,
                                 .tokens = tokens,
                                 .hidden = c->info->hidden,
                                 .x = c->x,
                                 .pair_count = ret->pairs,
                                 .pairs = c->pairs};
    const uint64_t start_us = tc_now_us();
    TC_TRY(s->ops->post(s, &call, e));
    TC_TRY(s->ops->join(s, c->sum, e));
    ret->us = (double)(tc_now_us() - start_us);
    return TC_OK;
}

static uint64_t left_us(const calls *c)
{
    const uint64_t spent = tc_now_us() - c->begin_us;
    const uint64_t budget = c->o->budget_us ? c->o->budget_us : BUDGET_US;
    return spent < budget ? budget - spent : 0;
}

// The large call has as many tokens as what is left of the budget has time for, as the small one tells.
static tc_status measure_workers(calls *c, tc_border_rates *rates, tc_error *e)
{
    tc_border_call small, large;
    uint32_t tokens = TOKENS_LARGE;
    TC_TRY(time_call(c, TOKENS_SMALL, &small, e)); // workers wake, pages come
    TC_TRY(time_call(c, TOKENS_SMALL, &small, e));
    while (tokens > TOKENS_LEAST && small.us * tokens / TOKENS_SMALL > (double)left_us(c)) tokens /= 2;
    if (small.us * tokens / TOKENS_SMALL > (double)left_us(c))
        return tc_fail(e, TC_TIMEOUT, "%d tokens took workers %.0f ms", TOKENS_SMALL, small.us / 1000);
    TC_TRY(time_call(c, tokens, &large, e));
    tc_border_learn(rates, &small, &large);
    return TC_OK;
}

tc_status tc_border_measure(const tc_border_options *o, tc_border_measured *ret, tc_error *e)
{
    calls c = {.o = o, .info = tc_store_get_info(o->store), .begin_us = tc_now_us()};
    tc_border_rates rates = {0};
    uint32_t layers = 0;
    tc_status status;
    for (uint32_t l = 0; l < c.info->layers; l++) layers += tc_store_layer_has_experts(o->store, l);
    const uint32_t hot = layers ? o->slots / layers : 0;
    const tc_border_shape shape = {.experts = c.info->experts,
                                   .cold = hot < c.info->experts ? c.info->experts - hot : 0,
                                   .top_k = c.info->top_k};
    if (!o->ops->measure(o->dev, TOKENS_LARGE, &rates.copy_us, &rates.product_us))
        return tc_fail(e, TC_NOT_FOUND, "the card's part cannot be measured");
    TC_GOTO(open_calls(&c, e));
    TC_GOTO(measure_workers(&c, &rates, e));
    *ret = (tc_border_measured){.tokens = tc_border_choose(&rates, &shape),
                                .copy_us = rates.copy_us,
                                .product_us = rates.product_us,
                                .expert_us = rates.expert_us,
                                .pair_us = rates.pair_us};
out:
    close_calls(&c);
    ret->us = tc_now_us() - c.begin_us;
    return status;
}

bool tc_border_at_rest(const tc_border_options *o, void (*log)(void *arg, bool warning, const char *text),
                       void *arg)
{
    tc_source_stats stats;
    tc_border_measured m = {0};
    tc_error why;
    char text[400];
    if (!o->ops->ready(o->dev)) return false;
    o->source->ops->stats(o->source, &stats);
    if (*stats.reason || stats.workers_up < stats.workers_expected) return false;
    const bool fine = tc_border_measure(o, &m, &why) == TC_OK;
    if (fine) {
        o->ops->border(o->dev, m.tokens);
        snprintf(
            text, sizeof text,
            "steps of up to %u tokens share cold experts, longer ones stream them: an expert takes %.1f us "
            "over the link, %.1f us to multiply, %.1f us and %.1f a token at the workers (measured in %.0f "
            "ms)",
            m.tokens, m.copy_us, m.product_us, m.expert_us, m.pair_us, (double)m.us / 1000);
    } else {
        snprintf(text, sizeof text, "--prompt-border auto: %.250s; it stays %d", why.text, TC_PROMPT_BORDER);
    }
    log(arg, !fine, text);
    return true;
}
