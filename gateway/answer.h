// SPDX-License-Identifier: Apache-2.0
// Owns: taking a model's text apart while it comes: a reasoning part (<think>...</think> at its beginning),
// the text proper, and tool calls (<tool_call>...</tool_call> with JSON as Hermes and Qwen write it, or with
// <function=...> as Qwen3-Coder does). What may be the beginning of a tag waits. A call that cannot be read
// is text, as the model wrote it. Refuses: to know a dialect.
//
//   START --<think>--> REASONING --</think>--> TEXT <--> CALL
//     \--anything else--> TEXT
#pragma once

#include "gateway/chat.h"

typedef enum tc_part_kind {
    TC_PART_TEXT,
    TC_PART_REASONING,
    TC_PART_CALL,      // a call begins: its id and name are known
    TC_PART_ARGUMENTS, // the next piece of its arguments, JSON text
    TC_PART_CALL_END,
} tc_part_kind;

typedef struct tc_tool_call {
    char id[40];
    tc_buffer name, arguments;
} tc_tool_call;

typedef struct tc_part {
    tc_part_kind kind;
    const char *text; // TEXT, REASONING, ARGUMENTS; never empty there
    size_t bytes;
    uint32_t index; // of the call
    const tc_tool_call *call;
} tc_part;

typedef struct tc_answer tc_answer;

typedef struct tc_answer_options {
    bool in_reasoning;     // the prompt has opened the reasoning part
    bool calls;            // look for calls; else they are text
    bool one_call;         // after the first call there is nothing more (tc_answer_is_done)
    const tc_chat *chat;   // borrowed: types of parameters for <function=...>; may be NULL
    const char *id_prefix; // of calls
} tc_answer_options;

// False: the owner is gone, and the answer with it.
typedef bool tc_answer_emit(void *owner, const tc_part *part);

tc_answer *tc_answer_new(const tc_answer_options *options, tc_answer_emit *emit, void *owner); // NULL: memory
void tc_answer_free(tc_answer *answer);
// Text is valid UTF-8 in whole characters. False as emit said.
bool tc_answer_push(tc_answer *answer, const char *text, size_t bytes);
bool tc_answer_finish(tc_answer *answer);

// All of it so far. `failed` of any buffer: out of memory.
const tc_buffer *tc_answer_text(const tc_answer *answer);
const tc_buffer *tc_answer_reasoning(const tc_answer *answer);
const tc_tool_call *tc_answer_calls(const tc_answer *answer, uint32_t *ret_count);
// The same in the order in which it came: runs of text and of reasoning, and calls.
typedef struct tc_answer_item {
    tc_part_kind kind; // TEXT, REASONING, CALL
    size_t begin, end; // of the text or the reasoning
    uint32_t call;
} tc_answer_item;
const tc_answer_item *tc_answer_items(const tc_answer *answer, uint32_t *ret_count);
const char *tc_answer_item_text(const tc_answer *answer, const tc_answer_item *item, size_t *ret_bytes);
bool tc_answer_in_reasoning(const tc_answer *answer);
bool tc_answer_is_done(const tc_answer *answer);
bool tc_answer_failed(const tc_answer *answer);
