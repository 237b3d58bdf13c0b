// SPDX-License-Identifier: Apache-2.0
// Owns: the worker's command line. Refuses: to touch anything else.
#pragma once

#include "common/base/log.h"
#include "expert-worker/cpulist.h"
#include "expert-worker/serve.h"

typedef struct tc_worker_options {
    const char *url, *store, *isa;
    uint32_t index, of;
    tc_shard shard;
    uint32_t threads; // 0: one a CPU of the list
    uint32_t spin_us;
    tc_cpu_list cpus; // count 0: not pinned
    tc_fault fault;
    uint64_t fault_after;
    tc_log_level log_level;
    bool journald;
    long parent_pid;
} tc_worker_options;

// Returns 0, or the exit code (2: usage error, already printed; -1: help was asked for, exit 0).
int tc_worker_options_parse(int argc, char **argv, tc_worker_options *ret);
