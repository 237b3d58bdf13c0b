// SPDX-License-Identifier: Apache-2.0
// Owns: the worker's command line, parsed and range-checked.
// Refuses: anything it does not know.
#pragma once

#include "common/base/cpus.h"
#include "common/base/log.h"
#include "common/base/settings.h"
#include "common/model/checkpoint.h"
#include "proto/expert.h"

// What a fault test makes the worker do after it has answered `after` calls.
typedef enum tc_worker_fault {
    TC_FAULT_NONE,
    TC_FAULT_CRASH,  // dies on the spot
    TC_FAULT_STALL,  // takes the call and never answers
    TC_FAULT_LIE,    // answers with another shape than was asked for
    TC_FAULT_NAN,    // answers as if a part had not been finite
    TC_FAULT_SLOW,   // answers rightly, TC_FAULT_SLOW_MS later
    TC_FAULT_ID,     // answers another call than it was given
    TC_FAULT_REPLAY, // answers the call before once more instead
    TC_FAULTS
} tc_worker_fault;

enum { TC_FAULT_SLOW_MS = 300 };

enum { TC_CPUS_MAX = TC_CPU_NUMBERS };

typedef struct tc_worker_options {
    const char *connect;
    tc_tls tls;                    // for tls+tcp://
    const char *store;             // NULL: that of `model`, in cache_dir
    const char *model, *cache_dir; // cache_dir NULL: the user's
    tc_quantise quantise;          // as the store was packed
    const char *store_hash;        // what the store must be; NULL: as it is
    const char *arena_dir;         // NULL: the default
    uint32_t index, of;
    tc_shard shard;
    bool shard_given;                      // else by the store
    uint32_t threads;                      // 0: as many as there are CPUs for us
    uint32_t cpus[TC_CPUS_MAX], cpu_count; // 0: not pinned, unless `node` is given
    int node;                              // -1: none
    const char *isa;                       // NULL: the best
    uint32_t spin_us;
    bool node_of_index; // its node is its index, where each worker has one
    tc_program_settings program;
    bool empty; // answers zeros
    tc_worker_fault fault;
    uint64_t fault_after;
} tc_worker_options;

// TC_CANCELLED: help or version was asked for (`show`). Texts borrow from argv.
tc_status tc_worker_options_read(int argc, char *const *argv, tc_worker_options *ret, tc_error *e);
