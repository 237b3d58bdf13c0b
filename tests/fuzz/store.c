// SPDX-License-Identifier: Apache-2.0
// Owns: fuzzing the header of a packed store. Bytes 0..7: the size the file claims to have; bit 0 of byte 8:
// put the right hash in, so that what lies behind the hash is reached too.
#include "common/model/store_format.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { HEADER_BYTES = 128 << 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    uint64_t file_bytes;
    tc_error e;
    if (bytes < 9 || bytes - 9 > HEADER_BYTES) return 0;
    memcpy(&file_bytes, data, sizeof file_bytes);
    size_t given = bytes - 9, room = given;
    // With the hash put right the rest of the header counts as zeros: short inputs can then be whole headers.
    if (data[8] & 1) room = HEADER_BYTES;
    tc_store_header *h = calloc(1, room ? room : 1);
    memcpy(h, data + 9, given);
    if ((data[8] & 1) && h->header_bytes >= sizeof *h && h->header_bytes <= room)
        tc_store_header_hash(h, &h->hash_low, &h->hash_high);
    if (tc_store_header_check("store", h, room, file_bytes, &e) == TC_OK) {
        const tc_store_layer *layers = (const tc_store_layer *)(h + 1);
        if (h->file_bytes != file_bytes || h->width % h->unit) abort();
        for (uint32_t l = 0; l < h->layers; l++) // every expert lies in the file
            if (layers[l].has_experts &&
                (layers[l].offset < h->header_bytes ||
                 layers[l].offset + layers[l].expert_stride * h->experts > file_bytes))
                abort();
    }
    free(h);
    return 0;
}
