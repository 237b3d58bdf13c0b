// SPDX-License-Identifier: Apache-2.0
// Owns: a worker's loop: connect, take calls, compute, answer. Stateless between calls.
// Refuses: the command line (main.c), sockets (proto/expert.h), arithmetic (common/kernels/ffn.h).
#pragma once

#include "proto/expert.h"

// Faults a test can ask for, after so many calls.
typedef enum tc_fault { TC_FAULT_NONE, TC_FAULT_CRASH, TC_FAULT_STALL, TC_FAULT_NAN, TC_FAULT_SIZE } tc_fault;

typedef struct tc_serve_options {
    const char *url;
    const tc_store *store;
    tc_ffn *ffn;
    tc_worker_hello hello;
    tc_fault fault;
    uint64_t fault_after;
} tc_serve_options;

// Runs until tc_serve_stop or until the core turns the worker away (TC_PEER with the reason).
tc_status tc_serve(const tc_serve_options *options, tc_error *e);
// Async-signal-safe: the call in hand is finished first.
void tc_serve_stop(void);
