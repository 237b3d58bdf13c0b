// SPDX-License-Identifier: Apache-2.0
// Owns: command lines of the three programs, and bringing them up in order.
#include "cli/run.h"
#include "cli/cli.h"
#include "cli/progress.h"
#include "common/base/clock.h"
#include "common/base/cpus.h"
#include "common/model/arena.h"
#include "common/model/source.h"

#include <numa.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SPARE_FROM_CPUS = 8, SPARE_CPUS = 2 };

enum { GATEWAY_GROUP, CORE_GROUP, WORKER_GROUP }; // the order of stopping

// A command line under construction; all texts live in `text`.
typedef struct command {
    char text[8192];
    size_t used;
    char *argv[TC_CHILD_ARGUMENTS_MAX + 1];
    int argc;
    bool full;
} command;

static void put(command *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(command *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(c->text + c->used, sizeof c->text - c->used, format, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof c->text - c->used || c->argc == TC_CHILD_ARGUMENTS_MAX) {
        c->full = true;
        return;
    }
    c->argv[c->argc++] = c->text + c->used;
    c->used += (size_t)n + 1;
}

static void put_text(command *c, const char *name, const char *value)
{
    if (!value) return;
    put(c, "%s", name);
    put(c, "%s", value);
}

static void put_number(command *c, const char *name, uint64_t value)
{
    if (!value) return; // the program's own default
    put(c, "%s", name);
    put(c, "%llu", (unsigned long long)value);
}

static void put_store(command *c, const tc_run_options *o, const char *store)
{
    put_text(c, "--store", store);
    put_text(c, "--store-hash", *o->store_hash ? o->store_hash : NULL);
    put_text(c, "--arena-dir", o->arena_dir);
}

static void put_seeing(command *c, const tc_run_options *o)
{
    put_text(c, "--log-level", o->log_level);
    put_text(c, "--log-format", o->log_format);
    put_text(c, "--trace", o->trace);
}

static tc_status launch(tc_supervisor *s, const char *name, unsigned group, command *c, tc_error *e)
{
    put_number(c, "--parent-pid", (uint64_t)getpid());
    if (c->full) return tc_fail(e, TC_LIMIT, "%s: its command line is too long", name);
    return tc_supervisor_add(s, name, group, c->argv, e);
}

static uint32_t online_cpus(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static uint32_t numa_nodes(void)
{
    int nodes = numa_available() < 0 ? 1 : numa_num_configured_nodes();
    return nodes < 1 ? 1 : (uint32_t)nodes;
}

uint32_t tc_run_workers(void)
{
    return numa_nodes();
}

uint32_t tc_run_threads(void)
{
    const uint32_t cpus = online_cpus();
    return cpus > 256 ? 256 : cpus;
}

const char *tc_arena_dir_of_environment(void)
{
    const char *named = getenv("THERMOCLINE_ARENA_DIR");
    return named && *named ? named : NULL;
}

// CPUs that workers leave to others. A core on a GPU waits for the slowest thread of every layer: one that
// shares its CPU with the gateway costs time slices (16 CPUs, 80B shape: P95 of a token 20 ms with 16
// threads, 9 with 14).
static uint32_t spare_cpus(const tc_run_options *o, uint32_t cpus)
{
    bool gpu = o->device && strcmp(o->device, "auto") != 0 ? strcmp(o->device, "cuda") == 0
                                                           : access("/dev/nvidiactl", F_OK) == 0;
    return gpu && cpus >= SPARE_FROM_CPUS ? SPARE_CPUS : 0;
}

static void fill_defaults(tc_run_options *o)
{
    uint32_t cpus = online_cpus();
    if (!o->arena_dir) o->arena_dir = tc_arena_dir_of_environment();
    if (!o->workers_given) o->workers = tc_run_workers();
    if (!o->threads) o->threads = tc_run_threads();
    if (!o->worker_threads) {
        // On a small machine core and workers take turns: while the experts run the core waits.
        o->worker_threads = o->workers ? (cpus - spare_cpus(o, cpus)) / o->workers : 1;
        if (!o->worker_threads) o->worker_threads = 1;
        if (o->worker_threads > 256) o->worker_threads = 256;
    }
    if (!o->log_level) o->log_level = "warn";
}

// "0-3,8" of the node's CPUs, or nothing when this process may not use all of them.
static bool node_cpus(uint32_t node, char *ret, size_t bytes)
{
    struct bitmask *mask = numa_allocate_cpumask();
    size_t used = 0;
    bool good = mask && numa_node_to_cpus((int)node, mask) == 0;
    ret[0] = 0;
    for (unsigned cpu = 0; good && cpu < mask->size; cpu++) {
        if (!numa_bitmask_isbitset(mask, cpu)) continue;
        int n = snprintf(ret + used, bytes - used, "%s%u", used ? "," : "", cpu);
        good = numa_bitmask_isbitset(numa_all_cpus_ptr, cpu) && n > 0 && (size_t)n < bytes - used;
        used += good ? (size_t)n : 0;
    }
    if (mask) numa_free_cpumask(mask);
    return good && used;
}

void tc_run_engine_url(const tc_supervisor *s, char *ret, size_t bytes)
{
    snprintf(ret, bytes, "ipc://%s/engine", tc_supervisor_dir(s));
}

// One thread of the core and one of the workers a CPU, each in its place: so that who waits hands its CPU to
// whom it waits for, and no two that compute meet on one. A machine with room for all gives each its own.
// `first`: of all these threads, the core's come first.
static void put_cpus(command *c, const tc_run_options *o, uint32_t first, uint32_t count)
{
    uint32_t cpus[TC_CPU_NUMBERS], mine[256];
    char text[2048];
    uint32_t usable = tc_cpus_allowed(cpus, TC_CPU_NUMBERS);
    bool room = o->threads + o->workers * o->worker_threads <= usable;
    if (!o->workers || usable == 0) return; // alone: the system moves threads to where there is time
    if (first >= o->threads && !room) first -= (uint32_t)o->threads;
    for (uint32_t i = 0; i < count; i++) mine[i] = cpus[(first + i) % usable];
    if (count > usable) count = usable;
    tc_cpu_list_print(mine, count, text, sizeof text);
    if (!strstr(text, "...")) put_text(c, "--cpus", text);
}

static tc_status start_core(tc_supervisor *s, const tc_run_options *o, const char *model, const char *store,
                            const char *engine, const char *experts, tc_error *e)
{
    command c = {0};
    put(&c, "thermocline-core");
    put_text(&c, "--config", o->config);
    put_text(&c, "--model", model);
    put_store(&c, o, store);
    put_text(&c, "--engine", engine);
    put_text(&c, "--expert-source", o->workers ? "workers" : "inprocess");
    if (o->workers) put_text(&c, "--experts", experts);
    put_text(&c, "--remote-workers", o->remote_workers);
    put_text(&c, "--tls-ca", o->tls_ca);
    put_text(&c, "--tls-cert", o->tls_cert);
    put_text(&c, "--tls-key", o->tls_key);
    put_number(&c, "--workers", o->workers ? o->workers : 1);
    put_text(&c, "--shard", o->shard);
    put_text(&c, "--data-plane", o->data_plane);
    put_text(&c, "--device", o->device);
    put_number(&c, "--gpu", o->gpu);
    put_number(&c, "--vram", o->vram);
    if (o->hot_experts_given) {
        put(&c, "--hot-experts");
        put(&c, "%llu", (unsigned long long)o->hot_experts);
    }
    put_number(&c, "--chunk-tokens", o->chunk_tokens);
    put_number(&c, "--force-hit-percent", o->force_hits);
    put_number(&c, "--force-recall-percent", o->force_recall);
    put_text(&c, "--device-fault", o->device_fault);
    put_number(&c, "--threads", o->threads);
    put_cpus(&c, o, 0, (uint32_t)o->threads);
    put_text(&c, "--precision", o->precision);
    put_text(&c, "--kv", o->kv);
    put_text(&c, "--head", o->head);
    put_text(&c, "--quantise", o->quantise);
    put_text(&c, "--isa", o->isa);
    put_number(&c, "--context", o->context);
    put_number(&c, "--sessions", o->sessions);
    put_number(&c, "--kv-budget", o->kv_budget);
    if (o->prefix_cache_given) {
        put(&c, "--prefix-cache");
        put(&c, "%llu", (unsigned long long)o->prefix_cache);
    }
    put_number(&c, "--hot-budget", o->hot_budget);
    put_text(&c, "--hot-policy", o->hot_policy);
    put_text(&c, "--hot-scope", o->hot_scope);
    put_text(&c, "--cold-experts", o->cold_experts);
    put_text(&c, "--kv-pool", o->kv_pool);
    put_text(&c, "--prompt-share", o->prompt_share);
    put_text(&c, "--prompt-border", o->prompt_border);
    put_number(&c, "--hot-link-percent", o->hot_link_percent);
    put_number(&c, "--group-steps", o->group_steps);
    put_text(&c, "--profile", o->profile);
    put_text(&c, "--trace-routing", o->trace_routing);
    put_number(&c, "--queue-requests", o->queue_requests);
    put_number(&c, "--queue-tokens", o->queue_tokens);
    put_number(&c, "--chunk-ms", o->chunk_ms);
    put_seeing(&c, o);
    return launch(s, "core", CORE_GROUP, &c, e);
}

static tc_status start_worker(tc_supervisor *s, const tc_run_options *o, uint32_t index, const char *store,
                              const char *experts, tc_error *e)
{
    command c = {0};
    char name[24], cpus[4096];
    put(&c, "thermocline-worker");
    put_text(&c, "--config", o->config);
    put_text(&c, "--connect", experts);
    put_store(&c, o, store);
    put(&c, "--index");
    put(&c, "%u", index);
    put_number(&c, "--of", o->workers);
    put_text(&c, "--shard", o->shard);
    put_number(&c, "--threads", o->worker_threads);
    put_text(&c, "--isa", o->isa);
    if (o->empty_experts) put(&c, "--empty-experts");
    put_seeing(&c, o);
    if (o->workers > 1 && o->workers == numa_nodes() && node_cpus(index, cpus, sizeof cpus))
        put_text(&c, "--cpus", cpus);
    else
        put_cpus(&c, o, (uint32_t)(o->threads + index * o->worker_threads), (uint32_t)o->worker_threads);
    snprintf(name, sizeof name, "worker %u", index);
    return launch(s, name, WORKER_GROUP, &c, e);
}

static tc_status start_gateway(tc_supervisor *s, const tc_run_options *o, const char *model,
                               const char *engine, const char *listen, tc_error *e)
{
    command c = {0};
    put(&c, "thermocline-gateway");
    put_text(&c, "--config", o->config);
    put_text(&c, "--engine", engine);
    put_text(&c, "--model", model);
    put_text(&c, "--listen", listen);
    put_text(&c, "--model-name", o->model_name);
    put_text(&c, "--api-key-file", o->api_key_file);
    for (uint32_t i = 0; i < o->hosts.count; i++) put_text(&c, "--allow-host", o->hosts.items[i]);
    for (uint32_t i = 0; i < o->origins.count; i++) put_text(&c, "--cors-origin", o->origins.items[i]);
    put_number(&c, "--connections", o->connections);
    put_number(&c, "--connections-per-peer", o->peer_connections);
    put(&c, "--drain-seconds");
    put(&c, "%llu", (unsigned long long)o->drain_s);
    put_seeing(&c, o);
    return launch(s, "gateway", GATEWAY_GROUP, &c, e);
}

tc_status tc_run_start(tc_supervisor *s, tc_run_options *o, const char *model, const char *store,
                       const char *listen, tc_error *e)
{
    char engine[128], experts[128];
    tc_run_engine_url(s, engine, sizeof engine);
    snprintf(experts, sizeof experts, "ipc://%s/experts", tc_supervisor_dir(s));
    TC_TRY(start_core(s, o, model, store, engine, experts, e));
    for (uint32_t i = 0; i < o->workers; i++) TC_TRY(start_worker(s, o, i, store, experts, e));
    return listen ? start_gateway(s, o, model, engine, listen, e) : TC_OK;
}

typedef struct load_progress {
    tc_progress bar;
    const char *what; // of the bar under way; NULL: none
} load_progress;

static bool show_load(void *arg, const char *what, uint64_t done, uint64_t total)
{
    load_progress *p = arg;
    if (what != p->what) {
        if (p->what) tc_progress_end(&p->bar);
        if (!total) fprintf(stderr, "thermocline: %s\n", what);
        tc_progress_begin(&p->bar, what);
        p->what = what;
    }
    return tc_progress_step(&p->bar, done, total);
}

static void say_loaded(const tc_arena_report *r)
{
    static const char *const pages[] = {"small pages", "transparent huge pages", "explicit huge pages"};
    char bytes[TC_BYTES_TEXT], huge[TC_BYTES_TEXT], some[64] = "";
    if (r->pages == TC_PAGES_TRANSPARENT && r->huge_bytes < r->bytes)
        snprintf(some, sizeof some, " for %s of it", tc_cli_bytes(r->huge_bytes, huge));
    fprintf(stderr, "thermocline: experts in %s: %s, %s%s\n", r->directory, tc_cli_bytes(r->bytes, bytes),
            pages[r->pages], some);
    if (*r->note) fprintf(stderr, "thermocline: %s\n", r->note);
}

static tc_status choose_shard(tc_run_options *o, const char *store, tc_error *e)
{
    tc_store *file;
    if (o->shard) return TC_OK;
    TC_TRY(tc_store_open(store, &file, e));
    o->shard =
        tc_share_best(tc_store_get_info(file)->units, o->workers) == TC_SHARD_SLICE ? "slice" : "partition";
    tc_store_free(file);
    return TC_OK;
}

tc_status tc_run_load(tc_run_options *o, const char *store, tc_error *e)
{
    fill_defaults(o);
    TC_TRY(choose_shard(o, store, e));
    int nodes[TC_SHARES_MAX];
    uint32_t of = o->workers ? (uint32_t)o->workers : 1;
    load_progress progress = {0};
    tc_arena_report report;
    tc_store *experts;
    for (uint32_t i = 0; i < of; i++) nodes[i] = of > 1 && of == numa_nodes() ? (int)i : -1;
    const tc_arena_options options = {
        .directory = o->arena_dir,
        .store = store,
        .shard = strcmp(o->shard, "slice") ? TC_SHARD_PARTITION : TC_SHARD_SLICE,
        .of = of,
        .nodes = nodes,
        .progress = show_load,
        .arg = &progress,
    };
    tc_status status = tc_arena_open(&options, &experts, &report, e);
    if (progress.what) tc_progress_end(&progress.bar);
    if (status != TC_OK) return status;
    memcpy(o->store_hash, tc_store_get_info(experts)->content_hash, sizeof o->store_hash);
    tc_store_free(experts);
    if (report.filled) say_loaded(&report);
    return TC_OK;
}

tc_status tc_run_tokenizer(const char *model, tc_tokenizer **ret, tc_error *e)
{
    char what[TC_MODEL_PATH_BYTES], *text;
    size_t bytes;
    TC_TRY(tc_model_text(model, TC_FILE_TOKENIZER, TC_TOKENIZER_FILE_BYTES_MAX, &text, &bytes, what, e));
    tc_status status = tc_tokenizer_parse(text, bytes, what, ret, e);
    free(text);
    return status;
}

tc_status tc_run_prepare(const char *model, const char *cache_dir, const char *quantise, bool force,
                         bool *ret_packed, char ret_path[TC_STORE_PATH_BYTES], tc_error *e)
{
    tc_checkpoint *checkpoint = NULL;
    tc_progress progress;
    char path[TC_STORE_PATH_BYTES], users_cache[TC_STORE_PATH_BYTES];
    if (!cache_dir) {
        TC_TRY(tc_store_cache_dir(getenv("XDG_CACHE_HOME"), getenv("HOME"), users_cache, e));
        cache_dir = users_cache;
    }
    TC_TRY(tc_checkpoint_open(model, &checkpoint, e));
    if (tc_quantise_named(quantise) == TC_QUANTISE_KEEP) tc_checkpoint_keep(checkpoint);
    tc_pack_options options = {
        .cache_dir = cache_dir,
        .quantise = tc_quantise_named(quantise),
        .force = force,
        .progress = tc_progress_step,
        .arg = &progress,
    };
    tc_status status = tc_store_path_for(checkpoint, &options, path, e);
    bool packs = status == TC_OK && (force || access(path, R_OK) != 0);
    if (packs) fprintf(stderr, "thermocline: packing the experts of %s into %s\n", model, path);
    if (status == TC_OK) {
        tc_progress_begin(&progress, "packing");
        status = tc_store_pack(checkpoint, &options, path, e);
        tc_progress_end(&progress);
    }
    tc_checkpoint_free(checkpoint);
    if (status != TC_OK) return status;
    memcpy(ret_path, path, sizeof path);
    *ret_packed = packs;
    return TC_OK;
}
