// SPDX-License-Identifier: Apache-2.0
// Owns: packing and unpacking of the expert link's messages.
#include "proto/expert_wire.h"
#include "proto/shm.h"

#include "expert.pb-c.h"
#include <string.h>

static tc_status pack_worker(TcPb__WorkerMessage__KindCase kind, void *inner, tc_wire_header *ret,
                             tc_error *e)
{
    TcPb__WorkerMessage m = TC_PB__WORKER_MESSAGE__INIT;
    m.kind_case = kind;
    m.hello = inner; // one place in the union, whatever the kind
    return tc_wire_pack(&m.base, ret, e);
}

static tc_status pack_hub(TcPb__HubMessage__KindCase kind, void *inner, tc_wire_header *ret, tc_error *e)
{
    TcPb__HubMessage m = TC_PB__HUB_MESSAGE__INIT;
    m.kind_case = kind;
    m.welcome = inner;
    return tc_wire_pack(&m.base, ret, e);
}

tc_status tc_expert_pack_hello(const tc_worker_hello *hello, tc_wire_header *ret, tc_error *e)
{
    TcPb__WorkerHello m = TC_PB__WORKER_HELLO__INIT;
    m.protocol_version = hello->protocol_version;
    m.model_hash = (char *)hello->model_hash;
    m.store_hash = (char *)hello->store_hash;
    m.index = hello->index;
    m.of = hello->of;
    m.shard = hello->shard;
    m.threads = hello->threads;
    m.pid = hello->pid;
    m.resident_bytes = hello->resident_bytes;
    return pack_worker(TC_PB__WORKER_MESSAGE__KIND_HELLO, &m, ret, e);
}

tc_status tc_expert_pack_result(uint64_t seq, uint32_t tokens, uint32_t hidden, uint64_t compute_us,
                                tc_wire_header *ret, tc_error *e)
{
    TcPb__ExpertResult m = TC_PB__EXPERT_RESULT__INIT;
    m.seq = seq;
    m.tokens = tokens;
    m.hidden = hidden;
    m.compute_us = compute_us;
    return pack_worker(TC_PB__WORKER_MESSAGE__KIND_RESULT, &m, ret, e);
}

tc_status tc_expert_pack_failure(uint64_t seq, const char *reason, tc_wire_header *ret, tc_error *e)
{
    TcPb__ExpertFailure m = TC_PB__EXPERT_FAILURE__INIT;
    char text[TC_WIRE_REASON_BYTES];
    tc_wire_reason(reason, text);
    m.seq = seq;
    m.reason = text;
    return pack_worker(TC_PB__WORKER_MESSAGE__KIND_FAILURE, &m, ret, e);
}

tc_status tc_expert_pack_goodbye(tc_wire_header *ret, tc_error *e)
{
    TcPb__WorkerGoodbye m = TC_PB__WORKER_GOODBYE__INIT;
    return pack_worker(TC_PB__WORKER_MESSAGE__KIND_GOODBYE, &m, ret, e);
}

tc_status tc_expert_pack_welcome(tc_wire_header *ret, tc_error *e)
{
    TcPb__HubWelcome m = TC_PB__HUB_WELCOME__INIT;
    m.protocol_version = TC_EXPERT_PROTOCOL_VERSION;
    return pack_hub(TC_PB__HUB_MESSAGE__KIND_WELCOME, &m, ret, e);
}

tc_status tc_expert_pack_offer(const tc_expert_offer *offer, tc_wire_header *ret, tc_error *e)
{
    TcPb__HubWelcome m = TC_PB__HUB_WELCOME__INIT;
    m.protocol_version = TC_EXPERT_PROTOCOL_VERSION;
    m.segment = (char *)offer->segment;
    m.bell = (char *)offer->bell;
    m.tokens_max = offer->tokens_max;
    m.hidden = offer->hidden;
    m.pairs_max = offer->pairs_max;
    return pack_hub(TC_PB__HUB_MESSAGE__KIND_WELCOME, &m, ret, e);
}

tc_status tc_expert_pack_share(bool attached, const char *reason, tc_wire_header *ret, tc_error *e)
{
    TcPb__WorkerShare m = TC_PB__WORKER_SHARE__INIT;
    char text[TC_WIRE_REASON_BYTES];
    tc_wire_reason(reason ? reason : "", text);
    m.attached = attached;
    m.reason = text;
    return pack_worker(TC_PB__WORKER_MESSAGE__KIND_SHARE, &m, ret, e);
}

tc_status tc_expert_pack_reject(const char *reason, tc_wire_header *ret, tc_error *e)
{
    TcPb__HubReject m = TC_PB__HUB_REJECT__INIT;
    char text[TC_WIRE_REASON_BYTES];
    tc_wire_reason(reason, text);
    m.reason = text;
    return pack_hub(TC_PB__HUB_MESSAGE__KIND_REJECT, &m, ret, e);
}

// What both ends can know about a call without the store.
static tc_status check_call(const tc_expert_call *call, tc_error *e)
{
    if (call->tokens == 0 || call->tokens > TC_CALL_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "call of %u tokens, allowed are 1..%d", call->tokens,
                       TC_CALL_TOKENS_MAX);
    if (call->hidden == 0 || call->hidden > TC_HIDDEN_MAX)
        return tc_fail(e, TC_ARGUMENT, "call with hidden size %u, allowed are 1..%d", call->hidden,
                       TC_HIDDEN_MAX);
    if (call->layer >= TC_LAYERS_MAX)
        return tc_fail(e, TC_ARGUMENT, "call for layer %u, allowed are 0..%d", call->layer,
                       TC_LAYERS_MAX - 1);
    if (call->unit_begin >= call->unit_end || call->unit_end > TC_WIDTH_MAX)
        return tc_fail(e, TC_ARGUMENT, "call for units %u..%u", call->unit_begin, call->unit_end);
    if ((uint32_t)call->precision > TC_FAST)
        return tc_fail(e, TC_ARGUMENT, "call with unknown precision %u", (unsigned)call->precision);
    if (call->pair_count > call->tokens * TC_TOP_K_MAX)
        return tc_fail(e, TC_ARGUMENT, "call with %u pairs for %u tokens", call->pair_count, call->tokens);
    return TC_OK;
}

tc_status tc_expert_pack_call(uint64_t seq, const tc_expert_call *call, tc_wire_header *ret, tc_error *e)
{
    TC_TRY(check_call(call, e));
    TcPb__ExpertCall m = TC_PB__EXPERT_CALL__INIT;
    m.seq = seq;
    m.layer = call->layer;
    m.unit_begin = call->unit_begin;
    m.unit_end = call->unit_end;
    m.precision = call->precision;
    m.tokens = call->tokens;
    m.hidden = call->hidden;
    m.pair_count = call->pair_count;
    m.step = call->step;
    return pack_hub(TC_PB__HUB_MESSAGE__KIND_CALL, &m, ret, e);
}

static size_t x_bytes(const tc_expert_call *call)
{
    return (size_t)call->tokens * call->hidden * sizeof(float);
}

size_t tc_expert_call_payload_bytes(const tc_expert_call *call)
{
    return x_bytes(call) + (size_t)call->pair_count * sizeof(tc_expert_pair);
}

void tc_expert_call_payload_write(const tc_expert_call *call, uint8_t *payload)
{
    memcpy(payload, call->x, x_bytes(call));
    if (call->pair_count > 0)
        memcpy(payload + x_bytes(call), call->pairs, (size_t)call->pair_count * sizeof(tc_expert_pair));
}

static tc_status no_payload(const tc_frame *frame, const char *what, tc_error *e)
{
    if (frame->payload_bytes != 0)
        return tc_fail(e, TC_FORMAT, "%s with %zu bytes of payload", what, frame->payload_bytes);
    return TC_OK;
}

static bool is_hash(const char *s)
{
    return strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32;
}

static tc_status unpack_hello(const TcPb__WorkerHello *m, const tc_frame *frame, tc_expert_message *ret,
                              tc_error *e)
{
    tc_worker_hello *hello = &ret->hello;
    hello->protocol_version = m->protocol_version;
    if (m->protocol_version != TC_EXPERT_PROTOCOL_VERSION) return TC_OK; // only the version is understood
    TC_TRY(no_payload(frame, "hello", e));
    if (!is_hash(m->model_hash)) return tc_fail(e, TC_FORMAT, "hello with a model hash that is none");
    if (*m->store_hash && !is_hash(m->store_hash))
        return tc_fail(e, TC_FORMAT, "hello with a store hash that is none");
    if (m->of == 0 || m->of > TC_WORKERS_MAX || m->index >= m->of)
        return tc_fail(e, TC_FORMAT, "hello of worker %u of %u", m->index, m->of);
    if (m->shard != TC_SHARD_PARTITION && m->shard != TC_SHARD_SLICE)
        return tc_fail(e, TC_FORMAT, "hello with unknown shard %u", m->shard);
    if (m->threads == 0 || m->threads > TC_TEAM_THREADS_MAX)
        return tc_fail(e, TC_FORMAT, "hello with %u threads", m->threads);
    memcpy(hello->model_hash, m->model_hash, sizeof hello->model_hash);
    if (*m->store_hash) memcpy(hello->store_hash, m->store_hash, sizeof hello->store_hash);
    hello->index = m->index;
    hello->of = m->of;
    hello->shard = (tc_shard)m->shard;
    hello->threads = m->threads;
    hello->pid = m->pid;
    hello->resident_bytes = m->resident_bytes;
    return TC_OK;
}

static tc_status unpack_result(const TcPb__ExpertResult *m, const tc_frame *frame, tc_expert_message *ret,
                               tc_error *e)
{
    if (m->tokens == 0 || m->tokens > TC_CALL_TOKENS_MAX || m->hidden == 0 || m->hidden > TC_HIDDEN_MAX)
        return tc_fail(e, TC_FORMAT, "result of %u tokens x %u", m->tokens, m->hidden);
    size_t bytes = (size_t)m->tokens * m->hidden * sizeof(int64_t);
    if (frame->payload_bytes != bytes)
        return tc_fail(e, TC_FORMAT, "result of %u tokens x %u with %zu bytes, not %zu", m->tokens, m->hidden,
                       frame->payload_bytes, bytes);
    ret->seq = m->seq;
    ret->tokens = m->tokens;
    ret->hidden = m->hidden;
    ret->compute_us = m->compute_us;
    ret->sum = frame->payload;
    return TC_OK;
}

// Names are checked by who opens them. A welcome without a segment has no other field of an offer either.
static tc_status unpack_welcome(const TcPb__HubWelcome *m, const tc_frame *frame, tc_expert_message *ret,
                                tc_error *e)
{
    tc_expert_offer offer = {.tokens_max = m->tokens_max, .hidden = m->hidden, .pairs_max = m->pairs_max};
    bool none = !*m->segment && !*m->bell && !m->tokens_max && !m->hidden && !m->pairs_max;
    TC_TRY(no_payload(frame, "welcome", e));
    if (!tc_wire_string(m->segment, offer.segment, sizeof offer.segment) ||
        !tc_wire_string(m->bell, offer.bell, sizeof offer.bell))
        return tc_fail(e, TC_FORMAT, "welcome with a name of shared memory that is too long");
    if (!none && (!*offer.segment || !*offer.bell))
        return tc_fail(e, TC_FORMAT, "welcome with half an offer of shared memory");
    if (!none && (offer.tokens_max < 1 || offer.tokens_max > TC_CALL_TOKENS_MAX || offer.hidden < 1 ||
                  offer.hidden > TC_HIDDEN_MAX || offer.pairs_max < 1 || offer.pairs_max > TC_SHM_PAIRS_MAX))
        return tc_fail(e, TC_FORMAT, "welcome with shared memory for %u tokens x %u and %u pairs",
                       offer.tokens_max, offer.hidden, offer.pairs_max);
    ret->protocol_version = m->protocol_version;
    ret->offer = offer;
    return TC_OK;
}

static tc_status unpack_call(const TcPb__ExpertCall *m, const tc_frame *frame, tc_expert_message *ret,
                             tc_error *e)
{
    tc_expert_call call = {.layer = m->layer,
                           .unit_begin = m->unit_begin,
                           .unit_end = m->unit_end,
                           .precision = m->precision <= TC_FAST ? (tc_precision)m->precision : TC_FAST,
                           .tokens = m->tokens,
                           .hidden = m->hidden,
                           .pair_count = m->pair_count,
                           .step = m->step};
    ret->seq = m->seq;
    if (m->precision > TC_FAST)
        return tc_fail(e, TC_ARGUMENT, "call with unknown precision %u", m->precision);
    TC_TRY(check_call(&call, e));
    if (frame->payload_bytes != tc_expert_call_payload_bytes(&call))
        return tc_fail(e, TC_ARGUMENT, "call of %u tokens x %u and %u pairs with %zu bytes, not %zu",
                       call.tokens, call.hidden, call.pair_count, frame->payload_bytes,
                       tc_expert_call_payload_bytes(&call));
    call.x = (const float *)(const void *)frame->payload;
    call.pairs = (const tc_expert_pair *)(const void *)(frame->payload + x_bytes(&call));
    ret->call = call;
    return TC_OK;
}

static tc_status unpack_from_worker(const tc_frame *frame, tc_wire_arena *arena, tc_expert_message *ret,
                                    tc_error *e)
{
    const TcPb__WorkerMessage *m =
        (const void *)tc_wire_unpack(&tc_pb__worker_message__descriptor, frame, arena);
    switch (m ? m->kind_case : TC_PB__WORKER_MESSAGE__KIND__NOT_SET) {
    case TC_PB__WORKER_MESSAGE__KIND_HELLO:
        ret->kind = TC_EXPERT_HELLO;
        return unpack_hello(m->hello, frame, ret, e);
    case TC_PB__WORKER_MESSAGE__KIND_RESULT:
        ret->kind = TC_EXPERT_RESULT;
        return unpack_result(m->result, frame, ret, e);
    case TC_PB__WORKER_MESSAGE__KIND_FAILURE:
        ret->kind = TC_EXPERT_FAILURE;
        ret->seq = m->failure->seq;
        tc_wire_reason(m->failure->reason, ret->reason);
        return no_payload(frame, "failure", e);
    case TC_PB__WORKER_MESSAGE__KIND_GOODBYE:
        ret->kind = TC_EXPERT_GOODBYE;
        return no_payload(frame, "goodbye", e);
    case TC_PB__WORKER_MESSAGE__KIND_SHARE:
        ret->kind = TC_EXPERT_SHARE;
        ret->attached = m->share->attached;
        tc_wire_reason(m->share->reason, ret->reason);
        return no_payload(frame, "share", e);
    default:
        return tc_fail(e, TC_FORMAT, "not a message of a worker");
    }
}

static tc_status unpack_from_hub(const tc_frame *frame, tc_wire_arena *arena, tc_expert_message *ret,
                                 tc_error *e)
{
    const TcPb__HubMessage *m = (const void *)tc_wire_unpack(&tc_pb__hub_message__descriptor, frame, arena);
    switch (m ? m->kind_case : TC_PB__HUB_MESSAGE__KIND__NOT_SET) {
    case TC_PB__HUB_MESSAGE__KIND_WELCOME:
        ret->kind = TC_EXPERT_WELCOME;
        return unpack_welcome(m->welcome, frame, ret, e);
    case TC_PB__HUB_MESSAGE__KIND_REJECT:
        ret->kind = TC_EXPERT_REJECT;
        tc_wire_reason(m->reject->reason, ret->reason);
        return no_payload(frame, "rejection", e);
    case TC_PB__HUB_MESSAGE__KIND_CALL:
        ret->kind = TC_EXPERT_CALL;
        return unpack_call(m->call, frame, ret, e);
    default:
        return tc_fail(e, TC_FORMAT, "not a message of a hub");
    }
}

tc_status tc_expert_unpack(const void *message, size_t bytes, bool from_worker, tc_expert_message *ret,
                           tc_error *e)
{
    tc_frame frame;
    tc_wire_arena arena;
    memset(ret, 0, sizeof *ret);
    TC_TRY(tc_frame_parse(message, bytes, &frame, e));
    return from_worker ? unpack_from_worker(&frame, &arena, ret, e) : unpack_from_hub(&frame, &arena, ret, e);
}
