// SPDX-License-Identifier: Apache-2.0
// Shows: what is expected of near and far workers, into how many parts calls are cut for them, and when an
// answer is late: against workers whose true times are known here.
#include "gpu-core/experts/fleet.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>

enum { HIDDEN = 2048, UNITS = 8, TOP_K = 10, EXPERTS = 512 };

typedef struct truth {
    double overhead_us, us_per_kib, us_per_work;
} truth;
static const truth near = {20, 0.05, 4}, far = {600, 1, 4}, broad = {600, 0.05, 4}, slow = {20, 0.05, 80};

static tc_call_size size_of(uint32_t tokens)
{
    static tc_expert_pair pairs[TC_CALL_TOKENS_MAX * (TOP_K + 1)];
    uint32_t n = 0;
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t t = 0; t < tokens; t++)
            if ((e * 7 + t * 13) % (EXPERTS / TOP_K) == 0) pairs[n++] = (tc_expert_pair){e, t, 1};
    const tc_expert_call call = {
        .unit_end = UNITS, .tokens = tokens, .hidden = HIDDEN, .pair_count = n, .pairs = pairs};
    return tc_call_size_of(&call);
}

static uint64_t compute_us(const truth *t, const tc_call_size *s)
{
    return (uint64_t)(t->us_per_work * s->work);
}
static uint64_t latency_us(const truth *t, const tc_call_size *s)
{
    return (uint64_t)(t->overhead_us + t->us_per_kib * s->carried_kib) + compute_us(t, s);
}

static tc_pace learned(const truth *t)
{
    tc_pace pace = {0};
    for (uint32_t i = 0; i < 60; i++) {
        tc_call_size s = size_of(i % 3 ? 1 : 64);
        tc_pace_note(&pace, &s, latency_us(t, &s), compute_us(t, &s), 1000);
    }
    return pace;
}

static void test_sizes(void **state)
{
    (void)state;
    tc_expert_pair pairs[] = {{1, 0, 1}, {1, 1, 1}, {4, 0, 1}};
    const tc_expert_call call = {
        .unit_begin = 2, .unit_end = 6, .tokens = 2, .hidden = 1024, .pair_count = 3, .pairs = pairs};
    tc_call_size s = tc_call_size_of(&call);
    assert_true(s.work == 4 * (2 + 3 / 8.0));
    assert_true(s.carried_kib > 24 && s.carried_kib < 24.1);
}

static void test_expectations(void **state)
{
    (void)state;
    static const truth *const all[] = {&near, &far, &broad, &slow};
    for (int k = 0; k < 4; k++) {
        tc_pace pace = learned(all[k]);
        for (uint32_t tokens = 1; tokens <= 64; tokens *= 64) {
            tc_call_size s = size_of(tokens);
            double expect = tc_pace_expect_us(&pace, &s, 1000), want = (double)latency_us(all[k], &s);
            if (expect < want * 0.8 || expect > want * 1.25)
                fail_msg("worker %d, %u tokens: %.0f us, in truth %.0f", k, tokens, expect, want);
        }
    }
    tc_pace unknown = {0};
    tc_call_size s = size_of(1);
    assert_true(tc_pace_expect_us(&unknown, &s, 5) == 0); // so it is tried
}

// Slow once is not slow for ever.
static void test_growing_old(void **state)
{
    (void)state;
    tc_pace fine = learned(&near), bad = learned(&slow);
    tc_call_size s = size_of(1);
    uint64_t now = 1000 + 60 * 1000000ull;
    fine.noted_us = now;
    assert_true(tc_pace_expect_us(&bad, &s, 1000) > 10 * tc_pace_expect_us(&fine, &s, now));
    assert_true(tc_pace_expect_us(&bad, &s, now) < tc_pace_expect_us(&fine, &s, now));
    assert_true(tc_pace_expect_us(&bad, &s, 1000 + TC_PACE_STALE_US - 1) ==
                tc_pace_expect_us(&bad, &s, 1000));
}

static void test_lateness(void **state)
{
    (void)state;
    tc_pace pace = learned(&near), unknown = {0};
    tc_call_size one = size_of(1), many = size_of(TC_CALL_TOKENS_MAX);
    assert_true(tc_pace_late_us(&unknown, &one) == TC_HEDGE_UNKNOWN_US);
    assert_true(tc_pace_late_us(&pace, &one) >= TC_HEDGE_MIN_US);
    assert_true(tc_pace_late_us(&pace, &one) < 20000);
    assert_true(tc_pace_late_us(&pace, &many) > (double)latency_us(&near, &many)); // a large call is not late
    tc_pace unsteady = pace;
    for (int i = 0; i < 40; i++) tc_pace_note(&unsteady, &one, i % 2 ? 400 : 40000, 300, 1000);
    assert_true(tc_pace_late_us(&unsteady, &one) > 40000); // who is unsteady is given time
}

static uint32_t cut(const tc_pace *const *paces, uint32_t count, uint32_t groups, uint32_t tokens)
{
    tc_fleet_member members[64];
    tc_call_size whole = size_of(tokens);
    for (uint32_t i = 0; i < count; i++) members[i] = (tc_fleet_member){i % groups, paces[i]};
    return tc_fleet_cut(members, count, groups, count / groups, &whole, 1000);
}

static void test_cuts(void **state)
{
    (void)state;
    tc_pace n = learned(&near), f = learned(&far), b = learned(&broad), sl = learned(&slow);
    assert_int_equal(cut((const tc_pace *[]){&n}, 1, 1, 1), 1);
    assert_int_equal(cut((const tc_pace *[]){&n, &n}, 2, 1, 1), 2);     // two that are near: half each
    assert_int_equal(cut((const tc_pace *[]){&n, &f}, 2, 1, 1), 1);     // a token is not worth the way
    assert_int_equal(cut((const tc_pace *[]){&n, &b}, 2, 1, 64), 2);    // a prompt is
    assert_int_equal(cut((const tc_pace *[]){&n, &n, &f}, 3, 1, 1), 2); // of three the two that are near
    assert_int_equal(cut((const tc_pace *[]){&n, &sl, &n}, 3, 1, 1), 2);
    assert_int_equal(cut((const tc_pace *[]){&f, &f, &f, &f}, 4, 1, 64), 4); // all far: every one helps
    assert_int_equal(cut((const tc_pace *[]){&n, &n, &n, &n}, 4, 2, 1), 2);  // two groups of two
    assert_int_equal(cut((const tc_pace *[]){&n, &n, &n, &f}, 4, 2, 1),
                     1); // one group would wait for the far one
}

static void test_many(void **state)
{
    (void)state;
    tc_pace n = learned(&near);
    const tc_pace *all[64];
    for (int i = 0; i < 64; i++) all[i] = &n;
    uint32_t parts = cut(all, 64, 1, 256);
    assert_true(parts > 32 && parts <= 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_expectations),
        cmocka_unit_test(test_growing_old), cmocka_unit_test(test_lateness),
        cmocka_unit_test(test_cuts),        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
