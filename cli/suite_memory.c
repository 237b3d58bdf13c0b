// SPDX-License-Identifier: Apache-2.0
// Owns: the section `memory`: what is held for what over time, beside what was planned. Refuses: to budget.
#include "cli/suite.h"
#include "common/base/clock.h"

#include <stdlib.h>
#include <string.h>

enum {
    POINTS_MAX = 2048,
    SAMPLE_US = 100000,
    SHARE_OF_SAMPLING = 5,
    USERS = 8,
    PHASES = 4,
    PROMPT_TOKENS = 64,
    SAMPLES_LEAST = 4
};

typedef struct series {
    const char *name;
    double points[POINTS_MAX][2];
    uint32_t count;
    double planned, most;
} series;

enum { WEIGHTS, KV, STATES, SCRATCH, OTHER, HOT, PREFIX, EXPERTS, CORE, WORKERS, VRAM, ALL_SERIES };
static const char *const names[ALL_SERIES] = {"dense weights",
                                              "keys and values in use",
                                              "recurrent states in use",
                                              "scratch",
                                              "other heap of the core",
                                              "hot experts",
                                              "prefix cache",
                                              "experts, shared memory",
                                              "core, all",
                                              "workers, all",
                                              "VRAM in use"};

typedef struct resident {
    uint64_t all, shared;
} resident;

// Proportional sizes of one process: what several map is counted in parts.
static resident resident_of(pid_t pid)
{
    char path[64], line[160];
    unsigned long long kib;
    resident r = {0};
    if (pid <= 0) return r;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "Pss: %llu kB", &kib) == 1) r.all = kib * 1024;
        if (sscanf(line, "Pss_Shmem: %llu kB", &kib) == 1) r.shared = kib * 1024;
    }
    if (f) fclose(f);
    return r;
}

static void point(series *all, int which, double at_s, double bytes)
{
    series *x = &all[which];
    if (x->count == POINTS_MAX) return;
    x->points[x->count][0] = at_s;
    x->points[x->count++][1] = bytes;
    if (bytes > x->most) x->most = bytes;
}

static double number(yyjson_val *root, const char *a, const char *b, const char *c)
{
    yyjson_val *v = yyjson_obj_get(yyjson_obj_get(root, a), b);
    return yyjson_get_num(c ? yyjson_obj_get(v, c) : v);
}

// Keys, values and states lie in pools that are taken at the start and touched as they are used: pages and
// sessions in use tell how much of them is.
static void take_answer(yyjson_val *root, const tc_engine_status *status, uint32_t sessions, series *all,
                        double at_s)
{
    static const char *const held[] = {"weights", "kv", "states", "scratch", "other"};
    double pages = status->kv_pages ? 1 - (double)status->kv_pages_free / status->kv_pages : 0;
    for (int i = 0; i <= OTHER; i++) {
        all[i].planned = i == OTHER ? -1 : number(root, "purposes", held[i], NULL);
        double bytes = number(root, "held", held[i], NULL);
        if (i == KV) bytes = all[i].planned * pages;
        if (i == STATES) bytes = all[i].planned * status->running / sessions;
        point(all, i, at_s, bytes);
    }
    point(all, HOT, at_s, number(root, "purposes", "hot_experts", "now"));
    all[HOT].planned = number(root, "purposes", "hot_experts", "budget");
    point(all, PREFIX, at_s, number(root, "purposes", "prefix_cache", "now"));
    all[PREFIX].planned = number(root, "purposes", "prefix_cache", "budget");
}

static tc_status sample(tc_local *local, uint64_t workers, uint32_t sessions, series *all, double at_s,
                        tc_error *e)
{
    char name[24];
    yyjson_doc *answer = NULL;
    TC_TRY(tc_local_ask_status(local, e));
    const tc_engine_detail *d = local->status.detail; // until the next question
    if (d && d->device_total_bytes) {
        point(all, VRAM, at_s, (double)d->device_used_bytes);
        all[VRAM].planned = (double)d->device_total_bytes;
    }
    TC_TRY(tc_suite_ask(local, TC_ASK_MEMORY, NULL, &answer, e));
    take_answer(yyjson_doc_get_root(answer), &local->status, sessions, all, at_s);
    yyjson_doc_free(answer);
    resident core = resident_of(tc_supervisor_pid(local->supervisor, "core")), rest = {0};
    for (uint64_t i = 0; i < workers; i++) {
        snprintf(name, sizeof name, "worker %u", (unsigned)i);
        resident r = resident_of(tc_supervisor_pid(local->supervisor, name));
        rest.all += r.all;
        rest.shared += r.shared;
    }
    point(all, EXPERTS, at_s, (double)(core.shared + rest.shared));
    point(all, CORE, at_s, (double)core.all);
    point(all, WORKERS, at_s, (double)rest.all);
    return TC_OK;
}

static tc_status start_users(tc_suite *s, tc_local *local, uint32_t users, uint64_t *ids, tc_error *e)
{
    for (uint32_t i = 0; i < users; i++) {
        uint32_t prompt[PROMPT_TOKENS];
        for (uint32_t k = 0; k < PROMPT_TOKENS; k++) prompt[k] = (i * 977 + k * 131 + 1) % local->info.vocab;
        TC_TRY(tc_suite_endless(s, local, prompt, PROMPT_TOKENS, i, false, &ids[i], e));
    }
    return TC_OK;
}

// Idle, one user, all users, idle again.
static tc_status watch(tc_suite *s, tc_local *local, uint64_t workers, uint32_t users, double phase_s,
                       series *all, tc_error *e)
{
    uint64_t ids[USERS] = {0}, begin_us = tc_now_us();
    uint32_t most = 0; // ran at once
    tc_status status = TC_OK;
    int phase = -1, now = 0, samples = 0;
    double at_s = 0, begun_s = 0;
    while (now < PHASES && status == TC_OK) {
        uint32_t wanted = now == 1 ? 1 : now == 2 ? users : 0;
        if (now != phase) {
            for (uint32_t i = 0; i < USERS; i++)
                if (ids[i]) tc_engine_client_cancel(local->client, ids[i]);
            memset(ids, 0, sizeof ids);
            status = start_users(s, local, wanted, ids, e);
            phase = now;
            begun_s = at_s;
            samples = 0;
        }
        uint64_t before_us = tc_now_us();
        if (status == TC_OK) status = sample(local, workers, users, all, at_s, e);
        if (local->status.running > most) most = local->status.running;
        uint64_t took_us = tc_now_us() - before_us, pause_us = took_us * SHARE_OF_SAMPLING;
        if (pause_us < SAMPLE_US) pause_us = SAMPLE_US;
        tc_status waited =
            status == TC_OK ? tc_supervisor_wait(local->supervisor, -1, pause_us, e) : TC_TIMEOUT;
        if (status == TC_OK && waited != TC_TIMEOUT) status = waited;
        at_s = (double)(tc_now_us() - begin_us) * 1e-6;
        now += ++samples >= SAMPLES_LEAST && at_s - begun_s >= phase_s; // a busy machine gets its samples too
        if (status == TC_OK) status = tc_suite_step(s, now, PHASES, e);
    }
    if (status == TC_OK && !most) return tc_fail(e, TC_INTERNAL, "no user's request ran");
    return status;
}

static void put_all(tc_suite *s, const series *all, bool gpu)
{
    for (int i = 0; i < ALL_SERIES; i++) {
        const series *x = &all[i];
        if (!x->count || (x->most <= 0 && x->planned <= 0)) continue;
        const char *figure = i == VRAM || (gpu && i == HOT) ? "memory-vram"
                             : i >= CORE                    ? "memory-processes"
                                                            : "memory-ram";
        tc_suite_timeline(s, figure, x->name, "bytes", x->points, x->count, x->planned);
    }
}

// The most that was held against what was planned, of what was.
static void put_ratios(tc_suite *s, const series *all)
{
    for (int i = 0; i < VRAM; i++) {
        const series *x = &all[i];
        tc_samples ratio = {0};
        if (!x->count || x->planned <= 0) continue;
        tc_samples_add(&ratio, x->most / x->planned);
        tc_suite_figure(s, &(tc_figure){.figure = "memory-planned",
                                        .series = "most held / planned",
                                        .x_text = x->name,
                                        .unit = "times",
                                        .better = "none",
                                        .values = &ratio});
    }
}

tc_status tc_suite_memory(tc_suite *s, tc_error *e)
{
    tc_local local = {0};
    tc_run_options o = tc_suite_options(s);
    series *all = calloc(ALL_SERIES, sizeof *all);
    tc_status status;
    if (!all) return tc_fail(e, TC_NOMEM, "out of memory");
    for (int i = 0; i < ALL_SERIES; i++) all[i] = (series){.name = names[i], .planned = -1};
    if (!o.sessions || o.sessions > USERS) o.sessions = USERS;
    if (s->b.footprint.moe_layers) tc_suite_hot(s, 25, &o);
    TC_GOTO(tc_suite_open(s, &o, &local, e));
    all[EXPERTS].planned = (double)local.info.experts_bytes;
    tc_suite_note(s,
                  "%llu users at most; a quarter of the experts may be hot. Processes are counted by their "
                  "proportional "
                  "share of what they map.",
                  (unsigned long long)o.sessions);
    TC_GOTO(watch(s, &local, o.workers, (uint32_t)o.sessions, (s->full ? 1.5 : 0.5) * (double)s->repetitions,
                  all, e));
    put_all(s, all, s->on_gpu);
    put_ratios(s, all);
out:
    tc_local_close(&local);
    free(all);
    return status;
}
