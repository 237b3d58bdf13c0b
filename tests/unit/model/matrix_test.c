// SPDX-License-Identifier: Apache-2.0
// Owns: the test of dequantising, NF4 quantising and packing: bit for bit against bitsandbytes' cases in
// tests/golden, and every element of packed matrices against the dequantised weight, for all types and odd
// sizes.
#include "common/base/mem.h"
#include "common/model/dtype.h"
#include "common/model/matrix.h"
#include "tests/unit/model/support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A random weight; quantised ones have scales that differ in every block.
static tc_weight make_weight(uint32_t rows, uint32_t cols, uint32_t block, tc_dtype dtype)
{
    uint64_t seed = rows * 7919u + cols * 31u + block, n = (uint64_t)rows * cols;
    tc_weight w = {.rows = rows, .cols = cols, .dtype = dtype, .block = block, .quantised = block != 0};
    w.data = tc_alloc(TC_MEM_OTHER, n, 4);
    if (block) {
        uint64_t blocks = (n + block - 1) / block;
        w.absmax = tc_alloc(TC_MEM_OTHER, blocks, sizeof(float));
        for (uint64_t i = 0; i < blocks; i++) w.absmax[i] = random_float(&seed);
        for (uint64_t i = 0; i < (n + 1) / 2; i++) ((uint8_t *)w.data)[i] = (uint8_t)next_random(&seed);
        for (int i = 0; i < 16; i++) w.levels[i] = random_float(&seed);
        return w;
    }
    for (uint64_t i = 0; i < n; i++) {
        float value = random_float(&seed);
        if (dtype == TC_F32) ((float *)w.data)[i] = value;
        if (dtype == TC_BF16) ((uint16_t *)w.data)[i] = tc_float_to_bf16(value);
        if (dtype == TC_F16) ((uint16_t *)w.data)[i] = tc_float_to_f16(value);
    }
    return w;
}

// Makes its scales double-quantised, with bitsandbytes' map.
static void nest(tc_weight *w)
{
    uint64_t seed = 77, blocks = w->block ? ((uint64_t)w->rows * w->cols + w->block - 1) / w->block : 0;
    if (!blocks) return;
    w->nested_block = 256;
    w->nested_offset = 0.25f;
    w->nested = tc_alloc(TC_MEM_OTHER, blocks / 256 + 1, sizeof(float));
    w->scale_codes = tc_alloc(TC_MEM_OTHER, blocks, 1);
    for (uint64_t i = 0; i <= blocks / 256; i++) w->nested[i] = random_float(&seed);
    for (uint64_t i = 0; i < blocks; i++) {
        w->scale_codes[i] = (uint8_t)next_random(&seed);
        w->absmax[i] = tc_nested_levels()[w->scale_codes[i]] * w->nested[i / 256];
        w->absmax[i] += w->nested_offset;
    }
}

static bool same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static void check_pack(const tc_weight *w, uint32_t row0, uint32_t rows, uint32_t col0, uint32_t cols,
                       tc_matrix_form form)
{
    tc_matrix m;
    size_t bytes = tc_matrix_bytes(&form, rows, cols);
    uint8_t *data = tc_alloc(TC_MEM_OTHER, bytes + 64, 1);
    memset(data, 0xee, bytes + 64);
    tc_matrix_pack(w, row0, rows, col0, cols, &form, data, &m);
    assert_true(memcmp(&m.form, &form, sizeof form) == 0 && m.rows == rows && m.cols == cols &&
                m.data == data);
    float *whole_row = calloc(cols, sizeof *whole_row);
    for (uint32_t r = 0; r < rows; r++) {
        tc_matrix_row(&m, r, whole_row);
        for (uint32_t c = 0; c < cols; c++) {
            float want, got = tc_matrix_element(&m, r, c);
            assert_true(same_bits(got, whole_row[c]));
            tc_weight_dequantise(w, (uint64_t)(row0 + r) * w->cols + col0 + c, 1, &want);
            if (!same_bits(want, got))
                fail_msg("[%u, %u] block %u type %d: element %u, %u is %a, must be %a", w->rows, w->cols,
                         w->block, form.type, r, c, got, want);
        }
    }
    free(whole_row);
    m.rows = tc_panels(rows) * TC_PANEL_ROWS; // rows of padding are zero, or finite where scales are codes
    for (uint32_t r = rows; r < m.rows; r++)
        for (uint32_t c = 0; c < cols; c++)
            assert_true(form.nested_stride ? isfinite(tc_matrix_element(&m, r, c))
                                           : tc_matrix_element(&m, r, c) == 0.0f);
    for (int i = 0; i < 64; i++) assert_int_equal(data[bytes + (size_t)i], 0xee);
    tc_free(data);
}

static void test_pack(void **state)
{
    static const struct {
        uint32_t rows, cols, block;
        tc_dtype dtype;
        uint32_t row0, part_rows, col0, part_cols;
        tc_matrix_type type;
        uint32_t group;
    } cases[] = {
        {16, 64, 64, TC_BF16, 0, 16, 0, 64, TC_M_Q4, 64},
        {1, 64, 64, TC_F16, 0, 1, 0, 64, TC_M_Q4, 64},
        {17, 128, 64, TC_F32, 0, 17, 0, 128, TC_M_Q4, 64},
        {40, 192, 64, TC_BF16, 3, 33, 64, 64, TC_M_Q4, 64},
        {33, 128, 32, TC_BF16, 5, 20, 64, 64, TC_M_Q4, 32},
        {4, 96, 32, TC_BF16, 0, 4, 0, 64, TC_M_Q4, 32},
        {20, 128, 128, TC_F16, 0, 20, 0, 128, TC_M_Q4, 64},
        {20, 192, 128, TC_F16, 1, 19, 64, 128, TC_M_Q4, 64},
        {70, 64, 4096, TC_BF16, 6, 64, 0, 64, TC_M_Q4, 64},
        {300, 704, 64, TC_BF16, 40, 64, 128, 576, TC_M_Q4, 64}, // rows cross the borders of nested blocks
        {300, 512, 64, TC_BF16, 0, 300, 448, 64, TC_M_Q4, 64},  // one span of many
        {4, 96, 64, TC_BF16, 0, 4, 0, 64, TC_M_BF16, 0},
        {4, 128, 64, TC_F16, 0, 4, 32, 64, TC_M_F16, 0},
        {5, 70, 64, TC_F32, 0, 5, 0, 70, TC_M_F32, 0},
        {3, 1, 64, TC_BF16, 0, 3, 0, 1, TC_M_BF16, 0},
        {17, 48, 0, TC_BF16, 0, 17, 0, 48, TC_M_BF16, 0},
        {31, 300, 0, TC_F16, 15, 16, 7, 290, TC_M_F16, 0},
        {1, 1, 0, TC_F32, 0, 1, 0, 1, TC_M_F32, 0},
        {100, 33, 0, TC_F32, 99, 1, 32, 1, TC_M_F32, 0},
        {48, 64, 0, TC_BF16, 0, 48, 0, 64, TC_M_BF16, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int nested = 0; nested < 2; nested++) {
            tc_weight w = make_weight(cases[i].rows, cases[i].cols, cases[i].block, cases[i].dtype);
            if (nested) nest(&w);
            tc_matrix_form form = tc_matrix_form_for(&w, cases[i].col0, cases[i].part_cols);
            assert_int_equal(form.type, cases[i].type);
            assert_int_equal(form.group, cases[i].group);
            bool codes = nested && cases[i].type == TC_M_Q4 && cases[i].block == 64;
            assert_int_equal(form.nested_stride, codes ? cases[i].cols / 64 : 0);
            check_pack(&w, cases[i].row0, cases[i].part_rows, cases[i].col0, cases[i].part_cols, form);
            check_pack(&w, cases[i].row0, cases[i].part_rows, cases[i].col0, cases[i].part_cols,
                       (tc_matrix_form){TC_M_F32, 0, 0});
            tc_weight_free(&w);
        }
    }
}

// The layout itself, so that packer and reader cannot be wrong together.
static void test_layout(void **state)
{
    tc_weight w = make_weight(16, 64, 64, TC_BF16);
    tc_matrix m;
    const tc_matrix_form q4 = {TC_M_Q4, 64, 0}, q4_32 = {TC_M_Q4, 32, 0}, bf16 = {TC_M_BF16, 0, 0},
                         f32 = {TC_M_F32, 0, 0}, q8 = {TC_M_Q8, 64, 0}, nested = {TC_M_Q4, 64, 32};
    assert_int_equal(tc_matrix_bytes(&q4, 16, 64), 64 + 512);
    assert_int_equal(tc_matrix_bytes(&q4_32, 17, 128), 2 * 2 * (128 + 512));
    assert_int_equal(tc_matrix_bytes(&q8, 17, 128), 2 * 2 * (64 + 1024));
    assert_int_equal(tc_matrix_bytes(&bf16, 17, 3), 2 * 4 * 32);
    assert_int_equal(tc_matrix_bytes(&f32, 1, 5), 5 * 64);
    // 64 rows of 2048: 8 nested scales or, where they do not begin on a border, 9; codes; tiles. 4.13 bits a
    // weight.
    assert_int_equal(tc_matrix_codes_at(&nested, 64, 2048), 64);
    assert_int_equal(tc_matrix_tiles_at(&nested, 64, 2048), 64 + 64 * 32);
    assert_int_equal(tc_matrix_bytes(&nested, 64, 2048), 64 + 64 * 32 + 64 * 1024);
    uint8_t *data = tc_alloc(TC_MEM_OTHER, 576, 1);
    tc_matrix_pack(&w, 0, 16, 0, 64, &q4, data, &m);
    assert_memory_equal(data, w.absmax, 64); // a block a row: the scales of the panel are the absmax
    for (uint32_t lane = 0; lane < 16; lane++)
        for (uint32_t tile = 0; tile < 8; tile++) {
            uint32_t word;
            memcpy(&word, data + 64 + tile * 64 + lane * 4, 4);
            static const int shift[8] = {0, 8, 16, 24, 4, 12, 20, 28};
            for (uint32_t k = 0; k < 8; k++) {
                uint32_t at = lane * 64 + tile * 8 + k;
                uint8_t byte = ((uint8_t *)w.data)[at / 2];
                assert_int_equal(word >> shift[k] & 15, at % 2 ? byte & 15 : byte >> 4);
            }
        }
    tc_free(data);
    tc_weight_free(&w);
}

// A weight in 8 bits: 127 steps to the largest of a row's 64 columns.
static void test_eight_bits(void **state)
{
    const tc_matrix_form form = {TC_M_Q8, 64, 0};
    tc_weight w = make_weight(19, 192, 0, TC_BF16);
    tc_matrix m;
    memset((uint16_t *)w.data + 192, 0, 64 * 2); // nothing to scale by
    uint8_t *data = tc_alloc(TC_MEM_OTHER, tc_matrix_bytes(&form, 17, 128), 1);
    tc_matrix_pack(&w, 1, 17, 0, 128, &form, data, &m);
    for (uint32_t r = 0; r < 17; r++)
        for (uint32_t c = 0; c < 128; c++) {
            float top = 0, value;
            for (uint32_t k = c / 64 * 64; k < c / 64 * 64 + 64; k++) {
                tc_weight_dequantise(&w, (uint64_t)(1 + r) * 192 + k, 1, &value);
                top = fmaxf(top, fabsf(value));
            }
            tc_weight_dequantise(&w, (uint64_t)(1 + r) * 192 + c, 1, &value);
            float got = tc_matrix_element(&m, r, c);
            if (!(fabsf(got - value) <= top / 127 * 0.5001f))
                fail_msg("element %u, %u is %g, must be about %g", r, c, got, value);
        }
    tc_free(data);
    tc_weight_free(&w);
}

// The code book of TC_FAST: within 127 steps, near the levels, zero where they are.
static void test_fast_levels(void **state)
{
    tc_matrix m = {0};
    tc_matrix_set_fast(&m); // all levels zero
    for (int i = 0; i < 16; i++) assert_int_equal(m.fast[i], 0);
    memcpy(m.levels, tc_nf4_levels, sizeof m.levels);
    tc_matrix_set_fast(&m);
    for (int i = 0; i < 16; i++) {
        assert_in_range(m.fast[i] + 127, 0, 254);
        assert_true(fabsf((float)m.fast[i] * m.fast_step - m.levels[i]) <= 0.005f);
    }
    assert_int_equal(m.fast[7], 0);
}

static void test_rounding(void **state)
{
    assert_int_equal(tc_float_to_bf16(1.00390625f), 0x3f80); // a tie, to even: down
    assert_int_equal(tc_float_to_bf16(1.01171875f), 0x3f82); // a tie, to even: up
    assert_int_equal(tc_float_to_bf16(-0.0f), 0x8000);
    assert_int_equal(tc_float_to_bf16(3.4e38f), 0x7f80); // beyond the largest: infinity
    assert_true(isnan(tc_bf16_to_float(tc_float_to_bf16(__builtin_nanf("")))));
    assert_int_equal(tc_float_to_f16(65519.0f), 0x7bff);
    assert_int_equal(tc_float_to_f16(65520.0f), 0x7c00);
    assert_int_equal(tc_float_to_f16(6e-8f), 0x0001); // denormals are kept
}

static void test_quantise_refuses(void **state)
{
    tc_error e;
    tc_weight w = make_weight(2, 64, 64, TC_BF16);
    assert_int_equal(tc_weight_quantise_nf4(&w, &e), TC_ARGUMENT);
    tc_weight_free(&w);
    w = make_weight(2, 64, 0, TC_F32);
    ((float *)w.data)[77] = __builtin_inff();
    assert_int_equal(tc_weight_quantise_nf4(&w, &e), TC_FORMAT);
    assert_false(w.quantised);
    expect_error(&e, "not finite");
    tc_weight_free(&w);
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER), 0);
}

// ---- bitsandbytes' cases ----

typedef struct golden {
    char name[128], type[8], dtype[8];
    unsigned block, nested, rows, cols;
} golden;

// Opens <name>.safetensors of the fixtures as the single file of a checkpoint.
static tc_checkpoint *open_case(const scratch *s, const golden *g)
{
    char from[512], to[512];
    tc_error e;
    tc_checkpoint *c;
    snprintf(from, sizeof from, TC_GOLDEN_DIR "/bnb/%s.safetensors", g->name);
    snprintf(to, sizeof to, "%s/model.safetensors", s->path);
    unlink(to);
    assert_int_equal(symlink(from, to), 0);
    if (tc_checkpoint_open(s->path, &c, &e) != TC_OK) fail_msg("%s: %s", g->name, e.text);
    return c;
}

static void equal_weights(const golden *g, const tc_weight *w, const float *want)
{
    uint64_t n = (uint64_t)g->rows * g->cols;
    float *got = calloc(n, sizeof *got);
    tc_weight_dequantise(w, 0, n, got);
    for (uint64_t i = 0; i < n; i++) // FP4 has two zeros; both are equal to the reference's
        if (!same_bits(got[i], want[i]) && !(got[i] == 0.0f && want[i] == 0.0f))
            fail_msg("%s: element %lu is %a, bitsandbytes has %a", g->name, (unsigned long)i, got[i],
                     want[i]);
    free(got);
}

static void check_dequantise(const golden *g, const tc_checkpoint *c)
{
    tc_error e;
    tc_weight w;
    float *want;
    if (tc_checkpoint_weight(c, "X", g->rows, g->cols, &w, &e) != TC_OK) fail_msg("%s: %s", g->name, e.text);
    if (tc_checkpoint_vector(c, "dequantized", (uint64_t)g->rows * g->cols, &want, &e) != TC_OK)
        fail_msg("%s: %s", g->name, e.text);
    assert_int_equal(w.block, g->block);
    assert_int_equal(w.fp4, strcmp(g->type, "fp4") == 0);
    equal_weights(g, &w, want);
    check_pack(&w, 0, g->rows, 0, g->cols, tc_matrix_form_for(&w, 0, g->cols));
    tc_free(want);
    tc_weight_free(&w);
}

// Our quantiser on the case's source gives the case's codes and scales.
static void check_quantise(const golden *g, const tc_checkpoint *c)
{
    tc_error e;
    tc_weight stored, own = {.rows = g->rows, .cols = g->cols};
    float *source;
    uint64_t n = (uint64_t)g->rows * g->cols;
    own.dtype = strcmp(g->dtype, "bf16") == 0 ? TC_BF16 : strcmp(g->dtype, "f16") == 0 ? TC_F16 : TC_F32;
    if (tc_checkpoint_weight(c, "X", g->rows, g->cols, &stored, &e) != TC_OK)
        fail_msg("%s: %s", g->name, e.text);
    if (tc_checkpoint_vector(c, "source", n, &source, &e) != TC_OK) fail_msg("%s: %s", g->name, e.text);
    own.data = tc_alloc(TC_MEM_OTHER, n, 4);
    for (uint64_t i = 0; i < n; i++) {
        if (own.dtype == TC_F32) ((float *)own.data)[i] = source[i];
        if (own.dtype == TC_BF16) ((uint16_t *)own.data)[i] = tc_float_to_bf16(source[i]);
        if (own.dtype == TC_F16) ((uint16_t *)own.data)[i] = tc_float_to_f16(source[i]);
    }
    if (tc_weight_quantise_nf4(&own, &e) != TC_OK) fail_msg("%s: %s", g->name, e.text);
    assert_int_equal(own.block, 64);
    if (memcmp(own.data, stored.data, (n + 1) / 2) != 0)
        fail_msg("%s: codes differ from bitsandbytes'", g->name);
    if (memcmp(own.absmax, stored.absmax, (n + 63) / 64 * sizeof(float)) != 0)
        fail_msg("%s: scales differ from bitsandbytes'", g->name);
    assert_memory_equal(own.levels, stored.levels, sizeof own.levels);
    assert_non_null(stored.scale_codes);
    assert_memory_equal(own.scale_codes, stored.scale_codes, (n + 63) / 64);
    assert_memory_equal(own.nested, stored.nested, ((n + 63) / 64 + 255) / 256 * sizeof(float));
    assert_true(same_bits(own.nested_offset, stored.nested_offset));
    tc_free(source);
    tc_weight_free(&stored);
    tc_weight_free(&own);
}

static void test_golden(void **state)
{
    FILE *list = fopen(TC_GOLDEN_DIR "/bnb/cases.txt", "r");
    char line[256];
    golden g;
    int cases = 0, quantised = 0;
    scratch s;
    if (!list) {
        print_message("skipped: no " TC_GOLDEN_DIR "/bnb/cases.txt\n");
        skip();
    }
    scratch_make(&s);
    put_moe_config(&s, 1, 1, 64, 64);
    while (fgets(line, sizeof line, list)) {
        if (sscanf(line, "%127s %7s %u %u %7s %u %u", g.name, g.type, &g.block, &g.nested, g.dtype, &g.rows,
                   &g.cols) != 7)
            continue;
        tc_checkpoint *c = open_case(&s, &g);
        check_dequantise(&g, c);
        if (strcmp(g.type, "nf4") == 0 && g.block == 64 && g.nested) {
            check_quantise(&g, c);
            quantised++;
        }
        tc_checkpoint_free(c);
        cases++;
    }
    fclose(list);
    scratch_remove(&s);
    print_message("%d cases dequantised, %d quantised\n", cases, quantised);
    assert_true(cases >= 20 && quantised >= 5);
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER) + tc_mem_bytes(TC_MEM_WEIGHTS), 0);
}

static void test_nested_map(void **state)
{
    FILE *list = fopen(TC_GOLDEN_DIR "/bnb/dynamic_map.txt", "r");
    float map[256];
    unsigned bits;
    int n = 0;
    if (!list) {
        print_message("skipped: no " TC_GOLDEN_DIR "/bnb/dynamic_map.txt\n");
        skip();
    }
    tc_nested_map(map);
    for (; n < 256 && fscanf(list, "%x %*s", &bits) == 1; n++) assert_memory_equal(&bits, &map[n], 4);
    assert_int_equal(n, 256);
    fclose(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),     cmocka_unit_test(test_pack),
        cmocka_unit_test(test_eight_bits), cmocka_unit_test(test_fast_levels),
        cmocka_unit_test(test_rounding),   cmocka_unit_test(test_quantise_refuses),
        cmocka_unit_test(test_nested_map), cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
