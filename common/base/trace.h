// SPDX-License-Identifier: Apache-2.0
// Owns: spans in Chrome's trace format (JSON array; chrome://tracing and Perfetto read it): all processes of
// a server append to one file, by the monotonic clock that they share, so that a request can be followed from
// the gateway to the workers. Off, as it usually is, it costs a look at tc_trace_on. One thread a process
// writes spans. Refuses: what users wrote; and more than TC_TRACE_BYTES_MAX a process.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

#define TC_TRACE_BYTES_MAX (1ull << 30)

#if defined TC_COUNTS && !TC_COUNTS // meson's -Dcounting=false
#define tc_trace_on false
#else
extern bool tc_trace_on;
#endif

// process: how the viewer names us.
tc_status tc_trace_open(const char *path, const char *process, tc_error *e);
void tc_trace_close(void); // legal when it is not open
// What has gathered is written: when there is time, and at the end.
void tc_trace_flush(void);

// One span of this process; `args`: JSON members without braces, or "".
void tc_trace_span(const char *name, uint64_t begin_us, uint64_t end_us, const char *args, ...)
    __attribute__((format(printf, 4, 5)));
// The line of this process that the next spans and arrows go to: spans of one line must lie within or behind
// each other. 1.
void tc_trace_lane(unsigned lane);
// A part of a request: spans of one id are one line in the viewer, in whichever process they were.
void tc_trace_request(const char *request, const char *name, uint64_t begin_us, uint64_t end_us,
                      const char *args, ...) __attribute__((format(printf, 5, 6)));
// An arrow between two processes: `out` where it starts. Both ends name it by the same number, and lie within
// a span.
void tc_trace_arrow(bool out, uint64_t number, uint64_t at_us);
