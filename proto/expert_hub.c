// SPDX-License-Identifier: Apache-2.0
// Owns: the core's end of the expert link: who is a worker, what each one is computing.
//
//   pipe --hello--> accept: WORKER (welcome sent, UP) | turn away: rejected (REJECTED)
//   WORKER --result/failure of its call--> idle again; anything it must not say --> cut, DOWN with the reason
// A worker has at most one call in flight. An answer to a call that is no longer known is
// dropped.
#include "proto/expert_wire.h"
#include "proto/link.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct hub_worker {
    uint32_t id, pipe; // id 0: free place
    bool cut, busy;
    uint64_t seq;
    uint32_t tokens, hidden;
    char reason[256]; // why it was cut
} hub_worker;

struct tc_expert_hub {
    tc_link *link;
    char model_hash[33];
    uint32_t next_id;
    hub_worker workers[TC_WORKERS_MAX];
    tc_link_message *held; // whose sum the last event points into
    uint64_t late_answers;
};

tc_status tc_expert_hub_open(const char *url, const char *model_hash, tc_expert_hub **ret, tc_error *e)
{
    if (strlen(model_hash) != 32) return tc_fail(e, TC_ARGUMENT, "model hash must have 32 digits");
    tc_expert_hub *hub = calloc(1, sizeof *hub);
    if (!hub) return tc_fail(e, TC_NOMEM, "expert hub: out of memory");
    memcpy(hub->model_hash, model_hash, sizeof hub->model_hash);
    hub->next_id = 1;
    tc_status status = tc_link_open(TC_LINK_LISTEN, url, &hub->link, e);
    if (status != TC_OK) {
        free(hub);
        return status;
    }
    *ret = hub;
    return TC_OK;
}

void tc_expert_hub_close(tc_expert_hub *hub)
{
    if (!hub) return;
    tc_link_message_free(hub->held);
    tc_link_close(hub->link);
    free(hub);
}

int tc_expert_hub_fd(const tc_expert_hub *hub)
{
    return tc_link_fd(hub->link);
}

static hub_worker *worker_of_pipe(tc_expert_hub *hub, uint32_t pipe)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++)
        if (hub->workers[i].id != 0 && hub->workers[i].pipe == pipe) return &hub->workers[i];
    return NULL;
}

static hub_worker *worker_of_id(tc_expert_hub *hub, uint32_t id)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX && id != 0; i++)
        if (hub->workers[i].id == id) return &hub->workers[i];
    return NULL;
}

static tc_status send_header(tc_expert_hub *hub, uint32_t pipe, const tc_wire_header *header)
{
    tc_link_message *message;
    uint8_t *payload;
    TC_TRY(tc_link_message_new(header, 0, &message, &payload, NULL));
    tc_status status = tc_link_send(hub->link, pipe, message, 0);
    if (status != TC_OK) tc_link_message_free(message);
    return status;
}

static void cut_worker(tc_expert_hub *hub, hub_worker *worker, const char *reason)
{
    if (worker->cut) return;
    worker->cut = true;
    tc_wire_reason(reason, worker->reason);
    tc_link_cut(hub->link, worker->pipe);
}

void tc_expert_hub_drop(tc_expert_hub *hub, uint32_t id, const char *reason)
{
    hub_worker *worker = worker_of_id(hub, id);
    if (worker) cut_worker(hub, worker, reason);
}

static bool turn_away(tc_expert_hub *hub, uint32_t pipe, const char *reason, tc_hub_event *ret)
{
    tc_wire_header header;
    if (tc_expert_pack_reject(reason, &header, NULL) == TC_OK && send_header(hub, pipe, &header) == TC_OK)
        tc_link_reject(hub->link, pipe);
    else
        tc_link_cut(hub->link, pipe);
    ret->kind = TC_HUB_REJECTED;
    tc_wire_reason(reason, ret->reason);
    return true;
}

static bool take_hello(tc_expert_hub *hub, uint32_t pipe, const tc_worker_hello *hello, tc_hub_event *ret)
{
    char reason[256];
    tc_wire_header header;
    hub_worker *place = NULL;

    if (hello->protocol_version != TC_EXPERT_PROTOCOL_VERSION) {
        snprintf(reason, sizeof reason, "worker speaks protocol version %u, this core speaks %d",
                 hello->protocol_version, TC_EXPERT_PROTOCOL_VERSION);
        return turn_away(hub, pipe, reason, ret);
    }
    if (strcmp(hello->model_hash, hub->model_hash) != 0) {
        snprintf(reason, sizeof reason, "worker serves model %s, this core serves %s", hello->model_hash,
                 hub->model_hash);
        return turn_away(hub, pipe, reason, ret);
    }
    for (uint32_t i = 0; i < TC_WORKERS_MAX && !place; i++)
        if (hub->workers[i].id == 0) place = &hub->workers[i];
    if (!place) {
        snprintf(reason, sizeof reason, "there are already %d workers", TC_WORKERS_MAX);
        return turn_away(hub, pipe, reason, ret);
    }
    if (tc_expert_pack_welcome(&header, NULL) != TC_OK || send_header(hub, pipe, &header) != TC_OK) {
        tc_link_cut(hub->link, pipe);
        return false;
    }
    tc_link_trust(hub->link, pipe);
    *place = (hub_worker){.id = hub->next_id++, .pipe = pipe};
    ret->kind = TC_HUB_WORKER_UP;
    ret->worker = place->id;
    ret->hello = *hello;
    return true;
}

static bool take_result(tc_expert_hub *hub, hub_worker *worker, const tc_expert_message *m, tc_hub_event *ret)
{
    if (!worker->busy || m->seq != worker->seq) {
        hub->late_answers++;
        return false;
    }
    if (m->tokens != worker->tokens || m->hidden != worker->hidden) {
        char reason[256];
        snprintf(reason, sizeof reason, "answered a call of %u tokens x %u with %u x %u", worker->tokens,
                 worker->hidden, m->tokens, m->hidden);
        cut_worker(hub, worker, reason);
        return false;
    }
    worker->busy = false;
    ret->kind = TC_HUB_RESULT;
    ret->worker = worker->id;
    ret->seq = m->seq;
    ret->tokens = m->tokens;
    ret->hidden = m->hidden;
    ret->sum = m->sum;
    ret->compute_us = m->compute_us;
    return true;
}

static bool take_failure(tc_expert_hub *hub, hub_worker *worker, const tc_expert_message *m,
                         tc_hub_event *ret)
{
    if (!worker->busy || m->seq != worker->seq) {
        hub->late_answers++;
        return false;
    }
    worker->busy = false;
    ret->kind = TC_HUB_FAILURE;
    ret->worker = worker->id;
    ret->seq = m->seq;
    tc_wire_reason(m->reason, ret->reason);
    return true;
}

// True when the message became an event.
static bool take_message(tc_expert_hub *hub, uint32_t pipe, tc_link_message *message, tc_hub_event *ret)
{
    tc_error error;
    tc_expert_message m;
    size_t bytes;
    const void *body = tc_link_message_body(message, &bytes);
    hub_worker *worker = worker_of_pipe(hub, pipe);

    if (worker && worker->cut) return false;
    if (tc_expert_unpack(body, bytes, true, &m, &error) != TC_OK) {
        if (worker) {
            cut_worker(hub, worker, error.text);
            return false;
        }
        tc_link_cut(hub->link, pipe);
        ret->kind = TC_HUB_REJECTED;
        tc_wire_reason(error.text, ret->reason);
        return true;
    }
    if (!worker) {
        if (m.kind == TC_EXPERT_HELLO) return take_hello(hub, pipe, &m.hello, ret);
        hub->late_answers++; // left over in a worker from before it lost another hub: its hello follows
        return false;
    }
    switch (m.kind) {
    case TC_EXPERT_RESULT:
        return take_result(hub, worker, &m, ret);
    case TC_EXPERT_FAILURE:
        return take_failure(hub, worker, &m, ret);
    case TC_EXPERT_GOODBYE:
        cut_worker(hub, worker, "said goodbye");
        return false;
    default:
        cut_worker(hub, worker, "said hello twice");
        return false;
    }
}

static bool take_down(tc_expert_hub *hub, const tc_link_item *item, tc_hub_event *ret)
{
    hub_worker *worker = worker_of_pipe(hub, item->pipe);
    if (!worker) return false;
    ret->kind = TC_HUB_WORKER_DOWN;
    ret->worker = worker->id;
    tc_wire_reason(worker->cut ? worker->reason : item->reason, ret->reason);
    *worker = (hub_worker){0};
    return true;
}

tc_status tc_expert_hub_next(tc_expert_hub *hub, uint64_t timeout_us, tc_hub_event *ret)
{
    uint64_t deadline_us = tc_link_deadline(timeout_us);
    tc_hub_event event;
    tc_link_message_free(hub->held);
    hub->held = NULL;
    for (;;) {
        tc_link_item item;
        TC_TRY(tc_link_next(hub->link, deadline_us, &item));
        memset(&event, 0, sizeof event);
        bool found = item.kind == TC_LINK_MESSAGE ? take_message(hub, item.pipe, item.message, &event)
                                                  : take_down(hub, &item, &event);
        if (item.kind == TC_LINK_MESSAGE && found && event.sum)
            hub->held = item.message;
        else if (item.kind == TC_LINK_MESSAGE)
            tc_link_message_free(item.message);
        if (found) break;
    }
    *ret = event;
    return TC_OK;
}

tc_status tc_expert_hub_call(tc_expert_hub *hub, uint32_t id, uint64_t seq, const tc_expert_call *call,
                             tc_error *e)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    hub_worker *worker = worker_of_id(hub, id);

    if (!worker || worker->cut) return tc_fail(e, TC_CLOSED, "worker %u is gone", id);
    if (worker->busy) return tc_fail(e, TC_BUSY, "worker %u computes another call", id);
    TC_TRY(tc_expert_pack_call(seq, call, &header, e));
    TC_TRY(tc_link_message_new(&header, tc_expert_call_payload_bytes(call), &message, &payload, e));
    tc_expert_call_payload_write(call, payload);
    tc_status status = tc_link_send(hub->link, worker->pipe, message, 0);
    if (status != TC_OK) {
        tc_link_message_free(message);
        return tc_fail(e, status, "worker %u: %s", id, tc_status_text(status));
    }
    worker->busy = true;
    worker->seq = seq;
    worker->tokens = call->tokens;
    worker->hidden = call->hidden;
    return TC_OK;
}
