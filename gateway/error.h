// SPDX-License-Identifier: Apache-2.0
// Owns: what is said to a client whose request cannot be served: the status code and OpenAI's error body
// {"error": {"message", "type", "param", "code"}}.
#pragma once

#include "common/base/status.h"
#include "gateway/buffer.h"

typedef struct tc_http_error {
    int status;             // 400..599
    const char *code;       // static text or NULL
    char param[64];         // field at fault, "" for none
    char message[320];      // may hold bytes of the client: escaped when written
    char allow[40];         // 405: the methods of that path
    unsigned retry_after_s; // 503: 0 for none
} tc_http_error;

// Fills *ret and returns false, so that `return tc_http_refuse(...)` works. `param` may be NULL.
bool tc_http_refuse(tc_http_error *ret, int status, const char *code, const char *param, const char *format,
                    ...) __attribute__((format(printf, 5, 6)));
// 503 with Retry-After.
bool tc_http_refuse_for_now(tc_http_error *ret, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// What a failed call into the core or a library means to the client.
bool tc_http_refuse_status(tc_http_error *ret, tc_status status, const char *reason);

const char *tc_http_reason(int status); // "Not Found"
// Appends {"message":..., ...} without the outer object, for results and stream lines, or with it.
void tc_http_error_object(const tc_http_error *error, tc_buffer *out);
void tc_http_error_body(const tc_http_error *error, tc_buffer *out);
// The same as Anthropic's clients read it: {"type":"error","error":{"type","message"}}.
void tc_http_error_anthropic(const tc_http_error *error, tc_buffer *out);
