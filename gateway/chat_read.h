// SPDX-License-Identifier: Apache-2.0
// Owns: reading conversations of each dialect into params->chat. Every file refuses wrong types and what this
// server cannot do, and names the place.
#pragma once

#include "gateway/params.h"

// POST /v1/chat/completions (chat_openai.c): messages, tools, tool_choice, chat_template_kwargs.
bool tc_chat_read_openai(tc_params *p, yyjson_val *root, tc_http_error *error);
bool tc_chat_read_openai_choice(tc_chat *chat, yyjson_val *root, tc_http_error *error);
// POST /v1/messages (chat_anthropic.c): system, messages, tools, tool_choice, thinking.
bool tc_chat_read_anthropic(tc_params *p, yyjson_val *root, tc_http_error *error);
// POST /v1/responses (chat_responses.c): instructions, input, tools, tool_choice, reasoning.
bool tc_chat_read_responses(tc_params *p, yyjson_val *root, tc_http_error *error);
