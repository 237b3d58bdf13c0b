// SPDX-License-Identifier: Apache-2.0
// Owns: the one table of what can be asked for: method, path, handler.
#pragma once

#include "gateway/http_conn.h"

// `rest`: for routes that end in '/', what follows, percent-decoded; else "".
typedef void tc_route_handler(tc_gateway *gateway, tc_http_conn *conn, const char *rest);

// Policy for the head of a request (keys, hosts), before any of its body is read.
bool tc_routes_check_head(tc_gateway *gateway, const tc_http_parser *request, tc_http_error *error);
// Answers the complete request of this connection, now or later.
void tc_routes_dispatch(tc_gateway *gateway, tc_http_conn *conn);

// api_*.c
tc_route_handler tc_api_generate, tc_api_generate_batch, tc_api_completions;
tc_route_handler tc_api_health, tc_api_model_info, tc_api_models, tc_api_model, tc_api_index;
