// SPDX-License-Identifier: Apache-2.0
// Owns: the header of one safetensors file, checked, as entries of a table that all shards of a model share.
// Refuses: whatever the format forbids: duplicate names, unknown types, shapes that overflow or disagree with
// their bytes, ranges that overlap, leave holes or end elsewhere than the file. Never reads data.
#pragma once

#include "common/model/checkpoint.h"
#include "common/model/names.h"

enum {
    TC_SAFETENSORS_HEADER_BYTES_MAX = 100000000, // the safetensors library's own limit
    TC_SAFETENSORS_DIMS_MAX = 8,
    TC_SAFETENSORS_NAME_BYTES_MAX = 512,
    TC_SAFETENSORS_DEPTH_MAX = 8,
};

typedef struct tc_tensor_entry { // by id of its name
    uint64_t begin, bytes;       // in the data part of its shard
    uint64_t shape_at;           // in tc_tensor_table.shapes
    uint32_t shard;
    uint8_t dims, dtype; // dtype: index for tc_safetensors_dtype*; in a GGUF file, tc_block_type
} tc_tensor_entry;

// Zeroed is empty.
typedef struct tc_tensor_table {
    tc_names names;
    tc_tensor_entry *entries;
    uint32_t room;
    uint64_t *shapes;
    uint64_t shapes_count, shapes_room;
} tc_tensor_table;

// Adds the tensors of one file: `header` is the JSON after the length, `data_bytes` what follows it. `what`
// names the file in errors. On failure the table may hold part of them: free it.
tc_status tc_safetensors_parse(const char *what, const char *header, size_t header_bytes, uint64_t data_bytes,
                               uint32_t shard, tc_tensor_table *table, tc_error *e);
// A tensor of any format: `shape` has entry->dims sizes, outermost first; entry->shape_at is set here. A name
// that is there already is left alone, *ret_new is then false.
tc_status tc_tensor_table_add(tc_tensor_table *table, const char *what, const char *name, size_t name_bytes,
                              const tc_tensor_entry *entry, const uint64_t *shape, bool *ret_new,
                              tc_error *e);
void tc_tensor_table_free(tc_tensor_table *table);

const char *tc_safetensors_dtype_name(uint8_t dtype);
tc_dtype tc_safetensors_dtype(uint8_t dtype);
