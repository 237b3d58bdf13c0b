// SPDX-License-Identifier: Apache-2.0
// Shows: each sampling rule on hand-computed cases, the draw's distribution, and that it depends on (seed, n)
// alone.
#include "gpu-core/forward/sample.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 8 };

static const tc_sample_params neutral = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static tc_sampler *sampler_of(uint32_t vocab)
{
    tc_sampler *s = NULL;
    tc_error e;
    assert_int_equal(tc_sampler_create(vocab, &s, &e), TC_OK);
    return s;
}

// Draws of many seeds, counted by token.
static void histogram(const float *logits, tc_sample_params p, uint32_t draws, uint32_t counts[VOCAB])
{
    tc_sampler *s = sampler_of(VOCAB);
    for (uint32_t i = 0; i < VOCAB; i++) counts[i] = 0;
    for (uint32_t i = 0; i < draws; i++) {
        p.seed = i;
        counts[tc_sample(s, logits, &p, NULL, 0, 0, NULL)]++;
    }
    tc_sampler_free(s);
}

static void test_greedy_and_gap(void **state)
{
    (void)state;
    tc_sampler *s = sampler_of(VOCAB);
    const float logits[VOCAB] = {1, 5, 2, 4.5f, 0, 0, NAN, 0};
    tc_sample_params p = neutral;
    p.temperature = 0;
    float gap = 0;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, &gap), 1);
    assert_true(fabsf(gap - 0.5f) < 1e-6f);
    tc_sampler_free(s);
}

static void test_penalties(void **state)
{
    (void)state;
    tc_sampler *s = sampler_of(VOCAB);
    const float logits[VOCAB] = {0, 5, 4, -1, -6, -6, -6, -6};
    const uint32_t history[] = {1, 2, 2};
    const struct {
        float repetition, presence, frequency;
        uint32_t prompt, expected;
    } cases[] = {
        {1, 0, 0, 0, 1},    {2, 0, 0, 0, 1}, // 2.5 against 2: both were seen
        {6, 0, 0, 0, 1},                     // 0.83 against 0.67
        {1, 2, 0, 1, 1},                     // token 1 is prompt: presence does not touch it
        {1, 0, 0.1f, 0, 1},                  // 4.9 against 3.8
        {1, 2, 0, 0, 1},                     // both presence: 3 against 2
        {1, 0, 3, 3, 1},                     // all is prompt: nothing changes
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_sample_params p = neutral;
        p.temperature = 0;
        p.repetition_penalty = cases[i].repetition;
        p.presence_penalty = cases[i].presence;
        p.frequency_penalty = cases[i].frequency;
        assert_int_equal(tc_sample(s, logits, &p, history, cases[i].prompt, 3, NULL), cases[i].expected);
    }
    const uint32_t once[] = {1};
    tc_sample_params p = neutral;
    p.temperature = 0;
    p.repetition_penalty = 1.3f; // 3.85 against 4
    assert_int_equal(tc_sample(s, logits, &p, once, 1, 1, NULL), 2);
    p.repetition_penalty = 1;
    p.presence_penalty = 1.5f;
    assert_int_equal(tc_sample(s, logits, &p, once, 0, 1, NULL), 2);
    assert_int_equal(tc_sample(s, logits, &p, once, 1, 1, NULL), 1);
    p.presence_penalty = 0;
    p.frequency_penalty = 0.6f;
    const uint32_t twice[] = {1, 1};
    assert_int_equal(tc_sample(s, logits, &p, twice, 0, 2, NULL), 2);
    assert_int_equal(tc_sample(s, logits, &p, once, 0, 1, NULL), 1);
    const float negative[VOCAB] = {-1, -1.2f, -9, -9, -9, -9, -9, -9};
    const uint32_t zero[] = {0};
    p.frequency_penalty = 0;
    p.repetition_penalty = 1.5f; // -1 becomes -1.5
    assert_int_equal(tc_sample(s, negative, &p, zero, 1, 1, NULL), 1);
    tc_sampler_free(s);
}

// Which tokens survive each truncation: those, and only those, are ever drawn.
static void test_truncations(void **state)
{
    (void)state;
    float logits[VOCAB];
    const float p[VOCAB] = {0.5f, 0.2f, 0.1f, 0.08f, 0.05f, 0.04f, 0.02f, 0.01f};
    for (int i = 0; i < VOCAB; i++) logits[i] = logf(p[i]);
    const struct {
        uint32_t top_k;
        float top_p, min_p, temperature;
        uint32_t kept;
    } cases[] = {
        {0, 1, 0, 1, 8},       {3, 1, 0, 1, 3},     {1, 1, 0, 1, 1},     {8, 1, 0, 1, 8},
        {0, 0.5f, 0, 1, 1},    {0, 0.51f, 0, 1, 2}, {0, 0.69f, 0, 1, 2}, {0, 0.79f, 0, 1, 3},
        {0, 0.01f, 0, 1, 1},   {0, 1, 0.09f, 1, 5}, {0, 1, 0.19f, 1, 3}, {0, 1, 0.5f, 1, 1},
        {4, 0.9f, 0, 1, 3},    {4, 0.95f, 0, 1, 4}, {2, 1, 0.3f, 1, 2},  {0, 0.99f, 0.05f, 1, 6},
        {0, 0.7f, 0, 0.5f, 1}, // squared: 0.84 is in the first
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t counts[VOCAB];
        tc_sample_params params = neutral;
        params.top_k = cases[i].top_k;
        params.top_p = cases[i].top_p;
        params.min_p = cases[i].min_p;
        params.temperature = cases[i].temperature;
        histogram(logits, params, 4000, counts);
        for (uint32_t t = 0; t < VOCAB; t++) {
            if (t < cases[i].kept && counts[t] == 0) fail_msg("case %zu: token %u never drawn", i, t);
            if (t >= cases[i].kept && counts[t] != 0) fail_msg("case %zu: token %u drawn", i, t);
        }
    }
}

static void test_distribution(void **state)
{
    (void)state;
    float logits[VOCAB];
    const float p[VOCAB] = {0.3f, 0.25f, 0.15f, 0.1f, 0.08f, 0.06f, 0.04f, 0.02f};
    for (int i = 0; i < VOCAB; i++) logits[i] = logf(p[i]) + 3;
    uint32_t counts[VOCAB], draws = 40000;
    histogram(logits, neutral, draws, counts);
    for (int i = 0; i < VOCAB; i++) {
        double sigma = sqrt(draws * p[i] * (1 - p[i]));
        assert_true(fabs(counts[i] - draws * (double)p[i]) < 5 * sigma);
    }
}

static void test_draw_depends_on_seed_and_number_only(void **state)
{
    (void)state;
    tc_sampler *s = sampler_of(VOCAB), *other = sampler_of(VOCAB);
    const float logits[VOCAB] = {1, 1, 1, 1, 1, 1, 1, 1};
    const uint32_t history[4] = {0, 1, 2, 3};
    tc_sample_params p = neutral;
    uint32_t differences = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        p.seed = seed;
        uint32_t a = tc_sample(s, logits, &p, history, 1, 3, NULL);
        (void)tc_sample(s, logits, &p, history, 0, 4, NULL);
        assert_int_equal(tc_sample(s, logits, &p, history, 1, 3, NULL), a);
        assert_int_equal(tc_sample(other, logits, &p, history, 2, 4, NULL), a); // two generated as well
        differences += tc_sample(s, logits, &p, history, 1, 4, NULL) != a;
    }
    assert_true(differences > 100);
    tc_sampler_free(s);
    tc_sampler_free(other);
}

static void test_bias_and_forbidden(void **state)
{
    (void)state;
    tc_sampler *s = sampler_of(VOCAB);
    const float logits[VOCAB] = {0, 5, 4, -1, -6, -6, -6, -6};
    tc_token_value bias[] = {{2, 2}, {7, -100}};
    const uint32_t forbidden[] = {1, VOCAB, UINT32_MAX}, most[] = {0, 1, 2, 3, 4, 5, 6};
    tc_sample_params p = neutral;
    p.temperature = 0;
    p.bias = bias;
    p.bias_count = 2;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 2); // 6 against 5
    bias[0].value = 0.5f;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 1);
    p.forbidden = forbidden;
    p.forbidden_count = 3;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 2);
    p.bias_count = 0;
    p.forbidden = most;
    p.forbidden_count = 7;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 7);
    p.temperature = 2;
    for (p.seed = 0; p.seed < 200; p.seed++) assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 7);
    p.forbidden_count = 0; // a bias moves the draw, not only the best
    p.bias = bias;
    p.bias_count = 1;
    bias[0] = (tc_token_value){4, 40};
    for (p.seed = 0; p.seed < 200; p.seed++) assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 4);
    tc_sampler_free(s);
}

// What a mask allows: only that is drawn, whatever the logits say; penalties, biases and truncations act
// within it.
static void test_mask(void **state)
{
    (void)state;
    tc_sampler *s = sampler_of(40);
    float logits[40];
    for (int i = 0; i < 40; i++) logits[i] = (float)i;
    uint32_t allowed[2] = {1u << 3 | 1u << 5 | 1u << 31, 1u << 1}; // 3, 5, 31, 33
    tc_sample_params p = neutral;
    p.allowed = allowed;
    p.temperature = 0;
    float gap;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, &gap), 33);
    assert_true(fabsf(gap - 1) < 1e-6f); // of the model's own logits
    p.temperature = 50;
    uint32_t seen[40] = {0};
    for (p.seed = 0; p.seed < 2000; p.seed++) seen[tc_sample(s, logits, &p, NULL, 0, 0, NULL)]++;
    for (uint32_t i = 0; i < 40; i++) assert_int_equal(seen[i] > 0, i == 3 || i == 5 || i == 31 || i == 33);
    p.top_k = 2; // the two best of those allowed, not of all
    for (p.seed = 0; p.seed < 300; p.seed++) assert_true(tc_sample(s, logits, &p, NULL, 0, 0, NULL) >= 31);
    p.top_k = 39; // more than are allowed
    for (p.seed = 0; p.seed < 300; p.seed++) {
        uint32_t id = tc_sample(s, logits, &p, NULL, 0, 0, NULL);
        assert_true(id == 3 || id == 5 || id == 31 || id == 33);
    }
    p.top_k = 0;
    p.top_p = 0.01f;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 33);
    p.top_p = 1;
    p.min_p = 0.999f;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 33);
    p.min_p = 0;
    tc_token_value bias[] = {{3, 100}, {39, 1000}}; // the second is not allowed
    p.bias = bias, p.bias_count = 2;
    p.temperature = 0;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 3);
    p.bias_count = 0;
    p.repetition_penalty = 20;
    const uint32_t history[] = {33};
    assert_int_equal(tc_sample(s, logits, &p, history, 0, 1, NULL), 31);
    tc_sampler_free(s);
}

// Where mask and the rest leave nothing: an allowed token even so, one that is not forbidden if there is one.
static void test_mask_against_the_rest(void **state)
{
    (void)state;
    tc_sampler *s = sampler_of(VOCAB);
    const float logits[VOCAB] = {0, 5, NAN, NAN, -INFINITY, 1, 1, 1};
    const uint32_t one = 1u << 4, bad = 1u << 2 | 1u << 3, both = 1u << 1 | 1u << 5, forbidden[] = {1},
                   pair[] = {2, 3};
    tc_sample_params p = neutral;
    for (int hot = 0; hot < 2; hot++) {
        p.temperature = (float)hot;
        p.allowed = &one, p.forbidden_count = 0;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 4); // its logit is -inf
        p.allowed = &both, p.forbidden = forbidden, p.forbidden_count = 1;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 5);
        p.allowed = &bad;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 2); // both are NaN: the first
        p.forbidden = pair;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 3);
        p.forbidden_count = 2;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0, NULL), 2); // the constraint holds above all
    }
    tc_sampler_free(s);
}

static void test_logprobs(void **state)
{
    (void)state;
    const float logits[5] = {logf(1), logf(2), logf(4), logf(2), NAN}; // 1/9, 2/9, 4/9, 2/9, 0
    tc_token_value v[6];
    tc_logprobs(logits, 5, 0, 5, v);
    const tc_token_value expected[] = {{0, 1}, {2, 4}, {1, 2}, {3, 2}, {0, 1}};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(v[i].token, expected[i].token);
        assert_true(fabsf(v[i].value - logf(expected[i].value / 9)) < 1e-6f);
    }
    assert_true(v[5].token == 4 && isinf(v[5].value) && v[5].value < 0);
    v[1].token = 77;
    tc_logprobs(logits, 5, 3, 0, v);
    assert_true(v[0].token == 3 && v[1].token == 77); // nothing beyond what was asked for
    tc_logprobs(logits, 5, 3, 1, v);
    assert_true(v[1].token == 2 && fabsf(v[1].value - logf(4 / 9.0f)) < 1e-6f);
}

// ---- from what a device says of a row ----

typedef struct ranked {
    float logit;
    uint32_t id;
} ranked;

static int falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->logit != y->logit ? (x->logit > y->logit ? -1 : 1) : x->id < y->id ? -1 : x->id > y->id;
}

// As a device would, by the definition in dev.h: of the tokens that are there, at most `limit`.
static tc_few describe(const float *row, uint32_t vocab, float temperature, uint32_t limit,
                       tc_few_token token[TC_FEW_MAX])
{
    ranked *all = malloc(vocab * sizeof *all);
    uint32_t n = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (!isnan(row[i])) all[n++] = (ranked){row[i], i};
    qsort(all, n, sizeof *all, falling);
    tc_few few = {.best = all[0].id, .gap = all[0].logit - all[1].logit, .max = all[0].logit, .token = token};
    for (uint32_t i = 0; temperature > 0 && i < n; i++)
        few.sum += expf((all[i].logit - few.max) / temperature);
    while (limit && limit < n && all[limit].logit == all[limit - 1].logit) limit--; // equal ones go together
    few.count = limit < n ? limit : n;
    for (uint32_t i = 0; i < few.count; i++)
        token[few.count - 1 - i] = (tc_few_token){all[i].logit, all[i].id};
    free(all);
    return few;
}

// Many rows, parameters and seeds: the tokens of the whole row, or a word that it is needed.
static void test_few_draw_as_rows(void **state)
{
    (void)state;
    enum { WORDS = 3000, ROWS = 60, SEEDS = 25 };
    static const tc_sample_params shapes[] = {
        {.top_p = 0.8f, .top_k = 20}, {.top_p = 0.95f},         {.top_p = 1},
        {.top_p = 1, .min_p = 0.05f}, {.top_p = 1, .top_k = 1}, {.top_p = 0.5f, .min_p = 0.2f, .top_k = 300}};
    static const float temperatures[] = {0, 0.3f, 0.7f, 1, 2};
    static const uint32_t limits[] = {1, 40, TC_FEW_MAX};
    tc_few_token token[TC_FEW_MAX];
    tc_sampler *s = sampler_of(WORDS);
    uint32_t drawn = 0, asked = 0, needed = 0;
    for (int r = 0; r < ROWS; r++) {
        float row[WORDS];
        for (int i = 0; i < WORDS; i++) row[i] = (float)(rand() % 4000) / (r % 2 ? 200.0f : 1000.0f);
        row[rand() % WORDS] = NAN;
        const tc_few few = describe(row, WORDS, temperatures[r % 5], limits[r % 3], token);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (uint32_t seed = 0; seed < SEEDS; seed++, asked++) {
                tc_sample_params p = shapes[k];
                uint32_t got;
                p.temperature = temperatures[r % 5];
                p.repetition_penalty = 1;
                p.seed = seed * 31 + 1;
                const uint32_t history[2] = {0};
                if (tc_sample_few(s, &few, &p, 2, &got)) {
                    assert_int_equal(got, tc_sample(s, row, &p, history, 0, 2, NULL));
                    drawn++;
                } else {
                    needed++;
                }
            }
    }
    assert_true(drawn > asked / 3 && needed > asked / 20);
    tc_sampler_free(s);
}

// The number that a draw uses (splitmix64), worked out here once more.
static double number_of(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

// What a draw is by definition: all tokens sorted, cut off, and counted through. `ret_near`: so near to the
// next one that rounding may decide.
static uint32_t drawn_by_sorting(const ranked *all, uint32_t n, const tc_sample_params *p, uint64_t number,
                                 bool *ret_near)
{
    double sum = 0, mass = 0, done = 0;
    uint32_t kept = 0;
    if (p->top_k && p->top_k < n) n = p->top_k;
    for (uint32_t i = 0; i < n; i++) sum += exp((double)(all[i].logit - all[0].logit) / p->temperature);
    *ret_near = false;
    for (; kept < n; kept++) {
        const double w = exp((double)(all[kept].logit - all[0].logit) / p->temperature);
        *ret_near |= fabs(mass - p->top_p * sum) < 1e-6 * sum && p->top_p < 1;
        *ret_near |= fabs(w - p->min_p) < 1e-6;
        if (kept && (mass >= p->top_p * sum || w < p->min_p)) break;
        mass += w;
    }
    const double at = number_of(p->seed, number) * mass;
    for (uint32_t i = 0; i < kept; i++) {
        done += exp((double)(all[i].logit - all[0].logit) / p->temperature);
        *ret_near |= fabs(done - at) < 1e-6 * mass;
        if (done > at) return all[i].id;
    }
    return all[kept - 1].id;
}

// Peaked and flat rows, rows with many equal ones: what is found by splitting is what sorting finds.
static void test_draws_are_those_of_a_sort(void **state)
{
    (void)state;
    enum { WORDS = 3000, ROWS = 40, SEEDS = 20 };
    static const tc_sample_params shapes[] = {{.top_p = 1},
                                              {.top_p = 0.9f},
                                              {.top_p = 1, .min_p = 0.1f},
                                              {.top_p = 0.7f, .min_p = 0.01f},
                                              {.top_p = 1, .top_k = 17},
                                              {.top_p = 0.8f, .top_k = 700},
                                              {.top_p = 1, .top_k = WORDS - 1}};
    tc_sampler *s = sampler_of(WORDS);
    ranked *all = malloc(WORDS * sizeof *all);
    const uint32_t history[1] = {0};
    uint32_t near = 0, looked = 0;
    for (int r = 0; r < ROWS; r++) {
        float row[WORDS];
        const float width = (float[]){0.01f, 1, 8, 40}[r % 4];
        const int levels = r % 3 ? 1 << 20 : 9;
        for (uint32_t i = 0; i < WORDS; i++) row[i] = width * (float)(rand() % levels) / (float)levels;
        for (uint32_t i = 0; i < WORDS; i++) all[i] = (ranked){row[i], i};
        qsort(all, WORDS, sizeof *all, falling);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (uint32_t seed = 0; seed < SEEDS; seed++, looked++) {
                tc_sample_params p = shapes[k];
                bool rounding;
                p.temperature = r % 2 ? 1 : 0.6f;
                p.repetition_penalty = 1;
                p.seed = seed * 1000003 + (uint64_t)r;
                const uint32_t expected = drawn_by_sorting(all, WORDS, &p, 1, &rounding),
                               got = tc_sample(s, row, &p, history, 0, 1, NULL);
                near += rounding;
                if (!rounding && got != expected)
                    fail_msg("row %d shape %zu seed %u: %u is not %u", r, k, seed, got, expected);
            }
    }
    if (near >= looked / 10) fail_msg("%u of %u are near a border", near, looked);
    free(all);
    tc_sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_are_those_of_a_sort),
        cmocka_unit_test(test_bias_and_forbidden),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_mask_against_the_rest),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_few_draw_as_rows),
        cmocka_unit_test(test_greedy_and_gap),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_draw_depends_on_seed_and_number_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
