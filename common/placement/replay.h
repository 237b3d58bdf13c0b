// SPDX-License-Identifier: Apache-2.0
// Owns: what a policy would have done with a recorded (or generated) run: hits, fills, bytes, predicted
// speed; beside Belady's optimum, which knows the future, and the best choice that never changes. Refuses:
// weights.
#pragma once

#include "common/placement/routing.h"
#include <time.h>

// What a step costs: the hot experts of a step are read beside the cold ones, everything else comes on top.
typedef struct tc_cost {
    double fixed_us;                            // of a step, without routed experts
    double hot_bytes_per_us, cold_bytes_per_us; // memory speeds of both sides; 0: nothing is known
} tc_cost;

static inline double tc_cost_step_us(const tc_cost *cost, double hot_bytes, double cold_bytes)
{
    double hot = cost->hot_bytes_per_us > 0 ? hot_bytes / cost->hot_bytes_per_us : 0;
    double cold = cost->cold_bytes_per_us > 0 ? cold_bytes / cost->cold_bytes_per_us : 0;
    return cost->fixed_us + (hot > cold ? hot : cold);
}

typedef struct tc_replay_options {
    tc_hot_cache_options cache; // layers, experts, slot_bytes come from the routes
    const float *prior;         // [layers][experts]; NULL: none
    uint32_t fill_steps;        // a fill is in the table that many steps later; 0: with the next one
    tc_cost cost;
    uint32_t ahead, ahead_tokens; // PREDICTIVE: fills a layer ahead, 0: no limit; in steps of so many tokens
    uint64_t skip_steps;          // not counted: the cache warms up
    uint32_t *step_hits;          // [step_count] hits of each step; may be NULL
} tc_replay_options;

typedef struct tc_replay_result {
    uint64_t hits, lookups, fills, fill_bytes, evictions; // lookups: (layer, expert) reads of steps
    uint64_t foreseen, foreseen_hits; // fills inside a step for its layers to come; those that it used
    uint64_t lookups_ahead;           // by looking ahead, in all steps; no reads
    double hit_rate, lookups_per_s;   // of CPU time, reads and ahead: how fast the replay itself was
    double tokens_per_s;              // predicted; 0: no cost is known
} tc_replay_result;

// What the calling thread has had of a CPU: a replay's own speed, whoever shares the machine.
static inline uint64_t tc_replay_cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

tc_status tc_replay_run(const tc_routes *routes, const tc_replay_options *options, tc_replay_result *ret,
                        tc_error *e);
typedef struct tc_replay_returns {
    uint64_t returns, hits, lookups; // of the first generated tokens of each return
} tc_replay_returns;

// The same run; of every session that comes back after others, hits in the first `tokens` tokens it
// generates. warm: with what its footprint announces when it comes, which is there after the first step of
// its prompt.
tc_status tc_replay_first_tokens(const tc_routes *routes, const tc_replay_options *options, uint32_t tokens,
                                 bool warm, tc_replay_returns *ret, tc_error *e);
// Keeps what is used soonest; lets in only what is used sooner than what it would push out. Uses cache.slots,
// cache.per_layer, cost, skip_steps and step_hits of the options.
tc_status tc_replay_belady(const tc_routes *routes, const tc_replay_options *options, tc_replay_result *ret,
                           tc_error *e);
// The `slots` experts used most in this very run, from its start to its end.
tc_status tc_replay_best_static(const tc_routes *routes, const tc_replay_options *options,
                                tc_replay_result *ret, tc_error *e);

// ---- generated routes ----
// Each topic has, in each layer, experts in an order of its own; a token draws most of its experts by
// exp(-rank / spread), some by repeating its predecessor's, some anywhere.
typedef struct tc_route_spec {
    uint32_t layers, experts, top_k, tokens, seed;
    uint32_t topics, topic_tokens; // one topic after another, this long each
    double spread;                 // experts
    double common;                 // 0..1: how alike the orders of two topics are
    double repeat, stray;          // 0..1: shares of draws
    uint64_t expert_bytes;
} tc_route_spec;

// The spec that shows the hit rates of LRU published for 512-expert models (docs/PERFORMANCE.md).
tc_route_spec tc_route_spec_default(void);
tc_status tc_routes_generate(const tc_route_spec *spec, tc_routes *ret, tc_error *e);
