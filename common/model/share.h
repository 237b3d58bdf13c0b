// SPDX-License-Identifier: Apache-2.0
// Owns: how the experts of a store are cut into shares. One rule for who keeps what in memory (arena.h), who
// computes what (expert-worker) and who is asked for what (gpu-core): they must agree to the unit.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// partition: whole experts; slice: a run of units of every expert's width.
typedef enum tc_shard { TC_SHARD_PARTITION, TC_SHARD_SLICE } tc_shard;

enum { TC_SHARES_MAX = 64 };

typedef struct tc_share {
    uint32_t expert_begin, expert_end, unit_begin, unit_end; // [begin, end)
} tc_share;

// Share `index` of `of` (0 <= index < of). May be empty when there are fewer experts or units than shares.
static inline tc_share tc_share_of(uint32_t experts, uint32_t units, tc_shard shard, uint32_t index,
                                   uint32_t of)
{
    tc_share share = {0, experts, 0, units};
    uint32_t *begin = shard == TC_SHARD_SLICE ? &share.unit_begin : &share.expert_begin;
    uint32_t *end = shard == TC_SHARD_SLICE ? &share.unit_end : &share.expert_end;
    uint64_t count = *end;
    *begin = (uint32_t)(count * index / of);
    *end = (uint32_t)(count * (index + 1) / of);
    return share;
}

static inline bool tc_share_is_empty(const tc_share *share)
{
    return share->expert_begin == share->expert_end || share->unit_begin == share->unit_end;
}

// Slices share every token's work out evenly, where partitions leave it to the router (of 8 experts one of
// two workers gets 5.1 on average). But a slice is whole units, and where those do not divide well the
// largest share is what counts.
static inline tc_shard tc_share_best(uint32_t units, uint64_t of)
{
    uint64_t largest = of ? (units + of - 1) / of : units; // units of the largest slice
    return of > 1 && largest * of * 5 <= (uint64_t)units * 6 ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
}
