// SPDX-License-Identifier: Apache-2.0
// Shows: the guard of a device's own memory, on a card that is a sum: hot experts make way for others before
// there is nothing left, come back when it was easy for long enough, and not before; what cannot be had is
// not used.
#include "gpu-core/memory.h"
#include "tests/support/cmocka_all.h"

#include <string.h>

enum { LAYERS = 2, EXPERTS = 64, SLOTS = 64, SECOND = 1000000 };
#define SLOT_BYTES (1ull << 20)
#define TOTAL_BYTES (1ull << 30)

typedef struct card {
    tc_hot_cache *cache;
    uint64_t others_bytes, least_free_bytes;
    uint32_t held; // slots with memory
    uint32_t fills;
    bool mute; // the driver says nothing
} card;

static uint64_t free_bytes(const card *c)
{
    uint64_t ours = 900 * SLOT_BYTES + c->held * SLOT_BYTES;
    return TOTAL_BYTES > ours + c->others_bytes ? TOTAL_BYTES - ours - c->others_bytes : 0;
}

static bool read_card(void *arg, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes)
{
    const card *c = arg;
    *ret_free_bytes = free_bytes(c);
    *ret_total_bytes = TOTAL_BYTES;
    return !c->mute;
}

static void fill(void *arg, const tc_cache_fill *fills, uint32_t count, bool at_once)
{
    card *c = arg;
    for (uint32_t i = 0; i < count; i++) {
        assert_true(fills[i].slot < c->held);
        c->fills++;
        tc_hot_cache_fill_done(c->cache, fills[i].slot, 1);
    }
}

static void trim(void *arg, uint32_t slots)
{
    card *c = arg;
    if (slots < c->held) c->held = slots;
}

static uint32_t grow(void *arg, uint32_t slots)
{
    card *c = arg;
    while (c->held < slots && free_bytes(c) >= SLOT_BYTES) c->held++;
    return c->held < slots ? c->held : slots;
}

typedef struct bench {
    card card;
    tc_placement *placement;
    tc_memory memory;
    uint64_t now_us;
} bench;

static void set_up(bench *b)
{
    tc_error e;
    static const bool moe[LAYERS] = {true, true};
    const tc_hot_cache_options cache = {.layers = LAYERS,
                                        .experts = EXPERTS,
                                        .slots_max = SLOTS,
                                        .slots = SLOTS,
                                        .policy = TC_POLICY_DECAYED,
                                        .slot_bytes = SLOT_BYTES};
    memset(b, 0, sizeof *b);
    b->card.held = SLOTS;
    assert_int_equal(tc_hot_cache_create(&cache, &b->card.cache, &e), TC_OK);
    const tc_placement_options options = {
        .layers = LAYERS,
        .experts = EXPERTS,
        .top_k = 2,
        .moe = moe,
        .model_hash = "",
        .expert_bytes = SLOT_BYTES,
        .cache = b->card.cache,
        .tier = {.arg = &b->card, .fill = fill, .trim = trim, .grow = grow}};
    assert_int_equal(tc_placement_create(&options, &b->placement, &e), TC_OK);
    tc_memory_begin(&b->memory, &(tc_memory_purposes){0}, b->placement, NULL, NULL);
    b->now_us = b->memory.looked_us;
    tc_memory_watch_device(&b->memory, &(tc_memory_device){read_card, &b->card, b->card.cache});
}

static void tear_down(bench *b)
{
    tc_placement_free(b->placement);
    tc_hot_cache_free(b->card.cache);
}

static uint32_t slots_of(const bench *b)
{
    return tc_hot_cache_get_options(b->card.cache)->slots;
}

// Steps that use every expert in turn, four a second, and looks of the guard between them.
static void seconds(bench *b, uint32_t count)
{
    tc_placement_request who = {.learn = true, .tokens = 1};
    for (uint32_t i = 0; i < 4 * count; i++) {
        const int32_t first = (int32_t)(i * 2 % EXPERTS);
        const int32_t chosen[] = {first, first + 1, first, first + 1};
        b->now_us += SECOND / 4;
        tc_memory_poll(&b->memory, b->now_us);
        tc_placement_begin(b->placement, true);
        tc_placement_note(b->placement, &who, 1, chosen);
        tc_placement_end(b->placement, false);
        assert_true(slots_of(b) <= b->card.held);
    }
}

static void test_others_come_and_go(void **state)
{
    (void)state;
    bench b;
    set_up(&b);
    assert_int_equal(b.memory.device_low_bytes, TOTAL_BYTES / 128); // 8 MiB of 60 free
    seconds(&b, 20);
    assert_true(slots_of(&b) == SLOTS && b.card.held == SLOTS && b.card.fills > 50);

    b.card.others_bytes = 56 * SLOT_BYTES; // 4 MiB are left: below 8
    seconds(&b, 3);
    assert_int_equal(slots_of(&b), SLOTS - SLOTS / 8); // one eighth was enough
    assert_int_equal(free_bytes(&b.card), 12 * SLOT_BYTES);
    assert_int_equal(b.memory.alarms, 1);
    b.card.others_bytes += 40 * SLOT_BYTES; // more than there is
    seconds(&b, 6);
    assert_true(free_bytes(&b.card) >= b.memory.device_low_bytes);
    uint32_t least = slots_of(&b);
    assert_true(least > 0 && least <= SLOTS / 2);

    b.card.others_bytes -= 10 * SLOT_BYTES; // easier, but an eighth and twice the reserve are not free
    seconds(&b, 30);
    assert_int_equal(slots_of(&b), least);
    b.card.others_bytes = 0;
    seconds(&b, 4); // not at once
    assert_int_equal(slots_of(&b), least);
    seconds(&b, 4);
    assert_int_equal(slots_of(&b), least + SLOTS / 8);
    seconds(&b, 60);
    assert_true(slots_of(&b) == SLOTS && b.card.held == SLOTS);

    char text[4096];
    tc_memory_report(&b.memory, text, sizeof text);
    assert_non_null(strstr(text, "\"device\":{\"state\":\"easy\",\"free_bytes\":62914560,"));
    tear_down(&b);
}

// All is given up where need be, nothing is taken that is not there, and a mute driver changes nothing.
static void test_nothing_left(void **state)
{
    (void)state;
    bench b;
    tc_error e;
    set_up(&b);
    b.card.others_bytes = TOTAL_BYTES;
    seconds(&b, 20);
    assert_true(slots_of(&b) == 0 && b.card.held == 0);
    b.card.others_bytes = 0;
    b.card.mute = true;
    seconds(&b, 20);
    assert_int_equal(slots_of(&b), 0);
    b.card.mute = false;
    b.card.others_bytes = 120 * SLOT_BYTES; // of 124: the operator asks for more than fits
    static const char ask[] = "{\"cache_size\":32}";
    assert_int_equal(tc_placement_tune(b.placement, ask, sizeof ask - 1, &e), TC_LIMIT);
    assert_int_equal(slots_of(&b), 0);
    b.card.others_bytes = 0;
    assert_int_equal(tc_placement_tune(b.placement, ask, sizeof ask - 1, &e), TC_OK);
    assert_true(slots_of(&b) == 32 && b.card.held >= 32);
    tear_down(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_others_come_and_go),
        cmocka_unit_test(test_nothing_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
