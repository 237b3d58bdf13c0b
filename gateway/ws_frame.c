// SPDX-License-Identifier: Apache-2.0
// Owns: the frame parser.
#include "gateway/ws_frame.h"

#include <string.h>

void tc_ws_parser_init(tc_ws_parser *p, size_t message_bytes_max)
{
    memset(p, 0, sizeof *p);
    p->message_max = message_bytes_max;
}

void tc_ws_parser_free(tc_ws_parser *p)
{
    tc_buffer_free(&p->message);
}

static tc_ws_event refuse(tc_ws_parser *p, uint16_t code, const char *reason)
{
    p->ended = true;
    p->close_code = code;
    p->reason = reason;
    return TC_WS_EVENT_ERROR;
}

static bool is_utf8(const void *text, size_t bytes)
{
    const char *at = text;
    while (bytes) {
        size_t n = tc_utf8_valid(at, bytes);
        if (n == 0) return false;
        at += n;
        bytes -= n;
    }
    return true;
}

static size_t header_needs(const tc_ws_parser *p)
{
    if (p->header_bytes < 2) return 2;
    unsigned length = p->header[1] & 0x7f;
    return 2 + (length == 126 ? 2 : length == 127 ? 8 : 0) + (p->header[1] & 0x80 ? 4 : 0);
}

static uint64_t payload_bytes(const tc_ws_parser *p, bool *ret_shortest)
{
    unsigned length = p->header[1] & 0x7f;
    uint64_t value = 0;
    *ret_shortest = true;
    if (length < 126) return length;
    size_t n = length == 126 ? 2 : 8;
    for (size_t i = 0; i < n; i++) value = value << 8 | p->header[2 + i];
    *ret_shortest = value >= (length == 126 ? 126u : 65536u) && !(value >> 63);
    return value;
}

// The first two bytes are there: what they may not say.
static tc_ws_event check_start(tc_ws_parser *p)
{
    unsigned opcode = p->header[0] & 0x0f;
    bool control = opcode >= 8;
    if (p->header[0] & 0x70) return refuse(p, 1002, "reserved bits");
    if (!(p->header[1] & 0x80)) return refuse(p, 1002, "frames of a client are masked");
    if ((opcode > TC_WS_BINARY && opcode < TC_WS_CLOSE) || opcode > TC_WS_PONG)
        return refuse(p, 1002, "unknown opcode");
    if (control && (!(p->header[0] & 0x80) || (p->header[1] & 0x7f) > TC_WS_CONTROL_BYTES_MAX))
        return refuse(p, 1002, "control frames are short and whole");
    if (opcode == TC_WS_CONTINUATION && !p->fragmented) return refuse(p, 1002, "nothing to continue");
    if ((opcode == TC_WS_TEXT || opcode == TC_WS_BINARY) && p->fragmented)
        return refuse(p, 1002, "a new message within another");
    if (opcode == TC_WS_BINARY) return refuse(p, 1003, "messages are text");
    return TC_WS_EVENT_NONE;
}

static tc_ws_event begin_payload(tc_ws_parser *p)
{
    bool shortest;
    p->left = payload_bytes(p, &shortest);
    p->opcode = (tc_ws_opcode)(p->header[0] & 0x0f);
    p->fin = p->header[0] & 0x80;
    memcpy(p->mask, p->header + p->header_bytes - 4, 4);
    p->at = p->header_bytes = 0;
    p->in_payload = true;
    if (!shortest) return refuse(p, 1002, "a length in more bytes than it needs");
    if (p->opcode >= TC_WS_CLOSE) {
        p->control_bytes = 0;
    } else if (p->left > p->message_max - p->message.count) {
        return refuse(p, 1009, "the message is too long");
    }
    return TC_WS_EVENT_NONE;
}

static bool code_is_valid(unsigned code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static tc_ws_event end_frame(tc_ws_parser *p)
{
    p->in_payload = false;
    switch (p->opcode) {
    case TC_WS_PING:
        return TC_WS_EVENT_PING;
    case TC_WS_PONG:
        return TC_WS_EVENT_PONG;
    case TC_WS_CLOSE:
        p->close_code = p->control_bytes >= 2 ? (uint16_t)(p->control[0] << 8 | p->control[1]) : 1005;
        if (p->control_bytes == 1 || (p->control_bytes && !code_is_valid(p->close_code)))
            return refuse(p, 1002, "no close code");
        if (p->control_bytes > 2 && !is_utf8(p->control + 2, p->control_bytes - 2))
            return refuse(p, 1007, "the reason is not UTF-8");
        p->ended = true;
        return TC_WS_EVENT_CLOSE;
    default:
        p->fragmented = !p->fin;
        if (!p->fin) return TC_WS_EVENT_NONE;
        if (!is_utf8(p->message.data, p->message.count)) return refuse(p, 1007, "the text is not UTF-8");
        p->done = true;
        return TC_WS_EVENT_MESSAGE;
    }
}

static bool take_payload(tc_ws_parser *p, const uint8_t *data, size_t bytes)
{
    bool control = p->opcode >= TC_WS_CLOSE;
    uint8_t *to;
    if (control) {
        to = p->control + p->control_bytes;
        memcpy(to, data, bytes); // at most 125 in all
        p->control_bytes += bytes;
    } else {
        tc_buffer_append(&p->message, data, bytes);
        if (p->message.failed) return false;
        to = (uint8_t *)p->message.data + p->message.count - bytes;
    }
    for (size_t i = 0; i < bytes; i++) to[i] ^= p->mask[(p->at + i) & 3];
    p->at += bytes;
    p->left -= bytes;
    return true;
}

tc_ws_event tc_ws_next(tc_ws_parser *p, const void *data, size_t bytes, size_t *ret_used)
{
    const uint8_t *from = data;
    size_t used = 0;
    tc_ws_event event = TC_WS_EVENT_NONE;
    if (p->done) {
        tc_buffer_free(&p->message);
        p->done = false;
    }
    while (event == TC_WS_EVENT_NONE && !p->ended && (used < bytes || (p->in_payload && p->left == 0))) {
        if (!p->in_payload) {
            p->header[p->header_bytes++] = from[used++];
            if (p->header_bytes == 2) event = check_start(p);
            if (event == TC_WS_EVENT_NONE && p->header_bytes >= 2 && p->header_bytes == header_needs(p))
                event = begin_payload(p);
        } else {
            size_t take = bytes - used < p->left ? bytes - used : (size_t)p->left;
            if (take && !take_payload(p, from + used, take)) event = refuse(p, 1011, "out of memory");
            used += take;
            if (event == TC_WS_EVENT_NONE && p->left == 0) event = end_frame(p);
        }
    }
    *ret_used = used;
    return event;
}

void tc_ws_frame(tc_buffer *out, tc_ws_opcode opcode, const void *payload, size_t bytes)
{
    uint8_t header[10] = {(uint8_t)(0x80 | opcode)};
    size_t n = 2;
    if (bytes < 126) {
        header[1] = (uint8_t)bytes;
    } else if (bytes < 65536) {
        header[1] = 126;
        header[n++] = (uint8_t)(bytes >> 8);
        header[n++] = (uint8_t)bytes;
    } else {
        header[1] = 127;
        for (int shift = 56; shift >= 0; shift -= 8) header[n++] = (uint8_t)((uint64_t)bytes >> shift);
    }
    tc_buffer_append(out, header, n);
    tc_buffer_append(out, payload, bytes);
}

void tc_ws_close_frame(tc_buffer *out, uint16_t code, const char *reason)
{
    uint8_t payload[TC_WS_CONTROL_BYTES_MAX] = {(uint8_t)(code >> 8), (uint8_t)code};
    size_t bytes = reason ? strlen(reason) : 0;
    if (bytes > sizeof payload - 2) bytes = sizeof payload - 2;
    if (bytes) memcpy(payload + 2, reason, bytes);
    tc_ws_frame(out, TC_WS_CLOSE, payload, code == 1005 ? 0 : 2 + bytes);
}
