// SPDX-License-Identifier: Apache-2.0
// Owns: what the core makes of its settings (common/base/settings.def).
#include "gpu-core/options.h"
#include "common/base/config.h"
#include "common/base/spin.h"
#include "gpu-core/dev/prompt_way.h"
#include "gpu-core/sched/sched.h"
#include "proto/expert.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// settings.def has these as numbers.
_Static_assert(TC_WORKERS_MAX == 64 && TC_SESSIONS_MAX == 64 && TC_CONTEXT_MAX == 1 << 20,
               "ranges of settings.def");
_Static_assert(TC_QUEUE_REQUESTS_MAX == 65536, "range of queue-requests");

static bool apply_number(tc_setting_id id, uint64_t v, tc_core_options *o)
{
    switch (id) {
    case TC_OPT_WORKERS:
        o->workers = (uint32_t)v;
        return true;
    case TC_OPT_THREADS:
        o->threads = (uint32_t)v;
        return true;
    case TC_OPT_CONTEXT:
        o->context = (uint32_t)v;
        return true;
    case TC_OPT_SESSIONS:
        o->sessions = (uint32_t)v;
        return true;
    case TC_OPT_KV_BUDGET:
        o->kv_budget_bytes = v;
        return true;
    case TC_OPT_HOT_BUDGET:
        o->hot_budget_bytes = v;
        return true;
    case TC_OPT_GROUP_STEPS:
        o->group_steps = (uint32_t)v;
        return true;
    case TC_OPT_HOT_LINK_PERCENT:
        o->hot_link_share = (double)v / 100;
        return true;
    case TC_OPT_PREFIX_CACHE:
        o->cache_bytes = v;
        return true;
    case TC_OPT_QUEUE_REQUESTS:
        o->queue_requests = (uint32_t)v;
        return true;
    case TC_OPT_QUEUE_TOKENS:
        o->queue_tokens = v;
        return true;
    case TC_OPT_CHUNK_MS:
        o->chunk_us = v * 1000;
        return true;
    case TC_OPT_CALL_DEADLINE_MS:
        o->call_deadline_us = v * 1000;
        return true;
    case TC_OPT_NO_WORKER_MS:
        o->no_worker_us = v * 1000;
        return true;
    case TC_OPT_SPIN_US:
        o->spin_us = (uint32_t)v;
        return true;
    case TC_OPT_FORCE_HITS:
        o->force_hits = (uint32_t)v;
        return true;
    case TC_OPT_FORCE_RECALL:
        o->force_recall = (uint32_t)v;
        return true;
    case TC_OPT_GPU:
        o->gpu = (uint32_t)v;
        return true;
    case TC_OPT_VRAM:
        o->vram_bytes = v;
        return true;
    case TC_OPT_HOT_EXPERTS:
        o->hot_experts = (uint32_t)v;
        return true;
    case TC_OPT_CHUNK_TOKENS:
        o->chunk_tokens = (uint32_t)v;
        return true;
    default:
        return false;
    }
}

static bool apply_choice(tc_setting_id id, int choice, tc_core_options *o)
{
    switch (id) {
    case TC_OPT_SHARD:
        o->shard = choice ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
        o->shard_given = true;
        return true;
    case TC_OPT_EXPERT_SOURCE:
        o->local_experts = choice == 1;
        return true;
    case TC_OPT_DATA_PLANE:
        o->by_nng = choice == 1;
        return true;
    case TC_OPT_KV_POOL:
        o->kv_grows = choice == 1;
        return true;
    case TC_OPT_HOT_POLICY:
        o->hot_policy = (tc_cache_policy)choice;
        o->hot_policy_given = true;
        return true;
    case TC_OPT_HOT_SCOPE:
        o->hot_per_layer = choice == 1;
        return true;
    case TC_OPT_COLD_EXPERTS:
        o->workers_only = choice == 1;
        return true;
    case TC_OPT_PROMPT_SHARE:
        o->prompt_share = choice == 1;
        return true;
    case TC_OPT_PRECISION:
        o->precision = (tc_precision)choice;
        return true;
    case TC_OPT_KV:
        o->kv = choice;
        return true;
    case TC_OPT_HEAD:
        o->head = (uint32_t)choice;
        return true;
    case TC_OPT_QUANTISE:
        o->quantise = (tc_quantise)(TC_QUANTISE_NF4 + choice); // in the table's order
        return true;
    case TC_OPT_DEVICE:
        o->device = choice;
        return true;
    default:
        return false;
    }
}

static tc_status device_fault(const char *text, tc_core_options *o, tc_error *e)
{
    int end = 0;
    bool in_head = strncmp(text, "head-after=", 11) == 0,
         known = in_head || !strncmp(text, "layers-after=", 13);
    if (!known || sscanf(strchr(text, '=') + 1, "%" SCNu64 "%n", &o->device_fault_after, &end) != 1 ||
        strchr(text, '=')[1 + end] || !o->device_fault_after)
        return tc_fail(e, TC_ARGUMENT, "--device-fault %s: not layers- or head-after=N", text);
    o->device_fault_in_head = in_head;
    return TC_OK;
}

static tc_status prompt_border(const char *text, tc_core_options *o, tc_error *e)
{
    uint64_t tokens = 0;
    int end = 0;
    o->prompt_border = 0;
    if (strcmp(text, "auto") == 0) return TC_OK;
    if (strlen(text) > 3 || *text < '0' || *text > '9' || sscanf(text, "%" SCNu64 "%n", &tokens, &end) != 1 ||
        text[end] || tokens < TC_PROMPT_LINK_LEAST || tokens > TC_PROMPT_LINK_MOST)
        return tc_fail(e, TC_ARGUMENT, "--prompt-border %.40s: not auto, nor in %d..%d", text,
                       TC_PROMPT_LINK_LEAST, TC_PROMPT_LINK_MOST);
    o->prompt_border = (uint32_t)tokens;
    return TC_OK;
}

static bool apply_text(tc_setting_id id, const char *text, tc_core_options *o)
{
    const struct {
        tc_setting_id id;
        const char **target;
    } texts[] = {{TC_OPT_MODEL, &o->model},
                 {TC_OPT_STORE, &o->store},
                 {TC_OPT_STORE_HASH, &o->store_hash},
                 {TC_OPT_ARENA_DIR, &o->arena_dir},
                 {TC_OPT_ENGINE, &o->engine_url},
                 {TC_OPT_EXPERTS, &o->experts_url},
                 {TC_OPT_REMOTE_WORKERS, &o->remote_url},
                 {TC_OPT_TLS_CA, &o->tls.ca},
                 {TC_OPT_TLS_CERT, &o->tls.cert},
                 {TC_OPT_TLS_KEY, &o->tls.key},
                 {TC_OPT_ISA, &o->isa},
                 {TC_OPT_CACHE_DIR, &o->cache_dir},
                 {TC_OPT_PROFILE, &o->profile},
                 {TC_OPT_TRACE_ROUTING, &o->trace_routing}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].id == id) {
            *texts[i].target = text;
            return true;
        }
    return false;
}

static tc_status apply(void *arg, const tc_setting *s, const tc_setting_value *value, tc_error *e)
{
    tc_core_options *o = arg;
    bool taken;
    tc_status status = tc_program_setting(s, value, &o->program, &taken, e);
    if (taken) return status;
    if (s->id == TC_OPT_CPUS) {
        if (tc_cpu_list_parse(value->text, o->cpus, TC_CPU_NUMBERS, &o->cpu_count, e) == TC_OK) return TC_OK;
        return tc_error_prefix(e, "--cpus %s", value->text);
    }
    if (s->id == TC_OPT_DEVICE_FAULT) return device_fault(value->text, o, e);
    if (s->id == TC_OPT_PROMPT_BORDER) return prompt_border(value->text, o, e);
    if (apply_text(s->id, value->text, o) ||
        (s->kind == TC_SET_CHOICE && apply_choice(s->id, value->choice, o)) ||
        apply_number(s->id, value->number, o))
        return TC_OK;
    return tc_fail(e, TC_INTERNAL, "--%s is not read", s->name);
}

static const char *what_is_missing(const tc_core_options *o)
{
    return !o->model                              ? "--model is missing"
           : !o->engine_url                       ? "--engine is missing"
           : !o->local_experts && !o->experts_url ? "--experts is missing"
                                                  : NULL;
}

tc_status tc_core_options_read(int argc, char *const *argv, tc_core_options *ret, tc_error *e)
{
    tc_core_options o = {
        .precision = TC_FAST,
        .kv = TC_KV_BY_PRECISION,
        .spin_us = TC_SPIN_US,
        .context = TC_CONTEXT_DEFAULT,
        .sessions = TC_SESSIONS_DEFAULT,
        .cache_bytes = TC_CACHE_AUTO,
        .hot_link_share = 0.1,
        .hot_policy = TC_POLICY_DECAYED,
        .queue_requests = TC_QUEUE_REQUESTS_DEFAULT,
        .queue_tokens = TC_QUEUE_TOKENS_DEFAULT,
        .chunk_us = TC_CHUNK_US_DEFAULT,
        .call_deadline_us = 10000000,
        .no_worker_us = 30000000,
        .device = TC_DEVICE_AUTO,
        .hot_experts = UINT32_MAX,
        .prompt_share = true,
        .program = {.log_level = TC_LOG_INFO},
    };
    tc_status status = tc_settings_parse(TC_FOR_CORE, argc, argv, apply, &o, e);
    if (status == TC_OK && what_is_missing(&o)) status = tc_fail(e, TC_ARGUMENT, "%s", what_is_missing(&o));
    if (status == TC_OK && o.experts_url) status = tc_tls_check_url(o.experts_url, &o.tls, e);
    if (status == TC_OK && o.remote_url) status = tc_tls_check_url(o.remote_url, &o.tls, e);
    if (status != TC_OK && status != TC_CANCELLED) return status;
    if (!o.workers) o.workers = tc_numa_nodes();
    if (!o.threads) o.threads = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    *ret = o;
    return status;
}
