// SPDX-License-Identifier: Apache-2.0
// CPU lists: read, refused, printed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/base/cpus.h"
#include <string.h>

static void parsing(void **state)
{
    static const struct {
        const char *text;
        uint32_t count, first, last; // count 0: refused
    } cases[] = {
        {"0", 1, 0, 0},   {"0,2-3", 3, 0, 3},      {"3,1", 2, 3, 1},
        {"5-5", 1, 5, 5}, {"1023", 1, 1023, 1023}, {"0-7", 8, 0, 7},
        {"0-8", 0, 0, 0}, {"1024", 0, 0, 0},       {"", 0, 0, 0},
        {",", 0, 0, 0},   {"1,", 0, 0, 0},         {"1,,2", 0, 0, 0},
        {"-1", 0, 0, 0},  {"1-", 0, 0, 0},         {"3-1", 0, 0, 0},
        {"1,1", 0, 0, 0}, {"0-2,1", 0, 0, 0},      {"1 ", 0, 0, 0},
        {"a", 0, 0, 0},   {"4294967296", 0, 0, 0}, {"99999999999", 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t cpus[8], count = 0;
        tc_error error;
        tc_status status = tc_cpu_list_parse(cases[i].text, cpus, 8, &count, &error);
        if ((status == TC_OK) != (cases[i].count > 0))
            fail_msg("\"%s\": %s", cases[i].text, tc_status_text(status));
        assert_int_equal(count, cases[i].count);
        if (count == 0) continue;
        assert_int_equal(cpus[0], cases[i].first);
        assert_int_equal(cpus[count - 1], cases[i].last);
    }
}

static void printing(void **state)
{
    static const uint32_t cpus[] = {0, 2, 3, 4, 7};
    char text[32], small[8];
    tc_cpu_list_print(cpus, 5, text, sizeof text);
    assert_string_equal(text, "0,2-4,7");
    tc_cpu_list_print(cpus, 5, small, sizeof small);
    assert_string_equal(small, "0...");
    tc_cpu_list_print(cpus, 0, text, sizeof text);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parsing), cmocka_unit_test(printing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
