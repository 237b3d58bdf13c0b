// SPDX-License-Identifier: Apache-2.0
// Owns: carrying out the placement's orders on the cuda device.
#include "gpu-core/experts/gpu_tier.h"

#include "common/base/clock.h"
#include "common/base/mem.h"

enum { FILLS_A_STEP = 48, FILLS_IN_FLIGHT = 192 };
#define LINK_BYTES_A_US 50000.0 // PCIe 5; slower links are kept from choking by the fills in flight

struct tc_gpu_tier {
    const tc_cuda_hot_ops *ops;
    tc_dev *dev;
    const tc_store *store;
    tc_hot_cache *cache;
    uint32_t slots;
    double link_share;
    bool primed;                            // free slots were filled
    bool still;                             // benchmarks: the table stays as it is
    tc_cache_fill waiting[FILLS_IN_FLIGHT]; // orders that the device did not take yet, oldest first
    uint32_t waiting_count;
    tc_cache_fill fills[TC_FILLS_MAX];
};

tc_status tc_gpu_tier_create(const tc_gpu_tier_options *o, tc_gpu_tier **ret, tc_error *e)
{
    const tc_store_info *info = tc_store_get_info(o->store);
    uint32_t slots = 0;
    *ret = NULL;
    TC_TRY(o->cuda->hot.open(o->dev, o->store, o->wanted, &slots, e));
    if (!slots) return TC_OK;
    tc_gpu_tier *t = tc_alloc(TC_MEM_OTHER, 1, sizeof *t);
    if (!t) return tc_fail(e, TC_NOMEM, "out of memory for the hot experts");
    const tc_hot_cache_options options = {.layers = info->layers,
                                          .experts = info->experts,
                                          .slots_max = slots,
                                          .slots = slots,
                                          .policy = o->policy,
                                          .per_layer = o->per_layer,
                                          .second_miss = true,
                                          .fills_max = FILLS_A_STEP,
                                          .in_flight_max = FILLS_IN_FLIGHT,
                                          .slot_bytes = info->expert_bytes,
                                          .link_bytes_per_us = LINK_BYTES_A_US,
                                          .link_share = o->link_share};
    *t = (tc_gpu_tier){
        .ops = &o->cuda->hot, .dev = o->dev, .store = o->store, .slots = slots, .link_share = o->link_share};
    tc_status status = tc_hot_cache_create(&options, &t->cache, e);
    if (status != TC_OK) {
        tc_free(t);
        return status;
    }
    *ret = t;
    return TC_OK;
}

void tc_gpu_tier_free(tc_gpu_tier *t)
{
    if (!t) return;
    tc_hot_cache_free(t->cache);
    tc_free(t);
}

tc_hot_cache *tc_gpu_tier_cache(tc_gpu_tier *t)
{
    return t->cache;
}

uint64_t tc_gpu_tier_bytes(const tc_gpu_tier *t)
{
    return (uint64_t)t->slots * tc_store_get_info(t->store)->expert_bytes;
}

// ---- orders ----

// The cache has no more fills in flight than there is room for here: none is ever dropped.
static void order_one(tc_gpu_tier *t, const tc_cache_fill *fill)
{
    if (t->still) return;
    if (!t->waiting_count && t->ops->ready(t->dev) &&
        t->ops->fill(t->dev, fill->slot, fill->layer, fill->expert))
        return;
    if (t->waiting_count < FILLS_IN_FLIGHT) t->waiting[t->waiting_count++] = *fill;
}

static void order(void *arg, const tc_cache_fill *fills, uint32_t count, bool at_once)
{
    (void)at_once; // the link takes them as they come
    for (uint32_t i = 0; i < count; i++) order_one(arg, &fills[i]);
}

static void changed(void *arg, const tc_table_change *changes, uint32_t count, bool all)
{
    tc_gpu_tier *t = arg;
    const tc_hot_cache_options *o = tc_hot_cache_get_options(t->cache);
    const uint32_t *table = tc_hot_cache_table(t->cache);
    if (t->still) return;
    for (uint32_t i = 0; i < count && !all; i++)
        t->ops->place(t->dev, changes[i].layer, changes[i].expert, changes[i].slot);
    for (uint32_t l = 0; l < o->layers && all; l++)
        for (uint32_t x = 0; x < o->experts; x++)
            t->ops->place(t->dev, l, x, table[(size_t)l * o->experts + x]);
}

static void trim(void *arg, uint32_t slots)
{
    tc_gpu_tier *t = arg;
    if (!t->still) t->ops->resize(t->dev, slots);
}

static uint32_t grow(void *arg, uint32_t slots)
{
    tc_gpu_tier *t = arg;
    return t->still ? t->slots : t->ops->resize(t->dev, slots);
}

// ---- a layer ahead ----

static void look_ahead(void *arg, bool on)
{
    tc_gpu_tier *t = arg;
    t->ops->look_ahead(t->dev, on);
}

static tc_ahead_stats ahead(void *arg)
{
    tc_gpu_tier *t = arg;
    return t->ops->ahead(t->dev);
}

tc_hot_tier tc_gpu_tier_orders(tc_gpu_tier *t)
{
    return (tc_hot_tier){.arg = t,
                         .fill = order,
                         .changed = changed,
                         .trim = trim,
                         .grow = grow,
                         .look_ahead = look_ahead,
                         .ahead = ahead};
}

void tc_gpu_tier_poll(tc_gpu_tier *t)
{
    uint32_t slot, given = 0;
    while (t->ops->filled(t->dev, &slot)) tc_hot_cache_fill_done(t->cache, slot, tc_now_us());
    if (!t->waiting_count || !t->ops->ready(t->dev)) return;
    while (given < t->waiting_count) {
        const tc_cache_fill *fill = &t->waiting[given];
        if (!t->ops->fill(t->dev, fill->slot, fill->layer, fill->expert)) break;
        given++;
    }
    for (uint32_t i = given; i < t->waiting_count; i++) t->waiting[i - given] = t->waiting[i];
    t->waiting_count -= given;
}

void tc_gpu_tier_settle(tc_gpu_tier *t)
{
    const uint32_t slots = tc_hot_cache_get_options(t->cache)->slots;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < t->waiting_count; i++)
        if (t->waiting[i].slot < slots)
            t->waiting[kept++] = t->waiting[i];
        else
            tc_hot_cache_fill_done(t->cache, t->waiting[i].slot, tc_now_us()); // given up before it began
    t->waiting_count = kept;
    t->ops->drain(t->dev);
    tc_gpu_tier_poll(t);
}

// ---- filling free slots ----

static uint32_t each_of(const tc_gpu_tier *t)
{
    const tc_store_info *info = tc_store_get_info(t->store);
    uint32_t layers = 0;
    for (uint32_t l = 0; l < info->layers; l++) layers += tc_store_layer_has_experts(t->store, l);
    uint32_t each = layers ? t->slots / layers : 0;
    return each < info->experts ? each : info->experts;
}

static void tell_changes(tc_gpu_tier *t)
{
    const tc_table_change *changes;
    bool all;
    uint32_t count = tc_hot_cache_changes(t->cache, &changes, &all);
    changed(t, changes, count, all);
}

bool tc_gpu_tier_idle(tc_gpu_tier *t)
{
    const tc_store_info *info = tc_store_get_info(t->store);
    tc_cache_stats stats = {0};
    uint32_t each = each_of(t), before;
    if (t->primed || t->still || !t->ops->ready(t->dev)) return false;
    t->primed = true;
    tc_hot_cache_set_limits(t->cache, 0, 1, FILLS_A_STEP); // nobody else wants the link now
    for (uint32_t x = 0; x < each; x++)
        for (uint32_t l = 0; l < info->layers; l++)
            if (tc_store_layer_has_experts(t->store, l)) (void)tc_hot_cache_want(t->cache, l, x, 0.001f);
    do { // a quarter of a second for 12 GB
        before = stats.ready;
        const tc_cache_input none = {.now_us = tc_now_us()};
        uint32_t fills = tc_hot_cache_step(t->cache, &none, t->fills);
        tell_changes(t);
        order(t, t->fills, fills, false);
        t->ops->drain(t->dev);
        tc_gpu_tier_poll(t);
        tc_hot_cache_publish(t->cache);
        tell_changes(t);
        tc_hot_cache_stats(t->cache, &stats);
    } while (stats.ready != before || stats.filling);
    tc_hot_cache_set_limits(t->cache, LINK_BYTES_A_US, t->link_share, FILLS_A_STEP);
    return true;
}

// ---- benchmarks ----

uint32_t tc_gpu_tier_fill_evenly(tc_gpu_tier *t)
{
    const tc_store_info *info = tc_store_get_info(t->store);
    uint32_t slot = 0, done, each = each_of(t);
    if (!t->ops->settle(t->dev)) return 0;
    t->still = true;
    for (uint32_t l = 0; l < info->layers; l++) {
        if (!tc_store_layer_has_experts(t->store, l)) continue;
        for (uint32_t x = 0; x < each; x++, slot++) {
            while (!t->ops->fill(t->dev, slot, l, x)) (void)t->ops->filled(t->dev, &done);
            t->ops->place(t->dev, l, x, slot);
        }
    }
    t->ops->drain(t->dev);
    while (t->ops->filled(t->dev, &done)) continue;
    return each;
}

static uint32_t below(uint64_t *state, uint32_t n) // xorshift*
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)(((*state * 0x2545f4914f6cdd1du) >> 32) * n >> 32);
}

static bool is_in(const uint32_t *list, uint32_t count, uint32_t value)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i] == value) return true;
    return false;
}

static uint32_t draw_expert(tc_dialled_routes *r)
{
    bool hot = below(&r->state, 100) < r->percent;
    if (r->hot < 2 * r->top_k) hot = false;
    if (r->experts - r->hot < 2 * r->top_k) hot = true;
    return hot ? below(&r->state, r->hot) : r->hot + below(&r->state, r->experts - r->hot);
}

static uint32_t draw_distinct(tc_dialled_routes *r, const uint32_t *list, uint32_t count)
{
    uint32_t expert;
    do {
        expert = draw_expert(r);
    } while (is_in(list, count, expert));
    return expert;
}

void tc_dialled_routes_fill(void *arg, uint32_t *experts, uint32_t tokens)
{
    tc_dialled_routes *r = arg;
    uint32_t *expected = experts + (size_t)r->layers * tokens * r->top_k;
    for (uint32_t i = 0; i < r->layers * tokens; i++, experts += r->top_k, expected += r->top_k) {
        for (uint32_t k = 0; k < r->top_k; k++) experts[k] = draw_distinct(r, experts, k);
        for (uint32_t k = 0; k < r->top_k; k++) {
            const bool right = below(&r->state, 100) < r->recall;
            expected[k] = experts[k];
            while (!right && (is_in(experts, r->top_k, expected[k]) || is_in(expected, k, expected[k])))
                expected[k] = draw_expert(r);
        }
    }
}
