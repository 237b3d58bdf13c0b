// SPDX-License-Identifier: Apache-2.0
// Owns: the gateway as a whole: one libuv loop that listens, accepts, keeps the deadlines of all connections
// and ends cleanly. Everything here runs on that loop's thread, but the tokenising of long prompts.
#pragma once

#include "common/text/tokenizer.h"
#include "gateway/auth.h"
#include "gateway/limits.h"
#include "gateway/metrics.h"
#include "gateway/peers.h"
#include "proto/engine.h"
#include <uv.h>

typedef struct tc_gateway tc_gateway;
typedef struct tc_core_link tc_core_link;
typedef struct tc_http_conn tc_http_conn;

// A socket that connections come in by.
typedef struct tc_listener {
    struct tc_gateway *gateway;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    bool is_unix;
    bool owed; // a connection waits that could neither be taken nor turned away
} tc_listener;

// What the gateway itself must know about the model.
typedef struct tc_gateway_model {
    char name[TC_MODEL_NAME_BYTES_MAX + 1];
    uint32_t context; // until the core has said its own
    uint32_t vocab;
    tc_sampling defaults;
} tc_gateway_model;

typedef struct tc_gateway_options {
    const char *listen;     // "127.0.0.1:8080", "[::1]:8080", "localhost:8080", "unix:/path"; port 0: any
    int sockets_first;      // descriptors handed over by the service manager, instead of `listen`
    uint32_t sockets_count; // 0: none; at most TC_LISTENERS_MAX
    const char *engine_url;
    const tc_tokenizer *tokenizer;                // borrowed, must outlive the gateway
    const struct tc_chat_template *chat_template; // borrowed; NULL: conversations are refused with 501
    const tc_api_keys *keys; // borrowed; NULL: no keys, and then only loopback and unix addresses
    tc_web_policy web;
    tc_gateway_model model;
    tc_gateway_limits limits;
} tc_gateway_options;

// Listens and starts dialling the core. The handles live on `loop`, which the caller runs.
tc_status tc_gateway_open(uv_loop_t *loop, const tc_gateway_options *options, tc_gateway **ret, tc_error *e);
// Where it listens, with the port that was chosen: "http://127.0.0.1:41234" or "unix:/path".
const char *tc_gateway_address(const tc_gateway *gateway);
// From the next request on; both are borrowed as in the options. Keys must be there if and only if they were.
void tc_gateway_tune(tc_gateway *gateway, const tc_api_keys *keys, const tc_web_policy *web);
// Stops accepting, lets running requests finish for at most drain_ms, then closes everything. Again: at once.
// `done` is called when nothing of the gateway is left on the loop; then tc_gateway_free.
void tc_gateway_drain(tc_gateway *gateway, uint64_t drain_ms, void (*done)(void *arg), void *arg);
void tc_gateway_free(tc_gateway *gateway); // NULL is legal

// For the files of this folder.
struct tc_gateway {
    uv_loop_t *loop;
    tc_gateway_options options;
    tc_core_link *link;
    char address[300], socket_path[256];
    bool is_unix; // the first listener
    tc_listener listeners[TC_LISTENERS_MAX];
    uint32_t listener_count;
    uv_timer_t sweep;
    uv_check_t after_turn;    // after the sockets had their turn: streams are flushed
    uv_prepare_t before_wait; // and before the loop waits, for what timers wrote
    tc_peers *peers;
    tc_http_conn *dirty;
    struct tc_conversations *conversations; // owner: the gateway
    tc_http_conn *conns;                    // doubly linked
    uint32_t conn_count, refusal_count, jobs;
    uint64_t bodies_bytes; // held by all connections
    tc_metrics metrics;
    int64_t started_at; // wall clock, for "created"
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } spare; // for turning a connection away that there is no memory for
    bool spare_busy;
    bool draining, told; // told: those that ran beyond the drain have heard of it
    uint64_t drain_until_ms;
    void (*drained)(void *arg);
    void *drained_arg;
    uint32_t handles; // of our own (listeners, sweep, link ...) that are still open
    char read_buffer[TC_HTTP_READ_BYTES];
};

// Accepts a connection only to close it: where none is accepted libuv stops listening.
void tc_gateway_turn_away(tc_gateway *gateway, tc_listener *listener);
void tc_gateway_maybe_drained(tc_gateway *gateway); // after a connection or a job has ended
