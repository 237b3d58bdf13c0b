// SPDX-License-Identifier: Apache-2.0
// Owns: agreement with the `tokenizers` library: our committed vectors (make_vectors.py), and those of the
// real Qwen vocabulary where the shared data folder lies next to the source tree.
#include "common/text/tokenizer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#include <cmocka.h>

#define OWN TC_SOURCE_ROOT "/tests/unit/text/data/"
#define SHARED TC_SOURCE_ROOT "/../shared/data/qwen2/"

static tc_tokenizer *load(const char *path)
{
    tc_tokenizer *t = NULL;
    tc_error e;
    if (tc_tokenizer_load(path, &t, &e) != TC_OK) fail_msg("%s", e.text);
    return t;
}

static void check_ids(const tc_tokenizer *t, yyjson_val *v, size_t line)
{
    tc_ids ids = {0};
    yyjson_val *text = yyjson_obj_get(v, "text"), *want = yyjson_obj_get(v, "ids"), *id;
    bool plain = yyjson_get_bool(yyjson_obj_get(v, "plain"));
    size_t i, count;
    assert_int_equal(tc_tokenizer_encode(t, yyjson_get_str(text), yyjson_get_len(text),
                                         plain ? TC_SPECIAL_AS_TEXT : TC_SPECIAL_PARSE, &ids, NULL),
                     TC_OK);
    if (ids.count != yyjson_arr_size(want))
        fail_msg("line %zu: %zu ids, not %zu", line, ids.count, yyjson_arr_size(want));
    yyjson_arr_foreach(want, i, count, id)
    {
        if (ids.data[i] != yyjson_get_uint(id)) fail_msg("line %zu: ids[%zu] is %u", line, i, ids.data[i]);
    }
    tc_ids_free(&ids);
}

static void check_text(const tc_tokenizer *t, yyjson_val *v, size_t line)
{
    tc_ids ids = {0};
    yyjson_val *want = yyjson_obj_get(v, "text"), *id;
    size_t i, count, bytes;
    char *text;
    yyjson_arr_foreach(yyjson_obj_get(v, "ids"), i, count, id)
        tc_ids_push(&ids, (uint32_t)yyjson_get_uint(id));
    bool skip = yyjson_get_bool(yyjson_obj_get(v, "skip"));
    assert_int_equal(tc_tokenizer_decode(t, ids.data, ids.count, skip, &text, &bytes, NULL), TC_OK);
    if (bytes != yyjson_get_len(want) || memcmp(text, yyjson_get_str(want), bytes))
        fail_msg("line %zu: decoded to %s", line, text);
    free(text);
    tc_ids_free(&ids);
}

// Runs the lines whose "file" is `name` (all, when `name` is NULL); returns how many there were.
static size_t run(const char *path, const char *name, const tc_tokenizer *t)
{
    char *line = NULL;
    size_t capacity = 0, number = 0, done = 0;
    ssize_t length;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while ((length = getline(&line, &capacity, f)) > 0) {
        yyjson_doc *doc = yyjson_read(line, (size_t)length, 0);
        yyjson_val *v = yyjson_doc_get_root(doc);
        number++;
        assert_non_null(v);
        if (!name || yyjson_equals_str(yyjson_obj_get(v, "file"), name)) {
            if (yyjson_get_bool(yyjson_obj_get(v, "decode")))
                check_text(t, v, number);
            else
                check_ids(t, v, number);
            done++;
        }
        yyjson_doc_free(doc);
    }
    free(line);
    fclose(f);
    return done;
}

static void test_small(void **state)
{
    tc_tokenizer *t = load(OWN "small.json");
    assert_true(run(OWN "vectors.jsonl", "small.json", t) >= 400);
    tc_tokenizer_free(t);
}

static void test_gpt2(void **state)
{
    tc_tokenizer *t = load(OWN "gpt2.json");
    assert_true(run(OWN "vectors.jsonl", "gpt2.json", t) >= 100);
    tc_tokenizer_free(t);
}

// The other splitting expressions, and characters with bytes as a fallback.
static void test_more(void **state)
{
    static const char *const names[] = {"llama3.json", "o200k.json", "deepseek.json", "llama2.json",
                                        "mistral.json"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[4096];
        snprintf(path, sizeof path, OWN "%s", names[i]);
        tc_tokenizer *t = load(path);
        print_message("%s\n", names[i]);
        assert_true(run(OWN "more.jsonl", names[i], t) >= 400);
        tc_tokenizer_free(t);
    }
}

static void test_qwen2(void **state)
{
    if (access(SHARED "tokenizer.json", R_OK) != 0) {
        print_message("skipped: no " SHARED "\n");
        skip();
    }
    tc_tokenizer *t = load(SHARED "tokenizer.json");
    assert_int_equal(tc_tokenizer_vocab(t), 151669);
    assert_int_equal(run(SHARED "vectors.jsonl", NULL, t), 60);
    tc_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_small), cmocka_unit_test(test_gpt2),
                                       cmocka_unit_test(test_more), cmocka_unit_test(test_qwen2)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
