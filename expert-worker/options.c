// SPDX-License-Identifier: Apache-2.0
// Owns: parsing of the worker's command line.
#include "expert-worker/options.h"

#include "common/base/spin.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    O_CONNECT = 256,
    O_STORE,
    O_STORE_HASH,
    O_ARENA_DIR,
    O_INDEX,
    O_OF,
    O_SHARD,
    O_THREADS,
    O_CPUS,
    O_NODE,
    O_ISA,
    O_SPIN,
    O_LOG,
    O_JOURNALD,
    O_PARENT,
    O_FAULT,
    O_HELP
};

static const struct option long_options[] = {
    {"connect", required_argument, NULL, O_CONNECT},
    {"store", required_argument, NULL, O_STORE},
    {"store-hash", required_argument, NULL, O_STORE_HASH},
    {"arena-dir", required_argument, NULL, O_ARENA_DIR},
    {"index", required_argument, NULL, O_INDEX},
    {"of", required_argument, NULL, O_OF},
    {"shard", required_argument, NULL, O_SHARD},
    {"threads", required_argument, NULL, O_THREADS},
    {"cpus", required_argument, NULL, O_CPUS},
    {"node", required_argument, NULL, O_NODE},
    {"isa", required_argument, NULL, O_ISA},
    {"spin-us", required_argument, NULL, O_SPIN},
    {"log-level", required_argument, NULL, O_LOG},
    {"journald", no_argument, NULL, O_JOURNALD},
    {"parent-pid", required_argument, NULL, O_PARENT},
    {"fault", required_argument, NULL, O_FAULT}, // for fault tests; not in the usage
    {"help", no_argument, NULL, O_HELP},
    {0},
};

static const char usage[] =
    "usage: thermocline-worker --connect URL --store FILE --index I --of N [options]\n"
    "  --shard partition|slice  keep whole experts, or a slice of every expert's width, resident (default "
    "partition)\n"
    "  --store-hash HEX         which store it must be: with its arena in memory the file is not needed\n"
    "  --arena-dir DIR          tmpfs or hugetlbfs folder of the experts (default "
    "/dev/shm/thermocline-<uid>)\n"
    "  --threads N              default: as many as the CPUs given, or this process may use\n"
    "  --cpus 0,2-3             pin the threads to these\n"
    "  --node K                 pin to the CPUs of NUMA node K and bind its share's memory there\n"
    "  --isa scalar|avx2|avx512|avx512vnni|amx  default: the best this CPU has\n"
    "  --spin-us N              how long a thread looks for work before it sleeps (default 5000)\n"
    "  --log-level error|warn|info|debug  --journald  --parent-pid PID\n";

static bool wrong(const char *name, const char *text, const char *why)
{
    fprintf(stderr, "error thermocline-worker: --%s %s: %s\n", name, text, why);
    return false;
}

static bool number(const char *name, const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
    char *end, why[64];
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value < least || value > most) {
        snprintf(why, sizeof why, "not a number from %llu to %llu", (unsigned long long)least,
                 (unsigned long long)most);
        return wrong(name, text, why);
    }
    *ret = value;
    return true;
}

static bool number32(const char *name, const char *text, uint32_t least, uint32_t most, uint32_t *ret)
{
    uint64_t value;
    if (!number(name, text, least, most, &value)) return false;
    *ret = (uint32_t)value;
    return true;
}

static bool fault(const char *text, tc_worker_options *o)
{
    static const char *const names[] = {"", "crash-after=", "stall-after=", "lie-after=", "nan-after="};
    for (int i = 1; i < 5; i++) {
        if (strncmp(text, names[i], strlen(names[i])) != 0) continue;
        o->fault = (tc_worker_fault)i;
        return number("fault", text + strlen(names[i]), 0, UINT64_MAX, &o->fault_after);
    }
    return wrong("fault", text, "not crash-after=N, stall-after=N, lie-after=N or nan-after=N");
}

static bool apply(int id, const char *text, tc_worker_options *o)
{
    tc_error error;
    uint64_t value;
    switch (id) {
    case O_CONNECT:
        o->connect = text;
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
    case O_INDEX:
        return number32("index", text, 0, TC_WORKERS_MAX - 1, &o->index);
    case O_OF:
        return number32("of", text, 1, TC_WORKERS_MAX, &o->of);
    case O_SHARD:
        o->shard = strcmp(text, "slice") == 0 ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
        return o->shard == TC_SHARD_SLICE || strcmp(text, "partition") == 0 ||
               wrong("shard", text, "not partition or slice");
    case O_THREADS:
        return number32("threads", text, 1, TC_TEAM_THREADS_MAX, &o->threads);
    case O_CPUS:
        return tc_cpu_list_parse(text, o->cpus, TC_CPUS_MAX, &o->cpu_count, &error) == TC_OK ||
               wrong("cpus", text, error.text);
    case O_NODE:
        if (!number("node", text, 0, 1023, &value)) return false;
        o->node = (int)value;
        return true;
    case O_ISA:
        o->isa = text;
        return true;
    case O_SPIN:
        return number32("spin-us", text, 0, 1000000, &o->spin_us);
    case O_LOG:
        return tc_log_parse_level(text, &o->log_level) || wrong("log-level", text, "not a level");
    case O_JOURNALD:
        o->journald = true;
        return true;
    case O_PARENT:
        if (!number("parent-pid", text, 1, 1u << 30, &value)) return false;
        o->parent_pid = (long)value;
        return true;
    case O_FAULT:
        return fault(text, o);
    default:
        return false; // getopt has said why
    }
}

tc_parsed tc_worker_parse(int argc, char **argv, tc_worker_options *ret)
{
    tc_worker_options o = {.node = -1, .of = 1, .spin_us = TC_SPIN_US, .log_level = TC_LOG_INFO};
    int id;
    while ((id = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (id == O_HELP) {
            fputs(usage, stdout);
            return TC_PARSED_HELP;
        }
        if (!apply(id, optarg, &o)) return TC_PARSED_WRONG;
    }
    if (optind < argc || !o.connect || !o.store || o.index >= o.of) {
        fputs(optind < argc     ? "error thermocline-worker: stray argument\n"
              : o.index >= o.of ? "error thermocline-worker: --index must be below --of\n"
                                : "error thermocline-worker: --connect and --store are needed\n",
              stderr);
        fputs(usage, stderr);
        return TC_PARSED_WRONG;
    }
    *ret = o;
    return TC_PARSED_RUN;
}
