// SPDX-License-Identifier: Apache-2.0
// Owns: Unicode normalisation form C of well-formed UTF-8, in linear time on any text.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

// A byte buffer that grows; zero-initialise it, free(data) it.
typedef struct tc_bytes {
    uint8_t *data;
    size_t count, capacity;
} tc_bytes;

tc_status tc_bytes_append(tc_bytes *to, const void *data, size_t bytes);

// *ret points to the normalised text: `text` itself when it already is (nearly always), else out->data, which
// this call overwrites.
tc_status tc_nfc(const uint8_t *text, size_t bytes, tc_bytes *out, const uint8_t **ret, size_t *ret_bytes);
