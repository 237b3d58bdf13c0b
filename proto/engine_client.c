// SPDX-License-Identifier: Apache-2.0
// Owns: the client's end of the engine link.
//
//   link UP: new session number, hello sent --welcome--> up: UP event, requests may be sent --link DOWN-->
//   DOWN event
// A connection that ends before its welcome gives one DOWN event too (turned away: the core serves another
// client, or speaks another version); further attempts that end the same way stay silent until an UP.
#include "common/base/clock.h"
#include "proto/engine_wire.h"
#include "proto/link.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct tc_engine_client {
    tc_link *link;
    uint32_t pipe; // 0: not connected
    uint64_t session;
    bool up, told_down;
    char reason[256]; // why the connection will end, when we know
    tc_model_info info;
    tc_engine_message message; // the last one unpacked; may borrow from `held`
    tc_engine_detail detail;   // of its status
    tc_link_message *held;
    uint32_t cursor; // next record of a TOKENS message
};

tc_status tc_engine_client_open(const char *url, tc_engine_client **ret, tc_error *e)
{
    tc_engine_client *client = calloc(1, sizeof *client);
    if (!client) return tc_fail(e, TC_NOMEM, "engine client: out of memory");
    tc_status status = tc_link_open(TC_LINK_DIAL, url, NULL, &client->link, e);
    if (status != TC_OK) {
        free(client);
        return status;
    }
    *ret = client;
    return TC_OK;
}

void tc_engine_client_close(tc_engine_client *client)
{
    if (!client) return;
    tc_link_message_free(client->held);
    tc_link_close(client->link);
    free(client);
}

int tc_engine_client_fd(const tc_engine_client *client)
{
    return tc_link_fd(client->link);
}

// ---- sending ----
typedef struct piece {
    const void *data;
    size_t bytes;
} piece;

static tc_status send_pieces(tc_engine_client *client, const tc_wire_header *header, const piece *pieces,
                             uint32_t count)
{
    tc_link_message *message;
    uint8_t *room;
    size_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) bytes += pieces[i].bytes;
    if (client->pipe == 0) return TC_CLOSED;
    TC_TRY(tc_link_message_new(header, bytes, &message, &room, NULL));
    for (uint32_t i = 0; i < count; i++) {
        if (pieces[i].bytes) memcpy(room, pieces[i].data, pieces[i].bytes);
        room += pieces[i].bytes;
    }
    tc_status status = tc_link_send(client->link, client->pipe, message, 0);
    if (status != TC_OK) tc_link_message_free(message);
    return status;
}

static tc_status send_empty(tc_engine_client *client, const tc_wire_header *header)
{
    return send_pieces(client, header, NULL, 0);
}

tc_status tc_engine_client_generate(tc_engine_client *client, const tc_generate *request, tc_error *e)
{
    tc_wire_header header;
    if (!client->up) return tc_fail(e, TC_CLOSED, "the core is not connected");
    TC_TRY(tc_engine_pack_generate(client->session, request, &header, e));
    for (uint32_t i = 0; i < request->prompt_count; i++)
        if (request->prompt[i] >= client->info.vocab)
            return tc_fail(e, TC_ARGUMENT, "prompt token %u is not in the vocabulary of %u",
                           request->prompt[i], client->info.vocab);
    for (uint32_t i = 0; i < request->logit_bias_count; i++)
        if (request->logit_bias[i].token >= client->info.vocab)
            return tc_fail(e, TC_ARGUMENT, "logit_bias token %u is not in the vocabulary of %u",
                           request->logit_bias[i].token, client->info.vocab);
    const piece pieces[] = {
        {request->prompt, (size_t)request->prompt_count * sizeof *request->prompt},
        {request->logit_bias, request->logit_bias_count * sizeof *request->logit_bias},
        {request->hints, request->hint_count * sizeof *request->hints},
        {request->constraint.text, request->constraint.bytes},
    };
    tc_status status = send_pieces(client, &header, pieces, 4);
    return status == TC_OK ? TC_OK : tc_fail(e, status, "request to the core: %s", tc_status_text(status));
}

tc_status tc_engine_client_cancel(tc_engine_client *client, uint64_t id)
{
    tc_wire_header header;
    if (!client->up) return TC_CLOSED;
    TC_TRY(tc_engine_pack_cancel(client->session, id, &header, NULL));
    return send_empty(client, &header);
}

tc_status tc_engine_client_hold(tc_engine_client *client, uint64_t id, bool held)
{
    tc_wire_header header;
    if (!client->up) return TC_CLOSED;
    TC_TRY(tc_engine_pack_hold(client->session, id, held, &header, NULL));
    return send_empty(client, &header);
}

tc_status tc_engine_client_ask(tc_engine_client *client, uint64_t id, tc_question question, const char *text,
                               size_t bytes)
{
    tc_wire_header header;
    const piece pieces[] = {{text, bytes}};
    if (!client->up) return TC_CLOSED;
    if (bytes > TC_QUESTION_BYTES_MAX) return TC_LIMIT;
    TC_TRY(tc_engine_pack_question(client->session, id, question, &header, NULL));
    return send_pieces(client, &header, pieces, 1);
}

tc_status tc_engine_client_ask_status(tc_engine_client *client)
{
    tc_wire_header header;
    if (!client->up) return TC_CLOSED;
    TC_TRY(tc_engine_pack_ask(client->session, &header, NULL));
    return send_empty(client, &header);
}

// ---- receiving ----
static void say_hello(tc_engine_client *client)
{
    tc_wire_header header;
    if (getrandom(&client->session, sizeof client->session, 0) != sizeof client->session)
        client->session = tc_now_ns();
    if (tc_engine_pack_hello(client->session, TC_ENGINE_PROTOCOL_VERSION, &header, NULL) != TC_OK ||
        send_empty(client, &header) != TC_OK)
        tc_link_cut(client->link, client->pipe);
}

static void cut(tc_engine_client *client, const char *reason)
{
    tc_wire_reason(reason, client->reason);
    tc_link_cut(client->link, client->pipe);
}

static bool take_welcome(tc_engine_client *client, tc_engine_event *ret)
{
    const tc_engine_message *m = &client->message;
    if (client->up || m->protocol_version != TC_ENGINE_PROTOCOL_VERSION) {
        char reason[128];
        snprintf(reason, sizeof reason, "the core speaks protocol version %u, this program %d",
                 m->protocol_version, TC_ENGINE_PROTOCOL_VERSION);
        cut(client, client->up ? "the core said welcome twice" : reason);
        return false;
    }
    client->up = true;
    client->told_down = false;
    client->info = m->info;
    tc_link_trust(client->link, client->pipe);
    ret->kind = TC_ENGINE_UP;
    ret->info = &client->info;
    return true;
}

static bool next_token(tc_engine_client *client, tc_engine_event *ret)
{
    const tc_engine_message *m = &client->message;
    if (!client->held || m->kind != TC_ENGINE_M_TOKENS || client->cursor >= m->count) return false;
    ret->kind = TC_ENGINE_TOKEN;
    tc_token_record_read(m->records + (size_t)client->cursor++ * TC_TOKEN_RECORD_BYTES, &ret->id, &ret->token,
                         &ret->gap);
    return true;
}

static bool tokens_in_range(const tc_engine_client *client)
{
    const tc_engine_message *m = &client->message;
    for (uint32_t i = 0; i < m->count; i++) {
        uint64_t id;
        uint32_t token;
        float gap;
        tc_token_record_read(m->records + (size_t)i * TC_TOKEN_RECORD_BYTES, &id, &token, &gap);
        if (token >= client->info.vocab) return false;
    }
    return true;
}

static bool take_evaluated(tc_engine_client *client, tc_engine_event *ret)
{
    const tc_engine_message *m = &client->message;
    const tc_model_info *info = &client->info;
    if ((m->logits && m->vocab != info->vocab) ||
        (m->experts && (m->layers != info->layers || m->top_k != info->top_k))) {
        cut(client, "the core sent logits or experts of another shape than its model's");
        return false;
    }
    ret->kind = TC_ENGINE_EVALUATED;
    ret->id = m->id;
    ret->position = m->position;
    ret->positions = m->positions;
    ret->logits = m->logits;
    ret->experts = m->experts;
    return true;
}

static bool take_logprobs(tc_engine_client *client, tc_engine_event *ret)
{
    const tc_engine_message *m = &client->message;
    for (uint32_t i = 0; i < m->positions * (1 + m->top); i++)
        if (m->logprobs[i].token >= client->info.vocab) {
            cut(client, "the core sent log-probabilities of tokens outside its vocabulary");
            return false;
        }
    ret->kind = TC_ENGINE_LOGPROBS;
    ret->position = m->position;
    ret->positions = m->positions;
    ret->top = m->top;
    ret->logprobs = m->logprobs;
    return true;
}

static bool take_up_message(tc_engine_client *client, tc_engine_event *ret)
{
    const tc_engine_message *m = &client->message;
    ret->id = m->id;
    switch (m->kind) {
    case TC_ENGINE_M_TOKENS:
        if (tokens_in_range(client)) return next_token(client, ret);
        cut(client, "the core sent a token outside its vocabulary");
        return false;
    case TC_ENGINE_M_EVALUATED:
        return take_evaluated(client, ret);
    case TC_ENGINE_M_LOGPROBS:
        return take_logprobs(client, ret);
    case TC_ENGINE_M_FINISHED:
        ret->kind = TC_ENGINE_FINISHED;
        ret->finish = m->finish;
        ret->usage = m->usage;
        return true;
    case TC_ENGINE_M_FAILED:
        ret->kind = TC_ENGINE_FAILED;
        ret->status = m->status;
        tc_wire_reason(m->reason, ret->reason);
        return true;
    case TC_ENGINE_M_STATUS:
        ret->kind = TC_ENGINE_STATUS;
        if (m->detail) tc_engine_detail_read(m, &client->detail);
        client->message.engine.detail = m->detail ? &client->detail : NULL;
        ret->engine = &m->engine;
        return true;
    case TC_ENGINE_M_ANSWER:
        ret->kind = TC_ENGINE_ANSWER;
        ret->status = m->status;
        ret->text = m->text;
        ret->text_bytes = m->text_bytes;
        snprintf(ret->reason, sizeof ret->reason, "%.*s", (int)(m->text_bytes < 255 ? m->text_bytes : 255),
                 m->text);
        if (m->status == TC_OK) ret->reason[0] = 0;
        return true;
    default:
        cut(client, "the core sent a message out of place");
        return false;
    }
}

static bool take_message(tc_engine_client *client, tc_engine_event *ret)
{
    tc_error error;
    size_t bytes;
    const void *body = tc_link_message_body(client->held, &bytes);
    client->cursor = 0;
    if (tc_engine_unpack(body, bytes, false, &client->message, &error) != TC_OK) {
        cut(client, error.text);
        return false;
    }
    if (client->message.session != client->session) return false; // meant for a connection before this one
    if (client->message.kind == TC_ENGINE_M_WELCOME) return take_welcome(client, ret);
    if (client->up) return take_up_message(client, ret);
    cut(client, client->message.kind == TC_ENGINE_M_REJECT ? client->message.reason
                                                           : "the core spoke before its welcome");
    return false;
}

static bool take_down(tc_engine_client *client, const char *link_reason, tc_engine_event *ret)
{
    bool tell = client->up || !client->told_down;
    ret->kind = TC_ENGINE_DOWN;
    tc_wire_reason(client->reason[0] ? client->reason : link_reason, ret->reason);
    client->pipe = 0;
    client->up = false;
    client->told_down = true;
    client->reason[0] = 0;
    return tell;
}

tc_status tc_engine_client_next(tc_engine_client *client, uint64_t timeout_us, tc_engine_event *ret)
{
    uint64_t deadline_us = tc_link_deadline(timeout_us);
    tc_engine_event event = {0};
    bool found = next_token(client, &event);
    while (!found) {
        tc_link_item item;
        tc_link_message_free(client->held);
        client->held = NULL;
        TC_TRY(tc_link_next(client->link, deadline_us, &item));
        memset(&event, 0, sizeof event);
        if (item.kind == TC_LINK_MESSAGE) {
            client->held = item.message;
            found = item.pipe == client->pipe && take_message(client, &event);
        } else if (item.kind == TC_LINK_UP) {
            client->pipe = item.pipe;
            say_hello(client);
        } else if (item.kind == TC_LINK_DOWN) {
            found = take_down(client, item.reason, &event);
        }
    }
    *ret = event;
    return TC_OK;
}
