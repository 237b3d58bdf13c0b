// SPDX-License-Identifier: Apache-2.0
// Owns: a growing set of names with dense ids: tensors and shard files. Looking up one of 500,000 tensors
// must not scan them.
#pragma once

#include "common/base/status.h"
#include <stdint.h>

#define TC_NAME_NONE UINT32_MAX

// Zeroed is empty. Names are kept without their NUL counted; none holds a NUL.
typedef struct tc_names {
    char *text;
    uint64_t text_bytes, text_room;
    uint64_t *at; // start of each name in text, by id
    uint32_t count, room;
    uint32_t *slots; // id + 1, or 0
    uint32_t slot_mask;
} tc_names;

// Id of a name, added if it is new.
tc_status tc_names_add(tc_names *names, const char *name, size_t bytes, uint32_t *ret_id, bool *ret_new,
                       tc_error *e);
uint32_t tc_names_find(const tc_names *names, const char *name, size_t bytes); // TC_NAME_NONE: not there
static inline const char *tc_names_text(const tc_names *names, uint32_t id)
{
    return names->text + names->at[id];
}
void tc_names_free(tc_names *names);
