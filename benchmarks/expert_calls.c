// SPDX-License-Identifier: Apache-2.0
// Owns: thermocline-bench-experts -s STORE -a ARENA-DIR [-t THREADS] [-p] [-n CALLS] [-k TOKENS]... [-g
// GAP_US]...
// [-m 0|1|2|3] [-r]: expert calls of one step after another by one team, layers in turn, random
// experts, out of an arena far larger than the caches: bytes a second beside the measured read bandwidth.
// -p pins; with -g the team has nothing to do between two calls, as a worker beside a GPU has; -m: random
// experts, the same ones (in the last cache), all in order, one unit (in the second cache); -r reads the same
// places and computes nothing.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/kernels/bandwidth.h"
#include "common/kernels/ffn.h"
#include "common/model/arena.h"

#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 256, CPUS_MAX = 64, MEASURE_BYTES = 1 << 30 };

typedef enum mode {
    RANDOM,
    FIXED,
    IN_ORDER,
    ONE_UNIT
} mode; // which experts a call has; the last: one unit, again and again

typedef struct bench {
    mode mode;
    bool read_only; // the units' bytes, and nothing computed: what the machine gives for these places
    const tc_expert_call *call;
    uint32_t unit_count, units[TOKENS_MAX * 64], at;
    _Atomic uint32_t next;
    _Atomic uint64_t seen;
    const char *store, *arena;
    uint32_t threads, calls, gap_us, cpus[CPUS_MAX];
    bool pinned;
    tc_store *opened;
    const tc_store_info *info;
    tc_team *team;
    tc_ffn *ffn;
    float *x;
    int64_t *sum;
    tc_expert_pair *pairs;
    uint64_t seed;
    double gb_s;
} bench;

static uint32_t dice(bench *b, uint32_t below)
{
    b->seed = b->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((b->seed >> 33) % below);
}

// top_k different experts a token, in the order that calls want. Returns how many different ones.
static uint32_t choose(bench *b, uint32_t tokens, tc_expert_call *call)
{
    static uint8_t chosen[TOKENS_MAX][4096];
    uint32_t experts = b->info->experts, distinct = 0;
    for (uint32_t t = 0; t < tokens; t++) {
        memset(chosen[t], 0, experts);
        for (uint32_t k = 0; k < b->info->top_k;) {
            uint32_t e = b->mode == RANDOM  ? dice(b, experts)
                         : b->mode == FIXED ? k * 7 % experts
                                            : b->at++ % experts;
            k += !chosen[t][e];
            chosen[t][e] = 1;
        }
    }
    call->pair_count = 0;
    for (uint32_t e = 0; e < experts; e++) {
        uint32_t before = call->pair_count;
        for (uint32_t t = 0; t < tokens; t++)
            if (chosen[t][e]) b->pairs[call->pair_count++] = (tc_expert_pair){e, t, 0.1f};
        distinct += call->pair_count > before;
    }
    return distinct;
}

#if defined(__x86_64__)
__attribute__((target("avx512f")))
#endif
static uint64_t
read_words(const uint64_t *data, size_t words)
{
    uint64_t lanes[32] = {0};
    for (size_t i = 0; i + 32 <= words; i += 32)
        for (int j = 0; j < 32; j++) lanes[j] ^= data[i + (size_t)j];
    for (int j = 1; j < 32; j++) lanes[0] ^= lanes[j];
    return lanes[0];
}

static void read_job(void *arg, uint32_t member)
{
    bench *b = arg;
    (void)member;
    for (uint32_t i; (i = atomic_fetch_add(&b->next, 1)) < b->unit_count * b->info->units;) {
        tc_store_unit unit;
        tc_store_get_unit(b->opened, b->call->layer, b->units[i / b->info->units], i % b->info->units, &unit);
        const char *begin = unit.gate.data;
        size_t bytes = b->info->expert_bytes / b->info->units;
        atomic_fetch_xor(&b->seen, read_words((const uint64_t *)(const void *)begin, bytes / 8));
    }
}

static tc_status one_call(bench *b, const tc_expert_call *call, tc_error *e)
{
    if (!b->read_only) return tc_ffn_run(b->ffn, call, b->sum, e);
    b->call = call;
    b->unit_count = 0;
    for (uint32_t i = 0; i < call->pair_count; i++)
        if (!i || call->pairs[i].expert != call->pairs[i - 1].expert)
            b->units[b->unit_count++] = call->pairs[i].expert;
    b->next = 0;
    tc_team_run(b->team, read_job, b);
    return TC_OK;
}

static void idle(uint32_t us)
{
    for (uint64_t end = tc_now_ns() + us * 1000ull; us && tc_now_ns() < end;) {
    }
}

static int by_size(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static tc_status measure(bench *b, uint32_t tokens, tc_error *e)
{
    double *us = calloc(b->calls, sizeof *us), bytes = 0, total_us = 0;
    uint64_t expert = b->info->expert_bytes;
    tc_status status = us ? TC_OK : tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t i = 0; i < b->calls && status == TC_OK; i++) {
        tc_expert_call call = {.layer = b->mode == FIXED ? 0 : i % b->info->layers,
                               .unit_end = b->info->units,
                               .precision = TC_FAST,
                               .tokens = tokens,
                               .hidden = b->info->hidden,
                               .x = b->x,
                               .pairs = b->pairs};
        bytes += (double)expert * choose(b, tokens, &call);
        idle(b->gap_us);
        uint64_t start = tc_now_ns();
        status = one_call(b, &call, e);
        total_us += us[i] = (double)(tc_now_ns() - start) / 1e3;
    }
    if (status == TC_OK) {
        qsort(us, b->calls, sizeof *us, by_size);
        double gb_s = bytes / total_us / 1e3;
        printf("%3u tokens, gap %u us: call %.1f us (5 %%: %.1f, median %.1f, 95 %%: %.1f), %.2f MB, %.1f "
               "GB/s, %.2f of %.1f\n",
               tokens, b->gap_us, total_us / b->calls, us[b->calls / 20], us[b->calls / 2],
               us[b->calls - 1 - b->calls / 20], bytes / b->calls / 1e6, gb_s, gb_s / b->gb_s, b->gb_s);
        fflush(stdout);
    }
    free(us);
    return status;
}

static void same_unit(void *arg, uint32_t layer, uint32_t expert, uint32_t unit, tc_store_unit *ret)
{
    (void)layer, (void)expert, (void)unit;
    tc_store_get_unit(((bench *)arg)->opened, 0, 0, 0, ret);
}

static tc_status set_up(bench *b, tc_error *e)
{
    tc_arena_report report;
    const tc_arena_options arena = {.directory = b->arena, .store = b->store, .of = 1, .attach_only = false};
    TC_TRY(tc_arena_open(&arena, &b->opened, &report, e));
    tc_arena_settle(b->opened, 0, -1);
    printf("arena: %.2f GB, %.2f of it in huge pages%s%s\n", (double)report.bytes / 1e9,
           (double)report.huge_bytes / 1e9, *report.note ? ": " : "", report.note);
    b->info = tc_store_get_info(b->opened);
    TC_TRY(tc_team_create(
        &(tc_team_options){.threads = b->threads, .cpus = b->pinned ? b->cpus : NULL, .spin_us = 5000},
        &b->team, e));
    TC_TRY(tc_ffn_create(b->opened, b->team, TOKENS_MAX, NULL, &b->ffn, e));
    if (b->mode == ONE_UNIT) tc_ffn_take_units(b->ffn, same_unit, b);
    b->x = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS_MAX * b->info->hidden, sizeof *b->x);
    b->sum = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS_MAX * b->info->hidden, sizeof *b->sum);
    b->pairs = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS_MAX * b->info->top_k, sizeof *b->pairs);
    if (!b->x || !b->sum || !b->pairs) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t i = 0; i < TOKENS_MAX * b->info->hidden; i++) b->x[i] = (float)dice(b, 2000) / 1000 - 1;
    return tc_measure_read_bandwidth(b->team, MEASURE_BYTES, &b->gb_s, e);
}

int main(int argc, char **argv)
{
    bench b = {.threads = 1, .calls = 2000, .seed = 1};
    uint32_t gaps[8] = {0}, gap_count = 0, tokens[16] = {1, 2, 4, 8}, token_count = 0;
    tc_error e = {0};
    for (int c; (c = getopt(argc, argv, "s:a:t:n:g:k:m:pr")) > 0;) switch (c) {
        case 's':
            b.store = optarg;
            break;
        case 'a':
            b.arena = optarg;
            break;
        case 't':
            b.threads = (uint32_t)atoi(optarg);
            break;
        case 'n':
            b.calls = (uint32_t)atoi(optarg);
            break;
        case 'r':
            b.read_only = true;
            break;
        case 'm':
            b.mode = (mode)atoi(optarg);
            break;
        case 'p':
            b.pinned = true;
            break;
        case 'g':
            gaps[gap_count++ % 8] = (uint32_t)atoi(optarg);
            break;
        case 'k':
            tokens[token_count++ % 16] = (uint32_t)atoi(optarg);
            break;
        default:
            return 2;
        }
    for (uint32_t i = 0; i < CPUS_MAX; i++) b.cpus[i] = i;
    tc_status status = set_up(&b, &e);
    for (uint32_t g = 0; g < (gap_count ? gap_count : 1) && status == TC_OK; g++)
        for (uint32_t i = 0; i < (token_count ? token_count : 4) && status == TC_OK; i++) {
            b.gap_us = gaps[g];
            status = measure(&b, tokens[i], &e);
        }
    if (status != TC_OK) fprintf(stderr, "%s\n", e.text);
    return status != TC_OK;
}
