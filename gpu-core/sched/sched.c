// SPDX-License-Identifier: Apache-2.0
// Owns: admission, batch building, and what follows a step (sampling, stop conditions, reports).
#include "gpu-core/sched/sched.h"
#include "common/base/clock.h"
#include "gpu-core/forward/sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef enum request_state { REQUEST_WAITING, REQUEST_PREFILL, REQUEST_DECODE } request_state;

typedef struct request {
    request_state state;
    tc_generate ask;  // ask.prompt is `prompt` below
    uint32_t *prompt; // owned, malloc'ed
    tc_session *session;
    tc_sample_params sampling;
    tc_usage usage;
    uint64_t arrived_us, started_us, first_token_us;
    uint32_t batch_tokens, batch_first;                              // its segment in the step being run
    tc_token_value *bias;                                            // owned, malloc'ed
    uint32_t end_tokens[TC_EOS_MAX + TC_STOP_TOKENS_MAX], end_count; // what ends it
} request;

struct tc_sched {
    tc_sched_options o;
    tc_sampler *sampler;
    request *requests[TC_REQUESTS_MAX]; // in order of arrival
    uint32_t count;
    uint64_t held_tokens;
    // the batch being built
    uint32_t ids[TC_BATCH_TOKENS_MAX], position[TC_BATCH_TOKENS_MAX], segment[TC_BATCH_TOKENS_MAX];
    tc_segment segments[TC_BATCH_SEGMENTS_MAX];
    request *owner[TC_BATCH_SEGMENTS_MAX];
    tc_batch batch;
    int32_t *chosen; // [TC_BATCH_TOKENS_MAX][layers][top_k]
    uint32_t pairs_a_token;
    uint64_t start_us;
    tc_engine_status total; // counters only
};

tc_status tc_sched_create(const tc_sched_options *options, tc_sched **ret, tc_error *e)
{
    const tc_model_desc *desc = options->desc;
    tc_sched *s = tc_alloc(TC_MEM_OTHER, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the scheduler");
    s->o = *options;
    s->start_us = tc_now_us();
    for (uint32_t n = 0; n < desc->layers; n++)
        if (desc->layer[n].moe) s->pairs_a_token += desc->top_k;
    s->chosen =
        tc_alloc(TC_MEM_SCRATCH, (size_t)TC_BATCH_TOKENS_MAX * desc->layers * (desc->top_k ? desc->top_k : 1),
                 sizeof(int32_t));
    tc_status status = s->chosen ? tc_sampler_create(desc->vocab, &s->sampler, e)
                                 : tc_fail(e, TC_NOMEM, "out of memory for routing notes");
    if (status != TC_OK) {
        tc_sched_free(s);
        return status;
    }
    *ret = s;
    return TC_OK;
}

static void drop_request(tc_sched *s, uint32_t index)
{
    request *r = s->requests[index];
    tc_session_end(s->o.pool, r->session);
    s->held_tokens -= r->ask.prompt_count;
    free(r->prompt);
    free(r->bias);
    free(r);
    memmove(&s->requests[index], &s->requests[index + 1], (s->count - index - 1) * sizeof *s->requests);
    s->count--;
}

void tc_sched_free(tc_sched *s)
{
    if (!s) return;
    while (s->count) drop_request(s, s->count - 1);
    tc_sampler_free(s->sampler);
    tc_free(s->chosen);
    tc_free(s);
}

static uint32_t index_of(const tc_sched *s, uint64_t id)
{
    uint32_t i = 0;
    while (i < s->count && s->requests[i]->ask.id != id) i++;
    return i;
}

static void finish(tc_sched *s, request *r, tc_finish why)
{
    uint64_t now = tc_now_us();
    r->usage.prompt_tokens = r->ask.prompt_count;
    if (r->first_token_us) r->usage.decode_us = now - r->first_token_us;
    tc_engine_server_finished(s->o.server, r->ask.id, why, &r->usage);
    drop_request(s, index_of(s, r->ask.id));
}

static void fail(tc_sched *s, uint64_t id, tc_status status, const char *reason)
{
    tc_engine_server_failed(s->o.server, id, status, reason);
    uint32_t i = index_of(s, id);
    if (i < s->count) drop_request(s, i);
}

void tc_sched_fail_all(tc_sched *s, tc_status status, const char *reason)
{
    while (s->count) fail(s, s->requests[0]->ask.id, status, reason);
    tc_engine_server_flush(s->o.server);
}

// ---- commands ----

static tc_status check_request(const tc_sched *s, const tc_generate *g, tc_error *e)
{
    if (index_of(s, g->id) < s->count) return tc_fail(e, TC_ARGUMENT, "request id is in use");
    if (s->count == TC_REQUESTS_MAX)
        return tc_fail(e, TC_BUSY, "%d requests are waiting or running", TC_REQUESTS_MAX);
    if (s->held_tokens + g->prompt_count > TC_WAITING_TOKENS_MAX)
        return tc_fail(e, TC_BUSY, "the queue holds %llu prompt tokens", (unsigned long long)s->held_tokens);
    if (g->prompt_count < 1) return tc_fail(e, TC_ARGUMENT, "the prompt has no tokens");
    if (g->prompt_count > s->o.context || (g->max_tokens && g->prompt_count >= s->o.context))
        return tc_fail(e, TC_LIMIT, "the prompt has %u tokens, the context holds %u with the answer",
                       g->prompt_count, s->o.context);
    for (uint32_t i = 0; i < g->prompt_count; i++)
        if (g->prompt[i] >= s->o.desc->vocab)
            return tc_fail(e, TC_ARGUMENT, "token id %u is not below the vocabulary size %u", g->prompt[i],
                           s->o.desc->vocab);
    if (g->constraint.kind != TC_CONSTRAINT_NONE)
        return tc_fail(e, TC_UNSUPPORTED, "this core keeps no constraints");
    return TC_OK;
}

// What ends this request, in the order that finish() tells: the model's end tokens, then its own.
static void list_end_tokens(const tc_sched *s, request *r)
{
    const tc_generation_defaults *g = &s->o.desc->generation;
    for (uint32_t i = 0; i < g->eos_count && !r->ask.ignore_eos; i++)
        r->end_tokens[r->end_count++] = g->eos[i];
    for (uint32_t i = 0; i < r->ask.stop_token_count; i++)
        r->end_tokens[r->end_count++] = r->ask.stop_tokens[i];
}

static tc_sample_params sample_params(const tc_sampling *a)
{
    tc_sample_params p = {
        a->temperature,       a->top_p, a->min_p, a->top_k, a->repetition_penalty, a->presence_penalty,
        a->frequency_penalty, a->seed};
    if (!a->seeded && getrandom(&p.seed, sizeof p.seed, GRND_NONBLOCK) != sizeof p.seed) p.seed = tc_now_ns();
    return p;
}

static void on_generate(tc_sched *s, const tc_generate *g)
{
    tc_error error;
    tc_status status = check_request(s, g, &error);
    if (status != TC_OK) {
        tc_engine_server_failed(s->o.server, g->id, status, error.text);
        return;
    }
    request *r = calloc(1, sizeof *r);
    uint32_t *prompt = malloc(g->prompt_count * sizeof *prompt);
    if (r && g->logit_bias_count) r->bias = malloc(g->logit_bias_count * sizeof *r->bias);
    if (!r || !prompt || (g->logit_bias_count && !r->bias)) {
        if (r) free(r->bias);
        free(r);
        free(prompt);
        tc_engine_server_failed(s->o.server, g->id, TC_NOMEM, "out of memory for the request");
        return;
    }
    memcpy(prompt, g->prompt, g->prompt_count * sizeof *prompt);
    r->ask = *g;
    r->ask.prompt = r->prompt = prompt;
    if (r->ask.max_tokens > s->o.context - g->prompt_count)
        r->ask.max_tokens = s->o.context - g->prompt_count;
    r->sampling = sample_params(&g->sampling);
    if (r->bias) memcpy(r->bias, g->logit_bias, g->logit_bias_count * sizeof *r->bias);
    r->sampling.bias = r->ask.logit_bias = r->bias;
    r->sampling.bias_count = g->logit_bias_count;
    r->sampling.forbidden = r->end_tokens;
    list_end_tokens(s, r);
    r->arrived_us = tc_now_us();
    s->requests[s->count++] = r;
    s->held_tokens += g->prompt_count;
}

void tc_sched_command(tc_sched *s, const tc_command *command)
{
    uint32_t i;
    tc_engine_status status;
    switch (command->kind) {
    case TC_COMMAND_GENERATE:
        on_generate(s, &command->generate);
        break;
    case TC_COMMAND_CANCEL:
        i = index_of(s, command->id);
        if (i < s->count) finish(s, s->requests[i], TC_FINISH_CANCELLED);
        break;
    case TC_COMMAND_HOLD:
        break;
    case TC_COMMAND_STATUS:
        tc_sched_status(s, &status);
        tc_engine_server_status(s->o.server, &status);
        break;
    case TC_COMMAND_CLIENT_GONE:
        while (s->count) drop_request(s, s->count - 1);
        break;
    }
    tc_engine_server_flush(s->o.server);
}

// ---- building a step ----

// In order of arrival; the first that does not fit stops the rest, so that nobody is overtaken for ever.
static void admit(tc_sched *s)
{
    for (uint32_t i = 0; i < s->count; i++) {
        request *r = s->requests[i];
        if (r->state != REQUEST_WAITING) continue;
        tc_error error;
        tc_status status =
            tc_session_start(s->o.pool, r->ask.prompt_count + r->ask.max_tokens, &r->session, &error);
        if (status == TC_BUSY) return;
        if (status != TC_OK) {
            fail(s, r->ask.id, status, error.text);
            i--;
            continue;
        }
        memcpy(r->session->tokens, r->prompt, r->ask.prompt_count * sizeof *r->prompt);
        r->session->count = r->ask.prompt_count;
        r->state = REQUEST_PREFILL;
        r->started_us = tc_now_us();
        r->usage.queue_us = r->started_us - r->arrived_us;
    }
}

static void add_segment(tc_sched *s, request *r, uint32_t tokens)
{
    tc_session *session = r->session;
    tc_segment *segment = &s->segments[s->batch.segments];
    *segment = (tc_segment){s->batch.tokens, tokens, session->processed, session->pages, session->slot};
    for (uint32_t i = 0; i < tokens; i++) {
        uint32_t at = s->batch.tokens + i;
        s->ids[at] = session->tokens[session->processed + i];
        s->position[at] = session->processed + i;
        s->segment[at] = s->batch.segments;
    }
    r->batch_first = s->batch.tokens;
    r->batch_tokens = tokens;
    s->owner[s->batch.segments++] = r;
    s->batch.tokens += tokens;
}

static void build_batch(tc_sched *s)
{
    s->batch = (tc_batch){0, 0, s->ids, s->position, s->segment, s->segments};
    for (uint32_t i = 0; i < s->count && s->batch.segments < TC_BATCH_SEGMENTS_MAX; i++)
        if (s->requests[i]->state == REQUEST_DECODE) add_segment(s, s->requests[i], 1);
    uint32_t room = s->batch.tokens ? TC_PREFILL_BESIDE_DECODE : TC_BATCH_TOKENS_MAX;
    if (room > TC_BATCH_TOKENS_MAX - s->batch.tokens) room = TC_BATCH_TOKENS_MAX - s->batch.tokens;
    for (uint32_t i = 0; i < s->count && room && s->batch.segments < TC_BATCH_SEGMENTS_MAX; i++) {
        request *r = s->requests[i];
        if (r->state != REQUEST_PREFILL) continue;
        uint32_t left = r->session->count - r->session->processed;
        uint32_t n = left < room ? left : room;
        add_segment(s, r, n);
        room -= n;
    }
}

// ---- after a step ----

static void report_evaluation(tc_sched *s, const request *r)
{
    const tc_model_desc *desc = s->o.desc;
    uint32_t vocab = desc->vocab, stride = desc->layers * desc->top_k;
    for (uint32_t done = 0; done < r->batch_tokens;) {
        uint32_t rows[TC_LOGIT_ROWS_MAX], n = r->batch_tokens - done;
        if (n > TC_LOGIT_ROWS_MAX) n = TC_LOGIT_ROWS_MAX;
        for (uint32_t i = 0; i < n; i++) rows[i] = r->batch_first + done + i;
        bool prompt = s->position[rows[0]] < r->ask.prompt_count;
        const float *logits = r->ask.want_logits && prompt ? tc_forward_logits(s->o.forward, rows, n) : NULL;
        const int32_t *chosen = r->ask.want_experts ? s->chosen + (size_t)rows[0] * stride : NULL;
        tc_engine_server_evaluated(s->o.server, r->ask.id, s->position[rows[0]], n, vocab, logits,
                                   desc->layers, desc->top_k, chosen);
        done += n;
    }
}

// Log-probabilities of the prompt's tokens that this step's positions predict.
static void report_prompt_logprobs(tc_sched *s, const request *r)
{
    uint32_t vocab = s->o.desc->vocab, top = r->ask.top_logprobs < vocab ? r->ask.top_logprobs : vocab;
    uint32_t at = s->position[r->batch_first], end = at + r->batch_tokens;
    if (end >= r->ask.prompt_count) end = r->ask.prompt_count - 1; // the last position predicts the answer
    while (at < end) {
        tc_token_value values[(1 + TC_LOGPROBS_MAX) * TC_LOGIT_ROWS_MAX];
        uint32_t rows[TC_LOGIT_ROWS_MAX], n = end - at < TC_LOGIT_ROWS_MAX ? end - at : TC_LOGIT_ROWS_MAX;
        for (uint32_t i = 0; i < n; i++) rows[i] = r->batch_first + at + i - s->position[r->batch_first];
        const float *logits = tc_forward_logits(s->o.forward, rows, n);
        for (uint32_t i = 0; i < n; i++)
            tc_logprobs(logits + (size_t)i * vocab, vocab, r->session->tokens[at + i + 1], top,
                        values + i * (1 + top));
        tc_engine_server_logprobs(s->o.server, r->ask.id, at + 1, n, top, values);
        at += n;
    }
}

static void report_logprobs(tc_sched *s, const request *r, const float *logits, uint32_t token)
{
    tc_token_value values[1 + TC_LOGPROBS_MAX];
    uint32_t vocab = s->o.desc->vocab, top = r->ask.top_logprobs < vocab ? r->ask.top_logprobs : vocab;
    tc_logprobs(logits, vocab, token, top, values);
    tc_engine_server_logprobs(s->o.server, r->ask.id, r->session->count, 1, top, values);
}

// Whether the token ends the request, and through which of its own stop tokens.
static bool is_stop(request *r, uint32_t token)
{
    for (uint32_t i = 0; i < r->end_count; i++) {
        if (r->end_tokens[i] != token) continue;
        if (i >= r->end_count - r->ask.stop_token_count) r->usage.stopped_by = 1 + token;
        return true;
    }
    return false;
}

static void take_token(tc_sched *s, request *r, const float *logits)
{
    tc_session *session = r->session;
    float gap = 0;
    if (r->state == REQUEST_PREFILL) {
        r->state = REQUEST_DECODE;
        r->first_token_us = tc_now_us();
        r->usage.prefill_us = r->first_token_us - r->started_us;
    }
    if (r->ask.max_tokens == 0) {
        finish(s, r, TC_FINISH_LENGTH);
        return;
    }
    r->sampling.forbidden_count = r->usage.generated_tokens < r->ask.sampling.min_tokens ? r->end_count : 0;
    uint32_t token = tc_sample(s->sampler, logits, &r->sampling, session->tokens, r->ask.prompt_count,
                               session->count, &gap);
    if (is_stop(r, token)) {
        finish(s, r, TC_FINISH_STOP);
        return;
    }
    if (r->ask.want_logprobs) report_logprobs(s, r, logits, token);
    tc_engine_server_token(s->o.server, r->ask.id, token, gap);
    s->total.tokens_generated++;
    r->usage.generated_tokens++;
    session->tokens[session->count++] = token;
    if (r->usage.generated_tokens == r->ask.max_tokens) finish(s, r, TC_FINISH_LENGTH);
}

static void after_step(tc_sched *s)
{
    uint32_t rows[TC_BATCH_SEGMENTS_MAX], n = 0;
    request *sampled[TC_BATCH_SEGMENTS_MAX];
    for (uint32_t i = 0; i < s->batch.segments; i++) {
        request *r = s->owner[i];
        uint64_t pairs = (uint64_t)r->batch_tokens * s->pairs_a_token;
        *(s->o.experts_are_hot ? &r->usage.expert_hits : &r->usage.expert_misses) += pairs;
        *(s->o.experts_are_hot ? &s->total.expert_hits : &s->total.expert_misses) += pairs;
        r->session->processed += r->batch_tokens;
        if (r->state == REQUEST_PREFILL) {
            s->total.prompt_tokens += r->batch_tokens;
            if (r->ask.want_logits || r->ask.want_experts) report_evaluation(s, r);
            if (r->ask.want_prompt_logprobs) report_prompt_logprobs(s, r);
            if (r->session->processed < r->session->count) continue;
        } else if (r->ask.want_experts) {
            report_evaluation(s, r);
        }
        rows[n] = r->batch_first + r->batch_tokens - 1;
        sampled[n++] = r;
    }
    if (n == 0) return;
    const float *logits = tc_forward_logits(s->o.forward, rows, n);
    for (uint32_t i = 0; i < n; i++) take_token(s, sampled[i], logits + (size_t)i * s->o.desc->vocab);
}

bool tc_sched_step(tc_sched *s)
{
    tc_error error;
    admit(s);
    build_batch(s);
    if (s->batch.tokens == 0) return false;
    uint64_t start = tc_now_us();
    bool note = false;
    for (uint32_t i = 0; i < s->batch.segments; i++) note |= s->owner[i]->ask.want_experts;
    tc_mem_guard_begin(); // a step allocates nothing
    tc_status status = tc_forward_run(s->o.forward, &s->batch, note ? s->chosen : NULL, &error);
    s->total.decode_allocations += tc_mem_guard_end();
    if (status == TC_OK) {
        after_step(s);
    } else {
        uint64_t ids[TC_BATCH_SEGMENTS_MAX];
        uint32_t n = s->batch.segments;
        for (uint32_t i = 0; i < n; i++) ids[i] = s->owner[i]->ask.id;
        for (uint32_t i = 0; i < n; i++) fail(s, ids[i], status, error.text);
    }
    tc_engine_server_flush(s->o.server);
    s->total.steps++;
    s->total.step_us_total += tc_now_us() - start;
    return true;
}

void tc_sched_status(tc_sched *s, tc_engine_status *ret)
{
    tc_source_stats source;
    const tc_forward_times *times = tc_forward_get_times(s->o.forward);
    s->o.source->ops->stats(s->o.source, &source);
    *ret = s->total;
    ret->ready = source.reason[0] == 0;
    snprintf(ret->reason, sizeof ret->reason, "%s", source.reason);
    ret->workers_up = source.workers_up;
    ret->workers_expected = source.workers_expected;
    ret->expert_calls = source.calls;
    ret->expert_retries = source.retries;
    ret->workers_lost = source.workers_lost;
    ret->wait_us = source.wait_us;
    ret->attention_us = times->attention_us;
    ret->router_us = times->router_us;
    ret->expert_us = times->expert_us;
    ret->head_us = times->head_us;
    ret->expert_reads = times->expert_reads;
    ret->uptime_us = tc_now_us() - s->start_us;
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->requests[i]->state == REQUEST_WAITING)
            ret->waiting++;
        else
            ret->running++;
    }
}
