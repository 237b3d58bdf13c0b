// SPDX-License-Identifier: Apache-2.0
// Shows: GET /metrics: what is counted, that label sets are bounded and hold nothing of a client, request
// ids.
#include "tests/unit/gateway/fixture.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double value_of(const answer *a, const char *series)
{
    char needle[256];
    snprintf(needle, sizeof needle, "\n%s ", series);
    const char *at = strstr(a->body, needle);
    if (!at) fail_msg("there is no %s in\n%s", series, a->body);
    return at ? strtod(at + strlen(needle), NULL) : 0;
}

static void counts(void **state)
{
    const gateway_fixture *f = *state;
    fake_reply("abc");
    answer a = post(f, "/api/v1/generate", "{\"prompt\":\"secret words\",\"max_tokens\":3}");
    assert_int_equal(a.status, 200);
    free(a.body);
    a = get(f, "/nothing/secret-path");
    free(a.body);
    a = post(f, "/api/v1/generate", "{\"prompt\":7}");
    assert_int_equal(a.status, 400);
    free(a.body);
    a = get(f, "/metrics");
    assert_int_equal(a.status, 200);
    assert_true(has(&a, "Content-Type: text/plain; version=0.0.4"));
    assert_true(value_of(&a, "thermocline_http_requests_total{route=\"/api/v1/generate\",code=\"200\"}") ==
                1);
    assert_true(value_of(&a, "thermocline_http_requests_total{route=\"/api/v1/generate\",code=\"400\"}") ==
                1);
    assert_true(value_of(&a, "thermocline_http_requests_total{route=\"other\",code=\"404\"}") == 1);
    assert_true(value_of(&a, "thermocline_requests_total{outcome=\"length\"}") +
                    value_of(&a, "thermocline_requests_total{outcome=\"stop\"}") ==
                1);
    assert_true(value_of(&a, "thermocline_time_to_first_token_seconds_count") == 1);
    assert_true(value_of(&a, "thermocline_request_duration_seconds_count") == 1);
    assert_true(value_of(&a, "thermocline_request_duration_seconds_bucket{le=\"+Inf\"}") == 1);
    assert_true(value_of(&a, "thermocline_core_up") == 1);
    assert_true(value_of(&a, "thermocline_ready") == 1);
    assert_true(value_of(&a, "thermocline_workers_up") == 1);
    assert_null(strstr(a.body, "secret"));
    free(a.body);
}

static void request_ids(void **state)
{
    const gateway_fixture *f = *state;
    answer a = ask(f, "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine-1\r\nConnection: "
                      "close\r\n\r\n");
    assert_true(has(&a, "X-Request-Id: mine-1"));
    free(a.body);
    a = ask(f, "GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: not good\r\nConnection: "
               "close\r\n\r\n");
    assert_false(has(&a, "X-Request-Id"));
    free(a.body);
    fake_reply("a");
    a = post(f, "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":1}");
    const char *id = strstr(a.head, "X-Request-Id: cmpl-");
    assert_non_null(id);
    char in_body[64];
    snprintf(in_body, sizeof in_body, "\"id\":\"%.*s\"", (int)strcspn(id + 14, "\r"), id + 14);
    assert_non_null(strstr(a.body, in_body));
    free(a.body);
}

static void without_a_core(void **state)
{
    gateway_fixture f;
    fixture_prepare(&f);
    fixture_start(&f);
    answer a = get(&f, "/metrics");
    assert_int_equal(a.status, 200);
    assert_true(value_of(&a, "thermocline_core_up") == 0);
    assert_true(value_of(&a, "thermocline_ready") == 0);
    assert_null(strstr(a.body, "thermocline_workers_up"));
    free(a.body);
    fixture_stop(&f);
    (void)state;
}

static void histograms(void **state)
{
    static const uint64_t bounds[] = {TC_HISTOGRAM_BOUNDS_US};
    tc_histogram h = {0};
    for (unsigned i = 0; i < TC_HISTOGRAM_BOUNDS; i++) {
        tc_histogram_add(&h, bounds[i]);     // its own bucket
        tc_histogram_add(&h, bounds[i] + 1); // the next
    }
    assert_int_equal(h.count[0], 1);
    for (unsigned i = 1; i < TC_HISTOGRAM_BOUNDS; i++) assert_int_equal(h.count[i], 2);
    assert_int_equal(h.count[TC_HISTOGRAM_BOUNDS], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(counts, setup_up, teardown),
        cmocka_unit_test_setup_teardown(request_ids, setup_up, teardown),
        cmocka_unit_test(without_a_core),
        cmocka_unit_test(histograms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
