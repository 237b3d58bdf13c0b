// SPDX-License-Identifier: Apache-2.0
// Owns: writing a model as a Hugging Face folder in bitsandbytes' NF4 layout (double-quantised, blocks of
// 64), as transformers saves and loads it, from any checkpoint that can be read: tensors one after another,
// in bounded memory. What is NF4 already is written bit for bit as it is. Refuses: a folder that has a model
// in it already.
#pragma once

#include "common/model/checkpoint.h"

typedef struct tc_convert_options {
    uint64_t shard_bytes; // 0: 4 GiB
    bool dense; // nothing is quantised: weights of 16 bits, rounded once where they are not so already
    bool (*progress)(void *arg, uint64_t done,
                     uint64_t total); // bytes; may be NULL; false stops (TC_CANCELLED)
    void *arg;
} tc_convert_options;

// `model` is what the checkpoint was opened from: the small files beside the weights come from there. A
// failure leaves no file under a model's names.
tc_status tc_convert_nf4(const tc_checkpoint *checkpoint, const char *model, const char *folder,
                         const tc_convert_options *options, tc_error *e);
