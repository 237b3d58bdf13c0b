// SPDX-License-Identifier: Apache-2.0
// Owns: an HTTP client for load: streamed completions at given moments, whatever the server does, or so many
// at once. Times of each are kept. Refuses: threads, TLS, and hosts other than this one.
#pragma once

#include "cli/supervise.h"

enum { TC_CLIENT_REQUESTS_MAX = 65536, TC_CLIENT_BODY_BYTES = 4096 };

typedef struct tc_client_request {
    double due_s;          // after the begin; it is sent then, on a connection of its own
    double first_s, end_s; // after it was due: its first token, its end; 0: never came
    int code;              // of HTTP; 0: no answer
    uint32_t events;       // with text
    bool done;             // the stream came to its end
} tc_client_request;

typedef struct tc_client_load {
    uint16_t port;
    // The body of request i, at most TC_CLIENT_BODY_BYTES - 1 bytes.
    void (*body)(void *arg, uint32_t i, char ret[TC_CLIENT_BODY_BYTES]);
    void *arg;
    tc_client_request *requests; // [count]; due_s is set, in rising order
    uint32_t count;
    uint32_t at_once;  // not 0: due_s is not looked at; so many run until `seconds` are over
    double seconds;    // at_once only
    double patience_s; // after the last was due: who is not done by then never is
    double *gaps_s;    // [gaps_max] between two events of one stream, in order of arrival
    uint32_t *gap_of;  // [gaps_max] which request
    uint64_t gaps, gaps_max;
    bool (*step)(void *arg, double done); // 0..1; false stops; may be NULL
} tc_client_load;

// Looks after the supervisor's children meanwhile. ret_started: at_once: how many were; ret_seconds: how long
// it took until the last end.
tc_status tc_client_run(tc_supervisor *supervisor, tc_client_load *load, uint32_t *ret_started,
                        double *ret_seconds, tc_error *e);

// A port of 127.0.0.1 that nobody listens on now.
tc_status tc_client_free_port(uint16_t *ret, tc_error *e);
