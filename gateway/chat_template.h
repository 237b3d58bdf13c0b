// SPDX-License-Identifier: Apache-2.0
// Owns: the model's chat template, from its folder: chat_template.jinja, else tokenizer_config.json (one
// text, or several by name, of which "tool_use" is for conversations with tools), else a ChatML template of
// ours where the vocabulary has its tokens, else plain "role: text" lines. And what else a conversation needs
// to know of the model: the words of its tokenizer and the tokens that end an assistant's turn.
#pragma once

#include "common/text/template.h"
#include "common/text/tokenizer.h"
#include "gateway/chat.h"

enum { TC_TURN_ENDS_MAX = 16 };

typedef struct tc_chat_template tc_chat_template;

// `dir` is a model folder; a missing file is no error, a malformed one is.
tc_status tc_chat_template_load(const char *dir, const tc_tokenizer *tokenizer, tc_chat_template **ret,
                                tc_error *e);
// The same of texts; each may be NULL. config: tokenizer_config.json.
tc_status tc_chat_template_parse(const char *jinja, const char *config, const tc_tokenizer *tokenizer,
                                 tc_chat_template **ret, tc_error *e);
void tc_chat_template_free(tc_chat_template *t);

const char *tc_chat_template_origin(const tc_chat_template *t); // for the log
// Special tokens that end a turn, beside the model's own end tokens.
const uint32_t *tc_chat_template_turn_ends(const tc_chat_template *t, uint32_t *ret_count);

// Renders; on any thread. False with *error: the template refuses the conversation (400, "messages").
// *ret: owner is the caller, tc_rendered_free. *ret_in_reasoning: the text ends in an opened <think>.
bool tc_chat_render(const tc_chat_template *t, tc_chat *chat, tc_rendered *ret, bool *ret_in_reasoning,
                    tc_http_error *error);
