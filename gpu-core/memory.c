// SPDX-License-Identifier: Apache-2.0
// Owns: the guard's decisions.
#include "gpu-core/memory.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/mem.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>

enum { DEVICE_EVERY_US = 1000000, DEVICE_LOW_SHARE = 128, DEVICE_TEXT_BYTES = 512 };
#define DEVICE_LOW_MAX_BYTES (128ull << 20)
enum { LOOK_EVERY_US = 250000, EASY_AFTER_US = 5000000, LOW_SHARE = 32 };
#define LOW_MIN_BYTES (48ull << 20)
#define LOW_MAX_BYTES (2ull << 30)
#define PREFIX_MIN_BYTES (1ull << 20)
static const double WAITING_PERCENT = 10; // tasks that wait so much for memory: something has to go

static const char *const state_names[] = {"easy", "tight", "full"};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void tc_memory_begin(tc_memory *m, const tc_memory_purposes *planned, tc_placement *placement,
                     tc_hot_cache *cache, tc_prefix_cache *prefix)
{
    *m = (tc_memory){
        .root = "", .placement = placement, .cache = cache, .prefix = prefix, .planned = *planned};
    m->prefix_budget_bytes = tc_prefix_cache_stats(prefix).budget_bytes;
    tc_pressure_read(m->root, &m->now);
    m->low_bytes = m->now.limit_bytes / LOW_SHARE;
    if (m->low_bytes < LOW_MIN_BYTES) m->low_bytes = LOW_MIN_BYTES;
    m->low_bytes = least(m->low_bytes, LOW_MAX_BYTES);
    m->looked_us = tc_now_us();
}

static uint32_t hot_slots(const tc_memory *m)
{
    return m->cache ? tc_hot_cache_get_options(m->cache)->slots : 0;
}

// Gives something up. False: nothing is left that could be.
static bool shed(tc_memory *m)
{
    uint32_t slots = hot_slots(m);
    tc_prefix_stats kept = tc_prefix_cache_stats(m->prefix);
    if (slots) {
        tc_placement_shed(m->placement, true);
        tc_placement_begin(m->placement, true); // the memory goes now where nothing is on its way there
    }
    bool prefix = kept.bytes > PREFIX_MIN_BYTES;
    if (prefix) {
        tc_prefix_cache_set_budget(m->prefix, kept.bytes / 2);
        malloc_trim(0);
    }
    bool any = hot_slots(m) < slots || prefix;
    m->sheds += any;
    return any;
}

static void recover(tc_memory *m)
{
    tc_prefix_stats kept = tc_prefix_cache_stats(m->prefix);
    if (kept.budget_bytes < m->prefix_budget_bytes)
        tc_prefix_cache_set_budget(m->prefix,
                                   least(m->prefix_budget_bytes, kept.budget_bytes * 2 + PREFIX_MIN_BYTES));
    const tc_hot_cache_options *o = m->cache ? tc_hot_cache_get_options(m->cache) : NULL;
    uint64_t eighth = o ? (uint64_t)o->slots_max / 8 * o->slot_bytes : 0;
    if (o && m->now.available_bytes > 2 * m->low_bytes + eighth) tc_placement_shed(m->placement, false);
}

static void enter(tc_memory *m, tc_memory_state state)
{
    if (state == m->state) return;
    if (state > m->state) {
        m->alarms++;
        tc_warn("memory is %s: %llu MiB available, %llu MiB should be", state_names[state],
                (unsigned long long)(m->now.available_bytes >> 20), (unsigned long long)(m->low_bytes >> 20));
    } else {
        tc_info("memory is %s again: %llu MiB available", state_names[state],
                (unsigned long long)(m->now.available_bytes >> 20));
    }
    m->state = state;
}

// ---- the device's own memory ----

void tc_memory_watch_device(tc_memory *m, const tc_memory_device *device)
{
    m->device = *device;
    if (!m->device.read(m->device.arg, &m->device_free_bytes, &m->device_total_bytes)) m->device.read = NULL;
    m->device_low_bytes = least(m->device_total_bytes / DEVICE_LOW_SHARE, DEVICE_LOW_MAX_BYTES);
}

// What we need there was taken at the start, or is made way for within the budget; this is what others take
// since.
static void poll_device(tc_memory *m, uint64_t now_us)
{
    if (!m->device.read || now_us - m->device_looked_us < DEVICE_EVERY_US) return;
    m->device_looked_us = now_us;
    if (!m->device.read(m->device.arg, &m->device_free_bytes, &m->device_total_bytes)) return;
    const tc_hot_cache_options *o = m->device.cache ? tc_hot_cache_get_options(m->device.cache) : NULL;
    uint32_t slots = o ? o->slots : 0;
    uint64_t eighth = o ? (uint64_t)(o->slots_max / 8 ? o->slots_max / 8 : 1) * o->slot_bytes : 0;
    if (m->device_free_bytes < m->device_low_bytes) {
        m->device_easy_us = 0;
        m->alarms += !m->device_tight;
        if (!m->device_tight)
            tc_warn("memory of the device is tight: %llu MiB free, %llu MiB should be",
                    (unsigned long long)(m->device_free_bytes >> 20),
                    (unsigned long long)(m->device_low_bytes >> 20));
        m->device_tight = true;
        if (!slots) return;
        tc_placement_shed(m->placement, true);
        tc_placement_begin(m->placement, true); // the memory goes now where nothing is on its way there
        m->sheds += o->slots < slots;
        return;
    }
    if (m->device_free_bytes < 2 * m->device_low_bytes + eighth) {
        m->device_easy_us = 0;
        return;
    }
    if (!m->device_easy_us) m->device_easy_us = now_us;
    if (now_us - m->device_easy_us < EASY_AFTER_US) return;
    m->device_easy_us = now_us;
    m->device_tight = false;
    if (o && slots < o->slots_max) tc_placement_shed(m->placement, false);
}

static void report_device(const tc_memory *m, char *out, size_t room)
{
    static const tc_kv_growth still = {0};
    const tc_kv_growth *g = m->device.growth ? m->device.growth : &still;
    uint64_t kv = 0, owed = 0, hot = 0;
    if (!m->device.read) {
        snprintf(out, room, "null");
        return;
    }
    if (m->device.held) m->device.held(m->device.arg, &kv, &owed, &hot);
    snprintf(out, room,
             "{\"state\":\"%s\",\"free_bytes\":%" PRIu64 ",\"low_bytes\":%" PRIu64 ",\"total_bytes\":%" PRIu64
             ",\"hot_bytes\":%" PRIu64 ",\"kv\":{\"bytes\":%" PRIu64 ",\"may_grow_bytes\":%" PRIu64
             ",\"grown\":%" PRIu64 ",\"shrunk\":%" PRIu64 ",\"sheds\":%" PRIu64 ",\"refusals\":%" PRIu64 "}}",
             state_names[m->device_tight], m->device_free_bytes, m->device_low_bytes, m->device_total_bytes,
             hot, kv, owed, g->grown, g->shrunk, g->made_room, g->refused);
}

void tc_memory_poll(tc_memory *m, uint64_t now_us)
{
    poll_device(m, now_us);
    if (now_us - m->looked_us < LOOK_EVERY_US) return;
    m->looked_us = now_us;
    tc_pressure_read(m->root, &m->now);
    bool waits = m->now.waiting_percent > WAITING_PERCENT && m->now.available_bytes < 4 * m->low_bytes;
    if (m->now.available_bytes < m->low_bytes || waits) {
        m->easy_since_us = 0;
        bool given = shed(m);
        bool full = !given && m->now.available_bytes < m->low_bytes / 2;
        if (full || m->state != TC_MEMORY_FULL) enter(m, full ? TC_MEMORY_FULL : TC_MEMORY_TIGHT);
        return;
    }
    if (m->now.available_bytes < 2 * m->low_bytes) {
        m->easy_since_us = 0;
        return;
    }
    if (!m->easy_since_us) m->easy_since_us = now_us;
    if (now_us - m->easy_since_us < EASY_AFTER_US) return;
    enter(m, TC_MEMORY_EASY);
    recover(m);
    m->easy_since_us = now_us;
}

tc_status tc_memory_room(tc_memory *m, uint64_t bytes, tc_error *e)
{
    tc_pressure_read(m->root, &m->now);
    while (m->now.available_bytes < bytes + m->low_bytes / 2 && shed(m)) tc_pressure_read(m->root, &m->now);
    if (m->now.available_bytes >= bytes + m->low_bytes / 2) return TC_OK;
    m->refusals++;
    return tc_fail(e, TC_BUSY,
                   "memory: this request and those running may still take %llu MiB, %llu MiB are kept free, "
                   "%llu MiB are available; try again later or ask for fewer tokens",
                   (unsigned long long)(bytes >> 20), (unsigned long long)(m->low_bytes >> 21),
                   (unsigned long long)(m->now.available_bytes >> 20));
}

size_t tc_memory_report(tc_memory *m, char *out, size_t room)
{
    const tc_memory_purposes *p = &m->planned;
    tc_prefix_stats kept = tc_prefix_cache_stats(m->prefix);
    const tc_hot_cache_options *o = m->cache ? tc_hot_cache_get_options(m->cache) : NULL;
    char device[DEVICE_TEXT_BYTES];
    report_device(m, device, sizeof device);
    tc_pressure_read(m->root, &m->now);
    int n = snprintf(
        out, room,
        "{\"state\":\"%s\",\"head_room\":{\"available_bytes\":%" PRIu64 ",\"low_bytes\":%" PRIu64
        ",\"limit_bytes\":%" PRIu64 ",\"machine_available_bytes\":%" PRIu64
        ",\"waiting_percent\":%.2f,\"alarms\":%" PRIu64 ",\"sheds\":%" PRIu64 ",\"refusals\":%" PRIu64 "}"
        ",\"purposes\":{\"weights\":%" PRIu64 ",\"kv\":%" PRIu64 ",\"states\":%" PRIu64
        ",\"scratch\":%" PRIu64 ",\"hot_experts\":{\"budget\":%" PRIu64 ",\"now\":%" PRIu64
        "},\"prefix_cache\":{\"budget\":%" PRIu64 ",\"allowed\":%" PRIu64 ",\"now\":%" PRIu64 "}}"
        ",\"held\":{\"weights\":%" PRIu64 ",\"kv\":%" PRIu64 ",\"states\":%" PRIu64 ",\"scratch\":%" PRIu64
        ",\"other\":%" PRIu64 ",\"heap\":%" PRIu64 "},\"device\":%s}",
        state_names[m->state], m->now.available_bytes, m->low_bytes, m->now.limit_bytes, m->now.machine_bytes,
        m->now.waiting_percent, m->alarms, m->sheds, m->refusals, p->weights_bytes, p->kv_bytes,
        p->state_bytes, p->scratch_bytes, p->hot_bytes, o ? (uint64_t)o->slots * o->slot_bytes : 0,
        p->prefix_bytes, kept.budget_bytes, kept.bytes, tc_mem_bytes(TC_MEM_WEIGHTS), tc_mem_bytes(TC_MEM_KV),
        tc_mem_bytes(TC_MEM_STATE), tc_mem_bytes(TC_MEM_SCRATCH), tc_mem_bytes(TC_MEM_OTHER),
        tc_mem_heap_bytes(), device);
    return n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1;
}
