// SPDX-License-Identifier: Apache-2.0
// Owns: the serve loop. Per call nothing of ours is allocated: the sum is computed inside the reply message.
//
//   attach to the arenas, filling what is missing -> make its share ready -> team, scratch -> connect
//   --WELCOME--> { CALL -> check -> run -> reply } LOST: the link redials and says hello again; REJECTED:
//   exit 2; stop: answer the call in hand, goodbye, exit 0
#include "expert-worker/serve.h"

#include "common/base/clock.h"
#include "common/base/process.h"
#include "common/base/trace.h"
#include "common/model/arena.h"
#include "expert-worker/affinity.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct worker {
    tc_worker_options settings; // of which `options` tells
    const tc_worker_options *options;
    char store_path[TC_STORE_PATH_BYTES]; // where none was named
    int argc;
    char **argv;
    const tc_arguments_full *full;
    tc_store *store;
    tc_team *team;
    tc_ffn *ffn;
    tc_expert_peer *peer;
    uint32_t threads, cpu_count;
    uint32_t cpus[TC_CPUS_MAX], pins[TC_TEAM_THREADS_MAX];
    const char *isa;
    uint64_t started_us, resident_bytes, logged_us, calls;
    uint64_t last_seq; // of the call answered before
} worker;

// For the signal handlers only.
static _Atomic bool stopping, reloading;
static _Atomic(tc_expert_peer *) wakeable;
static char sigbus_line[512];

enum { PATIENCE_US = 5000000 };

void tc_serve_stop(void)
{
    atomic_store(&stopping, true);
    tc_expert_peer *peer = atomic_load(&wakeable);
    if (peer) tc_expert_peer_wake(peer);
}

void tc_serve_reload(void)
{
    atomic_store(&reloading, true);
    tc_expert_peer *peer = atomic_load(&wakeable);
    if (peer) tc_expert_peer_wake(peer);
}

// Arenas are private files of this user that nobody has a reason to touch; should someone cut one, or a
// memory module fail, this is what the kernel sends. There is no way on: the supervisor starts us again, and
// a damaged arena is filled anew.
static void on_sigbus(int number)
{
    ssize_t ignored = write(STDERR_FILENO, sigbus_line, strlen(sigbus_line));
    (void)ignored;
    _exit(TC_EXIT_SIGBUS);
}

static void watch_memory(const char *path)
{
    struct sigaction action = {.sa_handler = on_sigbus};
    snprintf(sigbus_line, sizeof sigbus_line,
             "error thermocline-worker: %.400s: the arena in memory was damaged while in use\n", path);
    sigaction(SIGBUS, &action, NULL);
}

// A team blocks all signals in its threads; this one is sent to the thread that touched the page.
static void allow_sigbus(void *arg, uint32_t member)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

// CPUs and threads from what was asked for and what there is.
static tc_status place(worker *w, tc_error *e)
{
    const tc_worker_options *o = w->options;
    if (o->node >= 0) TC_TRY(tc_node_prefer(o->node, e));
    if (o->cpu_count > 0) {
        w->cpu_count = o->cpu_count;
        memcpy(w->cpus, o->cpus, o->cpu_count * sizeof *w->cpus);
    } else if (o->node >= 0) {
        TC_TRY(tc_node_cpus(o->node, w->cpus, TC_CPUS_MAX, &w->cpu_count, e));
    }
    uint32_t usable[TC_CPUS_MAX];
    uint32_t available = w->cpu_count > 0 ? w->cpu_count : tc_cpus_allowed(usable, TC_CPUS_MAX);
    w->threads = o->threads > 0 ? o->threads : available;
    if (w->threads > TC_TEAM_THREADS_MAX) w->threads = TC_TEAM_THREADS_MAX;
    if (w->threads > available) tc_warn("%u threads share %u CPUs", w->threads, available);
    for (uint32_t i = 0; i < w->threads && w->cpu_count > 0; i++) w->pins[i] = w->cpus[i % w->cpu_count];
    return TC_OK;
}

static bool fill_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    worker *w = arg;
    uint64_t now_us = tc_now_us();
    if (now_us - w->logged_us >= 1000000) {
        if (total)
            tc_info("%s: %.1f of %.1f GB", what, (double)done / 1e9, (double)total / 1e9);
        else
            tc_info("%s", what);
        tc_notify_status("%s: %llu of %llu MiB", what, (unsigned long long)(done >> 20),
                         (unsigned long long)(total >> 20));
        tc_notify_extend(120000000);
        w->logged_us = now_us;
    }
    return !atomic_load(&stopping);
}

// Where the others' shares go is their business; that of a machine with a worker a node is known.
static void fill_nodes(const tc_worker_options *o, int nodes[TC_SHARES_MAX])
{
    for (uint32_t i = 0; i < o->of; i++) nodes[i] = tc_node_of_share(i, o->of);
    if (o->node >= 0) nodes[o->index] = o->node;
}

static tc_status attach(worker *w, tc_error *e)
{
    static const char *const pages[] = {"small pages", "transparent huge pages", "explicit huge pages"};
    const tc_worker_options *o = w->options;
    int nodes[TC_SHARES_MAX];
    tc_arena_report report;
    uint64_t begin_us = w->logged_us = tc_now_us();
    fill_nodes(o, nodes);
    const tc_arena_options options = {.directory = o->arena_dir,
                                      .store = o->store,
                                      .content_hash = o->store_hash,
                                      .shard = o->shard,
                                      .of = o->of,
                                      .nodes = nodes,
                                      .progress = fill_progress,
                                      .arg = w};
    TC_TRY(tc_arena_open(&options, &w->store, &report, e));
    w->resident_bytes = tc_arena_settle(w->store, o->index, nodes[o->index]);
    if (w->resident_bytes == 0)
        tc_warn("share %u of %u is empty: there are fewer experts or units", o->index, o->of);
    tc_info("%s the experts in %s in %llu ms: %.2f GB, %s (%.2f GB)", report.filled ? "loaded" : "found",
            report.directory, (unsigned long long)((tc_now_us() - begin_us) / 1000),
            (double)report.bytes / 1e9, pages[report.pages], (double)report.huge_bytes / 1e9);
    if (*report.note) tc_warn("%s", report.note);
    return TC_OK;
}

// The store of the model, and how it is shared, where the command line leaves that open.
static tc_status locate(worker *w, tc_error *e)
{
    tc_worker_options *o = &w->settings;
    tc_store *file;
    if (!o->store) {
        TC_TRY(tc_store_of_model(o->model, o->cache_dir, getenv("XDG_CACHE_HOME"), getenv("HOME"),
                                 o->quantise, w->store_path, e));
        o->store = w->store_path;
    }
    if (o->shard_given || o->of < 2) return TC_OK;
    TC_TRY(tc_store_open(o->store, &file, e));
    o->shard = tc_share_best(tc_store_get_info(file)->units, o->of);
    tc_store_free(file);
    return TC_OK;
}

static tc_status prepare(worker *w, tc_error *e)
{
    const tc_worker_options *o = w->options;
    const tc_kernels *kernels;
    char name[40];
    snprintf(name, sizeof name, "thermocline-worker %u", o->index);
    if (o->program.trace) TC_TRY(tc_trace_open(o->program.trace, name, e));
    TC_TRY(locate(w, e));
    TC_TRY(tc_kernels_get(TC_FAST, o->isa, &kernels, e));
    w->isa = kernels->name;
    TC_TRY(place(w, e));
    watch_memory(o->store); // located by now
    TC_TRY(attach(w, e));
    tc_team_options team = {
        .threads = w->threads, .cpus = w->cpu_count > 0 ? w->pins : NULL, .spin_us = o->spin_us};
    TC_TRY(tc_team_create(&team, &w->team, e));
    tc_team_run(w->team, allow_sigbus, NULL);
    return tc_ffn_create(w->store, w->team, TC_CALL_TOKENS_MAX, o->isa, &w->ffn, e);
}

static tc_status dial(worker *w, tc_error *e)
{
    const tc_worker_options *o = w->options;
    tc_worker_hello hello = {.protocol_version = TC_EXPERT_PROTOCOL_VERSION,
                             .index = o->index,
                             .of = o->of,
                             .shard = o->shard,
                             .threads = w->threads,
                             .pid = getpid(),
                             .resident_bytes = w->resident_bytes};
    memcpy(hello.model_hash, tc_store_get_info(w->store)->model_hash, sizeof hello.model_hash);
    memcpy(hello.store_hash, tc_store_get_info(w->store)->content_hash, sizeof hello.store_hash);
    TC_TRY(tc_expert_peer_open(o->connect, &o->tls, &hello, &w->peer, e));
    tc_expert_peer_spin(w->peer, o->spin_us);
    atomic_store(&wakeable, w->peer);
    return TC_OK;
}

static void say_serving(const worker *w)
{
    const tc_worker_options *o = w->options;
    char cpus[128];
    tc_cpu_list_print(w->cpus, w->cpu_count, cpus, sizeof cpus);
    tc_info("serving %s %u of %u: %u threads, CPUs %s, %.2f GB resident, %s",
            o->shard == TC_SHARD_SLICE ? "slice" : "partition", o->index, o->of, w->threads,
            w->cpu_count > 0 ? cpus : "not pinned", (double)w->resident_bytes / 1e9, w->isa);
    if (o->empty) tc_warn("--empty-experts: every answer is zeros, for measuring what the exchange costs");
}

// Its share is in memory; whether a core is there is the core's to tell.
static void tell(const worker *w, void (*what)(const char *format, ...))
{
    what("%s %u of %u, %u threads, %llu MiB resident",
         w->options->shard == TC_SHARD_SLICE ? "slice" : "partition", w->options->index, w->options->of,
         w->threads, (unsigned long long)(w->resident_bytes >> 20));
}

// Misbehaves as a fault test asked. True when the call needs no further answer.
static bool misbehave(worker *w, const tc_peer_event *event)
{
    const tc_worker_options *o = w->options;
    const tc_expert_call *call = &event->call;
    if (o->fault == TC_FAULT_NONE || w->calls < o->fault_after) return false;
    switch (o->fault) {
    case TC_FAULT_CRASH:
        kill(getpid(), SIGKILL);
        return true;
    case TC_FAULT_STALL:
        while (!atomic_load(&stopping)) usleep(20000);
        return true;
    case TC_FAULT_LIE:
        if (tc_expert_peer_sum(w->peer, call->tokens, call->hidden == 1 ? 2 : call->hidden - 1, NULL))
            tc_expert_peer_reply(w->peer, event->seq, 0, NULL);
        return true;
    case TC_FAULT_SLOW:
        usleep(TC_FAULT_SLOW_MS * 1000);
        return false;
    case TC_FAULT_ID:
    case TC_FAULT_REPLAY:
        return false; // what is wrong is the number that it answers
    default:
        tc_expert_peer_fail(w->peer, event->seq, "a part of the sum is not finite");
        return true;
    }
}

// The call it says that it answers.
static uint64_t spoken_seq(worker *w, uint64_t seq)
{
    const tc_worker_options *o = w->options;
    bool wrong = w->calls > o->fault_after; // this one is counted already
    uint64_t spoken = wrong && o->fault == TC_FAULT_ID       ? seq + 1
                      : wrong && o->fault == TC_FAULT_REPLAY ? w->last_seq
                                                             : seq;
    w->last_seq = spoken;
    return spoken;
}

// Of a benchmark that asks what the exchange alone costs, zeros.
static tc_status compute(worker *w, const tc_expert_call *call, int64_t *sum, tc_error *e)
{
    if (!w->options->empty) return tc_ffn_run(w->ffn, call, sum, e);
    memset(sum, 0, (size_t)call->tokens * call->hidden * sizeof *sum);
    return TC_OK;
}

static void answer(worker *w, const tc_peer_event *event)
{
    const tc_expert_call *call = &event->call;
    tc_error error;
    uint64_t start_us = tc_now_us();

    if (misbehave(w, event)) return;
    tc_status status = tc_expert_call_check(w->store, call, &error);
    int64_t *sum = status == TC_OK ? tc_expert_peer_sum(w->peer, call->tokens, call->hidden, &error) : NULL;
    if (sum) status = compute(w, call, sum, &error);
    if (!sum || status != TC_OK) {
        tc_warn("step %llu: call %llu refused: %s", (unsigned long long)call->step,
                (unsigned long long)event->seq, error.text);
        tc_expert_peer_fail(w->peer, event->seq, error.text);
        return;
    }
    w->calls++;
    uint64_t end_us = tc_now_us();
    if (tc_trace_on) {
        tc_trace_arrow(false, event->seq, start_us);
        tc_trace_span("compute", start_us, end_us,
                      "\"step\":%llu,\"layer\":%u,\"seq\":%llu,\"tokens\":%u,\"pairs\":%u",
                      (unsigned long long)call->step, call->layer, (unsigned long long)event->seq,
                      call->tokens, call->pair_count);
    }
    if (tc_expert_peer_reply(w->peer, spoken_seq(w, event->seq), end_us - start_us, &error) != TC_OK)
        tc_debug("step %llu: call %llu: %s", (unsigned long long)call->step, (unsigned long long)event->seq,
                 error.text); // the core left meanwhile
}

static void reload(worker *w)
{
    tc_error error;
    tc_arguments_full full;
    tc_worker_options o;
    char others[400];
    tc_notify_reloading();
    tc_status status = tc_config_expand(TC_FOR_WORKER, w->argc, w->argv, environ, &full, &error);
    if (status == TC_OK && (status = tc_worker_options_read(full.argc, full.argv, &o, &error)) != TC_OK)
        tc_config_expand_free(&full);
    if (status != TC_OK) {
        tc_error_log("the configuration stays as it was: %s", error.text);
    } else {
        tc_log_set(o.program.log_level, o.program.log_format);
        tc_config_needs_restart(TC_FOR_WORKER, w->full, &full, others, sizeof others);
        tc_info("configuration applied%s%s", *others ? "; these need a restart: " : "", others);
        tc_config_expand_free(&full);
    }
    tell(w, tc_notify_ready);
}

// The manager's watchdog is fed here: a call that does not end is a worker that hangs.
static int loop(worker *w)
{
    bool said = false;
    tell(w, tc_notify_ready);
    while (!atomic_load(&stopping)) {
        tc_peer_event event;
        if (atomic_exchange(&reloading, false)) reload(w);
        tc_notify_alive(tc_now_us());
        uint64_t most_us = tc_notify_interval_us();
        if (tc_trace_on && most_us > 500000) most_us = 500000;        // then what has gathered is written
        if (tc_expert_peer_next(w->peer, most_us, &event) != TC_OK) { // woken, or it is time
            tc_trace_flush();
            continue;
        }
        switch (event.kind) {
        case TC_PEER_WELCOME:
            if (!said) say_serving(w);
            if (said) tc_info("connected again");
            tell(w, tc_notify_status); // in place of what was the matter
            tc_info("calls come by %s", event.carrier == TC_CARRIER_SHM ? "shared memory" : "message");
            if (*event.reason) tc_warn("the core's shared memory cannot be used: %s", event.reason);
            said = true;
            tc_probe_ready(true);
            break;
        case TC_PEER_REJECTED:
            tc_error_log("turned away by the core: %s", event.reason);
            return TC_EXIT_REJECTED;
        case TC_PEER_CALL:
            answer(w, &event);
            break;
        case TC_PEER_UNREACHABLE:
            // A supervisor starts all programs at once: that the core is not there yet is no news.
            if (tc_now_us() - w->started_us < PATIENCE_US)
                tc_info("no core at %s yet: %s", w->options->connect, event.reason);
            else
                tc_warn("no core at %s: %s; trying again", w->options->connect, event.reason);
            tc_notify_status("no core at %s: %s", w->options->connect, event.reason);
            break;
        case TC_PEER_LOST:
            tc_probe_ready(false);
            tc_warn("the core is gone; waiting for it");
            break;
        case TC_PEER_BAD_CALL:
            tc_warn("call %llu refused: %s", (unsigned long long)event.seq, event.reason);
            break;
        }
    }
    return TC_EXIT_OK;
}

// nng's threads inherit the mask of the thread that first uses it: the handlers shall run in ours only, and
// not while the link they wake goes away.
static void block_stop(bool block)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

int tc_serve(const tc_worker_options *options, int argc, char **argv, const tc_arguments_full *full)
{
    static worker w; // large, and there is one
    tc_error error;
    int code = TC_EXIT_FAILED;

    w = (worker){.settings = *options,
                 .options = &w.settings,
                 .argc = argc,
                 .argv = argv,
                 .full = full,
                 .started_us = tc_now_us()};
    tc_status status = prepare(&w, &error);
    block_stop(true);
    if (status == TC_OK) status = dial(&w, &error);
    block_stop(false);
    if (status == TC_OK)
        code = loop(&w);
    else if (status == TC_CANCELLED && atomic_load(&stopping))
        code = TC_EXIT_OK; // told to stop while loading
    else
        tc_error_log("%s", error.text);

    if (code == TC_EXIT_OK) tc_notify_stopping();
    tc_probe_ready(false);
    block_stop(true);
    atomic_store(&wakeable, NULL);
    tc_expert_peer_close(w.peer);
    tc_ffn_free(w.ffn);
    tc_team_free(w.team);
    tc_store_free(w.store);
    tc_trace_close();
    return code;
}
