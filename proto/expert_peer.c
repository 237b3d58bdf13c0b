// SPDX-License-Identifier: Apache-2.0
// Owns: the worker's end of the expert link.
//
//   UP: hello sent --welcome--> WELCOME: calls are taken --DOWN--> LOST, the link redials
//                  --reject---> REJECTED: no further hello is sent
// A welcome may offer shared memory: it is mapped at once and given up when the connection ends. A call is
// answered the way it came. While there is a segment the wait is on it, and arrivals on the connection
// interrupt that wait.
#include "common/base/clock.h"
#include "proto/expert_wire.h"
#include "proto/link.h"
#include "proto/shm.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { GOODBYE_WAIT_US = 200000, SEND_WAIT_US = 5000000 };

struct tc_expert_peer {
    tc_link *link;
    tc_worker_hello hello;
    uint32_t pipe; // 0: not connected
    bool welcome, rejected;
    char told[TC_WIRE_REASON_BYTES]; // why there is no hub, as it was told last
    tc_link_message *held;           // the call taken last
    tc_link_message *reply;          // begun by tc_expert_peer_sum
    tc_wire_header reply_header;
    uint32_t reply_tokens, reply_hidden;
    uint64_t spin_us;
    tc_bell *bell;
    tc_shm *_Atomic shm;     // NULL: none. Stored by the calling thread, read by arrivals too
    atomic_uint arrivals;    // under way: `shm` stays mapped while there are any
    bool by_shm, sum_in_shm; // the call taken last came there; its sum is being written there
    uint64_t call_seq;       // by_shm
    uint32_t call_tokens, call_hidden;
};

// From nng's threads and from signal handlers.
static void interrupt(void *arg)
{
    tc_expert_peer *peer = arg;
    atomic_fetch_add(&peer->arrivals, 1);
    tc_shm *shm = atomic_load(&peer->shm);
    if (shm) tc_shm_interrupt(shm);
    atomic_fetch_sub(&peer->arrivals, 1);
}

static void leave_shm(tc_expert_peer *peer)
{
    tc_shm *shm = atomic_exchange(&peer->shm, NULL);
    peer->by_shm = peer->sum_in_shm = false;
    while (atomic_load(&peer->arrivals) > 0) sched_yield();
    if (shm) tc_shm_abort(shm);
    tc_shm_close(shm);
    tc_bell_close(peer->bell);
    peer->bell = NULL;
}

static tc_status enter_shm(tc_expert_peer *peer, const tc_expert_offer *offer, tc_error *e)
{
    tc_shm_options options = {
        .tokens_max = offer->tokens_max, .hidden = offer->hidden, .pairs_max = offer->pairs_max};
    tc_shm *shm;
    TC_TRY(tc_bell_open(offer->bell, &peer->bell, e));
    options.bell = peer->bell;
    tc_status status = tc_shm_open(offer->segment, &options, &shm, e);
    if (status == TC_OK) {
        atomic_store(&peer->shm, shm);
        return TC_OK;
    }
    tc_bell_close(peer->bell);
    peer->bell = NULL;
    return status;
}

tc_status tc_expert_peer_open(const char *url, const tc_tls *tls, const tc_worker_hello *hello,
                              tc_expert_peer **ret, tc_error *e)
{
    tc_expert_peer *peer = calloc(1, sizeof *peer);
    if (!peer) return tc_fail(e, TC_NOMEM, "expert peer: out of memory");
    peer->hello = *hello;
    peer->hello.model_hash[sizeof peer->hello.model_hash - 1] = 0;
    peer->hello.store_hash[sizeof peer->hello.store_hash - 1] = 0;
    tc_status status = tc_link_open(TC_LINK_DIAL, url, tls, &peer->link, e);
    if (status != TC_OK) {
        free(peer);
        return status;
    }
    tc_link_set_arrival(peer->link, interrupt, peer);
    *ret = peer;
    return TC_OK;
}

static tc_status send_message(tc_expert_peer *peer, tc_link_message *message)
{
    tc_status status =
        peer->pipe == 0 ? TC_CLOSED : tc_link_send(peer->link, peer->pipe, message, SEND_WAIT_US);
    if (status != TC_OK) tc_link_message_free(message);
    return status;
}

static tc_status send_header(tc_expert_peer *peer, const tc_wire_header *header)
{
    tc_link_message *message;
    uint8_t *payload;
    TC_TRY(tc_link_message_new(header, 0, &message, &payload, NULL));
    return send_message(peer, message);
}

void tc_expert_peer_spin(tc_expert_peer *peer, uint64_t spin_us)
{
    peer->spin_us = spin_us;
}

// Says goodbye and gives the hub a moment to hang up, so that it has read everything before.
void tc_expert_peer_close(tc_expert_peer *peer)
{
    tc_wire_header header;
    if (!peer) return;
    if (peer->pipe != 0 && !peer->rejected && tc_expert_pack_goodbye(&header, NULL) == TC_OK &&
        send_header(peer, &header) == TC_OK) {
        tc_link_item item;
        tc_status status;
        uint64_t deadline_us = tc_link_deadline(GOODBYE_WAIT_US);
        do {
            status = tc_link_next(peer->link, deadline_us, &item);
            if (status == TC_OK && item.kind == TC_LINK_MESSAGE) tc_link_message_free(item.message);
        } while (status == TC_CANCELLED || (status == TC_OK && item.kind != TC_LINK_DOWN));
    }
    tc_link_message_free(peer->held);
    tc_link_message_free(peer->reply);
    leave_shm(peer);
    tc_link_close(peer->link);
    free(peer);
}

void tc_expert_peer_wake(tc_expert_peer *peer)
{
    tc_link_wake(peer->link);
}

static void say_hello(tc_expert_peer *peer)
{
    tc_wire_header header;
    if (peer->rejected) return;
    if (tc_expert_pack_hello(&peer->hello, &header, NULL) != TC_OK || send_header(peer, &header) != TC_OK)
        tc_link_cut(peer->link, peer->pipe);
}

static void take_offer(tc_expert_peer *peer, const tc_expert_offer *offer, tc_peer_event *ret)
{
    tc_error error = {0};
    tc_wire_header header;
    ret->carrier = TC_CARRIER_NNG;
    if (!*offer->segment) return;
    if (enter_shm(peer, offer, &error) == TC_OK)
        ret->carrier = TC_CARRIER_SHM;
    else
        tc_wire_reason(error.text, ret->reason);
    if (tc_expert_pack_share(ret->carrier == TC_CARRIER_SHM, ret->reason, &header, NULL) != TC_OK ||
        send_header(peer, &header) != TC_OK)
        tc_link_cut(peer->link, peer->pipe);
}

static bool take_message(tc_expert_peer *peer, tc_link_message *message, tc_peer_event *ret)
{
    tc_error error;
    tc_expert_message m;
    size_t bytes;
    const void *body = tc_link_message_body(message, &bytes);
    tc_status status = tc_expert_unpack(body, bytes, false, &m, &error);

    if (status == TC_ARGUMENT && peer->welcome) {
        ret->kind = TC_PEER_BAD_CALL;
        ret->seq = m.seq;
        tc_wire_reason(error.text, ret->reason);
        tc_expert_peer_fail(peer, m.seq, ret->reason);
        return true;
    }
    if (status == TC_OK && m.kind == TC_EXPERT_WELCOME && !peer->welcome) {
        peer->welcome = true;
        peer->told[0] = 0;
        tc_link_trust(peer->link, peer->pipe);
        ret->kind = TC_PEER_WELCOME;
        take_offer(peer, &m.offer, ret);
        return true;
    }
    if (status == TC_OK && m.kind == TC_EXPERT_REJECT && !peer->welcome) {
        peer->rejected = true;
        ret->kind = TC_PEER_REJECTED;
        tc_wire_reason(m.reason, ret->reason);
        tc_link_cut(peer->link, peer->pipe);
        return true;
    }
    if (status == TC_OK && m.kind == TC_EXPERT_CALL && peer->welcome) {
        ret->kind = TC_PEER_CALL;
        ret->seq = m.seq;
        ret->call = m.call;
        return true;
    }
    tc_link_cut(peer->link, peer->pipe); // this hub does not speak our protocol; LOST follows
    return false;
}

static bool tell_unreachable(tc_expert_peer *peer, const char *reason, tc_peer_event *ret)
{
    if (peer->rejected || strcmp(peer->told, reason) == 0) return false;
    tc_wire_reason(reason, peer->told);
    ret->kind = TC_PEER_UNREACHABLE;
    tc_wire_reason(reason, ret->reason);
    return true;
}

static bool take_item(tc_expert_peer *peer, const tc_link_item *item, tc_peer_event *ret)
{
    switch (item->kind) {
    case TC_LINK_FAILED:
        return tell_unreachable(peer, item->reason, ret);
    case TC_LINK_UP:
        peer->pipe = item->pipe;
        peer->welcome = false;
        leave_shm(peer);
        say_hello(peer);
        return false;
    case TC_LINK_DOWN: {
        bool was_welcome = peer->welcome;
        peer->pipe = 0;
        peer->welcome = false;
        leave_shm(peer);
        if (!was_welcome) return tell_unreachable(peer, item->reason, ret);
        ret->kind = TC_PEER_LOST;
        tc_wire_reason(item->reason, ret->reason);
        return true;
    }
    default:
        return take_message(peer, item->message, ret);
    }
}

// TC_OK: *ret is a call. TC_TIMEOUT: none came, or something is on the link: look there.
static tc_status take_shm_call(tc_expert_peer *peer, uint64_t left_us, tc_peer_event *ret)
{
    tc_shm *shm = peer->shm;
    tc_error error;
    tc_status status = tc_shm_wait_request(shm, peer->spin_us, left_us);
    if (status == TC_CANCELLED) return TC_TIMEOUT;
    if (status == TC_OK) status = tc_shm_take(shm, &ret->seq, &ret->call, &error);
    if (status == TC_OK) {
        ret->kind = TC_PEER_CALL;
        ret->carrier = TC_CARRIER_SHM;
        peer->by_shm = true;
        peer->call_seq = ret->seq;
        peer->call_tokens = ret->call.tokens;
        peer->call_hidden = ret->call.hidden;
        return TC_OK;
    }
    if (status == TC_TIMEOUT) return TC_TIMEOUT;
    // Aborted by the hub, or the hub broke the protocol: either way LOST follows.
    leave_shm(peer);
    if (peer->pipe) tc_link_cut(peer->link, peer->pipe);
    return TC_TIMEOUT;
}

// A call that was not answered blocks the segment: nothing can come there.
static tc_status next_shm_call(tc_expert_peer *peer, uint64_t deadline_us, tc_peer_event *ret)
{
    tc_status status = TC_TIMEOUT;
    uint64_t now_us = 0;
    while (status != TC_OK && now_us < deadline_us && peer->shm && !peer->by_shm &&
           !tc_link_ready(peer->link)) {
        now_us = tc_now_us();
        status = take_shm_call(peer, deadline_us > now_us ? deadline_us - now_us : 0, ret);
    }
    return status;
}

tc_status tc_expert_peer_next(tc_expert_peer *peer, uint64_t timeout_us, tc_peer_event *ret)
{
    uint64_t deadline_us = tc_link_deadline(timeout_us);
    tc_peer_event event;
    tc_link_message_free(peer->held);
    peer->held = NULL;
    for (;;) {
        tc_link_item item;
        memset(&event, 0, sizeof event);
        if (next_shm_call(peer, deadline_us, &event) == TC_OK) break;
        TC_TRY(tc_link_next(peer->link, deadline_us, &item));
        bool found = take_item(peer, &item, &event);
        if (found && event.kind == TC_PEER_CALL)
            peer->held = item.message;
        else if (item.kind == TC_LINK_MESSAGE)
            tc_link_message_free(item.message);
        if (found) break;
    }
    *ret = event;
    return TC_OK;
}

// The header is packed once more in reply, with the numbers known only then: the space for it is that of the
// largest.
int64_t *tc_expert_peer_sum(tc_expert_peer *peer, uint32_t tokens, uint32_t hidden, tc_error *e)
{
    uint8_t *payload;
    tc_link_message_free(peer->reply);
    peer->reply = NULL;
    peer->sum_in_shm = peer->by_shm && tokens == peer->call_tokens && hidden == peer->call_hidden;
    if (peer->sum_in_shm) return tc_shm_sum(peer->shm);
    if (tc_expert_pack_result(UINT64_MAX, tokens, hidden, UINT64_MAX, &peer->reply_header, e) != TC_OK)
        return NULL;
    if (tc_link_message_new(&peer->reply_header, (size_t)tokens * hidden * sizeof(int64_t), &peer->reply,
                            &payload, e) != TC_OK)
        return NULL;
    peer->reply_tokens = tokens;
    peer->reply_hidden = hidden;
    return (int64_t *)(void *)payload;
}

static tc_status answer_shm(tc_expert_peer *peer, uint64_t seq, tc_status answer, uint64_t compute_us,
                            const char *reason, tc_error *e)
{
    tc_status status = tc_shm_reply(peer->shm, seq, answer, compute_us, reason, e);
    if (status == TC_ARGUMENT) return status;
    peer->by_shm = peer->sum_in_shm = false;
    if (status != TC_OK && peer->pipe) tc_link_cut(peer->link, peer->pipe);
    return status;
}

tc_status tc_expert_peer_reply(tc_expert_peer *peer, uint64_t seq, uint64_t compute_us, tc_error *e)
{
    tc_wire_header header;
    tc_link_message *message = peer->reply;
    if (peer->sum_in_shm) return answer_shm(peer, seq, TC_OK, compute_us, NULL, e);
    if (!message) return tc_fail(e, TC_ARGUMENT, "reply without a sum");
    TC_TRY(tc_expert_pack_result(seq, peer->reply_tokens, peer->reply_hidden, compute_us, &header, e));
    peer->reply = NULL;
    tc_link_message_set_header(message, &peer->reply_header, &header);
    tc_status status = send_message(peer, message);
    return status == TC_OK ? TC_OK : tc_fail(e, status, "reply: %s", tc_status_text(status));
}

tc_status tc_expert_peer_fail(tc_expert_peer *peer, uint64_t seq, const char *reason)
{
    tc_wire_header header;
    if (peer->by_shm && seq == peer->call_seq) return answer_shm(peer, seq, TC_INTERNAL, 0, reason, NULL);
    TC_TRY(tc_expert_pack_failure(seq, reason, &header, NULL));
    return send_header(peer, &header);
}
