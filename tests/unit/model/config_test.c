// SPDX-License-Identifier: Apache-2.0
// Owns: the test of config.json reading: defaults, both published styles, names, and each malformed field by
// name.
#include "common/model/model.h"
#include "tests/unit/model/support.h"

#include <stdio.h>
#include <string.h>

static tc_status load(const char *config, const char *generation, tc_model_desc *ret, tc_error *e)
{
    scratch s;
    scratch_make(&s);
    put_text(&s, "config.json", config);
    if (generation) put_text(&s, "generation_config.json", generation);
    tc_status status = tc_model_desc_load(s.path, ret, e);
    scratch_remove(&s);
    return status;
}

static void good(const char *config, const char *generation, tc_model_desc *ret)
{
    tc_error e;
    if (load(config, generation, ret, &e) != TC_OK) fail_msg("%s: %s", config, e.text);
}

static void test_defaults(void **state)
{
    tc_model_desc d;
    good("{\"model_type\":\"qwen3_next\"}", NULL, &d);
    assert_string_equal(d.family, "qwen3_next");
    assert_int_equal(d.layers, 48);
    assert_int_equal(d.hidden, 2048);
    assert_int_equal(d.head_dim, 256);
    assert_int_equal(d.rotary_dim, 64);
    assert_int_equal(d.experts, 512);
    assert_int_equal(d.top_k, 10);
    assert_int_equal(d.shared_width, 512);
    assert_true(d.norm_zero_centred && d.attn_gate && d.norm_top_k && !d.attn_bias && !d.tied_embeddings);
    assert_true(d.rope.theta == 10000.0);
    assert_int_equal(d.layer[2].kind, TC_LAYER_DELTA);
    assert_int_equal(d.layer[3].kind, TC_LAYER_FULL_ATTENTION);
    assert_true(d.layer[0].moe && d.layer[47].moe);
    assert_int_equal(d.generation.eos_count, 0);
    assert_int_equal(d.generation.top_k, 50);
    assert_true(d.generation.temperature == 1.0f && d.generation.top_p == 1.0f && !d.generation.do_sample);

    good("{\"model_type\":\"qwen3_moe\"}", NULL, &d);
    assert_int_equal(d.layers, 24);
    assert_int_equal(d.head_dim, 64);
    assert_int_equal(d.rotary_dim, 64);
    assert_int_equal(d.shared_width, 0);
    assert_int_equal(d.dn_conv, 0);
    assert_true(!d.norm_zero_centred && !d.attn_gate && !d.norm_top_k);
    assert_int_equal(tc_model_state_bytes(&d), 0);
}

static void test_published_style(void **state)
{
    tc_model_desc d;
    good("{\"model_type\":\"qwen3_next\",\"rope_theta\":10000000,\"partial_rotary_factor\":0.25,\"rope_"
         "scaling\":null,"
         "\"full_attention_interval\":2,\"num_hidden_layers\":5,\"mlp_only_layers\":[0,4],\"decoder_sparse_"
         "step\":2,"
         "\"attention_bias\":true,\"tie_word_embeddings\":true,\"eos_token_id\":7,\"norm_topk_prob\":false,"
         "\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}}",
         "{\"do_sample\":true,\"temperature\":0.7,\"top_p\":0.8,\"top_k\":20,\"eos_token_id\":[9,8]}", &d);
    assert_true(d.rope.theta == 1e7);
    assert_int_equal(d.rotary_dim, 64);
    assert_int_equal(d.layer[0].kind, TC_LAYER_DELTA);
    assert_int_equal(d.layer[1].kind, TC_LAYER_FULL_ATTENTION);
    static const bool moe[5] = {false, true, false, true, false};
    for (int l = 0; l < 5; l++) assert_int_equal(d.layer[l].moe, moe[l]);
    assert_true(d.attn_bias && d.tied_embeddings && !d.norm_top_k && d.generation.do_sample);
    assert_int_equal(d.generation.eos_count, 2);
    assert_int_equal(d.generation.eos[0], 9);
    assert_int_equal(d.generation.top_k, 20);
    // State: 3 DeltaNet layers of 32 x 128 x 128 and 3 columns of 8192 channels; KV: 2 layers of 2 x 256.
    assert_int_equal(tc_model_state_bytes(&d), 3ull * (32 * 128 * 128 + 3 * 8192) * 4);
    assert_int_equal(tc_model_kv_bytes(&d, 10, 4), 2ull * 10 * 2 * 2 * 256 * 4);
}

static void test_new_style(void **state)
{
    tc_model_desc d;
    good("{\"model_type\":\"qwen3_next\",\"num_hidden_layers\":3,\"layer_types\":[\"full_attention\","
         "\"linear_attention\","
         "\"full_attention\"],\"full_attention_interval\":1,\"rope_theta\":5.0,\"rope_parameters\":{\"rope_"
         "type\":\"default\","
         "\"rope_theta\":500000.0,\"partial_rotary_factor\":0.5}}",
         NULL, &d);
    assert_true(d.rope.theta == 500000.0);
    assert_int_equal(d.rotary_dim, 128);
    assert_int_equal(d.layer[0].kind, TC_LAYER_FULL_ATTENTION);
    assert_int_equal(d.layer[1].kind, TC_LAYER_DELTA);
    good("{\"model_type\":\"qwen3_moe\",\"num_local_experts\":10,\"num_experts_per_tok\":10}", NULL, &d);
    assert_int_equal(d.experts, 10);
}

static void test_names_and_shapes(void **state)
{
    tc_model_desc d;
    char name[TC_TENSOR_NAME_BYTES];
    uint32_t rows, cols;
    good("{\"model_type\":\"qwen3_next\"}", NULL, &d);
    tc_model_tensor_name(&d, TC_EXPERT_DOWN, 47, 511, name);
    assert_string_equal(name, "model.layers.47.mlp.experts.511.down_proj");
    tc_model_tensor_name(&d, TC_DN_A_LOG, 3, 0, name);
    assert_string_equal(name, "model.layers.3.linear_attn.A_log");
    tc_model_tensor_name(&d, TC_HEAD, 0, 0, name);
    assert_string_equal(name, "lm_head");
    d.tied_embeddings = true;
    tc_model_tensor_name(&d, TC_HEAD, 0, 0, name);
    assert_string_equal(name, "model.embed_tokens");
    static const struct {
        tc_role role;
        uint32_t rows, cols;
    } shapes[] = {{TC_Q, 8192, 2048},          {TC_K, 512, 2048},           {TC_O, 2048, 4096},
                  {TC_DN_QKVZ, 12288, 2048},   {TC_DN_BA, 64, 2048},        {TC_DN_CONV, 8192, 4},
                  {TC_DN_OUT, 2048, 4096},     {TC_ROUTER, 512, 2048},      {TC_EXPERT_UP, 512, 2048},
                  {TC_SHARED_ROUTER, 1, 2048}, {TC_SHARED_DOWN, 2048, 512}, {TC_MLP_GATE, 5632, 2048},
                  {TC_Q_NORM, 256, 1},         {TC_FINAL_NORM, 2048, 1},    {TC_DN_A_LOG, 32, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        tc_model_tensor_shape(&d, shapes[i].role, 0, &rows, &cols);
        assert_int_equal(rows, shapes[i].rows);
        assert_int_equal(cols, shapes[i].cols);
    }
}

// A field of config.json with a bad value, and the field that the error must name.
static const struct {
    const char *field, *value, *named;
} bad_fields[] = {
#define NUMBER(field)                                                                                        \
    {field, "0", field}, {field, "-1", field}, {field, "2147483648", field}, {field, "2.5", field},          \
    {                                                                                                        \
        field, "\"8\"", field                                                                                \
    }
    NUMBER("num_hidden_layers"),
    NUMBER("hidden_size"),
    NUMBER("vocab_size"),
    NUMBER("max_position_embeddings"),
    NUMBER("intermediate_size"),
    NUMBER("num_attention_heads"),
    NUMBER("num_key_value_heads"),
    NUMBER("head_dim"),
    NUMBER("linear_num_key_heads"),
    NUMBER("linear_num_value_heads"),
    NUMBER("linear_key_head_dim"),
    NUMBER("linear_value_head_dim"),
    NUMBER("linear_conv_kernel_dim"),
    NUMBER("num_experts"),
    NUMBER("num_experts_per_tok"),
    NUMBER("moe_intermediate_size"),
    NUMBER("shared_expert_intermediate_size"),
    NUMBER("decoder_sparse_step"),
    NUMBER("full_attention_interval"),
    {"num_hidden_layers", "257", "num_hidden_layers"},
    {"hidden_size", "16385", "hidden_size"},
    {"num_experts", "4097", "num_experts"},
    {"num_experts", "9", "num_experts_per_tok 10 is above num_experts 9"},
    {"num_experts_per_tok", "65", "num_experts_per_tok"},
    {"num_key_value_heads", "3", "num_key_value_heads"},
    {"linear_num_value_heads", "24", "linear_num_value_heads"},
    {"mlp_only_layers", "[48]", "mlp_only_layers[0]"},
    {"mlp_only_layers", "[0,-1]", "mlp_only_layers[1]"},
    {"mlp_only_layers", "5", "mlp_only_layers"},
    {"decoder_sparse_step", "49", "decoder_sparse_step"},
    {"layer_types", "[\"full_attention\"]", "layer_types"},
    {"layer_types", "{}", "layer_types"},
    {"rms_norm_eps", "0", "rms_norm_eps"},
    {"rms_norm_eps", "\"x\"", "rms_norm_eps"},
    {"rope_theta", "0", "rope_theta"},
    {"rope_theta", "1e400", "config.json"},
    {"partial_rotary_factor", "2", "partial_rotary_factor"},
    {"partial_rotary_factor", "0", "partial_rotary_factor"},
    {"rope_scaling", "{\"rope_type\":\"longrope\",\"factor\":4.0}", "rope_scaling"},
    {"rope_scaling", "{\"rope_type\":\"yarn\",\"factor\":0.5}", "factor"},
    {"rope_scaling", "{\"rope_type\":\"yarn\",\"beta_fast\":-1}", "beta_fast"},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":4.0}", "rope_scaling"},
    {"rope_scaling", "7", "rope_scaling"},
    {"rope_parameters", "{\"rope_type\":\"llama3\"}", "rope_parameters"},
    {"rope_parameters", "{\"rope_theta\":-1}", "rope_theta"},
    {"hidden_act", "\"gelu\"", "hidden_act"},
    {"use_sliding_window", "true", "use_sliding_window"},
    {"tie_word_embeddings", "1", "tie_word_embeddings"},
    {"attention_bias", "\"no\"", "attention_bias"},
    {"eos_token_id", "151936", "eos_token_id"},
    {"eos_token_id", "[1,-1]", "eos_token_id[1]"},
    {"eos_token_id", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "eos_token_id"},
    {"quantization_config", "{\"quant_method\":\"gptq\"}", "quantization_config.quant_method"},
    {"quantization_config", "{\"load_in_8bit\":true}", "quantization_config.load_in_8bit"},
};

static void test_bad_fields(void **state)
{
    for (size_t i = 0; i < sizeof bad_fields / sizeof *bad_fields; i++) {
        char text[256];
        tc_error e = {0};
        tc_model_desc d, before;
        memset(&d, 0x5a, sizeof d);
        before = d;
        snprintf(text, sizeof text, "{\"model_type\":\"qwen3_next\",\"%s\":%s}", bad_fields[i].field,
                 bad_fields[i].value);
        if (load(text, NULL, &d, &e) == TC_OK) fail_msg("accepted: %s", text);
        expect_error(&e, "config.json", bad_fields[i].named);
        assert_memory_equal(&d, &before, sizeof d); // untouched
    }
}

static void test_limits_are_inclusive(void **state)
{
    tc_model_desc d;
    good("{\"model_type\":\"qwen3_next\",\"num_hidden_layers\":256,\"num_experts\":4096,\"num_experts_per_"
         "tok\":64,"
         "\"hidden_size\":16384,\"linear_conv_kernel_dim\":16,\"vocab_size\":1048576,\"eos_token_id\":"
         "1048575}",
         NULL, &d);
    assert_int_equal(d.layers, 256);
}

static void test_bad_documents(void **state)
{
    static const struct {
        const char *config, *generation, *named[2];
        tc_status status;
    } cases[] = {
        {"", NULL, {"config.json", "not JSON"}, TC_FORMAT},
        {"[]", NULL, {"config.json", "object"}, TC_FORMAT},
        {"{}", NULL, {"config.json", "model_type"}, TC_FORMAT},
        {"{\"model_type\":3}", NULL, {"config.json", "model_type"}, TC_FORMAT},
        {"{\"model_type\":\"llama\"}", NULL, {"\"llama\"", "qwen3_next, qwen3_moe"}, TC_UNSUPPORTED},
        {"{\"model_type\":\"qwen3_next\"} x", NULL, {"config.json", "not JSON"}, TC_FORMAT},
        {"{\"model_type\":\"qwen3_next\",\"a\":1,\"a\":2}",
         NULL,
         {"config.json", "\"a\" occurs twice"},
         TC_FORMAT},
        {"{\"a\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}", NULL, {"config.json", "nested deeper"}, TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\",\"hidden_size\":2050}", NULL, {"config.json", "head_dim"}, TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\",\"head_dim\":63}", NULL, {"config.json", "head_dim"}, TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\",\"num_experts\":8,\"num_local_experts\":9}",
         NULL,
         {"config.json", "num_local_experts"},
         TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\"}", "{\"top_k\":-1}", {"generation_config.json", "top_k"}, TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\"}", "{\"top_p\":1.5}", {"generation_config.json", "top_p"}, TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\"}",
         "{\"eos_token_id\":\"x\"}",
         {"generation_config.json", "eos_token_id"},
         TC_FORMAT},
        {"{\"model_type\":\"qwen3_moe\"}", "nope", {"generation_config.json", "not JSON"}, TC_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_model_desc d;
        tc_error e = {0};
        tc_status status = load(cases[i].config, cases[i].generation, &d, &e);
        if (status != cases[i].status) fail_msg("%s: status %d, text %s", cases[i].config, status, e.text);
        expect_error(&e, cases[i].named[0], cases[i].named[1]);
    }
    tc_error e;
    tc_model_desc d;
    assert_int_equal(tc_model_desc_load("/nonexistent-model", &d, &e), TC_NOT_FOUND);
    expect_error(&e, "/nonexistent-model/config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),      cmocka_unit_test(test_published_style),
        cmocka_unit_test(test_new_style),     cmocka_unit_test(test_names_and_shapes),
        cmocka_unit_test(test_bad_fields),    cmocka_unit_test(test_limits_are_inclusive),
        cmocka_unit_test(test_bad_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
