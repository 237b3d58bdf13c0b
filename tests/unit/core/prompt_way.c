// SPDX-License-Identifier: Apache-2.0
// Shows: of the ways a batch of prompt tokens may go the fastest is found within a few batches of its size,
// stays found through noise and single stalls, is found again when the machine changes, and costs next to
// nothing in between.
#include "gpu-core/dev/prompt_way.h"
#include "tests/support/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { ALL = 7 };

static double draw(void)
{
    return (double)rand() / RAND_MAX;
}

typedef struct machine {
    double us[TC_PROMPT_WAYS];
    uint32_t lines; // told
    char text[240];
} machine;

// Serves so many batches; returns how many went `way`.
static uint32_t serve(tc_prompt_ways *ways, machine *m, uint32_t tokens, uint32_t allowed, uint32_t batches,
                      tc_prompt_way way)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < batches; i++) {
        const tc_prompt_way now = tc_prompt_way_choose(ways, tokens, allowed);
        assert_true(allowed >> now & 1);
        count += now == way;
        m->lines += tc_prompt_way_learn(ways, tokens, now, m->us[now] * (0.97 + 0.06 * draw()), m->text,
                                        sizeof m->text);
    }
    return count;
}

static void test_fastest_is_found(void **state)
{
    (void)state;
    for (uint32_t best = 0; best < TC_PROMPT_WAYS; best++) {
        tc_prompt_ways ways = {0};
        machine m = {.us = {500, 500, 500}};
        m.us[best] = 400;
        const uint32_t tries = TC_PROMPT_TRIES * TC_PROMPT_WAYS;
        assert_int_equal(serve(&ways, &m, 128, ALL, tries, (tc_prompt_way)best), TC_PROMPT_TRIES);
        const uint32_t later = serve(&ways, &m, 128, ALL, 640, (tc_prompt_way)best);
        assert_true(later >= 640 - 640 / TC_PROMPT_AGAIN - 1 && later < 640);
        assert_true(m.lines >= 1 && m.lines <= 2 &&
                    strstr(m.text, "prompts of 128 tokens and more a step: "));
    }
}

// The first batch of all was held up, and now and then another one.
static void test_stalls(void **state)
{
    (void)state;
    tc_prompt_ways ways = {0};
    machine m = {.us = {400, 500, 600}};
    char text[240];
    assert_int_equal(tc_prompt_way_choose(&ways, 300, ALL), TC_WAY_SHARE);
    (void)tc_prompt_way_learn(&ways, 300, TC_WAY_SHARE, 90000, text, sizeof text);
    (void)serve(&ways, &m, 300, ALL, 8, TC_WAY_SHARE);
    for (int i = 0; i < 20; i++) {
        assert_true(serve(&ways, &m, 300, ALL, 30, TC_WAY_SHARE) >= 29);
        (void)tc_prompt_way_learn(&ways, 300, TC_WAY_SHARE, 1000, text, sizeof text);
    }
}

static void test_machine_changes(void **state)
{
    (void)state;
    tc_prompt_ways ways = {0};
    machine m = {.us = {400, 500, 600}};
    (void)serve(&ways, &m, 1000, ALL, 100, TC_WAY_SHARE);
    m.us[TC_WAY_SHARE] = 900; // the workers have other things to do
    (void)serve(&ways, &m, 1000, ALL, 10, TC_WAY_STREAM);
    assert_true(serve(&ways, &m, 1000, ALL, 60, TC_WAY_STREAM) >= 58);
    m.us[TC_WAY_SHARE] = 300; // and are back: noticed when it is tried again
    (void)serve(&ways, &m, 1000, ALL, 3 * TC_PROMPT_AGAIN, TC_WAY_SHARE);
    assert_true(serve(&ways, &m, 1000, ALL, 60, TC_WAY_SHARE) >= 58);
}

// Sizes know nothing of each other; a way that is not there today is not chosen, and its times are kept.
static void test_sizes_and_ways(void **state)
{
    (void)state;
    static const uint32_t tokens[] = {1, 64, 95, 96, 128, 192, 256, 400, 512, 1000, 2048, 8192};
    tc_prompt_ways ways = {0};
    machine m = {.us = {400, 300, 200}}, n = {.us = {200, 300, 400}};
    (void)serve(&ways, &m, 100, ALL, 20, TC_WAY_LINK);
    (void)serve(&ways, &n, 600, ALL, 20, TC_WAY_SHARE);
    assert_int_equal(serve(&ways, &m, 127, ALL, 10, TC_WAY_LINK), 10);
    assert_int_equal(serve(&ways, &n, 767, ALL, 10, TC_WAY_SHARE), 10);
    const uint32_t none = 1u << TC_WAY_SHARE | 1u << TC_WAY_STREAM;
    assert_int_equal(serve(&ways, &m, 127, none, 10, TC_WAY_STREAM), 10);
    assert_int_equal(serve(&ways, &m, 127, 1u << TC_WAY_SHARE, 10, TC_WAY_SHARE), 10);
    assert_int_equal(serve(&ways, &m, 127, ALL, 5, TC_WAY_LINK), 5);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        for (uint32_t allowed = 1; allowed <= ALL; allowed++)
            (void)serve(&ways, &m, tokens[i], allowed, 200, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fastest_is_found),
        cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_machine_changes),
        cmocka_unit_test(test_sizes_and_ways),
    };
    srand(1);
    return cmocka_run_group_tests_name("prompt way", tests, NULL, NULL);
}
