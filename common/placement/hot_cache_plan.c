// SPDX-License-Identifier: Apache-2.0
// Owns: a step's choice of fills: candidates from the most valuable down, victims from the least valuable up,
// until a newcomer is not worth more than the one it would push out.
#include "common/placement/hot_cache_impl.h"

#include <stddef.h>
#include <string.h>

enum { REBUILD_TOKENS = 8 };

// ---- heaps: the root is the largest of `max`, or the smallest ----

_Static_assert(offsetof(candidate, key) == 4 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "a candidate is one number, its key above its index");

// Smaller comes first. Equals in a fixed order: a run can be repeated. Bits of floats that are not negative
// order as they do, and one comparison has one branch that is guessed wrong.
static inline uint64_t rank(const candidate *a, bool max)
{
    uint64_t bits;
    memcpy(&bits, a, sizeof bits);
    return max ? bits ^ 0xffffffff00000000u : bits;
}

static inline void sift_down(candidate *heap, uint32_t count, uint32_t at, bool max)
{
    const candidate moved = heap[at];
    const uint64_t own = rank(&moved, max);
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count) break;
        uint64_t first = rank(&heap[child], max);
        if (child + 1 < count) {
            const uint64_t second = rank(&heap[child + 1], max);
            child += second < first;
            first = second < first ? second : first;
        }
        if (first >= own) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

static void heapify(candidate *heap, uint32_t count, bool max)
{
    for (uint32_t i = count / 2; i-- > 0;) sift_down(heap, count, i, max);
}

static inline candidate pop(candidate *heap, uint32_t *count, bool max)
{
    candidate root = heap[0];
    heap[0] = heap[--*count];
    if (*count) sift_down(heap, *count, 0, max);
    return root;
}

// ---- slots ----

void tc_cache_note_change(tc_hot_cache *c, uint32_t index, uint32_t slot)
{
    c->table[index] = slot;
    if (c->change_count == CHANGES_MAX) {
        c->change_all = true;
        return;
    }
    const uint32_t layer = tc_cache_layer_of(c, index);
    c->changes[c->change_count++] =
        (tc_table_change){(uint16_t)layer, (uint16_t)(index - layer * c->o.experts), slot};
}

void tc_cache_evict(tc_hot_cache *c, uint32_t slot)
{
    uint32_t index = c->owner[slot];
    tc_cache_note_change(c, index, TC_NO_SLOT);
    c->flags[index] &= (uint8_t)~FLAG_PREFETCHED;
    c->layer_count[tc_cache_layer_of(c, index)]--;
    c->state[slot] = SLOT_FREE;
    c->stats.evictions++;
}

static bool evictable(const tc_hot_cache *c, uint32_t slot)
{
    return c->state[slot] == SLOT_READY && !(c->flags[c->owner[slot]] & FLAG_PINNED);
}

static victim_heap *victims_of(const tc_hot_cache *c, uint32_t index)
{
    return &c->victims[c->o.per_layer ? tc_cache_layer_of(c, index) : 0];
}

// In the order of their keys.
static void rebuild_lru(tc_hot_cache *c)
{
    candidate *list = c->victim_memory;
    uint32_t n = 0;
    tc_cache_lru_begin(c);
    for (uint32_t slot = 0; slot < c->o.slots; slot++)
        if (evictable(c, slot)) list[n++] = (candidate){slot, tc_cache_key(c, c->owner[slot])};
    heapify(list, n, false);
    while (n) tc_cache_lru_offer(c, pop(list, &n, false).index);
}

static void rebuild_victims(tc_hot_cache *c)
{
    uint32_t heaps = c->o.per_layer ? c->o.layers : 1;
    for (uint32_t i = 0; i < heaps; i++) c->victims[i].count = 0;
    c->victims_stale = false;
    c->held_count = 0; // they are among the others now
    c->victims_built = c->now;
    if (c->o.policy == TC_POLICY_LRU) {
        rebuild_lru(c);
        return;
    }
    for (uint32_t slot = 0; slot < c->o.slots; slot++) {
        if (!evictable(c, slot)) continue;
        victim_heap *v = victims_of(c, c->owner[slot]);
        v->heap[v->count++] = (candidate){slot, tc_cache_key(c, c->owner[slot])};
    }
    for (uint32_t i = 0; i < heaps; i++) heapify(c->victims[i].heap, c->victims[i].count, false);
}

void tc_cache_offer_victim(tc_hot_cache *c, uint32_t slot)
{
    if (c->victims_stale || !evictable(c, slot)) return;
    if (c->o.policy == TC_POLICY_LRU) {
        tc_cache_lru_offer(c, slot);
        return;
    }
    victim_heap *v = victims_of(c, c->owner[slot]);
    const candidate added = {slot, tc_cache_key(c, c->owner[slot])};
    uint32_t at = v->count++;
    for (; at && rank(&added, false) < rank(&v->heap[(at - 1) / 2], false); at = (at - 1) / 2)
        v->heap[at] = v->heap[(at - 1) / 2];
    v->heap[at] = added;
}

static uint32_t oldest_beside(tc_hot_cache *c, uint32_t index, float *ret)
{
    uint32_t slot;
    while ((slot = tc_cache_lru_oldest(c, index)) != TC_NO_SLOT && !evictable(c, slot))
        tc_cache_lru_leave(c, slot); // pinned meanwhile
    if (slot != TC_NO_SLOT) *ret = tc_cache_key(c, c->owner[slot]);
    return slot;
}

// The least valuable slot beside which `index` could be; its key in *ret. TC_NO_SLOT: none may go.
uint32_t tc_cache_worst_beside(tc_hot_cache *c, uint32_t index, float *ret)
{
    bool sinks = c->o.policy >= TC_POLICY_DECAYED; // keys go down by themselves: looked at anew now and then
    if (c->victims_stale || (sinks && c->now - c->victims_built >= REBUILD_TOKENS)) rebuild_victims(c);
    if (c->o.policy == TC_POLICY_LRU) return oldest_beside(c, index, ret);
    victim_heap *v = victims_of(c, index);
    while (v->count) {
        candidate *root = &v->heap[0];
        if (!evictable(c, root->index)) { // pinned meanwhile
            pop(v->heap, &v->count, false);
            continue;
        }
        float key = tc_cache_key(c, c->owner[root->index]);
        if (key <= root->key) {
            *ret = key;
            return root->index;
        }
        root->key = key;
        sift_down(v->heap, v->count, 0, false);
    }
    return TC_NO_SLOT;
}

void tc_cache_pop_victim(tc_hot_cache *c, uint32_t index)
{
    victim_heap *v = victims_of(c, index);
    if (c->o.policy == TC_POLICY_LRU)
        tc_cache_lru_leave(c, tc_cache_lru_oldest(c, index));
    else
        pop(v->heap, &v->count, false);
}

void tc_cache_doom(tc_hot_cache *c, uint32_t slot)
{
    c->flags[c->owner[slot]] &= (uint8_t) ~(FLAG_FILLING | FLAG_PREFETCHED);
    c->layer_count[tc_cache_layer_of(c, c->owner[slot])]--;
    c->state[slot] = SLOT_DOOMED;
}

// A fill of the layer that nobody pinned; TC_NO_SLOT: none.
static uint32_t filling_of_layer(const tc_hot_cache *c, uint32_t layer)
{
    for (uint32_t i = 0; i < c->filling_count; i++) {
        uint32_t slot = c->filling[i];
        if (c->state[slot] == SLOT_FILLING && tc_cache_layer_of(c, c->owner[slot]) == layer &&
            !(c->flags[c->owner[slot]] & FLAG_PINNED))
            return slot;
    }
    return TC_NO_SLOT;
}

void tc_cache_trim_layers(tc_hot_cache *c)
{
    for (uint32_t layer = 0; layer < c->o.layers && c->o.per_layer; layer++) {
        while (c->layer_count[layer] > tc_cache_quota(c, layer)) {
            float key;
            uint32_t slot = tc_cache_worst_beside(c, layer * c->o.experts, &key);
            if (slot != TC_NO_SLOT) {
                tc_cache_pop_victim(c, layer * c->o.experts);
                tc_cache_evict(c, slot);
                c->free_slots[c->free_count++] = slot;
                continue;
            }
            slot = filling_of_layer(c, layer);
            if (slot == TC_NO_SLOT) break; // all pinned, which resize has checked
            tc_cache_doom(c, slot);
        }
    }
}

// ---- the plan ----

typedef struct plan {
    tc_hot_cache *c;
    tc_cache_fill *fills;
    uint32_t count, room;
    uint64_t now_us;
} plan;

void tc_cache_start_fill(tc_hot_cache *c, uint32_t index, uint32_t slot, uint32_t evicted, uint64_t now_us,
                         tc_cache_fill *ret)
{
    const uint32_t layer = tc_cache_layer_of(c, index);
    c->owner[slot] = index;
    c->state[slot] = SLOT_FILLING;
    c->start_us[slot] = now_us;
    atomic_store_explicit(&c->done_us[slot], 0, memory_order_relaxed);
    c->flags[index] |= FLAG_FILLING;
    c->layer_count[layer]++;
    c->filling[c->filling_count++] = slot;
    c->stats.fills++;
    c->stats.fill_bytes += c->o.slot_bytes;
    c->credit_bytes -= (double)c->o.slot_bytes;
    *ret = (tc_cache_fill){.layer = layer,
                           .expert = index - layer * c->o.experts,
                           .slot = slot,
                           .evicted_layer = TC_NO_SLOT,
                           .evicted_expert = TC_NO_SLOT};
    if (evicted == TC_NO_SLOT) return;
    ret->evicted_layer = tc_cache_layer_of(c, evicted);
    ret->evicted_expert = evicted - ret->evicted_layer * c->o.experts;
}

static void start_fill(plan *p, uint32_t index, uint32_t slot, uint32_t evicted)
{
    tc_cache_start_fill(p->c, index, slot, evicted, p->now_us, &p->fills[p->count++]);
}

// A slot for `index`, worth `key`: a free one, or one that is worth less; `must`: whatever that is worth.
static bool place(plan *p, uint32_t index, float key, bool must)
{
    tc_hot_cache *c = p->c;
    uint32_t layer = tc_cache_layer_of(c, index);
    bool full = c->o.per_layer && c->layer_count[layer] >= tc_cache_quota(c, layer);
    if (c->free_count && !full) {
        start_fill(p, index, c->free_slots[--c->free_count], TC_NO_SLOT);
        return true;
    }
    float least = 0;
    uint32_t victim = tc_cache_worst_beside(c, index, &least);
    if (victim == TC_NO_SLOT) return false;
    if (!must && !(key > least * (1 + (float)c->o.margin))) return false;
    tc_cache_pop_victim(c, index);
    uint32_t evicted = c->owner[victim];
    tc_cache_evict(c, victim);
    start_fill(p, index, victim, evicted);
    return true;
}

static void place_pins(plan *p)
{
    tc_hot_cache *c = p->c;
    for (uint32_t i = 0; i < c->pin_count && p->count < p->room; i++) {
        uint32_t index = c->pins[i];
        if (c->table[index] == TC_NO_SLOT && !(c->flags[index] & FLAG_FILLING)) place(p, index, 0, true);
    }
}

// Announced ones beside the misses; those that are there by now are forgotten.
static void take_wanted(tc_hot_cache *c, uint32_t most)
{
    for (uint32_t i = 0; i < most && c->wanted_count; i++) {
        uint32_t index = c->wanted[c->wanted_head];
        c->wanted_head = (c->wanted_head + 1) % TC_WANTED_MAX;
        c->wanted_count--;
        c->flags[index] &= (uint8_t)~FLAG_WANTED;
        if (c->table[index] != TC_NO_SLOT || (c->flags[index] & FLAG_FILLING)) continue;
        c->flags[index] |= FLAG_PREFETCHED;
        c->candidates[c->candidate_count++].index = index;
    }
}

// How many fills may start now.
uint32_t tc_cache_room(tc_hot_cache *c, uint64_t now_us)
{
    uint32_t room = c->o.fills_max;
    if (c->o.in_flight_max) {
        uint32_t left = c->o.in_flight_max > c->filling_count ? c->o.in_flight_max - c->filling_count : 0;
        if (left < room) room = left;
    }
    if (c->o.link_bytes_per_us <= 0 || !c->o.slot_bytes) return room;
    double rate = c->o.link_bytes_per_us * c->o.link_share, bytes = (double)c->o.slot_bytes;
    double most = rate * 50000 > 2 * bytes ? rate * 50000 : 2 * bytes; // 50 ms may be saved up
    if (now_us > c->last_us) c->credit_bytes += rate * (double)(now_us - c->last_us);
    c->last_us = now_us;
    if (c->credit_bytes > most) c->credit_bytes = most;
    double fills = c->credit_bytes > 0 ? c->credit_bytes / bytes : 0;
    return fills < room ? (uint32_t)fills : room;
}

// The most valuable candidate. LRU's were all used just now: they come as they lie.
static candidate next_candidate(tc_hot_cache *c, uint32_t *at)
{
    if (c->o.policy != TC_POLICY_LRU) return pop(c->candidates, &c->candidate_count, true);
    c->candidate_count--;
    return c->candidates[(*at)++];
}

uint32_t tc_cache_plan(tc_hot_cache *c, const tc_cache_input *input, tc_cache_fill *fills)
{
    plan p = {c, fills, 0, tc_cache_room(c, input->now_us), input->now_us};
    if (!p.room) {
        c->stats.held_back += c->candidate_count;
        return 0;
    }
    place_pins(&p);
    if (!input->link_busy) take_wanted(c, p.room > p.count ? p.room - p.count : 0);
    for (uint32_t i = 0; i < c->candidate_count; i++)
        c->candidates[i].key = tc_cache_key(c, c->candidates[i].index);
    uint32_t at = 0;
    if (c->o.policy != TC_POLICY_LRU) heapify(c->candidates, c->candidate_count, true);
    while (c->candidate_count && p.count < p.room) {
        candidate best = next_candidate(c, &at);
        uint8_t *flags = &c->flags[best.index];
        if (*flags & FLAG_FILLING) continue; // a miss that was announced too
        if (best.key > 0 && place(&p, best.index, best.key, false)) {
            c->stats.prefetches += *flags & FLAG_PREFETCHED ? 1 : 0;
            continue;
        }
        *flags &= (uint8_t)~FLAG_PREFETCHED;
        c->stats.rejected++;
        if (c->o.per_layer) continue; // another layer may have a place
        c->stats.rejected += c->candidate_count;
        c->candidate_count = 0; // those behind are worth no more
    }
    c->stats.held_back += c->candidate_count;
    return p.count;
}
