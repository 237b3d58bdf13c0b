// SPDX-License-Identifier: Apache-2.0
// Owns: that a user's text never becomes a special token, through template and tokenizer; that ranges change
// nothing else; limits of templates at N and N+1; text of byte-fallback vocabularies while it streams; and
// linear time on hostile texts.
#include "common/text/stream.h"
#include "common/text/template.h"
#include "common/text/tokenizer.h"
#include "tests/support/cmocka_all.h"
#include "tests/unit/text/small_json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <yyjson.h>

#define DATA TC_SOURCE_ROOT "/tests/unit/text/data/"

static tc_status render(const char *source, const char *context, const tc_template_limits *limits,
                        tc_rendered *ret)
{
    tc_template *t = NULL;
    tc_error e = {0};
    struct tm now = {.tm_year = 125, .tm_mday = 1};
    yyjson_doc *doc = yyjson_read(context, strlen(context), 0);
    assert_non_null(doc);
    *ret = (tc_rendered){0};
    tc_status status = tc_template_parse(source, strlen(source), "t", &t, &e);
    if (status == TC_OK) status = tc_template_render(t, yyjson_doc_get_root(doc), &now, limits, ret, &e);
    tc_template_free(t);
    yyjson_doc_free(doc);
    return status;
}

static tc_tokenizer *load(const char *name)
{
    char path[4096];
    tc_tokenizer *t = NULL;
    tc_error e;
    snprintf(path, sizeof path, DATA "%s", name);
    if (tc_tokenizer_load(path, &t, &e) != TC_OK) fail_msg("%s", e.text);
    return t;
}

// What is data in the text, written with braces around it.
static void check_marks(const char *source, const char *context, const char *want)
{
    tc_rendered r;
    char marked[4096] = "";
    size_t used = 0, at = 0;
    if (render(source, context, NULL, &r) != TC_OK) fail_msg("%s: %s", source, r.message);
    for (size_t i = 0; i < r.data_count; i++) {
        used += (size_t)sprintf(marked + used, "%.*s{", (int)(r.data[i].begin - at), r.text + at);
        used += (size_t)sprintf(marked + used, "%.*s}", (int)(r.data[i].end - r.data[i].begin),
                                r.text + r.data[i].begin);
        at = r.data[i].end;
    }
    sprintf(marked + used, "%s", r.text + at);
    assert_string_equal(marked, want);
    tc_rendered_free(&r);
}

static void test_marks(void **state)
{
    const char *c = "{\"u\": \"us er\", \"n\": 5, \"bos_token\": \"<s>\", \"l\": [\"a\", \"b\"], \"d\": "
                    "{\"k\": \"v\\n\"}, \"x\": {\"bos_token\": \"q\"}}";
    (void)state;
    check_marks("a{{ u }}b", c, "a{us er}b");
    check_marks("{{ bos_token }}{{ x.bos_token }}", c, "<s>{q}");
    check_marks("{{ '<' + u + '>' ~ n }}", c, "<{us er}>5");
    check_marks("{{ u|upper }}{{ u[1:3] }}{{ ('-' ~ u ~ '-')[0:3] }}", c, "{US ERs }-{us}");
    check_marks("{{ u|replace(' ', '_') }}|{{ '[X]'|replace('X', u) }}", c, "{us}_{er}|[{us er}]");
    check_marks("{{ l|join('<>') }}{{ u.split(' ')|join('/') }}", c, "{a}<>{bus}/{er}");
    check_marks("{{ d|tojson }}{{ d }}", c, "{\"{k}\": \"{v}\\n\"}{'{k}': '{v}\\n'}");
    check_marks("{% set s %}<{{ u }}>{% endset %}{{ s|trim }}{% macro m(a) %}({{ a }}){% endmacro %}{{ m(u) "
                "~ m('t') }}",
                c, "<{us er}>({us er})(t)");
    check_marks("{% for c in u[:2] %}{{ c }}.{% endfor %}{{ '%s!'|format(u) }}{{ '{}?'.format(u) }}", c,
                "{u}.{s}.{us er}!{us er}?");
    check_marks("{% filter upper %}q{{ u }}{% endfilter %}{{ u|e }}{{ ''.join([u, 'z']) }}", c,
                "Q{US ERus erus er}z");
}

// Ids of a rendered template: the template's `<|end|>` is one token, a user's never is.
static void test_special(void **state)
{
    static const char *const users[] = {
        "<|end|>",      "x<|end|>y",   "<|end|", "|end|>",       "<right>",         "<",
        "end|>",        "\u212b<ang>", "int",    "A\u030a<ang>", "<|end|><|end|>>", "<\u4e16\u754c>",
        "\u4e16\u754c>"};
    static const char *const sources[] = {"<|end|>{{ u }}<|end|>",
                                          "{{ u }}",
                                          "<{{ u }}>",
                                          "<|{{ u }}|>",
                                          "<|end|{{ u }}",
                                          "{{ u }}|end|>",
                                          "{{ '<|end|>' ~ u ~ '<|end|>' }}",
                                          "<|end|>{{ u|tojson }}<|end|>"};
    static const char *const files[] = {"small.json", "llama2.json", "mistral.json"};
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        tc_tokenizer *t = load(files[f]);
        for (size_t s = 0; s < sizeof sources / sizeof *sources; s++)
            for (size_t u = 0; u < sizeof users / sizeof *users; u++) {
                char context[256];
                tc_rendered r;
                tc_ids ids = {0};
                tc_error e;
                size_t specials = 0, expected = 0;
                snprintf(context, sizeof context, "{\"u\": \"%s\"}", users[u]);
                assert_int_equal(render(sources[s], context, NULL, &r), TC_OK);
                if (tc_tokenizer_encode_spans(t, r.text, r.bytes, r.data, r.data_count, &ids, &e) != TC_OK)
                    fail_msg("%s", e.text);
                for (size_t i = 0; i < ids.count; i++) specials += tc_tokenizer_is_special(t, ids.data[i]);
                for (const char *p = sources[s]; f == 0 && (p = strstr(p, "<|end|>")); p += 7) expected++;
                if (specials != expected)
                    fail_msg("%s: %s with %s gives %zu special tokens", files[f], sources[s], users[u],
                             specials);
                tc_ids_free(&ids);
                tc_rendered_free(&r);
            }
        tc_tokenizer_free(t);
    }
}

// Ranges without special tokens in them leave the ids as they are, wherever they begin and end.
static void test_ranges_change_nothing(void **state)
{
    static const char text[] =
        "<|end|>Hello wor ld, it's  caf\u00e9 e\u0301toile 123\n\nint x<left>  y<right> \u4e16";
    static const char *const files[] = {"small.json", "gpt2.json", "o200k.json", "deepseek.json"};
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        tc_tokenizer *t = load(files[f]);
        tc_ids plain = {0}, ranged = {0};
        assert_int_equal(tc_tokenizer_encode(t, text, 47, TC_SPECIAL_PARSE, &plain, NULL), TC_OK);
        for (size_t a = 7; a < 46; a++)
            for (size_t b = a + 1; b <= 46; b += 3) {
                tc_text_span span = {a, b};
                ranged.count = 0;
                assert_int_equal(tc_tokenizer_encode_spans(t, text, 47, &span, 1, &ranged, NULL), TC_OK);
                assert_int_equal(ranged.count, plain.count);
                assert_memory_equal(ranged.data, plain.data, plain.count * sizeof *plain.data);
            }
        tc_ids_free(&plain);
        tc_ids_free(&ranged);
        tc_tokenizer_free(t);
    }
}

static void test_bad_ranges(void **state)
{
    static const tc_text_span bad[][2] = {
        {{0, 0}, {1, 2}}, {{2, 1}, {3, 4}}, {{0, 2}, {1, 3}}, {{0, 1}, {2, 6}}};
    tc_tokenizer *t = load("small.json");
    tc_ids ids = {0};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(tc_tokenizer_encode_spans(t, "hello", 5, bad[i], 2, &ids, NULL), TC_ARGUMENT);
    tc_text_span all = {0, 5};
    assert_int_equal(tc_tokenizer_encode_spans(t, "hello", 5, &all, 1, &ids, NULL), TC_OK);
    tc_ids_free(&ids);
    tc_tokenizer_free(t);
}

// ---- limits
// ------------------------------------------------------------------------------------------------

static char *repeat(const char *open, int count, const char *middle, const char *close)
{
    char *text = calloc(1, (size_t)count * (strlen(open) + strlen(close)) + strlen(middle) + 1), *p = text;
    for (int i = 0; i < count; i++) p = stpcpy(p, open);
    p = stpcpy(p, middle);
    for (int i = 0; i < count; i++) p = stpcpy(p, close);
    return text;
}

static void check_nesting(const char *before, const char *open, const char *close, const char *after,
                          int fits)
{
    for (int more = 0; more < 2; more++) {
        tc_rendered r;
        char *inside = repeat(open, fits + more, "1", close), *text = malloc(strlen(inside) + 64);
        sprintf(text, "%s%s%s", before, inside, after);
        tc_status status = render(text, "{}", NULL, &r);
        if (status != (more ? TC_LIMIT : TC_OK)) fail_msg("%.40s (%d): status %d", text, fits + more, status);
        tc_rendered_free(&r);
        free(inside);
        free(text);
    }
}

static void test_nesting(void **state)
{
    (void)state;
    check_nesting("", "{% if 1 %}", "{% endif %}", "", TC_TEMPLATE_NESTING_MAX);
    check_nesting("{{ ", "not ", "", " }}", TC_TEMPLATE_NESTING_MAX - 2);
    check_nesting("{{ 1", "", " + 1", " }}", TC_TEMPLATE_NESTING_MAX);
    check_nesting("{{ ", "", "|string", " }}", TC_TEMPLATE_NESTING_MAX);
}

static void test_limits(void **state)
{
    tc_rendered r;
    tc_template_limits l = {TC_TEMPLATE_STEPS_MAX, 5, TC_TEMPLATE_MEMORY_BYTES_MAX};
    (void)state;
    assert_int_equal(render("12345", "{}", &l, &r), TC_OK);
    tc_rendered_free(&r);
    assert_int_equal(render("123456", "{}", &l, &r), TC_LIMIT);
    assert_string_equal(r.kind, "LimitExceeded");
    tc_rendered_free(&r);
    l = (tc_template_limits){10000, 1 << 20, 1 << 20};
    assert_int_equal(render("{% for i in range(100000) %}{{ i }}{% endfor %}", "{}", &l, &r), TC_LIMIT);
    tc_rendered_free(&r);
    l = (tc_template_limits){TC_TEMPLATE_STEPS_MAX, 1 << 20, 1 << 20};
    assert_int_equal(render("{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ns.x ~ "
                            "ns.x %}{% endfor %}",
                            "{}", &l, &r),
                     TC_LIMIT);
    tc_rendered_free(&r);
    assert_int_equal(render("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "{}", NULL, &r),
                     TC_LIMIT);
    tc_rendered_free(&r);
    char source[128];
    snprintf(source, sizeof source, "{%% macro m(n) %%}{{ m(n - 1) if n > 1 }}{%% endmacro %%}{{ m(%d) }}",
             TC_TEMPLATE_CALL_DEPTH_MAX);
    assert_int_equal(render(source, "{}", NULL, &r), TC_OK);
    tc_rendered_free(&r);
    snprintf(source, sizeof source, "{%% macro m(n) %%}{{ m(n - 1) if n > 1 }}{%% endmacro %%}{{ m(%d) }}",
             TC_TEMPLATE_CALL_DEPTH_MAX + 1);
    assert_int_equal(render(source, "{}", NULL, &r), TC_LIMIT);
    tc_rendered_free(&r);
    for (int more = 0; more < 2; more++) {
        char *data = repeat("[", TC_TEMPLATE_DATA_DEPTH_MAX + more - 1, "1", "]"), context[1024];
        snprintf(context, sizeof context, "{\"d\": %s}", data);
        assert_int_equal(render("{{ d|tojson|length }}{{ d == d }}", context, NULL, &r),
                         more ? TC_LIMIT : TC_OK);
        tc_rendered_free(&r);
        free(data);
    }
    char *big = malloc(TC_TEMPLATE_BYTES_MAX + 2);
    tc_template *t = NULL;
    memset(big, 'x', TC_TEMPLATE_BYTES_MAX + 2);
    assert_int_equal(tc_template_parse(big, TC_TEMPLATE_BYTES_MAX, "t", &t, NULL), TC_OK);
    tc_template_free(t);
    assert_int_equal(tc_template_parse(big, TC_TEMPLATE_BYTES_MAX + 1, "t", &t, NULL), TC_LIMIT);
    assert_int_equal(tc_template_parse("\xff", 1, "t", &t, NULL), TC_FORMAT);
    free(big);
}

// ---- streaming and time
// ------------------------------------------------------------------------------------

// Token by token gives what decoding at once gives, and every piece is whole characters.
static void test_stream_bytes(void **state)
{
    static const char text[] = "Hello \u4e16\U0001f600 Zo\u00eb x";
    static const char *const files[] = {"llama2.json", "mistral.json", "small.json"};
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        tc_tokenizer *t = load(files[f]);
        tc_text_stream *s;
        tc_ids ids = {0};
        char *whole, streamed[256] = "";
        const char *piece;
        size_t bytes, whole_bytes;
        bool stopped;
        assert_int_equal(tc_tokenizer_encode(t, text, strlen(text), TC_SPECIAL_AS_TEXT, &ids, NULL), TC_OK);
        assert_int_equal(tc_tokenizer_decode(t, ids.data, ids.count, true, &whole, &whole_bytes, NULL),
                         TC_OK);
        assert_int_equal(tc_text_stream_create(t, NULL, 0, true, &s, NULL), TC_OK);
        for (size_t i = 0; i < ids.count; i++) {
            assert_int_equal(tc_text_stream_push(s, ids.data[i], &piece, &bytes, &stopped), TC_OK);
            assert_true(bytes == 0 || (piece[0] & 0xc0) != 0x80);
            strncat(streamed, piece, bytes);
        }
        assert_int_equal(tc_text_stream_finish(s, &piece, &bytes), TC_OK);
        strncat(streamed, piece, bytes);
        assert_string_equal(streamed, whole);
        assert_string_equal(whole, text);
        tc_text_stream_free(s);
        tc_ids_free(&ids);
        free(whole);
        tc_tokenizer_free(t);
    }
}

static double encode_seconds(const tc_tokenizer *t, const char *unit, size_t bytes)
{
    char *text = malloc(bytes + 8);
    double best = 1e9;
    for (size_t at = 0; at < bytes; at += strlen(unit)) memcpy(text + at, unit, strlen(unit));
    for (int i = 0; i < 3; i++) {
        struct timespec a, b;
        tc_ids ids = {0};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        assert_int_equal(
            tc_tokenizer_encode(t, text, bytes / strlen(unit) * strlen(unit), TC_SPECIAL_PARSE, &ids, NULL),
            TC_OK);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
        if (s < best) best = s;
        tc_ids_free(&ids);
    }
    free(text);
    return best;
}

// Sixteen times the text may take forty times as long (n log n, caches), not 256.
static void test_hostile_time(void **state)
{
    static const char *const units[] = {"A", " ",  "\n",      "Aa", "\u0301", "a\u0301B",
                                        "1", "'s", "\u4e2d1", "!",  "\x01",   "\t a"};
    static const char *const files[] = {"small.json",    "gpt2.json",   "llama3.json", "o200k.json",
                                        "deepseek.json", "llama2.json", "mistral.json"};
    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        tc_tokenizer *t = load(files[f]);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            double one = encode_seconds(t, units[u], 8192), sixteen = encode_seconds(t, units[u], 131072);
            if (sixteen > one * 40 + 0.002)
                fail_msg("%s: %zu. text: %g s, then %g s", files[f], u, one, sixteen);
        }
        tc_tokenizer_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_special),
        cmocka_unit_test(test_ranges_change_nothing),
        cmocka_unit_test(test_bad_ranges),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_stream_bytes),
        cmocka_unit_test(test_hostile_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
