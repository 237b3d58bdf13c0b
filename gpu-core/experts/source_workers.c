// SPDX-License-Identifier: Apache-2.0
// Owns: the expert source made of worker processes: which worker computes which share of a call, deadlines,
// retries.
//
//   share: the experts (partition) or the width (slice) of one worker index, or a part of that where an index
//   has several workers and the cut pays (fleet.h). Any worker can compute any share, so a share prefers
//   workers of its index, of those the one that is expected to answer first, and falls back to any other.
//
//            assign                      result of either
//   WAITING ---------> IN_FLIGHT(worker) ----------------> DONE
//      ^                   |      |  ^
//      +-------------------+      +--+  hedge: the answer is late and somebody else is idle: a second flight
//        its last flight ends: worker lost (on_down), deadline (expire), failure (on_failure, once)
//
// A worker whose answer came too late to matter stays busy with it, is asked nothing meanwhile, and is cut
// off when it misses its deadline.
//
// A dead worker costs a retry, never a request: a call fails only when no worker came for no_worker_us, when
// two workers answered the same share with an error, or when BREACHES_MAX attempts at it ended in a breach.
// Who breaks the protocol, misses a deadline or fails at what another computes is left alone for a while
// (conduct.h), as long as there is anybody else.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/trace.h"
#include "gpu-core/experts/conduct.h"
#include "gpu-core/experts/fleet.h"
#include "gpu-core/experts/source.h"
#include "proto/expert.h"
#include "proto/shm.h"

#include <stdio.h>
#include <string.h>

enum {
    FAILURES_MAX = 2,
    BREACHES_MAX = 8,
    FLIGHTS_MAX = 2,          // of a share at once
    CUT_AGAIN_CALLS = 16,     // how long a cut is kept for calls of one size
    BEHIND_TOLD_US = 1000000, // health tells of a worker that is so late
};
#define HEDGE_PART 0.05 // of calls that may be given out twice
#define HEDGE_SAVED 8.0 // at once, at most

typedef enum share_state { SHARE_DONE, SHARE_WAITING, SHARE_IN_FLIGHT } share_state;

typedef struct share {
    share_state state;
    uint32_t index, failures, breaches;
    uint32_t failed_id, failed_index; // the last worker that answered it with an error; id 0: none
    uint64_t failed_pid;
    uint64_t seq[FLIGHTS_MAX]; // of its flights
    uint32_t flights;
    tc_expert_call call;
    tc_call_size size;
    char reason[128]; // of the last failure
} share;

typedef struct worker {
    bool up, late; // late: it was cut off for its deadline
    uint32_t id, index;
    uint64_t pid, answered;     // pid: told apart by host
    uint64_t busy_seq, sent_us; // busy_seq 0: idle
    tc_pace pace;
} worker;

typedef struct source_workers {
    tc_expert_source source;
    tc_expert_hub *hub;
    const tc_store_info *info;
    tc_workers_options options;
    worker workers[TC_WORKERS_MAX];
    share shares[TC_WORKERS_MAX];
    uint32_t share_count, parts; // of this call: expected x parts
    uint32_t cut_age, cut_size;  // calls since the cut was chosen, and for which size; age 0: choose again
    uint32_t index_max;          // of a worker that was ever here
    double hedge_credit;
    uint64_t next_seq, compute_us_max;
    tc_source_stats stats;
    tc_worker_stats of_worker[TC_WORKERS_MAX]; // by index
    tc_conducts conducts;
    char lost[160];                         // how the last one was lost
    uint32_t lent[TC_LENT_MAX], lent_count; // workers whose segments a device has
    tc_shm *lent_shm[TC_LENT_MAX];
    uint64_t lent_last; // the highest number it may use
} source_workers;

static void say(source_workers *s, bool warning, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void say(source_workers *s, bool warning, const char *format, ...)
{
    if (!s->options.log) return;
    char text[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    s->options.log(s->options.arg, warning, text);
}

static worker *worker_by_id(source_workers *s, uint32_t id)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++)
        if (s->workers[i].up && s->workers[i].id == id) return &s->workers[i];
    return NULL;
}

// By its index, which the hello may set to anything.
static tc_worker_stats *stats_of(source_workers *s, const worker *w)
{
    return &s->of_worker[w->index < TC_WORKERS_MAX ? w->index : TC_WORKERS_MAX - 1];
}

// A process among those of all hosts: its pid, and a hash of the host it connects from (not of the port).
static uint64_t identity_of(int64_t pid, const char *address)
{
    const char *end = strrchr(address, ':');
    uint32_t hash = *address ? 2166136261u : 0;
    for (const char *c = address; end && c < end; c++) hash = (hash ^ (uint8_t)*c) * 16777619u;
    return (uint64_t)hash << 32 | (uint32_t)pid;
}

static void on_up(source_workers *s, const tc_hub_event *event)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        worker *w = &s->workers[i];
        if (w->up) continue;
        *w = (worker){.up = true,
                      .id = event->worker,
                      .index = event->hello.index,
                      .pid = identity_of(event->hello.pid, event->address)};
        if (w->index > s->index_max) s->index_max = w->index;
        s->cut_age = 0;
        s->stats.workers_up++;
        stats_of(s, w)->up++;
        stats_of(s, w)->starts++;
        say(s, false, "worker %u is up: share %u of %u, %u threads, pid %lld%s%s", event->worker,
            event->hello.index, event->hello.of, event->hello.threads, (long long)event->hello.pid,
            *event->address ? ", at " : "", event->address);
        if (*event->reason)
            say(s, true, "worker %u: no shared memory, calls go by message: %s", event->worker,
                event->reason);
        return;
    }
    tc_expert_hub_drop(s->hub, event->worker, "too many workers");
}

static void on_carrier(source_workers *s, const tc_hub_event *event)
{
    if (event->carrier == TC_CARRIER_SHM)
        say(s, false, "worker %u: calls go by shared memory", event->worker);
    else
        say(s, true, "worker %u has no shared memory with us, calls go by message: %s", event->worker,
            event->reason);
}

static void retry(source_workers *s, share *lost)
{
    lost->state = SHARE_WAITING;
    s->stats.retries++;
}

static void strike(source_workers *s, uint32_t index, uint64_t pid, const char *reason)
{
    uint64_t us = tc_conduct_strike(&s->conducts, index, pid, tc_now_us(), reason);
    s->of_worker[index < TC_WORKERS_MAX ? index : TC_WORKERS_MAX - 1].quarantines++;
    say(s, true, "the worker of share %u (pid %llu) is left alone for %.1f s: %s", index,
        (unsigned long long)(uint32_t)pid, (double)us / 1e6, reason);
}

static bool quarantined(const source_workers *s, const worker *w)
{
    return tc_conduct_quarantined(&s->conducts, w->index, w->pid, tc_now_us());
}

static share *share_by_seq(source_workers *s, uint64_t seq)
{
    for (uint32_t i = 0; i < s->share_count; i++)
        for (uint32_t k = 0; s->shares[i].state == SHARE_IN_FLIGHT && k < s->shares[i].flights; k++)
            if (s->shares[i].seq[k] == seq) return &s->shares[i];
    return NULL;
}

// One flight of a share less. True: it was the last one.
static bool end_flight(share *of, uint64_t seq)
{
    for (uint32_t k = 0; k < of->flights; k++)
        if (of->seq[k] == seq) of->seq[k] = of->seq[--of->flights];
    return of->flights == 0;
}

static tc_status on_down(source_workers *s, const tc_hub_event *event, tc_error *e)
{
    tc_status status = TC_OK;
    worker *w = worker_by_id(s, event->worker);
    if (!w) return TC_OK;
    bool wrong = event->breach || w->late;
    share *lost = w->busy_seq ? share_by_seq(s, w->busy_seq) : NULL;
    if (lost) {
        stats_of(s, w)->retries++;
        if (end_flight(lost, w->busy_seq)) retry(s, lost);
        if (wrong && ++lost->breaches >= BREACHES_MAX)
            status = tc_fail(e, TC_PEER, "experts of layer %u: no worker keeps its word; the last one: %s",
                             lost->call.layer, event->reason);
    }
    stats_of(s, w)->up--;
    w->up = false;
    s->cut_age = 0;
    s->stats.workers_up--;
    s->stats.workers_lost++;
    snprintf(s->lost, sizeof s->lost, "worker of share %u: %.120s", w->index, event->reason);
    say(s, true, "worker %u (share %u) is lost: %s", event->worker, w->index, event->reason);
    if (wrong) strike(s, w->index, w->pid, event->reason);
    return status;
}

static void idle(source_workers *s, const tc_hub_event *event)
{
    worker *w = worker_by_id(s, event->worker);
    if (w && w->busy_seq == event->seq) w->busy_seq = 0;
}

static tc_status on_failure(source_workers *s, const tc_hub_event *event, tc_error *e)
{
    share *failed = share_by_seq(s, event->seq);
    idle(s, event);
    if (!failed) return TC_OK;
    const worker *w = worker_by_id(s, event->worker);
    if (w) stats_of(s, w)->failures++;
    say(s, true, "worker %u could not compute layer %u: %s", event->worker, failed->call.layer,
        event->reason);
    bool last = end_flight(failed, event->seq);
    if (++failed->failures >= FAILURES_MAX)
        return tc_fail(e, TC_INTERNAL, "experts of layer %u: %s", failed->call.layer, event->reason);
    if (w) {
        stats_of(s, w)->retries++;
        failed->failed_id = w->id;
        failed->failed_index = w->index;
        failed->failed_pid = w->pid;
        snprintf(failed->reason, sizeof failed->reason, "%.100s", event->reason);
    }
    if (last) retry(s, failed);
    return TC_OK;
}

// Bytes of packed experts that a call reads: each expert once, the share of its width.
static uint64_t expert_bytes(const source_workers *s, const tc_expert_call *call)
{
    uint64_t experts = 0;
    for (uint32_t i = 0; i < call->pair_count; i++) // sorted by expert
        experts += i == 0 || call->pairs[i].expert != call->pairs[i - 1].expert;
    return s->info->units
               ? experts * s->info->expert_bytes * (call->unit_end - call->unit_begin) / s->info->units
               : 0;
}

static void note_result(source_workers *s, const tc_hub_event *event, const share *done)
{
    worker *w = worker_by_id(s, event->worker);
    if (!w) return;
    uint64_t now_us = tc_now_us(), latency_us = now_us - w->sent_us;
    const tc_expert_call *call = &done->call;
    w->answered++;
    tc_pace_note(&w->pace, &done->size, latency_us, event->compute_us, now_us);
    if (s->hedge_credit < HEDGE_SAVED) s->hedge_credit += HEDGE_PART;
    if (done->failed_id && done->failed_id != w->id) { // so it could be computed
        char reason[160];
        snprintf(reason, sizeof reason, "failed at what another worker computed: %.100s", done->reason);
        strike(s, done->failed_index, done->failed_pid, reason);
    }
    if (!TC_COUNTS) return;
    tc_worker_stats *stats = stats_of(s, w);
    uint64_t bytes = (uint64_t)call->tokens * call->hidden * (sizeof(float) + sizeof(int64_t)) +
                     (uint64_t)call->pair_count * sizeof *call->pairs;
    stats->calls++;
    *(event->carrier == TC_CARRIER_SHM ? &stats->shm_bytes : &stats->nng_bytes) += bytes;
    stats->expert_bytes += expert_bytes(s, call);
    stats->compute_us += event->compute_us;
    if (latency_us > event->compute_us) stats->wait_us += latency_us - event->compute_us;
    tc_histogram_add(&stats->latency, latency_us);
    if (!tc_trace_on) return;
    tc_trace_lane(10 + w->index);
    tc_trace_span("call", w->sent_us, now_us,
                  "\"step\":%llu,\"layer\":%u,\"worker\":%u,\"seq\":%llu,\"compute_us\":%llu",
                  (unsigned long long)call->step, call->layer, w->index, (unsigned long long)event->seq,
                  (unsigned long long)event->compute_us);
    tc_trace_arrow(true, event->seq, w->sent_us);
    tc_trace_lane(1);
}

// An answer that came too late to be used still tells how long it took.
static void note_late(source_workers *s, const tc_hub_event *event)
{
    worker *w = worker_by_id(s, event->worker);
    if (!w || w->busy_seq != event->seq) return;
    uint64_t now_us = tc_now_us();
    const tc_call_size none = {0};
    tc_pace_note(&w->pace, &none, now_us - w->sent_us, event->compute_us, now_us);
}

// sum NULL: outside a join, results can only be late ones.
static tc_status handle(source_workers *s, const tc_hub_event *event, int64_t *sum, tc_error *e)
{
    share *done;
    switch (event->kind) {
    case TC_HUB_WORKER_UP:
        on_up(s, event);
        return TC_OK;
    case TC_HUB_WORKER_DOWN:
        return on_down(s, event, e);
    case TC_HUB_CARRIER:
        on_carrier(s, event);
        return TC_OK;
    case TC_HUB_REJECTED:
        say(s, true, "a worker was turned away: %s", event->reason);
        return TC_OK;
    case TC_HUB_FAILURE:
        return on_failure(s, event, e);
    case TC_HUB_RESULT:
        done = share_by_seq(s, event->seq);
        if (!done) note_late(s, event);
        idle(s, event);
        if (!done || !sum) return TC_OK;
        for (size_t i = 0, n = (size_t)event->tokens * event->hidden; i < n; i++)
            sum[i] = tc_fixed_add(sum[i], event->sum[i]);
        if (event->compute_us > s->compute_us_max) s->compute_us_max = event->compute_us;
        note_result(s, event, done);
        done->state = SHARE_DONE;
        return TC_OK;
    }
    return TC_OK;
}

// Whom a share goes to: the worker of its index, else any. A share that went wrong once goes to those that
// have answered before, and who failed at it, or is in quarantine, is asked when there is nobody else.
typedef enum rank { NOBODY, FAILED_AT_IT, QUARANTINED, STRANGER, ANYBODY, OWNER } rank;

static rank rank_of(const source_workers *s, const share *wanted, const worker *w)
{
    if (!w->up || w->late) return NOBODY;
    if (w->id == wanted->failed_id) return FAILED_AT_IT;
    if (quarantined(s, w)) return QUARANTINED;
    if (wanted->failures + wanted->breaches && !w->answered) return STRANGER;
    return w->index % s->options.expected == wanted->index / s->parts ? OWNER : ANYBODY;
}

// The best of those that are idle; of equals the one that is expected to answer first. *ret_busy: the best
// rank of those that compute something of this call.
static worker *choose_idle(source_workers *s, const share *wanted, uint64_t now, rank *ret_idle,
                           rank *ret_busy)
{
    worker *best = NULL;
    double best_us = 0;
    *ret_idle = *ret_busy = NOBODY;
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        worker *w = &s->workers[i];
        rank r = rank_of(s, wanted, w);
        if (r == NOBODY) continue;
        if (w->busy_seq) {
            if (r > *ret_busy && share_by_seq(s, w->busy_seq)) *ret_busy = r;
            continue;
        }
        double us = tc_pace_expect_us(&w->pace, &wanted->size, now);
        if (r < *ret_idle || (r == *ret_idle && us >= best_us)) continue;
        *ret_idle = r;
        best_us = us;
        best = w;
    }
    return best;
}

static worker *choose(source_workers *s, const share *wanted, uint64_t now)
{
    rank idle, busy;
    worker *best = choose_idle(s, wanted, now, &idle, &busy);
    bool waits = busy == OWNER ? !(wanted->failures + wanted->breaches) : idle < STRANGER && busy >= STRANGER;
    return idle == OWNER || !waits ? best : NULL;
}

static void send(source_workers *s, share *to_send, worker *w)
{
    tc_error error;
    uint64_t seq = ++s->next_seq;
    w->sent_us = tc_now_us(); // the answer may be there before the call returns
    if (tc_expert_hub_call(s->hub, w->id, seq, &to_send->call, &error) != TC_OK) {
        tc_expert_hub_drop(s->hub, w->id, error.text);
        return; // its DOWN event comes next
    }
    w->busy_seq = to_send->seq[to_send->flights++] = seq;
    to_send->state = SHARE_IN_FLIGHT;
}

static void assign(source_workers *s)
{
    uint64_t now = tc_now_us();
    for (uint32_t i = 0; i < s->share_count; i++) {
        if (s->shares[i].state != SHARE_WAITING) continue;
        worker *w = choose(s, &s->shares[i], now);
        if (w) send(s, &s->shares[i], w);
    }
}

static worker *worker_by_seq(source_workers *s, uint64_t seq)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++)
        if (s->workers[i].up && s->workers[i].busy_seq == seq) return &s->workers[i];
    return NULL;
}

// Gives shares whose answer is late to somebody else too; returns the time until the next one is late. A few
// of a hundred calls only: where everybody is late, asking twice makes it worse.
static uint64_t hedge(source_workers *s, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    rank idle, busy;
    for (uint32_t i = 0; i < s->share_count; i++) {
        share *flying = &s->shares[i];
        if (flying->state != SHARE_IN_FLIGHT || flying->flights == FLIGHTS_MAX) continue;
        worker *slow = worker_by_seq(s, flying->seq[0]);
        if (!slow) continue;
        uint64_t late = slow->sent_us + (uint64_t)tc_pace_late_us(&slow->pace, &flying->size);
        if (late > now) {
            if (late - now < next) next = late - now;
            continue;
        }
        worker *other = s->hedge_credit >= 1 ? choose_idle(s, flying, now, &idle, &busy) : NULL;
        if (!other || idle < STRANGER) continue; // until somebody is idle
        s->hedge_credit -= 1;
        stats_of(s, slow)->hedges++;
        send(s, flying, other);
    }
    return next;
}

// Cuts off workers that missed their deadline; returns the time until the next deadline.
static uint64_t expire(source_workers *s, uint64_t now)
{
    uint64_t next = 1000000;
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        worker *w = &s->workers[i];
        if (!w->up || !w->busy_seq) continue;
        uint64_t deadline = w->sent_us + s->options.call_deadline_us;
        if (deadline > now) {
            if (deadline - now < next) next = deadline - now;
            continue;
        }
        if (!w->late) {
            w->late = true;
            tc_expert_hub_drop(s->hub, w->id, "missed its deadline");
        }
        next = 1000;
    }
    return next;
}

// Into how many parts each index's share is cut now: more than one only where every index has several workers
// that could start at once.
static uint32_t choose_parts(source_workers *s, const tc_expert_call *call)
{
    tc_fleet_member members[TC_WORKERS_MAX];
    uint32_t of_group[TC_WORKERS_MAX] = {0}, count = 0, groups = s->options.expected, most;
    uint32_t grains = s->options.shard == TC_SHARD_SLICE ? s->info->units : s->info->experts;
    if (s->stats.workers_up <= groups) return 1;
    tc_call_size whole = tc_call_size_of(call);
    uint64_t now = tc_now_us();
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        const worker *w = &s->workers[i];
        if (!w->up || w->late || w->busy_seq || quarantined(s, w)) continue;
        members[count] = (tc_fleet_member){w->index % groups, &w->pace};
        of_group[members[count++].group]++;
    }
    most = (grains < TC_WORKERS_MAX ? grains : TC_WORKERS_MAX) / groups;
    for (uint32_t g = 0; g < groups; g++)
        if (of_group[g] < most) most = of_group[g];
    return most < 2 ? 1 : tc_fleet_cut(members, count, groups, most, &whole, now);
}

// Kept for a while: choosing takes longer than a small call may.
static void cut(source_workers *s, const tc_expert_call *call)
{
    uint32_t size = 32 - (uint32_t)__builtin_clz(call->tokens | 1);
    if (s->cut_age == 0 || s->cut_size != size || s->cut_age > CUT_AGAIN_CALLS) {
        s->parts = choose_parts(s, call);
        s->cut_size = size;
        s->cut_age = 0;
    }
    s->cut_age++;
    s->share_count = s->options.expected * s->parts;
}

// Contiguous run of the sorted pairs whose experts lie in [first, last).
static void pairs_of_experts(const tc_expert_call *call, uint32_t first, uint32_t last, tc_expert_call *ret)
{
    uint32_t begin = 0, end;
    while (begin < call->pair_count && call->pairs[begin].expert < first) begin++;
    end = begin;
    while (end < call->pair_count && call->pairs[end].expert < last) end++;
    ret->pairs = call->pairs + begin;
    ret->pair_count = end - begin;
}

static void make_share(source_workers *s, uint32_t index, const tc_expert_call *call)
{
    share *part = &s->shares[index];
    tc_share own =
        tc_share_of(s->info->experts, s->info->units, (tc_shard)s->options.shard, index, s->share_count);
    *part = (share){.state = SHARE_WAITING, .index = index, .call = *call};
    part->call.unit_begin = own.unit_begin;
    part->call.unit_end = own.unit_end;
    if (s->options.shard == TC_SHARD_PARTITION)
        pairs_of_experts(call, own.expert_begin, own.expert_end, &part->call);
    if (part->call.pair_count == 0 || part->call.unit_begin == part->call.unit_end) part->state = SHARE_DONE;
    part->size = tc_call_size_of(&part->call);
}

static tc_status workers_post(tc_expert_source *source, const tc_expert_call *call, tc_error *e)
{
    (void)e;
    source_workers *s = (source_workers *)source;
    tc_expert_call whole = *call;
    whole.unit_begin = 0;
    whole.unit_end = s->info->units;
    cut(s, &whole);
    for (uint32_t i = 0; i < s->share_count; i++) make_share(s, i, &whole);
    s->stats.calls++;
    s->stats.pairs += call->pair_count;
    s->compute_us_max = 0;
    assign(s);
    return TC_OK;
}

static bool all_done(const source_workers *s)
{
    for (uint32_t i = 0; i < s->share_count; i++)
        if (s->shares[i].state != SHARE_DONE) return false;
    return true;
}

static tc_status workers_join(tc_expert_source *source, int64_t *sum, tc_error *e)
{
    source_workers *s = (source_workers *)source;
    const tc_expert_call *call = &s->shares[0].call;
    uint64_t start = tc_now_us(), alone_since = 0;
    tc_status status = TC_OK;
    memset(sum, 0, (size_t)call->tokens * call->hidden * sizeof *sum);
    while (status == TC_OK && !all_done(s)) {
        uint64_t now = tc_now_us();
        assign(s);
        if (s->stats.workers_up)
            alone_since = 0;
        else if (!alone_since)
            alone_since = now;
        if (alone_since && now - alone_since > s->options.no_worker_us) {
            status = tc_fail(e, TC_TIMEOUT, "no expert worker for %llu s",
                             (unsigned long long)(s->options.no_worker_us / 1000000));
            break;
        }
        tc_hub_event event;
        uint64_t expires = expire(s, now), late = hedge(s, now);
        if (tc_expert_hub_next(s->hub, late < expires ? late : expires, &event) == TC_OK)
            status = handle(s, &event, sum, e);
    }
    if (status != TC_OK)
        for (uint32_t i = 0; i < s->share_count; i++)
            s->shares[i].state = SHARE_DONE; // late answers are dropped
    uint64_t spent = tc_now_us() - start;
    if (spent > s->compute_us_max) s->stats.wait_us += spent - s->compute_us_max;
    return status;
}

static void workers_poll(tc_expert_source *source)
{
    source_workers *s = (source_workers *)source;
    tc_hub_event event;
    while (tc_expert_hub_next(s->hub, 0, &event) == TC_OK) (void)handle(s, &event, NULL, NULL);
    expire(s, tc_now_us());
}

// Why answers come, but not as they should.
static void tell_degraded(const source_workers *s, char *ret, size_t bytes)
{
    uint64_t now = tc_now_us();
    *ret = 0;
    if (s->stats.workers_up < s->options.expected) {
        snprintf(ret, bytes, "%u of %u workers are connected%s%s", s->stats.workers_up, s->options.expected,
                 *s->lost ? "; the last one lost: " : "", s->lost);
        return;
    }
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        const worker *w = &s->workers[i];
        if (w->up && w->busy_seq && now - w->sent_us > BEHIND_TOLD_US) {
            snprintf(ret, bytes, "the worker of share %u has not answered for %.1f s", w->index,
                     (double)(now - w->sent_us) / 1e6);
            return;
        }
        if (!w->up || !quarantined(s, w)) continue;
        const tc_conduct *c = tc_conduct_find(&s->conducts, w->index, w->pid);
        snprintf(ret, bytes, "the worker of share %u is in quarantine: %.150s", w->index, c ? c->reason : "");
        return;
    }
}

static void workers_stats(tc_expert_source *source, tc_source_stats *ret)
{
    source_workers *s = (source_workers *)source;
    *ret = s->stats;
    ret->workers_expected = s->options.expected;
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) s->of_worker[i].in_flight = 0;
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++)
        if (s->workers[i].up && s->workers[i].busy_seq) stats_of(s, &s->workers[i])->in_flight++;
    ret->workers = s->of_worker;
    ret->worker_count = s->index_max < s->options.expected ? s->options.expected : s->index_max + 1;
    snprintf(ret->reason, sizeof ret->reason, "%s",
             s->stats.workers_up ? "" : "no expert worker is connected");
    tell_degraded(s, ret->degraded, sizeof ret->degraded);
}

static int workers_fd(tc_expert_source *source)
{
    return tc_expert_hub_fd(((source_workers *)source)->hub);
}

// ---- lending ----

static worker *owner_of(source_workers *s, uint32_t index)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++)
        if (s->workers[i].up && s->workers[i].index == index && !s->workers[i].busy_seq &&
            !quarantined(s, &s->workers[i]))
            return &s->workers[i];
    return NULL;
}

static bool lend_one(source_workers *s, uint32_t index, uint32_t tokens, tc_lent_mailbox *ret)
{
    tc_error error;
    tc_shm *shm;
    worker *w = owner_of(s, index);
    if (!w || tc_expert_hub_lend(s->hub, w->id, tokens, s->source.step, &shm, &error) != TC_OK) return false;
    const tc_shm_header *layout = tc_shm_layout(shm);
    *ret = (tc_lent_mailbox){
        .id = w->id, .x_at = layout->x_at, .pairs_at = layout->pairs_at, .sum_at = layout->sum_at};
    ret->memory = tc_shm_memory(shm, &ret->bytes);
    ret->share =
        tc_share_of(s->info->experts, s->info->units, (tc_shard)s->options.shard, index, s->options.expected);
    s->lent_shm[s->lent_count] = shm;
    s->lent[s->lent_count++] = w->id;
    return true;
}

static uint32_t workers_lend(tc_expert_source *source, uint32_t tokens, tc_lent_mailbox ret[TC_LENT_MAX],
                             uint64_t *ret_sequence)
{
    source_workers *s = (source_workers *)source;
    uint32_t count = 0;
    s->lent_count = 0;
    if (s->options.expected > TC_LENT_MAX) return 0;
    for (uint32_t i = 0; i < s->options.expected; i++) {
        tc_share own =
            tc_share_of(s->info->experts, s->info->units, (tc_shard)s->options.shard, i, s->options.expected);
        if (tc_share_is_empty(&own)) continue;
        if (!lend_one(s, i, tokens, &ret[count])) return s->lent_count = 0;
        count++;
    }
    *ret_sequence = s->next_seq + 1;
    s->next_seq += TC_LAYERS_MAX;
    s->lent_last = s->next_seq;
    return count;
}

// The link tells who is gone: such a worker's segment is aborted at once, which the device sees.
static bool workers_nudge(tc_expert_source *source)
{
    source_workers *s = (source_workers *)source;
    tc_hub_event event;
    while (tc_expert_hub_next(s->hub, 0, &event) == TC_OK) {
        for (uint32_t i = 0; i < s->lent_count && event.kind == TC_HUB_WORKER_DOWN; i++)
            if (s->lent[i] == event.worker) s->lent_shm[i] = NULL;
        (void)handle(s, &event, NULL, NULL);
    }
    bool all = true;
    for (uint32_t i = 0; i < s->lent_count; i++)
        if (s->lent_shm[i])
            tc_shm_nudge(s->lent_shm[i]);
        else
            all = false;
    return all;
}

static void workers_settle(tc_expert_source *source, bool fine)
{
    source_workers *s = (source_workers *)source;
    tc_error error;
    for (uint32_t i = 0; i < s->lent_count; i++)
        if (tc_expert_hub_reclaim(s->hub, s->lent[i], s->lent_last, &error) != TC_OK && fine)
            say(s, true, "worker %u: %s", s->lent[i], error.text);
    s->lent_count = 0;
    if (!fine) s->stats.retries++;
}

static void workers_free(tc_expert_source *source)
{
    tc_free(source);
}

void tc_source_workers_tune(tc_expert_source *source, uint64_t call_deadline_us, uint64_t no_worker_us)
{
    source_workers *s = (source_workers *)source;
    s->options.call_deadline_us = call_deadline_us;
    s->options.no_worker_us = no_worker_us;
}

tc_status tc_source_workers_create(tc_expert_hub *hub, const tc_store *store,
                                   const tc_workers_options *options, tc_expert_source **ret, tc_error *e)
{
    static const tc_source_ops ops = {.free = workers_free,
                                      .post = workers_post,
                                      .join = workers_join,
                                      .poll = workers_poll,
                                      .stats = workers_stats,
                                      .fd = workers_fd,
                                      .lend = workers_lend,
                                      .nudge = workers_nudge,
                                      .settle = workers_settle};
    if (options->expected < 1 || options->expected > TC_WORKERS_MAX)
        return tc_fail(e, TC_ARGUMENT, "workers: %u is not in 1..%d", options->expected, TC_WORKERS_MAX);
    source_workers *s = tc_alloc(TC_MEM_OTHER, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the worker source");
    s->source.ops = &ops;
    s->hub = hub;
    s->info = tc_store_get_info(store);
    s->options = *options;
    s->share_count = options->expected;
    s->parts = 1;
    s->hedge_credit = HEDGE_SAVED / 2;
    *ret = &s->source;
    return TC_OK;
}
