// SPDX-License-Identifier: Apache-2.0
// Owns: everything that learns from routing, in one place beside the step loop: the profile, conversations'
// footprints, the routing trace, and the hot cache with its orders to the tier that holds the experts. The
// scheduler tells it what each segment of a step chose; what is hot changes between steps only.
// Refuses: weights and copies (a tier), text.
#pragma once

#include "common/placement/footprint.h"
#include "common/placement/profile.h"
#include "common/placement/routing.h"
#include "gpu-core/dev/dev.h"
#include "proto/engine.h"

typedef struct tc_placement tc_placement;

enum {
    TC_AHEAD_SHARE = 8, // of the slots may be taken for one layer to come
};

// Who holds the hot experts. All calls come from the step's thread, between steps.
typedef struct tc_hot_tier {
    void *arg;
    // Ordered, those of a moment together; tc_hot_cache_fill_done of each when it is there. at_once: layers
    // of the step under way wait for them.
    void (*fill)(void *arg, const tc_cache_fill *fills, uint32_t count, bool at_once);
    // The table has changed (a device keeps a copy of it); NULL: it reads tc_hot_cache_table.
    void (*changed)(void *arg, const tc_table_change *changes, uint32_t count, bool all);
    bool in_step; // fills may be ordered, and the table may change, while a step runs, between its layers
    void (*trim)(void *arg, uint32_t slots); // memory behind so many slots may go; NULL: it stays
    // Takes memory for so many slots again, where trim gave it away; returns how many there are. NULL: there
    // it is.
    uint32_t (*grow)(void *arg, uint32_t slots);
    // The policy looks ahead, or no longer, and what came of it, for a tier that does so by itself; NULL: it
    // does not.
    void (*look_ahead)(void *arg, bool on);
    tc_ahead_stats (*ahead)(void *arg);
} tc_hot_tier;

typedef struct tc_placement_options {
    uint32_t layers, experts, top_k;
    const bool *moe; // [layers] layers with experts
    const char *model_hash;
    uint64_t expert_bytes;
    const char *profile_path; // NULL: kept in memory only
    const char *trace_path;   // NULL: no routing trace
    uint32_t tokens_max;      // of a pass that is watched (tc_placement_routed); 0: none is
    uint32_t conversations;   // whose footprints are kept; 0: none
    tc_hot_cache *cache;      // NULL: nothing is hot; borrowed
    tc_hot_tier tier;
    void (*log)(void *arg, bool warning, const char *text);
    void *log_arg;
} tc_placement_options;

// Loads the profile where there is one (a damaged one is told and left alone) and gives it to the cache.
tc_status tc_placement_create(const tc_placement_options *options, tc_placement **ret, tc_error *e);
// Saves the profile and ends the trace.
void tc_placement_free(tc_placement *placement); // NULL is legal

typedef struct tc_placement_request {
    uint64_t conversation, named; // footprints it belongs to; 0: none
    bool learn;                   // it may change what is hot
    bool prompt;
    uint32_t first, tokens; // where its tokens are in the batch
    uint64_t hot;           // noted: how many of its pairs were
} tc_placement_request;

// Before a step: fills that are done are used by it. learn: all of its segments may change what is hot.
void tc_placement_begin(tc_placement *placement, bool learn);
// While it runs (tc_forward_watch): whether to look ahead; a layer's routes are known; what is expected of
// one.
bool tc_placement_pass_begins(void *placement, uint32_t tokens);
void tc_placement_routed(void *placement, uint32_t layer);
void tc_placement_expects(void *placement, uint32_t layer, uint32_t n, const uint32_t *experts);
// The segments of the step that ran: chosen [tokens of the batch][layers][top_k]. Sets `hot` of each.
void tc_placement_note(tc_placement *placement, tc_placement_request *segments, uint32_t count,
                       const int32_t *chosen);
// After that: learns, orders fills, saves the profile when it is time.
void tc_placement_end(tc_placement *placement, bool busy);

// A request has come: its hints, and the experts of its conversation's last turn, are announced.
void tc_placement_arrived(tc_placement *placement, const tc_placement_request *request,
                          const tc_expert_hint *hints, uint32_t count);
// It has ended: what it pinned is free again. With the hints it arrived with.
void tc_placement_left(tc_placement *placement, const tc_expert_hint *hints, uint32_t count);
// How alike two conversations' experts are, 0..1.
double tc_placement_alike(const tc_placement *placement, uint64_t a, uint64_t b);

// Time in all of the above since creation, and pairs hot and cold.
uint64_t tc_placement_ns(const tc_placement *placement);

// What metrics need of it: lookups by layer, and the cache's fills, evictions, bytes and latencies.
void tc_placement_detail(const tc_placement *placement, tc_engine_detail *ret);

// Gives up slots (true), or takes back what was given up before, as memory allows. Steps of an eighth.
void tc_placement_shed(tc_placement *placement, bool shed);
// Gives up an eighth whatever is pinned there, for memory that requests cannot do without; what was pinned
// and has room no more is a hint from then on. The memory goes with the next tc_placement_begin once nothing
// is on its way there. False: nothing is left to give.
bool tc_placement_make_way(tc_placement *placement);

// JSON of `GET /api/v1/expert-stats` into out (room bytes, NUL behind); returns its length, cut where too
// long.
size_t tc_placement_report(tc_placement *placement, char *out, size_t room);
// Applies the JSON of `POST /api/v1/expert-optimization`; all of it or nothing.
tc_status tc_placement_tune(tc_placement *placement, const char *json, size_t bytes, tc_error *e);
