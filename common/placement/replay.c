// SPDX-License-Identifier: Apache-2.0
// Owns: the run of a policy over routes, and of the best choice that never changes.
#include "common/placement/replay.h"
#include "common/base/mem.h"

#include <stdlib.h>
#include <string.h>

static void finish(const tc_routes *routes, const tc_replay_options *o, double us, uint64_t ns, uint64_t all,
                   tc_replay_result *ret)
{
    uint64_t tokens = 0;
    for (uint64_t i = o->skip_steps; i < routes->step_count; i++) tokens += routes->steps[i].tokens;
    ret->hit_rate = ret->lookups ? (double)ret->hits / (double)ret->lookups : 0;
    ret->lookups_per_s = ns ? (double)all * 1e9 / (double)ns : 0;
    ret->tokens_per_s = us > 0 ? (double)tokens * 1e6 / us : 0;
}

typedef struct in_flight {
    uint32_t slot;
    uint64_t due; // step
} in_flight;

// A ring: every fill takes the same time.
typedef struct fill_queue {
    in_flight *list;
    uint32_t room, head, count;
} fill_queue;

static void push(fill_queue *q, uint32_t slot, uint64_t due)
{
    q->list[(q->head + q->count++) % q->room] = (in_flight){slot, due};
}

static void land(tc_hot_cache *cache, fill_queue *q, uint64_t step, uint64_t now_us)
{
    while (q->count && q->list[q->head].due <= step) {
        tc_hot_cache_fill_done(cache, q->list[q->head].slot, now_us);
        q->head = (q->head + 1) % q->room;
        q->count--;
    }
    tc_hot_cache_publish(cache);
}

static uint32_t hits_of(const uint32_t *table, const tc_routes *routes, const tc_route_step *step)
{
    uint32_t hits = 0, experts = routes->info.experts;
    const tc_expert_use *uses = routes->uses + step->first;
    for (uint32_t i = 0; i < step->count; i++)
        hits += table[uses[i].layer * experts + uses[i].expert] != TC_NO_SLOT;
    return hits;
}

// What is fetched while a step runs is read out of the same memory as its misses.
static double step_us(const tc_replay_options *o, const tc_routes *routes, const tc_route_step *step,
                      uint32_t hits, uint32_t fetched)
{
    double bytes = (double)routes->info.expert_bytes;
    return tc_cost_step_us(&o->cost, hits * bytes, (step->count - hits + fetched) * bytes);
}

typedef struct replayed {
    tc_hot_cache *cache;
    const tc_routes *routes;
    const tc_replay_options *o;
    tc_cache_fill *fills;
    fill_queue queue;
    double us;
    uint64_t lookups_ahead;
} replayed;

// A step whose layers are looked up one after the other, each fetching what the next is expected to use. What
// the link can take is there in time.
static uint32_t look_ahead(replayed *r, const tc_route_step *step, uint32_t *ret_fetched)
{
    const uint32_t *table = tc_hot_cache_table(r->cache), experts = r->routes->info.experts;
    const tc_expert_use *use = r->routes->uses + step->first, *end = use + step->count;
    const tc_expert_use *expected = r->routes->expected + step->expected_first;
    uint32_t hits = 0, left = step->expected_count, ahead = r->o->ahead ? r->o->ahead : TC_FILLS_MAX;
    if (ahead > TC_FILLS_MAX) ahead = TC_FILLS_MAX;
    *ret_fetched = 0;
    while (use < end) {
        uint32_t layer = use->layer;
        tc_hot_cache_reach(r->cache, layer);
        for (; use < end && use->layer == layer; use++)
            hits += table[layer * experts + use->expert] != TC_NO_SLOT;
        while (left && expected->layer <= layer) expected++, left--;
        uint32_t count = 0;
        while (count < left && expected[count].layer == expected->layer) count++;
        uint32_t n = tc_hot_cache_foresee(r->cache, expected, count, ahead, (uint64_t)r->us, r->fills);
        for (uint32_t k = 0; k < n; k++) tc_hot_cache_fill_done(r->cache, r->fills[k].slot, (uint64_t)r->us);
        *ret_fetched += n;
        r->lookups_ahead += count;
    }
    return hits;
}

static void run(replayed *r, tc_replay_result *ret)
{
    const tc_routes *routes = r->routes;
    double counted_us = 0;
    uint64_t all = 0, start_ns = tc_replay_cpu_ns();
    const uint32_t *table = tc_hot_cache_table(r->cache);
    bool looks = r->o->cache.policy == TC_POLICY_PREDICTIVE;
    for (uint64_t i = 0; i < routes->step_count; i++) {
        const tc_route_step *step = &routes->steps[i];
        uint32_t fetched = 0;
        land(r->cache, &r->queue, i, (uint64_t)r->us);
        bool ahead = looks && step->expected_count && step->tokens <= r->o->ahead_tokens;
        uint32_t hits = ahead ? look_ahead(r, step, &fetched) : hits_of(table, routes, step);
        double took = step_us(r->o, routes, step, hits, fetched);
        r->us += took > 0 ? took : 1000;
        all += step->count;
        if (r->o->step_hits) r->o->step_hits[i] = hits;
        if (i >= r->o->skip_steps) {
            ret->hits += hits;
            ret->lookups += step->count;
            counted_us += took;
        }
        const tc_cache_input in = {.uses = routes->uses + step->first,
                                   .count = step->count,
                                   .tokens = step->tokens,
                                   .now_us = (uint64_t)r->us};
        uint32_t n = tc_hot_cache_step(r->cache, &in, r->fills);
        for (uint32_t k = 0; k < n; k++) push(&r->queue, r->fills[k].slot, i + 1 + r->o->fill_steps);
    }
    ret->lookups_ahead = r->lookups_ahead;
    finish(routes, r->o, counted_us, tc_replay_cpu_ns() - start_ns, all + r->lookups_ahead, ret);
}

tc_status tc_replay_run(const tc_routes *routes, const tc_replay_options *o, tc_replay_result *ret,
                        tc_error *e)
{
    tc_status status;
    replayed r = {.routes = routes, .o = o, .queue = {.room = o->cache.slots_max + 1}};
    tc_hot_cache_options options = o->cache;
    *ret = (tc_replay_result){0};
    options.layers = routes->info.layers;
    options.experts = routes->info.experts;
    options.slot_bytes = routes->info.expert_bytes;
    r.fills = calloc(TC_FILLS_MAX, sizeof *r.fills);
    r.queue.list = calloc(r.queue.room, sizeof *r.queue.list);
    if (!r.fills || !r.queue.list) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for a replay"));
    TC_GOTO(tc_hot_cache_create(&options, &r.cache, e));
    if (o->prior) tc_hot_cache_prior(r.cache, o->prior);
    run(&r, ret);
    tc_cache_stats stats;
    tc_hot_cache_stats(r.cache, &stats);
    ret->fills = stats.fills;
    ret->fill_bytes = stats.fill_bytes;
    ret->evictions = stats.evictions;
    ret->foreseen = stats.foreseen;
    ret->foreseen_hits = stats.foreseen_hits;
out:
    tc_hot_cache_free(r.cache);
    free(r.fills);
    free(r.queue.list);
    return status;
}

// ---- the best that never changes ----

typedef struct counted {
    uint64_t uses;
    uint32_t index;
} counted;

static int by_uses(const void *a, const void *b)
{
    const counted *x = a, *y = b;
    if (x->uses != y->uses) return x->uses < y->uses ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

// Marks the hottest in `table`: of all, or of each layer its share.
static void choose_best(const tc_routes *routes, const tc_replay_options *o, counted *list, uint32_t *table)
{
    uint32_t layers = routes->info.layers, experts = routes->info.experts, slots = o->cache.slots;
    uint32_t groups = o->cache.per_layer ? layers : 1, size = layers * experts / groups;
    memset(table, 0xff, (size_t)layers * experts * sizeof *table);
    for (uint32_t i = 0; i < layers * experts; i++) list[i] = (counted){0, i};
    for (uint64_t i = routes->step_count > o->skip_steps ? routes->steps[o->skip_steps].first : 0;
         i < routes->use_count; i++)
        list[routes->uses[i].layer * experts + routes->uses[i].expert].uses++;
    for (uint32_t g = 0; g < groups; g++) {
        uint32_t share = slots / groups + (g < slots % groups);
        qsort(list + (size_t)g * size, size, sizeof *list, by_uses);
        for (uint32_t i = 0; i < share && i < size; i++) table[list[g * size + i].index] = i;
    }
}

tc_status tc_replay_best_static(const tc_routes *routes, const tc_replay_options *o, tc_replay_result *ret,
                                tc_error *e)
{
    tc_status status = TC_OK;
    uint32_t n = routes->info.layers * routes->info.experts;
    counted *list = calloc(n, sizeof *list);
    uint32_t *table = calloc(n, sizeof *table);
    *ret = (tc_replay_result){0};
    if (!list || !table) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for a replay"));
    choose_best(routes, o, list, table);
    double us = 0;
    uint64_t start_ns = tc_replay_cpu_ns();
    for (uint64_t i = o->skip_steps; i < routes->step_count; i++) {
        uint32_t hits = hits_of(table, routes, &routes->steps[i]);
        ret->hits += hits;
        ret->lookups += routes->steps[i].count;
        us += step_us(o, routes, &routes->steps[i], hits, 0);
    }
    ret->fills = o->cache.slots < n ? o->cache.slots : n;
    ret->fill_bytes = ret->fills * routes->info.expert_bytes;
    finish(routes, o, us, tc_replay_cpu_ns() - start_ns, ret->lookups, ret);
out:
    free(list);
    free(table);
    return status;
}
