// SPDX-License-Identifier: Apache-2.0
// Owns: the frame every message travels in, and bounded decoding of its protobuf header.
//
//   u32 header bytes (little-endian) | header | zeros up to a multiple of 8 | payload
//
// The payload so begins 4 + 8k bytes into the frame; nng's pair1 takes 4 bytes off the front of what it
// receives, which puts the payload on an 8-byte border: int64 sums and float rows are read where they
// arrived. Refuses: sockets (link.h), meaning (expert_wire.h, engine_wire.h), and any allocation from the
// heap: a header is unpacked into a fixed arena, and one that needs more is malformed.
#pragma once

#include "common/base/status.h"
#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

enum {
    TC_WIRE_HEADER_BYTES_MAX = 2048,
    TC_WIRE_ARENA_BYTES = 16 << 10,
    TC_WIRE_REASON_BYTES = 256,
};

// Payloads are raw memory of this machine's order; no big-endian machine is supported.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian");

typedef struct tc_frame {
    const uint8_t *header, *payload; // borrowed from the message
    uint32_t header_bytes;
    size_t payload_bytes;
} tc_frame;

// A packed header, waiting for its frame.
typedef struct tc_wire_header {
    uint32_t bytes;
    uint8_t data[TC_WIRE_HEADER_BYTES_MAX];
} tc_wire_header;

typedef struct tc_wire_arena {
    size_t used;
    _Alignas(16) uint8_t data[TC_WIRE_ARENA_BYTES];
} tc_wire_arena;

tc_status tc_frame_parse(const void *message, size_t bytes, tc_frame *ret, tc_error *e);
// Bytes of a frame; payload_bytes <= SIZE_MAX / 2.
size_t tc_frame_bytes(uint32_t header_bytes, size_t payload_bytes);
// Writes everything before the payload into `message`, returns where the payload goes.
uint8_t *tc_frame_begin(void *message, const tc_wire_header *header);

tc_status tc_wire_pack(const ProtobufCMessage *message, tc_wire_header *ret, tc_error *e);
// The result lives in the arena (reset here), until its next use. NULL: malformed, or too much for the arena.
ProtobufCMessage *tc_wire_unpack(const ProtobufCMessageDescriptor *type, const tc_frame *frame,
                                 tc_wire_arena *arena);

// Copies a string of a peer: false when it does not fit; control characters become '?'.
bool tc_wire_string(const char *from, char *to, size_t capacity);
// The same for reasons: cut instead of refused.
void tc_wire_reason(const char *from, char to[TC_WIRE_REASON_BYTES]);
