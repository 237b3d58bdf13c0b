// SPDX-License-Identifier: Apache-2.0
// Owns: the project's own dialect: POST /api/v1/generate (JSON or NDJSON lines) and /api/v1/generate/batch.
#include "gateway/openai.h"
#include "gateway/routes.h"

#include <inttypes.h>

static const char *finish_text(const tc_request *r)
{
    return r->finish == TC_FINISH_LENGTH ? "length" : "stop";
}

static double seconds_of(uint64_t us)
{
    return (double)us / 1e6;
}

static void rate(tc_buffer *out, uint32_t tokens, double seconds)
{
    tc_buffer_format(out, "\"tokens_generated\":%u,\"generation_time\":", tokens);
    tc_buffer_json_number(out, seconds);
    tc_buffer_text(out, ",\"tokens_per_second\":");
    tc_buffer_json_number(out, seconds > 0 ? tokens / seconds : 0);
}

// "tokens_generated":...,"finish_reason":... without braces.
static void counts(const tc_job *job, tc_buffer *out, const tc_request *r)
{
    rate(out, r->tokens, seconds_of(r->end_us - r->start_us));
    tc_buffer_format(out, ",\"prompt_tokens\":%u,\"finish_reason\":\"%s\"", r->prompt_tokens, finish_text(r));
    tc_buffer_format(out, ",\"expert_cache_hits\":%" PRIu64 ",\"expert_cache_misses\":%" PRIu64,
                     r->usage.expert_hits, r->usage.expert_misses);
    tc_buffer_text(out, ",\"queue_time\":");
    tc_buffer_json_number(out, seconds_of(r->usage.queue_us));
    tc_buffer_text(out, ",\"prefill_time\":");
    tc_buffer_json_number(out, seconds_of(r->usage.prefill_us));
    tc_buffer_text(out, ",\"decode_time\":");
    tc_buffer_json_number(out, seconds_of(r->usage.decode_us));
    tc_openai_extras(job, r, out);
}

static void result(const tc_job *job, tc_buffer *out, const tc_request *r)
{
    if (r->failed) {
        tc_http_error_body(&r->error, out);
        return;
    }
    tc_buffer_text(out, "{\"text\":");
    tc_buffer_json(out, r->text.data, r->text.count);
    tc_buffer_text(out, ",");
    counts(job, out, r);
    tc_buffer_text(out, "}");
}

static void line_part(tc_job *job, tc_request *request, const tc_part *part)
{
    (void)request;
    tc_buffer_text(&job->line, "{\"token\":");
    tc_buffer_json(&job->line, part->text, part->bytes);
    tc_buffer_text(&job->line, "}\n");
}

static void line_finish(tc_job *job)
{
    tc_buffer_text(&job->line, "{\"done\":true,");
    counts(job, &job->line, &job->requests[0]);
    tc_buffer_text(&job->line, "}\n");
}

static void line_error(tc_job *job, const tc_http_error *error)
{
    tc_http_error_body(error, &job->line);
    tc_buffer_text(&job->line, "\n");
}

static void single_body(tc_job *job, tc_buffer *out)
{
    result(job, out, &job->requests[0]);
    tc_buffer_text(out, "\n");
}

static void batch_body(tc_job *job, tc_buffer *out)
{
    tc_job_totals sum = tc_job_sum(job);
    tc_buffer_text(out, "{\"results\":[");
    for (uint32_t i = 0; i < job->count; i++) {
        if (i) tc_buffer_text(out, ",");
        result(job, out, &job->requests[i]);
    }
    tc_buffer_text(out, "],");
    rate(out, sum.tokens, sum.seconds);
    tc_buffer_format(out, ",\"prompt_tokens\":%u,\"failed\":%u", sum.prompt_tokens, sum.failed);
    tc_buffer_format(out, ",\"expert_cache_hits\":%" PRIu64 ",\"expert_cache_misses\":%" PRIu64 "}\n",
                     sum.expert_hits, sum.expert_misses);
}

const tc_job_shape tc_generate_shape = {
    .stream_type = "application/x-ndjson",
    .keep_alive = " ", // before a JSON text it means nothing
    .part = line_part,
    .stream_finish = line_finish,
    .stream_error = line_error,
    .body = single_body,
};

void tc_api_generate(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_GENERATE, &tc_generate_shape);
}

void tc_api_generate_batch(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {.partial = true, .body = batch_body};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_BATCH, &shape);
}
