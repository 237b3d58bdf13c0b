// SPDX-License-Identifier: Apache-2.0
// Owns: checking the header of a GGUF file (gguf.h). One cursor walks it; whatever is read passes need(),
// which knows the file's size, the header's limit, and fetches what is missing.
#include "common/model/gguf.h"
#include "common/model/checkpoint_internal.h"
#include "common/model/gguf_blocks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 1 << 20, FIELD_BYTES = TC_GGUF_KEY_BYTES_MAX + 64 };

static const uint8_t item_bytes[TC_GGUF_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
static const char *const type_names[TC_GGUF_TYPES] = {"uint8",  "int8",    "uint16",  "int16", "uint32",
                                                      "int32",  "float32", "boolean", "text",  "array",
                                                      "uint64", "int64",   "float64"};

typedef struct reader {
    tc_gguf *g;
    const char *what;
    int fd; // -1: all that there is lies in memory
    uint64_t file_bytes, at;
    char field[FIELD_BYTES]; // what is being read, for errors
    tc_error *e;
} reader;

static uint64_t little(const uint8_t *p, uint32_t bytes)
{
    uint64_t value = 0;
    for (uint32_t i = bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

// Bytes [at, at + bytes) are in memory from here on.
static tc_status need(reader *r, uint64_t bytes)
{
    tc_gguf *g = r->g;
    if (bytes > r->file_bytes - r->at)
        return tc_fail(r->e, TC_FORMAT,
                       "%s: %s: needs %" PRIu64 " bytes at %" PRIu64 ", the file ends at %" PRIu64, r->what,
                       r->field, bytes, r->at, r->file_bytes);
    if (bytes > TC_GGUF_HEADER_BYTES_MAX - r->at)
        return tc_fail(r->e, TC_LIMIT, "%s: %s: the header is longer than %u bytes", r->what, r->field,
                       TC_GGUF_HEADER_BYTES_MAX);
    uint64_t end = r->at + bytes;
    if (end <= g->bytes) return TC_OK;
    if (r->fd < 0) return tc_fail(r->e, TC_FORMAT, "%s: %s: the header is cut off", r->what, r->field);
    uint64_t want = end * 2 > FIRST_BYTES ? end * 2 : FIRST_BYTES;
    if (want > TC_GGUF_HEADER_BYTES_MAX) want = TC_GGUF_HEADER_BYTES_MAX;
    if (want > r->file_bytes) want = r->file_bytes;
    uint8_t *data = realloc(g->data, want);
    if (!data) return tc_fail(r->e, TC_NOMEM, "%s: no memory for its header", r->what);
    g->data = data;
    TC_TRY(tc_pread_all(r->fd, r->what, data + g->bytes, want - g->bytes, g->bytes, r->e));
    g->bytes = want;
    return TC_OK;
}

static tc_status number(reader *r, uint32_t bytes, uint64_t *ret)
{
    TC_TRY(need(r, bytes));
    *ret = little(r->g->data + r->at, bytes);
    r->at += bytes;
    return TC_OK;
}

static tc_status bounded(reader *r, uint32_t bytes, uint64_t max, const char *noun, uint64_t *ret)
{
    TC_TRY(number(r, bytes, ret));
    if (*ret <= max) return TC_OK;
    return tc_fail(r->e, TC_LIMIT, "%s: %s: %" PRIu64 " %s, at most %" PRIu64 " are taken", r->what, r->field,
                   *ret, noun, max);
}

// A text whose bytes are in memory when it returns; *ret_at is where they begin.
static tc_status text(reader *r, uint64_t max, uint64_t *ret_at, uint64_t *ret_bytes)
{
    TC_TRY(bounded(r, 8, max, "bytes of text", ret_bytes));
    TC_TRY(need(r, *ret_bytes));
    *ret_at = r->at;
    r->at += *ret_bytes;
    return TC_OK;
}

// A key or a name: some bytes, none of them a control character.
static tc_status name(reader *r, uint64_t max, char *ret, uint64_t *ret_bytes)
{
    uint64_t at;
    TC_TRY(text(r, max, &at, ret_bytes));
    if (*ret_bytes == 0) return tc_fail(r->e, TC_FORMAT, "%s: %s: is empty", r->what, r->field);
    memcpy(ret, r->g->data + at, *ret_bytes);
    ret[*ret_bytes] = '\0';
    for (uint64_t i = 0; i < *ret_bytes; i++)
        if ((unsigned char)ret[i] < 0x20)
            return tc_fail(r->e, TC_FORMAT, "%s: %s: holds a control character", r->what, r->field);
    return TC_OK;
}

// ---- metadata ----

static tc_status value_type(reader *r, const char *of, uint8_t *ret)
{
    uint64_t type;
    TC_TRY(number(r, 4, &type));
    if (type >= TC_GGUF_TYPES)
        return tc_fail(r->e, TC_FORMAT, "%s: %s: %s %" PRIu64 " is unknown, there are 0 to %d", r->what,
                       r->field, of, type, TC_GGUF_TYPES - 1);
    *ret = (uint8_t)type;
    return TC_OK;
}

static tc_status scalar(reader *r, uint8_t type)
{
    uint64_t at, bytes;
    if (type == TC_GGUF_STRING) return text(r, TC_GGUF_STRING_BYTES_MAX, &at, &bytes);
    TC_TRY(need(r, item_bytes[type]));
    if (type == TC_GGUF_BOOL && r->g->data[r->at] > 1)
        return tc_fail(r->e, TC_FORMAT, "%s: %s: a boolean of %u", r->what, r->field, r->g->data[r->at]);
    r->at += item_bytes[type];
    return TC_OK;
}

static tc_status array(reader *r, tc_gguf_value *v)
{
    TC_TRY(value_type(r, "type of its items", &v->item));
    if (v->item == TC_GGUF_ARRAY)
        return tc_fail(r->e, TC_UNSUPPORTED,
                       "%s: %s: an array of arrays is not supported, only arrays of plain values", r->what,
                       r->field);
    TC_TRY(bounded(r, 8, TC_GGUF_ARRAY_ITEMS_MAX, "items", &v->count));
    v->at = r->at;
    if (v->item != TC_GGUF_STRING && v->item != TC_GGUF_BOOL) {
        TC_TRY(need(r, v->count * item_bytes[v->item]));
        r->at += v->count * item_bytes[v->item];
        return TC_OK;
    }
    for (uint64_t i = 0; i < v->count; i++) TC_TRY(scalar(r, v->item));
    return TC_OK;
}

static tc_status key_value(reader *r, uint64_t i)
{
    char key[TC_GGUF_KEY_BYTES_MAX + 1];
    uint64_t bytes;
    uint32_t id;
    bool fresh;
    tc_gguf_value v = {0};
    snprintf(r->field, sizeof r->field, "key %" PRIu64, i);
    TC_TRY(name(r, TC_GGUF_KEY_BYTES_MAX, key, &bytes));
    snprintf(r->field, sizeof r->field, "%s", key);
    TC_TRY(tc_names_add(&r->g->keys, key, bytes, &id, &fresh, r->e));
    if (!fresh) return tc_fail(r->e, TC_FORMAT, "%s: %s: is there twice", r->what, r->field);
    TC_TRY(value_type(r, "type", &v.type));
    v.at = r->at;
    TC_TRY(v.type == TC_GGUF_ARRAY ? array(r, &v) : scalar(r, v.type));
    r->g->values[id] = v;
    return TC_OK;
}

static tc_status alignment(reader *r)
{
    uint64_t value = TC_GGUF_ALIGNMENT_DEFAULT;
    TC_TRY(tc_gguf_u64(r->g, r->what, "general.alignment", TC_GGUF_ALIGNMENT_MIN, TC_GGUF_ALIGNMENT_MAX,
                       &value, r->e));
    if (value & (value - 1))
        return tc_fail(r->e, TC_FORMAT, "%s: general.alignment is %" PRIu64 ", must be a power of two",
                       r->what, value);
    r->g->alignment = (uint32_t)value;
    return TC_OK;
}

// ---- tensors ----

static tc_status block_type(reader *r, uint8_t *ret)
{
    uint64_t type;
    TC_TRY(number(r, 4, &type));
    const tc_block_info *info = tc_block_info_of(type > UINT32_MAX ? UINT32_MAX : (uint32_t)type);
    if (!info)
        return tc_fail(r->e, TC_FORMAT, "%s: %s: type %" PRIu64 " is unknown", r->what, r->field, type);
    if (!info->bytes)
        return tc_fail(r->e, TC_UNSUPPORTED, "%s: %s: type %s is not supported, only: %s", r->what, r->field,
                       info->name, tc_block_types_supported());
    *ret = (uint8_t)type;
    return TC_OK;
}

// Sizes come innermost first; shape gets them outermost first.
static tc_status sizes(reader *r, uint32_t dims, uint64_t shape[TC_GGUF_DIMS_MAX], uint64_t *ret_elements)
{
    *ret_elements = 1;
    for (uint32_t i = 0; i < dims; i++) {
        uint64_t size;
        TC_TRY(number(r, 8, &size));
        if (size == 0 || size > INT64_MAX || __builtin_mul_overflow(*ret_elements, size, ret_elements))
            return tc_fail(r->e, TC_FORMAT,
                           "%s: %s: size %u is %" PRIu64 ", the product must be 1 to 2^64 - 1", r->what,
                           r->field, i, size);
        shape[dims - 1 - i] = size;
    }
    return TC_OK;
}

static tc_status one_tensor(reader *r, uint64_t i, uint32_t shard, uint64_t *end, tc_tensor_table *table)
{
    char label[TC_GGUF_NAME_BYTES_MAX + 1];
    uint64_t name_bytes, dims, elements, offset, shape[TC_GGUF_DIMS_MAX];
    tc_tensor_entry t = {.shard = shard};
    bool fresh;
    snprintf(r->field, sizeof r->field, "tensor %" PRIu64 "'s name", i);
    TC_TRY(name(r, TC_GGUF_NAME_BYTES_MAX, label, &name_bytes));
    snprintf(r->field, sizeof r->field, "tensor %s", label);
    TC_TRY(bounded(r, 4, TC_GGUF_DIMS_MAX, "dimensions", &dims));
    if (dims == 0) return tc_fail(r->e, TC_FORMAT, "%s: %s: no dimensions", r->what, r->field);
    TC_TRY(sizes(r, (uint32_t)dims, shape, &elements));
    TC_TRY(block_type(r, &t.dtype));
    const tc_block_info *info = tc_block_info_of(t.dtype);
    if (shape[dims - 1] % info->elements)
        return tc_fail(r->e, TC_FORMAT,
                       "%s: %s: rows of %" PRIu64 " elements are not whole blocks of %s (%u)", r->what,
                       r->field, shape[dims - 1], info->name, info->elements);
    if (__builtin_mul_overflow(elements / info->elements, (uint64_t)info->bytes, &t.bytes))
        return tc_fail(r->e, TC_FORMAT, "%s: %s: its size overflows", r->what, r->field);
    TC_TRY(number(r, 8, &offset));
    uint64_t begin;
    if (__builtin_add_overflow(*end, r->g->alignment - 1, &begin))
        return tc_fail(r->e, TC_FORMAT, "%s: %s: the end of the tensor before it overflows", r->what,
                       r->field);
    begin &= ~(uint64_t)(r->g->alignment - 1);
    if (offset != begin)
        return tc_fail(r->e, TC_FORMAT,
                       "%s: %s: offset is %" PRIu64 ", must be %" PRIu64 " (behind the one before it)",
                       r->what, r->field, offset, begin);
    if (__builtin_add_overflow(begin, t.bytes, end))
        return tc_fail(r->e, TC_FORMAT, "%s: %s: its end overflows", r->what, r->field);
    t.begin = begin;
    t.dims = (uint8_t)dims;
    TC_TRY(tc_tensor_table_add(table, r->what, label, name_bytes, &t, shape, &fresh, r->e));
    return fresh ? TC_OK : tc_fail(r->e, TC_FORMAT, "%s: %s: is there twice", r->what, r->field);
}

static tc_status tensors(reader *r, uint64_t count, uint32_t shard, tc_tensor_table *table)
{
    uint64_t end = 0, mask = r->g->alignment - 1;
    for (uint64_t i = 0; i < count; i++) TC_TRY(one_tensor(r, i, shard, &end, table));
    r->g->data_at = (r->at + mask) & ~mask; // at: within the header's limit
    uint64_t left = r->g->data_at > r->file_bytes ? 0 : r->file_bytes - r->g->data_at;
    if (end > left)
        return tc_fail(r->e, TC_FORMAT,
                       "%s: tensors need %" PRIu64 " bytes behind the header, the file has %" PRIu64, r->what,
                       end, left);
    return TC_OK;
}

// ---- the whole ----

static tc_status version(reader *r)
{
    uint64_t magic, number_read;
    snprintf(r->field, sizeof r->field, "magic");
    TC_TRY(number(r, 4, &magic));
    if (magic != 0x46554747)
        return tc_fail(r->e, TC_FORMAT, "%s: magic: does not begin with \"GGUF\"", r->what);
    snprintf(r->field, sizeof r->field, "version");
    TC_TRY(number(r, 4, &number_read));
    if (number_read == 2 || number_read == 3) {
        r->g->version = (uint32_t)number_read;
        return TC_OK;
    }
    if (number_read == 2u << 24 || number_read == 3u << 24)
        return tc_fail(r->e, TC_UNSUPPORTED,
                       "%s: version: a big-endian file is not supported, only little-endian ones", r->what);
    return tc_fail(r->e, TC_UNSUPPORTED, "%s: version: %" PRIu64 " is not supported, only: 2, 3", r->what,
                   number_read);
}

static tc_status header(reader *r, uint32_t shard, tc_tensor_table *table)
{
    uint64_t tensor_count, key_count;
    TC_TRY(version(r));
    snprintf(r->field, sizeof r->field, "tensor_count");
    TC_TRY(bounded(r, 8, TC_GGUF_TENSORS_MAX, "tensors", &tensor_count));
    snprintf(r->field, sizeof r->field, "metadata_kv_count");
    TC_TRY(bounded(r, 8, TC_GGUF_KEYS_MAX, "keys", &key_count));
    r->g->values = calloc(key_count + 1, sizeof *r->g->values);
    if (!r->g->values) return tc_fail(r->e, TC_NOMEM, "%s: no memory for its metadata", r->what);
    for (uint64_t i = 0; i < key_count; i++) TC_TRY(key_value(r, i));
    TC_TRY(alignment(r));
    TC_TRY(tensors(r, tensor_count, shard, table));
    r->g->bytes = r->at; // what was fetched behind it is none of the header
    return TC_OK;
}

tc_status tc_gguf_read(const char *what, int fd, uint64_t file_bytes, uint32_t shard, tc_gguf *ret,
                       tc_tensor_table *table, tc_error *e)
{
    tc_gguf g = {0};
    reader r = {.g = &g, .what = what, .fd = fd, .file_bytes = file_bytes, .e = e};
    tc_status status = header(&r, shard, table);
    if (status == TC_OK)
        *ret = g;
    else
        tc_gguf_free(&g);
    return status;
}

tc_status tc_gguf_parse(const char *what, const void *data, size_t bytes, uint64_t file_bytes, uint32_t shard,
                        tc_gguf *ret, tc_tensor_table *table, tc_error *e)
{
    tc_gguf g = {0};
    reader r = {.g = &g, .what = what, .fd = -1, .file_bytes = file_bytes, .e = e};
    g.data = malloc(bytes + 1);
    if (!g.data) return tc_fail(e, TC_NOMEM, "%s: no memory for its header", what);
    memcpy(g.data, data, bytes);
    g.bytes = bytes;
    tc_status status = header(&r, shard, table);
    if (status == TC_OK)
        *ret = g;
    else
        tc_gguf_free(&g);
    return status;
}

void tc_gguf_free(tc_gguf *g)
{
    free(g->data);
    free(g->values);
    tc_names_free(&g->keys);
    *g = (tc_gguf){0};
}

// ---- asking ----

const tc_gguf_value *tc_gguf_find(const tc_gguf *g, const char *key)
{
    uint32_t id = tc_names_find(&g->keys, key, strlen(key));
    return id == TC_NAME_NONE ? NULL : &g->values[id];
}

static tc_status wrong_type(const tc_gguf_value *v, const char *what, const char *key, const char *wanted,
                            tc_error *e)
{
    return tc_fail(e, TC_FORMAT, "%s: %s: has type %s, must be %s", what, key, type_names[v->type], wanted);
}

tc_status tc_gguf_u64(const tc_gguf *g, const char *what, const char *key, uint64_t min, uint64_t max,
                      uint64_t *ret, tc_error *e)
{
    const tc_gguf_value *v = tc_gguf_find(g, key);
    if (!v) return TC_OK;
    if (v->type > TC_GGUF_I32 && v->type != TC_GGUF_U64 && v->type != TC_GGUF_I64)
        return wrong_type(v, what, key, "an integer", e);
    uint32_t bytes = item_bytes[v->type];
    uint64_t value = little(g->data + v->at, bytes);
    bool has_sign =
        v->type == TC_GGUF_I8 || v->type == TC_GGUF_I16 || v->type == TC_GGUF_I32 || v->type == TC_GGUF_I64;
    if (has_sign && value >> (8 * bytes - 1))
        return tc_fail(e, TC_FORMAT, "%s: %s: is negative, must be %" PRIu64 "..%" PRIu64, what, key, min,
                       max);
    if (value < min || value > max)
        return tc_fail(e, TC_FORMAT, "%s: %s is %" PRIu64 ", must be %" PRIu64 "..%" PRIu64, what, key, value,
                       min, max);
    *ret = value;
    return TC_OK;
}

tc_status tc_gguf_double(const tc_gguf *g, const char *what, const char *key, double *ret, tc_error *e)
{
    const tc_gguf_value *v = tc_gguf_find(g, key);
    if (!v) return TC_OK;
    if (v->type != TC_GGUF_F32 && v->type != TC_GGUF_F64) return wrong_type(v, what, key, "a float", e);
    if (v->type == TC_GGUF_F64) {
        memcpy(ret, g->data + v->at, sizeof *ret);
        return TC_OK;
    }
    *ret = (double)tc_gguf_f32_at(g, v, 0);
    return TC_OK;
}

tc_status tc_gguf_bool(const tc_gguf *g, const char *what, const char *key, bool *ret, tc_error *e)
{
    const tc_gguf_value *v = tc_gguf_find(g, key);
    if (!v) return TC_OK;
    if (v->type != TC_GGUF_BOOL) return wrong_type(v, what, key, "a boolean", e);
    *ret = g->data[v->at];
    return TC_OK;
}

tc_status tc_gguf_string(const tc_gguf *g, const char *what, const char *key, const char **ret,
                         uint64_t *ret_bytes, tc_error *e)
{
    const tc_gguf_value *v = tc_gguf_find(g, key);
    if (!v) return TC_OK;
    if (v->type != TC_GGUF_STRING) return wrong_type(v, what, key, "a text", e);
    uint64_t at = v->at;
    *ret = tc_gguf_next_string(g, &at, ret_bytes);
    return TC_OK;
}

tc_status tc_gguf_array(const tc_gguf *g, const char *what, const char *key, tc_gguf_type item,
                        const tc_gguf_value **ret, tc_error *e)
{
    const tc_gguf_value *v = tc_gguf_find(g, key);
    *ret = v;
    if (!v) return TC_OK;
    if (v->type != TC_GGUF_ARRAY) return wrong_type(v, what, key, "an array", e);
    if (v->item == item) return TC_OK;
    return tc_fail(e, TC_FORMAT, "%s: %s: holds items of type %s, must be %s", what, key, type_names[v->item],
                   type_names[item]);
}

const char *tc_gguf_next_string(const tc_gguf *g, uint64_t *at, uint64_t *ret_bytes)
{
    *ret_bytes = little(g->data + *at, 8);
    const char *text_at = (const char *)g->data + *at + 8;
    *at += 8 + *ret_bytes;
    return text_at;
}

int32_t tc_gguf_i32_at(const tc_gguf *g, const tc_gguf_value *v, uint64_t i)
{
    return (int32_t)(uint32_t)little(g->data + v->at + i * 4, 4);
}

float tc_gguf_f32_at(const tc_gguf *g, const tc_gguf_value *v, uint64_t i)
{
    uint32_t bits = (uint32_t)little(g->data + v->at + i * 4, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
