// SPDX-License-Identifier: Apache-2.0
// Owns: the order of last use, for the policy that evicts by nothing else and fills at nearly every miss: a
// ring of slots, so that a use and a victim cost a few words where the heap of the others costs its depth.
// Refuses: whether a slot may be evicted (hot_cache_plan.c).
#include "common/placement/hot_cache_impl.h"

static uint32_t head_of(const tc_hot_cache *c, uint32_t index)
{
    return c->o.slots_max + (c->o.per_layer ? index / c->o.experts : 0);
}

static void put_behind(tc_hot_cache *c, uint32_t at, uint32_t slot)
{
    uint32_t next = c->lru_next[at];
    c->lru_next[slot] = next;
    c->lru_before[slot] = at;
    c->lru_next[at] = c->lru_before[next] = slot;
}

void tc_cache_lru_begin(tc_hot_cache *c)
{
    uint32_t heads = c->o.per_layer ? c->o.layers : 1;
    for (uint32_t slot = 0; slot < c->o.slots_max; slot++) c->lru_next[slot] = TC_NO_SLOT;
    for (uint32_t i = c->o.slots_max; i < c->o.slots_max + heads; i++) c->lru_next[i] = c->lru_before[i] = i;
}

void tc_cache_lru_leave(tc_hot_cache *c, uint32_t slot)
{
    if (c->lru_next[slot] == TC_NO_SLOT) return;
    c->lru_next[c->lru_before[slot]] = c->lru_next[slot];
    c->lru_before[c->lru_next[slot]] = c->lru_before[slot];
    c->lru_next[slot] = TC_NO_SLOT;
}

// Fills arrive soon after the use that ordered them, so the search is short.
void tc_cache_lru_offer(tc_hot_cache *c, uint32_t slot)
{
    uint32_t head = head_of(c, c->owner[slot]), at = c->lru_before[head];
    tc_cache_lru_leave(c, slot);
    if (at == slot) at = c->lru_before[head];
    while (at != head && c->scores[c->owner[at]].last > c->scores[c->owner[slot]].last)
        at = c->lru_before[at];
    put_behind(c, at, slot);
}

void tc_cache_lru_touch(tc_hot_cache *c, uint32_t slot)
{
    if (c->lru_next[slot] == TC_NO_SLOT) return; // pinned
    tc_cache_lru_leave(c, slot);
    put_behind(c, c->lru_before[head_of(c, c->owner[slot])], slot);
}

uint32_t tc_cache_lru_oldest(const tc_hot_cache *c, uint32_t index)
{
    uint32_t head = head_of(c, index), slot = c->lru_next[head];
    return slot == head ? TC_NO_SLOT : slot;
}
