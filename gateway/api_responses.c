// SPDX-License-Identifier: Apache-2.0
// Owns: POST /v1/responses in OpenAI's shape: a response of output items (reasoning, message, function
// calls), streamed as numbered events in which every item and every part is opened and closed. Stateless:
// nothing is stored, and the response says so.
#include "gateway/openai.h"
#include "gateway/routes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void event(tc_job *job, const char *name)
{
    tc_buffer_format(&job->line, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u", name, name,
                     job->sequence++);
}

static void event_end(tc_job *job)
{
    tc_buffer_text(&job->line, "}\n\n");
}

static const char *item_prefix(tc_part_kind kind)
{
    return kind == TC_PART_REASONING ? "rs" : kind == TC_PART_TEXT ? "msg" : "fc";
}

static void item_id(const tc_job *job, tc_part_kind kind, uint32_t index, tc_buffer *out)
{
    tc_buffer_format(out, "\"%s_%s_%u\"", item_prefix(kind), job->id + 5, index); // without "resp_"
}

// ---- items ----

// `item` NULL: it has just been opened, or is empty.
static void item_text(const tc_request *r, const tc_answer_item *item, tc_buffer *out)
{
    size_t bytes = 0;
    const char *text = item ? tc_answer_item_text(r->answer, item, &bytes) : "";
    tc_buffer_json(out, text, bytes);
}

static void text_part(const tc_job *job, const tc_request *r, tc_part_kind kind, const tc_answer_item *item,
                      tc_buffer *out)
{
    if (kind == TC_PART_REASONING) {
        tc_buffer_text(out, "{\"type\":\"reasoning_text\",\"text\":");
        item_text(r, item, out);
        tc_buffer_text(out, "}");
        return;
    }
    tc_buffer_text(out, "{\"type\":\"output_text\",\"text\":");
    item_text(r, item, out);
    tc_buffer_text(out, ",\"annotations\":[],\"logprobs\":[");
    for (uint32_t i = 0; item && job->params.logprobs && i < tc_openai_logprob_rows(r); i++) {
        if (i) tc_buffer_text(out, ",");
        tc_openai_logprob(job, r, i, out);
    }
    tc_buffer_text(out, "]}");
}

// A reasoning or message item; without its part where it has just been opened.
static void text_item(const tc_job *job, const tc_request *r, tc_part_kind kind, uint32_t index, bool opened,
                      const tc_answer_item *item, const char *status, tc_buffer *out)
{
    bool reasoning = kind == TC_PART_REASONING;
    tc_buffer_text(out, "{\"id\":");
    item_id(job, kind, index, out);
    tc_buffer_format(out, ",\"type\":\"%s\",\"status\":\"%s\",", reasoning ? "reasoning" : "message", status);
    tc_buffer_text(out, reasoning ? "\"summary\":[],\"content\":[" : "\"role\":\"assistant\",\"content\":[");
    if (!opened) text_part(job, r, kind, item, out);
    tc_buffer_text(out, reasoning ? "],\"encrypted_content\":null}" : "]}");
}

static void call_item(const tc_job *job, const tc_tool_call *call, uint32_t index, bool opened,
                      const char *status, tc_buffer *out)
{
    tc_buffer_text(out, "{\"id\":");
    item_id(job, TC_PART_CALL, index, out);
    tc_buffer_format(
        out, ",\"type\":\"function_call\",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":", status, call->id);
    tc_buffer_json(out, call->name.data, call->name.count);
    tc_buffer_text(out, ",\"arguments\":");
    tc_buffer_json(out, call->arguments.data, opened ? 0 : call->arguments.count);
    tc_buffer_text(out, "}");
}

static const char *final_status(const tc_request *r)
{
    return r->finish == TC_FINISH_LENGTH ? "incomplete" : "completed";
}

static void output(const tc_job *job, tc_buffer *out)
{
    const tc_request *r = &job->requests[0];
    uint32_t calls, count;
    const tc_tool_call *call = tc_answer_calls(r->answer, &calls);
    const tc_answer_item *items = tc_answer_items(r->answer, &count);
    for (uint32_t i = 0; i < count; i++) {
        if (i) tc_buffer_text(out, ",");
        const char *status = i + 1 == count ? final_status(r) : "completed";
        if (items[i].kind == TC_PART_CALL)
            call_item(job, &call[items[i].call], i, false, status, out);
        else
            text_item(job, r, items[i].kind, i, false, &items[i], status, out);
    }
    if (count == 0) text_item(job, r, TC_PART_TEXT, 0, false, NULL, final_status(r), out);
}

// ---- the response ----

// A field of the request as it came, or what stands for its absence.
static void echo(const tc_job *job, const char *name, const char *absent, tc_buffer *out)
{
    yyjson_val *value = yyjson_obj_get(yyjson_doc_get_root(job->params.doc), name);
    size_t bytes;
    char *text =
        value && !yyjson_is_null(value) ? yyjson_val_write(value, YYJSON_WRITE_NOFLAG, &bytes) : NULL;
    tc_buffer_format(out, ",\"%s\":", name);
    if (text)
        tc_buffer_append(out, text, bytes);
    else
        tc_buffer_text(out, absent);
    free(text);
}

static void usage(const tc_job *job, tc_buffer *out)
{
    tc_job_totals sum = tc_job_sum(job);
    tc_buffer_format(out, "{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%u},",
                     sum.prompt_tokens, sum.cached_tokens);
    tc_buffer_format(
        out, "\"output_tokens\":%u,\"output_tokens_details\":{\"reasoning_tokens\":%u},\"total_tokens\":%u}",
        sum.tokens, sum.reasoning_tokens, sum.prompt_tokens + sum.tokens);
}

static void response(tc_job *job, const char *status, const tc_http_error *error, tc_buffer *out)
{
    const tc_params *p = &job->params;
    bool ended = strcmp(status, "in_progress") != 0 && !error;
    tc_buffer_format(out,
                     "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%" PRId64 ",\"status\":\"%s\"",
                     job->id, job->created_at, status);
    tc_buffer_text(out, ",\"background\":false,\"error\":");
    if (error) {
        tc_buffer_text(out, "{\"code\":\"server_error\",\"message\":");
        tc_buffer_json_text(out, error->message);
        tc_buffer_text(out, "}");
    } else {
        tc_buffer_text(out, "null");
    }
    tc_buffer_text(out, strcmp(status, "incomplete") == 0
                            ? ",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"
                            : ",\"incomplete_details\":null");
    echo(job, "instructions", "null", out);
    echo(job, "max_output_tokens", "null", out);
    tc_buffer_text(out, ",\"max_tool_calls\":null,\"model\":");
    tc_buffer_json_text(out, job->gateway->options.model.name);
    tc_buffer_text(out, ",\"output\":[");
    if (ended) output(job, out);
    tc_buffer_format(out, "],\"parallel_tool_calls\":%s,\"previous_response_id\":null",
                     p->chat.parallel ? "true" : "false");
    tc_buffer_text(out, ",\"store\":false,\"temperature\":");
    tc_buffer_json_number(out, (double)p->sampling.temperature);
    tc_buffer_text(out, ",\"top_p\":");
    tc_buffer_json_number(out, (double)p->sampling.top_p);
    echo(job, "reasoning", "{\"effort\":null,\"summary\":null}", out);
    echo(job, "text", "{\"format\":{\"type\":\"text\"}}", out);
    echo(job, "tool_choice", "\"auto\"", out);
    echo(job, "tools", "[]", out);
    echo(job, "metadata", "{}", out);
    tc_buffer_format(
        out, ",\"top_logprobs\":%u,\"truncation\":\"disabled\",\"service_tier\":\"default\",\"usage\":",
        p->top_logprobs);
    if (ended)
        usage(job, out);
    else
        tc_buffer_text(out, "null");
    tc_buffer_text(out, "}");
}

static void response_event(tc_job *job, const char *name, const char *status, const tc_http_error *error)
{
    event(job, name);
    tc_buffer_text(&job->line, ",\"response\":");
    response(job, status, error, &job->line);
    event_end(job);
}

// ---- the stream ----

static void stream_begin(tc_job *job)
{
    response_event(job, "response.created", "in_progress", NULL);
    response_event(job, "response.in_progress", "in_progress", NULL);
}

// Members that events about the open item share.
static void item_place(tc_job *job, tc_part_kind kind, bool part)
{
    tc_buffer_text(&job->line, ",\"item_id\":");
    item_id(job, kind, job->items - 1, &job->line);
    tc_buffer_format(&job->line, ",\"output_index\":%u", job->items - 1);
    if (part) tc_buffer_text(&job->line, ",\"content_index\":0");
}

static void item_event(tc_job *job, const char *name)
{
    event(job, name);
    tc_buffer_format(&job->line, ",\"output_index\":%u,\"item\":", job->items - 1);
}

static void part_event(tc_job *job, const tc_request *r, const char *name, tc_part_kind kind,
                       const tc_answer_item *item)
{
    event(job, name);
    item_place(job, kind, true);
    tc_buffer_text(&job->line, ",\"part\":");
    text_part(job, r, kind, item, &job->line);
    event_end(job);
}

static void close_item(tc_job *job, const tc_request *r, const tc_tool_call *call)
{
    tc_buffer *out = &job->line;
    tc_part_kind kind = (tc_part_kind)job->open_item;
    const char *status = r->ended ? final_status(r) : "completed";
    if (job->open_item < 0) return;
    job->open_item = -1;
    if (kind == TC_PART_CALL) {
        event(job, "response.function_call_arguments.done");
        item_place(job, kind, false);
        tc_buffer_text(out, ",\"name\":");
        tc_buffer_json(out, call->name.data, call->name.count);
        tc_buffer_text(out, ",\"arguments\":");
        tc_buffer_json(out, call->arguments.data, call->arguments.count);
        event_end(job);
        item_event(job, "response.output_item.done");
        call_item(job, call, job->items - 1, false, status, out);
        event_end(job);
        return;
    }
    bool reasoning = kind == TC_PART_REASONING;
    uint32_t count;
    const tc_answer_item *items = tc_answer_items(r->answer, &count);
    const tc_answer_item *item = job->items <= count ? &items[job->items - 1] : NULL;
    event(job, reasoning ? "response.reasoning_text.done" : "response.output_text.done");
    item_place(job, kind, true);
    tc_buffer_text(out, ",\"text\":");
    item_text(r, item, out);
    if (!reasoning) tc_buffer_text(out, ",\"logprobs\":[]");
    event_end(job);
    part_event(job, r, "response.content_part.done", kind, item);
    item_event(job, "response.output_item.done");
    text_item(job, r, kind, job->items - 1, false, item, status, out);
    event_end(job);
}

static void open_item(tc_job *job, const tc_request *r, tc_part_kind kind, const tc_tool_call *call)
{
    if (job->open_item == (int)kind && kind != TC_PART_CALL) return;
    close_item(job, r, NULL);
    job->open_item = kind;
    job->items++;
    item_event(job, "response.output_item.added");
    if (kind == TC_PART_CALL)
        call_item(job, call, job->items - 1, true, "in_progress", &job->line);
    else
        text_item(job, r, kind, job->items - 1, true, NULL, "in_progress", &job->line);
    event_end(job);
    if (kind != TC_PART_CALL) part_event(job, r, "response.content_part.added", kind, NULL);
}

static void stream_part(tc_job *job, tc_request *r, const tc_part *part)
{
    tc_buffer *out = &job->line;
    if (part->kind == TC_PART_CALL_END) {
        close_item(job, r, part->call);
        return;
    }
    if (part->kind != TC_PART_ARGUMENTS) open_item(job, r, part->kind, part->call);
    if (part->kind == TC_PART_CALL) return;
    event(job, part->kind == TC_PART_TEXT        ? "response.output_text.delta"
               : part->kind == TC_PART_REASONING ? "response.reasoning_text.delta"
                                                 : "response.function_call_arguments.delta");
    item_place(job, part->kind == TC_PART_ARGUMENTS ? TC_PART_CALL : part->kind,
               part->kind != TC_PART_ARGUMENTS);
    tc_buffer_text(out, ",\"delta\":");
    tc_buffer_json(out, part->text, part->bytes);
    if (part->kind == TC_PART_TEXT) {
        tc_buffer_text(out, ",\"logprobs\":[");
        for (uint32_t first = r->logprobs.shown;
             job->params.logprobs && r->logprobs.shown < tc_openai_logprob_rows(r); r->logprobs.shown++) {
            if (r->logprobs.shown > first) tc_buffer_text(out, ",");
            tc_openai_logprob(job, r, r->logprobs.shown, out);
        }
        tc_buffer_text(out, "]");
    }
    event_end(job);
}

static void stream_finish(tc_job *job)
{
    tc_request *r = &job->requests[0];
    const char *status = final_status(r);
    if (job->items == 0) open_item(job, r, TC_PART_TEXT, NULL); // an empty answer is a message too
    close_item(job, r, NULL);
    response_event(job, r->finish == TC_FINISH_LENGTH ? "response.incomplete" : "response.completed", status,
                   NULL);
}

static void stream_error(tc_job *job, const tc_http_error *error)
{
    response_event(job, "response.failed", "failed", error);
}

static void body(tc_job *job, tc_buffer *out)
{
    response(job, final_status(&job->requests[0]), NULL, out);
    tc_buffer_text(out, "\n");
}

void tc_api_responses(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    static const tc_job_shape shape = {.stream_type = "text/event-stream",
                                       .keep_alive = ": keep-alive\n\n",
                                       .id_prefix = "resp_",
                                       .call_prefix = "call_",
                                       .parts = true,
                                       .begin = stream_begin,
                                       .part = stream_part,
                                       .stream_finish = stream_finish,
                                       .stream_error = stream_error,
                                       .body = body};
    (void)rest;
    tc_job_start(gateway, conn, TC_DIALECT_RESPONSES, &shape);
}
