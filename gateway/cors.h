// SPDX-License-Identifier: Apache-2.0
// Owns: what pages of other origins may do: nothing, unless the operator named them (--cors-origin).
#pragma once

#include "gateway/http_conn.h"

// Appends the header lines that let the page which sent this request read the answer; nothing for others.
void tc_cors_headers(const tc_http_conn *conn, tc_buffer *out);
// Whether this is a browser's question before the real request, from an origin that may ask. It needs no key:
// a browser sends none with it.
bool tc_cors_is_preflight(const tc_gateway *gateway, const tc_http_parser *request);
void tc_cors_answer_preflight(tc_http_conn *conn);
