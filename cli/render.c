// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `render`: JSON lines {"context": {...}, "now": "2025-09-20T14:05:09"} on stdin, each
// rendered with one chat template to {"text": "..."} or {"error": {"kind", "message"}} on stdout. Other
// fields of a line are ignored. A template that fails is an answer; a malformed line is an error that names
// it, exit code 1.
#include "cli/render.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "common/base/json.h"
#include "common/text/template.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <yyjson.h>

enum { WRITE_BYTES = 1 << 18, LINE_BYTES_MAX = 64 << 20, NOW_BYTES = 19 };

static void put_string(const char *name, const char *text, size_t bytes)
{
    size_t length;
    yyjson_val value = {0};
    yyjson_set_strn(&value, text, bytes);
    char *json = yyjson_val_write(&value, YYJSON_WRITE_ALLOW_INVALID_UNICODE, &length);
    printf("\"%s\": ", name);
    if (json) fwrite_unlocked(json, 1, length, stdout);
    free(json);
}

static void put_error(const char *kind, const char *message, size_t bytes)
{
    fputs("{\"error\": {", stdout);
    put_string("kind", kind, strlen(kind));
    fputs(", ", stdout);
    put_string("message", message ? message : "", message ? bytes : 0);
    fputs("}}\n", stdout);
}

static void put_spans(const tc_rendered *r)
{
    fputs(", \"data\": [", stdout);
    for (size_t i = 0; i < r->data_count; i++)
        printf("%s[%zu, %zu]", i ? ", " : "", r->data[i].begin, r->data[i].end);
    fputs("]", stdout);
}

// "2025-09-20T14:05:09" with the day of the week and of the year; the local time now when there is none.
static tc_status read_now(yyjson_val *v, struct tm *ret, tc_error *e)
{
    time_t now = time(NULL);
    if (!v || yyjson_is_null(v)) {
        localtime_r(&now, ret);
        return TC_OK;
    }
    const char *text = yyjson_get_str(v), *end = NULL;
    memset(ret, 0, sizeof *ret);
    if (text && yyjson_get_len(v) >= NOW_BYTES) end = strptime(text, "%Y-%m-%dT%H:%M:%S", ret);
    if (!end || (*end && *end != '.'))
        return tc_fail(e, TC_FORMAT, "\"now\" is not a time like 2025-09-20T14:05:09");
    return TC_OK;
}

static tc_status render_line(const tc_template *t, yyjson_val *root, bool spans, tc_error *e)
{
    struct tm now;
    tc_rendered result = {0};
    yyjson_val *context = yyjson_obj_get(root, "context");
    if (!yyjson_is_obj(context)) return tc_fail(e, TC_FORMAT, "\"context\" is not an object");
    TC_TRY(read_now(yyjson_obj_get(root, "now"), &now, e));
    if (tc_template_render(t, context, &now, NULL, &result, NULL) != TC_OK) {
        put_error(result.kind, result.message, result.message_bytes);
    } else {
        fputs("{", stdout);
        put_string("text", result.text, result.bytes);
        if (spans) put_spans(&result);
        fputs("}\n", stdout);
    }
    tc_rendered_free(&result);
    return TC_OK;
}

static tc_status one_line(const tc_template *t, char *line, size_t bytes, bool spans, tc_error *e)
{
    yyjson_read_err problem;
    yyjson_doc *doc = yyjson_read_opts(line, bytes, YYJSON_READ_BIGNUM_AS_RAW, NULL, &problem);
    if (!doc) return tc_fail(e, TC_FORMAT, "not JSON: %s at byte %zu", problem.msg, problem.pos);
    tc_status status = render_line(t, yyjson_doc_get_root(doc), spans, e);
    yyjson_doc_free(doc);
    return status;
}

static tc_status run(const tc_template *t, tc_lines *lines, bool spans, tc_error *e)
{
    for (;;) {
        char *line = NULL;
        size_t bytes = 0;
        TC_TRY(tc_lines_next(lines, &line, &bytes, e));
        if (!line) return TC_OK;
        TC_TRY(one_line(t, line, bytes, spans, e));
    }
}

int tc_cli_render(int argc, char **argv)
{
    bool spans = false;
    tc_arguments arguments;
    const tc_option table[] = {
        {.name = "--spans",
         .kind = TC_OPTION_FLAG,
         .target = &spans,
         .help = "also the byte ranges of the text that came out of the variables, as \"data\""},
        {0},
    };
    int code =
        tc_options_parse(table, "render TEMPLATE.jinja [--spans] <LINES", 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    const char *path = arguments.positional[0];
    tc_error e = {0};
    tc_template *t = NULL;
    char *text = NULL;
    size_t bytes = 0;
    tc_lines lines = {.line_bytes_max = LINE_BYTES_MAX};
    tc_status status = tc_read_file(path, TC_TEMPLATE_BYTES_MAX, &text, &bytes, &e);
    if (status == TC_OK) status = tc_template_parse(text, bytes, path, &t, &e);
    if (status == TC_OK) {
        static char buffer[WRITE_BYTES]; // stdout keeps it until the process ends
        setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
        status = run(t, &lines, spans, &e);
        if (status != TC_OK)
            tc_error_prefix(&e, "line %zu", lines.line);
        else if (fflush(stdout) != 0 || ferror(stdout))
            status = tc_fail(&e, TC_IO, "writing standard output failed");
    }
    tc_lines_free(&lines);
    tc_template_free(t);
    free(text);
    return status == TC_OK ? 0 : tc_cli_fail(&e);
}
