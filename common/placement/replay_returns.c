// SPDX-License-Identifier: Apache-2.0
// Owns: what footprints bring to conversations that come back, out of a trace that tells sessions apart.
#include "common/placement/footprint.h"
#include "common/placement/replay.h"

#include <stdlib.h>

typedef struct returns {
    const tc_routes *routes;
    tc_hot_cache *cache;
    tc_footprints *footprints;
    tc_cache_fill *fills;
    uint32_t left; // tokens of the return under way that are still counted
} returns;

static void order(returns *r, const tc_cache_input *input)
{
    uint32_t n = tc_hot_cache_step(r->cache, input, r->fills);
    while (n) tc_hot_cache_fill_done(r->cache, r->fills[--n].slot, 0);
}

static void count(returns *r, const tc_route_step *step, tc_replay_returns *ret)
{
    const uint32_t *table = tc_hot_cache_table(r->cache);
    for (uint32_t i = 0; i < step->count; i++) {
        const tc_expert_use *use = &r->routes->uses[step->first + i];
        ret->hits += table[use->layer * r->routes->info.experts + use->expert] != TC_NO_SLOT;
    }
    ret->lookups += step->count;
    r->left--;
}

static void run(returns *r, uint32_t tokens, bool warm, tc_replay_returns *ret)
{
    uint64_t last = 0;
    for (uint64_t i = 0; i < r->routes->step_count; i++) {
        const tc_route_step *step = &r->routes->steps[i];
        uint64_t id = step->session + 1ull;
        bool comes = id != last;
        last = id;
        if (!step->prompt)
            tc_hot_cache_publish(r->cache); // else not before the prompt's first step has ended
        if (comes) {
            bool known = tc_footprint_find(r->footprints, id) != NULL;
            r->left = known ? tokens : 0;
            ret->returns += known;
            if (warm) tc_footprint_announce(r->footprints, id, r->routes->info.top_k, r->cache);
            if (warm) order(r, &(tc_cache_input){0});
        }
        if (r->left && !step->prompt) count(r, step, ret);
        tc_footprint_add(r->footprints, id, r->routes->uses + step->first, step->count);
        order(r, &(tc_cache_input){
                     .uses = r->routes->uses + step->first, .count = step->count, .tokens = step->tokens});
        if (step->prompt) tc_hot_cache_publish(r->cache);
    }
}

tc_status tc_replay_first_tokens(const tc_routes *routes, const tc_replay_options *o, uint32_t tokens,
                                 bool warm, tc_replay_returns *ret, tc_error *e)
{
    tc_status status;
    returns r = {.routes = routes, .fills = calloc(TC_FILLS_MAX, sizeof *r.fills)};
    tc_hot_cache_options options = o->cache;
    options.layers = routes->info.layers;
    options.experts = routes->info.experts;
    *ret = (tc_replay_returns){0};
    if (!r.fills) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory for a replay"));
    TC_GOTO(tc_hot_cache_create(&options, &r.cache, e));
    TC_GOTO(tc_footprints_create(options.layers, options.experts, TC_FOOTPRINTS_MAX, &r.footprints, e));
    run(&r, tokens, warm, ret);
out:
    tc_hot_cache_free(r.cache);
    tc_footprints_free(r.footprints);
    free(r.fills);
    return status;
}
