// SPDX-License-Identifier: Apache-2.0
// Owns: which pages and sessions are free, and how many sessions use a page. Pages with the lowest numbers
// are taken first, so that those in use lie at the beginning of the device's pool.
#include "gpu-core/session/session.h"

#include <string.h>

struct tc_session_pool {
    tc_dev *dev;
    uint32_t positions_max, pages_a_session;
    uint32_t *page_users; // [pages] sessions that hold it; 0: it is free
    uint32_t free_page_count;
    uint32_t first_free;                   // none below it is free
    uint32_t used_end;                     // none from it on is in use
    tc_kv_growth *growth;                  // NULL: every page has memory
    tc_session *sessions;                  // [slots but the spare ones], slot i is session i
    uint32_t *free_slots, free_slot_count; // a stack
    uint32_t *token_memory, *page_memory;
};

tc_status tc_session_pool_create(tc_dev *dev, uint32_t positions_max, tc_session_pool **ret, tc_error *e)
{
    uint32_t pages = dev->geometry.pages, slots = dev->geometry.slots - dev->geometry.spare_slots;
    tc_session_pool *pool = tc_alloc(TC_MEM_OTHER, 1, sizeof *pool);
    if (!pool) return tc_fail(e, TC_NOMEM, "out of memory for the session pool");
    pool->dev = dev;
    pool->positions_max = positions_max;
    pool->pages_a_session = (positions_max + TC_KV_PAGE_POSITIONS - 1) / TC_KV_PAGE_POSITIONS;
    pool->page_users = tc_alloc(TC_MEM_OTHER, pages, sizeof(uint32_t));
    pool->free_slots = tc_alloc(TC_MEM_OTHER, slots, sizeof(uint32_t));
    pool->sessions = tc_alloc(TC_MEM_OTHER, slots, sizeof(tc_session));
    pool->token_memory = tc_alloc(TC_MEM_OTHER, (size_t)slots * positions_max, sizeof(uint32_t));
    pool->page_memory = tc_alloc(TC_MEM_OTHER, (size_t)slots * pool->pages_a_session, sizeof(uint32_t));
    if (!pool->page_users || !pool->free_slots || !pool->sessions || !pool->token_memory ||
        !pool->page_memory) {
        tc_session_pool_free(pool);
        return tc_fail(e, TC_NOMEM, "out of memory for %u sessions of %u positions", slots, positions_max);
    }
    pool->free_page_count = pages;
    for (uint32_t i = 0; i < slots; i++) {
        pool->free_slots[pool->free_slot_count++] = slots - 1 - i;
        pool->sessions[i].tokens = pool->token_memory + (size_t)i * positions_max;
        pool->sessions[i].pages = pool->page_memory + (size_t)i * pool->pages_a_session;
        pool->sessions[i].slot = i;
    }
    *ret = pool;
    return TC_OK;
}

void tc_session_pool_free(tc_session_pool *pool)
{
    if (!pool) return;
    tc_free(pool->page_users);
    tc_free(pool->free_slots);
    tc_free(pool->sessions);
    tc_free(pool->token_memory);
    tc_free(pool->page_memory);
    tc_free(pool);
}

void tc_session_pool_grow(tc_session_pool *pool, tc_kv_growth *growth)
{
    pool->growth = growth;
}

// The lowest free pages into pages[0, count), which are as many at least as are free. Returns one behind the
// last.
static uint32_t find_pages(const tc_session_pool *pool, uint32_t *pages, uint32_t count)
{
    uint32_t page = pool->first_free;
    for (uint32_t i = 0; i < count; page++)
        if (!pool->page_users[page]) pages[i++] = page;
    return page;
}

static void give_page(tc_session_pool *pool, uint32_t page)
{
    if (--pool->page_users[page]) return;
    pool->free_page_count++;
    if (page < pool->first_free) pool->first_free = page;
    while (pool->used_end && !pool->page_users[pool->used_end - 1]) pool->used_end--;
}

// Takes a slot and the pages of `positions` but the first `shared` ones, which the caller fills in.
static tc_status take(tc_session_pool *pool, uint32_t positions, uint32_t shared, tc_session **ret,
                      tc_error *e)
{
    if (positions > pool->positions_max)
        return tc_fail(e, TC_LIMIT, "%u positions asked for, the context holds %u", positions,
                       pool->positions_max);
    uint32_t pages = (positions + TC_KV_PAGE_POSITIONS - 1) / TC_KV_PAGE_POSITIONS;
    if (pages > pool->dev->geometry.pages)
        return tc_fail(e, TC_BUDGET, "%u KV pages asked for, the budget holds %u", pages,
                       pool->dev->geometry.pages);
    if (pool->free_slot_count == 0 || pool->free_page_count < pages - shared)
        return tc_fail(e, TC_BUSY, "%u sessions free, %u of %u KV pages free, %u needed",
                       pool->free_slot_count, pool->free_page_count, pool->dev->geometry.pages,
                       pages - shared);
    tc_session *session = &pool->sessions[pool->free_slots[pool->free_slot_count - 1]];
    uint32_t end = find_pages(pool, session->pages + shared, pages - shared);
    if (pool->growth && pages > shared && !tc_kv_growth_need(pool->growth, end))
        return tc_fail(e, TC_BUSY, "the device has memory for %u of %u KV pages, %u needed",
                       pool->growth->backed, pool->dev->geometry.pages, end);
    pool->free_slot_count--;
    session->count = session->processed = 0;
    session->capacity = positions;
    session->page_count = pages;
    for (uint32_t i = shared; i < pages; i++) pool->page_users[session->pages[i]] = 1;
    pool->free_page_count -= pages - shared;
    if (pages > shared) pool->first_free = end;
    if (pages > shared && end > pool->used_end) pool->used_end = end;
    *ret = session;
    return TC_OK;
}

tc_status tc_session_start(tc_session_pool *pool, uint32_t positions, tc_session **ret, tc_error *e)
{
    TC_TRY(take(pool, positions, 0, ret, e));
    pool->dev->ops->slot_reset(pool->dev, (*ret)->slot);
    return TC_OK;
}

tc_status tc_session_fork(tc_session_pool *pool, const tc_session *from, uint32_t positions, tc_session **ret,
                          tc_error *e)
{
    uint32_t full = from->processed / TC_KV_PAGE_POSITIONS;
    TC_TRY(take(pool, positions, full, ret, e));
    tc_session *session = *ret;
    for (uint32_t i = 0; i < full; i++) {
        session->pages[i] = from->pages[i];
        pool->page_users[from->pages[i]]++;
    }
    if (from->processed % TC_KV_PAGE_POSITIONS)
        pool->dev->ops->page_copy(pool->dev, from->pages[full], session->pages[full]);
    pool->dev->ops->slot_copy(pool->dev, from->slot, session->slot);
    memcpy(session->tokens, from->tokens, from->count * sizeof *from->tokens);
    session->count = from->count;
    session->processed = from->processed;
    return TC_OK;
}

void tc_session_end(tc_session_pool *pool, tc_session *session)
{
    if (!session) return;
    while (session->page_count) give_page(pool, session->pages[--session->page_count]);
    pool->free_slots[pool->free_slot_count++] = session->slot;
}

uint32_t tc_session_pages_free(const tc_session_pool *pool)
{
    return pool->free_page_count;
}

uint32_t tc_session_pages_end(const tc_session_pool *pool)
{
    return pool->used_end;
}

uint32_t tc_session_slots_free(const tc_session_pool *pool)
{
    return pool->free_slot_count;
}

bool tc_session_spare_slot(const tc_session_pool *pool, uint32_t index, uint32_t *ret)
{
    const tc_dev_geometry *g = &pool->dev->geometry;
    if (index < g->spare_slots)
        *ret = g->slots - 1 - index;
    else if ((index -= g->spare_slots) < pool->free_slot_count)
        *ret = pool->free_slots[index];
    else
        return false;
    return true;
}

const tc_dev_geometry *tc_session_geometry(const tc_session_pool *pool)
{
    return &pool->dev->geometry;
}
