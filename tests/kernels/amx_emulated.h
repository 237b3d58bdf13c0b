// SPDX-License-Identifier: Apache-2.0
// Owns: the AMX instructions that the kernels use, in plain C and as strict as the CPU is: what would be
// refused there ends the program here. Included before an AMX source file, so that a CPU without AMX can test
// it. Order and rounding of sums as Intel's manual writes them. Refuses: everything but tests.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps

enum { EMULATED_TILES = 8, EMULATED_ROWS = 16, EMULATED_ROW_BYTES = 64 };

// Packed as the CPU reads it: 64 bytes.
typedef struct emulated_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} emulated_config;
_Static_assert(sizeof(emulated_config) == 64, "ldtilecfg reads 64 bytes");

static __thread struct {
    emulated_config config; // palette 0: no tile can be used
    uint8_t data[EMULATED_TILES][EMULATED_ROWS][EMULATED_ROW_BYTES];
} emulated;

static inline void emulated_require(int fine, const char *what)
{
    if (fine) return;
    fprintf(stderr, "AMX would refuse this: %s\n", what);
    abort();
}

static inline void emulated_loadconfig(const void *from)
{
    emulated_config c;
    memcpy(&c, from, sizeof c);
    emulated_require(c.palette == 1 && c.start_row == 0, "palette");
    for (int i = 0; i < 14; i++) emulated_require(c.zero[i] == 0, "reserved bytes");
    for (int i = 0; i < 16; i++) {
        emulated_require(!c.rows[i] == !c.row_bytes[i], "rows without bytes, or bytes without rows");
        emulated_require(c.rows[i] <= EMULATED_ROWS && c.row_bytes[i] <= EMULATED_ROW_BYTES, "a tile's size");
        emulated_require(i < EMULATED_TILES || !c.rows[i], "more than eight tiles");
    }
    memset(&emulated, 0, sizeof emulated);
    emulated.config = c;
}

static inline void emulated_usable(int tile)
{
    emulated_require(emulated.config.palette == 1, "a tile before any configuration");
    emulated_require(tile >= 0 && tile < EMULATED_TILES && emulated.config.rows[tile], "a tile of no rows");
}

static inline void emulated_loadd(int tile, const void *from, size_t stride)
{
    emulated_usable(tile);
    memset(emulated.data[tile], 0, sizeof emulated.data[tile]);
    for (int r = 0; r < emulated.config.rows[tile]; r++)
        memcpy(emulated.data[tile][r], (const char *)from + (size_t)r * stride,
               emulated.config.row_bytes[tile]);
}

static inline void emulated_stored(int tile, void *to, size_t stride)
{
    emulated_usable(tile);
    for (int r = 0; r < emulated.config.rows[tile]; r++)
        memcpy((char *)to + (size_t)r * stride, emulated.data[tile][r], emulated.config.row_bytes[tile]);
}

static inline void emulated_zero(int tile)
{
    emulated_usable(tile);
    memset(emulated.data[tile], 0, sizeof emulated.data[tile]);
}

// The shapes of sums, a [rows][k], and b [k][columns], four bytes an element.
static inline void emulated_shapes(int sums, int a, int b)
{
    const emulated_config *c = &emulated.config;
    emulated_usable(sums);
    emulated_usable(a);
    emulated_usable(b);
    emulated_require(sums != a && sums != b && a != b, "one tile twice");
    emulated_require(c->rows[sums] == c->rows[a] && c->row_bytes[sums] == c->row_bytes[b] &&
                         c->row_bytes[a] == 4 * c->rows[b],
                     "tiles that do not fit each other");
}

static inline void emulated_dpbssd(int sums, int a, int b)
{
    emulated_shapes(sums, a, b);
    for (int m = 0; m < emulated.config.rows[sums]; m++)
        for (int n = 0; n < emulated.config.row_bytes[sums] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &emulated.data[sums][m][4 * n], sizeof sum);
            for (int k = 0; k < emulated.config.row_bytes[a]; k++)
                sum += (int8_t)emulated.data[a][m][k] * (int8_t)emulated.data[b][k / 4][4 * n + k % 4];
            memcpy(&emulated.data[sums][m][4 * n], &sum, sizeof sum);
        }
}

// Denormals are zeros, read and written.
static inline float emulated_flush(float v)
{
    return fabsf(v) < 0x1p-126f ? copysignf(0, v) : v;
}

static inline float emulated_bf16(const uint8_t *at)
{
    uint16_t half;
    uint32_t bits;
    float v;
    memcpy(&half, at, sizeof half);
    bits = (uint32_t)half << 16;
    memcpy(&v, &bits, sizeof v);
    return emulated_flush(v);
}

static inline void emulated_dpbf16ps(int sums, int a, int b)
{
    emulated_shapes(sums, a, b);
    for (int m = 0; m < emulated.config.rows[sums]; m++)
        for (int n = 0; n < emulated.config.row_bytes[sums] / 4; n++) {
            float sum, part[2] = {0, 0};
            for (int k = 0; k < emulated.config.row_bytes[a] / 2; k++)
                part[k % 2] = emulated_flush(
                    fmaf(emulated_bf16(&emulated.data[a][m][2 * k]),
                         emulated_bf16(&emulated.data[b][k / 2][4 * n + 2 * (k % 2)]), part[k % 2]));
            memcpy(&sum, &emulated.data[sums][m][4 * n], sizeof sum);
            sum = emulated_flush(emulated_flush(sum) + emulated_flush(part[0] + part[1]));
            memcpy(&emulated.data[sums][m][4 * n], &sum, sizeof sum);
        }
}

static inline void emulated_release(void)
{
    memset(&emulated, 0, sizeof emulated);
}

#define _tile_loadconfig(from) emulated_loadconfig(from)
#define _tile_release() emulated_release()
#define _tile_zero(tile) emulated_zero(tile)
#define _tile_loadd(tile, from, stride) emulated_loadd(tile, from, (size_t)(stride))
#define _tile_stored(tile, to, stride) emulated_stored(tile, to, (size_t)(stride))
#define _tile_dpbssd(sums, a, b) emulated_dpbssd(sums, a, b)
#define _tile_dpbf16ps(sums, a, b) emulated_dpbf16ps(sums, a, b)
