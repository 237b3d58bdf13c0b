// SPDX-License-Identifier: Apache-2.0
// Shows: weights that dial routing do what they say, with embeddings and routers as they would be written and
// nothing between them: popularity by the exponent asked for, in another order in each layer; neighbours of a
// topic share experts by the locality asked for; norms take the carriers out; numbers out of range are
// refused.
#include "benchmarks/routed.h"
#include "common/model/dtype.h"
#include "tests/support/cmocka_all.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 512, EXPERTS = 128, TOP_K = 8, LAYERS = 2, VOCAB = 4096, TOPICS = 8, TOKENS = 2000 };

static const bool delta[LAYERS] = {true, false};

static tc_routed_options options_of(double zipf, double locality)
{
    return (tc_routed_options){.zipf = zipf,
                               .locality = locality,
                               .hidden = HIDDEN,
                               .experts = EXPERTS,
                               .top_k = TOP_K,
                               .layers = LAYERS,
                               .vocab = VOCAB,
                               .delta = delta,
                               .norm_zero_centred = true,
                               .seed = 3};
}

static tc_routed *made(double zipf, double locality)
{
    tc_routed_options o = options_of(zipf, locality);
    tc_routed *r;
    tc_error e;
    assert_int_equal(tc_routed_create(&o, &r, &e), TC_OK);
    return r;
}

// Uniform, of the deviation, as random_shards.c draws them.
static void draw(uint16_t *values, size_t count, double deviation)
{
    for (size_t i = 0; i < count; i++)
        values[i] = tc_float_to_bf16((float)((rand() / (RAND_MAX + 1.0) * 2 - 1) * 1.7320508 * deviation));
}

typedef struct routing {
    double chance[EXPERTS];         // of each expert, by number
    double repeated;                // of a token's experts, the last one's
    uint32_t chosen[TOKENS][TOP_K]; // in falling order
} routing;

// tokens[i] through embedding and the router of `layer`; what layers add stands in as noise.
static void route(const tc_routed *r, uint32_t layer, const uint32_t *tokens, routing *ret)
{
    static uint16_t router[EXPERTS * HIDDEN], x[HIDDEN];
    const double added = layer ? 1.0 : 0.5 / 0.68; // of all that delta and attention add
    srand(11 + layer);
    memset(ret, 0, sizeof *ret);
    draw(router, EXPERTS * HIDDEN, 1 / sqrt(HIDDEN));
    tc_routed_router(r, layer, 0, router, EXPERTS * HIDDEN);
    for (int t = 0; t < TOKENS; t++) {
        double logit[EXPERTS] = {0}, state[HIDDEN];
        draw(x, HIDDEN, 1);
        tc_routed_embedding(r, 0, (uint64_t)tokens[t] * HIDDEN, x, HIDDEN);
        for (int i = 0; i < HIDDEN; i++)
            state[i] = tc_bf16_to_float(x[i]) + (rand() / (RAND_MAX + 1.0) * 2 - 1) * 1.7320508 * sqrt(added);
        for (int e = 0; e < EXPERTS; e++)
            for (int i = 0; i < HIDDEN; i++) logit[e] += state[i] * tc_bf16_to_float(router[e * HIDDEN + i]);
        for (int k = 0; k < TOP_K; k++) {
            int best = 0;
            for (int e = 1; e < EXPERTS; e++)
                if (logit[e] > logit[best]) best = e;
            logit[best] = -1e9;
            ret->chosen[t][k] = (uint32_t)best;
            ret->chance[best] += 1.0 / TOKENS;
            for (int j = 0; t && j < TOP_K; j++)
                ret->repeated += (ret->chosen[t - 1][j] == (uint32_t)best) / (double)(TOP_K * (TOKENS - 1));
        }
    }
}

static int falling(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

// Slope over the ranks 4 to 64: before, certainty cuts; after, what was drawn is too little.
static double exponent(const routing *r)
{
    double chance[EXPERTS], n = 0, x = 0, y = 0, xx = 0, xy = 0;
    memcpy(chance, r->chance, sizeof chance);
    qsort(chance, EXPERTS, sizeof *chance, falling);
    for (int i = 3; i < 64; i++) {
        double lx = log(i + 1.0), ly = log(chance[i] + 1e-9);
        n++, x += lx, y += ly, xx += lx * lx, xy += lx * ly;
    }
    return -(n * xy - x * y) / (n * xx - x * x);
}

static void any_tokens(uint32_t *tokens)
{
    srand(5);
    for (int t = 0; t < TOKENS; t++) tokens[t] = (uint32_t)(rand() % VOCAB);
}

static void test_popularity(void **state)
{
    static routing first, second;
    uint32_t tokens[TOKENS];
    any_tokens(tokens);
    for (double zipf = 0.6; zipf < 1.3; zipf += 0.3) {
        tc_routed *r = made(zipf, 0);
        route(r, 0, tokens, &first);
        route(r, 1, tokens, &second);
        print_message("exponent %.1f: %.2f and %.2f\n", zipf, exponent(&first), exponent(&second));
        assert_true(fabs(exponent(&first) - zipf) < 0.15);
        assert_true(fabs(exponent(&second) - zipf) < 0.15);
        double both = 0,
               squares = 0; // another order: what is popular in one layer is any expert of the other
        for (int e = 0; e < EXPERTS; e++) {
            both += first.chance[e] * second.chance[e];
            squares += first.chance[e] * first.chance[e];
        }
        assert_true(both < 0.7 * squares);
        tc_routed_free(r);
    }
}

static void test_locality(void **state)
{
    static routing r;
    uint32_t tokens[TOKENS];
    double before = 0;
    any_tokens(tokens);
    for (int t = 0; t < TOKENS; t++) // of a topic, then of another one
        tokens[t] = tokens[t] / TOPICS * TOPICS + (uint32_t)(t / 200) % TOPICS;
    for (double locality = 0; locality < 0.95; locality += 0.3) {
        tc_routed *routed = made(0.8, locality);
        route(routed, 0, tokens, &r);
        print_message("locality %.1f: %.2f of the experts again\n", locality, r.repeated);
        assert_true(r.repeated > before + (locality > 0 ? 0.03 : 0));
        before = r.repeated;
        tc_routed_free(routed);
    }
    assert_true(before > 0.4);
}

static void test_chances(void **state)
{
    double p[EXPERTS];
    for (double zipf = 0; zipf <= TC_ZIPF_MAX; zipf += 0.5) {
        double sum = 0;
        tc_routed_chances(zipf, EXPERTS, TOP_K, p);
        for (int e = 0; e < EXPERTS; e++) {
            sum += p[e];
            assert_true(p[e] > 0 && p[e] < 1 && (!e || p[e] <= p[e - 1]));
        }
        assert_true(fabs(sum - TOP_K) < 1e-6);
        assert_true(fabs(p[63] / p[127] - pow(2, zipf)) < 1e-6);
    }
}

static void test_norms_and_carriers(void **state)
{
    tc_routed *r = made(1, 0);
    uint16_t norm[HIDDEN], x[HIDDEN] = {0};
    draw(norm, HIDDEN, 0.1);
    tc_routed_norm(r, 0, 0, norm, HIDDEN);
    tc_routed_embedding(r, 0, 0, x, HIDDEN);
    for (int i = 0; i < HIDDEN; i++) {
        bool carrier = tc_bf16_to_float(x[i]) != 0;
        assert_int_equal(carrier, i < 16);
        assert_int_equal(carrier, tc_bf16_to_float(norm[i]) == -1.0f); // times 1 + norm
    }
    uint16_t part[16]; // any piece of a tensor is what it is in the whole
    draw(part, 16, 0);
    tc_routed_embedding(r, 0, 5 * HIDDEN + 8, part, 16);
    for (int i = 0; i < 16; i++) assert_int_equal(tc_bf16_to_float(part[i]) != 0, i < 8);
    tc_routed_free(r);
}

static void test_limits(void **state)
{
    tc_routed *r;
    tc_error e;
    const double good[][2] = {{0, 0}, {TC_ZIPF_MAX, TC_LOCALITY_MAX}},
                 bad[][2] = {
                     {-0.1, 0}, {TC_ZIPF_MAX + 0.01, 0}, {NAN, 0}, {1, -0.1}, {1, TC_LOCALITY_MAX + 0.01}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) tc_routed_free(made(good[i][0], good[i][1]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tc_routed_options o = options_of(bad[i][0], bad[i][1]);
        assert_int_equal(tc_routed_create(&o, &r, &e), TC_ARGUMENT);
    }
    tc_routed_options o = options_of(1, 0);
    o.top_k = EXPERTS;
    assert_int_equal(tc_routed_create(&o, &r, &e), TC_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chances),  cmocka_unit_test(test_popularity),
        cmocka_unit_test(test_locality), cmocka_unit_test(test_norms_and_carriers),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
