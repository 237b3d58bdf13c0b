// SPDX-License-Identifier: Apache-2.0
// Owns: which experts are hot: the table (layer, expert) -> slot, the policy that decides what fills and what
// leaves, its bounds (fills a step, fills in flight, share of the link) and its statistics. It works on
// numbers: a slot is a place for one expert in somebody's fast memory, and a fill is an order to copy one
// there.
//
//   FREE --step: chosen--> FILLING --fill_done, then the next step--> READY --step: evicted--> FILLING
//                              | resize or unwanted meanwhile            | resize
//                              +-- DOOMED --fill_done, next step-->FREE  +--> FREE
//
// The table changes inside tc_hot_cache_step (and publish, resize, clear) only, which run between steps of
// the model; and where the owner looks ahead (reach, foresee), before a layer is looked up. So a layer sees
// one table, and a miss is never waited for: it is computed where the expert lies.
// Refuses: memory, copies, threads (but for fill_done, any thread may call it), the clock. After creation
// nothing is allocated.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

enum {
    TC_FILLS_MAX = 1024,       // a step can start
    TC_WANTED_MAX = 1 << 14,   // prefetches waiting
    TC_FILL_BUCKETS = 24,      // of the latency histogram: [2^i, 2^(i+1)) us, the last one open
    TC_CACHE_LAYERS_MAX = 256, // TC_LAYERS_MAX
    TC_CACHE_SLOTS_MAX = 1 << 20,
};

#define TC_NO_SLOT UINT32_MAX

typedef enum tc_cache_policy {
    TC_POLICY_STATIC,     // the experts with the largest prior (tc_hot_cache_prior), and no others
    TC_POLICY_LRU,        // used last
    TC_POLICY_LFU,        // used most
    TC_POLICY_DECAYED,    // used most, with two half-lives; the default
    TC_POLICY_PREDICTIVE, // decayed; its owner also looks ahead inside a step (tc_hot_cache_foresee)
    TC_POLICIES
} tc_cache_policy;

const char *tc_policy_name(tc_cache_policy policy);
bool tc_policy_parse(const char *text, tc_cache_policy *ret);

typedef struct tc_hot_cache_options {
    uint32_t layers, experts;
    uint32_t slots_max; // what resize may ask for
    uint32_t slots;     // in use from the start, <= slots_max
    tc_cache_policy policy;
    bool per_layer;            // every layer has its share of the slots; else all compete
    bool second_miss;          // an expert is let in at its second miss within admission_tokens
    uint32_t admission_tokens; // 0: 4 times slow_tokens
    uint32_t fills_max;        // a step may start; 0: TC_FILLS_MAX
    uint32_t in_flight_max;    // fills not done; 0: no limit
    uint64_t slot_bytes;       // of a fill, for the link's share and the statistics
    double link_bytes_per_us;  // what the link can; 0: not limited
    double link_share;         // of it for fills, (0, 1]; 0: 1
    // DECAYED: half-lives in tokens, and the weight of the fast one against the slow one (0..1). 0: defaults.
    double fast_tokens, slow_tokens, fast_weight;
    double margin; // a newcomer must be worth (1 + margin) times the one that leaves; 0: the policy's own
} tc_hot_cache_options;

// One (layer, expert) that a step read, and how many tokens chose it (>= 1).
typedef struct tc_expert_use {
    uint16_t layer, expert;
    uint32_t count;
} tc_expert_use;

typedef struct tc_cache_input {
    const tc_expert_use *uses; // each (layer, expert) once, in any order; of accepted tokens only
    uint32_t count;
    uint32_t tokens; // of time that pass: 1 for a step of answers, a prompt's chunk its length. 0: none
    uint64_t now_us; // for the link's share and latencies; may stand still where the link is not limited
    bool link_busy;  // announced experts are not fetched now
} tc_cache_input;

typedef struct tc_cache_fill {
    uint32_t layer, expert, slot;
    uint32_t evicted_layer, evicted_expert; // TC_NO_SLOT both: the slot was free
} tc_cache_fill;

// An entry of the table that the last step (or publish, resize, clear) changed; slot TC_NO_SLOT: no longer
// hot.
typedef struct tc_table_change {
    uint16_t layer, expert;
    uint32_t slot;
} tc_table_change;

typedef struct tc_layer_stats {
    uint64_t hits, misses; // experts read: one a (step, layer, expert)
} tc_layer_stats;

typedef struct tc_cache_stats {
    uint64_t hits, misses;           // experts read
    uint64_t pair_hits, pair_misses; // (token, expert) pairs
    uint64_t fills, fills_done, fills_dropped, evictions, fill_bytes;
    uint64_t rejected;                  // misses not let in: seen once only, or worth less than what is there
    uint64_t held_back;                 // misses let in that had to wait for the link or for fills in flight
    uint64_t prefetches, prefetch_hits; // fills by announcement; those of them that were used
    // Fills for the layers to come of the step under way; those used by it, and those used but not yet there,
    // which are misses. What was fetched in vain is in neither, and in no hit.
    uint64_t foreseen, foreseen_hits, foreseen_late;
    uint64_t latency[TC_FILL_BUCKETS], latency_us_total, latency_us_max; // of fills done
    uint64_t topic_changes; // seen by DECAYED: what was learned before weighs little since
    uint32_t slots, ready, filling, pinned;
} tc_cache_stats;

typedef struct tc_hot_cache tc_hot_cache;

// TC_ARGUMENT: a number out of range, named; TC_NOMEM.
tc_status tc_hot_cache_create(const tc_hot_cache_options *options, tc_hot_cache **ret, tc_error *e);
void tc_hot_cache_free(tc_hot_cache *cache); // NULL is legal
// Bytes that a cache of these dimensions takes.
uint64_t tc_hot_cache_bytes(const tc_hot_cache_options *options);

// [layers][experts] slot, or TC_NO_SLOT. The place never changes, the content as said above.
const uint32_t *tc_hot_cache_table(const tc_hot_cache *cache);

// Before a step: fills that are done come into the table now instead of after it. Changes are told as by
// step.
void tc_hot_cache_publish(tc_hot_cache *cache);
// Accounts for the step that ran, publishes fills that are done, and plans. Returns the number of fills to
// start, written to `fills` (room for TC_FILLS_MAX). The evicted expert has left the table already.
uint32_t tc_hot_cache_step(tc_hot_cache *cache, const tc_cache_input *input, tc_cache_fill *fills);

// ---- inside a step, for an owner whose tier fills while it runs ----

// The layer is about to be looked up: fills of it that are done come into the table. Layers in the order in
// which they are computed.
void tc_hot_cache_reach(tc_hot_cache *cache, uint32_t layer);
// These are expected to be used by a layer to come of this step, the surest first, of one layer. Returns the
// number of fills to start at once (at most `most`), written to `fills`: of those not there, into slots of
// other layers than the one reached last, as far as the link's share goes and the slots' experts are worth
// less than a guess that comes true as often as the last ones did. DECAYED and PREDICTIVE only.
uint32_t tc_hot_cache_foresee(tc_hot_cache *cache, const tc_expert_use *expected, uint32_t count,
                              uint32_t most, uint64_t now_us, tc_cache_fill *fills);
// Whether the step under way found it hot (until tc_hot_cache_step).
bool tc_hot_cache_was_hot(const tc_hot_cache *cache, uint32_t layer, uint32_t expert);

// The table's changes by the last step, publish, resize or clear; valid until the next one. *ret_all: too
// many to list, take the whole table.
uint32_t tc_hot_cache_changes(const tc_hot_cache *cache, const tc_table_change **ret, bool *ret_all);
// The slot holds its expert now. Any thread. now_us: for the histogram.
void tc_hot_cache_fill_done(tc_hot_cache *cache, uint32_t slot, uint64_t now_us);
// What a slot holds or is being filled with; false: nothing.
bool tc_hot_cache_slot(const tc_hot_cache *cache, uint32_t slot, uint32_t *ret_layer, uint32_t *ret_expert,
                       bool *ret_ready);

// ---- between steps ----

// Slots from `slots` on are given up at once: their memory may go as soon as none of them is filling
// (tc_hot_cache_filling_from). TC_LIMIT: more than slots_max, or fewer than are pinned.
tc_status tc_hot_cache_resize(tc_hot_cache *cache, uint32_t slots, tc_error *e);
uint32_t tc_hot_cache_filling_from(const tc_hot_cache *cache, uint32_t slot);
void tc_hot_cache_clear(tc_hot_cache *cache); // all but pinned ones leave
void tc_hot_cache_set_policy(tc_hot_cache *cache, tc_cache_policy policy);
void tc_hot_cache_set_limits(tc_hot_cache *cache, double link_bytes_per_us, double link_share,
                             uint32_t fills_max);
// What is known beforehand, [layers][experts] uses a token (a profile): the whole of STATIC's knowledge, and
// where LFU and DECAYED begin.
void tc_hot_cache_prior(tc_hot_cache *cache, const float *rate);
// Announces one: as if used `uses` times just now, and fetched as soon as there is room. TC_BUSY: too many.
tc_status tc_hot_cache_want(tc_hot_cache *cache, uint32_t layer, uint32_t expert, float uses);
// Announces one that is expected to be used `rate` times a token from now on: fetched, and worth as much as
// one that has been used so for long.
tc_status tc_hot_cache_expect(tc_hot_cache *cache, uint32_t layer, uint32_t expert, float rate);
// Pinned: fetched, and never evicted. TC_ARGUMENT; TC_LIMIT: more than its layer's (or all) slots.
tc_status tc_hot_cache_pin(tc_hot_cache *cache, uint32_t layer, uint32_t expert, tc_error *e);
tc_status tc_hot_cache_unpin(tc_hot_cache *cache, uint32_t layer, uint32_t expert, tc_error *e);
bool tc_hot_cache_pinned(const tc_hot_cache *cache, uint32_t layer, uint32_t expert);

// Hits and misses of uses that the policy does not learn from (`optimize_experts: false`).
void tc_hot_cache_account(tc_hot_cache *cache, const tc_expert_use *uses, uint32_t count);
void tc_hot_cache_stats(const tc_hot_cache *cache, tc_cache_stats *ret);
const tc_layer_stats *tc_hot_cache_layer_stats(const tc_hot_cache *cache); // [layers]
// What an expert is worth now (its policy's own unit): for lists of the hottest.
float tc_hot_cache_worth(const tc_hot_cache *cache, uint32_t layer, uint32_t expert);
const tc_hot_cache_options *tc_hot_cache_get_options(const tc_hot_cache *cache);
