// SPDX-License-Identifier: Apache-2.0
// Owns: the test of reading weights out of a checkpoint: bitsandbytes states that do not fit their weight,
// dense tensors of the wrong kind, a file that shrinks, and every tensor of the golden models.
#include "common/base/mem.h"
#include "tests/unit/model/support.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

// ---- quantisation state ----

enum { ROWS = 3, COLS = 64, BLOCKS = 3 };

// Writes the linear "x", [3, 64] in blocks of 64, doubly quantised, but for what a case changes. Scales of
// 256 a group.
static void put_quantised(const scratch *s, const char *json, const char *leave_out, size_t absmax_count,
                          const char *absmax_dtype, float level, float nested)
{
    builder b = {0};
    uint8_t packed[ROWS * COLS / 2], codes[16] = {0};
    float levels[16] = {0}, map[256] = {0};
    memset(packed, 0x5a, sizeof packed);
    levels[5] = level;
    for (int i = 0; i < 256; i++) map[i] = (float)i / 256.0f;
#define ADD(name, ...)                                                                                       \
    if (!leave_out || strcmp(leave_out, name) != 0) add_tensor(&b, name, __VA_ARGS__)
    ADD("x.weight", "U8", sizeof packed, 1, packed, sizeof packed);
    ADD("x.weight.absmax", absmax_dtype, absmax_count, 1, codes,
        absmax_count * (strcmp(absmax_dtype, "F32") == 0 ? 4 : 1));
    ADD("x.weight.nested_absmax", "F32", 1, 1, &nested, 4);
    ADD("x.weight.nested_quant_map", "F32", 256, 1, map, sizeof map);
    ADD("x.weight.quant_map", "F32", 16, 1, levels, sizeof levels);
    ADD("x.weight.quant_state.bitsandbytes__nf4", "U8", strlen(json), 1, json, strlen(json));
    finish(&b, s, "model.safetensors");
}

#define STATE(type, block, dtype, shape, nested)                                                             \
    "{\"quant_type\":\"" type "\",\"blocksize\":" block ",\"dtype\":\"" dtype "\",\"shape\":" shape nested "}"
#define NESTED ",\"nested_blocksize\":256,\"nested_dtype\":\"float32\",\"nested_offset\":0.5"
#define GOOD STATE("nf4", "64", "bfloat16", "[3,64]", NESTED)

static const struct {
    const char *json, *leave_out;
    size_t absmax_count;
    const char *absmax_dtype;
    float level, nested;
    const char *named[2]; // none: it is good
} states[] = {
    {GOOD, NULL, 3, "U8", 1, 1, {NULL}},
    {GOOD, NULL, 2, "U8", 1, 1, {"x.weight.absmax", "holds 2 bytes"}},
    {GOOD, NULL, 4, "U8", 1, 1, {"x.weight.absmax", "holds 4 bytes"}},
    {GOOD, NULL, 3, "F32", 1, 1, {"x.weight.absmax", "dtype F32, must be U8"}},
    {GOOD, NULL, 3, "U8", __builtin_inff(), 1, {"x.weight.quant_map", "element 5 is not finite"}},
    {GOOD, NULL, 3, "U8", 1, __builtin_nanf(""), {"x.weight.nested_absmax", "not finite"}},
    {GOOD, "x.weight", 3, "U8", 1, 1, {"x.weight", "is missing"}},
    {GOOD, "x.weight.absmax", 3, "U8", 1, 1, {"x.weight.absmax", "is missing"}},
    {GOOD, "x.weight.nested_absmax", 3, "U8", 1, 1, {"x.weight.nested_absmax", "is missing"}},
    {GOOD, "x.weight.nested_quant_map", 3, "U8", 1, 1, {"x.weight.nested_quant_map", "is missing"}},
    {GOOD, "x.weight.quant_map", 3, "U8", 1, 1, {"x.weight.quant_map", "is missing"}},
    {GOOD,
     "x.weight.quant_state.bitsandbytes__nf4",
     3,
     "U8",
     1,
     1,
     {"x.weight", "dtype U8 and no 4-bit quantisation state"}},
    {STATE("fp4", "64", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "quant_type"}},
    {STATE("int4", "64", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "quant_type \"int4\""}},
    {STATE("nf4", "63", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "blocksize"}},
    {STATE("nf4", "16", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "blocksize"}},
    {STATE("nf4", "8192", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "blocksize"}},
    {STATE("nf4", "0", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "blocksize"}},
    {STATE("nf4", "-64", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "blocksize"}},
    {STATE("nf4", "\"64\"", "bfloat16", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "blocksize"}},
    {STATE("nf4", "64", "int8", "[3,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "dtype \"int8\""}},
    {STATE("nf4", "64", "bfloat16", "[64,3]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"shape is [64, 3], the model needs [3, 64]"}},
    {STATE("nf4", "64", "bfloat16", "[192]", NESTED), NULL, 3, "U8", 1, 1, {"bitsandbytes__nf4", "shape"}},
    {STATE("nf4", "64", "bfloat16", "[0,64]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "shape[0]"}},
    {STATE("nf4", "64", "bfloat16", "[3,2147483648]", NESTED),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "shape[1]"}},
    {STATE("nf4", "64", "bfloat16", "[3,64]",
           ",\"nested_blocksize\":255,\"nested_dtype\":\"float32\",\"nested_offset\":0"),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "nested_blocksize"}},
    {STATE("nf4", "64", "bfloat16", "[3,64]",
           ",\"nested_blocksize\":256,\"nested_dtype\":\"float16\",\"nested_offset\":0"),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "nested_dtype"}},
    {STATE("nf4", "64", "bfloat16", "[3,64]", ",\"nested_blocksize\":256,\"nested_dtype\":\"float32\""),
     NULL,
     3,
     "U8",
     1,
     1,
     {"bitsandbytes__nf4", "nested_offset is missing"}},
    {STATE("nf4", "64", "bfloat16", "[3,64]", ""),
     NULL,
     3,
     "U8",
     1,
     1,
     {"x.weight.absmax", "dtype U8, must be F32"}},
    {STATE("nf4", "64", "bfloat16", "[3,64]", ",\"blocksize\":64"),
     NULL,
     3,
     "U8",
     1,
     1,
     {"\"blocksize\" occurs twice"}},
    {"{}", NULL, 3, "U8", 1, 1, {"bitsandbytes__nf4", "quant_type is missing"}},
    {"[[[[[1]]]]]", NULL, 3, "U8", 1, 1, {"bitsandbytes__nf4", "nested deeper"}},
    {"junk", NULL, 3, "U8", 1, 1, {"bitsandbytes__nf4", "not JSON"}},
};

static void test_quantisation_states(void **state)
{
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        scratch s;
        tc_error e = {0};
        tc_checkpoint *c;
        tc_weight w = {.block = 77};
        scratch_make(&s);
        put_moe_config(&s, 1, 1, 64, 64);
        put_quantised(&s, states[i].json, states[i].leave_out, states[i].absmax_count, states[i].absmax_dtype,
                      states[i].level, states[i].nested);
        if (tc_checkpoint_open(s.path, &c, &e) != TC_OK) fail_msg("%s", e.text);
        tc_status status = tc_checkpoint_weight(c, "x", ROWS, COLS, &w, &e);
        if (states[i].named[0]) {
            if (status == TC_OK) fail_msg("accepted: %s", states[i].json);
            expect_error(&e, s.path, states[i].named[0]); // a missing tensor has no file
            if (states[i].named[1]) expect_error(&e, states[i].named[1]);
            assert_int_equal(w.block, 77); // untouched
            assert_int_equal(tc_mem_bytes(TC_MEM_OTHER), 0);
        } else {
            if (status != TC_OK) fail_msg("%s", e.text);
            assert_int_equal(w.block, 64);
            assert_true(w.absmax[2] == 0.5f); // map[0] * 1 + offset
            tc_weight_free(&w);
        }
        tc_checkpoint_free(c);
        scratch_remove(&s);
    }
}

// ---- dense tensors ----

static void test_dense(void **state)
{
    scratch s;
    tc_error e = {0};
    tc_checkpoint *c;
    tc_weight w = {0};
    float *v = NULL;
    builder b = {0};
    const uint16_t bf16[6] = {0x3f80, 0xc000, 0x4040, 0x0000, 0x3f00, 0xbf80},
                   f16[3] = {0x3c00, 0x0001, 0xc000}, nan16[1] = {0x7fc0};
    const float f32[2] = {1.5f, -2.5f};
    scratch_make(&s);
    put_moe_config(&s, 1, 1, 64, 64);
    add_tensor(&b, "m.weight", "BF16", 2, 3, bf16, sizeof bf16);
    add_tensor(&b, "h", "F16", 3, 1, f16, sizeof f16);
    add_tensor(&b, "f", "F32", 1, 2, f32, sizeof f32);
    add_tensor(&b, "i.weight", "I32", 1, 2, f32, sizeof f32);
    add_tensor(&b, "n", "BF16", 1, 1, nan16, sizeof nan16);
    finish(&b, &s, "model.safetensors");
    if (tc_checkpoint_open(s.path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    float out[4];
    assert_int_equal(tc_checkpoint_weight(c, "m", 2, 3, &w, &e), TC_OK);
    tc_weight_dequantise(&w, 1, 4, out);
    assert_true(out[0] == -2.0f && out[1] == 3.0f && out[2] == 0.0f && out[3] == 0.5f);
    tc_weight_free(&w);
    assert_int_equal(tc_checkpoint_weight(c, "m", 3, 2, &w, &e), TC_FORMAT);
    expect_error(&e, "model.safetensors", "m.weight", "[3, 2]");
    assert_int_equal(tc_checkpoint_weight(c, "q", 3, 2, &w, &e), TC_NOT_FOUND);
    expect_error(&e, "q.weight", "missing");
    assert_int_equal(tc_checkpoint_weight(c, "i", 1, 2, &w, &e), TC_FORMAT);
    expect_error(&e, "i.weight", "I32");
    assert_int_equal(tc_checkpoint_vector(c, "h", 3, &v, &e), TC_OK);
    assert_true(v[0] == 1.0f && v[1] == 5.9604644775390625e-08f && v[2] == -2.0f);
    tc_free(v);
    assert_int_equal(tc_checkpoint_vector(c, "h", 2, &v, &e), TC_FORMAT);
    expect_error(&e, "tensor h", "holds 3 elements", "needs 2");
    assert_int_equal(tc_checkpoint_vector(c, "i.weight", 2, &v, &e), TC_FORMAT);
    assert_int_equal(tc_checkpoint_vector(c, "n", 1, &v, &e), TC_FORMAT);
    expect_error(&e, "tensor n", "not finite");
    assert_int_equal(tc_checkpoint_vector(c, "absent", 1, &v, &e), TC_NOT_FOUND);
    // A file that shrinks gives an error.
    char path[300];
    snprintf(path, sizeof path, "%s/model.safetensors", s.path);
    assert_int_equal(truncate(path, 16), 0);
    assert_int_equal(tc_checkpoint_weight(c, "m", 2, 3, &w, &e), TC_IO);
    expect_error(&e, "model.safetensors", "m.weight", "shorter");
    tc_checkpoint_free(c);
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER) + tc_mem_bytes(TC_MEM_WEIGHTS), 0);
    scratch_remove(&s);
}

// ---- the golden models: every tensor that the description names is there, with its shape ----

// Every role that the family names and the description asks for.
static void load_role(const tc_checkpoint *c, tc_role role, uint32_t layer, uint32_t expert)
{
    static const struct {
        tc_role role;
        const char *suffix;
    } vectors[] = {{TC_FINAL_NORM, ".weight"}, {TC_INPUT_NORM, ".weight"},
                   {TC_POST_NORM, ".weight"},  {TC_Q_NORM, ".weight"},
                   {TC_K_NORM, ".weight"},     {TC_DN_CONV, ".weight"},
                   {TC_DN_NORM, ".weight"},    {TC_DN_A_LOG, ""},
                   {TC_DN_DT_BIAS, ""},        {TC_SINKS, ""},
                   {TC_ROUTER_CORRECTION, ""}, {TC_Q_A_NORM, ".weight"},
                   {TC_KV_A_NORM, ".weight"}};
    const tc_model_desc *d = tc_checkpoint_desc(c);
    char name[TC_TENSOR_NAME_BYTES + 16];
    uint32_t rows, cols;
    tc_error e;
    tc_model_tensor_name(d, role, layer, expert, name);
    tc_model_tensor_shape(d, role, layer, &rows, &cols);
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        float *values;
        if (vectors[i].role != role) continue;
        strcat(name, vectors[i].suffix);
        if (tc_checkpoint_vector(c, name, (uint64_t)rows * cols, &values, &e) != TC_OK)
            fail_msg("%s", e.text);
        tc_free(values);
        return;
    }
    tc_weight w;
    tc_status status = role >= TC_EXPERT_GATE && role <= TC_EXPERT_DOWN
                           ? tc_checkpoint_expert(c, role, layer, expert, &w, &e)
                           : tc_checkpoint_weight(c, name, rows, cols, &w, &e);
    if (status != TC_OK) fail_msg("%s", e.text);
    assert_true(w.rows == rows && w.cols == cols);
    tc_weight_free(&w);
}

static void load_roles(const tc_checkpoint *c, uint32_t l, tc_role first, tc_role last)
{
    const tc_model_desc *d = tc_checkpoint_desc(c);
    for (int role = (int)first; role <= (int)last; role++) {
        char name[TC_TENSOR_NAME_BYTES];
        tc_model_tensor_name(d, (tc_role)role, l, 0, name);
        if (role == TC_Q && d->kv_rank && d->q_rank) continue;
        if ((role == TC_Q_A || role == TC_Q_A_NORM || role == TC_Q_B) && !d->q_rank) continue;
        if ((role == TC_Q_NORM || role == TC_K_NORM) && d->qk_norm == TC_QK_NORM_NONE) continue;
        if (name[0]) load_role(c, (tc_role)role, l, 0);
    }
}

static void load_layer(const tc_checkpoint *c, uint32_t l)
{
    const tc_model_desc *d = tc_checkpoint_desc(c);
    bool full = d->layer[l].kind == TC_LAYER_FULL_ATTENTION;
    load_role(c, TC_INPUT_NORM, l, 0);
    load_role(c, TC_POST_NORM, l, 0);
    load_roles(c, l, full ? TC_Q : TC_DN_QKVZ, full ? TC_K_NORM : TC_DN_OUT);
    load_roles(c, l, full ? TC_Q_A : TC_DN_QKV, full ? TC_KV_B : TC_DN_A);
    if (!d->layer[l].moe) {
        load_roles(c, l, TC_MLP_GATE, TC_MLP_DOWN);
        return;
    }
    load_role(c, TC_ROUTER, l, 0);
    load_roles(c, l, TC_SINKS, TC_ROUTER_CORRECTION);
    for (uint32_t x = 0; x < d->experts; x++)
        for (int role = TC_EXPERT_GATE; role <= TC_EXPERT_DOWN; role++) {
            float bias[512];
            tc_error e;
            load_role(c, (tc_role)role, l, x);
            if (d->expert_bias && tc_checkpoint_expert_bias(c, (tc_role)role, l, x, bias, &e) != TC_OK)
                fail_msg("%s", e.text);
        }
    load_roles(c, l, TC_SHARED_GATE, TC_SHARED_ROUTER);
}

static void test_golden_models(void **state)
{
    static const char *const names[] = {"next-nf4",     "next-f32",    "next-fp4",     "next-bf16",
                                        "moe-nf4",      "moe-f16",     "mixtral-nf4",  "glm4-nf4",
                                        "deepseek-nf4", "olmoe-bf16",  "gptoss-mxfp4", "gptoss-bf16",
                                        "deepseek-fp8", "qwen35-bf16", "qwen35-nf4"};
    if (access(TC_GOLDEN_DIR "/next-nf4/model/config.json", F_OK) != 0) {
        print_message("skipped: no models in " TC_GOLDEN_DIR "\n");
        skip();
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        tc_checkpoint *c;
        tc_error e;
        snprintf(path, sizeof path, TC_GOLDEN_DIR "/%s/model", names[i]);
        if (tc_checkpoint_open(path, &c, &e) != TC_OK) fail_msg("%s", e.text);
        load_role(c, TC_EMBED, 0, 0);
        load_role(c, TC_FINAL_NORM, 0, 0);
        load_role(c, TC_HEAD, 0, 0); // tied: the embedding
        for (uint32_t l = 0; l < tc_checkpoint_desc(c)->layers; l++) load_layer(c, l);
        tc_checkpoint_free(c);
    }
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER) + tc_mem_bytes(TC_MEM_WEIGHTS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantisation_states),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_golden_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
