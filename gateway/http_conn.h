// SPDX-License-Identifier: Apache-2.0
// Owns: one client's connection: reading, keep-alive, pipelining (answers in order, one request at a time),
// deadlines, the bounded write queue, and an orderly close. Refuses: to know what is asked. A complete
// request goes to routes.c, which answers at once or later.
//
//   RECEIVE --request complete--> ANSWER --respond / stream_end--> RECEIVE            (keep-alive)
//      |                            |                         \--> FLUSH --> LINGER --> CLOSED
//      +--malformed, too large------+--client gone: `gone`, CLOSED
//                                   \--tunnel_begin--> TUNNEL --tunnel_end--> FLUSH        (101, WebSocket)
#pragma once

#include "gateway/server.h"

typedef enum tc_conn_state {
    TC_CONN_RECEIVE,
    TC_CONN_ANSWER,
    TC_CONN_TUNNEL, // upgraded: what comes in is the owner's, as it comes
    TC_CONN_FLUSH,  // the last answer is on its way out
    TC_CONN_LINGER, // all sent and our side shut: waiting for the client to close, so that it can read the
                    // answer
    TC_CONN_CLOSED, // uv_close under way
} tc_conn_state;

struct tc_http_conn {
    tc_gateway *gateway;
    tc_http_conn *prev, *next;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } io;
    tc_conn_state state;
    bool is_unix;
    bool is_refusal; // one too many: only told so
    tc_peer peer;
    tc_identity identity;                         // of the request
    char request_id[TC_REQUEST_ID_BYTES_MAX + 1]; // its X-Request-Id, or its job's id; "": it has none
    tc_http_parser parser;
    tc_buffer in; // read, not yet parsed
    bool reading, pumping, peer_done;
    uint64_t deadline_ms; // of the state, 0: none
    size_t body_counted;  // bytes of parser.body counted in gateway->bodies_bytes

    // The answer. An owner that answers later hears through `gone` that nobody listens any more.
    void *owner;
    void (*gone)(void *owner);
    void (*tick)(void *owner, uint64_t now_ms); // every sweep while it is awaited; may be NULL
    void (*tunnel)(void *owner, const char *data, size_t bytes);
    void (*hold)(void *owner, bool held); // may be NULL
    bool keep_alive, streaming, chunked, truncated;
    bool served; // it has had an answer
    int status;
    uint64_t asked_ms, accepted_ms;

    // Bytes out: `out` gathers while `flying` is being written.
    tc_buffer out, flying;
    uv_write_t write;
    uv_shutdown_t shutdown;
    bool writing;
    size_t write_left;
    uint64_t write_progress_ms;
    tc_http_conn *next_dirty; // has bytes that leave at the end of this turn of the loop
    bool dirty, held;
    uint64_t held_since_ms;
};

// Takes one connection off the listener. One too many is told so and closed.
void tc_http_conn_accept(tc_gateway *gateway, tc_listener *listener);
// Sends what was written to streams in this turn of the loop, all tokens of a stream in one piece.
void tc_http_flush_dirty(tc_gateway *gateway);
void tc_http_conn_sweep(tc_http_conn *conn, uint64_t now_ms); // deadlines; may close it
void tc_http_conn_close(tc_http_conn *conn);                  // now
bool tc_http_conn_is_idle(const tc_http_conn *conn);          // between requests

// For handlers. Exactly one answer for each request: respond, fail, or stream_begin ... stream_end.
void tc_http_own(tc_http_conn *conn, void *owner, void (*gone)(void *owner));
// Calls `tick` now and then until the answer is complete; it may do anything a handler may.
void tc_http_tick(tc_http_conn *conn, void (*tick)(void *owner, uint64_t now_ms));
// `hold` is told when the client reads too slowly to write more to it, and when it has caught up.
void tc_http_on_hold(tc_http_conn *conn, void (*hold)(void *owner, bool held));
void tc_http_drop_body(tc_http_conn *conn); // the handler needs it no more
// `body` is copied. `extra`: more header lines, each ending in CRLF, or NULL.
void tc_http_respond(tc_http_conn *conn, int status, const char *type, const char *extra, const char *body,
                     size_t bytes);
void tc_http_fail(tc_http_conn *conn, const tc_http_error *error);
void tc_http_stream_begin(tc_http_conn *conn, const char *type);
// Leaves at the end of this turn of the loop; `gone` or `hold` may be called then.
void tc_http_stream_write(tc_http_conn *conn, const char *data, size_t bytes);
void tc_http_stream_end(tc_http_conn *conn);
// Answers 101 with `extra` header lines; from here on `data` gets the bytes that come in, and the owner (set
// before) writes what it likes. It may end or close the connection in `data`. `gone` is called as for
// streams.
void tc_http_tunnel_begin(tc_http_conn *conn, const char *extra,
                          void (*data)(void *owner, const char *data, size_t bytes));
void tc_http_tunnel_write(tc_http_conn *conn, const void *data, size_t bytes);
void tc_http_tunnel_end(tc_http_conn *conn); // closed when all is sent; `gone` is not called

// For http_response.c.
void tc_http_conn_flush(tc_http_conn *conn);
void tc_http_conn_flush_soon(tc_http_conn *conn);
void tc_http_conn_answered(tc_http_conn *conn);
