// SPDX-License-Identifier: Apache-2.0
// Owns: tests of taking an answer apart: every text is fed whole, byte by byte and in random pieces, and must
// give the same reasoning, text and calls; nothing of a tag is ever shown.
#include "gateway/answer.h"
#include "gateway/json_request.h"
#include "gateway/ws_frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))

// What came, as one line: r(...) reasoning, t(...) text, c(name) a(...) e for calls; neighbours joined.
typedef struct record {
    char text[4096];
    tc_part_kind last;
    bool any;
} record;

static bool note(void *owner, const tc_part *part)
{
    record *r = owner;
    static const char *const open[] = {"t(", "r(", "c(", "a(", "e"};
    bool joins =
        r->any && r->last == part->kind && part->kind != TC_PART_CALL && part->kind != TC_PART_CALL_END;
    size_t n = strlen(r->text);
    if (joins)
        r->text[--n] = 0; // the bracket
    else
        n += (size_t)snprintf(r->text + n, sizeof r->text - n, "%s", open[part->kind]);
    if (part->kind == TC_PART_CALL)
        snprintf(r->text + n, sizeof r->text - n, "%.*s)", (int)part->call->name.count,
                 part->call->name.data);
    else if (part->kind != TC_PART_CALL_END)
        snprintf(r->text + n, sizeof r->text - n, "%.*s)", (int)part->bytes, part->text);
    r->last = part->kind;
    r->any = true;
    return true;
}

static const struct {
    const char *text, *expected;
    bool in_reasoning, no_calls, one_call;
} cases[] = {
    {"hello", "t(hello)", 0, 0, 0},
    {"", "", 0, 0, 0},
    {"  \n", "t(  \n)", 0, 0, 0},
    {"<think>\nwhy\n</think>\n\nbecause", "r(why)t(because)", 0, 0, 0},
    {"\n<think>a</think>b", "r(a)t(b)", 0, 0, 0},
    {"<think></think>b", "t(b)", 0, 0, 0},
    {"<think>never ends ", "r(never ends )", 0, 0, 0},
    {"why\n</think>\nb", "r(why)t(b)", 1, 0, 0},
    {"a </thin k> b</think>c", "r(a </thin k> b)t(c)", 1, 0, 0},
    {"<thinking> is text", "t(<thinking> is text)", 0, 0, 0},
    {"text <think>not here</think>", "t(text <think>not here</think>)", 0, 0, 0},
    {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": \"}\"}]}}\n</tool_call>",
     "c(f)a({\"a\": [1, {\"b\": \"}\"}]})e", 0, 0, 0},
    {"Let me "
     "see.\n\n<tool_call>\n{\"name\":\"f\",\"arguments\":{}}\n</tool_call>\n<tool_call>\n{\"name\":\"g\","
     "\"arguments\":{\"x\":1}}\n</tool_call>",
     "t(Let me see.)c(f)a({})ec(g)a({\"x\":1})e", 0, 0, 0},
    {"<tool_call>{\"arguments\": {\"q\": \"a\\\"b\"}, \"name\": \"late\"}</tool_call> after",
     "c(late)a({\"q\": \"a\\\"b\"})et(after)", 0, 0, 0},
    {"<tool_call>{\"name\":\"s\",\"arguments\":\"{\\\"a\\\": 1}\"}</tool_call>", "c(s)a({\"a\": 1})e", 0, 0,
     0},
    {"<tool_call>{\"name\":\"none\"}</tool_call>", "c(none)a({})e", 0, 0, 0},
    {"<tool_call>{\"name\":\"none\",\"arguments\":null}</tool_call>", "c(none)a({})e", 0, 0, 0},
    {"<tool_call>{\"name\":\"p\",\"parameters\":{\"a\":2}}</tool_call>", "c(p)a({\"a\":2})e", 0, 0, 0},
    {"<tool_call>{\"name\":\"x\",\"arguments\":{\"t\":\"</tool_call>\"}}</tool_call>",
     "c(x)a({\"t\":\"</tool_call>\"})e", 0, 0, 0},
    {"<tool_call>not json</tool_call>ok", "t(<tool_call>not json</tool_call>ok)", 0, 0, 0},
    {"<tool_call>{\"no\":1}</tool_call>", "t(<tool_call>{\"no\":1}</tool_call>)", 0, 0, 0},
    {"<tool_call>{\"name\":5,\"arguments\":{}}</tool_call>",
     "t(<tool_call>{\"name\":5,\"arguments\":{}}</tool_call>)", 0, 0, 0},
    {"<tool_call>{\"name\":\"cut\",\"arguments\":{\"a\": [1", "c(cut)a({\"a\": [1)e", 0, 0, 0},
    {"<tool_call>{\"na", "t(<tool_call>{\"na)", 0, 0, 0},
    {"a < b <tool", "t(a < b <tool)", 0, 0, 0},
    {"<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
     "t(<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>)", 0, 1, 0},
    {"<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call><tool_call>{\"name\":\"g\",\"arguments\":{}}</"
     "tool_call>",
     "c(f)a({})e", 0, 0, 1},
    {"<think>t</think><tool_call>\n<function=get>\n<parameter=city>\nPraha\n</"
     "parameter>\n<parameter=n>\n3\n</parameter>\n"
     "</function>\n</tool_call>",
     "r(t)c(get)a({\"city\": \"Praha\", \"n\": 3})e", 0, 0, 0},
};

static void feed(size_t i, unsigned seed, size_t most)
{
    record got = {0};
    const tc_answer_options options = {.in_reasoning = cases[i].in_reasoning,
                                       .calls = !cases[i].no_calls,
                                       .one_call = cases[i].one_call,
                                       .id_prefix = "call_"};
    tc_answer *a = tc_answer_new(&options, note, &got);
    size_t bytes = strlen(cases[i].text);
    assert_non_null(a);
    srand(seed);
    for (size_t at = 0; at < bytes;) {
        size_t n = most == 1 ? 1 : 1 + (size_t)rand() % most;
        if (n > bytes - at) n = bytes - at;
        char *exact = malloc(n); // reading beyond it is seen
        memcpy(exact, cases[i].text + at, n);
        assert_true(tc_answer_push(a, exact, n));
        free(exact);
        at += n;
    }
    assert_true(tc_answer_finish(a));
    assert_false(tc_answer_failed(a));
    if (strcmp(got.text, cases[i].expected) != 0)
        fail_msg("'%s' in pieces of %zu:\n  %s\nexpected\n  %s", cases[i].text, most, got.text,
                 cases[i].expected);
    tc_answer_free(a);
}

static void answers_are_taken_apart(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        feed(i, 0, 1);
        feed(i, 0, 1000);
        for (unsigned seed = 0; seed < 20; seed++) feed(i, seed, 7);
    }
}

static void items_keep_their_order(void **state)
{
    (void)state;
    record got = {0};
    uint32_t count;
    size_t bytes;
    const tc_answer_options options = {.calls = true};
    tc_answer *a = tc_answer_new(&options, note, &got);
    static const char text[] = "<think>r</think>one<tool_call>{\"name\":\"f\"}</tool_call>two";
    tc_answer_push(a, text, sizeof text - 1);
    tc_answer_finish(a);
    const tc_answer_item *items = tc_answer_items(a, &count);
    assert_int_equal(count, 4);
    assert_int_equal(items[0].kind, TC_PART_REASONING);
    assert_int_equal(items[2].kind, TC_PART_CALL);
    assert_memory_equal(tc_answer_item_text(a, &items[3], &bytes), "two", 3);
    assert_int_equal(bytes, 3);
    tc_answer_free(a);
}

// ---- WebSocket frames ----

static size_t masked(uint8_t *to, uint8_t first, const void *payload, size_t bytes)
{
    size_t n = 2;
    to[0] = first;
    if (bytes < 126) {
        to[1] = (uint8_t)(0x80 | bytes);
    } else {
        to[1] = 0x80 | 126;
        to[n++] = (uint8_t)(bytes >> 8);
        to[n++] = (uint8_t)bytes;
    }
    memcpy(to + n, "\x11\x22\x33\x44", 4);
    n += 4;
    for (size_t i = 0; i < bytes; i++)
        to[n++] = ((const uint8_t *)payload)[i] ^ (uint8_t)(0x11 * (1 + i % 4));
    return n;
}

static void frames_are_put_together(void **state)
{
    (void)state;
    uint8_t wire[2048];
    char long_text[400];
    memset(long_text, 'x', sizeof long_text);
    size_t n = masked(wire, 0x01, "hel", 3); // text, more to come
    n += masked(wire + n, 0x89, "ping", 4);  // between the fragments
    n += masked(wire + n, 0x00, "l\xc3", 2); // half a character
    n += masked(wire + n, 0x80, "\xb6", 1);  // the end
    n += masked(wire + n, 0x81, "", 0);      // an empty message
    n += masked(wire + n, 0x81, long_text, 400);
    n += masked(wire + n, 0x88,
                "\x03\xe8"
                "bye",
                5);
    for (size_t piece = 1; piece <= n; piece = piece < 8 ? piece + 1 : n) {
        tc_ws_parser p;
        char seen[1024] = "";
        tc_ws_parser_init(&p, 4096);
        for (size_t at = 0; at < n;) {
            size_t end = at + piece < n ? at + piece : n, used;
            for (tc_ws_event event = TC_WS_EVENT_PONG; event != TC_WS_EVENT_NONE && !p.ended;) {
                event = tc_ws_next(&p, wire + at, end - at, &used);
                at += used;
                size_t have = strlen(seen);
                if (event == TC_WS_EVENT_MESSAGE)
                    snprintf(seen + have, sizeof seen - have, "m%zu(%.6s)", p.message.count,
                             p.message.count ? p.message.data : "");
                else if (event == TC_WS_EVENT_PING)
                    snprintf(seen + have, sizeof seen - have, "p(%.*s)", (int)p.control_bytes,
                             (char *)p.control);
                else if (event == TC_WS_EVENT_CLOSE)
                    snprintf(seen + have, sizeof seen - have, "c%u", p.close_code);
                else if (event == TC_WS_EVENT_ERROR)
                    snprintf(seen + have, sizeof seen - have, "E%u %s", p.close_code, p.reason);
            }
            at = end;
        }
        assert_string_equal(seen, "p(ping)m6(hell\xc3\xb6)m0()m400(xxxxxx)c1000");
        tc_ws_parser_free(&p);
        if (piece == n) break;
    }
}

static void bad_frames_are_closed(void **state)
{
    static const struct {
        const char *bytes;
        size_t count;
        uint16_t code;
    } bad[] = {
        {"\xc1\x80", 2, 1002}, // reserved bit
        {"\x81\x05", 2, 1002}, // not masked
        {"\x83\x80", 2, 1002}, // opcode
        {"\x8b\x80", 2, 1002},
        {"\x82\x80", 2, 1003},             // binary
        {"\x09\x80", 2, 1002},             // a ping in pieces
        {"\x89\xfe", 2, 1002},             // a long ping
        {"\x80\x80", 2, 1002},             // nothing to continue
        {"\x01\x80....\x01\x80", 8, 1002}, // a message within another
        {"\x81\xfe\x00\x7d....", 8, 1002}, // length not in its shortest form
        {"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xff....", 14, 1002},
        {"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00....", 14, 1002},
        {"\x81\xfe\x10\x01....", 8, 1009},     // 4097 of 4096
        {"\x81\x81\0\0\0\0\xff", 7, 1007},     // not UTF-8
        {"\x88\x81\0\0\0\0\x03", 7, 1002},     // half a close code
        {"\x88\x82\0\0\0\0\x03\xed", 8, 1002}, // 1005 is never sent
        {"\x88\x83\0\0\0\0\x03\xe8\xff", 9, 1007},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        tc_ws_parser p;
        size_t at = 0, used;
        tc_ws_event event = TC_WS_EVENT_NONE;
        tc_ws_parser_init(&p, 4096);
        do {
            event = tc_ws_next(&p, bad[i].bytes + at, bad[i].count - at, &used);
            at += used;
        } while (event != TC_WS_EVENT_NONE && event != TC_WS_EVENT_ERROR);
        if (event != TC_WS_EVENT_ERROR || p.close_code != bad[i].code)
            fail_msg("frame %zu: event %d, code %u, expected %u", i, event, p.close_code, bad[i].code);
        assert_int_equal(tc_ws_next(&p, "x", 1, &used), TC_WS_EVENT_NONE); // and nothing more is read
        tc_ws_parser_free(&p);
    }
}

static void frames_have_the_shortest_length(void **state)
{
    static const size_t sizes[] = {0, 125, 126, 65535, 65536};
    static const size_t headers[] = {2, 2, 4, 4, 10};
    static char payload[65536];
    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        tc_buffer out = {0};
        tc_ws_frame(&out, TC_WS_TEXT, payload, sizes[i]);
        assert_int_equal(out.count, sizes[i] + headers[i]);
        tc_buffer_free(&out);
    }
}

static void the_key_is_answered(void **state)
{
    char accept[29];
    (void)state;
    assert_true(tc_ws_accept("dGhlIHNhbXBsZSBub25jZQ==", 24, accept)); // RFC 6455, 1.3
    assert_string_equal(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_false(tc_ws_accept("dGhlIHNhbXBsZSBub25jZQ=", 23, accept));
    assert_false(tc_ws_accept("dGhlIHNhbXBsZSBub25j!Q==", 24, accept));
    assert_false(tc_ws_accept("dGhlIHNhbXBsZSBub25jZQAA", 24, accept));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_taken_apart),         cmocka_unit_test(items_keep_their_order),
        cmocka_unit_test(frames_are_put_together),         cmocka_unit_test(bad_frames_are_closed),
        cmocka_unit_test(frames_have_the_shortest_length), cmocka_unit_test(the_key_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
