// SPDX-License-Identifier: Apache-2.0
// Owns: scratch directories and small checkpoints for the tests of common/model.
#include "tests/unit/model/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ftw.h>

void scratch_make(scratch *s)
{
    const char *base = getenv("TMPDIR");
    snprintf(s->path, sizeof s->path, "%s/tc-model-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(s->path));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void scratch_remove(scratch *s)
{
    nftw(s->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static FILE *open_in(const scratch *s, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", s->path, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    return file;
}

void put_file(const scratch *s, const char *name, const void *data, size_t bytes)
{
    FILE *file = open_in(s, name);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

void put_text(const scratch *s, const char *name, const char *text)
{
    put_file(s, name, text, strlen(text));
}

void put_safetensors(const scratch *s, const char *name, const char *header, const void *data,
                     size_t data_bytes)
{
    FILE *file = open_in(s, name);
    uint64_t length = strlen(header);
    assert_int_equal(fwrite(&length, 1, 8, file), 8);
    assert_int_equal(fwrite(header, 1, length, file), length);
    if (data_bytes) assert_int_equal(fwrite(data, 1, data_bytes, file), data_bytes);
    assert_int_equal(fclose(file), 0);
}

void add_tensor(builder *b, const char *name, const char *dtype, uint64_t rows, uint64_t cols,
                const void *data, size_t bytes)
{
    char entry[512];
    int n =
        snprintf(entry, sizeof entry,
                 "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64 ",%" PRIu64 "],\"data_offsets\":[%zu,%zu]}",
                 b->header_bytes ? "," : "{", name, dtype, rows, cols, b->data_bytes, b->data_bytes + bytes);
    b->header = realloc(b->header, b->header_bytes + (size_t)n + 2);
    memcpy(b->header + b->header_bytes, entry, (size_t)n + 1);
    b->header_bytes += (size_t)n;
    b->data = realloc(b->data, b->data_bytes + bytes);
    memcpy(b->data + b->data_bytes, data, bytes);
    b->data_bytes += bytes;
}

void finish(builder *b, const scratch *s, const char *name)
{
    strcpy(b->header + b->header_bytes, "}");
    put_safetensors(s, name, b->header, b->data, b->data_bytes);
    free(b->header);
    free(b->data);
    *b = (builder){0};
}

void put_moe_config(const scratch *s, uint32_t layers, uint32_t experts, uint32_t width, uint32_t hidden)
{
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\":\"qwen3_moe\",\"num_hidden_layers\":%u,\"hidden_size\":%u,\"vocab_size\":128,"
             "\"num_attention_heads\":4,"
             "\"num_key_value_heads\":2,\"head_dim\":16,\"num_experts\":%u,\"num_experts_per_tok\":1,\"moe_"
             "intermediate_size\":%u,"
             "\"rope_theta\":10000.0}",
             layers, hidden, experts, width);
    put_text(s, "config.json", text);
}

uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

float random_float(uint64_t *state)
{
    float sum = 0.0f;
    for (int i = 0; i < 6; i++) sum += (float)(next_random(state) & 0xffff) / 65536.0f - 0.5f;
    return sum;
}

void expect_error_(const tc_error *e, const char *file, int line, ...)
{
    va_list ap;
    va_start(ap, line);
    for (const char *text; (text = va_arg(ap, const char *));)
        if (!strstr(e->text, text)) {
            print_error("error \"%s\" does not hold \"%s\"\n", e->text, text);
            _fail(file, line);
        }
    va_end(ap);
}
