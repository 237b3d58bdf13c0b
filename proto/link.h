// SPDX-License-Identifier: Apache-2.0
// Owns: one nng socket, the bounded queues before and behind it, and the list of its connections ("pipes").
// nng's own threads only fill and empty the queues; everything else happens in the one thread that calls.
// Refuses: to know what a message says.
//
//   nng receive callback -> [in queue] -> tc_link_next     full: no further receive is posted, so the peer is
//   slowed tc_link_send -> [out queue] -> nng send callback       full: TC_BUSY, or wait up to a deadline
//   pipe notifications -> UP / DOWN items in the in queue
//
// A pipe is NEW until its first message (one that stays silent too long is cut), SPOKE until its owner trusts
// it, TRUSTED from then on, CUT when we hung up. Messages of a pipe never come out after its DOWN.
#pragma once

#include "common/base/status.h"
#include "proto/wire.h"
#include <stdint.h>

typedef enum tc_link_kind {
    TC_LINK_HUB, // pair1 polyamorous, listens: many peers. nng drops a message when the pipe's own queue (2)
                 // is full, so the owner keeps at most one call in flight per pipe and sends control messages
                 // rarely.
    TC_LINK_PEER,   // pair1, dials
    TC_LINK_SERVER, // pair0, listens: one client at a time, a second one is turned away by nng
    TC_LINK_CLIENT, // pair0, dials
} tc_link_kind;

enum {
    TC_LINK_PIPES_MAX = 80,           // TC_WORKERS_MAX and some that are still introducing themselves
    TC_LINK_IN_MESSAGES_MAX = 256,    // waiting to be read
    TC_LINK_IN_BYTES_MAX = 64 << 20,  // ... plus the one that crosses the line
    TC_LINK_OUT_BYTES_MAX = 64 << 20, // waiting to be sent
    TC_LINK_SILENT_MS_MAX = 3000,     // from connecting to the first message, or from rejection to hanging up
    TC_LINK_RECONNECT_MS_MIN = 50,
    TC_LINK_RECONNECT_MS_MAX = 1000,
};

typedef enum tc_link_item_kind { TC_LINK_MESSAGE, TC_LINK_UP, TC_LINK_DOWN } tc_link_item_kind;

typedef struct tc_link tc_link;
typedef struct nng_msg tc_link_message;

typedef struct tc_link_item {
    tc_link_item_kind kind;
    uint32_t pipe;
    tc_link_message *message; // MESSAGE: the receiver's, tc_link_message_free
} tc_link_item;

tc_status tc_link_open(tc_link_kind kind, const char *url, tc_link **ret, tc_error *e);
void tc_link_close(tc_link *link); // NULL is legal
// Readable while items wait; may be readable once with none. Do not read it.
int tc_link_fd(const tc_link *link);
// Time of tc_now_us that lies timeout_us ahead; UINT64_MAX: never.
uint64_t tc_link_deadline(uint64_t timeout_us);
// TC_TIMEOUT: none came before the deadline; TC_CANCELLED: woken.
tc_status tc_link_next(tc_link *link, uint64_t deadline_us, tc_link_item *ret);
void tc_link_wake(tc_link *link); // async-signal-safe

void tc_link_trust(tc_link *link, uint32_t pipe);
void tc_link_reject(tc_link *link,
                    uint32_t pipe); // hangs up after TC_LINK_SILENT_MS_MAX, so that a last word arrives
void tc_link_cut(tc_link *link, uint32_t pipe); // hangs up now; what it sent and we did not read is dropped

// A message with its header written and room for the payload; *ret_payload is 8-byte aligned.
tc_status tc_link_message_new(const tc_wire_header *header, size_t payload_bytes, tc_link_message **ret,
                              uint8_t **ret_payload, tc_error *e);
// Replaces the header by one that is no longer, without moving the payload: bytes before it are taken off the
// front.
void tc_link_message_set_header(tc_link_message *message, const tc_wire_header *old,
                                const tc_wire_header *header);
void tc_link_message_free(tc_link_message *message); // NULL is legal
const void *tc_link_message_body(tc_link_message *message, size_t *ret_bytes);

// Queues a message for a pipe and takes it over, if it returns TC_OK. TC_CLOSED: the pipe is gone. TC_BUSY:
// the queue stayed full for wait_us.
tc_status tc_link_send(tc_link *link, uint32_t pipe, tc_link_message *message, uint64_t wait_us);
// Waits until everything queued was handed to the transport, or the time is over.
void tc_link_drain(tc_link *link, uint64_t wait_us);
