// SPDX-License-Identifier: Apache-2.0
// Shows: every kernel of every ISA against sums in double over an independent reading of the packed layout;
// that a token's bits depend on neither its company nor the panel split; and, with --bench, how fast each is.
#include "common/base/clock.h"
#include "common/base/mem.h"
#include "common/base/team.h"
#include "common/kernels/bandwidth.h"
#include "common/kernels/kernels.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_MAX = 11, ROWS_MAX = 70, COLS_MAX = 320 };

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static uint16_t bf16(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (uint16_t)(bits >> 16);
}

// A random weight of the kind that packs as `type`.
static void make_weight(tc_matrix_type type, uint32_t rows, uint32_t cols, uint32_t block, tc_weight *w)
{
    uint64_t n = (uint64_t)rows * cols;
    *w = (tc_weight){.rows = rows, .cols = cols};
    w->dtype = type == TC_M_F32 ? TC_F32 : type == TC_M_F16 ? TC_F16 : TC_BF16;
    w->data = tc_alloc(TC_MEM_OTHER, n, 4);
    if (type == TC_M_Q4) {
        w->quantised = true;
        w->block = block;
        w->absmax = tc_alloc(TC_MEM_OTHER, n / block + 1, sizeof(float));
        for (uint64_t i = 0; i <= n / block; i++) w->absmax[i] = 0.01f + fabsf(noise());
        for (uint64_t i = 0; i < n / 2; i++) ((uint8_t *)w->data)[i] = (uint8_t)rand();
        for (int i = 0; i < 16; i++) w->levels[i] = noise();
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        if (type == TC_M_F32)
            ((float *)w->data)[i] = noise();
        else if (type == TC_M_BF16)
            ((uint16_t *)w->data)[i] = bf16(noise());
        else
            ((uint16_t *)w->data)[i] = (uint16_t)(0x3000 | (rand() & 0x8fff)); // halves of 0.125 to 2
    }
}

typedef struct subject {
    const tc_kernels *k;
    tc_precision precision;
} subject;

typedef struct shape {
    tc_matrix_type type;
    uint32_t rows, cols, block;
} shape;

static const shape shapes[] = {
    {TC_M_Q4, 16, 64, 64},   {TC_M_Q4, 70, 320, 64}, {TC_M_Q4, 33, 128, 32}, {TC_M_Q4, 1, 64, 64},
    {TC_M_Q4, 48, 256, 128}, {TC_M_BF16, 16, 1, 0},  {TC_M_BF16, 70, 65, 0}, {TC_M_BF16, 7, 319, 0},
    {TC_M_F16, 33, 66, 0},   {TC_M_F16, 16, 320, 0}, {TC_M_F32, 70, 63, 0},  {TC_M_F32, 5, 2, 0},
    {TC_M_F32, 32, 320, 0},
};

typedef struct problem {
    tc_weight weight;
    tc_matrix m;
    float *values; // dequantised [rows][cols]
    float x[N_MAX][COLS_MAX];
    const float *rows[N_MAX];
} problem;

static void make_problem(const shape *s, problem *p)
{
    uint32_t group = 0;
    make_weight(s->type, s->rows, s->cols, s->block, &p->weight);
    assert_int_equal(tc_matrix_type_for(&p->weight, 0, s->cols, &group), s->type);
    void *data = tc_alloc(TC_MEM_OTHER, tc_matrix_bytes(s->type, s->rows, s->cols, group) + 8192, 1);
    tc_matrix_pack(&p->weight, 0, s->rows, 0, s->cols, s->type, group, data, &p->m);
    p->values = tc_alloc(TC_MEM_OTHER, (size_t)s->rows * s->cols, sizeof(float));
    tc_weight_dequantise(&p->weight, 0, (uint64_t)s->rows * s->cols, p->values);
    for (int t = 0; t < N_MAX; t++) {
        p->rows[t] = p->x[t];
        for (uint32_t c = 0; c < s->cols; c++) p->x[t][c] = noise();
    }
}

static void free_problem(problem *p)
{
    tc_free(p->weight.data);
    tc_free(p->weight.absmax);
    tc_free((void *)p->m.data);
    tc_free(p->values);
}

// Sum in double, and the sum of magnitudes that its error is measured against.
static double expected(const problem *p, uint32_t t, uint32_t r, double *ret_scale)
{
    double sum = 0, scale = 1e-9;
    for (uint32_t c = 0; c < p->m.cols; c++) {
        double v = (double)p->values[(size_t)r * p->m.cols + c] * p->x[t][c];
        sum += v;
        scale += fabs(v);
    }
    *ret_scale = scale;
    return sum;
}

// exact: float32 sums of exactly dequantised weights. default: besides, the rounding of each weight to bf16
// is skipped.
static double bound(const subject *s, const shape *sh)
{
    return s->precision == TC_DEFAULT && sh->type == TC_M_Q4 ? 0x1p-8 : 4e-6;
}

static void test_matmul(void **state)
{
    const subject *s = *state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *sh = &shapes[i];
        static problem p;
        float whole[N_MAX][ROWS_MAX + 1], some[N_MAX][ROWS_MAX + 1], *y[N_MAX], *z[N_MAX];
        make_problem(sh, &p);
        for (int t = 0; t < N_MAX; t++) {
            y[t] = whole[t];
            z[t] = some[t];
            whole[t][sh->rows] = 12345;
        }
        tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), p.rows, N_MAX, y);
        for (uint32_t t = 0; t < N_MAX; t++) {
            assert_true(whole[t][sh->rows] == 12345); // nothing past the last row
            for (uint32_t r = 0; r < sh->rows; r++) {
                double scale, sum = expected(&p, t, r, &scale), error = fabs(whole[t][r] - sum) / scale;
                if (!(error <= bound(s, sh)))
                    fail_msg("shape %zu token %u row %u: error %.3g", i, t, r, error);
            }
        }
        for (uint32_t n = 1; n <= N_MAX; n++) { // company
            tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), p.rows + N_MAX - n, n, z);
            for (uint32_t t = 0; t < n; t++)
                assert_memory_equal(some[t], whole[N_MAX - n + t], sh->rows * sizeof(float));
        }
        for (uint32_t panel = 0; panel < tc_panels(sh->rows); panel++)
            tc_matmul(s->k, &p.m, panel, panel + 1, p.rows, N_MAX, z);
        for (uint32_t t = 0; t < N_MAX; t++) assert_memory_equal(some[t], whole[t], sh->rows * sizeof(float));
        free_problem(&p);
    }
}

// matmul_fixed is matmul, times the scale, rounded once: the same bits as doing it by hand.
static void test_fixed(void **state)
{
    const subject *s = *state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const shape *sh = &shapes[i];
        static problem p;
        static float y_memory[N_MAX][ROWS_MAX];
        static int64_t acc_memory[N_MAX][ROWS_MAX + 1];
        float *y[N_MAX], scale[N_MAX];
        int64_t *acc[N_MAX];
        make_problem(sh, &p);
        for (int t = 0; t < N_MAX; t++) {
            y[t] = y_memory[t];
            acc[t] = acc_memory[t];
            scale[t] = noise();
            for (uint32_t r = 0; r <= sh->rows; r++) acc[t][r] = 1000 + (int64_t)r;
        }
        tc_matmul(s->k, &p.m, 0, tc_panels(sh->rows), p.rows, N_MAX, y);
        assert_true(s->k->matmul_fixed[sh->type](&p.m, 0, tc_panels(sh->rows), p.rows, scale, N_MAX, acc));
        for (uint32_t t = 0; t < N_MAX; t++) {
            for (uint32_t r = 0; r < sh->rows; r++) {
                float part = y[t][r] * scale[t];
                assert_true(acc[t][r] == 1000 + (int64_t)r + llrintf(part * TC_FIXED_ONE));
            }
            assert_true(acc[t][sh->rows] == 1000 + (int64_t)sh->rows);
        }
        free_problem(&p);
    }
}

static void test_fixed_refuses_what_it_cannot_hold(void **state)
{
    const subject *s = *state;
    const struct {
        float x;
        bool fine;
    } cases[] = {{1, true},       {5.3e8f, true},    {536870912.0f, false}, {-536870912.0f, false},
                 {-5.3e8f, true}, {INFINITY, false}, {NAN, false}};
    float one[16];
    tc_matrix m = {.type = TC_M_F32, .rows = 1, .cols = 1, .data = NULL};
    tc_weight w = {.rows = 1, .cols = 1, .dtype = TC_F32, .data = one};
    one[0] = 1;
    void *data = tc_alloc(TC_MEM_OTHER, 4096, 1);
    tc_matrix_pack(&w, 0, 1, 0, 1, TC_M_F32, 0, data, &m);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const float *x[1] = {&cases[i].x}, scale[1] = {1};
        int64_t sum[1] = {0}, *acc[1] = {sum};
        assert_int_equal(s->k->matmul_fixed[TC_M_F32](&m, 0, 1, x, scale, 1, acc), cases[i].fine);
        if (cases[i].fine) assert_true(sum[0] == (int64_t)cases[i].x * (1ll << 32));
    }
    // Parts in range can add up to more than 64 bits (a peer's numbers): then the sum wraps, which is
    // defined.
    const float *x[1] = {one}, scale[1] = {1};
    int64_t sum[1] = {INT64_MAX}, *acc[1] = {sum};
    assert_true(s->k->matmul_fixed[TC_M_F32](&m, 0, 1, x, scale, 1, acc));
    assert_true(sum[0] == INT64_MIN + (1ll << 32) - 1);
    tc_free(data);
}

static void test_vectors(void **state)
{
    const subject *s = *state;
    for (uint32_t n = 0; n <= 200; n++) {
        float a[201] = {0}, b[201] = {0}, out[201], shifted[201];
        double sum = 0, scale = 1e-9;
        for (uint32_t i = 0; i < n; i++) {
            a[i] = noise() * 20;
            b[i] = noise();
            sum += (double)a[i] * b[i];
            scale += fabs((double)a[i] * b[i]);
        }
        out[n] = 77;
        assert_true(fabs(s->k->dot(a, b, n) - sum) / scale < 2e-6);
        s->k->silu_mul(a, b, out, n);
        for (uint32_t i = 0; i < n; i++) {
            double silu = a[i] / (1 + exp(-(double)a[i])) * b[i];
            assert_true(fabs(out[i] - silu) <= 4e-7 * fabs(silu) + 1e-12);
        }
        for (uint32_t i = 0; i < n; i++) { // the same bits alone as in a row
            s->k->silu_mul(a + i, b + i, shifted, 1);
            assert_memory_equal(shifted, out + i, sizeof(float));
        }
        memcpy(out, b, n * sizeof(float));
        s->k->axpy(0.3f, a, out, n);
        for (uint32_t i = 0; i < n; i++) assert_true(fabs(out[i] - (b[i] + 0.3 * (double)a[i])) < 3e-6);
        assert_true(out[n] == 77);
    }
    const float extremes[] = {-1e30f, -100, -88, 0, 88, 100, 1e30f};
    float one[7] = {1, 1, 1, 1, 1, 1, 1}, out[7];
    s->k->silu_mul(extremes, one, out, 7);
    for (int i = 0; i < 7; i++)
        assert_true(isfinite(out[i]) &&
                    fabs(out[i] - (extremes[i] > 0 ? extremes[i] : 0)) <= 1e-30 + 1e-6 * fabs(out[i]));
}

// ---- timing ----

static void bench_one(const tc_kernels *k, tc_team *team, tc_matrix_type type, uint32_t n, double roof);

typedef struct bench_job {
    const tc_kernels *k;
    const tc_matrix *m;
    const float *const *x;
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

static void bench_one(const tc_kernels *k, tc_team *team, tc_matrix_type type, uint32_t n, double roof)
{
    enum { COLS = 2048, ROWS = 1 << 18, TOKENS = 64 };
    tc_matrix m = {.type = type, .rows = ROWS, .cols = COLS, .group = 64, .round = TC_BF16};
    if (type != TC_M_Q4) m.rows /= 4;
    size_t bytes = tc_matrix_bytes(type, m.rows, COLS, 64);
    uint8_t *data = tc_alloc(TC_MEM_OTHER, bytes + 8192, 1);
    float *x_memory = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS * COLS, sizeof(float));
    float *y_memory = tc_alloc(TC_MEM_OTHER, (size_t)TOKENS * ROWS, sizeof(float));
    const float *x[TOKENS];
    float *y[TOKENS];
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(i * 2654435761u >> 13) & 0x3f;
    for (int i = 0; i < TOKENS * COLS; i++) x_memory[i] = noise();
    for (int t = 0; t < TOKENS; t++) {
        x[t] = x_memory + (size_t)t * COLS;
        y[t] = y_memory + (size_t)t * ROWS;
    }
    for (int i = 0; i < 16; i++) m.levels[i] = noise();
    m.data = data;
    bench_job job = {k, &m, x, y, n, tc_panels(m.rows)};
    double best = 0;
    for (int pass = 0; pass < 4; pass++) {
        uint64_t start = tc_now_ns();
        tc_team_each(team, (job.panels + 7) / 8, bench_item, &job);
        double rate = (double)bytes / (double)(tc_now_ns() - start);
        if (rate > best) best = rate;
    }
    printf("%-8s %-5s n=%-3u %7.2f GB/s  %5.2f of read bandwidth  %8.1f GFLOP/s\n", k->name,
           type == TC_M_Q4     ? "q4"
           : type == TC_M_BF16 ? "bf16"
                               : "f32",
           n, best, best / roof, best / (double)bytes * 2.0 * m.rows * COLS * n);
    tc_free(data);
    tc_free(x_memory);
    tc_free(y_memory);
}

static int bench(uint32_t threads)
{
    static const char *const isas[] = {"avx2", "avx512"};
    static const uint32_t tokens[] = {1, 4, 64};
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
    for (int i = 0; i < 2; i++) {
        const tc_kernels *k;
        if (tc_kernels_get(TC_DEFAULT, isas[i], &k, &e) != TC_OK) continue;
        for (int t = 0; t < 3; t++) bench_one(k, team, TC_M_Q4, tokens[t], roof);
        bench_one(k, team, TC_M_BF16, 1, roof);
    }
    tc_team_free(team);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench(argc > 2 ? (uint32_t)atoi(argv[2]) : 1);
    static const struct {
        const char *isa;
        tc_precision precision;
    } all[] = {{"exact", TC_EXACT}, {"scalar", TC_DEFAULT}, {"avx2", TC_DEFAULT}, {"avx512", TC_DEFAULT}};
    int failed = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        subject s = {.precision = all[i].precision};
        tc_error e;
        srand(5);
        if (tc_kernels_get(s.precision, s.precision == TC_EXACT ? NULL : all[i].isa, &s.k, &e) != TC_OK) {
            print_message("[  SKIPPED ] %s\n", e.text);
            continue;
        }
        const struct CMUnitTest tests[] = {
            cmocka_unit_test_prestate(test_matmul, &s),
            cmocka_unit_test_prestate(test_fixed, &s),
            cmocka_unit_test_prestate(test_fixed_refuses_what_it_cannot_hold, &s),
            cmocka_unit_test_prestate(test_vectors, &s),
        };
        failed += cmocka_run_group_tests_name(all[i].isa, tests, NULL, NULL);
    }
    return failed;
}
