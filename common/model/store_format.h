// SPDX-License-Identifier: Apache-2.0
// Owns: the bytes of a store file, shared by packer and reader: [header | layer table | padding to 4096]
// then, for each layer with experts, its experts at a fixed stride, each layer on a multiple of 4096.
// Little-endian. Every offset follows from the counts and types, and the reader insists on exactly that; none
// is taken on trust.
#pragma once

#include "common/model/store.h"

enum {
    TC_STORE_ALIGN = 4096,
    TC_STORE_PARTS = 3, // gate, up, down
    TC_STORE_UNIT_WIDTH = 64,
    TC_STORE_HEADER_BYTES_MAX = 128 << 10,
};

typedef struct tc_store_part {
    uint32_t type, group, nested_stride, round; // tc_matrix_form; tc_dtype
    float levels[16];
} tc_store_part;

typedef struct tc_store_layer {
    uint64_t offset, expert_stride;
    uint64_t hash_low, hash_high; // XXH3-128 of the layer's bytes
    uint32_t has_experts, zero;
    tc_store_part part[TC_STORE_PARTS];
} tc_store_layer;

typedef struct tc_store_header {
    char magic[8];
    uint32_t layout_version, header_bytes;
    uint64_t file_bytes;
    char model_hash[40], family[32];
    uint32_t layers, experts, top_k, hidden, width, unit;
    uint32_t activation, biased; // tc_activation; 1: units have biases
    float act_alpha, act_limit;
    uint64_t hash_low, hash_high; // XXH3-128 of header_bytes bytes, these two taken as 0
} tc_store_header;

_Static_assert(sizeof(tc_store_part) == 80 && sizeof(tc_store_layer) == 280 && sizeof(tc_store_header) == 152,
               "the file's layout has no padding of the compiler's");

static inline uint64_t tc_store_align(uint64_t bytes, uint64_t to)
{
    return (bytes + to - 1) / to * to;
}

static inline tc_matrix_form tc_store_part_form(const tc_store_part *part)
{
    return (tc_matrix_form){(tc_matrix_type)part->type, part->group, part->nested_stride};
}

uint32_t tc_store_header_bytes(uint32_t layers);
uint32_t tc_store_unit_width(uint32_t width);
// Rows and columns of one unit's matrix.
void tc_store_part_shape(const tc_store_header *header, uint32_t part, uint32_t *ret_rows,
                         uint32_t *ret_cols);
// Offsets of a unit's three matrices, and of its biases behind them; returns the unit's stride.
uint64_t tc_store_unit_layout(const tc_store_header *header, const tc_store_layer *layer,
                              uint64_t ret_at[TC_STORE_PARTS + 1]);
// Fills offset and expert_stride of every layer, and returns the file's size.
uint64_t tc_store_layout(const tc_store_header *header, tc_store_layer *layers);
// Over header_bytes bytes; changes nothing that it does not restore.
void tc_store_header_hash(tc_store_header *header, uint64_t *ret_low, uint64_t *ret_high);

// Checks everything in `bytes` bytes of a file's start against the limits of model.h, itself and the file's
// size. `header` is writable for the hash only.
tc_status tc_store_header_check(const char *what, tc_store_header *header, size_t bytes, uint64_t file_bytes,
                                tc_error *e);

static const char tc_store_magic[8] = {'T', 'C', 'S', 'T', 'O', 'R', 'E', '\n'};
