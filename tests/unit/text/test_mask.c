// SPDX-License-Identifier: Apache-2.0
// Shows: masks are exact (every token is tried), also after states were dropped, far inside counted repeats
// and at the limit of matchers; pieces of characters, tokens across values, special tokens; the real
// vocabulary where it is there.
#include "common/text/grammar_automaton.h"
#include "common/text/grammar_mask.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tc_error error;

// Bytes, and pieces of JSON and text of several of them; two tokens are the same text; one is special (no
// text).
enum { PIECES = 24, VOCAB = 256 + PIECES + 1, SPECIAL = VOCAB - 1 };
static const char *const pieces[PIECES] = {
    "\"}",      "\", \"",   "{\"", "\":",  "\": ",  "ab",   "abc",  "\xe6\x97\xa5",
    "\xe6\x97", "\xa5\xe6", "  ",  "\n  ", "true",  "null", "[[",   "]]",
    "}}",       "12",       "0.5", "\\\"", "\\u00", "ab",   "\xc3", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

static tc_vocabulary *small_vocabulary(void)
{
    static char bytes[256];
    const char *texts[VOCAB] = {0};
    uint32_t lengths[VOCAB] = {0};
    tc_vocabulary *v = NULL;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        texts[i] = &bytes[i];
        lengths[i] = 1;
    }
    for (int i = 0; i < PIECES; i++) {
        texts[256 + i] = pieces[i];
        lengths[256 + i] = (uint32_t)strlen(pieces[i]);
    }
    assert_int_equal(tc_vocabulary_create(texts, lengths, VOCAB, &v, &error), TC_OK);
    return v;
}

typedef struct setup {
    tc_grammar *grammar;
    tc_acceptor *acceptor;
} setup;

static setup setup_of(tc_constraint_kind kind, const char *text, const tc_vocabulary *v)
{
    setup s = {0};
    const tc_constraint c = {kind, text, strlen(text)};
    if (tc_grammar_compile(&c, &s.grammar, &error) != TC_OK) fail_msg("%s: %s", text, error.text);
    assert_int_equal(tc_acceptor_create(s.grammar, v, &s.acceptor, &error), TC_OK);
    return s;
}

static void free_setup(setup *s)
{
    tc_acceptor_free(s->acceptor);
    tc_grammar_free(s->grammar);
}

// The oracle: an automaton of its own, the text from its start, then every token by itself. No masks, no
// twins.
static uint32_t run(tc_automaton *a, uint32_t state, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n && state >= TC_STATE_FIRST; i++)
        state = tc_automaton_step(a, state, a->grammar->class_of[bytes[i]]);
    return state;
}

static void check_mask(const setup *s, const tc_vocabulary *v, tc_matcher *m, const char *text, size_t bytes)
{
    uint32_t mask[(VOCAB + 31) / 32], n;
    bool may_end;
    tc_automaton *a = NULL;
    assert_int_equal(tc_matcher_mask(m, mask, &may_end, &error), TC_OK);
    assert_int_equal(tc_automaton_create(s->grammar, &a, &error), TC_OK);
    uint32_t here = run(a, tc_automaton_start(a), (const uint8_t *)text, bytes);
    for (uint32_t id = 0; id < v->size; id++) {
        const uint8_t *token = tc_vocabulary_token(v, id, &n);
        bool want = n && run(a, here, token, n) >= TC_STATE_FIRST;
        if (want != (mask[id >> 5] >> (id & 31) & 1))
            fail_msg("behind %.*s: token %u: %d", (int)bytes, text, id, !want);
    }
    tc_automaton_free(a);
    bool member;
    assert_int_equal(tc_grammar_match(s->grammar, text, bytes, &member, &error), TC_OK);
    assert_int_equal(may_end, member);
    assert_int_equal(tc_matcher_may_end(m), member);
}

static void exact_along(tc_constraint_kind kind, const char *constraint, const char *text)
{
    tc_vocabulary *v = small_vocabulary();
    setup s = setup_of(kind, constraint, v);
    tc_matcher m;
    bool must_end = false;
    assert_int_equal(tc_matcher_begin(&m, s.acceptor, &error), TC_OK);
    for (size_t i = 0;; i++) {
        check_mask(&s, v, &m, text, i);
        if (!text[i]) break;
        if (tc_matcher_take(&m, (uint8_t)text[i], &must_end, &error) != TC_OK)
            fail_msg("%s: byte %zu of %s: %s", constraint, i, text, error.text);
    }
    tc_matcher_end(&m);
    free_setup(&s);
    tc_vocabulary_free(v);
}

static void exact(void **state)
{
    (void)state;
    exact_along(TC_CONSTRAINT_REGEX, "(ab|abc)+\xe6\x97\xa5?", "ababc\xe6\x97\xa5");
    exact_along(TC_CONSTRAINT_REGEX, "[^a]*b{2,3}",
                "\xc3\xa9"
                "bb");
    exact_along(TC_CONSTRAINT_JSON_OBJECT, "", "{\"ab\": [[1.5, true],\n  \"\xe6\x97\xa5\\u00e9\"]}");
    exact_along(TC_CONSTRAINT_GRAMMAR, "root ::= \"{\" root? \"}\" | \"[\" root \"]\"", "{[{}]}");
    exact_along(TC_CONSTRAINT_JSON_SCHEMA,
                "{\"properties\":{\"ab\":{\"type\":\"string\",\"minLength\":3,\"maxLength\":50},\"abc\":{"
                "\"enum\":[12,0.5,null]}},"
                "\"required\":[\"ab\"]}",
                "{\"ab\":\"abcabcabcabcabcabcabcabcabcabcabcabcabcabcabcabc\", \"abc\":0.5}");
}

// Counted repeats longer than any token: states far from both bounds share their masks, near them they must
// not.
static void counted(void **state)
{
    (void)state;
    tc_vocabulary *v = small_vocabulary();
    setup s = setup_of(TC_CONSTRAINT_REGEX, "x(?:a|b){100,300}y", v);
    tc_matcher m;
    bool must_end;
    char text[400] = "x";
    assert_int_equal(tc_matcher_begin(&m, s.acceptor, &error), TC_OK);
    assert_int_equal(tc_matcher_take(&m, 'x', &must_end, &error), TC_OK);
    for (size_t i = 1; i <= 300; i++) {
        bool near = i < 4 || (i > 60 && i < 105) || i > 260;
        if (near || i % 37 == 0) check_mask(&s, v, &m, text, i);
        text[i] = "ab"[i % 3 == 0];
        assert_int_equal(tc_matcher_take(&m, (uint8_t)text[i], &must_end, &error), TC_OK);
    }
    check_mask(&s, v, &m, text, 301);
    assert_int_equal(tc_matcher_take(&m, 'a', &must_end, &error), TC_ARGUMENT);
    assert_int_equal(tc_matcher_take(&m, 'y', &must_end, &error), TC_OK);
    assert_true(must_end);
    tc_acceptor_stats stats = tc_acceptor_get_stats(s.acceptor);
    assert_true(stats.computed < stats.masks);
    tc_matcher_end(&m);
    free_setup(&s);
    tc_vocabulary_free(v);
}

static void special_tokens(void **state)
{
    (void)state;
    tc_vocabulary *v = small_vocabulary();
    setup s = setup_of(TC_CONSTRAINT_REGEX, "[^\\x00]*", v);
    tc_matcher m;
    uint32_t mask[(VOCAB + 31) / 32];
    bool end;
    assert_int_equal(tc_matcher_begin(&m, s.acceptor, &error), TC_OK);
    assert_int_equal(tc_matcher_mask(&m, mask, &end, &error), TC_OK);
    assert_true(end);
    assert_false(mask[SPECIAL >> 5] >> (SPECIAL & 31) & 1);
    assert_int_equal(tc_matcher_take(&m, SPECIAL, &end, &error), TC_ARGUMENT);
    assert_int_equal(tc_matcher_take(&m, VOCAB, &end, &error), TC_ARGUMENT);
    assert_int_equal(tc_matcher_take(&m, 0x97, &end, &error), TC_ARGUMENT); // no character begins so
    assert_int_equal(tc_matcher_take(&m, 0xe6, &end, &error), TC_OK);
    assert_false(tc_matcher_may_end(&m)); // inside a character
    tc_matcher_end(&m);
    free_setup(&s);
    tc_vocabulary_free(v);
}

// More states than there is room for: a language that remembers its last 16 letters. Matchers stay where they
// are.
static void collections(void **state)
{
    (void)state;
    tc_vocabulary *v = small_vocabulary();
    setup s = setup_of(TC_CONSTRAINT_REGEX, "(?:a|b)*a(?:a|b){15}", v);
    tc_matcher walks, waits;
    uint64_t random = 1;
    uint32_t mask[(VOCAB + 31) / 32];
    char text[64];
    bool end;
    assert_int_equal(tc_matcher_begin(&waits, s.acceptor, &error), TC_OK);
    assert_int_equal(tc_matcher_take(&waits, 'a', &end, &error), TC_OK);
    assert_int_equal(tc_matcher_begin(&walks, s.acceptor, &error), TC_OK);
    for (int i = 0; i < 60000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        char c = "ab"[random >> 60 & 1];
        memmove(text, text + 1, 15);
        text[15] = c;
        assert_int_equal(tc_matcher_take(&walks, (uint8_t)c, &end, &error), TC_OK);
        if (i % 100 == 0) assert_int_equal(tc_matcher_mask(&walks, mask, &end, &error), TC_OK);
        if (i >= 16) assert_int_equal(tc_matcher_may_end(&walks), text[0] == 'a');
    }
    assert_true(tc_acceptor_get_stats(s.acceptor).collections > 0);
    check_mask(&s, v, &waits, "a", 1);
    tc_matcher_end(&walks);
    tc_matcher_end(&waits);
    free_setup(&s);
    tc_vocabulary_free(v);
}

// Too many ways to read a text: an error, and the matcher stays.
static void ambiguous(void **state)
{
    (void)state;
    tc_vocabulary *v = small_vocabulary();
    setup s = setup_of(TC_CONSTRAINT_REGEX, "(?:(?:a{1,900}){1,900}){5,900}b", v);
    tc_matcher m;
    tc_status status = TC_OK;
    bool end;
    assert_int_equal(tc_matcher_begin(&m, s.acceptor, &error), TC_OK);
    for (int i = 0; i < 2000 && status == TC_OK; i++) status = tc_matcher_take(&m, 'a', &end, &error);
    assert_int_equal(status, TC_LIMIT);
    assert_non_null(strstr(error.text, "too many ways"));
    tc_matcher_end(&m);
    free_setup(&s);
    tc_vocabulary_free(v);
}

static void matcher_limit(void **state)
{
    (void)state;
    tc_vocabulary *v = small_vocabulary();
    setup s = setup_of(TC_CONSTRAINT_REGEX, "a*", v);
    tc_matcher *m = calloc(TC_MATCHERS_MAX + 1, sizeof *m);
    for (int i = 0; i < TC_MATCHERS_MAX; i++)
        assert_int_equal(tc_matcher_begin(&m[i], s.acceptor, &error), TC_OK);
    assert_int_equal(tc_matcher_begin(&m[TC_MATCHERS_MAX], s.acceptor, &error), TC_LIMIT);
    for (int i = 0; i <= TC_MATCHERS_MAX; i++) tc_matcher_end(&m[i]);
    free(m);
    free_setup(&s);
    tc_vocabulary_free(v);
}

// Tokens beyond the longest that is offered, and at it.
static void long_tokens(void **state)
{
    (void)state;
    char text[TC_GRAMMAR_TOKEN_BYTES_MAX + 2];
    memset(text, ' ', sizeof text);
    const char *texts[] = {text, text};
    const uint32_t lengths[] = {TC_GRAMMAR_TOKEN_BYTES_MAX, TC_GRAMMAR_TOKEN_BYTES_MAX + 1};
    tc_vocabulary *v = NULL;
    uint32_t mask = 0;
    bool end;
    assert_int_equal(tc_vocabulary_create(texts, lengths, 2, &v, &error), TC_OK);
    setup s = setup_of(TC_CONSTRAINT_REGEX, " *", v);
    tc_matcher m;
    assert_int_equal(tc_matcher_begin(&m, s.acceptor, &error), TC_OK);
    assert_int_equal(tc_matcher_mask(&m, &mask, &end, &error), TC_OK);
    assert_int_equal(mask, 1);
    tc_matcher_end(&m);
    free_setup(&s);
    tc_vocabulary_free(v);
}

// 151,000 tokens, where that file is: no special token ever, and the tokens of a document are allowed one by
// one.
static void real_vocabulary(void **state)
{
    const char *path = getenv("TC_TEST_TOKENIZER");
    tc_tokenizer *t = NULL;
    tc_vocabulary *v = NULL;
    (void)state;
    if (!path) {
        print_message("TC_TEST_TOKENIZER is not set: no large vocabulary to test with\n");
        skip();
    }
    assert_int_equal(tc_tokenizer_load(path, &t, &error), TC_OK);
    assert_int_equal(tc_vocabulary_of(t, tc_tokenizer_vocab(t), &v, &error), TC_OK);
    static const char document[] =
        "{\"name\": \"J\\u00fcrgen \xe7\x8e\x8b\", \"items\": [1, 2.5, {\"deep\": [[], {}]}], \"ok\": true}";
    setup s = setup_of(TC_CONSTRAINT_JSON_OBJECT, "", v);
    uint32_t *mask = calloc(v->words, sizeof *mask);
    tc_ids ids = {0};
    tc_matcher m;
    bool end = false;
    assert_int_equal(tc_tokenizer_encode(t, document, sizeof document - 1, TC_SPECIAL_AS_TEXT, &ids, &error),
                     TC_OK);
    assert_int_equal(tc_matcher_begin(&m, s.acceptor, &error), TC_OK);
    for (size_t i = 0; i < ids.count; i++) {
        assert_int_equal(tc_matcher_mask(&m, mask, &end, &error), TC_OK);
        for (uint32_t id = 0; id < v->size; id++)
            if (tc_tokenizer_is_special(t, id)) assert_false(mask[id >> 5] >> (id & 31) & 1);
        assert_true(mask[ids.data[i] >> 5] >> (ids.data[i] & 31) & 1);
        assert_int_equal(tc_matcher_take(&m, ids.data[i], &end, &error), TC_OK);
    }
    assert_true(end);
    tc_matcher_end(&m);
    free(mask);
    tc_ids_free(&ids);
    free_setup(&s);
    tc_vocabulary_free(v);
    tc_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact),       cmocka_unit_test(counted),         cmocka_unit_test(special_tokens),
        cmocka_unit_test(collections), cmocka_unit_test(ambiguous),       cmocka_unit_test(matcher_limit),
        cmocka_unit_test(long_tokens), cmocka_unit_test(real_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
