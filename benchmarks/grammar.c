// SPDX-License-Identifier: Apache-2.0
// Owns: what a constraint costs: compiling a schema, and the mask for each token of JSON documents that obey
// it, at the vocabulary of a given tokenizer.json. "cold": the constraint is new for every document; "warm":
// it is kept, as the core keeps it. Times are of one thread, mask and step of the automaton together.
#include "common/base/clock.h"
#include "common/text/grammar_mask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOCUMENTS = 8, ROUNDS = 5, TOKENS_MAX = 1 << 16, COMPILES = 41 };

typedef struct text {
    char *data;
    size_t bytes, capacity;
} text;

static void put(text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(text *t, const char *format, ...)
{
    va_list list;
    if (t->capacity - t->bytes < 4096) t->data = realloc(t->data, t->capacity = 2 * t->capacity + 8192);
    va_start(list, format);
    t->bytes += (size_t)vsnprintf(t->data + t->bytes, t->capacity - t->bytes, format, list);
    va_end(list);
}

// A schema of about 4 KB, as tools and extraction tasks have them.
static text schema_of(const char *string)
{
    text t = {0};
    put(&t,
        "{\"type\":\"object\",\"properties\":{\"title\":%s,\"language\":{\"enum\":[\"en\",\"de\",\"fr\","
        "\"日本語\"]},",
        string);
    put(&t, "\"created\":{\"type\":\"string\",\"format\":\"date-time\"},\"orders\":{\"type\":\"array\","
            "\"items\":{\"$ref\":\"#/$defs/order\"}}");
    for (int i = 0; i < 21; i++)
        put(&t,
            ",\"field_%02d\":{\"type\":[\"string\",\"null\"],\"description\":\"One more optional field of "
            "the document, number %d, "
            "which the model may leave out\",\"maxLength\":80}",
            i, i);
    put(&t,
        "},\"required\":[\"title\",\"language\",\"orders\"],\"additionalProperties\":false,\"$defs\":{"
        "\"order\":{\"type\":\"object\","
        "\"properties\":{\"id\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":999999},\"customer\":{\"$"
        "ref\":\"#/$defs/person\"},"
        "\"note\":%s,\"price\":{\"type\":\"number\",\"minimum\":0},\"tags\":{\"type\":\"array\",\"items\":{"
        "\"type\":\"string\"},"
        "\"maxItems\":8},\"paid\":{\"type\":\"boolean\"}},\"required\":[\"id\",\"customer\",\"note\","
        "\"price\",\"tags\",\"paid\"],"
        "\"additionalProperties\":false},\"person\":{\"type\":\"object\",\"properties\":{\"name\":%s,"
        "\"email\":{\"type\":\"string\","
        "\"pattern\":\"^[a-z.]+@[a-z]+\\\\.[a-z]{2,3}$\"},\"manager\":{\"anyOf\":[{\"$ref\":\"#/$defs/"
        "person\"},{\"type\":\"null\"}]}},"
        "\"required\":[\"name\",\"email\",\"manager\"],\"additionalProperties\":false}}}",
        string, string);
    return t;
}

static void put_person(text *t, int i, int depth)
{
    static const char *const names[] = {"Ada Lovelace", "Grace Hopper", "Jürgen Schmidt", "王小明",
                                        "Alan \\\"T\\\" Turing"};
    put(t, "{\"name\": \"%s\", \"email\": \"%s@example.com\", \"manager\": ", names[i % 5],
        i % 2 ? "ada.l" : "info");
    if (depth > 0)
        put_person(t, i + 1, depth - 1);
    else
        put(t, "null");
    put(t, "}");
}

static text document_of(int seed)
{
    static const char *const notes[] = {
        "Please deliver before noon; the gate's code is 4711.", "Große Kiste, vorsichtig tragen",
        "He said \\\"later\\\" and left\\nwithout a word", "二つの箱を玄関に置いてください。", "x"};
    text t = {0};
    put(&t,
        "{\"title\": \"Orders of week %d, as exported by the warehouse\", \"language\": \"%s\", \"created\": "
        "\"2024-0%d-1%dT0%d:30:00Z\", \"orders\": [",
        seed, seed % 2 ? "en" : "日本語", seed % 8 + 1, seed % 9, seed % 9);
    for (int i = 0; i < 6; i++) {
        put(&t, "%s{\"id\": %d, \"customer\": ", i ? ", " : "", 1000 * seed + 37 * i + 1);
        put_person(&t, seed + i, (seed + i) % 3);
        put(&t, ", \"note\": \"%s\", \"price\": %d.%02d, \"tags\": [\"fragile\", \"week %d\"], \"paid\": %s}",
            notes[(seed + i) % 5], 12 * i + 3, seed, i, i % 2 ? "true" : "false");
    }
    put(&t, "], \"field_03\": \"%s\", \"field_11\": null}", notes[(seed + 1) % 4]);
    return t;
}

typedef struct samples {
    uint32_t count;
    float us[TOKENS_MAX];
} samples;

static int by_time(const void *a, const void *z)
{
    float x = *(const float *)a, y = *(const float *)z;
    return x < y ? -1 : x > y;
}

static void fail(const char *what, const tc_error *e)
{
    fprintf(stderr, "bench-grammar: %s: %s\n", what, e->text);
    exit(1);
}

// Drives one document through a matcher; the time of each token's mask, and of taking the token before it.
static void run(tc_acceptor *acceptor, const tc_ids *ids, uint32_t *mask, samples *out)
{
    tc_matcher m;
    tc_error e;
    bool may_end, must_end = false;
    if (tc_matcher_begin(&m, acceptor, &e) != TC_OK) fail("begin", &e);
    for (size_t i = 0; i < ids->count; i++) {
        uint64_t start = tc_now_ns();
        if (i && tc_matcher_take(&m, ids->data[i - 1], &must_end, &e) != TC_OK) fail("the document", &e);
        if (tc_matcher_mask(&m, mask, &may_end, &e) != TC_OK) fail("mask", &e);
        if (out->count < TOKENS_MAX) out->us[out->count++] = (float)(tc_now_ns() - start) / 1000.0f;
        if (!(mask[ids->data[i] >> 5] >> (ids->data[i] & 31) & 1)) {
            fprintf(stderr, "bench-grammar: the mask forbids token %zu of the document\n", i);
            exit(1);
        }
    }
    tc_matcher_end(&m);
}

static void report(bool json, const char *name, uint32_t vocab, samples *s)
{
    qsort(s->us, s->count, sizeof *s->us, by_time);
    double sum = 0;
    for (uint32_t i = 0; i < s->count; i++) sum += s->us[i];
    float median = s->us[s->count / 2], p99 = s->us[(uint32_t)(0.99 * s->count)], most = s->us[s->count - 1];
    if (json)
        printf("{\"benchmark\": \"mask\", \"case\": \"%s\", \"vocab\": %u, \"tokens\": %u, \"median_us\": "
               "%.1f, \"mean_us\": %.1f, "
               "\"p99_us\": %.1f, \"max_us\": %.1f}\n",
               name, vocab, s->count, median, sum / s->count, p99, most);
    else
        printf("mask %-28s %6u tokens: median %.1f us, mean %.1f, P99 %.1f, most %.1f\n", name, s->count,
               median, sum / s->count, p99, most);
}

static void bench_masks(bool json, const char *name, const tc_constraint *c, const tc_tokenizer *tokenizer,
                        const tc_vocabulary *v)
{
    static samples cold, warm;
    tc_grammar *g = NULL;
    tc_acceptor *kept = NULL, *fresh = NULL;
    tc_error e;
    uint32_t *mask = malloc((v->words + 1) * sizeof *mask);
    cold.count = warm.count = 0;
    if (tc_grammar_compile(c, &g, &e) != TC_OK || tc_acceptor_create(g, v, &kept, &e) != TC_OK)
        fail(name, &e);
    for (int i = 0; i < DOCUMENTS * ROUNDS; i++) {
        text t = document_of(i % DOCUMENTS);
        tc_ids ids = {0};
        if (tc_tokenizer_encode(tokenizer, t.data, t.bytes, TC_SPECIAL_AS_TEXT, &ids, &e) != TC_OK)
            fail(name, &e);
        if (tc_acceptor_create(g, v, &fresh, &e) != TC_OK) fail(name, &e);
        run(fresh, &ids, mask, &cold);
        run(kept, &ids, mask, &warm);
        tc_acceptor_free(fresh);
        tc_ids_free(&ids);
        free(t.data);
    }
    char label[64];
    snprintf(label, sizeof label, "%s, cold", name);
    report(json, label, v->size, &cold);
    snprintf(label, sizeof label, "%s, warm", name);
    report(json, label, v->size, &warm);
    tc_acceptor_free(kept);
    tc_grammar_free(g);
    free(mask);
}

static void bench_compile(bool json, const text *schema)
{
    float times[COMPILES];
    const tc_constraint c = {TC_CONSTRAINT_JSON_SCHEMA, schema->data, schema->bytes};
    for (int i = 0; i < COMPILES; i++) {
        tc_grammar *g = NULL;
        tc_error e;
        uint64_t start = tc_now_ns();
        if (tc_grammar_compile(&c, &g, &e) != TC_OK) fail("compile", &e);
        times[i] = (float)(tc_now_ns() - start) / 1e6f;
        tc_grammar_free(g);
    }
    qsort(times, COMPILES, sizeof *times, by_time);
    if (json)
        printf("{\"benchmark\": \"compile\", \"schema_bytes\": %zu, \"median_ms\": %.3f, \"max_ms\": %.3f}\n",
               schema->bytes, times[COMPILES / 2], times[COMPILES - 1]);
    else
        printf("compile of a schema of %zu bytes: median %.3f ms, most %.3f ms\n", schema->bytes,
               times[COMPILES / 2], times[COMPILES - 1]);
}

int main(int argc, char **argv)
{
    tc_tokenizer *tokenizer = NULL;
    tc_vocabulary *v = NULL;
    tc_error e;
    bool json = argc == 3 && strcmp(argv[2], "--json") == 0;
    if (argc < 2 || (argc == 3 && !json) || argc > 3) {
        fprintf(stderr, "usage: thermocline-bench-grammar tokenizer.json [--json]\n");
        return 2;
    }
    if (tc_tokenizer_load(argv[1], &tokenizer, &e) != TC_OK) fail(argv[1], &e);
    uint64_t start = tc_now_ns();
    if (tc_vocabulary_of(tokenizer, tc_tokenizer_vocab(tokenizer), &v, &e) != TC_OK) fail("vocabulary", &e);
    double ms = (double)(tc_now_ns() - start) / 1e6;
    if (json)
        printf("{\"benchmark\": \"vocabulary\", \"vocab\": %u, \"ms\": %.1f}\n", v->size, ms);
    else
        printf("vocabulary of %u tokens: %.1f ms\n", v->size, ms);
    text free_strings = schema_of("{\"type\":\"string\"}");
    text bounded = schema_of("{\"type\":\"string\",\"minLength\":1,\"maxLength\":120}");
    bench_compile(json, &free_strings);
    bench_masks(json, "schema",
                &(tc_constraint){TC_CONSTRAINT_JSON_SCHEMA, free_strings.data, free_strings.bytes}, tokenizer,
                v);
    bench_masks(json, "schema, bounded strings",
                &(tc_constraint){TC_CONSTRAINT_JSON_SCHEMA, bounded.data, bounded.bytes}, tokenizer, v);
    bench_masks(json, "any JSON object", &(tc_constraint){TC_CONSTRAINT_JSON_OBJECT, "", 0}, tokenizer, v);
    free(free_strings.data);
    free(bounded.data);
    tc_vocabulary_free(v);
    tc_tokenizer_free(tokenizer);
    return 0;
}
