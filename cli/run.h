// SPDX-License-Identifier: Apache-2.0
// Owns: how a model is brought up: its packed store, then core, workers and gateway under a supervisor; the
// options that all such verbs share; and, for verbs without a gateway, the conversation with the core.
#pragma once

#include "cli/options.h"
#include "cli/supervise.h"
#include "common/model/store.h"
#include "common/text/tokenizer.h"
#include "proto/engine.h"

typedef struct tc_run_options {
    const char *shard, *data_plane, *precision, *kv, *head, *isa, *cache_dir, *quantise, *device, *log_level;
    const char *log_format, *trace;
    const char *remote_workers, *tls_ca, *tls_cert, *tls_key; // of the core
    const char *config;                    // read by each program before what is told here; NULL: none
    const char *arena_dir;                 // NULL: $THERMOCLINE_ARENA_DIR, else the default
    char store_hash[33];                   // filled by tc_run_load
    const char *model_name, *api_key_file; // of the gateway
    tc_texts hosts, origins;
    uint64_t connections, peer_connections;
    uint64_t drain_s;
    uint64_t workers, threads, worker_threads, context, sessions, kv_budget;
    const char *hot_policy, *hot_scope, *cold_experts, *prompt_share, *prompt_border, *kv_pool, *profile,
        *trace_routing;
    uint64_t hot_budget, hot_link_percent, group_steps;
    uint64_t prefix_cache, queue_requests, queue_tokens, chunk_ms;
    uint64_t gpu, vram, hot_experts, chunk_tokens, force_hits, force_recall;
    const char *device_fault;
    bool empty_experts; // workers answer zeros: bench only
    bool hot_experts_given;
    bool prefix_cache_given;
    bool workers_given; // workers 0: the core computes experts itself (the oracle)
} tc_run_options;

// Entries of an option table for the tc_run_options `o`; all else about them is in common/base/settings.def.
#define TC_RUN_OPTIONS(o)                                                                                    \
    {.setting = TC_OPT_WORKERS, .target = &(o).workers, .given = &(o).workers_given},                        \
        {.setting = TC_OPT_REMOTE_WORKERS, .target = &(o).remote_workers},                                   \
        {.setting = TC_OPT_TLS_CA, .target = &(o).tls_ca},                                                   \
        {.setting = TC_OPT_TLS_CERT, .target = &(o).tls_cert},                                               \
        {.setting = TC_OPT_TLS_KEY, .target = &(o).tls_key},                                                 \
        {.setting = TC_OPT_SHARD, .target = &(o).shard},                                                     \
        {.setting = TC_OPT_DATA_PLANE, .target = &(o).data_plane},                                           \
        {.setting = TC_OPT_THREADS, .target = &(o).threads},                                                 \
        {.setting = TC_OPT_WORKER_THREADS, .target = &(o).worker_threads},                                   \
        {.setting = TC_OPT_CONTEXT, .target = &(o).context},                                                 \
        {.setting = TC_OPT_SESSIONS, .target = &(o).sessions},                                               \
        {.setting = TC_OPT_KV_BUDGET, .target = &(o).kv_budget},                                             \
        {.setting = TC_OPT_PREFIX_CACHE, .target = &(o).prefix_cache, .given = &(o).prefix_cache_given},     \
        {.setting = TC_OPT_QUEUE_REQUESTS, .target = &(o).queue_requests},                                   \
        {.setting = TC_OPT_QUEUE_TOKENS, .target = &(o).queue_tokens},                                       \
        {.setting = TC_OPT_CHUNK_MS, .target = &(o).chunk_ms},                                               \
        {.setting = TC_OPT_HOT_BUDGET, .target = &(o).hot_budget},                                           \
        {.setting = TC_OPT_HOT_POLICY, .target = &(o).hot_policy},                                           \
        {.setting = TC_OPT_HOT_SCOPE, .target = &(o).hot_scope},                                             \
        {.setting = TC_OPT_COLD_EXPERTS, .target = &(o).cold_experts},                                       \
        {.setting = TC_OPT_KV_POOL, .target = &(o).kv_pool},                                                 \
        {.setting = TC_OPT_PROMPT_SHARE, .target = &(o).prompt_share},                                       \
        {.setting = TC_OPT_PROMPT_BORDER, .target = &(o).prompt_border},                                     \
        {.setting = TC_OPT_HOT_LINK_PERCENT, .target = &(o).hot_link_percent},                               \
        {.setting = TC_OPT_GROUP_STEPS, .target = &(o).group_steps},                                         \
        {.setting = TC_OPT_PROFILE, .target = &(o).profile},                                                 \
        {.setting = TC_OPT_TRACE_ROUTING, .target = &(o).trace_routing},                                     \
        {.setting = TC_OPT_PRECISION, .target = &(o).precision}, {.setting = TC_OPT_KV, .target = &(o).kv},  \
        {.setting = TC_OPT_HEAD, .target = &(o).head}, {.setting = TC_OPT_ISA, .target = &(o).isa},          \
        {.setting = TC_OPT_DEVICE, .target = &(o).device}, {.setting = TC_OPT_GPU, .target = &(o).gpu},      \
        {.setting = TC_OPT_VRAM, .target = &(o).vram},                                                       \
        {.setting = TC_OPT_HOT_EXPERTS, .target = &(o).hot_experts, .given = &(o).hot_experts_given},        \
        {.setting = TC_OPT_CHUNK_TOKENS, .target = &(o).chunk_tokens},                                       \
        {.setting = TC_OPT_FORCE_HITS, .target = &(o).force_hits},                                           \
        {.setting = TC_OPT_FORCE_RECALL, .target = &(o).force_recall},                                       \
        {.setting = TC_OPT_DEVICE_FAULT, .target = &(o).device_fault},                                       \
        {.setting = TC_OPT_LOG_LEVEL, .target = &(o).log_level},                                             \
        {.setting = TC_OPT_LOG_FORMAT, .target = &(o).log_format},                                           \
        {.setting = TC_OPT_TRACE, .target = &(o).trace},                                                     \
        {.setting = TC_OPT_ARENA_DIR, .target = &(o).arena_dir}, TC_PACK_OPTIONS(o)

#define TC_PACK_OPTIONS(o)                                                                                   \
    {.setting = TC_OPT_CACHE_DIR, .target = &(o).cache_dir},                                                 \
    {                                                                                                        \
        .setting = TC_OPT_QUANTISE, .target = &(o).quantise                                                  \
    }

// The tokenizer of a folder or a GGUF file.
tc_status tc_run_tokenizer(const char *model, tc_tokenizer **ret, tc_error *e);

// Finds or makes the packed store of the model, with progress, and says so when it has to pack.
tc_status tc_run_prepare(const char *model, const char *cache_dir, const char *quantise, bool force,
                         bool *ret_packed, char ret_path[TC_STORE_PATH_BYTES], tc_error *e);

// What --workers and --threads are where they are not given.
uint32_t tc_run_workers(void);
uint32_t tc_run_threads(void);

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
    // The most that any status told; 0: the device has no memory of its own, nothing is hot.
    uint64_t device_used_bytes, device_total_bytes, hot_bytes;
    tc_engine_detail detail; // status.detail
} tc_local;

// Packs, starts, and waits until the core is ready. On failure nothing is left running.
tc_status tc_local_open(tc_run_options *o, const char *model, tc_local *ret, tc_error *e);
void tc_local_close(tc_local *local);
// The next event of request `id` (others are skipped); id 0: of any request, and statuses as they come. The
// core's end, and a failed request, are errors.
tc_status tc_local_next(tc_local *local, uint64_t id, tc_engine_event *ret, tc_error *e);
tc_status tc_local_ask_status(tc_local *local, tc_error *e); // fills local->status
