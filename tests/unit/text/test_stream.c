// SPDX-License-Identifier: Apache-2.0
// Owns: the text stream: nothing unfinished is shown, stop strings are found whatever the tokens' borders
// are, and all pieces together are what decoding the whole gives.
#include "common/text/stream.h"
#include "common/text/utf8.h"
#include "tests/unit/text/small_json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { STEPS = 12 };

static const small_json usual = {
    .vocab = ",\"ab\":256,\"STOP\":257,\"xST\":258,\"OPy\":259,\"\\u00e4\\u00b8\":260",
    .added = SMALL_ADDED("300", "<x>", "true", "false", SMALL_PLAIN) "," SMALL_ADDED("301", "<y>", "false",
                                                                                     "false", SMALL_PLAIN),
};

static const struct stream_case {
    const char *what;
    const char *stops[3];
    bool skip;
    uint32_t ids[STEPS];
    const char *out[STEPS]; // text of each push; NULL: the stream stopped at the push before
    const char *last;       // text of finish
} cases[] = {
    {"plain", {0}, false, {'a', 256, 'c'}, {"a", "ab", "c"}, ""},
    {"unfinished character", {0}, false, {0xe4, 0xb8, 0x96, 'a'}, {"", "", "\xe4\xb8\x96", "a"}, ""},
    {"character over tokens", {0}, false, {260, 0x96}, {"", "\xe4\xb8\x96"}, ""},
    {"unfinished at the end", {0}, false, {'a', 0xf0, 0x9f, 0x98}, {"a", "", "", ""}, "\xef\xbf\xbd"},
    {"malformed",
     {0},
     false,
     {0xff, 0xe4, 'a'},
     {"\xef\xbf\xbd", "",
      "\xef\xbf\xbd"
      "a"},
     ""},
    {"stop in one token", {"STOP"}, false, {'a', 257, 'b'}, {"a", "", NULL}, ""},
    {"stop over tokens", {"STOP"}, false, {258, 259, 'b'}, {"x", "", NULL}, ""},
    {"stop byte by byte", {"STOP"}, false, {'a', 'S', 'T', 'O', 'P'}, {"a", "", "", "", ""}, ""},
    {"not a stop after all", {"STOP"}, false, {'S', 'T', 'a'}, {"", "", "STa"}, ""},
    {"held back at the end", {"STOP"}, false, {'a', 'S', 'T'}, {"a", "", ""}, "ST"},
    {"false start", {"aab"}, false, {'a', 'a', 'a', 'b'}, {"", "", "a", ""}, ""},
    {"text before and after", {"T"}, false, {258, 'b'}, {"xS", NULL}, ""},
    {"first to end wins", {"abcd", "bc"}, false, {'a', 'b', 'c', 'd'}, {"", "", "a", NULL}, ""},
    {"longest of those that end together", {"b", "ab"}, false, {256, 'c'}, {"", NULL}, ""},
    {"stop of a whole character", {"\xe4\xb8\x96"}, false, {'a', 260, 0x96}, {"a", "", ""}, ""},
    {"same lead byte as a stop", {"\xe4\xb8\x96"}, false, {260, 0x97}, {"", "\xe4\xb8\x97"}, ""},
    {"special shown", {0}, false, {300, 301}, {"<x>", "<y>"}, ""},
    {"special skipped", {0}, true, {'a', 300, 301}, {"a", "", "<y>"}, ""},
    {"stop in a special token", {"<x"}, false, {'a', 300}, {"a", ""}, ""},
    {"skipped special is no stop", {"<x>"}, true, {'a', 300, 'b'}, {"a", "", "b"}, ""},
    {"stop over a skipped special", {"ab"}, true, {'a', 300, 'b', 'c'}, {"", "", "", NULL}, ""},
    {"id without token", {0}, false, {299, 5000, 'a'}, {"", "", "a"}, ""},
    {"replacement in a stop", {"\xef\xbf\xbd"}, false, {'a', 0xff, 'b'}, {"a", "", NULL}, ""},
};

static void test_cases(void **state)
{
    tc_tokenizer *t = small_json_load(&usual);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct stream_case *c = &cases[i];
        size_t stops = 0, bytes;
        tc_text_stream *s = NULL;
        const char *text;
        while (stops < 3 && c->stops[stops]) stops++;
        assert_int_equal(tc_text_stream_create(t, c->stops, stops, c->skip, &s, NULL), TC_OK);
        for (size_t k = 0; k < STEPS && c->ids[k]; k++) {
            bool stopped = false;
            assert_int_equal(tc_text_stream_push(s, c->ids[k], &text, &bytes, &stopped), TC_OK);
            const char *want = c->out[k] ? c->out[k] : "";
            if (bytes != strlen(want) || memcmp(text, want, bytes) || (!c->out[k] && !stopped))
                fail_msg("%s: push %zu gave '%.*s', not '%s'", c->what, k, (int)bytes, text, want);
        }
        assert_int_equal(tc_text_stream_finish(s, &text, &bytes), TC_OK);
        if (bytes != strlen(c->last) || memcmp(text, c->last, bytes))
            fail_msg("%s: finish gave '%.*s'", c->what, (int)bytes, text);
        assert_int_equal(tc_text_stream_finish(s, &text, &bytes), TC_OK);
        assert_int_equal(bytes, 0);
        tc_text_stream_free(s);
    }
    tc_tokenizer_free(t);
}

static void test_stopped_flag(void **state)
{
    tc_tokenizer *t = small_json_load(&usual);
    const char *stop = "b", *text;
    size_t bytes;
    bool stopped = true;
    tc_text_stream *s;
    assert_int_equal(tc_text_stream_create(t, &stop, 1, false, &s, NULL), TC_OK);
    tc_text_stream_push(s, 'a', &text, &bytes, &stopped);
    assert_false(stopped);
    tc_text_stream_push(s, 'b', &text, &bytes, &stopped);
    assert_true(stopped);
    tc_text_stream_push(s, 'a', &text, &bytes, &stopped);
    assert_true(stopped);
    assert_int_equal(bytes, 0);
    tc_text_stream_free(s);
    tc_text_stream_free(NULL);
    tc_tokenizer_free(t);
}

static void test_limits(void **state)
{
    tc_tokenizer *t = small_json_load(&usual);
    const char *many[TC_STOPS_MAX + 1], *bad = "\x80", *empty = "";
    char longest[TC_STOP_BYTES_MAX + 2];
    const char *one = longest;
    tc_text_stream *s = NULL;
    tc_error e;
    for (size_t i = 0; i <= TC_STOPS_MAX; i++) many[i] = "q";
    assert_int_equal(tc_text_stream_create(t, many, TC_STOPS_MAX + 1, false, &s, &e), TC_LIMIT);
    assert_int_equal(tc_text_stream_create(t, &empty, 1, false, &s, &e), TC_LIMIT);
    assert_int_equal(tc_text_stream_create(t, &bad, 1, false, &s, &e), TC_ARGUMENT);
    memset(longest, 'q', sizeof longest);
    longest[TC_STOP_BYTES_MAX + 1] = 0;
    assert_int_equal(tc_text_stream_create(t, &one, 1, false, &s, &e), TC_LIMIT);
    assert_null(s);
    longest[TC_STOP_BYTES_MAX] = 0;
    assert_int_equal(tc_text_stream_create(t, &one, 1, false, &s, &e), TC_OK);
    const char *text;
    size_t bytes;
    bool stopped;
    for (size_t i = 0; i < TC_STOP_BYTES_MAX; i++) {
        tc_text_stream_push(s, 'q', &text, &bytes, &stopped);
        assert_int_equal(bytes, 0);
        assert_int_equal(stopped, i + 1 == TC_STOP_BYTES_MAX);
    }
    tc_text_stream_free(s);
    assert_int_equal(tc_text_stream_create(t, many, TC_STOPS_MAX, false, &s, &e), TC_OK);
    tc_text_stream_free(s);
    tc_tokenizer_free(t);
}

// The longest token, all of it malformed, behind a full hold: the fixed buffers are large enough.
static void test_largest_token(void **state)
{
    char entry[2 * TC_TOKEN_BYTES_MAX + 32], stop[TC_STOP_BYTES_MAX + 1];
    size_t at = 2, bytes;
    memcpy(entry, ",\"", 2);
    for (int i = 0; i < TC_TOKEN_BYTES_MAX; i++) entry[at++] = '\xc3', entry[at++] = '\xbf'; // byte 0xff
    memcpy(entry + at, "\":256", 6);
    memset(stop, 'q', sizeof stop);
    stop[TC_STOP_BYTES_MAX] = 0;
    tc_tokenizer *t = small_json_load(&(small_json){.vocab = entry});
    const char *text, *stops = stop;
    bool stopped;
    tc_text_stream *s;
    assert_int_equal(tc_text_stream_create(t, &stops, 1, false, &s, NULL), TC_OK);
    for (int i = 0; i < TC_STOP_BYTES_MAX - 1; i++) tc_text_stream_push(s, 'q', &text, &bytes, &stopped);
    for (int i = 0; i < 3; i++)
        tc_text_stream_push(s, (uint32_t) "\xf0\x9f\x98"[i] & 0xff, &text, &bytes, &stopped);
    tc_text_stream_push(s, 256, &text, &bytes, &stopped);
    assert_int_equal(bytes, TC_STOP_BYTES_MAX - 1 + 3 + 3 * TC_TOKEN_BYTES_MAX);
    tc_text_stream_free(s);
    tc_tokenizer_free(t);
}

static uint32_t next_random(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u, *seed >> 8;
}

// Random bytes as tokens: every piece is UTF-8 by itself, and all together are the decoded whole.
static void test_pieces_make_the_whole(void **state)
{
    static const uint8_t choice[] = {'a',  'b',  0xe4, 0xb8, 0x96, 0xf0, 0x9f,
                                     0x98, 0x80, 0xc3, 0xff, 'S',  'T'};
    tc_tokenizer *t = small_json_load(&usual);
    const char *stops[] = {"STab", "\xe4\xb8\x96\xe4"};
    uint32_t seed = 1;
    for (int round = 0; round < 2000; round++) {
        uint32_t ids[30];
        size_t count = 1 + next_random(&seed) % 30, whole_bytes, bytes, used = 0;
        char *whole, all[30 * 3 + 1];
        const char *text;
        bool stopped = false;
        tc_text_stream *s;
        for (size_t i = 0; i < count; i++) ids[i] = choice[next_random(&seed) % sizeof choice];
        assert_int_equal(tc_tokenizer_decode(t, ids, count, false, &whole, &whole_bytes, NULL), TC_OK);
        assert_int_equal(tc_text_stream_create(t, stops, 1, false, &s, NULL), TC_OK);
        for (size_t i = 0; i <= count; i++) {
            if (i < count)
                tc_text_stream_push(s, ids[i], &text, &bytes, &stopped);
            else
                tc_text_stream_finish(s, &text, &bytes);
            assert_int_equal(tc_utf8_valid_bytes(text, bytes), bytes);
            memcpy(all + used, text, bytes);
            used += bytes;
        }
        char *stop = strstr(whole, stops[0]);
        assert_int_equal(used, stop ? (size_t)(stop - whole) : whole_bytes);
        assert_memory_equal(all, whole, used);
        assert_int_equal(stopped, stop != NULL);
        tc_text_stream_free(s);
        free(whole);
    }
    tc_tokenizer_free(t);
}

// While stops are held a complete one is text; one that began then and ends later counts.
static void test_held_stops(void **state)
{
    static const char *const stops[] = {"zz", "aab"};
    static const char text[] = "aabaaba";
    tc_tokenizer *t = small_json_load(&usual);
    tc_text_stream *s = NULL;
    char all[32];
    size_t used = 0, bytes;
    const char *piece;
    bool stopped = false;
    assert_int_equal(tc_text_stream_create(t, stops, 2, true, &s, NULL), TC_OK);
    tc_text_stream_hold_stops(s, true);
    for (size_t i = 0; text[i]; i++) {
        if (i == 5) tc_text_stream_hold_stops(s, false);
        assert_int_equal(tc_text_stream_push(s, (uint8_t)text[i], &piece, &bytes, &stopped), TC_OK);
        memcpy(all + used, piece, bytes);
        used += bytes;
        assert_int_equal(stopped, i >= 5);
        assert_int_equal(tc_text_stream_stopped_by(s), i >= 5 ? 1 : -1);
    }
    assert_int_equal(used, 3);
    assert_memory_equal(all, "aab", 3);
    tc_text_stream_free(s);
    tc_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),         cmocka_unit_test(test_stopped_flag),
        cmocka_unit_test(test_held_stops),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_largest_token), cmocka_unit_test(test_pieces_make_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
