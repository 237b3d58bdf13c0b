// SPDX-License-Identifier: Apache-2.0
// Owns: what happens inside a step where its owner can fill while it runs: fills of a layer come into the
// table when the layer is reached, and what its router is expected to choose is fetched before that.
//
// A slot may be taken from any layer but the one under way, whose experts are being read, and from none that
// is expected itself. What a layer found when it was reached is what hits are counted by, whatever leaves
// later.
#include "common/placement/hot_cache_impl.h"

#include <math.h>

enum { ASIDE_MAX = 128, FORESEEN_HALF = 256 };
static const float FORESIGHT_START = 0.5f;

// What came for a layer is worth least of all, being a guess, and may not leave while that layer is under
// way: offered at once it would stand before every victim, to be passed over.
void tc_cache_offer_held(tc_hot_cache *c)
{
    for (uint32_t i = 0; i < c->held_count; i++) tc_cache_offer_victim(c, c->held[i]);
    c->held_count = 0;
}

void tc_hot_cache_reach(tc_hot_cache *c, uint32_t layer)
{
    tc_cache_forget_changes(c);
    if (layer >= c->o.layers) return;
    if (!c->in_step) {
        c->in_step = true;
        c->step_number++;
    }
    tc_cache_offer_held(c);
    c->reached = layer;
    uint32_t from = layer * c->o.experts, to = from + c->o.experts;
    for (uint32_t i = 0; i < c->filling_count;) {
        uint32_t slot = c->filling[i], index = c->owner[slot];
        bool here = c->state[slot] == SLOT_FILLING && index >= from && index < to;
        if (here && tc_cache_publish_slot(c, i, true)) continue; // another one is in its place now
        i++;
    }
}

// Whether the slot may be given to another expert while the layer under way is computed.
static bool may_leave(const tc_hot_cache *c, uint32_t slot)
{
    uint32_t index = c->owner[slot];
    return tc_cache_layer_of(c, index) != c->reached && !(c->flags[index] & FLAG_EXPECTED);
}

// Slots taken out of a heap on the way to those that may leave. They stay out until the call ends, for none
// of them may leave any earlier.
typedef struct passed_over {
    uint32_t slots[ASIDE_MAX], count, layer; // layer: whose heap it is, where each has its own
} passed_over;

static void put_back(tc_hot_cache *c, passed_over *p)
{
    for (uint32_t i = 0; i < p->count; i++) tc_cache_offer_victim(c, p->slots[i]);
    p->count = 0;
}

// The least valuable slot that may leave, out of its heap.
static uint32_t take_victim(tc_hot_cache *c, uint32_t index, passed_over *p)
{
    uint32_t slot;
    float key;
    while ((slot = tc_cache_worst_beside(c, index, &key)) != TC_NO_SLOT) {
        bool enough = key >= c->foresight * (float)c->slow_scale; // used as often as a guess comes true
        if (enough || p->count == ASIDE_MAX) return TC_NO_SLOT;
        tc_cache_pop_victim(c, index);
        if (may_leave(c, slot)) break;
        p->slots[p->count++] = slot;
    }
    return slot;
}

static uint32_t slot_for(tc_hot_cache *c, uint32_t index, passed_over *p, uint32_t *ret_evicted)
{
    uint32_t layer = tc_cache_layer_of(c, index);
    bool full = c->o.per_layer && c->layer_count[layer] >= tc_cache_quota(c, layer);
    *ret_evicted = TC_NO_SLOT;
    if (c->free_count && !full) return c->free_slots[--c->free_count];
    if (c->o.per_layer && p->layer != layer) put_back(c, p);
    p->layer = layer;
    uint32_t slot = take_victim(c, index, p);
    if (slot == TC_NO_SLOT) return slot;
    *ret_evicted = c->owner[slot];
    c->left_at[*ret_evicted] = c->step_number << 1 | !!(c->flags[*ret_evicted] & FLAG_PREFETCHED);
    tc_cache_evict(c, slot);
    return slot;
}

static bool known(const tc_hot_cache *c, const tc_expert_use *use)
{
    return use->layer < c->o.layers && use->expert < c->o.experts;
}

static uint32_t index_of(const tc_hot_cache *c, const tc_expert_use *use)
{
    return use->layer * c->o.experts + use->expert;
}

// Those that neither lie there nor are on their way, as indices.
static uint32_t list_missing(const tc_hot_cache *c, const tc_expert_use *expected, uint32_t count,
                             uint32_t missing[TC_FILLS_MAX])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < count && n < TC_FILLS_MAX; i++) {
        if (!known(c, &expected[i])) continue;
        uint32_t index = index_of(c, &expected[i]);
        if (c->table[index] == TC_NO_SLOT && !(c->flags[index] & FLAG_FILLING)) missing[n++] = index;
    }
    return n;
}

// Marked, they do not leave for each other.
static void mark_expected(tc_hot_cache *c, const tc_expert_use *expected, uint32_t count, bool set)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!known(c, &expected[i])) continue;
        uint8_t *flags = &c->flags[index_of(c, &expected[i])];
        *flags = (uint8_t)(set ? *flags | FLAG_EXPECTED : *flags & ~FLAG_EXPECTED);
    }
}

static uint32_t fill_missing(tc_hot_cache *c, const uint32_t *missing, uint32_t count, uint32_t room,
                             uint64_t now_us, tc_cache_fill *fills)
{
    uint32_t n = 0, evicted;
    passed_over passed; // its list is not cleared: that took a quarter of a call
    passed.count = passed.layer = 0;
    for (uint32_t i = 0; i < count && n < room; i++) {
        uint32_t index = missing[i];
        if (c->flags[index] & FLAG_FILLING) continue; // expected twice
        uint32_t slot = slot_for(c, index, &passed, &evicted);
        if (slot == TC_NO_SLOT) break;
        tc_cache_start_fill(c, index, slot, evicted, now_us, &fills[n++]);
        c->flags[index] |= FLAG_PREFETCHED;
        c->foreseen_at[index] = c->step_number;
    }
    put_back(c, &passed);
    return n;
}

uint32_t tc_hot_cache_foresee(tc_hot_cache *c, const tc_expert_use *expected, uint32_t count, uint32_t most,
                              uint64_t now_us, tc_cache_fill *fills)
{
    uint32_t missing[TC_FILLS_MAX];
    tc_cache_forget_changes(c);
    if (!c->in_step || c->o.policy < TC_POLICY_DECAYED) return 0;
    uint32_t room = tc_cache_room(c, now_us);
    if (room > most) room = most;
    if (c->foresight <= 0) c->foresight = FORESIGHT_START;
    uint32_t left = list_missing(c, expected, count, missing);
    if (!left || !room) return 0;
    mark_expected(c, expected, count, true);
    uint32_t n = fill_missing(c, missing, left, room, now_us, fills);
    mark_expected(c, expected, count, false);
    c->stats.foreseen += n;
    c->foreseen_now += n;
    return n;
}

// Of the step that ran: how many of its guesses came true, which is what the next ones are worth.
void tc_cache_end_step(tc_hot_cache *c)
{
    tc_cache_offer_held(c);
    if (!c->in_step) return;
    c->in_step = false;
    if (c->foreseen_now) {
        float rate = (float)c->foreseen_true / (float)c->foreseen_now;
        c->foresight += (rate - c->foresight) * (1 - exp2f(-(float)c->foreseen_now / FORESEEN_HALF));
        if (c->foresight < 0.01f) c->foresight = 0.01f;
    }
    c->foreseen_now = c->foreseen_true = 0;
}

bool tc_hot_cache_was_hot(const tc_hot_cache *c, uint32_t layer, uint32_t expert)
{
    return tc_cache_was_hot(c, layer * c->o.experts + expert);
}
