// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `decode`: one user, with the experts in the core, in workers over shared memory, and in
// workers over messages, in turns in one run, so that the ratios between them mean something.
#include "cli/bench.h"
#include "common/base/clock.h"

#include <string.h>

enum { WARM_UP_TOKENS = 8, CONFIGURATIONS = 3 };

static const struct {
    const char *name, *data_plane;
} configurations[CONFIGURATIONS] = {
    {"experts in the core", NULL}, {"workers, shared memory", "shm"}, {"workers, messages", "nng"}};

typedef struct measured {
    bool on;
    tc_run_options o;
    tc_local local;
    tc_samples tokens_per_s, carrier, p50_ms, p95_ms, floor_ms;
    double start_s; // nothing running to the first token
    tc_window total;
    tc_touched touched;
} measured;

// All three, unless the options name one; beside a GPU, which they would have to share, shared memory only.
static bool wanted(const tc_bench *b, int i)
{
    if (b->o.workers_given && !b->o.workers) return i == 0;
    if (b->o.empty_experts && i == 0) return false;
    if (!b->o.data_plane && b->o.device && !strcmp(b->o.device, "cuda")) return i == 1;
    if (b->o.data_plane) return i > 0 && !strcmp(b->o.data_plane, configurations[i].data_plane);
    return true;
}

static tc_status bring_up(tc_bench *b, measured *m, int i, tc_error *e)
{
    m->o = b->o;
    m->on = true;
    m->o.data_plane = configurations[i].data_plane;
    if (i == 0) {
        m->o.workers = 0;
        m->o.workers_given = true;
    }
    tc_window warm;
    uint64_t begin_us = tc_now_us();
    TC_TRY(tc_local_open(&m->o, b->model, &m->local, e));
    TC_TRY(tc_bench_prefill(b, &m->local, 2000000, (uint32_t)b->prompt_tokens, &warm, NULL, e));
    m->start_s = (double)(tc_now_us() - begin_us) * 1e-6;
    tc_bench_settle(b);
    return tc_bench_run(b, &m->local, &(tc_load){1000000, 1, (uint32_t)b->prompt_tokens, WARM_UP_TOKENS},
                        &warm, NULL, e);
}

// What a step waited for answers. On a GPU joins are told apart from nothing else of an expert's time.
static double waited_ms(const measured *m, const tc_window *w)
{
    bool gpu = !strcmp(m->local.info.device, "cuda");
    return (double)(gpu ? w->expert_us : w->wait_us) * 1e-3 / (double)(w->steps ? w->steps : 1);
}

static uint64_t token_bytes(const tc_bench *b, const tc_local *local)
{
    return tc_bench_step_bytes(b, local, (double)tc_bench_token_reads(b), 1,
                               b->prompt_tokens + b->tokens / 2);
}

static tc_status measure(tc_bench *b, measured *all, tc_error *e)
{
    for (uint64_t r = 0; r < b->repetitions; r++) {
        TC_TRY(tc_machine_measure_read(&b->machine, e));
        for (int i = 0; i < CONFIGURATIONS; i++) {
            measured *m = &all[i];
            tc_window w;
            if (!m->on) continue;
            const tc_load load = {1 + r, 1, (uint32_t)b->prompt_tokens, (uint32_t)b->tokens};
            TC_TRY(tc_bench_run(b, &m->local, &load, &w, &m->touched, e));
            tc_samples_add(&m->tokens_per_s, (double)w.tokens / w.seconds);
            tc_samples_add(&m->carrier, (double)w.wait_us * 1e-6 / w.seconds);
            tc_samples_add(&m->p50_ms, w.token_p50_us * 1e-3);
            tc_samples_add(&m->p95_ms, w.token_p95_us * 1e-3);
            tc_samples_add(&m->floor_ms, waited_ms(m, &w));
            tc_window_add(&m->total, &w);
        }
    }
    return tc_machine_measure_read(&b->machine, e);
}

static tc_status report(tc_bench *b, const measured *all, int i, tc_error *e)
{
    const measured *m = &all[i];
    tc_report *r;
    tc_samples of_core = {0}, fraction = {0}, of_roof = {0};
    const tc_bench_rounds rounds = {(double)tc_bench_token_reads(b), 1, 1, 1,
                                    b->prompt_tokens + b->tokens / 2};
    tc_roof roof;
    uint64_t bytes = token_bytes(b, &m->local);
    for (uint32_t s = 0; s < m->tokens_per_s.count; s++) {
        double at_bytes = tc_machine_read(&b->machine, s) * 1e9 / (double)bytes;
        tc_samples_add(&fraction, m->tokens_per_s.value[s] / at_bytes);
        if (tc_bench_roof(b, &m->local, &rounds, tc_machine_read(&b->machine, s), &roof))
            tc_samples_add(&of_roof, m->tokens_per_s.value[s] * roof.us * 1e-6);
        if (i && all[0].on) tc_samples_add(&of_core, m->tokens_per_s.value[s] / all[0].tokens_per_s.value[s]);
    }
    TC_TRY(tc_report_open(b, configurations[i].name, &m->local, &r, e));
    tc_report_count(r, "workers", "workers", m->o.workers, "");
    tc_report_count(r, "worker_threads", "threads of each", m->o.worker_threads, "");
    tc_report_samples(r, "tokens_per_s", "decode", &m->tokens_per_s, "tokens/s");
    tc_report_samples(r, "token_ms_p50", "between tokens, P50", &m->p50_ms, "ms");
    tc_report_samples(r, "token_ms_p95", "between tokens, P95", &m->p95_ms, "ms");
    tc_report_number(r, "start_s", "start to the first token", m->start_s, "s");
    if (b->o.empty_experts)
        tc_report_samples(r, "synchronisation_ms", "waiting for empty experts", &m->floor_ms, "ms a token");
    tc_report_flag(r, "empty_experts", b->o.empty_experts);
    tc_report_hits(r, b, &m->total);
    tc_report_ahead(r, &m->local);
    tc_report_samples(r, "read_gb_per_s", "read bandwidth", &b->machine.read_gb_per_s, "GB/s");
    tc_report_bytes(r, "token_bytes", "a token reads", bytes);
    tc_report_bytes(r, "token_expert_bytes", "  of which routed experts",
                    bytes - tc_bench_step_bytes(b, &m->local, 0, 1, b->prompt_tokens + b->tokens / 2));
    tc_report_samples(r, "roofline_fraction", "of the byte roofline", &fraction, "times");
    if (of_roof.count) {
        tc_report_samples(r, "rounds_roofline_fraction", "of that of bytes and products", &of_roof, "times");
        tc_report_roof(r, &roof);
    }
    if (of_core.count) tc_report_samples(r, "of_in_process", "of all in one process", &of_core, "times");
    tc_report_samples(r, "carrier_fraction", "waiting on the carrier", &m->carrier, "of the time");
    tc_bench_routing(b, r, &m->touched);
    tc_report_stages(r, &m->total);
    int up = all[0].on + all[1].on + all[2].on;
    if (up == 1) tc_report_memory(r, &m->local); // else they share the pages of the store
    tc_report_device(r, &m->local);
    tc_report_count(r, "decode_allocations", "allocations while decoding", m->local.status.decode_allocations,
                    "");
    tc_report_count(r, "expert_retries", "retried calls", m->local.status.expert_retries, "");
    tc_report_close(r);
    return TC_OK;
}

tc_status tc_bench_decode(tc_bench *b, tc_error *e)
{
    measured all[CONFIGURATIONS] = {0};
    tc_status status = TC_OK;
    for (int i = 0; i < CONFIGURATIONS; i++)
        if (wanted(b, i)) TC_GOTO(bring_up(b, &all[i], i, e));
    TC_GOTO(tc_measure_matrix_peak(b->machine.team, &b->machine.peak, e));
    TC_GOTO(measure(b, all, e));
    for (int i = 0; i < CONFIGURATIONS; i++)
        if (all[i].on) TC_GOTO(report(b, all, i, e));
out:
    for (int i = CONFIGURATIONS - 1; i >= 0; i--)
        if (all[i].on) tc_local_close(&all[i].local);
    return status;
}
