// SPDX-License-Identifier: Apache-2.0
// Owns: the block types of GGUF tensors: their names and sizes, one block to float32 with the rounding of the
// `gguf` package, and the 4-bit types that are a code book and a scale for 32 elements.
// Refuses: types that are known by name only (tc_block_info.bytes is 0 then).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tc_block_type { // the numbers of the file format
    TC_BLOCK_F32 = 0,
    TC_BLOCK_F16 = 1,
    TC_BLOCK_Q4_0 = 2,
    TC_BLOCK_Q4_1 = 3,
    TC_BLOCK_Q5_0 = 6,
    TC_BLOCK_Q5_1 = 7,
    TC_BLOCK_Q8_0 = 8,
    TC_BLOCK_Q2_K = 10,
    TC_BLOCK_Q3_K = 11,
    TC_BLOCK_Q4_K = 12,
    TC_BLOCK_Q5_K = 13,
    TC_BLOCK_Q6_K = 14,
    TC_BLOCK_IQ4_NL = 20,
    TC_BLOCK_IQ4_XS = 23,
    TC_BLOCK_BF16 = 30,
    TC_BLOCK_MXFP4 = 39,
    TC_BLOCK_TYPES = 43,
} tc_block_type;

enum {
    TC_BLOCK_ELEMENTS_MAX = 256,
    TC_BLOCK_CODES = 32
}; // TC_BLOCK_CODES: elements that a code book's scale covers

typedef struct tc_block_info {
    const char *name;
    uint16_t elements, bytes; // of one block; 0: not supported
    uint8_t halves;           // float16 scales of a block,
    uint8_t half_at[2];       // and where they lie
} tc_block_info;

// NULL: the format has no such type.
const tc_block_info *tc_block_info_of(uint32_t type);
const char *tc_block_types_supported(void); // "F32, F16, ..."

// Elements [first, first + count) of blocks that lie one after another, bit for bit as the `gguf` package
// dequantises them. Supported types only.
void tc_blocks_dequantise(uint32_t type, const void *data, uint64_t first, uint64_t count, float *ret);

// The first of `blocks` blocks in which an element is not finite; `blocks` when there is none.
uint64_t tc_blocks_first_bad(uint32_t type, const void *data, uint64_t blocks);

// The 16 levels of a type whose every element is exactly level * scale; NULL for other types.
const float *tc_block_levels(uint32_t type);
// One block of such a type: codes two a byte, high nibble first, and a scale for each 32 elements.
void tc_block_codes(uint32_t type, const uint8_t *block, uint8_t *ret_codes, float *ret_scales);
