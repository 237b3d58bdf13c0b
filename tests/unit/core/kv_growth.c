// SPDX-License-Identifier: Apache-2.0
// Shows: who gives way when the KV pool grows, on a device that is a sum: free memory is taken first, then
// hot experts go an eighth at a time, pinned or not, then the session is refused and waits; what was not used
// for a while is given back, and not before; the sum never passes the budget. Pages are taken from the
// lowest.
#include "gpu-core/experts/placement.h"
#include "gpu-core/session/session.h"
#include "tests/support/cmocka_all.h"

#include <string.h>

enum { PAGES = 64, PART_PAGES = 4, SLOTS = 64, LAYERS = 2, EXPERTS = 64, SESSIONS = 8, POSITIONS = 4096 };
enum { EIGHTH = SLOTS / 8, SECOND = 1000000 };

// A slot and a page have one unit of memory each.
typedef struct bench {
    tc_dev dev; // first
    uint32_t budget, backed, held, filling[SLOTS], filling_count;
    uint32_t asked; // of the device
    tc_hot_cache *cache;
    tc_placement *placement;
    tc_kv_growth growth;
    tc_session_pool *pool;
    uint64_t now_us;
} bench;

static void account(const bench *b)
{
    assert_true(b->backed + b->held <= b->budget);
    assert_true(b->backed <= PAGES && b->backed % PART_PAGES == 0);
}

static uint32_t pages_back(tc_dev *dev, uint32_t pages)
{
    bench *b = (bench *)(void *)dev;
    uint32_t wanted = pages ? (pages + PART_PAGES - 1) / PART_PAGES * PART_PAGES : PART_PAGES;
    b->asked++;
    while (b->backed < wanted && b->backed + b->held + PART_PAGES <= b->budget) b->backed += PART_PAGES;
    if (b->backed > wanted) b->backed = wanted;
    account(b);
    return b->backed;
}

static void slot_reset(tc_dev *dev, uint32_t slot)
{
    (void)dev;
    (void)slot;
}

static void copy(tc_dev *dev, uint32_t from, uint32_t to)
{
    (void)dev;
    assert_int_not_equal(from, to);
}

static const tc_dev_ops fake = {
    .name = "fake", .slot_reset = slot_reset, .page_copy = copy, .slot_copy = copy, .pages_back = pages_back};

// Copies are under way until they are waited for.
static void fill(void *arg, const tc_cache_fill *fills, uint32_t count, bool at_once)
{
    bench *b = arg;
    for (uint32_t i = 0; i < count; i++) {
        assert_true(fills[i].slot < b->held);
        b->filling[b->filling_count++] = fills[i].slot;
    }
}

static void trim(void *arg, uint32_t slots)
{
    bench *b = arg;
    for (uint32_t i = 0; i < b->filling_count; i++) assert_true(b->filling[i] < slots);
    for (uint32_t s = slots; s < SLOTS; s++) {
        uint32_t layer, expert;
        bool ready;
        assert_false(tc_hot_cache_slot(b->cache, s, &layer, &expert, &ready));
    }
    if (slots < b->held) b->held = slots;
}

static uint32_t grow(void *arg, uint32_t slots)
{
    bench *b = arg;
    while (b->held < slots && b->backed + b->held + EIGHTH <= b->budget) b->held += EIGHTH;
    account(b);
    return b->held < slots ? b->held : slots;
}

static void settle(bench *b)
{
    while (b->filling_count) tc_hot_cache_fill_done(b->cache, b->filling[--b->filling_count], 1);
}

// As gpu-core/main.c
static bool make_room(void *arg)
{
    bench *b = arg;
    if (!tc_placement_make_way(b->placement)) return false;
    settle(b);
    tc_placement_begin(b->placement, true);
    return true;
}

static void set_up(bench *b, uint32_t budget)
{
    tc_error e;
    static const bool moe[LAYERS] = {true, true};
    const tc_hot_cache_options cache = {.layers = LAYERS,
                                        .experts = EXPERTS,
                                        .slots_max = SLOTS,
                                        .slots = SLOTS,
                                        .policy = TC_POLICY_DECAYED,
                                        .slot_bytes = 1};
    memset(b, 0, sizeof *b);
    b->dev.ops = &fake;
    b->dev.geometry = (tc_dev_geometry){.pages = PAGES, .slots = SESSIONS, .positions_max = POSITIONS};
    b->budget = budget;
    b->held = SLOTS;
    b->now_us = SECOND;
    assert_int_equal(tc_hot_cache_create(&cache, &b->cache, &e), TC_OK);
    const tc_placement_options options = {.layers = LAYERS,
                                          .experts = EXPERTS,
                                          .top_k = 2,
                                          .moe = moe,
                                          .model_hash = "0",
                                          .expert_bytes = 1,
                                          .cache = b->cache,
                                          .tier = {.arg = b, .fill = fill, .trim = trim, .grow = grow}};
    assert_int_equal(tc_placement_create(&options, &b->placement, &e), TC_OK);
    tc_kv_growth_begin(&b->growth, &b->dev, make_room, b);
    assert_int_equal(tc_session_pool_create(&b->dev, POSITIONS, &b->pool, &e), TC_OK);
    tc_session_pool_grow(b->pool, &b->growth);
    assert_int_equal(b->growth.backed, PART_PAGES);
}

static void tear_down(bench *b)
{
    tc_session_pool_free(b->pool);
    tc_placement_free(b->placement);
    tc_hot_cache_free(b->cache);
}

static tc_session *start(bench *b, uint32_t pages)
{
    tc_error e;
    tc_session *s = NULL;
    tc_status status = tc_session_start(b->pool, pages * TC_KV_PAGE_POSITIONS, &s, &e);
    account(b);
    if (status == TC_OK)
        for (uint32_t i = 0; i < pages; i++) assert_true(s->pages[i] < b->backed);
    else
        assert_int_equal(status, TC_BUSY);
    return status == TC_OK ? s : NULL;
}

static uint32_t slots_of(const bench *b)
{
    return tc_hot_cache_get_options(b->cache)->slots;
}

static void seconds(bench *b, uint32_t n)
{
    for (uint32_t i = 0; i < 10 * n; i++, b->now_us += SECOND / 10) {
        tc_kv_growth_poll(&b->growth, tc_session_pages_end(b->pool), b->now_us);
        tc_placement_begin(b->placement, true);
        account(b);
    }
}

// A step that wants experts, so that copies are on their way.
static void order_fills(bench *b)
{
    int32_t chosen[LAYERS * 2];
    for (int32_t x = 0; x + 1 < EXPERTS; x += 2)
        for (int turn = 0; turn < 2; turn++) {
            tc_placement_request r = {.conversation = 1, .learn = true, .tokens = 1};
            for (int l = 0; l < LAYERS; l++) chosen[2 * l] = x, chosen[2 * l + 1] = x + 1;
            tc_placement_begin(b->placement, true);
            tc_placement_note(b->placement, &r, 1, chosen);
            tc_placement_end(b->placement, false);
        }
}

static void test_free_memory_first(void **state)
{
    (void)state;
    bench b;
    set_up(&b, SLOTS + 3 * PART_PAGES);
    tc_session *first = start(&b, PART_PAGES); // has memory: nobody is asked
    assert_int_equal(b.asked, 1);
    tc_session *second = start(&b, 2 * PART_PAGES);
    assert_int_equal(b.growth.backed, 3 * PART_PAGES);
    assert_true(slots_of(&b) == SLOTS && b.held == SLOTS && b.growth.made_room == 0);

    tc_session *third = start(&b, 1); // an eighth goes, and the next ones live on it
    assert_true(slots_of(&b) == SLOTS - EIGHTH && b.held == SLOTS - EIGHTH);
    assert_int_equal(b.growth.backed, 4 * PART_PAGES);
    assert_int_equal(b.growth.made_room, 1);
    tc_session *fourth = start(&b, 2 * PART_PAGES - 1);
    assert_int_equal(slots_of(&b), SLOTS - EIGHTH);
    assert_int_equal(b.growth.backed, 5 * PART_PAGES);
    tc_session *all[] = {first, second, third, fourth};
    for (size_t i = 0; i < 4; i++) {
        assert_non_null(all[i]);
        tc_session_end(b.pool, all[i]);
    }
    assert_int_equal(tc_session_pages_free(b.pool), PAGES);
    assert_int_equal(tc_session_pages_end(b.pool), 0);
    tear_down(&b);
}

// Copies under way and pins do not stand in the way; then there is nothing left to give.
static void test_all_slots_then_no(void **state)
{
    (void)state;
    bench b;
    set_up(&b, SLOTS + PART_PAGES); // no room at all
    const tc_expert_hint pin[] = {{.layer = 0, .expert = 3, .pin = true},
                                  {.layer = 1, .expert = 7, .pin = true}};
    const tc_placement_request who = {.conversation = 1, .learn = true};
    tc_placement_arrived(b.placement, &who, pin, 2);
    order_fills(&b);
    assert_true(b.filling_count > EIGHTH);
    tc_session *s = start(&b, PAGES); // 60 more than have memory: seven eighths are 56
    assert_non_null(s);
    assert_true(slots_of(&b) == 0 && b.held == 0);
    assert_int_equal(b.growth.made_room, 8);
    assert_int_equal(b.growth.grown, 1);
    tc_session_end(b.pool, s);
    tc_placement_left(b.placement, pin, 2);
    tear_down(&b);

    set_up(&b, PART_PAGES + SLOTS);
    b.budget = SLOTS - 4; // the card has less than was planned
    b.held = SLOTS - 4 - PART_PAGES;
    s = start(&b, PAGES);
    assert_null(s);
    assert_int_equal(slots_of(&b), 0);
    assert_int_equal(b.growth.refused, 1);
    assert_int_equal(tc_session_pages_free(b.pool), PAGES); // nothing was taken
    assert_int_equal(tc_session_slots_free(b.pool), SESSIONS);
    s = start(&b, 50); // what there is serves others
    assert_non_null(s);
    tc_session_end(b.pool, s);
    tear_down(&b);
}

static void test_gives_back(void **state)
{
    (void)state;
    bench b;
    set_up(&b, SLOTS + PART_PAGES);
    tc_session *low = start(&b, 2), *high = start(&b, 18);
    assert_int_equal(b.growth.backed, 20);
    assert_int_equal(slots_of(&b), SLOTS - 2 * EIGHTH);
    seconds(&b, 100); // used all the time
    assert_int_equal(b.growth.backed, 20);
    tc_session_end(b.pool, high);
    seconds(&b, 15);
    assert_int_equal(b.growth.backed, 20); // not at once
    const uint32_t asked = b.asked;
    tc_session *again = start(&b, 18); // and who comes back meanwhile asks for nothing
    assert_int_equal(b.asked, asked);
    tc_session_end(b.pool, again);
    seconds(&b, 20);
    assert_int_equal(b.growth.backed, 20);
    seconds(&b, 45);
    assert_int_equal(b.growth.backed, PART_PAGES);
    assert_int_equal(b.growth.shrunk, 1);
    tc_placement_shed(b.placement, false);
    tc_placement_shed(b.placement, false);
    assert_true(slots_of(&b) == SLOTS && b.held == SLOTS);

    tc_session *far = start(&b, 2); // one page in the middle keeps what is before it
    high = start(&b, 10);
    assert_int_equal(far->pages[0], 2);
    tc_session_end(b.pool, far);
    tc_session_end(b.pool, low);
    seconds(&b, 100);
    assert_int_equal(b.growth.backed, 16);
    low = start(&b, 4); // the lowest are taken first
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(low->pages[i], i);
    tc_session_end(b.pool, low);
    tc_session_end(b.pool, high);
    tear_down(&b);
}

// What a further choice shares needs no memory; what it adds does.
static void test_fork(void **state)
{
    (void)state;
    bench b;
    tc_error e;
    set_up(&b, SLOTS + PART_PAGES);
    tc_session *one = start(&b, 3), *two = NULL;
    one->processed = one->count = 2 * TC_KV_PAGE_POSITIONS + 5;
    assert_int_equal(tc_session_fork(b.pool, one, 4 * TC_KV_PAGE_POSITIONS, &two, &e), TC_OK);
    assert_true(two->pages[0] == 0 && two->pages[1] == 1 && two->pages[2] == 3 && two->pages[3] == 4);
    assert_int_equal(b.growth.backed, 2 * PART_PAGES);
    tc_session_end(b.pool, one);
    assert_int_equal(tc_session_pages_free(b.pool), PAGES - 4);
    assert_int_equal(tc_session_pages_end(b.pool), 5);
    tc_session_end(b.pool, two);
    assert_int_equal(tc_session_pages_end(b.pool), 0);
    tear_down(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_memory_first),
        cmocka_unit_test(test_all_slots_then_no),
        cmocka_unit_test(test_gives_back),
        cmocka_unit_test(test_fork),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
