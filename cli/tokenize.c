// SPDX-License-Identifier: Apache-2.0
// Owns: the verb `tokenize`: JSON lines {"text": "..."} on stdin become {"ids": [...]} on stdout, or with
// --decode the other way. Other fields of a line are ignored. Refuses: lines beyond a limit, and anything
// malformed: one error that names the line, exit code 1.
#include "cli/tokenize.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "cli/run.h"
#include "common/text/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yyjson.h>

enum {
    WRITE_BYTES = 1 << 18,
    LINE_BYTES_MAX = TC_TEXT_BYTES_MAX * 6 + 65536, // every byte of the longest text written as \u00xx
};

typedef struct options {
    const char *path;
    bool decode, skip_special;
    tc_special special;
} options;

static void put_ids(const tc_ids *ids)
{
    fputs("{\"ids\":[", stdout);
    for (size_t i = 0; i < ids->count; i++) {
        char digits[12], *p = digits + sizeof digits;
        uint32_t id = ids->data[i];
        do *--p = (char)('0' + id % 10);
        while (id /= 10);
        if (i) *--p = ',';
        fwrite_unlocked(p, 1, (size_t)(digits + sizeof digits - p), stdout);
    }
    fputs("]}\n", stdout);
}

static tc_status encode_line(const tc_tokenizer *t, const options *o, yyjson_val *root, tc_ids *ids,
                             tc_error *e)
{
    yyjson_val *text = yyjson_obj_get(root, "text");
    if (!yyjson_is_str(text)) return tc_fail(e, TC_FORMAT, "\"text\" is not a string");
    ids->count = 0;
    TC_TRY(tc_tokenizer_encode(t, yyjson_get_str(text), yyjson_get_len(text), o->special, ids, e));
    put_ids(ids);
    return TC_OK;
}

static tc_status put_text(const char *text, size_t bytes, tc_error *e)
{
    size_t length;
    yyjson_val value = {0};
    yyjson_set_strn(&value, text, bytes);
    char *json = yyjson_val_write(&value, YYJSON_WRITE_NOFLAG, &length);
    if (!json) return tc_fail(e, TC_NOMEM, "out of memory");
    fputs("{\"text\":", stdout);
    fwrite_unlocked(json, 1, length, stdout);
    fputs("}\n", stdout);
    free(json);
    return TC_OK;
}

static tc_status decode_line(const tc_tokenizer *t, const options *o, yyjson_val *root, tc_ids *ids,
                             tc_error *e)
{
    yyjson_val *list = yyjson_obj_get(root, "ids"), *item;
    size_t index, count, bytes;
    char *text;
    if (!yyjson_is_arr(list)) return tc_fail(e, TC_FORMAT, "\"ids\" is not an array");
    ids->count = 0;
    yyjson_arr_foreach(list, index, count, item)
    {
        if (!yyjson_is_uint(item) || yyjson_get_uint(item) >= tc_tokenizer_vocab(t))
            return tc_fail(e, TC_FORMAT, "ids[%zu] is not an id of this vocabulary (0 to %u)", index,
                           tc_tokenizer_vocab(t) - 1);
        if (tc_ids_push(ids, (uint32_t)yyjson_get_uint(item)) != TC_OK)
            return tc_fail(e, TC_NOMEM, "out of memory");
    }
    TC_TRY(tc_tokenizer_decode(t, ids->data, ids->count, o->skip_special, &text, &bytes, e));
    tc_status status = put_text(text, bytes, e);
    free(text);
    return status;
}

static tc_status one_line(const tc_tokenizer *t, const options *o, char *line, size_t bytes, tc_ids *ids,
                          tc_error *e)
{
    yyjson_read_err problem;
    yyjson_doc *doc = yyjson_read_opts(line, bytes, YYJSON_READ_NOFLAG, NULL, &problem);
    if (!doc) return tc_fail(e, TC_FORMAT, "not JSON: %s at byte %zu", problem.msg, problem.pos);
    yyjson_val *root = yyjson_doc_get_root(doc);
    tc_status status = !yyjson_is_obj(root) ? tc_fail(e, TC_FORMAT, "not an object")
                       : o->decode          ? decode_line(t, o, root, ids, e)
                                            : encode_line(t, o, root, ids, e);
    yyjson_doc_free(doc);
    return status;
}

static tc_status run(const tc_tokenizer *t, const options *o, tc_lines *r, tc_error *e)
{
    tc_ids ids = {0};
    tc_status status = TC_OK;
    for (;;) {
        char *line = NULL;
        size_t bytes = 0;
        status = tc_lines_next(r, &line, &bytes, e);
        if (status != TC_OK || !line) break;
        status = one_line(t, o, line, bytes, &ids, e);
        if (status != TC_OK) break;
    }
    tc_ids_free(&ids);
    return status;
}

// A tokenizer.json by itself, or that of a model.
static tc_status load(const char *path, tc_tokenizer **ret, tc_error *e)
{
    size_t bytes = strlen(path);
    struct stat st;
    bool model = (bytes > 5 && strcmp(path + bytes - 5, ".gguf") == 0) ||
                 (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
    return model ? tc_run_tokenizer(path, ret, e) : tc_tokenizer_load(path, ret, e);
}

static int usage(const char *problem)
{
    tc_error e;
    tc_fail(&e, TC_ARGUMENT, "tokenize: %s", problem);
    tc_cli_fail(&e);
    return TC_EXIT_USAGE;
}

int tc_cli_tokenize(int argc, char **argv)
{
    options o = {.special = TC_SPECIAL_PARSE};
    bool plain = false;
    tc_arguments arguments;
    const tc_option table[] = {
        {.name = "--decode",
         .kind = TC_OPTION_FLAG,
         .target = &o.decode,
         .help = "lines {\"ids\"} to {\"text\"}"},
        {.name = "--no-special",
         .kind = TC_OPTION_FLAG,
         .target = &plain,
         .help = "special tokens that stand in the text are plain text"},
        {.name = "--skip-special",
         .kind = TC_OPTION_FLAG,
         .target = &o.skip_special,
         .help = "with --decode: leave special tokens out of the text"},
        {0},
    };
    const char *line = "tokenize TOKENIZER.json|MODEL [options] <LINES";
    int code = tc_options_parse(table, line, 1, 1, argc, argv, &arguments);
    if (code >= 0) return code;
    o.path = arguments.positional[0];
    if (plain) o.special = TC_SPECIAL_AS_TEXT;
    if (o.decode && plain) return usage("--no-special does not go with --decode");
    if (!o.decode && o.skip_special) return usage("--skip-special needs --decode");

    tc_error e = {0};
    tc_tokenizer *t = NULL;
    tc_lines r = {.line_bytes_max = LINE_BYTES_MAX};
    if (load(o.path, &t, &e) != TC_OK) return tc_cli_fail(&e);
    static char buffer[WRITE_BYTES]; // stdout keeps it until the process ends
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    tc_status status = run(t, &o, &r, &e);
    if (status != TC_OK) tc_error_prefix(&e, "line %zu", r.line);
    // What was right before a bad line is still given out.
    else if (fflush(stdout) != 0 || ferror(stdout))
        status = tc_fail(&e, TC_IO, "writing standard output failed");
    tc_lines_free(&r);
    tc_tokenizer_free(t);
    return status == TC_OK ? 0 : tc_cli_fail(&e);
}
