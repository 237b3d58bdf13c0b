// SPDX-License-Identifier: Apache-2.0
// Owns: writing a list of tensors with random content as sharded safetensors with an index.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

typedef enum tc_content {
    TC_FILL_UNIFORM,  // bf16, uniform with mean `centre` and standard deviation `deviation`
    TC_FILL_CODES,    // u8, two NF4 codes each, mean of their levels about 0
    TC_FILL_BYTES,    // u8, uniform
    TC_FILL_CONSTANT, // f32, all `centre`
    TC_FILL_LITERAL,  // `literal`, `bytes` long
} tc_content;

// Changes values [first, first + count) of a tensor, bf16, after they were drawn. index: the tensor's.
typedef void tc_random_touch(const void *arg, uint32_t index, uint64_t first, uint16_t *values, size_t count);

typedef struct tc_random_tensor {
    char *name;        // owned by the list
    const char *dtype; // of safetensors
    uint32_t dims;
    uint64_t shape[3], bytes;
    tc_content content;
    float centre, deviation;
    const void *literal; // borrowed, or owned where own_literal
    bool own_literal;
    tc_random_touch *touch; // of TC_FILL_UNIFORM; NULL: it stays as drawn
    const void *touch_arg;  // borrowed
    uint32_t touch_index;
} tc_random_tensor;

typedef struct tc_random_list {
    tc_random_tensor *tensors;
    uint32_t count, room;
    uint64_t bytes;
} tc_random_list;

// Takes over name (malloc'd) and an owned literal in any case.
tc_status tc_random_list_add(tc_random_list *list, tc_random_tensor tensor, tc_error *e);
void tc_random_list_free(tc_random_list *list);

// Standard deviation of the levels of TC_FILL_CODES.
float tc_random_codes_deviation(void);

// Writes model-0000i-of-0000n.safetensors and model.safetensors.index.json into `directory`. The same seed
// gives the same bytes. `progress` may be NULL.
tc_status tc_random_shards_write(const char *directory, const tc_random_list *list, uint64_t shard_bytes,
                                 uint64_t seed, void (*progress)(uint64_t done, uint64_t total), tc_error *e);
