// SPDX-License-Identifier: Apache-2.0
// Owns: see link.h. Connections are made and watched in link_connect.c; locking: link_impl.h.
//
// Why streams. The pair sockets of nng 1.5.2, which is what Debian 12 has, do not survive peers that come and
// go: a peer that hangs up before the handshake ends the listener for good (EPIPE is reported as "closed");
// closing a pipe while bytes of a message arrive can leave nng's reaper waiting for ever; a message sent to a
// closing pipe is leaked. Below them, nng's byte streams (same transports, same threads) have none of this,
// need fewer thread hops a message, and drop nothing when a peer is slow. So only the framing is ours.
#include "proto/link_impl.h"

#include "common/base/clock.h"
#include "proto/expert.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

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

void tc_link_push(tc_link *link, tc_link_item item)
{
    link->in[(link->in_head + link->in_count++) % TC_LINK_IN_ITEMS] = item;
    if (item.message) {
        link->in_messages++;
        link->in_bytes += item.message->frame_bytes;
    }
    signal_event(link);
}

// ---- the end of a pipe ----
// Closes the stream, once, and reports it. Operations under way get their callbacks.
void tc_link_hang_up(link_pipe *pipe, const char *reason)
{
    tc_link *link = pipe->link;
    if (pipe->closed) return;
    pipe->closed = true;
    if (!pipe->reason) pipe->reason = reason;
    pipe->state = pipe->state == PIPE_CUT ? PIPE_CUT : PIPE_GONE;
    nng_stream_close(pipe->stream);
    tc_link_push(link, (tc_link_item){.kind = TC_LINK_DOWN, .pipe = pipe->id, .reason = pipe->reason});
    pthread_cond_broadcast(&link->out_room);
    if (link->kind == TC_LINK_DIAL) tc_link_dial_again(link);
}

void tc_link_free_pipe(link_pipe *pipe)
{
    if (!pipe) return;
    tc_link_free_aio(pipe->receive_aio);
    tc_link_free_aio(pipe->send_aio);
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
    pipe->spoken = true;
    if (pipe->state == PIPE_NEW) pipe->state = PIPE_SPOKE;
    if (pipe->state == PIPE_REJECTED)
        tc_link_message_free(message); // it has had its answer
    else
        tc_link_push(pipe->link,
                     (tc_link_item){.kind = TC_LINK_MESSAGE, .pipe = pipe->id, .message = message});
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
        tc_link_hang_up(pipe, "sent something that is not a message");
    else if (prefix[1] > most)
        tc_link_hang_up(pipe, "sent a message above the size limit");
    else if (!(message = tc_link_message_alloc(prefix[1])))
        tc_link_hang_up(pipe, "out of memory for its message");
    return message;
}

// An empty frame: the peer lives, and has nothing to say.
static bool is_beat(const link_pipe *pipe, const uint8_t *at)
{
    uint32_t prefix[TC_LINK_PREFIX_BYTES / 4];
    memcpy(prefix, at, sizeof prefix);
    return pipe->network && prefix[0] == TC_LINK_MAGIC && prefix[1] == 0;
}

// Whom we dialled may send something long right behind its welcome, before our owner has read that: it stays
// where it is until the welcome made it trusted, or cut.
static bool must_wait(const link_pipe *pipe, const uint8_t *at)
{
    uint32_t prefix[TC_LINK_PREFIX_BYTES / 4];
    if (pipe->link->kind != TC_LINK_DIAL || pipe->state != PIPE_SPOKE || !pipe->spoken) return false;
    memcpy(prefix, at, sizeof prefix);
    return prefix[0] == TC_LINK_MAGIC && prefix[1] > (uint32_t)TC_LINK_STRANGER_BYTES_MAX;
}

// Turns staged bytes into messages while there is room for them. False when a whole one had to stay, for want
// of room or of trust.
static bool unstage(link_pipe *pipe)
{
    uint32_t at = 0;
    bool room = true;
    while (!pipe->closed && !pipe->partial && pipe->staged - at >= TC_LINK_PREFIX_BYTES) {
        room = in_room(pipe->link);
        if (!room) break;
        if (is_beat(pipe, pipe->staging + at)) {
            at += TC_LINK_PREFIX_BYTES;
            continue;
        }
        if (must_wait(pipe, pipe->staging + at)) {
            room = false;
            break;
        }
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
void tc_link_pump_receive(link_pipe *pipe)
{
    if (pipe->closed || pipe->receiving || pipe->link->closing || !unstage(pipe) || pipe->closed) return;
    nng_iov iov = {.iov_buf = pipe->staging + pipe->staged, .iov_len = TC_LINK_STAGING_BYTES - pipe->staged};
    if (pipe->partial) {
        iov.iov_buf = tc_link_message_frame(pipe->partial) + pipe->partial->done;
        iov.iov_len = pipe->partial->frame_bytes - pipe->partial->done;
    }
    pipe->receiving = true;
    if (pipe->network) pipe->heard_us = tc_now_us();
    nng_aio_set_iov(pipe->receive_aio, 1, &iov);
    nng_stream_recv(pipe->stream, pipe->receive_aio);
}

// nng tells no more than the class of what went wrong under TLS.
static const char *why_closed(const link_pipe *pipe, int rv)
{
    if (pipe->tls && rv == NNG_EPEERAUTH) return "TLS: the peer showed no certificate";
    if (pipe->tls && rv == NNG_ECRYPTO)
        return "TLS: one end does not accept the other's certificate (authority, name, use, dates), or "
               "speaks "
               "no TLS";
    return "connection closed";
}

void tc_link_receive_done(void *arg)
{
    link_pipe *pipe = arg;
    tc_link *link = pipe->link;
    int rv = nng_aio_result(pipe->receive_aio);
    size_t n = nng_aio_count(pipe->receive_aio);

    pthread_mutex_lock(&link->mutex);
    pipe->receiving = false;
    if (rv != 0 || n == 0) {
        tc_link_hang_up(pipe, why_closed(pipe, rv));
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
    tc_link_pump_receive(pipe);
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

static void enqueue(link_pipe *pipe, tc_link_message *message)
{
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

void tc_link_beat(link_pipe *pipe)
{
    tc_link_message *message = pipe->out_first ? NULL : tc_link_message_alloc(0);
    if (message) enqueue(pipe, message);
}

void tc_link_send_done(void *arg)
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
        if (!pipe->receiving) tc_link_hang_up(pipe, "connection closed");
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

// ---- opening and closing ----
tc_status tc_link_open(tc_link_kind kind, const char *url, const tc_tls *tls, tc_link **ret, tc_error *e)
{
    tc_link *link = calloc(1, sizeof *link);
    if (!link) return tc_fail(e, TC_NOMEM, "link: out of memory");
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
    if (link->event_fd < 0) TC_GOTO(tc_fail_errno(e, TC_IO, "eventfd"));
    TC_GOTO(tc_link_start(link, e));
    if (url) TC_GOTO(tc_link_listen(link, url, tls, e));
    *ret = link;
out:
    if (status != TC_OK) tc_link_close(link);
    return status;
}

void tc_link_close(tc_link *link)
{
    if (!link) return;
    pthread_mutex_lock(&link->mutex);
    link->closing = true;
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++)
        if (link->pipes[i]) nng_stream_close(link->pipes[i]->stream);
    pthread_mutex_unlock(&link->mutex);
    tc_link_stop_connecting(link);
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++) tc_link_free_pipe(link->pipes[i]);
    tc_link_free_endpoints(link);
    for (uint32_t i = 0; i < link->in_count; i++)
        tc_link_message_free(link->in[(link->in_head + i) % TC_LINK_IN_ITEMS].message);
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
        link->in_head = (link->in_head + 1) % TC_LINK_IN_ITEMS;
        link->in_count--;
        if (item.message) {
            link->in_messages--;
            link->in_bytes -= item.message->frame_bytes;
        }
        if (item.kind == TC_LINK_FAILED) link->failure_waits = false;
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
        if (link->pipes[i]) tc_link_pump_receive(link->pipes[i]);
    if (!found) found = pop_in(link, ret);
    // Emptied only with an empty queue and under the lock, so that no signal is lost.
    if (!found && read(link->event_fd, &ignored, sizeof ignored) < 0) ignored = 0;
    uint32_t dead_count = found ? 0 : take_dead(link, dead);
    pthread_mutex_unlock(&link->mutex);
    for (uint32_t i = 0; i < dead_count; i++) tc_link_free_pipe(dead[i]);
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
    if (alive(pipe)) {
        pipe->state = PIPE_TRUSTED;
        tc_link_pump_receive(pipe);
    }
    link->redial_ms = TC_LINK_REDIAL_MS_MIN;
    pthread_mutex_unlock(&link->mutex);
}

bool tc_link_peer(tc_link *link, uint32_t id, char ret_address[TC_LINK_ADDRESS_BYTES])
{
    pthread_mutex_lock(&link->mutex);
    const link_pipe *pipe = find_pipe(link, id);
    bool local = pipe && pipe->local;
    memcpy(ret_address, pipe ? pipe->address : "", pipe ? TC_LINK_ADDRESS_BYTES : 1);
    pthread_mutex_unlock(&link->mutex);
    return local;
}

void tc_link_reject(tc_link *link, uint32_t id)
{
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (alive(pipe)) {
        pipe->state = PIPE_REJECTED;
        tc_link_set_deadline(pipe);
    }
    pthread_mutex_unlock(&link->mutex);
}

void tc_link_cut(tc_link *link, uint32_t id)
{
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (pipe) {
        pipe->state = PIPE_CUT;
        tc_link_hang_up(pipe, "was cut off");
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
        enqueue(pipe, message);
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
