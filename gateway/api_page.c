// SPDX-License-Identifier: Apache-2.0
// Owns: the files that are built into the gateway: the page at /, its script and style, and /openapi.json.
// The page may load nothing else and nothing may frame it.
#include "gateway/routes.h"

#define EMBEDDED(name)                                                                                       \
    extern const unsigned char tc_embedded_##name[];                                                         \
    extern const unsigned long tc_embedded_##name##_bytes;
EMBEDDED(index_html)
EMBEDDED(page_js)
EMBEDDED(page_css)
EMBEDDED(openapi_json)

static const char policy[] =
    "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    "Referrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\nCache-Control: no-cache\r\n";

#define SERVE(name, type, extra)                                                                             \
    tc_http_respond(conn, 200, type, extra, (const char *)tc_embedded_##name, tc_embedded_##name##_bytes)

void tc_api_page(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)gateway, (void)rest;
    SERVE(index_html, "text/html; charset=utf-8", policy);
}

void tc_api_page_script(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)gateway, (void)rest;
    SERVE(page_js, "text/javascript; charset=utf-8", policy);
}

void tc_api_page_style(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)gateway, (void)rest;
    SERVE(page_css, "text/css; charset=utf-8", policy);
}

void tc_api_openapi(tc_gateway *gateway, tc_http_conn *conn, const char *rest)
{
    (void)gateway, (void)rest;
    SERVE(openapi_json, "application/json", "Cache-Control: no-cache\r\n");
}
