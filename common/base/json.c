// SPDX-License-Identifier: Apache-2.0
// Owns: bounded reading and strict checking of JSON (json.h). The parser is yyjson, which does not recurse;
// depth is counted on the text before it runs, so that nothing is built from a document that nests too deep.
#include "common/base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAIRWISE_KEYS = 16 }; // objects up to this size are checked for duplicates pair by pair

static tc_status read_fd(const char *path, int fd, size_t max_bytes, char **ret, size_t *ret_bytes,
                         tc_error *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0) return tc_fail_errno(e, TC_IO, "%s", path);
    if (!S_ISREG(st.st_mode)) return tc_fail(e, TC_FORMAT, "%s: not a regular file", path);
    if ((uint64_t)st.st_size > max_bytes)
        return tc_fail(e, TC_LIMIT, "%s: %" PRIu64 " bytes, the limit is %zu", path, (uint64_t)st.st_size,
                       max_bytes);
    size_t bytes = (size_t)st.st_size, got = 0;
    char *text = malloc(bytes + 1);
    if (!text) return tc_fail(e, TC_NOMEM, "%s: no memory for %zu bytes", path, bytes);
    while (got < bytes) {
        ssize_t n = read(fd, text + got, bytes - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            tc_status status = n < 0 ? tc_fail_errno(e, TC_IO, "%s", path)
                                     : tc_fail(e, TC_IO, "%s: shorter than its size says", path);
            free(text);
            return status;
        }
        got += (size_t)n;
    }
    text[bytes] = '\0';
    *ret = text;
    *ret_bytes = bytes;
    return TC_OK;
}

tc_status tc_read_file(const char *path, size_t max_bytes, char **ret, size_t *ret_bytes, tc_error *e)
{
    // Non-blocking: opening a FIFO must not wait for its writer.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        tc_status class = errno == ENOENT || errno == ENOTDIR ? TC_NOT_FOUND : TC_IO;
        return tc_fail_errno(e, class, "%s", path);
    }
    tc_status status = read_fd(path, fd, max_bytes, ret, ret_bytes, e);
    close(fd);
    return status;
}

// Nesting of the text, brackets in strings not counted. The text need not be valid JSON.
static bool depth_within(const char *text, size_t bytes, uint32_t depth)
{
    uint32_t now = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++now > depth) return false;
        } else if ((c == '}' || c == ']') && now > 0) {
            now--;
        }
    }
    return true;
}

static uint64_t key_hash(const char *key, size_t bytes)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ bytes;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (uint8_t)key[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

static bool same_key(yyjson_val *a, yyjson_val *b)
{
    return yyjson_get_len(a) == yyjson_get_len(b) &&
           memcmp(yyjson_get_str(a), yyjson_get_str(b), yyjson_get_len(a)) == 0;
}

static tc_status duplicate_key(const char *what, yyjson_val *key, tc_error *e)
{
    return tc_fail(e, TC_FORMAT, "%s: key \"%.128s\" occurs twice in one object", what, yyjson_get_str(key));
}

static tc_status check_keys_hashed(const char *what, yyjson_val *object, tc_error *e)
{
    size_t slots = 64;
    while (slots < yyjson_obj_size(object) * 2) slots *= 2;
    yyjson_val **table = calloc(slots, sizeof *table);
    if (!table) return tc_fail(e, TC_NOMEM, "%s: no memory to check its keys", what);
    tc_status status = TC_OK;
    size_t i, n;
    yyjson_val *key, *value;
    yyjson_obj_foreach(object, i, n, key, value)
    {
        size_t at = key_hash(yyjson_get_str(key), yyjson_get_len(key)) & (slots - 1);
        while (table[at] && !same_key(table[at], key)) at = (at + 1) & (slots - 1);
        if (table[at]) TC_GOTO(duplicate_key(what, key, e));
        table[at] = key;
    }
out:
    free(table);
    return status;
}

static tc_status check_keys(const char *what, yyjson_val *object, tc_error *e)
{
    yyjson_val *seen[PAIRWISE_KEYS];
    if (yyjson_obj_size(object) > PAIRWISE_KEYS) return check_keys_hashed(what, object, e);
    size_t i, n;
    yyjson_val *key, *value;
    yyjson_obj_foreach(object, i, n, key, value)
    {
        for (size_t j = 0; j < i; j++)
            if (same_key(seen[j], key)) return duplicate_key(what, key, e);
        seen[i] = key;
    }
    return TC_OK;
}

// Recursion is bounded by the depth already checked.
static tc_status check_objects(const char *what, yyjson_val *value, tc_error *e)
{
    size_t i, n;
    yyjson_val *key, *inner;
    if (yyjson_is_arr(value)) {
        yyjson_arr_foreach(value, i, n, inner) if (yyjson_is_ctn(inner))
            TC_TRY(check_objects(what, inner, e));
    } else if (yyjson_is_obj(value)) {
        TC_TRY(check_keys(what, value, e));
        yyjson_obj_foreach(value, i, n, key, inner)
        {
            if (yyjson_is_ctn(inner)) TC_TRY(check_objects(what, inner, e));
        }
    }
    return TC_OK;
}

tc_status tc_json_parse(const char *what, const char *text, size_t bytes, uint32_t depth, yyjson_doc **ret,
                        tc_error *e)
{
    if (depth > TC_JSON_DEPTH_MAX) depth = TC_JSON_DEPTH_MAX;
    if (!depth_within(text, bytes, depth))
        return tc_fail(e, TC_FORMAT, "%s: JSON nested deeper than %u", what, depth);
    yyjson_read_err error;
    yyjson_doc *doc = yyjson_read_opts((char *)(uintptr_t)text, bytes, YYJSON_READ_NOFLAG, NULL, &error);
    if (!doc) {
        if (error.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
            return tc_fail(e, TC_NOMEM, "%s: no memory for its JSON", what);
        return tc_fail(e, TC_FORMAT, "%s: not JSON at byte %zu: %s", what, error.pos, error.msg);
    }
    tc_status status = check_objects(what, yyjson_doc_get_root(doc), e);
    if (status != TC_OK) {
        yyjson_doc_free(doc);
        return status;
    }
    *ret = doc;
    return TC_OK;
}

tc_status tc_json_load(const char *path, size_t max_bytes, uint32_t depth, yyjson_doc **ret, tc_error *e)
{
    char *text;
    size_t bytes;
    TC_TRY(tc_read_file(path, max_bytes, &text, &bytes, e));
    tc_status status = tc_json_parse(path, text, bytes, depth, ret, e);
    free(text);
    return status;
}

tc_status tc_json_object_of(yyjson_val *value, const char *what, tc_json_object *ret, tc_error *e)
{
    if (!yyjson_is_obj(value)) return tc_fail(e, TC_FORMAT, "%s: must be a JSON object", what);
    *ret = (tc_json_object){.value = value, .what = what, .e = e};
    return TC_OK;
}

yyjson_val *tc_json_field(const tc_json_object *o, const char *field)
{
    yyjson_val *value = yyjson_obj_get(o->value, field);
    return yyjson_is_null(value) ? NULL : value;
}

static tc_status wrong_type(const tc_json_object *o, const char *field, const char *wanted)
{
    return tc_fail(o->e, TC_FORMAT, "%s: %s must be %s", o->what, field, wanted);
}

tc_status tc_json_value_u64(yyjson_val *value, const char *what, const char *place, uint64_t min,
                            uint64_t max, uint64_t *ret, tc_error *e)
{
    if (!yyjson_is_int(value)) return tc_fail(e, TC_FORMAT, "%s: %s must be a whole number", what, place);
    if (yyjson_is_sint(value) && yyjson_get_sint(value) < 0)
        return tc_fail(e, TC_FORMAT, "%s: %s is %" PRId64 ", must be %" PRIu64 "..%" PRIu64, what, place,
                       yyjson_get_sint(value), min, max);
    uint64_t number = yyjson_get_uint(value);
    if (number < min || number > max)
        return tc_fail(e, TC_FORMAT, "%s: %s is %" PRIu64 ", must be %" PRIu64 "..%" PRIu64, what, place,
                       number, min, max);
    *ret = number;
    return TC_OK;
}

tc_status tc_json_u64(const tc_json_object *o, const char *field, uint64_t min, uint64_t max, uint64_t *ret)
{
    yyjson_val *value = tc_json_field(o, field);
    return value ? tc_json_value_u64(value, o->what, field, min, max, ret, o->e) : TC_OK;
}

tc_status tc_json_u32(const tc_json_object *o, const char *field, uint32_t min, uint32_t max, uint32_t *ret)
{
    uint64_t number = *ret;
    TC_TRY(tc_json_u64(o, field, min, max, &number));
    *ret = (uint32_t)number;
    return TC_OK;
}

tc_status tc_json_double(const tc_json_object *o, const char *field, double min, double max, double *ret)
{
    yyjson_val *value = tc_json_field(o, field);
    if (!value) return TC_OK;
    if (!yyjson_is_num(value)) return wrong_type(o, field, "a number");
    double number = yyjson_get_num(value);
    if (!isfinite(number) || number < min || number > max)
        return tc_fail(o->e, TC_FORMAT, "%s: %s is %g, must be %g..%g", o->what, field, number, min, max);
    *ret = number;
    return TC_OK;
}

tc_status tc_json_bool(const tc_json_object *o, const char *field, bool *ret)
{
    yyjson_val *value = tc_json_field(o, field);
    if (!value) return TC_OK;
    if (!yyjson_is_bool(value)) return wrong_type(o, field, "true or false");
    *ret = yyjson_get_bool(value);
    return TC_OK;
}

tc_status tc_json_string(const tc_json_object *o, const char *field, const char **ret)
{
    yyjson_val *value = tc_json_field(o, field);
    if (!value) return TC_OK;
    if (!yyjson_is_str(value) || strlen(yyjson_get_str(value)) != yyjson_get_len(value))
        return wrong_type(o, field, "a text");
    *ret = yyjson_get_str(value);
    return TC_OK;
}

tc_status tc_json_get_object(const tc_json_object *o, const char *field, tc_json_object *ret)
{
    yyjson_val *value = tc_json_field(o, field);
    if (!value) return TC_OK;
    if (!yyjson_is_obj(value)) return wrong_type(o, field, "an object");
    *ret = (tc_json_object){.value = value, .what = o->what, .e = o->e};
    return TC_OK;
}

tc_status tc_json_get_array(const tc_json_object *o, const char *field, yyjson_val **ret)
{
    yyjson_val *value = tc_json_field(o, field);
    if (!value) return TC_OK;
    if (!yyjson_is_arr(value)) return wrong_type(o, field, "a list");
    *ret = value;
    return TC_OK;
}

tc_status tc_json_require(const tc_json_object *o, const char *field)
{
    if (tc_json_field(o, field)) return TC_OK;
    return tc_fail(o->e, TC_FORMAT, "%s: %s is missing", o->what, field);
}
