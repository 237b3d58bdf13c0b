// SPDX-License-Identifier: Apache-2.0
// Owns: writing one .npy array (format 1.0, C order) piece by piece: to a temporary name, renamed when
// complete.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

typedef struct tc_npy tc_npy;

// dtype: "<f4" or "<i4".
tc_status tc_npy_create(const char *path, const char *dtype, const uint64_t *shape, unsigned dims,
                        tc_npy **ret, tc_error *e);
// `count` elements of 4 bytes, from element `first` of the flattened array.
tc_status tc_npy_write(tc_npy *npy, uint64_t first, const void *elements, uint64_t count, tc_error *e);
tc_status tc_npy_finish(tc_npy *npy, tc_error *e); // fsync and rename; TC_INTERNAL when elements are missing
void tc_npy_free(tc_npy *npy);                     // an unfinished file is removed; NULL is legal
