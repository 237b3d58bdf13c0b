// SPDX-License-Identifier: Apache-2.0
// Owns: what the files that make a checkpoint of GGUF files share. For gguf_*.c, checkpoint*.c and source.c.
#pragma once

#include "common/model/checkpoint_internal.h"
#include "common/model/gguf.h"
#include "common/model/source.h"

// Opens the file and, where it is split, the others beside it: fills dir, files and table of a zeroed
// checkpoint (dir_fd -1). *ret is the metadata of the first; owner: the caller, tc_gguf_free.
tc_status tc_gguf_open(tc_checkpoint *c, const char *path, tc_gguf *ret, tc_error *e);

// model_type of the family that a general.architecture is; NULL: none of ours.
const char *tc_gguf_family(const char *architecture);

// Texts of the small files. `what` names the GGUF file. malloc'ed, NUL-terminated; TC_NOT_FOUND: it has none.
tc_status tc_gguf_config(const char *what, const tc_gguf *g, const tc_tensor_table *table, char **ret,
                         size_t *ret_bytes, tc_error *e);
tc_status tc_gguf_generation(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes, tc_error *e);
tc_status tc_gguf_tokenizer(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes, tc_error *e);
tc_status tc_gguf_tokenizer_config(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes,
                                   tc_error *e);
tc_status tc_gguf_chat_template(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes,
                                tc_error *e);
// Adds to an error about a field of that config.json which key of the file it came from.
void tc_gguf_config_blame(tc_error *e);

// Reading by the names of the family (checkpoint.h); `c->gguf` is set.
bool tc_gguf_has(const tc_checkpoint *c, const char *tensor);
tc_dtype tc_gguf_dtype(const tc_checkpoint *c, const char *tensor);
bool tc_gguf_is_4bit(const tc_checkpoint *c, const char *base);
tc_status tc_gguf_weight(const tc_checkpoint *c, const char *base, uint32_t rows, uint32_t cols,
                         tc_weight *ret, tc_error *e);
// As tc_checkpoint_weight_like has it; *ret holds rows and columns.
tc_status tc_gguf_weight_like(const tc_checkpoint *c, const char *base, tc_weight *ret, tc_error *e);
tc_status tc_gguf_vector(const tc_checkpoint *c, const char *tensor, uint64_t count, float **ret,
                         tc_error *e);
