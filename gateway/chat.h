// SPDX-License-Identifier: Apache-2.0
// Owns: a conversation as the chat template sees it, whatever dialect it came in: messages in OpenAI's form,
// tools, and the template's other variables, as one JSON document under construction. Failure to get memory
// is sticky (`failed`), so that a reader checks once. Refuses: to know a dialect (chat_openai.c,
// chat_anthropic.c, chat_responses.c) and to render (chat_template.h).
#pragma once

#include "gateway/error.h"
#include <yyjson.h>

typedef enum tc_tool_choice {
    TC_TOOLS_AUTO,     // the model decides
    TC_TOOLS_NONE,     // text only
    TC_TOOLS_REQUIRED, // at least one call
    TC_TOOLS_NAMED,    // a call of `named`
} tc_tool_choice;

typedef struct tc_chat {
    yyjson_mut_doc *doc; // owner: the chat; its root holds the template's variables
    yyjson_mut_val *messages, *tools;
    uint32_t message_count, tool_count;
    bool failed;
    tc_tool_choice choice;
    const char *named; // in the request's document
    bool parallel;     // more than one call
    bool drop_reasoning;
    bool continue_final;      // the last message is the beginning of the answer
    const char *conversation; // own dialect: its id, in the request's document; NULL: a new one
    size_t conversation_bytes;
} tc_chat;

bool tc_chat_begin(tc_chat *chat, tc_http_error *error);
void tc_chat_free(tc_chat *chat);

// Appends a message; its members are added with the calls below.
yyjson_mut_val *tc_chat_add(tc_chat *chat, const char *role);
void tc_chat_text(tc_chat *chat, yyjson_mut_val *object, const char *name, const char *text, size_t bytes);
void tc_chat_value(tc_chat *chat, yyjson_mut_val *object, const char *name, yyjson_mut_val *value);
// The same text, appended to what the member already holds, with `between` where it is not the first.
void tc_chat_append(tc_chat *chat, yyjson_mut_val *object, const char *name, const char *between,
                    const char *text, size_t bytes);
// A call the assistant made: arguments is JSON text of an object ("" is {}). False: it is not; `place` names
// it.
bool tc_chat_call(tc_chat *chat, yyjson_mut_val *message, const char *place, const char *id, const char *name,
                  const char *arguments, size_t bytes, tc_http_error *error);
// The same with the arguments as a value.
void tc_chat_call_value(tc_chat *chat, yyjson_mut_val *message, const char *id, const char *name,
                        yyjson_mut_val *arguments);
// A tool in OpenAI's form; parameters NULL: none given. False: its name is no name.
bool tc_chat_tool(tc_chat *chat, const char *place, const char *name, const char *description,
                  yyjson_val *parameters, yyjson_val *strict, tc_http_error *error);
bool tc_chat_has_tool(const tc_chat *chat, const char *name);

// Variables of the template beside messages and tools. Those the server sets itself are skipped.
bool tc_chat_variables(tc_chat *chat, yyjson_val *object, const char *place, tc_http_error *error);
void tc_chat_variable(tc_chat *chat, const char *name, yyjson_mut_val *value);

// Schema of a tool's parameters (in chat->doc), NULL when none.
yyjson_mut_val *tc_chat_tool_parameters(const tc_chat *chat, const char *name);
