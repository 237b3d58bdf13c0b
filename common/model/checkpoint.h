// SPDX-License-Identifier: Apache-2.0
// Owns: a model's weights, open for reading: a Hugging Face directory of sharded safetensors with
// bitsandbytes 4-bit weights, or GGUF files. Opening reads and checks headers only; weights are read with
// pread, never mapped, so a file that shrinks gives an error and not SIGBUS. Refuses: to trust anything in a
// file. Every offset, shape and quantisation state is checked before use.
#pragma once

#include "common/model/model.h"

typedef enum tc_dtype { TC_F32, TC_F16, TC_BF16, TC_U8, TC_OTHER } tc_dtype;

// One linear layer's weight [rows, cols], row-major, as stored.
//   dense: `dtype` F32/F16/BF16 elements in `data`.
//     Stored as F8_E4M3 with a scale for each 128 x 128 block (`X.weight_scale_inv`): dense BF16, each weight
//     times its scale in float32, rounded once.
//   4-bit (`quantised`): two codes a byte in `data`, high nibble first, blocks of `block` elements running
//   over the flattened weight; value = round_to(dtype, levels[code] * absmax[i / block]).
//   blocks (`block_type`): `data` holds rows of GGUF blocks as they are stored (gguf_blocks.h); dtype is F32.
// `coarse`: the values come from a lossy type of at most 8 bits that no packed form but float32 holds;
//   packing rounds them to float16, unless every bit is to be kept.
// absmax is already un-nested (float32). Where the scales are double-quantised with bitsandbytes' own map,
// scale_codes, nested, nested_block and nested_offset keep them as stored:
//   absmax[i] = map[scale_codes[i]] * nested[i / nested_block] + nested_offset, rounded twice; else
//   scale_codes is NULL.
// Owner: the caller, tc_weight_free.
typedef struct tc_weight {
    uint32_t rows, cols;
    bool quantised, fp4;
    tc_dtype dtype;
    uint8_t block_type; // tc_block_type; 0: none
    bool coarse;
    bool eight; // packing rounds it to 8 bits with a scale for 64 columns, where those are whole
    void *data;
    float *absmax;
    uint32_t block;
    uint8_t *scale_codes; // [blocks], or NULL
    float *nested;        // [ceil(blocks / nested_block)]
    uint32_t nested_block;
    float nested_offset;
    float levels[16];
} tc_weight;

// What packing does to weights that are not 4-bit; from NF4 on in the order of --quantise's choices. USUAL:
// kept, `coarse` ones rounded to float16. NF4: experts become 4-bit. INT8: experts become 8-bit. KEEP: every
// bit is kept, `coarse` ones become float32.
typedef enum tc_quantise {
    TC_QUANTISE_USUAL,
    TC_QUANTISE_NF4,
    TC_QUANTISE_INT8,
    TC_QUANTISE_KEEP
} tc_quantise;
tc_quantise tc_quantise_named(const char *name); // NULL: USUAL; "nf4"; "int8"; "keep"

typedef struct tc_checkpoint tc_checkpoint;

tc_status tc_checkpoint_open(const char *dir, tc_checkpoint **ret, tc_error *e);
void tc_checkpoint_free(tc_checkpoint *checkpoint); // NULL is legal
const tc_model_desc *tc_checkpoint_desc(const tc_checkpoint *checkpoint);
// From here on no weight is `coarse`.
void tc_checkpoint_keep(tc_checkpoint *checkpoint);
// Whether a linear is kept as codes of a 4-bit code book.
bool tc_checkpoint_is_4bit(const tc_checkpoint *checkpoint, const char *base);

// Identity of the source: 128-bit hash (hex, 32 digits + NUL) over the config's bytes and each shard's name,
// size, header and samples of its data. Equal for equal directories, wherever they lie.
const char *tc_checkpoint_hash(const tc_checkpoint *checkpoint);

// All tensors are asked for by the names of the family (tc_model_tensor_name), whatever the files call them.
bool tc_checkpoint_has(const tc_checkpoint *checkpoint, const char *tensor);
// F32, F16 or BF16 as the tensor is stored; TC_OTHER: in another type, or there is none.
tc_dtype tc_checkpoint_dtype(const tc_checkpoint *checkpoint, const char *tensor);
// Vectors are as they are used: norms with their 1 added where the family adds it, and -exp(A_log).
bool tc_checkpoint_ready(const tc_checkpoint *checkpoint);

// The linear `base` (without ".weight"), which must be [rows, cols], 4-bit or dense. Thread-safe.
tc_status tc_checkpoint_weight(const tc_checkpoint *checkpoint, const char *base, uint32_t rows,
                               uint32_t cols, tc_weight *ret, tc_error *e);
// The gate, up or down projection (`role`) of one expert, however the checkpoint holds it: a linear of its
// own, or a part of one tensor for the whole layer (tc_model_stacked), dense or MXFP4 (`X_blocks`,
// `X_scales`: FP4 levels in blocks of 32 with a power of two each). Thread-safe.
tc_status tc_checkpoint_expert(const tc_checkpoint *checkpoint, tc_role role, uint32_t layer, uint32_t expert,
                               tc_weight *ret, tc_error *e);
// Whether it is kept as 4-bit codes: packing quantises nothing then.
bool tc_checkpoint_expert_is_4bit(const tc_checkpoint *checkpoint, tc_role role, uint32_t layer,
                                  uint32_t expert);
// Its bias, float32, as many as it has rows; and the type that is stored in.
tc_status tc_checkpoint_expert_bias(const tc_checkpoint *checkpoint, tc_role role, uint32_t layer,
                                    uint32_t expert, float *ret, tc_error *e);
tc_dtype tc_checkpoint_expert_bias_dtype(const tc_checkpoint *checkpoint, tc_role role, uint32_t layer,
                                         uint32_t expert);
// A small tensor of exactly `count` elements (any shape, f32/f16/bf16), converted to float32; owner: caller,
// tc_free.
tc_status tc_checkpoint_vector(const tc_checkpoint *checkpoint, const char *tensor, uint64_t count,
                               float **ret, tc_error *e);

void tc_weight_free(tc_weight *weight); // zeroed struct is legal
// Elements [first, first+count) of the flattened weight, as float32, exactly as bitsandbytes dequantises.
void tc_weight_dequantise(const tc_weight *weight, uint64_t first, uint64_t count, float *ret);
// Replaces a dense weight by its NF4 (double-quantised, block 64) form, bit-identical to bitsandbytes'
// result.
tc_status tc_weight_quantise_nf4(tc_weight *weight, tc_error *e);

// Walks all tensors (for `inspect`), shard by shard, in file order. Stops when visit returns false.
typedef struct tc_tensor_info {
    const char *name, *dtype, *shard;
    uint32_t dims;
    uint64_t shape[8];
    uint64_t bytes;
} tc_tensor_info;
void tc_checkpoint_walk(const tc_checkpoint *checkpoint, bool (*visit)(void *arg, const tc_tensor_info *info),
                        void *arg);
