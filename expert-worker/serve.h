// SPDX-License-Identifier: Apache-2.0
// Owns: a worker's life between its command line and its exit code: store, share, team, link, calls.
// Refuses: state between calls. Any call for any expert and unit of the store is computed; the share only
// says what is kept resident, so that the core may send a call to whichever worker lives.
#pragma once

#include "common/base/config.h"
#include "expert-worker/options.h"

enum { TC_EXIT_OK = 0, TC_EXIT_FAILED = 1, TC_EXIT_REJECTED = 2, TC_EXIT_SIGBUS = 3 };

// Serves until tc_serve_stop, a rejection or an error; returns the exit code. `full` is what the options were
// read from, argc and argv what the configuration is read from again on reload.
int tc_serve(const tc_worker_options *options, int argc, char **argv, const tc_arguments_full *full);
// Async-signal-safe: the configuration is read again between two calls.
void tc_serve_reload(void);
// Async-signal-safe: the call in hand is finished and answered, then tc_serve returns.
void tc_serve_stop(void);
