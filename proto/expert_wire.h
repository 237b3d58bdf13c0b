// SPDX-License-Identifier: Apache-2.0
// Owns: the messages of the expert link as plain structs, packed and unpacked without a socket.
// Refuses: anything whose sizes, ranges or counts do not agree. What only the store can know (layer, units,
// expert ids, order of pairs) is checked by tc_expert_call_check in the worker.
#pragma once

#include "proto/expert.h"
#include "proto/segment.h"
#include "proto/wire.h"

typedef enum tc_expert_message_kind {
    TC_EXPERT_HELLO,
    TC_EXPERT_RESULT,
    TC_EXPERT_FAILURE,
    TC_EXPERT_GOODBYE,
    TC_EXPERT_SHARE, // worker -> hub
    TC_EXPERT_WELCOME,
    TC_EXPERT_REJECT,
    TC_EXPERT_CALL, // hub -> worker
} tc_expert_message_kind;

// Shared memory a hub offers with its welcome: names and sizes for tc_shm_open and tc_bell_open.
typedef struct tc_expert_offer {
    char segment[TC_SEGMENT_NAME_BYTES], bell[TC_SEGMENT_NAME_BYTES]; // empty: none is offered
    uint32_t tokens_max, hidden, pairs_max;
} tc_expert_offer;

typedef struct tc_expert_message {
    tc_expert_message_kind kind;
    tc_worker_hello hello;
    uint64_t seq, compute_us;
    uint32_t tokens, hidden; // RESULT
    const void *sum; // RESULT: borrowed payload, 8-byte aligned where the message lies on the right border
    tc_expert_call call;       // CALL: pointers borrow the payload, 4-byte aligned likewise
    uint32_t protocol_version; // WELCOME
    tc_expert_offer offer;     // WELCOME
    bool attached;             // SHARE; if not, `reason`
    char reason[TC_WIRE_REASON_BYTES];
} tc_expert_message;

_Static_assert(sizeof(tc_expert_pair) == 12, "a pair travels as it lies in memory");

tc_status tc_expert_pack_hello(const tc_worker_hello *hello, tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_result(uint64_t seq, uint32_t tokens, uint32_t hidden, uint64_t compute_us,
                                tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_failure(uint64_t seq, const char *reason, tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_goodbye(tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_welcome(tc_wire_header *ret, tc_error *e);
// A welcome with an offer of shared memory.
tc_status tc_expert_pack_offer(const tc_expert_offer *offer, tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_share(bool attached, const char *reason, tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_reject(const char *reason, tc_wire_header *ret, tc_error *e);
tc_status tc_expert_pack_call(uint64_t seq, const tc_expert_call *call, tc_wire_header *ret, tc_error *e);
size_t tc_expert_call_payload_bytes(const tc_expert_call *call);
void tc_expert_call_payload_write(const tc_expert_call *call, uint8_t *payload);

// TC_FORMAT: not a message of this link. TC_ARGUMENT: a call (ret->seq is set) that does not make sense.
// A hello of another protocol version is TC_OK with hello.protocol_version set and the rest as far as it was
// readable.
tc_status tc_expert_unpack(const void *message, size_t bytes, bool from_worker, tc_expert_message *ret,
                           tc_error *e);
