// SPDX-License-Identifier: Apache-2.0
// Shows: GET /metrics: what is counted, that label sets are bounded and hold nothing of a client, request
// ids.
#include "gateway/metrics_text.h"
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

// RAM and VRAM by purpose: what lies on the device is not counted as RAM too, and the parts of VRAM are all
// that was taken.
static void memory_by_purpose(void **state)
{
    static tc_engine_detail d;
    const tc_model_info info = {.weights_bytes = 1000, .experts_bytes = 5000, .kv_budget_bytes = 700};
    tc_engine_status e = {.detail = &d, .cache_bytes = 30};
    d.memory_bytes[TC_MEM_WEIGHTS] = 40;
    d.hot_bytes = 200;
    for (int device = 0; device <= 1; device++) {
        if (device) {
            d.device_total_bytes = 9000;
            d.device_used_bytes = 2500;
            d.device_driver_bytes = 300;
            d.device_bytes[TC_MEM_WEIGHTS] = 960;
            d.device_bytes[TC_MEM_KV] = 600;
            d.device_bytes[TC_MEM_STATE] = 100;
            d.device_bytes[TC_MEM_SCRATCH] = 50;
            d.device_bytes[TC_MEM_OTHER] = 260; // slots of hot experts, and 60 more
        }
        tc_buffer out = {0};
        tc_metrics_of_core(&info, &e, &out);
        tc_buffer_append(&out, "", 1);
        answer page = {.body = out.data};
#define MEMORY(memory, purpose)                                                                              \
    value_of(&page, "thermocline_memory_bytes{memory=\"" memory "\",purpose=\"" purpose "\"}")
        assert_true(MEMORY("ram", "dense_weights") == (device ? 40 : 1000));
        assert_true(MEMORY("ram", "experts") == 5000);
        assert_true(MEMORY("ram", "hot_experts") == (device ? 0 : 200));
        assert_true(MEMORY("ram", "kv_and_states_limit") == (device ? 0 : 700));
        assert_true(MEMORY("ram", "prefix_cache") == 30);
        assert_true(MEMORY("vram", "dense_weights") == (device ? 960 : 0));
        assert_true(MEMORY("vram", "hot_experts") == (device ? 200 : 0));
        assert_true(MEMORY("vram", "kv_and_states") == (device ? 700 : 0));
        assert_true(MEMORY("vram", "scratch") == (device ? 50 : 0));
        assert_true(MEMORY("vram", "other") == (device ? 60 : 0));
        assert_true(MEMORY("vram", "driver") == (device ? 300 : 0));
        assert_true(value_of(&page, "thermocline_device_memory_used_bytes") == (device ? 2500 : 0));
        assert_true(value_of(&page, "thermocline_device_memory_limit_bytes") == (device ? 9000 : 0));
        tc_buffer_free(&out);
    }
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(counts, setup_up, teardown),
        cmocka_unit_test_setup_teardown(request_ids, setup_up, teardown),
        cmocka_unit_test(without_a_core),
        cmocka_unit_test(histograms),
        cmocka_unit_test(memory_by_purpose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
