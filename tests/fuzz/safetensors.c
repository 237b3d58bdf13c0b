// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing what is read of a shard before its data: the safetensors header, and bitsandbytes'
// quantisation state. First byte: 0x00 quantisation state, else a header for that many times 8 bytes of data.
#include "common/model/safetensors.h"
#include "common/model/bnb.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_table(const tc_tensor_table *table, uint64_t data_bytes)
{
    uint64_t sum = 0;
    for (uint32_t id = 0; id < table->names.count; id++) {
        const tc_tensor_entry *t = &table->entries[id];
        const char *name = tc_names_text(&table->names, id);
        if (t->begin > data_bytes || t->bytes > data_bytes - t->begin) abort();
        if (t->dims > TC_SAFETENSORS_DIMS_MAX || t->shape_at + t->dims > table->shapes_count) abort();
        if (tc_names_find(&table->names, name, strlen(name)) != id) abort();
        if (!tc_safetensors_dtype_name(t->dtype)) abort();
        sum += t->bytes;
    }
    if (sum != data_bytes) abort(); // the data is covered exactly once
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    tc_error e;
    if (bytes < 1) return 0;
    if (data[0] == 0) {
        tc_bnb_state state;
        if (tc_bnb_state_parse("state", (const char *)data + 1, bytes - 1, &state, &e) == TC_OK)
            if (!state.block || !state.rows || !state.cols || (state.block & (state.block - 1))) abort();
        return 0;
    }
    tc_tensor_table table = {0};
    uint64_t data_bytes = (uint64_t)data[0] * 8;
    if (tc_safetensors_parse("shard", (const char *)data + 1, bytes - 1, data_bytes, 0, &table, &e) == TC_OK)
        check_table(&table, data_bytes);
    tc_tensor_table_free(&table);
    return 0;
}
