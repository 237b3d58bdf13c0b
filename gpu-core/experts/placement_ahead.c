// SPDX-License-Identifier: Apache-2.0
// Owns: looking ahead inside a step: what the next layer's router says of the tokens one layer earlier is
// kept for the trace and for the count of how much of it comes true, and fetched where the policy is
// `predictive`. Refuses: prompts' long batches, which use most experts anyway.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "gpu-core/experts/placement_impl.h"

#include <string.h>

tc_status tc_placement_ahead_create(tc_placement *p, tc_error *e)
{
    if (!p->o.tokens_max) return TC_OK;
    p->expected =
        tc_alloc(TC_MEM_OTHER, (size_t)p->o.tokens_max * p->o.layers * p->o.top_k, sizeof *p->expected);
    p->ahead = tc_alloc(TC_MEM_OTHER, p->o.experts, sizeof *p->ahead);
    p->ahead_counts = tc_alloc(TC_MEM_OTHER, p->o.experts, sizeof *p->ahead_counts);
    return p->expected && p->ahead && p->ahead_counts ? TC_OK
                                                      : tc_fail(e, TC_NOMEM, "out of memory for placement");
}

void tc_placement_ahead_free(tc_placement *p)
{
    tc_free(p->expected);
    tc_free(p->ahead);
    tc_free(p->ahead_counts);
}

bool tc_placement_pass_begins(void *arg, uint32_t tokens)
{
    tc_placement *p = arg;
    p->looks = p->fetches = p->reaches = false;
    const bool in_step = p->o.cache && p->o.tier.in_step && p->enabled && p->step_learns;
    p->reaches = in_step && tc_hot_cache_filling_from(p->o.cache, 0);
    if (!p->expected || tokens > p->o.tokens_max) return false;
    p->fetches = in_step && tokens <= TC_AHEAD_TOKENS_MAX &&
                 tc_hot_cache_get_options(p->o.cache)->policy == TC_POLICY_PREDICTIVE;
    p->reaches |= p->fetches;
    p->looks = p->fetches || p->trace;
    if (p->looks) memset(p->expected, 0xff, (size_t)tokens * p->o.layers * p->o.top_k * sizeof *p->expected);
    return p->looks;
}

void tc_placement_routed(void *arg, uint32_t layer)
{
    tc_placement *p = arg;
    if (!p->reaches) return;
    uint64_t start_ns = tc_now_ns();
    tc_hot_cache_reach(p->o.cache, layer);
    tc_placement_tell_changes(p);
    p->ns += tc_now_ns() - start_ns;
}

// Once each, what most tokens expect first.
static uint32_t list_expected(tc_placement *p, uint32_t layer, uint32_t pairs, const uint32_t *experts)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < pairs; i++)
        if (experts[i] < p->o.experts && !p->ahead_counts[experts[i]]++)
            p->ahead[n++] = (tc_expert_use){(uint16_t)layer, (uint16_t)experts[i], 0};
    for (uint32_t i = 0; i < n; i++) {
        tc_expert_use moved = p->ahead[i];
        uint32_t at = i;
        moved.count = p->ahead_counts[moved.expert];
        p->ahead_counts[moved.expert] = 0;
        for (; at && p->ahead[at - 1].count < moved.count; at--) p->ahead[at] = p->ahead[at - 1];
        p->ahead[at] = moved;
    }
    return n;
}

void tc_placement_expects(void *arg, uint32_t layer, uint32_t n, const uint32_t *experts)
{
    tc_placement *p = arg;
    const uint32_t top_k = p->o.top_k;
    uint64_t start_ns = tc_now_ns();
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t k = 0; k < top_k; k++)
            p->expected[((size_t)t * p->o.layers + layer) * top_k + k] = (int32_t)experts[t * top_k + k];
    if (p->fetches) {
        uint32_t count = list_expected(p, layer, n * top_k, experts);
        uint32_t slots = tc_hot_cache_get_options(p->o.cache)->slots;
        uint32_t most = slots / TC_AHEAD_SHARE < TC_FILLS_MAX ? slots / TC_AHEAD_SHARE : TC_FILLS_MAX;
        uint32_t fills = tc_hot_cache_foresee(p->o.cache, p->ahead, count, most, start_ns / 1000, p->fills);
        tc_placement_tell_changes(p);
        if (fills) p->o.tier.fill(p->o.tier.arg, p->fills, fills, true);
    }
    p->ns += tc_now_ns() - start_ns;
}

const int32_t *tc_placement_expected_of(const tc_placement *p, uint32_t first)
{
    return p->looks ? p->expected + (size_t)first * p->o.layers * p->o.top_k : NULL;
}

static bool is_in(const int32_t *row, uint32_t count, int32_t expert)
{
    for (uint32_t k = 0; k < count; k++)
        if (row[k] == expert) return true;
    return false;
}

void tc_placement_count_true(tc_placement *p, uint32_t tokens, const int32_t *chosen, const int32_t *expected)
{
    const uint32_t top_k = p->o.top_k;
    for (size_t at = 0; at < (size_t)tokens * p->o.layers * top_k; at += top_k) {
        if (chosen[at] < 0 || expected[at] < 0) continue;
        for (uint32_t k = 0; k < top_k; k++) p->expected_true += is_in(expected + at, top_k, chosen[at + k]);
        p->expected_pairs += top_k;
    }
}
