// SPDX-License-Identifier: Apache-2.0
// Owns: listening, accepting, the sweep over all deadlines, and the end.
#include "gateway/server.h"

#include "common/base/log.h"
#include "gateway/address.h"
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

static void on_sweep(uv_timer_t *timer)
{
    tc_gateway *gateway = timer->data;
    uint64_t now = uv_now(gateway->loop);
    bool over = gateway->draining && now >= gateway->drain_until_ms;
    for (tc_http_conn *conn = gateway->conns, *next; conn; conn = next) {
        next = conn->next; // memory goes in close callbacks, never during this walk
        if (over || (gateway->draining && tc_http_conn_is_idle(conn)))
            tc_http_conn_close(conn);
        else
            tc_http_conn_sweep(conn, now);
    }
    if (!gateway->conns && !gateway->draining) uv_timer_stop(timer);
}

static void start_sweep(tc_gateway *gateway)
{
    uint64_t every = gateway->options.limits.sweep_ms;
    if (!uv_is_active((uv_handle_t *)&gateway->sweep))
        uv_timer_start(&gateway->sweep, on_sweep, every, every);
}

static void on_connection(uv_stream_t *listener, int status)
{
    tc_gateway *gateway = listener->data;
    if (status < 0) {
        tc_warn("accepting a connection: %s", uv_strerror(status));
        return;
    }
    tc_http_conn_accept(gateway, gateway->conn_count >= gateway->options.limits.connections_max);
    start_sweep(gateway);
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
    uv_tcp_getsockname(&gateway->listener.tcp, (struct sockaddr *)&bound, &bytes);
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

static tc_status start_listening(tc_gateway *gateway, const tc_address *address, tc_error *e)
{
    const char *text = gateway->options.listen;
    int error;
    if (address->is_unix) {
        TC_TRY(remove_stale_socket(address->path, e));
        error = uv_pipe_bind(&gateway->listener.pipe, address->path);
        // Whoever may open the socket may use the model: only this user, until told otherwise.
        if (!error && chmod(address->path, 0600) != 0) return tc_fail_errno(e, TC_IO, "%s", address->path);
    } else {
        error = uv_tcp_bind(&gateway->listener.tcp, (const struct sockaddr *)&address->ip,
                            address->ip.ss_family == AF_INET6 ? UV_TCP_IPV6ONLY : 0);
    }
    if (!error) error = uv_listen(&gateway->listener.stream, BACKLOG, on_connection);
    if (error) return tc_fail(e, TC_IO, "cannot listen on %s: %s", text, uv_strerror(error));
    name_address(gateway);
    return TC_OK;
}

static void on_handle_closed(uv_handle_t *handle)
{
    tc_gateway *gateway = handle->data;
    gateway->handles--;
    tc_gateway_maybe_drained(gateway);
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

tc_status tc_gateway_open(uv_loop_t *loop, const tc_gateway_options *options, tc_gateway **ret, tc_error *e)
{
    tc_address address;
    TC_TRY(tc_address_parse(options->listen, &address, e));
    if (!address.is_loopback && !options->keys)
        return tc_fail(e, TC_ARGUMENT, "%s is not a loopback address: that needs --api-key-file",
                       options->listen);
    tc_gateway *gateway = calloc(1, sizeof *gateway);
    if (!gateway) return tc_fail(e, TC_NOMEM, "gateway: out of memory");
    gateway->loop = loop;
    gateway->options = *options;
    gateway->started_at = (int64_t)time(NULL);
    gateway->is_unix = address.is_unix;
    snprintf(gateway->socket_path, sizeof gateway->socket_path, "%s", address.path);
    uv_timer_init(loop, &gateway->sweep);
    if (address.is_unix)
        uv_pipe_init(loop, &gateway->listener.pipe, 0);
    else
        uv_tcp_init(loop, &gateway->listener.tcp);
    gateway->handles = 2;
    gateway->sweep.data = gateway->listener.handle.data = gateway;
    tc_status status = start_listening(gateway, &address, e);
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

void tc_gateway_drain(tc_gateway *gateway, uint64_t drain_ms, void (*done)(void *arg), void *arg)
{
    bool again = gateway->draining;
    gateway->draining = true;
    gateway->drained = done;
    gateway->drained_arg = arg;
    gateway->drain_until_ms = again ? 0 : uv_now(gateway->loop) + drain_ms;
    if (!again) uv_close(&gateway->listener.handle, on_handle_closed);
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
    if (!uv_is_closing((uv_handle_t *)&gateway->sweep))
        uv_close((uv_handle_t *)&gateway->sweep, on_handle_closed);
    if (gateway->handles == 0 && gateway->drained) {
        void (*drained)(void *arg) = gateway->drained;
        gateway->drained = NULL;
        drained(gateway->drained_arg);
    }
}

void tc_gateway_free(tc_gateway *gateway)
{
    free(gateway);
}
