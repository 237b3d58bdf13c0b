// SPDX-License-Identifier: Apache-2.0
// Owns: tests of generations end to end against the fake core: shapes, streams, stops, errors, hang-ups.
#include "tests/unit/gateway/fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))

static yyjson_doc *json_of(answer a, int status)
{
    if (a.status != status || !a.complete)
        fail_msg("%d, expected %d: %s%s", a.status, status, a.head, a.body);
    yyjson_doc *doc = yyjson_read(a.body, a.bytes, 0);
    if (!doc) fail_msg("not JSON: %s", a.body);
    free(a.body);
    return doc;
}

static yyjson_val *at(yyjson_doc *doc, const char *pointer)
{
    yyjson_val *value = yyjson_doc_ptr_get(doc, pointer);
    if (!value) fail_msg("%s is missing in %s", pointer, yyjson_write(doc, 0, NULL));
    return value;
}

static void text_is(yyjson_doc *doc, const char *pointer, const char *text)
{
    assert_string_equal(yyjson_get_str(at(doc, pointer)), text);
}

static void number_is(yyjson_doc *doc, const char *pointer, uint64_t number)
{
    assert_true(yyjson_get_uint(at(doc, pointer)) == number);
}

static void body_is(answer a, int status, const char *body)
{
    if (a.status != status || !a.complete || strcmp(a.body, body) != 0)
        fail_msg("%d, expected %d\n%s\n%s", a.status, status, a.body, body);
    free(a.body);
}

static client start(const gateway_fixture *f, const char *path, const char *body)
{
    client c = dial(f);
    char *text = post_text(path, body);
    tell(&c, text);
    free(text);
    return c;
}

static void generate_answers(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("h\xc3\xa9llo \"x\"\n");
    yyjson_doc *doc =
        json_of(post(f, "/api/v1/generate", "{\"prompt\":\"abc\",\"seed\":7,\"stop\":\"ZZ\"}"), 200);
    text_is(doc, "/text", "h\xc3\xa9llo \"x\"\n");
    number_is(doc, "/tokens_generated", 11);
    number_is(doc, "/prompt_tokens", 3);
    text_is(doc, "/finish_reason", "stop");
    number_is(doc, "/expert_cache_hits", 7);
    number_is(doc, "/expert_cache_misses", 5);
    assert_true(yyjson_get_num(at(doc, "/generation_time")) > 0);
    assert_true(yyjson_get_num(at(doc, "/tokens_per_second")) > 0);
    yyjson_doc_free(doc);
    const fake_ask *a = fake_ask_at(0);
    assert_int_equal(a->generate.prompt_count, 3);
    assert_int_equal(a->generate.prompt[2], 'c');
    assert_int_equal(a->generate.max_tokens, 256);
    assert_true(a->generate.sampling.seeded && a->generate.sampling.seed == 7);
    assert_float_equal(a->generate.sampling.temperature, 0.7, 1e-6);
    assert_int_equal(a->generate.sampling.top_k, 20);
    assert_true(a->generate.optimize_experts);

    doc = json_of(
        post(f, "/api/v1/generate", "{\"prompt\":\"abc\",\"max_tokens\":3,\"optimize_experts\":false}"), 200);
    text_is(doc, "/text", "h\xc3\xa9");
    text_is(doc, "/finish_reason", "length");
    number_is(doc, "/tokens_generated", 3);
    yyjson_doc_free(doc);
    assert_false(fake_ask_at(1)->generate.optimize_experts);
}

static void special_tokens_of_a_prompt_are_meant(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("x");
    free(post(f, "/api/v1/generate", "{\"prompt\":\"a<|end|>b\"}").body);
    assert_int_equal(fake_ask_at(0)->generate.prompt_count, 3);
    assert_int_equal(fake_ask_at(0)->generate.prompt[1], 256);
}

static void generate_streams(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = start(f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true}");
    const fake_ask *a = fake_wait_asks(1);
    assert_non_null(a);
    fake_text(a->id, "A");
    wait_body(&c, "{\"token\":\"A\"}\n"); // while it is still running
    fake_text(a->id, "\xe2\x82");         // two thirds of a character stay back
    fake_text(a->id, "\xac");
    wait_body(&c, "{\"token\":\"\xe2\x82\xac\"}\n");
    fake_finish(a->id, TC_FINISH_STOP);
    answer got = listen_to(&c, false);
    assert_int_equal(got.status, 200);
    assert_true(got.complete);
    assert_true(has(&got, "Content-Type: application/x-ndjson\r\n"));
    static const char lines[] =
        "{\"token\":\"A\"}\n{\"token\":\"\xe2\x82\xac\"}\n{\"done\":true,\"tokens_generated\":4,";
    assert_memory_equal(got.body, lines, sizeof lines - 1);
    assert_true(has(&got, "\"finish_reason\":\"stop\""));
    assert_int_equal(got.body[got.bytes - 1], '\n');
    free(got.body);
    char *again =
        post_text("/api/v1/generate", "{\"prompt\":\"b\",\"stream\":true}"); // the connection lives on
    tell(&c, again);
    free(again);
    a = fake_wait_asks(2);
    assert_non_null(a);
    fake_text(a->id, "\xe2"); // never finished: shown as U+FFFD
    fake_finish(a->id, TC_FINISH_LENGTH);
    got = listen_to(&c, false);
    assert_true(has(&got, "{\"token\":\"\xef\xbf\xbd\"}\n"));
    assert_true(has(&got, "\"finish_reason\":\"length\""));
    free(got.body);
    hang_up(&c);
}

static void an_empty_stream_still_has_its_end(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("");
    answer a = post(f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true}");
    assert_true(a.complete && strncmp(a.body, "{\"done\":true,\"tokens_generated\":0,", 33) == 0);
    free(a.body);
}

static void http_1_0_streams_end_by_closing(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("hi");
    answer a = ask(f, "POST /api/v1/generate HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 28\r\n\r\n"
                      "{\"prompt\":\"a\",\"stream\":true}");
    assert_int_equal(a.status, 200);
    assert_true(a.complete);
    assert_true(has(&a, "Connection: close"));
    assert_null(strstr(a.head, "chunked"));
    assert_memory_equal(a.body, "{\"token\":", 9);
    free(a.body);
}

static void stop_strings(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = start(f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true,\"stop\":[\"END\",\"##\"]}");
    const fake_ask *a = fake_wait_asks(1);
    assert_non_null(a);
    fake_text(a->id, "oneEN");
    wait_body(&c, "e");
    fake_text(a->id, "Dtwo"); // the core may be a step ahead
    assert_true(fake_wait_cancel(a->id));
    answer got = listen_to(&c, false);
    assert_true(got.complete);
    assert_false(has(&got, "E\"")); // nothing of the stop string came out
    assert_false(has(&got, "two"));
    assert_true(has(&got, "\"finish_reason\":\"stop\""));
    assert_true(has(&got, "\"tokens_generated\":6,"));
    free(got.body);
    hang_up(&c);
    fake_hold(false);
    fake_reply("abc##def");
    yyjson_doc *doc = json_of(post(f, "/v1/completions", "{\"prompt\":\"a\",\"stop\":\"##\"}"), 200);
    text_is(doc, "/choices/0/text", "abc");
    text_is(doc, "/choices/0/finish_reason", "stop");
    number_is(doc, "/usage/completion_tokens", 5);
    yyjson_doc_free(doc);
}

static void batches(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = start(f, "/api/v1/generate/batch", "{\"prompts\":[\"a\",\"bb\",\"ccc\"],\"max_tokens\":9}");
    assert_non_null(fake_wait_asks(3)); // all at once
    for (int i = 2; i >= 0; i--) {
        char text[2] = {(char)('0' + i), 0};
        fake_text(fake_ask_at((uint32_t)i)->id, text);
        if (i == 1)
            fake_fail(fake_ask_at(1)->id, TC_BUDGET, "no room for it");
        else
            fake_finish(fake_ask_at((uint32_t)i)->id, TC_FINISH_STOP);
    }
    yyjson_doc *doc = json_of(listen_to(&c, false), 200);
    text_is(doc, "/results/0/text", "0");
    text_is(doc, "/results/1/error/message", "no room for it");
    text_is(doc, "/results/2/text", "2");
    number_is(doc, "/results/2/prompt_tokens", 3);
    number_is(doc, "/tokens_generated", 2);
    number_is(doc, "/prompt_tokens", 4);
    number_is(doc, "/failed", 1);
    yyjson_doc_free(doc);
    hang_up(&c);
}

static void completions_answer(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("xyz");
    yyjson_doc *doc = json_of(
        post(f, "/v1/completions", "{\"model\":\"org/tiny\",\"prompt\":\"ab\",\"max_tokens\":2}"), 200);
    assert_memory_equal(yyjson_get_str(at(doc, "/id")), "cmpl-", 5);
    text_is(doc, "/object", "text_completion");
    text_is(doc, "/model", "org/tiny");
    assert_true(yyjson_get_uint(at(doc, "/created")) > 1600000000);
    text_is(doc, "/choices/0/text", "xy");
    text_is(doc, "/choices/0/finish_reason", "length");
    number_is(doc, "/usage/prompt_tokens", 2);
    number_is(doc, "/usage/completion_tokens", 2);
    number_is(doc, "/usage/total_tokens", 4);
    yyjson_doc_free(doc);

    doc = json_of(post(f, "/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"n\":2,\"seed\":10,\"echo\":true}"),
                  200);
    text_is(doc, "/choices/0/text", "axyz");
    text_is(doc, "/choices/3/text", "bxyz");
    number_is(doc, "/choices/3/index", 3);
    number_is(doc, "/usage/prompt_tokens", 2);
    number_is(doc, "/usage/completion_tokens", 12);
    yyjson_doc_free(doc);
    for (uint32_t i = 1; i < 5; i++) { // asks 1..4: two prompts, seeds 10 and 11 each
        assert_int_equal(fake_ask_at(i)->generate.prompt[0], i < 3 ? 'a' : 'b');
        assert_true(fake_ask_at(i)->generate.sampling.seed == 10 + (i - 1) % 2);
    }
    doc = json_of(post(f, "/v1/completions", "{\"prompt\":[[72,105],[33]],\"echo\":true,\"max_tokens\":0}"),
                  200);
    text_is(doc, "/choices/0/text", "Hi");
    text_is(doc, "/choices/1/text", "!");
    text_is(doc, "/choices/1/finish_reason", "length");
    yyjson_doc_free(doc);
}

// Ids and times differ from run to run: they become "cmpl-" and 0.
static char *normal(char *text)
{
    for (char *at_id = text; (at_id = strstr(at_id, "cmpl-")); at_id += 5)
        memmove(at_id + 5, at_id + 29, strlen(at_id + 29) + 1);
    for (char *at_time = text; (at_time = strstr(at_time, "\"created\":")); at_time += 10)
        memmove(at_time + 10, at_time + 20, strlen(at_time + 20) + 1);
    return text;
}

static void completions_stream(void **state)
{
    gateway_fixture *f = *state;
    fake_reply("hi");
    answer a =
        post(f, "/v1/completions",
             "{\"prompt\":\"Q\",\"echo\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_true(has(&a, "Content-Type: text/event-stream\r\n"));
    normal(a.body);
#define EVENT(choices, usage)                                                                                \
    "data: "                                                                                                 \
    "{\"id\":\"cmpl-\",\"object\":\"text_completion\",\"created\":,\"model\":\"org/"                         \
    "tiny\",\"choices\":[" choices "]" usage "}\n\n"
#define CHOICE(text, finish)                                                                                 \
    "{\"index\":0,\"text\":\"" text "\",\"logprobs\":null,\"finish_reason\":" finish "}"
#define LAST(finish) CHOICE("", finish ",\"stop_reason\":null")
    body_is(a, 200,
            EVENT(CHOICE("Q", "null"), ",\"usage\":null") EVENT(CHOICE("h", "null"), ",\"usage\":null")
                EVENT(CHOICE("i", "null"), ",\"usage\":null") EVENT(LAST("\"stop\""), ",\"usage\":null")
                    EVENT("", ",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":"
                              "3,\"prompt_tokens_details\":{\"cached_tokens\":0},\"completion_tokens_"
                              "details\":{\"reasoning_tokens\":"
                              "0}}") "data: [DONE]\n\n");
    a = post(f, "/v1/completions", "{\"prompt\":\"Q\",\"stream\":true,\"max_tokens\":1}");
    normal(a.body);
    body_is(a, 200, EVENT(CHOICE("h", "null"), "") EVENT(LAST("\"length\""), "") "data: [DONE]\n\n");
}

static void errors_before_the_first_token(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = start(f, "/v1/completions", "{\"prompt\":\"a\",\"stream\":true}");
    const fake_ask *a = fake_wait_asks(1);
    assert_non_null(a);
    fake_fail(a->id, TC_BUDGET, "does not fit");
    answer got = listen_to(&c, false); // a status, as nothing was said yet
    assert_int_equal(got.status, 400);
    assert_true(has(&got, "does not fit"));
    free(got.body);
    hang_up(&c);
    c = start(f, "/api/v1/generate", "{\"prompt\":\"a\"}");
    a = fake_wait_asks(2);
    assert_non_null(a);
    fake_fail(a->id, TC_INTERNAL, "broken");
    got = listen_to(&c, false);
    assert_int_equal(got.status, 500);
    free(got.body);
    hang_up(&c);
    fake_busy(true);
    got = post(f, "/api/v1/generate", "{\"prompt\":\"a\"}");
    assert_int_equal(got.status, 503);
    assert_true(has(&got, "Retry-After: "));
    free(got.body);
    fake_busy(false);
}

static void the_core_goes_down_in_mid_stream(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client lines = start(f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true}");
    assert_non_null(fake_wait_asks(1));
    client events = start(f, "/v1/completions", "{\"prompt\":\"a\",\"stream\":true}");
    assert_non_null(fake_wait_asks(2));
    client waiting = start(f, "/api/v1/generate", "{\"prompt\":\"a\"}");
    assert_non_null(fake_wait_asks(3));
    fake_text(fake_ask_at(0)->id, "A");
    fake_text(fake_ask_at(1)->id, "A");
    wait_body(&lines, "\"A\"");
    wait_body(&events, "\"A\"");
    fake_down("killed");
    answer a = listen_to(&lines, false);
    assert_true(a.complete);
    static const char expected[] = "{\"token\":\"A\"}\n{\"error\":{\"message\":\"the core went away";
    assert_memory_equal(a.body, expected, sizeof expected - 1);
    assert_false(has(&a, "done"));
    free(a.body);
    a = listen_to(&events, false);
    assert_true(a.complete);
    assert_true(has(&a, "\n\ndata: {\"error\":{\"message\":\"the core went away"));
    assert_false(has(&a, "[DONE]"));
    free(a.body);
    a = listen_to(&waiting, false);
    assert_int_equal(a.status, 503);
    assert_true(has(&a, "Retry-After: "));
    free(a.body);
    fake_up(); // and all is well again
    fake_hold(false);
    fake_reply("back");
    for (int i = 0; i < 100; i++) {
        a = post(f, "/api/v1/generate", "{\"prompt\":\"a\"}");
        bool good = a.status == 200 && has(&a, "back");
        free(a.body);
        if (good) break;
        assert_true(i < 99);
        usleep(10000);
    }
    hang_up(&lines);
    hang_up(&events);
    hang_up(&waiting);
}

static void a_hang_up_cancels(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    for (uint32_t stream = 0; stream < 2; stream++) {
        client c = start(f, "/api/v1/generate",
                         stream ? "{\"prompt\":\"a\",\"stream\":true}" : "{\"prompt\":\"a\"}");
        const fake_ask *a = fake_wait_asks(stream + 1);
        assert_non_null(a);
        fake_text(a->id, "A");
        if (stream) wait_body(&c, "\"A\"");
        usleep(20000);
        hang_up(&c);
        assert_true(fake_wait_cancel(a->id)); // with no further token at all
        assert_int_equal(a->tokens_before_cancel, 1);
    }
    client batch = start(f, "/api/v1/generate/batch", "{\"prompts\":[\"a\",\"b\"]}");
    assert_non_null(fake_wait_asks(4));
    hang_up(&batch);
    assert_true(fake_wait_cancel(fake_ask_at(2)->id));
    assert_true(fake_wait_cancel(fake_ask_at(3)->id));
}

static void a_hang_up_is_seen_behind_pipelined_requests(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = start(f, "/api/v1/generate", "{\"prompt\":\"a\"}");
    const fake_ask *a = fake_wait_asks(1);
    assert_non_null(a);
    for (int i = 0; i < 1900; i++)
        tell(&c, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"); // reading has stopped
    usleep(100000);
    hang_up(&c);
    assert_true(fake_wait_cancel(a->id));
}

static void a_cancel_the_core_cannot_take_is_repeated(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client c = start(f, "/api/v1/generate", "{\"prompt\":\"a\"}");
    const fake_ask *a = fake_wait_asks(1);
    assert_non_null(a);
    fake_busy(true);
    hang_up(&c);
    usleep(200000);
    assert_false(a->cancelled);
    fake_busy(false);
    assert_true(fake_wait_cancel(a->id));
}

static void two_clients_at_once(void **state)
{
    gateway_fixture *f = *state;
    fake_hold(true);
    client one = start(f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true}");
    const fake_ask *a = fake_wait_asks(1);
    client two = start(f, "/v1/completions", "{\"prompt\":\"b\",\"stream\":true}");
    const fake_ask *b = fake_wait_asks(2);
    assert_non_null(a);
    assert_non_null(b);
    assert_true(a->id != b->id);
    for (int i = 0; i < 5; i++) {
        char letter[2] = {(char)('a' + i), 0}, capital[2] = {(char)('A' + i), 0}, needle[40];
        fake_text(a->id, letter);
        fake_text(b->id, capital);
        snprintf(needle, sizeof needle, "{\"token\":\"%s\"}", letter);
        wait_body(&one, needle);
        snprintf(needle, sizeof needle, "\"text\":\"%s\"", capital);
        wait_body(&two, needle);
    }
    fake_finish(b->id, TC_FINISH_STOP);
    answer got = listen_to(&two, false);
    assert_true(got.complete && has(&got, "[DONE]") && !has(&got, "\"a\""));
    free(got.body);
    fake_finish(a->id, TC_FINISH_STOP);
    got = listen_to(&one, false);
    assert_true(got.complete && has(&got, "\"done\":true") && !has(&got, "\"A\""));
    free(got.body);
    hang_up(&one);
    hang_up(&two);
}

static char *long_prompt(size_t bytes)
{
    char *body = malloc(bytes + 64);
    size_t n = (size_t)sprintf(body, "{\"max_tokens\":1000000,\"prompt\":\"");
    memset(body + n, 'a', bytes);
    memcpy(body + n + bytes, "\"}", 3);
    return body;
}

static void prompts_and_the_context(void **state)
{
    enum { CONTEXT = 4096 };
    gateway_fixture *f = *state;
    fake_reply("x");
    char *body = long_prompt(CONTEXT - 1); // fits, with room for one token
    answer a = post(f, "/api/v1/generate", body);
    assert_int_equal(a.status, 200);
    assert_true(has(&a, "\"finish_reason\":\"length\""));
    assert_int_equal(fake_ask_at(0)->generate.max_tokens, 1);
    free(a.body);
    free(body);
    static const size_t too_long[] = {CONTEXT, TC_ENCODE_INLINE_BYTES + 1,
                                      2 << 20}; // the latter two off the loop
    for (size_t i = 0; i < COUNT(too_long); i++) {
        char number[32];
        body = long_prompt(too_long[i]);
        a = post(f, "/api/v1/generate", body);
        assert_int_equal(a.status, 400);
        snprintf(number, sizeof number, "has %zu tokens", too_long[i]);
        assert_true(has(&a, "context_length_exceeded") && has(&a, "\"param\":\"prompt\""));
        assert_true(has(&a, number));
        free(a.body);
        free(body);
    }
    assert_int_equal(fake_asks(), 1); // nothing of it was queued
}

static void a_hang_up_while_tokenising(void **state)
{
    gateway_fixture *f = *state;
    char *body = long_prompt(1 << 20);
    for (int i = 0; i < 4; i++) {
        client c = start(f, "/api/v1/generate", body);
        hang_up(&c);
    }
    free(body);
    fake_reply("x");
    free(post(f, "/api/v1/generate", "{\"prompt\":\"a\"}").body);
    assert_int_equal(fake_asks(), 1);
}

// A client that does not read: what piles up is bounded, its generation ends, and in time its connection too.
static void slow_readers_are_cut_off(void **state)
{
    gateway_fixture f;
    (void)state;
    fixture_prepare(&f);
    f.options.limits.stall_ms = 300;
    fake_up();
    fake_hold(true);
    fixture_start(&f);
    for (int i = 0; i < 100; i++) {
        answer a = get(&f, "/api/v1/health");
        free(a.body);
        if (a.status == 200) break;
        usleep(10000);
    }
    client c = start(&f, "/api/v1/generate", "{\"prompt\":\"a\",\"stream\":true,\"max_tokens\":1000000}");
    const fake_ask *a = fake_wait_asks(1);
    assert_non_null(a);
    char block[20000];
    memset(block, 'x', sizeof block);
    bool cancelled = false;
    for (int i = 0; i < 200 && !cancelled; i++) {
        fake_bytes(a->id, block, sizeof block);
        usleep(20000);
        cancelled = a->cancelled;
    }
    assert_true(fake_wait_cancel(a->id));
    usleep(600000);
    while (more(&c)) {
    } // what was on its way, and no proper end
    assert_true(c.eof);
    assert_true(c.count > 1000);
    assert_memory_not_equal(c.data + c.count - 5, "0\r\n\r\n", 5);
    hang_up(&c);
    fixture_stop(&f);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(generate_answers, setup_up, teardown),
        cmocka_unit_test_setup_teardown(special_tokens_of_a_prompt_are_meant, setup_up, teardown),
        cmocka_unit_test_setup_teardown(generate_streams, setup_up, teardown),
        cmocka_unit_test_setup_teardown(an_empty_stream_still_has_its_end, setup_up, teardown),
        cmocka_unit_test_setup_teardown(http_1_0_streams_end_by_closing, setup_up, teardown),
        cmocka_unit_test_setup_teardown(stop_strings, setup_up, teardown),
        cmocka_unit_test_setup_teardown(batches, setup_up, teardown),
        cmocka_unit_test_setup_teardown(completions_answer, setup_up, teardown),
        cmocka_unit_test_setup_teardown(completions_stream, setup_up, teardown),
        cmocka_unit_test_setup_teardown(errors_before_the_first_token, setup_up, teardown),
        cmocka_unit_test_setup_teardown(the_core_goes_down_in_mid_stream, setup_up, teardown),
        cmocka_unit_test_setup_teardown(a_hang_up_cancels, setup_up, teardown),
        cmocka_unit_test_setup_teardown(a_hang_up_is_seen_behind_pipelined_requests, setup_up, teardown),
        cmocka_unit_test_setup_teardown(a_cancel_the_core_cannot_take_is_repeated, setup_up, teardown),
        cmocka_unit_test_setup_teardown(two_clients_at_once, setup_up, teardown),
        cmocka_unit_test_setup_teardown(prompts_and_the_context, setup_up, teardown),
        cmocka_unit_test_setup_teardown(a_hang_up_while_tokenising, setup_up, teardown),
        cmocka_unit_test(slow_readers_are_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
