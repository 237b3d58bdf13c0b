// SPDX-License-Identifier: Apache-2.0
// Owns: the split of cold experts between link and workers: tables against every other choice, and what is
// learned from a simulated machine, also one whose workers fall asleep when they are asked for little.
#include "gpu-core/dev/share.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>

enum { LAYERS = 48, BATCHES = 400 };

typedef struct machine {
    double fetch_us, worker_us, side_us;
    uint32_t awake_from; // experts of a call from which workers stay awake
    double asleep_us;    // what an expert takes below that
} machine;

static double layer_us(const machine *m, uint32_t cold, uint32_t fetched, double *ret_compute)
{
    const uint32_t asked = cold - fetched;
    const double each = asked < m->awake_from ? m->asleep_us : m->worker_us;
    const double here = m->side_us + fetched * m->fetch_us, there = asked ? 20 + 10 + asked * each : 0;
    *ret_compute = asked ? 10 + asked * each : 0;
    return here > there ? here : there;
}

// A batch of layers with `cold` cold experts each, give or take two. Returns the mean time of a layer.
static double run(const machine *m, tc_share_rates *rates, uint8_t *quota, uint32_t cold, bool prompt)
{
    tc_share_seen seen = {.layers = LAYERS, .prompt = prompt};
    double all = 0, compute;
    for (uint32_t l = 0; l < LAYERS; l++) {
        const uint32_t n = cold - 2 + (uint32_t)rand() % 5, fetched = quota[n];
        all += layer_us(m, n, fetched, &compute);
        seen.fetched += fetched;
        seen.fetch_us += fetched * m->fetch_us;
        seen.side_us += m->side_us + fetched * m->fetch_us;
        seen.calls += n > fetched;
        seen.asked += n - fetched;
        seen.compute_us += compute;
    }
    tc_share_learn(rates, &seen);
    tc_share_quotas(rates, quota);
    return all / LAYERS;
}

// The least mean time that any share of the layers' cold experts gives.
static double best_us(const machine *m, uint32_t cold)
{
    double best = 1e9, compute;
    for (uint32_t fetched = 0; fetched <= cold; fetched++) {
        double all = 0;
        for (uint32_t n = cold - 2; n <= cold + 2; n++)
            all += layer_us(m, n, fetched < n ? fetched : n, &compute) / 5;
        if (all < best) best = all;
    }
    return best;
}

static double settled_us(const machine *m, uint32_t cold, uint32_t batches, bool prompt)
{
    uint8_t quota[TC_SHARE_QUOTAS] = {0};
    tc_share_rates rates = tc_share_guess(1700000);
    double last = 0;
    tc_share_quotas(&rates, quota);
    for (uint32_t i = 0; i < batches; i++) {
        double us = run(m, &rates, quota, cold, prompt);
        if (i >= batches - batches / 4) last += us / (batches / 4);
    }
    return last;
}

static void test_tables(void **state)
{
    for (int i = 0; i < 300; i++) {
        const tc_share_rates r = {
            .fetch_us = 1 + rand() % 200, .worker_us = 1 + rand() % 200, .side_us = rand() % 100};
        uint8_t quota[TC_SHARE_QUOTAS] = {0};
        tc_share_quotas(&r, quota);
        assert_false(tc_share_quotas(&r, quota)); // nothing changed
        for (uint32_t cold = 1; cold < TC_SHARE_QUOTAS; cold++) {
            const machine m = {r.fetch_us, r.worker_us, r.side_us, 0, 0};
            double compute, mine = layer_us(&m, cold, quota[cold], &compute);
            assert_true(quota[cold] <= cold && quota[cold] >= quota[cold - 1]);
            for (uint32_t other = 0; other <= cold; other++)
                assert_true(mine <= layer_us(&m, cold, other, &compute) + 1e-9);
        }
    }
}

static void test_fixed(void **state)
{
    uint8_t quota[TC_SHARE_QUOTAS] = {0};
    assert_false(tc_share_fixed(0, quota));
    assert_true(tc_share_fixed(30, quota));
    assert_int_equal(quota[10], 3);
    assert_int_equal(quota[3], 0);
    tc_share_fixed(100, quota);
    assert_int_equal(quota[TC_SHARE_COLD_MAX], TC_SHARE_COLD_MAX);
}

static void test_learning(void **state)
{
    static const machine machines[] = {
        {37, 20, 22, 0, 0},  {40, 60, 25, 0, 0}, {200, 20, 20, 0, 0}, // a slow link: next to nothing for it
        {37, 600, 22, 0, 0}, {10, 11, 90, 0, 0},
    };
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++)
        for (uint32_t cold = 3; cold <= 45; cold += 7) {
            double us = settled_us(&machines[i], cold, BATCHES, false), best = best_us(&machines[i], cold);
            if (us > best * 1.1 + 4)
                fail_msg("machine %zu, %u cold: %.1f us a layer, not %.1f", i, cold, us, best);
        }
}

// As seen on a host of 16 threads: 6 experts a call take 24 us each, 5 take 38.
static void test_sleepers(void **state)
{
    const machine m = {38, 24, 22, 6, 38};
    double compute, alone = layer_us(&m, 10, 0, &compute), us = settled_us(&m, 10, BATCHES, false);
    if (us > alone * 0.85) fail_msg("%.1f us a layer, the workers alone %.1f", us, alone);
}

static void test_prompts(void **state)
{
    const machine m = {37, 55, 400, 0, 0};
    double us = settled_us(&m, 110, 8, true), best = best_us(&m, 110);
    if (us > best * 1.05) fail_msg("%.1f us a layer, not %.1f", us, best);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tables), cmocka_unit_test(test_fixed),
                                       cmocka_unit_test(test_learning), cmocka_unit_test(test_sleepers),
                                       cmocka_unit_test(test_prompts)};
    srand(1);
    return cmocka_run_group_tests_name("share", tests, NULL, NULL);
}
