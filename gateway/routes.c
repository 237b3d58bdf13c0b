// SPDX-License-Identifier: Apache-2.0
// Owns: the route table and the answers for what is not in it.
#include "gateway/routes.h"

#include "gateway/cors.h"

#include <stdio.h>
#include <string.h>

static const tc_route routes[] = {
    {HTTP_POST, "/api/v1/generate", tc_api_generate, false},
    {HTTP_POST, "/api/v1/generate/batch", tc_api_generate_batch, false},
    {HTTP_POST, "/api/v1/chat/completions", tc_api_own_chat, false},
    {HTTP_GET, "/api/v1/ws/generate", tc_api_ws_generate, false},
    {HTTP_GET, "/api/v1/health", tc_api_health, true},
    {HTTP_GET, "/api/v1/model-info", tc_api_model_info, false},
    {HTTP_GET, "/api/v1/memory", tc_api_memory, false},
    {HTTP_GET, "/api/v1/expert-stats", tc_api_expert_stats, false},
    {HTTP_GET, "/metrics", tc_api_metrics, false},
    {HTTP_POST, "/api/v1/expert-optimization", tc_api_expert_optimization, false},
    {HTTP_POST, "/v1/chat/completions", tc_api_chat, false},
    {HTTP_POST, "/v1/completions", tc_api_completions, false},
    {HTTP_POST, "/v1/responses", tc_api_responses, false},
    {HTTP_POST, "/v1/embeddings", tc_api_embeddings, false},
    {HTTP_GET, "/v1/models", tc_api_models, false},
    {HTTP_GET, "/v1/models/", tc_api_model, false},
    {HTTP_POST, "/v1/messages", tc_api_messages, false},
    {HTTP_POST, "/v1/messages/count_tokens", tc_api_count_tokens, false},
    {HTTP_POST, "/tokenize", tc_api_tokenize, false},
    {HTTP_POST, "/detokenize", tc_api_detokenize, false},
    {HTTP_POST, "/apply-template", tc_api_apply_template, false},
    {HTTP_GET, "/openapi.json", tc_api_openapi, true},
    {HTTP_GET, "/", tc_api_page, true},
    {HTTP_GET, "/page.js", tc_api_page_script, true},
    {HTTP_GET, "/page.css", tc_api_page_style, true},
};

const tc_route *tc_routes(size_t *ret_count)
{
    *ret_count = sizeof routes / sizeof *routes;
    return routes;
}

static bool path_fits(const tc_route *route, const char *path, size_t bytes)
{
    size_t n = strlen(route->path);
    bool prefix = n > 1 && route->path[n - 1] == '/';
    return (prefix ? bytes > n : bytes == n) && memcmp(path, route->path, n) == 0;
}

static bool method_fits(const tc_route *route, llhttp_method_t method)
{
    return method == route->method || (method == HTTP_HEAD && route->method == HTTP_GET);
}

static const tc_route *find(const tc_http_parser *request, tc_http_error *error)
{
    const tc_route *other = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!path_fits(&routes[i], request->path.data, request->path.count)) continue;
        if (method_fits(&routes[i], request->method)) return &routes[i];
        other = &routes[i];
    }
    if (!other) {
        int shown = request->path.count > 200 ? 200 : (int)request->path.count;
        tc_http_refuse(error, 404, "not_found", NULL, "there is nothing at %.*s", shown, request->path.data);
        return NULL;
    }
    tc_http_refuse(error, 405, "method_not_allowed", NULL, "%s cannot be asked of %s",
                   llhttp_method_name(request->method), other->path);
    snprintf(error->allow, sizeof error->allow, "%s", other->method == HTTP_GET ? "GET, HEAD" : "POST");
    return NULL;
}

size_t tc_routes_index(const tc_http_parser *request)
{
    size_t i = 0, count = sizeof routes / sizeof *routes;
    while (i < count &&
           !(request->path.count && path_fits(&routes[i], request->path.data, request->path.count) &&
             method_fits(&routes[i], request->method)))
        i++;
    return i;
}

// The client's name for its request, where it is one that can stand in logs.
static void take_request_id(tc_http_conn *conn, const tc_http_parser *request)
{
    size_t bytes = 0;
    uint32_t count = 0;
    const char *id = tc_http_header_find(request, "x-request-id", &bytes, &count);
    bool good = id && count == 1 && tc_request_id_is_good(id, bytes);
    if (good) memcpy(conn->request_id, id, bytes);
    conn->request_id[good ? bytes : 0] = 0;
}

bool tc_routes_check_head(tc_gateway *gateway, const tc_http_parser *request, tc_http_error *error)
{
    tc_http_error ignored;
    tc_http_conn *conn = request->owner;
    const tc_route *route = find(request, &ignored);
    conn->identity = (tc_identity){0, TC_API_PRIORITY_MAX};
    take_request_id(conn, request);
    if (tc_cors_is_preflight(gateway, request)) return true;
    if (gateway->options.keys && !(route && route->open))
        return tc_auth_check_key(gateway->options.keys, request, &conn->identity, error);
    if (!gateway->options.keys && !conn->is_unix)
        return tc_auth_check_local(&gateway->options.web, request, error);
    return true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// False for a '%' without two digits, for NUL, and where the result is too long.
static bool percent_decode(const char *text, size_t bytes, char *ret, size_t ret_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '%') {
            if (bytes - i < 3 || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0) return false;
            c = (char)(hex(text[i + 1]) * 16 + hex(text[i + 2]));
            i += 2;
        }
        if (c == 0 || n + 1 >= ret_bytes) return false;
        ret[n++] = c;
    }
    ret[n] = 0;
    return true;
}

void tc_routes_dispatch(tc_gateway *gateway, tc_http_conn *conn)
{
    const tc_http_parser *request = &conn->parser;
    tc_http_error error;
    char rest[TC_MODEL_NAME_BYTES_MAX + 1] = "";
    if (tc_cors_is_preflight(gateway, request)) {
        tc_cors_answer_preflight(conn);
        return;
    }
    const tc_route *route = find(request, &error);
    if (!route) {
        tc_http_fail(conn, &error);
        return;
    }
    size_t n = strlen(route->path);
    if (!percent_decode(request->path.data + n, request->path.count - n, rest, sizeof rest)) {
        tc_http_refuse(&error, 404, "not_found", NULL, "the end of this path is no name");
        tc_http_fail(conn, &error);
        return;
    }
    route->handler(gateway, conn, rest);
}
