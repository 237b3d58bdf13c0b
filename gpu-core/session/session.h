// SPDX-License-Identifier: Apache-2.0
// Owns: a session, one sequence's timeline: its tokens, KV pages and recurrent-state slot; and the pool both
// come from. Pages for prompt and answer are taken when a session starts, so it cannot run out in the middle.
// A full page may belong to several sessions: nobody writes to it any more.
// Refuses: to compute. The device owns the memory behind page and slot numbers.
#pragma once

#include "gpu-core/session/kv_growth.h"

typedef struct tc_session_pool tc_session_pool;

typedef struct tc_session {
    uint32_t *tokens;   // [capacity] prompt, then generated
    uint32_t count;     // tokens known
    uint32_t processed; // tokens whose keys and states are in the device; processed < count while running
    uint32_t capacity;  // positions reserved
    uint32_t *pages, page_count;
    uint32_t slot;
} tc_session;

// Bookkeeping for `pages` pages and `slots` slots of dev. All of it is allocated here.
tc_status tc_session_pool_create(tc_dev *dev, uint32_t positions_max, tc_session_pool **ret, tc_error *e);
void tc_session_pool_free(tc_session_pool *pool);
// From here on pages are taken only where memory is behind them, which grows with need. Borrowed.
void tc_session_pool_grow(tc_session_pool *pool, tc_kv_growth *growth);

// Starts a session able to hold `positions`. TC_LIMIT: more than positions_max. TC_BUSY: no slot, too few
// pages, or no memory for them, now.
tc_status tc_session_start(tc_session_pool *pool, uint32_t positions, tc_session **ret, tc_error *e);
// Starts one that goes on from the same past as `from`: full pages are shared, the page being filled and the
// recurrent state are copied. `positions` and errors as above.
tc_status tc_session_fork(tc_session_pool *pool, const tc_session *from, uint32_t positions, tc_session **ret,
                          tc_error *e);
void tc_session_end(tc_session_pool *pool, tc_session *session);
uint32_t tc_session_pages_free(const tc_session_pool *pool);
uint32_t tc_session_pages_end(const tc_session_pool *pool); // one behind the highest page in use
uint32_t tc_session_slots_free(const tc_session_pool *pool);
// The `index`-th of the slots that no session has, for a state to be kept in until a session starts. False:
// there are fewer.
bool tc_session_spare_slot(const tc_session_pool *pool, uint32_t index, uint32_t *ret);
const tc_dev_geometry *tc_session_geometry(const tc_session_pool *pool);
