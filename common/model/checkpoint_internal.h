// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the checkpoint share: the open directory. For checkpoint*.c, convert*.c and dense.c
// only.
#pragma once

#include "common/model/safetensors.h"

enum { TC_SHARDS_MAX = 4096, TC_DIR_BYTES_MAX = 2048 };

typedef struct tc_shard_file {
    int fd;
    uint64_t file_bytes, data_at, header_hash;
} tc_shard_file;

struct tc_checkpoint {
    char dir[TC_DIR_BYTES_MAX];
    int dir_fd;
    tc_names shard_names;
    tc_shard_file *shards; // by id of their name
    uint32_t shard_count;
    tc_tensor_table table;
    tc_model_desc desc;
    char hash[33];
    bool keep; // no weight is coarse
    bool gguf; // tensors have the names and types of a GGUF file
};

// The id of a file of the folder, new or known. `what` names who mentions it.
tc_status tc_checkpoint_add_shard(tc_checkpoint *c, const char *what, const char *name, size_t bytes,
                                  uint32_t *ret, tc_error *e);
// Room for `count` of shards[], the new ones not open.
tc_status tc_checkpoint_make_shards(tc_checkpoint *c, uint32_t count, tc_error *e);
tc_status tc_checkpoint_open_shard(tc_checkpoint *c, uint32_t shard, tc_error *e);

enum { TC_SUFFIX_BYTES = 64, TC_TENSOR_BYTES = TC_TENSOR_NAME_BYTES + TC_SUFFIX_BYTES };

// A tensor found by name; `entry` is NULL where there is none.
typedef struct tc_found {
    char name[TC_TENSOR_BYTES];
    const tc_tensor_entry *entry;
    const char *shard;
} tc_found;

tc_status tc_tensor_find(const tc_checkpoint *c, const char *base, const char *suffix, tc_found *ret,
                         tc_error *e);
// TC_FORMAT: what is wrong with the tensor, naming it and its file.
tc_status tc_tensor_bad(const tc_checkpoint *c, const tc_found *f, tc_error *e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// Bytes [at, at + bytes) of it, which lie within it.
tc_status tc_tensor_read(const tc_checkpoint *c, const tc_found *f, uint64_t at, uint64_t bytes, void *data,
                         tc_error *e);
// TC_FORMAT unless it has exactly these dimensions.
tc_status tc_tensor_shaped(const tc_checkpoint *c, const tc_found *f, uint32_t dims, const uint64_t *shape,
                           tc_error *e);
static inline bool tc_dtype_is_float(tc_dtype dtype)
{
    return dtype == TC_F32 || dtype == TC_F16 || dtype == TC_BF16;
}

// The weight of a tensor stored as F8_E4M3 with `base`.weight_scale_inv beside it (fp8.c).
tc_status tc_checkpoint_fp8(const tc_checkpoint *c, const char *base, const tc_found *weight, uint32_t rows,
                            uint32_t cols, tc_weight *ret, tc_error *e);

// What tc_checkpoint_weight would give, without its data, for sizes. Not to be freed: pointers only tell
// whether there is something.
tc_status tc_checkpoint_weight_like(const tc_checkpoint *c, const char *base, uint32_t rows, uint32_t cols,
                                    tc_weight *ret, tc_error *e);

// Exactly `bytes` bytes at `at`, or TC_IO.
tc_status tc_pread_all(int fd, const char *what, void *data, uint64_t bytes, uint64_t at, tc_error *e);
