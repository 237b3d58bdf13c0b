// SPDX-License-Identifier: Apache-2.0
// Owns: the section `swap`: how long an expert takes into the hot tier, alone and under load. Demotion is
// what makes its place free: the table's entry goes between two steps and no byte moves, because the cold
// copy stays; so it shows as the difference between filling free places and taken ones. Refuses: to time
// anything itself. The core's own histogram tells.
#include "cli/suite.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 32, LOAD_USERS = 4, HOT_PERCENT = 25, LOAD_PROMPT = 4 };

typedef struct histogram {
    double below[BUCKETS];
    uint64_t count[BUCKETS], evictions;
} histogram;

static tc_status read_histogram(tc_local *local, histogram *ret, tc_error *e)
{
    yyjson_doc *answer = NULL;
    size_t index, count;
    yyjson_val *item;
    TC_TRY(tc_suite_ask(local, TC_ASK_EXPERT_STATS, NULL, &answer, e));
    yyjson_val *root = yyjson_doc_get_root(answer);
    *ret = (histogram){.evictions = yyjson_get_uint(yyjson_obj_get(root, "evictions"))};
    yyjson_arr_foreach(yyjson_obj_get(yyjson_obj_get(root, "swap_latency"), "histogram"), index, count, item)
    {
        uint64_t below = yyjson_get_uint(yyjson_obj_get(item, "below_us"));
        int at = below > 1 ? 63 - __builtin_clzll(below) : 0;
        if (at < BUCKETS) ret->count[at] += yyjson_get_uint(yyjson_obj_get(item, "count"));
    }
    yyjson_doc_free(answer);
    return TC_OK;
}

static void put_histogram(tc_suite *s, const char *series, const histogram *a, const histogram *b)
{
    double below[BUCKETS];
    uint64_t count[BUCKETS];
    uint32_t n = 0;
    for (int i = 0; i < BUCKETS; i++) {
        if (b->count[i] == a->count[i] && !n) continue;
        below[n] = (double)(1ull << i);
        count[n++] = b->count[i] - a->count[i];
    }
    while (n && !count[n - 1]) n--;
    tc_suite_buckets(s, "swap-latency", series, "us", below, count, n);
}

// One expert is pinned by a request of one token: it is ordered as the request arrives.
static tc_status order(tc_suite *s, tc_local *local, uint32_t layer, uint32_t expert, tc_error *e)
{
    tc_engine_event event = {0};
    const uint32_t prompt[] = {1};
    const tc_expert_hint hint = {(uint16_t)layer, (uint16_t)expert,
                                 1}; // pinned: takes a place from any other
    const tc_generate request = {.id = s->next_id++,
                                 .prompt = prompt,
                                 .prompt_count = 1,
                                 .max_tokens = 1,
                                 .sampling = {.top_p = 1, .repetition_penalty = 1},
                                 .ignore_eos = true,
                                 .optimize_experts = true,
                                 .no_cache = true,
                                 .hints = &hint,
                                 .hint_count = 1};
    TC_TRY(tc_engine_client_generate(local->client, &request, e));
    while (event.kind != TC_ENGINE_FINISHED) TC_TRY(tc_local_next(local, request.id, &event, e));
    return TC_OK;
}

// `count` experts from `first` on, over layers first, so that neighbours are of different layers.
static tc_status order_some(tc_suite *s, tc_local *local, uint32_t first, uint32_t count, const char *series,
                            uint64_t *ret_evictions, tc_error *e)
{
    histogram before, after;
    uint32_t layers = s->b.desc.layers, experts = s->b.desc.experts;
    TC_TRY(read_histogram(local, &before, e));
    for (uint32_t i = first; i < first + count; i++) {
        uint32_t layer = i % layers;
        if (!s->b.desc.layer[layer].moe) continue;
        TC_TRY(tc_suite_step(s, i, 4.0 * count, e));
        TC_TRY(order(s, local, layer, i / layers % experts, e));
    }
    TC_TRY(read_histogram(local, &after, e));
    put_histogram(s, series, &before, &after);
    *ret_evictions = after.evictions - before.evictions;
    return TC_OK;
}

static tc_status start_load(tc_suite *s, tc_local *local, uint64_t ids[LOAD_USERS], tc_error *e)
{
    for (uint32_t i = 0; i < LOAD_USERS; i++) {
        const uint32_t prompt[LOAD_PROMPT] = {2 + i, 3 + i, 5 + i, 7 + i};
        TC_TRY(tc_suite_endless(s, local, prompt, LOAD_PROMPT, i, true, &ids[i], e));
    }
    return TC_OK;
}

static tc_status measure(tc_suite *s, tc_local *local, uint32_t orders, tc_error *e)
{
    uint64_t ids[LOAD_USERS], free_ones = 0, taken = 0, loaded = 0;
    uint32_t slots = local->status.detail ? (uint32_t)local->status.detail->hot_slots : 0;
    uint64_t place_bytes = slots ? local->status.detail->hot_bytes / slots : 0;
    if (!slots) return tc_suite_skip(s, e, "the core keeps no hot tier");
    uint32_t half = slots / 2 ? slots / 2 : 1, some = half < orders ? half : orders;
    TC_TRY(order_some(s, local, 0, some, "promotion, free place, idle", &free_ones, e));
    TC_TRY(order_some(s, local, some, slots, "promotion while the tier fills, idle", &free_ones, e));
    TC_TRY(order_some(s, local, some + slots, orders, "promotion and demotion, idle", &taken, e));
    TC_TRY(start_load(s, local, ids, e));
    tc_status status =
        order_some(s, local, some + slots + orders, orders, "promotion and demotion, under load", &loaded, e);
    for (uint32_t i = 0; i < LOAD_USERS; i++) tc_engine_client_cancel(local->client, ids[i]);
    if (status != TC_OK) return status;
    tc_suite_note(s,
                  "%u places of %llu bytes; %llu experts were demoted idle, %llu under load of %d users. A "
                  "demotion moves no "
                  "bytes: its cold copy stays.",
                  slots, (unsigned long long)place_bytes, (unsigned long long)taken,
                  (unsigned long long)loaded, LOAD_USERS);
    return TC_OK;
}

tc_status tc_suite_swap(tc_suite *s, tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    if (!s->b.footprint.moe_layers) return tc_suite_skip(s, e, "the model has no experts");
    uint32_t context = tc_suite_positions(s, 4096);
    tc_status status;
    o.sessions = LOAD_USERS + 1;
    o.context = context;
    o.hot_policy = "lru"; // lets in what is announced, whatever was used before
    o.hot_link_percent = 100;
    tc_suite_hot(s, HOT_PERCENT, &o);
    TC_TRY(tc_suite_open(s, &o, &local, e));
    TC_GOTO(tc_local_ask_status(&local, e));
    TC_GOTO(measure(s, &local, s->full ? 1000 : 200, e));
out:
    tc_local_close(&local);
    return status;
}
