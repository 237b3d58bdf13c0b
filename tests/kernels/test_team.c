// SPDX-License-Identifier: Apache-2.0
// Checks the thread team: every member runs every job once, items are handed out once, barriers hold, writes
// are visible afterwards, and all of it with more threads than CPUs and after the threads went to sleep.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "common/base/team.h"

static tc_team *make_team(uint32_t threads, uint32_t spin_us)
{
    tc_error e;
    tc_team *team = NULL;
    tc_team_options options = {.threads = threads, .spin_us = spin_us};
    assert_int_equal(tc_team_create(&options, &team, &e), TC_OK);
    assert_int_equal(tc_team_size(team), threads);
    return team;
}

static const struct {
    uint32_t threads, spin_us;
} shapes[] = {{1, 0}, {2, 0}, {2, 200}, {3, 20}, {8, 5}, {17, 0}};

typedef struct counts {
    tc_team *team;
    uint32_t runs[TC_TEAM_THREADS_MAX]; // plain on purpose: the team must order the accesses
    uint32_t items[1000];
    uint32_t phase[TC_TEAM_THREADS_MAX];
    uint32_t torn[TC_TEAM_THREADS_MAX];
} counts;

static void count_run(void *arg, uint32_t member)
{
    ((counts *)arg)->runs[member]++;
}

static void run_reaches_every_member(void **state)
{
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        tc_team *team = make_team(shapes[s].threads, shapes[s].spin_us);
        counts c = {0};
        for (uint32_t round = 1; round <= 200; round++) {
            if (round % 100 == 0) usleep(2000); // let them park
            tc_team_run(team, count_run, &c);
            for (uint32_t m = 0; m < shapes[s].threads; m++) assert_int_equal(c.runs[m], round);
        }
        assert_int_equal(c.runs[shapes[s].threads], 0);
        tc_team_free(team);
    }
}

static void count_item(void *arg, uint32_t i, uint32_t member)
{
    counts *c = arg;
    assert_true(member < TC_TEAM_THREADS_MAX);
    c->items[i]++;
}

static void each_gives_every_item_once(void **state)
{
    static const uint32_t items[] = {0, 1, 2, 3, 64, 1000};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        tc_team *team = make_team(shapes[s].threads, shapes[s].spin_us);
        for (size_t k = 0; k < sizeof items / sizeof items[0]; k++) {
            counts c = {0};
            for (uint32_t round = 1; round <= 3; round++) tc_team_each(team, items[k], count_item, &c);
            for (uint32_t i = 0; i < 1000; i++) assert_int_equal(c.items[i], i < items[k] ? 3 : 0);
        }
        tc_team_free(team);
    }
}

typedef struct spans {
    counts c;
    uint32_t length[1000]; // of the range that begins here
} spans;

static void count_range(void *arg, uint32_t begin, uint32_t end, uint32_t member)
{
    spans *s = arg;
    s->length[begin] = end - begin;
    for (uint32_t i = begin; i < end; i++) count_item(&s->c, i, member);
}

static void ranges_give_every_item_once_and_get_shorter(void **state)
{
    static const uint32_t totals[] = {0, 1, 2, 3, 64, 1000}, least[] = {1, 2, 7};
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        tc_team *team = make_team(shapes[s].threads, shapes[s].spin_us);
        for (size_t k = 0; k < sizeof totals / sizeof totals[0] * 3; k++) {
            const uint32_t total = totals[k / 3], shortest = least[k % 3];
            spans r = {0};
            for (uint32_t round = 1; round <= 3; round++) {
                tc_team_ranges(team, total, shortest, count_range, &r);
                for (uint32_t at = 0, before = total; at < total; at += before) {
                    assert_in_range(r.length[at], 1, before);
                    if (at + r.length[at] < total) assert_true(r.length[at] >= shortest);
                    before = r.length[at];
                }
            }
            for (uint32_t i = 0; i < 1000; i++) assert_int_equal(r.c.items[i], i < total ? 3 : 0);
            if (total == 1000) assert_int_equal(r.length[0], tc_team_share(1000, shapes[s].threads));
        }
        tc_team_free(team);
    }
    assert_int_equal(tc_team_share(1000, 1), 1000);
    assert_int_equal(tc_team_share(1000, 2), 375); // three quarters of 500
    assert_int_equal(tc_team_share(100000, 100), 505);
    assert_int_equal(tc_team_share(UINT32_MAX, 1), UINT32_MAX);
}

// Between two barriers every member must see all the others in the same phase.
static void phases(void *arg, uint32_t member)
{
    counts *c = arg;
    for (uint32_t p = 1; p <= 30; p++) {
        c->phase[member] = p;
        tc_team_barrier(c->team);
        for (uint32_t m = 0; m < tc_team_size(c->team); m++)
            if (c->phase[m] != p) c->torn[member]++;
        tc_team_barrier(c->team);
    }
}

static void barrier_holds_everyone(void **state)
{
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        tc_team *team = make_team(shapes[s].threads, shapes[s].spin_us);
        counts c = {.team = team};
        tc_team_run(team, phases, &c);
        tc_team_run(team, phases, &c);
        for (uint32_t m = 0; m < shapes[s].threads; m++) assert_int_equal(c.torn[m], 0);
        tc_team_free(team);
    }
}

static void options_are_checked(void **state)
{
    tc_error e;
    uint32_t far[2] = {0, 1u << 30}, absent[2] = {0, CPU_SETSIZE - 1};
    const struct {
        tc_team_options options;
        tc_status status;
    } cases[] = {
        {{.threads = 0}, TC_ARGUMENT},
        {{.threads = TC_TEAM_THREADS_MAX}, TC_OK},
        {{.threads = TC_TEAM_THREADS_MAX + 1}, TC_ARGUMENT},
        {{.threads = 2, .cpus = far}, TC_ARGUMENT},
        {{.threads = 2, .cpus = absent}, TC_ARGUMENT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tc_team *untouched = (tc_team *)&e, *team = untouched;
        assert_int_equal(tc_team_create(&cases[i].options, &team, &e), cases[i].status);
        if (cases[i].status == TC_OK)
            tc_team_free(team);
        else
            assert_ptr_equal(team, untouched);
    }
    tc_team_free(NULL);
}

static void where_am_i(void *arg, uint32_t member)
{
    ((int *)arg)[member] = sched_getcpu();
}

static void members_stay_on_their_cpus(void **state)
{
    cpu_set_t before;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    uint32_t cpus[3], n = 0;
    for (uint32_t i = 0; i < CPU_SETSIZE && n < 3; i++)
        if (CPU_ISSET(i, &before)) cpus[n++] = i;
    tc_error e;
    tc_team *team = NULL;
    tc_team_options options = {.threads = n, .cpus = cpus};
    assert_int_equal(tc_team_create(&options, &team, &e), TC_OK);
    int seen[3];
    tc_team_run(team, where_am_i, seen);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(seen[i], cpus[i]);
    tc_team_free(team);
    sched_setaffinity(0, sizeof before, &before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_reaches_every_member),
        cmocka_unit_test(each_gives_every_item_once),
        cmocka_unit_test(barrier_holds_everyone),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(members_stay_on_their_cpus),
        cmocka_unit_test(ranges_give_every_item_once_and_get_shorter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
