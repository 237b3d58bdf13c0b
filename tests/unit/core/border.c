// SPDX-License-Identifier: Apache-2.0
// Shows: measuring the border between the two ways of a GPU's batch: against a source and a card whose rates
// are known, within its budget, and what fails is told.
#include "gpu-core/experts/border.h"

#include "gpu-core/dev/prompt_border.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

// ---- a store, a source and a card ----

// Time passes in calls only.
static uint64_t now_us = 1000;
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    (void)clock;
    *ret = (struct timespec){(time_t)(now_us / 1000000), (long)(now_us % 1000000 * 1000)};
    return 0;
}

static tc_store_info info = {.layers = 3, .experts = 64, .units = 2, .hidden = 64, .top_k = 4};

const tc_store_info *tc_store_get_info(const tc_store *store)
{
    (void)store;
    return &info;
}

bool tc_store_layer_has_experts(const tc_store *store, uint32_t layer)
{
    (void)store;
    return layer > 0;
}

static struct {
    double expert_us, pair_us, copy_us, product_us;
    uint32_t calls, tokens, fails_at; // fails_at: the call that fails, from 1; 0: none
    bool no_card;
    double last_us;
} machine;

static tc_status post(tc_expert_source *source, const tc_expert_call *call, tc_error *e)
{
    uint32_t experts = 0;
    (void)source;
    assert_true(call->layer == 1 && call->unit_end == info.units && call->precision == TC_FAST);
    assert_int_equal(call->pair_count, call->tokens * info.top_k);
    for (uint32_t i = 0; i < call->pair_count; i++) {
        const tc_expert_pair *p = &call->pairs[i];
        assert_true(p->expert < info.experts && p->token < call->tokens);
        assert_true(!i || p[-1].expert < p->expert || (p[-1].expert == p->expert && p[-1].token < p->token));
        experts += !i || p[-1].expert != p->expert;
    }
    machine.calls++;
    machine.tokens = call->tokens;
    machine.last_us = 30 + experts * machine.expert_us + call->pair_count * machine.pair_us;
    if (machine.calls == machine.fails_at) return tc_fail(e, TC_CLOSED, "it has left");
    return TC_OK;
}

static tc_status join(tc_expert_source *source, int64_t *sum, tc_error *e)
{
    (void)source;
    (void)e;
    now_us += (uint64_t)machine.last_us;
    sum[machine.tokens * info.hidden - 1] = 1;
    return TC_OK;
}

static bool measure(tc_dev *dev, uint32_t tokens, double *ret_copy_us, double *ret_product_us)
{
    (void)dev;
    assert_int_equal(tokens, TC_PROMPT_BORDER);
    *ret_copy_us = machine.copy_us;
    *ret_product_us = machine.product_us;
    return !machine.no_card;
}

static tc_status measured(tc_border_measured *ret, tc_error *e)
{
    static const tc_source_ops source_ops = {.post = post, .join = join};
    static const tc_cuda_hot_ops hot = {.measure = measure};
    tc_expert_source source = {.ops = &source_ops};
    const tc_border_options o = {.ops = &hot, .source = &source, .slots = 32, .budget_us = 300000};
    machine.calls = 0;
    return tc_border_measure(&o, ret, e);
}

// ---- tests ----

static void test_measures(void **state)
{
    tc_border_measured m = {0};
    tc_error e;
    (void)state;
    memset(&machine, 0, sizeof machine);
    machine.copy_us = 30;
    machine.product_us = 1;
    machine.expert_us = 20;
    machine.pair_us = 10;
    assert_int_equal(measured(&m, &e), TC_OK);
    assert_int_equal(machine.calls, 3);
    assert_int_equal(machine.tokens, TC_PROMPT_BORDER);
    assert_true(m.copy_us == 30 && m.product_us == 1);
    assert_true(fabs(m.pair_us - 10) < 0.1 && fabs(m.expert_us - 20) < 0.5);
    assert_true(m.tokens >= TC_PROMPT_BORDER_LEAST && m.tokens <= TC_PROMPT_BORDER_MOST);
    assert_true(m.us > 8000 && m.us < 300000);
}

// A link that copies an expert in no time makes streaming the better way at once, a slow one never.
static void test_follows_the_link(void **state)
{
    tc_border_measured fast = {0}, slow = {0};
    tc_error e;
    (void)state;
    memset(&machine, 0, sizeof machine);
    machine.expert_us = 20;
    machine.pair_us = 10;
    machine.copy_us = 0.5;
    assert_int_equal(measured(&fast, &e), TC_OK);
    machine.copy_us = 5000;
    assert_int_equal(measured(&slow, &e), TC_OK);
    assert_int_equal(fast.tokens, TC_PROMPT_BORDER_LEAST);
    assert_int_equal(slow.tokens, TC_PROMPT_BORDER_MOST);
}

// Fewer tokens where the budget has no time for all, none where not even for a few.
static void test_budget(void **state)
{
    tc_border_measured m = {0};
    tc_error e;
    (void)state;
    memset(&machine, 0, sizeof machine);
    machine.copy_us = 30;
    machine.pair_us = 400; // 16 tokens 26 ms, 192 tokens 307 ms
    assert_int_equal(measured(&m, &e), TC_OK);
    assert_true(machine.tokens < TC_PROMPT_BORDER && machine.tokens >= 48);
    machine.pair_us = 2000; // 16 tokens 128 ms
    assert_int_equal(measured(&m, &e), TC_TIMEOUT);
    assert_int_equal(machine.calls, 2);
}

// ---- at rest ----

static struct {
    uint32_t up, border, lines, warnings;
    bool ready;
    char text[500];
} rest;

static bool ready(tc_dev *dev)
{
    (void)dev;
    return rest.ready;
}

static void border(tc_dev *dev, uint32_t tokens)
{
    (void)dev;
    rest.border = tokens;
}

static void stats(tc_expert_source *source, tc_source_stats *ret)
{
    (void)source;
    *ret = (tc_source_stats){.workers_up = rest.up, .workers_expected = 2};
}

static void say(void *arg, bool warning, const char *text)
{
    (void)arg;
    rest.lines++;
    rest.warnings += warning;
    snprintf(rest.text, sizeof rest.text, "%s", text);
}

static void test_at_rest(void **state)
{
    static const tc_source_ops source_ops = {.post = post, .join = join, .stats = stats};
    static const tc_cuda_hot_ops hot = {.measure = measure, .ready = ready, .border = border};
    tc_expert_source source = {.ops = &source_ops};
    const tc_border_options o = {.ops = &hot, .source = &source, .slots = 32};
    (void)state;
    memset(&machine, 0, sizeof machine);
    machine.copy_us = 30;
    machine.expert_us = machine.pair_us = 5;
    assert_false(tc_border_at_rest(&o, say, NULL)); // its memory is not known to the card
    rest.ready = true;
    rest.up = 1;
    assert_false(tc_border_at_rest(&o, say, NULL)); // a worker is away
    rest.up = 2;
    assert_int_equal(machine.calls + rest.lines, 0);
    assert_true(tc_border_at_rest(&o, say, NULL));
    assert_int_equal(rest.border, TC_PROMPT_BORDER_MOST);
    assert_true(rest.lines == 1 && rest.warnings == 0 && strstr(rest.text, "up to 256 tokens"));
    machine.fails_at = machine.calls + 1;
    rest.border = 0;
    assert_true(tc_border_at_rest(&o, say, NULL)); // and it is not tried again
    assert_true(rest.lines == 2 && rest.warnings == 1 && rest.border == 0 && strstr(rest.text, "192"));
}

static void test_failures(void **state)
{
    tc_border_measured m = {0};
    tc_error e;
    (void)state;
    memset(&machine, 0, sizeof machine);
    machine.copy_us = 30;
    machine.no_card = true;
    assert_int_equal(measured(&m, &e), TC_NOT_FOUND);
    assert_int_equal(machine.calls, 0);
    machine.no_card = false;
    for (machine.fails_at = 1; machine.fails_at <= 3; machine.fails_at++)
        assert_int_equal(measured(&m, &e), TC_CLOSED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_measures),
                                       cmocka_unit_test(test_follows_the_link), cmocka_unit_test(test_budget),
                                       cmocka_unit_test(test_failures), cmocka_unit_test(test_at_rest)};
    return cmocka_run_group_tests_name("border", tests, NULL, NULL);
}
