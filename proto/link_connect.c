// SPDX-License-Identifier: Apache-2.0
// Owns: a link's addresses, and connections between their coming and their trust: accepting, dialling again,
// strangers that stay silent, peers on the network that are not heard of any more.
//
// Peers on the network may vanish without a word: a cable, a host, a partition. TCP notices after minutes or,
// with nothing to send, never. So a network connection that has nothing to say sends an empty frame every
// TC_LINK_BEAT_MS, by nng's threads, whatever the program is busy with; one on which nothing came for
// TC_LINK_DEAD_MS is hung up on. This bounds, too, what nng 1.5.2's TLS streams do after an error that met no
// read under way: the next read on such a stream never ends by itself.
#include "proto/link_impl.h"

#include "common/base/clock.h"
#include "proto/expert.h"
#include <arpa/inet.h>
#include <nng/supplemental/tls/tls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SWEEP_MS = TC_LINK_BEAT_MS, DIAL_MS_MAX = 3000 };

// ---- silence ----

// True: it must be looked at again.
static bool sweep_pipe(link_pipe *pipe, uint64_t now_us)
{
    bool stranger = pipe->state == PIPE_NEW || pipe->state == PIPE_REJECTED;
    if (pipe->closed) return false;
    if (stranger && now_us >= pipe->deadline_us) {
        tc_link_hang_up(pipe, "was silent for too long");
        return false;
    }
    if (!pipe->network || stranger) return stranger;
    if (pipe->receiving && now_us - pipe->heard_us >= (uint64_t)TC_LINK_DEAD_MS * 1000u) {
        tc_link_hang_up(pipe, "was not heard of any more");
        return false;
    }
    tc_link_beat(pipe);
    return true;
}

// Runs only while there is something to watch.
static void sweep(void *arg)
{
    tc_link *link = arg;
    bool again = false;
    if (nng_aio_result(link->sweep_aio) != 0) return;
    pthread_mutex_lock(&link->mutex);
    uint64_t now_us = tc_now_us(); // behind the lock: nothing was heard of after it
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++)
        if (link->pipes[i] && sweep_pipe(link->pipes[i], now_us)) again = true;
    link->sweeping = again && !link->closing;
    if (link->sweeping) nng_sleep_aio(SWEEP_MS, link->sweep_aio);
    pthread_mutex_unlock(&link->mutex);
}

static void begin_sweeping(tc_link *link)
{
    if (link->sweeping || link->closing) return;
    link->sweeping = true;
    nng_sleep_aio(SWEEP_MS, link->sweep_aio);
}

void tc_link_set_deadline(link_pipe *pipe)
{
    pipe->deadline_us = tc_now_us() + (uint64_t)TC_LINK_SILENT_MS_MAX * 1000u;
    begin_sweeping(pipe->link);
}

// ---- a new connection ----

// Where the peer is: for people, and to know whether memory can be shared with it.
static void note_address(link_pipe *pipe)
{
    nng_sockaddr a;
    char text[INET6_ADDRSTRLEN] = "?";
    pipe->local = true;
    if (!pipe->network) return;
    pipe->local = false;
    if (nng_stream_get_addr(pipe->stream, NNG_OPT_REMADDR, &a) != 0) return;
    if (a.s_family == NNG_AF_INET) {
        inet_ntop(AF_INET, &a.s_in.sa_addr, text, sizeof text);
        snprintf(pipe->address, sizeof pipe->address, "%s:%u", text, ntohs(a.s_in.sa_port));
        pipe->local = (ntohl(a.s_in.sa_addr) >> 24) == 127;
    } else if (a.s_family == NNG_AF_INET6) {
        inet_ntop(AF_INET6, a.s_in6.sa_addr, text, sizeof text);
        snprintf(pipe->address, sizeof pipe->address, "[%s]:%u", text, ntohs(a.s_in6.sa_port));
        pipe->local = IN6_IS_ADDR_LOOPBACK((const struct in6_addr *)(const void *)a.s_in6.sa_addr);
    }
}

static link_pipe *new_pipe(link_endpoint *from, nng_stream *stream)
{
    tc_link *link = from->link;
    link_pipe *pipe = calloc(1, sizeof *pipe);
    if (!pipe) return NULL;
    pipe->link = link;
    pipe->stream = stream;
    pipe->network = from->network;
    pipe->tls = from->tls;
    if (nng_aio_alloc(&pipe->receive_aio, tc_link_receive_done, pipe) != 0 ||
        nng_aio_alloc(&pipe->send_aio, tc_link_send_done, pipe) != 0) {
        pipe->stream = NULL;
        tc_link_free_pipe(pipe);
        return NULL;
    }
    note_address(pipe);
    pipe->id = ++link->last_id;
    return pipe;
}

// Takes a stream over. False: no room, the stream is still the caller's.
static bool add_pipe(link_endpoint *from, nng_stream *stream)
{
    tc_link *link = from->link;
    uint32_t slot = 0;
    while (slot < TC_LINK_PIPES_MAX && link->pipes[slot]) slot++;
    link_pipe *pipe = slot < TC_LINK_PIPES_MAX && !link->closing ? new_pipe(from, stream) : NULL;
    if (!pipe) return false;
    link->pipes[slot] = pipe;
    if (link->kind == TC_LINK_LISTEN) {
        tc_link_set_deadline(pipe);
    } else {
        pipe->state = PIPE_SPOKE; // we dialled: whom we called may take its time
        link->last_failure = 0;
        tc_link_push(link, (tc_link_item){.kind = TC_LINK_UP, .pipe = pipe->id});
    }
    if (pipe->network) begin_sweeping(link);
    tc_link_pump_receive(pipe);
    return true;
}

// ---- accepting and dialling ----

static void connect_next(link_endpoint *endpoint)
{
    if (endpoint->link->closing) return;
    if (endpoint->listener)
        nng_stream_listener_accept(endpoint->listener, endpoint->connect_aio);
    else
        nng_stream_dialer_dial(endpoint->dialer, endpoint->connect_aio);
}

void tc_link_dial_again(tc_link *link)
{
    if (!link->closing) nng_sleep_aio((nng_duration)link->redial_ms, link->endpoints[0].retry_aio);
}

static void dialled(link_endpoint *endpoint, int rv, bool added)
{
    tc_link *link = endpoint->link;
    if (!added) {
        if (rv != 0 && rv != link->last_failure && !link->failure_waits && !link->closing) {
            link->last_failure = rv;
            link->failure_waits = true;
            tc_link_push(link, (tc_link_item){.kind = TC_LINK_FAILED, .reason = nng_strerror(rv)});
        }
        tc_link_dial_again(link);
    }
    // Doubles until somebody trusts us (tc_link_trust).
    link->redial_ms =
        link->redial_ms * 2 < TC_LINK_REDIAL_MS_MAX ? link->redial_ms * 2 : TC_LINK_REDIAL_MS_MAX;
}

static void connect_done(void *arg)
{
    link_endpoint *endpoint = arg;
    tc_link *link = endpoint->link;
    int rv = nng_aio_result(endpoint->connect_aio);
    nng_stream *stream = rv == 0 ? nng_aio_get_output(endpoint->connect_aio, 0) : NULL;

    pthread_mutex_lock(&link->mutex);
    bool added = stream && add_pipe(endpoint, stream);
    if (endpoint->dialer)
        dialled(endpoint, rv, added);
    else if (rv == 0 || rv == NNG_ECONNABORTED || rv == NNG_ECONNRESET)
        connect_next(endpoint);
    else if (!link->closing)
        nng_sleep_aio(TC_LINK_REDIAL_MS_MIN, endpoint->retry_aio); // out of descriptors or memory
    pthread_mutex_unlock(&link->mutex);
    if (stream && !added) nng_stream_free(stream);
}

static void retry_now(void *arg)
{
    link_endpoint *endpoint = arg;
    if (nng_aio_result(endpoint->retry_aio) != 0) return;
    pthread_mutex_lock(&endpoint->link->mutex);
    connect_next(endpoint);
    pthread_mutex_unlock(&endpoint->link->mutex);
}

// ---- opening and closing ----

static tc_status check_url(const char *url, const tc_tls *tls, tc_error *e)
{
    if (strnlen(url, TC_URL_BYTES_MAX) == TC_URL_BYTES_MAX)
        return tc_fail(e, TC_ARGUMENT, "address is longer than %d bytes", TC_URL_BYTES_MAX - 1);
    if (strncmp(url, "ipc://", 6) != 0 && strncmp(url, "tcp://", 6) != 0 &&
        strncmp(url, "tls+tcp://", 10) != 0)
        return tc_fail(e, TC_ARGUMENT, "%s: address must begin with ipc://, tls+tcp:// or tcp://", url);
    return tc_tls_check_url(url, tls, e);
}

static int make_listener(link_endpoint *p, const char *url, nng_tls_config **ret)
{
    int rv = nng_stream_listener_alloc(&p->listener, url);
    if (rv == 0 && p->network) rv = nng_stream_listener_set_bool(p->listener, NNG_OPT_TCP_NODELAY, true);
    if (rv == 0 && p->network) rv = nng_stream_listener_set_bool(p->listener, NNG_OPT_TCP_KEEPALIVE, true);
    if (rv == 0 && p->tls) rv = nng_stream_listener_get_ptr(p->listener, NNG_OPT_TLS_CONFIG, (void **)ret);
    return rv;
}

static int make_dialer(link_endpoint *p, const char *url, nng_tls_config **ret)
{
    int rv = nng_stream_dialer_alloc(&p->dialer, url);
    if (rv == 0 && p->network) rv = nng_stream_dialer_set_bool(p->dialer, NNG_OPT_TCP_NODELAY, true);
    if (rv == 0 && p->network) rv = nng_stream_dialer_set_bool(p->dialer, NNG_OPT_TCP_KEEPALIVE, true);
    if (rv == 0 && p->tls) rv = nng_stream_dialer_get_ptr(p->dialer, NNG_OPT_TLS_CONFIG, (void **)ret);
    return rv;
}

// The configuration that nng made with the endpoint is filled: a dialler's has the host's name already.
static tc_status open_endpoint(link_endpoint *p, const char *url, const tc_tls *tls, tc_error *e)
{
    nng_tls_config *config = NULL;
    bool listens = p->link->kind == TC_LINK_LISTEN;
    p->tls = strncmp(url, "tls+tcp://", 10) == 0;
    p->network = p->tls || strncmp(url, "tcp://", 6) == 0;
    int rv = nng_aio_alloc(&p->connect_aio, connect_done, p);
    if (rv == 0) rv = nng_aio_alloc(&p->retry_aio, retry_now, p);
    if (rv == 0 && p->tls) rv = tc_tls_engine();
    if (rv == 0) rv = listens ? make_listener(p, url, &config) : make_dialer(p, url, &config);
    if (rv == 0 && config) {
        tc_status status = tc_tls_configure(config, tls, listens, e);
        nng_tls_config_free(config);
        if (status != TC_OK) return status;
    }
    if (rv == 0 && !listens && p->network) nng_aio_set_timeout(p->connect_aio, DIAL_MS_MAX);
    if (rv == 0 && listens) rv = nng_stream_listener_listen(p->listener);
    return rv == 0 ? TC_OK : tc_fail(e, TC_IO, "%s: %s", url, nng_strerror(rv));
}

static void free_endpoint(link_endpoint *p)
{
    nng_stream_listener_free(p->listener);
    nng_stream_dialer_free(p->dialer);
    tc_link_free_aio(p->connect_aio);
    tc_link_free_aio(p->retry_aio);
}

tc_status tc_link_listen(tc_link *link, const char *url, const tc_tls *tls, tc_error *e)
{
    TC_TRY(check_url(url, tls, e));
    if (link->endpoint_count == TC_LINK_ADDRESSES_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %d addresses", url, TC_LINK_ADDRESSES_MAX);
    link_endpoint *p = &link->endpoints[link->endpoint_count];
    *p = (link_endpoint){.link = link};
    tc_status status = open_endpoint(p, url, tls, e);
    if (status != TC_OK) {
        free_endpoint(p);
        return status;
    }
    pthread_mutex_lock(&link->mutex);
    link->endpoint_count++;
    connect_next(p);
    pthread_mutex_unlock(&link->mutex);
    return TC_OK;
}

tc_status tc_link_start(tc_link *link, tc_error *e)
{
    int rv = nng_aio_alloc(&link->sweep_aio, sweep, link);
    return rv == 0 ? TC_OK : tc_fail(e, TC_NOMEM, "link: %s", nng_strerror(rv));
}

void tc_link_free_aio(nng_aio *aio)
{
    if (!aio) return;
    nng_aio_stop(aio); // waits for a callback that is just returning
    nng_aio_free(aio);
}

void tc_link_stop_connecting(tc_link *link)
{
    for (uint32_t i = 0; i < link->endpoint_count; i++) {
        link_endpoint *p = &link->endpoints[i];
        if (p->listener) nng_stream_listener_close(p->listener);
        if (p->dialer) nng_stream_dialer_close(p->dialer);
        nng_aio_stop(p->connect_aio);
        nng_aio_stop(p->retry_aio);
    }
    tc_link_free_aio(link->sweep_aio);
    link->sweep_aio = NULL;
}

void tc_link_free_endpoints(tc_link *link)
{
    for (uint32_t i = 0; i < link->endpoint_count; i++) free_endpoint(&link->endpoints[i]);
}
