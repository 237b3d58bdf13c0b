// SPDX-License-Identifier: Apache-2.0
// Owns: the link between the core (hub) and its expert workers, as plain C. Behind it: nng streams and
// expert.proto. Workers dial; they may come and go at any time.
// Refuses: to trust a peer. Every message is bounded (a longer one ends the connection before it is read),
// every field checked; a worker that breaks the protocol is cut off and reported as lost, with the reason.
//
//   worker: TC_WORKER_HELLO ---> hub   (protocol version, model hash, index/of, shard, threads, pid)
//   hub: welcome | reject{reason} ---> worker
//   hub: call{seq} ---> worker ; worker: result{seq} | failure{seq, reason} ---> hub
//   hub on the same host, if it shares memory: welcome{segment, sizes} ; worker: share{attached | reason}
//   ---> hub ; from then on calls and answers travel by shared memory (shm.h); the connection stays and tells
//   who is alive either end goes away: the pipe closes, the other end is told within milliseconds
#pragma once

#include "common/kernels/ffn.h"
#include "proto/tls.h"

enum {
    TC_EXPERT_PROTOCOL_VERSION = 3,
    TC_WIRE_MESSAGE_BYTES_MAX = 288 << 20, // no end reads a longer message: room for the largest call's sum
    TC_WORKERS_MAX = TC_SHARES_MAX,
    TC_URL_BYTES_MAX = 256,
    TC_ADDRESS_BYTES = 64,
};

typedef struct tc_shm tc_shm;

typedef enum tc_carrier { TC_CARRIER_NNG, TC_CARRIER_SHM } tc_carrier;

typedef struct tc_worker_hello {
    uint32_t protocol_version;
    char model_hash[33], store_hash[33]; // store_hash: of the packed experts; empty: not told
    uint32_t index, of;                  // this worker's share: index of `of`
    tc_shard shard;
    uint32_t threads;
    int64_t pid;
    uint64_t resident_bytes;
} tc_worker_hello;

// ---- hub (core) ----
// One thread calls the hub. nng's threads only fill its event queue.
typedef struct tc_expert_hub tc_expert_hub;

typedef enum tc_hub_event_kind {
    TC_HUB_WORKER_UP, // hello accepted: `worker`, `hello`, `address`, `local`; `reason`: why no memory could
                      // be shared, or empty
    TC_HUB_WORKER_DOWN, // `worker`, `reason`, `breach`; calls in flight on it will never be answered
    TC_HUB_RESULT,      // `worker`, `seq`, `sum` (tokens x hidden), `compute_us`
    TC_HUB_FAILURE,     // `worker`, `seq`, `reason`: the worker could not compute this call
    TC_HUB_REJECTED,    // a peer was turned away before it became a worker: `reason`
    TC_HUB_CARRIER, // `worker` answered the offer of shared memory: `carrier`; `reason` why it stays with nng
} tc_hub_event_kind;

typedef struct tc_hub_event {
    tc_hub_event_kind kind;
    uint32_t worker; // id the hub gave it, never reused while the hub lives
    tc_worker_hello hello;
    uint64_t seq;
    uint32_t tokens, hidden;
    // Owned by the hub, valid until the next tc_expert_hub_next, or call to that worker. May lie in memory
    // the worker can write: values of one that misbehaves may change while they are read.
    const int64_t *sum;
    uint64_t compute_us;
    tc_carrier carrier;
    bool local;                     // WORKER_UP: on this host
    char address[TC_ADDRESS_BYTES]; // WORKER_UP: host:port; empty for ipc
    bool breach; // it was cut off because it broke the protocol; false: it left, died or was dropped
    char reason[256];
} tc_hub_event;

// Listens on url (ipc://..., tcp://...), or nowhere yet (NULL). Workers with another model hash or protocol
// version are turned away.
tc_status tc_expert_hub_open(const char *url, const char *model_hash, tc_expert_hub **ret, tc_error *e);
void tc_expert_hub_close(tc_expert_hub *hub); // NULL is legal
// Listens on a further address: tls+tcp://... with `tls`, for workers on other hosts. The files are read now.
tc_status tc_expert_hub_listen(tc_expert_hub *hub, const char *url, const tc_tls *tls, tc_error *e);
// From now on workers of another packed store are turned away too: the same model may be packed in two ways
// that do not give the same numbers. Before the first tc_expert_hub_next.
tc_status tc_expert_hub_require_store(tc_expert_hub *hub, const char *content_hash, tc_error *e);
// From now on new workers are offered shared memory for calls of up to tokens_max tokens of `hidden` values
// and pairs_max pairs; a call beyond that, or to a worker that could not attach, travels by nng. Sweeps away
// what killed processes of this user left in shared memory. Once, before the first tc_expert_hub_next.
tc_status tc_expert_hub_share(tc_expert_hub *hub, uint32_t tokens_max, uint32_t hidden, uint32_t pairs_max,
                              tc_error *e);
// How long tc_expert_hub_next spins for an answer in shared memory before it sleeps (default 0).
void tc_expert_hub_spin(tc_expert_hub *hub, uint64_t spin_us);
// Next event, waiting at most timeout_us (0: only look). TC_TIMEOUT when there is none.
tc_status tc_expert_hub_next(tc_expert_hub *hub, uint64_t timeout_us, tc_hub_event *ret);
// seq: above 0, and above that of the last call to this worker. Sends a call; returns when the message is
// handed over, not when it is answered. TC_CLOSED: the worker is gone.
tc_status tc_expert_hub_call(tc_expert_hub *hub, uint32_t worker, uint64_t seq, const tc_expert_call *call,
                             tc_error *e);
// Lends an idle worker's segment to a device for calls of up to `tokens` tokens, and takes it back (shm.h:
// tc_shm_lend, tc_shm_reclaim). TC_UNSUPPORTED: it has none; what reclaim fails with cuts the worker off.
tc_status tc_expert_hub_lend(tc_expert_hub *hub, uint32_t worker, uint32_t tokens, uint64_t step,
                             tc_shm **ret, tc_error *e);
tc_status tc_expert_hub_reclaim(tc_expert_hub *hub, uint32_t worker, uint64_t last, tc_error *e);
// Cuts a worker off (it lied, or missed its deadline). A TC_HUB_WORKER_DOWN follows.
void tc_expert_hub_drop(tc_expert_hub *hub, uint32_t worker, const char *reason);
// An eventfd that is readable while events of the connections wait, for poll() beside other sources. Do not
// read it. Answers in shared memory do not show there: with a call under way wait in tc_expert_hub_next.
int tc_expert_hub_fd(const tc_expert_hub *hub);

// ---- peer (worker) ----
typedef struct tc_expert_peer tc_expert_peer;

typedef enum tc_peer_event_kind {
    TC_PEER_WELCOME,  // the hub took us in: `carrier`; `reason`: why an offer of shared memory was not taken
    TC_PEER_REJECTED, // `reason`
    TC_PEER_CALL,     // `seq`, `call` (pointers valid until the next tc_expert_peer_next)
    TC_PEER_UNREACHABLE, // `reason`: nobody answers, or TLS fails; told when it changes. Dialling goes on
    TC_PEER_LOST,     // the hub is gone; dialling goes on in the background, a new hello is sent on reconnect
    TC_PEER_BAD_CALL, // `seq`, `reason`: the message could not be understood; a failure was already sent
} tc_peer_event_kind;

typedef struct tc_peer_event {
    tc_peer_event_kind kind;
    uint64_t seq;
    tc_expert_call call;
    tc_carrier carrier;
    char reason[256];
} tc_peer_event;

// tls: for tls+tcp://..., which is never left for anything less. NULL elsewhere.
tc_status tc_expert_peer_open(const char *url, const tc_tls *tls, const tc_worker_hello *hello,
                              tc_expert_peer **ret, tc_error *e);
void tc_expert_peer_close(tc_expert_peer *peer);
tc_status tc_expert_peer_next(tc_expert_peer *peer, uint64_t timeout_us, tc_peer_event *ret);
// How long tc_expert_peer_next spins for a call in shared memory before it sleeps (default 0).
void tc_expert_peer_spin(tc_expert_peer *peer, uint64_t spin_us);
// Where to write the sum of the call just taken: [tokens][hidden] inside the reply message or the shared
// segment, no copy afterwards.
int64_t *tc_expert_peer_sum(tc_expert_peer *peer, uint32_t tokens, uint32_t hidden, tc_error *e);
tc_status tc_expert_peer_reply(tc_expert_peer *peer, uint64_t seq, uint64_t compute_us, tc_error *e);
tc_status tc_expert_peer_fail(tc_expert_peer *peer, uint64_t seq, const char *reason);
// Wakes a waiting tc_expert_peer_next (async-signal-safe), which then returns TC_CANCELLED.
void tc_expert_peer_wake(tc_expert_peer *peer);
