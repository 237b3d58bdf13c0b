// SPDX-License-Identifier: Apache-2.0
// Owns: an address that is dialled, or some that are listened on, the connections ("pipes"), and the bounded
// queues before and behind them. nng's own threads only fill and empty the queues; everything else happens in
// the one thread that calls. Refuses: to know what a message says; a message longer than the limit, or not a
// message at all: the pipe is cut.
//
//   receive callback -> [in queue] -> tc_link_next   full: no further receive is posted, so the peers are
//   slowed tc_link_send -> [out queue of the pipe] -> send  full: TC_BUSY, or wait up to a deadline pipes
//   that come and go -> UP / DOWN items in the in queue
//
// What is on the wire: docs/PROTOCOL.md. Why nng's byte streams and not its pair sockets: link.c.
//
// A pipe is NEW until its first message (one that stays silent too long is cut), SPOKE until its owner trusts
// it (its messages must be short until then), TRUSTED from then on, CUT when we hung up. Nothing of a pipe
// comes out after its DOWN.
#pragma once

#include "common/base/status.h"
#include "proto/tls.h"
#include "proto/wire.h"
#include <stdint.h>

typedef enum tc_link_kind {
    TC_LINK_LISTEN, // many pipes
    TC_LINK_DIAL,   // one at a time, dialled again when it is gone
} tc_link_kind;

enum {
    TC_LINK_PIPES_MAX = 80,                // TC_WORKERS_MAX and some that are still introducing themselves
    TC_LINK_IN_MESSAGES_MAX = 256,         // waiting to be read
    TC_LINK_IN_BYTES_MAX = 64 << 20,       // ... plus the ones that cross the line, one a pipe
    TC_LINK_OUT_MESSAGES_MAX = 1024,       // waiting to be sent, a pipe
    TC_LINK_OUT_BYTES_MAX = 64 << 20,      // a pipe
    TC_LINK_STRANGER_BYTES_MAX = 64 << 10, // longest message of a pipe that is not trusted
    TC_LINK_SILENT_MS_MAX = 3000, // from connecting to the first message, or from rejection to hanging up
    TC_LINK_REDIAL_MS_MIN = 50,   // doubles with each attempt that did not end in trust
    TC_LINK_REDIAL_MS_MAX = 1000,
    TC_LINK_BEAT_MS = 500,     // a network connection with nothing to say sends an empty frame each
    TC_LINK_DEAD_MS = 3000,    // ... and is given up when nothing came for so long
    TC_LINK_ADDRESSES_MAX = 2, // of one listener
    TC_LINK_ADDRESS_BYTES = 64,
    TC_LINK_PREFIX_BYTES = 8,   // before each frame: magic, bytes of the frame
    TC_LINK_MAGIC = 0x314d4354, // "TCM1"
};

typedef enum tc_link_item_kind {
    TC_LINK_MESSAGE,
    TC_LINK_UP,
    TC_LINK_DOWN,
    TC_LINK_FAILED, // nobody answers where we dial: `reason`, told when it changes; dialling goes on
} tc_link_item_kind;

typedef struct tc_link tc_link;
typedef struct tc_link_message tc_link_message;

typedef struct tc_link_item {
    tc_link_item_kind kind;
    uint32_t pipe;            // never 0 (but for FAILED), never used twice while the link lives
    tc_link_message *message; // MESSAGE: the receiver's, tc_link_message_free
    const char *reason;       // DOWN, FAILED: static text
} tc_link_item;

// url NULL: a listener whose addresses are added later. tls: for tls+tcp://, which needs it; it is read once.
tc_status tc_link_open(tc_link_kind kind, const char *url, const tc_tls *tls, tc_link **ret, tc_error *e);
// A further address.
tc_status tc_link_listen(tc_link *link, const char *url, const tc_tls *tls, tc_error *e);
void tc_link_close(tc_link *link); // NULL is legal
// Readable while items wait; may be readable once with none. Do not read it.
int tc_link_fd(const tc_link *link);
// Time of tc_now_us that lies timeout_us ahead; UINT64_MAX: never.
uint64_t tc_link_deadline(uint64_t timeout_us);
// TC_TIMEOUT: none came before the deadline; TC_CANCELLED: woken.
tc_status tc_link_next(tc_link *link, uint64_t deadline_us, tc_link_item *ret);
void tc_link_wake(tc_link *link); // async-signal-safe
// Would tc_link_next return at once? A load or two, from any thread; items of pipes that were cut count too.
bool tc_link_ready(const tc_link *link);
// Called after an item was queued or the link was woken, by nng's threads and in signal handlers, until the
// link is closed: for waiting on something else beside it. Set once, by the thread that opened the link; what
// came before that was not announced.
typedef void tc_link_arrival(void *arg);
void tc_link_set_arrival(tc_link *link, tc_link_arrival *arrival, void *arg);

// Is the peer on this host (ipc, or the loopback interface)? Its "host:port", empty for ipc.
bool tc_link_peer(tc_link *link, uint32_t pipe, char ret_address[TC_LINK_ADDRESS_BYTES]);
void tc_link_trust(tc_link *link, uint32_t pipe);
void tc_link_reject(tc_link *link,
                    uint32_t pipe);             // hangs up after TC_LINK_SILENT_MS_MAX: a last word arrives
void tc_link_cut(tc_link *link, uint32_t pipe); // hangs up now; what it sent and we did not read is dropped

// A message with its header written and room for the payload; *ret_payload is 8-byte aligned.
tc_status tc_link_message_new(const tc_wire_header *header, size_t payload_bytes, tc_link_message **ret,
                              uint8_t **ret_payload, tc_error *e);
// Replaces the header by one that is no longer, without moving the payload.
void tc_link_message_set_header(tc_link_message *message, const tc_wire_header *old,
                                const tc_wire_header *header);
void tc_link_message_free(tc_link_message *message); // NULL is legal
// The frame. Payloads in it are 8-byte aligned.
const void *tc_link_message_body(const tc_link_message *message, size_t *ret_bytes);

// Queues a message for a pipe and takes it over, if it returns TC_OK. TC_CLOSED: the pipe is gone. TC_BUSY:
// the queue stayed full for wait_us.
tc_status tc_link_send(tc_link *link, uint32_t pipe, tc_link_message *message, uint64_t wait_us);
// Waits until everything queued was handed to the transport, or the time is over.
void tc_link_drain(tc_link *link, uint64_t wait_us);
