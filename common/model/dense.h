// SPDX-License-Identifier: Apache-2.0
// Owns: how many bytes the weights beside the experts take where a core holds them: matrices packed
// (matrix.h), vectors as float32; without reading them. Refuses: experts (store.h).
#pragma once

#include "common/model/checkpoint.h"

typedef struct tc_dense_bytes {
    uint64_t embedding;
    uint64_t head; // as it is stored; 0 where embeddings are tied
    uint64_t rest;
    bool head_is_4bit; // and stays, whatever is asked for
} tc_dense_bytes;

typedef struct tc_dense_options {
    bool keep; // every bit is kept (TC_QUANTISE_KEEP)
    bool gpu;  // as a GPU holds them: 4-bit matrices with a scale for 32 columns as float32
} tc_dense_options;

tc_status tc_dense_bytes_of(const tc_checkpoint *checkpoint, const tc_dense_options *options,
                            tc_dense_bytes *ret, tc_error *e);

// Of the head when it is made `head`: "nf4", "int8", "bf16"; "keep" or NULL: as it is stored. With tied
// embeddings 0 is only for keep.
uint64_t tc_dense_head_bytes(const tc_model_desc *desc, const tc_dense_bytes *bytes, const char *head);
