// SPDX-License-Identifier: Apache-2.0
// Owns: tests of what protects the gateway and its users from each other: bounds of the queue and of a key's
// part of it, connections of one address, slow readers, choices as one request, priorities, deadlines, other
// origins and hosts, and sockets handed over by a service manager.
#include "tests/unit/gateway/fixture.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))
#define HOST "Host: localhost\r\n"

static void expect(answer a, int status, const char *text)
{
    if (a.status != status || !a.complete || (text && !has(&a, text)))
        fail_msg("%d, expected %d with '%s': %s%s", a.status, status, text ? text : "", a.head, a.body);
    free(a.body);
}

static void wait_ready(gateway_fixture *f)
{
    for (int i = 0; i < 100; i++) {
        answer a = get(f, "/api/v1/health");
        free(a.body);
        if (a.status == 200) return;
        usleep(10000);
    }
    fail_msg("the gateway is not ready");
}

static client send_post(gateway_fixture *f, const char *path, const char *body)
{
    client c = dial(f);
    char *text = post_text(path, body);
    tell(&c, text);
    free(text);
    return c;
}

// A post with further header lines.
static client send_with(gateway_fixture *f, const char *headers, const char *body)
{
    client c = dial(f);
    char text[1024];
    snprintf(text, sizeof text, "POST /api/v1/generate HTTP/1.1\r\n" HOST "%sContent-Length: %zu\r\n\r\n%s",
             headers, strlen(body), body);
    tell(&c, text);
    return c;
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

// ---- overload ----

static void a_full_queue_refuses_at_once(void **state)
{
    enum { MAX = 4 };
    gateway_fixture f;
    client c[MAX];
    (void)state;
    fixture_prepare(&f);
    fake_queue(MAX, 1000);
    fake_hold(true); // nothing ever ends: a core in a long step
    fake_up();
    fixture_start(&f);
    wait_ready(&f);
    for (int i = 0; i < MAX; i++) c[i] = send_post(&f, "/api/v1/generate", "{\"prompt\":\"a\"}");
    assert_non_null(fake_wait_asks(MAX));
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        uint64_t start = now_us();
        expect(post(&f, "/api/v1/generate", "{\"prompt\":\"a\"}"), 503, "Retry-After: ");
        uint64_t took = now_us() - start;
        if (took < best) best = took;
    }
    assert_true(best < 10000);
    assert_int_equal(fake_asks(), MAX); // the core heard nothing of them
    fake_finish(fake_ask_at(0)->id, TC_FINISH_STOP);
    expect(listen_to(&c[0], false), 200, NULL);
    hang_up(&c[0]);
    c[0] = send_post(&f, "/api/v1/generate", "{\"prompt\":\"a\"}"); // room again
    assert_non_null(fake_wait_asks(MAX + 1));
    for (int i = 0; i < MAX; i++) hang_up(&c[i]);
    fixture_stop(&f);
}

static void prompt_tokens_are_bounded(void **state)
{
    gateway_fixture f;
    char body[400];
    (void)state;
    fixture_prepare(&f);
    fake_queue(100, 200);
    fake_hold(true);
    fake_up();
    fixture_start(&f);
    wait_ready(&f);
    snprintf(body, sizeof body, "{\"prompt\":\"%0*d\"}", 150, 0);
    client first = send_post(&f, "/api/v1/generate", body);
    assert_non_null(fake_wait_asks(1));
    snprintf(body, sizeof body, "{\"prompt\":\"%0*d\"}", 51, 0);
    expect(post(&f, "/api/v1/generate", body), 503, "overloaded");
    snprintf(body, sizeof body, "{\"prompt\":\"%0*d\"}", 50, 0); // exactly what is left
    client second = send_post(&f, "/api/v1/generate", body);
    assert_non_null(fake_wait_asks(2));
    hang_up(&first);
    hang_up(&second);
    fixture_stop(&f);
}

static void one_key_cannot_fill_the_queue(void **state)
{
    enum { MAX = 6 };
    gateway_fixture f;
    client c[MAX];
    tc_api_keys *keys = NULL;
    (void)state;
    assert_int_equal(tc_api_keys_parse("first-key\nsecond-key priority=3", 31, "keys", &keys, NULL), TC_OK);
    fixture_prepare(&f);
    f.options.keys = keys;
    fake_queue(MAX, 1000);
    fake_hold(true);
    fake_up();
    fixture_start(&f);
    wait_ready(&f);
    uint32_t asked = 0;
    for (; asked < MAX / 2; asked++)
        c[asked] = send_with(&f, "x-api-key: first-key\r\n", "{\"prompt\":\"a\",\"priority\":9}");
    assert_non_null(fake_wait_asks(asked));
    client refused = send_with(&f, "x-api-key: first-key\r\n", "{\"prompt\":\"a\"}");
    answer a = listen_to(&refused, false);
    assert_non_null(strstr(a.head, "Retry-After: "));
    expect(a, 429, "rate_limit_exceeded");
    hang_up(&refused);
    for (; asked < MAX; asked++)
        c[asked] = send_with(&f, "x-api-key: second-key\r\n", "{\"prompt\":\"a\",\"priority\":9}");
    assert_non_null(fake_wait_asks(MAX));
    const fake_ask *mine = fake_ask_at(0), *other = fake_ask_at(MAX - 1);
    assert_true(mine->generate.scope && other->generate.scope); // caches and turns are by key
    assert_true(mine->generate.scope != other->generate.scope);
    assert_int_equal(mine->generate.priority, 0); // what a key may ask for is in the key file
    assert_int_equal(other->generate.priority, 3);
    for (int i = 0; i < MAX; i++) hang_up(&c[i]);
    fixture_stop(&f);
    tc_api_keys_free(keys);
}

static void connections_of_one_address_are_bounded(void **state)
{
    enum { MAX = 3 };
    gateway_fixture f;
    client c[MAX + 1];
    (void)state;
    fixture_prepare(&f);
    f.options.limits.peer_connections_max = MAX;
    f.options.limits.count_local_peers = true;
    fake_up();
    fixture_start(&f);
    for (int i = 0; i < MAX; i++) {
        c[i] = dial(&f);
        tell(&c[i], "GET / HTTP/1.1\r\n" HOST "\r\n");
        expect(listen_to(&c[i], false), 200, NULL);
    }
    c[MAX] = dial(&f);
    answer a = listen_to(&c[MAX], false);
    assert_non_null(strstr(a.head, "Retry-After: "));
    expect(a, 429, "too_many_connections");
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

// ---- slow readers ----

static void slow_readers_are_held_back(void **state)
{
    gateway_fixture f;
    static char block[60000];
    (void)state;
    fixture_prepare(&f);
    fake_hold(true);
    fake_up();
    fixture_start(&f);
    wait_ready(&f);
    client c = send_post(&f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true,\"max_tokens\":1000000}");
    const fake_ask *ask = fake_wait_asks(1);
    assert_non_null(ask);
    memset(block, 'x', sizeof block);
    size_t sent = 0;
    for (int i = 0; i < 400 && !ask->held; i++) { // until the kernel's buffers are full, and then ours
        fake_bytes(ask->id, block, 1000);
        sent += 1000;
        usleep(1000);
    }
    assert_true(fake_wait_held(ask->id, true));
    assert_false(ask->cancelled);
    wait_body(&c, "\r\n\r\n"); // the client wakes up: it misses nothing, and the sequence goes on
    size_t seen = 0, at = (size_t)(strstr(c.data, "\r\n\r\n") - c.data);
    while (seen < sent) {
        for (; at < c.count; at++) seen += c.data[at] == 'x';
        if (seen < sent) assert_true(more(&c));
    }
    assert_int_equal(seen, sent);
    assert_true(fake_wait_held(ask->id, false));
    fake_finish(ask->id, TC_FINISH_STOP);
    wait_body(&c, "\"done\":true");
    hang_up(&c);
    fixture_stop(&f);
}

static void held_for_too_long(uint32_t held_ms, uint32_t held_busy_ms, uint32_t waiting)
{
    gateway_fixture f;
    char block[1000];
    fixture_prepare(&f);
    f.options.limits.held_ms = held_ms;
    f.options.limits.held_busy_ms = held_busy_ms;
    fake_hold(true);
    fake_up();
    fake_waiting(waiting);
    fixture_start(&f);
    wait_ready(&f);
    client c = send_post(&f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true,\"max_tokens\":1000000}");
    const fake_ask *ask = fake_wait_asks(1);
    assert_non_null(ask);
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 400 && !ask->held; i++) {
        fake_bytes(ask->id, block, sizeof block);
        usleep(1000);
    }
    assert_true(fake_wait_held(ask->id, true));
    for (int i = 0; i < 100 && !ask->cancelled; i++) { // a byte now and then is no reading
        char byte;
        if (recv(c.fd, &byte, 1, MSG_DONTWAIT) < 0) break;
        usleep(10000);
    }
    assert_true(fake_wait_cancel(ask->id));
    hang_up(&c);
    fixture_stop(&f);
}

static void held_readers_are_closed_in_the_end(void **state)
{
    (void)state;
    held_for_too_long(300, 60000, 0);
}

// Others want the place: much sooner.
static void held_readers_make_room(void **state)
{
    (void)state;
    held_for_too_long(60000, 300, 1);
}

// ---- choices, priorities, deadlines ----

static void choices_are_one_request(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = send_post(f, "/v1/completions", "{\"prompt\":\"ab\",\"n\":3,\"seed\":7,\"max_tokens\":5}");
    assert_non_null(fake_wait_asks(3));
    for (uint32_t i = 0; i < 3; i++) {
        const fake_ask *ask = fake_ask_at(i);
        assert_int_equal(ask->choice, i); // of the same message
        assert_int_equal(ask->generate.more_count, 2);
        assert_int_equal(ask->generate.sampling.seed, 7 + i);
        fake_text(ask->id, i == 0 ? "x" : i == 1 ? "y" : "z");
        fake_finish(ask->id, TC_FINISH_STOP);
    }
    answer a = listen_to(&c, false);
    assert_non_null(strstr(a.body, "{\"index\":2,\"text\":\"z\""));
    expect(a, 200, "{\"index\":0,\"text\":\"x\"");
    hang_up(&c);
    c = send_post(f, "/v1/completions", "{\"prompt\":\"ab\",\"n\":4,\"max_tokens\":5}");
    assert_non_null(fake_wait_asks(7));
    hang_up(&c); // all of them end
    for (uint32_t i = 3; i < 7; i++) assert_true(fake_wait_cancel(fake_ask_at(i)->id));
}

static void a_refused_prompt_frees_its_choices(void **state)
{
    gateway_fixture *f = *state;
    for (int i = 0; i < 3; i++) {
        fake_busy(true);
        expect(post(f, "/v1/completions", "{\"prompt\":\"ab\",\"n\":16}"), 503, "Retry-After: ");
        fake_busy(false);
        fake_reply("k");
        expect(post(f, "/v1/completions", "{\"prompt\":\"ab\",\"n\":2}"), 200, "\"index\":1");
    }
}

static void priorities_and_deadlines(void **state)
{
    static const struct {
        const char *body;
        int status;
        const char *text;
    } cases[] = {
        {"{\"prompt\":\"a\",\"priority\":10,\"deadline_ms\":86400000}", 200, NULL},
        {"{\"prompt\":\"a\",\"priority\":-10,\"deadline_ms\":1}", 200, NULL},
        {"{\"prompt\":\"a\",\"priority\":11}", 400, "\"param\":\"priority\""},
        {"{\"prompt\":\"a\",\"priority\":-11}", 400, "\"param\":\"priority\""},
        {"{\"prompt\":\"a\",\"priority\":18446744073709551615}", 400, "\"param\":\"priority\""},
        {"{\"prompt\":\"a\",\"priority\":\"high\"}", 400, "invalid_type"},
        {"{\"prompt\":\"a\",\"deadline_ms\":0}", 400, "\"param\":\"deadline_ms\""},
        {"{\"prompt\":\"a\",\"deadline_ms\":86400001}", 400, "\"param\":\"deadline_ms\""},
    };
    gateway_fixture *f = *state;
    fake_reply("k");
    for (size_t i = 0; i < COUNT(cases); i++)
        expect(post(f, "/api/v1/generate", cases[i].body), cases[i].status, cases[i].text);
    assert_int_equal(fake_ask_at(0)->generate.priority, 10); // without keys everyone is trusted
    assert_int_equal(fake_ask_at(0)->generate.deadline_us, 86400000000u);
    assert_int_equal(fake_ask_at(1)->generate.priority, -10);
    fake_hold(true);
    client c = send_post(f, "/api/v1/generate", "{\"prompt\":\"a\",\"deadline_ms\":50}");
    assert_non_null(fake_wait_asks(3));
    fake_fail(fake_ask_at(2)->id, TC_TIMEOUT, "the deadline of this request has passed");
    expect(listen_to(&c, false), 504, "deadline_exceeded");
    hang_up(&c);
}

// ---- other origins and hosts ----

static void other_origins_are_told_nothing(void **state)
{
    gateway_fixture *f = *state;
    answer a = ask(f, "GET /v1/models HTTP/1.1\r\n" HOST "Origin: http://localhost\r\n\r\n");
    assert_null(strstr(a.head, "Access-Control"));
    expect(a, 200, NULL);
    expect(ask(f, "OPTIONS /v1/models HTTP/1.1\r\n" HOST
                  "Origin: https://page.example\r\nAccess-Control-Request-Method: GET\r\n\r\n"),
           403, "origin_not_allowed");
}

static void named_origins_may_read(void **state)
{
    gateway_fixture f;
    tc_api_keys *keys = NULL;
    (void)state;
    assert_int_equal(tc_api_keys_parse("first-key", 9, "keys", &keys, NULL), TC_OK);
    for (int with_keys = 0; with_keys < 2; with_keys++) {
        fixture_prepare(&f);
        f.options.keys = with_keys ? keys : NULL;
        f.options.web.origins[f.options.web.origin_count++] = "https://page.example";
        f.options.web.hosts[f.options.web.host_count++] = "box.example";
        fake_up();
        fixture_start(&f);
        const char *key = with_keys ? "x-api-key: first-key\r\n" : "";
        char text[400];
        answer a = ask(&f, "OPTIONS /api/v1/generate HTTP/1.1\r\n" HOST
                           "Origin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n"
                           "Connection: close\r\n\r\n");
        assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: https://page.example\r\n"));
        assert_non_null(strstr(a.head, "Access-Control-Allow-Headers: Authorization"));
        assert_null(strstr(a.head, "Content-Length"));
        assert_int_equal(a.status, 204);
        free(a.body);
        snprintf(text, sizeof text, "GET /v1/models HTTP/1.1\r\nHost: box.example:80\r\n%sOrigin: %s\r\n\r\n",
                 key, "https://page.example");
        a = ask(&f, text);
        assert_non_null(strstr(a.head, "Access-Control-Allow-Origin: https://page.example\r\n"));
        assert_non_null(strstr(a.head, "Vary: Origin\r\n"));
        expect(a, 200, NULL);
        snprintf(text, sizeof text, "GET /v1/models HTTP/1.1\r\n" HOST "%sOrigin: %s\r\n\r\n", key,
                 "https://evil.example");
        a = ask(&f, text);
        assert_null(strstr(a.head, "Access-Control-Allow-Origin"));
        expect(a, with_keys ? 200 : 403, NULL); // who has the key need not be a page
        expect(ask(&f, "OPTIONS /api/v1/generate HTTP/1.1\r\n" HOST
                       "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"),
               with_keys ? 401 : 403, NULL);
        snprintf(text, sizeof text, "GET /v1/models HTTP/1.1\r\nHost: other.example\r\n%s\r\n", key);
        expect(ask(&f, text), with_keys ? 200 : 403, NULL);
        fixture_stop(&f);
    }
    tc_api_keys_free(keys);
}

// ---- sockets handed over ----

static int bound_socket(const char *address, bool listening, int *ret_port)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t bytes = sizeof in;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, address, &in.sin_addr);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
    if (listening) assert_int_equal(listen(fd, 16), 0);
    getsockname(fd, (struct sockaddr *)&in, &bytes);
    *ret_port = ntohs(in.sin_port);
    return fd;
}

static void place(int fd, int at)
{
    assert_int_equal(dup2(fd, at), at);
    close(fd);
}

static void sockets_handed_over(void **state)
{
    enum { FIRST = 200 };
    gateway_fixture f;
    int port;
    char path[64];
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    (void)state;
    fixture_prepare(&f);
    place(bound_socket("127.0.0.1", true, &port), FIRST);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(path, sizeof path, "/tmp/tc-gateway-handed-%d.sock", (int)getpid());
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    assert_int_equal(listen(fd, 16), 0);
    place(fd, FIRST + 1);
    f.options.listen = "256.0.0.0:0"; // not looked at
    f.options.sockets_first = FIRST;
    f.options.sockets_count = 2;
    fixture_start(&f);
    assert_int_equal(f.port, port);
    expect(get(&f, "/v1/models"), 200, NULL);
    client c = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
    assert_int_equal(connect(c.fd, (struct sockaddr *)&un, sizeof un), 0);
    tell(&c, "GET /v1/models HTTP/1.1\r\nHost: whatever\r\n\r\n");
    expect(listen_to(&c, false), 200, NULL);
    hang_up(&c);
    fixture_stop(&f);
    unlink(path);
}

static void bad_sockets_handed_over(void **state)
{
    enum { AT = 200 };
    (void)state;
    for (int i = 0; i < 4; i++) {
        gateway_fixture f;
        int port, null = open("/dev/null", O_RDONLY);
        uv_loop_t loop;
        tc_gateway *gateway = NULL;
        tc_error e = {0};
        fixture_prepare(&f);
        if (i == 0) place(bound_socket("127.0.0.1", false, &port), AT); // nobody listens
        if (i == 1) place(bound_socket("0.0.0.0", true, &port), AT);    // all may come, and there is no key
        if (i == 2) place(dup(null), AT);                               // no socket
        f.options.sockets_first = AT;
        f.options.sockets_count = i == 3 ? TC_LISTENERS_MAX + 1 : 1;
        uv_loop_init(&loop);
        assert_int_not_equal(tc_gateway_open(&loop, &f.options, &gateway, &e), TC_OK);
        assert_true(*e.text);
        uv_run(&loop, UV_RUN_DEFAULT);
        assert_int_equal(uv_loop_close(&loop), 0);
        tc_chat_template_free(f.chat_template);
        tc_tokenizer_free(f.tokenizer);
        if (i < 3) close(AT);
        close(null);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_queue_refuses_at_once),
        cmocka_unit_test(prompt_tokens_are_bounded),
        cmocka_unit_test(one_key_cannot_fill_the_queue),
        cmocka_unit_test(connections_of_one_address_are_bounded),
        cmocka_unit_test(slow_readers_are_held_back),
        cmocka_unit_test(held_readers_are_closed_in_the_end),
        cmocka_unit_test(held_readers_make_room),
        cmocka_unit_test_setup_teardown(choices_are_one_request, setup_up, teardown),
        cmocka_unit_test_setup_teardown(a_refused_prompt_frees_its_choices, setup_up, teardown),
        cmocka_unit_test_setup_teardown(priorities_and_deadlines, setup_up, teardown),
        cmocka_unit_test_setup_teardown(other_origins_are_told_nothing, setup_up, teardown),
        cmocka_unit_test(named_origins_may_read),
        cmocka_unit_test(sockets_handed_over),
        cmocka_unit_test(bad_sockets_handed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
