// SPDX-License-Identifier: Apache-2.0
// Owns: what operators see of placement and how they change it, as JSON.
#include "common/base/json.h"
#include "gpu-core/experts/placement_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOP_SHOWN = 20, PINS_MAX = 4096, TUNE_DEPTH_MAX = 4 };

static void sort_by_rate(tc_placement *p, const float *rates);

// ---- the report ----

typedef struct text {
    char *out;
    size_t room, used;
} text;

static void add(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(text *t, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(t->out + t->used, t->room - t->used, format, ap);
    va_end(ap);
    if (n > 0) t->used = (size_t)n < t->room - t->used ? t->used + (size_t)n : t->room - 1;
}

static void add_layers(const tc_placement *p, text *t)
{
    const tc_layer_stats *layers = tc_hot_cache_layer_stats(p->o.cache);
    const uint32_t *table = tc_hot_cache_table(p->o.cache);
    add(t, ",\"per_layer\":[");
    for (uint32_t i = 0; i < p->o.layers; i++) {
        uint32_t hot = 0;
        for (uint32_t e = 0; e < p->o.experts; e++) hot += table[i * p->o.experts + e] != TC_NO_SLOT;
        add(t, "%s{\"layer\":%u,\"cached\":%u,\"hits\":%" PRIu64 ",\"misses\":%" PRIu64 "}", i ? "," : "", i,
            hot, layers[i].hits, layers[i].misses);
    }
    add(t, "]");
}

static void add_latency(text *t, const tc_cache_stats *s)
{
    add(t, ",\"swap_latency\":{\"count\":%" PRIu64 ",\"mean_us\":%.1f,\"max_us\":%" PRIu64 ",\"histogram\":[",
        s->fills_done, s->fills_done ? (double)s->latency_us_total / (double)s->fills_done : 0,
        s->latency_us_max);
    bool first = true;
    for (uint32_t i = 0; i < TC_FILL_BUCKETS; i++) {
        if (!s->latency[i]) continue;
        add(t, "%s{\"below_us\":%u,\"count\":%" PRIu64 "}", first ? "" : ",", 2u << i, s->latency[i]);
        first = false;
    }
    add(t, "]}");
}

// By the cache's own books, or by those of a tier that does it by itself: its pairs are hits then, too.
static tc_ahead_stats ahead_of(const tc_placement *p, tc_cache_stats *s)
{
    tc_ahead_stats a = {p->expected_pairs, p->expected_true, s->foreseen, s->foreseen_hits, 0};
    if (!p->o.tier.ahead) return a;
    a = p->o.tier.ahead(p->o.tier.arg);
    const uint64_t moved = a.pairs < s->pair_misses ? a.pairs : s->pair_misses;
    s->pair_hits += moved;
    s->pair_misses -= moved;
    return a;
}

static void add_cache(tc_placement *p, text *t)
{
    tc_cache_stats s;
    tc_hot_cache_stats(p->o.cache, &s);
    const tc_hot_cache_options *o = tc_hot_cache_get_options(p->o.cache);
    const tc_ahead_stats a = ahead_of(p, &s);
    uint64_t pairs = s.pair_hits + s.pair_misses, reads = s.hits + s.misses;
    add(t,
        ",\"enabled\":%s,\"policy\":\"%s\",\"cache_size\":%u,\"cache_size_max\":%u,\"cached_experts\":%u,"
        "\"filling\":%u,\"pinned\":%u",
        p->enabled ? "true" : "false", tc_policy_name(o->policy), o->slots, o->slots_max, s.ready, s.filling,
        s.pinned);
    add(t, ",\"cache_hit_rate\":%.6f,\"read_hit_rate\":%.6f", pairs ? (double)s.pair_hits / (double)pairs : 0,
        reads ? (double)s.hits / (double)reads : 0);
    add(t,
        ",\"cache_hits\":%" PRIu64 ",\"cache_misses\":%" PRIu64 ",\"evictions\":%" PRIu64
        ",\"fills\":%" PRIu64 ",\"fill_bytes\":%" PRIu64 ",\"rejected\":%" PRIu64 ",\"held_back\":%" PRIu64
        ",\"prefetches\":%" PRIu64 ",\"prefetch_hits\":%" PRIu64 ",\"topic_changes\":%" PRIu64
        ",\"sheds\":%" PRIu64 ",\"prediction\":{\"recall\":%.4f,\"expected\":%" PRIu64 ",\"fills\":%" PRIu64
        ",\"used\":%" PRIu64 ",\"late\":%" PRIu64 "}",
        s.pair_hits, s.pair_misses, s.evictions, s.fills, s.fill_bytes, s.rejected, s.held_back, s.prefetches,
        s.prefetch_hits, s.topic_changes, p->sheds,
        a.expected ? (double)a.expected_true / (double)a.expected : 0, a.expected, a.fills, a.used,
        s.foreseen_late);
    add(t, ",\"hot_tier_bytes\":%" PRIu64 ",\"vram_usage_gb\":%.6f", (uint64_t)o->slots * o->slot_bytes,
        (double)o->slots * (double)o->slot_bytes / 1e9);
    add_latency(t, &s);
    add_layers(p, t);
}

static void add_top(tc_placement *p, text *t)
{
    const uint32_t *table = p->o.cache ? tc_hot_cache_table(p->o.cache) : NULL;
    tc_profile_rates(p->profile, p->rates);
    sort_by_rate(p, p->rates);
    add(t, ",\"top_experts\":[");
    for (uint32_t i = 0; i < TOP_SHOWN && i < p->n && p->rates[p->order[i]] > 0; i++) {
        uint32_t index = p->order[i];
        add(t, "%s{\"layer\":%u,\"expert\":%u,\"uses_a_token\":%.5f,\"cached\":%s}", i ? "," : "",
            index / p->o.experts, index % p->o.experts, (double)p->rates[index],
            table && table[index] != TC_NO_SLOT ? "true" : "false");
    }
    add(t, "]");
}

size_t tc_placement_report(tc_placement *p, char *out, size_t room)
{
    text t = {out, room, 0};
    uint32_t tracked = 0;
    for (uint32_t i = 0; i < p->n; i++) tracked += p->profile->uses[i] > 0;
    add(&t, "{\"layers\":%u,\"experts\":%u,\"top_k\":%u,\"total_experts_tracked\":%u,\"profile_tokens\":%.0f",
        p->o.layers, p->o.experts, p->o.top_k, tracked, p->profile->tokens / p->profile->scale);
    add(&t, ",\"placement_us\":%" PRIu64 ",\"reads_shared\":%" PRIu64, p->ns / 1000, p->reads_shared);
    if (p->o.cache)
        add_cache(p, &t);
    else
        add(&t, ",\"enabled\":false,\"cached_experts\":0,\"cache_hit_rate\":null,\"vram_usage_gb\":0,\"per_"
                "layer\":null");
    add_top(p, &t);
    add(&t, "}");
    return t.used;
}

// ---- the profile for the cache ----

static const float *sort_rates; // of the sort under way; all of it happens on the step's thread

static int falling(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (sort_rates[x] != sort_rates[y]) return sort_rates[x] < sort_rates[y] ? 1 : -1;
    return x < y ? -1 : 1;
}

static void sort_by_rate(tc_placement *p, const float *rates)
{
    for (uint32_t i = 0; i < p->n; i++) p->order[i] = i;
    sort_rates = rates;
    qsort(p->order, p->n, sizeof *p->order, falling);
}

void tc_placement_prime(tc_placement *p)
{
    if (!p->o.cache || p->profile->tokens <= 0) return;
    tc_profile_rates(p->profile, p->rates);
    tc_hot_cache_prior(p->o.cache, p->rates);
    sort_by_rate(p, p->rates);
    uint32_t slots = tc_hot_cache_get_options(p->o.cache)->slots;
    for (uint32_t i = 0; i < slots && i < p->n && p->rates[p->order[i]] > 0; i++)
        tc_hot_cache_want(p->o.cache, p->order[i] / p->o.experts, p->order[i] % p->o.experts, 0);
}

// ---- tuning ----

typedef struct tuning {
    bool enable;
    const char *policy;
    tc_cache_policy kind;
    uint32_t slots, samples, pin_count, unpin_count;
    double link_share;
    tc_expert_hint pins[PINS_MAX], unpins[PINS_MAX];
} tuning;

static tc_status read_pairs(const tc_placement *p, const tc_json_object *o, const char *field,
                            tc_expert_hint *ret, uint32_t *ret_count)
{
    yyjson_val *list = NULL, *pair;
    size_t index, count;
    TC_TRY(tc_json_get_array(o, field, &list));
    if (!list) return TC_OK;
    if (yyjson_arr_size(list) > PINS_MAX)
        return tc_fail(o->e, TC_LIMIT, "%s: %zu entries, at most %d may be", field, yyjson_arr_size(list),
                       PINS_MAX);
    yyjson_arr_foreach(list, index, count, pair)
    {
        uint64_t layer, expert;
        if (!yyjson_is_arr(pair) || yyjson_arr_size(pair) != 2)
            return tc_fail(o->e, TC_ARGUMENT, "%s[%zu]: not a pair [layer, expert]", field, index);
        TC_TRY(tc_json_value_u64(yyjson_arr_get(pair, 0), field, "layer", 0, p->o.layers - 1, &layer, o->e));
        TC_TRY(
            tc_json_value_u64(yyjson_arr_get(pair, 1), field, "expert", 0, p->o.experts - 1, &expert, o->e));
        ret[(*ret_count)++] = (tc_expert_hint){(uint16_t)layer, (uint16_t)expert, 1};
    }
    return TC_OK;
}

static tc_status read_tuning(const tc_placement *p, const tc_json_object *o, tuning *t)
{
    static const char *const names[] = {"enable", "policy", "cache_size", "profiling_samples",
                                        "pin",    "unpin",  "link_share"};
    size_t index, count;
    yyjson_val *key, *value;
    yyjson_obj_foreach(o->value, index, count, key, value)
    {
        bool known = false;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) known |= yyjson_equals_str(key, names[i]);
        if (!known) return tc_fail(o->e, TC_ARGUMENT, "%.60s: no such setting", yyjson_get_str(key));
    }
    TC_TRY(tc_json_bool(o, "enable", &t->enable));
    TC_TRY(tc_json_string(o, "policy", &t->policy));
    if (t->policy && !tc_policy_parse(t->policy, &t->kind))
        return tc_fail(o->e, TC_ARGUMENT, "policy '%.60s': not one of static, lru, lfu, decayed, predictive",
                       t->policy);
    TC_TRY(tc_json_u32(o, "cache_size", 0, tc_hot_cache_get_options(p->o.cache)->slots_max, &t->slots));
    TC_TRY(tc_json_u32(o, "profiling_samples", 0, 1u << 30, &t->samples));
    TC_TRY(tc_json_double(o, "link_share", 0.001, 1, &t->link_share));
    TC_TRY(read_pairs(p, o, "pin", t->pins, &t->pin_count));
    return read_pairs(p, o, "unpin", t->unpins, &t->unpin_count);
}

// How many would be pinned: more than slots cannot be.
static tc_status check_pins(const tc_placement *p, const tuning *t, tc_error *e)
{
    uint32_t pinned = 0;
    bool *after = malloc(p->n * sizeof *after);
    if (!after) return tc_fail(e, TC_NOMEM, "out of memory");
    memcpy(after, p->operator_pins, p->n * sizeof *after);
    for (uint32_t i = 0; i < t->unpin_count; i++)
        after[t->unpins[i].layer * p->o.experts + t->unpins[i].expert] = false;
    for (uint32_t i = 0; i < t->pin_count; i++)
        after[t->pins[i].layer * p->o.experts + t->pins[i].expert] = true;
    for (uint32_t i = 0; i < p->n; i++) pinned += after[i] || p->pin_users[i];
    free(after);
    if (pinned > t->slots)
        return tc_fail(e, TC_LIMIT, "%u experts would be pinned, cache_size is %u", pinned, t->slots);
    return TC_OK;
}

static void apply_pins(tc_placement *p, const tuning *t)
{
    for (uint32_t i = 0; i < t->unpin_count; i++) {
        uint32_t index = t->unpins[i].layer * p->o.experts + t->unpins[i].expert;
        p->operator_pins[index] = false;
        if (!p->pin_users[index])
            tc_hot_cache_unpin(p->o.cache, t->unpins[i].layer, t->unpins[i].expert, NULL);
    }
}

static tc_status apply_tuning(tc_placement *p, const tuning *t, tc_error *e)
{
    const tc_hot_cache_options *o = tc_hot_cache_get_options(p->o.cache);
    TC_TRY(check_pins(p, t, e));
    if (t->slots > o->slots && p->o.tier.grow && p->o.tier.grow(p->o.tier.arg, t->slots) < t->slots)
        return tc_fail(e, TC_LIMIT, "cache_size: the device has no memory for %u experts now", t->slots);
    apply_pins(p, t);
    if (t->slots != o->slots) {
        TC_TRY(tc_hot_cache_resize(p->o.cache, t->slots, e));
        tc_placement_tell_changes(p);
        p->wished_slots = t->slots;
        p->trim_due = true;
    }
    if (t->policy && t->kind != o->policy) {
        tc_hot_cache_set_policy(p->o.cache, t->kind);
        if (p->o.tier.look_ahead) p->o.tier.look_ahead(p->o.tier.arg, t->kind == TC_POLICY_PREDICTIVE);
        if (t->kind == TC_POLICY_STATIC) tc_placement_prime(p);
    }
    if (t->link_share > 0) tc_hot_cache_set_limits(p->o.cache, -1, t->link_share, 0);
    if (t->samples) p->sampling_left = t->samples;
    if (p->enabled && !t->enable) {
        tc_hot_cache_clear(p->o.cache);
        tc_placement_tell_changes(p);
    }
    p->enabled = t->enable;
    for (uint32_t i = 0; i < t->pin_count; i++) {
        TC_TRY(tc_hot_cache_pin(p->o.cache, t->pins[i].layer, t->pins[i].expert, e));
        p->operator_pins[t->pins[i].layer * p->o.experts + t->pins[i].expert] = true;
    }
    return TC_OK;
}

tc_status tc_placement_tune(tc_placement *p, const char *json, size_t bytes, tc_error *e)
{
    yyjson_doc *doc = NULL;
    tc_json_object o;
    if (!p->o.cache)
        return tc_fail(e, TC_UNSUPPORTED, "this core keeps no hot tier: start it with --hot-budget");
    tuning *t = calloc(1, sizeof *t);
    if (!t) return tc_fail(e, TC_NOMEM, "out of memory");
    *t = (tuning){.enable = p->enabled, .slots = tc_hot_cache_get_options(p->o.cache)->slots};
    tc_status status = tc_json_parse("expert-optimization", json, bytes, TUNE_DEPTH_MAX, &doc, e);
    if (status == TC_OK) status = tc_json_object_of(yyjson_doc_get_root(doc), "expert-optimization", &o, e);
    if (status == TC_OK) status = read_tuning(p, &o, t);
    if (status == TC_OK) status = apply_tuning(p, t, e);
    yyjson_doc_free(doc);
    free(t);
    return status;
}

// The cache counts durations by powers of two: each goes to where its upper end lies.
static void convert_latency(const tc_cache_stats *s, tc_histogram *ret)
{
    tc_histogram h = {.sum_us = s->latency_us_total};
    static const uint64_t bounds[] = {TC_HISTOGRAM_BOUNDS_US};
    for (unsigned i = 0; i < TC_FILL_BUCKETS; i++) {
        unsigned at = 0;
        while (at < TC_HISTOGRAM_BOUNDS && (2ull << i) > bounds[at]) at++;
        h.count[at] += s->latency[i];
    }
    *ret = h;
}

void tc_placement_detail(const tc_placement *p, tc_engine_detail *ret)
{
    memcpy(ret->layers, p->lookups, ret->layer_count * sizeof *ret->layers);
    ret->expected = p->expected_pairs;
    ret->expected_true = p->expected_true;
    if (!p->o.cache) return;
    tc_cache_stats s;
    tc_hot_cache_stats(p->o.cache, &s);
    ret->hot_slots = s.slots;
    ret->hot_used = s.ready;
    ret->hot_bytes = s.slots * tc_hot_cache_get_options(p->o.cache)->slot_bytes;
    ret->fills = s.fills_done;
    ret->hot_evictions = s.evictions;
    ret->moved_bytes = s.fill_bytes;
    ret->ahead_fills = s.foreseen;
    ret->ahead_used = s.foreseen_hits;
    ret->ahead_late = s.foreseen_late;
    convert_latency(&s, &ret->swap);
}
