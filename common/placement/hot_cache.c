// SPDX-License-Identifier: Apache-2.0
// Owns: the life of a hot cache, its slots' states, pins, announcements, and the step's order: account,
// learn, publish, plan.
#include "common/base/mem.h"
#include "common/placement/hot_cache_impl.h"

#include <math.h>
#include <string.h>

static const char *const policy_names[TC_POLICIES] = {"static", "lru", "lfu", "decayed", "predictive"};
static const double FAST_TOKENS = 12, SLOW_TOKENS = 200, FAST_WEIGHT = 0.2, MARGIN = 0.05;

const char *tc_policy_name(tc_cache_policy policy)
{
    return (uint32_t)policy < TC_POLICIES ? policy_names[policy] : "?";
}

bool tc_policy_parse(const char *text, tc_cache_policy *ret)
{
    for (int i = 0; i < TC_POLICIES; i++) {
        if (strcmp(text, policy_names[i]) != 0) continue;
        *ret = (tc_cache_policy)i;
        return true;
    }
    return false;
}

static tc_status check_options(const tc_hot_cache_options *o, tc_error *e)
{
    if (o->layers < 1 || o->layers > TC_CACHE_LAYERS_MAX || o->experts < 1 || o->experts > UINT16_MAX)
        return tc_fail(e, TC_ARGUMENT, "hot cache: %u layers of %u experts", o->layers, o->experts);
    if (o->slots_max < 1 || o->slots_max > TC_CACHE_SLOTS_MAX || o->slots > o->slots_max)
        return tc_fail(e, TC_ARGUMENT, "hot cache: %u slots, room for %u, the limit is %d", o->slots,
                       o->slots_max, TC_CACHE_SLOTS_MAX);
    if ((uint32_t)o->policy >= TC_POLICIES) return tc_fail(e, TC_ARGUMENT, "hot cache: policy %d", o->policy);
    if (o->fills_max > TC_FILLS_MAX)
        return tc_fail(e, TC_ARGUMENT, "hot cache: %u fills a step, the limit is %d", o->fills_max,
                       TC_FILLS_MAX);
    const double shares[] = {o->fast_weight, o->link_share};
    for (int i = 0; i < 2; i++)
        if (!(shares[i] >= 0 && shares[i] <= 1))
            return tc_fail(e, TC_ARGUMENT, "hot cache: %g is not a share between 0 and 1", shares[i]);
    const double numbers[] = {o->fast_tokens, o->slow_tokens, o->margin, o->link_bytes_per_us};
    for (int i = 0; i < 4; i++)
        if (!(numbers[i] >= 0 && numbers[i] < 1e12))
            return tc_fail(e, TC_ARGUMENT, "hot cache: %g is not a half-life, margin or speed", numbers[i]);
    return TC_OK;
}

static void fill_defaults(tc_hot_cache_options *o)
{
    if (!o->fills_max) o->fills_max = TC_FILLS_MAX;
    if (o->link_share <= 0) o->link_share = 1;
    if (o->fast_tokens <= 0) o->fast_tokens = FAST_TOKENS;
    if (o->slow_tokens <= 0) o->slow_tokens = SLOW_TOKENS;
    if (o->fast_weight <= 0) o->fast_weight = FAST_WEIGHT;
    if (o->margin <= 0 && o->policy >= TC_POLICY_DECAYED) o->margin = MARGIN;
    if (!o->admission_tokens) o->admission_tokens = (uint32_t)fmin(4 * o->slow_tokens, 1e9);
}

// One entry a block: where its pointer lies, and its size.
typedef struct block {
    size_t offset, count, size;
} block;

enum { BLOCKS = 24 };

static void list_blocks(const tc_hot_cache_options *o, block ret[BLOCKS])
{
    size_t n = (size_t)o->layers * o->experts, s = o->slots_max, l = o->layers;
    size_t a_layer = o->slots_max < o->experts ? o->slots_max : o->experts;
#define BLOCK(field, how_many)                                                                               \
    {                                                                                                        \
        offsetof(tc_hot_cache, field), how_many, sizeof *((tc_hot_cache *)0)->field                          \
    }
    const block all[] = {
        BLOCK(table, n),
        BLOCK(scores, n),
        BLOCK(prior, n),
        BLOCK(flags, n),
        BLOCK(left_at, n),
        BLOCK(foreseen_at, n),
        BLOCK(owner, s),
        BLOCK(state, s),
        BLOCK(start_us, s),
        BLOCK(done_us, s),
        BLOCK(layer_count, l),
        BLOCK(free_slots, s),
        BLOCK(filling, s),
        BLOCK(held, s),
        BLOCK(pins, s),
        BLOCK(layer_pins, l),
        BLOCK(wanted, TC_WANTED_MAX),
        BLOCK(candidates, n + TC_FILLS_MAX),
        BLOCK(victims, o->per_layer ? l : 1),
        BLOCK(victim_memory, o->per_layer ? l * a_layer : s),
        BLOCK(lru_next, s + l),
        BLOCK(lru_before, s + l),
        BLOCK(changes, CHANGES_MAX),
        BLOCK(layer_stats, l),
    };
#undef BLOCK
    _Static_assert(sizeof all / sizeof *all == BLOCKS, "list of blocks");
    memcpy(ret, all, sizeof all);
}

uint64_t tc_hot_cache_bytes(const tc_hot_cache_options *options)
{
    block blocks[BLOCKS];
    uint64_t bytes = sizeof(tc_hot_cache);
    list_blocks(options, blocks);
    for (int i = 0; i < BLOCKS; i++) bytes += blocks[i].count * blocks[i].size;
    return bytes;
}

static void **pointer_of(tc_hot_cache *c, const block *b)
{
    return (void **)((char *)c + b->offset);
}

tc_status tc_hot_cache_create(const tc_hot_cache_options *options, tc_hot_cache **ret, tc_error *e)
{
    block blocks[BLOCKS];
    TC_TRY(check_options(options, e));
    tc_hot_cache *c = tc_alloc(TC_MEM_OTHER, 1, sizeof *c);
    if (!c) return tc_fail(e, TC_NOMEM, "out of memory for the hot cache");
    c->o = *options;
    fill_defaults(&c->o);
    c->count = c->o.layers * c->o.experts;
    c->per_experts = UINT64_MAX / c->o.experts + 1; // of 1 it is not used
    bool whole = true;
    list_blocks(options, blocks);
    for (int i = 0; i < BLOCKS; i++)
        whole &=
            (*pointer_of(c, &blocks[i]) = tc_alloc(TC_MEM_OTHER, blocks[i].count, blocks[i].size)) != NULL;
    if (!whole) {
        tc_hot_cache_free(c);
        return tc_fail(e, TC_NOMEM, "out of memory for a hot cache of %u slots", options->slots_max);
    }
    uint32_t a_heap = c->o.slots_max < c->o.experts ? c->o.slots_max : c->o.experts;
    for (uint32_t i = 0; i < (c->o.per_layer ? c->o.layers : 1); i++)
        c->victims[i].heap = c->victim_memory + (size_t)i * a_heap;
    memset(c->table, 0xff, c->count * sizeof *c->table);
    c->now = 1;
    c->victims_stale = true;
    c->fast_scale = c->slow_scale = 1;
    tc_cache_update_gains(c);
    for (uint32_t i = c->o.slots; i-- > 0;) c->free_slots[c->free_count++] = i;
    *ret = c;
    return TC_OK;
}

void tc_hot_cache_free(tc_hot_cache *c)
{
    if (!c) return;
    block blocks[BLOCKS];
    list_blocks(&c->o, blocks);
    for (int i = 0; i < BLOCKS; i++) tc_free(*pointer_of(c, &blocks[i]));
    tc_free(c);
}

// ---- the step ----

void tc_cache_forget_changes(tc_hot_cache *c)
{
    c->change_count = 0;
    c->change_all = false;
}

static void note_latency(tc_hot_cache *c, uint64_t us)
{
    uint32_t bucket = us ? 63 - (uint32_t)__builtin_clzll(us) : 0;
    c->stats.latency[bucket < TC_FILL_BUCKETS ? bucket : TC_FILL_BUCKETS - 1]++;
    c->stats.latency_us_total += us;
    if (us > c->stats.latency_us_max) c->stats.latency_us_max = us;
}

// Of doomed ones the slot is free again, where it still exists.
bool tc_cache_publish_slot(tc_hot_cache *c, uint32_t i, bool held)
{
    uint32_t slot = c->filling[i], index = c->owner[slot];
    uint64_t done = atomic_load_explicit(&c->done_us[slot], memory_order_acquire);
    if (!done) return false;
    c->filling[i] = c->filling[--c->filling_count];
    if (c->state[slot] == SLOT_DOOMED) {
        c->state[slot] = SLOT_FREE;
        if (slot < c->o.slots) c->free_slots[c->free_count++] = slot;
        c->stats.fills_dropped++;
        return true;
    }
    note_latency(c, done - 1 > c->start_us[slot] ? done - 1 - c->start_us[slot] : 0);
    c->state[slot] = SLOT_READY;
    c->flags[index] &= (uint8_t)~FLAG_FILLING;
    c->stats.fills_done++;
    tc_cache_note_change(c, index, slot);
    if (held)
        c->held[c->held_count++] = slot;
    else
        tc_cache_offer_victim(c, slot);
    return true;
}

// Fills that are done come into the table.
static void publish(tc_hot_cache *c)
{
    for (uint32_t i = 0; i < c->filling_count;) i += !tc_cache_publish_slot(c, i, false);
}

void tc_hot_cache_publish(tc_hot_cache *c)
{
    c->in_step = false; // one that failed was not told of
    c->foreseen_now = c->foreseen_true = 0;
    tc_cache_offer_held(c);
    tc_cache_forget_changes(c);
    if (c->filling_count) publish(c);
}

uint32_t tc_hot_cache_step(tc_hot_cache *c, const tc_cache_input *input, tc_cache_fill *fills)
{
    tc_cache_forget_changes(c);
    tc_cache_learn(c, input); // against the table of the step that ran
    tc_cache_end_step(c);
    publish(c);
    return tc_cache_plan(c, input, fills);
}

uint32_t tc_hot_cache_changes(const tc_hot_cache *c, const tc_table_change **ret, bool *ret_all)
{
    *ret = c->changes;
    *ret_all = c->change_all;
    return c->change_count;
}

const uint32_t *tc_hot_cache_table(const tc_hot_cache *c)
{
    return c->table;
}

void tc_hot_cache_fill_done(tc_hot_cache *c, uint32_t slot, uint64_t now_us)
{
    if (slot < c->o.slots_max) atomic_store_explicit(&c->done_us[slot], now_us + 1, memory_order_release);
}

bool tc_hot_cache_slot(const tc_hot_cache *c, uint32_t slot, uint32_t *ret_layer, uint32_t *ret_expert,
                       bool *ret_ready)
{
    if (slot >= c->o.slots_max || (c->state[slot] != SLOT_READY && c->state[slot] != SLOT_FILLING))
        return false;
    *ret_layer = c->owner[slot] / c->o.experts;
    *ret_expert = c->owner[slot] % c->o.experts;
    *ret_ready = c->state[slot] == SLOT_READY;
    return true;
}

// ---- between steps ----

tc_status tc_hot_cache_resize(tc_hot_cache *c, uint32_t slots, tc_error *e)
{
    if (slots > c->o.slots_max)
        return tc_fail(e, TC_LIMIT, "%u slots asked for, there is room for %u", slots, c->o.slots_max);
    uint32_t most = 0, quota = slots / c->o.layers;
    for (uint32_t layer = 0; layer < c->o.layers; layer++)
        if (c->layer_pins[layer] > most) most = c->layer_pins[layer];
    if (c->pin_count > slots || (c->o.per_layer && most > quota))
        return tc_fail(e, TC_LIMIT, "%u slots are too few for %u pinned experts", slots, c->pin_count);
    tc_cache_forget_changes(c);
    c->o.slots = slots;
    c->victims_stale = true;
    for (uint32_t slot = slots; slot < c->o.slots_max; slot++) {
        if (c->state[slot] == SLOT_READY) tc_cache_evict(c, slot);
        if (c->state[slot] == SLOT_FILLING) tc_cache_doom(c, slot);
    }
    c->free_count = 0;
    for (uint32_t slot = slots; slot-- > 0;)
        if (c->state[slot] == SLOT_FREE) c->free_slots[c->free_count++] = slot;
    tc_cache_trim_layers(c);
    return TC_OK;
}

uint32_t tc_hot_cache_filling_from(const tc_hot_cache *c, uint32_t slot)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->filling_count; i++) n += c->filling[i] >= slot;
    return n;
}

void tc_hot_cache_clear(tc_hot_cache *c)
{
    tc_cache_forget_changes(c);
    c->victims_stale = true;
    for (uint32_t slot = 0; slot < c->o.slots; slot++) {
        if (c->flags[c->owner[slot]] & FLAG_PINNED) continue;
        if (c->state[slot] == SLOT_FILLING) tc_cache_doom(c, slot);
        if (c->state[slot] != SLOT_READY) continue;
        tc_cache_evict(c, slot);
        c->free_slots[c->free_count++] = slot;
    }
}

void tc_hot_cache_set_policy(tc_hot_cache *c, tc_cache_policy policy)
{
    c->o.policy = policy;
    c->victims_stale = true;
    c->o.margin = policy >= TC_POLICY_DECAYED ? MARGIN : 0;
}

void tc_hot_cache_set_limits(tc_hot_cache *c, double link_bytes_per_us, double link_share, uint32_t fills_max)
{
    if (link_bytes_per_us >= 0) c->o.link_bytes_per_us = link_bytes_per_us;
    if (link_share > 0 && link_share <= 1) c->o.link_share = link_share;
    if (fills_max && fills_max <= TC_FILLS_MAX) c->o.fills_max = fills_max;
}

void tc_hot_cache_prior(tc_hot_cache *c, const float *rate)
{
    float tokens = (float)(c->o.slow_tokens / M_LN2); // a steady rate's decayed sum is this many times it
    for (uint32_t i = 0; i < c->count; i++) {
        float known = rate[i] > 0 ? rate[i] : 0;
        c->prior[i] = known;
        c->scores[i].slow += known * tokens * (float)c->slow_scale;
        c->scores[i].total += known * tokens;
    }
    c->victims_stale = true;
}

static tc_status announce(tc_hot_cache *c, uint32_t index)
{
    if (c->table[index] != TC_NO_SLOT || (c->flags[index] & (FLAG_FILLING | FLAG_WANTED))) return TC_OK;
    if (c->wanted_count == TC_WANTED_MAX) return TC_BUSY;
    c->flags[index] |= FLAG_WANTED;
    c->wanted[(c->wanted_head + c->wanted_count++) % TC_WANTED_MAX] = index;
    return TC_OK;
}

// At least as much: what is announced twice is no more worth.
static void raise_to(float *sum, double uses, double scale)
{
    float due = (float)(uses * scale);
    if (*sum < due) *sum = due;
}

tc_status tc_hot_cache_want(tc_hot_cache *c, uint32_t layer, uint32_t expert, float uses)
{
    if (layer >= c->o.layers || expert >= c->o.experts) return TC_ARGUMENT;
    uint32_t index = layer * c->o.experts + expert;
    if (uses > 0) {
        raise_to(&c->scores[index].fast, (double)uses, c->fast_scale);
        tc_cache_used_now(c, index);
    }
    return announce(c, index);
}

tc_status tc_hot_cache_expect(tc_hot_cache *c, uint32_t layer, uint32_t expert, float rate)
{
    if (layer >= c->o.layers || expert >= c->o.experts) return TC_ARGUMENT;
    uint32_t index = layer * c->o.experts + expert;
    if (rate > 0) { // a steady rate's decayed sum
        raise_to(&c->scores[index].fast, (double)rate * c->o.fast_tokens / M_LN2, c->fast_scale);
        raise_to(&c->scores[index].slow, (double)rate * c->o.slow_tokens / M_LN2, c->slow_scale);
        tc_cache_used_now(c, index);
    }
    return announce(c, index);
}

tc_status tc_hot_cache_pin(tc_hot_cache *c, uint32_t layer, uint32_t expert, tc_error *e)
{
    if (layer >= c->o.layers || expert >= c->o.experts)
        return tc_fail(e, TC_ARGUMENT, "layer %u, expert %u: the model has %u layers of %u experts", layer,
                       expert, c->o.layers, c->o.experts);
    uint32_t index = layer * c->o.experts + expert;
    if (c->flags[index] & FLAG_PINNED) return TC_OK;
    uint32_t room = c->o.per_layer ? c->o.slots / c->o.layers : c->o.slots;
    uint32_t taken = c->o.per_layer ? c->layer_pins[layer] : c->pin_count;
    if (taken >= room) return tc_fail(e, TC_LIMIT, "%u experts are pinned, there are %u slots", taken, room);
    c->flags[index] |= FLAG_PINNED;
    c->pins[c->pin_count++] = index;
    c->layer_pins[layer]++;
    return TC_OK;
}

tc_status tc_hot_cache_unpin(tc_hot_cache *c, uint32_t layer, uint32_t expert, tc_error *e)
{
    if (layer >= c->o.layers || expert >= c->o.experts)
        return tc_fail(e, TC_ARGUMENT, "layer %u, expert %u: the model has %u layers of %u experts", layer,
                       expert, c->o.layers, c->o.experts);
    uint32_t index = layer * c->o.experts + expert;
    if (!(c->flags[index] & FLAG_PINNED)) return TC_OK;
    c->flags[index] &= (uint8_t)~FLAG_PINNED;
    c->layer_pins[layer]--;
    c->victims_stale = true;
    for (uint32_t i = 0; i < c->pin_count; i++)
        if (c->pins[i] == index) c->pins[i--] = c->pins[--c->pin_count];
    return TC_OK;
}

bool tc_hot_cache_pinned(const tc_hot_cache *c, uint32_t layer, uint32_t expert)
{
    return layer < c->o.layers && expert < c->o.experts &&
           (c->flags[layer * c->o.experts + expert] & FLAG_PINNED);
}

void tc_hot_cache_account(tc_hot_cache *c, const tc_expert_use *uses, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (uses[i].layer >= c->o.layers || uses[i].expert >= c->o.experts) continue;
        bool hit = c->table[uses[i].layer * c->o.experts + uses[i].expert] != TC_NO_SLOT;
        tc_layer_stats *layer = &c->layer_stats[uses[i].layer];
        *(hit ? &layer->hits : &layer->misses) += 1;
        *(hit ? &c->stats.pair_hits : &c->stats.pair_misses) += uses[i].count;
    }
}

void tc_hot_cache_stats(const tc_hot_cache *c, tc_cache_stats *ret)
{
    *ret = c->stats;
    for (uint32_t layer = 0; layer < c->o.layers; layer++) {
        ret->hits += c->layer_stats[layer].hits;
        ret->misses += c->layer_stats[layer].misses;
    }
    ret->slots = c->o.slots;
    ret->filling = c->filling_count;
    ret->pinned = c->pin_count;
    for (uint32_t layer = 0; layer < c->o.layers; layer++) ret->ready += c->layer_count[layer];
    for (uint32_t i = 0; i < c->filling_count; i++) ret->ready -= c->state[c->filling[i]] == SLOT_FILLING;
}

const tc_layer_stats *tc_hot_cache_layer_stats(const tc_hot_cache *c)
{
    return c->layer_stats;
}

float tc_hot_cache_worth(const tc_hot_cache *c, uint32_t layer, uint32_t expert)
{
    float key = tc_cache_key(c, layer * c->o.experts + expert);
    return c->o.policy >= TC_POLICY_DECAYED ? (float)(key / c->slow_scale) : key;
}

const tc_hot_cache_options *tc_hot_cache_get_options(const tc_hot_cache *c)
{
    return &c->o;
}
