// SPDX-License-Identifier: Apache-2.0
// Owns: telling a folder from a GGUF file, and the small files of both (source.h).
#include "common/model/source.h"

#include "common/base/json.h"
#include "common/model/gguf_model.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const file_names[TC_MODEL_FILES] = {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

// A GGUF file that stands for a model: not the second or later part of a split one.
static bool begins_model(const char *name)
{
    const char *of = strstr(name, "-of-");
    if (name[0] == '.' || !ends_with(name, ".gguf")) return false;
    if (!of || of - name < 6 || strlen(of) != 14) return true; // -00001-of-00003.gguf
    return strncmp(of - 6, "-00001", 6) == 0;
}

static tc_status look_into(const char *model, char ret[TC_MODEL_PATH_BYTES], tc_error *e)
{
    char list[200] = "";
    size_t used = 0;
    uint32_t found = 0;
    bool fits = true;
    DIR *dir = opendir(model);
    if (!dir) return tc_fail_errno(e, TC_IO, "%s", model);
    for (struct dirent *d; (d = readdir(dir));) {
        if (!begins_model(d->d_name)) continue;
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", found ? ", " : "", d->d_name);
        if (found++ == 0)
            fits = snprintf(ret, TC_MODEL_PATH_BYTES, "%s/%s", model, d->d_name) < TC_MODEL_PATH_BYTES;
    }
    closedir(dir);
    if (!fits) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", model);
    if (found > 1)
        return tc_fail(e, TC_ARGUMENT, "%.200s holds several GGUF files (%s): name one of them", model, list);
    return TC_OK;
}

tc_status tc_model_gguf(const char *model, char ret[TC_MODEL_PATH_BYTES], tc_error *e)
{
    char path[TC_MODEL_PATH_BYTES + 32];
    struct stat st;
    ret[0] = '\0';
    if (strlen(model) >= TC_MODEL_PATH_BYTES) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", model);
    if (stat(model, &st) != 0) {
        bool absent = errno == ENOENT || errno == ENOTDIR;
        if (absent && !ends_with(model, ".gguf")) return TC_OK; // who looks for a file of it will say which
        return tc_fail_errno(e, absent ? TC_NOT_FOUND : TC_IO, "%s", model);
    }
    if (!S_ISDIR(st.st_mode)) {
        if (!ends_with(model, ".gguf"))
            return tc_fail(e, TC_FORMAT, "%s: is neither a folder nor a .gguf file", model);
        snprintf(ret, TC_MODEL_PATH_BYTES, "%s", model);
        return TC_OK;
    }
    snprintf(path, sizeof path, "%s/config.json", model);
    if (access(path, F_OK) == 0) return TC_OK;
    return look_into(model, ret, e);
}

static tc_status make_text(const char *path, tc_model_file file, char **ret, size_t *ret_bytes, tc_error *e)
{
    tc_gguf g = {0};
    tc_status status;
    tc_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return tc_fail(e, TC_NOMEM, "%s: out of memory", path);
    c->dir_fd = -1;
    TC_GOTO(tc_gguf_open(c, path, &g, e));
    switch (file) {
    case TC_FILE_CONFIG:
        status = tc_gguf_config(path, &g, &c->table, ret, ret_bytes, e);
        break;
    case TC_FILE_GENERATION:
        status = tc_gguf_generation(path, &g, ret, ret_bytes, e);
        break;
    case TC_FILE_TOKENIZER:
        status = tc_gguf_tokenizer(path, &g, ret, ret_bytes, e);
        break;
    case TC_FILE_TOKENIZER_CONFIG:
        status = tc_gguf_tokenizer_config(path, &g, ret, ret_bytes, e);
        break;
    default:
        status = tc_gguf_chat_template(path, &g, ret, ret_bytes, e);
    }
out:
    tc_gguf_free(&g);
    tc_checkpoint_free(c);
    return status;
}

tc_status tc_model_text(const char *model, tc_model_file file, size_t max_bytes, char **ret,
                        size_t *ret_bytes, char *what, tc_error *e)
{
    char gguf[TC_MODEL_PATH_BYTES], path[TC_MODEL_PATH_BYTES + 32];
    char *text;
    size_t bytes;
    TC_TRY(tc_model_gguf(model, gguf, e));
    if (!*gguf) {
        snprintf(path, sizeof path, "%s/%s", model, file_names[file]);
        if (what) snprintf(what, TC_MODEL_PATH_BYTES, "%.1500s/%s", model, file_names[file]);
        return tc_read_file(path, max_bytes, ret, ret_bytes, e);
    }
    if (what) snprintf(what, TC_MODEL_PATH_BYTES, "%.1500s: %s", gguf, file_names[file]);
    TC_TRY(make_text(gguf, file, &text, &bytes, e));
    if (bytes > max_bytes) {
        free(text);
        return tc_fail(e, TC_LIMIT, "%s: its %s has %zu bytes, the limit is %zu", gguf, file_names[file],
                       bytes, max_bytes);
    }
    *ret = text;
    *ret_bytes = bytes;
    return TC_OK;
}
