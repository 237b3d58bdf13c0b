// SPDX-License-Identifier: Apache-2.0
// Owns: checking a safetensors header (safetensors.h).
#include "common/model/safetensors.h"

#include "common/base/json.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint8_t bits;
    tc_dtype dtype;
} dtypes[] = {
    {"BF16", 16, TC_BF16},    {"U8", 8, TC_U8},      {"F32", 32, TC_F32},      {"F16", 16, TC_F16},
    {"BOOL", 8, TC_OTHER},    {"I8", 8, TC_OTHER},   {"I16", 16, TC_OTHER},    {"U16", 16, TC_OTHER},
    {"I32", 32, TC_OTHER},    {"U32", 32, TC_OTHER}, {"I64", 64, TC_OTHER},    {"U64", 64, TC_OTHER},
    {"F64", 64, TC_OTHER},    {"C64", 64, TC_OTHER}, {"F8_E4M3", 8, TC_OTHER}, {"F8_E5M2", 8, TC_OTHER},
    {"F8_E8M0", 8, TC_OTHER}, {"F4", 4, TC_OTHER},   {"F6_E2M3", 6, TC_OTHER}, {"F6_E3M2", 6, TC_OTHER},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

const char *tc_safetensors_dtype_name(uint8_t dtype)
{
    return dtypes[dtype].name;
}

tc_dtype tc_safetensors_dtype(uint8_t dtype)
{
    return dtypes[dtype].dtype;
}

// One tensor on its way into the table; `name` starts its errors.
typedef struct parse {
    const char *what, *name;
    uint64_t data_bytes;
    tc_error *e;
} parse;

static tc_status bad(const parse *p, const char *reason)
{
    return tc_fail(p->e, TC_FORMAT, "%s: tensor %.200s: %s", p->what, p->name, reason);
}

static tc_status read_dtype(const parse *p, yyjson_val *value, uint8_t *ret)
{
    for (uint8_t i = 0; i < DTYPES; i++)
        if (yyjson_equals_str(value, dtypes[i].name)) {
            *ret = i;
            return TC_OK;
        }
    if (!yyjson_is_str(value)) return bad(p, "dtype is missing or no text");
    return tc_fail(p->e, TC_FORMAT,
                   "%s: tensor %.200s: dtype \"%.16s\" is not supported, only: F32, F16, BF16, F8_E4M3 with "
                   "scales, U8 of 4-bit weights",
                   p->what, p->name, yyjson_get_str(value));
}

tc_status tc_tensor_table_add(tc_tensor_table *table, const char *what, const char *name, size_t name_bytes,
                              const tc_tensor_entry *entry, const uint64_t *shape, bool *ret_new, tc_error *e)
{
    uint32_t id;
    tc_tensor_entry t = *entry;
    TC_TRY(tc_names_add(&table->names, name, name_bytes, &id, ret_new, e));
    if (!*ret_new) return TC_OK;
    if (id >= table->room) {
        uint32_t room = (id + 1) * 2;
        tc_tensor_entry *entries = realloc(table->entries, room * sizeof *entries);
        if (!entries) return tc_fail(e, TC_NOMEM, "%s: no memory for its tensors", what);
        table->entries = entries;
        table->room = room;
    }
    if (table->shapes_count + t.dims > table->shapes_room) {
        uint64_t room = (table->shapes_count + t.dims) * 2;
        uint64_t *shapes = realloc(table->shapes, room * sizeof *shapes);
        if (!shapes) return tc_fail(e, TC_NOMEM, "%s: no memory for its tensors", what);
        table->shapes = shapes;
        table->shapes_room = room;
    }
    t.shape_at = table->shapes_count;
    for (uint32_t i = 0; i < t.dims; i++) table->shapes[table->shapes_count++] = shape[i];
    table->entries[id] = t;
    return TC_OK;
}

static tc_status read_shape(const parse *p, yyjson_val *value, tc_tensor_entry *t,
                            uint64_t shape[TC_SAFETENSORS_DIMS_MAX])
{
    size_t dims = yyjson_arr_size(value), i, n;
    if (!yyjson_is_arr(value)) return bad(p, "shape must be a list");
    if (dims > TC_SAFETENSORS_DIMS_MAX) return bad(p, "shape has more than 8 dimensions");
    uint64_t bits = dtypes[t->dtype].bits;
    yyjson_val *item;
    yyjson_arr_foreach(value, i, n, item)
    {
        if (!yyjson_is_uint(item)) return bad(p, "shape must hold whole numbers from 0 up");
        uint64_t size = yyjson_get_uint(item);
        if (__builtin_mul_overflow(bits, size, &bits)) return bad(p, "shape's product overflows");
        shape[i] = size;
    }
    if (bits % 8 != 0) return bad(p, "shape does not fill whole bytes");
    t->bytes = bits / 8;
    t->dims = (uint8_t)dims;
    return TC_OK;
}

static tc_status read_offsets(const parse *p, yyjson_val *value, tc_tensor_entry *t)
{
    yyjson_val *first = yyjson_arr_get(value, 0), *second = yyjson_arr_get(value, 1);
    if (yyjson_arr_size(value) != 2 || !yyjson_is_uint(first) || !yyjson_is_uint(second))
        return bad(p, "data_offsets must be two whole numbers");
    uint64_t begin = yyjson_get_uint(first), end = yyjson_get_uint(second);
    if (begin > end) return bad(p, "data_offsets run backwards");
    if (end > p->data_bytes)
        return tc_fail(p->e, TC_FORMAT,
                       "%s: tensor %.200s: data_offsets end at %" PRIu64 ", the file holds %" PRIu64
                       " bytes of data",
                       p->what, p->name, end, p->data_bytes);
    if (end - begin != t->bytes)
        return tc_fail(p->e, TC_FORMAT,
                       "%s: tensor %.200s: shape and dtype need %" PRIu64
                       " bytes, data_offsets give %" PRIu64,
                       p->what, p->name, t->bytes, end - begin);
    t->begin = begin;
    return TC_OK;
}

static tc_status check_name(const parse *p, size_t bytes)
{
    if (bytes == 0 || bytes > TC_SAFETENSORS_NAME_BYTES_MAX)
        return tc_fail(p->e, TC_FORMAT, "%s: a tensor's name has %zu bytes, must be 1..%u", p->what, bytes,
                       TC_SAFETENSORS_NAME_BYTES_MAX);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)p->name[i] < 0x20) return bad(p, "name holds a control character");
    return TC_OK;
}

static tc_status add_tensor(parse *p, yyjson_val *key, yyjson_val *value, uint32_t shard,
                            tc_tensor_table *table)
{
    uint64_t shape[TC_SAFETENSORS_DIMS_MAX];
    bool fresh;
    p->name = yyjson_get_str(key);
    TC_TRY(check_name(p, yyjson_get_len(key)));
    if (!yyjson_is_obj(value)) return bad(p, "must be a JSON object");
    if (yyjson_obj_size(value) != 3) return bad(p, "must have dtype, shape and data_offsets and no more");
    tc_tensor_entry t = {.shard = shard};
    TC_TRY(read_dtype(p, yyjson_obj_get(value, "dtype"), &t.dtype));
    TC_TRY(read_shape(p, yyjson_obj_get(value, "shape"), &t, shape));
    TC_TRY(read_offsets(p, yyjson_obj_get(value, "data_offsets"), &t));
    TC_TRY(tc_tensor_table_add(table, p->what, p->name, yyjson_get_len(key), &t, shape, &fresh, p->e));
    if (!fresh) return bad(p, "is also in another shard"); // twice in this one: the JSON check saw it
    return TC_OK;
}

typedef struct range {
    uint64_t begin, end;
    uint32_t id;
} range;

static int by_begin(const void *pa, const void *pb)
{
    const range *a = pa, *b = pb;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end) return a->end < b->end ? -1 : 1;
    return 0;
}

// The tensors of a file must cover its data exactly once.
static tc_status check_ranges(const parse *p, const tc_tensor_table *table, uint32_t first)
{
    uint32_t count = table->names.count - first;
    range *ranges = malloc(count * sizeof *ranges + 1);
    tc_status status = TC_OK;
    if (!ranges) return tc_fail(p->e, TC_NOMEM, "%s: no memory to check its offsets", p->what);
    for (uint32_t i = 0; i < count; i++) {
        const tc_tensor_entry *t = &table->entries[first + i];
        ranges[i] = (range){t->begin, t->begin + t->bytes, first + i};
    }
    qsort(ranges, count, sizeof *ranges, by_begin);
    uint64_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (ranges[i].begin != end)
            TC_GOTO(tc_fail(p->e, TC_FORMAT, "%s: tensor %.200s: data_offsets %s", p->what,
                            tc_names_text(&table->names, ranges[i].id),
                            ranges[i].begin < end ? "overlap another tensor's" : "leave a hole before it"));
        end = ranges[i].end;
    }
    if (end != p->data_bytes)
        TC_GOTO(tc_fail(p->e, TC_FORMAT,
                        "%s: tensors end at byte %" PRIu64 " of the data, the file holds %" PRIu64, p->what,
                        end, p->data_bytes));
out:
    free(ranges);
    return status;
}

tc_status tc_safetensors_parse(const char *what, const char *header, size_t header_bytes, uint64_t data_bytes,
                               uint32_t shard, tc_tensor_table *table, tc_error *e)
{
    parse p = {.what = what, .data_bytes = data_bytes, .e = e};
    yyjson_doc *doc = NULL;
    tc_json_object root;
    tc_status status;
    uint32_t first = table->names.count;
    size_t i, n;
    yyjson_val *key, *value;
    if (header_bytes == 0 || header[0] != '{')
        return tc_fail(e, TC_FORMAT, "%s: the header does not start with '{'", what);
    TC_TRY(tc_json_parse(what, header, header_bytes, TC_SAFETENSORS_DEPTH_MAX, &doc, e));
    TC_GOTO(tc_json_object_of(yyjson_doc_get_root(doc), what, &root, e));
    yyjson_obj_foreach(root.value, i, n, key, value)
    {
        if (!yyjson_equals_str(key, "__metadata__"))
            TC_GOTO(add_tensor(&p, key, value, shard, table));
        else if (!yyjson_is_obj(value))
            TC_GOTO(tc_fail(e, TC_FORMAT, "%s: __metadata__ must be a JSON object", what));
    }
    TC_GOTO(check_ranges(&p, table, first));
out:
    yyjson_doc_free(doc);
    return status;
}

void tc_tensor_table_free(tc_tensor_table *table)
{
    tc_names_free(&table->names);
    free(table->entries);
    free(table->shapes);
    *table = (tc_tensor_table){0};
}
