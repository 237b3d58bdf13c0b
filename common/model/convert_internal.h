// SPDX-License-Identifier: Apache-2.0
// Owns: what the two files of a conversion share: the plan's items, and who writes them. For convert*.c only.
#pragma once

#include "common/model/checkpoint_internal.h"
#include "common/model/convert.h"

enum {
    TC_CONVERT_STATE_BYTES = 256, // every quantisation state is padded to this
    TC_CONVERT_BLOCK = 64,
    TC_CONVERT_NESTED = 256
};

// The tensors of an NF4 linear, in the order in which they are written.
enum { PART_CODES, PART_ABSMAX, PART_NESTED, PART_NESTED_MAP, PART_MAP, PART_STATE, NF4_PARTS };

// COPY: a tensor of a part that is not ours, byte for byte.
typedef enum item_kind { ITEM_NF4, ITEM_MATRIX, ITEM_VECTOR, ITEM_COPY } item_kind;

typedef struct item {
    item_kind kind;
    tc_role role;
    uint32_t layer, expert, rows, cols, shard;
    tc_dtype dtype; // MATRIX and VECTOR: as written
    bool bias, of_expert;
    uint32_t copied; // COPY: the tensor's id in the checkpoint's table
} item;

typedef struct converter {
    const tc_checkpoint *c;
    const tc_model_desc *d;
    const tc_convert_options *o;
    const char *model, *folder;
    item *items;
    uint32_t count, room, shards;
    tc_dtype dtype; // of embeddings and head, and what a wider weight dequantises to
    bool others;    // the model has parts that are copied
    int fd;
    uint64_t done, total;
    tc_error *e;
} converter;

// Roles whose tensor has no ".weight" behind its name.
static inline bool tc_convert_whole(tc_role role)
{
    return role == TC_DN_A_LOG || role == TC_DN_DT_BIAS || role == TC_SINKS || role == TC_ROUTER_CORRECTION;
}

void tc_convert_part_sizes(const item *i, uint64_t ret[NF4_PARTS]);
// Appends to the open file.
tc_status tc_convert_put(converter *v, const void *data, uint64_t bytes);
tc_status tc_convert_put_item(converter *v, const item *i);
