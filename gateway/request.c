// SPDX-License-Identifier: Apache-2.0
// Owns: the events of one generation, in order: tokens, then finished or failed.
#include "gateway/request.h"

#include "common/base/clock.h"
#include "common/base/trace.h"
#include "gateway/limits.h"

tc_status tc_request_start(tc_request *r, tc_generate *generate, const tc_tokenizer *tokenizer,
                           const char *const *stops, size_t stop_count, tc_error *e)
{
    TC_TRY(tc_text_stream_create(tokenizer, stops, stop_count, /* skip_special= */ true, &r->stream, e));
    const tc_model_info *info = tc_core_link_info(r->link);
    if (info) {
        r->layers = info->layers;
        r->top_k = info->top_k;
    }
    r->routes.max = TC_EXPERTS_BYTES_MAX;
    r->min_tokens = generate->sampling.min_tokens;
    tc_text_stream_hold_stops(r->stream, r->min_tokens > 0);
    r->first_token = r->prompt.data[0];
    generate->prompt = r->prompt.data;
    generate->prompt_count = r->prompt_tokens = (uint32_t)r->prompt.count;
    r->start_us = tc_now_us();
    if (!r->asked_us) r->asked_us = r->start_us;
    r->deadline = generate->deadline_us != 0;
    if (!r->id) { // else it travels with the first choice of its prompt
        TC_TRY(tc_core_link_submit(r->link, r, generate, e));
        r->id = generate->id;
    }
    r->submitted = true;
    tc_ids_free(&r->prompt);
    r->prompt = (tc_ids){0};
    return TC_OK;
}

void tc_request_cancel(tc_request *r)
{
    if (r->id && r->submitted)
        tc_metrics_ended(tc_core_link_metrics(r->link), TC_OUTCOME_CANCELLED, tc_now_us() - r->asked_us,
                         &r->usage);
    if (r->id) tc_core_link_cancel(r->link, r->id);
    r->id = 0;
}

void tc_request_free(tc_request *r)
{
    if (r->id && r->submitted)
        tc_metrics_ended(tc_core_link_metrics(r->link), TC_OUTCOME_CANCELLED, tc_now_us() - r->asked_us,
                         &r->usage);
    if (r->id) tc_core_link_cancel(r->link, r->id);
    r->id = 0;
    tc_text_stream_free(r->stream);
    r->stream = NULL;
    tc_ids_free(&r->prompt);
    r->prompt = (tc_ids){0};
    tc_ids_free(&r->ids);
    r->ids = (tc_ids){0};
    tc_answer_free(r->answer);
    r->answer = NULL;
    tc_buffer_free(&r->text);
    tc_buffer_free(&r->routes);
    tc_buffer_free(&r->logprobs.values);
    tc_buffer_free(&r->prompt_logprobs.values);
}

void tc_request_stop(tc_request *r)
{
    if (r->stopped || r->ended) return;
    r->stopped = true;
    tc_core_link_stop(r->link, r->id); // the totals come with its end
}

static void note_end(tc_request *r)
{
    tc_outcome outcome = !r->failed ? r->finish == TC_FINISH_STOP ? TC_OUTCOME_STOP : TC_OUTCOME_LENGTH
                         : r->error.status == 504 ? TC_OUTCOME_DEADLINE
                                                  : TC_OUTCOME_FAILED;
    tc_metrics_ended(tc_core_link_metrics(r->link), outcome, r->end_us - r->asked_us, &r->usage);
    if (!tc_trace_on || !r->name) return;
    tc_trace_request(r->name, "gateway: request", r->asked_us, r->end_us,
                     "\"prompt_tokens\":%u,\"tokens\":%u", r->prompt_tokens, r->tokens);
    tc_trace_request(r->name, "gateway: encode", r->asked_us, r->start_us, "%s", "");
    tc_trace_flush();
}

static void end(tc_request *r)
{
    r->ended = true;
    r->id = 0;
    r->end_us = tc_now_us();
    note_end(r);
    r->hooks->end(r);
}

static void note_token(tc_request *r)
{
    if (!TC_COUNTS) return;
    uint64_t now_us = tc_now_us();
    tc_metrics *m = tc_core_link_metrics(r->link);
    if (r->token_us)
        tc_histogram_add(&m->between_tokens, now_us - r->token_us);
    else
        tc_histogram_add(&m->first_token, now_us - r->asked_us);
    r->token_us = now_us;
}

void tc_request_lost(tc_request *r, tc_status status, const char *reason)
{
    if (r->ended) return;
    if (!r->stopped) { // else all the text is there, only the totals are not
        r->failed = true;
        if (status == TC_TIMEOUT && r->deadline)
            tc_http_refuse(&r->error, 504, "deadline_exceeded", "deadline_ms", "%s", reason);
        else
            tc_http_refuse_status(&r->error, status, reason);
    }
    end(r);
}

static void on_token(tc_request *r, uint32_t token)
{
    const char *text;
    size_t bytes;
    bool stopped = false;
    if (r->stopped) return; // was under way when the stop string was found
    r->tokens++;
    note_token(r);
    if (r->answer && tc_answer_in_reasoning(r->answer)) r->reasoning_tokens++;
    if (r->keep_ids && tc_ids_push(&r->ids, token) != TC_OK) r->text.failed = true;
    if (r->min_tokens && r->tokens > r->min_tokens) tc_text_stream_hold_stops(r->stream, false);
    tc_status status = tc_text_stream_push(r->stream, token, &text, &bytes, &stopped);
    if (status != TC_OK) {
        tc_core_link_cancel(r->link, r->id);
        tc_request_lost(r, status, NULL);
        return;
    }
    if (stopped) tc_request_stop(r);
    if (bytes) r->hooks->text(r, text, bytes);
}

static void on_finished(tc_request *r, const tc_engine_event *event)
{
    const char *text;
    size_t bytes;
    r->usage = event->usage;
    if (r->stopped) {
        r->finish = TC_FINISH_STOP;
    } else {
        if (event->finish == TC_FINISH_CANCELLED) {
            tc_request_lost(r, TC_CANCELLED, "the core cancelled this generation");
            return;
        }
        r->finish = event->finish;
        tc_status status = tc_text_stream_finish(r->stream, &text, &bytes);
        if (status != TC_OK) {
            tc_request_lost(r, status, NULL);
            return;
        }
        if (bytes && !r->hooks->text(r, text, bytes)) return;
    }
    end(r);
}

static void on_logprobs(tc_request *r, const tc_engine_event *event)
{
    bool prompt = event->position < r->prompt_tokens;
    struct tc_logprob_rows *rows = prompt ? &r->prompt_logprobs : &r->logprobs;
    tc_buffer_append(&rows->values, event->logprobs,
                     (size_t)event->positions * (1 + event->top) * sizeof *event->logprobs);
    if (rows->values
            .failed) { // out of memory: it ends with that, and nothing is shown of rows that are not there
        r->text.failed = true;
        return;
    }
    rows->top = event->top;
    rows->count += event->positions;
}

static void on_evaluated(tc_request *r, const tc_engine_event *event)
{
    if (!event->experts || r->stopped) return;
    tc_buffer_append(&r->routes, event->experts,
                     (size_t)event->positions * r->layers * r->top_k * sizeof *event->experts);
    if (r->routes.failed) {
        r->text.failed = true;
        return;
    }
    r->route_positions += event->positions;
}

void tc_request_event(tc_request *r, const tc_engine_event *event)
{
    if (event->kind == TC_ENGINE_LOGPROBS) on_logprobs(r, event);
    if (event->kind == TC_ENGINE_EVALUATED) on_evaluated(r, event);
    if (event->kind == TC_ENGINE_TOKEN)
        on_token(r, event->token);
    else if (event->kind == TC_ENGINE_FINISHED)
        on_finished(r, event);
    else if (event->kind == TC_ENGINE_FAILED)
        tc_request_lost(r, event->status, event->reason);
}
