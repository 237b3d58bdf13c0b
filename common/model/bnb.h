// SPDX-License-Identifier: Apache-2.0
// Owns: the JSON that bitsandbytes stores beside a 4-bit weight (the quantisation state), checked.
#pragma once

#include "common/model/checkpoint.h"

enum {
    TC_BNB_STATE_BYTES_MAX = 4096,
    TC_BNB_BLOCK_MIN = 32,
    TC_BNB_BLOCK_MAX = 4096,
    TC_BNB_NESTED_BLOCK_MAX = 65536
};

typedef struct tc_bnb_state {
    bool fp4;
    uint32_t rows, cols, block;
    tc_dtype dtype;        // what the weight dequantises to
    uint32_t nested_block; // 0: the scales are not quantised
    float nested_offset;
} tc_bnb_state;

// `what` starts each error.
tc_status tc_bnb_state_parse(const char *what, const char *text, size_t bytes, tc_bnb_state *ret,
                             tc_error *e);
