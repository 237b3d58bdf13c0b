// SPDX-License-Identifier: Apache-2.0
// Owns: POST /v1/chat/completions in OpenAI's shape, and POST /api/v1/chat/completions, the same with
// conversations that the server keeps.
#include "gateway/conversation.h"
#include "gateway/openai.h"
#include "gateway/routes.h"

#include <inttypes.h>

static void object_head(const tc_job *job, const char *object, tc_buffer *out)
{
    tc_buffer_format(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", job->id,
                     object, job->created_at);
    tc_buffer_json_text(out, job->gateway->options.model.name);
    if (*job->conversation) {
        tc_buffer_text(out, ",\"conversation_id\":");
        tc_buffer_json_text(out, job->conversation);
    }
    tc_buffer_text(out, ",\"choices\":[");
}

static void chunk_head(tc_job *job, const tc_request *r)
{
    tc_buffer_text(&job->line, "data: ");
    object_head(job, "chat.completion.chunk", &job->line);
    tc_buffer_format(&job->line, "{\"index\":%u,\"delta\":{", r->index);
}

// After the delta's members.
static void chunk_tail(tc_job *job, tc_request *r, bool end)
{
    tc_buffer *out = &job->line;
    tc_buffer_text(out, "},\"logprobs\":");
    if (end || (job->params.logprobs && r->logprobs.shown < tc_openai_logprob_rows(r)))
        tc_openai_chat_logprobs(job, r, out);
    else
        tc_buffer_text(out, "null");
    tc_buffer_text(out, ",\"finish_reason\":");
    tc_buffer_json_text(out, end ? tc_openai_finish(r) : NULL);
    if (end) {
        tc_openai_stop_reason(job, r, out);
        tc_openai_extras(job, r, out);
    }
    tc_buffer_text(out, job->params.include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

static void stream_begin(tc_job *job)
{
    for (uint32_t i = 0; i < job->count; i++) {
        chunk_head(job, &job->requests[i]);
        tc_buffer_text(&job->line,
                       "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null");
        tc_buffer_text(&job->line, job->params.include_usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
    }
}

static void reasoning(tc_buffer *out, const char *text, size_t bytes)
{
    tc_buffer_text(out, "\"reasoning_content\":");
    tc_buffer_json(out, text, bytes);
    tc_buffer_text(out, ",\"reasoning\":");
    tc_buffer_json(out, text, bytes);
}

static void stream_part(tc_job *job, tc_request *r, const tc_part *part)
{
    tc_buffer *out = &job->line;
    if (part->kind == TC_PART_CALL_END) return;
    chunk_head(job, r);
    switch (part->kind) {
    case TC_PART_TEXT:
        tc_buffer_text(out, "\"content\":");
        tc_buffer_json(out, part->text, part->bytes);
        break;
    case TC_PART_REASONING:
        reasoning(out, part->text, part->bytes);
        break;
    case TC_PART_CALL:
        tc_buffer_format(
            out, "\"tool_calls\":[{\"index\":%u,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":",
            part->index, part->call->id);
        tc_buffer_json(out, part->call->name.data, part->call->name.count);
        tc_buffer_text(out, ",\"arguments\":\"\"}}]");
        break;
    case TC_PART_ARGUMENTS:
        tc_buffer_format(out, "\"tool_calls\":[{\"index\":%u,\"function\":{\"arguments\":", part->index);
        tc_buffer_json(out, part->text, part->bytes);
        tc_buffer_text(out, "}}]");
        break;
    case TC_PART_CALL_END:
        break;
    }
    chunk_tail(job, r, false);
}

static void stream_end(tc_job *job, tc_request *r)
{
    chunk_head(job, r);
    chunk_tail(job, r, true);
    tc_conversation_keep(job, r);
}

static void stream_finish(tc_job *job)
{
    tc_buffer *out = &job->line;
    if (job->params.include_usage) {
        tc_buffer_text(out, "data: ");
        object_head(job, "chat.completion.chunk", out);
        tc_buffer_text(out, "],\"usage\":");
        tc_openai_usage(job, out);
        tc_buffer_text(out, "}\n\n");
    }
    tc_buffer_text(out, "data: [DONE]\n\n");
}

static void message(const tc_job *job, const tc_request *r, tc_buffer *out)
{
    uint32_t calls;
    const tc_buffer *text = tc_answer_text(r->answer), *thought = tc_answer_reasoning(r->answer);
    tc_answer_calls(r->answer, &calls);
    tc_buffer_text(out, "{\"role\":\"assistant\",\"content\":");
    if (text->count || !calls)
        tc_buffer_json(out, text->data, text->count);
    else
        tc_buffer_text(out, "null");
    tc_buffer_text(out, ",\"refusal\":null");
    if (thought->count && !job->params.chat.drop_reasoning) {
        tc_buffer_text(out, ",");
        reasoning(out, thought->data, thought->count);
    }
    if (calls) {
        tc_buffer_text(out, ",\"tool_calls\":");
        tc_json_tool_calls(r, out);
    }
    tc_buffer_text(out, "}");
}

static void body(tc_job *job, tc_buffer *out)
{
    object_head(job, "chat.completion", out);
    for (uint32_t i = 0; i < job->count; i++) {
        tc_request *r = &job->requests[i];
        tc_buffer_format(out, "%s{\"index\":%u,\"message\":", i ? "," : "", i);
        message(job, r, out);
        tc_buffer_text(out, ",\"logprobs\":");
        tc_openai_chat_logprobs(job, r, out);
        tc_buffer_format(out, ",\"finish_reason\":\"%s\"", tc_openai_finish(r));
        tc_openai_stop_reason(job, r, out);
        tc_openai_extras(job, r, out);
        tc_buffer_text(out, "}");
        tc_conversation_keep(job, r);
    }
    tc_buffer_text(out, "],\"usage\":");
    tc_openai_usage(job, out);
    tc_buffer_text(out, "}\n");
}

#define CHAT_SHAPE                                                                                           \
    .stream_type = "text/event-stream", .keep_alive = ": keep-alive\n\n", .id_prefix = "chatcmpl-",          \
    .call_prefix = "call_", .parts = true, .begin = stream_begin, .part = stream_part, .end = stream_end,    \
    .stream_finish = stream_finish, .stream_error = tc_openai_stream_error, .body = body

void tc_api_chat(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {CHAT_SHAPE};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_CHAT, &shape);
}

void tc_api_own_chat(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {CHAT_SHAPE, .prepare = tc_conversation_take};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_OWN_CHAT, &shape);
}
