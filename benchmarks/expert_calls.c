// SPDX-License-Identifier: Apache-2.0
// Owns: thermocline-bench-experts: expert calls one after another by one team, layers in turn, out of an
// arena far larger than the caches: time of a call, and bytes a second beside the measured read bandwidth.
// Refuses: models; it takes a packed store and its arena.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/spin.h"
#include "common/kernels/bandwidth.h"
#include "common/kernels/ffn.h"
#include "common/model/arena.h"

#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOKENS_MAX = TC_CALL_TOKENS_MAX,
    EXPERTS_MAX = 4096,
    LIST_MAX = 16,
    CALLS_MAX = 1000000,
    MEASURE_BYTES = 1 << 30
};

static const char usage[] =
    "usage: thermocline-bench-experts -s STORE -a ARENA-DIR [options]\n"
    "  -t N  threads (1)    -p  pinned, to CPUs from 0 on    -n N  calls of each line (2000)\n"
    "  -k N  tokens of a call, again for each line (1, 2, 4, 8)    -g US  nothing to do before a call, again "
    "for more (0)\n"
    "  -m 0|1|2|3  experts: random; the same (in the last cache); all in order; one unit (in the second "
    "cache)\n"
    "  -r  reads the same places and computes nothing\n";

typedef enum mode { RANDOM, FIXED, IN_ORDER, ONE_UNIT, MODES } mode;

typedef struct list {
    uint32_t value[LIST_MAX], count;
} list;

typedef struct bench {
    // options
    const char *store, *arena;
    uint32_t threads, calls, mode;
    list tokens, gaps_us;
    bool pinned, read_only;
    // ready
    tc_store *opened;
    const tc_store_info *info;
    tc_team *team;
    tc_ffn *ffn;
    float *x;
    int64_t *sum;
    tc_expert_pair *pairs;
    double gb_s;
    // under way
    const tc_expert_call *call;
    uint32_t expert_count, experts[EXPERTS_MAX], at; // of a call that is only read
    _Atomic uint32_t next;
    _Atomic uint64_t seen;
    uint64_t seed;
} bench;

static uint32_t dice(bench *b, uint32_t below)
{
    b->seed = b->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((b->seed >> 33) % below);
}

// top_k different experts a token, in the order that calls want. Returns how many different ones.
static uint32_t choose(bench *b, uint32_t tokens, tc_expert_call *call)
{
    static uint8_t chosen[TOKENS_MAX][EXPERTS_MAX];
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

static void read_job(void *arg, uint32_t member)
{
    bench *b = arg;
    (void)member;
    const uint32_t units = b->info->units;
    for (uint32_t i; (i = atomic_fetch_add(&b->next, 1)) < b->expert_count * units;) {
        tc_store_unit unit;
        tc_store_get_unit(b->opened, b->call->layer, b->experts[i / units], i % units, &unit);
        atomic_fetch_xor(&b->seen, tc_stream_memory(unit.gate.data, b->info->expert_bytes / units));
    }
}

static tc_status one_call(bench *b, const tc_expert_call *call, tc_error *e)
{
    if (!b->read_only) return tc_ffn_run(b->ffn, call, b->sum, e);
    b->call = call;
    b->expert_count = 0;
    for (uint32_t i = 0; i < call->pair_count; i++)
        if (!i || call->pairs[i].expert != call->pairs[i - 1].expert)
            b->experts[b->expert_count++] = call->pairs[i].expert;
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

static tc_status measure(bench *b, uint32_t tokens, uint32_t gap_us, tc_error *e)
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
        idle(gap_us);
        uint64_t start = tc_now_ns();
        status = one_call(b, &call, e);
        total_us += us[i] = (double)(tc_now_ns() - start) / 1e3;
    }
    if (status == TC_OK) {
        qsort(us, b->calls, sizeof *us, by_size);
        double gb_s = bytes / total_us / 1e3;
        printf("%3u tokens, gap %u us: call %.1f us (5 %%: %.1f, median %.1f, 95 %%: %.1f), %.2f MB, %.1f "
               "GB/s, %.2f of %.1f\n",
               tokens, gap_us, total_us / b->calls, us[b->calls / 20], us[b->calls / 2],
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
    uint32_t cpus[TC_TEAM_THREADS_MAX];
    tc_arena_report report;
    const tc_arena_options arena = {.directory = b->arena, .store = b->store, .of = 1};
    const tc_team_options team = {
        .threads = b->threads, .cpus = b->pinned ? cpus : NULL, .spin_us = TC_SPIN_US};
    for (uint32_t i = 0; i < TC_TEAM_THREADS_MAX; i++) cpus[i] = i;
    TC_TRY(tc_arena_open(&arena, &b->opened, &report, e));
    tc_arena_settle(b->opened, 0, -1);
    printf("arena: %.2f GB, %.2f of it in huge pages%s%s\n", (double)report.bytes / 1e9,
           (double)report.huge_bytes / 1e9, *report.note ? ": " : "", report.note);
    b->info = tc_store_get_info(b->opened);
    if (b->info->experts > EXPERTS_MAX)
        return tc_fail(e, TC_LIMIT, "%s: %u experts, at most %d", b->store, b->info->experts, EXPERTS_MAX);
    TC_TRY(tc_team_create(&team, &b->team, e));
    TC_TRY(tc_ffn_create(b->opened, b->team, TOKENS_MAX, NULL, &b->ffn, e));
    if (b->mode == ONE_UNIT) tc_ffn_take_units(b->ffn, same_unit, b);
    b->x = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS_MAX * b->info->hidden, sizeof *b->x);
    b->sum = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS_MAX * b->info->hidden, sizeof *b->sum);
    b->pairs = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS_MAX * b->info->top_k, sizeof *b->pairs);
    if (!b->x || !b->sum || !b->pairs) return tc_fail(e, TC_NOMEM, "out of memory");
    for (uint32_t i = 0; i < TOKENS_MAX * b->info->hidden; i++) b->x[i] = (float)dice(b, 2000) / 1000 - 1;
    return tc_measure_read_bandwidth(b->team, MEASURE_BYTES, &b->gb_s, e);
}

static void tear_down(bench *b)
{
    tc_free(b->pairs);
    tc_free(b->sum);
    tc_free(b->x);
    tc_ffn_free(b->ffn);
    tc_team_free(b->team);
    tc_store_free(b->opened);
}

static bool number(const char *text, uint32_t least, uint32_t most, uint32_t *ret)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || value < least || value > most) return false;
    *ret = (uint32_t)value;
    return true;
}

static bool add(list *l, const char *text, uint32_t least, uint32_t most)
{
    return l->count < LIST_MAX && number(text, least, most, &l->value[l->count++]);
}

static bool options(bench *b, int argc, char **argv)
{
    bool good = true;
    for (int c; good && (c = getopt(argc, argv, "s:a:t:n:g:k:m:pr")) > 0;)
        if (c == 's')
            b->store = optarg;
        else if (c == 'a')
            b->arena = optarg;
        else if (c == 'p')
            b->pinned = true;
        else if (c == 'r')
            b->read_only = true;
        else
            good = c == 't'   ? number(optarg, 1, TC_TEAM_THREADS_MAX, &b->threads)
                   : c == 'n' ? number(optarg, 1, CALLS_MAX, &b->calls)
                   : c == 'm' ? number(optarg, 0, MODES - 1, &b->mode)
                   : c == 'g' ? add(&b->gaps_us, optarg, 0, 1000000)
                   : c == 'k' ? add(&b->tokens, optarg, 1, TOKENS_MAX)
                              : false;
    if (!b->gaps_us.count) b->gaps_us.count = 1;
    if (!b->tokens.count) b->tokens = (list){{1, 2, 4, 8}, 4};
    return good && optind == argc && b->store && b->arena;
}

int main(int argc, char **argv)
{
    static bench b = {.threads = 1, .calls = 2000, .seed = 1};
    tc_error e = {0};
    if (!options(&b, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    tc_status status = set_up(&b, &e);
    for (uint32_t g = 0; g < b.gaps_us.count; g++)
        for (uint32_t i = 0; i < b.tokens.count && status == TC_OK; i++)
            status = measure(&b, b.tokens.value[i], b.gaps_us.value[g], &e);
    tear_down(&b);
    if (status != TC_OK) fprintf(stderr, "thermocline-bench-experts: %s\n", e.text);
    return status != TC_OK;
}
