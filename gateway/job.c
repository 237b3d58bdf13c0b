// SPDX-License-Identifier: Apache-2.0
// Owns: the course of a job. Any call into the sink or a request may end the job (the client may be
// gone), so entry points count themselves in `busy`, and the memory goes when the outermost one leaves.
#include "gateway/job.h"

#include "common/base/clock.h"
#include "gateway/conversation.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void enter(tc_job *job)
{
    job->busy++;
}

static void free_job(tc_job *job)
{
    if (*job->conversation) tc_conversation_release(job);
    for (uint32_t i = 0; i < job->count; i++) tc_request_free(&job->requests[i]);
    free(job->requests);
    tc_params_free(&job->params);
    tc_rendered_free(&job->rendered);
    tc_buffer_free(&job->line);
    free(job);
}

// False when the job's memory is gone.
static bool leave(tc_job *job)
{
    if (--job->busy || !job->dead || job->encoding) return true;
    tc_gateway *gateway = job->gateway;
    free_job(job);
    gateway->jobs--;
    tc_gateway_maybe_drained(gateway);
    return false;
}

// Nothing more is said for this job; what runs for it is cancelled.
static void kill_job(tc_job *job)
{
    job->dead = true;
    if (job->encoding) return; // the other thread still has the requests
    for (uint32_t i = 0; i < job->count; i++) {
        tc_request_cancel(&job->requests[i]);
    }
}

void tc_job_gone(void *owner)
{
    tc_job *job = owner;
    enter(job);
    kill_job(job);
    leave(job);
}

void tc_job_hold(void *owner, bool held)
{
    tc_job *job = owner;
    for (uint32_t i = 0; i < job->count; i++)
        if (job->requests[i].id) tc_core_link_hold(job->requests[i].link, job->requests[i].id, held);
}

static void send_line(tc_job *job)
{
    if (!job->dead && job->line.failed) {
        kill_job(job);
        job->sink_ops->abort(job->sink);
        return;
    }
    if (!job->dead && job->line.count) {
        if (!job->streaming) job->sink_ops->begin(job->sink, job->shape->stream_type);
        job->streaming = true;
        job->sent_ms = uv_now(job->gateway->loop);
        if (!job->dead) job->sink_ops->write(job->sink, job->line.data, job->line.count);
    }
    tc_buffer_clear(&job->line);
}

static void begin_stream(tc_job *job)
{
    if (job->begun) return;
    job->begun = true;
    if (job->shape->begin) job->shape->begin(job);
}

void tc_job_tick(void *owner, uint64_t now_ms)
{
    tc_job *job = owner;
    uint32_t every = job->gateway->options.limits.keep_alive_ms;
    if (job->dead || job->encoding || !job->params.stream || !job->shape->keep_alive) return;
    if (job->started < job->count || now_ms - job->sent_ms < every) return;
    enter(job);
    begin_stream(job);
    tc_buffer_text(&job->line, job->shape->keep_alive);
    send_line(job);
    leave(job);
}

static void fail_job(tc_job *job, const tc_http_error *error)
{
    tc_http_error copy = *error; // it may live in a request
    if (job->dead) return;
    if (job->streaming) {
        job->shape->stream_error(job, &copy);
        send_line(job);
        if (job->dead) return;
        kill_job(job);
        job->sink_ops->end(job->sink);
    } else {
        kill_job(job);
        job->sink_ops->fail(job->sink, &copy);
    }
}

static void fail_for_memory(tc_job *job)
{
    tc_http_error error;
    tc_refuse_memory(&error);
    fail_job(job, &error);
}

static void respond(tc_job *job)
{
    job->shape->body(job, &job->line);
    if (job->line.failed) {
        fail_for_memory(job);
        return;
    }
    job->dead = true;
    job->sink_ops->respond(job->sink, job->line.data, job->line.count);
}

static void finish_job(tc_job *job)
{
    tc_job_totals sum = tc_job_sum(job);
    if (sum.failed == job->count) {
        fail_job(job, &job->requests[0].error);
        return;
    }
    if (!job->params.stream) {
        respond(job);
        return;
    }
    begin_stream(job);
    job->shape->stream_finish(job);
    send_line(job);
    if (job->dead) return;
    kill_job(job);
    job->sink_ops->end(job->sink);
}

// ---- what comes from the requests ----

static bool on_part(void *owner, const tc_part *part)
{
    tc_request *request = owner;
    tc_job *job = request->owner;
    if (job->dead || !job->params.stream) return true;
    if (part->kind == TC_PART_REASONING && job->params.chat.drop_reasoning) return true;
    begin_stream(job);
    job->shape->part(job, request, part);
    send_line(job);
    return true; // the job outlives this call: on_text has entered it
}

static bool on_text(tc_request *request, const char *text, size_t bytes)
{
    tc_job *job = request->owner;
    if (job->dead) return true;
    enter(job);
    if (request->answer) {
        tc_answer_push(request->answer, text, bytes);
        if (!job->dead && tc_answer_is_done(request->answer)) tc_request_stop(request);
    } else if (job->params.stream) {
        const tc_part part = {.kind = TC_PART_TEXT, .text = text, .bytes = bytes};
        on_part(request, &part);
    } else {
        tc_buffer_append(&request->text, text, bytes);
    }
    bool alive = !job->dead;
    return leave(job) && alive;
}

static void on_end(tc_request *request)
{
    tc_job *job = request->owner;
    if (job->dead) return;
    enter(job);
    job->ended++;
    if (request->answer && !request->failed) tc_answer_finish(request->answer);
    bool memory = request->text.failed || (request->answer && tc_answer_failed(request->answer));
    if (memory && !request->failed) {
        request->failed = true;
        tc_refuse_memory(&request->error);
    }
    if (request->failed && !job->shape->partial) {
        fail_job(job, &request->error);
    } else if (!job->dead) {
        if (job->params.stream && job->shape->end) {
            begin_stream(job);
            job->shape->end(job, request);
            send_line(job);
        }
        if (!job->dead && job->ended == job->count) finish_job(job);
    }
    leave(job);
}

static const tc_request_hooks hooks = {.text = on_text, .end = on_end};

// ---- starting ----

static const tc_model_info *info_of(const tc_job *job)
{
    return tc_core_link_info(job->gateway->link);
}

static bool check_length(tc_job *job, const tc_request *request, uint32_t *ret_max_tokens)
{
    const tc_model_info *info = info_of(job);
    uint32_t context = info && info->context ? info->context : job->gateway->options.model.context;
    size_t count = request->prompt.count;
    const char *field = job->params.dialect == TC_DIALECT_BATCH       ? "prompts"
                        : job->params.dialect == TC_DIALECT_RESPONSES ? "input"
                        : job->params.chat.doc                        ? "messages"
                                                                      : "prompt";
    if (count > context || (count == context && job->params.max_tokens > 0) || count > TC_PROMPT_TOKENS_MAX)
        return tc_http_refuse(
            &job->error, 400, "context_length_exceeded", field,
            "the prompt has %zu tokens, and the context of this model is %u tokens for prompt and answer",
            count, context);
    uint32_t room = context - (uint32_t)count;
    *ret_max_tokens = job->params.max_tokens < room ? job->params.max_tokens : room;
    if (job->params.return_experts && info &&
        ((uint64_t)count + *ret_max_tokens) * info->layers * info->top_k * 4 > TC_EXPERTS_BYTES_MAX)
        return tc_http_refuse(&job->error, 400, "out_of_range", "return_routed_experts",
                              "return_routed_experts: %zu + %u tokens are too many to tell of", count,
                              *ret_max_tokens);
    return true;
}

// The n answers to a prompt are one request to the core, which computes the prompt once. Choice k draws with
// seed + k: n answers differ, and each can be had again.
static bool add_choices(tc_job *job, uint32_t first, tc_generate *generate)
{
    for (uint32_t k = 1; k < job->params.n; k++) {
        tc_request *request = &job->requests[first + k];
        request->id = tc_core_link_reserve(request->link, request);
        if (!request->id) return tc_http_refuse_for_now(&job->error, "too many generations are running");
        generate->more_ids[generate->more_count++] = request->id;
    }
    return true;
}

// The tokens that end an assistant's turn end the answer, whatever the model's own list says.
static void add_turn_ends(const tc_job *job, tc_generate *generate)
{
    uint32_t count;
    if (!job->params.chat.doc || job->params.ignore_eos) return;
    const uint32_t *ends = tc_chat_template_turn_ends(job->gateway->options.chat_template, &count);
    for (uint32_t i = 0; i < count && generate->stop_token_count < TC_STOP_TOKENS_MAX; i++)
        if (ends[i] < job->gateway->options.model.vocab)
            generate->stop_tokens[generate->stop_token_count++] = ends[i];
}

static void fill_generate(const tc_job *job, tc_generate *ret)
{
    memcpy(ret->request_id, job->request_id, sizeof ret->request_id);
    const tc_params *p = &job->params;
    uint32_t think_end;
    ret->sampling = p->sampling;
    ret->optimize_experts = p->optimize_experts;
    ret->hints = p->hints;
    ret->hint_count = p->hint_count;
    const char *conversation = p->hint_conversation ? p->hint_conversation : job->conversation;
    if (*conversation) ret->conversation = tc_footprint_id(job->identity.scope, "conversation", conversation);
    if (p->hint_profile)
        ret->expert_profile = tc_footprint_id(job->identity.scope, "profile", p->hint_profile);
    memcpy(ret->stop_tokens, p->stop_tokens, p->stop_token_count * sizeof *p->stop_tokens);
    ret->stop_token_count = p->stop_token_count;
    add_turn_ends(job, ret);
    ret->ignore_eos = p->ignore_eos;
    ret->want_logprobs = p->logprobs;
    ret->want_prompt_logprobs = p->logprobs && p->echo;
    ret->top_logprobs = p->top_logprobs;
    ret->logit_bias = p->logit_bias;
    ret->logit_bias_count = p->logit_bias_count;
    ret->want_experts = p->return_experts;
    ret->no_cache = ret->want_prompt_logprobs || p->return_experts; // every position has to be computed
    ret->constraint = p->constraint;
    if (job->in_reasoning && tc_tokenizer_find(job->gateway->options.tokenizer, "</think>", &think_end))
        ret->constraint_after = think_end + 1;
}

static bool start_one(tc_job *job, uint32_t i)
{
    tc_request *request = &job->requests[i];
    const tc_chat *chat = &job->params.chat;
    tc_error e = {0};
    tc_generate generate = {0};
    if (!check_length(job, request, &generate.max_tokens)) return false;
    fill_generate(job, &generate);
    generate.scope = job->identity.scope;
    generate.priority = job->params.priority;
    generate.deadline_us = job->params.deadline_ms * 1000ull;
    if (generate.sampling.min_tokens > generate.max_tokens)
        generate.sampling.min_tokens = generate.max_tokens;
    if (job->shape->parts) {
        const tc_answer_options options = {.in_reasoning = job->in_reasoning,
                                           .calls = chat->tool_count && chat->choice != TC_TOOLS_NONE,
                                           .one_call = !chat->parallel,
                                           .chat = chat,
                                           .id_prefix = job->shape->call_prefix};
        request->answer = tc_answer_new(&options, on_part, request);
        if (!request->answer) return tc_refuse_memory(&job->error);
    }
    request->keep_ids = job->params.return_token_ids;
    request->asked_us = job->begun_us;
    request->name = job->request_id;
    if (i % job->params.n == 0 && !add_choices(job, i, &generate)) return false;
    tc_status status = tc_request_start(request, &generate, job->gateway->options.tokenizer,
                                        job->params.stops, job->params.stop_count, &e);
    return status == TC_OK || tc_http_refuse_status(&job->error, status, e.text);
}

static bool has_room(tc_job *job)
{
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < job->count; i += job->params.n) tokens += job->requests[i].prompt.count;
    return tc_core_link_has_room(job->gateway->link, job->identity.scope, job->count, tokens, &job->error);
}

static void run_job(tc_job *job)
{
    uint32_t ignored;
    if (job->shape->no_core) {
        respond(job);
        return;
    }
    for (uint32_t i = 0; i < job->count; i++) // all lengths before any is queued
        if (!check_length(job, &job->requests[i], &ignored)) {
            fail_job(job, &job->error);
            return;
        }
    if (!has_room(job)) {
        fail_job(job, &job->error);
        return;
    }
    for (; job->started < job->count; job->started++)
        if (!start_one(job, job->started)) {
            fail_job(job, &job->error);
            return;
        }
    for (uint32_t i = 0; i < job->params.prompt_count; i++) { // the core has its copy
        free(job->params.prompts[i].ids);
        job->params.prompts[i].ids = NULL;
    }
}

static void on_work(uv_work_t *work)
{
    tc_job_encode(work->data);
}

static void on_worked(uv_work_t *work, int status)
{
    tc_job *job = work->data;
    enter(job);
    job->encoding = false;
    if (!job->dead) {
        if (job->error.status)
            fail_job(job, &job->error);
        else
            run_job(job);
    }
    leave(job);
}

// What echo shows of a prompt given as ids.
static bool decode_prompts(tc_job *job)
{
    tc_params *p = &job->params;
    for (uint32_t i = 0; p->echo && i < p->prompt_count; i++) {
        if (p->prompts[i].text) continue;
        tc_error e = {0};
        char *text;
        size_t bytes;
        tc_status status = tc_tokenizer_decode(job->gateway->options.tokenizer, p->prompts[i].ids,
                                               p->prompts[i].id_count, false, &text, &bytes, &e);
        if (status != TC_OK) return tc_http_refuse_status(&job->error, status, e.text);
        for (uint32_t k = 0; k < p->n; k++) tc_buffer_append(&job->requests[i * p->n + k].text, text, bytes);
        free(text);
    }
    for (uint32_t i = 0; p->echo && i < job->count; i++) {
        const tc_prompt *prompt = &p->prompts[i / p->n];
        if (prompt->text) tc_buffer_append(&job->requests[i].text, prompt->text, prompt->bytes);
        if (job->requests[i].text.failed) return tc_refuse_memory(&job->error);
    }
    return true;
}

static void make_id(tc_job *job)
{
    uint64_t random[2] = {0};
    uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    snprintf(job->id, sizeof job->id, "%.16s%016" PRIx64 "%08" PRIx64,
             job->shape->id_prefix ? job->shape->id_prefix : "", random[0], random[1] & 0xffffffff);
}

static tc_job *make_job(tc_gateway *gateway, const tc_sink_ops *ops, void *sink, const tc_identity *identity,
                        tc_params *params, const tc_job_shape *shape)
{
    tc_job *job = calloc(1, sizeof *job);
    if (!job) return NULL;
    job->count = params->prompt_count * params->n;
    job->requests = calloc(job->count, sizeof *job->requests);
    if (!job->requests) {
        free(job);
        return NULL;
    }
    for (uint32_t i = 0; i < job->count; i++)
        job->requests[i] = (tc_request){.link = gateway->link, .hooks = &hooks, .owner = job, .index = i};
    job->gateway = gateway;
    job->identity = *identity;
    job->sink = sink;
    job->sink_ops = ops;
    job->shape = shape;
    job->params = *params;
    job->begun_us = tc_now_us();
    job->sent_ms = uv_now(gateway->loop);
    job->created_at = (int64_t)time(NULL);
    job->work.data = job;
    job->open_item = -1;
    make_id(job);
    snprintf(job->request_id, sizeof job->request_id, "%s", job->id);
    gateway->jobs++;
    return job;
}

static bool is_long(const tc_job *job)
{
    return job->params.text_bytes > TC_ENCODE_INLINE_BYTES || job->params.constraint.bytes > 0;
}

tc_job *tc_job_begin(tc_gateway *gateway, const tc_sink_ops *ops, void *sink, const tc_identity *identity,
                     tc_dialect dialect, const tc_job_shape *shape, const char *body, size_t bytes)
{
    const tc_model_info *info = tc_core_link_info(gateway->link);
    uint32_t vocab = info && info->vocab ? info->vocab : gateway->options.model.vocab;
    tc_params params;
    tc_http_error error;
    const char *reason = "the core is not connected";
    const tc_engine_status *ignored;
    tc_job *job = NULL;
    if (!tc_params_read(&gateway->options.model, vocab, dialect, body, bytes, &params, &error)) {
        ops->fail(sink, &error);
        return NULL;
    }
    if (params.priority > identity->priority_max) params.priority = identity->priority_max;
    if (!shape->no_core && !tc_core_link_is_up(gateway->link)) {
        tc_core_link_status(gateway->link, &ignored, &reason);
        tc_http_refuse_for_now(&error, "%s", reason);
    } else if (!shape->no_core && !tc_core_link_has_room(gateway->link, identity->scope,
                                                         params.prompt_count * params.n, 0, &error)) {
        // refused before it costs anything
    } else if (params.chat.doc && !gateway->options.chat_template) {
        tc_http_refuse(&error, 501, "no_chat_template", NULL, "no chat template is loaded");
    } else if (!(job = make_job(gateway, ops, sink, identity, &params, shape))) {
        tc_refuse_memory(&error);
    }
    if (!job) {
        tc_params_free(&params);
        ops->fail(sink, &error);
        return NULL;
    }
    enter(job);
    ops->attach(sink, job);
    if (!decode_prompts(job) || (shape->prepare && !shape->prepare(job, &job->error))) {
        fail_job(job, &job->error);
    } else if (is_long(job) && uv_queue_work(gateway->loop, &job->work, on_work, on_worked) == 0) {
        job->encoding = true;
    } else if (tc_job_encode(job)) {
        run_job(job);
    } else {
        fail_job(job, &job->error);
    }
    return leave(job) ? job : NULL;
}

// ---- HTTP as a sink ----

static void http_attach(void *sink, tc_job *job)
{
    tc_http_conn *conn = sink;
    if (*conn->request_id)
        memcpy(job->request_id, conn->request_id, sizeof job->request_id);
    else
        memcpy(conn->request_id, job->request_id, sizeof conn->request_id);
    tc_http_own(sink, job, tc_job_gone);
    tc_http_tick(sink, tc_job_tick);
    tc_http_on_hold(sink, tc_job_hold);
    tc_http_drop_body(sink);
}

static void http_respond(void *sink, const char *body, size_t bytes)
{
    tc_http_respond(sink, 200, "application/json", NULL, body, bytes);
}

static void http_fail(void *sink, const tc_http_error *error)
{
    tc_http_fail(sink, error);
}

static void http_begin(void *sink, const char *type)
{
    tc_http_stream_begin(sink, type);
}

static void http_write(void *sink, const char *data, size_t bytes)
{
    tc_http_stream_write(sink, data, bytes);
}

static void http_end(void *sink)
{
    tc_http_stream_end(sink);
}

static void http_abort(void *sink)
{
    tc_http_conn_close(sink);
}

static const tc_sink_ops http_sink = {http_attach, http_respond, http_fail, http_begin,
                                      http_write,  http_end,     http_abort};

void tc_job_start(tc_gateway *gateway, tc_http_conn *conn, tc_dialect dialect, const tc_job_shape *shape)
{
    tc_job_begin(gateway, &http_sink, conn, &conn->identity, dialect, shape, conn->parser.body.data,
                 conn->parser.body.count);
}

tc_job_totals tc_job_sum(const tc_job *job)
{
    tc_job_totals sum = {.seconds = (double)(tc_now_us() - job->begun_us) / 1e6};
    for (uint32_t i = 0; i < job->count; i++) {
        const tc_request *r = &job->requests[i];
        if (r->failed) {
            sum.failed++;
            continue;
        }
        if (i % job->params.n == 0) { // a prompt counts once, as OpenAI counts it
            sum.prompt_tokens += r->prompt_tokens;
            sum.cached_tokens += r->usage.cached_tokens;
        }
        sum.tokens += r->tokens;
        sum.reasoning_tokens += r->reasoning_tokens;
        sum.expert_hits += r->usage.expert_hits;
        sum.expert_misses += r->usage.expert_misses;
    }
    return sum;
}
