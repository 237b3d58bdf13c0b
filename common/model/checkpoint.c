// SPDX-License-Identifier: Apache-2.0
// Owns: opening a model directory: which shards, their headers, the index's word against the shards', the
// hash. Reading weights out of it: checkpoint_read.c.
#include "common/base/json.h"
#include "common/model/checkpoint_internal.h"
#include "common/model/gguf_model.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    INDEX_BYTES_MAX = 256 << 20,
    INDEX_DEPTH_MAX = 8,
    SHARD_NAME_BYTES_MAX = 255,
    CONFIG_BYTES_MAX = 4 << 20,
    HASH_ALL_BYTES = 32 << 20, // data of a shard up to this size is hashed whole
    HASH_SAMPLES = 64,
    HASH_SAMPLE_BYTES = 4096,
};

static const char single_name[] = "model.safetensors", index_name[] = "model.safetensors.index.json";

tc_status tc_pread_all(int fd, const char *what, void *data, uint64_t bytes, uint64_t at, tc_error *e)
{
    char *to = data;
    while (bytes > 0) {
        ssize_t n = pread(fd, to, bytes < (1u << 30) ? bytes : 1u << 30, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return tc_fail_errno(e, TC_IO, "%s", what);
        if (n == 0) return tc_fail(e, TC_IO, "%s: the file has become shorter", what);
        to += n;
        at += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return TC_OK;
}

// A shard is a file of the directory itself: a name with a path in it could leave the folder.
static bool plain_name(const char *name, size_t bytes)
{
    if (bytes == 0 || bytes > SHARD_NAME_BYTES_MAX || name[0] == '.') return false;
    for (size_t i = 0; i < bytes; i++)
        if (name[i] == '/' || name[i] == '\\' || (unsigned char)name[i] < 0x20) return false;
    return true;
}

tc_status tc_checkpoint_add_shard(tc_checkpoint *c, const char *what, const char *name, size_t bytes,
                                  uint32_t *ret, tc_error *e)
{
    bool fresh;
    if (!plain_name(name, bytes))
        return tc_fail(e, TC_FORMAT, "%s: shard \"%.200s\" is not a plain file name in the folder", what,
                       name);
    TC_TRY(tc_names_add(&c->shard_names, name, bytes, ret, &fresh, e));
    if (c->shard_names.count > TC_SHARDS_MAX)
        return tc_fail(e, TC_LIMIT, "%s: more than %u shards", what, TC_SHARDS_MAX);
    return TC_OK;
}

tc_status tc_checkpoint_open_shard(tc_checkpoint *c, uint32_t s, tc_error *e)
{
    const char *name = tc_names_text(&c->shard_names, s);
    tc_shard_file *shard = &c->shards[s];
    struct stat st;
    shard->fd = openat(c->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (shard->fd < 0)
        return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s/%s: cannot open shard", c->dir,
                             name);
    if (fstat(shard->fd, &st) != 0) return tc_fail_errno(e, TC_IO, "%s/%s", c->dir, name);
    if (!S_ISREG(st.st_mode)) return tc_fail(e, TC_FORMAT, "%s/%s: not a regular file", c->dir, name);
    shard->file_bytes = (uint64_t)st.st_size;
    return TC_OK;
}

static tc_status read_shard_header(tc_checkpoint *c, uint32_t s, tc_error *e)
{
    char what[TC_ERROR_TEXT_BYTES];
    tc_shard_file *shard = &c->shards[s];
    uint8_t length[8];
    uint64_t header_bytes = 0;
    snprintf(what, sizeof what, "%.300s/%.200s", c->dir, tc_names_text(&c->shard_names, s));
    if (shard->file_bytes < sizeof length)
        return tc_fail(e, TC_FORMAT, "%s: %" PRIu64 " bytes, too short for a header", what,
                       shard->file_bytes);
    TC_TRY(tc_pread_all(shard->fd, what, length, sizeof length, 0, e));
    for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | length[i];
    if (header_bytes > TC_SAFETENSORS_HEADER_BYTES_MAX)
        return tc_fail(e, TC_FORMAT, "%s: header length %" PRIu64 " is above the limit of %u", what,
                       header_bytes, TC_SAFETENSORS_HEADER_BYTES_MAX);
    if (header_bytes > shard->file_bytes - sizeof length)
        return tc_fail(e, TC_FORMAT, "%s: header length %" PRIu64 " is beyond the file's %" PRIu64 " bytes",
                       what, header_bytes, shard->file_bytes);
    char *header = malloc(header_bytes + 1);
    if (!header) return tc_fail(e, TC_NOMEM, "%s: no memory for its header", what);
    tc_status status;
    TC_GOTO(tc_pread_all(shard->fd, what, header, header_bytes, sizeof length, e));
    shard->data_at = sizeof length + header_bytes;
    shard->header_hash = XXH3_64bits(header, header_bytes);
    TC_GOTO(tc_safetensors_parse(what, header, header_bytes, shard->file_bytes - shard->data_at, s, &c->table,
                                 e));
out:
    free(header);
    return status;
}

// ---- the index ----

static tc_status index_shards(tc_checkpoint *c, const char *path, yyjson_val *map, tc_error *e)
{
    size_t i, n;
    yyjson_val *key, *value;
    if (yyjson_obj_size(map) == 0) return tc_fail(e, TC_FORMAT, "%s: weight_map is missing or empty", path);
    yyjson_obj_foreach(map, i, n, key, value)
    {
        uint32_t shard;
        if (!yyjson_is_str(value))
            return tc_fail(e, TC_FORMAT, "%s: weight_map: shard of \"%.200s\" must be a text", path,
                           yyjson_get_str(key));
        TC_TRY(tc_checkpoint_add_shard(c, path, yyjson_get_str(value), yyjson_get_len(value), &shard, e));
    }
    return TC_OK;
}

// Each tensor that the index names must be where it says.
static tc_status check_index(const tc_checkpoint *c, const char *path, yyjson_val *map, tc_error *e)
{
    size_t i, n;
    yyjson_val *key, *value;
    yyjson_obj_foreach(map, i, n, key, value)
    {
        uint32_t id = tc_names_find(&c->table.names, yyjson_get_str(key), yyjson_get_len(key));
        uint32_t shard = tc_names_find(&c->shard_names, yyjson_get_str(value), yyjson_get_len(value));
        if (id == TC_NAME_NONE || c->table.entries[id].shard != shard)
            return tc_fail(e, TC_FORMAT, "%s: weight_map: tensor %.200s is not in shard %.100s", path,
                           yyjson_get_str(key), yyjson_get_str(value));
    }
    return TC_OK;
}

tc_status tc_checkpoint_make_shards(tc_checkpoint *c, uint32_t count, tc_error *e)
{
    tc_shard_file *shards = realloc(c->shards, count * sizeof *shards);
    if (!shards) return tc_fail(e, TC_NOMEM, "%s: no memory for %u shards", c->dir, count);
    c->shards = shards;
    for (; c->shard_count < count; c->shard_count++) shards[c->shard_count] = (tc_shard_file){.fd = -1};
    return TC_OK;
}

static tc_status read_shards(tc_checkpoint *c, tc_error *e)
{
    TC_TRY(tc_checkpoint_make_shards(c, c->shard_names.count, e));
    for (uint32_t s = 0; s < c->shard_names.count; s++) {
        TC_TRY(tc_checkpoint_open_shard(c, s, e));
        TC_TRY(read_shard_header(c, s, e));
    }
    return TC_OK;
}

static tc_status open_indexed(tc_checkpoint *c, tc_error *e)
{
    char path[TC_DIR_BYTES_MAX + sizeof index_name + 1];
    yyjson_doc *doc = NULL;
    tc_json_object root, map = {0};
    tc_status status;
    snprintf(path, sizeof path, "%s/%s", c->dir, index_name);
    status = tc_json_load(path, INDEX_BYTES_MAX, INDEX_DEPTH_MAX, &doc, e);
    if (status == TC_NOT_FOUND)
        return tc_fail(e, TC_NOT_FOUND, "%s: holds neither %s nor %s", c->dir, single_name, index_name);
    if (status != TC_OK) return status;
    TC_GOTO(tc_json_object_of(yyjson_doc_get_root(doc), path, &root, e));
    TC_GOTO(tc_json_get_object(&root, "weight_map", &map));
    TC_GOTO(index_shards(c, path, map.value, e));
    TC_GOTO(read_shards(c, e));
    TC_GOTO(check_index(c, path, map.value, e));
out:
    yyjson_doc_free(doc);
    return status;
}

static tc_status open_weights(tc_checkpoint *c, tc_error *e)
{
    uint32_t shard;
    if (faccessat(c->dir_fd, single_name, F_OK, 0) != 0) return open_indexed(c, e);
    TC_TRY(tc_checkpoint_add_shard(c, c->dir, single_name, strlen(single_name), &shard, e));
    return read_shards(c, e);
}

// ---- identity ----

static tc_status hash_data(tc_checkpoint *c, uint32_t s, XXH3_state_t *state, tc_error *e)
{
    uint8_t sample[HASH_SAMPLE_BYTES];
    const tc_shard_file *shard = &c->shards[s];
    uint64_t bytes = shard->file_bytes - shard->data_at, step = HASH_SAMPLE_BYTES;
    if (bytes > HASH_ALL_BYTES) step = (bytes - HASH_SAMPLE_BYTES) / HASH_SAMPLES;
    for (uint64_t at = 0; at < bytes; at += step) {
        uint64_t part = bytes - at < HASH_SAMPLE_BYTES ? bytes - at : HASH_SAMPLE_BYTES;
        TC_TRY(
            tc_pread_all(shard->fd, tc_names_text(&c->shard_names, s), sample, part, shard->data_at + at, e));
        XXH3_128bits_update(state, sample, part);
    }
    return TC_OK;
}

static int by_name(const void *pa, const void *pb, void *arg)
{
    const tc_names *names = arg;
    return strcmp(tc_names_text(names, *(const uint32_t *)pa), tc_names_text(names, *(const uint32_t *)pb));
}

static tc_status hash_shards(tc_checkpoint *c, XXH3_state_t *state, tc_error *e)
{
    uint32_t count = c->shard_names.count;
    uint32_t *order = malloc(count * sizeof *order);
    tc_status status = TC_OK;
    if (!order) return tc_fail(e, TC_NOMEM, "%s: no memory for %u shards", c->dir, count);
    for (uint32_t s = 0; s < count; s++) order[s] = s;
    qsort_r(order, count, sizeof *order, by_name, &c->shard_names);
    for (uint32_t i = 0; i < count; i++) {
        const tc_shard_file *shard = &c->shards[order[i]];
        const char *name = tc_names_text(&c->shard_names, order[i]);
        XXH3_128bits_update(state, name, strlen(name) + 1);
        XXH3_128bits_update(state, &shard->file_bytes, sizeof shard->file_bytes);
        XXH3_128bits_update(state, &shard->header_hash, sizeof shard->header_hash);
        TC_GOTO(hash_data(c, order[i], state, e));
    }
out:
    free(order);
    return status;
}

static tc_status hash_checkpoint(tc_checkpoint *c, tc_error *e)
{
    char path[TC_DIR_BYTES_MAX + 16];
    char *config = NULL;
    size_t bytes = 0;
    tc_status status;
    snprintf(path, sizeof path, "%s/config.json", c->dir);
    if (!c->gguf) // its header, which is hashed with each shard, says the same
        TC_TRY(tc_read_file(path, CONFIG_BYTES_MAX, &config, &bytes, e));
    XXH3_state_t *state = XXH3_createState();
    if (!state) TC_GOTO(tc_fail(e, TC_NOMEM, "%s: no memory for its hash", c->dir));
    XXH3_128bits_reset(state);
    XXH3_128bits_update(state, config, bytes);
    TC_GOTO(hash_shards(c, state, e));
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    snprintf(c->hash, sizeof c->hash, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64,
             (uint64_t)hash.low64);
out:
    XXH3_freeState(state);
    free(config);
    return status;
}

// ---- life ----

static tc_status open_folder(tc_checkpoint *c, const char *dir, tc_error *e)
{
    if (snprintf(c->dir, sizeof c->dir, "%s", dir) >= (int)sizeof c->dir)
        return tc_fail(e, TC_LIMIT, "%.64s...: path longer than %u bytes", dir, TC_DIR_BYTES_MAX - 1);
    c->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dir_fd < 0)
        return tc_fail_errno(e, errno == ENOENT ? TC_NOT_FOUND : TC_IO, "%s: cannot open the model directory",
                             dir);
    TC_TRY(tc_model_desc_load(dir, &c->desc, e));
    return open_weights(c, e);
}

static tc_status open_gguf(tc_checkpoint *c, const char *path, tc_error *e)
{
    tc_gguf gguf = {0};
    TC_TRY(tc_model_desc_load(path, &c->desc, e));
    TC_TRY(tc_gguf_open(c, path, &gguf, e));
    tc_gguf_free(&gguf);
    return TC_OK;
}

static tc_status open_all(tc_checkpoint *c, const char *model, tc_error *e)
{
    char gguf[TC_MODEL_PATH_BYTES];
    TC_TRY(tc_model_gguf(model, gguf, e));
    TC_TRY(*gguf ? open_gguf(c, gguf, e) : open_folder(c, model, e));
    return hash_checkpoint(c, e);
}

tc_status tc_checkpoint_open(const char *dir, tc_checkpoint **ret, tc_error *e)
{
    tc_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return tc_fail(e, TC_NOMEM, "%s: no memory", dir);
    c->dir_fd = -1;
    tc_status status = open_all(c, dir, e);
    if (status != TC_OK) {
        tc_checkpoint_free(c);
        return status;
    }
    *ret = c;
    return TC_OK;
}

void tc_checkpoint_free(tc_checkpoint *c)
{
    if (!c) return;
    for (uint32_t s = 0; s < c->shard_count; s++)
        if (c->shards[s].fd >= 0) close(c->shards[s].fd);
    if (c->dir_fd >= 0) close(c->dir_fd);
    free(c->shards);
    tc_names_free(&c->shard_names);
    tc_tensor_table_free(&c->table);
    free(c);
}

const tc_model_desc *tc_checkpoint_desc(const tc_checkpoint *c)
{
    return &c->desc;
}

const char *tc_checkpoint_hash(const tc_checkpoint *c)
{
    return c->hash;
}

void tc_checkpoint_keep(tc_checkpoint *c)
{
    c->keep = true;
}

tc_quantise tc_quantise_named(const char *name)
{
    if (!name) return TC_QUANTISE_USUAL;
    if (strcmp(name, "keep") == 0) return TC_QUANTISE_KEEP;
    return strcmp(name, "int8") == 0 ? TC_QUANTISE_INT8 : TC_QUANTISE_NF4;
}

bool tc_checkpoint_is_4bit(const tc_checkpoint *c, const char *base)
{
    char nf4[TC_TENSOR_NAME_BYTES + 64], fp4[TC_TENSOR_NAME_BYTES + 64];
    if (c->gguf) return tc_gguf_is_4bit(c, base);
    snprintf(nf4, sizeof nf4, "%s.weight.quant_state.bitsandbytes__nf4", base);
    snprintf(fp4, sizeof fp4, "%s.weight.quant_state.bitsandbytes__fp4", base);
    return tc_checkpoint_has(c, nf4) || tc_checkpoint_has(c, fp4);
}

bool tc_checkpoint_ready(const tc_checkpoint *c)
{
    return c->gguf;
}

bool tc_checkpoint_has(const tc_checkpoint *c, const char *tensor)
{
    if (c->gguf) return tc_gguf_has(c, tensor);
    return tc_names_find(&c->table.names, tensor, strlen(tensor)) != TC_NAME_NONE;
}

tc_dtype tc_checkpoint_dtype(const tc_checkpoint *c, const char *tensor)
{
    if (c->gguf) return tc_gguf_dtype(c, tensor);
    uint32_t id = tc_names_find(&c->table.names, tensor, strlen(tensor));
    if (id == TC_NAME_NONE) return TC_OTHER;
    tc_dtype dtype = tc_safetensors_dtype(c->table.entries[id].dtype);
    return tc_dtype_is_float(dtype) ? dtype : TC_OTHER;
}
