// SPDX-License-Identifier: Apache-2.0
// Owns: the step: commands in, one batch through the model, and what follows it (sampling, stop conditions,
// choices that begin with the first one's past, reports).
#include "common/base/clock.h"
#include "common/base/trace.h"
#include "gpu-core/sched/sched_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Positions between snapshots of a long prompt: so that they weigh no more than its pages.
static uint32_t snapshot_interval(const tc_sched_options *o)
{
    const tc_dev_geometry *g = tc_session_geometry(o->pool);
    uint64_t state = tc_dev_slot_bytes(g), page = tc_dev_page_bytes(g);
    if (state == 0) return 0;
    if (o->snapshot_every) return o->snapshot_every;
    uint64_t pages = page ? (state + page - 1) / page : 16;
    return (uint32_t)(pages < 1 ? 1 : pages > 1024 ? 1024 : pages) * TC_KV_PAGE_POSITIONS;
}

tc_status tc_sched_create(const tc_sched_options *options, tc_sched **ret, tc_error *e)
{
    const tc_model_desc *desc = options->desc;
    tc_sched *s = tc_alloc(TC_MEM_OTHER, 1, sizeof *s);
    if (!s) return tc_fail(e, TC_NOMEM, "out of memory for the scheduler");
    s->o = *options;
    if (!s->o.queue_requests) s->o.queue_requests = TC_QUEUE_REQUESTS_DEFAULT;
    if (!s->o.queue_tokens) s->o.queue_tokens = TC_QUEUE_TOKENS_DEFAULT;
    if (!s->o.tokens_max) s->o.tokens_max = TC_BATCH_TOKENS_MAX;
    if (!s->o.chunk_us) s->o.chunk_us = TC_CHUNK_US_DEFAULT;
    if (!s->o.prompt_grain) s->o.prompt_grain = TC_PROMPT_GRAIN;
    s->start_us = tc_sched_now(s);
    s->next_deadline_us = UINT64_MAX;
    s->snapshot_every = snapshot_interval(options);
    s->kv_pages = tc_session_geometry(options->pool)->pages;
    s->account_count = s->o.queue_requests + 64; // who was here lately is remembered
    s->requests = tc_alloc(TC_MEM_OTHER, s->o.queue_requests, sizeof *s->requests);
    s->accounts = tc_alloc(TC_MEM_OTHER, s->account_count, sizeof *s->accounts);
    for (uint32_t n = 0; n < desc->layers; n++)
        if (desc->layer[n].moe) s->pairs_a_token += desc->top_k;
    s->chosen =
        tc_alloc(TC_MEM_SCRATCH, (size_t)s->o.tokens_max * desc->layers * (desc->top_k ? desc->top_k : 1),
                 sizeof(int32_t));
    tc_status status =
        s->chosen && s->requests && s->accounts
            ? tc_sampler_create(desc->vocab, s->o.dense, &s->sampler, e)
            : tc_fail(e, TC_NOMEM, "out of memory for a queue of %u requests", s->o.queue_requests);
    if (status != TC_OK) {
        tc_sched_free(s);
        return status;
    }
    *ret = s;
    return TC_OK;
}

void tc_sched_free(tc_sched *s)
{
    if (!s) return;
    while (s->count) tc_sched_drop(s, s->requests[s->count - 1]);
    tc_sampler_free(s->sampler);
    tc_free(s->chosen);
    tc_free(s->requests);
    tc_free(s->accounts);
    tc_free(s);
}

static void finish(tc_sched *s, request *r, tc_finish why)
{
    uint64_t now = tc_sched_now(s);
    r->usage.prompt_tokens = r->ask.prompt_count;
    if (r->first_token_us) r->usage.decode_us = now - r->first_token_us;
    tc_engine_server_finished(s->o.server, r->ask.id, why, &r->usage);
    tc_sched_note_end(s, r,
                      why == TC_FINISH_STOP     ? "stop"
                      : why == TC_FINISH_LENGTH ? "length"
                                                : "cancelled",
                      false);
    tc_sched_keep_answer(s, r);
    tc_sched_drop(s, r);
}

void tc_sched_fail_all(tc_sched *s, tc_status status, const char *reason)
{
    while (s->count) tc_sched_fail(s, s->requests[0], status, reason);
    tc_engine_server_flush(s->o.server);
}

// An operator's question: between steps, so that it sees and changes whole states.
static void answer(tc_sched *s, const tc_command *command)
{
    tc_error error = {TC_UNSUPPORTED, "this core does not know that"};
    tc_status status = TC_UNSUPPORTED;
    size_t bytes = 0;
    char *out = malloc(TC_ANSWER_BYTES_MAX);
    if (!out) return; // whoever asked asks again
    if (command->question == TC_ASK_EXPERT_OPTIMIZATION && s->o.placement)
        status = tc_placement_tune(s->o.placement, command->text, command->text_bytes, &error);
    else if (command->question == TC_ASK_MEMORY ? s->o.memory != NULL : s->o.placement != NULL)
        status = TC_OK;
    if (status != TC_OK)
        bytes = (size_t)snprintf(out, TC_ANSWER_BYTES_MAX, "%s", error.text);
    else if (command->question == TC_ASK_MEMORY)
        bytes = s->o.memory(s->o.memory_arg, out, TC_ANSWER_BYTES_MAX);
    else
        bytes = tc_placement_report(s->o.placement, out, TC_ANSWER_BYTES_MAX);
    tc_engine_server_answer(s->o.server, command->id, status, out, bytes);
    free(out);
}

void tc_sched_command(tc_sched *s, const tc_command *command)
{
    request *r;
    tc_engine_status status;
    switch (command->kind) {
    case TC_COMMAND_GENERATE:
        tc_sched_accept(s, &command->generate);
        break;
    case TC_COMMAND_CANCEL:
        if ((r = tc_sched_find(s, command->id))) finish(s, r, TC_FINISH_CANCELLED);
        break;
    case TC_COMMAND_HOLD:
        if ((r = tc_sched_find(s, command->id))) r->held = command->held;
        break;
    case TC_COMMAND_STATUS:
        tc_sched_status(s, &status);
        tc_engine_server_status(s->o.server, &status);
        break;
    case TC_COMMAND_ASK:
        answer(s, command);
        break;
    case TC_COMMAND_CLIENT_GONE:
        while (s->count) tc_sched_drop(s, s->requests[s->count - 1]);
        break;
    }
    tc_engine_server_flush(s->o.server);
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
        if (r->ask.want_logits && prompt && !logits) return; // the answer's own will not be there either
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
        if (!logits) return; // the answer's own will not be there either
        for (uint32_t i = 0; i < n; i++)
            tc_logprobs(s->sampler, logits + (size_t)i * vocab, r->session->tokens[at + i + 1], top,
                        values + i * (1 + top));
        tc_engine_server_logprobs(s->o.server, r->ask.id, at + 1, n, top, values);
        at += n;
    }
}

static void report_logprobs(tc_sched *s, const request *r, const float *logits, uint32_t token)
{
    tc_token_value values[1 + TC_LOGPROBS_MAX];
    uint32_t vocab = s->o.desc->vocab, top = r->ask.top_logprobs < vocab ? r->ask.top_logprobs : vocab;
    tc_logprobs(s->sampler, logits, token, top, values);
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

// The token that was sent goes into the constraint. True: the request has ended.
static bool constrain_next(tc_sched *s, request *r, uint32_t token)
{
    tc_error error;
    bool complete = false;
    tc_status status = r->constrained ? tc_constrained_take(r->constrained, token, &complete, &error) : TC_OK;
    if (status != TC_OK)
        tc_sched_fail(s, r, status, error.text);
    else if (complete)
        finish(s, r, TC_FINISH_STOP);
    return status != TC_OK || complete;
}

// While an answer is shorter than it has to be, nothing may end it.
static void forbid_ends(request *r)
{
    r->sampling.forbidden_count = r->usage.generated_tokens < r->ask.sampling.min_tokens ? r->end_count : 0;
}

// A draw from a row whose two largest logits are `gap` apart.
static drawn draw(tc_sched *s, request *r, const float *logits, float gap, tc_error *e)
{
    tc_session *session = r->session;
    drawn d = {.status = TC_OK, .gap = gap};
    if (r->ask.max_tokens == 0) return d;
    forbid_ends(r);
    if (r->constrained) d.status = tc_constrained_mask(r->constrained, &r->sampling.allowed, e);
    if (d.status == TC_OK)
        d.token =
            tc_sample(s->sampler, logits, &r->sampling, session->tokens, r->ask.prompt_count, session->count);
    return d;
}

// Whether other choices wait for this prompt to end.
static bool is_led(const tc_sched *s, const request *leader)
{
    for (uint32_t i = 0; leader->state == REQUEST_PREFILL && i < s->count; i++)
        if (s->requests[i]->leader == leader) return true;
    return false;
}

// Whether a row of logits is drawn from as the model gave it, so that what a device says of it may do.
static bool draws_from_few(const request *r)
{
    return r->ask.max_tokens && !r->constrained && !tc_sample_changes(&r->sampling);
}

// The rows stay with the device, which says what draws need; those that are wanted whole are brought. False:
// it has failed.
static bool draw_all(tc_sched *s, request *const *sampled, const uint32_t *rows, uint32_t n,
                     const float **ret_logits)
{
    float temperature[TC_BATCH_SEGMENTS_MAX];
    tc_few few[TC_FEW_ROWS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        forbid_ends(sampled[i]);
        temperature[i] = draws_from_few(sampled[i]) ? sampled[i]->sampling.temperature : 0;
    }
    if (!tc_forward_few(s->o.forward, rows, n, temperature, few)) return false;
    for (uint32_t i = 0; i < n; i++) {
        request *r = sampled[i];
        const uint64_t number = r->session->count - r->ask.prompt_count;
        s->drawn[i] = (drawn){.status = TC_OK, .gap = few[i].gap};
        const bool done = !r->ask.max_tokens ||
                          (draws_from_few(r) &&
                           tc_sample_few(s->sampler, &few[i], &r->sampling, number, &s->drawn[i].token));
        ret_logits[i] = NULL;
        if (done && !r->ask.want_logprobs && !is_led(s, r)) continue;
        ret_logits[i] = tc_forward_row(s->o.forward, i);
        if (!ret_logits[i]) return false;
        if (!done) s->drawn[i] = draw(s, r, ret_logits[i], few[i].gap, &s->draw_error[i]);
    }
    return true;
}

// logits: of its row, where it wants them.
static void take_token(tc_sched *s, request *r, const float *logits, const drawn *d, const tc_error *why)
{
    tc_session *session = r->session;
    uint32_t token = d->token;
    if (r->state == REQUEST_PREFILL) {
        r->state = REQUEST_DECODE;
        r->first_token_us = tc_sched_now(s);
        r->usage.prefill_us = r->first_token_us - r->started_us;
    }
    if (r->ask.max_tokens == 0) {
        finish(s, r, TC_FINISH_LENGTH);
        return;
    }
    tc_sched_charge(r, 1);
    if (d->status != TC_OK) {
        tc_sched_fail(s, r, d->status, why->text);
        return;
    }
    if (is_stop(r, token)) {
        finish(s, r, TC_FINISH_STOP);
        return;
    }
    if (r->ask.want_logprobs) report_logprobs(s, r, logits, token);
    tc_engine_server_token(s->o.server, r->ask.id, token, d->gap);
    s->total.tokens_generated++;
    r->usage.generated_tokens++;
    session->tokens[session->count++] = token;
    if (constrain_next(s, r, token)) return;
    if (r->usage.generated_tokens == r->ask.max_tokens) finish(s, r, TC_FINISH_LENGTH);
}

// The other choices of this prompt begin with its past, as many of them as there is room for now; the rest
// compute it again when it is their turn (most of it is in the prefix cache by then). Then each draws its own
// first token.
static void begin_choices(tc_sched *s, request *leader, const float *logits, float gap)
{
    request *begun[TC_BATCH_SEGMENTS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        request *r = s->requests[i];
        if (r->leader != leader) continue;
        r->leader = NULL;
        tc_error error;
        if (n == TC_BATCH_SEGMENTS_MAX ||
            tc_session_fork(s->o.pool, leader->session, r->prompt->count + r->ask.max_tokens, &r->session,
                            &error) != TC_OK)
            continue;
        r->state = REQUEST_PREFILL;
        r->started_us = leader->started_us > r->arrived_us ? leader->started_us : r->arrived_us;
        r->usage.queue_us = r->started_us - r->arrived_us;
        r->usage.cached_tokens = leader->usage.cached_tokens;
        begun[n++] = r;
    }
    for (uint32_t i = 0; i < n; i++) {
        tc_error error;
        const drawn d = draw(s, begun[i], logits, gap, &error);
        take_token(s, begun[i], logits, &d, &error);
    }
}

static void after_prompt_chunk(tc_sched *s, request *r)
{
    s->total.prompt_tokens += r->batch_tokens;
    tc_sched_charge(r, r->batch_tokens);
    tc_sched_keep_prompt(s, r);
    if (r->ask.want_logits || r->ask.want_experts) report_evaluation(s, r);
    if (r->ask.want_prompt_logprobs) report_prompt_logprobs(s, r);
}

// Tells the placement what the segments chose, and how many of their pairs were hot to whom it concerns. Of
// what a device had fetched a layer ahead it says only how many pairs of the batch that served.
static void count_pairs(tc_sched *s)
{
    uint32_t count = s->batch.segments;
    uint64_t ahead = tc_forward_get_times(s->o.forward)->ahead_pairs - s->ahead_pairs;
    s->ahead_pairs += ahead;
    if (s->o.placement) {
        for (uint32_t i = 0; i < count; i++) s->placed[i] = tc_sched_placed(s->owner[i]);
        tc_placement_note(s->o.placement, s->placed, count, s->chosen);
    }
    for (uint32_t i = 0; i < count; i++) {
        request *r = s->owner[i];
        uint64_t pairs = (uint64_t)r->batch_tokens * s->pairs_a_token, hot = s->o.experts_are_hot ? pairs : 0;
        if (s->o.placement && !s->o.experts_are_hot) hot = s->placed[i].hot;
        const uint64_t more = ahead / (count - i) < pairs - hot ? ahead / (count - i) : pairs - hot;
        ahead -= more;
        hot += more;
        r->usage.expert_hits += hot;
        r->usage.expert_misses += pairs - hot;
        s->total.expert_hits += hot;
        s->total.expert_misses += pairs - hot;
    }
}

static void fail_batch(tc_sched *s, tc_status status, const char *reason)
{
    request *failed[TC_BATCH_SEGMENTS_MAX];
    uint32_t n = s->batch.segments;
    memcpy(failed, s->owner, n * sizeof *failed);
    for (uint32_t i = 0; i < n; i++) tc_sched_fail(s, failed[i], status, reason);
}

static void after_step(tc_sched *s)
{
    uint32_t rows[TC_BATCH_SEGMENTS_MAX], n = 0;
    request *sampled[TC_BATCH_SEGMENTS_MAX];
    count_pairs(s);
    for (uint32_t i = 0; i < s->batch.segments; i++) {
        request *r = s->owner[i];
        r->session->processed += r->batch_tokens;
        if (r->state == REQUEST_PREFILL) {
            after_prompt_chunk(s, r);
            if (r->session->processed < r->session->count) continue;
        } else if (r->ask.want_experts) {
            report_evaluation(s, r);
        }
        rows[n] = r->batch_first + r->batch_tokens - 1;
        sampled[n++] = r;
    }
    tc_placement_end(s->o.placement, false);
    if (n == 0) return;
    uint64_t start_ns = tc_now_ns();
    const float *logits[TC_BATCH_SEGMENTS_MAX];
    if (!draw_all(s, sampled, rows, n, logits)) {
        fail_batch(s, TC_CLOSED, TC_FORWARD_DEVICE_FAILED);
        return;
    }
    s->outside_ns += tc_now_ns() - start_ns;
    for (uint32_t i = 0; i < n; i++) {
        if (sampled[i]->state == REQUEST_PREFILL) begin_choices(s, sampled[i], logits[i], s->drawn[i].gap);
        take_token(s, sampled[i], logits[i], &s->drawn[i], &s->draw_error[i]);
    }
}

static void run_batch(tc_sched *s)
{
    tc_error error;
    bool note = s->o.placement;
    uint64_t start = tc_sched_now(s), start_ns = tc_now_ns();
    uint32_t tokens = s->batch.tokens, segments = s->batch.segments;
    char requests[TC_STEP_REQUESTS_BYTES] = "";
    if (tc_trace_on) tc_sched_name_step(s, requests);
    bool learn = true;
    for (uint32_t i = 0; i < s->batch.segments; i++) {
        note |= s->owner[i]->ask.want_experts;
        learn &= s->owner[i]->ask.optimize_experts;
    }
    tc_placement_begin(s->o.placement, learn);
    tc_mem_guard_begin(); // a step allocates nothing
    tc_status status = tc_forward_run(s->o.forward, &s->batch, note ? s->chosen : NULL, &error);
    s->total.decode_allocations += tc_mem_guard_end();
    s->outside_ns += tc_now_ns() - start_ns;
    if (status == TC_OK)
        after_step(s);
    else
        fail_batch(s, status, error.text);
    uint64_t end = tc_sched_now(s);
    tc_sched_learn(s, end - start);
    s->total.steps++;
    s->total.step_us_total += end - start;
    tc_sched_note_step(s, start, end, tokens, segments, requests);
}

static bool anyone_decodes(const tc_sched *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->requests[i]->state == REQUEST_DECODE && !s->requests[i]->held) return true;
    return false;
}

bool tc_sched_step(tc_sched *s)
{
    uint64_t start_ns = tc_now_ns();
    s->outside_ns = 0;
    tc_sched_expire(s);
    tc_sched_admit(s);
    bool restored = s->o.cache && tc_sched_restore(s, anyone_decodes(s));
    s->outside_ns += restored ? tc_now_ns() - start_ns : 0; // copying is no scheduling
    tc_sched_build(s);
    if (s->batch.tokens) run_batch(s);
    uint64_t own_ns = tc_now_ns() - start_ns - s->outside_ns;
    tc_engine_server_flush(s->o.server); // a call into the kernel, which wakes the gateway: the link's time
    if (!s->batch.tokens) return restored;
    s->sched_ns += own_ns;
    return true;
}

uint64_t tc_sched_idle_us(const tc_sched *s, uint64_t most)
{
    uint64_t now = tc_sched_now(s);
    if (most > TC_COMPILING_IDLE_US && tc_sched_compiling(s)) most = TC_COMPILING_IDLE_US;
    if (s->next_deadline_us <= now) return 0;
    return s->next_deadline_us - now < most ? s->next_deadline_us - now : most;
}

void tc_sched_tune(tc_sched *s, uint64_t chunk_us, uint64_t queue_tokens)
{
    s->o.chunk_us = chunk_us;
    s->o.queue_tokens = queue_tokens;
}

void tc_sched_status(tc_sched *s, tc_engine_status *ret)
{
    tc_source_stats source;
    const tc_forward_times *times = tc_forward_get_times(s->o.forward);
    s->o.source->ops->stats(s->o.source, &source);
    *ret = s->total;
    tc_sched_fill_detail(s, &source);
    ret->detail = &s->detail;
    ret->ready = source.reason[0] == 0;
    snprintf(ret->reason, sizeof ret->reason, "%s", ret->ready ? source.degraded : source.reason);
    ret->workers_up = source.workers_up;
    ret->workers_expected = source.workers_expected;
    ret->expert_calls = source.calls;
    ret->expert_retries = source.retries;
    ret->workers_lost = source.workers_lost;
    ret->wait_us = source.wait_us;
    // on a device that only queues: all but the waits for workers
    ret->attention_us = times->attention_us + times->device_us - times->join_us;
    ret->router_us = times->router_us;
    ret->expert_us = times->expert_us + times->join_us;
    ret->head_us = times->head_us;
    ret->expert_reads = times->expert_reads;
    ret->experts_fetched = times->experts_fetched;
    ret->uptime_us = tc_sched_now(s) - s->start_us;
    ret->sched_us = s->sched_ns / 1000;
    ret->placement_us = tc_placement_ns(s->o.placement) / 1000;
    ret->queue_tokens = s->held_tokens;
    ret->kv_pages = s->kv_pages;
    ret->kv_pages_free = tc_session_pages_free(s->o.pool);
    tc_prefix_stats cache = tc_prefix_cache_stats(s->o.cache);
    ret->cache_bytes = cache.bytes;
    ret->cache_evictions = cache.evictions;
    for (uint32_t i = 0; i < s->count; i++) {
        if (s->requests[i]->state == REQUEST_WAITING)
            ret->waiting++;
        else
            ret->running++;
        if (s->requests[i]->held) ret->held++;
    }
}
