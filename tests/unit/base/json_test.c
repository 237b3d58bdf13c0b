// SPDX-License-Identifier: Apache-2.0
// Owns: the test of strict JSON reading: files, depth at its limit and one above, duplicate keys, and each
// getter's refusals with document and field in the text.
#include "common/base/json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static tc_status parse(const char *text, uint32_t depth, tc_error *e)
{
    yyjson_doc *doc = NULL;
    // An exact copy without a NUL, so that a sanitiser sees any byte read beyond it.
    size_t bytes = strlen(text);
    char *copy = malloc(bytes ? bytes : 1);
    memcpy(copy, text, bytes);
    tc_status status = tc_json_parse("doc", copy, bytes, depth, &doc, e);
    free(copy);
    yyjson_doc_free(doc);
    return status;
}

static void test_depth(void **state)
{
    tc_error e;
    assert_int_equal(parse("[[[1]]]", 3, &e), TC_OK);
    assert_int_equal(parse("[[[1]]]", 2, &e), TC_FORMAT);
    assert_string_equal(e.text, "doc: JSON nested deeper than 2");
    assert_int_equal(parse("{\"a\":{\"b\":[]}}", 3, &e), TC_OK);
    assert_int_equal(parse("{\"a\":{\"b\":[]}}", 2, &e), TC_FORMAT);
    assert_int_equal(parse("[\"[[[[\\\"[[[[\",{}]", 2, &e), TC_OK); // brackets in texts do not count
    assert_int_equal(parse("[[],[],[],[]]", 2, &e), TC_OK);
    assert_int_equal(parse("\"a\\", 2, &e), TC_FORMAT); // the escape is the last byte
    char deep[4001];
    memset(deep, '[', 4000);
    deep[4000] = '\0';
    assert_int_equal(parse(deep, 1000000, &e), TC_FORMAT); // the asker's limit is bounded as well
    assert_string_equal(e.text, "doc: JSON nested deeper than 64");
}

static void test_duplicates(void **state)
{
    tc_error e;
    char big[8192] = "{";
    assert_int_equal(parse("{\"a\":1,\"b\":2,\"a\":3}", 4, &e), TC_FORMAT);
    assert_string_equal(e.text, "doc: key \"a\" occurs twice in one object");
    assert_int_equal(parse("[{\"x\":[{\"k\":1,\"\\u006b\":2}]}]", 8, &e),
                     TC_FORMAT); // deep, and by an escape
    assert_int_equal(parse("{\"a\":{\"a\":1}}", 4, &e), TC_OK);
    assert_int_equal(parse("{\"a\":1,\"a\\u0000\":1}", 4, &e), TC_OK);
    for (int count = 15; count <= 300; count += 95) { // below and above where a table is used
        int n = 1;
        for (int i = 0; i < count; i++) n += sprintf(big + n, "%s\"key%d\":%d", i ? "," : "", i, i);
        strcpy(big + n, "}");
        assert_int_equal(parse(big, 2, &e), TC_OK);
        strcpy(big + n, ",\"key7\":1}");
        assert_int_equal(parse(big, 2, &e), TC_FORMAT);
        assert_string_equal(e.text, "doc: key \"key7\" occurs twice in one object");
    }
}

static void test_not_json(void **state)
{
    static const char *const texts[] = {"",        " ",     "{",           "[1,]",    "{\"a\":1,}", "nul",
                                        "01",      "1 2",   "[NaN]",       "[1e999]", "\"\xff\"",   "\"\t\"",
                                        "// x\n1", "{a:1}", "\"\\ud800\"", "{} {}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tc_error e = {0};
        if (parse(texts[i], 8, &e) != TC_FORMAT) fail_msg("accepted: %s", texts[i]);
        assert_non_null(strstr(e.text, "doc: not JSON at byte "));
    }
}

static void test_getters(void **state)
{
    static const char text[] = "{\"n\":5,\"neg\":-5,\"half\":2.5,\"big\":18446744073709551615,\"t\":true,"
                               "\"s\":\"text\",\"nul\":null,"
                               "\"z\":\"a\\u0000b\",\"o\":{\"n\":6},\"a\":[1,-2]}";
    yyjson_doc *doc;
    tc_json_object o, inner = {0};
    tc_error e;
    uint32_t n = 42;
    uint64_t wide = 42;
    double d = 4.5;
    bool flag = false;
    const char *s = "default";
    yyjson_val *list = NULL;
    assert_int_equal(tc_json_parse("doc", text, strlen(text), 4, &doc, &e), TC_OK);
    assert_int_equal(tc_json_object_of(yyjson_doc_get_root(doc), "doc", &o, &e), TC_OK);

    assert_int_equal(tc_json_u32(&o, "absent", 0, 9, &n), TC_OK);
    assert_int_equal(tc_json_u32(&o, "nul", 0, 9, &n), TC_OK);
    assert_int_equal(n, 42); // the default stays
    assert_int_equal(tc_json_u32(&o, "n", 5, 5, &n), TC_OK);
    assert_int_equal(n, 5);
    assert_int_equal(tc_json_u64(&o, "big", 0, UINT64_MAX, &wide), TC_OK);
    assert_true(wide == UINT64_MAX);
    assert_int_equal(tc_json_double(&o, "half", 2.5, 2.5, &d), TC_OK);
    assert_int_equal(tc_json_double(&o, "n", 0, 10, &d), TC_OK);
    assert_true(d == 5.0);
    assert_int_equal(tc_json_bool(&o, "t", &flag), TC_OK);
    assert_true(flag);
    assert_int_equal(tc_json_string(&o, "s", &s), TC_OK);
    assert_string_equal(s, "text");
    assert_int_equal(tc_json_get_object(&o, "o", &inner), TC_OK);
    assert_int_equal(tc_json_u32(&inner, "n", 0, 9, &n), TC_OK);
    assert_int_equal(n, 6);
    assert_int_equal(tc_json_get_array(&o, "a", &list), TC_OK);
    assert_int_equal(yyjson_arr_size(list), 2);
    assert_int_equal(tc_json_require(&o, "n"), TC_OK);

#define REFUSED(expression, expected)                                                                        \
    do {                                                                                                     \
        assert_int_equal(expression, TC_FORMAT);                                                             \
        assert_string_equal(e.text, expected);                                                               \
    } while (0)
    REFUSED(tc_json_u32(&o, "n", 0, 4, &n), "doc: n is 5, must be 0..4");
    REFUSED(tc_json_u32(&o, "n", 6, 9, &n), "doc: n is 5, must be 6..9");
    REFUSED(tc_json_u32(&o, "neg", 0, 9, &n), "doc: neg is -5, must be 0..9");
    REFUSED(tc_json_u32(&o, "big", 0, 9, &n), "doc: big is 18446744073709551615, must be 0..9");
    REFUSED(tc_json_u32(&o, "half", 0, 9, &n), "doc: half must be a whole number");
    REFUSED(tc_json_u32(&o, "s", 0, 9, &n), "doc: s must be a whole number");
    REFUSED(tc_json_u32(&o, "t", 0, 9, &n), "doc: t must be a whole number");
    REFUSED(tc_json_double(&o, "half", 0, 2.25, &d), "doc: half is 2.5, must be 0..2.25");
    REFUSED(tc_json_double(&o, "s", 0, 2, &d), "doc: s must be a number");
    REFUSED(tc_json_bool(&o, "n", &flag), "doc: n must be true or false");
    REFUSED(tc_json_string(&o, "n", &s), "doc: n must be a text");
    REFUSED(tc_json_string(&o, "z", &s), "doc: z must be a text");
    REFUSED(tc_json_get_object(&o, "a", &inner), "doc: a must be an object");
    REFUSED(tc_json_get_array(&o, "o", &list), "doc: o must be a list");
    REFUSED(tc_json_require(&o, "nul"), "doc: nul is missing");
    REFUSED(tc_json_value_u64(yyjson_arr_get(list, 1), "doc", "a[1]", 0, 9, &wide, &e),
            "doc: a[1] is -2, must be 0..9");
    REFUSED(tc_json_object_of(list, "doc", &o, &e), "doc: must be a JSON object");
    assert_int_equal(n, 6); // untouched by all of these
    assert_string_equal(s, "text");
    yyjson_doc_free(doc);
}

static void test_files(void **state)
{
    char path[] = "/tmp/tc-json-XXXXXX", *text;
    size_t bytes;
    tc_error e;
    yyjson_doc *doc;
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "[1,2]", 5), 5);
    close(fd);
    assert_int_equal(tc_read_file(path, 5, &text, &bytes, &e), TC_OK);
    assert_int_equal(bytes, 5);
    assert_string_equal(text, "[1,2]");
    free(text);
    assert_int_equal(tc_read_file(path, 4, &text, &bytes, &e), TC_LIMIT);
    assert_non_null(strstr(e.text, path));
    assert_non_null(strstr(e.text, "5 bytes, the limit is 4"));
    assert_int_equal(tc_json_load(path, 5, 1, &doc, &e), TC_OK);
    yyjson_doc_free(doc);
    unlink(path);
    assert_int_equal(tc_json_load(path, 5, 1, &doc, &e), TC_NOT_FOUND);
    assert_int_equal(tc_read_file("/dev/null", 5, &text, &bytes, &e), TC_FORMAT); // not a regular file
    assert_int_equal(tc_read_file("/tmp", 5, &text, &bytes, &e), TC_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_depth), cmocka_unit_test(test_duplicates),
                                       cmocka_unit_test(test_not_json), cmocka_unit_test(test_getters),
                                       cmocka_unit_test(test_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
