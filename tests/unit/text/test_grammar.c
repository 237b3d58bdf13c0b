// SPDX-License-Identifier: Apache-2.0
// Shows: what each source of constraints accepts and refuses, by name; every limit at N and N + 1; the
// numbers between bounds, exhaustively; deep and wide grammars. What texts mean is judged by others in
// tests/grammar/check.py.
#include "common/text/grammar_program.h"
#include "tests/support/cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static tc_error error;

static tc_status compile_bytes(tc_constraint_kind kind, const char *text, size_t bytes, tc_grammar **ret)
{
    const tc_constraint c = {kind, text, bytes};
    *ret = NULL;
    error.text[0] = 0;
    return tc_grammar_compile(&c, ret, &error);
}

static void expect(tc_constraint_kind kind, const char *text, tc_status status, const char *says)
{
    tc_grammar *g;
    tc_status got = compile_bytes(kind, text, strlen(text), &g);
    if (got != status || (says && !strstr(error.text, says)))
        fail_msg("%s: %s: %s", text, tc_status_text(got), error.text);
    tc_grammar_free(g);
}

static bool matches(tc_constraint_kind kind, const char *constraint, const char *text)
{
    tc_grammar *g;
    bool yes = false;
    if (compile_bytes(kind, constraint, strlen(constraint), &g) != TC_OK)
        fail_msg("%s: %s", constraint, error.text);
    assert_int_equal(tc_grammar_match(g, text, strlen(text), &yes, &error), TC_OK);
    tc_grammar_free(g);
    return yes;
}

typedef struct membership {
    const char *constraint, *in, *out; // texts apart by '\n'... here one of each; NULL: none
} membership;

static void check_members(tc_constraint_kind kind, const membership *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (cases[i].in && !matches(kind, cases[i].constraint, cases[i].in))
            fail_msg("%s does not match %s", cases[i].constraint, cases[i].in);
        if (cases[i].out && matches(kind, cases[i].constraint, cases[i].out))
            fail_msg("%s matches %s", cases[i].constraint, cases[i].out);
    }
}

static void regexes(void **state)
{
    static const membership cases[] = {
        {"a|b", "b", "ab"},
        {"", "", "a"},
        {"(a*)*b", "aaab", "aaa"},
        {"(a|aa){3}", "aaaaaa", "aa"},
        {"(a?){2,4}", "", "aaaaa"},
        {"x{1000}", NULL, "x"},
        {"[^a]", "\xf0\x9f\x98\x80", "a"},
        {"[^a]", "\xe6\x97\xa5", "\xe6\x97"},
        {"^ab$", "ab", "xab"},
        {"(?:^a|^b)", "a", "c"},
        {"(?P<n>a)(?<m>b)", "ab", NULL},
        {"\\x41\\u00e9", "A\xc3\xa9", NULL},
        {"[\\]a-]+", "a]-", "b"},
        {".", "\xc3\xa9", "\n"},
        {"\\S", "x", "\xc2\xa0"},
        {"a{2,}?", "aaa", "a"},
    };
    static const struct {
        const char *text, *says;
        tc_status status;
    } bad[] = {
        {"(a", "group", TC_ARGUMENT},
        {"a)", ")", TC_ARGUMENT},
        {"[a", "early", TC_ARGUMENT},
        {"*a", "nothing to repeat", TC_ARGUMENT},
        {"a**", "nothing to repeat", TC_ARGUMENT},
        {"a{2", "brace", TC_ARGUMENT},
        {"a{3,2}", "n below m", TC_ARGUMENT},
        {"\\1", "back reference", TC_UNSUPPORTED},
        {"(?=a)", "look-around", TC_UNSUPPORTED},
        {"(?i)a", "flags", TC_UNSUPPORTED},
        {"\\bx", "word boundary", TC_UNSUPPORTED},
        {"\\p{L}", "\\p", TC_UNSUPPORTED},
        {"a++", "possessive", TC_UNSUPPORTED},
        {"a(^b)c", "anchor", TC_UNSUPPORTED},
        {"[z-a]", "backwards", TC_ARGUMENT},
        {"\xff", "UTF-8", TC_ARGUMENT},
        {"[[:alpha:]]", "POSIX", TC_UNSUPPORTED},
        {"\\ud800", "surrogate", TC_UNSUPPORTED},
        {"a{1000001}", "1000000", TC_LIMIT},
        {"[^\\x00-\\uffff\\W\\w]", "no text can ever match", TC_ARGUMENT},
    };
    (void)state;
    check_members(TC_CONSTRAINT_REGEX, cases, sizeof cases / sizeof *cases);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect(TC_CONSTRAINT_REGEX, bad[i].text, bad[i].status, bad[i].says);
}

static void gbnf(void **state)
{
    static const membership cases[] = {
        {"root ::= \"a\" | \"b\"\n | \"c\" # more\n", "c", "ab"},
        {"root ::= (\n  \"a\"\n  b\n)*\nb ::= [0-9]", "a1a2", "a1a"},
        {"root ::= list\nlist ::= \"x\" | \"x,\" list", "x,x,x", "x,"},
        {"root ::= \"\\x41\" \"\\u00e9\" \"\\n\" [\\]\\-^]", "A\xc3\xa9\n]", NULL},
        {"root ::= .{2,3}", "\n\xe6\x97\xa5", "a"},
        {"root ::= p\np ::= \"(\" p \")\" | \"\"", "((()))", "(()"},
        {"root ::= r | \"x\"\nr ::= r | \"y\"", "y", "z"}, // a rule that is itself adds nothing
        {"root ::= (\"a\"*)* \"b\"", "aab", "aa"},
    };
    static const struct {
        const char *text, *says;
        tc_status status;
    } bad[] = {
        {"a ::= \"x\"", "no rule root", TC_ARGUMENT},
        {"root ::= b", "rule b is not defined", TC_ARGUMENT},
        {"root ::= \"a\"\nroot ::= \"b\"", "defined twice", TC_ARGUMENT},
        {"root ::= root \"a\" | \"b\"", "rule root is left-recursive", TC_UNSUPPORTED},
        {"root ::= p \"a\"\np ::= q? p \"x\" | \"y\"\nq ::= \"q\"", "rule p is left-recursive",
         TC_UNSUPPORTED},
        {"root ::= root{2}", "left-recursive", TC_UNSUPPORTED},
        {"root ::= \"a\" root", "no text can ever match", TC_ARGUMENT},
        {"root ::= \"a", "does not end", TC_ARGUMENT},
        {"root ::= (\"a\"", "group", TC_ARGUMENT},
        {"root ::= \"a\")", ")", TC_ARGUMENT},
        {"root ::= \"\\q\"", "escape", TC_ARGUMENT},
        {"root = \"a\"", "::=", TC_ARGUMENT},
        {"root ::= <tool>", "tokens", TC_UNSUPPORTED},
        {"root ::= \"a\"{2,1}", "n below m", TC_ARGUMENT},
        {"", "no rule root", TC_ARGUMENT},
    };
    (void)state;
    check_members(TC_CONSTRAINT_GRAMMAR, cases, sizeof cases / sizeof *cases);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect(TC_CONSTRAINT_GRAMMAR, bad[i].text, bad[i].status, bad[i].says);
}

static void json_spacing(void **state)
{
    static const membership cases[] = {
        {"{}", "{\"a\": [1, 2],\n  \"b\":{}}", "{\"a\" :1}"},
        {"{}", "[1,\n2]", "[1,  2]"},
        {"{}", "1", " 1"},
        {"{}", "\"\\ud83d\\ude00\\u00e9\\/\"", "\"\\ud83d\""},
        {"{}", "-0.5e+10", "01"},
        {"{}", "\"\xc3\xa9\"", "\"\n\""},
        {"{\"const\":{\"k\":[1,\"x\"]}}", "{\"k\":[1,\"x\"]}", "{\"k\": [1,\"x\"]}"},
    };
    (void)state;
    check_members(TC_CONSTRAINT_JSON_SCHEMA, cases, sizeof cases / sizeof *cases);
    assert_true(matches(TC_CONSTRAINT_JSON_OBJECT, "", "{\"a\":null}"));
    assert_false(matches(TC_CONSTRAINT_JSON_OBJECT, "", "[1]"));
}

static void schemas(void **state)
{
    static const membership cases[] = {
        {"{\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{}},\"required\":[\"b\"]}", "{\"a\":1,\"b\":2}",
         "{\"b\":2,\"a\":1}"},
        {"{\"properties\":{\"a\":{}}}", "{}", "{\"z\":1}"},
        {"{\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":{\"type\":\"string\"}}",
         "{\"a\":1,\"ab\":\"x\"}", "{\"a\":1,\"a\":\"x\"}"},
        {"{\"properties\":{\"a\":{\"type\":\"integer\"}},\"additionalProperties\":{\"type\":\"string\"}}",
         "{\"b\":\"x\"}", "{\"\\u0061\":\"x\"}"},
        {"{\"type\":\"object\",\"additionalProperties\":true,\"minProperties\":1,\"maxProperties\":2}",
         "{\"a\":1,\"b\":2}", "{}"},
        {"{\"type\":\"object\",\"patternProperties\":{\"^k\":{\"const\":1}}}", "{\"kx\":1}", "{\"x\":1}"},
        {"{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":false,\"minItems\":1}", "[1]", "[2]"},
        {"{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":3},\"minItems\":3,\"maxItems\":"
         "4}",
         "[1,2,3,3]", "[1,2]"},
        {"{\"type\":\"array\",\"items\":{\"const\":0},\"minItems\":2,\"maxItems\":3}", "[0,0,0]", "[0]"},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"\\ud83d\\ude00\xc3\xa9\"", "\"a\""},
        {"{\"type\":\"string\",\"pattern\":\"a\\\"\\\\\\\\\"}", "\"xa\\\"\\\\y\"", "\"a\""},
        {"{\"type\":\"string\",\"pattern\":\"^[A-Z]{3}$\",\"minLength\":3}", "\"ABC\"", "\"AB\""},
        {"{\"enum\":[\"a\",1,2.5,null],\"type\":[\"string\",\"integer\"]}", "1", "2.5"},
        {"{\"enum\":[\"ab\",\"a\",\"b\"],\"maxLength\":1,\"pattern\":\"a\"}", "\"a\"", "\"b\""},
        {"{\"type\":\"integer\",\"nullable\":true}", "null", "1.5"},
        {"{\"allOf\":[{\"type\":[\"string\",\"integer\"]},{\"type\":[\"integer\",\"null\"]}],\"maximum\":5}",
         "5", "6"},
        {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}],\"enum\":[1,\"x\",null]}", "\"x\"",
         "null"},
        {"{\"$ref\":\"#/$defs/a~1b\",\"$defs\":{\"a/b\":{\"const\":1}}}", "1", "2"},
        {"{\"$defs\":{\"t\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"$ref\":\"#/$defs/t\"}",
         "[[],[[]]]", "[1]"},
        {"{\"type\":\"object\",\"required\":[\"x\"],\"properties\":{\"y\":{}}}", "{\"y\":1,\"x\":2}",
         "{\"y\":1}"},
        {"{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "null", "1"},
    };
    (void)state;
    check_members(TC_CONSTRAINT_JSON_SCHEMA, cases, sizeof cases / sizeof *cases);
}

static void schema_refusals(void **state)
{
    static const struct {
        const char *text, *says;
        tc_status status;
    } bad[] = {
        {"{\"not\":{}}", "keyword \"not\"", TC_UNSUPPORTED},
        {"{\"properties\":{\"a\":{\"if\":{}}}}", "#/properties/a: keyword \"if\"", TC_UNSUPPORTED},
        {"{\"$defs\":{\"x\":{\"contains\":{}}}}", "#/$defs/x: keyword \"contains\"", TC_UNSUPPORTED},
        {"{\"uniqueItems\":true}", "uniqueItems", TC_UNSUPPORTED},
        {"{\"items\":[{}]}", "prefixItems", TC_UNSUPPORTED},
        {"{\"type\":\"text\"}", "\"type\"", TC_ARGUMENT},
        {"{\"required\":\"a\"}", "\"required\"", TC_ARGUMENT},
        {"{\"minLength\":-1}", "\"minLength\"", TC_ARGUMENT},
        {"{\"$ref\":\"#/$defs/x\"}", "points to no schema", TC_ARGUMENT},
        {"{\"$ref\":\"http://x/y\"}", "leaves the document", TC_UNSUPPORTED},
        {"{\"$ref\":\"#\"}", "without end", TC_ARGUMENT},
        {"{\"$defs\":{\"a\":{\"anyOf\":[{\"$ref\":\"#/$defs/a\"},{}]}},\"$ref\":\"#/$defs/a\"}",
         "without end", TC_ARGUMENT},
        {"{\"type\":\"string\",\"format\":\"iri\"}", "format \"iri\"", TC_UNSUPPORTED},
        {"{\"pattern\":\"(?=x)\"}", "look-around", TC_UNSUPPORTED},
        {"{\"pattern\":\"a*\",\"minLength\":2}", "together with minLength", TC_UNSUPPORTED},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "oneOf: branches 0 and 1",
         TC_UNSUPPORTED},
        {"{\"multipleOf\":0.3}", "multipleOf", TC_UNSUPPORTED},
        {"{\"type\":\"integer\",\"multipleOf\":7,\"minimum\":8}", "multipleOf", TC_UNSUPPORTED},
        {"{\"multipleOf\":0}", "\"multipleOf\"", TC_ARGUMENT},
        {"{\"const\":[1],\"minItems\":1}", "constant beside", TC_UNSUPPORTED},
        {"{\"patternProperties\":{\"a\":{},\"b\":{}}}", "more than one pattern", TC_UNSUPPORTED},
        {"{\"patternProperties\":{\"a\":{}},\"properties\":{\"a\":{}}}", "also matches", TC_UNSUPPORTED},
        {"{\"minProperties\":2}", "minProperties", TC_UNSUPPORTED},
        {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "no text can ever match", TC_ARGUMENT},
        {"false", "no text can ever match", TC_ARGUMENT},
        {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "no text can ever match", TC_ARGUMENT},
        {"{\"type\":\"object\",\"properties\":{\"a\":false},\"required\":[\"a\"]}", "no text can ever match",
         TC_ARGUMENT},
        {"{\"minimum\":1e30}", "too many digits", TC_UNSUPPORTED},
        {"[]", "a schema is an object", TC_ARGUMENT},
        {"{\"a\":1", "schema", TC_ARGUMENT},
        {"{\"type\":\"null\",\"type\":\"null\"}", "schema", TC_ARGUMENT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect(TC_CONSTRAINT_JSON_SCHEMA, bad[i].text, bad[i].status, bad[i].says);
}

// Every number of up to one digit before and two behind the point, against every pair of bounds.
static void numbers(void **state)
{
    static const char *const bounds[] = {"-2.5", "-1", "-0.05", "0", "0.1", "0.25", "1", "1.05", "3"};
    enum { N = sizeof bounds / sizeof *bounds };
    (void)state;
    for (int a = 0; a < N; a++)
        for (int z = a; z < N; z++)
            for (int open = 0; open < 4; open++) {
                char schema[200];
                tc_grammar *g;
                snprintf(schema, sizeof schema, "{\"type\":\"number\",\"%s\":%s,\"%s\":%s}",
                         open & 1 ? "exclusiveMinimum" : "minimum", bounds[a],
                         open & 2 ? "exclusiveMaximum" : "maximum", bounds[z]);
                tc_status status = compile_bytes(TC_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema), &g);
                if (a == z && open) {
                    assert_int_equal(status, TC_ARGUMENT);
                    continue;
                }
                assert_int_equal(status, TC_OK);
                for (int v = -400; v <= 400; v++) {
                    char text[20];
                    int abs_v = v < 0 ? -v : v;
                    snprintf(text, sizeof text, "%s%d.%02d", v < 0 ? "-" : "", abs_v / 100, abs_v % 100);
                    double x = strtod(text, NULL), low = strtod(bounds[a], NULL),
                           high = strtod(bounds[z], NULL);
                    bool want = (open & 1 ? x > low : x >= low) && (open & 2 ? x < high : x <= high), got;
                    assert_int_equal(tc_grammar_match(g, text, strlen(text), &got, &error), TC_OK);
                    if (got != want) fail_msg("%s: %s: %d", schema, text, got);
                }
                tc_grammar_free(g);
            }
}

static void integers(void **state)
{
    static const struct {
        const char *schema;
        int low, high, step;
    } cases[] = {
        {"{\"type\":\"integer\",\"minimum\":-12,\"exclusiveMaximum\":105}", -12, 104, 1},
        {"{\"type\":\"integer\",\"minimum\":7,\"maximum\":7}", 7, 7, 1},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":8.5,\"maximum\":211.5}", 9, 211, 1},
        {"{\"type\":\"integer\",\"minimum\":-50,\"maximum\":50,\"multipleOf\":7}", -49, 49, 7},
        {"{\"type\":\"integer\",\"multipleOf\":25}", -300, 300, 25},
        {"{\"type\":\"integer\",\"minimum\":0,\"multipleOf\":3}", 0, 300, 3},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":0,\"multipleOf\":3}", 3, 300, 3},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tc_grammar *g;
        assert_int_equal(
            compile_bytes(TC_CONSTRAINT_JSON_SCHEMA, cases[i].schema, strlen(cases[i].schema), &g), TC_OK);
        for (int v = -300; v <= 300; v++) {
            char text[20];
            snprintf(text, sizeof text, "%d", v);
            bool got, want = v >= cases[i].low && v <= cases[i].high && v % cases[i].step == 0;
            assert_int_equal(tc_grammar_match(g, text, strlen(text), &got, &error), TC_OK);
            if (got != want) fail_msg("%s: %s: %d", cases[i].schema, text, got);
        }
        tc_grammar_free(g);
    }
}

static void tools(void **state)
{
    static const char two[] =
        "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"add\",\"parameters\":{\"type\":"
        "\"object\",\"properties\":{\"x\":{\"type\":"
        "\"integer\"}},\"required\":[\"x\"]}}},{\"type\":\"function\",\"function\":{\"name\":\"stop\"}}]%s}";
    char any[600], only[600], single[600];
    (void)state;
    snprintf(any, sizeof any, two, "");
    snprintf(only, sizeof only, two, ",\"name\":\"stop\"");
    snprintf(single, sizeof single, two, ",\"parallel\":false");
#define ADD "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 1}}\n</tool_call>"
#define STOP "<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>"
    assert_true(matches(TC_CONSTRAINT_TOOL_CALLS, any, ADD));
    assert_true(matches(TC_CONSTRAINT_TOOL_CALLS, any, ADD "\n" STOP "\n" ADD));
    assert_false(matches(TC_CONSTRAINT_TOOL_CALLS, any, ADD STOP));
    assert_false(matches(TC_CONSTRAINT_TOOL_CALLS, only, ADD));
    assert_true(matches(TC_CONSTRAINT_TOOL_CALLS, only, STOP));
    assert_false(matches(TC_CONSTRAINT_TOOL_CALLS, single, ADD "\n" STOP));
    expect(TC_CONSTRAINT_TOOL_CALLS, "{\"tools\":[]}", TC_ARGUMENT, "none");
    expect(TC_CONSTRAINT_TOOL_CALLS, "{\"tools\":[{\"function\":{\"name\":\"f\"}}],\"name\":\"g\"}",
           TC_ARGUMENT, "\"g\"");
    expect(TC_CONSTRAINT_TOOL_CALLS,
           "{\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"if\":{}}}}]}", TC_UNSUPPORTED,
           "tools[0].function.parameters");
}

// ---- limits ----

static char *repeated(const char *head, const char *part, size_t n, const char *tail)
{
    size_t h = strlen(head), p = strlen(part), t = strlen(tail);
    char *text = malloc(h + n * p + t + 1);
    if (!text) abort();
    memcpy(text, head, h);
    for (size_t i = 0; i < n; i++) memcpy(text + h + i * p, part, p);
    memcpy(text + h + n * p, tail, t + 1);
    return text;
}

static void expect_limit(tc_constraint_kind kind, char *good, char *bad)
{
    expect(kind, good, TC_OK, NULL);
    expect(kind, bad, TC_LIMIT, NULL);
    free(good);
    free(bad);
}

static char *nested(const char *open, const char *middle, const char *close, size_t n)
{
    char *left = repeated("", open, n, middle), *both = repeated(left, close, n, "");
    free(left);
    return both;
}

static void limits(void **state)
{
    (void)state;
    const size_t text = TC_CONSTRAINT_TEXT_BYTES_MAX;
    // regex of one class, so that states are not what is counted
    expect_limit(TC_CONSTRAINT_GRAMMAR, repeated("root ::= \"a\"", " ", text - 12, ""),
                 repeated("root ::= \"a\"", " ", text - 11, ""));
    expect_limit(TC_CONSTRAINT_REGEX, nested("(", "a", ")", TC_GRAMMAR_NEST_MAX),
                 nested("(", "a", ")", TC_GRAMMAR_NEST_MAX + 1));
    char *g[2];
    for (int i = 0; i < 2; i++) {
        char *inner = nested("(", "\"a\"", ")", (size_t)(TC_GRAMMAR_NEST_MAX + i));
        g[i] = repeated("root ::= ", inner, 1, "");
        free(inner);
    }
    expect_limit(TC_CONSTRAINT_GRAMMAR, g[0], g[1]);
    // a schema's text: {"items": {"items": ... {} }} is one deeper than it has "items"
    char *deep = nested("{\"items\":", "{}", "}", TC_GRAMMAR_JSON_DEPTH_MAX - 1);
    char *deeper = nested("{\"items\":", "{}", "}", TC_GRAMMAR_JSON_DEPTH_MAX);
    expect(TC_CONSTRAINT_JSON_SCHEMA, deep, TC_OK, NULL);
    expect(TC_CONSTRAINT_JSON_SCHEMA, deeper, TC_ARGUMENT, "deeper than 64");
    free(deep);
    free(deeper);
    expect(TC_CONSTRAINT_REGEX, "a{1000000}", TC_OK, NULL);
    expect(TC_CONSTRAINT_REGEX, "a{1000001}", TC_LIMIT, NULL);
    expect(TC_CONSTRAINT_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":1000000}", TC_OK, NULL);
    expect(TC_CONSTRAINT_JSON_SCHEMA, "{\"type\":\"string\",\"minLength\":1000001}", TC_LIMIT, NULL);
    expect_limit(TC_CONSTRAINT_JSON_SCHEMA,
                 repeated("{\"const\":\"", "x", TC_GRAMMAR_CONSTANT_BYTES_MAX, "\"}"),
                 repeated("{\"const\":\"", "x", TC_GRAMMAR_CONSTANT_BYTES_MAX + 1, "\"}"));
    expect_limit(TC_CONSTRAINT_JSON_SCHEMA,
                 repeated("{\"required\":[\"", "x", TC_GRAMMAR_CONSTANT_BYTES_MAX, "\"]}"),
                 repeated("{\"required\":[\"", "x", TC_GRAMMAR_CONSTANT_BYTES_MAX + 1, "\"]}"));
    const char *tool = ",{\"function\":{\"name\":\"f\"}}",
               *first = "{\"tools\":[{\"function\":{\"name\":\"f\"}}";
    expect_limit(TC_CONSTRAINT_TOOL_CALLS, repeated(first, tool, TC_GRAMMAR_TOOLS_MAX - 1, "]}"),
                 repeated(first, tool, TC_GRAMMAR_TOOLS_MAX, "]}"));
    // so many ways to combine: 2^10 against 2^11
    const char *either = ",{\"anyOf\":[{\"title\":\"a\",\"minimum\":0},{\"minimum\":1}]}";
    expect_limit(TC_CONSTRAINT_JSON_SCHEMA, repeated("{\"allOf\":[{\"type\":\"integer\"}", either, 8, "]}"),
                 repeated("{\"allOf\":[{\"type\":\"integer\"}", either, 10, "]}"));
}

// One class of so many ranges; then so many classes that their ranges together are what is counted.
static void range_limits(void **state)
{
    (void)state;
    const size_t most = TC_GRAMMAR_CLASS_RANGES_MAX;
    expect_limit(TC_CONSTRAINT_REGEX, repeated("[", "a", most, "]"), repeated("[", "a", most + 1, "]"));
    expect_limit(TC_CONSTRAINT_GRAMMAR, repeated("root ::= [", "a", most, "]"),
                 repeated("root ::= [", "a", most + 1, "]"));
    for (uint32_t extra = 0; extra < 2; extra++) {
        tc_builder b;
        assert_int_equal(tc_builder_init(&b, &error), TC_OK);
        uint32_t ranges = b.range_count; // what every builder begins with
        for (uint32_t i = ranges; i < TC_GRAMMAR_RANGES_MAX + extra; i++) {
            const tc_char_range one = {i, i};
            tc_tree_chars(&b, &one, 1, false);
        }
        assert_int_equal(b.status, extra ? TC_LIMIT : TC_OK);
        tc_builder_free(&b);
    }
}

// A row of n - 1 $defs, each of them `open` and then a reference to the next; then `last`.
static char *reference_chain(size_t n, const char *open, const char *close, const char *last)
{
    char *text = malloc(256 + n * 80);
    if (!text) abort();
    size_t at = (size_t)sprintf(text, "{\"$ref\":\"#/$defs/r1\",\"$defs\":{");
    for (size_t i = 1; i < n; i++)
        at += (size_t)sprintf(text + at, "\"r%zu\":%s{\"$ref\":\"#/$defs/r%zu\"}%s,", i, open, i + 1, close);
    sprintf(text + at, "\"r%zu\":%s}}", n, last);
    return text;
}

static void schema_limits(void **state)
{
    (void)state;
    // each step is an anyOf and a $ref
    const char *open = "{\"anyOf\":[{\"type\":\"null\"},", *either = "{\"anyOf\":[{\"type\":\"integer\"}]}";
    const size_t steps = TC_GRAMMAR_REFERENCES_MAX / 2;
    expect_limit(TC_CONSTRAINT_JSON_SCHEMA, reference_chain(steps, open, "]}", either),
                 reference_chain(steps + 1, open, "]}", "{\"type\":\"integer\"}"));
    // $refs alone: all of them describe the one value
    expect_limit(TC_CONSTRAINT_JSON_SCHEMA,
                 reference_chain(TC_GRAMMAR_CONJUNCTION_MAX, "", "", "{\"type\":\"integer\"}"),
                 reference_chain(TC_GRAMMAR_CONJUNCTION_MAX + 1, "", "", "{\"type\":\"integer\"}"));
    // the place itself is one of the schemas that describe it
    expect_limit(TC_CONSTRAINT_JSON_SCHEMA,
                 repeated("{\"allOf\":[{\"type\":\"integer\"}", ",{\"minimum\":0}",
                          TC_GRAMMAR_CONJUNCTION_MAX - 2, "]}"),
                 repeated("{\"allOf\":[{\"type\":\"integer\"}", ",{\"minimum\":0}",
                          TC_GRAMMAR_CONJUNCTION_MAX - 1, "]}"));
}

static void call_limit(void **state)
{
    (void)state;
    const char *tools = "{\"tools\":[{\"function\":{\"name\":\"f\"}}]}",
               *call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
               *again = "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
    char *most = repeated(call, again, TC_GRAMMAR_CALLS_MAX - 1, ""),
         *more = repeated(call, again, TC_GRAMMAR_CALLS_MAX, "");
    assert_true(matches(TC_CONSTRAINT_TOOL_CALLS, tools, most));
    assert_false(matches(TC_CONSTRAINT_TOOL_CALLS, tools, more));
    free(most);
    free(more);
}

static void rule_limit(void **state)
{
    (void)state;
    for (int extra = 0; extra < 2; extra++) {
        size_t n = TC_GRAMMAR_RULES_MAX - 1 + (size_t)extra, at = 0;
        char *text = malloc(n * 16 + 32);
        if (!text) abort();
        at += (size_t)sprintf(text, "root::=\"a\"\n");
        for (size_t i = 0; i < n; i++) at += (size_t)sprintf(text + at, "r%zu::=\"a\"\n", i);
        expect(TC_CONSTRAINT_GRAMMAR, text, extra ? TC_LIMIT : TC_OK, NULL);
        free(text);
    }
}

// States: a grammar whose one rule is a row of n texts of one byte has n + 2 nodes.
static void node_limit(void **state)
{
    (void)state;
    const uint32_t most = TC_GRAMMAR_NODES_MAX - TC_NODE_FIRST;
    for (uint32_t extra = 0; extra < 2; extra++) {
        tc_builder b;
        tc_grammar *g = NULL;
        assert_int_equal(tc_builder_init(&b, &error), TC_OK);
        uint32_t node = TC_NODE_RETURN;
        for (uint32_t i = 0; i < most + extra; i++) node = tc_emit_byte(&b, 'a', node);
        assert_int_equal(b.status, extra ? TC_LIMIT : TC_OK);
        if (!extra) assert_int_equal(tc_builder_finish(&b, node, &g), TC_OK);
        tc_grammar_free(g);
        tc_builder_free(&b);
    }
}

// Frames: so many open groups can be closed again, one more is not offered.
static void stack_limit(void **state)
{
    (void)state;
    const char *grammar = "root ::= \"(\" root \")\" | \"x\"";
    char *good = nested("(", "x", ")", TC_GRAMMAR_STACK_MAX),
         *bad = nested("(", "x", ")", TC_GRAMMAR_STACK_MAX + 1);
    assert_true(matches(TC_CONSTRAINT_GRAMMAR, grammar, good));
    assert_false(matches(TC_CONSTRAINT_GRAMMAR, grammar, bad));
    free(good);
    free(bad);
}

// Compilation is bounded in steps: a chain of rules in the worst order passes or is refused, quickly.
static void compile_steps(void **state)
{
    (void)state;
    size_t at = 0;
    char *text = malloc(TC_CONSTRAINT_TEXT_BYTES_MAX);
    tc_grammar *g;
    at += (size_t)sprintf(text, "root::=r0\n");
    for (int i = 0; i < 3000; i++) at += (size_t)sprintf(text + at, "r%d::=\"abcdefgh\" r%d\n", i, i + 1);
    sprintf(text + at, "r3000::=\"z\"\n");
    tc_status status = compile_bytes(TC_CONSTRAINT_GRAMMAR, text, strlen(text), &g);
    assert_true(status == TC_OK || status == TC_LIMIT);
    tc_grammar_free(g);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regexes),         cmocka_unit_test(gbnf),
        cmocka_unit_test(json_spacing),    cmocka_unit_test(schemas),
        cmocka_unit_test(schema_refusals), cmocka_unit_test(numbers),
        cmocka_unit_test(integers),        cmocka_unit_test(tools),
        cmocka_unit_test(limits),          cmocka_unit_test(rule_limit),
        cmocka_unit_test(node_limit),      cmocka_unit_test(stack_limit),
        cmocka_unit_test(compile_steps),   cmocka_unit_test(range_limits),
        cmocka_unit_test(schema_limits),   cmocka_unit_test(call_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
