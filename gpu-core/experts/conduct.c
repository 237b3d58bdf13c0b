// SPDX-License-Identifier: Apache-2.0
// Owns: the table of strikes.
#include "gpu-core/experts/conduct.h"

#include <stdio.h>

const tc_conduct *tc_conduct_find(const tc_conducts *all, uint32_t index, uint64_t pid)
{
    for (uint32_t i = 0; i < all->count; i++)
        if (all->of[i].index == index && all->of[i].pid == pid) return &all->of[i];
    return NULL;
}

static tc_conduct *place_of(tc_conducts *all, uint32_t index, uint64_t pid)
{
    tc_conduct *place = (tc_conduct *)(uintptr_t)tc_conduct_find(all, index, pid);
    if (place) return place;
    place = &all->of[0];
    if (all->count < TC_CONDUCTS_MAX) place = &all->of[all->count++];
    for (uint32_t i = 1; i < TC_CONDUCTS_MAX && all->count == TC_CONDUCTS_MAX && place->strikes; i++)
        if (all->of[i].last_us < place->last_us) place = &all->of[i];
    *place = (tc_conduct){.index = index, .pid = pid};
    return place;
}

uint64_t tc_conduct_strike(tc_conducts *all, uint32_t index, uint64_t pid, uint64_t now_us,
                           const char *reason)
{
    tc_conduct *c = place_of(all, index, pid);
    if (c->strikes && now_us - c->last_us > TC_CONDUCT_MEMORY_US) c->strikes = 0;
    uint64_t length_us = TC_QUARANTINE_MIN_US;
    for (uint32_t i = 0; i < c->strikes && length_us < TC_QUARANTINE_MAX_US; i++) length_us *= 2;
    if (length_us > TC_QUARANTINE_MAX_US) length_us = TC_QUARANTINE_MAX_US;
    c->strikes++;
    c->last_us = now_us;
    c->until_us = now_us + length_us;
    snprintf(c->reason, sizeof c->reason, "%.150s", reason);
    return length_us;
}

bool tc_conduct_quarantined(const tc_conducts *all, uint32_t index, uint64_t pid, uint64_t now_us)
{
    const tc_conduct *c = tc_conduct_find(all, index, pid);
    return c && now_us < c->until_us;
}
