// SPDX-License-Identifier: Apache-2.0
// Shows: the expert computation against sums in double over the packed weights; that neither the team, nor
// the cut of a call into slices, experts or tokens changes a bit, fused or phased; every refusal at its
// limit.
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/kernels/ffn.h"
#include "tests/support/cmocka_all.h"

enum { TOKENS_MAX = 24, TEAM_MAX = 3, PAIRS_MAX = TOKENS_MAX * TC_TOP_K_MAX };

// Fixtures of different weights and shapes: whole units, a unit that is no multiple of 64, one unit an
// expert.
static const char *const models[] = {"next-nf4", "next-fp4", "moe-nf4", "moe-f16", "next-bf16", "next-f32"};

typedef struct fixture {
    char dir[64];
    tc_store *store;
    const tc_store_info *info;
    tc_team *team[TEAM_MAX + 1]; // by size
    float *x;                    // [TOKENS_MAX][hidden]
    tc_expert_pair pairs[PAIRS_MAX];
    int64_t *whole, *part, *sum; // [TOKENS_MAX][hidden]
} fixture;

static float noise(void)
{
    return (float)rand() / (float)RAND_MAX * 2 - 1;
}

static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

static void must(tc_status status, const tc_error *e)
{
    if (status != TC_OK) fail_msg("%s", e->text);
}

static void setup(fixture *f, const char *model)
{
    tc_error e;
    tc_checkpoint *checkpoint;
    char source[400], path[TC_STORE_PATH_BYTES];
    *f = (fixture){.dir = "/tmp/tc-ffn-XXXXXX"};
    assert_non_null(mkdtemp(f->dir));
    snprintf(source, sizeof source, "%s/%s/model", TC_GOLDEN_DIR, model);
    must(tc_checkpoint_open(source, &checkpoint, &e), &e);
    must(tc_store_pack(checkpoint, &(tc_pack_options){.cache_dir = f->dir}, path, &e), &e);
    tc_checkpoint_free(checkpoint);
    must(tc_store_open(path, &f->store, &e), &e);
    f->info = tc_store_get_info(f->store);
    size_t count = (size_t)TOKENS_MAX * f->info->hidden;
    f->x = tc_alloc(TC_MEM_OTHER, count, sizeof *f->x);
    f->whole = tc_alloc(TC_MEM_OTHER, count, sizeof *f->whole);
    f->part = tc_alloc(TC_MEM_OTHER, count, sizeof *f->part);
    f->sum = tc_alloc(TC_MEM_OTHER, count, sizeof *f->sum);
    srand(7);
    for (size_t i = 0; i < count; i++) f->x[i] = noise() * 3;
    for (uint32_t n = 1; n <= TEAM_MAX; n++)
        must(tc_team_create(&(tc_team_options){.threads = n, .spin_us = 20}, &f->team[n], &e), &e);
}

static void teardown(fixture *f)
{
    for (uint32_t n = 1; n <= TEAM_MAX; n++) tc_team_free(f->team[n]);
    tc_store_free(f->store);
    tc_free(f->x);
    tc_free(f->whole);
    tc_free(f->part);
    tc_free(f->sum);
    remove_dir(f->dir);
}

static uint32_t first_layer(const fixture *f)
{
    uint32_t layer = 0;
    while (!tc_store_layer_has_experts(f->store, layer)) layer++;
    return layer;
}

// A call of random routing: every token has top_k different experts, low ones more often; the first token's
// first weight is 0. Pairs go to f->pairs.
static tc_expert_call make_call(fixture *f, uint32_t layer, tc_precision precision, uint32_t tokens)
{
    uint32_t experts = f->info->experts, count = 0;
    bool chosen[TOKENS_MAX][64] = {{false}};
    assert_true(experts <= 64);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t k = 0; k < f->info->top_k;) {
            uint32_t a = (uint32_t)rand() % experts, b = (uint32_t)rand() % experts, expert = a < b ? a : b;
            if (chosen[t][expert]) continue;
            chosen[t][expert] = true;
            k++;
        }
    for (uint32_t expert = 0; expert < experts; expert++)
        for (uint32_t t = 0; t < tokens; t++)
            if (chosen[t][expert]) f->pairs[count++] = (tc_expert_pair){expert, t, fabsf(noise())};
    f->pairs[0].weight = 0;
    return (tc_expert_call){.layer = layer,
                            .unit_end = f->info->units,
                            .precision = precision,
                            .tokens = tokens,
                            .hidden = f->info->hidden,
                            .x = f->x,
                            .pair_count = count,
                            .pairs = f->pairs};
}

static double *elements(tc_matrix m, tc_precision precision)
{
    double *v = malloc((size_t)m.rows * m.cols * sizeof *v);
    assert_non_null(v);
    if (precision != TC_EXACT) m.round = TC_F32; // the rounding of each weight is skipped: so does the oracle
    for (uint32_t r = 0; r < m.rows; r++)
        for (uint32_t c = 0; c < m.cols; c++) v[(size_t)r * m.cols + c] = tc_matrix_element(&m, r, c);
    return v;
}

static double dot(const double *w, const float *x, const double *y, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += w[i] * (x ? (double)x[i] : y[i]);
    return sum;
}

// out[t] += g * down(silu(gate x) * up x) of one unit, for the pairs of one expert.
static void oracle_unit(const fixture *f, const tc_expert_call *call, uint32_t expert, uint32_t unit_index,
                        double *out)
{
    tc_store_unit unit;
    tc_store_get_unit(f->store, call->layer, expert, unit_index, &unit);
    uint32_t width = unit.gate.rows, hidden = call->hidden;
    double *gate = elements(unit.gate, call->precision), *up = elements(unit.up, call->precision),
           *down = elements(unit.down, call->precision), *act = malloc(width * sizeof *act);
    assert_non_null(act);
    for (uint32_t i = 0; i < call->pair_count; i++) {
        const tc_expert_pair *pair = &call->pairs[i];
        const float *x = call->x + (size_t)pair->token * hidden;
        if (pair->expert != expert) continue;
        for (uint32_t r = 0; r < width; r++) {
            double g = dot(gate + (size_t)r * hidden, x, NULL, hidden);
            act[r] = g / (1 + exp(-g)) * dot(up + (size_t)r * hidden, x, NULL, hidden);
        }
        for (uint32_t r = 0; r < hidden; r++)
            out[(size_t)pair->token * hidden + r] +=
                (double)pair->weight * dot(down + (size_t)r * width, NULL, act, width);
    }
    free(gate);
    free(up);
    free(down);
    free(act);
}

static void run(const fixture *f, tc_ffn *ffn, const tc_expert_call *call, int64_t *sum)
{
    tc_error e;
    memset(sum, 0x5a, (size_t)call->tokens * call->hidden * sizeof *sum); // it is overwritten
    must(tc_expert_call_check(f->store, call, &e), &e);
    tc_mem_guard_begin();
    tc_status status = tc_ffn_run(ffn, call, sum, &e);
    assert_int_equal(tc_mem_guard_end(), 0);
    must(status, &e);
}

static void compare(const fixture *f, const tc_expert_call *call, const int64_t *sum, const char *name)
{
    size_t count = (size_t)call->tokens * call->hidden;
    double *want = calloc(count, sizeof *want), largest = 0, worst = 0;
    assert_non_null(want);
    for (uint32_t expert = 0; expert < f->info->experts; expert++)
        for (uint32_t unit = call->unit_begin; unit < call->unit_end; unit++)
            oracle_unit(f, call, expert, unit, want);
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs(want[i]));
        worst = fmax(worst, fabs(want[i] - (double)sum[i] / 4294967296.0));
    }
    free(want);
    assert_true(largest > 0);
    // code books in 127 steps, averaged over a few hundred products, twice
    if (!(worst <= (call->precision == TC_FAST ? 0.02 : 2e-6) * largest))
        fail_msg("%s, %u tokens: error %.3g of %.3g", name, call->tokens, worst, largest);
}

static const struct {
    tc_precision precision;
    const char *isa;
} kinds[] = {{TC_EXACT, NULL},        {TC_FLOAT, "scalar"},     {TC_FLOAT, "avx2"},
             {TC_FLOAT, "avx512"},    {TC_FAST, "scalar"},      {TC_FAST, "avx2"},
             {TC_FAST, "avx512"},     {TC_FAST, "avx512vnni"},  {TC_FAST, "avx512vbmi"},
             {TC_FAST, "avx512bf16"}, {TC_FAST, "avx512pairs"}, {TC_FAST, "amx"}};

enum { KINDS = sizeof kinds / sizeof kinds[0] };

static bool make_ffn(const fixture *f, int kind, uint32_t threads, tc_ffn **ret)
{
    tc_error e;
    const tc_kernels *k;
    if (tc_kernels_get(kinds[kind].precision, kinds[kind].isa, &k, &e) != TC_OK) return false; // not this CPU
    must(tc_ffn_create(f->store, f->team[threads], TOKENS_MAX, kinds[kind].isa, ret, &e), &e);
    return true;
}

// Both ways of spreading a call (few tokens, many), on both sides of the border between them.
static const uint32_t token_counts[] = {1, 2, 3, 4, 5, 8, 16, 17, TOKENS_MAX};

static void values_are_right_for_any_team(void **state)
{
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        fixture f;
        setup(&f, models[m]);
        for (int kind = 0; kind < KINDS; kind++)
            for (uint32_t threads = 1; threads <= TEAM_MAX; threads++) {
                tc_ffn *ffn;
                if (!make_ffn(&f, kind, threads, &ffn)) continue;
                for (size_t i = 0; i < sizeof token_counts / sizeof token_counts[0]; i++) {
                    size_t bytes = (size_t)token_counts[i] * f.info->hidden * sizeof *f.sum;
                    srand((unsigned)i + 1);
                    tc_expert_call call =
                        make_call(&f, first_layer(&f), kinds[kind].precision, token_counts[i]);
                    run(&f, ffn, &call, f.sum);
                    if (threads == 1) {
                        compare(&f, &call, f.sum, models[m]);
                        continue;
                    }
                    tc_ffn *alone;
                    assert_true(make_ffn(&f, kind, 1, &alone));
                    run(&f, alone, &call, f.whole);
                    assert_memory_equal(f.sum, f.whole, bytes);
                    tc_ffn_free(alone);
                }
                tc_ffn_free(ffn);
            }
        teardown(&f);
    }
}

static void add(int64_t *to, const int64_t *from, size_t count)
{
    for (size_t i = 0; i < count; i++) to[i] += from[i];
}

static void any_cut_gives_the_same_bits(void **state)
{
    fixture f;
    setup(&f, "next-nf4");
    assert_int_equal(f.info->units, 4);
    for (int kind = 0; kind < KINDS; kind++) {
        tc_ffn *ffn;
        if (!make_ffn(&f, kind, 2, &ffn)) continue;
        for (size_t i = 0; i < sizeof token_counts / sizeof token_counts[0]; i++) {
            uint32_t tokens = token_counts[i], hidden = f.info->hidden;
            size_t count = (size_t)tokens * hidden;
            tc_expert_call whole = make_call(&f, f.info->layers - 2, kinds[kind].precision, tokens), cut;
            run(&f, ffn, &whole, f.whole);
            // slices of the width: [0,1) [1,3) [3,4)
            static const uint32_t borders[] = {0, 1, 3, 4};
            memset(f.sum, 0, count * sizeof *f.sum);
            for (int s = 0; s < 3; s++) {
                cut = whole;
                cut.unit_begin = borders[s];
                cut.unit_end = borders[s + 1];
                run(&f, ffn, &cut, f.part);
                add(f.sum, f.part, count);
            }
            assert_memory_equal(f.sum, f.whole, count * sizeof *f.sum);
            // experts dealt out to three workers
            memset(f.sum, 0, count * sizeof *f.sum);
            for (uint32_t worker = 0; worker < 3; worker++) {
                tc_expert_pair some[PAIRS_MAX];
                cut = whole;
                cut.pairs = some;
                cut.pair_count = 0;
                for (uint32_t p = 0; p < whole.pair_count; p++)
                    if (whole.pairs[p].expert % 3 == worker) some[cut.pair_count++] = whole.pairs[p];
                run(&f, ffn, &cut, f.part);
                add(f.sum, f.part, count);
            }
            assert_memory_equal(f.sum, f.whole, count * sizeof *f.sum);
            // each token by itself: this crosses from the phased to the fused way
            for (uint32_t t = 0; t < tokens; t++) {
                tc_expert_pair some[TC_TOP_K_MAX];
                cut = whole;
                cut.tokens = 1;
                cut.x = whole.x + (size_t)t * hidden;
                cut.pairs = some;
                cut.pair_count = 0;
                for (uint32_t p = 0; p < whole.pair_count; p++) {
                    if (whole.pairs[p].token != t) continue;
                    some[cut.pair_count] = whole.pairs[p];
                    some[cut.pair_count++].token = 0;
                }
                run(&f, ffn, &cut, f.part);
                assert_memory_equal(f.part, f.whole + (size_t)t * hidden, hidden * sizeof *f.part);
            }
        }
        tc_ffn_free(ffn);
    }
    teardown(&f);
}

static void no_pairs_give_zero(void **state)
{
    fixture f;
    tc_ffn *ffn;
    setup(&f, "next-nf4");
    assert_true(make_ffn(&f, 0, 2, &ffn));
    for (uint32_t tokens = 1; tokens <= 8; tokens += 7) {
        tc_expert_call call = make_call(&f, first_layer(&f), TC_EXACT, tokens);
        call.pair_count = 0;
        run(&f, ffn, &call, f.sum);
        for (size_t i = 0; i < (size_t)tokens * call.hidden; i++) assert_true(f.sum[i] == 0);
    }
    tc_ffn_free(ffn);
    teardown(&f);
}

static void not_finite_is_told_and_forgotten(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f};
    fixture f;
    setup(&f, "next-nf4");
    for (int kind = 0; kind < KINDS; kind++) {
        tc_ffn *ffn;
        tc_error e;
        if (!make_ffn(&f, kind, 2, &ffn)) continue;
        for (uint32_t tokens = 1; tokens <= 8; tokens += 7)
            for (int where = 0; where < 2; where++) // an input, a weight
                for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
                    tc_expert_call call = make_call(&f, first_layer(&f), kinds[kind].precision, tokens);
                    float *at =
                        where ? &f.pairs[call.pair_count - 1].weight : &f.x[(tokens - 1) * call.hidden + 3];
                    float good = *at;
                    *at = bad[i];
                    assert_int_equal(tc_ffn_run(ffn, &call, f.sum, &e), TC_INTERNAL);
                    *at = good;
                    run(&f, ffn, &call, f.sum);
                }
        tc_ffn_free(ffn);
    }
    teardown(&f);
}

typedef void change(tc_expert_call *call, tc_expert_pair *pairs, const tc_store_info *info);

// Each case: the last value that is accepted, and the first that is not.
#define CASE(name, good, bad)                                                                                \
    static void name##_good(tc_expert_call *c, tc_expert_pair *p, const tc_store_info *info)                 \
    {                                                                                                        \
        (void)c, (void)p, (void)info;                                                                        \
        good;                                                                                                \
    }                                                                                                        \
    static void name##_bad(tc_expert_call *c, tc_expert_pair *p, const tc_store_info *info)                  \
    {                                                                                                        \
        (void)c, (void)p, (void)info;                                                                        \
        bad;                                                                                                 \
    }

// next-nf4: of five layers, 2 and 3 have experts; 4 units; 12 experts, top 4. The call has 2 tokens.
CASE(layer_dense, c->layer = 3, c->layer = 4)
CASE(layer_dense_before, c->layer = 2, c->layer = 1)
CASE(layer_absent, c->layer = 3, c->layer = 5)
CASE(layer_far, c->layer = 3, c->layer = UINT32_MAX)
CASE(unit_end, c->unit_end = 4, c->unit_end = 5)
CASE(unit_none, (c->unit_begin = 3, c->unit_end = 4), (c->unit_begin = 4, c->unit_end = 4))
CASE(unit_reversed, (c->unit_begin = 1, c->unit_end = 2), (c->unit_begin = 2, c->unit_end = 1))
CASE(unit_far, c->unit_end = 4, c->unit_end = UINT32_MAX)
CASE(precision, c->precision = TC_FAST, c->precision = (tc_precision)(TC_FAST + 1))
CASE(precision_negative, c->precision = TC_EXACT, c->precision = (tc_precision)-1)
CASE(tokens_none, (c->tokens = 1, c->pair_count = 0), (c->tokens = 0, c->pair_count = 0))
CASE(tokens_most, c->tokens = TC_CALL_TOKENS_MAX, c->tokens = TC_CALL_TOKENS_MAX + 1)
CASE(hidden_more, c->hidden = info->hidden, c->hidden = info->hidden + 1)
CASE(hidden_less, c->hidden = info->hidden, c->hidden = info->hidden - 1)
CASE(pairs_more, c->pair_count = 8, c->pair_count = 9)
CASE(pairs_far, c->pair_count = 8, c->pair_count = UINT32_MAX)
CASE(expert, p[7].expert = 11, p[7].expert = 12)
CASE(token, p[7].token = 1, p[7].token = 2)
CASE(token_far, p[7].token = 1, p[7].token = UINT32_MAX)
CASE(order_expert, p[3].expert = 4, p[3].expert = 6) // before (5, 0)
CASE(order_both, p[3].expert = 4, p[3].expert = 5)
CASE(order_across, p[6].expert = 6, p[6].expert = 8) // before (7, 1)
CASE(order_token, p[3].token = 1, (p[2].token = 1, p[3].token = 0))
CASE(duplicate, p[3].token = p[3].token, p[3] = p[2])

#define BOTH(name)                                                                                           \
    {                                                                                                        \
#name, name##_good, name##_bad                                                                       \
    }
static const struct {
    const char *name;
    change *good, *bad;
} cases[] = {
    BOTH(layer_dense),   BOTH(layer_dense_before),
    BOTH(layer_absent),  BOTH(layer_far),
    BOTH(unit_end),      BOTH(unit_none),
    BOTH(unit_reversed), BOTH(unit_far),
    BOTH(precision),     BOTH(precision_negative),
    BOTH(tokens_none),   BOTH(tokens_most),
    BOTH(hidden_more),   BOTH(hidden_less),
    BOTH(pairs_more),    BOTH(pairs_far),
    BOTH(expert),        BOTH(token),
    BOTH(token_far),     BOTH(order_expert),
    BOTH(order_both),    BOTH(order_across),
    BOTH(order_token),   BOTH(duplicate),
};

// 2 tokens, 4 experts each: (e, 0), (e, 1) for e = 1, 3, 5, 7.
static tc_expert_call plain_call(const fixture *f, tc_expert_pair pairs[9])
{
    for (uint32_t i = 0; i < 9; i++) pairs[i] = (tc_expert_pair){i / 2 * 2 + 1, i % 2, 0.25f};
    return (tc_expert_call){.layer = 2,
                            .unit_end = 4,
                            .precision = TC_EXACT,
                            .tokens = 2,
                            .hidden = f->info->hidden,
                            .x = f->x,
                            .pair_count = 8,
                            .pairs = pairs};
}

static void calls_are_checked(void **state)
{
    fixture f;
    setup(&f, "next-nf4");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tc_expert_pair pairs[9];
        tc_error e;
        tc_expert_call call = plain_call(&f, pairs);
        cases[i].good(&call, pairs, f.info);
        if (tc_expert_call_check(f.store, &call, &e) != TC_OK) fail_msg("%s: %s", cases[i].name, e.text);
        call = plain_call(&f, pairs);
        cases[i].bad(&call, pairs, f.info);
        if (tc_expert_call_check(f.store, &call, &e) != TC_ARGUMENT) fail_msg("%s: was taken", cases[i].name);
        assert_true(e.text[0]);
    }
    teardown(&f);
}

// What a call may ask for and what the scratch was made for are two limits.
static void scratch_is_a_limit(void **state)
{
    fixture f;
    tc_ffn *ffn;
    tc_error e;
    setup(&f, "next-nf4");
    must(tc_ffn_create(f.store, f.team[1], 6, NULL, &ffn, &e), &e);
    tc_expert_call call = make_call(&f, 2, TC_FLOAT, 6);
    assert_int_equal(call.pair_count, 24);
    run(&f, ffn, &call, f.sum);
    call = make_call(&f, 2, TC_FLOAT, 7);
    must(tc_expert_call_check(f.store, &call, &e), &e);
    assert_int_equal(tc_ffn_run(ffn, &call, f.sum, &e), TC_LIMIT);
    call.tokens = 6; // as many tokens as there is room for, but too many pairs
    assert_int_equal(call.pair_count, 28);
    assert_int_equal(tc_ffn_run(ffn, &call, f.sum, &e), TC_LIMIT);
    tc_ffn_free(ffn);
    tc_ffn_free(NULL);
    assert_int_equal(tc_ffn_create(f.store, f.team[1], 6, "mmx", &ffn, &e), TC_ARGUMENT);
    teardown(&f);
}

// What is planned is what is taken, or more where no tiles want a pair's rows side by side.
static void scratch_is_as_planned(void **state)
{
    (void)state;
    fixture f;
    tc_error e;
    setup(&f, "next-nf4");
    for (uint32_t tokens = 1; tokens <= 300; tokens += 299) {
        tc_ffn *ffn;
        const uint64_t before = tc_mem_bytes(TC_MEM_SCRATCH),
                       planned = tc_ffn_scratch_bytes(f.info, tc_team_size(f.team[2]), tokens);
        must(tc_ffn_create(f.store, f.team[2], tokens, NULL, &ffn, &e), &e);
        const uint64_t taken = tc_mem_bytes(TC_MEM_SCRATCH) - before,
                       rows = (uint64_t)tokens * (f.info->top_k - 1) * tc_rounded_bytes(f.info->hidden);
        if (taken != planned && taken != planned - rows)
            fail_msg("%u tokens: planned %llu, taken %llu", tokens, (unsigned long long)planned,
                     (unsigned long long)taken);
        tc_ffn_free(ffn);
        assert_int_equal(tc_mem_bytes(TC_MEM_SCRATCH), before);
    }
    teardown(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_right_for_any_team),
        cmocka_unit_test(any_cut_gives_the_same_bits),
        cmocka_unit_test(no_pairs_give_zero),
        cmocka_unit_test(scratch_is_as_planned),
        cmocka_unit_test(not_finite_is_told_and_forgotten),
        cmocka_unit_test(calls_are_checked),
        cmocka_unit_test(scratch_is_a_limit),
    };
    return cmocka_run_group_tests_name("ffn", tests, NULL, NULL);
}
