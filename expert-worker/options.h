// SPDX-License-Identifier: Apache-2.0
// Owns: the worker's command line, parsed and range-checked.
// Refuses: anything it does not know: an error line on stderr, and the program ends with 2.
#pragma once

#include "common/base/cpus.h"
#include "common/base/log.h"
#include "proto/expert.h"

// What a fault test makes the worker do after it has answered `after` calls.
typedef enum tc_worker_fault {
    TC_FAULT_NONE,
    TC_FAULT_CRASH, // dies on the spot
    TC_FAULT_STALL, // takes the call and never answers
    TC_FAULT_LIE,   // answers with another shape than was asked for
    TC_FAULT_NAN,   // answers as if a part had not been finite
} tc_worker_fault;

enum { TC_CPUS_MAX = TC_CPU_NUMBERS };

typedef struct tc_worker_options {
    const char *connect, *store;
    const char *store_hash; // what the store must be; NULL: as it is
    const char *arena_dir;  // NULL: the default
    uint32_t index, of;
    tc_shard shard;
    uint32_t threads;                      // 0: as many as there are CPUs for us
    uint32_t cpus[TC_CPUS_MAX], cpu_count; // 0: not pinned, unless `node` is given
    int node;                              // -1: none
    const char *isa;                       // NULL: the best
    uint32_t spin_us;
    tc_log_level log_level;
    bool journald;
    long parent_pid; // 0: none
    tc_worker_fault fault;
    uint64_t fault_after;
} tc_worker_options;

typedef enum tc_parsed { TC_PARSED_RUN, TC_PARSED_HELP, TC_PARSED_WRONG } tc_parsed;

tc_parsed tc_worker_parse(int argc, char **argv, tc_worker_options *ret);
