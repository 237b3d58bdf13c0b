// SPDX-License-Identifier: Apache-2.0
// Owns: the test of opening checkpoints: every malformed header and index is one error line that names file,
// tensor and reason; and what is well formed opens, fast.
#include "common/base/clock.h"
#include "tests/unit/model/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static tc_status try_open(const scratch *s, tc_error *e)
{
    tc_checkpoint *c = NULL;
    tc_status status = tc_checkpoint_open(s->path, &c, e);
    tc_checkpoint_free(c);
    return status;
}

// ---- headers ----

static const struct {
    const char *header;
    size_t data_bytes;
    const char *named[2]; // besides the file's name
} bad_headers[] = {
    {"", 0, {"does not start with '{'"}},
    {" {}", 0, {"does not start with '{'"}},
    {"[]", 0, {"does not start with '{'"}},
    {"{", 0, {"not JSON"}},
    {"{\"a\":1}", 0, {"tensor a", "must be a JSON object"}},
    {"{\"__metadata__\":1}", 0, {"__metadata__"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, {"tensor a", "data_offsets"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, {"tensor a", "no more"}},
    {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"tensor a", "dtype"}},
    {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"tensor a", "dtype"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, {"tensor a", "shape"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, {"tensor a", "shape"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, {"tensor a", "shape"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
     4,
     {"tensor a", "8 dimensions"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
     0,
     {"tensor a", "overflows"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551615],\"data_offsets\":[0,4]}}",
     4,
     {"tensor a", "overflows"}},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, {"tensor a", "whole bytes"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
     4,
     {"tensor a", "need 8 bytes, data_offsets give 4"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, {"tensor a", "backwards"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}",
     4,
     {"tensor a", "end at 8, the file holds 4"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, {"tensor a", "data_offsets"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,-4]}}", 4, {"tensor a", "data_offsets"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[0,4]}}",
     4,
     {"data_offsets overlap"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[8,12]}}",
     12,
     {"tensor b", "hole"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, {"tensor a", "hole"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     8,
     {"end at byte 4 of the data, the file holds 8"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[0,4]}}",
     4,
     {"\"a\" occurs twice"}},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4,
     {"\"dtype\" occurs twice"}},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[[[[[[[[1]]]]]]]],\"data_offsets\":[0,4]}}", 4, {"nested deeper"}},
    {"{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"name has 0 bytes"}},
    {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, {"control character"}},
    {"{} x", 0, {"not JSON"}},
};

static void test_bad_headers(void **state)
{
    static const uint8_t zeros[64];
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        scratch s;
        tc_error e = {0};
        scratch_make(&s);
        put_moe_config(&s, 1, 1, 64, 64);
        put_safetensors(&s, "model.safetensors", bad_headers[i].header, zeros, bad_headers[i].data_bytes);
        tc_status status = try_open(&s, &e);
        if (status != TC_FORMAT) fail_msg("%s: status %d, %s", bad_headers[i].header, status, e.text);
        expect_error(&e, "model.safetensors: ", bad_headers[i].named[0]);
        if (bad_headers[i].named[1]) expect_error(&e, bad_headers[i].named[1]);
        scratch_remove(&s);
    }
}

static void test_header_length(void **state)
{
    static const struct {
        uint64_t length;
        size_t file_bytes;
        const char *reason;
    } cases[] = {
        {0, 0, "too short"},
        {0, 7, "too short"},
        {3, 10, "header length 3 is beyond the file's 10 bytes"},
        {UINT64_MAX, 10, "above the limit"},
        {100000001, 10, "above the limit"},
        {100000000, 10, "beyond the file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch s;
        tc_error e = {0};
        uint8_t bytes[16] = {0};
        memcpy(bytes, &cases[i].length, 8);
        memcpy(bytes + 8, "{}", 2);
        scratch_make(&s);
        put_moe_config(&s, 1, 1, 64, 64);
        put_file(&s, "model.safetensors", bytes, cases[i].file_bytes);
        assert_int_equal(try_open(&s, &e), TC_FORMAT);
        expect_error(&e, "model.safetensors", cases[i].reason);
        scratch_remove(&s);
    }
}

static void test_good_headers(void **state)
{
    static const char *const headers[] = {
        "{}",
        "{\"__metadata__\":{\"format\":\"pt\"}}     ",
        "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},\"a\":{\"data_offsets\":[0,4],"
        "\"shape\":[],\"dtype\":\"F32\"}}  ",
        "{\"a\":{\"dtype\":\"I64\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,8]},\"z\":{\"dtype\":"
        "\"F32\",\"shape\":[0,9],\"data_offsets\":[8,8]}}",
    };
    static const size_t data_bytes[] = {0, 0, 8, 8};
    static const uint8_t zeros[8];
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        scratch s;
        tc_error e = {0};
        scratch_make(&s);
        put_moe_config(&s, 1, 1, 64, 64);
        put_safetensors(&s, "model.safetensors", headers[i], zeros, data_bytes[i]);
        if (try_open(&s, &e) != TC_OK) fail_msg("%s: %s", headers[i], e.text);
        scratch_remove(&s);
    }
}

// ---- shards and index ----

#define TENSOR(name) "{\"" name "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"

static void test_index(void **state)
{
    static const struct {
        const char *index, *named[2];
        tc_status status;
    } cases[] = {
        {"{\"metadata\":{},\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}",
         {NULL},
         TC_OK},
        {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", {NULL}, TC_OK},
        {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}",
         {"tensor a is not in shard two"},
         TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}}",
         {"tensor c is not in shard one"},
         TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"same.safetensors\"}}",
         {"same.safetensors", "tensor a: is also in another shard"},
         TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}",
         {"three.safetensors", "cannot open shard"},
         TC_NOT_FOUND},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}",
         {"\"../one.safetensors\"", "plain file name"},
         TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", {"\"/etc/passwd\"", "plain file name"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", {"plain file name"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"..\"}}", {"plain file name"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"\"}}", {"plain file name"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"directory\"}}", {"directory", "not a regular file"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"fifo\"}}", {"fifo", "not a regular file"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":7}}", {"index.json", "shard of \"a\""}, TC_FORMAT},
        {"{\"weight_map\":{}}", {"index.json", "weight_map"}, TC_FORMAT},
        {"{\"weight_map\":[]}", {"index.json", "weight_map"}, TC_FORMAT},
        {"{}", {"index.json", "weight_map"}, TC_FORMAT},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"two.safetensors\"}}",
         {"\"a\" occurs twice"},
         TC_FORMAT},
        {"{\"weight_map\":{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":{\"f\":{\"g\":{\"h\":1}}}}}}}}}",
         {"nested deeper"},
         TC_FORMAT},
        {"nope", {"index.json", "not JSON"}, TC_FORMAT},
        {NULL, {"neither"}, TC_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch s;
        tc_error e = {0};
        char path[300];
        scratch_make(&s);
        put_moe_config(&s, 1, 1, 64, 64);
        put_safetensors(&s, "one.safetensors", TENSOR("a"), "1234", 4);
        put_safetensors(&s, "two.safetensors", TENSOR("b"), "1234", 4);
        put_safetensors(&s, "same.safetensors", TENSOR("a"), "1234", 4);
        snprintf(path, sizeof path, "%s/directory", s.path);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(path, sizeof path, "%s/fifo", s.path);
        assert_int_equal(mkfifo(path, 0600), 0);
        if (cases[i].index) put_text(&s, "model.safetensors.index.json", cases[i].index);
        tc_status status = try_open(&s, &e);
        if (status != cases[i].status) fail_msg("%s: status %d, %s", cases[i].index, status, e.text);
        for (int k = 0; k < 2 && cases[i].named[k]; k++) expect_error(&e, cases[i].named[k]);
        scratch_remove(&s);
    }
}

// The layout of the Hugging Face cache: files are links to blobs outside the snapshot's folder.
static void test_links(void **state)
{
    scratch s;
    char snapshot[300], path[400];
    tc_error e = {0};
    tc_checkpoint *c;
    scratch_make(&s);
    put_moe_config(&s, 1, 1, 64, 64);
    put_safetensors(&s, "blob", TENSOR("a"), "1234", 4);
    snprintf(snapshot, sizeof snapshot, "%s/snapshot", s.path);
    assert_int_equal(mkdir(snapshot, 0700), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", snapshot);
    assert_int_equal(symlink("../blob", path), 0);
    snprintf(path, sizeof path, "%s/config.json", snapshot);
    assert_int_equal(symlink("../config.json", path), 0);
    if (tc_checkpoint_open(snapshot, &c, &e) != TC_OK) fail_msg("%s", e.text);
    assert_true(tc_checkpoint_has(c, "a"));
    assert_false(tc_checkpoint_has(c, "b"));
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

static void hash_of(const scratch *s, char ret[33])
{
    tc_checkpoint *c;
    tc_error e;
    if (tc_checkpoint_open(s->path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    memcpy(ret, tc_checkpoint_hash(c), 33);
    tc_checkpoint_free(c);
}

static void test_hash(void **state)
{
    scratch a, b;
    char first[33], second[33];
    scratch_make(&a);
    scratch_make(&b);
    put_moe_config(&a, 1, 1, 64, 64);
    put_moe_config(&b, 1, 1, 64, 64);
    put_safetensors(&a, "model.safetensors", TENSOR("a"), "1234", 4);
    put_safetensors(&b, "model.safetensors", TENSOR("a"), "1234", 4);
    hash_of(&a, first);
    hash_of(&b, second);
    assert_string_equal(first, second); // wherever they lie
    assert_int_equal(strlen(first), 32);
    put_safetensors(&b, "model.safetensors", TENSOR("a"), "1235", 4);
    hash_of(&b, second);
    assert_string_not_equal(first, second);
    put_safetensors(&b, "model.safetensors", TENSOR("b"), "1234", 4);
    hash_of(&b, second);
    assert_string_not_equal(first, second);
    put_safetensors(&b, "model.safetensors", TENSOR("a"), "1234", 4);
    put_moe_config(&b, 2, 1, 64, 64);
    hash_of(&b, second);
    assert_string_not_equal(first, second);
    scratch_remove(&a);
    scratch_remove(&b);
}

static bool collect(void *arg, const tc_tensor_info *info)
{
    strcat(arg, info->name);
    assert_true(info->bytes == 4 && info->dims == 1 && info->shape[0] == 1 &&
                strcmp(info->dtype, "F32") == 0);
    return strcmp(info->name, "b") != 0;
}

static void test_walk(void **state)
{
    scratch s;
    tc_error e;
    tc_checkpoint *c;
    char names[16] = "";
    scratch_make(&s);
    put_moe_config(&s, 1, 1, 64, 64);
    put_safetensors(&s, "model.safetensors",
                    "{\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]},\"b\":{\"dtype\":"
                    "\"F32\",\"shape\":[1],"
                    "\"data_offsets\":[4,8]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                    "123412341234", 12);
    assert_int_equal(tc_checkpoint_open(s.path, &c, &e), TC_OK);
    tc_checkpoint_walk(c, collect, names);
    assert_string_equal(names, "ab"); // in file order, until told to stop
    tc_checkpoint_free(c);
    scratch_remove(&s);
}

// As many tensors as the 80B model has, in one shard with an index. Quadratic work would take hours; the
// bound is loose because sanitisers and busy machines are slow.
static void test_many_tensors(void **state)
{
    enum { MANY = 450000 };
    scratch s;
    tc_error e;
    tc_checkpoint *c;
    scratch_make(&s);
    put_moe_config(&s, 1, 1, 64, 64);
    char *header = malloc(MANY * 160u), *index = malloc(MANY * 160u);
    assert_true(header && index);
    size_t n = 0, m = (size_t)sprintf(index, "{\"weight_map\":{");
    for (int i = 0; i < MANY; i++) {
        n += (size_t)sprintf(header + n,
                             "%s\"model.layers.%d.mlp.experts.%d.up_proj.weight\":{\"dtype\":\"U8\","
                             "\"shape\":[1],\"data_offsets\":[%d,%d]}",
                             i ? "," : "{", i / 3000, i % 3000, i, i + 1);
        m += (size_t)sprintf(index + m,
                             "%s\"model.layers.%d.mlp.experts.%d.up_proj.weight\":\"one.safetensors\"",
                             i ? "," : "", i / 3000, i % 3000);
    }
    strcpy(header + n, "}");
    strcpy(index + m, "}}");
    uint8_t *data = calloc(1, MANY);
    put_safetensors(&s, "one.safetensors", header, data, MANY);
    put_text(&s, "model.safetensors.index.json", index);
    uint64_t start = tc_now_us();
    if (tc_checkpoint_open(s.path, &c, &e) != TC_OK) fail_msg("%s", e.text);
    uint64_t took = tc_now_us() - start;
    print_message("opening %d tensors took %" PRIu64 " ms\n", MANY, took / 1000);
    assert_true(took < 20000000);
    assert_true(tc_checkpoint_has(c, "model.layers.149.mlp.experts.2999.up_proj.weight"));
    tc_checkpoint_free(c);
    free(header);
    free(index);
    free(data);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_headers),  cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_good_headers), cmocka_unit_test(test_index),
        cmocka_unit_test(test_links),        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_walk),         cmocka_unit_test(test_many_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
