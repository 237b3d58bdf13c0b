// SPDX-License-Identifier: Apache-2.0
// Owns: how much of the KV pool has memory, on a device whose pool is a range of addresses that memory is put
// behind: it grows when a session needs pages, and gives back what nobody used for a while.
//
//   pages needed --room under the device's budget--> more of the range has memory
//                --no room--> hot experts give slots back, an eighth at a time, and it is tried again
//                --no slot left--> no: whoever asked waits, as with a pool that is in use
//   not used for KV_KEEP_US --> memory behind the highest page of that time goes; slots may take it
//
// Refuses: to say which page is whose (session.h), to choose experts that leave (make_room's owner).
#pragma once

#include "gpu-core/dev/dev.h"

enum { TC_KV_KEEP_US = 30000000 };

typedef struct tc_kv_growth {
    tc_dev *dev; // borrowed
    // Has slots given back at once, an eighth of all; false: there are none left. May be NULL: there are
    // none.
    bool (*make_room)(void *arg);
    void *arg;
    uint32_t backed;                            // pages that have memory
    uint32_t window_end;                        // one behind the highest page used since window_us
    uint64_t window_us;                         // 0: not begun
    uint64_t grown, shrunk, made_room, refused; // times, since the beginning
} tc_kv_growth;

// Gives back all but the least that the device cuts its pool into. A device whose pages all have memory
// always has nothing to grow: every need is met.
void tc_kv_growth_begin(tc_kv_growth *growth, tc_dev *dev, bool (*make_room)(void *arg), void *arg);
// Pages [0, end) are about to be used: whether they have memory now.
bool tc_kv_growth_need(tc_kv_growth *growth, uint32_t end);
// Between steps, as often as one likes. end: one behind the highest page in use.
void tc_kv_growth_poll(tc_kv_growth *growth, uint32_t end, uint64_t now_us);
