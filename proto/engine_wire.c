// SPDX-License-Identifier: Apache-2.0
// Owns: packing and unpacking of the engine link's messages.
#include "proto/engine_wire.h"

#include "common/model/model.h"
#include "engine.pb-c.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

// ---- packing ----
static tc_status pack_client(uint64_t session, TcPb__ClientMessage__KindCase kind, void *inner,
                             tc_wire_header *ret, tc_error *e)
{
    TcPb__ClientMessage m = TC_PB__CLIENT_MESSAGE__INIT;
    m.session = session;
    m.kind_case = kind;
    m.hello = inner; // one place in the union, whatever the kind
    return tc_wire_pack(&m.base, ret, e);
}

static tc_status pack_core(uint64_t session, TcPb__CoreMessage__KindCase kind, void *inner,
                           tc_wire_header *ret, tc_error *e)
{
    TcPb__CoreMessage m = TC_PB__CORE_MESSAGE__INIT;
    m.session = session;
    m.kind_case = kind;
    m.welcome = inner;
    return tc_wire_pack(&m.base, ret, e);
}

tc_status tc_engine_pack_hello(uint64_t session, uint32_t version, tc_wire_header *ret, tc_error *e)
{
    TcPb__ClientHello m = TC_PB__CLIENT_HELLO__INIT;
    m.protocol_version = version;
    return pack_client(session, TC_PB__CLIENT_MESSAGE__KIND_HELLO, &m, ret, e);
}

static tc_status check_sampling(const tc_sampling *s, tc_error *e)
{
    const struct {
        const char *name;
        float value, low, high;
    } fields[] = {
        {"temperature", s->temperature, 0, 100},
        {"top_p", s->top_p, 0, 1},
        {"min_p", s->min_p, 0, 1},
        {"repetition_penalty", s->repetition_penalty, 0.001f, 1000},
        {"presence_penalty", s->presence_penalty, -100, 100},
        {"frequency_penalty", s->frequency_penalty, -100, 100},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!(fields[i].value >= fields[i].low && fields[i].value <= fields[i].high))
            return tc_fail(e, TC_ARGUMENT, "%s is %g, allowed are %g..%g", fields[i].name,
                           (double)fields[i].value, (double)fields[i].low, (double)fields[i].high);
    if (!(s->top_p > 0)) return tc_fail(e, TC_ARGUMENT, "top_p must be above 0");
    return TC_OK;
}

static tc_status check_extras(const tc_generate *g, tc_error *e)
{
    if (g->top_logprobs > TC_LOGPROBS_MAX)
        return tc_fail(e, TC_ARGUMENT, "top_logprobs is %u, allowed are 0..%d", g->top_logprobs,
                       TC_LOGPROBS_MAX);
    if (g->logit_bias_count > TC_LOGIT_BIASES_MAX)
        return tc_fail(e, TC_ARGUMENT, "logit_bias of %u tokens, allowed are %d", g->logit_bias_count,
                       TC_LOGIT_BIASES_MAX);
    if (g->sampling.min_tokens > TC_GENERATE_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "min_tokens is %u, allowed are 0..%d", g->sampling.min_tokens,
                       TC_GENERATE_TOKENS_MAX);
    if (g->hint_count > TC_EXPERT_HINTS_MAX)
        return tc_fail(e, TC_ARGUMENT, "expert_hints name %u experts, allowed are %d", g->hint_count,
                       TC_EXPERT_HINTS_MAX);
    for (uint32_t i = 0; i < g->hint_count && g->hints; i++)
        if (g->hints[i].pin > 1)
            return tc_fail(e, TC_ARGUMENT, "expert hint %u is neither pinned nor not", i);
    for (uint32_t i = 0; i < g->logit_bias_count && g->logit_bias; i++)
        if (!(fabsf(g->logit_bias[i].value) <= 1000))
            return tc_fail(e, TC_ARGUMENT, "logit_bias of token %u is %g, allowed are -1000..1000",
                           g->logit_bias[i].token, (double)g->logit_bias[i].value);
    return TC_OK;
}

static tc_status check_generate(const tc_generate *g, tc_error *e)
{
    if (g->id == 0) return tc_fail(e, TC_ARGUMENT, "request id must not be 0");
    if (g->prompt_count == 0 || g->prompt_count > TC_PROMPT_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "prompt of %u tokens, allowed are 1..%d", g->prompt_count,
                       TC_PROMPT_TOKENS_MAX);
    if (g->max_tokens > TC_GENERATE_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "max_tokens is %u, allowed are 0..%d", g->max_tokens,
                       TC_GENERATE_TOKENS_MAX);
    if (g->stop_token_count > TC_STOP_TOKENS_MAX)
        return tc_fail(e, TC_ARGUMENT, "%u stop tokens, allowed are %d", g->stop_token_count,
                       TC_STOP_TOKENS_MAX);
    if (g->priority < -TC_PRIORITY_MAX || g->priority > TC_PRIORITY_MAX)
        return tc_fail(e, TC_ARGUMENT, "priority is %d, allowed are -%d..%d", g->priority, TC_PRIORITY_MAX,
                       TC_PRIORITY_MAX);
    if (g->more_count >= TC_CHOICES_MAX)
        return tc_fail(e, TC_ARGUMENT, "%u choices, allowed are %d", g->more_count + 1, TC_CHOICES_MAX);
    for (uint32_t i = 0; i < g->more_count; i++)
        if (g->more_ids[i] == 0) return tc_fail(e, TC_ARGUMENT, "request id must not be 0");
    TC_TRY(check_extras(g, e));
    if ((uint32_t)g->constraint.kind >= TC_CONSTRAINT_KINDS)
        return tc_fail(e, TC_ARGUMENT, "constraint of kind %u", (uint32_t)g->constraint.kind);
    if (g->constraint.bytes > TC_CONSTRAINT_TEXT_BYTES_MAX ||
        (g->constraint.bytes && g->constraint.kind == TC_CONSTRAINT_NONE))
        return tc_fail(e, TC_ARGUMENT, "constraint of %zu bytes, allowed are %d", g->constraint.bytes,
                       g->constraint.kind == TC_CONSTRAINT_NONE ? 0 : TC_CONSTRAINT_TEXT_BYTES_MAX);
    return check_sampling(&g->sampling, e);
}

tc_status tc_engine_pack_generate(uint64_t session, const tc_generate *g, tc_wire_header *ret, tc_error *e)
{
    TC_TRY(check_generate(g, e));
    if (*g->request_id && !tc_request_id_is_good(g->request_id, strnlen(g->request_id, sizeof g->request_id)))
        return tc_fail(e, TC_ARGUMENT, "a request id has 1 to %d letters, digits and . _ : -",
                       TC_REQUEST_ID_BYTES_MAX);
    TcPb__Generate m = TC_PB__GENERATE__INIT;
    TcPb__Sampling s = TC_PB__SAMPLING__INIT;
    s.temperature = g->sampling.temperature;
    s.top_p = g->sampling.top_p;
    s.min_p = g->sampling.min_p;
    s.top_k = g->sampling.top_k;
    s.repetition_penalty = g->sampling.repetition_penalty;
    s.presence_penalty = g->sampling.presence_penalty;
    s.frequency_penalty = g->sampling.frequency_penalty;
    s.seeded = g->sampling.seeded;
    s.seed = g->sampling.seed;
    s.min_tokens = g->sampling.min_tokens;
    m.id = g->id;
    m.request_id = (char *)g->request_id;
    m.prompt_count = g->prompt_count;
    m.max_tokens = g->max_tokens;
    m.sampling = &s;
    m.n_stop_tokens = g->stop_token_count;
    m.stop_tokens = (uint32_t *)g->stop_tokens;
    m.ignore_eos = g->ignore_eos;
    m.want_logits = g->want_logits;
    m.want_experts = g->want_experts;
    m.want_gaps = g->want_gaps;
    m.optimize_experts = g->optimize_experts;
    m.priority = g->priority;
    m.deadline_us = g->deadline_us;
    m.scope = g->scope;
    m.no_cache = g->no_cache;
    m.n_more_ids = g->more_count;
    m.more_ids = (uint64_t *)g->more_ids;
    m.want_logprobs = g->want_logprobs;
    m.want_prompt_logprobs = g->want_prompt_logprobs;
    m.top_logprobs = g->top_logprobs;
    m.logit_bias_count = g->logit_bias_count;
    m.constraint_kind = g->constraint.kind;
    m.constraint_bytes = (uint32_t)g->constraint.bytes;
    m.constraint_after = g->constraint_after;
    m.conversation = g->conversation;
    m.expert_profile = g->expert_profile;
    m.hint_count = g->hint_count;
    return pack_client(session, TC_PB__CLIENT_MESSAGE__KIND_GENERATE, &m, ret, e);
}

tc_status tc_engine_pack_cancel(uint64_t session, uint64_t id, tc_wire_header *ret, tc_error *e)
{
    TcPb__Cancel m = TC_PB__CANCEL__INIT;
    m.id = id;
    return pack_client(session, TC_PB__CLIENT_MESSAGE__KIND_CANCEL, &m, ret, e);
}

tc_status tc_engine_pack_hold(uint64_t session, uint64_t id, bool held, tc_wire_header *ret, tc_error *e)
{
    TcPb__Hold m = TC_PB__HOLD__INIT;
    m.id = id;
    m.held = held;
    return pack_client(session, TC_PB__CLIENT_MESSAGE__KIND_HOLD, &m, ret, e);
}

tc_status tc_engine_pack_question(uint64_t session, uint64_t id, tc_question question, tc_wire_header *ret,
                                  tc_error *e)
{
    TcPb__Question m = TC_PB__QUESTION__INIT;
    m.id = id;
    m.question = question;
    return pack_client(session, TC_PB__CLIENT_MESSAGE__KIND_QUESTION, &m, ret, e);
}

tc_status tc_engine_pack_answer(uint64_t session, uint64_t id, tc_status status, tc_wire_header *ret,
                                tc_error *e)
{
    TcPb__Answer m = TC_PB__ANSWER__INIT;
    m.id = id;
    m.status = status;
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_ANSWER, &m, ret, e);
}

tc_status tc_engine_pack_ask(uint64_t session, tc_wire_header *ret, tc_error *e)
{
    TcPb__StatusRequest m = TC_PB__STATUS_REQUEST__INIT;
    return pack_client(session, TC_PB__CLIENT_MESSAGE__KIND_STATUS, &m, ret, e);
}

// Fields of the same name in our struct and in the message, copied in either direction.
// clang-format off
#define INFO_NUMBERS(X) \
    X(layers) X(hidden) X(vocab) X(experts) X(top_k) X(context) X(sessions_max) X(weights_bytes) \
    X(experts_bytes) X(kv_budget_bytes) X(do_sample) X(temperature) X(top_p) X(min_p) X(repetition_penalty) \
    X(default_top_k) X(queue_requests_max) X(queue_tokens_max) X(cache_budget_bytes)
#define INFO_STRINGS(X) X(family) X(model_hash) X(device) X(precision) X(isa)
#define STATUS_NUMBERS(X) \
    X(ready) X(workers_up) X(workers_expected) X(running) X(waiting) X(tokens_generated) X(prompt_tokens) \
    X(expert_calls) X(expert_retries) X(workers_lost) X(expert_hits) X(expert_misses) X(uptime_us) \
    X(step_us_total) X(steps) X(attention_us) X(router_us) X(expert_us) X(wait_us) X(head_us) \
    X(decode_allocations) X(held) X(queue_tokens) X(kv_pages) X(kv_pages_free) X(cached_tokens) X(cache_bytes) \
    X(cache_evictions) X(refused) X(expired) X(sched_us) X(expert_reads) X(experts_fetched) X(placement_us) X(grouped)
#define USAGE_NUMBERS(X) \
    X(prompt_tokens) X(generated_tokens) X(queue_us) X(prefill_us) X(decode_us) X(expert_hits) X(expert_misses) \
    X(cached_tokens) X(stopped_by)
// clang-format on

tc_status tc_engine_pack_welcome(uint64_t session, const tc_model_info *info, tc_wire_header *ret,
                                 tc_error *e)
{
    TcPb__Welcome m = TC_PB__WELCOME__INIT;
    m.protocol_version = TC_ENGINE_PROTOCOL_VERSION;
#define X(f) m.f = info->f;
    INFO_NUMBERS(X)
#undef X
#define X(f) m.f = (char *)info->f;
    INFO_STRINGS(X)
#undef X
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_WELCOME, &m, ret, e);
}

tc_status tc_engine_pack_reject(uint64_t session, const char *reason, tc_wire_header *ret, tc_error *e)
{
    TcPb__Reject m = TC_PB__REJECT__INIT;
    char text[TC_WIRE_REASON_BYTES];
    tc_wire_reason(reason, text);
    m.reason = text;
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_REJECT, &m, ret, e);
}

tc_status tc_engine_pack_tokens(uint64_t session, uint32_t count, tc_wire_header *ret, tc_error *e)
{
    TcPb__Tokens m = TC_PB__TOKENS__INIT;
    m.count = count;
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_TOKENS, &m, ret, e);
}

tc_status tc_engine_pack_evaluated(uint64_t session, const tc_engine_message *shape, tc_wire_header *ret,
                                   tc_error *e)
{
    TcPb__Evaluated m = TC_PB__EVALUATED__INIT;
    m.id = shape->id;
    m.position = shape->position;
    m.positions = shape->positions;
    m.vocab = shape->vocab;
    m.layers = shape->layers;
    m.top_k = shape->top_k;
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_EVALUATED, &m, ret, e);
}

tc_status tc_engine_pack_logprobs(uint64_t session, const tc_engine_message *shape, tc_wire_header *ret,
                                  tc_error *e)
{
    TcPb__Logprobs m = TC_PB__LOGPROBS__INIT;
    m.id = shape->id;
    m.position = shape->position;
    m.positions = shape->positions;
    m.top = shape->top;
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_LOGPROBS, &m, ret, e);
}

tc_status tc_engine_pack_finished(uint64_t session, uint64_t id, tc_finish finish, const tc_usage *usage,
                                  tc_wire_header *ret, tc_error *e)
{
    TcPb__Finished m = TC_PB__FINISHED__INIT;
    TcPb__Usage u = TC_PB__USAGE__INIT;
    m.id = id;
    m.finish = finish;
    m.usage = &u;
#define X(f) u.f = usage->f;
    USAGE_NUMBERS(X)
#undef X
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_FINISHED, &m, ret, e);
}

tc_status tc_engine_pack_failed(uint64_t session, uint64_t id, tc_status status, const char *reason,
                                tc_wire_header *ret, tc_error *e)
{
    TcPb__Failed m = TC_PB__FAILED__INIT;
    char text[TC_WIRE_REASON_BYTES];
    tc_wire_reason(reason, text);
    m.id = id;
    m.status = status;
    m.reason = text;
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_FAILED, &m, ret, e);
}

tc_status tc_engine_pack_status(uint64_t session, const tc_engine_status *status, tc_wire_header *ret,
                                tc_error *e)
{
    TcPb__EngineStatus m = TC_PB__ENGINE_STATUS__INIT;
    char text[TC_WIRE_REASON_BYTES];
#define X(f) m.f = status->f;
    STATUS_NUMBERS(X)
#undef X
    tc_wire_reason(status->reason, text);
    m.reason = text;
    if (status->detail) {
        m.detail_layers = (uint32_t)status->detail->layer_count;
        m.detail_workers = (uint32_t)status->detail->worker_count;
    }
    return pack_core(session, TC_PB__CORE_MESSAGE__KIND_STATUS, &m, ret, e);
}

enum { DETAIL_FIXED_BYTES = offsetof(tc_engine_detail, layers) };

size_t tc_engine_detail_bytes(uint64_t layers, uint64_t workers)
{
    return DETAIL_FIXED_BYTES + layers * sizeof(tc_layer_lookups) + workers * sizeof(tc_worker_stats);
}

void tc_engine_detail_write(const tc_engine_detail *detail, uint8_t *payload)
{
    size_t layers = detail->layer_count * sizeof *detail->layers;
    memcpy(payload, detail, DETAIL_FIXED_BYTES);
    memcpy(payload + DETAIL_FIXED_BYTES, detail->layers, layers);
    memcpy(payload + DETAIL_FIXED_BYTES + layers, detail->workers,
           detail->worker_count * sizeof *detail->workers);
}

void tc_engine_detail_read(const tc_engine_message *m, tc_engine_detail *ret)
{
    size_t layers = m->detail_layers * sizeof *ret->layers;
    memcpy(ret, m->detail, DETAIL_FIXED_BYTES);
    memcpy(ret->layers, m->detail + DETAIL_FIXED_BYTES, layers);
    memcpy(ret->workers, m->detail + DETAIL_FIXED_BYTES + layers, m->detail_workers * sizeof *ret->workers);
    ret->layer_count = m->detail_layers; // the counts that were checked
    ret->worker_count = m->detail_workers;
}

void tc_token_record_write(uint8_t *record, uint64_t id, uint32_t token, float gap)
{
    memcpy(record, &id, 8);
    memcpy(record + 8, &token, 4);
    memcpy(record + 12, &gap, 4);
}

void tc_token_record_read(const uint8_t *record, uint64_t *id, uint32_t *token, float *gap)
{
    memcpy(id, record, 8);
    memcpy(token, record + 8, 4);
    memcpy(gap, record + 12, 4);
}

// ---- unpacking ----
static tc_status payload_is(const tc_frame *frame, size_t bytes, const char *what, tc_error *e)
{
    if (frame->payload_bytes != bytes)
        return tc_fail(e, TC_FORMAT, "%s with %zu bytes of payload, not %zu", what, frame->payload_bytes,
                       bytes);
    return TC_OK;
}

static tc_status unpack_generate(const TcPb__Generate *m, const tc_frame *frame, tc_engine_message *ret,
                                 tc_error *e)
{
    tc_generate *g = &ret->generate;
    const TcPb__Sampling *s = m->sampling;
    if (!s) return tc_fail(e, TC_FORMAT, "generate without sampling");
    g->id = ret->id = m->id;
    if (*m->request_id && !tc_request_id_is_good(m->request_id, strlen(m->request_id)))
        return tc_fail(e, TC_FORMAT, "generate with a request id that is none");
    snprintf(g->request_id, sizeof g->request_id, "%s", m->request_id);
    g->prompt_count = m->prompt_count;
    g->max_tokens = m->max_tokens;
    g->sampling = (tc_sampling){.temperature = s->temperature,
                                .top_p = s->top_p,
                                .min_p = s->min_p,
                                .top_k = s->top_k,
                                .repetition_penalty = s->repetition_penalty,
                                .presence_penalty = s->presence_penalty,
                                .frequency_penalty = s->frequency_penalty,
                                .seeded = s->seeded,
                                .seed = s->seed,
                                .min_tokens = s->min_tokens};
    if (m->n_stop_tokens > TC_STOP_TOKENS_MAX)
        return tc_fail(e, TC_FORMAT, "%zu stop tokens", m->n_stop_tokens);
    g->stop_token_count = (uint32_t)m->n_stop_tokens;
    for (uint32_t i = 0; i < g->stop_token_count; i++) g->stop_tokens[i] = m->stop_tokens[i];
    g->ignore_eos = m->ignore_eos;
    g->want_logits = m->want_logits;
    g->want_experts = m->want_experts;
    g->want_gaps = m->want_gaps;
    g->optimize_experts = m->optimize_experts;
    g->priority = m->priority;
    g->deadline_us = m->deadline_us;
    g->scope = m->scope;
    g->no_cache = m->no_cache;
    if (m->n_more_ids >= TC_CHOICES_MAX) return tc_fail(e, TC_FORMAT, "%zu further choices", m->n_more_ids);
    g->more_count = (uint32_t)m->n_more_ids;
    for (uint32_t i = 0; i < g->more_count; i++) g->more_ids[i] = m->more_ids[i];
    g->want_logprobs = m->want_logprobs;
    g->want_prompt_logprobs = m->want_prompt_logprobs;
    g->top_logprobs = m->top_logprobs;
    g->logit_bias_count = m->logit_bias_count;
    if (m->constraint_kind >= TC_CONSTRAINT_KINDS)
        return tc_fail(e, TC_FORMAT, "constraint of kind %u", m->constraint_kind);
    g->constraint.kind = (tc_constraint_kind)m->constraint_kind;
    g->constraint.bytes = m->constraint_bytes;
    g->constraint_after = m->constraint_after;
    g->conversation = m->conversation;
    g->expert_profile = m->expert_profile;
    g->hint_count = m->hint_count;
    tc_status status = check_generate(g, e);
    if (status != TC_OK) return e ? e->status = TC_FORMAT : TC_FORMAT;
    size_t prompt_bytes = (size_t)g->prompt_count * sizeof(uint32_t);
    size_t bias_bytes = g->logit_bias_count * sizeof *g->logit_bias;
    size_t hint_bytes = g->hint_count * sizeof *g->hints;
    TC_TRY(payload_is(frame, prompt_bytes + bias_bytes + hint_bytes + g->constraint.bytes, "generate", e));
    g->prompt = (const uint32_t *)(const void *)frame->payload;
    g->logit_bias = (const tc_token_value *)(const void *)(frame->payload + prompt_bytes);
    g->hints = (const tc_expert_hint *)(const void *)(frame->payload + prompt_bytes + bias_bytes);
    g->constraint.text = (const char *)frame->payload + prompt_bytes + bias_bytes + hint_bytes;
    status = check_extras(g, e);
    if (status != TC_OK) return e ? e->status = TC_FORMAT : TC_FORMAT;
    return TC_OK;
}

static tc_status unpack_from_client(const tc_frame *frame, tc_wire_arena *arena, tc_engine_message *ret,
                                    tc_error *e)
{
    const TcPb__ClientMessage *m =
        (const void *)tc_wire_unpack(&tc_pb__client_message__descriptor, frame, arena);
    if (!m) return tc_fail(e, TC_FORMAT, "not a message of a client");
    ret->session = m->session;
    switch (m->kind_case) {
    case TC_PB__CLIENT_MESSAGE__KIND_HELLO:
        ret->kind = TC_ENGINE_M_HELLO;
        ret->protocol_version = m->hello->protocol_version;
        return TC_OK;
    case TC_PB__CLIENT_MESSAGE__KIND_GENERATE:
        ret->kind = TC_ENGINE_M_GENERATE;
        return unpack_generate(m->generate, frame, ret, e);
    case TC_PB__CLIENT_MESSAGE__KIND_CANCEL:
        ret->kind = TC_ENGINE_M_CANCEL;
        ret->id = m->cancel->id;
        return payload_is(frame, 0, "cancel", e);
    case TC_PB__CLIENT_MESSAGE__KIND_HOLD:
        ret->kind = TC_ENGINE_M_HOLD;
        ret->id = m->hold->id;
        ret->held = m->hold->held;
        return payload_is(frame, 0, "hold", e);
    case TC_PB__CLIENT_MESSAGE__KIND_STATUS:
        ret->kind = TC_ENGINE_M_ASK;
        return payload_is(frame, 0, "status request", e);
    case TC_PB__CLIENT_MESSAGE__KIND_QUESTION:
        ret->kind = TC_ENGINE_M_QUESTION;
        ret->id = m->question->id;
        if (m->question->question >= TC_QUESTIONS || frame->payload_bytes > TC_QUESTION_BYTES_MAX)
            return tc_fail(e, TC_FORMAT, "question %u of %zu bytes", m->question->question,
                           frame->payload_bytes);
        ret->question = (tc_question)m->question->question;
        ret->text = (const char *)frame->payload;
        ret->text_bytes = frame->payload_bytes;
        return TC_OK;
    default:
        return tc_fail(e, TC_FORMAT, "not a message of a client");
    }
}

static tc_status unpack_welcome(const TcPb__Welcome *m, const tc_frame *frame, tc_engine_message *ret,
                                tc_error *e)
{
    tc_model_info *info = &ret->info;
    ret->protocol_version = m->protocol_version;
    if (m->protocol_version != TC_ENGINE_PROTOCOL_VERSION) return TC_OK;
    TC_TRY(payload_is(frame, 0, "welcome", e));
#define X(f) info->f = m->f;
    INFO_NUMBERS(X)
#undef X
#define X(f)                                                                                                 \
    if (!tc_wire_string(m->f, info->f, sizeof info->f))                                                      \
        return tc_fail(e, TC_FORMAT, "welcome: " #f " is too long");
    INFO_STRINGS(X)
#undef X
    if (info->layers == 0 || info->layers > TC_LAYERS_MAX || info->vocab == 0 || info->vocab > TC_VOCAB_MAX ||
        info->hidden == 0 || info->hidden > TC_HIDDEN_MAX || info->experts > TC_EXPERTS_MAX ||
        info->top_k > TC_TOP_K_MAX)
        return tc_fail(e, TC_FORMAT,
                       "welcome: model of %u layers, hidden %u, vocabulary %u, %u experts, top %u",
                       info->layers, info->hidden, info->vocab, info->experts, info->top_k);
    if (!isfinite(info->temperature) || !isfinite(info->top_p) || !isfinite(info->min_p) ||
        !isfinite(info->repetition_penalty))
        return tc_fail(e, TC_FORMAT, "welcome: sampling defaults are not finite");
    return TC_OK;
}

static tc_status unpack_evaluated(const TcPb__Evaluated *m, const tc_frame *frame, tc_engine_message *ret,
                                  tc_error *e)
{
    if (m->positions == 0 || m->positions > TC_PROMPT_TOKENS_MAX ||
        m->position > 2 * TC_PROMPT_TOKENS_MAX - m->positions || m->vocab > TC_VOCAB_MAX ||
        m->layers > TC_LAYERS_MAX || m->top_k > TC_TOP_K_MAX || (m->layers == 0) != (m->top_k == 0))
        return tc_fail(e, TC_FORMAT, "evaluated: positions %u + %u, vocabulary %u, %u layers, top %u",
                       m->position, m->positions, m->vocab, m->layers, m->top_k);
    size_t logits_bytes = (size_t)m->positions * m->vocab * sizeof(float);
    size_t experts_bytes = (size_t)m->positions * m->layers * m->top_k * sizeof(int32_t);
    TC_TRY(payload_is(frame, logits_bytes + experts_bytes, "evaluated", e));
    ret->id = m->id;
    ret->position = m->position;
    ret->positions = m->positions;
    ret->vocab = m->vocab;
    ret->layers = m->layers;
    ret->top_k = m->top_k;
    if (m->vocab > 0) ret->logits = (const float *)(const void *)frame->payload;
    if (m->layers > 0) ret->experts = (const int32_t *)(const void *)(frame->payload + logits_bytes);
    return TC_OK;
}

static tc_status unpack_logprobs(const TcPb__Logprobs *m, const tc_frame *frame, tc_engine_message *ret,
                                 tc_error *e)
{
    if (m->positions == 0 || m->positions > TC_PROMPT_TOKENS_MAX ||
        m->position > 2 * TC_PROMPT_TOKENS_MAX - m->positions || m->top > TC_LOGPROBS_MAX)
        return tc_fail(e, TC_FORMAT, "logprobs: positions %u + %u, top %u", m->position, m->positions,
                       m->top);
    TC_TRY(payload_is(frame, (size_t)m->positions * (1 + m->top) * sizeof *ret->logprobs, "logprobs", e));
    ret->id = m->id;
    ret->position = m->position;
    ret->positions = m->positions;
    ret->top = m->top;
    ret->logprobs = (const tc_token_value *)(const void *)frame->payload;
    return TC_OK;
}

static tc_status unpack_tokens(const TcPb__Tokens *m, const tc_frame *frame, tc_engine_message *ret,
                               tc_error *e)
{
    if (m->count == 0) return tc_fail(e, TC_FORMAT, "tokens: none");
    TC_TRY(payload_is(frame, (size_t)m->count * TC_TOKEN_RECORD_BYTES, "tokens", e));
    ret->count = m->count;
    ret->records = frame->payload;
    return TC_OK;
}

static tc_status unpack_finished(const TcPb__Finished *m, tc_engine_message *ret, tc_error *e)
{
    if (m->finish > TC_FINISH_CANCELLED || !m->usage)
        return tc_fail(e, TC_FORMAT, "finished: unknown reason or no usage");
    ret->id = m->id;
    ret->finish = (tc_finish)m->finish;
#define X(f) ret->usage.f = m->usage->f;
    USAGE_NUMBERS(X)
#undef X
    return TC_OK;
}

static tc_status unpack_detail(const TcPb__EngineStatus *m, const tc_frame *frame, tc_engine_message *ret,
                               tc_error *e)
{
    if (frame->payload_bytes == 0 && !m->detail_layers && !m->detail_workers) return TC_OK;
    if (m->detail_layers > TC_DETAIL_LAYERS_MAX || m->detail_workers > TC_DETAIL_WORKERS_MAX)
        return tc_fail(e, TC_FORMAT, "status: %u layers, %u workers", m->detail_layers, m->detail_workers);
    TC_TRY(payload_is(frame, tc_engine_detail_bytes(m->detail_layers, m->detail_workers), "status", e));
    ret->detail = frame->payload;
    ret->detail_layers = m->detail_layers;
    ret->detail_workers = m->detail_workers;
    return TC_OK;
}

static void unpack_status(const TcPb__EngineStatus *m, tc_engine_message *ret)
{
#define X(f) ret->engine.f = m->f;
    STATUS_NUMBERS(X)
#undef X
    tc_wire_reason(m->reason, ret->engine.reason);
}

static tc_status unpack_from_core(const tc_frame *frame, tc_wire_arena *arena, tc_engine_message *ret,
                                  tc_error *e)
{
    const TcPb__CoreMessage *m = (const void *)tc_wire_unpack(&tc_pb__core_message__descriptor, frame, arena);
    if (!m) return tc_fail(e, TC_FORMAT, "not a message of a core");
    ret->session = m->session;
    switch (m->kind_case) {
    case TC_PB__CORE_MESSAGE__KIND_WELCOME:
        ret->kind = TC_ENGINE_M_WELCOME;
        return unpack_welcome(m->welcome, frame, ret, e);
    case TC_PB__CORE_MESSAGE__KIND_REJECT:
        ret->kind = TC_ENGINE_M_REJECT;
        tc_wire_reason(m->reject->reason, ret->reason);
        return payload_is(frame, 0, "rejection", e);
    case TC_PB__CORE_MESSAGE__KIND_TOKENS:
        ret->kind = TC_ENGINE_M_TOKENS;
        return unpack_tokens(m->tokens, frame, ret, e);
    case TC_PB__CORE_MESSAGE__KIND_EVALUATED:
        ret->kind = TC_ENGINE_M_EVALUATED;
        return unpack_evaluated(m->evaluated, frame, ret, e);
    case TC_PB__CORE_MESSAGE__KIND_LOGPROBS:
        ret->kind = TC_ENGINE_M_LOGPROBS;
        return unpack_logprobs(m->logprobs, frame, ret, e);
    case TC_PB__CORE_MESSAGE__KIND_FINISHED:
        ret->kind = TC_ENGINE_M_FINISHED;
        TC_TRY(payload_is(frame, 0, "finished", e));
        return unpack_finished(m->finished, ret, e);
    case TC_PB__CORE_MESSAGE__KIND_FAILED:
        ret->kind = TC_ENGINE_M_FAILED;
        ret->id = m->failed->id;
        ret->status = m->failed->status > TC_OK && m->failed->status < TC_STATUS_COUNT
                          ? (tc_status)m->failed->status
                          : TC_INTERNAL;
        tc_wire_reason(m->failed->reason, ret->reason);
        return payload_is(frame, 0, "failed", e);
    case TC_PB__CORE_MESSAGE__KIND_STATUS:
        ret->kind = TC_ENGINE_M_STATUS;
        unpack_status(m->status, ret);
        return unpack_detail(m->status, frame, ret, e);
    case TC_PB__CORE_MESSAGE__KIND_ANSWER:
        ret->kind = TC_ENGINE_M_ANSWER;
        ret->id = m->answer->id;
        ret->status = m->answer->status < TC_STATUS_COUNT ? (tc_status)m->answer->status : TC_INTERNAL;
        if (frame->payload_bytes > TC_ANSWER_BYTES_MAX)
            return tc_fail(e, TC_FORMAT, "answer of %zu bytes", frame->payload_bytes);
        ret->text = (const char *)frame->payload;
        ret->text_bytes = frame->payload_bytes;
        return TC_OK;
    default:
        return tc_fail(e, TC_FORMAT, "not a message of a core");
    }
}

tc_status tc_engine_unpack(const void *message, size_t bytes, bool from_client, tc_engine_message *ret,
                           tc_error *e)
{
    tc_frame frame;
    tc_wire_arena arena;
    memset(ret, 0, sizeof *ret);
    TC_TRY(tc_frame_parse(message, bytes, &frame, e));
    return from_client ? unpack_from_client(&frame, &arena, ret, e)
                       : unpack_from_core(&frame, &arena, ret, e);
}
