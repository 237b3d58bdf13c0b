// SPDX-License-Identifier: Apache-2.0
// Owns: what lies inside a link, shared by link.c (queues, messages, the calling thread), link_connect.c
// (addresses, connections that come, last and go) and tls.c. Nobody else includes it.
//
// Locking. `mutex` guards everything below it. It is held while streams are read, written and closed: nng
// never runs a callback from inside those calls, it queues it. So nothing is ever started on a stream that is
// closed, and every operation that was started gets its callback. A pipe is freed by the calling thread when
// it is closed, its DOWN was read and none of its operations is under way.
#pragma once

#include "proto/link.h"
#include "proto/link_message.h"
#include <nng/nng.h>
#include <pthread.h>
#include <stdatomic.h>

typedef struct nng_tls_config nng_tls_config;

enum {
    TC_LINK_IN_ITEMS =
        TC_LINK_IN_MESSAGES_MAX + 3 * TC_LINK_PIPES_MAX + 1, // a pipe adds at most an UP, a DOWN and the
                                                             // message under way; the link one FAILED
    TC_LINK_STAGING_BYTES = 32 << 10,                        // whole messages up to this size take one read
};

typedef enum pipe_state { PIPE_NEW, PIPE_SPOKE, PIPE_TRUSTED, PIPE_REJECTED, PIPE_CUT, PIPE_GONE } pipe_state;

typedef struct link_pipe {
    tc_link *link;
    uint32_t id;
    pipe_state state;
    bool closed, told_down; // stream closed; DOWN was read by the owner
    bool receiving, sending;
    bool spoken;              // a message of it was delivered
    bool network, tls, local; // not ipc; encrypted; the peer is on this host
    uint64_t deadline_us;     // NEW and REJECTED
    uint64_t heard_us;        // network: of the last read, or of posting the one under way
    const char *reason;
    nng_stream *stream;
    nng_aio *receive_aio, *send_aio;
    tc_link_message *partial; // being received
    tc_link_message *out_first, *out_last;
    uint32_t out_count;
    size_t out_bytes;
    uint32_t staged; // bytes read and not yet looked at
    char address[TC_LINK_ADDRESS_BYTES];
    uint8_t staging[TC_LINK_STAGING_BYTES];
} link_pipe;

// One address that is listened on or dialled.
typedef struct link_endpoint {
    tc_link *link;
    bool network, tls;
    nng_stream_listener *listener;
    nng_stream_dialer *dialer;
    nng_aio *connect_aio, *retry_aio; // accept or dial; pause before the next one
} link_endpoint;

struct tc_link {
    tc_link_kind kind;
    link_endpoint endpoints[TC_LINK_ADDRESSES_MAX];
    uint32_t endpoint_count;
    nng_aio *sweep_aio; // silent pipes, keep-alives
    int event_fd;
    _Atomic bool woken;
    _Atomic(tc_link_arrival *) arrival; // written after its argument
    void *arrival_arg;

    pthread_mutex_t mutex;
    pthread_cond_t out_room;
    bool closing, sweeping;
    bool failure_waits; // a FAILED is in the queue
    int last_failure;   // nng's code of the last one told; 0: none since the last connection
    uint32_t last_id, redial_ms;
    link_pipe *pipes[TC_LINK_PIPES_MAX];
    tc_link_item in[TC_LINK_IN_ITEMS];
    _Atomic uint32_t in_count; // read without the mutex too
    uint32_t in_head, in_messages;
    size_t in_bytes;
};

// ---- link.c; the mutex is held ----
void tc_link_push(tc_link *link, tc_link_item item);
void tc_link_hang_up(link_pipe *pipe, const char *reason); // once; reports it
void tc_link_pump_receive(link_pipe *pipe);
void tc_link_receive_done(void *pipe);   // nng's callback: without the mutex
void tc_link_send_done(void *pipe);      // the same
void tc_link_free_pipe(link_pipe *pipe); // without the mutex. NULL is legal
// Queues a frame of no bytes, where nothing else is on its way.
void tc_link_beat(link_pipe *pipe);

// ---- link_connect.c; the mutex is held ----
void tc_link_dial_again(tc_link *link);
void tc_link_set_deadline(link_pipe *pipe); // from now, TC_LINK_SILENT_MS_MAX
// Without the mutex:
tc_status tc_link_start(tc_link *link, tc_error *e);
void tc_link_stop_connecting(tc_link *link); // no further connection, nothing of it under way
void tc_link_free_endpoints(tc_link *link);
void tc_link_free_aio(nng_aio *aio);

// ---- tls_engine.c ----
// Before the first endpoint with TLS, after nng's first use. 0, or nng's code of why OpenSSL cannot be used.
int tc_tls_engine(void);

// ---- tls.c ----
// Fills nng's configuration for a listener or a dialler.
tc_status tc_tls_configure(nng_tls_config *config, const tc_tls *tls, bool listens, tc_error *e);
