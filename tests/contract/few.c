// SPDX-License-Identifier: Apache-2.0
// Shows: what a device says of rows of logits (tc_dev_ops.few) is what is in them, and draws from it give the
// tokens that sorting the row gives: the cpu device with each of its dense tables, and the cuda
// device where there is a GPU; where there is none it says so.
#include "common/base/clock.h"
#include "common/base/team.h"
#include "common/kernels/kernels.h"
#include "gpu-core/dev/cuda_library.h"
#include "tests/support/cmocka_all.h"
#include "tests/support/draw.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB_MAX = 151936, DRAWS = 300, THREADS = 2 };

typedef struct fixture {
    tc_dev *dev;
} fixture;

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

// Something like a bell: most tokens far below a few.
static void make_row(float *row, uint32_t vocab, float width)
{
    for (uint32_t i = 0; i < vocab; i++) row[i] = width * (noise() + noise() + noise() + noise());
    row[rand() % (int)vocab] = NAN;
    row[rand() % (int)vocab] = -INFINITY;
    row[rand() % (int)vocab] = row[rand() % (int)vocab]; // equal ones
}

static void check_best(const float *row, uint32_t vocab, const tc_few *few)
{
    float first = -INFINITY, second = -INFINITY;
    uint32_t best = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (row[i] > first) {
            second = first;
            first = row[i];
            best = i;
        } else if (row[i] > second) {
            second = row[i];
        }
    assert_int_equal(few->best, best);
    assert_true(few->gap == first - second);
    assert_true(few->max == first);
}

// The tokens are those of the row, once each, and nothing above the least of them is missing.
static void check_tokens(const float *row, uint32_t vocab, float temperature, const tc_few *few)
{
    char *taken = calloc(vocab, 1);
    float least = INFINITY;
    double sum = 0;
    assert_true(few->count <= TC_FEW_MAX);
    for (uint32_t i = 0; i < few->count; i++) {
        const tc_few_token t = few->token[i];
        assert_true(t.id < vocab && !taken[t.id] && t.logit == row[t.id]);
        taken[t.id] = 1;
        least = fminf(least, t.logit);
    }
    for (uint32_t i = 0; i < vocab; i++) {
        assert_false(few->count && !taken[i] && row[i] >= least);
        if ((row[i] - few->max) / temperature > -60) sum += exp((double)(row[i] - few->max) / temperature);
    }
    assert_true(fabs(few->sum - sum) < 1e-6 * sum);
    free(taken);
}

static uint32_t check_draws(const float *row, uint32_t vocab, float temperature, const tc_few *few)
{
    static const tc_sample_params shapes[] = {{.top_p = 0.8f, .top_k = 20},
                                              {.top_p = 0.95f},
                                              {.top_p = 1},
                                              {.top_p = 1, .min_p = 0.05f},
                                              {.top_p = 1, .top_k = 1}};
    tc_error e;
    tc_sampler *s = NULL;
    uint32_t drawn = 0, n;
    assert_int_equal(tc_sampler_create(vocab, &tc_dense_plain, &s, &e), TC_OK);
    ranked *all = rank_row(row, vocab, temperature, &n);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (uint32_t i = 0; i < DRAWS / 5; i++) {
            tc_sample_params p = shapes[k];
            uint32_t token;
            bool near;
            p.temperature = temperature;
            p.repetition_penalty = 1;
            p.seed = i * 77 + 5;
            if (!tc_sample_few(s, few, &p, 3, &token)) continue;
            const uint32_t expected = draw_by_rank(all, n, &p, 3, &near);
            if (!near) assert_int_equal(token, expected);
            drawn += !near;
        }
    free(all);
    tc_sampler_free(s);
    return drawn;
}

static void test_few(void **state)
{
    fixture *f = *state;
    static const uint32_t vocabs[] = {50, 257, 32768, VOCAB_MAX}, counts[] = {1, 3, TC_FEW_ROWS_MAX};
    static const float temperatures[] = {0.7f, 0, 1, 1.5f, 0.05f};
    for (size_t v = 0; v < 4; v++)
        for (size_t c = 0; c < 3; c++) {
            const uint32_t vocab = vocabs[v], rows = counts[c] > 3 && vocab == VOCAB_MAX ? 8 : counts[c];
            const size_t bytes = (size_t)rows * vocab * sizeof(float);
            float *logits = malloc(bytes), temperature[TC_FEW_ROWS_MAX];
            tc_few few[TC_FEW_ROWS_MAX];
            uint32_t drawn = 0, warm = 0;
            for (uint32_t r = 0; r < rows; r++) {
                make_row(logits + (size_t)r * vocab, vocab, 3);
                temperature[r] = temperatures[(r + c) % 5];
            }
            void *memory = f->dev->ops->alloc(f->dev, TC_MEM_SCRATCH, bytes);
            assert_non_null(memory);
            f->dev->ops->upload(f->dev, memory, logits, bytes);
            f->dev->ops->few(f->dev, memory, rows, vocab, temperature, few);
            for (uint32_t r = 0; r < rows; r++) {
                const float *row = logits + (size_t)r * vocab;
                check_best(row, vocab, &few[r]);
                if (temperature[r] <= 0) continue;
                check_tokens(row, vocab, temperature[r], &few[r]);
                if (r < 4) drawn += check_draws(row, vocab, temperature[r], &few[r]), warm++;
            }
            assert_true(drawn >= warm * DRAWS / 3); // few need the whole row
            f->dev->ops->release(f->dev, memory);
            free(logits);
        }
}

// All alike, all NaN, and one that is all of it.
static void test_odd_rows(void **state)
{
    fixture *f = *state;
    enum { VOCAB = 5000 };
    float *logits = malloc(3 * VOCAB * sizeof *logits), temperature[3] = {1, 1, 1};
    tc_few few[3];
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = 2;
        logits[VOCAB + i] = NAN;
        logits[2 * VOCAB + i] = i == 4321 ? 900 : 0;
    }
    void *memory = f->dev->ops->alloc(f->dev, TC_MEM_SCRATCH, 3 * VOCAB * sizeof *logits);
    f->dev->ops->upload(f->dev, memory, logits, 3 * VOCAB * sizeof *logits);
    f->dev->ops->few(f->dev, memory, 3, VOCAB, temperature, few);
    assert_true(few[0].best == 0 && few[0].gap == 0 && few[0].count == 0 && fabs(few[0].sum - VOCAB) < 1e-3);
    assert_true(few[1].best == 0 && few[1].count == 0 && few[1].sum == 0);
    assert_true(few[2].best == 4321 && few[2].count == 1 && few[2].token[0].id == 4321);
    f->dev->ops->release(f->dev, memory);
    free(logits);
}

// Not held against anything: printed.
static void test_time(void **state)
{
    fixture *f = *state;
    enum { CALLS = 50 };
    const size_t bytes = VOCAB_MAX * sizeof(float);
    float *logits = malloc(bytes), *row = malloc(bytes);
    tc_error e;
    tc_sampler *s = NULL;
    assert_int_equal(tc_sampler_create(VOCAB_MAX, &tc_dense_plain, &s, &e), TC_OK);
    make_row(logits, VOCAB_MAX, 8); // a nucleus of some hundred
    void *memory = f->dev->ops->alloc(f->dev, TC_MEM_SCRATCH, bytes);
    f->dev->ops->upload(f->dev, memory, logits, bytes);
    for (int warm = 0; warm < 2; warm++) {
        const tc_sample_params p = {
            .temperature = warm ? 0.7f : 0, .top_p = 0.9f, .repetition_penalty = 1, .seed = 3};
        const uint32_t history[3] = {0};
        const float temperature = p.temperature;
        uint32_t token;
        tc_few few;
        uint64_t begin = tc_now_us();
        for (int i = 0; i < CALLS; i++) {
            f->dev->ops->few(f->dev, memory, 1, VOCAB_MAX, &temperature, &few);
            assert_true(tc_sample_few(s, &few, &p, 3, &token));
        }
        uint64_t middle = tc_now_us();
        for (int i = 0; i < CALLS; i++) {
            f->dev->ops->download(f->dev, row, memory, bytes);
            (void)tc_sample(s, row, &p, history, 0, 3);
        }
        print_message("%s, %d tokens: %.0f us from what the device says, %.0f us from the whole row\n",
                      warm ? "temperature 0.7, top-p 0.9" : "greedy", VOCAB_MAX,
                      (double)(middle - begin) / CALLS, (double)(tc_now_us() - middle) / CALLS);
    }
    f->dev->ops->release(f->dev, memory);
    tc_sampler_free(s);
    free(logits);
    free(row);
}

static int run(const char *name, fixture *f)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_few, f),
                                       cmocka_unit_test_prestate(test_odd_rows, f),
                                       cmocka_unit_test_prestate(test_time, f)};
    srand(11);
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

static const tc_dev_geometry geometry = {
    .matmul_cols_max = 64, .positions_max = 64, .pages = 1, .slots = 1, .kv_type = TC_KV_F16};

static int run_cpu(const char *isa)
{
    const tc_team_options options = {.threads = THREADS, .spin_us = 100};
    const tc_kernels *kernels;
    tc_team *team = NULL;
    fixture f = {NULL};
    tc_error e;
    if (tc_kernels_get(TC_FAST, isa, &kernels, &e) != TC_OK) {
        print_message("[  SKIPPED ] %s\n", e.text);
        return 0;
    }
    int failed = 1;
    if (tc_team_create(&options, &team, &e) == TC_OK &&
        tc_dev_cpu_create(&geometry, team, kernels, &f.dev, &e) == TC_OK)
        failed = run(isa, &f);
    tc_dev_free(f.dev);
    tc_team_free(team);
    return failed;
}

static int run_cuda(void)
{
    const tc_cuda_library *cuda;
    fixture f = {NULL};
    tc_error e = {0};
    char card[128];
    const tc_cuda_options o = {.geometry = geometry,
                               .hidden = 64,
                               .experts = 4,
                               .top_k = 1,
                               .tokens_max = 1,
                               .vram_bytes = 2ull << 30};
    if (tc_cuda_library_load(0, &cuda, card, &e) != TC_OK || cuda->create(&o, &f.dev, &e) != TC_OK) {
        print_message("[  SKIPPED ] cuda: %s\n", e.text);
        return 0;
    }
    int failed = run("cuda", &f);
    tc_dev_free(f.dev);
    return failed;
}

int main(void)
{
    return run_cpu("scalar") + run_cpu("avx2") + run_cpu("avx512") + run_cuda();
}
