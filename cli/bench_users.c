// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `users`: streams decoding together against one alone, with the roofline that the union of
// their experts allows.
#include "cli/bench.h"

#include <stdio.h>

enum { WARM_UP_ID = 1000000, WARM_UP_TOKENS = 8, STEPS_OF_USERS = 8 };

typedef struct measured {
    uint32_t users;
    tc_samples tokens_per_s, fraction, of_roof, of_one, reads;
    tc_roof roof; // of the last repetition
    tc_window last;
    tc_touched touched;
} measured;

static tc_status measure(tc_bench *b, tc_local *local, measured *m, uint64_t repetition, double one,
                         tc_error *e)
{
    tc_window w;
    const uint32_t prompt = (uint32_t)b->prompt_tokens;
    const tc_load load = {1 + repetition * TC_BENCH_USERS_MAX, m->users, prompt, (uint32_t)b->tokens};
    TC_TRY(tc_bench_run(b, local, &load, &w, &m->touched, e));
    double steps = w.steps ? (double)w.steps : 1, rate = (double)w.tokens / w.seconds;
    tc_samples_add(&m->tokens_per_s, rate);
    tc_samples_add(&m->reads, (double)w.expert_reads / steps);
    tc_samples_add(&m->of_one, one > 0 ? rate / one : 1);
    m->last = w;
    return TC_OK;
}

// Against the roofs of the memory that was there: when the reading after the last repetition is known, too.
static void against_roofs(tc_bench *b, const tc_local *local, measured *m)
{
    const uint64_t position = b->prompt_tokens + b->tokens / 2;
    for (uint32_t r = 0; r < m->tokens_per_s.count; r++) {
        const double read = tc_machine_read(&b->machine, r), reads = m->reads.value[r],
                     bytes = (double)tc_bench_step_bytes(b, local, reads, m->users, position);
        const tc_bench_rounds rounds = {reads, m->users, m->users, 1, position};
        tc_samples_add(&m->fraction, m->tokens_per_s.value[r] * bytes / (m->users * read * 1e9));
        if (tc_bench_roof(b, local, &rounds, read, &m->roof))
            tc_samples_add(&m->of_roof, m->roof.us * 1e-6 * m->tokens_per_s.value[r] / m->users);
    }
}

static tc_status report(tc_bench *b, const tc_local *local, const measured *m, tc_error *e)
{
    char name[32];
    tc_report *r;
    double pairs = (double)(m->users * tc_bench_token_reads(b)), reads = tc_samples_median(&m->reads);
    snprintf(name, sizeof name, "%u users", m->users);
    TC_TRY(tc_report_open(b, name, local, &r, e));
    tc_report_count(r, "workers", "workers", b->o.workers, "");
    tc_report_count(r, "users", "decoding together", m->users, "");
    tc_report_samples(r, "tokens_per_s", "all together", &m->tokens_per_s, "tokens/s");
    tc_report_samples(r, "of_one_user", "of one user", &m->of_one, "times");
    tc_report_samples(r, "expert_reads_per_step", "experts read a step", &m->reads, "");
    tc_report_number(r, "token_by_token_reads", "  token by token", pairs, "");
    tc_report_number(r, "experts_read_a_layer", "  a layer",
                     b->footprint.moe_layers ? reads / b->footprint.moe_layers : 0, "");
    tc_report_number(r, "tokens_per_expert_read", "  tokens an expert", reads > 0 ? pairs / reads : 0, "");
    tc_report_number(r, "reads_saved_fraction", "  saved", pairs > 0 ? 1 - reads / pairs : 0, "of the reads");
    tc_report_bytes(r, "step_bytes", "a step reads",
                    tc_bench_step_bytes(b, local, reads, m->users, b->prompt_tokens + b->tokens / 2));
    tc_report_bytes(r, "step_expert_bytes", "  of which routed experts",
                    tc_bench_step_bytes(b, local, reads, 1, 0) - tc_bench_step_bytes(b, local, 0, 1, 0));
    tc_report_samples(r, "read_gb_per_s", "read bandwidth", &b->machine.read_gb_per_s, "GB/s");
    tc_report_samples(r, "roofline_fraction", "of this batch's byte roofline", &m->fraction, "times");
    if (m->of_roof.count) {
        tc_report_samples(r, "rounds_roofline_fraction", "of that of bytes and products", &m->of_roof,
                          "times");
        tc_report_roof(r, &m->roof);
    }
    tc_report_hits(r, b, &m->last);
    tc_report_ahead(r, local);
    tc_bench_routing(b, r, &m->touched);
    tc_report_stages(r, &m->last);
    tc_report_device(r, local);
    tc_report_close(r);
    return TC_OK;
}

tc_status tc_bench_users(tc_bench *b, tc_error *e)
{
    tc_local local = {0};
    tc_window warm;
    measured all[STEPS_OF_USERS] = {0};
    uint32_t count = 0;
    tc_status status;
    const uint32_t prompt = (uint32_t)b->prompt_tokens;
    for (uint32_t n = 1; count < STEPS_OF_USERS; n *= 2) {
        all[count++].users = n < b->users ? n : (uint32_t)b->users;
        if (n >= b->users) break;
    }
    b->o.sessions = b->users;
    if (!b->o.context) b->o.context = prompt + b->tokens + TC_BENCH_SPARE_POSITIONS;
    TC_TRY(tc_local_open(&b->o, b->model, &local, e));
    tc_bench_settle(b);
    TC_GOTO(tc_bench_run(b, &local, &(tc_load){WARM_UP_ID, 1, prompt, WARM_UP_TOKENS}, &warm, NULL, e));
    TC_GOTO(tc_measure_matrix_peak(b->machine.team, &b->machine.peak, e));
    for (uint64_t r = 0; r < b->repetitions; r++) {
        TC_GOTO(tc_machine_measure_read(&b->machine, e));
        for (uint32_t i = 0; i < count; i++)
            TC_GOTO(measure(b, &local, &all[i], r, i ? all[0].tokens_per_s.value[r] : 0, e));
    }
    TC_GOTO(tc_machine_measure_read(&b->machine, e));
    for (uint32_t i = 0; i < count; i++) against_roofs(b, &local, &all[i]);
    for (uint32_t i = 0; i < count; i++) TC_GOTO(report(b, &local, &all[i], e));
out:
    tc_local_close(&local);
    return status;
}
