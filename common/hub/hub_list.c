// SPDX-License-Identifier: Apache-2.0
// Owns: names of models, and the hub's description of a repository: which files, how large, which checksum.
// Refuses: paths that leave the folder, sizes and checksums that are none.
#include "common/base/json.h"
#include "common/hub/hub_impl.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool plain(const char *text, size_t bytes, const char *also)
{
    if (bytes == 0 || strchr("./-", text[0])) return false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        bool fine =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr(also, c);
        bool border = c == '/' && (i + 1 == bytes || text[i + 1] == '/' || text[i + 1] == '.');
        if (!c || !fine || border || (c == '.' && text[i + 1] == '.') ||
            (c == '-' && i + 1 < bytes && text[i + 1] == '-'))
            return false;
    }
    return true;
}

tc_status tc_hub_parse(const char *text, tc_hub_name *ret, tc_error *e)
{
    const char *slash = strchr(text, '/'), *colon = slash ? strchr(slash, ':') : NULL;
    size_t owner = slash ? (size_t)(slash - text) : 0;
    size_t name = slash ? colon ? (size_t)(colon - slash - 1) : strlen(slash + 1) : 0;
    const char *revision = colon ? colon + 1 : "main";
    if (!plain(text, owner, "._-") || !plain(slash + 1, name, "._-"))
        return tc_fail(e, TC_ARGUMENT, "\"%.100s\" is no model of a hub (OWNER/NAME or OWNER/NAME:REVISION)",
                       text);
    if (owner > TC_HUB_NAME_BYTES_MAX || name > TC_HUB_NAME_BYTES_MAX)
        return tc_fail(e, TC_LIMIT, "\"%.100s...\": owner and name have at most %d bytes", text,
                       TC_HUB_NAME_BYTES_MAX);
    if (strlen(revision) > TC_HUB_REVISION_BYTES_MAX || !plain(revision, strlen(revision), "._-/"))
        return tc_fail(e, TC_ARGUMENT,
                       "\"%.100s\": the revision must be a branch, tag or commit of at most %d bytes", text,
                       TC_HUB_REVISION_BYTES_MAX);
    snprintf(ret->owner, sizeof ret->owner, "%.*s", (int)owner, text);
    snprintf(ret->name, sizeof ret->name, "%.*s", (int)name, slash + 1);
    snprintf(ret->revision, sizeof ret->revision, "%s", revision);
    return TC_OK;
}

static bool is_hex(const char *text, size_t bytes)
{
    return strspn(text, "0123456789abcdef") == bytes && text[bytes] == 0;
}

// A path below the folder, of ordinary parts.
static bool safe_path(const char *path, size_t bytes)
{
    if (bytes == 0 || bytes > TC_HUB_FILE_BYTES_MAX || path[0] == '/' || path[bytes - 1] == '/') return false;
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)path[i] < 0x20 || path[i] == '\\') return false;
        bool begins = i == 0 || path[i - 1] == '/';
        if (begins && (path[i] == '/' ||
                       (path[i] == '.' && (i + 1 == bytes || path[i + 1] == '/' || path[i + 1] == '.'))))
            return false;
    }
    return true;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

// What a folder with a model holds; weights of other formats and pictures stay where they are.
static bool needed(const char *path)
{
    if (strchr(path, '/')) return false;
    return ends_with(path, ".json") || ends_with(path, ".jinja") || ends_with(path, ".gguf") ||
           ends_with(path, ".txt") || ends_with(path, ".model") ||
           (ends_with(path, ".safetensors") && strncmp(path, "consolidated", 12) != 0);
}

// A pattern chooses among weights; the small files beside them come along.
static bool wanted(const char *path, const char *include)
{
    bool weights = ends_with(path, ".gguf") || ends_with(path, ".safetensors");
    if (include && fnmatch(include, path, 0) == 0) return true;
    return needed(path) && !(include && weights);
}

static tc_status one_file(const char *what, yyjson_val *entry, const char *include, tc_hub_files *ret,
                          tc_error *e)
{
    yyjson_val *path = yyjson_obj_get(entry, "rfilename"), *lfs = yyjson_obj_get(entry, "lfs");
    bool is_lfs = yyjson_is_obj(lfs);
    yyjson_val *size = yyjson_obj_get(is_lfs ? lfs : entry, "size");
    yyjson_val *sum = is_lfs ? yyjson_obj_get(lfs, "sha256") : yyjson_obj_get(entry, "blobId");
    size_t digits = is_lfs ? 64 : 40;
    if (!yyjson_is_str(path) || strlen(yyjson_get_str(path)) != yyjson_get_len(path) ||
        !safe_path(yyjson_get_str(path), yyjson_get_len(path)))
        return tc_fail(e, TC_FORMAT, "%s: siblings: rfilename \"%.100s\" is no path in a folder", what,
                       yyjson_is_str(path) ? yyjson_get_str(path) : "");
    const char *name = yyjson_get_str(path);
    if (!wanted(name, include)) return TC_OK;
    bool told = size || sum; // neither: the file itself is asked
    if (told && (!yyjson_is_uint(size) || yyjson_get_uint(size) > INT64_MAX))
        return tc_fail(e, TC_FORMAT, "%s: %.200s: size is missing or no size", what, name);
    if (told &&
        (!yyjson_is_str(sum) || yyjson_get_len(sum) != digits || !is_hex(yyjson_get_str(sum), digits)))
        return tc_fail(e, TC_FORMAT, "%s: %.200s: %s is missing or no checksum", what, name,
                       is_lfs ? "lfs.sha256" : "blobId");
    if (ret->count == TC_HUB_FILES_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %d files", what, TC_HUB_FILES_MAX);
    tc_hub_file *f = &ret->items[ret->count];
    for (uint32_t i = 0; i < ret->count; i++)
        if (strcmp(ret->items[i].path, name) == 0)
            return tc_fail(e, TC_FORMAT, "%s: %.200s: is there twice", what, name);
    snprintf(f->path, sizeof f->path, "%s", name);
    const char *checksum = told ? yyjson_get_str(sum) : NULL;
    snprintf(f->checksum, sizeof f->checksum, "%s", checksum ? checksum : "");
    f->bytes = told ? yyjson_get_uint(size) : 0;
    ret->count++;
    return TC_OK;
}

// Several quantisations of one model are offered as files of one repository: one has to be chosen.
static tc_status check_choice(const char *what, const tc_hub_files *files, const char *include, tc_error *e)
{
    char list[256] = "";
    size_t used = 0;
    uint32_t models = 0;
    bool folder = false;
    for (uint32_t i = 0; i < files->count; i++) {
        const char *path = files->items[i].path, *of = strstr(path, "-of-");
        folder |= strcmp(path, "config.json") == 0 || ends_with(path, ".safetensors");
        if (!ends_with(path, ".gguf") || (of && of - path > 6 && strncmp(of - 6, "-00001", 6) != 0)) continue;
        models++;
        if (used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", models > 1 ? ", " : "", path);
    }
    if (files->count == 0)
        return tc_fail(e, TC_NOT_FOUND, "%s: no file %s%s", what, include ? "matches " : "of a model",
                       include ? include : "");
    if (models > 1 && !folder)
        return tc_fail(e, TC_ARGUMENT, "%s: several GGUF files, choose with --include: %s", what, list);
    return TC_OK;
}

tc_status tc_hub_files_parse(const char *what, const char *json, size_t bytes, const char *include,
                             tc_hub_files *ret, tc_error *e)
{
    yyjson_doc *doc = NULL;
    tc_hub_files files = {0};
    size_t i, n;
    yyjson_val *entry;
    tc_status status;
    TC_TRY(tc_json_parse(what, json, bytes, TC_JSON_DEPTH_MAX, &doc, e));
    yyjson_val *root = yyjson_doc_get_root(doc), *sha = yyjson_obj_get(root, "sha"),
               *list = yyjson_obj_get(root, "siblings");
    if (!yyjson_is_str(sha) || yyjson_get_len(sha) != 40 || !is_hex(yyjson_get_str(sha), 40))
        TC_GOTO(tc_fail(e, TC_FORMAT, "%s: sha is missing or no commit", what));
    if (!yyjson_is_arr(list)) TC_GOTO(tc_fail(e, TC_FORMAT, "%s: siblings is missing", what));
    snprintf(files.commit, sizeof files.commit, "%s", yyjson_get_str(sha));
    files.items = calloc(TC_HUB_FILES_MAX, sizeof *files.items);
    if (!files.items) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: out of memory", what));
    yyjson_arr_foreach(list, i, n, entry) TC_GOTO(one_file(what, entry, include, &files, e));
    TC_GOTO(check_choice(what, &files, include, e));
    *ret = files;
    files.items = NULL;
out:
    free(files.items);
    yyjson_doc_free(doc);
    return status;
}
