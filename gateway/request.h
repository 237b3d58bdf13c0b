// SPDX-License-Identifier: Apache-2.0
// Owns: one generation: prompt ids in, text out as it becomes final, stop strings, counts.
// Refuses: output shapes and HTTP. A job (job.h) owns one or more requests.
#pragma once

#include "common/text/stream.h"
#include "gateway/answer.h"
#include "gateway/engine_link.h"
#include "gateway/error.h"

typedef struct tc_request_hooks {
    // Text that is now final. False: the request is gone (its memory too), the caller must not touch it.
    bool (*text)(tc_request *request, const char *text, size_t bytes);
    // It has ended: `failed` with `error`, or finish, usage and counts. The memory may be gone afterwards.
    void (*end)(tc_request *request);
} tc_request_hooks;

struct tc_request {
    tc_core_link *link;
    const tc_request_hooks *hooks;
    void *owner;
    uint32_t index; // among the owner's

    tc_ids prompt;          // owner: the request; released once it is submitted
    tc_text_stream *stream; // owner: the request
    uint64_t id;            // 0: not at the core
    bool submitted, stopped, ended, failed;
    bool deadline; // it has one
    tc_http_error error;
    tc_finish finish;
    tc_usage usage;
    uint32_t prompt_tokens, tokens;      // tokens: up to the one that ended it
    uint32_t reasoning_tokens;           // of them
    uint32_t min_tokens;                 // before so many a stop string is text
    tc_answer *answer;                   // owner: the request; NULL: its text is not taken apart
    const char *name;                    // its id in logs and traces, the owner's
    uint64_t asked_us;                   // when the client's request was there; set by the owner
    uint64_t start_us, end_us, token_us; // token_us: of the last token; 0: none yet
    tc_buffer text;                      // for the owner's use
    // Rows of log-probabilities, [1 + top] each: of generated tokens, and of the prompt's second to last.
    struct tc_logprob_rows {
        tc_buffer values; // tc_token_value
        uint32_t top, count, shown;
    } logprobs, prompt_logprobs;
    tc_buffer routes; // int32 [positions][layers][top_k]
    uint32_t route_positions, layers, top_k;
    uint32_t first_token,
        text_offset; // of the prompt; characters told of in the old form of log-probabilities
    bool keep_ids;
    tc_ids ids; // generated, where they are kept
};

// `generate` holds everything but id and prompt.
tc_status tc_request_start(tc_request *request, tc_generate *generate, const tc_tokenizer *tokenizer,
                           const char *const *stops, size_t stop_count, tc_error *e);
void tc_request_free(tc_request *request);   // cancels it where it runs
void tc_request_cancel(tc_request *request); // nobody listens any more; where it runs it should end
void tc_request_stop(tc_request *request);   // enough: it ends with TC_FINISH_STOP

// From the link.
void tc_request_event(tc_request *request, const tc_engine_event *event);
void tc_request_lost(tc_request *request, tc_status status, const char *reason);
