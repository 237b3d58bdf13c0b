// SPDX-License-Identifier: Apache-2.0
// Owns: what an open store is inside: its header, and for each share where its units lie, in the file's map
// (one share, everything) or in arenas (arena.c). Only store.c and the arena see this.
#pragma once

#include "common/model/store_format.h"

// The units of one share: layer after layer, in a layer expert after expert, of an expert its run of units.
typedef struct tc_store_place {
    tc_share share;
    const uint8_t *base; // NULL: the share is empty
    uint64_t at[TC_LAYERS_MAX];
} tc_store_place;

struct tc_store {
    int fd; // of the file; -1: the units are in arenas
    char *path;
    const uint8_t *map;      // of the file, or NULL
    tc_store_header *header; // the layer table behind it
    const tc_store_layer *layers;
    struct {
        uint64_t stride, at[TC_STORE_PARTS + 1];
        tc_matrix matrix[TC_STORE_PARTS]; // without data
    } unit[TC_LAYERS_MAX];
    tc_store_info info;
    tc_shard shard;
    uint32_t of; // places
    tc_store_place *place;
    uint8_t owner[TC_EXPERTS_MAX]; // of an expert (partition) or of a unit (slice)
    void (*release)(void *held);   // what keeps the places mapped; NULL: nothing
    void *held;
};

_Static_assert(TC_WIDTH_MAX / TC_STORE_UNIT_WIDTH <= TC_EXPERTS_MAX, "an owner for every unit");
_Static_assert(TC_SHARES_MAX <= 256, "an owner is a byte");

// A store without places from a header that was checked; takes over the header (calloc) also when it fails.
tc_status tc_store_from_header(const char *path, tc_store_header *header, tc_store **ret, tc_error *e);
// Makes the places of `of` shares, their layers laid out from `data_at` on, each layer on TC_STORE_ALIGN;
// base stays NULL.
tc_status tc_store_make_places(tc_store *store, tc_shard shard, uint32_t of, uint64_t data_at, tc_error *e);
// Bytes from the start of a place to its end (data_at included).
uint64_t tc_store_place_bytes(const tc_store *store, const tc_store_place *place, uint64_t data_at);
// Bytes of one expert's run in a place.
static inline uint64_t tc_store_run_bytes(const tc_store *store, const tc_store_place *place, uint32_t layer)
{
    return (place->share.unit_end - place->share.unit_begin) * store->unit[layer].stride;
}
