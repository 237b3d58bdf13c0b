// SPDX-License-Identifier: Apache-2.0
// Owns: the table of footprints.
#include "common/placement/footprint.h"
#include "common/base/mem.h"

#include <math.h>
#include <string.h>

enum { WARM = 2 };

struct tc_footprints {
    uint32_t layers, experts, room;
    uint64_t ids[TC_FOOTPRINTS_MAX], used[TC_FOOTPRINTS_MAX]; // used: a count of notes, for the oldest
    uint64_t clock;
    uint8_t *uses; // [room][layers * experts]
};

uint64_t tc_footprints_bytes(uint32_t layers, uint32_t experts, uint32_t conversations)
{
    return sizeof(tc_footprints) + (uint64_t)layers * experts * conversations;
}

tc_status tc_footprints_create(uint32_t layers, uint32_t experts, uint32_t conversations, tc_footprints **ret,
                               tc_error *e)
{
    if (conversations < 1 || conversations > TC_FOOTPRINTS_MAX)
        return tc_fail(e, TC_ARGUMENT, "%u conversations are not in 1..%d", conversations, TC_FOOTPRINTS_MAX);
    tc_footprints *all = tc_alloc(TC_MEM_OTHER, 1, sizeof *all);
    if (!all) return tc_fail(e, TC_NOMEM, "out of memory for footprints");
    all->layers = layers;
    all->experts = experts;
    all->room = conversations;
    all->uses = tc_alloc(TC_MEM_OTHER, (size_t)layers * experts, conversations);
    if (!all->uses) {
        tc_free(all);
        return tc_fail(e, TC_NOMEM, "out of memory for footprints of %u conversations", conversations);
    }
    *ret = all;
    return TC_OK;
}

void tc_footprints_free(tc_footprints *all)
{
    if (!all) return;
    tc_free(all->uses);
    tc_free(all);
}

static uint8_t *row_of(const tc_footprints *all, uint32_t place)
{
    return all->uses + (size_t)place * all->layers * all->experts;
}

static uint32_t place_of(tc_footprints *all, uint64_t id)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < all->room; i++) {
        if (all->ids[i] == id) return i;
        if (all->used[i] < all->used[oldest]) oldest = i;
    }
    all->ids[oldest] = id;
    memset(row_of(all, oldest), 0, (size_t)all->layers * all->experts);
    return oldest;
}

// What was before weighs half from here on.
static void halve(uint8_t *row, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) row[i] >>= 1;
}

void tc_footprint_note(tc_footprints *all, uint64_t id, uint32_t tokens, uint32_t top_k,
                       const int32_t *chosen)
{
    if (!id) return;
    uint32_t place = place_of(all, id), count = all->layers * all->experts;
    uint8_t *row = row_of(all, place);
    all->used[place] = ++all->clock;
    for (uint32_t i = 0; i < tokens * all->layers * top_k; i++) {
        if (chosen[i] < 0) continue;
        uint8_t *uses = &row[i / top_k % all->layers * all->experts + (uint32_t)chosen[i]];
        if (*uses == UINT8_MAX) halve(row, count);
        ++*uses;
    }
}

void tc_footprint_add(tc_footprints *all, uint64_t id, const tc_expert_use *uses, uint32_t count)
{
    if (!id) return;
    uint32_t place = place_of(all, id), n = all->layers * all->experts;
    uint8_t *row = row_of(all, place);
    all->used[place] = ++all->clock;
    for (uint32_t i = 0; i < count; i++) {
        if (uses[i].layer >= all->layers || uses[i].expert >= all->experts) continue;
        uint8_t *at = &row[uses[i].layer * all->experts + uses[i].expert];
        for (uint32_t k = 0; k < uses[i].count; k++) {
            if (*at == UINT8_MAX) halve(row, n);
            ++*at;
        }
    }
}

void tc_footprint_announce(const tc_footprints *all, uint64_t id, uint32_t top_k, tc_hot_cache *cache)
{
    const uint8_t *uses = tc_footprint_find(all, id);
    uint32_t slots = tc_hot_cache_get_options(cache)->slots, of[UINT8_MAX + 1] = {0}, bar = UINT8_MAX, kept;
    if (!uses) return;
    for (uint32_t i = 0; i < all->layers * all->experts; i++) of[uses[i]]++;
    for (kept = of[bar]; bar > 1 && kept + of[bar - 1] <= slots; bar--) kept += of[bar - 1];
    for (uint32_t layer = 0; layer < all->layers; layer++) {
        const uint8_t *row = uses + (size_t)layer * all->experts;
        uint32_t sum = 0;
        for (uint32_t e = 0; e < all->experts; e++) sum += row[e];
        for (uint32_t e = 0; e < all->experts; e++)
            if (row[e] >= bar)
                tc_hot_cache_expect(cache, layer, e, (float)(WARM * top_k * row[e]) / (float)sum);
    }
}

const uint8_t *tc_footprint_find(const tc_footprints *all, uint64_t id)
{
    for (uint32_t i = 0; id && i < all->room; i++)
        if (all->ids[i] == id) return row_of(all, i);
    return NULL;
}

double tc_footprint_alike(const tc_footprints *all, uint64_t a, uint64_t b)
{
    const uint8_t *x = tc_footprint_find(all, a), *y = tc_footprint_find(all, b);
    uint64_t xx = 0, yy = 0, xy = 0;
    if (!x || !y) return 0;
    for (uint32_t i = 0; i < all->layers * all->experts; i++) {
        xx += (uint64_t)x[i] * x[i];
        yy += (uint64_t)y[i] * y[i];
        xy += (uint64_t)x[i] * y[i];
    }
    return xx && yy ? (double)xy / sqrt((double)xx * (double)yy) : 0;
}
