// SPDX-License-Identifier: Apache-2.0
// Shows: each sampling rule on hand-computed cases, the draw's distribution, and that it depends on (seed, n)
// alone.
#include "tests/support/cmocka_all.h"
#include "tests/support/draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 8 };

static const tc_sample_params neutral = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static tc_sampler *sampler_of(uint32_t vocab)
{
    tc_sampler *s = NULL;
    tc_error e;
    assert_int_equal(tc_sampler_create(vocab, &tc_dense_plain, &s, &e), TC_OK);
    return s;
}

// Draws of many seeds, counted by token.
static void histogram(const float *logits, tc_sample_params p, uint32_t draws, uint32_t counts[VOCAB])
{
    tc_sampler *s = sampler_of(VOCAB);
    for (uint32_t i = 0; i < VOCAB; i++) counts[i] = 0;
    for (uint32_t i = 0; i < draws; i++) {
        p.seed = i;
        counts[tc_sample(s, logits, &p, NULL, 0, 0)]++;
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
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 1);
    tc_few few;
    few_of_rows(logits, 1, VOCAB, &p.temperature, &few);
    assert_true(few.best == 1 && fabsf(few.gap - 0.5f) < 1e-6f);
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
        assert_int_equal(tc_sample(s, logits, &p, history, cases[i].prompt, 3), cases[i].expected);
    }
    const uint32_t once[] = {1};
    tc_sample_params p = neutral;
    p.temperature = 0;
    p.repetition_penalty = 1.3f; // 3.85 against 4
    assert_int_equal(tc_sample(s, logits, &p, once, 1, 1), 2);
    p.repetition_penalty = 1;
    p.presence_penalty = 1.5f;
    assert_int_equal(tc_sample(s, logits, &p, once, 0, 1), 2);
    assert_int_equal(tc_sample(s, logits, &p, once, 1, 1), 1);
    p.presence_penalty = 0;
    p.frequency_penalty = 0.6f;
    const uint32_t twice[] = {1, 1};
    assert_int_equal(tc_sample(s, logits, &p, twice, 0, 2), 2);
    assert_int_equal(tc_sample(s, logits, &p, once, 0, 1), 1);
    const float negative[VOCAB] = {-1, -1.2f, -9, -9, -9, -9, -9, -9};
    const uint32_t zero[] = {0};
    p.frequency_penalty = 0;
    p.repetition_penalty = 1.5f; // -1 becomes -1.5
    assert_int_equal(tc_sample(s, negative, &p, zero, 1, 1), 1);
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
        uint32_t a = tc_sample(s, logits, &p, history, 1, 3);
        (void)tc_sample(s, logits, &p, history, 0, 4);
        assert_int_equal(tc_sample(s, logits, &p, history, 1, 3), a);
        assert_int_equal(tc_sample(other, logits, &p, history, 2, 4), a); // two generated as well
        differences += tc_sample(s, logits, &p, history, 1, 4) != a;
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
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 2); // 6 against 5
    bias[0].value = 0.5f;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 1);
    p.forbidden = forbidden;
    p.forbidden_count = 3;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 2);
    p.bias_count = 0;
    p.forbidden = most;
    p.forbidden_count = 7;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 7);
    p.temperature = 2;
    for (p.seed = 0; p.seed < 200; p.seed++) assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 7);
    p.forbidden_count = 0; // a bias moves the draw, not only the best
    p.bias = bias;
    p.bias_count = 1;
    bias[0] = (tc_token_value){4, 40};
    for (p.seed = 0; p.seed < 200; p.seed++) assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 4);
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
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 33);
    p.temperature = 50;
    uint32_t seen[40] = {0};
    for (p.seed = 0; p.seed < 2000; p.seed++) seen[tc_sample(s, logits, &p, NULL, 0, 0)]++;
    for (uint32_t i = 0; i < 40; i++) assert_int_equal(seen[i] > 0, i == 3 || i == 5 || i == 31 || i == 33);
    p.top_k = 2; // the two best of those allowed, not of all
    for (p.seed = 0; p.seed < 300; p.seed++) assert_true(tc_sample(s, logits, &p, NULL, 0, 0) >= 31);
    p.top_k = 39; // more than are allowed
    for (p.seed = 0; p.seed < 300; p.seed++) {
        uint32_t id = tc_sample(s, logits, &p, NULL, 0, 0);
        assert_true(id == 3 || id == 5 || id == 31 || id == 33);
    }
    p.top_k = 0;
    p.top_p = 0.01f;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 33);
    p.top_p = 1;
    p.min_p = 0.999f;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 33);
    p.min_p = 0;
    tc_token_value bias[] = {{3, 100}, {39, 1000}}; // the second is not allowed
    p.bias = bias, p.bias_count = 2;
    p.temperature = 0;
    assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 3);
    p.bias_count = 0;
    p.repetition_penalty = 20;
    const uint32_t history[] = {33};
    assert_int_equal(tc_sample(s, logits, &p, history, 0, 1), 31);
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
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 4); // its logit is -inf
        p.allowed = &both, p.forbidden = forbidden, p.forbidden_count = 1;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 5);
        p.allowed = &bad;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 2); // both are NaN: the first
        p.forbidden = pair;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 3);
        p.forbidden_count = 2;
        assert_int_equal(tc_sample(s, logits, &p, NULL, 0, 0), 2); // the constraint holds above all
    }
    tc_sampler_free(s);
}

static void test_logprobs(void **state)
{
    (void)state;
    const float logits[5] = {logf(1), logf(2), logf(4), logf(2), NAN}; // 1/9, 2/9, 4/9, 2/9, 0
    tc_token_value v[6];
    tc_sampler *s = sampler_of(5);
    tc_logprobs(s, logits, 0, 5, v);
    const tc_token_value expected[] = {{0, 1}, {2, 4}, {1, 2}, {3, 2}, {0, 1}};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(v[i].token, expected[i].token);
        assert_true(fabsf(v[i].value - logf(expected[i].value / 9)) < 1e-6f);
    }
    assert_true(v[5].token == 4 && isinf(v[5].value) && v[5].value < 0);
    v[1].token = 77;
    tc_logprobs(s, logits, 3, 0, v);
    assert_true(v[0].token == 3 && v[1].token == 77); // nothing beyond what was asked for
    tc_logprobs(s, logits, 3, 1, v);
    assert_true(v[1].token == 2 && fabsf(v[1].value - logf(4 / 9.0f)) < 1e-6f);
    tc_sampler_free(s);
}

// ---- from what a device says of a row ----

// As a device would, by the definition in dev.h: of the tokens that are there, at most `limit`.
static tc_few describe(const float *row, uint32_t vocab, float temperature, uint32_t limit,
                       tc_few_token token[TC_FEW_MAX])
{
    uint32_t n;
    ranked *all = rank_row(row, vocab, temperature, &n);
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

// Many rows, parameters and seeds: the tokens of a sort, or a word that the whole row is needed.
static void test_draws_from_few(void **state)
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
    uint32_t drawn = 0, asked = 0, needed = 0, near = 0, n;
    for (int r = 0; r < ROWS; r++) {
        float row[WORDS];
        for (int i = 0; i < WORDS; i++) row[i] = (float)(rand() % 4000) / (r % 2 ? 200.0f : 1000.0f);
        row[rand() % WORDS] = NAN;
        ranked *all = rank_row(row, WORDS, temperatures[r % 5], &n);
        const tc_few few = describe(row, WORDS, temperatures[r % 5], limits[r % 3], token);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (uint32_t seed = 0; seed < SEEDS; seed++, asked++) {
                tc_sample_params p = shapes[k];
                uint32_t got;
                bool rounding;
                p.temperature = temperatures[r % 5];
                p.repetition_penalty = 1;
                p.seed = seed * 31 + 1;
                if (!tc_sample_few(s, &few, &p, 2, &got)) {
                    needed++;
                    continue;
                }
                const uint32_t expected = draw_by_rank(all, n, &p, 2, &rounding);
                if (!rounding) assert_int_equal(got, expected);
                near += rounding;
                drawn++;
            }
        free(all);
    }
    assert_true(drawn > asked / 3 && needed > asked / 20 && near < asked / 10);
    tc_sampler_free(s);
}

// Holds a draw against a sort of the row that is drawn from. True: it is near a border, so nothing is said of
// it.
static bool check_draw(tc_sampler *s, const float *row, const ranked *all, uint32_t n,
                       const tc_sample_params *p, const uint32_t *history, uint32_t prompt, uint32_t count,
                       int which)
{
    bool near;
    const uint32_t expected = draw_by_rank(all, n, p, count - prompt, &near),
                   got = tc_sample(s, row, p, history, prompt, count);
    if (!near && got != expected)
        fail_msg("row %d, top-k %u, top-p %g, min-p %g, seed %llu: %u is not %u", which, p->top_k,
                 (double)p->top_p, (double)p->min_p, (unsigned long long)p->seed, got, expected);
    return near;
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
    const uint32_t history[1] = {0};
    uint32_t near = 0, looked = 0, n;
    for (int r = 0; r < ROWS; r++) {
        float row[WORDS];
        const float width = (float[]){0.01f, 1, 8, 40}[r % 4];
        const int levels = r % 3 ? 1 << 20 : 9;
        for (uint32_t i = 0; i < WORDS; i++) row[i] = width * (float)(rand() % levels) / (float)levels;
        ranked *all = rank_row(row, WORDS, r % 2 ? 1 : 0.6f, &n);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (uint32_t seed = 0; seed < SEEDS; seed++, looked++) {
                tc_sample_params p = shapes[k];
                p.temperature = r % 2 ? 1 : 0.6f;
                p.repetition_penalty = 1;
                p.seed = seed * 1000003 + (uint64_t)r;
                near += check_draw(s, row, all, n, &p, history, 0, 1, r);
            }
        free(all);
    }
    if (near >= looked / 10) fail_msg("%u of %u are near a border", near, looked);
    tc_sampler_free(s);
}

// What changes logits, by the header's words: into `row`.
static void change_row(float *row, uint32_t vocab, const tc_sample_params *p, const uint32_t *history,
                       uint32_t prompt, uint32_t count)
{
    uint32_t *uses = calloc(vocab, sizeof *uses), *made = calloc(vocab, sizeof *made);
    for (uint32_t i = 0; i < count; i++) uses[history[i]]++, made[history[i]] += i >= prompt;
    for (uint32_t t = 0; t < vocab; t++) {
        if (isnan(row[t]) || (p->allowed && !(p->allowed[t / 32] >> t % 32 & 1))) row[t] = -INFINITY;
        for (uint32_t i = 0; i < p->bias_count; i++) row[t] += p->bias[i].token == t ? p->bias[i].value : 0;
        if (uses[t]) row[t] = row[t] > 0 ? row[t] / p->repetition_penalty : row[t] * p->repetition_penalty;
        if (made[t]) row[t] -= p->presence_penalty;
        for (uint32_t i = 0; i < made[t]; i++) row[t] -= p->frequency_penalty;
        for (uint32_t i = 0; i < p->forbidden_count; i++)
            if (p->forbidden[i] == t) row[t] = -INFINITY;
    }
    free(uses);
    free(made);
}

// Masks of any number of tokens, penalties, biases and what is forbidden, together and alone.
static void test_draws_from_changed_rows(void **state)
{
    (void)state;
    enum { WORDS = 3001, ROWS = 120, SEEDS = 12, HISTORY = 300 };
    static const tc_sample_params shapes[] = {{.top_p = 1},
                                              {.top_p = 0.9f},
                                              {.top_p = 1, .min_p = 0.1f},
                                              {.top_p = 0.8f, .top_k = 20},
                                              {.top_p = 0.7f, .top_k = WORDS - 1},
                                              {.top_p = 1, .top_k = WORDS - 1}};
    tc_sampler *s = sampler_of(WORDS);
    uint32_t history[HISTORY], allowed[(WORDS + 31) / 32], forbidden[3], near = 0, looked = 0, n;
    tc_token_value biases[2];
    for (int r = 0; r < ROWS; r++) {
        float row[WORDS], changed[WORDS];
        const uint32_t some = (uint32_t[]){1, 3, 40, WORDS / 2, WORDS - 5}[r % 5], prompt = HISTORY / 3;
        for (uint32_t i = 0; i < WORDS; i++) row[i] = (float)(rand() % 4000) / 400.0f - 3;
        row[rand() % WORDS] = NAN;
        memcpy(changed, row, sizeof row);
        for (uint32_t i = 0; i < HISTORY; i++) history[i] = (uint32_t)rand() % (WORDS / 10);
        memset(allowed, 0, sizeof allowed);
        for (uint32_t i = 0; i < WORDS; i++)
            if ((uint32_t)rand() % WORDS < some || i == 77) allowed[i / 32] |= 1u << i % 32;
        for (uint32_t i = 0; i < 3; i++) forbidden[i] = 78 + (uint32_t)rand() % (WORDS - 78);
        for (uint32_t i = 0; i < 2; i++)
            biases[i] = (tc_token_value){(uint32_t)rand() % WORDS, 6 - 4.0f * (float)i};
        const tc_sample_params with = {.temperature = (float[]){0, 0.6f, 1}[r % 3],
                                       .repetition_penalty = r & 1 ? 1.3f : 1,
                                       .presence_penalty = r & 2 ? 0.5f : 0,
                                       .frequency_penalty = r & 4 ? 0.25f : 0,
                                       .bias = biases,
                                       .bias_count = r & 8 ? 2 : 0,
                                       .forbidden = forbidden,
                                       .forbidden_count = r & 16 ? 3 : 0,
                                       .allowed = r & 32 ? allowed : NULL};
        change_row(changed, WORDS, &with, history, prompt, HISTORY);
        ranked *all = rank_row(changed, WORDS, with.temperature, &n);
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
            for (uint32_t seed = 0; seed < SEEDS; seed++, looked++) {
                tc_sample_params p = with;
                p.top_p = shapes[k].top_p, p.top_k = shapes[k].top_k, p.min_p = shapes[k].min_p;
                p.seed = seed * 977 + (uint64_t)r;
                near += check_draw(s, row, all, n, &p, history, prompt, HISTORY, r);
            }
        free(all);
    }
    if (near >= looked / 10) fail_msg("%u of %u are near a border", near, looked);
    tc_sampler_free(s);
}

// Against a sort: peaked and flat rows, some with nothing but equal ones.
static void test_logprobs_of_rows(void **state)
{
    (void)state;
    enum { WORDS = 5000, ROWS = 40, TOP = TC_LOGPROBS_MAX };
    tc_sampler *s = sampler_of(WORDS);
    tc_token_value v[1 + TOP];
    for (int r = 0; r < ROWS; r++) {
        float row[WORDS];
        uint32_t n;
        const int levels = (int[]){1 << 20, 1, 7, 3000}[r % 4];
        for (int i = 0; i < WORDS; i++) row[i] = (float)(r % 9) * (float)(rand() % levels) / (float)levels;
        row[rand() % WORDS] = NAN;
        ranked *all = rank_row(row, WORDS, 1, &n);
        double sum = 0;
        for (uint32_t i = 0; i < n; i++) sum += all[i].weight;
        const uint32_t top = (uint32_t)r % (TOP + 1), one = all[(uint32_t)rand() % n].id;
        tc_logprobs(s, row, one, top, v);
        for (uint32_t i = 0; i <= top; i++) {
            const double expected = (double)row[v[i].token] - all[0].logit - log(sum);
            assert_int_equal(v[i].token, i ? all[i - 1].id : one);
            assert_true(fabs(v[i].value - expected) < 3e-6 * fmax(1, fabs(expected)));
        }
        free(all);
    }
    tc_sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_are_those_of_a_sort),
        cmocka_unit_test(test_draws_from_changed_rows),
        cmocka_unit_test(test_logprobs_of_rows),
        cmocka_unit_test(test_bias_and_forbidden),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_mask_against_the_rest),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_draws_from_few),
        cmocka_unit_test(test_greedy_and_gap),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_draw_depends_on_seed_and_number_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
