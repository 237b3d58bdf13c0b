// SPDX-License-Identifier: Apache-2.0
// Owns: how answers look on the wire: status line, headers, framing of streams.
#include "gateway/cors.h"
#include "gateway/http_conn.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static void head(tc_http_conn *conn, int status, const char *type, const char *extra)
{
    conn->status = status;
    tc_buffer_format(&conn->out, "HTTP/1.1 %d %s\r\nServer: thermocline\r\n", status, tc_http_reason(status));
    if (type) tc_buffer_format(&conn->out, "Content-Type: %s\r\n", type);
    tc_buffer_text(&conn->out, "X-Content-Type-Options: nosniff\r\n");
    tc_cors_headers(conn, &conn->out);
    if (*conn->request_id) tc_buffer_format(&conn->out, "X-Request-Id: %s\r\n", conn->request_id);
    if (extra) tc_buffer_text(&conn->out, extra);
    if (!conn->keep_alive)
        tc_buffer_text(&conn->out, "Connection: close\r\n");
    else if (conn->parser.http_1_0)
        tc_buffer_text(&conn->out, "Connection: keep-alive\r\n");
}

void tc_http_respond(tc_http_conn *conn, int status, const char *type, const char *extra, const char *body,
                     size_t bytes)
{
    assert(!conn->streaming);
    if (conn->gateway->draining) conn->keep_alive = false;
    head(conn, status, type, extra);
    if (status == 204) // has no body, and says nothing of its length
        tc_buffer_text(&conn->out, "\r\n");
    else
        tc_buffer_format(&conn->out, "Content-Length: %zu\r\n\r\n", bytes);
    if (conn->parser.method != HTTP_HEAD && status != 204) tc_buffer_append(&conn->out, body, bytes);
    tc_http_conn_answered(conn);
}

void tc_http_fail(tc_http_conn *conn, const tc_http_error *error)
{
    tc_buffer body = {0};
    char extra[128] = "";
    if (error->retry_after_s) snprintf(extra, sizeof extra, "Retry-After: %u\r\n", error->retry_after_s);
    if (*error->allow) snprintf(extra, sizeof extra, "Allow: %s\r\n", error->allow);
    if (error->status == 426)
        snprintf(extra, sizeof extra, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    if (error->status == 401) snprintf(extra, sizeof extra, "WWW-Authenticate: Bearer\r\n");
    static const char messages[] = "/v1/messages";
    const tc_buffer *path = &conn->parser.path;
    bool anthropic =
        path->count >= sizeof messages - 1 && memcmp(path->data, messages, sizeof messages - 1) == 0;
    if (anthropic)
        tc_http_error_anthropic(error, &body);
    else
        tc_http_error_body(error, &body);
    tc_buffer_text(&body, "\n");
    if (body.failed) tc_buffer_clear(&body);
    tc_http_respond(conn, error->status, "application/json", extra, body.data, body.count);
    tc_buffer_free(&body);
}

void tc_http_stream_begin(tc_http_conn *conn, const char *type)
{
    assert(!conn->streaming);
    conn->streaming = true;
    conn->chunked = !conn->parser.http_1_0;
    if (!conn->chunked || conn->gateway->draining)
        conn->keep_alive = false; // HTTP/1.0 ends a stream by closing
    head(conn, 200, type, "Cache-Control: no-store\r\n");
    tc_buffer_text(&conn->out, conn->chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
    tc_http_conn_flush_soon(conn);
}

void tc_http_stream_write(tc_http_conn *conn, const char *data, size_t bytes)
{
    assert(conn->streaming);
    if (bytes == 0) return; // an empty chunk would end the stream
    if (conn->chunked) tc_buffer_format(&conn->out, "%zx\r\n", bytes);
    tc_buffer_append(&conn->out, data, bytes);
    if (conn->chunked) tc_buffer_text(&conn->out, "\r\n");
    tc_http_conn_flush_soon(conn);
}

void tc_http_stream_end(tc_http_conn *conn)
{
    assert(conn->streaming);
    if (conn->chunked) tc_buffer_text(&conn->out, "0\r\n\r\n");
    tc_http_conn_answered(conn);
}

void tc_http_tunnel_begin(tc_http_conn *conn, const char *extra,
                          void (*data)(void *owner, const char *data, size_t bytes))
{
    assert(!conn->streaming);
    conn->status = 101;
    conn->keep_alive = false;
    conn->state = TC_CONN_TUNNEL;
    conn->tunnel = data;
    tc_buffer_text(&conn->out, "HTTP/1.1 101 Switching Protocols\r\nServer: thermocline\r\n");
    tc_buffer_text(&conn->out, extra);
    tc_buffer_text(&conn->out, "\r\n");
    tc_http_conn_flush(conn);
}

void tc_http_tunnel_write(tc_http_conn *conn, const void *data, size_t bytes)
{
    if (conn->state != TC_CONN_TUNNEL) return;
    tc_buffer_append(&conn->out, data, bytes);
    tc_http_conn_flush_soon(conn);
}

void tc_http_tunnel_end(tc_http_conn *conn)
{
    if (conn->state == TC_CONN_TUNNEL) tc_http_conn_answered(conn);
}
