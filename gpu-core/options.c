// SPDX-License-Identifier: Apache-2.0
// Owns: parsing and range checks of the core's command line.
#include "gpu-core/options.h"
#include "common/base/spin.h"
#include "common/base/status.h"
#include "gpu-core/sched/sched.h"
#include "proto/expert.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum option_id {
    O_MODEL = 256,
    O_STORE,
    O_STORE_HASH,
    O_ARENA_DIR,
    O_ENGINE,
    O_EXPERTS,
    O_WORKERS,
    O_SHARD,
    O_SOURCE,
    O_DATA_PLANE,
    O_SPIN,
    O_DEVICE,
    O_THREADS,
    O_CPUS,
    O_PRECISION,
    O_KV,
    O_HEAD,
    O_ISA,
    O_CONTEXT,
    O_SESSIONS,
    O_KV_BUDGET,
    O_PREFIX_CACHE,
    O_QUEUE_REQUESTS,
    O_QUEUE_TOKENS,
    O_CHUNK,
    O_CALL_DEADLINE,
    O_NO_WORKER,
    O_LOG_LEVEL,
    O_JOURNALD,
    O_PARENT,
    O_HELP,
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, O_MODEL},
    {"store", required_argument, NULL, O_STORE},
    {"store-hash", required_argument, NULL, O_STORE_HASH},
    {"arena-dir", required_argument, NULL, O_ARENA_DIR},
    {"engine", required_argument, NULL, O_ENGINE},
    {"experts", required_argument, NULL, O_EXPERTS},
    {"workers", required_argument, NULL, O_WORKERS},
    {"shard", required_argument, NULL, O_SHARD},
    {"expert-source", required_argument, NULL, O_SOURCE},
    {"data-plane", required_argument, NULL, O_DATA_PLANE},
    {"spin-us", required_argument, NULL, O_SPIN},
    {"device", required_argument, NULL, O_DEVICE},
    {"threads", required_argument, NULL, O_THREADS},
    {"cpus", required_argument, NULL, O_CPUS},
    {"precision", required_argument, NULL, O_PRECISION},
    {"kv", required_argument, NULL, O_KV},
    {"head", required_argument, NULL, O_HEAD},
    {"isa", required_argument, NULL, O_ISA},
    {"context", required_argument, NULL, O_CONTEXT},
    {"sessions", required_argument, NULL, O_SESSIONS},
    {"kv-budget", required_argument, NULL, O_KV_BUDGET},
    {"prefix-cache", required_argument, NULL, O_PREFIX_CACHE},
    {"queue-requests", required_argument, NULL, O_QUEUE_REQUESTS},
    {"queue-tokens", required_argument, NULL, O_QUEUE_TOKENS},
    {"chunk-ms", required_argument, NULL, O_CHUNK},
    {"call-deadline-ms", required_argument, NULL, O_CALL_DEADLINE},
    {"no-worker-ms", required_argument, NULL, O_NO_WORKER},
    {"log-level", required_argument, NULL, O_LOG_LEVEL},
    {"journald", no_argument, NULL, O_JOURNALD},
    {"parent-pid", required_argument, NULL, O_PARENT},
    {"help", no_argument, NULL, O_HELP},
    {0},
};

static const char usage[] =
    "usage: thermocline-core --model DIR --store FILE --engine URL [options]\n"
    "  --store-hash HEX         which store it must be: with its arena in memory the file is not needed\n"
    "  --arena-dir DIR          tmpfs or hugetlbfs folder of the experts (default "
    "/dev/shm/thermocline-<uid>)\n"
    "  --experts URL            where workers connect (with --expert-source workers)\n"
    "  --workers N              shares the experts are cut into (default 1)\n"
    "  --shard partition|slice  whole experts, or a slice of every expert's width, a worker\n"
    "  --expert-source workers|inprocess\n"
    "  --data-plane shm|nng     how calls reach workers of this host (default shm; others: always nng)\n"
    "  --spin-us N              how long a thread looks for work before it sleeps (default 5000)\n"
    "  --device cpu|auto        auto takes cpu: this build has no other device\n"
    "  --threads N              default: online CPUs\n"
    "  --cpus 0,2-3             pin the threads to these\n"
    "  --precision exact|float|fast  (default fast)\n"
    "  --kv f32|f16             how keys and values are kept (default f16; f32 with --precision exact)\n"
    "  --head keep|nf4|int8|bf16  what a 16- or 32-bit output head becomes (default keep)\n"
    "  --isa scalar|avx2|avx512|avx512vnni|amx  default: the best this CPU has\n"
    "  --context N              positions of one session (default 4096)\n"
    "  --sessions N             sessions at once (default 8, at most 64)\n"
    "  --kv-budget BYTES        default: what sessions x context needs, at most 2 GiB\n"
    "  --prefix-cache BYTES     kept of prompts that were computed; 0: nothing (default: a quarter of what "
    "is left,\n"
    "                           at most 4 GiB)\n"
    "  --queue-requests N       requests waiting and running; more are refused (default 512)\n"
    "  --queue-tokens N         prompt tokens of all of them (default 4194304)\n"
    "  --chunk-ms N             what a prompt may add to the time between tokens of others (default 100)\n"
    "  --call-deadline-ms N     a worker slower than this is cut off (default 10000)\n"
    "  --no-worker-ms N         how long a call waits for any worker (default 30000)\n"
    "  --log-level error|warn|info|debug  --journald  --parent-pid PID\n";

static bool parse_number(const char *name, const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < least || value > most) {
        fprintf(stderr, "thermocline-core: error: --%s %s: not a number from %llu to %llu\n", name, text,
                (unsigned long long)least, (unsigned long long)most);
        return false;
    }
    *ret = value;
    return true;
}

// Index of text among the n names, or -1 after an error line.
static int parse_choice(const char *name, const char *text, const char *const *names, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) return i;
    fprintf(stderr, "thermocline-core: error: --%s %s: not one of", name, text);
    for (int i = 0; i < n; i++) fprintf(stderr, " %s", names[i]);
    fputc('\n', stderr);
    return -1;
}

static bool apply_number(int id, const char *text, tc_core_options *o)
{
    uint64_t v = 0;
    switch (id) {
    case O_WORKERS:
        if (!parse_number("workers", text, 1, TC_WORKERS_MAX, &v)) return false;
        o->workers = (uint32_t)v;
        break;
    case O_THREADS:
        if (!parse_number("threads", text, 1, 256, &v)) return false;
        o->threads = (uint32_t)v;
        break;
    case O_CONTEXT:
        if (!parse_number("context", text, 16, TC_CONTEXT_MAX, &v)) return false;
        o->context = (uint32_t)v;
        break;
    case O_SESSIONS:
        if (!parse_number("sessions", text, 1, TC_SESSIONS_MAX, &v)) return false;
        o->sessions = (uint32_t)v;
        break;
    case O_KV_BUDGET:
        if (!parse_number("kv-budget", text, 1, UINT64_MAX / 2, &v)) return false;
        o->kv_budget_bytes = v;
        break;
    case O_PREFIX_CACHE:
        if (!parse_number("prefix-cache", text, 0, UINT64_MAX / 2, &v)) return false;
        o->cache_bytes = v;
        break;
    case O_QUEUE_REQUESTS:
        if (!parse_number("queue-requests", text, 1, TC_QUEUE_REQUESTS_MAX, &v)) return false;
        o->queue_requests = (uint32_t)v;
        break;
    case O_QUEUE_TOKENS:
        if (!parse_number("queue-tokens", text, 1, UINT32_MAX, &v)) return false;
        o->queue_tokens = v;
        break;
    case O_CHUNK:
        if (!parse_number("chunk-ms", text, 1, 60000, &v)) return false;
        o->chunk_us = v * 1000;
        break;
    case O_CALL_DEADLINE:
        if (!parse_number("call-deadline-ms", text, 1, 3600000, &v)) return false;
        o->call_deadline_us = v * 1000;
        break;
    case O_NO_WORKER:
        if (!parse_number("no-worker-ms", text, 1, 3600000, &v)) return false;
        o->no_worker_us = v * 1000;
        break;
    case O_SPIN:
        if (!parse_number("spin-us", text, 0, 1000000, &v)) return false;
        o->spin_us = (uint32_t)v;
        break;
    case O_PARENT:
        if (!parse_number("parent-pid", text, 1, 1u << 30, &v)) return false;
        o->parent_pid = (long)v;
        break;
    default:
        return false;
    }
    return true;
}

static bool apply(int id, const char *text, tc_core_options *o)
{
    static const char *const shards[] = {"partition", "slice"}, *const sources[] = {"workers", "inprocess"},
                             *const planes[] = {"shm", "nng"}, *const devices[] = {"cpu", "auto"},
                             *const precisions[] = {"exact", "float", "fast"}, *const kvs[] = {"f32", "f16"},
                             *const heads[] = {"keep", "nf4", "int8", "bf16"};
    int choice;
    tc_error error;
    switch (id) {
    case O_MODEL:
        o->model = text;
        return true;
    case O_STORE:
        o->store = text;
        return true;
    case O_STORE_HASH:
        o->store_hash = text;
        return true;
    case O_ARENA_DIR:
        o->arena_dir = text;
        return true;
    case O_ENGINE:
        o->engine_url = text;
        return true;
    case O_EXPERTS:
        o->experts_url = text;
        return true;
    case O_ISA:
        o->isa = text;
        return true;
    case O_JOURNALD:
        o->journald = true;
        return true;
    case O_SHARD:
        choice = parse_choice("shard", text, shards, 2);
        o->shard = choice ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
        return choice >= 0;
    case O_SOURCE:
        choice = parse_choice("expert-source", text, sources, 2);
        o->local_experts = choice == 1;
        return choice >= 0;
    case O_DATA_PLANE:
        choice = parse_choice("data-plane", text, planes, 2);
        o->by_nng = choice == 1;
        return choice >= 0;
    case O_DEVICE:
        return parse_choice("device", text, devices, 2) >= 0;
    case O_PRECISION:
        choice = parse_choice("precision", text, precisions, 3);
        if (choice >= 0) o->precision = (tc_precision)choice;
        return choice >= 0;
    case O_KV:
        o->kv = parse_choice("kv", text, kvs, 2);
        return o->kv >= 0;
    case O_HEAD:
        choice = parse_choice("head", text, heads, 4);
        o->head = (uint32_t)choice;
        return choice >= 0;
    case O_CPUS:
        if (tc_cpu_list_parse(text, o->cpus, TC_CPU_NUMBERS, &o->cpu_count, &error) == TC_OK) return true;
        fprintf(stderr, "thermocline-core: error: --cpus %s: %s\n", text, error.text);
        return false;
    case O_LOG_LEVEL:
        if (tc_log_parse_level(text, &o->log_level)) return true;
        fprintf(stderr, "thermocline-core: error: --log-level %s: not one of error warn info debug\n", text);
        return false;
    default:
        return apply_number(id, text, o);
    }
}

int tc_core_options_parse(int argc, char **argv, tc_core_options *ret)
{
    tc_core_options o = {
        .workers = 1,
        .precision = TC_FAST,
        .kv = TC_KV_BY_PRECISION,
        .spin_us = TC_SPIN_US,
        .context = TC_CONTEXT_DEFAULT,
        .sessions = TC_SESSIONS_DEFAULT,
        .cache_bytes = TC_CACHE_AUTO,
        .queue_requests = TC_QUEUE_REQUESTS_DEFAULT,
        .queue_tokens = TC_QUEUE_TOKENS_DEFAULT,
        .chunk_us = TC_CHUNK_US_DEFAULT,
        .call_deadline_us = 10000000,
        .no_worker_us = 30000000,
        .log_level = TC_LOG_INFO,
    };
    int id;
    while ((id = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (id == O_HELP || id == 'h') {
            fputs(usage, stdout);
            return -1;
        }
        if (id == '?' || !apply(id, optarg, &o)) return 2;
    }
    const char *missing = optind < argc                        ? argv[optind]
                          : !o.model                           ? "--model is missing"
                          : !o.store                           ? "--store is missing"
                          : !o.engine_url                      ? "--engine is missing"
                          : !o.local_experts && !o.experts_url ? "--experts is missing"
                                                               : NULL;
    if (missing) {
        fprintf(stderr, "thermocline-core: error: %s%s\n", optind < argc ? "unexpected argument " : "",
                missing);
        return 2;
    }
    if (!o.threads) o.threads = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    *ret = o;
    return 0;
}
