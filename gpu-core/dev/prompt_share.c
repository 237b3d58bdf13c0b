// SPDX-License-Identifier: Apache-2.0
// Owns: the choice and the rates of prompt_share.h. Refuses: clocks and devices.
#include "gpu-core/dev/prompt_share.h"

#include <string.h>

static const double GUESS_BYTES_PER_US = 40000, GUESS_UNITS_AN_EXPERT = 2; // that the workers do meanwhile
static const double WEIGHTS_UNITS = 2;
static const double ASK_US = 150;      // routes to the host, dealing out, the call, and its answer seen
static const double NEW = 0.125;       // share of the last layer in what is learned
static const double FASTER = 0.999;    // who is not asked for a layer may be faster than thought
static const double WORTHWHILE = 0.97; // of a layer's time, else nobody is asked
enum { UNSEEN_PART = 16 };             // of the layer's cold experts, where nothing is known of workers

tc_prompt_rates tc_prompt_guess(uint64_t expert_bytes)
{
    const double us = (double)expert_bytes / GUESS_BYTES_PER_US;
    return (tc_prompt_rates){.link_us = us, .unit_us = us / GUESS_UNITS_AN_EXPERT};
}

// ---- learning ----

static void learn(double *rate, double us)
{
    if (us > 0) *rate += NEW * (us - *rate);
}

void tc_prompt_learn(tc_prompt_rates *r, const tc_prompt_seen *s)
{
    if (s->copied) learn(&r->link_us, s->copied_us / s->copied);
    if (s->lead_us > 0 && r->lead_us <= 0)
        r->lead_us = s->lead_us;
    else
        learn(&r->lead_us, s->lead_us);
    if (!s->units) {
        r->unit_us *= FASTER;
    } else if (!r->seen && s->compute_us > 0) {
        r->unit_us = s->compute_us / s->units;
        r->seen = true;
    } else {
        learn(&r->unit_us, s->compute_us / s->units);
    }
}

// ---- choosing ----

double tc_prompt_layer_us(const tc_prompt_rates *r, const tc_prompt_layer *l, uint32_t streamed, double units)
{
    const double early = l->ahead * r->link_us, idle = r->lead_us > early ? r->lead_us - early : 0;
    const double link = idle + streamed * r->link_us + (units > 0 ? l->join_us : 0);
    const double there = units > 0 ? r->lead_us + ASK_US + units * r->unit_us : r->lead_us;
    return link > there ? link : there;
}

// Candidates by rising number of tokens, then by number: counted, not compared.
static uint32_t sort_candidates(const tc_prompt_layer *l, uint16_t *order)
{
    enum { STEPS = 256 }; // more tokens than that are all alike
    uint32_t at[STEPS + 1] = {0}, count = 0;
    for (uint32_t e = 0; e < l->experts; e++)
        if (l->box[e] < l->boxes && l->tokens[e]) {
            at[(l->tokens[e] < STEPS ? l->tokens[e] : STEPS - 1) + 1]++;
            count++;
        }
    for (int i = 0; i < STEPS; i++) at[i + 1] += at[i];
    for (uint32_t e = 0; e < l->experts; e++)
        if (l->box[e] < l->boxes && l->tokens[e])
            order[at[l->tokens[e] < STEPS ? l->tokens[e] : STEPS - 1]++] = (uint16_t)e;
    return count;
}

uint32_t tc_prompt_choose(const tc_prompt_rates *r, const tc_prompt_layer *l, uint16_t *order, uint8_t *given,
                          double *ret_units)
{
    double units[TC_PROMPT_BOXES_MAX] = {0}, most = 0;
    const uint32_t candidates = sort_candidates(l, order), all = l->streamed + candidates;
    const double alone = tc_prompt_layer_us(r, l, all, 0);
    uint32_t count = 0, limit = r->seen ? candidates : (all + UNSEEN_PART - 1) / UNSEEN_PART;
    memset(given, 0, l->experts);
    *ret_units = 0;
    for (uint32_t i = 0; i < candidates && count < limit; i++) {
        const uint32_t e = order[i];
        const double own = units[l->box[e]] + WEIGHTS_UNITS + l->tokens[e], top = own > most ? own : most;
        // more only while the link would end after the workers, so that the last one brings both together
        if (count &&
            tc_prompt_layer_us(r, l, all - count - 1, top) > tc_prompt_layer_us(r, l, all - count, most))
            continue;
        units[l->box[e]] = own;
        most = top;
        given[e] = 1;
        count++;
    }
    if (count && r->seen && tc_prompt_layer_us(r, l, all - count, most) > alone * WORTHWHILE) {
        memset(given, 0, l->experts);
        return 0;
    }
    *ret_units = most;
    return count;
}

uint32_t tc_prompt_choose_part(uint32_t percent, const tc_prompt_layer *l, uint16_t *order, uint8_t *given,
                               double *ret_units)
{
    double units[TC_PROMPT_BOXES_MAX] = {0};
    const uint32_t count = sort_candidates(l, order) * percent / 100;
    memset(given, 0, l->experts);
    *ret_units = 0;
    for (uint32_t i = 0; i < count; i++) {
        double *own = &units[l->box[order[i]]];
        *own += WEIGHTS_UNITS + l->tokens[order[i]];
        if (*own > *ret_units) *ret_units = *own;
        given[order[i]] = 1;
    }
    return count;
}
