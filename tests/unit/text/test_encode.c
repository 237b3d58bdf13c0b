// SPDX-License-Identifier: Apache-2.0
// Owns: encoding and decoding beyond the vectors: malformed UTF-8, hostile lengths, special tokens as text,
// the words that end where the input ends, and that each fast path agrees with its slow twin.
#include "common/text/bpe.h"
#include "common/text/nfc.h"
#include "common/text/unicode.h"
#include "tests/unit/text/small_json.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include <cmocka.h>

static const small_json usual = {
    .vocab = ",\"ab\":256,\"abc\":257,\"aa\":258,\"aaaa\":259,\"bc\":260,\"\\u0120a\":261,\"<s>\":262",
    .merges = "\"a b\",\"ab c\",\"a a\",\"aa aa\",\"b c\",\"\\u0120 a\"",
    .added = SMALL_ADDED("257", "abc", "true", "false", SMALL_PLAIN) "," SMALL_ADDED(
        "300", "<x>", "true", "false", SMALL_PLAIN) "," SMALL_ADDED("301", "<y>", "false", "false",
                                                                    SMALL_PLAIN),
};

static tc_ids encode(const tc_tokenizer *t, const char *text, size_t bytes, tc_special special)
{
    tc_ids ids = {0};
    tc_error e;
    if (tc_tokenizer_encode(t, text, bytes, special, &ids, &e) != TC_OK) fail_msg("%s", e.text);
    return ids;
}

static void test_special(void **state)
{
    static const struct {
        const char *text;
        tc_special special;
        size_t count;
        uint32_t ids[8];
    } cases[] = {
        {"<x>", TC_SPECIAL_PARSE, 1, {300}},
        {"<x>", TC_SPECIAL_AS_TEXT, 3, {'<', 'x', '>'}},
        {"<y>", TC_SPECIAL_PARSE, 1, {301}},
        {"<y>", TC_SPECIAL_AS_TEXT, 1, {301}},         // added, but not special
        {"<s>", TC_SPECIAL_PARSE, 3, {'<', 's', '>'}}, // in the vocabulary, but no merge makes it
        {"abc", TC_SPECIAL_PARSE, 1, {257}},
        {"abc", TC_SPECIAL_AS_TEXT, 2, {256, 'c'}}, // merging must not make a special token
        {"zabca", TC_SPECIAL_AS_TEXT, 4, {'z', 256, 'c', 'a'}},
        {"ab<x>c", TC_SPECIAL_PARSE, 3, {256, 300, 'c'}},
        {"aaaaaa", TC_SPECIAL_PARSE, 2, {259, 258}},
        {" a", TC_SPECIAL_PARSE, 1, {261}},
        {"  a", TC_SPECIAL_PARSE, 2, {' ', 261}},
        {"a  ", TC_SPECIAL_PARSE, 3, {'a', ' ', ' '}},
        {"", TC_SPECIAL_PARSE, 0, {0}},
    };
    tc_tokenizer *t = small_json_load(&usual);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_ids ids = encode(t, cases[i].text, strlen(cases[i].text), cases[i].special);
        assert_int_equal(ids.count, cases[i].count);
        if (ids.count) assert_memory_equal(ids.data, cases[i].ids, ids.count * sizeof *ids.data);
        tc_ids_free(&ids);
    }
    tc_tokenizer_free(t);
}

// A long word has the same rules as a short one: `abc` barred, everything else merged.
static void test_special_in_long_word(void **state)
{
    tc_tokenizer *t = small_json_load(&usual);
    char text[3 * 40 + 1] = "";
    for (int i = 0; i < 40; i++) strcat(text, "abc");
    tc_ids parse = {0}, plain = encode(t, text, strlen(text), TC_SPECIAL_AS_TEXT);
    assert_int_equal(plain.count, 80);
    for (size_t i = 0; i < plain.count; i++) assert_int_equal(plain.data[i], i % 2 ? 'c' : 256);
    parse = encode(t, text, strlen(text), TC_SPECIAL_PARSE);
    assert_int_equal(parse.count, 40);
    tc_ids_free(&plain);
    tc_ids_free(&parse);
    tc_tokenizer_free(t);
}

static void test_malformed_utf8(void **state)
{
    static const struct {
        const char *text;
        size_t bytes, replaced;
    } cases[] = {
        {"\xff", 1, 1},
        {"\x80\x80", 2, 2},
        {"\xc0\xaf", 2, 2},         // overlong
        {"\xe0\x80\x80", 3, 3},     // overlong
        {"\xed\xa0\x80", 3, 3},     // surrogate
        {"\xf4\x90\x80\x80", 4, 4}, // beyond U+10FFFF
        {"\xe4\xb8", 2, 1},         // cut off
        {"\xf0\x9f\x98", 3, 1},     // cut off
        {"\xf0\x9f\x98\xff", 4, 2},
        {"\xe4\xb8\xe4\xb8\x96", 5, 1}, // cut off by a whole character
    };
    tc_tokenizer *t = small_json_load(&usual);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        size_t bytes, found = 0;
        tc_ids ids = encode(t, cases[i].text, cases[i].bytes, TC_SPECIAL_PARSE);
        assert_int_equal(tc_tokenizer_decode(t, ids.data, ids.count, false, &text, &bytes, NULL), TC_OK);
        for (char *p = text; (p = strstr(p, "\xef\xbf\xbd")); p += 3) found++;
        assert_int_equal(found, cases[i].replaced);
        free(text);
        tc_ids_free(&ids);
        // The same bytes as tokens decode to the same text.
        for (size_t k = 0; k < cases[i].bytes; k++) tc_ids_push(&ids, (uint8_t)cases[i].text[k]);
        assert_int_equal(tc_tokenizer_decode(t, ids.data, ids.count, false, &text, &bytes, NULL), TC_OK);
        found = 0;
        for (char *p = text; (p = strstr(p, "\xef\xbf\xbd")); p += 3) found++;
        assert_int_equal(found, cases[i].replaced);
        free(text);
        tc_ids_free(&ids);
    }
    tc_tokenizer_free(t);
}

// Each of these took quadratic time in some first version of a tokenizer; the suite's time limit is the
// check.
static void test_hostile_texts(void **state)
{
    static const char *const units[] = {
        "a",   "A", " ", "\n", "=", "\xcc\x81\xcc\xa3", "a\xcc\x81", "<", "<x", "'", "\xe4\xb8\x96",
        " \n", "ab"};
    enum { TEXT_BYTES = 2 << 20 };
    tc_tokenizer *t = small_json_load(&usual);
    char *text = malloc(TEXT_BYTES);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t bytes = 0, unit = strlen(units[i]), back_bytes;
        for (; bytes + unit <= TEXT_BYTES; bytes += unit) memcpy(text + bytes, units[i], unit);
        tc_ids ids = encode(t, text, bytes, TC_SPECIAL_PARSE);
        char *back;
        assert_true(ids.count > 0);
        assert_int_equal(tc_tokenizer_decode(t, ids.data, ids.count, false, &back, &back_bytes, NULL), TC_OK);
        if (!strpbrk(units[i], "\xcc")) {
            assert_int_equal(back_bytes, bytes);
            assert_memory_equal(back, text, bytes);
        }
        free(back);
        tc_ids_free(&ids);
    }
    free(text);
    tc_tokenizer_free(t);
}

static void test_limit(void **state)
{
    tc_tokenizer *t = small_json_load(&usual);
    tc_ids ids = {0};
    tc_error e = {0};
    char *text = malloc(TC_TEXT_BYTES_MAX + 1);
    assert_non_null(text);
    memset(text, '5', TC_TEXT_BYTES_MAX + 1);
    tc_ids_push(&ids, 7);
    assert_int_equal(tc_tokenizer_encode(t, text, TC_TEXT_BYTES_MAX + 1, TC_SPECIAL_PARSE, &ids, &e),
                     TC_LIMIT);
    assert_int_equal(ids.count, 1); // untouched
    assert_int_equal(tc_tokenizer_encode(t, text, TC_TEXT_BYTES_MAX, TC_SPECIAL_PARSE, &ids, &e), TC_OK);
    assert_int_equal(ids.count, 1 + TC_TEXT_BYTES_MAX);
    free(text);
    tc_ids_free(&ids);
    tc_tokenizer_free(t);
}

static uint32_t next_random(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u, *seed >> 8;
}

// Short words are scanned, long ones use the heap, and common ones are looked up. A word padded on both sides
// with bytes that never merge must give the same tokens as alone.
static void test_short_equals_long(void **state)
{
    tc_tokenizer *t = small_json_load(&(small_json){.vocab = usual.vocab, .merges = usual.merges});
    uint32_t seed = 5;
    for (int round = 0; round < 3000; round++) {
        enum { PAD = 64 };
        char text[PAD * 2 + 40];
        size_t bytes = 1 + next_random(&seed) % 38;
        memset(text, 'z', sizeof text);
        for (size_t i = 0; i < bytes; i++) text[PAD + i] = "aaabbccd"[next_random(&seed) % 8];
        tc_ids alone = encode(t, text + PAD, bytes, TC_SPECIAL_PARSE),
               padded = encode(t, text, PAD * 2 + bytes, TC_SPECIAL_PARSE);
        assert_int_equal(padded.count, alone.count + PAD * 2);
        assert_memory_equal(padded.data + PAD, alone.data, alone.count * sizeof *alone.data);
        tc_ids_free(&alone);
        tc_ids_free(&padded);
    }
    tc_tokenizer_free(t);
}

// ignore_merges: a word of the vocabulary is one token, whatever the merges say.
static void test_ignore_merges(void **state)
{
    small_json parts = {.vocab = ",\"xyz\":256", .model = "\"ignore_merges\":true,"};
    tc_tokenizer *t = small_json_load(&parts);
    tc_ids ids = encode(t, "xyz", 3, TC_SPECIAL_PARSE);
    assert_int_equal(ids.count, 1);
    assert_int_equal(ids.data[0], 256);
    tc_ids_free(&ids);
    tc_tokenizer_free(t);
    parts.model = "";
    t = small_json_load(&parts);
    ids = encode(t, "xyz", 3, TC_SPECIAL_PARSE);
    assert_int_equal(ids.count, 3);
    tc_ids_free(&ids);
    tc_tokenizer_free(t);
}

// The stretch-wise normaliser against utf8proc's whole-text one, on characters that both know alike.
static void test_nfc_twin(void **state)
{
    static const uint32_t chars[] = {'a',    'e',    's',     'K',   0xe9,    0x1e69, 0x212b, 0x300,  0x301,
                                     0x302,  0x307,  0x323,   0x334, 0x345,   0x1100, 0x1161, 0x11a8, 0xac00,
                                     0xac01, 0x915,  0x93c,   0x958, 0x9c7,   0x9be,  0x3b1,  0x1f80, 0x2126,
                                     0x4e00, 0xf900, 0x1d15e, ' ',   0x1f600, 0x200d, 0x30ab, 0x3099, 0xfb1d};
    uint32_t seed = 9;
    tc_bytes out = {0};
    tc_unicode_init();
    for (int round = 0; round < 20000; round++) {
        uint8_t text[64 * 4];
        size_t bytes = 0, count = 1 + next_random(&seed) % 40, got_bytes;
        const uint8_t *got;
        for (size_t i = 0; i < count; i++)
            bytes += (size_t)utf8proc_encode_char(
                (utf8proc_int32_t)chars[next_random(&seed) % (sizeof chars / sizeof *chars)], text + bytes);
        utf8proc_uint8_t *want = NULL;
        utf8proc_ssize_t want_bytes =
            utf8proc_map(text, (utf8proc_ssize_t)bytes, &want, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        assert_int_equal(tc_nfc(text, bytes, &out, &got, &got_bytes), TC_OK);
        assert_int_equal(got_bytes, want_bytes);
        assert_memory_equal(got, want, got_bytes);
        free(want);
    }
    free(out.data);
}

static void test_lookups(void **state)
{
    tc_tokenizer *t = small_json_load(&usual);
    uint32_t id = 0;
    size_t bytes = 0;
    assert_int_equal(tc_tokenizer_vocab(t), 302);
    assert_true(tc_tokenizer_find(t, "<x>", &id));
    assert_int_equal(id, 300);
    assert_false(tc_tokenizer_find(t, "<z>", &id));
    assert_false(tc_tokenizer_find(t, "ab", &id)); // of the vocabulary, not added
    assert_int_equal(id, 300);
    assert_true(tc_tokenizer_is_special(t, 300));
    assert_false(tc_tokenizer_is_special(t, 301));
    assert_false(tc_tokenizer_is_special(t, 302));
    assert_false(tc_tokenizer_is_special(t, UINT32_MAX));
    assert_memory_equal(tc_tokenizer_token_bytes(t, 261, &bytes), " a", 2);
    assert_int_equal(bytes, 2);
    assert_memory_equal(tc_tokenizer_token_bytes(t, 300, &bytes), "<x>", 3);
    assert_null(tc_tokenizer_token_bytes(t, 299, &bytes));
    assert_null(tc_tokenizer_token_bytes(t, 302, &bytes));
    assert_null(tc_tokenizer_token_bytes(t, UINT32_MAX, &bytes));
    const uint32_t ids[] = {300, 'a', 299, 301, UINT32_MAX};
    char *text;
    assert_int_equal(tc_tokenizer_decode(t, ids, 5, true, &text, &bytes, NULL), TC_OK);
    assert_string_equal(text, "a<y>");
    free(text);
    assert_int_equal(tc_tokenizer_decode(t, ids, 5, false, &text, &bytes, NULL), TC_OK);
    assert_string_equal(text, "<x>a<y>");
    free(text);
    tc_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_special),        cmocka_unit_test(test_special_in_long_word),
        cmocka_unit_test(test_malformed_utf8), cmocka_unit_test(test_hostile_texts),
        cmocka_unit_test(test_limit),          cmocka_unit_test(test_short_equals_long),
        cmocka_unit_test(test_ignore_merges),  cmocka_unit_test(test_nfc_twin),
        cmocka_unit_test(test_lookups),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
