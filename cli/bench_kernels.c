// SPDX-License-Identifier: Apache-2.0
// Owns: the figure `kernels`: whole expert calls over a packed store, without processes, attention or
// routing. One token an expert is held against read bandwidth, many against the matrix peak. All experts are
// walked through in turn, so that caches help only where the store is as small as they are.
#include "cli/bench.h"
#include "common/base/clock.h"
#include "common/kernels/ffn.h"
#include "common/model/arena.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 64, CACHE_TIMES = 8, PASS_US_MAX = 3000000 };

static const uint32_t token_counts[] = {1, 4, 16, TOKENS_MAX};
static const struct {
    const char *name;
    tc_precision precision;
} precisions[] = {{"exact", TC_EXACT}, {"float", TC_FLOAT}, {"fast", TC_FAST}};

typedef struct kernels {
    tc_store *store;
    tc_arena_report memory;
    const tc_store_info *info;
    tc_ffn *ffn;
    float *x;
    int64_t *sum;
    tc_expert_pair *pairs;
    uint32_t layer, expert; // where the walk is
} kernels;

static tc_status prepare(tc_bench *b, kernels *k, tc_error *e)
{
    char path[TC_STORE_PATH_BYTES];
    bool packed;
    TC_TRY(tc_run_prepare(b->model, b->o.cache_dir, b->o.quantise, false, &packed, path, e));
    // The arena that a core without workers would compute from.
    b->o.workers = 0;
    b->o.workers_given = true;
    TC_TRY(tc_run_load(&b->o, path, e));
    const tc_arena_options options = {.directory = b->o.arena_dir,
                                      .store = path,
                                      .content_hash = b->o.store_hash,
                                      .shard = TC_SHARD_PARTITION,
                                      .of = 1,
                                      .attach_only = true};
    TC_TRY(tc_arena_open(&options, &k->store, &k->memory, e));
    tc_arena_settle(k->store, 0, -1);
    k->info = tc_store_get_info(k->store);
    TC_TRY(tc_ffn_create(k->store, b->machine.team, TOKENS_MAX, b->o.isa, &k->ffn, e));
    size_t values = (size_t)TOKENS_MAX * k->info->hidden;
    k->x = malloc(values * sizeof *k->x);
    k->sum = malloc(values * sizeof *k->sum);
    k->pairs = malloc((size_t)TOKENS_MAX * k->info->top_k * sizeof *k->pairs);
    if (!k->x || !k->sum || !k->pairs) return tc_fail(e, TC_NOMEM, "out of memory");
    for (size_t i = 0; i < values; i++) k->x[i] = (float)((i * 2654435761u >> 7) % 2001) / 1000.0f - 1.0f;
    return TC_OK;
}

static void finish(kernels *k)
{
    tc_ffn_free(k->ffn);
    tc_store_free(k->store);
    free(k->x);
    free(k->sum);
    free(k->pairs);
}

// The next top_k experts of the walk, each chosen by all tokens. False: the pass is over.
static bool next_call(kernels *k, uint32_t tokens, tc_expert_call *call)
{
    while (k->layer < k->info->layers && !tc_store_layer_has_experts(k->store, k->layer)) k->layer++;
    if (k->layer == k->info->layers) return false;
    uint32_t n = 0, last = k->expert + k->info->top_k;
    if (last > k->info->experts) last = k->info->experts;
    for (uint32_t x = k->expert; x < last; x++)
        for (uint32_t t = 0; t < tokens; t++) k->pairs[n++] = (tc_expert_pair){x, t, 0.125f};
    *call = (tc_expert_call){.layer = k->layer,
                             .unit_end = k->info->units,
                             .precision = call->precision,
                             .tokens = tokens,
                             .hidden = k->info->hidden,
                             .x = k->x,
                             .pair_count = n,
                             .pairs = k->pairs};
    k->expert = last;
    if (last == k->info->experts) k->expert = 0, k->layer++;
    return true;
}

// All experts once, or as many as go into PASS_US_MAX.
static tc_status pass(kernels *k, tc_precision precision, uint32_t tokens, double *ret_experts_per_s,
                      tc_error *e)
{
    tc_expert_call call = {.precision = precision};
    uint64_t start = tc_now_ns(), experts = 0;
    k->layer = k->expert = 0;
    while (next_call(k, tokens, &call) && tc_now_ns() - start < PASS_US_MAX * 1000ull) {
        call.precision = precision;
        TC_TRY(tc_ffn_run(k->ffn, &call, k->sum, e));
        experts += call.pair_count / tokens;
    }
    *ret_experts_per_s = (double)experts * 1e9 / (double)(tc_now_ns() - start);
    return TC_OK;
}

static tc_status measure(tc_bench *b, kernels *k, int p, uint32_t tokens, tc_error *e)
{
    char name[64];
    tc_report *r;
    tc_samples rate = {0}, fraction = {0}, work = {0}, of_int8 = {0}, of_float = {0};
    const tc_matrix_peak *peak = &b->machine.peak;
    double expert = (double)k->info->bytes / ((double)b->footprint.moe_layers * k->info->experts), experts;
    TC_TRY(pass(k, precisions[p].precision, tokens, &experts, e)); // warm
    b->machine.read_gb_per_s.count = 0;
    for (uint64_t i = 0; i < b->repetitions; i++) {
        TC_TRY(tc_machine_measure_read(&b->machine, e));
        TC_TRY(pass(k, precisions[p].precision, tokens, &experts, e));
        double gop = 2e-9 * experts * tokens * (double)b->footprint.expert_multiply_adds;
        tc_samples_add(&rate, experts * expert * 1e-9);
        tc_samples_add(&work, gop);
        if (peak->int8_gop_per_s > 0) tc_samples_add(&of_int8, gop / peak->int8_gop_per_s);
        tc_samples_add(&of_float, gop / peak->float_gop_per_s);
    }
    TC_TRY(tc_machine_measure_read(&b->machine, e));
    for (uint32_t i = 0; i < rate.count; i++)
        tc_samples_add(&fraction, rate.value[i] / tc_machine_read(&b->machine, i));
    snprintf(name, sizeof name, "%s, %u tokens an expert", precisions[p].name, tokens);
    TC_TRY(tc_report_open(b, name, NULL, &r, e));
    tc_report_count(r, "tokens_per_expert", "tokens an expert", tokens, "");
    tc_report_count(r, "threads", "threads", tc_team_size(b->machine.team), "");
    tc_report_bytes(r, "store_bytes", "experts", k->info->bytes);
    tc_report_bytes(r, "huge_bytes", "  of them in huge pages", k->memory.huge_bytes);
    tc_report_samples(r, "expert_gb_per_s", "experts read", &rate, "GB/s");
    tc_report_samples(r, "read_gb_per_s", "read bandwidth", &b->machine.read_gb_per_s, "GB/s");
    tc_report_samples(r, "read_fraction", "  of read bandwidth", &fraction, "times");
    tc_report_samples(r, "gop_per_s", "work", &work, "GOP/s");
    if (of_int8.count) tc_report_samples(r, "int8_peak_fraction", "  of the int8 peak", &of_int8, "times");
    tc_report_samples(r, "float_peak_fraction", "  of the float peak", &of_float, "times");
    if (k->info->bytes / CACHE_TIMES < b->machine.last_cache_bytes)
        tc_report_note(r, "the store is not far larger than the last cache: this is not memory's speed");
    tc_report_close(r);
    return TC_OK;
}

tc_status tc_bench_kernels(tc_bench *b, tc_error *e)
{
    kernels k = {0};
    tc_status status;
    TC_GOTO(prepare(b, &k, e));
    TC_GOTO(tc_measure_matrix_peak(b->machine.team, &b->machine.peak, e));
    for (size_t p = 0; p < sizeof precisions / sizeof *precisions; p++) {
        // The oracle is slow on purpose: only where it is asked for.
        bool named = b->o.precision && !strcmp(b->o.precision, precisions[p].name);
        if (!named && (b->o.precision || precisions[p].precision == TC_EXACT)) continue;
        for (size_t t = 0; t < sizeof token_counts / sizeof *token_counts; t++)
            TC_GOTO(measure(b, &k, (int)p, token_counts[t], e));
    }
out:
    finish(&k);
    return status;
}
