// SPDX-License-Identifier: Apache-2.0
// Owns: the life of the core process: open the model, check the budget, place the weights, then loop:
// commands, arrivals, one step. One thread owns all inference state; signals arrive as a file descriptor.
//   0 told to stop · 1 could not start · 2 wrong command line · 4 the device failed
#include "common/base/clock.h"
#include "common/base/config.h"
#include "common/base/mem.h"
#include "common/base/process.h"
#include "common/base/team.h"
#include "common/base/trace.h"
#include "common/model/arena.h"
#include "common/model/dense.h"
#include "gpu-core/budget.h"
#include "gpu-core/dev/cuda_library.h"
#include "gpu-core/experts/gpu_tier.h"
#include "gpu-core/memory.h"
#include "gpu-core/options.h"
#include "gpu-core/placed.h"
#include "gpu-core/sched/sched.h"
#include "proto/expert.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { EXIT_TOLD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_DEVICE_FAILED = 4 };
enum { TRIM_AFTER_US = 2000000 };
#define EXIT_GO_ON (-1)
#define TC_KV_BUDGET_DEFAULT_MAX (2ull << 30)
#define TC_CACHE_DEFAULT_MAX (4ull << 30)

typedef struct core {
    int argc;
    char **argv;
    tc_arguments_full full; // o borrows its texts
    tc_core_options o;
    char store_path[TC_STORE_PATH_BYTES]; // where none was named
    bool told_ready, probed_ready;
    uint64_t worked_us; // when there was something to do; 0: what that left is given back
    tc_checkpoint *checkpoint;
    tc_store *store;
    const tc_model_desc *desc;
    const tc_kernels *kernels;
    tc_team *team;
    tc_dev *dev;
    const tc_cuda_library *cuda; // NULL: the cpu device
    tc_gpu_tier *hot;
    tc_dialled_routes dialled;
    tc_weights *weights;
    tc_expert_hub *hub;
    tc_expert_source *source;
    tc_expert_source *workers; // borrowed: the part of it that asks workers; or NULL
    tc_forward *forward;
    tc_session_pool *pool;
    tc_kv_growth growth;
    bool kv_grows; // the KV pool, where hot experts may use what it does not
    tc_prefix_cache *cache;
    tc_engine_server *server;
    tc_constrainer *constrainer;
    tc_sched *sched;
    tc_placed placed;
    tc_memory_purposes planned;
    tc_memory memory;
    tc_budget budget;
    uint64_t cache_bytes;
    int signals;
} core;

static void log_request(void *arg, bool warning, const char *request, const char *format, ...)
{
    char text[512];
    va_list ap;
    (void)arg;
    if (!tc_log_shows(warning ? TC_LOG_WARN : TC_LOG_DEBUG)) return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    tc_log_request(warning ? TC_LOG_WARN : TC_LOG_DEBUG, request, "%s", text);
}

static void log_source(void *arg, bool warning, const char *text)
{
    (void)arg;
    tc_log(warning ? TC_LOG_WARN : TC_LOG_INFO, "%s", text);
}

static void log_progress(void *arg, uint32_t done, uint32_t total)
{
    uint64_t *last_us = arg, now = tc_now_us();
    if (now - *last_us < 1000000) return;
    *last_us = now;
    tc_info("loading dense weights: %u of %u tensors", done, total);
    tc_notify_status("loading dense weights: %u of %u tensors", done, total);
}

static tc_budget_wish wish_of(const core *c, uint64_t available)
{
    const tc_core_options *o = &c->o;
    return (tc_budget_wish){
        .desc = c->desc,
        .experts = tc_store_get_info(c->store),
        .kv_type = o->kv != TC_KV_BY_PRECISION ? (tc_kv_type)o->kv
                   : o->precision == TC_EXACT  ? TC_KV_F32
                                               : TC_KV_F16,
        .context = o->context,
        .sessions = o->sessions,
        .threads = o->threads,
        .workers = o->local_experts ? 0 : o->workers,
        .by_nng = o->by_nng,
        .chunk_tokens = o->chunk_tokens,
        .kv_budget_bytes = o->kv_budget_bytes ? o->kv_budget_bytes : TC_KV_BUDGET_DEFAULT_MAX,
        .keeps_states = o->cache_bytes > 0,
        .hot = o->hot_budget_bytes > 0,
        .available_bytes = available,
        .gpu = c->cuda != NULL,
        .vram_bytes = o->vram_bytes,
        .shares_prompts = o->prompt_share,
    };
}

// Of the core's own memory: beside a GPU the table of embeddings alone. A core that keeps every bit has told
// the checkpoint so.
static tc_status weights_bytes(const core *c, uint64_t *ret, tc_error *e)
{
    static const char *const heads[] = {[TC_OUTPUT_KEEP] = "keep",
                                        [TC_OUTPUT_NF4] = "nf4",
                                        [TC_OUTPUT_INT8] = "int8",
                                        [TC_OUTPUT_BF16] = "bf16"};
    const tc_dense_options options = {.gpu = c->cuda != NULL};
    tc_dense_bytes dense;
    TC_TRY(tc_dense_bytes_of(c->checkpoint, &options, &dense, e));
    *ret = dense.embedding;
    if (!c->cuda) *ret += dense.rest + tc_dense_head_bytes(c->desc, &dense, heads[c->o.head]);
    return TC_OK;
}

// The whole sum against what the machine has, before anything is taken.
static tc_status plan_memory(core *c, tc_error *e)
{
    tc_budget *b = &c->budget;
    uint64_t weights = 0, available = tc_mem_available_bytes();
    const tc_budget_wish wish = wish_of(c, available);
    TC_TRY(weights_bytes(c, &weights, e));
    TC_TRY(tc_budget_of(&wish, b, e));
    uint64_t sum =
        weights + b->scratch_bytes + b->constraints_bytes + (c->cuda ? 0 : b->kv_bytes + b->state_bytes);
    c->cache_bytes = c->o.cache_bytes;
    if (c->cache_bytes == TC_CACHE_AUTO) {
        uint64_t left = available > sum ? available - sum : 0;
        c->cache_bytes = left / 4 < TC_CACHE_DEFAULT_MAX ? left / 4 : TC_CACHE_DEFAULT_MAX;
    }
    sum += c->cache_bytes + c->o.hot_budget_bytes;
    c->planned = (tc_memory_purposes){weights,          b->kv_bytes,           b->state_bytes,
                                      b->scratch_bytes, c->o.hot_budget_bytes, c->cache_bytes};
    tc_info("memory: dense weights %llu MiB, KV %llu MiB, states %llu MiB, scratch %llu MiB, constraints up "
            "to %llu "
            "MiB, prefix cache up to %llu MiB",
            (unsigned long long)(weights >> 20), (unsigned long long)(b->kv_bytes >> 20),
            (unsigned long long)(b->state_bytes >> 20), (unsigned long long)(b->scratch_bytes >> 20),
            (unsigned long long)(b->constraints_bytes >> 20), (unsigned long long)(c->cache_bytes >> 20));
    if (sum > available)
        return tc_fail(
            e, TC_BUDGET,
            "dense weights %llu + KV %llu + states %llu + scratch %llu + constraints %llu + "
            "prefix cache %llu + hot experts %llu MiB = %llu "
            "MiB, available are %llu MiB; "
            "lower --context, --sessions, --kv-budget, --prefix-cache or --hot-budget",
            (unsigned long long)(weights >> 20), (unsigned long long)(b->kv_bytes >> 20),
            (unsigned long long)(b->state_bytes >> 20), (unsigned long long)(b->scratch_bytes >> 20),
            (unsigned long long)(b->constraints_bytes >> 20), (unsigned long long)(c->cache_bytes >> 20),
            (unsigned long long)(c->o.hot_budget_bytes >> 20), (unsigned long long)(sum >> 20),
            (unsigned long long)(available >> 20));
    return TC_OK;
}

static bool log_experts(void *arg, const char *what, uint64_t done, uint64_t total)
{
    uint64_t *last_us = arg, now = tc_now_us();
    if (now - *last_us < 1000000) return true;
    *last_us = now;
    tc_info("%s: %llu of %llu MiB", what, (unsigned long long)(done >> 20),
            (unsigned long long)(total >> 20));
    tc_notify_status("%s: %llu of %llu MiB", what, (unsigned long long)(done >> 20),
                     (unsigned long long)(total >> 20));
    return true;
}

// Experts computed here are needed here, all of them. Those of workers only lend us their shape: out of their
// arena, so that the file may have gone since, or out of the file, where the workers are elsewhere.
static tc_status choose_shard(core *c, tc_error *e)
{
    tc_store *file;
    if (c->o.shard_given || c->o.workers < 2) return TC_OK;
    TC_TRY(tc_store_open(c->o.store, &file, e));
    c->o.shard = tc_share_best(tc_store_get_info(file)->units, c->o.workers);
    tc_store_free(file);
    return TC_OK;
}

static tc_status open_store(core *c, tc_error *e)
{
    uint64_t last_us = tc_now_us();
    if (!c->o.store) {
        TC_TRY(tc_store_of_model(c->o.model, c->o.cache_dir, getenv("XDG_CACHE_HOME"), getenv("HOME"),
                                 c->o.quantise, c->store_path, e));
        c->o.store = c->store_path;
    }
    TC_TRY(choose_shard(c, e));
    const tc_arena_options options = {.directory = c->o.arena_dir,
                                      .store = c->o.store,
                                      .content_hash = c->o.store_hash,
                                      .shard = c->o.shard,
                                      .of = c->o.local_experts ? 1 : c->o.workers,
                                      .attach_only = !c->o.local_experts,
                                      .threads = c->o.threads,
                                      .progress = log_experts,
                                      .arg = &last_us};
    tc_arena_report report;
    tc_status status = tc_arena_open(&options, &c->store, &report, e);
    if (status != TC_OK) return c->o.local_experts ? status : tc_store_open(c->o.store, &c->store, e);
    if (c->o.local_experts) tc_arena_settle(c->store, 0, -1);
    if (*report.note) tc_warn("%s", report.note);
    return TC_OK;
}

static tc_status open_model(core *c, tc_error *e)
{
    TC_TRY(tc_checkpoint_open(c->o.model, &c->checkpoint, e));
    if (c->o.quantise == TC_QUANTISE_KEEP) tc_checkpoint_keep(c->checkpoint);
    c->desc = tc_checkpoint_desc(c->checkpoint);
    TC_TRY(open_store(c, e));
    const tc_store_info *info = tc_store_get_info(c->store);
    if (strcmp(info->model_hash, tc_checkpoint_hash(c->checkpoint)) != 0)
        return tc_fail(e, TC_FORMAT, "%s: packed from another model (hash %s, the model's is %s)", c->o.store,
                       info->model_hash, tc_checkpoint_hash(c->checkpoint));
    if (c->o.context > c->desc->max_positions) {
        tc_info("context %u is cut to the model's %u positions", c->o.context, c->desc->max_positions);
        c->o.context = c->desc->max_positions;
    }
    return tc_kernels_get(c->o.precision, c->o.isa, &c->kernels, e);
}

// Not to be had: said once, and everything goes by message.
static void share_memory(core *c)
{
    tc_error error;
    if (c->o.by_nng) return;
    tc_expert_hub_spin(c->hub, c->o.spin_us);
    if (tc_expert_hub_share(c->hub, c->budget.call_tokens, c->desc->hidden,
                            c->budget.call_tokens * c->desc->top_k, &error) != TC_OK)
        tc_warn("no shared memory for expert workers, calls go by message: %s", error.text);
}

static tc_status open_experts(core *c, tc_error *e)
{
    if (c->o.local_experts)
        return tc_source_local_create(c->store, c->team, c->budget.call_tokens, c->o.isa, &c->source, e);
    TC_TRY(tc_expert_hub_open(NULL, tc_checkpoint_hash(c->checkpoint), &c->hub, e));
    TC_TRY(tc_expert_hub_require_store(c->hub, tc_store_get_info(c->store)->content_hash, e));
    TC_TRY(tc_expert_hub_listen(c->hub, c->o.experts_url, &c->o.tls, e));
    if (c->o.remote_url) TC_TRY(tc_expert_hub_listen(c->hub, c->o.remote_url, &c->o.tls, e));
    share_memory(c);
    const tc_workers_options options = {
        .expected = c->o.workers,
        .shard = c->o.shard,
        .call_deadline_us = c->o.call_deadline_us,
        .no_worker_us = c->o.no_worker_us,
        .log = log_source,
    };
    TC_TRY(tc_source_workers_create(c->hub, c->store, &options, &c->source, e));
    c->workers = c->source;
    return TC_OK;
}

// Which device, and why: --device cuda insists, auto takes a GPU where one can be used for this.
static tc_status choose_device(core *c, tc_error *e)
{
    char card[128] = "";
    tc_error why = {0};
    if (c->o.device == TC_DEVICE_CPU) return TC_OK;
    // A kernel loaded at its first use waits for the device, and the device may be waiting for a worker that
    // only this thread can wake.
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    if (c->o.hot_budget_bytes)
        tc_fail(&why, TC_UNSUPPORTED,
                "--hot-budget is the cpu device's; --vram and --hot-experts say what a GPU keeps");
    else if (c->o.precision != TC_FAST || (c->o.kv != TC_KV_BY_PRECISION && c->o.kv != TC_KV_F16))
        tc_fail(&why, TC_UNSUPPORTED, "it computes --precision fast with --kv f16 only");
    else
        (void)tc_cuda_library_load(c->o.gpu, &c->cuda, card, &why);
    if (c->cuda) {
        tc_info("device: cuda, %s", card);
        return TC_OK;
    }
    if (c->o.device == TC_DEVICE_CUDA) return tc_fail(e, why.status, "--device cuda: %s", why.text);
    tc_info("device: cpu (cuda: %s)", why.text);
    return TC_OK;
}

static tc_status open_device(core *c, tc_error *e)
{
    if (!c->cuda && c->o.force_hits)
        return tc_fail(e, TC_ARGUMENT,
                       "--force-hit-percent needs a GPU: the cpu device's routes are not dialled");
    if (!c->cuda) return tc_dev_cpu_create(&c->budget.geometry, c->team, c->kernels, &c->dev, e);
    const tc_budget_wish wish = wish_of(c, 0);
    tc_cuda_options options = tc_budget_cuda(&wish, &c->budget);
    options.ordinal = c->o.gpu;
    options.fetch_percent = c->o.workers_only ? 0 : -1;
    options.call_deadline_us = c->o.call_deadline_us;
    options.prompt_percent = c->o.prompt_share && !c->o.local_experts ? -1 : 0;
    options.prompt_border = c->o.prompt_border;
    options.kv_grows = c->o.kv_grows;
    options.log = log_source;
    return c->cuda->create(&options, &c->dev, e);
}

// An eighth of the hot experts goes, between steps, and its memory with it.
static bool give_slots(void *arg)
{
    core *c = arg;
    if (!tc_placement_make_way(c->placed.placement)) return false;
    tc_gpu_tier_settle(c->hot);
    tc_placement_begin(c->placed.placement, true);
    return true;
}

// The KV pool keeps its first part only while hot experts are given what is left; with none of them, or with
// some that stay (dialled routes), it keeps all.
static void lend_kv(core *c)
{
    c->kv_grows = c->o.kv_grows && !c->o.force_hits && c->dev->ops->pages_back;
    if (c->kv_grows) tc_kv_growth_begin(&c->growth, c->dev, give_slots, c);
}

static void keep_kv(core *c)
{
    if (!c->kv_grows || c->hot) return;
    (void)tc_kv_growth_need(&c->growth, c->dev->geometry.pages);
    c->kv_grows = c->growth.backed < c->dev->geometry.pages;
}

// Last of all that takes VRAM: hot experts fill what is left.
static tc_status open_hot(core *c, tc_error *e)
{
    tc_cuda_memory m;
    if (!c->cuda) return TC_OK;
    lend_kv(c);
    if (!c->o.hot_policy_given) c->o.hot_policy = TC_POLICY_PREDICTIVE; // its link has time to spare
    const tc_gpu_tier_options options = {.cuda = c->cuda,
                                         .dev = c->dev,
                                         .store = c->store,
                                         .wanted = c->o.hot_experts,
                                         .policy = c->o.hot_policy,
                                         .per_layer = c->o.hot_per_layer,
                                         .link_share = c->o.hot_link_share};
    TC_TRY(tc_gpu_tier_create(&options, &c->hot, e));
    keep_kv(c);
    c->cuda->hot.look_ahead(c->dev, c->o.hot_policy == TC_POLICY_PREDICTIVE);
    if (c->o.force_hits) {
        c->dialled = (tc_dialled_routes){.layers = c->desc->layers,
                                         .experts = c->desc->experts,
                                         .top_k = c->desc->top_k,
                                         .hot = c->hot ? tc_gpu_tier_fill_evenly(c->hot) : 0,
                                         .percent = c->o.force_hits - 1,
                                         .recall = c->o.force_recall,
                                         .state = 1};
        tc_info("routes are dialled: %u of 100 to the %u hot experts of each layer", c->dialled.percent,
                c->dialled.hot);
        TC_TRY(tc_forward_force(c->forward, tc_dialled_routes_fill, &c->dialled, e));
    }
    c->cuda->memory(c->dev, &m);
    tc_info(
        "VRAM: %llu of %llu MiB: context %llu, weights %llu, KV %llu (may grow by %llu), states %llu, "
        "scratch "
        "%llu, hot experts %llu",
        (unsigned long long)(m.peak_bytes >> 20), (unsigned long long)(m.budget_bytes >> 20),
        (unsigned long long)(m.context_bytes >> 20), (unsigned long long)(m.tag_bytes[TC_MEM_WEIGHTS] >> 20),
        (unsigned long long)(m.tag_bytes[TC_MEM_KV] >> 20), (unsigned long long)(m.kv_owed_bytes >> 20),
        (unsigned long long)(m.tag_bytes[TC_MEM_STATE] >> 20),
        (unsigned long long)(m.tag_bytes[TC_MEM_SCRATCH] >> 20), (unsigned long long)(m.slot_bytes >> 20));
    return TC_OK;
}

// On the cpu device it may stand before the source, so the source must be whole first; with a GPU it is told
// of the slots, which are taken last.
static tc_status open_placed(core *c, tc_error *e)
{
    return tc_placed_open(&c->o, c->desc, tc_checkpoint_hash(c->checkpoint), c->store, c->team,
                          c->dev->tokens_max, &c->source, c->hot, &c->placed, e);
}

static bool device_room(void *arg, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes)
{
    const core *c = arg;
    tc_cuda_memory m;
    c->cuda->memory(c->dev, &m);
    *ret_free_bytes = m.free_bytes;
    *ret_total_bytes = m.total_bytes;
    return m.total_bytes > 0;
}

static void device_held(void *arg, uint64_t *ret_kv_bytes, uint64_t *ret_kv_owed_bytes,
                        uint64_t *ret_hot_bytes)
{
    const core *c = arg;
    tc_cuda_memory m;
    c->cuda->memory(c->dev, &m);
    *ret_kv_bytes = m.tag_bytes[TC_MEM_KV];
    *ret_kv_owed_bytes = m.kv_owed_bytes;
    *ret_hot_bytes = m.slot_bytes;
}

static void device_memory(void *arg, tc_engine_detail *ret)
{
    const core *c = arg;
    tc_cuda_memory m;
    c->cuda->memory(c->dev, &m);
    ret->device_used_bytes = m.peak_bytes;
    ret->device_total_bytes = m.budget_bytes;
    memcpy(ret->device_bytes, m.tag_bytes, sizeof ret->device_bytes);
    ret->device_driver_bytes = m.context_bytes;
    const tc_ahead_stats a = c->cuda->hot.ahead(c->dev);
    ret->expected = a.expected;
    ret->expected_true = a.expected_true;
    ret->ahead_fills = a.fills;
    ret->ahead_used = a.used;
}

static void describe(const core *c, tc_model_info *ret)
{
    const tc_generation_defaults *g = &c->desc->generation;
    tc_model_info info = {
        .layers = c->desc->layers,
        .hidden = c->desc->hidden,
        .vocab = c->desc->vocab,
        .experts = c->desc->experts,
        .top_k = c->desc->top_k,
        .context = c->o.context,
        .sessions_max = c->o.sessions,
        .weights_bytes = c->weights->bytes,
        .experts_bytes = tc_store_get_info(c->store)->bytes,
        .kv_budget_bytes = c->budget.kv_bytes + c->budget.state_bytes,
        .cache_budget_bytes = c->cache_bytes,
        .queue_requests_max = c->o.queue_requests,
        .queue_tokens_max = c->o.queue_tokens,
        .do_sample = g->do_sample,
        .temperature = g->temperature,
        .top_p = g->top_p,
        .min_p = g->min_p,
        .repetition_penalty = g->repetition_penalty,
        .default_top_k = g->top_k,
    };
    snprintf(info.family, sizeof info.family, "%s", c->desc->family);
    snprintf(info.model_hash, sizeof info.model_hash, "%s", tc_checkpoint_hash(c->checkpoint));
    snprintf(info.device, sizeof info.device, "%s", c->dev->ops->name);
    snprintf(info.precision, sizeof info.precision, "%s", tc_precision_name(c->o.precision));
    snprintf(info.isa, sizeof info.isa, "%s", c->kernels->name);
    *ret = info;
}

static tc_status open_constrainer(core *c, tc_error *e)
{
    return tc_constrainer_create(c->o.model, c->desc->vocab, &c->constrainer, e);
}

static size_t report_memory(void *arg, char *out, size_t room)
{
    return tc_memory_report(arg, out, room);
}

static tc_status memory_room(void *arg, uint64_t bytes, tc_error *e)
{
    return tc_memory_room(arg, bytes, e);
}

static tc_status start(core *c, tc_error *e)
{
    uint64_t begin = tc_now_us(), last_line = begin;
    uint32_t pins[TC_TEAM_THREADS_MAX];
    for (uint32_t i = 0; i < c->o.threads && c->o.cpu_count; i++) pins[i] = c->o.cpus[i % c->o.cpu_count];
    const tc_team_options team = {
        .threads = c->o.threads, .cpus = c->o.cpu_count ? pins : NULL, .spin_us = c->o.spin_us};
    if (c->o.program.trace) TC_TRY(tc_trace_open(c->o.program.trace, "thermocline-core", e));
    TC_TRY(open_model(c, e));
    TC_TRY(choose_device(c, e));
    TC_TRY(plan_memory(c, e));
    TC_TRY(tc_team_create(&team, &c->team, e));
    TC_TRY(open_device(c, e));
    TC_TRY(open_experts(c, e));
    if (!c->cuda) TC_TRY(open_placed(c, e));
    TC_TRY(tc_weights_load(c->checkpoint, c->dev, c->team, (tc_output)c->o.head, log_progress, &last_line,
                           &c->weights, e));
    TC_TRY(tc_forward_create(c->weights, c->dev, c->source, c->o.precision, &c->forward, e));
    tc_forward_break(c->forward, c->o.device_fault_after, c->o.device_fault_in_head);
    TC_TRY(open_hot(c, e));
    if (c->cuda) TC_TRY(open_placed(c, e));
    if (c->placed.placement)
        (void)tc_forward_watched(c->forward, &(tc_forward_watch){.arg = c->placed.placement,
                                                                 .begins = tc_placement_pass_begins,
                                                                 .routed = tc_placement_routed,
                                                                 .expects = tc_placement_expects});
    TC_TRY(tc_session_pool_create(c->dev, c->o.context, &c->pool, e));
    if (c->kv_grows) tc_session_pool_grow(c->pool, &c->growth);
    if (c->cache_bytes) TC_TRY(tc_prefix_cache_create(c->dev, c->cache_bytes, &c->cache, e));
    tc_model_info info;
    describe(c, &info);
    TC_TRY(tc_engine_server_open(c->o.engine_url, &info, &c->server, e));
    TC_TRY(open_constrainer(c, e));
    // slots in VRAM give nothing back to this memory, but to their own
    tc_memory_begin(&c->memory, &c->planned, c->placed.placement, c->cuda ? NULL : c->placed.cache, c->cache);
    if (c->cuda)
        tc_memory_watch_device(&c->memory, &(tc_memory_device){device_room, c, c->placed.cache,
                                                               c->kv_grows ? &c->growth : NULL, device_held});
    // The cpu device takes prompts token by token, so they may be cut finer than pages.
    enum { CPU_PROMPT_GRAIN = 8 };
    const tc_sched_options sched = {
        .device_memory = c->cuda ? device_memory : NULL,
        .device_arg = c,
        .prompt_grain = strcmp(c->dev->ops->name, "cpu") == 0 ? CPU_PROMPT_GRAIN : 0,
        .desc = c->desc,
        .forward = c->forward,
        .dense = tc_dense_for(c->kernels->name),
        .pool = c->pool,
        .cache = c->cache,
        .constrainer = c->constrainer,
        .source = c->source,
        .server = c->server,
        .context = c->o.context,
        .sessions = c->o.sessions,
        .queue_requests = c->o.queue_requests,
        .queue_tokens = c->o.queue_tokens,
        .chunk_us = c->o.chunk_us,
        .tokens_max = c->dev->tokens_max,
        .coarse_cuts = c->cuda != NULL,
        .experts_are_hot = c->o.local_experts && !c->placed.cache,
        .placement = c->placed.placement,
        .group_steps = c->o.group_steps,
        .memory = report_memory,
        .memory_room = memory_room,
        .memory_arg = &c->memory,
        .log = log_request,
    };
    TC_TRY(tc_sched_create(&sched, &c->sched, e));
    tc_info("ready in %llu ms: %s, %u layers, %u threads, %s kernels, %s precision, context %u, %u sessions",
            (unsigned long long)((tc_now_us() - begin) / 1000), c->desc->family, c->desc->layers,
            c->o.threads, c->kernels->name, info.precision, c->o.context, c->o.sessions);
    return TC_OK;
}

static void stop(core *c)
{
    tc_probe_ready(false);
    if (c->sched) tc_sched_fail_all(c->sched, TC_CLOSED, "the server is shutting down");
    tc_sched_free(c->sched);
    tc_constrainer_free(c->constrainer);
    tc_engine_server_close(c->server);
    tc_prefix_cache_free(c->cache);
    tc_session_pool_free(c->pool);
    tc_forward_free(c->forward);
    tc_placed_stop(&c->placed);
    if (c->source) c->source->ops->free(c->source);
    tc_placed_close(&c->placed);
    tc_expert_hub_close(c->hub);
    tc_gpu_tier_free(c->hot);
    tc_weights_free(c->weights);
    tc_dev_free(c->dev);
    tc_team_free(c->team);
    tc_store_free(c->store);
    tc_checkpoint_free(c->checkpoint);
    if (c->signals >= 0) close(c->signals);
    tc_trace_close();
}

// What SIGHUP applies (TC_SETTING_RELOAD); a configuration that is wrong changes nothing.
static void reload(core *c)
{
    tc_error error;
    tc_arguments_full full;
    tc_core_options o;
    char others[400];
    tc_notify_reloading();
    tc_status status = tc_config_expand(TC_FOR_CORE, c->argc, c->argv, environ, &full, &error);
    if (status == TC_OK && (status = tc_core_options_read(full.argc, full.argv, &o, &error)) != TC_OK)
        tc_config_expand_free(&full);
    if (status != TC_OK) {
        tc_error_log("the configuration stays as it was: %s", error.text);
    } else {
        tc_log_set(o.program.log_level, o.program.log_format);
        tc_sched_tune(c->sched, o.chunk_us, o.queue_tokens);
        if (c->workers) tc_source_workers_tune(c->workers, o.call_deadline_us, o.no_worker_us);
        tc_config_needs_restart(TC_FOR_CORE, &c->full, &full, others, sizeof others);
        tc_info("configuration applied%s%s", *others ? "; these need a restart: " : "", others);
        tc_config_expand_free(&full);
    }
    c->told_ready = false;
}

// Readiness is told when the weights are here and every expert can be computed.
static void tell_manager(core *c)
{
    tc_source_stats stats;
    if (!tc_notify_is_on()) return;
    if (c->told_ready && !c->o.program.probe_dir) return;
    c->source->ops->stats(c->source, &stats);
    if (c->o.program.probe_dir && c->probed_ready != !*stats.reason)
        tc_probe_ready(c->probed_ready = !*stats.reason);
    if (c->told_ready) return;
    if (*stats.reason) {
        tc_notify_status("waiting: %s", stats.reason);
        return;
    }
    tc_notify_ready("serving %s, %u of %u workers", c->desc->family, stats.workers_up,
                    stats.workers_expected);
    c->told_ready = true;
}

// False: time to leave.
static bool take_signal(core *c)
{
    struct signalfd_siginfo info;
    if (read(c->signals, &info, sizeof info) != (ssize_t)sizeof info) return true;
    if (info.ssi_signo == SIGHUP) {
        reload(c);
        return true;
    }
    tc_info("signal %u: shutting down", info.ssi_signo);
    tc_notify_stopping();
    return false;
}

// Waits until a command, a worker or a signal is there. False: time to leave.
static bool wait_for_work(core *c, bool idle)
{
    struct pollfd fds[] = {
        {.fd = c->signals, .events = POLLIN},
        {.fd = tc_engine_server_fd(c->server), .events = POLLIN},
        {.fd = c->source->ops->fd(c->source), .events = POLLIN},
    };
    uint64_t most_us = tc_notify_interval_us() < 1000000 ? tc_notify_interval_us() : 1000000;
    uint64_t idle_us = idle ? tc_sched_idle_us(c->sched, most_us) : 0;
    if (poll(fds, 3, (int)((idle_us + 999) / 1000)) < 0 && errno != EINTR) return false;
    return !(fds[0].revents & POLLIN) || take_signal(c);
}

// A device that failed computes nothing any more; a new process may find it well. False: time to leave.
static bool device_works(core *c)
{
    tc_error error;
    if (tc_forward_check(c->forward, &error) == TC_OK) return true;
    tc_error_log("the device failed: %s", error.text);
    tc_notify_status("the device failed: %s", error.text);
    tc_sched_fail_all(c->sched, TC_CLOSED, TC_FORWARD_DEVICE_FAILED);
    return false;
}

// What a burst of requests left in malloc's hands goes back once nobody has asked for anything for a while.
static void trim_at_rest(core *c, bool idle, uint64_t now_us)
{
    if (!idle) {
        c->worked_us = now_us;
    } else if (c->worked_us && now_us - c->worked_us >= TRIM_AFTER_US) {
        c->worked_us = 0;
        tc_mem_trim();
    }
}

// The manager's watchdog is fed here and nowhere else: a step that does not end is a service that hangs.
// False: the device failed.
static bool serve(core *c)
{
    bool idle = true;
    tc_command command;
    while (wait_for_work(c, idle)) {
        while (tc_engine_server_next(c->server, 0, &command) == TC_OK) tc_sched_command(c->sched, &command);
        c->source->ops->poll(c->source);
        tc_memory_poll(&c->memory, tc_now_us());
        tell_manager(c);
        if (c->hot) tc_gpu_tier_poll(c->hot);
        idle = !tc_sched_step(c->sched);
        if (!device_works(c)) return false;
        const uint64_t now_us = tc_now_us();
        if (c->kv_grows) tc_kv_growth_poll(&c->growth, tc_session_pages_end(c->pool), now_us);
        trim_at_rest(c, idle, now_us);
        if (idle && tc_trace_on) tc_trace_flush();
        if (idle && c->hot && tc_gpu_tier_idle(c->hot)) idle = false;
        tc_notify_alive(now_us);
    }
    return true;
}

// Nothing of a failed device is freed: that could wait for it for ever. What clients were told goes out.
static _Noreturn void leave_failed(core *c)
{
    tc_probe_ready(false);
    tc_engine_server_close(c->server);
    tc_trace_close();
    _exit(EXIT_DEVICE_FAILED);
}

// EXIT_GO_ON: go on; else the exit code.
static int read_options(core *c, tc_error *e)
{
    tc_log_init("core", TC_LOG_INFO, false);
    tc_status status = tc_config_expand(TC_FOR_CORE, c->argc, c->argv, environ, &c->full, e);
    if (status == TC_OK) status = tc_core_options_read(c->full.argc, c->full.argv, &c->o, e);
    if (status == TC_OK) return EXIT_GO_ON;
    if (status != TC_CANCELLED) {
        tc_error_log("%s", e->text);
        return EXIT_USAGE;
    }
    if (c->o.program.show == TC_OPT_VERSION) {
        puts("thermocline-core " TC_VERSION);
    } else {
        puts("usage: thermocline-core --model DIR --engine URL --experts URL [options]");
        tc_settings_help(TC_FOR_CORE, stdout);
    }
    return EXIT_TOLD;
}

int main(int argc, char **argv)
{
    core c = {.argc = argc, .argv = argv, .signals = -1};
    tc_error error;
    int code = read_options(&c, &error);
    if (code != EXIT_GO_ON) {
        tc_config_expand_free(&c.full);
        return code;
    }
    tc_log_init("core", c.o.program.log_level, c.o.program.journald);
    tc_log_set(c.o.program.log_level, c.o.program.log_format);
    if (!c.o.program.core_dumps) tc_process_forbid_dumps();
    tc_notify_init(getenv("NOTIFY_SOCKET"), getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
    if (c.o.program.probe_dir && tc_probe_init(c.o.program.probe_dir, &error) != TC_OK) {
        tc_error_log("%s", error.text);
        return EXIT_FAILED;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL); // before any thread: all of them inherit it
    signal(SIGPIPE, SIG_IGN);
    if (!tc_process_follow_parent(c.o.program.parent_pid)) return EXIT_FAILED;
    c.signals = signalfd(-1, &set, SFD_CLOEXEC);
    tc_status status = c.signals < 0 ? tc_fail_errno(&error, TC_IO, "signalfd") : start(&c, &error);
    if (status == TC_OK) {
        if (!serve(&c)) leave_failed(&c);
    } else {
        tc_error_log("%s", error.text);
        tc_notify_status("%s", error.text);
    }
    stop(&c);
    tc_config_expand_free(&c.full);
    return status == TC_OK ? EXIT_TOLD : EXIT_FAILED;
}
