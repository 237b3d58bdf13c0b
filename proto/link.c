// SPDX-License-Identifier: Apache-2.0
// Owns: see link.h.
//
// Locking. `mutex` guards every field below it and is never held while nng is called, so nng may call us from
// any place. `receiving` and `sending` say that the one aio of that direction is in use; who sets them owns
// the aio until its callback. The out queue has its own little ring; a message whose pipe has gone is dropped
// there.
#include "proto/link.h"

#include "common/base/clock.h"
#include "proto/expert.h"
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pair0/pair.h>
#include <nng/protocol/pair1/pair.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    IN_ITEMS =
        TC_LINK_IN_MESSAGES_MAX + 2 * TC_LINK_PIPES_MAX, // each pipe has at most one UP and one DOWN in it
    OUT_MESSAGES = 1024,
};

typedef enum pipe_state {
    PIPE_FREE,
    PIPE_NEW,
    PIPE_SPOKE,
    PIPE_TRUSTED,
    PIPE_REJECTED,
    PIPE_CUT,
    PIPE_GONE
} pipe_state;

typedef struct link_pipe {
    pipe_state state;
    uint32_t id;
    uint64_t deadline_us; // NEW and REJECTED
} link_pipe;

typedef struct out_message {
    uint32_t pipe;
    nng_msg *message;
} out_message;

struct tc_link {
    tc_link_kind kind;
    bool opened;
    nng_socket socket;
    nng_aio *receive_aio, *send_aio, *timer_aio;
    int event_fd;
    _Atomic bool woken;

    pthread_mutex_t mutex;
    pthread_cond_t out_room;
    bool closing, receiving, sending, timer_armed;
    link_pipe pipes[TC_LINK_PIPES_MAX];
    tc_link_item in[IN_ITEMS];
    uint32_t in_head, in_count, in_messages;
    size_t in_bytes;
    out_message out[OUT_MESSAGES];
    uint32_t out_head, out_count, sending_pipe;
    size_t out_bytes, sending_bytes; // out_bytes includes what is being sent
};

static bool listens(const tc_link *link)
{
    return link->kind == TC_LINK_HUB || link->kind == TC_LINK_SERVER;
}

static void signal_event(tc_link *link)
{
    uint64_t one = 1;
    ssize_t ignored = write(link->event_fd, &one, sizeof one);
    (void)ignored;
}

static link_pipe *find_pipe(tc_link *link, uint32_t id)
{
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++)
        if (link->pipes[i].state != PIPE_FREE && link->pipes[i].id == id) return &link->pipes[i];
    return NULL;
}

static bool alive(const link_pipe *pipe)
{
    return pipe && pipe->state >= PIPE_NEW && pipe->state <= PIPE_REJECTED;
}

static void push_in(tc_link *link, tc_link_item item)
{
    link->in[(link->in_head + link->in_count++) % IN_ITEMS] = item;
    if (item.message) {
        link->in_messages++;
        link->in_bytes += nng_msg_len(item.message);
    }
}

// True when the caller must post the receive.
static bool want_receive(tc_link *link)
{
    if (link->closing || link->receiving || link->in_messages >= TC_LINK_IN_MESSAGES_MAX ||
        link->in_bytes >= TC_LINK_IN_BYTES_MAX)
        return false;
    return link->receiving = true;
}

enum { HOP_BYTES = 4 }; // what pair1 takes off the front of a message

// A message whose body lies as if HOP_BYTES had been taken off the front, so that payloads are on 8-byte
// borders.
static nng_msg *new_message(size_t bytes)
{
    nng_msg *message = NULL;
    if (nng_msg_alloc(&message, bytes + HOP_BYTES) != 0) return NULL;
    nng_msg_trim(message, HOP_BYTES);
    return message;
}

// Transports of today deliver pair1 bodies on the right border; should one not, the message is copied.
static nng_msg *on_border(nng_msg *message)
{
    if (((uintptr_t)nng_msg_body(message) + HOP_BYTES) % 8 == 0 || nng_msg_len(message) == 0) return message;
    nng_msg *copy = new_message(nng_msg_len(message));
    if (copy) memcpy(nng_msg_body(copy), nng_msg_body(message), nng_msg_len(message));
    nng_msg_free(message);
    return copy;
}

static void receive_done(void *arg)
{
    tc_link *link = arg;
    int rv = nng_aio_result(link->receive_aio);
    nng_msg *message = rv == 0 ? nng_aio_get_msg(link->receive_aio) : NULL;
    uint32_t id = message ? (uint32_t)nng_msg_get_pipe(message).id : 0;
    bool post, pushed = false;

    if (rv == 0) nng_aio_set_msg(link->receive_aio, NULL);
    if (message && (link->kind == TC_LINK_HUB || link->kind == TC_LINK_PEER)) message = on_border(message);
    pthread_mutex_lock(&link->mutex);
    link->receiving = false;
    if (rv == NNG_ECLOSED || rv == NNG_ECANCELED) link->closing = true;
    if (message) {
        link_pipe *pipe = find_pipe(link, id);
        if (alive(pipe) && pipe->state != PIPE_REJECTED) {
            if (pipe->state == PIPE_NEW) pipe->state = PIPE_SPOKE;
            push_in(link, (tc_link_item){TC_LINK_MESSAGE, id, message});
            message = NULL;
            pushed = true;
        }
    }
    post = want_receive(link);
    pthread_mutex_unlock(&link->mutex);

    nng_msg_free(message);
    if (pushed) signal_event(link);
    if (post) nng_recv_aio(link->socket, link->receive_aio);
}

// Takes the next message whose pipe still lives for the send aio. True when the caller must send.
static bool take_out(tc_link *link, nng_msg **ret)
{
    while (!link->closing && !link->sending && link->out_count > 0) {
        out_message out = link->out[link->out_head];
        link->out_head = (link->out_head + 1) % OUT_MESSAGES;
        link->out_count--;
        if (alive(find_pipe(link, out.pipe))) {
            link->sending = true;
            link->sending_pipe = out.pipe;
            link->sending_bytes = nng_msg_len(out.message);
            *ret = out.message;
            return true;
        }
        link->out_bytes -= nng_msg_len(out.message);
        nng_msg_free(out.message);
    }
    return false;
}

static void send_now(tc_link *link, nng_msg *message)
{
    nng_aio_set_msg(link->send_aio, message);
    nng_send_aio(link->socket, link->send_aio);
}

static void send_done(void *arg)
{
    tc_link *link = arg;
    int rv = nng_aio_result(link->send_aio);
    nng_msg *left = rv == 0 ? NULL : nng_aio_get_msg(link->send_aio), *next = NULL;

    nng_aio_set_msg(link->send_aio, NULL);
    pthread_mutex_lock(&link->mutex);
    link->out_bytes -= link->sending_bytes;
    link->sending = false;
    bool more = take_out(link, &next);
    pthread_cond_broadcast(&link->out_room);
    pthread_mutex_unlock(&link->mutex);

    nng_msg_free(left);
    if (more) send_now(link, next);
}

// Cuts pipes that were silent, or rejected, for too long. Runs only while there are such.
static void timer_done(void *arg)
{
    tc_link *link = arg;
    uint32_t late[TC_LINK_PIPES_MAX], count = 0;
    bool again = false;
    uint64_t now_us = tc_now_us();

    if (nng_aio_result(link->timer_aio) != 0) return;
    pthread_mutex_lock(&link->mutex);
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX; i++) {
        link_pipe *pipe = &link->pipes[i];
        if (pipe->state != PIPE_NEW && pipe->state != PIPE_REJECTED) continue;
        if (now_us >= pipe->deadline_us) {
            pipe->state = PIPE_CUT;
            late[count++] = pipe->id;
        } else {
            again = true;
        }
    }
    link->timer_armed = again && !link->closing;
    again = link->timer_armed;
    pthread_mutex_unlock(&link->mutex);

    for (uint32_t i = 0; i < count; i++) nng_pipe_close((nng_pipe){.id = late[i]});
    if (again) nng_sleep_aio(TC_LINK_SILENT_MS_MAX / 4, link->timer_aio);
}

// The caller holds the mutex; true when it must start the timer afterwards.
static bool set_deadline(tc_link *link, link_pipe *pipe)
{
    pipe->deadline_us = tc_now_us() + (uint64_t)TC_LINK_SILENT_MS_MAX * 1000u;
    if (link->timer_armed || link->closing) return false;
    return link->timer_armed = true;
}

static void pipe_adding(nng_pipe nng, nng_pipe_ev event, void *arg)
{
    tc_link *link = arg;
    bool start_timer = false;

    pthread_mutex_lock(&link->mutex);
    link_pipe *slot = NULL;
    for (uint32_t i = 0; i < TC_LINK_PIPES_MAX && !slot; i++)
        if (link->pipes[i].state == PIPE_FREE) slot = &link->pipes[i];
    if (slot) {
        *slot = (link_pipe){.state = PIPE_NEW, .id = (uint32_t)nng_pipe_id(nng)};
        if (listens(link))
            start_timer = set_deadline(link, slot);
        else
            slot->state = PIPE_SPOKE; // we dialled: whom we called may take its time
    }
    pthread_mutex_unlock(&link->mutex);

    if (!slot) nng_pipe_close(nng);
    if (start_timer) nng_sleep_aio(TC_LINK_SILENT_MS_MAX / 4, link->timer_aio);
}

static void pipe_added(nng_pipe nng, nng_pipe_ev event, void *arg)
{
    tc_link *link = arg;
    uint32_t id = (uint32_t)nng_pipe_id(nng);
    pthread_mutex_lock(&link->mutex);
    bool up = !listens(link) && alive(find_pipe(link, id));
    if (up) push_in(link, (tc_link_item){TC_LINK_UP, id, NULL});
    pthread_mutex_unlock(&link->mutex);
    if (up) signal_event(link);
}

static void pipe_removed(nng_pipe nng, nng_pipe_ev event, void *arg)
{
    tc_link *link = arg;
    uint32_t id = (uint32_t)nng_pipe_id(nng);
    bool cancel = false;

    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (pipe) {
        pipe->state = PIPE_GONE;
        push_in(link, (tc_link_item){TC_LINK_DOWN, id, NULL});
        cancel = link->sending && link->sending_pipe == id;
    }
    pthread_cond_broadcast(&link->out_room);
    pthread_mutex_unlock(&link->mutex);

    if (cancel) nng_aio_cancel(link->send_aio);
    if (pipe) signal_event(link);
}

static tc_status check_url(const char *url, tc_error *e)
{
    if (strnlen(url, TC_URL_BYTES_MAX) == TC_URL_BYTES_MAX)
        return tc_fail(e, TC_ARGUMENT, "address is longer than %d bytes", TC_URL_BYTES_MAX - 1);
    if (strncmp(url, "ipc://", 6) != 0 && strncmp(url, "tcp://", 6) != 0)
        return tc_fail(e, TC_ARGUMENT, "%s: address must begin with ipc:// or tcp://", url);
    return TC_OK;
}

static int open_socket(tc_link *link)
{
    switch (link->kind) {
    case TC_LINK_HUB:
        return nng_pair1_open_poly(&link->socket);
    case TC_LINK_PEER:
        return nng_pair1_open(&link->socket);
    default:
        return nng_pair0_open(&link->socket);
    }
}

// Receive limit and notifications come first: nothing may connect before they are in place.
static int start_socket(tc_link *link, const char *url)
{
    int rv = open_socket(link);
    if (rv == 0) link->opened = true;
    if (rv == 0) rv = nng_socket_set_size(link->socket, NNG_OPT_RECVMAXSZ, TC_WIRE_MESSAGE_BYTES_MAX);
    if (rv == 0) rv = nng_socket_set_ms(link->socket, NNG_OPT_RECONNMINT, TC_LINK_RECONNECT_MS_MIN);
    if (rv == 0) rv = nng_socket_set_ms(link->socket, NNG_OPT_RECONNMAXT, TC_LINK_RECONNECT_MS_MAX);
    if (rv == 0) rv = nng_pipe_notify(link->socket, NNG_PIPE_EV_ADD_PRE, pipe_adding, link);
    if (rv == 0) rv = nng_pipe_notify(link->socket, NNG_PIPE_EV_ADD_POST, pipe_added, link);
    if (rv == 0) rv = nng_pipe_notify(link->socket, NNG_PIPE_EV_REM_POST, pipe_removed, link);
    if (rv == 0) rv = nng_aio_alloc(&link->receive_aio, receive_done, link);
    if (rv == 0) rv = nng_aio_alloc(&link->send_aio, send_done, link);
    if (rv == 0) rv = nng_aio_alloc(&link->timer_aio, timer_done, link);
    if (rv != 0) return rv;
    link->receiving = true;
    nng_recv_aio(link->socket, link->receive_aio);
    return listens(link) ? nng_listen(link->socket, url, NULL, 0)
                         : nng_dial(link->socket, url, NULL, NNG_FLAG_NONBLOCK);
}

tc_status tc_link_open(tc_link_kind kind, const char *url, tc_link **ret, tc_error *e)
{
    TC_TRY(check_url(url, e));
    tc_link *link = calloc(1, sizeof *link);
    if (!link) return tc_fail(e, TC_NOMEM, "%s: out of memory", url);
    pthread_condattr_t attributes;
    link->kind = kind;
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
        int rv = start_socket(link, url);
        if (rv != 0) status = tc_fail(e, TC_IO, "%s: %s", url, nng_strerror(rv));
    }
    if (status != TC_OK) {
        tc_link_close(link);
        return status;
    }
    *ret = link;
    return TC_OK;
}

static void free_aio(nng_aio *aio)
{
    if (!aio) return;
    nng_aio_stop(aio);
    nng_msg_free(nng_aio_get_msg(aio)); // one that was posted after the stop
    nng_aio_free(aio);
}

void tc_link_close(tc_link *link)
{
    if (!link) return;
    pthread_mutex_lock(&link->mutex);
    link->closing = true;
    pthread_mutex_unlock(&link->mutex);
    if (link->timer_aio) nng_aio_stop(link->timer_aio);
    if (link->opened)
        nng_close(link->socket); // returns when all pipes are gone: no notification comes after it
    free_aio(link->receive_aio);
    free_aio(link->send_aio);
    nng_aio_free(link->timer_aio);
    for (uint32_t i = 0; i < link->in_count; i++)
        nng_msg_free(link->in[(link->in_head + i) % IN_ITEMS].message);
    for (uint32_t i = 0; i < link->out_count; i++)
        nng_msg_free(link->out[(link->out_head + i) % OUT_MESSAGES].message);
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
    atomic_store(&link->woken, true);
    int saved = errno;
    signal_event(link);
    errno = saved;
}

// Pops the next item worth showing. Messages of a pipe that was cut are dropped here.
static bool pop_in(tc_link *link, tc_link_item *ret)
{
    while (link->in_count > 0) {
        tc_link_item item = link->in[link->in_head];
        link->in_head = (link->in_head + 1) % IN_ITEMS;
        link->in_count--;
        link_pipe *pipe = find_pipe(link, item.pipe);
        if (item.message) {
            link->in_messages--;
            link->in_bytes -= nng_msg_len(item.message);
        }
        if (item.kind == TC_LINK_DOWN && pipe) pipe->state = PIPE_FREE;
        if (item.kind == TC_LINK_MESSAGE && (!pipe || pipe->state == PIPE_CUT)) {
            nng_msg_free(item.message);
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

tc_status tc_link_next(tc_link *link, uint64_t deadline_us, tc_link_item *ret)
{
    uint64_t ignored;
    for (;;) {
        if (atomic_exchange(&link->woken, false)) return TC_CANCELLED;
        pthread_mutex_lock(&link->mutex);
        bool found = pop_in(link, ret), post = want_receive(link);
        // Emptied only with an empty queue and under the lock: whoever queues an item signals afterwards.
        if (!found && read(link->event_fd, &ignored, sizeof ignored) < 0) ignored = 0;
        pthread_mutex_unlock(&link->mutex);
        if (post) nng_recv_aio(link->socket, link->receive_aio);
        if (found) return TC_OK;
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
    pthread_mutex_unlock(&link->mutex);
}

void tc_link_reject(tc_link *link, uint32_t id)
{
    bool start_timer = false;
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    if (alive(pipe)) {
        pipe->state = PIPE_REJECTED;
        start_timer = set_deadline(link, pipe);
    }
    pthread_mutex_unlock(&link->mutex);
    if (start_timer) nng_sleep_aio(TC_LINK_SILENT_MS_MAX / 4, link->timer_aio);
}

void tc_link_cut(tc_link *link, uint32_t id)
{
    pthread_mutex_lock(&link->mutex);
    link_pipe *pipe = find_pipe(link, id);
    bool cut = alive(pipe);
    if (cut) pipe->state = PIPE_CUT;
    pthread_mutex_unlock(&link->mutex);
    if (cut) nng_pipe_close((nng_pipe){.id = id});
}

tc_status tc_link_message_new(const tc_wire_header *header, size_t payload_bytes, tc_link_message **ret,
                              uint8_t **ret_payload, tc_error *e)
{
    size_t bytes =
        payload_bytes <= TC_WIRE_MESSAGE_BYTES_MAX ? tc_frame_bytes(header->bytes, payload_bytes) : SIZE_MAX;
    if (bytes > TC_WIRE_MESSAGE_BYTES_MAX - HOP_BYTES)
        return tc_fail(e, TC_LIMIT, "message with %zu bytes of payload is above the limit of %d bytes",
                       payload_bytes, TC_WIRE_MESSAGE_BYTES_MAX);
    nng_msg *message = new_message(bytes);
    if (!message) return tc_fail(e, TC_NOMEM, "message of %zu bytes: out of memory", bytes);
    *ret_payload = tc_frame_begin(nng_msg_body(message), header);
    *ret = message;
    return TC_OK;
}

void tc_link_message_set_header(tc_link_message *message, const tc_wire_header *old,
                                const tc_wire_header *header)
{
    nng_msg_trim(message, tc_frame_bytes(old->bytes, 0) - tc_frame_bytes(header->bytes, 0));
    tc_frame_begin(nng_msg_body(message), header);
}

void tc_link_message_free(tc_link_message *message)
{
    nng_msg_free(message);
}

const void *tc_link_message_body(tc_link_message *message, size_t *ret_bytes)
{
    *ret_bytes = nng_msg_len(message);
    return nng_msg_body(message);
}

// True when there is room before the deadline. The mutex is held before and after.
static bool wait_room(tc_link *link, uint32_t pipe, size_t bytes, uint64_t wait_us)
{
    uint64_t deadline_us = tc_link_deadline(wait_us);
    struct timespec until = {.tv_sec = (time_t)(deadline_us / 1000000u),
                             .tv_nsec = (long)(deadline_us % 1000000u) * 1000};
    while (link->out_count == OUT_MESSAGES ||
           (link->out_bytes > 0 && link->out_bytes + bytes > TC_LINK_OUT_BYTES_MAX)) {
        if (wait_us == 0 || !alive(find_pipe(link, pipe))) return false;
        if (pthread_cond_timedwait(&link->out_room, &link->mutex, &until) == ETIMEDOUT) return false;
    }
    return true;
}

tc_status tc_link_send(tc_link *link, uint32_t id, tc_link_message *message, uint64_t wait_us)
{
    tc_status status = TC_OK;
    nng_msg *next = NULL;
    bool send = false;

    if (link->kind == TC_LINK_HUB) nng_msg_set_pipe(message, (nng_pipe){.id = id});
    pthread_mutex_lock(&link->mutex);
    bool room = wait_room(link, id, nng_msg_len(message), wait_us);
    if (!alive(find_pipe(link, id))) {
        status = TC_CLOSED;
    } else if (!room) {
        status = TC_BUSY;
    } else {
        link->out[(link->out_head + link->out_count++) % OUT_MESSAGES] = (out_message){id, message};
        link->out_bytes += nng_msg_len(message);
        send = take_out(link, &next);
    }
    pthread_mutex_unlock(&link->mutex);
    if (send) send_now(link, next);
    return status;
}

void tc_link_drain(tc_link *link, uint64_t wait_us)
{
    uint64_t deadline_us = tc_link_deadline(wait_us);
    struct timespec until = {.tv_sec = (time_t)(deadline_us / 1000000u),
                             .tv_nsec = (long)(deadline_us % 1000000u) * 1000};
    pthread_mutex_lock(&link->mutex);
    while (link->sending || link->out_count > 0)
        if (pthread_cond_timedwait(&link->out_room, &link->mutex, &until) == ETIMEDOUT) break;
    pthread_mutex_unlock(&link->mutex);
}
