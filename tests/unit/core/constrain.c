// SPDX-License-Identifier: Apache-2.0
// Shows: constraints of many requests at once, their masks made by the helper thread: each draws a text of
// its language, whatever the company and the order of ends; bad ones end with their reason; limits at N and N
// + 1; a constraint that begins behind a token; no tokenizer, no constraints. Meant to run under the thread
// sanitizer too.
#include "gpu-core/sched/constrain.h"
#include "common/text/tokenizer.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { VOCAB = 4096, EOS = 4093, REQUESTS = 24, TEXT_MAX = 4096 };

static tc_error error;
static tc_tokenizer *tokenizer;

static tc_constrainer *start(void)
{
    tc_constrainer *c = NULL;
    assert_int_equal(tc_constrainer_create(TC_MODEL, VOCAB, &c, &error), TC_OK);
    return c;
}

static tc_status begin(tc_constrainer *c, tc_constraint_kind kind, const char *text, uint32_t after,
                       tc_constrained **ret)
{
    static const uint32_t eos = EOS;
    const tc_constraint constraint = {kind, text, strlen(text)};
    return tc_constrained_begin(c, &constraint, after, &eos, 1, ret, &error);
}

static tc_status wait_ready(tc_constrained *r)
{
    tc_status status;
    while ((status = tc_constrained_ready(r, &error)) == TC_BUSY)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    return status;
}

typedef struct answer {
    tc_constrained *r;
    const char *constraint;
    tc_constraint_kind kind;
    char text[TEXT_MAX];
    size_t bytes;
    bool done;
    uint32_t tokens;
} answer;

static void one_token(answer *a, uint64_t *random)
{
    const uint32_t *mask;
    bool complete;
    if (tc_constrained_mask(a->r, &mask, &error) != TC_OK) fail_msg("%s: %s", a->constraint, error.text);
    assert_non_null(mask);
    uint32_t chosen = UINT32_MAX, n = 0;
    for (uint32_t id = 0; id < VOCAB; id++) {
        if (!(mask[id >> 5] >> (id & 31) & 1)) continue;
        *random = *random * 6364136223846793005u + 1442695040888963407u;
        if ((*random >> 33) % ++n == 0 || id == EOS) chosen = id;
    }
    assert_int_not_equal(chosen, UINT32_MAX);
    if (chosen == EOS) {
        a->done = true;
        return;
    }
    size_t bytes;
    const char *text = tc_tokenizer_token_bytes(tokenizer, chosen, &bytes);
    assert_false(tc_tokenizer_is_special(tokenizer, chosen));
    assert_true(a->bytes + bytes < TEXT_MAX);
    memcpy(a->text + a->bytes, text, bytes);
    a->bytes += bytes;
    assert_int_equal(tc_constrained_take(a->r, chosen, &complete, &error), TC_OK);
    a->done = complete;
    a->tokens++;
}

static void check_answer(const answer *a)
{
    const tc_constraint c = {a->kind, a->constraint, strlen(a->constraint)};
    tc_grammar *g = NULL;
    bool member;
    assert_int_equal(tc_grammar_compile(&c, &g, &error), TC_OK);
    assert_int_equal(tc_grammar_match(g, a->text, a->bytes, &member, &error), TC_OK);
    if (!member) fail_msg("%s: %.*s", a->constraint, (int)a->bytes, a->text);
    tc_grammar_free(g);
}

static void many_at_once(void **state)
{
    static const struct {
        tc_constraint_kind kind;
        const char *text;
    } constraints[] = {
        {TC_CONSTRAINT_REGEX, "[a-z]{3,40} [0-9]{2,5}"},
        {TC_CONSTRAINT_JSON_SCHEMA, "{\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":30},\"b\":{"
                                    "\"type\":\"integer\"}},\"required\":[\"a\",\"b\"]}"},
        {TC_CONSTRAINT_GRAMMAR, "root ::= (\"(\" [a-z]{0,5} \")\"){2,9}"},
        {TC_CONSTRAINT_JSON_SCHEMA,
         "{\"type\":\"array\",\"items\":{\"enum\":[\"x\",\"yy\",3]},\"minItems\":2,\"maxItems\":20}"},
    };
    (void)state;
    tc_constrainer *c = start();
    static answer answers[REQUESTS];
    uint64_t random = 7;
    uint32_t ended = 0;
    for (int i = 0; i < REQUESTS; i++) {
        answers[i] = (answer){.constraint = constraints[i % 4].text, .kind = constraints[i % 4].kind};
        assert_int_equal(begin(c, answers[i].kind, answers[i].constraint, 0, &answers[i].r), TC_OK);
    }
    for (int i = 0; i < REQUESTS; i++) assert_int_equal(wait_ready(answers[i].r), TC_OK);
    while (ended < REQUESTS)
        for (int i = 0; i < REQUESTS; i++) {
            answer *a = &answers[i];
            if (!a->r) continue;
            one_token(a, &random);
            bool cancelled = i % 6 == 5 && a->tokens == 3; // with a mask under way
            if (!a->done && !cancelled) continue;
            if (a->done) check_answer(a);
            tc_constrained_end(a->r);
            a->r = NULL;
            ended++;
        }
    assert_true(tc_constrainer_get_stats(c).compiled == 4); // each once
    tc_constrainer_free(c);
}

static void bad_ones(void **state)
{
    (void)state;
    tc_constrainer *c = start();
    tc_constrained *r = NULL, *soon = NULL;
    assert_int_equal(begin(c, TC_CONSTRAINT_JSON_SCHEMA, "{\"not\":{}}", 0, &r), TC_OK);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "a(", 0, &soon), TC_OK);
    tc_constrained_end(soon); // perhaps before it was compiled
    assert_int_equal(wait_ready(r), TC_UNSUPPORTED);
    assert_non_null(strstr(error.text, "\"not\""));
    tc_constrained_end(r);
    tc_constrainer_free(c);
}

static void begins_behind_a_token(void **state)
{
    (void)state;
    tc_constrainer *c = start();
    tc_constrained *r = NULL;
    const uint32_t *mask;
    bool complete;
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "a", 77 + 1, &r), TC_OK);
    assert_int_equal(wait_ready(r), TC_OK);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(tc_constrained_mask(r, &mask, &error), TC_OK);
        assert_null(mask);
        assert_int_equal(tc_constrained_take(r, i == 2 ? 77 : 500 + i, &complete, &error), TC_OK);
        assert_false(complete);
    }
    uint32_t allowed = 0, id_of_a = 0;
    assert_int_equal(tc_constrained_mask(r, &mask, &error), TC_OK);
    assert_non_null(mask);
    for (uint32_t id = 0; id < VOCAB; id++)
        if (mask[id >> 5] >> (id & 31) & 1) allowed++, id_of_a = id;
    assert_int_equal(allowed, 1);
    assert_int_equal(tc_constrained_take(r, id_of_a, &complete, &error), TC_OK);
    assert_true(complete);
    tc_constrained_end(r);
    tc_constrainer_free(c);
}

static void limit(void **state)
{
    (void)state;
    tc_constrainer *c = start();
    tc_constrained *r[TC_CONSTRAINTS_MAX], *more = NULL;
    char text[32];
    for (int i = 0; i < TC_CONSTRAINTS_MAX; i++) {
        snprintf(text, sizeof text, "a{%d}", i);
        assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, text, 0, &r[i]), TC_OK);
    }
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "b", 0, &more), TC_BUSY);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "a{3}", 0, &more), TC_OK); // one that is there
    tc_constrained_end(more);
    for (int i = 0; i < TC_CONSTRAINTS_MAX; i++) tc_constrained_end(r[i]);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "b", 0, &more), TC_OK);
    tc_constrained_end(more);
    tc_constrainer_free(c);
}

// Memory of the tables: full is not too full, a byte more is; what runs goes on; what is not in use makes
// room.
static void bytes_limit(void **state)
{
    (void)state;
    tc_constrainer *c = start();
    tc_constrained *first = NULL, *second = NULL;
    const uint32_t *mask;
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "[a-z]{1,9}", 0, &first), TC_OK);
    assert_int_equal(wait_ready(first), TC_OK);
    uint64_t bytes = tc_constrainer_get_stats(c).bytes;
    assert_true(bytes > 0 && bytes < 4 << 20);
    tc_constrainer_set_bytes_max(c, bytes);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "[0-9]+", 0, &second), TC_OK);
    assert_int_equal(wait_ready(second), TC_OK);
    tc_constrained_end(second);
    assert_true(tc_constrainer_get_stats(c).bytes == bytes); // the second was not kept
    tc_constrainer_set_bytes_max(c, bytes - 1);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "[0-9]+", 0, &second), TC_BUSY);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "[a-z]{1,9}", 0, &second), TC_OK); // is there already
    tc_constrained_end(second);
    assert_int_equal(tc_constrained_mask(first, &mask, &error), TC_OK);
    tc_constrained_end(first);
    assert_true(tc_constrainer_get_stats(c).bytes == 0);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "[0-9]+", 0, &second), TC_OK);
    tc_constrained_end(second);
    tc_constrainer_free(c);
}

static void no_tokenizer(void **state)
{
    (void)state;
    tc_constrainer *c = NULL;
    tc_constrained *r = NULL;
    assert_int_equal(tc_constrainer_create("/nowhere", VOCAB, &c, &error), TC_OK);
    assert_int_equal(begin(c, TC_CONSTRAINT_REGEX, "a", 0, &r), TC_OK);
    assert_int_equal(wait_ready(r), TC_UNSUPPORTED);
    assert_non_null(strstr(error.text, "tokenizer"));
    tc_constrained_end(r);
    tc_constrainer_free(c);
}

static int load(void **state)
{
    (void)state;
    return tc_tokenizer_load(TC_MODEL "/tokenizer.json", &tokenizer, &error) != TC_OK;
}

static int unload(void **state)
{
    (void)state;
    tc_tokenizer_free(tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_at_once),          cmocka_unit_test(bad_ones),
        cmocka_unit_test(begins_behind_a_token), cmocka_unit_test(limit),
        cmocka_unit_test(bytes_limit),           cmocka_unit_test(no_tokenizer),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
