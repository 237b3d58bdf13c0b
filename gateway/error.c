// SPDX-License-Identifier: Apache-2.0
// Owns: the table of HTTP statuses this server uses, and the error body.
#include "gateway/error.h"

#include "gateway/limits.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int status;
    const char *reason, *type;
} statuses[] = {
    {100, "Continue", NULL},
    {101, "Switching Protocols", NULL},
    {200, "OK", NULL},
    {204, "No Content", NULL},
    {400, "Bad Request", "invalid_request_error"},
    {401, "Unauthorized", "authentication_error"},
    {403, "Forbidden", "permission_error"},
    {404, "Not Found", "not_found_error"},
    {405, "Method Not Allowed", "invalid_request_error"},
    {409, "Conflict", "invalid_request_error"},
    {408, "Request Timeout", "invalid_request_error"},
    {413, "Content Too Large", "invalid_request_error"},
    {414, "URI Too Long", "invalid_request_error"},
    {415, "Unsupported Media Type", "invalid_request_error"},
    {417, "Expectation Failed", "invalid_request_error"},
    {426, "Upgrade Required", "invalid_request_error"},
    {429, "Too Many Requests", "rate_limit_error"},
    {431, "Request Header Fields Too Large", "invalid_request_error"},
    {500, "Internal Server Error", "server_error"},
    {501, "Not Implemented", "invalid_request_error"},
    {503, "Service Unavailable", "server_error"},
    {504, "Gateway Timeout", "server_error"},
    {505, "HTTP Version Not Supported", "invalid_request_error"},
};

const char *tc_http_reason(int status)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i].status == status) return statuses[i].reason;
    return "Unknown";
}

static const char *error_type(int status)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i].status == status && statuses[i].type) return statuses[i].type;
    return status < 500 ? "invalid_request_error" : "server_error";
}

static void refuse(tc_http_error *ret, int status, const char *code, const char *param, const char *format,
                   va_list ap)
{
    memset(ret, 0, sizeof *ret);
    ret->status = status;
    ret->code = code;
    if (param) snprintf(ret->param, sizeof ret->param, "%s", param);
    vsnprintf(ret->message, sizeof ret->message, format, ap);
}

bool tc_http_refuse(tc_http_error *ret, int status, const char *code, const char *param, const char *format,
                    ...)
{
    va_list ap;
    va_start(ap, format);
    refuse(ret, status, code, param, format, ap);
    va_end(ap);
    return false;
}

bool tc_http_refuse_for_now(tc_http_error *ret, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    refuse(ret, 503, "unavailable", NULL, format, ap);
    va_end(ap);
    ret->retry_after_s = TC_RETRY_AFTER_S;
    return false;
}

bool tc_http_refuse_status(tc_http_error *ret, tc_status status, const char *reason)
{
    const char *text = reason && *reason ? reason : tc_status_text(status);
    switch (status) {
    case TC_ARGUMENT:
    case TC_LIMIT:
    case TC_UNSUPPORTED:
    case TC_BUDGET:
        return tc_http_refuse(ret, 400, "refused_by_core", NULL, "%s", text);
    case TC_BUSY:
    case TC_CLOSED:
    case TC_PEER:
    case TC_TIMEOUT:
    case TC_CANCELLED:
        return tc_http_refuse_for_now(ret, "%s", text);
    default:
        return tc_http_refuse(ret, 500, "internal", NULL, "%s", text);
    }
}

void tc_http_error_object(const tc_http_error *error, tc_buffer *out)
{
    tc_buffer_text(out, "{\"message\":");
    tc_buffer_json_text(out, error->message);
    tc_buffer_text(out, ",\"type\":");
    tc_buffer_json_text(out, error_type(error->status));
    tc_buffer_text(out, ",\"param\":");
    tc_buffer_json_text(out, *error->param ? error->param : NULL);
    tc_buffer_text(out, ",\"code\":");
    tc_buffer_json_text(out, error->code);
    tc_buffer_text(out, "}");
}

void tc_http_error_body(const tc_http_error *error, tc_buffer *out)
{
    tc_buffer_text(out, "{\"error\":");
    tc_http_error_object(error, out);
    tc_buffer_text(out, "}");
}

void tc_http_error_anthropic(const tc_http_error *error, tc_buffer *out)
{
    const char *type = error->status == 401   ? "authentication_error"
                       : error->status == 403 ? "permission_error"
                       : error->status == 404 ? "not_found_error"
                       : error->status == 413 ? "request_too_large"
                       : error->status == 429 ? "rate_limit_error"
                       : error->status == 503 ? "overloaded_error"
                       : error->status >= 500 ? "api_error"
                                              : "invalid_request_error";
    tc_buffer_format(out, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type);
    tc_buffer_json_text(out, error->message);
    tc_buffer_text(out, "}}");
}
