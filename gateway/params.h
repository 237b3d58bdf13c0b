// SPDX-License-Identifier: Apache-2.0
// Owns: the body of a generation request, in each dialect, as one struct: everything is checked here, before
// anything is queued. Pure: no connection, no core.
#pragma once

#include "common/text/stream.h"
#include "gateway/json_request.h"
#include "gateway/server.h"

typedef enum tc_dialect { TC_DIALECT_GENERATE, TC_DIALECT_BATCH, TC_DIALECT_COMPLETIONS } tc_dialect;

typedef struct tc_prompt {
    const char *text; // in params.doc; NULL: ids
    size_t bytes;
    uint32_t *ids; // owner: params
    size_t id_count;
} tc_prompt;

typedef struct tc_params {
    tc_dialect dialect;
    yyjson_doc *doc; // owner: params; holds the texts
    tc_prompt *prompts;
    uint32_t prompt_count, n;
    size_t text_bytes; // of all prompts
    uint32_t max_tokens;
    tc_sampling sampling;
    int32_t priority;
    uint32_t deadline_ms;            // 0: none
    const char *stops[TC_STOPS_MAX]; // in doc
    uint32_t stop_count;
    bool stream, include_usage, echo, optimize_experts;
} tc_params;

bool tc_params_read(const tc_gateway_model *model, uint32_t vocab, tc_dialect dialect, const char *body,
                    size_t bytes, tc_params *ret, tc_http_error *error);
void tc_params_free(tc_params *params);
