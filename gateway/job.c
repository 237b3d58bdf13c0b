// SPDX-License-Identifier: Apache-2.0
// Owns: the course of a job. Any call into the connection or a request may end the job (the client may be
// gone), so entry points count themselves in `busy`, and the memory goes when the outermost one leaves.
#include "gateway/job.h"

#include "common/base/clock.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void enter(tc_job *job)
{
    job->busy++;
}

// False when the job's memory is gone.
static bool leave(tc_job *job)
{
    if (--job->busy || !job->dead || job->encoding) return true;
    tc_gateway *gateway = job->gateway;
    for (uint32_t i = 0; i < job->count; i++) tc_request_free(&job->requests[i]);
    free(job->requests);
    tc_params_free(&job->params);
    tc_buffer_free(&job->line);
    free(job);
    gateway->jobs--;
    tc_gateway_maybe_drained(gateway);
    return false;
}

// Nothing more is said for this job; what runs for it is cancelled.
static void kill_job(tc_job *job)
{
    job->dead = true;
    job->conn = NULL;
    if (job->encoding) return; // the other thread still has the requests
    for (uint32_t i = 0; i < job->count; i++) {
        if (job->requests[i].id) tc_core_link_cancel(job->requests[i].link, job->requests[i].id);
        job->requests[i].id = 0;
    }
}

static void on_gone(void *owner)
{
    tc_job *job = owner;
    enter(job);
    kill_job(job);
    leave(job);
}

static void on_hold(void *owner, bool held)
{
    tc_job *job = owner;
    for (uint32_t i = 0; i < job->count; i++)
        if (job->requests[i].id) tc_core_link_hold(job->requests[i].link, job->requests[i].id, held);
}

static void send_line(tc_job *job)
{
    if (!job->dead && job->line.failed) {
        tc_http_conn_close(job->conn); // kills the job
        return;
    }
    if (!job->dead && job->line.count) {
        if (!job->streaming) tc_http_stream_begin(job->conn, job->shape->stream_type);
        job->streaming = true;
        if (!job->dead) tc_http_stream_write(job->conn, job->line.data, job->line.count);
    }
    tc_buffer_clear(&job->line);
}

static void fail_job(tc_job *job, const tc_http_error *error)
{
    tc_http_error copy = *error; // it may live in a request
    if (job->dead) return;
    if (job->streaming) {
        job->shape->stream_error(job, &copy);
        send_line(job);
        if (job->dead) return;
        tc_http_conn *conn = job->conn;
        kill_job(job);
        tc_http_stream_end(conn);
    } else {
        tc_http_conn *conn = job->conn;
        kill_job(job);
        tc_http_fail(conn, &copy);
    }
}

static void finish_job(tc_job *job)
{
    tc_job_totals sum = tc_job_sum(job);
    if (sum.failed == job->count) {
        fail_job(job, &job->requests[0].error);
        return;
    }
    if (job->params.stream) {
        job->shape->stream_finish(job);
        send_line(job);
        if (job->dead) return;
        tc_http_conn *conn = job->conn;
        kill_job(job);
        tc_http_stream_end(conn);
        return;
    }
    job->shape->body(job, &job->line);
    if (job->line.failed) {
        tc_http_error error;
        tc_http_refuse(&error, 503, "unavailable", NULL, "out of memory");
        fail_job(job, &error);
        return;
    }
    tc_http_conn *conn = job->conn;
    job->conn = NULL;
    job->dead = true;
    tc_http_respond(conn, 200, "application/json", NULL, job->line.data, job->line.count);
}

static bool on_text(tc_request *request, const char *text, size_t bytes)
{
    tc_job *job = request->owner;
    if (job->dead) return true;
    enter(job);
    if (job->params.stream) {
        job->shape->text(job, request, text, bytes);
        send_line(job);
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
    if (request->text.failed && !request->failed) {
        request->failed = true;
        tc_http_refuse(&request->error, 503, "unavailable", NULL, "out of memory");
    }
    if (request->failed && !job->shape->partial) {
        fail_job(job, &request->error);
    } else {
        if (job->params.stream && job->shape->end) {
            job->shape->end(job, request);
            send_line(job);
        }
        if (!job->dead && job->ended == job->count) finish_job(job);
    }
    leave(job);
}

static const tc_request_hooks hooks = {.text = on_text, .end = on_end};

// ---- tokenising ----

static bool encode_one(tc_job *job, uint32_t i, tc_http_error *error)
{
    const tc_prompt *prompt = &job->params.prompts[i / job->params.n];
    tc_ids *ids = &job->requests[i].prompt;
    tc_error e = {0};
    tc_status status = TC_OK;
    if (i % job->params.n) { // the n-th answer to the same prompt
        const tc_ids *first = &job->requests[i - i % job->params.n].prompt;
        for (size_t k = 0; k < first->count && status == TC_OK; k++)
            status = tc_ids_push(ids, first->data[k]);
    } else if (prompt->text) {
        // The whole prompt is the client's, template and all: special tokens in it are meant.
        status = tc_tokenizer_encode(job->gateway->options.tokenizer, prompt->text, prompt->bytes,
                                     TC_SPECIAL_PARSE, ids, &e);
    } else {
        for (size_t k = 0; k < prompt->id_count && status == TC_OK; k++)
            status = tc_ids_push(ids, prompt->ids[k]);
    }
    if (status == TC_NOMEM) return tc_http_refuse(error, 503, "unavailable", NULL, "out of memory");
    if (status != TC_OK) return tc_http_refuse_status(error, status, e.text);
    if (ids->count > TC_PROMPT_TOKENS_MAX) // before it is copied n times
        return tc_http_refuse(error, 400, "context_length_exceeded", "prompt",
                              "the prompt has %zu tokens; the limit is %d", ids->count, TC_PROMPT_TOKENS_MAX);
    if (ids->count == 0)
        return tc_http_refuse(error, 400, "empty_prompt", "prompt", "prompt must not be empty");
    return true;
}

static bool encode_all(tc_job *job)
{
    for (uint32_t i = 0; i < job->count; i++)
        if (!encode_one(job, i, &job->error)) return false;
    return true;
}

// ---- starting ----

static uint32_t context_of(const tc_gateway *gateway)
{
    const tc_model_info *info = tc_core_link_info(gateway->link);
    return info && info->context ? info->context : gateway->options.model.context;
}

static bool check_length(tc_job *job, const tc_request *request, uint32_t *ret_max_tokens)
{
    uint32_t context = context_of(job->gateway);
    size_t count = request->prompt.count;
    if (count >= context || count > TC_PROMPT_TOKENS_MAX)
        return tc_http_refuse(
            &job->error, 400, "context_length_exceeded",
            job->params.dialect == TC_DIALECT_BATCH ? "prompts" : "prompt",
            "the prompt has %zu tokens, and the context of this model is %u tokens for prompt and answer",
            count, context);
    uint32_t room = context - (uint32_t)count;
    *ret_max_tokens = job->params.max_tokens < room ? job->params.max_tokens : room;
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

static bool start_one(tc_job *job, uint32_t i)
{
    tc_request *request = &job->requests[i];
    tc_error e = {0};
    tc_generate generate = {.sampling = job->params.sampling,
                            .optimize_experts = job->params.optimize_experts};
    if (!check_length(job, request, &generate.max_tokens)) return false;
    generate.scope = job->identity.scope;
    generate.priority = job->params.priority;
    generate.deadline_us = job->params.deadline_ms * 1000ull;
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
    tc_job *job = work->data;
    encode_all(job);
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
        if (job->requests[i].text.failed)
            return tc_http_refuse(&job->error, 503, "unavailable", NULL, "out of memory");
    }
    return true;
}

static void make_id(tc_job *job)
{
    uint64_t random[2] = {0};
    uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    snprintf(job->id, sizeof job->id, "cmpl-%016" PRIx64 "%08" PRIx64, random[0], random[1] & 0xffffffff);
}

static tc_job *make_job(tc_gateway *gateway, tc_http_conn *conn, tc_params *params, const tc_job_shape *shape)
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
    job->conn = conn;
    job->identity = conn->identity;
    job->shape = shape;
    job->params = *params;
    job->begun_us = tc_now_us();
    job->created_at = (int64_t)time(NULL);
    job->work.data = job;
    make_id(job);
    gateway->jobs++;
    return job;
}

void tc_job_start(tc_gateway *gateway, tc_http_conn *conn, tc_dialect dialect, const tc_job_shape *shape)
{
    const tc_model_info *info = tc_core_link_info(gateway->link);
    uint32_t vocab = info && info->vocab ? info->vocab : gateway->options.model.vocab;
    tc_params params;
    tc_http_error error;
    const char *reason = "the core is not connected";
    const tc_engine_status *ignored;
    tc_job *job = NULL;
    if (!tc_params_read(&gateway->options.model, vocab, dialect, conn->parser.body.data,
                        conn->parser.body.count, &params, &error)) {
        tc_http_fail(conn, &error);
        return;
    }
    if (params.priority > conn->identity.priority_max) params.priority = conn->identity.priority_max;
    if (!tc_core_link_is_up(gateway->link)) {
        tc_core_link_status(gateway->link, &ignored, &reason);
        tc_http_refuse_for_now(&error, "%s", reason);
    } else if (!tc_core_link_has_room(gateway->link, conn->identity.scope, params.prompt_count * params.n, 0,
                                      &error)) {
        // refused before it costs anything
    } else if (!(job = make_job(gateway, conn, &params, shape))) {
        tc_http_refuse(&error, 503, "unavailable", NULL, "out of memory");
    }
    if (!job) {
        tc_params_free(&params);
        tc_http_fail(conn, &error);
        return;
    }
    enter(job);
    tc_http_own(conn, job, on_gone);
    tc_http_on_hold(conn, on_hold);
    tc_http_drop_body(conn);
    if (!decode_prompts(job)) {
        fail_job(job, &job->error);
    } else if (job->params.text_bytes > TC_ENCODE_INLINE_BYTES &&
               uv_queue_work(gateway->loop, &job->work, on_work, on_worked) == 0) {
        job->encoding = true;
    } else if (encode_all(job)) {
        run_job(job);
    } else {
        fail_job(job, &job->error);
    }
    leave(job);
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
        if (i % job->params.n == 0)
            sum.prompt_tokens += r->prompt_tokens; // a prompt counts once, as OpenAI counts it
        sum.tokens += r->tokens;
        sum.expert_hits += r->usage.expert_hits;
        sum.expert_misses += r->usage.expert_misses;
    }
    return sum;
}
