// SPDX-License-Identifier: Apache-2.0
// Owns: the body of a generation request, in each dialect, as one struct: everything is checked here, before
// anything is queued. Pure: no connection, no core. params.c has what the dialects share, params_prompt.c the
// prompts that are texts or ids, chat_*.c the conversations.
#pragma once

#include "common/text/stream.h"
#include "gateway/chat.h"
#include "gateway/json_request.h"
#include "gateway/server.h"

typedef enum tc_dialect {
    TC_DIALECT_GENERATE,    // POST /api/v1/generate
    TC_DIALECT_SOCKET,      // a message of /api/v1/ws/generate: the same, streamed unless it says otherwise
    TC_DIALECT_BATCH,       // POST /api/v1/generate/batch
    TC_DIALECT_COMPLETIONS, // POST /v1/completions
    TC_DIALECT_CHAT,        // POST /v1/chat/completions
    TC_DIALECT_OWN_CHAT,    // POST /api/v1/chat/completions: the same with conversation ids
    TC_DIALECT_MESSAGES,    // POST /v1/messages
    TC_DIALECT_RESPONSES,   // POST /v1/responses
    TC_DIALECT_COUNT,       // POST /v1/messages/count_tokens: a conversation that is not answered
    TC_DIALECT_TEMPLATE,    // POST /apply-template and /tokenize: the same of an OpenAI conversation
    TC_DIALECTS
} tc_dialect;

typedef struct tc_prompt {
    const char *text; // in params.doc; NULL: ids, or the conversation
    size_t bytes;
    uint32_t *ids; // owner: params
    size_t id_count;
} tc_prompt;

typedef struct tc_params {
    tc_dialect dialect;
    yyjson_doc *doc; // owner: params; holds the texts
    tc_prompt *prompts;
    uint32_t prompt_count, n;
    tc_chat chat;      // the one prompt of the dialects that talk; chat.doc NULL: prompts are texts or ids
    size_t text_bytes; // of all prompts; of a conversation, an upper bound
    uint32_t max_tokens;
    tc_sampling sampling;
    int32_t priority;
    uint32_t deadline_ms;            // 0: none
    const char *stops[TC_STOPS_MAX]; // in doc
    uint32_t stop_count;
    uint32_t stop_tokens[TC_STOP_TOKENS_MAX], stop_token_count;
    tc_token_value *logit_bias; // owner: params
    uint32_t logit_bias_count;
    tc_expert_hint *hints; // owner: params
    uint32_t hint_count;
    const char *hint_profile, *hint_conversation; // in doc; NULL: none
    bool ignore_eos;
    bool stream, include_usage, echo, optimize_experts;
    bool logprobs, return_experts, return_token_ids;
    uint32_t top_logprobs;
    tc_constraint constraint;     // on the answer's text
    char *constraint_text;        // owner: params
    const char *constraint_field; // the field that asked for it, for errors
} tc_params;

bool tc_params_read(const tc_gateway_model *model, uint32_t vocab, tc_dialect dialect, const char *body,
                    size_t bytes, tc_params *ret, tc_http_error *error);
void tc_params_free(tc_params *params);

// For the files that read dialects. Each names the field at fault.
bool tc_params_read_prompts(tc_params *p, yyjson_val *root, uint32_t vocab, tc_http_error *error);
bool tc_params_read_model(yyjson_val *root, const tc_gateway_model *model, tc_http_error *error);
bool tc_params_add_stop(tc_params *p, const char *field, yyjson_val *value, tc_http_error *error);
bool tc_params_read_penalties(tc_sampling *s, yyjson_val *root, tc_http_error *error);
bool tc_params_read_basics(tc_sampling *s, yyjson_val *root, float temperature_max, tc_http_error *error);

// expert_hints.c. The number of a named footprint under a scope, never 0.
bool tc_params_read_hints(tc_params *p, yyjson_val *root, tc_http_error *error);
uint64_t tc_footprint_id(uint64_t scope, const char *kind, const char *name);

// constraint.c. A schema at `field`; a format as response_format has it (`nested`: the schema in
// json_schema).
bool tc_params_read_constraint(tc_params *p, yyjson_val *root, tc_http_error *error);
bool tc_params_read_format(tc_params *p, yyjson_val *format, const char *place, bool nested,
                           tc_http_error *error);
bool tc_params_set_schema(tc_params *p, const char *field, yyjson_val *schema, tc_http_error *error);
bool tc_params_constrain_tools(tc_params *p, tc_http_error *error); // where the conversation requires calls
