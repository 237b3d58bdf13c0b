// SPDX-License-Identifier: Apache-2.0
// Owns: the one table of what can be asked for: method, path, handler.
#pragma once

#include "gateway/http_conn.h"

// `rest`: for routes that end in '/', what follows, percent-decoded; else "".
typedef void tc_route_handler(tc_gateway *gateway, tc_http_conn *conn, const char *rest);

typedef struct tc_route {
    llhttp_method_t method; // GET: HEAD too
    const char *path;       // ending in '/' (but for "/" itself): a prefix
    tc_route_handler *handler;
    bool open; // needs no key
} tc_route;
const tc_route *tc_routes(size_t *ret_count);          // /openapi.json tells of each
size_t tc_routes_index(const tc_http_parser *request); // in that table; its count: none of it

// Policy for the head of a request (keys, hosts), before any of its body is read.
bool tc_routes_check_head(tc_gateway *gateway, const tc_http_parser *request, tc_http_error *error);
// Answers the complete request of this connection, now or later.
void tc_routes_dispatch(tc_gateway *gateway, tc_http_conn *conn);

// api_*.c
tc_route_handler tc_api_generate, tc_api_generate_batch, tc_api_ws_generate, tc_api_own_chat;
tc_route_handler tc_api_completions, tc_api_chat, tc_api_responses, tc_api_embeddings;
tc_route_handler tc_api_messages, tc_api_count_tokens;
tc_route_handler tc_api_tokenize, tc_api_detokenize, tc_api_apply_template;
tc_route_handler tc_api_memory, tc_api_expert_stats, tc_api_expert_optimization, tc_api_openapi;
tc_route_handler tc_api_page, tc_api_page_script, tc_api_page_style, tc_api_metrics;
tc_route_handler tc_api_health, tc_api_model_info, tc_api_models, tc_api_model;
