// SPDX-License-Identifier: Apache-2.0
// Owns: the guard of the core's memory while it runs: what each purpose holds, how much head-room is left,
// and what is given up when it shrinks, in this order: hot experts, kept prompts, then new requests are
// refused with the sum. Nothing that runs is ended.
//
//   EASY --head-room below low--> TIGHT (an eighth of the hot tier, half of the kept prompts at a time)
//   TIGHT --below half of low, and nothing left to give--> FULL (requests are refused)
//   TIGHT, FULL --twice low for 5 s--> EASY (the hot tier grows back an eighth at a time)
// A device's own memory is watched beside it: where others leave too little of it free, hot experts go there,
// an eighth a second, and come back an eighth at a time after 5 s in which it and twice the reserve were
// free. Refuses: to take memory; what was planned at start was checked there.
#pragma once

#include "common/base/pressure.h"
#include "common/base/status.h"
#include "gpu-core/experts/placement.h"
#include "gpu-core/session/kv_growth.h"
#include "gpu-core/session/prefix_cache.h"

typedef enum tc_memory_state { TC_MEMORY_EASY, TC_MEMORY_TIGHT, TC_MEMORY_FULL } tc_memory_state;

typedef struct tc_memory_purposes {
    uint64_t weights_bytes, kv_bytes, state_bytes, scratch_bytes, hot_bytes, prefix_bytes; // as planned
} tc_memory_purposes;

// Memory that a device has of its own, as its driver tells it now, whoever has the rest.
typedef struct tc_memory_device {
    bool (*read)(void *arg, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes); // NULL: there is none
    void *arg;
    tc_hot_cache *cache;        // whose slots lie there
    const tc_kv_growth *growth; // the KV pool there, borrowed; NULL: it does not grow
    // What is ours there now: the KV pool, what it may still grow by, slots of hot experts. NULL: not told.
    void (*held)(void *arg, uint64_t *ret_kv_bytes, uint64_t *ret_kv_owed_bytes, uint64_t *ret_hot_bytes);
} tc_memory_device;

typedef struct tc_memory {
    const char *root; // of /proc and /sys; "" but in tests
    tc_placement *placement;
    tc_hot_cache *cache; // NULL: none
    tc_prefix_cache *prefix;
    tc_memory_purposes planned;
    tc_pressure now;
    tc_memory_state state;
    uint64_t low_bytes, looked_us, easy_since_us, prefix_budget_bytes;
    uint64_t alarms, sheds, refusals;
    tc_memory_device device;
    uint64_t device_free_bytes, device_total_bytes, device_low_bytes, device_looked_us, device_easy_us;
    bool device_tight;
} tc_memory;

void tc_memory_begin(tc_memory *memory, const tc_memory_purposes *planned, tc_placement *placement,
                     tc_hot_cache *cache, tc_prefix_cache *prefix);
// From here on the device is watched too. device is copied.
void tc_memory_watch_device(tc_memory *memory, const tc_memory_device *device);
// Between steps; looks at the system a few times a second.
void tc_memory_poll(tc_memory *memory, uint64_t now_us);
// Whether `bytes` more may become resident, after hot experts have made way. TC_BUSY with the sum.
tc_status tc_memory_room(tc_memory *memory, uint64_t bytes, tc_error *e);
// JSON for GET /api/v1/memory.
size_t tc_memory_report(tc_memory *memory, char *out, size_t room);
