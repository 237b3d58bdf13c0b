// SPDX-License-Identifier: Apache-2.0
// Owns: see link.h.
//
// Why streams. The pair sockets of nng 1.5.2, which is what Debian 12 has, do not survive peers that come and
// go: a peer that hangs up before the handshake ends the listener for good (EPIPE is reported as "closed");
// closing a pipe while bytes of a message arrive can leave nng's reaper waiting for ever; a message sent to a
// closing pipe is leaked. Below them, nng's byte streams (same transports, same threads) have none of this,
// need fewer thread hops a message, and drop nothing when a peer is slow. So only the framing is ours.
//
// Locking. `mutex` guards everything below it. It is held while streams are read, written and closed: nng
// never runs a callback from inside those calls, it queues it. So nothing is ever started on a stream that is
// closed, and every operation that was started gets its callback. A pipe is freed by the calling thread when
// it is closed, its DOWN was read and none of its operations is under way.
#include "proto/link.h"

#include "common/base/clock.h"
#include "proto/expert.h"
#include "proto/link_message.h"
#include <errno.h>
#include <nng/nng.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    IN_ITEMS = TC_LINK_IN_MESSAGES_MAX +
               3 * TC_LINK_PIPES_MAX, // a pipe adds at most an UP, a DOWN and the message under way
    STAGING_BYTES = 32 << 10,         // whole messages up to this size take one read
    SWEEP_MS = TC_LINK_SILENT_MS_MAX / 4,
};

typedef enum pipe_state { PIPE_NEW, PIPE_SPOKE, PIPE_TRUSTED, PIPE_REJECTED, PIPE_CUT, PIPE_GONE } pipe_state;

typedef struct link_pipe {
    tc_link *link;
    uint32_t id;
    pipe_state state;
    bool closed, told_down; // stream closed; DOWN was read by the owner
    bool receiving, sending;
    uint64_t deadline_us; // NEW and REJECTED
    const char *reason;
    nng_stream *stream;
    nng_aio *receive_aio, *send_aio;
    tc_link_message *partial; // being received
    tc_link_message *out_first, *out_last;
    uint32_t out_count;
    size_t out_bytes;
    uint32_t staged; // bytes read and not yet looked at
    uint8_t staging[STAGING_BYTES];
} link_pipe;

struct tc_link {
    tc_link_kind kind;
    nng_stream_listener *listener;
    nng_stream_dialer *dialer;
    nng_aio *connect_aio, *retry_aio, *sweep_aio; // accept or dial; pause before the next one; silent pipes
    int event_fd;
    _Atomic bool woken;
    _Atomic(tc_link_arrival *) arrival; // written after its argument
    void *arrival_arg;

    pthread_mutex_t mutex;
    pthread_cond_t out_room;
    bool closing, sweeping;
    uint32_t last_id, redial_ms;
    link_pipe *pipes[TC_LINK_PIPES_MAX];
    tc_link_item in[IN_ITEMS];
    _Atomic uint32_t in_count; // read without the mutex too
    uint32_t in_head, in_messages;
    size_t in_bytes;
};

static void signal_event(tc_link *link)
{
    uint64_t one = 1;
    ssize_t ignored = write(link->event_fd, &one, sizeof one);
    (void)ignored;
    tc_link_arrival *arrival = atomic_load(&link->arrival);
    if (arrival) arrival(link->arrival_arg);
}

static link_pipe *find_pipe(tc_link *link, uint32_t id)
{
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++)
        if (link->pipes[i] && link->pipes[i]->id == id) return link->pipes[i];
    return NULL;
}

static bool alive(const link_pipe *pipe)
{
    return pipe && pipe->state <= PIPE_REJECTED;
}

static void push_in(tc_link *link, tc_link_item item)
{
    link->in[(link->in_head + link->in_count++) % IN_ITEMS] = item;
    if (item.message) {
        link->in_messages++;
        link->in_bytes += item.message->frame_bytes;
    }
    signal_event(link);
}

// ---- the end of a pipe ----
static void pause_then_dial(tc_link *link)
{
    if (!link->closing) nng_sleep_aio((nng_duration)link->redial_ms, link->retry_aio);
}

// Closes the stream, once, and reports it. Operations under way get their callbacks.
static void hang_up(link_pipe *pipe, const char *reason)
{
    tc_link *link = pipe->link;
    if (pipe->closed) return;
    pipe->closed = true;
    if (!pipe->reason) pipe->reason = reason;
    pipe->state = pipe->state == PIPE_CUT ? PIPE_CUT : PIPE_GONE;
    nng_stream_close(pipe->stream);
    push_in(link, (tc_link_item){.kind = TC_LINK_DOWN, .pipe = pipe->id, .reason = pipe->reason});
    pthread_cond_broadcast(&link->out_room);
    if (link->kind == TC_LINK_DIAL) pause_then_dial(link);
}

static void free_aio(nng_aio *aio)
{
    if (!aio) return;
    nng_aio_stop(aio); // waits for a callback that is just returning
    nng_aio_free(aio);
}

static void free_pipe(link_pipe *pipe)
{
    if (!pipe) return;
    free_aio(pipe->receive_aio);
    free_aio(pipe->send_aio);
    nng_stream_free(pipe->stream);
    tc_link_message_free(pipe->partial);
    while (pipe->out_first) {
        tc_link_message *message = pipe->out_first;
        pipe->out_first = message->next;
        tc_link_message_free(message);
    }
    free(pipe);
}

// Takes out the pipes whose time is over; the caller frees them without the mutex.
static uint32_t take_dead(tc_link *link, link_pipe *ret[TC_LINK_PIPES_MAX])
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++) {
        link_pipe *pipe = link->pipes[i];
        if (!pipe || !pipe->closed || !pipe->told_down || pipe->receiving || pipe->sending) continue;
        ret[count++] = pipe;
        link->pipes[i] = NULL;
    }
    return count;
}

// ---- receiving ----
static bool in_room(const tc_link *link)
{
    return link->in_messages < TC_LINK_IN_MESSAGES_MAX && link->in_bytes < TC_LINK_IN_BYTES_MAX;
}

static void deliver(link_pipe *pipe, tc_link_message *message)
{
    if (pipe->state == PIPE_NEW) pipe->state = PIPE_SPOKE;
    if (pipe->state == PIPE_REJECTED)
        tc_link_message_free(message); // it has had its answer
    else
        push_in(pipe->link, (tc_link_item){.kind = TC_LINK_MESSAGE, .pipe = pipe->id, .message = message});
}

// Looks at a prefix and makes the message it announces. NULL: the pipe was hung up on.
static tc_link_message *begin_message(link_pipe *pipe, const uint8_t *at)
{
    uint32_t prefix[TC_LINK_PREFIX_BYTES / 4];
    uint32_t most = pipe->state == PIPE_TRUSTED ? (uint32_t)TC_WIRE_MESSAGE_BYTES_MAX
                                                : (uint32_t)TC_LINK_STRANGER_BYTES_MAX;
    tc_link_message *message = NULL;
    memcpy(prefix, at, sizeof prefix);
    if (prefix[0] != TC_LINK_MAGIC)
        hang_up(pipe, "sent something that is not a message");
    else if (prefix[1] > most)
        hang_up(pipe, "sent a message above the size limit");
    else if (!(message = tc_link_message_alloc(prefix[1])))
        hang_up(pipe, "out of memory for its message");
    return message;
}

// Turns staged bytes into messages while there is room for them. False when a whole one had to stay for want
// of room.
static bool unstage(link_pipe *pipe)
{
    uint32_t at = 0;
    bool room = true;
    while (!pipe->closed && !pipe->partial && pipe->staged - at >= TC_LINK_PREFIX_BYTES) {
        room = in_room(pipe->link);
        if (!room) break;
        tc_link_message *message = begin_message(pipe, pipe->staging + at);
        if (!message) break;
        at += TC_LINK_PREFIX_BYTES;
        size_t n = pipe->staged - at < message->frame_bytes ? pipe->staged - at : message->frame_bytes;
        memcpy(tc_link_message_frame(message), pipe->staging + at, n);
        message->done = n;
        at += (uint32_t)n;
        if (n == message->frame_bytes)
            deliver(pipe, message);
        else
            pipe->partial = message;
    }
    pipe->staged -= at;
    memmove(pipe->staging, pipe->staging + at, pipe->staged);
    return room;
}

// Posts the next read: into the message under way, or into the staging area.
static void pump_receive(link_pipe *pipe)
{
    if (pipe->closed || pipe->receiving || pipe->link->closing || !unstage(pipe) || pipe->closed) return;
    nng_iov iov = {.iov_buf = pipe->staging + pipe->staged, .iov_len = STAGING_BYTES - pipe->staged};
    if (pipe->partial) {
        iov.iov_buf = tc_link_message_frame(pipe->partial) + pipe->partial->done;
        iov.iov_len = pipe->partial->frame_bytes - pipe->partial->done;
    }
    pipe->receiving = true;
    nng_aio_set_iov(pipe->receive_aio, 1, &iov);
    nng_stream_recv(pipe->stream, pipe->receive_aio);
}

static void receive_done(void *arg)
{
    link_pipe *pipe = arg;
    tc_link *link = pipe->link;
    int rv = nng_aio_result(pipe->receive_aio);
    size_t n = nng_aio_count(pipe->receive_aio);

    pthread_mutex_lock(&link->mutex);
    pipe->receiving = false;
    if (rv != 0) {
        hang_up(pipe, "connection closed");
    } else if (pipe->partial) {
        pipe->partial->done += n;
        if (pipe->partial->done == pipe->partial->frame_bytes) {
            tc_link_message *message = pipe->partial;
            pipe->partial = NULL;
            deliver(pipe, message);
        }
    } else {
        pipe->staged += (uint32_t)n;
    }
    pump_receive(pipe);
    pthread_mutex_unlock(&link->mutex);
}

// ---- sending ----
static void pump_send(link_pipe *pipe)
{
    tc_link_message *message = pipe->out_first;
    if (pipe->closed || pipe->sending || pipe->link->closing || !message) return;
    nng_iov iov = {.iov_buf = message->prefix + message->done,
                   .iov_len = TC_LINK_PREFIX_BYTES + message->frame_bytes - message->done};
    pipe->sending = true;
    nng_aio_set_iov(pipe->send_aio, 1, &iov);
    nng_stream_send(pipe->stream, pipe->send_aio);
}

static void send_done(void *arg)
{
    link_pipe *pipe = arg;
    tc_link *link = pipe->link;
    int rv = nng_aio_result(pipe->send_aio);
    size_t n = nng_aio_count(pipe->send_aio);
    tc_link_message *sent = NULL;

    pthread_mutex_lock(&link->mutex);
    pipe->sending = false;
    tc_link_message *message = pipe->out_first;
    if (rv != 0) {
        // What the peer said before it hung up is still to be read: the read that is under way reports the
        // end. Without one (in queue full) this is the only place to notice it.
        if (!pipe->receiving) hang_up(pipe, "connection closed");
    } else if ((message->done += n) == TC_LINK_PREFIX_BYTES + message->frame_bytes) {
        sent = message;
        pipe->out_first = message->next;
        pipe->out_count--;
        pipe->out_bytes -= message->frame_bytes;
        pthread_cond_broadcast(&link->out_room);
    }
    if (rv == 0) pump_send(pipe);
    pthread_mutex_unlock(&link->mutex);
    tc_link_message_free(sent);
}

// ---- connections ----
// Cuts pipes that were silent, or rejected, for too long. Runs only while there are such.
static void sweep(void *arg)
{
    tc_link *link = arg;
    bool again = false;
    uint64_t now_us = tc_now_us();
    if (nng_aio_result(link->sweep_aio) != 0) return;
    pthread_mutex_lock(&link->mutex);
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++) {
        link_pipe *pipe = link->pipes[i];
        if (!pipe || (pipe->state != PIPE_NEW && pipe->state != PIPE_REJECTED)) continue;
        if (now_us >= pipe->deadline_us)
            hang_up(pipe, "was silent for too long");
        else
            again = true;
    }
    link->sweeping = again && !link->closing;
    if (link->sweeping) nng_sleep_aio(SWEEP_MS, link->sweep_aio);
    pthread_mutex_unlock(&link->mutex);
}

static void set_deadline(link_pipe *pipe)
{
    tc_link *link = pipe->link;
    pipe->deadline_us = tc_now_us() + (uint64_t)TC_LINK_SILENT_MS_MAX * 1000u;
    if (link->sweeping || link->closing) return;
    link->sweeping = true;
    nng_sleep_aio(SWEEP_MS, link->sweep_aio);
}

static link_pipe *new_pipe(tc_link *link, nng_stream *stream)
{
    link_pipe *pipe = calloc(1, sizeof *pipe);
    if (!pipe) return NULL;
    pipe->link = link;
    pipe->stream = stream;
    if (nng_aio_alloc(&pipe->receive_aio, receive_done, pipe) != 0 ||
        nng_aio_alloc(&pipe->send_aio, send_done, pipe) != 0) {
        pipe->stream = NULL;
        free_pipe(pipe);
        return NULL;
    }
    pipe->id = ++link->last_id;
    return pipe;
}

// Takes a stream over. False: no room, the stream is still the caller's.
static bool add_pipe(tc_link *link, nng_stream *stream)
{
    uint32_t slot = 0;
    while (slot < TC_LINK_PIPES_MAX && link->pipes[slot]) slot++;
    link_pipe *pipe = slot < TC_LINK_PIPES_MAX && !link->closing ? new_pipe(link, stream) : NULL;
    if (!pipe) return false;
    link->pipes[slot] = pipe;
    if (link->kind == TC_LINK_LISTEN) {
        set_deadline(pipe);
    } else {
        pipe->state = PIPE_SPOKE; // we dialled: whom we called may take its time
        push_in(link, (tc_link_item){.kind = TC_LINK_UP, .pipe = pipe->id});
    }
    pump_receive(pipe);
    return true;
}

static void connect_next(tc_link *link)
{
    if (link->closing) return;
    if (link->kind == TC_LINK_LISTEN)
        nng_stream_listener_accept(link->listener, link->connect_aio);
    else
        nng_stream_dialer_dial(link->dialer, link->connect_aio);
}

static void connect_done(void *arg)
{
    tc_link *link = arg;
    int rv = nng_aio_result(link->connect_aio);
    nng_stream *stream = rv == 0 ? nng_aio_get_output(link->connect_aio, 0) : NULL;

    pthread_mutex_lock(&link->mutex);
    bool added = stream && add_pipe(link, stream);
    if (link->kind == TC_LINK_DIAL) {
        // Doubles until somebody trusts us (tc_link_trust).
        if (!added) pause_then_dial(link);
        link->redial_ms =
            link->redial_ms * 2 < TC_LINK_REDIAL_MS_MAX ? link->redial_ms * 2 : TC_LINK_REDIAL_MS_MAX;
    } else if (rv == 0 || rv == NNG_ECONNABORTED || rv == NNG_ECONNRESET) {
        connect_next(link);
    } else if (!link->closing) {
        nng_sleep_aio(TC_LINK_REDIAL_MS_MIN, link->retry_aio); // out of descriptors or memory
    }
    pthread_mutex_unlock(&link->mutex);
    if (stream && !added) nng_stream_free(stream);
}

static void retry_now(void *arg)
{
    tc_link *link = arg;
    if (nng_aio_result(link->retry_aio) != 0) return;
    pthread_mutex_lock(&link->mutex);
    connect_next(link);
    pthread_mutex_unlock(&link->mutex);
}

// ---- opening and closing ----
static tc_status check_url(const char *url, tc_error *e)
{
    if (strnlen(url, TC_URL_BYTES_MAX) == TC_URL_BYTES_MAX)
        return tc_fail(e, TC_ARGUMENT, "address is longer than %d bytes", TC_URL_BYTES_MAX - 1);
    if (strncmp(url, "ipc://", 6) != 0 && strncmp(url, "tcp://", 6) != 0)
        return tc_fail(e, TC_ARGUMENT, "%s: address must begin with ipc:// or tcp://", url);
    return TC_OK;
}

static int start(tc_link *link, const char *url)
{
    bool tcp = strncmp(url, "tcp://", 6) == 0;
    int rv = nng_aio_alloc(&link->connect_aio, connect_done, link);
    if (rv == 0) rv = nng_aio_alloc(&link->retry_aio, retry_now, link);
    if (rv == 0) rv = nng_aio_alloc(&link->sweep_aio, sweep, link);
    if (rv != 0) return rv;
    if (link->kind == TC_LINK_LISTEN) {
        rv = nng_stream_listener_alloc(&link->listener, url);
        if (rv == 0 && tcp) rv = nng_stream_listener_set_bool(link->listener, NNG_OPT_TCP_NODELAY, true);
        if (rv == 0 && tcp) rv = nng_stream_listener_set_bool(link->listener, NNG_OPT_TCP_KEEPALIVE, true);
        if (rv == 0) rv = nng_stream_listener_listen(link->listener);
    } else {
        rv = nng_stream_dialer_alloc(&link->dialer, url);
        if (rv == 0 && tcp) rv = nng_stream_dialer_set_bool(link->dialer, NNG_OPT_TCP_NODELAY, true);
        if (rv == 0 && tcp) rv = nng_stream_dialer_set_bool(link->dialer, NNG_OPT_TCP_KEEPALIVE, true);
    }
    if (rv != 0) return rv;
    pthread_mutex_lock(&link->mutex);
    connect_next(link);
    pthread_mutex_unlock(&link->mutex);
    return 0;
}

tc_status tc_link_open(tc_link_kind kind, const char *url, tc_link **ret, tc_error *e)
{
    TC_TRY(check_url(url, e));
    tc_link *link = calloc(1, sizeof *link);
    if (!link) return tc_fail(e, TC_NOMEM, "%s: out of memory", url);
    pthread_condattr_t attributes;
    link->kind = kind;
    link->redial_ms = TC_LINK_REDIAL_MS_MIN;
    pthread_mutex_init(&link->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&link->out_room, &attributes);
    pthread_condattr_destroy(&attributes);

    tc_status status = TC_OK;
    link->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (link->event_fd < 0) {
        status = tc_fail_errno(e, TC_IO, "eventfd");
    } else {
        int rv = start(link, url);
        if (rv != 0) status = tc_fail(e, TC_IO, "%s: %s", url, nng_strerror(rv));
    }
    if (status != TC_OK) {
        tc_link_close(link);
        return status;
    }
    *ret = link;
    return TC_OK;
}

void tc_link_close(tc_link *link)
{
    if (!link) return;
    pthread_mutex_lock(&link->mutex);
    link->closing = true;
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++)
        if (link->pipes[i]) nng_stream_close(link->pipes[i]->stream);
    pthread_mutex_unlock(&link->mutex);
    if (link->listener) nng_stream_listener_close(link->listener);
    if (link->dialer) nng_stream_dialer_close(link->dialer);
    free_aio(link->connect_aio);
    free_aio(link->retry_aio);
    free_aio(link->sweep_aio);
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++) free_pipe(link->pipes[i]);
    nng_stream_listener_free(link->listener);
    nng_stream_dialer_free(link->dialer);
    for (uint32_t i = 0; i < link->in_count; i++)
        tc_link_message_free(link->in[(link->in_head + i) % IN_ITEMS].message);
    if (link->event_fd >= 0) close(link->event_fd);
    pthread_cond_destroy(&link->out_room);
    pthread_mutex_destroy(&link->mutex);
    free(link);
}

int tc_link_fd(const tc_link *link)
{
    return link->event_fd;
}

void tc_link_wake(tc_link *link)
{
    int saved = errno;
    atomic_store(&link->woken, true);
    signal_event(link);
    errno = saved;
}

bool tc_link_ready(const tc_link *link)
{
    return atomic_load(&link->in_count) > 0 || atomic_load(&link->woken);
}

void tc_link_set_arrival(tc_link *link, tc_link_arrival *arrival, void *arg)
{
    link->arrival_arg = arg;
    atomic_store(&link->arrival, arrival);
}

// ---- the calling thread ----
// Pops the next item worth showing. Messages of a pipe that was cut are dropped here.
static bool pop_in(tc_link *link, tc_link_item *ret)
{
    while (link->in_count > 0) {
        tc_link_item item = link->in[link->in_head];
        link_pipe *pipe = find_pipe(link, item.pipe);
        link->in_head = (link->in_head + 1) % IN_ITEMS;
        link->in_count--;
        if (item.message) {
            link->in_messages--;
            link->in_bytes -= item.message->frame_bytes;
        }
        if (item.kind == TC_LINK_DOWN) pipe->told_down = true;
        if (item.kind == TC_LINK_MESSAGE && pipe->state == PIPE_CUT) {
            tc_link_message_free(item.message);
            continue;
        }
        *ret = item;
        return true;
    }
    return false;
}

// Until the event fd is readable or the deadline has passed.
static void wait_event(tc_link *link, uint64_t deadline_us)
{
    struct pollfd fd = {.fd = link->event_fd, .events = POLLIN};
    uint64_t now_us = tc_now_us(), left_us = deadline_us > now_us ? deadline_us - now_us : 0;
    struct timespec ts = {.tv_sec = (time_t)(left_us / 1000000u),
                          .tv_nsec = (long)(left_us % 1000000u) * 1000};
    ppoll(&fd, 1, deadline_us == UINT64_MAX ? NULL : &ts, NULL);
}

uint64_t tc_link_deadline(uint64_t timeout_us)
{
    uint64_t now_us = tc_now_us();
    return timeout_us > UINT64_MAX - now_us ? UINT64_MAX : now_us + timeout_us;
}

// One look at the queue, with the chores that go with it.
static bool look(tc_link *link, tc_link_item *ret)
{
    link_pipe *dead[TC_LINK_PIPES_MAX];
    uint64_t ignored;
    pthread_mutex_lock(&link->mutex);
    bool was_full = !in_room(link), found = pop_in(link, ret);
    for (uint32_t i = 0; was_full && in_room(link) && i < TC_LINK_PIPES_MAX; i++)
        if (link->pipes[i]) pump_receive(link->pipes[i]);
    if (!found) found = pop_in(link, ret);
    // Emptied only with an empty queue and under the lock, so that no signal is lost.
    if (!found && read(link->event_fd, &ignored, sizeof ignored) < 0) ignored = 0;
    uint32_t dead_count = found ? 0 : take_dead(link, dead);
    pthread_mutex_unlock(&link->mutex);
    for (uint32_t i = 0; i < dead_count; i++) free_pipe(dead[i]);
    return found;
}

tc_status tc_link_next(tc_link *link, uint64_t deadline_us, tc_link_item *ret)
{
    for (;;) {
        if (atomic_exchange(&link->woken, false)) return TC_CANCELLED;
        if (look(link, ret)) return TC_OK;
        if (atomic_load(&link->woken)) continue;
        if (tc_now_us() >= deadline_us) return TC_TIMEOUT;
        wait_event(link, deadline_us);
    }
}

void tc_link_trust(tc_link *link, uint32_t id)
{
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (alive(pipe)) pipe->state = PIPE_TRUSTED;
    link->redial_ms = TC_LINK_REDIAL_MS_MIN;
    pthread_mutex_unlock(&link->mutex);
}

void tc_link_reject(tc_link *link, uint32_t id)
{
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (alive(pipe)) {
        pipe->state = PIPE_REJECTED;
        set_deadline(pipe);
    }
    pthread_mutex_unlock(&link->mutex);
}

void tc_link_cut(tc_link *link, uint32_t id)
{
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (pipe) {
        pipe->state = PIPE_CUT;
        hang_up(pipe, "was cut off");
    }
    pthread_mutex_unlock(&link->mutex);
}

// True when there is room before the deadline. The mutex is held before and after, but not throughout.
static bool wait_room(tc_link *link, uint32_t id, size_t bytes, uint64_t wait_us)
{
    uint64_t deadline_us = tc_link_deadline(wait_us);
    struct timespec until = {.tv_sec = (time_t)(deadline_us / 1000000u),
                             .tv_nsec = (long)(deadline_us % 1000000u) * 1000};
    for (;;) {
        const link_pipe *pipe = find_pipe(link, id);
        if (!alive(pipe)) return false;
        if (pipe->out_count < TC_LINK_OUT_MESSAGES_MAX &&
            (pipe->out_bytes == 0 || pipe->out_bytes + bytes <= TC_LINK_OUT_BYTES_MAX))
            return true;
        if (wait_us == 0 || pthread_cond_timedwait(&link->out_room, &link->mutex, &until) == ETIMEDOUT)
            return false;
    }
}

tc_status tc_link_send(tc_link *link, uint32_t id, tc_link_message *message, uint64_t wait_us)
{
    tc_status status = TC_OK;
    pthread_mutex_lock(&link->mutex);
    bool room = wait_room(link, id, message->frame_bytes, wait_us);
    link_pipe *pipe = find_pipe(link, id);
    if (!alive(pipe)) {
        status = TC_CLOSED;
    } else if (!room) {
        status = TC_BUSY;
    } else {
        tc_link_message_seal(message);
        message->next = NULL;
        message->done = 0;
        if (pipe->out_first)
            pipe->out_last->next = message;
        else
            pipe->out_first = message;
        pipe->out_last = message;
        pipe->out_count++;
        pipe->out_bytes += message->frame_bytes;
        pump_send(pipe);
    }
    pthread_mutex_unlock(&link->mutex);
    return status;
}

static bool all_sent(const tc_link *link)
{
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++)
        if (alive(link->pipes[i]) && link->pipes[i]->out_first) return false;
    return true;
}

void tc_link_drain(tc_link *link, uint64_t wait_us)
{
    uint64_t deadline_us = tc_link_deadline(wait_us);
    struct timespec until = {.tv_sec = (time_t)(deadline_us / 1000000u),
                             .tv_nsec = (long)(deadline_us % 1000000u) * 1000};
    pthread_mutex_lock(&link->mutex);
    while (!all_sent(link))
        if (pthread_cond_timedwait(&link->out_room, &link->mutex, &until) == ETIMEDOUT) break;
    pthread_mutex_unlock(&link->mutex);
}
