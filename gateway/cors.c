// SPDX-License-Identifier: Apache-2.0
// Owns: the header lines of cross-origin requests.
#include "gateway/cors.h"

#include <string.h>

// The Origin of the request when it is one of those named; NULL else.
static const char *allowed_origin(const tc_gateway *gateway, const tc_http_parser *request, size_t *ret_bytes)
{
    uint32_t count;
    const char *origin;
    if (gateway->options.web.origin_count == 0) return NULL;
    origin = tc_http_header_find(request, "origin", ret_bytes, &count);
    return count == 1 && tc_web_allows_origin(&gateway->options.web, origin, *ret_bytes) ? origin : NULL;
}

void tc_cors_headers(const tc_http_conn *conn, tc_buffer *out)
{
    size_t bytes;
    if (conn->gateway->options.web.origin_count == 0) return;
    const char *origin = allowed_origin(conn->gateway, &conn->parser, &bytes);
    if (origin) {
        tc_buffer_text(out, "Access-Control-Allow-Origin: ");
        tc_buffer_append(out, origin, bytes);
        tc_buffer_text(out, "\r\n");
    }
    tc_buffer_text(out, "Vary: Origin\r\n");
}

bool tc_cors_is_preflight(const tc_gateway *gateway, const tc_http_parser *request)
{
    size_t bytes;
    return request->method == HTTP_OPTIONS && allowed_origin(gateway, request, &bytes) &&
           tc_http_header_find(request, "access-control-request-method", NULL, NULL);
}

void tc_cors_answer_preflight(tc_http_conn *conn)
{
    tc_http_respond(
        conn, 204, NULL,
        "Access-Control-Allow-Methods: GET, HEAD, POST, DELETE\r\n"
        "Access-Control-Allow-Headers: Authorization, Content-Type, x-api-key, anthropic-version\r\n"
        "Access-Control-Max-Age: 600\r\n",
        NULL, 0);
}
