// SPDX-License-Identifier: Apache-2.0
// Owns: the run of a policy over routes, and of the best choice that never changes.
#include "common/placement/replay.h"
#include "common/base/clock.h"
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

static double step_us(const tc_replay_options *o, const tc_routes *routes, const tc_route_step *step,
                      uint32_t hits)
{
    double bytes = (double)routes->info.expert_bytes;
    return tc_cost_step_us(&o->cost, hits * bytes, (step->count - hits) * bytes);
}

static void run(tc_hot_cache *cache, const tc_routes *routes, const tc_replay_options *o,
                tc_cache_fill *fills, fill_queue *queue, tc_replay_result *ret)
{
    double us = 0, counted_us = 0;
    uint64_t all = 0, start_ns = tc_now_ns();
    const uint32_t *table = tc_hot_cache_table(cache);
    for (uint64_t i = 0; i < routes->step_count; i++) {
        const tc_route_step *step = &routes->steps[i];
        land(cache, queue, i, (uint64_t)us);
        uint32_t hits = hits_of(table, routes, step);
        double took = step_us(o, routes, step, hits);
        us += took > 0 ? took : 1000;
        all += step->count;
        if (o->step_hits) o->step_hits[i] = hits;
        if (i >= o->skip_steps) {
            ret->hits += hits;
            ret->lookups += step->count;
            counted_us += took;
        }
        const tc_cache_input in = {.uses = routes->uses + step->first,
                                   .count = step->count,
                                   .tokens = step->tokens,
                                   .now_us = (uint64_t)us};
        uint32_t n = tc_hot_cache_step(cache, &in, fills);
        for (uint32_t k = 0; k < n; k++) push(queue, fills[k].slot, i + 1 + o->fill_steps);
    }
    finish(routes, o, counted_us, tc_now_ns() - start_ns, all, ret);
}

tc_status tc_replay_run(const tc_routes *routes, const tc_replay_options *o, tc_replay_result *ret,
                        tc_error *e)
{
    tc_status status;
    tc_hot_cache *cache = NULL;
    tc_hot_cache_options options = o->cache;
    fill_queue queue = {.room = o->cache.slots_max + 1};
    tc_cache_fill *fills = calloc(TC_FILLS_MAX, sizeof *fills);
    *ret = (tc_replay_result){0};
    options.layers = routes->info.layers;
    options.experts = routes->info.experts;
    options.slot_bytes = routes->info.expert_bytes;
    queue.list = calloc(queue.room, sizeof *queue.list);
    if (!fills || !queue.list) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for a replay"));
    TC_GOTO(tc_hot_cache_create(&options, &cache, e));
    if (o->prior) tc_hot_cache_prior(cache, o->prior);
    run(cache, routes, o, fills, &queue, ret);
    tc_cache_stats stats;
    tc_hot_cache_stats(cache, &stats);
    ret->fills = stats.fills;
    ret->fill_bytes = stats.fill_bytes;
    ret->evictions = stats.evictions;
out:
    tc_hot_cache_free(cache);
    free(fills);
    free(queue.list);
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
    uint64_t start_ns = tc_now_ns();
    for (uint64_t i = o->skip_steps; i < routes->step_count; i++) {
        uint32_t hits = hits_of(table, routes, &routes->steps[i]);
        ret->hits += hits;
        ret->lookups += routes->steps[i].count;
        us += step_us(o, routes, &routes->steps[i], hits);
    }
    ret->fills = o->cache.slots < n ? o->cache.slots : n;
    ret->fill_bytes = ret->fills * routes->info.expert_bytes;
    finish(routes, o, us, tc_now_ns() - start_ns, ret->lookups, ret);
out:
    free(list);
    free(table);
    return status;
}
