// SPDX-License-Identifier: Apache-2.0
// Owns: opening the files of a GGUF model: one, or the parts NAME-00001-of-00003.gguf and so on, whose
// numbers and sum of tensors must be what the first says.
#include "common/model/gguf_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

enum { SPLIT_NAME_BYTES = 20 }; // "-00001-of-00003.gguf"

static tc_status open_directory(tc_checkpoint *c, const char *path, const char **ret_name, tc_error *e)
{
    const char *slash = strrchr(path, '/');
    size_t bytes = slash ? (size_t)(slash - path) : 1;
    *ret_name = slash ? slash + 1 : path;
    if (bytes >= sizeof c->dir) return tc_fail(e, TC_LIMIT, "%.64s...: path too long", path);
    snprintf(c->dir, sizeof c->dir, "%.*s", (int)bytes, slash ? path : ".");
    if (slash == path) snprintf(c->dir, sizeof c->dir, "/");
    c->dir_fd = open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return c->dir_fd < 0 ? tc_fail_errno(e, TC_IO, "%s: cannot open the folder", c->dir) : TC_OK;
}

static tc_status read_file(tc_checkpoint *c, uint32_t s, tc_gguf *ret, tc_error *e)
{
    char what[TC_ERROR_TEXT_BYTES];
    tc_shard_file *file = &c->shards[s];
    snprintf(what, sizeof what, "%.300s/%.200s", c->dir, tc_names_text(&c->shard_names, s));
    TC_TRY(tc_checkpoint_open_shard(c, s, e));
    TC_TRY(tc_gguf_read(what, file->fd, file->file_bytes, s, ret, &c->table, e));
    file->data_at = ret->data_at < file->file_bytes ? ret->data_at : file->file_bytes;
    file->header_hash = XXH3_64bits(ret->data, ret->bytes);
    return TC_OK;
}

static tc_status check_number(const char *what, const tc_gguf *g, uint64_t number, uint64_t count,
                              tc_error *e)
{
    uint64_t no = 0, of = 1;
    TC_TRY(tc_gguf_u64(g, what, "split.no", 0, TC_SHARDS_MAX - 1, &no, e));
    TC_TRY(tc_gguf_u64(g, what, "split.count", 1, TC_SHARDS_MAX, &of, e));
    if (no == number && of == count) return TC_OK;
    return tc_fail(e, TC_FORMAT,
                   "%s: split.no %" PRIu64 " and split.count %" PRIu64 ": must be %" PRIu64 " and %" PRIu64,
                   what, no, of, number, count);
}

// The names of all parts, from the first's.
static tc_status add_parts(tc_checkpoint *c, const char *name, uint64_t count, tc_error *e)
{
    char part[256], wanted[SPLIT_NAME_BYTES + 16];
    size_t bytes = strlen(name);
    snprintf(wanted, sizeof wanted, "-00001-of-%05u.gguf", (uint32_t)count);
    if (bytes < strlen(wanted) || strcmp(name + bytes - strlen(wanted), wanted) != 0)
        return tc_fail(e, TC_FORMAT, "%s/%.100s: split.count is %" PRIu64 ", but the name does not end in %s",
                       c->dir, name, count, wanted);
    for (uint64_t i = 1; i < count; i++) {
        uint32_t id;
        snprintf(part, sizeof part, "%.*s-%05u-of-%05u.gguf", (int)(bytes - strlen(wanted)), name,
                 (uint32_t)i + 1, (uint32_t)count);
        TC_TRY(tc_checkpoint_add_shard(c, name, part, strlen(part), &id, e));
    }
    return TC_OK;
}

static tc_status read_parts(tc_checkpoint *c, tc_error *e)
{
    for (uint32_t s = 1; s < c->shard_names.count; s++) {
        tc_gguf part = {0};
        TC_TRY(read_file(c, s, &part, e));
        tc_status status = check_number(tc_names_text(&c->shard_names, s), &part, s, c->shard_names.count, e);
        tc_gguf_free(&part);
        if (status != TC_OK) return status;
    }
    return TC_OK;
}

static tc_status open_files(tc_checkpoint *c, const char *path, tc_gguf *g, tc_error *e)
{
    const char *name;
    uint64_t count = 1, tensors;
    uint32_t id;
    TC_TRY(open_directory(c, path, &name, e));
    TC_TRY(tc_checkpoint_add_shard(c, path, name, strlen(name), &id, e));
    TC_TRY(tc_checkpoint_make_shards(c, 1, e));
    TC_TRY(read_file(c, 0, g, e));
    TC_TRY(tc_gguf_u64(g, path, "split.count", 1, TC_SHARDS_MAX, &count, e));
    TC_TRY(check_number(path, g, 0, count, e));
    if (count > 1) {
        TC_TRY(tc_checkpoint_make_shards(c, (uint32_t)count, e));
        TC_TRY(add_parts(c, name, count, e));
        TC_TRY(read_parts(c, e));
    }
    tensors = c->table.names.count;
    TC_TRY(tc_gguf_u64(g, path, "split.tensors.count", 0, UINT32_MAX, &tensors, e));
    if (tensors != c->table.names.count)
        return tc_fail(e, TC_FORMAT, "%s: split.tensors.count is %" PRIu64 ", the files hold %u", path,
                       tensors, c->table.names.count);
    return TC_OK;
}

tc_status tc_gguf_open(tc_checkpoint *c, const char *path, tc_gguf *ret, tc_error *e)
{
    tc_gguf g = {0};
    c->gguf = true;
    tc_status status = open_files(c, path, &g, e);
    if (status == TC_OK)
        *ret = g;
    else
        tc_gguf_free(&g);
    return status;
}
