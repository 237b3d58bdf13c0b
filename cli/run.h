// SPDX-License-Identifier: Apache-2.0
// Owns: how a model is brought up: its packed store, then core, workers and gateway under a supervisor; the
// options that all such verbs share; and, for verbs without a gateway, the conversation with the core.
#pragma once

#include "cli/options.h"
#include "cli/supervise.h"
#include "common/model/store.h"
#include "proto/engine.h"

typedef struct tc_run_options {
    const char *shard, *data_plane, *precision, *kv, *head, *isa, *cache_dir, *quantise, *device, *log_level;
    const char *arena_dir;                 // NULL: $THERMOCLINE_ARENA_DIR, else the default
    char store_hash[33];                   // filled by tc_run_load
    const char *model_name, *api_key_file; // of the gateway
    uint64_t drain_s;
    uint64_t workers, threads, worker_threads, context, sessions, kv_budget;
    uint64_t prefix_cache, queue_requests, queue_tokens, chunk_ms;
    bool prefix_cache_given;
    bool workers_given; // workers 0: the core computes experts itself (the oracle)
} tc_run_options;

// Entries of an option table for the tc_run_options `o`.
#define TC_RUN_OPTIONS(o)                                                                                    \
    {.name = "--workers",                                                                                    \
     .kind = TC_OPTION_NUMBER,                                                                               \
     .target = &(o).workers,                                                                                 \
     .max = 64,                                                                                              \
     .given = &(o).workers_given,                                                                            \
     .help = "expert workers (default: one a NUMA node; 0: experts inside the core)"},                       \
        {.name = "--shard",                                                                                  \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).shard,                                                                               \
         .choices = "partition|slice",                                                                       \
         .help = "whole experts a worker, or a slice of each expert's width (default: slice if it divides "  \
                 "well)"},                                                                                   \
        {.name = "--data-plane",                                                                             \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).data_plane,                                                                          \
         .choices = "shm|nng",                                                                               \
         .help = "how calls reach the workers (default: shm)"},                                              \
        {.name = "--threads",                                                                                \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).threads,                                                                             \
         .min = 1,                                                                                           \
         .max = 256,                                                                                         \
         .help = "threads of the core (default: online CPUs)"},                                              \
        {.name = "--worker-threads",                                                                         \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).worker_threads,                                                                      \
         .min = 1,                                                                                           \
         .max = 256,                                                                                         \
         .help = "threads of each worker (default: CPUs / workers)"},                                        \
        {.name = "--context",                                                                                \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).context,                                                                             \
         .min = 16,                                                                                          \
         .max = 1 << 24,                                                                                     \
         .help = "positions of one session"},                                                                \
        {.name = "--sessions",                                                                               \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).sessions,                                                                            \
         .min = 1,                                                                                           \
         .max = 64,                                                                                          \
         .help = "sessions at once"},                                                                        \
        {.name = "--kv-budget",                                                                              \
         .kind = TC_OPTION_BYTES,                                                                            \
         .target = &(o).kv_budget,                                                                           \
         .choices = "BYTES",                                                                                 \
         .min = 1,                                                                                           \
         .max = 1e18,                                                                                        \
         .help = "memory for KV and states (K, M, G may follow)"},                                           \
        {.name = "--prefix-cache",                                                                           \
         .kind = TC_OPTION_BYTES,                                                                            \
         .target = &(o).prefix_cache,                                                                        \
         .given = &(o).prefix_cache_given,                                                                   \
         .choices = "BYTES",                                                                                 \
         .min = 0,                                                                                           \
         .max = 1e18,                                                                                        \
         .help = "kept of computed prompts, 0: nothing (K, M, G may follow)"},                               \
        {.name = "--queue-requests",                                                                         \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).queue_requests,                                                                      \
         .min = 1,                                                                                           \
         .max = 65536,                                                                                       \
         .help = "requests waiting and running; more are refused"},                                          \
        {.name = "--queue-tokens",                                                                           \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).queue_tokens,                                                                        \
         .min = 1,                                                                                           \
         .max = 4294967295,                                                                                  \
         .help = "prompt tokens of all of them"},                                                            \
        {.name = "--chunk-ms",                                                                               \
         .kind = TC_OPTION_NUMBER,                                                                           \
         .target = &(o).chunk_ms,                                                                            \
         .min = 1,                                                                                           \
         .max = 60000,                                                                                       \
         .help = "what a prompt may add to the time between others' tokens"},                                \
        {.name = "--precision",                                                                              \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).precision,                                                                           \
         .choices = "exact|float|fast",                                                                      \
         .help = "exact: every weight rounded as the reference does, plain C"},                              \
        {.name = "--kv",                                                                                     \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).kv,                                                                                  \
         .choices = "f32|f16",                                                                               \
         .help = "how keys and values are kept (default f16; f32 with --precision exact)"},                  \
        {.name = "--head",                                                                                   \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).head,                                                                                \
         .choices = "keep|nf4|int8|bf16",                                                                    \
         .help = "what a 16- or 32-bit output head becomes when it is loaded"},                              \
        {.name = "--isa",                                                                                    \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).isa,                                                                                 \
         .choices = "scalar|avx2|avx512|avx512vnni|amx",                                                     \
         .help = "kernels (default: the best of this CPU)"},                                                 \
        {.name = "--device",                                                                                 \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).device,                                                                              \
         .choices = "cpu|auto",                                                                              \
         .help = "where attention and routers run"},                                                         \
        {.name = "--log-level",                                                                              \
         .kind = TC_OPTION_CHOICE,                                                                           \
         .target = &(o).log_level,                                                                           \
         .choices = "error|warn|info|debug",                                                                 \
         .help = "what the processes tell on stderr"},                                                       \
        {.name = "--arena-dir",                                                                              \
         .kind = TC_OPTION_TEXT,                                                                             \
         .target = &(o).arena_dir,                                                                           \
         .choices = "DIR",                                                                                   \
         .help = "tmpfs or hugetlbfs folder of the experts (default: /dev/shm/thermocline-<uid>)"},          \
        TC_PACK_OPTIONS(o)

#define TC_PACK_OPTIONS(o)                                                                                   \
    {.name = "--cache-dir",                                                                                  \
     .kind = TC_OPTION_TEXT,                                                                                 \
     .target = &(o).cache_dir,                                                                               \
     .choices = "DIR",                                                                                       \
     .help = "folder of packed stores (default: the user's cache)"},                                         \
    {                                                                                                        \
        .name = "--quantise", .kind = TC_OPTION_CHOICE, .target = &(o).quantise, .choices = "nf4",           \
        .help = "quantise 16- and 32-bit experts while packing"                                              \
    }

// Finds or makes the packed store of the model, with progress, and says so when it has to pack.
tc_status tc_run_prepare(const char *model, const char *cache_dir, const char *quantise, bool force,
                         bool *ret_packed, char ret_path[TC_STORE_PATH_BYTES], tc_error *e);

// $THERMOCLINE_ARENA_DIR, or NULL.
const char *tc_arena_dir_of_environment(void);

// Loads the store's experts into shared memory, with progress, unless they are there from an earlier run.
// Before a supervisor takes over the signals: Ctrl-C stops it. Fills defaults of `o` (workers, threads) and
// its store_hash.
tc_status tc_run_load(tc_run_options *o, const char *store, tc_error *e);

// Adds core and workers, and with `listen` a gateway. After tc_run_load.
tc_status tc_run_start(tc_supervisor *supervisor, tc_run_options *o, const char *model, const char *store,
                       const char *listen, tc_error *e);
void tc_run_engine_url(const tc_supervisor *supervisor, char *ret, size_t bytes);

// ---- a model brought up for one verb, without a gateway ----
typedef struct tc_local {
    tc_supervisor *supervisor;
    tc_engine_client *client;
    tc_model_info info;
    tc_engine_status status; // the last one seen
    char store[TC_STORE_PATH_BYTES];
    bool packed;
    uint64_t pack_us, start_us, load_us; // how long each took
} tc_local;

// Packs, starts, and waits until the core is ready. On failure nothing is left running.
tc_status tc_local_open(tc_run_options *o, const char *model, tc_local *ret, tc_error *e);
void tc_local_close(tc_local *local);
// The next event of request `id` (others are skipped); id 0: of any request, and statuses as they come. The
// core's end, and a failed request, are errors.
tc_status tc_local_next(tc_local *local, uint64_t id, tc_engine_event *ret, tc_error *e);
tc_status tc_local_ask_status(tc_local *local, tc_error *e); // fills local->status
