// SPDX-License-Identifier: Apache-2.0
// Owns: the hash table of names.h: open addressing, at most half full.
#include "common/model/names.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { NAMES_MAX = 1 << 24 };

static size_t length_of(const tc_names *n, uint32_t id)
{
    return (id + 1 < n->count ? n->at[id + 1] : n->text_bytes) - n->at[id] - 1;
}

static uint32_t *slot_of(const tc_names *n, const char *name, size_t bytes)
{
    uint32_t i = (uint32_t)XXH3_64bits(name, bytes) & n->slot_mask;
    while (n->slots[i]) {
        uint32_t id = n->slots[i] - 1;
        if (length_of(n, id) == bytes && memcmp(tc_names_text(n, id), name, bytes) == 0) break;
        i = (i + 1) & n->slot_mask;
    }
    return &n->slots[i];
}

static bool grow_slots(tc_names *n)
{
    uint32_t slots = n->slots ? (n->slot_mask + 1) * 2 : 256;
    uint32_t *fresh = calloc(slots, sizeof *fresh);
    if (!fresh) return false;
    free(n->slots);
    n->slots = fresh;
    n->slot_mask = slots - 1;
    for (uint32_t id = 0; id < n->count; id++) {
        *slot_of(n, tc_names_text(n, id), length_of(n, id)) = id + 1;
    }
    return true;
}

static bool grow_text(tc_names *n, size_t bytes)
{
    if (n->text_bytes + bytes + 1 > n->text_room) {
        uint64_t room = (n->text_bytes + bytes + 1) * 2;
        char *text = realloc(n->text, room);
        if (!text) return false;
        n->text = text;
        n->text_room = room;
    }
    if (n->count == n->room) {
        uint32_t room = n->room ? n->room * 2 : 128;
        uint64_t *at = realloc(n->at, room * sizeof *at);
        if (!at) return false;
        n->at = at;
        n->room = room;
    }
    return true;
}

tc_status tc_names_add(tc_names *n, const char *name, size_t bytes, uint32_t *ret_id, bool *ret_new,
                       tc_error *e)
{
    if (n->count >= NAMES_MAX) return tc_fail(e, TC_LIMIT, "more than %u names", NAMES_MAX);
    if ((!n->slots || n->count + 1 > n->slot_mask / 2) && !grow_slots(n))
        return tc_fail(e, TC_NOMEM, "no memory for %u names", n->count);
    uint32_t *slot = slot_of(n, name, bytes);
    if (*slot) {
        *ret_id = *slot - 1;
        *ret_new = false;
        return TC_OK;
    }
    if (!grow_text(n, bytes)) return tc_fail(e, TC_NOMEM, "no memory for %u names", n->count);
    n->at[n->count] = n->text_bytes;
    memcpy(n->text + n->text_bytes, name, bytes);
    n->text[n->text_bytes + bytes] = '\0';
    n->text_bytes += bytes + 1;
    *slot = ++n->count;
    *ret_id = n->count - 1;
    *ret_new = true;
    return TC_OK;
}

uint32_t tc_names_find(const tc_names *n, const char *name, size_t bytes)
{
    return n->slots ? *slot_of(n, name, bytes) - 1
                    : TC_NAME_NONE; // an empty slot is 0: 0 - 1 is TC_NAME_NONE
}

void tc_names_free(tc_names *n)
{
    free(n->text);
    free(n->at);
    free(n->slots);
    *n = (tc_names){0};
}
