// SPDX-License-Identifier: Apache-2.0
// Owns: the expert source made of worker processes: which worker computes which share of a call, deadlines,
// retries.
//
//   share: the experts (partition) or the width (slice) of one worker index. Any worker can compute any
//   share, so a share prefers the worker of its index and falls back to any other.
//
//            assign                     result
//   WAITING ---------> IN_FLIGHT(worker) -------> DONE
//      ^                   |
//      +-------------------+  worker lost (on_down), deadline (expire), failure (on_failure, once)
//
// A dead worker costs a retry, never a request: a call fails only when no worker came for no_worker_us, when
// two workers answered the same share with an error, or when BREACHES_MAX attempts at it ended in a breach.
// Who breaks the protocol, misses a deadline or fails at what another computes is left alone for a while
// (conduct.h), as long as there is anybody else.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/trace.h"
#include "gpu-core/experts/conduct.h"
#include "gpu-core/experts/source.h"
#include "proto/expert.h"
#include "proto/shm.h"

#include <stdio.h>
#include <string.h>

enum { FAILURES_MAX = 2, BREACHES_MAX = 8 };

typedef enum share_state { SHARE_DONE, SHARE_WAITING, SHARE_IN_FLIGHT } share_state;

typedef struct share {
    share_state state;
    uint32_t index, failures, breaches;
    uint32_t failed_id, failed_index; // the last worker that answered it with an error; id 0: none
    uint64_t failed_pid;
    uint64_t seq, deadline_us, sent_us;
    tc_expert_call call;
    char reason[128]; // of the last failure
} share;

typedef struct worker {
    bool up, late; // late: it was cut off for its deadline
    uint32_t id, index;
    uint64_t pid, answered;
    uint64_t busy_seq; // 0: idle
} worker;

typedef struct source_workers {
    tc_expert_source source;
    tc_expert_hub *hub;
    const tc_store_info *info;
    tc_workers_options options;
    worker workers[TC_WORKERS_MAX];
    share shares[TC_WORKERS_MAX];
    uint32_t share_count;
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

static void on_up(source_workers *s, const tc_hub_event *event)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        worker *w = &s->workers[i];
        if (w->up) continue;
        *w = (worker){
            .up = true, .id = event->worker, .index = event->hello.index, .pid = (uint64_t)event->hello.pid};
        s->stats.workers_up++;
        stats_of(s, w)->up++;
        stats_of(s, w)->starts++;
        say(s, false, "worker %u is up: share %u of %u, %u threads, pid %lld", event->worker,
            event->hello.index, event->hello.of, event->hello.threads, (long long)event->hello.pid);
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
        (unsigned long long)pid, (double)us / 1e6, reason);
}

static bool quarantined(const source_workers *s, const worker *w)
{
    return tc_conduct_quarantined(&s->conducts, w->index, w->pid, tc_now_us());
}

static tc_status on_down(source_workers *s, const tc_hub_event *event, tc_error *e)
{
    tc_status status = TC_OK;
    worker *w = worker_by_id(s, event->worker);
    if (!w) return TC_OK;
    bool wrong = event->breach || w->late;
    for (uint32_t i = 0; i < s->share_count; i++) {
        share *lost = &s->shares[i];
        if (lost->state != SHARE_IN_FLIGHT || lost->seq != w->busy_seq) continue;
        stats_of(s, w)->retries++;
        retry(s, lost);
        if (wrong && ++lost->breaches >= BREACHES_MAX)
            status = tc_fail(e, TC_PEER, "experts of layer %u: no worker keeps its word; the last one: %s",
                             lost->call.layer, event->reason);
    }
    stats_of(s, w)->up--;
    w->up = false;
    s->stats.workers_up--;
    s->stats.workers_lost++;
    snprintf(s->lost, sizeof s->lost, "worker of share %u: %.120s", w->index, event->reason);
    say(s, true, "worker %u (share %u) is lost: %s", event->worker, w->index, event->reason);
    if (wrong) strike(s, w->index, w->pid, event->reason);
    return status;
}

static share *share_by_seq(source_workers *s, uint64_t seq)
{
    for (uint32_t i = 0; i < s->share_count; i++)
        if (s->shares[i].state == SHARE_IN_FLIGHT && s->shares[i].seq == seq) return &s->shares[i];
    return NULL;
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
    if (++failed->failures >= FAILURES_MAX)
        return tc_fail(e, TC_INTERNAL, "experts of layer %u: %s", failed->call.layer, event->reason);
    if (w) {
        stats_of(s, w)->retries++;
        failed->failed_id = w->id;
        failed->failed_index = w->index;
        failed->failed_pid = w->pid;
        snprintf(failed->reason, sizeof failed->reason, "%.100s", event->reason);
    }
    retry(s, failed);
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
    uint64_t now_us = tc_now_us(), latency_us = now_us - done->sent_us;
    const tc_expert_call *call = &done->call;
    if (!w) return;
    w->answered++;
    if (done->failed_id && done->failed_id != w->id) { // so it could be computed
        char reason[160];
        snprintf(reason, sizeof reason, "failed at what another worker computed: %.100s", done->reason);
        strike(s, done->failed_index, done->failed_pid, reason);
    }
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
    tc_trace_span("call", done->sent_us, now_us,
                  "\"layer\":%u,\"worker\":%u,\"seq\":%llu,\"compute_us\":%llu", call->layer, w->index,
                  (unsigned long long)event->seq, (unsigned long long)event->compute_us);
    tc_trace_arrow(true, event->seq, done->sent_us);
    tc_trace_lane(1);
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
    return w->index == wanted->index ? OWNER : ANYBODY;
}

static worker *choose(source_workers *s, const share *wanted)
{
    worker *best = NULL;
    rank idle = NOBODY, busy = NOBODY;
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        worker *w = &s->workers[i];
        rank r = rank_of(s, wanted, w);
        if (w->busy_seq) {
            if (r > busy) busy = r;
        } else if (r > idle) {
            idle = r;
            best = w;
        }
    }
    bool waits = busy == OWNER ? !(wanted->failures + wanted->breaches) : idle < STRANGER && busy >= STRANGER;
    return idle == OWNER || !waits ? best : NULL;
}

static void assign(source_workers *s)
{
    for (uint32_t i = 0; i < s->share_count; i++) {
        share *waiting = &s->shares[i];
        if (waiting->state != SHARE_WAITING) continue;
        worker *w = choose(s, waiting);
        if (!w) continue;
        tc_error error;
        uint64_t seq = ++s->next_seq;
        waiting->sent_us = tc_now_us(); // the answer may be there before the call returns
        if (tc_expert_hub_call(s->hub, w->id, seq, &waiting->call, &error) != TC_OK) {
            tc_expert_hub_drop(s->hub, w->id, error.text);
            continue; // its DOWN event comes next
        }
        w->busy_seq = waiting->seq = seq;
        waiting->deadline_us = waiting->sent_us + s->options.call_deadline_us;
        waiting->state = SHARE_IN_FLIGHT;
    }
}

// Cuts off workers that missed their deadline; returns the time until the next deadline.
static uint64_t expire(source_workers *s, uint64_t now)
{
    uint64_t next = 1000000;
    for (uint32_t i = 0; i < s->share_count; i++) {
        share *flying = &s->shares[i];
        if (flying->state != SHARE_IN_FLIGHT) continue;
        if (flying->deadline_us > now) {
            if (flying->deadline_us - now < next) next = flying->deadline_us - now;
            continue;
        }
        for (uint32_t j = 0; j < TC_WORKERS_MAX; j++)
            if (s->workers[j].up && s->workers[j].busy_seq == flying->seq) {
                s->workers[j].late = true;
                tc_expert_hub_drop(s->hub, s->workers[j].id, "missed its deadline");
            }
        next = 1000;
    }
    return next;
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
}

static tc_status workers_post(tc_expert_source *source, const tc_expert_call *call, tc_error *e)
{
    (void)e;
    source_workers *s = (source_workers *)source;
    for (uint32_t i = 0; i < s->share_count; i++) make_share(s, i, call);
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
        if (tc_expert_hub_next(s->hub, expire(s, now), &event) == TC_OK) status = handle(s, &event, sum, e);
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
}

// Why answers come, but not as they should.
static void tell_degraded(const source_workers *s, char *ret, size_t bytes)
{
    *ret = 0;
    if (s->stats.workers_up < s->options.expected) {
        snprintf(ret, bytes, "%u of %u workers are connected%s%s", s->stats.workers_up, s->options.expected,
                 *s->lost ? "; the last one lost: " : "", s->lost);
        return;
    }
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        const worker *w = &s->workers[i];
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
    ret->worker_count = s->share_count;
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
        tc_share_of(s->info->experts, s->info->units, (tc_shard)s->options.shard, index, s->share_count);
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
    if (s->share_count > TC_LENT_MAX) return 0;
    for (uint32_t i = 0; i < s->share_count; i++) {
        tc_share own =
            tc_share_of(s->info->experts, s->info->units, (tc_shard)s->options.shard, i, s->share_count);
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
static void workers_nudge(tc_expert_source *source)
{
    source_workers *s = (source_workers *)source;
    tc_hub_event event;
    while (tc_expert_hub_next(s->hub, 0, &event) == TC_OK) {
        for (uint32_t i = 0; i < s->lent_count && event.kind == TC_HUB_WORKER_DOWN; i++)
            if (s->lent[i] == event.worker) s->lent_shm[i] = NULL;
        (void)handle(s, &event, NULL, NULL);
    }
    for (uint32_t i = 0; i < s->lent_count; i++)
        if (s->lent_shm[i]) tc_shm_nudge(s->lent_shm[i]);
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
    *ret = &s->source;
    return TC_OK;
}
