// SPDX-License-Identifier: Apache-2.0
// Owns: the core's end of the engine link: the one client, and the tokens gathered until the next flush.
//
//   pipe --hello--> client (welcome sent) | rejected
//   client --pipe gone, nonsense, or too slow to read--> CLIENT_GONE
// The out queue is bounded (link.h). When it is full a send waits at most SEND_WAIT_US, then the client is
// cut off: the step loop is never held longer by someone who does not read.
#include "proto/engine_wire.h"
#include "proto/link.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_PER_MESSAGE = 1024, SEND_WAIT_US = 10000000 };

struct tc_engine_server {
    tc_link *link;
    tc_model_info info;
    uint32_t pipe; // the client's; 0: none
    uint64_t session;
    bool cut; // hung up, its CLIENT_GONE is still to come
    tc_engine_message message;
    tc_link_message *held;
    uint32_t token_count;
    uint8_t tokens[TOKENS_PER_MESSAGE * TC_TOKEN_RECORD_BYTES];
};

tc_status tc_engine_server_open(const char *url, const tc_model_info *info, tc_engine_server **ret,
                                tc_error *e)
{
    tc_engine_server *server = calloc(1, sizeof *server);
    if (!server) return tc_fail(e, TC_NOMEM, "engine server: out of memory");
    server->info = *info;
    tc_status status = tc_link_open(TC_LINK_LISTEN, url, NULL, &server->link, e);
    if (status != TC_OK) {
        free(server);
        return status;
    }
    *ret = server;
    return TC_OK;
}

// What was queued before closing still leaves, if the client reads it soon.
void tc_engine_server_close(tc_engine_server *server)
{
    if (!server) return;
    tc_engine_server_flush(server);
    tc_link_drain(server->link, 200000);
    tc_link_message_free(server->held);
    tc_link_close(server->link);
    free(server);
}

int tc_engine_server_fd(const tc_engine_server *server)
{
    return tc_link_fd(server->link);
}

// ---- sending ----
static void cut(tc_engine_server *server)
{
    if (server->pipe == 0 || server->cut) return;
    server->cut = true;
    tc_link_cut(server->link, server->pipe);
}

static bool connected(const tc_engine_server *server)
{
    return server->pipe != 0 && !server->cut;
}

static bool queue(tc_engine_server *server, tc_link_message *message)
{
    tc_status status = tc_link_send(server->link, server->pipe, message, SEND_WAIT_US);
    if (status == TC_OK) return true;
    tc_link_message_free(message);
    cut(server);
    return false;
}

static bool queue_header(tc_engine_server *server, const tc_wire_header *header)
{
    tc_link_message *message;
    uint8_t *payload;
    if (tc_link_message_new(header, 0, &message, &payload, NULL) == TC_OK) return queue(server, message);
    cut(server);
    return false;
}

void tc_engine_server_flush(tc_engine_server *server)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    size_t bytes = (size_t)server->token_count * TC_TOKEN_RECORD_BYTES;
    uint32_t count = server->token_count;

    server->token_count = 0;
    if (count == 0 || !connected(server)) return;
    if (tc_engine_pack_tokens(server->session, count, &header, NULL) != TC_OK ||
        tc_link_message_new(&header, bytes, &message, &payload, NULL) != TC_OK) {
        cut(server); // a gap in the tokens would be worse
        return;
    }
    memcpy(payload, server->tokens, bytes);
    queue(server, message);
}

void tc_engine_server_token(tc_engine_server *server, uint64_t id, uint32_t token, float gap)
{
    if (!connected(server)) return;
    if (server->token_count == TOKENS_PER_MESSAGE) tc_engine_server_flush(server);
    tc_token_record_write(server->tokens + (size_t)server->token_count++ * TC_TOKEN_RECORD_BYTES, id, token,
                          gap);
}

static bool send_evaluated(tc_engine_server *server, const tc_engine_message *shape)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    size_t logits_bytes = (size_t)shape->positions * shape->vocab * sizeof(float);
    size_t experts_bytes = (size_t)shape->positions * shape->layers * shape->top_k * sizeof(int32_t);
    if (tc_engine_pack_evaluated(server->session, shape, &header, NULL) != TC_OK ||
        tc_link_message_new(&header, logits_bytes + experts_bytes, &message, &payload, NULL) != TC_OK) {
        cut(server);
        return false;
    }
    if (shape->logits) memcpy(payload, shape->logits, logits_bytes);
    if (shape->experts) memcpy(payload + logits_bytes, shape->experts, experts_bytes);
    return queue(server, message);
}

void tc_engine_server_evaluated(tc_engine_server *server, uint64_t id, uint32_t position, uint32_t positions,
                                uint32_t vocab, const float *logits, uint32_t layers, uint32_t top_k,
                                const int32_t *experts)
{
    tc_engine_message shape = {
        .id = id, .vocab = logits ? vocab : 0, .layers = experts ? layers : 0, .top_k = experts ? top_k : 0};
    size_t row_bytes = ((size_t)shape.vocab + (size_t)shape.layers * shape.top_k) * 4;
    uint32_t step = row_bytes == 0 ? positions : (uint32_t)(TC_EVALUATED_BYTES_MAX / row_bytes);
    if (step == 0) step = 1;
    tc_engine_server_flush(server); // in order with the tokens before
    for (uint32_t done = 0; done < positions && connected(server); done += shape.positions) {
        shape.position = position + done;
        shape.positions = positions - done < step ? positions - done : step;
        shape.logits = logits ? logits + (size_t)done * vocab : NULL;
        shape.experts = experts ? experts + (size_t)done * layers * top_k : NULL;
        if (!send_evaluated(server, &shape)) return;
    }
}

void tc_engine_server_logprobs(tc_engine_server *server, uint64_t id, uint32_t position, uint32_t positions,
                               uint32_t top, const tc_token_value *logprobs)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    const tc_engine_message shape = {.id = id, .position = position, .positions = positions, .top = top};
    size_t bytes = (size_t)positions * (1 + top) * sizeof *logprobs;
    if (!connected(server)) return;
    if (tc_engine_pack_logprobs(server->session, &shape, &header, NULL) != TC_OK ||
        tc_link_message_new(&header, bytes, &message, &payload, NULL) != TC_OK) {
        cut(server);
        return;
    }
    memcpy(payload, logprobs, bytes);
    queue(server, message);
}

void tc_engine_server_finished(tc_engine_server *server, uint64_t id, tc_finish finish, const tc_usage *usage)
{
    tc_wire_header header;
    tc_engine_server_flush(server);
    if (!connected(server)) return;
    if (tc_engine_pack_finished(server->session, id, finish, usage, &header, NULL) == TC_OK)
        queue_header(server, &header);
}

void tc_engine_server_failed(tc_engine_server *server, uint64_t id, tc_status status, const char *reason)
{
    tc_wire_header header;
    tc_engine_server_flush(server);
    if (!connected(server)) return;
    if (tc_engine_pack_failed(server->session, id, status, reason, &header, NULL) == TC_OK)
        queue_header(server, &header);
}

void tc_engine_server_status(tc_engine_server *server, const tc_engine_status *status)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    const tc_engine_detail *detail = status->detail;
    size_t bytes = detail ? tc_engine_detail_bytes(detail->layer_count, detail->worker_count) : 0;
    if (!connected(server)) return;
    if (tc_engine_pack_status(server->session, status, &header, NULL) != TC_OK ||
        tc_link_message_new(&header, bytes, &message, &payload, NULL) != TC_OK)
        return; // the next one will do
    if (detail) tc_engine_detail_write(detail, payload);
    queue(server, message);
}

void tc_engine_server_answer(tc_engine_server *server, uint64_t id, tc_status status, const char *text,
                             size_t bytes)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    if (bytes > TC_ANSWER_BYTES_MAX) bytes = TC_ANSWER_BYTES_MAX;
    if (!connected(server)) return;
    if (tc_engine_pack_answer(server->session, id, status, &header, NULL) != TC_OK ||
        tc_link_message_new(&header, bytes, &message, &payload, NULL) != TC_OK)
        return; // the one who asked asks again
    memcpy(payload, text, bytes);
    queue(server, message);
}

// ---- receiving ----
static void turn_away(tc_engine_server *server, uint32_t pipe, uint64_t session, const char *reason)
{
    tc_wire_header header;
    tc_link_message *message = NULL;
    uint8_t *payload;
    if (tc_engine_pack_reject(session, reason, &header, NULL) == TC_OK &&
        tc_link_message_new(&header, 0, &message, &payload, NULL) == TC_OK &&
        tc_link_send(server->link, pipe, message, 0) == TC_OK) {
        tc_link_reject(server->link, pipe);
        return;
    }
    tc_link_message_free(message);
    tc_link_cut(server->link, pipe);
}

static void take_hello(tc_engine_server *server, uint32_t pipe)
{
    const tc_engine_message *m = &server->message;
    tc_wire_header header;
    if (m->protocol_version != TC_ENGINE_PROTOCOL_VERSION) {
        char reason[128];
        snprintf(reason, sizeof reason, "client speaks protocol version %u, this core speaks %d",
                 m->protocol_version, TC_ENGINE_PROTOCOL_VERSION);
        turn_away(server, pipe, m->session, reason);
        return;
    }
    if (server->pipe != 0) {
        turn_away(server, pipe, m->session, "the core serves another client");
        return;
    }
    server->pipe = pipe;
    server->session = m->session;
    server->cut = false;
    server->token_count = 0;
    tc_link_trust(server->link, pipe);
    if (tc_engine_pack_welcome(server->session, &server->info, &header, NULL) == TC_OK)
        queue_header(server, &header);
    else
        cut(server);
}

static bool prompt_in_vocabulary(const tc_engine_server *server, const tc_generate *g)
{
    for (uint32_t i = 0; i < g->prompt_count; i++)
        if (g->prompt[i] >= server->info.vocab) return false;
    for (uint32_t i = 0; i < g->logit_bias_count; i++)
        if (g->logit_bias[i].token >= server->info.vocab) return false;
    return true;
}

static void fail_all_choices(tc_engine_server *server, const tc_generate *g, const char *reason)
{
    tc_engine_server_failed(server, g->id, TC_ARGUMENT, reason);
    for (uint32_t i = 0; i < g->more_count; i++)
        tc_engine_server_failed(server, g->more_ids[i], TC_ARGUMENT, reason);
}

static bool take_message(tc_engine_server *server, uint32_t pipe, tc_command *ret)
{
    tc_error error;
    size_t bytes;
    const void *body = tc_link_message_body(server->held, &bytes);
    const tc_engine_message *m = &server->message;

    if (tc_engine_unpack(body, bytes, true, &server->message, &error) != TC_OK) {
        if (pipe == server->pipe)
            cut(server);
        else
            tc_link_cut(server->link, pipe);
        return false;
    }
    if (pipe != server->pipe) { // what is not a hello was meant for a core before this one
        if (m->kind == TC_ENGINE_M_HELLO) take_hello(server, pipe);
        return false;
    }
    if (server->cut || m->session != server->session) return false;
    ret->id = m->id;
    switch (m->kind) {
    case TC_ENGINE_M_GENERATE:
        if (!prompt_in_vocabulary(server, &m->generate)) {
            fail_all_choices(server, &m->generate, "prompt has a token that is not in the vocabulary");
            return false;
        }
        ret->kind = TC_COMMAND_GENERATE;
        ret->generate = m->generate;
        return true;
    case TC_ENGINE_M_CANCEL:
        ret->kind = TC_COMMAND_CANCEL;
        return true;
    case TC_ENGINE_M_HOLD:
        ret->kind = TC_COMMAND_HOLD;
        ret->held = m->held;
        return true;
    case TC_ENGINE_M_ASK:
        ret->kind = TC_COMMAND_STATUS;
        return true;
    case TC_ENGINE_M_QUESTION:
        ret->kind = TC_COMMAND_ASK;
        ret->question = m->question;
        ret->text = m->text;
        ret->text_bytes = m->text_bytes;
        return true;
    default:
        cut(server);
        return false; // a second hello
    }
}

static bool take_down(tc_engine_server *server, uint32_t pipe, tc_command *ret)
{
    if (pipe != server->pipe || pipe == 0) return false;
    server->pipe = 0;
    server->cut = false;
    server->token_count = 0;
    ret->kind = TC_COMMAND_CLIENT_GONE;
    return true;
}

tc_status tc_engine_server_next(tc_engine_server *server, uint64_t timeout_us, tc_command *ret)
{
    uint64_t deadline_us = tc_link_deadline(timeout_us);
    tc_command command;
    bool found = false;
    while (!found) {
        tc_link_item item;
        tc_link_message_free(server->held);
        server->held = NULL;
        TC_TRY(tc_link_next(server->link, deadline_us, &item));
        memset(&command, 0, sizeof command);
        if (item.kind == TC_LINK_MESSAGE) {
            server->held = item.message;
            found = take_message(server, item.pipe, &command);
        } else {
            found = take_down(server, item.pipe, &command);
        }
    }
    *ret = command;
    return TC_OK;
}
