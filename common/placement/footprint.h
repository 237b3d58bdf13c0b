// SPDX-License-Identifier: Apache-2.0
// Owns: what conversations used: for each of the last TC_FOOTPRINTS_MAX, how often every (layer, expert), in
// 8 bits; and how alike two of them are. Whose turn comes back finds its experts announced. Refuses: to know
// what a conversation is: a number that the caller made of its name and owner.
#pragma once

#include "common/placement/hot_cache.h"
#include <stdint.h>

enum { TC_FOOTPRINTS_MAX = 256 };

typedef struct tc_footprints tc_footprints;

// Room for `conversations` (1..TC_FOOTPRINTS_MAX), layers * experts bytes each, taken here.
tc_status tc_footprints_create(uint32_t layers, uint32_t experts, uint32_t conversations, tc_footprints **ret,
                               tc_error *e);
void tc_footprints_free(tc_footprints *all); // NULL is legal
uint64_t tc_footprints_bytes(uint32_t layers, uint32_t experts, uint32_t conversations);

// Adds the experts of `tokens` tokens to conversation `id` (not 0); an unknown one takes the place of that
// used longest ago. chosen: [tokens][layers][top_k], -1: none.
void tc_footprint_note(tc_footprints *all, uint64_t id, uint32_t tokens, uint32_t top_k,
                       const int32_t *chosen);
// The same of uses that are counted already, each (layer, expert) once.
void tc_footprint_add(tc_footprints *all, uint64_t id, const tc_expert_use *uses, uint32_t count);
// Announces the most used of the conversation to the cache, as many as it has slots, at twice the rates they
// were used with: they are to come in place of what others use now. Unknown: nothing.
void tc_footprint_announce(const tc_footprints *all, uint64_t id, uint32_t top_k, tc_hot_cache *cache);
// [layers][experts] uses, up to 255 the most used; NULL: unknown.
const uint8_t *tc_footprint_find(const tc_footprints *all, uint64_t id);
// 0 (nothing in common) to 1: the cosine of the two; 0 where one is unknown.
double tc_footprint_alike(const tc_footprints *all, uint64_t a, uint64_t b);
