// SPDX-License-Identifier: Apache-2.0
// Owns: the pieces of JSON that OpenAI's dialects share: usage, log-probabilities, routed experts, finish
// reasons, the error event of a stream.
#pragma once

#include "gateway/job.h"

void tc_openai_usage(const tc_job *job, tc_buffer *out);
const char *tc_openai_finish(const tc_request *request); // "stop", "length", "tool_calls"
// ,"stop_reason":... as vLLM has it: the stop string or stop token of the request that ended it, or null.
void tc_openai_stop_reason(const tc_job *job, const tc_request *request, tc_buffer *out);
// {"content":[...]} of the generated tokens not shown yet; null where none were asked for.
void tc_openai_chat_logprobs(const tc_job *job, tc_request *request, tc_buffer *out);
// One row as chat completions and responses have it.
void tc_openai_logprob(const tc_job *job, const tc_request *request, uint32_t row, tc_buffer *out);
uint32_t tc_openai_logprob_rows(const tc_request *request); // those whose tokens are there
// The old form: {"tokens", "token_logprobs", "top_logprobs", "text_offset"}; with the prompt's where echoed.
void tc_openai_text_logprobs(const tc_job *job, tc_request *request, tc_buffer *out);
// ,"routed_experts":[[[...]]] and ,"token_ids":[...] where they were asked for.
void tc_openai_extras(const tc_job *job, const tc_request *request, tc_buffer *out);
void tc_openai_stream_error(tc_job *job, const tc_http_error *error); // data: {"error": ...}
void tc_json_tool_calls(const tc_request *request, tc_buffer *out);   // the list, in chat completions' form
