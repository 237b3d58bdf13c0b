// SPDX-License-Identifier: Apache-2.0
// Owns: the life of a worker process: open the store, make its share resident, start the pinned team, serve.
#include "common/base/clock.h"
#include "expert-worker/options.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct worker {
    tc_worker_options o;
    tc_store *store;
    tc_team *team;
    tc_ffn *ffn;
    uint64_t resident_bytes, last_line_us;
} worker;

static void on_stop(int signal_number)
{
    (void)signal_number;
    tc_serve_stop();
}

// The store was cut or its disk failed under the mapping. Nothing can be computed any more; the supervisor
// starts another worker, which finds the damage when it opens the file.
static void on_bus_error(int signal_number)
{
    static const char text[] = "error worker: the packed store changed or could not be read (SIGBUS)\n";
    (void)signal_number;
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    _exit(3);
}

static void handle_signals(void)
{
    struct sigaction stop = {.sa_handler = on_stop}, bus = {.sa_handler = on_bus_error},
                     ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGBUS, &bus, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

static bool log_progress(void *arg, uint64_t done, uint64_t total)
{
    worker *w = arg;
    uint64_t now = tc_now_us();
    w->resident_bytes = done;
    if (now - w->last_line_us < 1000000) return true;
    w->last_line_us = now;
    tc_info("loading experts: %llu of %llu MiB", (unsigned long long)(done >> 20),
            (unsigned long long)(total >> 20));
    return true;
}

static tc_status load_share(worker *w, tc_error *e)
{
    const tc_store_info *info = tc_store_get_info(w->store);
    uint64_t i = w->o.index, of = w->o.of;
    w->last_line_us = tc_now_us();
    if (w->o.shard == TC_SHARD_PARTITION)
        return tc_store_prefault(w->store, (uint32_t)(info->experts * i / of),
                                 (uint32_t)(info->experts * (i + 1) / of), 0, info->units, log_progress, w,
                                 e);
    return tc_store_prefault(w->store, 0, info->experts, (uint32_t)(info->units * i / of),
                             (uint32_t)(info->units * (i + 1) / of), log_progress, w, e);
}

static tc_status start_team(worker *w, tc_error *e)
{
    tc_cpu_list allowed;
    tc_cpu_list_allowed(&allowed);
    bool pinned = w->o.cpus.count > 0;
    uint32_t cpus = pinned ? w->o.cpus.count : allowed.count;
    if (!w->o.threads) w->o.threads = cpus < TC_TEAM_THREADS_MAX ? cpus : TC_TEAM_THREADS_MAX;
    if (pinned && w->o.threads > cpus) {
        tc_warn("%u threads on %u CPUs: not pinned", w->o.threads, cpus);
        pinned = false;
    }
    const tc_team_options team = {
        .threads = w->o.threads, .cpus = pinned ? w->o.cpus.cpus : NULL, .spin_us = w->o.spin_us};
    TC_TRY(tc_team_create(&team, &w->team, e));
    return tc_ffn_create(w->store, w->team, TC_CALL_TOKENS_MAX, w->o.isa, &w->ffn, e);
}

static tc_status run(worker *w, tc_error *e)
{
    const tc_kernels *kernels;
    TC_TRY(tc_kernels_get(TC_DEFAULT, w->o.isa, &kernels, e));
    TC_TRY(tc_store_open(w->o.store, &w->store, e));
    TC_TRY(load_share(w, e));
    TC_TRY(start_team(w, e));
    const tc_store_info *info = tc_store_get_info(w->store);
    tc_info("share %u of %u (%s): %llu MiB resident, %u threads%s, %s kernels", w->o.index, w->o.of,
            w->o.shard == TC_SHARD_SLICE ? "slice" : "partition",
            (unsigned long long)(w->resident_bytes >> 20), w->o.threads,
            w->o.cpus.count >= w->o.threads ? ", pinned" : "", kernels->name);
    tc_serve_options serve = {
        .url = w->o.url,
        .store = w->store,
        .ffn = w->ffn,
        .hello = {.protocol_version = TC_EXPERT_PROTOCOL_VERSION,
                  .index = w->o.index,
                  .of = w->o.of,
                  .shard = w->o.shard,
                  .threads = w->o.threads,
                  .pid = getpid(),
                  .resident_bytes = w->resident_bytes},
        .fault = w->o.fault,
        .fault_after = w->o.fault_after,
    };
    memcpy(serve.hello.model_hash, info->model_hash, sizeof serve.hello.model_hash);
    return tc_serve(&serve, e);
}

int main(int argc, char **argv)
{
    static worker w;
    tc_error error;
    int usage = tc_worker_options_parse(argc, argv, &w.o);
    if (usage) return usage < 0 ? 0 : usage;
    char name[32];
    snprintf(name, sizeof name, "worker %u", w.o.index);
    tc_log_init(name, w.o.log_level, w.o.journald);
    handle_signals();
    if (w.o.parent_pid) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != (pid_t)w.o.parent_pid) return 1; // it died before we asked
    }
    tc_status status = run(&w, &error);
    if (status != TC_OK) tc_error_log("%s", error.text);
    tc_ffn_free(w.ffn);
    tc_team_free(w.team);
    tc_store_free(w.store);
    return status == TC_OK ? 0 : status == TC_PEER ? 2 : 1;
}
