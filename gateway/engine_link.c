// SPDX-License-Identifier: Apache-2.0
// Owns: polling the client's descriptor, the table of live generations, status and cancels.
#include "gateway/engine_link.h"

#include "common/base/log.h"
#include "gateway/request.h"
#include <stdlib.h>
#include <string.h>

// An id is (serial << 16) | slot: found at once, and never taken for an older one of the same slot.
enum { SLOT_BITS = 16, SLOT_MASK = (1 << SLOT_BITS) - 1 };
_Static_assert((int)TC_LIVE_GENERATIONS_MAX <= (int)SLOT_MASK, "a slot number fits its bits");

typedef struct slot {
    uint64_t id;         // 0: free
    tc_request *request; // NULL: orphan
    bool cancel_owed;    // the core could not be told yet
    bool sent;           // the core has it
    uint32_t tokens;     // of its prompt; further choices: 0
    uint64_t scope;
} slot;

// An operator's question under way.
typedef struct asked {
    uint64_t id; // 0: free
    tc_core_answered *answered;
    void *arg; // NULL: nobody waits any more
} asked;

enum { ASKED_MAX = 64 };

struct tc_core_link {
    tc_gateway *gateway;
    tc_engine_client *client;
    uv_poll_t poll;
    uv_timer_t timer;
    uint32_t open_handles;
    void (*closed)(void *arg);
    void *closed_arg;

    bool up, closing, has_status, cancels_owed;
    const char *ended; // why nothing is taken any more; NULL: all is well
    tc_model_info info;
    tc_engine_status status;
    tc_engine_detail detail; // of the status
    uint64_t status_ms;
    char reason[320];
    uint64_t serial;
    uint32_t live;        // slots in use
    uint64_t live_tokens; // their prompts
    uint64_t ended_ms;    // when the last one ended
    double every_ms;      // between two ends, moving average; 0: not known
    uint32_t first_free;  // where to look for a free slot
    asked asked[ASKED_MAX];
    slot slots[TC_LIVE_GENERATIONS_MAX];
};

static slot *find(tc_core_link *link, uint64_t id)
{
    uint64_t at = id & SLOT_MASK;
    return id && at < TC_LIVE_GENERATIONS_MAX && link->slots[at].id == id ? &link->slots[at] : NULL;
}

static tc_request *release(tc_core_link *link, slot *s)
{
    tc_request *request = s->request;
    link->live--;
    link->live_tokens -= s->tokens;
    *s = (slot){0};
    return request;
}

static void note_end(tc_core_link *link)
{
    uint64_t now = uv_now(link->gateway->loop);
    double passed = (double)(now - link->ended_ms);
    if (link->ended_ms && passed < 60000)
        link->every_ms = link->every_ms > 0 ? link->every_ms + (passed - link->every_ms) / 16 : passed;
    link->ended_ms = now;
}

static void answer(tc_core_link *link, asked *a, const tc_engine_event *event)
{
    asked was = *a;
    *a = (asked){0};
    if (was.arg) was.answered(was.arg, event);
}

static void go_down(tc_core_link *link, const char *reason)
{
    if (link->up) tc_warn("the core is gone: %s", reason);
    link->up = link->has_status = link->cancels_owed = false;
    link->ended_ms = 0;
    snprintf(link->reason, sizeof link->reason, "the core is not connected: %s",
             *reason ? reason : "no reason given");
    for (size_t i = 0; i < ASKED_MAX; i++)
        if (link->asked[i].id) answer(link, &link->asked[i], NULL);
    for (size_t i = 0; i < TC_LIVE_GENERATIONS_MAX; i++) {
        if (link->slots[i].id == 0) continue;
        tc_request *request = release(link, &link->slots[i]);
        if (request)
            tc_request_lost(request, TC_CLOSED, "the core went away while it was generating; try again");
    }
}

static void dispatch(tc_core_link *link, const tc_engine_event *event)
{
    slot *s = find(link, event->id);
    switch (event->kind) {
    case TC_ENGINE_UP:
        link->info = *event->info;
        link->up = true;
        link->status_ms = uv_now(link->gateway->loop);
        snprintf(link->reason, sizeof link->reason, "the core has not told its state yet");
        tc_info("the core is connected: %s, %u layers, %u experts, context %u", link->info.family,
                link->info.layers, link->info.experts, link->info.context);
        tc_engine_client_ask_status(link->client);
        break;
    case TC_ENGINE_DOWN:
        go_down(link, event->reason);
        break;
    case TC_ENGINE_STATUS:
        link->status = *event->engine;
        if (link->status.detail) link->detail = *link->status.detail;
        link->status.detail = link->status.detail ? &link->detail : NULL;
        link->status.reason[sizeof link->status.reason - 1] = 0;
        link->has_status = true;
        link->status_ms = uv_now(link->gateway->loop);
        break;
    case TC_ENGINE_ANSWER:
        for (size_t i = 0; i < ASKED_MAX; i++)
            if (link->asked[i].id == event->id) answer(link, &link->asked[i], event);
        break;
    case TC_ENGINE_TOKEN:
    case TC_ENGINE_LOGPROBS:
    case TC_ENGINE_EVALUATED:
        if (s && s->request) tc_request_event(s->request, event);
        break;
    case TC_ENGINE_FINISHED:
    case TC_ENGINE_FAILED:
        if (s) {
            tc_request *request = release(link, s);
            note_end(link);
            if (request) tc_request_event(request, event);
        }
        break;
    }
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    tc_core_link *link = poll->data;
    tc_engine_event event;
    if (status < 0) return;
    // A bounded number, so that sockets get their turn too: the descriptor stays readable.
    for (int i = 0; i < TC_LINK_EVENTS_PER_TURN && !link->closing; i++) {
        if (tc_engine_client_next(link->client, 0, &event) != TC_OK) break;
        dispatch(link, &event);
    }
}

static void pay_cancels(tc_core_link *link)
{
    if (!link->cancels_owed) return;
    link->cancels_owed = false;
    for (size_t i = 0; i < TC_LIVE_GENERATIONS_MAX; i++) {
        slot *s = &link->slots[i];
        if (s->id == 0 || !s->cancel_owed) continue;
        s->cancel_owed = tc_engine_client_cancel(link->client, s->id) == TC_BUSY;
        if (s->cancel_owed) link->cancels_owed = true;
    }
}

static void on_timer(uv_timer_t *timer)
{
    tc_core_link *link = timer->data;
    if (!link->up) return;
    pay_cancels(link);
    tc_engine_client_ask_status(link->client); // when its queue is full the next turn asks again
}

tc_status tc_core_link_open(tc_gateway *gateway, const char *url, tc_core_link **ret, tc_error *e)
{
    tc_core_link *link = calloc(1, sizeof *link);
    if (!link) return tc_fail(e, TC_NOMEM, "engine link: out of memory");
    link->gateway = gateway;
    snprintf(link->reason, sizeof link->reason, "the core is not connected yet");
    tc_status status = tc_engine_client_open(url, &link->client, e);
    if (status != TC_OK) {
        free(link);
        return status;
    }
    int error = uv_poll_init(gateway->loop, &link->poll, tc_engine_client_fd(link->client));
    if (error) {
        tc_engine_client_close(link->client);
        free(link);
        return tc_fail(e, TC_IO, "engine link: %s", uv_strerror(error));
    }
    uint64_t every = gateway->options.limits.status_ms;
    uv_timer_init(gateway->loop, &link->timer);
    link->poll.data = link->timer.data = link;
    uv_poll_start(&link->poll, UV_READABLE, on_readable);
    uv_timer_start(&link->timer, on_timer, every, every);
    link->open_handles = 2;
    *ret = link;
    return TC_OK;
}

static void on_handle_closed(uv_handle_t *handle)
{
    tc_core_link *link = handle->data;
    if (--link->open_handles) return;
    void (*closed)(void *arg) = link->closed;
    void *arg = link->closed_arg;
    tc_engine_client_close(link->client);
    free(link);
    closed(arg);
}

void tc_core_link_close(tc_core_link *link, void (*closed)(void *arg), void *arg)
{
    link->closing = true;
    link->closed = closed;
    link->closed_arg = arg;
    if (link->up) pay_cancels(link);
    uv_close((uv_handle_t *)&link->poll, on_handle_closed);
    uv_close((uv_handle_t *)&link->timer, on_handle_closed);
}

// About how long until a place is free: when half of those that are here have ended, as fast as lately.
static unsigned retry_after_s(const tc_core_link *link)
{
    double seconds = link->every_ms * link->live / 2000;
    return seconds < 1 ? 1 : seconds > TC_RETRY_AFTER_S_MAX ? TC_RETRY_AFTER_S_MAX : (unsigned)seconds;
}

static bool refuse_busy(const tc_core_link *link, int status, const char *what, tc_http_error *error)
{
    tc_http_refuse(error, status, status == 429 ? "rate_limit_exceeded" : "overloaded", NULL, "%s", what);
    error->retry_after_s = retry_after_s(link);
    return false;
}

bool tc_core_link_has_room(const tc_core_link *link, uint64_t scope, uint32_t requests, uint64_t tokens,
                           tc_http_error *error)
{
    if (!link) return tc_http_refuse_for_now(error, "the server is stopping");
    uint32_t most = TC_LIVE_GENERATIONS_MAX, mine = 0;
    uint64_t most_tokens = link->info.queue_tokens_max;
    if (link->info.queue_requests_max && link->info.queue_requests_max < most)
        most = link->info.queue_requests_max;
    if (link->live + requests > most || (most_tokens && link->live_tokens + tokens > most_tokens))
        return refuse_busy(link, 503, "the queue is full; try again later", error);
    // With keys, one of them may fill half of the queue: the others always find room.
    if (!link->gateway->options.keys || link->live + requests <= most / 2) return true;
    for (uint32_t i = 0; i < TC_LIVE_GENERATIONS_MAX; i++)
        if (link->slots[i].id && link->slots[i].scope == scope) mine++;
    if (mine + requests > (most + 1) / 2)
        return refuse_busy(link, 429, "too many requests of this key are waiting or running", error);
    return true;
}

static slot *take_slot(tc_core_link *link, tc_request *request)
{
    uint32_t at = link->first_free;
    for (uint32_t i = 0; i < TC_LIVE_GENERATIONS_MAX; i++, at = (at + 1) % TC_LIVE_GENERATIONS_MAX) {
        slot *s = &link->slots[at];
        if (s->id) continue;
        *s = (slot){.id = ++link->serial << SLOT_BITS | at, .request = request};
        link->first_free = (at + 1) % TC_LIVE_GENERATIONS_MAX;
        link->live++;
        return s;
    }
    return NULL;
}

uint64_t tc_core_link_reserve(tc_core_link *link, tc_request *request)
{
    slot *s = link && link->up ? take_slot(link, request) : NULL;
    return s ? s->id : 0;
}

static tc_status submit_one(tc_core_link *link, tc_request *request, tc_generate *generate, tc_error *e)
{
    if (link->ended) return tc_fail(e, TC_CLOSED, "%s", link->ended);
    if (!link->up) return tc_fail(e, TC_CLOSED, "%s", link->reason);
    slot *s = take_slot(link, request);
    if (!s)
        return tc_fail(e, TC_BUSY, "%d generations are running or waiting already", TC_LIVE_GENERATIONS_MAX);
    generate->id = s->id;
    tc_status status = tc_engine_client_generate(link->client, generate, e);
    if (status != TC_OK) {
        release(link, s);
        return status;
    }
    s->tokens = generate->prompt_count;
    link->live_tokens += s->tokens;
    s->scope = generate->scope;
    s->sent = true;
    return TC_OK;
}

tc_status tc_core_link_submit(tc_core_link *link, tc_request *request, tc_generate *generate, tc_error *e)
{
    if (!link) return tc_fail(e, TC_CLOSED, "the server is stopping");
    tc_status status = submit_one(link, request, generate, e);
    for (uint32_t i = 0; i < generate->more_count; i++) {
        slot *s = find(link, generate->more_ids[i]);
        if (!s) continue;
        s->scope = generate->scope;
        s->sent = status == TC_OK;
        tc_request *lost = status == TC_OK ? NULL : release(link, s);
        if (lost) lost->id = 0;
    }
    return status;
}

void tc_core_link_hold(tc_core_link *link, uint64_t id, bool held)
{
    if (link && find(link, id)) tc_engine_client_hold(link->client, id, held);
}

void tc_core_link_stop(tc_core_link *link, uint64_t id)
{
    slot *s = link ? find(link, id) : NULL;
    if (!s) return;
    if (tc_engine_client_cancel(link->client, id) == TC_BUSY) s->cancel_owed = link->cancels_owed = true;
}

void tc_core_link_cancel(tc_core_link *link, uint64_t id)
{
    slot *s = link ? find(link, id) : NULL;
    if (!s) return;
    s->request = NULL;
    if (s->sent)
        tc_core_link_stop(link, id);
    else
        release(link, s);
}

void tc_core_link_end_all(tc_core_link *link, const char *reason)
{
    link->ended = reason;
    for (size_t i = 0; i < TC_LIVE_GENERATIONS_MAX; i++) {
        tc_request *request = link->slots[i].request;
        if (!link->slots[i].id || !request) continue;
        tc_core_link_cancel(link, link->slots[i].id);
        tc_request_lost(request, TC_CLOSED, reason);
    }
}

bool tc_core_link_ask(tc_core_link *link, tc_question question, const char *text, size_t bytes,
                      tc_core_answered *answered, void *arg, tc_http_error *error)
{
    asked *spare = NULL;
    if (!link || !link->up)
        return tc_http_refuse_for_now(error, "%s", link ? link->reason : "the server is stopping");
    if (bytes > TC_QUESTION_BYTES_MAX)
        return tc_http_refuse(error, 413, "request_too_large", NULL, "at most %d bytes may be sent here",
                              TC_QUESTION_BYTES_MAX);
    for (size_t i = 0; i < ASKED_MAX && !spare; i++)
        if (!link->asked[i].id) spare = &link->asked[i];
    uint64_t id = ++link->serial << SLOT_BITS;
    if (!spare || tc_engine_client_ask(link->client, id, question, text, bytes) != TC_OK)
        return tc_http_refuse_for_now(error, "too many questions are on their way to the core");
    *spare = (asked){id, answered, arg};
    return true;
}

void tc_core_link_forget(tc_core_link *link, void *arg)
{
    for (size_t i = 0; link && i < ASKED_MAX; i++)
        if (link->asked[i].arg == arg) link->asked[i].arg = NULL;
}

bool tc_core_link_is_up(const tc_core_link *link)
{
    return link && link->up;
}
const tc_model_info *tc_core_link_info(const tc_core_link *link)
{
    return tc_core_link_is_up(link) ? &link->info : NULL;
}

bool tc_core_link_status(const tc_core_link *link, const tc_engine_status **ret, const char **ret_reason)
{
    if (!link || !link->up || !link->has_status) {
        *ret_reason = link ? link->reason : "the server is stopping";
        return false;
    }
    if (uv_now(link->gateway->loop) - link->status_ms > link->gateway->options.limits.stale_ms) {
        *ret_reason = "the core does not answer";
        return false;
    }
    *ret = &link->status;
    return true;
}

tc_metrics *tc_core_link_metrics(tc_core_link *link)
{
    return &link->gateway->metrics;
}
