// SPDX-License-Identifier: Apache-2.0
// Owns: parsing and range checks of the worker's command line.
#include "expert-worker/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum option_id {
    O_CONNECT = 256,
    O_STORE,
    O_INDEX,
    O_OF,
    O_SHARD,
    O_THREADS,
    O_CPUS,
    O_NODE,
    O_ISA,
    O_SPIN,
    O_FAULT,
    O_LOG_LEVEL,
    O_JOURNALD,
    O_PARENT,
    O_HELP
};

static const struct option long_options[] = {
    {"connect", required_argument, NULL, O_CONNECT},
    {"store", required_argument, NULL, O_STORE},
    {"index", required_argument, NULL, O_INDEX},
    {"of", required_argument, NULL, O_OF},
    {"shard", required_argument, NULL, O_SHARD},
    {"threads", required_argument, NULL, O_THREADS},
    {"cpus", required_argument, NULL, O_CPUS},
    {"node", required_argument, NULL, O_NODE},
    {"isa", required_argument, NULL, O_ISA},
    {"spin-us", required_argument, NULL, O_SPIN},
    {"fault", required_argument, NULL, O_FAULT},
    {"log-level", required_argument, NULL, O_LOG_LEVEL},
    {"journald", no_argument, NULL, O_JOURNALD},
    {"parent-pid", required_argument, NULL, O_PARENT},
    {"help", no_argument, NULL, O_HELP},
    {0},
};

static const char usage[] =
    "usage: thermocline-worker --connect URL --store FILE [options]\n"
    "  --index I --of N         this worker's share (default 0 of 1)\n"
    "  --shard partition|slice  whole experts, or a slice of every expert's width\n"
    "  --threads N              default: one a CPU of --cpus or --node, else all CPUs\n"
    "  --cpus LIST              pin the threads, for example 0-7,16\n"
    "  --node K                 pin the threads to a NUMA node's CPUs\n"
    "  --isa scalar|avx2|avx512 default: the best this CPU has\n"
    "  --spin-us N              how long an idle thread spins before it sleeps (default 50)\n"
    "  --log-level error|warn|info|debug  --journald  --parent-pid PID\n"
    "  --fault crash|stall|nan|size@N     misbehave after N calls, for tests of the core\n";

static int complain(const char *name, const char *text, const char *reason)
{
    fprintf(stderr, "thermocline-worker: error: --%s %s: %s\n", name, text, reason);
    return 2;
}

static int parse_number(const char *name, const char *text, uint64_t most, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value > most)
        return complain(name, text, "not a number in range");
    *ret = value;
    return 0;
}

static int parse_fault(const char *text, tc_worker_options *o)
{
    static const char *const names[] = {"", "crash", "stall", "nan", "size"};
    const char *at = strchr(text, '@');
    for (int i = TC_FAULT_CRASH; at && i <= TC_FAULT_SIZE; i++) {
        if (strlen(names[i]) != (size_t)(at - text) || strncmp(names[i], text, (size_t)(at - text)) != 0)
            continue;
        o->fault = (tc_fault)i;
        return parse_number("fault", at + 1, UINT64_MAX / 2, &o->fault_after);
    }
    return complain("fault", text, "not of the form crash|stall|nan|size@N");
}

static int parse_cpus(int id, const char *text, tc_worker_options *o)
{
    tc_error error;
    uint64_t node;
    if (id == O_CPUS)
        return tc_cpu_list_parse(text, &o->cpus, &error) == TC_OK ? 0 : complain("cpus", text, error.text);
    if (parse_number("node", text, 1023, &node)) return 2;
    return tc_cpu_list_of_node((uint32_t)node, &o->cpus, &error) == TC_OK
               ? 0
               : complain("node", text, error.text);
}

static int apply(int id, const char *text, tc_worker_options *o)
{
    uint64_t v = 0;
    int bad = 0;
    switch (id) {
    case O_CONNECT:
        o->url = text;
        return 0;
    case O_STORE:
        o->store = text;
        return 0;
    case O_ISA:
        o->isa = text;
        return 0;
    case O_JOURNALD:
        o->journald = true;
        return 0;
    case O_CPUS:
    case O_NODE:
        return parse_cpus(id, text, o);
    case O_FAULT:
        return parse_fault(text, o);
    case O_INDEX:
        bad = parse_number("index", text, TC_WORKERS_MAX - 1, &v);
        o->index = (uint32_t)v;
        return bad;
    case O_OF:
        bad = parse_number("of", text, TC_WORKERS_MAX, &v);
        o->of = (uint32_t)v;
        return bad;
    case O_THREADS:
        bad = parse_number("threads", text, TC_TEAM_THREADS_MAX, &v);
        o->threads = (uint32_t)v;
        return bad;
    case O_SPIN:
        bad = parse_number("spin-us", text, 10000000, &v);
        o->spin_us = (uint32_t)v;
        return bad;
    case O_PARENT:
        bad = parse_number("parent-pid", text, 1u << 30, &v);
        o->parent_pid = (long)v;
        return bad;
    case O_SHARD:
        if (strcmp(text, "partition") != 0 && strcmp(text, "slice") != 0)
            return complain("shard", text, "not one of partition slice");
        o->shard = text[0] == 's' ? TC_SHARD_SLICE : TC_SHARD_PARTITION;
        return 0;
    case O_LOG_LEVEL:
        return tc_log_parse_level(text, &o->log_level)
                   ? 0
                   : complain("log-level", text, "not one of error warn info debug");
    default:
        return 2;
    }
}

int tc_worker_options_parse(int argc, char **argv, tc_worker_options *ret)
{
    tc_worker_options o = {.of = 1, .spin_us = 50, .log_level = TC_LOG_INFO};
    int id;
    while ((id = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (id == O_HELP || id == 'h') {
            fputs(usage, stdout);
            return -1;
        }
        if (id == '?' || apply(id, optarg, &o)) return 2;
    }
    const char *wrong = optind < argc     ? "an argument is left over"
                        : !o.url          ? "--connect is missing"
                        : !o.store        ? "--store is missing"
                        : o.index >= o.of ? "--index is not below --of"
                                          : NULL;
    if (wrong) {
        fprintf(stderr, "thermocline-worker: error: %s\n", wrong);
        return 2;
    }
    *ret = o;
    return 0;
}
