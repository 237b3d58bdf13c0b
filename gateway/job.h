// SPDX-License-Identifier: Apache-2.0
// Owns: one request's generations from checked parameters to the answer: rendering and tokenising (off the
// loop when long), length checks, starting all of them, ending all of them when one fails or the client goes
// away. Refuses: to know an output shape (each dialect brings a tc_job_shape) and a carrier (each brings a
// tc_sink).
//
//   ENCODE --ids--> RUN --last request ended--> shape->body / stream_finish --> freed
//      \--bad prompt, core down, one failed, client gone--> all cancelled --> freed
#pragma once

#include "gateway/answer.h"
#include "gateway/chat_template.h"
#include "gateway/http_conn.h"
#include "gateway/params.h"
#include "gateway/request.h"

typedef struct tc_job tc_job;

typedef struct tc_job_shape {
    const char *stream_type; // content type of a stream
    const char *keep_alive;  // what a stream says when nothing was said for a while; NULL: nothing
    const char *id_prefix;   // of the answer, and of its tool calls
    const char *call_prefix;
    bool partial; // a failed generation is part of the answer, not the end of it
    bool parts;   // the text is taken apart into reasoning, text and tool calls (request->answer)
    bool no_core; // only encoded: `body` is called then, with the ids in requests[0].prompt
    // On the loop, before encoding; may be NULL. False with *error: refused.
    bool (*prepare)(tc_job *job, tc_http_error *error);
    // Streams: what comes first (may be NULL); a part of one generation; its end (may be NULL); the end of
    // all; an error after the stream has begun. Each appends to job->line, which is then sent as one piece.
    void (*begin)(tc_job *job);
    void (*part)(tc_job *job, tc_request *request, const tc_part *part);
    void (*end)(tc_job *job, tc_request *request);
    void (*stream_finish)(tc_job *job);
    void (*stream_error)(tc_job *job, const tc_http_error *error);
    // Else: the body, from request->text or request->answer and the counts.
    void (*body)(tc_job *job, tc_buffer *out);
} tc_job_shape;

// Where an answer goes. Exactly one of: respond; fail; begin, write..., end or abort. After each of respond,
// fail, end and abort the sink is done with the job.
typedef struct tc_sink_ops {
    void (*attach)(void *sink, tc_job *job); // the job will answer later, or hear tc_job_gone
    void (*respond)(void *sink, const char *body, size_t bytes);
    void (*fail)(void *sink, const tc_http_error *error);
    void (*begin)(void *sink, const char *type);
    void (*write)(void *sink, const char *data, size_t bytes);
    void (*end)(void *sink);
    void (*abort)(void *sink);
} tc_sink_ops;

struct tc_job {
    tc_gateway *gateway;
    tc_identity identity;
    void *sink;
    const tc_sink_ops *sink_ops;
    const tc_job_shape *shape;
    tc_params params; // owner: the job
    tc_request *requests;
    uint32_t count, started, ended;
    bool encoding, begun, streaming, dead;
    bool in_reasoning;    // the rendered prompt ends in an opened reasoning part
    tc_rendered rendered; // kept for shapes without a core
    uint32_t busy;        // calls of ours on the stack: freed when the last one returns
    tc_http_error error;
    tc_buffer line;
    uint64_t begun_us, sent_ms;
    int64_t created_at;
    char request_id[TC_REQUEST_ID_BYTES_MAX + 1]; // what logs and traces of all processes call it
    char id[64], conversation[TC_CONVERSATION_ID_BYTES_MAX + 1];
    uint32_t sequence, items; // for dialects that number their events and items
    int open_item;            // for dialects that open and close items; -1: none
    uv_work_t work;
};

// Reads the body of conn's request, starts what it asks for, and answers: now with an error, or later.
void tc_job_start(tc_gateway *gateway, tc_http_conn *conn, tc_dialect dialect, const tc_job_shape *shape);
// The same for any sink. NULL: it has been answered.
tc_job *tc_job_begin(tc_gateway *gateway, const tc_sink_ops *ops, void *sink, const tc_identity *identity,
                     tc_dialect dialect, const tc_job_shape *shape, const char *body, size_t bytes);
void tc_job_gone(void *job);                  // nobody listens any more: everything is cancelled
void tc_job_tick(void *job, uint64_t now_ms); // keep-alive
void tc_job_hold(void *job, bool held);       // the reader is slow: the core computes nothing for it

typedef struct tc_job_totals {
    uint32_t prompt_tokens, cached_tokens, tokens, reasoning_tokens, failed;
    uint64_t expert_hits, expert_misses;
    double seconds;
} tc_job_totals;
tc_job_totals tc_job_sum(const tc_job *job); // of the requests that did not fail

// job_encode.c: prompts to ids, on any thread. False with job->error.
bool tc_job_encode(tc_job *job);

extern const tc_job_shape tc_generate_shape; // api_generate.c; the WebSocket speaks it too
