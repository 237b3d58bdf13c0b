// SPDX-License-Identifier: Apache-2.0
// Owns: what a tokenizer.json may say, and that each thing it may not say gets an error that names it.
#include "tests/unit/text/small_json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SPLIT_QWEN SMALL_SPLIT(SMALL_QWEN, "Isolated", "false")
#define LEVEL SMALL_BYTE_LEVEL("false", "false")
#define ADDED(id, content) SMALL_ADDED(id, content, "true", "false", SMALL_PLAIN)

static const struct accepted {
    const char *what;
    small_json parts;
} accepted[] = {
    {"the usual", {0}},
    {"null normalizer", {.normalizer = "null"}},
    {"nested normalizers",
     {.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\",\"normalizers\":[]}]}"}},
    {"GPT-2", {.pretokenizer = SMALL_BYTE_LEVEL("false", "true")}},
    {"GPT-2 by default", {.pretokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"}},
    {"ByteLevel post-processor", {.post_processor = "{\"type\":\"ByteLevel\",\"trim_offsets\":false}"}},
    {"empty template",
     {.post_processor =
          "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}],\"pair\":[]}"}},
    {"empty affixes",
     {.model = "\"dropout\":0.0,\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":null,"}},
    {"merges of strings", {.vocab = ",\"ab\":256,\"abc\":257", .merges = "\"a b\",\"ab c\""}},
    {"merges of pairs", {.vocab = ",\"ab\":256,\"abc\":257", .merges = "[\"a\",\"b\"],[\"ab\",\"c\"]"}},
    {"gaps between ids", {.vocab = ",\"ab\":1000", .added = ADDED("5000", "<x>")}},
    {"highest id", {.added = ADDED("4194303", "<x>")}},
    {"added token of the vocabulary", {.vocab = ",\"ab\":256", .added = ADDED("256", "ab")}},
    {"null truncation", {.top = "\"truncation\":null,\"padding\":null,"}},
};

static const struct refused {
    const char *names; // must be in the error
    tc_status status;
    small_json parts;
} refused[] = {
    {"truncation", TC_UNSUPPORTED, {.top = "\"truncation\":{},"}},
    {"padding", TC_UNSUPPORTED, {.top = "\"padding\":{},"}},
    {"\"surprise\"", TC_UNSUPPORTED, {.top = "\"surprise\":1,"}},
    {"duplicate field \"version\"", TC_FORMAT, {.top = "\"version\":\"1.0\","}},
    {"NFKC", TC_UNSUPPORTED, {.normalizer = "{\"type\":\"NFKC\"}"}},
    {"normalizer", TC_FORMAT, {.normalizer = "7"}},
    {"normalizers[0]", TC_FORMAT, {.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[null]}"}},
    {"nested too deep",
     TC_LIMIT,
     {.normalizer =
          "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\",\"normalizers\":[{\"type\":"
          "\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\","
          "\"normalizers\":[]}]}]}]}]}"}},
    {"pre_tokenizer", TC_UNSUPPORTED, {.pretokenizer = "null"}},
    {"Metaspace", TC_UNSUPPORTED, {.pretokenizer = "{\"type\":\"Metaspace\"}"}},
    {"[Split, ..., ByteLevel]",
     TC_UNSUPPORTED,
     {.pretokenizer = "{\"type\":\"Sequence\",\"pretokenizers\":[]}"}},
    {"[Split, ..., ByteLevel]", TC_UNSUPPORTED, {.pretokenizer = SMALL_SEQUENCE(LEVEL, SPLIT_QWEN)}},
    {"behavior",
     TC_UNSUPPORTED,
     {.pretokenizer = SMALL_SEQUENCE(SMALL_SPLIT(SMALL_QWEN, "Removed", "false"), LEVEL)}},
    {"invert",
     TC_UNSUPPORTED,
     {.pretokenizer = SMALL_SEQUENCE(SMALL_SPLIT(SMALL_QWEN, "Isolated", "true"), LEVEL)}},
    {"a+|b",
     TC_UNSUPPORTED,
     {.pretokenizer = SMALL_SEQUENCE(SMALL_SPLIT("a+|b", "Isolated", "false"), LEVEL)}},
    {"add_prefix_space",
     TC_UNSUPPORTED,
     {.pretokenizer = SMALL_SEQUENCE(SPLIT_QWEN, SMALL_BYTE_LEVEL("true", "false"))}},
    {"add_prefix_space", TC_UNSUPPORTED, {.pretokenizer = "{\"type\":\"ByteLevel\"}"}},
    {"use_regex",
     TC_UNSUPPORTED,
     {.pretokenizer = SMALL_SEQUENCE(SPLIT_QWEN, SMALL_BYTE_LEVEL("false", "true"))}},
    {"use_regex", TC_UNSUPPORTED, {.pretokenizer = LEVEL}},
    {"use_regex", TC_FORMAT, {.pretokenizer = SMALL_BYTE_LEVEL("false", "1")}},
    {"post_processor", TC_UNSUPPORTED, {.post_processor = "{\"type\":\"BertProcessing\"}"}},
    {"post_processor.single[0]",
     TC_UNSUPPORTED,
     {.post_processor =
          "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}}]}"}},
    {"decoder", TC_UNSUPPORTED, {.decoder = "null"}},
    {"decoder", TC_UNSUPPORTED, {.decoder = "{\"type\":\"WordPiece\"}"}},
    {"model.dropout", TC_UNSUPPORTED, {.model = "\"dropout\":0.1,"}},
    {"model.continuing_subword_prefix", TC_UNSUPPORTED, {.model = "\"continuing_subword_prefix\":\"##\","}},
    {"model.end_of_word_suffix", TC_UNSUPPORTED, {.model = "\"end_of_word_suffix\":\"</w>\","}},
    {"Sequence", TC_UNSUPPORTED, {.model = "\"byte_fallback\":true,"}},
    {"model.ignore_merges", TC_FORMAT, {.model = "\"ignore_merges\":null,"}},
    {"model.unk_token", TC_FORMAT, {.model = "\"unk_token\":3,"}},
    {"\"novelty\"", TC_UNSUPPORTED, {.model = "\"novelty\":1,"}},
    {"duplicate field \"type\"", TC_FORMAT, {.model = "\"type\":\"BPE\","}},
    {"\"ab\"", TC_FORMAT, {.vocab = ",\"ab\":4194304"}},
    {"\"ab\"", TC_FORMAT, {.vocab = ",\"ab\":-1"}},
    {"\"ab\"", TC_FORMAT, {.vocab = ",\"ab\":2147483648"}},
    {"\"ab\"", TC_FORMAT, {.vocab = ",\"ab\":1.5"}},
    {"\"ab\"", TC_FORMAT, {.vocab = ",\"ab\":\"7\""}},
    {"duplicate entry \"ab\"", TC_FORMAT, {.vocab = ",\"ab\":256,\"ab\":257"}},
    {"\"ab\" has the id 65", TC_FORMAT, {.vocab = ",\"ab\":65"}},
    {"byte 0xff", TC_UNSUPPORTED, {.bytes = 255}},
    {"merges[0]", TC_FORMAT, {.merges = "\"ab\""}},
    {"merges[0]", TC_FORMAT, {.merges = "\"a b c\""}},
    {"merges[0]", TC_FORMAT, {.merges = "\" b\""}},
    {"merges[0]", TC_FORMAT, {.merges = "[\"a\"]"}},
    {"merges[0]", TC_FORMAT, {.merges = "[\"a\",\"b\",\"c\"]"}},
    {"merges[0]", TC_FORMAT, {.merges = "[\"a\",1]"}},
    {"merges[0]", TC_FORMAT, {.merges = "null"}},
    {"merges[1]: part \"xy\"", TC_FORMAT, {.vocab = ",\"ab\":256", .merges = "\"a b\",\"xy z\""}},
    {"merges[0]: result \"ab\"", TC_FORMAT, {.merges = "\"a b\""}},
    {"merges[1]: duplicate", TC_FORMAT, {.vocab = ",\"ab\":256", .merges = "\"a b\",[\"a\",\"b\"]"}},
    {"added_tokens[0]", TC_FORMAT, {.added = "7"}},
    {"added_tokens[0].content", TC_FORMAT, {.added = "{\"id\":300}"}},
    {"added_tokens[0].content", TC_FORMAT, {.added = ADDED("300", "")}},
    {"added_tokens[0].single_word", TC_FORMAT, {.added = SMALL_ADDED("300", "<x>", "true", "false", "")}},
    {"added_tokens[0].special", TC_FORMAT, {.added = SMALL_ADDED("300", "<x>", "1", "false", SMALL_PLAIN)}},
    {"\"colour\"",
     TC_UNSUPPORTED,
     {.added = SMALL_ADDED("300", "<x>", "true", "false", SMALL_PLAIN ",\"colour\":1")}},
    {"\"<x>\"", TC_FORMAT, {.added = ADDED("4194304", "<x>")}},
    {"\"<x>\"", TC_FORMAT, {.added = ADDED("-1", "<x>")}},
    {"id 65 belongs", TC_FORMAT, {.added = ADDED("65", "<x>")}},
    {"\"<y>\": its id 300", TC_FORMAT, {.added = ADDED("300", "<x>") "," ADDED("300", "<y>")}},
    {"two with the same content", TC_FORMAT, {.added = ADDED("300", "<x>") "," ADDED("301", "<x>")}},
    {"two with the same content",
     TC_FORMAT,
     {.added = SMALL_ADDED("300", "x\\u00e9", "true", "true",
                           SMALL_PLAIN) "," SMALL_ADDED("301", "xe\\u0301", "true", "true", SMALL_PLAIN)}},
    {"\"ab\": id 300 here, 256", TC_FORMAT, {.vocab = ",\"ab\":256", .added = ADDED("300", "ab")}},
    {"single byte", TC_UNSUPPORTED, {.added = ADDED("65", "A")}},
};

static void test_accepted(void **state)
{
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        tc_tokenizer *t = small_json_load(&accepted[i].parts);
        tc_ids ids = {0};
        assert_int_equal(tc_tokenizer_encode(t, "Z", 1, TC_SPECIAL_PARSE, &ids, NULL), TC_OK);
        assert_int_equal(ids.count, 1);
        assert_int_equal(ids.data[0], 'Z');
        tc_ids_free(&ids);
        tc_tokenizer_free(t);
    }
}

static void must_refuse(const char *json, size_t bytes, tc_status status, const char *names)
{
    tc_error e = {0};
    tc_tokenizer *t = (tc_tokenizer *)&e; // must stay untouched
    tc_status got = tc_tokenizer_parse(json, bytes, "F", &t, &e);
    if (got != status || e.status != status || strncmp(e.text, "F: ", 3) || !strstr(e.text, names))
        fail_msg("wanted %s with '%s', got %s: %s", tc_status_text(status), names, tc_status_text(got),
                 e.text);
    assert_ptr_equal(t, &e);
}

static void test_refused(void **state)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        size_t bytes;
        char *json = small_json_make(&refused[i].parts, &bytes);
        must_refuse(json, bytes, refused[i].status, refused[i].names);
        free(json);
    }
}

static void test_not_json(void **state)
{
    static const struct {
        const char *text, *names;
        tc_status status;
    } cases[] = {
        {"", "not JSON", TC_FORMAT},
        {"{", "not JSON", TC_FORMAT},
        {"[]", "top level", TC_FORMAT},
        {"null", "top level", TC_FORMAT},
        {"{} x", "not JSON", TC_FORMAT},
        {"{\"model\":{\"type\":\"\xff\"}}", "not JSON", TC_FORMAT},
        {"{}", "pre_tokenizer", TC_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        must_refuse(cases[i].text, strlen(cases[i].text), cases[i].status, cases[i].names);
}

// Every beginning of a file is refused, and so is one that is all brackets.
static void test_cut_and_deep(void **state)
{
    size_t bytes;
    small_json parts = {.vocab = ",\"ab\":256", .merges = "\"a b\"", .added = ADDED("300", "<x>")};
    char *json = small_json_make(&parts, &bytes);
    for (size_t cut = 0; cut < bytes; cut += 1 + cut / 200) must_refuse(json, cut, TC_FORMAT, "not JSON");
    free(json);

    enum { DEEP = 1 << 20 };
    char *deep = malloc(DEEP);
    memset(deep, '[', DEEP);
    must_refuse(deep, DEEP, TC_FORMAT, "not JSON");
    free(deep);
}

// The longest token is allowed, one byte more is not.
static void test_token_length(void **state)
{
    for (int extra = 0; extra < 2; extra++) {
        char name[TC_TOKEN_BYTES_MAX + 2], entry[TC_TOKEN_BYTES_MAX + 32], added[TC_TOKEN_BYTES_MAX + 200];
        memset(name, 'q', sizeof name);
        name[TC_TOKEN_BYTES_MAX + extra] = 0;
        snprintf(entry, sizeof entry, ",\"%s\":256", name);
        snprintf(added, sizeof added,
                 "{\"id\":300,\"content\":\"%s\",\"special\":true,\"normalized\":false%s}", name,
                 SMALL_PLAIN);
        const small_json both[] = {{.vocab = entry}, {.added = added}};
        for (size_t i = 0; i < 2; i++) {
            size_t bytes;
            char *json = small_json_make(&both[i], &bytes);
            tc_tokenizer *t = NULL;
            assert_int_equal(tc_tokenizer_parse(json, bytes, "F", &t, NULL), extra ? TC_LIMIT : TC_OK);
            tc_tokenizer_free(t);
            free(json);
        }
    }
}

static void test_load(void **state)
{
    char path[] = "/tmp/tc-text-XXXXXX";
    tc_error e = {0};
    tc_tokenizer *t = NULL;
    assert_int_equal(tc_tokenizer_load("/nonexistent/tokenizer.json", &t, &e), TC_NOT_FOUND);
    assert_non_null(strstr(e.text, "/nonexistent/tokenizer.json"));
    assert_int_equal(tc_tokenizer_load("/tmp", &t, &e), TC_FORMAT);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(tc_tokenizer_load(path, &t, &e), TC_FORMAT); // empty
    assert_int_equal(ftruncate(fd, (off_t)TC_TOKENIZER_FILE_BYTES_MAX + 1), 0);
    assert_int_equal(tc_tokenizer_load(path, &t, &e), TC_LIMIT);
    assert_non_null(strstr(e.text, path));
    assert_null(t);

    size_t bytes;
    char *json = small_json_make(&(small_json){0}, &bytes);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, json, bytes, 0), bytes);
    assert_int_equal(tc_tokenizer_load(path, &t, &e), TC_OK);
    assert_int_equal(tc_tokenizer_vocab(t), 256);
    tc_tokenizer_free(t);
    tc_tokenizer_free(NULL);
    free(json);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepted),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_not_json),     cmocka_unit_test(test_cut_and_deep),
        cmocka_unit_test(test_token_length), cmocka_unit_test(test_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
