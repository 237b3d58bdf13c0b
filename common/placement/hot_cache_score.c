// SPDX-License-Identifier: Apache-2.0
// Owns: what the cache learns from a step: scores by policy, and which misses are candidates.
//
// A decayed score would have every expert multiplied down at every token. Instead a use counts for more the
// later it is (scale doubles in a half-life), and what a unit is worth now (gain) goes down; so only what is
// used is touched. Now and then both are brought back before they leave a float's range.
#include "common/placement/hot_cache_impl.h"

#include <math.h>

static const double SCALE_MAX = 1e15;
// Half-lives of the hit rates that are compared, the drop that means something, and what is kept then.
static const double WATCH_TOKENS = 3, STEADY_TOKENS = 128, CHANCES = 4, DROP_MIN = 0.04, FORGET = 0.02;
enum { QUIET_TOKENS = 24 }; // between two changes

enum { LRU_SPAN = 1 << 23, AHEAD_USES = 12 };

// Rates: a use a token, for ever, is worth 1 by either half-life. Keys are told in units of the slow scale.
void tc_cache_update_gains(tc_hot_cache *c)
{
    double fast = c->o.fast_weight * M_LN2 / c->o.fast_tokens;
    c->fast_gain = (float)(fast * c->slow_scale / c->fast_scale);
    c->slow_gain = (float)((1 - c->o.fast_weight) * M_LN2 / c->o.slow_tokens);
}

static void rescale(tc_hot_cache *c)
{
    float fast = (float)(1 / c->fast_scale), slow = (float)(1 / c->slow_scale);
    for (uint32_t i = 0; i < c->count; i++) {
        c->scores[i].fast *= fast;
        c->scores[i].slow *= slow;
    }
    c->fast_scale = c->slow_scale = 1;
    c->victims_stale = true;
}

void tc_cache_pass_time(tc_hot_cache *c, uint32_t tokens)
{
    if (!tokens) return;
    c->now += tokens;
    c->fast_scale *= exp2(tokens / c->o.fast_tokens);
    c->slow_scale *= exp2(tokens / c->o.slow_tokens);
    if (c->fast_scale > SCALE_MAX || c->slow_scale > SCALE_MAX) rescale(c);
    if (c->now - c->epoch > LRU_SPAN) {
        c->epoch = c->now - LRU_SPAN / 2;
        c->victims_stale = true;
    }
    tc_cache_update_gains(c);
}

void tc_cache_add_use(tc_hot_cache *c, uint32_t index, float uses)
{
    score *s = &c->scores[index];
    s->fast += uses * (float)c->fast_scale;
    s->slow += uses * (float)c->slow_scale;
    s->total += uses;
    tc_cache_used_now(c, index);
    if (s->total < (float)(1 << 22)) return;
    for (uint32_t i = 0; i < c->count; i++) c->scores[i].total /= 2; // before counting by ones loses them
    c->victims_stale = true;
}

// A change of topic shows as a drop of the hit rate beyond what chance makes of so many lookups. What was
// learned before it then weighs little, at once, instead of fading over its half-life.
static void watch_topic(tc_hot_cache *c, uint64_t hits, uint64_t lookups, uint32_t tokens)
{
    if (!lookups || !tokens || c->o.policy < TC_POLICY_DECAYED) return;
    double rate = (double)hits / (double)lookups, per_token = (double)lookups / tokens;
    c->fast_hits += (rate - c->fast_hits) * (1 - exp2(-(double)tokens / WATCH_TOKENS));
    c->slow_hits += (rate - c->slow_hits) * (1 - exp2(-(double)tokens / STEADY_TOKENS));
    c->quiet_tokens += tokens;
    double chance = sqrt(c->slow_hits * (1 - c->slow_hits) / (per_token * WATCH_TOKENS * 2));
    double drop = CHANCES * chance > DROP_MIN ? CHANCES * chance : DROP_MIN;
    if (c->quiet_tokens < QUIET_TOKENS || c->slow_hits - c->fast_hits < drop) return;
    for (uint32_t i = 0; i < c->count; i++) c->scores[i].slow *= (float)FORGET;
    c->slow_hits = c->fast_hits;
    c->quiet_tokens = 0;
    c->victims_stale = true;
    c->stats.topic_changes++;
}

// Whether a miss may be let in; `before`: when it was used before this time.
static bool admissible(const tc_hot_cache *c, uint32_t index, uint32_t before)
{
    if (c->flags[index] & FLAG_FILLING) return false;
    if (!c->o.second_miss || c->free_count) return true;
    return before && c->now - before <= c->o.admission_tokens;
}

// A hit: whether it is owed to an announcement, or to looking ahead in this very step.
static void note_prefetched(tc_hot_cache *c, uint32_t index)
{
    bool left = c->table[index] == TC_NO_SLOT;
    if (c->in_step && c->foreseen_at[index] == c->step_number) {
        c->stats.foreseen_hits++;
        c->foreseen_true++;
    }
    if (left ? !(c->left_at[index] & 1) : !(c->flags[index] & FLAG_PREFETCHED)) return;
    c->flags[index] &= (uint8_t)~FLAG_PREFETCHED;
    c->stats.prefetch_hits++;
}

void tc_cache_learn(tc_hot_cache *c, const tc_cache_input *input)
{
    tc_cache_pass_time(c, input->tokens);
    c->candidate_count = 0;
    uint64_t hits = c->stats.pair_hits, misses = c->stats.pair_misses;
    for (uint32_t i = 0; i < input->count; i++) {
        const tc_expert_use *use = &input->uses[i];
        if (i + AHEAD_USES < input->count) // a model's scores are larger than the nearest caches
            __builtin_prefetch(&c->scores[use[AHEAD_USES].layer * c->o.experts + use[AHEAD_USES].expert], 1);
        if (use->layer >= c->o.layers || use->expert >= c->o.experts) continue;
        uint32_t index = use->layer * c->o.experts + use->expert, before = c->scores[index].last;
        tc_cache_add_use(c, index, (float)use->count);
        if (tc_cache_was_hot(c, index)) {
            c->layer_stats[use->layer].hits++;
            c->stats.pair_hits += use->count;
            note_prefetched(c, index);
            continue;
        }
        if (c->in_step && c->foreseen_at[index] == c->step_number) {
            c->foreseen_true++;
            c->stats.foreseen_late++;
        }
        c->layer_stats[use->layer].misses++;
        c->stats.pair_misses += use->count;
        if (c->candidate_count < c->count && admissible(c, index, before))
            c->candidates[c->candidate_count++].index = index;
        else if (!(c->flags[index] & FLAG_FILLING))
            c->stats.rejected++;
    }
    hits = c->stats.pair_hits - hits;
    watch_topic(c, hits, hits + c->stats.pair_misses - misses, input->tokens);
}
