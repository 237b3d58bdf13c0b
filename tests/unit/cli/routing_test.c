// SPDX-License-Identifier: Apache-2.0
// Shows: what a figure says of its routes is right for routes that are known: distinct experts, exponent,
// what is repeated, hits; and routing that has collapsed makes a figure that calls itself not valid.
#include "cli/bench.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, DENSE = 1, EXPERTS = 128, TOP_K = 8, STRIDE = LAYERS * TOP_K };

static tc_model_desc desc;
static int said_valid, notes;

// ---- the report, which here is only listened to ----

void tc_report_number(tc_report *r, const char *key, const char *label, double value, const char *unit) {}
void tc_report_count(tc_report *r, const char *key, const char *label, uint64_t value, const char *unit) {}
void tc_report_flag(tc_report *r, const char *key, bool value)
{
    said_valid = value;
}
void tc_report_note(tc_report *r, const char *text)
{
    notes += strstr(text, "NOT VALID") != NULL;
}

static int setup(void **state)
{
    desc = (tc_model_desc){.layers = LAYERS, .experts = EXPERTS, .top_k = TOP_K};
    for (int l = 0; l < LAYERS; l++) desc.layer[l].moe = l != DENSE;
    said_valid = -1;
    notes = 0;
    return 0;
}

static void put(int32_t *experts, int layer, int k, int expert)
{
    experts[layer * TOP_K + k] = desc.layer[layer].moe ? expert : -1;
}

// Experts [first, first + TOP_K) of every layer, around.
static void consecutive(int32_t *experts, int first)
{
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < TOP_K; k++) put(experts, l, k, (first + k) % EXPERTS);
}

static tc_touched touched_of(tc_seen *seen)
{
    tc_touched t;
    tc_error e;
    assert_int_equal(tc_seen_touched(seen, &t, &e), TC_OK);
    tc_seen_free(seen);
    return t;
}

static tc_touched steps_of(int tokens, int step)
{
    tc_seen seen;
    tc_error e;
    int32_t experts[STRIDE];
    assert_int_equal(tc_seen_open(&seen, &desc, &e), TC_OK);
    for (int i = 0; i < tokens; i++) {
        consecutive(experts, i * step);
        assert_int_equal(tc_seen_note(&seen, true, 1, experts, &e), TC_OK);
    }
    return touched_of(&seen);
}

static void test_counts(void **state)
{
    tc_touched t = steps_of(4, TOP_K); // nothing twice
    assert_int_equal(t.layers, LAYERS - 1);
    assert_int_equal(t.tokens, 4);
    assert_int_equal(t.experts, 2 * 4 * TOP_K);
    assert_int_equal(t.of, 2 * EXPERTS);
    assert_int_equal(t.fewest, 4 * TOP_K);
    assert_true(fabs(t.a_layer - 4 * TOP_K) < 1e-9);
    assert_true(fabs(t.even - 128 * (1 - pow(0.9375, 4))) < 1e-9);
    assert_true(t.repeated == 0);
    t = steps_of(5, TOP_K / 4); // three quarters are the token's before
    assert_true(fabs(t.repeated - 0.75) < 1e-9);
    t = steps_of(64, 0);
    assert_true(t.repeated == 1 && t.quarter_hits == 1);
}

// 64 tokens of even routing touch 126 of 128: a quarter is 31.5.
static void test_collapse(void **state)
{
    tc_bench b = {0};
    tc_touched few = steps_of(64, 0);
    assert_true(few.collapsed);
    tc_bench_routing(&b, NULL, &few);
    assert_int_equal(b.collapsed, 1);
    assert_int_equal(said_valid, 0);
    assert_int_equal(notes, 1);
    tc_touched many = steps_of(64, 3);
    assert_false(many.collapsed);
    tc_bench_routing(&b, NULL, &many);
    assert_int_equal(b.collapsed, 1);
    assert_int_equal(said_valid, 1);
    assert_int_equal(notes, 1);
}

static tc_touched with_distinct(int distinct)
{
    tc_seen seen;
    tc_error e;
    int32_t experts[STRIDE];
    assert_int_equal(tc_seen_open(&seen, &desc, &e), TC_OK);
    for (int i = 0; i < 64; i++) {
        for (int l = 0; l < LAYERS; l++)
            for (int k = 0; k < TOP_K; k++) put(experts, l, k, (i * TOP_K + k) % distinct);
        assert_int_equal(tc_seen_note(&seen, true, 1, experts, &e), TC_OK);
    }
    return touched_of(&seen);
}

static void test_the_bound(void **state)
{
    assert_true(with_distinct(31).collapsed);
    assert_false(with_distinct(32).collapsed);
    assert_false(steps_of(1, 0).collapsed); // one token tells nothing
}

// Popularity by rank^-0.8, another order in each layer.
static void test_exponent(void **state)
{
    tc_seen seen;
    tc_error e;
    int32_t experts[STRIDE];
    double sum[EXPERTS + 1] = {0};
    srand(7);
    for (int r = 0; r < EXPERTS; r++) sum[r + 1] = sum[r] + pow(r + 1, -0.8);
    assert_int_equal(tc_seen_open(&seen, &desc, &e), TC_OK);
    for (int i = 0; i < 4000; i++) {
        for (int l = 0; l < LAYERS; l++)
            for (int k = 0; k < TOP_K; k++) {
                double u = rand() / (RAND_MAX + 1.0) * sum[EXPERTS];
                int r = 0;
                while (u >= sum[r + 1]) r++;
                put(experts, l, k, (r * 37 + l * 11) % EXPERTS);
            }
        assert_int_equal(tc_seen_note(&seen, i % 2 == 0, 1, experts, &e), TC_OK);
    }
    tc_touched t = touched_of(&seen);
    assert_true(fabs(t.zipf - 0.8) < 0.05);
    assert_int_equal(t.tokens, 4000);
    assert_true(t.quarter_hits > 0.5 && t.quarter_hits < 0.9); // the best quarter has 0.67
}

static void test_nothing_routed(void **state)
{
    tc_bench b = {0};
    tc_seen seen;
    tc_error e;
    desc.experts = desc.top_k = 0;
    assert_int_equal(tc_seen_open(&seen, &desc, &e), TC_OK);
    int32_t experts[STRIDE];
    memset(experts, 0xff, sizeof experts);
    assert_int_equal(tc_seen_note(&seen, true, 1, experts, &e), TC_OK);
    tc_touched t = touched_of(&seen);
    assert_true(t.experts == 0 && !t.collapsed);
    tc_bench_routing(&b, NULL, &t);
    assert_int_equal(said_valid, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_counts, setup),         cmocka_unit_test_setup(test_collapse, setup),
        cmocka_unit_test_setup(test_the_bound, setup),      cmocka_unit_test_setup(test_exponent, setup),
        cmocka_unit_test_setup(test_nothing_routed, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
