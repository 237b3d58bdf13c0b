// SPDX-License-Identifier: Apache-2.0
// Shows: pairs come out sorted by (expert, token), every one once, with its weight;
// experts touched are counted.
#include "gpu-core/experts/plan.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>

enum { TOKENS = 37, TOP_K = 5, EXPERTS = 16 };

static void test_sorted_and_complete(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 200; round++) {
        uint32_t expert[TOKENS * TOP_K], counts[EXPERTS + 1], n = 1 + (uint32_t)rand() % TOKENS;
        float weight[TOKENS * TOP_K];
        tc_expert_pair pairs[TOKENS * TOP_K];
        for (uint32_t t = 0; t < n; t++) {
            uint32_t first = (uint32_t)rand();
            for (uint32_t k = 0; k < TOP_K; k++) {
                expert[t * TOP_K + k] = (first + 3 * k) % EXPERTS; // distinct within a token
                weight[t * TOP_K + k] = (float)(t * 100 + expert[t * TOP_K + k]);
            }
        }
        uint32_t distinct = tc_plan_pairs(expert, weight, n, TOP_K, EXPERTS, counts, pairs), seen = 0;
        for (uint32_t i = 0; i < n * TOP_K; i++) {
            assert_true(pairs[i].weight == (float)(pairs[i].token * 100 + pairs[i].expert));
            seen += i == 0 || pairs[i].expert != pairs[i - 1].expert;
            if (i == 0) continue;
            assert_true(pairs[i - 1].expert < pairs[i].expert ||
                        (pairs[i - 1].expert == pairs[i].expert && pairs[i - 1].token < pairs[i].token));
        }
        assert_int_equal(distinct, seen);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sorted_and_complete)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
