// SPDX-License-Identifier: Apache-2.0
// Owns: writing what OpenAI's dialects share.
#include "gateway/openai.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define LOGPROB_NONE (-9999.0) // of a token that cannot come: JSON has no minus infinity

void tc_openai_usage(const tc_job *job, tc_buffer *out)
{
    tc_job_totals sum = tc_job_sum(job);
    tc_buffer_format(out, "{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u",
                     sum.prompt_tokens, sum.tokens, sum.prompt_tokens + sum.tokens);
    tc_buffer_format(out, ",\"prompt_tokens_details\":{\"cached_tokens\":%u}", sum.cached_tokens);
    tc_buffer_format(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%u}}", sum.reasoning_tokens);
}

const char *tc_openai_finish(const tc_request *r)
{
    uint32_t calls = 0;
    if (r->finish == TC_FINISH_LENGTH) return "length";
    if (r->answer) tc_answer_calls(r->answer, &calls);
    return calls ? "tool_calls" : "stop";
}

void tc_openai_stop_reason(const tc_job *job, const tc_request *r, tc_buffer *out)
{
    int stop = r->stream ? tc_text_stream_stopped_by(r->stream) : -1;
    tc_buffer_text(out, ",\"stop_reason\":");
    if (stop >= 0) {
        tc_buffer_json_text(out, job->params.stops[stop]);
        return;
    }
    for (uint32_t i = 0; i < job->params.stop_token_count; i++)
        if (r->usage.stopped_by == job->params.stop_tokens[i] + 1) {
            tc_buffer_format(out, "%u", job->params.stop_tokens[i]);
            return;
        }
    tc_buffer_text(out, "null");
}

static void number(tc_buffer *out, float logprob)
{
    tc_buffer_json_number(out, isfinite(logprob) ? (double)logprob : LOGPROB_NONE);
}

static void token_text(const tc_job *job, uint32_t token, tc_buffer *out)
{
    size_t bytes;
    const char *text = tc_tokenizer_token_bytes(job->gateway->options.tokenizer, token, &bytes);
    tc_buffer_json(out, text ? text : "", text ? bytes : 0);
}

// "token":...,"logprob":...,"bytes":[...]
static void token_fields(const tc_job *job, tc_token_value value, tc_buffer *out)
{
    size_t bytes;
    const char *text = tc_tokenizer_token_bytes(job->gateway->options.tokenizer, value.token, &bytes);
    tc_buffer_text(out, "\"token\":");
    token_text(job, value.token, out);
    tc_buffer_text(out, ",\"logprob\":");
    number(out, value.value);
    tc_buffer_text(out, ",\"bytes\":[");
    for (size_t i = 0; text && i < bytes; i++)
        tc_buffer_format(out, "%s%u", i ? "," : "", (unsigned char)text[i]);
    tc_buffer_text(out, "]");
}

static const tc_token_value *row_of(const struct tc_logprob_rows *rows, uint32_t row)
{
    return (const tc_token_value *)(const void *)rows->values.data + (size_t)row * (1 + rows->top);
}

uint32_t tc_openai_logprob_rows(const tc_request *r)
{
    return r->logprobs.count < r->tokens ? r->logprobs.count : r->tokens;
}

void tc_openai_logprob(const tc_job *job, const tc_request *r, uint32_t row, tc_buffer *out)
{
    const tc_token_value *values = row_of(&r->logprobs, row);
    tc_buffer_text(out, "{");
    token_fields(job, values[0], out);
    tc_buffer_text(out, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < r->logprobs.top; i++) {
        tc_buffer_text(out, i ? ",{" : "{");
        token_fields(job, values[1 + i], out);
        tc_buffer_text(out, "}");
    }
    tc_buffer_text(out, "]}");
}

void tc_openai_chat_logprobs(const tc_job *job, tc_request *r, tc_buffer *out)
{
    if (!job->params.logprobs) {
        tc_buffer_text(out, "null");
        return;
    }
    tc_buffer_text(out, "{\"content\":[");
    for (uint32_t first = r->logprobs.shown; r->logprobs.shown < tc_openai_logprob_rows(r);
         r->logprobs.shown++) {
        if (r->logprobs.shown > first) tc_buffer_text(out, ",");
        tc_openai_logprob(job, r, r->logprobs.shown, out);
    }
    tc_buffer_text(out, "],\"refusal\":null}");
}

// ---- the old form ----

typedef struct text_rows {
    const tc_job *job;
    const tc_request *r;
    uint32_t prompt_from, prompt_to, from,
        to; // rows of the prompt (row 0: its first token) and of the answer
} text_rows;

static uint32_t count_of(const text_rows *t)
{
    return t->prompt_to - t->prompt_from + t->to - t->from;
}

// Row i of those to show; NULL: the first token of the prompt, which nothing predicts.
static const tc_token_value *text_row(const text_rows *t, uint32_t i)
{
    uint32_t prompts = t->prompt_to - t->prompt_from;
    if (i >= prompts) return row_of(&t->r->logprobs, t->from + i - prompts);
    uint32_t row = t->prompt_from + i;
    return row == 0 ? NULL : row_of(&t->r->prompt_logprobs, row - 1);
}

static uint32_t token_of(const text_rows *t, uint32_t i)
{
    const tc_token_value *row = text_row(t, i);
    return row ? row->token : t->r->first_token;
}

static uint32_t characters(const tc_job *job, uint32_t token)
{
    size_t bytes;
    uint32_t count = 0;
    const char *text = tc_tokenizer_token_bytes(job->gateway->options.tokenizer, token, &bytes);
    for (size_t i = 0; text && i < bytes; i++) count += ((unsigned char)text[i] & 0xc0) != 0x80;
    return count;
}

// An object of texts: two tokens of the same text are one member.
static void top_of_row(const tc_job *job, const tc_token_value *row, uint32_t top, tc_buffer *out)
{
    bool there = false;
    tc_buffer_text(out, "{");
    for (uint32_t i = 1; i <= top; i++) there |= row[i].token == row[0].token;
    for (uint32_t i = there ? 1 : 0, first = i; i <= top; i++) {
        if (i > first) tc_buffer_text(out, ",");
        token_text(job, row[i].token, out);
        tc_buffer_text(out, ":");
        number(out, row[i].value);
    }
    tc_buffer_text(out, "}");
}

void tc_openai_text_logprobs(const tc_job *job, tc_request *r, tc_buffer *out)
{
    if (!job->params.logprobs) {
        tc_buffer_text(out, "null");
        return;
    }
    uint32_t prompt = job->params.echo ? r->prompt_tokens : 0;
    if (prompt > r->prompt_logprobs.count + 1) prompt = r->prompt_logprobs.count + 1;
    text_rows t = {job, r, r->prompt_logprobs.shown, prompt, r->logprobs.shown, tc_openai_logprob_rows(r)};
    uint32_t count = count_of(&t);
    tc_buffer_text(out, "{\"tokens\":[");
    for (uint32_t i = 0; i < count; i++) {
        if (i) tc_buffer_text(out, ",");
        token_text(job, token_of(&t, i), out);
    }
    tc_buffer_text(out, "],\"token_logprobs\":[");
    for (uint32_t i = 0; i < count; i++) {
        if (i) tc_buffer_text(out, ",");
        if (text_row(&t, i))
            number(out, text_row(&t, i)->value);
        else
            tc_buffer_text(out, "null");
    }
    tc_buffer_text(out, "],\"top_logprobs\":[");
    for (uint32_t i = 0; i < count; i++) {
        if (i) tc_buffer_text(out, ",");
        if (text_row(&t, i))
            top_of_row(job, text_row(&t, i),
                       r->logprobs.top > r->prompt_logprobs.top ? r->logprobs.top : r->prompt_logprobs.top,
                       out);
        else
            tc_buffer_text(out, "null");
    }
    tc_buffer_text(out, "],\"text_offset\":[");
    for (uint32_t i = 0; i < count; i++) {
        tc_buffer_format(out, "%s%u", i ? "," : "", r->text_offset);
        r->text_offset += characters(job, token_of(&t, i));
    }
    tc_buffer_text(out, "]}");
    r->prompt_logprobs.shown = t.prompt_to;
    r->logprobs.shown = t.to;
}

// ---- extras ----

static void routes(const tc_request *r, tc_buffer *out)
{
    const int32_t *expert = (const int32_t *)(const void *)r->routes.data;
    tc_buffer_text(out, ",\"routed_experts\":");
    if (r->routes.failed || !expert) {
        tc_buffer_text(out, "null");
        return;
    }
    for (uint32_t p = 0; p < r->route_positions; p++)
        for (uint32_t l = 0; l < r->layers; l++)
            for (uint32_t k = 0; k < r->top_k; k++) {
                const char *open = k ? "," : l ? ",[" : p ? ",[[" : "[[[";
                tc_buffer_format(out, "%s%" PRId32, open, *expert++);
                if (k + 1 < r->top_k) continue;
                tc_buffer_text(out, l + 1 == r->layers ? "]]" : "]");
            }
    tc_buffer_text(out, "]");
}

void tc_openai_extras(const tc_job *job, const tc_request *r, tc_buffer *out)
{
    if (job->params.return_experts) routes(r, out);
    if (!job->params.return_token_ids) return;
    tc_buffer_text(out, ",\"token_ids\":[");
    for (size_t i = 0; i < r->ids.count; i++) tc_buffer_format(out, "%s%u", i ? "," : "", r->ids.data[i]);
    tc_buffer_text(out, "]");
}

void tc_openai_stream_error(tc_job *job, const tc_http_error *error)
{
    tc_buffer_text(&job->line, "data: ");
    tc_http_error_body(error, &job->line);
    tc_buffer_text(&job->line, "\n\n");
}

void tc_json_tool_calls(const tc_request *r, tc_buffer *out)
{
    uint32_t count;
    const tc_tool_call *calls = tc_answer_calls(r->answer, &count);
    tc_buffer_text(out, "[");
    for (uint32_t i = 0; i < count; i++) {
        tc_buffer_format(out, "%s{\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", i ? "," : "",
                         calls[i].id);
        tc_buffer_json(out, calls[i].name.data, calls[i].name.count);
        tc_buffer_text(out, ",\"arguments\":");
        tc_buffer_json(out, calls[i].arguments.data, calls[i].arguments.count);
        tc_buffer_text(out, "}}");
    }
    tc_buffer_text(out, "]");
}
