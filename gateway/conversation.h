// SPDX-License-Identifier: Apache-2.0
// Owns: conversations that the server keeps between requests of the own chat dialect, in memory, bounded in
// number and bytes; the one not used for longest goes first. Refuses: two requests at once on one
// conversation.
#pragma once

#include "gateway/job.h"

typedef struct tc_conversations tc_conversations;

tc_conversations *tc_conversations_new(void); // NULL: memory
void tc_conversations_free(tc_conversations *all);

// Puts what was said before in front of the job's messages and takes the conversation for this job, drawing
// an id where the request has none. False with *error: 409, another request has it; 400, it is full.
bool tc_conversation_take(tc_job *job, tc_http_error *error);
// Keeps the job's messages with this answer. What does not fit is not kept: the next request is refused.
void tc_conversation_keep(tc_job *job, const tc_request *answer);
void tc_conversation_release(tc_job *job); // when the job ends, kept or not
