// SPDX-License-Identifier: Apache-2.0
// Owns: asking our own gateway over HTTP whether it is ready, and whether its address is free before it
// starts. Refuses: to be an HTTP client for anything else.
#pragma once

#include "common/base/status.h"

typedef struct tc_health {
    int code;         // HTTP status; 0: nobody answers yet
    char reason[256]; // why not ready
    unsigned workers_up, workers_expected;
} tc_health;

// Fails when the address is taken already: said before anything is packed or loaded, and so that another
// server's health is never mistaken for ours.
tc_status tc_listen_check(const char *address, tc_error *e);

// `listen` as given to the gateway: HOST:PORT, [V6]:PORT or unix:/path. Takes at most about a second.
void tc_health_ask(const char *listen, tc_health *ret);

// Body of GET path into ret (room bytes, NUL behind). key: an API key, or NULL.
tc_status tc_http_get(const char *listen, const char *path, const char *key, char *ret, size_t room,
                      int *ret_code, tc_error *e);
