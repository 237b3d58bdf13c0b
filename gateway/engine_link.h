// SPDX-License-Identifier: Apache-2.0
// Owns: the gateway's one connection to the core, on the libuv loop: it hands events to the request with
// their id, asks for the core's status now and then, and remembers cancels until the core has taken them.
//
//   slot: FREE --submit--> LIVE --finished / failed / core down--> FREE
//                            \--cancel--> ORPHAN --finished / failed / core down--> FREE
#pragma once

#include "gateway/error.h"
#include "gateway/server.h"

typedef struct tc_request tc_request;

// Starts dialling. The link lives on gateway->loop.
tc_status tc_core_link_open(tc_gateway *gateway, const char *url, tc_core_link **ret, tc_error *e);
// `closed` is called when the loop holds nothing of it any more; its memory is gone by then.
void tc_core_link_close(tc_core_link *link, void (*closed)(void *arg), void *arg);

// Whether the core has room for `requests` more generations of this scope with `tokens` prompt tokens in all.
// Answered from what is known here, at once, however long the core's steps take. False: *error says what to
// tell the client, 503 when the queue is full, 429 when it is this scope that fills it.
bool tc_core_link_has_room(const tc_core_link *link, uint64_t scope, uint32_t requests, uint64_t tokens,
                           tc_http_error *error);
// Gives an id to a request that will travel as a further choice of the one submitted next (more_ids). 0: no
// room. Until then tc_core_link_cancel takes it back.
uint64_t tc_core_link_reserve(tc_core_link *link, tc_request *request);
// Gives generate->id and queues it. Events go to tc_request_event until the request has ended or is
// cancelled. On failure its further choices have no id any more either.
tc_status tc_core_link_submit(tc_core_link *link, tc_request *request, tc_generate *generate, tc_error *e);
void tc_core_link_stop(tc_core_link *link,
                       uint64_t id); // the core should end it; its last event is still awaited
void tc_core_link_cancel(tc_core_link *link, uint64_t id); // the core should end it; nobody listens any more

// All that run or wait end now with that reason, and nothing new is taken: the server stops.
void tc_core_link_end_all(tc_core_link *link, const char *reason);

// While it is held the core computes nothing for it.
void tc_core_link_hold(tc_core_link *link, uint64_t id, bool held);

// An operator's question; `answered` is called once, with the event (TC_ENGINE_ANSWER) or, where the core
// went away, NULL. False: not asked, *error says why. `forget`: nobody waits any more.
typedef void tc_core_answered(void *arg, const tc_engine_event *event);
bool tc_core_link_ask(tc_core_link *link, tc_question question, const char *text, size_t bytes,
                      tc_core_answered *answered, void *arg, tc_http_error *error);
void tc_core_link_forget(tc_core_link *link, void *arg);

bool tc_core_link_is_up(const tc_core_link *link);
const tc_model_info *tc_core_link_info(const tc_core_link *link); // NULL while the core is down
// What the core last said; false with why where there is no fresh word of it.
bool tc_core_link_status(const tc_core_link *link, const tc_engine_status **ret, const char **ret_reason);
tc_metrics *tc_core_link_metrics(tc_core_link *link); // of its gateway
