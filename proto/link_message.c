// SPDX-License-Identifier: Apache-2.0
// Owns: the buffer a message lives in from the first byte received, or from its making, until it is read or
// sent.
#include "proto/link_message.h"

#include "proto/expert.h"
#include <stdlib.h>
#include <string.h>

// The prefix lies at 4 beyond an 8-byte border, and so does the frame behind it: payloads begin 4 + 8k into
// the frame.
tc_link_message *tc_link_message_alloc(size_t frame_bytes)
{
    tc_link_message *message = malloc(sizeof *message + 4 + TC_LINK_PREFIX_BYTES + frame_bytes);
    if (!message) return NULL;
    *message = (tc_link_message){.frame_bytes = frame_bytes, .prefix = message->space + 4};
    _Static_assert(sizeof(tc_link_message) % 8 == 0, "the space begins on an 8-byte border");
    return message;
}

uint8_t *tc_link_message_frame(const tc_link_message *message)
{
    return message->prefix + TC_LINK_PREFIX_BYTES;
}

void tc_link_message_seal(tc_link_message *message)
{
    uint32_t prefix[2] = {TC_LINK_MAGIC, (uint32_t)message->frame_bytes};
    memcpy(message->prefix, prefix, sizeof prefix);
}

tc_status tc_link_message_new(const tc_wire_header *header, size_t payload_bytes, tc_link_message **ret,
                              uint8_t **ret_payload, tc_error *e)
{
    size_t bytes =
        payload_bytes <= TC_WIRE_MESSAGE_BYTES_MAX ? tc_frame_bytes(header->bytes, payload_bytes) : SIZE_MAX;
    if (bytes > TC_WIRE_MESSAGE_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "message with %zu bytes of payload is above the limit of %d bytes",
                       payload_bytes, TC_WIRE_MESSAGE_BYTES_MAX);
    tc_link_message *message = tc_link_message_alloc(bytes);
    if (!message) return tc_fail(e, TC_NOMEM, "message of %zu bytes: out of memory", bytes);
    *ret_payload = tc_frame_begin(tc_link_message_frame(message), header);
    *ret = message;
    return TC_OK;
}

void tc_link_message_set_header(tc_link_message *message, const tc_wire_header *old,
                                const tc_wire_header *header)
{
    size_t less = tc_frame_bytes(old->bytes, 0) - tc_frame_bytes(header->bytes, 0);
    message->prefix += less;
    message->frame_bytes -= less;
    tc_frame_begin(tc_link_message_frame(message), header);
}

void tc_link_message_free(tc_link_message *message)
{
    free(message);
}

const void *tc_link_message_body(const tc_link_message *message, size_t *ret_bytes)
{
    *ret_bytes = message->frame_bytes;
    return tc_link_message_frame(message);
}
