// SPDX-License-Identifier: Apache-2.0
// Owns: frame parsing and the arena that bounds protobuf-c.
#include "proto/wire.h"

#include <string.h>

static uint32_t padded(uint32_t header_bytes)
{
    return (header_bytes + 7u) & ~7u;
}

tc_status tc_frame_parse(const void *message, size_t bytes, tc_frame *ret, tc_error *e)
{
    uint32_t header_bytes;
    if (bytes < sizeof header_bytes)
        return tc_fail(e, TC_FORMAT, "message of %zu bytes has no header", bytes);
    memcpy(&header_bytes, message, sizeof header_bytes);
    if (header_bytes == 0 || header_bytes > TC_WIRE_HEADER_BYTES_MAX)
        return tc_fail(e, TC_FORMAT, "header of %u bytes, allowed are 1..%d", header_bytes,
                       TC_WIRE_HEADER_BYTES_MAX);
    size_t payload_at = sizeof header_bytes + padded(header_bytes);
    if (bytes < payload_at)
        return tc_fail(e, TC_FORMAT, "message of %zu bytes, its header alone needs %zu", bytes, payload_at);
    const uint8_t *p = message;
    *ret = (tc_frame){.header = p + sizeof header_bytes,
                      .header_bytes = header_bytes,
                      .payload = p + payload_at,
                      .payload_bytes = bytes - payload_at};
    return TC_OK;
}

size_t tc_frame_bytes(uint32_t header_bytes, size_t payload_bytes)
{
    return sizeof header_bytes + padded(header_bytes) + payload_bytes;
}

uint8_t *tc_frame_begin(void *message, const tc_wire_header *header)
{
    uint8_t *p = message;
    memcpy(p, &header->bytes, sizeof header->bytes);
    p += sizeof header->bytes;
    memcpy(p, header->data, header->bytes);
    memset(p + header->bytes, 0, padded(header->bytes) - header->bytes);
    return p + padded(header->bytes);
}

tc_status tc_wire_pack(const ProtobufCMessage *message, tc_wire_header *ret, tc_error *e)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    if (bytes == 0 || bytes > TC_WIRE_HEADER_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "header of %zu bytes, allowed are 1..%d", bytes,
                       TC_WIRE_HEADER_BYTES_MAX);
    ret->bytes = (uint32_t)protobuf_c_message_pack(message, ret->data);
    return TC_OK;
}

static void *arena_alloc(void *user, size_t bytes)
{
    tc_wire_arena *arena = user;
    if (bytes > TC_WIRE_ARENA_BYTES - arena->used) return NULL;
    void *block = arena->data + arena->used;
    size_t step = (bytes + 15u) & ~(size_t)15u;
    arena->used = step > TC_WIRE_ARENA_BYTES - arena->used ? TC_WIRE_ARENA_BYTES : arena->used + step;
    return block;
}

static void arena_free(void *user, void *block) {} // the whole arena goes at once

ProtobufCMessage *tc_wire_unpack(const ProtobufCMessageDescriptor *type, const tc_frame *frame,
                                 tc_wire_arena *arena)
{
    ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_free, .allocator_data = arena};
    arena->used = 0;
    return protobuf_c_message_unpack(type, &allocator, frame->header_bytes, frame->header);
}

static char printable(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f ? '?' : c;
}

bool tc_wire_string(const char *from, char *to, size_t capacity)
{
    size_t length = strnlen(from, capacity);
    if (length == capacity) return false;
    for (size_t i = 0; i <= length; i++) to[i] = i == length ? 0 : printable(from[i]);
    return true;
}

void tc_wire_reason(const char *from, char to[TC_WIRE_REASON_BYTES])
{
    size_t length = strnlen(from, TC_WIRE_REASON_BYTES - 1);
    for (size_t i = 0; i < length; i++) to[i] = printable(from[i]);
    to[length] = 0;
}
