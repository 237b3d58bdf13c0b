// SPDX-License-Identifier: Apache-2.0
// Owns: the table of conversations.
#include "gateway/conversation.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct conversation {
    char id[TC_CONVERSATION_ID_BYTES_MAX + 1]; // "": free
    char *messages;                            // a JSON list; NULL: nothing said yet
    size_t bytes;
    uint64_t used; // serial of its last use
    bool taken;
} conversation;

struct tc_conversations {
    uint64_t serial;
    size_t bytes;
    conversation items[TC_CONVERSATIONS_MAX];
};

tc_conversations *tc_conversations_new(void)
{
    return calloc(1, sizeof(tc_conversations));
}

static void forget(tc_conversations *all, conversation *c)
{
    all->bytes -= c->bytes;
    free(c->messages);
    memset(c, 0, sizeof *c);
}

void tc_conversations_free(tc_conversations *all)
{
    if (!all) return;
    for (size_t i = 0; i < TC_CONVERSATIONS_MAX; i++) forget(all, &all->items[i]);
    free(all);
}

static conversation *find(tc_conversations *all, const char *id)
{
    for (size_t i = 0; i < TC_CONVERSATIONS_MAX; i++)
        if (*all->items[i].id && strcmp(all->items[i].id, id) == 0) return &all->items[i];
    return NULL;
}

static conversation *oldest(tc_conversations *all, bool with_messages)
{
    conversation *found = NULL;
    for (size_t i = 0; i < TC_CONVERSATIONS_MAX; i++) {
        conversation *c = &all->items[i];
        if (!*c->id && !with_messages) return c;
        if (!*c->id || c->taken || (with_messages && !c->messages)) continue;
        if (!found || c->used < found->used) found = c;
    }
    return found;
}

static void draw_id(char *ret, size_t bytes)
{
    uint64_t random[2] = {0};
    uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    snprintf(ret, bytes, "conv_%016" PRIx64 "%08" PRIx64, random[0], random[1] & 0xffffffff);
}

static bool is_system(yyjson_mut_val *message)
{
    return yyjson_mut_equals_str(yyjson_mut_obj_get(message, "role"), "system");
}

// The kept messages before those of the request. A system message of the request replaces the kept one.
static bool prepend(tc_chat *chat, const conversation *c)
{
    yyjson_doc *doc = yyjson_read(c->messages, c->bytes, 0);
    yyjson_mut_val *old = doc ? yyjson_val_mut_copy(chat->doc, yyjson_doc_get_root(doc)) : NULL;
    yyjson_doc_free(doc);
    if (!old) return false;
    yyjson_mut_val *new_system = NULL, *message;
    if (is_system(yyjson_mut_arr_get_first(chat->messages)))
        new_system = yyjson_mut_arr_remove_first(chat->messages);
    if (new_system && is_system(yyjson_mut_arr_get_first(old))) yyjson_mut_arr_remove_first(old);
    if (new_system && !yyjson_mut_arr_prepend(old, new_system)) return false;
    while ((message = yyjson_mut_arr_remove_first(chat->messages)))
        if (!yyjson_mut_arr_append(old, message)) return false;
    while ((message = yyjson_mut_arr_remove_first(old)))
        if (!yyjson_mut_arr_append(chat->messages, message)) return false;
    return true;
}

bool tc_conversation_take(tc_job *job, tc_http_error *error)
{
    tc_conversations *all = job->gateway->conversations;
    const tc_chat *chat = &job->params.chat;
    char id[TC_CONVERSATION_ID_BYTES_MAX + 1];
    if (chat->conversation)
        snprintf(id, sizeof id, "%s", chat->conversation);
    else
        draw_id(id, sizeof id);
    conversation *c = find(all, id);
    if (c && c->taken)
        return tc_http_refuse(error, 409, "conversation_busy", "conversation_id",
                              "another request of this conversation is being answered");
    if (c && c->bytes >= TC_CONVERSATION_BYTES_MAX)
        return tc_http_refuse(error, 400, "conversation_full", "conversation_id",
                              "this conversation has grown to %d bytes: begin a new one",
                              TC_CONVERSATION_BYTES_MAX);
    if (c && c->messages && !prepend(&job->params.chat, c)) return tc_refuse_memory(error);
    if (!c) {
        c = oldest(all, false);
        if (!c)
            return tc_http_refuse_for_now(error, "%d conversations are being answered", TC_CONVERSATIONS_MAX);
        forget(all, c);
        snprintf(c->id, sizeof c->id, "%s", id);
    }
    c->taken = true;
    c->used = ++all->serial;
    snprintf(job->conversation, sizeof job->conversation, "%s", id);
    return true;
}

static void add_answer(tc_chat *chat, const tc_request *r)
{
    uint32_t count;
    const tc_buffer *text = tc_answer_text(r->answer);
    const tc_tool_call *calls = tc_answer_calls(r->answer, &count);
    yyjson_mut_val *message = tc_chat_add(chat, "assistant");
    tc_http_error ignored;
    tc_chat_text(chat, message, "content", text->data, text->count);
    for (uint32_t i = 0; i < count; i++)
        if (!tc_chat_call(chat, message, "", calls[i].id, calls[i].name.data, calls[i].arguments.data,
                          calls[i].arguments.count, &ignored))
            tc_chat_call_value(chat, message, calls[i].id, calls[i].name.data, yyjson_mut_obj(chat->doc));
}

void tc_conversation_keep(tc_job *job, const tc_request *answer)
{
    tc_conversations *all = job->gateway->conversations;
    tc_chat *chat = &job->params.chat;
    conversation *c = *job->conversation ? find(all, job->conversation) : NULL;
    size_t bytes;
    if (!c || !answer->answer || answer->failed) return;
    add_answer(chat, answer);
    char *text = chat->failed ? NULL : yyjson_mut_val_write(chat->messages, YYJSON_WRITE_NOFLAG, &bytes);
    if (!text) return;
    all->bytes += bytes - c->bytes;
    free(c->messages);
    c->messages = text;
    c->bytes = bytes;
    while (all->bytes > TC_CONVERSATIONS_BYTES_MAX) {
        conversation *victim = oldest(all, true);
        if (!victim) break; // all of them are being answered
        forget(all, victim);
    }
}

void tc_conversation_release(tc_job *job)
{
    conversation *c = *job->conversation ? find(job->gateway->conversations, job->conversation) : NULL;
    *job->conversation = 0;
    if (!c) return;
    c->taken = false;
    if (!c->messages) forget(job->gateway->conversations, c); // nothing came of it
}
