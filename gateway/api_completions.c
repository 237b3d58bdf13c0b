// SPDX-License-Identifier: Apache-2.0
// Owns: POST /v1/completions in OpenAI's shape: one JSON object, or server-sent events that end in [DONE]. A
// stream that ends in an error never says [DONE].
#include "gateway/job.h"
#include "gateway/routes.h"

#include <inttypes.h>

static const char *finish_text(const tc_request *r)
{
    return r->finish == TC_FINISH_LENGTH ? "length" : "stop";
}

static void object_head(const tc_job *job, tc_buffer *out)
{
    tc_buffer_format(out, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%" PRId64 ",\"model\":",
                     job->id, job->created_at);
    tc_buffer_json_text(out, job->gateway->options.model.name);
    tc_buffer_text(out, ",\"choices\":[");
}

static void choice(tc_buffer *out, uint32_t index, const char *text, size_t bytes, const char *finish)
{
    tc_buffer_format(out, "{\"index\":%u,\"text\":", index);
    tc_buffer_json(out, text, bytes);
    tc_buffer_text(out, ",\"logprobs\":null,\"finish_reason\":");
    tc_buffer_json_text(out, finish);
    tc_buffer_text(out, "}");
}

static void usage(const tc_job *job, tc_buffer *out)
{
    tc_job_totals sum = tc_job_sum(job);
    tc_buffer_format(out, "{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u}",
                     sum.prompt_tokens, sum.tokens, sum.prompt_tokens + sum.tokens);
}

static void event(tc_job *job, const tc_request *r, const char *text, size_t bytes, const char *finish)
{
    tc_buffer *out = &job->line;
    tc_buffer_text(out, "data: ");
    object_head(job, out);
    choice(out, r->index, text, bytes, finish);
    tc_buffer_text(out, job->params.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

// With echo the prompt waits in request->text and goes out first.
static void echo(tc_job *job, tc_request *r)
{
    if (r->text.count) event(job, r, r->text.data, r->text.count, NULL);
    tc_buffer_free(&r->text);
}

static void event_text(tc_job *job, tc_request *r, const char *text, size_t bytes)
{
    echo(job, r);
    event(job, r, text, bytes, NULL);
}

static void event_end(tc_job *job, tc_request *r)
{
    echo(job, r);
    event(job, r, "", 0, finish_text(r));
}

static void stream_finish(tc_job *job)
{
    tc_buffer *out = &job->line;
    if (job->params.include_usage) {
        tc_buffer_text(out, "data: ");
        object_head(job, out);
        tc_buffer_text(out, "],\"usage\":");
        usage(job, out);
        tc_buffer_text(out, "}\n\n");
    }
    tc_buffer_text(out, "data: [DONE]\n\n");
}

static void stream_error(tc_job *job, const tc_http_error *error)
{
    tc_buffer_text(&job->line, "data: ");
    tc_http_error_body(error, &job->line);
    tc_buffer_text(&job->line, "\n\n");
}

static void body(tc_job *job, tc_buffer *out)
{
    object_head(job, out);
    for (uint32_t i = 0; i < job->count; i++) {
        const tc_request *r = &job->requests[i];
        if (i) tc_buffer_text(out, ",");
        choice(out, i, r->text.data, r->text.count, finish_text(r));
    }
    tc_buffer_text(out, "],\"usage\":");
    usage(job, out);
    tc_buffer_text(out, "}\n");
}

void tc_api_completions(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {
        .stream_type = "text/event-stream",
        .text = event_text,
        .end = event_end,
        .stream_finish = stream_finish,
        .stream_error = stream_error,
        .body = body,
    };
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_COMPLETIONS, &shape);
}
