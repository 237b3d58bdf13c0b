// SPDX-License-Identifier: Apache-2.0
// Owns: the client's connections, one epoll for all of them, and the reading of event streams.
#include "cli/suite_client.h"
#include "common/base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 16384, HEAD_BYTES = 512, EVENTS_AT_ONCE = 64, LONGEST_WAIT_US = 50000 };

typedef struct stream {
    int fd; // -1: not open
    double last_s;
    char head[HEAD_BYTES]; // the first bytes: status line
    uint32_t head_bytes;
    uint8_t matched; // of what begins an event with text
    uint8_t ended;   // of what ends the stream
} stream;

typedef struct client {
    tc_client_load *load;
    stream *streams;
    int epoll;
    uint32_t started, open;
    uint64_t begin_us;
} client;

static double now_s(const client *c)
{
    return (double)(tc_now_us() - c->begin_us) * 1e-6;
}

tc_status tc_client_free_port(uint16_t *ret, tc_error *e)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && bind(fd, (struct sockaddr *)&in, sizeof in) == 0 &&
                getsockname(fd, (struct sockaddr *)&in, &bytes) == 0;
    tc_status status = good ? TC_OK : tc_fail_errno(e, TC_IO, "127.0.0.1: a free port");
    if (fd >= 0) close(fd);
    *ret = ntohs(in.sin_port);
    return status;
}

// Connecting to this host succeeds or fails at once, and a request fits the socket's buffer.
static int dial(uint16_t port, const char *body)
{
    char text[TC_CLIENT_BODY_BYTES + 256];
    struct sockaddr_in in = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    int n = snprintf(text, sizeof text,
                     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     strlen(body), body);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&in, sizeof in) == 0 && send(fd, text, (size_t)n, MSG_NOSIGNAL) == n)
        return fd;
    close(fd);
    return -1;
}

static void start(client *c)
{
    char body[TC_CLIENT_BODY_BYTES];
    uint32_t i = c->started++;
    stream *s = &c->streams[i];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    if (c->load->at_once) c->load->requests[i].due_s = now_s(c);
    c->load->body(c->load->arg, i, body);
    s->fd = dial(c->load->port, body);
    if (s->fd < 0) return; // counted as never answered
    epoll_ctl(c->epoll, EPOLL_CTL_ADD, s->fd, &event);
    c->open++;
}

static void finish(client *c, uint32_t i)
{
    stream *s = &c->streams[i];
    close(s->fd);
    s->fd = -1;
    c->open--;
}

static void on_text(client *c, uint32_t i, double at_s)
{
    tc_client_request *r = &c->load->requests[i];
    stream *s = &c->streams[i];
    if (!r->events++) {
        r->first_s = at_s - r->due_s;
    } else if (c->load->gaps < c->load->gaps_max) {
        c->load->gap_of[c->load->gaps] = i;
        c->load->gaps_s[c->load->gaps++] = at_s - s->last_s;
    }
    s->last_s = at_s;
}

// Moves `at` along `pattern`; true when all of it was seen.
static bool match(uint8_t *at, const char *pattern, char byte)
{
    *at = byte == pattern[*at] ? (uint8_t)(*at + 1) : byte == pattern[0];
    if (pattern[*at]) return false;
    *at = 0;
    return true;
}

// Events are told by how they begin; an event without text has "" behind this.
static void take_bytes(client *c, uint32_t i, const char *data, size_t bytes)
{
    static const char text[] = "\"text\":\"", done[] = "data: [DONE]";
    tc_client_request *r = &c->load->requests[i];
    stream *s = &c->streams[i];
    double at_s = now_s(c);
    for (size_t k = 0; k < bytes; k++) {
        if (s->head_bytes + 1 < HEAD_BYTES) s->head[s->head_bytes++] = data[k];
        if (s->matched == sizeof text - 1) { // the byte behind
            if (data[k] != '"') on_text(c, i, at_s);
            s->matched = 0;
        } else {
            s->matched = data[k] == text[s->matched] ? (uint8_t)(s->matched + 1) : data[k] == text[0];
        }
        if (match(&s->ended, done, data[k])) {
            r->done = true;
            r->end_s = at_s - r->due_s;
        }
    }
    if (!r->code) (void)sscanf(s->head, "HTTP/1.%*d %d", &r->code);
}

static void receive(client *c)
{
    char buffer[READ_BYTES];
    struct epoll_event ready[EVENTS_AT_ONCE];
    int n = epoll_wait(c->epoll, ready, EVENTS_AT_ONCE, 0);
    for (int k = 0; k < n; k++) {
        uint32_t i = ready[k].data.u32;
        ssize_t bytes = recv(c->streams[i].fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (bytes > 0) take_bytes(c, i, buffer, (size_t)bytes);
        bool over = bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != EINTR);
        if (over || c->load->requests[i].done) finish(c, i);
    }
}

// Starts what is due; returns how long nothing is.
static uint64_t start_due(client *c, double at_s)
{
    const tc_client_load *l = c->load;
    if (l->at_once) {
        while (at_s < l->seconds && c->open < l->at_once && c->started < l->count) {
            uint32_t before = c->open;
            start(c);
            if (c->open == before) break; // nobody listens: no endless loop
        }
        return LONGEST_WAIT_US;
    }
    while (c->started < l->count && l->requests[c->started].due_s <= at_s) start(c);
    if (c->started == l->count) return LONGEST_WAIT_US;
    double wait_us = (l->requests[c->started].due_s - at_s) * 1e6;
    return wait_us < LONGEST_WAIT_US ? (uint64_t)(wait_us > 0 ? wait_us : 0) : LONGEST_WAIT_US;
}

static tc_status drive(client *c, tc_supervisor *supervisor, tc_error *e)
{
    const tc_client_load *l = c->load;
    double last_s = l->at_once ? l->seconds : l->count ? l->requests[l->count - 1].due_s : 0;
    for (;;) {
        double at_s = now_s(c);
        uint64_t wait_us = start_due(c, at_s);
        bool all = l->at_once ? at_s >= l->seconds || c->started == l->count : c->started == l->count;
        if ((all && !c->open) || at_s > last_s + l->patience_s) return TC_OK;
        if (l->step && !l->step(l->arg, last_s > 0 ? at_s / last_s : 1))
            return tc_fail(e, TC_CANCELLED, "interrupted");
        tc_status status = tc_supervisor_wait(supervisor, c->epoll, wait_us, e);
        if (status != TC_OK && status != TC_TIMEOUT) return status;
        receive(c);
    }
}

static void raise_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

tc_status tc_client_run(tc_supervisor *supervisor, tc_client_load *load, uint32_t *ret_started,
                        double *ret_seconds, tc_error *e)
{
    client c = {.load = load, .epoll = -1};
    tc_status status = TC_OK;
    if (load->count > TC_CLIENT_REQUESTS_MAX)
        return tc_fail(e, TC_LIMIT, "%u requests, at most %d", load->count, TC_CLIENT_REQUESTS_MAX);
    raise_files();
    c.streams = calloc(load->count + 1, sizeof *c.streams);
    if (!c.streams) TC_GOTO(tc_fail(e, TC_NOMEM, "out of memory"));
    for (uint32_t i = 0; i < load->count; i++) c.streams[i].fd = -1;
    c.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (c.epoll < 0) TC_GOTO(tc_fail_errno(e, TC_IO, "epoll"));
    c.begin_us = tc_now_us();
    TC_GOTO(drive(&c, supervisor, e));
    *ret_started = c.started;
    *ret_seconds = now_s(&c);
out:
    for (uint32_t i = 0; c.streams && i < load->count; i++)
        if (c.streams[i].fd >= 0) close(c.streams[i].fd);
    if (c.epoll >= 0) close(c.epoll);
    free(c.streams);
    return status;
}
