// SPDX-License-Identifier: Apache-2.0
// Shows: the hot cache against a plain model of itself. Whatever is asked in whatever order: the table is
// one to one with the slots that are ready, changes only where it may, and the list of changes tells it all;
// nothing fills a slot twice; bounds hold at N; pins stay; each policy keeps what its definition says.
#include "common/base/mem.h"
#include "common/placement/hot_cache.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, EXPERTS = 16, SLOTS_MAX = 20, N = LAYERS * EXPERTS };

static tc_hot_cache *make(tc_cache_policy policy, uint32_t slots, bool per_layer)
{
    const tc_hot_cache_options o = {.layers = LAYERS,
                                    .experts = EXPERTS,
                                    .slots_max = SLOTS_MAX,
                                    .slots = slots,
                                    .policy = policy,
                                    .per_layer = per_layer,
                                    .slot_bytes = 100};
    tc_error e;
    tc_hot_cache *c;
    assert_int_equal(tc_hot_cache_create(&o, &c, &e), TC_OK);
    return c;
}

static uint32_t slot_of(const tc_hot_cache *c, uint32_t layer, uint32_t expert)
{
    return tc_hot_cache_table(c)[layer * EXPERTS + expert];
}

static bool hot(const tc_hot_cache *c, uint32_t layer, uint32_t expert)
{
    return slot_of(c, layer, expert) != TC_NO_SLOT;
}

static uint64_t clock_us;

// A step that uses the experts given, of layer 0, ended by -1; every fill is done at once.
static uint32_t step_of(tc_hot_cache *c, const int *experts)
{
    tc_expert_use uses[N];
    tc_cache_fill fills[TC_FILLS_MAX];
    uint32_t n = 0;
    for (; *experts >= 0; experts++) uses[n++] = (tc_expert_use){0, (uint16_t)*experts, 1};
    clock_us += 1000;
    const tc_cache_input in = {.uses = uses, .count = n, .tokens = 1, .now_us = clock_us};
    uint32_t count = tc_hot_cache_step(c, &in, fills);
    for (uint32_t i = 0; i < count; i++) tc_hot_cache_fill_done(c, fills[i].slot, clock_us + 10);
    return count;
}

#define STEP(c, ...) step_of(c, (const int[]){__VA_ARGS__, -1})
#define IDLE(c) step_of(c, (const int[]){-1})

static void test_visible_from_the_next_step(void **state)
{
    (void)state;
    tc_hot_cache *c = make(TC_POLICY_LRU, 2, false);
    tc_expert_use use = {1, 5, 3};
    tc_cache_fill fills[TC_FILLS_MAX];
    const tc_cache_input in = {.uses = &use, .count = 1, .tokens = 1, .now_us = 7};
    assert_int_equal(tc_hot_cache_step(c, &in, fills), 1);
    assert_true(fills[0].layer == 1 && fills[0].expert == 5 && fills[0].evicted_layer == TC_NO_SLOT);
    assert_false(hot(c, 1, 5));
    assert_int_equal(tc_hot_cache_step(c, &in, fills), 0); // still filling: not started again
    tc_hot_cache_fill_done(c, 0, 7 + 40);
    assert_false(hot(c, 1, 5)); // not before the next step
    assert_int_equal(tc_hot_cache_step(c, &in, fills), 0);
    assert_int_equal(slot_of(c, 1, 5), 0);
    tc_cache_stats stats;
    tc_hot_cache_stats(c, &stats);
    assert_true(stats.hits == 0 && stats.misses == 3 &&
                stats.pair_misses == 9); // the third saw the old table
    tc_hot_cache_step(c, &in, fills);
    tc_hot_cache_stats(c, &stats);
    assert_true(stats.hits == 1 && stats.pair_hits == 3 && stats.fills_done == 1 && stats.ready == 1);
    assert_true(stats.latency[5] == 1 && stats.latency_us_max == 40);
    tc_hot_cache_free(c);
}

static void test_policies(void **state)
{
    (void)state;
    tc_hot_cache *c = make(TC_POLICY_LRU, 2, false);
    STEP(c, 1);
    STEP(c, 2);
    STEP(c, 1);
    STEP(c, 3); // 2 was used longest ago
    IDLE(c);
    assert_true(hot(c, 0, 1) && hot(c, 0, 3) && !hot(c, 0, 2));
    tc_hot_cache_free(c);

    c = make(TC_POLICY_LFU, 2, false);
    for (int i = 0; i < 3; i++) STEP(c, 1);
    for (int i = 0; i < 2; i++) STEP(c, 2);
    STEP(c, 3); // used once: worth less than either
    IDLE(c);
    assert_true(hot(c, 0, 1) && hot(c, 0, 2) && !hot(c, 0, 3));
    for (int i = 0; i < 2; i++) STEP(c, 3);
    IDLE(c);
    assert_true(hot(c, 0, 1) && hot(c, 0, 3));
    tc_hot_cache_free(c);

    c = make(TC_POLICY_STATIC, 2, false);
    float prior[N] = {[4] = 0.5f, [6] = 0.25f, [7] = 0.125f};
    tc_hot_cache_prior(c, prior);
    STEP(c, 7);
    STEP(c, 6);
    STEP(c, 1);
    IDLE(c);
    assert_true(hot(c, 0, 6) && hot(c, 0, 7) && !hot(c, 0, 1));
    STEP(c, 4);
    for (int i = 0; i < 9; i++) STEP(c, 7);
    assert_true(hot(c, 0, 4) && hot(c, 0, 6) && !hot(c, 0, 7));
    tc_hot_cache_free(c);
}

// Used often long ago loses to used often lately; used once lately does not push out what is used often.
static void test_decay(void **state)
{
    (void)state;
    tc_hot_cache *c = make(TC_POLICY_DECAYED, 2, false);
    for (int i = 0; i < 400; i++) STEP(c, 1, 2);
    STEP(c, 3);
    IDLE(c);
    assert_true(hot(c, 0, 1) && hot(c, 0, 2));
    for (int i = 0; i < 400; i++) STEP(c, 3, 2);
    assert_true(hot(c, 0, 3) && hot(c, 0, 2) && !hot(c, 0, 1));
    for (int i = 0; i < 20000; i++) STEP(c, 3, 2); // far beyond a float's range of scale
    for (int i = 0; i < 400; i++) STEP(c, 3, 1);
    assert_true(hot(c, 0, 3) && hot(c, 0, 1));
    tc_hot_cache_free(c);
}

static void test_second_miss(void **state)
{
    (void)state;
    tc_error e;
    const tc_hot_cache_options o = {.layers = LAYERS,
                                    .experts = EXPERTS,
                                    .slots_max = 1,
                                    .slots = 1,
                                    .policy = TC_POLICY_LRU,
                                    .second_miss = true,
                                    .admission_tokens = 10};
    tc_hot_cache *c;
    assert_int_equal(tc_hot_cache_create(&o, &c, &e), TC_OK);
    assert_int_equal(STEP(c, 1), 1); // a free slot is for anyone
    assert_int_equal(STEP(c, 2), 0);
    for (int i = 0; i < 9; i++) IDLE(c);
    assert_int_equal(STEP(c, 2), 1); // 10 tokens later
    for (int i = 0; i < 10; i++) IDLE(c);
    assert_int_equal(STEP(c, 3), 0);
    for (int i = 0; i < 10; i++) IDLE(c);
    assert_int_equal(STEP(c, 3), 0); // 11 tokens later
    tc_hot_cache_free(c);
}

static void test_link_share(void **state)
{
    (void)state;
    tc_error e;
    const tc_hot_cache_options o = {.layers = LAYERS,
                                    .experts = EXPERTS,
                                    .slots_max = SLOTS_MAX,
                                    .slots = SLOTS_MAX,
                                    .policy = TC_POLICY_LRU,
                                    .slot_bytes = 1000,
                                    .link_bytes_per_us = 1,
                                    .link_share = 0.25};
    tc_hot_cache *c;
    assert_int_equal(tc_hot_cache_create(&o, &c, &e), TC_OK);
    uint64_t bytes = 0, begin = clock_us;
    srand(3);
    for (int i = 0; i < 1000; i++) bytes += 1000 * STEP(c, rand() % EXPERTS, 0);
    tc_hot_cache_resize(c, 1, &e);
    for (int i = 0; i < 20000; i++) bytes += 1000 * STEP(c, rand() % EXPERTS);
    uint64_t allowed = (clock_us - begin) / 4, saved_up = 50000 / 4;
    assert_true(bytes <= allowed + saved_up && bytes > allowed / 2);
    tc_hot_cache_set_limits(c, 0.001, 0.25, 0);
    bytes = 0;
    for (int i = 0; i < 4000; i++)
        bytes += 1000 * STEP(c, rand() % EXPERTS); // 4 s: one fill, and two saved up
    assert_true(bytes <= 3000);
    tc_hot_cache_free(c);
}

static void test_pins_and_wants(void **state)
{
    (void)state;
    tc_error e;
    tc_hot_cache *c = make(TC_POLICY_LRU, 2, false);
    STEP(c, 1, 2);
    assert_int_equal(tc_hot_cache_pin(c, 2, 9, &e), TC_OK);
    assert_int_equal(tc_hot_cache_pin(c, 0, 1, &e), TC_OK);
    assert_int_equal(tc_hot_cache_pin(c, 0, 1, &e), TC_OK); // again: nothing
    assert_int_equal(tc_hot_cache_pin(c, 0, 2, &e), TC_LIMIT);
    assert_int_equal(tc_hot_cache_pin(c, LAYERS, 0, &e), TC_ARGUMENT);
    assert_int_equal(tc_hot_cache_pin(c, 0, EXPERTS, &e), TC_ARGUMENT);
    for (int i = 0; i < 40; i++) STEP(c, 3 + i % 8);
    assert_true(hot(c, 2, 9) && hot(c, 0, 1) && tc_hot_cache_pinned(c, 2, 9));
    assert_int_equal(tc_hot_cache_resize(c, 1, &e), TC_LIMIT);
    assert_int_equal(tc_hot_cache_unpin(c, 2, 9, &e), TC_OK);
    STEP(c, 5);
    IDLE(c);
    assert_true(hot(c, 0, 5) && !hot(c, 2, 9));
    assert_int_equal(tc_hot_cache_want(c, 1, 1, 5), TC_OK);
    assert_int_equal(tc_hot_cache_want(c, LAYERS, 1, 5), TC_ARGUMENT);
    IDLE(c);
    IDLE(c);
    assert_true(hot(c, 1, 1) && !hot(c, 0, 5));
    tc_cache_stats stats;
    tc_hot_cache_stats(c, &stats);
    assert_int_equal(stats.prefetches, 1);
    tc_hot_cache_free(c);
}

static void test_bounds(void **state)
{
    (void)state;
    tc_error e;
    tc_hot_cache *c;
    const tc_hot_cache_options good = {.layers = 1, .experts = 1, .slots_max = 1, .policy = TC_POLICY_LRU};
    tc_hot_cache_options o = good;
    assert_int_equal(tc_hot_cache_create(&o, &c, &e), TC_OK);
    assert_int_equal(tc_hot_cache_resize(c, 2, &e), TC_LIMIT);
    tc_hot_cache_free(c);
#define BAD(field, value)                                                                                    \
    o = good;                                                                                                \
    o.field = value;                                                                                         \
    assert_int_equal(tc_hot_cache_create(&o, &c, &e), TC_ARGUMENT)
    BAD(layers, TC_CACHE_LAYERS_MAX + 1);
    BAD(layers, 0);
    BAD(experts, UINT16_MAX + 1);
    BAD(slots, 2);
    BAD(slots_max, TC_CACHE_SLOTS_MAX + 1);
    BAD(fills_max, TC_FILLS_MAX + 1);
    BAD(policy, TC_POLICIES);
    BAD(link_share, 1.01);
    BAD(fast_tokens, -1);
#undef BAD
    tc_cache_policy policy;
    for (int i = 0; i < TC_POLICIES; i++) {
        assert_true(tc_policy_parse(tc_policy_name((tc_cache_policy)i), &policy));
        assert_int_equal(policy, i);
    }
    assert_false(tc_policy_parse("best", &policy));
}

// ---- against a plain model ----

typedef struct shadow {
    uint32_t table[N];         // as told by changes
    uint32_t holds[SLOTS_MAX]; // index + 1 being filled or ready
    bool filling[SLOTS_MAX];
} shadow;

static void follow_changes(const tc_hot_cache *c, shadow *s)
{
    const tc_table_change *list;
    bool all;
    uint32_t n = tc_hot_cache_changes(c, &list, &all);
    assert_false(all);
    for (uint32_t i = 0; i < n; i++) s->table[list[i].layer * EXPERTS + list[i].expert] = list[i].slot;
    assert_memory_equal(s->table, tc_hot_cache_table(c), sizeof s->table);
}

static void check_whole(const tc_hot_cache *c, shadow *s)
{
    tc_cache_stats stats;
    uint32_t ready = 0, in_layer[LAYERS] = {0};
    tc_hot_cache_stats(c, &stats);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t slot = tc_hot_cache_table(c)[i], layer, expert;
        bool is_ready;
        if (slot == TC_NO_SLOT) continue;
        assert_true(slot < stats.slots);
        assert_true(tc_hot_cache_slot(c, slot, &layer, &expert, &is_ready));
        assert_true(is_ready && layer * EXPERTS + expert == i && !s->filling[slot]);
        ready++;
        in_layer[layer]++;
    }
    assert_int_equal(ready, stats.ready);
    const tc_hot_cache_options *o = tc_hot_cache_get_options(c);
    for (uint32_t layer = 0; layer < LAYERS && o->per_layer; layer++)
        assert_true(in_layer[layer] <= (o->slots + LAYERS - 1) / LAYERS);
}

static void check_fills(const tc_hot_cache *c, shadow *s, const tc_cache_fill *fills, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = fills[i].layer * EXPERTS + fills[i].expert;
        assert_true(fills[i].slot < tc_hot_cache_get_options(c)->slots);
        assert_false(s->filling[fills[i].slot]); // nothing is written to from two sides
        assert_int_equal(s->table[index], TC_NO_SLOT);
        for (uint32_t k = 0; k < N; k++) assert_true(s->table[k] != fills[i].slot);
        if (fills[i].evicted_layer != TC_NO_SLOT)
            assert_int_equal(s->holds[fills[i].slot],
                             1 + fills[i].evicted_layer * EXPERTS + fills[i].evicted_expert);
        s->filling[fills[i].slot] = true;
        s->holds[fills[i].slot] = 1 + index;
    }
}

// What happens inside a step that looks ahead; nothing leaves the layer under way.
static void random_pass(tc_hot_cache *c, shadow *s, tc_cache_fill *fills)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        tc_expert_use expected[8];
        uint32_t n = (uint32_t)rand() % 8, first = (uint32_t)rand() % EXPERTS, most = (uint32_t)rand() % 6;
        for (uint32_t i = 0; i < n; i++)
            expected[i] =
                (tc_expert_use){(uint16_t)(layer + 1), (uint16_t)((first + 3 * i) % (EXPERTS + 1)), 1};
        tc_mem_guard_begin();
        tc_hot_cache_reach(c, layer);
        assert_int_equal(tc_mem_guard_end(), 0);
        follow_changes(c, s);
        uint32_t count = tc_hot_cache_foresee(c, expected, n, most, clock_us += 10, fills);
        follow_changes(c, s);
        assert_true(count <= most && (count == 0 || layer + 1 < LAYERS));
        for (uint32_t i = 0; i < count; i++)
            assert_true(fills[i].layer == layer + 1 && fills[i].evicted_layer != layer);
        check_fills(c, s, fills, count);
        for (uint32_t slot = 0; slot < SLOTS_MAX; slot++) {
            if (!s->filling[slot] || rand() % 2) continue;
            s->filling[slot] = false;
            tc_hot_cache_fill_done(c, slot, clock_us);
        }
    }
}

static void random_step(tc_hot_cache *c, shadow *s, tc_cache_fill *fills)
{
    tc_expert_use uses[N];
    uint32_t n = 0;
    for (uint32_t i = 0; i < N; i++)
        if (rand() % 8 < (i % EXPERTS < 4 ? 4 : 1))
            uses[n++] =
                (tc_expert_use){(uint16_t)(i / EXPERTS), (uint16_t)(i % EXPERTS), 1 + (uint32_t)rand() % 3};
    const tc_cache_input in = {
        .uses = uses, .count = n, .tokens = (uint32_t)rand() % 4, .now_us = clock_us += 100};
    tc_mem_guard_begin();
    uint32_t count = tc_hot_cache_step(c, &in, fills);
    assert_int_equal(tc_mem_guard_end(), 0);
    follow_changes(c, s);
    check_fills(c, s, fills, count);
}

static void random_act(tc_hot_cache *c, shadow *s)
{
    tc_error e;
    uint32_t layer = (uint32_t)rand() % LAYERS, expert = (uint32_t)rand() % EXPERTS, slots;
    switch (rand() % 12) {
    case 0:
        slots = (uint32_t)rand() % (SLOTS_MAX + 2);
        if (tc_hot_cache_resize(c, slots, &e) == TC_OK) follow_changes(c, s);
        break;
    case 1:
        tc_hot_cache_clear(c);
        follow_changes(c, s);
        break;
    case 2:
        tc_hot_cache_pin(c, layer, expert, &e);
        break;
    case 3:
    case 4:
        tc_hot_cache_unpin(c, layer, expert, &e);
        break;
    case 5:
        tc_hot_cache_set_policy(c, (tc_cache_policy)(rand() % TC_POLICIES));
        break;
    case 6:
    case 7:
        tc_hot_cache_want(c, layer, expert, 1);
        break;
    default:
        for (uint32_t slot = 0; slot < SLOTS_MAX; slot++) {
            if (!s->filling[slot] || rand() % 2) continue;
            s->filling[slot] = false;
            tc_hot_cache_fill_done(c, slot, clock_us + 50);
        }
        assert_memory_equal(s->table, tc_hot_cache_table(c), sizeof s->table);
        if (rand() % 2) break;
        tc_hot_cache_publish(c);
        follow_changes(c, s);
    }
}

static void test_any_order(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 60; seed++) {
        srand(seed);
        shadow s = {0};
        memset(s.table, 0xff, sizeof s.table);
        tc_hot_cache *c = make((tc_cache_policy)(seed % TC_POLICIES), seed % SLOTS_MAX, seed % 3 == 0);
        tc_cache_fill *fills = calloc(TC_FILLS_MAX, sizeof *fills);
        for (int i = 0; i < 1500; i++) {
            bool pinned[N];
            for (uint32_t k = 0; k < N; k++)
                pinned[k] = s.table[k] != TC_NO_SLOT && tc_hot_cache_pinned(c, k / EXPERTS, k % EXPERTS);
            if (rand() % 2) random_pass(c, &s, fills);
            check_whole(c, &s);
            random_step(c, &s, fills);
            for (uint32_t k = 0; k < N; k++) assert_true(!pinned[k] || s.table[k] != TC_NO_SLOT);
            check_whole(c, &s);
            random_act(c, &s);
            check_whole(c, &s);
        }
        free(fills);
        tc_hot_cache_free(c);
    }
}

// LRU by its definition: a list in order of last use.
static void test_lru_is_lru(void **state)
{
    (void)state;
    srand(11);
    tc_hot_cache *c = make(TC_POLICY_LRU, 5, false);
    int list[5], count = 0, hits = 0, real = 0;
    for (int i = 0; i < 20000; i++) {
        int expert = rand() % (rand() % 3 ? 6 : EXPERTS), at = 0;
        while (at < count && list[at] != expert) at++;
        hits += at < count;
        real += hot(c, 0, (uint32_t)expert);
        if (at == count) {
            if (count < 5) count++;
            at = count - 1;
        }
        memmove(list + 1, list, (size_t)at * sizeof *list);
        list[0] = expert;
        STEP(c, expert);
        tc_hot_cache_publish(c);
    }
    assert_int_equal(real, hits);
    tc_hot_cache_free(c);
}

// Experts of layer 1 are fetched while layer 0 runs: those there in time are hits, one that is late is a
// miss, one fetched in vain is nothing; what layer 0 reads stays, and what it found counts although it left
// since.
static void test_look_ahead(void **state)
{
    (void)state;
    tc_hot_cache *c = make(TC_POLICY_PREDICTIVE, 4, false);
    tc_cache_fill fills[TC_FILLS_MAX];
    tc_cache_stats stats;
    const tc_expert_use expected[] = {{1, 3, 1}, {1, 4, 1}, {1, 5, 1}};
    STEP(c, 0, 1, 2); // three of layer 0 are hot from here on, one slot is free
    tc_hot_cache_publish(c);
    assert_int_equal(tc_hot_cache_foresee(c, expected, 3, 8, 1, fills), 0); // no layer was reached
    tc_hot_cache_reach(c, 0);
    assert_int_equal(tc_hot_cache_foresee(c, expected, 3, 8, 1, fills), 1); // the others would cost layer 0
    assert_true(fills[0].layer == 1 && fills[0].expert == 3 && fills[0].evicted_layer == TC_NO_SLOT);
    tc_hot_cache_fill_done(c, fills[0].slot, 2);
    assert_false(hot(c, 1, 3));
    tc_hot_cache_reach(c, 1);
    assert_true(hot(c, 1, 3));
    const tc_expert_use later[] = {{2, 7, 1}, {2, 8, 1}, {2, 9, 1}};
    assert_int_equal(tc_hot_cache_foresee(c, later, 3, 2, 3, fills), 2); // no more than asked for
    assert_true(fills[0].evicted_layer == 0 && fills[1].evicted_layer == 0);
    assert_true(!hot(c, 0, fills[0].evicted_expert) && tc_hot_cache_was_hot(c, 0, fills[0].evicted_expert));
    tc_hot_cache_fill_done(c, fills[0].slot, 4); // 8 is late
    tc_hot_cache_reach(c, 2);
    assert_true(hot(c, 2, 7) && !hot(c, 2, 8));
    const tc_expert_use used[] = {{0, 0, 1}, {0, 1, 1}, {0, 2, 1}, {1, 6, 1}, {2, 7, 1}, {2, 8, 1}};
    const tc_cache_input in = {.uses = used, .count = 6, .tokens = 1, .now_us = 5};
    tc_hot_cache_step(c, &in, fills);
    tc_hot_cache_stats(c, &stats);
    assert_int_equal(stats.hits, 4);       // 0, 1, 2 of layer 0 and 7 of layer 2; 3 of layer 1 was not used
    assert_int_equal(stats.misses, 3 + 2); // the first step, 6 of layer 1 and 8 of layer 2
    assert_int_equal(stats.foreseen, 3);
    assert_int_equal(stats.foreseen_hits, 1);
    assert_int_equal(stats.foreseen_late, 1);
    assert_false(tc_hot_cache_was_hot(c, 0, 0) && tc_hot_cache_was_hot(c, 0, 1) &&
                 tc_hot_cache_was_hot(c, 0, 2));
    tc_hot_cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_visible_from_the_next_step),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_decay),
        cmocka_unit_test(test_second_miss),
        cmocka_unit_test(test_link_share),
        cmocka_unit_test(test_pins_and_wants),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_look_ahead),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_lru_is_lru),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
