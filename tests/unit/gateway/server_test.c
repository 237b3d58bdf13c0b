// SPDX-License-Identifier: Apache-2.0
// Owns: tests of the server over real sockets: routes, policy, keep-alive and pipelining, deadlines, limits,
// the end.
#include "tests/unit/gateway/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define HOST "Host: localhost\r\n"

static void expect(answer a, int status, const char *text)
{
    if (a.status != status || !a.complete || (text && !has(&a, text)))
        fail_msg("%d, expected %d with '%s': %s%s", a.status, status, text ? text : "", a.head, a.body);
    free(a.body);
}

static void routes(void **state)
{
    static const struct {
        const char *request;
        int status;
        const char *text;
    } cases[] = {
        {"GET / HTTP/1.1\r\n" HOST "\r\n", 200, "<!doctype html>"},
        {"GET /?a=b HTTP/1.1\r\n" HOST "\r\n", 200, "<!doctype html>"},
        {"GET /api/v1/health HTTP/1.1\r\n" HOST "\r\n", 200,
         "{\"status\":\"ok\",\"ready\":true,\"workers\":{\"up\":1,\"expected\":1}"},
        {"GET http://localhost/api/v1/health HTTP/1.1\r\n" HOST "\r\n", 200, "\"ready\":true"},
        {"GET /api/v1/model-info HTTP/1.1\r\n" HOST "\r\n", 200, "\"family\":\"fake\""},
        {"GET /v1/models HTTP/1.1\r\n" HOST "\r\n", 200,
         "{\"object\":\"list\",\"data\":[{\"id\":\"org/tiny\",\"object\":\"model\""},
        {"GET /v1/models/org/tiny HTTP/1.1\r\n" HOST "\r\n", 200, "{\"id\":\"org/tiny\""},
        {"GET /v1/models/org%2Ftiny HTTP/1.1\r\n" HOST "\r\n", 200, "{\"id\":\"org/tiny\""},
        {"GET /v1/models/other HTTP/1.1\r\n" HOST "\r\n", 404, "\"code\":\"model_not_found\""},
        {"GET /v1/models/%zz HTTP/1.1\r\n" HOST "\r\n", 404, "not_found"},
        {"GET /v1/models/a%00 HTTP/1.1\r\n" HOST "\r\n", 404, "not_found"},
        {"GET /v1/models/ HTTP/1.1\r\n" HOST "\r\n", 404, "not_found"},
        {"GET /nothing HTTP/1.1\r\n" HOST "\r\n", 404, "there is nothing at /nothing"},
        {"GET /api/v1/health/ HTTP/1.1\r\n" HOST "\r\n", 404, NULL},
        {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 404, NULL},
        {"POST /v1/models HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", 405, "Allow: GET, HEAD\r\n"},
        {"GET /v1/completions HTTP/1.1\r\n" HOST "\r\n", 405, "Allow: POST\r\n"},
        {"DELETE /api/v1/generate HTTP/1.1\r\n" HOST "\r\n", 405, "\"type\":\"invalid_request_error\""},
        {"POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", 400,
         "\"code\":\"invalid_json\""},
        {"HEAD /v1/models HTTP/1.1\r\n" HOST "\r\n", 200, "Content-Length: "},
        {"HEAD /nothing HTTP/1.1\r\n" HOST "\r\n", 404, NULL},
        {"GET / HTTP/1.1\r\n\r\n", 400, "Connection: close\r\n"},
        {"GET / HTTP/3.0\r\n" HOST "\r\n", 505, "\"error\":{\"message\""},
        {"nonsense\r\n\r\n", 400, "malformed_http"},
        // browsers: other hosts and other origins
        {"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, "host_not_allowed"},
        {"GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 403, NULL},
        {"GET / HTTP/1.1\r\nHost:\r\n\r\n", 403, NULL},
        {"GET http://evil.example/ HTTP/1.1\r\n" HOST "\r\n", 403, NULL},
        {"GET / HTTP/1.1\r\nHost: LOCALHOST:9\r\n\r\n", 200, NULL},
        {"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200, NULL},
        {"GET / HTTP/1.1\r\nHost: [::1]:5\r\n\r\n", 200, NULL},
        {"GET / HTTP/1.1\r\n" HOST "Origin: http://localhost:3000\r\n\r\n", 200, NULL},
        {"GET / HTTP/1.1\r\n" HOST "Origin: https://evil.example\r\n\r\n", 403, "origin_not_allowed"},
        {"GET / HTTP/1.1\r\n" HOST "Origin: null\r\n\r\n", 403, NULL},
    };
    gateway_fixture *f = *state;
    for (size_t i = 0; i < COUNT(cases); i++)
        expect(ask(f, cases[i].request), cases[i].status, cases[i].text);
}

static void health_follows_the_core(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    fixture_start(&f);
    expect(get(&f, "/api/v1/health"), 503, "\"status\":\"unavailable\"");
    expect(get(&f, "/api/v1/model-info"), 503, "Retry-After: ");
    expect(get(&f, "/v1/models"), 200, NULL);
    fake_status(false, 0, "no worker is up");
    fake_up();
    usleep(200000);
    expect(get(&f, "/api/v1/health"), 503, "\"status\":\"loading\",\"ready\":false,\"workers\":{\"up\":0");
    expect(get(&f, "/api/v1/health"), 503, "no worker is up");
    fake_status(true, 1, "");
    usleep(200000);
    expect(get(&f, "/api/v1/health"), 200, "\"status\":\"ok\"");
    expect(get(&f, "/api/v1/health"), 200, "\"reason\":null");
    fake_status(true, 1, "1 of 2 workers are connected");
    usleep(200000);
    expect(get(&f, "/api/v1/health"), 200, "\"status\":\"degraded\",\"ready\":true");
    expect(get(&f, "/api/v1/health"), 200, "\"reason\":\"1 of 2 workers are connected\"");
    fake_down("it crashed");
    usleep(100000);
    expect(get(&f, "/api/v1/health"), 503, "it crashed");
    expect(post(&f, "/api/v1/generate", "{\"prompt\":\"a\"}"), 503, "Retry-After: ");
    fixture_stop(&f);
}

static void a_silent_core_is_not_healthy(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    f.options.limits.stale_ms = 200;
    fake_up();
    fixture_start(&f);
    usleep(150000);
    expect(get(&f, "/api/v1/health"), 200, NULL);
    fake_mute_status(true);
    usleep(400000);
    expect(get(&f, "/api/v1/health"), 503, "does not answer");
    fixture_stop(&f);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    gateway_fixture *f = *state;
    client c = dial(f);
    fake_reply("xyz");
    tell(&c, "GET /v1/models HTTP/1.1\r\n" HOST "\r\n"
             "POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: 14\r\n\r\n{\"prompt\":\"a\"}"
             "GET /nothing HTTP/1.1\r\n" HOST "\r\n"
             "HEAD / HTTP/1.1\r\n" HOST "\r\n"
             "GET /api/v1/health HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"
             "GET /never HTTP/1.1\r\n" HOST "\r\n");
    expect(listen_to(&c, false), 200, "\"object\":\"list\"");
    expect(listen_to(&c, false), 200, "\"text\":\"xyz\"");
    expect(listen_to(&c, false), 404, "/nothing");
    expect(listen_to(&c, true), 200, "text/html");
    expect(listen_to(&c, false), 200, "Connection: close");
    assert_true(is_closed(&c));
    hang_up(&c);
}

static void pipelining_is_bounded(void **state)
{
    enum { REQUESTS = 4000 };
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = dial(f);
    char *generate = post_text("/api/v1/generate", "{\"prompt\":\"a\"}");
    tell(&c, generate);
    free(generate);
    const fake_ask *first = fake_wait_asks(1);
    assert_non_null(first);
    for (int i = 0; i < REQUESTS; i++)
        tell(&c, "GET /v1/models HTTP/1.1\r\n" HOST "\r\n"); // more than is read ahead
    fake_text(first->id, "q");
    fake_finish(first->id, TC_FINISH_STOP);
    expect(listen_to(&c, false), 200, "\"text\":\"q\"");
    for (int i = 0; i < REQUESTS; i++) expect(listen_to(&c, false), 200, "\"list\"");
    hang_up(&c);
}

static void requests_in_pieces(void **state)
{
    gateway_fixture *f = *state;
    client c = dial(f);
    char *text = post_text("/api/v1/generate", "{\"prompt\":\"a\"}");
    fake_reply("ok");
    for (size_t i = 0; text[i]; i++) {
        tell_bytes(&c, text + i, 1);
        if (i % 16 == 0) usleep(500);
    }
    expect(listen_to(&c, false), 200, "\"text\":\"ok\"");
    free(text);
    hang_up(&c);
}

static void expect_continue(void **state)
{
    gateway_fixture *f = *state;
    client c = dial(f);
    fake_reply("ok");
    tell(&c, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 14\r\n\r\n");
    answer a = listen_to(&c, true);
    assert_int_equal(a.status, 100);
    free(a.body);
    tell(&c, "{\"prompt\":\"a\"}");
    expect(listen_to(&c, false), 200, "\"text\":\"ok\"");
    tell(&c,
         "POST /api/v1/generate HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 8388609\r\n\r\n");
    expect(listen_to(&c, false), 413, "Connection: close"); // and not 100 first
    assert_true(is_closed(&c));
    hang_up(&c);
}

// The refusal can be read although the client was still sending: no reset destroys it.
static void early_refusals_can_be_read(void **state)
{
    gateway_fixture *f = *state;
    client c = dial(f);
    char *block = calloc(1, 1 << 20);
    tell(&c, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 9; i++) {
        tell(&c, "100000\r\n");
        tell_bytes(&c, block, 1 << 20);
        tell(&c, "\r\n");
    }
    expect(listen_to(&c, false), 413, "Connection: close");
    free(block);
    hang_up(&c);
}

static void largest_body(void **state)
{
    gateway_fixture *f = *state;
    for (int over = 0; over < 2; over++) {
        size_t bytes = TC_HTTP_BODY_BYTES_MAX + (size_t)over;
        char *body = malloc(bytes), head[200];
        memset(body, ' ', bytes);
        memcpy(body, "{\"prompt\":5}", 12);
        client c = dial(f);
        snprintf(head, sizeof head, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n",
                 bytes);
        tell(&c, head);
        tell_bytes(&c, body, bytes);
        expect(listen_to(&c, false), over ? 413 : 400, over ? "longer than" : "prompt must be");
        hang_up(&c);
        free(body);
    }
}

static void all_bodies_together_are_bounded(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    f.options.limits.bodies_bytes_max = 1000;
    fake_up();
    fixture_start(&f);
    client a = dial(&f), b = dial(&f);
    char block[700] = "";
    tell(&a, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: 800\r\n\r\n");
    tell_bytes(&a, block, sizeof block);
    usleep(100000);
    tell(&b, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: 301\r\n\r\n");
    tell_bytes(&b, block, 301);
    expect(listen_to(&b, false), 503, "too many large requests");
    hang_up(&a);
    hang_up(&b);
    usleep(100000);
    b = dial(&f); // what the first held is free again
    tell(&b, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: 700\r\n\r\n");
    tell_bytes(&b, block, 700);
    expect(listen_to(&b, false), 400, NULL);
    hang_up(&b);
    fixture_stop(&f);
}

static void deadlines(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    f.options.limits.header_ms = f.options.limits.body_ms = 200;
    f.options.limits.idle_ms = 300;
    f.options.limits.linger_ms = 200;
    fake_up();
    fixture_start(&f);
    client c = dial(&f);
    tell(&c, "GET / HTTP/1.1\r\n"); // no more of the head
    expect(listen_to(&c, false), 408, "Connection: close");
    assert_true(is_closed(&c));
    hang_up(&c);
    c = dial(&f);
    tell(&c, "POST /api/v1/generate HTTP/1.1\r\n" HOST "Content-Length: 5\r\n\r\nabc"); // no more of the body
    expect(listen_to(&c, false), 408, NULL);
    hang_up(&c);
    c = dial(&f);
    assert_true(is_closed(&c)); // never said anything
    hang_up(&c);
    c = dial(&f);
    tell(&c, "GET / HTTP/1.1\r\n" HOST "\r\n");
    expect(listen_to(&c, false), 200, NULL);
    assert_true(is_closed(&c)); // idle
    hang_up(&c);
    c = dial(&f);
    tell(&c, "GET / HTTP/1.1\r\n" HOST "X: ");
    for (int i = 0; i < 30; i++) { // a byte now and then does not move the deadline
        tell(&c, "a");
        usleep(20000);
    }
    expect(listen_to(&c, false), 408, NULL);
    hang_up(&c);
    fixture_stop(&f);
}

static void connections_are_bounded(void **state)
{
    enum { MAX = 3 };
    gateway_fixture f;
    client c[MAX + 1];
    (void)state;
    fixture_prepare(&f);
    f.options.limits.connections_max = MAX;
    fake_up();
    fixture_start(&f);
    for (int i = 0; i < MAX; i++) {
        c[i] = dial(&f);
        tell(&c[i], "GET / HTTP/1.1\r\n" HOST "\r\n");
        expect(listen_to(&c[i], false), 200, NULL);
    }
    c[MAX] = dial(&f);
    expect(listen_to(&c[MAX], false), 503, "too many connections");
    assert_true(is_closed(&c[MAX]));
    hang_up(&c[MAX]);
    hang_up(&c[0]);
    usleep(100000);
    c[0] = dial(&f); // room again
    tell(&c[0], "GET / HTTP/1.1\r\n" HOST "\r\n");
    expect(listen_to(&c[0], false), 200, NULL);
    for (int i = 0; i < MAX; i++) hang_up(&c[i]);
    fixture_stop(&f);
}

static void keys_are_asked_for(void **state)
{
    gateway_fixture f;
    tc_api_keys *keys = NULL;
    (void)state;
    assert_int_equal(tc_api_keys_parse("secret-one\nsecret-two", 21, "keys", &keys, NULL), TC_OK);
    fixture_prepare(&f);
    f.options.keys = keys;
    f.options.listen = "0.0.0.0:0";
    fake_up();
    fixture_start(&f);
    static const struct {
        const char *headers;
        int status;
    } cases[] = {
        {"", 401},
        {"Authorization: Bearer secret-one\r\n", 200},
        {"Authorization: bearer secret-two\r\n", 200},
        {"x-api-key: secret-one\r\n", 200},
        {"Authorization: Bearer secret-on\r\n", 401},
        {"Authorization: Bearer secret-onex\r\n", 401},
        {"Authorization: Bearer \r\n", 401},
        {"Authorization: Basic secret-one\r\n", 401},
        {"x-api-key: secret-one\r\nx-api-key: secret-one\r\n", 401},
        {"x-api-key:\r\n", 401},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char request[300];
        snprintf(request, sizeof request, "GET /v1/models HTTP/1.1\r\nHost: any.example\r\n%s\r\n",
                 cases[i].headers);
        expect(ask(&f, request), cases[i].status, cases[i].status == 401 ? "WWW-Authenticate: Bearer" : NULL);
    }
    expect(get(&f, "/nothing"), 401, NULL); // who has no key learns nothing
    answer health = get(&f, "/api/v1/health");
    assert_true(health.status == 200 || health.status == 503); // open to all
    free(health.body);
    char refused[] = "POST /api/v1/generate HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    expect(ask(&f, refused), 401, "Connection: close"); // before the body is read
    fixture_stop(&f);
    tc_api_keys_free(keys);
}

static void other_addresses(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    f.options.listen = "[::1]:0";
    fixture_start(&f);
    expect(get(&f, "/v1/models"), 200, NULL);
    fixture_stop(&f);

    char path[64], listen[80];
    struct stat info;
    snprintf(path, sizeof path, "/tmp/tc-gateway-test-%d.sock", (int)getpid());
    snprintf(listen, sizeof listen, "unix:%s", path);
    fixture_prepare(&f);
    f.options.listen = listen;
    fixture_start(&f);
    expect(ask(&f, "GET / HTTP/1.1\r\nHost: whatever\r\n\r\n"), 200,
           "Content-Security-Policy: default-src 'none';");
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    uv_loop_t loop;
    tc_gateway *second = NULL;
    tc_error e = {0};
    uv_loop_init(&loop);
    assert_int_equal(tc_gateway_open(&loop, &f.options, &second, &e), TC_BUSY); // it is in use
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    fixture_stop(&f);
    assert_int_not_equal(stat(path, &info), 0); // removed at the end
    assert_null(second);
}

static void bad_listen_addresses(void **state)
{
    static const char *const cases[] = {"0.0.0.0:0", "[::]:0", "example.org:80", "unix:/nonexistent-folder/x",
                                        "192.0.2.1:0"};
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    for (size_t i = 0; i < COUNT(cases); i++) {
        uv_loop_t loop;
        tc_gateway *gateway = NULL;
        tc_error e = {0};
        uv_loop_init(&loop);
        f.options.listen = cases[i];
        assert_int_not_equal(tc_gateway_open(&loop, &f.options, &gateway, &e), TC_OK);
        assert_true(*e.text);
        assert_null(gateway);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(&loop), 0);
    }
    tc_chat_template_free(f.chat_template);
    tc_tokenizer_free(f.tokenizer);
}

static void the_end_waits_for_answers(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    fake_up();
    fake_hold(true);
    fixture_start(&f);
    client idle = dial(&f), busy = dial(&f);
    tell(&idle, "GET / HTTP/1.1\r\n" HOST "\r\n");
    expect(listen_to(&idle, false), 200, NULL);
    for (int i = 0; i < 100; i++) { // the core's being up takes a moment to be heard
        answer a = get(&f, "/api/v1/health");
        free(a.body);
        if (a.status == 200) break;
        usleep(10000);
    }
    char *text = post_text("/api/v1/generate", "{\"prompt\":\"a\"}");
    tell(&busy, text);
    free(text);
    const fake_ask *asked = fake_wait_asks(1);
    assert_non_null(asked);
    fixture_drain(&f, 4000);
    assert_true(is_closed(&idle));
    fake_text(asked->id, "done");
    fake_finish(asked->id, TC_FINISH_STOP);
    expect(listen_to(&busy, false), 200, "\"text\":\"done\"");
    assert_true(is_closed(&busy));
    hang_up(&busy);
    hang_up(&idle);
    fixture_join(&f);
}

// Accepted just before the end: its request is under way, and is answered.
static void a_fresh_connection_is_not_dropped(void **state)
{
    gateway_fixture f;
    fixture_prepare(&f);
    fixture_start(&f);
    client fresh = dial(&f);
    answer a = get(&f, "/api/v1/health"); // by now the first one is accepted too
    free(a.body);
    fixture_drain(&f, 4000);
    usleep(300000);
    tell(&fresh, "GET /api/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n");
    a = listen_to(&fresh, false);
    assert_true(a.status == 404 || a.status == 200);
    assert_true(has(&a, "Connection: close"));
    free(a.body);
    hang_up(&fresh);
    fixture_join(&f);
    (void)state;
}

static void the_end_does_not_wait_for_ever(void **state)
{
    gateway_fixture *f = calloc(1, sizeof *f);
    assert_int_equal(setup_up(state), 0);
    free(f);
    f = *state;
    fake_hold(true);
    client c = dial(f);
    char *text = post_text("/api/v1/generate", "{\"prompt\":\"a\"}");
    tell(&c, text);
    free(text);
    const fake_ask *asked = fake_wait_asks(1);
    assert_non_null(asked);
    fixture_drain(f, 100);
    expect(listen_to(&c, false), 503, "the server is stopping"); // it is told, and then closed
    assert_true(is_closed(&c));
    assert_true(fake_wait_cancel(asked->id));
    fixture_join(f);
    hang_up(&c);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(routes, setup_up, teardown),
        cmocka_unit_test(health_follows_the_core),
        cmocka_unit_test(a_fresh_connection_is_not_dropped),
        cmocka_unit_test(a_silent_core_is_not_healthy),
        cmocka_unit_test_setup_teardown(pipelined_requests_are_answered_in_order, setup_up, teardown),
        cmocka_unit_test_setup_teardown(pipelining_is_bounded, setup_up, teardown),
        cmocka_unit_test_setup_teardown(requests_in_pieces, setup_up, teardown),
        cmocka_unit_test_setup_teardown(expect_continue, setup_up, teardown),
        cmocka_unit_test_setup_teardown(early_refusals_can_be_read, setup_up, teardown),
        cmocka_unit_test_setup_teardown(largest_body, setup_up, teardown),
        cmocka_unit_test(all_bodies_together_are_bounded),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(connections_are_bounded),
        cmocka_unit_test(keys_are_asked_for),
        cmocka_unit_test(other_addresses),
        cmocka_unit_test(bad_listen_addresses),
        cmocka_unit_test(the_end_waits_for_answers),
        cmocka_unit_test(the_end_does_not_wait_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
