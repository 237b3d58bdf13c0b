// SPDX-License-Identifier: Apache-2.0
// Owns: constraints from the outside, for check.py: JSON lines in, one JSON line out for each.
//   in:  {"kind", "text", "sample": how many, "seed", "max_tokens", "match": [texts], "oracle": states to
//   check} out: {"status", "error", "samples": [{"text", "done"}], "match": [bool], "compile_us"}
// Samples are random walks over the vocabulary of a tokenizer.json; "oracle" compares masks on the way with
// trying every token. Exit code 1: a mask was wrong.
#include "common/base/clock.h"
#include "common/text/grammar_mask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

static const char *const kinds[TC_CONSTRAINT_KINDS] = {"none",  "json_object", "json_schema",
                                                       "regex", "grammar",     "tool_calls"};

typedef struct walk {
    const tc_vocabulary *vocabulary;
    tc_grammar *grammar;
    tc_acceptor *acceptor;
    uint64_t random;
    uint32_t *mask, *chosen;
    char *text;
    size_t bytes;
    uint32_t oracle;
} walk;

static uint64_t draw(walk *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// Tokens that bring a JSON text nearer to its end.
static bool closes(const uint8_t *token, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!strchr("\"}],:\n ", token[i])) return false;
    return n > 0;
}

// The masks' rule by the slowest way there is: a token may follow where some text that begins so may.
static bool mask_is_right(walk *w, const tc_matcher *m)
{
    for (uint32_t id = 0; id < w->vocabulary->size; id++) {
        uint32_t n;
        bool ends;
        tc_vocabulary_token(w->vocabulary, id, &n);
        tc_matcher copy;
        tc_error e;
        if (tc_matcher_begin(&copy, w->acceptor, &e) != TC_OK) return false;
        copy.state = m->state; // nothing is collected in between: states keep their numbers
        bool may = n && tc_matcher_take(&copy, id, &ends, &e) == TC_OK;
        tc_matcher_end(&copy);
        if (may != (w->mask[id >> 5] >> (id & 31) & 1)) {
            fprintf(stderr, "token %u: mask says %d\n", id, !may);
            return false;
        }
    }
    return true;
}

static uint32_t choose(walk *w, uint32_t *ret_count)
{
    uint32_t n = 0, all = 0, bytes;
    bool closing = draw(w) & 1;
    for (int pass = closing ? 0 : 1; pass < 2 && n == 0; pass++)
        for (uint32_t id = 0; id < w->vocabulary->size; id++) {
            if (!(w->mask[id >> 5] >> (id & 31) & 1)) continue;
            all++;
            const uint8_t *token = tc_vocabulary_token(w->vocabulary, id, &bytes);
            if (pass == 1 || closes(token, bytes)) w->chosen[n++] = id;
        }
    *ret_count = all;
    return n ? w->chosen[draw(w) % n] : UINT32_MAX;
}

// One random text. False: something is wrong.
static bool sample(walk *w, uint32_t max_tokens, bool *ret_done, tc_error *e)
{
    tc_matcher m;
    bool may_end = false, must_end = false, right = true;
    w->bytes = 0;
    *ret_done = false;
    if (tc_matcher_begin(&m, w->acceptor, e) != TC_OK) return false;
    for (uint32_t i = 0; i < max_tokens && right; i++) {
        uint32_t allowed, n;
        if (tc_matcher_mask(&m, w->mask, &may_end, e) != TC_OK) right = false;
        if (right && w->oracle && draw(w) % 4 == 0) {
            w->oracle--;
            right = mask_is_right(w, &m);
            if (!right) tc_fail(e, TC_INTERNAL, "a mask is wrong");
        }
        uint32_t id = right ? choose(w, &allowed) : UINT32_MAX;
        if (!right) break;
        if (may_end && (must_end || id == UINT32_MAX || draw(w) % 3 == 0)) {
            *ret_done = true;
            break;
        }
        if (id == UINT32_MAX) {
            tc_fail(e, TC_INTERNAL, "nothing may follow, and the text may not end");
            right = false;
            break;
        }
        const uint8_t *token = tc_vocabulary_token(w->vocabulary, id, &n);
        memcpy(w->text + w->bytes, token, n);
        w->bytes += n;
        right = tc_matcher_take(&m, id, &must_end, e) == TC_OK;
    }
    tc_matcher_end(&m);
    return right;
}

static void answer(walk *w, yyjson_val *in, yyjson_mut_doc *doc, yyjson_mut_val *out, tc_error *e)
{
    uint32_t max_tokens = (uint32_t)yyjson_get_uint(yyjson_obj_get(in, "max_tokens"));
    uint32_t samples = (uint32_t)yyjson_get_uint(yyjson_obj_get(in, "sample"));
    size_t i, n;
    yyjson_val *v;
    yyjson_mut_val *list = yyjson_mut_obj_add_arr(doc, out, "match");
    yyjson_val *texts = yyjson_obj_get(in, "match");
    yyjson_arr_foreach(texts, i, n, v)
    {
        bool yes = false;
        if (tc_grammar_match(w->grammar, yyjson_get_str(v), yyjson_get_len(v), &yes, e) == TC_OK)
            yyjson_mut_arr_add_bool(doc, list, yes);
        else
            yyjson_mut_arr_add_null(doc, list);
    }
    list = yyjson_mut_obj_add_arr(doc, out, "samples");
    w->text = malloc((size_t)max_tokens * TC_GRAMMAR_TOKEN_BYTES_MAX + 1);
    for (uint32_t k = 0; k < samples; k++) {
        bool done;
        if (!sample(w, max_tokens, &done, e)) {
            yyjson_mut_obj_add_strcpy(doc, out, "failure", e->text);
            if (e->status == TC_INTERNAL) exit(1);
            break;
        }
        yyjson_mut_val *one = yyjson_mut_arr_add_obj(doc, list);
        if (done) yyjson_mut_obj_add_strncpy(doc, one, "text", w->text, w->bytes);
        yyjson_mut_obj_add_bool(doc, one, "done", done);
    }
    free(w->text);
}

static void handle(const tc_vocabulary *vocabulary, yyjson_val *in, yyjson_mut_doc *doc)
{
    tc_error e = {0};
    yyjson_val *text = yyjson_obj_get(in, "text");
    tc_constraint c = {.text = yyjson_get_str(text), .bytes = yyjson_get_len(text)};
    walk w = {.vocabulary = vocabulary, .random = yyjson_get_uint(yyjson_obj_get(in, "seed"))};
    yyjson_mut_val *out = yyjson_mut_obj(doc);
    yyjson_mut_doc_set_root(doc, out);
    for (int k = 0; k < TC_CONSTRAINT_KINDS; k++)
        if (yyjson_equals_str(yyjson_obj_get(in, "kind"), kinds[k])) c.kind = (tc_constraint_kind)k;
    w.oracle = (uint32_t)yyjson_get_uint(yyjson_obj_get(in, "oracle"));
    uint64_t begin = tc_now_us();
    tc_status status = tc_grammar_compile(&c, &w.grammar, &e);
    yyjson_mut_obj_add_uint(doc, out, "compile_us", tc_now_us() - begin);
    if (status == TC_OK) status = tc_acceptor_create(w.grammar, vocabulary, &w.acceptor, &e);
    yyjson_mut_obj_add_str(doc, out, "status", tc_status_text(status));
    if (status == TC_OK) {
        w.mask = malloc((vocabulary->words + 1) * sizeof *w.mask);
        w.chosen = malloc((vocabulary->size + 1) * sizeof *w.chosen);
        answer(&w, in, doc, out, &e);
        free(w.mask);
        free(w.chosen);
    } else {
        yyjson_mut_obj_add_strcpy(doc, out, "error", e.text);
    }
    tc_acceptor_free(w.acceptor);
    tc_grammar_free(w.grammar);
}

int main(int argc, char **argv)
{
    tc_tokenizer *tokenizer = NULL;
    tc_vocabulary *vocabulary = NULL;
    tc_error e;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    if (argc != 2) return fprintf(stderr, "usage: grammar-tool tokenizer.json < cases.jsonl\n"), 2;
    if (tc_tokenizer_load(argv[1], &tokenizer, &e) != TC_OK ||
        tc_vocabulary_of(tokenizer, tc_tokenizer_vocab(tokenizer), &vocabulary, &e) != TC_OK)
        return fprintf(stderr, "grammar-tool: %s\n", e.text), 2;
    while ((n = getline(&line, &capacity, stdin)) > 0) {
        yyjson_doc *in = yyjson_read(line, (size_t)n, 0);
        yyjson_mut_doc *out = yyjson_mut_doc_new(NULL);
        handle(vocabulary, yyjson_doc_get_root(in), out);
        char *text = yyjson_mut_write(out, YYJSON_WRITE_ALLOW_INVALID_UNICODE, NULL);
        puts(text ? text : "{\"status\": \"unwritable\"}");
        fflush(stdout);
        free(text);
        yyjson_mut_doc_free(out);
        yyjson_doc_free(in);
    }
    free(line);
    tc_vocabulary_free(vocabulary);
    tc_tokenizer_free(tokenizer);
    return 0;
}
