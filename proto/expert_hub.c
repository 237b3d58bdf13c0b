// SPDX-License-Identifier: Apache-2.0
// Owns: the core's end of the expert link: who is a worker, what each one is computing.
//
//   pipe --hello--> accept: WORKER (welcome sent, UP) | turn away: rejected (REJECTED)
//   WORKER --result/failure of its call--> idle again; anything it must not say --> cut, DOWN with the reason
// Beside each worker that was offered memory lies its segment (shm.h):
//   NONE --made, offered in the welcome--> OFFERED --share{attached}--> SHARED: calls that fit go there
//   OFFERED --share{reason}--> NONE; any --DOWN, cut--> aborted, freed
// Whether a worker lives is told by its pipe alone. nng's threads ring the bell on which the hub sleeps for
// answers. A worker has at most one call in flight. An answer to a call that is no longer
// known is dropped.
#include "common/base/clock.h"
#include "proto/expert_wire.h"
#include "proto/link.h"
#include "proto/shm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A ring may be missed when its worker dies between its store and the ring: the hub looks again by itself.
enum { BELL_WAIT_US = 1000000, REFUSAL_EVERY_US = 1000000 };
_Static_assert((int)TC_ADDRESS_BYTES == (int)TC_LINK_ADDRESS_BYTES, "an address fits an event");

typedef struct hub_worker {
    uint32_t id, pipe; // id 0: free place
    bool cut, busy;
    bool breach; // that is why it was cut
    bool shared; // it attached to `shm`
    bool by_shm; // its call in flight travels there
    tc_shm *shm; // NULL: none
    uint64_t seq;
    uint32_t tokens, hidden;
    char reason[256]; // why it was cut
} hub_worker;

struct tc_expert_hub {
    tc_link *link;
    char model_hash[33], store_hash[33]; // store_hash empty: any
    uint64_t told_refusal_us;            // when a failed handshake was last told
    uint32_t next_id;
    hub_worker workers[TC_WORKERS_MAX];
    tc_link_message *held; // whose sum the last event points into
    uint64_t late_answers;
    tc_bell *bell; // NULL: no memory is shared
    tc_shm_options shm_options;
    uint64_t spin_us;
    uint32_t flying; // calls in flight by shared memory
};

tc_status tc_expert_hub_open(const char *url, const char *model_hash, tc_expert_hub **ret, tc_error *e)
{
    if (strlen(model_hash) != 32) return tc_fail(e, TC_ARGUMENT, "model hash must have 32 digits");
    tc_expert_hub *hub = calloc(1, sizeof *hub);
    if (!hub) return tc_fail(e, TC_NOMEM, "expert hub: out of memory");
    memcpy(hub->model_hash, model_hash, sizeof hub->model_hash);
    hub->next_id = 1;
    tc_status status = tc_link_open(TC_LINK_LISTEN, url, NULL, &hub->link, e);
    if (status != TC_OK) {
        free(hub);
        return status;
    }
    *ret = hub;
    return TC_OK;
}

tc_status tc_expert_hub_listen(tc_expert_hub *hub, const char *url, const tc_tls *tls, tc_error *e)
{
    return tc_link_listen(hub->link, url, tls, e);
}

tc_status tc_expert_hub_require_store(tc_expert_hub *hub, const char *content_hash, tc_error *e)
{
    if (strlen(content_hash) != 32) return tc_fail(e, TC_ARGUMENT, "store hash must have 32 digits");
    memcpy(hub->store_hash, content_hash, sizeof hub->store_hash);
    return TC_OK;
}

void tc_expert_hub_close(tc_expert_hub *hub)
{
    if (!hub) return;
    tc_link_message_free(hub->held);
    for (uint32_t i = 0; i < TC_WORKERS_MAX; i++) {
        if (hub->workers[i].shm) tc_shm_abort(hub->workers[i].shm);
        tc_shm_close(hub->workers[i].shm);
    }
    tc_link_close(hub->link);
    tc_bell_close(hub->bell); // after the link, whose threads ring it
    free(hub);
}

static void ring_bell(void *arg)
{
    tc_bell_ring(arg);
}

tc_status tc_expert_hub_share(tc_expert_hub *hub, uint32_t tokens_max, uint32_t hidden, uint32_t pairs_max,
                              tc_error *e)
{
    tc_shm_options options = {.tokens_max = tokens_max, .hidden = hidden, .pairs_max = pairs_max};
    size_t bytes;
    if (hub->bell) return tc_fail(e, TC_ARGUMENT, "expert hub: memory is shared already");
    TC_TRY(tc_shm_size(&options, &bytes, e));
    tc_segment_sweep();
    TC_TRY(tc_bell_create(&hub->bell, e));
    options.bell = hub->bell;
    hub->shm_options = options;
    tc_link_set_arrival(hub->link, ring_bell, hub->bell);
    return TC_OK;
}

void tc_expert_hub_spin(tc_expert_hub *hub, uint64_t spin_us)
{
    hub->spin_us = spin_us;
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

static void end_call(tc_expert_hub *hub, hub_worker *worker)
{
    if (worker->busy && worker->by_shm) hub->flying--;
    worker->busy = worker->by_shm = false;
}

static void free_shm(tc_expert_hub *hub, hub_worker *worker)
{
    if (worker->by_shm) end_call(hub, worker);
    if (worker->shm) tc_shm_abort(worker->shm);
    tc_shm_close(worker->shm);
    worker->shm = NULL;
    worker->shared = false;
}

static void cut_worker(tc_expert_hub *hub, hub_worker *worker, const char *reason)
{
    if (worker->cut) return;
    worker->cut = true;
    tc_wire_reason(reason, worker->reason);
    if (worker->shm) tc_shm_abort(worker->shm);
    end_call(hub, worker);
    tc_link_cut(hub->link, worker->pipe);
}

static void cut_liar(tc_expert_hub *hub, hub_worker *worker, const char *reason)
{
    if (!worker->cut) worker->breach = true;
    cut_worker(hub, worker, reason);
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

// Makes the worker's segment and packs a welcome that offers it; without an offer if there is none.
// *ret_reason is why none could be made.
static tc_status pack_welcome(tc_expert_hub *hub, bool local, tc_shm **ret_shm, tc_wire_header *ret,
                              char ret_reason[256])
{
    tc_error error;
    tc_shm *shm = NULL;
    ret_reason[0] = 0;
    if (hub->bell && local && tc_shm_create(&hub->shm_options, &shm, &error) != TC_OK)
        tc_wire_reason(error.text, ret_reason);
    *ret_shm = shm;
    if (!shm) return tc_expert_pack_welcome(ret, NULL);
    tc_expert_offer offer = {.tokens_max = hub->shm_options.tokens_max,
                             .hidden = hub->shm_options.hidden,
                             .pairs_max = hub->shm_options.pairs_max};
    snprintf(offer.segment, sizeof offer.segment, "%s", tc_shm_name(shm));
    snprintf(offer.bell, sizeof offer.bell, "%s", tc_bell_name(hub->bell));
    return tc_expert_pack_offer(&offer, ret, NULL);
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
    if (*hub->store_hash && strcmp(hello->store_hash, hub->store_hash) != 0) {
        snprintf(
            reason, sizeof reason,
            "worker computes from the packed store %s, this core from %s: packed from other files, or in "
            "another way (--quantise)",
            *hello->store_hash ? hello->store_hash : "(not told)", hub->store_hash);
        return turn_away(hub, pipe, reason, ret);
    }
    for (uint32_t i = 0; i < TC_WORKERS_MAX && !place; i++)
        if (hub->workers[i].id == 0) place = &hub->workers[i];
    if (!place) {
        snprintf(reason, sizeof reason, "there are already %d workers", TC_WORKERS_MAX);
        return turn_away(hub, pipe, reason, ret);
    }
    tc_shm *shm;
    ret->local = tc_link_peer(hub->link, pipe, ret->address);
    if (pack_welcome(hub, ret->local, &shm, &header, reason) != TC_OK ||
        send_header(hub, pipe, &header) != TC_OK) {
        tc_shm_close(shm);
        tc_link_cut(hub->link, pipe);
        return false;
    }
    tc_link_trust(hub->link, pipe);
    *place = (hub_worker){.id = hub->next_id++, .pipe = pipe, .shm = shm};
    ret->kind = TC_HUB_WORKER_UP;
    ret->worker = place->id;
    ret->hello = *hello;
    tc_wire_reason(reason, ret->reason);
    return true;
}

static bool take_share(tc_expert_hub *hub, hub_worker *worker, const tc_expert_message *m, tc_hub_event *ret)
{
    if (!worker->shm || worker->shared) {
        cut_liar(hub, worker, "answered an offer of shared memory that was not made");
        return false;
    }
    worker->shared = m->attached;
    if (m->attached)
        tc_shm_unlink(worker->shm);
    else
        free_shm(hub, worker);
    ret->kind = TC_HUB_CARRIER;
    ret->worker = worker->id;
    ret->carrier = m->attached ? TC_CARRIER_SHM : TC_CARRIER_NNG;
    tc_wire_reason(m->attached ? "" : m->reason, ret->reason);
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
        cut_liar(hub, worker, reason);
        return false;
    }
    if (worker->by_shm) {
        cut_liar(hub, worker, "answered a call in shared memory by message");
        return false;
    }
    end_call(hub, worker);
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
    if (worker->by_shm) {
        cut_liar(hub, worker, "answered a call in shared memory by message");
        return false;
    }
    end_call(hub, worker);
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
            cut_liar(hub, worker, error.text);
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
    case TC_EXPERT_SHARE:
        return take_share(hub, worker, &m, ret);
    case TC_EXPERT_GOODBYE:
        cut_worker(hub, worker, "said goodbye");
        return false;
    default:
        cut_liar(hub, worker, "said hello twice");
        return false;
    }
}

// A stranger whose handshake failed. Told at most once a second: strangers come as often as they like.
static bool take_refused(tc_expert_hub *hub, const tc_link_item *item, tc_hub_event *ret)
{
    char address[TC_LINK_ADDRESS_BYTES];
    uint64_t now_us = tc_now_us();
    if (strncmp(item->reason, "TLS:", 4) != 0 ||
        (hub->told_refusal_us && now_us - hub->told_refusal_us < REFUSAL_EVERY_US))
        return false;
    hub->told_refusal_us = now_us;
    tc_link_peer(hub->link, item->pipe, address);
    ret->kind = TC_HUB_REJECTED;
    snprintf(ret->reason, sizeof ret->reason, "%s: %s", address, item->reason);
    return true;
}

static bool take_down(tc_expert_hub *hub, const tc_link_item *item, tc_hub_event *ret)
{
    hub_worker *worker = worker_of_pipe(hub, item->pipe);
    if (!worker) return take_refused(hub, item, ret);
    ret->kind = TC_HUB_WORKER_DOWN;
    ret->worker = worker->id;
    ret->breach = worker->breach;
    tc_wire_reason(worker->cut ? worker->reason : item->reason, ret->reason);
    free_shm(hub, worker);
    *worker = (hub_worker){0};
    return true;
}

static bool take_answer(tc_expert_hub *hub, hub_worker *worker, tc_hub_event *ret)
{
    tc_shm_answer answer;
    tc_error error;
    tc_status status = tc_shm_poll_reply(worker->shm, worker->seq, &answer, &error);
    if (status == TC_TIMEOUT) return false;
    if (status != TC_OK) { // it broke the protocol or gave up; DOWN follows
        (status == TC_CLOSED ? cut_worker : cut_liar)(hub, worker, error.text);
        return false;
    }
    end_call(hub, worker);
    ret->kind = answer.status == TC_OK ? TC_HUB_RESULT : TC_HUB_FAILURE;
    ret->worker = worker->id;
    ret->seq = worker->seq;
    ret->tokens = answer.tokens;
    ret->hidden = answer.hidden;
    ret->sum = answer.sum;
    ret->compute_us = answer.compute_us;
    ret->carrier = TC_CARRIER_SHM;
    tc_wire_reason(answer.reason, ret->reason);
    return true;
}

// True when an answer in shared memory became an event.
static bool take_answers(tc_expert_hub *hub, tc_hub_event *ret)
{
    for (uint32_t i = 0; i < TC_WORKERS_MAX && hub->flying > 0; i++) {
        hub_worker *worker = &hub->workers[i];
        if (worker->by_shm && tc_shm_answered(worker->shm) && take_answer(hub, worker, ret)) return true;
    }
    return false;
}

static bool something_came(void *arg)
{
    tc_expert_hub *hub = arg;
    if (tc_link_ready(hub->link)) return true;
    for (uint32_t i = 0, left = hub->flying; i < TC_WORKERS_MAX && left > 0; i++) {
        if (!hub->workers[i].by_shm) continue;
        if (tc_shm_answered(hub->workers[i].shm)) return true;
        left--;
    }
    return false;
}

// The next item of the link. While calls fly by shared memory the wait is on the bell; TC_TIMEOUT then only
// means that the link has nothing: look again before the deadline.
static tc_status next_item(tc_expert_hub *hub, uint64_t deadline_us, tc_link_item *ret)
{
    uint64_t now_us = tc_now_us();
    if (hub->flying == 0 || now_us >= deadline_us || tc_link_ready(hub->link))
        return tc_link_next(hub->link, hub->flying == 0 ? deadline_us : 0, ret);
    uint64_t left_us = deadline_us - now_us;
    TC_TRY(tc_bell_wait(hub->bell, something_came, hub, hub->spin_us,
                        left_us < BELL_WAIT_US ? left_us : BELL_WAIT_US));
    return tc_link_ready(hub->link) ? tc_link_next(hub->link, 0, ret) : TC_TIMEOUT;
}

// True when the item became an event.
static bool take_item(tc_expert_hub *hub, const tc_link_item *item, tc_hub_event *ret)
{
    if (item->kind != TC_LINK_MESSAGE) return take_down(hub, item, ret);
    bool found = take_message(hub, item->pipe, item->message, ret);
    if (found && ret->sum)
        hub->held = item->message;
    else
        tc_link_message_free(item->message);
    return found;
}

tc_status tc_expert_hub_next(tc_expert_hub *hub, uint64_t timeout_us, tc_hub_event *ret)
{
    uint64_t deadline_us = tc_link_deadline(timeout_us);
    tc_hub_event event;
    tc_link_message_free(hub->held);
    hub->held = NULL;
    memset(&event, 0, sizeof event);
    while (!take_answers(hub, &event)) {
        tc_link_item item;
        tc_status status = next_item(hub, deadline_us, &item);
        if (status == TC_OK && take_item(hub, &item, &event)) break;
        if (status == TC_OK) continue;
        if (status != TC_TIMEOUT || tc_now_us() >= deadline_us) return status;
    }
    *ret = event;
    return TC_OK;
}

static bool fits_segment(const tc_expert_hub *hub, const hub_worker *worker, const tc_expert_call *call)
{
    const tc_shm_options *o = &hub->shm_options;
    return worker->shared && call->hidden == o->hidden && call->tokens <= o->tokens_max &&
           call->pair_count <= o->pairs_max;
}

static tc_status send_call(tc_expert_hub *hub, hub_worker *worker, uint64_t seq, const tc_expert_call *call,
                           tc_error *e)
{
    tc_wire_header header;
    tc_link_message *message;
    uint8_t *payload;
    TC_TRY(tc_expert_pack_call(seq, call, &header, e));
    TC_TRY(tc_link_message_new(&header, tc_expert_call_payload_bytes(call), &message, &payload, e));
    tc_expert_call_payload_write(call, payload);
    tc_status status = tc_link_send(hub->link, worker->pipe, message, 0);
    if (status == TC_OK) return TC_OK;
    tc_link_message_free(message);
    return tc_fail(e, status, "worker %u: %s", worker->id, tc_status_text(status));
}

tc_status tc_expert_hub_call(tc_expert_hub *hub, uint32_t id, uint64_t seq, const tc_expert_call *call,
                             tc_error *e)
{
    hub_worker *worker = worker_of_id(hub, id);

    if (!worker || worker->cut) return tc_fail(e, TC_CLOSED, "worker %u is gone", id);
    if (worker->busy) return tc_fail(e, TC_BUSY, "worker %u computes another call", id);
    bool by_shm = fits_segment(hub, worker, call);
    tc_status status = by_shm ? tc_shm_post(worker->shm, seq, call, e) : TC_NOMEM;
    if (status == TC_NOMEM) { // also when shared memory has no room for one so large
        by_shm = false;
        status = send_call(hub, worker, seq, call, e);
    }
    TC_TRY(status);
    worker->busy = true;
    worker->by_shm = by_shm;
    if (by_shm) hub->flying++;
    worker->seq = seq;
    worker->tokens = call->tokens;
    worker->hidden = call->hidden;
    return TC_OK;
}

tc_status tc_expert_hub_lend(tc_expert_hub *hub, uint32_t id, uint32_t tokens, uint64_t step, tc_shm **ret,
                             tc_error *e)
{
    hub_worker *worker = worker_of_id(hub, id);
    if (!worker || worker->cut) return tc_fail(e, TC_CLOSED, "worker %u is gone", id);
    if (worker->busy) return tc_fail(e, TC_BUSY, "worker %u computes a call", id);
    if (!worker->shared || tokens > hub->shm_options.tokens_max)
        return tc_fail(e, TC_UNSUPPORTED, "worker %u has no memory for it", id);
    TC_TRY(tc_shm_lend(worker->shm, tokens, step, e));
    *ret = worker->shm;
    return TC_OK;
}

tc_status tc_expert_hub_reclaim(tc_expert_hub *hub, uint32_t id, uint64_t last, tc_error *e)
{
    hub_worker *worker = worker_of_id(hub, id);
    if (!worker || worker->cut || !worker->shm) return tc_fail(e, TC_CLOSED, "worker %u is gone", id);
    tc_status status = tc_shm_reclaim(worker->shm, last, e);
    if (status != TC_OK) (status == TC_CLOSED ? cut_worker : cut_liar)(hub, worker, e->text);
    return status;
}
