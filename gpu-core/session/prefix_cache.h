// SPDX-License-Identifier: Apache-2.0
// Owns: what is kept of prompts after their sessions have ended, in host memory: a tree of blocks of 64
// tokens, each with its KV page, some with a snapshot of the recurrent state behind their last token. What a
// sequence ends with may be a block of fewer tokens, a tail, behind which there is nothing. A session may
// begin behind any block from which it can go on: one with a snapshot, or any block where the model has no
// recurrent state, because that state cannot be rolled back.
//
// A block is found by the hash of its scope and all tokens up to its end, and is taken only when the tokens
// themselves agree: nobody can be handed what another prompt, or another scope, has left here. Leaves that
// were not used for longest go first; so do snapshots, which weigh as much as many pages.
// Refuses: to decide what is worth keeping (sched), and to hold more than its budget.
#pragma once

#include "gpu-core/dev/dev.h"

typedef struct tc_prefix_cache tc_prefix_cache;
typedef struct tc_prefix_block tc_prefix_block; // of one cache; stays while it is held

typedef struct tc_prefix_match {
    tc_prefix_block *block; // held; give it back with tc_prefix_release. NULL: nothing usable
    uint32_t usable;        // positions up to its end; a session can begin there
    uint32_t known;         // positions whose pages are here, >= usable
} tc_prefix_match;

// budget_bytes: pages, snapshots and bookkeeping together. dev: borrowed.
tc_status tc_prefix_cache_create(tc_dev *dev, uint64_t budget_bytes, tc_prefix_cache **ret, tc_error *e);
void tc_prefix_cache_free(tc_prefix_cache *cache); // NULL is legal; no block is held any more

// The longest usable beginning of tokens[0, count). NULL cache: nothing.
tc_prefix_match tc_prefix_find(tc_prefix_cache *cache, uint64_t scope, const uint32_t *tokens,
                               uint32_t count);
void tc_prefix_release(tc_prefix_cache *cache, tc_prefix_block *block); // NULL is legal

// Of a tail: gives it back and holds the block before it instead (NULL: there is none). Else the block.
tc_prefix_block *tc_prefix_whole(tc_prefix_cache *cache, tc_prefix_block *block);

// Copies the page of a block into the device and returns the block before it (NULL: it was the first).
// *ret_index: which page of a session it is.
tc_prefix_block *tc_prefix_load_page(tc_prefix_cache *cache, tc_prefix_block *block, const uint32_t *pages,
                                     uint32_t *ret_index);
// Copies the snapshot of a block into a slot. Where the model has no recurrent state: does nothing.
void tc_prefix_load_state(tc_prefix_cache *cache, tc_prefix_block *block, uint32_t slot);

// Adds the block of tokens[0, count), 1..64 of them, behind `parent` (NULL: the first one), or finds it;
// `page` holds its keys and values. `parent` is released, the block that is returned is held. NULL: no room,
// not even by eviction.
tc_prefix_block *tc_prefix_add(tc_prefix_cache *cache, uint64_t scope, tc_prefix_block *parent,
                               const uint32_t *tokens, uint32_t count, uint32_t page);
// Keeps the state of a slot, which is the one behind the block's last token. False: it is not there, for want
// of room, or because the model has none.
bool tc_prefix_add_state(tc_prefix_cache *cache, tc_prefix_block *block, uint32_t slot);

typedef struct tc_prefix_stats {
    uint64_t bytes, budget_bytes, evictions;
    uint32_t blocks, snapshots;
} tc_prefix_stats;
// What it may hold from now on; what is above goes at once, but for what is held. NULL is legal.
void tc_prefix_cache_set_budget(tc_prefix_cache *cache, uint64_t budget_bytes);
tc_prefix_stats tc_prefix_cache_stats(const tc_prefix_cache *cache); // of NULL: zeros
