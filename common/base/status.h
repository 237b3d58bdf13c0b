// SPDX-License-Identifier: Apache-2.0
// Owns: the one status type of the project and the caller-owned error text that travels with it.
// Refuses: logging, exiting, allocating. Libraries return a status; programs decide what to say.
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

// Name, wire/exit text. The classes matter to callers: who has to change something?
//   caller:  ARGUMENT, LIMIT, UNSUPPORTED, NOT_FOUND, BUDGET   (fix the request)
//   input:   FORMAT                                            (fix the file or message)
//   peer:    PEER, CLOSED, TIMEOUT, BUSY                       (try again, or another peer)
//   ours:    NOMEM, IO, INTERNAL
//   neither: CANCELLED
#define TC_STATUS_MAP(X)                                                                                     \
    X(OK, "ok")                                                                                              \
    X(ARGUMENT, "invalid argument")                                                                          \
    X(LIMIT, "limit exceeded")                                                                               \
    X(UNSUPPORTED, "unsupported")                                                                            \
    X(NOT_FOUND, "not found")                                                                                \
    X(BUDGET, "does not fit the memory budget")                                                              \
    X(FORMAT, "malformed input")                                                                             \
    X(PEER, "peer broke the protocol")                                                                       \
    X(CLOSED, "connection closed")                                                                           \
    X(TIMEOUT, "timed out")                                                                                  \
    X(BUSY, "busy")                                                                                          \
    X(NOMEM, "out of memory")                                                                                \
    X(IO, "input/output error")                                                                              \
    X(INTERNAL, "internal error")                                                                            \
    X(CANCELLED, "cancelled")

typedef enum tc_status {
#define X(name, text) TC_##name,
    TC_STATUS_MAP(X)
#undef X
        TC_STATUS_COUNT
} tc_status;

enum { TC_ERROR_TEXT_BYTES = 512 };

// Caller-owned: put one on the stack, pass its address down. `text` is one line that names the place
// (file, tensor, field, peer) and the reason. Valid only when a function returned a status other than TC_OK.
typedef struct tc_error {
    tc_status status;
    char text[TC_ERROR_TEXT_BYTES];
} tc_error;

const char *tc_status_text(tc_status status);

// Records status and text (control characters in the text become '?': file and peer names are hostile) and
// returns status, so that `return tc_fail(e, TC_FORMAT, ...)` works. `e` may be NULL.
tc_status tc_fail(tc_error *e, tc_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// The same with the text of errno appended.
tc_status tc_fail_errno(tc_error *e, tc_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "<prefix>: " before the text already there (the place where an inner error happened). Returns
// e->status.
tc_status tc_error_prefix(tc_error *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define TC_TRY(expression)                                                                                   \
    do {                                                                                                     \
        tc_status tc_try_status_ = (expression);                                                             \
        if (tc_try_status_ != TC_OK) return tc_try_status_;                                                  \
    } while (0)

// For functions with one exit: sets the local `status` and jumps to the local label `out`.
#define TC_GOTO(expression)                                                                                  \
    do {                                                                                                     \
        status = (expression);                                                                               \
        if (status != TC_OK) goto out;                                                                       \
    } while (0)
