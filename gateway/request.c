// SPDX-License-Identifier: Apache-2.0
// Owns: the events of one generation, in order: tokens, then finished or failed.
#include "gateway/request.h"

#include "common/base/clock.h"

tc_status tc_request_start(tc_request *r, tc_generate *generate, const tc_tokenizer *tokenizer,
                           const char *const *stops, size_t stop_count, tc_error *e)
{
    TC_TRY(tc_text_stream_create(tokenizer, stops, stop_count, /* skip_special= */ true, &r->stream, e));
    generate->prompt = r->prompt.data;
    generate->prompt_count = r->prompt_tokens = (uint32_t)r->prompt.count;
    r->start_us = tc_now_us();
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

void tc_request_free(tc_request *r)
{
    if (r->id) tc_core_link_cancel(r->link, r->id);
    r->id = 0;
    tc_text_stream_free(r->stream);
    r->stream = NULL;
    tc_ids_free(&r->prompt);
    r->prompt = (tc_ids){0};
    tc_buffer_free(&r->text);
}

static void end(tc_request *r)
{
    r->ended = true;
    r->id = 0;
    r->end_us = tc_now_us();
    r->hooks->end(r);
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
    tc_status status = tc_text_stream_push(r->stream, token, &text, &bytes, &stopped);
    if (status != TC_OK) {
        tc_core_link_cancel(r->link, r->id);
        tc_request_lost(r, status, NULL);
        return;
    }
    if (stopped) {
        r->stopped = true;
        tc_core_link_stop(r->link, r->id); // the totals come with its end
    }
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

void tc_request_event(tc_request *r, const tc_engine_event *event)
{
    if (event->kind == TC_ENGINE_TOKEN)
        on_token(r, event->token);
    else if (event->kind == TC_ENGINE_FINISHED)
        on_finished(r, event);
    else if (event->kind == TC_ENGINE_FAILED)
        tc_request_lost(r, event->status, event->reason);
}
