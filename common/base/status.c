// SPDX-License-Identifier: Apache-2.0
// Owns: status texts and the formatting of error lines.
#include "common/base/status.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *tc_status_text(tc_status status)
{
    static const char *const texts[] = {
#define X(name, text) text,
        TC_STATUS_MAP(X)
#undef X
    };
    return (unsigned)status < TC_STATUS_COUNT ? texts[status] : "unknown status";
}

static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static void vformat(tc_error *e, tc_status status, const char *suffix, const char *format, va_list ap)
{
    e->status = status;
    int n = vsnprintf(e->text, sizeof e->text, format, ap);
    if (suffix && n >= 0 && (size_t)n < sizeof e->text)
        snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", suffix);
    make_printable(e->text);
}

tc_status tc_fail(tc_error *e, tc_status status, const char *format, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, format);
        vformat(e, status, NULL, format, ap);
        va_end(ap);
    }
    return status;
}

tc_status tc_fail_errno(tc_error *e, tc_status status, const char *format, ...)
{
    char text[128];
    const char *reason = strerror_r(errno, text, sizeof text);
    if (e) {
        va_list ap;
        va_start(ap, format);
        vformat(e, status, reason, format, ap);
        va_end(ap);
    }
    return status;
}

tc_status tc_error_prefix(tc_error *e, const char *format, ...)
{
    char prefix[TC_ERROR_TEXT_BYTES];
    char inner[TC_ERROR_TEXT_BYTES];
    if (!e) return TC_INTERNAL;
    memcpy(inner, e->text, sizeof inner);
    va_list ap;
    va_start(ap, format);
    vsnprintf(prefix, sizeof prefix, format, ap);
    va_end(ap);
    size_t used = (size_t)snprintf(e->text, sizeof e->text, "%.300s: ", prefix);
    snprintf(e->text + used, sizeof e->text - used, "%.*s", (int)(sizeof e->text - used - 1), inner);
    make_printable(e->text);
    return e->status;
}
