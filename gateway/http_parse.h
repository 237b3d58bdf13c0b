// SPDX-License-Identifier: Apache-2.0
// Owns: turning bytes into one HTTP/1.x request at a time, bounded in every direction, with llhttp in its
// strict mode. What RFC 9112 lets a server refuse is refused here, once. Refuses: sockets, timers and policy
// (who may ask for what: the check_head callback).
//
//   AWAIT_REQUEST --first byte--> AWAIT_HEAD --empty line--> AWAIT_BODY --last byte--> COMPLETE
//        ^                            |                          |                        |
//        |                            +----------> REFUSED <-----+                        |
//        +---------------------------- tc_http_parser_next <-----------------------------+
#pragma once

#include "gateway/error.h"
#include "gateway/limits.h"
#include <llhttp.h>

typedef enum tc_http_state {
    TC_HTTP_AWAIT_REQUEST,
    TC_HTTP_AWAIT_HEAD,
    TC_HTTP_AWAIT_BODY,
    TC_HTTP_COMPLETE,
    TC_HTTP_REFUSED, // `error`; nothing more can be read from this peer
} tc_http_state;

typedef struct tc_http_header {
    uint32_t name, name_bytes, value, value_bytes; // in `head`
} tc_http_header;

typedef struct tc_http_parser {
    tc_http_state state;
    tc_http_error error;

    // The request. Valid from COMPLETE to next; all but the body from check_head on.
    llhttp_method_t method;
    tc_buffer uri, path;   // path: the URI without query, or of an absolute URI
    const char *authority; // of an absolute URI, in `uri`; NULL else
    size_t authority_bytes;
    tc_buffer body;
    bool http_1_0, keep_alive, has_body;
    bool want_continue; // the client waits for 100 before it sends the body

    // Who may ask for what. Called when the head is whole; false with *error set refuses the request. May be
    // NULL.
    bool (*check_head)(void *owner, struct tc_http_parser *parser, tc_http_error *error);
    // May this connection hold `bytes` more of body? May be NULL.
    bool (*check_body)(void *owner, struct tc_http_parser *parser, size_t bytes, tc_http_error *error);
    void *owner;

    // Inside.
    llhttp_t llhttp;
    tc_buffer head;
    tc_http_header headers[TC_HTTP_HEADERS_MAX];
    uint32_t header_count;
    size_t header_bytes, raw_head_bytes, extension_bytes;
    bool head_done;
} tc_http_parser;

void tc_http_parser_init(tc_http_parser *parser);
void tc_http_parser_free(tc_http_parser *parser);
// Takes bytes up to the end of one message; returns how many. Look at `state` afterwards.
size_t tc_http_parser_feed(tc_http_parser *parser, const char *data, size_t bytes);
void tc_http_parser_next(tc_http_parser *parser);

// Value of a header (not NUL-terminated), NULL when absent; the first where there are several. *ret_count:
// how many.
const char *tc_http_header_find(const tc_http_parser *parser, const char *name, size_t *ret_bytes,
                                uint32_t *ret_count);

// Splits "host", "host:port", "[v6]:port". False when it is not one. *ret_host points into text, without
// brackets.
bool tc_http_split_authority(const char *text, size_t bytes, const char **ret_host, size_t *ret_host_bytes);
