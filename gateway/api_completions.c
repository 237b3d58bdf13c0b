// SPDX-License-Identifier: Apache-2.0
// Owns: POST /v1/completions in OpenAI's shape: one JSON object, or server-sent events that end in [DONE]. A
// stream that ends in an error never says [DONE].
#include "gateway/openai.h"
#include "gateway/routes.h"

#include <inttypes.h>

static void object_head(const tc_job *job, tc_buffer *out)
{
    tc_buffer_format(out, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%" PRId64 ",\"model\":",
                     job->id, job->created_at);
    tc_buffer_json_text(out, job->gateway->options.model.name);
    tc_buffer_text(out, ",\"choices\":[");
}

static void choice(const tc_job *job, tc_buffer *out, tc_request *r, const char *text, size_t bytes, bool end)
{
    tc_buffer_format(out, "{\"index\":%u,\"text\":", r->index);
    tc_buffer_json(out, text, bytes);
    tc_buffer_text(out, ",\"logprobs\":");
    tc_openai_text_logprobs(job, r, out);
    tc_buffer_text(out, ",\"finish_reason\":");
    tc_buffer_json_text(out, end ? tc_openai_finish(r) : NULL);
    if (end) {
        tc_openai_stop_reason(job, r, out);
        tc_openai_extras(job, r, out);
    }
    tc_buffer_text(out, "}");
}

static void event(tc_job *job, tc_request *r, const char *text, size_t bytes, bool end)
{
    tc_buffer *out = &job->line;
    tc_buffer_text(out, "data: ");
    object_head(job, out);
    choice(job, out, r, text, bytes, end);
    tc_buffer_text(out, job->params.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

// With echo the prompt waits in request->text and goes out first.
static void echo(tc_job *job, tc_request *r)
{
    if (r->text.count) event(job, r, r->text.data, r->text.count, false);
    tc_buffer_free(&r->text);
}

static void event_part(tc_job *job, tc_request *r, const tc_part *part)
{
    echo(job, r);
    event(job, r, part->text, part->bytes, false);
}

static void event_end(tc_job *job, tc_request *r)
{
    echo(job, r);
    event(job, r, "", 0, true);
}

static void stream_finish(tc_job *job)
{
    tc_buffer *out = &job->line;
    if (job->params.include_usage) {
        tc_buffer_text(out, "data: ");
        object_head(job, out);
        tc_buffer_text(out, "],\"usage\":");
        tc_openai_usage(job, out);
        tc_buffer_text(out, "}\n\n");
    }
    tc_buffer_text(out, "data: [DONE]\n\n");
}

static void body(tc_job *job, tc_buffer *out)
{
    object_head(job, out);
    for (uint32_t i = 0; i < job->count; i++) {
        tc_request *r = &job->requests[i];
        if (i) tc_buffer_text(out, ",");
        choice(job, out, r, r->text.data, r->text.count, true);
    }
    tc_buffer_text(out, "],\"usage\":");
    tc_openai_usage(job, out);
    tc_buffer_text(out, "}\n");
}

void tc_api_completions(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {
        .stream_type = "text/event-stream",
        .keep_alive = ": keep-alive\n\n",
        .id_prefix = "cmpl-",
        .part = event_part,
        .end = event_end,
        .stream_finish = stream_finish,
        .stream_error = tc_openai_stream_error,
        .body = body,
    };
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_COMPLETIONS, &shape);
}
