// SPDX-License-Identifier: Apache-2.0
// Owns: the life of a connection (states and edges in http_conn.h).
#include "gateway/http_conn.h"

#include "common/base/log.h"
#include "gateway/engine_link.h"
#include "gateway/routes.h"
#include <poll.h>
#include <stdlib.h>
#include <string.h>

static void pump(tc_http_conn *conn);

static const tc_gateway_limits *limits(const tc_http_conn *conn)
{
    return &conn->gateway->options.limits;
}
static uint64_t now_ms(const tc_http_conn *conn)
{
    return uv_now(conn->gateway->loop);
}
static size_t queued(const tc_http_conn *conn)
{
    return conn->out.count + (conn->writing ? conn->flying.count : 0);
}

static void release_body(tc_http_conn *conn)
{
    conn->gateway->bodies_bytes -= conn->body_counted;
    conn->body_counted = 0;
}

static void forget_dirty(tc_http_conn *conn)
{
    tc_http_conn **at = &conn->gateway->dirty;
    while (*at != conn) at = &(*at)->next_dirty;
    *at = conn->next_dirty;
    conn->dirty = false;
}

static void on_closed(uv_handle_t *handle)
{
    tc_http_conn *conn = handle->data;
    tc_gateway *gateway = conn->gateway;
    if (conn->prev) conn->prev->next = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    if (gateway->conns == conn) gateway->conns = conn->next;
    if (conn->is_refusal)
        gateway->refusal_count--;
    else
        gateway->conn_count--;
    if (conn->peer.known && !conn->is_refusal) tc_peers_remove(gateway->peers, &conn->peer);
    if (conn->dirty) forget_dirty(conn);
    release_body(conn);
    tc_http_parser_free(&conn->parser);
    tc_buffer_free(&conn->in);
    tc_buffer_free(&conn->out);
    tc_buffer_free(&conn->flying);
    free(conn);
    tc_gateway_maybe_drained(gateway);
}

static void tell_gone(tc_http_conn *conn)
{
    void *owner = conn->owner;
    conn->owner = NULL;
    conn->tick = NULL;
    conn->hold = NULL;
    if (owner) conn->gone(owner);
}

void tc_http_conn_close(tc_http_conn *conn)
{
    if (conn->state == TC_CONN_CLOSED) return;
    conn->state = TC_CONN_CLOSED;
    tell_gone(conn);
    uv_close(&conn->io.handle, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
    tc_http_conn *conn =
        handle->data; // one buffer serves all: what is read is used or copied before the next read
    *ret = uv_buf_init(conn->gateway->read_buffer, sizeof conn->gateway->read_buffer);
}

// A client that has closed its sending side is taken to be gone, as most HTTP/1.1 servers do: otherwise a
// closed connection would keep the model busy. Answers that are complete still go out.
static void on_end(tc_http_conn *conn, ssize_t reason)
{
    conn->peer_done = true;
    bool sending = conn->writing || conn->out.count;
    if (reason == UV_EOF && sending && (conn->state == TC_CONN_RECEIVE || conn->state == TC_CONN_FLUSH)) {
        conn->state = TC_CONN_FLUSH;
        conn->deadline_ms = 0;
        uv_read_stop(&conn->io.stream);
        conn->reading = false;
        return;
    }
    tc_http_conn_close(conn);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    tc_http_conn *conn = stream->data;
    if (count == 0 || conn->state == TC_CONN_CLOSED) return;
    if (count < 0) {
        on_end(conn, count);
        return;
    }
    if (conn->state == TC_CONN_FLUSH || conn->state == TC_CONN_LINGER) return; // not ours to answer any more
    tc_buffer_append(&conn->in, buffer->base, (size_t)count);
    if (conn->in.failed)
        tc_http_conn_close(conn);
    else
        pump(conn);
}

// Reads while there is room. When there is none the kernel's buffer fills and the client has to wait.
static void adjust_reading(tc_http_conn *conn)
{
    if (conn->state == TC_CONN_CLOSED || conn->peer_done) return;
    bool want = conn->in.count < TC_HTTP_PIPELINE_BYTES_MAX || conn->state >= TC_CONN_FLUSH;
    if (want && !conn->reading)
        conn->reading = uv_read_start(&conn->io.stream, on_alloc, on_read) == 0;
    else if (!want && conn->reading) {
        uv_read_stop(&conn->io.stream);
        conn->reading = false;
    }
}

static void on_shutdown(uv_shutdown_t *request, int status)
{
    (void)request, (void)status;
}

static void begin_linger(tc_http_conn *conn)
{
    conn->state = TC_CONN_LINGER;
    conn->deadline_ms = now_ms(conn) + limits(conn)->linger_ms;
    // A cut stream must not look like one that ended, and who is gone need not be waited for.
    if (conn->truncated || conn->peer_done ||
        uv_shutdown(&conn->shutdown, &conn->io.stream, on_shutdown) != 0)
        tc_http_conn_close(conn);
    else
        adjust_reading(conn);
}

static void on_written(uv_write_t *write, int status)
{
    tc_http_conn *conn = write->data;
    conn->writing = false;
    if (conn->flying.capacity > TC_HTTP_PIPELINE_BYTES_MAX)
        tc_buffer_free(&conn->flying);
    else
        tc_buffer_clear(&conn->flying);
    if (conn->state == TC_CONN_CLOSED) return;
    if (status < 0) {
        tc_http_conn_close(conn);
        return;
    }
    tc_http_conn_flush(conn);
    pump(conn);
}

// A client that reads too slowly holds its sequence back, not its neighbours'.
static void adjust_hold(tc_http_conn *conn)
{
    bool hold = queued(conn) > (conn->held ? TC_HTTP_WRITE_GO_ON_BYTES : TC_HTTP_WRITE_HOLD_BYTES);
    if (hold == conn->held || !conn->hold || !conn->owner) return;
    conn->held = hold;
    conn->held_since_ms = now_ms(conn);
    conn->hold(conn->owner, hold);
}

void tc_http_on_hold(tc_http_conn *conn, void (*hold)(void *owner, bool held))
{
    conn->hold = hold;
}

void tc_http_conn_flush_soon(tc_http_conn *conn)
{
    if (conn->dirty || conn->state == TC_CONN_CLOSED) return;
    conn->dirty = true;
    conn->next_dirty = conn->gateway->dirty;
    conn->gateway->dirty = conn;
}

void tc_http_flush_dirty(tc_gateway *gateway)
{
    tc_http_conn *conn;
    while ((conn = gateway->dirty)) {
        gateway->dirty = conn->next_dirty;
        conn->dirty = false;
        tc_http_conn_flush(conn); // memory goes in close callbacks, never here
    }
}

void tc_http_conn_flush(tc_http_conn *conn)
{
    if (conn->state == TC_CONN_CLOSED || conn->state == TC_CONN_LINGER) return;
    if (conn->out.failed) {
        tc_http_conn_close(conn);
        return;
    }
    bool stream = conn->state == TC_CONN_TUNNEL || (conn->state == TC_CONN_ANSWER && conn->streaming);
    if (stream && queued(conn) > TC_HTTP_WRITE_HIGH_BYTES) {
        tc_debug("a client reads too slowly: its generation is cancelled");
        conn->truncated = true;
        conn->state = TC_CONN_FLUSH; // closed when all is sent, or after stall_ms without progress
        tell_gone(conn);
    }
    if (stream) adjust_hold(conn);
    if (conn->writing || conn->state == TC_CONN_CLOSED) return;
    if (conn->out.count == 0) {
        if (conn->state == TC_CONN_FLUSH) begin_linger(conn);
        return;
    }
    tc_buffer swap = conn->flying;
    conn->flying = conn->out;
    conn->out = swap;
    conn->writing = true;
    conn->write.data = conn;
    uv_buf_t buffer = uv_buf_init(conn->flying.data, (unsigned)conn->flying.count);
    if (uv_write(&conn->write, &conn->io.stream, &buffer, 1, on_written) != 0) {
        conn->writing = false;
        tc_http_conn_close(conn);
        return;
    }
    conn->write_left = uv_stream_get_write_queue_size(&conn->io.stream);
    conn->write_progress_ms = now_ms(conn);
}

void tc_http_drop_body(tc_http_conn *conn)
{
    release_body(conn);
    tc_buffer_free(&conn->parser.body);
}

void tc_http_own(tc_http_conn *conn, void *owner, void (*gone)(void *owner))
{
    conn->owner = owner;
    conn->gone = gone;
}

void tc_http_tick(tc_http_conn *conn, void (*tick)(void *owner, uint64_t now_ms))
{
    conn->tick = tick;
}

void tc_http_conn_answered(tc_http_conn *conn)
{
    if (conn->state == TC_CONN_CLOSED) return;
    tc_metrics_answered(&conn->gateway->metrics, conn);
    conn->served = true;
    if (conn->parser.path.count)
        tc_log_request(
            TC_LOG_DEBUG, conn->request_id, "%s %.*s %d in %llu ms", llhttp_method_name(conn->parser.method),
            conn->parser.path.count > 200 ? 200 : (int)conn->parser.path.count, conn->parser.path.data,
            conn->status, (unsigned long long)(now_ms(conn) - conn->asked_ms));
    conn->request_id[0] = 0;
    conn->owner = NULL;
    conn->tick = NULL;
    conn->hold = NULL;
    conn->held = conn->streaming = false;
    if (conn->keep_alive) {
        release_body(conn);
        tc_http_parser_next(&conn->parser);
        conn->state = TC_CONN_RECEIVE;
        conn->deadline_ms = now_ms(conn) + limits(conn)->idle_ms;
    } else {
        conn->state = TC_CONN_FLUSH;
        conn->deadline_ms = 0;
        tc_buffer_free(&conn->in);
    }
    tc_http_conn_flush(conn);
    pump(conn);
}

static void refuse(tc_http_conn *conn, const tc_http_error *error)
{
    conn->state = TC_CONN_ANSWER;
    conn->asked_ms = now_ms(conn);
    conn->keep_alive = false; // where this request ends is not known, or not waited for
    tc_http_fail(conn, error);
}

static void after_feed(tc_http_conn *conn, tc_http_state before)
{
    tc_http_parser *parser = &conn->parser;
    tc_http_state state = parser->state;
    if (state == TC_HTTP_REFUSED) {
        refuse(conn, &parser->error);
    } else if (state == TC_HTTP_COMPLETE) {
        conn->state = TC_CONN_ANSWER;
        conn->deadline_ms = 0;
        conn->asked_ms = now_ms(conn);
        conn->keep_alive = parser->keep_alive && !conn->gateway->draining;
        tc_routes_dispatch(conn->gateway, conn);
    } else if (state == TC_HTTP_AWAIT_BODY && before != TC_HTTP_AWAIT_BODY) {
        conn->deadline_ms = now_ms(conn) + limits(conn)->body_ms;
        if (parser->want_continue && parser->body.count == 0) {
            tc_buffer_text(&conn->out, "HTTP/1.1 100 Continue\r\n\r\n");
            tc_http_conn_flush(conn);
        }
    } else if (state == TC_HTTP_AWAIT_HEAD && before == TC_HTTP_AWAIT_REQUEST) {
        conn->deadline_ms = now_ms(conn) + limits(conn)->header_ms;
    }
}

// Parses what was read, request by request, while there is none to be answered and the answers find their way
// out. Handlers that answer at once come back here through answered(): `pumping` turns that recursion into
// this loop.
static void pump(tc_http_conn *conn)
{
    if (conn->pumping) return;
    conn->pumping = true;
    size_t at = 0;
    while (conn->state == TC_CONN_RECEIVE && at < conn->in.count &&
           queued(conn) <= TC_HTTP_WRITE_HIGH_BYTES) {
        tc_http_state before = conn->parser.state;
        at += tc_http_parser_feed(&conn->parser, conn->in.data + at, conn->in.count - at);
        after_feed(conn, before);
    }
    tc_buffer_consume(&conn->in, at);
    if (conn->state == TC_CONN_TUNNEL && conn->in.count) {
        tc_buffer all = conn->in;
        conn->in = (tc_buffer){.max = all.max};
        conn->tunnel(conn->owner, all.data, all.count);
        tc_buffer_free(&all);
    }
    if (conn->in.count == 0 && conn->in.capacity > TC_HTTP_PIPELINE_BYTES_MAX) tc_buffer_free(&conn->in);
    conn->pumping = false;
    adjust_reading(conn);
}

static bool check_head(void *owner, tc_http_parser *parser, tc_http_error *error)
{
    tc_http_conn *conn = owner;
    return tc_routes_check_head(conn->gateway, parser, error);
}

static bool check_body(void *owner, tc_http_parser *parser, size_t bytes, tc_http_error *error)
{
    tc_http_conn *conn = owner;
    tc_gateway *gateway = conn->gateway;
    if (gateway->bodies_bytes + bytes > limits(conn)->bodies_bytes_max)
        return tc_http_refuse_for_now(error, "too many large requests at once");
    gateway->bodies_bytes += bytes;
    conn->body_counted += bytes;
    return true;
}

// Why this connection is one too many; false: it is not.
static bool is_too_many(tc_http_conn *conn, tc_http_error *ret)
{
    tc_gateway *gateway = conn->gateway;
    struct sockaddr_storage address = {0};
    int bytes = sizeof address;
    if (!conn->is_unix && uv_tcp_getpeername(&conn->io.tcp, (struct sockaddr *)&address, &bytes) == 0)
        conn->peer = tc_peer_of((struct sockaddr *)&address);
    bool counts = conn->peer.known && (!conn->peer.is_loopback || limits(conn)->count_local_peers);
    if (gateway->conn_count >= limits(conn)->connections_max) {
        tc_http_refuse_for_now(ret, "too many connections");
    } else if (counts && tc_peers_count(gateway->peers, &conn->peer) >= limits(conn)->peer_connections_max) {
        tc_http_refuse(ret, 429, "too_many_connections", NULL, "too many connections from this address");
        ret->retry_after_s = TC_RETRY_AFTER_S;
    } else if (conn->peer.known && !tc_peers_add(gateway->peers, &conn->peer)) {
        tc_http_refuse_for_now(ret, "out of memory");
    } else {
        return false;
    }
    return true;
}

static tc_http_conn *new_conn(tc_gateway *gateway, tc_listener *listener)
{
    tc_http_conn *conn = calloc(1, sizeof *conn);
    if (!conn) return NULL;
    conn->gateway = gateway;
    conn->is_unix = listener->is_unix;
    tc_http_parser_init(&conn->parser);
    conn->parser.check_head = check_head;
    conn->parser.check_body = check_body;
    conn->parser.owner = conn;
    int error = conn->is_unix ? uv_pipe_init(gateway->loop, &conn->io.pipe, 0)
                              : uv_tcp_init(gateway->loop, &conn->io.tcp);
    if (error) {
        free(conn);
        return NULL;
    }
    conn->io.handle.data = conn;
    conn->next = gateway->conns;
    if (conn->next) conn->next->prev = conn;
    gateway->conns = conn;
    return conn;
}

void tc_http_conn_accept(tc_gateway *gateway, tc_listener *listener)
{
    tc_http_error too_many;
    tc_http_conn *conn = new_conn(gateway, listener);
    if (!conn) {
        tc_gateway_turn_away(gateway, listener);
        return;
    }
    bool accepted = uv_accept(&listener->io.stream, &conn->io.stream) == 0;
    conn->is_refusal = !accepted || is_too_many(conn, &too_many);
    gateway->metrics.connections++;
    if (conn->is_refusal) gateway->metrics.refused_connections++;
    if (conn->is_refusal)
        gateway->refusal_count++;
    else
        gateway->conn_count++;
    if (!accepted || gateway->refusal_count > TC_HTTP_REFUSALS_MAX) {
        tc_http_conn_close(conn);
        return;
    }
    if (!conn->is_unix) uv_tcp_nodelay(&conn->io.tcp, 1);
    conn->accepted_ms = now_ms(conn);
    conn->deadline_ms = conn->accepted_ms + limits(conn)->idle_ms;
    if (conn->is_refusal)
        refuse(conn, &too_many);
    else
        adjust_reading(conn);
}

// One just accepted has its first request under way: closing it would drop that, when the gateway restarts.
bool tc_http_conn_is_idle(const tc_http_conn *conn)
{
    if (!conn->served && now_ms(conn) - conn->accepted_ms < TC_HTTP_FRESH_MS) return false;
    return conn->state == TC_CONN_RECEIVE && conn->parser.state == TC_HTTP_AWAIT_REQUEST && !conn->writing &&
           conn->in.count == 0;
}

// While reading is stopped a hang-up does not show as a read: look for it. (Behind a full receive window TCP
// itself holds it back: then the answer is written to nobody, or a stream's write fails.)
static bool has_hung_up(const tc_http_conn *conn)
{
    uv_os_fd_t fd;
    if (uv_fileno(&conn->io.handle, &fd) != 0) return true;
    struct pollfd look = {.fd = fd, .events = POLLRDHUP};
    return poll(&look, 1, 0) == 1;
}

// A stream that is held back keeps its place among those that run: longer when nobody waits for one.
static uint64_t held_limit_ms(const tc_http_conn *conn)
{
    const tc_engine_status *engine;
    const char *reason;
    bool wanted = tc_core_link_status(conn->gateway->link, &engine, &reason) && engine->waiting > 0;
    return wanted && limits(conn)->held_busy_ms < limits(conn)->held_ms ? limits(conn)->held_busy_ms
                                                                        : limits(conn)->held_ms;
}

void tc_http_conn_sweep(tc_http_conn *conn, uint64_t now)
{
    if (conn->state == TC_CONN_CLOSED) return;
    if (conn->writing) {
        size_t left = uv_stream_get_write_queue_size(&conn->io.stream);
        if (left != conn->write_left) {
            conn->write_left = left;
            conn->write_progress_ms = now;
        } else if (now - conn->write_progress_ms >= limits(conn)->stall_ms) {
            tc_http_conn_close(conn);
            return;
        }
    }
    if (conn->held && now - conn->held_since_ms >= held_limit_ms(conn)) {
        tc_debug("a client reads too slowly: its connection is closed");
        conn->truncated = true;
        tc_http_conn_close(conn);
        return;
    }
    if (conn->state == TC_CONN_ANSWER && !conn->reading && has_hung_up(conn)) {
        tc_http_conn_close(conn);
        return;
    }
    if (conn->tick && (conn->state == TC_CONN_ANSWER || conn->state == TC_CONN_TUNNEL)) {
        conn->tick(conn->owner, now); // may close it
        return;
    }
    if (conn->deadline_ms == 0 || now < conn->deadline_ms) return;
    if (conn->state == TC_CONN_RECEIVE && conn->parser.state != TC_HTTP_AWAIT_REQUEST) {
        tc_http_error late;
        tc_http_refuse(&late, 408, "timeout", NULL, "the request did not arrive in time");
        refuse(conn, &late);
    } else if (conn->state == TC_CONN_RECEIVE && conn->writing) {
        conn->deadline_ms = now + limits(conn)->idle_ms; // the write has a deadline of its own
    } else {
        tc_http_conn_close(conn);
    }
}
