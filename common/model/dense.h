// SPDX-License-Identifier: Apache-2.0
// Owns: how many bytes the weights beside the experts take where a core holds them: matrices packed
// (matrix.h), vectors as float32; without reading them. Refuses: experts (store.h).
#pragma once

#include "common/model/checkpoint.h"
#include "common/model/matrix.h"

// Rounds of matrices that a core's step has beside its head and its experts.
typedef enum tc_dense_kind {
    TC_DENSE_PROJECTIONS, // of attention and DeltaNet
    TC_DENSE_ROUTER,
    TC_DENSE_MLP, // shared experts and dense MLPs
    TC_DENSE_KINDS
} tc_dense_kind;

// What a token meets in all layers together.
typedef struct tc_dense_round {
    uint64_t bytes;
    uint64_t multiply_adds[TC_M_TYPES]; // by what the matrices are held as
} tc_dense_round;

typedef struct tc_dense_bytes {
    uint64_t embedding;
    uint64_t head; // as it is stored; 0 where embeddings are tied
    uint64_t rest;
    bool head_is_4bit;                    // and stays, whatever is asked for
    tc_matrix_type head_type;             // as it is stored; with tied embeddings, theirs
    tc_dense_round round[TC_DENSE_KINDS]; // parts of `rest`: matrices with their biases
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
// What that head's matrix is held as.
tc_matrix_type tc_dense_head_type(const tc_model_desc *desc, const tc_dense_bytes *bytes, const char *head);
