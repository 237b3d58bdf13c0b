// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `prompt`: how fast prompts are taken in, against what the machine's multipliers can do.
#include "cli/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP_ID = 1000000, LOOK_ID = 2000000, WARM_UP_TOKENS = 64, SIZES_MAX = 8 };

static const char usual[] = "512,2048", beside_gpu[] = "512,2048,8192";

// "512,2048": from 1 to TC_PROMPT_TOKENS_MAX each.
static tc_status read_sizes(const tc_bench *b, uint32_t ret[SIZES_MAX], uint32_t *ret_count, tc_error *e)
{
    const char *text = b->prompts                                        ? b->prompts
                       : b->o.device && strcmp(b->o.device, "cuda") == 0 ? beside_gpu
                                                                         : usual;
    *ret_count = 0;
    if (b->prompt_tokens) {
        ret[(*ret_count)++] = (uint32_t)b->prompt_tokens;
        return TC_OK;
    }
    for (const char *at = text;; at++) {
        char *end;
        unsigned long long size = strtoull(at, &end, 10);
        if (*at < '0' || *at > '9' || (*end && *end != ',') || size < 1 || size > TC_PROMPT_TOKENS_MAX ||
            *ret_count == SIZES_MAX)
            return tc_fail(e, TC_ARGUMENT, "--prompts %.80s: not up to %d sizes from 1 to %u, by commas",
                           text, SIZES_MAX, (unsigned)TC_PROMPT_TOKENS_MAX);
        ret[(*ret_count)++] = (uint32_t)size;
        if (!*end) return TC_OK;
        at = end;
    }
}

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
    tc_samples rate = {0}, work = {0}, of_int8 = {0}, of_float = {0}, of_roof = {0};
    tc_roof roof;
    tc_window w = {0};
    tc_touched touched;
    // Once to see where it is routed: not timed, for looking costs time.
    TC_TRY(tc_bench_prefill(b, local, LOOK_ID + tokens, tokens, &w, &touched, e));
    b->machine.read_gb_per_s.count = 0;
    for (uint64_t i = 0; i < b->repetitions; i++) {
        TC_TRY(tc_machine_measure_read(&b->machine, e));
        TC_TRY(tc_bench_prefill(b, local, (uint64_t)tokens * 1000 + i, tokens, &w, NULL, e));
        double gop_per_s = prompt_gop(b, tokens) / w.seconds;
        tc_samples_add(&rate, tokens / w.seconds);
        tc_samples_add(&work, gop_per_s);
        tc_samples_add(&of_float, gop_per_s / b->machine.peak.float_gop_per_s);
        if (b->machine.peak.int8_gop_per_s > 0)
            tc_samples_add(&of_int8, gop_per_s / b->machine.peak.int8_gop_per_s);
        // As if in one step: what more steps read again is not due.
        const tc_bench_rounds rounds = {(double)w.expert_reads / (double)(w.steps ? w.steps : 1), 1, 1,
                                        tokens, 0};
        if (tc_bench_roof(b, local, &rounds, b->machine.read_gb_per_s.value[i], &roof))
            tc_samples_add(&of_roof, roof.us * 1e-6 / w.seconds);
    }
    snprintf(name, sizeof name, "%u tokens", tokens);
    TC_TRY(tc_report_open(b, name, local, &r, e));
    tc_report_count(r, "workers", "workers", b->o.workers, "");
    tc_report_count(r, "prompt_tokens", "prompt", tokens, "tokens");
    tc_report_samples(r, "tokens_per_s", "prompt", &rate, "tokens/s");
    tc_report_samples(r, "gop_per_s", "work of the linears", &work, "GOP/s");
    if (of_int8.count) tc_report_samples(r, "int8_peak_fraction", "of the int8 peak", &of_int8, "times");
    tc_report_samples(r, "float_peak_fraction", "of the float peak", &of_float, "times");
    if (of_roof.count) {
        tc_report_samples(r, "rounds_roofline_fraction", "of bytes and products", &of_roof, "times");
        tc_report_roof(r, &roof);
    }
    tc_report_peak(r, &b->machine);
    tc_report_bytes(r, "experts_bytes", "all routed experts", local->info.experts_bytes);
    tc_report_number(r, "tokens_per_expert_read", "tokens an expert read serves",
                     w.expert_reads ? (double)w.expert_pairs / (double)w.expert_reads : 0, "");
    tc_bench_routing(b, r, &touched);
    tc_report_stages(r, &w);
    tc_report_device(r, local);
    tc_report_close(r);
    return TC_OK;
}

tc_status tc_bench_prompt(tc_bench *b, tc_error *e)
{
    tc_local local = {0};
    tc_window warm;
    tc_status status;
    uint32_t sizes[SIZES_MAX], count, largest = 0;
    TC_TRY(read_sizes(b, sizes, &count, e));
    for (uint32_t i = 0; i < count; i++)
        if (sizes[i] > largest) largest = sizes[i];
    if (!b->o.context) b->o.context = largest + 16;
    TC_TRY(tc_local_open(&b->o, b->model, &local, e));
    if (local.info.context <= largest)
        TC_GOTO(tc_fail(e, TC_LIMIT, "the model has %u positions: too few for a prompt of %u",
                        local.info.context, largest));
    tc_bench_settle(b);
    TC_GOTO(tc_bench_prefill(b, &local, WARM_UP_ID, largest < WARM_UP_TOKENS ? largest : WARM_UP_TOKENS,
                             &warm, NULL, e));
    TC_GOTO(tc_measure_matrix_peak(b->machine.team, &b->machine.peak, e));
    for (uint32_t i = 0; i < count; i++) TC_GOTO(prompt_of(b, &local, sizes[i], e));
out:
    tc_local_close(&local);
    return status;
}
