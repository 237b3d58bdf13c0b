// SPDX-License-Identifier: Apache-2.0
// Owns: what the tests of common/model share: a scratch directory, and writing small checkpoints, whole or
// broken.
#pragma once

#include "common/model/checkpoint.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

// A fresh directory under $TMPDIR or /tmp; removed with all in it by scratch_remove.
typedef struct scratch {
    char path[256];
} scratch;

void scratch_make(scratch *s);
void scratch_remove(scratch *s);
void put_file(const scratch *s, const char *name, const void *data, size_t bytes);
void put_text(const scratch *s, const char *name, const char *text);
// A safetensors file of that header text (its length is put in front) and `data_bytes` of data.
void put_safetensors(const scratch *s, const char *name, const char *header, const void *data,
                     size_t data_bytes);

// Builds a safetensors file tensor by tensor.
typedef struct builder {
    char *header;
    size_t header_bytes;
    char *data;
    size_t data_bytes;
} builder;
void add_tensor(builder *b, const char *name, const char *dtype, uint64_t rows, uint64_t cols,
                const void *data, size_t bytes);
void finish(builder *b, const scratch *s, const char *name); // frees it

// The smallest qwen3_moe there is: 1 layer, hidden 64, `experts` of `width`. Random bf16 experts; nothing
// else.
void put_moe_config(const scratch *s, uint32_t layers, uint32_t experts, uint32_t width, uint32_t hidden);

uint32_t next_random(uint64_t *state);
float random_float(uint64_t *state); // about normal, in -3..3

// The error's text must hold each of the texts (NULL ends them).
void expect_error_(const tc_error *e, const char *file, int line, ...);
#define expect_error(e, ...) expect_error_(e, __FILE__, __LINE__, __VA_ARGS__, (char *)NULL)
