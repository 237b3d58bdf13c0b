// SPDX-License-Identifier: Apache-2.0
// Owns: how fast each table of matrix kernels is, against the machine's read bandwidth (test-kernels
// --bench).
#include "tests/kernels/bench_kernels.h"
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/team.h"
#include "common/kernels/bandwidth.h"
#include "common/kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

typedef struct bench_job {
    const tc_kernels *k;
    const tc_matrix *m;
    const tc_rows *x;
    float *const *y;
    uint32_t n, panels;
} bench_job;

static void bench_item(void *arg, uint32_t i, uint32_t member)
{
    (void)member;
    const bench_job *j = arg;
    uint32_t end = (i + 1) * 8 < j->panels ? (i + 1) * 8 : j->panels;
    tc_matmul(j->k, j->m, i * 8, end, j->x, j->n, j->y);
}

enum { BENCH_COLS = 2048, BENCH_ROWS = 1 << 18, BENCH_TOKENS = 64 };

// Random weights without a checkpoint behind them: any bytes are codes, any small nested scale is one.
// rows 0: as many as no cache holds.
static void bench_matrix(tc_matrix_type type, uint32_t n, uint32_t rows, tc_matrix *m)
{
    tc_matrix_form form = {type, 0, 0};
    if (type == TC_M_Q4) form = (tc_matrix_form){type, 64, BENCH_COLS / 64};
    if (type == TC_M_Q8) form.group = 64;
    if (!rows) rows = BENCH_ROWS / (type == TC_M_Q4 ? 1 : 4) / (n > 4 ? 16 : 1);
    size_t bytes = tc_matrix_bytes(&form, rows, BENCH_COLS),
           tiles = tc_matrix_tiles_at(&form, rows, BENCH_COLS);
    uint8_t *data = tc_alloc(TC_MEM_OTHER, bytes + 8192, 1);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(i * 2654435761u >> 13) & 0x3f;
    for (size_t i = 1; type > TC_M_Q8 && i < bytes; i += 2)
        data[i] = 0x3c; // no denormals: they are slow on some CPUs
    for (size_t i = 0; i < tiles / 4; i++) ((float *)data)[i] = 0.01f;
    *m = (tc_matrix){.form = form, .rows = rows, .cols = BENCH_COLS, .round = TC_BF16, .data = data};
    for (int i = 0; i < 16; i++) m->levels[i] = noise();
    tc_matrix_set_fast(m);
}

static void bench_one(const tc_kernels *k, const char *precision, tc_team *team, tc_matrix_type type,
                      uint32_t n, uint32_t some_rows, double roof)
{
    static const char *const types[TC_M_TYPES] = {"q4", "q8", "bf16", "f16", "f32"};
    tc_matrix m;
    bench_matrix(type, n, some_rows, &m);
    float *x_memory = tc_alloc(TC_MEM_OTHER, (size_t)BENCH_TOKENS * BENCH_COLS, sizeof(float));
    float *y_memory = tc_alloc(TC_MEM_OTHER, (size_t)n * m.rows, sizeof(float));
    uint8_t *q8_memory = tc_alloc(TC_MEM_OTHER, BENCH_TOKENS, tc_rounded_bytes(BENCH_COLS));
    const float *f32[BENCH_TOKENS];
    tc_rounded_row q8[BENCH_TOKENS];
    float *y[BENCH_TOKENS];
    for (int i = 0; i < BENCH_TOKENS * BENCH_COLS; i++) x_memory[i] = noise();
    for (uint32_t t = 0; t < n; t++) {
        f32[t] = x_memory + (size_t)t * BENCH_COLS;
        q8[t] = tc_rounded_at(q8_memory + t * tc_rounded_bytes(BENCH_COLS), BENCH_COLS);
        y[t] = y_memory + (size_t)t * m.rows;
        if (k->round) k->round(f32[t], BENCH_COLS, &q8[t]);
    }
    const tc_rows rows = {f32, q8};
    bench_job job = {k, &m, &rows, y, n, tc_panels(m.rows)};
    size_t bytes = tc_matrix_bytes(&m.form, m.rows, m.cols);
    double best = 0;
    const int passes = some_rows ? 1000 : 4;
    for (int pass = 0; pass < passes; pass++) {
        uint64_t start = tc_now_ns();
        tc_team_each(team, (job.panels + 7) / 8, bench_item, &job);
        double rate = (double)bytes / (double)(tc_now_ns() - start);
        if (rate > best) best = rate;
    }
    printf("%-10s %-5s %-5s n=%-3u %7.2f GB/s  %5.2f of read bandwidth  %8.1f GFLOP/s\n", k->name, precision,
           types[type], n, best, best / roof, best / (double)bytes * 2.0 * m.rows * BENCH_COLS * n);
    tc_free((void *)m.data);
    tc_free(x_memory);
    tc_free(y_memory);
    tc_free(q8_memory);
}

int bench_kernels(uint32_t threads, int argc, char **argv)
{
    const char *only = argc > 0 && strcmp(argv[0], "all") != 0 ? argv[0] : NULL,
               *only_isa = argc > 1 && strcmp(argv[1], "all") != 0 ? argv[1] : NULL;
    const uint32_t rows = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    static const char *const isas[] = {"avx2",       "avx512",      "avx512vnni", "avx512vbmi",
                                       "avx512bf16", "avx512pairs", "amx"};
    static const uint32_t tokens[] = {1, 2, 4, 8, 16, 32, 64};
    const int counts = sizeof tokens / sizeof *tokens;
    const tc_team_options options = {.threads = threads, .spin_us = 100};
    tc_team *team;
    tc_error e;
    double roof;
    if (tc_team_create(&options, &team, &e) != TC_OK ||
        tc_measure_read_bandwidth(team, 1u << 30, &roof, &e) != TC_OK) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    printf("%u threads, read bandwidth %.2f GB/s\n", threads, roof);
    for (int i = 0; i < (int)(sizeof isas / sizeof *isas); i++)
        for (int precision = TC_FLOAT; precision <= TC_FAST; precision++) {
            const tc_kernels *k;
            const char *name = tc_precision_name((tc_precision)precision);
            if (only && strcmp(only, name) != 0) continue;
            if (only_isa && strcmp(only_isa, isas[i]) != 0) continue;
            if (tc_kernels_get((tc_precision)precision, isas[i], &k, &e) != TC_OK) continue;
            for (int t = 0; t < counts; t++) bench_one(k, name, team, TC_M_Q4, tokens[t], rows, roof);
            bench_one(k, name, team, TC_M_Q8, 1, rows, roof);
            if (precision == TC_FLOAT || k->round_bf16)
                for (int t = 0; t < counts; t += 3)
                    bench_one(k, name, team, TC_M_BF16, tokens[t], rows, roof);
        }
    tc_team_free(team);
    return 0;
}
