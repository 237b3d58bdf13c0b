// SPDX-License-Identifier: Apache-2.0
// Owns: the optimum that knows the future. Residents lie in a heap a pool (a layer, or all), the one used
// last of all at its root; a miss is let in where it is used again before that one. What a step misses is
// there from the next step on, as for the policies.
#include "common/placement/replay.h"

#include <stdlib.h>
#include <string.h>

#define NEVER UINT32_MAX

typedef struct pool {
    uint32_t *heap; // indices
    uint32_t count, room;
} pool;

typedef struct belady {
    const tc_routes *routes;
    uint32_t *next;  // by use: the step of the next use of the same index; NEVER
    uint32_t *due;   // by index: the step of its next use
    uint32_t *place; // by index: in its heap, + 1; 0: not resident
    uint32_t *memory;
    pool *pools;
    uint32_t pool_count;
} belady;

static void put(belady *b, pool *p, uint32_t at, uint32_t index)
{
    p->heap[at] = index;
    b->place[index] = at + 1;
}

static void sift_up(belady *b, pool *p, uint32_t at)
{
    uint32_t index = p->heap[at];
    while (at && b->due[p->heap[(at - 1) / 2]] < b->due[index]) {
        put(b, p, at, p->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(b, p, at, index);
}

static void sift_down(belady *b, pool *p, uint32_t at)
{
    uint32_t index = p->heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= p->count) break;
        if (child + 1 < p->count && b->due[p->heap[child + 1]] > b->due[p->heap[child]]) child++;
        if (b->due[p->heap[child]] <= b->due[index]) break;
        put(b, p, at, p->heap[child]);
        at = child;
    }
    put(b, p, at, index);
}

static void find_next(belady *b)
{
    const tc_routes *r = b->routes;
    uint32_t n = r->info.layers * r->info.experts;
    memset(b->due, 0xff, n * sizeof *b->due);
    for (uint64_t step = r->step_count; step-- > 0;) {
        for (uint32_t i = 0; i < r->steps[step].count; i++) {
            uint64_t use = r->steps[step].first + i;
            uint32_t index = r->uses[use].layer * r->info.experts + r->uses[use].expert;
            b->next[use] = b->due[index];
            b->due[index] = (uint32_t)step;
        }
    }
}

static void let_in(belady *b, pool *p, uint32_t index, tc_replay_result *ret)
{
    if (b->due[index] == NEVER || !p->room) return;
    if (p->count < p->room) {
        put(b, p, p->count++, index);
        sift_up(b, p, p->count - 1);
        ret->fills++;
        return;
    }
    uint32_t last = p->heap[0];
    if (b->due[last] <= b->due[index]) return;
    b->place[last] = 0;
    put(b, p, 0, index);
    sift_down(b, p, 0);
    ret->fills++;
    ret->evictions++;
}

// Hits first: their next use moves on. Then misses, against what is then known.
static uint32_t run_step(belady *b, uint64_t number, tc_replay_result *ret)
{
    const tc_routes *r = b->routes;
    const tc_route_step *step = &r->steps[number];
    uint32_t hits = 0;
    for (uint32_t i = 0; i < step->count; i++) {
        const tc_expert_use *use = &r->uses[step->first + i];
        uint32_t index = use->layer * r->info.experts + use->expert;
        b->due[index] = b->next[step->first + i];
        if (!b->place[index]) continue;
        pool *p = &b->pools[b->pool_count > 1 ? use->layer : 0];
        sift_up(b, p, b->place[index] - 1); // later than before: towards the root
        hits++;
    }
    for (uint32_t i = 0; i < step->count; i++) {
        const tc_expert_use *use = &r->uses[step->first + i];
        uint32_t index = use->layer * r->info.experts + use->expert;
        if (!b->place[index]) let_in(b, &b->pools[b->pool_count > 1 ? use->layer : 0], index, ret);
    }
    return hits;
}

static void share_out(belady *b, uint32_t slots)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < b->pool_count; i++) {
        b->pools[i] = (pool){b->memory + at, 0, slots / b->pool_count + (i < slots % b->pool_count)};
        at += b->pools[i].room;
    }
}

static void run(belady *b, const tc_replay_options *o, tc_replay_result *ret)
{
    const tc_routes *r = b->routes;
    double us = 0, bytes = (double)r->info.expert_bytes;
    uint64_t start_ns = tc_replay_cpu_ns(), tokens = 0, all = 0;
    for (uint64_t i = 0; i < r->step_count; i++) {
        uint32_t hits = run_step(b, i, ret);
        all += r->steps[i].count;
        if (o->step_hits) o->step_hits[i] = hits;
        if (i < o->skip_steps) continue;
        ret->hits += hits;
        ret->lookups += r->steps[i].count;
        tokens += r->steps[i].tokens;
        us += tc_cost_step_us(&o->cost, hits * bytes, (r->steps[i].count - hits) * bytes);
    }
    uint64_t ns = tc_replay_cpu_ns() - start_ns;
    ret->fill_bytes = ret->fills * r->info.expert_bytes;
    ret->hit_rate = ret->lookups ? (double)ret->hits / (double)ret->lookups : 0;
    ret->lookups_per_s = ns ? (double)all * 1e9 / (double)ns : 0;
    ret->tokens_per_s = us > 0 ? (double)tokens * 1e6 / us : 0;
}

tc_status tc_replay_belady(const tc_routes *routes, const tc_replay_options *o, tc_replay_result *ret,
                           tc_error *e)
{
    tc_status status = TC_OK;
    uint32_t n = routes->info.layers * routes->info.experts;
    belady b = {.routes = routes, .pool_count = o->cache.per_layer ? routes->info.layers : 1};
    *ret = (tc_replay_result){0};
    b.next = calloc(routes->use_count + 1, sizeof *b.next);
    b.due = calloc(n, sizeof *b.due);
    b.place = calloc(n, sizeof *b.place);
    b.memory = calloc(o->cache.slots + 1, sizeof *b.memory);
    b.pools = calloc(b.pool_count, sizeof *b.pools);
    if (!b.next || !b.due || !b.place || !b.memory || !b.pools)
        TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for a replay of %llu lookups",
                        (unsigned long long)routes->use_count));
    find_next(&b);
    share_out(&b, o->cache.slots);
    run(&b, o, ret);
out:
    free(b.next);
    free(b.due);
    free(b.place);
    free(b.memory);
    free(b.pools);
    return status;
}
