// SPDX-License-Identifier: Apache-2.0
// Owns: the header of a GGUF file (versions 2 and 3), checked: its metadata, and its tensors as entries of a
// tc_tensor_table. Read with pread, never mapped; nothing in it is used before it is bounded.
// Refuses, naming the field: counts, lengths, types, alignments and offsets out of range, keys and names
// that come twice, arrays of arrays, tensors that overlap or leave holes. Never reads weights.
#pragma once

#include "common/model/safetensors.h"

// Everything that a file can make large.
enum {
    TC_GGUF_HEADER_BYTES_MAX = 64 << 20, // all before the weights
    TC_GGUF_KEYS_MAX = 4096,
    TC_GGUF_KEY_BYTES_MAX = 255,
    TC_GGUF_STRING_BYTES_MAX = 4 << 20, // a chat template, a token
    TC_GGUF_ARRAY_ITEMS_MAX = 1 << 22,  // as many as tokens can have ids
    TC_GGUF_TENSORS_MAX = 1 << 16,
    TC_GGUF_NAME_BYTES_MAX = 127, // of a tensor
    TC_GGUF_DIMS_MAX = 4,
    TC_GGUF_ALIGNMENT_MIN = 8,
    TC_GGUF_ALIGNMENT_MAX = 1 << 20,
    TC_GGUF_ALIGNMENT_DEFAULT = 32,
};

typedef enum tc_gguf_type { // the numbers of the file format
    TC_GGUF_U8,
    TC_GGUF_I8,
    TC_GGUF_U16,
    TC_GGUF_I16,
    TC_GGUF_U32,
    TC_GGUF_I32,
    TC_GGUF_F32,
    TC_GGUF_BOOL,
    TC_GGUF_STRING,
    TC_GGUF_ARRAY,
    TC_GGUF_U64,
    TC_GGUF_I64,
    TC_GGUF_F64,
    TC_GGUF_TYPES
} tc_gguf_type;

typedef struct tc_gguf_value {
    uint8_t type, item; // item: what an array holds
    uint64_t count;     // items of an array
    uint64_t at;        // of the value, or of an array's first item, in tc_gguf.data
} tc_gguf_value;

// Zeroed is empty. Owner: the caller, tc_gguf_free.
typedef struct tc_gguf {
    uint8_t *data; // the file's first `bytes` bytes
    uint64_t bytes, room;
    uint32_t version, alignment;
    tc_names keys;
    tc_gguf_value *values; // by id of the key
    uint64_t data_at;      // of the weights
} tc_gguf;

// Reads the header of an open file. Its tensors join `table` as those of `shard`. `what` names the file in
// errors. On failure the table may hold part of them.
tc_status tc_gguf_read(const char *what, int fd, uint64_t file_bytes, uint32_t shard, tc_gguf *ret,
                       tc_tensor_table *table, tc_error *e);
// The same of a header in memory, of a file that is said to have file_bytes bytes.
tc_status tc_gguf_parse(const char *what, const void *data, size_t bytes, uint64_t file_bytes, uint32_t shard,
                        tc_gguf *ret, tc_tensor_table *table, tc_error *e);
void tc_gguf_free(tc_gguf *gguf);

// ---- metadata. A key that is absent leaves *ret as it is; one of another type is an error that names it.
// ----

const tc_gguf_value *tc_gguf_find(const tc_gguf *gguf, const char *key); // NULL: absent
// Any integer type, from min to max.
tc_status tc_gguf_u64(const tc_gguf *gguf, const char *what, const char *key, uint64_t min, uint64_t max,
                      uint64_t *ret, tc_error *e);
tc_status tc_gguf_double(const tc_gguf *gguf, const char *what, const char *key, double *ret, tc_error *e);
tc_status tc_gguf_bool(const tc_gguf *gguf, const char *what, const char *key, bool *ret, tc_error *e);
// Not NUL-terminated; lies in the header.
tc_status tc_gguf_string(const tc_gguf *gguf, const char *what, const char *key, const char **ret,
                         uint64_t *ret_bytes, tc_error *e);
// An array of items of one type. Absent: *ret is NULL.
tc_status tc_gguf_array(const tc_gguf *gguf, const char *what, const char *key, tc_gguf_type item,
                        const tc_gguf_value **ret, tc_error *e);

// The string at *at, which is moved behind it: walks an array of strings from value->at on.
const char *tc_gguf_next_string(const tc_gguf *gguf, uint64_t *at, uint64_t *ret_bytes);
// Number `i` of an array of I32, U32 or F32.
int32_t tc_gguf_i32_at(const tc_gguf *gguf, const tc_gguf_value *array, uint64_t i);
float tc_gguf_f32_at(const tc_gguf *gguf, const tc_gguf_value *array, uint64_t i);
