// SPDX-License-Identifier: Apache-2.0
// Owns: bytes of a connection from a hostile client. The first byte says in which pieces they arrive; the
// same requests must be seen as when they come in one piece, since a difference is what request smuggling
// lives on.
#include "gateway/http_parse.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) abort();                                                                           \
    } while (0)

typedef struct seen {
    unsigned requests;
    size_t body_bytes;
    uint64_t hash;
    bool refused;
} seen;

static void mix(seen *s, const char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) s->hash = (s->hash ^ (unsigned char)data[i]) * 1099511628211u;
    s->hash = (s->hash ^ bytes) * 1099511628211u;
}

static void check_request(tc_http_parser *p, seen *s)
{
    size_t bytes;
    CHECK(p->uri.count <= TC_HTTP_URI_BYTES_MAX && p->path.count > 0 && p->path.count <= p->uri.count + 1);
    CHECK(p->header_count <= TC_HTTP_HEADERS_MAX && p->header_bytes <= TC_HTTP_HEADER_BYTES_MAX);
    CHECK(p->body.count <= TC_HTTP_BODY_BYTES_MAX);
    const char *host = tc_http_header_find(p, "host", &bytes, NULL);
    CHECK(host || p->http_1_0);
    mix(s, p->path.data, p->path.count);
    mix(s, host, host ? bytes : 0);
    mix(s, p->body.data, p->body.count);
    s->body_bytes += p->body.count;
    s->requests++;
}

static seen parse(const uint8_t *data, size_t size, size_t step)
{
    seen s = {0};
    tc_http_parser *p = malloc(sizeof *p);
    CHECK(p);
    tc_http_parser_init(p);
    for (size_t at = 0; at < size && p->state != TC_HTTP_REFUSED;) {
        size_t n = size - at < step ? size - at : step;
        char *piece = malloc(n); // of its exact size, so that a read beyond it shows
        CHECK(piece);
        memcpy(piece, data + at, n);
        size_t used = tc_http_parser_feed(p, piece, n);
        free(piece);
        CHECK(used > 0 && used <= n);
        at += used;
        if (p->state == TC_HTTP_COMPLETE) {
            check_request(p, &s);
            tc_http_parser_next(p);
        }
    }
    s.refused = p->state == TC_HTTP_REFUSED;
    CHECK(!s.refused || (p->error.status >= 400 && p->error.status < 600));
    tc_http_parser_free(p);
    free(p);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    seen whole = parse(data + 1, size - 1, size);
    seen pieces = parse(data + 1, size - 1, 1u + data[0] % 64);
    // Limits on raw bytes depend on the pieces; within them nothing may.
    if (size < TC_HTTP_HEAD_RAW_BYTES_MAX) {
        CHECK(whole.requests == pieces.requests && whole.refused == pieces.refused);
        CHECK(whole.hash == pieces.hash);
    }
    return 0;
}
