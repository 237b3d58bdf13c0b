// SPDX-License-Identifier: Apache-2.0
// Owns: POST /v1/messages and /v1/messages/count_tokens in Anthropic's shape: named events, content blocks
// that are opened and closed, cumulative usage.
#include "gateway/openai.h"
#include "gateway/routes.h"

#include <string.h>

static const char *stop_reason(const tc_request *r)
{
    uint32_t calls;
    tc_answer_calls(r->answer, &calls);
    if (r->finish == TC_FINISH_LENGTH) return "max_tokens";
    if (r->stream && tc_text_stream_stopped_by(r->stream) >= 0) return "stop_sequence";
    return calls ? "tool_use" : "end_turn";
}

static void stop_sequence(const tc_job *job, const tc_request *r, tc_buffer *out)
{
    int stop = r->stream ? tc_text_stream_stopped_by(r->stream) : -1;
    tc_buffer_json_text(out, stop >= 0 ? job->params.stops[stop] : NULL);
}

static void usage(const tc_request *r, tc_buffer *out)
{
    uint32_t cached = r->usage.cached_tokens < r->prompt_tokens ? r->usage.cached_tokens : r->prompt_tokens;
    tc_buffer_format(out,
                     "{\"input_tokens\":%u,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":%u,"
                     "\"output_tokens\":%u}",
                     r->prompt_tokens - cached, cached, r->tokens);
}

static void event(tc_job *job, const char *name)
{
    tc_buffer_format(&job->line, "event: %s\ndata: {\"type\":\"%s\"", name, name);
}

static void event_end(tc_job *job)
{
    tc_buffer_text(&job->line, "}\n\n");
}

static void message_head(const tc_job *job, tc_buffer *out)
{
    tc_buffer_format(out, "{\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", job->id);
    tc_buffer_json_text(out, job->gateway->options.model.name);
}

static void stream_begin(tc_job *job)
{
    event(job, "message_start");
    tc_buffer_text(&job->line, ",\"message\":");
    message_head(job, &job->line);
    tc_buffer_text(&job->line, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":");
    usage(&job->requests[0], &job->line);
    tc_buffer_text(&job->line, "}");
    event_end(job);
}

static void close_block(tc_job *job)
{
    if (job->open_item < 0) return;
    if (job->open_item == TC_PART_REASONING) {
        event(job, "content_block_delta");
        tc_buffer_format(&job->line,
                         ",\"index\":%u,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"\"}",
                         job->items - 1);
        event_end(job);
    }
    event(job, "content_block_stop");
    tc_buffer_format(&job->line, ",\"index\":%u", job->items - 1);
    event_end(job);
    job->open_item = -1;
}

// Opens a block of that kind where none is open.
static void open_block(tc_job *job, tc_part_kind kind, const tc_tool_call *call)
{
    tc_buffer *out = &job->line;
    if (job->open_item == (int)kind && kind != TC_PART_CALL) return;
    close_block(job);
    job->open_item = kind;
    event(job, "content_block_start");
    tc_buffer_format(out, ",\"index\":%u,\"content_block\":", job->items++);
    if (kind == TC_PART_TEXT) {
        tc_buffer_text(out, "{\"type\":\"text\",\"text\":\"\"}");
    } else if (kind == TC_PART_REASONING) {
        tc_buffer_text(out, "{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
    } else {
        tc_buffer_format(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", call->id);
        tc_buffer_json(out, call->name.data, call->name.count);
        tc_buffer_text(out, ",\"input\":{}}");
    }
    event_end(job);
}

static void stream_part(tc_job *job, tc_request *r, const tc_part *part)
{
    (void)r;
    tc_buffer *out = &job->line;
    if (part->kind == TC_PART_CALL_END) {
        close_block(job);
        return;
    }
    if (part->kind != TC_PART_ARGUMENTS) open_block(job, part->kind, part->call);
    if (part->kind == TC_PART_CALL) return;
    event(job, "content_block_delta");
    tc_buffer_format(out, ",\"index\":%u,\"delta\":{", job->items - 1);
    tc_buffer_text(out, part->kind == TC_PART_TEXT ? "\"type\":\"text_delta\",\"text\":"
                        : part->kind == TC_PART_REASONING
                            ? "\"type\":\"thinking_delta\",\"thinking\":"
                            : "\"type\":\"input_json_delta\",\"partial_json\":");
    tc_buffer_json(out, part->text, part->bytes);
    tc_buffer_text(out, "}");
    event_end(job);
}

static void stream_finish(tc_job *job)
{
    tc_buffer *out = &job->line;
    const tc_request *r = &job->requests[0];
    if (job->items == 0) open_block(job, TC_PART_TEXT, NULL); // an empty answer has a block too
    close_block(job);
    event(job, "message_delta");
    tc_buffer_format(out, ",\"delta\":{\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(r));
    stop_sequence(job, r, out);
    tc_buffer_text(out, "},\"usage\":");
    usage(r, out);
    event_end(job);
    event(job, "message_stop");
    event_end(job);
}

static void stream_error(tc_job *job, const tc_http_error *error)
{
    tc_buffer_text(&job->line, "event: error\ndata: ");
    tc_http_error_anthropic(error, &job->line);
    tc_buffer_text(&job->line, "\n\n");
}

static void call_block(const tc_tool_call *call, tc_buffer *out)
{
    tc_buffer_format(out, "{\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", call->id);
    tc_buffer_json(out, call->name.data, call->name.count);
    tc_buffer_text(out, ",\"input\":");
    // Cut off in the middle it is no JSON; the client is told of that by stop_reason.
    yyjson_doc *doc = yyjson_read(call->arguments.data, call->arguments.count, 0);
    if (yyjson_is_obj(yyjson_doc_get_root(doc)))
        tc_buffer_append(out, call->arguments.data, call->arguments.count);
    else
        tc_buffer_text(out, "{}");
    yyjson_doc_free(doc);
    tc_buffer_text(out, "}");
}

static void blocks(const tc_request *r, tc_buffer *out)
{
    uint32_t calls, count;
    size_t bytes;
    const tc_tool_call *call = tc_answer_calls(r->answer, &calls);
    const tc_answer_item *items = tc_answer_items(r->answer, &count);
    for (uint32_t i = 0; i < count; i++) {
        if (i) tc_buffer_text(out, ",");
        if (items[i].kind == TC_PART_CALL) {
            call_block(&call[items[i].call], out);
            continue;
        }
        bool thinking = items[i].kind == TC_PART_REASONING;
        const char *text = tc_answer_item_text(r->answer, &items[i], &bytes);
        tc_buffer_text(out,
                       thinking ? "{\"type\":\"thinking\",\"thinking\":" : "{\"type\":\"text\",\"text\":");
        tc_buffer_json(out, text, bytes);
        tc_buffer_text(out, thinking ? ",\"signature\":\"\"}" : "}");
    }
    if (count == 0) tc_buffer_text(out, "{\"type\":\"text\",\"text\":\"\"}");
}

static void body(tc_job *job, tc_buffer *out)
{
    const tc_request *r = &job->requests[0];
    message_head(job, out);
    tc_buffer_text(out, ",\"content\":[");
    blocks(r, out);
    tc_buffer_format(out, "],\"stop_reason\":\"%s\",\"stop_sequence\":", stop_reason(r));
    stop_sequence(job, r, out);
    tc_buffer_text(out, ",\"usage\":");
    usage(r, out);
    tc_buffer_text(out, "}\n");
}

void tc_api_messages(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {.stream_type = "text/event-stream",
                                       .keep_alive = "event: ping\ndata: {\"type\":\"ping\"}\n\n",
                                       .id_prefix = "msg_",
                                       .call_prefix = "toolu_",
                                       .parts = true,
                                       .begin = stream_begin,
                                       .part = stream_part,
                                       .stream_finish = stream_finish,
                                       .stream_error = stream_error,
                                       .body = body};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_MESSAGES, &shape);
}

static void count_body(tc_job *job, tc_buffer *out)
{
    tc_buffer_format(out, "{\"input_tokens\":%zu}\n", job->requests[0].prompt.count);
}

void tc_api_count_tokens(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {.no_core = true, .body = count_body};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_COUNT, &shape);
}
