// SPDX-License-Identifier: Apache-2.0
// Owns: what the AMX files share: configuring the eight tiles. Refuses: to be included by code that is not
// built for AMX.
#pragma once

#include "common/kernels/impl_avx512.h"

enum { TC_TILES = 8, TC_TILE_ROWS = 16, TC_TILE_ROW_BYTES = 64, TC_TILE_BYTES = 1024 };

typedef struct tc_tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tc_tile_config;

// Some compilers' tile instructions do not say which memory they read: what is to be read there must have
// been written.
INLINE void tc_tiles_read(const void *memory)
{
    __asm__ volatile("" : : "r"(memory) : "memory");
}

// rows[i]: of tile i; 0: it is not used.
INLINE void tc_tiles_configure(const int rows[TC_TILES])
{
    tc_tile_config c = {.palette = 1};
    for (int i = 0; i < TC_TILES; i++) {
        c.row_bytes[i] = rows[i] ? TC_TILE_ROW_BYTES : 0;
        c.rows[i] = (uint8_t)rows[i];
    }
    tc_tiles_read(&c);
    _tile_loadconfig(&c);
}
