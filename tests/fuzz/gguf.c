// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing the header of a GGUF file, and what is made of its metadata: configuration, tokenizer, chat
// template. First byte: how many kilobytes of weights the file is said to have.
#include "common/model/gguf_blocks.h"
#include "common/model/gguf_model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef tc_status make_fn(const char *what, const tc_gguf *g, char **ret, size_t *ret_bytes, tc_error *e);

static void check_table(const tc_gguf *g, const tc_tensor_table *table, uint64_t file_bytes)
{
    uint64_t end = 0;
    for (uint32_t id = 0; id < table->names.count; id++) { // ids are in the file's order
        const tc_tensor_entry *t = &table->entries[id];
        const tc_block_info *info = tc_block_info_of(t->dtype);
        if (!info || !info->bytes || t->bytes % info->bytes) abort();
        if (t->begin < end || t->begin % g->alignment) abort();
        if (g->data_at > file_bytes || t->begin > file_bytes - g->data_at ||
            t->bytes > file_bytes - g->data_at - t->begin)
            abort();
        end = t->begin + t->bytes;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static make_fn *const makers[] = {tc_gguf_generation, tc_gguf_tokenizer, tc_gguf_tokenizer_config,
                                      tc_gguf_chat_template};
    tc_gguf g = {0};
    tc_tensor_table table = {0};
    tc_error e;
    char *text;
    size_t bytes;
    if (size < 1) return 0;
    uint64_t file_bytes = size - 1 + data[0] * 1024u;
    if (tc_gguf_parse("fuzz.gguf", data + 1, size - 1, file_bytes, 0, &g, &table, &e) == TC_OK) {
        check_table(&g, &table, file_bytes);
        if (tc_gguf_config("fuzz.gguf", &g, &table, &text, &bytes, &e) == TC_OK) free(text);
        for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) {
            if (makers[i]("fuzz.gguf", &g, &text, &bytes, &e) != TC_OK) continue;
            if (strlen(text) > bytes) abort();
            free(text);
        }
    }
    tc_gguf_free(&g);
    tc_tensor_table_free(&table);
    return 0;
}
