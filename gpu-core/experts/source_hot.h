// SPDX-License-Identifier: Apache-2.0
// Owns: the hot tier of the cpu device: slots of memory that hold experts, copied there beside the steps by
// one thread, and an expert source that computes what is hot here and leaves the rest to another source.
// Sums are fixed point, so who computes what changes no bit. Refuses: to choose (common/placement).
#pragma once

#include "common/placement/hot_cache.h"
#include "gpu-core/experts/source.h"

// Memory of a slot, with its bookkeeping. A tier of n slots takes n times that.
uint64_t tc_source_hot_slot_bytes(const tc_store *store);

// cold: computes what is not hot; owned from here on. cache: borrowed, with at most `slots` slots. store:
// must have the experts' weights mapped.
tc_status tc_source_hot_create(const tc_store *store, tc_team *team, uint32_t tokens_max, const char *isa,
                               tc_hot_cache *cache, tc_expert_source *cold, tc_expert_source **ret,
                               tc_error *e);
// Orders fills; tc_hot_cache_fill_done of each follows from the tier's own thread, which is woken for them
// (at_once) or, while orders keep coming, looks for them every quarter of a millisecond.
void tc_source_hot_fill(tc_expert_source *source, const tc_cache_fill *fills, uint32_t count, bool at_once);
// Bytes a microsecond that a fill reaches here: measured on slot 0, before anything is hot.
double tc_source_hot_speed(tc_expert_source *source);
// Gives back the memory of slots from `slots` on. None of them is being filled (tc_hot_cache_filling_from).
void tc_source_hot_trim(tc_expert_source *source, uint32_t slots);
