// SPDX-License-Identifier: Apache-2.0
// Owns: what the files of the checkpoint share: the open directory. For checkpoint*.c only.
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

// Exactly `bytes` bytes at `at`, or TC_IO.
tc_status tc_pread_all(int fd, const char *what, void *data, uint64_t bytes, uint64_t at, tc_error *e);
