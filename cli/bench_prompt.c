// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `prompt`: how fast prompts are taken in, against what the machine's multipliers can do.
#include "cli/bench.h"

#include <stdio.h>

enum { WARM_UP_ID = 1000000, WARM_UP_TOKENS = 64 };

static const uint32_t sizes[] = {512, 2048};

// Multiplications and additions of the linears of a prompt; attention's own products are not counted.
static double prompt_gop(const tc_bench *b, uint32_t tokens)
{
    const tc_footprint *f = &b->footprint;
    return 2e-9 * ((double)tokens * (double)f->token_multiply_adds + (double)f->head_multiply_adds);
}

static tc_status prompt_of(tc_bench *b, tc_local *local, uint32_t tokens, tc_error *e)
{
    char name[48];
    tc_report *r;
    tc_samples rate = {0}, work = {0}, of_int8 = {0}, of_float = {0};
    tc_window w = {0};
    for (uint64_t i = 0; i < b->repetitions; i++) {
        TC_TRY(tc_bench_prefill(b, local, (uint64_t)tokens * 1000 + i, tokens, &w, e));
        double gop_per_s = prompt_gop(b, tokens) / w.seconds;
        tc_samples_add(&rate, tokens / w.seconds);
        tc_samples_add(&work, gop_per_s);
        tc_samples_add(&of_float, gop_per_s / b->machine.peak.float_gop_per_s);
        if (b->machine.peak.int8_gop_per_s > 0)
            tc_samples_add(&of_int8, gop_per_s / b->machine.peak.int8_gop_per_s);
    }
    snprintf(name, sizeof name, "%u tokens", tokens);
    TC_TRY(tc_report_open(b, name, local, &r, e));
    tc_report_count(r, "workers", "workers", b->o.workers, "");
    tc_report_count(r, "prompt_tokens", "prompt", tokens, "tokens");
    tc_report_samples(r, "tokens_per_s", "prompt", &rate, "tokens/s");
    tc_report_samples(r, "gop_per_s", "work of the linears", &work, "GOP/s");
    if (of_int8.count) tc_report_samples(r, "int8_peak_fraction", "of the int8 peak", &of_int8, "times");
    tc_report_samples(r, "float_peak_fraction", "of the float peak", &of_float, "times");
    tc_report_peak(r, &b->machine);
    tc_report_number(r, "tokens_per_expert_read", "tokens an expert read serves",
                     w.expert_reads ? (double)w.expert_pairs / (double)w.expert_reads : 0, "");
    tc_report_stages(r, &w);
    tc_report_close(r);
    return TC_OK;
}

tc_status tc_bench_prompt(tc_bench *b, tc_error *e)
{
    tc_local local = {0};
    tc_window warm;
    tc_status status;
    uint32_t largest =
        b->prompt_tokens ? (uint32_t)b->prompt_tokens : sizes[sizeof sizes / sizeof *sizes - 1];
    if (!b->o.context) b->o.context = largest + 16;
    TC_TRY(tc_local_open(&b->o, b->model, &local, e));
    if (local.info.context <= largest)
        TC_GOTO(tc_fail(e, TC_LIMIT, "the model has %u positions: too few for a prompt of %u",
                        local.info.context, largest));
    TC_GOTO(tc_bench_prefill(b, &local, WARM_UP_ID, largest < WARM_UP_TOKENS ? largest : WARM_UP_TOKENS,
                             &warm, e));
    TC_GOTO(tc_measure_matrix_peak(b->machine.team, &b->machine.peak, e));
    if (b->prompt_tokens)
        TC_GOTO(prompt_of(b, &local, largest, e));
    else
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) TC_GOTO(prompt_of(b, &local, sizes[i], e));
out:
    tc_local_close(&local);
    return status;
}
