// SPDX-License-Identifier: Apache-2.0
// Owns: the two ends of the shared-memory mailbox (shm.h) and the checks each makes of the other.
//
//   hub:    IDLE --post--> UNDER WAY --poll_reply--> IDLE        (under_way: seq or 0)
//   worker: IDLE --take--> UNDER WAY --reply-------> IDLE
//   any --abort (by either)--> CLOSED
#include "proto/shm.h"
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "proto/segment.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHM_MAGIC 0x316d687365687474u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the segment's fields are little-endian");
_Static_assert(sizeof(tc_shm_header) <= TC_SHM_LINE_BYTES, "header");
_Static_assert(sizeof(tc_shm_request_record) == 48, "request");
_Static_assert(sizeof(tc_shm_reply_record) == 2 * TC_SHM_LINE_BYTES, "reply");
_Static_assert(TC_SHM_REPLY_AT + sizeof(tc_shm_reply_record) <= TC_SHM_LENT_AT, "control page");
_Static_assert(sizeof(tc_expert_pair) == 12 && sizeof(float) == 4, "pairs");

enum { TOKENS_AT_FIRST = 64, LENT_LOOK_US = 1000 };

typedef enum role { ROLE_HUB, ROLE_WORKER } role;

struct tc_shm {
    role role;
    char *memory;
    tc_shm_header layout; // computed here, never read from the segment
    uint64_t last;        // sequence number of the last call posted or taken
    uint64_t under_way;   // 0: none
    uint64_t answered;    // hub: sequence number of the last reply polled
    uint32_t tokens;      // of the call under way
    uint32_t taken;       // tokens for whose x and sum memory is taken here
    uint32_t interrupted; // worker: tc_shm_interrupt
    uint32_t lent_seen;   // worker: what the word said when it began to wait
    tc_bell *bell;
    tc_expert_pair *pairs; // worker: private copy of the request's pairs
    tc_segment segment;    // zero when attached
};

// ---- accesses to the segment: each shared field is read exactly once, through one of these ----

static uint64_t *flag_at(const tc_shm *shm, size_t at)
{
    return (uint64_t *)(void *)(shm->memory + at);
}

static uint64_t flag_load(const tc_shm *shm, size_t at)
{
    return __atomic_load_n(flag_at(shm, at), __ATOMIC_ACQUIRE);
}

static void flag_publish(tc_shm *shm, size_t at, uint64_t seq)
{
    __atomic_store_n(flag_at(shm, at), seq, __ATOMIC_RELEASE);
}

static tc_wait_line *request_line(const tc_shm *shm)
{
    return (tc_wait_line *)(void *)(shm->memory + TC_SHM_REQUEST_LINE_AT);
}

// A private copy. The barrier keeps the compiler from reading the shared original again in place of the copy.
static void copy_once(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    __asm__ volatile("" : : "r"(to) : "memory");
}

static uint32_t *lent_at(const tc_shm *shm)
{
    return (uint32_t *)(void *)(shm->memory + TC_SHM_LENT_AT);
}

bool tc_shm_aborted(const tc_shm *shm)
{
    return __atomic_load_n((uint32_t *)(void *)(shm->memory + TC_SHM_ABORT_AT), __ATOMIC_ACQUIRE) != 0;
}

static tc_status closed(tc_error *e)
{
    return tc_fail(e, TC_CLOSED, "the shared segment was aborted");
}

// ---- layout ----

static uint64_t page_up(uint64_t bytes)
{
    return (bytes + TC_SHM_PAGE_BYTES - 1) / TC_SHM_PAGE_BYTES * TC_SHM_PAGE_BYTES;
}

static tc_status in_range(const char *what, uint32_t value, uint32_t max, tc_error *e)
{
    if (value >= 1 && value <= max) return TC_OK;
    return tc_fail(e, TC_LIMIT, "shared segment: %s %u is not in 1..%u", what, value, max);
}

// Cannot overflow within the limits of a call: 2^11 x 2^14 x 8 bytes is the largest part.
static tc_status lay_out(const tc_shm_options *options, tc_shm_header *ret, tc_error *e)
{
    TC_TRY(in_range("tokens_max", options->tokens_max, TC_CALL_TOKENS_MAX, e));
    TC_TRY(in_range("hidden", options->hidden, TC_HIDDEN_MAX, e));
    TC_TRY(in_range("pairs_max", options->pairs_max, TC_SHM_PAIRS_MAX, e));
    uint64_t values = (uint64_t)options->tokens_max * options->hidden;
    tc_shm_header h = {.magic = SHM_MAGIC,
                       .version = TC_SHM_VERSION,
                       .control_bytes = TC_SHM_PAGE_BYTES,
                       .tokens_max = options->tokens_max,
                       .hidden = options->hidden,
                       .pairs_max = options->pairs_max,
                       .x_at = TC_SHM_X_AT};
    h.pairs_at = h.x_at + page_up(values * sizeof(float));
    h.sum_at = h.pairs_at + page_up((uint64_t)options->pairs_max * sizeof(tc_expert_pair));
    h.bytes = h.sum_at + page_up(values * sizeof(int64_t));
    *ret = h;
    return TC_OK;
}

tc_status tc_shm_size(const tc_shm_options *options, size_t *ret_bytes, tc_error *e)
{
    tc_shm_header layout;
    TC_TRY(lay_out(options, &layout, e));
    *ret_bytes = layout.bytes;
    return TC_OK;
}

// Memory for calls of that many tokens: most calls have few, and room for the largest would lie idle in every
// worker's segment. Grows by doubling, never shrinks.
static tc_status take_memory(tc_shm *shm, uint32_t tokens, tc_error *e)
{
    const tc_shm_header *h = &shm->layout;
    uint64_t want = shm->taken ? shm->taken : TOKENS_AT_FIRST;
    if (tokens <= shm->taken) return TC_OK;
    while (want < tokens) want *= 2;
    if (want > h->tokens_max) want = h->tokens_max;
    uint64_t values = want * h->hidden;
    if (shm->taken == 0) TC_TRY(tc_segment_take(shm->memory, h->control_bytes, e));
    if (shm->taken == 0)
        TC_TRY(tc_segment_take(shm->memory + h->pairs_at, page_up(h->pairs_max * sizeof(tc_expert_pair)), e));
    TC_TRY(tc_segment_take(shm->memory + h->x_at, page_up(values * sizeof(float)), e));
    TC_TRY(tc_segment_take(shm->memory + h->sum_at, page_up(values * sizeof(int64_t)), e));
    shm->taken = (uint32_t)want;
    return TC_OK;
}

static tc_status check_header(const tc_shm *shm, tc_error *e)
{
    const tc_shm_header *ours = &shm->layout;
    uint64_t magic = flag_load(shm, TC_SHM_HEADER_AT);
    if (magic != ours->magic) return tc_fail(e, TC_PEER, "shared segment: wrong magic number");
    tc_shm_header theirs;
    copy_once(&theirs, shm->memory, sizeof theirs);
    if (theirs.version != ours->version)
        return tc_fail(e, TC_PEER, "shared segment: version %u, this is %u", theirs.version, ours->version);
    if (memcmp(&theirs, ours, sizeof theirs) != 0)
        return tc_fail(
            e, TC_PEER,
            "shared segment: made for %u tokens, hidden %u, %u pairs, %llu bytes; agreed were %u, %u, "
            "%u, %llu",
            theirs.tokens_max, theirs.hidden, theirs.pairs_max, (unsigned long long)theirs.bytes,
            ours->tokens_max, ours->hidden, ours->pairs_max, (unsigned long long)ours->bytes);
    return TC_OK;
}

// ---- life ----

static tc_status new_handle(role side, const tc_shm_options *options, tc_shm **ret, tc_error *e)
{
    tc_shm_header layout;
    TC_TRY(lay_out(options, &layout, e));
    tc_shm *shm = calloc(1, sizeof *shm);
    if (!shm) return tc_fail(e, TC_NOMEM, "out of memory for a shared segment");
    *shm = (tc_shm){.role = side, .layout = layout, .bell = options->bell};
    if (side == ROLE_WORKER) {
        shm->pairs = tc_alloc(TC_MEM_SCRATCH, options->pairs_max, sizeof *shm->pairs);
        if (!shm->pairs) {
            free(shm);
            return tc_fail(e, TC_NOMEM, "out of memory for %u pairs", options->pairs_max);
        }
    }
    *ret = shm;
    return TC_OK;
}

tc_status tc_shm_create(const tc_shm_options *options, tc_shm **ret, tc_error *e)
{
    tc_shm *shm = NULL;
    tc_status status;
    TC_GOTO(new_handle(ROLE_HUB, options, &shm, e));
    TC_GOTO(tc_segment_create("shm", shm->layout.bytes, &shm->segment, e));
    shm->memory = shm->segment.base;
    TC_GOTO(take_memory(shm, 1, e));
    memcpy(shm->memory + sizeof shm->layout.magic, (char *)&shm->layout + sizeof shm->layout.magic,
           sizeof shm->layout - sizeof shm->layout.magic);
    flag_publish(shm, TC_SHM_HEADER_AT, SHM_MAGIC);
    *ret = shm;
    return TC_OK;
out:
    tc_shm_close(shm);
    return status;
}

tc_status tc_shm_attach(void *memory, size_t bytes, const tc_shm_options *options, tc_shm **ret, tc_error *e)
{
    tc_shm *shm = NULL;
    tc_status status;
    TC_GOTO(new_handle(ROLE_WORKER, options, &shm, e));
    if (bytes != shm->layout.bytes || (uintptr_t)memory % TC_SHM_LINE_BYTES)
        TC_GOTO(tc_fail(e, TC_ARGUMENT, "shared segment: %zu bytes or their alignment are wrong", bytes));
    shm->memory = memory;
    TC_GOTO(take_memory(shm, 1, e));
    TC_GOTO(check_header(shm, e));
    // What was answered before this worker came is not its business.
    shm->last = flag_load(shm, TC_SHM_REPLY_FLAG_AT);
    *ret = shm;
    return TC_OK;
out:
    tc_shm_close(shm);
    return status;
}

tc_status tc_shm_open(const char *name, const tc_shm_options *options, tc_shm **ret, tc_error *e)
{
    size_t bytes;
    tc_segment segment;
    TC_TRY(tc_shm_size(options, &bytes, e));
    TC_TRY(tc_segment_open("shm", name, bytes, &segment, e));
    tc_shm *shm;
    tc_status status = tc_shm_attach(segment.base, bytes, options, &shm, e);
    if (status != TC_OK) {
        tc_segment_close(&segment);
        return status;
    }
    shm->segment = segment;
    *ret = shm;
    return TC_OK;
}

const char *tc_shm_name(const tc_shm *shm)
{
    return shm->segment.name;
}

void tc_shm_unlink(tc_shm *shm)
{
    tc_segment_unlink(&shm->segment);
}

void tc_shm_close(tc_shm *shm)
{
    if (!shm) return;
    tc_segment_close(&shm->segment);
    tc_free(shm->pairs);
    free(shm);
}

void tc_shm_abort(tc_shm *shm)
{
    __atomic_store_n((uint32_t *)(void *)(shm->memory + TC_SHM_ABORT_AT), 1, __ATOMIC_SEQ_CST);
    tc_line_ring(request_line(shm));
    if (shm->bell) tc_bell_ring(shm->bell);
}

void *tc_shm_memory(tc_shm *shm, size_t *ret_bytes)
{
    *ret_bytes = shm->layout.bytes;
    return shm->memory;
}

// ---- the call, checked the same way at both ends ----

static tc_status check_pairs(const tc_expert_call *call, tc_status blame, tc_error *e)
{
    const tc_expert_pair *p = call->pairs;
    for (uint32_t i = 0; i < call->pair_count; i++) {
        if (p[i].expert >= TC_EXPERTS_MAX || p[i].token >= call->tokens)
            return tc_fail(e, blame, "call: pair %u: expert %u or token %u does not exist", i, p[i].expert,
                           p[i].token);
        if (!isfinite(p[i].weight)) return tc_fail(e, blame, "call: pair %u: weight is not finite", i);
        if (i == 0) continue;
        bool rises =
            p[i].expert > p[i - 1].expert || (p[i].expert == p[i - 1].expert && p[i].token > p[i - 1].token);
        if (!rises) return tc_fail(e, blame, "call: pair %u is out of order", i);
    }
    return TC_OK;
}

// `blame`: the status for a bad field: TC_ARGUMENT for our caller, TC_PEER for the other side.
static tc_status check_scalars(const tc_shm *shm, const tc_expert_call *call, tc_status blame, tc_error *e)
{
    const tc_shm_header *h = &shm->layout;
    if (call->tokens < 1 || call->tokens > h->tokens_max)
        return tc_fail(e, blame, "call: %u tokens are not in 1..%u", call->tokens, h->tokens_max);
    if (call->hidden != h->hidden)
        return tc_fail(e, blame, "call: hidden %u, agreed was %u", call->hidden, h->hidden);
    uint32_t pairs_max = call->tokens * TC_TOP_K_MAX;
    if (pairs_max > h->pairs_max) pairs_max = h->pairs_max;
    if (call->pair_count > pairs_max)
        return tc_fail(e, blame, "call: %u pairs, at most %u for %u tokens", call->pair_count, pairs_max,
                       call->tokens);
    if (call->layer >= TC_LAYERS_MAX) return tc_fail(e, blame, "call: no layer %u", call->layer);
    if (call->unit_begin >= call->unit_end)
        return tc_fail(e, blame, "call: units %u to %u", call->unit_begin, call->unit_end);
    if ((uint32_t)call->precision > TC_FAST)
        return tc_fail(e, blame, "call: no precision %u", (uint32_t)call->precision);
    return TC_OK;
}

static tc_status wrong_side(tc_error *e)
{
    return tc_fail(e, TC_ARGUMENT, "shared segment: this is the other side's function");
}

// ---- hub ----

float *tc_shm_x(tc_shm *shm)
{
    return (float *)(void *)(shm->memory + shm->layout.x_at);
}

static void write_request(tc_shm *shm, uint64_t seq, const tc_expert_call *call)
{
    float *x = tc_shm_x(shm);
    if (call->x != x) memcpy(x, call->x, (size_t)call->tokens * call->hidden * sizeof *x);
    if (call->pair_count)
        memcpy(shm->memory + shm->layout.pairs_at, call->pairs, call->pair_count * sizeof *call->pairs);
    tc_shm_request_record record = {.seq = seq,
                                    .layer = call->layer,
                                    .unit_begin = call->unit_begin,
                                    .unit_end = call->unit_end,
                                    .precision = (uint32_t)call->precision,
                                    .tokens = call->tokens,
                                    .hidden = call->hidden,
                                    .pair_count = call->pair_count,
                                    .step = call->step};
    memcpy(shm->memory + TC_SHM_REQUEST_AT, &record, sizeof record);
}

tc_status tc_shm_post(tc_shm *shm, uint64_t seq, const tc_expert_call *call, tc_error *e)
{
    if (shm->role != ROLE_HUB) return wrong_side(e);
    if (tc_shm_aborted(shm)) return closed(e);
    if (shm->under_way)
        return tc_fail(e, TC_BUSY, "call %llu is not answered yet", (unsigned long long)shm->under_way);
    if (seq <= shm->last)
        return tc_fail(e, TC_ARGUMENT, "call %llu after call %llu", (unsigned long long)seq,
                       (unsigned long long)shm->last);
    TC_TRY(check_scalars(shm, call, TC_ARGUMENT, e));
    TC_TRY(check_pairs(call, TC_ARGUMENT, e));
    TC_TRY(take_memory(shm, call->tokens, e));
    write_request(shm, seq, call);
    shm->last = shm->under_way = seq;
    shm->tokens = call->tokens;
    flag_publish(shm, TC_SHM_REQUEST_FLAG_AT, seq);
    tc_line_ring(request_line(shm));
    return TC_OK;
}

void tc_shm_nudge(tc_shm *shm)
{
    tc_line_ring(request_line(shm));
}

bool tc_shm_answered(const tc_shm *shm)
{
    return flag_load(shm, TC_SHM_REPLY_FLAG_AT) != shm->answered || tc_shm_aborted(shm);
}

static void copy_reason(char *to, const char *from, size_t bytes)
{
    copy_once(to, from, bytes);
    to[bytes] = 0;
    for (char *c = to; c < to + bytes; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
}

static tc_status check_reply(const tc_shm *shm, const tc_shm_reply_record *r, tc_error *e)
{
    if (r->seq != shm->under_way)
        return tc_fail(e, TC_PEER, "reply: its record is of call %llu, its flag of %llu",
                       (unsigned long long)r->seq, (unsigned long long)shm->under_way);
    if (r->status >= TC_STATUS_COUNT) return tc_fail(e, TC_PEER, "reply: no status %u", r->status);
    if (r->tokens != shm->tokens || r->hidden != shm->layout.hidden)
        return tc_fail(e, TC_PEER, "reply: sum of %u x %u, the call has %u x %u", r->tokens, r->hidden,
                       shm->tokens, shm->layout.hidden);
    if (r->reason_bytes > (r->status == TC_OK ? 0 : TC_SHM_REASON_BYTES))
        return tc_fail(e, TC_PEER, "reply: reason of %u bytes", r->reason_bytes);
    return TC_OK;
}

tc_status tc_shm_poll_reply(tc_shm *shm, uint64_t seq, tc_shm_answer *ret, tc_error *e)
{
    if (shm->role != ROLE_HUB) return wrong_side(e);
    if (tc_shm_aborted(shm)) return closed(e);
    uint64_t flag = flag_load(shm, TC_SHM_REPLY_FLAG_AT);
    if (flag != shm->answered && (flag != shm->under_way || flag == 0))
        return tc_fail(e, TC_PEER, "reply to call %llu, under way is %llu", (unsigned long long)flag,
                       (unsigned long long)shm->under_way);
    if (seq == 0 || seq != shm->under_way)
        return tc_fail(e, TC_ARGUMENT, "call %llu is not under way", (unsigned long long)seq);
    if (flag == shm->answered)
        return tc_fail(e, TC_TIMEOUT, "call %llu is not answered yet", (unsigned long long)seq);
    const char *at = shm->memory + TC_SHM_REPLY_AT;
    tc_shm_reply_record r;
    copy_once(&r, at, offsetof(tc_shm_reply_record, reason));
    TC_TRY(check_reply(shm, &r, e));
    ret->status = (tc_status)r.status;
    ret->sum = r.status == TC_OK ? (const int64_t *)(const void *)(shm->memory + shm->layout.sum_at) : NULL;
    ret->tokens = shm->tokens;
    ret->hidden = shm->layout.hidden;
    ret->compute_us = r.compute_us;
    copy_reason(ret->reason, at + offsetof(tc_shm_reply_record, reason), r.reason_bytes);
    shm->answered = seq;
    shm->under_way = 0;
    return TC_OK;
}

// ---- hub, for a device ----

const tc_shm_header *tc_shm_layout(const tc_shm *shm)
{
    return &shm->layout;
}

tc_status tc_shm_lend(tc_shm *shm, uint32_t tokens, uint64_t step, tc_error *e)
{
    if (shm->role != ROLE_HUB) return wrong_side(e);
    if (tc_shm_aborted(shm)) return closed(e);
    if (shm->under_way)
        return tc_fail(e, TC_BUSY, "call %llu is not answered yet", (unsigned long long)shm->under_way);
    TC_TRY(take_memory(shm, tokens, e));
    memcpy(shm->memory + TC_SHM_REQUEST_AT + offsetof(tc_shm_request_record, step), &step, sizeof step);
    __atomic_store_n(lent_at(shm), 1, __ATOMIC_SEQ_CST);
    tc_shm_nudge(shm);
    return TC_OK;
}

tc_status tc_shm_reclaim(tc_shm *shm, uint64_t last, tc_error *e)
{
    if (shm->role != ROLE_HUB) return wrong_side(e);
    if (tc_shm_aborted(shm)) return closed(e);
    __atomic_store_n(lent_at(shm), 0, __ATOMIC_SEQ_CST);
    uint64_t request = flag_load(shm, TC_SHM_REQUEST_FLAG_AT), reply = flag_load(shm, TC_SHM_REPLY_FLAG_AT);
    tc_shm_reply_record r;
    if (request > last || reply > request)
        return tc_fail(e, TC_PEER, "flags of calls %llu and %llu, the last was %llu",
                       (unsigned long long)request, (unsigned long long)reply, (unsigned long long)last);
    if (reply != request)
        return tc_fail(e, TC_TIMEOUT, "call %llu was not answered in time", (unsigned long long)request);
    copy_once(&r, shm->memory + TC_SHM_REPLY_AT, offsetof(tc_shm_reply_record, reason));
    bool any = reply != shm->answered;
    shm->last = last;
    shm->answered = reply;
    if (any && (r.seq != reply || r.status != TC_OK))
        return tc_fail(e, TC_PEER, "call %llu was answered with a failure", (unsigned long long)reply);
    return TC_OK;
}

// ---- worker ----

void tc_shm_interrupt(tc_shm *shm)
{
    __atomic_store_n(&shm->interrupted, 1, __ATOMIC_SEQ_CST);
    tc_line_ring(request_line(shm));
}

static bool request_came(const tc_shm *shm)
{
    return flag_load(shm, TC_SHM_REQUEST_FLAG_AT) != shm->last || tc_shm_aborted(shm) ||
           __atomic_load_n(&shm->interrupted, __ATOMIC_RELAXED) != 0;
}

static uint32_t lent(const tc_shm *shm)
{
    return __atomic_load_n(lent_at(shm), __ATOMIC_SEQ_CST) != 0;
}

static bool request_ready(void *arg)
{
    const tc_shm *shm = arg;
    return request_came(shm) || lent(shm) != shm->lent_seen;
}

// Lent: in turns so short that it looks by itself.
static tc_status wait_for_request(tc_shm *shm, uint64_t spin_us, uint64_t timeout_us)
{
    const uint64_t begin_us = tc_now_us();
    uint64_t left_us = timeout_us;
    for (;;) {
        shm->lent_seen = lent(shm);
        const bool turn = shm->lent_seen && left_us > LENT_LOOK_US;
        const tc_status status =
            tc_line_wait(request_line(shm), request_ready, shm, spin_us, turn ? LENT_LOOK_US : left_us);
        if (request_came(shm)) return TC_OK;
        if (status != TC_OK && !turn) return status;
        const uint64_t spent_us = tc_now_us() - begin_us;
        left_us = spent_us < timeout_us ? timeout_us - spent_us : 0;
    }
}

tc_status tc_shm_wait_request(tc_shm *shm, uint64_t spin_us, uint64_t timeout_us)
{
    TC_TRY(wait_for_request(shm, spin_us, timeout_us));
    if (tc_shm_aborted(shm)) return TC_CLOSED;
    return __atomic_exchange_n(&shm->interrupted, 0, __ATOMIC_SEQ_CST) ? TC_CANCELLED : TC_OK;
}

static tc_status read_call(tc_shm *shm, uint64_t seq, tc_expert_call *ret, tc_error *e)
{
    tc_shm_request_record r;
    copy_once(&r, shm->memory + TC_SHM_REQUEST_AT, sizeof r);
    if (r.seq != seq)
        return tc_fail(e, TC_PEER, "call: its record is of call %llu, its flag of %llu",
                       (unsigned long long)r.seq, (unsigned long long)seq);
    tc_expert_call call = {.layer = r.layer,
                           .unit_begin = r.unit_begin,
                           .unit_end = r.unit_end,
                           .precision = (tc_precision)r.precision,
                           .tokens = r.tokens,
                           .hidden = r.hidden,
                           .x = tc_shm_x(shm),
                           .pair_count = r.pair_count,
                           .pairs = shm->pairs,
                           .step = r.step};
    TC_TRY(check_scalars(shm, &call, TC_PEER, e));
    // The hub took it before it published: this only maps it here. A hub that lied meets the same limit.
    if (take_memory(shm, call.tokens, e) != TC_OK)
        return tc_fail(e, TC_PEER, "call: no memory behind %u tokens of the segment", call.tokens);
    copy_once(shm->pairs, shm->memory + shm->layout.pairs_at, call.pair_count * sizeof *shm->pairs);
    TC_TRY(check_pairs(&call, TC_PEER, e));
    *ret = call;
    return TC_OK;
}

tc_status tc_shm_take(tc_shm *shm, uint64_t *ret_seq, tc_expert_call *ret, tc_error *e)
{
    if (shm->role != ROLE_WORKER) return wrong_side(e);
    if (tc_shm_aborted(shm)) return closed(e);
    if (shm->under_way)
        return tc_fail(e, TC_BUSY, "call %llu is not answered yet", (unsigned long long)shm->under_way);
    uint64_t seq = flag_load(shm, TC_SHM_REQUEST_FLAG_AT);
    if (seq == shm->last) return tc_fail(e, TC_TIMEOUT, "no request");
    if (seq < shm->last)
        return tc_fail(e, TC_PEER, "call %llu after call %llu", (unsigned long long)seq,
                       (unsigned long long)shm->last);
    TC_TRY(read_call(shm, seq, ret, e));
    shm->last = shm->under_way = seq;
    shm->tokens = ret->tokens;
    *ret_seq = seq;
    return TC_OK;
}

int64_t *tc_shm_sum(tc_shm *shm)
{
    return (int64_t *)(void *)(shm->memory + shm->layout.sum_at);
}

tc_status tc_shm_reply(tc_shm *shm, uint64_t seq, tc_status answer, uint64_t compute_us, const char *reason,
                       tc_error *e)
{
    if (shm->role != ROLE_WORKER) return wrong_side(e);
    if (tc_shm_aborted(shm)) return closed(e);
    if (seq == 0 || seq != shm->under_way || (unsigned)answer >= TC_STATUS_COUNT)
        return tc_fail(e, TC_ARGUMENT, "call %llu was not taken, or status %d does not exist",
                       (unsigned long long)seq, (int)answer);
    if (flag_load(shm, TC_SHM_REQUEST_FLAG_AT) != seq)
        return tc_fail(e, TC_PEER, "another request was published while call %llu was computed",
                       (unsigned long long)seq);
    tc_shm_reply_record r = {.seq = seq,
                             .status = (uint32_t)answer,
                             .tokens = shm->tokens,
                             .hidden = shm->layout.hidden,
                             .compute_us = compute_us};
    size_t n = answer != TC_OK && reason ? strnlen(reason, TC_SHM_REASON_BYTES) : 0;
    r.reason_bytes = (uint32_t)n;
    memcpy(r.reason, reason ? reason : "", n);
    memcpy(shm->memory + TC_SHM_REPLY_AT, &r, offsetof(tc_shm_reply_record, reason) + n);
    shm->under_way = 0;
    flag_publish(shm, TC_SHM_REPLY_FLAG_AT, seq);
    if (shm->bell) tc_bell_ring(shm->bell);
    return TC_OK;
}
