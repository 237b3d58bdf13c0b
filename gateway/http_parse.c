// SPDX-License-Identifier: Apache-2.0
// Owns: the llhttp callbacks, the limits of a request, and the checks of RFC 9112 that llhttp leaves to its
// user.
#include "gateway/http_parse.h"

#include <string.h>
#include <strings.h>

static tc_http_parser *of(llhttp_t *llhttp)
{
    return llhttp->data;
}

// The error is kept in the parser; -1 makes llhttp stop.
#define REFUSE(parser, ...) (tc_http_refuse(&(parser)->error, __VA_ARGS__), -1)

static int on_url(llhttp_t *llhttp, const char *at, size_t bytes)
{
    tc_http_parser *p = of(llhttp);
    if (p->uri.count + bytes > TC_HTTP_URI_BYTES_MAX)
        return REFUSE(p, 414, NULL, NULL, "the request target is longer than %d bytes",
                      TC_HTTP_URI_BYTES_MAX);
    tc_buffer_append(&p->uri, at, bytes);
    return p->uri.failed ? REFUSE(p, 503, NULL, NULL, "out of memory") : 0;
}

static int count_header_bytes(tc_http_parser *p, size_t bytes)
{
    p->header_bytes += bytes;
    if (p->header_bytes > TC_HTTP_HEADER_BYTES_MAX)
        return REFUSE(p, 431, NULL, NULL, "the header fields are longer than %d bytes",
                      TC_HTTP_HEADER_BYTES_MAX);
    return 0;
}

// Trailer fields count against the limits and are then dropped: nothing here may change a request after its
// head.
static int on_header_field(llhttp_t *llhttp, const char *at, size_t bytes)
{
    tc_http_parser *p = of(llhttp);
    if (p->header_count == TC_HTTP_HEADERS_MAX)
        return REFUSE(p, 431, NULL, NULL, "more than %d header fields", TC_HTTP_HEADERS_MAX);
    if (count_header_bytes(p, bytes)) return -1;
    if (p->head_done) return 0;
    tc_http_header *h = &p->headers[p->header_count];
    if (h->name_bytes == 0) h->name = (uint32_t)p->head.count;
    h->name_bytes += (uint32_t)bytes;
    tc_buffer_append(&p->head, at, bytes);
    return p->head.failed ? REFUSE(p, 503, NULL, NULL, "out of memory") : 0;
}

static int on_header_value(llhttp_t *llhttp, const char *at, size_t bytes)
{
    tc_http_parser *p = of(llhttp);
    if (count_header_bytes(p, bytes)) return -1;
    if (p->head_done) return 0;
    tc_http_header *h = &p->headers[p->header_count];
    if (h->value_bytes == 0) h->value = (uint32_t)p->head.count;
    h->value_bytes += (uint32_t)bytes;
    tc_buffer_append(&p->head, at, bytes);
    return p->head.failed ? REFUSE(p, 503, NULL, NULL, "out of memory") : 0;
}

static int on_header_value_complete(llhttp_t *llhttp)
{
    tc_http_parser *p = of(llhttp);
    if (count_header_bytes(p, 4)) return -1; // ": " and CRLF
    if (!p->head_done) {
        tc_http_header *h = &p->headers[p->header_count]; // optional white space is no part of a value
        while (h->value_bytes && strchr(" \t", p->head.data[h->value + h->value_bytes - 1])) h->value_bytes--;
    }
    p->header_count++;
    return 0;
}

const char *tc_http_header_find(const tc_http_parser *p, const char *name, size_t *ret_bytes,
                                uint32_t *ret_count)
{
    const char *found = NULL;
    size_t name_bytes = strlen(name), bytes = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < p->header_count && i < TC_HTTP_HEADERS_MAX; i++) {
        const tc_http_header *h = &p->headers[i];
        if (h->name_bytes != name_bytes || strncasecmp(p->head.data + h->name, name, name_bytes) != 0)
            continue;
        if (count++ == 0) {
            found = p->head.data + h->value;
            bytes = h->value_bytes;
        }
    }
    if (ret_bytes) *ret_bytes = bytes;
    if (ret_count) *ret_count = count;
    return found;
}

bool tc_http_split_authority(const char *text, size_t bytes, const char **ret_host, size_t *ret_host_bytes)
{
    const char *host = text;
    size_t host_bytes, i = 0;
    if (bytes > 0 && text[0] == '[') {
        const char *end = memchr(text, ']', bytes);
        if (!end) return false;
        host = text + 1;
        host_bytes = (size_t)(end - host);
        for (size_t k = 0; k < host_bytes; k++)
            if (host[k] == 0 || !strchr("0123456789abcdefABCDEF:.", host[k])) return false;
        i = host_bytes + 2;
    } else {
        for (; i < bytes && text[i] != ':'; i++) {
            unsigned char c = (unsigned char)text[i];
            bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
            if (!letter && (c == 0 || !strchr("-._~%!$&'()*+,;=", c))) return false;
        }
        host_bytes = i;
    }
    if (i < bytes) {
        if (text[i] != ':' || bytes - i > 6) return false;
        for (size_t k = i + 1; k < bytes; k++)
            if (text[k] < '0' || text[k] > '9') return false;
    }
    *ret_host = host;
    *ret_host_bytes = host_bytes;
    return true;
}

// "/path?query", "http://authority/path?query", "*"; anything else is refused.
static bool split_target(tc_http_parser *p)
{
    const char *s = p->uri.data;
    size_t n = p->uri.count;
    p->authority = NULL;
    if (n > 7 && strncasecmp(s, "http://", 7) == 0) {
        size_t k = 7;
        while (k < n && s[k] != '/' && s[k] != '?' && s[k] != '#') k++;
        p->authority = s + 7;
        p->authority_bytes = k - 7;
        s += k;
        n -= k;
        const char *host;
        size_t host_bytes;
        if (!tc_http_split_authority(p->authority, p->authority_bytes, &host, &host_bytes) || host_bytes == 0)
            return tc_http_refuse(&p->error, 400, NULL, NULL, "the request target has a malformed host");
    } else if (n == 0 || (s[0] != '/' && !(n == 1 && s[0] == '*'))) {
        return tc_http_refuse(&p->error, 400, NULL, NULL,
                              "the request target is neither a path nor an http URL");
    }
    size_t path = 0;
    while (path < n && s[path] != '?' && s[path] != '#') path++;
    if (memchr(s, '#', n))
        return tc_http_refuse(&p->error, 400, NULL, NULL, "the request target has a fragment");
    tc_buffer_append(&p->path, path ? s : "/", path ? path : 1);
    if (p->path.failed) return tc_http_refuse(&p->error, 503, NULL, NULL, "out of memory");
    return true;
}

static bool check_host(tc_http_parser *p)
{
    uint32_t count;
    size_t bytes, host_bytes;
    const char *host, *value = tc_http_header_find(p, "host", &bytes, &count);
    if (count > 1) return tc_http_refuse(&p->error, 400, NULL, NULL, "more than one Host header");
    if (count == 0 && !p->http_1_0)
        return tc_http_refuse(&p->error, 400, NULL, NULL, "the Host header is missing");
    if (count == 1 && !tc_http_split_authority(value, bytes, &host, &host_bytes))
        return tc_http_refuse(&p->error, 400, NULL, NULL, "the Host header is malformed");
    return true;
}

static bool value_is(const char *value, size_t bytes, const char *text)
{
    return bytes == strlen(text) && strncasecmp(value, text, bytes) == 0;
}

// The framing headers as llhttp leaves them: one plain "chunked", and no coding of the content.
static bool check_framing(tc_http_parser *p)
{
    uint32_t count;
    size_t bytes;
    const char *value = tc_http_header_find(p, "transfer-encoding", &bytes, &count);
    if (count && p->http_1_0)
        return tc_http_refuse(&p->error, 400, NULL, NULL, "Transfer-Encoding in an HTTP/1.0 request");
    if (count && tc_http_header_find(p, "content-length", NULL, NULL))
        return tc_http_refuse(&p->error, 400, NULL, NULL, "both Transfer-Encoding and Content-Length");
    if (count > 1)
        return tc_http_refuse(&p->error, 400, NULL, NULL, "more than one Transfer-Encoding header");
    if (count && !value_is(value, bytes, "chunked"))
        return tc_http_refuse(&p->error, 501, NULL, NULL, "the only transfer coding understood is chunked");
    value = tc_http_header_find(p, "content-encoding", &bytes, &count);
    if (count && !value_is(value, bytes, "identity"))
        return tc_http_refuse(&p->error, 415, NULL, NULL, "Content-Encoding is not supported");
    p->has_body = (p->llhttp.flags & F_CHUNKED) || p->llhttp.content_length > 0;
    if (!(p->llhttp.flags & F_CHUNKED) && p->llhttp.content_length > TC_HTTP_BODY_BYTES_MAX)
        return tc_http_refuse(&p->error, 413, NULL, NULL, "the body is longer than %d bytes",
                              TC_HTTP_BODY_BYTES_MAX);
    value = tc_http_header_find(p, "expect", &bytes, &count);
    if (count && !value_is(value, bytes, "100-continue"))
        return tc_http_refuse(&p->error, 417, NULL, NULL, "the only expectation understood is 100-continue");
    p->want_continue = count && p->has_body && !p->http_1_0;
    return true;
}

static int on_headers_complete(llhttp_t *llhttp)
{
    tc_http_parser *p = of(llhttp);
    p->head_done = true;
    p->method = (llhttp_method_t)llhttp->method;
    if (llhttp->http_major != 1 || llhttp->http_minor > 1)
        return REFUSE(p, 505, NULL, NULL, "HTTP/%d.%d is not spoken here", llhttp->http_major,
                      llhttp->http_minor);
    p->http_1_0 = llhttp->http_minor == 0;
    p->keep_alive = llhttp_should_keep_alive(llhttp);
    if (p->method == HTTP_CONNECT) return REFUSE(p, 501, NULL, NULL, "CONNECT is not supported");
    llhttp->upgrade = 0; // an offer to upgrade may be ignored, and is
    if (!split_target(p) || !check_host(p) || !check_framing(p)) return -1;
    if (p->check_head && !p->check_head(p->owner, p, &p->error)) return -1;
    p->state = TC_HTTP_AWAIT_BODY;
    return 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t bytes)
{
    tc_http_parser *p = of(llhttp);
    if (bytes > TC_HTTP_BODY_BYTES_MAX - p->body.count)
        return REFUSE(p, 413, NULL, NULL, "the body is longer than %d bytes", TC_HTTP_BODY_BYTES_MAX);
    if (p->check_body && !p->check_body(p->owner, p, bytes, &p->error)) return -1;
    tc_buffer_append(&p->body, at, bytes);
    return p->body.failed ? REFUSE(p, 503, NULL, NULL, "out of memory") : 0;
}

static int on_chunk_extension(llhttp_t *llhttp, const char *at, size_t bytes)
{
    tc_http_parser *p = of(llhttp);
    p->extension_bytes += bytes;
    if (p->extension_bytes > TC_HTTP_CHUNK_EXT_BYTES_MAX)
        return REFUSE(p, 400, NULL, NULL, "the chunk extensions are longer than %d bytes",
                      TC_HTTP_CHUNK_EXT_BYTES_MAX);
    return 0;
}

static int on_message_complete(llhttp_t *llhttp)
{
    of(llhttp)->state = TC_HTTP_COMPLETE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_chunk_extension_name = on_chunk_extension,
    .on_chunk_extension_value = on_chunk_extension,
    .on_message_complete = on_message_complete,
};

void tc_http_parser_init(tc_http_parser *p)
{
    memset(p, 0, sizeof *p);
    p->method = HTTP_GET;
    p->uri.max = p->path.max = TC_HTTP_URI_BYTES_MAX;
    p->head.max = TC_HTTP_HEADER_BYTES_MAX;
    p->body.max = TC_HTTP_BODY_BYTES_MAX;
    llhttp_init(&p->llhttp, HTTP_REQUEST, &settings);
    p->llhttp.data = p;
}

void tc_http_parser_free(tc_http_parser *p)
{
    tc_buffer_free(&p->uri);
    tc_buffer_free(&p->path);
    tc_buffer_free(&p->head);
    tc_buffer_free(&p->body);
}

void tc_http_parser_next(tc_http_parser *p)
{
    tc_buffer_free(&p->body); // bodies are large: an idle connection holds none
    tc_buffer_clear(&p->uri);
    tc_buffer_clear(&p->path);
    tc_buffer_clear(&p->head);
    memset(p->headers, 0, p->header_count * sizeof *p->headers);
    p->header_count = 0;
    p->header_bytes = p->raw_head_bytes = p->extension_bytes = 0;
    p->head_done = p->has_body = p->want_continue = false;
    p->http_1_0 = p->keep_alive = false;
    p->method = HTTP_GET;
    p->authority = NULL;
    p->state = TC_HTTP_AWAIT_REQUEST;
    llhttp_init(&p->llhttp, HTTP_REQUEST,
                &settings); // a fresh parser: nothing of one message reaches the next
    p->llhttp.data = p;
}

static void refuse_syntax(tc_http_parser *p, llhttp_errno_t code)
{
    if (p->error.status) return; // a callback said why
    const char *reason = llhttp_get_error_reason(&p->llhttp);
    bool other_version =
        code == HPE_INVALID_VERSION && (p->llhttp.http_major != 1 || p->llhttp.http_minor > 1);
    tc_http_refuse(&p->error, other_version ? 505 : 400, "malformed_http", NULL, "malformed HTTP: %s",
                   reason && *reason ? reason : llhttp_errno_name(code));
}

size_t tc_http_parser_feed(tc_http_parser *p, const char *data, size_t bytes)
{
    if (bytes == 0 || p->state == TC_HTTP_COMPLETE || p->state == TC_HTTP_REFUSED) return 0;
    if (p->state == TC_HTTP_AWAIT_REQUEST) p->state = TC_HTTP_AWAIT_HEAD;
    bool in_head = p->state == TC_HTTP_AWAIT_HEAD;
    llhttp_errno_t code = llhttp_execute(&p->llhttp, data, bytes);
    if (code == HPE_PAUSED && p->state == TC_HTTP_COMPLETE)
        return (size_t)(llhttp_get_error_pos(&p->llhttp) - data);
    if (code == HPE_OK && in_head && p->state == TC_HTTP_AWAIT_HEAD) {
        p->raw_head_bytes += bytes;
        if (p->raw_head_bytes > TC_HTTP_HEAD_RAW_BYTES_MAX) {
            tc_http_refuse(&p->error, 431, NULL, NULL, "the head of the request is longer than %d bytes",
                           TC_HTTP_HEAD_RAW_BYTES_MAX);
            code = HPE_USER;
        }
    }
    if (code != HPE_OK) {
        refuse_syntax(p, code);
        p->state = TC_HTTP_REFUSED;
    }
    return bytes;
}
