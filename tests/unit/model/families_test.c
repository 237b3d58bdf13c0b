// SPDX-License-Identifier: Apache-2.0
// Owns: the test of the families' descriptions: published configurations read, what is out of range or not
// supported named; and of the forms that their weights come in: FP8 with block scales, experts stacked in one
// tensor, MXFP4, against values worked out here.
#include "common/base/mem.h"
#include "common/model/dtype.h"
#include "tests/unit/model/support.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static tc_status load(const char *config, tc_model_desc *ret, tc_error *e)
{
    scratch s;
    scratch_make(&s);
    put_text(&s, "config.json", config);
    tc_status status = tc_model_desc_load(s.path, ret, e);
    scratch_remove(&s);
    return status;
}

static void good(const char *config, tc_model_desc *ret)
{
    tc_error e;
    if (load(config, ret, &e) != TC_OK) fail_msg("%s: %s", config, e.text);
}

// As published, cut down to what is read.
static const char mixtral[] =
    "{\"model_type\":\"mixtral\",\"hidden_size\":4096,\"intermediate_size\":14336,\"num_hidden_layers\":32,"
    "\"num_"
    "attention_heads\":32,\"num_key_value_heads\":8,\"num_local_experts\":8,\"num_experts_per_tok\":2,\"rms_"
    "norm_"
    "eps\":1e-05,\"rope_theta\":1000000.0,\"sliding_window\":null,\"vocab_size\":32000,\"eos_token_id\":2}";
static const char olmoe[] = "{\"model_type\":\"olmoe\",\"hidden_size\":2048,\"intermediate_size\":1024,\"num_"
                            "hidden_layers\":16,\"num_attention_"
                            "heads\":16,\"num_key_value_heads\":16,\"num_experts\":64,\"num_experts_per_"
                            "tok\":8,\"norm_topk_prob\":false,\"clip_"
                            "qkv\":null,\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"vocab_size\":50304}";
static const char glm[] = "{\"model_type\":\"glm4_moe\",\"hidden_size\":4096,\"intermediate_size\":10944,"
                          "\"num_hidden_layers\":46,\"num_"
                          "attention_heads\":96,\"num_key_value_heads\":8,\"head_dim\":128,\"attention_"
                          "bias\":true,\"partial_rotary_factor\":"
                          "0.5,\"moe_intermediate_size\":1408,\"n_routed_experts\":128,\"n_shared_experts\":"
                          "1,\"num_experts_per_tok\":8,\"n_"
                          "group\":1,\"topk_group\":1,\"first_k_dense_replace\":1,\"norm_topk_prob\":true,"
                          "\"routed_scaling_factor\":1.0,\"use_"
                          "qk_norm\":false,\"rms_norm_eps\":1e-05,\"rope_theta\":1000000,\"vocab_size\":"
                          "151552,\"num_nextn_predict_layers\":1}";
static const char gpt_oss[] = "{\"model_type\":\"gpt_oss\",\"hidden_size\":2880,\"intermediate_size\":2880,"
                              "\"num_hidden_layers\":24,\"num_attention_"
                              "heads\":64,\"num_key_value_heads\":8,\"head_dim\":64,\"attention_bias\":true,"
                              "\"num_local_experts\":32,\"num_experts_"
                              "per_tok\":4,\"experts_per_token\":4,\"sliding_window\":128,\"swiglu_limit\":7."
                              "0,\"rms_norm_eps\":1e-05,\"rope_theta\":"
                              "150000,\"rope_scaling\":{\"beta_fast\":32.0,\"beta_slow\":1.0,\"factor\":32.0,"
                              "\"original_max_position_embeddings\":"
                              "4096,\"rope_type\":\"yarn\",\"truncate\":false},\"vocab_size\":201088,"
                              "\"quantization_config\":{\"quant_method\":"
                              "\"mxfp4\"}}";
static const char deepseek[] = "{\"model_type\":\"deepseek_v3\",\"hidden_size\":7168,\"intermediate_size\":"
                               "18432,\"num_hidden_layers\":61,\"num_"
                               "attention_heads\":128,\"num_key_value_heads\":128,\"q_lora_rank\":1536,\"kv_"
                               "lora_rank\":512,\"qk_nope_head_dim\":128,"
                               "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"moe_intermediate_size\":2048,"
                               "\"n_routed_experts\":256,\"n_shared_"
                               "experts\":1,\"num_experts_per_tok\":8,\"n_group\":8,\"topk_group\":4,\"topk_"
                               "method\":\"noaux_tc\",\"scoring_func\":"
                               "\"sigmoid\",\"first_k_dense_replace\":3,\"norm_topk_prob\":true,\"routed_"
                               "scaling_factor\":2.5,\"rms_norm_eps\":1e-06,"
                               "\"rope_theta\":10000,\"rope_scaling\":{\"beta_fast\":32,\"beta_slow\":1,"
                               "\"factor\":40,\"mscale\":1.0,\"mscale_all_dim\":"
                               "1.0,\"original_max_position_embeddings\":4096,\"type\":\"yarn\"},\"max_"
                               "position_embeddings\":163840,\"vocab_size\":"
                               "129280,\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
                               "\"weight_block_size\":[128,128]}}";
static const char qwen35[] = "{\"model_type\":\"qwen3_5_moe\",\"tie_word_embeddings\":false,\"text_config\":{"
                             "\"model_type\":\"qwen3_5_moe_text\","
                             "\"hidden_size\":2048,\"num_hidden_layers\":40,\"num_attention_heads\":16,\"num_"
                             "key_value_heads\":2,\"head_dim\":256,"
                             "\"num_experts\":256,\"num_experts_per_tok\":8,\"moe_intermediate_size\":512,"
                             "\"shared_expert_intermediate_size\":512,"
                             "\"full_attention_interval\":4,\"vocab_size\":248320,\"eos_token_id\":248044,"
                             "\"rope_parameters\":{\"rope_type\":"
                             "\"default\",\"rope_theta\":10000000,\"partial_rotary_factor\":0.25,\"mrope_"
                             "section\":[11,11,10]}},\"vision_config\":{}}";

static void test_published(void **state)
{
    tc_model_desc d;
    char name[TC_TENSOR_NAME_BYTES];
    good(mixtral, &d);
    assert_true(d.expert_width == 14336 && d.dense_width == 0 && d.top_k == 2 && d.norm_top_k &&
                d.head_dim == 128 && !d.layer[0].sliding && d.qk_norm == TC_QK_NORM_NONE && d.layer[31].moe);
    tc_model_tensor_name(&d, TC_EXPERT_DOWN, 3, 7, name);
    assert_string_equal(name, "model.layers.3.block_sparse_moe.experts.7.w2");
    good(olmoe, &d);
    assert_true(d.qk_norm == TC_QK_NORM_ALL && !d.norm_top_k && d.expert_width == 1024 && d.clip_qkv == 0);
    good(glm, &d);
    assert_true(d.router_scoring == TC_SCORE_SIGMOID && d.router_correction && d.router_groups == 0 &&
                d.attn_bias && !d.attn_o_bias && d.rotary_dim == 64 && d.shared_width == 1408 &&
                !d.shared_gate && !d.layer[0].moe && d.layer[1].moe && d.experts == 128);
    good(gpt_oss, &d);
    assert_true(d.attn_sinks && d.layer[0].sliding && !d.layer[1].sliding && d.sliding_window == 128 &&
                d.expert_bias && d.router_bias && d.expert_activation == TC_ACT_CLAMPED &&
                d.rope.factor == 32 && !d.rope.truncate);
    assert_true(fabs(d.rope.amplitude - (0.1 * log(32) + 1)) < 1e-6 && fabs(d.act_alpha - 1.702) < 1e-6);
    good(deepseek, &d);
    assert_true(d.kv_rank == 512 && d.q_rank == 1536 && d.head_dim == 192 && d.rotary_dim == 64 &&
                d.kv_heads == 1 && d.rope.interleaved && d.rope.amplitude == 1 && d.router_groups == 8 &&
                d.router_top_groups == 4 && !d.layer[2].moe && d.layer[3].moe && d.router_scale == 2.5f &&
                d.fp8_block[1] == 128);
    double m = 0.1 * log(40) + 1;
    assert_true(fabs((double)d.attn_scale - m * m / sqrt(192)) < 1e-6);
    assert_int_equal(tc_model_kv_bytes(&d, 1, 2), 61ull * 576 * 2); // and not 61 * 128 * (192 + 128) * 2
    good(qwen35, &d);
    assert_true(d.dn_flat && d.norm_zero_centred && d.attn_gate && d.shared_gate && d.rotary_dim == 64 &&
                d.layer[2].kind == TC_LAYER_DELTA && d.layer[3].kind == TC_LAYER_FULL_ATTENTION &&
                d.generation.eos[0] == 248044);
    tc_model_tensor_name(&d, TC_DN_Z, 2, 0, name);
    assert_string_equal(name, "model.language_model.layers.2.linear_attn.in_proj_z");
    tc_model_tensor_name(&d, TC_HEAD, 0, 0, name);
    assert_string_equal(name, "lm_head");
}

static void test_refused(void **state)
{
    static const struct {
        const char *config, *named;
    } cases[] = {
        {"{\"model_type\":\"llama\"}", "qwen3_5_moe_text, mixtral, olmoe, glm4_moe, gpt_oss, deepseek_v3"},
        {"{\"model_type\":\"qwen3_5_moe\"}", "text_config"},
        {"{\"model_type\":\"mixtral\",\"sliding_window\":0}", "sliding_window"},
        {"{\"model_type\":\"mixtral\",\"num_experts_per_tok\":9}",
         "num_experts_per_tok 9 is above the 8 experts"},
        {"{\"model_type\":\"olmoe\",\"clip_qkv\":-1}", "clip_qkv"},
        {"{\"model_type\":\"gpt_oss\",\"layer_types\":[\"full_attention\"]}", "layer_types has 1 entries"},
        {"{\"model_type\":\"gpt_oss\",\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}",
         "layer_types[0] must be \"full_attention\" or \"sliding_attention\""},
        {"{\"model_type\":\"gpt_oss\",\"swiglu_limit\":0}", "swiglu_limit"},
        {"{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"n_group\":3}", "n_group 3"},
        {"{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"n_group\":65}", "n_group"},
        {"{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"n_group\":64,\"topk_group\":2}",
         "do not fit 128 experts of which 8"},
        {"{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"first_k_dense_replace\":46}",
         "first_k_dense_replace 46"},
        {"{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"n_shared_experts\":94}", "n_shared_experts 94"},
        {"{\"model_type\":\"deepseek_v3\",\"scoring_func\":\"softmax\"}", "scoring_func \"softmax\""},
        {"{\"model_type\":\"deepseek_v3\",\"kv_lora_rank\":500}",
         "kv_lora_rank 500 is not supported, only multiples of 16"},
        {"{\"model_type\":\"deepseek_v3\",\"v_head_dim\":100}", "v_head_dim 100"},
        {"{\"model_type\":\"deepseek_v3\",\"kv_lora_rank\":976}", "together are above 1024"},
        {"{\"model_type\":\"deepseek_v3\",\"qk_rope_head_dim\":63}", "63 rotated dimensions"},
        {"{\"model_type\":\"deepseek_v3\",\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}"
         "}",
         "only \"e4m3\""},
        {"{\"model_type\":\"deepseek_v3\",\"quantization_config\":{\"weight_block_size\":[128]}}",
         "weight_block_size"},
        {"{\"model_type\":\"deepseek_v3\",\"quantization_config\":{\"weight_block_size\":[128,0]}}",
         "weight_block_size"},
        {"{\"model_type\":\"deepseek_v3\",\"quantization_config\":{\"quant_method\":\"awq\"}}",
         "only \"bitsandbytes\", \"fp8\" and \"mxfp4\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_model_desc d;
        tc_error e = {0};
        if (load(cases[i].config, &d, &e) == TC_OK) fail_msg("accepted: %s", cases[i].config);
        expect_error(&e, "config.json", cases[i].named);
    }
}

// The borders of what is taken.
static void test_limits(void **state)
{
    tc_model_desc d;
    good("{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"n_group\":64,\"topk_group\":4}", &d);
    good("{\"model_type\":\"glm4_moe\",\"head_dim\":128,\"n_shared_experts\":93}", &d);
    good("{\"model_type\":\"deepseek_v3\",\"kv_lora_rank\":960}", &d);
    good("{\"model_type\":\"deepseek_v3\",\"q_lora_rank\":null}", &d);
    assert_int_equal(d.q_rank, 0);
    good("{\"model_type\":\"deepseek_v3\"}", &d);
    assert_int_equal(d.q_rank, 1536);
}

// ---- FP8 ----

static void put_deepseek(const scratch *s, const char *block)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\":\"deepseek_v3\",\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_"
             "block_size\":%s}}",
             block);
    put_text(s, "config.json", text);
}

static void test_fp8(void **state)
{
    enum { ROWS = 5, COLS = 7 };
    scratch s;
    builder b = {0};
    tc_checkpoint *c;
    tc_weight w = {0};
    tc_error e = {0};
    // 0, the least, 1, -1.75, the largest, -0, ..
    uint8_t codes[ROWS * COLS] = {0x00, 0x01, 0x38, 0xbe, 0x7e, 0x80, 0x08}, bad[ROWS * COLS] = {0, 0x7f};
    static const float values[7] = {0, 0x1p-9f, 1, -1.75f, 448, -0.0f, 0x1p-6f};
    float scale[3 * 2] = {1, 2, 0.5f, 3, 4, 0.3f}, infinite[3 * 2] = {1, INFINITY};
    for (int i = COLS; i < ROWS * COLS; i++) codes[i] = codes[i % COLS];
    scratch_make(&s);
    put_deepseek(&s, "[2,4]"); // 5 rows are three blocks, 7 columns two
    add_tensor(&b, "x.weight", "F8_E4M3", ROWS, COLS, codes, sizeof codes);
    add_tensor(&b, "x.weight_scale_inv", "F32", 3, 2, scale, sizeof scale);
    add_tensor(&b, "n.weight", "F8_E4M3", ROWS, COLS, bad, sizeof bad);
    add_tensor(&b, "n.weight_scale_inv", "F32", 3, 2, scale, sizeof scale);
    add_tensor(&b, "i.weight", "F8_E4M3", ROWS, COLS, codes, sizeof codes);
    add_tensor(&b, "i.weight_scale_inv", "F32", 3, 2, infinite, sizeof infinite);
    add_tensor(&b, "s.weight", "F8_E4M3", ROWS, COLS, codes, sizeof codes);
    add_tensor(&b, "s.weight_scale_inv", "F32", 2, 3, scale, sizeof scale);
    add_tensor(&b, "a.weight", "F8_E4M3", ROWS, COLS, codes, sizeof codes);
    finish(&b, &s, "model.safetensors");
    if (tc_checkpoint_open(s.path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    assert_int_equal(tc_checkpoint_weight(c, "x", ROWS, COLS, &w, &e), TC_OK);
    assert_true(w.dtype == TC_BF16 && !w.quantised);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COLS; i++) {
            float got;
            tc_weight_dequantise(&w, (uint64_t)(r * COLS + i), 1, &got);
            assert_true(got == tc_round_to(TC_BF16, values[i] * scale[r / 2 * 2 + i / 4]));
        }
    tc_weight_free(&w);
    static const struct {
        const char *base, *named;
    } cases[] = {{"n", "element 1 is not a number"},
                 {"i", "element 1 is not finite"},
                 {"s", "[3, 2]"},
                 {"a", "a.weight_scale_inv: is missing"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(tc_checkpoint_weight(c, cases[i].base, ROWS, COLS, &w, &e), TC_FORMAT);
        expect_error(&e, cases[i].named);
    }
    assert_int_equal(tc_checkpoint_weight(c, "x", COLS, ROWS, &w, &e), TC_FORMAT);
    expect_error(&e, "[7, 5]");
    tc_checkpoint_free(c);
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER), 0);
    scratch_remove(&s);
}

// ---- stacked experts ----

static void put_gpt_oss(const scratch *s)
{
    put_text(s, "config.json",
             "{\"model_type\":\"gpt_oss\",\"num_hidden_layers\":1,\"hidden_size\":64,\"intermediate_size\":"
             "32,\"num_local_"
             "experts\":2,\"num_experts_per_tok\":1,\"vocab_size\":16}");
}

#define STACKED "model.layers.0.mlp.experts."

// Dense and transposed: [experts][in][out], gate and up in turns.
static void test_stacked(void **state)
{
    enum { EXPERTS = 2, IN = 64, WIDTH = 32, ALL = EXPERTS * IN * 2 * WIDTH };
    static float gate_up[ALL], down[ALL / 2], bias[EXPERTS * 2 * WIDTH];
    char header[1024];
    scratch s;
    tc_checkpoint *c;
    tc_weight w = {0};
    tc_error e = {0};
    for (int i = 0; i < ALL; i++) gate_up[i] = (float)i;
    for (int i = 0; i < ALL / 2; i++) down[i] = (float)-i;
    for (int i = 0; i < EXPERTS * 2 * WIDTH; i++) bias[i] = (float)i / 2;
    snprintf(header, sizeof header,
             "{\"" STACKED
             "gate_up_proj\":{\"dtype\":\"F32\",\"shape\":[2,64,64],\"data_offsets\":[0,%zu]},\"" STACKED
             "down_proj\":{\"dtype\":\"F32\",\"shape\":[2,32,64],\"data_offsets\":[%zu,%zu]},\"" STACKED
             "gate_up_proj_bias\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[%zu,%zu]}}",
             sizeof gate_up, sizeof gate_up, sizeof gate_up + sizeof down, sizeof gate_up + sizeof down,
             sizeof gate_up + sizeof down + sizeof bias);
    static char data[sizeof gate_up + sizeof down + sizeof bias];
    memcpy(data, gate_up, sizeof gate_up);
    memcpy(data + sizeof gate_up, down, sizeof down);
    memcpy(data + sizeof gate_up + sizeof down, bias, sizeof bias);
    scratch_make(&s);
    put_gpt_oss(&s);
    put_safetensors(&s, "model.safetensors", header, data, sizeof data);
    if (tc_checkpoint_open(s.path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    for (tc_role role = TC_EXPERT_GATE; role <= TC_EXPERT_DOWN; role++) {
        if (tc_checkpoint_expert(c, role, 0, 1, &w, &e) != TC_OK) fail_msg("%s", e.text);
        for (uint32_t r = 0; r < w.rows; r++)
            for (uint32_t i = 0; i < w.cols; i++) {
                uint32_t row = 2 * r + (role == TC_EXPERT_UP);
                float expected =
                    role == TC_EXPERT_DOWN ? down[(WIDTH + i) * IN + r] : gate_up[(IN + i) * 2 * WIDTH + row];
                assert_true(((float *)w.data)[r * w.cols + i] == expected);
            }
        tc_weight_free(&w);
    }
    float own[64];
    assert_int_equal(tc_checkpoint_expert_bias(c, TC_EXPERT_UP, 0, 1, own, &e), TC_OK);
    for (int r = 0; r < WIDTH; r++) assert_true(own[r] == bias[2 * WIDTH + 2 * r + 1]);
    assert_int_equal(tc_checkpoint_expert_bias(c, TC_EXPERT_DOWN, 0, 1, own, &e), TC_NOT_FOUND);
    expect_error(&e, "experts.1.down_proj.bias is missing");
    tc_checkpoint_free(c);
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER), 0);
    scratch_remove(&s);
}

// Two experts of gate and up, one block of 32 columns less than they need in the hostile cases.
static tc_status open_mxfp4(const scratch *s, const char *blocks, const char *scales, uint8_t exponent,
                            tc_weight *ret, tc_error *e)
{
    enum { BLOCKS = 2 * 64 * 2 * 16, SCALES = 2 * 64 * 2 };
    static uint8_t data[BLOCKS + SCALES];
    char header[512];
    tc_checkpoint *c;
    for (int i = 0; i < BLOCKS; i++) data[i] = (uint8_t)(i * 7);
    for (int i = 0; i < SCALES; i++) data[BLOCKS + i] = (uint8_t)(120 + i % 9);
    data[BLOCKS + SCALES - 1] = exponent;
    snprintf(header, sizeof header,
             "{\"" STACKED
             "gate_up_proj_blocks\":{\"dtype\":\"U8\",\"shape\":%s,\"data_offsets\":[0,%d]},\"" STACKED
             "gate_up_proj_%s\":{\"dtype\":\"U8\",\"shape\":[2,64,2],\"data_offsets\":[%d,%d]}}",
             blocks, BLOCKS, scales, BLOCKS, BLOCKS + SCALES);
    put_gpt_oss(s);
    put_safetensors(s, "model.safetensors", header, data, sizeof data);
    TC_TRY(tc_checkpoint_open(s->path, &c, e));
    tc_status status = tc_checkpoint_expert(c, TC_EXPERT_UP, 0, 1, ret, e);
    tc_checkpoint_free(c);
    return status;
}

static void test_mxfp4(void **state)
{
    static const float levels[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    scratch s;
    tc_weight w = {0};
    tc_error e = {0};
    scratch_make(&s);
    if (open_mxfp4(&s, "[2,64,2,16]", "scales", 127, &w, &e) != TC_OK) fail_msg("%s", e.text);
    assert_true(w.quantised && w.block == 32 && w.rows == 32 && w.cols == 64);
    for (uint32_t r = 0; r < 32; r++)
        for (uint32_t i = 0; i < 64; i++) {
            uint32_t row = 64 + 2 * r + 1, byte = (uint8_t)((row * 32 + i / 2) * 7); // of the second expert
            uint32_t code = i % 2 ? byte >> 4 : byte & 15, block = row * 2 + i / 32;
            int exponent = (r == 31 && i >= 32 ? 127 : 120 + (int)block % 9) - 127;
            float got, expected = ldexpf(levels[code & 7], exponent) * (code & 8 ? -1.0f : 1.0f);
            tc_weight_dequantise(&w, r * 64 + i, 1, &got);
            assert_true(got == expected);
        }
    tc_weight_free(&w);
    assert_int_equal(open_mxfp4(&s, "[2,64,2,16]", "scales", 252, &w, &e), TC_OK); // 6 * 2^125
    tc_weight_free(&w);
    assert_int_equal(open_mxfp4(&s, "[2,64,2,16]", "scales", 253, &w, &e), TC_FORMAT);
    expect_error(&e, "expert 1, row 31", "not finite");
    assert_int_equal(open_mxfp4(&s, "[2,64,2,16]", "scales", 255, &w, &e), TC_FORMAT);
    assert_int_equal(open_mxfp4(&s, "[2,32,4,16]", "scales", 127, &w, &e), TC_FORMAT);
    expect_error(&e, "gate_up_proj_blocks", "[2, 64, 2, 16]");
    assert_int_equal(open_mxfp4(&s, "[2,64,2,16]", "other", 127, &w, &e), TC_FORMAT);
    expect_error(&e, "gate_up_proj_scales", "is missing");
    assert_int_equal(tc_mem_bytes(TC_MEM_OTHER), 0);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published), cmocka_unit_test(test_refused), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_fp8),       cmocka_unit_test(test_stacked), cmocka_unit_test(test_mxfp4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
