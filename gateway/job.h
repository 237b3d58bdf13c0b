// SPDX-License-Identifier: Apache-2.0
// Owns: one HTTP request's generations from checked parameters to the answer: tokenising (off the loop when
// long), length checks, starting all of them, ending all of them when one fails or the client goes away.
// Refuses: to know an output shape: each dialect brings a tc_job_shape.
//
//   ENCODE --ids--> RUN --last request ended--> shape->finish --> freed
//      \--bad prompt, core down, one failed, client gone--> all cancelled --> freed
#pragma once

#include "gateway/http_conn.h"
#include "gateway/params.h"
#include "gateway/request.h"

typedef struct tc_job tc_job;

typedef struct tc_job_shape {
    const char *stream_type; // content type of a stream
    bool partial;            // a failed generation is part of the answer, not the end of it
    // Streams: text of one generation; its end; the end of all; an error after the stream has begun. Each
    // appends to job->line, which is then sent as one piece.
    void (*text)(tc_job *job, tc_request *request, const char *text, size_t bytes);
    void (*end)(tc_job *job, tc_request *request); // may be NULL
    void (*stream_finish)(tc_job *job);
    void (*stream_error)(tc_job *job, const tc_http_error *error);
    // Else: the body, from request->text and the counts.
    void (*body)(tc_job *job, tc_buffer *out);
} tc_job_shape;

struct tc_job {
    tc_gateway *gateway;
    tc_http_conn *conn; // NULL once the client is gone
    tc_identity identity;
    const tc_job_shape *shape;
    tc_params params; // owner: the job
    tc_request *requests;
    uint32_t count, started, ended;
    bool encoding, streaming, dead;
    uint32_t busy; // calls of ours on the stack: freed when the last one returns
    tc_http_error error;
    tc_buffer line;
    uint64_t begun_us;
    int64_t created_at;
    char id[40];
    uv_work_t work;
};

// Reads the body of conn's request, starts what it asks for, and answers: now with an error, or later.
void tc_job_start(tc_gateway *gateway, tc_http_conn *conn, tc_dialect dialect, const tc_job_shape *shape);

typedef struct tc_job_totals {
    uint32_t prompt_tokens, tokens, failed;
    uint64_t expert_hits, expert_misses;
    double seconds;
} tc_job_totals;
tc_job_totals tc_job_sum(const tc_job *job); // of the requests that did not fail
