// SPDX-License-Identifier: Apache-2.0
// Shows: the roofline of bytes and products is, kind of round by kind of round, the longer of the two, and
// the sum of these: for numbers that are worked out by hand; that each kind of matrix meets the peak of the
// product its kernels use; and that what is not known never makes a roof lower than the bytes.
#include "cli/bench_roofline.h"
#include "tests/support/cmocka_all.h"

#include <string.h>

enum { LAYERS = 2, HEADS = 4, HEAD_DIM = 64, HIDDEN = 128, VOCAB = 1000 };

static tc_model_desc desc;
static tc_footprint footprint;
static tc_matrix_peak peak;
static tc_roof_model model;
static tc_roof_step step;

static int setup(void **state)
{
    (void)state;
    desc = (tc_model_desc){.layers = LAYERS,
                           .heads = HEADS,
                           .kv_heads = HEADS,
                           .head_dim = HEAD_DIM,
                           .hidden = HIDDEN,
                           .vocab = VOCAB,
                           .top_k = 2};
    footprint = (tc_footprint){.moe_layers = LAYERS,
                               .expert_matrix = TC_M_Q4,
                               .expert_multiply_adds = 500000,
                               .head_multiply_adds = 4000000};
    footprint.dense.head = 6000000;
    footprint.dense.head_type = TC_M_BF16;
    footprint.dense.round[TC_DENSE_PROJECTIONS].bytes = 1000000;
    footprint.dense.round[TC_DENSE_PROJECTIONS].multiply_adds[TC_M_Q4] = 2000000;
    footprint.dense.round[TC_DENSE_ROUTER].bytes = 20000;
    footprint.dense.round[TC_DENSE_ROUTER].multiply_adds[TC_M_F32] = 10000;
    peak = (tc_matrix_peak){.count = 4,
                            .unit = {{"avx512 fma", TC_PEAK_FLOAT, 100},
                                     {"avx512 vnni", TC_PEAK_INT8, 400},
                                     {"avx512 bf16", TC_PEAK_FLOAT, 250},
                                     {"avx2 fma", TC_PEAK_FLOAT, 50}}};
    model = (tc_roof_model){.desc = &desc,
                            .footprint = &footprint,
                            .isa = "avx512bf16",
                            .precision = "fast",
                            .peak = &peak,
                            .read_gb_per_s = 10};
    step = (tc_roof_step){.runs = 8,
                          .run_tokens = 1,
                          .position = 99,
                          .head_rows = 8,
                          .expert_reads = 20,
                          .bytes = 1000000 + 20000 + 6000000 + 4000000 + 500000 + 3000,
                          .expert_bytes = 4000000,
                          .cache_bytes = 500000};
    return 0;
}

static tc_roof roof_of(void)
{
    tc_roof roof;
    tc_roof_of(&model, &step, &roof);
    return roof;
}

static void same(double a, double b)
{
    assert_true(a > b * (1 - 1e-9) - 1e-9 && a < b * (1 + 1e-9) + 1e-9);
}

static void test_the_longer_of_both_is_summed(void **state)
{
    (void)state;
    const tc_roof roof = roof_of();
    const tc_roof_round *r = roof.round;
    same(r[TC_ROOF_PROJECTIONS].bytes_us, 100);
    same(r[TC_ROOF_PROJECTIONS].products_us, 8 * 2 * 2000000 / 200e3); // two planes: half of 400
    same(r[TC_ROOF_PROJECTIONS].us, 160);
    same(r[TC_ROOF_ATTENTION].products_us, 8 * 100 * 2.0 * LAYERS * 2 * HEADS * HEAD_DIM / 100e3);
    same(r[TC_ROOF_ATTENTION].us, 50); // its bytes take longer
    same(r[TC_ROOF_ROUTERS].products_us, 8 * 2 * 10000 / 100e3);
    same(r[TC_ROOF_EXPERTS].products_us, 8 * 2 * LAYERS * 2 * 500000 / 200e3);
    same(r[TC_ROOF_EXPERTS].us, 400);
    same(r[TC_ROOF_HEAD].products_us, 8 * 2 * 4000000 / 250e3);
    same(r[TC_ROOF_HEAD].us, 600);
    same(r[TC_ROOF_REST].us, 0.3);
    same(roof.bytes_us, 1152.3);
    double sum = 0;
    for (int i = 0; i < TC_ROOF_KINDS; i++) sum += r[i].us;
    same(roof.us, sum);
    same(roof.us, 160 + 50 + 2 + 400 + 600 + 0.3);
}

static void test_every_matrix_meets_its_own_product(void **state)
{
    (void)state;
    assert_string_equal(roof_of().round[TC_ROOF_HEAD].product, "bf16");
    assert_string_equal(roof_of().round[TC_ROOF_EXPERTS].product, "int8 in two planes");
    assert_string_equal(roof_of().round[TC_ROOF_ROUTERS].product, "float32");
    model.head = "nf4";
    const tc_roof four = roof_of();
    assert_string_equal(four.round[TC_ROOF_HEAD].product, "int8 in two planes");
    same(four.round[TC_ROOF_HEAD].gop_per_s, 200);
    assert_true(four.round[TC_ROOF_HEAD].bytes < footprint.dense.head / 3.0);
    model.head = NULL;
    model.isa = "avx512vnni"; // multiplies no bfloat16
    same(roof_of().round[TC_ROOF_HEAD].gop_per_s, 100);
    model.precision = "float";
    same(roof_of().round[TC_ROOF_EXPERTS].gop_per_s, 100);
    assert_string_equal(roof_of().round[TC_ROOF_EXPERTS].product, "float32");
}

// AVX2 multiplies whole 16-bit numbers where that is faster than two planes.
static void test_avx2_has_the_better_of_two(void **state)
{
    (void)state;
    model.isa = "avx2";
    peak.unit[1] = (tc_peak_unit){"avx2 maddubs", TC_PEAK_INT8, 120};
    peak.unit[2] = (tc_peak_unit){"avx2 madd", TC_PEAK_INT16, 90};
    same(roof_of().round[TC_ROOF_EXPERTS].gop_per_s, 90);
    assert_string_equal(roof_of().round[TC_ROOF_EXPERTS].product, "int16");
    peak.unit[1].gop_per_s = 200;
    same(roof_of().round[TC_ROOF_EXPERTS].gop_per_s, 100);
    assert_string_equal(roof_of().round[TC_ROOF_EXPERTS].product, "int8 in two planes");
}

static void test_what_is_not_known_leaves_the_bytes(void **state)
{
    (void)state;
    model.isa = "another";
    const tc_roof roof = roof_of();
    same(roof.us, roof.bytes_us);
    for (int i = 0; i < TC_ROOF_KINDS; i++) assert_string_equal(roof.round[i].product, "");
    same(roof.round[TC_ROOF_EXPERTS].gop, 8 * 2 * LAYERS * 2 * 500000 * 1e-9); // counted all the same
}

// A prompt's token sees what was before it; a sliding layer no more than its window.
static void test_attention_counts_positions(void **state)
{
    (void)state;
    const double pair = 2.0 * 2 * HEADS * HEAD_DIM * 1e-9; // operations of a token and a position
    step.runs = 1, step.run_tokens = 10, step.position = 0;
    same(roof_of().round[TC_ROOF_ATTENTION].gop, LAYERS * 55 * pair);
    desc.layer[1].sliding = true;
    desc.sliding_window = 4;
    same(roof_of().round[TC_ROOF_ATTENTION].gop, (55 + 1 + 2 + 3 + 7 * 4) * pair);
    desc.layer[1].kind = TC_LAYER_DELTA;
    desc.dn_value_heads = 2, desc.dn_key_dim = 8, desc.dn_value_dim = 16;
    same(roof_of().round[TC_ROOF_ATTENTION].gop, 55 * pair + 2e-9 * 3 * 10 * 2 * 8 * 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_the_longer_of_both_is_summed, setup),
        cmocka_unit_test_setup(test_every_matrix_meets_its_own_product, setup),
        cmocka_unit_test_setup(test_avx2_has_the_better_of_two, setup),
        cmocka_unit_test_setup(test_what_is_not_known_leaves_the_bytes, setup),
        cmocka_unit_test_setup(test_attention_counts_positions, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
