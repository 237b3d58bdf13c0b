// SPDX-License-Identifier: Apache-2.0
// Shows: the worker source against a scripted hub: sharing, retries after loss, deadline and failure, late
// answers, quarantine, and that the sum is the same whatever happens. Every random schedule is printed by its
// seed when it fails.
#include "common/base/clock.h"
#include "gpu-core/experts/conduct.h"
#include "gpu-core/experts/source.h"
#include "proto/expert.h"
#include "proto/shm.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 4, TOKENS = 3, EXPERTS = 8, UNITS = 4, PAIRS = 12 };

static tc_store_info store_info = {
    .layers = 1, .experts = EXPERTS, .hidden = HIDDEN, .width = 256, .unit = 64, .units = UNITS};
const tc_store_info *tc_store_get_info(const tc_store *store)
{
    return (void)store, &store_info;
}

// ---- the scripted hub ----

typedef struct fake_worker {
    bool up, busy;
    bool lies, refuses; // it is cut off for every answer; it answers with errors only
    uint32_t id, index;
    uint64_t seq;
    tc_expert_call call;
} fake_worker;

struct tc_expert_hub {
    fake_worker workers[8];
    uint32_t count, next_id, last_up;
    tc_hub_event queue[64];
    uint32_t queued;
    int64_t sum[TOKENS * HIDDEN];
    uint32_t chance_die, chance_fail, chance_stall, calls, answered_pairs, wrong;
    bool respawn;
};

static void push(tc_expert_hub *hub, tc_hub_event event)
{
    assert_true(hub->queued < 64);
    hub->queue[hub->queued++] = event;
}

static void come_up(tc_expert_hub *hub, uint32_t index)
{
    fake_worker *w = NULL;
    for (uint32_t i = 0; i < hub->count && !w; i++)
        if (!hub->workers[i].up) w = &hub->workers[i];
    if (!w) w = &hub->workers[hub->count++];
    *w = (fake_worker){.up = true, .id = hub->next_id++, .index = index};
    hub->last_up = (uint32_t)(w - hub->workers);
    push(hub, (tc_hub_event){
                  .kind = TC_HUB_WORKER_UP, .worker = w->id, .hello = {.index = index, .pid = 100 + index}});
}

static void go_down(tc_expert_hub *hub, fake_worker *w)
{
    w->up = w->busy = false;
    push(hub, (tc_hub_event){.kind = TC_HUB_WORKER_DOWN, .worker = w->id, .reason = "gone"});
    if (hub->respawn) come_up(hub, w->index);
}

void tc_expert_hub_drop(tc_expert_hub *hub, uint32_t worker, const char *reason)
{
    (void)reason;
    for (uint32_t i = 0; i < hub->count; i++)
        if (hub->workers[i].up && hub->workers[i].id == worker) go_down(hub, &hub->workers[i]);
}

int tc_expert_hub_fd(const tc_expert_hub *hub)
{
    return (void)hub, -1;
}

tc_status tc_expert_hub_call(tc_expert_hub *hub, uint32_t worker, uint64_t seq, const tc_expert_call *call,
                             tc_error *e)
{
    for (uint32_t i = 0; i < hub->count; i++) {
        fake_worker *w = &hub->workers[i];
        if (!w->up || w->id != worker) continue;
        assert_false(w->busy); // one call in flight a worker: the carrier promises no more
        w->busy = true;
        w->seq = seq;
        w->call = *call;
        hub->calls++;
        return TC_OK;
    }
    return tc_fail(e, TC_CLOSED, "worker %u is gone", worker);
}

// ---- lending: what the segments are asked for is written down ----

static struct {
    uint32_t lent, nudged, reclaimed;
    uint64_t last;
    tc_status reclaim;
} lending;

tc_status tc_expert_hub_lend(tc_expert_hub *hub, uint32_t worker, uint32_t tokens, uint64_t step,
                             tc_shm **ret, tc_error *e)
{
    for (uint32_t i = 0; i < hub->count; i++)
        if (hub->workers[i].up && hub->workers[i].id == worker && !hub->workers[i].busy && tokens <= TOKENS) {
            *ret = (tc_shm *)(void *)&hub->workers[i];
            lending.lent++;
            return TC_OK;
        }
    return tc_fail(e, TC_UNSUPPORTED, "worker %u has no memory for it", worker);
}

tc_status tc_expert_hub_reclaim(tc_expert_hub *hub, uint32_t worker, uint64_t last, tc_error *e)
{
    lending.reclaimed++;
    lending.last = last;
    if (lending.reclaim == TC_OK) return TC_OK;
    tc_expert_hub_drop(hub, worker, "late");
    return tc_fail(e, lending.reclaim, "late");
}

void tc_shm_nudge(tc_shm *shm)
{
    assert_true(((const fake_worker *)(const void *)shm)->up); // never one that has left
    lending.nudged++;
}

void *tc_shm_memory(tc_shm *shm, size_t *ret_bytes)
{
    *ret_bytes = 4096;
    return shm;
}

const tc_shm_header *tc_shm_layout(const tc_shm *shm)
{
    static const tc_shm_header layout = {
        .tokens_max = TOKENS, .pairs_max = PAIRS, .x_at = 1, .pairs_at = 2, .sum_at = 3};
    return (void)shm, &layout;
}

// What a worker would answer: depends on (pair, unit) only, so any grouping must give the same total.
static void compute(const tc_expert_call *call, int64_t *sum)
{
    memset(sum, 0, sizeof(int64_t) * TOKENS * HIDDEN);
    for (uint32_t p = 0; p < call->pair_count; p++)
        for (uint32_t u = call->unit_begin; u < call->unit_end; u++)
            for (uint32_t h = 0; h < HIDDEN; h++)
                sum[call->pairs[p].token * HIDDEN + h] +=
                    (int64_t)(call->pairs[p].expert + 1) * 1000 + u * 10 + h;
}

tc_status tc_expert_hub_next(tc_expert_hub *hub, uint64_t timeout_us, tc_hub_event *ret)
{
    if (hub->queued) {
        *ret = hub->queue[0];
        memmove(hub->queue, hub->queue + 1, --hub->queued * sizeof *hub->queue);
        return TC_OK;
    }
    uint32_t start = (uint32_t)rand();
    for (uint32_t i = 0; i < hub->count; i++) {
        fake_worker *w = &hub->workers[(start + i) % hub->count];
        if (!w->up || !w->busy) continue;
        uint32_t dice = (uint32_t)rand() % 100;
        if (w->lies) { // and comes back at once, the same process
            uint32_t index = w->index;
            hub->wrong++;
            w->up = w->busy = false;
            *ret = (tc_hub_event){
                .kind = TC_HUB_WORKER_DOWN, .worker = w->id, .breach = true, .reason = "a lie"};
            come_up(hub, index);
            hub->workers[hub->last_up].lies = true;
            return TC_OK;
        }
        if (w->refuses) {
            hub->wrong++;
            w->busy = false;
            *ret = (tc_hub_event){
                .kind = TC_HUB_FAILURE, .worker = w->id, .seq = w->seq, .reason = "not finite"};
            return TC_OK;
        }
        if (dice < hub->chance_stall) continue;
        if (dice < hub->chance_stall + hub->chance_die) {
            go_down(hub, w);
            return tc_expert_hub_next(hub, timeout_us, ret);
        }
        w->busy = false;
        *ret = (tc_hub_event){
            .kind = TC_HUB_RESULT, .worker = w->id, .seq = w->seq, .tokens = TOKENS, .hidden = HIDDEN};
        if (dice < hub->chance_stall + hub->chance_die + hub->chance_fail) {
            ret->kind = TC_HUB_FAILURE;
            snprintf(ret->reason, sizeof ret->reason, "cannot");
            return TC_OK;
        }
        compute(&w->call, hub->sum);
        hub->answered_pairs += w->call.pair_count;
        ret->sum = hub->sum;
        return TC_OK;
    }
    uint64_t until = tc_now_us() + (timeout_us < 2000 ? timeout_us : 2000);
    while (tc_now_us() < until) {
    }
    return TC_TIMEOUT;
}

// ---- cases ----

static tc_expert_source *source_of(tc_expert_hub *hub, uint32_t expected, uint32_t shard,
                                   uint64_t deadline_us)
{
    tc_expert_source *source = NULL;
    tc_error e;
    const tc_workers_options options = {
        .expected = expected, .shard = shard, .call_deadline_us = deadline_us, .no_worker_us = 20000};
    assert_int_equal(tc_source_workers_create(hub, NULL, &options, &source, &e), TC_OK);
    return source;
}

static uint32_t make_pairs(tc_expert_pair pairs[PAIRS])
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < EXPERTS; e++)
        for (uint32_t t = 0; t < TOKENS; t++)
            if (n < PAIRS && rand() % 2) pairs[n++] = (tc_expert_pair){e, t, 1};
    return n;
}

static tc_status run(tc_expert_source *source, int64_t *sum, int64_t *expected, tc_error *e)
{
    tc_expert_pair pairs[PAIRS];
    float x[TOKENS * HIDDEN] = {0};
    tc_expert_call call = {.tokens = TOKENS, .hidden = HIDDEN, .x = x, .pairs = pairs, .unit_end = UNITS};
    call.pair_count = make_pairs(pairs);
    compute(&call, expected);
    TC_TRY(source->ops->post(source, &call, e));
    return source->ops->join(source, sum, e);
}

static void random_schedules(uint32_t die, uint32_t failing, uint32_t stall, uint32_t seeds)
{
    for (uint32_t seed = 0; seed < seeds; seed++) {
        srand(seed);
        tc_expert_hub hub = {
            .chance_die = die, .chance_fail = failing, .chance_stall = stall, .respawn = true};
        uint32_t workers = 1u << (rand() % 3);
        tc_expert_source *source = source_of(&hub, workers, (uint32_t)rand() % 2, 500);
        for (uint32_t i = 0; i < workers; i++) come_up(&hub, i);
        for (int call = 0; call < 5; call++) {
            int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
            tc_error e = {0};
            tc_status status = run(source, sum, expected, &e);
            if (status != TC_OK && failing)
                continue; // two failures of one share end a call: allowed, with a reason
            if (status != TC_OK) fail_msg("seed %u: %s", seed, e.text);
            if (memcmp(sum, expected, sizeof sum)) fail_msg("seed %u: wrong sum", seed);
        }
        source->ops->free(source);
    }
}

static void test_quiet(void **state)
{
    (void)state;
    random_schedules(0, 0, 0, 300);
}
static void test_deaths(void **state)
{
    (void)state;
    random_schedules(30, 0, 0, 300);
}
static void test_failures(void **state)
{
    (void)state;
    random_schedules(5, 20, 0, 300);
}
static void test_stalls(void **state)
{
    (void)state;
    random_schedules(10, 0, 30, 60);
}

static void test_one_worker_does_all_shares(void **state)
{
    (void)state;
    srand(3);
    tc_expert_hub hub = {0};
    tc_expert_source *source = source_of(&hub, 4, TC_SHARD_SLICE, 100000);
    come_up(&hub, 2);
    int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
    tc_error e;
    assert_int_equal(run(source, sum, expected, &e), TC_OK);
    assert_memory_equal(sum, expected, sizeof sum);
    assert_int_equal(hub.calls, 4);
    source->ops->free(source);
}

static void test_owner_is_preferred(void **state)
{
    (void)state;
    srand(4);
    tc_expert_hub hub = {0};
    tc_expert_source *source = source_of(&hub, 2, TC_SHARD_PARTITION, 100000);
    come_up(&hub, 1);
    come_up(&hub, 0);
    for (int i = 0; i < 20; i++) {
        int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
        tc_error e;
        assert_int_equal(run(source, sum, expected, &e), TC_OK);
        for (uint32_t w = 0; w < 2; w++)
            for (uint32_t p = 0; p < hub.workers[w].call.pair_count; p++) (void)p;
    }
    tc_source_stats stats;
    source->ops->stats(source, &stats);
    assert_int_equal(stats.retries, 0);
    assert_int_equal(stats.workers_up, 2);
    source->ops->free(source);
}

static void test_nobody_comes(void **state)
{
    (void)state;
    srand(5);
    tc_expert_hub hub = {0};
    tc_expert_source *source = source_of(&hub, 2, TC_SHARD_PARTITION, 100000);
    int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
    tc_error e;
    assert_int_equal(run(source, sum, expected, &e), TC_TIMEOUT);
    assert_non_null(strstr(e.text, "no expert worker"));
    tc_source_stats stats;
    source->ops->stats(source, &stats);
    assert_true(stats.reason[0] != 0);
    come_up(&hub, 0); // and the next call works again
    assert_int_equal(run(source, sum, expected, &e), TC_OK);
    assert_memory_equal(sum, expected, sizeof sum);
    source->ops->free(source);
}

static const tc_worker_stats *stats_of(tc_expert_source *source, uint32_t index, tc_source_stats *stats)
{
    source->ops->stats(source, stats);
    return &stats->workers[index];
}

// One of two breaks its word each time: it is asked once, then left alone while the other one does its share.
static void one_bad(bool lies)
{
    srand(7);
    tc_expert_hub hub = {.next_id = 1};
    tc_expert_source *source = source_of(&hub, 2, TC_SHARD_SLICE, 100000);
    come_up(&hub, 0);
    hub.workers[0].lies = lies;
    hub.workers[0].refuses = !lies;
    come_up(&hub, 1);
    int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
    tc_error e;
    tc_source_stats stats;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(run(source, sum, expected, &e), TC_OK);
        assert_memory_equal(sum, expected, sizeof sum);
    }
    assert_in_range(hub.wrong, 1, 2); // 20 calls take no half second
    assert_in_range(stats_of(source, 0, &stats)->quarantines, 1, 2);
    assert_int_equal(stats.workers[1].quarantines, 0);
    assert_int_equal(stats.reason[0], 0);
    assert_non_null(strstr(stats.degraded, lies ? "quarantine: a lie" : "not finite"));
    source->ops->free(source);
}

static void test_liar_is_left_alone(void **state)
{
    (void)state;
    one_bad(true);
}
static void test_failing_worker_is_left_alone(void **state)
{
    (void)state;
    one_bad(false);
}

// Nobody but liars: still asked, a bounded number of times, and then the call ends with the reason.
static void test_only_liars(void **state)
{
    (void)state;
    srand(8);
    tc_expert_hub hub = {.next_id = 1};
    tc_expert_source *source = source_of(&hub, 1, TC_SHARD_SLICE, 100000);
    come_up(&hub, 0);
    hub.workers[0].lies = true;
    int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
    tc_error e;
    assert_int_equal(run(source, sum, expected, &e), TC_PEER);
    assert_non_null(strstr(e.text, "no worker keeps its word"));
    assert_non_null(strstr(e.text, "a lie"));
    assert_int_equal(hub.wrong, 8);
    hub.workers[hub.last_up].lies = false; // mended: the next call is computed by it, quarantine or not
    assert_int_equal(run(source, sum, expected, &e), TC_OK);
    assert_memory_equal(sum, expected, sizeof sum);
    source->ops->free(source);
}

// Two workers that fail at the same share: then it is the call that cannot be computed.
static void test_what_nobody_can_compute_is_an_error(void **state)
{
    (void)state;
    srand(9);
    tc_expert_hub hub = {.next_id = 1};
    tc_expert_source *source = source_of(&hub, 2, TC_SHARD_SLICE, 100000);
    tc_source_stats stats;
    come_up(&hub, 0);
    come_up(&hub, 1);
    hub.workers[0].refuses = hub.workers[1].refuses = true;
    int64_t sum[TOKENS * HIDDEN], expected[TOKENS * HIDDEN];
    tc_error e;
    assert_int_equal(run(source, sum, expected, &e), TC_INTERNAL);
    assert_non_null(strstr(e.text, "not finite"));
    assert_int_equal(stats_of(source, 0, &stats)->quarantines, 0); // neither did better than the other
    assert_int_equal(stats.workers[1].quarantines, 0);
    source->ops->free(source);
}

// Durations double up to a bound, are forgotten after a while, and the table keeps those of late.
static void test_quarantine_grows_and_is_forgotten(void **state)
{
    (void)state;
    static tc_conducts all;
    uint64_t now = 1000, length = TC_QUARANTINE_MIN_US;
    assert_false(tc_conduct_quarantined(&all, 0, 7, now));
    for (int i = 0; i < 12; i++) {
        assert_int_equal(tc_conduct_strike(&all, 0, 7, now, "why"), length);
        assert_true(tc_conduct_quarantined(&all, 0, 7, now + length - 1));
        assert_false(tc_conduct_quarantined(&all, 0, 7, now + length));
        assert_false(tc_conduct_quarantined(&all, 0, 8, now) || tc_conduct_quarantined(&all, 1, 7, now));
        now += length;
        length = length * 2 < TC_QUARANTINE_MAX_US ? length * 2 : TC_QUARANTINE_MAX_US;
    }
    now += TC_CONDUCT_MEMORY_US + 1;
    assert_int_equal(tc_conduct_strike(&all, 0, 7, now, "why"), TC_QUARANTINE_MIN_US);
    for (uint64_t pid = 100; pid < 100 + TC_CONDUCTS_MAX; pid++) tc_conduct_strike(&all, 1, pid, ++now, "x");
    assert_null(tc_conduct_find(&all, 0, 7)); // the oldest made room
    assert_non_null(tc_conduct_find(&all, 1, 100));
}

// All shares or nothing; numbers that never come again; a worker that leaves meanwhile is nudged no more; one
// that was late is cut off.
static void test_lending(void **state)
{
    (void)state;
    srand(6);
    tc_expert_hub hub = {0};
    tc_expert_source *source = source_of(&hub, 2, TC_SHARD_SLICE, 100000);
    tc_lent_mailbox box[TC_LENT_MAX];
    uint64_t first = 0, second = 0;
    memset(&lending, 0, sizeof lending);
    come_up(&hub, 0);
    source->ops->poll(source);
    assert_int_equal(source->ops->lend(source, TOKENS, box, &first), 0); // share 1 has nobody
    come_up(&hub, 1);
    source->ops->poll(source);
    assert_int_equal(source->ops->lend(source, TOKENS + 1, box, &first), 0); // too many tokens
    assert_int_equal(source->ops->lend(source, TOKENS, box, &first), 2);
    assert_true(box[0].share.unit_begin == 0 && box[0].share.unit_end == 2 && box[1].share.unit_end == UNITS);
    assert_true(box[0].id != box[1].id && box[0].x_at == 1 && box[0].sum_at == 3);
    assert_true(source->ops->nudge(source));
    assert_int_equal(lending.nudged, 2);
    source->ops->settle(source, true);
    assert_int_equal(lending.reclaimed, 2);
    assert_int_equal(source->ops->lend(source, TOKENS, box, &second), 2);
    assert_true(second > lending.last && lending.last >= first + TC_LAYERS_MAX - 1);
    go_down(&hub, &hub.workers[0]);
    assert_false(source->ops->nudge(source)); // its memory may be gone
    assert_int_equal(lending.nudged, 3);
    lending.reclaim = TC_TIMEOUT;
    source->ops->settle(source, false);
    source->ops->poll(source);
    tc_source_stats stats;
    source->ops->stats(source, &stats);
    assert_int_equal(stats.workers_up, 0);
    assert_int_equal(stats.retries, 1);
    source->ops->free(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quiet),
        cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_one_worker_does_all_shares),
        cmocka_unit_test(test_owner_is_preferred),
        cmocka_unit_test(test_nobody_comes),
        cmocka_unit_test(test_liar_is_left_alone),
        cmocka_unit_test(test_failing_worker_is_left_alone),
        cmocka_unit_test(test_only_liars),
        cmocka_unit_test(test_what_nobody_can_compute_is_an_error),
        cmocka_unit_test(test_quarantine_grows_and_is_forgotten),
        cmocka_unit_test(test_lending),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
