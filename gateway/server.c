// SPDX-License-Identifier: Apache-2.0
// Owns: listening, accepting, the sweep over all deadlines, and the end.
#include "gateway/server.h"

#include "common/base/log.h"
#include "common/base/mem.h"
#include "gateway/address.h"
#include "gateway/conversation.h"
#include "gateway/engine_link.h"
#include "gateway/http_conn.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 511 };

// The drain is over: those that still run are told, and get a moment to hear it. True: that is over, too.
static bool drain_is_over(tc_gateway *gateway, uint64_t now)
{
    if (!gateway->draining || now < gateway->drain_until_ms) return false;
    if (gateway->told || !gateway->link) return true;
    gateway->told = true;
    gateway->drain_until_ms = now + TC_DRAIN_TELL_MS;
    tc_core_link_end_all(gateway->link, "the server is stopping; try again");
    return false;
}

static void on_sweep(uv_timer_t *timer)
{
    tc_gateway *gateway = timer->data;
    uint64_t now = uv_now(gateway->loop);
    bool over = drain_is_over(gateway, now);
    for (tc_http_conn *conn = gateway->conns, *next; conn; conn = next) {
        next = conn->next; // memory goes in close callbacks, never during this walk
        if (over || (gateway->draining && tc_http_conn_is_idle(conn)))
            tc_http_conn_close(conn);
        else
            tc_http_conn_sweep(conn, now);
    }
    if (gateway->conns || gateway->draining) return;
    uv_timer_stop(timer);
    tc_mem_trim(); // nobody is here: what they left in malloc's hands goes back
}

static void start_sweep(tc_gateway *gateway)
{
    uint64_t every = gateway->options.limits.sweep_ms;
    if (!uv_is_active((uv_handle_t *)&gateway->sweep))
        uv_timer_start(&gateway->sweep, on_sweep, every, every);
}

static void on_connection(uv_stream_t *stream, int status)
{
    tc_listener *listener = stream->data;
    if (status < 0) {
        tc_warn("accepting a connection: %s", uv_strerror(status));
        return;
    }
    tc_http_conn_accept(listener->gateway, listener);
    start_sweep(listener->gateway);
}

static void on_spare_closed(uv_handle_t *handle)
{
    tc_gateway *gateway = handle->data;
    gateway->spare_busy = false;
    gateway->handles--;
    for (uint32_t i = 0; i < gateway->listener_count && !gateway->draining; i++) {
        if (!gateway->listeners[i].owed) continue;
        gateway->listeners[i].owed = false;
        on_connection(&gateway->listeners[i].io.stream, 0);
    }
    tc_gateway_maybe_drained(gateway);
}

void tc_gateway_turn_away(tc_gateway *gateway, tc_listener *listener)
{
    if (gateway->spare_busy) {
        listener->owed = true;
        return;
    }
    int error = listener->is_unix ? uv_pipe_init(gateway->loop, &gateway->spare.pipe, 0)
                                  : uv_tcp_init(gateway->loop, &gateway->spare.tcp);
    if (error) return;
    gateway->spare_busy = true;
    gateway->handles++;
    gateway->spare.handle.data = gateway;
    if (uv_accept(&listener->io.stream, &gateway->spare.stream) == 0)
        tc_warn("a connection is closed: out of memory");
    uv_close(&gateway->spare.handle, on_spare_closed);
}

static void on_after_turn(uv_check_t *check)
{
    tc_http_flush_dirty(check->data);
}

static void on_before_wait(uv_prepare_t *prepare)
{
    tc_http_flush_dirty(prepare->data);
}

// A socket file that nobody listens on is left over from a process that was killed.
static tc_status remove_stale_socket(const char *path, tc_error *e)
{
    struct stat info;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (lstat(path, &info) != 0) return errno == ENOENT ? TC_OK : tc_fail_errno(e, TC_IO, "%s", path);
    if (!S_ISSOCK(info.st_mode)) return tc_fail(e, TC_ARGUMENT, "%s: exists and is no socket", path);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return tc_fail_errno(e, TC_IO, "%s", path);
    bool refused = connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno == ECONNREFUSED;
    close(fd);
    if (!refused) return tc_fail(e, TC_BUSY, "%s: another server listens there", path);
    return unlink(path) == 0 ? TC_OK : tc_fail_errno(e, TC_IO, "%s", path);
}

static void name_address(tc_gateway *gateway)
{
    struct sockaddr_storage bound = {0};
    int bytes = sizeof bound;
    char host[INET6_ADDRSTRLEN] = "?";
    if (gateway->is_unix) {
        snprintf(gateway->address, sizeof gateway->address, "unix:%s", gateway->socket_path);
        return;
    }
    uv_tcp_getsockname(&gateway->listeners[0].io.tcp, (struct sockaddr *)&bound, &bytes);
    if (bound.ss_family == AF_INET6) {
        uv_ip6_name((struct sockaddr_in6 *)&bound, host, sizeof host);
        snprintf(gateway->address, sizeof gateway->address, "http://[%s]:%u", host,
                 ntohs(((struct sockaddr_in6 *)&bound)->sin6_port));
    } else {
        uv_ip4_name((struct sockaddr_in *)&bound, host, sizeof host);
        snprintf(gateway->address, sizeof gateway->address, "http://%s:%u", host,
                 ntohs(((struct sockaddr_in *)&bound)->sin_port));
    }
}

static tc_listener *new_listener(tc_gateway *gateway, bool is_unix)
{
    tc_listener *l = &gateway->listeners[gateway->listener_count++];
    l->gateway = gateway;
    l->is_unix = is_unix;
    if (is_unix)
        uv_pipe_init(gateway->loop, &l->io.pipe, 0);
    else
        uv_tcp_init(gateway->loop, &l->io.tcp);
    l->io.handle.data = l;
    gateway->handles++;
    return l;
}

static tc_status listen_at(tc_gateway *gateway, const char *text, tc_error *e)
{
    tc_address address;
    int error;
    TC_TRY(tc_address_parse(text, &address, e));
    if (!address.is_loopback && !gateway->options.keys)
        return tc_fail(e, TC_ARGUMENT, "%s is not a loopback address: that needs --api-key-file", text);
    tc_listener *l = new_listener(gateway, address.is_unix);
    if (address.is_unix) {
        snprintf(gateway->socket_path, sizeof gateway->socket_path, "%s", address.path);
        TC_TRY(remove_stale_socket(address.path, e));
        error = uv_pipe_bind(&l->io.pipe, address.path);
        // Whoever may open the socket may use the model: only this user, until told otherwise.
        if (!error && chmod(address.path, 0600) != 0) return tc_fail_errno(e, TC_IO, "%s", address.path);
    } else {
        error = uv_tcp_bind(&l->io.tcp, (const struct sockaddr *)&address.ip,
                            address.ip.ss_family == AF_INET6 ? UV_TCP_IPV6ONLY : 0);
    }
    if (!error) error = uv_listen(&l->io.stream, BACKLOG, on_connection);
    return error ? tc_fail(e, TC_IO, "cannot listen on %s: %s", text, uv_strerror(error)) : TC_OK;
}

// A socket that the service manager has bound, and listens on for us until we do.
static tc_status listen_on(tc_gateway *gateway, int fd, tc_error *e)
{
    struct sockaddr_storage bound = {0};
    socklen_t bytes = sizeof bound, flag_bytes = sizeof(int);
    int listening = 0, type = 0;
    if (getsockname(fd, (struct sockaddr *)&bound, &bytes) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &flag_bytes) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &flag_bytes) != 0)
        return tc_fail_errno(e, TC_IO, "descriptor %d, handed over to listen on", fd);
    bool is_unix = bound.ss_family == AF_UNIX;
    tc_peer self = tc_peer_of((struct sockaddr *)&bound);
    if (!listening || type != SOCK_STREAM || (!is_unix && !self.known))
        return tc_fail(e, TC_ARGUMENT, "descriptor %d, handed over, is no listening stream socket", fd);
    if (!is_unix && !self.is_loopback && !gateway->options.keys)
        return tc_fail(e, TC_ARGUMENT,
                       "descriptor %d is bound to no loopback address: that needs "
                       "--api-key-file",
                       fd);
    tc_listener *l = new_listener(gateway, is_unix);
    int error = is_unix ? uv_pipe_open(&l->io.pipe, fd) : uv_tcp_open(&l->io.tcp, fd);
    if (!error) error = uv_listen(&l->io.stream, BACKLOG, on_connection);
    if (error) return tc_fail(e, TC_IO, "cannot listen on descriptor %d: %s", fd, uv_strerror(error));
    if (is_unix && gateway->listener_count == 1) {
        const struct sockaddr_un *un = (const struct sockaddr_un *)(const void *)&bound;
        snprintf(gateway->socket_path, sizeof gateway->socket_path, "%.*s", (int)sizeof un->sun_path,
                 un->sun_path);
    }
    return TC_OK;
}

static tc_status start_listening(tc_gateway *gateway, tc_error *e)
{
    const tc_gateway_options *o = &gateway->options;
    if (o->sockets_count > TC_LISTENERS_MAX)
        return tc_fail(e, TC_LIMIT, "%u sockets are handed over, at most %d may be", o->sockets_count,
                       TC_LISTENERS_MAX);
    if (o->sockets_count == 0) TC_TRY(listen_at(gateway, o->listen, e));
    for (uint32_t i = 0; i < o->sockets_count; i++) TC_TRY(listen_on(gateway, o->sockets_first + (int)i, e));
    gateway->is_unix = gateway->listeners[0].is_unix;
    name_address(gateway);
    return TC_OK;
}

static void on_handle_closed(uv_handle_t *handle)
{
    tc_gateway *gateway = handle->data;
    gateway->handles--;
    tc_gateway_maybe_drained(gateway);
}

static void on_listener_closed(uv_handle_t *handle)
{
    tc_listener *listener = handle->data;
    listener->gateway->handles--;
    tc_gateway_maybe_drained(listener->gateway);
}

static void on_link_closed(void *arg)
{
    tc_gateway *gateway = arg;
    gateway->handles--;
    tc_gateway_maybe_drained(gateway);
}

static void free_unopened(void *arg)
{
    tc_gateway_free(arg);
}

// Handles of ours that do not keep the loop alive by themselves.
static void start_turns(tc_gateway *gateway)
{
    uv_timer_init(gateway->loop, &gateway->sweep);
    uv_check_init(gateway->loop, &gateway->after_turn);
    uv_prepare_init(gateway->loop, &gateway->before_wait);
    gateway->sweep.data = gateway->after_turn.data = gateway->before_wait.data = gateway;
    uv_check_start(&gateway->after_turn, on_after_turn);
    uv_prepare_start(&gateway->before_wait, on_before_wait);
    gateway->handles += 3;
}

tc_status tc_gateway_open(uv_loop_t *loop, const tc_gateway_options *options, tc_gateway **ret, tc_error *e)
{
    tc_gateway *gateway = calloc(1, sizeof *gateway);
    if (gateway) gateway->conversations = tc_conversations_new();
    if (!gateway || !gateway->conversations) {
        free(gateway);
        return tc_fail(e, TC_NOMEM, "gateway: out of memory");
    }
    gateway->loop = loop;
    gateway->options = *options;
    gateway->started_at = (int64_t)time(NULL);
    gateway->peers = tc_peers_new(options->limits.connections_max);
    start_turns(gateway);
    tc_status status =
        gateway->peers ? start_listening(gateway, e) : tc_fail(e, TC_NOMEM, "gateway: out of memory");
    if (status == TC_OK) status = tc_core_link_open(gateway, options->engine_url, &gateway->link, e);
    if (status != TC_OK) {
        tc_gateway_drain(gateway, 0, free_unopened,
                         gateway); // handles close in the caller's next turn of the loop
        return status;
    }
    *ret = gateway;
    return TC_OK;
}

const char *tc_gateway_address(const tc_gateway *gateway)
{
    return gateway->address;
}

void tc_gateway_tune(tc_gateway *gateway, const tc_api_keys *keys, const tc_web_policy *web)
{
    gateway->options.keys = keys;
    gateway->options.web = *web;
}

void tc_gateway_drain(tc_gateway *gateway, uint64_t drain_ms, void (*done)(void *arg), void *arg)
{
    bool again = gateway->draining;
    gateway->draining = true;
    gateway->drained = done;
    gateway->drained_arg = arg;
    gateway->told |= again; // at once, then
    gateway->drain_until_ms = again ? 0 : uv_now(gateway->loop) + drain_ms;
    for (uint32_t i = 0; !again && i < gateway->listener_count; i++)
        uv_close(&gateway->listeners[i].io.handle, on_listener_closed);
    start_sweep(gateway);
    for (tc_http_conn *conn = gateway->conns, *next; conn; conn = next) {
        next = conn->next;
        if (again || tc_http_conn_is_idle(conn)) tc_http_conn_close(conn);
    }
    tc_gateway_maybe_drained(gateway);
}

void tc_gateway_maybe_drained(tc_gateway *gateway)
{
    if (!gateway->draining || gateway->conns || gateway->jobs) return;
    if (gateway->link) {
        tc_core_link *link = gateway->link;
        gateway->link = NULL;
        gateway->handles++;
        tc_core_link_close(link, on_link_closed, gateway);
    }
    if (!uv_is_closing((uv_handle_t *)&gateway->sweep)) {
        uv_close((uv_handle_t *)&gateway->sweep, on_handle_closed);
        uv_close((uv_handle_t *)&gateway->after_turn, on_handle_closed);
        uv_close((uv_handle_t *)&gateway->before_wait, on_handle_closed);
    }
    if (gateway->handles == 0 && gateway->drained) {
        void (*drained)(void *arg) = gateway->drained;
        gateway->drained = NULL;
        drained(gateway->drained_arg);
    }
}

void tc_gateway_free(tc_gateway *gateway)
{
    if (gateway) tc_peers_free(gateway->peers);
    if (gateway) tc_conversations_free(gateway->conversations);
    free(gateway);
}
