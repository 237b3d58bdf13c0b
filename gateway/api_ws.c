// SPDX-License-Identifier: Apache-2.0
// Owns: WebSocket /api/v1/ws/generate: each text message is a request of POST /api/v1/generate, answered by
// the lines of its stream, a message a line; {"cancel": true} or {"cancel": "id"} ends what runs. Several may
// run at once: each answer carries the "request_id" of its request. Frames are ws_frame.c's.
#include "gateway/job.h"
#include "gateway/routes.h"
#include "gateway/ws_frame.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct socket_session socket_session;

// One generation on its way.
typedef struct slot {
    socket_session *session;
    tc_job *job;      // NULL: free
    char *request_id; // JSON text, or NULL
} slot;

struct socket_session {
    tc_gateway *gateway;
    tc_http_conn *conn; // NULL: gone
    tc_identity identity;
    tc_ws_parser parser;
    size_t counted; // bytes of parser.message counted in gateway->bodies_bytes
    uint64_t heard_ms, pinged_ms;
    uint32_t busy; // calls on the stack
    slot slots[TC_WS_REQUESTS_MAX];
};

static void free_slot(slot *s)
{
    free(s->request_id);
    s->request_id = NULL;
    s->job = NULL;
}

static void enter(socket_session *s)
{
    s->busy++;
}

static void leave(socket_session *s)
{
    if (--s->busy || s->conn) return;
    s->gateway->bodies_bytes -= s->counted;
    tc_ws_parser_free(&s->parser);
    free(s);
}

static void cancel_all(socket_session *s)
{
    for (int i = 0; i < TC_WS_REQUESTS_MAX; i++) {
        tc_job *job = s->slots[i].job;
        free_slot(&s->slots[i]);
        if (job) tc_job_gone(job);
    }
}

static void on_gone(void *owner)
{
    socket_session *s = owner;
    enter(s);
    s->conn = NULL;
    cancel_all(s);
    leave(s);
}

static void send_frame(socket_session *s, tc_ws_opcode opcode, const void *data, size_t bytes)
{
    tc_buffer out = {0};
    tc_ws_frame(&out, opcode, data, bytes);
    if (s->conn && out.failed)
        tc_http_conn_close(s->conn);
    else if (s->conn)
        tc_http_tunnel_write(s->conn, out.data, out.count); // may end in on_gone
    tc_buffer_free(&out);
}

static void close_session(socket_session *s, uint16_t code, const char *reason)
{
    tc_buffer out = {0};
    tc_http_conn *conn = s->conn;
    cancel_all(s);
    if (!conn) return;
    tc_ws_close_frame(&out, code, reason);
    tc_http_tunnel_write(conn, out.data, out.count);
    tc_buffer_free(&out);
    if (!s->conn) return; // was closed in writing
    s->conn = NULL;
    tc_http_tunnel_end(conn);
}

// One JSON object, with the id of the request it belongs to.
static void send_object(slot *s, const char *text, size_t bytes)
{
    while (bytes && strchr(" \n", text[bytes - 1])) bytes--;
    if (bytes < 2) return; // a keep-alive: pings do that here
    if (!s->request_id) {
        send_frame(s->session, TC_WS_TEXT, text, bytes);
        return;
    }
    tc_buffer out = {0};
    tc_buffer_text(&out, "{\"request_id\":");
    tc_buffer_text(&out, s->request_id);
    tc_buffer_text(&out, ",");
    tc_buffer_append(&out, text + 1, bytes - 1);
    if (!out.failed) send_frame(s->session, TC_WS_TEXT, out.data, out.count);
    tc_buffer_free(&out);
}

// ---- the sink of a job ----

static void slot_attach(void *sink, tc_job *job)
{
    slot *s = sink;
    s->job = job;
}

static void slot_write(void *sink, const char *data, size_t bytes)
{
    slot *s = sink;
    enter(s->session);
    send_object(s, data, bytes);
    leave(s->session);
}

static void slot_end(void *sink)
{
    free_slot(sink);
}

static void slot_respond(void *sink, const char *body, size_t bytes)
{
    slot *s = sink;
    enter(s->session);
    s->job = NULL; // it has ended: nothing is left to cancel
    send_object(s, body, bytes);
    free_slot(s);
    leave(s->session);
}

static void slot_fail(void *sink, const tc_http_error *error)
{
    tc_buffer body = {0};
    tc_http_error_body(error, &body);
    slot_respond(sink, body.data, body.failed ? 0 : body.count);
    tc_buffer_free(&body);
}

static void slot_begin(void *sink, const char *type)
{
    (void)sink, (void)type;
}

static void slot_abort(void *sink)
{
    slot *s = sink;
    s->job = NULL;
    if (s->session->conn) tc_http_conn_close(s->session->conn);
}

static const tc_sink_ops slot_ops = {slot_attach, slot_respond, slot_fail, slot_begin,
                                     slot_write,  slot_end,     slot_abort};

// ---- messages ----

static bool same_id(const slot *s, const char *id)
{
    return s->request_id && id && strcmp(s->request_id, id) == 0;
}

static void cancel(socket_session *s, const char *id)
{
    for (int i = 0; i < TC_WS_REQUESTS_MAX && s->conn; i++) {
        slot *one = &s->slots[i];
        if (!one->job || (id && !same_id(one, id))) continue;
        tc_job *job = one->job;
        one->job = NULL;
        tc_job_gone(job);
        send_object(one, "{\"cancelled\":true}", 18);
        if (s->conn) free_slot(one);
    }
}

static bool read_message(socket_session *s, yyjson_val *root, char **ret_id, bool *ret_cancel,
                         char **ret_which, tc_http_error *error)
{
    yyjson_val *id, *stop;
    (void)s;
    if (!tc_field_find(root, "request_id", &id, error) || !tc_field_find(root, "cancel", &stop, error))
        return false;
    if (id && !yyjson_is_str(id) && !yyjson_is_int(id))
        return tc_refuse_type(error, "request_id", "a string or an integer", id);
    if (id && yyjson_get_len(id) > TC_CONVERSATION_ID_BYTES_MAX && yyjson_is_str(id))
        return tc_http_refuse(error, 400, "out_of_range", "request_id", "request_id has more than %d bytes",
                              TC_CONVERSATION_ID_BYTES_MAX);
    if (stop && !yyjson_is_bool(stop) && !yyjson_is_str(stop) && !yyjson_is_int(stop))
        return tc_refuse_type(error, "cancel", "true or a request_id", stop);
    if (id) *ret_id = yyjson_val_write(id, YYJSON_WRITE_NOFLAG, NULL);
    *ret_cancel = stop && !yyjson_is_false(stop);
    if (*ret_cancel && !yyjson_is_bool(stop)) *ret_which = yyjson_val_write(stop, YYJSON_WRITE_NOFLAG, NULL);
    return true;
}

static void on_message(socket_session *s, const char *text, size_t bytes)
{
    yyjson_doc *doc = NULL;
    tc_http_error error;
    char *id = NULL, *which = NULL;
    bool stop = false;
    slot *free_one = NULL, unknown = {.session = s};
    for (int i = 0; i < TC_WS_REQUESTS_MAX && !free_one; i++)
        if (!s->slots[i].job) free_one = &s->slots[i];
    bool good = tc_fields_open(text, bytes, &doc, &error) &&
                read_message(s, yyjson_doc_get_root(doc), &id, &stop, &which, &error);
    yyjson_doc_free(doc);
    if (good && stop) {
        cancel(s, which);
    } else if (good && free_one) {
        *free_one = (slot){.session = s, .request_id = id};
        id = NULL;
        tc_job_begin(s->gateway, &slot_ops, free_one, &s->identity, TC_DIALECT_SOCKET, &tc_generate_shape,
                     text, bytes);
    } else {
        if (good)
            tc_http_refuse(&error, 429, "busy", NULL, "%d requests are running on this connection",
                           TC_WS_REQUESTS_MAX);
        unknown.request_id = id;
        id = NULL;
        slot_fail(&unknown, &error);
    }
    free(id);
    free(which);
}

// Text held for unfinished messages counts as bodies do.
static void count_bytes(socket_session *s)
{
    s->gateway->bodies_bytes += s->parser.message.count - s->counted;
    s->counted = s->parser.message.count;
    if (s->gateway->bodies_bytes > s->gateway->options.limits.bodies_bytes_max)
        close_session(s, 1013, "too many large messages at once");
}

static void on_data(void *owner, const char *data, size_t bytes)
{
    socket_session *s = owner;
    size_t at = 0, used;
    bool more = true;
    enter(s);
    s->heard_ms = uv_now(s->gateway->loop);
    while (s->conn && more) {
        switch (tc_ws_next(&s->parser, data + at, bytes - at, &used)) {
        case TC_WS_EVENT_MESSAGE:
            on_message(s, s->parser.message.data ? s->parser.message.data : "", s->parser.message.count);
            break;
        case TC_WS_EVENT_PING:
            send_frame(s, TC_WS_PONG, s->parser.control, s->parser.control_bytes);
            break;
        case TC_WS_EVENT_PONG:
            break;
        case TC_WS_EVENT_CLOSE:
            close_session(s, s->parser.close_code, NULL);
            break;
        case TC_WS_EVENT_ERROR:
            close_session(s, s->parser.close_code, s->parser.reason);
            break;
        case TC_WS_EVENT_NONE:
            more = false;
            break;
        }
        at += used;
    }
    if (s->conn) count_bytes(s);
    leave(s);
}

static void on_tick(void *owner, uint64_t now_ms)
{
    socket_session *s = owner;
    const tc_gateway_limits *limits = &s->gateway->options.limits;
    bool running = false;
    enter(s);
    for (int i = 0; i < TC_WS_REQUESTS_MAX; i++) running |= s->slots[i].job != NULL;
    if (s->gateway->draining && !running) {
        close_session(s, 1001, "the server is stopping");
    } else if (now_ms - s->heard_ms >= limits->idle_ms) {
        close_session(s, 1001, "no sign of life");
    } else if (now_ms - s->heard_ms >= limits->keep_alive_ms &&
               now_ms - s->pinged_ms >= limits->keep_alive_ms) {
        s->pinged_ms = now_ms;
        send_frame(s, TC_WS_PING, "", 0);
    }
    leave(s);
}

static void on_hold(void *owner, bool held)
{
    socket_session *s = owner;
    for (int i = 0; i < TC_WS_REQUESTS_MAX; i++)
        if (s->slots[i].job) tc_job_hold(s->slots[i].job, held);
}

// ---- the handshake ----

// Whether a comma-separated header holds the word.
static bool header_has(const tc_http_parser *request, const char *name, const char *word)
{
    size_t bytes, n = strlen(word);
    uint32_t count;
    const char *value = tc_http_header_find(request, name, &bytes, &count);
    for (size_t i = 0; value && i + n <= bytes; i++) {
        bool starts = i == 0 || strchr(", \t", value[i - 1]),
             ends = i + n == bytes || strchr(", \t", value[i + n]);
        if (starts && ends && strncasecmp(value + i, word, n) == 0) return true;
    }
    return false;
}

static bool check_handshake(const tc_http_parser *request, char accept[29], tc_http_error *error)
{
    size_t bytes;
    uint32_t count;
    if (request->http_1_0 || !header_has(request, "upgrade", "websocket") ||
        !header_has(request, "connection", "upgrade"))
        return tc_http_refuse(error, 426, "upgrade_required", NULL,
                              "this is a WebSocket: ask for Upgrade: websocket");
    const char *version = tc_http_header_find(request, "sec-websocket-version", &bytes, &count);
    if (count != 1 || bytes != 2 || memcmp(version, "13", 2) != 0)
        return tc_http_refuse(error, 426, "upgrade_required", NULL,
                              "version 13 of the WebSocket protocol is spoken here");
    const char *key = tc_http_header_find(request, "sec-websocket-key", &bytes, &count);
    if (count != 1 || !tc_ws_accept(key, bytes, accept))
        return tc_http_refuse(error, 400, "invalid_value", "Sec-WebSocket-Key",
                              "Sec-WebSocket-Key must be 16 bytes in base64, once");
    return true;
}

void tc_api_ws_generate(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    char accept[29], extra[160];
    tc_http_error error;
    (void)rest;
    if (!check_handshake(&conn->parser, accept, &error)) {
        tc_http_fail(conn, &error);
        return;
    }
    socket_session *s = calloc(1, sizeof *s);
    if (!s) {
        tc_refuse_memory(&error);
        tc_http_fail(conn, &error);
        return;
    }
    s->gateway = gateway;
    s->conn = conn;
    s->identity = conn->identity;
    s->heard_ms = s->pinged_ms = uv_now(gateway->loop);
    for (int i = 0; i < TC_WS_REQUESTS_MAX; i++) s->slots[i].session = s;
    tc_ws_parser_init(&s->parser, TC_HTTP_BODY_BYTES_MAX);
    snprintf(extra, sizeof extra, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
             accept);
    tc_http_own(conn, s, on_gone);
    tc_http_tick(conn, on_tick);
    tc_http_on_hold(conn, on_hold);
    tc_http_tunnel_begin(conn, extra, on_data);
}
