// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the hot cache share. An index is layer * experts + expert. Refuses: to be included
// elsewhere.
#pragma once

#include "common/placement/hot_cache.h"
#include <stdatomic.h>

typedef enum slot_state { SLOT_FREE, SLOT_FILLING, SLOT_READY, SLOT_DOOMED } slot_state;
enum { FLAG_PINNED = 1, FLAG_FILLING = 2, FLAG_WANTED = 4, FLAG_PREFETCHED = 8, FLAG_EXPECTED = 16 };
enum { CHANGES_MAX = 4 * TC_FILLS_MAX };

typedef struct candidate {
    uint32_t index; // expert index, or a slot
    float key;      // not negative
} candidate;

// Decayed uses are scaled up by fast_scale and slow_scale instead of all others being scaled down.
typedef struct score {
    float fast, slow, total;
    uint32_t last; // `now` of the last use; 0: never
} score;

// Slots that may be evicted (LRU has its own: hot_cache_lru.c), the least valuable at the root. Lazily kept:
// a slot that was used since has its old key, which is too low, and gets its place when it comes to the root.
typedef struct victim_heap {
    candidate *heap;
    uint32_t count;
} victim_heap;

struct tc_hot_cache {
    tc_hot_cache_options o;
    uint32_t count;       // layers * experts
    uint64_t per_experts; // 2^64 / experts, rounded up: divides an index by one multiplication
    uint32_t now;         // tokens since the start, + 1
    // by index
    uint32_t *table;
    score *scores;
    float *prior; // uses a token known beforehand
    uint8_t *flags;
    // by slot
    uint32_t *owner; // index
    uint8_t *state;
    uint64_t *start_us;
    _Atomic uint64_t *done_us; // time + 1; 0: not done
    uint32_t *layer_count;     // slots that a layer holds or is getting
    uint32_t *free_slots, free_count;
    uint32_t *filling, filling_count; // slots FILLING or DOOMED
    uint32_t *pins, pin_count;        // indices
    uint32_t *layer_pins;
    uint32_t *wanted, wanted_head, wanted_count; // a ring of indices
    candidate *candidates;                       // a heap: [count + TC_FILLS_MAX]
    uint32_t candidate_count;
    victim_heap *victims; // one a layer, or one
    candidate *victim_memory;
    uint32_t *lru_next, *lru_before; // LRU's rings, by slot, then one head a heap; TC_NO_SLOT: in none
    bool victims_stale;
    uint32_t victims_built; // `now`
    double fast_scale, slow_scale;
    float fast_gain, slow_gain;  // what scaled uses are worth, beside each other
    uint32_t epoch;              // of LRU's keys
    double fast_hits, slow_hits; // hit rates, to see a change of topic
    uint64_t quiet_tokens;       // since the last one
    double credit_bytes;
    uint64_t last_us;
    // inside a step (hot_cache_ahead.c)
    bool in_step;
    uint32_t step_number, reached; // reached: the layer under way
    uint32_t *held, held_count;    // slots that came into the table for it: no victims before the next
    uint32_t *left_at;             // by index: step_number * 2 + was prefetched, when evicted inside one
    uint32_t *foreseen_at;         // by index: step_number when it was fetched for the step
    uint32_t foreseen_now, foreseen_true; // in this step
    float foresight;                      // share of guesses that come true
    tc_table_change *changes;
    uint32_t change_count;
    bool change_all;
    tc_cache_stats stats;
    tc_layer_stats *layer_stats;
};

// A few divisions a fill are a tenth of what one costs.
static inline uint32_t tc_cache_layer_of(const tc_hot_cache *c, uint32_t index)
{
    if (c->o.experts == 1) return index;
    return (uint32_t)(((unsigned __int128)index * c->per_experts) >> 64);
}

// The order of value: larger is better, 0 is nothing. A key that is not used stays as it is while others
// grow; only DECAYED's sinks a little, by what is left of its fast part.
static inline float tc_cache_key(const tc_hot_cache *c, uint32_t index)
{
    const score *s = &c->scores[index];
    switch (c->o.policy) {
    case TC_POLICY_STATIC:
        return c->prior[index];
    case TC_POLICY_LRU: // a float tells tokens apart for 16 million of them
        return s->last > c->epoch ? (float)(s->last - c->epoch) : 0;
    case TC_POLICY_LFU:
        return s->total;
    default:
        return s->fast * c->fast_gain + s->slow * c->slow_gain;
    }
}

void tc_cache_lru_touch(tc_hot_cache *c, uint32_t slot); // used just now (hot_cache_lru.c)

// Whether the step that runs (or has just run) found it hot.
static inline bool tc_cache_was_hot(const tc_hot_cache *c, uint32_t index)
{
    return c->table[index] != TC_NO_SLOT || (c->in_step && c->left_at[index] >> 1 == c->step_number);
}

static inline void tc_cache_used_now(tc_hot_cache *c, uint32_t index)
{
    c->scores[index].last = c->now;
    if (c->o.policy == TC_POLICY_LRU && !c->victims_stale && c->table[index] != TC_NO_SLOT)
        tc_cache_lru_touch(c, c->table[index]);
}

static inline uint32_t tc_cache_quota(const tc_hot_cache *c, uint32_t layer)
{
    return c->o.slots / c->o.layers + (layer < c->o.slots % c->o.layers);
}

// hot_cache.c
void tc_cache_forget_changes(tc_hot_cache *c);
// The i-th of those being filled comes into the table if it is there; true: it left the list.
// held: it becomes a victim with tc_cache_offer_held.
bool tc_cache_publish_slot(tc_hot_cache *c, uint32_t i, bool held);

// hot_cache_lru.c: slots that may be evicted in the order of their last use, one ring a heap
void tc_cache_lru_begin(tc_hot_cache *c);                // empty rings
void tc_cache_lru_offer(tc_hot_cache *c, uint32_t slot); // in its place by last use
void tc_cache_lru_leave(tc_hot_cache *c, uint32_t slot);
uint32_t tc_cache_lru_oldest(const tc_hot_cache *c,
                             uint32_t index); // beside which `index` could be; TC_NO_SLOT

// hot_cache_ahead.c
void tc_cache_offer_held(tc_hot_cache *c);
void tc_cache_end_step(tc_hot_cache *c);

// hot_cache_score.c
void tc_cache_pass_time(tc_hot_cache *c, uint32_t tokens);
void tc_cache_learn(tc_hot_cache *c, const tc_cache_input *input); // fills `candidates`
void tc_cache_add_use(tc_hot_cache *c, uint32_t index, float uses);
void tc_cache_update_gains(tc_hot_cache *c);

// hot_cache_plan.c
uint32_t tc_cache_plan(tc_hot_cache *c, const tc_cache_input *input, tc_cache_fill *fills);
uint32_t tc_cache_room(tc_hot_cache *c, uint64_t now_us);                    // fills that may start now
uint32_t tc_cache_worst_beside(tc_hot_cache *c, uint32_t index, float *ret); // slot, and its key; TC_NO_SLOT
void tc_cache_pop_victim(tc_hot_cache *c, uint32_t index);                   // the one told by it
void tc_cache_start_fill(tc_hot_cache *c, uint32_t index, uint32_t slot, uint32_t evicted, uint64_t now_us,
                         tc_cache_fill *ret);
void tc_cache_evict(tc_hot_cache *c, uint32_t slot);        // READY -> FREE, not yet on the free stack
void tc_cache_doom(tc_hot_cache *c, uint32_t slot);         // FILLING -> DOOMED
void tc_cache_offer_victim(tc_hot_cache *c, uint32_t slot); // READY since just now
void tc_cache_trim_layers(tc_hot_cache *c);                 // per layer: down to the quota
void tc_cache_note_change(tc_hot_cache *c, uint32_t index, uint32_t slot);
