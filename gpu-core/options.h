// SPDX-License-Identifier: Apache-2.0
// Owns: the core's command line. Refuses: to touch anything else.
#pragma once

#include "common/base/cpus.h"
#include "common/base/log.h"
#include "common/base/settings.h"
#include "common/kernels/kernels.h"
#include "common/placement/hot_cache.h"
#include "proto/tls.h"

enum { TC_CONTEXT_DEFAULT = 4096, TC_SESSIONS_DEFAULT = 8, TC_SESSIONS_MAX = 64, TC_CONTEXT_MAX = 1 << 20 };

#define TC_KV_BY_PRECISION (-1)
#define TC_CACHE_AUTO UINT64_MAX

typedef enum tc_device_kind { TC_DEVICE_CPU, TC_DEVICE_CUDA, TC_DEVICE_AUTO } tc_device_kind;

typedef struct tc_core_options {
    const char *model, *engine_url, *experts_url, *isa;
    const char *remote_url;                   // a second address for workers; NULL: none
    tc_tls tls;                               // for addresses of tls+tcp://
    const char *store;                        // NULL: the model's, in cache_dir
    const char *cache_dir;                    // NULL: the user's
    tc_quantise quantise;                     // as the store was packed
    const char *store_hash;                   // what the store must be; NULL: as it is
    const char *arena_dir;                    // NULL: the default
    uint32_t workers;                         // shares
    uint32_t shard;                           // tc_shard
    bool shard_given;                         // else by the store
    bool local_experts;                       // compute experts in this process
    bool by_nng;                              // calls never travel by shared memory
    uint32_t spin_us;                         // how long waiting threads look before they sleep
    uint32_t threads;                         // 0: online CPUs
    uint32_t cpus[TC_CPU_NUMBERS], cpu_count; // what they are pinned to; 0: not pinned
    tc_precision precision;
    int kv;        // tc_kv_type; TC_KV_BY_PRECISION: f32 for exact, else f16
    uint32_t head; // tc_output
    uint32_t context, sessions;
    uint64_t cache_bytes;      // prefix cache; TC_CACHE_AUTO: a part of what is left, 0: none
    uint64_t hot_budget_bytes; // hot tier; 0: none
    double hot_link_share;
    bool workers_only;      // they compute all cold experts
    bool prompt_share;      // they compute a part of what long prompts need on a GPU
    uint32_t prompt_border; // 0: auto
    tc_cache_policy hot_policy;
    bool hot_policy_given;
    bool kv_grows; // the KV pool takes its memory as it needs it, on a device that can
    bool hot_per_layer;
    uint32_t group_steps;
    const char *profile, *trace_routing; // NULL: none
    uint32_t queue_requests;
    uint64_t queue_tokens, chunk_us;
    uint64_t kv_budget_bytes; // 0: what sessions x context needs, at most TC_KV_BUDGET_DEFAULT_MAX
    uint64_t call_deadline_us, no_worker_us;
    tc_program_settings program;
    int device;                              // tc_device_kind
    uint32_t gpu, hot_experts, chunk_tokens; // chunk_tokens 0: as the device's memory allows
    uint32_t force_hits;                     // percent plus one; 0: the router decides
    uint32_t force_recall;                   // percent of the forced routes that are expected
    uint64_t device_fault_after;             // passes until the device fails, for fault tests; 0: never
    bool device_fault_in_head;
    uint64_t vram_bytes; // 0: what the GPU has
} tc_core_options;

// TC_CANCELLED: help or version was asked for (`show`). Texts borrow from argv.
tc_status tc_core_options_read(int argc, char *const *argv, tc_core_options *ret, tc_error *e);
