// SPDX-License-Identifier: Apache-2.0
// Owns: tests of the pieces without sockets: buffer, addresses, keys, framing of requests (each in one piece
// and byte by byte), bodies.
#include "gateway/address.h"
#include "gateway/auth.h"
#include "gateway/params.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(table) (sizeof(table) / sizeof *(table))

static void json_strings_are_valid(void **state)
{
    static const struct {
        const char *text;
        size_t bytes;
        const char *expected;
    } cases[] = {
        {"plain", 5, "\"plain\""},
        {"a\"b\\c", 5, "\"a\\\"b\\\\c\""},
        {"\n\r\t\0\x1f\x7f", 6, "\"\\n\\r\\t\\u0000\\u001f\\u007f\""},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"a\xff", 2, "\"a\xef\xbf\xbd\""},
        {"\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, // surrogate
        {"\xf4\x90\x80\x80", 4, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xe2\x82", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""}, // cut
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        tc_buffer b = {0};
        tc_buffer_json(&b, cases[i].text, cases[i].bytes);
        assert_int_equal(b.count, strlen(cases[i].expected));
        assert_memory_equal(b.data, cases[i].expected, b.count);
        tc_buffer_free(&b);
    }
}

static void buffer_keeps_its_cap(void **state)
{
    (void)state;
    tc_buffer b = {.max = 4};
    tc_buffer_append(&b, "abcd", 4);
    assert_false(b.failed);
    tc_buffer_append(&b, "e", 1);
    assert_true(b.failed);
    tc_buffer_append(&b, "", 0);
    assert_int_equal(b.count, 4);
    tc_buffer_clear(&b);
    tc_buffer_text(&b, "xy");
    assert_false(b.failed);
    tc_buffer_consume(&b, 1);
    assert_memory_equal(b.data, "y", 1);
    tc_buffer_free(&b);
    tc_buffer_json_number(&b, 0.0 / 0.0);
    assert_memory_equal(b.data, "null", 4);
    tc_buffer_free(&b);
}

static void addresses(void **state)
{
    static const struct {
        const char *text;
        bool good, loopback;
    } cases[] = {
        {"127.0.0.1:8080", true, true}, {"localhost:0", true, true},       {"127.9.9.9:65535", true, true},
        {"[::1]:80", true, true},       {"0.0.0.0:80", true, false},       {"192.168.1.1:80", true, false},
        {"[::]:80", true, false},       {"unix:/tmp/x", true, true},       {"unix:", false, false},
        {"127.0.0.1", false, false},    {"127.0.0.1:65536", false, false}, {"127.0.0.1:", false, false},
        {"127.0.0.1:8x", false, false}, {"example.org:80", false, false},  {"::1:80", false, false},
        {"[::1:80", false, false},      {"[127.0.0.1]:80", false, false},  {"", false, false},
        {":80", false, false},          {"[]:80", false, false},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        tc_address address;
        tc_error e = {0};
        bool good = tc_address_parse(cases[i].text, &address, &e) == TC_OK;
        if (good != cases[i].good || (good && address.is_loopback != cases[i].loopback))
            fail_msg("%s", cases[i].text);
        assert_true(good || *e.text);
    }
    char path[120] = "unix:";
    tc_address address;
    memset(path + 5, 'a', 107);
    assert_int_equal(tc_address_parse(path, &address, NULL), TC_OK); // 107 and 108 bytes
    path[5 + 107] = 'a';
    assert_int_equal(tc_address_parse(path, &address, NULL), TC_ARGUMENT);
}

static void keys(void **state)
{
    static const struct {
        const char *text;
        tc_status status;
    } cases[] = {
        {"abcdefgh\n", TC_OK},
        {"# comment\n\n  abcdefgh \r\nanother-key", TC_OK},
        {"", TC_FORMAT},
        {"# only a comment", TC_FORMAT},
        {"abcdefg\n", TC_FORMAT},
        {"abcd efgh\n", TC_FORMAT},
        {"abcdefgh priority=10\n", TC_OK},
        {"abcdefgh  priority=0", TC_OK},
        {"abcdefgh priority=11", TC_FORMAT},
        {"abcdefgh priority=", TC_FORMAT},
        {"abcdefgh priority=-1", TC_FORMAT},
        {"abcdefgh priority=3 more", TC_FORMAT},
        {"abcdefgh other", TC_FORMAT},
        {"abcd\xc3\xa9gh\n", TC_FORMAT},
    };
    tc_api_keys *k = NULL;
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        tc_api_keys *parsed = NULL;
        assert_int_equal(tc_api_keys_parse(cases[i].text, strlen(cases[i].text), "keys", &parsed, NULL),
                         cases[i].status);
        tc_api_keys_free(parsed);
    }
    char many[(TC_API_KEYS_MAX + 1) * 9 + 1] = "";
    for (int i = 0; i <= TC_API_KEYS_MAX; i++) sprintf(many + i * 9, "key%05d\n", i);
    assert_int_equal(tc_api_keys_parse(many, TC_API_KEYS_MAX * 9, "keys", &k, NULL), TC_OK);
    assert_true(tc_api_keys_match(k, "key00000", 8));
    assert_true(tc_api_keys_match(k, "key00063", 8));
    assert_false(tc_api_keys_match(k, "key00064", 8));
    assert_false(tc_api_keys_match(k, "key0000", 7));
    assert_false(tc_api_keys_match(k, "key000000", 9));
    assert_false(tc_api_keys_match(k, "", 0));
    tc_api_keys_free(k);
    assert_int_equal(tc_api_keys_parse(many, strlen(many), "keys", &k, NULL), TC_LIMIT);
    char long_key[TC_API_KEY_BYTES_MAX + 2];
    memset(long_key, 'k', sizeof long_key);
    assert_int_equal(tc_api_keys_parse(long_key, TC_API_KEY_BYTES_MAX + 1, "keys", &k, NULL), TC_FORMAT);
    assert_int_equal(tc_api_keys_parse(long_key, TC_API_KEY_BYTES_MAX, "keys", &k, NULL), TC_OK);
    tc_api_keys_free(k);
}

// What came of a stream of bytes: the status of its refusal (0: none), requests completed, and their bodies
// joined.
typedef struct outcome {
    int status;
    unsigned complete;
    bool keep_alive;
    char bodies[256];
} outcome;

static outcome parse(const char *data, size_t bytes, size_t step)
{
    outcome o = {0};
    tc_http_parser *p = malloc(sizeof *p);
    assert_non_null(p);
    tc_http_parser_init(p);
    for (size_t at = 0; at < bytes && p->state != TC_HTTP_REFUSED;) {
        size_t n = bytes - at < step ? bytes - at : step;
        char *exact = malloc(n); // so that a sanitizer sees a read beyond the piece
        memcpy(exact, data + at, n);
        at += tc_http_parser_feed(p, exact, n);
        free(exact);
        if (p->state == TC_HTTP_COMPLETE) {
            o.complete++;
            o.keep_alive = p->keep_alive;
            snprintf(o.bodies + strlen(o.bodies), sizeof o.bodies - strlen(o.bodies), "%.*s|",
                     (int)p->body.count, p->body.count ? p->body.data : "");
            tc_http_parser_next(p);
        }
    }
    o.status = p->state == TC_HTTP_REFUSED ? p->error.status : 0;
    tc_http_parser_free(p);
    free(p);
    return o;
}

#define HOST "Host: a\r\n"
#define CHUNKED "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"

static void framing(void **state)
{
    static const struct {
        const char *text;
        int status;
        unsigned complete;
        const char *bodies;
    } cases[] = {
        // accepted
        {"GET / HTTP/1.1\r\n" HOST "\r\n", 0, 1, "|"},
        {"GET / HTTP/1.0\r\n\r\n", 0, 1, "|"},
        {"\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 0, 1, "|"},
        {"GET http://a/x HTTP/1.1\r\n" HOST "\r\n", 0, 1, "|"},
        {"GET / HTTP/1.1\r\nhOsT:a\r\n\r\n", 0, 1, "|"},
        {"GET / HTTP/1.1\r\nHost:  a  \r\n\r\n", 0, 1, "|"},
        {"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0, 1, "|"},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", 0, 1, "abc|"},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", 0, 1, "|"},
        {"POST / HTTP/1.1\r\n" HOST "\r\n", 0, 1, "|"},
        {CHUNKED "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 0, 1, "abcde|"},
        {CHUNKED "3;ext=1\r\nabc\r\n0\r\n\r\n", 0, 1, "abc|"},
        {CHUNKED "0\r\nTrailer: x\r\n\r\n", 0, 1, "|"},
        {CHUNKED "A\r\n0123456789\r\n0\r\n\r\n", 0, 1, "0123456789|"},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\n\r\naGET / HTTP/1.1\r\n" HOST "\r\n", 0, 2, "a||"},
        {CHUNKED "1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 0, 2, "a||"},
        {"GET / HTTP/1.1\r\n" HOST "Connection: upgrade\r\nUpgrade: websocket\r\n\r\nGET / HTTP/1.1\r\n" HOST
         "\r\n",
         0, 2, "||"},
        {"GET / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\n\r\n", 0, 1, "|"},
        // not whole
        {"", 0, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST, 0, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nab", 0, 0, ""},
        {CHUNKED "3\r\nabc\r\n", 0, 0, ""},
        // Host
        {"GET / HTTP/1.1\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, 0, ""},
        {"GET http:///x HTTP/1.1\r\n" HOST "\r\n", 400, 0, ""},
        // the request line
        {"GET / HTTP/2.0\r\n" HOST "\r\n", 505, 0, ""},
        {"GET / HTTP/0.9\r\n" HOST "\r\n", 505, 0, ""},
        {"GET / HTTP/1.2\r\n" HOST "\r\n", 505, 0, ""},
        {"GET / HTTX/1.1\r\n" HOST "\r\n", 400, 0, ""},
        {"GET /\r\n\r\n", 505, 0, ""},
        {"get / HTTP/1.1\r\n" HOST "\r\n", 400, 0, ""},
        {"BREW / HTTP/1.1\r\n" HOST "\r\n", 400, 0, ""},
        {"GET / HTTP/1.1 \r\n" HOST "\r\n", 400, 0, ""},
        {"GET  / HTTP/1.1\r\n" HOST "\r\n", 0, 1, "|"}, // section 3 allows to be lenient here
        {"GET /  HTTP/1.1\r\n" HOST "\r\n", 0, 1, "|"},
        {"CONNECT a:80 HTTP/1.1\r\n" HOST "\r\n", 501, 0, ""},
        {"GET /#x HTTP/1.1\r\n" HOST "\r\n", 400, 0, ""},
        {"GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n", 400, 0, ""},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", -1, 0, ""},
        {"\x16\x03\x01\x02\x00\x01", 400, 0, ""},
        // headers
        {"GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n", 400, 0, ""}, // obs-fold
        {"GET / HTTP/1.1\r\n" HOST "A: b\rX: c\r\n\r\n", 400, 0, ""}, // bare CR
        {"GET / HTTP/1.1\n" HOST "\r\n", 400, 0, ""},                 // bare LF
        {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST " A: b\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST "A\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST "A: b\x01\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\n" HOST "Expect: more\r\n\r\n", 417, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", 415, 0, ""},
        // lengths
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
         0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400,
         0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3, 3\r\n\r\nabc", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\nabc", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: -3\r\n\r\nabc", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0x3\r\n\r\nabc", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\nabc", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\n", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 8388609\r\n\r\n", 413, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n\r\n", 501, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", -1, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST
         "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", -1, 0, ""},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
        // chunks
        {CHUNKED "g\r\n", 400, 0, ""},
        {CHUNKED "-1\r\n", 400, 0, ""},
        {CHUNKED "0x3\r\nabc\r\n", 400, 0, ""},
        {CHUNKED "3 \r\nabc\r\n", 400, 0, ""},
        {CHUNKED "3\nabc\r\n0\r\n\r\n", 400, 0, ""},
        {CHUNKED "3\r\nabcd\r\n0\r\n\r\n", 400, 0, ""},
        {CHUNKED "3\r\nabc0\r\n\r\n", 400, 0, ""},
        {CHUNKED "\r\n", 400, 0, ""},
        {CHUNKED "FFFFFFFFFFFFFFFFF\r\n", 400, 0, ""},
        {CHUNKED "1;a=\rb\r\nx\r\n0\r\n\r\n", 400, 0, ""}, // bare CR in an extension
        {CHUNKED "1;a\nb\r\nx\r\n0\r\n\r\n", 400, 0, ""},
        {CHUNKED "1\rX\r\nx\r\n0\r\n\r\n", 400, 0, ""},
        {CHUNKED "1\r\nx\n0\r\n\r\n", 400, 0, ""},
        {CHUNKED "0\r\nt: a\r\n b\r\n\r\n", 400, 0, ""}, // obs-fold in a trailer
        {CHUNKED "0\r\nt: a\rb\r\n\r\n", 400, 0, ""},
        // what proxies have been fooled with
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\x0b"
         "chunked\r\n\r\n0\r\n\r\n",
         -1, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "transfer-encoding: CHUNKED\r\nContent-length: 0\r\n\r\n0\r\n\r\n", 400,
         0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1 1\r\n\r\na", 400, 0, ""},
        {"POST / HTTP/1.1\r\n" HOST "Content-Length : 1\r\n\r\na", 400, 0, ""},
        {"GET / HTTP/1.1\rHost: a\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, 0, ""},
        {"GET / HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n", 400, 0, ""},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t bytes = strlen(cases[i].text);
        for (size_t step = 1; step <= bytes + 1; step += step < 4 ? 1 : bytes / 3 + 1) {
            outcome o = parse(cases[i].text, bytes, step);
            bool status = cases[i].status < 0 ? o.status >= 400 : o.status == cases[i].status;
            if (!status || o.complete != cases[i].complete || strcmp(o.bodies, cases[i].bodies) != 0)
                fail_msg("case %zu, step %zu: status %d, %u requests, bodies %s: %s", i, step, o.status,
                         o.complete, o.bodies, cases[i].text);
        }
    }
}

static void keep_alive_follows_the_version(void **state)
{
    static const struct {
        const char *text;
        bool keep;
    } cases[] = {
        {"GET / HTTP/1.1\r\n" HOST "\r\n", true},
        {"GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", false},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        outcome o = parse(cases[i].text, strlen(cases[i].text), 1000);
        assert_int_equal(o.complete, 1);
        assert_int_equal(o.keep_alive, cases[i].keep);
    }
}

// Appends `count` times `c`, or a text.
static void fill(tc_buffer *b, char c, size_t count)
{
    for (size_t i = 0; i < count; i++) tc_buffer_append(b, &c, 1);
}

static void expect_limit(tc_buffer *b, int status)
{
    static const size_t steps[] = {1 << 30, 4096, 7};
    for (size_t i = 0; i < COUNT(steps); i++) {
        outcome o = parse(b->data, b->count, steps[i]);
        assert_int_equal(o.status, status);
        assert_int_equal(o.complete, status == 0);
    }
    tc_buffer_free(b);
}

static void limits_of_the_head(void **state)
{
    (void)state;
    for (int over = 0; over < 2; over++) {
        tc_buffer b = {0};
        tc_buffer_text(&b, "GET /"); // the target
        fill(&b, 'a', TC_HTTP_URI_BYTES_MAX - 1 + over);
        tc_buffer_text(&b, " HTTP/1.1\r\n" HOST "\r\n");
        expect_limit(&b, over ? 414 : 0);

        tc_buffer_text(&b, "GET / HTTP/1.1\r\n" HOST); // the number of fields
        for (int i = 1; i < TC_HTTP_HEADERS_MAX + over; i++) tc_buffer_text(&b, "a: b\r\n");
        tc_buffer_text(&b, "\r\n");
        expect_limit(&b, over ? 431 : 0);

        tc_buffer_text(&b, "GET / HTTP/1.1\r\n" HOST "x: "); // their bytes: Host takes 9, x takes 5
        fill(&b, 'v', TC_HTTP_HEADER_BYTES_MAX - 9 - 5 + over);
        tc_buffer_text(&b, "\r\n\r\n");
        expect_limit(&b, over ? 431 : 0);

        tc_buffer_text(&b, CHUNKED "1;"); // chunk extensions
        fill(&b, 'e', TC_HTTP_CHUNK_EXT_BYTES_MAX + over);
        tc_buffer_text(&b, "\r\na\r\n0\r\n\r\n");
        expect_limit(&b, over ? 400 : 0);

        tc_buffer_text(&b, CHUNKED
                       "0\r\nt: "); // trailers count with the head (Host 9, Transfer-Encoding 28, t 5)
        fill(&b, 't', TC_HTTP_HEADER_BYTES_MAX - 9 - 28 - 5 + over);
        tc_buffer_text(&b, "\r\n\r\n");
        expect_limit(&b, over ? 431 : 0);
    }
    tc_buffer b = {0}; // padding is no field, and bounded all the same
    tc_buffer_text(&b, "GET / HTTP/1.1\r\n" HOST "x:");
    fill(&b, ' ', TC_HTTP_HEAD_RAW_BYTES_MAX);
    outcome o = parse(b.data, b.count, 1000);
    assert_int_equal(o.status, 431);
    tc_buffer_free(&b);
}

static void limits_of_the_body(void **state)
{
    (void)state;
    for (int chunked = 0; chunked < 2; chunked++) {
        for (int over = 0; over < 2; over++) {
            tc_buffer b = {0};
            size_t bytes = TC_HTTP_BODY_BYTES_MAX + (size_t)over;
            char *body = calloc(1, bytes);
            if (chunked)
                tc_buffer_format(&b, CHUNKED "%zx\r\n", bytes);
            else
                tc_buffer_format(&b, "POST / HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n", bytes);
            tc_buffer_append(&b, body, bytes);
            tc_buffer_text(&b, chunked ? "\r\n0\r\n\r\n" : "");
            outcome o = parse(b.data, b.count, 65536);
            assert_int_equal(o.status, over ? 413 : 0);
            assert_int_equal(o.complete, !over);
            free(body);
            tc_buffer_free(&b);
        }
    }
}

static const tc_gateway_model model = {
    .name = "org/tiny",
    .context = 100,
    .vocab = 260,
    .defaults = {.temperature = 0.5f, .top_p = 0.75f, .top_k = 9, .repetition_penalty = 1}};

static void bad_bodies_name_the_field(void **state)
{
    static const struct {
        tc_dialect dialect;
        const char *body, *param;
        int status;
    } cases[] = {
        {TC_DIALECT_GENERATE, "", "", 400},
        {TC_DIALECT_GENERATE, "{", "", 400},
        {TC_DIALECT_GENERATE, "[]", "", 400},
        {TC_DIALECT_GENERATE, "null", "", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\"} x", "", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",}", "", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"\xff\"}", "", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"\\ud800\"}", "", 400},
        {TC_DIALECT_GENERATE, "{}", "prompt", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":null}", "prompt", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"\"}", "prompt", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":5}", "prompt", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":[\"a\"]}", "prompt", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"prompt\":\"b\"}", "prompt", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":-1}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":1048577}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":1.5}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":\"5\"}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":4294967297}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"max_tokens\":18446744073709551616}", "max_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"temperature\":-0.1}", "temperature", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"temperature\":2.01}", "temperature", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"temperature\":true}", "temperature", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"top_p\":0}", "top_p", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"top_p\":1e-60}", "top_p", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"top_p\":1.1}", "top_p", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"min_p\":1.1}", "min_p", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"top_k\":-2}", "top_k", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"min_tokens\":257}", "min_tokens", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stop_token_ids\":[260]}", "stop_token_ids", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stop_token_ids\":5}", "stop_token_ids", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"ignore_eos\":0}", "ignore_eos", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"regex\":5}", "regex", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"regex\":\"a\",\"grammar\":\"b\"}", "grammar", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"top_k\":1048577}", "top_k", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"repetition_penalty\":0}", "repetition_penalty", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"presence_penalty\":2.5}", "presence_penalty", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"frequency_penalty\":-2.5}", "frequency_penalty", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"seed\":1.5}", "seed", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"seed\":\"x\"}", "seed", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stop\":\"\"}", "stop", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stop\":5}", "stop", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stop\":[\"a\",5]}", "stop", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stop\":\"a\\u0000b\"}", "stop", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"stream\":1}", "stream", 400},
        {TC_DIALECT_GENERATE, "{\"prompt\":\"a\",\"optimize_experts\":\"yes\"}", "optimize_experts", 400},
        {TC_DIALECT_BATCH, "{\"prompt\":\"a\"}", "prompts", 400},
        {TC_DIALECT_BATCH, "{\"prompts\":\"a\"}", "prompts", 400},
        {TC_DIALECT_BATCH, "{\"prompts\":[]}", "prompts", 400},
        {TC_DIALECT_BATCH, "{\"prompts\":[\"a\",\"\"]}", "prompts", 400},
        {TC_DIALECT_BATCH, "{\"prompts\":[\"a\",1]}", "prompts", 400},
        {TC_DIALECT_BATCH, "{\"prompts\":[\"a\"],\"stream\":true}", "stream", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":{}}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[[]]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[260]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[-1]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[1.5]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[1,\"a\"]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[\"a\",1]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[[1],2]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":[true]}", "prompt", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"model\":\"other\"}", "model", 404},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"model\":5}", "model", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"n\":0}", "n", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"n\":17}", "n", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"best_of\":2}", "best_of", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"logprobs\":21}", "logprobs", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"suffix\":\"x\"}", "suffix", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"260\":1}}", "logit_bias", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"5x\":1}}", "logit_bias", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":101}}", "logit_bias", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":\"1\"}}", "logit_bias", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"logit_bias\":[1]}", "logit_bias", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"echo\":1}", "echo", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":true}}",
         "stream_options", 400},
        {TC_DIALECT_COMPLETIONS, "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":5}", "stream_options",
         400},
        {TC_DIALECT_COMPLETIONS,
         "{\"prompt\":\"a\",\"stream\":true,\"stream_options\":{\"include_usage\":5}}",
         "stream_options.include_usage", 400},
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        tc_params params = {0};
        tc_http_error error = {0};
        char *exact = malloc(strlen(cases[i].body) + 1);
        memcpy(exact, cases[i].body, strlen(cases[i].body));
        bool good =
            tc_params_read(&model, 260, cases[i].dialect, exact, strlen(cases[i].body), &params, &error);
        free(exact);
        if (good || error.status != cases[i].status || strcmp(error.param, cases[i].param) != 0)
            fail_msg("%s: %d, status %d, param '%s'", cases[i].body, good, error.status, error.param);
        assert_true(*error.message);
    }
}

static tc_params good(tc_dialect dialect, const char *body)
{
    tc_params params = {0};
    tc_http_error error = {0};
    if (!tc_params_read(&model, 260, dialect, body, strlen(body), &params, &error))
        fail_msg("%s: %s", body, error.message);
    return params;
}

static void good_bodies(void **state)
{
    (void)state;
    tc_params p = good(TC_DIALECT_GENERATE, "{\"prompt\":\"hi\",\"unknown\":[1,{}],\"temperature\":null}");
    assert_int_equal(p.max_tokens, 256);
    assert_float_equal(p.sampling.temperature, 0.5, 1e-6); // the model's
    assert_float_equal(p.sampling.top_p, 0.75, 1e-6);
    assert_int_equal(p.sampling.top_k, 9);
    assert_false(p.sampling.seeded);
    assert_true(p.optimize_experts);
    assert_int_equal(p.text_bytes, 2);
    tc_params_free(&p);

    p = good(TC_DIALECT_GENERATE,
             "{\"prompt\":\"a\\u0000b\",\"max_tokens\":1048576,\"temperature\":0,\"top_p\":1,\"top_k\":0,"
             "\"min_p\":1,\"repetition_penalty\":1.5,\"presence_penalty\":-2,\"frequency_penalty\":2,"
             "\"seed\":-1,\"stop\":[\"x\",\"yy\"],\"stream\":true,\"optimize_experts\":false}");
    assert_int_equal(p.prompts[0].bytes, 3);
    assert_int_equal(p.max_tokens, 1 << 20);
    assert_float_equal(p.sampling.temperature, 0, 0);
    assert_int_equal(p.sampling.top_k, 0);
    assert_true(p.sampling.seeded);
    assert_true(p.sampling.seed == UINT64_MAX);
    assert_int_equal(p.stop_count, 2);
    assert_string_equal(p.stops[1], "yy");
    assert_true(p.stream);
    assert_false(p.optimize_experts);
    tc_params_free(&p);

    p = good(TC_DIALECT_COMPLETIONS,
             "{\"model\":\"org/tiny\",\"prompt\":[[1,2],[259]],\"n\":3,\"best_of\":1,\"max_tokens\":0,"
             "\"logprobs\":null,\"suffix\":\"\",\"logit_bias\":{},\"echo\":true,\"stop\":\"a\"}");
    assert_int_equal(p.prompt_count, 2);
    assert_int_equal(p.prompts[1].ids[0], 259);
    assert_int_equal(p.n, 3);
    assert_int_equal(p.max_tokens, 0);
    tc_params_free(&p);
    p = good(TC_DIALECT_COMPLETIONS, "{\"prompt\":[\"a\",\"bc\"]}");
    assert_int_equal(p.max_tokens, 16);
    assert_int_equal(p.text_bytes, 3);
    tc_params_free(&p);
    p = good(TC_DIALECT_COMPLETIONS, "{\"prompt\":[5,6]}");
    assert_int_equal(p.prompt_count, 1);
    assert_int_equal(p.prompts[0].id_count, 2);
    tc_params_free(&p);
}

// {"prompt": "a", NAME: [ITEM, ITEM, ...]} with `count` items.
static void list_body(tc_buffer *b, const char *start, const char *item, int count)
{
    tc_buffer_text(b, start);
    for (int i = 0; i < count; i++) {
        if (i) tc_buffer_text(b, ",");
        tc_buffer_text(b, item);
    }
    tc_buffer_text(b, "]}");
}

static void limits_of_bodies(void **state)
{
    (void)state;
    for (int over = 0; over < 2; over++) {
        tc_buffer bodies[5] = {0};
        static const tc_dialect dialects[] = {TC_DIALECT_GENERATE, TC_DIALECT_BATCH, TC_DIALECT_GENERATE,
                                              TC_DIALECT_GENERATE, TC_DIALECT_COMPLETIONS};
        list_body(&bodies[0], "{\"prompt\":\"a\",\"stop\":[", "\"s\"", TC_STOPS_MAX + over);
        list_body(&bodies[1], "{\"prompts\":[", "\"p\"", TC_API_PROMPTS_MAX + over);
        tc_buffer_text(&bodies[2], "{\"prompt\":\"a\",\"stop\":\"");
        fill(&bodies[2], 's', TC_STOP_BYTES_MAX + over);
        tc_buffer_text(&bodies[2], "\"}");
        tc_buffer_text(&bodies[3], "{\"prompt\":\"[[[\\\"[[\",\"deep\":"); // brackets in strings are no depth
        fill(&bodies[3], '[', TC_BODY_JSON_DEPTH_MAX - 1 + over);
        fill(&bodies[3], ']', TC_BODY_JSON_DEPTH_MAX - 1 + over);
        tc_buffer_text(&bodies[3], "}");
        list_body(&bodies[4], over ? "{\"n\":3,\"prompt\":[" : "{\"n\":2,\"prompt\":[", "\"p\"",
                  TC_API_PROMPTS_MAX);
        for (size_t i = 0; i < COUNT(bodies); i++) {
            tc_params params = {0};
            tc_http_error error = {0};
            if (tc_params_read(&model, 260, dialects[i], bodies[i].data, bodies[i].count, &params, &error) ==
                over)
                fail_msg("limit %zu, %d over: %s", i, over, error.message);
            assert_int_equal(error.status, over ? 400 : 0);
            tc_params_free(&params);
            tc_buffer_free(&bodies[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_strings_are_valid),
        cmocka_unit_test(buffer_keeps_its_cap),
        cmocka_unit_test(addresses),
        cmocka_unit_test(keys),
        cmocka_unit_test(framing),
        cmocka_unit_test(keep_alive_follows_the_version),
        cmocka_unit_test(limits_of_the_head),
        cmocka_unit_test(limits_of_the_body),
        cmocka_unit_test(bad_bodies_name_the_field),
        cmocka_unit_test(good_bodies),
        cmocka_unit_test(limits_of_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
