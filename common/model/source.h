// SPDX-License-Identifier: Apache-2.0
// Owns: where a model's parts are: a folder as Hugging Face lays it out, or a GGUF file (a folder with one).
// The small files of a folder (config.json and its like) are made out of a GGUF file's metadata, so that
// everything behind this knows one form only.
// Refuses: weights (checkpoint.h).
#pragma once

#include "common/base/status.h"

enum { TC_MODEL_PATH_BYTES = 2048 };

typedef enum tc_model_file {
    TC_FILE_CONFIG,           // config.json
    TC_FILE_GENERATION,       // generation_config.json
    TC_FILE_TOKENIZER,        // tokenizer.json
    TC_FILE_TOKENIZER_CONFIG, // tokenizer_config.json
    TC_FILE_CHAT_TEMPLATE,    // chat_template.jinja
    TC_MODEL_FILES
} tc_model_file;

// The GGUF file (the first, of a split one) that `model` is; "" where it is a folder of the other kind.
// A folder with several is an error that lists them.
tc_status tc_model_gguf(const char *model, char ret[TC_MODEL_PATH_BYTES], tc_error *e);

// Text of one of the small files, with a NUL behind it; owner: the caller, free(). TC_NOT_FOUND: the model
// has none. `what` (TC_MODEL_PATH_BYTES, may be NULL) gets the name for errors about it.
tc_status tc_model_text(const char *model, tc_model_file file, size_t max_bytes, char **ret,
                        size_t *ret_bytes, char *what, tc_error *e);
