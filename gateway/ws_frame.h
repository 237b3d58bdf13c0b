// SPDX-License-Identifier: Apache-2.0
// Owns: WebSocket frames (RFC 6455) from a client: unmasking, fragments put together, control frames between
// them, and every check that the protocol asks of a server. Refuses: sockets, extensions, binary messages.
#pragma once

#include "gateway/buffer.h"

enum { TC_WS_CONTROL_BYTES_MAX = 125, TC_WS_HEADER_BYTES_MAX = 14 };

typedef enum tc_ws_opcode {
    TC_WS_CONTINUATION = 0,
    TC_WS_TEXT = 1,
    TC_WS_BINARY = 2,
    TC_WS_CLOSE = 8,
    TC_WS_PING = 9,
    TC_WS_PONG = 10
} tc_ws_opcode;

typedef enum tc_ws_event {
    TC_WS_EVENT_NONE,    // more bytes are needed
    TC_WS_EVENT_MESSAGE, // `message`, a whole text, valid UTF-8; until the next call
    TC_WS_EVENT_PING,    // `control`, `control_bytes`
    TC_WS_EVENT_PONG,
    TC_WS_EVENT_CLOSE, // `close_code` (1005: none given)
    TC_WS_EVENT_ERROR, // close with `close_code`, `reason`; nothing more can be read
} tc_ws_event;

typedef struct tc_ws_parser {
    tc_buffer message;
    uint8_t control[TC_WS_CONTROL_BYTES_MAX];
    size_t control_bytes;
    uint16_t close_code;
    const char *reason;
    // Inside.
    uint8_t header[TC_WS_HEADER_BYTES_MAX], mask[4];
    size_t header_bytes, message_max;
    uint64_t left, at; // of the frame's payload
    tc_ws_opcode opcode;
    bool in_payload, fin, fragmented, done, ended;
} tc_ws_parser;

void tc_ws_parser_init(tc_ws_parser *parser, size_t message_bytes_max);
void tc_ws_parser_free(tc_ws_parser *parser);
// Takes bytes until something happens; *ret_used of them. Call again with the rest.
tc_ws_event tc_ws_next(tc_ws_parser *parser, const void *data, size_t bytes, size_t *ret_used);

// Appends one unmasked frame, whole.
void tc_ws_frame(tc_buffer *out, tc_ws_opcode opcode, const void *payload, size_t bytes);
void tc_ws_close_frame(tc_buffer *out, uint16_t code, const char *reason);
// Sec-WebSocket-Accept for a key of 24 characters; 28 characters and a NUL. False: it is no key.
bool tc_ws_accept(const char *key, size_t bytes, char ret[29]);
