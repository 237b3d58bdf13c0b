// SPDX-License-Identifier: Apache-2.0
// Owns: what the worker makes of its settings (common/base/settings.def).
#include "expert-worker/options.h"

#include "common/base/spin.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(TC_WORKERS_MAX == 64 && TC_TEAM_THREADS_MAX >= 256, "ranges of settings.def");

static tc_status fault(const char *text, tc_worker_options *o, tc_error *e)
{
    static const char *const names[TC_FAULTS] = {
        [TC_FAULT_CRASH] = "crash-after=",  [TC_FAULT_STALL] = "stall-after=", [TC_FAULT_LIE] = "lie-after=",
        [TC_FAULT_NAN] = "nan-after=",      [TC_FAULT_SLOW] = "slow-after=",   [TC_FAULT_ID] = "id-after=",
        [TC_FAULT_REPLAY] = "replay-after="};
    for (int i = 1; i < TC_FAULTS; i++) {
        size_t n = strlen(names[i]);
        char *end;
        if (strncmp(text, names[i], n) != 0) continue;
        o->fault = (tc_worker_fault)i;
        errno = 0;
        o->fault_after = strtoull(text + n, &end, 10);
        if (text[n] >= '0' && text[n] <= '9' && !*end && !errno) return TC_OK;
    }
    return tc_fail(e, TC_ARGUMENT, "--fault %s: not crash-, stall-, lie-, nan-, slow-, id- or replay-after=N",
                   text);
}

static bool apply_text(tc_setting_id id, const char *text, tc_worker_options *o)
{
    const struct {
        tc_setting_id id;
        const char **target;
    } texts[] = {{TC_OPT_CONNECT, &o->connect},     {TC_OPT_EXPERTS, &o->connect},
                 {TC_OPT_TLS_CA, &o->tls.ca},       {TC_OPT_TLS_CERT, &o->tls.cert},
                 {TC_OPT_TLS_KEY, &o->tls.key},     {TC_OPT_TLS_NAME, &o->tls.name},
                 {TC_OPT_MODEL, &o->model},         {TC_OPT_CACHE_DIR, &o->cache_dir},
                 {TC_OPT_STORE, &o->store},         {TC_OPT_STORE_HASH, &o->store_hash},
                 {TC_OPT_ARENA_DIR, &o->arena_dir}, {TC_OPT_ISA, &o->isa}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].id == id) {
            *texts[i].target = text;
            return true;
        }
    return false;
}

static tc_status apply(void *arg, const tc_setting *s, const tc_setting_value *value, tc_error *e)
{
    tc_worker_options *o = arg;
    bool taken;
    tc_status status = tc_program_setting(s, value, &o->program, &taken, e);
    if (taken) return status;
    if (apply_text(s->id, value->text, o)) return TC_OK;
    switch (s->id) {
    case TC_OPT_QUANTISE:
        o->quantise = tc_quantise_named(value->text);
        return TC_OK;
    case TC_OPT_INDEX:
        o->index = (uint32_t)value->number;
        return TC_OK;
    case TC_OPT_WORKERS:
    case TC_OPT_OF:
        o->of = (uint32_t)value->number;
        return TC_OK;
    case TC_OPT_SHARD:
        o->shard = value->choice ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
        o->shard_given = true;
        return TC_OK;
    case TC_OPT_WORKER_THREADS:
    case TC_OPT_OWN_THREADS:
        o->threads = (uint32_t)value->number;
        return TC_OK;
    case TC_OPT_CPUS:
        if (tc_cpu_list_parse(value->text, o->cpus, TC_CPUS_MAX, &o->cpu_count, e) == TC_OK) return TC_OK;
        return tc_error_prefix(e, "--cpus %s", value->text);
    case TC_OPT_NODE:
        o->node = (int)value->number;
        return TC_OK;
    case TC_OPT_NODE_OF_INDEX:
        o->node_of_index = value->number;
        return TC_OK;
    case TC_OPT_SPIN_US:
        o->spin_us = (uint32_t)value->number;
        return TC_OK;
    case TC_OPT_EMPTY_EXPERTS:
        o->empty = value->number != 0;
        return TC_OK;
    case TC_OPT_FAULT:
        return fault(value->text, o, e);
    default:
        return tc_fail(e, TC_INTERNAL, "--%s is not read", s->name);
    }
}

tc_status tc_worker_options_read(int argc, char *const *argv, tc_worker_options *ret, tc_error *e)
{
    tc_worker_options o = {.node = -1, .spin_us = TC_SPIN_US, .program = {.log_level = TC_LOG_INFO}};
    tc_status status = tc_settings_parse(TC_FOR_WORKER, argc, argv, apply, &o, e);
    if (status != TC_OK && status != TC_CANCELLED) return status;
    if (!o.of) o.of = tc_numa_nodes();
    if (o.node_of_index && o.node < 0 && o.of > 1 && o.of == tc_numa_nodes()) o.node = (int)o.index;
    if (status == TC_OK && !o.connect) return tc_fail(e, TC_ARGUMENT, "--connect is missing");
    if (status == TC_OK) TC_TRY(tc_tls_check_url(o.connect, &o.tls, e));
    if (status == TC_OK && !o.store && !o.model)
        return tc_fail(e, TC_ARGUMENT, "--store or --model is needed");
    if (status == TC_OK && o.index >= o.of) return tc_fail(e, TC_ARGUMENT, "--index must be below --of");
    *ret = o;
    return status;
}
