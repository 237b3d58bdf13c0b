// SPDX-License-Identifier: Apache-2.0
// Owns: what happens between steps: counting, the cache's step, orders to the tier, hints, saving.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "gpu-core/experts/placement_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SAVE_EVERY_US = 300000000, PIN_USES = 16 };

static void say(const tc_placement *p, bool warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void say(const tc_placement *p, bool warning, const char *format, ...)
{
    char text[700];
    va_list ap;
    if (!p->o.log) return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    p->o.log(p->o.log_arg, warning, text);
}

// ---- the profile's thread ----

static void *save_all(void *arg)
{
    tc_placement *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->ends) {
        if (!p->packed_full) {
            pthread_cond_wait(&p->wake, &p->lock);
            continue;
        }
        pthread_mutex_unlock(&p->lock);
        tc_error error;
        if (tc_profile_write(p->o.profile_path, p->packed, p->packed_bytes, &error) != TC_OK)
            say(p, true, "the routing profile was not saved: %s", error.text);
        pthread_mutex_lock(&p->lock);
        p->packed_full = false;
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void save_now_and_then(tc_placement *p, uint64_t now_us)
{
    if (!p->has_thread || now_us - p->saved_us < SAVE_EVERY_US) return;
    p->saved_us = now_us;
    pthread_mutex_lock(&p->lock);
    bool room = !p->packed_full;
    if (room) tc_profile_pack(p->profile, p->packed);
    p->packed_full = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void stop_thread(tc_placement *p)
{
    if (!p->has_thread) return;
    pthread_mutex_lock(&p->lock);
    p->ends = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    p->has_thread = false;
}

// ---- life ----

static void load_profile(tc_placement *p)
{
    tc_error error;
    tc_profile *found = NULL;
    if (!p->o.profile_path) return;
    tc_status status = tc_profile_load(p->o.profile_path, p->o.model_hash, &found, &error);
    if (status == TC_NOT_FOUND) return;
    if (status != TC_OK) {
        say(p, true, "%s: begun anew", error.text);
        return;
    }
    if (found->layers != p->o.layers || found->experts != p->o.experts) {
        tc_profile_free(found);
        return;
    }
    tc_profile_free(p->profile);
    p->profile = found;
    say(p, false, "routing profile of %.0f tokens: %s", found->tokens, p->o.profile_path);
    tc_placement_prime(p);
}

static tc_status open_trace(tc_placement *p, tc_error *e)
{
    if (!p->o.trace_path) return TC_OK;
    tc_routing_info info = {.layers = p->o.layers,
                            .experts = p->o.experts,
                            .top_k = p->o.top_k,
                            .expert_bytes = p->o.expert_bytes,
                            .expects = p->o.tokens_max > 0};
    snprintf(info.model_hash, sizeof info.model_hash, "%s", p->o.model_hash);
    for (uint32_t i = 0; i < p->o.layers; i++)
        if (p->o.moe[i]) info.moe[i / 8] |= (uint8_t)(1 << i % 8);
    return tc_routing_create(p->o.trace_path, &info, &p->trace, e);
}

static tc_status take_memory(tc_placement *p, tc_error *e)
{
    size_t n = p->n;
    for (int i = 0; i < 2; i++) {
        p->counts[i] = tc_alloc(TC_MEM_OTHER, n, sizeof *p->counts[i]);
        p->touched[i] = tc_alloc(TC_MEM_OTHER, n, sizeof *p->touched[i]);
        if (!p->counts[i] || !p->touched[i]) return tc_fail(e, TC_NOMEM, "out of memory for placement");
    }
    p->uses = tc_alloc(TC_MEM_OTHER, n, sizeof *p->uses);
    p->fills = tc_alloc(TC_MEM_OTHER, TC_FILLS_MAX, sizeof *p->fills);
    p->rates = tc_alloc(TC_MEM_OTHER, n, sizeof *p->rates);
    p->order = tc_alloc(TC_MEM_OTHER, n, sizeof *p->order);
    p->pin_users = tc_alloc(TC_MEM_OTHER, n, sizeof *p->pin_users);
    p->operator_pins = tc_alloc(TC_MEM_OTHER, n, sizeof *p->operator_pins);
    if (!p->uses || !p->fills || !p->rates || !p->order || !p->pin_users || !p->operator_pins)
        return tc_fail(e, TC_NOMEM, "out of memory for placement");
    TC_TRY(tc_profile_create(p->o.layers, p->o.experts, p->o.model_hash, &p->profile, e));
    if (p->o.conversations)
        TC_TRY(tc_footprints_create(p->o.layers, p->o.experts, p->o.conversations, &p->footprints, e));
    TC_TRY(tc_placement_ahead_create(p, e));
    if (!p->o.profile_path) return TC_OK;
    p->packed_bytes = tc_profile_bytes(p->profile);
    p->packed = tc_alloc(TC_MEM_OTHER, p->packed_bytes, 1);
    return p->packed ? TC_OK : tc_fail(e, TC_NOMEM, "out of memory for the routing profile");
}

tc_status tc_placement_create(const tc_placement_options *options, tc_placement **ret, tc_error *e)
{
    tc_status status;
    tc_placement *p = tc_alloc(TC_MEM_OTHER, 1, sizeof *p);
    if (!p) return tc_fail(e, TC_NOMEM, "out of memory for placement");
    p->o = *options;
    p->n = p->o.layers * p->o.experts;
    p->enabled = true;
    for (uint32_t i = 0; i < p->o.layers; i++) p->moe_layers += p->o.moe[i];
    p->saved_us = tc_now_us();
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    TC_GOTO(take_memory(p, e));
    TC_GOTO(open_trace(p, e));
    load_profile(p);
    if (p->packed) {
        if (pthread_create(&p->thread, NULL, save_all, p) != 0)
            TC_GOTO(tc_fail(e, TC_NOMEM, "no thread for the routing profile"));
        p->has_thread = true;
    }
    *ret = p;
    return TC_OK;
out:
    p->o.profile_path = NULL; // nothing was learned that would be worth a file
    tc_placement_free(p);
    return status;
}

void tc_placement_free(tc_placement *p)
{
    tc_error error;
    if (!p) return;
    stop_thread(p);
    if (p->o.profile_path && p->profile && p->profile->seen &&
        tc_profile_save(p->profile, p->o.profile_path, &error) != TC_OK)
        say(p, true, "the routing profile was not saved: %s", error.text);
    if (tc_routing_close(p->trace, &error) != TC_OK) say(p, true, "%s", error.text);
    for (int i = 0; i < 2; i++) {
        tc_free(p->counts[i]);
        tc_free(p->touched[i]);
    }
    tc_free(p->uses);
    tc_free(p->fills);
    tc_free(p->rates);
    tc_free(p->order);
    tc_free(p->pin_users);
    tc_free(p->operator_pins);
    tc_free(p->packed);
    tc_placement_ahead_free(p);
    tc_profile_free(p->profile);
    tc_footprints_free(p->footprints);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    tc_free(p);
}

// ---- the tier ----

void tc_placement_tell_changes(tc_placement *p)
{
    const tc_table_change *changes;
    bool all;
    if (!p->o.cache || !p->o.tier.changed) return;
    uint32_t count = tc_hot_cache_changes(p->o.cache, &changes, &all);
    if (count || all) p->o.tier.changed(p->o.tier.arg, changes, count, all);
}

// Memory of slots that were given up goes when nothing is on its way there any more.
static void trim(tc_placement *p)
{
    if (!p->trim_due) return;
    uint32_t slots = tc_hot_cache_get_options(p->o.cache)->slots;
    if (tc_hot_cache_filling_from(p->o.cache, slots)) return;
    if (p->o.tier.trim) p->o.tier.trim(p->o.tier.arg, slots);
    p->trim_due = false;
}

// ---- a step ----

void tc_placement_begin(tc_placement *p, bool learn)
{
    if (!p) return;
    p->step_learns = learn;
    p->looks = p->fetches = p->reaches = false;
    if (!p->o.cache) return;
    uint64_t start_ns = tc_now_ns();
    tc_hot_cache_publish(p->o.cache);
    tc_placement_tell_changes(p);
    trim(p);
    p->ns += tc_now_ns() - start_ns;
}

// Counts by (layer, expert), and pairs that were hot.
static uint64_t count(tc_placement *p, int kind, uint32_t pairs, const int32_t *chosen)
{
    uint64_t hot = 0;
    uint32_t top_k = p->o.top_k, experts = p->o.experts, a_token = p->o.layers * top_k;
    const uint32_t *table = p->o.cache ? tc_hot_cache_table(p->o.cache) : NULL;
    uint32_t *counts = p->counts[kind], *touched = p->touched[kind], n = p->touched_count[kind];
    for (uint32_t at = 0; at < pairs; at += a_token) {
        for (uint32_t layer = 0; layer < p->o.layers; layer++) {
            const int32_t *row = chosen + at + layer * top_k;
            uint64_t before = hot;
            for (uint32_t k = 0; k < top_k && row[0] >= 0; k++) {
                uint32_t index = layer * experts + (uint32_t)row[k];
                if (!counts[index]++) touched[n++] = index;
                hot += table && (p->fetches ? tc_hot_cache_was_hot(p->o.cache, layer, (uint32_t)row[k])
                                            : table[index] != TC_NO_SLOT);
            }
            if (row[0] < 0 || layer >= TC_DETAIL_LAYERS_MAX) continue;
            p->lookups[layer].hot += hot - before;
            p->lookups[layer].cold += top_k - (hot - before);
        }
    }
    p->touched_count[kind] = n;
    return hot;
}

static uint64_t note(tc_placement *p, const tc_placement_request *r, const int32_t *chosen)
{
    const uint32_t tokens = r->tokens;
    const int32_t *expected = tc_placement_expected_of(p, r->first);
    if (expected) tc_placement_count_true(p, tokens, chosen, expected);
    if (p->trace)
        tc_routing_segment(p->trace, (uint32_t)(r->conversation ^ r->conversation >> 32),
                           (r->prompt ? TC_ROUTING_PROMPT : 0) | (p->segments ? 0 : TC_ROUTING_STEP), tokens,
                           chosen, expected);
    if (r->learn) tc_profile_note(p->profile, tokens, p->o.top_k, chosen);
    if (p->footprints && r->learn) {
        tc_footprint_note(p->footprints, r->conversation, tokens, p->o.top_k, chosen);
        tc_footprint_note(p->footprints, r->named, tokens, p->o.top_k, chosen);
    }
    uint64_t hot = count(p, r->learn ? LEARNED : SEEN, tokens * p->o.layers * p->o.top_k, chosen);
    if (tokens > p->tokens) p->tokens = tokens;
    if (tokens == 1) p->pairs += p->o.top_k * p->moe_layers;
    p->segments++;
    return hot;
}

void tc_placement_note(tc_placement *p, tc_placement_request *segments, uint32_t count, const int32_t *chosen)
{
    uint64_t start_ns = tc_now_ns();
    size_t row = (size_t)p->o.layers * p->o.top_k;
    for (uint32_t i = 0; i < count; i++)
        segments[i].hot = note(p, &segments[i], chosen + segments[i].first * row);
    p->ns += tc_now_ns() - start_ns;
}

static uint32_t gather(tc_placement *p, int kind)
{
    uint32_t n = p->touched_count[kind], experts = p->o.experts;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t index = p->touched[kind][i];
        p->uses[i] =
            (tc_expert_use){(uint16_t)(index / experts), (uint16_t)(index % experts), p->counts[kind][index]};
        p->counts[kind][index] = 0;
    }
    p->touched_count[kind] = 0;
    return n;
}

static void learn(tc_placement *p, uint64_t now_us, bool busy)
{
    uint32_t n = gather(p, SEEN);
    tc_hot_cache_account(p->o.cache, p->uses, n);
    n = gather(p, LEARNED);
    if (!p->enabled) {
        tc_hot_cache_account(p->o.cache, p->uses, n);
        return;
    }
    const tc_cache_input in = {
        .uses = p->uses, .count = n, .tokens = n ? p->tokens : 0, .now_us = now_us, .link_busy = busy};
    uint32_t fills = tc_hot_cache_step(p->o.cache, &in, p->fills);
    tc_placement_tell_changes(p);
    if (fills) p->o.tier.fill(p->o.tier.arg, p->fills, fills, false);
}

void tc_placement_end(tc_placement *p, bool busy)
{
    if (!p) return;
    uint64_t start_ns = tc_now_ns();
    uint64_t reads = (uint64_t)p->touched_count[SEEN] + p->touched_count[LEARNED];
    if (p->tokens == 1 && p->pairs > reads) p->reads_shared += p->pairs - reads; // a step of answers only
    if (p->o.cache)
        learn(p, start_ns / 1000, busy);
    else
        gather(p, SEEN), gather(p, LEARNED);
    if (p->sampling_left) {
        p->sampling_left = p->sampling_left > p->tokens ? p->sampling_left - p->tokens : 0;
        if (!p->sampling_left) tc_placement_prime(p);
    }
    p->looks = p->fetches = p->reaches = false;
    p->tokens = p->segments = 0;
    p->pairs = 0;
    save_now_and_then(p, start_ns / 1000);
    p->ns += tc_now_ns() - start_ns;
}

// ---- requests ----

static void set_pin(tc_placement *p, uint32_t index)
{
    uint32_t layer = index / p->o.experts, expert = index % p->o.experts;
    if (p->pin_users[index] || p->operator_pins[index])
        tc_hot_cache_pin(p->o.cache, layer, expert, NULL); // no room: it stays a hint
    else
        tc_hot_cache_unpin(p->o.cache, layer, expert, NULL);
}

static bool in_range(const tc_placement *p, const tc_expert_hint *hint)
{
    return hint->layer < p->o.layers && hint->expert < p->o.experts;
}

static int by_layer(const void *a, const void *b)
{
    const tc_cache_fill *x = a, *y = b;
    return x->layer < y->layer ? -1 : x->layer > y->layer;
}

// Between steps, nothing used: what was announced is ordered now, and comes while the prompt is computed;
// what its layers need first, first.
static void order_announced(tc_placement *p)
{
    const tc_cache_input nothing = {.now_us = tc_now_us()};
    uint32_t fills = tc_hot_cache_step(p->o.cache, &nothing, p->fills);
    tc_placement_tell_changes(p);
    qsort(p->fills, fills, sizeof *p->fills, by_layer);
    if (fills) p->o.tier.fill(p->o.tier.arg, p->fills, fills, true);
}

void tc_placement_arrived(tc_placement *p, const tc_placement_request *r, const tc_expert_hint *hints,
                          uint32_t count)
{
    if (!p || !p->o.cache || !p->enabled || !r->learn) return;
    uint64_t start_ns = tc_now_ns();
    for (uint32_t i = 0; i < count; i++) {
        if (!in_range(p, &hints[i])) continue;
        uint32_t index = hints[i].layer * p->o.experts + hints[i].expert;
        tc_hot_cache_want(p->o.cache, hints[i].layer, hints[i].expert, PIN_USES);
        if (hints[i].pin && p->pin_users[index] < UINT16_MAX) {
            p->pin_users[index]++;
            set_pin(p, index);
        }
    }
    if (p->footprints) {
        tc_footprint_announce(p->footprints, r->conversation, p->o.top_k, p->o.cache);
        tc_footprint_announce(p->footprints, r->named, p->o.top_k, p->o.cache);
    }
    order_announced(p);
    p->ns += tc_now_ns() - start_ns;
}

void tc_placement_left(tc_placement *p, const tc_expert_hint *hints, uint32_t count)
{
    if (!p || !p->o.cache) return;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = hints[i].layer * p->o.experts + hints[i].expert;
        if (!hints[i].pin || !in_range(p, &hints[i]) || !p->pin_users[index]) continue;
        p->pin_users[index]--;
        set_pin(p, index);
    }
}

double tc_placement_alike(const tc_placement *p, uint64_t a, uint64_t b)
{
    return p && p->footprints ? tc_footprint_alike(p->footprints, a, b) : 0;
}

uint64_t tc_placement_ns(const tc_placement *p)
{
    return p ? p->ns : 0;
}

// Pins are hints where there is no room for them.
static void let_pins_go(tc_placement *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (p->pin_users[i] || p->operator_pins[i])
            tc_hot_cache_unpin(p->o.cache, i / p->o.experts, i % p->o.experts, NULL);
}

static void pin_again(tc_placement *p)
{
    for (uint32_t i = 0; i < p->n; i++)
        if (p->pin_users[i] || p->operator_pins[i]) set_pin(p, i);
}

void tc_placement_shed(tc_placement *p, bool shed)
{
    if (!p || !p->o.cache) return;
    const tc_hot_cache_options *o = tc_hot_cache_get_options(p->o.cache);
    uint32_t eighth = o->slots_max / 8 ? o->slots_max / 8 : 1, slots = o->slots;
    uint32_t most = p->wished_slots ? p->wished_slots : o->slots_max;
    if (shed)
        slots = slots > eighth ? slots - eighth : 0;
    else
        slots = slots + eighth < most ? slots + eighth : most;
    if (!shed && slots > o->slots && p->o.tier.grow) slots = p->o.tier.grow(p->o.tier.arg, slots);
    if (shed ? slots == o->slots : slots <= o->slots) return;
    tc_error error;
    if (tc_hot_cache_resize(p->o.cache, slots, &error) != TC_OK) return; // pinned ones stay
    tc_placement_tell_changes(p);
    p->trim_due = true;
    p->sheds += shed;
    if (!shed) pin_again(p); // those that had to let go
    say(p, shed, "the hot tier %s %u experts", shed ? "shrinks to" : "grows to", slots);
}

bool tc_placement_make_way(tc_placement *p)
{
    if (!p || !p->o.cache) return false;
    const tc_hot_cache_options *o = tc_hot_cache_get_options(p->o.cache);
    const uint32_t slots = o->slots;
    const bool due = p->trim_due; // of what was given up earlier
    let_pins_go(p);
    tc_placement_shed(p, true);
    pin_again(p);
    return o->slots < slots || due;
}
