// SPDX-License-Identifier: Apache-2.0
// Owns: reading the key file, constant-time comparison, the host allow-list.
#include "gateway/auth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct tc_api_keys {
    uint32_t count;
    struct {
        size_t bytes;
        tc_identity identity;
        char text[TC_API_KEY_BYTES_MAX];
    } keys[TC_API_KEYS_MAX];
};

// FNV-1a: it only has to tell a few dozen keys apart, and stays the same when the gateway starts again.
static uint64_t scope_of(const char *key, size_t bytes)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    return h ? h : 1;
}

// Takes " priority=N" off the end of a line.
static bool take_priority(const char *line, size_t *bytes, int32_t *ret)
{
    static const char name[] = "priority=";
    const char *space = memchr(line, ' ', *bytes);
    if (!space) return true;
    const char *p = space;
    while (p < line + *bytes && *p == ' ') p++;
    size_t left = *bytes - (size_t)(p - line), n = sizeof name - 1;
    if (left <= n || left > n + 2 || memcmp(p, name, n) != 0) return false;
    int32_t value = 0;
    for (size_t i = n; i < left; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        value = value * 10 + (p[i] - '0');
    }
    *bytes = (size_t)(space - line);
    *ret = value;
    return value <= TC_API_PRIORITY_MAX;
}

static tc_status add_key(tc_api_keys *keys, const char *line, size_t bytes, const char *name, tc_error *e)
{
    while (bytes && strchr(" \t\r", line[bytes - 1])) bytes--;
    while (bytes && strchr(" \t", *line)) line++, bytes--;
    if (bytes == 0 || *line == '#') return TC_OK;
    if (keys->count == TC_API_KEYS_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %d keys", name, TC_API_KEYS_MAX);
    int32_t priority = 0;
    if (!take_priority(line, &bytes, &priority))
        return tc_fail(e, TC_FORMAT, "%s: behind key %u may stand priority=0 to priority=%d, nothing else",
                       name, keys->count + 1, TC_API_PRIORITY_MAX);
    if (bytes < TC_API_KEY_BYTES_MIN || bytes > TC_API_KEY_BYTES_MAX)
        return tc_fail(e, TC_FORMAT, "%s: key %u has %zu characters, not %d to %d", name, keys->count + 1,
                       bytes, TC_API_KEY_BYTES_MIN, TC_API_KEY_BYTES_MAX);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)line[i] <= 0x20 || (unsigned char)line[i] >= 0x7f)
            return tc_fail(e, TC_FORMAT, "%s: key %u holds a character that no header can carry", name,
                           keys->count + 1);
    keys->keys[keys->count].bytes = bytes;
    keys->keys[keys->count].identity = (tc_identity){scope_of(line, bytes), priority};
    memcpy(keys->keys[keys->count].text, line, bytes);
    keys->count++;
    return TC_OK;
}

tc_status tc_api_keys_parse(const char *text, size_t bytes, const char *name, tc_api_keys **ret, tc_error *e)
{
    tc_status status = TC_OK;
    tc_api_keys *keys = calloc(1, sizeof *keys);
    if (!keys) return tc_fail(e, TC_NOMEM, "%s: out of memory", name);
    for (size_t at = 0; at < bytes;) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t line = end ? (size_t)(end - text) - at : bytes - at;
        TC_GOTO(add_key(keys, text + at, line, name, e));
        at += line + 1;
    }
    if (keys->count == 0) {
        status = tc_fail(e, TC_FORMAT, "%s: holds no key", name);
        goto out;
    }
    *ret = keys;
    keys = NULL;
out:
    tc_api_keys_free(keys);
    return status;
}

tc_status tc_api_keys_load(const char *path, tc_api_keys **ret, tc_error *e)
{
    tc_status status = TC_OK;
    char *text = malloc(TC_API_KEY_FILE_BYTES_MAX + 1);
    FILE *file = fopen(path, "re");
    if (!file) {
        status = tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s", path);
        goto out;
    }
    if (!text) {
        status = tc_fail(e, TC_NOMEM, "%s: out of memory", path);
        goto out;
    }
    size_t bytes = fread(text, 1, TC_API_KEY_FILE_BYTES_MAX + 1, file);
    if (ferror(file)) {
        status = tc_fail_errno(e, TC_IO, "%s", path);
        goto out;
    }
    if (bytes > TC_API_KEY_FILE_BYTES_MAX) {
        status = tc_fail(e, TC_LIMIT, "%s: longer than %d bytes", path, TC_API_KEY_FILE_BYTES_MAX);
        goto out;
    }
    status = tc_api_keys_parse(text, bytes, path, ret, e);
out:
    if (file) fclose(file);
    if (text) explicit_bzero(text, TC_API_KEY_FILE_BYTES_MAX + 1);
    free(text);
    return status;
}

void tc_api_keys_free(tc_api_keys *keys)
{
    if (keys) explicit_bzero(keys, sizeof *keys);
    free(keys);
}

// Every key is compared in full, so that time says nothing about how much of one was right.
static bool find_key(const tc_api_keys *keys, const char *key, size_t bytes, tc_identity *ret)
{
    unsigned found = 0;
    for (uint32_t k = 0; k < keys->count; k++) {
        volatile unsigned char difference = keys->keys[k].bytes != bytes;
        for (size_t i = 0; i < bytes && i < TC_API_KEY_BYTES_MAX; i++)
            difference |= (unsigned char)(keys->keys[k].text[i] ^ key[i]);
        if (difference == 0) *ret = keys->keys[k].identity;
        found |= difference == 0;
    }
    return found && bytes > 0;
}

bool tc_api_keys_match(const tc_api_keys *keys, const char *key, size_t bytes)
{
    tc_identity ignored;
    return find_key(keys, key, bytes, &ignored);
}

bool tc_auth_check_key(const tc_api_keys *keys, const tc_http_parser *request, tc_identity *ret,
                       tc_http_error *error)
{
    size_t bytes;
    uint32_t count;
    const char *value = tc_http_header_find(request, "authorization", &bytes, &count);
    if (count == 1 && bytes > 7 && strncasecmp(value, "Bearer ", 7) == 0) {
        size_t skip = 7;
        while (skip < bytes && value[skip] == ' ') skip++;
        if (find_key(keys, value + skip, bytes - skip, ret)) return true;
    }
    value = tc_http_header_find(request, "x-api-key", &bytes, &count);
    if (count == 1 && find_key(keys, value, bytes, ret)) return true;
    return tc_http_refuse(error, 401, "invalid_api_key", NULL,
                          "a valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY");
}

static bool in_list(const char *const *list, uint32_t count, const char *text, size_t bytes)
{
    for (uint32_t i = 0; i < count; i++)
        if (bytes == strlen(list[i]) && strncasecmp(text, list[i], bytes) == 0) return true;
    return false;
}

static bool is_local(const tc_web_policy *policy, const char *authority, size_t bytes)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "::1"};
    const char *host;
    size_t host_bytes;
    if (!tc_http_split_authority(authority, bytes, &host, &host_bytes)) return false;
    return in_list(names, sizeof names / sizeof *names, host, host_bytes) ||
           in_list(policy->hosts, policy->host_count, host, host_bytes);
}

bool tc_web_allows_origin(const tc_web_policy *policy, const char *origin, size_t bytes)
{
    return in_list(policy->origins, policy->origin_count, "*", 1) ||
           in_list(policy->origins, policy->origin_count, origin, bytes);
}

bool tc_auth_check_local(const tc_web_policy *policy, const tc_http_parser *request, tc_http_error *error)
{
    size_t bytes;
    uint32_t count;
    const char *host = tc_http_header_find(request, "host", &bytes, &count);
    bool good = (count == 0 || is_local(policy, host, bytes)) &&
                (!request->authority || is_local(policy, request->authority, request->authority_bytes));
    if (!good)
        return tc_http_refuse(error, 403, "host_not_allowed", NULL,
                              "this server answers to localhost, 127.0.0.1 and [::1] only");
    const char *origin = tc_http_header_find(request, "origin", &bytes, &count);
    if (count == 0) return true;
    size_t skip = bytes > 7 && strncasecmp(origin, "http://", 7) == 0    ? 7
                  : bytes > 8 && strncasecmp(origin, "https://", 8) == 0 ? 8
                                                                         : 0;
    if (count == 1 && skip && is_local(policy, origin + skip, bytes - skip)) return true;
    if (count == 1 && tc_web_allows_origin(policy, origin, bytes)) return true;
    return tc_http_refuse(error, 403, "origin_not_allowed", NULL,
                          "pages of other origins may not use this server without an API key");
}
