// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `context`: decoding behind a long prompt against decoding from the start. What attention
// takes longer is held against the KV that it reads more.
#include "cli/bench.h"

#include <stdio.h>

enum { SHORT_PROMPT = 16 };

typedef struct place {
    uint32_t position; // where the first window begins
    tc_samples tokens_per_s, attention_us;
    tc_window last;
    tc_touched touched;
} place;

// One prompt, then one window after another behind it.
static tc_status measure(tc_bench *b, tc_local *local, uint64_t id, place *p, tc_error *e)
{
    tc_window w[TC_BENCH_REPETITIONS_MAX];
    const tc_load load = {id, 1, p->position, (uint32_t)b->tokens, (uint32_t)b->repetitions};
    TC_TRY(tc_bench_run(b, local, &load, w, &p->touched, e));
    for (uint64_t r = 0; r < b->repetitions; r++) {
        tc_samples_add(&p->tokens_per_s, (double)w[r].tokens / w[r].seconds);
        tc_samples_add(&p->attention_us, (double)w[r].attention_us / (double)w[r].steps);
    }
    p->last = w[b->repetitions - 1];
    return TC_OK;
}

static tc_status report(tc_bench *b, const tc_local *local, const place *from, const place *p, tc_error *e)
{
    char name[48];
    tc_report *r;
    double ratio = tc_samples_median(&p->tokens_per_s) / tc_samples_median(&from->tokens_per_s);
    double us = tc_samples_median(&p->attention_us) - tc_samples_median(&from->attention_us);
    double bytes = (double)(p->position - from->position) * (double)tc_bench_position_bytes(b);
    double read = tc_samples_median(&b->machine.read_gb_per_s);
    snprintf(name, sizeof name, "behind %u tokens", p->position);
    TC_TRY(tc_report_open(b, name, local, &r, e));
    tc_report_count(r, "workers", "workers", b->o.workers, "");
    tc_report_count(r, "position", "decoding from position", p->position, "");
    tc_report_samples(r, "tokens_per_s", "decode", &p->tokens_per_s, "tokens/s");
    if (p != from) {
        tc_report_number(r, "of_start", "of decoding from the start", ratio, "times");
        tc_report_number(r, "prompt_tokens_per_s", "the prompt itself",
                         p->position * 1e6 / (double)p->last.prefill_us, "tokens/s");
        tc_report_bytes(r, "kv_bytes", "KV a token reads more", (uint64_t)bytes);
        tc_report_samples(r, "read_gb_per_s", "read bandwidth", &b->machine.read_gb_per_s, "GB/s");
        tc_report_number(r, "attention_gb_per_s", "attention reads it at", us > 0 ? bytes * 1e-3 / us : 0,
                         "GB/s");
        tc_report_number(r, "attention_fraction", "  of read bandwidth",
                         us > 0 ? bytes * 1e-3 / us / read : 0, "times");
    }
    tc_bench_routing(b, r, &p->touched);
    tc_report_stages(r, &p->last);
    tc_report_close(r);
    return TC_OK;
}

tc_status tc_bench_context(tc_bench *b, tc_error *e)
{
    tc_local local = {0};
    place start = {.position = SHORT_PROMPT}, behind = {.position = (uint32_t)b->positions};
    tc_status status;
    b->o.context = b->positions + b->tokens * b->repetitions + TC_BENCH_SPARE_POSITIONS;
    TC_TRY(tc_local_open(&b->o, b->model, &local, e));
    if (local.info.context < b->o.context)
        TC_GOTO(
            tc_fail(e, TC_LIMIT, "the model has %u positions, --positions %llu and what follows need %llu",
                    local.info.context, (unsigned long long)b->positions, (unsigned long long)b->o.context));
    TC_GOTO(tc_machine_measure_read(&b->machine, e));
    TC_GOTO(measure(b, &local, 1, &start, e));
    TC_GOTO(measure(b, &local, 2, &behind, e));
    TC_GOTO(tc_machine_measure_read(&b->machine, e));
    TC_GOTO(report(b, &local, &start, &start, e));
    TC_GOTO(report(b, &local, &start, &behind, e));
out:
    tc_local_close(&local);
    return status;
}
