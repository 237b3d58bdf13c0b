// SPDX-License-Identifier: Apache-2.0
// Owns: chat templates against Jinja2: the committed fixtures (make_templates.py, conversations.py), and,
// where they are present, the published templates with their conversations; then limits at N and N+1, and the
// ranges of data.
#include "common/base/json.h"
#include "common/text/template.h"
#include "tests/support/cmocka_all.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yyjson.h>

enum { FILE_BYTES_MAX = 16 << 20, SHOWN = 20 };

static struct tm now_of(yyjson_val *v)
{
    struct tm now = {0};
    assert_non_null(strptime(yyjson_get_str(v), "%Y-%m-%dT%H:%M:%S", &now));
    return now;
}

static bool same(yyjson_val *want, const char *text, size_t bytes)
{
    return yyjson_get_len(want) == bytes && memcmp(yyjson_get_str(want), text, bytes) == 0;
}

// Whether what came out is what the reference gave: the text, or an error (a refusal with its message).
static bool right(yyjson_val *line, tc_status status, const tc_rendered *r)
{
    yyjson_val *expected = yyjson_obj_get(line, "expected"), *error = yyjson_obj_get(line, "error");
    yyjson_val *message = yyjson_obj_get(line, "message");
    if (expected) return status == TC_OK && same(expected, r->text, r->bytes);
    if (yyjson_is_obj(error))
        message = yyjson_obj_get(error, "message"), error = yyjson_obj_get(error, "kind");
    if (status == TC_OK) return false;
    if (!yyjson_equals_str(error, "raise_exception")) return strcmp(r->kind, "raise_exception") != 0;
    return !strcmp(r->kind, "raise_exception") &&
           same(message, r->message ? r->message : "", r->message_bytes);
}

static void show(const char *name, yyjson_val *line, tc_status status, const tc_rendered *r,
                 const tc_error *e)
{
    char *text = yyjson_val_write(line, 0, NULL);
    print_message("%s: %.1500s\n    gives %s: %.600s\n", name, text, status == TC_OK ? "text" : e->text,
                  status == TC_OK ? r->text : "");
    free(text);
}

// Lines of `path`; `t` NULL: each line brings its template, the first one the variables. Returns failures.
static size_t run_file(const char *path, const tc_template *whole, size_t *cases)
{
    char *text, *rest, *line;
    size_t bytes, failures = 0;
    yyjson_doc *first = NULL;
    yyjson_val *context = NULL;
    struct tm now = {0};
    tc_error e = {0};
    assert_int_equal(tc_read_file(path, FILE_BYTES_MAX, &text, &bytes, &e), TC_OK);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        yyjson_doc *doc = yyjson_read(line, strlen(line), YYJSON_READ_BIGNUM_AS_RAW);
        yyjson_val *root = yyjson_doc_get_root(doc), *source = yyjson_obj_get(root, "template");
        assert_non_null(doc);
        if (yyjson_obj_get(root, "context")) {
            context = yyjson_obj_get(root, "context");
            now = now_of(yyjson_obj_get(root, "now"));
            if (!whole) {
                first = doc;
                continue;
            }
        }
        tc_template *own = NULL;
        tc_rendered r = {0};
        tc_status status = TC_OK;
        if (!whole) status = tc_template_parse(yyjson_get_str(source), yyjson_get_len(source), "t", &own, &e);
        if (status == TC_OK) status = tc_template_render(whole ? whole : own, context, &now, NULL, &r, &e);
        (*cases)++;
        if (!right(root, status, &r) && ++failures <= SHOWN) show(path, root, status, &r, &e);
        tc_rendered_free(&r);
        tc_template_free(own);
        yyjson_doc_free(doc);
    }
    yyjson_doc_free(first);
    free(text);
    return failures;
}

static void test_fixture(void **state)
{
    size_t cases = 0;
    (void)state;
    size_t failures = run_file(TC_SOURCE_ROOT "/tests/unit/text/data/templates.jsonl", NULL, &cases);
    print_message("%zu of %zu small templates differ from Jinja2\n", failures, cases);
    assert_true(cases > 1000);
    assert_int_equal(failures, 0);
}

// Each *.jinja of a folder with its *.cases.jsonl. Returns failures.
static size_t run_folder(const char *folder, size_t *cases)
{
    size_t failures = 0;
    DIR *dir = opendir(folder);
    for (struct dirent *d; dir && (d = readdir(dir));) {
        char path[4096], *text;
        size_t bytes, stem = strlen(d->d_name);
        tc_template *t;
        tc_error e = {0};
        if (stem < 7 || strcmp(d->d_name + stem - 6, ".jinja")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, d->d_name);
        assert_int_equal(tc_read_file(path, TC_TEMPLATE_BYTES_MAX, &text, &bytes, &e), TC_OK);
        assert_int_equal(tc_template_parse(text, bytes, d->d_name, &t, &e), TC_OK);
        snprintf(path, sizeof path, "%s/%.*s.cases.jsonl", folder, (int)stem - 6, d->d_name);
        failures += run_file(path, t, cases);
        tc_template_free(t);
        free(text);
    }
    if (dir) closedir(dir);
    print_message("%zu of %zu conversations differ: %s\n", failures, *cases, folder);
    return failures;
}

// Generated conversations through templates of our own (conversations.py).
static void test_conversations(void **state)
{
    size_t cases = 0;
    (void)state;
    assert_int_equal(run_folder(TC_SOURCE_ROOT "/tests/unit/text/data/conversations", &cases), 0);
    assert_int_equal(cases, 150);
}

// The published templates are not part of the project; TC_TEMPLATE_CASES or ../shared/data/templates has
// them.
static void test_published(void **state)
{
    const char *folder = getenv("TC_TEMPLATE_CASES");
    size_t cases = 0;
    (void)state;
    if (!folder) folder = TC_SOURCE_ROOT "/../shared/data/templates";
    if (access(folder, R_OK) != 0) {
        print_message("no published templates at %s: skipped\n", folder);
        skip();
    }
    assert_int_equal(run_folder(folder, &cases), 0);
    assert_true(cases > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fixture),
        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
