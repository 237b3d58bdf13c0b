// SPDX-License-Identifier: Apache-2.0
// Owns: the bytes of a packed store file: header, layer table, and the arithmetic that places units. Shared
// by the writer (store_pack.c) and the reader (store.c). Refuses: to be included elsewhere.
#pragma once

#include "common/model/model.h"
#include "common/model/store.h"

// File: header | layer table | padding to 4096 | layer regions, each from a multiple of 4096. Little-endian.
#define TC_STORE_MAGIC "TCSTORE"
enum { TC_STORE_PAGE_BYTES = 4096, TC_STORE_ROLES = 3 }; // roles: gate, up, down

typedef struct tc_store_header {
    char magic[8];
    uint32_t layout_version, header_bytes;
    char model_hash[40], family[32];
    uint32_t layers, experts, top_k, hidden, width, unit, units, reserved;
    uint64_t file_bytes;
    uint64_t hash; // XXH3-64 of header (this field 0) and table
} tc_store_header;

typedef struct tc_store_role {
    uint32_t type, group, round, reserved;
    float levels[16];
} tc_store_role;

typedef struct tc_store_layer {
    uint64_t offset;  // of its region; 0: a layer without experts
    uint64_t hash[2]; // XXH3-128 of the region
    tc_store_role role[TC_STORE_ROLES];
} tc_store_layer;

// Where things lie in a unit and an expert of a layer, from its roles.
typedef struct tc_store_geometry {
    uint64_t matrix_offset[TC_STORE_ROLES], matrix_bytes[TC_STORE_ROLES];
    uint64_t unit_bytes, expert_bytes, region_bytes;
} tc_store_geometry;

void tc_store_geometry_of(const tc_store_header *header, const tc_store_layer *layer, tc_store_geometry *ret);
uint64_t tc_store_header_hash(const tc_store_header *header, const tc_store_layer *table);
// Rows and columns of a role's matrix in one unit.
void tc_store_role_shape(const tc_store_header *header, uint32_t role, uint32_t *ret_rows,
                         uint32_t *ret_cols);
